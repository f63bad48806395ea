/**
 * Sums of a row, in an order that depends on its length alone: four vectors of partial sums (16 additions in flight, 16 short sums
 * instead of a long one) over blocks of 4096 elements, whose sums are then added in float64.
 * Error: about sqrt(256) eps / 2 relative to sum |x| within a block, nothing worth mentioning beyond.
 */
import { firstLanes, sumLanes, vload } from './lanes'
import { madd } from './math'

export const BLOCK = 4096

/** What is summed: x, or (x - shift)^2. */
export const VALUES = 0
export const SQUARES = 1

@inline function add(kind: i32, sum: v128, x: v128, shift: v128): v128 {
  if (kind == VALUES) return f32x4.add(sum, x)
  const d = f32x4.sub(x, shift)
  return madd(d, d, sum)
}

/** Over n <= BLOCK elements. */
@inline function block(kind: i32, x: usize, n: i32, shift: v128): f32 {
  let s0 = f32x4.splat(0), s1 = s0, s2 = s0, s3 = s0
  const bytes = <usize>n << 2
  let at: usize = 0
  for (; at + 64 <= bytes; at += 64) {
    s0 = add(kind, s0, v128.load(x + at), shift)
    s1 = add(kind, s1, v128.load(x + at, 16), shift)
    s2 = add(kind, s2, v128.load(x + at, 32), shift)
    s3 = add(kind, s3, v128.load(x + at, 48), shift)
  }
  for (; at + 16 <= bytes; at += 16) s0 = add(kind, s0, v128.load(x + at), shift)
  // What isn't there counts as `shift`: the square of the difference is 0, and a plain sum has no shift.
  if (at < bytes) s1 = add(kind, s1, firstLanes(vload(x + at, n & 3), n & 3, shift), shift)
  return sumLanes(f32x4.add(f32x4.add(s0, s1), f32x4.add(s2, s3)))
}

export function sumBlock(x: usize, n: i32): f32 {
  return block(VALUES, x, n, f32x4.splat(0))
}

export function sumSquaresBlock(x: usize, n: i32, shift: f32): f32 {
  return block(SQUARES, x, n, f32x4.splat(shift))
}

/** The sum of n sums of blocks, in float64. */
export function total(sums: usize, n: i32): f32 {
  let total: f64 = 0
  for (let i = 0; i < n; i++) total += load<f32>(sums + (<usize>i << 2))
  return <f32>total
}

/** The sum of x[0..n). */
export function sum(x: usize, n: i32): f32 {
  if (n <= BLOCK) return sumBlock(x, n)
  let total: f64 = 0
  for (let i = 0; i < n; i += BLOCK) total += sumBlock(x + (<usize>i << 2), min(BLOCK, n - i))
  return <f32>total
}

/** The sum of (x[i] - shift)^2. */
export function sumSquaresAround(x: usize, n: i32, shift: f32): f32 {
  if (n <= BLOCK) return sumSquaresBlock(x, n, shift)
  let total: f64 = 0
  for (let i = 0; i < n; i += BLOCK) total += sumSquaresBlock(x + (<usize>i << 2), min(BLOCK, n - i), shift)
  return <f32>total
}
