/**
 * Softmax attention whose keys and values come from a few numbers a token (DeepSeek-V2, 2024, section 2.1): heads have keys of n channels from there, and r more
 * that all of them share and that alone may turn by their position.
 */
import { expand, mul } from '../engine/ops/elementwise.ts'
import { concat, reshape, split } from '../engine/ops/movement.ts'
import type { Generator } from '../engine/random.ts'
import type { Tensor } from '../engine/tensor.ts'
import { checkFields, checkKnown, defaultsOf, type Fields, withDefaults } from './fields.ts'
import { type AttentionOptions, checkInput } from './heads.ts'
import { Linear, RMSNorm } from './layers.ts'
import type { Look } from './mixer.ts'
import { Module } from './module.ts'
import { atTokens, checkPacking, places } from './packing.ts'
import type { Parts } from './parts.ts'
import { givenMemory, type KeyValueState } from './room.ts'
import { rotary } from './rotary.ts'
import { attend, keyValueParts } from './softmax-attention.ts'

/** Settings of a `LatentAttention` layer. */
export interface LatentSettings {
  heads: number
  /** n, channels of a head's keys that are its own. */
  ownWidth: number
  /** r, channels of a key that all heads share. */
  sharedWidth: number
  /** V of a head. */
  valueWidth: number
  /** Numbers a token that keys and values are made of. */
  rank: number
  /** Numbers a token that queries are made of; 0: directly from the input. */
  queryRank: number
  /** Base of rotary positions of the r channels, pairs side by side; 0 for none. */
  base: number
  /** Of the norms of what has few numbers. */
  normEps: number
  /** Biases of the projections that read x, and of the output layer. */
  bias: boolean
  /** Multiply each head's output by sigmoid(x w^T). */
  gate: boolean
}

const count = (description: string, initial: number, min = 1) => ({ type: 'integer', min, default: initial, description }) as const
const fields: Fields<LatentSettings> = {
  heads: count('heads', 8),
  ownWidth: count("channels of a head's own keys", 64),
  sharedWidth: count('channels of keys that heads share', 32),
  valueWidth: count('V of a head', 64),
  rank: count('numbers that keys and values are made of', 64),
  queryRank: count('numbers that queries are made of; 0: directly', 0, 0),
  base: { type: 'number', min: 0, default: 0, description: 'base of rotary positions; 0 for none' },
  normEps: { type: 'number', min: 0, default: 1e-6, description: 'eps of the norms within' },
  bias: { type: 'boolean', default: false, description: 'biases' },
  gate: { type: 'boolean', default: false, description: 'a gate for each head' },
}
/** The settings of a `LatentAttention` layer of which nothing is said. */
export const latentDefaults: LatentSettings = defaultsOf(fields)

export class LatentAttention extends Module {
  /** D to heads of n + r; or to `queryRank` numbers, and from there. */
  query: Linear
  query_norm: RMSNorm | null
  query_up: Linear | null
  /** D to the latent numbers and the shared part of keys. */
  latent: Linear
  latent_norm: RMSNorm
  /** From the latent numbers to each head's n channels of keys, and V of values. */
  up: Linear
  gate: Linear | null
  output: Linear
  config: LatentSettings & { dModel: number }

  constructor(config: Partial<LatentSettings> & { dModel: number }, g: Generator) {
    super()
    const c = withDefaults(latentDefaults, config)
    checkKnown(c, ['dModel', ...Object.keys(fields)])
    checkFields(c, fields)
    this.config = c
    const { dModel: D, heads: H, ownWidth: n, sharedWidth: r, valueWidth: V, rank, queryRank, bias } = c
    const wide = H * (n + r)
    this.query = new Linear(D, queryRank || wide, g, { bias: queryRank > 0 && bias })
    this.query_norm = queryRank > 0 ? new RMSNorm(queryRank, c.normEps) : null
    this.query_up = queryRank > 0 ? new Linear(queryRank, wide, g, { bias: false }) : null
    this.latent = new Linear(D, rank + r, g, { bias })
    this.latent_norm = new RMSNorm(rank, c.normEps)
    this.up = new Linear(rank, H * (n + V), g, { bias: false })
    this.gate = c.gate ? new Linear(D, H, g, { bias: false }) : null
    this.output = new Linear(H * V, D, g, { bias })
  }

  /** x: [B,T,D]. What x and `accumulate` hold at padding is never looked at, and y is 0 there. */
  forward(given: Tensor, state: Partial<KeyValueState> = {}, options: AttentionOptions = {}): { y: Tensor; state: KeyValueState } {
    const { dModel, heads: H, valueWidth: V, base } = this.config
    const { B, T } = checkInput(given, dModel)
    const packing = checkPacking('attention', options, B, T, ['accumulate'])
    const x = atTokens(given, packing)
    const before = givenMemory(state, this.stateParts(B), B)
    const placed = () => places(packing, B, T, before?.position)
    const { y: read, state: after } = attend(
      this.inputs(x, () => placed().at),
      before,
      packing,
    )
    const y = this.gate ? mul(read, reshape(this.gate.forward(x, { activation: 'sigmoid' }), [B, T, H, 1])) : read
    return {
      y: atTokens(this.output.forward(reshape(y, [B, T, H * V]), { accumulate: options.accumulate }), packing),
      state: { ...after, ...(base > 0 && { position: placed().next }) },
    }
  }

  private inputs(x: Tensor, at: () => Int32Array): Record<'q' | 'k' | 'v', Tensor> {
    const { heads: H, ownWidth: n, sharedWidth: r, valueWidth: V, rank, base } = this.config
    const [B, T] = x.shape
    const low = this.query.forward(x)
    const q = reshape(this.query_up ? this.query_up.forward(this.query_norm!.forward(low)) : low, [B, T, H, n + r])
    const [latent, common] = split(this.latent.forward(x), 2, [rank, r])
    const [k, v] = split(reshape(this.up.forward(this.latent_norm.forward(latent)), [B, T, H, n + V]), 3, [n, V])
    const turned = (y: Tensor): Tensor => (base > 0 ? rotary(y, at, { base, paired: true }) : y)
    const [own, mine] = split(q, 3, [n, r])
    const shared = expand(turned(reshape(common, [B, T, 1, r])), [B, T, H, r])
    return { q: concat([own, turned(mine)], 3), k: concat([k, shared], 3), v }
  }

  /** See `Look`. */
  look(x: Tensor): Look {
    const { B, T } = checkInput(x, this.config.dModel)
    const inputs = this.inputs(x, () => places({}, B, T).at)
    return { inputs, read: (v) => attend({ ...inputs, v }, undefined, {}).y }
  }

  /** See `Parts`. */
  stateParts(B: number): Parts {
    const { heads: H, ownWidth: n, sharedWidth: r, valueWidth: V, base } = this.config
    return { ...keyValueParts(B, H, n + r, V), ...(base > 0 && { position: { dtype: 'int32', shape: [B] } as const }) }
  }
}
