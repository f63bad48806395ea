/** Claims about cross attention: a source is written into fast weights once, and queries from elsewhere read the last state. */
import {
  affine,
  concat,
  div,
  matmul,
  mul,
  noGrad,
  permute,
  type Rule,
  type RuleName,
  reshape,
  rules,
  slice,
  sum,
  type Tensor,
  tensor,
} from '../engine/index.ts'
import { crossRules, EncoderDecoder, type EncoderDecoderConfig, readSource, writeSource } from '../nn/index.ts'
import { inverse, lower, swap } from './attention.ts'
import { type Case, type Claim, defineClaim, type Side } from './claim.ts'
import { type Context, stream } from './context.ts'
import { int, oneOf, sizes } from './fields.ts'
import { optionsOf, runs } from './parts.ts'
import { refuted } from './refuted.ts'
import { drawInputs, floorOf, type Tensors, withGradients } from './sides.ts'

const section = 'Encoder and decoder'

/** A case: B sources of T tokens, some of which aren't there, and Q queries. */
const source = { B: int(1, 2), T: int(1, 10), Q: int(1, 5), H: int(1, 2), K: int(1, 6), V: int(1, 6) }

/** What a source writes, and the queries, Q for each: q [B,Q,H,K]. */
function drawn(rule: RuleName, c: Case & any, x: Context): Tensors {
  const { inputs, state }: Rule = rules[rule]
  const { q, ...written } = inputs
  return { q: x.tensor('q', [c.B, c.Q, c.H, c.K], q.values), ...drawInputs({ inputs: written, state }, c, x) }
}

/** int32 [B,T]: three tokens in ten aren't there, where the case looks normal. */
const maskOf = (c: Case & any, x: Context): Tensor =>
  tensor(
    Int32Array.from(x.values('there', [c.B, c.T], 'rate'), (u) => Number(u >= 0.3)),
    { shape: [c.B, c.T], device: x.device },
  )

/** What a rule adds to its normaliser, if it has one. */
function epsOf(rule: RuleName): { eps?: number } {
  const { eps }: Rule = rules[rule]
  return eps === undefined ? {} : { eps }
}

/** What the queries read of the state that the source's last token leaves. */
const fromState = (rule: RuleName, c: Case & any, { q, k, v, beta }: Tensors, mask?: Tensor): Tensor =>
  readSource(q, writeSource(rule, { k, v, beta }, { ...optionsOf(c), mask, ...epsOf(rule) }), epsOf(rule))

/** The tokens of a source [B,T,...] in another order, the same for every row. */
function shuffled(c: Case & any, inputs: Tensors): Tensors {
  const next = stream(c.seed, 'order')
  const order = Array.from({ length: c.T as number }, (_, t) => ({ t, at: next() })).sort((a, b) => a.at - b.at)
  const arrange = (value: Tensor): Tensor =>
    concat(
      order.map(({ t }) => slice(value, 1, t, t + 1)),
      1,
    )
  return Object.fromEntries(Object.entries(inputs).map(([name, value]) => [name, name === 'q' ? value : arrange(value)]))
}

/** Cross attention as one matrix of scores, [B,H,Q,T], over the tokens that are there. */
const scores: Record<
  string,
  { rule: RuleName; statement: string; equation: string; source: string; read(i: Tensors, x: Context): Tensor }
> = {
  'the sum rule': {
    rule: 'sum',
    statement: 'Writing a source token by token and reading the last state is attention to all of it without softmax, and without a mask.',
    equation: 'S_T = \\sum_{t \\le T} k_t v_t^\\top,\\quad S_T^\\top q_i = \\sum_{t \\le T} (k_t^\\top q_i)\\, v_t',
    source: 'Schlag 2021, sections 3.1 and 6.2; Katharopoulos 2020, eq. 5',
    read: ({ q, k, v, there }) => swap(matmul(mul(matmul(swap(q), swap(k), { transposeB: true }), there), swap(v))),
  },
  'linear attention': {
    rule: 'linear-attention',
    statement: 'With the normaliser that the source leaves, each row of the scores is divided by its sum.',
    equation:
      '\\frac{S_T^\\top q_i}{z_T^\\top q_i + \\varepsilon} = \\frac{\\sum_{t \\le T} (k_t^\\top q_i)\\, v_t}{\\sum_{t \\le T} k_t^\\top q_i + \\varepsilon}',
    source: 'Katharopoulos 2020, eqs. 4, 5',
    read: ({ q, k, v, there }) => {
      const A = mul(matmul(swap(q), swap(k), { transposeB: true }), there)
      return swap(div(matmul(A, swap(v)), affine(sum(A, { axis: -1, keepDim: true }), 1, 1e-6)))
    },
  },
  'the delta rule': {
    rule: 'delta',
    statement:
      'What the delta rule leaves of a source is attention to the values that it really wrote, each corrected by the tokens before.',
    equation:
      'S_T^\\top q_i = \\sum_{t \\le T} (k_t^\\top q_i)\\, u_t,\\quad U = (I + L)^{-1} \\mathrm{diag}(\\beta) V,\\quad L = \\mathrm{tril}\\bigl(\\mathrm{diag}(\\beta) K K^\\top, -1\\bigr)',
    source: 'Yang 2024, eq. 10-11 (with one chunk), read from outside',
    read: ({ q, k, v, beta, there }, x) => {
      const [B, T, H] = beta.shape
      const [Q, K, V] = [swap(q), swap(k), swap(v)]
      // A token that isn't there writes nothing.
      const rate = mul(reshape(permute(beta, [0, 2, 1]), [B, H, T, 1]), reshape(there, [B, 1, T, 1]))
      const L = mul(mul(matmul(K, K, { transposeB: true }), rate), lower(x, T, true))
      return swap(matmul(matmul(Q, K, { transposeB: true }), matmul(inverse(L, x), mul(V, rate))))
    },
  },
}

/** The logits of a small model without positions, for a source and for the same in another order. */
function logits(c: Case & any, x: Context, config: Partial<EncoderDecoderConfig>, turned: boolean): Side {
  const model = new EncoderDecoder(
    { symbols: 5, dModel: 8, heads: 2, encoderLayers: 1, decoderLayers: 1, dFf: 8, positions: 'none', ...config },
    c.seed,
  )
  try {
    const tokens = (name: string, T: number): number[] => Array.from(x.values(name, [T], 'rate'), (u) => Math.min(4, Math.floor(5 * u)))
    const from = tokens('source', c.T)
    const next = stream(c.seed, 'order')
    const order = from.map((token) => ({ token, at: next() }))
    if (turned) order.sort((a, b) => a.at - b.at)
    const ints = (values: number[]): Tensor => tensor(Int32Array.from(values), { shape: [1, values.length], device: x.device })
    return { logits: noGrad(() => model.forward(ints(order.map(({ token }) => token)), ints(tokens('target', c.Q)))).logits }
  } finally {
    model.dispose()
  }
}

const additive = { sum: { rule: 'sum', featureMap: 'silu' }, 'linear-attention': { rule: 'linear-attention', featureMap: 'elu1' } } as const
const blind = (c: Case & any): Partial<EncoderDecoderConfig> =>
  c.mixer === 'softmax' ? { mixer: 'softmax' } : { featureNorm: 'none', ...additive[c.mixer as keyof typeof additive] }

export const crossClaims: readonly Claim[] = [
  ...Object.entries(scores).map(([what, { rule, statement, equation, source: from, read }]) =>
    defineClaim({
      name: `encoder-decoder: cross attention by ${what} is a matrix of scores`,
      section,
      statement: `${statement} Tokens that a mask takes out count on neither side; the gradients agree as well.`,
      equation,
      source: from,
      fields: { ...source, ...runs },
      floor: floorOf(rules[rule]),
      left: (c, x) => withGradients(drawn(rule, c, x), x, (leaves) => ({ y: fromState(rule, c, leaves, maskOf(c, x)) })),
      right: (c, x) => {
        const there = x.from(Float64Array.from(maskOf(c, x).indices!), [c.B, 1, 1, c.T])
        return withGradients(drawn(rule, c, x), x, (leaves) => ({ y: read({ ...leaves, there }, x) }))
      },
    }),
  ),
  ...crossRules.map((rule) =>
    defineClaim({
      name: `encoder-decoder: a query from outside reads ${rule} as the last token does`,
      section,
      statement: `A query that comes from elsewhere, once ${rules[rule].title} has written all of a source, reads what the same query of the source's last token reads.`,
      equation: 'y_T = S_T^\\top q_T \\;\\text{ or, with a normaliser, }\\; \\frac{S_T^\\top q_T}{z_T^\\top q_T + \\varepsilon}',
      source: `${rules[rule].source}: the read-out comes after the write`,
      fields: { ...sizes(rules[rule]), ...runs },
      floor: floorOf(rules[rule]),
      left: (c: Case & any, x) =>
        withGradients(drawInputs(rules[rule], c, x), x, ({ q, ...written }) => ({
          y: fromState(rule, c, { q: slice(q, 1, c.T - 1, c.T), ...written }),
        })),
      right: (c: Case & any, x) =>
        withGradients(drawInputs(rules[rule], c, x), x, (inputs) => ({
          y: slice(rules[rule].run(inputs, undefined, optionsOf(c)).y, 1, c.T - 1, c.T),
        })),
    }),
  ),
  defineClaim({
    name: 'encoder-decoder: a model that only adds is blind to the order of its source',
    section,
    statement:
      'An encoder-decoder without positions, whose encoder and cross attention only add, or attend by softmax, gives the same for a source in any order.',
    equation: 'f(x_{\\pi(1)}, \\dots, x_{\\pi(T)};\\, y) = f(x_1, \\dots, x_T;\\, y)',
    source: 'Vaswani 2017, section 3.5; sums do not depend on the order of their terms',
    fields: { T: int(1, 6), Q: int(1, 3), mixer: oneOf('linear-attention', 'sum', 'softmax') },
    left: (c, x) => logits(c, x, blind(c), true),
    right: (c, x) => logits(c, x, blind(c), false),
  }),
]

const small = { ...source, B: int(1, 1), H: int(1, 1), ...runs }

export const falseCrossClaims: readonly Claim[] = [
  refuted({
    name: 'false: delta cross attention ignores the order of the source',
    statement: 'A decoder reads the same of a source that the delta rule has written in any order.',
    equation: 'S_T(x_{\\pi(1)}, \\dots, x_{\\pi(T)})^\\top q = S_T(x_1, \\dots, x_T)^\\top q',
    source: 'true of the sum rule; a correction depends on what is stored already',
    fields: small,
    left: (c, x) => ({ y: fromState('delta', c, shuffled(c, drawn('delta', c, x))) }),
    right: (c, x) => ({ y: fromState('delta', c, drawn('delta', c, x)) }),
  }),
  refuted({
    name: 'false: cross attention is causal',
    statement: 'The i-th token of a target reads of the source its first i tokens.',
    equation: 'y_i = \\textstyle\\sum_{t \\le i} (k_t^\\top q_i)\\, v_t',
    source: 'the sum goes over the whole source, for every query: Vaswani 2017, section 3.2.3',
    fields: small,
    left: (c, x) => ({ y: fromState('sum', c, drawn('sum', { ...c, Q: c.T }, x)) }),
    right: (c, x) => ({ y: rules.sum.run(drawn('sum', { ...c, Q: c.T }, x), undefined, optionsOf(c)).y }),
  }),
]
