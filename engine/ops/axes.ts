/** Reductions that aren't recorded: what `sum` and `max` compute, and what broadcasting needs in its backward. */
import type { ReduceOp } from '../devices/kernels.ts'
import { type Shape, sameShape, sizeOf } from '../shape.ts'
import { empty, type Tensor } from '../tensor.ts'

/** x with the axes reduced to size 1, as a new tensor. */
export function reduceAxes(op: ReduceOp, x: Tensor, axes: readonly number[]): Tensor {
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

/** The backward of broadcasting: sums the axes along which `shape` was stretched. */
export function sumTo(x: Tensor, shape: Shape): Tensor {
  if (sameShape(x.shape, shape)) return x
  const lead = x.shape.length - shape.length
  const axes = x.shape.map((_, i) => i).filter((i) => i < lead || (shape[i - lead] === 1 && x.shape[i] !== 1))
  const y = reduceAxes('sum', x, axes)
  const summed = y.view(shape)
  y.dispose()
  return summed
}
