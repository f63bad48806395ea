import type { Kernels } from '../kernels.ts'
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'

/** Multiplications and additions that are worth a hand-over to another thread. */
const worthSharing = 1 << 18

export function linearKernels(pool: Pool): Pick<Kernels<Block>, 'solveSpd'> {
  return {
    solveSpd(a, b, x, N, K) {
      const grain = Math.ceil(worthSharing / (K ** 3 / 6 + 2 * K ** 2 + 1))
      pool.run('solveSpd', N, grain, [a.pointer, b.pointer, x.pointer, K], 4 * (K + 1) * Math.ceil(K / 4) * 4)
    },
  }
}
