/** What a state consists of, as the layers tell it. */
import type { DType } from '../engine/devices/device.ts'

/** A part of a state; int32 ones are Int32Arrays on the host, the others tensors. The size -1 grows with the tokens, from 0. */
export interface Part {
  dtype: DType
  shape: readonly number[]
}
export type Parts = { readonly [name: string]: Part | readonly Parts[] }
