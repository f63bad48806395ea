/**
 * A mixer is what a layer of a model does over time, as fast-weight attention does. This is what it tells of itself: a row of the table in
 * mixers.ts, from which the transformer, the command and its help, checkpoints, doctor and the tests know it.
 */
import type { Generator } from '../engine/random.ts'
import type { Tensor } from '../engine/tensor.ts'
import type { Fields, Meaning } from './fields.ts'
import type { AttentionOptions } from './heads.ts'
import type { Module } from './module.ts'
import type { Parts } from './parts.ts'

/** What a layer remembers: tensors, and counts in Int32Arrays [B] or [B,...], by the names of its parts. */
export type LayerState = object

/** What a layer makes of sequences that begin, before its output layer. */
export interface Look {
  /** What its memory is written and read with, by name, as the rule has them: q, k [B,T,H,K], v [B,T,H,V], ...; of aft [B,T,D]. */
  inputs: Readonly<Record<string, Tensor>>
  /** Whether a key k_t retrieves S_t^T k_t, S [K,V] a part of the state, from zeros on. */
  pairs?: boolean
  /** What would be read if these were the values, of the shape of v or wider; absent where what is read isn't linear in them. */
  read?(values: Tensor): Tensor
}

/** Causal: [B,T,D] -> [B,T,D]; what comes later changes nothing of what came before, to the bit. */
export interface SequenceLayer extends Module {
  /** Without a state, or with one that has no parts, sequences begin. What x and `accumulate` hold at padding is never looked at; y is 0 there. */
  forward(x: Tensor, state?: LayerState, options?: AttentionOptions): { y: Tensor; state: LayerState }
  /** The parts of its state for B rows; before the first token they hold zeros, but for some (`freshOf`). */
  stateParts(B: number): Parts
  /** Called after each epoch of training, where something is drawn anew then. */
  endEpoch?(): void
  /** x: [B,T,D]. For `trace`; nets whose memory isn't written with keys and values have none. `first`: see `RwkvOptions`. */
  look?(x: Tensor, first?: Tensor): Look
}

/** C: its settings, without the model's width. */
export interface Mixer<C extends object, Layer extends SequenceLayer = SequenceLayer> {
  /** As messages call it. */
  title: string
  /** One line. */
  description: string
  source: string
  /** Each setting: what it is, may be, and is by default. */
  fields: Fields<C>
  /** Settings that mean something only beside others. */
  meanings?: readonly Meaning<C & { dModel: number }>[]
  /** Throws unless the settings make sense for the width dModel; nothing has been allocated then. */
  check(c: C & { dModel: number }): void
  /** `place`: which of a model's layers it is. */
  make(c: C & { dModel: number }, g: Generator, place: { layer: number; layers: number }): Layer
  /** Whether it can't tell in which order earlier tokens came, so that a model needs positions beside it. */
  blind(c: C): boolean
}
