/** The delta rule with momentum. */
import { add, affine, mul, sub } from '../ops/elementwise.ts'
import type { FastWeightState, RuleOptions } from '../ops/fast-weights.ts'
import type { Tensor } from '../tensor.ts'
import {
  decayed,
  outer,
  perChannel,
  perHead,
  qkv,
  type Rule,
  type RuleResult,
  readOut,
  recurrentOnly,
  S,
  type Step,
  stretch,
} from './rule.ts'
import { runSteps } from './steps.ts'

/**
 * The delta rule with momentum: M_t = exp(gateM_t) M_{t-1} - eta_t k_t (v_t - S_{t-1}^T p_t)^T, S_t = exp(gate_t) S_{t-1} - beta_t M_t. p reads S before it
 * decays; flash-linear-attention's is p exp(gate), which reads it after. p: [B,T,H,K]; beta, eta, gate, gateM: [B,T,H]; state: { S, M }.
 * Recurrent only, in composed ops; the backward pass computes each 16 tokens (`chunk`) once more.
 */
export function momentumDeltaRule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  p: Tensor,
  beta: Tensor,
  eta: Tensor,
  gate: Tensor,
  gateM: Tensor,
  state?: FastWeightState,
  options: RuleOptions = {},
): RuleResult {
  const op = 'momentumDeltaRule'
  recurrentOnly(op, options)
  return runSteps(
    momentumRules['delta-momentum'],
    { q, k, v, p, beta, eta, gate, gateM },
    state,
    { ...options, chunk: options.chunk ?? 16 },
    op,
  )
}

const momentumStep: Step = ({ S, M }, { q, k, v, p, beta, eta, gate, gateM }, { scale }) => {
  const error = sub(v, readOut(S, p))
  const momentum = sub(decayed(M!, gateM), outer(k, mul(error, stretch(eta, 3))))
  const next = add(decayed(S, gate), mul(momentum, stretch(affine(beta, -1), 4)))
  return { y: affine(readOut(next, q), scale), state: { S: next, M: momentum } }
}

// ---- rows of the table

export const momentumRules = {
  'delta-momentum': {
    title: 'Delta rule with momentum',
    source: 'flash-linear-attention, momentum_delta_rule',
    equation:
      'M_t = \\mu_t M_{t-1} - \\eta_t k_t (v_t - S_{t-1}^\\top p_t)^\\top,\\quad S_t = \\alpha_t S_{t-1} - \\beta_t M_t,\\quad y_t = S_t^\\top q_t',
    inputs: {
      ...qkv('key'),
      p: perChannel('key'),
      beta: perHead('rate'),
      eta: perHead('rate'),
      gate: perHead('gate'),
      gateM: perHead('gate'),
    },
    state: { S, M: S },
    forms: ['recurrent'],
    step: momentumStep,
    run: ({ q, k, v, p, beta, eta, gate, gateM }, state, options) => momentumDeltaRule(q, k, v, p, beta, eta, gate, gateM, state, options),
  },
} as const satisfies Record<string, Rule>
