/**
 * What float32 rounds away of M_ij = a_i . D_{i-1,j} k_j (decays.ts), for tokens that all but reflect the memory.
 *
 * A token turns what the memory holds along its key by the factor 1 - beta_i a_i . k_i. Near -1 the memory keeps its length and an error in M
 * never fades; and where keys come again, so does their error, always the same way: after T tokens of one key it is 2 T times that of
 * k . k, whatever the length of the chunks (T = 4096: 4e-4). Token by token S^T k is rounded anew each time, and such errors cancel. So M
 * gets a second float for each entry of these tokens' rows, M + rest good to 1e-14, and the solve takes both.
 *
 * Blocks as in strips.ts. Pinned by test/ops/fast-weights.test.ts.
 */
import { sumLanes } from './lanes'
import { madd, splat } from './math'
import { at } from './strips'

/**
 * beta a . k from which a token counts as one of them. Below, an error of M fades by the factor |1 - beta a . k| a token: 1.9 / 0.1 = 19 of them add
 * up, 6e-7.
 */
const reflecting: f32 = 1.9

function dot(x: usize, Rx: i32, y: usize, Ry: i32, K8: i32): f32 {
  let sum0 = splat(0), sum1 = splat(0)
  for (let c = 0; c < K8; c += 8) {
    const a = at(x, Rx, 0, c), b = at(y, Ry, 0, c)
    sum0 = madd(v128.load(a), v128.load(b), sum0)
    sum1 = madd(v128.load(a, 16), v128.load(b, 16), sum1)
  }
  return sumLanes(f32x4.add(sum0, sum1))
}

@inline function low(x: v128): v128 {
  return f64x2.promote_low_f32x4(x)
}

@inline function high(x: v128): v128 {
  return f64x2.promote_low_f32x4(i64x2.shuffle(x, x, 1, 1))
}

/** x [K8], doubles, = w x, w a row of a block with R rows. */
function decayAll(x: usize, w: usize, R: i32, K8: i32): void {
  for (let c = 0; c < K8; c += 4, x += 32) {
    const d = v128.load(at(w, R, 0, c))
    v128.store(x, f64x2.mul(v128.load(x, 16), high(d)), 16)
    v128.store(x, f64x2.mul(v128.load(x), low(d)))
  }
}

/** to [K8], doubles, = x, a row of a block with R rows. */
function widen(to: usize, x: usize, R: i32, K8: i32): void {
  for (let c = 0; c < K8; c += 4, to += 32) {
    const a = v128.load(at(x, R, 0, c))
    v128.store(to, high(a), 16)
    v128.store(to, low(a))
  }
}

/** x . y, x [K8] doubles, y a row of a block with R rows. */
function dotWide(x: usize, y: usize, R: i32, K8: i32): f64 {
  let sum0 = f64x2.splat(0), sum1 = f64x2.splat(0), sum2 = f64x2.splat(0), sum3 = f64x2.splat(0)
  for (let c = 0; c < K8; c += 8, x += 64) {
    const a = at(y, R, 0, c), b0 = v128.load(a), b1 = v128.load(a, 16)
    sum0 = f64x2.add(sum0, f64x2.mul(v128.load(x), low(b0)))
    sum1 = f64x2.add(sum1, f64x2.mul(v128.load(x, 16), high(b0)))
    sum2 = f64x2.add(sum2, f64x2.mul(v128.load(x, 32), low(b1)))
    sum3 = f64x2.add(sum3, f64x2.mul(v128.load(x, 48), high(b1)))
  }
  const sum = f64x2.add(f64x2.add(sum0, sum1), f64x2.add(sum2, sum3))
  return f64x2.extract_lane(sum, 0) + f64x2.extract_lane(sum, 1)
}

/**
 * Most of x, in 12 bits. Not all that fit: multiplied by a factor that is a power of two up to a little, floats are rounded the same way again and
 * again, and what a small rest adds to them is lost each time.
 */
@inline function shortened(x: f32): f32 {
  return reinterpret<f32>(reinterpret<u32>(x * 0.998) & 0xfffff000)
}

/**
 * Row i of m [n8, n8] is cut short and of rest [n8, n8] what it lacks then, with 1 on the diagonal, where token i all but reflects; else rest is 0.
 * Returns rest, or 0 where no token does. a [n8, K8]: what the memory is read with, after its decay by w_i (`after`) or before; w: the
 * decays, 0 for none, as of decayKeys; plain: m's diagonal is a . k; wide: 2 K8 floats.
 */
export function remainders(rest: usize, m: usize, plain: bool, a: usize, Ra: i32, after: bool, k: usize, Rk: i32, w: usize, Rw: i32, betas: usize, wide: usize,
  n: i32, n8: i32, K8: i32): usize {
  let found: usize = 0
  for (let i = 0; i < n; i++) {
    const row = <usize>i << 5
    const along = plain ? load<f32>(at(m, n8, i, i)) : dot(a + row, Ra, k + row, Rk, K8)
    if (!(load<f32>(betas + (<usize>i << 2)) * along >= reflecting)) continue
    if (!found) memory.fill(rest, 0, <usize>(n8 * n8) << 2)
    found = rest
    widen(wide, a + row, Ra, K8)
    if (w && after) decayAll(wide, w + row, Rw, K8)
    for (let j = i - 1; j >= 0; j--) {
      const other = <usize>j << 5, exact = dotWide(wide, k + other, Rk, K8), short = shortened(<f32>exact)
      store<f32>(at(m, n8, i, j), short)
      store<f32>(at(rest, n8, i, j), <f32>(exact - <f64>short))
      if (w) decayAll(wide, w + other, Rw, K8)
    }
    store<f32>(at(rest, n8, i, i), 1)
  }
  return found
}

/** M again from what `remainders` has cut it to. */
export function restore(m: usize, rest: usize, n8: i32): void {
  for (let i = 0; i < n8; i++) {
    if (load<f32>(at(rest, n8, i, i)) == 0) continue
    for (let j = 0; j < i; j++) store<f32>(at(m, n8, i, j), load<f32>(at(m, n8, i, j)) + load<f32>(at(rest, n8, i, j)))
  }
}
