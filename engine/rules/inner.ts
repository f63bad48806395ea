/** Memories that learn by gradient descent on a loss of their own, a step for each minibatch of tokens. */
import { checkNumber } from '../arguments.ts'
import { add, affine, div, mul, sqrt, square, sub } from '../ops/elementwise.ts'
import { checkCall, checkEps, checkState, type FastWeightState, type Gates, type RuleOptions } from '../ops/fast-weights.ts'
import { matmul } from '../ops/matmul.ts'
import { concat, permute, reshape, slice, split } from '../ops/movement.ts'
import { layerNorm } from '../ops/norm.ts'
import { mean, sum } from '../ops/reduce.ts'
import { ones, type Tensor, tensor, zeros } from '../tensor.ts'
import { chunkByChunk, layoutOf, sharesOfSources } from './chunks.ts'
import { axes, input, outer, perHead, perValue, type Rule, type RuleResult, readOut, recurrentOnly, type Step, stretch } from './rule.ts'
import { runSteps } from './steps.ts'

export interface MinibatchOptions {
  /** Of the layer norm: added to the variance; 1e-6 by default. */
  eps?: number
  /**
   * How many tokens take their gradients from the same memory, 16 by default. A call ends its last minibatch, so that a sequence may be cut where one ends.
   * With 1 the rule goes token by token, and takes mask and reset.
   */
  minibatch?: number
}

/** What a memory makes of z, a number for each value channel: itself, or layer norm with a gain w and a bias b. */
type Shaped = { w: Tensor; b: Tensor } | null

/** d/dz |f(z) - target|^2 / 2. z, target: [...,V]; w, b broadcast. */
function innerGradient(z: Tensor, target: Tensor, norm: Shaped, eps: number): Tensor {
  if (!norm) return sub(z, target)
  const centred = sub(z, mean(z, { axis: -1, keepDim: true }))
  const deviation = sqrt(affine(mean(square(centred), { axis: -1, keepDim: true }), 1, eps))
  const n = div(centred, deviation)
  const g = mul(norm.w, sub(add(mul(norm.w, n), norm.b), target))
  const along = mul(n, mean(mul(g, n), { axis: -1, keepDim: true }))
  return div(sub(sub(g, mean(g, { axis: -1, keepDim: true })), along), deviation)
}

/** What is read: with a norm, y plus its layer norm. */
const readThrough = (y: Tensor, norm: Shaped, eps: number): Tensor =>
  norm ? add(y, add(mul(layerNorm(y, null, null, eps), norm.w), norm.b)) : y

const normOf = (w: Tensor | null, b: Tensor | null): Shaped => (w && b ? { w, b } : null)

/** Checks a call, and takes its options apart. */
function planned(
  op: string,
  inputs: Readonly<Record<string, readonly [Tensor, readonly string[]]>>,
  options: RuleOptions & MinibatchOptions,
): { sizes: Record<string, number>; minibatch: number; eps: number; rest: RuleOptions } {
  const { eps = 1e-6, minibatch = 16, ...rest } = options
  const sizes = checkCall(op, inputs, rest)
  recurrentOnly(op, rest)
  checkEps(op, eps)
  checkNumber(`${op}: the minibatch`, minibatch, 'a positive integer')
  if (minibatch > 1 && (rest.mask || rest.reset)) throw new Error(`${op}: mask and reset need a minibatch of 1, not ${minibatch}`)
  return { sizes, minibatch, eps, rest }
}

const byHead = (x: Tensor): Tensor => permute(x.shape.length === 3 ? stretch(x, 4) : x, [0, 2, 1, 3])
const shared = (x: Tensor): Tensor => reshape(x, [x.shape[0], 1, x.shape[1]])

/**
 * TTT-linear (Sun 2024): S and c learn to map keys to v - k, through a layer norm with gain w and bias b, f(z) = LN(z) w + b: with z = S^T k_j + c and
 * G_j = d/dz |f(z) - (v_j - k_j)|^2 / 2, both of the memory at the start of the minibatch, token t of it reads
 * y = scale S^T q_t + c - eta_t sum_{j<=t} (scale k_j . q_t + 1) G_j, out_t = y + f(y); then S -= eta_last sum_j k_j G_j^T, c -= eta_last sum_j G_j.
 * q, k, v: [B,T,H,V]; eta: [B,T,H]; w, b: [H,V], or both null for f(z) = z, out = y. state: { S [B,H,V,V], c [B,H,V] }. Recurrent only, in composed ops.
 */
export function tttRule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  eta: Tensor,
  w: Tensor | null,
  b: Tensor | null,
  state?: FastWeightState,
  options: RuleOptions & MinibatchOptions = {},
): RuleResult {
  const op = 'tttRule'
  if ((w === null) !== (b === null)) throw new Error(`${op}: w and b are given together, or both null for no norm`)
  const norms = w && b && ({ w: [w, ['H', 'V']], b: [b, ['H', 'V']] } as const)
  const inputs = { q: [q, axes.values], k: [k, axes.values], v: [v, axes.values], eta: [eta, axes.heads], ...norms } as const
  const { sizes, minibatch, eps, rest } = planned(op, inputs, options)
  const { B, T, H, V } = sizes
  if (state) checkState(op, state, { S: [B, H, V, V], c: [B, H, V] }, q)
  if (minibatch === 1) {
    const { w: _w, b: _b, ...bare } = innerRules.ttt.inputs
    const rule = w && b ? innerRules.ttt : { ...innerRules.ttt, inputs: bare }
    return runSteps(rule, { q, k, v, eta, ...(w && b && { w, b }) }, state, { ...rest, eps }, op)
  }
  const norm = normOf(w && shared(w), b && shared(b))
  const { scale = 1 } = options
  let S = state?.S ?? zeros([B, H, V, V], q.device)
  let c = reshape(state?.c ?? zeros([B, H, V], q.device), [B, H, 1, V])
  const [queries, keys, values, rates] = [affine(q, scale), k, v, eta].map(byHead)
  const ys: Tensor[] = []
  for (let t = 0; t < T; t += minibatch) {
    const n = Math.min(minibatch, T - t)
    const [q, k, v, eta] = [queries, keys, values, rates].map((x) => slice(x, 2, t, t + n))
    const G = innerGradient(add(matmul(k, S), c), sub(v, k), norm, eps)
    const seen = mul(affine(matmul(q, k, { transposeB: true }), 1, 1), lower(n, q))
    ys.push(readThrough(sub(add(matmul(q, S), c), mul(eta, matmul(seen, G))), norm, eps))
    const last = slice(eta, 2, n - 1, n)
    S = sub(S, mul(last, matmul(k, G, { transposeA: true })))
    c = sub(c, mul(last, sum(G, { axis: 2, keepDim: true })))
  }
  return { y: permute(concat(ys, 2), [0, 2, 1, 3]), state: { S, c: reshape(c, [B, H, V]) } }
}

/** Ones on and below the diagonal, [n,n]. */
const lower = (n: number, beside: Tensor): Tensor =>
  tensor(
    Float32Array.from({ length: n * n }, (_, i) => Number(i % n <= Math.floor(i / n))),
    { shape: [n, n], device: beside.device },
  )

const tttStep: Step = ({ S, c }, { q, k, v, eta, w, b }, { scale, eps }) => {
  const norm = normOf(w ?? null, b ?? null)
  const G = mul(innerGradient(add(readOut(S, k), c!), sub(v, k), norm, eps), stretch(eta, 3))
  const [next, bias] = [sub(S, outer(k, G)), sub(c!, G)]
  return { y: readThrough(add(affine(readOut(next, q), scale), bias), norm, eps), state: { S: next, c: bias } }
}

/**
 * Titans' linear memory (Behrouz 2025) with the inner loss of TTT-linear: gradients G_j of the memory S at the start of the minibatch, as there but without c;
 * momentum and forgetting a token, M_t = eta_t M_{t-1} - 2 theta_t k_t G_t^T, S_t = (1 - alpha_t) S_{t-1} + M_t; y = scale S_t^T q_t, out_t = y + LN(y) w + b.
 * q, k, v: [B,T,H,V]; theta, alpha, eta: [B,T,H]; w, b: [H,V]; state: { S, M }, both [B,H,V,V]. Recurrent only, in composed ops; all tokens of a minibatch at once.
 */
export function titansRule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  theta: Tensor,
  alpha: Tensor,
  eta: Tensor,
  w: Tensor,
  b: Tensor,
  state?: FastWeightState,
  options: RuleOptions & MinibatchOptions = {},
): RuleResult {
  const op = 'titansRule'
  const rates = { theta: [theta, axes.heads], alpha: [alpha, axes.heads], eta: [eta, axes.heads] } as const
  const inputs = {
    q: [q, axes.values],
    k: [k, axes.values],
    v: [v, axes.values],
    ...rates,
    w: [w, ['H', 'V']],
    b: [b, ['H', 'V']],
  } as const
  const { sizes, minibatch, eps, rest } = planned(op, inputs, options)
  const { B, T, H, V } = sizes
  if (state) checkState(op, state, { S: [B, H, V, V], M: [B, H, V, V] }, q)
  if (minibatch === 1) return runSteps(innerRules.titans, { q, k, v, theta, alpha, eta, w, b }, state, { ...rest, eps }, op)
  const whole = T - (T % minibatch)
  if (whole > 0 && whole < T) {
    // Filled up with zeros the last minibatch would divide 0 by 0 where eps is 0.
    const parts = [q, k, v, theta, alpha, eta].map((x) => split(x, 1, [whole, T - whole]))
    const run = (i: number, before?: FastWeightState): RuleResult => {
      const [q, k, v, theta, alpha, eta] = parts.map((part) => part[i])
      return titansRule(q, k, v, theta, alpha, eta, w, b, before, options)
    }
    const first = run(0, state)
    const last = run(1, first.state)
    return { y: concat([first.y, last.y], 1), state: last.state }
  }
  // In chunks (see chunks.ts), with e_t = 2 theta_t G_t. A decay may be any number here: it is what a sum along one key takes away of itself.
  const layout = layoutOf(B, T, Math.min(minibatch, T), {}, q.device)
  const cut = [
    affine(q, options.scale ?? 1),
    k,
    sub(v, k),
    mul(k, affine(stretch(theta, 4), 2)),
    alpha,
    affine(eta, -1, 1),
    ones(eta.shape, q.device),
  ].map(layout.cut)
  const [queries, keys, targets, steps, forgotten, lost, taken] = cut
  const less = (part: Tensor): Gates => ({ erase: stretch(part, 4), along: ones([...part.shape, 1], q.device) })
  const norm = normOf(shared(w), shared(b))
  const errors = (X: Tensor, { keys, targets }: Record<string, Tensor>): Tensor =>
    innerGradient(matmul(keys, slice(X, 2, 0, V)), targets, norm, eps)
  const none = (): Tensor => zeros([B, H, V, V], q.device)
  const before = { S: state?.S ?? none(), M: state?.M ?? none() }
  const shares = sharesOfSources(op, less(forgotten), less(lost), taken)
  const { y, state: after } = chunkByChunk(shares, queries, steps, { keys, targets }, errors, before, layout)
  return { y: readThrough(y, normOf(w, b), eps), state: after }
}

const titansStep: Step = ({ S, M }, { q, k, v, theta, alpha, eta, w, b }, { scale, eps }) => {
  const G = innerGradient(readOut(S, k), sub(v, k), { w, b }, eps)
  const momentum = sub(mul(stretch(eta, 4), M!), outer(k, mul(affine(stretch(theta, 3), 2), G)))
  const next = add(mul(affine(stretch(alpha, 4), -1, 1), S), momentum)
  return { y: readThrough(affine(readOut(next, q), scale), { w, b }, eps), state: { S: next, M: momentum } }
}

// ---- rows of the table: token by token, unless the options say otherwise

const matrices = ['B', 'H', 'V', 'V'] as const
const qkvOfOneWidth = { q: perValue('any'), k: perValue('key'), v: perValue('any') }
const affineOfNorm = { w: input('positive', 'H', 'V'), b: input('any', 'H', 'V') }

export const innerRules = {
  ttt: {
    title: 'TTT-linear: a step of gradient descent through a layer norm',
    source: 'Sun 2024 (TTT); flash-linear-attention, ttt',
    equation:
      'G_t = \\nabla_z \\tfrac12 \\|f(z) - (v_t - k_t)\\|^2\\big|_{z = S_{t-1}^\\top k_t + c_{t-1}},\\quad S_t = S_{t-1} - \\eta_t k_t G_t^\\top,\\quad c_t = c_{t-1} - \\eta_t G_t,\\quad y = S_t^\\top q_t + c_t,\\quad y_t = y + f(y)',
    inputs: { ...qkvOfOneWidth, eta: perHead('rate'), ...affineOfNorm },
    state: { S: matrices, c: ['B', 'H', 'V'] },
    forms: ['recurrent'],
    eps: 1e-6,
    step: tttStep,
    run: ({ q, k, v, eta, w, b }, state, options) => tttRule(q, k, v, eta, w, b, state, { minibatch: 1, ...options }),
  },
  titans: {
    title: "Titans' linear memory: gradient descent with momentum and forgetting",
    source: 'Behrouz 2025 (Titans); flash-linear-attention, titans',
    equation:
      'M_t = \\eta_t M_{t-1} - 2 \\theta_t k_t G_t^\\top,\\quad S_t = (1 - \\alpha_t) S_{t-1} + M_t,\\quad y = S_t^\\top q_t,\\quad y_t = y + f(y)',
    inputs: { ...qkvOfOneWidth, theta: perHead('rate'), alpha: perHead('rate'), eta: perHead('rate'), ...affineOfNorm },
    state: { S: matrices, M: matrices },
    forms: ['recurrent'],
    eps: 1e-6,
    step: titansStep,
    run: ({ q, k, v, theta, alpha, eta, w, b }, state, options) =>
      titansRule(q, k, v, theta, alpha, eta, w, b, state, { minibatch: 1, ...options }),
  },
} as const satisfies Record<string, Rule>
