/**
 * How an op becomes differentiable: it computes its outputs and calls `record` with what its backward needs. `Tensor.backward` walks what
 * was recorded.
 */
import { told } from './arguments.ts'
import { noGrad, recording } from './recording.ts'
import { type Backward, type Fresh, type Node, nextNode, type Sofar, Tensor } from './tensor.ts'

/** Whether an op on these inputs is going to be recorded, and so has to keep what its backward needs. */
export const records = (inputs: readonly Tensor[]): boolean => recording() && inputs.some((x) => x.requiresGrad)

/** Adds one node to the graph, unless no input needs a gradient. The outputs must be new tensors. */
export function recordMany(op: string, inputs: readonly Tensor[], outputs: readonly Tensor[], backward: Backward): void {
  if (!records(inputs)) return
  const versions = [...inputs, ...outputs].map((x) => x.version)
  // Copies: the arrays may be their callers'.
  const node: Node = { id: nextNode(), op, inputs: [...inputs], outputs: [...outputs], versions, backward }
  outputs.forEach((y, i) => {
    y.requiresGrad = true
    y.node = node
    y.output = i
  })
}

/** `recordMany` for the usual case of one output; returns it. `again`: writes y once more (see `Tensor.evict`). */
export function record(
  op: string,
  inputs: readonly Tensor[],
  y: Tensor,
  backward: (dy: Tensor, sofar: Sofar, fresh: Fresh) => readonly (Tensor | null)[],
  again?: () => void,
): Tensor {
  recordMany(op, inputs, [y], ([dy], sofar, fresh) => backward(dy as Tensor, sofar, fresh))
  if (y.node) y.node.again = again
  return y
}

/**
 * An op of your own: `forward` computes from the inputs (by any means; it isn't recorded), `backward` returns one gradient, or
 * null, for each input.
 */
export function customOp(
  op: string,
  inputs: readonly Tensor[],
  forward: () => Tensor,
  backward: (dy: Tensor, y: Tensor) => readonly (Tensor | null)[],
): Tensor {
  if (!Array.isArray(inputs)) throw new Error(`${op}: the inputs must be an array of tensors, not ${told(inputs)}`)
  for (const x of inputs) if (!(x instanceof Tensor)) throw new Error(`${op}: the inputs must be tensors, not ${told(x)}`)
  const y = noGrad(forward)
  if (!(y instanceof Tensor) || y.dtype !== 'float32' || y.node || y.requiresGrad || inputs.includes(y))
    throw new Error(
      `${op}: forward must return a new float32 tensor, not ${inputs.includes(y) ? 'one of its inputs' : y instanceof Tensor ? y : told(y)}`,
    )
  return record(op, inputs, y, (dy) => backward(dy, y))
}
