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
export const SUB: i32 = 2

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

/** Eight floats; both halves are read before one is written, or V8 wouldn't merge them. */
@inline function put(c: usize, mode: i32, x: v128, y: v128): void {
  if (mode == ADD) {
    x = f32x4.add(v128.load(c), x)
    y = f32x4.add(v128.load(c, 16), y)
  } else if (mode == SUB) {
    x = f32x4.sub(v128.load(c), x)
    y = f32x4.sub(v128.load(c, 16), y)
  }
  v128.store(c, x)
  v128.store(c, y, 16)
}

/** What part of A a tile sees: all n steps; n steps and then the 4 x 4 triangle l <= r; the triangle l >= r and then n steps. */
const FULL: i32 = 0
const LOWER: i32 = 1
const UPPER: i32 = 2

/** c[0..4, 0..8] = | += | -= sum_l a[l, 0..4]^T b[l, 0..8]. */
function tile(c: usize, mode: i32, shape: i32, a: usize, b: usize, n: i32): void {
  let c00 = splat(0), c01 = splat(0), c10 = splat(0), c11 = splat(0)
  let c20 = splat(0), c21 = splat(0), c30 = splat(0), c31 = splat(0)
  let x: v128, b0: v128, b1: v128
  if (shape == UPPER) {
    b0 = v128.load(b)
    b1 = v128.load(b, 16)
    x = v128.load32_splat(a)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    a += 32
    b += 32
    b0 = v128.load(b)
    b1 = v128.load(b, 16)
    x = v128.load32_splat(a)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    x = v128.load32_splat(a, 4)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    a += 32
    b += 32
    b0 = v128.load(b)
    b1 = v128.load(b, 16)
    x = v128.load32_splat(a)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    x = v128.load32_splat(a, 4)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    x = v128.load32_splat(a, 8)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    a += 32
    b += 32
    b0 = v128.load(b)
    b1 = v128.load(b, 16)
    x = v128.load32_splat(a)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    x = v128.load32_splat(a, 4)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    x = v128.load32_splat(a, 8)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    x = v128.load32_splat(a, 12)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    a += 32
    b += 32
  }
  for (; n > 0; n--) {
    b0 = v128.load(b)
    b1 = v128.load(b, 16)
    x = v128.load32_splat(a)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    x = v128.load32_splat(a, 4)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    x = v128.load32_splat(a, 8)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    x = v128.load32_splat(a, 12)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    a += 32
    b += 32
  }
  if (shape == LOWER) {
    b0 = v128.load(b)
    b1 = v128.load(b, 16)
    x = v128.load32_splat(a)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    x = v128.load32_splat(a, 4)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    x = v128.load32_splat(a, 8)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    x = v128.load32_splat(a, 12)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    a += 32
    b += 32
    b0 = v128.load(b)
    b1 = v128.load(b, 16)
    x = v128.load32_splat(a, 4)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    x = v128.load32_splat(a, 8)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    x = v128.load32_splat(a, 12)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    a += 32
    b += 32
    b0 = v128.load(b)
    b1 = v128.load(b, 16)
    x = v128.load32_splat(a, 8)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    x = v128.load32_splat(a, 12)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    a += 32
    b += 32
    b0 = v128.load(b)
    b1 = v128.load(b, 16)
    x = v128.load32_splat(a, 12)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    a += 32
    b += 32
  }
  put(c, mode, c00, c01)
  put(c + 32, mode, c10, c11)
  put(c + 64, mode, c20, c21)
  put(c + 96, mode, c30, c31)
}

/** c[0..8, 0..8] likewise, for all n steps: where V8 merges vectors, 8 wide sums hide the time that an addition takes. */
function tileWide(c: usize, mode: i32, a: usize, b: usize, n: i32): void {
  let c00 = splat(0), c01 = splat(0), c10 = splat(0), c11 = splat(0)
  let c20 = splat(0), c21 = splat(0), c30 = splat(0), c31 = splat(0)
  let c40 = splat(0), c41 = splat(0), c50 = splat(0), c51 = splat(0)
  let c60 = splat(0), c61 = splat(0), c70 = splat(0), c71 = splat(0)
  for (; n > 0; n--) {
    const b0 = v128.load(b), b1 = v128.load(b, 16)
    let x = v128.load32_splat(a)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    x = v128.load32_splat(a, 4)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    x = v128.load32_splat(a, 8)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    x = v128.load32_splat(a, 12)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    x = v128.load32_splat(a, 16)
    c40 = madd(x, b0, c40)
    c41 = madd(x, b1, c41)
    x = v128.load32_splat(a, 20)
    c50 = madd(x, b0, c50)
    c51 = madd(x, b1, c51)
    x = v128.load32_splat(a, 24)
    c60 = madd(x, b0, c60)
    c61 = madd(x, b1, c61)
    x = v128.load32_splat(a, 28)
    c70 = madd(x, b0, c70)
    c71 = madd(x, b1, c71)
    a += 32
    b += 32
  }
  put(c, mode, c00, c01)
  put(c + 32, mode, c10, c11)
  put(c + 64, mode, c20, c21)
  put(c + 96, mode, c30, c31)
  put(c + 128, mode, c40, c41)
  put(c + 160, mode, c50, c51)
  put(c + 192, mode, c60, c61)
  put(c + 224, mode, c70, c71)
}

/**
 * c[0..4, 0..16] likewise, in two strips, `right` bytes from b's to the next and `rightC` from c's: where V8 merges vectors, 8 wide sums for 6 loads a step,
 * where those of 8 rows and 8 columns take 9. V8 doesn't merge it where the shape is only known at run time, hence three functions.
 */
@inline function tile16With(c: usize, rightC: usize, mode: i32, shape: i32, a: usize, b: usize, right: usize, n: i32): void {
  let c00 = splat(0), c01 = splat(0), c02 = splat(0), c03 = splat(0)
  let c10 = splat(0), c11 = splat(0), c12 = splat(0), c13 = splat(0)
  let c20 = splat(0), c21 = splat(0), c22 = splat(0), c23 = splat(0)
  let c30 = splat(0), c31 = splat(0), c32 = splat(0), c33 = splat(0)
  let x: v128, b0: v128, b1: v128, b2: v128, b3: v128
  if (shape == UPPER) {
    b0 = v128.load(b)
    b1 = v128.load(b, 16)
    b2 = v128.load(b + right)
    b3 = v128.load(b + right, 16)
    x = v128.load32_splat(a)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    c02 = madd(x, b2, c02)
    c03 = madd(x, b3, c03)
    a += 32
    b += 32
    b0 = v128.load(b)
    b1 = v128.load(b, 16)
    b2 = v128.load(b + right)
    b3 = v128.load(b + right, 16)
    x = v128.load32_splat(a)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    c02 = madd(x, b2, c02)
    c03 = madd(x, b3, c03)
    x = v128.load32_splat(a, 4)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    c12 = madd(x, b2, c12)
    c13 = madd(x, b3, c13)
    a += 32
    b += 32
    b0 = v128.load(b)
    b1 = v128.load(b, 16)
    b2 = v128.load(b + right)
    b3 = v128.load(b + right, 16)
    x = v128.load32_splat(a)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    c02 = madd(x, b2, c02)
    c03 = madd(x, b3, c03)
    x = v128.load32_splat(a, 4)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    c12 = madd(x, b2, c12)
    c13 = madd(x, b3, c13)
    x = v128.load32_splat(a, 8)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    c22 = madd(x, b2, c22)
    c23 = madd(x, b3, c23)
    a += 32
    b += 32
    b0 = v128.load(b)
    b1 = v128.load(b, 16)
    b2 = v128.load(b + right)
    b3 = v128.load(b + right, 16)
    x = v128.load32_splat(a)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    c02 = madd(x, b2, c02)
    c03 = madd(x, b3, c03)
    x = v128.load32_splat(a, 4)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    c12 = madd(x, b2, c12)
    c13 = madd(x, b3, c13)
    x = v128.load32_splat(a, 8)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    c22 = madd(x, b2, c22)
    c23 = madd(x, b3, c23)
    x = v128.load32_splat(a, 12)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    c32 = madd(x, b2, c32)
    c33 = madd(x, b3, c33)
    a += 32
    b += 32
  }
  for (; n > 0; n--) {
    b0 = v128.load(b)
    b1 = v128.load(b, 16)
    b2 = v128.load(b + right)
    b3 = v128.load(b + right, 16)
    x = v128.load32_splat(a)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    c02 = madd(x, b2, c02)
    c03 = madd(x, b3, c03)
    x = v128.load32_splat(a, 4)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    c12 = madd(x, b2, c12)
    c13 = madd(x, b3, c13)
    x = v128.load32_splat(a, 8)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    c22 = madd(x, b2, c22)
    c23 = madd(x, b3, c23)
    x = v128.load32_splat(a, 12)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    c32 = madd(x, b2, c32)
    c33 = madd(x, b3, c33)
    a += 32
    b += 32
  }
  if (shape == LOWER) {
    b0 = v128.load(b)
    b1 = v128.load(b, 16)
    b2 = v128.load(b + right)
    b3 = v128.load(b + right, 16)
    x = v128.load32_splat(a)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    c02 = madd(x, b2, c02)
    c03 = madd(x, b3, c03)
    x = v128.load32_splat(a, 4)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    c12 = madd(x, b2, c12)
    c13 = madd(x, b3, c13)
    x = v128.load32_splat(a, 8)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    c22 = madd(x, b2, c22)
    c23 = madd(x, b3, c23)
    x = v128.load32_splat(a, 12)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    c32 = madd(x, b2, c32)
    c33 = madd(x, b3, c33)
    a += 32
    b += 32
    b0 = v128.load(b)
    b1 = v128.load(b, 16)
    b2 = v128.load(b + right)
    b3 = v128.load(b + right, 16)
    x = v128.load32_splat(a, 4)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    c12 = madd(x, b2, c12)
    c13 = madd(x, b3, c13)
    x = v128.load32_splat(a, 8)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    c22 = madd(x, b2, c22)
    c23 = madd(x, b3, c23)
    x = v128.load32_splat(a, 12)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    c32 = madd(x, b2, c32)
    c33 = madd(x, b3, c33)
    a += 32
    b += 32
    b0 = v128.load(b)
    b1 = v128.load(b, 16)
    b2 = v128.load(b + right)
    b3 = v128.load(b + right, 16)
    x = v128.load32_splat(a, 8)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    c22 = madd(x, b2, c22)
    c23 = madd(x, b3, c23)
    x = v128.load32_splat(a, 12)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    c32 = madd(x, b2, c32)
    c33 = madd(x, b3, c33)
    a += 32
    b += 32
    b0 = v128.load(b)
    b1 = v128.load(b, 16)
    b2 = v128.load(b + right)
    b3 = v128.load(b + right, 16)
    x = v128.load32_splat(a, 12)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    c32 = madd(x, b2, c32)
    c33 = madd(x, b3, c33)
    a += 32
    b += 32
  }
  put(c, mode, c00, c01)
  put(c + rightC, mode, c02, c03)
  put(c + 32, mode, c10, c11)
  put(c + rightC + 32, mode, c12, c13)
  put(c + 64, mode, c20, c21)
  put(c + rightC + 64, mode, c22, c23)
  put(c + 96, mode, c30, c31)
  put(c + rightC + 96, mode, c32, c33)
}

function tile16(c: usize, rightC: usize, mode: i32, a: usize, b: usize, right: usize, n: i32): void {
  tile16With(c, rightC, mode, FULL, a, b, right, n)
}

function tile16Lower(c: usize, rightC: usize, mode: i32, a: usize, b: usize, right: usize, n: i32): void {
  tile16With(c, rightC, mode, LOWER, a, b, right, n)
}

function tile16Upper(c: usize, rightC: usize, mode: i32, a: usize, b: usize, right: usize, n: i32): void {
  tile16With(c, rightC, mode, UPPER, a, b, right, n)
}

/** C [M, N] = | += | -= A B; aT is [n, M], b is [n, N]; Rc, Ra, Rb are the rows of the blocks they lie in. */
export function product(c: usize, Rc: i32, mode: i32, aT: usize, Ra: i32, b: usize, Rb: i32, M: i32, N: i32, n: i32): void {
  let j = 0
  if (wide) {
    for (; j + 16 <= N; j += 16)
      for (let i = 0; i < M; i += 4) tile16(at(c, Rc, i, j), <usize>Rc << 5, mode, at(aT, Ra, 0, i), at(b, Rb, 0, j), <usize>Rb << 5, n)
    if (j < N) for (let i = 0; i < M; i += 8) tileWide(at(c, Rc, i, j), mode, at(aT, Ra, 0, i), at(b, Rb, 0, j), n)
    return
  }
  for (; j < N; j += 8) for (let i = 0; i < M; i += 4) tile(at(c, Rc, i, j), mode, FULL, at(aT, Ra, 0, i), at(b, Rb, 0, j), n)
}

/** C [M, N] = | += A B + tril(L) B', with [A L]^T stacked in aT [n + M, M] and [B; B'] in b [n + M, N]. */
export function productLower(c: usize, Rc: i32, mode: i32, aT: usize, Ra: i32, b: usize, Rb: i32, M: i32, N: i32, n: i32): void {
  let j = 0
  if (wide)
    for (; j + 16 <= N; j += 16)
      for (let i = 0; i < M; i += 4) tile16Lower(at(c, Rc, i, j), <usize>Rc << 5, mode, at(aT, Ra, 0, i), at(b, Rb, 0, j), <usize>Rb << 5, n + i)
  for (; j < N; j += 8) for (let i = 0; i < M; i += 4) tile(at(c, Rc, i, j), mode, LOWER, at(aT, Ra, 0, i), at(b, Rb, 0, j), n + i)
}

/** C [M, N] += tril(L)^T B, L [M, M]. */
export function addLowerTransposed(c: usize, Rc: i32, l: usize, Rl: i32, b: usize, Rb: i32, M: i32, N: i32): void {
  let j = 0
  if (wide)
    for (; j + 16 <= N; j += 16)
      for (let i = 0; i < M; i += 4) tile16Upper(at(c, Rc, i, j), <usize>Rc << 5, ADD, at(l, Rl, i, i), at(b, Rb, i, j), <usize>Rb << 5, M - i - 4)
  for (; j < N; j += 8) for (let i = 0; i < M; i += 4) tile(at(c, Rc, i, j), ADD, UPPER, at(l, Rl, i, i), at(b, Rb, i, j), M - i - 4)
}

/** The lower triangle of C [M, M] = A B, diagonal included; aT and b are [n, M]. What's above it is left undefined. */
export function lowerOf(c: usize, aT: usize, Ra: i32, b: usize, Rb: i32, M: i32, n: i32): void {
  let j = 0
  if (wide) {
    for (; j + 16 <= M; j += 16)
      for (let i = j; i < M; i += 4) tile16(at(c, M, i, j), <usize>M << 5, SET, at(aT, Ra, 0, i), at(b, Rb, 0, j), <usize>Rb << 5, n)
    if (j < M) tileWide(at(c, M, j, j), SET, at(aT, Ra, 0, j), at(b, Rb, 0, j), n)
    return
  }
  for (; j < M; j += 8) for (let i = j; i < M; i += 4) tile(at(c, M, i, j), SET, FULL, at(aT, Ra, 0, i), at(b, Rb, 0, j), n)
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

/** x[r] += sign a[l, r] y[l]. */
@inline function addRow(x: usize, sign: f32, a: usize, y: usize, l: i32, r: i32): void {
  const f = f32x4.splat(sign * load<f32>(a + (l << 5) + (r << 2)))
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

/** 16 columns of four rows of `solveLower`, in two strips, without what L lacks: x = x - sum_l a[l] y[l], solved for the 4 x 4 triangle `d`; n = i. */
function solve16(x: usize, rightX: usize, y: usize, a: usize, b: usize, right: usize, d: usize, factor: usize, n: i32): void {
  let c00 = splat(0), c01 = splat(0), c02 = splat(0), c03 = splat(0)
  let c10 = splat(0), c11 = splat(0), c12 = splat(0), c13 = splat(0)
  let c20 = splat(0), c21 = splat(0), c22 = splat(0), c23 = splat(0)
  let c30 = splat(0), c31 = splat(0), c32 = splat(0), c33 = splat(0)
  for (; n > 0; n--) {
    const b0 = v128.load(b), b1 = v128.load(b, 16), b2 = v128.load(b + right), b3 = v128.load(b + right, 16)
    let f = v128.load32_splat(a)
    c00 = madd(f, b0, c00)
    c01 = madd(f, b1, c01)
    c02 = madd(f, b2, c02)
    c03 = madd(f, b3, c03)
    f = v128.load32_splat(a, 4)
    c10 = madd(f, b0, c10)
    c11 = madd(f, b1, c11)
    c12 = madd(f, b2, c12)
    c13 = madd(f, b3, c13)
    f = v128.load32_splat(a, 8)
    c20 = madd(f, b0, c20)
    c21 = madd(f, b1, c21)
    c22 = madd(f, b2, c22)
    c23 = madd(f, b3, c23)
    f = v128.load32_splat(a, 12)
    c30 = madd(f, b0, c30)
    c31 = madd(f, b1, c31)
    c32 = madd(f, b2, c32)
    c33 = madd(f, b3, c33)
    a += 32
    b += 32
  }
  c00 = f32x4.sub(v128.load(x), c00)
  c01 = f32x4.sub(v128.load(x, 16), c01)
  c02 = f32x4.sub(v128.load(x + rightX), c02)
  c03 = f32x4.sub(v128.load(x + rightX, 16), c03)
  c10 = f32x4.sub(v128.load(x, 32), c10)
  c11 = f32x4.sub(v128.load(x, 48), c11)
  c12 = f32x4.sub(v128.load(x + rightX, 32), c12)
  c13 = f32x4.sub(v128.load(x + rightX, 48), c13)
  c20 = f32x4.sub(v128.load(x, 64), c20)
  c21 = f32x4.sub(v128.load(x, 80), c21)
  c22 = f32x4.sub(v128.load(x + rightX, 64), c22)
  c23 = f32x4.sub(v128.load(x + rightX, 80), c23)
  c30 = f32x4.sub(v128.load(x, 96), c30)
  c31 = f32x4.sub(v128.load(x, 112), c31)
  c32 = f32x4.sub(v128.load(x + rightX, 96), c32)
  c33 = f32x4.sub(v128.load(x + rightX, 112), c33)
  let f: v128
  f = v128.load32_splat(factor)
  const y00 = f32x4.mul(f, c00)
  const y01 = f32x4.mul(f, c01)
  const y02 = f32x4.mul(f, c02)
  const y03 = f32x4.mul(f, c03)
  f = f32x4.neg(v128.load32_splat(d, 4))
  c10 = madd(f, y00, c10)
  c11 = madd(f, y01, c11)
  c12 = madd(f, y02, c12)
  c13 = madd(f, y03, c13)
  f = f32x4.neg(v128.load32_splat(d, 8))
  c20 = madd(f, y00, c20)
  c21 = madd(f, y01, c21)
  c22 = madd(f, y02, c22)
  c23 = madd(f, y03, c23)
  f = f32x4.neg(v128.load32_splat(d, 12))
  c30 = madd(f, y00, c30)
  c31 = madd(f, y01, c31)
  c32 = madd(f, y02, c32)
  c33 = madd(f, y03, c33)
  f = v128.load32_splat(factor, 4)
  const y10 = f32x4.mul(f, c10)
  const y11 = f32x4.mul(f, c11)
  const y12 = f32x4.mul(f, c12)
  const y13 = f32x4.mul(f, c13)
  f = f32x4.neg(v128.load32_splat(d, 40))
  c20 = madd(f, y10, c20)
  c21 = madd(f, y11, c21)
  c22 = madd(f, y12, c22)
  c23 = madd(f, y13, c23)
  f = f32x4.neg(v128.load32_splat(d, 44))
  c30 = madd(f, y10, c30)
  c31 = madd(f, y11, c31)
  c32 = madd(f, y12, c32)
  c33 = madd(f, y13, c33)
  f = v128.load32_splat(factor, 8)
  const y20 = f32x4.mul(f, c20)
  const y21 = f32x4.mul(f, c21)
  const y22 = f32x4.mul(f, c22)
  const y23 = f32x4.mul(f, c23)
  f = f32x4.neg(v128.load32_splat(d, 76))
  c30 = madd(f, y20, c30)
  c31 = madd(f, y21, c31)
  c32 = madd(f, y22, c32)
  c33 = madd(f, y23, c33)
  f = v128.load32_splat(factor, 12)
  const y30 = f32x4.mul(f, c30)
  const y31 = f32x4.mul(f, c31)
  const y32 = f32x4.mul(f, c32)
  const y33 = f32x4.mul(f, c33)
  v128.store(x, c00)
  v128.store(x, c01, 16)
  v128.store(x + rightX, c02)
  v128.store(x + rightX, c03, 16)
  v128.store(x, c10, 32)
  v128.store(x, c11, 48)
  v128.store(x + rightX, c12, 32)
  v128.store(x + rightX, c13, 48)
  v128.store(x, c20, 64)
  v128.store(x, c21, 80)
  v128.store(x + rightX, c22, 64)
  v128.store(x + rightX, c23, 80)
  v128.store(x, c30, 96)
  v128.store(x, c31, 112)
  v128.store(x + rightX, c32, 96)
  v128.store(x + rightX, c33, 112)
  v128.store(y, y00)
  v128.store(y, y01, 16)
  v128.store(y + right, y02)
  v128.store(y + right, y03, 16)
  v128.store(y, y10, 32)
  v128.store(y, y11, 48)
  v128.store(y + right, y12, 32)
  v128.store(y + right, y13, 48)
  v128.store(y, y20, 64)
  v128.store(y, y21, 80)
  v128.store(y + right, y22, 64)
  v128.store(y + right, y23, 80)
  v128.store(y, y30, 96)
  v128.store(y, y31, 112)
  v128.store(y + right, y32, 96)
  v128.store(y + right, y33, 112)
}

/**
 * Forward substitution: for i = 0, 1, ...: x_i -= sum_{j<i} L_ij y_j, then y_i = factor_i x_i. L [M, M] is given by its transpose and only
 * what is strictly below its diagonal counts; x, y are [M, N]; factor is [M]. rest: what L lacks (remainders.ts), 0: nothing.
 */
export function solveLower(x: usize, y: usize, lT: usize, rest: usize, factor: usize, M: i32, N: i32): void {
  for (let i = 0; i < M; i += 4) {
    const a = at(lT, M, i, i), f = factor + (i << 2), strip = <usize>M << 5
    let j = 0
    if (wide && !rest) for (; j + 16 <= N; j += 16) solve16(at(x, M, i, j), strip, at(y, M, i, j), at(lT, M, 0, i), at(y, M, 0, j), strip, a, f, i)
    for (; j < N; j += 8) {
      const xi = at(x, M, i, j), yi = at(y, M, i, j), y0 = at(y, M, 0, j)
      tile(xi, SUB, FULL, at(lT, M, 0, i), y0, i)
      if (rest) subtractRest(xi, rest, M, y0, i)
      finishRow(yi, xi, f, 0)
      addRow(xi, -1, a, yi, 0, 1)
      addRow(xi, -1, a, yi, 0, 2)
      addRow(xi, -1, a, yi, 0, 3)
      if (rest) subtractRest(xi + 32, rest, M, y0, i + 1)
      finishRow(yi, xi, f, 1)
      addRow(xi, -1, a, yi, 1, 2)
      addRow(xi, -1, a, yi, 1, 3)
      if (rest) subtractRest(xi + 64, rest, M, y0, i + 2)
      finishRow(yi, xi, f, 2)
      addRow(xi, -1, a, yi, 2, 3)
      if (rest) subtractRest(xi + 96, rest, M, y0, i + 3)
      finishRow(yi, xi, f, 3)
    }
  }
}

/** Back substitution: for i = M - 1, M - 2, ...: x_i += sum_{j>i} L_ji y_j, then y_i = factor_i x_i. y lies in a block with Ry rows. */
export function solveLowerTransposed(x: usize, y: usize, Ry: i32, l: usize, rest: usize, factor: usize, M: i32, N: i32): void {
  for (let i = M - 4; i >= 0; i -= 4) {
    const a = at(l, M, i, i), f = factor + (i << 2)
    for (let j = 0; j < N; j += 8) {
      const xi = at(x, M, i, j), yi = at(y, Ry, i, j), y0 = at(y, Ry, 0, j)
      tile(xi, ADD, FULL, at(l, M, i + 4, i), at(y, Ry, i + 4, j), M - i - 4)
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
