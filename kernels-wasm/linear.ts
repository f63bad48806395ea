/**
 * x = A^-1 b for symmetric positive definite A [K,K], by Cholesky: A = U^T U, U upper triangular; U^T y = b, U x = y.
 *
 * Split: a task is one of N systems. U lies in scratch by rows, each a multiple of four floats; row j is finished, then subtracted from those
 * below it, so that all inner loops run along rows. Only the lower triangle of A is read.
 * Numerics: relative error about K eps times the condition of A. A pivot that isn't positive makes all of x NaN.
 * Pinned by test/ops/wasm.test.ts.
 */
import { sumLanes } from './lanes'
import { madd, splat, sqrtOf } from './math'
import { scratch } from './scratch'

/** y += a x over floats [from, to), both multiples of 4. */
@inline function addScaled(y: usize, x: usize, a: f32, from: i32, to: i32): void {
  const f = splat(a)
  for (let o = <usize>from << 2, end = <usize>to << 2; o < end; o += 16) v128.store(y + o, madd(f, v128.load(x + o), v128.load(y + o)))
}

/** scratch: K (K4 + 1) + K4 floats, K4 = K rounded up to 4. */
export function solveSpd(begin: i32, end: i32, a: usize, b: usize, x: usize, K: i32): void {
  const K4 = (K + 3) & ~3
  const rowBytes = <usize>K4 << 2
  const y = scratch, u = scratch + rowBytes
  for (let n = begin; n < end; n++) {
    const matrix = a + (<usize>(n * K * K) << 2), right = b + (<usize>(n * K) << 2), result = x + (<usize>(n * K) << 2)
    memory.fill(scratch, 0, rowBytes * <usize>(K + 1))
    for (let i = 0; i < K; i++) {
      store<f32>(y + (<usize>i << 2), load<f32>(right + (<usize>i << 2)))
      for (let j = 0; j <= i; j++) store<f32>(u + <usize>j * rowBytes + (<usize>i << 2), load<f32>(matrix + (<usize>(i * K + j) << 2)))
    }
    for (let j = 0; j < K; j++) {
      const row = u + <usize>j * rowBytes, d = <usize>j << 2
      const pivot = load<f32>(row + d)
      const inverse: f32 = pivot > 0 ? <f32>1 / sqrtOf(pivot) : <f32>NaN
      // U_jj itself is needed no more: its reciprocal takes its place.
      const f = splat(inverse)
      for (let o: usize = d & ~15; o < rowBytes; o += 16) v128.store(row + o, f32x4.mul(f, v128.load(row + o)))
      store<f32>(row + d, inverse)
      const yj = load<f32>(y + d) * inverse
      for (let i = j + 1; i < K; i++) {
        const factor = -load<f32>(row + (<usize>i << 2))
        addScaled(u + <usize>i * rowBytes, row, factor, i & ~3, K4)
      }
      // Left of the diagonal a row holds what doesn't count.
      store<f32>(y + d, yj)
      const whole = (j + 4) & ~3
      for (let i = j + 1; i < whole; i++) {
        const o = <usize>i << 2
        store<f32>(y + o, load<f32>(y + o) - yj * load<f32>(row + o))
      }
      addScaled(y, row, -yj, whole, K4)
    }
    for (let j = K - 1; j >= 0; j--) {
      const row = u + <usize>j * rowBytes, d = <usize>j << 2
      let sum = load<f32>(y + d)
      const whole = (j + 4) & ~3
      for (let i = j + 1; i < min(whole, K); i++) sum -= load<f32>(row + (<usize>i << 2)) * load<f32>(y + (<usize>i << 2))
      let r = splat(0)
      for (let i = whole; i < K; i += 4) r = madd(v128.load(row + (<usize>i << 2)), v128.load(y + (<usize>i << 2)), r)
      const xj = (sum - sumLanes(r)) * load<f32>(row + d)
      store<f32>(result + d, xj)
      store<f32>(y + d, xj)
    }
  }
}
