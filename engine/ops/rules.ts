/**
 * The rules: how keys and values program the fast weights. Each stands here twice, one beside the other: as an op of the signature
 * (q, k, v, gates..., state, options) -> { y, state }, built on the fused recurrence of fast-weights.ts, and as a `step`, one token in a few
 * composed ops, which is its specification. The table at the end says of each what goes in, where it comes from and which forms it has.
 *
 * Shapes: q, k [B,T,H,K]; v, y [B,T,H,V]; beta [B,T,H]; gate (logarithms of decays, at most 0) [B,T,H] or [B,T,H,K]; S [B,H,K,V]. A step
 * sees one token, without the axis T.
 */
import { customOp } from '../autograd.ts'
import type { Device } from '../devices/device.ts'
import type { Shape } from '../shape.ts'
import { getDevice, ones, type Tensor, tensor, zeros } from '../tensor.ts'
import { checkFloat, match, sameDevice } from './check.ts'
import { add, affine, div, equal, exp, expand, log, maximum, mul, neg, square, sub } from './elementwise.ts'
import {
  checkState,
  type FastWeightState,
  type Form,
  fastWeights,
  type NormaliserOptions,
  type RuleOptions,
  tokenFlags,
} from './fast-weights.ts'
import { solveSpd } from './linear.ts'
import { matmul } from './matmul.ts'
import { concat, permute, reshape, slice } from './movement.ts'
import { sum } from './reduce.ts'

export interface RuleResult {
  /** [B,T,H,V]. */
  y: Tensor
  state: FastWeightState
}

/** One token: inputs without the axis T, by name; y is [B,H,V]. */
export type Step = (
  state: FastWeightState,
  token: Record<string, Tensor>,
  options: { scale: number; eps: number; normalise: boolean },
) => RuleResult

// ---- what steps are made of ---------------------------------------------------------------------------------------------------------

/** S^T q: what the fast weights S [...,K,V] hold for q [...,K]. */
export const readOut = (S: Tensor, q: Tensor): Tensor => {
  const y = matmul(reshape(q, [...q.shape.slice(0, -1), 1, q.shape.at(-1)!]), S)
  return reshape(y, [...q.shape.slice(0, -1), S.shape.at(-1)!])
}

/** k v^T. */
export const outer = (k: Tensor, v: Tensor): Tensor =>
  matmul(reshape(k, [...k.shape, 1]), reshape(v, [...v.shape.slice(0, -1), 1, v.shape.at(-1)!]))

/** x [B,H] or [B,H,K] with as many axes of size 1 behind as make it broadcast over a tensor of `rank` axes. */
const stretch = (x: Tensor, rank: number): Tensor => reshape(x, [...x.shape, ...new Array<number>(rank - x.shape.length).fill(1)])

/** diag(exp(gate)) S. */
const decayed = (S: Tensor, gate: Tensor): Tensor => mul(S, stretch(exp(gate), S.shape.length))

const dot = (a: Tensor, b: Tensor): Tensor => sum(mul(a, b), { axis: -1, keepDim: true })

// ---- rules that only add ------------------------------------------------------------------------------------------------------------

/**
 * The sum rule, which is linear attention: S_t = S_{t-1} + k_t v_t^T, y_t = scale S_t^T q_t [/ (z_t . q_t + eps)]
 * (Katharopoulos 2020, eq. 16-20; without z: Schmidhuber 1991).
 */
export function sumRule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  state?: FastWeightState,
  options: RuleOptions & NormaliserOptions = {},
): RuleResult {
  return fastWeights(q, k, v, {}, state, options, 'sumRule')
}

/**
 * The sum rule with forgetting: S_t = diag(exp(gate_t)) S_{t-1} + k_t v_t^T. With a gate [B,T,H], one a head, this is Mamba-2's recurrence
 * (Dao & Gu 2024); with one a key channel, [B,T,H,K], gated linear attention (Yang 2023).
 */
export function gatedSumRule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  gate: Tensor,
  state?: FastWeightState,
  options: RuleOptions & NormaliserOptions = {},
): RuleResult {
  return fastWeights(q, k, v, { gate }, state, options, 'gatedSumRule')
}

const sumStep: Step = ({ S, z }, { q, k, v, gate }, { scale, eps, normalise }) => {
  const next = add(gate ? decayed(S, gate) : S, outer(k, v))
  const y = affine(readOut(next, q), scale)
  if (!normalise) return { y, state: { S: next } }
  const total = add(gate ? decayed(z!, gate) : z!, k)
  return { y: div(y, affine(dot(total, q), 1, eps)), state: { S: next, z: total } }
}

/** Retention (Sun 2023): the gated sum with one constant decay a head. decay: [H], its logarithm. */
export function retentionRule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  decay: Tensor,
  state?: FastWeightState,
  options: RuleOptions = {},
): RuleResult {
  const [B, T, H] = q.shape
  match('retentionRule', { decay: [H] }, { decay: decay.shape })
  return fastWeights(q, k, v, { gate: expand(decay, [B, T, H]) }, state, options, 'retentionRule')
}

const retentionStep: Step = (state, { decay, ...token }, options) =>
  sumStep(state, { ...token, gate: expand(decay, token.q.shape.slice(0, 2)) }, options)

/** Peng 2021: S_t = (1 - beta_t) S_{t-1} + beta_t k_t v_t^T: a write fades everything, not just what its key addresses. beta in [0, 1]. */
export function pengRule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state?: FastWeightState, options: RuleOptions = {}): RuleResult {
  const [B, T, H] = q.shape
  match('pengRule', { beta: [B, T, H] }, { beta: beta.shape })
  // log(1 - beta), whose derivative is infinite at beta = 1, where what it meets is 0.
  const gate = customOp(
    'pengRule',
    [beta],
    () => log(affine(beta, -1, 1)),
    (dgate) => [neg(div(dgate, maximum(affine(beta, -1, 1), 1e-30)))],
  )
  try {
    return fastWeights(q, k, mul(v, stretch(beta, 4)), { gate }, state, options, 'pengRule')
  } catch (error) {
    const message = (error as Error).message
    throw message.includes('the gate holds') ? new Error(`pengRule: beta must lie in [0, 1]: of log(1 - beta), ${message}`) : error
  }
}

const pengStep: Step = ({ S }, { q, k, v, beta }, { scale }) => {
  const next = add(mul(S, stretch(affine(beta, -1, 1), 4)), outer(k, mul(v, stretch(beta, 3))))
  return { y: affine(readOut(next, q), scale), state: { S: next } }
}

// ---- rules that correct -------------------------------------------------------------------------------------------------------------

/**
 * The delta rule: S_t = S_{t-1} + beta_t k_t (v_t - S_{t-1}^T k_t)^T, y_t = scale S_t^T q_t (Schlag 2021, eq. 24-25).
 * It corrects what the key k_t retrieves towards v_t at the rate beta_t instead of adding to it. Stable for 0 <= beta |k|^2 <= 2:
 * normalise the keys.
 */
export function deltaRule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state?: FastWeightState, options: RuleOptions = {}): RuleResult {
  return fastWeights(q, k, v, { beta }, state, options, 'deltaRule')
}

/**
 * The gated delta rule: the state first decays, S' = diag(exp(gate_t)) S_{t-1}, and is then corrected, S_t = S' + beta_t k_t (v_t - S'^T k_t)^T.
 * With a gate [B,T,H], one a head: Yang 2024 (gated DeltaNet); with one a key channel, [B,T,H,K]: KDA (Kimi 2025).
 */
export function gatedDeltaRule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  beta: Tensor,
  gate: Tensor,
  state?: FastWeightState,
  options: RuleOptions = {},
): RuleResult {
  return fastWeights(q, k, v, { beta, gate }, state, options, 'gatedDeltaRule')
}

/** S from S' by one correction. */
const corrected = (S: Tensor, k: Tensor, v: Tensor, beta: Tensor): Tensor =>
  add(S, outer(k, mul(sub(v, readOut(S, k)), stretch(beta, v.shape.length))))

const deltaStep: Step = ({ S }, { q, k, v, beta, gate }, { scale }) => {
  const next = corrected(gate ? decayed(S, gate) : S, k, v, beta)
  return { y: affine(readOut(next, q), scale), state: { S: next } }
}

/**
 * The delta rule with attention normalisation (Schlag 2021, section 4.2, in the form of the authors' language model code): with
 * z_t = z_{t-1} + k_t, the memory holds S_{t-1}^T k_t / (z_{t-1} . k_t + eps) for a key, S_t = S_{t-1} + beta_t k_t (v_t - that)^T, and
 * y_t = scale S_t^T q_t / (z_t . q_t + eps). Where z_{t-1} . k_t is exactly 0, as for a first token, 1 stands for it. Features must be
 * non-negative. state: { S, z }; eps: 1e-5 by default.
 */
export function attentionDeltaRule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  beta: Tensor,
  state?: FastWeightState,
  options: RuleOptions & { eps?: number } = {},
): RuleResult {
  const op = 'attentionDeltaRule'
  const { eps = 1e-5, ...rest } = options
  const { B, T, H, K, V } = match(
    op,
    { q: ['B', 'T', 'H', 'K'], k: ['B', 'T', 'H', 'K'], v: ['B', 'T', 'H', 'V'], beta: ['B', 'T', 'H'] },
    { q: q.shape, k: k.shape, v: v.shape, beta: beta.shape },
  )
  if (state) checkState(op, state, { S: [B, H, K, V], z: [B, H, K] }, q)
  // z_t . x_t is the sum rule's read-out with values of 1; z_{t-1} . x_t that of the keys, each one token late.
  const { mask, reset } = options
  let late = concat([zeros([B, 1, H, K], q.device), slice(k, 1, 0, T - 1)], 1)
  if (mask)
    late = mul(
      late,
      flagTensor(op, 'mask', mask, B, T, q.device, (t, flags) => t % T > 0 && flags[t - 1] === 1),
    )
  if (reset)
    late = mul(
      late,
      flagTensor(op, 'reset', reset, B, T, q.device, (t, flags) => flags[t] === 0),
    )
  const one = ones([B, T, H, 1], q.device)
  const z0 = state && { S: reshape(state.z!, [B, H, K, 1]) }
  const sums = { ...rest, scale: 1 }
  const held = fastWeights(k, late, one, {}, z0, { ...sums, mask: undefined }, op).y
  const seen = fastWeights(q, k, one, {}, z0, sums, op)
  const d = add(affine(held, 1, eps), equal(held, 0))
  const { y, state: next } = fastWeights(q, div(k, d), v, { beta: mul(beta, reshape(d, [B, T, H])) }, state && { S: state.S }, rest, op)
  return { y: div(y, affine(seen.y, 1, eps)), state: { S: next.S, z: reshape(seen.state.S, [B, H, K]) } }
}

/** 1 where `keep` says so of a token, counted over [B,T], else 0; [B,T,1,1]. */
function flagTensor(
  op: string,
  name: string,
  given: Tensor,
  B: number,
  T: number,
  device: Device,
  keep: (t: number, flags: Int32Array) => boolean,
): Tensor {
  const flags = tokenFlags(op, name, given, B, T)
  return tensor(
    Float32Array.from(flags, (_, t) => Number(keep(t, flags))),
    { shape: [B, T, 1, 1], device },
  )
}

const attentionDeltaStep: Step = ({ S, z }, { q, k, v, beta }, { scale, eps }) => {
  const held = dot(z!, k)
  const d = add(affine(held, 1, eps), equal(held, 0))
  const next = add(S, outer(k, mul(sub(v, div(readOut(S, k), d)), stretch(beta, 3))))
  const total = add(z!, k)
  return { y: div(affine(readOut(next, q), scale), affine(dot(total, q), 1, eps)), state: { S: next, z: total } }
}

/** Longhorn (Liu 2024): the implicit step on |S^T k - v|^2, the delta rule at the rate beta / (1 + beta |k|^2): stable for any key. */
export function longhornRule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  beta: Tensor,
  state?: FastWeightState,
  options: RuleOptions = {},
): RuleResult {
  const [B, T, H] = q.shape
  match('longhornRule', { beta: [B, T, H] }, { beta: beta.shape })
  return fastWeights(q, k, v, { beta: implicitRate(beta, k) }, state, options, 'longhornRule')
}

const implicitRate = (beta: Tensor, k: Tensor): Tensor => div(beta, affine(mul(beta, sum(square(k), { axis: -1 })), 1, 1))

const longhornStep: Step = (state, token, options) => deltaStep(state, { ...token, beta: implicitRate(token.beta, token.k) }, options)

/**
 * DeltaProduct (Siems 2025): N delta steps a token, decayed once before the first, read once after the last.
 * k [B,T,N,H,K], v [B,T,N,H,V], beta [B,T,N,H]; gate [B,T,H] or [B,T,H,K], or null for none.
 */
export function deltaProductRule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  beta: Tensor,
  gate: Tensor | null,
  state?: FastWeightState,
  options: RuleOptions = {},
): RuleResult {
  const { B, T, H, K, N } = match(
    'deltaProductRule',
    { q: ['B', 'T', 'H', 'K'], k: ['B', 'T', 'N', 'H', 'K'], v: ['B', 'T', 'N', 'H', 'V'], beta: ['B', 'T', 'N', 'H'] },
    { q: q.shape, k: k.shape, v: v.shape, beta: beta.shape },
  )
  if (gate) match('deltaProductRule', { gate: gate.shape.length === 3 ? [B, T, H] : [B, T, H, K] }, { gate: gate.shape })
  const steps = (x: Tensor): Tensor => reshape(x, [B, T * N, ...x.shape.slice(3)])
  const gates = { beta: steps(beta), ...(gate && { gate: substep(gate, 0, N) }) }
  const inner = innerOptions(options, T, N)
  const result = fastWeights(substep(q, N - 1, N), steps(k), steps(v), gates, state, inner, 'deltaProductRule')
  return { y: substepOf(result.y, N - 1, N), state: result.state }
}

/** x [B,T,...] as the sub-step `at` of N, zeros elsewhere: [B, T N, ...]. */
function substep(x: Tensor, at: number, N: number): Tensor {
  if (N === 1) return x
  const [B, T, ...rest] = x.shape
  const blank = (n: number): Tensor[] => (n > 0 ? [zeros([B, T, n, ...rest], x.device)] : [])
  return reshape(concat([...blank(at), reshape(x, [B, T, 1, ...rest]), ...blank(N - 1 - at)], 2), [B, T * N, ...rest])
}

const substepOf = (y: Tensor, at: number, N: number): Tensor => {
  const [B, TN, ...rest] = y.shape
  return reshape(slice(reshape(y, [B, TN / N, N, ...rest]), 2, at, at + 1), [B, TN / N, ...rest])
}

/** Options for a sequence in which N steps stand for each token; all of a padding token's are padding, the first of a beginning resets. */
function innerOptions(options: RuleOptions, T: number, N: number): RuleOptions {
  const spread = (flags: Tensor | undefined, all: boolean): Tensor | undefined =>
    flags?.indices
      ? tensor(
          Int32Array.from({ length: flags.size * N }, (_, i) => (all || i % N === 0 ? flags.indices![Math.floor(i / N)] : 0)),
          { shape: [flags.shape[0], flags.size === 0 ? 0 : flags.shape[1] * N], device: flags.device },
        )
      : flags
  const form = options.form ?? (T === 1 ? 'recurrent' : 'chunk')
  const chunk = options.chunk === undefined ? undefined : options.chunk * N
  return { ...options, form, chunk, mask: spread(options.mask, true), reset: spread(options.reset, false) }
}

const deltaProductStep: Step = ({ S }, { q, k, v, beta, gate }, { scale }) => {
  const [B, N, H] = k.shape
  let next = gate ? decayed(S, gate) : S
  for (let n = 0; n < N; n++) {
    const at = (x: Tensor): Tensor => reshape(slice(x, 1, n, n + 1), [B, H, ...x.shape.slice(3)])
    next = corrected(next, at(k), at(v), at(beta))
  }
  return { y: affine(readOut(next, q), scale), state: { S: next } }
}

/**
 * Oja's rule with an optional gate: S' = S_{t-1} diag(exp(gate_t)), S_t = S' + beta_t (k_t - S' v_t) v_t^T. Its state is the transpose of the
 * delta rule's with keys and values exchanged; stable for 0 <= beta |v|^2 <= 2. gate: null, [B,T,H], or [B,T,H,V], one a value channel.
 */
export function ojaRule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  beta: Tensor,
  gate: Tensor | null,
  state?: FastWeightState,
  options: RuleOptions = {},
): RuleResult {
  const op = 'ojaRule'
  const { B, T, H, K, V } = match(
    op,
    { q: ['B', 'T', 'H', 'K'], k: ['B', 'T', 'H', 'K'], v: ['B', 'T', 'H', 'V'], beta: ['B', 'T', 'H'] },
    { q: q.shape, k: k.shape, v: v.shape, beta: beta.shape },
  )
  if (gate) match(op, { gate: gate.shape.length === 3 ? [B, T, H] : [B, T, H, V] }, { gate: gate.shape })
  if (state) checkState(op, state, { S: [B, H, K, V] }, q)
  // The delta rule on the transpose, in two steps a token: decay and read S' v_t; then write. What is written makes keys for the sum rule.
  const transposed = state && { S: permute(state.S, [0, 1, 3, 2]) }
  const gates = { beta: substep(beta, 1, 2), ...(gate && { gate: substep(gate, 0, 2) }) }
  const inner = { ...innerOptions(options, T, 2), scale: 1 }
  const seen = fastWeights(substep(v, 0, 2), substep(v, 1, 2), substep(k, 1, 2), gates, transposed, inner, op).y
  const keys = mul(sub(k, substepOf(seen, 0, 2)), stretch(beta, 4))
  if (gate?.shape.length !== 4) return fastWeights(q, keys, v, gate ? { gate } : {}, state, options, op)
  // One decay a value channel: each channel is a head of its own, with values of one number.
  const perChannel = (x: Tensor): Tensor => reshape(expand(reshape(x, [B, T, H, 1, K]), [B, T, H, V, K]), [B, T, H * V, K])
  const S0 = state && { S: reshape(permute(state.S, [0, 1, 3, 2]), [B, H * V, K, 1]) }
  const heads = (x: Tensor, rest: number[]): Tensor => reshape(x, [B, T, H * V, ...rest])
  const result = fastWeights(perChannel(q), perChannel(keys), heads(v, [1]), { gate: heads(gate, []) }, S0, options, op)
  return { y: reshape(result.y, [B, T, H, V]), state: { S: permute(reshape(result.state.S, [B, H, V, K]), [0, 1, 3, 2]) } }
}

const ojaStep: Step = ({ S }, { q, k, v, beta, gate }, { scale }) => {
  const faded = gate ? mul(S, gate.shape.length === 2 ? stretch(exp(gate), 4) : reshape(exp(gate), [...gate.shape.slice(0, 2), 1, -1])) : S
  const next = add(faded, outer(mul(sub(k, readOut(permute(faded, [0, 1, 3, 2]), v)), stretch(beta, 3)), v))
  return { y: affine(readOut(next, q), scale), state: { S: next } }
}

// ---- the general linear rule --------------------------------------------------------------------------------------------------------

/**
 * Diagonal plus low rank: S_t = diag(exp(gate_t)) S_{t-1} + b_t (a_t^T S_{t-1}) + k_t v_t^T; a reads the state before it decays. Without a
 * gate (null) this is IPLR. All linear rules here are cases of it: delta is a = k, b = -beta k, k := beta k. a, b: [B,T,H,K].
 */
export function dplrRule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  a: Tensor,
  b: Tensor,
  gate: Tensor | null,
  state?: FastWeightState,
  options: RuleOptions = {},
): RuleResult {
  const op = 'dplrRule'
  const { B, T, H, K } = match(
    op,
    { q: ['B', 'T', 'H', 'K'], k: ['B', 'T', 'H', 'K'], a: ['B', 'T', 'H', 'K'], b: ['B', 'T', 'H', 'K'], v: ['B', 'T', 'H', 'V'] },
    { q: q.shape, k: k.shape, a: a.shape, b: b.shape, v: v.shape },
  )
  if (gate) match(op, { gate: gate.shape.length === 3 ? [B, T, H] : [B, T, H, K] }, { gate: gate.shape })
  // Two writes a token: along b what -erase = a finds, then k v^T.
  const keys = add(substep(b, 0, 2), substep(k, 1, 2))
  const gates = { erase: substep(neg(a), 0, 2), ...(gate && { gate: substep(gate, 0, 2) }) }
  const result = fastWeights(substep(q, 1, 2), keys, substep(v, 1, 2), gates, state, innerOptions(options, T, 2), op)
  return { y: substepOf(result.y, 1, 2), state: result.state }
}

const dplrStep: Step = ({ S }, { q, k, v, a, b, gate }, { scale }) => {
  const next = add(add(gate ? decayed(S, gate) : S, outer(b, readOut(S, a))), outer(k, v))
  return { y: affine(readOut(next, q), scale), state: { S: next } }
}

/** RWKV-7 (Peng 2025): the general rule with a = -kappa, b = kappa * rate; kappa [B,T,H,K] of length 1, rate [B,T,H,K] in [0, 1]. */
export function rwkv7Rule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  kappa: Tensor,
  rate: Tensor,
  gate: Tensor,
  state?: FastWeightState,
  options: RuleOptions = {},
): RuleResult {
  return dplrRule(q, k, v, neg(kappa), mul(kappa, rate), gate, state, options)
}

const rwkv7Step: Step = (state, { kappa, rate, ...token }, options) =>
  dplrStep(state, { ...token, a: neg(kappa), b: mul(kappa, rate) }, options)

// ---- least squares ------------------------------------------------------------------------------------------------------------------

/**
 * Mesa (von Oswald 2023, 2025): the fast weights that fit all pairs so far best, solved exactly for each token:
 * A_t = exp(gate_t) A_{t-1} + beta_t k_t k_t^T, S_t = exp(gate_t) S_{t-1} + beta_t k_t v_t^T, y_t = scale S_t^T (A_t + diag(lambda))^-1 q_t.
 * beta >= 0 and gate: [B,T,H], gate or null; lambda > 0: [H,K]; state: { S, A }, A [B,H,K,K]. Recurrent only.
 */
export function mesaRule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  beta: Tensor,
  gate: Tensor | null,
  lambda: Tensor,
  state?: FastWeightState,
  options: RuleOptions = {},
): RuleResult {
  const op = 'mesaRule'
  const { B, T, H, K, V } = match(
    op,
    { q: ['B', 'T', 'H', 'K'], k: ['B', 'T', 'H', 'K'], v: ['B', 'T', 'H', 'V'], beta: ['B', 'T', 'H'], lambda: ['H', 'K'] },
    { q: q.shape, k: k.shape, v: v.shape, beta: beta.shape, lambda: lambda.shape },
  )
  if (gate) match(op, { gate: [B, T, H] }, { gate: gate.shape })
  if ((options.form ?? 'recurrent') !== 'recurrent') throw new Error(`${op}: has only the recurrent form, not '${options.form}'`)
  if (state) checkState(op, state, { S: [B, H, K, V], A: [B, H, K, K] }, q)
  // Of one more head a token: k with itself as value. The read-out of S with the solution is the gated sum rule's.
  const strength = stretch(beta, 4)
  const flags = { mask: options.mask, reset: options.reset }
  let memory = state?.A
  const solutions: Tensor[] = []
  for (let t = 0; t < T; t++) {
    const at = (x: Tensor): Tensor => slice(x, 1, t, t + 1)
    const of = (x: Tensor | undefined): Tensor | undefined =>
      x?.indices
        ? tensor(
            Int32Array.from({ length: B }, (_, b) => x.indices![b * T + t]),
            { shape: [B, 1], device: x.device },
          )
        : x
    const token = at(k)
    const gates = gate ? { gate: at(gate) } : {}
    const next = fastWeights(
      token,
      token,
      mul(token, at(strength)),
      gates,
      memory && { S: memory },
      { mask: of(flags.mask), reset: of(flags.reset) },
      op,
    )
    memory = next.state.S
    solutions.push(solveSpd(add(memory, diagonal(lambda)), reshape(at(q), [B, H, K])))
  }
  const x = concat(
    solutions.map((s) => reshape(s, [B, 1, H, K])),
    1,
  )
  const read = fastWeights(x, k, mul(v, strength), gate ? { gate } : {}, state && { S: state.S }, { ...options, form: 'recurrent' }, op)
  return { y: read.y, state: { S: read.state.S, A: memory } }
}

/** [..., K] -> [..., K, K]. */
function diagonal(x: Tensor): Tensor {
  const K = x.shape.at(-1)!
  const eye = tensor(
    Float32Array.from({ length: K * K }, (_, i) => Number(i % (K + 1) === 0)),
    { shape: [K, K], device: x.device },
  )
  return mul(reshape(x, [...x.shape, 1]), eye)
}

const mesaStep: Step = ({ S, A }, { q, k, v, beta, gate, lambda }, { scale }) => {
  const strength = stretch(beta, 3)
  const keys = add(gate ? decayed(A!, gate) : A!, outer(k, mul(k, strength)))
  const next = add(gate ? decayed(S, gate) : S, outer(k, mul(v, strength)))
  const x = solveSpd(add(keys, diagonal(lambda)), q)
  return { y: affine(readOut(next, x), scale), state: { S: next, A: keys } }
}

// ---- the table ----------------------------------------------------------------------------------------------------------------------

export type Letter = 'B' | 'T' | 'H' | 'K' | 'V' | 'N'
/**
 * What the values of an input are like, for whoever makes some: `any`; `key`, of a length about 1; `unit key`, of length 1; `feature`, not
 * negative; `rate`, in [0, 1]; `gate`, logarithms of decays, at most 0; `positive`.
 */
export type ValueKind = 'any' | 'key' | 'unit key' | 'feature' | 'rate' | 'gate' | 'positive'
export interface RuleInput {
  /** With 'T' it is sliced for a step; without, every step gets all of it. */
  shape: readonly Letter[]
  values: ValueKind
}

export interface Rule {
  title: string
  source: string
  /** TeX. */
  equation: string
  /** In the order of the op's arguments; q, k, v first. */
  inputs: Readonly<Record<string, RuleInput>>
  state: Readonly<Partial<Record<keyof FastWeightState, readonly Letter[]>>>
  forms: readonly Form[]
  eps?: number
  normalise?: boolean
  step: Step
  run(inputs: Record<string, Tensor>, state: FastWeightState | undefined, options: RuleOptions): RuleResult
}

const input = (values: ValueKind, ...shape: Letter[]): RuleInput => ({ values, shape })
const qkv = (keys: ValueKind = 'any', values: ValueKind = 'any') => ({
  q: input(keys === 'feature' ? 'feature' : 'any', 'B', 'T', 'H', 'K'),
  k: input(keys, 'B', 'T', 'H', 'K'),
  v: input(values, 'B', 'T', 'H', 'V'),
})
const perHead = (values: ValueKind): RuleInput => input(values, 'B', 'T', 'H')
const perChannel = (values: ValueKind): RuleInput => input(values, 'B', 'T', 'H', 'K')
const S = ['B', 'H', 'K', 'V'] as const
const z = ['B', 'H', 'K'] as const
const all: readonly Form[] = ['recurrent', 'parallel', 'chunk']

/** Every rule, by name. */
export const rules = {
  sum: {
    title: 'Sum rule (linear attention, unnormalised)',
    source: 'Schmidhuber 1991; Katharopoulos 2020, eq. 16-20 without z',
    equation: 'S_t = S_{t-1} + k_t v_t^\\top,\\quad y_t = S_t^\\top q_t',
    inputs: qkv('key'),
    state: { S },
    forms: all,
    step: sumStep,
    run: ({ q, k, v }, state, options) => sumRule(q, k, v, state, options),
  },
  'linear-attention': {
    title: 'Linear attention: the sum rule with its normaliser',
    source: 'Katharopoulos 2020, eq. 16-20',
    equation: 'S_t = S_{t-1} + k_t v_t^\\top,\\quad z_t = z_{t-1} + k_t,\\quad y_t = \\frac{S_t^\\top q_t}{z_t^\\top q_t + \\varepsilon}',
    inputs: qkv('feature'),
    state: { S, z },
    forms: all,
    eps: 1e-6,
    normalise: true,
    step: sumStep,
    run: ({ q, k, v }, state, options) => sumRule(q, k, v, state, { ...options, normalise: true }),
  },
  delta: {
    title: 'Delta rule',
    source: 'Schlag 2021, eq. 24-25; in chunks: Yang 2024',
    equation: 'S_t = S_{t-1} + \\beta_t k_t (v_t - S_{t-1}^\\top k_t)^\\top,\\quad y_t = S_t^\\top q_t',
    inputs: { ...qkv('key'), beta: perHead('rate') },
    state: { S },
    forms: all,
    step: deltaStep,
    run: ({ q, k, v, beta }, state, options) => deltaRule(q, k, v, beta, state, options),
  },
  'attention-delta': {
    title: 'Delta rule with attention normalisation',
    source: 'Schlag 2021, section 4.2 and its language model code',
    equation:
      'S_t = S_{t-1} + \\beta_t k_t \\Bigl(v_t - \\frac{S_{t-1}^\\top k_t}{z_{t-1}^\\top k_t}\\Bigr)^{\\!\\top},\\quad z_t = z_{t-1} + k_t,\\quad y_t = \\frac{S_t^\\top q_t}{z_t^\\top q_t}',
    inputs: { ...qkv('feature'), beta: perHead('rate') },
    state: { S, z },
    forms: all,
    eps: 1e-5,
    step: attentionDeltaStep,
    run: ({ q, k, v, beta }, state, options) => attentionDeltaRule(q, k, v, beta, state, options),
  },
  retnet: {
    title: 'Retention: the decayed sum',
    source: 'Sun 2023',
    equation: 'S_t = \\gamma S_{t-1} + k_t v_t^\\top,\\quad y_t = S_t^\\top q_t',
    inputs: { ...qkv('key'), decay: input('gate', 'H') },
    state: { S },
    forms: all,
    step: retentionStep,
    run: ({ q, k, v, decay }, state, options) => retentionRule(q, k, v, decay, state, options),
  },
  mamba2: {
    title: 'Scalar gate (Mamba-2)',
    source: 'Dao & Gu 2024',
    equation: 'S_t = \\alpha_t S_{t-1} + k_t v_t^\\top,\\quad y_t = S_t^\\top q_t',
    inputs: { ...qkv('key'), gate: perHead('gate') },
    state: { S },
    forms: all,
    step: sumStep,
    run: ({ q, k, v, gate }, state, options) => gatedSumRule(q, k, v, gate, state, options),
  },
  gla: {
    title: 'Gated linear attention: a gate for each key channel',
    source: 'Yang 2023',
    equation: 'S_t = \\mathrm{diag}(\\alpha_t) S_{t-1} + k_t v_t^\\top,\\quad y_t = S_t^\\top q_t',
    inputs: { ...qkv('key'), gate: perChannel('gate') },
    state: { S },
    forms: all,
    step: sumStep,
    run: ({ q, k, v, gate }, state, options) => gatedSumRule(q, k, v, gate, state, options),
  },
  peng: {
    title: "Peng's gated rule",
    source: 'Peng 2021; Schlag 2021, App. B',
    equation: 'S_t = (1 - \\beta_t) S_{t-1} + \\beta_t k_t v_t^\\top,\\quad y_t = S_t^\\top q_t',
    inputs: { ...qkv('key'), beta: perHead('rate') },
    state: { S },
    forms: all,
    step: pengStep,
    run: ({ q, k, v, beta }, state, options) => pengRule(q, k, v, beta, state, options),
  },
  'gated-delta': {
    title: 'Gated delta rule',
    source: 'Yang 2024 (gated DeltaNet)',
    equation: "S' = \\alpha_t S_{t-1},\\quad S_t = S' + \\beta_t k_t (v_t - S'^\\top k_t)^\\top,\\quad y_t = S_t^\\top q_t",
    inputs: { ...qkv('key'), beta: perHead('rate'), gate: perHead('gate') },
    state: { S },
    forms: all,
    step: deltaStep,
    run: ({ q, k, v, beta, gate }, state, options) => gatedDeltaRule(q, k, v, beta, gate, state, options),
  },
  kda: {
    title: 'Kimi delta attention: a gate for each key channel',
    source: 'Kimi 2025',
    equation: "S' = \\mathrm{diag}(\\alpha_t) S_{t-1},\\quad S_t = S' + \\beta_t k_t (v_t - S'^\\top k_t)^\\top,\\quad y_t = S_t^\\top q_t",
    inputs: { ...qkv('key'), beta: perHead('rate'), gate: perChannel('gate') },
    state: { S },
    forms: all,
    step: deltaStep,
    run: ({ q, k, v, beta, gate }, state, options) => gatedDeltaRule(q, k, v, beta, gate, state, options),
  },
  'delta-product': {
    title: 'DeltaProduct: N delta steps a token',
    source: 'Siems 2025',
    equation:
      "S' = \\alpha_t S_{t-1},\\quad S_t = \\prod_{n=1}^{N} (I - \\beta_{t,n} k_{t,n} k_{t,n}^\\top)\\, S' + \\dots,\\quad y_t = S_t^\\top q_t",
    inputs: {
      q: input('any', 'B', 'T', 'H', 'K'),
      k: input('key', 'B', 'T', 'N', 'H', 'K'),
      v: input('any', 'B', 'T', 'N', 'H', 'V'),
      beta: input('rate', 'B', 'T', 'N', 'H'),
      gate: perHead('gate'),
    },
    state: { S },
    forms: all,
    step: deltaProductStep,
    run: ({ q, k, v, beta, gate }, state, options) => deltaProductRule(q, k, v, beta, gate, state, options),
  },
  oja: {
    title: "Oja's rule",
    source: 'Irie 2022, from Oja 1982',
    equation: 'S_t = S_{t-1} + \\beta_t (k_t - S_{t-1} v_t) v_t^\\top,\\quad y_t = S_t^\\top q_t',
    inputs: { ...qkv('any', 'key'), beta: perHead('rate') },
    state: { S },
    forms: all,
    step: ojaStep,
    run: ({ q, k, v, beta }, state, options) => ojaRule(q, k, v, beta, null, state, options),
  },
  'gated-oja': {
    title: "Oja's rule with a gate for each value channel",
    source: 'flash-linear-attention, gated_oja_rule',
    equation: "S' = S_{t-1} \\mathrm{diag}(\\alpha_t),\\quad S_t = S' + \\beta_t (k_t - S' v_t) v_t^\\top,\\quad y_t = S_t^\\top q_t",
    inputs: { ...qkv('any', 'key'), beta: perHead('rate'), gate: input('gate', 'B', 'T', 'H', 'V') },
    state: { S },
    forms: all,
    step: ojaStep,
    run: ({ q, k, v, beta, gate }, state, options) => ojaRule(q, k, v, beta, gate, state, options),
  },
  longhorn: {
    title: "Longhorn: the delta rule's implicit step",
    source: 'Liu 2024; Yang 2024 (gated DeltaNet), table 1',
    equation: 'S_t = S_{t-1} + \\frac{\\beta_t}{1 + \\beta_t \\|k_t\\|^2} k_t (v_t - S_{t-1}^\\top k_t)^\\top,\\quad y_t = S_t^\\top q_t',
    inputs: { ...qkv(), beta: perHead('positive') },
    state: { S },
    forms: all,
    step: longhornStep,
    run: ({ q, k, v, beta }, state, options) => longhornRule(q, k, v, beta, state, options),
  },
  iplr: {
    title: 'Identity plus low rank',
    source: 'flash-linear-attention, generalized_delta_rule',
    equation: 'S_t = (I + b_t a_t^\\top) S_{t-1} + k_t v_t^\\top,\\quad y_t = S_t^\\top q_t',
    inputs: { ...qkv('key'), a: perChannel('key'), b: perChannel('key') },
    state: { S },
    forms: all,
    step: dplrStep,
    run: ({ q, k, v, a, b }, state, options) => dplrRule(q, k, v, a, b, null, state, options),
  },
  dplr: {
    title: 'Diagonal plus low rank: the general linear rule',
    source: 'Peng 2025 (RWKV-7), section 3',
    equation: 'S_t = (\\mathrm{diag}(\\alpha_t) + b_t a_t^\\top) S_{t-1} + k_t v_t^\\top,\\quad y_t = S_t^\\top q_t',
    inputs: { ...qkv('key'), a: perChannel('key'), b: perChannel('key'), gate: perChannel('gate') },
    state: { S },
    forms: all,
    step: dplrStep,
    run: ({ q, k, v, a, b, gate }, state, options) => dplrRule(q, k, v, a, b, gate, state, options),
  },
  rwkv7: {
    title: 'RWKV-7',
    source: 'Peng 2025',
    equation:
      'S_t = (\\mathrm{diag}(\\alpha_t) - (\\kappa_t \\odot \\rho_t) \\kappa_t^\\top) S_{t-1} + k_t v_t^\\top,\\quad y_t = S_t^\\top q_t',
    inputs: { ...qkv('key'), kappa: perChannel('unit key'), rate: perChannel('rate'), gate: perChannel('gate') },
    state: { S },
    forms: all,
    step: rwkv7Step,
    run: ({ q, k, v, kappa, rate, gate }, state, options) => rwkv7Rule(q, k, v, kappa, rate, gate, state, options),
  },
  mesa: {
    title: 'Mesa: least squares, solved exactly for each token',
    source: 'von Oswald 2023, 2025',
    equation:
      'A_t = \\alpha_t A_{t-1} + \\beta_t k_t k_t^\\top,\\quad S_t = \\alpha_t S_{t-1} + \\beta_t k_t v_t^\\top,\\quad y_t = S_t^\\top (A_t + \\mathrm{diag}(\\lambda))^{-1} q_t',
    inputs: { ...qkv('key'), beta: perHead('rate'), gate: perHead('gate'), lambda: input('positive', 'H', 'K') },
    state: { S, A: ['B', 'H', 'K', 'K'] },
    forms: ['recurrent'],
    step: mesaStep,
    run: ({ q, k, v, beta, gate, lambda }, state, options) => mesaRule(q, k, v, beta, gate, lambda, state, options),
  },
} as const satisfies Record<string, Rule>
export type RuleName = keyof typeof rules

/** The state before the first token: zeros. */
export function initialState(
  rule: Pick<Rule, 'state'>,
  sizes: Readonly<Partial<Record<Letter, number>>>,
  device: Device = getDevice(),
): FastWeightState {
  const shape = (letters: readonly Letter[]): Shape => letters.map((letter) => sizes[letter]!)
  return Object.fromEntries(Object.entries(rule.state).map(([name, letters]) => [name, zeros(shape(letters), device)])) as never
}

/**
 * A rule by its step alone: the loop over tokens, in composed ops on any device, with gradients through all of it. Slow, and the
 * specification of `run`. inputs by name, as rule.inputs says; options as for the fused forms (form and chunk mean nothing here).
 */
export function runSteps(
  rule: Pick<Rule, 'inputs' | 'state' | 'step' | 'eps' | 'normalise'>,
  inputs: Record<string, Tensor>,
  state?: FastWeightState,
  options: RuleOptions & { eps?: number } = {},
): RuleResult {
  const { scale = 1, eps = rule.eps ?? 0, mask, reset } = options
  const tensors = Object.values(inputs)
  sameDevice('runSteps', ...tensors)
  checkFloat('runSteps', ...tensors)
  const sizes = match(
    'runSteps',
    mapValues(rule.inputs, ({ shape }) => shape),
    mapValues(inputs, (t) => t.shape),
  )
  const { B, T } = sizes
  const { device } = inputs.q
  let current = state ?? initialState(rule, sizes, device)
  const perRow = (name: string, flags: Tensor, t: number): { all: boolean; none: boolean; on: Tensor; off: Tensor } => {
    const values = Array.from({ length: B }, (_, b) => tokenFlags('runSteps', name, flags, B, T)[b * T + t])
    const on = tensor(Float32Array.from(values), { shape: [B], device })
    return { all: values.every((x) => x === 1), none: values.every((x) => x === 0), on, off: affine(on, -1, 1) }
  }
  const ys: Tensor[] = []
  for (let t = 0; t < T; t++) {
    const token = mapValues(inputs, (x, name) => {
      const axis = rule.inputs[name].shape.indexOf('T')
      return axis < 0
        ? x
        : reshape(
            slice(x, axis, t, t + 1),
            x.shape.filter((_, i) => i !== axis),
          )
    })
    const begins = reset && perRow('reset', reset, t)
    if (begins && !begins.none) current = mapState(current, (x) => mul(x, stretch(begins.off, x.shape.length)))
    const next = rule.step(current, token, { scale, eps, normalise: rule.normalise ?? false })
    const real = mask && perRow('mask', mask, t)
    const before = current
    current =
      real && !real.all
        ? mapState(next.state, (x, name) =>
            add(mul(x, stretch(real.on, x.shape.length)), mul(before[name]!, stretch(real.off, x.shape.length))),
          )
        : next.state
    ys.push(reshape(next.y, [B, 1, ...next.y.shape.slice(1)]))
  }
  return { y: concat(ys, 1), state: current }
}

const mapValues = <X, Y>(record: Readonly<Record<string, X>>, f: (x: X, name: string) => Y): Record<string, Y> =>
  Object.fromEntries(Object.entries(record).map(([name, x]) => [name, f(x, name)]))

const mapState = (state: FastWeightState, f: (x: Tensor, name: keyof FastWeightState) => Tensor): FastWeightState =>
  mapValues(state as unknown as Record<string, Tensor>, (x, name) => f(x, name as keyof FastWeightState)) as unknown as FastWeightState
