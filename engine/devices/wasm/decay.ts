import type { Kernels } from '../kernels.ts'
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'
import { reduceKernels } from './reduce.ts'

/** Elements a piece. */
const grain = 8192

export function decayKernels(pool: Pool): Pick<Kernels<Block>, 'decay' | 'decayBackward'> {
  const { reduce } = reduceKernels(pool)
  const rows = (n: number): number => Math.ceil(grain / (n + 1))
  return {
    decay(a, rate, shift, y, R, n, width) {
      pool.run('decay', R, rows(n), [a.pointer, rate.pointer, shift.pointer, y.pointer, n, width], 4 * n + 16)
    },
    decayBackward(a, rate, shift, dy, { da, drate, dshift }, R, n, width) {
      const ofRate = pool.memory.allocate(4 * R * n)
      try {
        const args = [a.pointer, rate.pointer, shift.pointer, dy.pointer, da.pointer, ofRate.pointer, n, width]
        pool.run('decayBackward', R, rows(n), args, 4 * n + 16)
        reduce('sum', ofRate, drate, 1, R, n)
        reduce('sum', da, dshift, 1, R, n)
      } finally {
        pool.memory.free(ofRate)
      }
    },
  }
}
