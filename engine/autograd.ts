/**
 * Reverse-mode automatic differentiation. An op computes its outputs and calls `record` with what its backward needs;
 * `backward` walks the recorded nodes once, newest first. Backward passes are themselves not recorded: first derivatives only.
 */
import { span } from './profile.ts'
import { checkSynchronous, enrollBeside, keep, scope } from './scope.ts'
import { sameShape, show } from './shape.ts'
import { FreedError, full, Tensor } from './tensor.ts'

/** Given d(loss)/d(output) for each output (null where nothing depends on it), returns d(loss)/d(input) for each input (null: none). */
export type Backward = (grads: readonly (Tensor | null)[]) => readonly (Tensor | null)[]

export interface Node {
  /** Grows with every node: a node's inputs were made before it. */
  id: number
  op: string
  inputs: readonly Tensor[]
  outputs: readonly Tensor[]
  /** The versions of the inputs, then of the outputs, when the op ran. */
  versions: readonly (number | null)[]
  backward: Backward
}

let nodes = 0
let recording = true

/** Runs `body` without recording: for inference, initialisers and optimisers. */
export function noGrad<R>(body: () => R): R {
  const before = recording
  recording = false
  try {
    const result = body()
    checkSynchronous('noGrad', result)
    return result
  } finally {
    recording = before
  }
}

/** Whether an op on these inputs is going to be recorded, and so has to keep what its backward needs. */
export const records = (inputs: readonly Tensor[]): boolean => recording && inputs.some((x) => x.requiresGrad)

/** Adds one node to the graph, unless no input needs a gradient. The outputs must be new tensors. */
export function recordMany(op: string, inputs: readonly Tensor[], outputs: readonly Tensor[], backward: Backward): void {
  if (!records(inputs)) return
  const versions = [...inputs, ...outputs].map((x) => x.version)
  const node: Node = { id: nodes++, op, inputs, outputs, versions, backward }
  outputs.forEach((y, i) => {
    y.requiresGrad = true
    y.node = node
    y.output = i
  })
}

/** `recordMany` for the usual case of one output; returns it. */
export function record(op: string, inputs: readonly Tensor[], y: Tensor, backward: (dy: Tensor) => readonly (Tensor | null)[]): Tensor {
  recordMany(op, inputs, [y], ([dy]) => backward(dy as Tensor))
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
  const y = noGrad(forward)
  if (!(y instanceof Tensor) || y.dtype !== 'float32' || y.node || y.requiresGrad || inputs.includes(y))
    throw new Error(`${op}: forward must return a new float32 tensor, not ${inputs.includes(y) ? 'one of its inputs' : y}`)
  return record(op, inputs, y, (dy) => backward(dy, y))
}

/** See Tensor.backward. */
export function backward(root: Tensor, seed?: Tensor): void {
  if (!root.requiresGrad) throw new Error('backward: the tensor depends on no tensor with requiresGrad')
  if (root.disposed) throw new Error('backward: the tensor was freed')
  if (!seed && root.size !== 1)
    throw new Error(`backward: the tensor has shape ${show(root.shape)}, not one element; pass a seed of that shape`)
  if (seed && seed.device !== root.device)
    throw new Error(`backward: the seed is on ${seed.device.description}, the tensor on ${root.device.description}`)
  if (seed && !sameShape(seed.shape, root.shape))
    throw new Error(`backward: the seed has shape ${show(seed.shape)}, the tensor ${show(root.shape)}`)

  // Gradients that wait for their node, by output. Each is a view of its own, so that a gradient which an op hands on
  // unchanged to two inputs is shared in memory and still freed once.
  const waiting = new Map<Node, (Tensor | null)[]>()
  const leaves = new Set<Tensor>()
  const put = (x: Tensor, gradient: Tensor, op: string): void => {
    if (!x.requiresGrad) return
    if (!sameShape(x.shape, gradient.shape))
      throw new Error(`${op}: backward gave a gradient of shape ${show(gradient.shape)} for an input of shape ${show(x.shape)}`)
    if (gradient.dtype !== 'float32' || gradient.device !== x.device)
      throw new Error(`${op}: backward gave ${gradient} for ${x}, not a float32 gradient on the same device`)
    if (x.node) {
      let slots = waiting.get(x.node)
      if (!slots) waiting.set(x.node, (slots = new Array(x.node.outputs.length).fill(null)))
      slots[x.output] = sum(slots[x.output], gradient)
    } else {
      x.grad = sum(x.grad?.disposed ? null : x.grad, gradient)
      leaves.add(x)
    }
  }

  const walk = (): void => {
    try {
      scope(() => put(root, seed ?? full(root.shape, 1, root.device), 'backward'))
      for (const node of newestFirst(root)) {
        const grads = waiting.get(node)
        if (!grads) continue
        scope(() => {
          const gradients = gradientsOf(node, grads)
          if (gradients.length !== node.inputs.length)
            throw new Error(
              `${node.op}: backward gave ${gradients.length} gradients for ${node.inputs.length} inputs (null where there is none)`,
            )
          for (const [i, gradient] of gradients.entries()) if (gradient) put(node.inputs[i], gradient, node.op)
        })
        waiting.delete(node)
        for (const g of grads) g?.dispose()
      }
    } finally {
      for (const grads of waiting.values()) for (const g of grads) g?.dispose()
      for (const x of leaves) settle(x)
    }
  }
  span('backward', () => noGrad(walk))
}

/** Calls the node's backward, which must find its tensors as the forward left them. */
function gradientsOf(node: Node, grads: readonly (Tensor | null)[]): readonly (Tensor | null)[] {
  const hint = 'a state carried over steps has to be cut off from them: detach(state)'
  for (const [i, x] of [...node.inputs, ...node.outputs].entries())
    if (!x.disposed && x.version !== node.versions[i]) {
      const what = i < node.inputs.length ? 'an input' : 'the result'
      throw new Error(`${node.op}: ${what} ${show(x.shape)} was overwritten between forward and backward (${hint})`)
    }
  try {
    return node.backward(grads)
  } catch (error) {
    if (!(error instanceof FreedError)) throw error
    throw new Error(`${node.op}: backward needs what was freed: ${error.message} (${hint})`, { cause: error })
  }
}

/** Gives a leaf's gradient memory of its own, and the lifetime of the leaf. */
function settle(x: Tensor): void {
  if (!x.grad!.exclusive) scope(() => void (x.grad = own(x.grad!)))
  enrollBeside(x.grad!, x)
}

/** total + gradient, as a kept tensor; in place where nobody else sees the memory. */
function sum(total: Tensor | null, gradient: Tensor): Tensor {
  const result = !total ? gradient.view(gradient.shape) : total.exclusive ? total : own(total)
  if (total) {
    result.device.kernels.accumulate(gradient.storage, result.storage, result.size)
    result.changed()
  }
  return keep(result)
}

/** A copy in place of a view, kept. */
function own(view: Tensor): Tensor {
  const copy = keep(full(view.shape, 0, view.device))
  copy.device.kernels.accumulate(view.storage, copy.storage, copy.size)
  view.dispose()
  return copy
}

/** The nodes that `root` depends on, each after every node that uses it. Iterative: graphs of long recurrences are deep. */
function newestFirst(root: Tensor): Node[] {
  const found = new Set<Node>()
  const stack = [root]
  while (stack.length > 0) {
    const node = stack.pop()?.node
    if (!node || found.has(node)) continue
    found.add(node)
    for (const x of node.inputs) if (x.requiresGrad) stack.push(x)
  }
  return [...found].sort((a, b) => b.id - a.id)
}
