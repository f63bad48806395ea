/**
 * Batches whose rows hold padding, or several sequences one after the other: what that means for everything in a layer that looks
 * back in time apart from the recurrence itself, which takes both as options. Tests: test/nn/attention.test.ts, test/nn/state.test.ts.
 */
import { checkFlag } from '../engine/arguments.ts'
import { mul, silu, where } from '../engine/ops/elementwise.ts'
import { tokenFlags } from '../engine/ops/fast-weights.ts'
import { concat, gather, permute, reshape, slice } from '../engine/ops/movement.ts'
import { l2Norm } from '../engine/ops/norm.ts'
import { sum } from '../engine/ops/reduce.ts'
import { type ConvOptions, causalConv } from '../engine/ops/sequence.ts'
import { sizeOf } from '../engine/shape.ts'
import { type Tensor, tensor, varying, zeros } from '../engine/tensor.ts'
import { checkKnown } from './fields.ts'

/** What says which tokens of a batch are padding, and where sequences begin. */
export interface Packing {
  /** int32 [B,T]: 0 marks padding, which leaves no trace: what follows is computed, and the state is, as if it weren't there. */
  mask?: Tensor
  /** int32 [B,T]: 1 where a new sequence begins, for which nothing before it has been. */
  reset?: Tensor
}

/** Throws unless mask and reset fit and there is nothing else but `more`; leaves out those that say nothing. */
export function checkPacking(op: string, options: Packing, B: number, T: number, more: readonly string[] = []): Packing {
  checkKnown(options, ['mask', 'reset', ...more])
  const { mask, reset } = options
  return {
    mask: mask && tokenFlags(op, 'mask', mask, B, T).includes(0) ? mask : undefined,
    reset: reset && tokenFlags(op, 'reset', reset, B, T).includes(1) ? reset : undefined,
  }
}

/**
 * x [B,T,...] at tokens, and 0 at padding whatever it holds there, NaN included; so are its gradients. At a layer's entry it keeps padding out of
 * the weights' gradients, which are sums over all tokens; at its end, what the cotangents hold there.
 */
export function atTokens(x: Tensor, { mask }: Packing): Tensor {
  return mask ? where(reshape(mask, [...mask.shape, ...x.shape.slice(2).map(() => 1)]), x, 0) : x
}

/** What logits are made from, x [B,T,D], and its padding: where `last` says so, those of each row's last position alone. */
export function asked(x: Tensor, { mask }: Packing, last: boolean | undefined): { x: Tensor; mask?: Tensor } {
  if (last !== undefined) checkFlag('last', last)
  if (!last) return { x, mask }
  const [B, T] = x.shape
  const ends = mask && Int32Array.from({ length: B }, (_, b) => mask.indices![b * T + T - 1])
  return { x: slice(x, 1, T - 1, T), mask: ends && tensor(ends, { shape: [B, 1], device: x.device }) }
}

/** Each token's place in its sequence, from 0, padding not counted, [B,T]; and where each row goes on, [B], from `position` [B] (0). */
export function places(
  { mask, reset }: Packing,
  B: number,
  T: number,
  position: Int32Array = new Int32Array(B),
): { at: Int32Array; next: Int32Array } {
  const at = new Int32Array(B * T)
  const next = Int32Array.from(position)
  for (let i = 0; i < B * T; i++) {
    const b = Math.floor(i / T)
    if (reset?.indices?.[i] === 1) next[b] = 0
    at[i] = next[b]
    if (mask?.indices?.[i] !== 0) next[b]++
  }
  return { at, next }
}

/** The rows of a table of T or B x T positions (see `varying`), as a tensor [T,...] that broadcasts where all rows of the batch are alike, else [B,T,...]. */
export function positionTable(
  at: () => Int32Array,
  B: number,
  width: number,
  value: (position: number, i: number) => number,
  beside: Tensor,
): Tensor {
  const first = at()
  const T = first.length / B
  const alike = first.every((p, i) => p === first[i % T])
  const shape = alike ? [T, width] : [B, T, width]
  const length = sizeOf(shape)
  return varying(
    () => {
      const places = at()
      return Float64Array.from({ length }, (_, i) => value(places[Math.floor(i / width)], i % width))
    },
    { shape, device: beside.device },
  )
}

/**
 * The causal depthwise convolution of the engine, whose taps skip padding and see nothing before a reset. x: [B,T,D]; w: [D,W]; state: [B,W-1,D];
 * `after`: see `ConvOptions`.
 */
export function packedConv(
  x: Tensor,
  w: Tensor,
  state: Tensor | undefined,
  packing: Packing,
  after: ConvOptions = {},
): { y: Tensor; state: Tensor } {
  if (!packing.mask && !packing.reset) return causalConv(x, w, state, after)
  const [B, T, D] = x.shape
  const W = w.shape[1]
  const { seen, last } = taps(B, T, W, state !== undefined, packing)
  const rows = [zeros([1, D], x.device), ...(state ? [reshape(state, [B * (W - 1), D])] : []), reshape(x, [B * T, D])]
  const table = concat(rows, 0)
  const pick = (index: Int32Array, shape: number[]): Tensor => gather(table, tensor(index, { shape, device: x.device }))
  const y = sum(mul(pick(seen, [B, T, W]), permute(w, [1, 0])), { axis: 2 })
  return { y: continued(atTokens(y, packing), after), state: pick(last, [B, W - 1]) }
}

/** What `causalConv` goes on with, of what it has summed. */
function continued(sums: Tensor, { silu: activated = false, l2Width, eps }: ConvOptions): Tensor {
  const y = activated ? silu(sums) : sums
  if (l2Width === undefined) return y
  return reshape(l2Norm(reshape(y, [...y.shape.slice(0, 2), y.shape[2] / l2Width, l2Width]), eps), y.shape)
}

/** Which rows of [zero; state; x] each tap sees, [B,T,W], and which ones the next piece will, [B,W-1]. Taps of a padding token see the zero. */
function taps(B: number, T: number, W: number, hasState: boolean, { mask, reset }: Packing): { seen: Int32Array; last: Int32Array } {
  const seen = new Int32Array(B * T * W)
  const last = new Int32Array(B * (W - 1))
  const first = 1 + (hasState ? B * (W - 1) : 0)
  for (let b = 0; b < B; b++) {
    let recent = Array.from({ length: W - 1 }, (_, j) => (hasState ? 1 + b * (W - 1) + j : 0))
    for (let t = 0; t < T; t++) {
      const i = b * T + t
      if (reset?.indices?.[i] === 1) recent.fill(0)
      if (mask?.indices?.[i] === 0) continue
      recent.push(first + i)
      seen.set(recent, i * W)
      recent = recent.slice(1)
    }
    last.set(recent, b * (W - 1))
  }
  return { seen, last }
}

/** Vaswani 2017, section 3.5, at positions [B,T]. */
export const sinusoids = (at: () => Int32Array, B: number, D: number, beside: Tensor): Tensor =>
  positionTable(
    at,
    B,
    D,
    (position, d) => {
      const angle = position / 10000 ** ((d - (d % 2)) / D)
      return d % 2 === 0 ? Math.sin(angle) : Math.cos(angle)
    },
    beside,
  )
