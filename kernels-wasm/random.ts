/**
 * Counter-based random numbers: threefry2x32 with 20 rounds (Salmon et al. 2011), four counters at a time. Element i depends on the
 * key and i alone. A task is an element. Pinned by test/ops/random.test.ts and wasm.test.ts.
 */
import { vload, vstore } from './lanes'
import { log, madd, sineOfReduced, splat } from './math'

/** What `threefry` leaves: both words of elements i to i + 3, and of i + 4 to i + 7. */
let low0: v128 = i32x4.splat(0), low1: v128 = i32x4.splat(0), high0: v128 = i32x4.splat(0), high1: v128 = i32x4.splat(0)

@inline function rotate(x: v128, by: i32): v128 {
  return v128.or(i32x4.shl(x, by), i32x4.shr_u(x, 32 - by))
}

/** Counters (i, 0) to (i + 7, 0) as two streams x, z: a round waits for the one before, so two at a time take the time of one. */
@inline function threefry(key0: i32, key1: i32, i: i32): void {
  let x0 = i32x4.add(i32x4.splat(i + key0), i32x4(0, 1, 2, 3)), x1 = i32x4.splat(key1)
  let z0 = i32x4.add(x0, i32x4.splat(4)), z1 = x1
  // Five times four rounds; after each the words of the key, which take turns.
  let a = key1, b = 0x1bd11bda ^ key0 ^ key1, c = key0
  for (let s = 1; s <= 5; s++) {
    if (s & 1) {
      x0 = i32x4.add(x0, x1); x1 = v128.xor(rotate(x1, 13), x0); z0 = i32x4.add(z0, z1); z1 = v128.xor(rotate(z1, 13), z0)
      x0 = i32x4.add(x0, x1); x1 = v128.xor(rotate(x1, 15), x0); z0 = i32x4.add(z0, z1); z1 = v128.xor(rotate(z1, 15), z0)
      x0 = i32x4.add(x0, x1); x1 = v128.xor(rotate(x1, 26), x0); z0 = i32x4.add(z0, z1); z1 = v128.xor(rotate(z1, 26), z0)
      x0 = i32x4.add(x0, x1); x1 = v128.xor(rotate(x1, 6), x0); z0 = i32x4.add(z0, z1); z1 = v128.xor(rotate(z1, 6), z0)
    } else {
      x0 = i32x4.add(x0, x1); x1 = v128.xor(rotate(x1, 17), x0); z0 = i32x4.add(z0, z1); z1 = v128.xor(rotate(z1, 17), z0)
      x0 = i32x4.add(x0, x1); x1 = v128.xor(rotate(x1, 29), x0); z0 = i32x4.add(z0, z1); z1 = v128.xor(rotate(z1, 29), z0)
      x0 = i32x4.add(x0, x1); x1 = v128.xor(rotate(x1, 16), x0); z0 = i32x4.add(z0, z1); z1 = v128.xor(rotate(z1, 16), z0)
      x0 = i32x4.add(x0, x1); x1 = v128.xor(rotate(x1, 24), x0); z0 = i32x4.add(z0, z1); z1 = v128.xor(rotate(z1, 24), z0)
    }
    const word0 = i32x4.splat(a), word1 = i32x4.splat(b + s)
    x0 = i32x4.add(x0, word0)
    x1 = i32x4.add(x1, word1)
    z0 = i32x4.add(z0, word0)
    z1 = i32x4.add(z1, word1)
    const next = c
    c = a
    a = b
    b = next
  }
  low0 = x0
  low1 = x1
  high0 = z0
  high1 = z1
}

/** The upper 24 bits as an integer. */
@inline function bits24(x: v128): v128 {
  return i32x4.shr_u(x, 8)
}

@inline function uniform(x0: v128, a: f32, range: f32): v128 {
  return madd(f32x4.mul(f32x4.convert_i32x4_s(bits24(x0)), splat(5.9604644775390625e-8)), splat(range), splat(a))
}

/** y[i] = a + range u, u = bits24(x0) 2^-24. */
export function randomUniform(begin: i32, end: i32, y: usize, key0: i32, key1: i32, a: f32, range: f32): void {
  for (let i = begin; i < end; i += 8) {
    const to = y + (<usize>i << 2)
    threefry(key0, key1, i)
    vstore(to, uniform(low0, a, range), end - i)
    if (i + 4 < end) vstore(to + 16, uniform(high0, a, range), end - i - 4)
  }
}

function normal(x0: v128, x1: v128, a: f32, b: f32): v128 {
  const u1 = f32x4.mul(f32x4.convert_i32x4_s(i32x4.add(bits24(x0), i32x4.splat(1))), splat(5.9604644775390625e-8))
  const radius = f32x4.sqrt(f32x4.mul(log(u1), splat(-2)))
  // In quarter turns: the integer nearest is the quadrant, what is left at most 1/2, and both are exact.
  const turns = f32x4.mul(f32x4.convert_i32x4_s(bits24(x1)), splat(2.384185791015625e-7))
  const nearest = f32x4.nearest(turns)
  const r = f32x4.mul(f32x4.sub(turns, nearest), splat(1.57079633))
  return madd(f32x4.mul(radius, sineOfReduced(r, i32x4.trunc_sat_f32x4_s(nearest), 1)), splat(b), splat(a))
}

/** y[i] = a + b sqrt(-2 ln u1) cos(2 pi u2), u1 = (bits24(x0) + 1) 2^-24, u2 = bits24(x1) 2^-24 (Box and Muller). */
export function randomNormal(begin: i32, end: i32, y: usize, key0: i32, key1: i32, a: f32, b: f32): void {
  for (let i = begin; i < end; i += 8) {
    const to = y + (<usize>i << 2)
    threefry(key0, key1, i)
    vstore(to, normal(low0, low1, a, b), end - i)
    if (i + 4 < end) vstore(to + 16, normal(high0, high1, a, b), end - i - 4)
  }
}

@inline function dropoutStep(x: usize, y: usize, x0: v128, threshold: i32, scale: f32, left: i32): void {
  const dropped = i32x4.lt_s(bits24(x0), i32x4.splat(threshold))
  vstore(y, v128.andnot(f32x4.mul(vload(x, left), splat(scale)), dropped), left)
}

/** y[i] = bits24(x0) < threshold ? 0 : x[i] * scale. */
export function dropout(begin: i32, end: i32, x: usize, y: usize, threshold: i32, scale: f32, key0: i32, key1: i32): void {
  for (let i = begin; i < end; i += 8) {
    const at = <usize>i << 2
    threefry(key0, key1, i)
    dropoutStep(x + at, y + at, low0, threshold, scale, end - i)
    if (i + 4 < end) dropoutStep(x + at + 16, y + at + 16, high0, threshold, scale, end - i - 4)
  }
}
