/** The checks that every op makes before it asks for a kernel. */
import { told } from '../arguments.ts'
import { type UnaryOp, unaryOps } from '../devices/kernels.ts'
import { type Shape, show } from '../shape.ts'
import { Tensor } from '../tensor.ts'

export function sameDevice(op: string, ...tensors: (Tensor | null | undefined)[]): void {
  const [first, ...others] = tensors.filter((t) => t != null)
  for (const t of others)
    if (t.device !== first.device)
      throw new Error(`${op}: tensors are on different devices (${first.device.description} and ${t.device.description})`)
}

const kindOf = (x: unknown): string => (x instanceof Tensor ? x.dtype : told(x))

export function checkUnary(what: string, op: unknown): void {
  if (!unaryOps.includes(op as UnaryOp)) throw new Error(`${what}: there's no function ${told(op)} (${unaryOps.join(', ')})`)
}

export function checkTensor(op: string, x: unknown): asserts x is Tensor {
  if (!(x instanceof Tensor)) throw new Error(`${op}: needs a tensor, not ${told(x)}`)
}

/** All but the first may be absent. */
export function checkFloat(op: string, ...tensors: (Tensor | null | undefined)[]): void {
  for (const t of tensors.filter((t, i) => i === 0 || t != null))
    if (!(t instanceof Tensor && t.dtype === 'float32')) throw new Error(`${op}: needs a float32 tensor, not ${kindOf(t)}`)
}

/** What may hold 16-bit numbers. */
export function checkWeights(op: string, x: Tensor): void {
  if (!(x instanceof Tensor && x.half !== undefined)) checkFloat(op, x)
}

/** An int32 tensor that means true where it isn't 0. */
export function checkCondition(op: string, condition: Tensor): void {
  if (!(condition instanceof Tensor && condition.dtype === 'int32'))
    throw new Error(`${op}: the condition must be an int32 tensor (tensor(..., { dtype: 'int32' })), not ${kindOf(condition)}`)
}

export function checkInt32(op: string, index: Tensor): void {
  if (!(index instanceof Tensor && index.dtype === 'int32'))
    throw new Error(`${op}: needs int32 indices (tensor(..., { dtype: 'int32' })), not ${kindOf(index)}`)
}

/** Throws unless the values of `index` are below `below`, or `ignore` where that is given. */
export function checkIndices(op: string, index: Tensor, below: number, ignore?: number): void {
  checkInt32(op, index)
  const indices = index.limitInput(below, ignore) ?? index.indices!
  for (let i = 0; i < index.size; i++) {
    const value = indices[i]
    if ((value >= 0 && value < below) || value === ignore) continue
    const hint = ignore === undefined ? '' : ` (if it marks what doesn't count, say { ignore: ${value} })`
    throw new Error(`${op}: index ${value} at ${i} is outside 0..${below - 1}${hint}`)
  }
}

/** Compares a shape with a pattern such as ['B','T',8]; letters stand for sizes, and equal letters for equal sizes. Returns the sizes by letter. */
export function match(
  op: string,
  expected: Record<string, readonly (string | number)[]>,
  actual: Record<string, Shape>,
): Record<string, number> {
  const sizes: Record<string, number> = {}
  for (const [name, pattern] of Object.entries(expected)) {
    const shape = actual[name]
    const fail = (): never => {
      const known = pattern.map((p) => (typeof p === 'string' && p in sizes ? `${p}=${sizes[p]}` : p))
      throw new Error(`${op}: ${name} has shape ${show(shape)}, expected [${known.join(',')}]`)
    }
    if (shape.length !== pattern.length) fail()
    pattern.forEach((p, i) => {
      if (typeof p === 'string' && !(p in sizes)) sizes[p] = shape[i]
      else if (shape[i] !== (typeof p === 'string' ? sizes[p] : p)) fail()
    })
  }
  return sizes
}
