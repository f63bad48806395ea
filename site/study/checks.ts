/**
 * The live checks of the study pages: both sides of an equation, computed on small drawn numbers by the reference device, in float64. A page runs them in
 * a worker, site/test in Node. Where a side is the library's, the other one is written out in plain ops.
 */
import {
  add,
  affine,
  attentionDeltaRule,
  concat,
  crossEntropy,
  deltaRule,
  div,
  dpfp,
  exp,
  type Generator,
  gatedDeltaRule,
  generator,
  l2Norm,
  log,
  matmul,
  mul,
  neg,
  normal,
  relu,
  reshape,
  roll,
  sigmoid,
  slice,
  softmax,
  square,
  sub,
  sum,
  sumNorm,
  sumRule,
  type Tensor,
  tanh,
  tensor,
  uniform,
  zeros,
} from 'fastweights'
import { Adam, detachState, initialState, stateGrowth, stateSize, Transformer } from 'fastweights/nn'

/** Tokens, width of keys, width of values: small enough to be read. */
const T = 4
const K = 3
const V = 2

/** Numbers that follow from a seed. */
export class Numbers {
  readonly seed: number
  private readonly g: Generator

  constructor(seed: number) {
    this.seed = seed
    this.g = generator(seed)
  }

  any(...shape: number[]): Tensor {
    return normal(this.g, shape)
  }
  /** Rows of length 1. */
  keys(...shape: number[]): Tensor {
    return l2Norm(normal(this.g, shape), 0)
  }
  /** Between 0 and 1. */
  rates(...shape: number[]): Tensor {
    return sigmoid(normal(this.g, shape))
  }
  /** Above 0. */
  features(...shape: number[]): Tensor {
    return affine(uniform(this.g, shape), 1, 0.1)
  }
  /** Rows of an orthonormal basis, by Gram and Schmidt. */
  orthonormal(n: number): Tensor {
    const found: Tensor[] = []
    for (let i = 0; i < n; i++) {
      let x = this.any(1, n)
      for (let pass = 0; pass < 2; pass++) for (const other of found) x = sub(x, mul(other, sum(mul(x, other))))
      found.push(l2Norm(x, 0))
    }
    return concat(found, 0)
  }
}

export interface Sides {
  left: Tensor
  right: Tensor
}
export interface Check {
  /** What is drawn. */
  sizes: string
  /** Of the largest difference beside the largest number, but at least 1; 1e-12 where it isn't said. */
  bound?: number
  sides(n: Numbers): Sides | Promise<Sides>
}

// ---- what sides are made of: matrices [rows, columns] of one head --------------------------------------------------------------------

const times = (a: Tensor, b: Tensor): Tensor => matmul(a, b)
const withTransposed = (a: Tensor, b: Tensor): Tensor => matmul(a, b, { transposeB: true })
const transposedTimes = (a: Tensor, b: Tensor): Tensor => matmul(a, b, { transposeA: true })
const row = (x: Tensor, t: number): Tensor => slice(x, 0, t, t + 1)
const rowsTo = (x: Tensor, t: number): Tensor => slice(x, 0, 0, t)
const column = (x: Tensor): Tensor => reshape(x, [x.size, 1])
const table = (rows: number, columns: number, at: (i: number, j: number) => number): Tensor =>
  tensor(
    Float64Array.from({ length: rows * columns }, (_, i) => at(Math.floor(i / columns), i % columns)),
    { shape: [rows, columns] },
  )
/** 1 on and below the diagonal, or below it alone. */
const lower = (n: number, strict = false): Tensor => table(n, n, (i, j) => Number(strict ? j < i : j <= i))
const identity = (n: number): Tensor => table(n, n, (i, j) => Number(i === j))
/** What a rule takes and gives: [1,T,1,n], a state [1,1,K,V]. */
const asHead = (x: Tensor): Tensor => reshape(x, [1, x.shape[0], 1, x.shape[1]])
const asMatrix = (x: Tensor): Tensor => reshape(x, [x.size / x.shape.at(-1)!, x.shape.at(-1)!])
const asState = (S: Tensor) => ({ S: reshape(S, [1, 1, ...S.shape]) })

/** (I + L)^-1 of a strictly lower L, row by row. */
function inverse(L: Tensor): Tensor {
  const n = L.shape[0]
  const found: Tensor[] = []
  for (let i = 0; i < n; i++) {
    const one = row(identity(n), i)
    found.push(i === 0 ? one : sub(one, times(slice(row(L, i), 1, 0, i), concat(found, 0))))
  }
  return concat(found, 0)
}

function delta(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, S?: Tensor, form: 'recurrent' | 'chunk' = 'recurrent') {
  const rates = reshape(beta, [1, beta.size, 1])
  const { y, state } = deltaRule(asHead(q), asHead(k), asHead(v), rates, S && asState(S), { form, chunk: T })
  return { y: asMatrix(y), S: asMatrix(state.S) }
}
function added(q: Tensor, k: Tensor, v: Tensor, S?: Tensor, normalise = false) {
  const { y, state } = sumRule(asHead(q), asHead(k), asHead(v), S && asState(S), { normalise })
  return { y: asMatrix(y), S: asMatrix(state.S) }
}

/** A chunk of the delta rule, taken apart. */
function chunkOf(n: Numbers) {
  const [q, k, v, beta, S] = [n.any(T, K), n.keys(T, K), n.any(T, V), n.rates(T), n.any(K, V)]
  const rate = column(beta)
  const L = mul(mul(withTransposed(k, k), rate), lower(T, true))
  const inverted = inverse(L)
  const W = times(inverted, mul(rate, k))
  const U0 = times(inverted, mul(rate, v))
  return { q, k, v, beta, S, rate, L, W, U0, U: sub(U0, times(W, S)) }
}

/** u_t = beta_t (v_t - S_{t-1}^T k_t), a row a token, the memory from the library's recurrent form. */
function written({ q, k, v, beta, S, rate }: ReturnType<typeof chunkOf>): Tensor {
  return concat(
    Array.from({ length: T }, (_, t) => {
      const before = t === 0 ? S : delta(rowsTo(q, t), rowsTo(k, t), rowsTo(v, t), rowsTo(beta, t), S).S
      return mul(row(rate, t), sub(row(v, t), times(row(k, t), before)))
    }),
    0,
  )
}

/** d/dx of a loss, one number. */
function gradient(x: Tensor, loss: (x: Tensor) => Tensor): Tensor {
  x.requiresGrad = true
  loss(x).backward()
  return x.grad!
}

/** (loss(x + h) - loss(x - h)) / 2h for each element. */
async function differences(x: Tensor, loss: (x: Tensor) => Tensor, h = 1e-5): Promise<Tensor> {
  const values = Float64Array.from(await x.read())
  const at = async (i: number, by: number): Promise<number> => {
    const moved = values.slice()
    moved[i] += by
    return loss(tensor(moved, { shape: x.shape })).item()
  }
  const slopes: number[] = []
  for (let i = 0; i < values.length; i++) slopes.push(((await at(i, h)) - (await at(i, -h))) / (2 * h))
  return tensor(slopes, { shape: x.shape })
}

/** A model small enough to be run here. */
const smallModel = (n: Numbers, rest: object = {}): Transformer =>
  new Transformer({ symbols: 5, dModel: 8, heads: 2, layers: 1, dFf: 8, ...rest }, n.seed).eval() as Transformer

const tokens = (n: Numbers, count: number): number[] => Array.from({ length: count }, (_, i) => (i * i + n.seed * (i + 1)) % 5)
const tokenTensor = (values: number[]): Tensor => tensor(values, { dtype: 'int32', shape: [1, values.length] })

// ---- the checks ---------------------------------------------------------------------------------------------------------------------

export const checks = {
  // A tensor and its tape
  'uses add up': {
    sizes: 'x [2,3]',
    sides: (n) => {
      const x = n.any(2, 3)
      return { left: gradient(x, (x) => sum(add(square(x), affine(x, 3)))), right: affine(x, 2, 3) }
    },
  },
  'chain of two ops': {
    sizes: 'A [3,2], x [2,2], w [3,2]',
    sides: (n) => {
      const [A, x, w] = [n.any(3, 2), n.any(2, 2), n.any(3, 2)]
      const y = tanh(times(A, x))
      return {
        left: gradient(x, (x) => sum(mul(w, tanh(times(A, x))))),
        right: transposedTimes(A, mul(w, affine(square(y), -1, 1))),
      }
    },
  },
  'gradients are slopes': {
    sizes: 'x [2,3], h = 1e-5',
    bound: 1e-8,
    sides: async (n) => {
      const x = n.any(2, 3)
      const loss = (x: Tensor): Tensor => sum(mul(tanh(x), exp(affine(x, 0.5))))
      return { right: await differences(x, loss), left: gradient(x, loss) }
    },
  },
  // An op with its backward
  softmax: {
    sizes: 'x [2,4]',
    sides: (n) => {
      const x = n.any(2, 4)
      return { left: softmax(x), right: div(exp(x), sum(exp(x), { axis: 1, keepDim: true })) }
    },
  },
  'softmax backward': {
    sizes: 'x, dy [2,4]',
    sides: (n) => {
      const [x, dy] = [n.any(2, 4), n.any(2, 4)]
      const y = softmax(x)
      return {
        left: gradient(x, (x) => sum(mul(softmax(x), dy))),
        right: mul(y, sub(dy, sum(mul(dy, y), { axis: 1, keepDim: true }))),
      }
    },
  },
  'softmax is blind to a shift': {
    sizes: 'x, dy [2,4]',
    sides: (n) => {
      const [x, dy] = [n.any(2, 4), n.any(2, 4)]
      return {
        left: sum(
          gradient(x, (x) => sum(mul(softmax(x), dy))),
          { axis: 1, keepDim: true },
        ),
        right: zeros([2, 1]),
      }
    },
  },
  // The sum rule as attention
  'a memory is a sum': {
    sizes: 'T = 4, K = 3, V = 2',
    sides: (n) => {
      const [k, v] = [n.keys(T, K), n.any(T, V)]
      return { left: added(k, k, v).S, right: transposedTimes(k, v) }
    },
  },
  'a read is a weighted sum': {
    sizes: 'T = 4, K = 3, V = 2',
    sides: (n) => {
      const [q, k, v] = [n.any(T, K), n.keys(T, K), n.any(T, V)]
      return { left: row(added(q, k, v).y, T - 1), right: times(withTransposed(row(q, T - 1), k), v) }
    },
  },
  'all reads at once': {
    sizes: 'T = 4, K = 3, V = 2',
    sides: (n) => {
      const [q, k, v] = [n.any(T, K), n.keys(T, K), n.any(T, V)]
      return { left: added(q, k, v).y, right: times(mul(withTransposed(q, k), lower(T)), v) }
    },
  },
  'the normaliser': {
    sizes: 'T = 4, K = 3, V = 2, features above 0',
    sides: (n) => {
      const [q, k, v] = [n.features(T, K), n.features(T, K), n.any(T, V)]
      const A = mul(withTransposed(q, k), lower(T))
      return { left: added(q, k, v, undefined, true).y, right: div(times(A, v), affine(sum(A, { axis: 1, keepDim: true }), 1, 1e-6)) }
    },
  },
  'softmax attention': {
    sizes: 'T = 4, K = 3, V = 2',
    sides: (n) => {
      const [q, k, v] = [n.any(T, K), n.any(T, K), n.any(T, V)]
      const grown = Array.from({ length: T }, (_, t) => times(softmax(withTransposed(row(q, t), rowsTo(k, t + 1))), rowsTo(v, t + 1)))
      return { left: concat(grown, 0), right: times(softmax(withTransposed(q, k), { causal: true }), v) }
    },
  },
  'order is lost': {
    sizes: 'T = 4, K = 3, V = 2',
    sides: (n) => {
      const [k, v] = [n.keys(T, K), n.any(T, V)]
      const turned = (x: Tensor): Tensor =>
        concat(
          [3, 1, 0, 2].map((t) => row(x, t)),
          0,
        )
      return { left: added(k, k, v).S, right: added(turned(k), turned(k), turned(v)).S }
    },
  },
  // DPFP
  'dpfp by its formula': {
    sizes: 'x [1,3], nu = 2',
    sides: (n) => {
      const x = n.any(1, 3)
      const r = relu(concat([x, neg(x)], 1))
      return { left: dpfp(x, 2), right: concat([mul(r, roll(r, 1, 1)), mul(r, roll(r, 1, 2))], 1) }
    },
  },
  'dpfp tells x from -x': {
    sizes: 'x [3,4], nu = 2',
    sides: (n) => {
      const x = n.any(3, 4)
      return { left: sum(mul(dpfp(x, 2), dpfp(neg(x), 2)), { axis: 1, keepDim: true }), right: zeros([3, 1]) }
    },
  },
  'dpfp grows with the square': {
    sizes: 'x [1,3], c = 3',
    sides: (n) => {
      const x = n.any(1, 3)
      return { left: dpfp(affine(x, 3), 1), right: affine(dpfp(x, 1), 9) }
    },
  },
  'dpfp repeats itself': {
    sizes: 'x, y [2,3], shifts 1 and 5',
    sides: (n) => {
      const [x, y] = [n.any(2, 3), n.any(2, 3)]
      const shift = (x: Tensor, i: number): Tensor => slice(dpfp(x, i), 1, 6 * (i - 1), 6 * i)
      return { left: withTransposed(shift(x, 1), shift(y, 1)), right: withTransposed(shift(x, 5), shift(y, 5)) }
    },
  },
  'features sum to 1': {
    sizes: 'x [3,4], nu = 3',
    sides: (n) => ({ left: sum(sumNorm(dpfp(n.any(3, 4), 3), 0), { axis: 1, keepDim: true }), right: table(3, 1, () => 1) }),
  },
  // The delta rule
  interference: {
    sizes: 'T = 4, K = 3, V = 2, keys of length 1',
    sides: (n) => {
      const [k, v] = [n.keys(T, K), n.any(T, V)]
      const others = mul(withTransposed(k, k), affine(identity(T), -1, 1))
      return { left: times(k, added(k, k, v).S), right: add(v, times(others, v)) }
    },
  },
  'the delta rule': {
    sizes: 'T = 4, K = 3, V = 2',
    sides: (n) => {
      const [q, k, v, beta] = [n.any(T, K), n.keys(T, K), n.any(T, V), n.rates(T)]
      let S = zeros([K, V])
      for (let t = 0; t < T; t++) S = add(S, transposedTimes(row(k, t), mul(row(column(beta), t), sub(row(v, t), times(row(k, t), S)))))
      return { left: delta(q, k, v, beta).S, right: S }
    },
  },
  'the last write reads back': {
    sizes: 'T = 4, K = 3, V = 2, keys of length 1',
    sides: (n) => {
      const [k, v] = [n.keys(T, K), n.any(T, V)]
      return {
        left: delta(
          k,
          k,
          v,
          table(T, 1, () => 1),
        ).y,
        right: v,
      }
    },
  },
  'only what the key addresses': {
    sizes: 'K = 3 orthonormal keys, V = 2',
    sides: (n) => {
      const [keys, v, beta, S] = [n.orthonormal(K), n.any(1, V), n.rates(1), n.any(K, V)]
      const held = times(keys, S)
      const after = delta(row(keys, 1), row(keys, 1), v, beta, S).S
      const blended = add(row(held, 1), mul(reshape(beta, [1, 1]), sub(v, row(held, 1))))
      return { left: times(keys, after), right: concat([row(held, 0), blended, row(held, 2)], 0) }
    },
  },
  'a gradient step': {
    sizes: 'K = 3, V = 2',
    sides: (n) => {
      const [k, v, beta, S] = [n.keys(1, K), n.any(1, V), n.rates(1), n.any(K, V)]
      const slope = gradient(affine(S, 1), (S) => affine(sum(square(sub(times(k, S), v))), 0.5))
      return { left: delta(k, k, v, beta, S).S, right: sub(S, mul(reshape(beta, [1, 1]), slope)) }
    },
  },
  'attention normalisation': {
    sizes: 'K = 3, V = 2, from a memory, features above 0',
    sides: (n) => {
      const [q, k, v, beta, S] = [n.features(1, K), n.features(1, K), n.any(1, V), n.rates(1), n.any(K, V)]
      const z = n.features(1, K)
      const state = { ...asState(S), z: reshape(z, [1, 1, K]) }
      const { y } = attentionDeltaRule(asHead(q), asHead(k), asHead(v), reshape(beta, [1, 1, 1]), state, { eps: 0 })
      const held = div(times(k, S), withTransposed(z, k))
      const next = add(S, transposedTimes(k, mul(reshape(beta, [1, 1]), sub(v, held))))
      return { left: asMatrix(y), right: div(times(q, next), withTransposed(add(z, k), q)) }
    },
  },
  // Chunks
  'a write is an outer product': {
    sizes: 'T = 4, K = 3, V = 2, from a memory',
    sides: (n) => {
      const c = chunkOf(n)
      const u = written(c)
      return { left: delta(c.q, c.k, c.v, c.beta, c.S).S, right: add(c.S, transposedTimes(c.k, u)) }
    },
  },
  'writes by earlier writes': {
    sizes: 'T = 4, K = 3, V = 2',
    sides: (n) => {
      const c = chunkOf(n)
      const u = written(c)
      const earlier = times(mul(withTransposed(c.k, c.k), lower(T, true)), u)
      return { left: u, right: mul(c.rate, sub(sub(c.v, times(c.k, c.S)), earlier)) }
    },
  },
  'a triangular system': {
    sizes: 'T = 4, K = 3, V = 2',
    sides: (n) => {
      const c = chunkOf(n)
      return { left: times(add(identity(T), c.L), written(c)), right: mul(c.rate, sub(c.v, times(c.k, c.S))) }
    },
  },
  'W and U': {
    sizes: 'T = 4, K = 3, V = 2',
    sides: (n) => {
      const c = chunkOf(n)
      return { left: written(c), right: c.U }
    },
  },
  'a product of reflections': {
    sizes: 'T = 4, K = 3',
    sides: (n) => {
      const c = chunkOf(n)
      let product = identity(K)
      for (let t = 0; t < T; t++) {
        const k = row(c.k, t)
        product = times(sub(identity(K), mul(row(c.rate, t), transposedTimes(k, k))), product)
      }
      return { left: product, right: sub(identity(K), transposedTimes(c.k, c.W)) }
    },
  },
  'reads of a chunk': {
    sizes: 'T = 4, K = 3, V = 2',
    sides: (n) => {
      const { q, k, v, beta, S, U } = chunkOf(n)
      return { left: delta(q, k, v, beta, S).y, right: add(times(q, S), times(mul(withTransposed(q, k), lower(T)), U)) }
    },
  },
  'the memory after a chunk': {
    sizes: 'T = 4, K = 3, V = 2',
    sides: (n) => {
      const { q, k, v, beta, S, U } = chunkOf(n)
      return { left: delta(q, k, v, beta, S, 'chunk').S, right: add(S, transposedTimes(k, U)) }
    },
  },
  'decays in a chunk': {
    sizes: 'T = 4, K = 3, V = 2, from a memory: y, and the memory after',
    sides: (n) => {
      const { q, k, v, beta, S, rate } = chunkOf(n)
      const decay = n.rates(T)
      const gate = log(decay)
      const { y, state } = gatedDeltaRule(asHead(q), asHead(k), asHead(v), reshape(beta, [1, T, 1]), reshape(gate, [1, T, 1]), asState(S), {
        form: 'chunk',
      })
      // The running sum of the logarithms, masked before it is raised.
      const G = times(lower(T), column(gate))
      const D = mul(exp(mul(sub(G, reshape(G, [1, T])), lower(T))), lower(T))
      const Gamma = exp(G)
      const L = mul(mul(mul(withTransposed(k, k), D), rate), lower(T, true))
      const U = times(inverse(L), mul(rate, sub(v, mul(Gamma, times(k, S)))))
      const Y = add(mul(Gamma, times(q, S)), times(mul(withTransposed(q, k), D), U))
      const after = add(mul(row(Gamma, T - 1), S), transposedTimes(mul(reshape(row(D, T - 1), [T, 1]), k), U))
      return { left: concat([asMatrix(y), asMatrix(state.S)], 0), right: concat([Y, after], 0) }
    },
  },
  'backward of a chunk': {
    sizes: 'T = 4, K = 3, V = 2',
    sides: (n) => {
      const { q, k, v, beta, S, L, rate } = chunkOf(n)
      const dy = n.any(T, V)
      const P = mul(withTransposed(q, k), lower(T))
      const solved = transposedTimes(inverse(L), transposedTimes(P, dy))
      return { left: gradient(v, (v) => sum(mul(delta(q, k, v, beta, S, 'chunk').y, dy))), right: mul(rate, solved) }
    },
  },
  // The fused kernel
  'recall, write, read': {
    sizes: 'K = 3, V = 2, one token',
    sides: (n) => {
      const [q, k, v, beta, S] = [n.any(1, K), n.keys(1, K), n.any(1, V), n.rates(1), n.any(K, V)]
      const e = sub(v, times(k, S))
      const next = add(S, transposedTimes(k, mul(reshape(beta, [1, 1]), e)))
      return { left: delta(q, k, v, beta, S).y, right: times(q, next) }
    },
  },
  'backward of a read': {
    sizes: 'T = 4, K = 3, V = 2',
    sides: (n) => {
      const [q, k, v, beta, g] = [n.any(T, K), n.keys(T, K), n.any(T, V), n.rates(T), n.any(T, V)]
      const each = Array.from({ length: T }, (_, t) => {
        const S = delta(rowsTo(q, t + 1), rowsTo(k, t + 1), rowsTo(v, t + 1), rowsTo(beta, t + 1)).S
        return withTransposed(row(g, t), S)
      })
      return { left: gradient(q, (q) => sum(mul(delta(q, k, v, beta).y, g))), right: concat(each, 0) }
    },
  },
  'backward of a write': {
    sizes: 'T = 4, K = 3, V = 2',
    sides: (n) => {
      const [q, k, v, beta, g] = [n.any(T, K), n.keys(T, K), n.any(T, V), n.rates(T), n.any(T, V)]
      let dS = zeros([K, V])
      const each: Tensor[] = []
      for (let t = T - 1; t >= 0; t--) {
        dS = add(dS, transposedTimes(row(q, t), row(g, t)))
        const dv = mul(row(column(beta), t), times(row(k, t), dS))
        each.unshift(dv)
        dS = sub(dS, transposedTimes(row(k, t), dv))
      }
      return { left: gradient(v, (v) => sum(mul(delta(q, k, v, beta).y, g))), right: concat(each, 0) }
    },
  },
  // Training
  'cross-entropy': {
    sizes: 'logits [3,4]',
    sides: (n) => {
      const logits = n.any(3, 4)
      const picked = mul(
        log(softmax(logits)),
        table(3, 4, (i, j) => Number(j === i)),
      )
      return { left: crossEntropy(logits, tensor([0, 1, 2], { dtype: 'int32' })), right: affine(sum(picked), -1 / 3) }
    },
  },
  'backward of cross-entropy': {
    sizes: 'logits [3,4]',
    sides: (n) => {
      const logits = n.any(3, 4)
      const right = affine(
        sub(
          softmax(logits),
          table(3, 4, (i, j) => Number(j === i)),
        ),
        1 / 3,
      )
      return { left: gradient(logits, (x) => crossEntropy(x, tensor([0, 1, 2], { dtype: 'int32' }))), right }
    },
  },
  'a step of Adam': {
    sizes: 'p [2,3], the second step',
    sides: async (n) => {
      const [start, first, second] = [n.any(2, 3), n.any(2, 3), n.any(2, 3)]
      const p = tensor(await start.read(), { shape: [2, 3], requiresGrad: true })
      const optimizer = new Adam(new Map([['p', p]]), { lr: 0.1 })
      for (const g of [first, second]) {
        sum(mul(p, g)).backward()
        optimizer.step()
        optimizer.zeroGrad()
      }
      const move = (m: Tensor, v: Tensor, step: number): Tensor =>
        affine(div(affine(m, 1 / (1 - 0.9 ** step)), add(exp(affine(log(affine(v, 1 / (1 - 0.999 ** step))), 0.5)), 1e-8)), -0.1)
      const [m1, v1] = [affine(first, 0.1), affine(square(first), 0.001)]
      const m2 = add(affine(m1, 0.9), affine(second, 0.1))
      const v2 = add(affine(v1, 0.999), affine(square(second), 0.001))
      return { left: p, right: add(add(start, move(m1, v1, 1)), move(m2, v2, 2)) }
    },
  },
  'a clipped step': {
    sizes: 'g [2,3] of norm 5, clipped at 1',
    sides: async (n) => {
      const direction = l2Norm(reshape(n.any(2, 3), [1, 6]), 0)
      const g = reshape(affine(direction, 5), [2, 3])
      const moments = async (gradient: Tensor, clipNorm?: number): Promise<Tensor> => {
        const p = tensor(new Float64Array(6), { shape: [2, 3], requiresGrad: true })
        const optimizer = new Adam(new Map([['p', p]]), { lr: 0.1 })
        sum(mul(p, gradient)).backward()
        optimizer.step({ clipNorm })
        return optimizer.moments().get('m.p')!
      }
      // torch divides by the norm plus 1e-6.
      return { left: await moments(g, 1), right: await moments(affine(g, 1 / (5 + 1e-6))) }
    },
  },
  // Generation in constant memory
  'a cut changes nothing': {
    sizes: 'T = 4 in pieces of 1 and 3, K = 3, V = 2',
    sides: (n) => {
      const [q, k, v, beta] = [n.any(T, K), n.keys(T, K), n.any(T, V), n.rates(T)]
      const rest = (x: Tensor): Tensor => slice(x, 0, 1, T)
      const first = delta(row(q, 0), row(k, 0), row(v, 0), row(beta, 0))
      const second = delta(rest(q), rest(k), rest(v), rest(beta), first.S)
      return { left: concat([first.y, second.y], 0), right: delta(q, k, v, beta).y }
    },
  },
  'a model in pieces': {
    sizes: 'a model of one layer, 6 tokens, logits of the last',
    sides: (n) => {
      const model = smallModel(n)
      const text = tokens(n, 6)
      const whole = model.forward(tokenTensor(text)).logits
      let state = initialState(model, 1)
      let last = whole
      for (const token of text) {
        const result = model.forward(tokenTensor([token]), state)
        last = result.logits
        state = detachState(result.state)
      }
      return { left: asMatrix(last), right: asMatrix(slice(whole, 1, 5, 6)) }
    },
  },
  'the size of a state': {
    sizes: 'the delta rule beside softmax attention: numbers at once, numbers a token',
    sides: (n) => {
      const sizes = (mixer: 'delta' | 'softmax'): number[] => {
        const model = smallModel(n, { mixer })
        return [stateSize(model), stateGrowth(model)]
      }
      // One layer, two heads of width 4. Delta: S [8,4] each, since DPFP doubles the width, and a position. Softmax: a position, and k and v [4] of each
      // head for every token.
      return {
        left: tensor([sizes('delta'), sizes('softmax')]),
        right: tensor([
          [2 * 8 * 4 + 1, 0],
          [1, 2 * (4 + 4)],
        ]),
      }
    },
  },
  temperature: {
    sizes: 'logits [1,4], temperature 0.5',
    sides: (n) => {
      const logits = n.any(1, 4)
      const p = softmax(logits)
      return { left: softmax(div(logits, 0.5)), right: div(square(p), sum(square(p))) }
    },
  },
} as const satisfies Record<string, Check>
export type CheckName = keyof typeof checks

/** Numbers as they are shown: rows of a matrix. */
export interface Grid {
  shape: readonly number[]
  values: number[]
}
export interface Outcome {
  left: Grid
  right: Grid
  /** The largest difference, beside the largest number of the right side, or beside 1 where that is smaller. NaN where a side isn't finite. */
  error: number
  bound: number
  holds: boolean
}

/** How far two sides differ. */
export function compare(left: Grid, right: Grid, bound: number): Outcome {
  const fits = left.shape.join() === right.shape.join()
  const largest = Math.max(1, ...right.values.map(Math.abs))
  const error = fits ? left.values.reduce((worst, x, i) => worstOf(worst, Math.abs(x - right.values[i]) / largest), 0) : Number.NaN
  return { left, right, error, bound, holds: error <= bound }
}

const worstOf = (a: number, b: number): number => (Number.isNaN(a) || Number.isNaN(b) ? Number.NaN : Math.max(a, b))

export async function runCheck(name: CheckName, seed: number): Promise<Outcome> {
  const check: Check = checks[name]
  const { left, right } = await check.sides(new Numbers(seed))
  const grid = async (x: Tensor): Promise<Grid> => ({
    shape: x.shape.length > 1 ? asMatrix(x).shape : [1, x.size],
    values: Array.from(await x.read()),
  })
  return compare(await grid(left), await grid(right), check.bound ?? 1e-12)
}
