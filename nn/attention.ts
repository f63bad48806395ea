/**
 * Sequence layers: [B,T,D] -> [B,T,D], with a state that carries everything an earlier piece of the sequence left behind, so that
 * a sequence can be run whole, in pieces, or token by token with the same weights and the same result.
 */
import { affine, elu, sigmoid, silu } from '../engine/ops/elementwise.ts'
import type { FastWeightState } from '../engine/ops/fast-weights.ts'
import { matmul } from '../engine/ops/matmul.ts'
import { concat, permute, reshape } from '../engine/ops/movement.ts'
import { l2Norm, softmax, sumNorm } from '../engine/ops/norm.ts'
import { causalConv, dpfp } from '../engine/ops/sequence.ts'
import { type Generator, uniform } from '../engine/random.ts'
import { deltaRule } from '../engine/rules/delta.ts'
import { sumRule } from '../engine/rules/sum.ts'
import { parameter, type Tensor } from '../engine/tensor.ts'
import { Linear, RMSNorm } from './layers.ts'
import { Module } from './module.ts'

/** Feature maps phi for queries and keys; each keeps [..., K] -> [..., K'] and says how wide K' is. */
export const featureMaps = {
  identity: { width: (K: number) => K, map: (x: Tensor) => x },
  /** elu(x) + 1 > 0 (Katharopoulos 2020). */
  elu1: { width: (K: number) => K, map: (x: Tensor) => affine(elu(x), 1, 1) },
  silu: { width: (K: number) => K, map: (x: Tensor) => silu(x) },
  /** Schlag 2021, eq. 37. */
  dpfp: { width: (K: number, nu: number) => 2 * K * nu, map: (x: Tensor, nu: number) => dpfp(x, nu) },
} satisfies Record<string, { width: (K: number, nu: number) => number; map: (x: Tensor, nu: number) => Tensor }>
export type FeatureMap = keyof typeof featureMaps

/** Normalisations of mapped queries and keys: sum x / (sum(x) + 1e-6), l2 x / sqrt(sum(x^2) + 1e-6). */
export const featureNorms = { none: (x: Tensor) => x, sum: (x: Tensor) => sumNorm(x, 1e-6), l2: (x: Tensor) => l2Norm(x, 1e-6) }
export type FeatureNorm = keyof typeof featureNorms

export interface FastWeightsAttentionConfig {
  dModel: number
  heads: number
  rule: 'delta' | 'sum'
  /** Divide the sum rule's output by z . q + 1e-6. */
  normalise: boolean
  featureMap: FeatureMap
  /** For dpfp. */
  nu: number
  featureNorm: FeatureNorm
  /** Applied to the values. */
  valueMap: 'identity' | 'silu'
  /** Taps of a causal depthwise convolution on queries, keys and values; 0 for none. */
  conv: number
  /** RMS-normalise each head's output, with a gain for each channel of a head. */
  headNorm: boolean
  /** C of the chunkwise form. */
  chunk: number
}

export const fastWeightsAttentionDefaults = {
  rule: 'delta',
  normalise: false,
  featureMap: 'dpfp',
  nu: 1,
  featureNorm: 'sum',
  valueMap: 'identity',
  conv: 0,
  headNorm: false,
  chunk: 32,
} as const satisfies Partial<FastWeightsAttentionConfig>

/** Throws unless the settings make sense, so that a constructor allocates nothing that it can't finish. */
export function checkAttention(c: FastWeightsAttentionConfig): void {
  checkHeads(c.dModel, c.heads)
  if (!Object.hasOwn(featureMaps, c.featureMap))
    throw new Error(`unknown feature map '${c.featureMap}' (${Object.keys(featureMaps).join(', ')})`)
  if (!Object.hasOwn(featureNorms, c.featureNorm))
    throw new Error(`unknown feature norm '${c.featureNorm}' (${Object.keys(featureNorms).join(', ')})`)
  if (c.valueMap !== 'identity' && c.valueMap !== 'silu') throw new Error(`unknown value map '${c.valueMap}' (identity, silu)`)
  if (c.rule !== 'delta' && c.rule !== 'sum') throw new Error(`unknown rule '${c.rule}' (delta, sum)`)
  if (c.normalise && c.rule !== 'sum') throw new Error('normalise belongs to the sum rule: the delta rule has no normaliser')
  if (!(Number.isInteger(c.conv) && c.conv >= 0)) throw new Error(`conv must be a number of taps, 0 or more, not ${c.conv}`)
  if (!(Number.isInteger(c.chunk) && c.chunk > 0)) throw new Error(`chunk must be a positive integer, not ${c.chunk}`)
  const most = 2 * (c.dModel / c.heads) - 1
  if (c.featureMap === 'dpfp' && !(Number.isInteger(c.nu) && c.nu >= 1 && c.nu <= most))
    throw new Error(`nu must be an integer from 1 to 2 K - 1 = ${most} for heads of width K, not ${c.nu}`)
}

/** Named as in labml: PrepareForMultiHeadAttention, without the bias, and with an optional short convolution after it. */
class HeadProjection extends Module {
  linear: Linear
  /** [D, W], U(-1/sqrt(W), 1/sqrt(W)) as in torch.nn.Conv1d with groups = D. */
  conv: Tensor | null

  constructor(inputs: number, outputs: number, taps: number, g: Generator) {
    super()
    this.linear = new Linear(inputs, outputs, g, { bias: false })
    const bound = 1 / Math.sqrt(taps)
    this.conv = taps > 0 ? parameter(uniform(g, [outputs, taps], -bound, bound)) : null
  }

  forward(x: Tensor, state?: Tensor): { y: Tensor; state?: Tensor } {
    const y = this.linear.forward(x)
    return this.conv ? causalConv(y, this.conv, state) : { y }
  }
}

/** The fast weights, and what each convolution last saw [B,W-1,D]. */
export interface AttentionState extends Partial<FastWeightState> {
  query?: Tensor
  key?: Tensor
  value?: Tensor
}

export function checkHeads(dModel: number, heads: number): void {
  if (!(Number.isInteger(dModel) && dModel > 0)) throw new Error(`dModel must be a positive integer, not ${dModel}`)
  if (!(Number.isInteger(heads) && heads > 0)) throw new Error(`heads must be a positive integer, not ${heads}`)
  if (dModel % heads !== 0) throw new Error(`${heads} heads don't divide dModel = ${dModel}`)
}

/**
 * Fast-weight attention. The slow weights project x to queries, keys, values and write strengths beta; the recurrence writes the
 * keys and values into each head's fast weights and reads them with the queries; the output layer mixes the heads.
 * With its defaults it is labml's FastWeightsAttention, parameter names included.
 */
export class FastWeightsAttention extends Module {
  query: HeadProjection
  key: HeadProjection
  value: HeadProjection
  /** beta = sigmoid(x W^T), one for each head; absent for the sum rule. */
  interpolation_weight: HeadProjection[]
  norm: RMSNorm | null
  output: Linear
  config: FastWeightsAttentionConfig

  constructor(config: Partial<FastWeightsAttentionConfig> & { dModel: number; heads: number }, g: Generator) {
    super()
    const c = { ...fastWeightsAttentionDefaults, ...config }
    checkAttention(c)
    this.config = c
    this.query = new HeadProjection(c.dModel, c.dModel, c.conv, g)
    this.key = new HeadProjection(c.dModel, c.dModel, c.conv, g)
    this.value = new HeadProjection(c.dModel, c.dModel, c.conv, g)
    this.interpolation_weight = c.rule === 'delta' ? [new HeadProjection(c.dModel, c.heads, 0, g)] : []
    this.norm = c.headNorm ? new RMSNorm(c.dModel / c.heads) : null
    this.output = new Linear(c.dModel, c.dModel, g)
  }

  /** `accumulate` is added to the result (the residual connection). */
  forward(x: Tensor, state: AttentionState = {}, options: { accumulate?: Tensor } = {}): { y: Tensor; state: AttentionState } {
    const { heads, rule, normalise, featureMap, nu, featureNorm, valueMap, chunk } = this.config
    const [B, T, D] = x.shape
    const split = (y: Tensor): Tensor => reshape(y, [B, T, heads, D / heads])
    const features = (y: Tensor): Tensor => featureNorms[featureNorm](featureMaps[featureMap].map(y, nu))
    const query = this.query.forward(x, state.query)
    const key = this.key.forward(x, state.key)
    const value = this.value.forward(x, state.value)
    const q = features(split(query.y))
    const k = features(split(key.y))
    const v = split(featureMaps[valueMap].map(value.y))

    let y: Tensor
    let next: AttentionState
    if (rule === 'delta') {
      const beta = sigmoid(this.interpolation_weight[0].forward(x).y)
      const result = deltaRule(q, k, v, beta, state.S && { S: state.S }, { chunk })
      y = result.y
      next = result.state
    } else {
      const result = sumRule(q, k, v, state.S && { S: state.S, z: state.z }, { chunk, normalise })
      y = result.y
      next = result.state
    }
    if (this.norm) y = this.norm.forward(y)
    return {
      y: this.output.forward(reshape(y, [B, T, D]), options),
      state: { ...next, query: query.state, key: key.state, value: value.state },
    }
  }
}

export interface KeyValueState {
  /** [B,H,t,K]: grows with every token, unlike fast weights. */
  keys: Tensor
  values: Tensor
}

/** Causal multi-head softmax attention (Vaswani 2017), the baseline: y = softmax(q k^T / sqrt(K)) v. */
export class SoftmaxAttention extends Module {
  query: HeadProjection
  key: HeadProjection
  value: HeadProjection
  output: Linear
  heads: number

  constructor(config: { dModel: number; heads: number }, g: Generator) {
    super()
    checkHeads(config.dModel, config.heads)
    const { dModel } = config
    this.heads = config.heads
    this.query = new HeadProjection(dModel, dModel, 0, g)
    this.key = new HeadProjection(dModel, dModel, 0, g)
    this.value = new HeadProjection(dModel, dModel, 0, g)
    this.output = new Linear(dModel, dModel, g)
  }

  forward(x: Tensor, state?: KeyValueState, options: { accumulate?: Tensor } = {}): { y: Tensor; state: KeyValueState } {
    const [B, T, D] = x.shape
    const K = D / this.heads
    const split = (y: Tensor): Tensor => permute(reshape(y, [B, T, this.heads, K]), [0, 2, 1, 3])
    const q = split(this.query.forward(x).y)
    const own = { keys: split(this.key.forward(x).y), values: split(this.value.forward(x).y) }
    const keys = state ? concat([state.keys, own.keys], 2) : own.keys
    const values = state ? concat([state.values, own.values], 2) : own.values
    const scores = matmul(affine(q, 1 / Math.sqrt(K)), keys, { transposeB: true })
    const y = matmul(softmax(scores, { causal: true }), values)
    return { y: this.output.forward(reshape(permute(y, [0, 2, 1, 3]), [B, T, D]), options), state: { keys, values } }
  }
}
