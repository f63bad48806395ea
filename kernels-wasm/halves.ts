/**
 * Matrices of numbers of 32 or 16 bits, read as float32. The type of a kernel's parameter T says which: f32, u16 for bfloat16, i16 for float16 (their bits).
 * A number of 16 bits is widened exactly, so that what is computed from it is what its float32 would give, to the bit.
 */

/** What `half` of a kernel's arguments means. */
export const FLOAT16 = 1
export const BFLOAT16 = 2

/** Exponents of float16 begin 112 below those of float32; multiplied by 2^112, subnormal numbers are right, too. The largest exponent means the same in both. */
@inline function widenedFloat16(sign: v128, magnitude: v128): v128 {
  const scaled = f32x4.mul(magnitude, i32x4.splat(0x77800000))
  const special = v128.and(i32x4.ge_s(magnitude, i32x4.splat(0x0f800000)), i32x4.splat(0x7f800000))
  return v128.or(v128.or(scaled, special), sign)
}

/** Four numbers one after the other. */
@inline export function load4<T>(from: usize): v128 {
  if (isFloat<T>()) return v128.load(from)
  return lower<T>(v128.load_ext<u16>(from))
}

/** One number, in all lanes. */
@inline export function load1<T>(from: usize): v128 {
  if (isFloat<T>()) return v128.load32_splat(from)
  return lower<T>(i32x4.splat(<i32>load<u16>(from)))
}

/** Bytes of n numbers. */
@inline export function bytesOf<T>(n: usize): usize {
  return isFloat<T>() ? n << 2 : n << 1
}

/** Of pairs of halves, a pair a lane, the lower ones and the upper ones. */
@inline export function lower<T>(pairs: v128): v128 {
  if (!isSigned<T>()) return i32x4.shl(pairs, 16)
  return widenedFloat16(i32x4.shl(v128.and(pairs, i32x4.splat(0x8000)), 16), i32x4.shl(v128.and(pairs, i32x4.splat(0x7fff)), 13))
}
@inline export function upper<T>(pairs: v128): v128 {
  if (!isSigned<T>()) return v128.and(pairs, i32x4.splat(0xffff0000))
  return widenedFloat16(v128.and(pairs, i32x4.splat(0x80000000)), i32x4.shr_u(v128.and(pairs, i32x4.splat(0x7fff0000)), 3))
}
