/**
 * Every kernel of the table in small fixed cases, against the reference: what `fastweights doctor` runs, and what a page can run in a
 * browser. The tests of test/ops go further; this is for machines that nobody has tested. Tests: test/ops/selfcheck.test.ts.
 */
import { checkDevice } from './arguments.ts'
import type { Device, HostArray } from './devices/device.ts'
import { halfMatrices } from './devices/halves.ts'
import {
  type AftSizes,
  binaryOps,
  type FastWeightInputs,
  type FastWeightOutputs,
  type KernelName,
  type Kernels,
  type MatmulSizes,
  type NetInputs,
  normKinds,
  tokenBits,
  unaryOps,
} from './devices/kernels.ts'
import { referenceDevice } from './devices/reference/index.ts'
import { threefry } from './devices/reference/random.ts'
import { type HalfType, halfTypes, narrowed } from './half.ts'
import { defineNet, netSizes } from './nets/program.ts'

/** What a check of a device has found of one kernel. */
export interface KernelCheck {
  kernel: KernelName
  /** How many cases were compared with the reference. */
  cases: number
  /** Largest |result - reference| / (1 + max |reference|) of any output, over its finite numbers; what isn't finite has to be the same. */
  error: number
  /** What the error may be at most. */
  bound: number
  /** Whether the error is within the bound, and the device said nothing. */
  ok: boolean
  /** What the device said, where it gave no result. */
  message?: string
}

/** The memory of a case, the same on every device. */
interface Memory {
  /** n numbers in [low, high), -1 to 1 if not given. */
  input(n: number, low?: number, high?: number): unknown
  from(values: readonly number[]): unknown
  indices(values: readonly number[]): unknown
  /** A matrix of 16-bit numbers. */
  halves(rows: number, columns: number, type: HalfType): unknown
  /** For n results that are compared. Until they are written they are NaN. */
  output(n: number): unknown
  /** For n results that only the case itself uses. */
  temporary(n: number): unknown
  /** What a kernel changes in place, compared afterwards. */
  inout(values: number | readonly number[], low?: number, high?: number): unknown
  /** Those of `inout`, moved side by side where the device can reach them at once then. */
  gathered(storages: readonly unknown[]): readonly unknown[]
}

type Case = (kernels: Kernels<unknown>, memory: Memory) => void

/**
 * wasm and a software GPU are off by 7e-7 at most, a sum of 600 terms being the largest; a real GPU may divide and fuse less exactly. What
 * only moves numbers is exact.
 */
const float32Bound = 5e-6
const exact: readonly KernelName[] = ['fill', 'copy', 'copyWhere', 'gather', 'scatter']

/**
 * Kernels whose operands a device of precision f16 rounds, and so the reference beside it. Which of its two neighbours in float16 a number becomes WGSL
 * leaves open, so that a product may be off by 2^-9 of itself; what is solved or scanned between two products passes that on.
 */
const rounding: readonly KernelName[] = ['matmul', 'products', 'fastWeights', 'fastWeightsBackward']
const float16Bound = 2 ** -8

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i)

const plain: MatmulSizes = {
  batch: 1,
  strideA: 0,
  strideB: 0,
  M: 1,
  N: 1,
  K: 1,
  transposeA: false,
  transposeB: false,
  sparse: false,
  accumulate: false,
  activation: null,
}

const matmulCase =
  (sizes: Partial<MatmulSizes>, biased = false): Case =>
  (k, m) => {
    const all = { ...plain, ...sizes }
    const { batch, M, N, K, strideA, strideB, accumulate } = all
    const a = m.input(strideA === 0 ? M * K : batch * M * K)
    const b = m.input(strideB === 0 ? K * N : batch * K * N)
    const c = accumulate ? m.inout(batch * M * N) : m.output(batch * M * N)
    k.matmul(a, b, biased ? m.input(N) : null, c, all)
  }

const halfCase =
  (M: number, N: number, K: number, type: HalfType): Case =>
  (k, m) =>
    k.matmul(m.input(M * K), m.halves(N, K, type), m.input(N), m.output(M * N), { ...plain, M, N, K, transposeB: true, halfB: type })

/** A rule of the recurrence: which inputs it has beside q, k, v, and values of the gate for each token and head (0: no gate). */
interface Recurrence {
  beta?: boolean
  erase?: boolean
  gateWidth?: 0 | 1 | 'K'
  normalised?: boolean
  /** With padding, and several sequences a row. */
  packed?: boolean
  transposed?: boolean
  along?: boolean
  /** Strengths are given as numbers whose sigmoids they are. */
  logits?: boolean
  /** So many heads, or tokens of few heads, that a GPU computes them otherwise. */
  many?: 'heads' | 'tokens'
}

const recurrences: readonly Recurrence[] = [
  {},
  { normalised: true, gateWidth: 1 },
  { beta: true },
  { beta: true, gateWidth: 1 },
  { beta: true, gateWidth: 'K' },
  { beta: true, logits: true, packed: true },
  { erase: true, gateWidth: 'K' },
  { normalised: true, gateWidth: 1, packed: true },
  { beta: true, packed: true },
  { erase: true, gateWidth: 'K', packed: true },
  { beta: true, transposed: true },
  { beta: true, gateWidth: 1, transposed: true },
  { beta: true, gateWidth: 'K', packed: true, transposed: true },
  { erase: true, along: true },
  { erase: true, along: true, gateWidth: 'K', packed: true },
  { many: 'heads' },
  { beta: true, gateWidth: 1, packed: true, many: 'heads' },
  { beta: true, gateWidth: 'K', packed: true, many: 'heads' },
  { beta: true, many: 'heads' },
  { beta: true, many: 'tokens' },
  { erase: true, many: 'tokens' },
  { erase: true, gateWidth: 1, packed: true, many: 'tokens' },
  { erase: true, gateWidth: 'K', packed: true, many: 'tokens' },
]

const fastWeightCase =
  (
    form: 'recurrent' | 'chunk',
    { beta, erase, gateWidth = 0, normalised, packed, transposed = false, along, logits = false, many }: Recurrence,
    backward: boolean,
  ): Case =>
  (k, m) => {
    const [B, T, C] = many === 'heads' ? [32, 36, 32] : many === 'tokens' ? [1, 132, 32] : [2, 21, 8]
    const [H, K, V] = [2, 10, 6]
    const width = gateWidth === 'K' ? K : gateWidth
    const sizes = { B, T, H, K, V, C, scale: 0.5, gateWidth: Math.max(width, 1), eps: 0.5, transposed, logits }
    const [queryWidth, readWidth] = transposed ? [V, K] : [K, V]
    const tokens = B * T * H
    const chunks = Math.ceil(T / C)
    // Keys of about unit length: a correction with longer ones grows without end. A normaliser divides by sums of positive numbers.
    const key = Math.sqrt(3 / K)
    const inputs: FastWeightInputs<unknown> = {
      q: normalised ? m.input(tokens * K, 0.1, 1) : m.input(tokens * queryWidth),
      k: normalised ? m.input(tokens * K, 0.1, 1) : m.input(tokens * K, -key, key),
      v: m.input(tokens * V),
      beta: beta ? m.input(tokens, logits ? -2 : 0, 1) : null,
      gate: width ? m.input(tokens * width, -2, 0) : null,
      erase: erase ? m.input(tokens * K, -key, key) : null,
      along: along ? m.input(tokens * K, -key, key) : null,
      tokens: packed
        ? m.indices(range(B * T).map((i) => (i % 5 === 3 ? 0 : tokenBits.token) + (i % 9 === 4 ? tokenBits.begins : 0)))
        : null,
      s0: m.input(B * H * K * V),
      z0: normalised ? m.input(B * H * K, 0.1, 1) : null,
    }
    const result = backward ? m.temporary : m.output
    const outputs: FastWeightOutputs<unknown> = {
      y: result(tokens * readWidth),
      sT: result(B * H * K * V),
      zT: normalised ? result(B * H * K) : null,
      den: normalised ? result(tokens) : null,
      states: result(B * H * chunks * K * V),
      zs: normalised ? result(B * H * chunks * K) : null,
    }
    k.fastWeights(form, inputs, outputs, sizes)
    if (!backward) return
    const { y, den, states, zs } = outputs
    k.fastWeightsBackward(
      form,
      inputs,
      { y: normalised ? y : null, den, states, zs },
      { dy: m.input(tokens * readWidth), dsT: m.input(B * H * K * V), dzT: normalised ? m.input(B * H * K) : null },
      {
        dq: m.output(tokens * queryWidth),
        dk: m.output(tokens * K),
        dv: m.output(tokens * V),
        dbeta: beta ? m.output(tokens) : null,
        dgate: width ? m.output(tokens * width) : null,
        derase: erase ? m.output(tokens * K) : null,
        dalong: along ? m.output(tokens * K) : null,
        ds0: m.output(B * H * K * V),
        dz0: normalised ? m.output(B * H * K) : null,
      },
      sizes,
    )
  }

const fastWeightCases = (backward: boolean): Case[] =>
  (['recurrent', 'chunk'] as const).flatMap((form) => recurrences.map((rule) => fastWeightCase(form, rule, backward)))

/** A program of every instruction: matrices of odd sizes, with a decay and an activation, read before and after they're written. */
export const everyInstruction = defineNet('every instruction', (net) => {
  const h = net.vector('h', 5)
  const M = net.matrix('M', 5, 7)
  const N = net.matrix('N', 6, 3)
  const slow = net.slowMatrix('slow', 7, 6)
  const x = net.inputs({ a: 7, b: 5, c: 1, d: 3 })
  const k = net.softmax(net.add(h, x.b), 0.01)
  net.write(M, k, net.sub(x.a, net.read(M, k)), { decay: net.sigmoid(x.c) })
  const r = net.norm('layer', net.add(net.read(M, net.mul(k, x.b)), net.slowVector('gain', 7)), 0.1)
  const s = net.tanh(net.read(slow, r))
  net.write(N, s, net.times(net.norm('sum', net.elu1(x.d), 0.1), x.c), { decay: 0.9, activation: 'tanh' })
  const o = net.concat(net.read(N, net.norm('rms', s, 0.1)), net.dot(k, x.b))
  net.next('h', net.concat(net.slice(o, 1, 3), net.affine(net.slice(r, 2, 2), 0.5, 0.1)))
  net.output(net.concat(o, net.norm('l2', r, 0.1)))
})

const netCase =
  (whole: boolean, backward: boolean): Case =>
  (k, m) => {
    const [B, T, H, C] = [2, 7, 2, 3]
    const sizes = netSizes(everyInstruction, { B, T, H, C })
    const { I, O, S, P, stateFloats } = sizes
    const { token, begins } = tokenBits
    const inputs: NetInputs<unknown> = {
      program: m.indices(Array.from(everyInstruction.code)),
      x: m.input(B * T * H * I),
      parameters: m.input(H * P, -0.5, 0.5),
      fresh: whole ? m.input(H * S, -0.5, 0.5) : null,
      s0: whole ? m.input(B * H * S, -0.5, 0.5) : null,
      tokens: whole ? m.indices(range(B * T).map((i) => (i % 5 === 2 ? 0 : token) + (i % 4 === 1 ? begins : 0))) : null,
    }
    const result = backward ? m.temporary : m.output
    const states = m.temporary(B * H * Math.ceil(T / C) * stateFloats)
    k.net(inputs, { y: result(B * T * H * O), sT: result(B * H * S), states: backward ? states : null }, sizes)
    if (!backward) return
    const gradients = {
      dx: m.output(B * T * H * I),
      dparameters: m.output(B * H * P),
      dfresh: whole ? m.output(B * H * S) : null,
      ds0: whole ? m.output(B * H * S) : null,
    }
    k.netBackward(inputs, states, { dy: m.input(B * T * H * O), dsT: whole ? m.input(B * H * S) : null }, gradients, sizes)
  }

/** What drivers lose or round away: NaN, infinities, numbers far out. */
const extremes = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, -90, 90, -1e14, 1e14]
const angles = [1e5, -1e6, 1e7, 1e8, 1e10, -1e20, 3e38]

/** [3, 70] in [-4, 4) with a NaN in the middle row. */
const withNan = (m: Memory): unknown => m.from(range(210).map((i) => (i === 97 ? Number.NaN : ((i * i * 7) % 64) / 8 - 4)))

/** Row normalisation of [5, 70]. Only a sum that isn't near 0 can be divided by. */
const normInput = (kind: (typeof normKinds)[number], m: Memory): unknown => m.input(350, kind === 'sum' ? 0.1 : -1, 1)

/** Each bias, causal or not, with a history, padding, and a second sequence. */
const aftCases = (backward: boolean): Case[] =>
  (['none', 'table', 'taps'] as const).flatMap((bias) =>
    [true, false].map(
      (causal): Case =>
        (k, m) => {
          const [B, T, D, N] = [2, 11, 5, 12]
          const window = bias === 'none' ? 0 : 3
          const past = causal ? Math.max(window, 1) : 0
          const n = past + T
          const sizes: AftSizes = { B, n, past, D, window, causal, bias, N }
          const begin = Math.max(past, 1) - 1
          const places = [
            ...range(past).map((i) => i - 1),
            ...range(T).map((t) => (t === 4 ? -1 : t < 6 ? begin + t - Number(t > 4) : t - 6)),
          ]
          const w = { none: 0, table: N * N, taps: (causal ? window : 2 * window - 1) * D }[bias]
          const inputs = [m.input(B * n * D), m.input(B * n * D), w ? m.input(w) : null, m.indices([...places, ...places])] as const
          const made = backward ? m.temporary : m.output
          const saved = { y: made(B * T * D), lse: made(B * T * D) }
          k.aft(...inputs, saved.y, saved.lse, sizes)
          if (!backward) return
          const gradients = { dk: m.output(B * n * D), dv: m.output(B * n * D), dw: w ? m.output(w) : null }
          k.aftBackward(...inputs, saved, { dy: m.input(B * T * D), dlse: causal ? m.input(B * T * D) : null }, gradients, sizes)
        },
    ),
  )

/** With a state and without, and what may follow. */
const convolutions = [true, false].flatMap((carried) => [true, false].flatMap((silu) => [0, 3].map((width) => ({ carried, silu, width }))))

/** A kernel without a case doesn't compile. */
const cases: Record<KernelName, readonly Case[]> = {
  fill: [(k, m) => k.fill(m.output(300), 300, 0.75)],
  affine: [(k, m) => k.affine(m.input(300), m.output(300), 300, -0.7, 0.3)],
  accumulate: [(k, m) => k.accumulate(m.input(300), m.inout(300), 300)],
  unary: unaryOps.flatMap((op): Case[] => [
    (k, m) => k.unary(op, m.input(70, 0.25, 2), m.output(70), 70),
    ...(op === 'log' || op === 'sqrt' ? [] : ([(k, m) => k.unary(op, m.input(70, -2, -0.25), m.output(70), 70)] satisfies Case[])),
    (k, m) => k.unary(op, m.from(extremes), m.output(extremes.length), extremes.length),
    ...(op === 'sin' || op === 'cos'
      ? [((k, m) => k.unary(op, m.from(angles), m.output(angles.length), angles.length)) satisfies Case]
      : []),
  ]),
  unaryBackward: unaryOps.flatMap((op): Case[] => [
    (k, m) => {
      const [x, y] = [m.input(70, 0.25, 2), m.temporary(70)]
      k.unary(op, x, y, 70)
      k.unaryBackward(op, x, y, m.input(70), m.output(70), 70)
    },
    (k, m) => {
      const n = extremes.length
      const [x, y] = [m.from(extremes), m.temporary(n)]
      k.unary(op, x, y, n)
      k.unaryBackward(op, x, y, m.from(extremes.map(() => 1)), m.output(n), n)
    },
  ]),
  binary: binaryOps.flatMap((op): Case[] => [
    (k, m) => {
      const [a, b] = [m.from(range(105).map((i) => (i % 5) - 2)), m.from(range(7).map((i) => (i % 2 === 0 ? -1 : 1.5) * (1 + (i % 3))))]
      k.binary(op, a, b, m.output(105), [5, 3, 7], [21, 7, 1], [0, 0, 1])
    },
    (k, m) => {
      const values = [Number.NaN, 1, -2, 0.5]
      k.binary(op, m.from(values), m.from(values), m.output(16), [4, 4], [0, 1], [1, 0])
    },
  ]),
  scaleBackward: [
    [15, 15, 7, 3],
    [15, 5, 7, 3],
    [4200, 2, 70, 3],
    [15, 3, 70, 2],
    [15, 15, 70, 1],
  ].map(
    ([R, P, n, wanted]): Case =>
      (k, m) =>
        k.scaleBackward(
          m.input(R * n),
          m.input(P),
          m.input(R * n),
          wanted & 1 ? m.output(R * n) : null,
          wanted & 2 ? m.output(P) : null,
          R,
          P,
          n,
        ),
  ),

  copy: [
    (k, m) => k.copy(m.input(105), m.output(105), [7, 3, 5], [1, 7, 21], 0, [15, 5, 1], 0),
    (k, m) => k.copy(m.input(40), m.inout(60), [10, 2], [-4, 1], 37, [5, 2], 3),
    (k, m) => k.copy(m.input(6), m.output(24), [2, 4, 3], [3, 0, 1], 0, [12, 3, 1], 0),
  ],
  copyWhere: [
    (k, m) => k.copyWhere(m.indices([0, 1, -1, 0, 7]), m.input(105), m.inout(105), [7, 3, 5], [0, 0, 1], [15, 5, 1]),
    (k, m) => k.copyWhere(m.indices([1, 0, 2, 0, 3, 0, 1, 1]), m.input(3), m.inout(48), [2, 4, 2, 3], [4, 1, 0, 0], [0, 0, 0, 1]),
  ],
  gather: [
    (k, m) => k.gather(m.input(54), m.indices([8, 0, 3, 3, 0, 7]), m.output(36), 6, 9, 6),
    ...halfTypes.map(
      (type): Case =>
        (k, m) =>
          k.gather(m.halves(9, 7, type), m.indices([8, 0, 3]), m.output(21), 3, 9, 7, type),
    ),
  ],
  scatter: [
    (k, m) => k.scatter(m.input(36), m.indices([8, 0, 3, 2, 1, 7]), m.inout(54), 6, 6),
    (k, m) => k.scatter(m.input(14), m.indices([4, 1]), m.inout(35), 2, 7),
  ],
  gatherBackward: [
    (k, m) => k.gatherBackward(m.input(66), m.indices([8, 0, 3, 3, 0, 7, 3, 1, 1, 8, 3]), m.output(54), 11, 9, 6),
    // Of many rows, in which WebGPU doesn't search.
    (k, m) => k.gatherBackward(m.input(1800), m.indices(range(300).map((i) => ((i * i) % 97) * 7)), m.output(4200), 300, 700, 6),
  ],

  reduce: (['sum', 'max'] as const).flatMap((op): Case[] => [
    (k, m) => k.reduce(op, m.input(750), m.output(15), 3, 50, 5),
    (k, m) => k.reduce(op, m.input(600), m.output(2), 2, 300, 1),
    (k, m) => k.reduce(op, m.input(6600), m.output(22), 2, 300, 11),
    (k, m) => k.reduce(op, m.input(10000), m.output(2), 1, 5000, 2),
    (k, m) => k.reduce(op, withNan(m), m.output(3), 3, 70, 1),
    (k, m) => k.reduce(op, withNan(m), m.output(70), 1, 3, 70),
  ]),
  cumsum: [false, true].map(
    (reverse): Case =>
      (k, m) =>
        k.cumsum(m.input(240), m.output(240), 2, 40, 3, reverse),
  ),
  matmul: [
    ...halfTypes.flatMap((type) => [halfCase(1, 37, 21, type), halfCase(9, 70, 530, type), halfCase(20, 72, 36, type)]),
    matmulCase({ M: 70, N: 66, K: 37 }),
    matmulCase({ M: 33, N: 21, K: 40, transposeA: true }),
    matmulCase({ M: 20, N: 72, K: 18, transposeB: true, activation: 'gelu' }, true),
    matmulCase({ M: 9, N: 8, K: 600, transposeA: true, transposeB: true }, true),
    matmulCase({ batch: 3, M: 5, N: 12, K: 7, strideA: 35, accumulate: true }),
    // What WebGPU makes in tiles of 128 x 128, 128 x 64 and 64 x 64, and in ranges of K.
    matmulCase({ batch: 65, M: 70, N: 72, K: 9, strideA: 630, transposeA: true }, true),
    matmulCase({ batch: 43, M: 67, N: 66, K: 15, strideA: 1005, transposeB: true }),
    matmulCase({ M: 194, N: 1153, K: 9 }),
    matmulCase({ M: 9, N: 70, K: 3000, sparse: true, accumulate: true }, true),
    (k, m) => {
      const [a, b] = [m.from([1, 2, -3]), m.from(range(70).map((i) => (i === 41 ? Number.NaN : (i % 9) - 4)))]
      const sizes: MatmulSizes = { ...plain, M: 3, N: 70, K: 1, activation: 'relu' }
      k.matmul(a, b, null, m.output(210), sizes)
    },
    (k, m) => {
      // Row i of A sees the first i + 1 rows of B, the last of which nobody may.
      const [M, N, K] = [9, 11, 10]
      const a = m.from(range(M * K).map((at) => (at % K > Math.floor(at / K) ? 0 : 1 / (1 + at))))
      const b = m.from(range(K * N).map((at) => (at < 9 * N ? (at % 7) - 3 : Number.NaN)))
      k.matmul(a, b, null, m.output(M * N), { ...plain, M, N, K, sparse: true })
    },
  ],

  // WebGPU takes those of sizes that are multiples of 4 together.
  products: [
    [8, 72, 36],
    [68, 4, 20],
    [5, 3, 7],
  ]
    .flatMap(([M, N, K]): Case[] => [
      (k, m) => {
        const x = m.input(M * K)
        const map = { a: x, b: m.input(N * K), K, transposeA: false, transposeB: true }
        const [first, second] = [m.output(M * N), m.output(M * N)]
        k.products([
          { c: first, M, N, terms: [map], bias: m.input(N), activation: 'relu' },
          { c: second, M, N, terms: [{ ...map, b: m.input(N * K) }], activation: 'tanh' },
          { c: m.output(K * K), M: K, N: K, terms: [{ a: x, b: x, K: M, transposeA: true, transposeB: false }] },
        ])
      },
      (k, m) => {
        const [x, dy, dz, h] = [m.input(M * K), m.input(M * N), m.input(M * N), m.temporary(M * K)]
        k.unary('relu', x, h, M * K)
        const back = (a: unknown) => ({ a, b: m.input(N * K), K: N, transposeA: false, transposeB: false })
        const [{ gathered }, weight, bias] = [m, m.inout(N * K), m.inout(N)]
        const [c, sums] = gathered([weight, bias])
        const of = (a: unknown) => [{ a, b: x, K: M, transposeA: true, transposeB: false }]
        k.products([
          { c: m.inout(M * K), M, N: K, terms: [back(dy), back(dz)], accumulate: true },
          { c, M: N, N: K, terms: of(dy), sums, accumulate: true },
          { c: m.output(N * K), M: N, N: K, terms: of(dz), sums: m.output(N) },
          { c: m.output(M * K), M, N: K, terms: [back(dy)], gate: { op: 'relu', y: h } },
        ])
      },
    ])
    .concat((k, m) => {
      // In tiles of 128 x 128.
      const [M, N, K] = [68, 8324, 4]
      const [c, sums] = m.gathered([m.inout(M * N), m.inout(M)])
      k.products([{ c, M, N, terms: [{ a: m.input(K * M), b: m.input(K * N), K, transposeA: true, transposeB: false }], sums }])
    }),

  norm: normKinds.flatMap((kind): Case[] => [
    (k, m) => k.norm(kind, normInput(kind, m), m.input(70), m.input(70), m.output(350), m.output(10), 5, 70, 0.1),
    (k, m) => k.norm(kind, normInput(kind, m), null, null, m.output(350), m.output(10), 5, 70, 0.1),
    (k, m) => k.norm(kind, withNan(m), null, null, m.output(210), m.temporary(6), 3, 70, 0.1),
    (k, m) => k.norm(kind, m.input(140, 0.5e20, 2e20), null, null, m.output(140), m.temporary(4), 2, 70, 0.1),
  ]),
  normBackward: [
    ...normKinds.flatMap((kind) =>
      [false, true].map(
        (accumulate): Case =>
          (k, m) => {
            const [x, gain, stats] = [normInput(kind, m), m.input(70), m.temporary(10)]
            k.norm(kind, x, gain, null, m.temporary(350), stats, 5, 70, 0.1)
            const dx = accumulate ? m.inout(350) : m.output(350)
            k.normBackward(kind, x, gain, stats, m.input(350), { dx, dgain: accumulate ? m.output(70) : null }, 5, 70, accumulate)
          },
      ),
    ),
    // A few rows, many, and very many: WebGPU has a way for each.
    ...[
      [5, 70],
      [150, 11],
      [4200, 2],
    ].flatMap(([R, n]) =>
      [false, true].map(
        (whole): Case =>
          (k, m) => {
            const [x, stats] = [m.input(R * n), m.temporary(2 * R)]
            k.norm('layer', x, null, null, m.temporary(R * n), stats, R, n, 0.1)
            const gradients = { dx: whole ? m.output(R * n) : null, dgain: m.output(n), dbias: m.output(n) }
            k.normBackward('layer', x, null, stats, m.input(R * n), gradients, R, n, false)
          },
      ),
    ),
  ],
  softmax: [
    (k, m) => k.softmax(m.input(350, -4, 4), m.output(350), 5, 70, false, 0),
    (k, m) => k.softmax(m.input(350, -4, 4), m.output(350), 5, 70, true, 0),
    (k, m) => k.softmax(m.input(108, -4, 4), m.output(108), 12, 9, false, 6),
    (k, m) => k.softmax(withNan(m), m.output(210), 3, 70, false, 0),
    (k, m) => k.softmax(withNan(m), m.output(210), 3, 70, true, 0),
  ],
  softmaxBackward: [false, true].map(
    (log): Case =>
      (k, m) => {
        const y = m.temporary(350)
        k.softmax(m.input(350, -4, 4), y, 5, 70, log, 0)
        k.softmaxBackward(y, m.input(350), m.output(350), 5, 70, log)
      },
  ),
  crossEntropy: [
    (k, m) => k.crossEntropy(m.input(350, -4, 4), m.indices([69, 0, -1, 5, 7]), m.output(5), m.output(5), 5, 70, -1),
    (k, m) => k.crossEntropy(withNan(m), m.indices([69, 0, 5]), m.output(3), m.output(3), 3, 70, -1),
  ],
  crossEntropyBackward: [
    (k, m) => {
      const [logits, targets, lse] = [m.input(350, -4, 4), m.indices([69, 0, -1, 5, 7]), m.temporary(5)]
      k.crossEntropy(logits, targets, m.temporary(5), lse, 5, 70, -1)
      k.crossEntropyBackward(logits, targets, lse, m.input(5), m.output(350), 5, 70, -1)
    },
  ],

  aft: aftCases(false),
  aftBackward: aftCases(true),

  decay: [1, 3].map(
    (width): Case =>
      (k, m) =>
        k.decay(m.input(105, -4, 4), m.input(15 / width), m.input(15), m.output(105), 7, 15, width),
  ),
  // Some rows, and very many: WebGPU has a way for each.
  decayBackward: [
    [7, 15, 3],
    [4200, 2, 1],
  ].map(
    ([R, n, width]): Case =>
      (k, m) => {
        const gradients = { da: m.output(R * n), drate: m.output(n), dshift: m.output(n) }
        k.decayBackward(m.input(R * n, -4, 4), m.input(n / width), m.input(n), m.input(R * n), gradients, R, n, width)
      },
  ),

  conv: convolutions.map(
    ({ carried, silu, width }): Case =>
      (k, m) => {
        const kept = { sums: silu ? m.output(180) : null, stats: width ? m.output(360 / width) : null }
        const outputs = { y: m.output(180), next: m.output(54), ...kept }
        k.conv(m.input(180), m.input(36), carried ? m.input(54) : null, outputs, { B: 2, T: 10, D: 9, W: 4, silu, width, eps: 0.1 })
      },
  ),
  convBackward: convolutions.map(
    ({ carried, silu, width }): Case =>
      (k, m) => {
        const [x, w, state, dy] = [m.input(180), m.input(36), carried ? m.input(54) : null, m.input(180)]
        const saved = { y: m.temporary(180), sums: silu ? m.temporary(180) : null, stats: width ? m.temporary(360 / width) : null }
        const sizes = { B: 2, T: 10, D: 9, W: 4, silu, width, eps: 0.1 }
        k.conv(x, w, state, { ...saved, next: null }, sizes)
        k.convBackward(x, w, state, saved, dy, { dx: m.output(180), dw: m.output(36), dstate: carried ? m.output(54) : null }, sizes)
      },
  ),
  dpfp: [(k, m) => k.dpfp(m.input(35), m.output(210), 5, 7, 3), (k, m) => k.dpfp(withNan(m), m.output(420), 3, 70, 1)],
  dpfpBackward: [
    (k, m) => k.dpfpBackward(m.input(35), m.input(210), m.output(35), 5, 7, 3),
    (k, m) => k.dpfpBackward(withNan(m), m.input(420), m.output(210), 3, 70, 1),
  ],
  // Of three arrays, since WebGPU takes two at a time; with nu 1 and D a multiple of 8 wasm has a way of its own.
  dpfpSum: [
    [7, 3],
    [16, 1],
  ].map(
    ([D, nu]): Case =>
      (k, m) => {
        const list = range(3).map(() => ({ x: m.input(5 * D), y: m.output(10 * D * nu), stats: m.output(10) }))
        k.dpfpSum(list, 5, D, nu, 1e-6)
      },
  ),
  dpfpSumBackward: [
    [7, 3],
    [16, 1],
  ].map(
    ([D, nu]): Case =>
      (k, m) => {
        const list = range(3).map(() => ({ x: m.input(5 * D), y: m.temporary(10 * D * nu), stats: m.temporary(10) }))
        k.dpfpSum(list, 5, D, nu, 1e-6)
        const back = list.map(({ x, stats }) => ({ x, stats, dy: m.input(10 * D * nu), dx: m.output(5 * D) }))
        k.dpfpSumBackward(back, 5, D, nu)
      },
  ),

  random: (['uniform', 'normal'] as const).map(
    (kind): Case =>
      (k, m) =>
        k.random(kind, m.output(300), 300, 0x9e3779b9, () => 7, -1, 2),
  ),
  dropout: [(k, m) => k.dropout(m.input(300), m.output(300), 300, 0.4, 0x9e3779b9, () => 7)],

  gradNorm: [
    (k, m) => {
      const xs = [500, 1, 0, 70, 9000, 2, 3, 4, 5].map((n) => ({ x: m.input(n), n }))
      k.gradNorm(xs, m.output(1))
    },
  ],
  adam: [true, false].flatMap((decoupled) =>
    [false, true].map(
      (gathered): Case =>
        (k, m) => {
          const options = { lr: 0.1, beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0.1, decoupled, correction1: 0.19, correction2: 0.02 }
          const slots = [300, 1, 257, 5, 64, 9].map((n) => ({ p: m.inout(n), g: m.input(n), m: m.inout(n), v: m.inout(n, 0.1, 1), n }))
          if (gathered) {
            for (const [i, p] of m.gathered(slots.map(({ p }) => p)).entries()) slots[i].p = p
            for (const [i, moment] of m.gathered(slots.flatMap(({ m, v }) => [m, v])).entries()) slots[i >> 1][i % 2 ? 'v' : 'm'] = moment
          }
          k.adam(slots, decoupled ? m.from([0.5]) : null, () => options)
        },
    ),
  ),
  muon: [true, false].flatMap((scaled) =>
    [false, true].map(
      (gathered): Case =>
        (k, m) => {
          const slots = range(10).map((i) => ({ p: m.inout(90), g: m.input(90), m: m.inout(90), tall: i % 3 === 1 }))
          if (gathered)
            for (const name of ['p', 'm'] as const)
              for (const [i, moved] of m.gathered(slots.map((slot) => slot[name])).entries()) slots[i][name] = moved
          k.muon(slots, 5, 18, scaled ? m.from([0.5]) : null, () => ({ lr: 0.1, momentum: 0.9, weightDecay: scaled ? 0.1 : 0 }))
        },
    ),
  ),

  fastWeights: fastWeightCases(false),
  fastWeightsBackward: fastWeightCases(true),

  net: [netCase(true, false), netCase(false, false)],
  netBackward: [netCase(true, true), netCase(false, true)],

  solveSpd: [
    (k, m) => {
      // x x^T / 7 + 1 on the reference and in float32 alike: the entries are multiples of 1/64, and their sums exact.
      const [N, K] = [3, 7]
      const x = (n: number, i: number, j: number): number => (((n + 3 * i * i + 5 * j + i * j) % 9) - 4) / 8
      const matrix = range(N * K * K).map((at) => {
        const [n, i, j] = [Math.floor(at / (K * K)), Math.floor(at / K) % K, at % K]
        return range(K).reduce((sum, l) => sum + x(n, i, l) * x(n, j, l), i === j ? 1 : 0)
      })
      k.solveSpd(m.from(matrix), m.input(N * K), m.output(N * K), N, K)
    },
  ],
}

export const kernelNames = Object.keys(cases) as KernelName[]

/** Runs a case and reads its outputs. */
async function results(device: Device, run: Case): Promise<HostArray[]> {
  const all: unknown[] = []
  const outputs: [storage: unknown, size: number][] = []
  let inputs = 0
  const drawn = (n: number, low: number, high: number): number[] => {
    inputs++
    return range(n).map((i) => Math.fround(low + (high - low) * (threefry(inputs, 0, i, 0)[0] / 2 ** 32)))
  }
  const place = (values: readonly number[], dtype: 'float32' | 'int32' = 'float32'): unknown => {
    const storage = device.allocate(dtype, values.length)
    all.push(storage)
    device.write(storage, values)
    return storage
  }
  const compared = (values: readonly number[]): unknown => {
    const storage = place(values)
    outputs.push([storage, values.length])
    return storage
  }
  const unwritten = (n: number): number[] => new Array(n).fill(Number.NaN)
  try {
    run(device.kernels, {
      input: (n, low = -1, high = 1) => place(drawn(n, low, high)),
      from: (values) => place(values.map(Math.fround)),
      indices: (values) => place(values, 'int32'),
      halves(rows, columns, type) {
        const matrices = halfMatrices(device)
        const storage = matrices.allocate(rows, columns)
        all.push(storage)
        matrices.write(storage, rows, columns, 0, narrowed(Float32Array.from(range(rows * columns), Math.sin), type))
        return storage
      },
      output: (n) => compared(unwritten(n)),
      temporary: (n) => place(unwritten(n)),
      inout: (values, low = -1, high = 1) => compared(typeof values === 'number' ? drawn(values, low, high) : values),
      gathered(storages) {
        const places = device.gather?.(storages) ?? storages
        for (const [i, to] of places.entries()) {
          const output = outputs.find(([storage]) => storage === storages[i])!
          if (to === output[0]) continue
          device.kernels.copy(output[0], to, [output[1]], [1], 0, [1], 0)
          device.free(output[0])
          all[all.indexOf(output[0])] = output[0] = to
        }
        return places
      },
    })
    const read: HostArray[] = []
    for (const [storage, size] of outputs) read.push(await device.read(storage, size))
    return read
  } finally {
    for (const storage of all) device.free(storage)
  }
}

/** |a - e| / (1 + max |e|), as float32; a NaN or an infinity where there should be a number, or the other way round, is an infinite error. */
function errorOf(actual: HostArray, expected: HostArray): number {
  let [scale, worst] = [1, 0]
  for (const e of expected) if (Number.isFinite(Math.fround(e))) scale = Math.max(scale, 1 + Math.abs(e))
  for (let i = 0; i < expected.length; i++) {
    const [a, e] = [Math.fround(actual[i]), Math.fround(expected[i])]
    const error = Object.is(a, e) ? 0 : Math.abs(a - e) / scale
    worst = Math.max(worst, Number.isNaN(error) ? Number.POSITIVE_INFINITY : error)
  }
  return worst
}

/** Checks the kernels named, all if none are, one after the other. */
export async function* selfCheck(device: Device, kernels: readonly KernelName[] = kernelNames): AsyncGenerator<KernelCheck> {
  checkDevice('selfCheck', device)
  const { precision } = device
  const reference = referenceDevice({ precision })
  const boundOf = (kernel: KernelName): number => {
    if (exact.includes(kernel)) return 0
    return precision === 'f16' && rounding.includes(kernel) ? float16Bound : float32Bound
  }
  try {
    for (const kernel of kernels) {
      const bound = boundOf(kernel)
      let error = 0
      let message: string | undefined
      for (const run of cases[kernel]) {
        try {
          const expected = await results(reference, run)
          const actual = await results(device, run)
          for (const [i, e] of expected.entries()) error = Math.max(error, errorOf(actual[i], e))
        } catch (thrown) {
          error = Number.POSITIVE_INFINITY
          message ??= (thrown as Error).message
        }
      }
      yield { kernel, cases: cases[kernel].length, error, bound, ok: error <= bound, ...(message !== undefined && { message }) }
    }
  } finally {
    reference.close()
  }
}
