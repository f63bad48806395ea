/** Cross-entropy together with the product that gives the logits, in blocks of rows: for vocabularies whose logits would be most of the memory. */
import { checkNumber, checkOptions, told } from '../arguments.ts'
import { record, records } from '../autograd.ts'
import { noGrad } from '../recording.ts'
import { scope } from '../scope.ts'
import { sameShape, show } from '../shape.ts'
import { empty, full, like, type Tensor, varying } from '../tensor.ts'
import { checkFloat, checkIndices, match, sameDevice } from './check.ts'
import { mul } from './elementwise.ts'
import { matmul } from './matmul.ts'
import { concat, reshape, slice } from './movement.ts'
import type { CrossEntropyOptions } from './norm.ts'
import { sum } from './reduce.ts'
import { meanFactor, scaled } from './targets.ts'

/** Logits of a block. */
const blockLogits = 2 ** 22
/** Rows of a block, at most: as many as there are, while their logits are no more than a block's, and 16 in any case. */
const rowsOf = (R: number, N: number): number => Math.min(R, Math.max(16, Math.floor(blockLogits / Math.max(1, N))))

/** Whether the logits of R rows and N classes are more than one block. */
export const manyLogits = (R: number, N: number): boolean => rowsOf(R, N) < R

/** Options of `linearCrossEntropy`. */
export interface LinearCrossEntropyOptions extends CrossEntropyOptions {
  reduction?: 'mean' | 'sum'
  /** Rows of x that are done at a time; by default as many as have 2^22 logits, at least 16. */
  rows?: number
}

/**
 * crossEntropy(x W^T + bias, targets), in nats, without ever holding all logits. x [..., D], weight [N, D], bias [N], targets int32 of the leading
 * shape of x. Where a gradient is wanted it is computed with the loss, block by block (Hsu 2024, Liger Kernel, section 3.2), so that a backward pass only
 * multiplies it. The same sums as of the two ops, but for the gradients of weight and bias, which are added up by blocks.
 */
export function linearCrossEntropy(
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null,
  targets: Tensor,
  options: LinearCrossEntropyOptions = {},
): Tensor {
  const op = 'linearCrossEntropy'
  checkFloat(op, x)
  checkFloat(op, weight, bias)
  checkOptions(op, options, ['ignore', 'reduction', 'rows'])
  const { N, D } = match(op, { weight: ['N', 'D'], bias: ['N'] }, { weight: weight.shape, bias: bias?.shape ?? [weight.shape[0]] })
  if (x.shape.at(-1) !== D) throw new Error(`${op}: x has shape ${show(x.shape)}, the weight ${show(weight.shape)}`)
  sameDevice(op, x, weight, bias, targets)
  const R = D === 0 ? 0 : x.size / D
  const { ignore = -100, reduction = 'mean', rows = rowsOf(R, N) } = options
  checkNumber(`${op}: ignore`, ignore, 'an integer')
  checkNumber(`${op}: rows`, rows, 'a positive integer')
  if (reduction !== 'mean' && reduction !== 'sum') throw new Error(`${op}: the reduction must be mean or sum, not ${told(reduction)}`)
  checkIndices(op, targets, N, ignore)
  if (!sameShape(targets.shape, x.shape.slice(0, -1)))
    throw new Error(`${op}: targets have shape ${show(targets.shape)}, x ${show(x.shape)}`)
  const factor = reduction === 'mean' ? meanFactor(op, targets, ignore) : () => 1
  factor()

  const inputs = [x, weight, ...(bias ? [bias] : [])]
  const wanted = records(inputs)
  const { device } = x
  const { kernels } = device
  const made = (t: Tensor | null): Tensor | null => (wanted && t?.requiresGrad ? like(t) : null)
  const [dx, dweight, dbias] = [made(x), made(weight), made(bias)]

  /** The losses of rows [begin, end); what they give to the gradients is written, or added, there. */
  const block = (flat: Tensor, begin: number, end: number): Tensor => {
    const n = end - begin
    const part = slice(flat, 0, begin, end)
    const target = varying(() => targets.now().subarray(begin, end), { shape: [n], dtype: 'int32', device })
    const logits = matmul(part, weight, { transposeB: true, ...(bias && { bias }) })
    const [losses, lse] = [empty([n], device), empty([n], device)]
    kernels.crossEntropy(logits.storage, target.storage, losses.storage, lse.storage, n, N, ignore)
    if (!(dx || dweight || dbias)) return losses
    const dlogits = like(logits)
    const dlosses = targets.isInput ? scaled(full([n], 1, device), targets, factor) : full([n], factor(), device)
    kernels.crossEntropyBackward(logits.storage, target.storage, lse.storage, dlosses.storage, dlogits.storage, n, N, ignore)
    logits.dispose()
    if (dx) {
      const d = matmul(dlogits, weight)
      kernels.copy(d.storage, dx.storage, [n, D], [D, 1], 0, [D, 1], begin * D)
    }
    if (dweight)
      kernels.matmul(dlogits.storage, part.storage, null, dweight.storage, {
        batch: 1,
        strideA: 0,
        strideB: 0,
        M: N,
        N: D,
        K: n,
        transposeA: true,
        transposeB: false,
        sparse: false,
        accumulate: begin > 0,
        activation: null,
      })
    if (dbias) {
      const d = sum(dlogits, { axis: 0 })
      if (begin > 0) kernels.accumulate(d.storage, dbias.storage, N)
      else kernels.affine(d.storage, dbias.storage, N, 1, 0)
    }
    return losses
  }

  const loss = noGrad(() =>
    scope(() => {
      const flat = reshape(x, [R, D])
      const losses: Tensor[] = []
      for (let begin = 0; begin < R; begin += rows) losses.push(scope(() => block(flat, begin, Math.min(R, begin + rows))))
      return scaled(sum(concat(losses, 0)), targets, factor)
    }),
  )
  return record(op, inputs, loss, (dloss) => {
    const times = (d: Tensor | null): Tensor | null => d && mul(d, dloss)
    return [times(dx), times(dweight), ...(bias ? [times(dbias)] : [])]
  })
}
