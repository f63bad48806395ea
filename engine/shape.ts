/** Shapes, strides and broadcasting. Shapes are row-major; strides are counted in elements. */
import { checkList, checkNumber } from './arguments.ts'

/** The sizes of a tensor's axes, the outermost first; [] for a single number. */
export type Shape = readonly number[]

// Loops: every op calls these, small ones often, and callbacks take longer than what they do here.

export function sizeOf(shape: Shape): number {
  let size = 1
  for (let i = 0; i < shape.length; i++) size *= shape[i]
  return size
}

export const show = (shape: Shape): string => `[${shape.join(',')}]`

export function sameShape(a: Shape, b: Shape): boolean {
  if (a.length !== b.length) return false
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false
  return true
}

export function stridesOf(shape: Shape): number[] {
  const strides = new Array<number>(shape.length)
  for (let i = shape.length - 1, s = 1; i >= 0; s *= shape[i--]) strides[i] = s
  return strides
}

/** Throws unless it's a list of numbers. */
export const checkSizes = (op: string, shape: unknown): void => checkList(`${op}: the shape`, shape, '[2, 3]')

/** Throws unless it's a list of non-negative integers whose product stays exact. */
export function checkShape(op: string, shape: Shape): void {
  checkSizes(op, shape)
  for (const d of shape)
    if (!Number.isInteger(d) || d < 0) throw new Error(`${op}: shape ${show(shape)} has a size that isn't a non-negative integer`)
  if (!Number.isSafeInteger(sizeOf(shape))) throw new Error(`${op}: shape ${show(shape)} is too large`)
}

/** NumPy's rule: sizes are matched from the right, 1 stretches. */
export function broadcast(op: string, a: Shape, b: Shape): number[] {
  const rank = Math.max(a.length, b.length)
  const shape: number[] = []
  for (let i = 0; i < rank; i++) {
    const da = i < rank - a.length ? 1 : a[i - rank + a.length]
    const db = i < rank - b.length ? 1 : b[i - rank + b.length]
    if (da !== db && da !== 1 && db !== 1)
      throw new Error(`${op}: shapes ${show(a)} and ${show(b)} don't broadcast (sizes ${da} and ${db} differ and neither is 1)`)
    shape.push(da === 1 ? db : da)
  }
  return shape
}

/** Strides that read `from` as if it had the shape `to`: 0 along stretched axes. */
export function broadcastStrides(from: Shape, to: Shape): number[] {
  const strides = stridesOf(from)
  const lead = to.length - from.length
  return to.map((_, i) => (i < lead || from[i - lead] === 1 ? 0 : strides[i - lead]))
}

/** Turns axis -1 into the last one, and so on; throws when there is no such axis. */
export function axisOf(op: string, axis: number, rank: number): number {
  checkNumber(`${op}: the axis`, axis, 'a number')
  const i = axis < 0 ? axis + rank : axis
  if (!Number.isInteger(i) || i < 0 || i >= rank) throw new Error(`${op}: there's no axis ${axis} in a tensor of rank ${rank}`)
  return i
}

/** [outer, n, inner] around one axis. */
export function around(shape: Shape, axis: number): [outer: number, n: number, inner: number] {
  return [sizeOf(shape.slice(0, axis)), shape[axis], sizeOf(shape.slice(axis + 1))]
}
