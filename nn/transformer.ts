/** The autoregressive transformer over fast weights or softmax attention, with labml's parameter names. */

import { checkFlag, checkNumber, told } from '../engine/arguments.ts'
import { type UnaryOp, unaryOps } from '../engine/devices/kernels.ts'
import { checkInt32 } from '../engine/ops/check.ts'
import { add } from '../engine/ops/elementwise.ts'
import { type Generator, generator } from '../engine/random.ts'
import type { Tensor } from '../engine/tensor.ts'
import {
  type AttentionState,
  attentionOptions,
  checkAttention,
  FastWeightsAttention,
  type FastWeightsAttentionConfig,
  fastWeightsAttentionDefaults,
} from './attention.ts'
import { checkChoice, checkKnown, checkMeanings } from './features.ts'
import { type AttentionOptions, checkHeads } from './heads.ts'
import { checkProbability, Dropout, Embedding, FeedForward, LayerNorm, Linear, RMSNorm } from './layers.ts'
import { Module } from './module.ts'
import { atTokens, checkPacking, type Packing, places, positionTable } from './packing.ts'
import type { Parts } from './parts.ts'
import { type KeyValueState, SoftmaxAttention } from './softmax-attention.ts'

export interface TransformerConfig extends Omit<FastWeightsAttentionConfig, 'positions'> {
  /** Size of the vocabulary. */
  symbols: number
  layers: number
  dFf: number
  attention: 'fast-weights' | 'softmax'
  activation: UnaryOp
  dropout: number
  norm: 'layer' | 'rms'
  /** Normalise what attention reads (pre-norm). labml constructs this norm and never uses it: false there. */
  attentionNorm: boolean
  /**
   * Sinusoidal position encoding added to the embedding, or rotary positions in each layer. Rules that correct or decay know order without
   * either; the sum rule and softmax attention don't.
   */
  positions: 'none' | 'sinusoidal' | 'rotary'
  /** Standard deviation of the initial embedding. */
  embeddingStd: number
}

/** labml's fast weights transformer (labml_nn/transformers/fast_weights), at its experiment's sizes. */
export const labml: Omit<TransformerConfig, 'symbols'> = {
  ...fastWeightsAttentionDefaults,
  dModel: 512,
  heads: 8,
  layers: 6,
  dFf: 2048,
  attention: 'fast-weights',
  activation: 'relu',
  dropout: 0,
  norm: 'layer',
  attentionNorm: false,
  positions: 'none',
  embeddingStd: 1,
}

/** The softmax baseline: the same transformer with causal attention, pre-norm and positions. */
export const softmaxBaseline: Omit<TransformerConfig, 'symbols'> = {
  ...labml,
  attention: 'softmax',
  attentionNorm: true,
  positions: 'sinusoidal',
  embeddingStd: 0.02,
}

export type LayerState = AttentionState | KeyValueState
export interface TransformerState {
  /** Tokens seen so far of each row's sequence, padding not counted, [B]. */
  position: Int32Array
  layers: LayerState[]
}

const norms = { layer: LayerNorm, rms: RMSNorm }

/** x + attention(norm?(x)), then x + feedForward(norm(x)). */
export class TransformerLayer extends Module {
  attn: FastWeightsAttention | SoftmaxAttention
  feed_forward: FeedForward
  norm_self_attn: LayerNorm | RMSNorm
  norm_ff: LayerNorm | RMSNorm
  drop: Dropout
  attentionNorm: boolean

  constructor(config: TransformerConfig, g: Generator) {
    super()
    const own = layerConfig(config)
    this.attn = config.attention === 'softmax' ? new SoftmaxAttention(own, g) : new FastWeightsAttention(own, g)
    this.feed_forward = new FeedForward(config.dModel, config.dFf, g, config)
    this.norm_self_attn = new norms[config.norm](config.dModel)
    this.norm_ff = new norms[config.norm](config.dModel)
    this.drop = new Dropout(config.dropout, g)
    this.attentionNorm = config.attentionNorm
  }

  forward(given: Tensor, state?: LayerState, packing: Packing = {}): { y: Tensor; state: LayerState } {
    const x = atTokens(given, packing)
    const input = this.attentionNorm ? this.norm_self_attn.forward(x) : x
    // Without dropout between them, the residual is added inside the matrix product.
    const residual = (y: Tensor): AttentionOptions => (this.drop.training && this.drop.p > 0 ? {} : { accumulate: y })
    const close = (y: Tensor, onto: Tensor): Tensor => (this.drop.training && this.drop.p > 0 ? add(onto, this.drop.forward(y)) : y)
    const attended = this.attn.forward(input, state as never, { ...packing, ...residual(x) })
    const h = close(attended.y, x)
    const y = close(this.feed_forward.forward(this.norm_ff.forward(h), residual(h)), h)
    return { y, state: attended.state }
  }
}

class Stack extends Module {
  layers: TransformerLayer[]
  norm: LayerNorm | RMSNorm

  constructor(config: TransformerConfig, g: Generator) {
    super()
    this.layers = Array.from({ length: config.layers }, () => new TransformerLayer(config, g))
    this.norm = new norms[config.norm](config.dModel)
  }
}

/** What a layer has to know; sinusoidal positions are the model's. */
const layerConfig = (c: TransformerConfig): FastWeightsAttentionConfig => {
  const own = Object.fromEntries(attentionOptions.map((name) => [name, c[name as keyof TransformerConfig]]))
  return { ...(own as unknown as FastWeightsAttentionConfig), positions: c.positions === 'rotary' ? 'rotary' : 'none' }
}

/** Where a model's random streams begin: a generator of the same seed, which counts from 0, gives other numbers. */
const firstStream = 2 ** 20

const onlyFastWeights = Object.keys(fastWeightsAttentionDefaults)
  .filter((name) => name !== 'positions' && name !== 'chunk')
  .map((name) => [name as keyof typeof fastWeightsAttentionDefaults, 'fast-weights attention', () => false] as const)

/** Everything that can be wrong, before the first parameter is made. */
function checkConfig(c: TransformerConfig): void {
  checkKnown(c, ['symbols', ...Object.keys(labml)])
  for (const name of ['symbols', 'dModel', 'layers', 'dFf'] as const) checkNumber(name, c[name], 'a positive integer')
  checkChoice('attention', c.attention, { 'fast-weights': 0, softmax: 0 })
  checkChoice('positions', c.positions, { none: 0, sinusoidal: 0, rotary: 0 })
  if (c.attention === 'fast-weights') checkAttention(layerConfig(c))
  else {
    checkHeads(c.dModel, c.heads)
    checkMeanings(c, fastWeightsAttentionDefaults, onlyFastWeights)
  }
  checkChoice('norm', c.norm, norms)
  if (!unaryOps.includes(c.activation)) throw new Error(`unknown activation '${c.activation}' (${unaryOps.join(', ')})`)
  checkFlag('attentionNorm', c.attentionNorm)
  checkNumber('embeddingStd', c.embeddingStd, '0 or more')
  checkProbability(c.dropout)
}

/** Tokens to logits. `FastWeightsTransformer` from labml's names: src_embed, transformer.layers.N..., transformer.norm, generator. */
export class Transformer extends Module {
  src_embed: Embedding
  transformer: Stack
  generator: Linear
  config: TransformerConfig
  /** Counts the streams drawn for initial values and dropout; part of what a checkpoint saves. */
  random: Generator

  /** Parameters are made on the default device (setDevice). Options left out are labml's. */
  constructor(config: Partial<TransformerConfig> & { symbols: number }, seed = 1) {
    super()
    const c = { ...labml, ...config }
    checkConfig(c)
    this.config = c
    this.random = { ...generator(seed), stream: firstStream }
    this.src_embed = new Embedding(c.symbols, c.dModel, this.random, c.embeddingStd)
    this.transformer = new Stack(c, this.random)
    this.generator = new Linear(c.dModel, c.symbols, this.random)
  }

  /**
   * tokens int32 [B,T] -> logits [B,T,symbols]. `state`: where an earlier call on the same sequences stopped. With `mask` (0: padding) and
   * `reset` (1: a new sequence begins), int32 [B,T], rows may hold sequences of different lengths, or several; at padding the logits are
   * 0, and what their gradient holds there is never looked at.
   */
  forward(tokens: Tensor, state?: TransformerState, options: Packing = {}): { logits: Tensor; state: TransformerState } {
    checkInt32('forward', tokens)
    if (tokens.shape.length !== 2 || tokens.size === 0)
      throw new Error(`forward: tokens have shape [${tokens.shape.join(',')}], expected [B,T]`)
    const [B, T] = tokens.shape
    if (state != null && !(state.position instanceof Int32Array && Array.isArray(state.layers)))
      throw new Error(`forward: the state must be what forward or initialState returned, not ${told(state)}`)
    if (state && state.position.length !== B) throw new Error(`forward: the state has ${state.position.length} rows, the tokens ${B}`)
    if (state && state.layers.length !== this.transformer.layers.length)
      throw new Error(`forward: the state has ${state.layers.length} layers, the model ${this.transformer.layers.length}`)
    const packing = checkPacking('forward', options, B, T)
    const { at, next } = places(packing, B, T, state?.position)
    let x = this.src_embed.forward(tokens)
    if (this.config.positions === 'sinusoidal') x = add(x, sinusoids(at, B, this.config.dModel, x))
    const layers: LayerState[] = []
    this.transformer.layers.forEach((layer, i) => {
      const result = layer.forward(x, state?.layers[i], packing)
      x = result.y
      layers.push(result.state)
    })
    const logits = this.generator.forward(this.transformer.norm.forward(x))
    return { logits: atTokens(logits, packing), state: { position: next, layers } }
  }

  /** See `Parts`. */
  stateParts(B: number): Parts {
    return { position: { dtype: 'int32', shape: [B] }, layers: this.transformer.layers.map(({ attn }) => attn.stateParts(B)) }
  }

  /** New random features in every layer whose map draws them: see `favorRedraw`. */
  redraw(): void {
    for (const { attn } of this.transformer.layers) if (attn instanceof FastWeightsAttention) attn.features.redraw()
  }
}

/** Vaswani 2017, section 3.5, at positions [B,T]. */
const sinusoids = (at: Int32Array, B: number, D: number, beside: Tensor): Tensor =>
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
