/** The autoregressive transformer over any mixers, with labml's parameter names. */

import { checkFlag, checkNumber, told } from '../engine/arguments.ts'
import { type UnaryOp, unaryOps } from '../engine/devices/kernels.ts'
import { checkInt32 } from '../engine/ops/check.ts'
import { linearCrossEntropy, manyLogits } from '../engine/ops/linear-cross-entropy.ts'
import { crossEntropy } from '../engine/ops/norm.ts'
import { type Generator, generator } from '../engine/random.ts'
import { recompute } from '../engine/recompute.ts'
import { Tensor, varying } from '../engine/tensor.ts'
import { FastWeightsAttention, type FastWeightsAttentionConfig, fastWeightsAttentionDefaults } from './attention.ts'
import { embed, firstStream, norms, residual, throughLayer } from './blocks.ts'
import { checkChoice, checkKnown, withDefaults } from './fields.ts'
import { checkProbability, Dropout, Embedding, FeedForward, type LayerNorm, Linear, type RMSNorm } from './layers.ts'
import type { LayerState, SequenceLayer } from './mixer.ts'
import { completeMixer, type LayerMixer, type MixerChoice, type MixerLayer, mixersOf, rowOf, shared } from './mixers.ts'
import { ignoredTarget, type LogitsChoice, type TokenBatch } from './model.ts'
import { Module } from './module.ts'
import { asked, atTokens, checkPacking, type Packing, places } from './packing.ts'
import { keepsPace, type Parts } from './parts.ts'

/**
 * The settings of fast weights stand here, too: they are those of every layer whose mixer has a setting of that name and doesn't say otherwise
 * itself, and a model without `mixer` has fast weights, or softmax attention, in all layers.
 */
export interface TransformerConfig extends Omit<FastWeightsAttentionConfig, 'positions'> {
  /** Size of the vocabulary. */
  symbols: number
  layers: number
  /** Width within the feed-forward layers. */
  dFf: number
  /** What all layers have where there is no `mixer`. */
  attention: 'fast-weights' | 'softmax'
  /**
   * What the layers do over time, a row of `mixers`: one for all, or a list, the first layer's first, which is repeated where it's shorter than
   * there are layers. { kind: 'aft-local', window: 32 }; a name alone: 'softmax'; a rule: ['kda', 'kda', 'kda', 'softmax'].
   */
  mixer?: MixerChoice | readonly MixerChoice[]
  activation: UnaryOp
  /** The probability that a number is dropped in training. */
  dropout: number
  /** Layer norms, or RMS norms. */
  norm: 'layer' | 'rms'
  /** Normalise what attention reads (pre-norm). labml constructs this norm and never uses it: false there. */
  attentionNorm: boolean
  /**
   * Sinusoidal position encoding added to the embedding, or rotary positions in each layer whose mixer has them. Mixers that are `blind` need
   * either: the sum rule, softmax attention, aft-simple. The others know order without.
   */
  positions: 'none' | 'sinusoidal' | 'rotary'
  /** Standard deviation of the initial embedding. */
  embeddingStd: number
  /** What embeddings are multiplied by, before positions are added: 1, or sqrt(D) (Vaswani 2017, section 3.4). */
  embeddingScale: 'none' | 'sqrt'
  /** The matrix that gives the logits is the embedding (Press & Wolf 2017): one parameter with two names. Its bias stays. */
  tie: boolean
  /**
   * Activation checkpointing (Chen 2016), of all layers, none, or those in the list, from 0: what they compute within isn't kept for the backward
   * pass but computed once more there. Gradients are the same to the bit.
   */
  recompute: boolean | readonly number[]
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
  embeddingScale: 'none',
  tie: false,
  recompute: false,
}

/** The softmax baseline: the same transformer with causal attention, pre-norm and positions. */
export const softmaxBaseline: Omit<TransformerConfig, 'symbols'> = {
  ...labml,
  attention: 'softmax',
  attentionNorm: true,
  positions: 'sinusoidal',
  embeddingStd: 0.02,
}

/** What a `Transformer` carries from one token to the next. */
export interface TransformerState {
  /** Tokens seen so far of each row's sequence, padding not counted, [B]. */
  position: Int32Array
  /** The state of each layer's mixer. */
  layers: LayerState[]
}

/** x + attention(norm?(x)), then x + feedForward(norm(x)). */
export class TransformerLayer extends Module {
  attn: MixerLayer
  feed_forward: FeedForward
  norm_self_attn: LayerNorm | RMSNorm
  norm_ff: LayerNorm | RMSNorm
  drop: Dropout
  /** Whether there is a norm before the mixer. */
  attentionNorm: boolean

  constructor(config: TransformerConfig, { kind, settings }: LayerMixer, g: Generator, layer = 0) {
    super()
    this.attn = rowOf(kind).make({ ...settings, dModel: config.dModel }, g, { layer, layers: config.layers })
    this.feed_forward = new FeedForward(config.dModel, config.dFf, g, { activation: config.activation, dropout: config.dropout })
    this.norm_self_attn = new norms[config.norm](config.dModel)
    this.norm_ff = new norms[config.norm](config.dModel)
    this.drop = new Dropout(config.dropout, g)
    this.attentionNorm = config.attentionNorm
  }

  forward(given: Tensor, state?: LayerState, packing: Packing = {}): { y: Tensor; state: LayerState } {
    const x = atTokens(given, packing)
    const input = this.attentionNorm ? this.norm_self_attn.forward(x) : x
    let next: LayerState = {}
    const h = residual(x, this.drop, (options) => {
      const attended = this.attn.forward(input, state as never, { ...packing, ...options })
      next = attended.state
      return attended.y
    })
    if (input !== x) input.evict()
    const normed = this.norm_ff.forward(h)
    const y = residual(h, this.drop, (options) => this.feed_forward.forward(normed, options))
    normed.evict()
    return { y, state: next }
  }
}

class Stack extends Module {
  layers: TransformerLayer[]
  norm: LayerNorm | RMSNorm

  constructor(config: TransformerConfig, own: readonly LayerMixer[], g: Generator) {
    super()
    this.layers = own.map((mixer, i) => new TransformerLayer(config, mixer, g, i))
    this.norm = new norms[config.norm](config.dModel)
  }
}

/** The mixer of each layer of a model, with every setting; throws where they make no sense. Sinusoidal positions are the model's. */
export function layerMixers(c: TransformerConfig): LayerMixer[] {
  const positions = c.positions === 'rotary' ? 'rotary' : 'none'
  const common = Object.fromEntries(Object.keys(shared).map((name) => [name, c[name as keyof TransformerConfig]]))
  return mixersOf(completeMixer(c.mixer ?? c.attention), c, { ...common, positions })
}

/** Everything that can be wrong, before the first parameter is made. */
function checkConfig(c: TransformerConfig): LayerMixer[] {
  checkKnown(c, ['symbols', ...Object.keys(labml), 'mixer'])
  for (const name of ['symbols', 'dModel', 'layers', 'dFf'] as const) checkNumber(name, c[name], 'a positive integer')
  checkChoice('attention', c.attention, { 'fast-weights': 0, softmax: 0 })
  if (c.mixer !== undefined && c.attention !== labml.attention)
    throw new Error(`attention = ${c.attention} means nothing beside a mixer: give the mixer alone`)
  checkChoice('positions', c.positions, { none: 0, sinusoidal: 0, rotary: 0 })
  const own = layerMixers(c)
  checkChoice('norm', c.norm, norms)
  if (!unaryOps.includes(c.activation)) throw new Error(`unknown activation '${c.activation}' (${unaryOps.join(', ')})`)
  checkFlag('attentionNorm', c.attentionNorm)
  checkNumber('embeddingStd', c.embeddingStd, '0 or more')
  checkChoice('embeddingScale', c.embeddingScale, { none: 0, sqrt: 0 })
  checkFlag('tie', c.tie)
  checkRecompute(c)
  checkProbability(c.dropout)
  return own
}

function checkRecompute({ recompute, layers }: TransformerConfig): void {
  if (typeof recompute === 'boolean') return
  if (!Array.isArray(recompute)) throw new Error(`recompute must be true, false, or a list of layers, not ${told(recompute)}`)
  for (const layer of recompute)
    if (!(Number.isInteger(layer) && layer >= 0 && layer < layers))
      throw new Error(`recompute: there is no layer ${told(layer)}; they are 0 to ${layers - 1}`)
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
    const { mixer, ...flat } = withDefaults(labml, config)
    // Complete, so that a checkpoint doesn't depend on a default.
    const c = { ...flat, ...(mixer !== undefined && { mixer: completeMixer(mixer) }) }
    const own = checkConfig(c)
    this.config = c
    this.random = { ...generator(seed), stream: firstStream }
    this.src_embed = new Embedding(c.symbols, c.dModel, this.random, c.embeddingStd)
    this.transformer = new Stack(c, own, this.random)
    this.generator = new Linear(c.dModel, c.symbols, this.random)
    if (c.tie) {
      this.generator.weight.dispose()
      this.generator.weight = this.src_embed.weight
    }
  }

  /**
   * tokens int32 [B,T] -> logits [B,T,symbols]. `state`: where an earlier call on the same sequences stopped. With `mask` (0: padding) and
   * `reset` (1: a new sequence begins), int32 [B,T], rows may hold sequences of different lengths, or several; at padding the logits are
   * 0, and what their gradient holds there is never looked at. `last`: see `LogitsChoice`.
   */
  forward(tokens: Tensor, state?: TransformerState, options: Packing & LogitsChoice = {}): { logits: Tensor; state: TransformerState } {
    const { x: all, packing, ...rest } = this.hidden(tokens, state, options)
    const { x, mask } = asked(all, packing, options.last)
    return { logits: atTokens(this.generator.forward(x), { mask }), ...rest }
  }

  /** What the logits are made from: tokens int32 [B,T] -> x [B,T,D], the output of the last norm; state and packing as in `forward`. @internal */
  hidden(tokens: Tensor, state?: TransformerState, options: Packing = {}): { x: Tensor; packing: Packing; state: TransformerState } {
    checkInt32('forward', tokens)
    if (tokens.shape.length !== 2 || tokens.size === 0)
      throw new Error(`forward: tokens have shape [${tokens.shape.join(',')}], expected [B,T]`)
    const [B, T] = tokens.shape
    if (state != null && !(state.position instanceof Int32Array && Array.isArray(state.layers)))
      throw new Error(`forward: the state must be what forward or initialState returned, not ${told(state)}`)
    if (state && state.position.length !== B) throw new Error(`forward: the state has ${state.position.length} rows, the tokens ${B}`)
    if (state && state.layers.length !== this.transformer.layers.length)
      throw new Error(`forward: the state has ${state.layers.length} layers, the model ${this.transformer.layers.length}`)
    const packing = checkPacking('forward', options, B, T, ['last'])
    const placed = () => places(packing, B, T, state?.position)
    let x = embed(this.src_embed, tokens, () => placed().at, this.config)
    const layers: LayerState[] = []
    this.transformer.layers.forEach((layer, i) => {
      const run = (): { y: Tensor; state: LayerState } =>
        this.recomputes(i) ? this.recomputed(layer, x, state?.layers[i], packing) : layer.forward(x, state?.layers[i], packing)
      const result = throughLayer(x, run)
      x = result.y
      layers.push(result.state)
    })
    return { x: this.transformer.norm.forward(x), packing, state: { position: placed().next, layers } }
  }

  private recomputes(layer: number): boolean {
    const which = this.config.recompute
    return typeof which === 'boolean' ? which : which.includes(layer)
  }

  private recomputed(layer: TransformerLayer, x: Tensor, state: LayerState = {}, packing: Packing): { y: Tensor; state: LayerState } {
    const parts = Object.entries(state)
    const given = parts.filter((part): part is [string, Tensor] => part[1] instanceof Tensor)
    const { training } = layer
    const body = (x: Tensor, ...tensors: Tensor[]): { y: Tensor; state: LayerState } => {
      if (layer.training !== training)
        throw new Error('recompute: the model went from training to evaluation, or back, before its backward pass')
      const replaced = Object.fromEntries(given.map(([name], i) => [name, tensors[i]]))
      return layer.forward(x, { ...state, ...replaced }, packing)
    }
    const parameters = layer.namedParameters().values()
    return recompute([x, ...given.map(([, t]) => t)], body, { parameters, generator: this.random })
  }

  /** See `Trainable`. Of a large vocabulary it never holds all logits. */
  loss(batch: TokenBatch): Tensor {
    return this.lossOf(batch, (tokens) => this.hidden(tokens).x)
  }

  /** The loss where the logits are made from something else: `hidden` makes it, [B,T,D], of tokens int32 [B,T]. @internal */
  lossOf(batch: TokenBatch, hidden: (tokens: Tensor) => Tensor): Tensor {
    const { device } = this.src_embed.weight
    const { B, T } = batch
    // Asked for anew when the step is replayed.
    const given = (name: 'tokens' | 'targets'): Tensor => varying(() => batch[name], { shape: [B, T], dtype: 'int32', device })
    const x = hidden(given('tokens'))
    const targets = given('targets')
    const { weight, bias } = this.generator
    return manyLogits(B * T, this.config.symbols)
      ? linearCrossEntropy(x, weight, bias, targets, { ignore: ignoredTarget })
      : crossEntropy(this.generator.forward(x), targets, { ignore: ignoredTarget })
  }

  /** See `Parts`. */
  stateParts(B: number): Parts {
    return { position: { dtype: 'int32', shape: [B] }, layers: this.transformer.layers.map(({ attn }) => attn.stateParts(B)) }
  }

  /** See `LanguageModel`: not where a part of the state counts something that decides what is computed. */
  get replayable(): boolean {
    return keepsPace(this.stateParts(1))
  }

  /** See `Trainable`: not where random features are drawn on the host at each step. */
  get capturable(): boolean {
    return !this.transformer.layers.some(({ attn }) => attn instanceof FastWeightsAttention && attn.config.favorRedraw === 'step')
  }

  /** New random features in every layer whose map draws them: see `favorRedraw`. An error where all of them are fixed. */
  redraw(): void {
    const layers = this.transformer.layers.map(({ attn }) => attn).filter((attn) => attn instanceof FastWeightsAttention)
    const drawing = layers.filter(({ config }) => config.favorRedraw !== 'never')
    for (const { features } of drawing.length > 0 ? drawing : layers) features.redraw()
  }

  /** To be called after each epoch of training: layers that draw something anew for each do so. */
  endEpoch(): void {
    for (const { attn } of this.transformer.layers as { attn: SequenceLayer }[]) attn.endEpoch?.()
  }
}
