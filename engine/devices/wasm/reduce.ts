import type { Kernels } from '../kernels.ts'
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'

/** Elements a piece. */
const grain = 32768
/** As in kernels-wasm/sums.ts and reduce.ts. */
const block = 4096
const columns = 32

export function reduceKernels(pool: Pool): Pick<Kernels<Block>, 'reduce' | 'cumsum' | 'sumSquares'> {
  /** The sum of n elements, or of their squares, to the address y. */
  function total(x: number, n: number, squares: boolean, y: number): void {
    const blocks = Math.ceil(n / block)
    const partial = pool.memory.allocate(4 * Math.max(blocks, 1))
    try {
      pool.run('partialSums', blocks, grain / block, [x, n, Number(squares), partial.pointer])
      pool.run('addPartialSums', 1, 1, [partial.pointer, blocks, y])
    } finally {
      pool.memory.free(partial)
    }
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
        total(x.pointer, n, false, y.pointer)
      } else if (inner === 1) {
        pool.run('reduceRows', outer, Math.ceil(grain / (n + 1)), [code, x.pointer, y.pointer, n])
      }
    },
    cumsum(x, y, outer, n, inner, reverse) {
      pool.run('cumsum', outer * Math.ceil(inner / 4), Math.ceil(grain / (4 * (n + 1))), [x.pointer, y.pointer, n, inner, Number(reverse)])
    },
    sumSquares(x, n, y, slot) {
      total(x.pointer, n, true, y.pointer + 4 * slot)
    },
  }
}
