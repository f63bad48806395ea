/**
 * Every unary op over the whole range of float32, value and gradient, alone and inside a matrix product, on every device against the float64
 * reference; the reference against numbers of mpmath.
 */
import assert from 'node:assert/strict'
import {
  add,
  type Device,
  div,
  equal,
  greater,
  l2Norm,
  layerNorm,
  logSoftmax,
  matmul,
  maximum,
  minimum,
  mul,
  reshape,
  rmsNorm,
  scope,
  softmax,
  sub,
  sumNorm,
  type Tensor,
  tensor,
  type UnaryOp,
  unary,
  unaryOps,
  zeros,
} from '../../engine/index.ts'
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
        const report: string[] = []
        const failures: string[] = []
        for (const device of await devices()) {
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

/** By mpmath to 13 digits, at the ends the limits: x, f(x), f'(x). */
const ends: Partial<Record<UnaryOp, readonly [x: number, y: number, dx: number][]>> = {
  abs: [
    [-0, 0, 0],
    [-Infinity, Infinity, -1],
    [Infinity, Infinity, 1],
  ],
  exp: [
    [-Infinity, 0, 0],
    [Infinity, Infinity, Infinity],
  ],
  log: [
    [0, -Infinity, Infinity],
    [-0, -Infinity, -Infinity],
    [Infinity, Infinity, 0],
    [-1, NaN, -1],
  ],
  sqrt: [
    [0, 0, Infinity],
    [Infinity, Infinity, 0],
    [-1, NaN, NaN],
  ],
  square: [
    [-Infinity, Infinity, -Infinity],
    [Infinity, Infinity, Infinity],
  ],
  reciprocal: [
    [0, Infinity, -Infinity],
    [-0, -Infinity, -Infinity],
    [Infinity, 0, 0],
  ],
  sin: [
    [1e5, 0.03574879797202, -0.9993608074382],
    [1e6, -0.3499935021713, 0.9367521275331],
    [1e7, 0.4205477931908, -0.9072703861817],
    [1e8, 0.9316390271097, -0.3633850893557],
    [1e10, -0.4875060250875, 0.8731196226769],
    [16367173 * 2 ** 72, 1, -1.614769798248e-9],
    [2 ** 128 - 2 ** 104, -0.5218765233337, 0.8530210398303],
    [Infinity, NaN, NaN],
    [-Infinity, NaN, NaN],
  ],
  cos: [
    [1e10, 0.8731196226769, 0.4875060250875],
    [16367173 * 2 ** 72, -1.614769798248e-9, -1],
    [Infinity, NaN, NaN],
  ],
  sigmoid: [
    [-Infinity, 0, 0],
    [-40, 4.248354255292e-18, 4.248354255292e-18],
    [6, 0.9975273768434, 0.00246650929136],
    [40, 1, 4.248354255292e-18],
    [Infinity, 1, 0],
  ],
  tanh: [
    [-Infinity, -1, 0],
    [-40, -1, 7.219405551382e-35],
    [6, 0.9999877116508, 2.457654740533e-5],
    [Infinity, 1, 0],
  ],
  relu: [
    [-Infinity, 0, 0],
    [Infinity, Infinity, 1],
  ],
  elu: [
    [-Infinity, -1, 0],
    [-40, -1, 4.248354255292e-18],
    [-6, -0.9975212478233, 0.002478752176666],
    [Infinity, Infinity, 1],
  ],
  silu: [
    [-Infinity, 0, 0],
    [-1e14, 0, 0],
    [-40, -1.699341702117e-16, -1.656858159564e-16],
    [-6, -0.01483573893981, -0.01232643259153],
    [6, 5.98516426106, 1.012326432592],
    [1e14, 1e14, 1],
    [Infinity, Infinity, 1],
  ],
  gelu: [
    [-Infinity, 0, 0],
    [-1e14, 0, 0],
    [-10, -1.20409234821e-37, -2.757638063854e-36],
    [-6, -8.439646700762e-11, -7.709973930954e-10],
    [6, 5.999999999916, 1.000000000771],
    [1e14, 1e14, 1],
    [Infinity, Infinity, 1],
  ],
  softplus: [
    [-Infinity, 0, 0],
    [-40, 4.248354255292e-18, 4.248354255292e-18],
    [6, 6.002475685138, 0.9975273768434],
    [Infinity, Infinity, 1],
  ],
}

it('the reference is right at the ends', async () => {
  for (const [op, rows] of Object.entries(ends)) {
    const { y, dx } = scope(() => {
      const x = tensor(
        rows.map(([x]) => x),
        { device: reference, requiresGrad: true },
      )
      const y = unary(op as UnaryOp, x)
      y.backward(
        tensor(
          rows.map(() => 1),
          { device: reference },
        ),
      )
      return { y, dx: x.grad! }
    })
    const [ys, dxs] = [await readAndFree(y), await readAndFree(dx)]
    for (const [i, [x, ...expected]] of rows.entries())
      for (const [j, actual] of [ys[i], dxs[i]].entries()) {
        const e = expected[j]
        const close = Number.isFinite(e) ? Math.abs(actual - e) <= 1e-12 * Math.abs(e) : Object.is(actual, e)
        assert.ok(close, `${op}${"'".repeat(j)}(${x}) = ${actual}, expected ${e}`)
      }
  }
})

const devices = async (): Promise<Device[]> => [...(await Promise.all(builds.map(({ relaxed }) => wasm(1, relaxed)))), ...(await gpus())]

/** Values and the gradients of all inputs, by the reference too, as float32; dy is 1, -2, 3, -1, 2, -3, ... */
async function both(
  device: Device,
  inputs: readonly Float32Array[],
  shape: readonly number[],
  call: (...xs: Tensor[]) => Tensor,
): Promise<[actual: number[][], expected: number[][]]> {
  const results = async (on: Device): Promise<number[][]> => {
    const all = scope(() => {
      const xs = inputs.map((x) => tensor(x, { shape: [...shape], device: on, requiresGrad: true }))
      const y = call(...xs)
      y.backward(
        tensor(
          Float32Array.from({ length: y.size }, (_, i) => ((i % 3) + 1) * (i % 2 === 0 ? 1 : -1)),
          { shape: y.shape, device: on },
        ),
      )
      return [y, ...xs.map((x) => x.grad!)]
    })
    return Promise.all(all.map(readAndFree))
  }
  return [await results(device), await results(reference)]
}

describe('two numbers at the ends of float32', () => {
  const values = [0, -0, 1, -1, 1.5, 1e-30, -1e-30, 1e20, -3e38, 2 ** -126, Infinity, -Infinity, NaN]
  const pairs = values.flatMap((a) => values.map((b) => [a, b]))
  const [a, b] = [0, 1].map((side) => Float32Array.from(pairs, (pair) => pair[side]))
  // Gradients of a quotient are made of three roundings; those of max and min are shared or whole.
  for (const [op, call] of Object.entries({ add, sub, mul, div, maximum, minimum, equal, greater }))
    it(op, async () => {
      for (const device of await devices()) {
        const [[actual], [expected]] =
          op === 'equal' || op === 'greater' ? await valueOnly(device, call) : await both(device, [a, b], [pairs.length], call)
        for (const [i, e] of expected.entries()) {
          // max(-0, 0) is 0; the sign of another zero isn't promised.
          const exact = op === 'maximum' || op === 'minimum'
          const off = exact ? (Object.is(actual[i], Math.fround(e)) ? 0 : Infinity) : error(actual[i], e, 0)
          assert.ok(off <= 3, `${device.name}: ${op}(${pairs[i]}) = ${actual[i]}, expected ${e}`)
        }
      }
    })
  const valueOnly = async (device: Device, call: (a: Tensor, b: Tensor) => Tensor): Promise<[number[][], number[][]]> => {
    const of = async (on: Device): Promise<number[][]> => [
      await readAndFree(scope(() => call(tensor(a, { device: on }), tensor(b, { device: on })))),
    ]
    return [await of(device), await of(reference)]
  }
})

describe('rows at the ends of float32', () => {
  const n = 70
  const next = random(3)
  const row = Float32Array.from({ length: n }, () => 0.5 + next())
  const signed = row.map((x, j) => (j % 3 === 0 ? -x : x))
  const norms: Record<string, (x: Tensor, eps: number) => Tensor> = {
    layerNorm: (x, eps) => layerNorm(x, null, null, eps),
    rmsNorm: (x, eps) => rmsNorm(x, null, eps),
    l2Norm,
    sumNorm,
  }
  // A gradient is of the size of 1 / norm: from a norm of 2^126 on that is denormal, and a device may take it for 0.
  const scales = [2 ** 126, 1e37, 1e30, 1e25, 1e20, 1e19, 1e15, 1e10, 1e5, 1, 1e-5, 1e-10, 1e-12, 1e-15, 1e-19, 1e-20, 1e-25, 1e-30, 1e-35]
  for (const [name, norm] of Object.entries(norms))
    it(name, async () => {
      const x = Float32Array.from(scales.flatMap((scale) => Array.from(name === 'sumNorm' ? row : signed, (x) => x * scale)))
      for (const eps of [0, 1e-30, 1e-12, 1e-6, 10])
        for (const device of await devices()) {
          const [actual, expected] = await both(device, [x], [scales.length, n], (x) => norm(x, eps))
          for (const [i, es] of expected.entries())
            for (const [r, scale] of scales.entries()) {
              const [as, e] = [actual[i], es].map((all) => all.slice(r * n, (r + 1) * n))
              const largest = Math.max(...e.map(Math.abs))
              // A sum of 70 products of both signs, of entries of one size: 70 roundings of the largest at most, and those of scale and mean.
              const bound = 100 * 2 ** -24 * largest + floor
              if (i === 1 && scale > 1e36) continue
              e.forEach((e, j) => {
                assert.ok(
                  Math.abs(as[j] - e) <= bound,
                  `${device.name}, eps ${eps}, row of ${scale}, ${i === 0 ? 'y' : 'dx'}: ${as[j]}, expected ${e}`,
                )
              })
            }
        }
    })

  it('softmax and its logarithm', async () => {
    const [I, N] = [Infinity, NaN]
    const rows = [
      [-I, 0, 1],
      [-I, -I, 3],
      [-I, -I, -I],
      [I, 0, 1],
      [3e38, -3e38, 0],
      [-3e38, -3e38, -3e38],
      [I, I, 0],
      [N, 0, 0],
      [88, -88, 200],
    ]
    for (const device of await devices())
      for (const call of [softmax, logSoftmax]) {
        const [actual, expected] = await both(device, [Float32Array.from(rows.flat())], [rows.length, 3], (x) => call(x))
        for (const [k, es] of expected.entries())
          es.map(Math.fround).forEach((e, i) => {
            const ok = Number.isFinite(e) ? Math.abs(actual[k][i] - e) <= 1e-6 * Math.max(1, Math.abs(e)) : Object.is(actual[k][i], e)
            assert.ok(
              ok,
              `${device.name}, ${call.name}, ${k === 0 ? 'y' : 'dx'}, row ${rows[Math.floor(i / 3)]}: ${actual[k][i]}, expected ${e}`,
            )
          })
      }
  })
})
