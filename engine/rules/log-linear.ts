/** Attention over a number of memories that grows with the logarithm of the sequence. */
import { customOp } from '../autograd.ts'
import { weigh } from '../ops/attention.ts'
import { add, affine, mul, sub } from '../ops/elementwise.ts'
import { checkCall, checkState, type FastWeightState, fastWeights, type RuleOptions } from '../ops/fast-weights.ts'
import { matmul } from '../ops/matmul.ts'
import { concat, permute, reshape, slice } from '../ops/movement.ts'
import { sum } from '../ops/reduce.ts'
import { full, ones, type Tensor, tensor, zeros } from '../tensor.ts'
import { layoutOf, sharesOfTokens } from './chunks.ts'
import { axes, decayed, input, outer, perHead, pick, qkv, type Rule, type RuleResult, readOut, recurrentOnly, type Step } from './rule.ts'
import { runSteps } from './steps.ts'

/**
 * Log-linear attention (Guo 2025) over a gated sum: the past of token t is cut into blocks as in a Fenwick tree, the nearest the smallest, and each is a memory
 * of its own with a weight: y_t = scale sum_l levels_t[l] S_t[l]^T q_t. Level 0 is token t alone; level l > 0, where bit l - 1 of t is set, the 2^(l-1) tokens
 * before t - (t mod 2^(l-1)), decayed since as in `gatedSumRule`. q, k: [B,T,H,K]; v: [B,T,H,V]; gate: [B,T,H]; levels: [B,T,H,M], M at least ceil(log2 T) + 1.
 * Of a whole sequence, in time O(T log T), blocks of up to 64 tokens by all their pairs: it has no state to go on from, and takes neither mask nor reset.
 */
export function logLinearAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  gate: Tensor,
  levels: Tensor,
  options: Omit<RuleOptions, 'mask' | 'reset'> = {},
): Tensor {
  const op = 'logLinearAttention'
  const inputs = {
    q: [q, axes.keys],
    k: [k, axes.keys],
    v: [v, axes.values],
    gate: [gate, axes.heads],
    levels: [levels, ['B', 'T', 'H', 'M']],
  } as const
  const { T, M } = checkCall(op, inputs, options)
  for (const name of ['mask', 'reset'] as const)
    if ((options as RuleOptions)[name]) throw new Error(`${op}: takes no ${name}; its blocks are counted from the first token`)
  const needed = levelsOf(T)
  if (M < needed) throw new Error(`${op}: ${T} tokens have ${needed} levels, and there are weights for ${M}`)
  let y = withinBlocks(op, affine(q, options.scale ?? 1), k, v, gate, levels, Math.min(near, T))
  // Further away level by level: blocks of n tokens are sequences, of which the second half reads what the first has written.
  for (let level = levelsOf(near); level < needed; level++)
    y = add(y, mul(ofBlocks(op, q, k, v, gate, 2 ** level, options), slice(levels, 3, level, level + 1)))
  return y
}

/** Blocks of so many tokens, a power of two, are read by all their pairs. */
const near = 64

const levelsOf = (T: number): number => Math.ceil(Math.log2(T)) + 1

/** What tokens read of their own block of C, (D * L * (q k^T)) v, of each pair the decay and the weight of the level. */
function withinBlocks(op: string, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, levels: Tensor, C: number): Tensor {
  const [B, T, H, V] = v.shape
  const M = levelsOf(C)
  const { N, cut, join } = layoutOf(B, T, C, {}, q.device)
  const [queries, keys, values, gates, weights] = [q, k, v, gate, slice(levels, 3, 0, M)].map(cut)
  const decays = sharesOfTokens(op, gates)
  // The level of a pair is that of the highest bit in which its places differ.
  const ofPair = Float32Array.from({ length: C * M * C }, (_, i) => {
    const [t, level, j] = [Math.floor(i / (M * C)), Math.floor(i / C) % M, i % C]
    return Number(j <= t && 32 - Math.clz32(t ^ j) === level)
  })
  const spread = matmul(permute(weights, [1, 0, 2]), tensor(ofPair, { shape: [C, M, C], device: q.device }))
  const y = weighed(queries, keys, values, mul(decays, permute(spread, [1, 0, 2])), decays)
  return join(reshape(y, [B, N, H, C, V]))
}

/** (w * (q k^T)) v, where what has decayed to 0 takes nothing along, forward and backward. `decays` says which that is, and gets no gradient. */
function weighed(q: Tensor, k: Tensor, v: Tensor, w: Tensor, decays: Tensor): Tensor {
  const scores = (): Tensor => matmul(q, k, { transposeB: true })
  const pairs = (): Tensor => pick(decays, mul(w, scores()))
  return customOp(
    'weighed',
    [q, k, v, w],
    () => weigh(pairs(), v),
    (dy) => {
      const dpairs = pick(decays, matmul(dy, v, { transposeB: true }))
      const dscores = mul(dpairs, w)
      return [weigh(dscores, k), weigh(dscores, q, true), weigh(pairs(), dy, true), pick(decays, mul(dpairs, scores()))]
    },
  )
}

function ofBlocks(op: string, q: Tensor, k: Tensor, v: Tensor, gate: Tensor, n: number, options: RuleOptions): Tensor {
  const [B, T, H, V] = v.shape
  const blocks = Math.ceil(T / n)
  /** [B,T,...] as [B blocks, n, ...], with zeros beyond the last token. */
  const cut = (x: Tensor): Tensor => {
    const [, , ...rest] = x.shape
    const whole = blocks * n === T ? x : concat([x, zeros([B, blocks * n - T, ...rest], x.device)], 1)
    return reshape(whole, [B * blocks, n, ...rest])
  }
  const parts = [q, k, v, gate].map(cut)
  const [first, second] = [0, n / 2].map((from) => parts.map((x) => slice(x, 1, from, from + n / 2)))
  const written = fastWeights(first[0], first[1], first[2], { gate: first[3] }, undefined, options, op).state
  const nothing = (x: Tensor): Tensor => zeros(x.shape, x.device)
  const read = fastWeights(second[0], nothing(second[1]), nothing(second[2]), { gate: second[3] }, written, options, op).y
  const all = concat([zeros([B * blocks, n / 2, H, V], v.device), read], 1)
  return slice(reshape(all, [B, blocks * n, H, V]), 1, 0, T)
}

/**
 * The same as a rule, with a state: { S [B,H,M,K,V], the memory of each level, held [B,H,M], 1 where a level holds something }. Before a token is written, the
 * levels below the first empty one become that one; the last level takes in all that is older, so that a sequence may be of any length: up to 2^(M-1) tokens
 * it is `logLinearAttention`. With a state, mask or reset, or beyond that length, token by token in composed ops.
 */
export function logLinearRule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  gate: Tensor,
  levels: Tensor,
  state?: FastWeightState,
  options: RuleOptions = {},
): RuleResult {
  const op = 'logLinearRule'
  const inputs = { q: [q, axes.keys], k: [k, axes.keys], v: [v, axes.values], gate: [gate, axes.heads] } as const
  const { B, T, H, K, V, M } = checkCall(op, { ...inputs, levels: [levels, ['B', 'T', 'H', 'M']] }, options)
  recurrentOnly(op, options)
  if (state) checkState(op, state, { S: [B, H, M, K, V], held: [B, H, M] }, q)
  const { mask, reset, ...rest } = options
  if (state || mask || reset || T > 2 ** (M - 1))
    return runSteps(logLinearRules['log-linear'], { q, k, v, gate, levels }, state, options, op)
  const cut = (x: Tensor, from: number, to: number): Tensor => slice(x, 1, from, to)
  const last = T - 1
  const parts = Array.from({ length: M }, (_, level): { S: Tensor; held: number } => {
    const n = level === 0 ? 1 : 2 ** (level - 1)
    if (level > 0 && Math.floor(last / n) % 2 === 0) return { S: zeros([B, H, 1, K, V], q.device), held: 0 }
    const end = level === 0 ? T : last - (last % n)
    const [ks, vs, gates] = [k, v, gate].map((x) => cut(x, end - n, end))
    const { S } = fastWeights(ks, ks, vs, { gate: gates }, undefined, {}, op).state
    const aged = end === T ? S : decayed(S, sum(cut(gate, end, T), { axis: 1 }))
    return { S: reshape(aged, [B, H, 1, K, V]), held: 1 }
  })
  const held = parts.map((part) => full([B, H, 1], part.held, q.device))
  return {
    y: logLinearAttention(q, k, v, gate, levels, rest),
    state: {
      S: concat(
        parts.map(({ S }) => S),
        2,
      ),
      held: concat(held, 2),
    },
  }
}

const logLinearStep: Step = ({ S, held }, { q, k, v, gate, levels }, { scale }) => {
  const [B, H, M, K, V] = S.shape
  const { device } = q
  const top = M - 1
  const vector = (of: (level: number) => number): Tensor =>
    tensor(
      Float32Array.from({ length: M }, (_, l) => of(l)),
      { shape: [M], device },
    )
  const square = (of: (to: number, from: number) => boolean): Tensor =>
    tensor(
      Float32Array.from({ length: M * M }, (_, i) => Number(of(Math.floor(i / M), i % M))),
      { shape: [M, M], device },
    )
  // Whether all levels below one are full, so that they become this one, or more than this one.
  const full = [ones([B, H, 1], device)]
  for (let level = 0; level < top; level++) full.push(mul(full[level], slice(held!, 2, level, level + 1)))
  const reached = concat(full, 2)
  const both = mul(reached, held!)
  const below = vector((level) => Number(level !== top))
  const keeps = affine(mul(reached, below), -1, 1)
  const takes = sub(reached, mul(both, below))
  const column = (x: Tensor): Tensor => reshape(x, [B, H, M, 1])
  const moves = add(
    mul(
      square((to, from) => to === from),
      column(keeps),
    ),
    mul(
      square((to, from) => from < to),
      column(takes),
    ),
  )
  const moved = matmul(moves, reshape(decayed(S, gate), [B, H, M, K * V]))
  const own = reshape(outer(k, v), [B, H, 1, K * V])
  const next = add(moved, M === 1 ? own : concat([own, zeros([B, H, top, K * V], device)], 2))
  const mixed = matmul(reshape(levels, [B, H, 1, M]), next)
  return {
    y: affine(readOut(reshape(mixed, [B, H, K, V]), q), scale),
    // The present token is the first level.
    state: {
      S: reshape(next, S.shape),
      held: sub(
        add(reached, held!),
        mul(
          both,
          vector((level) => (level === 0 || level === top ? 1 : 2)),
        ),
      ),
    },
  }
}

// ---- row of the table

export const logLinearRules = {
  'log-linear': {
    title: 'Log-linear attention: a memory for each power of two of the past',
    source: 'Guo 2025 (log-linear attention); flash-linear-attention, log_linear_attn',
    equation:
      'y_t = \\sum_{\\ell} \\lambda_{t,\\ell}\\, S_{t,\\ell}^\\top q_t,\\quad S_{t,\\ell} = \\sum_{j \\in B_\\ell(t)} \\Bigl(\\prod_{i=j+1}^{t} \\alpha_i\\Bigr) k_j v_j^\\top',
    inputs: { ...qkv('key'), gate: perHead('gate'), levels: input('positive', 'B', 'T', 'H', 'M') },
    state: { S: ['B', 'H', 'M', 'K', 'V'], held: ['B', 'H', 'M'] },
    forms: ['recurrent'],
    step: logLinearStep,
    run: ({ q, k, v, gate, levels }, state, options) => logLinearRule(q, k, v, gate, levels, state, options),
  },
} as const satisfies Record<string, Rule>
