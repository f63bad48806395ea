/** Adam (Kingma & Ba 2015) and AdamW (Loshchilov & Hutter 2019), in place. Pinned by test/ops/values.test.ts. */
import type { Kernels } from '../kernels.ts'
import type { RefStorage } from './storage.ts'

export const optimizerKernels: Pick<Kernels<RefStorage>, 'adam'> = {
  adam(p, g, m, v, n, gradScale, { lr, beta1, beta2, eps, weightDecay, decoupled, correction1, correction2 }) {
    const scale = gradScale ? gradScale.data[0] : 1
    for (let i = 0; i < n; i++) {
      const grad = g.data[i] * scale + (decoupled ? 0 : weightDecay * p.data[i])
      m.data[i] = beta1 * m.data[i] + (1 - beta1) * grad
      v.data[i] = beta2 * v.data[i] + (1 - beta2) * grad * grad
      const decay = decoupled ? lr * weightDecay * p.data[i] : 0
      p.data[i] -= decay + (lr * (m.data[i] / correction1)) / (Math.sqrt(v.data[i] / correction2) + eps)
    }
  },
}
