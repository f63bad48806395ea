/**
 * Counter-based random numbers: threefry2x32 with 20 rounds (Salmon et al. 2011), four counters at a time. Element i depends on the
 * key and i alone. A task is an element. Pinned by test/ops/random.test.ts.
 */
import { vload, vstore } from './lanes'
import { log, madd, sineOfReduced, splat } from './math'

/** The second word of the pair that `threefry` returned the first of. */
let second: v128 = i32x4.splat(0)

@inline function rotate(x: v128, by: i32): v128 {
  return v128.or(i32x4.shl(x, by), i32x4.shr_u(x, 32 - by))
}

@inline function threefry(key0: i32, key1: i32, counter: v128): v128 {
  const k0 = i32x4.splat(key0), k1 = i32x4.splat(key1), k2 = i32x4.splat(0x1bd11bda ^ key0 ^ key1)
  let x0 = i32x4.add(counter, k0)
  let x1 = k1
  // Five times four rounds; the words of the key take turns.
  let a = k1, b = k2, c = k0
  for (let s = 1; s <= 5; s++) {
    if (s & 1) {
      x0 = i32x4.add(x0, x1); x1 = v128.xor(rotate(x1, 13), x0)
      x0 = i32x4.add(x0, x1); x1 = v128.xor(rotate(x1, 15), x0)
      x0 = i32x4.add(x0, x1); x1 = v128.xor(rotate(x1, 26), x0)
      x0 = i32x4.add(x0, x1); x1 = v128.xor(rotate(x1, 6), x0)
    } else {
      x0 = i32x4.add(x0, x1); x1 = v128.xor(rotate(x1, 17), x0)
      x0 = i32x4.add(x0, x1); x1 = v128.xor(rotate(x1, 29), x0)
      x0 = i32x4.add(x0, x1); x1 = v128.xor(rotate(x1, 16), x0)
      x0 = i32x4.add(x0, x1); x1 = v128.xor(rotate(x1, 24), x0)
    }
    x0 = i32x4.add(x0, a)
    x1 = i32x4.add(x1, i32x4.add(b, i32x4.splat(s)))
    const next = c
    c = a
    a = b
    b = next
  }
  second = x1
  return x0
}

@inline function counters(i: i32): v128 {
  return i32x4.add(i32x4.splat(i), i32x4(0, 1, 2, 3))
}

/** The upper 24 bits as an integer. */
@inline function bits24(x: v128): v128 {
  return i32x4.shr_u(x, 8)
}

/** y[i] = a + range u, u = bits24(x0) 2^-24. */
export function randomUniform(begin: i32, end: i32, y: usize, key0: i32, key1: i32, a: f32, range: f32): void {
  for (let i = begin; i < end; i += 4) {
    const u = f32x4.mul(f32x4.convert_i32x4_s(bits24(threefry(key0, key1, counters(i)))), splat(5.9604644775390625e-8))
    vstore(y + (<usize>i << 2), madd(u, splat(range), splat(a)), end - i)
  }
}

/** y[i] = a + b sqrt(-2 ln u1) cos(2 pi u2), u1 = (bits24(x0) + 1) 2^-24, u2 = bits24(x1) 2^-24 (Box and Muller). */
export function randomNormal(begin: i32, end: i32, y: usize, key0: i32, key1: i32, a: f32, b: f32): void {
  for (let i = begin; i < end; i += 4) {
    const x0 = bits24(threefry(key0, key1, counters(i)))
    const x1 = bits24(second)
    const u1 = f32x4.mul(f32x4.convert_i32x4_s(i32x4.add(x0, i32x4.splat(1))), splat(5.9604644775390625e-8))
    const radius = f32x4.sqrt(f32x4.mul(log(u1), splat(-2)))
    // In quarter turns: the integer nearest is the quadrant, what is left at most 1/2, and both are exact.
    const turns = f32x4.mul(f32x4.convert_i32x4_s(x1), splat(2.384185791015625e-7))
    const nearest = f32x4.nearest(turns)
    const r = f32x4.mul(f32x4.sub(turns, nearest), splat(1.57079633))
    const cosine = sineOfReduced(r, i32x4.trunc_sat_f32x4_s(nearest), 1)
    vstore(y + (<usize>i << 2), madd(f32x4.mul(radius, cosine), splat(b), splat(a)), end - i)
  }
}

/** y[i] = bits24(x0) < threshold ? 0 : x[i] * scale. */
export function dropout(begin: i32, end: i32, x: usize, y: usize, threshold: i32, scale: f32, key0: i32, key1: i32): void {
  for (let i = begin; i < end; i += 4) {
    const dropped = i32x4.lt_s(bits24(threefry(key0, key1, counters(i))), i32x4.splat(threshold))
    const kept = f32x4.mul(vload(x + (<usize>i << 2), end - i), splat(scale))
    vstore(y + (<usize>i << 2), v128.andnot(kept, dropped), end - i)
  }
}
