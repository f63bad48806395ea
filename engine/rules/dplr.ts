/** The general linear rule: diagonal plus low rank. */
import { add, affine, mul, neg } from '../ops/elementwise.ts'
import { checkCall, checkGate, type FastWeightState, fastWeights, type RuleOptions, requireGate } from '../ops/fast-weights.ts'
import type { Tensor } from '../tensor.ts'
import { all, axes, decayed, outer, perChannel, qkv, type Rule, type RuleResult, readOut, S, type Step, unpadded } from './rule.ts'

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
  const { K } = checkCall(op, { q: [q, axes.keys], k: [k, axes.keys], v: [v, axes.values], a: [a, axes.keys], b: [b, axes.keys] }, options)
  checkGate(op, gate, q, K)
  return fastWeights(q, k, v, { erase: neg(a), along: b, ...(gate && { gate }) }, state, options, op)
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
  const { K } = checkCall(
    'rwkv7Rule',
    { q: [q, axes.keys], k: [k, axes.keys], v: [v, axes.values], kappa: [kappa, axes.keys], rate: [rate, axes.keys] },
    options,
  )
  requireGate('rwkv7Rule', gate, q, K)
  const along = mul(unpadded(kappa, options.mask), unpadded(rate, options.mask))
  return fastWeights(q, k, v, { erase: kappa, along, gate }, state, options, 'rwkv7Rule')
}

const rwkv7Step: Step = (state, { kappa, rate, ...token }, options) =>
  dplrStep(state, { ...token, a: neg(kappa), b: mul(kappa, rate) }, options)

// ---- rows of the table

export const dplrRules = {
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
} as const satisfies Record<string, Rule>
