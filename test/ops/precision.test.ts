/** Precision f16: operands of products are rounded to float16 as they are read, and nothing else is, on the reference, on wasm and on a GPU. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import { createPool } from '../../engine/devices/wasm/pool.ts'
import { narrowBits, narrowed, toFloat16, widened } from '../../engine/half.ts'
import {
  type Device,
  fastWeights,
  type HostArray,
  halfTensor,
  linears,
  matmul,
  referenceDevice,
  scope,
  selfCheck,
  setDevice,
  softmax,
  sum,
  type Tensor,
  tensor,
} from '../../engine/index.ts'
import { elementwise } from '../../kernels-wgsl/generated/wgsl.ts'
import {
  assertClose,
  assertRms,
  assertSameBits,
  builds,
  canBeWide,
  halfDevices,
  halfReference,
  readAndFree,
  reference,
  runsOn,
  uniforms,
  wasm,
  webgpu,
} from '../helpers.ts'
import { cases, evaluate, medium, tiny } from './cases.ts'
import { checkLikeReference, epsilon } from './compare.ts'

/** Usages of buffers, by the standard. */
const [MAP_READ, COPY_SRC, COPY_DST, STORAGE] = [1, 4, 8, 128]

const bits = new Uint32Array(1)
const float = new Float32Array(bits.buffer)
/** By bits, as files are written. */
function byBits(x: number): number {
  float[0] = x
  return widened(Uint16Array.of(narrowBits.float16(bits[0])), 'float16')[0]
}

/** Every float16, what lies between two, just below and just above that, and beyond the largest; both signs. */
const halves = widened(
  Uint16Array.from({ length: 0x7c00 }, (_, i) => i),
  'float16',
)
const edges = [...halves].flatMap((x, i) => {
  const middle = (x + (halves[i + 1] ?? 65536)) / 2
  return [x, middle, middle * (1 - 2 ** -22), middle * (1 + 2 ** -22)]
})
const beyond = [65520, 1e5, 3e38, Infinity, 2 ** -26, 1e-30]
const all = Float32Array.from([...edges, ...beyond].flatMap((x) => [x, -x]))

const rounded = (x: Float32Array): Float32Array<ArrayBuffer> => Float32Array.from(x, toFloat16)

interface Product {
  M: number
  N: number
  K: number
  transposeA: boolean
  transposeB: boolean
}
const products = fc.record({
  M: fc.integer({ min: 1, max: 70 }),
  N: fc.integer({ min: 1, max: 70 }),
  K: fc.integer({ min: 1, max: 90 }),
  transposeA: fc.boolean(),
  transposeB: fc.boolean(),
})

/** A product and its gradients, of operands and a cotangent that are given as they are or rounded before. */
function multiplied(
  device: Device,
  { M, N, K, transposeA, transposeB }: Product,
  seed: number,
  before = (x: Float32Array) => x,
): Promise<HostArray[]> {
  const made = (i: number, shape: number[], requiresGrad = true): Tensor =>
    tensor(before(uniforms(seed + i, shape[0] * shape[1])), { shape, device, requiresGrad })
  const results = scope(() => {
    const [a, b] = [made(0, transposeA ? [K, M] : [M, K]), made(1, transposeB ? [N, K] : [K, N])]
    const y = matmul(a, b, { transposeA, transposeB })
    y.backward(made(2, [M, N], false))
    return [y, a.grad!, b.grad!]
  })
  return Promise.all(results.map((t) => t.read().finally(() => t.dispose())))
}

describe('precision f16', () => {
  afterEach(() => setDevice(reference))

  it('rounds as files of float16 are written: to nearest, of two to the even one', () => {
    assert.ok(all.some((x) => Object.is(x, -0)))
    for (const x of [...all, Number.NaN]) assert.ok(Object.is(toFloat16(x), byBits(x)), `${x}: ${toFloat16(x)}, not ${byBits(x)}`)
    // What float32 doesn't have.
    for (const x of [1e-300, Number.MIN_VALUE]) assert.ok(Object.is(toFloat16(x), 0) && Object.is(toFloat16(-x), -0))
    // Float64 isn't rounded twice.
    assert.equal(toFloat16(1 + 2 ** -11 + 2 ** -40), 1 + 2 ** -10)
  })

  it('the functions with which wasm and WGSL round give the same bits, of every half, of what lies between, of NaN, and the sign of zero', async function () {
    const given = Float32Array.from([...all, Number.NaN])
    const expected = Float32Array.from(given, toFloat16)
    const size = given.byteLength
    for (const { relaxed } of builds) {
      const pool = await createPool({ threads: 1, relaxed })
      const [from, to] = [size, size].map((bytes) => pool.memory.allocate(bytes))
      new Float32Array(pool.memory.wasm.buffer, from.pointer, given.length).set(given)
      pool.run('roundToFloat16', Math.ceil(size / 16), 8192, [from.pointer, to.pointer, 0])
      assertSameBits(new Float32Array(pool.memory.wasm.buffer, to.pointer, given.length), expected, `wasm, relaxed ${relaxed}`)
      pool.close()
    }
    const { gpu } = await webgpu(this)
    const code = `alias Half = f32;\nconst HALF = true;\n${elementwise.files[0].source}
      @group(0) @binding(0) var<storage, read_write> x: array<f32>;
      @compute @workgroup_size(64) fn rounding(@builtin(global_invocation_id) id: vec3<u32>) {
        if (id.x < arrayLength(&x)) { x[id.x] = roundedToHalf(x[id.x]); }
      }`
    const [there, back] = [STORAGE | COPY_DST | COPY_SRC, COPY_DST | MAP_READ].map((usage) => gpu.createBuffer({ size, usage }))
    const pipeline = gpu.createComputePipeline({
      layout: 'auto',
      compute: { module: gpu.createShaderModule({ code }), entryPoint: 'rounding' },
    })
    gpu.queue.writeBuffer(there, 0, given)
    const encoder = gpu.createCommandEncoder()
    const pass = encoder.beginComputePass()
    pass.setPipeline(pipeline)
    pass.setBindGroup(
      0,
      gpu.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries: [{ binding: 0, resource: { buffer: there } }] }),
    )
    pass.dispatchWorkgroups(Math.ceil(given.length / 64))
    pass.end()
    encoder.copyBufferToBuffer(there, 0, back, 0, size)
    gpu.queue.submit([encoder.finish()])
    await back.mapAsync(1)
    const actual = new Float32Array(back.getMappedRange().slice(0))
    for (const buffer of [there, back]) buffer.destroy()
    // A driver may read a float32 below 2^-126 as 0; none is among them.
    assertSameBits(actual, expected, 'WGSL')
  })

  it('the reference counts what was too large for float16, of its own operands alone', async () => {
    const [one, other, exact] = [referenceDevice({ precision: 'f16' }), referenceDevice({ precision: 'f16' }), referenceDevice()]
    for (const device of [one, other, exact])
      scope(() => matmul(tensor([65519, Infinity, Number.NaN], { shape: [1, 3], device }), tensor([1, 1, 1], { shape: [3, 1], device })))
    for (const device of [one, exact])
      scope(() => matmul(tensor([65520], { shape: [1, 1], device }), tensor([-1e5], { shape: [1, 1], device })))
    assert.deepEqual([one.overflows(), other.overflows(), exact.overflows()], [2, 0, 0])
  })

  it('a product on the reference is that of rounded operands, and so are its gradients', () =>
    fc.assert(
      fc.asyncProperty(products, fc.nat(1e6), async (o, seed) => {
        const [actual, expected] = [await multiplied(halfReference, o, seed), await multiplied(reference, o, seed, rounded)]
        for (const [i, e] of expected.entries()) assertSameBits(actual[i], e, `result ${i}`)
      }),
      { numRuns: 30 },
    ))

  it('every device rounds every number as the reference does, whatever kernel multiplies it', async function () {
    const product = (on: Device, some: Float32Array, columns: number, transposeA: boolean): Promise<number[]> =>
      readAndFree(
        scope(() => {
          const a = tensor(some, { shape: transposeA ? [1, some.length] : [some.length, 1], device: on })
          return matmul(a, tensor(new Array(columns).fill(1), { shape: [1, columns], device: on }), { transposeA })
        }),
      )
    for (const device of await halfDevices(this)) {
      const compare = async (...how: [some: Float32Array, columns: number, transposeA: boolean]): Promise<void> => {
        const [actual, expected] = [await product(device, ...how), await product(halfReference, ...how)]
        const wrong = expected.findIndex((x, i) => !Object.is(x, actual[i]))
        assert.equal(wrong, -1, `${how[0][Math.floor(wrong / how[1])]} became ${actual[wrong]}, not ${expected[wrong]}`)
      }
      // By tiles, of rows and of columns; and of 256 elements at most, a thirtieth of all, each by a thread.
      await compare(all, 1, false)
      await compare(all, 4, true)
      for (let first = 0; first < all.length; first += 30 * 256) await compare(all.subarray(first, first + 256), 1, false)
    }
  })

  it('a product that adds to -0 adds a sum of its own, which begins with +0, on every device', async function () {
    for (const device of [reference, halfReference, ...(await halfDevices(this))])
      for (const [M, K, N] of [
        [1, 1, 1],
        [5, 3, 7],
        [70, 33, 66],
      ]) {
        const filled = (rows: number, columns: number, x: number): Tensor =>
          tensor(new Float32Array(rows * columns).fill(x), { shape: [rows, columns], device })
        const product = scope(() => matmul(filled(M, K, 1), filled(K, N, -0), { accumulate: filled(M, N, -0) }))
        for (const x of await readAndFree(product)) assert.ok(Object.is(x, 0), `${device.description}: ${M} x ${K} x ${N}`)
      }
  })

  it('a product, with its gradients, is the reference of that precision up to sums in float32', async function () {
    for (const device of await halfDevices(this))
      await fc.assert(
        fc.asyncProperty(products, fc.nat(1e6), async (o, seed) => {
          const [actual, expected] = [await multiplied(device, o, seed), await multiplied(halfReference, o, seed)]
          const exact = await multiplied(reference, o, seed)
          const terms = [o.K, o.N, o.M]
          for (const [i, e] of expected.entries()) {
            assertClose(actual[i], e, (8 + 4 * Math.sqrt(terms[i])) * epsilon, 1, `result ${i}`)
            // Operands below 1, each off by 2^-12 at most.
            assertClose(e, exact[i], terms[i] * 2 ** -11, 1, `result ${i} beside the exact one`)
          }
        }),
        { numRuns: runsOn(device, 200) },
      )
  })

  it('weights of 16 bits are rounded, too: bfloat16 holds more than float16', async function () {
    for (const device of [halfReference, ...(await halfDevices(this))]) {
      setDevice(device)
      const numbers = Float32Array.of(1e-7, 1.0078125, 70000, -3e-6, 0.5, 0)
      const weights = halfTensor(narrowed(numbers, 'bfloat16'), { shape: [6, 1], dtype: 'bfloat16' })
      const y = scope(() => matmul(tensor([1], { shape: [1, 1] }), weights, { transposeB: true }))
      assert.deepEqual(Array.from(await y.read(), Number), [...rounded(widened(narrowed(numbers, 'bfloat16'), 'bfloat16'))])
      for (const t of [weights, y]) t.dispose()
    }
  })

  it('rounds neither what is only added up, nor norms, softmax and the recurrent form', async function () {
    const [B, T, H, K, V] = [1, 9, 2, 5, 6]
    const run = async (device: Device): Promise<HostArray[]> => {
      setDevice(device)
      const results = scope(() => {
        const x = tensor(uniforms(1, 8 * 12), { shape: [8, 12] })
        const weight = tensor(uniforms(2, 4 * 12), { shape: [4, 12], requiresGrad: true })
        const bias = tensor(uniforms(3, 4), { requiresGrad: true })
        // Two maps, so that they are computed together.
        const [y, z] = linears(x, [{ weight, bias }, { weight }])
        sum(y).backward(tensor([1 + 2 ** -15], { shape: [] }))
        z.dispose()
        const [q, k] = [4, 5].map((seed) => tensor(uniforms(seed, B * T * H * K), { shape: [B, T, H, K] }))
        const v = tensor(uniforms(6, B * T * H * V), { shape: [B, T, H, V] })
        const beta = tensor(uniforms(7, B * T * H, 0, 1), { shape: [B, T, H] })
        const { y: read, state } = fastWeights(q, k, v, { beta }, undefined, { form: 'recurrent' })
        return [bias.grad!, softmax(x), read, state.S]
      })
      return Promise.all(results.map((t) => t.read().finally(() => t.dispose())))
    }
    const exact = await run(reference)
    for (const [i, values] of (await run(halfReference)).entries()) assertSameBits(values, exact[i], `${i} on the reference`)
    for (const device of await halfDevices(this)) {
      const plain = await run(device.name === 'wasm' ? await wasm(2, builds.at(-1)!.relaxed) : await webgpu(this))
      for (const [i, values] of (await run(device)).entries()) assertSameBits(values, plain[i], `${i} on ${device.name}`)
    }
  })

  it('the chunk form differs from the exact one by roundings of its operands, on every device', async function () {
    const [B, T, H, K, V] = [1, 45, 2, 9, 7]
    const run = async (device: Device, beta: boolean, gate: boolean, C: number): Promise<HostArray[]> => {
      setDevice(device)
      const results = scope(() => {
        const made = (seed: number, width: number, low = -1, high = 1): Tensor =>
          tensor(uniforms(seed, B * T * H * width, low, high), { shape: [B, T, H, width], requiresGrad: true })
        const [q, k, v] = [made(1, K), made(2, K, -0.5, 0.5), made(3, V)]
        const rate = tensor(uniforms(4, B * T * H, 0, 1), { shape: [B, T, H], requiresGrad: true })
        const decays = made(5, K, -0.5, 0)
        const { y } = fastWeights(q, k, v, { ...(beta && { beta: rate }), ...(gate && { gate: decays }) }, undefined, {
          form: 'chunk',
          chunk: C,
        })
        y.backward(tensor(uniforms(6, B * T * H * V), { shape: [B, T, H, V] }))
        return [y, q.grad!, k.grad!, v.grad!, ...(beta ? [rate.grad!] : []), ...(gate ? [decays.grad!] : [])]
      })
      return Promise.all(results.map((t) => t.read().finally(() => t.dispose())))
    }
    for (const device of [halfReference, ...(await halfDevices(this))])
      for (const beta of [false, true])
        for (const gate of [false, true])
          for (const C of [8, 32]) {
            const [actual, exact] = [await run(device, beta, gate, C), await run(reference, beta, gate, C)]
            for (const [i, e] of exact.entries()) {
              const what = `${device.name}, ${beta} ${gate} ${C}: result ${i}`
              // Of two operands 2^-11 each at most, through eight products one after the other at most.
              assertRms(actual[i], e, 16 * 2 ** -11, what)
              // And more than rounding in float32.
              assert.throws(() => assertRms(actual[i], e, 1e-5), /rms ratio/, what)
            }
          }
  })

  /** What is taken beside q, k and v, and how. */
  const kinds: readonly { gates?: readonly ('beta' | 'gate' | 'decay' | 'erase' | 'along')[]; flags?: boolean; options?: object }[] = [
    {},
    { options: { normalise: true } },
    { flags: true },
    { flags: true, options: { normalise: true } },
    { gates: ['beta'] },
    { gates: ['beta'], flags: true },
    { gates: ['gate'], options: { normalise: true } },
    { gates: ['decay'], options: { normalise: true } },
    { gates: ['beta', 'gate'] },
    { gates: ['beta', 'decay'] },
    { gates: ['erase'] },
    { gates: ['erase', 'along'] },
    { gates: ['erase', 'along', 'decay'] },
    { options: { transposed: true } },
    { gates: ['beta'], options: { transposed: true } },
    { gates: ['beta', 'gate'], options: { transposed: true } },
    { gates: ['erase', 'decay'], options: { transposed: true } },
  ]

  for (const kind of kinds)
    it(`the chunk form of wasm rounds what the reference rounds, and nothing else: ${JSON.stringify(kind)}`, async () => {
      const { gates = [], flags = false, options = {} } = kind
      const [B, T, H, K, V, chunk] = [2, 45, 2, 11, 6, 16]
      const run = async (device: Device): Promise<HostArray[]> => {
        setDevice(device)
        const results = scope(() => {
          const made = (seed: number, width: number | null, low: number, high: number): Tensor =>
            tensor(uniforms(seed, B * T * H * (width ?? 1), low, high), {
              shape: [B, T, H, ...(width === null ? [] : [width])],
              requiresGrad: true,
            })
          const transposed = 'transposed' in options
          const [q, k, v] = [made(1, transposed ? V : K, 0.1, 1), made(2, K, 0.1, 0.5), made(3, V, -1, 1)]
          const all = {
            beta: () => made(4, null, 0, 1),
            gate: () => made(5, null, -0.5, 0),
            decay: () => made(6, K, -0.5, 0),
            erase: () => made(7, K, 0, 0.5),
            along: () => made(8, K, 0, 0.5),
          }
          const given = Object.fromEntries(gates.map((name) => [name === 'decay' ? 'gate' : name, all[name]()]))
          const begins = Int32Array.from({ length: B * T }, (_, i) => Number(i % 19 === 7))
          const reset = flags ? { reset: tensor(begins, { shape: [B, T], dtype: 'int32' }) } : {}
          const S = tensor(uniforms(9, B * H * K * V), { shape: [B, H, K, V], requiresGrad: true })
          const z = 'normalise' in options ? { z: tensor(uniforms(10, B * H * K, 0, 1), { shape: [B, H, K], requiresGrad: true }) } : {}
          // A power of two, for which it doesn't matter before which rounding it is multiplied.
          const { y, state } = fastWeights(q, k, v, given, { S, ...z }, { form: 'chunk', chunk, scale: 0.5, ...reset, ...options })
          y.backward(tensor(uniforms(11, y.size), { shape: y.shape }))
          return [y, state.S, ...Object.values({ q, k, v, S, ...z, ...given }).map((t) => t.grad!)]
        })
        return Promise.all(results.map((t) => t.read().finally(() => t.dispose())))
      }
      const [oracle, exact] = [await run(halfReference), await run(reference)]
      const error = (actual: HostArray, expected: HostArray): number =>
        Math.hypot(...Array.from(actual, (x, i) => x - expected[i])) / Math.hypot(...expected)
      for (const { relaxed } of builds)
        for (const [i, actual] of (await run(await wasm(2, relaxed, false, 'f16'))).entries()) {
          const [ours, whole] = [error(actual, oracle[i]), error(exact[i], oracle[i])]
          // What float32 leaves of an operand, 5e-7 of it, may lie beyond the middle of two float16, as one in 700 does: sqrt(1 / 700) of all that rounding does at most.
          // One operand of the 16 of eight products that isn't rounded is a quarter of it.
          assert.ok(
            ours < whole / 8 + 1e-6 && (i > 0 || whole > 1e-4),
            `${i}: ${ours.toExponential(1)} from the oracle, which is ${whole.toExponential(1)} from float64`,
          )
        }
    })

  for (const c of cases.filter(({ name }) => /^(matmul|linears|softmaxAttention|fastWeights)/.test(name)))
    it(`${c.name} on wasm has the same bits with 1 and 3 threads, and with vectors of either width`, async () => {
      const relaxed = builds.at(-1)!.relaxed
      const [alone, ...others] = await Promise.all([
        wasm(1, relaxed, false, 'f16'),
        wasm(3, relaxed, false, 'f16'),
        ...(canBeWide ? [wasm(2, relaxed, true, 'f16')] : []),
      ])
      await fc.assert(
        fc.asyncProperty(fc.oneof(c.options(tiny), c.options(medium)), fc.nat(), async (o, seed) => {
          const [expected, ...actual] = await Promise.all(
            [alone, ...others].map(async (device) => {
              const { outputs, grads } = await evaluate(c, o, seed, device)
              return [...outputs, ...grads]
            }),
          )
          for (const results of actual)
            for (const [i, e] of expected.entries()) if (e && e.length > 0) assertSameBits(results[i]!, e, `${i}`)
        }),
        { numRuns: 5 },
      )
    })

  for (const c of cases.filter(({ name }) => /^(matmul|linears|twoLinears|softmaxAttention|linearCrossEntropy|fastWeights)/.test(name)))
    it(`${c.name} is like the reference`, async function () {
      for (const device of await halfDevices(this)) await checkLikeReference(c, device, 8)
    })

  it('the self-check holds a device to the reference of its precision', async function () {
    for (const device of await halfDevices(this))
      for await (const { kernel, ok, error, bound, message } of selfCheck(device, [
        'matmul',
        'products',
        'muon',
        'fastWeights',
        'fastWeightsBackward',
      ]))
        assert.ok(ok && bound === (kernel === 'muon' ? 5e-6 : 2 ** -8), message ?? `${kernel}: ${error} of ${bound}`)
    for await (const { error } of selfCheck(halfReference, ['matmul', 'fastWeights'])) assert.equal(error, 0)
  })
})
