import { linear } from '../../../kernels-wgsl/generated/wgsl.ts'
import type { Kernels } from '../kernels.ts'
import type { Block } from './memory.ts'
import type { Gpu } from './runtime.ts'

export function linearKernels(gpu: Gpu): Pick<Kernels<Block>, 'solveSpd'> {
  return {
    solveSpd(a, b, x, N, K) {
      gpu.scratch(N * K * K, (L) => gpu.run(linear, 'solveSpd', { a, b, x, L }, { N, K }, K === 0 ? 0 : N))
    },
  }
}
