/** What the rules learn: each step of a memory is a step of learning from one example, checked with automatic differentiation. */
import {
  add,
  affine,
  concat,
  layerNorm,
  matmul,
  mul,
  permute,
  readOut,
  reshape,
  rules,
  slice,
  square,
  sub,
  sum,
  type Tensor,
  zeros,
} from '../engine/index.ts'
import { type Case, type Claim, defineClaim } from './claim.ts'
import type { Context } from './context.ts'
import { int } from './fields.ts'
import { call, cut, drawInputs } from './sides.ts'

const section = 'Fast weights as learning'
const fields = { B: int(1, 2), H: int(1, 2), K: int(1, 7), V: int(1, 7) }
type Sizes = Case & { B: number; H: number; K: number; V: number }

const before = (c: Sizes, x: Context): Tensor => x.tensor('S0', [c.B, c.H, c.K, c.V])
const one = (c: Sizes, x: Context, rule: 'delta' | 'longhorn' | 'sum') => drawInputs(rules[rule], { ...c, T: 1 } as unknown as Case, x)
/** An input of one token, without the axis T. */
const flat = (x: Tensor): Tensor => reshape(x, [x.shape[0], ...x.shape.slice(2)])

/** d/dS of a loss at S. */
function gradient(S: Tensor, loss: (S: Tensor) => Tensor): Tensor {
  S.requiresGrad = true
  loss(S).backward()
  return S.grad!
}

/** beta/2 |S^T k - v|^2, summed over sequences and heads. */
const misfit = (S: Tensor, k: Tensor, v: Tensor, beta: Tensor): Tensor =>
  sum(mul(sum(square(sub(readOut(S, k), v)), { axis: -1 }), affine(beta, 0.5)))

const minibatchFields = { B: int(1, 2), T: int(1, 6), H: int(1, 2), V: int(1, 6) }
type MinibatchSizes = Case & { B: number; T: number; H: number; V: number }
/** Of TTT; an eps of 1 leaves digits where the numbers under a layer norm are nearly equal. */
const innerEps = 1
const innerState = ({ B, H, V }: MinibatchSizes, x: Context) => ({ S: x.tensor('S0', [B, H, V, V]), c: x.tensor('c0', [B, H, V]) })
/** TTT-linear over the first n tokens, in one minibatch. */
function minibatch(c: MinibatchSizes, x: Context, n: number) {
  const { w, b, ...tokens } = drawInputs(rules.ttt, c, x)
  const { q, k, v, eta } = cut(rules.ttt, tokens, 'T', 0, n)
  return call('ttt', { q, k, v, eta, w, b }, innerState(c, x), { minibatch: 8, eps: innerEps })
}
/** LN(z) w + b; z: [B,H,T,V], w, b: [H,V]. */
const normed = (z: Tensor, w: Tensor, b: Tensor): Tensor => {
  const [gain, bias] = [w, b].map((t) => reshape(t, [t.shape[0], 1, t.shape[1]]))
  return add(mul(layerNorm(z, null, null, innerEps), gain), bias)
}

export const learningClaims: readonly Claim[] = [
  defineClaim({
    name: 'learning: delta is a gradient step',
    section,
    rules: ['delta'],
    statement: 'The delta rule is one step of gradient descent at rate beta on how far the memory is from mapping the key to the value.',
    equation: 'S_t = S_{t-1} - \\beta_t \\nabla_S\\, \\tfrac12 \\|S^\\top k_t - v_t\\|^2 \\Big|_{S_{t-1}}',
    source: 'Schlag 2021, section 4.2; Widrow & Hoff 1960; Yang 2024 (gated DeltaNet), table 1',
    fields,
    left: (c, x) => {
      const { q, k, v, beta } = one(c, x, 'delta')
      return { S: call('delta', { q, k, v, beta }, { S: before(c, x) }).state.S }
    },
    right: (c, x) => {
      const { k, v, beta } = one(c, x, 'delta')
      return {
        S: sub(
          before(c, x),
          gradient(before(c, x), (S) => misfit(S, flat(k), flat(v), flat(beta))),
        ),
      }
    },
  }),
  defineClaim({
    name: 'learning: the sum rule follows similarity',
    section,
    rules: ['sum'],
    statement: 'The sum rule is one step up the gradient of the inner product of value and read-out: Hebbian, with no error in it.',
    equation: 'S_t = S_{t-1} + \\nabla_S\\, \\langle S^\\top k_t, v_t \\rangle',
    source: 'Yang 2024 (gated DeltaNet), table 1',
    fields,
    left: (c, x) => {
      const { q, k, v } = one(c, x, 'sum')
      return { S: call('sum', { q, k, v }, { S: before(c, x) }).state.S }
    },
    right: (c, x) => {
      const { k, v } = one(c, x, 'sum')
      return {
        S: add(
          before(c, x),
          gradient(before(c, x), (S) => sum(mul(readOut(S, flat(k)), flat(v)))),
        ),
      }
    },
  }),
  defineClaim({
    name: 'learning: Longhorn solves its step',
    section,
    rules: ['longhorn'],
    statement:
      "Longhorn's new memory is where the distance to the old one and the misfit balance: the gradient of their sum is zero there.",
    equation: 'S_t = \\arg\\min_S\\, \\tfrac12 \\|S - S_{t-1}\\|_F^2 + \\tfrac{\\beta_t}{2} \\|S^\\top k_t - v_t\\|^2',
    source: 'Liu 2024, eq. 6; Yang 2024 (gated DeltaNet), table 1',
    fields,
    left: (c, x) => {
      const { q, k, v, beta } = one(c, x, 'longhorn')
      const S = call('longhorn', { q, k, v, beta }, { S: before(c, x) }).state.S
      const distance = (at: Tensor): Tensor => affine(sum(square(sub(at, before(c, x)))), 0.5)
      return { gradient: gradient(S, (at) => add(distance(at), misfit(at, flat(k), flat(v), flat(beta)))) }
    },
    right: (c, x) => ({ gradient: zeros([c.B, c.H, c.K, c.V], x.device) }),
    floor: 1,
  }),
  defineClaim({
    name: 'learning: TTT descends from the start of its minibatch',
    section,
    rules: ['ttt'],
    statement:
      "TTT-linear's memory takes one step of gradient descent for a minibatch: from its start, on the sum of the losses of all its tokens, at the last one's rate.",
    equation:
      '(S, c) \\leftarrow (S, c) - \\eta_m \\nabla_{S, c} \\sum_{j \\le m} \\tfrac12 \\|f(S^\\top k_j + c) - (v_j - k_j)\\|^2,\\quad f(z) = \\mathrm{LN}(z) \\odot w + b',
    source: 'Sun 2024 (TTT); flash-linear-attention, ttt',
    fields: minibatchFields,
    left: (c, x) => {
      const { state } = minibatch(c, x, c.T)
      return { S: state.S, c: state.c! }
    },
    right: (c, x) => {
      const { k, v, eta, w, b } = drawInputs(rules.ttt, c, x)
      const [keys, targets, rates] = [k, sub(v, k), reshape(eta, [c.B, c.T, c.H, 1])].map((t) => permute(t, [0, 2, 1, 3]))
      const loss = (S: Tensor, bias: Tensor): Tensor => {
        const z = add(matmul(keys, S), reshape(bias, [c.B, c.H, 1, c.V]))
        return sum(mul(square(sub(normed(z, w, b), targets)), affine(slice(rates, 2, c.T - 1, c.T), 0.5)))
      }
      const { S, c: bias } = innerState(c, x)
      return {
        S: sub(
          S,
          gradient(innerState(c, x).S, (at) => loss(at, bias)),
        ),
        c: sub(
          bias,
          gradient(innerState(c, x).c, (at) => loss(S, at)),
        ),
      }
    },
  }),
  defineClaim({
    name: 'learning: TTT reads what the minibatch so far would leave',
    section,
    rules: ['ttt'],
    statement: 'A token of a minibatch reads the memory that the minibatch would leave if it ended there.',
    equation: 'y_t = S_{(t)}^\\top q_t + c_{(t)},\\quad \\text{where } S_{(t)}, c_{(t)} \\text{ are left by the tokens up to } t',
    source: 'from the dual form; Sun 2024 (TTT); flash-linear-attention, ttt',
    fields: minibatchFields,
    left: (c, x) => ({ y: minibatch(c, x, c.T).y }),
    right: (c, x) => {
      const { q, w, b } = drawInputs(rules.ttt, c, x)
      const ys = Array.from({ length: c.T }, (_, t) => {
        const { S, c: bias } = minibatch(c, x, t + 1).state
        const y = add(readOut(S, reshape(slice(q, 1, t, t + 1), [c.B, c.H, c.V])), bias!)
        return reshape(add(y, reshape(normed(reshape(y, [c.B, c.H, 1, c.V]), w, b), y.shape)), [c.B, 1, c.H, c.V])
      })
      return { y: concat(ys, 1) }
    },
  }),
  defineClaim({
    name: 'learning: Mesa is weighted ridge regression',
    section,
    rules: ['mesa'],
    statement:
      'What Mesa reads comes from the memory that fits all pairs so far best: solved here by Gaussian elimination on the host, from sums over all tokens.',
    equation:
      'y_t = W_t^\\top q_t,\\; W_t = \\arg\\min_W \\sum_{j \\le t} \\tfrac{w_{tj}}{2} \\|W^\\top k_j - v_j\\|^2 + \\tfrac12 \\textstyle\\sum_i \\lambda_i \\|W_i\\|^2,\\; w_{tj} = \\beta_j \\prod_{m=j+1}^{t} \\alpha_m',
    source: 'von Oswald 2023, 2025',
    fields: { T: int(1, 8), K: int(1, 5), V: int(1, 5) },
    left: (c, x) => {
      const inputs = drawInputs(rules.mesa, { ...c, B: 1, H: 1 } as unknown as Case, x)
      return { y: call('mesa', inputs).y }
    },
    right: (c, x) => ({ y: x.from(ridge(c, x), [1, c.T, 1, c.V]) }),
  }),
]

/** Mesa's outputs for one sequence and head, token by token, from the definition. */
function ridge({ T, K, V }: { T: number; K: number; V: number }, x: Context): Float64Array {
  const q = x.values('q', [1, T, 1, K], rules.mesa.inputs.q.values)
  const k = x.values('k', [1, T, 1, K], rules.mesa.inputs.k.values)
  const v = x.values('v', [1, T, 1, V], rules.mesa.inputs.v.values)
  const beta = x.values('beta', [1, T, 1], 'rate')
  const gate = x.values('gate', [1, T, 1], 'gate')
  const lambda = x.values('lambda', [1, K], 'positive')
  const y = new Float64Array(T * V)
  for (let t = 0; t < T; t++) {
    const weight = (j: number): number => beta[j] * Math.exp(gate.slice(j + 1, t + 1).reduce((total, g) => total + g, 0))
    const A = Array.from({ length: K }, (_, a) =>
      Array.from({ length: K }, (_, b) => {
        let total = a === b ? lambda[a] : 0
        for (let j = 0; j <= t; j++) total += weight(j) * k[j * K + a] * k[j * K + b]
        return total
      }),
    )
    const solution = eliminate(A, Array.from(q.slice(t * K, (t + 1) * K)))
    for (let j = 0; j <= t; j++) {
      const score = weight(j) * solution.reduce((total, s, a) => total + s * k[j * K + a], 0)
      for (let i = 0; i < V; i++) y[t * V + i] += score * v[j * V + i]
    }
  }
  return y
}

/** A^-1 b, with the largest pivot of each column. */
function eliminate(A: number[][], b: number[]): number[] {
  const n = b.length
  const rows = A.map((row, i) => [...row, b[i]])
  for (let col = 0; col < n; col++) {
    const pivot = rows.slice(col).reduce((best, row, i) => (Math.abs(row[col]) > Math.abs(rows[best][col]) ? col + i : best), col)
    ;[rows[col], rows[pivot]] = [rows[pivot], rows[col]]
    for (let r = 0; r < n; r++) {
      if (r === col) continue
      const factor = rows[r][col] / rows[col][col]
      for (let i = col; i <= n; i++) rows[r][i] -= factor * rows[col][i]
    }
  }
  return rows.map((row, i) => row[n] / row[i])
}
