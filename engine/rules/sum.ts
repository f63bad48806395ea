/** Rules that only add. */
import { customOp } from '../autograd.ts'
import { GateError } from '../devices/kernels.ts'
import { add, affine, div, equal, exp, expand, greater, log, maximum, mul, neg } from '../ops/elementwise.ts'
import {
  checkCall,
  checkState,
  type FastWeightState,
  fastWeights,
  type NormaliserOptions,
  type RuleOptions,
  requireGate,
} from '../ops/fast-weights.ts'
import { reshape } from '../ops/movement.ts'
import { getDevice, ones, type Tensor, tensor } from '../tensor.ts'
import {
  all,
  axes,
  decayed,
  dot,
  fade,
  finite,
  input,
  outer,
  perChannel,
  perHead,
  perValue,
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
  checkCall('sumRule', { q: [q, axes.keys], k: [k, axes.keys], v: [v, axes.values] }, options, ['normalise', 'eps'])
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
  const { K } = checkCall('gatedSumRule', { q: [q, axes.keys], k: [k, axes.keys], v: [v, axes.values] }, options, ['normalise', 'eps'])
  requireGate('gatedSumRule', gate, q, K)
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
  const { B, T, H } = checkCall(
    'retentionRule',
    { q: [q, axes.keys], k: [k, axes.keys], v: [v, axes.values], decay: [decay, ['H']] },
    options,
  )
  return fastWeights(q, k, v, { gate: expand(decay, [B, T, H]) }, state, options, 'retentionRule')
}

/**
 * The logarithms of lightning attention's decays, [H], for `retentionRule` (Qin 2024): head h of layer l of L has -(8 / H) (1 - l / L) h, so that the
 * first one never forgets.
 */
export function lightningDecays(H: number, layer: number, layers: number, device = getDevice()): Tensor {
  if (!(Number.isInteger(H) && H > 0 && layers > 0 && layer >= 0 && layer <= layers))
    throw new Error(`lightningDecays: there is no layer ${layer} of ${layers} with ${H} heads`)
  return tensor(
    Float64Array.from({ length: H }, (_, h) => -(8 / H) * (1 - layer / layers) * h),
    { shape: [H], device },
  )
}

const retentionStep: Step = (state, { decay, ...token }, options) =>
  sumStep(state, { ...token, gate: expand(decay, token.q.shape.slice(0, 2)) }, options)

/**
 * HGRN-2 (Qin 2024): what a channel forgets is what it takes in, S_t = diag(f_t) S_{t-1} + (1 - f_t) v_t^T with f_t = exp(gate_t): gated linear
 * attention with the key 1 - f. gate: [B,T,H,K].
 */
export function hgrn2Rule(q: Tensor, v: Tensor, gate: Tensor, state?: FastWeightState, options: RuleOptions = {}): RuleResult {
  checkCall('hgrn2Rule', { q: [q, axes.keys], v: [v, axes.values], gate: [gate, axes.keys] }, options)
  return fastWeights(q, affine(exp(unpadded(gate, options.mask)), -1, 1), v, { gate }, state, options, 'hgrn2Rule')
}

/** HGRN (Qin 2023): h_t = exp(gate_t) * h_{t-1} + x_t, y_t = h_t, channel by channel. x, gate, y: [B,T,H,V]; state: { S }, S [B,H,V]. */
export function hgrnRule(x: Tensor, gate: Tensor, state?: FastWeightState, options: RuleOptions = {}): RuleResult {
  const op = 'hgrnRule'
  const { B, T, H, V } = checkCall(op, { x: [x, axes.values], gate: [gate, axes.values] }, options)
  if (state) checkState(op, state, { S: [B, H, V] }, x)
  // The gated sum of keys x with a single value, which asks for them.
  const one = ones([B, T, H, 1], x.device)
  const S0 = state && { S: reshape(state.S, [B, H, V, 1]) }
  const { y, state: last } = fastWeights(one, x, one, { gate }, S0, { ...options, transposed: true }, op)
  return { y, state: { S: reshape(last.S, [B, H, V]) } }
}

const hgrnStep: Step = ({ S }, { x, gate }, { scale }) => {
  const next = add(fade(exp(gate), S), x)
  return { y: affine(next, scale), state: { S: next } }
}

const hgrn2Step: Step = (state, token, options) => sumStep(state, { ...token, k: affine(exp(token.gate), -1, 1) }, options)

/** Peng 2021: S_t = (1 - beta_t) S_{t-1} + beta_t k_t v_t^T: a write fades everything, not just what its key addresses. beta in [0, 1]; 1 forgets. */
export function pengRule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state?: FastWeightState, options: RuleOptions = {}): RuleResult {
  checkCall('pengRule', { q: [q, axes.keys], k: [k, axes.keys], v: [v, axes.values], beta: [beta, axes.heads] }, options)
  const [values, rate] = [v, beta].map((x) => unpadded(x, options.mask))
  // The gate's gradient is that of a logarithm, divided by the decay, which gives it back for the decay. Where beta is 1 nothing of it is left:
  // there it comes from a decay of 1e-30.
  const rest = (): Tensor => maximum(affine(rate, -1, 1), 1e-30)
  const ofDecay = (dgate: Tensor): Tensor => neg(div(dgate, rest()))
  const gate = customOp(
    'pengRule',
    [rate],
    // Above 0, which is refused, where beta is above 1; e^-2^100 is 0.
    () => maximum(log(maximum(affine(rate, -1, 1), 0)), affine(greater(rate, 1), 2 ** 101, -(2 ** 100))),
    (dgate) => [ofDecay(dgate)],
  )
  const nearby = customOp(
    'pengRule',
    [rate],
    () => log(rest()),
    (dgate) => {
      const dw = ofDecay(dgate)
      return [pick(mul(equal(rate, 1), finite(dw)), dw)]
    },
  )
  try {
    return fastWeights(q, k, mul(values, stretch(rate, 4)), { gate, nearby }, state, options, 'pengRule')
  } catch (error) {
    throw error instanceof GateError ? new GateError(error.value, 'pengRule: beta must lie in [0, 1], and it is above 1') : error
  }
}

const pengStep: Step = ({ S }, { q, k, v, beta }, { scale }) => {
  const next = add(fade(stretch(affine(beta, -1, 1), 4), S), outer(k, mul(v, stretch(beta, 3))))
  return { y: affine(readOut(next, q), scale), state: { S: next } }
}

// ---- rows of the table

export const sumRules = {
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
  hgrn: {
    title: 'HGRN: a decayed sum in each channel',
    source: 'Qin 2023 (HGRN); flash-linear-attention, hgrn',
    equation: 'h_t = f_t \\odot h_{t-1} + x_t,\\quad y_t = h_t',
    inputs: { x: perValue('any'), gate: perValue('gate') },
    state: { S: ['B', 'H', 'V'] },
    forms: all,
    step: hgrnStep,
    run: ({ x, gate }, state, options) => hgrnRule(x, gate, state, options),
  },
  hgrn2: {
    title: 'HGRN-2: gated linear attention whose keys are what its gates let go',
    source: 'Qin 2024 (HGRN2); flash-linear-attention, hgrn2',
    equation: 'S_t = \\mathrm{diag}(f_t) S_{t-1} + (1 - f_t) v_t^\\top,\\quad y_t = S_t^\\top q_t',
    inputs: { q: qkv().q, v: qkv().v, gate: perChannel('gate') },
    state: { S },
    forms: all,
    step: hgrn2Step,
    run: ({ q, v, gate }, state, options) => hgrn2Rule(q, v, gate, state, options),
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
} as const satisfies Record<string, Rule>
