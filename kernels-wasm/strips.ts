/**
 * Matrix products on blocks small enough for the L1 and L2 caches (16 to 256 a side), for kernels that chain many of them.
 *
 * A block of N columns with R rows, both multiples of 8, lies in strips of eight columns: entry (r, j) at (j >> 3) 8 R + 8 r + (j & 7).
 * So the 4 x 8 tile of a product reads its operands with constant steps of 32 bytes, with neither packing nor strides. Rows from r on
 * are themselves a block, at `rowsFrom(x, r)` with the same R: blocks stacked in one are multiplied in one go, [A1 A2] [B1; B2].
 * The left operand is given by rows, [rows, inner]; where its transpose is what's at hand, `turned` products take that.
 *
 * The inner sums run over the n rows in use, never over padding, and the triangular products never multiply what lies beyond
 * the triangle: entries there may hold anything, NaN included. Each entry of a product is one sum in the order of the inner index.
 * Pinned by test/ops/fast-weights.test.ts.
 */
import { madd, splat } from './math'
import { wide } from './wide'

/** What a product does to its target. */
export const SET: i32 = 0
export const ADD: i32 = 1

export function roundUp8(n: i32): i32 {
  return (n + 7) & ~7
}

/** Address of entry (r, j) of a block with R rows; the rest of the strip's row follows. */
@inline export function at(x: usize, R: i32, r: i32, j: i32): usize {
  return x + (<usize>((j & ~7) * R + (r << 3) + (j & 7)) << 2)
}

@inline export function rowsFrom(x: usize, r: i32): usize {
  return x + (<usize>r << 5)
}

/** d [4, 4] = s^T. */
@inline function transposeTile(d: usize, s: usize): void {
  const x0 = v128.load(s), x1 = v128.load(s, 32), x2 = v128.load(s, 64), x3 = v128.load(s, 96)
  const t0 = i32x4.shuffle(x0, x1, 0, 4, 1, 5), t1 = i32x4.shuffle(x2, x3, 0, 4, 1, 5)
  const t2 = i32x4.shuffle(x0, x1, 2, 6, 3, 7), t3 = i32x4.shuffle(x2, x3, 2, 6, 3, 7)
  v128.store(d, i64x2.shuffle(t0, t1, 0, 2))
  v128.store(d, i64x2.shuffle(t0, t1, 1, 3), 32)
  v128.store(d, i64x2.shuffle(t2, t3, 0, 2), 64)
  v128.store(d, i64x2.shuffle(t2, t3, 1, 3), 96)
}

/** dst [N, M] = src^T, src [M, N], multiples of 8; Rd and Rs are the rows of the blocks they lie in. */
export function transpose(dst: usize, Rd: i32, src: usize, Rs: i32, M: i32, N: i32): void {
  const step = <usize>Rd << 5
  for (let j = 0; j < N; j += 8) {
    let s = at(src, Rs, 0, j), d = rowsFrom(dst, j)
    for (let r = 0; r < M; r += 8, s += 256, d += step) {
      transposeTile(d, s)
      transposeTile(d + 128, s + 16)
      transposeTile(d + 16, s + 128)
      transposeTile(d + 144, s + 144)
    }
  }
}

// ---- tiles: 4 rows and 8 columns, or 16 (`two`) in strips `right` bytes apart. Where V8 merges vectors, 16 columns are 8 wide sums, which hide the time that an
// addition takes, for 6 loads a step. It doesn't merge what it would have to store in several branches, nor a shape that is only known at run time.

/** C = X or, to `add`, C += X, or else (turned), unless f is 0, C = diag(f) C + X; X = A B. */
const FULL: i32 = 0
/** Turned: C += A B, with the triangle l >= r of 4 steps before the n. */
const UPPER: i32 = 1
/** C = X or, to `add`, C += X, for X = A B + L Y, with the triangle l <= r after the m steps of L Y. */
const LOWER: i32 = 2
/** C -= A B + L Y, solved for the triangle l < r after these m steps; the next rows of Y = diag(factor) C. */
const SOLVE: i32 = 3
/** C = A B + L Y. */
const BOTH: i32 = 4

/**
 * a: A's first entry, by rows, or (turned) of its transpose; nextA and nextL: from the end of eight entries of a row of A and L, in one strip, to the
 * next eight in the strip beside.
 */
@inline function tileOf(two: bool, turned: bool, shape: i32, c: usize, rightC: usize, add: i32, f: usize, a: usize, nextA: usize, b: usize, right: usize, n: i32,
  l: usize, nextL: usize, y: usize, rightY: usize, m: i32, factor: usize): void {
  const cR = c + rightC
  let c00 = splat(0), c01 = splat(0), c02 = splat(0), c03 = splat(0)
  let c10 = splat(0), c11 = splat(0), c12 = splat(0), c13 = splat(0)
  let c20 = splat(0), c21 = splat(0), c22 = splat(0), c23 = splat(0)
  let c30 = splat(0), c31 = splat(0), c32 = splat(0), c33 = splat(0)
  let x: v128, b0: v128, b1: v128, b2 = splat(0), b3 = splat(0)
  if (turned) {
    if (shape == UPPER) {
      b0 = v128.load(b)
      b1 = v128.load(b, 16)
      if (two) {
        b2 = v128.load(b + right)
        b3 = v128.load(b + right, 16)
      }
      x = v128.load32_splat(a)
      c00 = madd(x, b0, c00)
      c01 = madd(x, b1, c01)
      if (two) {
        c02 = madd(x, b2, c02)
        c03 = madd(x, b3, c03)
      }
      a += 32
      b += 32
      b0 = v128.load(b)
      b1 = v128.load(b, 16)
      if (two) {
        b2 = v128.load(b + right)
        b3 = v128.load(b + right, 16)
      }
      x = v128.load32_splat(a)
      c00 = madd(x, b0, c00)
      c01 = madd(x, b1, c01)
      if (two) {
        c02 = madd(x, b2, c02)
        c03 = madd(x, b3, c03)
      }
      x = v128.load32_splat(a, 4)
      c10 = madd(x, b0, c10)
      c11 = madd(x, b1, c11)
      if (two) {
        c12 = madd(x, b2, c12)
        c13 = madd(x, b3, c13)
      }
      a += 32
      b += 32
      b0 = v128.load(b)
      b1 = v128.load(b, 16)
      if (two) {
        b2 = v128.load(b + right)
        b3 = v128.load(b + right, 16)
      }
      x = v128.load32_splat(a)
      c00 = madd(x, b0, c00)
      c01 = madd(x, b1, c01)
      if (two) {
        c02 = madd(x, b2, c02)
        c03 = madd(x, b3, c03)
      }
      x = v128.load32_splat(a, 4)
      c10 = madd(x, b0, c10)
      c11 = madd(x, b1, c11)
      if (two) {
        c12 = madd(x, b2, c12)
        c13 = madd(x, b3, c13)
      }
      x = v128.load32_splat(a, 8)
      c20 = madd(x, b0, c20)
      c21 = madd(x, b1, c21)
      if (two) {
        c22 = madd(x, b2, c22)
        c23 = madd(x, b3, c23)
      }
      a += 32
      b += 32
      b0 = v128.load(b)
      b1 = v128.load(b, 16)
      if (two) {
        b2 = v128.load(b + right)
        b3 = v128.load(b + right, 16)
      }
      x = v128.load32_splat(a)
      c00 = madd(x, b0, c00)
      c01 = madd(x, b1, c01)
      if (two) {
        c02 = madd(x, b2, c02)
        c03 = madd(x, b3, c03)
      }
      x = v128.load32_splat(a, 4)
      c10 = madd(x, b0, c10)
      c11 = madd(x, b1, c11)
      if (two) {
        c12 = madd(x, b2, c12)
        c13 = madd(x, b3, c13)
      }
      x = v128.load32_splat(a, 8)
      c20 = madd(x, b0, c20)
      c21 = madd(x, b1, c21)
      if (two) {
        c22 = madd(x, b2, c22)
        c23 = madd(x, b3, c23)
      }
      x = v128.load32_splat(a, 12)
      c30 = madd(x, b0, c30)
      c31 = madd(x, b1, c31)
      if (two) {
        c32 = madd(x, b2, c32)
        c33 = madd(x, b3, c33)
      }
      a += 32
      b += 32
    }
    for (; n > 0; n--) {
      b0 = v128.load(b)
      b1 = v128.load(b, 16)
      if (two) {
        b2 = v128.load(b + right)
        b3 = v128.load(b + right, 16)
      }
      x = v128.load32_splat(a)
      c00 = madd(x, b0, c00)
      c01 = madd(x, b1, c01)
      if (two) {
        c02 = madd(x, b2, c02)
        c03 = madd(x, b3, c03)
      }
      x = v128.load32_splat(a, 4)
      c10 = madd(x, b0, c10)
      c11 = madd(x, b1, c11)
      if (two) {
        c12 = madd(x, b2, c12)
        c13 = madd(x, b3, c13)
      }
      x = v128.load32_splat(a, 8)
      c20 = madd(x, b0, c20)
      c21 = madd(x, b1, c21)
      if (two) {
        c22 = madd(x, b2, c22)
        c23 = madd(x, b3, c23)
      }
      x = v128.load32_splat(a, 12)
      c30 = madd(x, b0, c30)
      c31 = madd(x, b1, c31)
      if (two) {
        c32 = madd(x, b2, c32)
        c33 = madd(x, b3, c33)
      }
      a += 32
      b += 32
    }
  } else {
    for (; n > 0; n -= 8, a += nextA)
      for (let i = min(n, 8); i > 0; i--) {
        b0 = v128.load(b)
        b1 = v128.load(b, 16)
        if (two) {
          b2 = v128.load(b + right)
          b3 = v128.load(b + right, 16)
        }
        x = v128.load32_splat(a)
        c00 = madd(x, b0, c00)
        c01 = madd(x, b1, c01)
        if (two) {
          c02 = madd(x, b2, c02)
          c03 = madd(x, b3, c03)
        }
        x = v128.load32_splat(a, 32)
        c10 = madd(x, b0, c10)
        c11 = madd(x, b1, c11)
        if (two) {
          c12 = madd(x, b2, c12)
          c13 = madd(x, b3, c13)
        }
        x = v128.load32_splat(a, 64)
        c20 = madd(x, b0, c20)
        c21 = madd(x, b1, c21)
        if (two) {
          c22 = madd(x, b2, c22)
          c23 = madd(x, b3, c23)
        }
        x = v128.load32_splat(a, 96)
        c30 = madd(x, b0, c30)
        c31 = madd(x, b1, c31)
        if (two) {
          c32 = madd(x, b2, c32)
          c33 = madd(x, b3, c33)
        }
        a += 4
        b += 32
      }
  }
  if (shape >= LOWER) {
    // Where the triangle begins.
    const diagonal = l + (<usize>(m >> 3) * (nextL + 32)) + (<usize>(m & 7) << 2)
    for (; m > 0; m -= 8, l += nextL)
      for (let i = min(m, 8); i > 0; i--) {
        b0 = v128.load(y)
        b1 = v128.load(y, 16)
        if (two) {
          b2 = v128.load(y + rightY)
          b3 = v128.load(y + rightY, 16)
        }
        x = v128.load32_splat(l)
        c00 = madd(x, b0, c00)
        c01 = madd(x, b1, c01)
        if (two) {
          c02 = madd(x, b2, c02)
          c03 = madd(x, b3, c03)
        }
        x = v128.load32_splat(l, 32)
        c10 = madd(x, b0, c10)
        c11 = madd(x, b1, c11)
        if (two) {
          c12 = madd(x, b2, c12)
          c13 = madd(x, b3, c13)
        }
        x = v128.load32_splat(l, 64)
        c20 = madd(x, b0, c20)
        c21 = madd(x, b1, c21)
        if (two) {
          c22 = madd(x, b2, c22)
          c23 = madd(x, b3, c23)
        }
        x = v128.load32_splat(l, 96)
        c30 = madd(x, b0, c30)
        c31 = madd(x, b1, c31)
        if (two) {
          c32 = madd(x, b2, c32)
          c33 = madd(x, b3, c33)
        }
        l += 4
        y += 32
      }
    l = diagonal
  }
  if (shape == LOWER) {
    b0 = v128.load(y)
    b1 = v128.load(y, 16)
    if (two) {
      b2 = v128.load(y + rightY)
      b3 = v128.load(y + rightY, 16)
    }
    x = v128.load32_splat(l)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    if (two) {
      c02 = madd(x, b2, c02)
      c03 = madd(x, b3, c03)
    }
    x = v128.load32_splat(l, 32)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    if (two) {
      c12 = madd(x, b2, c12)
      c13 = madd(x, b3, c13)
    }
    x = v128.load32_splat(l, 64)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    if (two) {
      c22 = madd(x, b2, c22)
      c23 = madd(x, b3, c23)
    }
    x = v128.load32_splat(l, 96)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    if (two) {
      c32 = madd(x, b2, c32)
      c33 = madd(x, b3, c33)
    }
    b0 = v128.load(y, 32)
    b1 = v128.load(y, 48)
    if (two) {
      b2 = v128.load(y + rightY, 32)
      b3 = v128.load(y + rightY, 48)
    }
    x = v128.load32_splat(l, 36)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    if (two) {
      c12 = madd(x, b2, c12)
      c13 = madd(x, b3, c13)
    }
    x = v128.load32_splat(l, 68)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    if (two) {
      c22 = madd(x, b2, c22)
      c23 = madd(x, b3, c23)
    }
    x = v128.load32_splat(l, 100)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    if (two) {
      c32 = madd(x, b2, c32)
      c33 = madd(x, b3, c33)
    }
    b0 = v128.load(y, 64)
    b1 = v128.load(y, 80)
    if (two) {
      b2 = v128.load(y + rightY, 64)
      b3 = v128.load(y + rightY, 80)
    }
    x = v128.load32_splat(l, 72)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    if (two) {
      c22 = madd(x, b2, c22)
      c23 = madd(x, b3, c23)
    }
    x = v128.load32_splat(l, 104)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    if (two) {
      c32 = madd(x, b2, c32)
      c33 = madd(x, b3, c33)
    }
    b0 = v128.load(y, 96)
    b1 = v128.load(y, 112)
    if (two) {
      b2 = v128.load(y + rightY, 96)
      b3 = v128.load(y + rightY, 112)
    }
    x = v128.load32_splat(l, 108)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    if (two) {
      c32 = madd(x, b2, c32)
      c33 = madd(x, b3, c33)
    }
  }
  if (shape == SOLVE) {
    c00 = f32x4.sub(v128.load(c), c00)
    c01 = f32x4.sub(v128.load(c, 16), c01)
    c10 = f32x4.sub(v128.load(c, 32), c10)
    c11 = f32x4.sub(v128.load(c, 48), c11)
    c20 = f32x4.sub(v128.load(c, 64), c20)
    c21 = f32x4.sub(v128.load(c, 80), c21)
    c30 = f32x4.sub(v128.load(c, 96), c30)
    c31 = f32x4.sub(v128.load(c, 112), c31)
    if (two) {
      c02 = f32x4.sub(v128.load(cR), c02)
      c03 = f32x4.sub(v128.load(cR, 16), c03)
      c12 = f32x4.sub(v128.load(cR, 32), c12)
      c13 = f32x4.sub(v128.load(cR, 48), c13)
      c22 = f32x4.sub(v128.load(cR, 64), c22)
      c23 = f32x4.sub(v128.load(cR, 80), c23)
      c32 = f32x4.sub(v128.load(cR, 96), c32)
      c33 = f32x4.sub(v128.load(cR, 112), c33)
    }
    x = v128.load32_splat(factor)
    const y00 = f32x4.mul(x, c00), y01 = f32x4.mul(x, c01), y02 = f32x4.mul(x, c02), y03 = f32x4.mul(x, c03)
    x = f32x4.neg(v128.load32_splat(l, 32))
    c10 = madd(x, y00, c10)
    c11 = madd(x, y01, c11)
    if (two) {
      c12 = madd(x, y02, c12)
      c13 = madd(x, y03, c13)
    }
    x = f32x4.neg(v128.load32_splat(l, 64))
    c20 = madd(x, y00, c20)
    c21 = madd(x, y01, c21)
    if (two) {
      c22 = madd(x, y02, c22)
      c23 = madd(x, y03, c23)
    }
    x = f32x4.neg(v128.load32_splat(l, 96))
    c30 = madd(x, y00, c30)
    c31 = madd(x, y01, c31)
    if (two) {
      c32 = madd(x, y02, c32)
      c33 = madd(x, y03, c33)
    }
    x = v128.load32_splat(factor, 4)
    const y10 = f32x4.mul(x, c10), y11 = f32x4.mul(x, c11), y12 = f32x4.mul(x, c12), y13 = f32x4.mul(x, c13)
    x = f32x4.neg(v128.load32_splat(l, 68))
    c20 = madd(x, y10, c20)
    c21 = madd(x, y11, c21)
    if (two) {
      c22 = madd(x, y12, c22)
      c23 = madd(x, y13, c23)
    }
    x = f32x4.neg(v128.load32_splat(l, 100))
    c30 = madd(x, y10, c30)
    c31 = madd(x, y11, c31)
    if (two) {
      c32 = madd(x, y12, c32)
      c33 = madd(x, y13, c33)
    }
    x = v128.load32_splat(factor, 8)
    const y20 = f32x4.mul(x, c20), y21 = f32x4.mul(x, c21), y22 = f32x4.mul(x, c22), y23 = f32x4.mul(x, c23)
    x = f32x4.neg(v128.load32_splat(l, 104))
    c30 = madd(x, y20, c30)
    c31 = madd(x, y21, c31)
    if (two) {
      c32 = madd(x, y22, c32)
      c33 = madd(x, y23, c33)
    }
    x = v128.load32_splat(factor, 12)
    const y30 = f32x4.mul(x, c30), y31 = f32x4.mul(x, c31), y32 = f32x4.mul(x, c32), y33 = f32x4.mul(x, c33)
    const yR = y + rightY
    v128.store(y, y01, 16)
    v128.store(y, y00)
    v128.store(y, y11, 48)
    v128.store(y, y10, 32)
    v128.store(y, y21, 80)
    v128.store(y, y20, 64)
    v128.store(y, y31, 112)
    v128.store(y, y30, 96)
    if (two) {
      v128.store(yR, y03, 16)
      v128.store(yR, y02)
      v128.store(yR, y13, 48)
      v128.store(yR, y12, 32)
      v128.store(yR, y23, 80)
      v128.store(yR, y22, 64)
      v128.store(yR, y33, 112)
      v128.store(yR, y32, 96)
    }
  } else if (turned && shape == FULL && f) {
    x = v128.load32_splat(f)
    c00 = madd(x, v128.load(c), c00)
    c01 = madd(x, v128.load(c, 16), c01)
    if (two) {
      c02 = madd(x, v128.load(cR), c02)
      c03 = madd(x, v128.load(cR, 16), c03)
    }
    x = v128.load32_splat(f, 4)
    c10 = madd(x, v128.load(c, 32), c10)
    c11 = madd(x, v128.load(c, 48), c11)
    if (two) {
      c12 = madd(x, v128.load(cR, 32), c12)
      c13 = madd(x, v128.load(cR, 48), c13)
    }
    x = v128.load32_splat(f, 8)
    c20 = madd(x, v128.load(c, 64), c20)
    c21 = madd(x, v128.load(c, 80), c21)
    if (two) {
      c22 = madd(x, v128.load(cR, 64), c22)
      c23 = madd(x, v128.load(cR, 80), c23)
    }
    x = v128.load32_splat(f, 12)
    c30 = madd(x, v128.load(c, 96), c30)
    c31 = madd(x, v128.load(c, 112), c31)
    if (two) {
      c32 = madd(x, v128.load(cR, 96), c32)
      c33 = madd(x, v128.load(cR, 112), c33)
    }
  } else if (add) {
    c00 = f32x4.add(v128.load(c), c00)
    c01 = f32x4.add(v128.load(c, 16), c01)
    c10 = f32x4.add(v128.load(c, 32), c10)
    c11 = f32x4.add(v128.load(c, 48), c11)
    c20 = f32x4.add(v128.load(c, 64), c20)
    c21 = f32x4.add(v128.load(c, 80), c21)
    c30 = f32x4.add(v128.load(c, 96), c30)
    c31 = f32x4.add(v128.load(c, 112), c31)
    if (two) {
      c02 = f32x4.add(v128.load(cR), c02)
      c03 = f32x4.add(v128.load(cR, 16), c03)
      c12 = f32x4.add(v128.load(cR, 32), c12)
      c13 = f32x4.add(v128.load(cR, 48), c13)
      c22 = f32x4.add(v128.load(cR, 64), c22)
      c23 = f32x4.add(v128.load(cR, 80), c23)
      c32 = f32x4.add(v128.load(cR, 96), c32)
      c33 = f32x4.add(v128.load(cR, 112), c33)
    }
  }
  v128.store(c, c01, 16)
  v128.store(c, c00)
  v128.store(c, c11, 48)
  v128.store(c, c10, 32)
  v128.store(c, c21, 80)
  v128.store(c, c20, 64)
  v128.store(c, c31, 112)
  v128.store(c, c30, 96)
  if (two) {
    v128.store(cR, c03, 16)
    v128.store(cR, c02)
    v128.store(cR, c13, 48)
    v128.store(cR, c12, 32)
    v128.store(cR, c23, 80)
    v128.store(cR, c22, 64)
    v128.store(cR, c33, 112)
    v128.store(cR, c32, 96)
  }
}

/** c[0..8, 0..8] = a b over n steps, a by rows. */
function tileSquare(c: usize, a: usize, nextA: usize, b: usize, n: i32): void {
  let c00 = splat(0), c01 = splat(0), c10 = splat(0), c11 = splat(0)
  let c20 = splat(0), c21 = splat(0), c30 = splat(0), c31 = splat(0)
  let c40 = splat(0), c41 = splat(0), c50 = splat(0), c51 = splat(0)
  let c60 = splat(0), c61 = splat(0), c70 = splat(0), c71 = splat(0)
  for (; n > 0; n -= 8, a += nextA)
    for (let i = min(n, 8); i > 0; i--) {
      const b0 = v128.load(b), b1 = v128.load(b, 16)
      let x = v128.load32_splat(a)
      c00 = madd(x, b0, c00)
      c01 = madd(x, b1, c01)
      x = v128.load32_splat(a, 32)
      c10 = madd(x, b0, c10)
      c11 = madd(x, b1, c11)
      x = v128.load32_splat(a, 64)
      c20 = madd(x, b0, c20)
      c21 = madd(x, b1, c21)
      x = v128.load32_splat(a, 96)
      c30 = madd(x, b0, c30)
      c31 = madd(x, b1, c31)
      x = v128.load32_splat(a, 128)
      c40 = madd(x, b0, c40)
      c41 = madd(x, b1, c41)
      x = v128.load32_splat(a, 160)
      c50 = madd(x, b0, c50)
      c51 = madd(x, b1, c51)
      x = v128.load32_splat(a, 192)
      c60 = madd(x, b0, c60)
      c61 = madd(x, b1, c61)
      x = v128.load32_splat(a, 224)
      c70 = madd(x, b0, c70)
      c71 = madd(x, b1, c71)
      a += 4
      b += 32
    }
  v128.store(c, c01, 16)
  v128.store(c, c00)
  v128.store(c, c11, 48)
  v128.store(c, c10, 32)
  v128.store(c, c21, 80)
  v128.store(c, c20, 64)
  v128.store(c, c31, 112)
  v128.store(c, c30, 96)
  v128.store(c, c41, 144)
  v128.store(c, c40, 128)
  v128.store(c, c51, 176)
  v128.store(c, c50, 160)
  v128.store(c, c61, 208)
  v128.store(c, c60, 192)
  v128.store(c, c71, 240)
  v128.store(c, c70, 224)
}

/** A tile of 8 columns. */
function tile(shape: i32, c: usize, add: i32, a: usize, nextA: usize, b: usize, n: i32, l: usize, nextL: usize, y: usize, m: i32, factor: usize): void {
  tileOf(false, false, shape, c, 0, add, 0, a, nextA, b, 0, n, l, nextL, y, 0, m, factor)
}

function tileTurned(shape: i32, c: usize, add: i32, f: usize, a: usize, b: usize, n: i32): void {
  tileOf(false, true, shape, c, 0, add, f, a, 0, b, 0, n, 0, 0, 0, 0, 0, 0)
}

// ---- products ---------------------------------------------------------------------------------------------------------------------------

/** From the end of a strip's row, in a block with R rows, to the same row of the next strip. */
@inline function nextOf(R: i32): usize {
  return <usize>(R - 1) << 5
}

/** All tiles of strip j, and of the one after it where there are `two`, from row i on. */
@inline function stripOf(two: bool, shape: i32, i: i32, j: i32, c: usize, Rc: i32, add: i32, a: usize, Ra: i32, b: usize, Rb: i32, n: i32, l: usize, Rl: i32,
  y: usize, Ry: i32, M: i32, factor: usize): void {
  const rightC = <usize>Rc << 5, right = <usize>Rb << 5, rightY = <usize>Ry << 5, bj = at(b, Rb, 0, j), yj = at(y, Ry, 0, j)
  for (; i < M; i += 4) {
    const ci = at(c, Rc, i, j), ai = rowsFrom(a, i), li = rowsFrom(l, i), factorI = factor + (i << 2)
    if (two) tileOf(true, false, shape, ci, rightC, add, 0, ai, nextOf(Ra), bj, right, n, li, nextOf(Rl), yj, rightY, i, factorI)
    else tile(shape, ci, add, ai, nextOf(Ra), bj, n, li, nextOf(Rl), yj, i, factorI)
  }
}

/** A strip of 8 columns. */
function strip(shape: i32, i: i32, j: i32, c: usize, Rc: i32, add: i32, a: usize, Ra: i32, b: usize, Rb: i32, n: i32, l: usize, Rl: i32, y: usize,
  Ry: i32, M: i32, factor: usize): void {
  stripOf(false, shape, i, j, c, Rc, add, a, Ra, b, Rb, n, l, Rl, y, Ry, M, factor)
}

function stripsFull(i: i32, j: i32, c: usize, Rc: i32, add: i32, a: usize, Ra: i32, b: usize, Rb: i32, M: i32, n: i32): void {
  stripOf(true, FULL, i, j, c, Rc, add, a, Ra, b, Rb, n, 0, 0, 0, 0, M, 0)
}

function stripsLower(j: i32, c: usize, Rc: i32, add: i32, a: usize, Ra: i32, b: usize, Rb: i32, n: i32, l: usize, Rl: i32, y: usize, Ry: i32, M: i32): void {
  stripOf(true, LOWER, 0, j, c, Rc, add, a, Ra, b, Rb, n, l, Rl, y, Ry, M, 0)
}

function stripsSolve(j: i32, c: usize, a: usize, Ra: i32, b: usize, Rb: i32, n: i32, l: usize, y: usize, M: i32, factor: usize): void {
  stripOf(true, SOLVE, 0, j, c, M, SET, a, Ra, b, Rb, n, l, M, y, M, M, factor)
}

/** C [M, N] = | += A B; a is [M, n], b is [n, N]; Rc, Ra, Rb are the rows of the blocks they lie in. */
export function product(c: usize, Rc: i32, add: i32, a: usize, Ra: i32, b: usize, Rb: i32, M: i32, N: i32, n: i32): void {
  let j = 0
  if (wide) for (; j + 16 <= N; j += 16) stripsFull(0, j, c, Rc, add, a, Ra, b, Rb, M, n)
  for (; j < N; j += 8) strip(FULL, 0, j, c, Rc, add, a, Ra, b, Rb, n, 0, 0, 0, 0, M, 0)
}

/** C [M, N] = | += A B + tril(L) Y; a is [M, n], l [M, M]. */
export function productLower(c: usize, Rc: i32, add: i32, a: usize, Ra: i32, b: usize, Rb: i32, n: i32, l: usize, Rl: i32, y: usize, Ry: i32, M: i32,
  N: i32): void {
  let j = 0
  if (wide) for (; j + 16 <= N; j += 16) stripsLower(j, c, Rc, add, a, Ra, b, Rb, n, l, Rl, y, Ry, M)
  for (; j < N; j += 8) strip(LOWER, 0, j, c, Rc, add, a, Ra, b, Rb, n, l, Rl, y, Ry, M, 0)
}

/** C [M, N] = | += tril(L) Y, l [M, M]. */
export function lowerProduct(c: usize, Rc: i32, add: i32, l: usize, Rl: i32, y: usize, Ry: i32, M: i32, N: i32): void {
  productLower(c, Rc, add, 0, 0, 0, 0, 0, l, Rl, y, Ry, M, N)
}

/** C [M, N] += A^T B or, unless f [M] is 0, = diag(f) C + A^T B; a is [n, M], b [n, N]. */
export function addTurned(c: usize, Rc: i32, a: usize, Ra: i32, b: usize, Rb: i32, M: i32, N: i32, n: i32, f: usize = 0): void {
  let j = 0
  if (wide) for (; j + 16 <= N; j += 16) stripsTurned(j, c, Rc, f, a, Ra, b, Rb, M, n)
  for (; j < N; j += 8)
    for (let i = 0; i < M; i += 4) tileTurned(FULL, at(c, Rc, i, j), ADD, f ? f + (i << 2) : 0, at(a, Ra, 0, i), at(b, Rb, 0, j), n)
}

function stripsTurned(j: i32, c: usize, Rc: i32, f: usize, a: usize, Ra: i32, b: usize, Rb: i32, M: i32, n: i32): void {
  for (let i = 0; i < M; i += 4)
    tileOf(true, true, FULL, at(c, Rc, i, j), <usize>Rc << 5, ADD, f ? f + (i << 2) : 0, at(a, Ra, 0, i), 0, at(b, Rb, 0, j), <usize>Rb << 5, n, 0, 0, 0, 0, 0, 0)
}

/** C [M, N] += tril(L)^T B, L [M, M]. */
export function addLowerTurned(c: usize, Rc: i32, l: usize, Rl: i32, b: usize, Rb: i32, M: i32, N: i32): void {
  let j = 0
  if (wide) for (; j + 16 <= N; j += 16) stripsUpper(j, c, Rc, l, Rl, b, Rb, M)
  for (; j < N; j += 8)
    for (let i = 0; i < M; i += 4) tileTurned(UPPER, at(c, Rc, i, j), ADD, 0, at(l, Rl, i, i), at(b, Rb, i, j), M - i - 4)
}

function stripsUpper(j: i32, c: usize, Rc: i32, l: usize, Rl: i32, b: usize, Rb: i32, M: i32): void {
  for (let i = 0; i < M; i += 4)
    tileOf(true, true, UPPER, at(c, Rc, i, j), <usize>Rc << 5, ADD, 0, at(l, Rl, i, i), 0, at(b, Rb, i, j), <usize>Rb << 5, M - i - 4, 0, 0, 0, 0, 0, 0)
}

/** The lower triangle of C [M, M] = A B, diagonal included; a is [M, n], b [n, M]. What's above it is left undefined. */
export function lowerOf(c: usize, a: usize, Ra: i32, b: usize, Rb: i32, M: i32, n: i32): void {
  for (let j = 0; j < M; j += wide ? 16 : 8) {
    if (wide) {
      tileSquare(at(c, M, j, j), rowsFrom(a, j), nextOf(Ra), at(b, Rb, 0, j), n)
      if (j + 16 <= M) stripsFull(j + 8, j, c, M, SET, a, Ra, b, Rb, M, n)
    } else strip(FULL, j, j, c, M, SET, a, Ra, b, Rb, n, 0, 0, 0, 0, M, 0)
  }
}

/** dst [M, M] = L + L^T for the strictly lower part L of l. */
export function symmetric(dst: usize, Rd: i32, l: usize, M: i32): void {
  transpose(dst, Rd, l, M, M, M)
  for (let r = 0; r < M; r++) {
    const diagonal = r & ~3
    for (let j = 0; j < diagonal; j += 4) v128.store(at(dst, Rd, r, j), v128.load(at(l, M, r, j)))
    for (let j = diagonal; j < r; j++) store<f32>(at(dst, Rd, r, j), load<f32>(at(l, M, r, j)))
    store<f32>(at(dst, Rd, r, r), 0)
  }
}

/** Row l of a tile is done: y[l] = factor[l] x[l]. */
@inline function finishRow(y: usize, x: usize, factor: usize, l: i32): void {
  const f = v128.load32_splat(factor + (l << 2))
  const from = x + (l << 5), to = y + (l << 5)
  const low = f32x4.mul(f, v128.load(from)), high = f32x4.mul(f, v128.load(from, 16))
  v128.store(to, high, 16)
  v128.store(to, low)
}

/** x[r] += a y[l]. */
@inline function addRow(x: usize, a: f32, y: usize, l: i32, r: i32): void {
  const f = f32x4.splat(a)
  const from = y + (l << 5), to = x + (r << 5)
  const low = madd(f, v128.load(from), v128.load(to)), high = madd(f, v128.load(from, 16), v128.load(to, 16))
  v128.store(to, high, 16)
  v128.store(to, low)
}

/** Eight floats of row i of x -= sum_{l<i} rest_il y_l, rest [R, R] as of remainders.ts; y: those of row 0. */
function subtractRest(x: usize, rest: usize, R: i32, y: usize, i: i32): void {
  if (load<f32>(at(rest, R, i, i)) == 0) return
  let r0 = splat(0), r1 = splat(0)
  for (let l = 0; l < i; l++, y += 32) {
    const f = v128.load32_splat(at(rest, R, i, l))
    r0 = madd(f, v128.load(y), r0)
    r1 = madd(f, v128.load(y, 16), r1)
  }
  v128.store(x, f32x4.sub(v128.load(x, 16), r1), 16)
  v128.store(x, f32x4.sub(v128.load(x), r0))
}

/** ... += sum_{l>i} rest_li y_l. */
function addRestTransposed(x: usize, rest: usize, R: i32, y: usize, i: i32): void {
  let r0 = splat(0), r1 = splat(0)
  for (let l = i + 1; l < R; l++) {
    const f = v128.load32_splat(at(rest, R, l, i))
    r0 = madd(f, v128.load(rowsFrom(y, l)), r0)
    r1 = madd(f, v128.load(rowsFrom(y, l), 16), r1)
  }
  v128.store(x, f32x4.add(v128.load(x, 16), r1), 16)
  v128.store(x, f32x4.add(v128.load(x), r0))
}

/**
 * X [M, N] -= A B, then forward substitution: for i = 0, 1, ...: x_i -= sum_{j<i} L_ij y_j, then y_i = factor_i x_i; a is
 * [M, n]. Of l [M, M] only what is strictly below its diagonal counts; factor is [M]. rest: what L lacks (remainders.ts), 0: nothing.
 */
export function solveLower(x: usize, y: usize, a: usize, Ra: i32, b: usize, Rb: i32, n: i32, l: usize, rest: usize, factor: usize, M: i32, N: i32): void {
  let j = 0
  if (!rest) {
    if (wide) for (; j + 16 <= N; j += 16) stripsSolve(j, x, a, Ra, b, Rb, n, l, y, M, factor)
    for (; j < N; j += 8) strip(SOLVE, 0, j, x, M, SET, a, Ra, b, Rb, n, l, M, y, M, M, factor)
    return
  }
  for (; j < N; j += 8)
    for (let i = 0; i < M; i += 4) {
      const xi = at(x, M, i, j), yi = at(y, M, i, j), y0 = at(y, M, 0, j), fi = factor + (i << 2)
      // To the bit what SOLVE computes, or earlier tokens would know of a later one that reflects.
      tile(BOTH, yi, SET, rowsFrom(a, i), nextOf(Ra), at(b, Rb, 0, j), n, rowsFrom(l, i), nextOf(M), y0, i, 0)
      for (let r: usize = 0; r < 128; r += 16) v128.store(xi + r, f32x4.sub(v128.load(xi + r), v128.load(yi + r)))
      for (let c = 0; c < 4; c++) {
        subtractRest(xi + (<usize>c << 5), rest, M, y0, i + c)
        finishRow(yi, xi, fi, c)
        for (let r = c + 1; r < 4; r++) addRow(xi, -load<f32>(at(l, M, i + r, i + c)), yi, c, r)
      }
    }
}

/** Back substitution: for i = M - 1, M - 2, ...: x_i += sum_{j>i} L_ji y_j, then y_i = factor_i x_i. y lies in a block with Ry rows. */
export function solveLowerTransposed(x: usize, y: usize, Ry: i32, l: usize, rest: usize, factor: usize, M: i32, N: i32): void {
  for (let i = M - 4; i >= 0; i -= 4) {
    const a = at(l, M, i, i), f = factor + (i << 2)
    addTurned(rowsFrom(x, i), M, at(l, M, i + 4, i), M, rowsFrom(y, i + 4), Ry, 4, N, M - i - 4)
    for (let j = 0; j < N; j += 8) {
      const xi = at(x, M, i, j), yi = at(y, Ry, i, j), y0 = at(y, Ry, 0, j)
      if (rest) addRestTransposed(xi + 96, rest, M, y0, i + 3)
      finishRow(yi, xi, f, 3)
      addRow(xi, load<f32>(a + 96), yi, 3, 0)
      addRow(xi, load<f32>(a + 100), yi, 3, 1)
      addRow(xi, load<f32>(a + 104), yi, 3, 2)
      if (rest) addRestTransposed(xi + 64, rest, M, y0, i + 2)
      finishRow(yi, xi, f, 2)
      addRow(xi, load<f32>(a + 64), yi, 2, 0)
      addRow(xi, load<f32>(a + 68), yi, 2, 1)
      if (rest) addRestTransposed(xi + 32, rest, M, y0, i + 1)
      finishRow(yi, xi, f, 1)
      addRow(xi, load<f32>(a + 32), yi, 1, 0)
      if (rest) addRestTransposed(xi, rest, M, y0, i)
      finishRow(yi, xi, f, 0)
    }
  }
}

/** n rows of cols floats, `stride` bytes apart, into x [M, N], of a block with R rows; what is left of it becomes 0. */
export function loadBlock(x: usize, R: i32, src: usize, stride: usize, n: i32, cols: i32, M: i32, N: i32): void {
  const step = <usize>R << 5, whole = cols >> 3, left = cols & 7
  // Row by row, as they lie in memory.
  for (let r = 0; r < n; r++, src += stride) {
    let d = x + (<usize>r << 5), s = src, j = 0
    for (; j + 2 <= whole; j += 2, d += 2 * step, s += 64) {
      const x0 = v128.load(s), x1 = v128.load(s, 16), x2 = v128.load(s, 32), x3 = v128.load(s, 48)
      v128.store(d, x1, 16)
      v128.store(d, x0)
      v128.store(d + step, x3, 16)
      v128.store(d + step, x2)
    }
    for (; j < whole; j++, d += step, s += 32) {
      const low = v128.load(s), high = v128.load(s, 16)
      v128.store(d, high, 16)
      v128.store(d, low)
    }
    if (!left) continue
    v128.store(d, splat(0), 16)
    v128.store(d, splat(0))
    for (let i: usize = 0; i < <usize>left; i++) store<f32>(d + (i << 2), load<f32>(s + (i << 2)))
  }
  const filled = (cols + 7) & ~7
  if (n == M && filled == N) return
  for (let j = 0; j < N; j += 8) {
    for (let r = j < filled ? n : 0; r < M; r++) {
      v128.store(at(x, R, r, j), splat(0))
      v128.store(at(x, R, r, j + 4), splat(0))
    }
  }
}

/** The other way, times a factor. */
export function storeBlock(dst: usize, stride: usize, x: usize, R: i32, n: i32, cols: i32, factor: f32 = 1): void {
  const step = <usize>R << 5, whole = cols >> 3, left = cols & 7, f = splat(factor)
  for (let r = 0; r < n; r++, dst += stride) {
    let d = dst, s = x + (<usize>r << 5), j = 0
    for (; j + 2 <= whole; j += 2, d += 64, s += 2 * step) {
      const x0 = f32x4.mul(f, v128.load(s)), x1 = f32x4.mul(f, v128.load(s, 16))
      const x2 = f32x4.mul(f, v128.load(s + step)), x3 = f32x4.mul(f, v128.load(s + step, 16))
      v128.store(d, x1, 16)
      v128.store(d, x0)
      v128.store(d, x3, 48)
      v128.store(d, x2, 32)
    }
    for (; j < whole; j++, d += 32, s += step) {
      const low = f32x4.mul(f, v128.load(s)), high = f32x4.mul(f, v128.load(s, 16))
      v128.store(d, high, 16)
      v128.store(d, low)
    }
    for (let i: usize = 0; i < <usize>left; i++) store<f32>(d + (i << 2), factor * load<f32>(s + (i << 2)))
  }
}
