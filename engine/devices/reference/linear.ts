/** Linear systems. */
import type { Kernels } from '../kernels.ts'
import type { RefStorage } from './storage.ts'

export const linearKernels: Pick<Kernels<RefStorage>, 'solveSpd'> = {
  /** A = L L^T, then L h = b and L^T x = h. Pinned by test/ops/values.test.ts. */
  solveSpd(a, b, x, N, K) {
    const L = new Float64Array(K * K)
    for (let n = 0; n < N; n++) {
      const A = a.data.subarray(n * K * K, (n + 1) * K * K)
      for (let i = 0; i < K; i++)
        for (let j = 0; j <= i; j++) {
          let total = A[i * K + j]
          for (let l = 0; l < j; l++) total -= L[i * K + l] * L[j * K + l]
          L[i * K + j] = i === j ? Math.sqrt(total) : total / L[j * K + j]
        }
      const y = x.data.subarray(n * K, (n + 1) * K)
      for (let i = 0; i < K; i++) {
        let total = b.data[n * K + i]
        for (let l = 0; l < i; l++) total -= L[i * K + l] * y[l]
        y[i] = total / L[i * K + i]
      }
      for (let i = K - 1; i >= 0; i--) {
        let total = y[i]
        for (let l = i + 1; l < K; l++) total -= L[l * K + i] * y[l]
        y[i] = total / L[i * K + i]
      }
    }
  },
}
