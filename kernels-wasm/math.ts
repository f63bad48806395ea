/**
 * Elementary functions on four floats at a time: the same instructions for whole vectors and for padded tails, so that the value of an
 * element never depends on where in its array it lies.
 *
 * Accuracy: about 1e-7 relative (tanh, sigmoid, elu, silu, gelu, softplus too, near 0 and far from it), sin and cos about 1e-7 absolute.
 * NaN in, NaN out. The polynomials are minimax fits on their
 * interval. Pinned by test/ops/wasm.test.ts.
 *
 * `pmin` and `pmax` are one x86 instruction where `min` and `max` are five; pmax(x, c) is `x < c ? c : x` and so keeps a NaN in x.
 */

/** a * b + c: fused where the relaxed instructions are on. */
@inline export function madd(a: v128, b: v128, c: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_madd(a, b, c)
  return f32x4.add(f32x4.mul(a, b), c)
}

@inline export function splat(x: f32): v128 {
  return f32x4.splat(x)
}

// Constants live in memory and are loaded where they are used: given as immediates, the engine keeps them in registers across the loop,
// of which there are not enough, and what it then moves about costs more than the arithmetic (exp: 1.8 ns an element instead of 1.1).

@inline function constant(address: usize): v128 {
  return v128.load32_splat(address)
}

/** ((c[0] x + c[1]) x + ...) x + c[degree]. */
@inline function polynomial2(c: usize, x: v128): v128 {
  return madd(madd(constant(c), x, constant(c + 4)), x, constant(c + 8))
}

@inline function polynomial4(c: usize, x: v128): v128 {
  return madd(madd(polynomial2(c, x), x, constant(c + 12)), x, constant(c + 16))
}

/** 1.5 * 2^23: adding it rounds |x| < 2^22 to an integer, which is then found in the low bits. */
const ROUND = memory.data<f32>([12582912])
const LOG2E = memory.data<f32>([1.44269504])
/** ln 2 in two parts: the first has 9 bits of mantissa, so that n times it is exact for |n| < 2^15. */
const LN2_HIGH = memory.data<f32>([0.693359375])
const MINUS_LN2_HIGH = memory.data<f32>([-0.693359375])
const MINUS_LN2_LOW = memory.data<f32>([2.12194440e-4])
const EXP_RANGE = memory.data<f32>([-87.4, 89])
/** (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2. */
const EXP = memory.data<f32>([0.0013946554, 0.0083666444, 0.04166628, 0.16666542, 0.5])
/** 2 (atanh(s) / s - 1) / s^2 as a polynomial in s^2, for s <= 0.172 and for s <= 1/3. */
const ATANH = memory.data<f32>([0.29847831, 0.39978603, 0.66666764])
const ATANH_WIDE = memory.data<f32>([0.24257466, 0.2144019, 0.28615612, 0.39998931, 0.66666675])
/** (sin r - r) / r^3 and (cos r - 1 + r^2 / 2) / r^4 as polynomials in r^2, |r| <= pi / 4. */
const SIN = memory.data<f32>([-0.00019517272, 0.0083321789, -0.16666655])
const COS = memory.data<f32>([2.4439121e-5, -0.0013887375, 0.041666646])

/** n + ROUND for n = the integer nearest to x / ln 2. */
@inline function roundedLog2(x: v128): v128 {
  return madd(x, constant(LOG2E), constant(ROUND))
}

/** e^r - 1 for r = x - n ln 2, |r| <= ln(2) / 2. */
@inline function reducedExpm1(x: v128, rounded: v128): v128 {
  const n = f32x4.sub(rounded, constant(ROUND))
  const r = madd(n, constant(MINUS_LN2_LOW), madd(n, constant(MINUS_LN2_HIGH), x))
  return madd(f32x4.mul(polynomial4(EXP, r), r), r, r)
}

/** e^x = 2 (2^(n-1) e^r): the factor 2 apart reaches n = 128 and so overflows to infinity where it should. Below 1.2e-38 it is 0. */
@inline export function exp(x: v128): v128 {
  const t = f32x4.pmin(f32x4.pmax(x, constant(EXP_RANGE)), constant(EXP_RANGE + 4))
  const rounded = roundedLog2(t)
  const e = f32x4.add(reducedExpm1(t, rounded), splat(1))
  const half = f32x4.mul(e, i32x4.add(i32x4.shl(rounded, 23), i32x4.splat(126 << 23)))
  return f32x4.add(half, half)
}

/** e^x - 1 for x <= 0, = 2^n (e^r - 1) + (2^n - 1): n = 0 near 0, hence no cancellation. */
@inline export function expm1Negative(x: v128): v128 {
  const t = f32x4.pmax(x, splat(-60))
  const rounded = roundedLog2(t)
  const power = i32x4.add(i32x4.shl(rounded, 23), i32x4.splat(127 << 23))
  return madd(reducedExpm1(t, rounded), power, f32x4.sub(power, splat(1)))
}

/**
 * x = 2^k m, m in [sqrt(1/2), sqrt 2); f = m - 1, s = f / (2 + f), log m = 2 atanh(s) = f - s (f - s^2 R(s^2)).
 * log 0 = -inf, log of a negative number is NaN.
 */
@inline export function log(x: v128): v128 {
  const small = f32x4.lt(x, splat(1.17549435e-38))
  const bits = v128.bitselect(f32x4.mul(x, splat(8388608)), x, small)
  const offset = i32x4.sub(bits, i32x4.splat(0x3f3504f3))
  const exponent = i32x4.sub(i32x4.shr_s(offset, 23), v128.and(small, i32x4.splat(23)))
  const f = f32x4.sub(i32x4.add(v128.and(offset, i32x4.splat(0x7fffff)), i32x4.splat(0x3f3504f3)), splat(1))
  const s = f32x4.div(f, f32x4.add(f, splat(2)))
  const z = f32x4.mul(s, s)
  const k = f32x4.convert_i32x4_s(exponent)
  // f - s (f - z R), with the low part of k ln 2 joined to the small term
  const low = madd(s, f32x4.sub(f, f32x4.mul(z, polynomial2(ATANH, z))), f32x4.mul(k, constant(MINUS_LN2_LOW)))
  const y = madd(k, constant(LN2_HIGH), f32x4.sub(f, low))
  const finite = v128.and(f32x4.gt(x, splat(0)), f32x4.lt(x, splat(Infinity)))
  const special = v128.bitselect(splat(-Infinity), v128.bitselect(splat(NaN), x, f32x4.lt(x, splat(0))), f32x4.eq(x, splat(0)))
  return v128.bitselect(y, special, finite)
}

@inline export function sigmoid(x: v128): v128 {
  return f32x4.div(splat(1), f32x4.add(splat(1), exp(f32x4.neg(x))))
}

/** Copies the sign of x to y >= 0. */
@inline function withSign(y: v128, x: v128): v128 {
  return v128.or(y, v128.and(x, i32x4.splat(0x80000000)))
}

/** tanh |x| = -e / (e + 2), e = expm1(-2 |x|). */
@inline export function tanh(x: v128): v128 {
  const e = expm1Negative(f32x4.mul(f32x4.abs(x), splat(-2)))
  return withSign(f32x4.abs(f32x4.div(e, f32x4.add(e, splat(2)))), x)
}

/** max(x, 0) + log(1 + u), u = e^-|x| in [0, 1]: log(1 + u) = 2 atanh(s), s = u / (2 + u) <= 1/3. */
@inline export function softplus(x: v128): v128 {
  const u = exp(f32x4.neg(f32x4.abs(x)))
  const s = f32x4.div(u, f32x4.add(u, splat(2)))
  const z = f32x4.mul(s, s)
  const s2 = f32x4.add(s, s)
  return f32x4.add(f32x4.pmax(x, splat(0)), madd(f32x4.mul(s, z), polynomial4(ATANH_WIDE, z), s2))
}

/** gelu(x) = x/2 (1 + tanh u) = x sigmoid(2u); this is 2u = 2 sqrt(2/pi) (x + 0.044715 x^3). */
@inline export function geluArgument(x: v128): v128 {
  const x2 = f32x4.mul(x, x)
  return f32x4.mul(x, madd(x2, splat(0.07135481627), splat(1.59576912161)))
}

@inline export function elu(x: v128): v128 {
  return v128.bitselect(x, expm1Negative(x), f32x4.gt(x, splat(0)))
}

/** sin (shift = 0) or cos (shift = 1) of r + quadrant * pi/2, |r| <= pi/4. */
@inline export function sineOfReduced(r: v128, quadrant: v128, shift: i32): v128 {
  const q = i32x4.add(quadrant, i32x4.splat(shift))
  const z = f32x4.mul(r, r)
  const s = madd(f32x4.mul(r, z), polynomial2(SIN, z), r)
  const c = madd(f32x4.mul(z, z), polynomial2(COS, z), madd(z, splat(-0.5), splat(1)))
  const odd = i32x4.ne(v128.and(q, i32x4.splat(1)), i32x4.splat(0))
  const sign = i32x4.shl(v128.and(q, i32x4.splat(2)), 30)
  return v128.xor(v128.bitselect(c, s, odd), sign)
}

@inline function reduceHalf(x: v128): v128 {
  return f64x2.sub(x, f64x2.mul(f64x2.nearest(f64x2.mul(x, f64x2.splat(2 / Math.PI))), f64x2.splat(Math.PI / 2)))
}

@inline function quadrantHalf(x: v128): v128 {
  return i32x4.trunc_sat_f64x2_s_zero(f64x2.nearest(f64x2.mul(x, f64x2.splat(2 / Math.PI))))
}

/** The reduction runs in float64: good to 1e-7 up to |x| = 1e8, then worse and worse, but within [-1, 1] always. */
@inline function sine(x: v128, shift: i32): v128 {
  const low = f64x2.promote_low_f32x4(x)
  const high = f64x2.promote_low_f32x4(i64x2.shuffle(x, x, 1, 1))
  const reduced = i64x2.shuffle(f32x4.demote_f64x2_zero(reduceHalf(low)), f32x4.demote_f64x2_zero(reduceHalf(high)), 0, 2)
  const r = f32x4.pmin(f32x4.pmax(reduced, splat(-0.7853982)), splat(0.7853982))
  return sineOfReduced(r, i64x2.shuffle(quadrantHalf(low), quadrantHalf(high), 0, 2), shift)
}

/** The table of unary operations; `op` is the index in `unaryOps` of engine/devices/kernels.ts. A constant op folds to its case. */
@inline export function applyUnary(op: i32, x: v128): v128 {
  switch (op) {
    case 0: return f32x4.neg(x)
    case 1: return f32x4.abs(x)
    case 2: return exp(x)
    case 3: return log(x)
    case 4: return f32x4.sqrt(x)
    case 5: return f32x4.mul(x, x)
    case 6: return f32x4.div(splat(1), x)
    case 7: return sine(x, 0)
    case 8: return sine(x, 1)
    case 9: return sigmoid(x)
    case 10: return tanh(x)
    case 11: return f32x4.pmax(x, splat(0))
    case 12: return elu(x)
    case 13: return f32x4.div(x, f32x4.add(splat(1), exp(f32x4.neg(x))))
    case 14: return f32x4.div(x, f32x4.add(splat(1), exp(f32x4.neg(geluArgument(x)))))
    case 15: return softplus(x)
    default: return x
  }
}

/**
 * dy times the derivative of x sigmoid(z): s (1 + x z' (1 - s)), s = 1 / (1 + e^-z). 1 - s is e^-z s, free of cancellation; e^-z is kept
 * finite for it.
 */
@inline function gateBackward(z: v128, xSlope: v128, dy: v128): v128 {
  const e = exp(f32x4.pmin(f32x4.neg(z), splat(80)))
  const s = f32x4.div(splat(1), f32x4.add(splat(1), e))
  return f32x4.mul(f32x4.mul(dy, s), madd(xSlope, f32x4.mul(e, s), splat(1)))
}

/** e^-|x| / (1 + e^-|x|)^2, the derivative of the sigmoid. */
@inline function bell(x: v128): v128 {
  const e = exp(f32x4.neg(f32x4.abs(x)))
  const d = f32x4.add(splat(1), e)
  return f32x4.div(e, f32x4.mul(d, d))
}

/** dy * op'(x), given y = op(x); from x where y has lost the digits that matter (1 - y^2 of a saturated tanh). */
@inline export function applyUnaryBackward(op: i32, x: v128, y: v128, dy: v128): v128 {
  switch (op) {
    case 0: return f32x4.neg(dy)
    case 1: return v128.andnot(v128.xor(dy, v128.and(x, i32x4.splat(0x80000000))), f32x4.eq(x, splat(0)))
    case 2: return f32x4.mul(dy, y)
    case 3: return f32x4.div(dy, x)
    case 4: return f32x4.div(f32x4.mul(dy, splat(0.5)), y)
    case 5: return f32x4.mul(dy, f32x4.add(x, x))
    case 6: return f32x4.neg(f32x4.mul(dy, f32x4.mul(y, y)))
    case 7: return f32x4.mul(dy, sine(x, 1))
    case 8: return f32x4.neg(f32x4.mul(dy, sine(x, 0)))
    case 9: return f32x4.mul(dy, bell(x))
    case 10: return f32x4.mul(f32x4.mul(dy, splat(4)), bell(f32x4.add(x, x)))
    case 11: return v128.andnot(dy, f32x4.le(x, splat(0)))
    case 12: return v128.bitselect(dy, f32x4.mul(dy, exp(x)), f32x4.gt(x, splat(0)))
    case 13: return gateBackward(x, x, dy)
    case 14: return gateBackward(geluArgument(x), f32x4.mul(x, madd(f32x4.mul(x, x), splat(0.21406444881), splat(1.59576912161))), dy)
    case 15: return f32x4.mul(dy, sigmoid(x))
    default: return dy
  }
}

/** `applyUnary` with an op known only at run time: the epilogue of the matrix product, programs of nets. */
export function vunary(op: i32, x: v128): v128 {
  return applyUnary(op, x)
}

/** `applyUnaryBackward` likewise. */
export function vunaryBackward(op: i32, x: v128, y: v128, dy: v128): v128 {
  return applyUnaryBackward(op, x, y, dy)
}
