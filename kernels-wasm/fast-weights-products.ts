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

/** More than any product has steps: all are rounded. */
const ALL: i32 = i32.MAX_VALUE

/** How many steps of a sum over pairs are rounded: all or none. */
export function pairsRounded(): i32 {
  return gated || tokens ? 0 : ALL
}

/** to [n, N] = x, rows before `steps` rounded; each in a block with so many rows. */
function round(to: usize, Rt: i32, x: usize, R: i32, n: i32, N: i32, steps: i32): void {
  for (let j = 0; j < N; j += 4)
    for (let r = 0; r < n; r++) {
      const from = v128.load(at(x, R, r, j))
      v128.store(at(to, Rt, r, j), r < steps ? toFloat16(from) : from)
    }
}

/** A copy, in a block with n rows. */
function rounded(x: usize, R: i32, n: i32, N: i32, steps: i32): usize {
  const to = take(n * roundUp8(N))
  round(to, n, x, R, n, N, steps)
  return to
}

/** Of q, k, erase or along; rounded where pairs are, since then all products with them are. */
export function loadKeys(to: usize, R: i32, x: usize, t: i32, n: i32, M: i32): void {
  loadRows(to, R, x, t, n, M)
  if (half && pairsRounded()) round(to, R, to, R, M, K8, ALL)
}

/** `steps`: so many of the sum are rounded. */
export function product(c: usize, Rc: i32, add: i32, aT: usize, Ra: i32, b: usize, Rb: i32, M: i32, N: i32, n: i32, f: usize = 0, steps: i32 = ALL): void {
  const frame = top
  if (half) {
    aT = rounded(aT, Ra, n, M, steps)
    b = rounded(b, Rb, n, N, steps)
    Ra = Rb = n
  }
  strips.product(c, Rc, add, aT, Ra, b, Rb, M, N, n, f)
  release(frame)
}

/** `lower`: so many steps of the triangle's. */
export function productLower(c: usize, Rc: i32, add: i32, aT: usize, Ra: i32, b: usize, Rb: i32, n: i32, lT: usize, Rl: i32, y: usize, Ry: i32, M: i32,
  N: i32, lower: i32 = ALL): void {
  const frame = top
  if (half) {
    aT = rounded(aT, Ra, n, M, ALL)
    b = rounded(b, Rb, n, N, ALL)
    lT = rounded(lT, Rl, M, M, lower)
    y = rounded(y, Ry, M, N, lower)
    Ra = Rb = n
    Rl = Ry = M
  }
  strips.productLower(c, Rc, add, aT, Ra, b, Rb, n, lT, Rl, y, Ry, M, N)
  release(frame)
}

export function lowerProduct(c: usize, Rc: i32, add: i32, lT: usize, Rl: i32, y: usize, Ry: i32, M: i32, N: i32, lower: i32 = ALL): void {
  productLower(c, Rc, add, 0, 0, 0, 0, 0, lT, Rl, y, Ry, M, N, lower)
}

export function addLowerTransposed(c: usize, Rc: i32, l: usize, Rl: i32, b: usize, Rb: i32, M: i32, N: i32, steps: i32 = ALL): void {
  const frame = top
  if (half) {
    l = rounded(l, Rl, M, M, steps)
    b = rounded(b, Rb, M, N, steps)
    Rl = Rb = M
  }
  strips.addLowerTransposed(c, Rc, l, Rl, b, Rb, M, N)
  release(frame)
}

export function lowerOf(c: usize, aT: usize, Ra: i32, b: usize, Rb: i32, M: i32, n: i32, steps: i32 = ALL): void {
  const frame = top
  if (half) {
    aT = rounded(aT, Ra, n, M, steps)
    b = rounded(b, Rb, n, M, steps)
    Ra = Rb = n
  }
  strips.lowerOf(c, aT, Ra, b, Rb, M, n)
  release(frame)
}

/** What is solved, L and Y, isn't rounded. */
export function solveLower(x: usize, y: usize, aT: usize, Ra: i32, b: usize, Rb: i32, n: i32, lT: usize, rest: usize, factor: usize, M: i32, N: i32): void {
  const frame = top
  if (half) {
    aT = rounded(aT, Ra, n, M, ALL)
    b = rounded(b, Rb, n, N, ALL)
    Ra = Rb = n
  }
  strips.solveLower(x, y, aT, Ra, b, Rb, n, lT, rest, factor, M, N)
  release(frame)
}
