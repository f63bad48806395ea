/** Causal depthwise convolution and the DPFP feature map. Pinned by test/ops/values.test.ts and gradients.test.ts. */
import type { Kernels } from '../kernels.ts'
import { elementwiseKernels } from './elementwise.ts'
import { normKernels } from './norm.ts'
import type { RefStorage } from './storage.ts'

/** Where x[b, t, d] lies: in x for t >= 0, in the state [B, W-1, D] for t < 0, nowhere (zero) without one. */
function cell(
  x: RefStorage,
  state: RefStorage | null,
  b: number,
  t: number,
  d: number,
  T: number,
  D: number,
  W: number,
): [RefStorage, number] | null {
  if (t >= 0) return [x, (b * T + t) * D + d]
  return state && [state, (b * (W - 1) + W - 1 + t) * D + d]
}

type SequenceKernels = 'conv' | 'convBackward' | 'dpfp' | 'dpfpBackward' | 'dpfpSum' | 'dpfpSumBackward'

export const sequenceKernels: Pick<Kernels<RefStorage>, SequenceKernels> = {
  conv(x, w, state, { y, next, sums, stats }, { B, T, D, W, silu, width, eps }) {
    const n = B * T * D
    for (let b = 0; b < B; b++)
      for (let t = 0; t < T; t++)
        for (let d = 0; d < D; d++) {
          let total = 0
          for (let j = 0; j < W; j++) {
            const from = cell(x, state, b, t - W + 1 + j, d, T, D, W)
            if (from) total += w.data[d * W + j] * from[0].data[from[1]]
          }
          y.data[(b * T + t) * D + d] = total
        }
    sums?.data.set(y.data.subarray(0, n))
    if (silu) elementwiseKernels.unary('silu', y, y, n)
    if (width > 0) normKernels.norm('l2', y, null, null, y, stats!, n / width, width, eps)
    for (let b = 0; next && b < B; b++)
      for (let i = 0; i < W - 1; i++)
        for (let d = 0; d < D; d++) {
          const from = cell(x, state, b, T - W + 1 + i, d, T, D, W)
          next.data[(b * (W - 1) + i) * D + d] = from ? from[0].data[from[1]] : 0
        }
  },
  convBackward(x, w, state, { y, sums, stats }, dy, { dx, dw, dstate }, { B, T, D, W, silu, width }) {
    const n = B * T * D
    const dz = { data: Float64Array.from(dy.data.subarray(0, n)) }
    // y = s scale, and the scale depends on all of s.
    for (let r = 0; width > 0 && r < n / width; r++) {
      let along = 0
      for (let i = r * width; i < (r + 1) * width; i++) along += dy.data[i] * y.data[i]
      for (let i = r * width; i < (r + 1) * width; i++) dz.data[i] = stats!.data[2 * r + 1] * (dy.data[i] - y.data[i] * along)
    }
    if (silu) elementwiseKernels.unaryBackward('silu', sums!, y, dz, dz, n)
    dx.data.fill(0, 0, n)
    dw.data.fill(0, 0, D * W)
    dstate?.data.fill(0, 0, B * (W - 1) * D)
    for (let b = 0; b < B; b++)
      for (let t = 0; t < T; t++)
        for (let d = 0; d < D; d++)
          for (let j = 0; j < W; j++) {
            const g = dz.data[(b * T + t) * D + d]
            const from = cell(x, state, b, t - W + 1 + j, d, T, D, W)
            const to = cell(dx, dstate, b, t - W + 1 + j, d, T, D, W)
            if (from) dw.data[d * W + j] += g * from[0].data[from[1]]
            if (to) to[0].data[to[1]] += g * w.data[d * W + j]
          }
  },
  dpfp(x, y, R, D, nu) {
    for (let r = 0; r < R; r++) {
      const p = rectified(x, r, D)
      for (let i = 1; i <= nu; i++)
        for (let j = 0; j < 2 * D; j++) y.data[(r * nu + i - 1) * 2 * D + j] = p[j] * p[(j - i + 2 * D) % (2 * D)]
    }
  },
  dpfpBackward(x, dy, dx, R, D, nu) {
    for (let r = 0; r < R; r++) {
      const p = rectified(x, r, D)
      const dp = new Float64Array(2 * D)
      for (let i = 1; i <= nu; i++)
        for (let j = 0; j < 2 * D; j++) {
          const rolled = (j - i + 2 * D) % (2 * D)
          const g = dy.data[(r * nu + i - 1) * 2 * D + j]
          dp[j] += g * p[rolled]
          dp[rolled] += g * p[j]
        }
      for (let d = 0; d < D; d++) {
        const value = x.data[r * D + d]
        // 0, or NaN, is neither.
        dx.data[r * D + d] = value > 0 ? dp[d] : value < 0 ? -dp[D + d] : value
      }
    }
  },
  dpfpSum(list, R, D, nu, eps) {
    const n = 2 * D * nu
    const features = { data: new Float64Array(R * n) }
    for (const { x, y, stats } of list) {
      sequenceKernels.dpfp(x, features, R, D, nu)
      normKernels.norm('sum', features, null, null, y, stats, R, n, eps)
    }
  },
  dpfpSumBackward(list, R, D, nu) {
    const n = 2 * D * nu
    const features = { data: new Float64Array(R * n) }
    const dfeatures = { data: new Float64Array(R * n) }
    for (const { x, stats, dy, dx } of list) {
      sequenceKernels.dpfp(x, features, R, D, nu)
      normKernels.normBackward('sum', features, null, stats, dy, { dx: dfeatures }, R, n, false)
      sequenceKernels.dpfpBackward(x, dfeatures, dx, R, D, nu)
    }
  },
}

/** relu([x, -x]) of row r. */
function rectified(x: RefStorage, r: number, D: number): Float64Array {
  return Float64Array.from({ length: 2 * D }, (_, j) => Math.max(0, j < D ? x.data[r * D + j] : -x.data[r * D + j - D]))
}
