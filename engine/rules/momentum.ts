/** The delta rule with momentum. */
import { add, affine, expand, mul, sub, where } from '../ops/elementwise.ts'
import { checkCall, checkState, type FastWeightState, fastWeights, type Gates, type RuleOptions } from '../ops/fast-weights.ts'
import { matmul } from '../ops/matmul.ts'
import { concat, gather, permute, reshape, slice, split } from '../ops/movement.ts'
import { scan } from '../scan.ts'
import { ones, type Tensor, tensor, zeros } from '../tensor.ts'
import {
  all,
  axes,
  decayed,
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
 * In chunks of C tokens, 16 by default; the backward pass of the recurrent form, in composed ops, computes each C tokens once more.
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
  const { form = T === 1 ? 'recurrent' : 'chunk', chunk = 16, ...rest } = options
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
const C0 = (x: string | undefined): RuleOptions => (x === 'r' ? { form: 'recurrent', chunk: 64 } : { form: 'chunk', chunk: 64 })
const FORM = C0(process.env.F1)
const FORM2 = C0(process.env.F2)

/**
 * Of C tokens that write into a momentum M, M_t = decay M_{t-1} - k_t e_t^T, and by it into S, S_t = decay S_{t-1} + rate_t M_t: how much of each source is in S_t and
 * M_t, [G,C,C+2] both. The sources are S and M before the first token, and the C writes k_j e_j^T. They are two sums with forgetting, so nothing is
 * divided, and what a decay of 0 drops is exactly 0. decayS, decayM: what makes a sum forget, arrays [G,C,1,...]; rate [G,C,1].
 */
export function sharesOfSources(op: string, decayS: Gates, decayM: Gates, rate: Tensor): { ofS: Tensor; ofM: Tensor } {
  const [G, C] = rate.shape
  const { device } = rate
  const n = C + 2
  const one = ones([G, C, 1, 1], device)
  const unit = (at: number): FastWeightState => ({ S: expand(oneHot(1, n, at, 1, device), [G, 1, 1, n]) })
  const sum = (v: Tensor, gates: Gates, before: FastWeightState): Tensor =>
    fastWeights(one, one, v, gates, before, FORM2, op).y
  const ofM = sum(expand(reshape(oneHot(C, n, 2, -1, device), [C, 1, n]), [G, C, 1, n]), decayM, unit(1))
  const ofS = sum(mul(ofM, stretch(rate, 4)), decayS, unit(0))
  return { ofS: reshape(ofS, [G, C, n]), ofM: reshape(ofM, [G, C, n]) }
}

/** [R,n]: row r has x at column `first` + r, and zeros elsewhere. */
function oneHot(R: number, n: number, first: number, x: number, device: Tensor['device']): Tensor {
  return tensor(
    Float32Array.from({ length: R * n }, (_, i) => (i % n === first + Math.floor(i / n) ? x : 0)),
    { shape: [R, n], device },
  )
}

/**
 * Within a chunk S_t is a weighted sum of the sources (see `sharesOfSources`), and so are the errors of its tokens, which correct one another:
 * (I + L) E = eta (V - P S), with L_tj = eta_t (p_t . k_j) times the share of write j in S_{t-1}, strictly lower. With the inverse all chunks at once have
 * E = U - W [S; M] and their products; from chunk to chunk goes the state alone.
 */
function inChunks(
  { q, k, v, p, beta, eta, gate, gateM }: Record<string, Tensor>,
  state: FastWeightState | undefined,
  C: number,
  options: RuleOptions,
  op: string,
): RuleResult {
  const [B, T, H, K] = q.shape
  const V = v.shape[3]
  const { device } = q
  const { N, cut, join, flags } = layoutOf(B, T, C, options, device)
  const G = B * N * H
  /** [B,T,H,...] as [G,C,...]. */
  const byChunk = (x: Tensor): Tensor => {
    const y = cut(x.shape.length === 3 ? stretch(x, 4) : x)
    return reshape(permute(y, [0, 1, 3, 2, 4]), [G, C, y.shape[4]])
  }
  const [qs, ks, vs, ps, betas, etas, gates, gateMs] = [affine(q, options.scale ?? 1), k, v, p, beta, eta, gate, gateM].map(byChunk)
  const { ofS, ofM } = sharesOfSources(op, { gate: gates }, { gate: gateMs }, affine(betas, -1))
  const [kept, written] = split(ofS, 2, [2, C])
  const unwritten = expand(oneHot(1, 2, 0, 1, device), [G, 1, 2])
  /** The row before, the first one being that of the chunk's start. */
  const before = (x: Tensor, first: Tensor): Tensor => concat([first, slice(x, 1, 0, C - 1)], 1)
  /** Rows of x for S and M, times their shares: [G,C,2K]. */
  const both = (x: Tensor, shares: Tensor): Tensor =>
    reshape(mul(reshape(x, [G, C, 1, K]), reshape(shares, [G, C, 2, 1])), [G, C, 2 * K])
  const byWrites = (x: Tensor, shares: Tensor): Tensor => mul(matmul(x, ks, { transposeB: true }), shares)
  const reads = mul(ps, etas)
  const inverse = inverseOf(byWrites(reads, before(written, zeros([G, 1, C], device))), op)
  const last = concat([ofS, ofM].map((x) => slice(x, 1, C - 1, C)), 1)
  const [keep, write] = split(last, 2, [2, C])
  const perChunk = {
    U: matmul(inverse, mul(vs, etas)),
    W: matmul(inverse, both(reads, affine(before(kept, unwritten), -1))),
    keep,
    keys: both(ks, permute(write, [0, 2, 1])),
  }
  const { y: Z, state: after } = scan(
    ({ X }, { U, W, keep, keys }, n) => {
      const { begins, holds } = flags(n)
      const from = begins ? where(stretch(begins, 4), 0, X) : X
      const E = matmul(W, from, { accumulate: U })
      const old = reshape(matmul(keep, reshape(from, [B, H, 2, K * V])), [B, H, 2 * K, V])
      const next = matmul(keys, E, { transposeA: true, accumulate: old })
      return { y: concat([from, E], 2), state: { X: holds ? where(stretch(holds, 4), next, from) : next } }
    },
    Object.fromEntries(Object.entries(perChunk).map(([name, x]) => [name, reshape(x, [B, N, H, ...x.shape.slice(1)])])),
    { X: state ? concat([state.S, state.M!], 2) : zeros([B, H, 2 * K, V], device) },
    { chunk: N },
  )
  const y = matmul(concat([both(qs, kept), byWrites(qs, written)], 2), reshape(Z, [G, 2 * K + C, V]))
  const [S, M] = split(after.X, 2, [K, K])
  return { y: join(permute(reshape(y, [B, N, H, C, V]), [0, 1, 3, 2, 4])), state: { S, M } }
}

/** (I + L)^-1 of strictly lower L [G,C,C], row by row: row t is e_t - sum_{j<t} L_tj row_j, which is a delta rule with keys e_t. */
function inverseOf(L: Tensor, op: string): Tensor {
  const [G, C] = L.shape
  const unit = expand(reshape(oneHot(C, C, 0, 1, L.device), [C, 1, C]), [G, C, 1, C])
  const { y } = fastWeights(unit, unit, unit, { erase: reshape(L, [G, C, 1, C]) }, undefined, FORM, op)
  return reshape(y, [G, C, C])
}

interface Layout {
  /** How many chunks there are. */
  N: number
  /** [B,T,H,W] as [B,N,C,H,W], with zeros where there is no token, and back. */
  cut(x: Tensor): Tensor
  join(x: Tensor): Tensor
  /** Of chunk n: in which sequences it begins one, and in which it holds tokens; undefined for none, and for all. */
  flags(n: number): { begins?: Tensor; holds?: Tensor }
}

/** Tokens in chunks of C. Padding has no place there, and where a sequence begins, a chunk does: so no number of one meets another's. */
function layoutOf(B: number, T: number, C: number, { mask, reset }: RuleOptions, device: Tensor['device']): Layout {
  if (!mask && !reset) {
    const N = Math.ceil(T / C)
    return {
      N,
      cut(x) {
        const [, , H, W] = x.shape
        return reshape(N * C === T ? x : concat([x, zeros([B, N * C - T, H, W], device)], 1), [B, N, C, H, W])
      },
      join: (x) => slice(reshape(x, [B, N * C, ...x.shape.slice(3)]), 1, 0, T),
      flags: () => ({}),
    }
  }
  const chunks = Array.from({ length: B }, (_, b) => {
    const made: { begins: boolean; tokens: number[] }[] = []
    for (let i = b * T; i < (b + 1) * T; i++) {
      if (reset?.indices![i] === 1) made.push({ begins: true, tokens: [] })
      if (mask?.indices![i] === 0) continue
      if (made.length === 0 || made.at(-1)!.tokens.length === C) made.push({ begins: false, tokens: [] })
      made.at(-1)!.tokens.push(i)
    }
    return made
  })
  const N = Math.max(1, ...chunks.map(({ length }) => length))
  // Beyond the rows of either there is one of zeros.
  const [from, to] = [new Int32Array(B * N * C).fill(B * T), new Int32Array(B * T).fill(B * N * C)]
  for (const [b, made] of chunks.entries())
    for (const [n, { tokens }] of made.entries())
      for (const [c, token] of tokens.entries()) {
        const place = (b * N + n) * C + c
        from[place] = token
        to[token] = place
      }
  const rowsOf = (x: Tensor, rows: number, index: Int32Array, shape: readonly number[]): Tensor => {
    const [H, W] = x.shape.slice(-2)
    const table = concat([reshape(x, [rows, H * W]), zeros([1, H * W], device)], 0)
    return reshape(gather(table, tensor(index, { shape: [index.length], device })), [...shape, H, W])
  }
  const flag = (n: number, of: (chunk: { begins: boolean; tokens: number[] } | undefined) => boolean, usual: boolean): Tensor | undefined => {
    const values = chunks.map((made) => of(made[n]))
    return values.every((x) => x === usual) ? undefined : tensor(Int32Array.from(values, Number), { shape: [B], device })
  }
  return {
    N,
    cut: (x) => rowsOf(x, B * T, from, [B, N, C]),
    join: (x) => rowsOf(x, B * N * C, to, [B, T]),
    flags: (n) => ({
      begins: flag(n, (chunk) => chunk?.begins ?? false, false),
      holds: flag(n, (chunk) => (chunk?.tokens.length ?? 0) > 0, true),
    }),
  }
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
    forms: all,
    step: momentumStep,
    run: ({ q, k, v, p, beta, eta, gate, gateM }, state, options) => momentumDeltaRule(q, k, v, p, beta, eta, gate, gateM, state, options),
  },
} as const satisfies Record<string, Rule>
