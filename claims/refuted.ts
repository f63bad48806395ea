/** False claims, each of which somebody might believe: the check must find a small counterexample, or it can't fail at all. */
import {
  add,
  affine,
  concat,
  deltaRule,
  div,
  dpfp,
  exp,
  gatedDeltaRule,
  matmul,
  mul,
  neg,
  pengRule,
  relu,
  reshape,
  roll,
  rules,
  slice,
  softmax,
  square,
  sub,
  sum,
  sumRule,
  type Tensor,
  tanh,
  tttRule,
} from '../engine/index.ts'
import { favor, orthogonalRows } from '../nn/index.ts'
import { local } from './aft.ts'
import { withActivation } from './attention.ts'
import { type Claim, defineClaim, type Fields } from './claim.ts'
import { int, oneOf } from './fields.ts'
import { alone, column, filled, memoryOf, norms, optionsOf, orthonormal, runs, sequence, shrunk } from './parts.ts'
import { drawInputs, everything, outputs, type Runner, runner } from './sides.ts'

const section = 'False claims, refuted'
const small = { ...sequence, B: int(1, 1), H: int(1, 1), ...runs }

/** A claim that is false. */
export const refuted = <F extends Fields>(claim: Omit<Claim<F>, 'section' | 'holds'>): Claim<F> =>
  defineClaim<F>({ ...claim, section, holds: false })

const run = (name: keyof typeof rules, c: Parameters<typeof optionsOf>[0]): Runner => runner(rules[name], c.form, optionsOf(c))

export const falseClaims: readonly Claim[] = [
  refuted({
    name: 'false: delta is sum for any keys',
    statement: 'The delta rule at full strength adds key-value pairs like the sum rule, whatever the keys.',
    equation: '\\beta_t = 1 \\;\\Rightarrow\\; \\text{delta} = \\text{sum}',
    source: 'true for orthonormal keys alone: Schlag 2021, section 4.2',
    fields: small,
    left: (c, x) => outputs(rules.sum, c, x, (i, s) => run('delta', c)({ ...i, beta: filled(x, [c.B, c.T, c.H], 1) }, s)),
    right: (c, x) => outputs(rules.sum, c, x, run('sum', c)),
  }),
  refuted({
    name: 'false: delta ignores order',
    statement: 'What the delta rule has stored does not depend on the order of the tokens.',
    equation: 'S_T(x_{\\pi(1)}, \\dots, x_{\\pi(T)}) = S_T(x_1, \\dots, x_T)',
    source: 'true of the sum rule; a correction depends on what is stored already',
    fields: small,
    left: (c, x) => memoryOf('delta', c, x, true),
    right: (c, x) => memoryOf('delta', c, x, false),
  }),
  refuted({
    name: 'false: decayed sums ignore order',
    statement: 'A sum with gates is as blind to order as one without.',
    equation: 'S_T(x_{\\pi(1)}, \\dots, x_{\\pi(T)}) = S_T(x_1, \\dots, x_T)',
    source: 'true of the sum rule; with a decay later tokens weigh more',
    fields: small,
    left: (c, x) => memoryOf('mamba2', c, x, true),
    right: (c, x) => memoryOf('mamba2', c, x, false),
  }),
  refuted({
    name: 'false: a last write reads back for any key',
    statement: 'At full strength the key just written reads its value back, however long it is.',
    equation: '\\beta_t = 1 \\;\\Rightarrow\\; S_t^\\top k_t = v_t',
    source: 'true for keys of length 1',
    fields: small,
    left: (c, x) => {
      const k = x.tensor('k', [c.B, c.T, c.H, c.K])
      return { y: deltaRule(k, k, x.tensor('v', [c.B, c.T, c.H, c.V]), filled(x, [c.B, c.T, c.H], 1), undefined, optionsOf(c)).y }
    },
    right: (c, x) => ({ y: x.tensor('v', [c.B, c.T, c.H, c.V]) }),
  }),
  refuted({
    name: 'false: delta is stable with any keys',
    statement: 'Corrections at rates from 0 to 1 never make the memory larger, whatever the keys.',
    equation: '0 \\le \\beta_t \\le 1,\\; v_t = 0 \\;\\Rightarrow\\; \\|S_T\\|_F \\le \\|S_0\\|_F',
    source: 'it explodes where beta |k|^2 > 2; fla issues 99, 736',
    relation: 'at most',
    fields: small,
    left: (c, x) => ({ norm: norms(shrunk(c, x, x.tensor('k', [c.B, c.T, c.H, c.K]), 1)) }),
    right: (c, x) => ({ norm: norms(x.tensor('S0', [c.B, c.H, c.K, c.V])) }),
  }),
  refuted({
    name: 'false: rates beyond 2 contract',
    statement: 'With keys of length 1, any rate makes the memory smaller.',
    equation: '\\|k_t\\| = 1,\\; 0 \\le \\beta_t \\le 3,\\; v_t = 0 \\;\\Rightarrow\\; \\|S_T\\|_F \\le \\|S_0\\|_F',
    source: 'true to a rate of 2, where the eigenvalue along k is -1',
    relation: 'at most',
    fields: small,
    left: (c, x) => ({ norm: norms(shrunk(c, x, x.tensor('k', [c.B, c.T, c.H, c.K], 'unit key'), 3)) }),
    right: (c, x) => ({ norm: norms(x.tensor('S0', [c.B, c.H, c.K, c.V])) }),
  }),
  refuted({
    name: "false: Peng's rule keeps orthogonal associations",
    statement: "Writing under a key with Peng's gated rule leaves what the memory holds for an orthogonal key as it was.",
    equation: 'k_1 \\perp k_2 \\;\\Rightarrow\\; S_t^\\top k_1 = S_{t-1}^\\top k_1',
    source: 'true of the delta rule: Schlag 2021, appendix B',
    fields: { K: int(2, 8), V: int(1, 8) },
    left: (c, x) => {
      const keys = orthonormal(x, 'k', c, 2, c.K)
      const k = alone(slice(keys, 0, 1, 2))
      const { state } = pengRule(k, k, x.tensor('v', [1, 1, 1, c.V]), x.tensor('beta', [1, 1, 1], 'rate'), {
        S: x.tensor('S0', [1, 1, c.K, c.V]),
      })
      return { held: matmul(slice(keys, 0, 0, 1), reshape(state.S, [c.K, c.V])) }
    },
    right: (c, x) => ({
      held: matmul(slice(orthonormal(x, 'k', c, 2, c.K), 0, 0, 1), reshape(x.tensor('S0', [1, 1, c.K, c.V]), [c.K, c.V])),
    }),
  }),
  refuted({
    name: 'false: decay and correction commute',
    statement: 'It makes no difference whether the memory decays before or after it is corrected.',
    equation: '\\alpha_t \\bigl(S + \\beta k (v - S^\\top k)^\\top\\bigr) = \\alpha_t S + \\beta k (v - \\alpha_t S^\\top k)^\\top',
    source: 'Yang 2024 (gated DeltaNet): the decay comes first',
    fields: { ...small, T: int(1, 1) },
    left: (c, x) => {
      const { q, k, v, beta, gate } = drawInputs(rules['gated-delta'], c, x)
      const S = x.tensor('S0', [c.B, c.H, c.K, c.V])
      return { S: mul(deltaRule(q, k, v, beta, { S }).state.S, exp(reshape(gate, [c.B, c.H, 1, 1]))) }
    },
    right: (c, x) => {
      const { q, k, v, beta, gate } = drawInputs(rules['gated-delta'], c, x)
      return { S: gatedDeltaRule(q, k, v, beta, gate, { S: x.tensor('S0', [c.B, c.H, c.K, c.V]) }).state.S }
    },
  }),
  refuted({
    name: 'false: Comba with p = k is gated delta',
    statement: 'Comba that reads along the key it writes is the gated delta rule.',
    equation: 'p_t = k_t \\;\\Rightarrow\\; \\text{Comba} = \\text{gated delta}',
    source: 'true for p = alpha k: Comba reads the memory before it decays',
    fields: small,
    left: (c, x) => outputs(rules['gated-delta'], c, x, (i, state) => run('comba', c)({ ...i, p: i.k }, state)),
    right: (c, x) => outputs(rules['gated-delta'], c, x, run('gated-delta', c)),
  }),
  refuted({
    name: 'false: the minibatch of TTT is a matter of speed',
    statement: 'TTT-linear gives the same whether it takes a gradient step for each token or for each four.',
    equation: '\\mathrm{TTT}_{m = 1}(x) = \\mathrm{TTT}_{m = 4}(x)',
    source: 'true of the chunks of linear rules: a gradient depends on the memory it is taken at; Sun 2024 (TTT)',
    fields: { B: int(1, 1), T: int(1, 8), H: int(1, 1), V: int(1, 5) },
    left: (c, x) => outputs(rules.ttt, c, x, ({ q, k, v, eta, w, b }) => tttRule(q, k, v, eta, w, b, undefined, { minibatch: 1, eps: 1 })),
    right: (c, x) => outputs(rules.ttt, c, x, ({ q, k, v, eta, w, b }) => tttRule(q, k, v, eta, w, b, undefined, { minibatch: 4, eps: 1 })),
  }),
  refuted({
    name: 'false: RWKV-6 with u = 1 is GLA',
    statement: 'RWKV-6 that gives the present token the weight 1 is gated linear attention.',
    equation: 'u = 1 \\;\\Rightarrow\\; \\text{RWKV-6} = \\text{GLA}',
    source: 'true without decay: GLA reads what has decayed, RWKV-6 what has not yet',
    fields: small,
    left: (c, x) => outputs(rules.gla, c, x, (i, state) => run('rwkv6', c)({ ...i, bonus: filled(x, [c.H, c.K], 1) }, state)),
    right: (c, x) => outputs(rules.gla, c, x, run('gla', c)),
  }),
  refuted({
    name: 'false: the erase vector may read before or after the decay',
    statement: 'The general rule with a = k, where KDA needs a = alpha * k, is KDA all the same.',
    equation: 'a_t = k_t,\\; b_t = -\\beta_t k_t \\;\\Rightarrow\\; \\text{DPLR} = \\text{KDA}',
    source: 'a reads the memory before it decays, and KDA corrects it after',
    fields: small,
    left: (c, x) =>
      outputs(rules.kda, c, x, ({ q, k, v, beta, gate }, state) => {
        const written = mul(k, column(beta))
        return run('dplr', c)({ q, v, gate, k: written, a: k, b: neg(written) }, state)
      }),
    right: (c, x) => outputs(rules.kda, c, x, run('kda', c)),
  }),
  refuted({
    name: 'false: a padding token needs only a zero value',
    statement: 'A token whose value is zero leaves the memory of the delta rule as it is.',
    equation: 'v_t = 0 \\;\\Rightarrow\\; S_t = S_{t-1}',
    source: 'it erases what its key holds; fla issues 1263, 1272',
    fields: { ...small, T: int(1, 4) },
    left: (c, x) => ({ S: shrunk(c, x, x.tensor('k', [c.B, c.T, c.H, c.K], 'unit key'), 1) }),
    right: (c, x) => ({ S: x.tensor('S0', [c.B, c.H, c.K, c.V]) }),
  }),
  refuted({
    name: 'false: decoding may start without the normaliser',
    statement: 'A second piece of a sequence needs the memory S alone: its normaliser may start anew.',
    equation: 'f(x_{1..T})_{>t} = f(x_{t+1..T}, (S_t, 0))',
    source: 'the state is (S, z): fla issues 267, 268',
    fields: { ...small, T: int(2, 8) },
    left: (c, x) => {
      const { q, k, v } = drawInputs(rules['linear-attention'], c, x)
      const [first, rest] = [0, 1].map((i) => [q, k, v].map((t) => slice(t, 1, i, i === 0 ? 1 : c.T)))
      const { S } = sumRule(first[0], first[1], first[2], undefined, optionsOf(c)).state
      const z = filled(x, [c.B, c.H, c.K], 0)
      return { y: sumRule(rest[0], rest[1], rest[2], { S, z }, { ...optionsOf(c), normalise: true }).y }
    },
    right: (c, x) => {
      const { q, k, v } = drawInputs(rules['linear-attention'], c, x)
      return { y: slice(sumRule(q, k, v, undefined, { ...optionsOf(c), normalise: true }).y, 1, 1, c.T) }
    },
  }),
  refuted({
    name: 'false: the normaliser has no gradient',
    statement: 'The gradient of normalised linear attention is that of its numerator over a constant.',
    equation:
      '\\frac{\\partial}{\\partial k} \\frac{S^\\top q}{z^\\top q} = \\frac{1}{z^\\top q} \\frac{\\partial\\, S^\\top q}{\\partial k}',
    source: 'the lost term: fla issue 875',
    fields: { ...small, K: int(1, 4) },
    left: (c, x) =>
      everything(rules['linear-attention'], c, x, (i, s) => {
        const { y, state } = run('sum', c)(i, s && { S: s.S })
        const one = filled(x, [c.B, c.T, c.H, 1], 1)
        const { q, k } = drawInputs(rules['linear-attention'], c, x) // the same numbers, but no history
        return { y: div(y, affine(sumRule(q, k, one, undefined, optionsOf(c)).y, 1, 1e-6)), state: { ...state, z: sum(i.k, { axis: 1 }) } }
      }),
    right: (c, x) => everything(rules['linear-attention'], c, x, run('linear-attention', c)),
  }),
  refuted({
    name: 'false: linear attention without normaliser averages',
    statement: 'Without its normaliser, linear attention stays within its values as well.',
    equation: 'y_{t,i} \\le \\max(0, v_{1,i}, \\dots, v_{t,i})',
    source: 'true with the normaliser: Katharopoulos 2020, eq. 18',
    relation: 'at most',
    fields: small,
    left: (c, x) => {
      const { q, k } = drawInputs(rules['linear-attention'], c, x)
      return { y: sumRule(q, k, filled(x, [c.B, c.T, c.H, c.V], 1), undefined, optionsOf(c)).y }
    },
    right: (c, x) => ({ y: filled(x, [c.B, c.T, c.H, c.V], 1) }),
  }),
  refuted({
    name: "false: Oja's rule is the delta rule",
    statement: "Oja's rule and the delta rule leave the same memory for the same keys and values.",
    equation: 'k_t - S v_t \\;\\leftrightarrow\\; v_t - S^\\top k_t',
    source: 'true when keys and values are exchanged',
    fields: small,
    left: (c, x) => ({ S: run('oja', c)(drawInputs(rules.oja, c, x), undefined).state.S }),
    right: (c, x) => ({ S: run('delta', c)(drawInputs(rules.oja, c, x), undefined).state.S }),
  }),
  refuted({
    name: "false: Oja's rule is linear in values",
    statement: "From an empty memory, the outputs of Oja's rule are linear in the values, as the delta rule's are.",
    equation: 'f(2 v) = 2 f(v)',
    source: 'it reads its memory with v',
    fields: small,
    left: (c, x) => {
      const inputs = drawInputs(rules.oja, c, x)
      return { y: run('oja', c)({ ...inputs, v: affine(inputs.v, 2) }, undefined).y }
    },
    right: (c, x) => ({ y: affine(run('oja', c)(drawInputs(rules.oja, c, x), undefined).y, 2) }),
  }),
  refuted({
    name: 'false: gates for each channel may be averaged',
    statement: 'A gate for each key channel can be replaced by one with their mean logarithm.',
    equation: '\\text{KDA}(\\log \\alpha_{t,i}) = \\text{gated delta}\\bigl(\\tfrac1K \\textstyle\\sum_i \\log \\alpha_{t,i}\\bigr)',
    source: 'true when they are equal: Kimi 2025',
    fields: small,
    left: (c, x) => outputs(rules.kda, c, x, run('kda', c)),
    right: (c, x) =>
      outputs(rules.kda, c, x, (i, s) => run('gated-delta', c)({ ...i, gate: affine(sum(i.gate, { axis: -1 }), 1 / c.K) }, s)),
  }),
  refuted({
    name: 'false: an activation changes nothing',
    statement: "Schmidhuber's fast weights are linear attention whatever their activation.",
    equation: 'S_t = \\tanh(S_{t-1} + k_t v_t^\\top) = S_{t-1} + k_t v_t^\\top',
    source: 'true of the identity: Schlag 2021, section 2',
    fields: small,
    left: (c, x) => outputs(rules.sum, c, x, withActivation(tanh)),
    right: (c, x) => outputs(rules.sum, c, x, run('sum', c)),
  }),
  refuted({
    name: 'false: the sum rule with softmax features is softmax attention',
    statement: 'Mapping queries and keys by softmax turns linear attention into softmax attention.',
    equation:
      '\\frac{\\sum_j \\mathrm{sm}(q_t)^\\top \\mathrm{sm}(k_j)\\, v_j}{\\sum_j \\mathrm{sm}(q_t)^\\top \\mathrm{sm}(k_j)} = \\sum_j \\mathrm{softmax}_j(k_j^\\top q_t)\\, v_j',
    source: 'Schlag 2021, section 3.2: no finite feature map does',
    fields: { T: int(1, 6), K: int(1, 4), V: int(1, 3), ...runs },
    left: (c, x) => {
      const [q, k, v] = [x.tensor('q', [1, c.T, 1, c.K]), x.tensor('k', [1, c.T, 1, c.K]), x.tensor('v', [1, c.T, 1, c.V])]
      return { y: sumRule(softmax(q), softmax(k), v, undefined, { ...optionsOf(c), normalise: true }).y }
    },
    right: (c, x) => {
      const [q, k, v] = [x.tensor('q', [1, c.T, 1, c.K]), x.tensor('k', [1, c.T, 1, c.K]), x.tensor('v', [1, c.T, 1, c.V])]
      const [Q, K, V] = [reshape(q, [c.T, c.K]), reshape(k, [c.T, c.K]), reshape(v, [c.T, c.V])]
      return { y: reshape(matmul(softmax(matmul(Q, K, { transposeB: true }), { causal: true }), V), [1, c.T, 1, c.V]) }
    },
  }),
  refuted({
    name: 'false: FAVOR+ equals softmax',
    statement: 'The inner product of the features of one draw of directions is the exponential.',
    equation: '\\varphi_\\omega(x)^\\top \\varphi_\\omega(y) = e^{x^\\top y}',
    source: 'true on average: Choromanski 2021, lemma 1',
    fields: { K: int(1, 8) },
    left: (c, x) => {
      const omega = x.from(orthogonalRows(c.K, c.K, c.seed, 0), [c.K, c.K])
      const [a, b] = ['x', 'y'].map((name) => favor(x.tensor(name, [1, c.K], 'key'), omega, 0))
      return { kernel: sum(mul(a, b), { axis: 1 }) }
    },
    right: (c, x) => ({ kernel: exp(sum(mul(x.tensor('x', [1, c.K], 'key'), x.tensor('y', [1, c.K], 'key')), { axis: 1 })) }),
  }),
  refuted({
    name: 'false: DPFP with more than K - 1 shifts knows more',
    statement: 'The shift K adds features that are not zero.',
    equation: '\\|\\varphi^{(K)}(x)\\|^2 \\ge \\tfrac{1}{10}',
    source: 'it is always zero: relu(x_i) meets relu(-x_i)',
    relation: 'at most',
    fields: { K: int(2, 8) },
    left: (_, x) => ({ size: filled(x, [1], 0.1) }),
    right: (c, x) => ({ size: sum(square(slice(dpfp(x.tensor('x', [1, c.K]), c.K), 1, 2 * c.K * (c.K - 1), 2 * c.K ** 2)), { axis: 1 }) }),
  }),
  refuted({
    name: 'false: DPFP may negate its second half',
    statement: 'The rectified halves relu(x) and -relu(x) serve as well as relu(x) and relu(-x).',
    equation: 'r = [\\mathrm{relu}(x), -\\mathrm{relu}(x)]',
    source: "a bug in fla's own DPFP",
    fields: { K: int(2, 8) },
    left: (c, x) => {
      const half = relu(x.tensor('x', [1, c.K]))
      const r = concat([half, neg(half)], 1)
      return { features: mul(r, roll(r, 1, 1)) }
    },
    right: (c, x) => ({ features: dpfp(x.tensor('x', [1, c.K]), 1) }),
  }),
  refuted({
    name: 'false: Longhorn needs no denominator',
    statement: "Longhorn's implicit step is the plain delta rule.",
    equation: '\\text{Longhorn}(\\beta) = \\text{delta}(\\beta)',
    source: 'the rate is beta / (1 + beta |k|^2): Liu 2024, theorem 3.1',
    fields: small,
    left: (c, x) => outputs(rules.longhorn, c, x, run('longhorn', c)),
    right: (c, x) => outputs(rules.longhorn, c, x, run('delta', c)),
  }),
  refuted({
    name: 'false: DeltaProduct adds its steps',
    statement: 'The corrections of one token may be computed from the memory before it, and added.',
    equation: 'S_t = S_{t-1} + \\sum_n \\beta_{t,n} k_{t,n} (v_{t,n} - S_{t-1}^\\top k_{t,n})^\\top',
    source: 'each step sees the one before: Siems 2025',
    fields: { ...small, T: int(1, 4), N: oneOf(2, 3) },
    left: (c, x) => {
      const inputs = drawInputs(rules['delta-product'], c, x)
      const S0 = x.tensor('S0', [c.B, c.H, c.K, c.V])
      const first = (t: Tensor): Tensor => slice(t, 1, 0, 1)
      const one = {
        ...Object.fromEntries(Object.entries(inputs).map(([name, t]) => [name, first(t)])),
        gate: affine(first(inputs.gate), 0),
      }
      return { S: run('delta-product', c)(one, { S: S0 }).state.S }
    },
    right: (c, x) => {
      const { q, k, v, beta } = drawInputs(rules['delta-product'], c, x)
      const S0 = x.tensor('S0', [c.B, c.H, c.K, c.V])
      let S = S0
      for (let n = 0; n < c.N; n++) {
        const at = (t: Tensor): Tensor => {
          const part = slice(slice(t, 1, 0, 1), 2, n, n + 1)
          return reshape(part, [c.B, 1, ...t.shape.slice(3)])
        }
        S = add(S, sub(deltaRule(slice(q, 1, 0, 1), at(k), at(v), at(beta), { S: S0 }).state.S, S0))
      }
      return { S }
    },
  }),
  refuted({
    name: "false: AFT-local's window may be dropped",
    statement: 'Biases of tokens far from each other may count as well: AFT-local is AFT-full with the same table.',
    equation: '\\text{AFT-local}_s(w) = \\text{AFT-full}(w)',
    source: 'true when no two tokens are s places apart: Zhai 2021, eq. 4',
    fields: { B: int(1, 1), T: int(1, 8), D: int(1, 3), s: int(1, 8) },
    left: (c, x) => local(c, x, c.s),
    right: (c, x) => local(c, x, c.T),
  }),
]
