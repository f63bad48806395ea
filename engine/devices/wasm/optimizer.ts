import type { Kernels } from '../kernels.ts'
import { cut, withWords } from './axes.ts'
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'
import { total } from './reduce.ts'

/** Elements of a task, as in kernels-wasm/optimizer.ts, and of what a thread takes at once. */
const piece = 4096
const grain = 16384

export function optimizerKernels(pool: Pool): Pick<Kernels<Block>, 'gradNorm' | 'adam'> {
  return {
    gradNorm(xs, y) {
      total(pool, xs, true, y)
    },
    adam(slots, gradScale, options) {
      const arrays = slots.map(({ p, g, m, v, n }) => ({ n, addresses: [p.pointer, g.pointer, m.pointer, v.pointer] }))
      const { words, tasks } = cut(arrays, piece)
      const elements = slots.reduce((sum, { n }) => sum + n, 0)
      withWords(pool, words, (table) =>
        pool.run('adam', tasks, Math.ceil((grain * tasks) / elements), () => {
          const { lr, beta1, beta2, eps, weightDecay, decoupled, correction1, correction2, guarded } = options()
          return [
            table,
            gradScale?.pointer ?? 0,
            // What is near 1 is subtracted here, in float64.
            beta1,
            1 - beta1,
            beta2,
            1 - beta2,
            lr / correction1,
            1 / Math.sqrt(correction2),
            eps,
            decoupled ? 0 : weightDecay,
            decoupled ? lr * weightDecay : 0,
            Number(guarded ?? false),
          ]
        }),
      )
    },
  }
}
