/** What no operator of ONNX is: recurrences said as a Scan over their step. */
import { type NetInstruction, type NetOp, normKinds, partWords, unaryOps } from '../engine/devices/kernels.ts'
import { lastSum, normNodes, unaryNodes } from './functions.ts'
import type { Memory } from './memory.ts'
import { type Graph, int, type Value } from './nodes.ts'
import { OnnxError } from './proto.ts'
import { type Blocks, minus, type Num, num, times } from './trace.ts'

/** x with axes of size 1 put in at these places of the result. */
const unsqueeze = (g: Graph, x: string, ...axes: number[]): string => g.op('Unsqueeze', [x, g.integers(axes)])
const squeeze = (g: Graph, x: string, axis: number): string => g.op('Squeeze', [x, g.integers([axis])])

/** S^T q: [B,H,K,V], [B,H,K] -> [B,H,V]. */
const readOut = (g: Graph, S: string, q: string): string => squeeze(g, g.op('MatMul', [unsqueeze(g, q, 2), S]), 2)
/** k v^T. */
const outer = (g: Graph, k: string, v: string): string => g.op('Mul', [unsqueeze(g, k, 3), unsqueeze(g, v, 2)])

/** The fused recurrence with `erase`, or read by its transpose: see `fastWeights` in engine/devices/kernels.ts. */
export function recurrence(m: Memory, inputs: any, outputs: any, sizes: any): void {
  const { g } = m
  const { B, T, H, K, V, gateWidth } = sizes as Record<string, Num>
  const transposed: boolean = sizes.transposed
  const shapes: Record<string, Num[]> = {
    ...{ q: [B, T, H, transposed ? V : K], k: [B, T, H, K], v: [B, T, H, V], beta: [B, T, H] },
    ...{ gate: gateWidth[0] === 1 ? [B, T, H] : [B, T, H, K], erase: [B, T, H, K], along: [B, T, H, K] },
  }
  const names = Object.keys(shapes).filter((name) => inputs[name])
  const S0 = inputs.s0 ? m.as(inputs.s0, [B, H, K, V]) : g.filled(0, [B, H, K, V])
  const result = g.scan(
    [{ value: S0 }],
    names.map((name) => ({ value: m.as(inputs[name], shapes[name]) })),
    (g, [S], values) => {
      const token = Object.fromEntries(names.map((name, i) => [name, values[i].name]))
      const { q, k, v, beta, gate, erase, along } = token
      const factor = gate && g.op('Exp', [gate])
      const faded = factor ? g.op('Mul', [S.name, unsqueeze(g, factor, ...(gateWidth[0] === 1 ? [2, 3] : [3]))]) : S.name
      const found = erase ? readOut(g, S.name, erase) : beta ? readOut(g, faded, k) : undefined
      const kept = along && found ? g.op('Sub', [faded, outer(g, along, found)]) : faded
      const left = found && !along ? g.op('Sub', [v, found]) : v
      const next = g.op('Add', [kept, outer(g, k, beta ? g.op('Mul', [left, unsqueeze(g, beta, 2)]) : left)])
      const y = transposed ? squeeze(g, g.op('MatMul', [next, unsqueeze(g, q, 3)]), 3) : readOut(g, next, q)
      const scaled = sizes.scale[0] === 1 ? y : g.op('Mul', [y, g.scalar(sizes.scale[0])])
      return { states: [{ name: next, dims: S.dims }], outputs: [{ name: scaled, dims: [B, H, transposed ? K : V] }] }
    },
  )
  m.set(outputs.sT, result.states[0])
  m.set(outputs.y, result.outputs[0])
}

// ---- recurrent nets -------------------------------------------------------------------------------------------------------------------

interface Part {
  at: number
  rows: number
  columns: number
  place: number
}

/** What a token of a net computes: values by register, parts of the state and slow parameters by their places in a kernel's memory. */
interface Token {
  g: Graph
  x: string
  registers: Map<number, string>
  before: Map<number, string>
  after: Map<number, string>
  slow: Map<number, string>
  y: [at: number, name: string][]
}

type Instruction = Omit<NetInstruction, 'op'>
const arithmetic =
  (op: string) =>
  ({ a, b }: Instruction, { g, registers }: Token): string =>
    g.op(op, [registers.get(a)!, registers.get(b)!])
const piece = (g: Graph, x: string, begin: number, n: number): string =>
  g.op('Slice', [x, g.integers([begin]), g.integers([begin + n]), g.integers([-1])])

/** A row for each of `netOps`: the register that it sets, [B,H,n]; undefined where it sets something else. */
const instructions: Record<NetOp, (i: Instruction, token: Token) => string | undefined> = {
  input: ({ a, n }, { g, x }) => piece(g, x, a, n),
  state: ({ a }, { before }) => before.get(a),
  parameter: ({ a }, { slow }) => slow.get(a),
  read: ({ a, b, d, e }, { g, registers, before, after, slow }) => readOut(g, (d ? slow : e ? after : before).get(b)!, registers.get(a)!),
  write({ to, a, b, d, e, x }, { g, registers, before, after }) {
    const M = before.get(to)!
    const factor = d >= 0 ? unsqueeze(g, registers.get(d)!, 3) : g.scalar(x)
    const kept = d < 0 && x === 1 ? M : g.op('Mul', [M, factor])
    const written = g.op('Add', [kept, outer(g, registers.get(a)!, registers.get(b)!)])
    after.set(to, e < 0 ? written : unaryNodes[unaryOps[e]](g, written))
    return undefined
  },
  add: arithmetic('Add'),
  sub: arithmetic('Sub'),
  mul: arithmetic('Mul'),
  affine: ({ a, x, z }, { g, registers }) => g.op('Add', [g.op('Mul', [registers.get(a)!, g.scalar(x)]), g.scalar(z)]),
  times: arithmetic('Mul'),
  dot: ({ a, b }, { g, registers }) => lastSum(g, g.op('Mul', [registers.get(a)!, registers.get(b)!])),
  unary: ({ a, b }, { g, registers }) => unaryNodes[unaryOps[b]](g, registers.get(a)!),
  softmax({ a, x }, { g, registers }) {
    const r = registers.get(a)!
    const e = g.op('Exp', [g.op('Sub', [r, g.op('ReduceMax', [r, g.integers([-1])], { keepdims: int(1) })])])
    return g.op('Div', [e, g.op('Add', [lastSum(g, e), g.scalar(x)])])
  },
  norm: ({ a, b, n, x }, { g, registers }) => normNodes(g, normKinds[b], registers.get(a)!, n, x),
  slice: ({ a, b, n }, { g, registers }) => piece(g, registers.get(a)!, b, n),
  concat: ({ a, b }, { g, registers }) => g.op('Concat', [registers.get(a)!, registers.get(b)!], { axis: int(-1) }),
  next({ to, a }, { registers, after }) {
    after.set(to, registers.get(a)!)
    return undefined
  },
  output({ to, a }, { registers, y }) {
    y.push([to, registers.get(a)!])
    return undefined
  },
}

/** A net's program, token by token: see `net` in engine/devices/kernels.ts. */
export function net(m: Memory, inputs: any, outputs: any, sizes: any): void {
  const { g } = m
  const { B, T, H, I, O, S, P, stateParts, slowParts } = sizes as Record<string, Num>
  const code = Int32Array.from((inputs.program as Blocks).data[0]!)
  const part = (i: number): Part => {
    const [at, rows, columns, place] = code.subarray(i * partWords, (i + 1) * partWords)
    return { at, rows, columns, place }
  }
  const parts = Array.from({ length: stateParts[0] }, (_, i) => part(i))
  const slow = Array.from({ length: slowParts[0] }, (_, i) => part(stateParts[0] + i))
  /** A part of x [lead,H,S]: a vector [lead,H,n], or a matrix [lead,H,rows,columns]. */
  const cut = (g: Graph, x: string, lead: Num, { at, rows, columns }: Part): string => {
    const flat = { name: piece(g, x, at, rows * columns), dims: [lead, H, num(rows * columns, H)] }
    return rows === 1 ? flat.name : g.reshape(flat, [lead, H, num(rows, H), num(columns, H)]).name
  }
  const one = num(1, B)
  const kept = slow.length > 0 ? m.as(inputs.parameters, [one, H, P]).name : ''
  const slowValues = new Map(slow.map((p) => [p.place, cut(g, kept, one, p)]))
  const fresh = (): Value => (inputs.fresh ? g.expand(m.as(inputs.fresh, [one, H, S]), [B, H, S]) : g.filled(0, [B, H, S]))
  const s0 = inputs.s0 ? m.as(inputs.s0, [B, H, S]) : fresh()
  const result = g.scan([{ value: s0 }], [{ value: m.as(inputs.x, [B, T, H, I]) }], (g, [state], [x]) => {
    const before = new Map(parts.map((p) => [p.place, cut(g, state.name, B, p)]))
    const token: Token = { g, x: x.name, registers: new Map(), before, after: new Map(), slow: slowValues, y: [] }
    // Each number is the same at all points.
    for (const { op, ...numbers } of sizes.instructions as { op: NetOp; [field: string]: any }[]) {
      const i = Object.fromEntries(Object.entries(numbers).map(([name, [value]]) => [name, value])) as Instruction
      const made = instructions[op](i, token)
      if (made !== undefined) token.registers.set(i.to, made)
    }
    const flat = parts.map(({ place, rows, columns }) => {
      const made = token.after.get(place) ?? before.get(place)!
      if (rows === 1) return made
      return g.reshape({ name: made, dims: [B, H, num(rows, H), num(columns, H)] }, [B, H, num(rows * columns, H)]).name
    })
    const ys = [...token.y].sort(([a], [b]) => a - b).map(([, name]) => name)
    const joined = (names: string[]): string => (names.length === 1 ? names[0] : g.op('Concat', names, { axis: int(-1) }))
    return { states: [{ name: joined(flat), dims: [B, H, S] }], outputs: [{ name: joined(ys), dims: [B, H, O] }] }
  })
  m.set(outputs.sT, result.states[0])
  m.set(outputs.y, result.outputs[0])
}

// ---- linear systems -------------------------------------------------------------------------------------------------------------------

/**
 * x = A^-1 b, A [N,K,K] symmetric and positive definite, by Gauss-Jordan elimination, which needs no pivots there: a Scan over the rows e of the identity,
 * each of which makes one column of A that of e.
 */
export function solve(m: Memory, a: Blocks, b: Blocks, x: Blocks, N: Num, K: Num): void {
  const { g } = m
  const one = num(1, K)
  const size = K[0]
  const identity = g.array(
    [size, size],
    Float32Array.from({ length: size * size }, (_, i) => Number(i % (size + 1) === 0)),
  )
  const begin = [m.as(a, [N, K, K]), m.as(b, [N, K, one])].map((value) => ({ value }))
  const { states } = g.scan(begin, [{ value: { name: identity, dims: [K, K] } }], (g, [A, right], [e]) => {
    const [row, column] = [unsqueeze(g, e.name, 0), unsqueeze(g, e.name, 1)]
    const found = g.op('MatMul', [row, A.name])
    const pivot = g.op('MatMul', [found, column])
    const rest = g.op('Sub', [g.op('MatMul', [A.name, column]), column])
    const less = (x: Value, of: string): Value => {
      const taken = g.op('MatMul', [rest, g.op('Div', [of, pivot])])
      return { name: g.op('Sub', [x.name, taken]), dims: x.dims }
    }
    return { states: [less(A, found), less(right, g.op('MatMul', [row, right.name]))], outputs: [] }
  })
  m.set(x, states[1])
}

// ---- attention free transformers ------------------------------------------------------------------------------------------------------

/**
 * Means over time, a query at a time: see `aft` in engine/devices/kernels.ts. Places follow from the tokens before: rows of the state come first, of which
 * those below 0 aren't there. Where older rows are put together there is one query, after them.
 */
export function aft(
  m: Memory,
  k: Blocks,
  v: Blocks,
  w: Blocks | null,
  places: Blocks,
  y: Blocks,
  lse: Blocks,
  sizes: Record<'B' | 'n' | 'past' | 'D' | 'window' | 'N', Num> & { bias: 'none' | 'table' | 'taps' },
): void {
  const { g, known } = m
  const { B, n, past, D, window, N, bias } = sizes
  const placed = known.placed(places)
  if (placed === undefined) throw new OnnxError('padding')
  const one = num(1, B)
  const range = (size: Num): string => g.op('Range', [g.integer(0), g.sizeNumber(size), g.integer(1)])
  const position = unsqueeze(g, known.position(), 1)
  const rows = placed === 'all' ? n : minus(n, one)
  const first = g.op('Sub', [position, g.sizeNumber(minus(rows, known.T))])
  const counted = g.op('Add', [first, range(rows)])
  const next = g.op('Add', [position, g.sizeNumber(known.T)])
  // Older ones are those that the state doesn't keep as they are; the query comes after all.
  const recent = minus(minus(rows, known.T), one)
  const older = (): string =>
    g.op('Concat', [g.op('Where', [g.op('Less', [counted, g.op('Sub', [next, g.sizeNumber(recent)])]), counted, g.integer(-1)]), next], {
      axis: int(1),
    })
  const keyPlaces = placed === 'all' ? counted : older()
  const [keys, values] = [m.as(k, [B, n, D]).name, m.as(v, [B, n, D]).name]
  const queries = g.slice({ name: keyPlaces, dims: [B, n] }, [{ axis: 1, begin: past, count: minus(n, past) }])
  const weights = bias === 'table' ? m.as(w!, [times(N, N)]).name : bias === 'taps' ? m.as(w!, [window, D]).name : ''
  const { outputs } = g.scan([], [{ value: queries, type: 'I64' }], (g, _, [query]) => {
    const at = unsqueeze(g, query.name, 1)
    const there = g.op('And', [g.op('GreaterOrEqual', [keyPlaces, g.integer(0)]), g.op('LessOrEqual', [keyPlaces, at])])
    const back = g.op('Sub', [at, keyPlaces])
    const near = g.op('Less', [back, g.integer(window[0])])
    const within = (x: string, below: number): string => g.op('Min', [g.op('Max', [x, g.integer(0)]), g.integer(below - 1)])
    let scores = keys
    if (bias === 'table') {
      const row = g.op('Min', [at, g.integer(N[0] - 1)])
      const index = g.op('Add', [g.op('Mul', [row, g.integer(N[0])]), within(g.op('Sub', [row, back]), N[0])])
      const near0 = g.op('Where', [near, g.op('Gather', [weights, index]), g.scalar(0)])
      scores = g.op('Add', [keys, unsqueeze(g, near0, 2)])
    } else if (bias === 'taps') {
      const found = g.op('Gather', [weights, within(back, window[0])])
      scores = g.op('Add', [keys, g.op('Where', [unsqueeze(g, near, 2), found, g.scalar(0)])])
    }
    const seen = g.op('Where', [unsqueeze(g, there, 2), scores, g.scalar(Number.NEGATIVE_INFINITY)])
    const over = (op: string, x: string): string => g.op(op, [x, g.integers([1])], { keepdims: int(0) })
    const largest = over('ReduceMax', seen)
    const e = g.op('Exp', [g.op('Sub', [seen, unsqueeze(g, largest, 1)])])
    const total = over('ReduceSum', e)
    const mean = g.op('Div', [over('ReduceSum', g.op('Mul', [e, values])), total])
    const log = g.op('Add', [largest, g.op('Log', [total])])
    return { states: [], outputs: [mean, log].map((name) => ({ name, dims: [B, D] })) }
  })
  m.set(y, outputs[0])
  m.set(lse, outputs[1])
}
