/** The recurrence on WebGPU: what comes of heads that don't fit at once, of arrays that aren't given, of bad gates. Its values: fast-weights.test.ts. */
import assert from 'node:assert/strict'
import type { Device } from '../../engine/devices/device.ts'
import type { FastWeightCotangents, FastWeightInputs, FastWeightSizes, KernelForm } from '../../engine/devices/kernels.ts'
import { openAdapter } from '../../engine/devices/webgpu/adapter.ts'
import { fastWeightKernels } from '../../engine/devices/webgpu/fast-weights.ts'
import type { Block } from '../../engine/devices/webgpu/memory.ts'
import { createGpu, type Gpu } from '../../engine/devices/webgpu/runtime.ts'
import { adamStep, add, fastWeights, type HostArray, reshape, scope, sum, sumRule, type Tensor, tensor } from '../../engine/index.ts'
import { assertRms, assertSameBits, reference, uniforms, webgpu } from '../helpers.ts'

const sizes: FastWeightSizes = { B: 3, T: 70, H: 3, K: 12, V: 9, C: 16, scale: 0.5, gateWidth: 12, eps: 0.1 }
const { B, T, H, K, V, C } = sizes
const tokens = B * T * H
const chunks = Math.ceil(T / C)

interface Given {
  state: boolean
  normaliser: boolean
}
/** A normalised, gated sum rule, with or without initial states and cotangents of the final ones, by the kernels themselves. */
async function run(
  device: Pick<Gpu, 'allocate' | 'write' | 'read'>,
  kernels: ReturnType<typeof fastWeightKernels>,
  given: Given,
  form: KernelForm = 'chunk',
) {
  const make = (seed: number, n: number, low: number, high: number): Block => {
    const block = device.allocate(4 * n)
    device.write(block, uniforms(seed, n, low, high))
    return block
  }
  const out = (n: number): [Block, number] => [device.allocate(4 * n), n]
  const inputs: FastWeightInputs<Block> = {
    q: make(1, tokens * K, 0, 1),
    k: make(2, tokens * K, 0, 1),
    v: make(3, tokens * V, -1, 1),
    beta: null,
    gate: make(4, tokens * K, -1, 0),
    erase: null,
    tokens: null,
    s0: given.state ? make(5, B * H * K * V, -1, 1) : null,
    z0: given.normaliser ? make(6, B * H * K, 0, 1) : null,
  }
  const cotangents: FastWeightCotangents<Block> = {
    dy: make(7, tokens * V, -1, 1),
    dsT: given.state ? make(8, B * H * K * V, -1, 1) : null,
    dzT: given.normaliser ? make(9, B * H * K, -1, 1) : null,
  }
  const y = out(tokens * V)
  const den = out(tokens)
  const states = out(B * H * chunks * K * V)
  const zs = out(B * H * chunks * K)
  const [sT, zT] = [out(B * H * K * V), out(B * H * K)]
  const outputs = { y: y[0], sT: sT[0], zT: zT[0], den: den[0], states: states[0], zs: zs[0] }
  kernels.fastWeights(form, inputs, outputs, sizes)
  const gradients = {
    dq: out(tokens * K),
    dk: out(tokens * K),
    dv: out(tokens * V),
    dgate: out(tokens * K),
    ...(given.state && { ds0: out(B * H * K * V) }),
    ...(given.normaliser && { dz0: out(B * H * K) }),
  }
  kernels.fastWeightsBackward(
    form,
    inputs,
    outputs,
    cotangents,
    {
      dbeta: null,
      derase: null,
      ds0: null,
      dz0: null,
      ...Object.fromEntries(Object.entries(gradients).map(([name, [block]]) => [name, block])),
    } as never,
    sizes,
  )
  const results: Record<string, HostArray> = {}
  for (const [name, [block, n]] of Object.entries({ y, den, sT, zT, states, zs, ...gradients })) results[name] = await device.read(block, n)
  return results
}

const onReference = (given: Given) => {
  const device = {
    allocate: (bytes: number) => reference.allocate('float32', bytes / 4),
    write: reference.write,
    read: reference.read,
  }
  return run(device as never, reference.kernels as never, given)
}

describe('the recurrence on webgpu', () => {
  let gpu: Gpu
  before(async function () {
    await webgpu(this)
    gpu = createGpu(await openAdapter({}))
  })
  after(() => gpu?.close())

  for (const given of [
    { state: true, normaliser: true },
    { state: true, normaliser: false },
    { state: false, normaliser: true },
    { state: false, normaliser: false },
  ])
    it(`initial states and cotangents: S ${given.state}, z ${given.normaliser}; every output, snapshots too`, async () => {
      const expected = await onReference(given)
      const actual = await run(gpu, fastWeightKernels(gpu), given)
      assert.deepEqual(Object.keys(actual), Object.keys(expected))
      for (const [name, e] of Object.entries(expected)) assertRms(actual[name], e, 1e-5, name)
    })

  // What two heads need of it is more than the first, what one needs is less; the others hold some spans of one.
  for (const [bytes, parts] of [
    [100_000, 9],
    [60_000, 18],
    [30_000, 27],
  ])
    for (const given of [
      { state: true, normaliser: true },
      { state: false, normaliser: false },
    ])
      it(`heads and tokens that ${bytes} bytes do not hold at once are taken in turn, with the same bits: states ${given.state}`, async () => {
        const whole = await run(gpu, fastWeightKernels(gpu), given)
        let [most, calls] = [0, 0]
        const narrow: Gpu = {
          ...gpu,
          capabilities: { ...gpu.capabilities, bindingBytes: bytes },
          scratch(floats, body) {
            most = Math.max(most, 4 * floats)
            calls++
            return gpu.scratch(floats, body)
          },
        }
        const parted = await run(narrow, fastWeightKernels(narrow), given)
        assert.ok(most > bytes / 2 && most <= bytes, `${most} bytes`)
        assert.ok(calls > parts, `${calls} parts`)
        for (const [name, e] of Object.entries(whole)) assertSameBits(parted[name], e, name)
      })

  it('the recurrent form, too, keeps its snapshots part by part', async () => {
    const given = { state: true, normaliser: true }
    const { fastWeightsBackward, ...whole } = fastWeightKernels(gpu)
    let calls = 0
    const narrow: Gpu = {
      ...gpu,
      capabilities: { ...gpu.capabilities, bindingBytes: 2000 },
      scratch(floats, body) {
        calls++
        return gpu.scratch(floats, body)
      },
    }
    const { fastWeights } = fastWeightKernels(narrow)
    const expected = await run(gpu, { ...whole, fastWeightsBackward }, given, 'recurrent')
    const actual = await run(gpu, { fastWeights, fastWeightsBackward }, given, 'recurrent')
    assert.equal(calls, 18)
    for (const [name, e] of Object.entries(expected)) assertSameBits(actual[name], e, name)
  })

  it('says what to do where one chunk does not fit', () => {
    const narrow: Gpu = { ...gpu, capabilities: { ...gpu.capabilities, bindingBytes: 4000 } }
    return assert.rejects(run(narrow, fastWeightKernels(narrow), { state: false, normaliser: false }), {
      message:
        'webgpu: out of memory: fastWeights needs 12 kB at once for a chunk of 16 tokens and a state of 12 x 10, this adapter binds at most 3.9 kB (use more heads of fewer channels)',
    })
  })

  it('how many tokens follow changes no bit, whatever the size of the tiles', async function () {
    const device = await webgpu(this)
    const first = async (T: number): Promise<HostArray> => {
      const y = scope(() => {
        const x = (seed: number, width: number, low = -0.4, high = 0.4) =>
          tensor(uniforms(seed, T * width, low, high), { shape: [1, T, 1, width], device })
        const beta = tensor(uniforms(5, T, 0, 1), { shape: [1, T, 1], device })
        return fastWeights(x(1, 17), x(2, 17), x(3, 5), { beta, gate: x(4, 17, -1, 0) }, undefined, { form: 'chunk', chunk: 3 }).y
      })
      const values = await y.read()
      y.dispose()
      return values.slice(0, 3 * 5)
    }
    const expected = await first(3)
    for (const T of [4, 9, 17, 33]) assertSameBits(await first(T), expected, `${T} tokens`)
  })

  for (const programmed of [false, true])
    it(`recurrent, keys of more channels than a workgroup stages at once: ${programmed ? 'with' : 'without'} beta`, async function () {
      const [T, K, V] = [5, 300, 70]
      const y = async (device: Device): Promise<HostArray> => {
        const result = scope(() => {
          const x = (seed: number, width: number, low: number, high: number) =>
            tensor(uniforms(seed, T * width, low, high), { shape: [1, T, 1, width], device })
          const beta = tensor(uniforms(5, T, 0, 1), { shape: [1, T, 1], device })
          const [q, k, v, gate] = [x(1, K, -0.1, 0.1), x(2, K, -0.1, 0.1), x(3, V, -1, 1), x(4, K, -1, 0)]
          return fastWeights(q, k, v, { gate, ...(programmed && { beta }) }, undefined, { form: 'recurrent' }).y
        })
        const values = await result.read()
        result.dispose()
        return values
      }
      assertRms(await y(await webgpu(this)), await y(reference), 1e-5, 'y')
    })

  /** The gradients of `loss` with respect to values [1,T,1,width] or of the shape given, by name. */
  async function gradientsOf(
    device: Device,
    given: Record<string, readonly [values: Float32Array, shape: number[]]>,
    loss: (leaves: Record<string, Tensor>) => void,
  ): Promise<Record<string, HostArray>> {
    const leaves = Object.fromEntries(
      Object.entries(given).map(([name, [values, shape]]) => [name, tensor(values, { shape, device, requiresGrad: true })]),
    )
    scope(() => loss(leaves))
    const gradients: Record<string, HostArray> = {}
    for (const [name, x] of Object.entries(leaves)) {
      gradients[name] = await x.grad!.read()
      x.grad!.dispose()
      x.dispose()
    }
    return gradients
  }

  it('S and z may come from one tensor, and their final ones have one cotangent', async function () {
    const [T, K] = [5, 6]
    const given = {
      q: [uniforms(1, T * K, 0, 1), [1, T, 1, K]],
      k: [uniforms(2, T * K, 0, 1), [1, T, 1, K]],
      v: [uniforms(3, T), [1, T, 1, 1]],
      initial: [uniforms(4, K, 0, 1), [1, 1, K]],
    } as const
    const run = (device: Device) =>
      gradientsOf(device, given as never, ({ q, k, v, initial }) => {
        const { y, state } = sumRule(q, k, v, { S: reshape(initial, [1, 1, K, 1]), z: initial }, { normalise: true, form: 'chunk' })
        add(sum(y), sum(add(reshape(state.S, [1, 1, K]), state.z!))).backward()
      })
    const [actual, expected] = [await run(await webgpu(this)), await run(reference)]
    for (const name in expected) assertRms(actual[name], expected[name], 1e-5, name)
  })

  for (const rule of ['neither', 'beta', 'erase'] as const)
    it(`without a gate, what is NaN of one token reaches no gradient that it has no part in: ${rule}`, async function () {
      const device = await webgpu(this)
      const [T, K, V] = [6, 3, 2]
      const spoilt = (name: string, bad: string, at: number, width: number): [Float32Array, number[]] => {
        const values = uniforms(name.length + width, T * width)
        if (name === bad) values.fill(Number.NaN, at * width, (at + 1) * width)
        return [values, [1, T, 1, width]]
      }
      const run = (bad: string, at: number) => {
        const given = {
          q: spoilt('q', bad, at, K),
          k: spoilt('k', bad, at, K),
          v: spoilt('v', bad, at, V),
          ...(rule === 'beta' && { beta: [uniforms(5, T, 0, 1), [1, T, 1]] as [Float32Array, number[]] }),
          ...(rule === 'erase' && { erase: spoilt('erase', bad, at, K) }),
        }
        const [values, shape] = spoilt('dy', bad, at, V)
        return gradientsOf(device, given, ({ q, k, v, ...extra }) =>
          fastWeights(q, k, v, extra, undefined, { form: 'chunk' }).y.backward(tensor(values, { shape, device })),
        )
      }
      const finite = (gradients: Record<string, HostArray>, names: readonly string[], from: number, to: number): void => {
        for (const name of names) {
          const width = gradients[name].length / T
          assert.ok(gradients[name].slice(from * width, to * width).every(Number.isFinite), `${name}: ${gradients[name]}`)
        }
      }
      // Later tokens have no part in what an earlier one gives.
      const early = await run('dy', 1)
      finite(early, Object.keys(early), 2, T)
      assert.ok(Number.isNaN(early.v[0]))
      const late = await run('k', T - 1)
      finite(late, ['q'], 0, T - 1)
      assert.ok(Number.isNaN(late.q.at(-1)))
    })

  for (const form of ['recurrent', 'chunk'] as const)
    it(`a gate above 0 is an error of the next read, once: ${form}`, async function () {
      const device = await webgpu(this)
      const call = (gate: number[]) =>
        scope(() => {
          const x = (n: number, shape: number[]) => tensor(uniforms(n, 6), { shape, device })
          return fastWeights(
            x(1, [1, 3, 1, 2]),
            x(2, [1, 3, 1, 2]),
            x(3, [1, 3, 1, 2]),
            { gate: tensor(gate, { shape: [1, 3, 1], device }) },
            undefined,
            { form },
          ).y
        })
      for (const [gate, text] of [
        [[0, 0.25, -1], '0.25'],
        [[-1, Number.NaN, -Infinity], 'NaN'],
      ] as const) {
        const y = call([...gate])
        await assert.rejects(y.read(), {
          message: `fastWeights: the gate holds ${text}; gates are logarithms of decays, at most 0 (log alpha with 0 <= alpha <= 1)`,
        })
        y.dispose()
      }
      const y = call([0, -Infinity, -1])
      assert.equal((await y.read()).length, 6)
      y.dispose()
    })

  /** A call whose gate holds `value`. */
  const gatedBy = (device: Device, value: number): Tensor =>
    scope(() => {
      const x = (seed: number) => tensor(uniforms(seed, 6), { shape: [1, 3, 1, 2], device })
      const gate = tensor([0, value, -1], { shape: [1, 3, 1], device })
      return fastWeights(x(1), x(2), x(3), { gate }).y
    })

  it('a second bad gate, computed before the first one is heard of, is an error of its own', async function () {
    const device = await webgpu(this)
    const first = gatedBy(device, 0.25)
    const reading = first.read()
    const second = gatedBy(device, 0.5)
    // Submits what was recorded.
    second.write(new Float32Array(6))
    await assert.rejects(reading, /the gate holds 0\.25;/)
    await assert.rejects(second.read(), /the gate holds 0\.5;/)
    assert.deepEqual([...(await second.read())], [0, 0, 0, 0, 0, 0])
    for (const y of [first, second]) y.dispose()
  })

  it('after a bad gate Adam leaves the parameters and the moments as they are, until it is heard of', async function () {
    const device = await webgpu(this)
    const [p, g, m, v] = [1, 2, 3, 4].map((x) => tensor([x, x], { device }))
    const step = () =>
      adamStep(p, g, m, v, {
        lr: 0.1,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weightDecay: 0.1,
        decoupled: true,
        correction1: 0.1,
        correction2: 0.01,
      })
    const y = gatedBy(device, 0.25)
    step()
    await assert.rejects(y.read(), /the gate holds 0\.25;/)
    assert.deepEqual(
      (await Promise.all([p, m, v].map((x) => x.read()))).map((values) => [...values]),
      [
        [1, 1],
        [3, 3],
        [4, 4],
      ],
    )
    step()
    assert.ok((await p.read())[0] < 1)
    for (const x of [y, p, g, m, v]) x.dispose()
  })
})
