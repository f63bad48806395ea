/** What the rules do as memories: what a write changes and what it leaves, which order counts, what stays bounded, and what they optimise. */
import {
  add,
  affine,
  concat,
  div,
  exp,
  expand,
  matmul,
  mul,
  outer,
  type RuleName,
  reshape,
  rules,
  slice,
  square,
  sub,
  sum,
  sumNorm,
  zeros,
} from '../engine/index.ts'
import { type Claim, defineClaim } from './claim.ts'
import type { Context } from './context.ts'
import { flag, int, oneOf } from './fields.ts'
import { alone, column, filled, memoryOf, norms, optionsOf, orthonormal, runs, sequence, shrunk, token } from './parts.ts'
import { call, drawInputs, drawState, outputs, runner } from './sides.ts'

const section = 'Memories: what a write changes'
/** Keys K wide of which T are orthonormal. */
const orthogonal = { K: int(1, 8), extra: int(0, 7), V: int(1, 8), ...runs }
/** Rules that see queries and keys through their inner products alone; rules with a gate for each key channel. */
const turning: RuleName[] = ['sum', 'delta', 'mamba2', 'gated-delta', 'longhorn', 'oja']
const decaying: RuleName[] = ['gla', 'kda', 'dplr']
const lengthOf = (c: { K: number; extra: number }): number => 1 + (c.extra % c.K)

export const memoryClaims: readonly Claim[] = [
  defineClaim({
    name: 'memory: with orthonormal keys delta is sum',
    section,
    rules: ['delta', 'sum'],
    statement:
      'From an empty memory, at full strength, and with orthonormal keys there is nothing to correct: the delta rule is the sum rule.',
    equation: 'k_i^\\top k_j = \\delta_{ij},\\; \\beta_t = 1,\\; S_0 = 0 \\;\\Rightarrow\\; \\text{delta} = \\text{sum}',
    source: 'Schlag 2021, section 4.2',
    fields: orthogonal,
    left: (c, x) => {
      const T = lengthOf(c)
      const [q, k, v] = [x.tensor('q', [1, T, 1, c.K]), alone(orthonormal(x, 'k', c, T, c.K)), x.tensor('v', [1, T, 1, c.V])]
      const { y, state } = call('delta', { q, k, v, beta: filled(x, [1, T, 1], 1) }, undefined, optionsOf(c))
      return { y, ...state }
    },
    right: (c, x) => {
      const T = lengthOf(c)
      const [q, k, v] = [x.tensor('q', [1, T, 1, c.K]), alone(orthonormal(x, 'k', c, T, c.K)), x.tensor('v', [1, T, 1, c.V])]
      const { y, state } = call('sum', { q, k, v }, undefined, optionsOf(c))
      return { y, ...state }
    },
  }),
  defineClaim({
    name: 'memory: the last write reads back',
    section,
    rules: ['delta'],
    statement:
      'At full strength and with keys of length 1, reading with the key just written gives the value just written, whatever was there before.',
    equation: '\\|k_t\\| = 1,\\; \\beta_t = 1 \\;\\Rightarrow\\; S_t^\\top k_t = v_t',
    source: 'Schlag 2021, eq. 22-25',
    fields: { ...sequence, ...runs, initial: flag },
    left: (c, x) => {
      const k = x.tensor('k', [c.B, c.T, c.H, c.K], 'unit key')
      const state = c.initial ? { S: x.tensor('S0', [c.B, c.H, c.K, c.V]) } : undefined
      const [v, beta] = [x.tensor('v', [c.B, c.T, c.H, c.V]), filled(x, [c.B, c.T, c.H], 1)]
      return { y: call('delta', { q: k, k, v, beta }, state, optionsOf(c)).y }
    },
    right: (c, x) => ({ y: x.tensor('v', [c.B, c.T, c.H, c.V]) }),
  }),
  defineClaim({
    name: 'memory: delta changes only what its key addresses',
    section,
    rules: ['delta'],
    statement:
      'Writing under a key leaves what the memory holds for orthogonal keys as it was, and blends the old value with the new one under its own.',
    equation:
      'k_i \\perp k_t \\;\\Rightarrow\\; S_t^\\top k_i = S_{t-1}^\\top k_i, \\qquad S_t^\\top k_t = (1 - \\beta_t) S_{t-1}^\\top k_t + \\beta_t v_t',
    source: 'Schlag 2021, appendix B',
    fields: { K: int(2, 8), V: int(1, 8), at: int(0, 7) },
    left: (c, x) => {
      const keys = orthonormal(x, 'k', c, c.K, c.K)
      const k = alone(slice(keys, 0, c.at % c.K, (c.at % c.K) + 1))
      const [v, beta] = [x.tensor('v', [1, 1, 1, c.V]), x.tensor('beta', [1, 1, 1], 'rate')]
      const { state } = call('delta', { q: k, k, v, beta }, { S: x.tensor('S0', [1, 1, c.K, c.V]) })
      return { held: matmul(keys, reshape(state.S, [c.K, c.V])) }
    },
    right: (c, x) => {
      const keys = orthonormal(x, 'k', c, c.K, c.K)
      const before = matmul(keys, reshape(x.tensor('S0', [1, 1, c.K, c.V]), [c.K, c.V]))
      const at = c.at % c.K
      const beta = reshape(x.tensor('beta', [1, 1, 1], 'rate'), [1, 1])
      const old = slice(before, 0, at, at + 1)
      const blended = add(old, mul(beta, sub(reshape(x.tensor('v', [1, 1, 1, c.V]), [1, c.V]), old)))
      const rows = [...(at > 0 ? [slice(before, 0, 0, at)] : []), blended, ...(at + 1 < c.K ? [slice(before, 0, at + 1, c.K)] : [])]
      return { held: concat(rows, 0) }
    },
  }),
  defineClaim({
    name: 'memory: the same key overwrites',
    section,
    rules: ['delta', 'sum'],
    statement:
      'At full strength a key of length 1 that is written again and again holds the last value under the delta rule, and the sum of all under the sum rule.',
    equation:
      'k_t = k,\\; \\|k\\| = 1,\\; \\beta_t = 1 \\;\\Rightarrow\\; S_T^{\\delta} = k v_T^\\top,\\; S_T^{\\Sigma} = k \\textstyle\\sum_t v_t^\\top',
    source: 'Schlag 2021, section 4.2',
    fields: { T: int(1, 12), K: int(1, 8), V: int(1, 8), ...runs },
    left: (c, x) => {
      const k = concat(
        Array.from({ length: c.T }, () => x.tensor('k', [1, 1, 1, c.K], 'unit key')),
        1,
      )
      const v = x.tensor('v', [1, c.T, 1, c.V])
      return {
        delta: call('delta', { q: k, k, v, beta: filled(x, [1, c.T, 1], 1) }, undefined, optionsOf(c)).state.S,
        sum: call('sum', { q: k, k, v }, undefined, optionsOf(c)).state.S,
      }
    },
    right: (c, x) => {
      const k = reshape(x.tensor('k', [1, 1, 1, c.K], 'unit key'), [1, 1, c.K])
      const v = x.tensor('v', [1, c.T, 1, c.V])
      return { delta: outer(k, token(v, c.T - 1)), sum: outer(k, sum(v, { axis: 1 })) }
    },
  }),
  defineClaim({
    name: 'memory: a zero key writes nothing',
    section,
    rules: ['delta', 'linear-attention'],
    statement:
      'Features that are all zero, as ReLU and DPFP can give, stay zero when they are normalised, write nothing, and read nothing: no NaN.',
    equation: '\\varphi(k_t) = 0 \\;\\Rightarrow\\; \\frac{\\varphi(k_t)}{\\sum \\varphi(k_t) + \\varepsilon} = 0,\\; S_t = S_{t-1}',
    source: 'Schlag 2021, appendix A.2; without an eps in the denominator it is 0 / 0',
    fields: { ...sequence, ...runs },
    left: (c, x) => {
      const k = sumNorm(zeros([c.B, c.T, c.H, c.K], x.device))
      const S = x.tensor('S0', [c.B, c.H, c.K, c.V])
      const v = x.tensor('v', [c.B, c.T, c.H, c.V])
      const { y, state } = call('delta', { q: k, k, v, beta: x.tensor('beta', [c.B, c.T, c.H], 'rate') }, { S }, optionsOf(c))
      return { k, y, S: state.S, normalised: call('linear-attention', { q: k, k, v }, undefined, optionsOf(c)).y }
    },
    right: (c, x) => ({
      k: zeros([c.B, c.T, c.H, c.K], x.device),
      y: zeros([c.B, c.T, c.H, c.V], x.device),
      S: x.tensor('S0', [c.B, c.H, c.K, c.V]),
      normalised: zeros([c.B, c.T, c.H, c.V], x.device),
    }),
  }),
  defineClaim({
    name: 'memory: sums are blind to order',
    section,
    rules: ['linear-attention'],
    statement:
      'What the sum rule has stored at the end, and what it gives then, is the same for the same tokens in any order: it needs positions.',
    equation: 'S_T = \\sum_t k_t v_t^\\top,\\; z_T = \\sum_t k_t \\text{ whatever the order}',
    source: 'Katharopoulos 2020, eqs. 18, 19',
    fields: { ...sequence, ...runs },
    left: (c, x) => memoryOf('linear-attention', c, x, true),
    right: (c, x) => memoryOf('linear-attention', c, x, false),
  }),
  defineClaim({
    name: 'memory: a turn of the axes changes nothing',
    section,
    rules: turning,
    statement:
      'Queries, keys and memory may be turned together by any rotation: outputs and gradients of values stay the same (for rules without feature map and channel gates).',
    equation:
      'q_t \\mapsto R q_t,\\; k_t \\mapsto R k_t,\\; S_0 \\mapsto R S_0,\\; R^\\top R = I \\;\\Rightarrow\\; y_t \\mapsto y_t,\\; S_T \\mapsto R S_T',
    source: 'these rules see queries and keys only through their inner products',
    fields: { ...sequence, ...runs, rule: oneOf(...turning), initial: flag },
    left: (c, x) => {
      const R = orthonormal(x, 'R', c, c.K, c.K)
      const inputs = drawInputs(rules[c.rule], c, x)
      const state = drawState(rules[c.rule], c, x)
      const turned = { ...inputs, q: matmul(inputs.q, R), k: matmul(inputs.k, R) }
      const { y, state: last } = runner(
        rules[c.rule],
        c.form,
        optionsOf(c),
      )(turned, state && { S: matmul(R, state.S, { transposeA: true }) })
      return { y, S: matmul(R, last.S) }
    },
    right: (c, x) => outputs(rules[c.rule], c, x, runner(rules[c.rule], c.form, optionsOf(c))),
  }),
  defineClaim({
    name: 'memory: corrections contract',
    section,
    rules: ['delta'],
    statement: 'With keys of length 1 and rates from 0 to 2, and nothing to write, no correction makes the memory larger.',
    equation: '\\|k_t\\| = 1,\\; 0 \\le \\beta_t \\le 2,\\; v_t = 0 \\;\\Rightarrow\\; \\|S_T\\|_F \\le \\|S_0\\|_F',
    source: 'the eigenvalue of I - beta k k^T along k is 1 - beta |k|^2',
    relation: 'at most',
    bounds: { float32: 1e-5, float64: 1e-12, reason: 'at beta = 2 the norm stays the same: T reflections, each rounded' },
    fields: { ...sequence, ...runs },
    left: (c, x) => ({ norm: norms(shrunk(c, x, x.tensor('k', [c.B, c.T, c.H, c.K], 'unit key'), 2)) }),
    right: (c, x) => ({ norm: norms(x.tensor('S0', [c.B, c.H, c.K, c.V])) }),
  }),
  defineClaim({
    name: 'memory: reflections drift by a rounding a token',
    section,
    rules: ['delta'],
    statement:
      'With one key of length 1 and rates of 2, each token reflects the memory, so that nothing in it fades, errors neither: chunks of any length and the recurrent form differ by no more than two roundings of the rate times the length of the key for each token.',
    equation:
      'k_t = k,\\; \\beta_t \\|k\\|^2 = 2 \\;\\Rightarrow\\; \\|y^{\\mathrm{chunk}} - y^{\\mathrm{recurrent}}\\| \\le 2\\,T\\,\\beta\\,2^{-24}\\, \\|y^{\\mathrm{recurrent}}\\|',
    source:
      'eigenvalues of I - beta k k^T down to -1: Grazzi 2024 (arXiv 2411.12537); chunks: Yang 2024 (arXiv 2406.06484). An error of k . k, twice 2^-24 for a sum over few channels, changes the eigenvalue by beta times as much, and T of them multiply; where operands of products are float16, 2^-11 takes the place of 2^-24',
    relation: 'at most',
    floor: 0,
    bounds: { float32: 1e-5, float64: 1e-12, reason: 'the right side is the bound' },
    fields: { T: oneOf(64, 256, 1024), K: int(1, 8), V: int(1, 4), C: int(1, 64) },
    left: (c, x) => ({ error: norms(sub(reflected(c, x, 'chunk'), reflected(c, x, 'recurrent'))) }),
    right: (c, x) => ({
      error: affine(norms(reflected(c, x, 'recurrent')), 2 * c.T * 2 * (x.device.precision === 'f16' ? 2 ** -11 : 2 ** -24)),
    }),
  }),
  defineClaim({
    name: 'memory: normalised features contract',
    section,
    rules: ['delta'],
    statement:
      'Non-negative features divided by their sum are no longer than 1, so that rates up to 1 are stable without another normalisation.',
    equation: '\\hat k = \\frac{\\varphi}{\\sum_i \\varphi_i},\\; \\varphi_i \\ge 0 \\;\\Rightarrow\\; \\|\\hat k\\| \\le 1',
    source: 'Schlag 2021, appendix A.2',
    relation: 'at most',
    bounds: { float32: 1e-5, float64: 1e-12, reason: 'a single feature has length 1 up to rounding' },
    fields: { ...sequence, ...runs },
    left: (c, x) => {
      const k = sumNorm(x.tensor('k', [c.B, c.T, c.H, c.K], 'feature'))
      return { length: sum(square(k), { axis: -1 }), norm: norms(shrunk(c, x, k, 1)) }
    },
    right: (c, x) => ({ length: filled(x, [c.B, c.T, c.H], 1), norm: norms(x.tensor('S0', [c.B, c.H, c.K, c.V])) }),
  }),
  defineClaim({
    name: 'memory: decays multiply',
    section,
    rules: decaying,
    statement: 'Tokens that write nothing let the memory decay by the product of their gates.',
    equation: 'k_t = 0 \\;\\Rightarrow\\; S_T = \\mathrm{diag}\\Bigl(\\exp \\sum_t \\log \\alpha_t\\Bigr) S_0',
    source: 'Yang 2023, eq. 3',
    fields: { ...sequence, ...runs, rule: oneOf(...decaying), decay: oneOf(1, 0.02, 30) },
    left: (c, x) => {
      const inputs = drawInputs(rules[c.rule], c, x)
      const silent = { ...inputs, k: affine(inputs.k, 0), ...(inputs.b && { b: affine(inputs.b, 0) }) }
      return { S: runner(rules[c.rule], c.form, optionsOf(c))(silent, { S: x.tensor('S0', [c.B, c.H, c.K, c.V]) }).state.S }
    },
    right: (c, x) => {
      const { gate } = drawInputs(rules[c.rule], c, x)
      return { S: mul(x.tensor('S0', [c.B, c.H, c.K, c.V]), column(exp(sum(gate, { axis: 1 })))) }
    },
  }),
  defineClaim({
    name: 'memory: one token by hand',
    section,
    rules: ['delta'],
    statement: 'A first token from an empty memory reads its own value, weighted by how well its query fits its key.',
    equation: 'S_0 = 0 \\;\\Rightarrow\\; y_1 = s\\,\\beta_1 (k_1^\\top q_1)\\, v_1',
    source: 'Schlag 2021, eqs. 24, 25, for one token',
    fields: { ...sequence, T: int(1, 1), ...runs, scale: oneOf(1, 0.5) },
    left: (c, x) => {
      const { q, k, v, beta } = drawInputs(rules.delta, c, x)
      return { y: call('delta', { q, k, v, beta }, undefined, { ...optionsOf(c), scale: c.scale }).y }
    },
    right: (c, x) => {
      const { q, k, v, beta } = drawInputs(rules.delta, c, x)
      return { y: affine(mul(mul(sum(mul(k, q), { axis: -1, keepDim: true }), column(beta)), v), c.scale) }
    },
  }),
  ...(['above', 'below'] as const).map((which) =>
    defineClaim({
      name: `memory: normalised attention stays within its values, ${which}`,
      section,
      rules: ['linear-attention'],
      statement: `Linear attention with its normaliser averages the values so far: no output lies ${which} all of them (and 0, towards which eps pulls).`,
      equation: which === 'above' ? 'y_{t,i} \\le \\max(0, v_{1,i}, \\dots, v_{t,i})' : 'y_{t,i} \\ge \\min(0, v_{1,i}, \\dots, v_{t,i})',
      source: 'Katharopoulos 2020, eq. 18',
      relation: 'at most',
      bounds: { float32: 1e-5, float64: 1e-12, reason: 'one token reproduces its value up to rounding' },
      fields: { ...sequence, ...runs },
      left: (c, x) => {
        const { q, k, v } = drawInputs(rules['linear-attention'], c, x)
        return { y: affine(call('linear-attention', { q, k, v }, undefined, optionsOf(c)).y, which === 'above' ? 1 : -1) }
      },
      right: (c, x) => ({ y: x.from(extremes(c, x, which === 'above' ? 1 : -1), [c.B, c.T, c.H, c.V]) }),
    }),
  ),
  defineClaim({
    name: 'memory: constant values come back',
    section,
    rules: ['linear-attention', 'sum'],
    statement: 'Averages of equal values are that value, times z . q / (z . q + eps).',
    equation: 'v_t = v \\;\\Rightarrow\\; y_t = \\frac{z_t^\\top q_t}{z_t^\\top q_t + \\varepsilon}\\, v',
    source: 'Katharopoulos 2020, eq. 18',
    fields: { ...sequence, ...runs },
    left: (c, x) => {
      const { q, k } = drawInputs(rules['linear-attention'], c, x)
      const v = filled(x, [c.B, c.T, c.H, c.V], 3)
      return { y: call('linear-attention', { q, k, v }, undefined, { ...optionsOf(c), eps: 0.5 }).y }
    },
    right: (c, x) => {
      const { q, k } = drawInputs(rules['linear-attention'], c, x)
      const one = filled(x, [c.B, c.T, c.H, 1], 1)
      const held = call('sum', { q, k, v: one }, undefined, optionsOf(c)).y
      return { y: mul(div(held, add(held, 0.5)), filled(x, [c.B, c.T, c.H, c.V], 3)) }
    },
  }),
]

/** y [1, 1, T, V] of the delta rule for one unit key and rates of 2. */
function reflected(c: { T: number; K: number; V: number; C: number }, x: Context, form: 'chunk' | 'recurrent') {
  const k = expand(x.tensor('k', [1, 1, 1, c.K], 'unit key'), [1, c.T, 1, c.K])
  const [q, v] = [x.tensor('q', [1, c.T, 1, c.K]), x.tensor('v', [1, c.T, 1, c.V])]
  return reshape(call('delta', { q, k, v, beta: filled(x, [1, c.T, 1], 2) }, undefined, { form, chunk: c.C }).y, [1, 1, c.T, c.V])
}

/** The largest (or, with sign -1, minus the smallest) value so far in each channel, and 0. */
function extremes(c: { B: number; T: number; H: number; V: number }, x: Context, sign: number): Float64Array {
  const v = x.values('v', [c.B, c.T, c.H, c.V])
  const row = c.H * c.V
  const result = v.map((value) => Math.max(0, sign * value))
  for (let i = 0; i < result.length; i++) if (Math.floor(i / row) % c.T > 0) result[i] = Math.max(result[i], result[i - row])
  return result
}
