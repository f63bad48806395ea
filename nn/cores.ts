/**
 * What a recurrent layer does over time, without the projections around it: from numbers for each head of each token to what the heads read.
 * `RecurrentNet` (recurrent-net.ts) is the layer of our own models; the shells of other repositories (outside/) have the same cores.
 */
import type { Net } from '../engine/nets/program.ts'
import { runNet } from '../engine/nets/run.ts'
import { add, sigmoid } from '../engine/ops/elementwise.ts'
import { reshape, split } from '../engine/ops/movement.ts'
import { layerNorm, sumNorm } from '../engine/ops/norm.ts'
import { deltaRule } from '../engine/rules/delta.ts'
import type { Tensor } from '../engine/tensor.ts'
import { featureMaps } from './features.ts'
import type { Packing } from './packing.ts'

export type Tensors = Readonly<Record<string, Tensor>>

/** A parameter and its first values: N(mean, std^2), or a matrix that is `diagonal` on its diagonal. */
export interface Initial {
  shape: readonly number[]
  mean?: number
  std?: number
  diagonal?: number
}

export interface Core {
  /** H, and how many numbers of a token each head takes and gives. */
  heads: number
  width: number
  outputs: number
  parameters: Readonly<Record<string, Initial>>
  /** Shapes for one row. */
  state: Readonly<Record<string, readonly number[]>>
  /** x [B,T,H,width], y [B,T,H,outputs]; state [B,...] by name. */
  run(x: Tensor, parameters: Tensors, state: Tensors | undefined, packing: Packing): { y: Tensor; state: Tensors }
}

/** A program of the engine (engine/nets), and how its slow parameters begin; those that aren't named, with zeros. */
export function netCore(net: Net, heads: number, initial: Readonly<Record<string, Omit<Initial, 'shape'>>> = {}): Core {
  const shaped = ([name, shape]: [string, readonly number[]]) => [name, { shape: [heads, ...shape], ...initial[name] }] as const
  return {
    heads,
    width: net.I,
    outputs: net.O,
    parameters: Object.fromEntries(Object.entries(net.parameters).map(shaped)),
    state: Object.fromEntries(Object.entries(net.state).map(([name, { shape }]) => [name, [heads, ...shape]])),
    run: (x, parameters, state, packing) => runNet(net, x, { parameters, ...(state && { state }), ...packing }),
  }
}

const deltaNet = (q: Tensor, k: Tensor, v: Tensor, beta: Tensor, W: Tensor | undefined, packing: Packing) => {
  const [B, T, H] = beta.shape
  const { y, state } = deltaRule(q, k, v, sigmoid(reshape(beta, [B, T, H])), W && { S: W }, packing)
  return { y, W: state.S }
}

/** What nets behind other nets have for queries and keys: elu(x) + 1, over its sum + 1e-5. */
const features = (x: Tensor): Tensor => sumNorm(featureMaps.elu1.map(x), 1e-5)

/**
 * Delta MLP (Irie 2021, section 3.1): the query passes `depth` blocks, each of two delta nets, K -> 4 K -> K, and a residual connection.
 *
 *     a = elu1(LN_i(q)) / sum,  a = delta net_2i(a),  q <- q + delta net_2i+1(elu1(a) / sum)
 *
 * A head's numbers: q, the keys of all its delta nets, their values, their write strengths.
 */
export function deltaMlp(heads: number, K: number, depth: number): Core {
  const F = 4 * K
  const nets = Array.from({ length: 2 * depth }, (_, n) => (n % 2 === 0 ? { keys: K, values: F } : { keys: F, values: K }))
  const widths = [K, ...nets.map(({ keys }) => keys), ...nets.map(({ values }) => values), ...nets.map(() => 1)]
  const norms = Array.from({ length: depth }, (_, i) => [
    [`gain_${i}`, { shape: [K], mean: 1 }],
    [`bias_${i}`, { shape: [K] }],
  ])
  return {
    heads,
    width: widths.reduce((n, width) => n + width, 0),
    outputs: K,
    parameters: Object.fromEntries(norms.flat()),
    state: Object.fromEntries(nets.map(({ keys, values }, n) => [`W_${n}`, [heads, keys, values]])),
    run(x, parameters, state, packing) {
      const pieces = split(x, -1, widths)
      const after: Record<string, Tensor> = {}
      const pass = (n: number, query: Tensor): Tensor => {
        const [k, v, beta] = [1, 1 + nets.length, 1 + 2 * nets.length].map((at) => pieces[at + n])
        const { y, W } = deltaNet(features(query), features(k), v, beta, state?.[`W_${n}`], packing)
        after[`W_${n}`] = W
        return y
      }
      let q = pieces[0]
      for (let i = 0; i < depth; i++) {
        const normed = layerNorm(q, parameters[`gain_${i}`], parameters[`bias_${i}`])
        q = add(q, pass(2 * i + 1, pass(2 * i, normed)))
      }
      return { y: q, state: after }
    },
  }
}

/**
 * Delta-Delta net (Irie 2021, section 3.1): what one delta net reads is query, key, value and write strength of a second.
 * A head's numbers: q, k, v [3 K + 1], beta.
 */
export function deltaDelta(heads: number, K: number): Core {
  const inner = [K, K, K, 1]
  return {
    heads,
    width: 5 * K + 2,
    outputs: K,
    parameters: {},
    state: { W_slow: [heads, K, 3 * K + 1], W: [heads, K, K] },
    run(x, _, state, packing) {
      const [q, k, v, beta] = split(x, -1, [K, K, 3 * K + 1, 1])
      const first = deltaNet(features(q), features(k), v, beta, state?.W_slow, packing)
      const [q2, k2, v2, beta2] = split(first.y, -1, inner)
      const second = deltaNet(features(q2), features(k2), v2, beta2, state?.W, packing)
      return { y: second.y, state: { W_slow: first.W, W: second.W } }
    },
  }
}
