/** Softmax attention as one op: what a query doesn't see never reaches it, not even as 0 times what may be NaN. */
import { record } from '../autograd.ts'
import { noGrad } from '../recording.ts'
import { scope } from '../scope.ts'
import { broadcast, sameShape, show, sizeOf } from '../shape.ts'
import { empty, like, type Tensor } from '../tensor.ts'
import { checkCondition, checkFloat, sameDevice } from './check.ts'
import { where } from './elementwise.ts'
import { matmul } from './matmul.ts'
import { softmax } from './norm.ts'

/**
 * y = softmax(q k^T) v (Vaswani 2017, without the scale: give scaled queries). q: [...,T,K], k: [...,n,K], v: [...,n,V] -> [...,T,V], the leading
 * axes alike. Query t sees the first n - T + t + 1 keys, or with `visible`, int32 that broadcasts to [...,T,n], those where it isn't 0. Keys and values that
 * it doesn't see change nothing, forward and backward, whatever they or its own dy hold; a query that sees none gives 0, and no gradient.
 */
export function softmaxAttention(q: Tensor, k: Tensor, v: Tensor, visible?: Tensor): Tensor {
  const op = 'softmaxAttention'
  for (const x of [q, k, v]) checkFloat(op, x)
  if (visible != null) checkCondition(op, visible)
  sameDevice(op, q, k, v, visible)
  const [lead, T, K, n] = [q.shape.slice(0, -2), q.shape.at(-2)!, q.shape.at(-1), k.shape.at(-2)!]
  if (q.shape.length < 2 || !sameShape(k.shape, [...lead, n, K!]) || !sameShape(v.shape.slice(0, -1), [...lead, n]))
    throw new Error(`${op}: q ${show(q.shape)}, k ${show(k.shape)} and v ${show(v.shape)} aren't [...,T,K], [...,n,K] and [...,n,V]`)
  if (visible) {
    const scores = [...lead, T, n]
    if (!sameShape(broadcast(op, visible.shape, scores), scores))
      throw new Error(`${op}: visible has shape ${show(visible.shape)}, which doesn't broadcast to ${show(scores)}`)
  }
  const weights = noGrad(() =>
    scope(() => {
      const scores = matmul(q, k, { transposeB: true })
      if (!visible) return softmax(scores, { causal: true })
      // Once more afterwards: where the scores are NaN, so are all weights.
      return where(visible, softmax(where(visible, scores, Number.NEGATIVE_INFINITY)), 0)
    }),
  )
  const y = record(op, [q, k, v], weigh(weights, v), (dy) => {
    const dweights = matmul(dy, v, { transposeB: true })
    const dscores = like(weights)
    q.device.kernels.softmaxBackward(weights.storage, dweights.storage, dscores.storage, weights.size / n, n, false)
    return [weigh(dscores, k), weigh(dscores, q, true), weigh(weights, dy, true)]
  })
  if (!y.node) weights.dispose()
  return y
}

/** a b, or a^T b, over all leading axes, where a zero of a takes nothing from b. No gradient. */
export function weigh(a: Tensor, b: Tensor, transposeA = false): Tensor {
  const [rows, columns] = a.shape.slice(-2)
  const [M, K, N] = transposeA ? [columns, rows, b.shape.at(-1)!] : [rows, columns, b.shape.at(-1)!]
  const lead = a.shape.slice(0, -2)
  const y = empty([...lead, M, N], a.device)
  const sizes = { batch: sizeOf(lead), M, N, K, strideA: M * K, strideB: K * N, transposeA, transposeB: false, sparse: true }
  a.device.kernels.matmul(a.storage, b.storage, null, y.storage, { ...sizes, accumulate: false, activation: null })
  return y
}
