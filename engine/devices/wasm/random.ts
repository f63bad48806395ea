import type { Kernels } from '../kernels.ts'
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'

/** Elements a piece; a multiple of 4. */
const grain = 8192

export function randomKernels(pool: Pool): Pick<Kernels<Block>, 'random' | 'dropout'> {
  return {
    random(kind, y, n, key0, key1, a, b) {
      if (kind === 'uniform') pool.run('randomUniform', n, grain, () => [y.pointer, key0, key1(), a, b - a])
      else pool.run('randomNormal', n, grain, () => [y.pointer, key0, key1(), a, b])
    },
    dropout(x, y, n, p, key0, key1) {
      // u < p as integers: u 2^24 is one, and so is the least that isn't below p 2^24. p in float32, as on every device.
      const threshold = Math.ceil(Math.fround(p) * 2 ** 24)
      pool.run('dropout', n, grain, () => [x.pointer, y.pointer, threshold, 1 / (1 - p), key0, key1()])
    },
  }
}
