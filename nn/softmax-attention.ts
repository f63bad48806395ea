/** Softmax attention, the baseline: a memory of all keys and values, which grows with every token. */
import { checkNumber, checkOptions } from '../engine/arguments.ts'
import { softmaxAttention } from '../engine/ops/attention.ts'
import { affine, expand } from '../engine/ops/elementwise.ts'
import { concat, reshape } from '../engine/ops/movement.ts'
import type { Generator } from '../engine/random.ts'
import { type Tensor, tensor } from '../engine/tensor.ts'
import { checkFields, type Fields } from './fields.ts'
import { type AttentionOptions, checkHeads, checkInput, HeadProjection, headsField, rotaryField, timeInside } from './heads.ts'
import { Linear } from './layers.ts'
import type { Look, Mixer } from './mixer.ts'
import { Module } from './module.ts'
import { atTokens, checkPacking, type Packing, places } from './packing.ts'
import { givenState, type Parts } from './parts.ts'
import { rotary } from './rotary.ts'

export interface KeyValueState {
  /** [B,H,t,K]: grows with every token, unlike fast weights. */
  keys: Tensor
  values: Tensor
  /** [B,t]: 0 where a key is padding, or of a sequence that has ended. */
  visible: Int32Array
  /** With rotary positions, the next one of each row, [B]. */
  position?: Int32Array
}

/** What the layers of other packages have beside its settings (nn/pretrained). */
export interface SoftmaxOptions {
  /** G heads of keys and values, a divisor of `heads`: each serves H / G of queries. 0: as many. */
  keyHeads?: number
  /** K of a head; 0 for D / H. */
  headWidth?: number
  /** A query sees so many tokens, the present one included; 0: all. */
  window?: number
  /** Biases of queries, keys and values; of the output layer (there by default). */
  bias?: boolean
  outputBias?: boolean
  /** Of rotary positions, 10000 by default. */
  base?: number
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

const softmaxOptions: Required<SoftmaxOptions> = { keyHeads: 0, headWidth: 0, window: 0, bias: false, outputBias: true, base: 10000 }

/** Causal multi-head softmax attention (Vaswani 2017), the baseline: y = softmax(q k^T / sqrt(K)) v. */
export class SoftmaxAttention extends Module {
  query: HeadProjection
  key: HeadProjection
  value: HeadProjection
  output: Linear
  heads: number
  positions: 'none' | 'rotary'
  private options: Required<SoftmaxOptions>

  constructor(
    { dModel, heads, positions = 'none', ...more }: SoftmaxOptions & { dModel: number; heads: number; positions?: 'none' | 'rotary' },
    g: Generator,
  ) {
    super()
    const o = { ...softmaxOptions, ...more }
    checkOptions('SoftmaxAttention', more, Object.keys(softmaxOptions))
    if (o.headWidth === 0) checkSoftmax({ dModel, heads, positions })
    const [K, G] = [o.headWidth || dModel / heads, o.keyHeads || heads]
    if (heads % G !== 0) throw new Error(`keyHeads must be 0 or a divisor of the ${heads} heads, not ${G}`)
    checkNumber('window', o.window, 'an integer, 0 or more')
    this.heads = heads
    this.positions = positions
    this.options = o
    this.query = new HeadProjection(dModel, heads * K, 0, g, o)
    this.key = new HeadProjection(dModel, G * K, 0, g, o)
    this.value = new HeadProjection(dModel, G * K, 0, g, o)
    this.output = new Linear(heads * K, dModel, g, { bias: o.outputBias })
  }

  /** What x and `accumulate` hold at padding is never looked at, and y is 0 there. */
  forward(given: Tensor, state: Partial<KeyValueState> = {}, options: AttentionOptions = {}): { y: Tensor; state: KeyValueState } {
    const { B, T } = checkInput(given, this.output.weight.shape[0])
    const packing = checkPacking('attention', options, B, T, ['accumulate'])
    const x = atTokens(given, packing)
    const before = givenState('attention', state, this.stateParts(B), B) ? (state as KeyValueState) : undefined
    const { at, next } = places(packing, B, T, before?.position)
    const inputs = this.inputs(x, at)
    const q = timeInside(inputs.q)
    const own = { keys: timeInside(inputs.k), values: timeInside(inputs.v) }
    const keys = before ? concat([before.keys, own.keys], 2) : own.keys
    const values = before ? concat([before.values, own.values], 2) : own.values
    const { sees, visible } = sight(packing, B, T, this.options.window, before?.visible)
    const seen = sees && tensor(sees, { shape: [B, 1, T, sees.length / (B * T)], device: x.device })
    const y = timeInside(softmaxAttention(affine(q, 1 / Math.sqrt(q.shape[3])), this.shared(keys), this.shared(values), seen))
    return {
      y: atTokens(this.output.forward(reshape(y, [B, T, this.heads * y.shape[3]]), { accumulate: options.accumulate }), packing),
      state: { keys, values, visible, ...(this.positions === 'rotary' && { position: next }) },
    }
  }

  /** [B,T,H,K]. */
  private inputs(x: Tensor, at: Int32Array): Record<'q' | 'k' | 'v', Tensor> {
    const [B, T] = x.shape
    const K = this.query.linear.weight.shape[0] / this.heads
    const { base } = this.options
    const split = (y: Tensor): Tensor => reshape(y, [B, T, y.shape[2] / K, K])
    const turned = (y: Tensor): Tensor => (this.positions === 'rotary' ? rotary(split(y), at, { base }) : split(y))
    return { q: turned(this.query.forward(x).y), k: turned(this.key.forward(x).y), v: split(this.value.forward(x).y) }
  }

  /** [B,G,t,K] -> [B,H,t,K]: what a head of keys or values serves stands together. */
  private shared(x: Tensor): Tensor {
    const [B, G, t, K] = x.shape
    return G === this.heads ? x : reshape(expand(reshape(x, [B, G, 1, t, K]), [B, G, this.heads / G, t, K]), [B, this.heads, t, K])
  }

  /** See `Look`. */
  look(x: Tensor): Look {
    const { B, T } = checkInput(x, this.output.weight.shape[0])
    const inputs = this.inputs(x, places({}, B, T).at)
    const [q, k] = [affine(timeInside(inputs.q), 1 / Math.sqrt(inputs.q.shape[3])), this.shared(timeInside(inputs.k))]
    const { sees } = sight({}, B, T, this.options.window)
    const seen = sees && tensor(sees, { shape: [B, 1, T, T], device: x.device })
    return { inputs, read: (v) => timeInside(softmaxAttention(q, k, this.shared(timeInside(v)), seen)) }
  }

  /** See `Parts`. */
  stateParts(B: number): Parts {
    const K = this.query.linear.weight.shape[0] / this.heads
    const keys = { dtype: 'float32', shape: [B, this.key.linear.weight.shape[0] / K, -1, K] } as const
    return {
      keys,
      values: keys,
      visible: { dtype: 'int32', shape: [B, -1] },
      ...(this.positions === 'rotary' && { position: { dtype: 'int32', shape: [B] } as const }),
    }
  }
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
