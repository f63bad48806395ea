/** Elementwise functions of one tensor, of two with broadcasting, and of a tensor and constants. */

import { checkNumber } from '../arguments.ts'
import { record } from '../autograd.ts'
import type { BinaryOp, UnaryOp } from '../devices/kernels.ts'
import { broadcast, broadcastStrides, checkShape, type Shape, sameShape } from '../shape.ts'
import { empty, full, like, type Tensor } from '../tensor.ts'
import { sumTo } from './axes.ts'
import { checkCondition, checkFloat, checkUnary, sameDevice } from './check.ts'

/** A function of one number, element by element, by its name. */
export function unary(op: UnaryOp, x: Tensor): Tensor {
  checkUnary('unary', op)
  checkFloat(op, x)
  const { kernels } = x.device
  const y = like(x)
  kernels.unary(op, x.storage, y.storage, x.size)
  return record(op, [x], y, (dy) => {
    const dx = like(x)
    kernels.unaryBackward(op, x.storage, y.storage, dy.storage, dx.storage, x.size)
    return [dx]
  })
}

/** -x. */
export const neg = (x: Tensor): Tensor => unary('neg', x)
/** |x|; its gradient at 0 is 0. */
export const abs = (x: Tensor): Tensor => unary('abs', x)
/** e^x. */
export const exp = (x: Tensor): Tensor => unary('exp', x)
/** The natural logarithm. */
export const log = (x: Tensor): Tensor => unary('log', x)
/** The square root. */
export const sqrt = (x: Tensor): Tensor => unary('sqrt', x)
/** x x. */
export const square = (x: Tensor): Tensor => unary('square', x)
/** 1 / x. */
export const reciprocal = (x: Tensor): Tensor => unary('reciprocal', x)
/** Of radians. */
export const sin = (x: Tensor): Tensor => unary('sin', x)
/** Of radians. */
export const cos = (x: Tensor): Tensor => unary('cos', x)
/** 1 / (1 + e^-x). */
export const sigmoid = (x: Tensor): Tensor => unary('sigmoid', x)
/** The hyperbolic tangent. */
export const tanh = (x: Tensor): Tensor => unary('tanh', x)
/** max(x, 0); its gradient at 0 is 0, at NaN NaN. */
export const relu = (x: Tensor): Tensor => unary('relu', x)
/** x for x > 0, e^x - 1 below. */
export const elu = (x: Tensor): Tensor => unary('elu', x)
/** x sigmoid(x). */
export const silu = (x: Tensor): Tensor => unary('silu', x)
/** The tanh approximation (Hendrycks & Gimpel 2016). */
export const gelu = (x: Tensor): Tensor => unary('gelu', x)
/** log(1 + e^x). */
export const softplus = (x: Tensor): Tensor => unary('softplus', x)

/** scale x + shift, with constants. */
export function affine(x: Tensor, scale: number, shift = 0): Tensor {
  checkFloat('affine', x)
  checkNumber('affine: the scale', scale, 'a number')
  checkNumber('affine: the shift', shift, 'a number')
  const { kernels } = x.device
  const y = like(x)
  kernels.affine(x.storage, y.storage, x.size, scale, shift)
  return record('affine', [x], y, (dy) => [affine(dy, scale)])
}

type Operand = Tensor | number

function apply(op: BinaryOp, a: Tensor, b: Tensor): Tensor {
  checkFloat(op, a)
  checkFloat(op, b)
  sameDevice(op, a, b)
  const shape = sameShape(a.shape, b.shape) ? a.shape : broadcast(op, a.shape, b.shape)
  const y = empty(shape, a.device)
  a.device.kernels.binary(op, a.storage, b.storage, y.storage, shape, broadcastStrides(a.shape, shape), broadcastStrides(b.shape, shape))
  return y
}

type Partials = (dy: Tensor, a: Tensor, b: Tensor, y: Tensor) => [da: () => Tensor, db: () => Tensor]

/** To the one that y is equal to; a tie shares the gradient. Where y is NaN it's equal to neither, and 0/0 makes both gradients NaN. */
const chosen: Partials = (dy, a, b, y) => {
  const [isA, isB] = [apply('equal', y, a), apply('equal', y, b)]
  const each = apply('div', dy, apply('add', isA, isB))
  return [() => apply('mul', each, isA), () => apply('mul', each, isB)]
}

/** d/da and d/db of each op, before they are summed over the axes that were stretched. */
const partials: Record<BinaryOp, Partials | null> = {
  add: (dy) => [() => dy, () => dy],
  sub: (dy) => [() => dy, () => affine(dy, -1)],
  mul: (dy, a, b) => [() => apply('mul', dy, b), () => apply('mul', dy, a)],
  div: (dy, _, b, y) => [() => apply('div', dy, b), () => apply('div', affine(apply('mul', dy, y), -1), b)],
  max: chosen,
  min: chosen,
  equal: null,
  greater: null,
}

/** x [R,n] and a number s for each of its rows, or for each of the last few axes before n; null where that's not what they are. */
function rowFactors(x: Tensor, s: Tensor): { x: Tensor; s: Tensor } | null {
  const lead = x.shape.slice(0, -1)
  const own = s.shape.slice(0, -1)
  const first = own.findIndex((d) => d !== 1)
  const kept = first < 0 ? [] : own.slice(first)
  const fits = s.shape.at(-1) === 1 && own.length <= lead.length && sameShape(lead.slice(lead.length - kept.length), kept)
  return fits && x.size > 0 && x.shape.at(-1)! > 1 ? { x, s } : null
}

function binary(op: BinaryOp, a: Tensor, operand: Operand): Tensor {
  checkFloat(op, a)
  const b = typeof operand === 'number' ? full([], operand, a.device) : operand
  const y = apply(op, a, b)
  const partial = partials[op]
  const rows = op === 'mul' ? (rowFactors(a, b) ?? rowFactors(b, a)) : null
  if (rows) {
    const { x, s } = rows
    const [P, n] = [s.size, x.shape.at(-1)!]
    record(op, [a, b], y, (dy) => {
      const [dx, ds] = [x, s].map((t) => (t.requiresGrad ? like(t) : null))
      x.device.kernels.scaleBackward(x.storage, s.storage, dy.storage, dx?.storage ?? null, ds?.storage ?? null, x.size / n, P, n)
      return x === a ? [dx, ds] : [ds, dx]
    })
  } else if (partial)
    record(op, [a, b], y, (dy) => {
      const [da, db] = partial(dy, a, b, y)
      return [a.requiresGrad ? sumTo(da(), a.shape) : null, b.requiresGrad ? sumTo(db(), b.shape) : null]
    })
  if (b !== operand && !y.node) b.dispose()
  return y
}

/** a + b, element by element; axes of size 1 are stretched, as in all element-wise functions. */
export const add = (a: Tensor, b: Operand): Tensor => (typeof b === 'number' ? affine(a, 1, b) : binary('add', a, b))
/** a - b. */
export const sub = (a: Tensor, b: Operand): Tensor => (typeof b === 'number' ? affine(a, 1, -b) : binary('sub', a, b))
/** a b, element by element. (`matmul` multiplies matrices.) */
export const mul = (a: Tensor, b: Operand): Tensor => (typeof b === 'number' ? affine(a, b) : binary('mul', a, b))
/** a / b. */
export const div = (a: Tensor, b: Operand): Tensor => binary('div', a, b)
/** The larger of the two, element by element; a tie shares the gradient, and a NaN makes value and gradients NaN. (`max` reduces an axis.) */
export const maximum = (a: Tensor, b: Operand): Tensor => binary('max', a, b)
/** The smaller of the two, as `maximum`. */
export const minimum = (a: Tensor, b: Operand): Tensor => binary('min', a, b)
/** 1 where a = b, else 0. No gradient. */
export const equal = (a: Tensor, b: Operand): Tensor => binary('equal', a, b)
/** 1 where a > b, else 0. No gradient. */
export const greater = (a: Tensor, b: Operand): Tensor => binary('greater', a, b)

/**
 * a where the int32 `condition` isn't 0, b elsewhere; all three broadcast. The element that isn't chosen is never looked at, and its gradient is
 * exactly 0, whatever dy and the values hold.
 */
export function where(condition: Tensor, a: Operand, b: Operand): Tensor {
  checkCondition('where', condition)
  const given = [a, b].filter((x) => typeof x !== 'number')
  for (const x of given) checkFloat('where', x)
  sameDevice('where', condition, ...given)
  const shape = given.reduce<Shape>((shape, x) => broadcast('where', shape, x.shape), condition.shape)
  const y = choose(condition, a, b, shape)
  return record('where', given, y, (dy) =>
    given.map((x, i) => {
      if (!x.requiresGrad) return null
      const first = i === 0 && typeof a !== 'number'
      return sumTo(first ? choose(condition, dy, 0, shape) : choose(condition, 0, dy, shape), x.shape)
    }),
  )
}

function choose(condition: Tensor, a: Operand, b: Operand, shape: Shape): Tensor {
  const { device } = condition
  const y = typeof b === 'number' ? full(shape, b, device) : stretched(b, shape)
  const chosen = typeof a === 'number' ? full([], a, device) : a
  const [stridesC, stridesA] = [broadcastStrides(condition.shape, shape), broadcastStrides(chosen.shape, shape)]
  device.kernels.copyWhere(condition.storage, chosen.storage, y.storage, shape, stridesC, stridesA)
  if (chosen !== a) chosen.dispose()
  return y
}

/** A copy of x, repeated until it has `shape`. */
function stretched(x: Tensor, shape: Shape): Tensor {
  const y = empty([...shape], x.device)
  x.device.kernels.copy(x.storage, y.storage, shape, broadcastStrides(x.shape, shape), 0, broadcastStrides(shape, shape), 0)
  return y
}

/** x repeated along its axes of size 1 (and new leading ones) until it has `shape`. */
export function expand(x: Tensor, shape: Shape): Tensor {
  checkFloat('expand', x)
  checkShape('expand', shape)
  if (!sameShape(broadcast('expand', x.shape, shape), shape)) throw new Error(`expand: ${x} can't be stretched to [${shape.join(',')}]`)
  return record('expand', [x], stretched(x, shape), (dy) => [sumTo(dy, x.shape)])
}
