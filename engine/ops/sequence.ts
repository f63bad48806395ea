/** Causal depthwise convolution, and the DPFP feature map. */
import { checkFlag, checkNumber, checkOptions, told } from '../arguments.ts'
import { record, recordMany, records } from '../autograd.ts'
import type { ConvSizes } from '../devices/kernels.ts'
import { sameShape, show } from '../shape.ts'
import { empty, like, type Tensor, zeros } from '../tensor.ts'
import { checkFloat, match, sameDevice } from './check.ts'
import { concat, slice } from './movement.ts'

/** What `causalConv` goes on with, in the same kernel. */
export interface ConvOptions {
  /** Whether silu of the sums is taken. */
  silu?: boolean
  /** Then so many neighbouring channels together, a divisor of D such as a head's width, are divided by the root of the sum of their squares + eps, as in `l2Norm`. */
  l2Width?: number
  /** Added to that sum of squares; 1e-6 if not given. */
  eps?: number
}

/**
 * y[b,t,d] = sum_j w[d,j] x[b, t-W+1+j, d]: each channel has W taps, the last one on the present (torch's Conv1d with groups = D,
 * padded on the left); and what the options say of that. x: [B,T,D], w: [D,W]. `state` [B,W-1,D] is what came before (zero if absent); the state
 * returned is what a next call needs to go on.
 */
export function causalConv(x: Tensor, w: Tensor, state?: Tensor, options: ConvOptions = {}): { y: Tensor; state: Tensor } {
  checkFloat('causalConv', x)
  checkFloat('causalConv', w, state)
  sameDevice('causalConv', x, w, state)
  checkOptions('causalConv', options, ['silu', 'l2Width', 'eps'])
  const { B, T, D, W } = match('causalConv', { x: ['B', 'T', 'D'], w: ['D', 'W'] }, { x: x.shape, w: w.shape })
  if (W < 1) throw new Error(`causalConv: w has shape ${show(w.shape)}, expected at least one tap`)
  if (state) match('causalConv', { state: [B, W - 1, D] }, { state: state.shape })
  const { silu = false, l2Width: width = 0, eps = 1e-6 } = options
  checkFlag('causalConv: silu', silu)
  checkNumber('causalConv: eps', eps, '0 or more')
  if (options.l2Width !== undefined && !(Number.isInteger(width) && width >= 1 && D % width === 0))
    throw new Error(`causalConv: l2Width must be a divisor of D = ${D}, not ${told(width)}`)
  const sizes: ConvSizes = { B, T, D, W, silu, width, eps }
  const { device } = x
  const { kernels } = device
  const y = like(x)
  const next = empty([B, W - 1, D], device)
  const inputs = state ? [x, w, state] : [x, w]
  const stats = width > 0 ? empty([(B * T * D) / width, 2], device) : null
  const sums = silu && records(inputs) ? like(x) : null
  const at = (t: Tensor | null | undefined): unknown => t?.storage ?? null
  kernels.conv(x.storage, w.storage, at(state), { y: y.storage, next: next.storage, sums: at(sums), stats: at(stats) }, sizes)
  recordMany('causalConv', inputs, [y, next], ([dy, dnext], _, fresh) => {
    const dx = like(x)
    const dw = fresh(1)
    const dstate = state ? like(state) : null
    const cotangent = dy ?? zeros(y.shape, device)
    const saved = { y: y.storage, sums: at(sums), stats: at(stats) }
    const gradients = { dx: dx.storage, dw: dw.storage, dstate: at(dstate) }
    kernels.convBackward(x.storage, w.storage, at(state), saved, cotangent.storage, gradients, sizes)
    if (dnext) addLast(dnext, dx, dstate)
    return state ? [dx, dw, dstate] : [dx, dw]
  })
  if (!y.node) stats?.dispose()
  return { y, state: next }
}

/** Adds what comes back to the last W-1 of the rows of a state and x, dnext [B,W-1,D], to the gradients of these. */
function addLast(dnext: Tensor, dx: Tensor, dstate: Tensor | null): void {
  const [B, T, D] = dx.shape
  const before = dnext.shape[1]
  const all = concat([zeros([B, T, D], dx.device), dnext], 1)
  const { kernels } = dx.device
  kernels.accumulate(slice(all, 1, before, before + T).storage, dx.storage, dx.size)
  if (dstate) kernels.accumulate(slice(all, 1, 0, before).storage, dstate.storage, dstate.size)
}

/**
 * Deterministic parameter-free projection, Schlag 2021 eq. 37: r = relu([x, -x]), phi(x) = concat_{i=1..nu} r * roll(r, i).
 * [..., D] -> [..., 2 D nu], non-negative. Not normalised: see sumNorm. nu beyond D - 1 repeats inner products.
 */
export function dpfp(x: Tensor, nu = 1): Tensor {
  checkFloat('dpfp', x)
  const D = x.shape.at(-1) ?? 0
  if (!isNu(nu, D)) throw new Error(`dpfp: nu must be an integer from 1 to 2 D - 1 = ${2 * D - 1}, not ${nu}`)
  const [R, y] = [x.size / D, featuresOf(x, D, nu)]
  const { kernels } = x.device
  const run = (): void => kernels.dpfp(x.storage, y.storage, R, D, nu)
  run()
  const backward = (dy: Tensor): Tensor[] => {
    const dx = like(x)
    kernels.dpfpBackward(x.storage, dy.storage, dx.storage, R, D, nu)
    return [dx]
  }
  return record('dpfp', [x], y, backward, run)
}

/** sumNorm(dpfp(x, nu), eps), in one pass each way: features over (their sum + eps), as Schlag 2021 (App. A.2) and labml have them. */
export const dpfpSum = (x: Tensor, nu = 1, eps = 1e-6): Tensor => dpfpSums([x], nu, eps)[0]

/** `dpfpSum` of each, as queries and keys need it; those of one shape share a kernel call. */
export function dpfpSums(xs: readonly Tensor[], nu = 1, eps = 1e-6): Tensor[] {
  for (const x of xs) {
    checkFloat('dpfpSum', x)
    const D = x.shape.at(-1) ?? 0
    if (!isNu(nu, D)) throw new Error(`dpfpSum: nu must be an integer from 1 to 2 D - 1 = ${2 * D - 1}, not ${nu}`)
  }
  checkNumber('dpfpSum: eps', eps, '0 or more')
  sameDevice('dpfpSum', ...xs)
  if (xs.some((x) => !sameShape(x.shape, xs[0].shape))) return xs.map((x) => dpfpSum(x, nu, eps))
  if (xs.length === 0) return []
  const { kernels } = xs[0].device
  const D = xs[0].shape.at(-1)!
  const R = xs[0].size / D
  const all = xs.map((x) => ({ x, y: featuresOf(x, D, nu), stats: empty([R, 2], x.device) }))
  const run = (): void =>
    kernels.dpfpSum(
      all.map(({ x, y, stats }) => ({ x: x.storage, y: y.storage, stats: stats.storage })),
      R,
      D,
      nu,
      eps,
    )
  run()
  const ys = all.map(({ y }) => y)
  recordMany('dpfpSum', xs, ys, (dys) => {
    const dxs = xs.map((x, i) => (dys[i] ? like(x) : null))
    kernels.dpfpSumBackward(
      all.flatMap(({ x, stats }, i) => {
        const [dx, dy] = [dxs[i], dys[i]]
        return dx && dy ? [{ x: x.storage, stats: stats.storage, dy: dy.storage, dx: dx.storage }] : []
      }),
      R,
      D,
      nu,
    )
    return dxs
  })
  const [{ node }] = ys
  if (node) node.again = run
  else for (const { stats } of all) stats.dispose()
  return ys
}

const isNu = (nu: number, D: number): boolean => Number.isInteger(nu) && nu >= 1 && nu < 2 * D
/** Room for the features of x, rows of D. */
const featuresOf = (x: Tensor, D: number, nu: number): Tensor => empty([...x.shape.slice(0, -1), 2 * D * nu], x.device)
