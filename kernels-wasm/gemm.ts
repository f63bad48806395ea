/**
 * Matrix products: C[M,N] = activation(A[M,K] B[K,N] [+ C] [+ bias]), batched, either side stored transposed.
 *
 * The sum over k is taken in blocks of KC: c = (block 0) + (block 1) + ..., each block summed in the order of k. That order is the same on every
 * path below and for every element, so a row of C depends neither on the other rows nor on the number of threads, and the
 * rounding error grows with KC + K / KC rather than with K.
 *
 * The inner loop is a 4 x 8 tile of C in eight registers: every step of k takes 8 numbers of B, packed as [k][8], and one of each of four
 * rows of A, read in place (packed as [k][4] if A is stored transposed). A panel of B (8 kB) stays in the first-level cache while all rows of the task pass by.
 * Pinned by test/ops/matmul.test.ts and test/ops/wasm-pool.test.ts.
 */
import { madd, vunary } from './math'
import { scratch } from './scratch'

const MR = 4
const NR = 8
const KC = 256

/** B[k0 .. k0+kc, n0 .. n0+8) -> [kc][8], columns past N filled with zeros. */
function packB(b: usize, transposed: bool, N: i32, K: i32, k0: i32, kc: i32, n0: i32, to: usize): void {
  const columns = min(NR, N - n0)
  if (columns < NR) {
    memory.fill(to, 0, (<usize>kc * NR) << 2)
    const stepK: usize = transposed ? 4 : <usize>N << 2
    const stepN: usize = transposed ? <usize>K << 2 : 4
    const from = b + <usize>k0 * stepK + <usize>n0 * stepN
    for (let k = 0; k < kc; k++) {
      for (let n = 0; n < columns; n++) {
        store<f32>(to + ((<usize>k * NR + n) << 2), load<f32>(from + <usize>k * stepK + <usize>n * stepN))
      }
    }
    return
  }
  if (!transposed) {
    let from = b + ((<usize>k0 * N + n0) << 2)
    const step = <usize>N << 2
    for (let k = 0; k < kc; k++) {
      v128.store(to, v128.load(from))
      v128.store(to, v128.load(from, 16), 16)
      from += step
      to += 32
    }
    return
  }
  const step = <usize>K << 2
  for (let half = 0; half < 2; half++) {
    const from = b + ((<usize>(n0 + 4 * half) * K + k0) << 2)
    const out = to + (half << 4)
    transpose(from, step, kc, out, 32)
  }
}

/** Four rows of kc numbers, `step` bytes apart -> [kc][4], `stride` bytes apart. */
@inline function transpose(from: usize, step: usize, kc: i32, to: usize, stride: usize): void {
  let p0 = from
  let p1 = p0 + step
  let p2 = p1 + step
  let p3 = p2 + step
  let k = 0
  for (; k + 4 <= kc; k += 4) {
    const r0 = v128.load(p0)
    const r1 = v128.load(p1)
    const r2 = v128.load(p2)
    const r3 = v128.load(p3)
    const lo01 = v128.shuffle<f32>(r0, r1, 0, 4, 1, 5)
    const hi01 = v128.shuffle<f32>(r0, r1, 2, 6, 3, 7)
    const lo23 = v128.shuffle<f32>(r2, r3, 0, 4, 1, 5)
    const hi23 = v128.shuffle<f32>(r2, r3, 2, 6, 3, 7)
    v128.store(to, v128.shuffle<i64>(lo01, lo23, 0, 2))
    v128.store(to + stride, v128.shuffle<i64>(lo01, lo23, 1, 3))
    v128.store(to + 2 * stride, v128.shuffle<i64>(hi01, hi23, 0, 2))
    v128.store(to + 3 * stride, v128.shuffle<i64>(hi01, hi23, 1, 3))
    p0 += 16
    p1 += 16
    p2 += 16
    p3 += 16
    to += 4 * stride
  }
  for (; k < kc; k++) {
    store<f32>(to, load<f32>(p0))
    store<f32>(to, load<f32>(p1), 4)
    store<f32>(to, load<f32>(p2), 8)
    store<f32>(to, load<f32>(p3), 12)
    p0 += 4
    p1 += 4
    p2 += 4
    p3 += 4
    to += stride
  }
}

/** A stored [K,M], rows m0 .. m0+rows -> panels of [kc][4], rows past the last one filled with zeros. */
function packA(a: usize, M: i32, k0: i32, kc: i32, m0: i32, rows: i32, to: usize): void {
  const step = <usize>M << 2
  for (let i = 0; i < rows; i += MR) {
    let from = a + ((<usize>k0 * M + m0 + i) << 2)
    const live = min(MR, rows - i)
    if (live == MR) {
      for (let k = 0; k < kc; k++) {
        v128.store(to, v128.load(from))
        from += step
        to += 16
      }
    } else {
      for (let k = 0; k < kc; k++) {
        v128.store(to, f32x4.splat(0))
        for (let r = 0; r < live; r++) store<f32>(to + (r << 2), load<f32>(from + (r << 2)))
        from += step
        to += 16
      }
    }
  }
}

/** The tile: c[4][8] = (first ? 0 : c) + sum over kc of a b; a_r is row r, `step` bytes from one k to the next. */
@inline function tile(a0: usize, a1: usize, a2: usize, a3: usize, step: usize, b: usize, kc: i32, c: usize, ldc: usize, first: bool): void {
  let c00 = f32x4.splat(0), c01 = f32x4.splat(0), c10 = f32x4.splat(0), c11 = f32x4.splat(0)
  let c20 = f32x4.splat(0), c21 = f32x4.splat(0), c30 = f32x4.splat(0), c31 = f32x4.splat(0)
  for (let k = 0; k < kc; k++) {
    const b0 = v128.load(b)
    const b1 = v128.load(b, 16)
    let x = v128.load32_splat(a0)
    c00 = madd(x, b0, c00)
    c01 = madd(x, b1, c01)
    x = v128.load32_splat(a1)
    c10 = madd(x, b0, c10)
    c11 = madd(x, b1, c11)
    x = v128.load32_splat(a2)
    c20 = madd(x, b0, c20)
    c21 = madd(x, b1, c21)
    x = v128.load32_splat(a3)
    c30 = madd(x, b0, c30)
    c31 = madd(x, b1, c31)
    a0 += step
    a1 += step
    a2 += step
    a3 += step
    b += 32
  }
  if (!first) {
    c00 = f32x4.add(v128.load(c), c00)
    c01 = f32x4.add(v128.load(c, 16), c01)
    c10 = f32x4.add(v128.load(c + ldc), c10)
    c11 = f32x4.add(v128.load(c + ldc, 16), c11)
    c20 = f32x4.add(v128.load(c + 2 * ldc), c20)
    c21 = f32x4.add(v128.load(c + 2 * ldc, 16), c21)
    c30 = f32x4.add(v128.load(c + 3 * ldc), c30)
    c31 = f32x4.add(v128.load(c + 3 * ldc, 16), c31)
  }
  v128.store(c, c00)
  v128.store(c, c01, 16)
  v128.store(c + ldc, c10)
  v128.store(c + ldc, c11, 16)
  v128.store(c + 2 * ldc, c20)
  v128.store(c + 2 * ldc, c21, 16)
  v128.store(c + 3 * ldc, c30)
  v128.store(c + 3 * ldc, c31, 16)
}

function tileRows(a0: usize, a1: usize, a2: usize, a3: usize, b: usize, kc: i32, c: usize, ldc: usize, first: bool): void {
  tile(a0, a1, a2, a3, 4, b, kc, c, ldc, first)
}

function tilePacked(a: usize, b: usize, kc: i32, c: usize, ldc: usize, first: bool): void {
  tile(a, a + 4, a + 8, a + 12, 16, b, kc, c, ldc, first)
}

/** rows x columns of C, part of a tile: c = activation((first ? 0 : c) + from + bias), from = null: what c holds. */
function finish(from: usize, c: usize, ldc: usize, rows: i32, columns: i32, first: bool, bias: usize, activation: i32): void {
  for (let r = 0; r < rows; r++) {
    for (let n = 0; n < columns; n++) {
      const at = c + <usize>r * ldc + (<usize>n << 2)
      let x: f32
      if (from) {
        x = load<f32>(from + (<usize>(r * NR + n) << 2))
        if (!first) x = load<f32>(at) + x
      } else {
        x = load<f32>(at)
      }
      if (bias) x += load<f32>(bias + (<usize>n << 2))
      if (activation >= 0) x = f32x4.extract_lane(vunary(activation, f32x4.splat(x)), 0)
      store<f32>(at, x)
    }
  }
}

/** Whole tiles: c = activation(c + bias). */
function finishTile(c: usize, ldc: usize, bias: usize, activation: i32): void {
  for (let r = 0; r < MR; r++) {
    for (let n: usize = 0; n < 32; n += 16) {
      let x = v128.load(c + n)
      if (bias) x = f32x4.add(x, v128.load(bias + n))
      if (activation >= 0) x = vunary(activation, x)
      v128.store(c + n, x)
    }
    c += ldc
  }
}

/** Packs all of B for `gemm`: [batch][blocks of KC][panels of 8][k][8]. Task: one panel of one batch. */
export function gemmPack(begin: i32, end: i32, b: usize, packed: usize, strideB: i32, N: i32, K: i32, transposeB: i32): void {
  const panels = (N + NR - 1) / NR
  for (let task = begin; task < end; task++) {
    const batch = task / panels
    const panel = task % panels
    const to = packed + ((<usize>batch * K * panels * NR) << 2)
    for (let k0 = 0; k0 < K; k0 += KC) {
      const kc = min(KC, K - k0)
      packB(b + ((<usize>batch * strideB) << 2), transposeB != 0, N, K, k0, kc, panel * NR, to + (((<usize>k0 * panels + <usize>kc * panel) * NR) << 2))
    }
  }
}

/**
 * Task: a block of blockM x blockN of one product, block rows running fastest. packedB: as gemmPack left it, or 0: the task packs what it needs itself.
 * Scratch: a tile, then blockM x KC of A if transposed, then KC x blockN of B if not packed (both rounded up to whole panels).
 */
export function gemm(
  begin: i32, end: i32, a: usize, b: usize, bias: usize, c: usize, packedB: usize, strideA: i32, strideB: i32, M: i32, N: i32, K: i32,
  transposeA: i32, transposeB: i32, accumulate: i32, activation: i32, blockM: i32, blockN: i32,
): void {
  const blocksM = (M + blockM - 1) / blockM
  const blocksN = (N + blockN - 1) / blockN
  const panels = (N + NR - 1) / NR
  const ldc = <usize>N << 2
  const edge = scratch
  const panelsA = edge + MR * NR * 4
  const panelsB = panelsA + (transposeA ? (<usize>(blockM + MR - 1) / MR * MR * KC) << 2 : 0)
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
      const finishing = last && (bias != 0 || activation >= 0)
      let blockB = panelsB
      if (packedB) {
        const index = strideB ? batch : 0
        blockB = packedB + ((<usize>index * K * panels * NR) << 2) + (((<usize>k0 * panels + <usize>kc * (n0 / NR)) * NR) << 2)
      } else {
        for (let n = n0; n < n1; n += NR) packB(matrixB, transposeB != 0, N, K, k0, kc, n, panelsB + (<usize>kc * (n - n0) << 2))
      }
      if (transposeA) packA(matrixA, M, k0, kc, m0, m1 - m0, panelsA)
      for (let n = n0; n < n1; n += NR) {
        const panelB = blockB + (<usize>kc * (n - n0) << 2)
        const columns = min(NR, N - n)
        const biasN = last && bias ? bias + (<usize>n << 2) : 0
        for (let m = m0; m < m1; m += MR) {
          const rows = min(MR, m1 - m)
          const whole = rows == MR && columns == NR
          const at = matrixC + ((<usize>m * N + n) << 2)
          const to = whole ? at : edge
          const ldto: usize = whole ? ldc : NR * 4
          if (transposeA) {
            tilePacked(panelsA + (<usize>kc * (m - m0) << 2), panelB, kc, to, ldto, first || !whole)
          } else {
            // Rows past the last one read it again; what they give is not stored.
            const a0 = matrixA + ((<usize>m * K + k0) << 2)
            const lda = <usize>K << 2
            const a1 = rows > 1 ? a0 + lda : a0
            const a2 = rows > 2 ? a1 + lda : a1
            const a3 = rows > 3 ? a2 + lda : a2
            tileRows(a0, a1, a2, a3, panelB, kc, to, ldto, first || !whole)
          }
          if (!whole) finish(edge, at, ldc, rows, columns, first, biasN, last ? activation : -1)
          else if (finishing) finishTile(at, ldc, biasN, activation)
        }
      }
      k0 += kc
    } while (k0 < K)
  }
}
