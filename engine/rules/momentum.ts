/** The delta rule with momentum. */
import { customOp } from '../autograd.ts'
import { add, affine, exp, expand, greater, mul, sub } from '../ops/elementwise.ts'
import { checkCall, checkState, type FastWeightState, fastWeights, type RuleOptions } from '../ops/fast-weights.ts'
import { matmul } from '../ops/matmul.ts'
import { concat, reshape, slice, split } from '../ops/movement.ts'
import { type Tensor, zeros } from '../tensor.ts'
import { chunkByChunk, forBoth, layoutOf, oneHot, sharesOfSources, taking, throughKeys } from './chunks.ts'
import {
  all,
  axes,
  decayed,
  fade,
  outer,
  perChannel,
  perHead,
  qkv,
  type Rule,
  type RuleResult,
  readOut,
  S,
  type Step,
  stretch,
} from './rule.ts'
import { runSteps } from './steps.ts'

/**
 * The delta rule with momentum: M_t = exp(gateM_t) M_{t-1} - eta_t k_t (v_t - S_{t-1}^T p_t)^T, S_t = exp(gate_t) S_{t-1} - beta_t M_t. p reads S before it
 * decays; flash-linear-attention's is p exp(gate), which reads it after. p: [B,T,H,K]; beta, eta, gate, gateM: [B,T,H]; state: { S, M }.
 * In chunks, of 32 tokens by default; the recurrent form is a loop of ops, of which the backward pass computes each 16 tokens (`chunk`) once more.
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
  const inputs = { q, k, v, p, beta, eta, gate, gateM }
  const ofHeads = { beta: [beta, axes.heads], eta: [eta, axes.heads], gate: [gate, axes.heads], gateM: [gateM, axes.heads] } as const
  const { B, T, H, K, V } = checkCall(
    op,
    { q: [q, axes.keys], k: [k, axes.keys], v: [v, axes.values], p: [p, axes.keys], ...ofHeads },
    options,
  )
  const { form = T === 1 ? 'recurrent' : 'chunk', chunk = form === 'recurrent' ? 16 : 32, ...rest } = options
  if (form === 'recurrent') return runSteps(momentumRules['delta-momentum'], inputs, state, { ...rest, chunk }, op)
  if (state) checkState(op, state, { S: [B, H, K, V], M: [B, H, K, V] }, q)
  return inChunks(inputs, state, form === 'parallel' ? T : Math.min(chunk, T), rest, op)
}

const momentumStep: Step = ({ S, M }, { q, k, v, p, beta, eta, gate, gateM }, { scale }) => {
  const error = sub(v, readOut(S, p))
  const momentum = sub(decayed(M!, gateM), outer(k, mul(error, stretch(eta, 3))))
  const next = add(decayed(S, gate), mul(momentum, stretch(affine(beta, -1), 4)))
  return { y: affine(readOut(next, q), scale), state: { S: next, M: momentum } }
}

// ---- chunks

/**
 * In chunks (see chunks.ts) the errors of C tokens correct one another: (I + L) E = eta (V - P S), with L_tj = eta_t (p_t . k_j) times the share of write j
 * in S_{t-1}, strictly lower. With the inverse, E = U - W [S; M], U and W of all chunks at once.
 */
function inChunks(
  { q, k, v, p, beta, eta, gate, gateM }: Record<string, Tensor>,
  state: FastWeightState | undefined,
  C: number,
  { scale = 1, ...options }: RuleOptions,
  op: string,
): RuleResult {
  const [B, T, H, K] = q.shape
  const { device } = q
  const layout = layoutOf(B, T, C, options, device)
  const cut = [affine(q, scale), k, v, p, eta, affine(beta, -1), gate, gateM].map(layout.cut)
  const [queries, keys, values, asked, rates, weights, decayS, decayM] = cut
  const reads = mul(asked, rates)
  const shares = sharesOfSources(op, { gate: decayS }, { gate: decayM }, weights)
  // What is in S before each token, at first S itself.
  const G = keys.shape[0]
  const first = expand(oneHot(1, C + 2, 0, 1, device), [G, 1, C + 2])
  const [ofX, ofE] = split(concat([first, slice(shares.ofS, 1, 0, C - 1)], 1), 2, [2, C])
  const inverse = inverseOf(throughKeys(reads, keys, ofE), op)
  const inputs = { U: taking(inverse, mul(values, rates)), W: taking(inverse, affine(forBoth(reads, ofX), -1)) }
  const errors = (X: Tensor, { U, W }: Record<string, Tensor>): Tensor => matmul(W, X, { accumulate: U })
  const none = (): Tensor => zeros([B, H, K, v.shape[3]], device)
  // Momentum that the first token forgets may be anything.
  const decay = slice(slice(reshape(decayM, [B, layout.N, H, C]), 1, 0, 1), 3, 0, 1)
  const M = state ? fade(greater(exp(reshape(decay, [B, H, 1, 1])), 0), state.M!) : none()
  return chunkByChunk(shares, queries, keys, inputs, errors, { S: state?.S ?? none(), M }, layout)
}

/** (I + L)^-1 of strictly lower L [G,C,C]: row t is e_t - sum_{j<t} L_tj row_j, so the rows are written by a delta rule with keys e_t. */
const inverseOf = (L: Tensor, op: string): Tensor =>
  customOp(
    'inverse',
    [L],
    () => {
      const [G, C] = L.shape
      const unit = expand(reshape(oneHot(C, C, 0, 1, L.device), [C, 1, C]), [G, C, 1, C])
      const { y } = fastWeights(unit, unit, unit, { erase: reshape(L, [G, C, 1, C]) }, undefined, { form: 'chunk', chunk: C }, op)
      return reshape(y, [G, C, C])
    },
    (dy, y) => [affine(matmul(matmul(y, dy, { transposeA: true }), y, { transposeB: true }), -1)],
  )

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
    forms: all,
    step: momentumStep,
    run: ({ q, k, v, p, beta, eta, gate, gateM }, state, options) => momentumDeltaRule(q, k, v, p, beta, eta, gate, gateM, state, options),
  },
} as const satisfies Record<string, Rule>
