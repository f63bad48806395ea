/** Rules that correct what a key retrieves. */
import { add, affine, div, equal, mul, square, sub, where } from '../ops/elementwise.ts'
import {
  checkCall,
  checkEps,
  checkGate,
  checkState,
  type FastWeightState,
  fastWeights,
  type RuleOptions,
  requireGate,
} from '../ops/fast-weights.ts'
import { concat, reshape, slice } from '../ops/movement.ts'
import { sum } from '../ops/reduce.ts'
import { ones, Tensor, zeros } from '../tensor.ts'
import {
  all,
  axes,
  byValueChannel,
  decayed,
  dot,
  innerOptions,
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
  substep,
  substepOf,
  unpadded,
  z,
} from './rule.ts'

/**
 * The delta rule: S_t = S_{t-1} + beta_t k_t (v_t - S_{t-1}^T k_t)^T, y_t = scale S_t^T q_t (Schlag 2021, eq. 24-25).
 * It corrects what the key k_t retrieves towards v_t at the rate beta_t instead of adding to it. Stable for 0 <= beta |k|^2 <= 2:
 * normalise the keys. beta: [B,T,H], or [B,T,H,V] for one each value channel, each of which is then a head to the kernels, and slow.
 */
export function deltaRule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state?: FastWeightState, options: RuleOptions = {}): RuleResult {
  return correcting('deltaRule', q, k, v, beta, [], state, options)
}

/** `gates`: none, or the one that there must be. */
function correcting(
  op: string,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  beta: Tensor,
  gates: readonly Tensor[],
  state: FastWeightState | undefined,
  options: RuleOptions,
): RuleResult {
  const channels = beta instanceof Tensor && beta.shape.length === 4
  const inputs = { q: [q, axes.keys], k: [k, axes.keys], v: [v, axes.values], beta: [beta, channels ? axes.values : axes.heads] } as const
  const { B, H, K, V } = checkCall(op, inputs, options)
  for (const gate of gates) requireGate(op, gate, q, K)
  const [gate] = gates
  if (!channels) return fastWeights(q, k, v, { beta, gate }, state, options, op)
  if (state) checkState(op, state, { S: [B, H, K, V] }, q)
  const make: Parameters<typeof byValueChannel>[3] = ({ head, value, key }) => ({
    beta: value(beta),
    ...(gate && { gate: gate.shape.length === 4 ? key(gate) : head(gate) }),
  })
  return byValueChannel(q, k, v, make, state, options, op)
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
  return correcting('gatedDeltaRule', q, k, v, beta, [gate], state, options)
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
 * z_t = z_{t-1} + k_t and c = z_{t-1} . k_t, the memory holds S_{t-1}^T k_t / (c + eps) for a key, S_t = S_{t-1} + c / (c + eps) beta_t k_t
 * (v_t - that)^T, and y_t = scale S_t^T q_t / (z_t . q_t + eps). Before the first token, and as long as z is 0, 1 stands for c; a key that later shares
 * no feature with those before it, c = 0, isn't written, as there. Features must be non-negative. state: { S, z }; eps: 1e-5 by default.
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
  const { B, T, H, K, V } = checkCall(op, { q: [q, axes.keys], k: [k, axes.keys], v: [v, axes.values], beta: [beta, axes.heads] }, rest)
  checkEps(op, eps)
  if (state) checkState(op, state, { S: [B, H, K, V], z: [B, H, K] }, q)
  // z_t . x_t is the sum rule's read-out with values of 1; z_{t-1} . x_t that of the keys, each one token late.
  const { mask, reset } = options
  const keys = unpadded(k, mask)
  const shifted = concat([zeros([B, 1, H, K], q.device), slice(keys, 1, 0, T - 1)], 1)
  const late = reset ? where(stretch(reset, 4), 0, shifted) : shifted
  const one = ones([B, T, H, 1], q.device)
  const z0 = state && { S: reshape(state.z!, [B, H, K, 1]) }
  const sums = { ...rest, scale: 1 }
  const unmasked = { ...sums, mask: undefined }
  const held = unpadded(fastWeights(keys, late, one, {}, z0, unmasked, op).y, mask)
  const total = (x: Tensor): Tensor => sum(x, { axis: -1, keepDim: true })
  const before = fastWeights(one, total(late), one, {}, state && { S: reshape(total(state.z!), [B, H, 1, 1]) }, unmasked, op).y
  const seen = fastWeights(q, k, one, {}, z0, sums, op)
  const c = add(held, equal(before, 0))
  // In terms of k itself, beside which c / (c + eps) is nearly 1: with k / (c + eps) as a key gradients of z would be differences of large numbers.
  const d = divisorOf(c, eps)
  const weight = mul(reshape(unpadded(beta, mask), [B, T, H, 1]), div(c, d))
  const gates = { erase: mul(keys, div(weight, d)) }
  const { y, state: next } = fastWeights(q, keys, mul(unpadded(v, mask), weight), gates, state && { S: state.S }, rest, op)
  return { y: div(y, affine(unpadded(seen.y, mask, 1), 1, eps)), state: { S: next.S, z: reshape(seen.state.S, [B, H, K]) } }
}

/** c + eps; without an eps, 1 for a c of 0, which weighs nothing. */
const divisorOf = (c: Tensor, eps: number): Tensor => (eps > 0 ? affine(c, 1, eps) : add(c, equal(c, 0)))

const attentionDeltaStep: Step = ({ S, z }, { q, k, v, beta }, { scale, eps }) => {
  const held = dot(z!, k)
  const c = add(held, equal(sum(z!, { axis: -1, keepDim: true }), 0))
  const key = div(k, divisorOf(c, eps))
  const next = add(S, outer(key, mul(sub(v, readOut(S, key)), mul(c, stretch(beta, 3)))))
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
  checkCall('longhornRule', { q: [q, axes.keys], k: [k, axes.keys], v: [v, axes.values], beta: [beta, axes.heads] }, options)
  return fastWeights(
    q,
    k,
    v,
    { beta: implicitRate(unpadded(beta, options.mask), unpadded(k, options.mask)) },
    state,
    options,
    'longhornRule',
  )
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
  const op = 'deltaProductRule'
  const inputs = {
    q: [q, axes.keys],
    k: [k, ['B', 'T', 'N', 'H', 'K']],
    v: [v, ['B', 'T', 'N', 'H', 'V']],
    beta: [beta, ['B', 'T', 'N', 'H']],
  } as const
  const { T, K, N } = checkCall(op, inputs, options)
  checkGate(op, gate, q, K)
  const steps = (x: Tensor): Tensor => reshape(x, [x.shape[0], T * N, ...x.shape.slice(3)])
  const gates = { beta: steps(beta), ...(gate && { gate: substep(gate, 0, N) }) }
  const inner = innerOptions(options, T, N)
  const result = fastWeights(substep(q, N - 1, N), steps(k), steps(v), gates, state, inner, op)
  return { y: substepOf(result.y, N - 1, N), state: result.state }
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

// ---- rows of the table

export const deltaRules = {
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
  'channel-delta': {
    title: 'Gated delta rule with a write strength for each value channel',
    source: 'flash-linear-attention, delta_rule',
    equation:
      "S' = \\alpha_t S_{t-1},\\quad S_t = S' + k_t \\bigl(\\beta_t \\odot (v_t - S'^\\top k_t)\\bigr)^{\\!\\top},\\quad y_t = S_t^\\top q_t",
    inputs: { ...qkv('key'), betas: perValue('rate'), gate: perHead('gate') },
    state: { S },
    forms: all,
    step: (state, { betas, ...token }, options) => deltaStep(state, { ...token, beta: betas }, options),
    run: ({ q, k, v, betas, gate }, state, options) => gatedDeltaRule(q, k, v, betas, gate, state, options),
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
    run: ({ q, k, v, beta, gate }, state, options) => deltaProductRule(q, k, v, beta, gate ?? null, state, options),
  },
} as const satisfies Record<string, Rule>
