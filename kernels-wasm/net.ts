/**
 * Recurrent nets by their programs, forward and backward: an interpreter of the instructions of engine/devices/kernels.ts (`netOps`, which has
 * their equations), on vectors and matrices in scratch memory.
 *
 * Shapes: x [B,T,H,I]; y [B,T,H,O]; state [B,H,S]; parameters [H,P]; tokens [B,T]; snapshots [B,H,ceil(T/C),stateFloats].
 * Split: a task is one (b, h), done by one thread from the first token to the last; nothing is shared, so threads change nothing.
 * In memory: registers and vectors are padded to a multiple of 4 floats, matrices to a multiple of 4 rows of a multiple of 4 floats; the padding
 * is 0, in cotangents too, so that every loop takes whole vectors. What an instruction would make of it otherwise it sets to 0.
 * A write, and a read of what it writes right behind it (where engine/nets/program.ts puts it), are one pass.
 * Backward: from the snapshot on, C tokens are computed once more, each with registers and a state of its own, then walked in reverse. Where C is 1
 * what an activation made is taken from the next snapshot.
 * The pass of a write goes through the cotangent of its matrix, and adds what reads have left to it.
 * Numerics: what a row of a matrix gives is summed over its vectors, or every other one, then over the lanes; what a column gives, in the order of the
 * rows, or of every other one, or four at a time.
 * Causality is exact: what a token holds, NaN included, never enters the arithmetic of an earlier one.
 * Pinned by test/ops/nets.test.ts and cases.ts, against engine/devices/reference/net.ts.
 */
import { firstLanes, maxLanes, sum4, sumLanes, vload, vstore } from './lanes'
import { applyUnary, applyUnaryBackward, exp, madd, splat, sqrtOf, vunary, vunaryBackward } from './math'
import { scratch } from './scratch'
import { sum, sumSquaresAround } from './sums'

// `netOps` of engine/devices/kernels.ts.
const INPUT = 0, STATE = 1, PARAMETER = 2, READ = 3, WRITE = 4, ADD = 5, SUB = 6, MUL = 7, AFFINE = 8, TIMES = 9, DOT = 10, UNARY = 11,
  SOFTMAX = 12, NORM = 13, SLICE = 14, CONCAT = 15, NEXT = 16, OUTPUT = 17
/** Bytes of an instruction, and of a part. */
const INSTRUCTION: usize = 40, PART: usize = 16
/** `normKinds`. */
const LAYER = 0, RMS = 1, L2 = 2
/** `tokenBits`. */
const TOKEN = 1, BEGINS = 2

@inline function up4(n: i32): i32 {
  return (n + 3) & ~3
}

/** Element i of an array of floats. */
@inline function at(x: usize, i: i32): usize {
  return x + (<usize>i << 2)
}

/** Row `index` of an array of rows of `width` floats; 0, for an array that isn't there, stays 0. */
@inline function rowOf(x: usize, index: i32, width: i32): usize {
  return x ? x + (<usize>index * <usize>width << 2) : 0
}

// ---- the token at hand (a thread has its own instance of the module, hence its own globals) -----------------------------------------

/** Registers; the state before and after; slow parameters; its rows of x and y. `d`: cotangents of these, of the state that after the token. */
let r: usize = 0, before: usize = 0, after: usize = 0, slow: usize = 0, x: usize = 0, y: usize = 0
let dr: usize = 0, dstate: usize = 0, dslow: usize = 0, dx: usize = 0, dy: usize = 0
/** Whether `after` is a snapshot, which has what activations made. */
let kept = false

// ---- vectors ------------------------------------------------------------------------------------------------------------------------

/** A register of n floats from anywhere. */
@inline function fetch(to: usize, from: usize, n: i32): void {
  let j = 0
  for (; j + 4 <= n; j += 4) v128.store(at(to, j), v128.load(at(from, j)))
  if (j < n) v128.store(at(to, j), vload(at(from, j), n - j))
}

/** n floats of a register, to anywhere. */
@inline function put(to: usize, from: usize, n: i32): void {
  let j = 0
  for (; j + 4 <= n; j += 4) v128.store(at(to, j), v128.load(at(from, j)))
  if (j < n) vstore(at(to, j), v128.load(at(from, j)), n - j)
}

/** to += from; both padded. */
@inline function accumulate(to: usize, from: usize, n: i32): void {
  combine(ADD, to, to, from, n)
}

@inline function combined(op: i32, a: v128, b: v128): v128 {
  if (op == ADD) return f32x4.add(a, b)
  return op == SUB ? f32x4.sub(a, b) : f32x4.mul(a, b)
}

/** to = a + b, a - b or a b; all padded. */
@inline function combine(op: i32, to: usize, a: usize, b: usize, n: i32): void {
  let j = 0
  for (; j + 4 < n; j += 8) {
    const tj = at(to, j), aj = at(a, j), bj = at(b, j)
    const low = combined(op, v128.load(aj), v128.load(bj)), high = combined(op, v128.load(aj, 16), v128.load(bj, 16))
    v128.store(tj, high, 16)
    v128.store(tj, low)
  }
  if (j < n) v128.store(at(to, j), combined(op, v128.load(at(a, j)), v128.load(at(b, j))))
}

/** to += f from; both padded. */
@inline function accumulateTimes(to: usize, from: usize, f: v128, n: i32): void {
  let j = 0
  for (; j + 4 < n; j += 8) {
    const tj = at(to, j), fj = at(from, j)
    const low = madd(f, v128.load(fj), v128.load(tj)), high = madd(f, v128.load(fj, 16), v128.load(tj, 16))
    v128.store(tj, high, 16)
    v128.store(tj, low)
  }
  if (j < n) v128.store(at(to, j), madd(f, v128.load(at(from, j)), v128.load(at(to, j))))
}

/** to += from, of n floats, neither padded. */
function accumulateEach(to: usize, from: usize, n: i32): void {
  let j = 0
  for (; j + 4 <= n; j += 4) v128.store(at(to, j), f32x4.add(v128.load(at(to, j)), v128.load(at(from, j))))
  for (; j < n; j++) store<f32>(at(to, j), load<f32>(at(to, j)) + load<f32>(at(from, j)))
}

/** What is behind the n floats of a register is 0 again. */
@inline function clearPadding(to: usize, n: i32): void {
  if (n & 3) v128.store(at(to, n & ~3), firstLanes(v128.load(at(to, n & ~3)), n & 3, splat(0)))
}

@inline function dot(a: usize, b: usize, n: i32): f32 {
  let s = splat(0)
  for (let j = 0; j < n; j += 4) s = madd(v128.load(at(a, j)), v128.load(at(b, j)), s)
  return sumLanes(s)
}

/** unaryOps of gates and of fast weights that are limited: their loops are their own, without a choice or a branch inside. */
const SIGMOID = 9, TANH = 10, ELU = 12

@inline function unaryWith(own: bool, f: i32, to: usize, a: usize, n: i32): void {
  let j = 0
  if (own) for (; j + 8 <= n; j += 8) {
    const low = applyUnary(f, v128.load(at(a, j))), high = applyUnary(f, v128.load(at(a, j), 16))
    v128.store(at(to, j), high, 16)
    v128.store(at(to, j), low)
  }
  for (; j < n; j += 4) v128.store(at(to, j), firstLanes(vunary(f, v128.load(at(a, j))), n - j, splat(0)))
}

function unary(f: i32, to: usize, a: usize, n: i32): void {
  if (f == SIGMOID) unaryWith(true, SIGMOID, to, a, n)
  else if (f == TANH) unaryWith(true, TANH, to, a, n)
  else if (f == ELU) unaryWith(true, ELU, to, a, n)
  else unaryWith(false, f, to, a, n)
}

@inline function unaryBackwardWith(own: bool, f: i32, a: usize, y: usize, g: usize, da: usize, n: i32): void {
  let j = 0
  if (own) for (; j + 8 <= n; j += 8) {
    const aj = at(a, j), yj = at(y, j), gj = at(g, j), dj = at(da, j)
    const low = applyUnaryBackward(f, v128.load(aj), v128.load(yj), v128.load(gj))
    const high = applyUnaryBackward(f, v128.load(aj, 16), v128.load(yj, 16), v128.load(gj, 16))
    const d0 = v128.load(dj), d1 = v128.load(dj, 16)
    v128.store(dj, f32x4.add(d1, high), 16)
    v128.store(dj, f32x4.add(d0, low))
  }
  for (; j < n; j += 4) {
    const d = vunaryBackward(f, v128.load(at(a, j)), v128.load(at(y, j)), v128.load(at(g, j)))
    v128.store(at(da, j), f32x4.add(v128.load(at(da, j)), firstLanes(d, n - j, splat(0))))
  }
}

/** da += g f'(a), given y = f(a). */
function unaryBackward(f: i32, a: usize, y: usize, g: usize, da: usize, n: i32): void {
  if (f == SIGMOID) unaryBackwardWith(true, SIGMOID, a, y, g, da, n)
  else if (f == TANH) unaryBackwardWith(true, TANH, a, y, g, da, n)
  else if (f == ELU) unaryBackwardWith(true, ELU, a, y, g, da, n)
  else unaryBackwardWith(false, f, a, y, g, da, n)
}

function softmax(to: usize, a: usize, n: i32, eps: f32): void {
  const whole = n & ~3
  let m = firstLanes(v128.load(at(a, n - 1 & ~3)), (n - 1 & 3) + 1, splat(-Infinity))
  for (let j = 0; j < whole; j += 4) m = f32x4.pmax(v128.load(at(a, j)), m)
  const largest = splat(maxLanes(m))
  let s = splat(0), s1 = s, j = 0
  for (; j + 8 <= n; j += 8) {
    const aj = at(a, j), tj = at(to, j)
    const low = exp(f32x4.sub(v128.load(aj), largest)), high = exp(f32x4.sub(v128.load(aj, 16), largest))
    v128.store(tj, high, 16)
    v128.store(tj, low)
    s = f32x4.add(s, low)
    s1 = f32x4.add(s1, high)
  }
  for (; j < n; j += 4) {
    const e = firstLanes(exp(f32x4.sub(v128.load(at(a, j)), largest)), n - j, splat(0))
    s = f32x4.add(s, e)
    v128.store(at(to, j), e)
  }
  const total = splat(sumLanes(f32x4.add(s, s1)) + eps)
  for (let j = 0; j < n; j += 4) v128.store(at(to, j), f32x4.div(v128.load(at(to, j)), total))
}

function normMean(kind: i32, a: usize, n: i32): f32 {
  return kind == LAYER ? sum(a, n) / <f32>n : 0
}

function normScale(kind: i32, a: usize, n: i32, mean: f32, eps: f32): f32 {
  if (kind > L2) return 1 / (sum(a, n) + eps)
  const squares = sumSquaresAround(a, n, mean)
  return 1 / sqrtOf((kind == L2 ? squares : squares / <f32>n) + eps)
}

function norm(kind: i32, to: usize, a: usize, n: i32, eps: f32): void {
  const mean = normMean(kind, a, n), scale = splat(normScale(kind, a, n, mean, eps)), vmean = splat(mean)
  for (let j = 0; j < n; j += 4) v128.store(at(to, j), f32x4.mul(f32x4.sub(v128.load(at(a, j)), vmean), scale))
  clearPadding(to, n)
}

/** da += scale (g - mean(g) - h along), h = the result at `to`: see the reference. */
function normBackward(kind: i32, to: usize, g: usize, a: usize, da: usize, n: i32, eps: f32): void {
  const scale = splat(normScale(kind, a, n, normMean(kind, a, n), eps))
  const gh = dot(g, to, n)
  let shift: f32 = kind > L2 ? gh : 0
  if (kind == LAYER) shift = sum(g, n) / <f32>n
  const along = splat(kind > L2 ? 0 : kind == L2 ? gh : gh / <f32>n), vshift = splat(shift)
  for (let j = 0; j < n; j += 4) {
    const d = f32x4.sub(f32x4.sub(v128.load(at(g, j)), vshift), f32x4.mul(v128.load(at(to, j)), along))
    v128.store(at(da, j), madd(scale, firstLanes(d, n - j, splat(0)), v128.load(at(da, j))))
  }
}

// ---- matrices: `rows` and `width` are multiples of 4 ----------------------------------------------------------------------------------

/** to = a M: 32 columns at a time, then 4. */
function read(to: usize, a: usize, M: usize, rows: i32, width: i32): void {
  const row = <usize>width << 2
  let j = 0
  for (; j + 32 <= width; j += 32) {
    let m = at(M, j)
    let r0 = splat(0), r1 = r0, r2 = r0, r3 = r0, r4 = r0, r5 = r0, r6 = r0, r7 = r0
    for (let i = 0; i < rows; i++, m += row) {
      const ai = v128.load32_splat(at(a, i))
      r0 = madd(ai, v128.load(m), r0)
      r1 = madd(ai, v128.load(m, 16), r1)
      r2 = madd(ai, v128.load(m, 32), r2)
      r3 = madd(ai, v128.load(m, 48), r3)
      r4 = madd(ai, v128.load(m, 64), r4)
      r5 = madd(ai, v128.load(m, 80), r5)
      r6 = madd(ai, v128.load(m, 96), r6)
      r7 = madd(ai, v128.load(m, 112), r7)
    }
    const o = at(to, j)
    v128.store(o, r1, 16)
    v128.store(o, r0)
    v128.store(o, r3, 48)
    v128.store(o, r2, 32)
    v128.store(o, r5, 80)
    v128.store(o, r4, 64)
    v128.store(o, r7, 112)
    v128.store(o, r6, 96)
  }
  for (; j < width; j += 4) {
    let m = at(M, j)
    let r0 = splat(0), r1 = r0
    for (let i = 0; i < rows; i += 2, m += 2 * row) {
      r0 = madd(v128.load32_splat(at(a, i)), v128.load(m), r0)
      r1 = madd(v128.load32_splat(at(a, i), 4), v128.load(m + row), r1)
    }
    v128.store(at(to, j), f32x4.add(r0, r1))
  }
}

/** to[0] and to[1] += the sums over the lanes of a and of b. */
@inline function addSums(to: usize, a: v128, b: v128): void {
  const half = f32x4.add(i32x4.shuffle(a, b, 0, 4, 1, 5), i32x4.shuffle(a, b, 2, 6, 3, 7))
  const both = f32x4.add(half, i64x2.shuffle(half, half, 1, 0))
  v128.store_lane<f64>(to, f32x4.add(v128.load64_zero(to), both), 0)
}

/** da += M g. */
function readAlong(M: usize, da: usize, g: usize, rows: i32, width: i32): void {
  const row = <usize>width << 2
  for (let i = 0; i < rows; i += 4, M += 4 * row) {
    let r0 = splat(0), r1 = r0, r2 = r0, r3 = r0, s0 = r0, s1 = r0, s2 = r0, s3 = r0
    let j: usize = 0
    for (; j + 32 <= row; j += 32) {
      const g0 = v128.load(g + j), g1 = v128.load(g + j, 16), m0 = M + j, m1 = m0 + row, m2 = m1 + row, m3 = m2 + row
      r0 = madd(v128.load(m0), g0, r0)
      s0 = madd(v128.load(m0, 16), g1, s0)
      r1 = madd(v128.load(m1), g0, r1)
      s1 = madd(v128.load(m1, 16), g1, s1)
      r2 = madd(v128.load(m2), g0, r2)
      s2 = madd(v128.load(m2, 16), g1, s2)
      r3 = madd(v128.load(m3), g0, r3)
      s3 = madd(v128.load(m3, 16), g1, s3)
    }
    if (j < row) {
      const gj = v128.load(g + j), m = M + j
      r0 = madd(v128.load(m), gj, r0)
      r1 = madd(v128.load(m + row), gj, r1)
      r2 = madd(v128.load(m + 2 * row), gj, r2)
      r3 = madd(v128.load(m + 3 * row), gj, r3)
    }
    const sums = sum4(f32x4.add(r0, s0), f32x4.add(r1, s1), f32x4.add(r2, s2), f32x4.add(r3, s3))
    v128.store(at(da, i), f32x4.add(v128.load(at(da, i)), sums))
  }
}

/** dM += a g^T. */
function addOuter(dM: usize, a: usize, g: usize, rows: i32, width: i32): void {
  for (let i = 0; i < rows; i++, dM = at(dM, width)) accumulateTimes(dM, g, v128.load32_splat(at(a, i)), width)
}

/** da += M g, dM += a g^T. */
function readBackward(M: usize, dM: usize, a: usize, da: usize, g: usize, rows: i32, width: i32): void {
  const row = <usize>width << 2
  for (let i = 0; i < rows; i += 4) {
    const a0 = v128.load32_splat(at(a, i)), a1 = v128.load32_splat(at(a, i), 4)
    const a2 = v128.load32_splat(at(a, i), 8), a3 = v128.load32_splat(at(a, i), 12)
    let r0 = splat(0), r1 = r0, r2 = r0, r3 = r0
    for (let j: usize = 0; j < row; j += 16) {
      const gj = v128.load(g + j), m = M + j, d = dM + j
      r0 = madd(v128.load(m), gj, r0)
      r1 = madd(v128.load(m + row), gj, r1)
      r2 = madd(v128.load(m + 2 * row), gj, r2)
      r3 = madd(v128.load(m + 3 * row), gj, r3)
      v128.store(d, madd(a0, gj, v128.load(d)))
      v128.store(d + row, madd(a1, gj, v128.load(d + row)))
      v128.store(d + 2 * row, madd(a2, gj, v128.load(d + 2 * row)))
      v128.store(d + 3 * row, madd(a3, gj, v128.load(d + 3 * row)))
    }
    v128.store(at(da, i), f32x4.add(v128.load(at(da, i)), sum4(r0, r1, r2, r3)))
    M += 4 * row
    dM += 4 * row
  }
}

/**
 * What a decay has made smaller than this is 0 from there on, in matrices and their cotangents: token by token it would come to numbers below 2^-126,
 * with which processors compute a hundred times slower; and so would products of two of them that are only a little larger.
 */
const VANISHED: f32 = 1.3877787807814457e-17 // 2^-56

@inline function unlessVanished(x: v128): v128 {
  return v128.andnot(x, f32x4.lt(f32x4.abs(x), splat(VANISHED)))
}

/** Four floats of l M + k u^T. */
@inline function written(decays: bool, m: v128, l: v128, k: v128, u: v128): v128 {
  return decays ? unlessVanished(madd(k, u, f32x4.mul(l, m))) : madd(k, u, m)
}

@inline function writeVector(decays: bool, to: usize, from: usize, l: v128, k: v128, u: v128): void {
  v128.store(to, written(decays, v128.load(from), l, k, u))
}

/** 32 columns at a time, then 4. */
@inline function writeWith(decays: bool, to: usize, from: usize, k: usize, u: usize, l: v128, rows: i32, width: i32): void {
  const row = <usize>width << 2
  let j: usize = 0
  for (; j + 128 <= row; j += 128) {
    let t = to + j, f = from + j
    const v = u + j
    const u0 = v128.load(v), u1 = v128.load(v, 16), u2 = v128.load(v, 32), u3 = v128.load(v, 48)
    const u4 = v128.load(v, 64), u5 = v128.load(v, 80), u6 = v128.load(v, 96), u7 = v128.load(v, 112)
    for (let i = 0; i < rows; i++, t += row, f += row) {
      const ki = v128.load32_splat(at(k, i))
      const x0 = written(decays, v128.load(f), l, ki, u0), x1 = written(decays, v128.load(f, 16), l, ki, u1)
      const x2 = written(decays, v128.load(f, 32), l, ki, u2), x3 = written(decays, v128.load(f, 48), l, ki, u3)
      v128.store(t, x1, 16)
      v128.store(t, x0)
      v128.store(t, x3, 48)
      v128.store(t, x2, 32)
      const x4 = written(decays, v128.load(f, 64), l, ki, u4), x5 = written(decays, v128.load(f, 80), l, ki, u5)
      const x6 = written(decays, v128.load(f, 96), l, ki, u6), x7 = written(decays, v128.load(f, 112), l, ki, u7)
      v128.store(t, x5, 80)
      v128.store(t, x4, 64)
      v128.store(t, x7, 112)
      v128.store(t, x6, 96)
    }
  }
  for (; j < row; j += 16) {
    const uj = v128.load(u + j)
    for (let i = 0; i < rows; i++) {
      const o = <usize>i * row + j
      writeVector(decays, to + o, from + o, l, v128.load32_splat(at(k, i)), uj)
    }
  }
}

/** to = l from + k u^T. */
function write(to: usize, from: usize, k: usize, u: usize, l: f32, rows: i32, width: i32): void {
  if (l == 1) writeWith(false, to, from, k, u, splat(l), rows, width)
  else writeWith(true, to, from, k, u, splat(l), rows, width)
}

@inline function writeReadWith(decays: bool, to: usize, from: usize, k: usize, u: usize, l: v128, q: usize, y: usize, rows: i32,
  width: i32): void {
  const row = <usize>width << 2
  let j: usize = 0
  for (; j + 64 <= row; j += 64) {
    let t = to + j, f = from + j
    const u0 = v128.load(u + j), u1 = v128.load(u + j, 16), u2 = v128.load(u + j, 32), u3 = v128.load(u + j, 48)
    let r0 = splat(0), r1 = r0, r2 = r0, r3 = r0
    for (let i = 0; i < rows; i++, t += row, f += row) {
      const ki = v128.load32_splat(at(k, i)), qi = v128.load32_splat(at(q, i))
      const x0 = written(decays, v128.load(f), l, ki, u0), x1 = written(decays, v128.load(f, 16), l, ki, u1)
      const x2 = written(decays, v128.load(f, 32), l, ki, u2), x3 = written(decays, v128.load(f, 48), l, ki, u3)
      v128.store(t, x1, 16)
      v128.store(t, x0)
      v128.store(t, x3, 48)
      v128.store(t, x2, 32)
      r0 = madd(qi, x0, r0)
      r1 = madd(qi, x1, r1)
      r2 = madd(qi, x2, r2)
      r3 = madd(qi, x3, r3)
    }
    const o = y + j
    v128.store(o, r1, 16)
    v128.store(o, r0)
    v128.store(o, r3, 48)
    v128.store(o, r2, 32)
  }
  for (; j < row; j += 16) {
    const uj = v128.load(u + j)
    let r = splat(0)
    for (let i = 0; i < rows; i++) {
      const o = <usize>i * row + j
      const x = written(decays, v128.load(from + o), l, v128.load32_splat(at(k, i)), uj)
      v128.store(to + o, x)
      r = madd(v128.load32_splat(at(q, i)), x, r)
    }
    v128.store(y + j, r)
  }
}

/** to = l from + k u^T, y = q to: what is written and then read is gone through once. */
function writeRead(to: usize, from: usize, k: usize, u: usize, l: f32, q: usize, y: usize, rows: i32, width: i32): void {
  if (l == 1) writeReadWith(false, to, from, k, u, splat(l), q, y, rows, width)
  else writeReadWith(true, to, from, k, u, splat(l), q, y, rows, width)
}

@inline function writeActivatedWith(own: bool, f: i32, to: usize, from: usize, k: usize, u: usize, l: f32, c: i32, n: i32): void {
  const row = <usize>up4(n) << 2, vl = splat(l)
  for (let i = 0; i < c; i++) {
    const ki = v128.load32_splat(at(k, i))
    let j = 0
    if (own) for (; j + 8 <= n; j += 8) {
      const t = at(to, j), m = at(from, j), uj = at(u, j)
      const low = applyUnary(f, madd(ki, v128.load(uj), f32x4.mul(vl, v128.load(m))))
      const high = applyUnary(f, madd(ki, v128.load(uj, 16), f32x4.mul(vl, v128.load(m, 16))))
      v128.store(t, high, 16)
      v128.store(t, low)
    }
    for (; j < n; j += 4) {
      const a = madd(ki, v128.load(at(u, j)), f32x4.mul(vl, v128.load(at(from, j))))
      v128.store(at(to, j), firstLanes(vunary(f, a), n - j, splat(0)))
    }
    to += row
    from += row
  }
  memory.fill(to, 0, <usize>(up4(c) - c) * row)
}

function writeSigmoid(to: usize, from: usize, k: usize, u: usize, l: f32, c: i32, n: i32): void {
  writeActivatedWith(true, SIGMOID, to, from, k, u, l, c, n)
}

function writeTanh(to: usize, from: usize, k: usize, u: usize, l: f32, c: i32, n: i32): void {
  writeActivatedWith(true, TANH, to, from, k, u, l, c, n)
}

/** The same, and then f, in one pass; of c rows of n floats, and 0 in the padding. */
function writeActivated(f: i32, to: usize, from: usize, k: usize, u: usize, l: f32, c: i32, n: i32): void {
  if (f == SIGMOID) writeSigmoid(to, from, k, u, l, c, n)
  else if (f == TANH) writeTanh(to, from, k, u, l, c, n)
  else writeActivatedWith(false, f, to, from, k, u, l, c, n)
}

/** In the slope (1 - y) (shift + y). */
@inline function shiftOf(f: i32): f32 {
  return f == TANH ? 1 : 0
}

@inline function slope(shift: v128, y: v128, g: v128): v128 {
  return f32x4.mul(f32x4.mul(g, f32x4.sub(splat(1), y)), f32x4.add(shift, y))
}

/**
 * g = g (1 - y) (shift + y), from what was made: the slope of a sigmoid with 0, of a tanh with 1, without what is smaller than a rounding of y. All
 * `floats` numbers: in the padding g is 0.
 */
function slopes(shift: f32, g: usize, y: usize, floats: i32): void {
  const s = splat(shift)
  let j = 0
  for (; j + 8 <= floats; j += 8) {
    const gj = at(g, j), yj = at(y, j)
    const low = slope(s, v128.load(yj), v128.load(gj)), high = slope(s, v128.load(yj, 16), v128.load(gj, 16))
    v128.store(gj, high, 16)
    v128.store(gj, low)
  }
  if (j < floats) v128.store(at(g, j), slope(s, v128.load(at(y, j)), v128.load(at(g, j))))
}

/** g = g f'(l from + k u^T), given what f made of it at `to`. */
function activationBackward(f: i32, g: usize, to: usize, from: usize, k: usize, u: usize, l: v128, c: i32, n: i32): void {
  const width = up4(n)
  if (f == SIGMOID || f == TANH) return slopes(shiftOf(f), g, to, c * width)
  for (let i = 0; i < c; i++) {
    const ki = v128.load32_splat(at(k, i))
    for (let j = 0; j < n; j += 4) {
      const o = i * width + j
      const a = madd(ki, v128.load(at(u, j)), f32x4.mul(l, v128.load(at(from, o))))
      v128.store(at(g, o), firstLanes(vunaryBackward(f, a, v128.load(at(to, o)), v128.load(at(g, o))), n - j, splat(0)))
    }
  }
}

@inline function scaled(decays: bool, to: usize, l: v128, d: v128): void {
  if (decays) v128.store(to, unlessVanished(f32x4.mul(l, d)))
}

@inline function writeBackwardWith(decays: bool, dM: usize, k: usize, dk: usize, u: usize, du: usize, l: v128, rows: i32, width: i32): void {
  const row = <usize>width << 2
  for (let i = 0; i < rows; i += 4) {
    const k0 = v128.load32_splat(at(k, i)), k1 = v128.load32_splat(at(k, i), 4)
    const k2 = v128.load32_splat(at(k, i), 8), k3 = v128.load32_splat(at(k, i), 12)
    let r0 = splat(0), r1 = r0, r2 = r0, r3 = r0
    for (let j: usize = 0; j < row; j += 16) {
      const uj = v128.load(u + j), d = dM + j
      const d0 = v128.load(d), d1 = v128.load(d + row), d2 = v128.load(d + 2 * row), d3 = v128.load(d + 3 * row)
      r0 = madd(d0, uj, r0)
      r1 = madd(d1, uj, r1)
      r2 = madd(d2, uj, r2)
      r3 = madd(d3, uj, r3)
      const x = madd(k1, d1, f32x4.mul(k0, d0)), z = madd(k3, d3, f32x4.mul(k2, d2))
      v128.store(du + j, f32x4.add(v128.load(du + j), f32x4.add(x, z)))
      scaled(decays, d, l, d0)
      scaled(decays, d + row, l, d1)
      scaled(decays, d + 2 * row, l, d2)
      scaled(decays, d + 3 * row, l, d3)
    }
    v128.store(at(dk, i), f32x4.add(v128.load(at(dk, i)), sum4(r0, r1, r2, r3)))
    dM += 4 * row
  }
}

/** dk += dM u, du += k dM, dM = l dM. */
function writeBackward(dM: usize, k: usize, dk: usize, u: usize, du: usize, l: f32, rows: i32, width: i32): void {
  if (l == 1) writeBackwardWith(false, dM, k, dk, u, du, splat(l), rows, width)
  else writeBackwardWith(true, dM, k, dk, u, du, splat(l), rows, width)
}

// ---- reads that wait ---------------------------------------------------------------------------------------------------------------------
// What a read adds to dM, a g^T, waits for the write of that matrix, whose pass through dM adds it, in this token or in the one before; for a write
// without a decay or without an activation, whose pass can. A plan is what an instruction has for that: a read that waits where the write's is, and
// whether that decays; the write how many wait, and a and g of each, the oldest first. They lie among the registers, whose cotangents two tokens in a
// row have in different places.

/** Bytes of a plan, and how many reads can wait. */
const PLAN: usize = 32, MOST = 3

/** Whether the write at i has a decay, by a register or a number. */
@inline function decays(i: usize): bool {
  return load<i32>(i, 24) >= 0 || load<f32>(i, 32) != 1
}

/** Whether the instruction at i is a write of the matrix at `place` for which reads wait. */
@inline function takesWaiting(i: usize, place: i32): bool {
  if (load<i32>(i) != WRITE || load<i32>(i, 4) != place) return false
  const f = load<i32>(i, 28)
  return f < 0 || !decays(i) && (f == SIGMOID || f == TANH)
}

/** Of all instructions; nothing waits. */
function makePlans(plans: usize, first: usize, last: usize): void {
  for (let i = first, plan = plans; i < last; i += INSTRUCTION, plan += PLAN) {
    store<i32>(plan, 0)
    if (load<i32>(i) != READ || load<i32>(i, 24)) continue
    for (let w = first, other = plans; w < last; w += INSTRUCTION, other += PLAN)
      if (takesWaiting(w, load<i32>(i, 16))) {
        store<usize>(plan, other)
        store<i32>(plan, <i32>decays(w), 28)
      }
  }
}

/** A read of dM waits, for which there may have to be room. */
function wait(plan: usize, dM: usize, a: usize, g: usize, rows: i32, width: i32): void {
  if (load<i32>(plan) == MOST) addWaiting(plan, dM, rows, width)
  const waiting = load<i32>(plan), entry = plan + (<usize>waiting << 3)
  store<usize>(entry, a, 4)
  store<usize>(entry, g, 8)
  store<i32>(plan, waiting + 1)
}

/** Adds what waits. */
function addWaiting(plan: usize, dM: usize, rows: i32, width: i32): void {
  const end = plan + (<usize>load<i32>(plan) << 3)
  for (let entry = plan; entry < end; entry += 8) addOuter(dM, load<usize>(entry, 4), load<usize>(entry, 8), rows, width)
  store<i32>(plan, 0)
}

/** To all matrices. */
function addAllWaiting(plans: usize, first: usize, last: usize): void {
  for (let i = first, plan = plans; i < last; i += INSTRUCTION, plan += PLAN)
    if (load<i32>(i) == WRITE) addWaiting(plan, at(dstate, load<i32>(i, 4)), up4(load<i32>(i, 20)), up4(load<i32>(i, 8)))
}

@inline function plus(adds: bool, a: v128, g: v128, d: v128): v128 {
  return adds ? madd(a, g, d) : d
}

/** That times the slope of what was made, at an address, where there is one. */
@inline function sloped(slopes: bool, shift: v128, made: usize, d: v128): v128 {
  return slopes ? slope(shift, v128.load(made), d) : d
}

/** l d, of a cotangent that decays. */
@inline function times(decays: bool, l: v128, d: v128): v128 {
  return decays ? f32x4.mul(l, d) : d
}

/**
 * dM += what waits, of which there are `reads`, times the slopes of the activation that made M, if `slopes`, whose shift is `factor`; dk += dM u,
 * du += k dM. If `decays`, then dM = l dM, where l is `factor`, and M is the matrix before: its product with what dM was is returned. Two rows, and two
 * vectors of them, at a time.
 */
@inline function writeBackwardOf(reads: i32, slopes: bool, decays: bool, factor: v128, M: usize, plan: usize, dM: usize, k: usize, dk: usize,
  u: usize, du: usize, rows: i32, width: i32): f32 {
  const row = <usize>width << 2, second = reads > 1, third = reads > 2
  const a = load<usize>(plan, 4), g = load<usize>(plan, 8), b = second ? load<usize>(plan, 12) : a, h = second ? load<usize>(plan, 16) : g
  const c = third ? load<usize>(plan, 20) : a, l = third ? load<usize>(plan, 24) : g
  let along = splat(0), along1 = along
  for (let i = 0; i < rows; i += 2) {
    const a0 = v128.load32_splat(at(a, i)), a1 = v128.load32_splat(at(a, i), 4)
    const b0 = v128.load32_splat(at(b, i)), b1 = v128.load32_splat(at(b, i), 4)
    const c0 = v128.load32_splat(at(c, i)), c1 = v128.load32_splat(at(c, i), 4)
    let r0 = splat(0), r1 = r0, s0 = r0, s1 = r0
    let j: usize = 0
    // What is needed later is loaded later: there are few registers.
    for (; j + 32 <= row; j += 32) {
      const d = dM + j, e = d + row
      let x0 = v128.load(d), y0 = v128.load(d, 16), x1 = v128.load(e), y1 = v128.load(e, 16)
      let low = v128.load(g + j), high = v128.load(g + j, 16)
      x0 = madd(a0, low, x0)
      y0 = madd(a0, high, y0)
      x1 = madd(a1, low, x1)
      y1 = madd(a1, high, y1)
      if (second) {
        low = v128.load(h + j)
        high = v128.load(h + j, 16)
        x0 = madd(b0, low, x0)
        y0 = madd(b0, high, y0)
        x1 = madd(b1, low, x1)
        y1 = madd(b1, high, y1)
      }
      if (third) {
        low = v128.load(l + j)
        high = v128.load(l + j, 16)
        x0 = madd(c0, low, x0)
        y0 = madd(c0, high, y0)
        x1 = madd(c1, low, x1)
        y1 = madd(c1, high, y1)
      }
      if (slopes) {
        const m = M + j
        x0 = slope(factor, v128.load(m), x0)
        y0 = slope(factor, v128.load(m, 16), y0)
        x1 = slope(factor, v128.load(m + row), x1)
        y1 = slope(factor, v128.load(m + row, 16), y1)
      }
      if (decays) {
        const m = M + j
        x0 = unlessVanished(x0)
        y0 = unlessVanished(y0)
        x1 = unlessVanished(x1)
        y1 = unlessVanished(y1)
        along = madd(x1, v128.load(m + row), madd(x0, v128.load(m), along))
        along1 = madd(y1, v128.load(m + row, 16), madd(y0, v128.load(m, 16), along1))
      }
      low = v128.load(u + j)
      high = v128.load(u + j, 16)
      r0 = madd(x0, low, r0)
      s0 = madd(y0, high, s0)
      r1 = madd(x1, low, r1)
      s1 = madd(y1, high, s1)
      const k0 = v128.load32_splat(at(k, i)), k1 = v128.load32_splat(at(k, i), 4)
      low = madd(k1, x1, madd(k0, x0, v128.load(du + j)))
      high = madd(k1, y1, madd(k0, y0, v128.load(du + j, 16)))
      v128.store(d, times(decays, factor, y0), 16)
      v128.store(d, times(decays, factor, x0))
      v128.store(e, times(decays, factor, y1), 16)
      v128.store(e, times(decays, factor, x1))
      v128.store(du + j, high, 16)
      v128.store(du + j, low)
    }
    if (j < row) {
      const d = dM + j, e = d + row, m = M + j
      const gj = v128.load(g + j), hj = v128.load(h + j), lj = v128.load(l + j), uj = v128.load(u + j)
      let x0 = sloped(slopes, factor, m, plus(third, c0, lj, plus(second, b0, hj, madd(a0, gj, v128.load(d)))))
      let x1 = sloped(slopes, factor, m + row, plus(third, c1, lj, plus(second, b1, hj, madd(a1, gj, v128.load(e)))))
      if (decays) {
        x0 = unlessVanished(x0)
        x1 = unlessVanished(x1)
        along = madd(x1, v128.load(m + row), madd(x0, v128.load(m), along))
      }
      v128.store(d, times(decays, factor, x0))
      v128.store(e, times(decays, factor, x1))
      v128.store(du + j, madd(v128.load32_splat(at(k, i), 4), x1, madd(v128.load32_splat(at(k, i)), x0, v128.load(du + j))))
      r0 = madd(x0, uj, r0)
      r1 = madd(x1, uj, r1)
    }
    addSums(at(dk, i), f32x4.add(r0, s0), f32x4.add(r1, s1))
    dM += 2 * row
    M += 2 * row
  }
  return decays ? sumLanes(f32x4.add(along, along1)) : 0
}

function writeBackward1(plan: usize, dM: usize, k: usize, dk: usize, u: usize, du: usize, rows: i32, width: i32): void {
  writeBackwardOf(1, false, false, splat(0), 0, plan, dM, k, dk, u, du, rows, width)
}

function writeBackward2(plan: usize, dM: usize, k: usize, dk: usize, u: usize, du: usize, rows: i32, width: i32): void {
  writeBackwardOf(2, false, false, splat(0), 0, plan, dM, k, dk, u, du, rows, width)
}

function writeBackward3(plan: usize, dM: usize, k: usize, dk: usize, u: usize, du: usize, rows: i32, width: i32): void {
  writeBackwardOf(3, false, false, splat(0), 0, plan, dM, k, dk, u, du, rows, width)
}

function writeBackwardSloped(shift: f32, M: usize, plan: usize, dM: usize, k: usize, dk: usize, u: usize, du: usize, rows: i32, width: i32): void {
  writeBackwardOf(1, true, false, splat(shift), M, plan, dM, k, dk, u, du, rows, width)
  store<i32>(plan, 0)
}

/** dM += what waits, of which there are `reads`; dk += dM u, du += k dM. */
function writeBackwardWaiting(reads: i32, plan: usize, dM: usize, k: usize, dk: usize, u: usize, du: usize, rows: i32, width: i32): void {
  if (reads == 1) writeBackward1(plan, dM, k, dk, u, du, rows, width)
  else if (reads == 2) writeBackward2(plan, dM, k, dk, u, du, rows, width)
  else writeBackward3(plan, dM, k, dk, u, du, rows, width)
  store<i32>(plan, 0)
}

function writeBackwardDecayed1(l: f32, last: usize, plan: usize, dM: usize, k: usize, dk: usize, u: usize, du: usize, rows: i32, width: i32): f32 {
  return writeBackwardOf(1, false, true, splat(l), last, plan, dM, k, dk, u, du, rows, width)
}

function writeBackwardDecayed2(l: f32, last: usize, plan: usize, dM: usize, k: usize, dk: usize, u: usize, du: usize, rows: i32, width: i32): f32 {
  return writeBackwardOf(2, false, true, splat(l), last, plan, dM, k, dk, u, du, rows, width)
}

function writeBackwardDecayed3(l: f32, last: usize, plan: usize, dM: usize, k: usize, dk: usize, u: usize, du: usize, rows: i32, width: i32): f32 {
  return writeBackwardOf(3, false, true, splat(l), last, plan, dM, k, dk, u, du, rows, width)
}

/** The same, and dM = l dM in the end; gives the cotangent of l, for a matrix that was `last`. */
function writeBackwardDecayed(reads: i32, l: f32, last: usize, plan: usize, dM: usize, k: usize, dk: usize, u: usize, du: usize, rows: i32,
  width: i32): f32 {
  store<i32>(plan, 0)
  if (reads == 1) return writeBackwardDecayed1(l, last, plan, dM, k, dk, u, du, rows, width)
  if (reads == 2) return writeBackwardDecayed2(l, last, plan, dM, k, dk, u, du, rows, width)
  return writeBackwardDecayed3(l, last, plan, dM, k, dk, u, du, rows, width)
}

// ---- instructions -------------------------------------------------------------------------------------------------------------------

@inline function matrices(d: i32, e: i32): usize {
  return d ? slow : e ? after : before
}

/** The instruction at i, on the token at hand. */
function forward(i: usize): void {
  const op = load<i32>(i), n = load<i32>(i, 8), a = load<i32>(i, 12), b = load<i32>(i, 16), c = load<i32>(i, 20)
  const d = load<i32>(i, 24), e = load<i32>(i, 28), index = load<i32>(i, 4)
  const to = at(r, index), ra = at(r, a), rb = at(r, b)
  switch (op) {
    case STATE: return fetch(to, at(before, a), up4(n))
    case PARAMETER: return fetch(to, at(slow, a), up4(n))
    case READ: return read(to, ra, at(matrices(d, e), b), up4(c), up4(n))
    case WRITE: {
      const l = decayOf(i)
      const next = at(after, index), last = at(before, index)
      if (e < 0) write(next, last, ra, rb, l, up4(c), up4(n))
      else if (!kept) writeActivated(e, next, last, ra, rb, l, c, n)
      return
    }
    case ADD: return combine(ADD, to, ra, rb, n)
    case SUB: return combine(SUB, to, ra, rb, n)
    case MUL: return combine(MUL, to, ra, rb, n)
    case AFFINE: {
      const scale = v128.load32_splat(i, 32), shift = v128.load32_splat(i, 36)
      let j = 0
      for (; j + 4 < n; j += 8) {
        const low = madd(scale, v128.load(at(ra, j)), shift), high = madd(scale, v128.load(at(ra, j), 16), shift)
        v128.store(at(to, j), high, 16)
        v128.store(at(to, j), low)
      }
      if (j < n) v128.store(at(to, j), madd(scale, v128.load(at(ra, j)), shift))
      return clearPadding(to, n)
    }
    case TIMES: {
      const f = v128.load32_splat(rb)
      let j = 0
      for (; j + 4 < n; j += 8) {
        const low = f32x4.mul(f, v128.load(at(ra, j))), high = f32x4.mul(f, v128.load(at(ra, j), 16))
        v128.store(at(to, j), high, 16)
        v128.store(at(to, j), low)
      }
      if (j < n) v128.store(at(to, j), f32x4.mul(f, v128.load(at(ra, j))))
      return clearPadding(to, n)
    }
    case DOT: return v128.store(to, f32x4.replace_lane(splat(0), 0, dot(ra, rb, c)))
    case UNARY: return unary(b, to, ra, n)
    case SOFTMAX: return softmax(to, ra, n, load<f32>(i, 32))
    case NORM: return norm(b, to, ra, n, load<f32>(i, 32))
    case SLICE: return fetch(to, at(ra, b), n)
    case CONCAT: {
      v128.store(at(to, up4(n) - 4), splat(0))
      put(to, ra, c)
      put(at(to, c), rb, n - c)
      return
    }
    case NEXT: return fetch(at(after, index), ra, up4(n))
    case OUTPUT: return put(at(y, index), ra, n)
  }
}

/** Its cotangents. */
function backward(i: usize, plan: usize): void {
  const op = load<i32>(i), n = load<i32>(i, 8), a = load<i32>(i, 12), b = load<i32>(i, 16), c = load<i32>(i, 20)
  const d = load<i32>(i, 24), e = load<i32>(i, 28), index = load<i32>(i, 4)
  const to = at(r, index), ra = at(r, a), rb = at(r, b), g = at(dr, index), da = at(dr, a), db = at(dr, b)
  switch (op) {
    case STATE: return accumulate(at(dstate, a), g, n)
    case PARAMETER: return accumulate(at(dslow, a), g, n)
    case READ: {
      const M = at(matrices(d, e), b), rows = up4(c), width = up4(n)
      const write = load<usize>(plan)
      if (!write) return readBackward(M, at(d ? dslow : dstate, b), ra, da, g, rows, width)
      if (load<i32>(plan, 28)) for (let j = 0; j < width; j += 4) v128.store(at(g, j), unlessVanished(v128.load(at(g, j))))
      readAlong(M, da, g, rows, width)
      return wait(write, at(dstate, b), ra, g, rows, width)
    }
    case WRITE: {
      const l = decayOf(i)
      const dM = at(dstate, index), last = at(before, index), rows = up4(c), width = up4(n)
      const waiting = load<i32>(plan)
      if (waiting && e < 0 && decays(i)) {
        const along = writeBackwardDecayed(waiting, l, last, plan, dM, ra, da, rb, db, rows, width)
        if (d >= 0) store<f32>(at(dr, d), load<f32>(at(dr, d)) + along)
        return
      }
      if (waiting && e < 0) return writeBackwardWaiting(waiting, plan, dM, ra, da, rb, db, rows, width)
      if (waiting == 1) return writeBackwardSloped(shiftOf(e), at(after, index), plan, dM, ra, da, rb, db, rows, width)
      addWaiting(plan, dM, rows, width)
      if (e >= 0) activationBackward(e, dM, at(after, index), last, ra, rb, splat(l), c, n)
      if (d >= 0) store<f32>(at(dr, d), load<f32>(at(dr, d)) + dot(dM, last, rows * width))
      return writeBackward(dM, ra, da, rb, db, l, rows, width)
    }
    case ADD: {
      accumulate(da, g, n)
      return accumulate(db, g, n)
    }
    case SUB: {
      accumulate(da, g, n)
      return accumulateTimes(db, g, splat(-1), n)
    }
    case MUL: {
      for (let j = 0; j < n; j += 4) {
        const gj = v128.load(at(g, j))
        v128.store(at(da, j), madd(gj, v128.load(at(rb, j)), v128.load(at(da, j))))
        v128.store(at(db, j), madd(gj, v128.load(at(ra, j)), v128.load(at(db, j))))
      }
      return
    }
    case AFFINE: return accumulateTimes(da, g, v128.load32_splat(i, 32), n)
    case TIMES: {
      accumulateTimes(da, g, v128.load32_splat(rb), n)
      return store<f32>(db, load<f32>(db) + dot(ra, g, n))
    }
    case DOT: {
      accumulateTimes(da, rb, v128.load32_splat(g), c)
      return accumulateTimes(db, ra, v128.load32_splat(g), c)
    }
    case UNARY: return unaryBackward(b, ra, to, g, da, n)
    case SOFTMAX: {
      const along = splat(dot(g, to, n))
      for (let j = 0; j < n; j += 4)
        v128.store(at(da, j), madd(v128.load(at(to, j)), f32x4.sub(v128.load(at(g, j)), along), v128.load(at(da, j))))
      return
    }
    case NORM: return normBackward(b, to, g, ra, da, n, load<f32>(i, 32))
    case SLICE: return accumulateEach(at(da, b), g, n)
    case CONCAT: {
      accumulateEach(da, g, c)
      return accumulateEach(db, at(g, c), n - c)
    }
    case NEXT: {
      for (let j = 0; j < n; j += 4) {
        const next = at(dstate, index + j)
        v128.store(at(da, j), f32x4.add(v128.load(at(da, j)), v128.load(next)))
        v128.store(next, splat(0))
      }
      return
    }
    case OUTPUT: {
      for (let j = 0; j < n; j += 4) v128.store(at(da, j), f32x4.add(v128.load(at(da, j)), vload(at(dy, index + j), n - j)))
      return
    }
  }
}

/** Whether an instruction writes a matrix, as it is, and the one behind it reads that: these two are done together. */
@inline function isWriteRead(i: usize, last: usize): bool {
  const next = i + INSTRUCTION
  if (next >= last || load<i32>(i) != WRITE || load<i32>(i, 28) >= 0) return false
  return load<i32>(next) == READ && !load<i32>(next, 24) && load<i32>(next, 28) != 0 && load<i32>(next, 16) == load<i32>(i, 4)
}

@inline function decayOf(i: usize): f32 {
  const d = load<i32>(i, 24)
  return d < 0 ? load<f32>(i, 32) : load<f32>(at(r, d))
}

function forwardWriteRead(i: usize): void {
  const next = i + INSTRUCTION, index = load<i32>(i, 4), k = load<i32>(i, 12), u = load<i32>(i, 16), q = load<i32>(next, 12)
  const rows = up4(load<i32>(i, 20)), width = up4(load<i32>(i, 8)), y = at(r, load<i32>(next, 4))
  writeRead(at(after, index), at(before, index), at(r, k), at(r, u), decayOf(i), at(r, q), y, rows, width)
}

/** All instructions of a token, of which inputs come first (engine/nets/program.ts). */
function forwardAll(first: usize, last: usize): void {
  let i = first
  for (; load<i32>(i) == INPUT; i += INSTRUCTION) fetch(at(r, load<i32>(i, 4)), at(x, load<i32>(i, 12)), load<i32>(i, 8))
  for (; i < last; i += INSTRUCTION) {
    if (isWriteRead(i, last)) {
      forwardWriteRead(i)
      i += INSTRUCTION
    } else forward(i)
  }
}

/** Cotangents of a token, in the reverse order. */
function backwardAll(first: usize, last: usize, plans: usize): void {
  let i = last - INSTRUCTION, plan = plans + (i - first) / INSTRUCTION * PLAN
  for (; load<i32>(i) != INPUT; i -= INSTRUCTION, plan -= PLAN) backward(i, plan)
  for (; i >= first; i -= INSTRUCTION) put(at(dx, load<i32>(i, 12)), at(dr, load<i32>(i, 4)), load<i32>(i, 8))
}

// ---- parts: between packed arrays and memory ------------------------------------------------------------------------------------------

/** Zeros where there is no packed array. */
function loadParts(to: usize, floats: i32, packed: usize, parts: usize, end: usize): void {
  memory.fill(to, 0, <usize>floats << 2)
  if (packed) for (; parts < end; parts += PART) {
    const rows = load<i32>(parts, 4), columns = load<i32>(parts, 8)
    let from = at(packed, load<i32>(parts)), m = at(to, load<i32>(parts, 12))
    for (let i = 0; i < rows; i++) {
      memory.copy(m, from, <usize>columns << 2)
      from = at(from, columns)
      m = at(m, up4(columns))
    }
  }
}

/** Nowhere where there is no packed array. */
function storeParts(packed: usize, from: usize, parts: usize, end: usize): void {
  if (packed) for (; parts < end; parts += PART) {
    const rows = load<i32>(parts, 4), columns = load<i32>(parts, 8)
    let to = at(packed, load<i32>(parts)), m = at(from, load<i32>(parts, 12))
    for (let i = 0; i < rows; i++) {
      memory.copy(to, m, <usize>columns << 2)
      to = at(to, columns)
      m = at(m, up4(columns))
    }
  }
}

// ---- kernels ------------------------------------------------------------------------------------------------------------------------

/** Scratch is dealt out from here; the spare 64 bytes keep blocks from lying a multiple of 4096 bytes apart. Counted in engine/devices/wasm/net.ts. */
let top: usize = 0
function take(floats: i32): usize {
  const block = top
  top += (<usize>floats << 2) + 64
  return block
}

@inline function bitsOf(tokens: usize, token: i32): i32 {
  return tokens ? load<i32>(at(tokens, token)) : TOKEN
}

export function net(begin: i32, end: i32, program: usize, xs: usize, parameters: usize, fresh: usize, s0: usize, tokens: usize, ys: usize,
  sT: usize, states: usize, T: i32, H: i32, I: i32, O: i32, S: i32, P: i32, C: i32, stateParts: i32, slowParts: i32, instructions: i32,
  registers: i32, stateFloats: i32, slowFloats: i32): void {
  top = scratch
  slow = take(slowFloats)
  r = take(registers)
  const state = take(stateFloats), start = take(stateFloats), bytes = <usize>stateFloats << 2
  before = state
  after = state
  kept = false
  const parts = program + <usize>stateParts * PART, first = parts + <usize>slowParts * PART, last = first + <usize>instructions * INSTRUCTION
  const spans = (T - 1) / C + 1
  for (let head = begin; head < end; head++) {
    loadParts(slow, slowFloats, rowOf(parameters, head % H, P), parts, first)
    loadParts(start, stateFloats, rowOf(fresh, head % H, S), program, parts)
    if (s0) loadParts(state, stateFloats, rowOf(s0, head, S), program, parts)
    else memory.copy(state, start, bytes)
    for (let t = 0; t < T; t++) {
      if (states && t % C == 0) memory.copy(rowOf(states, head * spans + t / C, stateFloats), state, bytes)
      const token = head / H * T + t, row = token * H + head % H
      const bits = bitsOf(tokens, token)
      y = rowOf(ys, row, O)
      if (bits & BEGINS) memory.copy(state, start, bytes)
      if (!(bits & TOKEN)) {
        memory.fill(y, 0, <usize>O << 2)
        continue
      }
      x = rowOf(xs, row, I)
      forwardAll(first, last)
    }
    storeParts(rowOf(sT, head, S), state, program, parts)
  }
}

export function netBackward(begin: i32, end: i32, program: usize, xs: usize, parameters: usize, fresh: usize, s0: usize, tokens: usize,
  states: usize, dys: usize, dsT: usize, dxs: usize, dparameters: usize, dfresh: usize, ds0: usize, T: i32, H: i32, I: i32, O: i32, S: i32,
  P: i32, C: i32, stateParts: i32, slowParts: i32, instructions: i32, registers: i32, stateFloats: i32, slowFloats: i32): void {
  top = scratch
  slow = take(slowFloats)
  dslow = take(slowFloats)
  let drs = take(registers), others = take(registers)
  dstate = take(stateFloats)
  y = take(O)
  const start = take(stateFloats), dstart = take(stateFloats)
  const n = min(C, T), all = take(n * registers), afters = take(n * stateFloats), befores = take(n), plans = take(instructions * (<i32>PLAN >> 2))
  const parts = program + <usize>stateParts * PART, first = parts + <usize>slowParts * PART, last = first + <usize>instructions * INSTRUCTION
  const spans = (T - 1) / C + 1
  makePlans(plans, first, last)
  for (let head = begin; head < end; head++) {
    loadParts(slow, slowFloats, rowOf(parameters, head % H, P), parts, first)
    loadParts(start, stateFloats, rowOf(fresh, head % H, S), program, parts)
    loadParts(dstate, stateFloats, rowOf(dsT, head, S), program, parts)
    memory.fill(dslow, 0, <usize>slowFloats << 2)
    memory.fill(dstart, 0, <usize>stateFloats << 2)
    for (let span = spans - 1; span >= 0; span--) {
      const t0 = span * C, m = min(C, T - t0)
      const token = head / H * T + t0
      let state = rowOf(states, head * spans + span, stateFloats)
      kept = C == 1 && span < spans - 1
      const made = kept ? rowOf(state, 1, stateFloats) : afters
      for (let t = 0; t < m; t++) {
        const bits = bitsOf(tokens, token + t)
        if (bits & BEGINS) state = start
        store<usize>(at(befores, t), state)
        if (!(bits & TOKEN)) continue
        x = rowOf(xs, (token + t) * H + head % H, I)
        r = rowOf(all, t, registers)
        before = state
        after = rowOf(made, t, stateFloats)
        forwardAll(first, last)
        state = after
      }
      for (let t = m - 1; t >= 0; t--) {
        const bits = bitsOf(tokens, token + t), row = (token + t) * H + head % H
        dx = rowOf(dxs, row, I)
        if (bits & TOKEN) {
          dy = rowOf(dys, row, O)
          r = rowOf(all, t, registers)
          before = load<usize>(at(befores, t))
          after = rowOf(made, t, stateFloats)
          dr = drs
          drs = others
          others = dr
          memory.fill(dr, 0, <usize>registers << 2)
          backwardAll(first, last, plans)
        } else memory.fill(dx, 0, <usize>I << 2)
        if (bits & BEGINS) {
          addAllWaiting(plans, first, last)
          settle(dstart, stateFloats)
        }
      }
      addAllWaiting(plans, first, last)
    }
    if (!s0) settle(dstart, stateFloats)
    storeParts(rowOf(dparameters, head, P), dslow, parts, first)
    storeParts(rowOf(dfresh, head, S), dstart, program, parts)
    storeParts(rowOf(ds0, head, S), dstate, program, parts)
  }
}

/** A sequence begins: what its state asks for belongs to `fresh`. */
function settle(dstart: usize, floats: i32): void {
  accumulate(dstart, dstate, floats)
  memory.fill(dstate, 0, <usize>floats << 2)
}
