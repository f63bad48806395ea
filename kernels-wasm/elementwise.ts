/**
 * Elementwise kernels: y[i] = f(x[i], ...). A task is an element of y; pieces begin at multiples of 4. Loops take two vectors a turn, and
 * read all that they need before they write, so that V8 can merge them (wide.ts).
 * Pinned by test/ops/wasm.test.ts.
 */
import { sumLanes, vload, vstore } from './lanes'
import { farFrom, hasFar, madd, nearUnary, nearUnaryBackward, vunary, vunaryBackward } from './math'
import { planeOffset } from './planes'

/** y[i] = value. */
export function fill(begin: i32, end: i32, y: usize, value: f32): void {
  const v = f32x4.splat(value)
  let i = begin
  for (; i + 8 <= end; i += 8) {
    v128.store(y + (<usize>i << 2), v, 16)
    v128.store(y + (<usize>i << 2), v)
  }
  if (i + 4 <= end) {
    v128.store(y + (<usize>i << 2), v)
    i += 4
  }
  if (i < end) vstore(y + (<usize>i << 2), v, end - i)
}

@inline function affineStep(x: usize, y: usize, scale: v128, shift: v128, left: i32): void {
  vstore(y, madd(vload(x, left), scale, shift), left)
}

/** y[i] = scale x[i] + shift. */
export function affine(begin: i32, end: i32, x: usize, y: usize, scale: f32, shift: f32): void {
  const a = f32x4.splat(scale)
  const b = f32x4.splat(shift)
  let i = begin
  for (; i + 8 <= end; i += 8) {
    const at = <usize>i << 2
    const low = madd(v128.load(x + at), a, b), high = madd(v128.load(x + at, 16), a, b)
    v128.store(y + at, high, 16)
    v128.store(y + at, low)
  }
  for (; i + 4 <= end; i += 4) affineStep(x + (<usize>i << 2), y + (<usize>i << 2), a, b, 4)
  if (i < end) affineStep(x + (<usize>i << 2), y + (<usize>i << 2), a, b, end - i)
}

@inline function accumulateStep(x: usize, y: usize, left: i32): void {
  vstore(y, f32x4.add(vload(y, left), vload(x, left)), left)
}

/** y[i] += x[i]. */
export function accumulate(begin: i32, end: i32, x: usize, y: usize): void {
  let i = begin
  for (; i + 8 <= end; i += 8) {
    const at = <usize>i << 2
    const low = f32x4.add(v128.load(y + at), v128.load(x + at)), high = f32x4.add(v128.load(y + at, 16), v128.load(x + at, 16))
    v128.store(y + at, high, 16)
    v128.store(y + at, low)
  }
  for (; i + 4 <= end; i += 4) accumulateStep(x + (<usize>i << 2), y + (<usize>i << 2), 4)
  if (i < end) accumulateStep(x + (<usize>i << 2), y + (<usize>i << 2), end - i)
}

/** Elements that are looked through for any far from 0 (math.ts), before they are computed without a branch. */
const BLOCK = 64

/** Whether one of x[i .. end) is far; then `vunary` has to look at each vector. */
@inline function anyFar(op: i32, x: usize, i: i32, end: i32): bool {
  if (!hasFar(op)) return false
  let most = f32x4.splat(0)
  for (; i + 4 <= end; i += 4) most = f32x4.pmax(most, f32x4.abs(v128.load(x + (<usize>i << 2))))
  return v128.any_true(f32x4.gt(most, f32x4.splat(farFrom(op))))
}

@inline function unaryLoop(op: i32, begin: i32, end: i32, x: usize, y: usize): void {
  for (let i = begin; i < end;) {
    const next = min(i + BLOCK, end)
    if (!anyFar(op, x, i, next)) {
      for (; i + 8 <= next; i += 8) {
        const at = <usize>i << 2
        const low = nearUnary(op, v128.load(x + at)), high = nearUnary(op, v128.load(x + at, 16))
        v128.store(y + at, high, 16)
        v128.store(y + at, low)
      }
    }
    for (; i < next; i += 4) vstore(y + (<usize>i << 2), vunary(op, vload(x + (<usize>i << 2), next - i)), next - i)
  }
}

/** y[i] = op(x[i]). A kernel for each op: in one with a switch, the optimiser merges the equal loops again, with the choice inside. */
export function unary_neg(begin: i32, end: i32, x: usize, y: usize): void { unaryLoop(0, begin, end, x, y) }
export function unary_abs(begin: i32, end: i32, x: usize, y: usize): void { unaryLoop(1, begin, end, x, y) }
export function unary_exp(begin: i32, end: i32, x: usize, y: usize): void { unaryLoop(2, begin, end, x, y) }
export function unary_log(begin: i32, end: i32, x: usize, y: usize): void { unaryLoop(3, begin, end, x, y) }
export function unary_sqrt(begin: i32, end: i32, x: usize, y: usize): void { unaryLoop(4, begin, end, x, y) }
export function unary_square(begin: i32, end: i32, x: usize, y: usize): void { unaryLoop(5, begin, end, x, y) }
export function unary_reciprocal(begin: i32, end: i32, x: usize, y: usize): void { unaryLoop(6, begin, end, x, y) }
export function unary_sin(begin: i32, end: i32, x: usize, y: usize): void { unaryLoop(7, begin, end, x, y) }
export function unary_cos(begin: i32, end: i32, x: usize, y: usize): void { unaryLoop(8, begin, end, x, y) }
export function unary_sigmoid(begin: i32, end: i32, x: usize, y: usize): void { unaryLoop(9, begin, end, x, y) }
export function unary_tanh(begin: i32, end: i32, x: usize, y: usize): void { unaryLoop(10, begin, end, x, y) }
export function unary_relu(begin: i32, end: i32, x: usize, y: usize): void { unaryLoop(11, begin, end, x, y) }
export function unary_elu(begin: i32, end: i32, x: usize, y: usize): void { unaryLoop(12, begin, end, x, y) }
export function unary_silu(begin: i32, end: i32, x: usize, y: usize): void { unaryLoop(13, begin, end, x, y) }
export function unary_gelu(begin: i32, end: i32, x: usize, y: usize): void { unaryLoop(14, begin, end, x, y) }
export function unary_softplus(begin: i32, end: i32, x: usize, y: usize): void { unaryLoop(15, begin, end, x, y) }

@inline function unaryBackwardLoop(op: i32, begin: i32, end: i32, x: usize, y: usize, dy: usize, dx: usize): void {
  for (let i = begin; i < end;) {
    const next = min(i + BLOCK, end)
    if (!anyFar(op, x, i, next)) {
      for (; i + 8 <= next; i += 8) {
        const at = <usize>i << 2
        const low = nearUnaryBackward(op, v128.load(x + at), v128.load(y + at), v128.load(dy + at))
        const high = nearUnaryBackward(op, v128.load(x + at, 16), v128.load(y + at, 16), v128.load(dy + at, 16))
        v128.store(dx + at, high, 16)
        v128.store(dx + at, low)
      }
    }
    for (; i < next; i += 4) {
      const at = <usize>i << 2
      const left = next - i
      vstore(dx + at, vunaryBackward(op, vload(x + at, left), vload(y + at, left), vload(dy + at, left)), left)
    }
  }
}

/** dx[i] = dy[i] op'(x[i]), where y = op(x). */
export function unaryBackward_neg(begin: i32, end: i32, x: usize, y: usize, dy: usize, dx: usize): void {
  unaryBackwardLoop(0, begin, end, x, y, dy, dx)
}
export function unaryBackward_abs(begin: i32, end: i32, x: usize, y: usize, dy: usize, dx: usize): void {
  unaryBackwardLoop(1, begin, end, x, y, dy, dx)
}
export function unaryBackward_exp(begin: i32, end: i32, x: usize, y: usize, dy: usize, dx: usize): void {
  unaryBackwardLoop(2, begin, end, x, y, dy, dx)
}
export function unaryBackward_log(begin: i32, end: i32, x: usize, y: usize, dy: usize, dx: usize): void {
  unaryBackwardLoop(3, begin, end, x, y, dy, dx)
}
export function unaryBackward_sqrt(begin: i32, end: i32, x: usize, y: usize, dy: usize, dx: usize): void {
  unaryBackwardLoop(4, begin, end, x, y, dy, dx)
}
export function unaryBackward_square(begin: i32, end: i32, x: usize, y: usize, dy: usize, dx: usize): void {
  unaryBackwardLoop(5, begin, end, x, y, dy, dx)
}
export function unaryBackward_reciprocal(begin: i32, end: i32, x: usize, y: usize, dy: usize, dx: usize): void {
  unaryBackwardLoop(6, begin, end, x, y, dy, dx)
}
export function unaryBackward_sin(begin: i32, end: i32, x: usize, y: usize, dy: usize, dx: usize): void {
  unaryBackwardLoop(7, begin, end, x, y, dy, dx)
}
export function unaryBackward_cos(begin: i32, end: i32, x: usize, y: usize, dy: usize, dx: usize): void {
  unaryBackwardLoop(8, begin, end, x, y, dy, dx)
}
export function unaryBackward_sigmoid(begin: i32, end: i32, x: usize, y: usize, dy: usize, dx: usize): void {
  unaryBackwardLoop(9, begin, end, x, y, dy, dx)
}
export function unaryBackward_tanh(begin: i32, end: i32, x: usize, y: usize, dy: usize, dx: usize): void {
  unaryBackwardLoop(10, begin, end, x, y, dy, dx)
}
export function unaryBackward_relu(begin: i32, end: i32, x: usize, y: usize, dy: usize, dx: usize): void {
  unaryBackwardLoop(11, begin, end, x, y, dy, dx)
}
export function unaryBackward_elu(begin: i32, end: i32, x: usize, y: usize, dy: usize, dx: usize): void {
  unaryBackwardLoop(12, begin, end, x, y, dy, dx)
}
export function unaryBackward_silu(begin: i32, end: i32, x: usize, y: usize, dy: usize, dx: usize): void {
  unaryBackwardLoop(13, begin, end, x, y, dy, dx)
}
export function unaryBackward_gelu(begin: i32, end: i32, x: usize, y: usize, dy: usize, dx: usize): void {
  unaryBackwardLoop(14, begin, end, x, y, dy, dx)
}
export function unaryBackward_softplus(begin: i32, end: i32, x: usize, y: usize, dy: usize, dx: usize): void {
  unaryBackwardLoop(15, begin, end, x, y, dy, dx)
}

/** The table of binary operations, in the order of `binaryOps`. max and min of a NaN are NaN. */
@inline function applyBinary(op: i32, a: v128, b: v128): v128 {
  switch (op) {
    case 0: return f32x4.add(a, b)
    case 1: return f32x4.sub(a, b)
    case 2: return f32x4.mul(a, b)
    case 3: return f32x4.div(a, b)
    case 4: return f32x4.max(a, b)
    case 5: return f32x4.min(a, b)
    case 6: return v128.and(f32x4.eq(a, b), f32x4.splat(1))
    default: return v128.and(f32x4.gt(a, b), f32x4.splat(1))
  }
}

function vbinary(op: i32, a: v128, b: v128): v128 {
  return applyBinary(op, a, b)
}

/** Four elements `step` bytes apart, or as many as are left. */
@inline function loadStrided(p: usize, step: usize, left: i32): v128 {
  let x = v128.load32_splat(p)
  if (left > 1) x = v128.load_lane<f32>(p + step, x, 1)
  if (left > 2) x = v128.load_lane<f32>(p + 2 * step, x, 2)
  if (left > 3) x = v128.load_lane<f32>(p + 3 * step, x, 3)
  return x
}

/** y[0..count) dense, steps in bytes. Loops for dense with dense, with a scalar and a scalar first; what is left goes lane by lane. */
@inline function runLoops(op: i32, count: i32, a: usize, stepA: usize, b: usize, stepB: usize, y: usize): void {
  let i = 0
  if (stepA == 4 && stepB == 4) {
    for (; i + 8 <= count; i += 8) {
      const at = <usize>i << 2
      const low = applyBinary(op, v128.load(a + at), v128.load(b + at)), high = applyBinary(op, v128.load(a + at, 16), v128.load(b + at, 16))
      v128.store(y + at, high, 16)
      v128.store(y + at, low)
    }
    if (i + 4 <= count) {
      const at = <usize>i << 2
      v128.store(y + at, applyBinary(op, v128.load(a + at), v128.load(b + at)))
      i += 4
    }
  } else if (stepA == 4 && stepB == 0) {
    const value = v128.load32_splat(b)
    for (; i + 8 <= count; i += 8) {
      const at = <usize>i << 2
      const low = applyBinary(op, v128.load(a + at), value), high = applyBinary(op, v128.load(a + at, 16), value)
      v128.store(y + at, high, 16)
      v128.store(y + at, low)
    }
  } else if (stepA == 0 && stepB == 4) {
    const value = v128.load32_splat(a)
    for (; i + 8 <= count; i += 8) {
      const at = <usize>i << 2
      const low = applyBinary(op, value, v128.load(b + at)), high = applyBinary(op, value, v128.load(b + at, 16))
      v128.store(y + at, high, 16)
      v128.store(y + at, low)
    }
  }
  for (; i < count; i += 4) {
    const left = count - i
    const va = loadStrided(a + <usize>i * stepA, stepA, left)
    vstore(y + (<usize>i << 2), vbinary(op, va, loadStrided(b + <usize>i * stepB, stepB, left)), left)
  }
}

function addRun(count: i32, a: usize, stepA: usize, b: usize, stepB: usize, y: usize): void {
  runLoops(0, count, a, stepA, b, stepB, y)
}
function subRun(count: i32, a: usize, stepA: usize, b: usize, stepB: usize, y: usize): void {
  runLoops(1, count, a, stepA, b, stepB, y)
}
function mulRun(count: i32, a: usize, stepA: usize, b: usize, stepB: usize, y: usize): void {
  runLoops(2, count, a, stepA, b, stepB, y)
}
function divRun(count: i32, a: usize, stepA: usize, b: usize, stepB: usize, y: usize): void {
  runLoops(3, count, a, stepA, b, stepB, y)
}
function maxRun(count: i32, a: usize, stepA: usize, b: usize, stepB: usize, y: usize): void {
  runLoops(4, count, a, stepA, b, stepB, y)
}
function minRun(count: i32, a: usize, stepA: usize, b: usize, stepB: usize, y: usize): void {
  runLoops(5, count, a, stepA, b, stepB, y)
}
function equalRun(count: i32, a: usize, stepA: usize, b: usize, stepB: usize, y: usize): void {
  runLoops(6, count, a, stepA, b, stepB, y)
}
function greaterRun(count: i32, a: usize, stepA: usize, b: usize, stepB: usize, y: usize): void {
  runLoops(7, count, a, stepA, b, stepB, y)
}

function binaryRun(op: i32, count: i32, a: usize, stepA: usize, b: usize, stepB: usize, y: usize): void {
  switch (op) {
    case 0: return addRun(count, a, stepA, b, stepB, y)
    case 1: return subRun(count, a, stepA, b, stepB, y)
    case 2: return mulRun(count, a, stepA, b, stepB, y)
    case 3: return divRun(count, a, stepA, b, stepB, y)
    case 4: return maxRun(count, a, stepA, b, stepB, y)
    case 5: return minRun(count, a, stepA, b, stepB, y)
    case 6: return equalRun(count, a, stepA, b, stepB, y)
    default: return greaterRun(count, a, stepA, b, stepB, y)
  }
}

/**
 * y[i] = a[i] op b[i]: y dense, seen as rows of n elements, m rows to a plane; within a row a and b advance by strideA and strideB
 * elements, from row to row by rowA and rowB, from plane to plane as `axes` says (planes.ts).
 */
export function binary(
  begin: i32, end: i32, op: i32, a: usize, b: usize, y: usize,
  n: i32, strideA: i32, strideB: i32, m: i32, rowA: i32, rowB: i32, rank: i32, axes: usize,
): void {
  const row = begin / n
  let j = begin - row * n
  let plane = row / m
  let k = row - plane * m
  for (let i = begin; i < end; plane++) {
    let atA = planeOffset(plane, rank, axes, 1) + k * rowA
    let atB = planeOffset(plane, rank, axes, 2) + k * rowB
    for (; k < m && i < end; k++) {
      const count = min(end - i, n - j)
      const fromA = a + (<usize>(atA + j * strideA) << 2)
      const fromB = b + (<usize>(atB + j * strideB) << 2)
      binaryRun(op, count, fromA, <usize>strideA << 2, fromB, <usize>strideB << 2, y + (<usize>i << 2))
      i += count
      j = 0
      atA += rowA
      atB += rowB
    }
    k = 0
  }
}

/**
 * dx[r,:] = s[r mod P] dy[r,:], and dots[r] = dy[r,:] . x[r,:]; rows of n. dx or dots may be 0. A task is a row.
 */
export function scaleBackward(begin: i32, end: i32, x: usize, s: usize, dy: usize, dx: usize, dots: usize, P: i32, n: i32): void {
  const bytes = <usize>n << 2
  const whole = <usize>(n & ~7) << 2
  for (let r = begin; r < end; r++) {
    const row = <usize>r * bytes
    const factor = v128.load32_splat(s + (<usize>(r % P) << 2))
    let s0 = f32x4.splat(0), s1 = s0
    let at = row
    for (; at < row + whole; at += 32) {
      const low = v128.load(dy + at), high = v128.load(dy + at, 16)
      if (dots) {
        s0 = madd(low, v128.load(x + at), s0)
        s1 = madd(high, v128.load(x + at, 16), s1)
      }
      if (dx) {
        v128.store(dx + at, f32x4.mul(high, factor), 16)
        v128.store(dx + at, f32x4.mul(low, factor))
      }
    }
    for (; at < row + bytes; at += 16) {
      const left = <i32>(row + bytes - at) >> 2
      const v = vload(dy + at, left)
      if (dots) s0 = madd(v, vload(x + at, left), s0)
      if (dx) vstore(dx + at, f32x4.mul(v, factor), left)
    }
    if (dots) store<f32>(dots + (<usize>r << 2), sumLanes(f32x4.add(s0, s1)))
  }
}
