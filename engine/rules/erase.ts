/** Rules that read the memory, to correct it, with another vector than the key that they write. */
import { abs, add, affine, div, exp, log, mul, square, sub } from '../ops/elementwise.ts'
import { checkCall, checkEps, checkState, type FastWeightState, fastWeights, type RuleOptions, requireGate } from '../ops/fast-weights.ts'
import { reshape } from '../ops/movement.ts'
import { ones, type Tensor } from '../tensor.ts'
import {
  all,
  axes,
  decayed,
  fade,
  heeded,
  input,
  outer,
  perChannel,
  perHead,
  perValue,
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
 * Comba (Hu 2025): S_t = diag(exp(gate_t)) S_{t-1} + beta_t k_t (v_t - S_{t-1}^T p_t)^T: what p finds before the memory decays is corrected along k.
 * With p = alpha k it's the gated delta rule. p: [B,T,H,K]; gate: [B,T,H] or [B,T,H,K].
 */
export function combaRule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  p: Tensor,
  beta: Tensor,
  gate: Tensor,
  state?: FastWeightState,
  options: RuleOptions = {},
): RuleResult {
  const op = 'combaRule'
  const inputs = { q: [q, axes.keys], k: [k, axes.keys], v: [v, axes.values], p: [p, axes.keys], beta: [beta, axes.heads] } as const
  const { K } = checkCall(op, inputs, options)
  requireGate(op, gate, q, K)
  const [values, reader, rate] = [v, p, beta].map((x) => unpadded(x, options.mask))
  const strength = stretch(rate, 4)
  return fastWeights(q, k, mul(values, strength), { erase: mul(reader, strength), gate }, state, options, op)
}

const combaStep: Step = ({ S }, { q, k, v, p, beta, gate }, { scale }) => {
  const next = add(decayed(S, gate), outer(k, mul(sub(v, readOut(S, p)), stretch(beta, 3))))
  return { y: affine(readOut(next, q), scale), state: { S: next } }
}

/** What reads S_{t-1} as `reader` would read diag(exp(gate)) S_{t-1}. */
const readingDecayed = (gate: Tensor, reader: Tensor, options: RuleOptions): Tensor => fade(stretch(exp(heeded(gate, options)), 4), reader)

/**
 * The gated delta rule with a gate for each channel of what it erases and of what it writes (GDN-2): S' = diag(exp(gate_t)) S_{t-1},
 * S_t = S' + k_t (write_t * v_t - S'^T (erase_t * k_t))^T. gate: [B,T,H] or, like erase, [B,T,H,K]; write: [B,T,H,V].
 */
export function gatedDelta2Rule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  erase: Tensor,
  write: Tensor,
  gate: Tensor,
  state?: FastWeightState,
  options: RuleOptions = {},
): RuleResult {
  const op = 'gatedDelta2Rule'
  const inputs = {
    q: [q, axes.keys],
    k: [k, axes.keys],
    v: [v, axes.values],
    erase: [erase, axes.keys],
    write: [write, axes.values],
  } as const
  const { K } = checkCall(op, inputs, options)
  requireGate(op, gate, q, K)
  const [key, value, erased, written] = [k, v, erase, write].map((x) => unpadded(x, options.mask))
  const gates = { erase: readingDecayed(gate, mul(erased, key), options), gate }
  return fastWeights(q, k, mul(written, value), gates, state, options, op)
}

const gatedDelta2Step: Step = ({ S }, { q, k, v, erase, write, gate }, { scale }) => {
  const held = decayed(S, gate)
  const next = add(held, outer(k, sub(mul(write, v), readOut(held, mul(erase, k)))))
  return { y: affine(readOut(next, q), scale), state: { S: next } }
}

/**
 * The gated delta rule with preconditioned writes: a second memory, one number for each key channel, holds how much was written there,
 * a_t = exp(gateA_t) a_{t-1} + betaA_t k_t * k_t, and scales keys as they are written, M_t = base^(-r / (1 + |r|)), r = log(a_t + eps) - c:
 * S' = diag(exp(gate_t)) S_{t-1}, S_t = S' + beta_t (M_t * k_t) (v_t - S'^T k_t)^T. beta, betaA >= 0, gateA: [B,T,H]; gate: [B,T,H] or [B,T,H,K];
 * c: [H], the logarithm of an a that changes nothing; state: { S, a }, a [B,H,K]; eps: 1e-6, base: 1.5 by default.
 */
export function preconditionedDeltaRule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  beta: Tensor,
  gate: Tensor,
  betaA: Tensor,
  gateA: Tensor,
  c: Tensor,
  state?: FastWeightState,
  options: RuleOptions & { eps?: number; base?: number } = {},
): RuleResult {
  const op = 'preconditionedDeltaRule'
  const { eps = 1e-6, base = 1.5, ...rest } = options
  const heads = { beta: [beta, axes.heads], betaA: [betaA, axes.heads], gateA: [gateA, axes.heads], c: [c, ['H']] } as const
  const inputs = { q: [q, axes.keys], k: [k, axes.keys], v: [v, axes.values], ...heads } as const
  const { B, T, H, K, V } = checkCall(op, inputs, rest)
  requireGate(op, gate, q, K)
  checkEps(op, eps)
  if (!(base >= 1 && Number.isFinite(base))) throw new Error(`${op}: base must be 1 or more, not ${base}`)
  if (state) checkState(op, state, { S: [B, H, K, V], a: [B, H, K] }, q)
  const [key, value, rate, rateA] = [k, v, beta, betaA].map((x) => stretch(unpadded(x, options.mask), 4))
  // The diagonal memory is a gated sum whose keys and queries are 1.
  const one = ones([B, T, H, 1], q.device)
  const a0 = state && { S: reshape(state.a!, [B, H, 1, K]) }
  const written = fastWeights(one, one, mul(rateA, square(key)), { gate: gateA }, a0, { ...rest, scale: 1 }, op)
  const M = preconditioner(unpadded(written.y, options.mask, 1), reshape(c, [H, 1]), eps, base)
  const gates = { erase: readingDecayed(gate, mul(rate, key), options), gate }
  const { y, state: next } = fastWeights(q, mul(M, key), mul(rate, value), gates, state && { S: state.S }, rest, op)
  return { y, state: { S: next.S, a: reshape(written.state.S, [B, H, K]) } }
}

/** M of a, between 1 / base and base. */
function preconditioner(a: Tensor, c: Tensor, eps: number, base = 1.5): Tensor {
  const r = sub(log(affine(a, 1, eps)), c)
  return exp(affine(div(r, affine(abs(r), 1, 1)), -Math.log(base)))
}

const preconditionedStep: Step = ({ S, a }, { q, k, v, beta, gate, betaA, gateA, c }, { scale, eps }) => {
  const diagonal = add(decayed(a!, gateA), mul(stretch(betaA, 3), square(k)))
  const held = decayed(S, gate)
  const key = mul(preconditioner(diagonal, stretch(c, 2), eps), k)
  const next = add(held, outer(key, mul(sub(v, readOut(held, k)), stretch(beta, 3))))
  return { y: affine(readOut(next, q), scale), state: { S: next, a: diagonal } }
}

// ---- rows of the table

const preconditioned = {
  source: 'flash-linear-attention, precond_gated_delta_rule and precond_kda',
  state: { S, a: z },
  forms: all,
  eps: 1e-6,
  step: preconditionedStep,
  run: ({ q, k, v, beta, gate, betaA, gateA, c }, state, options) =>
    preconditionedDeltaRule(q, k, v, beta, gate, betaA, gateA, c, state, options),
} satisfies Partial<Rule>
const memory = { beta: perHead('rate'), betaA: perHead('rate'), gateA: perHead('gate'), c: input('gate', 'H') }
const scaled =
  'a_t = \\alpha^a_t a_{t-1} + \\beta^a_t k_t \\odot k_t,\\quad r_t = \\log(a_t + \\varepsilon) - c,\\quad M_t = 1.5^{-r_t / (1 + |r_t|)}'
const correction = "S_t = S' + \\beta_t (M_t \\odot k_t) (v_t - S'^\\top k_t)^\\top,\\quad y_t = S_t^\\top q_t"

export const eraseRules = {
  comba: {
    title: 'Comba: erases along p, writes along k',
    source: 'Hu 2025 (Comba)',
    equation: 'S_t = \\alpha_t S_{t-1} + \\beta_t k_t (v_t - S_{t-1}^\\top p_t)^\\top,\\quad y_t = S_t^\\top q_t',
    inputs: { ...qkv('key'), p: perChannel('key'), beta: perHead('rate'), gate: perHead('gate') },
    state: { S },
    forms: all,
    step: combaStep,
    run: ({ q, k, v, p, beta, gate }, state, options) => combaRule(q, k, v, p, beta, gate, state, options),
  },
  gdn2: {
    title: 'Gated delta rule with a gate for each channel erased and written (GDN-2)',
    source: 'flash-linear-attention, gdn2',
    equation:
      "S' = \\mathrm{diag}(\\alpha_t) S_{t-1},\\quad S_t = S' + k_t \\bigl(w_t \\odot v_t - S'^\\top (b_t \\odot k_t)\\bigr)^{\\!\\top},\\quad y_t = S_t^\\top q_t",
    inputs: { ...qkv('key'), erase: perChannel('rate'), write: perValue('rate'), gate: perChannel('gate') },
    state: { S },
    forms: all,
    step: gatedDelta2Step,
    run: ({ q, k, v, erase, write, gate }, state, options) => gatedDelta2Rule(q, k, v, erase, write, gate, state, options),
  },
  'precond-delta': {
    ...preconditioned,
    title: 'Preconditioned gated delta rule',
    equation: `${scaled},\\quad S' = \\alpha_t S_{t-1},\\quad ${correction}`,
    inputs: { ...qkv('key'), ...memory, gate: perHead('gate') },
  },
  'precond-kda': {
    ...preconditioned,
    title: 'Preconditioned Kimi delta attention',
    equation: `${scaled},\\quad S' = \\mathrm{diag}(\\alpha_t) S_{t-1},\\quad ${correction}`,
    inputs: { ...qkv('key'), ...memory, gate: perChannel('gate') },
  },
} as const satisfies Record<string, Rule>
