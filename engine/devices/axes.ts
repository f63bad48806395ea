/** Strided shapes: axes that run on from one another become one. */

/** An axis: its size and its stride in each of two operands, in elements. */
export interface Axis {
  size: number
  strides: readonly [number, number]
}

/** Without axes of size 1, neighbours merged where both operands (and a dense result) just go on. Empty for a single element. */
export function mergedAxes(axes: readonly Axis[]): Axis[] {
  const merged: Axis[] = []
  for (const axis of axes) {
    if (axis.size === 1) continue
    const last = merged.at(-1)
    if (last?.strides.every((stride, i) => stride === axis.size * axis.strides[i])) {
      merged[merged.length - 1] = { size: last.size * axis.size, strides: axis.strides }
    } else merged.push(axis)
  }
  return merged
}
