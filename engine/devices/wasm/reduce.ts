import type { Kernels } from '../kernels.ts'
import { pieces, withWords } from './axes.ts'
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'

/** Elements a piece. */
const grain = 32768
/** As in kernels-wasm/sums.ts and reduce.ts. */
export const block = 4096
const columns = 32

export function reduceKernels(pool: Pool): Pick<Kernels<Block>, 'reduce' | 'cumsum' | 'sumSquares'> {
  /** y[i] = the sum of the n elements from the address xs[i].x on, or of their squares. */
  function totals(xs: readonly { x: number; n: number }[], squares: boolean, y: number): void {
    const blocks = xs.flatMap(({ x, n }) => pieces(n, block).flatMap(([first, count]) => [x + 4 * first, count]))
    const ends = [0]
    for (const { n } of xs) ends.push(ends[ends.length - 1] + Math.ceil(n / block))
    const count = blocks.length / 2
    withWords(pool, [...ends, ...blocks], (words) => {
      const partial = pool.memory.allocate(4 * Math.max(count, 1))
      try {
        pool.run('partialSums', count, grain / block, [words + 4 * ends.length, Number(squares), partial.pointer])
        pool.run('addPartialSums', xs.length, xs.length, [partial.pointer, words, y])
      } finally {
        pool.memory.free(partial)
      }
    })
  }

  return {
    reduce(op, x, y, outer, n, inner) {
      const code = op === 'sum' ? 0 : 1
      if (inner > 1) {
        pool.run('reduceColumns', outer * Math.ceil(inner / columns), Math.ceil(grain / (columns * (n + 1))), [
          code,
          x.pointer,
          y.pointer,
          n,
          inner,
        ])
      } else if (inner === 1 && op === 'sum' && outer === 1) {
        totals([{ x: x.pointer, n }], false, y.pointer)
      } else if (inner === 1) {
        pool.run('reduceRows', outer, Math.ceil(grain / (n + 1)), [code, x.pointer, y.pointer, n])
      }
    },
    cumsum(x, y, outer, n, inner, reverse) {
      pool.run('cumsum', outer * Math.ceil(inner / 4), Math.ceil(grain / (4 * (n + 1))), [x.pointer, y.pointer, n, inner, Number(reverse)])
    },
    sumSquares(xs, y) {
      totals(
        xs.map(({ x, n }) => ({ x: x.pointer, n })),
        true,
        y.pointer,
      )
    },
  }
}
