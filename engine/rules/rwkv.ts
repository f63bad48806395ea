/** RWKV-5 and -6, which read the memory before they write. RWKV-7 is a case of the general rule: dplr.ts. */
import { add, affine, expand, mul } from '../ops/elementwise.ts'
import { checkCall, type FastWeightState, fastWeights, type RuleOptions } from '../ops/fast-weights.ts'
import type { Tensor } from '../tensor.ts'
import {
  all,
  axes,
  decayed,
  dot,
  innerOptions,
  input,
  outer,
  perChannel,
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

const rwkv5Step: Step = (state, { decay, ...token }, options) => rwkv6Step(state, { ...token, gate: expand(decay, token.q.shape) }, options)

// ---- rows of the table

const perHeadChannel = (values: 'any' | 'gate') => input(values, 'H', 'K')

export const rwkvRules = {
  rwkv5: {
    title: 'RWKV-5: reads, then writes; one decay for each key channel',
    source: 'Peng 2024 (Eagle and Finch), eq. 19-20',
    equation: 'y_t = (S_{t-1} + \\mathrm{diag}(u) k_t v_t^\\top)^\\top q_t,\\quad S_t = \\mathrm{diag}(\\alpha) S_{t-1} + k_t v_t^\\top',
    inputs: { ...qkv('key'), decay: perHeadChannel('gate'), bonus: perHeadChannel('any') },
    state: { S },
    forms: all,
    step: rwkv5Step,
    run: ({ q, k, v, decay, bonus }, state, options) => rwkv5Rule(q, k, v, decay, bonus, state, options),
  },
  rwkv6: {
    title: 'RWKV-6: reads, then writes; a gate for each key channel',
    source: 'Peng 2024 (Eagle and Finch), eq. 21-22',
    equation: 'y_t = (S_{t-1} + \\mathrm{diag}(u) k_t v_t^\\top)^\\top q_t,\\quad S_t = \\mathrm{diag}(\\alpha_t) S_{t-1} + k_t v_t^\\top',
    inputs: { ...qkv('key'), gate: perChannel('gate'), bonus: perHeadChannel('any') },
    state: { S },
    forms: all,
    step: rwkv6Step,
    run: ({ q, k, v, gate, bonus }, state, options) => rwkv6Rule(q, k, v, gate, bonus, state, options),
  },
} as const satisfies Record<string, Rule>
