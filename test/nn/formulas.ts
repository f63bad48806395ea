/** The layers' formulas on plain numbers. */
import type { AftConfig, FastWeightsAttentionConfig, FeatureConfig, FeatureMap, FeatureNorm } from '../../nn/index.ts'

export const sum = (x: number[]): number => x.reduce((a, b) => a + b, 0)
export const dot = (x: ArrayLike<number>, y: ArrayLike<number>): number => sum(Array.from(x, (a, i) => a * y[i]))
const softmaxOf = (x: number[]): number[] => x.map((a) => Math.exp(a) / sum(x.map(Math.exp)))
export const rows = (W: ArrayLike<number>, K: number): number[][] =>
  Array.from({ length: W.length / K }, (_, r) => Array.from({ length: K }, (_, i) => W[r * K + i]))

/** A row of K numbers; W: what the map learns or draws for its head. */
export const formulas: Record<FeatureMap, (x: number[], c: FeatureConfig, W: number[]) => number[]> = {
  identity: (x) => x,
  silu: (x) => x.map((a) => a / (1 + Math.exp(-a))),
  elu1: (x) => x.map((a) => (a > 0 ? a + 1 : Math.exp(a))),
  relu: (x) => x.map((a) => Math.max(a, 0)),
  relu2: (x) => x.map((a) => (a > 0 ? a * a : 0)),
  softmax: softmaxOf,
  dpfp: (x, { nu }) => {
    const r = [...x, ...x.map((a) => -a)].map((a) => Math.max(a, 0))
    const n = r.length
    return Array.from({ length: nu }, (_, i) => r.map((a, j) => a * r[(j - i - 1 + n * nu) % n])).flat()
  },
  favor: (x, _, W) => {
    const scaled = x.map((a) => a / x.length ** 0.25)
    const projected = rows(W, x.length).map((w) => dot(w, scaled))
    const both = [...projected, ...projected.map((a) => -a)]
    return both.map((a) => (Math.exp(a - dot(scaled, scaled) / 2) + 1e-6) / Math.sqrt(both.length))
  },
  hedgehog: (x, _, W) => {
    const projected = rows(W, x.length).map((w) => 2 * dot(w, x))
    return softmaxOf([...projected, ...projected.map((a) => -a)])
  },
  taylor2: (x) => [1, ...x, ...x.flatMap((a) => x.map((b) => (a * b) / Math.sqrt(2)))],
}

export const norms: Record<FeatureNorm, (x: number[], eps: number) => number[]> = {
  none: (x) => x,
  sum: (x, eps) => x.map((a) => a / (sum(x) + eps)),
  l2: (x, eps) => x.map((a) => a / Math.sqrt(dot(x, x) + eps)),
}

export const sigmoid = (a: number): number => 1 / (1 + Math.exp(-a))
export const softplus = (a: number): number => Math.log1p(Math.exp(a))
const silu = (a: number): number => a * sigmoid(a)

/** Channels i and i + K/2 as one complex number, turned by p 10000^(-i / (K/2)). */
export function rotated(x: number[], p: number): number[] {
  const half = Math.floor(x.length / 2)
  return x.map((a, i) => {
    if (i >= 2 * half) return a
    const angle = p / 10000 ** ((i % half) / half)
    return i < half ? a * Math.cos(angle) - x[i + half] * Math.sin(angle) : a * Math.cos(angle) + x[i - half] * Math.sin(angle)
  })
}

/**
 * Fast-weight attention on one row x [T][D], from its parameters by name: rules that add or correct, one write a token, with or without a
 * decay or a normaliser.
 */
export function attentionByHand(c: FastWeightsAttentionConfig, parameters: Record<string, number[]>, x: number[][]): number[][] {
  const { dModel: D, heads: H, conv: W } = c
  const K = D / H
  const times = (name: string, a: number[]): number[] => rows(parameters[name], a.length).map((w) => dot(w, a))
  const projected = (name: string): number[][] => {
    const y = x.map((row) => times(`${name}.linear.weight`, row))
    if (W === 0) return y
    const taps = rows(parameters[`${name}.conv`], W)
    return y.map((row, t) => row.map((_, d) => sum(taps[d].map((w, j) => w * (y[t - W + 1 + j]?.[d] ?? 0)))))
  }
  const head = (row: number[], h: number): number[] => row.slice(h * K, (h + 1) * K)
  const features = (row: number[], h: number, t: number): number[] => {
    const own = parameters['features.weight'] ?? []
    const mapped = norms[c.featureNorm](formulas[c.featureMap](head(row, h), c, own), c.featureEps)
    return c.positions === 'rotary' ? rotated(mapped, t) : mapped
  }
  const [queries, keys, values] = ['query', 'key', 'value'].map(projected)
  const width = features(queries[0], 0, 0).length
  /** Logarithm of what remains in channel i of head h. */
  const gateOf = (row: number[], h: number, i: number): number => {
    if (c.rule === 'retnet') return Math.log(1 - 2 ** (-5 - h))
    if (!['mamba2', 'gla', 'gated-delta', 'kda'].includes(c.rule)) return 0
    const channels = c.rule === 'gla' || c.rule === 'kda'
    const place = channels ? h * width + i : h
    const a = channels
      ? times('gate.projection.up.weight', times('gate.projection.down.weight', row))[place] +
        (parameters['gate.projection.up.bias']?.[place] ?? 0)
      : times('gate.projection.weight', row)[place] + (parameters['gate.projection.bias']?.[place] ?? 0)
    return c.gate === 'logsigmoid'
      ? -softplus(-a) / 16
      : -Math.exp(parameters['gate.A_log'][h]) * softplus(a + parameters['gate.dt_bias'][place])
  }
  const S = Array.from({ length: H }, () => Array.from({ length: width }, () => new Array<number>(K).fill(0)))
  const z = Array.from({ length: H }, () => new Array<number>(width).fill(0))
  return x.map((row, t) => {
    const read = Array.from({ length: H }, (_, h) => {
      const [q, k] = [features(queries[t], h, t), features(keys[t], h, t)]
      const v = head(values[t], h).map((a) => (c.valueMap === 'silu' ? silu(a) : a))
      for (let i = 0; i < width; i++) S[h][i] = S[h][i].map((s) => s * Math.exp(gateOf(row, h, i)))
      const found = v.map((_, j) => sum(k.map((a, i) => a * S[h][i][j])))
      const name = 'interpolation_weight.0.linear.weight'
      const beta = name in parameters ? c.betaRange * sigmoid(times(name, row)[h]) : 0
      const u = v.map((a, j) => (name in parameters ? beta * (a - found[j]) : a))
      for (let i = 0; i < width; i++) S[h][i] = S[h][i].map((s, j) => s + k[i] * u[j])
      for (let i = 0; i < width; i++) z[h][i] += k[i]
      const scale = (c.scale === 'sqrt' ? 1 / Math.sqrt(K) : 1) / (c.rule === 'linear-attention' ? dot(z[h], q) + c.normaliserEps : 1)
      const y = v.map((_, j) => scale * sum(q.map((a, i) => a * S[h][i][j])))
      const size = Math.sqrt(dot(y, y) / K + 1e-6)
      return c.headNorm ? y.map((a, j) => (a / size) * parameters['norm.weight'][j]) : y
    }).flat()
    const open = { none: () => 1, silu, sigmoid }[c.outputGate]
    const gated = c.outputGate === 'none' ? read : times('output_gate.weight', row).map((a, d) => open(a) * read[d])
    return times('output.weight', gated).map((a, d) => a + parameters['output.bias'][d])
  })
}

/** W x + b. */
export const linear = (x: number[], weight: number[], bias?: number[]): number[] =>
  Array.from({ length: weight.length / x.length }, (_, o) => x.reduce((y, xi, i) => y + weight[o * x.length + i] * xi, bias?.[o] ?? 0))

/** The attention free transformer's layer on one row x [T][D]; keys beyond the table count as the last row says. */
export function aftByHand(
  { form, tableLength: N, window, heads, causal, dModel: D }: AftConfig,
  p: Record<string, number[]>,
  rows: number[][],
): number[][] {
  const [q, k, v] = ['query', 'key', 'value'].map((name) => rows.map((x) => linear(x, p[`${name}.weight`], p[`${name}.bias`])))
  const reach = { full: N, local: Math.min(window, N), conv: window, simple: 0 }[form]
  const bias = (t: number, j: number, c: number): number => {
    if (Math.abs(t - j) >= reach) return 0
    const beyond = Math.max(t - (N - 1), 0)
    if (form !== 'conv') return p.pos_bias[(t - beyond) * N + j - beyond]
    const taps = causal ? window : 2 * window - 1
    return p.taps[Math.floor((c * heads) / D) * taps + t - j + (causal ? 0 : window - 1)]
  }
  return rows.map((_, t) => {
    const y = Array.from({ length: D }, (_, c) => {
      let [num, den] = [0, 0]
      for (let j = 0; j < (causal ? t + 1 : rows.length); j++) {
        const e = Math.exp(k[j][c] + bias(t, j, c))
        num += e * v[j][c]
        den += e
      }
      return num / den / (1 + Math.exp(-q[t][c]))
    })
    return linear(y, p['output.weight'], p['output.bias'])
  })
}
