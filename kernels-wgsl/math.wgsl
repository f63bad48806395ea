// Elementary functions, better than WGSL promises of its own (exp may be off by (3 + 2 |x|) units in the last place, sin by 2^-11): about
// 1e-7 relative over all of float32 (gelu far below 0: 1e-5, from the rounding of its exponent), sin and cos about 1e-7 absolute. NaN in, NaN out.
// Results below 2e-38 may be 0, and so may what is made of smaller numbers. The polynomials are those of kernels-wasm/math.ts.
// Products and sums may be fused or not: nothing here depends on it. A driver may add in another order, as Metal's fast math does: parts of a constant are taken away by
// fma, one after the other, and e^x - 1 near 0 has no 1 in it. Values are pinned by test/ops/range.test.ts, on drivers that keep the order.

const LOG2E = 1.44269504;
/// ln 2 in two parts: n times the first is exact for |n| < 2^15.
const LN2_HIGH = 0.693359375;
const LN2_LOW = -2.12194440e-4;

/// From -z and z on e^-z comes near to what float32 holds, and is nothing beside 1.
const GATE_FAR = 87.0;

/// 2^n for -126 <= n <= 127.
fn power2(n: f32) -> f32 { return bitcast<f32>(u32(i32(n) + 127) << 23u); }

/// e^r - 1 for r = x - n ln 2, |r| <= ln(2) / 2.
fn reducedExpm1(x: f32, n: f32) -> f32 {
  let r = fma(-n, LN2_LOW, fma(-n, LN2_HIGH, x));
  let p = (((0.0013946554 * r + 0.0083666444) * r + 0.04166628) * r + 0.16666542) * r + 0.5;
  return (p * r) * r + r;
}

/// e^x = 2^n e^r, 2^128 in two steps. Below 1.2e-38 it is 0.
fn expOf(x: f32) -> f32 {
  if (isNan(x)) { return x; }
  if (x > 88.72284) { return infinity(); }
  if (x < -87.33655) { return 0.0; }
  let n = round(x * LOG2E);
  let last = select(0.0, 1.0, n > 127.0);
  return ((reducedExpm1(x, n) + 1.0) * power2(n - last)) * (1.0 + last);
}

/// e^x - 1 for x <= 0, = 2^n (e^r - 1) + (2^n - 1): no cancellation near 0.
fn expm1Negative(x: f32) -> f32 {
  if (isNan(x)) { return x; }
  if (x < -60.0) { return -1.0; }
  let n = round(x * LOG2E);
  let e = reducedExpm1(x, n);
  let p = power2(n);
  return select(e * p + (p - 1.0), e, n == 0.0);
}

/// x = 2^k m, m in [sqrt(1/2), sqrt 2); f = m - 1, s = f / (2 + f), log m = 2 atanh(s) = f - s (f - s^2 R(s^2)).
fn logOf(x: f32) -> f32 {
  let size = bitcast<u32>(x) & 0x7fffffffu;
  if (size == 0u) { return -infinity(); }
  if (isNan(x) || size != bitcast<u32>(x)) { return nan(); }
  if (isInfinite(x)) { return x; }
  // A denormal number is its bits times 2^-149: as a float it is 0 to some devices.
  let small = size < 0x00800000u;
  let bits = bitcast<i32>(select(x, f32(size), small)) - 0x3f3504f3;
  let k = f32((bits >> 23u) - select(0, 149, small));
  let f = bitcast<f32>((bits & 0x7fffff) + 0x3f3504f3) - 1.0;
  let s = f / (f + 2.0);
  let z = s * s;
  let r = (0.29847831 * z + 0.39978603) * z + 0.66666764;
  let low = s * (f - z * r) - k * LN2_LOW;
  return k * LN2_HIGH + (f - low);
}

/// Where 1 + e^-x isn't finite, or so large that a device may divide by it badly, it is e^x.
fn sigmoidOf(x: f32) -> f32 {
  if (isNan(x)) { return x; }
  if (x < -GATE_FAR) { return expOf(x); }
  return 1.0 / (1.0 + expOf(-x));
}

fn withSign(y: f32, x: f32) -> f32 { return bitcast<f32>(bitcast<u32>(y) | (bitcast<u32>(x) & 0x80000000u)); }

/// tanh |x| = -e / (e + 2), e = expm1(-2 |x|).
fn tanhOf(x: f32) -> f32 {
  let e = expm1Negative(-2.0 * abs(x));
  return withSign(abs(e / (e + 2.0)), x);
}

/// max(x, 0) + log(1 + u), u = e^-|x| in [0, 1]: log(1 + u) = 2 atanh(s), s = u / (2 + u) <= 1/3.
fn softplusOf(x: f32) -> f32 {
  let u = expOf(-abs(x));
  let s = u / (u + 2.0);
  let z = s * s;
  let p = (((0.24257466 * z + 0.2144019) * z + 0.28615612) * z + 0.39998931) * z + 0.66666675;
  return reluOf(x) + ((s * z) * p + (s + s));
}

/// All in integers: 0 for -0 to -infinity.
fn reluOf(x: f32) -> f32 {
  let bits = bitcast<u32>(x);
  return bitcast<f32>(select(bits, 0u, bits - 0x80000000u <= 0x7f800000u));
}

/// gelu(x) = x/2 (1 + tanh u) = x sigmoid(2u); this is 2u = 2 sqrt(2/pi) (x + 0.044715 x^3).
fn geluArgument(x: f32) -> f32 { return x * ((x * x) * 0.07135481627 + 1.59576912161); }

fn eluOf(x: f32) -> f32 {
  if (isNan(x) || x > 0.0) { return x; }
  return expm1Negative(x);
}

/// sin (shift = 0) or cos (shift = 1) of r + quadrant pi/2, |r| <= pi/4.
fn sineOfReduced(r: f32, quadrant: i32, shift: i32) -> f32 {
  let q = quadrant + shift;
  let z = r * r;
  let s = (r * z) * ((-0.00019517272 * z + 0.0083321789) * z - 0.16666655) + r;
  let c = (z * z) * ((2.4439121e-5 * z - 0.0013887375) * z + 0.041666646) + (1.0 - 0.5 * z);
  return select(s, c, (q & 1) == 1) * select(1.0, -1.0, (q & 2) == 2);
}

/// x - n pi/2 with pi/2 in four parts, the first three of 9 bits: n has 15, so that the products are exact.
fn sineOf(x: f32, shift: i32) -> f32 {
  if (isNan(x) || isInfinite(x)) { return nan(); }
  if (abs(x) >= 5e4) { return sineFar(x, shift); }
  let n = round(x * 0.63661977);
  let r = fma(-n, 6.0771005e-11, fma(-n, 3.1385571e-7, fma(-n, 4.8351288e-4, fma(-n, 1.5703125, x))));
  return sineOfReduced(r, i32(n), shift);
}

/// 2/pi, its bits from the first behind the point on, after 32 zeros.
const TWO_OVER_PI = array<u32, 7>(0u, 0xa2f9836eu, 0x4e441529u, 0xfc2757d1u, 0xf534ddc0u, 0xdb629599u, 0x3c439041u);

/// Payne & Hanek 1983, for |x| = m 2^e, m of 24 bits: in quarter turns that is m (2^e 2/pi), of which whole turns don't matter. (high, low) are
/// the first 32 and the next 24 bits of 2^e 2/pi mod 4: the product, mod 2^32, is the angle mod 4 in units of 2^-30.
fn sineFar(x: f32, shift: i32) -> f32 {
  let bits = bitcast<u32>(x);
  let m = (bits & 0x7fffffu) | 0x800000u;
  let at = ((bits >> 23u) & 255u) - 120u; // 30 + e: two bits before the point, 32 zeros
  let word = at >> 5u;
  let skipped = at & 31u;
  let high = (TWO_OVER_PI[word] << skipped) | ((TWO_OVER_PI[word + 1u] >> 1u) >> (31u - skipped));
  let low = ((TWO_OVER_PI[word + 1u] << skipped) | ((TWO_OVER_PI[word + 2u] >> 1u) >> (31u - skipped))) >> 8u;
  // m low / 2^24, by halves of 12 bits.
  let a = vec2(m >> 12u, m & 0xfffu);
  let b = vec2(low >> 12u, low & 0xfffu);
  let angle = m * high + a.x * b.x + ((a.x * b.y + a.y * b.x + ((a.y * b.y) >> 12u)) >> 12u);
  let quadrant = (angle + 0x20000000u) >> 30u;
  let r = f32(bitcast<i32>(angle - (quadrant << 30u))) * 1.4629181e-9; // pi/2 2^-30
  let y = sineOfReduced(r, i32(quadrant), shift);
  // sin is odd, cos is even.
  return select(y, -y, shift == 0 && bits >= 0x80000000u);
}

/// The table of unary operations, in the order of `unaryOps` of engine/devices/kernels.ts.
fn applyUnary(op: u32, x: f32) -> f32 {
  switch (op) {
    case 0u: { return -x; }
    case 1u: { return abs(x); }
    case 2u: { return expOf(x); }
    case 3u: { return logOf(x); }
    case 4u: { return sqrtOf(x); }
    case 5u: { return x * x; }
    case 6u: { return 1.0 / x; }
    case 7u: { return sineOf(x, 0); }
    case 8u: { return sineOf(x, 1); }
    case 9u: { return sigmoidOf(x); }
    case 10u: { return tanhOf(x); }
    case 11u: { return reluOf(x); }
    case 12u: { return eluOf(x); }
    case 13u: { return gated(x, x); }
    case 14u: { return gated(x, geluArgument(x)); }
    case 15u: { return softplusOf(x); }
    default: { return x; }
  }
}

fn sqrtOf(x: f32) -> f32 {
  if (isNan(x) || x < 0.0) { return nan(); }
  // Often made of 1 / sqrt, which is infinite at 0.
  if (x == 0.0 || isInfinite(x)) { return x; }
  return sqrt(x);
}

/// x sigmoid(z), where x and z have the same sign. Far below 0 it is (x e^(z/2)) e^(z/2): e^z alone would be 0 too early. x at -1000 stands for
/// all below: 0.
fn gated(x: f32, z: f32) -> f32 {
  if (isNan(x)) { return x; }
  if (z >= -GATE_FAR) { return x / (1.0 + expOf(-z)); }
  let root = expOf(0.5 * z);
  return (maxOf(x, -1000.0) * root) * root;
}

/// dy times the derivative of x sigmoid(z): s (1 + x z' (1 - s)), s = 1 / (1 + e^-z). 1 - s is e^-z s, free of cancellation. Far below 0 it is
/// dy e^z (1 + x z'), as in `gated`, far above it dy. x z' at -1e9 stands for all below: 0.
fn gateBackward(z: f32, xSlope: f32, dy: f32) -> f32 {
  if (isNan(z)) { return z; }
  if (z > GATE_FAR) { return dy; }
  if (z < -GATE_FAR) {
    let root = expOf(0.5 * z);
    return (dy * (root * (maxOf(xSlope, -1e9) + 1.0))) * root;
  }
  let e = expOf(-z);
  let s = 1.0 / (1.0 + e);
  return (dy * s) * (xSlope * (e * s) + 1.0);
}

/// dy e^-|x| / (1 + e^-|x|)^2.
fn sigmoidBackward(x: f32, dy: f32) -> f32 {
  let e = expOf(-abs(x));
  let d = 1.0 + e;
  return dy * (e / (d * d));
}

/// dy sech(x)^2, sech x = 2 e^-|x| / (1 + e^-2|x|).
fn tanhBackward(x: f32, dy: f32) -> f32 {
  let e = expOf(-abs(x));
  let sech = (e + e) / (1.0 + e * e);
  return (dy * sech) * sech;
}

fn absBackward(x: f32, dy: f32) -> f32 {
  if (isNan(x)) { return x; }
  return select(select(dy, -dy, x < 0.0), 0.0, x == 0.0);
}

fn reluBackward(x: f32, dy: f32) -> f32 {
  if (isNan(x)) { return x; }
  return select(dy, 0.0, x <= 0.0);
}

fn eluBackward(x: f32, dy: f32) -> f32 {
  if (isNan(x)) { return x; }
  if (x > 0.0) { return dy; }
  return dy * expOf(x);
}

/// dy op'(x), given y = op(x); from x where y has lost the digits that matter.
fn applyUnaryBackward(op: u32, x: f32, y: f32, dy: f32) -> f32 {
  switch (op) {
    case 0u: { return -dy; }
    case 1u: { return absBackward(x, dy); }
    case 2u: { return dy * y; }
    case 3u: { return dy / x; }
    case 4u: { return (dy * 0.5) / y; }
    case 5u: { return (dy * x) * 2.0; }
    case 6u: { return -((dy * y) * y); }
    case 7u: { return dy * sineOf(x, 1); }
    case 8u: { return -(dy * sineOf(x, 0)); }
    case 9u: { return sigmoidBackward(x, dy); }
    case 10u: { return tanhBackward(x, dy); }
    case 11u: { return reluBackward(x, dy); }
    case 12u: { return eluBackward(x, dy); }
    case 13u: { return gateBackward(x, x, dy); }
    case 14u: { return gateBackward(geluArgument(x), x * ((x * x) * 0.21406444881 + 1.59576912161), dy); }
    case 15u: { return dy * sigmoidOf(x); }
    default: { return dy; }
  }
}
