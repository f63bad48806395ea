/** Claims that tie the recurrences to attention: matrices over the whole sequence, written out in composed ops. */
import {
  add,
  affine,
  concat,
  cumsum,
  div,
  exp,
  expand,
  type FastWeightState,
  matmul,
  mul,
  neg,
  permute,
  reshape,
  rules,
  slice,
  softmax,
  sub,
  sum,
  type Tensor,
  tanh,
} from '../engine/index.ts'
import { type Case, type Claim, defineClaim } from './claim.ts'
import type { Context } from './context.ts'
import { int, oneOf, sizes } from './fields.ts'
import { optionsOf, runs, sequence } from './parts.ts'
import { everything, floorOf, type Runner, runner, type Tensors } from './sides.ts'

const section = 'Fast weights as attention'

/** [B,T,H,n] <-> [B,H,T,n]. */
export const swap = (x: Tensor): Tensor => permute(x, [0, 2, 1, 3])
const times = (a: Tensor, b: Tensor): Tensor => matmul(a, b)
const withTransposed = (a: Tensor, b: Tensor): Tensor => matmul(a, b, { transposeB: true })
/** 1 where column j is at most row i (`strict`: less), [T,T]. */
export const lower = (x: Context, T: number, strict = false): Tensor =>
  x.from(
    Float64Array.from({ length: T * T }, (_, at) => Number(Math.floor(at / T) - (at % T) >= (strict ? 1 : 0))),
    [T, T],
  )

/** The last memory of the sum of weighted outer products: (K weights)^T V, [B,H,K,V]. */
const memory = (k: Tensor, v: Tensor): FastWeightState => ({ S: matmul(k, v, { transposeA: true }) })

/** D [B,H,T,T] with D_ij = exp(G_i - G_j) for j <= i, else 0; the difference is masked before it is raised. gate: [B,T,H]. */
function decays(gate: Tensor, x: Context): { D: Tensor; toEnd: Tensor } {
  const [B, T, H] = gate.shape
  const G = permute(cumsum(gate, 1), [0, 2, 1])
  const rows = reshape(G, [B, H, T, 1])
  const columns = reshape(G, [B, H, 1, T])
  const mask = lower(x, T)
  const D = mul(exp(mul(sub(rows, columns), mask)), mask)
  const end = slice(rows, 2, T - 1, T)
  return { D, toEnd: exp(sub(end, rows)) }
}

/** (I + L)^-1 for a strictly lower triangular L [...,T,T]: I - L + L^2 - ..., which ends after T terms. */
export function inverse(L: Tensor, x: Context): Tensor {
  const T = L.shape.at(-1)!
  const one = x.from(
    Float64Array.from({ length: T * T }, (_, at) => Number(at % (T + 1) === 0)),
    [T, T],
  )
  let power = expand(one, L.shape)
  let total = power
  for (let n = 1; n < T; n++) {
    power = neg(times(power, L))
    total = add(total, power)
  }
  return total
}

const forms: Record<
  string,
  { rule: keyof typeof rules; statement: string; equation: string; source: string; matrix: (x: Context) => Runner }
> = {
  'the sum rule is a masked matrix product': {
    rule: 'sum',
    statement: 'Linear attention without normaliser is attention without softmax: queries times keys, masked, times values.',
    equation: 'Y = \\mathrm{tril}(Q K^\\top)\\, V,\\quad S_T = K^\\top V',
    source: 'Schlag 2021, section 3.1; Katharopoulos 2020, eq. 8',
    matrix:
      (x) =>
      ({ q, k, v }) => {
        const [Q, K, V] = [swap(q), swap(k), swap(v)]
        return { y: swap(times(mul(withTransposed(Q, K), lower(x, q.shape[1])), V)), state: memory(K, V) }
      },
  },
  'linear attention is a normalised matrix product': {
    rule: 'linear-attention',
    statement:
      'With its normaliser, linear attention divides each row by its sum. Its gradient, the term that comes from the normaliser included, is the one of the matrices.',
    equation: 'Y = \\frac{\\mathrm{tril}(Q K^\\top)\\, V}{\\mathrm{tril}(Q K^\\top)\\, 1 + \\varepsilon}',
    source: 'Katharopoulos 2020, eq. 9; fla issue 875 (a lost term of the gradient)',
    matrix:
      (x) =>
      ({ q, k, v }) => {
        const [Q, K, V] = [swap(q), swap(k), swap(v)]
        const A = mul(withTransposed(Q, K), lower(x, q.shape[1]))
        const y = div(times(A, V), affine(sum(A, { axis: -1, keepDim: true }), 1, 1e-6))
        return { y: swap(y), state: { ...memory(K, V), z: sum(K, { axis: 2 }) } }
      },
  },
  'a scalar gate is a decay matrix': {
    rule: 'mamba2',
    statement: "The scalar gate multiplies the matrix of scores by products of decays: Mamba-2's structured masked attention.",
    equation: 'Y = \\bigl(\\mathrm{tril}(Q K^\\top) \\odot D\\bigr) V,\\quad D_{ij} = \\prod_{m=j+1}^{i} \\alpha_m',
    source: 'Dao & Gu 2024, section 3',
    matrix:
      (x) =>
      ({ q, k, v, gate }) => {
        const [Q, K, V] = [swap(q), swap(k), swap(v)]
        const { D, toEnd } = decays(gate, x)
        return { y: swap(times(mul(withTransposed(Q, K), D), V)), state: memory(mul(K, toEnd), V) }
      },
  },
  'retention is a matrix of powers': {
    rule: 'retnet',
    statement: 'Retention weighs the score of two tokens by the decay to the power of their distance.',
    equation: 'Y = \\bigl(Q K^\\top \\odot D\\bigr) V,\\quad D_{ij} = \\gamma^{i-j}\\; (i \\ge j)',
    source: 'Sun 2023, eq. 5',
    matrix:
      (x) =>
      ({ q, k, v, decay }) => {
        const [Q, K, V] = [swap(q), swap(k), swap(v)]
        const { D, toEnd } = decays(expand(decay, q.shape.slice(0, 3)), x)
        return { y: swap(times(mul(withTransposed(Q, K), D), V)), state: memory(mul(K, toEnd), V) }
      },
  },
  'the delta rule is attention to corrected values': {
    rule: 'delta',
    statement: 'Solving one triangular system for the values that are really written turns the delta rule into masked attention to them.',
    equation:
      'Y = \\mathrm{tril}(Q K^\\top)\\,(I + L)^{-1} \\mathrm{diag}(\\beta) V,\\quad L = \\mathrm{tril}\\bigl(\\mathrm{diag}(\\beta) K K^\\top, -1\\bigr)',
    source: 'Yang 2024, eq. 10-11 (with one chunk)',
    matrix:
      (x) =>
      ({ q, k, v, beta }) => {
        const [Q, K, V] = [swap(q), swap(k), swap(v)]
        const [B, T, H] = beta.shape
        const rate = reshape(permute(beta, [0, 2, 1]), [B, H, T, 1])
        const L = mul(mul(withTransposed(K, K), rate), lower(x, T, true))
        const written = times(inverse(L, x), mul(V, rate))
        return { y: swap(times(mul(withTransposed(Q, K), lower(x, T)), written)), state: memory(K, written) }
      },
  },
  'the gated delta rule is attention to corrected values': {
    rule: 'gated-delta',
    statement: 'The same with every product of keys, and of queries and keys, weighted by the decay between them.',
    equation:
      'Y = \\bigl(\\mathrm{tril}(Q K^\\top) \\odot D\\bigr)(I + L)^{-1} \\mathrm{diag}(\\beta) V,\\quad L = \\mathrm{tril}\\bigl(\\mathrm{diag}(\\beta) K K^\\top \\odot D, -1\\bigr)',
    source: 'Yang 2024 (gated DeltaNet), section 3.3',
    matrix:
      (x) =>
      ({ q, k, v, beta, gate }) => {
        const [Q, K, V] = [swap(q), swap(k), swap(v)]
        const [B, T, H] = beta.shape
        const rate = reshape(permute(beta, [0, 2, 1]), [B, H, T, 1])
        const { D, toEnd } = decays(gate, x)
        const L = mul(mul(mul(withTransposed(K, K), D), rate), lower(x, T, true))
        const written = times(inverse(L, x), mul(V, rate))
        return { y: swap(times(mul(withTransposed(Q, K), D), written)), state: memory(mul(K, toEnd), written) }
      },
  },
}

/** Memory that grows by a key and a value a token, read by softmax: y_t = V_t^T softmax(K_t q_t). */
function growing({ q, k, v }: Tensors): Tensor {
  const T = q.shape[1]
  const [Q, K, V] = [swap(q), swap(k), swap(v)]
  let [keys, values] = [slice(K, 2, 0, 1), slice(V, 2, 0, 1)]
  const outputs: Tensor[] = []
  for (let t = 0; t < T; t++) {
    if (t > 0) {
      keys = concat([keys, slice(K, 2, t, t + 1)], 2)
      values = concat([values, slice(V, 2, t, t + 1)], 2)
    }
    outputs.push(times(softmax(withTransposed(slice(Q, 2, t, t + 1), keys)), values))
  }
  return swap(concat(outputs, 2))
}

/** S_t = f(S_{t-1} + k_t v_t^T), y_t = S_t^T q_t: Schmidhuber's fast weights with their activation. */
export const withActivation =
  (f: (S: Tensor) => Tensor): Runner =>
  ({ q, k, v }, state) => {
    const [B, T, H, K] = k.shape
    const V = v.shape[3]
    let S = state?.S
    const ys: Tensor[] = []
    for (let t = 0; t < T; t++) {
      const at = (x: Tensor, shape: number[]): Tensor => reshape(slice(x, 1, t, t + 1), [B, H, ...shape])
      const written = matmul(at(k, [K, 1]), at(v, [1, V]))
      S = f(S ? add(S, written) : written)
      ys.push(reshape(matmul(at(q, [1, K]), S), [B, 1, H, V]))
    }
    return { y: concat(ys, 1), state: { S: S! } }
  }

export const attentionClaims: readonly Claim[] = [
  ...Object.entries(forms).map(([what, { rule, statement, equation, source, matrix }]) =>
    defineClaim({
      name: `attention: ${what}`,
      section,
      rules: [rule],
      statement,
      equation,
      source,
      fields: { ...sizes(rules[rule], { T: 10, width: 6 }), ...runs, decay: oneOf(1, 0.02) },
      floor: floorOf(rules[rule]),
      left: (c: Case & any, x: Context) => everything(rules[rule], c, x, runner(rules[rule], c.form, optionsOf(c))),
      right: (c: Case & any, x: Context) => everything(rules[rule], c, x, matrix(x)),
    }),
  ),
  defineClaim({
    name: 'attention: softmax attention is a memory that grows',
    section,
    statement:
      'Causal softmax attention programs fast weights too: each token appends its key and value to a memory, which softmax reads. The memory grows; the gradients agree as well.',
    equation: 'K_t = [K_{t-1}, k_t],\\; V_t = [V_{t-1}, v_t],\\; y_t = V_t\\, \\mathrm{softmax}(K_t^\\top q_t)',
    source: 'Schlag 2021, section 3.1, eq. 9-11',
    fields: { ...sequence, T: int(1, 10) },
    left: (c, x) => everything(rules.sum, c, x, (inputs) => ({ y: growing(inputs), state: {} as never })),
    right: (c, x) =>
      everything(rules.sum, c, x, ({ q, k, v }) => ({
        y: swap(times(softmax(withTransposed(swap(q), swap(k)), { causal: true }), swap(v))),
        state: {} as never,
      })),
  }),
  defineClaim({
    name: 'attention: fast weights of 1991 are linear attention',
    section,
    rules: ['sum'],
    statement:
      "Schmidhuber's fast weight programmer, whose weights change by outer products and pass through an activation, is unnormalised linear attention when the activation is the identity.",
    equation:
      'S_t = \\sigma(S_{t-1} + k_t v_t^\\top),\\; \\sigma = \\mathrm{id} \\;\\Rightarrow\\; y_t = \\textstyle\\sum_{j \\le t} (k_j^\\top q_t)\\, v_j',
    source: 'Schmidhuber 1991, 1992; Schlag 2021, section 2',
    fields: { ...sequence, ...runs, initial: oneOf(false, true) },
    left: (c, x) =>
      everything(
        rules.sum,
        c,
        x,
        withActivation((S) => S),
      ),
    right: (c, x) => everything(rules.sum, c, x, runner(rules.sum, c.form, optionsOf(c))),
  }),
  defineClaim({
    name: 'attention: fast weights of 2016 are decayed attention to oneself',
    section,
    rules: ['retnet'],
    statement:
      'The fast weights of Ba and others, A = lambda A + eta h h^T, applied to h, are attention to earlier states of the network that fades with their age.',
    equation: 'A_t h_t = \\eta \\sum_{\\tau \\le t} \\lambda^{t-\\tau} h_\\tau\\, (h_\\tau^\\top h_t)',
    source: 'Ba 2016, eq. 2-4',
    fields: { B: int(1, 2), T: int(1, 10), H: int(1, 2), K: int(1, 6), ...runs },
    left: (c, x) => {
      const h = x.tensor('h', [c.B, c.T, c.H, c.K], 'key')
      const decay = x.tensor('lambda', [c.H], 'gate')
      return { y: affine(runner(rules.retnet, c.form, optionsOf(c))({ q: h, k: h, v: h, decay }, undefined).y, 0.5) }
    },
    right: (c, x) => {
      const h = swap(x.tensor('h', [c.B, c.T, c.H, c.K], 'key'))
      const { D } = decays(expand(x.tensor('lambda', [c.H], 'gate'), [c.B, c.T, c.H]), x)
      return { y: swap(affine(times(mul(withTransposed(h, h), D), h), 0.5)) }
    },
  }),
]

export const squashed = withActivation(tanh)
