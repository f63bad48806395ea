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
    if (c.rule === 'retnet') return c.headDecay === 'lightning' ? (-8 * h) / H : Math.log(1 - 2 ** (-5 - h))
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

/** Where a number of a rule's input stands: token, step of the token, head, channel. */
interface Spot {
  T: number
  N: number
  H: number
  i: number
}

/**
 * What fast-weight attention makes of one row x [T][D] for its rule, by name, from its parameters; without convolutions, positions or maps of the values, and
 * with the settings' defaults but for those of features. `low`: what a gate is before its nonlinearity is that of `softplus`.
 */
export function ingredientsByHand(
  c: FastWeightsAttentionConfig,
  p: Record<string, number[]>,
  x: number[][],
): Record<string, (at: Spot) => number> {
  const { dModel: D, heads: H, rule } = c
  const M = rule === 'log-linear' ? c.levels : c.slots
  const V = D / H
  const direct = (name: string, t: number, o: number): number => dot(rows(p[`${name}.weight`], D)[o], x[t]) + (p[`${name}.bias`]?.[o] ?? 0)
  const low = (name: string, t: number, o: number): number => {
    const few = rows(p[`${name}.down.weight`], D).map((w) => dot(w, x[t]))
    return dot(rows(p[`${name}.up.weight`], few.length)[o], few) + (p[`${name}.up.bias`]?.[o] ?? 0)
  }
  const projected = (name: string, { T, N, H: h }: Spot): number[] =>
    Array.from({ length: V }, (_, i) => direct(`${name}.linear`, T, N * D + h * V + i))
  const mapped = (y: number[]): number[] => norms[c.featureNorm](formulas[c.featureMap](y, c, []), c.featureEps)
  const key = (at: Spot): number[] => mapped(projected('key', at))
  const gate = (name: string, { T, H: h, i }: Spot, W: number | null): number => {
    const place = W === null ? h : h * W + i
    const a = W === null ? direct(`${name}.projection`, T, h) : low(`${name}.projection`, T, place)
    return -Math.exp(p[`${name}.A_log`][h]) * softplus(a + p[`${name}.dt_bias`][place])
  }
  const K = mapped(new Array<number>(V).fill(1)).length
  const width = {
    gla: K,
    hgrn: V,
    hgrn2: K,
    kda: K,
    'gated-oja': V,
    gdn2: K,
    'precond-kda': K,
    dplr: K,
    rwkv7: K,
    rwkv6: K,
    gsa: M,
  } as Record<string, number>
  const strength = ({ T, N, H: h }: Spot): number => sigmoid(direct('interpolation_weight.0.linear', T, N * H + h))
  const tangent = ({ T, H: h }: Spot): number => ((1 + Math.tanh(direct('eta', T, h) / Math.sqrt(D))) * Math.exp(p.turn_log[h])) ** 2
  const own = (name: string, W: number) => (at: Spot) => p[name][at.H * W + at.i]
  const unit = (y: number[]): number[] => norms.l2(y, 1e-6)
  const decay = (at: Spot): number => gate('gate', at, width[rule] ?? null) - (rule === 'delta-momentum' ? Math.log(1 + tangent(at)) : 0)
  const removed = ({ T, H: h }: Spot): number[] => unit(Array.from({ length: K }, (_, i) => direct('removal', T, h * K + i)))
  const reader = (at: Spot): number => (rule === 'comba' ? sigmoid(p.reading[at.H]) : Math.exp(decay(at))) * key(at)[at.i]
  /** D_h p in Comba, D_h k in momentum delta nets. */
  const correction = (at: Spot): number => {
    if (rule === 'comba') return p.correction[at.H] * reader(at)
    return rule === 'delta-momentum' ? Math.exp(p.correction_log[at.H]) * key(at)[at.i] : 0
  }
  const inner = (at: Spot): number => sigmoid(direct('inner_rate', at.T, at.H)) / V
  const head = (name: string) => (at: Spot) => sigmoid(direct(name, at.T, at.H))
  return {
    q: (at) => mapped(projected('query', at))[at.i] - correction(at),
    k: (at) => (rule === 'rwkv4' || rule === 'lightnet' ? projected('key', at) : key(at))[at.i],
    v: (at) => projected('value', at)[at.i],
    x: (at) => projected('value', at)[at.i] * (1 - Math.exp(decay(at))),
    beta: (at) => strength(at) * (rule === 'delta-momentum' ? tangent(at) / (1 + tangent(at)) : 1),
    betas: (at) => sigmoid(low('strength', at.T, at.H * V + at.i)),
    gate: decay,
    decay: (at) => (rule === 'retnet' ? Math.log(1 - 2 ** (-5 - at.H)) : -Math.exp(own('decay', rule === 'rwkv4' ? V : K)(at))),
    bonus: (at) => own('bonus', rule === 'rwkv4' ? V : K)(at),
    kappa: (at) => unit(key(at).map((a, i) => a * p.kappa[at.H * K + i]))[at.i],
    rate: (at) => sigmoid(low('rate', at.T, at.H * K + at.i)),
    lambda: (at) => 0.25 + softplus(p.lambda[at.H * K + at.i]),
    a: (at) => removed(at)[at.i],
    b: (at) => ('inner_bias' in p ? own('inner_bias', V)(at) : -strength(at) * removed(at)[at.i]),
    erase: (at) => sigmoid(low('erase', at.T, at.H * K + at.i)),
    write: (at) => (rule === 'gsa' ? 1 - Math.exp(decay(at)) : sigmoid(low('write', at.T, at.H * V + at.i))),
    p: reader,
    betaA: head('beta_a'),
    gateA: (at) => gate('gate_a', at, null),
    c: (at) => p.level_a[at.H],
    s: (at) => Math.max(-32, Math.min(direct('slot', at.T, at.H * M + at.i), 32)),
    levels: (at) => softplus(direct('level', at.T, at.H * M + at.i)),
    w: own('inner_gain', V),
    theta: inner,
    eta: (at) =>
      rule === 'ttt' ? inner(at) : rule === 'titans' ? head('momentum')(at) : 1 + Math.tanh(direct('eta', at.T, at.H) / Math.sqrt(D)),
    alpha: (at) => sigmoid(direct('forgetting', at.T, at.H) + p.forgetting_bias[at.H]),
    gateM: (at) => Math.max(gate('momentum', at, null), -2),
  }
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
