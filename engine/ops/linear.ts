/** Systems of linear equations. */
import { record } from '../autograd.ts'
import { sizeOf } from '../shape.ts'
import { like, type Tensor, tensor } from '../tensor.ts'
import { checkFloat, match, sameDevice } from './check.ts'
import { add, mul } from './elementwise.ts'
import { matmul } from './matmul.ts'
import { permute, reshape } from './movement.ts'

/**
 * x = A^-1 b for symmetric positive definite matrices A [..., K, K], of which the lower triangle is read, and b, x [..., K], by Cholesky's
 * decomposition. A matrix that isn't positive definite gives NaN.
 */
export function solveSpd(A: Tensor, b: Tensor): Tensor {
  checkFloat('solveSpd', A)
  checkFloat('solveSpd', b)
  sameDevice('solveSpd', A, b)
  const letters = b.shape.slice(0, -1).map((_, i) => `N${i}`)
  match('solveSpd', { b: [...letters, 'K'], A: [...letters, 'K', 'K'] }, { b: b.shape, A: A.shape })
  const K = b.shape.at(-1)!
  const N = sizeOf(letters.map((_, i) => b.shape[i]))
  const solve = (right: Tensor): Tensor => {
    const x = like(right)
    right.device.kernels.solveSpd(A.storage, right.storage, x.storage, N, K)
    return x
  }
  const x = solve(b)
  return record('solveSpd', [A, b], x, (dx) => {
    const db = solve(dx)
    if (!A.requiresGrad) return [null, db]
    // Of what is read, the lower triangle: an entry beside the diagonal stands for two of A.
    const outer = matmul(reshape(db, [N, K, 1]), reshape(x, [N, 1, K]))
    const weights = Float32Array.from({ length: K * K }, (_, i) => {
      const below = Math.floor(i / K) - (i % K)
      return below > 0 ? -1 : below === 0 ? -0.5 : 0
    })
    const dA = mul(add(outer, permute(outer, [0, 2, 1])), tensor(weights, { shape: [K, K], device: A.device }))
    return [reshape(dA, A.shape), db]
  })
}
