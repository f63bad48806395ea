/** Strided shapes for the kernels, which take up to 8 axes at once. */
import { type Axis, mergedAxes } from '../axes.ts'

export type { Axis } from '../axes.ts'

const axesLimit = 8

/**
 * Calls `dispatch` with the number of elements and the axes, as (size, stride, stride, 0) each; more than once where more axes remain than a
 * kernel takes, with the offsets of the part in both operands and in the dense order of elements.
 */
export function forEachDispatch(
  axes: readonly Axis[],
  dispatch: (n: number, rank: number, table: number[], offsets: [number, number], first: number) => void,
): void {
  const merged = mergedAxes(axes)
  const outer = merged.splice(0, Math.max(0, merged.length - axesLimit))
  const n = merged.reduce((product, { size }) => product * size, 1)
  const table = merged.flatMap(({ size, strides }) => [size, ...strides, 0])
  const parts = outer.reduce((product, { size }) => product * size, 1)
  for (let part = 0; part < parts; part++) {
    const offsets: [number, number] = [0, 0]
    let rest = part
    for (const { size, strides } of [...outer].reverse()) {
      offsets[0] += (rest % size) * strides[0]
      offsets[1] += (rest % size) * strides[1]
      rest = Math.floor(rest / size)
    }
    dispatch(n, merged.length, table, offsets, part * n)
  }
}
