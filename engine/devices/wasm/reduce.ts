import type { Kernels } from '../kernels.ts'
import { cut, withWords } from './axes.ts'
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'

/** Elements a piece. */
const grain = 32768
/** As in kernels-wasm/sums.ts and reduce.ts. */
export const block = 4096
const columns = 32,
  width = 2048

/** y[0] = the sum of the elements of all xs, or, with `norm`, the root of the sum of their squares. */
export function total(pool: Pool, xs: readonly { x: Block; n: number }[], norm: boolean, y: Block): void {
  const arrays = xs.map(({ x, n }) => ({ n, addresses: [x.pointer] }))
  const { words, tasks } = cut(arrays, block)
  withWords(pool, words, (table) => {
    const partial = pool.memory.allocate(4 * Math.max(tasks, 1))
    try {
      pool.run('partialSums', tasks, grain / block, [table, Number(norm), partial.pointer])
      pool.run('addPartialSums', 1, 1, [partial.pointer, tasks, Number(norm), y.pointer])
    } finally {
      pool.memory.free(partial)
    }
  })
}

export function reduceKernels(pool: Pool): Pick<Kernels<Block>, 'reduce' | 'cumsum'> {
  return {
    reduce(op, x, y, outer, n, inner) {
      const code = op === 'sum' ? 0 : 1
      if (inner > 1) {
        // Neighbouring columns are on one page of memory: pieces as wide as the threads allow.
        const tasks = outer * Math.ceil(inner / columns)
        const wide = Math.min(width / columns, Math.ceil(tasks / (2 * pool.threads)))
        const piece = Math.max(wide, Math.ceil(grain / (columns * (n + 1))))
        pool.run('reduceColumns', tasks, piece, [code, x.pointer, y.pointer, n, inner], 4 * width)
      } else if (inner === 1 && op === 'sum' && outer === 1) {
        total(pool, [{ x, n }], false, y)
      } else if (inner === 1) {
        pool.run('reduceRows', outer, Math.ceil(grain / (n + 1)), [code, x.pointer, y.pointer, n])
      }
    },
    cumsum(x, y, outer, n, inner, reverse) {
      pool.run('cumsum', outer * Math.ceil(inner / 4), Math.ceil(grain / (4 * (n + 1))), [x.pointer, y.pointer, n, inner, Number(reverse)])
    },
  }
}
