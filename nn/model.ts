/** What a model has to have for the trainer and checkpoints, which Transformer, Autoencoder and EncoderDecoder do, and for generation. */
import type { Generator } from '../engine/random.ts'
import type { Tensor } from '../engine/tensor.ts'
import type { LayerState } from './mixer.ts'
import type { Module } from './module.ts'

/** The target of a position that doesn't count. */
export const ignoredTarget = -1

/** B rows of T tokens, and the token that follows each (`ignoredTarget` where none counts): [B,T]. */
export interface TokenBatch {
  /** The tokens, row after row. */
  tokens: Int32Array
  /** What follows each token, row after row; `ignoredTarget` where none counts. */
  targets: Int32Array
  B: number
  T: number
}

/** What is learnt from at a time; targets, on the host or int32 tensors, are `ignoredTarget` where none counts. */
export interface AnyBatch {
  targets: Int32Array | Tensor
}

/** What a `Trainer` trains. */
export interface Trainable<B extends AnyBatch = TokenBatch> extends Module {
  /** Mean cross-entropy over the targets that count, in nats. */
  loss(batch: B): Tensor
  /** Called after each epoch of training, where something is drawn anew then. */
  endEpoch?(): void
  /**
   * Whether `loss` is the same ops for all batches of one shape, whose numbers it takes by `varying`, so that a training step may be captured and
   * replayed (`capture`). False if absent.
   */
  readonly capturable?: boolean
}

/** What a checkpoint holds, beside the parameters: a configuration that it can be made from, and where its random streams stand. */
export interface Model<B extends AnyBatch = TokenBatch> extends Trainable<B> {
  config: object
  /** Where its random numbers come from. */
  random: Generator
}

/** Which logits `forward` gives. */
export interface LogitsChoice {
  /** Only the logits after each row's last token are asked for, [B,1,symbols]; a model may give all. */
  last?: boolean
}

/** What `generate` continues a text with. */
export interface LanguageModel<S extends LayerState = LayerState> extends Module {
  /** tokens int32 [B,T] -> logits [B,T,symbols], and the state after them. */
  forward(tokens: Tensor, state?: S, options?: LogitsChoice): { logits: Tensor; state: S }
  /**
   * Whether a step of one token is the same ops each time, on a state that keeps its size, or has room (`KeyValueState`), so that it may be captured and
   * replayed (`capture`), and rows of different lengths run side by side. False if absent.
   */
  readonly replayable?: boolean
}
