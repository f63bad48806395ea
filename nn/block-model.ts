/**
 * A language model whose layers are lists of parts, x + part(norm(x)) each: what layers over time, feed-forward layers and norms it has is its configuration.
 * The models of other packages are made so (nn/pretrained); `Transformer` is the one that this package's command trains.
 */
import { checkFlag, checkNumber, told } from '../engine/arguments.ts'
import { checkInt32 } from '../engine/ops/check.ts'
import { add, affine, where } from '../engine/ops/elementwise.ts'
import { detach } from '../engine/ops/movement.ts'
import { crossEntropy } from '../engine/ops/norm.ts'
import { type Generator, generator, normal } from '../engine/random.ts'
import { recording } from '../engine/recording.ts'
import { parameter, type Tensor, tensor } from '../engine/tensor.ts'
import { firstStream, throughLayer } from './blocks.ts'
import { Experts, type ExpertsSettings } from './experts.ts'
import { checkChoice, checkKnown } from './fields.ts'
import type { AttentionOptions } from './heads.ts'
import { LatentAttention, type LatentSettings } from './latent-attention.ts'
import { Embedding, GatedFeedForward, LayerNorm, Linear, RMSNorm } from './layers.ts'
import { MambaLayer, type MambaSettings } from './mamba.ts'
import { Mamba2Layer, type Mamba2Settings } from './mamba2.ts'
import { MemoryLayer, type MemorySettings, type SharedBounds } from './memory-layer.ts'
import type { LayerState } from './mixer.ts'
import { ignoredTarget, type LogitsChoice, type TokenBatch } from './model.ts'
import { Module } from './module.ts'
import { asked, atTokens, checkPacking, type Packing } from './packing.ts'
import { keepsPace, type Parts } from './parts.ts'
import { RwkvChannelMix, type RwkvSettings, RwkvTimeMix } from './rwkv.ts'
import { SoftmaxAttention, type SoftmaxOptions, type SoftmaxSettings } from './softmax-attention.ts'

/** The kind of a norm and its settings. */
export interface NormChoice {
  kind: 'layer' | 'rms'
  /** Added to the variance, or to the mean of squares. */
  eps: number
  /** The eps when the model doesn't train, where that is another. */
  evaluationEps?: number
  /** layer: a bias beside the gain. */
  bias?: boolean
  /** rms: the gain is 1 + weight. */
  centered?: boolean
}

type Of<Kind extends string, Settings> = { kind: Kind } & Joint & Settings

/** How a part joins what it's added to. */
export interface Joint {
  norm: NormChoice
  /** `before`: x + part(norm(x)), where nothing is said; `after`: x + norm(part(x)); `instead`: of h = norm(x), alpha h + beta part(h). */
  order?: 'before' | 'after' | 'instead'
  alpha?: number
  beta?: number
}
/** A part: its norm, its kind, and the settings of that. */
export type PartChoice =
  | Of<'memory', Partial<MemorySettings> & { bounded?: boolean }>
  | Of<'softmax', SoftmaxOptions & SoftmaxSettings>
  | Of<'mamba2', Partial<Mamba2Settings>>
  | Of<'rwkv', Partial<RwkvSettings> & { version: RwkvSettings['version'] }>
  | Of<'rwkv-channels', { version: RwkvSettings['version']; inner: number }>
  | Of<'latent', Partial<LatentSettings>>
  | Of<'mamba', Partial<MambaSettings>>
  | Of<'experts', Partial<ExpertsSettings>>
  | Of<'gated-feed-forward', { inner: number }>

/** Settings of a `BlockModel`: a language model whose layers are made of parts. */
export interface BlockModelConfig {
  /** Size of the vocabulary. */
  symbols: number
  dModel: number
  /** Applied to embeddings, in their place. */
  embeddingNorm?: NormChoice | null
  /** Each layer's parts. */
  layers: readonly (readonly PartChoice[])[]
  /** The norm before the logits. */
  norm: NormChoice
  /** The matrix that gives the logits is the embedding: one parameter with two names. */
  tie: boolean
  /** A token whose embedding learns nothing as an input. */
  padding?: number | null
}

/** What a `BlockModel` carries from one token to the next. */
export interface BlockModelState {
  /** Of each layer, of each part that looks back in time, in order. */
  layers: { parts: LayerState[] }[]
}

/** What a model's layers share: HGRN-2's bounds. */
interface Making {
  dModel: number
  g: Generator
  layer: number
  bounds: Tensor | null
}

const sharedOf = ({ bounds, layer }: Making): SharedBounds | undefined => (bounds ? { bounds, layer } : undefined)
const makers = {
  memory: ({ bounded, ...c }: Partial<MemorySettings> & { bounded?: boolean }, m: Making) =>
    new MemoryLayer({ ...c, dModel: m.dModel }, m.g, bounded ? sharedOf(m) : undefined),
  softmax: (c: SoftmaxOptions & SoftmaxSettings, m: Making) => new SoftmaxAttention({ ...c, dModel: m.dModel }, m.g),
  mamba2: (c: Partial<Mamba2Settings>, m: Making) => new Mamba2Layer({ ...c, dModel: m.dModel }, m.g),
  rwkv: (c: Partial<RwkvSettings> & { version: RwkvSettings['version'] }, m: Making) => new RwkvTimeMix({ ...c, dModel: m.dModel }, m.g, m),
  'rwkv-channels': (c: { version: RwkvSettings['version']; inner: number }, m: Making) =>
    new RwkvChannelMix({ ...c, dModel: m.dModel }, m.g),
  latent: (c: Partial<LatentSettings>, m: Making) => new LatentAttention({ ...c, dModel: m.dModel }, m.g),
  mamba: (c: Partial<MambaSettings>, m: Making) => new MambaLayer({ ...c, dModel: m.dModel }, m.g),
  experts: (c: Partial<ExpertsSettings>, m: Making) => new Experts({ ...c, dModel: m.dModel }, m.g),
  'gated-feed-forward': ({ inner }: { inner: number }, m: Making) => new GatedFeedForward(m.dModel, inner, m.g),
}

const norms = { layer: LayerNorm, rms: RMSNorm }

/** A norm of a model's, with its eps in training and without. */
function normOf({ kind, eps, bias = true, centered = false }: NormChoice, width: number): LayerNorm | RMSNorm {
  checkChoice('norm', kind, norms)
  return kind === 'rms' ? new RMSNorm(width, eps, { centered }) : new LayerNorm(width, eps, { bias })
}

const normed = (norm: LayerNorm | RMSNorm, choice: NormChoice, x: Tensor): Tensor =>
  norm.forward(x, norm.training ? choice.eps : (choice.evaluationEps ?? choice.eps))

/** What a part takes and gives: those that look back in time have a state. `first`: see `RwkvOptions`. */
interface PartLayer extends Module {
  forward(x: Tensor, state: LayerState | undefined, options: AttentionOptions & { first?: Tensor }): PartResult
  stateParts?(B: number): Parts
}
interface PartResult {
  y: Tensor
  state?: LayerState
  first?: Tensor
}

/** A layer with its norm: see `Joint`. */
export class Part extends Module {
  norm: LayerNorm | RMSNorm
  layer: ReturnType<(typeof makers)[keyof typeof makers]>
  private joint: Joint

  constructor({ kind, norm, order, alpha, beta, ...settings }: PartChoice, m: Making) {
    super()
    checkChoice('part', kind, makers)
    checkChoice('order', order ?? 'before', { before: 0, after: 0, instead: 0 })
    this.joint = { norm, order, alpha, beta }
    this.norm = normOf(norm, m.dModel)
    this.layer = makers[kind](settings as never, m)
  }

  forward(x: Tensor, state: LayerState | undefined, packing: Packing, first: Tensor | undefined): PartResult {
    const { norm, order = 'before', alpha = 1, beta = 1 } = this.joint
    if (order === 'after') {
      const { y, ...rest } = this.run(x, state, packing, first)
      return { y: add(x, normed(this.norm, norm, y)), ...rest }
    }
    const h = normed(this.norm, norm, x)
    if (order === 'before') return this.run(h, state, packing, first, x)
    const { y, ...rest } = this.run(h, state, packing, first)
    return { y: add(affine(h, alpha), affine(y, beta)), ...rest }
  }

  private run(x: Tensor, state: LayerState | undefined, packing: Packing, first: Tensor | undefined, accumulate?: Tensor): PartResult {
    const { layer } = this
    if (layer instanceof GatedFeedForward || layer instanceof Experts) return { y: layer.forward(x, { accumulate }) }
    const options = { ...packing, accumulate, ...(layer instanceof RwkvTimeMix && first && { first }) }
    return (layer as PartLayer).forward(x, state, options)
  }

  /** Whether it looks back in time. */
  get remembers(): boolean {
    return 'stateParts' in this.layer
  }
}

class Block extends Module {
  parts: Part[]

  constructor(parts: readonly PartChoice[], m: Making) {
    super()
    this.parts = parts.map((part) => new Part(part, m))
  }

  stateParts(B: number): Parts {
    return { parts: this.parts.flatMap(({ layer }) => ('stateParts' in layer ? [layer.stateParts(B)] : [])) }
  }
}

/** Tokens to logits. */
export class BlockModel extends Module {
  embedding: Embedding
  embedding_norm: LayerNorm | RMSNorm | null
  layers: Block[]
  /** The norm before the logits. */
  norm: LayerNorm | RMSNorm
  /** From the last layer to the logits; its weight may be the embedding's. */
  head: Linear
  /** HGRN-2: see `SharedBounds`. */
  bounds: Tensor | null
  config: BlockModelConfig
  /** Where its random numbers come from; part of what a checkpoint saves. */
  random: Generator

  /** Parameters are made on the default device (setDevice). */
  constructor(config: BlockModelConfig, seed = 1) {
    super()
    checkKnown(config, ['symbols', 'dModel', 'embeddingNorm', 'layers', 'norm', 'tie', 'padding'])
    const { symbols, dModel, embeddingNorm, layers, norm, tie } = config
    checkNumber('symbols', symbols, 'a positive integer')
    checkNumber('dModel', dModel, 'a positive integer')
    checkFlag('tie', tie)
    if (!Array.isArray(layers) || layers.some((parts) => !Array.isArray(parts)))
      throw new Error(`layers must be a list of lists of parts, not ${told(layers)}`)
    this.config = config
    const g: Generator = { ...generator(seed), stream: firstStream }
    this.random = g
    this.embedding = new Embedding(symbols, dModel, g, 0.02)
    this.embedding_norm = embeddingNorm ? normOf(embeddingNorm, dModel) : null
    const shares = layers.flat().some((part) => part.kind === 'memory' && part.bounded)
    this.bounds = shares ? parameter(normal(g, [layers.length, dModel], 0, 0.1)) : null
    this.layers = layers.map((parts, layer) => new Block(parts, { dModel, g, layer, bounds: this.bounds }))
    this.norm = normOf(norm, dModel)
    this.head = new Linear(dModel, symbols, g, { bias: false })
    if (tie) {
      this.head.weight.dispose()
      this.head.weight = this.embedding.weight
    }
  }

  /** tokens int32 [B,T] -> logits [B,T,symbols]; `state` and options as those of `Transformer`. */
  forward(tokens: Tensor, state?: BlockModelState, options: Packing & LogitsChoice = {}): { logits: Tensor; state: BlockModelState } {
    checkInt32('forward', tokens)
    if (tokens.shape.length !== 2 || tokens.size === 0)
      throw new Error(`forward: tokens have shape [${tokens.shape.join(',')}], expected [B,T]`)
    const [B, T] = tokens.shape
    if (state != null && !(Array.isArray(state.layers) && state.layers.length === this.layers.length))
      throw new Error(`forward: the state must be what forward or initialState returned for a model of ${this.layers.length} layers`)
    const packing = checkPacking('forward', options, B, T, ['last'])
    let x = this.embedded(tokens)
    let first: Tensor | undefined
    const layers = this.layers.map(({ parts }, i): { parts: LayerState[] } => {
      const states: LayerState[] = []
      for (const part of parts) {
        const before = part.remembers ? state?.layers[i].parts[states.length] : undefined
        const run = (): PartResult => part.forward(x, before, packing, first)
        const result = throughLayer(x, run)
        x = result.y
        first ??= result.first
        if (result.state) states.push(result.state)
      }
      return { parts: states }
    })
    const { x: ends, mask } = asked(x, packing, options.last)
    return { logits: atTokens(this.head.forward(normed(this.norm, this.config.norm, ends)), { mask }), state: { layers } }
  }

  private embedded(tokens: Tensor): Tensor {
    const { padding } = this.config
    const found = this.embedding.forward(tokens)
    const pads = padding == null ? undefined : tokens.indices?.map((token) => Number(token === padding))
    const shape = [...tokens.shape, 1]
    const x = pads?.includes(1) && recording() ? where(tensor(pads, { shape, device: found.device }), detach(found), found) : found
    return this.embedding_norm ? this.embedding_norm.forward(x) : x
  }

  /** See `Trainable`. */
  loss({ tokens, targets, B, T }: TokenBatch): Tensor {
    const { device } = this.embedding.weight
    const { logits } = this.forward(tensor(tokens, { shape: [B, T], device }))
    return crossEntropy(logits, tensor(targets, { shape: [B, T], device }), { ignore: ignoredTarget })
  }

  /** See `Parts`. */
  stateParts(B: number): Parts {
    return { layers: this.layers.map((layer) => layer.stateParts(B)) }
  }

  /** See `LanguageModel`. */
  get replayable(): boolean {
    return keepsPace(this.stateParts(1))
  }
}
