// Elementary functions, better than WGSL promises of its own (exp may be off by (3 + 2 |x|) units in the last place, sin by 2^-11): about
// 1e-7 relative, sin and cos about 1e-7 absolute. NaN in, NaN out. The polynomials are those of kernels-wasm/math.ts.
// Products and sums may be fused or not: nothing here depends on it. Pinned by test/ops/webgpu.test.ts.

const LOG2E = 1.44269504;
/// ln 2 in two parts: n times the first is exact for |n| < 2^15.
const LN2_HIGH = 0.693359375;
const LN2_LOW = -2.12194440e-4;

/// 2^n for -126 <= n <= 127.
fn power2(n: f32) -> f32 { return bitcast<f32>(u32(i32(n) + 127) << 23u); }

/// e^r - 1 for r = x - n ln 2, |r| <= ln(2) / 2.
fn reducedExpm1(x: f32, n: f32) -> f32 {
  let r = (x - n * LN2_HIGH) - n * LN2_LOW;
  let p = (((0.0013946554 * r + 0.0083666444) * r + 0.04166628) * r + 0.16666542) * r + 0.5;
  return (p * r) * r + r;
}

/// e^x = 2 (2^(n-1) e^r): the factor 2 apart reaches n = 128. Below 1.2e-38 it is 0.
fn expOf(x: f32) -> f32 {
  let t = clamp(x, -87.4, 89.0);
  let n = round(t * LOG2E);
  let half = (reducedExpm1(t, n) + 1.0) * power2(max(n - 1.0, -126.0));
  if (isNan(x)) { return x; }
  if (x > 88.72284) { return infinity(); }
  return select(half + half, 0.0, x < -87.33655);
}

/// e^x - 1 for x <= 0, = 2^n (e^r - 1) + (2^n - 1): no cancellation near 0.
fn expm1Negative(x: f32) -> f32 {
  let t = clamp(x, -60.0, 0.0);
  let n = round(t * LOG2E);
  let p = power2(n);
  let y = reducedExpm1(t, n) * p + (p - 1.0);
  if (isNan(x)) { return x; }
  return y;
}

/// x = 2^k m, m in [sqrt(1/2), sqrt 2); f = m - 1, s = f / (2 + f), log m = 2 atanh(s) = f - s (f - s^2 R(s^2)).
fn logOf(x: f32) -> f32 {
  if (isNan(x) || x < 0.0) { return nan(); }
  // Denormal numbers may be flushed: they are 0 to some devices.
  if (x == 0.0) { return -infinity(); }
  if (isInfinite(x)) { return x; }
  let small = x < 1.17549435e-38;
  let bits = bitcast<i32>(select(x, x * 8388608.0, small)) - 0x3f3504f3;
  let k = f32((bits >> 23u) - select(0, 23, small));
  let f = bitcast<f32>((bits & 0x7fffff) + 0x3f3504f3) - 1.0;
  let s = f / (f + 2.0);
  let z = s * s;
  let r = (0.29847831 * z + 0.39978603) * z + 0.66666764;
  let low = s * (f - z * r) - k * LN2_LOW;
  return k * LN2_HIGH + (f - low);
}

fn sigmoidOf(x: f32) -> f32 { return 1.0 / (1.0 + expOf(select(-x, 88.0, x < -88.0))); }

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

fn reluOf(x: f32) -> f32 { return select(x, 0.0, x <= 0.0); }

/// gelu(x) = x/2 (1 + tanh u) = x sigmoid(2u); this is 2u = 2 sqrt(2/pi) (x + 0.044715 x^3).
fn geluArgument(x: f32) -> f32 { return x * ((x * x) * 0.07135481627 + 1.59576912161); }

fn eluOf(x: f32) -> f32 {
  if (x > 0.0) { return x; }
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

/// x - n pi/2 with pi/2 in four parts, the first three of 8 bits: exact products up to |x| = 1e5. Beyond, only bounded.
fn sineOf(x: f32, shift: i32) -> f32 {
  if (isNan(x) || isInfinite(x)) { return nan(); }
  let n = round(clamp(x, -1e8, 1e8) * 0.63661977);
  let r = (((x - n * 1.5703125) - n * 4.8351288e-4) - n * 3.1385571e-7) - n * 6.0771005e-11;
  return sineOfReduced(clamp(r, -0.7853982, 0.7853982), i32(n), shift);
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

/// x sigmoid(z), where x and z have the same sign.
fn gated(x: f32, z: f32) -> f32 { return x / (1.0 + expOf(-z)); }

/// dy times the derivative of x sigmoid(z): s (1 + x z' (1 - s)), s = 1 / (1 + e^-z). 1 - s is e^-z s, free of cancellation.
fn gateBackward(z: f32, xSlope: f32, dy: f32) -> f32 {
  let e = expOf(select(-z, 80.0, z < -80.0));
  let s = 1.0 / (1.0 + e);
  return (dy * s) * (xSlope * (e * s) + 1.0);
}

/// e^-|x| / (1 + e^-|x|)^2, the derivative of the sigmoid.
fn bell(x: f32) -> f32 {
  let e = expOf(-abs(x));
  let d = 1.0 + e;
  return e / (d * d);
}

/// dy op'(x), given y = op(x); from x where y has lost the digits that matter.
fn applyUnaryBackward(op: u32, x: f32, y: f32, dy: f32) -> f32 {
  switch (op) {
    case 0u: { return -dy; }
    case 1u: { return select(select(dy, -dy, x < 0.0), 0.0, x == 0.0); }
    case 2u: { return dy * y; }
    case 3u: { return dy / x; }
    case 4u: { return (dy * 0.5) / y; }
    case 5u: { return dy * (x + x); }
    case 6u: { return -(dy * (y * y)); }
    case 7u: { return dy * sineOf(x, 1); }
    case 8u: { return -(dy * sineOf(x, 0)); }
    case 9u: { return dy * bell(x); }
    case 10u: { return (dy * 4.0) * bell(x + x); }
    case 11u: { return select(dy, 0.0, x <= 0.0); }
    case 12u: { return select(dy * expOf(x), dy, x > 0.0); }
    case 13u: { return gateBackward(x, x, dy); }
    case 14u: { return gateBackward(geluArgument(x), x * ((x * x) * 0.21406444881 + 1.59576912161), dy); }
    case 15u: { return dy * sigmoidOf(x); }
    default: { return dy; }
  }
}
