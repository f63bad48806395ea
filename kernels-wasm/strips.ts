/**
 * Matrix products on blocks small enough for the L1 and L2 caches (16 to 256 a side), for kernels that chain many of them.
 *
 * A block of N columns with R rows, both multiples of 8, lies in strips of eight columns: entry (r, j) at (j >> 3) 8 R + 8 r + (j & 7).
 * So the 4 x 8 tile of a product reads its operands with constant steps of 32 bytes, with neither packing nor strides. Rows from r on
 * are themselves a block, at `rowsFrom(x, r)` with the same R: blocks stacked in one are multiplied in one go, [A1 A2] [B1; B2].
 * The left operand is always given transposed, [inner, rows]: `product` is A B when given A's transpose, and A^T B when given A itself.
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

/** dst [N, M] = src^T, src [M, N]; Rd and Rs are the rows of the blocks they lie in. */
export function transpose(dst: usize, Rd: i32, src: usize, Rs: i32, M: i32, N: i32): void {
  for (let r = 0; r < M; r += 4) {
    for (let j = 0; j < N; j += 4) {
      const s = at(src, Rs, r, j)
      const x0 = v128.load(s), x1 = v128.load(s, 32), x2 = v128.load(s, 64), x3 = v128.load(s, 96)
      const t0 = i32x4.shuffle(x0, x1, 0, 4, 1, 5), t1 = i32x4.shuffle(x2, x3, 0, 4, 1, 5)
      const t2 = i32x4.shuffle(x0, x1, 2, 6, 3, 7), t3 = i32x4.shuffle(x2, x3, 2, 6, 3, 7)
      const d = at(dst, Rd, j, r)
      v128.store(d, i64x2.shuffle(t0, t1, 0, 2))
      v128.store(d, i64x2.shuffle(t0, t1, 1, 3), 32)
      v128.store(d, i64x2.shuffle(t2, t3, 0, 2), 64)
      v128.store(d, i64x2.shuffle(t2, t3, 1, 3), 96)
    }
  }
}

// ---- tiles: 4 rows and 8 columns, or 16 (`two`) in strips `right` bytes apart. Where V8 merges vectors, 16 columns are 8 wide sums, which hide the time that an
// addition takes, for 6 loads a step. What is only known at run time about a tile's shape would keep V8 from merging it, hence the many functions.

/** c[0..4] += a^T b over n steps; `scaled`: c = diag(f) c + a^T b; `upper`: before them the 4 x 4 triangle l >= r. */
@inline function tileTransposed(two: bool, upper: bool, scaled: bool, c: usize, rightC: usize, f: usize,
  p: usize, q: usize, right: usize, n: i32): void {
  const cR = c + rightC
  let c00 = splat(0), c01 = splat(0), c02 = splat(0), c03 = splat(0)
  let c10 = splat(0), c11 = splat(0), c12 = splat(0), c13 = splat(0)
  let c20 = splat(0), c21 = splat(0), c22 = splat(0), c23 = splat(0)
  let c30 = splat(0), c31 = splat(0), c32 = splat(0), c33 = splat(0)
  let x: v128, b0: v128, b1: v128, b2 = splat(0), b3 = splat(0)
  if (upper) {
    b0 = v128.load(q)
    b1 = v128.load(q, 16)
    if (two) {
      b2 = v128.load(q + right)
      b3 = v128.load(q + right, 16)
    }
    x = v128.load32_splat(p)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    if (two) {
      c02 = madd(x, b2, c02)
      c03 = madd(x, b3, c03)
    }
    p += 32
    q += 32
    b0 = v128.load(q)
    b1 = v128.load(q, 16)
    if (two) {
      b2 = v128.load(q + right)
      b3 = v128.load(q + right, 16)
    }
    x = v128.load32_splat(p)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    if (two) {
      c02 = madd(x, b2, c02)
      c03 = madd(x, b3, c03)
    }
    x = v128.load32_splat(p, 4)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    if (two) {
      c12 = madd(x, b2, c12)
      c13 = madd(x, b3, c13)
    }
    p += 32
    q += 32
    b0 = v128.load(q)
    b1 = v128.load(q, 16)
    if (two) {
      b2 = v128.load(q + right)
      b3 = v128.load(q + right, 16)
    }
    x = v128.load32_splat(p)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    if (two) {
      c02 = madd(x, b2, c02)
      c03 = madd(x, b3, c03)
    }
    x = v128.load32_splat(p, 4)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    if (two) {
      c12 = madd(x, b2, c12)
      c13 = madd(x, b3, c13)
    }
    x = v128.load32_splat(p, 8)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    if (two) {
      c22 = madd(x, b2, c22)
      c23 = madd(x, b3, c23)
    }
    p += 32
    q += 32
    b0 = v128.load(q)
    b1 = v128.load(q, 16)
    if (two) {
      b2 = v128.load(q + right)
      b3 = v128.load(q + right, 16)
    }
    x = v128.load32_splat(p)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    if (two) {
      c02 = madd(x, b2, c02)
      c03 = madd(x, b3, c03)
    }
    x = v128.load32_splat(p, 4)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    if (two) {
      c12 = madd(x, b2, c12)
      c13 = madd(x, b3, c13)
    }
    x = v128.load32_splat(p, 8)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    if (two) {
      c22 = madd(x, b2, c22)
      c23 = madd(x, b3, c23)
    }
    x = v128.load32_splat(p, 12)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    if (two) {
      c32 = madd(x, b2, c32)
      c33 = madd(x, b3, c33)
    }
    p += 32
    q += 32
  }
  for (; n > 0; n--) {
    b0 = v128.load(q)
    b1 = v128.load(q, 16)
    if (two) {
      b2 = v128.load(q + right)
      b3 = v128.load(q + right, 16)
    }
    x = v128.load32_splat(p)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    if (two) {
      c02 = madd(x, b2, c02)
      c03 = madd(x, b3, c03)
    }
    x = v128.load32_splat(p, 4)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    if (two) {
      c12 = madd(x, b2, c12)
      c13 = madd(x, b3, c13)
    }
    x = v128.load32_splat(p, 8)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    if (two) {
      c22 = madd(x, b2, c22)
      c23 = madd(x, b3, c23)
    }
    x = v128.load32_splat(p, 12)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    if (two) {
      c32 = madd(x, b2, c32)
      c33 = madd(x, b3, c33)
    }
    p += 32
    q += 32
  }
  if (scaled) {
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
  } else {
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
  v128.store(c, c00)
  v128.store(c, c01, 16)
  v128.store(c, c10, 32)
  v128.store(c, c11, 48)
  v128.store(c, c20, 64)
  v128.store(c, c21, 80)
  v128.store(c, c30, 96)
  v128.store(c, c31, 112)
  if (two) {
    v128.store(cR, c02)
    v128.store(cR, c03, 16)
    v128.store(cR, c12, 32)
    v128.store(cR, c13, 48)
    v128.store(cR, c22, 64)
    v128.store(cR, c23, 80)
    v128.store(cR, c32, 96)
    v128.store(cR, c33, 112)
  }
}

const FULL: i32 = 0
const LOWER: i32 = 1
const SOLVE: i32 = 2

/**
 * X = diag(f) A B + L Y (f 0: not scaled) for 4 rows of A and of L, n and m steps; skips: bytes from the end of a strip's row to the next's. FULL: c = X or, to `add`, c += X. LOWER: so, with
 * the 4 x 4 triangle of L that comes after m, l <= r, in X. SOLVE: c -= X, solved for that triangle, l < r, and the next four rows of Y = diag(factor) c.
 */
@inline function tileRows(two: bool, shape: i32, c: usize, rightC: usize, add: i32, f: usize, p: usize, skip: usize, q: usize, right: usize, n: i32, l: usize,
  skipL: usize, y: usize, rightY: usize, m: i32, factor: usize): void {
  const cR = c + rightC
  let c00 = splat(0), c01 = splat(0), c02 = splat(0), c03 = splat(0)
  let c10 = splat(0), c11 = splat(0), c12 = splat(0), c13 = splat(0)
  let c20 = splat(0), c21 = splat(0), c22 = splat(0), c23 = splat(0)
  let c30 = splat(0), c31 = splat(0), c32 = splat(0), c33 = splat(0)
  let x: v128, b0: v128, b1: v128, b2 = splat(0), b3 = splat(0)
  const d = l + <usize>(m >> 3) * (skipL + 32) + <usize>((m & 7) << 2)
  for (let part = 0; ; part++) {
    for (; n > 0; n -= 8, p += skip) {
      for (let s = min(n, 8); s > 0; s--) {
        b0 = v128.load(q)
        b1 = v128.load(q, 16)
        if (two) {
          b2 = v128.load(q + right)
          b3 = v128.load(q + right, 16)
        }
        x = v128.load32_splat(p)
        c00 = madd(x, b0, c00)
        c01 = madd(x, b1, c01)
        if (two) {
          c02 = madd(x, b2, c02)
          c03 = madd(x, b3, c03)
        }
        x = v128.load32_splat(p, 32)
        c10 = madd(x, b0, c10)
        c11 = madd(x, b1, c11)
        if (two) {
          c12 = madd(x, b2, c12)
          c13 = madd(x, b3, c13)
        }
        x = v128.load32_splat(p, 64)
        c20 = madd(x, b0, c20)
        c21 = madd(x, b1, c21)
        if (two) {
          c22 = madd(x, b2, c22)
          c23 = madd(x, b3, c23)
        }
        x = v128.load32_splat(p, 96)
        c30 = madd(x, b0, c30)
        c31 = madd(x, b1, c31)
        if (two) {
          c32 = madd(x, b2, c32)
          c33 = madd(x, b3, c33)
        }
        p += 4
        q += 32
      }
    }
    if (part) break
    if (f) {
      x = v128.load32_splat(f)
      c00 = f32x4.mul(x, c00)
      c01 = f32x4.mul(x, c01)
      if (two) {
        c02 = f32x4.mul(x, c02)
        c03 = f32x4.mul(x, c03)
      }
      x = v128.load32_splat(f, 4)
      c10 = f32x4.mul(x, c10)
      c11 = f32x4.mul(x, c11)
      if (two) {
        c12 = f32x4.mul(x, c12)
        c13 = f32x4.mul(x, c13)
      }
      x = v128.load32_splat(f, 8)
      c20 = f32x4.mul(x, c20)
      c21 = f32x4.mul(x, c21)
      if (two) {
        c22 = f32x4.mul(x, c22)
        c23 = f32x4.mul(x, c23)
      }
      x = v128.load32_splat(f, 12)
      c30 = f32x4.mul(x, c30)
      c31 = f32x4.mul(x, c31)
      if (two) {
        c32 = f32x4.mul(x, c32)
        c33 = f32x4.mul(x, c33)
      }
    }
    p = l
    skip = skipL
    q = y
    right = rightY
    n = m
  }
  if (shape == LOWER) {
    b0 = v128.load(q)
    b1 = v128.load(q, 16)
    if (two) {
      b2 = v128.load(q + right)
      b3 = v128.load(q + right, 16)
    }
    x = v128.load32_splat(d)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    if (two) {
      c02 = madd(x, b2, c02)
      c03 = madd(x, b3, c03)
    }
    x = v128.load32_splat(d, 32)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    if (two) {
      c12 = madd(x, b2, c12)
      c13 = madd(x, b3, c13)
    }
    x = v128.load32_splat(d, 64)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    if (two) {
      c22 = madd(x, b2, c22)
      c23 = madd(x, b3, c23)
    }
    x = v128.load32_splat(d, 96)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    if (two) {
      c32 = madd(x, b2, c32)
      c33 = madd(x, b3, c33)
    }
    b0 = v128.load(q, 32)
    b1 = v128.load(q, 48)
    if (two) {
      b2 = v128.load(q + right, 32)
      b3 = v128.load(q + right, 48)
    }
    x = v128.load32_splat(d, 36)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    if (two) {
      c12 = madd(x, b2, c12)
      c13 = madd(x, b3, c13)
    }
    x = v128.load32_splat(d, 68)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    if (two) {
      c22 = madd(x, b2, c22)
      c23 = madd(x, b3, c23)
    }
    x = v128.load32_splat(d, 100)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    if (two) {
      c32 = madd(x, b2, c32)
      c33 = madd(x, b3, c33)
    }
    b0 = v128.load(q, 64)
    b1 = v128.load(q, 80)
    if (two) {
      b2 = v128.load(q + right, 64)
      b3 = v128.load(q + right, 80)
    }
    x = v128.load32_splat(d, 72)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    if (two) {
      c22 = madd(x, b2, c22)
      c23 = madd(x, b3, c23)
    }
    x = v128.load32_splat(d, 104)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    if (two) {
      c32 = madd(x, b2, c32)
      c33 = madd(x, b3, c33)
    }
    b0 = v128.load(q, 96)
    b1 = v128.load(q, 112)
    if (two) {
      b2 = v128.load(q + right, 96)
      b3 = v128.load(q + right, 112)
    }
    x = v128.load32_splat(d, 108)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    if (two) {
      c32 = madd(x, b2, c32)
      c33 = madd(x, b3, c33)
    }
  }
  if (shape != SOLVE) {
    if (add) {
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
    v128.store(c, c00)
    v128.store(c, c01, 16)
    v128.store(c, c10, 32)
    v128.store(c, c11, 48)
    v128.store(c, c20, 64)
    v128.store(c, c21, 80)
    v128.store(c, c30, 96)
    v128.store(c, c31, 112)
    if (two) {
      v128.store(cR, c02)
      v128.store(cR, c03, 16)
      v128.store(cR, c12, 32)
      v128.store(cR, c13, 48)
      v128.store(cR, c22, 64)
      v128.store(cR, c23, 80)
      v128.store(cR, c32, 96)
      v128.store(cR, c33, 112)
    }
    return
  }
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
  x = f32x4.neg(v128.load32_splat(d, 32))
  c10 = madd(x, y00, c10)
  c11 = madd(x, y01, c11)
  if (two) {
    c12 = madd(x, y02, c12)
    c13 = madd(x, y03, c13)
  }
  x = f32x4.neg(v128.load32_splat(d, 64))
  c20 = madd(x, y00, c20)
  c21 = madd(x, y01, c21)
  if (two) {
    c22 = madd(x, y02, c22)
    c23 = madd(x, y03, c23)
  }
  x = f32x4.neg(v128.load32_splat(d, 96))
  c30 = madd(x, y00, c30)
  c31 = madd(x, y01, c31)
  if (two) {
    c32 = madd(x, y02, c32)
    c33 = madd(x, y03, c33)
  }
  x = v128.load32_splat(factor, 4)
  const y10 = f32x4.mul(x, c10), y11 = f32x4.mul(x, c11), y12 = f32x4.mul(x, c12), y13 = f32x4.mul(x, c13)
  x = f32x4.neg(v128.load32_splat(d, 68))
  c20 = madd(x, y10, c20)
  c21 = madd(x, y11, c21)
  if (two) {
    c22 = madd(x, y12, c22)
    c23 = madd(x, y13, c23)
  }
  x = f32x4.neg(v128.load32_splat(d, 100))
  c30 = madd(x, y10, c30)
  c31 = madd(x, y11, c31)
  if (two) {
    c32 = madd(x, y12, c32)
    c33 = madd(x, y13, c33)
  }
  x = v128.load32_splat(factor, 8)
  const y20 = f32x4.mul(x, c20), y21 = f32x4.mul(x, c21), y22 = f32x4.mul(x, c22), y23 = f32x4.mul(x, c23)
  x = f32x4.neg(v128.load32_splat(d, 104))
  c30 = madd(x, y20, c30)
  c31 = madd(x, y21, c31)
  if (two) {
    c32 = madd(x, y22, c32)
    c33 = madd(x, y23, c33)
  }
  x = v128.load32_splat(factor, 12)
  const y30 = f32x4.mul(x, c30), y31 = f32x4.mul(x, c31), y32 = f32x4.mul(x, c32), y33 = f32x4.mul(x, c33)
  v128.store(c, c00)
  v128.store(c, c01, 16)
  v128.store(c, c10, 32)
  v128.store(c, c11, 48)
  v128.store(c, c20, 64)
  v128.store(c, c21, 80)
  v128.store(c, c30, 96)
  v128.store(c, c31, 112)
  v128.store(q, y00)
  v128.store(q, y01, 16)
  v128.store(q, y10, 32)
  v128.store(q, y11, 48)
  v128.store(q, y20, 64)
  v128.store(q, y21, 80)
  v128.store(q, y30, 96)
  v128.store(q, y31, 112)
  if (two) {
    v128.store(cR, c02)
    v128.store(cR, c03, 16)
    v128.store(cR, c12, 32)
    v128.store(cR, c13, 48)
    v128.store(cR, c22, 64)
    v128.store(cR, c23, 80)
    v128.store(cR, c32, 96)
    v128.store(cR, c33, 112)
    v128.store(q + rightY, y02)
    v128.store(q + rightY, y03, 16)
    v128.store(q + rightY, y12, 32)
    v128.store(q + rightY, y13, 48)
    v128.store(q + rightY, y22, 64)
    v128.store(q + rightY, y23, 80)
    v128.store(q + rightY, y32, 96)
    v128.store(q + rightY, y33, 112)
  }
}

/** c[0..8, 0..8] = a b over n steps. */
function tileSquare(c: usize, p: usize, skip: usize, q: usize, n: i32): void {
  let c00 = splat(0), c01 = splat(0), c10 = splat(0), c11 = splat(0)
  let c20 = splat(0), c21 = splat(0), c30 = splat(0), c31 = splat(0)
  let c40 = splat(0), c41 = splat(0), c50 = splat(0), c51 = splat(0)
  let c60 = splat(0), c61 = splat(0), c70 = splat(0), c71 = splat(0)
  for (; n > 0; n -= 8, p += skip) {
    for (let s = min(n, 8); s > 0; s--) {
      const b0 = v128.load(q), b1 = v128.load(q, 16)
      let x = v128.load32_splat(p)
      c00 = madd(x, b0, c00)
      c01 = madd(x, b1, c01)
      x = v128.load32_splat(p, 32)
      c10 = madd(x, b0, c10)
      c11 = madd(x, b1, c11)
      x = v128.load32_splat(p, 64)
      c20 = madd(x, b0, c20)
      c21 = madd(x, b1, c21)
      x = v128.load32_splat(p, 96)
      c30 = madd(x, b0, c30)
      c31 = madd(x, b1, c31)
      x = v128.load32_splat(p, 128)
      c40 = madd(x, b0, c40)
      c41 = madd(x, b1, c41)
      x = v128.load32_splat(p, 160)
      c50 = madd(x, b0, c50)
      c51 = madd(x, b1, c51)
      x = v128.load32_splat(p, 192)
      c60 = madd(x, b0, c60)
      c61 = madd(x, b1, c61)
      x = v128.load32_splat(p, 224)
      c70 = madd(x, b0, c70)
      c71 = madd(x, b1, c71)
      p += 4
      q += 32
    }
  }
  v128.store(c, c00)
  v128.store(c, c01, 16)
  v128.store(c, c10, 32)
  v128.store(c, c11, 48)
  v128.store(c, c20, 64)
  v128.store(c, c21, 80)
  v128.store(c, c30, 96)
  v128.store(c, c31, 112)
  v128.store(c, c40, 128)
  v128.store(c, c41, 144)
  v128.store(c, c50, 160)
  v128.store(c, c51, 176)
  v128.store(c, c60, 192)
  v128.store(c, c61, 208)
  v128.store(c, c70, 224)
  v128.store(c, c71, 240)
}

// ---- products: a strip, or two, of all tiles from row i on ------------------------------------------------------------------------------

@inline function stripsOf(shape: i32, i: i32, j: i32, c: usize, Rc: i32, add: i32, f: usize, a: usize, Ra: i32, b: usize, Rb: i32, n: i32, l: usize,
  Rl: i32, y: usize, Ry: i32, M: i32, factor: usize): void {
  for (; i < M; i += 4)
    tileRows(true, shape, at(c, Rc, i, j), <usize>Rc << 5, add, f ? f + (i << 2) : 0, rowsFrom(a, i), <usize>(Ra - 1) << 5, at(b, Rb, 0, j), <usize>Rb << 5, n,
      rowsFrom(l, i), <usize>(Rl - 1) << 5, at(y, Ry, 0, j), <usize>Ry << 5, shape == FULL ? 0 : i, factor + (i << 2))
}

/** A tile of 8 columns. */
function tile(shape: i32, c: usize, add: i32, f: usize, a: usize, Ra: i32, b: usize, n: i32, l: usize, Rl: i32, y: usize, m: i32, factor: usize): void {
  tileRows(false, shape, c, 0, add, f, a, <usize>(Ra - 1) << 5, b, 0, n, l, <usize>(Rl - 1) << 5, y, 0, m, factor)
}

function strip(shape: i32, i: i32, j: i32, c: usize, Rc: i32, add: i32, f: usize, a: usize, Ra: i32, b: usize, Rb: i32, n: i32, l: usize, Rl: i32, y: usize, Ry: i32,
  M: i32, factor: usize): void {
  for (; i < M; i += 4)
    tile(shape, at(c, Rc, i, j), add, f ? f + (i << 2) : 0, rowsFrom(a, i), Ra, at(b, Rb, 0, j), n, rowsFrom(l, i), Rl, at(y, Ry, 0, j), shape == FULL ? 0 : i, factor + (i << 2))
}

function stripsFull(i: i32, j: i32, c: usize, Rc: i32, add: i32, a: usize, Ra: i32, b: usize, Rb: i32, n: i32, M: i32): void {
  stripsOf(FULL, i, j, c, Rc, add, 0, a, Ra, b, Rb, n, 0, 1, 0, 0, M, 0)
}

function stripsLower(j: i32, c: usize, Rc: i32, add: i32, f: usize, a: usize, Ra: i32, b: usize, Rb: i32, n: i32, l: usize, Rl: i32, y: usize, Ry: i32, M: i32): void {
  stripsOf(LOWER, 0, j, c, Rc, add, f, a, Ra, b, Rb, n, l, Rl, y, Ry, M, 0)
}

function stripsSolve(j: i32, c: usize, f: usize, a: usize, Ra: i32, b: usize, Rb: i32, n: i32, l: usize, y: usize, M: i32, factor: usize): void {
  stripsOf(SOLVE, 0, j, c, M, SET, f, a, Ra, b, Rb, n, l, M, y, M, M, factor)
}

/** C [M, N] = | += A B, A [M, n], B [n, N]; Rc, Ra, Rb are the rows of the blocks they lie in. */
export function product(c: usize, Rc: i32, add: i32, a: usize, Ra: i32, b: usize, Rb: i32, M: i32, N: i32, n: i32): void {
  let j = 0
  if (wide) for (; j + 16 <= N; j += 16) stripsFull(0, j, c, Rc, add, a, Ra, b, Rb, n, M)
  for (; j < N; j += 8) strip(FULL, 0, j, c, Rc, add, 0, a, Ra, b, Rb, n, 0, 1, 0, 0, M, 0)
}

/** C [M, N] = | += diag(f) A B + tril(L) Y, f [M] (0: none), A [M, n], L [M, M]. */
export function productLower(c: usize, Rc: i32, add: i32, f: usize, a: usize, Ra: i32, b: usize, Rb: i32, n: i32, l: usize, Rl: i32, y: usize, Ry: i32, M: i32,
  N: i32): void {
  let j = 0
  if (wide) for (; j + 16 <= N; j += 16) stripsLower(j, c, Rc, add, f, a, Ra, b, Rb, n, l, Rl, y, Ry, M)
  for (; j < N; j += 8) strip(LOWER, 0, j, c, Rc, add, f, a, Ra, b, Rb, n, l, Rl, y, Ry, M, 0)
}

/** C [M, N] = | += tril(L) Y. */
export function lowerProduct(c: usize, Rc: i32, add: i32, l: usize, Rl: i32, y: usize, Ry: i32, M: i32, N: i32): void {
  productLower(c, Rc, add, 0, 0, 1, 0, 0, 0, l, Rl, y, Ry, M, N)
}

/** The lower triangle of C [M, M] = A B, diagonal included; A [M, n], B [n, M]. What's above it is left undefined. */
export function lowerOf(c: usize, a: usize, Ra: i32, b: usize, Rb: i32, M: i32, n: i32): void {
  let j = 0
  if (wide) {
    for (; j < M; j += 16) {
      tileSquare(at(c, M, j, j), rowsFrom(a, j), <usize>(Ra - 1) << 5, at(b, Rb, 0, j), n)
      if (j + 16 <= M) stripsFull(j + 8, j, c, M, SET, a, Ra, b, Rb, n, M)
    }
    return
  }
  for (; j < M; j += 8) strip(FULL, j, j, c, M, SET, 0, a, Ra, b, Rb, n, 0, 1, 0, 0, M, 0)
}

/** A tile of 8 columns. */
function transposedTile(upper: bool, c: usize, f: usize, a: usize, b: usize, n: i32): void {
  tileTransposed(false, upper, f != 0, c, 0, f, a, b, 0, n)
}

function transposedStrips(j: i32, c: usize, Rc: i32, a: usize, Ra: i32, b: usize, Rb: i32, M: i32, n: i32): void {
  for (let i = 0; i < M; i += 4)
    tileTransposed(true, false, false, at(c, Rc, i, j), <usize>Rc << 5, 0, at(a, Ra, 0, i), at(b, Rb, 0, j), <usize>Rb << 5, n)
}

function transposedStripsScaled(j: i32, c: usize, Rc: i32, f: usize, a: usize, Ra: i32, b: usize, Rb: i32, M: i32, n: i32): void {
  for (let i = 0; i < M; i += 4)
    tileTransposed(true, false, true, at(c, Rc, i, j), <usize>Rc << 5, f + (i << 2), at(a, Ra, 0, i), at(b, Rb, 0, j), <usize>Rb << 5, n)
}

function transposedStripsUpper(j: i32, c: usize, Rc: i32, l: usize, Rl: i32, b: usize, Rb: i32, M: i32): void {
  for (let i = 0; i < M; i += 4)
    tileTransposed(true, true, false, at(c, Rc, i, j), <usize>Rc << 5, 0, at(l, Rl, i, i), at(b, Rb, i, j), <usize>Rb << 5, M - i - 4)
}

/** C [M, N] += A^T B or, unless f [M] is 0, = diag(f) C + A^T B; A [n, M], B [n, N]. */
export function addTransposed(c: usize, Rc: i32, f: usize, a: usize, Ra: i32, b: usize, Rb: i32, M: i32, N: i32, n: i32): void {
  let j = 0
  if (wide)
    for (; j + 16 <= N; j += 16) {
      if (f) transposedStripsScaled(j, c, Rc, f, a, Ra, b, Rb, M, n)
      else transposedStrips(j, c, Rc, a, Ra, b, Rb, M, n)
    }
  for (; j < N; j += 8)
    for (let i = 0; i < M; i += 4) transposedTile(false, at(c, Rc, i, j), f ? f + (i << 2) : 0, at(a, Ra, 0, i), at(b, Rb, 0, j), n)
}

/** C [M, N] += tril(L)^T B, L [M, M]. */
export function addLowerTransposed(c: usize, Rc: i32, l: usize, Rl: i32, b: usize, Rb: i32, M: i32, N: i32): void {
  let j = 0
  if (wide) for (; j + 16 <= N; j += 16) transposedStripsUpper(j, c, Rc, l, Rl, b, Rb, M)
  for (; j < N; j += 8)
    for (let i = 0; i < M; i += 4) transposedTile(true, at(c, Rc, i, j), 0, at(l, Rl, i, i), at(b, Rb, i, j), M - i - 4)
}

/** dst [M, N] = src; Rd and Rs are the rows of the blocks they lie in. */
export function copyBlock(dst: usize, Rd: i32, src: usize, Rs: i32, M: i32, N: i32): void {
  for (let j = 0; j < N; j += 8) memory.copy(at(dst, Rd, 0, j), at(src, Rs, 0, j), <usize>M << 5)
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
  v128.store(to, low)
  v128.store(to, high, 16)
}

/** x[r] += sign y[l] times the entry of the 4 x 4 triangle a that is of l and r. */
@inline function addRow(x: usize, sign: f32, a: usize, y: usize, l: i32, r: i32): void {
  const f = f32x4.splat(sign * load<f32>(a + (max(l, r) << 5) + (min(l, r) << 2)))
  const from = y + (l << 5), to = x + (r << 5)
  const low = madd(f, v128.load(from), v128.load(to)), high = madd(f, v128.load(from, 16), v128.load(to, 16))
  v128.store(to, low)
  v128.store(to, high, 16)
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
  v128.store(x, f32x4.sub(v128.load(x), r0))
  v128.store(x, f32x4.sub(v128.load(x, 16), r1), 16)
}

/** ... += sum_{l>i} rest_li y_l. */
function addRestTransposed(x: usize, rest: usize, R: i32, y: usize, i: i32): void {
  let r0 = splat(0), r1 = splat(0)
  for (let l = i + 1; l < R; l++) {
    const f = v128.load32_splat(at(rest, R, l, i))
    r0 = madd(f, v128.load(rowsFrom(y, l)), r0)
    r1 = madd(f, v128.load(rowsFrom(y, l), 16), r1)
  }
  v128.store(x, f32x4.add(v128.load(x), r0))
  v128.store(x, f32x4.add(v128.load(x, 16), r1), 16)
}

/**
 * X [M, N] -= diag(f) A B (f [M], 0: none; A [M, n]), then forward substitution: for i = 0, 1, ...: x_i -= sum_{j<i} L_ij y_j, then y_i = factor_i x_i. Of L [M, M] only what is
 * strictly below its diagonal counts; factor is [M]. rest: what L lacks (remainders.ts), 0: nothing.
 */
export function solveLower(x: usize, y: usize, f: usize, a: usize, Ra: i32, b: usize, Rb: i32, n: i32, l: usize, rest: usize, factor: usize, M: i32, N: i32): void {
  let j = 0
  if (wide && !rest) for (; j + 16 <= N; j += 16) stripsSolve(j, x, f, a, Ra, b, Rb, n, l, y, M, factor)
  if (!rest) {
    for (; j < N; j += 8) strip(SOLVE, 0, j, x, M, SET, f, a, Ra, b, Rb, n, l, M, y, M, M, factor)
    return
  }
  for (; j < N; j += 8)
    for (let i = 0; i < M; i += 4) {
      const xi = at(x, M, i, j), yi = at(y, M, i, j), y0 = at(y, M, 0, j), d = at(l, M, i, i), fi = factor + (i << 2)
      tile(FULL, yi, SET, f ? f + (i << 2) : 0, rowsFrom(a, i), Ra, at(b, Rb, 0, j), n, rowsFrom(l, i), M, y0, i, 0)
      for (let r: usize = 0; r < 128; r += 16) v128.store(xi + r, f32x4.sub(v128.load(xi + r), v128.load(yi + r)))
      subtractRest(xi, rest, M, y0, i)
      finishRow(yi, xi, fi, 0)
      addRow(xi, -1, d, yi, 0, 1)
      addRow(xi, -1, d, yi, 0, 2)
      addRow(xi, -1, d, yi, 0, 3)
      subtractRest(xi + 32, rest, M, y0, i + 1)
      finishRow(yi, xi, fi, 1)
      addRow(xi, -1, d, yi, 1, 2)
      addRow(xi, -1, d, yi, 1, 3)
      subtractRest(xi + 64, rest, M, y0, i + 2)
      finishRow(yi, xi, fi, 2)
      addRow(xi, -1, d, yi, 2, 3)
      subtractRest(xi + 96, rest, M, y0, i + 3)
      finishRow(yi, xi, fi, 3)
    }
}

/** Back substitution: for i = M - 1, M - 2, ...: x_i += sum_{j>i} L_ji y_j, then y_i = factor_i x_i. y lies in a block with Ry rows. */
export function solveLowerTransposed(x: usize, y: usize, Ry: i32, l: usize, rest: usize, factor: usize, M: i32, N: i32): void {
  for (let i = M - 4; i >= 0; i -= 4) {
    const a = at(l, M, i, i), f = factor + (i << 2)
    for (let j = 0; j < N; j += 8) {
      const xi = at(x, M, i, j), yi = at(y, Ry, i, j), y0 = at(y, Ry, 0, j)
      transposedTile(false, xi, 0, at(l, M, i + 4, i), at(y, Ry, i + 4, j), M - i - 4)
      if (rest) addRestTransposed(xi + 96, rest, M, y0, i + 3)
      finishRow(yi, xi, f, 3)
      addRow(xi, 1, a, yi, 3, 0)
      addRow(xi, 1, a, yi, 3, 1)
      addRow(xi, 1, a, yi, 3, 2)
      if (rest) addRestTransposed(xi + 64, rest, M, y0, i + 2)
      finishRow(yi, xi, f, 2)
      addRow(xi, 1, a, yi, 2, 0)
      addRow(xi, 1, a, yi, 2, 1)
      if (rest) addRestTransposed(xi + 32, rest, M, y0, i + 1)
      finishRow(yi, xi, f, 1)
      addRow(xi, 1, a, yi, 1, 0)
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
      v128.store(d, x0)
      v128.store(d, x1, 16)
      v128.store(d + step, x2)
      v128.store(d + step, x3, 16)
    }
    for (; j < whole; j++, d += step, s += 32) {
      const low = v128.load(s), high = v128.load(s, 16)
      v128.store(d, low)
      v128.store(d, high, 16)
    }
    if (!left) continue
    v128.store(d, splat(0))
    v128.store(d, splat(0), 16)
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

/** The other way. */
export function storeBlock(dst: usize, stride: usize, x: usize, R: i32, n: i32, cols: i32): void {
  const step = <usize>R << 5, whole = cols >> 3, left = cols & 7
  for (let r = 0; r < n; r++, dst += stride) {
    let d = dst, s = x + (<usize>r << 5), j = 0
    for (; j + 2 <= whole; j += 2, d += 64, s += 2 * step) {
      const x0 = v128.load(s), x1 = v128.load(s, 16), x2 = v128.load(s + step), x3 = v128.load(s + step, 16)
      v128.store(d, x0)
      v128.store(d, x1, 16)
      v128.store(d, x2, 32)
      v128.store(d, x3, 48)
    }
    for (; j < whole; j++, d += 32, s += step) {
      const low = v128.load(s), high = v128.load(s, 16)
      v128.store(d, low)
      v128.store(d, high, 16)
    }
    for (let i: usize = 0; i < <usize>left; i++) store<f32>(d + (i << 2), load<f32>(s + (i << 2)))
  }
}
