import { sizeOf } from '../../shape.ts'

/** The offsets of all elements of a strided array, in row-major order of `shape`. */
export function offsets(shape: readonly number[], strides: readonly number[], start = 0): Float64Array {
  const all = new Float64Array(sizeOf(shape))
  if (all.length === 0) return all
  all[0] = start
  let n = 1
  for (const [axis, d] of shape.entries()) {
    // Each becomes d, the last one first, so that none is overwritten before.
    for (let i = n - 1; i >= 0; i--) for (let j = d - 1; j >= 0; j--) all[i * d + j] = all[i] + j * strides[axis]
    n *= d
  }
  return all
}
