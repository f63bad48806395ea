/** Sums, means, maxima and running sums along axes. */
import { checkFlag, checkOptions } from '../arguments.ts'
import { record } from '../autograd.ts'
import { around, axisOf } from '../shape.ts'
import { like, type Tensor } from '../tensor.ts'
import { reduceAxes } from './axes.ts'
import { checkFloat } from './check.ts'
import { affine, div, equal, expand, mul } from './elementwise.ts'

/** Options of `sum`, `mean` and `max`. */
export interface ReduceOptions {
  /** One axis or several; all of them by default. Negative axes count from the end. */
  axis?: number | readonly number[]
  /** Leave the reduced axes in place with size 1. */
  keepDim?: boolean
}

function plan(op: string, x: Tensor, options: ReduceOptions): { axes: number[]; kept: number[]; shape: number[] } {
  checkFloat(op, x)
  checkOptions(op, options, ['axis', 'keepDim'])
  const rank = x.shape.length
  const given = options.axis === undefined ? x.shape.map((_, i) => i) : [options.axis].flat()
  const axes = given.map((axis) => axisOf(op, axis, rank))
  const kept = x.shape.map((d, i) => (axes.includes(i) ? 1 : d))
  return { axes, kept, shape: options.keepDim ? kept : x.shape.filter((_, i) => !axes.includes(i)) }
}

/** The sum over one axis, several, or all. */
export function sum(x: Tensor, options: ReduceOptions = {}): Tensor {
  const { axes, kept, shape } = plan('sum', x, options)
  const total = reduceAxes('sum', x, axes)
  const y = total.view(shape)
  total.dispose()
  return record('sum', [x], y, (dy) => [expand(dy.view(kept), x.shape)])
}

/** The mean over one axis, several, or all. */
export function mean(x: Tensor, options: ReduceOptions = {}): Tensor {
  const total = sum(x, options)
  const y = affine(total, total.size / x.size)
  total.dispose()
  return y
}

/** The largest element; entries that tie share the gradient. NaN, with a gradient of NaN, if one is NaN. Reducing an empty axis is an error. */
export function max(x: Tensor, options: ReduceOptions = {}): Tensor {
  const { axes, kept, shape } = plan('max', x, options)
  if (axes.some((i) => x.shape[i] === 0)) throw new Error(`max: ${x} has nothing along the axis`)
  const top = reduceAxes('max', x, axes)
  const y = record('max', [x], top.view(shape), (dy) => {
    const tied = equal(x, top)
    return [mul(tied, div(dy.view(kept), sum(tied, { axis: axes, keepDim: true })))]
  })
  if (!y.node) top.dispose()
  return y
}

/** Running sum along an axis: y_t = x_1 + ... + x_t; from the end with `reverse`. */
export function cumsum(x: Tensor, axis: number, reverse = false): Tensor {
  checkFloat('cumsum', x)
  checkFlag('cumsum: reverse', reverse)
  const sizes = around(x.shape, axisOf('cumsum', axis, x.shape.length))
  const y = like(x)
  x.device.kernels.cumsum(x.storage, y.storage, ...sizes, reverse)
  return record('cumsum', [x], y, (dy) => [cumsum(dy, axis, !reverse)])
}
