/**
 * Recurrent nets by their programs: the specification of the kernels, in float64. `steps` has each instruction's forward and backward side by
 * side; letters and fields: `netOps` of kernels.ts. Pinned by test/ops/nets.test.ts: equal to the same program run in composed ops, and
 * gradients equal to central differences.
 */
import {
  type NetInstruction as Instruction,
  type Kernels,
  type NetInputs,
  type NetOp,
  type NetSizes,
  normKinds,
  partWords,
  tokenBits,
  unaryOps,
} from '../kernels.ts'
import { unaryTable } from './elementwise.ts'
import type { RefStorage } from './storage.ts'

type Floats = Float64Array

/** What a token is computed from and into. `after` may be `before`, where the state before isn't wanted any more. */
interface Token {
  r: Floats
  before: Floats
  after: Floats
  slow: Floats
  x: Floats
  y: Floats
}

/** Cotangents: of what has the same name in `Token`, and of the state, which becomes that before the token. */
interface Cotangents {
  r: Floats
  state: Floats
  slow: Floats
  x: Floats
  y: Floats
}

interface Step {
  forward(i: Instruction, token: Token): void
  backward(i: Instruction, token: Token, d: Cotangents): void
}

const up4 = (n: number): number => Math.ceil(n / 4) * 4
const sumOf = (n: number, term: (j: number) => number): number => {
  let total = 0
  for (let j = 0; j < n; j++) total += term(j)
  return total
}

/** r[j] from j, and what each does to the cotangents g = dr[j]. */
const each = (
  f: (i: Instruction, r: Floats, j: number) => number,
  back: (i: Instruction, r: Floats, d: Floats, j: number, g: number) => void,
): Step => ({
  forward(i, { r }) {
    for (let j = 0; j < i.n; j++) r[i.to + j] = f(i, r, j)
  },
  backward(i, { r }, d) {
    for (let j = 0; j < i.n; j++) back(i, r, d.r, j, d.r[i.to + j])
  },
})

/** r = some other memory of the token's from a on. */
const fetch = (from: 'x' | 'before' | 'slow', to: 'x' | 'state' | 'slow'): Step => ({
  forward({ to, n, a }, token) {
    for (let j = 0; j < n; j++) token.r[to + j] = token[from][a + j]
  },
  backward({ to: at, n, a }, _, d) {
    for (let j = 0; j < n; j++) d[to][a + j] += d.r[at + j]
  },
})

/** mean and scale of a row: see `normKinds`. */
function statistics({ n, a, b, x: eps }: Instruction, r: Floats): { mean: number; scale: number } {
  const kind = normKinds[b]
  const total = sumOf(n, (j) => r[a + j])
  const mean = kind === 'layer' ? total / n : 0
  const squares = sumOf(n, (j) => (r[a + j] - mean) ** 2)
  if (kind === 'sum') return { mean, scale: 1 / (total + eps) }
  return { mean, scale: 1 / Math.sqrt((kind === 'l2' ? squares : squares / n) + eps) }
}

const decayOf = ({ d, x }: Instruction, r: Floats): number => (d < 0 ? x : r[d])
/** l M + k u^T at row p, column j, before the activation. */
const written = (i: Instruction, { r, before }: Token, p: number, j: number): number =>
  decayOf(i, r) * before[i.to + p * up4(i.n) + j] + r[i.a + p] * r[i.b + j]

const steps: Record<NetOp, Step> = {
  input: fetch('x', 'x'),
  state: fetch('before', 'state'),
  parameter: fetch('slow', 'slow'),
  read: {
    forward(i, token) {
      const { to, n, a, b, c } = i
      const M = matrixOf(i, token)
      for (let j = 0; j < n; j++) token.r[to + j] = sumOf(c, (p) => token.r[a + p] * M[b + p * up4(n) + j])
    },
    backward(i, token, d) {
      const { to, n, a, b, c } = i
      const M = matrixOf(i, token)
      const dM = i.d ? d.slow : d.state
      for (let p = 0; p < c; p++) {
        const row = b + p * up4(n)
        d.r[a + p] += sumOf(n, (j) => M[row + j] * d.r[to + j])
        for (let j = 0; j < n; j++) dM[row + j] += token.r[a + p] * d.r[to + j]
      }
    },
  },
  write: {
    forward(i, token) {
      const f = i.e < 0 ? (x: number) => x : unaryTable[unaryOps[i.e]].f
      for (let p = 0; p < i.c; p++) for (let j = 0; j < i.n; j++) token.after[i.to + p * up4(i.n) + j] = f(written(i, token, p, j))
    },
    backward(i, token, d) {
      const { to, n, a, b, c } = i
      const { r, before, after } = token
      const df = i.e < 0 ? () => 1 : unaryTable[unaryOps[i.e]].df
      const decay = decayOf(i, r)
      let ddecay = 0
      for (let p = 0; p < c; p++)
        for (let j = 0; j < n; j++) {
          const at = to + p * up4(n) + j
          const g = d.state[at] * df(i.e < 0 ? 0 : written(i, token, p, j), after[at])
          d.r[a + p] += g * r[b + j]
          d.r[b + j] += g * r[a + p]
          if (i.d >= 0) ddecay += g * before[at]
          d.state[at] = decay * g
        }
      if (i.d >= 0) d.r[i.d] += ddecay
    },
  },
  add: each(
    ({ a, b }, r, j) => r[a + j] + r[b + j],
    ({ a, b }, _, d, j, g) => {
      d[a + j] += g
      d[b + j] += g
    },
  ),
  sub: each(
    ({ a, b }, r, j) => r[a + j] - r[b + j],
    ({ a, b }, _, d, j, g) => {
      d[a + j] += g
      d[b + j] -= g
    },
  ),
  mul: each(
    ({ a, b }, r, j) => r[a + j] * r[b + j],
    ({ a, b }, r, d, j, g) => {
      const [x, y] = [r[a + j], r[b + j]]
      d[a + j] += g * y
      d[b + j] += g * x
    },
  ),
  affine: each(
    ({ a, x, z }, r, j) => x * r[a + j] + z,
    ({ a, x }, _, d, j, g) => {
      d[a + j] += x * g
    },
  ),
  times: each(
    ({ a, b }, r, j) => r[b] * r[a + j],
    ({ a, b }, r, d, j, g) => {
      d[a + j] += r[b] * g
      d[b] += r[a + j] * g
    },
  ),
  dot: {
    forward({ to, a, b, c }, { r }) {
      r[to] = sumOf(c, (j) => r[a + j] * r[b + j])
    },
    backward({ to, a, b, c }, { r }, d) {
      for (let j = 0; j < c; j++) {
        d.r[a + j] += d.r[to] * r[b + j]
        d.r[b + j] += d.r[to] * r[a + j]
      }
    },
  },
  unary: each(
    ({ a, b }, r, j) => unaryTable[unaryOps[b]].f(r[a + j]),
    ({ to, a, b }, r, d, j, g) => {
      d[a + j] += g * unaryTable[unaryOps[b]].df(r[a + j], r[to + j])
    },
  ),
  softmax: {
    forward({ to, n, a, x: eps }, { r }) {
      let largest = Number.NEGATIVE_INFINITY
      for (let j = 0; j < n; j++) largest = Math.max(largest, r[a + j])
      for (let j = 0; j < n; j++) r[to + j] = Math.exp(r[a + j] - largest)
      const total = sumOf(n, (j) => r[to + j]) + eps
      for (let j = 0; j < n; j++) r[to + j] /= total
    },
    backward({ to, n, a }, { r }, d) {
      const along = sumOf(n, (j) => d.r[to + j] * r[to + j])
      for (let j = 0; j < n; j++) d.r[a + j] += r[to + j] * (d.r[to + j] - along)
    },
  },
  norm: {
    forward(i, { r }) {
      const { mean, scale } = statistics(i, r)
      for (let j = 0; j < i.n; j++) r[i.to + j] = (r[i.a + j] - mean) * scale
    },
    /** With h the result: scale depends on every entry, and so does the mean. */
    backward(i, { r }, d) {
      const { to, n, a } = i
      const kind = normKinds[i.b]
      const { scale } = statistics(i, r)
      const gh = sumOf(n, (j) => d.r[to + j] * r[to + j])
      const gMean = kind === 'layer' ? sumOf(n, (j) => d.r[to + j]) / n : 0
      const along = kind === 'layer' || kind === 'rms' ? gh / n : gh
      for (let j = 0; j < n; j++) d.r[a + j] += scale * (d.r[to + j] - gMean - (kind === 'sum' ? gh : r[to + j] * along))
    },
  },
  slice: each(
    ({ a, b }, r, j) => r[a + b + j],
    ({ a, b }, _, d, j, g) => {
      d[a + b + j] += g
    },
  ),
  concat: each(
    ({ a, b, c }, r, j) => (j < c ? r[a + j] : r[b + j - c]),
    ({ a, b, c }, _, d, j, g) => {
      if (j < c) d[a + j] += g
      else d[b + j - c] += g
    },
  ),
  next: {
    forward({ to, n, a }, { r, after }) {
      for (let j = 0; j < n; j++) after[to + j] = r[a + j]
    },
    /** What the state was before counts again once it is fetched. */
    backward({ to, n, a }, _, d) {
      for (let j = 0; j < n; j++) {
        d.r[a + j] += d.state[to + j]
        d.state[to + j] = 0
      }
    },
  },
  output: {
    forward({ to, n, a }, { r, y }) {
      for (let j = 0; j < n; j++) y[to + j] = r[a + j]
    },
    backward({ to, n, a }, _, d) {
      for (let j = 0; j < n; j++) d.r[a + j] += d.y[to + j]
    },
  },
}

const matrixOf = ({ d, e }: Instruction, { slow, before, after }: Token): Floats => (d ? slow : e ? after : before)

// ---- a head of a sequence at a time -----------------------------------------------------------------------------------------------------

type Row = [at: number, rows: number, columns: number, place: number]
interface Program {
  state: Row[]
  slow: Row[]
  instructions: readonly Instruction[]
}

function decode({ data }: RefStorage, { stateParts, slowParts, instructions }: NetSizes): Program {
  const rows = Array.from(
    { length: stateParts + slowParts },
    (_, i) => Array.from(data.subarray(i * partWords, (i + 1) * partWords)) as Row,
  )
  return { state: rows.slice(0, stateParts), slow: rows.slice(stateParts), instructions }
}

/** Row `index` of a packed array, as kernels hold it; zeros where there is no array. */
function load(parts: readonly Row[], packed: RefStorage | null, index: number, size: number, floats: number): Floats {
  const memory = new Float64Array(floats)
  for (const [at, rows, columns, place] of parts)
    for (let p = 0; packed && p < rows; p++)
      for (let j = 0; j < columns; j++) memory[place + p * up4(columns) + j] = packed.data[index * size + at + p * columns + j]
  return memory
}

function store(parts: readonly Row[], packed: RefStorage | null, index: number, size: number, memory: Floats): void {
  for (const [at, rows, columns, place] of parts)
    for (let p = 0; packed && p < rows; p++)
      for (let j = 0; j < columns; j++) packed.data[index * size + at + p * columns + j] = memory[place + p * up4(columns) + j]
}

const bitsOf = (tokens: RefStorage | null, token: number): number => tokens?.data[token] ?? tokenBits.token

/** The rows of a token in x and y. */
const rowsOf = ({ x }: NetInputs<RefStorage>, { T, H, I }: NetSizes, head: number, t: number) => {
  const token = Math.floor(head / H) * T + t
  const row = token * H + (head % H)
  return { token, row, x: (x.data as Floats).subarray(row * I, (row + 1) * I) }
}

export const netKernels: Pick<Kernels<RefStorage>, 'net' | 'netBackward'> = {
  net(inputs, { y, sT, states }, sizes) {
    const { B, T, H, O, S, P, C, registers, stateFloats, slowFloats } = sizes
    const program = decode(inputs.program, sizes)
    y.data.fill(0, 0, B * T * H * O)
    for (let head = 0; head < B * H; head++) {
      const slow = load(program.slow, inputs.parameters, head % H, P, slowFloats)
      const fresh = load(program.state, inputs.fresh, head % H, S, stateFloats)
      const state = inputs.s0 ? load(program.state, inputs.s0, head, S, stateFloats) : fresh.slice()
      const r = new Float64Array(registers)
      for (let t = 0; t < T; t++) {
        if (t % C === 0) states?.data.set(state, (head * Math.ceil(T / C) + t / C) * stateFloats)
        const { token, row, x } = rowsOf(inputs, sizes, head, t)
        const bits = bitsOf(inputs.tokens, token)
        if (bits & tokenBits.begins) state.set(fresh)
        if (!(bits & tokenBits.token)) continue
        const at = { r, before: state, after: state, slow, x, y: (y.data as Floats).subarray(row * O, (row + 1) * O) }
        for (const i of program.instructions) steps[i.op].forward(i, at)
      }
      store(program.state, sT, head, S, state)
    }
  },

  netBackward(inputs, states, { dy, dsT }, { dx, dparameters, dfresh, ds0 }, sizes) {
    const { B, T, H, I, O, S, P, C, registers, stateFloats, slowFloats } = sizes
    const program = decode(inputs.program, sizes)
    dx.data.fill(0, 0, B * T * H * I)
    for (let head = 0; head < B * H; head++) {
      const slow = load(program.slow, inputs.parameters, head % H, P, slowFloats)
      const fresh = load(program.state, inputs.fresh, head % H, S, stateFloats)
      const dstate = load(program.state, dsT, head, S, stateFloats)
      const dslow = new Float64Array(slowFloats)
      const dstart = new Float64Array(stateFloats)
      /** A sequence begins: what its state asks for belongs to `fresh`. */
      const begin = (): void => {
        for (let j = 0; j < stateFloats; j++) dstart[j] += dstate[j]
        dstate.fill(0)
      }
      for (let first = Math.floor((T - 1) / C) * C; first >= 0; first -= C) {
        const at = (head * Math.ceil(T / C) + first / C) * stateFloats
        let state: Floats = Float64Array.from(states.data.subarray(at, at + stateFloats))
        const tokens: { bits: number; token: Token; row: number }[] = []
        for (let t = first; t < Math.min(first + C, T); t++) {
          const { token: index, row, x } = rowsOf(inputs, sizes, head, t)
          const bits = bitsOf(inputs.tokens, index)
          if (bits & tokenBits.begins) state = fresh
          const token = { r: new Float64Array(registers), before: state, after: state, slow, x, y: new Float64Array(O) }
          if (bits & tokenBits.token) {
            token.after = new Float64Array(stateFloats)
            for (const i of program.instructions) steps[i.op].forward(i, token)
          }
          state = token.after
          tokens.push({ bits, token, row })
        }
        for (const { bits, token, row } of tokens.reverse()) {
          if (bits & tokenBits.token) {
            const rows = (d: RefStorage, n: number): Floats => (d.data as Floats).subarray(row * n, (row + 1) * n)
            const d = { r: new Float64Array(registers), state: dstate, slow: dslow, x: rows(dx, I), y: rows(dy, O) }
            for (const i of [...program.instructions].reverse()) steps[i.op].backward(i, token, d)
          }
          if (bits & tokenBits.begins) begin()
        }
      }
      if (!inputs.s0) begin()
      store(program.slow, dparameters, head, P, dslow)
      store(program.state, dfresh, head, S, dstart)
      store(program.state, ds0, head, S, dstate)
    }
  },
}
