/** Row normalisations, softmax and cross-entropy: all act on the last axis. */
import { checkNumber, checkOptions, told } from '../arguments.ts'
import { record } from '../autograd.ts'
import type { NormKind } from '../devices/kernels.ts'
import { sameShape, show } from '../shape.ts'
import { empty, type Fresh, like, type Sofar, type Tensor } from '../tensor.ts'
import { checkFloat, checkIndices, checkInt32, sameDevice } from './check.ts'
import { sum } from './reduce.ts'
import { meanFactor, scaled } from './targets.ts'

/** [R, n] over the last axis. */
function rowsOf(op: string, x: Tensor): [R: number, n: number] {
  checkFloat(op, x)
  const n = x.shape.at(-1)
  if (!n) throw new Error(`${op}: ${show(x.shape)} has no last axis to work on`)
  return [x.size / n, n]
}

function norm(kind: NormKind, op: string, x: Tensor, gain: Tensor | null, bias: Tensor | null, eps: number): Tensor {
  const [R, n] = rowsOf(op, x)
  checkFloat(op, x, gain, bias)
  sameDevice(op, x, gain, bias)
  for (const [name, t] of [
    ['gain', gain],
    ['bias', bias],
  ] as const)
    if (t && !sameShape(t.shape, [n])) throw new Error(`${op}: the ${name} has shape ${show(t.shape)}, expected [${n}]`)
  checkNumber(`${op}: eps`, eps, '0 or more')
  const { kernels } = x.device
  const y = like(x)
  const stats = empty([R, 2], x.device)
  const run = (): void => kernels.norm(kind, x.storage, gain?.storage ?? null, bias?.storage ?? null, y.storage, stats.storage, R, n, eps)
  run()
  const inputs = [x, gain, bias].filter((t) => t !== null)
  const backward = (dy: Tensor, sofar: Sofar, fresh: Fresh): (Tensor | null)[] => {
    const before = x.requiresGrad ? sofar(0) : null
    const dx = before ?? (x.requiresGrad ? like(x) : null)
    const dgain = gain && fresh(1)
    const dbias = bias && fresh(gain ? 2 : 1)
    const gradients = { dx: dx?.storage ?? null, dgain: dgain?.storage, dbias: dbias?.storage }
    kernels.normBackward(kind, x.storage, gain?.storage ?? null, stats.storage, dy.storage, gradients, R, n, before !== null)
    return [dx, ...(gain ? [dgain] : []), ...(bias ? [dbias] : [])]
  }
  record(op, inputs, y, backward, run)
  if (!y.node) stats.dispose()
  return y
}

// Rows may be as large and as small as float32's normal numbers, on every device: their squares needn't fit. With eps = 0, a row whose denominator
// is 0 (all zeros, or all equal for layerNorm) is 0 / 0 = NaN, as in the formula, and so is its gradient.

/** (x - mean) / sqrt(var + eps) * gain + bias (Ba 2016). */
export const layerNorm = (x: Tensor, gain: Tensor | null = null, bias: Tensor | null = null, eps = 1e-5): Tensor =>
  norm('layer', 'layerNorm', x, gain, bias, eps)
/** x / sqrt(mean(x^2) + eps) * gain (Zhang & Sennrich 2019). */
export const rmsNorm = (x: Tensor, gain: Tensor | null = null, eps = 1e-6): Tensor => norm('rms', 'rmsNorm', x, gain, null, eps)
/** x / sqrt(sum(x^2) + eps). */
export const l2Norm = (x: Tensor, eps = 1e-6): Tensor => norm('l2', 'l2Norm', x, null, null, eps)
/** x / (sum(x) + eps): Schlag 2021, App. A.2; labml's eps. */
export const sumNorm = (x: Tensor, eps = 1e-6): Tensor => norm('sum', 'sumNorm', x, null, null, eps)

/** Options of `softmax`. */
export interface SoftmaxOptions {
  /** x is [..., T, n]: query t sees only the first n - T + t + 1 entries, the others get exactly 0. */
  causal?: boolean
}

/** e^x / (sum of e^x) over the last axis. */
export function softmax(x: Tensor, options: SoftmaxOptions = {}): Tensor {
  checkFloat('softmax', x)
  checkOptions('softmax', options, ['causal'])
  const T = options.causal ? (x.shape.at(-2) ?? 0) : 0
  if (options.causal && !(T >= 1 && T <= x.shape.at(-1)!))
    throw new Error(`softmax: causal needs [..., T, n] with T <= n, not ${show(x.shape)}`)
  return softmaxOp('softmax', x, false, T)
}

/** log(softmax(x)), without the overflow. */
export const logSoftmax = (x: Tensor): Tensor => softmaxOp('logSoftmax', x, true, 0)

function softmaxOp(op: string, x: Tensor, log: boolean, causal: number): Tensor {
  const [R, n] = rowsOf(op, x)
  const { kernels } = x.device
  const y = like(x)
  kernels.softmax(x.storage, y.storage, R, n, log, causal)
  return record(op, [x], y, (dy) => {
    const dx = like(x)
    kernels.softmaxBackward(y.storage, dy.storage, dx.storage, R, n, log)
    return [dx]
  })
}

/** Options of `crossEntropy`. */
export interface CrossEntropyOptions {
  /** Targets with this value count for nothing. */
  ignore?: number
  /** `mean` over the targets that count (the default), their `sum`, or one loss for each target (`none`). */
  reduction?: 'mean' | 'sum' | 'none'
}

/** -log softmax(logits)[target], in nats. logits [..., N], targets int32 of the leading shape. */
export function crossEntropy(logits: Tensor, targets: Tensor, options: CrossEntropyOptions = {}): Tensor {
  checkOptions('crossEntropy', options, ['ignore', 'reduction'])
  const { ignore = -100, reduction = 'mean' } = options
  checkNumber('crossEntropy: ignore', ignore, 'an integer')
  if (!['mean', 'sum', 'none'].includes(reduction))
    throw new Error(`crossEntropy: the reduction must be mean, sum or none, not ${told(reduction)}`)
  const [R, N] = rowsOf('crossEntropy', logits)
  checkInt32('crossEntropy', targets)
  sameDevice('crossEntropy', logits, targets)
  if (!sameShape(targets.shape, logits.shape.slice(0, -1)))
    throw new Error(`crossEntropy: targets have shape ${show(targets.shape)}, logits ${show(logits.shape)}`)
  checkIndices('crossEntropy', targets, N, ignore)
  const factor = meanFactor('crossEntropy', targets, ignore)
  if (reduction === 'mean') factor()
  const { kernels } = logits.device
  const losses = empty(targets.shape, logits.device)
  const lse = empty([R], logits.device)
  kernels.crossEntropy(logits.storage, targets.storage, losses.storage, lse.storage, R, N, ignore)
  record('crossEntropy', [logits], losses, (dloss) => {
    const dlogits = like(logits)
    kernels.crossEntropyBackward(logits.storage, targets.storage, lse.storage, dloss.storage, dlogits.storage, R, N, ignore)
    return [dlogits]
  })
  if (!losses.node) lse.dispose()
  if (reduction === 'none') return losses
  const total = sum(losses)
  losses.dispose()
  if (reduction === 'sum') return total
  const mean = scaled(total, targets, factor)
  total.dispose()
  return mean
}
