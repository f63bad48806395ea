/** Shapes changed and elements moved, without arithmetic. All but reshape copy: tensors are dense. */
import { checkList, told } from '../arguments.ts'
import { record, recordMany } from '../autograd.ts'
import { axisOf, checkShape, checkSizes, type Shape, show, sizeOf, stridesOf } from '../shape.ts'
import { empty, like, type Tensor, zeros } from '../tensor.ts'
import { checkFloat, checkIndices, checkInt32, checkTensor, checkWeights, sameDevice } from './check.ts'

/** The same memory under another shape; one size may be -1 and follows from the others. */
export function reshape(x: Tensor, shape: Shape): Tensor {
  checkTensor('reshape', x)
  checkSizes('reshape', shape)
  const known = sizeOf(shape.filter((d) => d !== -1))
  const target = shape.map((d) => (d === -1 ? x.size / known : d))
  if (shape.filter((d) => d === -1).length > 1 || target.some((d) => !Number.isInteger(d)) || sizeOf(target) !== x.size)
    throw new Error(`reshape: ${show(x.shape)} doesn't fit into ${show(shape)}`)
  checkShape('reshape', target)
  return record('reshape', [x], x.view(target), (dy) => [dy.view(x.shape)])
}

/** Axis i of the result is axis order[i] of x. */
export function permute(x: Tensor, order: readonly number[]): Tensor {
  checkFloat('permute', x)
  checkList('permute: the order', order, '[1, 0]')
  if ([...order].sort((a, b) => a - b).some((axis, i) => axis !== i) || order.length !== x.shape.length)
    throw new Error(`permute: [${order.join(',')}] isn't an order of the ${x.shape.length} axes of ${show(x.shape)}`)
  const strides = stridesOf(x.shape)
  const shape = order.map((axis) => x.shape[axis])
  const y = empty(shape, x.device)
  x.device.kernels.copy(
    x.storage,
    y.storage,
    shape,
    order.map((axis) => strides[axis]),
    0,
    stridesOf(shape),
    0,
  )
  const inverse = order.map((_, axis) => order.indexOf(axis))
  return record('permute', [x], y, (dy) => [permute(dy, inverse)])
}

/** Elements [begin, end) along one axis. */
export function slice(x: Tensor, axis: number, begin: number, end: number): Tensor {
  checkFloat('slice', x)
  const a = axisOf('slice', axis, x.shape.length)
  if (!(Number.isInteger(begin) && Number.isInteger(end) && 0 <= begin && begin <= end && end <= x.shape[a]))
    throw new Error(`slice: [${begin}, ${end}) isn't within axis ${axis} of ${show(x.shape)}`)
  const { kernels } = x.device
  const strides = stridesOf(x.shape)
  const shape = x.shape.map((d, i) => (i === a ? end - begin : d))
  const y = empty(shape, x.device)
  kernels.copy(x.storage, y.storage, shape, strides, begin * strides[a], stridesOf(shape), 0)
  return record('slice', [x], y, (dy) => {
    const dx = zeros(x.shape, x.device)
    kernels.copy(dy.storage, dx.storage, shape, stridesOf(shape), 0, strides, begin * strides[a])
    return [dx]
  })
}

/** Cuts an axis into pieces of the given sizes, which must add up to it. Cheaper in the backward than one slice for each piece. */
export function split(x: Tensor, axis: number, sizes: readonly number[]): Tensor[] {
  checkFloat('split', x)
  checkList('split: the sizes', sizes, '[1, 2]')
  const a = axisOf('split', axis, x.shape.length)
  if (sizes.reduce((n, d) => n + d, 0) !== x.shape[a])
    throw new Error(`split: sizes [${sizes.join(',')}] don't add up to axis ${axis} of ${show(x.shape)}`)
  let begin = 0
  const source = detach(x)
  const parts = sizes.map((d) => slice(source, a, begin, (begin += d)))
  source.dispose()
  recordMany('split', [x], parts, (grads) => [
    concat(
      parts.map((p, i) => grads[i] ?? zeros(p.shape, x.device)),
      a,
    ),
  ])
  return parts
}

/** Tensors one after the other along an axis; the other sizes must agree. */
export function concat(parts: readonly Tensor[], axis: number): Tensor {
  if (!Array.isArray(parts as unknown)) throw new Error(`concat: needs an array of tensors, such as [a, b], not ${told(parts)}`)
  if (parts.length === 0) throw new Error('concat: needs at least one tensor')
  for (const p of parts) checkFloat('concat', p)
  const [first] = parts
  const a = axisOf('concat', axis, first.shape.length)
  sameDevice('concat', ...parts)
  for (const p of parts) {
    if (p.shape.length !== first.shape.length || p.shape.some((d, i) => i !== a && d !== first.shape[i]))
      throw new Error(`concat: ${show(p.shape)} and ${show(first.shape)} differ outside axis ${axis}`)
  }
  const shape = first.shape.map((d, i) => (i === a ? parts.reduce((n, p) => n + p.shape[a], 0) : d))
  const y = empty(shape, first.device)
  const strides = stridesOf(shape)
  const begins: number[] = []
  let begin = 0
  for (const p of parts) {
    first.device.kernels.copy(p.storage, y.storage, p.shape, stridesOf(p.shape), 0, strides, begin * strides[a])
    begins.push(begin)
    begin += p.shape[a]
  }
  return record('concat', parts, y, (dy) => parts.map((p, i) => (p.requiresGrad ? slice(dy, a, begins[i], begins[i] + p.shape[a]) : null)))
}

/** Cyclic shift: y[j] = x[j - shift] along the axis (torch.roll). */
export function roll(x: Tensor, axis: number, shift: number): Tensor {
  checkFloat('roll', x)
  const a = axisOf('roll', axis, x.shape.length)
  if (!Number.isInteger(shift)) throw new Error(`roll: the shift must be an integer, not ${shift}`)
  const n = x.shape[a]
  const s = n === 0 ? 0 : ((shift % n) + n) % n
  const { kernels } = x.device
  const strides = stridesOf(x.shape)
  const y = like(x)
  const block = (length: number): number[] => x.shape.map((d, i) => (i === a ? length : d))
  kernels.copy(x.storage, y.storage, block(n - s), strides, 0, strides, s * strides[a])
  if (s > 0) kernels.copy(x.storage, y.storage, block(s), strides, (n - s) * strides[a], strides, 0)
  return record('roll', [x], y, (dy) => [roll(dy, axis, -shift)])
}

/** The same values without their history: no gradient passes. */
export function detach(x: Tensor): Tensor {
  checkTensor('detach', x)
  return x.view(x.shape)
}

/** Rows of a table [N, D], of 16-bit numbers perhaps, by int32 indices of any shape: the embedding. */
export function gather(table: Tensor, index: Tensor): Tensor {
  checkWeights('gather', table)
  checkInt32('gather', index)
  sameDevice('gather', table, index)
  if (table.shape.length !== 2) throw new Error(`gather: the table has shape ${show(table.shape)}, expected [N,D]`)
  const [N, D] = table.shape
  checkIndices('gather', index, N)
  const { kernels } = table.device
  const y = empty([...index.shape, D], table.device)
  kernels.gather(table.storage, index.storage, y.storage, index.size, N, D, table.half)
  return record('gather', [table], y, (dy, _, fresh) => {
    const dtable = fresh(0)
    kernels.gatherBackward(dy.storage, index.storage, dtable.storage, index.size, N, D)
    return [dtable]
  })
}
