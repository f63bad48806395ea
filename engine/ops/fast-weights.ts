/**
 * The fast-weight recurrences as fused ops. The state S [B,H,K,V] is the fast weight matrix: keys program it, queries read it.
 * Every rule takes (q, k, v, gates..., state, options) and gives { y, state }, in two forms that agree up to rounding:
 * `recurrent` goes token by token, `chunk` does C tokens at a time as small matrix products (what training runs on).
 * Cotangents of y and of the final state both flow back, to q, k, v, the gates and the initial state.
 */
import { recordMany, records } from '../autograd.ts'
import type { FastWeightSizes, Form } from '../devices/kernels.ts'
import { empty, like, Tensor, zeros } from '../tensor.ts'
import { checkFloat, match, sameDevice } from './check.ts'

/** What a rule carries from one piece of a sequence to the next. */
export interface FastWeightState {
  /** The fast weights, [B,H,K,V]. */
  S: Tensor
  /** The sum rule's normaliser, [B,H,K]; present when it is normalised. */
  z?: Tensor
}

export interface RuleOptions {
  /** By default `chunk`, and `recurrent` for a single token. */
  form?: Form
  /** C, the chunk length: 32 by default. */
  chunk?: number
  /** y = scale S^T q; 1 by default. */
  scale?: number
}

function plan(op: string, q: Tensor, k: Tensor, v: Tensor, options: RuleOptions): { form: Form; sizes: FastWeightSizes; chunks: number } {
  checkFloat(op, q, k, v)
  const { chunk = 32, scale = 1 } = options
  if (!(Number.isInteger(chunk) && chunk >= 1)) throw new Error(`${op}: the chunk length must be a positive integer, not ${chunk}`)
  if (!Number.isFinite(scale)) throw new Error(`${op}: the scale must be a finite number, not ${scale}`)
  const patterns = { q: ['B', 'T', 'H', 'K'], k: ['B', 'T', 'H', 'K'], v: ['B', 'T', 'H', 'V'] }
  const { B, T, H, K, V } = match(op, patterns, { q: q.shape, k: k.shape, v: v.shape })
  if (!(T >= 1 && K >= 1 && V >= 1))
    throw new Error(`${op}: q [${q.shape.join(',')}] and v [${v.shape.join(',')}] need T, K and V of at least 1`)
  const form = options.form ?? (T === 1 ? 'recurrent' : 'chunk')
  if (form !== 'recurrent' && form !== 'chunk') throw new Error(`${op}: unknown form '${form}' (recurrent or chunk)`)
  const C = Math.min(chunk, T)
  return { form, sizes: { B, T, H, K, V, C, scale }, chunks: Math.ceil(T / C) }
}

/** The initial state, checked: S and, exactly where the rule is normalised, z. */
function initial(
  op: string,
  q: Tensor,
  state: FastWeightState | undefined,
  normalise: boolean,
  sizes: FastWeightSizes,
): Partial<FastWeightState> {
  if (!state) return {}
  const { S, z } = state
  if (!(S instanceof Tensor))
    throw new Error(`${op}: the state must be { S: [B,H,K,V] }, as the rule returns it; the options come after it`)
  if (!normalise && z)
    throw new Error(`${op}: the state has a normaliser z, but ${op === 'deltaRule' ? 'this rule has none' : 'normalise is off'}`)
  if (normalise && !z) throw new Error(`${op}: the state lacks the normaliser z that normalise needs`)
  const { B, H, K, V } = sizes
  sameDevice(op, q, S, z)
  checkFloat(op, S, z)
  match(op, { S: [B, H, K, V], ...(z && { z: [B, H, K] }) }, { S: S.shape, ...(z && { z: z.shape }) })
  return { S, z }
}

/**
 * The delta rule: S_t = S_{t-1} + beta_t k_t (v_t - S_{t-1}^T k_t)^T, y_t = scale S_t^T q_t (Schlag 2021, eq. 24-25).
 * It corrects what the key k_t retrieves towards v_t at the rate beta_t instead of adding to it. Stable for 0 <= beta |k|^2 <= 2:
 * normalise the keys. q, k: [B,T,H,K]; v, y: [B,T,H,V]; beta: [B,T,H]; state.S: [B,H,K,V] (zero if absent).
 */
export function deltaRule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  beta: Tensor,
  state?: FastWeightState,
  options: RuleOptions = {},
): { y: Tensor; state: FastWeightState } {
  const { form, sizes, chunks } = plan('deltaRule', q, k, v, options)
  const { B, T, H, K, V } = sizes
  sameDevice('deltaRule', q, k, v, beta)
  checkFloat('deltaRule', beta)
  match('deltaRule', { beta: [B, T, H] }, { beta: beta.shape })
  const S0 = initial('deltaRule', q, state, false, sizes).S
  const { kernels } = q.device
  const inputs = S0 ? [q, k, v, beta, S0] : [q, k, v, beta]
  const y = like(v)
  const sT = empty([B, H, K, V], q.device)
  const states = records(inputs) ? empty([B, H, chunks, K, V], q.device) : null
  kernels.deltaRule(
    form,
    q.storage,
    k.storage,
    v.storage,
    beta.storage,
    S0?.storage ?? null,
    y.storage,
    sT.storage,
    states?.storage ?? null,
    sizes,
  )
  recordMany('deltaRule', inputs, [y, sT], ([dy, dsT]) => {
    const [dq, dk, dv, dbeta] = [q, k, v, beta].map(like)
    const ds0 = S0 ? like(S0) : null
    const dyOrZero = dy ?? zeros(y.shape, q.device)
    kernels.deltaRuleBackward(
      form,
      q.storage,
      k.storage,
      v.storage,
      beta.storage,
      states!.storage,
      dyOrZero.storage,
      dsT?.storage ?? null,
      dq.storage,
      dk.storage,
      dv.storage,
      dbeta.storage,
      ds0?.storage ?? null,
      sizes,
    )
    return [dq, dk, dv, dbeta, ds0].slice(0, inputs.length)
  })
  return { y, state: { S: sT } }
}

export interface SumOptions extends RuleOptions {
  /** Divide by z_t . q_t + eps, z_t = z_{t-1} + k_t (needs non-negative features); off by default. */
  normalise?: boolean
  /** Added to the denominator; 1e-6 by default. */
  eps?: number
}

/**
 * The sum rule, which is linear attention: S_t = S_{t-1} + k_t v_t^T, y_t = scale S_t^T q_t [/ (z_t . q_t + eps)]
 * (Katharopoulos 2020, eq. 16-20; without z: Schmidhuber 1991). Shapes as for deltaRule.
 */
export function sumRule(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  state?: FastWeightState,
  options: SumOptions = {},
): { y: Tensor; state: FastWeightState } {
  const { form, sizes, chunks } = plan('sumRule', q, k, v, options)
  const { B, T, H, K, V } = sizes
  const { normalise = false, eps = 1e-6 } = options
  if (!(eps >= 0)) throw new Error(`sumRule: eps must be 0 or more, not ${eps}`)
  sameDevice('sumRule', q, k, v)
  const { S: S0, z: z0 } = initial('sumRule', q, state, normalise, sizes)
  const { device } = q
  const { kernels } = device
  const inputs = [q, k, v, S0, z0].filter((t) => t !== undefined)
  const needsGrad = records(inputs)
  const y = like(v)
  const sT = empty([B, H, K, V], device)
  const zT = normalise ? empty([B, H, K], device) : null
  const den = normalise ? empty([B, T, H], device) : null
  const states = needsGrad ? empty([B, H, chunks, K, V], device) : null
  const zs = needsGrad && normalise ? empty([B, H, chunks, K], device) : null
  const at = (t: Tensor | null | undefined): unknown => t?.storage ?? null
  kernels.sumRule(
    form,
    q.storage,
    k.storage,
    v.storage,
    at(S0),
    at(z0),
    y.storage,
    sT.storage,
    at(zT),
    at(den),
    at(states),
    at(zs),
    eps,
    sizes,
  )
  recordMany('sumRule', inputs, zT ? [y, sT, zT] : [y, sT], ([dy, dsT, dzT]) => {
    const [dq, dk, dv] = [q, k, v].map(like)
    const ds0 = S0 && like(S0)
    const dz0 = z0 && like(z0)
    const dyOrZero = dy ?? zeros(y.shape, device)
    kernels.sumRuleBackward(
      form,
      q.storage,
      k.storage,
      v.storage,
      zT ? y.storage : null,
      at(den),
      at(states),
      at(zs),
      dyOrZero.storage,
      at(dsT),
      at(dzT),
      dq.storage,
      dk.storage,
      dv.storage,
      at(ds0),
      at(dz0),
      sizes,
    )
    return [dq, dk, dv, ...(ds0 ? [ds0] : []), ...(dz0 ? [dz0] : [])]
  })
  if (!y.node) den?.dispose()
  return { y, state: zT ? { S: sT, z: zT } : { S: sT } }
}
