/** The offsets of all elements of a strided array, in row-major order of `shape`. */
export function offsets(shape: readonly number[], strides: readonly number[], start = 0): Float64Array {
  let all = Float64Array.of(start)
  shape.forEach((d, axis) => {
    const next = new Float64Array(all.length * d)
    for (let i = 0; i < all.length; i++) for (let j = 0; j < d; j++) next[i * d + j] = all[i] + j * strides[axis]
    all = next
  })
  return all
}
