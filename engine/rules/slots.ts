/** Memories of a fixed number of slots, which are written and read by softmax: two passes of the gated sum. And running softmaxes over keys. */
import { customOp } from '../autograd.ts'
import { add, affine, equal, exp, expand, log, maximum, mul, neg, sigmoid, softplus, sub, where } from '../ops/elementwise.ts'
import { checkCall, checkState, type FastWeightState, fastWeights, type RuleOptions } from '../ops/fast-weights.ts'
import { concat, permute, reshape, slice } from '../ops/movement.ts'
import { softmax } from '../ops/norm.ts'
import { full, type Tensor, tensor, zeros } from '../tensor.ts'
import {
  all,
  axes,
  decayed,
  fade,
  input,
  outer,
  pick,
  qkv,
  type Rule,
  type RuleResult,
  readOut,
  S,
  type Step,
  stretch,
  unpadded,
  z,
} from './rule.ts'

const slotAxes = ['B', 'T', 'H', 'M'] as const
const slotState = { P: ['B', 'H', 'K', 'M'], S: ['B', 'H', 'M', 'V'] } as const

/**
 * Gated slot attention (Zhang 2024): M slots remember keys and values, P_t = P_{t-1} diag(exp(gate_t)) + k_t write_t^T, S_t = diag(exp(gate_t)) S_{t-1} + write_t v_t^T,
 * and a query reads them by softmax: y_t = S_t^T softmax(scale P_t^T q_t). write, gate: [B,T,H,M]; state: { P [B,H,K,M], S [B,H,M,V] }.
 * Two gated sums one after the other.
 */
export function gatedSlotRule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  write: Tensor,
  gate: Tensor,
  state?: FastWeightState,
  options: RuleOptions = {},
): RuleResult {
  return slots('gatedSlotRule', q, k, v, write, gate, state, options)
}

function slots(
  op: string,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  write: Tensor,
  gate: Tensor,
  state: FastWeightState | undefined,
  options: RuleOptions,
): RuleResult {
  const inputs = { q: [q, axes.keys], k: [k, axes.keys], v: [v, axes.values], write: [write, slotAxes], gate: [gate, slotAxes] } as const
  const { B, H, K, V, M } = checkCall(op, inputs, options)
  if (state) checkState(op, state, { P: [B, H, K, M], S: [B, H, M, V] }, q)
  // P^T has a row a slot: there the slots are key channels, each with its gate, and what is read stands the other way.
  const turned = (P: Tensor): Tensor => permute(P, [0, 1, 3, 2])
  const keys = fastWeights(q, write, k, { gate }, state && { S: turned(state.P!) }, { ...options, transposed: true }, op)
  const read = softmax(unpadded(keys.y, options.mask))
  const values = fastWeights(read, write, v, { gate }, state && { S: state.S }, { ...options, scale: 1 }, op)
  return { y: values.y, state: { P: turned(keys.state.S), S: values.state.S } }
}

const slotStep: Step = ({ P, S }, { q, k, v, write, gate }, { scale }) => {
  const keys = add(fade(reshape(exp(gate), [...gate.shape.slice(0, 2), 1, -1]), P!), outer(k, write))
  const next = add(decayed(S, gate), outer(write, v))
  return { y: readOut(next, softmax(affine(readOut(keys, q), scale))), state: { P: keys, S: next } }
}

// ---- running softmaxes ---------------------------------------------------------------------------------------------------------------

const nothing = Number.NEGATIVE_INFINITY

/** log(e^a + e^b), of one shape; -Infinity is the logarithm of nothing. Where there is no cotangent nothing flows back, whatever a and b are. */
export const logAddExp = (a: Tensor, b: Tensor): Tensor => {
  const finite = (x: Tensor): Tensor => maximum(x, -1e30)
  let y: Tensor
  return customOp(
    'logAddExp',
    [a, b],
    () => {
      const top = finite(maximum(a, b))
      y = add(top, log(add(exp(sub(a, top)), exp(sub(b, top)))))
      return y
    },
    (dy) => [a, b].map((x) => pick(dy, mul(dy, exp(sub(x, finite(y)))))),
  )
}

/**
 * lse_t = log(e^{lse_{t-1} + decay} + e^{x_t}), as each token finds it, lse_{t-1}, and after the last one: [B,T,...] and [B,...]. Where a token is padding nothing
 * changes; where a sequence begins it finds -Infinity. x: [B,T,...]; decay: of the shape of x without B and T, or null for none.
 * By doubling: after a round of n, each token has taken in the n tokens up to it.
 */
export function runningLse(
  x: Tensor,
  decay: Tensor | null,
  before: Tensor | undefined,
  { mask, reset }: RuleOptions,
): { found: Tensor; last: Tensor } {
  const [B, T, ...rest] = x.shape
  const first = before ? reshape(before, [B, 1, ...rest]) : full([B, 1, ...rest], nothing, x.device)
  let total = concat([first, unpadded(x, mask, nothing)], 1)
  let faded = decay && concat([zeros([B, 1, ...rest], x.device), unpadded(expand(decay, x.shape), mask)], 1)
  // Whether a sequence has begun among the tokens taken in: what was before them then counts no more.
  let begun = Int32Array.from({ length: B * (T + 1) }, (_, i) =>
    i % (T + 1) > 0 ? (reset?.indices?.[Math.floor(i / (T + 1)) * T + (i % (T + 1)) - 1] ?? 0) : 0,
  )
  const cut = (t: Tensor, from: number, to: number): Tensor => slice(t, 1, from, to)
  for (let n = 1; n <= T; n *= 2) {
    const after = begun
    begun = begun.map((flag, i) => (i % (T + 1) >= n ? flag | after[i - n] : flag))
    const [now, past] = [cut(total, n, T + 1), cut(total, 0, T + 1 - n)]
    let seen = faded ? add(past, cut(faded, n, T + 1)) : past
    if (reset) seen = where(stretch(flagsAt(after, B, T + 1, n, x), now.shape.length), nothing, seen)
    total = concat([cut(total, 0, n), logAddExp(now, seen)], 1)
    faded = faded && concat([cut(faded, 0, n), add(cut(faded, n, T + 1), cut(faded, 0, T + 1 - n))], 1)
  }
  const found = cut(total, 0, T)
  const end = reshape(cut(total, T, T + 1), [B, ...rest])
  // A row whose sequence has no token so far is empty; one of padding alone is left as it is.
  const tokens = (from: number, b: number): boolean =>
    Array.from({ length: T - from }, (_, i) => b * T + from + i).some((i) => mask?.indices?.[i] !== 0)
  const starts = Array.from({ length: B }, (_, b) => reset?.indices?.subarray(b * T, (b + 1) * T).lastIndexOf(1) ?? -1)
  const perRow = (flags: readonly boolean[]): Tensor =>
    stretch(tensor(Int32Array.from(flags, Number), { shape: [B], device: x.device }), end.shape.length)
  const some = starts.map((start, b) => tokens(Math.max(start, 0), b))
  const idle = (): Tensor | number => (before ? where(perRow(starts.map((start) => start >= 0)), nothing, before) : nothing)
  return {
    found: reset ? where(stretch(reset, found.shape.length), nothing, found) : found,
    last: some.every(Boolean) ? end : where(perRow(some), end, idle()),
  }
}

/** Flags [B,n] from the token `from` on, as a tensor. */
function flagsAt(flags: Int32Array, B: number, n: number, from: number, beside: Tensor): Tensor {
  const values = Int32Array.from({ length: B * (n - from) }, (_, i) => flags[Math.floor(i / (n - from)) * n + from + (i % (n - from))])
  return tensor(values, { shape: [B, n - from], device: beside.device })
}

/** How a running softmax takes in an exponent that lies x above all before it: the logarithm of what they keep, and the weight of the new one. */
export function taking(x: Tensor): { gate: Tensor; weight: Tensor } {
  // NaN goes on by the weight alone: a gate of NaN is an error, for all sequences of the batch.
  const gate = customOp(
    'taking',
    [x],
    () => pick(equal(x, x), neg(softplus(x))),
    (dy) => [neg(mul(dy, sigmoid(x)))],
  )
  return { gate, weight: sigmoid(x) }
}

/**
 * LightNet (Qin 2024): each key channel is a softmax over time, S_t = diag(e^{z_{t-1} - z_t}) S_{t-1} + e^{k_t - z_t} v_t^T with z_t = log(e^{z_{t-1}} + e^{k_t}):
 * gated linear attention whose gates and keys come from a running log-sum-exp. state: { S, lse }, lse [B,H,K].
 */
export function lightNetRule(q: Tensor, k: Tensor, v: Tensor, state?: FastWeightState, options: RuleOptions = {}): RuleResult {
  const op = 'lightNetRule'
  const { B, H, K, V } = checkCall(op, { q: [q, axes.keys], k: [k, axes.keys], v: [v, axes.values] }, options)
  if (state) checkState(op, state, { S: [B, H, K, V], lse: [B, H, K] }, q)
  const { found, last } = runningLse(k, null, state?.lse, options)
  const { gate, weight } = taking(unpadded(sub(k, found), options.mask))
  const result = fastWeights(q, weight, v, { gate }, state && { S: state.S }, options, op)
  return { y: result.y, state: { S: result.state.S, lse: last } }
}

const lightNetStep: Step = ({ S, lse }, { q, k, v }, { scale }) => {
  const { gate, weight } = taking(sub(k, lse!))
  const next = add(decayed(S, gate), outer(weight, v))
  return { y: affine(readOut(next, q), scale), state: { S: next, lse: logAddExp(lse!, k) } }
}

/**
 * Attention with bounded memory (ABC: Peng 2022): gated slot attention whose slots are softmaxes over time of what is written, e^{s_t - z_t} with
 * z_t = log(e^{z_{t-1}} + e^{s_t}). s: [B,T,H,M]; state: { P, S, lse }, lse [B,H,M].
 */
export function abcRule(q: Tensor, k: Tensor, v: Tensor, s: Tensor, state?: FastWeightState, options: RuleOptions = {}): RuleResult {
  const op = 'abcRule'
  const inputs = { q: [q, axes.keys], k: [k, axes.keys], v: [v, axes.values], s: [s, slotAxes] } as const
  const { B, H, K, V, M } = checkCall(op, inputs, options)
  if (state) checkState(op, state, { P: [B, H, K, M], S: [B, H, M, V], lse: [B, H, M] }, q)
  const { found, last } = runningLse(s, null, state?.lse, options)
  const { gate, weight } = taking(unpadded(sub(s, found), options.mask))
  const { y, state: next } = slots(op, q, k, v, weight, gate, state && { P: state.P, S: state.S }, options)
  return { y, state: { ...next, lse: last } }
}

const abcStep: Step = ({ lse, ...state }, { s, ...token }, options) => {
  const { gate, weight } = taking(sub(s, lse!))
  const { y, state: next } = slotStep(state, { ...token, write: weight, gate }, options)
  return { y, state: { ...next, lse: logAddExp(lse!, s) } }
}

// ---- rows of the table

const empty = { lse: nothing }

export const slotRules = {
  gsa: {
    title: 'Gated slot attention',
    source: 'Zhang 2024 (GSA); flash-linear-attention, gsa',
    equation:
      'P_t = P_{t-1} \\mathrm{diag}(\\alpha_t) + k_t w_t^\\top,\\quad S_t = \\mathrm{diag}(\\alpha_t) S_{t-1} + w_t v_t^\\top,\\quad y_t = S_t^\\top \\mathrm{softmax}(P_t^\\top q_t)',
    inputs: { ...qkv('key'), write: input('rate', ...slotAxes), gate: input('gate', ...slotAxes) },
    state: slotState,
    forms: all,
    step: slotStep,
    run: ({ q, k, v, write, gate }, state, options) => gatedSlotRule(q, k, v, write, gate, state, options),
  },
  abc: {
    title: 'Attention with bounded memory control',
    source: 'Peng 2022 (ABC); flash-linear-attention, abc',
    equation:
      'z_t = \\log(e^{z_{t-1}} + e^{s_t}),\\quad \\alpha_t = e^{z_{t-1} - z_t},\\quad w_t = e^{s_t - z_t},\\quad \\text{then gated slot attention}',
    inputs: { ...qkv('key'), s: input('any', ...slotAxes) },
    state: { ...slotState, lse: ['B', 'H', 'M'] },
    empty,
    forms: all,
    step: abcStep,
    run: ({ q, k, v, s }, state, options) => abcRule(q, k, v, s, state, options),
  },
  lightnet: {
    title: 'LightNet: softmax over time, a key channel',
    source: 'Qin 2024 (LightNet); flash-linear-attention, lightnet',
    equation:
      'z_t = \\log(e^{z_{t-1}} + e^{k_t}),\\quad S_t = \\mathrm{diag}(e^{z_{t-1} - z_t}) S_{t-1} + e^{k_t - z_t} v_t^\\top,\\quad y_t = S_t^\\top q_t',
    inputs: qkv('any'),
    state: { S, lse: z },
    empty,
    forms: all,
    step: lightNetStep,
    run: ({ q, k, v }, state, options) => lightNetRule(q, k, v, state, options),
  },
} as const satisfies Record<string, Rule>
