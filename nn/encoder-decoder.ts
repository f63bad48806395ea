/**
 * The encoder-decoder over fast weights, for sequence to sequence: Vaswani 2017's transformer in the setting of Schlag 2021, section 6.2. An encoder
 * reads the source, every token of it all others; each layer of the decoder writes what the encoder gives into fast weights, once, and reads
 * them beside its own, which the target's tokens write one after the other. Tests: test/nn/encoder-decoder.test.ts.
 */
import { checkNumber, checkObject, checkOptions, told } from '../engine/arguments.ts'
import { type UnaryOp, unaryOps } from '../engine/devices/kernels.ts'
import { checkInt32 } from '../engine/ops/check.ts'
import { reshape } from '../engine/ops/movement.ts'
import { crossEntropy } from '../engine/ops/norm.ts'
import { type Generator, generator } from '../engine/random.ts'
import { show } from '../engine/shape.ts'
import { getDevice, type Tensor, tensor } from '../engine/tensor.ts'
import { type FastWeightsAttentionConfig, fastWeightsAttentionDefaults, layerRules } from './attention.ts'
import { embed, firstStream, norms, residual } from './blocks.ts'
import { type CrossKind, type CrossLayer, cannotWrite, crossKinds, crossNames, crossRules } from './cross-attention.ts'
import { checkChoice, checkKnown, defaultsOf, withDefaults } from './fields.ts'
import { checkProbability, Dropout, Embedding, FeedForward, type LayerNorm, Linear, type RMSNorm } from './layers.ts'
import type { LayerState } from './mixer.ts'
import {
  completeMixer,
  type LayerMixer,
  type MixerChoice,
  type MixerConfig,
  type MixerLayer,
  meaningless,
  mixersOf,
  reads,
  rowOf,
  shared,
} from './mixers.ts'
import { ignoredTarget } from './model.ts'
import { Module } from './module.ts'
import { atTokens, checkPacking, type Packing, places } from './packing.ts'
import type { Parts } from './parts.ts'
import { initialState, mapState } from './state.ts'

/**
 * The settings of fast weights stand here, too: they are those of every layer, the encoder's, the decoder's and the ones between, whose attention
 * has a setting of that name and doesn't say otherwise itself.
 */
export interface EncoderDecoderConfig extends Omit<FastWeightsAttentionConfig, 'positions'> {
  /** Size of the target's vocabulary. */
  symbols: number
  /** Size of the source's; the target's by default. */
  sourceSymbols: number
  encoderLayers: number
  decoderLayers: number
  /** Width within the feed-forward layers. */
  dFf: number
  /** What all layers attend with, where no more is said: `fast-weights`, `softmax`, a rule, or one of these with settings: { kind: 'softmax' }. */
  mixer: MixerChoice
  /** Instead of it in the encoder, which isn't causal: `softmax`, or fast weights with one of `crossRules`. */
  encoder?: MixerChoice
  /** Instead of it where the decoder reads the source: the same choice. */
  cross?: MixerChoice
  /** Instead of it in the decoder: any mixer, or a list, as a `Transformer` has. */
  decoder?: MixerChoice | readonly MixerChoice[]
  activation: UnaryOp
  /** The probability that a number is dropped in training. */
  dropout: number
  norm: 'layer' | 'rms'
  /** Sinusoidal position encoding added to the embeddings of both. An encoder that only adds knows no order without. */
  positions: 'none' | 'sinusoidal'
  /** Standard deviation of the initial embeddings. */
  embeddingStd: number
  /** What embeddings are multiplied by, before positions are added: 1, or sqrt(D) (Vaswani 2017, section 3.4). */
  embeddingScale: 'none' | 'sqrt'
  /** The matrix that gives the logits is the target's embedding (`output`; Press & Wolf 2017), or the source's as well (`all`; Vaswani 2017). */
  tie: 'none' | 'output' | 'all'
}

/** Sizes are those of Vaswani 2017's base model. */
export const encoderDecoderDefaults: Omit<EncoderDecoderConfig, 'symbols' | 'sourceSymbols' | 'encoder' | 'cross' | 'decoder'> = {
  ...fastWeightsAttentionDefaults,
  dModel: 512,
  heads: 8,
  encoderLayers: 6,
  decoderLayers: 6,
  dFf: 2048,
  mixer: 'fast-weights',
  activation: 'relu',
  dropout: 0,
  norm: 'layer',
  positions: 'sinusoidal',
  embeddingStd: 1,
  embeddingScale: 'none',
  tie: 'none',
}

/** A kind of cross attention with every setting. */
interface Cross {
  kind: CrossKind
  settings: object
}

/** What each layer attends with. */
interface Kinds {
  encoder: Cross
  cross: Cross
  decoder: LayerMixer[]
}

/** What attends where, with every setting; throws where it makes no sense. */
function kindsOf(c: EncoderDecoderConfig): Kinds {
  const { positions: _, ...names } = shared
  const common = Object.fromEntries(Object.keys(names).map((name) => [name, c[name as keyof EncoderDecoderConfig]]))
  const cross = (place: string, choice: MixerChoice): Cross => {
    if (Array.isArray(choice))
      throw new Error(`${place}: takes one choice for all of its layers, not ${told(choice)}; a decoder takes a list`)
    const { kind, ...given } = completeMixer(choice) as MixerConfig
    if (!Object.hasOwn(crossKinds, kind))
      throw new Error(`${place}: ${kind} has no form that reads a whole source (${crossNames.join(', ')} have)`)
    const { fields, check } = crossKinds[kind as CrossKind]
    checkKnown(given, Object.keys(fields))
    const fromModel = Object.entries(common).filter(([name]) => Object.hasOwn(fields, name))
    const settings = { ...(defaultsOf(fields as never) as object), ...Object.fromEntries(fromModel), ...given }
    const { rule } = settings as { rule?: FastWeightsAttentionConfig['rule'] }
    if (rule !== undefined && layerRules.includes(rule) && !crossRules.includes(rule))
      throw new Error(`${place}: ${cannotWrite(rule).message}; the decoder's own layers may have it: give decoder: '${rule}'`)
    check({ ...settings, dModel: c.dModel })
    return { kind: kind as CrossKind, settings }
  }
  const choice = completeMixer(c.decoder ?? c.mixer)
  const kinds = [choice].flat().map(({ kind }) => kind)
  const own = Object.fromEntries(Object.entries(common).filter(([name]) => reads(kinds, name)))
  const decoder = mixersOf(choice, { layers: c.decoderLayers, dModel: c.dModel }, own)
  const [encoder, between] = [cross('encoder', c.encoder ?? c.mixer), cross('cross', c.cross ?? c.mixer)]
  for (const [name, value] of Object.entries(common)) {
    const read = reads(kinds, name) || [encoder, between].some(({ settings }) => Object.hasOwn(settings, name))
    if (!read && name !== 'chunk' && value !== shared[name as keyof typeof shared]) throw meaningless(name, value)
  }
  return { encoder, cross: between, decoder }
}

/** Everything that can be wrong, before the first parameter is made. */
function checkConfig(c: EncoderDecoderConfig): Kinds {
  checkKnown(c, ['symbols', 'sourceSymbols', ...Object.keys(encoderDecoderDefaults), 'encoder', 'cross', 'decoder'])
  for (const name of ['symbols', 'sourceSymbols', 'dModel', 'encoderLayers', 'decoderLayers', 'dFf'] as const)
    checkNumber(name, c[name], 'a positive integer')
  checkChoice('positions', c.positions, { none: 0, sinusoidal: 0 })
  const kinds = kindsOf(c)
  checkChoice('norm', c.norm, norms)
  if (!unaryOps.includes(c.activation)) throw new Error(`unknown activation '${c.activation}' (${unaryOps.join(', ')})`)
  checkNumber('embeddingStd', c.embeddingStd, '0 or more')
  checkChoice('embeddingScale', c.embeddingScale, { none: 0, sqrt: 0 })
  checkChoice('tie', c.tie, { none: 0, output: 0, all: 0 })
  if (c.tie === 'all' && c.sourceSymbols !== c.symbols)
    throw new Error(`tie = all needs one vocabulary for both: there are ${c.sourceSymbols} symbols in sources, ${c.symbols} in targets`)
  checkProbability(c.dropout)
  return kinds
}

const crossOf = ({ kind, settings }: Cross, dModel: number, g: Generator): CrossLayer => crossKinds[kind].make({ ...settings, dModel }, g)

/** h = x + attention(norm(x)) over the whole source, then h + feedForward(norm(h)). */
class EncoderLayer extends Module {
  self_attn: CrossLayer
  feed_forward: FeedForward
  norm_self_attn: LayerNorm | RMSNorm
  norm_ff: LayerNorm | RMSNorm
  drop: Dropout

  constructor(c: EncoderDecoderConfig, attention: Cross, g: Generator) {
    super()
    this.self_attn = crossOf(attention, c.dModel, g)
    this.feed_forward = new FeedForward(c.dModel, c.dFf, g, { activation: c.activation, dropout: c.dropout })
    this.norm_self_attn = new norms[c.norm](c.dModel)
    this.norm_ff = new norms[c.norm](c.dModel)
    this.drop = new Dropout(c.dropout, g)
  }

  /** x: [B,Ts,D]. What stands at padding is read by no token; it isn't 0. */
  forward(x: Tensor, { mask }: Packing): Tensor {
    const input = this.norm_self_attn.forward(x)
    const h = residual(x, this.drop, (options) => this.self_attn.forward(input, input, { mask, ...options }))
    return residual(h, this.drop, (options) => this.feed_forward.forward(this.norm_ff.forward(h), options))
  }
}

/** The same with the decoder's own, causal mixer, and between the two what it reads of the source. */
class DecoderLayer extends Module {
  self_attn: MixerLayer
  src_attn: CrossLayer
  feed_forward: FeedForward
  norm_self_attn: LayerNorm | RMSNorm
  norm_src_attn: LayerNorm | RMSNorm
  norm_ff: LayerNorm | RMSNorm
  drop: Dropout

  constructor(c: EncoderDecoderConfig, layer: number, { kind, settings }: LayerMixer, cross: Cross, g: Generator) {
    super()
    this.self_attn = rowOf(kind).make({ ...settings, dModel: c.dModel }, g, { layer, layers: c.decoderLayers })
    this.src_attn = crossOf(cross, c.dModel, g)
    this.feed_forward = new FeedForward(c.dModel, c.dFf, g, { activation: c.activation, dropout: c.dropout })
    this.norm_self_attn = new norms[c.norm](c.dModel)
    this.norm_src_attn = new norms[c.norm](c.dModel)
    this.norm_ff = new norms[c.norm](c.dModel)
    this.drop = new Dropout(c.dropout, g)
  }

  forward(given: Tensor, source: LayerState, state: LayerState, packing: Packing): { y: Tensor; state: LayerState } {
    const x = atTokens(given, packing)
    let next: LayerState = {}
    const own = residual(x, this.drop, (options) => {
      const attended = this.self_attn.forward(this.norm_self_attn.forward(x), state as never, { ...packing, ...options })
      next = attended.state
      return attended.y
    })
    const h = residual(own, this.drop, (options) => this.src_attn.read(this.norm_src_attn.forward(own), source, { ...packing, ...options }))
    const y = residual(h, this.drop, (options) => this.feed_forward.forward(this.norm_ff.forward(h), options))
    return { y, state: next }
  }
}

class Stack<Layer extends Module> extends Module {
  layers: Layer[]
  norm: LayerNorm | RMSNorm

  constructor(layers: Layer[], { norm, dModel }: EncoderDecoderConfig) {
    super()
    this.layers = layers
    this.norm = new norms[norm](dModel)
  }
}

/** What a decoder goes on from: what it has read of the target, and what the encoder has written. */
export interface EncoderDecoderState {
  /** Tokens of the target seen so far, padding not counted, [B]. */
  position: Int32Array
  /** Of each layer's own mixer. */
  layers: LayerState[]
  /** The source, as each layer of the decoder keeps it: fast weights, of a constant size; of softmax attention, keys and values of all tokens. */
  source: LayerState[]
}

/** Tokens int32 [B,Ts], [B,Tt]; what follows each target token, [B,Tt], is `ignoredTarget` (-1) where it doesn't count. Masks: 0 for padding. */
export interface PairBatch {
  /** Tokens of the source, int32 [B,Ts]. */
  source: Tensor
  /** Tokens of the target, int32 [B,Tt], each row begun with the symbol for it. */
  target: Tensor
  /** What follows each target token, int32 [B,Tt]; `ignoredTarget` where it doesn't count. */
  targets: Tensor
  /** int32 [B,Ts]: 0 for padding. */
  sourceMask?: Tensor
  /** int32 [B,Tt]: 0 for padding. */
  targetMask?: Tensor
}

/** Sources and targets to logits. `new EncoderDecoder({ symbols: 100, dModel: 64, heads: 4, encoderLayers: 2, decoderLayers: 2, dFf: 128 })`. */
export class EncoderDecoder extends Module {
  src_embed: Embedding
  tgt_embed: Embedding
  encoder: Stack<EncoderLayer>
  decoder: Stack<DecoderLayer>
  /** From the decoder to the logits of the target's symbols. */
  generator: Linear
  config: EncoderDecoderConfig
  /** Counts the streams drawn for initial values and dropout. */
  random: Generator

  /** Parameters are made on the default device (setDevice). */
  constructor(config: Partial<EncoderDecoderConfig> & { symbols: number }, seed = 1) {
    super()
    checkObject('EncoderDecoder', config, 'symbols')
    const c: EncoderDecoderConfig = withDefaults({ ...encoderDecoderDefaults, sourceSymbols: config.symbols }, config)
    const kinds = checkConfig(c)
    this.config = c
    this.random = { ...generator(seed), stream: firstStream }
    const g = this.random
    this.src_embed = new Embedding(c.sourceSymbols, c.dModel, g, c.embeddingStd)
    this.tgt_embed = c.tie === 'all' ? this.src_embed : new Embedding(c.symbols, c.dModel, g, c.embeddingStd)
    this.encoder = new Stack(
      Array.from({ length: c.encoderLayers }, () => new EncoderLayer(c, kinds.encoder, g)),
      c,
    )
    this.decoder = new Stack(
      kinds.decoder.map((mixer, i) => new DecoderLayer(c, i, mixer, kinds.cross, g)),
      c,
    )
    this.generator = new Linear(c.dModel, c.symbols, g)
    if (c.tie !== 'none') {
      this.generator.weight.dispose()
      this.generator.weight = this.tgt_embed.weight
    }
  }

  /**
   * source int32 [B,Ts], target int32 [B,Tt] -> logits [B,Tt,symbols] of what follows each token of the target, which sees the whole source and the
   * target up to itself; and the state after the last. Masks, int32 of the shape of their tokens, are 0 at padding, which leaves no trace; at
   * padding of the target the logits are 0.
   */
  forward(
    source: Tensor,
    target: Tensor,
    options: { sourceMask?: Tensor; targetMask?: Tensor } = {},
  ): { logits: Tensor; state: EncoderDecoderState } {
    checkKnown(options, ['sourceMask', 'targetMask'])
    const { B, memories } = this.read(source, options.sourceMask)
    const begun = { position: new Int32Array(B), layers: this.decoder.layers.map(() => ({})), source: memories }
    return this.decode(target, begun, { mask: options.targetMask })
  }

  /** The state before the first token of the target: the source [B,Ts], written into the memories of the decoder's layers. */
  encode(source: Tensor, options: { mask?: Tensor } = {}): EncoderDecoderState {
    checkKnown(options, ['mask'])
    const { B, memories } = this.read(source, options.mask)
    const layers = this.decoder.layers.map(({ self_attn }) => initialState(self_attn as never, B) as LayerState)
    return { position: new Int32Array(B), layers, source: memories }
  }

  /** Goes on with a target [B,T] from where encode or decode stopped. The state that it gives has tensors of its own, the source's included. */
  decode(target: Tensor, state: EncoderDecoderState, options: { mask?: Tensor } = {}): { logits: Tensor; state: EncoderDecoderState } {
    checkKnown(options, ['mask'])
    const { B, T } = checkTokens('decode', 'target', target, this.config.symbols)
    if (!(state?.position instanceof Int32Array && Array.isArray(state.layers) && Array.isArray(state.source)))
      throw new Error(`decode: the state must be what encode or decode returned, not ${told(state)}`)
    if (state.position.length !== B) throw new Error(`decode: the state has ${state.position.length} rows, the target ${B}`)
    for (const part of ['layers', 'source'] as const)
      if (state[part].length !== this.decoder.layers.length)
        throw new Error(`decode: the state has ${state[part].length} layers, the decoder ${this.decoder.layers.length}`)
    const packing = checkPacking('decode', options, B, T)
    const { at, next } = places(packing, B, T, state.position)
    let x = embed(this.tgt_embed, target, () => at, this.config)
    const layers = this.decoder.layers.map((layer, i) => {
      const result = layer.forward(x, state.source[i], state.layers[i], packing)
      x = result.y
      return result.state
    })
    const logits = atTokens(this.generator.forward(this.decoder.norm.forward(x)), packing)
    // Under the same memory, so that the old state may be disposed of as any other layer's.
    const source = mapState(state.source, (t) => reshape(t, t.shape)) as LayerState[]
    return { logits, state: { position: next, layers, source } }
  }

  /** Mean cross-entropy over the targets that count, in nats: a tensor of one number, for `backward()`. */
  loss({ source, target, targets, ...masks }: PairBatch): Tensor {
    return crossEntropy(this.forward(source, target, masks).logits, targets, { ignore: ignoredTarget })
  }

  /** See `Parts`. */
  stateParts(B: number): Parts {
    const { layers } = this.decoder
    return {
      position: { dtype: 'int32', shape: [B] },
      layers: layers.map(({ self_attn }) => self_attn.stateParts(B)),
      source: layers.map(({ src_attn }) => src_attn.stateParts(B)),
    }
  }

  /** To be called after each epoch of training: layers that draw something anew for each do so. */
  endEpoch(): void {
    const layers = [...this.encoder.layers, ...this.decoder.layers] as { self_attn: { endEpoch?(): void }; src_attn?: CrossLayer }[]
    for (const { self_attn, src_attn } of layers) for (const layer of [self_attn, src_attn]) layer?.endEpoch?.()
  }

  /** The source as the encoder gives it, in the memory of each layer of the decoder. */
  private read(source: Tensor, mask: Tensor | undefined): { B: number; memories: LayerState[] } {
    const { B, T } = checkTokens('encode', 'source', source, this.config.sourceSymbols)
    const packing = checkPacking('encode', { mask }, B, T)
    let x = embed(this.src_embed, source, () => places(packing, B, T).at, this.config)
    for (const layer of this.encoder.layers) x = layer.forward(x, packing)
    const encoded = this.encoder.norm.forward(x)
    return { B, memories: this.decoder.layers.map(({ src_attn }) => src_attn.write(encoded, { mask: packing.mask })) }
  }
}

function checkTokens(op: string, name: string, tokens: Tensor, symbols: number): { B: number; T: number } {
  checkInt32(op, tokens)
  if (tokens.shape.length !== 2 || tokens.size === 0) throw new Error(`${op}: the ${name} has shape ${show(tokens.shape)}, expected [B,T]`)
  const [B, T] = tokens.shape
  const bad = tokens.indices?.findIndex((token) => token < 0 || token >= symbols) ?? -1
  if (bad >= 0)
    throw new Error(
      `${op}: the ${name} holds ${tokens.indices![bad]} at [${Math.floor(bad / T)},${bad % T}], where its ${symbols} symbols are 0 to ${symbols - 1}`,
    )
  return { B, T }
}

/** Throws unless these are tokens: numbers that int32 has, from 0. */
function checkRow(what: string, row: unknown): void {
  if (!Array.isArray(row) && !(ArrayBuffer.isView(row) && 'length' in row))
    throw new Error(`${what} must be a list of tokens, such as [1, 2], not ${told(row)}`)
  const tokens = Array.from(row as ArrayLike<unknown>)
  const bad = tokens.findIndex((token) => !(typeof token === 'number' && Number.isInteger(token) && token >= 0 && token < 2 ** 31))
  if (bad >= 0) throw new Error(`${what} holds ${told(tokens[bad])} at ${bad}; tokens are integers from 0, below 2^31`)
}

/**
 * Pairs of a source and a target of any lengths as one padded batch, for teacher forcing: the target is shown from `begin` on, and what should follow
 * is its own tokens, then `end`.
 */
export function pairBatch(
  pairs: readonly (readonly [source: ArrayLike<number>, target: ArrayLike<number>])[],
  options: { begin: number; end: number; device?: Tensor['device'] },
): PairBatch {
  checkOptions('pairBatch', options, ['begin', 'end', 'device'])
  const { begin, end, device = getDevice() } = options
  if (!Array.isArray(pairs as unknown) || pairs.length === 0)
    throw new Error(`pairBatch: needs pairs of a source and a target, such as [[[1, 2], [2, 1]]], not ${told(pairs)}`)
  for (const [i, pair] of (pairs as readonly unknown[]).entries()) {
    if (!(Array.isArray(pair) && pair.length === 2))
      throw new Error(`pairBatch: a pair must be [source, target], two lists of tokens, not ${told(pair)} (pair ${i})`)
    for (const [at, side] of ['source', 'target'].entries()) checkRow(`pairBatch: the ${side} of pair ${i}`, pair[at])
  }
  for (const [name, symbol] of Object.entries({ begin, end })) {
    checkNumber(`pairBatch: ${name}`, symbol, 'an integer, 0 or more')
    checkRow(`pairBatch: ${name}`, [symbol])
  }
  const padded = (rows: readonly ArrayLike<number>[], padding: number): Tensor => {
    const T = Math.max(1, ...rows.map(({ length }) => length))
    const values = rows.flatMap((row) => Array.from({ length: T }, (_, t) => (t < row.length ? row[t] : padding)))
    return tensor(Int32Array.from(values), { shape: [rows.length, T], device })
  }
  const there = (row: ArrayLike<number>): number[] => new Array<number>(row.length).fill(1)
  const sources = pairs.map(([source]) => source)
  const shown = pairs.map(([, target]) => [begin, ...Array.from(target)])
  return {
    source: padded(sources, 0),
    sourceMask: padded(sources.map(there), 0),
    target: padded(shown, 0),
    targetMask: padded(shown.map(there), 0),
    targets: padded(
      pairs.map(([, target]) => [...Array.from(target), end]),
      ignoredTarget,
    ),
  }
}
