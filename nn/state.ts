/** States of layers and models: tensors in plain objects and arrays, which the caller owns. */
import { detach } from '../engine/ops/movement.ts'
import { Tensor } from '../engine/tensor.ts'
import type { AttentionState, KeyValueState } from './attention.ts'
import type { TransformerState } from './transformer.ts'

export type State = AttentionState | KeyValueState | TransformerState

/**
 * The same values without their history: what is computed from it sends no gradients further back (truncated back-propagation through
 * time). The tensors are new ones, over the same memory: the old state may go with its scope, and so may everything behind it.
 */
export const detachState = <S extends State>(state: S): S => mapTensors(state, detach) as S

/** Frees the tensors of a state. */
export function disposeState(state: State | undefined): void {
  mapTensors(state, (t) => t.dispose())
}

/** A copy of the objects and arrays, with f of each tensor. */
export function mapTensors(value: unknown, f: (t: Tensor) => unknown): unknown {
  if (value instanceof Tensor) return f(value)
  if (Array.isArray(value)) return value.map((inner) => mapTensors(inner, f))
  if (typeof value !== 'object' || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, mapTensors(inner, f)]))
}
