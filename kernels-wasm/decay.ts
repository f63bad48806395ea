/**
 * Decays: y = -e^rate softplus(a + shift), rows of [R, n], `width` neighbours of which share a rate. A task is a row. Scratch: n floats.
 * Pinned by test/ops/wasm.test.ts.
 */
import { vload, vstore } from './lanes'
import { exp, sigmoid, softplus } from './math'
import { scratch } from './scratch'

/** The factors -e^rate of a row's channels, in scratch. */
function factors(rate: usize, n: i32, width: i32): void {
  for (let j = 0; j < n; j++) store<f32>(scratch + (<usize>j << 2), load<f32>(rate + (<usize>(j / width) << 2)))
  for (let j = 0; j < n; j += 4) {
    const to = scratch + (<usize>j << 2)
    vstore(to, f32x4.neg(exp(vload(to, n - j))), n - j)
  }
}

/** a, y: [R, n]; rate: [n / width]; shift: [n]. */
export function decay(begin: i32, end: i32, a: usize, rate: usize, shift: usize, y: usize, n: i32, width: i32): void {
  factors(rate, n, width)
  for (let r = begin; r < end; r++) {
    const row = <usize>r * <usize>n << 2
    for (let j = 0; j < n; j += 4) {
      const at = <usize>j << 2, left = n - j
      const x = f32x4.add(vload(a + row + at, left), vload(shift + at, left))
      vstore(y + row + at, f32x4.mul(vload(scratch + at, left), softplus(x)), left)
    }
  }
}

/** da, and of each element what it gives to its rate, for the sums over the rows. */
export function decayBackward(
  begin: i32, end: i32, a: usize, rate: usize, shift: usize, dy: usize, da: usize, ofRate: usize, n: i32, width: i32,
): void {
  factors(rate, n, width)
  for (let r = begin; r < end; r++) {
    const row = <usize>r * <usize>n << 2
    for (let j = 0; j < n; j += 4) {
      const at = <usize>j << 2, left = n - j
      const x = f32x4.add(vload(a + row + at, left), vload(shift + at, left))
      const g = f32x4.mul(vload(scratch + at, left), vload(dy + row + at, left))
      vstore(da + row + at, f32x4.mul(g, sigmoid(x)), left)
      vstore(ofRate + row + at, f32x4.mul(g, softplus(x)), left)
    }
  }
}
