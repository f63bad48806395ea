/**
 * The ops of the engine as a table: for each op, shapes and options to draw from, inputs to make, and the call. Gradient checks, wasm
 * against reference, thread counts and the coverage of kernels are all driven by it (gradients.test.ts, wasm.test.ts).
 * To add an op: add a case. The test that compares the table with the exports of the engine says so if you forget.
 */
import fc from 'fast-check'
import * as engine from '../../engine/index.ts'
import { type Device, type Form, type HostArray, scope, type Tensor, type UnaryOp, unaryOps } from '../../engine/index.ts'
import { sigmoidLater } from '../../engine/ops/later.ts'
import { overwrite } from '../../engine/ops/overwrite.ts'
import { random, sizeOf, uniforms } from '../helpers.ts'
import { randomNet, table } from './programs.ts'

/**
 * What the values of an input look like. Where a derivative jumps or a function has a pole, the values keep away from it.
 * any: [-2, 2). positive: [0.25, 2.25). nonzero: either sign of that. distinct: a shuffle of equally spaced values in [-2, 2).
 * rate: [0.02, 0.98). gate: (-3, 0). spd: symmetric positive definite matrices over the last two axes.
 * grid: integers in [-2, 2]; between: halfway between those. A number: [-number, number). below: int32 indices.
 */
export type Values =
  | 'any'
  | 'positive'
  | 'nonzero'
  | 'distinct'
  | 'grid'
  | 'between'
  | 'rate'
  | 'gate'
  | 'spd'
  | number
  | { below: number; ignore?: number }

export interface Input {
  shape: readonly number[]
  /** `any` by default. */
  values?: Values
  /** Whether it asks for a gradient: by default yes. */
  grad?: boolean
}

/** How large the shapes of a run are. */
export interface Sizes {
  axis: fc.Arbitrary<number>
  /** Bounds on the number of elements (of steps, for products). */
  least: number
  most: number
}

export interface Case<O = any> {
  /** An export of engine/index.ts, and after a space which side of it. */
  name: string
  options: (sizes: Sizes) => fc.Arbitrary<O>
  inputs: (o: O) => Input[]
  run: (o: O, inputs: Tensor[], device: Device) => Tensor | Tensor[]
  /** About how many numbers are added into one of the result or of a gradient: 1 by default. */
  terms?: (o: O) => number
  /** Sequences feed their errors back, so that only the error's rms says something. */
  sequence?: boolean
}

const small = [1, 1, 2, 3, 4, 5, 6, 7]
const ragged = [...small, 8, 9, 13, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 129]

/** For differences: a gradient check evaluates an op twice for every element. */
export const tiny: Sizes = { axis: fc.constantFrom(...small), least: 1, most: 20 }
export const medium: Sizes = { axis: fc.constantFrom(...ragged), least: 1, most: 6000 }
/** Beyond what one task takes, so that threads share the work. */
export const large: Sizes = { axis: fc.constantFrom(...ragged), least: 80_000, most: 160_000 }

/** Shrinks the largest axes, or stretches one, until the bounds hold; sizes stay odd where they're changed. */
function bounded(shape: readonly number[], grow: number, { least, most }: Sizes, factor: number): number[] {
  const fitted = [...shape]
  while (sizeOf(fitted) > most * factor) {
    const largest = fitted.indexOf(Math.max(...fitted))
    fitted[largest] = (fitted[largest] >> 1) | 1
  }
  const i = grow % fitted.length
  if (fitted.length > 0 && sizeOf(fitted) < least * factor) fitted[i] = Math.ceil((least * factor * fitted[i]) / sizeOf(fitted)) | 1
  return fitted
}

const shapes = (sizes: Sizes, minRank: number, maxRank: number, factor = 1): fc.Arbitrary<number[]> =>
  fc
    .tuple(fc.array(sizes.axis, { minLength: minRank, maxLength: maxRank }), fc.nat({ max: 11 }))
    .map(([shape, grow]) => bounded(shape, grow, sizes, factor))

/** Two shapes that broadcast to a third: some axes of size 1, some leading axes left out. */
const broadcasts = (sizes: Sizes, maxRank: number): fc.Arbitrary<{ a: number[]; b: number[] }> =>
  fc
    .tuple(shapes(sizes, 0, maxRank), fc.array(fc.nat({ max: 4 }), { minLength: maxRank, maxLength: maxRank }), fc.nat({ max: 5 }))
    .map(([shape, ones, drop]) => ({
      a: shape.map((d, i) => (ones[i] === 1 ? 1 : d)).slice(drop === 1 ? 1 : 0),
      b: shape.map((d, i) => (ones[i] === 2 ? 1 : d)).slice(drop === 2 ? 1 : drop === 3 ? 2 : 0),
    }))

const broadcastShape = (a: readonly number[], b: readonly number[]): number[] => {
  const rank = Math.max(a.length, b.length)
  const at = (shape: readonly number[], i: number): number => shape[i - rank + shape.length] ?? 1
  return Array.from({ length: rank }, (_, i) => (at(a, i) === 1 ? at(b, i) : at(a, i)))
}

const index = fc.nat({ max: 999 })
const streams = fc.record({ seed: fc.nat({ max: 0xffffffff }), stream: fc.nat({ max: 1000 }) })
const probability = fc.constantFrom(0, 0.1, 0.5, 0.9)

/** By name, for cases that differ in nothing else. */
const ops = { ...engine }

const define = <O>(c: Case<O>): Case => c

const unaryValues: Partial<Record<UnaryOp, Values>> = {
  abs: 'nonzero',
  relu: 'nonzero',
  elu: 'nonzero',
  log: 'positive',
  sqrt: 'positive',
  reciprocal: 'nonzero',
}

const unaryCases = unaryOps.map((op) =>
  define({
    name: op,
    options: (sizes) => fc.record({ shape: shapes(sizes, 0, 4) }),
    inputs: ({ shape }) => [{ shape, values: unaryValues[op] }],
    run: (_, [x]) => ops[op](x),
  }),
)

type BinaryName = 'add' | 'sub' | 'mul' | 'div' | 'maximum' | 'minimum' | 'equal' | 'greater'
/** The values of both sides; without gradients where there are none. */
const binaryValues: Record<BinaryName, [a: Values, b: Values, grad: boolean]> = {
  add: ['any', 'any', true],
  sub: ['any', 'any', true],
  mul: ['any', 'any', true],
  div: ['any', 'nonzero', true],
  maximum: ['grid', 'between', true],
  minimum: ['between', 'grid', true],
  equal: ['grid', 'grid', false],
  greater: ['grid', 'grid', false],
}

const binaryCases = (Object.keys(binaryValues) as BinaryName[]).flatMap((name) => {
  const [a, b, grad] = binaryValues[name]
  return [
    define({
      name,
      options: (sizes) => broadcasts(sizes, 4),
      inputs: (o) => [
        { shape: o.a, values: a, grad },
        { shape: o.b, values: b, grad },
      ],
      run: (_, [x, y]) => ops[name](x, y),
      terms: (o) => sizeOf(broadcastShape(o.a, o.b)) / Math.min(sizeOf(o.a), sizeOf(o.b)),
    }),
    define({
      name: `${name} constant`,
      options: (sizes) =>
        fc.record({ shape: shapes(sizes, 0, 4), constant: fc.constantFrom(...(grad ? [0.75, -1.75, 1.25] : [0, 1, 0.5])) }),
      inputs: ({ shape }) => [{ shape, values: a === 'between' ? 'grid' : a, grad }],
      run: ({ constant }, [x]) => ops[name](x, constant),
    }),
  ]
})

const elementwiseCases = [
  ...unaryCases,
  ...binaryCases,
  define({
    name: 'unary',
    options: (sizes) => fc.record({ op: fc.constantFrom(...unaryOps), shape: shapes(sizes, 0, 4) }),
    inputs: ({ shape }) => [{ shape, values: 'positive' }],
    run: ({ op }, [x]) => engine.unary(op, x),
  }),
  define({
    name: 'affine',
    options: (sizes) => fc.record({ shape: shapes(sizes, 0, 4), scale: fc.constantFrom(0, 1, -0.7, 3), shift: fc.constantFrom(0, 0.3) }),
    inputs: ({ shape }) => [{ shape }],
    run: ({ scale, shift }, [x]) => engine.affine(x, scale, shift),
  }),
  define({
    name: 'where',
    // The condition is what a and b broadcast to, but for some leading axes, or stretches along those.
    options: (sizes) =>
      fc.record({ ab: broadcasts(sizes, 4), drop: fc.nat({ max: 3 }), ones: fc.nat({ max: 15 }) }).map(({ ab, drop, ones }) => ({
        ...ab,
        condition: broadcastShape(ab.a, ab.b)
          .map((d, i) => ((ones >> i) & 1 ? 1 : d))
          .slice(drop),
      })),
    inputs: ({ condition, a, b }) => [{ shape: condition, values: { below: 2 } }, { shape: a }, { shape: b }],
    run: (_, [condition, a, b]) => engine.where(condition, a, b),
    terms: ({ condition, a, b }) => {
      const whole = sizeOf(broadcastShape(condition, broadcastShape(a, b)))
      return whole / Math.min(sizeOf(a), sizeOf(b))
    },
  }),
  ...[true, false].map((first) =>
    define({
      name: `where constant ${first ? 'first' : 'second'}`,
      options: (sizes) => broadcasts(sizes, 4),
      inputs: ({ a, b }) => [{ shape: a, values: { below: 3 } }, { shape: b }],
      run: (_, [condition, x]) => (first ? engine.where(condition, -0.75, x) : engine.where(condition, x, 1.25)),
      terms: ({ a, b }) => sizeOf(broadcastShape(a, b)) / sizeOf(b),
    }),
  ),
  define({
    name: 'expand',
    options: (sizes) => broadcasts(sizes, 4),
    inputs: ({ a }) => [{ shape: a }],
    run: ({ a, b }, [x]) => engine.expand(x, broadcastShape(a, b)),
    terms: ({ a, b }) => sizeOf(broadcastShape(a, b)) / sizeOf(a),
  }),
  define({
    name: 'backward',
    options: (sizes) => fc.record({ shape: shapes(sizes, 0, 3) }),
    inputs: ({ shape }) => [{ shape }],
    run: (_, [x]) => engine.add(engine.mul(x, x), engine.add(x, x)),
  }),
]

const reduceOptions = (sizes: Sizes, minRank: number) =>
  fc.record({ shape: shapes(sizes, minRank, 4), axes: fc.option(fc.nat({ max: 15 }), { nil: undefined }), keepDim: fc.boolean() })
type ReduceCase = { shape: number[]; axes?: number; keepDim: boolean }
/** `axes` as bits: axis i is reduced where bit i is set; undefined reduces all. */
const axesOf = ({ shape, axes, keepDim }: ReduceCase): engine.ReduceOptions =>
  axes === undefined ? { keepDim } : { axis: shape.map((_, i) => i).filter((i) => (axes >> i) & 1), keepDim }

const reduceCases = [
  ...(['sum', 'mean'] as const).map((name) =>
    define({
      name,
      options: (sizes) => reduceOptions(sizes, 0),
      inputs: ({ shape }) => [{ shape }],
      run: (o, [x]) => ops[name](x, axesOf(o)),
      // The partial sums that are rounded grow like the root of the length, too, and the whole may cancel by chance.
      terms: ({ shape }) => Math.max(sizeOf(shape), sizeOf(shape) ** 2 / 64),
    }),
  ),
  define({
    name: 'max',
    options: (sizes) => reduceOptions(sizes, 0),
    inputs: ({ shape }) => [{ shape, values: 'distinct' }],
    run: (o, [x]) => engine.max(x, axesOf(o)),
  }),
  define({
    name: 'cumsum',
    options: (sizes) => fc.record({ shape: shapes(sizes, 1, 4), axis: index, reverse: fc.boolean() }),
    inputs: ({ shape }) => [{ shape }],
    run: ({ shape, axis, reverse }, [x]) => engine.cumsum(x, axis % shape.length, reverse),
    terms: ({ shape, axis }) => shape[axis % shape.length],
  }),
]

const movementCases = [
  define({
    name: 'reshape',
    options: (sizes) => fc.record({ shape: shapes(sizes, 0, 4), infer: fc.boolean() }),
    inputs: ({ shape }) => [{ shape }],
    run: ({ shape, infer }, [x]) => engine.reshape(x, infer ? [-1] : [...shape].reverse()),
  }),
  define({
    name: 'detach',
    options: (sizes) => fc.record({ shape: shapes(sizes, 0, 4) }),
    inputs: ({ shape }) => [{ shape }],
    run: (_, [x]) => engine.add(x, engine.mul(engine.detach(x), 0)),
  }),
  define({
    name: 'permute',
    options: (sizes) =>
      shapes(sizes, 1, 5).chain((shape) => {
        const axes = shape.map((_, i) => i)
        return fc.record({ shape: fc.constant(shape), order: fc.shuffledSubarray(axes, { minLength: axes.length }) })
      }),
    inputs: ({ shape }) => [{ shape }],
    run: ({ order }, [x]) => engine.permute(x, order),
  }),
  define({
    name: 'slice',
    options: (sizes) => fc.record({ shape: shapes(sizes, 1, 4), axis: index, begin: index, length: index }),
    inputs: ({ shape }) => [{ shape }],
    run: ({ shape, axis, begin, length }, [x]) => {
      const a = axis % shape.length
      const from = begin % shape[a]
      return engine.slice(x, a, from, from + (length % (shape[a] - from + 1)))
    },
  }),
  define({
    name: 'split',
    options: (sizes) => fc.record({ shape: shapes(sizes, 1, 4), axis: index, first: index, second: index }),
    inputs: ({ shape }) => [{ shape }],
    run: ({ shape, axis, first, second }, [x]) => {
      const a = axis % shape.length
      const one = first % (shape[a] + 1)
      const two = second % (shape[a] - one + 1)
      return engine.split(x, a, [one, two, shape[a] - one - two])
    },
  }),
  define({
    name: 'concat',
    options: (sizes) =>
      fc.record({ shape: shapes(sizes, 1, 4), axis: index, others: fc.array(fc.integer({ min: 1, max: 6 }), { maxLength: 3 }) }),
    inputs: ({ shape, axis, others }) =>
      [shape[axis % shape.length], ...others].map((size) => ({ shape: shape.map((d, i) => (i === axis % shape.length ? size : d)) })),
    run: ({ shape, axis }, parts) => engine.concat(parts, axis % shape.length),
  }),
  define({
    name: 'roll',
    options: (sizes) => fc.record({ shape: shapes(sizes, 1, 4), axis: index, shift: fc.integer({ min: -10, max: 10 }) }),
    inputs: ({ shape }) => [{ shape }],
    run: ({ shape, axis, shift }, [x]) => engine.roll(x, axis % shape.length, shift),
  }),
  define({
    name: 'gather',
    // Many rows of a wide table would be far more than `sizes` means.
    options: (sizes) =>
      fc.record({
        table: shapes(sizes, 2, 2).map(([N, D]) => [N, Math.min(D, 600)]),
        rows: fc.array(fc.constantFrom(1, 2, 3, 7), { maxLength: 3 }),
      }),
    inputs: ({ table, rows }) => [{ shape: table }, { shape: rows, values: { below: table[0] } }],
    run: (_, [table, rows]) => engine.gather(table, rows),
    terms: ({ rows }) => sizeOf(rows),
  }),
  define({
    name: 'overwrite',
    options: (sizes) => fc.record({ shape: shapes(sizes, 1, 3), shift: index }),
    inputs: ({ shape }) => [shape, [halfOf(shape), shape.at(-1)!]].map((shape) => ({ shape, grad: false })),
    run({ shape, shift }, [y, x], device) {
      const rows = sizeOf(shape.slice(0, -1))
      const places = Int32Array.from({ length: halfOf(shape) }, (_, r) => (r + shift) % rows)
      // What is overwritten is the op's own.
      const own = engine.affine(y, -1, 0)
      overwrite(own, x, engine.tensor(places, { device }))
      return own
    },
  }),
]

/** Half of a shape's rows. */
const halfOf = (shape: readonly number[]): number => Math.ceil(sizeOf(shape.slice(0, -1)) / 2)

interface MatmulCase {
  sizes: number[]
  a: number[]
  b: number[]
  transposeA: boolean
  transposeB: boolean
  long: boolean
}
const matmulOptions = (sizes: Sizes): fc.Arbitrary<MatmulCase> =>
  fc
    .record({
      sizes: shapes(sizes, 3, 3, sizes.most > 1000 ? 5 : 1),
      transposeA: fc.boolean(),
      transposeB: fc.boolean(),
      // Longer than what the inner loops take at once.
      long: sizes.most > 1000 ? fc.boolean() : fc.constant(false),
      batches: broadcasts({ axis: fc.constantFrom(1, 2, 3), least: 1, most: 6 }, 2),
    })
    .map(({ batches, ...rest }) => ({ ...rest, ...batches }))
const matmulSizes = ({ sizes: [M, N, K], long, a, b }: MatmulCase) => ({
  M,
  N,
  K: long && K < 100 && M * N < 20_000 ? K + 256 : K,
  batch: broadcastShape(a, b),
})
function matmulInputs(o: MatmulCase): Input[] {
  const { M, N, K } = matmulSizes(o)
  return [{ shape: [...o.a, ...(o.transposeA ? [K, M] : [M, K])] }, { shape: [...o.b, ...(o.transposeB ? [N, K] : [K, N])] }]
}
/** Their gradient is taken before the activation, or from the output: both ways must be right. */
const activations = ['relu', 'sigmoid', 'tanh', 'elu', 'exp', 'neg', 'gelu', 'silu', 'softplus', 'square'] as const

const attentionCase = define({
  name: 'softmaxAttention',
  options: (sizes) =>
    fc
      .record({
        lead: shapes({ axis: fc.constantFrom(1, 2, 3), least: 1, most: 6 }, 0, 2),
        T: sizes.axis,
        before: fc.constantFrom(0, 0, 1, 5),
        K: fc.constantFrom(1, 3, 8),
        V: fc.constantFrom(1, 2, 4, 9),
        visible: fc.boolean(),
      })
      .map((o) => ({ ...o, T: Math.min(o.T, sizes.most > 1000 ? 40 : 4) })),
  inputs: ({ lead, T, before, K, V, visible }) => {
    const n = T + before
    return [
      { shape: [...lead, T, K] },
      { shape: [...lead, n, K] },
      { shape: [...lead, n, V] },
      ...(visible ? [{ shape: [T, n], values: { below: 2 } }] : []),
    ]
  },
  run: (_, [q, k, v, visible]) => engine.softmaxAttention(q, k, v, visible),
  terms: ({ T, before }) => T + before,
})

const matmulCases = [
  attentionCase,
  define({
    name: 'matmul',
    options: matmulOptions,
    inputs: matmulInputs,
    run: ({ transposeA, transposeB }, [a, b]) => engine.matmul(a, b, { transposeA, transposeB }),
    terms: (o) => Math.max(...Object.values(matmulSizes(o)).flat()) * sizeOf(matmulSizes(o).batch),
  }),
  define({
    name: 'linears',
    options: (sizes) =>
      fc.record({
        x: shapes({ ...sizes, most: Math.ceil(sizes.most / 20), least: 1 }, 2, 3),
        N: fc.array(fc.constantFrom(1, 3, 4, 12, 65), { minLength: 1, maxLength: 3 }),
        bias: fc.boolean(),
        activation: fc.option(fc.constantFrom(...activations), { nil: undefined }),
      }),
    inputs: ({ x, N, bias, activation }) => {
      const K = x.at(-1)!
      const [a, b] = activation === 'relu' ? (['grid', 'between'] as const) : [Math.sqrt(3 / Math.sqrt(K)), 'any' as const]
      return [
        { shape: x, values: a },
        ...N.flatMap((n) => [{ shape: [n, K], values: a }, ...(bias || activation === 'relu' ? [{ shape: [n], values: b }] : [])]),
      ]
    },
    run: ({ N, bias, activation }, [x, ...rest]) => {
      const maps = N.map((_, i) => {
        const weight = rest.shift()!
        // Of several some have an activation.
        return { weight, ...((bias || activation === 'relu') && { bias: rest.shift()! }), ...(i !== 1 && { activation }) }
      })
      return engine.linears(x, maps)
    },
    terms: ({ x, N }) => Math.max(...x, ...N) * sizeOf(x.slice(0, -1)),
  }),
  define({
    name: 'twoLinears',
    options: (sizes) =>
      fc.record({
        x: shapes({ ...sizes, most: Math.ceil(sizes.most / 20), least: 1 }, 2, 3),
        inner: fc.constantFrom(1, 4, 7, 36),
        N: fc.constantFrom(1, 4, 9, 64),
        bias: fc.tuple(fc.boolean(), fc.boolean()),
        accumulate: fc.boolean(),
        activation: fc.constantFrom(...activations),
      }),
    inputs: ({ x, inner, N, bias, accumulate, activation }) => {
      const K = x.at(-1)!
      const kink = activation === 'relu'
      const a = kink ? ('grid' as const) : Math.sqrt(3 / Math.sqrt(K))
      return [
        { shape: x, values: a },
        { shape: [inner, K], values: a },
        ...(bias[0] || kink ? [{ shape: [inner], values: kink ? ('between' as const) : ('any' as const) }] : []),
        { shape: [N, inner] },
        ...(bias[1] ? [{ shape: [N] }] : []),
        ...(accumulate ? [{ shape: [...x.slice(0, -1), N] }] : []),
      ]
    },
    run: ({ bias, accumulate, activation }, [x, ...rest]) => {
      const map = (biased: boolean) => ({ weight: rest.shift()!, ...(biased && { bias: rest.shift()! }) })
      const first = { ...map(bias[0] || activation === 'relu'), activation }
      const second = map(bias[1])
      return engine.twoLinears(x, first, second, accumulate ? rest[0] : undefined)
    },
    terms: ({ x, inner, N }) => Math.max(...x, inner, N) * inner * sizeOf(x.slice(0, -1)),
  }),
  define({
    name: 'matmul fused',
    options: (sizes) =>
      fc.record({
        product: matmulOptions(sizes),
        bias: fc.boolean(),
        accumulate: fc.boolean(),
        activation: fc.option(fc.constantFrom(...activations), { nil: undefined }),
      }),
    inputs: ({ product, bias, accumulate, activation }) => {
      const { M, N, K, batch } = matmulSizes(product)
      // Products of about one, where the activations bend; for relu integers and halves, so that no sum is near 0.
      const kink = activation === 'relu'
      const [a, b] = matmulInputs(product).map((input) => ({ ...input, values: kink ? ('grid' as const) : Math.sqrt(3 / Math.sqrt(K)) }))
      return [
        a,
        b,
        ...(bias || kink ? [{ shape: [N], values: kink ? ('between' as const) : ('any' as const) }] : []),
        ...(accumulate ? [{ shape: [...batch, M, N], values: kink ? ('grid' as const) : ('any' as const) }] : []),
      ]
    },
    run: ({ product: { transposeA, transposeB }, bias, accumulate, activation }, [a, b, ...rest]) =>
      engine.matmul(a, b, {
        ...{ transposeA, transposeB, activation },
        ...((bias || activation === 'relu') && { bias: rest[0] }),
        ...(accumulate && { accumulate: rest.at(-1) }),
      }),
    terms: ({ product }) => Math.max(...Object.values(matmulSizes(product)).flat()) * sizeOf(matmulSizes(product).batch),
  }),
]

const normCases = [
  define({
    name: 'layerNorm',
    options: (sizes) => fc.record({ shape: shapes(sizes, 1, 4), gain: fc.boolean(), bias: fc.boolean(), eps: fc.constantFrom(1, 0.1) }),
    inputs: ({ shape, gain, bias }) => [
      { shape },
      ...(gain ? [{ shape: shape.slice(-1) }] : []),
      ...(bias ? [{ shape: shape.slice(-1) }] : []),
    ],
    run: ({ gain, bias, eps }, [x, ...rest]) => engine.layerNorm(x, gain ? rest[0] : null, bias ? rest.at(-1) : null, eps),
    terms: ({ shape }) => sizeOf(shape),
  }),
  define({
    name: 'rmsNorm',
    options: (sizes) => fc.record({ shape: shapes(sizes, 1, 4), gain: fc.boolean(), eps: fc.constantFrom(1e-6, 0.1) }),
    inputs: ({ shape, gain }) => [{ shape, values: 'nonzero' }, ...(gain ? [{ shape: shape.slice(-1) }] : [])],
    run: ({ eps }, [x, gain]) => engine.rmsNorm(x, gain ?? null, eps),
    terms: ({ shape }) => sizeOf(shape),
  }),
  ...(['l2Norm', 'sumNorm'] as const).map((name) =>
    define({
      name,
      options: (sizes) => fc.record({ shape: shapes(sizes, 1, 4), eps: fc.constantFrom(1e-6, 0.1) }),
      inputs: ({ shape }) => [{ shape, values: 'positive' }],
      run: ({ eps }, [x]) => ops[name](x, eps),
      terms: ({ shape }) => shape.at(-1)!,
    }),
  ),
  define({
    name: 'softmax',
    options: (sizes) => fc.record({ shape: shapes(sizes, 1, 4) }),
    inputs: ({ shape }) => [{ shape }],
    run: (_, [x]) => engine.softmax(x),
    terms: ({ shape }) => shape.at(-1)!,
  }),
  define({
    name: 'softmax causal',
    options: (sizes) =>
      fc.record({ shape: shapes(sizes, 2, 4) }).map(({ shape }) => {
        const [n, T] = shape.splice(-2).sort((a, b) => b - a)
        return { shape: [...shape, T, n] }
      }),
    inputs: ({ shape }) => [{ shape }],
    run: (_, [x]) => engine.softmax(x, { causal: true }),
    terms: ({ shape }) => shape.at(-1)!,
  }),
  define({
    name: 'logSoftmax',
    options: (sizes) => fc.record({ shape: shapes(sizes, 1, 4) }),
    inputs: ({ shape }) => [{ shape }],
    run: (_, [x]) => engine.logSoftmax(x),
    terms: ({ shape }) => shape.at(-1)!,
  }),
  define({
    name: 'crossEntropy',
    options: (sizes) =>
      fc.record({
        shape: shapes(sizes, 1, 4),
        reduction: fc.constantFrom('mean', 'sum', 'none'),
        ignore: fc.constantFrom(undefined, -100, 0),
      }),
    inputs: ({ shape, ignore }) => [{ shape }, { shape: shape.slice(0, -1), values: { below: shape.at(-1)!, ignore } }],
    run: ({ shape, reduction, ignore }, [logits, targets]) => {
      // Ignoring class 0 may leave no target, and then there is no mean.
      const none = targets.indices!.every((target) => target === (ignore ?? -100)) || sizeOf(shape) === 0
      return engine.crossEntropy(logits, targets, {
        reduction: none && reduction === 'mean' ? 'sum' : (reduction as 'mean' | 'sum' | 'none'),
        ignore,
      })
    },
    terms: ({ shape }) => sizeOf(shape),
  }),
]

const letters = <L extends string>(
  sizes: Sizes,
  names: readonly L[],
  caps: Partial<Record<L, number>> = {},
): fc.Arbitrary<Record<L, number>> =>
  shapes(sizes, names.length, names.length).map(
    (shape) => Object.fromEntries(names.map((name, i) => [name, Math.min(shape[i], caps[name] ?? Infinity)])) as Record<L, number>,
  )

/** An op of the engine for each rule of the table; where two rules share one, the name says which. */
const ruleOps: Record<engine.RuleName, string> = {
  sum: 'sumRule',
  'linear-attention': 'sumRule normalised',
  delta: 'deltaRule',
  'attention-delta': 'attentionDeltaRule',
  retnet: 'retentionRule',
  mamba2: 'gatedSumRule head',
  gla: 'gatedSumRule channel',
  peng: 'pengRule',
  'gated-delta': 'gatedDeltaRule head',
  kda: 'gatedDeltaRule channel',
  'delta-product': 'deltaProductRule',
  oja: 'ojaRule',
  'gated-oja': 'ojaRule gated',
  longhorn: 'longhornRule',
  'channel-delta': 'gatedDeltaRule value channel',
  hgrn2: 'hgrn2Rule',
  hgrn: 'hgrnRule',
  rwkv4: 'rwkv4Rule',
  gsa: 'gatedSlotRule',
  abc: 'abcRule',
  lightnet: 'lightNetRule',
  'delta-momentum': 'momentumDeltaRule',
  ttt: 'tttRule',
  titans: 'titansRule',
  comba: 'combaRule',
  gdn2: 'gatedDelta2Rule',
  'precond-delta': 'preconditionedDeltaRule head',
  'precond-kda': 'preconditionedDeltaRule channel',
  rwkv5: 'rwkv5Rule',
  rwkv6: 'rwkv6Rule',
  iplr: 'dplrRule plain',
  dplr: 'dplrRule',
  rwkv7: 'rwkv7Rule',
  mesa: 'mesaRule',
  'log-linear': 'logLinearRule',
}

/** Keys of about unit length: rules that correct are unstable beyond beta |k|^2 = 2. */
const ruleValues = (kind: engine.ValueKind, K: number): Values =>
  kind === 'any'
    ? 'any'
    : kind === 'key' || kind === 'unit key'
      ? 1 / Math.sqrt(K)
      : ({ feature: 'positive', positive: 'positive', rate: 'rate', gate: 'gate' } as const)[kind]

const ruleCases = (Object.keys(engine.rules) as engine.RuleName[]).map((name) => {
  const rule: engine.Rule = engine.rules[name]
  // Loops of ops are slow, exact solves slower.
  const cap = name === 'mesa' ? 9 : 70
  const longest = rule.forms.length === 1 || name === 'delta-momentum' ? 40 : 2000
  // One key (T = 1, or K = 1) cancels from a normalised read-out but for eps: with a tiny one its gradients are nothing but rounding. Nor is there much else
  // in what a memory learns of an unstable rate, as it is through a layer norm of numbers that are nearly equal.
  const eps = rule.eps === undefined ? {} : { eps: 'w' in rule.inputs ? 16 : 0.5 }
  return define({
    name: ruleOps[name],
    options: (sizes: Sizes) =>
      fc.record({
        // The largest is the longest sequence; heads and states stay small enough for the reference.
        dims: letters(sizes, ['T', 'H', 'B', 'K', 'V', 'N', 'M'], {
          T: longest,
          H: 9,
          B: 9,
          K: cap,
          V: cap,
          N: 3,
          M: 9,
        }),
        form: fc.constantFrom(...rule.forms.filter((form) => form !== 'parallel')),
        chunk: fc.constantFrom(1, 2, 3, 5, 8, 16, 32, 64),
        scale: fc.constantFrom(1, 0.5),
        state: fc.boolean(),
      }),
    inputs: ({ dims, state }): Input[] => {
      const shape = (letters: readonly engine.Letter[]): number[] => letters.map((letter) => dims[letter])
      const inputs = Object.values(rule.inputs).map((input) => ({ shape: shape(input.shape), values: ruleValues(input.values, dims.K) }))
      const states = Object.entries(rule.state).map(([part, letters]) => ({
        shape: shape(letters),
        values: ({ S: 'any', z: 'positive', a: 'positive', A: 'spd', held: 'rate' } as const)[part as 'S'],
      }))
      return [...inputs, ...(state ? states : [])]
    },
    run: ({ form, chunk, scale }, tensors) => {
      const names = Object.keys(rule.inputs)
      const parts = Object.keys(rule.state)
      const at = (keys: string[], from: number) => Object.fromEntries(keys.map((key, i) => [key, tensors[from + i]]))
      const initial = tensors.length > names.length ? (at(parts, names.length) as unknown as engine.FastWeightState) : undefined
      // One key (T = 1, or K = 1) cancels from a normalised read-out but for eps: with a tiny one its gradients are nothing but rounding.
      const { y, state } = rule.run(at(names, 0), initial, { form, chunk, scale, ...eps })
      return [y, ...parts.map((part) => state[part as 'S']!)]
    },
    sequence: true,
  })
})

/**
 * Programs whose gradient is exact, so no softmax with eps, and well conditioned: Ba's layer normalisation has an eps that keeps nearly equal
 * numbers from being divided by next to nothing, and the recurrent programmer, steep between its thresholds, is left to the claims.
 */
const exact: ((D: number) => engine.Net)[] = [
  ...table
    .map(({ build }) => build)
    .filter((build) => build(2).instructions.every(({ op, x }) => op !== 'softmax' || x === 0))
    .filter((build) => !['Ba 2016', 'recurrent programmer'].includes(build(2).name)),
  (D) => engine.ba2016({ D, steps: 2, eps: 0.3 }),
]
const netOf = ({ which, random, dims: { D } }: { which: number; random: boolean; dims: Record<string, number> }): engine.Net =>
  random ? randomNet(which) : exact[which % exact.length](D)

const linearCases = [
  define({
    name: 'logLinearAttention',
    options: (sizes) =>
      fc.record({
        dims: letters(sizes, ['T', 'H', 'B', 'K', 'V'], { T: 300, H: 3, B: 3, K: 33, V: 33 }),
        form: fc.constantFrom<Form>('recurrent', 'chunk'),
        more: fc.nat(2),
      }),
    inputs: ({ dims: { B, T, H, K, V }, more }) => [
      { shape: [B, T, H, K] },
      { shape: [B, T, H, K], values: 1 / Math.sqrt(K) },
      { shape: [B, T, H, V] },
      { shape: [B, T, H], values: 'gate' },
      { shape: [B, T, H, Math.ceil(Math.log2(T)) + 1 + more] },
    ],
    run: ({ form }, [q, k, v, gate, levels]) => engine.logLinearAttention(q, k, v, gate, levels, { form }),
    sequence: true,
  }),
  define({
    name: 'titansRule in minibatches',
    options: (sizes) =>
      fc.record({
        dims: letters(sizes, ['T', 'H', 'B', 'V'], { T: 40, H: 3, B: 3, V: 33 }),
        minibatch: fc.constantFrom(2, 3, 8, 16),
        state: fc.boolean(),
      }),
    inputs: ({ dims: { B, T, H, V }, state }): Input[] => {
      const rule: engine.Rule = engine.rules.titans
      const size = { B, T, H, V } as Record<engine.Letter, number>
      const inputs = Object.values(rule.inputs).map(({ shape, values }) => ({
        shape: shape.map((letter) => size[letter]),
        values: ruleValues(values, V),
      }))
      return [...inputs, ...(state ? [{ shape: [B, H, V, V] }, { shape: [B, H, V, V] }] : [])]
    },
    run: ({ minibatch }, [q, k, v, theta, alpha, eta, w, b, S, M]) => {
      const { y, state } = engine.titansRule(q, k, v, theta, alpha, eta, w, b, S && { S, M }, { minibatch, eps: 16 })
      return [y, state.S, state.M!]
    },
    sequence: true,
  }),
  define({
    name: 'spreadHeads',
    options: (sizes) => fc.record({ shape: shapes(sizes, 4, 4), times: fc.constantFrom(1, 2, 3) }),
    inputs: ({ shape }) => [{ shape }],
    run: ({ shape, times }, [x]) => engine.spreadHeads(x, shape[2] * times),
    terms: ({ times }) => times,
  }),
  define({
    name: 'solveSpd',
    // K is 100 at most: a matrix has K^2 entries.
    options: (sizes) =>
      fc.record({
        shape: shapes(sizes, 1, 3, 0.2).map((s) => (s.at(-1)! > 100 ? [...s.slice(0, -1), Math.ceil(s.at(-1)! / 3000), 100] : s)),
      }),
    inputs: ({ shape }) => [{ shape: [...shape, shape.at(-1)!], values: 'spd' }, { shape }],
    run: (_, [A, b]) => engine.solveSpd(A, b),
    terms: ({ shape }) => shape.at(-1)! ** 2,
  }),
  define({
    name: 'readOut',
    options: (sizes) => fc.record({ shape: shapes(sizes, 1, 3), V: fc.constantFrom(1, 3) }),
    inputs: ({ shape, V }) => [{ shape: [...shape, V] }, { shape }],
    run: (_, [S, q]) => engine.readOut(S, q),
    terms: ({ shape }) => shape.at(-1)!,
  }),
  define({
    name: 'outer',
    options: (sizes) => fc.record({ shape: shapes(sizes, 1, 3), V: fc.constantFrom(1, 3) }),
    inputs: ({ shape, V }) => [{ shape }, { shape: [...shape.slice(0, -1), V] }],
    run: (_, [k, v]) => engine.outer(k, v),
    terms: ({ shape }) => Math.max(shape.at(-1)!, 3),
  }),
  define({
    name: 'fastWeights',
    options: (sizes) =>
      fc.record({
        dims: letters(sizes, ['T', 'H', 'B', 'K', 'V'], { H: 9, B: 9, K: 70, V: 70 }),
        form: fc.constantFrom<Form>('recurrent', 'chunk'),
        chunk: fc.constantFrom(1, 3, 8, 16, 32),
        erase: fc.boolean(),
      }),
    inputs: ({ dims: { B, T, H, K, V }, erase }) => [
      { shape: [B, T, H, K] },
      { shape: [B, T, H, K], values: 1 / Math.sqrt(K) },
      { shape: [B, T, H, V] },
      { shape: [B, T, H, K], values: 'gate' },
      ...(erase ? [{ shape: [B, T, H, K], values: 1 / Math.sqrt(K) }] : []),
    ],
    run: ({ form, chunk, erase: erases }, [q, k, v, gate, erase]) => {
      const { y, state } = engine.fastWeights(q, k, v, erases ? { gate, erase } : { gate }, undefined, { form, chunk })
      return [y, state.S]
    },
    sequence: true,
  }),
  define({
    name: 'fastWeights with strengths that are sigmoids',
    options: (sizes) =>
      fc.record({
        dims: letters(sizes, ['T', 'H', 'B', 'K', 'V'], { H: 9, B: 9, K: 70, V: 70 }),
        form: fc.constantFrom<Form>('recurrent', 'chunk'),
        gated: fc.boolean(),
        // Whether others read the strengths, too.
        read: fc.boolean(),
      }),
    inputs: ({ dims: { B, T, H, K, V }, gated }) => [
      { shape: [B, T, H, K] },
      { shape: [B, T, H, K], values: 1 / Math.sqrt(K) },
      { shape: [B, T, H, V] },
      { shape: [B, T, H] },
      ...(gated ? [{ shape: [B, T, H], values: 'gate' } as const] : []),
    ],
    run: ({ dims: { B, T, H }, form, read }, [q, k, v, logits, gate]) => {
      const beta = sigmoidLater(logits)
      const { y, state } = engine.fastWeights(q, k, v, { beta, ...(gate && { gate }) }, undefined, { form })
      return [read ? engine.mul(y, engine.reshape(beta, [B, T, H, 1])) : y, state.S]
    },
    sequence: true,
  }),
  define({
    name: 'runNet',
    options: (sizes) =>
      fc.record({
        dims: letters(sizes, ['T', 'H', 'B', 'D'], { H: 5, B: 9, D: 40 }),
        which: fc.nat({ max: 999 }),
        random: fc.boolean(),
        chunk: fc.constantFrom(1, 3, 16),
        state: fc.boolean(),
      }),
    inputs: (o): Input[] => {
      const { B, T, H } = o.dims
      const net = netOf(o)
      const scaled = (shape: readonly number[], lead: number[]): Input => ({
        shape: [...lead, ...shape],
        values: shape.length === 2 ? 1 / Math.sqrt(shape[0]) : 1,
      })
      return [
        { shape: [B, T, H, net.I] },
        ...Object.values(net.parameters).map((shape) => scaled(shape, [H])),
        ...(o.state ? Object.values(net.state).map(({ shape }) => scaled(shape, [B, H])) : []),
      ]
    },
    run: (o, [x, ...rest]) => {
      const net = netOf(o)
      const [names, parts] = [Object.keys(net.parameters), Object.keys(net.state)]
      const at = (keys: string[], from: number) => Object.fromEntries(keys.map((key, i) => [key, rest[from + i]]))
      const options = { parameters: at(names, 0), chunk: o.chunk, ...(o.state && { state: at(parts, names.length) }) }
      const { y, state } = engine.runNet(net, x, options)
      return [y, ...Object.values(state)]
    },
    sequence: true,
  }),
]

const sequenceCases = [
  define({
    name: 'aft',
    options: (sizes) =>
      fc
        .record({
          dims: letters(sizes, ['T', 'D', 'B'], { B: 5 }),
          bias: fc.constantFrom('none', 'table', 'taps'),
          causal: fc.boolean(),
          state: fc.boolean(),
          window: fc.integer({ min: 1, max: 5 }),
          heads: index,
        })
        // A table has T^2 numbers: with 400 tokens there is work for every thread, with thousands minutes of it.
        .map((o) => ({ ...o, dims: { ...o.dims, T: o.bias === 'table' ? Math.min(o.dims.T, 400) : o.dims.T } })),
    inputs: ({ dims: { B, T, D }, bias, causal, state, window, heads }) => {
      const H = D % (1 + (heads % 3)) === 0 ? 1 + (heads % 3) : 1
      const held = bias === 'none' ? 1 : window
      return [
        { shape: [B, T, D] },
        { shape: [B, T, D] },
        ...(bias === 'table' ? [{ shape: [T + 9, T + 9] }] : bias === 'taps' ? [{ shape: [H, causal ? window : 2 * window - 1] }] : []),
        ...(state && causal ? [{ shape: [B, held, D] }, { shape: [B, held, D] }] : []),
      ]
    },
    run: ({ dims: { B }, bias, causal, window }, [k, v, ...rest]) => {
      const w = bias === 'none' ? undefined : bias === 'table' ? { table: rest.shift()! } : { taps: rest.shift()! }
      // Places up to 8 of what came before: rows whose history is short, and rows with all of it.
      const before =
        rest.length > 0 ? { key: rest[0], value: rest[1], position: Int32Array.from({ length: B }, (_, b) => (3 * b) % 9) } : undefined
      const after = engine.aft(k, v, w, before, { causal, ...(bias === 'table' && { window }) })
      return after.state ? [after.y, after.state.value] : [after.y]
    },
    terms: ({ dims: { B, T, D } }) => B * T * D,
  }),
  define({
    name: 'causalConv',
    options: (sizes) => fc.record({ dims: letters(sizes, ['B', 'T', 'D']), W: fc.integer({ min: 1, max: 5 }), state: fc.boolean() }),
    inputs: ({ dims: { B, T, D }, W, state }) => [{ shape: [B, T, D] }, { shape: [D, W] }, ...(state ? [{ shape: [B, W - 1, D] }] : [])],
    run: (_, [x, w, before]) => {
      const { y, state } = engine.causalConv(x, w, before)
      return [y, state]
    },
    terms: ({ dims: { B, T }, W }) => Math.max(B * T, W),
  }),
  define({
    name: 'softplusDecay',
    options: (sizes) => fc.record({ dims: letters(sizes, ['T', 'B', 'W', 'H'], { W: 40, H: 9 }), channels: fc.boolean() }),
    inputs: ({ dims: { B, T, H, W }, channels }) => {
      const own = channels ? [H, W] : [H]
      return [{ shape: [B, T, ...own] }, { shape: channels ? [H, 1] : [H] }, { shape: own }]
    },
    run: (_, [a, rate, shift]) => engine.softplusDecay(a, rate, shift),
    terms: ({ dims: { B, T, W } }) => B * T * W,
  }),
  define({
    name: 'causalConv with silu and l2Norm',
    options: (sizes) =>
      fc.record({
        dims: letters(sizes, ['T', 'B', 'K', 'H'], { B: 9, H: 5, K: 40 }),
        W: fc.integer({ min: 1, max: 5 }),
        state: fc.boolean(),
        silu: fc.boolean(),
        norm: fc.boolean(),
      }),
    inputs: ({ dims: { B, T, H, K }, W, state }) => [
      { shape: [B, T, H * K] },
      { shape: [H * K, W] },
      ...(state ? [{ shape: [B, W - 1, H * K] }] : []),
    ],
    run: ({ dims: { K }, silu, norm }, [x, w, before]) => {
      const { y, state } = engine.causalConv(x, w, before, { silu, ...(norm && { l2Width: K, eps: 0.1 }) })
      return [y, state]
    },
    terms: ({ dims: { B, T, K }, W }) => Math.max(B * T, W) + K,
  }),
  define({
    name: 'dpfp',
    options: (sizes) => fc.record({ shape: shapes(sizes, 1, 4), nu: index }),
    inputs: ({ shape }) => [{ shape, values: 'nonzero' }],
    run: ({ shape, nu }, [x]) => engine.dpfp(x, 1 + (nu % Math.min(4, 2 * shape.at(-1)! - 1))),
    terms: () => 8,
  }),
  define({
    name: 'dpfpSum',
    options: (sizes) => fc.record({ shape: shapes(sizes, 1, 4), nu: index }),
    inputs: ({ shape }) => [{ shape, values: 'nonzero' }],
    run: ({ shape, nu }, [x]) => engine.dpfpSum(x, 1 + (nu % Math.min(4, 2 * shape.at(-1)! - 1)), 0.1),
    terms: ({ shape }) => 8 * shape.at(-1)!,
  }),
  define({
    name: 'dpfpSums',
    // Rows of eight, too, which wasm takes otherwise where nu is 1.
    options: (sizes) =>
      fc.record({
        shape: shapes(sizes, 1, 3),
        D: fc.constantFrom(3, 8, 24),
        count: fc.constantFrom(1, 2, 3),
        nu: fc.constantFrom(1, 1, 2),
      }),
    inputs: ({ shape, D, count }) => Array.from({ length: count }, () => ({ shape: [...shape.slice(1), D], values: 'nonzero' as const })),
    run: ({ nu }, xs) => engine.dpfpSums(xs, nu, 0.1),
    terms: ({ D }) => 8 * D,
  }),
]

const randomCases = [
  ...(['uniform', 'normal'] as const).map((name) =>
    define({
      name,
      options: (sizes) => fc.record({ shape: shapes(sizes, 0, 4), g: streams }),
      inputs: () => [],
      run: ({ shape, g }, _, device) => ops[name]({ ...g }, shape, -1, 2, device),
    }),
  ),
  define({
    name: 'dropout',
    options: (sizes) => fc.record({ shape: shapes(sizes, 0, 4), g: streams, p: probability }),
    inputs: ({ shape }) => [{ shape }],
    run: ({ g, p }, [x]) => engine.dropout(x, p, { ...g }),
  }),
]

const optimizerCases = [
  define({
    name: 'gradNorm',
    options: (sizes) => fc.record({ shapes: fc.array(shapes(sizes, 0, 3), { minLength: 1, maxLength: 3 }) }),
    inputs: (o) => o.shapes.map((shape) => ({ shape, grad: false })),
    run: (_, grads) => engine.gradNorm(grads),
    terms: (o) => o.shapes.reduce((n, shape) => n + sizeOf(shape), 0),
  }),
  define({
    name: 'clipScale',
    options: () => fc.record({ limit: fc.constantFrom(0.1, 1, 10) }),
    inputs: () => [{ shape: [], values: 'positive', grad: false }],
    run: ({ limit }, [norm]) => engine.clipScale(norm, limit),
  }),
  ...(['adamStep', 'adamSteps'] as const).map((name) =>
    define({
      name,
      options: (sizes) =>
        fc.record({
          shapes: fc.array(shapes(sizes, 0, 3), { minLength: 1, maxLength: name === 'adamStep' ? 1 : 3 }),
          clipped: fc.boolean(),
          decoupled: fc.boolean(),
          weightDecay: fc.constantFrom(0, 0.1),
          step: fc.integer({ min: 1, max: 100 }),
        }),
      inputs: ({ shapes, clipped }) => [
        ...shapes.flatMap((shape) => [
          { shape, grad: false },
          { shape, grad: false },
          { shape, grad: false },
          { shape, values: 'positive' as const, grad: false },
        ]),
        ...(clipped ? [{ shape: [], values: 'positive' as const, grad: false }] : []),
      ],
      run: ({ shapes, decoupled, weightDecay, step }, tensors) => {
        const slots = shapes.map((_, i) => ({ p: tensors[4 * i], g: tensors[4 * i + 1], m: tensors[4 * i + 2], v: tensors[4 * i + 3] }))
        const corrections = { correction1: 1 - 0.9 ** step, correction2: 1 - 0.99 ** step }
        const options = { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay, decoupled, ...corrections }
        const scale = tensors.at(4 * shapes.length)
        if (name === 'adamSteps') engine.adamSteps(slots, options, scale)
        else for (const { p, g, m, v } of slots) engine.adamStep(p, g, m, v, options, scale)
        return slots.flatMap(({ p, m, v }) => [p, m, v])
      },
    }),
  ),
  ...(['muonStep', 'muonSteps'] as const).map((name) =>
    define({
      name,
      // Matrices whose singular values differ by less than 1e3, so that the iteration doesn't magnify rounding: random ones, tall or wide.
      options: ({ least }) => {
        const count = Math.ceil(least / 2000)
        return fc.record({
          sizes: fc.array(fc.tuple(fc.integer({ min: 1, max: 24 }), fc.integer({ min: 25, max: 70 })), { minLength: 2, maxLength: 2 }),
          matrices: fc.array(
            fc.record({ kind: fc.nat({ max: 1 }), tall: fc.boolean() }),
            name === 'muonStep' ? { minLength: 1, maxLength: 1 } : { minLength: count, maxLength: count + 3 },
          ),
          clipped: fc.boolean(),
          weightDecay: fc.constantFrom(0, 0.1),
        })
      },
      inputs: ({ sizes, matrices, clipped }) => [
        ...matrices.flatMap(({ kind, tall }) => {
          const shape = tall ? sizes[kind].toReversed() : sizes[kind]
          return [1, 2, 3].map(() => ({ shape, grad: false }))
        }),
        ...(clipped ? [{ shape: [], values: 'positive' as const, grad: false }] : []),
      ],
      run: ({ matrices, weightDecay }, tensors) => {
        const slots = matrices.map((_, i) => ({ p: tensors[3 * i], g: tensors[3 * i + 1], m: tensors[3 * i + 2] }))
        const options = { lr: 0.1, momentum: 0.95, weightDecay }
        const scale = tensors.at(3 * matrices.length)
        if (name === 'muonSteps') engine.muonSteps(slots, options, scale)
        else for (const { p, g, m } of slots) engine.muonStep(p, g, m, options, scale)
        return slots.flatMap(({ p, m }) => [p, m])
      },
      terms: ({ sizes }) => 100 * Math.max(...sizes.map(sizeOf)),
    }),
  ),
]

export const cases: readonly Case[] = [
  ...elementwiseCases,
  ...reduceCases,
  ...movementCases,
  ...matmulCases,
  ...normCases,
  ...sequenceCases,
  ...ruleCases,
  ...linearCases,
  ...randomCases,
  ...optimizerCases,
]

/** The tensor that an input describes; `seed` decides its values. */
export function make({ shape, values = 'any', grad = true }: Input, seed: number, device: Device): Tensor {
  const n = sizeOf(shape)
  if (typeof values === 'object') {
    const next = random(seed)
    const { below, ignore } = values
    const data = Int32Array.from({ length: n }, () => (ignore !== undefined && next() < 0.25 ? ignore : Math.floor(below * next())))
    return engine.tensor(data, { shape, device })
  }
  const data = values === 'spd' ? spd(uniforms(seed, n), shape.at(-1)!) : floats(values, seed, n)
  return engine.tensor(data, { shape, device, requiresGrad: grad })
}

/** x x^T / K + 1 for each of the matrices x. */
function spd(x: Float32Array, K: number): Float32Array {
  return x.map((_, index) => {
    const i = Math.floor(index / K)
    const row = (r: number, l: number): number => x[(i - (i % K) + r) * K + l]
    let total = i % K === index % K ? 1 : 0
    for (let l = 0; l < K; l++) total += (row(i % K, l) * row(index % K, l)) / K
    return total
  })
}

function floats(values: Exclude<Values, object | 'spd'>, seed: number, n: number): Float32Array {
  if (values === 'distinct') {
    const spaced = uniforms(seed, n).map((_, i) => (4 * i) / n - 2)
    const next = random(seed)
    for (let i = n - 1; i > 0; i--) {
      const j = Math.floor((i + 1) * next())
      ;[spaced[i], spaced[j]] = [spaced[j], spaced[i]]
    }
    return spaced
  }
  const range = typeof values === 'number' ? values : 2
  const u = uniforms(seed, n, -range, range)
  if (values === 'positive') return u.map((x) => 0.25 + Math.abs(x))
  if (values === 'nonzero') return u.map((x) => (x < 0 ? x - 0.25 : x + 0.25))
  if (values === 'rate') return u.map((x) => 0.5 + 0.24 * x)
  if (values === 'gate') return u.map((x) => -1.5 + 0.74 * x)
  if (values === 'grid') return u.map((x) => Math.round(x))
  if (values === 'between') return u.map((x) => Math.floor(x) + 0.5)
  return u
}

export interface Evaluation {
  outputs: HostArray[]
  /** Of each input: null where it asked for none, or none came. */
  grads: (HostArray | null)[]
}

/** Runs a case on a device, backward included: the outputs, contracted with seeded cotangents, make the loss. */
export async function evaluate(c: Case, o: unknown, seed: number, device: Device): Promise<Evaluation> {
  const { outputs, grads } = scope(() => {
    const inputs = c.inputs(o).map((input, i) => make(input, seed + i, device))
    const outputs = [c.run(o, inputs, device)].flat()
    const parts = outputs
      .filter((y) => y.requiresGrad)
      .map((y, i) => {
        const cotangent = engine.tensor(uniforms(seed + 100 + i, y.size), { shape: y.shape, device })
        return engine.sum(engine.mul(y, cotangent))
      })
    if (parts.length > 0) parts.reduce((a, b) => engine.add(a, b)).backward()
    return { outputs, grads: inputs.map((x) => x.grad) }
  })
  const results = {
    outputs: await Promise.all(outputs.map((y) => y.read())),
    grads: await Promise.all(grads.map(async (g) => g && (await g.read()))),
  }
  for (const t of [...outputs, ...grads]) t?.dispose()
  return results
}
