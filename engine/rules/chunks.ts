/**
 * Chunks of rules whose writes go to a momentum M, and by it to the fast weights S:
 *
 *     M_t = decay M_{t-1} - k_t e_t^T,   S_t = decay S_{t-1} + rate_t M_t,   y_t = S_t^T q_t
 *
 * Within a chunk S_t is a weighted sum of its sources: S and M before the first token, and the writes k_j e_j^T. So it is read by reading those, all
 * tokens at once in products of matrices. G: chunks, of all sequences and heads.
 */
import { customOp } from '../autograd.ts'
import type { Device } from '../devices/device.ts'
import { weigh } from '../ops/attention.ts'
import { add, expand, mul, square, where } from '../ops/elementwise.ts'
import { fastWeights, type Gates, type RuleOptions } from '../ops/fast-weights.ts'
import { matmul } from '../ops/matmul.ts'
import { concat, gather, permute, reshape, slice, split } from '../ops/movement.ts'
import { scan } from '../scan.ts'
import { ones, type Tensor, tensor, zeros } from '../tensor.ts'
import { finite, pick, type RuleResult, stretch } from './rule.ts'

/** How much of each source is in S_t and in M_t, [G,C,C+2] both: of S and of M before the first token, and of the C writes. */
export interface Shares {
  ofS: Tensor
  ofM: Tensor
}

/** Two sums with forgetting. decayS, decayM: what makes these forget, arrays [G,C,1,...]; rate: [G,C,1]. */
export function sharesOfSources(op: string, decayS: Gates, decayM: Gates, rate: Tensor): Shares {
  const [, C] = rate.shape
  const n = C + 2
  const { device } = rate
  const ofM = sums(op, oneHot(C, n, 2, -1, device), decayM, rate, oneHot(1, n, 1, 1, device))
  return { ofS: sums(op, mul(ofM, rate), decayS, rate, oneHot(1, n, 0, 1, device)), ofM }
}

/** How much of each token is in a sum with forgetting at each later one, [G,C,C]. */
export const sharesOfTokens = (op: string, gate: Tensor): Tensor => {
  const C = gate.shape[1]
  return sums(op, oneHot(C, C, 0, 1, gate.device), { gate }, gate)
}

/** s_t = decay s_{t-1} + x_t, x [C,n] or [G,C,n], [G,C,n]: products of decays, so nothing is divided, and what one of 0 drops is exactly 0. */
function sums(op: string, x: Tensor, decay: Gates, { shape: [G, C], device }: Tensor, before?: Tensor): Tensor {
  const n = x.shape.at(-1)!
  const one = ones([G, C, 1, 1], device)
  const values = reshape(expand(x, [G, C, n]), [G, C, 1, n])
  const state = before && { S: expand(reshape(before, [1, 1, 1, n]), [G, 1, 1, n]) }
  return reshape(fastWeights(one, one, values, decay, state, { form: 'recurrent', chunk: C }, op).y, [G, C, n])
}

/** [R,n]: row r has x at column `first` + r, and zeros elsewhere. */
export const oneHot = (R: number, n: number, first: number, x: number, device: Device): Tensor =>
  tensor(
    Float32Array.from({ length: R * n }, (_, i) => (i % n === first + Math.floor(i / n) ? x : 0)),
    { shape: [R, n], device },
  )

/** x [G,C,K] twice, for S and for M, times their shares [G,C,2]: [G,C,2K]. */
export function forBoth(x: Tensor, shares: Tensor): Tensor {
  const [G, C, K] = x.shape
  return reshape(mul(reshape(x, [G, C, 1, K]), reshape(shares, [G, C, 2, 1])), [G, C, 2 * K])
}

/** x_t . k_j, times the share of write j at token t: [G,C,C]. Where there is none, as of later writes, that is 0, be x or k infinite or NaN. */
export function throughKeys(x: Tensor, keys: Tensor, shares: Tensor): Tensor {
  const scores = (): Tensor => matmul(x, keys, { transposeB: true })
  return customOp(
    'throughKeys',
    [x, keys, shares],
    () => pick(shares, mul(scores(), shares)),
    (dy) => {
      const dscores = pick(shares, mul(dy, shares))
      const dshares = mul(dy, scores())
      return [weigh(dscores, keys), weigh(dscores, x, true), pick(add(square(shares), finite(dshares)), dshares)]
    },
  )
}

/** a b, of which a zero of a takes nothing, as of later tokens, be b infinite or NaN there. */
export const taking = (a: Tensor, b: Tensor): Tensor =>
  customOp(
    'taking',
    [a, b],
    () => weigh(a, b),
    (dy) => [matmul(dy, b, { transposeB: true }), weigh(a, dy, true)],
  )

/**
 * y and the state after all tokens. `errors` makes E [B,H,C,V], the e_t of a chunk, from X = [S; M] [B,H,2K,V] before it and from what this chunk has of `inputs`
 * [G,...]. q, keys: [G,C,K]; S, M: [B,H,K,V], before the first token.
 */
export function chunkByChunk(
  { ofS, ofM }: Shares,
  q: Tensor,
  keys: Tensor,
  inputs: Record<string, Tensor>,
  errors: (X: Tensor, inputs: Record<string, Tensor>) => Tensor,
  before: { S: Tensor; M: Tensor },
  { N, join, flags }: Layout,
): RuleResult {
  const [G, C, K] = q.shape
  const [B, H, , V] = before.S.shape
  const ends = [ofS, ofM].map((x) => slice(x, 1, C - 1, C))
  const [keep, write] = split(concat(ends, 1), 2, [2, C])
  const perChunk = { ...inputs, keep, along: forBoth(keys, permute(write, [0, 2, 1])) }
  const { y: sources, state } = scan(
    ({ X }, { keep, along, ...rest }, n) => {
      const { begins, holds } = flags(n)
      const from = begins ? where(stretch(begins, 4), 0, X) : X
      const E = errors(from, rest)
      const kept = reshape(matmul(keep, reshape(from, [B, H, 2, K * V])), [B, H, 2 * K, V])
      const next = matmul(along, E, { transposeA: true, accumulate: kept })
      return { y: concat([from, E], 2), state: { X: holds ? where(stretch(holds, 4), next, from) : next } }
    },
    Object.fromEntries(Object.entries(perChunk).map(([name, x]) => [name, reshape(x, [B, N, H, ...x.shape.slice(1)])])),
    { X: concat([before.S, before.M], 2) },
    { chunk: N },
  )
  const [ofX, ofE] = split(ofS, 2, [2, C])
  const reads = concat([forBoth(q, ofX), throughKeys(q, keys, ofE)], 2)
  const y = taking(reads, reshape(sources, [G, 2 * K + C, V]))
  const [S, M] = split(state.X, 2, [K, K])
  return { y: join(reshape(y, [B, N, H, C, V])), state: { S, M } }
}

// ---- where tokens stand

export interface Layout {
  /** How many chunks there are. */
  N: number
  /** [B,T,H] or [B,T,H,W] as [G,C,W], G = B N H, with zeros where there is no token. */
  cut(x: Tensor): Tensor
  /** [B,N,H,C,W] as [B,T,H,W]. */
  join(x: Tensor): Tensor
  /** Of chunk n: in which sequences it begins one, and in which it holds tokens; undefined for none, and for all. */
  flags(n: number): { begins?: Tensor; holds?: Tensor }
}

/** Tokens in chunks of C. Padding has no place there, and where a sequence begins, a chunk does: so no number of one meets another's. */
export function layoutOf(B: number, T: number, C: number, options: RuleOptions, device: Device): Layout {
  const { N, cut, join, flags } = options.mask || options.reset ? ofTokens(B, T, C, options, device) : inOrder(B, T, C, device)
  return {
    N,
    cut: (x) => {
      const [, , H, W = 1] = x.shape
      return reshape(permute(reshape(cut(reshape(x, [B, T, H * W])), [B, N, C, H, W]), [0, 1, 3, 2, 4]), [B * N * H, C, W])
    },
    join: (x) => {
      const [, , H, , W] = x.shape
      return reshape(join(reshape(permute(x, [0, 1, 3, 2, 4]), [B, N * C, H * W])), [B, T, H, W])
    },
    flags,
  }
}

/** The same for rows: `cut` takes [B,T,R] to [B,N C,R], and `join` back. */
type Rows = Layout

function inOrder(B: number, T: number, C: number, device: Device): Rows {
  const N = Math.ceil(T / C)
  return {
    N,
    cut: (x) => (N * C === T ? x : concat([x, zeros([B, N * C - T, x.shape[2]], device)], 1)),
    join: (x) => (N * C === T ? x : slice(x, 1, 0, T)),
    flags: () => ({}),
  }
}

interface Chunk {
  begins: boolean
  tokens: number[]
}

function ofTokens(B: number, T: number, C: number, { mask, reset }: RuleOptions, device: Device): Rows {
  const isPadding = (i: number): boolean => mask !== undefined && mask.indices![i] === 0
  const begins = (i: number): boolean => reset !== undefined && reset.indices![i] === 1
  const chunks = Array.from({ length: B }, (_, b) => {
    const made: Chunk[] = []
    for (let i = b * T; i < (b + 1) * T; i++) {
      if (begins(i)) made.push({ begins: true, tokens: [] })
      if (isPadding(i)) continue
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
  const rows = (x: Tensor, index: Int32Array): Tensor => {
    const R = x.shape[2]
    const table = concat([reshape(x, [x.size / R, R]), zeros([1, R], device)], 0)
    return gather(table, tensor(index, { shape: [B, index.length / B], device }))
  }
  const flag = (n: number, of: (chunk?: Chunk) => boolean, usual: boolean): Tensor | undefined => {
    const values = chunks.map((made) => of(made[n]))
    return values.every((x) => x === usual) ? undefined : tensor(Int32Array.from(values, Number), { shape: [B], device })
  }
  return {
    N,
    cut: (x) => rows(x, from),
    join: (x) => rows(x, to),
    flags: (n) => ({
      begins: flag(n, (chunk) => chunk?.begins ?? false, false),
      holds: flag(n, (chunk) => (chunk?.tokens.length ?? 0) > 0, true),
    }),
  }
}
