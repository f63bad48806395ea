/**
 * The models of the synthetic retrieval experiments (Schlag 2021, section 6.1; github.com/ischlag/fast-weight-transformers ebe13ea, synthetic/):
 * L keys and values are written, and then a query is read (or several, each by itself).
 */
import { checkObject, told } from '../../engine/arguments.ts'
import { fastWeightMemory } from '../../engine/nets/delta.ts'
import { runNet } from '../../engine/nets/run.ts'
import { checkInt32, match } from '../../engine/ops/check.ts'
import { add, affine, div, mul, relu, sigmoid, tanh } from '../../engine/ops/elementwise.ts'
import { matmul } from '../../engine/ops/matmul.ts'
import { concat, detach, gather, permute, reshape, slice } from '../../engine/ops/movement.ts'
import { layerNorm, softmax, sumNorm } from '../../engine/ops/norm.ts'
import { sum } from '../../engine/ops/reduce.ts'
import { dpfp } from '../../engine/ops/sequence.ts'
import { generator } from '../../engine/random.ts'
import { deltaRule } from '../../engine/rules/delta.ts'
import { Tensor, tensor, varying, zeros } from '../../engine/tensor.ts'
import { favor, featureMaps } from '../features.ts'
import { namesOf } from '../fields.ts'
import { Embedding, Linear } from '../layers.ts'
import type { StateDict } from '../module.ts'
import type { Options, OutsideClass, OutsideOption } from './class.ts'
import { OutsideModule } from './layer.ts'

/** int32: keys [B,L] (below n_keys), values [B,L] (from n_values on), query [B,Q]; y [B Q,n_values], a row for each query. */
export type RetrievalInput = Readonly<Record<'keys' | 'values' | 'query', Tensor>>

/** Queries [B,Q,1,d'], keys and values [B,L,1,...] of one head, strengths before their sigmoid [B,L,1]; y [B,Q,1,n_values]. */
type Read = (q: Tensor, k: Tensor, v: Tensor, beta: () => Tensor) => Tensor

const readEps = 1e-6

/** x [B,n,1,width] of the one head, [B,n,width]. */
const flat = (x: Tensor): Tensor => reshape(x, [x.shape[0], x.shape[1], x.shape[3]])
/** What queries read of a matrix S [B,1,K,V]. Only the last is read, so that rules make no read-outs on the way. */
const readFrom = (S: Tensor, q: Tensor): Tensor => {
  const [B, , K, V] = S.shape
  return reshape(matmul(flat(q), reshape(S, [B, K, V])), [B, q.shape[1], 1, V])
}

interface Rule {
  readonly read: Read
  /** Keys, values and strengths come from the last to the first. */
  readonly backwards?: boolean
}

const rules: Record<string, Rule> = {
  // Of queries at the end: their products with the keys, L numbers each, in place of a memory.
  sum: {
    read(q, k, v) {
      const [B, Q, H] = q.shape
      const scores = matmul(flat(q), flat(k), { transposeB: true })
      const y = div(matmul(scores, flat(v)), affine(sum(scores, { axis: -1, keepDim: true }), 1, readEps))
      return reshape(y, [B, Q, H, y.shape[2]])
    },
  },
  // S_L^T q is a sum of the values, the t-th times c_t = beta_t k_t^T P_t with P_L = q and P_{t-1} = (I - beta_t k_t k_t^T) P_t: the delta rule again, from the
  // last token to the first and with values of 0, in a memory of K x Q in place of K x V. Each P is read before its token changes it: writes come one late.
  ours: {
    backwards: true,
    read(q, k, v, beta) {
      const [B, L, H, K] = k.shape
      const Q = q.shape[1]
      const keys = sumNorm(k, 0)
      const strengths = sigmoid(beta())
      const late = (x: Tensor): Tensor => concat([zeros([B, 1, ...x.shape.slice(2)], x.device), slice(x, 1, 0, L - 1)], 1)
      const P = reshape(permute(flat(sumNorm(q, readEps)), [0, 2, 1]), [B, H, K, Q])
      const seen = deltaRule(keys, late(keys), zeros([B, L, H, Q], k.device), late(strengths), { S: P }).y
      const c = mul(flat(seen), strengths)
      return reshape(matmul(c, flat(v), { transposeA: true }), [B, Q, H, v.shape[3]])
    },
  },
  fwm: {
    read(q, k, v, beta) {
      const [B, L, H, K] = k.shape
      const net = fastWeightMemory({ K, V: v.shape[3], reads: false })
      const x = concat([k, v, reshape(beta(), [B, L, H, 1])], 3)
      return layerNorm(readFrom(runNet(net, x).state.W, q), null, null)
    },
  },
}

/**
 * Of long keys FAVOR+'s exponentials are next to nothing beside the sum rule's `readEps`; features up to this are 0 there, since products of them, and
 * gradients, would be numbers below 2^-126, which are slow to compute with. The delta rule divides keys by their sum, so that there they matter.
 */
const vanished = 1e-18
const unlessVanished = (x: Tensor): Tensor => relu(affine(x, 1, -vanished))

/** Softmax attention of each query to all keys. */
const attention: Rule = {
  read(q, k, v) {
    const [B, Q, H, d] = q.shape
    const y = matmul(softmax(matmul(affine(flat(q), 1 / Math.sqrt(d)), flat(k), { transposeB: true })), flat(v))
    return reshape(y, [B, Q, H, y.shape[2]])
  },
}

const maps: Record<string, (x: Tensor, arg: number, omega: Tensor | undefined) => Tensor> = {
  linear: featureMaps.elu1.map,
  tanh: (x) => tanh(x),
  dpfp: (x, nu) => dpfp(x, nu),
  favor: (x, _, omega) => favor(x, permute(omega!, [1, 0]), 0),
}

const options: Record<string, OutsideOption> = {
  n_keys: { description: 'keys' },
  n_values: { description: 'values S' },
  embedding_size: { description: 'width of the embedding of keys' },
  hidden_size: { description: 'width d of keys and queries' },
}

function model(
  o: Options,
  { read, backwards = false }: Rule,
  hasStrengths: boolean,
  fixed: Readonly<Record<string, Tensor>> = {},
): OutsideModule<RetrievalInput> {
  const { n_keys, n_values: S, embedding_size: e, hidden_size: d } = o
  const g = generator(1)
  const embeddingV = new Embedding(S, S, g)
  const embeddingK = new Embedding(n_keys + S, e, g)
  const W_k = new Linear(S + e, d, g)
  const W_q = new Linear(e, d, g)
  const W_v = new Linear(S + e, d, g)
  const W_b = hasStrengths ? new Linear(S + e, 1, g) : undefined
  const W_f = hasStrengths ? new Linear(S + e, d, g) : undefined
  const parts = { embeddingV, embeddingK, W_k, W_q, W_v, ...(W_b && W_f && { W_b, W_f }), ...fixed }
  return new OutsideModule<RetrievalInput>(parts, (input) => {
    checkObject('forward', input, 'keys')
    for (const name of ['keys', 'values', 'query'] as const) {
      if (!(input[name] instanceof Tensor)) throw new Error(`forward: needs ${name}, an int32 tensor, not ${told(input[name])}`)
      checkInt32(`forward: ${name}`, input[name])
    }
    const { keys, values, query } = input
    const { B, L } = match(
      'forward',
      { keys: ['B', 'L'], values: ['B', 'L'], query: ['B', 'Q'] },
      { keys: keys.shape, values: values.shape, query: query.shape },
    )
    // A captured step asks for the numbers anew each time.
    const tokens = (ids: Tensor, rowOf: (id: number) => number): Tensor => {
      const rows = (): Int32Array => {
        const given = ids.now()
        return given.map((_, i) => rowOf(given[backwards ? i - 2 * (i % L) + L - 1 : i]))
      }
      return varying(rows, { shape: [B, L], dtype: 'int32', device: values.device })
    }
    const keyRows = tokens(keys, (id) => id)
    // The values' table is the identity, and frozen.
    const valueRows = tokens(values, (id) => {
      if (id < S || id >= 2 * S) throw new Error(`forward: a value is ${id}; values are numbered from ${S} to ${2 * S - 1}`)
      return id - S
    })
    const symbols = detach(embeddingV.weight)
    const heads = (t: Tensor): Tensor => reshape(t, [B, t.shape[1], 1, t.shape[2]])
    /** What W makes of [v, k] at each token, [B,L,outputs]. All of both are rows of tables: each is multiplied once, however often it comes. */
    const ofTokens = (W: Linear): Tensor => {
      const part = (table: Tensor, begin: number, bias?: Tensor): Tensor =>
        matmul(table, slice(W.weight, 1, begin, begin + table.shape[1]), { transposeB: true, bias })
      const ofValues = part(symbols, 0)
      const ofKeys = part(slice(embeddingK.weight, 0, 0, n_keys), S, W.bias!)
      return add(gather(ofValues, valueRows), gather(ofKeys, keyRows))
    }
    const q = heads(W_q.forward(embeddingK.forward(query)))
    const y = read(q, heads(ofTokens(W_k)), heads(gather(symbols, valueRows)), () => ofTokens(W_b!))
    return { y: reshape(y, [y.shape[0] * y.shape[1], S]), state: {} }
  })
}

const sizes = (shapeOf: (name: string) => readonly number[]): Options => {
  const S = shapeOf('embeddingV.weight')[0]
  return {
    n_keys: shapeOf('embeddingK.weight')[0] - S,
    n_values: S,
    embedding_size: shapeOf('embeddingK.weight')[1],
    hidden_size: shapeOf('W_k.weight')[0],
  }
}

export const retrieval: Record<'ischlag/fast-weight-transformers', Record<string, OutsideClass<OutsideModule<RetrievalInput>>>> = {
  'ischlag/fast-weight-transformers': {
    PrefixSumLinearAttentionModel: {
      source: 'synthetic/linearAttention.py',
      options: {
        ...options,
        update_rule: { description: 'how the memory is written', choices: namesOf(rules) },
        attention_type: { description: 'the feature map', choices: namesOf(maps) },
        arg: { description: 'nu of dpfp; of no effect beside other maps', default: 1, least: 0 },
      },
      read: sizes,
      make(o, fixed: StateDict) {
        if (o.attention_type === 'dpfp' && o.arg === 0) throw new Error('arg must be a positive integer beside dpfp, not 0')
        const omega = fixed.get('omega')
        if (o.attention_type === 'favor' && omega === undefined)
          throw new Error("favor has random features, which the parameters don't hold: add them to the state dict as omega [d,m]")
        const directions = omega && tensor(Float64Array.from(omega.data, Number), { shape: [...omega.shape] })
        const vanishes = o.attention_type === 'favor' && o.update_rule === 'sum'
        const phi = (x: Tensor): Tensor => {
          const features = maps[o.attention_type](x, o.arg, directions)
          return vanishes ? unlessVanished(features) : features
        }
        const { read, backwards } = rules[o.update_rule]
        const rule: Rule = { read: (q, k, v, beta) => read(phi(q), phi(k), v, beta), backwards }
        return model(o, rule, true, directions && { omega: directions })
      },
      fixed: ['omega'],
    },
    SoftmaxAttentionModel: {
      source: 'synthetic/softmaxAttention.py',
      options,
      read: sizes,
      make: (o) => model(o, attention, false),
    },
  },
}
