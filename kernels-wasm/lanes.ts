/**
 * Four floats at a time, also where fewer are left: the tail of a row is loaded into a padded vector and goes through the same
 * instructions as the rest, hence gives the same bits. `left` is the number of elements from the address on (a constant 4 folds);
 * nothing beyond it is read or written.
 */

/** The next four elements, 0 for those that are not there. */
@inline export function vload(p: usize, left: i32): v128 {
  return left >= 4 ? v128.load(p) : loadTail(p, left)
}

@inline export function vstore(p: usize, x: v128, left: i32): void {
  if (left >= 4) v128.store(p, x)
  else storeTail(p, x, left)
}

function loadTail(p: usize, left: i32): v128 {
  if (left == 1) return v128.load32_zero(p)
  const x = v128.load64_zero(p)
  return left == 2 ? x : v128.load_lane<f32>(p + 8, x, 2)
}

function storeTail(p: usize, x: v128, left: i32): void {
  if (left == 1) return v128.store_lane<f32>(p, x, 0)
  v128.store_lane<f64>(p, x, 0)
  if (left == 3) v128.store_lane<f32>(p + 8, x, 2)
}

/** x in the first `left` lanes, `other` in the rest. */
@inline export function firstLanes(x: v128, left: i32, other: v128): v128 {
  return left >= 4 ? x : v128.bitselect(x, other, i32x4.lt_s(i32x4(0, 1, 2, 3), i32x4.splat(left)))
}

/** (x0 + x2) + (x1 + x3). */
@inline export function sumLanes(x: v128): f32 {
  const half = f32x4.add(x, i64x2.shuffle(x, x, 1, 0))
  return f32x4.extract_lane(half, 0) + f32x4.extract_lane(half, 1)
}

/** The largest lane; NaN if one is NaN. */
@inline export function maxLanes(x: v128): f32 {
  const half = f32x4.max(x, i64x2.shuffle(x, x, 1, 0))
  return max(f32x4.extract_lane(half, 0), f32x4.extract_lane(half, 1))
}

/** The four sums over the lanes of a, b, c, d. */
@inline export function sum4(a: v128, b: v128, c: v128, d: v128): v128 {
  const ab0 = i32x4.shuffle(a, b, 0, 4, 1, 5), ab1 = i32x4.shuffle(a, b, 2, 6, 3, 7)
  const cd0 = i32x4.shuffle(c, d, 0, 4, 1, 5), cd1 = i32x4.shuffle(c, d, 2, 6, 3, 7)
  const ab = f32x4.add(ab0, ab1), cd = f32x4.add(cd0, cd1)
  return f32x4.add(i64x2.shuffle(ab, cd, 0, 2), i64x2.shuffle(ab, cd, 1, 3))
}
