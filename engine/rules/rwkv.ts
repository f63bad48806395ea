/** RWKV-4, -5 and -6, which read the memory before they write. RWKV-7 is a case of the general rule: dplr.ts. */
import { add, affine, exp, expand, mul, neg, sigmoid, sub } from '../ops/elementwise.ts'
import { checkCall, checkState, type FastWeightState, fastWeights, type RuleOptions } from '../ops/fast-weights.ts'
import { reshape } from '../ops/movement.ts'
import { ones, type Tensor } from '../tensor.ts'
import {
  all,
  axes,
  decayed,
  dot,
  fade,
  innerOptions,
  input,
  outer,
  perChannel,
  perValue,
  qkv,
  type Rule,
  type RuleResult,
  readOut,
  S,
  type Step,
  substep,
  substepOf,
  unpadded,
} from './rule.ts'
import { logAddExp, runningLse, taking } from './slots.ts'

/**
 * RWKV-6 (Peng 2024): y_t = scale (S_{t-1} + diag(bonus) k_t v_t^T)^T q_t, S_t = diag(exp(gate_t)) S_{t-1} + k_t v_t^T: a token reads the memory as it was
 * before, and itself by a weight for each key channel. gate: [B,T,H,K]; bonus: [H,K].
 */
export function rwkv6Rule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  gate: Tensor,
  bonus: Tensor,
  state?: FastWeightState,
  options: RuleOptions = {},
): RuleResult {
  const op = 'rwkv6Rule'
  const inputs = { q: [q, axes.keys], k: [k, axes.keys], v: [v, axes.values], gate: [gate, axes.keys], bonus: [bonus, ['H', 'K']] } as const
  const { T } = checkCall(op, inputs, options)
  // Two steps a token: read; then decay and write.
  const [first, second] = [(x: Tensor) => substep(x, 0, 2), (x: Tensor) => substep(x, 1, 2)]
  const past = fastWeights(first(q), second(k), second(v), { gate: second(gate) }, state, innerOptions(options, T, 2), op)
  const [query, key, value] = [q, k, v].map((x) => unpadded(x, options.mask))
  const own = mul(dot(mul(query, bonus), key), value)
  return { y: unpadded(add(substepOf(past.y, 0, 2), affine(own, options.scale ?? 1)), options.mask), state: past.state }
}

const rwkv6Step: Step = ({ S }, { q, k, v, gate, bonus }, { scale }) => {
  const y = affine(readOut(add(S, outer(mul(bonus, k), v)), q), scale)
  return { y, state: { S: add(decayed(S, gate), outer(k, v)) } }
}

/** RWKV-5 (Peng 2024): RWKV-6 with decays that don't change with the token. decay: [H,K], their logarithms; bonus: [H,K]. */
export function rwkv5Rule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  decay: Tensor,
  bonus: Tensor,
  state?: FastWeightState,
  options: RuleOptions = {},
): RuleResult {
  const inputs = {
    q: [q, axes.keys],
    k: [k, axes.keys],
    v: [v, axes.values],
    decay: [decay, ['H', 'K']],
    bonus: [bonus, ['H', 'K']],
  } as const
  checkCall('rwkv5Rule', inputs, options)
  return rwkv6Rule(q, k, v, expand(decay, q.shape), bonus, state, options)
}

/**
 * RWKV-4 (Peng 2023): each channel is a softmax over time, whose exponents fade with their age and the present one's are raised by a bonus:
 * y_t = (sum_{j<t} e^{k_j + (t-1-j) decay} v_j + e^{bonus + k_t} v_t) / (the same of 1). k, v, y: [B,T,H,V]; decay, at most 0, and bonus: [H,V].
 * state: { S, lse }, both [B,H,V]: the mean of the values so far, so weighted, and the logarithm of the sum of the weights.
 */
export function rwkv4Rule(
  k: Tensor,
  v: Tensor,
  decay: Tensor,
  bonus: Tensor,
  state?: FastWeightState,
  options: RuleOptions = {},
): RuleResult {
  const op = 'rwkv4Rule'
  const inputs = { k: [k, axes.values], v: [v, axes.values], decay: [decay, ['H', 'V']], bonus: [bonus, ['H', 'V']] } as const
  const { B, T, H, V } = checkCall(op, inputs, options)
  if (state) checkState(op, state, { S: [B, H, V], lse: [B, H, V] }, k)
  const { found, last } = runningLse(k, decay, state?.lse, options)
  const ahead = unpadded(sub(k, found), options.mask)
  const { gate, weight } = taking(sub(ahead, decay))
  // The gated sum of keys with a single value, which asks for them; two steps a token: read; then fade and write.
  const one = ones([B, T, H, 1], k.device)
  const [first, second] = [(x: Tensor) => substep(x, 0, 2), (x: Tensor) => substep(x, 1, 2)]
  const written = fade(weight, unpadded(v, options.mask))
  const S0 = state && { S: reshape(state.S, [B, H, V, 1]) }
  const inner = { ...innerOptions(options, T, 2), scale: 1, transposed: true }
  const past = fastWeights(first(one), second(written), second(one), { gate: second(gate) }, S0, inner, op)
  const own = add(ahead, bonus)
  const mean = substepOf(past.y, 0, 2)
  const y = affine(add(mul(sigmoid(neg(own)), mean), mul(sigmoid(own), unpadded(v, options.mask))), options.scale ?? 1)
  return { y: unpadded(y, options.mask), state: { S: reshape(past.state.S, [B, H, V]), lse: last } }
}

const rwkv4Step: Step = ({ S, lse }, { k, v, decay, bonus }, { scale }) => {
  const own = sub(add(k, bonus), lse!)
  const y = affine(add(mul(sigmoid(neg(own)), S), mul(sigmoid(own), v)), scale)
  const aged = add(lse!, decay)
  const { gate, weight } = taking(sub(k, aged))
  return { y, state: { S: add(fade(exp(gate), S), mul(weight, v)), lse: logAddExp(aged, k) } }
}

const rwkv5Step: Step = (state, { decay, ...token }, options) => rwkv6Step(state, { ...token, gate: expand(decay, token.q.shape) }, options)

// ---- rows of the table

const perHeadChannel = (values: 'any' | 'gate') => input(values, 'H', 'K')

export const rwkvRules = {
  rwkv4: {
    title: 'RWKV-4: a softmax over time in each channel, which fades',
    source: 'Peng 2023 (RWKV); flash-linear-attention, rwkv4',
    equation: 'y_t = \\frac{\\sum_{j<t} e^{k_j + (t-1-j) d} v_j + e^{u + k_t} v_t}{\\sum_{j<t} e^{k_j + (t-1-j) d} + e^{u + k_t}}',
    inputs: { k: perValue('any'), v: perValue('any'), decay: input('gate', 'H', 'V'), bonus: input('any', 'H', 'V') },
    state: { S: ['B', 'H', 'V'], lse: ['B', 'H', 'V'] },
    empty: { lse: Number.NEGATIVE_INFINITY },
    forms: all,
    step: rwkv4Step,
    run: ({ k, v, decay, bonus }, state, options) => rwkv4Rule(k, v, decay, bonus, state, options),
  },
  rwkv5: {
    title: 'RWKV-5: reads, then writes; one decay for each key channel',
    source: 'Peng 2024 (Eagle and Finch)',
    equation: 'y_t = (S_{t-1} + \\mathrm{diag}(u) k_t v_t^\\top)^\\top q_t,\\quad S_t = \\mathrm{diag}(\\alpha) S_{t-1} + k_t v_t^\\top',
    inputs: { ...qkv('key'), decay: perHeadChannel('gate'), bonus: perHeadChannel('any') },
    state: { S },
    forms: all,
    step: rwkv5Step,
    run: ({ q, k, v, decay, bonus }, state, options) => rwkv5Rule(q, k, v, decay, bonus, state, options),
  },
  rwkv6: {
    title: 'RWKV-6: reads, then writes; a gate for each key channel',
    source: 'Peng 2024 (Eagle and Finch); flash-linear-attention, rwkv6',
    equation: 'y_t = (S_{t-1} + \\mathrm{diag}(u) k_t v_t^\\top)^\\top q_t,\\quad S_t = \\mathrm{diag}(\\alpha_t) S_{t-1} + k_t v_t^\\top',
    inputs: { ...qkv('key'), gate: perChannel('gate'), bonus: perHeadChannel('any') },
    state: { S },
    forms: all,
    step: rwkv6Step,
    run: ({ q, k, v, gate, bonus }, state, options) => rwkv6Rule(q, k, v, gate, bonus, state, options),
  },
} as const satisfies Record<string, Rule>
