/**
 * The attention free transformer's memory (Zhai 2021), in which each channel is a softmax over time of its own: keys are exponents, and no query
 * meets a key. A sequence can be run whole or in pieces.
 */
import { recordMany } from '../autograd.ts'
import type { AftSizes } from '../devices/kernels.ts'
import { show } from '../shape.ts'
import { empty, full, like, type Tensor, tensor, varying, zeros } from '../tensor.ts'
import { checkFloat, match, sameDevice } from './check.ts'
import { expand } from './elementwise.ts'
import { tokenFlags } from './fast-weights.ts'
import { concat, gather, permute, reshape, slice } from './movement.ts'

/** What an earlier piece left behind. Only a causal sequence has such a thing. */
export interface AftState {
  /** The keys of the last s - 1 tokens and, before them, one that stands for all earlier ones: their log-sum-exp. [B, max(s, 1), D]. */
  key: Tensor
  /** Their values; the first is the weighted mean of those that it stands for. */
  value: Tensor
  /** How many tokens of its sequence each row has had, [B]: what's further back than that in key and value isn't there, and not looked at. */
  position: Int32Array
}

/**
 * A table [N,N] of biases by the places of query and key, or taps [H,s] by how far the key lies back, shared by the D / H channels of a head. A sequence
 * of more than N tokens is an error, unless the table is `extended`: queries beyond have the biases of the last row, by how far the key lies back.
 */
export type AftBias = { table: Tensor; extended?: boolean } | { taps: Tensor }

/** Options of `aft`. */
export interface AftOptions {
  /** s: biases count for keys less than s places from the query; by default all, and with taps as many as there are. */
  window?: number
  /** Whether a query sees only itself and what comes before; by default yes. If not, taps are [H, 2 s - 1], from s - 1 places ahead of the query on. */
  causal?: boolean
  /** int32 [B,T]: 0 where a token is padding, which is not looked at and leaves no trace; y is 0 there. */
  mask?: Tensor
  /** int32 [B,T]: 1 where a new sequence begins, for which nothing before it has been. */
  reset?: Tensor
}

/**
 * y_t = sum_j e^(k_j + w_tj) v_j / sum_j e^(k_j + w_tj), for each channel, over j <= t (all j where it isn't causal); w is 0 without a bias and outside
 * the window (Zhai 2021, eq. 2-4). k, v, y: [B,T,D]. In time O(T s): what lies outside the window is a running sum. Exponents are taken from the largest
 * one that a query sees, so that nothing overflows and no later key reaches an earlier token. The state, of causal sequences, is what a next call needs to go on.
 */
export function aft(
  k: Tensor,
  v: Tensor,
  bias?: AftBias,
  state?: AftState,
  options: AftOptions = {},
): { y: Tensor; state: AftState | undefined } {
  const op = 'aft'
  const { causal = true, mask, reset } = options
  checkFloat(op, k, v)
  const { B, T, D } = match(op, { k: ['B', 'T', 'D'], v: ['B', 'T', 'D'] }, { k: k.shape, v: v.shape })
  if (T < 1 || D < 1) throw new Error(`${op}: k has shape ${show(k.shape)}: there must be a token and a channel`)
  for (const [name, flags] of Object.entries({ mask, reset })) if (flags) tokenFlags(op, name, flags, B, T)
  const { kind, w, window, N } = weightsOf(op, bias, D, causal, options.window)
  sameDevice(op, k, v, w, state?.key, state?.value)
  const held = Math.max(window, 1)
  if (state && !causal) throw new Error(`${op}: a state belongs to causal sequences`)
  if (state) {
    checkFloat(op, state.key, state.value)
    match(op, { 'the key of the state': [B, held, D] }, { 'the key of the state': state.key.shape })
    match(op, { 'the value of the state': [B, held, D] }, { 'the value of the state': state.value.shape })
    if (state.position.length !== B) throw new Error(`${op}: the state has positions for ${state.position.length} rows, k has ${B}`)
  }
  const past = state ? held : 0
  const placed = () => placesOf(B, T, past, state?.position, mask, reset)
  const { places } = placed()
  const longest = places.reduce((a, b) => Math.max(a, b), -1) + 1
  const extended = bias !== undefined && 'table' in bias && bias.extended === true
  if (extended && !causal) throw new Error(`${op}: a table is extended for causal sequences only`)
  if (kind === 'table' && longest > N && !extended)
    throw new Error(
      `${op}: a sequence has ${longest} tokens so far, and the table has biases for ${N} (a larger table, one that is extended, or taps go further)`,
    )
  const keys = state ? concat([state.key, k], 1) : k
  const values = state ? concat([state.value, v], 1) : v
  const { y } = read(keys, values, w, () => placed().places, { B, n: past + T, past, D, window, causal, bias: kind, N })
  return { y, state: causal ? carried(keys, values, placed, held) : undefined }
}

/** How the kernel wants a bias, and how far it reaches. */
function weightsOf(op: string, bias: AftBias | undefined, D: number, causal: boolean, window: number | undefined) {
  if (window !== undefined && !(Number.isInteger(window) && window >= 0))
    throw new Error(`${op}: the window must be a number of places, 0 or more, not ${window}`)
  if (!bias) {
    if (window) throw new Error(`${op}: a window of ${window} means nothing without a bias`)
    return { kind: 'none', w: undefined, window: 0, N: 0 } as const
  }
  if ('table' in bias) {
    checkFloat(op, bias.table)
    const { N } = match(op, { table: ['N', 'N'] }, { table: bias.table.shape })
    // Within a window of 0 there is nothing for the table to say: its gradient is 0.
    return { kind: window === 0 ? 'none' : 'table', w: bias.table, window: Math.min(window ?? N, N), N } as const
  }
  checkFloat(op, bias.taps)
  const { H, W } = match(op, { taps: ['H', 'W'] }, { taps: bias.taps.shape })
  const reach = causal ? W : (W + 1) / 2
  if (H < 1 || D % H !== 0) throw new Error(`${op}: taps of ${H} heads can't be shared by ${D} channels`)
  if (!Number.isInteger(reach) || W < 1)
    throw new Error(`${op}: ${W} taps; where it isn't causal there are 2 s - 1, the middle one for the query's own key`)
  if (window !== undefined && window !== reach) throw new Error(`${op}: ${W} taps reach ${reach} places, and the window is ${window}`)
  const taps = reshape(expand(reshape(permute(bias.taps, [1, 0]), [W, H, 1]), [W, H, D / H]), [W, D])
  return { kind: 'taps', w: taps, window: reach, N: 0 } as const
}

/** The kernel as an op of two outputs, both with gradients. */
function read(k: Tensor, v: Tensor, w: Tensor | undefined, places: () => Int32Array, sizes: AftSizes): { y: Tensor; lse: Tensor } {
  const { B, n, past, D } = sizes
  const { device } = k
  const { kernels } = device
  const at = varying(places, { shape: [B, n], dtype: 'int32', device })
  const y = empty([B, n - past, D], device)
  const lse = empty([B, n - past, D], device)
  const bias = sizes.bias === 'none' ? null : w!.storage
  kernels.aft(k.storage, v.storage, bias, at.storage, y.storage, lse.storage, sizes)
  recordMany('aft', w ? [k, v, w] : [k, v], [y, lse], ([dy, dlse]) => {
    const [dk, dv, dw] = [like(k), like(v), w && (bias ? like(w) : zeros(w.shape, device))]
    const cotangents = { dy: (dy ?? full(y.shape, 0, device)).storage, dlse: dlse?.storage ?? null }
    const gradients = { dk: dk.storage, dv: dv.storage, dw: bias && dw!.storage }
    kernels.aftBackward(k.storage, v.storage, bias, at.storage, { y: y.storage, lse: lse.storage }, cotangents, gradients, sizes)
    return dw ? [dk, dv, dw] : [dk, dv]
  })
  return { y, lse }
}

interface Placed {
  places: Int32Array
  next: Int32Array
}

/** The place of each row in its sequence, -1 at padding, and of the `past` rows before, which end at `position`, below 0 where nothing has been; where each row goes on. */
function placesOf(B: number, T: number, past: number, position: Int32Array | undefined, mask?: Tensor, reset?: Tensor): Placed {
  const n = past + T
  const places = new Int32Array(B * n)
  const next = position ? Int32Array.from(position) : new Int32Array(B)
  for (let b = 0; b < B; b++) {
    for (let i = 0; i < past; i++) places[b * n + i] = next[b] - past + i
    for (let t = 0; t < T; t++) {
      if (reset?.indices?.[b * T + t] === 1) next[b] = 0
      places[b * n + past + t] = mask?.indices?.[b * T + t] === 0 ? -1 : next[b]++
    }
  }
  return { places, next }
}

/** Of a key that weighs nothing beside any other. */
const nothing = -1e30

/** The state after rows of these places: the last `held` - 1 tokens of each row's last sequence, and one key and value for all before them. */
function carried(keys: Tensor, values: Tensor, placed: () => Placed, held: number): AftState {
  const [B, n, D] = keys.shape
  const { device } = keys
  const recent = held - 1
  const kept = () => keptOf(placed(), B, n, recent)
  const one = (value: number): Tensor => full([B, 1, D], value, device)
  const sizes: AftSizes = { B, n: n + 1, past: n, D, window: 0, causal: true, bias: 'none', N: 0 }
  const all = read(concat([keys, one(nothing)], 1), concat([values, one(0)], 1), undefined, () => kept().older, sizes)
  const pick = picker(kept().rows, B, n, recent)
  return { key: concat([all.lse, pick(keys)], 1), value: concat([all.y, pick(values)], 1), position: placed().next }
}

/** Which rows of n are kept as they are, [B,recent], -1 for none, and the places of those that are put together, [B,n+1], -1 elsewhere. */
function keptOf({ places, next: position }: Placed, B: number, n: number, recent: number): { older: Int32Array; rows: Int32Array } {
  const older = new Int32Array(B * (n + 1)).fill(-1)
  const rows = new Int32Array(B * recent).fill(-1)
  for (let b = 0; b < B; b++) {
    for (let i = n - 1, begun = false; i >= 0 && !begun; i--) {
      const place = places[b * n + i]
      if (place < 0) continue
      if (place < position[b] - recent) older[b * (n + 1) + i] = place
      else rows[b * recent + place - position[b] + recent] = i
      begun = place === 0
    }
    older[b * (n + 1) + n] = position[b]
  }
  return { older, rows }
}

/** Takes these rows of each row of x [B,n,D], any for -1: [B,count,D]. Without packing they are its last ones. */
function picker(rows: Int32Array, B: number, n: number, count: number): (x: Tensor) => Tensor {
  const there = Math.min(count, n)
  if (rows.every((row, i) => row < 0 || row === n - count + (i % count)))
    return (x) => concat([zeros([B, count - there, x.shape[2]], x.device), slice(x, 1, n - there, n)], 1)
  const index = rows.map((row, i) => (row < 0 ? 0 : 1 + Math.floor(i / count) * n + row))
  return (x) => {
    const table = concat([zeros([1, x.shape[2]], x.device), reshape(x, [B * n, x.shape[2]])], 0)
    return gather(table, tensor(index, { shape: [B, count], device: x.device }))
  }
}
