/** Activation checkpointing: time for memory (Chen 2016, "Training deep nets with sublinear memory cost"). */
import { checkOptions, told } from './arguments.ts'
import { recordMany, records } from './autograd.ts'
import { checkGenerator, type Generator } from './random.ts'
import { noGrad, withGrad } from './recording.ts'
import { innermost, reachable, scope } from './scope.ts'
import { releasable, Tensor, walk } from './tensor.ts'

/** Options of `recompute`. */
export interface RecomputeOptions {
  /** What `body` reads beside the inputs and gives gradients to. */
  parameters?: Iterable<Tensor>
  /** What `body` draws random numbers from: the second time it draws the same ones. */
  generator?: Generator
}

/**
 * What `body` makes of the inputs, without keeping anything between them and its result: a backward pass runs `body` a second time. It must do the
 * same then, on inputs and parameters as they were. The result: tensors in arrays, Maps and plain objects. Gradients are the same to the bit as
 * without, but where an input has users that were recorded later: theirs are added to the sum of those in `body`.
 */
export function recompute<R>(inputs: readonly Tensor[], body: (...inputs: Tensor[]) => R, options: RecomputeOptions = {}): R {
  if (!Array.isArray(inputs)) throw new Error(`recompute: the inputs must be an array of tensors, not ${told(inputs)}`)
  if (typeof body !== 'function') throw new Error(`recompute: needs a function of the inputs, not ${told(body)}`)
  checkOptions('recompute', options, ['parameters', 'generator'])
  const { parameters = [], generator } = options
  const all = [...inputs, ...parameters]
  for (const x of all) if (!(x instanceof Tensor)) throw new Error(`recompute: needs tensors, not ${told(x)}`)
  if (generator) checkGenerator('recompute', generator)
  if (!records(all)) return body(...inputs)

  /** Runs `body` in the innermost scope: its result, and the float tensors in that which it has made. */
  const run = (given: readonly Tensor[]): { result: R; made: Tensor[] } => {
    const result = body(...given)
    return {
      result,
      made: [...reachable(result, new Set(innermost()))].filter((t) => t instanceof Tensor && t.dtype === 'float32') as Tensor[],
    }
  }
  const begin = generator?.stream
  const { result, made } = noGrad(() => scope(() => run(inputs)))
  recordMany('recompute', all, made, (grads) => {
    const leaves = inputs.map((x) => {
      const leaf = x.view(x.shape)
      leaf.requiresGrad = x.requiresGrad
      return leaf
    })
    const end = generator?.stream
    try {
      if (generator) generator.stream = begin!
      scope(() => {
        const again = withGrad(() => run(leaves)).made
        if (again.length !== made.length)
          throw new Error(`recompute: the body makes ${again.length} tensors in the backward pass, and ${made.length} in the forward pass`)
        const roots = again.flatMap((y, i) => (grads[i] && y.requiresGrad ? [[y, grads[i]] as const] : []))
        walk(() => roots, releasable())
      })
    } finally {
      if (generator) generator.stream = end!
    }
    return all.map((_, i) => leaves[i]?.grad ?? null)
  })
  return result
}
