/**
 * Matrices of numbers of 16 bits, read as float32. The type of a kernel's parameter T says which: u16 for bfloat16, i16 for float16 (their bits).
 * A number of 16 bits is widened exactly, so that what is computed from it is what its float32 would give, to the bit.
 *
 * They lie as panels of 32 rows [K][4][4 pairs]: a pair is a number and that of the fourth row from it, so that one operation makes four float32 of either.
 */

/** Rows of a panel, and the bytes of one number of each. */
export const PANEL = 32
export const HALF_ROW = 64

/** What `half` of a kernel's arguments means. */
export const FLOAT16 = 1
export const BFLOAT16 = 2

/** In memory, since V8 makes a constant of a vector anew at each use, from an ordinary register. */
const constants = memory.data<u32>(
  [
    0x8fffe000, 0x8fffe000, 0x8fffe000, 0x8fffe000, 0x77800000, 0x77800000, 0x77800000, 0x77800000, 0x47800000, 0x47800000, 0x47800000,
    0x47800000, 0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7f800000, 0x7f800000, 0x7f800000, 0x7f800000,
  ],
  16,
)

/**
 * Of float16's bits with the sign before three more of it, from bit 13 on. Its exponents begin 112 below those of float32; multiplied by 2^112, subnormal
 * numbers are right, too. The largest exponent means the same in both.
 */
@inline function widenedFloat16(spread: v128): v128 {
  const scaled = f32x4.mul(v128.and(spread, v128.load(constants)), v128.load(constants, 16))
  const special = f32x4.ge(v128.and(scaled, v128.load(constants, 48)), v128.load(constants, 32))
  return v128.or(scaled, v128.and(special, v128.load(constants, 64)))
}

/** Of pairs of halves, a pair a lane, the lower ones and the upper ones. */
@inline export function lower<T>(pairs: v128): v128 {
  const upward = i32x4.shl(pairs, 16)
  return isSigned<T>() ? widenedFloat16(i32x4.shr_s(upward, 3)) : upward
}
@inline export function upper<T>(pairs: v128): v128 {
  return isSigned<T>() ? widenedFloat16(i32x4.shr_s(pairs, 3)) : v128.and(pairs, i32x4.splat(0xffff0000))
}

/** Rounded to float16: to nearest, of two to the even one; from 65520 on infinity. */
@inline export function toFloat16(x: v128): v128 {
  // Of a sum with 1.5 times 2^13 times the power of two at or below x float32 keeps what float16 keeps of x: 10 bits below the first one, none below 2^-24.
  const exponent = v128.and(x, i32x4.splat(0x7f800000))
  const large = i32x4.add(i32x4.min_s(i32x4.max_s(exponent, i32x4.splat(113 << 23)), i32x4.splat(143 << 23)), i32x4.splat((13 << 23) | 0x400000))
  const y = f32x4.sub(f32x4.add(x, large), large)
  const beyond = f32x4.ge(f32x4.abs(y), f32x4.splat(65536))
  return v128.or(v128.bitselect(f32x4.mul(y, f32x4.splat(Infinity)), y, beyond), v128.and(x, i32x4.splat(0x80000000)))
}

/**
 * y = x rounded to float16, x of float32 or (`pairs`) panels of bfloat16, which hold what float16 does of theirs. Task: 16 bytes; those behind the last number of a
 * block belong to it, too.
 */
export function roundToFloat16(begin: i32, end: i32, x: usize, y: usize, pairs: i32): void {
  for (let i = <usize>begin << 4; i < <usize>end << 4; i += 16) {
    const from = v128.load(x + i)
    v128.store(
      y + i,
      pairs ? v128.or(i32x4.shr_u(toFloat16(lower<u16>(from)), 16), toFloat16(upper<u16>(from))) : toFloat16(from),
    )
  }
}

/** Where a panel has its row r. */
@inline function placeOf(r: i32): usize {
  return <usize>((r >> 3 << 4) + ((r & 3) << 2) + (r >> 1 & 2))
}

/** b [N,K] -> panels, rows past N filled with zeros. Task: a panel. */
export function packHalves(begin: i32, end: i32, b: usize, packed: usize, N: i32, K: i32): void {
  for (let panel = begin; panel < end; panel++) {
    const rows = min(PANEL, N - panel * PANEL)
    const to = packed + <usize>panel * <usize>K * HALF_ROW
    let from = b + (<usize>(panel * PANEL) * K << 1)
    if (rows < PANEL) memory.fill(to, 0, <usize>K * HALF_ROW)
    for (let r = 0; r < rows; r++) {
      let at = to + placeOf(r)
      for (let k = 0; k < K; k++) {
        store<u16>(at, load<u16>(from))
        from += 2
        at += HALF_ROW
      }
    }
  }
}

@inline function widenRow<T>(at: usize, K: i32, to: usize): void {
  for (let k = 0; k < K; k++) {
    store<f32>(to + (k << 2), f32x4.extract_lane(lower<T>(i32x4.splat(<i32>load<u16>(at))), 0))
    at += HALF_ROW
  }
}

/** y[r, :] = the row index[r] of panels, as float32. Task: a row of y. */
export function gatherHalf(begin: i32, end: i32, table: usize, index: usize, y: usize, K: i32, half: i32): void {
  for (let r = begin; r < end; r++) {
    const row = load<i32>(index + (<usize>r << 2))
    const at = table + <usize>(row / PANEL) * <usize>K * HALF_ROW + placeOf(row % PANEL)
    const to = y + (<usize>r * K << 2)
    if (half == BFLOAT16) widenRow<u16>(at, K, to)
    else widenRow<i16>(at, K, to)
  }
}
