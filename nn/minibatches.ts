/**
 * Rules whose memory learns once a minibatch, over sequences that may be cut, padded and packed anywhere: a sequence's minibatches are counted from its
 * first token, and the tokens of one that isn't complete yet wait in the state. Tests: test/nn/attention.test.ts.
 */
import { add, sub, where } from '../engine/ops/elementwise.ts'
import type { FastWeightState, RuleOptions } from '../engine/ops/fast-weights.ts'
import { concat, gather, reshape, slice } from '../engine/ops/movement.ts'
import { type Letter, type Rule, stretch } from '../engine/rules/rule.ts'
import { initialState } from '../engine/rules/steps.ts'
import { type Tensor, tensor, zeros } from '../engine/tensor.ts'
import type { Packing } from './packing.ts'
import type { Parts } from './parts.ts'

/** What waits: [B,m-1,W], of which each row's first tokens, phase [B] of them, are there; W numbers a token are its keys, values and rates. */
export interface Waiting {
  waiting?: Tensor
  phase?: Int32Array
}

/** Where each minibatch finds its tokens. Rows of tables: 0 for none, then those that wait, B x (m - 1), then those given, B x T. */
interface Layout {
  /** Minibatches. */
  N: number
  /** [B, N m], and by which of these tokens each given one is read, from 1, [B,T]; 0 for padding. */
  seen: Int32Array
  at: Int32Array
  /** For each minibatch the rows that begin a sequence before it, those that have given tokens in it, and all; begins has one more, for the end. */
  begins: boolean[][]
  used: boolean[][]
  whole: boolean[][]
  /** [B, m-1], and [B]. */
  left: Int32Array
  phase: Int32Array
}

function layout(B: number, T: number, m: number, before: Int32Array | undefined, { mask, reset }: Packing): Layout {
  const at = new Int32Array(B * T)
  const old = B * (m - 1)
  const rows = Array.from({ length: B }, (_, b) => {
    const tokens = Array.from({ length: before?.[b] ?? 0 }, (_, j) => 1 + b * (m - 1) + j)
    const starts: number[] = []
    for (let t = 0; t < T; t++) {
      const i = b * T + t
      if (reset?.indices?.[i] === 1) {
        // A minibatch of which no token is read any more is left out, the others are filled.
        if (tokens.slice(tokens.length - (tokens.length % m)).every((i) => i <= old)) tokens.length -= tokens.length % m
        while (tokens.length % m > 0) tokens.push(0)
        starts.push(tokens.length / m)
      }
      if (mask?.indices?.[i] !== 0) at[i] = tokens.push(1 + old + i)
    }
    return { tokens, starts }
  })
  const N = Math.max(1, ...rows.map(({ tokens }) => Math.ceil(tokens.length / m)))
  const seen = new Int32Array(B * N * m)
  const left = new Int32Array(old)
  for (const [b, { tokens, starts }] of rows.entries()) {
    seen.set(tokens, b * N * m)
    const idle = starts.length === 0 && tokens.every((i) => i <= old)
    const waiting = idle ? Array.from({ length: m - 1 }, (_, j) => 1 + b * (m - 1) + j) : tokens.slice(tokens.length - (tokens.length % m))
    left.set(waiting, b * (m - 1))
  }
  const each = (test: (tokens: Int32Array) => boolean): boolean[][] =>
    Array.from({ length: N }, (_, n) => rows.map((_, b) => test(seen.subarray((b * N + n) * m, (b * N + n + 1) * m))))
  return {
    N,
    seen,
    at: at.map((place, i) => (place > 0 ? Math.floor(i / T) * N * m + place : 0)),
    begins: Array.from({ length: N + 1 }, (_, n) => rows.map(({ starts }) => starts.includes(n))),
    used: each((tokens) => tokens.some((i) => i > old)),
    whole: each((tokens) => tokens.every((i) => i > 0)),
    left,
    phase: Int32Array.from(rows, ({ tokens }) => tokens.length % m),
  }
}

/** Inputs that tokens have of their own, and how many numbers each keeps of them while it waits: not its query, which has been answered. */
const timed = ({ inputs }: Rule): string[] => Object.keys(inputs).filter((name) => name !== 'q' && inputs[name].shape.includes('T'))

/** The parts of a state that wait; see `Waiting`. */
export function waitingParts(rule: Rule, sizes: Record<Letter, number>, m: number): Parts {
  const widths = timed(rule).map((name) => rule.inputs[name].shape.slice(2).reduce((n, letter) => n * sizes[letter], 1))
  const W = widths.reduce((a, b) => a + b, 0)
  return { waiting: { dtype: 'float32', shape: [sizes.B, m - 1, W] }, phase: { dtype: 'int32', shape: [sizes.B], below: m } }
}

/**
 * The rule by minibatches of m tokens. Its own state is what the last complete minibatch left; inputs are [B,T,...], or without tokens. `start`: what parts
 * of the state begin at, [H,...], by name; a state holds how far they have moved from there, so that a fresh one is zeros.
 */
export function byMinibatches(
  rule: Rule,
  inputs: Record<string, Tensor>,
  before: FastWeightState | undefined,
  options: RuleOptions & { minibatch: number },
  { waiting, phase }: Waiting,
  packing: Packing,
  start: Readonly<Record<string, Tensor>> = {},
): { y: Tensor; state: FastWeightState & Waiting } {
  const m = options.minibatch
  const { q } = inputs
  const [B, T, H, V] = q.shape
  const { device } = q
  const plan = layout(B, T, m, phase, packing)
  const ints = (values: Int32Array, shape: number[]): Tensor => tensor(values, { shape, device })
  const rowsOf = (x: Tensor): Tensor => reshape(x, [B * T, x.size / (B * T)])
  const kept = timed(rule)
  const widths = kept.map((name) => inputs[name].size / (B * T))
  const W = widths.reduce((a, b) => a + b, 0)
  const old = waiting ? reshape(waiting, [B * (m - 1), W]) : zeros([B * (m - 1), W], device)
  const given = kept.map((name) => rowsOf(inputs[name]))
  const table = concat([zeros([1, W], device), old, concat(given, 1)], 0)
  const all = gather(table, ints(plan.seen, [B, plan.N * m]))
  // What waits was read before: its queries don't count.
  const asked = plan.seen.map((i) => Math.max(0, i - B * (m - 1)))
  const queries = gather(concat([zeros([1, q.size / (B * T)], device), rowsOf(q)], 0), ints(asked, [B, plan.N * m]))

  /** One state's parts in these rows, the other's elsewhere. */
  const choose = (rows: readonly boolean[], chosen: FastWeightState, other: FastWeightState): FastWeightState => {
    if (rows.every(Boolean)) return chosen
    const flags = ints(Int32Array.from(rows, Number), [B])
    const parts = Object.entries(other).map(([name, part]) => [name, where(stretch(flags, part.shape.length), chosen[name as 'S'], part)])
    return Object.fromEntries(parts)
  }
  const begun = (state: FastWeightState): FastWeightState => ({
    ...state,
    ...Object.fromEntries(Object.entries(start).map(([name, from]) => [name, add(state[name as 'S'], from)])),
  })
  const fresh = initialState(rule, { B, H, V }, device)
  const empty = begun(fresh)
  let current = before ? begun(before) : empty
  const ys: Tensor[] = []
  for (let n = 0; n <= plan.N; n++) {
    if (plan.begins[n].includes(true)) current = choose(plan.begins[n], empty, current)
    if (n === plan.N) break
    const cut = (x: Tensor): Tensor => slice(x, 1, n * m, (n + 1) * m)
    const own = cut(all)
    let from = 0
    const tokens = kept.map((name, i): [string, Tensor] => {
      const part = slice(own, 2, from, (from += widths[i]))
      return [name, reshape(part, [B, m, ...inputs[name].shape.slice(2)])]
    })
    const result = rule.run(
      { ...inputs, ...Object.fromEntries(tokens), q: reshape(cut(queries), [B, m, H, V]) },
      choose(plan.used[n], current, empty),
      options,
    )
    ys.push(result.y)
    if (plan.whole[n].includes(true)) current = choose(plan.whole[n], result.state, current)
  }
  // Rows where no minibatch was completed, and no sequence has begun, are what they were, to the bit.
  const touched = Array.from({ length: B }, (_, b) => [...plan.begins, ...plan.whole].some((rows) => rows[b]))
  const moved = { ...current }
  for (const [name, from] of Object.entries(start)) moved[name as 'S'] = sub(current[name as 'S'], from)
  // Those of all rows may be the same tensors; but whoever gets a state frees it.
  const owned = Object.fromEntries(
    Object.entries(choose(touched, moved, before ?? fresh)).map(([name, part]) => [name, reshape(part, part.shape)]),
  ) as unknown as FastWeightState
  const read = concat(ys, 1)
  const y = gather(concat([zeros([1, H * V], device), reshape(read, [B * plan.N * m, H * V])], 0), ints(plan.at, [B, T]))
  return {
    y: reshape(y, [B, T, H, V]),
    state: m > 1 ? { ...owned, waiting: gather(table, ints(plan.left, [B, m - 1])), phase: plan.phase } : owned,
  }
}
