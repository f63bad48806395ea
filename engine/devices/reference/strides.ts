import { sizeOf } from '../../shape.ts'

/** Where the offsets of small arrays are put: most are small, and memory for them takes longer than what is done with them. */
const places = [new Float64Array(4096), new Float64Array(4096)]

/** The offsets of all elements of a strided array, in row-major order of `shape`, and perhaps more behind them; they stand until the next call for the same place. */
export function offsets(place: 0 | 1, shape: readonly number[], strides: readonly number[], start = 0): Float64Array {
  const size = sizeOf(shape)
  const all = size > places[place].length ? new Float64Array(size) : places[place]
  if (size === 0) return all
  all[0] = start
  let n = 1
  for (let axis = 0; axis < shape.length; axis++) {
    const d = shape[axis]
    const stride = strides[axis]
    // Each becomes d, the last one first, so that none is overwritten before.
    for (let i = n - 1; i >= 0; i--) for (let j = d - 1; j >= 0; j--) all[i * d + j] = all[i] + j * stride
    n *= d
  }
  return all
}
