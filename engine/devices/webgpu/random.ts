import { random } from '../../../kernels-wgsl/generated/wgsl.ts'
import type { Kernels } from '../kernels.ts'
import type { Block } from './memory.ts'
import { type Gpu, perGroup } from './runtime.ts'

export function randomKernels(gpu: Gpu): Pick<Kernels<Block>, 'random' | 'dropout'> {
  return {
    random(kind, y, n, key0, key1, a, b) {
      if (kind === 'uniform')
        gpu.run(random, 'uniformNumbers', { y }, () => ({ n, key0, key1: key1(), a, b: b - a }), Math.ceil(n / perGroup))
      else gpu.run(random, 'normalNumbers', { y }, () => ({ n, key0, key1: key1(), a, b }), Math.ceil(n / perGroup))
    },
    dropout(x, y, n, p, key0, key1) {
      // u < p as integers: u 2^24 is one, and so is the least that isn't below p 2^24. p in float32, as on every device.
      const threshold = Math.ceil(Math.fround(p) * 2 ** 24)
      gpu.run(random, 'dropout', { x, y }, () => ({ n, key0, key1: key1(), threshold, b: 1 / (1 - p) }), Math.ceil(n / perGroup))
    },
  }
}
