/** What the children of `aft` and `nets` share: inputs, and how a forward pass and its backward are repeated. */
import { add, noGrad, ones, scope, tensor } from '../dist/engine/index.js'

/** A tensor that gets gradients, uniform in [-limit, limit), the same in every process. */
export function numbers(shape, seed, limit = 1) {
  let x = seed
  const values = Float32Array.from({ length: shape.reduce((n, d) => n * d, 1) }, () => {
    x = (Math.imul(x, 1664525) + 1013904223) | 0
    return (limit * x) / 2 ** 31
  })
  return tensor(values, { shape, requiresGrad: true })
}

/** Work for `time`: `forward` gives y of that shape, from `leaves`, whose gradients are forgotten. It ends once the device has done all. */
export function repeatable(forward, leaves, shape) {
  const seed = ones(shape)
  const repeated = (work) => async (count) => {
    for (let i = 0; i < count; i++) {
      scope(work)
      for (const x of leaves) {
        x.grad?.dispose()
        x.grad = null
      }
    }
    const y = scope(() => noGrad(() => add(seed, seed)))
    await y.read()
    y.dispose()
  }
  return { forward: repeated(() => void noGrad(forward)), both: repeated(() => forward().backward(seed)) }
}
