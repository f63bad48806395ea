/**
 * Matrix products: C[M,N] = activation(A[M,K] B[K,N] [+ C] [+ bias]), batched, either side stored transposed.
 *
 * The sum over k is taken in blocks of KC: c = (block 0) + (block 1) + ..., each block summed in the order of k. That order is the same on
 * every path below and for every element: a row of C depends neither on the other rows (but for the sign of a 0 that a sparse product comes to by
 * underflow) nor on the number of threads nor on the width of the processor's vectors (a token generated alone gets the same bits as within a sequence), and the rounding error grows with KC + K / KC
 * rather than with K.
 *
 * B is packed as panels of [k][16], which stay in the first-level cache while the rows of A pass by, some at a time, so that these and the panels of
 * some columns stay in the second-level one. A is read in place, or from a copy of its rows if it is stored transposed, made once for all columns
 * of a task. How many sums a tile of C holds is measured: 6 x 8 fills V8's 15 registers with fused multiply-add,
 * 4 x 8 without, where a product takes a register of its own. `wide` says that V8 merges neighbouring vectors into one of 256 bits
 * (wide.ts): then a tile takes 16 columns instead of 8. Branches after the loop of a tile make V8 keep fewer sums in
 * registers: there is a tile that sets C and one that adds to it; bias and edges are left to `finish`.
 * Pinned by test/ops/wasm.test.ts and test/ops/wasm-pool.test.ts.
 */
import { activate, finish } from './epilogue'
import { BFLOAT16, FLOAT16, lower, upper } from './halves'
import { madd } from './math'
import { scratch } from './scratch'
import { wide } from './wide'

/** Rows of the main tile. */
const MR: i32 = ASC_FEATURE_RELAXED_SIMD ? 6 : 4
/** Columns of a panel of B, and of a tile that isn't wide. */
const NR = 16
const HALF = 8
const KC = 512
/** Rows of A, and columns of B, that pass by each other out of the second-level cache. */
const ROWS = 72
const COLUMNS = 256

/** B[k0 .. k0+kc, n0 .. n0+16) -> [kc][16], columns past N filled with zeros. */
function packB(b: usize, transposed: i32, N: i32, K: i32, k0: i32, kc: i32, n0: i32, to: usize): void {
  const columns = min(NR, N - n0)
  const stepK: usize = (transposed ? 1 : <usize>N) << 2
  const stepN: usize = (transposed ? <usize>K : 1) << 2
  let from = b + <usize>k0 * stepK + <usize>n0 * stepN
  let k = 0
  if (columns == NR && transposed) {
    for (; k + 4 <= kc; k += 4) {
      for (let n = 0; n < NR; n += 4) transpose4x4(from + <usize>n * stepN, stepN, to + (n << 2), NR << 2)
      from += 16
      to += NR << 4
    }
  } else if (columns == NR) {
    for (; k < kc; k++) {
      const b0 = v128.load(from), b1 = v128.load(from, 16), b2 = v128.load(from, 32), b3 = v128.load(from, 48)
      v128.store(to, b1, 16)
      v128.store(to, b0)
      v128.store(to, b3, 48)
      v128.store(to, b2, 32)
      from += stepK
      to += NR << 2
    }
  }
  if (columns < NR) memory.fill(to, 0, <usize>kc * (NR << 2))
  for (; k < kc; k++) {
    for (let n = 0; n < columns; n++) store<f32>(to + (n << 2), load<f32>(from + <usize>n * stepN))
    from += stepK
    to += NR << 2
  }
}

/**
 * packB of four panels: where a row of B is read in one go, the processor sees what comes next. More of them at a time would meet in a set of the cache.
 */
function packFour(b: usize, N: i32, k0: i32, kc: i32, n0: i32, to: usize): void {
  const step = <usize>kc * (NR << 2)
  let from = b + (<usize>(k0 * N + n0) << 2)
  for (const end = to + step; to < end; to += NR << 2, from += <usize>N << 2) {
    let panel = to
    for (let n: usize = 0; n < 4 * NR << 2; n += NR << 2, panel += step) {
      const b0 = v128.load(from + n), b1 = v128.load(from + n, 16), b2 = v128.load(from + n, 32), b3 = v128.load(from + n, 48)
      v128.store(panel, b1, 16)
      v128.store(panel, b0)
      v128.store(panel, b3, 48)
      v128.store(panel, b2, 32)
    }
  }
}

/** packB of panels of halves (halves.ts): half of one, from the row k0 on. */
function widenB<T>(b: usize, K: i32, k0: i32, kc: i32, n0: i32, to: usize): void {
  let from = b + (<usize>(n0 & ~31) * K << 1) + (<usize>k0 << 6) + <usize>(n0 & 16) * 2
  const end = to + (<usize>kc * (NR << 2))
  for (; to < end; to += NR << 2) {
    const p0 = v128.load(from), p1 = v128.load(from, 16)
    v128.store(to, upper<T>(p0), 16)
    v128.store(to, lower<T>(p0))
    v128.store(to, upper<T>(p1), 48)
    v128.store(to, lower<T>(p1), 32)
    from += 64
  }
}

/** packB of all panels of the columns [n0, n1), of a matrix of float32 or of panels of float16 or bfloat16. */
function packPanels(half: i32, b: usize, transposed: i32, N: i32, K: i32, k0: i32, kc: i32, n0: i32, n1: i32, to: usize): void {
  const step = <usize>kc * (NR << 2)
  if (!half && !transposed) for (; n0 + 4 * NR <= n1; n0 += 4 * NR, to += 4 * step) packFour(b, N, k0, kc, n0, to)
  for (; n0 < n1; n0 += NR, to += step) {
    if (half == BFLOAT16) widenB<u16>(b, K, k0, kc, n0, to)
    else if (half == FLOAT16) widenB<i16>(b, K, k0, kc, n0, to)
    else packB(b, transposed, N, K, k0, kc, n0, to)
  }
}

/** Four rows of four numbers, `step` bytes apart -> their transpose, rows `stride` bytes apart. */
@inline function transpose4x4(from: usize, step: usize, to: usize, stride: usize): void {
  const r0 = v128.load(from)
  const r1 = v128.load(from + step)
  const r2 = v128.load(from + 2 * step)
  const r3 = v128.load(from + 3 * step)
  const low01 = v128.shuffle<f32>(r0, r1, 0, 4, 1, 5)
  const high01 = v128.shuffle<f32>(r0, r1, 2, 6, 3, 7)
  const low23 = v128.shuffle<f32>(r2, r3, 0, 4, 1, 5)
  const high23 = v128.shuffle<f32>(r2, r3, 2, 6, 3, 7)
  v128.store(to, v128.shuffle<i64>(low01, low23, 0, 2))
  v128.store(to + stride, v128.shuffle<i64>(low01, low23, 1, 3))
  v128.store(to + 2 * stride, v128.shuffle<i64>(high01, high23, 0, 2))
  v128.store(to + 3 * stride, v128.shuffle<i64>(high01, high23, 1, 3))
}

/**
 * A[m0 .. m0+rows, k0 .. k0+kc), stored transposed, -> its rows, `step` bytes apart. 128 rows at a time: so many numbers are read in one go,
 * and a line of each row stays in the first-level cache until it is full.
 */
function packA(a: usize, M: i32, k0: i32, kc: i32, m0: i32, rows: i32, packed: usize, step: usize): void {
  const stepK = <usize>M << 2
  const wholeK = kc & ~3, whole = rows & ~3
  for (let r = 0; r < rows; r += 128) {
    const end = min(r + 128, whole)
    let from = a + <usize>k0 * stepK + (<usize>m0 << 2)
    for (let k = 0; k < wholeK; k += 4) {
      for (let q = r; q < end; q += 4) transpose4x4(from + (<usize>q << 2), stepK, packed + <usize>q * step + (<usize>k << 2), step)
      from += 4 * stepK
    }
    copyA(from, stepK, r, end, wholeK, kc, packed, step)
    if (end < min(r + 128, rows)) copyA(from - <usize>wholeK * stepK, stepK, end, rows, 0, kc, packed, step)
  }
}

/** Those of rows [r, end) at k of [k, kc), one by one; `from` is where this k begins. */
function copyA(from: usize, stepK: usize, r: i32, end: i32, k: i32, kc: i32, packed: usize, step: usize): void {
  for (; k < kc; k++) {
    for (let q = r; q < end; q++) store<f32>(packed + <usize>q * step + (<usize>k << 2), load<f32>(from + (<usize>q << 2)))
    from += stepK
  }
}

/** Bytes from one row of a copy of A to the next: an odd number of lines of the cache, so that rows don't meet in its sets. */
@inline function packedRow(kc: i32): usize {
  return <usize>((kc + 15) >> 4 | 1) << 6
}

/** c + x0 b0 + x1 b1 + x2 b2 + x3 b3, in this order. */
@inline function madd4(x0: v128, x1: v128, x2: v128, x3: v128, b0: v128, b1: v128, b2: v128, b3: v128, c: v128): v128 {
  return madd(x3, b3, madd(x2, b2, madd(x1, b1, madd(x0, b0, c))))
}

/** What a tile does with C: f32: it's set, i32: it's added to. */
@inline function put<T>(c: usize, low: v128, high: v128): void {
  if (isInteger<T>()) {
    const l = v128.load(c), h = v128.load(c, 16)
    low = f32x4.add(l, low)
    high = f32x4.add(h, high)
  }
  v128.store(c, high, 16)
  v128.store(c, low)
}

/** With offsets written out: V8 merges stores to one address only. */
@inline function putRight<T>(c: usize, low: v128, high: v128): void {
  if (isInteger<T>()) {
    const l = v128.load(c, 32), h = v128.load(c, 48)
    low = f32x4.add(l, low)
    high = f32x4.add(h, high)
  }
  v128.store(c, high, 48)
  v128.store(c, low, 32)
}

/** c[6][8] = sum over kc of a b: row r of A begins at a + r rowStep; b is half a panel, or all of it for a wide tile. */
function tile6<T>(a: usize, rowStep: usize, b: usize, kc: i32, c: usize, ldc: usize): void {
  let c0l = f32x4.splat(0), c0h = f32x4.splat(0), c1l = f32x4.splat(0), c1h = f32x4.splat(0)
  let c2l = f32x4.splat(0), c2h = f32x4.splat(0), c3l = f32x4.splat(0), c3h = f32x4.splat(0)
  let c4l = f32x4.splat(0), c4h = f32x4.splat(0), c5l = f32x4.splat(0), c5h = f32x4.splat(0)
  let a0 = a, a1 = a0 + rowStep, a2 = a1 + rowStep, a3 = a2 + rowStep, a4 = a3 + rowStep, a5 = a4 + rowStep
  const end = b + (<usize>kc * (NR << 2))
  while (b < end) {
    const l = v128.load(b), h = v128.load(b, 16)
    let x = v128.load32_splat(a0)
    c0l = madd(x, l, c0l)
    c0h = madd(x, h, c0h)
    x = v128.load32_splat(a1)
    c1l = madd(x, l, c1l)
    c1h = madd(x, h, c1h)
    x = v128.load32_splat(a2)
    c2l = madd(x, l, c2l)
    c2h = madd(x, h, c2h)
    x = v128.load32_splat(a3)
    c3l = madd(x, l, c3l)
    c3h = madd(x, h, c3h)
    x = v128.load32_splat(a4)
    c4l = madd(x, l, c4l)
    c4h = madd(x, h, c4h)
    x = v128.load32_splat(a5)
    c5l = madd(x, l, c5l)
    c5h = madd(x, h, c5h)
    a0 += 4
    a1 += 4
    a2 += 4
    a3 += 4
    a4 += 4
    a5 += 4
    b += NR << 2
  }
  // Sums are put in the order for which V8 11 (Node 20) keeps them in registers within the loop: from the last row where they are added, from the first where
  // they aren't. In the other it reads all of A ahead, and a product takes 1.6 times as long.
  if (isInteger<T>()) {
    c += 5 * ldc
    put<T>(c, c5l, c5h)
    c -= ldc
    put<T>(c, c4l, c4h)
    c -= ldc
    put<T>(c, c3l, c3h)
    c -= ldc
    put<T>(c, c2l, c2h)
    c -= ldc
    put<T>(c, c1l, c1h)
    c -= ldc
    put<T>(c, c0l, c0h)
  } else {
    put<T>(c, c0l, c0h)
    c += ldc
    put<T>(c, c1l, c1h)
    c += ldc
    put<T>(c, c2l, c2h)
    c += ldc
    put<T>(c, c3l, c3h)
    c += ldc
    put<T>(c, c4l, c4h)
    c += ldc
    put<T>(c, c5l, c5h)
  }
}

/**
 * c[6][16], likewise. Two steps a turn, since what moves pointers takes units of some processors from multiply-adds; that the loop may be left between them
 * keeps the compiler from taking both steps of one sum together, for which there are too few registers.
 */
function tile6Wide<T>(a: usize, rowStep: usize, b: usize, kc: i32, c: usize, ldc: usize): void {
  let c00 = f32x4.splat(0), c01 = f32x4.splat(0), c02 = f32x4.splat(0), c03 = f32x4.splat(0)
  let c10 = f32x4.splat(0), c11 = f32x4.splat(0), c12 = f32x4.splat(0), c13 = f32x4.splat(0)
  let c20 = f32x4.splat(0), c21 = f32x4.splat(0), c22 = f32x4.splat(0), c23 = f32x4.splat(0)
  let c30 = f32x4.splat(0), c31 = f32x4.splat(0), c32 = f32x4.splat(0), c33 = f32x4.splat(0)
  let c40 = f32x4.splat(0), c41 = f32x4.splat(0), c42 = f32x4.splat(0), c43 = f32x4.splat(0)
  let c50 = f32x4.splat(0), c51 = f32x4.splat(0), c52 = f32x4.splat(0), c53 = f32x4.splat(0)
  let a0 = a, a1 = a0 + rowStep, a2 = a1 + rowStep, a3 = a2 + rowStep, a4 = a3 + rowStep, a5 = a4 + rowStep
  let x: v128, b0: v128, b1: v128, b2: v128, b3: v128
  const end = b + (<usize>kc * (NR << 2))
  // Where the last turn begins if it has one step; 0, where nothing lies, if there is none such.
  const half: usize = kc & 1 ? end - (NR << 2) : 0
  while (b < end) {
    b0 = v128.load(b)
    b1 = v128.load(b, 16)
    b2 = v128.load(b, 32)
    b3 = v128.load(b, 48)
    x = v128.load32_splat(a0)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    c02 = madd(x, b2, c02)
    c03 = madd(x, b3, c03)
    x = v128.load32_splat(a1)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    c12 = madd(x, b2, c12)
    c13 = madd(x, b3, c13)
    x = v128.load32_splat(a2)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    c22 = madd(x, b2, c22)
    c23 = madd(x, b3, c23)
    x = v128.load32_splat(a3)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    c32 = madd(x, b2, c32)
    c33 = madd(x, b3, c33)
    x = v128.load32_splat(a4)
    c40 = madd(x, b0, c40)
    c41 = madd(x, b1, c41)
    c42 = madd(x, b2, c42)
    c43 = madd(x, b3, c43)
    x = v128.load32_splat(a5)
    c50 = madd(x, b0, c50)
    c51 = madd(x, b1, c51)
    c52 = madd(x, b2, c52)
    c53 = madd(x, b3, c53)
    if (b == half) break
    b0 = v128.load(b, 64)
    b1 = v128.load(b, 80)
    b2 = v128.load(b, 96)
    b3 = v128.load(b, 112)
    x = v128.load32_splat(a0, 4)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    c02 = madd(x, b2, c02)
    c03 = madd(x, b3, c03)
    x = v128.load32_splat(a1, 4)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    c12 = madd(x, b2, c12)
    c13 = madd(x, b3, c13)
    x = v128.load32_splat(a2, 4)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    c22 = madd(x, b2, c22)
    c23 = madd(x, b3, c23)
    x = v128.load32_splat(a3, 4)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    c32 = madd(x, b2, c32)
    c33 = madd(x, b3, c33)
    x = v128.load32_splat(a4, 4)
    c40 = madd(x, b0, c40)
    c41 = madd(x, b1, c41)
    c42 = madd(x, b2, c42)
    c43 = madd(x, b3, c43)
    x = v128.load32_splat(a5, 4)
    c50 = madd(x, b0, c50)
    c51 = madd(x, b1, c51)
    c52 = madd(x, b2, c52)
    c53 = madd(x, b3, c53)
    a0 += 8
    a1 += 8
    a2 += 8
    a3 += 8
    a4 += 8
    a5 += 8
    b += NR << 3
  }
  put<T>(c, c00, c01)
  putRight<T>(c, c02, c03)
  c += ldc
  put<T>(c, c10, c11)
  putRight<T>(c, c12, c13)
  c += ldc
  put<T>(c, c20, c21)
  putRight<T>(c, c22, c23)
  c += ldc
  put<T>(c, c30, c31)
  putRight<T>(c, c32, c33)
  c += ldc
  put<T>(c, c40, c41)
  putRight<T>(c, c42, c43)
  c += ldc
  put<T>(c, c50, c51)
  putRight<T>(c, c52, c53)
}

/** c[4][8], likewise; row1, row2, row3 lead to rows 1 to 3 (0: row 0 again). */
function tile4<T>(a: usize, row1: usize, row2: usize, row3: usize, b: usize, kc: i32, c: usize, ldc: usize): void {
  let c0l = f32x4.splat(0), c0h = f32x4.splat(0), c1l = f32x4.splat(0), c1h = f32x4.splat(0)
  let c2l = f32x4.splat(0), c2h = f32x4.splat(0), c3l = f32x4.splat(0), c3h = f32x4.splat(0)
  let a0 = a, a1 = a + row1, a2 = a + row2, a3 = a + row3
  const end = b + (<usize>kc * (NR << 2))
  while (b < end) {
    const l = v128.load(b), h = v128.load(b, 16)
    let x = v128.load32_splat(a0)
    c0l = madd(x, l, c0l)
    c0h = madd(x, h, c0h)
    x = v128.load32_splat(a1)
    c1l = madd(x, l, c1l)
    c1h = madd(x, h, c1h)
    x = v128.load32_splat(a2)
    c2l = madd(x, l, c2l)
    c2h = madd(x, h, c2h)
    x = v128.load32_splat(a3)
    c3l = madd(x, l, c3l)
    c3h = madd(x, h, c3h)
    a0 += 4
    a1 += 4
    a2 += 4
    a3 += 4
    b += NR << 2
  }
  put<T>(c, c0l, c0h)
  c += ldc
  put<T>(c, c1l, c1h)
  c += ldc
  put<T>(c, c2l, c2h)
  c += ldc
  put<T>(c, c3l, c3h)
}

/** c[4][16], likewise. */
function tile4Wide<T>(a: usize, row1: usize, row2: usize, row3: usize, b: usize, kc: i32, c: usize, ldc: usize): void {
  let c00 = f32x4.splat(0), c01 = f32x4.splat(0), c02 = f32x4.splat(0), c03 = f32x4.splat(0)
  let c10 = f32x4.splat(0), c11 = f32x4.splat(0), c12 = f32x4.splat(0), c13 = f32x4.splat(0)
  let c20 = f32x4.splat(0), c21 = f32x4.splat(0), c22 = f32x4.splat(0), c23 = f32x4.splat(0)
  let c30 = f32x4.splat(0), c31 = f32x4.splat(0), c32 = f32x4.splat(0), c33 = f32x4.splat(0)
  let a0 = a, a1 = a + row1, a2 = a + row2, a3 = a + row3
  const end = b + (<usize>kc * (NR << 2))
  while (b < end) {
    const b0 = v128.load(b), b1 = v128.load(b, 16), b2 = v128.load(b, 32), b3 = v128.load(b, 48)
    let x = v128.load32_splat(a0)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    c02 = madd(x, b2, c02)
    c03 = madd(x, b3, c03)
    x = v128.load32_splat(a1)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    c12 = madd(x, b2, c12)
    c13 = madd(x, b3, c13)
    x = v128.load32_splat(a2)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    c22 = madd(x, b2, c22)
    c23 = madd(x, b3, c23)
    x = v128.load32_splat(a3)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    c32 = madd(x, b2, c32)
    c33 = madd(x, b3, c33)
    a0 += 4
    a1 += 4
    a2 += 4
    a3 += 4
    b += NR << 2
  }
  put<T>(c, c00, c01)
  putRight<T>(c, c02, c03)
  c += ldc
  put<T>(c, c10, c11)
  putRight<T>(c, c12, c13)
  c += ldc
  put<T>(c, c20, c21)
  putRight<T>(c, c22, c23)
  c += ldc
  put<T>(c, c30, c31)
  putRight<T>(c, c32, c33)
}

/** b where x isn't 0, and 0 where it is. */
@inline function besideZero(x: v128, b: v128): v128 {
  return v128.and(b, f32x4.ne(x, f32x4.splat(0)))
}

/** tile4 for a sparse A beside a B that isn't finite: a zero takes nothing from it. */
function tile4Sparse<T>(a: usize, row1: usize, row2: usize, row3: usize, b: usize, kc: i32, c: usize, ldc: usize): void {
  let c0l = f32x4.splat(0), c0h = f32x4.splat(0), c1l = f32x4.splat(0), c1h = f32x4.splat(0)
  let c2l = f32x4.splat(0), c2h = f32x4.splat(0), c3l = f32x4.splat(0), c3h = f32x4.splat(0)
  let a0 = a, a1 = a + row1, a2 = a + row2, a3 = a + row3
  const end = b + (<usize>kc * (NR << 2))
  while (b < end) {
    const l = v128.load(b), h = v128.load(b, 16)
    let x = v128.load32_splat(a0)
    c0l = madd(x, besideZero(x, l), c0l)
    c0h = madd(x, besideZero(x, h), c0h)
    x = v128.load32_splat(a1)
    c1l = madd(x, besideZero(x, l), c1l)
    c1h = madd(x, besideZero(x, h), c1h)
    x = v128.load32_splat(a2)
    c2l = madd(x, besideZero(x, l), c2l)
    c2h = madd(x, besideZero(x, h), c2h)
    x = v128.load32_splat(a3)
    c3l = madd(x, besideZero(x, l), c3l)
    c3h = madd(x, besideZero(x, h), c3h)
    a0 += 4
    a1 += 4
    a2 += 4
    a3 += 4
    b += NR << 2
  }
  put<T>(c, c0l, c0h)
  put<T>(c + ldc, c1l, c1h)
  put<T>(c + 2 * ldc, c2l, c2h)
  put<T>(c + 3 * ldc, c3l, c3h)
}

/** Whether a panel has neither infinities nor NaN: those times 0 are no number, all else is 0. */
function isFinitePanel(panel: usize, kc: i32): boolean {
  const end = panel + (<usize>kc * (NR << 2))
  let sums = f32x4.splat(0)
  while (panel < end) {
    const b0 = v128.load(panel), b1 = v128.load(panel, 16), b2 = v128.load(panel, 32), b3 = v128.load(panel, 48)
    // x - x is 0, or NaN.
    sums = f32x4.add(sums, f32x4.add(f32x4.add(f32x4.sub(b0, b0), f32x4.sub(b1, b1)), f32x4.add(f32x4.sub(b2, b2), f32x4.sub(b3, b3))))
    panel += NR << 2
  }
  return v128.all_true<i32>(f32x4.eq(sums, f32x4.splat(0)))
}

/** Whether there are only zeros in four k of each row. */
@inline function areZero(a: usize, rowStep: usize, row1: usize, row2: usize, row3: usize, rows: i32): boolean {
  let some = v128.or(v128.or(v128.load(a), v128.load(a + row1)), v128.or(v128.load(a + row2), v128.load(a + row3)))
  if (rows == 6) some = v128.or(some, v128.or(v128.load(a + 4 * rowStep), v128.load(a + 5 * rowStep)))
  return !v128.any_true(v128.and(some, i32x4.splat(0x7fffffff)))
}

/** Packs all of B for `matmul`: [batch][blocks of KC][panels of 16][k][16]. Task: one panel of one batch. `half`: see halves.ts. */
export function matmulPack(begin: i32, end: i32, b: usize, packed: usize, strideB: i32, N: i32, K: i32, transposeB: i32, half: i32): void {
  const panels = (N + NR - 1) / NR
  for (let task = begin; task < end; ) {
    const batch = task / panels
    const panel = task % panels
    // All that are wanted of this batch.
    const count = min(panels - panel, end - task)
    const n1 = min((panel + count) * NR, N)
    const matrix = b + ((<usize>batch * strideB) << 2)
    const to = packed + (<usize>batch * K * panels * (NR << 2))
    for (let k0 = 0; k0 < K; k0 += KC) {
      const kc = min(KC, K - k0)
      packPanels(half, matrix, transposeB, N, K, k0, kc, panel * NR, n1, to + (<usize>k0 * panels + <usize>kc * panel) * (NR << 2))
    }
    task += count
  }
}

/** How many of the rows that are left the next tile takes: six, or four, and fewer at the end. Seven or eight are two fours. */
@inline function rowsOfTile(left: i32, fours: boolean): i32 {
  if (MR == 6 && !fours && (left == 6 || left > 8)) return 6
  return min(left, 4)
}

/**
 * c[rows][16] = rows of A, from `from` on, times a panel, the right half of which counts only if there are that many columns. Of a sparse A
 * the zeros that all rows begin and end with are passed over. `finite`: see `isFinitePanel`.
 */
function tile<T>(
  from: usize, rowStep: usize, rows: i32, panel: usize, columns: i32, kc: i32, sparse: boolean, finite: boolean, c: usize, ldc: usize,
): void {
  const row1: usize = rows > 1 ? rowStep : 0
  const row2: usize = rows > 2 ? 2 * rowStep : 0
  const row3: usize = rows > 3 ? 3 * rowStep : 0
  if (sparse) {
    while (kc >= 4 && areZero(from + (<usize>(kc - 4) << 2), rowStep, row1, row2, row3, rows)) kc -= 4
    while (kc >= 4 && areZero(from, rowStep, row1, row2, row3, rows)) {
      from += 16
      panel += NR << 4
      kc -= 4
    }
  }
  if (rows == 6) {
    if (wide) tile6Wide<T>(from, rowStep, panel, kc, c, ldc)
    else {
      tile6<T>(from, rowStep, panel, kc, c, ldc)
      if (columns > HALF) tile6<T>(from, rowStep, panel + (HALF << 2), kc, c + (HALF << 2), ldc)
    }
    return
  }
  if (wide && finite) {
    tile4Wide<T>(from, row1, row2, row3, panel, kc, c, ldc)
    return
  }
  for (let half = 0; half < columns; half += HALF) {
    if (!finite) tile4Sparse<T>(from, row1, row2, row3, panel + (half << 2), kc, c + (half << 2), ldc)
    else tile4<T>(from, row1, row2, row3, panel + (half << 2), kc, c + (half << 2), ldc)
  }
}

/**
 * Task: a block of blockM x blockN (a multiple of 16) of one product, block rows running fastest.
 * packedB: as matmulPack left it, or 0: the task packs what it needs itself. Scratch: a tile, then the rows of a transposed A
 * (blockM, `packedRow` bytes each), then min(K, KC) x min(blockN, COLUMNS) if B is to be packed.
 */
export function matmul(
  begin: i32, end: i32, a: usize, b: usize, bias: usize, c: usize, packedB: usize, strideA: i32, strideB: i32, M: i32, N: i32, K: i32,
  transposeA: i32, transposeB: i32, sparse: i32, accumulate: i32, activation: i32, blockM: i32, blockN: i32, half: i32,
): void {
  const blocksM = (M + blockM - 1) / blockM
  const blocksN = (N + blockN - 1) / blockN
  const panels = (N + NR - 1) / NR
  const ldc = <usize>N << 2
  const edge = scratch
  const ownA = edge + ((MR * NR) << 2)
  const rowStep: usize = transposeA ? packedRow(min(K, KC)) : <usize>K << 2
  const ownB = ownA + (transposeA ? <usize>blockM * rowStep : 0)
  for (let task = begin; task < end; task++) {
    const m0 = task % blocksM * blockM
    const n0 = task / blocksM % blocksN * blockN
    const batch = task / blocksM / blocksN
    const m1 = min(m0 + blockM, M)
    const n1 = min(n0 + blockN, N)
    const matrixA = a + ((<usize>batch * strideA) << 2)
    const matrixB = b + ((<usize>batch * strideB) << 2)
    const matrixC = c + ((<usize>batch * M * N) << 2)
    let k0 = 0
    do {
      const kc = min(KC, K - k0)
      const first = k0 == 0 && !accumulate
      const last = k0 + kc == K
      if (transposeA) packA(matrixA, M, k0, kc, m0, m1 - m0, ownA, rowStep)
      for (let n2 = n0; n2 < n1; n2 += COLUMNS) {
        const n3 = min(n2 + COLUMNS, n1)
        let blockB = ownB
        if (packedB) {
          const index = strideB ? batch : 0
          blockB = packedB + (<usize>(index * K + k0) * panels + <usize>kc * (n2 / NR)) * (NR << 2)
        } else {
          packPanels(half, matrixB, transposeB, N, K, k0, kc, n2, n3, ownB)
        }
        for (let m2 = m0; m2 < m1; m2 += ROWS) {
          const m3 = min(m2 + ROWS, m1)
          const blockA = transposeA ? ownA + <usize>(m2 - m0) * rowStep : matrixA + ((<usize>m2 * K + k0) << 2)
          for (let n = n2; n < n3; n += NR) {
            const panel = blockB + (<usize>kc * (n - n2) << 2)
            const columns = min(NR, N - n)
            const biasN = last && bias ? bias + (<usize>n << 2) : 0
            const finite = !sparse || isFinitePanel(panel, kc)
            let rows = 0
            for (let m = m2; m < m3; m += rows) {
              rows = rowsOfTile(m3 - m, !finite)
              const from = blockA + <usize>(m - m2) * rowStep
              const at = matrixC + ((<usize>m * N + n) << 2)
              if (columns == NR && rows >= 4) {
                if (first) tile<f32>(from, rowStep, rows, panel, NR, kc, <boolean>sparse, finite, at, ldc)
                else tile<i32>(from, rowStep, rows, panel, NR, kc, <boolean>sparse, finite, at, ldc)
                if (biasN) finish(at, ldc, at, ldc, rows, NR, true, biasN)
              } else {
                tile<f32>(from, rowStep, rows, panel, columns, kc, <boolean>sparse, finite, edge, NR << 2)
                finish(edge, NR << 2, at, ldc, rows, columns, first, biasN)
              }
            }
          }
          if (last) activate(activation, matrixC + ((<usize>m2 * N + n2) << 2), ldc, m3 - m2, n3 - n2)
        }
      }
      k0 += kc
    } while (k0 < K)
  }
}

/** c + sum over four k of x[k] times four rows of B, stored transposed: lane j is row j, `step` bytes apart. */
@inline function madd4x4(x0: v128, x1: v128, x2: v128, x3: v128, b: usize, step: usize, c: v128): v128 {
  const r0 = v128.load(b)
  const r1 = v128.load(b + step)
  const r2 = v128.load(b + 2 * step)
  const r3 = v128.load(b + 3 * step)
  const low01 = v128.shuffle<f32>(r0, r1, 0, 4, 1, 5)
  const high01 = v128.shuffle<f32>(r0, r1, 2, 6, 3, 7)
  const low23 = v128.shuffle<f32>(r2, r3, 0, 4, 1, 5)
  const high23 = v128.shuffle<f32>(r2, r3, 2, 6, 3, 7)
  const b0 = v128.shuffle<i64>(low01, low23, 0, 2)
  const b1 = v128.shuffle<i64>(low01, low23, 1, 3)
  const b2 = v128.shuffle<i64>(high01, high23, 0, 2)
  const b3 = v128.shuffle<i64>(high01, high23, 1, 3)
  return madd4(x0, x1, x2, x3, b0, b1, b2, b3, c)
}

/** sums[16] = sum over kc of x[k] B[k, n .. n+16), B stored transposed, `step` bytes from one column to the next. */
function row16(x: usize, b: usize, step: usize, kc: i32, sums: usize): void {
  let c0 = f32x4.splat(0), c1 = f32x4.splat(0), c2 = f32x4.splat(0), c3 = f32x4.splat(0)
  let k = 0
  for (; k + 4 <= kc; k += 4) {
    const x0 = v128.load32_splat(x), x1 = v128.load32_splat(x, 4), x2 = v128.load32_splat(x, 8), x3 = v128.load32_splat(x, 12)
    c0 = madd4x4(x0, x1, x2, x3, b, step, c0)
    c1 = madd4x4(x0, x1, x2, x3, b + 4 * step, step, c1)
    c2 = madd4x4(x0, x1, x2, x3, b + 8 * step, step, c2)
    c3 = madd4x4(x0, x1, x2, x3, b + 12 * step, step, c3)
    x += 16
    b += 16
  }
  v128.store(sums, c1, 16)
  v128.store(sums, c0)
  v128.store(sums, c3, 48)
  v128.store(sums, c2, 32)
  if (k < kc) rowRest(x, b, step, 4, kc - k, 16, sums)
}

/** sums[0 .. columns) += sum over kc of x[k] B[k, :], one by one. */
function rowRest(x: usize, b: usize, stepN: usize, stepK: usize, kc: i32, columns: i32, sums: usize): void {
  for (let n = 0; n < columns; n++) {
    let sum = v128.load32_splat(sums + (n << 2))
    const column = b + <usize>n * stepN
    for (let k = 0; k < kc; k++) sum = madd(v128.load32_splat(x + (k << 2)), v128.load32_splat(column + <usize>k * stepK), sum)
    store<f32>(sums + (n << 2), f32x4.extract_lane(sum, 0))
  }
}

/** sums[0 .. columns) = sum over kc of x[k] B[k, :], B stored in rows of N, four of them at a time. */
function rowWide(x: usize, b: usize, stepK: usize, kc: i32, columns: i32, sums: usize): void {
  memory.fill(sums, 0, <usize>columns << 2)
  const whole = columns & ~3
  let k = 0
  for (; k + 4 <= kc; k += 4) {
    const x0 = v128.load32_splat(x), x1 = v128.load32_splat(x, 4), x2 = v128.load32_splat(x, 8), x3 = v128.load32_splat(x, 12)
    for (let n: usize = 0; n < <usize>whole << 2; n += 16) {
      const b0 = v128.load(b + n), b1 = v128.load(b + n + stepK), b2 = v128.load(b + n + 2 * stepK), b3 = v128.load(b + n + 3 * stepK)
      v128.store(sums + n, madd4(x0, x1, x2, x3, b0, b1, b2, b3, v128.load(sums + n)))
    }
    rowRest(x, b + (whole << 2), 4, stepK, 4, columns - whole, sums + (whole << 2))
    x += 16
    b += 4 * stepK
  }
  if (k < kc) rowRest(x, b, 4, stepK, kc - k, columns, sums)
}

/** row16 of all columns, 16 at a time, and of those that are left. */
function rowTransposed(x: usize, b: usize, K: i32, kc: i32, columns: i32, sums: usize): void {
  const stepN = <usize>K << 2
  const whole = columns & ~15
  for (let n = 0; n < whole; n += 16) row16(x, b + <usize>n * stepN, stepN, kc, sums + (n << 2))
  memory.fill(sums + (whole << 2), 0, (columns - whole) << 2)
  rowRest(x, b + <usize>whole * stepN, stepN, 4, kc, columns - whole, sums + (whole << 2))
}

/**
 * The product for few rows of A, as in generation: B is read in place, and what counts is the speed of memory. Same sums as `matmul`.
 * Task: blockN columns (a multiple of 16) of one product. Scratch: blockN sums.
 */
export function matmulRows(
  begin: i32, end: i32, a: usize, b: usize, bias: usize, c: usize, strideA: i32, strideB: i32, M: i32, N: i32, K: i32,
  transposeB: i32, accumulate: i32, activation: i32, blockN: i32,
): void {
  const blocksN = (N + blockN - 1) / blockN
  const stepK: usize = (transposeB ? 1 : <usize>N) << 2
  const stepN: usize = (transposeB ? <usize>K : 1) << 2
  for (let task = begin; task < end; task++) {
    const n0 = task % blocksN * blockN
    const batch = task / blocksN
    const columns = min(blockN, N - n0)
    let k0 = 0
    do {
      const kc = min(KC, K - k0)
      const last = k0 + kc == K
      const block = b + ((<usize>batch * strideB) << 2) + <usize>n0 * stepN + <usize>k0 * stepK
      for (let m = 0; m < M; m++) {
        const x = a + ((<usize>batch * strideA + <usize>m * K + k0) << 2)
        const to = c + (((<usize>batch * M + m) * N + n0) << 2)
        if (transposeB) rowTransposed(x, block, K, kc, columns, scratch)
        else rowWide(x, block, stepK, kc, columns, scratch)
        finish(scratch, 0, to, 0, 1, columns, k0 == 0 && !accumulate, last && bias ? bias + (n0 << 2) : 0)
        if (last) activate(activation, to, 0, 1, columns)
      }
      k0 += kc
    } while (k0 < K)
  }
}
