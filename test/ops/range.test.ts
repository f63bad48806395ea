/**
 * Every unary op over the whole range of float32, value and gradient, alone and inside a matrix product, on every device against the float64
 * reference; the reference against numbers of mpmath.
 */
import assert from 'node:assert/strict'
import { type Device, matmul, reshape, scope, type Tensor, tensor, type UnaryOp, unary, unaryOps, zeros } from '../../engine/index.ts'
import { builds, gpus, random, readAndFree, reference, wasm } from '../helpers.ts'

/** The number with these bits. */
const float = (bits: number): number => new Float32Array(Uint32Array.of(bits).buffer)[0]
const bitsOf = (x: number): number => new Uint32Array(Float32Array.of(x).buffer)[0]

/** Where a kernel or a formula takes another way, or something overflows or vanishes; each with the neighbours on both sides. */
const turns = [
  0.1,
  0.17157,
  0.34657,
  Math.SQRT1_2,
  1,
  Math.SQRT2,
  Math.PI / 4,
  Math.PI / 2,
  Math.PI,
  2,
  3,
  4,
  5,
  6,
  7,
  8,
  9,
  9.5,
  10,
  10.2,
  12,
  15,
  17,
  20,
  30,
  40,
  43.5,
  44.3,
  50,
  60,
  64,
  80,
  85,
  86.6,
  87,
  87.33654,
  87.4,
  88,
  88.37,
  88.72283,
  89,
  91,
  93,
  95,
  100,
  104,
  150,
  174,
  178,
  300,
  710,
  1e3,
  1e4,
  1e5,
  1e6,
  1e7,
  1e8,
  2 ** 22,
  2 ** 23,
  2 ** 24,
  2 ** 26,
  2 ** 27,
  2 ** 28,
  2 ** 31,
  2 ** 32,
  1e10,
  1.7e13,
  1e14,
  1.8e19,
  1.9e19,
  9.2e18,
  8.5e37,
  1.7e38,
  1.702e38,
]

const columns = 64

/** Each exponent with several mantissas, the neighbours of the turns, and what is special; both signs. */
const points: Float32Array = (() => {
  const next = random(7)
  const all: number[] = [0, 1, 2, 0x7fffff, 0x7f800000]
  for (let exponent = 0; exponent < 255; exponent++)
    for (const mantissa of [0, 1, 0x3504f3, 0x3504f4, 0x400000, 0x7fffff, next() * 2 ** 23, next() * 2 ** 23])
      all.push((exponent << 23) + mantissa)
  for (const x of turns) {
    for (let i = -3; i <= 3; i++) all.push(bitsOf(x) + i)
    for (let i = 0; i < 6; i++) all.push(bitsOf(x * (0.97 + 0.06 * next())))
  }
  // Dense where most functions bend.
  for (let x = 0; x < 20; x += 0.05) all.push(bitsOf(x + 0.05 * next()))
  for (let x = 20; x < 110; x += 0.5) all.push(bitsOf(x + 0.5 * next()))
  // The number nearest to a multiple of pi/2 of all: within 1.6e-9.
  all.push(bitsOf(16367173 * 2 ** 72))
  const values = [...all.flatMap((bits) => [float(bits), float(bits | 0x80000000)]), NaN]
  // Whole rows of a product.
  while (values.length % columns !== 0) values.push(next())
  return Float32Array.from(values)
})()

/**
 * Bounds in units in the last place of the right result, or of what it's the difference of (`terms`): [value, gradient].
 * webgpu's leave room for what WGSL allows a division (2.5) and a square root beyond the device that they were measured on.
 */
const bounds: Record<UnaryOp, { wasm: [number, number]; webgpu: [number, number] }> = {
  neg: { wasm: [0, 0], webgpu: [0, 0] },
  abs: { wasm: [0, 0], webgpu: [0, 0] },
  exp: { wasm: [2, 2], webgpu: [3, 3] },
  log: { wasm: [2, 1], webgpu: [4, 3] },
  sqrt: { wasm: [1, 2], webgpu: [3, 6] },
  square: { wasm: [1, 0], webgpu: [1, 0] },
  reciprocal: { wasm: [1, 3], webgpu: [3, 6] },
  sin: { wasm: [2, 2], webgpu: [2, 2] },
  cos: { wasm: [2, 2], webgpu: [2, 2] },
  sigmoid: { wasm: [4, 6], webgpu: [6, 8] },
  tanh: { wasm: [4, 6], webgpu: [6, 10] },
  relu: { wasm: [0, 0], webgpu: [0, 0] },
  elu: { wasm: [2, 2], webgpu: [3, 3] },
  silu: { wasm: [4, 8], webgpu: [6, 10] },
  gelu: { wasm: [4, 4], webgpu: [6, 6] },
  softplus: { wasm: [4, 4], webgpu: [6, 6] },
}

/** Below this a result may be 0, or off by as much: there float32's own numbers are denormal, and the exponential's steps before. */
const floor = 2 ** -125
/** Numbers nearer to 0 may count as 0 on a GPU. */
const least = 2 ** -126

const gate = (z: number): number => 1 / (1 + Math.exp(-z))
/** gelu(x) = x gate(z), z = c (x + d x^3). */
const [c, d] = [2 * Math.sqrt(2 / Math.PI), 0.044715]
const geluZ = (x: number): number => c * x * (1 + d * x * x)
const near = (x: number): number => Math.max(-1e3, Math.min(1e3, x))
/** The two terms of the derivative of x gate(z). */
const slopeTerms = (x: number, z: number, dz: number): number => gate(z) * (1 + Math.abs(x) * gate(-z) * dz)

/**
 * The size of what a result is the sum of, where that may be larger than the result; angles: 1, so that bounds are absolute. The roundings of
 * gelu's exponent z become relative ones of e^z: z times as many.
 */
const terms: Partial<Record<UnaryOp, { y?: (x: number) => number; dx?: (x: number) => number }>> = {
  sin: { y: () => 1, dx: () => 1 },
  cos: { y: () => 1, dx: () => 1 },
  silu: { dx: (x) => slopeTerms(near(x), x, 1) },
  gelu: {
    y: (x) => Math.abs(near(x) * gate(geluZ(x))) * (1 + Math.abs(geluZ(near(x)))),
    dx: (x) => slopeTerms(near(x), geluZ(near(x)), c * (1 + 3 * d * near(x) ** 2)) * (1 + Math.abs(geluZ(near(x)))),
  },
}

const ulp = (x: number): number => 2 ** Math.max(-149, Math.floor(Math.log2(x)) - 23)

/** How many units `actual` is off, of the right result's or of `size`; what is beyond float32 counts as 2^128. */
function error(actual: number, expected: number, size: number): number {
  if (!Number.isFinite(expected)) return Object.is(actual, expected) ? 0 : Infinity
  if (Number.isNaN(actual)) return Infinity
  const within = (x: number): number => Math.max(-(2 ** 128), Math.min(2 ** 128, x))
  const off = Math.abs(within(actual) - within(expected))
  return off <= floor ? 0 : off / ulp(Math.min(2 ** 127, Math.max(Math.abs(expected), size)))
}

type Results = { y: number[]; dx: number[] }

/** The value as it is without a gradient: a product then applies any op itself. */
async function resultsOf(device: Device, call: (x: Tensor) => Tensor): Promise<Results> {
  const { y, dx } = scope(() => {
    const x = tensor(points, { device, requiresGrad: true })
    call(x).backward(tensor(new Float32Array(points.length).fill(1), { device }))
    return { y: call(tensor(points, { device })), dx: x.grad! }
  })
  return { y: await readAndFree(y), dx: await readAndFree(dx) }
}

/** A product of zeros, to which x is added: the op is applied where the product is stored. */
const within = (op: UnaryOp) => (x: Tensor) => {
  const rows = x.size / columns
  const [a, b] = [zeros([rows, 1], x.device), zeros([1, columns], x.device)]
  return reshape(matmul(a, b, { accumulate: reshape(x, [rows, columns]), activation: op }), [x.size])
}

const zeroOf = (x: number): number => (x < 0 || Object.is(x, -0) ? points.indexOf(0) + 1 : points.indexOf(0))

/** The largest error and where; a device that flushes may take a denormal number for the 0 of its sign. */
function worst(op: UnaryOp, name: 'y' | 'dx', actual: Results, expected: Results, flushes: boolean): { units: number; at: string } {
  const size = terms[op]?.[name] ?? (() => 0)
  let found = { units: 0, at: '' }
  points.forEach((x, i) => {
    const a = actual[name][i]
    let units = error(a, expected[name][i], size(x))
    if (flushes && Math.abs(x) < least) units = Math.min(units, error(a, expected[name][zeroOf(x)], size(0)))
    if (units > found.units || Number.isNaN(units))
      found = { units, at: `${op}${name === 'dx' ? "'" : ''}(${x}) = ${a}, expected ${Math.fround(expected[name][i])}` }
  })
  return found
}

describe('the range of float32', () => {
  for (const op of unaryOps)
    for (const [where, call] of [
      ['', (x: Tensor) => unary(op, x)],
      [' in a product', within(op)],
    ] as const)
      it(`${op}${where}`, async function () {
        const expected = await resultsOf(reference, call)
        const devices = [...(await Promise.all(builds.map(({ relaxed }) => wasm(1, relaxed)))), ...(await gpus())]
        const report: string[] = []
        const failures: string[] = []
        for (const device of devices) {
          const actual = await resultsOf(device, call)
          const kind = device.name === 'webgpu' ? 'webgpu' : 'wasm'
          for (const [i, name] of (['y', 'dx'] as const).entries()) {
            const { units, at } = worst(op, name, actual, expected, kind === 'webgpu')
            const bound = bounds[op][kind][i]
            report.push(`${kind} ${name} ${units.toFixed(1)} of ${bound}`)
            if (!(units <= bound)) failures.push(`${kind}: ${units.toFixed(1)} units, bound ${bound}: ${at}`)
          }
        }
        if (this.test) this.test.title += `: ${report.join(', ')}`
        assert.deepEqual(failures, [])
      })
})
