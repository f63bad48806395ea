/**
 * Operators of flash-linear-attention: inputs `in.*`, outputs and final states `out.*`, cotangents of these `dout.*`, gradients `grad.*`, as the
 * package's plain forms compute them in float64. The metadata has the operator's name and options.
 */
import {
  abcRule,
  add,
  affine,
  combaRule,
  concat,
  type Device,
  deltaProductRule,
  deltaRule,
  div,
  dplrRule,
  exp,
  type FastWeightState,
  type Form,
  forms,
  gatedDelta2Rule,
  gatedDeltaRule,
  gatedSlotRule,
  gatedSumRule,
  hgrn2Rule,
  hgrnRule,
  lightNetRule,
  lightningDecays,
  log,
  logLinearAttention,
  maximum,
  mesaRule,
  momentumDeltaRule,
  mul,
  ojaRule,
  ones,
  outer,
  preconditionedDeltaRule,
  type RuleName,
  type RuleOptions,
  type RuleResult,
  reshape,
  retentionRule,
  rules,
  rwkv4Rule,
  rwkv6Rule,
  rwkv7Rule,
  scope,
  slice,
  spreadHeads,
  sqrt,
  square,
  sum,
  sumRule,
  type Tensor,
  tensor,
  titansRule,
  tttRule,
  zeros,
} from '../../engine/index.ts'
import { retention } from '../../nn/index.ts'
import type { Compared, Kind, Safetensors } from './figures.ts'

type Tensors = Record<string, Tensor>

interface Operator {
  /** Of the table, whose forms are run; a rule that isn't there goes through another. */
  rule: RuleName
  /** Of these forms, those that are compared; all, if it doesn't say. */
  forms?: readonly Form[]
  /** From the operator's inputs, and its options, to its outputs, by its names. */
  run(inputs: Tensors, options: RuleOptions, o: Record<string, any>): Tensors
  /** Outputs of a file that aren't the exact ones: not compared. */
  others?: readonly string[]
  /** By name, what of a result, or of the gradient of an input, is compared: of both sides. */
  as?: Readonly<Record<string, (x: Float64Array, shape: readonly number[]) => Float64Array>>
}

const usual = ({ y, state }: RuleResult): Tensors => ({ o: y, final_state: state.S })
const given = ({ initial_state }: Tensors): FastWeightState | undefined => initial_state && { S: initial_state }

/** Queries and keys for each of the value heads. */
const spread = ({ q, k, v }: Tensors): [Tensor, Tensor, Tensor] => [spreadHeads(q, v.shape[2]), spreadHeads(k, v.shape[2]), v]
/** What has a number for each key head, or already for each value head. */
const toValues = ({ v }: Tensors, x: Tensor): Tensor => spreadHeads(x, v.shape[2])
const withSteps = (x: Tensor, n: number): Tensor => reshape(x, [x.shape[0], x.shape[1] / n, n, ...x.shape.slice(2)])
const unit = (x: Tensor): Tensor => div(x, maximum(sqrt(sum(square(x), { axis: -1, keepDim: true })), 1e-12))
/** [B,G,...] for H heads, as spreadHeads has it for arrays over tokens; and back, where those that share are alike. */
const spreadState = (x: Tensor, H: number): Tensor =>
  reshape(spreadHeads(reshape(x, [x.shape[0], 1, ...x.shape.slice(1)]), H), [x.shape[0], H, ...x.shape.slice(2)])
const firstOfGroups = (x: Tensor, G: number): Tensor => {
  const [B, H, ...rest] = x.shape
  return reshape(slice(reshape(x, [B, G, H / G, ...rest]), 2, 0, 1), [B, G, ...rest])
}

/** [B,T,C], [B,C] and back, of a rule whose channels are those of one head. */
const oneHead = (x: Tensor): Tensor => reshape(x, [...x.shape.slice(0, 2), 1, x.shape[2]])
const ofOneHead = (x: Tensor): Tensor => reshape(x, [x.shape[0], 1, x.shape[1]])
const withoutHead = (x: Tensor): Tensor => reshape(x, [...x.shape.slice(0, -2), x.shape.at(-1)!])

const slotted = ({ y, state }: RuleResult): Tensors => ({ o: y, final_k: state.P!, final_v: state.S })

/** All products of two entries. */
const squares = (x: Tensor): Tensor => reshape(outer(x, x), [...x.shape.slice(0, 3), x.shape[3] ** 2])
function ofFeatures(
  { q, k, v }: Tensors,
  { scale = 1, ...o }: RuleOptions,
  normalise: boolean,
  eps: number,
  map: (x: Tensor) => Tensor[],
): Tensors {
  const [query, key] = [affine(q, scale), k].map((x) => concat(map(x), 3))
  return { o: sumRule(query, key, v, undefined, { ...o, ...(normalise && { normalise, eps }) }).y }
}

/** (X + X^T) / 2 of each matrix. */
function symmetricPart(x: Float64Array, shape: readonly number[]): Float64Array {
  const n = shape.at(-1)!
  return x.map((value, i) => {
    const [matrix, row, column] = [i - (i % (n * n)), Math.floor(i / n) % n, i % n]
    return (value + x[matrix + column * n + row]) / 2
  })
}

/** RWKV-4's state [B,3,1,C]: A / Z, 1, log Z + exponent. */
const ofChannels =
  (f: (A: number, Z: number, exponent: number) => [number, number, number]) => (x: Float64Array, shape: readonly number[]) => {
    const C = shape.at(-1)!
    return x.map((_, i) => {
      const [row, n, c] = [i - (i % (3 * C)), Math.floor(i / C) % 3, i % C]
      return f(x[row + c], x[row + C + c], x[row + 2 * C + c])[n]
    })
  }
const meanAndLse = ofChannels((A, Z, exponent) => [A / Z, 1, Math.log(Z) + exponent])
/** The package has no gradient of the exponent. */
const withoutExponent = ofChannels((A, Z) => [A, Z, 0])

function preconditioned(rule: RuleName, prepare: (x: Tensor) => Tensor): Operator {
  return {
    rule,
    run: (i, o, { x: base, eps }) => {
      const [G, H] = [i.k.shape[2], i.v.shape[2]]
      const each = (x: Tensor): Tensor => spreadHeads(x, H)
      const c = reshape(spreadHeads(reshape(i.log_atk_scale, [1, 1, G]), H), [H])
      const before = i.initial_state && { S: i.initial_state, a: spreadState(i.initial_A_state, H) }
      const [q, k] = [i.q, i.k].map((x) => each(prepare(x)))
      const { y, state } = preconditionedDeltaRule(q, k, i.v, i.beta, i.g, each(i.beta_atk), each(i.g_atk), c, before, { ...o, base, eps })
      return { o: y, final_state: state.S, final_A_state: firstOfGroups(state.a!, G) }
    },
  }
}

const operators: Record<string, Operator> = {
  delta_rule: { rule: 'delta', run: (i, o) => usual(deltaRule(...spread(i), i.beta, given(i), o)) },
  gated_delta_rule: { rule: 'gated-delta', run: (i, o) => usual(gatedDeltaRule(...spread(i), i.beta, i.g, given(i), o)) },
  kda: { rule: 'kda', run: (i, o) => usual(gatedDeltaRule(...spread(i), i.beta, i.g, given(i), o)) },
  comba: {
    rule: 'comba',
    run: (i, o) => usual(combaRule(...spread(i), toValues(i, i.p), i.beta, i.g, given(i), o)),
  },
  gdn2: { rule: 'gdn2', run: (i, o) => usual(gatedDelta2Rule(...spread(i), toValues(i, i.b), i.w, toValues(i, i.g), given(i), o)) },
  // The gated rule of the package takes queries and keys as they come, and gives them length 1.
  precond_gated_delta_rule: preconditioned('precond-delta', unit),
  precond_kda: preconditioned('precond-kda', (x) => x),
  gated_delta_product: {
    rule: 'delta-product',
    run: (i, o, { num_householder: n }) => {
      const [k, v, beta] = [i.k, i.v, i.beta].map((x) => withSteps(x, n))
      return usual(deltaProductRule(i.q, k, v, beta, i.g ?? null, given(i), o))
    },
  },
  gated_oja_rule: { rule: 'gated-oja', run: (i, o) => usual(ojaRule(...spread(i), i.beta, i.gv ?? null, given(i), o)) },
  iplr: { rule: 'iplr', run: (i, o) => usual(dplrRule(i.q, i.k, i.v, i.a, i.b, null, given(i), o)) },
  dplr: { rule: 'dplr', run: (i, o) => usual(dplrRule(i.q, i.k, i.v, i.a, i.b, i.gk, given(i), o)) },
  rwkv7: { rule: 'rwkv7', run: (i, o) => usual(rwkv7Rule(i.r, i.k, i.v, i.kk, i.a, i.w, given(i), o)) },
  simple_gla: {
    rule: 'mamba2',
    run: (i, o) => usual(i.g ? gatedSumRule(...spread(i), i.g, given(i), o) : sumRule(...spread(i), given(i), o)),
  },
  gla: { rule: 'gla', run: (i, o) => usual(gatedSumRule(...spread(i), i.gk, given(i), o)) },
  linear_attn: {
    rule: 'linear-attention',
    run: (i, { scale = 1, ...o }, { normalize }) => {
      if (!normalize) return usual(sumRule(i.q, i.k, i.v, given(i), { scale, ...o }))
      const [B, , H, K] = i.k.shape
      const before = i.initial_state && { S: i.initial_state, z: reshape(i.initial_z, [B, H, K]) }
      // The scale is the query's, in the divisor too.
      const { y, state } = sumRule(mul(i.q, scale), i.k, i.v, before, { ...o, normalise: true, eps: 1e-10 })
      return { o: y, final_state: state.S, final_z: reshape(state.z!, [B, 1, H, K]) }
    },
  },
  retention: { rule: 'retnet', run: (i, o) => usual(retentionRule(i.q, i.k, i.v, retention(i.q.shape[2], i.q), given(i), o)) },
  lightning_attn: {
    rule: 'retnet',
    run: (i, o, { layer_idx, num_layers }) =>
      usual(retentionRule(i.q, i.k, i.v, lightningDecays(i.q.shape[2], layer_idx, num_layers, i.q.device), given(i), o)),
  },
  hgrn2: { rule: 'hgrn2', run: (i, o) => usual(hgrn2Rule(i.q, i.v, i.g, given(i), o)) },
  hgrn: {
    rule: 'hgrn',
    // [B,T,D]: one head.
    run: (i, o) => {
      const { y, state } = hgrnRule(oneHead(i.x), oneHead(i.g), i.initial_state && { S: ofOneHead(i.initial_state) }, o)
      return { o: withoutHead(y), final_state: withoutHead(state.S) }
    },
  },
  rwkv4: {
    rule: 'rwkv4',
    run: (i, o) => {
      const decay = affine(exp(i.w), -1)
      // A, Z and the exponent that both are to be multiplied with: of mean and log-sum, which is what they say.
      const [A, Z, exponent] = [0, 1, 2].map((n) => reshape(slice(i.state, 1, n, n + 1), [i.k.shape[0], 1, i.k.shape[2]]))
      const before = { S: div(A, Z), lse: add(log(Z), exponent) }
      const { y, state } = rwkv4Rule(oneHead(i.k), oneHead(i.v), reshape(decay, [1, -1]), reshape(i.u, [1, -1]), before, o)
      return { o: withoutHead(y), final_state: reshape(concat([state.S, ones(state.S.shape, y.device), state.lse!], 1), i.state.shape) }
    },
    as: { final_state: meanAndLse, state: withoutExponent },
  },
  gsa: {
    rule: 'gsa',
    run: (i, o) => {
      // Query heads in groups share keys, slots and memories.
      const [G, H] = [i.k.shape[2], i.q.shape[2]]
      const [k, v, s, g] = [i.k, i.v, i.s, i.g].map((x) => x && spreadHeads(x, H))
      const before = i.initial_k && { P: spreadState(i.initial_k, H), S: spreadState(i.initial_v, H) }
      const { y, state } = g ? gatedSlotRule(i.q, k, v, s, g, before, o) : abcRule(i.q, k, v, s, undefined, o)
      return { o: y, final_k: firstOfGroups(state.P!, G), final_v: firstOfGroups(state.S, G) }
    },
  },
  abc: { rule: 'abc', run: (i, o) => slotted(abcRule(i.q, i.k, i.v, i.s, undefined, o)) },
  lightnet: {
    rule: 'lightnet',
    run: (i, o) => {
      const [B, , H, K] = i.k.shape
      const { y, state } = lightNetRule(i.q, i.k, i.v, i.initial_state && { S: i.initial_state, lse: reshape(i.initial_z, [B, H, K]) }, o)
      return { o: y, final_state: state.S, final_z: reshape(state.lse!, [B, 1, H, K]) }
    },
  },
  log_linear_attn: {
    // Each of its blocks is a sequence of the gated sum.
    rule: 'mamba2',
    run: (i, o) => ({ o: logLinearAttention(...spread(i), i.g, i.level_scales, o) }),
  },
  // Kernels 1 + x + x^2 / 2 and x^2 of x = scale q . k: the normalised sum of features.
  based: {
    rule: 'linear-attention',
    run: (i, o, { use_norm }) =>
      ofFeatures(i, o, use_norm, 1e-6, (x) => [ones([...x.shape.slice(0, 3), 1], x.device), x, affine(squares(x), Math.SQRT1_2)]),
  },
  // (q . k)^2 cancels in its features where q . k is near 0. In one form numerator and denominator round alike; token by token, in float32, they don't.
  rebased: {
    rule: 'linear-attention',
    forms: ['parallel', 'chunk'],
    run: (i, o, { use_norm }) => ofFeatures(i, o, use_norm, 1e-6, (x) => [squares(x)]),
  },
  momentum_delta_rule: {
    rule: 'delta-momentum',
    run: (i, o, { p_times_alpha }) => {
      const p = p_times_alpha ? mul(i.p ?? i.k, exp(reshape(i.log_alpha, [...i.log_alpha.shape, 1]))) : (i.p ?? i.k)
      const before = i.initial_S && { S: i.initial_S, M: i.initial_M }
      const { y, state } = momentumDeltaRule(i.q, i.k, i.v, p, i.beta, i.eta, i.log_alpha, i.log_mu, before, o)
      const [S, M] = [state.S, state.M!].map((x) => reshape(x, [1, ...x.shape]))
      return { o: y, final_state: concat([S, M], 0) }
    },
  },
  ttt: {
    rule: 'ttt',
    run: (i, o, { eps, mini_batch_size: minibatch }) => {
      const [B, T, H, V] = i.v.shape
      const before = i.initial_state && { S: i.initial_state, c: reshape(i.initial_state_bias, [B, H, V]) }
      const { y, state } = tttRule(i.q, i.k, i.v, reshape(i.eta, [B, T, H]), i.w, i.b, before, { ...o, eps, minibatch })
      return { o: y, final_state: state.S, final_state_bias: reshape(state.c!, [B, H, 1, V]) }
    },
  },
  titans: {
    rule: 'titans',
    run: (i, { scale: _, ...o }, { eps, chunk_size: minibatch }) => {
      const [theta, alpha, eta] = [i.theta, i.alpha, i.eta].map((x) => reshape(x, x.shape.slice(0, 3)))
      const before = i.initial_state && { S: i.initial_state, M: zeros(i.initial_state.shape, i.q.device) }
      const { y, state } = titansRule(i.q, i.k, i.v, theta, alpha, eta, i.w, i.b, before, { ...o, eps, minibatch })
      return { o: y, final_state: state.S }
    },
  },
  rwkv6: { rule: 'rwkv6', run: (i, o) => usual(rwkv6Rule(i.q, i.k, i.v, i.w, i.u, given(i), o)) },
  mesa_net: {
    rule: 'mesa',
    // Conjugate gradients stopped after some steps, and the read-out that decodes a token at a time, by those.
    others: ['out.o_cg', 'out.o_step'],
    // The gradient of a symmetric matrix is defined up to what is antisymmetric of it, and Cholesky's differs from that of elimination.
    as: { h_kk_init: symmetricPart },
    run: (i, { scale: _, ...o }) => {
      const before = i.h_kv_init && { S: i.h_kv_init, A: i.h_kk_init }
      const { y, state } = mesaRule(i.q, i.k, i.v, i.beta, i.g, i.lamb, before, o)
      return { o: y, final_h_kk: state.A!, final_h_kv: state.S }
    },
  },
}

const under = (file: Safetensors, prefix: string): [name: string, { shape: readonly number[]; data: ArrayLike<number | bigint> }][] =>
  [...file.tensors].flatMap(([name, entry]) => (name.startsWith(prefix) ? [[name.slice(prefix.length), entry] as const] : [])) as never

const bounds = { output: 1e-6, loss: 1e-6, state: 1e-6, gradient: 1e-5 }
const coarse = { output: 2e-5, loss: 2e-5, state: 2e-5, gradient: 1e-4 }

export const flaOps: Kind = {
  name: 'operator of flash-linear-attention',
  recognises: ({ metadata, tensors }) =>
    'fla' in metadata && 'rule' in metadata && [...tensors.keys()].some((name) => name.startsWith('out.')),
  ways: ({ metadata: { rule } }) => {
    if (!Object.hasOwn(operators, rule)) return `there is no rule for the operator ${rule}`
    const { rule: name, forms: some = forms } = operators[rule]
    return some.filter((form) => (rules[name].forms as readonly Form[]).includes(form))
  },
  run: (file, form, device) => runOperator(file, form as (typeof forms)[number], device),
  // Float32 against float64, over 37 to 70 tokens: about 1e-6 of outputs, ten times that of gradients.
  bound: (quantity, { double }) => (double ? bounds : coarse)[quantity],
}

async function runOperator(file: Safetensors, form: (typeof forms)[number], device: Device): Promise<Compared[]> {
  const { rule, options } = file.metadata
  const settings = JSON.parse(options ?? '{}') as Record<string, any>
  const results = scope(() => {
    const make = ([name, { shape, data }]: ReturnType<typeof under>[number], requiresGrad: boolean): [string, Tensor] => [
      name,
      tensor(Float64Array.from(data, Number), { shape, device, requiresGrad }),
    ]
    const inputs = Object.fromEntries(under(file, 'in.').map((entry) => make(entry, true)))
    const outputs = operators[rule].run(inputs, { form, ...('scale' in settings && { scale: settings.scale }) }, settings)
    for (const entry of under(file, 'dout.')) {
      const [name, cotangent] = make(entry, false)
      if (!(name in outputs)) throw new Error(`${rule} has no output ${name}`)
      outputs[name].backward(cotangent)
    }
    const gradients = Object.entries(inputs).map(([name, x]) => [`grad.${name}`, x.grad ?? zeros(x.shape, device)])
    return {
      ...Object.fromEntries(Object.entries(outputs).map(([name, y]) => [`out.${name}`, y])),
      ...Object.fromEntries(gradients),
    } as Tensors
  })
  const figures = [...file.tensors.keys()].filter((name) => /^(out|grad)\./.test(name))
  const missing = figures.find((name) => !(name in results) && !operators[rule].others?.includes(name))
  if (missing !== undefined || figures.length === 0) throw new Error(`${rule} gives no ${missing ?? 'figure that the file has'}`)
  const compared: Compared[] = []
  for (const [name, result] of Object.entries(results)) {
    const expected = file.tensors.get(name)
    // A gradient may be left out of the figures; an output that is left out was not asked for.
    if (expected) {
      const quantity = name.startsWith('grad.') ? 'gradient' : name.startsWith('out.final') ? 'state' : 'output'
      const what = name.slice(name.indexOf('.') + 1)
      const part = (x: ArrayLike<number | bigint>): Float64Array => {
        const numbers = Float64Array.from(x as ArrayLike<number>, Number)
        return operators[rule].as?.[what]?.(numbers, result.shape) ?? numbers
      }
      compared.push({ quantity, name: what, actual: part(await result.read()), expected: part(expected.data) })
    }
    result.dispose()
  }
  return compared
}
