/**
 * Strided shapes for the kernels: axes that run on from one another become one, the innermost becomes the row, and the others go to the
 * kernel as a table (kernels-wasm/rows.ts).
 */
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'

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

/** Calls `body` with the address of the table that kernels-wasm/rows.ts reads; 0 if there are no axes. */
export function withAxes({ memory }: Pool, axes: readonly Axis[], body: (table: number) => void): void {
  if (axes.length === 0) return body(0)
  const table: Block = memory.allocate(12 * axes.length)
  memory.int32(table, 3 * axes.length).set(axes.flatMap(({ size, strides }) => [size, ...strides]))
  try {
    body(table.pointer)
  } finally {
    memory.free(table)
  }
}
