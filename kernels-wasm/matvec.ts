/**
 * Products of fewer than six rows with a matrix that stays the same, as when tokens are generated: C[M,N] = activation(A[M,K] B[K,N] [+ C] [+ bias]) with B
 * packed beforehand, once for all calls. Every element is the same sum in the same order as in matmul.ts, to the bit.
 *
 * With one row each number of B is used once, so what counts is how fast B comes in: it is read from end to end, into eight vectors of sums, as
 * many as the latency of an addition needs, two steps of k a turn, since Node 20 moves the sums about after each. With more rows, two rows
 * share half a panel, which the first-level cache keeps for the others.
 * Pinned by test/ops/capture.test.ts.
 */
import { activate, finish } from './epilogue'
import { BFLOAT16, HALF_ROW, lower, upper } from './halves'
import { madd } from './math'
import { scratch } from './scratch'

/** Columns of a panel, its row in bytes, and half of both. */
const NR = 32
const ROW = 128
const HALF = 16
/** Terms that are summed before they join the total, as in matmul.ts. */
const KC = 512

/** B -> panels [K][32], columns past N filled with zeros. Task: a panel. */
export function matvecPack(begin: i32, end: i32, b: usize, packed: usize, N: i32, K: i32, transposeB: i32): void {
  const stepK: usize = transposeB ? 4 : <usize>N << 2
  const stepN: usize = transposeB ? <usize>K << 2 : 4
  for (let panel = begin; panel < end; panel++) {
    const columns = min(NR, N - panel * NR)
    let from = b + <usize>(panel * NR) * stepN
    let to = packed + <usize>panel * <usize>K * ROW
    for (let k = 0; k < K; k++) {
      for (let n = 0; n < NR; n++) store<f32>(to + (n << 2), n < columns ? load<f32>(from + <usize>n * stepN) : 0)
      from += stepK
      to += ROW
    }
  }
}

@inline function put(to: usize, c0: v128, c1: v128, c2: v128, c3: v128): void {
  v128.store(to, c1, 16)
  v128.store(to, c0)
  v128.store(to, c3, 48)
  v128.store(to, c2, 32)
}

/** The second half, with offsets written out: V8 merges stores to one address only (wide.ts). */
@inline function putHalf(to: usize, c0: v128, c1: v128, c2: v128, c3: v128): void {
  v128.store(to, c1, 80)
  v128.store(to, c0, 64)
  v128.store(to, c3, 112)
  v128.store(to, c2, 96)
}

/** sums[32]: one row of A, a panel. */
function oneRow(x: usize, p: usize, kc: i32, sums: usize): void {
  let c0 = f32x4.splat(0), c1 = f32x4.splat(0), c2 = f32x4.splat(0), c3 = f32x4.splat(0)
  let d0 = f32x4.splat(0), d1 = f32x4.splat(0), d2 = f32x4.splat(0), d3 = f32x4.splat(0)
  const end = x + (<usize>kc << 2)
  for (; x + 8 <= end; x += 8) {
    const a = v128.load32_splat(x), b = v128.load32_splat(x, 4)
    c0 = madd(b, v128.load(p, 128), madd(a, v128.load(p), c0))
    c1 = madd(b, v128.load(p, 144), madd(a, v128.load(p, 16), c1))
    c2 = madd(b, v128.load(p, 160), madd(a, v128.load(p, 32), c2))
    c3 = madd(b, v128.load(p, 176), madd(a, v128.load(p, 48), c3))
    d0 = madd(b, v128.load(p, 192), madd(a, v128.load(p, 64), d0))
    d1 = madd(b, v128.load(p, 208), madd(a, v128.load(p, 80), d1))
    d2 = madd(b, v128.load(p, 224), madd(a, v128.load(p, 96), d2))
    d3 = madd(b, v128.load(p, 240), madd(a, v128.load(p, 112), d3))
    p += 2 * ROW
  }
  if (x < end) {
    const a = v128.load32_splat(x)
    c0 = madd(a, v128.load(p), c0)
    c1 = madd(a, v128.load(p, 16), c1)
    c2 = madd(a, v128.load(p, 32), c2)
    c3 = madd(a, v128.load(p, 48), c3)
    d0 = madd(a, v128.load(p, 64), d0)
    d1 = madd(a, v128.load(p, 80), d1)
    d2 = madd(a, v128.load(p, 96), d2)
    d3 = madd(a, v128.load(p, 112), d3)
  }
  put(sums, c0, c1, c2, c3)
  putHalf(sums, d0, d1, d2, d3)
}

/** sums[2][16]: two rows of A, half a panel. */
function twoRows(x: usize, y: usize, p: usize, kc: i32, sums: usize): void {
  let c0 = f32x4.splat(0), c1 = f32x4.splat(0), c2 = f32x4.splat(0), c3 = f32x4.splat(0)
  let d0 = f32x4.splat(0), d1 = f32x4.splat(0), d2 = f32x4.splat(0), d3 = f32x4.splat(0)
  const end = x + (<usize>kc << 2)
  while (x < end) {
    const a = v128.load32_splat(x), b = v128.load32_splat(y)
    const b0 = v128.load(p), b1 = v128.load(p, 16), b2 = v128.load(p, 32), b3 = v128.load(p, 48)
    c0 = madd(a, b0, c0)
    c1 = madd(a, b1, c1)
    c2 = madd(a, b2, c2)
    c3 = madd(a, b3, c3)
    d0 = madd(b, b0, d0)
    d1 = madd(b, b1, d1)
    d2 = madd(b, b2, d2)
    d3 = madd(b, b3, d3)
    x += 4
    y += 4
    p += ROW
  }
  put(sums, c0, c1, c2, c3)
  putHalf(sums, d0, d1, d2, d3)
}

/** oneRow with a panel of halves. */
function oneRowHalves<T>(x: usize, p: usize, kc: i32, sums: usize): void {
  let c0 = f32x4.splat(0), c1 = f32x4.splat(0), c2 = f32x4.splat(0), c3 = f32x4.splat(0)
  let d0 = f32x4.splat(0), d1 = f32x4.splat(0), d2 = f32x4.splat(0), d3 = f32x4.splat(0)
  const end = x + (<usize>kc << 2)
  for (; x < end; x += 4) {
    const a = v128.load32_splat(x)
    const p0 = v128.load(p), p1 = v128.load(p, 16), p2 = v128.load(p, 32), p3 = v128.load(p, 48)
    c0 = madd(a, lower<T>(p0), c0)
    c1 = madd(a, upper<T>(p0), c1)
    c2 = madd(a, lower<T>(p1), c2)
    c3 = madd(a, upper<T>(p1), c3)
    d0 = madd(a, lower<T>(p2), d0)
    d1 = madd(a, upper<T>(p2), d1)
    d2 = madd(a, lower<T>(p3), d2)
    d3 = madd(a, upper<T>(p3), d3)
    p += HALF_ROW
  }
  put(sums, c0, c1, c2, c3)
  putHalf(sums, d0, d1, d2, d3)
}

/** twoRows with half a panel of halves. */
function twoRowsHalves<T>(x: usize, y: usize, p: usize, kc: i32, sums: usize): void {
  let c0 = f32x4.splat(0), c1 = f32x4.splat(0), c2 = f32x4.splat(0), c3 = f32x4.splat(0)
  let d0 = f32x4.splat(0), d1 = f32x4.splat(0), d2 = f32x4.splat(0), d3 = f32x4.splat(0)
  const end = x + (<usize>kc << 2)
  while (x < end) {
    const a = v128.load32_splat(x), b = v128.load32_splat(y)
    const p0 = v128.load(p), p1 = v128.load(p, 16)
    const b0 = lower<T>(p0), b1 = upper<T>(p0), b2 = lower<T>(p1), b3 = upper<T>(p1)
    c0 = madd(a, b0, c0)
    c1 = madd(a, b1, c1)
    c2 = madd(a, b2, c2)
    c3 = madd(a, b3, c3)
    d0 = madd(b, b0, d0)
    d1 = madd(b, b1, d1)
    d2 = madd(b, b2, d2)
    d3 = madd(b, b3, d3)
    x += 4
    y += 4
    p += HALF_ROW
  }
  put(sums, c0, c1, c2, c3)
  putHalf(sums, d0, d1, d2, d3)
}

/** One row of A, a panel of numbers or halves. */
@inline function rowOf(half: i32, x: usize, panel: usize, kc: i32, sums: usize): void {
  if (half == 0) oneRow(x, panel, kc, sums)
  else if (half == BFLOAT16) oneRowHalves<u16>(x, panel, kc, sums)
  else oneRowHalves<i16>(x, panel, kc, sums)
}

/** Two rows of A and half a panel from column n on. */
@inline function rowsOf(half: i32, x: usize, y: usize, panel: usize, n: i32, kc: i32, sums: usize): void {
  if (half == 0) twoRows(x, y, panel + (n << 2), kc, sums)
  else if (half == BFLOAT16) twoRowsHalves<u16>(x, y, panel + (n << 1), kc, sums)
  else twoRowsHalves<i16>(x, y, panel + (n << 1), kc, sums)
}

/** packed: as matvecPack left it, or packHalves (`half`: halves.ts). Task: a panel. Scratch: 32 sums. */
export function matvec(
  begin: i32, end: i32, a: usize, packed: usize, bias: usize, c: usize, M: i32, N: i32, K: i32, accumulate: i32, activation: i32,
  half: i32,
): void {
  const sums = scratch
  const rowA = <usize>K << 2
  const rowC = <usize>N << 2
  for (let task = begin; task < end; task++) {
    const n0 = task * NR
    const columns = min(NR, N - n0)
    let k0 = 0
    do {
      const kc = min(KC, K - k0)
      const first = k0 == 0 && !accumulate
      const last = k0 + kc == K
      const panel = packed + (<usize>task * K + k0) * (half ? HALF_ROW : ROW)
      const x = a + (<usize>k0 << 2)
      const to = c + (<usize>n0 << 2)
      const b = last && bias ? bias + (<usize>n0 << 2) : 0
      const pairs = M & ~1
      for (let n = 0; pairs > 0 && n < columns; n += HALF) {
        const at = <usize>n << 2
        const some = min(HALF, columns - n)
        for (let m: usize = 0; m < <usize>pairs; m += 2) {
          rowsOf(half, x + m * rowA, x + (m + 1) * rowA, panel, n, kc, sums)
          finish(sums, 0, to + m * rowC + at, 0, 1, some, first, b ? b + at : 0)
          finish(sums + HALF_ROW, 0, to + (m + 1) * rowC + at, 0, 1, some, first, b ? b + at : 0)
        }
      }
      if (pairs < M) {
        rowOf(half, x + <usize>pairs * rowA, panel, kc, sums)
        finish(sums, 0, to + <usize>pairs * rowC, 0, 1, columns, first, b)
      }
      if (last) activate(activation, to, rowC, M, columns)
      k0 += kc
    } while (k0 < K)
  }
}
