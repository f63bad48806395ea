/** Elementwise kernels. Pinned by test/ops/values.test.ts and gradients.test.ts. */
import type { BinaryOp, Kernels, UnaryOp } from '../kernels.ts'
import type { RefStorage } from './storage.ts'
import { offsets } from './strides.ts'

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))
/** log(1 + e^x) without overflow. */
const softplus = (x: number): number => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)))
/** (1 + tanh u) / 2, u = sqrt(2/pi) (x + 0.044715 x^3), without the cancellation where tanh is near -1. */
const geluC = 2 * Math.sqrt(2 / Math.PI)
const geluGate = (x: number): number => sigmoid(geluC * (x + 0.044715 * x ** 3))

/** f(x), and f'(x) given x and y = f(x). */
export const unaryTable: Record<UnaryOp, { f: (x: number) => number; df: (x: number, y: number) => number }> = {
  neg: { f: (x) => -x, df: () => -1 },
  abs: { f: Math.abs, df: (x) => Math.sign(x) },
  exp: { f: Math.exp, df: (_, y) => y },
  log: { f: Math.log, df: (x) => 1 / x },
  sqrt: { f: Math.sqrt, df: (_, y) => 0.5 / y },
  square: { f: (x) => x * x, df: (x) => 2 * x },
  reciprocal: { f: (x) => 1 / x, df: (_, y) => -y * y },
  sin: { f: Math.sin, df: (x) => Math.cos(x) },
  cos: { f: Math.cos, df: (x) => -Math.sin(x) },
  sigmoid: { f: sigmoid, df: (_, y) => y * (1 - y) },
  tanh: { f: Math.tanh, df: (_, y) => 1 - y * y },
  relu: { f: (x) => Math.max(x, 0), df: (_, y) => (y > 0 ? 1 : 0) },
  elu: { f: (x) => (x > 0 ? x : Math.expm1(x)), df: (_, y) => (y > 0 ? 1 : y + 1) },
  silu: { f: (x) => x * sigmoid(x), df: (x) => sigmoid(x) * (1 + x * (1 - sigmoid(x))) },
  gelu: {
    f: (x) => x * geluGate(x),
    df: (x) => geluGate(x) * (1 + x * geluGate(-x) * geluC * (1 + 3 * 0.044715 * x * x)),
  },
  softplus: { f: softplus, df: (x) => sigmoid(x) },
}

const binaryTable: Record<BinaryOp, (a: number, b: number) => number> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  max: Math.max,
  min: Math.min,
  equal: (a, b) => (a === b ? 1 : 0),
  greater: (a, b) => (a > b ? 1 : 0),
}

export const elementwiseKernels: Pick<Kernels<RefStorage>, 'fill' | 'affine' | 'accumulate' | 'unary' | 'unaryBackward' | 'binary'> = {
  fill(y, n, value) {
    y.data.fill(value, 0, n)
  },
  affine(x, y, n, scale, shift) {
    for (let i = 0; i < n; i++) y.data[i] = scale * x.data[i] + shift
  },
  accumulate(x, y, n) {
    for (let i = 0; i < n; i++) y.data[i] += x.data[i]
  },
  unary(op, x, y, n) {
    const { f } = unaryTable[op]
    for (let i = 0; i < n; i++) y.data[i] = f(x.data[i])
  },
  unaryBackward(op, x, y, dy, dx, n) {
    const { df } = unaryTable[op]
    for (let i = 0; i < n; i++) dx.data[i] = dy.data[i] * df(x.data[i], y.data[i])
  },
  binary(op, a, b, y, shape, stridesA, stridesB) {
    const f = binaryTable[op]
    const ia = offsets(shape, stridesA)
    const ib = offsets(shape, stridesB)
    for (let i = 0; i < ia.length; i++) y.data[i] = f(a.data[ia[i]], b.data[ib[i]])
  },
}
