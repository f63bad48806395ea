/**
 * The operators of ONNX that are rules, convolutions and gates of ours: what each takes, by the schemas of opset 27 and of onnxruntime's domain
 * com.microsoft, and how it is said in the engine's ops. What a schema forbids is an error here.
 *
 * A query, key or value of LinearAttention is packed, [B,T,H K]: head after head. Decays are logarithms, at most 0 to our kernels.
 */
import { match } from '../engine/ops/check.ts'
import { add, affine, exp, expand, mul, neg, sigmoid, silu, softplus } from '../engine/ops/elementwise.ts'
import type { FastWeightState } from '../engine/ops/fast-weights.ts'
import { concat, permute, reshape, slice } from '../engine/ops/movement.ts'
import { l2Norm } from '../engine/ops/norm.ts'
import { causalConv } from '../engine/ops/sequence.ts'
import { deltaRule, gatedDeltaRule } from '../engine/rules/delta.ts'
import { type RuleResult, spreadHeads } from '../engine/rules/rule.ts'
import { gatedSumRule, sumRule } from '../engine/rules/sum.ts'
import { show, sizeOf } from '../engine/shape.ts'
import { type Tensor, zeros } from '../engine/tensor.ts'
import type { attributeTypes, DataType } from './proto.ts'

/** Types of an input by its letter, each the same in all inputs that have it: T and S are any float type, G is T or float32. */
export const typeLetters = {
  T: ['F32', 'F16', 'BF16'],
  S: ['F32', 'F16', 'BF16'],
  G: ['F32', 'F16', 'BF16'],
  F: ['F32'],
  I: ['I32'],
} as const satisfies Record<string, readonly DataType[]>
export type TypeLetter = keyof typeof typeLetters

export interface Attribute {
  type: keyof typeof attributeTypes & ('int' | 'float' | 'string')
  /** Without one, a node must say it. */
  default?: number | string
  choices?: readonly string[]
  /** The only value that is known here, and why. */
  only?: readonly [value: number, why: string]
  min?: number
  max?: number
}

type Attributes = Record<string, any>
type Inputs = Partial<Record<string, Tensor>>

export interface Operator {
  /** Slots in order; with ? it may be left out. */
  inputs: Readonly<Record<string, TypeLetter | `${TypeLetter}?`>>
  outputs: Readonly<Record<string, TypeLetter | `${TypeLetter}?`>>
  attributes: Readonly<Record<string, Attribute>>
  /** Inputs and outputs by their slots. */
  run(inputs: Inputs, attributes: Attributes): Record<string, Tensor>
}

const choice = (choices: readonly string[], byDefault = choices[0]): Attribute => ({ type: 'string', default: byDefault, choices })
const fixed = (value: number, why: string): Attribute => ({ type: 'int', default: value, only: [value, why] })
const cudaOnly = 'only CUDA has it'

// ---- LinearAttention ------------------------------------------------------------------------------------------------------------------

type Gates = Partial<Record<'decay' | 'beta', Tensor>>

/** By update_rule: what it takes beside q, k and v, and our rule. */
const updateRules: Record<
  string,
  {
    takes: readonly ('decay' | 'beta')[]
    run(q: Tensor, k: Tensor, v: Tensor, gates: Required<Gates>, state: FastWeightState | undefined, scale: number): RuleResult
  }
> = {
  linear: { takes: [], run: (q, k, v, _, state, scale) => sumRule(q, k, v, state, { scale }) },
  gated: { takes: ['decay'], run: (q, k, v, { decay }, state, scale) => gatedSumRule(q, k, v, decay, state, { scale }) },
  delta: { takes: ['beta'], run: (q, k, v, { beta }, state, scale) => deltaRule(q, k, v, beta, state, { scale }) },
  gated_delta: {
    takes: ['decay', 'beta'],
    run: (q, k, v, { decay, beta }, state, scale) => gatedDeltaRule(q, k, v, beta, decay, state, { scale }),
  },
}
const updateRule = choice(Object.keys(updateRules), 'gated_delta')

/** What the rule takes of the gates; one that it lacks, or (where `strict`) has no use for, is an error. */
function gatesOf(rule: string, gates: Gates, strict: boolean): Gates {
  const { takes } = updateRules[rule]
  for (const name of ['decay', 'beta'] as const) {
    if (takes.includes(name) && !gates[name]) throw new Error(`update_rule ${rule} needs ${name}`)
    if (strict && gates[name] && !takes.includes(name)) throw new Error(`update_rule ${rule} takes no ${name}: leave it out`)
  }
  return Object.fromEntries(takes.map((name) => [name, gates[name]]))
}

/**
 * q [B,T,Hq,K], k [B,T,Hk,K], v [B,T,Hv,V], decay [B,T,Hv] or [B,T,Hv,K], beta [B,T,Hv], state [B,Hv,K,V], with heads that divide one another: head h
 * of the most heads takes what stands at floor(h / ratio). y: [B,T,max(Hq,Hv),V].
 */
function attend(
  rule: string,
  { q, k, v, ...gates }: Record<'q' | 'k' | 'v', Tensor> & Gates,
  state: Tensor | undefined,
  scale: number,
): { y: Tensor; state: Tensor } {
  const [B, T, Hq, K] = q.shape
  const [, , Hv, V] = v.shape
  const H = Math.max(Hq, Hv)
  if (T === 0) return { y: zeros([B, 0, H, V], q.device), state: state ?? zeros([B, Hv, K, V], q.device) }
  const spread = (x: Tensor): Tensor => spreadHeads(x, H)
  const ofHeads = (S: Tensor, from: number): Tensor => reshape(S, [B, 1, from, K * V])
  const S = state && reshape(spread(ofHeads(state, Hv)), [B, H, K, V])
  const every = Object.fromEntries(Object.entries(gates).map(([name, x]) => [name, spread(x)])) as Required<Gates>
  const result = updateRules[rule].run(spread(q), spread(k), spread(v), every, S && { S }, scale)
  // Query heads that share a memory have written the same.
  const last = slice(reshape(result.state.S, [B, Hv, H / Hv, K * V]), 2, 0, 1)
  return { y: result.y, state: reshape(last, [B, Hv, K, V]) }
}

/** n / parts, which must be an integer, 1 or more. */
function share(what: string, n: number, parts: number, heads: string): number {
  if (n >= parts && n % parts === 0) return n / parts
  throw new Error(`${what} is ${n} wide, which isn't a multiple of ${heads} = ${parts}`)
}

const linearAttention = (inverse: boolean): Operator['run'] =>
  function run({ query, key, value, past_state, decay, beta }, { q_num_heads: Hq, kv_num_heads: Hv, update_rule: rule, scale }) {
    if (!(Hq % Hv === 0 || (inverse && Hv % Hq === 0)))
      throw new Error(`q_num_heads = ${Hq} must be a multiple of kv_num_heads = ${Hv}${inverse ? ', or divide it' : ''}`)
    const { B, T, q, k, v } = match(
      'LinearAttention',
      { query: ['B', 'T', 'q'], key: ['B', 'T', 'k'], value: ['B', 'T', 'v'] },
      { query: query!.shape, key: key!.shape, value: value!.shape },
    )
    const K = share('query', q, Hq, 'q_num_heads')
    const V = share('value', v, Hv, 'kv_num_heads')
    const Hk = k / K
    if (Hk !== Hv && !(inverse && Hk === Hq))
      throw new Error(`key is ${k} wide, expected kv_num_heads x the queries' width = ${Hv} x ${K} = ${Hv * K}`)
    if (past_state) match('LinearAttention', { past_state: [B, Hv, K, V] }, { past_state: past_state.shape })
    const gates = gatesOf(rule, { decay, beta }, !inverse)
    const packed = (name: 'decay' | 'beta', widths: readonly number[]): void => {
      const x = gates[name]
      if (x && !(x.shape.length === 3 && x.shape[0] === B && x.shape[1] === T && widths.includes(x.shape[2])))
        throw new Error(`${name} has shape ${show(x.shape)}, expected ${widths.map((w) => show([B, T, w])).join(' or ')}`)
    }
    packed('decay', [Hv, Hv * K])
    packed('beta', [Hv, 1])
    const { y, state } = attend(
      rule,
      {
        q: reshape(query!, [B, T, Hq, K]),
        k: reshape(key!, [B, T, Hk, K]),
        v: reshape(value!, [B, T, Hv, V]),
        ...(gates.decay && { decay: gates.decay.shape[2] === Hv ? gates.decay : reshape(gates.decay, [B, T, Hv, K]) }),
        ...(gates.beta && { beta: expand(gates.beta, [B, T, Hv]) }),
      },
      past_state,
      scale === 0 ? 1 / Math.sqrt(K) : scale,
    )
    return { output: reshape(y, [B, T, y.shape[2] * V]), present_state: state }
  }

const attentionSlots = {
  inputs: { query: 'T', key: 'T', value: 'T', past_state: 'S?', decay: 'T?', beta: 'T?' },
  outputs: { output: 'T', present_state: 'S' },
  attributes: {
    q_num_heads: { type: 'int', min: 1 },
    kv_num_heads: { type: 'int', min: 1 },
    update_rule: updateRule,
    scale: { type: 'float', default: 0 },
    chunk_size: { type: 'int', default: 64 },
  },
} as const satisfies Partial<Operator>

// ---- CausalConvWithState ----------------------------------------------------------------------------------------------------------------

/** Positions that a convolution may look back: what a graph promises is computed, tap by tap. */
const farthest = 2 ** 16

/** w [C,k] with d - 1 zeros between its taps: [C, (k-1) d + 1]. */
function dilated(w: Tensor, d: number): Tensor {
  const [C, k] = w.shape
  if (d === 1) return w
  const apart = concat([reshape(w, [C, k, 1]), zeros([C, k, d - 1], w.device)], 2)
  return slice(reshape(apart, [C, k * d]), 1, 0, (k - 1) * d + 1)
}

const convolve: Operator['run'] = (
  { input, weight, bias, past_state },
  { activation, dilation = 1, channels_last: last = 0 },
): Record<string, Tensor> => {
  const op = 'CausalConvWithState'
  const rank = input!.shape.length
  if (last ? rank < 3 : rank !== 3) throw new Error(`input has shape ${show(input!.shape)}, expected ${last ? '[B,L,C...]' : '[B,C,L]'}`)
  const { C, k } = match(op, { weight: ['C', 1, 'k'] }, { weight: weight!.shape })
  if (k < 1) throw new Error(`weight has shape ${show(weight!.shape)}: a convolution has one tap at least`)
  const N = (k - 1) * dilation
  if (N > farthest) throw new Error(`${k} taps with dilation ${dilation} look back ${N} positions; ${farthest} at most are run here`)
  // Outside, the shape that a slot has; inside, [B,L,C].
  const [B] = input!.shape
  const channels = last ? input!.shape.slice(2) : [C]
  if (sizeOf(channels) !== C) throw new Error(`input has shape ${show(input!.shape)}, the weight is of ${C} channels`)
  const outer = (L: number): number[] => (last ? [B, L, ...channels] : [B, C, L])
  const inside = (x: Tensor): Tensor => (last ? reshape(x, [B, x.shape[1], C]) : permute(x, [0, 2, 1]))
  const outside = (x: Tensor): Tensor => reshape(last ? x : permute(x, [0, 2, 1]), outer(x.shape[1]))
  const L = input!.shape[last ? 1 : 2]
  match(op, { input: outer(L) }, { input: input!.shape })
  if (past_state) match(op, { past_state: outer(N) }, { past_state: past_state.shape })
  if (bias) match(op, { bias: [C] }, { bias: bias.shape })
  const before = past_state ? inside(past_state) : zeros([B, N, C], input!.device)
  if (L === 0) return { output: input!, present_state: outside(before) }
  const { y, state } = causalConv(inside(input!), dilated(reshape(weight!, [C, k]), dilation), before)
  const sum = bias ? add(y, bias) : y
  return { output: outside(activation === 'none' ? sum : silu(sum)), present_state: outside(state) }
}

const convolutionSlots = {
  inputs: { input: 'T', weight: 'T', bias: 'T?', past_state: 'T?' },
  outputs: { output: 'T', present_state: 'T' },
  attributes: { activation: choice(['none', 'silu', 'swish']) },
  run: convolve,
} as const satisfies Operator

// ---- com.microsoft alone ----------------------------------------------------------------------------------------------------------------

const gate: Operator['run'] = ({ a, dt_bias, decay_scale, b }) => {
  const { H } = match(
    'LinearAttentionGate',
    { a: ['B', 'T', 'H'], dt_bias: ['H'], decay_scale: ['H'], ...(b && { b: ['B', 'T', 'H'] }) },
    { a: a!.shape, dt_bias: dt_bias!.shape, decay_scale: decay_scale!.shape, ...(b && { b: b.shape }) },
  )
  if (H === 0) throw new Error('a is of no heads')
  return { decay: mul(softplus(add(a!, dt_bias!)), decay_scale!), ...(b && { beta: sigmoid(b) }) }
}

const gateActivations: Record<string, (decay: Tensor, a: Tensor, bound: number) => Tensor> = {
  softplus: (decay, a) => mul(softplus(decay), neg(exp(a))),
  sigmoid: (decay, a, bound) => affine(sigmoid(mul(decay, exp(a))), bound),
}
gateActivations.qwen = gateActivations.softplus
gateActivations.kda = gateActivations.sigmoid

/** Tokens of all requests one after the other, [N,H,...], or [B,T,H,...]; states are [B,Hv,V,K], the transposes of ours. */
const gatedDeltaNet: Operator['run'] = (
  { query, key, value, cu_seqlens, decay, beta, initial_state: S0, a_log, dt_bias, capture_count },
  { update_rule: rule, gate_activation, beta_activation, qk_l2_norm, gate_lower_bound, scale },
) => {
  const op = 'GatedDeltaNet'
  if (capture_count) throw new Error('capture_count goes with state_update_capacity, which is not run here')
  if (!key !== !value) throw new Error('key and value are given together, or packed in query')
  if (S0 && S0.shape.length !== 4) throw new Error(`initial_state has shape ${show(S0.shape)}, expected [B,Hv,V,K]`)
  const gates = gatesOf(rule, { decay, beta }, true)
  // Tokens in one row each, whichever way they are given: [N,...].
  const packed = !key
  const apart = query!.shape.length === (packed ? 3 : 4)
  const flat = (x: Tensor): Tensor => (apart ? reshape(x, [x.shape[0] * x.shape[1], ...x.shape.slice(2)]) : x)
  if (apart && cu_seqlens) throw new Error('cu_seqlens goes with tokens of all requests one after the other, of rank 3')
  const tokens = packed ? unpack(flat(query!), S0) : { q: flat(query!), k: flat(key!), v: flat(value!) }
  const { N, H, K, Hv, V } = match(
    op,
    { query: ['N', 'H', 'K'], key: ['N', 'H', 'K'], value: ['N', 'Hv', 'V'] },
    { query: tokens.q.shape, key: tokens.k.shape, value: tokens.v.shape },
  )
  if (!(H > 0 && K > 0 && V > 0 && Hv > 0 && Hv % H === 0)) throw new Error(`value has ${Hv} heads, which isn't a multiple of query's ${H}`)
  const ranges = cu_seqlens ? requests(cu_seqlens, N) : undefined
  const B = ranges?.length ?? (apart ? query!.shape[0] : S0?.shape[0])
  if (B === undefined) throw new Error('initial_state or cu_seqlens must be given: they say how many requests there are')
  if (S0) match(op, { initial_state: [B, Hv, V, K] }, { initial_state: S0.shape })
  if (!ranges && (B === 0 ? N > 0 : N % B !== 0)) throw new Error(`${N} tokens aren't ${B} requests of the same length`)

  let g = gates.decay && flat(gates.decay)
  let rate = gates.beta && flat(gates.beta)
  if (g) match(op, { decay: g.shape.length === 2 ? [N, Hv] : [N, Hv, K] }, { decay: g.shape })
  if (rate) match(op, { beta: [N, Hv] }, { beta: rate.shape })
  if (gate_activation === 'none' && (a_log || dt_bias)) throw new Error('a_log and dt_bias go with a gate_activation: leave them out')
  if (g && gate_activation !== 'none') {
    if (!a_log || !dt_bias) throw new Error(`gate_activation ${gate_activation} needs a_log and dt_bias`)
    match(op, { a_log: [Hv] }, { a_log: a_log.shape })
    const perChannel = g.shape.length === 3
    if (dt_bias.size !== (perChannel ? Hv * K : Hv) && dt_bias.size !== Hv)
      throw new Error(`dt_bias has shape ${show(dt_bias.shape)}, expected [${Hv}]${perChannel ? ` or [${Hv},${K}]` : ''}`)
    const heads = perChannel ? [Hv, 1] : [Hv]
    const bias = reshape(dt_bias, dt_bias.size === Hv ? heads : [Hv, K])
    g = gateActivations[gate_activation](add(g, bias), reshape(a_log, heads), gate_lower_bound)
  }
  if (rate && beta_activation === 'sigmoid') rate = sigmoid(rate)
  // As onnxruntime has it, inside the root: KDA's gate goes with another one.
  const eps = gateActivations[gate_activation] === gateActivations.sigmoid ? 1e-6 : 1e-12
  const unit = (x: Tensor): Tensor => (qk_l2_norm ? l2Norm(x, eps) : x)
  const inputs = { q: unit(tokens.q), k: unit(tokens.k), v: tokens.v, ...(g && { decay: g }), ...(rate && { beta: rate }) }

  const run = (some: typeof inputs, state: Tensor | undefined, rows: number): { y: Tensor; state: Tensor } => {
    const each = (x: Tensor): Tensor => reshape(x, [rows, x.shape[0] / rows, ...x.shape.slice(1)])
    const batch = Object.fromEntries(Object.entries(some).map(([name, x]) => [name, each(x)])) as typeof inputs
    const S = state && permute(state, [0, 1, 3, 2])
    const { y, state: last } = attend(rule, batch, S, scale === 0 ? 1 / Math.sqrt(K) : scale)
    return { y: reshape(y, [some.q.shape[0], Hv, V]), state: permute(last, [0, 1, 3, 2]) }
  }
  const results = ranges
    ? ranges.map(([begin, end], b) => {
        const some = Object.fromEntries(Object.entries(inputs).map(([name, x]) => [name, slice(x, 0, begin, end)])) as typeof inputs
        return run(some, S0 && slice(S0, 0, b, b + 1), 1)
      })
    : B > 0
      ? [run(inputs, S0, B)]
      : []
  const joined = (parts: Tensor[], none: number[]): Tensor => (parts.length > 0 ? concat(parts, 0) : zeros(none, query!.device))
  const y = joined(
    results.map(({ y }) => y),
    [0, Hv, V],
  )
  return {
    output: apart ? reshape(y, [...query!.shape.slice(0, 2), Hv, V]) : y,
    final_state: joined(
      results.map(({ state }) => state),
      [0, Hv, V, K],
    ),
  }
}

/** query, key and value side by side, [N, 2 H K + Hv V]; the state says how many heads of which widths. */
function unpack(x: Tensor, S0: Tensor | undefined): Record<'q' | 'k' | 'v', Tensor> {
  if (!S0) throw new Error('a packed query needs initial_state, which says the heads and their widths')
  const { N, W } = match('GatedDeltaNet', { query: ['N', 'W'] }, { query: x.shape })
  const [, Hv, V, K] = S0.shape
  const H = (W - Hv * V) / (2 * K)
  if (!(Number.isInteger(H) && H > 0)) throw new Error(`a packed query ${W} wide doesn't fit the state ${show(S0.shape)}`)
  const part = (begin: number, heads: number, width: number): Tensor =>
    reshape(slice(x, 1, begin, begin + heads * width), [N, heads, width])
  return { q: part(0, H, K), k: part(H * K, H, K), v: part(2 * H * K, Hv, V) }
}

/** [begin, end) of each request. */
function requests(sums: Tensor, N: number): [number, number][] {
  const at = Array.from(sums.indices!)
  if (sums.shape.length !== 1 || at.length === 0 || at[0] !== 0 || at.at(-1) !== N || at.some((x, i) => i > 0 && x < at[i - 1]))
    throw new Error(`cu_seqlens holds ${show(at.slice(0, 20))}, expected sums of lengths from 0 to the ${N} tokens, never falling`)
  return at.slice(1).map((end, i) => [at[i], end])
}

// ---- the table --------------------------------------------------------------------------------------------------------------------------

/** By domain, with the opset since which its operators are there. */
export const operators: Readonly<Record<string, { since: number; table: Readonly<Record<string, Operator>> }>> = {
  'ai.onnx': {
    since: 27,
    table: {
      LinearAttention: { ...attentionSlots, run: linearAttention(false) },
      CausalConvWithState: convolutionSlots,
    },
  },
  'com.microsoft': {
    since: 1,
    table: {
      LinearAttention: {
        ...attentionSlots,
        attributes: { ...attentionSlots.attributes, state_window: fixed(0, cudaOnly) },
        run: linearAttention(true),
      },
      CausalConvWithState: {
        ...convolutionSlots,
        attributes: {
          ...convolutionSlots.attributes,
          dilation: { type: 'int', default: 1, min: 1 },
          channels_last: { type: 'int', default: 0, min: 0, max: 1 },
          ndim: fixed(1, 'more dimensions are not run here'),
          state_window: fixed(0, cudaOnly),
          state_update_capacity: fixed(0, cudaOnly),
          state_channels_last: fixed(-1, cudaOnly),
          state_length: fixed(0, cudaOnly),
          input_channel_offset: fixed(0, cudaOnly),
          input_channels: fixed(0, cudaOnly),
        },
      },
      LinearAttentionGate: {
        inputs: { a: 'T', dt_bias: 'F', decay_scale: 'F', b: 'T?' },
        outputs: { decay: 'T', beta: 'T?' },
        attributes: {},
        run: gate,
      },
      GatedDeltaNet: {
        inputs: {
          ...{ query: 'T', key: 'T?', value: 'T?', cu_seqlens: 'I?', decay: 'G?', beta: 'G?' },
          ...{ initial_state: 'F?', a_log: 'F?', dt_bias: 'F?', capture_count: 'I?' },
        },
        outputs: { output: 'T', final_state: 'F?' },
        attributes: {
          update_rule: updateRule,
          gate_activation: choice(['none', ...Object.keys(gateActivations)]),
          beta_activation: choice(['none', 'sigmoid']),
          qk_l2_norm: { type: 'int', default: 0, min: 0, max: 1 },
          gate_lower_bound: { type: 'float', default: -5 },
          scale: { type: 'float', default: 0 },
          chunk_size: { type: 'int', default: 64 },
          state_update_capacity: fixed(0, 'updates of states are not run here'),
        },
        run: gatedDeltaNet,
      },
    },
  },
}
