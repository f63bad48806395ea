/** Softmax attention, the baseline: a memory of all keys and values, which grows with every token. */
import { checkNumber, checkOptions } from '../engine/arguments.ts'
import { softmaxAttention } from '../engine/ops/attention.ts'
import { affine, expand, mul } from '../engine/ops/elementwise.ts'
import { concat, reshape } from '../engine/ops/movement.ts'
import type { Generator } from '../engine/random.ts'
import { type Tensor, tensor } from '../engine/tensor.ts'
import { checkFields, type Fields, withDefaults } from './fields.ts'
import { type AttentionOptions, checkHeads, checkInput, HeadProjection, headsField, rotaryField, timeInside } from './heads.ts'
import { HeadNorm, type HeadNormOptions, Linear } from './layers.ts'
import type { Look, Mixer } from './mixer.ts'
import { Module } from './module.ts'
import { atTokens, checkPacking, type Packing, places } from './packing.ts'
import type { Parts } from './parts.ts'
import { attendInRoom, givenMemory, type KeyValueState } from './room.ts'
import { rotary } from './rotary.ts'

/** What the layers of other packages have beside its settings (nn/pretrained). */
export interface SoftmaxOptions {
  /** G heads of keys and values, a divisor of `heads`: each serves H / G of queries. 0: as many. */
  keyHeads?: number
  /** K of a head; 0 for D / H. */
  headWidth?: number
  /** A query sees so many tokens, the present one included; 0: all. */
  window?: number
  /** Biases of queries, keys and values. */
  bias?: boolean
  /** A bias of the output layer; there by default. */
  outputBias?: boolean
  /** Of rotary positions, 10000 by default. */
  base?: number
  /** How many channels of a head turn; 0 for all. */
  rotaryWidth?: number
  /** RMS norm of queries and keys, before positions; null for none. */
  headNorm?: HeadNormOptions | null
  /** Multiply what is read by sigmoid(x W^T). */
  gate?: boolean
}

/** Its settings. */
export interface SoftmaxSettings {
  heads: number
  /** `rotary` turns queries and keys by their position. */
  positions: 'none' | 'rotary'
}

const fields: Fields<SoftmaxSettings> = { heads: headsField, positions: rotaryField }

function checkSoftmax(c: SoftmaxSettings & { dModel: number }): void {
  checkHeads(c.dModel, c.heads)
  checkFields(c, fields)
}

const softmaxOptions: Required<SoftmaxOptions> = {
  keyHeads: 0,
  headWidth: 0,
  window: 0,
  bias: false,
  outputBias: true,
  base: 10000,
  rotaryWidth: 0,
  headNorm: null,
  gate: false,
}

/** Causal multi-head softmax attention (Vaswani 2017), the baseline: y = softmax(q k^T / sqrt(K)) v. */
export class SoftmaxAttention extends Module {
  query: HeadProjection
  key: HeadProjection
  value: HeadProjection
  query_norm: HeadNorm | null
  key_norm: HeadNorm | null
  gate: Linear | null
  output: Linear
  heads: number
  positions: 'none' | 'rotary'
  private options: Required<SoftmaxOptions>

  constructor(
    { dModel, heads, positions = 'none', ...more }: SoftmaxOptions & { dModel: number; heads: number; positions?: 'none' | 'rotary' },
    g: Generator,
  ) {
    super()
    const o = withDefaults(softmaxOptions, more)
    checkOptions('SoftmaxAttention', more, Object.keys(softmaxOptions))
    if (o.headWidth === 0) checkSoftmax({ dModel, heads, positions })
    const [K, G] = [o.headWidth || dModel / heads, o.keyHeads || heads]
    if (heads % G !== 0) throw new Error(`keyHeads must be 0 or a divisor of the ${heads} heads, not ${G}`)
    checkNumber('window', o.window, 'an integer, 0 or more')
    this.heads = heads
    this.positions = positions
    this.options = o
    const { bias } = o
    this.query = new HeadProjection(dModel, heads * K, 0, g, { bias })
    this.key = new HeadProjection(dModel, G * K, 0, g, { bias })
    this.value = new HeadProjection(dModel, G * K, 0, g, { bias })
    this.query_norm = o.headNorm ? new HeadNorm(heads, K, o.headNorm) : null
    this.key_norm = o.headNorm ? new HeadNorm(G, K, o.headNorm) : null
    this.gate = o.gate ? new Linear(dModel, heads * K, g, { bias }) : null
    this.output = new Linear(heads * K, dModel, g, { bias: o.outputBias })
  }

  /** What x and `accumulate` hold at padding is never looked at, and y is 0 there. */
  forward(given: Tensor, state: Partial<KeyValueState> = {}, options: AttentionOptions = {}): { y: Tensor; state: KeyValueState } {
    const { B, T } = checkInput(given, this.output.weight.shape[0])
    const packing = checkPacking('attention', options, B, T, ['accumulate'])
    const x = atTokens(given, packing)
    const before = givenMemory(state, this.stateParts(B), B)
    const placed = () => places(packing, B, T, before?.position)
    const { y: read, state: after } = attend(
      this.inputs(x, () => placed().at),
      before,
      packing,
      this.options.window,
    )
    const joined = reshape(read, [B, T, read.shape[2] * read.shape[3]])
    const y = this.gate ? mul(joined, this.gate.forward(x, { activation: 'sigmoid' })) : joined
    return {
      y: atTokens(this.output.forward(y, { accumulate: options.accumulate }), packing),
      state: { ...after, ...(this.positions === 'rotary' && { position: placed().next }) },
    }
  }

  /** [B,T,H,K]. */
  private inputs(x: Tensor, at: () => Int32Array): Record<'q' | 'k' | 'v', Tensor> {
    const [B, T] = x.shape
    const K = this.query.linear.weight.shape[0] / this.heads
    const { base, rotaryWidth } = this.options
    const split = (y: Tensor): Tensor => reshape(y, [B, T, y.shape[2] / K, K])
    const turned = (y: Tensor): Tensor => (this.positions === 'rotary' ? rotary(y, at, { base, width: rotaryWidth || K }) : y)
    const normed = (y: Tensor, norm: HeadNorm | null): Tensor => (norm ? norm.forward(y) : y)
    return {
      q: turned(normed(split(this.query.forward(x).y), this.query_norm)),
      k: turned(normed(split(this.key.forward(x).y), this.key_norm)),
      v: split(this.value.forward(x).y),
    }
  }

  /** See `Look`. */
  look(x: Tensor): Look {
    const { B, T } = checkInput(x, this.output.weight.shape[0])
    const inputs = this.inputs(x, () => places({}, B, T).at)
    return { inputs, read: (v) => attend({ ...inputs, v }, undefined, {}, this.options.window).y }
  }

  /** See `Parts`. */
  stateParts(B: number): Parts {
    const K = this.query.linear.weight.shape[0] / this.heads
    const G = this.key.linear.weight.shape[0] / K
    return {
      ...keyValueParts(B, G, K, K),
      ...(this.positions === 'rotary' && { position: { dtype: 'int32', shape: [B] } as const }),
    }
  }
}

/** The parts of a memory of keys and values, G of each a token. */
export const keyValueParts = (B: number, G: number, K: number, V: number) =>
  ({
    keys: { dtype: 'float32', shape: [B, G, -1, K] },
    values: { dtype: 'float32', shape: [B, G, -1, V] },
    visible: { dtype: 'int32', shape: [B, -1] },
  }) as const

/**
 * Softmax attention of a piece of sequences, after what came before: q [B,T,H,K], k [B,T,G,K], v [B,T,G,V], of which the scores are q . k / sqrt(K) and each of G
 * serves H / G heads of queries that stand together -> y [B,T,H,V]. A query sees `window` tokens, itself included; 0: all.
 */
export function attend(
  inputs: Record<'q' | 'k' | 'v', Tensor>,
  before: Pick<KeyValueState, 'keys' | 'values' | 'visible' | 'used'> | undefined,
  packing: Packing,
  window = 0,
): { y: Tensor; state: Pick<KeyValueState, 'keys' | 'values' | 'visible' | 'used'> } {
  if (before?.used) return attendInRoom(inputs, before, packing, window)
  const [B, T, H, K] = inputs.q.shape
  const own = { keys: timeInside(inputs.k), values: timeInside(inputs.v) }
  const keys = before ? concat([before.keys, own.keys], 2) : own.keys
  const values = before ? concat([before.values, own.values], 2) : own.values
  const { sees, visible } = sight(packing, B, T, window, before?.visible)
  const seen = sees && tensor(sees, { shape: [B, 1, T, sees.length / (B * T)], device: inputs.q.device })
  const q = affine(timeInside(inputs.q), 1 / Math.sqrt(K))
  return { y: timeInside(softmaxAttention(q, shared(keys, H), shared(values, H), seen)), state: { keys, values, visible } }
}

/** [B,G,t,K] -> [B,H,t,K]. */
function shared(x: Tensor, H: number): Tensor {
  const [B, G, t, K] = x.shape
  return G === H ? x : reshape(expand(reshape(x, [B, G, 1, t, K]), [B, G, H / G, t, K]), [B, H, t, K])
}

/**
 * Which of t earlier and T own keys each query sees, 1 in [B,T,t+T] (undefined: all up to itself; padding: none); and which ones stay visible. Of those that are
 * visible a window leaves a query the last so many, its own included; 0: all.
 */
function sight(
  { mask, reset }: Packing,
  B: number,
  T: number,
  window: number,
  before: Int32Array = new Int32Array(0),
): { sees: Int32Array | undefined; visible: Int32Array } {
  const t0 = before.length / B
  const n = t0 + T
  const visible = new Int32Array(B * n)
  const packed = mask || reset || before.includes(0) || (window > 0 && n > window)
  const sees = packed ? new Int32Array(B * T * n) : undefined
  for (let b = 0; b < B; b++) {
    const row = visible.subarray(b * n, (b + 1) * n)
    row.set(before.subarray(b * t0, (b + 1) * t0))
    for (let t = 0; t < T; t++) {
      const i = b * T + t
      if (reset?.indices?.[i] === 1) row.fill(0)
      row[t0 + t] = mask ? mask.indices![i] : 1
      if (row[t0 + t]) sees?.set(newest(row, window), i * n)
    }
  }
  return { sees, visible }
}

/** The flags with the last `window` of those that are set; all, where there is no window. */
function newest(flags: Int32Array, window: number): Int32Array {
  if (window === 0) return flags
  let left = window
  return flags.map((_, i, all) => (all[all.length - 1 - i] !== 0 && left-- > 0 ? 1 : 0)).reverse()
}

export const softmax: Mixer<SoftmaxSettings, SoftmaxAttention> = {
  title: 'softmax attention',
  description: 'the baseline: a memory of all keys and values, which grows with every token',
  source: 'Vaswani 2017',
  fields,
  check: checkSoftmax,
  make: (c, g) => new SoftmaxAttention(c, g),
  blind: ({ positions }) => positions === 'none',
}
