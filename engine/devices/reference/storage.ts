import { type HalfType, widened } from '../../half.ts'

export interface RefStorage {
  data: Float64Array | Int32Array
}

/** What a block of 16-bit numbers holds. */
export const numbersOf = ({ data }: RefStorage, half: HalfType): Float32Array =>
  widened(new Uint16Array(data.buffer, data.byteOffset, data.byteLength / 2), half)
