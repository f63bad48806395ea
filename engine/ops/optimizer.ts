/** What optimisers do to parameters, in place: one fused kernel a parameter, and no read-back. */
import { noGrad } from '../autograd.ts'
import type { AdamOptions } from '../devices/kernels.ts'
import { scope } from '../scope.ts'
import { empty, type Tensor } from '../tensor.ts'
import { affine, minimum, reciprocal, sqrt } from './elementwise.ts'
import { sum } from './reduce.ts'

/** Euclidean norm of all gradients together, as a tensor of one element. */
export function gradNorm(grads: readonly Tensor[]): Tensor {
  if (grads.length === 0) throw new Error('gradNorm: there are no gradients (call backward first)')
  return noGrad(() =>
    scope(() => {
      const squares = empty([grads.length], grads[0].device)
      for (const [slot, g] of grads.entries()) g.device.kernels.sumSquares(g.storage, g.size, squares.storage, slot)
      return sqrt(sum(squares))
    }),
  )
}

/** min(1, limit / (norm + 1e-6)): the factor that clips gradients to a norm (torch's clip_grad_norm_). */
export function clipScale(norm: Tensor, limit: number): Tensor {
  if (!(limit > 0)) throw new Error(`clipScale: the limit must be positive, not ${limit}`)
  return noGrad(() => scope(() => minimum(affine(reciprocal(affine(norm, 1, 1e-6)), limit), 1)))
}

/** One Adam or AdamW step on p with its moments m and v; the gradient is first multiplied by `gradScale` where given. */
export function adamStep(p: Tensor, g: Tensor, m: Tensor, v: Tensor, options: AdamOptions, gradScale?: Tensor): void {
  p.device.kernels.adam(p.storage, g.storage, m.storage, v.storage, p.size, gradScale?.storage ?? null, options)
}
