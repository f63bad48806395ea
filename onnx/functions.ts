/** Functions of the engine as nodes. */
import type { BinaryOp, NormKind, UnaryOp } from '../engine/devices/kernels.ts'
import { type Graph, int } from './nodes.ts'

const float32 = int(1)

/** How a function of the engine is said. */
export const unaryNodes: Record<UnaryOp, (g: Graph, x: string) => string> = {
  ...(Object.fromEntries(
    Object.entries({
      ...{ neg: 'Neg', abs: 'Abs', exp: 'Exp', log: 'Log', sqrt: 'Sqrt', reciprocal: 'Reciprocal', sin: 'Sin', cos: 'Cos' },
      ...{ sigmoid: 'Sigmoid', tanh: 'Tanh', relu: 'Relu', elu: 'Elu', softplus: 'Softplus' },
    }).map(([name, op]) => [name, (g: Graph, x: string) => g.op(op, [x])]),
  ) as Record<Exclude<UnaryOp, 'square' | 'silu' | 'gelu'>, (g: Graph, x: string) => string>),
  square: (g, x) => g.op('Mul', [x, x]),
  silu: (g, x) => g.op('Mul', [x, g.op('Sigmoid', [x])]),
  gelu(g, x) {
    const cube = g.op('Mul', [g.op('Mul', [g.op('Mul', [x, x]), x]), g.scalar(0.044715)])
    const inner = g.op('Mul', [g.op('Add', [x, cube]), g.scalar(Math.sqrt(2 / Math.PI))])
    return g.op('Mul', [g.op('Mul', [x, g.scalar(0.5)]), g.op('Add', [g.op('Tanh', [inner]), g.scalar(1)])])
  },
}

export const binaryNodes: Record<BinaryOp, (g: Graph, a: string, b: string) => string> = {
  add: (g, a, b) => g.op('Add', [a, b]),
  sub: (g, a, b) => g.op('Sub', [a, b]),
  mul: (g, a, b) => g.op('Mul', [a, b]),
  div: (g, a, b) => g.op('Div', [a, b]),
  max: (g, a, b) => g.op('Max', [a, b]),
  min: (g, a, b) => g.op('Min', [a, b]),
  equal: (g, a, b) => g.op('Cast', [g.op('Equal', [a, b])], { to: float32 }),
  greater: (g, a, b) => g.op('Cast', [g.op('Greater', [a, b])], { to: float32 }),
}

/** The sum over the last axis, which stays with size 1. */
export const lastSum = (g: Graph, x: string): string => g.op('ReduceSum', [x, g.integers([-1])], { keepdims: int(1) })

/** x normalised over its last axis of n. */
export function normNodes(g: Graph, kind: NormKind, x: string, n: number, eps: number): string {
  const over = (y: string): string => g.op('Mul', [lastSum(g, y), g.scalar(1 / n)])
  if (kind === 'sum') return g.op('Div', [x, g.op('Add', [lastSum(g, x), g.scalar(eps)])])
  const centred = kind === 'layer' ? g.op('Sub', [x, over(x)]) : x
  const squares = g.op('Mul', [centred, centred])
  const size = kind === 'l2' ? lastSum(g, squares) : over(squares)
  return g.op('Div', [centred, g.op('Sqrt', [g.op('Add', [size, g.scalar(eps)])])])
}
