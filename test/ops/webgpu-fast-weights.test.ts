/** The recurrence on WebGPU: what comes of heads that don't fit at once, of arrays that aren't given, of bad gates. Its values: fast-weights.test.ts. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import type { Device } from '../../engine/devices/device.ts'
import type { FastWeightCotangents, FastWeightInputs, FastWeightSizes, KernelForm } from '../../engine/devices/kernels.ts'
import { fastWeightKernels } from '../../engine/devices/webgpu/fast-weights.ts'
import type { Block } from '../../engine/devices/webgpu/memory.ts'
import type { Gpu } from '../../engine/devices/webgpu/runtime.ts'
import {
  adamStep,
  add,
  deltaRule,
  fastWeights,
  type HostArray,
  muonStep,
  reshape,
  scope,
  sum,
  sumRule,
  type Tensor,
  tensor,
} from '../../engine/index.ts'
import { like } from '../../engine/tensor.ts'
import { assertRms, assertSameBits, noted, reference, uniforms, webgpu, webgpuRuntime } from '../helpers.ts'

const sizes: FastWeightSizes = { B: 3, T: 70, H: 3, K: 12, V: 9, C: 16, scale: 0.5, gateWidth: 12, eps: 0.1, transposed: false }
const { B, T, H, K, V, C } = sizes
const tokens = B * T * H
const chunks = Math.ceil(T / C)

interface Given {
  state: boolean
  normaliser: boolean
  /** Whether some tokens are padding, and some begin a sequence. */
  flagged: boolean
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
  const flags = device.allocate(4 * B * T, true)
  device.write(
    flags,
    uniforms(10, B * T, 0, 1).map((x, i) => Number(x > 0.2) + 2 * Number(i % 23 === 15)),
  )
  const out = (n: number): [Block, number] => [device.allocate(4 * n), n]
  const inputs: FastWeightInputs<Block> = {
    q: make(1, tokens * K, 0, 1),
    k: make(2, tokens * K, 0, 1),
    v: make(3, tokens * V, -1, 1),
    beta: null,
    gate: make(4, tokens * K, -1, 0),
    erase: null,
    along: null,
    tokens: given.flagged ? flags : null,
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
    allocate: (bytes: number, integer = false) => reference.allocate(integer ? 'int32' : 'float32', bytes / 4),
    write: reference.write,
    read: reference.read,
  }
  return run(device as never, reference.kernels as never, given)
}

describe('the recurrence on webgpu', () => {
  let gpu: Gpu
  before(async function () {
    gpu = await webgpuRuntime(this)
  })

  for (const given of [
    { state: true, normaliser: true, flagged: true },
    { state: true, normaliser: false, flagged: false },
    { state: false, normaliser: true, flagged: false },
    { state: false, normaliser: false, flagged: true },
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
      { state: true, normaliser: true, flagged: false },
      { state: false, normaliser: false, flagged: true },
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
    const given = { state: true, normaliser: true, flagged: true }
    const { fastWeightsBackward, ...whole } = fastWeightKernels(gpu)
    let calls = 0
    const narrow: Gpu = {
      ...gpu,
      capabilities: { ...gpu.capabilities, bindingBytes: 4000 },
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
    return assert.rejects(run(narrow, fastWeightKernels(narrow), { state: false, normaliser: false, flagged: false }), {
      message:
        'webgpu: out of memory: fastWeights needs 12 kB at once for a chunk of 16 tokens and a state of 12 x 10, this adapter binds at most 3.9 kB (use more heads of fewer channels)',
    })
  })

  const binding =
    (arrays: number) =>
    (gpu: Gpu): Gpu => ({ ...gpu, device: { limits: { maxStorageBuffersPerShaderStage: arrays } } as GPUDevice })
  /** By the entries of its forward and backward pass, how a rule is computed that forgets nothing, or whose heads forget all channels as one, or each of them by itself. */
  type Ways = Record<string, { narrow: (gpu: Gpu) => Gpu; entries: readonly string[] }>
  const plainWays: Ways = {
    'a workgroup a head': { narrow: (gpu) => gpu, entries: ['headsForward', 'headsBackward'] },
    'where only eight arrays are bound': { narrow: binding(8), entries: ['headsForward', 'finish'] },
    'on a GPU, of few heads': {
      narrow: (gpu) => ({ ...gpu, capabilities: { ...gpu.capabilities, software: false } }),
      entries: ['readOut', 'headsBackward'],
    },
  }
  const fadingWays: Ways = {
    'a workgroup each': { narrow: (gpu) => gpu, entries: ['decays', 'headsForward', 'headsBackward'] },
    'where only nine arrays are bound': { narrow: binding(9), entries: ['decays', 'headsForward', 'fadeBackward'] },
  }
  const channelWays: Ways = {
    'a workgroup a head': fadingWays['a workgroup each'],
    'where only nine arrays are bound': { narrow: binding(9), entries: ['beginFading', 'readOut', 'fadeBackward'] },
  }
  interface Plain {
    sizes: FastWeightSizes
    rule: string
    state: boolean
    seed: number
    /** A gate of `gateWidth` values; padding and beginnings. */
    gated?: boolean
    flagged?: boolean
    /** Where nothing is forgotten at once: every decay is above 1/8. */
    mild?: boolean
  }
  /** Outputs and gradients of a rule without a normaliser, with a state and its cotangent or without. */
  async function runPlain(
    device: Pick<Gpu, 'allocate' | 'write' | 'read'>,
    kernels: ReturnType<typeof fastWeightKernels>,
    { sizes, rule, state, seed, gated = false, flagged = false, mild = false }: Plain,
  ): Promise<Record<string, HostArray>> {
    const { B, T, H, K, V, C, gateWidth, logits } = sizes
    const key = Math.sqrt(3 / K)
    const keys = B * T * H * K
    const values = B * T * H * V
    const states = B * H * K * V
    const extra = rule === 'beta' ? B * T * H : rule === 'erase' ? keys : 0
    const outputs = { y: values, sT: states, states: states * Math.ceil(T / C) }
    const lengths = { ...outputs, dq: keys, dk: keys, dv: values, dextra: extra, dgate: gated ? B * T * H * gateWidth : 0, ds0: states }
    const out = Object.fromEntries(Object.entries(lengths).map(([name, n]) => [name, device.allocate(4 * Math.max(1, n))])) as Record<
      keyof typeof lengths,
      Block
    >
    const blocks: Block[] = []
    const make = (n: number, low: number, high: number, of = (x: number, _i: number): number => x): Block => {
      blocks.push(device.allocate(4 * n))
      device.write(blocks.at(-1)!, uniforms(seed + blocks.length, n, low, high).map(of))
      return blocks.at(-1)!
    }
    // Now and then a token, or a channel of one, forgets all, next to all, or nothing.
    const forgotten: Record<number, number> = mild ? { 11: 0 } : { 4: Number.NEGATIVE_INFINITY, 7: -60, 8: -60, 11: 0 }
    const inputs: FastWeightInputs<Block> = {
      ...{ q: make(keys, -1, 1), k: make(keys, -key, key), v: make(values, -1, 1) },
      beta: rule === 'beta' ? make(extra, logits ? -2 : 0, 1) : null,
      erase: rule === 'erase' ? make(extra, -key, key) : null,
      s0: state ? make(states, -1, 1) : null,
      gate: gated ? make(B * T * H * gateWidth, -2, 0, (x, i) => forgotten[i % 13] ?? x) : null,
      tokens: flagged ? device.allocate(4 * B * T, true) : null,
      ...{ along: null, z0: null },
    }
    if (inputs.tokens) {
      blocks.push(inputs.tokens)
      device.write(
        inputs.tokens,
        uniforms(seed, B * T, 0, 1).map((x) => Number(x > 0.2) + 2 * Number(x > 0.9)),
      )
    }
    kernels.fastWeights('chunk', inputs, { ...out, zT: null, den: null, zs: null }, sizes)
    const cotangents = { dy: make(values, -1, 1), dsT: state ? make(states, -1, 1) : null, dzT: null }
    const gradients = { ...out, dbeta: inputs.beta && out.dextra, derase: inputs.erase && out.dextra, ds0: state ? out.ds0 : null }
    const saved = { y: null, den: null, states: out.states, zs: null }
    kernels.fastWeightsBackward(
      'chunk',
      inputs,
      saved,
      cotangents,
      { ...gradients, dgate: gated ? out.dgate : null, dalong: null, dz0: null },
      sizes,
    )
    const results: Record<string, HostArray> = {}
    for (const [name, n] of Object.entries(lengths))
      if (n > 0 && (state || name !== 'ds0')) results[name] = await device.read(out[name as keyof typeof lengths], n)
    if (device === gpu) for (const block of [...Object.values(out), ...blocks]) gpu.free(block)
    return results
  }
  const plainOnReference = (given: Parameters<typeof runPlain>[2]) => {
    const allocate = (bytes: number, integer = false) => reference.allocate(integer ? 'int32' : 'float32', bytes / 4)
    return runPlain({ allocate, write: reference.write, read: reference.read } as never, reference.kernels as never, given)
  }

  async function checkShapes({ narrow, entries }: Ways[string], forget: 'nothing' | 'heads' | 'channels'): Promise<void> {
    const width = fc.constantFrom(1, 2, 5, 16, 31, 33, 64, 70, 130)
    const shape = fc.record({
      B: fc.constantFrom(1, 3),
      T: fc.oneof(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 10, max: 100 })),
      H: fc.constantFrom(1, 2),
    })
    const drawn = fc.record({
      shape,
      widths: fc.record({ K: forget === 'channels' ? width.filter((K) => K > 1) : width, V: width }),
      C: fc.constantFrom(1, 3, 16, 20, 32),
      rule: fc.constantFrom('sum', 'beta', 'erase'),
      ...{ logits: fc.boolean(), state: fc.boolean(), seed: fc.nat({ max: 1e6 }) },
      forgetting:
        forget === 'channels'
          ? fc.constantFrom({ mild: true }, { mild: true }, {}, { flagged: true })
          : fc.constantFrom({ gated: true }, { flagged: true }, { gated: true, flagged: true }),
    })
    await fc.assert(
      fc.asyncProperty(drawn, async ({ shape, widths, C, logits, forgetting, ...others }) => {
        const given = { ...others, ...(forget !== 'nothing' && forgetting), ...(forget === 'channels' && { gated: true }) }
        const gateWidth = forget === 'channels' ? widths.K : 1
        const sizes = { ...shape, ...widths, C: Math.min(C, shape.T), scale: 0.7, gateWidth, eps: 0, transposed: false, logits }
        const [watched, ran] = noted(narrow(gpu))
        const actual = await runPlain(gpu, fastWeightKernels(watched), { ...given, sizes })
        for (const entry of entries) assert.ok(ran.includes(entry), `${entry} of ${ran}`)
        for (const [name, e] of Object.entries(await plainOnReference({ ...given, sizes }))) assertRms(actual[name], e, 2e-5, name)
      }),
      { numRuns: 12 },
    )
  }

  for (const [way, how] of Object.entries(plainWays))
    it(`nothing is forgotten, ${way}: every output and gradient, of any shape`, () => checkShapes(how, 'nothing'))
  for (const [way, how] of Object.entries(fadingWays))
    it(`heads forget, ${way}: every output and gradient, of any shape`, () => checkShapes(how, 'heads'))
  for (const [way, how] of Object.entries(channelWays))
    it(`channels forget, ${way}: every output and gradient, of any shape`, () => checkShapes(how, 'channels'))

  for (const rule of ['sum', 'beta', 'erase'])
    for (const [state, gateWidth, mild] of [
      [true, 0],
      [false, 0],
      [true, 1],
      [true, 37],
      [true, 37, true],
    ] as const)
      it(`few heads of many tokens go back in segments: ${rule}, state ${state}, ${mild ? 'a mild' : gateWidth ? 'flags and a' : 'no'} gate, of ${gateWidth}`, async () => {
        const sizes = { B: 1, T: 290, H: 2, K: 37, V: 40, C: 32, scale: 0.7, gateWidth, eps: 0, transposed: false }
        const given = { sizes, rule, state, seed: 3, gated: gateWidth > 0, flagged: gateWidth > 0 && !mild, mild }
        const [watched, ran] = noted({ ...gpu, capabilities: { ...gpu.capabilities, software: false } })
        const actual = await runPlain(gpu, fastWeightKernels(watched), given)
        assert.ok(ran.includes('headsCarry'), ran.join())
        for (const [name, e] of Object.entries(await plainOnReference(given))) assertRms(actual[name], e, 1e-5, name)
      })

  // Forward alone, since the backward's pieces have to begin with snapshots.
  for (const [T, C, forget] of [
    [80, 33, 'nothing'],
    [150, 70, 'nothing'],
    [80, 33, 'heads'],
    [80, 33, 'channels'],
  ] as const)
    it(`what forgets: ${forget}; ${T} tokens in chunks of ${C}, each of several pieces: every output and gradient`, async () => {
      const gated = forget !== 'nothing'
      const gateWidth = forget === 'channels' ? 5 : 1
      const sizes = { B: 1, T, H: 3, K: 5, V: 34, C, scale: 0.7, gateWidth, eps: 0, transposed: false }
      const given = { sizes, rule: 'beta', state: true, seed: 2, gated }
      const [watched, ran] = noted(gpu)
      const actual = await runPlain(gpu, fastWeightKernels(watched), given)
      assert.ok(ran.includes('headsForward') && ran.includes(gated ? 'fadeBackward' : 'finish'), ran.join())
      for (const [name, e] of Object.entries(await plainOnReference(given))) assertRms(actual[name], e, 1e-5, name)
    })

  it('heads that forget, of more tokens than have room for their decays: every output and gradient', async () => {
    const sizes = { B: 4, T: 290, H: 2, K: 2, V: 3, C: 32, scale: 1, gateWidth: 1, eps: 0, transposed: false }
    const given = { sizes, rule: 'beta', state: true, seed: 4, gated: true }
    // Ten factors of each token are 92,800 bytes; the rest of a head fits.
    const [watched, ran] = noted({ ...gpu, capabilities: { ...gpu.capabilities, bindingBytes: 90_000 } })
    const actual = await runPlain(gpu, fastWeightKernels(watched), given)
    assert.ok(ran.includes('readOut') && !ran.includes('decays'), ran.join())
    for (const [name, e] of Object.entries(await plainOnReference(given))) assertRms(actual[name], e, 1e-5, name)
  })

  it('a GPU, too, has a workgroup a head where there are heads enough', async () => {
    const sizes = { B: 16, T: 35, H: 4, K: 5, V: 3, C: 32, scale: 1, gateWidth: 1, eps: 0, transposed: false }
    const given = { sizes, rule: 'beta', state: true, seed: 1 }
    const [watched, ran] = noted({ ...gpu, capabilities: { ...gpu.capabilities, software: false } })
    const actual = await runPlain(gpu, fastWeightKernels(watched), given)
    assert.deepEqual(ran, ['headsForward', 'load', 'headsBackward', 'store', 'copy'])
    for (const [name, e] of Object.entries(await plainOnReference(given))) assertRms(actual[name], e, 1e-5, name)
  })

  for (const [which, channels] of [
    ['without a gate', 0],
    ['with a gate a head', 1],
    ['with a gate a channel', 17],
  ] as const)
    it(`how many tokens follow changes no bit, whatever the size of the tiles: ${which}`, async function () {
      const device = await webgpu(this)
      const first = async (T: number, recorded = false, count = 3): Promise<HostArray> => {
        const y = scope(() => {
          const x = (seed: number, width: number, low = -0.4, high = 0.4) =>
            tensor(uniforms(seed, T * width, low, high), { shape: [1, T, 1, width], device, requiresGrad: recorded })
          const beta = tensor(uniforms(5, T, 0, 1), { shape: [1, T, 1], device })
          // From the third token on some decays are below 1/8.
          const drawn = uniforms(4, T * channels, -1, 0).map((x, i) => (i < 3 * channels ? x : 4 * x))
          const gate = channels ? tensor(drawn, { shape: [1, T, 1, ...(channels > 1 ? [channels] : [])], device }) : undefined
          return fastWeights(x(1, 17), x(2, 17), x(3, 5), { beta, gate }, undefined, { form: 'chunk', chunk: 3 }).y
        })
        const values = await y.read()
        y.dispose()
        return values.slice(0, count * 5)
      }
      const expected = await first(3)
      for (const T of [4, 9, 17, 33]) assertSameBits(await first(T), expected, `${T} tokens`)
      // With snapshots, too.
      for (const T of [3, 33]) assertSameBits(await first(T, true), expected, `${T} tokens, of which gradients are wanted`)
      // And where tokens read what an earlier piece has written.
      const [alone, longer, recorded] = [await first(40, false, 40), await first(70, false, 40), await first(40, true, 40)]
      assertSameBits(longer, alone, '70 tokens in place of 40')
      assertSameBits(recorded, alone, '40 tokens, of which gradients are wanted')
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
        [[-1, Number.NaN, Infinity], 'Infinity'],
      ] as const) {
        const y = call([...gate])
        await assert.rejects(y.read(), {
          message: `fastWeights: the gate holds ${text}; gates are logarithms of decays, at most 0 (log alpha with 0 <= alpha <= 1)`,
        })
        y.dispose()
      }
      for (const gate of [
        [0, -Infinity, -1],
        [0, Number.NaN, -1],
      ]) {
        const y = call(gate)
        assert.equal((await y.read()).length, 6)
        y.dispose()
      }
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

  for (const optimizer of ['Adam', 'Muon'] as const)
    it(`after a bad gate ${optimizer} leaves the parameters and the moments as they are, until it is heard of`, async function () {
      const device = await webgpu(this)
      const [p, g, m, v] = [1, 2, 3, 4].map((x) => tensor([x, x, x, -x], { shape: [2, 2], device }))
      const adam = { beta1: 0.9, beta2: 0.99, eps: 1e-8, decoupled: true, correction1: 0.1, correction2: 0.01 }
      const common = { lr: 0.1, weightDecay: 0.1 }
      const step = (): void =>
        optimizer === 'Adam' ? adamStep(p, g, m, v, { ...adam, ...common }) : muonStep(p, g, m, { momentum: 0.9, ...common })
      const assertUntouched = async (): Promise<void> =>
        assert.deepEqual(
          (await Promise.all([p, m, v].map((x) => x.read()))).map((values) => [...values]),
          [1, 3, 4].map((x) => [x, x, x, -x]),
        )
      const y = gatedBy(device, 0.5)
      step()
      await assert.rejects(y.read(), { value: 0.5 })
      await assertUntouched()
      // A read that has been asked for hears of it later than the steps that follow. With too many out, the next one hears of it once more.
      for (const before of [0, 2, 5]) {
        const good = tensor([7], { device })
        const others = Array.from({ length: before }, () => good.read())
        const bad = gatedBy(device, 0.25)
        const reading = bad.read()
        step()
        await assert.rejects(reading, /the gate holds 0\.25;/)
        assert.deepEqual(
          (await Promise.all(others)).flatMap((values) => [...values]),
          new Array(before).fill(7),
        )
        if (before === 5) await assert.rejects(good.read(), /the gate holds 0\.25;/)
        await assertUntouched()
        for (const x of [bad, good]) x.dispose()
      }
      step()
      assert.ok((await p.read())[0] < 1)
      for (const x of [y, p, g, m, v]) x.dispose()
    })
})

describe('forgetting on webgpu', () => {
  const [T, H, K, V, C] = [40, 2, 5, 3, 8]
  const rules: Record<string, { beta?: true; gate?: 1 | typeof K; erase?: true; normalise?: true }> = {
    sum: {},
    normalised: { normalise: true },
    'sum, a gate a head': { gate: 1 },
    'normalised, a gate a channel': { gate: K, normalise: true },
    delta: { beta: true },
    'delta, a gate a head': { beta: true, gate: 1 },
    'delta, a gate a channel': { beta: true, gate: K },
    erase: { erase: true },
    'erase, a gate a head': { erase: true, gate: 1 },
    'erase, a gate a channel': { erase: true, gate: K },
  }
  type Data = Record<string, Float32Array>
  const forms: readonly KernelForm[] = ['recurrent', 'chunk']

  /** Inputs and cotangents (d*) by name; q, k and z are positive. */
  function dataOf(rule: string): Data {
    const { beta, gate, erase, normalise } = rules[rule]
    return {
      q: uniforms(1, T * H * K, 0.1, 0.5),
      k: uniforms(2, T * H * K, 0.1, 0.5),
      v: uniforms(3, T * H * V),
      ...(beta && { beta: uniforms(4, T * H, 0, 1) }),
      ...(gate && { gate: uniforms(5, T * H * gate, -1, 0) }),
      ...(erase && { erase: uniforms(6, T * H * K, 0.1, 0.4) }),
      S: uniforms(7, H * K * V),
      ...(normalise && { z: uniforms(8, H * K, 0, 1) }),
      dy: uniforms(9, T * H * V),
      dS: uniforms(10, H * K * V),
      ...(normalise && { dz: uniforms(11, H * K) }),
    }
  }

  interface Flags {
    mask?: ArrayLike<number>
    reset?: ArrayLike<number>
  }
  /** y, the final state and all gradients, by name. */
  async function evaluate(rule: string, data: Data, { mask, reset }: Flags, form: KernelForm, device: Device): Promise<Data> {
    const { gate, normalise = false } = rules[rule]
    const shapes: Record<string, number[]> = {
      ...Object.fromEntries(['q', 'k', 'erase'].map((name) => [name, [1, T, H, K]])),
      ...Object.fromEntries(['v', 'dy'].map((name) => [name, [1, T, H, V]])),
      ...Object.fromEntries(['S', 'dS'].map((name) => [name, [1, H, K, V]])),
      ...Object.fromEntries(['z', 'dz'].map((name) => [name, [1, H, K]])),
      beta: [1, T, H],
      gate: gate === K ? [1, T, H, K] : [1, T, H],
    }
    const results = scope(() => {
      const all = Object.entries(data).map(([name, values]): [string, Tensor] => [
        name,
        tensor(values, { shape: shapes[name], device, requiresGrad: true }),
      ])
      const t = Object.fromEntries(all)
      const gates = Object.fromEntries(all.filter(([name]) => ['beta', 'gate', 'erase'].includes(name)))
      const flag = (x?: ArrayLike<number>) => x && tensor(Int32Array.from(x), { shape: [1, T], device })
      const options = { form, chunk: C, normalise, mask: flag(mask), reset: flag(reset) }
      const { y, state } = fastWeights(t.q, t.k, t.v, gates, { S: t.S, ...(normalise && { z: t.z }) }, options)
      const { node } = y
      const grads = node!.backward(
        [t.dy, t.dS, ...(normalise ? [t.dz] : [])],
        () => null,
        (i) => like(node!.inputs[i]),
      )
      const inputs = all.map(([name]) => name).filter((name) => !/^d[ySz]$/.test(name))
      return { y, ...state, ...Object.fromEntries(inputs.map((name, i) => [`d${name}0`, grads[i]!])) }
    })
    const values: Data = {}
    for (const [name, x] of Object.entries(results) as [string, Tensor][]) {
      values[name] = (await x.read()) as Float32Array
      x.dispose()
    }
    return values
  }

  const perToken = new Set(['q', 'k', 'v', 'beta', 'gate', 'erase', 'dy', 'y', 'dq0', 'dk0', 'dv0', 'dbeta0', 'dgate0', 'derase0'])
  /** The values at the tokens [from, to). */
  const at = (x: Float32Array, from: number, to: number): Float32Array => x.subarray((from * x.length) / T, (to * x.length) / T)
  const close = (actual: Data, expected: Data, from: number, to: number): void => {
    for (const name of Object.keys(expected))
      if (perToken.has(name)) {
        const e = at(expected[name], from, to)
        assert.ok(e.every(Number.isFinite), name)
        assertRms(at(actual[name], from, to), e, 1e-5, `${name}, tokens ${from} to ${to}`, 0.02)
      }
  }
  const bad = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY]
  const spoil = (x: Float32Array): void => {
    for (const i of x.keys()) x[i] = bad[i % 3]
  }

  // Sequences from 0, 13, 24 and 35 on: inside a piece of chunks, at the border of a chunk, and on padding.
  for (const rule of Object.keys(rules))
    for (const form of forms)
      it(`${rule}, ${form}: of packed sequences, bad ones reach no other, nor does padding`, async function () {
        const device = await webgpu(this)
        const [begins, padding] = [
          [13, 24, 35],
          [18, 19, 20, 35, 36],
        ]
        const tokens = [...Array(T).keys()]
        const [mask, reset] = [tokens.map((t) => Number(!padding.includes(t))), tokens.map((t) => Number(begins.includes(t)))]
        const clean = dataOf(rule)
        const expected = await evaluate(rule, clean, { mask, reset }, form, reference)
        // The inputs of all padding and of a sequence from its first token, or a later one, on; with the first one, what was there before it.
        const sequences: readonly (readonly [number, number])[] = [
          [0, 13],
          [13, 24],
          [24, 35],
          [35, T],
        ]
        for (const [bad, from] of [
          [0, 0],
          [2, 24],
          [3, 38],
        ]) {
          const spoilt = Object.fromEntries(Object.entries(clean).map(([name, x]) => [name, x.slice()]))
          for (const [name, x] of Object.entries(spoilt))
            if (perToken.has(name)) {
              for (const t of padding) spoil(at(x, t, t + 1))
              // A gate above 0 is an error, but not that of a token that begins a sequence.
              if (name === 'gate') for (const t of begins) spoil(at(x, t, t + 1))
              else for (let t = from; t < sequences[bad][1]; t++) spoil(at(x, t, t + 1))
            }
          if (bad === 0) for (const name of ['S', 'z']) if (name in spoilt) spoil(spoilt[name])
          const actual = await evaluate(rule, spoilt, { mask, reset }, form, device)
          assert.ok(Number.isNaN(at(actual.y, from + 1, from + 2)[0]), 'the bad sequence is seen')
          for (const [i, [first, end]] of sequences.entries()) if (i !== bad) close(actual, expected, first, end)
          for (const name of [...(bad < 3 ? ['S', 'z'] : []), ...(bad > 0 ? ['dS0', 'dz0'] : [])])
            if (name in expected) assertRms(actual[name], expected[name], 1e-5, name, 0.02)
          const zeros = (name: string, t: number): void =>
            assert.ok(
              at(actual[name], t, t + 1).every((x) => x === 0),
              `${name} at token ${t}`,
            )
          for (const name of Object.keys(expected)) if (perToken.has(name)) for (const t of padding) zeros(name, t)
          // Of the first token of each.
          if (actual.dgate0) for (const t of [13, 24, 37]) zeros('dgate0', t)
        }
      })

  for (const rule of Object.keys(rules).filter((name) => rules[name].gate))
    for (const form of forms)
      it(`a gate of -Infinity, or one whose exp is 0, forgets exactly, forward and backward: ${rule}, ${form}`, async function () {
        const device = await webgpu(this)
        const { gate, erase } = rules[rule]
        const clean = dataOf(rule)
        // All channels at 0 and 21; without erase, which reads before, so that what is bad has to be forgotten where it's first met.
        const forgotten = (t: number): Float32Array => at(clean.gate, t, t + 1)
        forgotten(0).fill(-100)
        forgotten(21).fill(Number.NEGATIVE_INFINITY)
        if (erase) for (const t of [0, 21]) at(clean.erase, t, t + 1).fill(0)
        const spoilt = Object.fromEntries(Object.entries(clean).map(([name, x]) => [name, x.slice()]))
        for (const name of ['S', 'z']) if (name in spoilt) spoil(spoilt[name])
        for (const name of ['q', 'k', 'v', 'dy']) spoil(at(spoilt[name], 21, T))
        for (const name of ['dS', 'dz']) if (name in spoilt) spoil(spoilt[name])
        // On the reference exp(-100) isn't 0.
        const exact = { ...clean, gate: clean.gate.map((x) => (x === -100 ? Number.NEGATIVE_INFINITY : x)) }
        const expected = await evaluate(rule, exact, {}, form, reference)
        const actual = await evaluate(rule, spoilt, {}, form, device)
        if (erase) for (const { derase0 } of [expected, actual]) at(derase0, 0, 1).fill(0) // what it would read is there
        close(actual, expected, 0, 21)
        for (const name of ['dS0', 'dz0'])
          if (name in actual)
            assert.ok(
              actual[name].every((x) => x === 0),
              name,
            )
        assert.ok(Number.isNaN(at(actual.y, 21, 22)[0]))
        if (gate !== K) return
        // Some channels: what those held is all that is forgotten.
        const some = { ...clean, gate: dataOf(rule).gate, S: clean.S.slice(), ...(clean.z && { z: clean.z.slice() }) }
        for (let h = 0; h < H; h++) {
          some.gate[h * K + 1] = some.gate[(21 * H + h) * K + 2] = Number.NEGATIVE_INFINITY
          for (let j = 0; j < V; j++) some.S[(h * K + 1) * V + j] = 0
          if (some.z) some.z[h * K + 1] = 0
        }
        const all = await evaluate(rule, some, {}, form, reference)
        for (let h = 0; h < H; h++) {
          for (let j = 0; j < V; j++) some.S[(h * K + 1) * V + j] = bad[j]
          if (some.z) some.z[h * K + 1] = Number.POSITIVE_INFINITY
        }
        const less = await evaluate(rule, some, {}, form, device)
        if (erase) for (const { derase0 } of [all, less]) at(derase0, 0, 1).fill(0)
        close(less, all, 0, T)
        for (const name of Object.keys(all).filter((name) => !perToken.has(name))) assertRms(less[name], all[name], 1e-5, name, 0.02)
      })

  for (const form of ['recurrent', 'chunk', 'parallel'] as const)
    it(`what overflows of finite inputs is forgotten where a sequence begins: ${form}`, async function () {
      const device = await webgpu(this)
      // Inside a piece of 32 tokens, at its border, and at that of a chunk of 32.
      for (const begin of [60, 64, 32, 31]) {
        const T = begin + 3
        const tokens = [...Array(T).keys()]
        const y = scope(() => {
          const x = (values: readonly number[]) => tensor([...values], { shape: [1, T, 1, 1], device })
          const reset = tensor(
            Int32Array.from(tokens, (t) => Number(t === 0 || t === begin)),
            { shape: [1, T], device },
          )
          const k = tokens.map((t) => (t < begin ? 40 : 1))
          const ones = tensor(new Float32Array(T).fill(1), { shape: [1, T, 1], device })
          return deltaRule(x(tokens.map(() => 1)), x(k), x(tokens.map((t) => t % 3)), ones, undefined, { form, reset }).y
        })
        const values = await y.read()
        y.dispose()
        assert.ok(!Number.isFinite(values[begin - 1]))
        assert.deepEqual(
          [...values.slice(begin)],
          [0, 1, 2].map((t) => (begin + t) % 3),
        )
      }
    })

  it('where nothing is forgotten, an infinite cotangent stays in its channel of what the last token, in a piece cut short, has written', async function () {
    const data = dataOf('erase')
    data.dS[0] = Number.POSITIVE_INFINITY
    const [actual, expected] = [
      await evaluate('erase', data, {}, 'chunk', await webgpu(this)),
      await evaluate('erase', data, {}, 'chunk', reference),
    ].map(({ dk0 }) => at(dk0, T - 1, T))
    assert.ok(!Number.isFinite(actual[0]))
    assert.ok(expected.subarray(1).every(Number.isFinite))
    assertRms(actual.subarray(1), expected.subarray(1), 1e-5, 'dk', 0.02)
  })

  for (const form of forms)
    for (const rule of ['delta, a gate a head', 'delta, a gate a channel'])
      it(`padding leaves the state as it is, to the bit, and its gate isn't looked at: ${rule}, ${form}`, async function () {
        const device = await webgpu(this)
        const data = dataOf(rule)
        for (const name of Object.keys(data)) if (perToken.has(name)) spoil(data[name])
        data.S.set([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, -0, 1e-37, 3.4e38, 1e-41])
        const { y, S, dS0 } = await evaluate(rule, data, { mask: new Array(T).fill(0) }, form, device)
        for (const [x, e] of [
          [S, data.S],
          [dS0, data.dS],
          [y, new Float32Array(y.length)],
        ])
          assertSameBits(Float32Array.from(x), Float32Array.from(e))
      })
})
