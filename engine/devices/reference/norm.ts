/** Row normalisations, softmax and cross-entropy over [R, n]. Pinned by test/ops/values.test.ts and gradients.test.ts. */
import type { Kernels, NormKind } from '../kernels.ts'
import type { RefStorage } from './storage.ts'

/** (mean, scale) of a row from its length, its sum, its sum of squares about the mean, and eps. */
const scales: Record<NormKind, (n: number, sum: number, squares: number, eps: number) => number> = {
  layer: (n, _, squares, eps) => 1 / Math.sqrt(squares / n + eps),
  rms: (n, _, squares, eps) => 1 / Math.sqrt(squares / n + eps),
  l2: (_n, _, squares, eps) => 1 / Math.sqrt(squares + eps),
  sum: (_n, sum, _, eps) => 1 / (sum + eps),
}

const sumOf = (n: number, term: (j: number) => number): number => {
  let total = 0
  for (let j = 0; j < n; j++) total += term(j)
  return total
}

/** How many entries of row r are seen: all, or as many as its place in time allows. */
const seen = (r: number, n: number, causal: number): number => (causal > 0 ? n - causal + (r % causal) + 1 : n)

type Names = 'norm' | 'normBackward' | 'softmax' | 'softmaxBackward' | 'crossEntropy' | 'crossEntropyBackward'

export const normKernels: Pick<Kernels<RefStorage>, Names> = {
  norm(kind, x, gain, bias, y, stats, R, n, eps) {
    for (let r = 0; r < R; r++) {
      const row = r * n
      const sum = sumOf(n, (j) => x.data[row + j])
      const mean = kind === 'layer' ? sum / n : 0
      const scale = scales[kind](
        n,
        sum,
        sumOf(n, (j) => (x.data[row + j] - mean) ** 2),
        eps,
      )
      stats.data[2 * r] = mean
      stats.data[2 * r + 1] = scale
      for (let j = 0; j < n; j++) y.data[row + j] = (x.data[row + j] - mean) * scale * (gain ? gain.data[j] : 1) + (bias ? bias.data[j] : 0)
    }
  },
  normBackward(kind, x, gain, stats, dy, { dx, dgain, dbias }, R, n, accumulate) {
    for (let r = 0; dx && r < R; r++) {
      const row = r * n
      const mean = stats.data[2 * r]
      const scale = stats.data[2 * r + 1]
      // With g = dy * gain and h = (x - mean) * scale: scale depends on every entry of the row, and so does the mean.
      const g = (j: number): number => dy.data[row + j] * (gain ? gain.data[j] : 1)
      const h = (j: number): number => (x.data[row + j] - mean) * scale
      const gh = sumOf(n, (j) => g(j) * h(j))
      const gMean = kind === 'layer' ? sumOf(n, g) / n : 0
      const along = kind === 'layer' || kind === 'rms' ? gh / n : gh
      for (let j = 0; j < n; j++) {
        const value = scale * (g(j) - gMean - (kind === 'sum' ? gh : h(j) * along))
        dx.data[row + j] = accumulate ? dx.data[row + j] + value : value
      }
    }
    for (let j = 0; j < n; j++) {
      if (dgain) dgain.data[j] = sumOf(R, (r) => dy.data[r * n + j] * (x.data[r * n + j] - stats.data[2 * r]) * stats.data[2 * r + 1])
      if (dbias) dbias.data[j] = sumOf(R, (r) => dy.data[r * n + j])
    }
  },
  softmax(x, y, R, n, log, causal) {
    for (let r = 0; r < R; r++) {
      const row = r * n
      const count = seen(r, n, causal)
      let top = -Infinity
      for (let j = 0; j < count; j++) top = Math.max(top, x.data[row + j])
      const total = sumOf(count, (j) => Math.exp(x.data[row + j] - top))
      for (let j = 0; j < n; j++) {
        const shifted = x.data[row + j] - top
        y.data[row + j] = j >= count ? 0 : log ? shifted - Math.log(total) : Math.exp(shifted) / total
      }
    }
  },
  softmaxBackward(y, dy, dx, R, n, log) {
    for (let r = 0; r < R; r++) {
      const row = r * n
      const total = sumOf(n, (j) => (log ? dy.data[row + j] : y.data[row + j] === 0 ? 0 : dy.data[row + j] * y.data[row + j]))
      for (let j = 0; j < n; j++) {
        const i = row + j
        if (log) dx.data[i] = dy.data[i] - Math.exp(y.data[i]) * total
        else dx.data[i] = y.data[i] === 0 ? 0 : y.data[i] * (dy.data[i] - total)
      }
    }
  },
  crossEntropy(logits, target, loss, lse, R, N, ignore) {
    for (let r = 0; r < R; r++) {
      const row = r * N
      let top = -Infinity
      for (let j = 0; j < N; j++) top = Math.max(top, logits.data[row + j])
      const log = Math.log(sumOf(N, (j) => Math.exp(logits.data[row + j] - top)))
      lse.data[r] = top + log
      // lse - logit, without losing the logarithm beside a large top.
      loss.data[r] = target.data[r] === ignore ? 0 : log + (top - logits.data[row + target.data[r]])
    }
  },
  crossEntropyBackward(logits, target, lse, dloss, dlogits, R, N, ignore) {
    for (let r = 0; r < R; r++)
      for (let j = 0; j < N; j++) {
        const i = r * N + j
        const softmax = Math.exp(logits.data[i] - lse.data[r])
        dlogits.data[i] = target.data[r] === ignore ? 0 : (softmax - (j === target.data[r] ? 1 : 0)) * dloss.data[r]
      }
  },
}
