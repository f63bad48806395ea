/**
 * The fast-weight recurrence as one fused op. The state S [B,H,K,V] is the fast weight matrix: keys program it, queries read it.
 *
 *     S_t = diag(w_t) S_{t-1} + k_t u_t^T,   y_t = scale S_t^T q_t,   w_t = exp(gate_t)
 *     u_t = v_t   |   beta_t (v_t - S_{t-1}^T diag(w_t) k_t)   |   v_t - S_{t-1}^T erase_t
 *     S_t = diag(w_t) S_{t-1} - along_t (S_{t-1}^T erase_t)^T + k_t v_t^T     with `along`
 *
 * The rules of engine/rules/ are this op with some of its inputs. Three forms agree up to rounding: `recurrent` goes token by token, `chunk` does C
 * tokens at a time as small matrix products (what training runs on), `parallel` all at once (the masked quadratic form).
 * Cotangents of y and of the final state both flow back, to every input and the initial state.
 */
import { checkNumber, checkOptions } from '../arguments.ts'
import { recordMany, records } from '../autograd.ts'
import type { Device } from '../devices/device.ts'
import { type FastWeightInputs, type FastWeightOutputs, type FastWeightSizes, type KernelForm, tokenBits } from '../devices/kernels.ts'
import { type Shape, show } from '../shape.ts'
import { empty, full, like, Tensor, tensor } from '../tensor.ts'
import { checkFloat, match, sameDevice } from './check.ts'

/**
 * The forms in which a rule is computed: token by token, all tokens at once (quadratic in T), or chunk by chunk. All give the same
 * numbers but for rounding.
 */
export const forms = ['recurrent', 'parallel', 'chunk'] as const
/** One of `forms`. */
export type Form = (typeof forms)[number]

/** What a rule carries from one piece of a sequence to the next. */
export interface FastWeightState {
  /** The fast weights, [B,H,K,V] where the rule doesn't say otherwise. */
  S: Tensor
  /** The normaliser, [B,H,K], of rules that have one. */
  z?: Tensor
  /** Mesa's second memory, the decayed sum of k k^T, [B,H,K,K]. */
  A?: Tensor
  /** The diagonal memory of rules that precondition their writes, the decayed sum of k * k, [B,H,K]. */
  a?: Tensor
  /** The momentum of rules that have one, of the shape of S. */
  M?: Tensor
  /** What gated slot attention's slots hold of keys, [B,H,K,M]; S, [B,H,M,V], is what they hold of values. */
  P?: Tensor
  /** A bias that is learned along with S, [B,H,V]. */
  c?: Tensor
  /** The logarithm of a running sum of exponentials, a channel; -Infinity for none. */
  lse?: Tensor
  /** Which levels of a memory hold something, 1 or 0, [B,H,M]; S is [B,H,M,K,V] then. */
  held?: Tensor
}

/** Options of every rule. */
export interface RuleOptions {
  /** By default `chunk`, and `recurrent` for a single token. */
  form?: Form
  /** C, the chunk length: by default 32, and 16 with a gate or erase. */
  chunk?: number
  /** y = scale S^T q; 1 by default. */
  scale?: number
  /**
   * int32 [B,T]: 0 where a token is padding. It leaves the state as it is, to the bit. What its inputs hold is never looked at, so they may be
   * anything, NaN included; its y and the gradients of its inputs are 0.
   */
  mask?: Tensor
  /**
   * int32 [B,T]: 1 where a new sequence begins, on padding too. It finds an empty state, whatever came before, NaN and Infinity included; and
   * no gradient, finite or not, goes back past it.
   */
  reset?: Tensor
}

/** Options of rules that can divide what is read by a normaliser z . q. */
export interface NormaliserOptions {
  /** Divide by z_t . q_t + eps, z_t = diag(w_t) z_{t-1} + k_t (needs non-negative features); off by default. */
  normalise?: boolean
  /** Added to the denominator; 1e-6 by default. With 0, a token whose z . q is 0 reads 0 / 0 = NaN. */
  eps?: number
}

/** Options of rules whose memory can be read the other way round. */
export interface ReadOptions {
  /** y_t = scale S_t q_t, q: [B,T,H,V], y: [B,T,H,K]: values ask for keys. Off by default; without the normaliser. */
  transposed?: boolean
}

/** What else programs the state, beside keys and values: at most one of beta and erase. */
export interface Gates {
  /** Write strength, [B,T,H]. */
  beta?: Tensor
  /** Logarithms of decays, at most 0 (-Infinity forgets): [B,T,H], or [B,T,H,K] for one each key channel. */
  gate?: Tensor
  /**
   * Beside a gate that may be -Infinity, which has no gradient there: a finite one of its shape, near it. It doesn't count in what is computed,
   * and its gradient is that of a gate with its values. It costs a second backward pass.
   */
  nearby?: Tensor
  /** What the state is read with before it decays, [B,T,H,K]; what it finds is taken from the value. */
  erase?: Tensor
  /** Beside erase, [B,T,H,K]: what that finds isn't taken from the value, but away along this: S_t = diag(w_t) S_{t-1} - along_t (S_{t-1}^T erase_t)^T + k_t v_t^T. */
  along?: Tensor
}

/** Checks a 0/1 array over tokens; its values, as they were given. */
export function tokenFlags(op: string, name: string, flags: Tensor, B: number, T: number): Int32Array {
  if (!(flags instanceof Tensor && flags.indices))
    throw new Error(`${op}: ${name} must be an int32 tensor of zeros and ones (dtype: 'int32')`)
  match(op, { [name]: [B, T] }, { [name]: flags.shape })
  const bad = flags.indices.findIndex((x) => x !== 0 && x !== 1)
  if (bad >= 0) throw new Error(`${op}: ${name} holds ${flags.indices[bad]} at ${bad}, not 0 or 1`)
  return flags.indices
}

/** mask and reset as the kernels take them, int32 [B,T]; null where they say nothing. */
export function tokensOf(
  op: string,
  { mask, reset }: Pick<RuleOptions, 'mask' | 'reset'>,
  B: number,
  T: number,
  device: Device,
): Tensor | null {
  if (!mask && !reset) return null
  const real = mask && tokenFlags(op, 'mask', mask, B, T)
  const begins = reset && tokenFlags(op, 'reset', reset, B, T)
  const { token, begins: beginning } = tokenBits
  const bits = Int32Array.from({ length: B * T }, (_, i) => (real?.[i] === 0 ? 0 : token) + (begins?.[i] === 1 ? beginning : 0))
  return bits.every((x) => x === token) ? null : tensor(bits, { shape: [B, T], device })
}

const ruleOptions = ['form', 'chunk', 'scale', 'mask', 'reset'] as const satisfies (keyof RuleOptions)[]

/**
 * What every rule checks first: that each input is a float32 tensor of a shape that fits, that nothing is empty but a batch, and that the options
 * are options. Inputs by name with their axes; returns the sizes by letter.
 */
export function checkCall(
  op: string,
  inputs: Readonly<Record<string, readonly [Tensor, readonly string[]]>>,
  options: RuleOptions,
  more: readonly string[] = [],
): Record<string, number> {
  const given = Object.entries(inputs)
  for (const [name, [t, axes]] of given) if (!(t instanceof Tensor)) throw new Error(`${op}: needs ${name} [${axes.join(',')}], a tensor`)
  const tensors = given.map(([, [t]]) => t)
  checkFloat(op, ...tensors)
  sameDevice(op, ...tensors)
  const sizes = match(
    op,
    Object.fromEntries(given.map(([name, [, axes]]) => [name, axes])),
    Object.fromEntries(given.map(([name, [t]]) => [name, t.shape])),
  )
  const { B, T } = sizes
  const none = Object.keys(sizes).find((letter) => letter !== 'B' && sizes[letter] < 1)
  if (none) throw new Error(`${op}: ${none} is 0 in ${given.map(([name, [t]]) => `${name} ${show(t.shape)}`).join(', ')}`)
  checkOptions(op, options, [...ruleOptions, ...more])
  const { scale = 1, mask, reset } = options
  checkNumber(`${op}: the scale`, scale, 'a finite number')
  planForm(op, T, options, false)
  for (const [name, flags] of Object.entries({ mask, reset })) if (flags) tokenFlags(op, name, flags, B, T)
  return sizes
}

/** A gate is one a head, [B,T,H], or one a channel; null or absent: none. */
export function checkGate(op: string, gate: Tensor | null | undefined, beside: Tensor, channels: number): void {
  if (gate == null) return
  if (!(gate instanceof Tensor)) throw new Error(`${op}: the gate must be a tensor, or null for none`)
  checkFloat(op, gate)
  sameDevice(op, beside, gate)
  const perHead = beside.shape.slice(0, 3)
  match(op, { gate: gate.shape.length === 3 ? perHead : [...perHead, channels] }, { gate: gate.shape })
}

/** The same where a rule can't do without. */
export function requireGate(op: string, gate: Tensor, beside: Tensor, channels: number): void {
  if (!(gate instanceof Tensor)) throw new Error(`${op}: needs gate [B,T,H] or [B,T,H,${channels}], a tensor of logarithms of decays`)
  checkGate(op, gate, beside, channels)
}

export function checkEps(op: string, eps: number): void {
  checkNumber(`${op}: eps`, eps, '0 or more')
}

/** The form that is asked for, and its C. */
function planForm(op: string, T: number, options: RuleOptions, gated: boolean): { form: KernelForm; C: number } {
  const { form = T === 1 ? 'recurrent' : 'chunk', chunk = gated ? 16 : 32 } = options
  if (!forms.includes(form)) throw new Error(`${op}: unknown form '${form}' (${forms.join(', ')})`)
  checkNumber(`${op}: the chunk length`, chunk, 'a positive integer')
  return form === 'parallel' ? { form: 'chunk', C: T } : { form, C: Math.min(chunk, T) }
}

/** The parts of a state, checked: exactly those that are expected. */
export function checkState(op: string, state: FastWeightState, expected: Record<string, Shape>, beside: Tensor): void {
  const parts = Object.keys(expected)
  if (!(state[parts[0] as 'S'] instanceof Tensor))
    throw new Error(`${op}: the state must be { ${parts.join(', ')} }, as the rule returns it; the options come after it`)
  for (const [name, t] of Object.entries(state) as [string, Tensor | undefined][]) {
    if (!t) continue
    if (!(name in expected)) throw new Error(`${op}: the state has a ${name}, which this rule lacks`)
    sameDevice(op, beside, t)
    checkFloat(op, t)
    match(op, { [name]: expected[name] }, { [name]: t.shape })
  }
  for (const name of parts)
    if (!(name in state && state[name as keyof FastWeightState]))
      throw new Error(`${op}: the state lacks ${name} ${show(expected[name])}${name === 'z' ? ', the normaliser' : ''}`)
}

/**
 * The recurrence in its general form (see the head of this file). q, k: [B,T,H,K]; v, y: [B,T,H,V] (`transposed`: q [B,T,H,V], y [B,T,H,K]);
 * state.S: [B,H,K,V] and, with `normalise`, state.z: [B,H,K]; zero if absent. `op` names the rule in errors.
 */
export function fastWeights(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  gates: Gates = {},
  state?: FastWeightState,
  options: RuleOptions & NormaliserOptions & ReadOptions = {},
  op = 'fastWeights',
): { y: Tensor; state: FastWeightState } {
  const { scale = 1, normalise = false, eps = 1e-6, transposed = false } = options
  const keys = ['B', 'T', 'H', 'K']
  const values = ['B', 'T', 'H', 'V']
  const arrays = {
    q: [q, transposed ? values : keys],
    k: [k, keys],
    v: [v, values],
    ...(gates.beta !== undefined && { beta: [gates.beta, ['B', 'T', 'H']] }),
    ...(gates.erase !== undefined && { erase: [gates.erase, keys] }),
    ...(gates.along !== undefined && { along: [gates.along, keys] }),
  } satisfies Record<string, [Tensor, string[]]>
  const { B, T, H, K, V } = checkCall(op, arrays, options, ['normalise', 'eps', 'transposed'])
  checkGate(op, gates.gate, q, K)
  checkGate(op, gates.nearby, q, K)
  checkEps(op, eps)
  if (options.eps !== undefined && !normalise) throw new Error(`${op}: eps is the normaliser's, and normalise is off`)
  if (gates.beta && gates.erase) throw new Error(`${op}: beta and erase exclude each other`)
  if (normalise && (gates.beta || gates.erase))
    throw new Error(`${op}: the normaliser belongs to rules that only add, without beta and erase`)
  if (gates.along && (!gates.erase || transposed)) throw new Error(`${op}: along goes with erase, and not with a transposed read`)
  if (normalise && transposed) throw new Error(`${op}: a transposed read has no normaliser`)
  if (state) checkState(op, state, { S: [B, H, K, V], ...(normalise && { z: [B, H, K] }) }, q)
  const { beta, gate, erase, along, nearby } = gates
  const { form, C } = planForm(op, T, options, gate !== undefined || erase !== undefined)
  // A strength that is a sigmoid of which nobody has the values: the kernels take what it's of, and give the gradient of that.
  const logits = beta?.unmade('sigmoid')
  const sizes: FastWeightSizes = {
    ...{ B, T, H, K, V, C, scale, gateWidth: gate?.shape.length === 4 ? K : 1, eps, transposed },
    logits: logits != null,
  }
  const { device } = q

  const given = { q, k, v, beta: logits ?? beta, gate, erase, along, s0: state?.S, z0: state?.z }
  const inputs = Object.values({ ...given, nearby }).filter((t) => t !== undefined)
  const at = (t: Tensor | null | undefined): unknown => t?.storage ?? null
  const tokens = tokensOf(op, options, B, T, device)
  const storages = (): FastWeightInputs<unknown> =>
    Object.fromEntries(Object.entries({ ...given, tokens }).map(([name, t]) => [name, at(t)])) as unknown as FastWeightInputs<unknown>
  const chunks = Math.ceil(T / C)
  const kept = records(inputs)
  const y = transposed ? like(k) : like(v)
  const S = empty([B, H, K, V], device)
  const z = normalise ? empty([B, H, K], device) : null
  const den = normalise ? empty([B, T, H], device) : null
  const states = kept ? empty([B, H, chunks, K, V], device) : null
  const zs = kept && normalise ? empty([B, H, chunks, K], device) : null
  const outputs = (): FastWeightOutputs<unknown> => ({ y: y.storage, sT: at(S), zT: at(z), den: at(den), states: at(states), zs: at(zs) })
  device.kernels.fastWeights(form, storages(), outputs(), sizes)

  recordMany(op, inputs, z ? [y, S, z] : [y, S], ([dy, dsT, dzT]) => {
    const cotangents = { dy: (dy ?? full(y.shape, 0, device)).storage, dsT: at(dsT), dzT: at(dzT) }
    const saved = { y: den && y.storage, den: at(den), states: states!.storage, zs: at(zs) }
    const backward = (gate: Tensor | undefined): Record<string, Tensor | undefined> => {
      const grads = Object.fromEntries(Object.entries(given).map(([name, t]) => [name, t && like(t)]))
      const places = Object.fromEntries(Object.entries(grads).map(([name, t]) => [`d${name}`, at(t)])) as never
      device.kernels.fastWeightsBackward(form, { ...storages(), gate: at(gate) }, saved, cotangents, places, sizes)
      return grads
    }
    const grads = Object.values(backward(gate)).flatMap((t) => t ?? [])
    return nearby ? [...grads, backward(nearby).gate!] : grads
  })
  if (y.node) for (const t of [S, z]) t && (t.unread = true)
  else for (const t of [den, tokens]) t?.dispose()
  return { y, state: z ? { S, z } : { S } }
}
