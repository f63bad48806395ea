/** Attention over a number of memories that grows with the logarithm of the sequence. */
import { add, affine, mul } from '../ops/elementwise.ts'
import { checkCall, fastWeights, type RuleOptions } from '../ops/fast-weights.ts'
import { concat, reshape, slice } from '../ops/movement.ts'
import { type Tensor, zeros } from '../tensor.ts'
import { axes, dot } from './rule.ts'

/**
 * Log-linear attention (Guo 2025) over a gated sum: the past of token t is cut into blocks as in a Fenwick tree, the nearest the smallest, and each is a memory
 * of its own with a weight: y_t = scale sum_l levels_t[l] S_t[l]^T q_t. Level 0 is token t alone; level l > 0, where bit l - 1 of t is set, the 2^(l-1) tokens
 * before t - (t mod 2^(l-1)), decayed since as in `gatedSumRule`. q, k: [B,T,H,K]; v: [B,T,H,V]; gate: [B,T,H]; levels: [B,T,H,M], M at least ceil(log2 T) + 1.
 * Of a whole sequence, in time O(T log T): it has no state to go on from, and takes neither mask nor reset.
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
  const needed = Math.ceil(Math.log2(T)) + 1
  if (M < needed) throw new Error(`${op}: ${T} tokens have ${needed} levels, and there are weights for ${M}`)
  const weighted = (y: Tensor, level: number): Tensor => mul(y, slice(levels, 3, level, level + 1))
  let y = weighted(affine(mul(dot(q, k), v), options.scale ?? 1), 0)
  // Level by level: blocks of n tokens are sequences, of which the second half reads what the first has written.
  for (let level = 1; level < needed; level++) y = add(y, weighted(ofBlocks(op, q, k, v, gate, 2 ** level, options), level))
  return y
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
