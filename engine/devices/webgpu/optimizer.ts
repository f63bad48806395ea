import { optimizer } from '../../../kernels-wgsl/generated/wgsl.ts'
import type { Kernels } from '../kernels.ts'
import type { Block } from './memory.ts'
import { type Gpu, perGroup } from './runtime.ts'

export function optimizerKernels(gpu: Gpu): Pick<Kernels<Block>, 'adam'> {
  return {
    adam(slots, gradScale, options) {
      const common = () => {
        const { lr, beta1, beta2, eps, weightDecay, decoupled, correction1, correction2 } = options()
        return {
          scaled: Number(gradScale !== null),
          // What is near 1 is subtracted here, in float64.
          beta1,
          rest1: 1 - beta1,
          beta2,
          rest2: 1 - beta2,
          step: lr / correction1,
          root: 1 / Math.sqrt(correction2),
          eps,
          l2: decoupled ? 0 : weightDecay,
          decay: decoupled ? lr * weightDecay : 0,
        }
      }
      // A dispatch each: of the 8 buffers that it may bind a parameter takes 4, what is common 2.
      for (const { p, g, m, v, n } of slots) {
        const bindings = { parameter: p, gradient: g, m, v, gradScale, faults: gpu.faults }
        gpu.run(optimizer, 'adam', bindings, () => ({ n, ...common() }), Math.ceil(n / perGroup))
      }
    },
  }
}
