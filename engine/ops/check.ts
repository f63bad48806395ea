/** The checks that every op makes before it asks for a kernel. */
import { type Shape, show } from '../shape.ts'
import type { Tensor } from '../tensor.ts'

export function sameDevice(op: string, ...tensors: (Tensor | null | undefined)[]): void {
  const [first, ...others] = tensors.filter((t) => t != null)
  for (const t of others)
    if (t.device !== first.device)
      throw new Error(`${op}: tensors are on different devices (${first.device.description} and ${t.device.description})`)
}

export function checkFloat(op: string, ...tensors: (Tensor | null | undefined)[]): void {
  for (const t of tensors) if (t && t.dtype !== 'float32') throw new Error(`${op}: needs a float32 tensor, not ${t.dtype}`)
}

/** An int32 tensor that means true where it isn't 0. */
export function checkCondition(op: string, condition: Tensor): void {
  if (!condition.indices) throw new Error(`${op}: the condition must be an int32 tensor (tensor(..., { dtype: 'int32' })), not float32`)
}

export function checkIndices(op: string, index: Tensor, below: number, ignore?: number): Int32Array {
  if (!index.indices) throw new Error(`${op}: needs int32 indices (tensor(..., { dtype: 'int32' })), not float32`)
  for (let i = 0; i < index.size; i++) {
    const value = index.indices[i]
    if ((value < 0 || value >= below) && value !== ignore) throw new Error(`${op}: index ${value} at ${i} is outside 0..${below - 1}`)
  }
  return index.indices
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
