/** Sums and maxima along the middle axis of [outer, n, inner]. Pinned by test/ops/values.test.ts and gradients.test.ts. */
import type { Kernels } from '../kernels.ts'
import type { RefStorage } from './storage.ts'

export const reduceKernels: Pick<Kernels<RefStorage>, 'reduce' | 'cumsum'> = {
  reduce(op, x, y, outer, n, inner) {
    for (let o = 0; o < outer; o++)
      for (let i = 0; i < inner; i++) {
        let total = op === 'sum' ? 0 : -Infinity
        for (let j = 0; j < n; j++) {
          const value = x.data[(o * n + j) * inner + i]
          total = op === 'sum' ? total + value : Math.max(total, value)
        }
        y.data[o * inner + i] = total
      }
  },
  cumsum(x, y, outer, n, inner, reverse) {
    for (let o = 0; o < outer; o++)
      for (let i = 0; i < inner; i++) {
        let total = 0
        for (let j = 0; j < n; j++) {
          const at = (o * n + (reverse ? n - 1 - j : j)) * inner + i
          total += x.data[at]
          y.data[at] = total
        }
      }
  },
}
