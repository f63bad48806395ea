/**
 * Operators of flash-linear-attention: inputs `in.*`, outputs and final states `out.*`, cotangents of these `dout.*`, gradients `grad.*`, as the
 * package's plain forms compute them in float64. The metadata has the operator's name and options.
 */
import {
  combaRule,
  type Device,
  deltaProductRule,
  deltaRule,
  div,
  dplrRule,
  type FastWeightState,
  forms,
  gatedDelta2Rule,
  gatedDeltaRule,
  gatedSumRule,
  hgrn2Rule,
  lightningDecays,
  maximum,
  mesaRule,
  mul,
  ojaRule,
  preconditionedDeltaRule,
  type RuleName,
  type RuleOptions,
  type RuleResult,
  reshape,
  retentionRule,
  rules,
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
  zeros,
} from '../../engine/index.ts'
import { retention } from '../../nn/index.ts'
import type { Compared, Kind, Safetensors } from './figures.ts'

type Tensors = Record<string, Tensor>

interface Operator {
  /** Of the table, whose forms are run. */
  rule: RuleName
  /** From the operator's inputs, and its options, to its outputs, by its names. */
  run(inputs: Tensors, options: RuleOptions, o: Record<string, any>): Tensors
  /** Inputs that are symmetric matrices: the gradient of one is defined up to what is antisymmetric of it, and Cholesky's differs from that of elimination. */
  symmetric?: readonly string[]
}

const usual = ({ y, state }: RuleResult): Tensors => ({ o: y, final_state: state.S })
const given = ({ initial_state }: Tensors): FastWeightState | undefined => initial_state && { S: initial_state }

/** Queries and keys for each of the value heads. */
const spread = ({ q, k, v }: Tensors): [Tensor, Tensor, Tensor] => [spreadHeads(q, v.shape[2]), spreadHeads(k, v.shape[2]), v]
const withSteps = (x: Tensor, n: number): Tensor => reshape(x, [x.shape[0], x.shape[1] / n, n, ...x.shape.slice(2)])
const unit = (x: Tensor): Tensor => div(x, maximum(sqrt(sum(square(x), { axis: -1, keepDim: true })), 1e-12))
/** [B,G,...] for H heads, as spreadHeads has it for arrays over tokens; and back, where those that share are alike. */
const spreadState = (x: Tensor, H: number): Tensor =>
  reshape(spreadHeads(reshape(x, [x.shape[0], 1, ...x.shape.slice(1)]), H), [x.shape[0], H, ...x.shape.slice(2)])
const firstOfGroups = (x: Tensor, G: number): Tensor => {
  const [B, H, ...rest] = x.shape
  return reshape(slice(reshape(x, [B, G, H / G, ...rest]), 2, 0, 1), [B, G, ...rest])
}

function preconditioned(rule: RuleName, prepare: (x: Tensor) => Tensor): Operator {
  return {
    rule,
    run: (i, o) => {
      const [G, H] = [i.k.shape[2], i.v.shape[2]]
      const each = (x: Tensor): Tensor => spreadHeads(x, H)
      const c = reshape(spreadHeads(reshape(i.log_atk_scale, [1, 1, G]), H), [H])
      const before = i.initial_state && { S: i.initial_state, a: spreadState(i.initial_A_state, H) }
      const [q, k] = [i.q, i.k].map((x) => each(prepare(x)))
      const { y, state } = preconditionedDeltaRule(q, k, i.v, i.beta, i.g, each(i.beta_atk), each(i.g_atk), c, before, o)
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
    run: (i, o) => usual(combaRule(...spread(i), spreadHeads(i.p, i.v.shape[2]), i.beta, i.g, given(i), o)),
  },
  gdn2: { rule: 'gdn2', run: (i, o) => usual(gatedDelta2Rule(...spread(i), i.b, i.w, i.g, given(i), o)) },
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
  simple_gla: { rule: 'mamba2', run: (i, o) => usual(gatedSumRule(...spread(i), i.g, given(i), o)) },
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
  rwkv6: { rule: 'rwkv6', run: (i, o) => usual(rwkv6Rule(i.q, i.k, i.v, i.w, i.u, given(i), o)) },
  mesa_net: {
    rule: 'mesa',
    symmetric: ['h_kk_init'],
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
  ways: ({ metadata: { rule } }) =>
    Object.hasOwn(operators, rule)
      ? forms.filter((form) => (rules[operators[rule].rule].forms as readonly string[]).includes(form))
      : `there is no rule for the operator ${rule}`,
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
  const compared: Compared[] = []
  for (const [name, result] of Object.entries(results)) {
    const expected = file.tensors.get(name)
    // A gradient may be left out of the figures; an output that is left out was not asked for.
    if (expected) {
      const quantity = name.startsWith('grad.') ? 'gradient' : name.startsWith('out.final') ? 'state' : 'output'
      const what = name.slice(name.indexOf('.') + 1)
      const half = quantity === 'gradient' && operators[rule].symmetric?.includes(what)
      const part = (x: ArrayLike<number | bigint>): Float64Array =>
        half ? symmetricPart(x, result.shape.at(-1)!) : Float64Array.from(x as ArrayLike<number>)
      compared.push({ quantity, name: what, actual: part(await result.read()), expected: part(expected.data) })
    }
    result.dispose()
  }
  return compared
}

/** (X + X^T) / 2 of each n x n matrix. */
const symmetricPart = (x: ArrayLike<number | bigint>, n: number): Float64Array =>
  Float64Array.from({ length: x.length }, (_, i) => {
    const [matrix, row, column] = [i - (i % (n * n)), Math.floor(i / n) % n, i % n]
    return (Number(x[i]) + Number(x[matrix + column * n + row])) / 2
  })
