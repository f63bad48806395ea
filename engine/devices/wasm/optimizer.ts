import type { Kernels } from '../kernels.ts'
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'

/** Elements a piece; a multiple of 4. */
const grain = 16384

export function optimizerKernels(pool: Pool): Pick<Kernels<Block>, 'adam'> {
  return {
    adam(p, g, m, v, n, gradScale, { lr, beta1, beta2, eps, weightDecay, decoupled, correction1, correction2 }) {
      // What is near 1 is subtracted here, in float64.
      pool.run('adam', n, grain, [
        p.pointer,
        g.pointer,
        m.pointer,
        v.pointer,
        gradScale?.pointer ?? 0,
        beta1,
        1 - beta1,
        beta2,
        1 - beta2,
        lr / correction1,
        1 / Math.sqrt(correction2),
        eps,
        decoupled ? 0 : weightDecay,
        decoupled ? lr * weightDecay : 0,
      ])
    },
  }
}
