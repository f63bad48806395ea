/**
 * Products of the chunk form: those of strips.ts, of which a device of precision f16 rounds both operands to float16, on copies. Sums, what is added to and what is
 * solved for stay as they are, and so do pairs of tokens where there is a gate or flags: decays are multiplied into them without a product.
 *
 * The same is rounded in engine/devices/reference/fast-weights.ts: test/ops/precision.test.ts. Scratch for the copies: engine/devices/wasm/fast-weights.ts.
 */
import { K8, gated, loadKeys as loadRows, release, take, tokens, top } from './fast-weights-rows'
import { toFloat16 } from './halves'
import * as strips from './strips'
import { at, roundUp8 } from './strips'
import { half } from './wide'

/** Whether operands that are pairs of tokens, and what is multiplied with them, are rounded. */
export function pairsRounded(): bool {
  return !gated && !tokens
}

/** to [n, N] = x, rounded; each in a block with so many rows. */
function round(to: usize, Rt: i32, x: usize, R: i32, n: i32, N: i32): void {
  for (let j = 0; j < N; j += 4) for (let r = 0; r < n; r++) v128.store(at(to, Rt, r, j), toFloat16(v128.load(at(x, R, r, j))))
}

/** A copy, in a block with n rows. */
function rounded(x: usize, R: i32, n: i32, N: i32): usize {
  const to = take(n * roundUp8(N))
  round(to, n, x, R, n, N)
  return to
}

/** Of q, k, erase or along; rounded where pairs are, since then all products with them are. */
export function loadKeys(to: usize, R: i32, x: usize, t: i32, n: i32, M: i32): void {
  loadRows(to, R, x, t, n, M)
  if (half && pairsRounded()) round(to, R, to, R, M, K8)
}

export function product(c: usize, Rc: i32, add: i32, a: usize, Ra: i32, b: usize, Rb: i32, M: i32, N: i32, n: i32, rounds: bool = true): void {
  const frame = top
  if (half && rounds) {
    a = rounded(a, Ra, M, n)
    b = rounded(b, Rb, n, N)
    Ra = M
    Rb = n
  }
  strips.product(c, Rc, add, a, Ra, b, Rb, M, N, n)
  release(frame)
}

/** A and B are rounded, L and Y where it says so. */
export function productLower(c: usize, Rc: i32, add: i32, a: usize, Ra: i32, b: usize, Rb: i32, n: i32, l: usize, Rl: i32, y: usize, Ry: i32, M: i32,
  N: i32, lower: bool = true): void {
  const frame = top
  if (half) {
    a = rounded(a, Ra, M, n)
    b = rounded(b, Rb, n, N)
    Ra = M
    Rb = n
    if (lower) {
      l = rounded(l, Rl, M, M)
      y = rounded(y, Ry, M, N)
      Rl = Ry = M
    }
  }
  strips.productLower(c, Rc, add, a, Ra, b, Rb, n, l, Rl, y, Ry, M, N)
  release(frame)
}

export function lowerProduct(c: usize, Rc: i32, add: i32, l: usize, Rl: i32, y: usize, Ry: i32, M: i32, N: i32, rounds: bool = true): void {
  productLower(c, Rc, add, 0, 0, 0, 0, 0, l, Rl, y, Ry, M, N, rounds)
}

export function addTurned(c: usize, Rc: i32, a: usize, Ra: i32, b: usize, Rb: i32, M: i32, N: i32, n: i32, f: usize = 0): void {
  const frame = top
  if (half) {
    a = rounded(a, Ra, n, M)
    b = rounded(b, Rb, n, N)
    Ra = Rb = n
  }
  strips.addTurned(c, Rc, a, Ra, b, Rb, M, N, n, f)
  release(frame)
}

export function addLowerTurned(c: usize, Rc: i32, l: usize, Rl: i32, b: usize, Rb: i32, M: i32, N: i32, rounds: bool = true): void {
  const frame = top
  if (half && rounds) {
    l = rounded(l, Rl, M, M)
    b = rounded(b, Rb, M, N)
    Rl = Rb = M
  }
  strips.addLowerTurned(c, Rc, l, Rl, b, Rb, M, N)
  release(frame)
}

export function lowerOf(c: usize, a: usize, Ra: i32, b: usize, Rb: i32, M: i32, n: i32, rounds: bool = true): void {
  const frame = top
  if (half && rounds) {
    a = rounded(a, Ra, M, n)
    b = rounded(b, Rb, n, M)
    Ra = M
    Rb = n
  }
  strips.lowerOf(c, a, Ra, b, Rb, M, n)
  release(frame)
}

/** What is solved, L and Y, isn't rounded. */
export function solveLower(x: usize, y: usize, a: usize, Ra: i32, b: usize, Rb: i32, n: i32, l: usize, rest: usize, factor: usize, M: i32, N: i32): void {
  const frame = top
  if (half) {
    a = rounded(a, Ra, M, n)
    b = rounded(b, Rb, n, N)
    Ra = M
    Rb = n
  }
  strips.solveLower(x, y, a, Ra, b, Rb, n, l, rest, factor, M, N)
  release(frame)
}
