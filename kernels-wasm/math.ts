/**
 * Elementary functions on four floats at a time: the same instructions for whole vectors and for padded tails, so that the value of an
 * element never depends on where in its array it lies.
 *
 * Accuracy: about 1e-7 relative over all of float32, derivatives too (gelu far below 0: 1e-5, from the rounding of its exponent); sin and cos
 * about 1e-7 absolute. Results below 2e-38 may be 0. NaN in, NaN out. The polynomials are minimax fits on their interval. Pinned by
 * test/ops/range.test.ts.
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

/**
 * The square root of one float32, by the instruction for four: V8's for one is of SSE, alone among all of these kernels, and a processor whose wide
 * registers are in use (wide.ts) takes hundreds of cycles to change over to that and back.
 */
@inline export function sqrtOf(x: f32): f32 {
  return f32x4.extract_lane(f32x4.sqrt(f32x4.splat(x)), 0)
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
const MINUS_2LOG2E = memory.data<f32>([-2.88539008])
const HALF_LN2 = memory.data<f32>([0.34657359])
const EXP_RANGE = memory.data<f32>([-87.4, 89])
/** (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2. */
const EXP = memory.data<f32>([0.0013946554, 0.0083666444, 0.04166628, 0.16666542, 0.5])
/** (1 - e^(-2 r) - 2 r) / r^2 by the same. */
const TANH = memory.data<f32>([-0.0892579456, 0.267732621, -0.66666048, 1.33332336, -2])
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

/** e^r - 1 for r = x - n ln 2, |r| <= ln(2) / 2. Pairs of terms, which don't wait for each other: what a loop of these waits for is its longest chain. */
@inline function reducedExpm1(x: v128, rounded: v128): v128 {
  const n = f32x4.sub(rounded, constant(ROUND))
  const r = madd(n, constant(MINUS_LN2_LOW), madd(n, constant(MINUS_LN2_HIGH), x))
  const square = f32x4.mul(r, r)
  const low = madd(r, constant(EXP + 12), constant(EXP + 16)), middle = madd(r, constant(EXP + 4), constant(EXP + 8))
  return madd(madd(madd(constant(EXP), square, middle), square, low), square, r)
}

/** 2^n, for n from -126 to 128, of which the last is infinity. */
@inline function powerOf2(rounded: v128): v128 {
  return i32x4.add(i32x4.shl(rounded, 23), i32x4.splat(127 << 23))
}

/** e^x = 2 (2^(n-1) e^r): the factor 2 apart reaches n = 128 and so overflows to infinity where it should. Below 1.7e-38 it is 0. */
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
  const power = powerOf2(rounded)
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

/** 1 / (1 + 2^n e^r). Below -88.4 it is 0. */
@inline export function sigmoid(x: v128): v128 {
  const t = f32x4.pmin(f32x4.pmax(f32x4.neg(x), constant(EXP_RANGE)), constant(EXP_RANGE + 4))
  const rounded = roundedLog2(t)
  return f32x4.div(splat(1), madd(f32x4.add(reducedExpm1(t, rounded), splat(1)), powerOf2(rounded), splat(1)))
}

/** Copies the sign of x to y >= 0. */
@inline function withSign(y: v128, x: v128): v128 {
  return v128.or(y, v128.and(x, i32x4.splat(0x80000000)))
}

/**
 * tanh |x| = d / (2 - d), d = 1 - e^(-2 |x|) = 2^n p + (1 - 2^n), e^(-2 |x|) = 2^n (1 - p), so that n = 0 near 0 and nothing is lost. p in r,
 * |x| = r - n ln(2) / 2. From 10 on it is 1.
 */
@inline export function tanh(x: v128): v128 {
  const t = f32x4.pmin(f32x4.abs(x), splat(10))
  const rounded = madd(t, constant(MINUS_2LOG2E), constant(ROUND))
  // What a product lacks, as n is small and exact, changes e^(-2 |x|) by less than a rounding of 1 - e^(-2 |x|).
  const r = madd(f32x4.sub(rounded, constant(ROUND)), constant(HALF_LN2), t)
  const square = f32x4.mul(r, r)
  const low = madd(r, constant(TANH + 12), constant(TANH + 16)), middle = madd(r, constant(TANH + 4), constant(TANH + 8))
  const p = madd(madd(madd(constant(TANH), square, middle), square, low), square, f32x4.add(r, r))
  const power = powerOf2(rounded)
  const d = madd(p, power, f32x4.sub(splat(1), power))
  return withSign(f32x4.div(d, f32x4.sub(splat(2), d)), x)
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

/** x times the derivative of geluArgument. */
@inline function geluSlope(x: v128): v128 {
  return f32x4.mul(x, madd(f32x4.mul(x, x), splat(0.21406444881), splat(1.59576912161)))
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

/** 2/pi, its bits from the first behind the point on. */
const TWO_OVER_PI = memory.data<u32>([0xa2f9836e, 0x4e441529, 0xfc2757d1, 0xf534ddc0, 0xdb629599, 0x3c439041])
/** From here on angles are reduced in integers. */
const FAR: f32 = 134217728

/**
 * Payne & Hanek 1983, for |x| = m 2^e >= FAR, m of 24 bits: in quarter turns that is m (2^e 2/pi), of which whole turns don't matter. `window`
 * is 2^e 2/pi mod 4 in units of 2^-62, so that the product, mod 2^64, is the angle mod 4 to within 2^-38.
 */
function sineFarLane(x: f32, shift: i32): f32 {
  const bits = reinterpret<u32>(x)
  const e = ((bits >> 23) & 255) - 150
  if (e > 104) return NaN
  const words = TWO_OVER_PI + <usize>((e - 2) >> 5 << 2)
  const skipped = <u64>((e - 2) & 31)
  const first = <u64>load<u32>(words) << 32 | <u64>load<u32>(words, 4)
  const window = first << skipped | <u64>load<u32>(words, 8) >> (32 - skipped)
  const size = window * <u64>((bits & 0x7fffff) | 0x800000)
  const angle = x < 0 ? 0 - size : size
  const quadrant = (angle + (1 << 61)) >> 62
  const r = <f32>(<f64><i64>(angle - (quadrant << 62)) * (Math.PI / 2 / 4611686018427387904))
  return f32x4.extract_lane(sineOfReduced(splat(r), i32x4.splat(<i32>quadrant), shift), 0)
}

/** y, but with the lanes whose |x| is FAR or more computed anew. */
function sineFar(x: v128, y: v128, shift: i32): v128 {
  const x0 = f32x4.extract_lane(x, 0), x1 = f32x4.extract_lane(x, 1), x2 = f32x4.extract_lane(x, 2), x3 = f32x4.extract_lane(x, 3)
  if (abs(x0) >= FAR) y = f32x4.replace_lane(y, 0, sineFarLane(x0, shift))
  if (abs(x1) >= FAR) y = f32x4.replace_lane(y, 1, sineFarLane(x1, shift))
  if (abs(x2) >= FAR) y = f32x4.replace_lane(y, 2, sineFarLane(x2, shift))
  if (abs(x3) >= FAR) y = f32x4.replace_lane(y, 3, sineFarLane(x3, shift))
  return y
}

@inline function reduceHalf(x: v128): v128 {
  return f64x2.sub(x, f64x2.mul(f64x2.nearest(f64x2.mul(x, f64x2.splat(2 / Math.PI))), f64x2.splat(Math.PI / 2)))
}

@inline function quadrantHalf(x: v128): v128 {
  return i32x4.trunc_sat_f64x2_s_zero(f64x2.nearest(f64x2.mul(x, f64x2.splat(2 / Math.PI))))
}

/** The reduction runs in float64, off by 2e-8 at most below FAR. */
@inline function sine(x: v128, shift: i32): v128 {
  const low = f64x2.promote_low_f32x4(x)
  const high = f64x2.promote_low_f32x4(i64x2.shuffle(x, x, 1, 1))
  const reduced = i64x2.shuffle(f32x4.demote_f64x2_zero(reduceHalf(low)), f32x4.demote_f64x2_zero(reduceHalf(high)), 0, 2)
  const y = sineOfReduced(reduced, i64x2.shuffle(quadrantHalf(low), quadrantHalf(high), 0, 2), shift)
  return v128.any_true(f32x4.ge(f32x4.abs(x), splat(FAR))) ? sineFar(x, y, shift) : y
}

/** From -z and z on e^-z comes near to what float32 holds, and is nothing beside 1. */
const GATE_FAR = memory.data<f32>([87])

@inline function gatedNear(x: v128, z: v128): v128 {
  return f32x4.div(x, f32x4.add(splat(1), exp(f32x4.neg(z))))
}

/** (x e^(z/2)) e^(z/2) where z is far below 0: e^z alone would be 0 too early. x at -1000 stands for all below: 0. */
function gatedFar(x: v128, z: v128): v128 {
  const root = exp(f32x4.mul(z, splat(0.5)))
  const far = f32x4.mul(f32x4.mul(f32x4.pmax(x, splat(-1000)), root), root)
  return v128.bitselect(far, gatedNear(x, z), f32x4.gt(f32x4.neg(z), constant(GATE_FAR)))
}

/** x sigmoid(z), where x and z have the same sign. */
@inline function gated(x: v128, z: v128): v128 {
  return v128.any_true(f32x4.gt(f32x4.neg(z), constant(GATE_FAR))) ? gatedFar(x, z) : gatedNear(x, z)
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
    case 13: return gated(x, x)
    case 14: return gated(x, geluArgument(x))
    case 15: return softplus(x)
    default: return x
  }
}

/** s (1 + x z' (1 - s)), s = 1 / (1 + e^-z). 1 - s is e^-z s, free of cancellation. */
@inline function gateBackwardNear(z: v128, xSlope: v128, dy: v128): v128 {
  const e = exp(f32x4.neg(z))
  const s = f32x4.div(splat(1), f32x4.add(splat(1), e))
  return f32x4.mul(f32x4.mul(dy, s), madd(xSlope, f32x4.mul(e, s), splat(1)))
}

/** Where z is far below 0 e^z (1 + x z'), as in gatedFar, and 1 where it's far above. x z' at -1e9 stands for all below: 0. */
function gateBackwardFar(z: v128, xSlope: v128, dy: v128): v128 {
  const root = exp(f32x4.mul(z, splat(0.5)))
  const below = f32x4.mul(f32x4.mul(dy, f32x4.mul(root, f32x4.add(f32x4.pmax(xSlope, splat(-1e9)), splat(1)))), root)
  const far = v128.bitselect(dy, below, f32x4.gt(z, splat(0)))
  return v128.bitselect(far, gateBackwardNear(z, xSlope, dy), f32x4.gt(f32x4.abs(z), constant(GATE_FAR)))
}

/** dy times the derivative of x sigmoid(z), given x z'. */
@inline function gateBackward(z: v128, xSlope: v128, dy: v128): v128 {
  const far = v128.any_true(f32x4.gt(f32x4.abs(z), constant(GATE_FAR)))
  return far ? gateBackwardFar(z, xSlope, dy) : gateBackwardNear(z, xSlope, dy)
}

/** dy e^-|x| / (1 + e^-|x|)^2. */
@inline function sigmoidBackward(x: v128, dy: v128): v128 {
  const e = exp(f32x4.neg(f32x4.abs(x)))
  const d = f32x4.add(splat(1), e)
  return f32x4.mul(dy, f32x4.div(e, f32x4.mul(d, d)))
}

/** dy sech(x)^2, sech x = 2 e^-|x| / (1 + e^-2|x|). */
@inline function tanhBackward(x: v128, dy: v128): v128 {
  const e = exp(f32x4.neg(f32x4.abs(x)))
  const sech = f32x4.div(f32x4.add(e, e), madd(e, e, splat(1)))
  return f32x4.mul(f32x4.mul(dy, sech), sech)
}

@inline function twice(x: v128): v128 {
  return f32x4.add(x, x)
}

/** y, but NaN where x is NaN. */
@inline export function nanOf(x: v128, y: v128): v128 {
  return v128.or(y, f32x4.ne(x, x))
}

/** dy * op'(x), given y = op(x); from x where y has lost the digits that matter (1 - y^2 of a saturated tanh). */
@inline export function applyUnaryBackward(op: i32, x: v128, y: v128, dy: v128): v128 {
  switch (op) {
    case 0: return f32x4.neg(dy)
    case 1: return nanOf(x, v128.andnot(v128.xor(dy, v128.and(x, i32x4.splat(0x80000000))), f32x4.eq(x, splat(0))))
    case 2: return f32x4.mul(dy, y)
    case 3: return f32x4.div(dy, x)
    case 4: return f32x4.div(f32x4.mul(dy, splat(0.5)), y)
    case 5: return twice(f32x4.mul(dy, x))
    case 6: return f32x4.neg(f32x4.mul(f32x4.mul(dy, y), y))
    case 7: return f32x4.mul(dy, sine(x, 1))
    case 8: return f32x4.neg(f32x4.mul(dy, sine(x, 0)))
    case 9: return sigmoidBackward(x, dy)
    case 10: return tanhBackward(x, dy)
    case 11: return nanOf(x, v128.andnot(dy, f32x4.le(x, splat(0))))
    case 12: return v128.bitselect(dy, f32x4.mul(dy, exp(x)), f32x4.gt(x, splat(0)))
    case 13: return gateBackward(x, x, dy)
    case 14: return gateBackward(geluArgument(x), geluSlope(x), dy)
    case 15: return f32x4.mul(dy, sigmoid(x))
    default: return dy
  }
}

/** Whether an op has another way far from 0, and a branch to it, at which V8 merges no vectors: silu and gelu. */
@inline export function hasFar(op: i32): bool {
  return op == 13 || op == 14
}

/** From where on, at the earliest. */
@inline export function farFrom(op: i32): f32 {
  return op == 14 ? 9.9 : 87
}

/** applyUnary where no lane is far: the same bits, without a branch. */
@inline export function nearUnary(op: i32, x: v128): v128 {
  return hasFar(op) ? gatedNear(x, op == 14 ? geluArgument(x) : x) : applyUnary(op, x)
}

@inline export function nearUnaryBackward(op: i32, x: v128, y: v128, dy: v128): v128 {
  return hasFar(op) ? gateBackwardNear(op == 14 ? geluArgument(x) : x, op == 14 ? geluSlope(x) : x, dy) : applyUnaryBackward(op, x, y, dy)
}

/** `applyUnary` with an op known only at run time, as in programs of nets, or where loops end. */
export function vunary(op: i32, x: v128): v128 {
  return applyUnary(op, x)
}

/** `applyUnaryBackward` likewise. */
export function vunaryBackward(op: i32, x: v128, y: v128, dy: v128): v128 {
  return applyUnaryBackward(op, x, y, dy)
}
