/**
 * Nets whose fast matrices follow the delta rule and whose output feeds back (Irie 2021, "Going beyond linear transformers with recurrent fast
 * weight programmers"), as the authors' code has them (github.com/IDSIA/recurrent-fwp). Inputs stand in the order of its slow projections.
 * K is the width of keys, V that of values and of the output. Rows of the table: index.ts.
 */
import { defineNet, type Net, type NetBuilder, type Vector } from './program.ts'

/** What queries and keys become: elu(x) + 1, divided by its sum; or a softmax. */
export type KeyFeatures = 'elu' | 'softmax'

const featuresOf = (net: NetBuilder, features: KeyFeatures, x: Vector): Vector =>
  features === 'softmax' ? net.softmax(x) : net.norm('sum', net.elu1(x), 0)

/** What a softmax over the last output adds to its sum. */
const feedbackEps = 1e-6

/** Options of `deltaRnn`. */
export interface DeltaRnnOptions {
  /** Width of keys and queries. */
  K: number
  /** Width of values, and of what feeds back. */
  V: number
  /** 2, the paper's: h_t = z_t + softmax(h_{t-1}) R_t. 1: h_t = softmax(z_t + h_{t-1} R_t). */
  version?: 1 | 2
  /** `elu` by default, `softmax` in version 1. */
  features?: KeyFeatures
  /** Attention normalisation: what leaves, and not what feeds back, is divided by (sum of the keys so far) . q + this. Off by default. */
  normalise?: number
}

/**
 * Delta RNN: a delta net whose output is fed back through a second fast matrix.
 *
 *     W_t = W_{t-1} + k (beta (v - k W_{t-1}))^T,  R_t = R_{t-1} + rk (rbeta (rv - rk R_{t-1}))^T,  h_t = q W_t + softmax(h_{t-1}) R_t
 */
export function deltaRnn({ K, V, version = 2, features = version === 1 ? 'softmax' : 'elu', normalise }: DeltaRnnOptions): Net {
  return defineNet(`delta RNN v${version}`, (net) => {
    const h0 = net.vector('h', V)
    const W = net.matrix('W', K, V)
    const R = net.matrix('R', V, V)
    const { q, k, v, rk, rv, beta, rbeta } = net.inputs({ q: K, k: K, v: V, rk: V, rv: V, beta: 1, rbeta: 1 })
    const [query, key] = [q, k].map((x) => featuresOf(net, features, x))
    net.delta(W, key, v, net.sigmoid(beta))
    const z = net.read(W, query)
    net.delta(R, net.softmax(rk), rv, net.sigmoid(rbeta))
    const h = version === 1 ? net.softmax(net.add(z, net.read(R, h0))) : net.add(z, net.read(R, net.softmax(h0, feedbackEps)))
    net.next('h', h)
    if (normalise === undefined) net.output(h)
    else {
      const keys = net.add(net.vector('z', K), key)
      net.next('z', keys)
      net.output(net.times(h, net.unary('reciprocal', net.affine(net.dot(keys, query), 1, normalise))))
    }
  })
}

/** Options of `deltaLstm`. */
export interface DeltaLstmOptions {
  /** Width of keys and queries. */
  K: number
  /** Width of values, and of the state h. */
  V: number
  /** 4 is the paper's best. 3: u = sigmoid(...), h = o c + z_u. 2: u = sigmoid(...), h = o c. 1: the same, h = softmax(o c), and h itself is fed back. */
  version?: 1 | 2 | 3 | 4
  features?: KeyFeatures
}

/**
 * Delta LSTM: three delta nets z_i, z_u, z_o are the input to three gates, three more fast matrices feed back. With s = softmax(h_{t-1}):
 *
 *     i = sigmoid(z_i + s R_i),  u = z_u + s R_u,  o = sigmoid(z_o + s R_o),  c = i u + (1 - i) c_{t-1},  h = o c
 */
export function deltaLstm({ K, V, version = 4, features = 'elu' }: DeltaLstmOptions): Net {
  return defineNet(`delta LSTM v${version}`, (net) => {
    const h0 = net.vector('h', V)
    const c0 = net.vector('c', V)
    const gates = ['i', 'u', 'o'] as const
    const W = gates.map((gate) => net.matrix(`W_${gate}`, K, V))
    const R = gates.map((gate) => net.matrix(`R_${gate}`, V, V))
    const given = gates.map((gate) => {
      const [q, k, v, rk, rv] = Object.values(
        net.inputs({ [`q_${gate}`]: K, [`k_${gate}`]: K, [`v_${gate}`]: V, [`rk_${gate}`]: V, [`rv_${gate}`]: V }),
      )
      return { q, k, v, rk, rv }
    })
    const rates = gates.map((gate) => Object.values(net.inputs({ [`beta_${gate}`]: 1, [`rbeta_${gate}`]: 1 })))
    const s = version === 1 ? h0 : net.softmax(h0, feedbackEps)
    const z = given.map(({ q, k, v }, g) => {
      net.delta(W[g], featuresOf(net, features, k), v, net.sigmoid(rates[g][0]))
      return net.read(W[g], featuresOf(net, features, q))
    })
    const [i, u, o] = given.map(({ rk, rv }, g) => {
      net.delta(R[g], net.softmax(rk), rv, net.sigmoid(rates[g][1]))
      const sum = net.add(z[g], net.read(R[g], s))
      return gates[g] === 'u' && version === 4 ? sum : net.sigmoid(sum)
    })
    // i u + (1 - i) c
    const c = net.add(c0, net.mul(i, net.sub(u, c0)))
    const oc = net.mul(o, c)
    const h = version === 3 ? net.add(oc, z[1]) : version === 1 ? net.softmax(oc) : oc
    net.next('c', c)
    net.next('h', h)
    net.output(h)
  })
}

/** Options of `recurrentDeltaNet`. */
export interface RecurrentDeltaOptions {
  /** Width of keys and queries. */
  K: number
  /** Width of values, and of what feeds back. */
  V: number
}

/**
 * Recurrent delta net (RDN): what a delta net is given depends on what it gave, by slow weights. With a = tanh(y_{t-1}):
 *
 *     q = softmax(x_q + a R_q),  k = softmax(x_k + a R_k),  v = x_v + a R_v,  beta = sigmoid(x_beta + a . r_beta)
 *     W_t = W_{t-1} + k (beta (v - k W_{t-1}))^T,  y_t = q W_t
 */
export function recurrentDeltaNet({ K, V }: RecurrentDeltaOptions): Net {
  return defineNet('recurrent delta net', (net) => {
    const a = net.tanh(net.vector('h', V))
    const W = net.matrix('W', K, V)
    const x = net.inputs({ q: K, k: K, v: V, beta: 1 })
    const q = net.softmax(net.add(x.q, net.read(net.slowMatrix('R_q', V, K), a)))
    const k = net.softmax(net.add(x.k, net.read(net.slowMatrix('R_k', V, K), a)))
    const v = net.add(x.v, net.read(net.slowMatrix('R_v', V, V), a))
    const beta = net.sigmoid(net.add(x.beta, net.dot(net.slowVector('r_beta', V), a)))
    net.delta(W, k, v, beta)
    const y = net.read(W, q)
    net.next('h', y)
    net.output(y)
  })
}

/** Options of `fastWeightMemory`. */
export interface FastWeightMemoryOptions {
  /** Width of keys and queries. */
  K: number
  /** Width of values. */
  V: number
  /** Whether it is read at each token, true by default; without, it takes no q, and y [B,T,H,1] is max(|W'|, 1), for who reads the last state alone. */
  reads?: boolean
}

/**
 * Fast weight memory (Schlag 2021, "Learning associative inference using fast weight memory", eq. 4-6, as in github.com/ischlag/fast-weight-transformers):
 * the delta rule, after which the matrix is shrunk until its norm is 1 at most; the first token's isn't. k isn't normalised.
 *
 *     W' = W_{t-1} + k sigmoid(beta) (v - k W_{t-1})^T,  W_t = W' / max(|W'|, 1),  y_t = q W_t
 */
export function fastWeightMemory({ K, V, reads = true }: FastWeightMemoryOptions): Net {
  return defineNet('fast weight memory', (net) => {
    const W = net.matrix('W', K, V)
    // |W|^2, which follows from the write without another look at W: |W + k u^T|^2 = |W|^2 + 2 (k W) . u + |k|^2 |u|^2.
    const size0 = net.vector('size', 1)
    const seen = net.vector('seen', 1)
    const q = reads ? net.inputs({ q: K }).q : undefined
    const { k, v, beta } = net.inputs({ k: K, v: V, beta: 1 })
    const held = net.read(W, k)
    const u = net.times(net.sub(v, held), net.sigmoid(beta))
    const added = net.add(net.affine(net.dot(held, u), 2), net.mul(net.dot(k, k), net.dot(u, u)))
    const size = net.add(size0, added)
    // max(size, 1), whose root has a gradient everywhere.
    const norm = net.unary('sqrt', net.affine(net.unary('relu', net.affine(size, 1, -1)), 1, 1))
    const scale = net.affine(net.mul(seen, net.affine(net.unary('reciprocal', norm), 1, -1)), 1, 1)
    net.write(W, net.times(k, scale), u, { decay: scale })
    net.next('size', net.mul(size, net.mul(scale, scale)))
    net.next('seen', net.affine(seen, 0, 1))
    net.output(q ? net.read(W, q) : norm)
  })
}
