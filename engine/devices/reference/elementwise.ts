/** Elementwise kernels. Pinned by test/ops/values.test.ts, range.test.ts and gradients.test.ts. */
import { sizeOf } from '../../shape.ts'
import type { BinaryOp, Kernels, UnaryOp } from '../kernels.ts'
import type { RefStorage } from './storage.ts'
import { offsets } from './strides.ts'

/** 1 / (1 + e^-x). */
export const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))
/** log(1 + e^x) without overflow. */
const softplus = (x: number): number => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)))
/** (1 + tanh u) / 2, u = sqrt(2/pi) (x + 0.044715 x^3), without the cancellation where tanh is near -1. */
const geluC = 2 * Math.sqrt(2 / Math.PI)
const geluGate = (x: number): number => sigmoid(geluC * (x + 0.044715 * x ** 3))
/** x within [-1000, 1000]: beyond, silu, gelu and their derivatives have reached their limits, where infinity times 0 would be NaN. */
const nearby = (x: number): number => Math.max(-1e3, Math.min(1e3, x))
/** x sigmoid(z): the side above 0 isn't limited. */
const gated = (x: number, gate: number): number => (x > 0 ? x : nearby(x)) * gate
/** Of x gate, where `slope` is the derivative of the gate's argument. */
const gatedSlope = (x: number, gate: number, rest: number, slope: number): number => gate * (1 + x * rest * slope)
/** 1 / cosh(x), without overflow. */
const sech = (x: number): number => (2 * Math.exp(-Math.abs(x))) / (1 + Math.exp(-2 * Math.abs(x)))

/** f(x), and f'(x) given x and y = f(x): the formula that keeps its digits far from 0, and its limit at both ends. */
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
  sigmoid: { f: sigmoid, df: (x) => sigmoid(x) * sigmoid(-x) },
  tanh: { f: Math.tanh, df: (x) => sech(x) ** 2 },
  // y is 0 or NaN where it isn't positive.
  relu: { f: (x) => Math.max(x, 0), df: (_, y) => (y > 0 ? 1 : y) },
  elu: { f: (x) => (x > 0 ? x : Math.expm1(x)), df: (x) => (x > 0 ? 1 : Math.exp(x)) },
  silu: { f: (x) => gated(x, sigmoid(x)), df: (x) => gatedSlope(nearby(x), sigmoid(x), sigmoid(-x), 1) },
  gelu: {
    f: (x) => gated(x, geluGate(x)),
    df: (x) => gatedSlope(nearby(x), geluGate(x), geluGate(-x), geluC * (1 + 3 * 0.044715 * nearby(x) ** 2)),
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

type ElementwiseKernels = 'fill' | 'affine' | 'accumulate' | 'unary' | 'unaryBackward' | 'binary' | 'scaleBackward'

export const elementwiseKernels: Pick<Kernels<RefStorage>, ElementwiseKernels> = {
  scaleBackward(x, s, dy, dx, ds, R, P, n) {
    ds?.data.fill(0, 0, P)
    for (let i = 0; i < R * n; i++) {
      const p = Math.floor(i / n) % P
      if (dx) dx.data[i] = s.data[p] * dy.data[i]
      if (ds) ds.data[p] += dy.data[i] * x.data[i]
    }
  },
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
    const ia = offsets(0, shape, stridesA)
    const ib = offsets(1, shape, stridesB)
    const n = sizeOf(shape)
    for (let i = 0; i < n; i++) y.data[i] = f(a.data[ia[i]], b.data[ib[i]])
  },
}
