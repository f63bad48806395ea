/** Sums, means, maxima and running sums along axes. */
import { checkFlag, checkOptions } from '../arguments.ts'
import { record } from '../autograd.ts'
import type { ReduceOp } from '../devices/kernels.ts'
import { around, axisOf, type Shape, sameShape, sizeOf } from '../shape.ts'
import { empty, like, type Tensor } from '../tensor.ts'
import { checkFloat } from './check.ts'
import { affine, div, equal, expand, mul } from './elementwise.ts'
import { reshape } from './movement.ts'

export interface ReduceOptions {
  /** One axis or several; all of them by default. Negative axes count from the end. */
  axis?: number | readonly number[]
  /** Leave the reduced axes in place with size 1. */
  keepDim?: boolean
}

function reduceAxes(op: ReduceOp, x: Tensor, axes: readonly number[]): Tensor {
  // A run of neighbouring axes is one axis to the kernel; each run takes one pass.
  const shape = [...x.shape]
  let y = x
  for (let last = x.shape.length - 1; last >= 0; last--) {
    if (!axes.includes(last) || shape[last] === 1) continue
    let first = last
    while (first > 0 && axes.includes(first - 1)) first--
    const sizes = [sizeOf(shape.slice(0, first)), sizeOf(shape.slice(first, last + 1)), sizeOf(shape.slice(last + 1))] as const
    shape.fill(1, first, last + 1)
    const next = empty([...shape], x.device)
    x.device.kernels.reduce(op, y.storage, next.storage, ...sizes)
    if (y !== x) y.dispose()
    y = next
    last = first
  }
  return y === x ? x.view(shape) : y
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

export function sum(x: Tensor, options: ReduceOptions = {}): Tensor {
  const { axes, kept, shape } = plan('sum', x, options)
  const total = reduceAxes('sum', x, axes)
  const y = total.view(shape)
  total.dispose()
  return record('sum', [x], y, (dy) => [expand(dy.view(kept), x.shape)])
}

export function mean(x: Tensor, options: ReduceOptions = {}): Tensor {
  const total = sum(x, options)
  const y = affine(total, total.size / x.size)
  total.dispose()
  return y
}

/** The largest element; entries that tie share the gradient. Reducing an empty axis is an error. */
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

/** The backward of broadcasting: sums the axes along which `shape` was stretched. */
export function sumTo(x: Tensor, shape: Shape): Tensor {
  if (sameShape(x.shape, shape)) return x
  const lead = x.shape.length - shape.length
  const axes = x.shape.map((_, i) => i).filter((i) => i < lead || (shape[i - lead] === 1 && x.shape[i] !== 1))
  return reshape(sum(x, { axis: axes }), shape)
}
