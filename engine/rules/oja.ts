/** Oja's rule: the delta rule with keys and values exchanged. */
import { add, affine, exp, mul, sub } from '../ops/elementwise.ts'
import { checkCall, checkGate, checkState, type FastWeightState, fastWeights, type RuleOptions } from '../ops/fast-weights.ts'
import { permute, reshape } from '../ops/movement.ts'
import type { Tensor } from '../tensor.ts'
import { all, axes, fade, outer, perHead, perValue, qkv, type Rule, type RuleResult, readOut, S, type Step, stretch } from './rule.ts'

/**
 * Oja's rule with an optional gate: S' = S_{t-1} diag(exp(gate_t)), S_t = S' + beta_t (k_t - S' v_t) v_t^T. Its state is the transpose of the
 * delta rule's with keys and values exchanged, read the other way; stable for 0 <= beta |v|^2 <= 2. gate: null, [B,T,H], or [B,T,H,V], one a value channel.
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
  const { B, H, K, V } = checkCall(op, { q: [q, axes.keys], k: [k, axes.keys], v: [v, axes.values], beta: [beta, axes.heads] }, options)
  checkGate(op, gate, q, V)
  if (state) checkState(op, state, { S: [B, H, K, V] }, q)
  const flipped = (S: Tensor): FastWeightState => ({ S: permute(S, [0, 1, 3, 2]) })
  const gates = { beta, ...(gate && { gate }) }
  const { y, state: last } = fastWeights(q, v, k, gates, state && flipped(state.S), { ...options, transposed: true }, op)
  return { y, state: flipped(last.S) }
}

const ojaStep: Step = ({ S }, { q, k, v, beta, gate }, { scale }) => {
  const faded = gate ? fade(gate.shape.length === 2 ? stretch(exp(gate), 4) : reshape(exp(gate), [...gate.shape.slice(0, 2), 1, -1]), S) : S
  const next = add(faded, outer(mul(sub(k, readOut(permute(faded, [0, 1, 3, 2]), v)), stretch(beta, 3)), v))
  return { y: affine(readOut(next, q), scale), state: { S: next } }
}

// ---- rows of the table

export const ojaRules = {
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
    inputs: { ...qkv('any', 'key'), beta: perHead('rate'), gate: perValue('gate') },
    state: { S },
    forms: all,
    step: ojaStep,
    run: ({ q, k, v, beta, gate }, state, options) => ojaRule(q, k, v, beta, gate, state, options),
  },
} as const satisfies Record<string, Rule>
