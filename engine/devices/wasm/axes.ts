/**
 * Strided shapes for the kernels: the two innermost axes are the kernel's own loops, and the others, seldom any, go to it as a table.
 */
import type { Axis } from '../axes.ts'
import type { Pool } from './pool.ts'

/**
 * Runs a kernel over rows of planes: args, then (size, stride, stride) of the innermost axis and of the one around it, then what is left
 * as a table (kernels-wasm/planes.ts). A task is an element.
 */
export function runPlanes(pool: Pool, kernel: string, grain: number, args: readonly number[], axes: readonly Axis[]): void {
  const size = axes.reduce((product, axis) => product * axis.size, 1)
  const single: Axis = { size: 1, strides: [1, 1] }
  const [plane, row] = [axes.at(-2) ?? single, axes.at(-1) ?? single]
  withTable(pool, axes.slice(0, -2), (rank, table) => {
    pool.run(kernel, size, grain, [...args, row.size, ...row.strides, plane.size, ...plane.strides, rank, table])
  })
}

/** Calls `body` with the rank and the address of the table of axes that kernels-wasm/planes.ts reads. */
export function withTable(pool: Pool, axes: readonly Axis[], body: (rank: number, table: number) => void): void {
  if (axes.length === 0) body(0, 0)
  else
    withWords(
      pool,
      axes.flatMap(({ size, strides }) => [size, ...strides]),
      (table) => body(axes.length, table),
    )
}

/** Calls `body` with the address of a table of int32 or addresses. */
export function withWords({ memory, ...pool }: Pool, words: readonly number[], body: (table: number) => void): void {
  const table = pool.table(words)
  try {
    body(table.pointer)
  } finally {
    memory.free(table)
  }
}

/** The table of arrays that kernels-wasm/cuts.ts reads, for tasks of `length` elements, and how many tasks they are. */
export function cut(arrays: readonly { n: number; addresses: readonly number[] }[], length: number): { words: number[]; tasks: number } {
  const words: number[] = []
  let tasks = 0
  for (const { n, addresses } of arrays) {
    words.push(tasks, n, ...addresses)
    tasks += Math.ceil(n / length)
  }
  words.push(tasks)
  return { words, tasks }
}
