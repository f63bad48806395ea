/**
 * What a rule is: how keys and values program the fast weights. Each rule stands in one of the files beside this one, three times in a row: as
 * an op of the signature (q, k, v, gates..., state, options) -> { y, state }, built on the fused recurrence of ops/fast-weights.ts where it
 * can be, else in composed ops or as its steps; as a
 * `step`, one token in a few composed ops, which is its specification; and as a row of the table `rules`, which says what goes in, where it
 * comes from and which forms it has.
 *
 * Shapes: q, k [B,T,H,K]; v, y [B,T,H,V]; beta [B,T,H]; gate (logarithms of decays, at most 0) [B,T,H] or [B,T,H,K]; S [B,H,K,V]. A step
 * sees one token, without the axis T.
 */
import { customOp } from '../autograd.ts'
import { sumTo } from '../ops/axes.ts'
import { add, equal, exp, expand, mul, sub, where } from '../ops/elementwise.ts'
import { type FastWeightState, type Form, fastWeights, type Gates, type RuleOptions } from '../ops/fast-weights.ts'
import { matmul } from '../ops/matmul.ts'
import { concat, permute, reshape, slice } from '../ops/movement.ts'
import { sum } from '../ops/reduce.ts'
import { broadcastStrides, show, stridesOf } from '../shape.ts'
import { type Tensor, tensor, zeros } from '../tensor.ts'

/** What a rule gives: its outputs, and the state after the last token. */
export interface RuleResult {
  /** [B,T,H,V]. */
  y: Tensor
  /** The state after the last token, for the next piece of the sequence. */
  state: FastWeightState
}

/** One token: inputs without the axis T, by name; y is [B,H,V]. */
export type Step = (
  state: FastWeightState,
  token: Record<string, Tensor>,
  options: { scale: number; eps: number; normalise: boolean },
) => RuleResult

/**
 * An axis of a rule's inputs and state: B batch, T time, H heads, K key width, V value width; N and M are small numbers of a rule's own.
 */
export type Letter = 'B' | 'T' | 'H' | 'K' | 'V' | 'N' | 'M'
/**
 * What the values of an input are like, for whoever makes some: `any`; `key`, of a length about 1; `unit key`, of length 1; `feature`, not
 * negative; `rate`, in [0, 1]; `gate`, logarithms of decays, at most 0; `positive`.
 */
export type ValueKind = 'any' | 'key' | 'unit key' | 'feature' | 'rate' | 'gate' | 'positive'
/** An input of a rule: its axes, and what its values are like. */
export interface RuleInput {
  /** With 'T' it is sliced for a step; without, every step gets all of it. */
  shape: readonly Letter[]
  /** What its values are like. */
  values: ValueKind
}

/** A rule of fast weights, as the table `rules` describes it: names and sources, inputs and state, one step, and the op that runs it. */
export interface Rule {
  title: string
  /** The paper, and the equations in it. */
  source: string
  /** TeX. */
  equation: string
  /** In the order of the op's arguments; q, k, v first. */
  inputs: Readonly<Record<string, RuleInput>>
  /** The parts of the state by name, and their axes. */
  state: Readonly<Partial<Record<keyof FastWeightState, readonly Letter[]>>>
  /** What parts of the state hold before the first token, where that isn't 0. */
  empty?: Readonly<Partial<Record<keyof FastWeightState, number>>>
  /** The forms that it can be computed in. */
  forms: readonly Form[]
  /** The eps that it takes where none is given, if it has one. */
  eps?: number
  /** Whether it divides what is read by the normaliser z . q. */
  normalise?: boolean
  /** One token: the rule's specification. */
  step: Step
  /** The op over all tokens, in any of the forms. */
  run(inputs: Record<string, Tensor>, state: FastWeightState | undefined, options: RuleOptions): RuleResult
}

export const input = (values: ValueKind, ...shape: Letter[]): RuleInput => ({ values, shape })
export const qkv = (keys: ValueKind = 'any', values: ValueKind = 'any') => ({
  q: input(keys === 'feature' ? 'feature' : 'any', 'B', 'T', 'H', 'K'),
  k: input(keys, 'B', 'T', 'H', 'K'),
  v: input(values, 'B', 'T', 'H', 'V'),
})
export const perHead = (values: ValueKind): RuleInput => input(values, 'B', 'T', 'H')
export const perChannel = (values: ValueKind): RuleInput => input(values, 'B', 'T', 'H', 'K')
export const perValue = (values: ValueKind): RuleInput => input(values, 'B', 'T', 'H', 'V')
/** The axes of arrays over tokens. */
export const axes = { keys: ['B', 'T', 'H', 'K'], values: ['B', 'T', 'H', 'V'], heads: ['B', 'T', 'H'] } as const

export const S = ['B', 'H', 'K', 'V'] as const
export const z = ['B', 'H', 'K'] as const
export const all: readonly Form[] = ['recurrent', 'parallel', 'chunk']

// ---- what steps are made of ---------------------------------------------------------------------------------------------------------

/** S^T q: what the fast weights S [...,K,V] hold for q [...,K]. */
export const readOut = (S: Tensor, q: Tensor): Tensor => {
  const y = matmul(reshape(q, [...q.shape.slice(0, -1), 1, q.shape.at(-1)!]), S)
  return reshape(y, [...q.shape.slice(0, -1), S.shape.at(-1)!])
}

/** k v^T. */
export const outer = (k: Tensor, v: Tensor): Tensor =>
  matmul(reshape(k, [...k.shape, 1]), reshape(v, [...v.shape.slice(0, -1), 1, v.shape.at(-1)!]))

/** x, such as [B,H] or [B,H,K], with as many axes of size 1 behind as make it broadcast over a tensor of `rank` axes. */
export const stretch = (x: Tensor, rank: number): Tensor => reshape(x, [...x.shape, ...new Array<number>(rank - x.shape.length).fill(1)])

/** diag(exp(gate)) S. */
export const decayed = (S: Tensor, gate: Tensor): Tensor => fade(stretch(exp(gate), S.shape.length), S)

/** w x, where w broadcasts and where it is 0 leaves nothing, be x infinite; nor does an infinite product then count in w's gradient. */
export const fade = (w: Tensor, x: Tensor): Tensor =>
  customOp(
    'fade',
    [w, x],
    () => pick(w, mul(w, x)),
    (dy) => {
      const dw = mul(dy, x)
      return [sumTo(pick(add(w, finite(dw)), dw), w.shape), pick(w, mul(w, dy))]
    },
  )

/** x where `chosen`, which broadcasts, isn't 0, else 0, whatever is not chosen. No gradient. */
export function pick(chosen: Tensor, x: Tensor): Tensor {
  const y = zeros(x.shape, x.device)
  // The kernel only asks whether the condition is 0: a float will do.
  x.device.kernels.copyWhere(chosen.storage, x.storage, y.storage, x.shape, broadcastStrides(chosen.shape, x.shape), stridesOf(x.shape))
  return y
}

/** 1 or 0. No gradient. */
export const finite = (x: Tensor): Tensor => equal(sub(x, x), 0)

/**
 * x [B,T,...] with `value` where the mask says padding. What stands there is never looked at and gets no gradient: for arithmetic outside the
 * fused op, which would carry NaN on, and back.
 */
export const unpadded = (x: Tensor, mask: Tensor | undefined, value = 0): Tensor =>
  mask ? where(stretch(mask, x.shape.length), x, value) : x

/** A gate for arithmetic outside the fused op: 0 where that never looks at it, on padding and where a sequence begins. */
export function heeded(gate: Tensor, { mask, reset }: RuleOptions): Tensor {
  const real = unpadded(gate, mask)
  return reset ? where(stretch(reset, gate.shape.length), 0, real) : real
}

/**
 * Queries and keys that several value heads share: x [B,T,G,...] for H heads, [B,T,H,...], of which head h takes what stands at floor(h / (H / G)).
 * Any rule with more value heads than key heads is the rule on keys and queries that are spread so.
 */
export function spreadHeads(x: Tensor, H: number): Tensor {
  const [B, T, G, ...rest] = x.shape
  if (!(Number.isInteger(H) && H >= G && G > 0 && H % G === 0))
    throw new Error(`spreadHeads: ${H} heads can't share what ${show(x.shape)} has for ${G}; the former must be a multiple of the latter`)
  return H === G ? x : reshape(expand(reshape(x, [B, T, G, 1, ...rest]), [B, T, G, H / G, ...rest]), [B, T, H, ...rest])
}

export const dot = (a: Tensor, b: Tensor): Tensor => sum(mul(a, b), { axis: -1, keepDim: true })

export function recurrentOnly(op: string, { form = 'recurrent' }: RuleOptions): void {
  if (form !== 'recurrent') throw new Error(`${op}: has only the recurrent form, not '${form}'`)
}

// ---- rules whose value channels differ in more than their values --------------------------------------------------------------------

/**
 * The fused op with each value channel as a head of its own, with values of one number: H V heads. `gates` makes what comes beside q, k and v from
 * how arrays [B,T,H], one number for each value channel [B,T,H,V], and for each key channel [B,T,H,K] look to these heads.
 */
export function byValueChannel(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  gates: (as: Record<'head' | 'value' | 'key', (x: Tensor) => Tensor>) => Gates,
  state: FastWeightState | undefined,
  options: RuleOptions,
  op: string,
): RuleResult {
  const [B, T, H, K] = q.shape
  const V = v.shape[3]
  const key = (x: Tensor): Tensor => reshape(expand(reshape(x, [B, T, H, 1, K]), [B, T, H, V, K]), [B, T, H * V, K])
  const value = (x: Tensor): Tensor => reshape(x, [B, T, H * V])
  const head = (x: Tensor): Tensor => value(expand(stretch(x, 4), [B, T, H, V]))
  const S0 = state && { S: reshape(permute(state.S, [0, 1, 3, 2]), [B, H * V, K, 1]) }
  const result = fastWeights(key(q), key(k), reshape(v, [B, T, H * V, 1]), gates({ head, value, key }), S0, options, op)
  return { y: reshape(result.y, [B, T, H, V]), state: { S: permute(reshape(result.state.S, [B, H, V, K]), [0, 1, 3, 2]) } }
}

// ---- rules that take several steps a token ------------------------------------------------------------------------------------------

/** x [B,T,...] as the sub-step `at` of N, zeros elsewhere: [B, T N, ...]. */
export function substep(x: Tensor, at: number, N: number): Tensor {
  if (N === 1) return x
  const [B, T, ...rest] = x.shape
  const blank = (n: number): Tensor[] => (n > 0 ? [zeros([B, T, n, ...rest], x.device)] : [])
  return reshape(concat([...blank(at), reshape(x, [B, T, 1, ...rest]), ...blank(N - 1 - at)], 2), [B, T * N, ...rest])
}

export const substepOf = (y: Tensor, at: number, N: number): Tensor => {
  const [B, TN, ...rest] = y.shape
  return reshape(slice(reshape(y, [B, TN / N, N, ...rest]), 2, at, at + 1), [B, TN / N, ...rest])
}

/** Options for a sequence in which N steps stand for each token; all of a padding token's are padding, the first of a beginning resets. */
export function innerOptions(options: RuleOptions, T: number, N: number): RuleOptions {
  const spread = (flags: Tensor | undefined, all: boolean): Tensor | undefined =>
    flags?.indices
      ? tensor(
          Int32Array.from({ length: flags.size * N }, (_, i) => (all || i % N === 0 ? flags.indices![Math.floor(i / N)] : 0)),
          { shape: [flags.shape[0], flags.size === 0 ? 0 : flags.shape[1] * N], device: flags.device },
        )
      : flags
  const form = options.form ?? (T === 1 ? 'recurrent' : 'chunk')
  const chunk = options.chunk === undefined ? undefined : options.chunk * N
  return { ...options, form, chunk, mask: spread(options.mask, true), reset: spread(options.reset, false) }
}
