/** Least squares. */
import { add, affine, mul } from '../ops/elementwise.ts'
import { checkCall, checkState, type FastWeightState, fastWeights, type RuleOptions } from '../ops/fast-weights.ts'
import { solveSpd } from '../ops/linear.ts'
import { concat, reshape, slice } from '../ops/movement.ts'
import { type Tensor, tensor } from '../tensor.ts'
import {
  axes,
  decayed,
  input,
  outer,
  perHead,
  qkv,
  type Rule,
  type RuleResult,
  readOut,
  recurrentOnly,
  S,
  type Step,
  stretch,
  unpadded,
} from './rule.ts'

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
  const { B, T, H, K, V } = checkCall(
    op,
    { q: [q, axes.keys], k: [k, axes.keys], v: [v, axes.values], beta: [beta, axes.heads], lambda: [lambda, ['H', 'K']] },
    options,
  )
  if (gate) checkCall(op, { q: [q, axes.keys], gate: [gate, axes.heads] }, {})
  recurrentOnly(op, options)
  if (state) checkState(op, state, { S: [B, H, K, V], A: [B, H, K, K] }, q)
  // Of one more head a token: k with itself as value. The read-out of S with the solution is the gated sum rule's.
  const [qs, ks, vs] = [q, k, v].map((x) => unpadded(x, options.mask))
  const strength = stretch(unpadded(beta, options.mask), 4)
  let memory = state?.A
  const ridge = diagonal(lambda)
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
    const token = at(ks)
    const gates = gate ? { gate: at(gate) } : {}
    const flags = { mask: of(options.mask), reset: of(options.reset) }
    memory = fastWeights(token, token, mul(token, at(strength)), gates, memory && { S: memory }, flags, op).state.S
    solutions.push(solveSpd(add(unpadded(memory, flags.mask), ridge), reshape(at(qs), [B, H, K])))
  }
  const x = concat(
    solutions.map((s) => reshape(s, [B, 1, H, K])),
    1,
  )
  const read = fastWeights(x, ks, mul(vs, strength), gate ? { gate } : {}, state && { S: state.S }, { ...options, form: 'recurrent' }, op)
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

// ---- rows of the table

export const mesaRules = {
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
