/** The attention free transformer as its equation says it, a pair of tokens at a time. Pinned by test/ops/aft.test.ts, gradients.test.ts. */
import type { AftSizes, Kernels } from '../kernels.ts'
import type { RefStorage } from './storage.ts'

/** A query and a key that it sees: their rows, and where their bias lies; null: 0. */
interface Pair {
  t: number
  j: number
  bias: ((channel: number) => number) | null
}

/** The pairs of row b, by queries. */
function pairsOf(b: number, places: RefStorage, { n, past, D, window, causal, bias, N }: AftSizes): Pair[][] {
  const place = (i: number): number => places.data[b * n + i]
  const sequences: number[] = []
  for (let i = 0; i < n; i++) sequences.push((sequences[i - 1] ?? 0) + Number(place(i) === 0))
  const queries: Pair[][] = []
  for (let t = past; t < n; t++) {
    const pairs: Pair[] = []
    for (let j = 0; place(t) >= 0 && j < (causal ? t + 1 : n); j++) {
      if (place(j) < 0 || sequences[j] !== sequences[t]) continue
      const ahead = place(t) - place(j)
      const taps = (c: number): number => (ahead + (causal ? 0 : window - 1)) * D + c
      const beyond = Math.max(place(t) - (N - 1), 0)
      const table = (): number => (place(t) - beyond) * N + place(j) - beyond
      pairs.push({ t, j, bias: bias === 'none' || Math.abs(ahead) >= window ? null : bias === 'table' ? table : taps })
    }
    queries.push(pairs)
  }
  return queries
}

export const aftKernels: Pick<Kernels<RefStorage>, 'aft' | 'aftBackward'> = {
  aft(k, v, w, places, y, lse, sizes) {
    const { B, n, past, D } = sizes
    for (let b = 0; b < B; b++)
      for (const [i, pairs] of pairsOf(b, places, sizes).entries())
        for (let c = 0; c < D; c++) {
          const exponents = pairs.map(({ j, bias }) => k.data[(b * n + j) * D + c] + (bias ? w!.data[bias(c)] : 0))
          const top = exponents.reduce((a, x) => Math.max(a, x), Number.NEGATIVE_INFINITY)
          let [num, den] = [0, 0]
          for (const [at, { j }] of pairs.entries()) {
            const e = Math.exp(exponents[at] - top)
            num += e * v.data[(b * n + j) * D + c]
            den += e
          }
          const to = (b * (n - past) + i) * D + c
          y.data[to] = pairs.length > 0 ? num / den : 0
          lse.data[to] = pairs.length > 0 ? top + Math.log(den) : 0
        }
  },
  aftBackward(k, v, w, places, { y, lse }, { dy, dlse }, { dk, dv, dw }, sizes) {
    const { B, n, past, D } = sizes
    dk.data.fill(0, 0, B * n * D)
    dv.data.fill(0, 0, B * n * D)
    dw?.data.fill(0)
    for (let b = 0; b < B; b++)
      for (const [i, pairs] of pairsOf(b, places, sizes).entries())
        for (const { j, bias } of pairs)
          for (let c = 0; c < D; c++) {
            const from = (b * n + j) * D + c
            const to = (b * (n - past) + i) * D + c
            const share = Math.exp(k.data[from] + (bias ? w!.data[bias(c)] : 0) - lse.data[to])
            const dexponent = share * (dy.data[to] * (v.data[from] - y.data[to]) + (dlse?.data[to] ?? 0))
            dv.data[from] += share * dy.data[to]
            dk.data[from] += dexponent
            if (bias) dw!.data[bias(c)] += dexponent
          }
  },
}
