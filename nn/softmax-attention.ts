/** Softmax attention, the baseline: a memory of all keys and values, which grows with every token. */
import { softmaxAttention } from '../engine/ops/attention.ts'
import { affine } from '../engine/ops/elementwise.ts'
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

/** Causal multi-head softmax attention (Vaswani 2017), the baseline: y = softmax(q k^T / sqrt(K)) v. */
export class SoftmaxAttention extends Module {
  query: HeadProjection
  key: HeadProjection
  value: HeadProjection
  output: Linear
  heads: number
  positions: 'none' | 'rotary'

  constructor({ positions = 'none', ...config }: { dModel: number; heads: number; positions?: 'none' | 'rotary' }, g: Generator) {
    super()
    const { dModel } = config
    checkSoftmax({ ...config, positions })
    this.heads = config.heads
    this.positions = positions
    this.query = new HeadProjection(dModel, dModel, 0, g)
    this.key = new HeadProjection(dModel, dModel, 0, g)
    this.value = new HeadProjection(dModel, dModel, 0, g)
    this.output = new Linear(dModel, dModel, g)
  }

  /** What x and `accumulate` hold at padding is never looked at, and y is 0 there. */
  forward(given: Tensor, state: Partial<KeyValueState> = {}, options: AttentionOptions = {}): { y: Tensor; state: KeyValueState } {
    const { B, T, dModel: D } = checkInput(given, this.output.weight.shape[0])
    const K = D / this.heads
    const packing = checkPacking('attention', options, B, T, ['accumulate'])
    const x = atTokens(given, packing)
    const before = givenState('attention', state, this.stateParts(B), B) ? (state as KeyValueState) : undefined
    const { at, next } = places(packing, B, T, before?.position)
    const inputs = this.inputs(x, at)
    const q = timeInside(inputs.q)
    const own = { keys: timeInside(inputs.k), values: timeInside(inputs.v) }
    const keys = before ? concat([before.keys, own.keys], 2) : own.keys
    const values = before ? concat([before.values, own.values], 2) : own.values
    const { sees, visible } = sight(packing, B, T, before?.visible)
    const seen = sees && tensor(sees, { shape: [B, 1, T, sees.length / (B * T)], device: x.device })
    const y = softmaxAttention(affine(q, 1 / Math.sqrt(K)), keys, values, seen)
    return {
      y: atTokens(this.output.forward(reshape(timeInside(y), [B, T, D]), { accumulate: options.accumulate }), packing),
      state: { keys, values, visible, ...(this.positions === 'rotary' && { position: next }) },
    }
  }

  /** [B,T,H,K]. */
  private inputs(x: Tensor, at: Int32Array): Record<'q' | 'k' | 'v', Tensor> {
    const [B, T, D] = x.shape
    const split = (y: Tensor): Tensor => reshape(y, [B, T, this.heads, D / this.heads])
    const turned = (y: Tensor): Tensor => (this.positions === 'rotary' ? rotary(split(y), at) : split(y))
    return { q: turned(this.query.forward(x).y), k: turned(this.key.forward(x).y), v: split(this.value.forward(x).y) }
  }

  /** See `Look`. */
  look(x: Tensor): Look {
    const { B, T, dModel: D } = checkInput(x, this.output.weight.shape[0])
    const inputs = this.inputs(x, places({}, B, T).at)
    const [q, k] = [affine(timeInside(inputs.q), Math.sqrt(this.heads / D)), timeInside(inputs.k)]
    return { inputs, read: (v) => timeInside(softmaxAttention(q, k, timeInside(v))) }
  }

  /** See `Parts`. */
  stateParts(B: number): Parts {
    const keys = { dtype: 'float32', shape: [B, this.heads, -1, this.query.linear.weight.shape[0] / this.heads] } as const
    return {
      keys,
      values: keys,
      visible: { dtype: 'int32', shape: [B, -1] },
      ...(this.positions === 'rotary' && { position: { dtype: 'int32', shape: [B] } as const }),
    }
  }
}

/** Which of t earlier and T own keys each query sees, 1 in [B,T,t+T] (undefined: all up to itself; padding: none); and which ones stay visible. */
function sight(
  { mask, reset }: Packing,
  B: number,
  T: number,
  before: Int32Array = new Int32Array(0),
): { sees: Int32Array | undefined; visible: Int32Array } {
  const t0 = before.length / B
  const n = t0 + T
  const visible = new Int32Array(B * n)
  const packed = mask || reset || before.includes(0)
  const sees = packed ? new Int32Array(B * T * n) : undefined
  for (let b = 0; b < B; b++) {
    const row = visible.subarray(b * n, (b + 1) * n)
    row.set(before.subarray(b * t0, (b + 1) * t0))
    for (let t = 0; t < T; t++) {
      const i = b * T + t
      if (reset?.indices?.[i] === 1) row.fill(0)
      row[t0 + t] = mask ? mask.indices![i] : 1
      if (row[t0 + t]) sees?.set(row, i * n)
    }
  }
  return { sees, visible }
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
