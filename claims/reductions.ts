/** Claims that one rule is another in disguise. Each draws the inputs of one rule and computes outputs, states and gradients by both. */
import fc from 'fast-check'
import {
  add,
  affine,
  aft,
  concat,
  cumsum,
  div,
  equal,
  exp,
  expand,
  full,
  log,
  logLinearAttention,
  mul,
  neg,
  outer,
  permute,
  type Rule,
  type RuleName,
  type RuleOptions,
  readOut,
  reshape,
  rules,
  slice,
  square,
  sub,
  sum,
  type Tensor,
  tttRule,
  zeros,
} from '../engine/index.ts'
import { type Claim, defineClaim } from './claim.ts'
import { flag, int, type Limits, oneOf, sizes } from './fields.ts'
import { call, everything, floorOf, type Runner, runner, type Tensors } from './sides.ts'

interface Reduction {
  what: string
  statement: string
  equation: string
  source: string
  /** Whose inputs are drawn. */
  inputsOf: RuleName
  /** A rule and its inputs, or any runner. */
  left: [RuleName, (inputs: Tensors) => Tensors] | ((options: RuleOptions) => Runner)
  right: [RuleName, (inputs: Tensors) => Tensors] | ((options: RuleOptions) => Runner)
  limits?: Limits
  /** Which rules functions run. */
  runs?: readonly RuleName[]
  /** From a state, too; by default yes. */
  initial?: false
}

const same = (inputs: Tensors): Tensors => inputs
const column = (x: Tensor): Tensor => reshape(x, [...x.shape, 1])
const noGate = ({ q }: Tensors): Tensor => zeros(q.shape.slice(0, 3), q.device)

/** The sub-steps of DeltaProduct as tokens: [B,T,N,...] -> [B,TN,...]. */
const asTokens = (x: Tensor): Tensor => reshape(x, [x.shape[0], x.shape[1] * x.shape[2], ...x.shape.slice(3)])
/** x [B,T,...] at sub-step `at` of N, zeros at the others, as tokens. */
const atSubstep = (x: Tensor, at: number, N: number): Tensor => {
  const [B, T, ...rest] = x.shape
  const blank = zeros([B, T, 1, ...rest], x.device)
  return asTokens(
    concat(
      Array.from({ length: N }, (_, n) => (n === at ? reshape(x, [B, T, 1, ...rest]) : blank)),
      2,
    ),
  )
}

const reductions: readonly Reduction[] = [
  {
    what: 'a gated delta rule that forgets nothing is the delta rule',
    statement: 'With every decay equal to 1, the gated delta rule is the delta rule.',
    equation: '\\alpha_t = 1 \\;\\Rightarrow\\; \\text{gated delta} = \\text{delta}',
    source: 'Yang 2024 (gated DeltaNet), eq. 10',
    inputsOf: 'delta',
    left: ['gated-delta', (i) => ({ ...i, gate: noGate(i) })],
    right: ['delta', same],
  },
  {
    what: 'a gated sum that forgets nothing is the sum rule',
    statement: 'With every decay equal to 1, the scalar gate of Mamba-2 leaves the sum rule.',
    equation: '\\alpha_t = 1 \\;\\Rightarrow\\; S_t = S_{t-1} + k_t v_t^\\top',
    source: 'Dao & Gu 2024; Yang 2023',
    inputsOf: 'sum',
    left: ['mamba2', (i) => ({ ...i, gate: noGate(i) })],
    right: ['sum', same],
  },
  {
    what: 'KDA with equal gates is gated delta',
    statement: 'Kimi delta attention whose channels all decay alike is the gated delta rule.',
    equation: '\\alpha_{t,i} = \\alpha_t \\;\\Rightarrow\\; \\text{KDA} = \\text{gated delta}',
    source: 'Kimi 2025, section 3',
    inputsOf: 'gated-delta',
    left: ['kda', (i) => ({ ...i, gate: expand(column(i.gate), i.k.shape) })],
    right: ['gated-delta', same],
  },
  {
    what: 'GLA with equal gates is Mamba-2',
    statement: 'Gated linear attention whose channels all decay alike has one scalar gate.',
    equation: '\\alpha_{t,i} = \\alpha_t \\;\\Rightarrow\\; \\mathrm{diag}(\\alpha_t) S = \\alpha_t S',
    source: 'Yang 2023, section 4',
    inputsOf: 'mamba2',
    left: ['gla', (i) => ({ ...i, gate: expand(column(i.gate), i.k.shape) })],
    right: ['mamba2', same],
  },
  {
    what: 'RetNet is GLA with a constant gate',
    statement: 'Retention is gated linear attention with one decay for all tokens and channels of a head.',
    equation: '\\alpha_{t,i} = \\gamma \\;\\Rightarrow\\; \\text{GLA} = \\text{RetNet}',
    source: 'Sun 2023, eq. 6; Yang 2023, table 1',
    inputsOf: 'retnet',
    left: ['retnet', same],
    right: ['gla', ({ decay, ...i }) => ({ ...i, gate: expand(column(decay), i.k.shape) })],
  },
  {
    what: 'DPLR that reads nothing back is GLA',
    statement: 'The general rule whose erase vector is zero is gated linear attention.',
    equation: 'a_t = 0 \\;\\Rightarrow\\; S_t = \\mathrm{diag}(\\alpha_t) S_{t-1} + k_t v_t^\\top',
    source: 'Peng 2025 (RWKV-7), section 3',
    inputsOf: 'gla',
    left: ['dplr', (i) => ({ ...i, a: zeros(i.k.shape, i.k.device), b: i.k })],
    right: ['gla', same],
  },
  {
    what: 'DeltaProduct with one step is gated delta',
    statement: 'DeltaProduct with a single step a token is the gated delta rule.',
    equation: 'N = 1 \\;\\Rightarrow\\; \\text{DeltaProduct} = \\text{gated delta}',
    source: 'Siems 2025, section 3',
    inputsOf: 'gated-delta',
    left: ['delta-product', ({ q, k, v, beta, gate }) => ({ q, gate, k: withStep(k), v: withStep(v), beta: withStep(beta) })],
    right: ['gated-delta', same],
  },
  {
    what: 'DeltaProduct is gated delta on a longer sequence',
    statement: 'N steps a token are N tokens of the gated delta rule, of which the first decays and the last is read.',
    equation: '\\text{DeltaProduct}_N(x_{1..T})_t = \\text{gated delta}(\\hat x_{1..NT})_{Nt}',
    source: 'Siems 2025, section 3',
    runs: ['gated-delta'],
    inputsOf: 'delta-product',
    left: ['delta-product', same],
    right:
      (options) =>
      ({ q, k, v, beta, gate }, state) => {
        const N = k.shape[2]
        const tokens = { q: atSubstep(q, N - 1, N), k: asTokens(k), v: asTokens(v), beta: asTokens(beta), gate: atSubstep(gate, 0, N) }
        const { y, state: last } = call('gated-delta', tokens, state, options)
        const [B, , H, V] = y.shape
        return { y: reshape(slice(reshape(y, [B, q.shape[1], N, H, V]), 2, N - 1, N), [B, q.shape[1], H, V]), state: last }
      },
    limits: { T: 6, width: 5 },
  },
  {
    what: 'write strengths that are equal in all channels are one a head',
    statement: 'The gated delta rule whose value channels are all written at one rate is the gated delta rule.',
    equation: '\\beta_{t,j} = \\beta_t \\;\\Rightarrow\\; \\text{a rate for each value channel} = \\text{gated delta}',
    source: 'from the recurrences; flash-linear-attention, delta_rule',
    inputsOf: 'gated-delta',
    left: ['channel-delta', ({ beta, ...i }) => ({ ...i, betas: expand(column(beta), i.v.shape) })],
    right: ['gated-delta', same],
  },
  {
    what: 'GDN-2 with equal gates is KDA',
    statement: 'GDN-2 that erases and writes every channel at one rate is Kimi delta attention.',
    equation: 'b_{t,i} = w_{t,j} = \\beta_t \\;\\Rightarrow\\; \\text{GDN-2} = \\text{KDA}',
    source: 'from the recurrences; flash-linear-attention, gdn2',
    inputsOf: 'kda',
    left: ['gdn2', ({ beta, ...i }) => ({ ...i, erase: expand(column(beta), i.k.shape), write: expand(column(beta), i.v.shape) })],
    right: ['kda', same],
  },
  {
    what: 'Comba with p = alpha k is gated delta',
    statement: 'Comba reads the memory before it decays: with p = alpha k it finds what the gated delta rule finds after.',
    equation: 'p_t = \\alpha_t k_t \\;\\Rightarrow\\; \\text{Comba} = \\text{gated delta}',
    source: 'from the recurrences; Hu 2025 (Comba)',
    inputsOf: 'gated-delta',
    left: ['comba', (i) => ({ ...i, p: mul(i.k, exp(column(i.gate))) })],
    right: ['gated-delta', same],
  },
  {
    what: 'a preconditioner that gathers nothing leaves gated delta',
    statement: 'With nothing in its second memory and c = log eps, the preconditioned rule scales no key: it is the gated delta rule.',
    equation: '\\beta^a_t = 0,\\; c = \\log \\varepsilon \\;\\Rightarrow\\; M_t = 1',
    source: 'from the recurrences; flash-linear-attention, precond_gated_delta_rule',
    runs: ['precond-delta'],
    inputsOf: 'gated-delta',
    left: (options) => (i, before) => {
      const [B, , H, K] = i.k.shape
      // A logarithm that 16 bits hold, too.
      const [none, c] = [noGate(i), full([H], -14, i.k.device)]
      const a = zeros([B, H, K], i.k.device)
      const { y, state } = call('precond-delta', { ...i, betaA: none, gateA: none, c }, before && { S: before.S, a }, {
        ...options,
        eps: Math.exp(-14),
      })
      return { y, state: { S: state.S } }
    },
    right: ['gated-delta', same],
  },
  {
    what: 'HGRN-2 is GLA whose keys are what the gates let go',
    statement: 'HGRN-2 is gated linear attention with the key 1 - f of the decay f.',
    equation: 'k_t = 1 - f_t \\;\\Rightarrow\\; \\text{GLA} = \\text{HGRN-2}',
    source: 'Qin 2024 (HGRN2)',
    inputsOf: 'hgrn2',
    left: ['hgrn2', same],
    right: ['gla', (i) => ({ ...i, k: affine(exp(i.gate), -1, 1) })],
  },
  {
    what: 'RWKV-5 is RWKV-6 with a constant gate',
    statement: 'RWKV-6 whose gates are the same at every token is RWKV-5.',
    equation: '\\alpha_{t} = \\alpha \\;\\Rightarrow\\; \\text{RWKV-6} = \\text{RWKV-5}',
    source: 'Peng 2024 (Eagle and Finch)',
    inputsOf: 'rwkv5',
    left: ['rwkv5', same],
    right: ['rwkv6', ({ decay, ...i }) => ({ ...i, gate: expand(decay, i.k.shape) })],
  },
  {
    what: 'RWKV-6 that forgets nothing, with u = 1, is the sum rule',
    statement: 'RWKV-6 reads before it writes, and its bonus adds the present token: with weight 1 and no decay that is the sum rule.',
    equation: 'u = 1,\\; \\alpha_t = 1 \\;\\Rightarrow\\; y_t = (S_{t-1} + k_t v_t^\\top)^\\top q_t = S_t^\\top q_t',
    source: 'from the recurrences; Peng 2024 (Eagle and Finch)',
    inputsOf: 'sum',
    left: ['rwkv6', (i) => ({ ...i, gate: zeros(i.k.shape, i.k.device), bonus: full(i.k.shape.slice(2), 1, i.k.device) })],
    right: ['sum', same],
  },
  {
    what: 'RWKV-4 that forgets nothing, with u = 0, is AFT-simple',
    statement: "RWKV-4 without decay and bonus is the attention free transformer's memory without biases, state and all.",
    equation: 'd = 0,\\; u = 0 \\;\\Rightarrow\\; y_t = \\frac{\\sum_{j \\le t} e^{k_j} v_j}{\\sum_{j \\le t} e^{k_j}}',
    source: 'from the recurrences; Peng 2023 (RWKV), Zhai 2021',
    inputsOf: 'rwkv4',
    left: ['rwkv4', (i) => ({ ...i, decay: affine(i.decay, 0), bonus: affine(i.bonus, 0) })],
    right:
      ({ scale }) =>
      ({ k, v }, state) => {
        const [B, T, H, V] = k.shape
        const flat = (x: Tensor): Tensor => reshape(x, [B, -1, H * V])
        const before = state && { key: flat(state.lse!), value: flat(state.S), position: new Int32Array(B).fill(1) }
        const { y, state: after } = aft(flat(k), flat(v), undefined, before)
        const [S, lse] = [after!.value, after!.key].map((x) => reshape(x, [B, H, V]))
        return { y: affine(reshape(y, [B, T, H, V]), scale!), state: { S, lse } }
      },
  },
  {
    what: 'LightNet is a softmax over time in each key channel',
    statement: "Each row of LightNet's memory is the mean of the values so far, weighted by the exponentials of that channel's keys.",
    equation: 'S_{t,i} = \\frac{\\sum_{j \\le t} e^{k_{j,i}} v_j}{\\sum_{j \\le t} e^{k_{j,i}}}',
    source: 'from the recurrence; flash-linear-attention, lightnet',
    inputsOf: 'lightnet',
    left: ['lightnet', same],
    right:
      ({ scale }) =>
      ({ q, k, v }, state) => {
        const [B, T, H, K] = k.shape
        const V = v.shape[3]
        const weights = exp(k)
        const terms = outer(weights, v)
        const held = state && exp(reshape(state.lse!, [B, 1, H, K]))
        const sums = (x: Tensor, before: Tensor | undefined): Tensor =>
          before ? slice(cumsum(concat([before, x], 1), 1), 1, 1, T + 1) : cumsum(x, 1)
        const total = sums(weights, held)
        const S = div(sums(terms, held && mul(column(held), reshape(state!.S, [B, 1, H, K, V]))), column(total))
        const last = (x: Tensor): Tensor => reshape(slice(x, 1, T - 1, T), [B, ...x.shape.slice(2)])
        return { y: affine(readOut(S, q), scale!), state: { S: last(S), lse: log(last(total)) } }
      },
    limits: { T: 8, width: 5 },
  },
  {
    what: 'momentum delta without momentum is gated delta',
    statement: 'Momentum that forgets all at once leaves the gated delta rule, if p reads what has decayed: p = alpha k.',
    equation:
      '\\mu_t = 0,\\; p_t = \\alpha_t k_t \\;\\Rightarrow\\; S_t = \\alpha_t S_{t-1} + \\beta_t \\eta_t k_t (v_t - \\alpha_t S_{t-1}^\\top k_t)^\\top',
    source: 'from the recurrences; flash-linear-attention, momentum_delta_rule',
    runs: ['delta-momentum', 'gated-delta'],
    inputsOf: 'gated-delta',
    left: () => (i, before) => {
      const none = full(i.beta.shape, Number.NEGATIVE_INFINITY, i.k.device)
      const eta = full(i.beta.shape, 0.5, i.k.device)
      const state = before && { S: before.S, M: before.S }
      const inputs = { ...i, p: mul(i.k, exp(column(i.gate))), eta, gateM: none }
      const { y, state: last } = call('delta-momentum', inputs, state, {})
      return { y, state: { S: last.S } }
    },
    right: () => (i, state) => call('gated-delta', { ...i, beta: affine(i.beta, 0.5) }, state, {}),
  },
  {
    what: 'TTT without a norm, token by token, is the delta rule',
    statement:
      'TTT-linear without its layer norm, at a minibatch of one token, is the delta rule on the keys (k, 1), the values v - k and the queries (q, 1).',
    equation: 'f(z) = z,\\; m = 1 \\;\\Rightarrow\\; \\text{TTT} = \\text{delta}\\bigl((q, 1), (k, 1), v - k, \\eta\\bigr)',
    source: 'from the recurrences; Sun 2024 (TTT)',
    runs: ['delta'],
    inputsOf: 'ttt',
    left:
      (options) =>
      ({ q, k, v, eta }, state) =>
        // Not by its row, which has a norm: an implementation by others has nothing for it.
        tttRule(q, k, v, eta, null, null, state, { ...options, chunk: undefined, scale: 1, minibatch: 1 }),
    right:
      () =>
      ({ q, k, v, eta }, state) => {
        const [B, T, H, V] = v.shape
        const [wide, one] = [(x: Tensor): Tensor => concat([x, one], 3), full([B, T, H, 1], 1, v.device)]
        const S0 = state && { S: concat([state.S, reshape(state.c!, [B, H, 1, V])], 2) }
        const { y, state: last } = call('delta', { q: wide(q), k: wide(k), v: sub(v, k), beta: eta }, S0, {})
        return { y, state: { S: slice(last.S, 2, 0, V), c: reshape(slice(last.S, 2, V, V + 1), [B, H, V]) } }
      },
    limits: { T: 10, width: 5 },
  },
  {
    what: 'log-linear attention whose levels weigh the same is Mamba-2',
    statement: 'The blocks that log-linear attention cuts the past into are all of it: with weights of 1 their sum is the gated sum.',
    equation: '\\lambda_t^{(\\ell)} = 1 \\;\\Rightarrow\\; \\sum_\\ell S_t^{(\\ell)} = S_t',
    source: 'Guo 2025 (log-linear attention)',
    runs: ['mamba2'],
    inputsOf: 'mamba2',
    left:
      (options) =>
      ({ q, k, v, gate }) => ({ y: logLinearAttention(q, k, v, gate, full([...gate.shape, 9], 1, v.device), options), state: {} as never }),
    right:
      (options) =>
      ({ q, k, v, gate }) => ({ y: call('mamba2', { q, k, v, gate }, undefined, options).y, state: {} as never }),
    // Beyond 64 tokens there are blocks that are read level by level.
    limits: { T: 100, width: 4 },
    initial: false,
  },
  {
    what: 'Oja is delta with keys and values exchanged',
    statement: "The memory of Oja's rule is the transpose of the delta rule's when keys and values change places.",
    equation: 'S^{\\text{Oja}}(k, v) = S^{\\delta}(v, k)^\\top',
    source: 'from the recurrences; Irie 2022',
    runs: ['oja', 'delta'],
    inputsOf: 'oja',
    left: (options) => (inputs, state) => memoryAlone(call('oja', inputs, state, options).state.S),
    right:
      (options) =>
      ({ k, v, beta }, state) =>
        memoryAlone(transpose(call('delta', { q: v, k: v, v: k, beta }, state && { S: transpose(state.S) }, options).state.S)),
  },
  {
    what: 'gated Oja is KDA with keys and values exchanged',
    statement: "The memory of Oja's rule with a gate for each value channel is the transpose of Kimi delta attention's.",
    equation: 'S^{\\text{gated Oja}}(k, v, \\alpha) = S^{\\text{KDA}}(v, k, \\alpha)^\\top',
    source: 'from the recurrences; flash-linear-attention, gated_oja_rule',
    runs: ['gated-oja', 'kda'],
    inputsOf: 'gated-oja',
    left: (options) => (inputs, state) => memoryAlone(call('gated-oja', inputs, state, options).state.S),
    right:
      (options) =>
      ({ k, v, beta, gate }, state) =>
        memoryAlone(transpose(call('kda', { q: v, k: v, v: k, beta, gate }, state && { S: transpose(state.S) }, options).state.S)),
  },
  {
    what: 'Longhorn is delta at an adapted rate',
    statement: "Longhorn's implicit step is the delta rule at the rate beta / (1 + beta |k|^2).",
    equation: '\\text{Longhorn}(\\beta) = \\text{delta}\\Bigl(\\frac{\\beta}{1 + \\beta \\|k\\|^2}\\Bigr)',
    source: 'Liu 2024, theorem 3.1; Yang 2024 (gated DeltaNet), table 1',
    inputsOf: 'longhorn',
    left: ['longhorn', same],
    right: ['delta', ({ q, k, v, beta }) => ({ q, k, v, beta: div(beta, add(mul(beta, sum(square(k), { axis: -1 })), 1)) })],
    limits: { T: 12, width: 5 },
  },
  {
    what: 'IPLR holds the delta rule',
    statement: 'Identity plus low rank with a = k, b = -beta k and the key beta k is the delta rule.',
    equation: 'a_t = k_t,\\; b_t = -\\beta_t k_t \\;\\Rightarrow\\; \\text{IPLR} = \\text{delta}',
    source: 'flash-linear-attention, generalized_delta_rule',
    inputsOf: 'delta',
    left: ['iplr', ({ q, k, v, beta }) => ({ q, v, k: mul(k, column(beta)), a: k, b: neg(mul(k, column(beta))) })],
    right: ['delta', same],
  },
  {
    what: 'DPLR holds KDA',
    statement:
      'The general rule reads the memory before it decays: with a = alpha * k, b = -beta k and the key beta k it is Kimi delta attention.',
    equation: 'a_t = \\alpha_t \\odot k_t,\\; b_t = -\\beta_t k_t \\;\\Rightarrow\\; \\text{DPLR} = \\text{KDA}',
    source: 'Kimi 2025; Peng 2025 (RWKV-7)',
    inputsOf: 'kda',
    left: [
      'dplr',
      ({ q, k, v, beta, gate }) => ({ q, v, gate, k: mul(k, column(beta)), a: mul(exp(gate), k), b: neg(mul(k, column(beta))) }),
    ],
    right: ['kda', same],
  },
  {
    what: 'RWKV-7 is DPLR',
    statement: "RWKV-7's in-context learning rate is the general rule with a = -kappa and b = kappa * rate.",
    equation: 'a_t = -\\kappa_t,\\; b_t = \\kappa_t \\odot \\rho_t',
    source: 'Peng 2025 (RWKV-7), eq. 16',
    inputsOf: 'rwkv7',
    left: ['rwkv7', same],
    right: ['dplr', ({ q, k, v, kappa, rate, gate }) => ({ q, k, v, gate, a: neg(kappa), b: mul(kappa, rate) })],
  },
  {
    what: 'attention normalisation is delta on scaled keys',
    statement:
      'The delta rule with attention normalisation is the plain one on the keys k / (c + eps) at the rates beta c, c_t = z_{t-1} . k_t (1 for a first token), its outputs divided by z_t . q_t + eps.',
    equation: "k_t' = k_t / (c_t + \\epsilon),\\; \\beta_t' = \\beta_t c_t,\\; c_t = z_{t-1}^\\top k_t",
    source: 'Schlag 2021, section 4.2, and its language model code',
    runs: ['delta'],
    inputsOf: 'attention-delta',
    left: ['attention-delta', same],
    right:
      (options) =>
      ({ q, k, v, beta }, state) => {
        const eps = 1e-5
        const [B, T, H, K] = k.shape
        const z0 = state ? reshape(state.z!, [B, 1, H, K]) : zeros([B, 1, H, K], k.device)
        const before = cumsum(T > 1 ? concat([z0, slice(k, 1, 0, T - 1)], 1) : z0, 1)
        const held = sum(mul(before, k), { axis: -1, keepDim: true })
        const c = add(held, equal(sum(before, { axis: -1, keepDim: true }), 0))
        const scaled = { q, k: div(k, affine(c, 1, eps)), v, beta: mul(beta, reshape(c, [B, T, H])) }
        const { y, state: last } = call('delta', scaled, state && { S: state.S }, options)
        const z = add(before, k)
        const seen = affine(sum(mul(z, q), { axis: -1, keepDim: true }), 1, eps)
        return { y: div(y, seen), state: { S: last.S, z: reshape(slice(z, 1, T - 1, T), [B, H, K]) } }
      },
    limits: { T: 12, width: 5 },
  },
  {
    what: 'a delta rule at rate 0 writes nothing',
    statement: 'With beta = 0 the memory stays as it is and is only read.',
    equation: '\\beta_t = 0 \\;\\Rightarrow\\; S_T = S_0,\\; y_t = S_0^\\top q_t',
    source: 'Schlag 2021, eq. 24',
    runs: ['sum'],
    inputsOf: 'delta',
    left: ['delta', (i) => ({ ...i, beta: affine(i.beta, 0) })],
    right: (options) => (inputs, state) => {
      const nothing = { q: inputs.q, k: affine(inputs.k, 0), v: affine(inputs.v, 0) }
      return call('sum', nothing, state, options)
    },
  },
]

const withStep = (x: Tensor): Tensor => reshape(x, [x.shape[0], x.shape[1], 1, ...x.shape.slice(2)])
const transpose = (S: Tensor): Tensor => permute(S, [0, 1, 3, 2])
/** Where the outputs of two rules aren't comparable: the memory stands for them. */
const memoryAlone = (S: Tensor) => ({ y: affine(S, 1), state: { S } })

export const reductionClaims: readonly Claim[] = reductions.map(
  ({ what, statement, equation, source, runs = [], inputsOf, left, right, limits, initial = true }) => {
    const table: Rule = rules[inputsOf]
    const side =
      (of: Reduction['left']) =>
      (c: any, x: any): ReturnType<typeof everything> => {
        const options: RuleOptions = { form: c.form, chunk: c.C, scale: c.scale }
        const go: Runner = Array.isArray(of) ? (inputs, state) => runner(rules[of[0]], c.form, options)(of[1](inputs), state) : of(options)
        return everything(table, c, x, go)
      }
    return defineClaim({
      name: `reductions: ${what}`,
      section: 'Reductions: one rule within another',
      statement,
      equation,
      source,
      rules: [...new Set([left, right].flatMap((of) => (Array.isArray(of) ? [of[0]] : [])).concat(runs))],
      fields: {
        ...sizes(table, { T: 14, width: 6, ...limits }),
        initial: initial ? flag : fc.constant(false),
        scale: oneOf(1, 0.5),
        decay: oneOf(1, 0.02),
        C: int(1, 16),
        form: oneOf(...table.forms),
      },
      floor: floorOf(table),
      left: side(left),
      right: side(right),
    })
  },
)
