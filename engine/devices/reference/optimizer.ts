/**
 * Adam (Kingma & Ba 2015), AdamW (Loshchilov & Hutter 2019) and Muon (Jordan 2024), in place. Pinned by test/ops/values.test.ts.
 */
import { type Kernels, quintic } from '../kernels.ts'
import type { RefStorage } from './storage.ts'

/** A [M,K] B, B [K,N], or stored [N,K] where `transposed`. */
function product(a: Float64Array, b: Float64Array, M: number, N: number, K: number, transposed: boolean): Float64Array {
  const y = new Float64Array(M * N)
  for (let m = 0; m < M; m++)
    for (let k = 0; k < K; k++) for (let n = 0; n < N; n++) y[m * N + n] += a[m * K + k] * b[transposed ? n * K + k : k * N + n]
  return y
}

/** Y [R,C] with its singular values driven to about 1 by Newton-Schulz: close to U V^T of X = U diag(s) V^T. */
function orthogonalised(x: Float64Array, R: number, C: number): Float64Array {
  const { a, b, c, iterations, eps } = quintic
  const norm = Math.sqrt(x.reduce((total, value) => total + value * value, 0)) + eps
  let y = x.map((value) => value / norm)
  for (let i = 0; i < iterations; i++) {
    const gram = product(y, y, R, R, C, true)
    const polynomial = product(gram, gram, R, R, R, false).map((square, at) => b * gram[at] + c * square)
    y = product(polynomial, y, R, C, R, false).map((value, at) => a * y[at] + value)
  }
  return y
}

export const optimizerKernels: Pick<Kernels<RefStorage>, 'gradNorm' | 'adam' | 'muon'> = {
  gradNorm(xs, y) {
    let total = 0
    for (const { x, n } of xs) for (let i = 0; i < n; i++) total += x.data[i] * x.data[i]
    y.data[0] = Math.sqrt(total)
  },
  adam(slots, gradScale, options) {
    const { lr, beta1, beta2, eps, weightDecay, decoupled, correction1, correction2, guarded } = options()
    const scale = gradScale ? gradScale.data[0] : 1
    if (guarded && !(scale > 0)) return
    for (const { p, g, m, v, n } of slots)
      for (let i = 0; i < n; i++) {
        const grad = g.data[i] * scale + (decoupled ? 0 : weightDecay * p.data[i])
        m.data[i] = beta1 * m.data[i] + (1 - beta1) * grad
        v.data[i] = beta2 * v.data[i] + (1 - beta2) * grad * grad
        const decay = decoupled ? lr * weightDecay * p.data[i] : 0
        p.data[i] -= decay + (lr * (m.data[i] / correction1)) / (Math.sqrt(v.data[i] / correction2) + eps)
      }
  },
  muon(slots, R, C, gradScale, options) {
    const { lr, momentum, weightDecay, guarded } = options()
    const scale = gradScale ? gradScale.data[0] : 1
    if (guarded && !(scale > 0)) return
    for (const { p, g, m, tall } of slots) {
      const x = new Float64Array(R * C)
      /** Of row r and column c of X, in what may be stored transposed. */
      const at = (r: number, c: number): number => (tall ? c * R + r : r * C + c)
      for (let r = 0; r < R; r++)
        for (let c = 0; c < C; c++) {
          const gradient = g.data[at(r, c)] * scale
          m.data[at(r, c)] = momentum * m.data[at(r, c)] + gradient
          x[r * C + c] = gradient + momentum * m.data[at(r, c)]
        }
      const y = orthogonalised(x, R, C)
      const step = lr * (tall ? Math.sqrt(C / R) : 1)
      for (let r = 0; r < R; r++)
        for (let c = 0; c < C; c++) p.data[at(r, c)] = (1 - lr * weightDecay) * p.data[at(r, c)] - step * y[r * C + c]
    }
  },
}
