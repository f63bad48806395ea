/**
 * Matrix products: C[M,N] = activation(A[M,K] B[K,N] [+ C] [+ bias]), batched, either side stored transposed.
 *
 * The sum over k is taken in blocks of KC: c = (block 0) + (block 1) + ..., each block summed in the order of k. That order is the same on
 * every path below and for every element: a row of C depends neither on the other rows nor on the number of threads (a token generated
 * alone gets the same bits as within a sequence), and the rounding error grows with KC + K / KC rather than with K.
 *
 * The inner loop is an 8 x 8 tile of C, 16 vectors of sums, where V8 has 15 registers. It spills some, but only once in four steps of k,
 * and that many independent sums keep two multiply-add units with a latency of four cycles busy; a 4 x 8 tile has just eight, and
 * loses a tenth. B is packed as panels of [k][8]. Eight rows of A (16 kB) stay in the first-level cache while the panels of B pass by
 * in the order in which they lie in the second, where the processor fetches ahead; the other way round is up to a twentieth slower.
 * A is read in place, and packed only if it is stored transposed or K is no multiple of 4. The last 1 to 4 rows go through a 4 x 8 tile.
 * Pinned by test/ops/wasm.test.ts and test/ops/wasm-pool.test.ts.
 */
import { madd, vunary } from './math'
import { scratch } from './scratch'

const MR = 8
const NR = 8
const KC = 512

/** kc rounded up to whole steps of the tile: packed blocks are filled up with zeros, which change no sum. */
@inline function padded(kc: i32): i32 {
  return (kc + 3) & ~3
}

/** B[k0 .. k0+kc, n0 .. n0+8) -> [padded kc][8], columns past N filled with zeros. */
function packB(b: usize, transposed: i32, N: i32, K: i32, k0: i32, kc: i32, n0: i32, to: usize): void {
  const columns = min(NR, N - n0)
  const stepK: usize = transposed ? 4 : <usize>N << 2
  const stepN: usize = transposed ? <usize>K << 2 : 4
  let from = b + <usize>k0 * stepK + <usize>n0 * stepN
  let k = 0
  if (columns == NR && transposed) {
    for (; k + 4 <= kc; k += 4) {
      transpose4x4(from, stepN, to, 32)
      transpose4x4(from + 4 * stepN, stepN, to + 16, 32)
      from += 16
      to += 128
    }
  } else if (columns == NR) {
    for (; k < kc; k++) {
      v128.store(to, v128.load(from))
      v128.store(to, v128.load(from, 16), 16)
      from += stepK
      to += 32
    }
  }
  memory.fill(to, 0, <usize>(padded(kc) - k) << 5)
  for (; k < kc; k++) {
    for (let n = 0; n < columns; n++) store<f32>(to + (n << 2), load<f32>(from + <usize>n * stepN))
    from += stepK
    to += 32
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

/** A, rows m0 .. m0+rows, k0 .. k0+kc -> [rows][padded kc]. */
function packA(a: usize, transposed: i32, M: i32, K: i32, k0: i32, kc: i32, m0: i32, rows: i32, packed: usize): void {
  const step = <usize>padded(kc) << 2
  const stepM: usize = transposed ? 4 : <usize>K << 2
  const stepK: usize = transposed ? <usize>M << 2 : 4
  const from = a + <usize>m0 * stepM + <usize>k0 * stepK
  for (let r = 0; r < rows; r += 4) {
    const block = from + <usize>r * stepM
    const out = packed + <usize>r * step
    const live = min(4, rows - r)
    let k = 0
    if (transposed && live == 4) for (; k + 4 <= kc; k += 4) transpose4x4(block + <usize>k * stepK, stepK, out + (k << 2), step)
    for (let q = 0; q < live; q++) {
      const row = block + <usize>q * stepM
      const to = out + <usize>q * step
      if (!transposed) memory.copy(to, row, <usize>kc << 2)
      for (let j = transposed ? k : kc; j < padded(kc); j++) store<f32>(to + (j << 2), j < kc ? load<f32>(row + <usize>j * stepK) : 0)
    }
  }
}

/** c + x0 b0 + x1 b1 + x2 b2 + x3 b3, in this order. */
@inline function madd4(x0: v128, x1: v128, x2: v128, x3: v128, b0: v128, b1: v128, b2: v128, b3: v128, c: v128): v128 {
  return madd(x3, b3, madd(x2, b2, madd(x1, b1, madd(x0, b0, c))))
}

@inline function put(c: usize, low: v128, high: v128): void {
  v128.store(c, low)
  v128.store(c, high, 16)
}

/**
 * c[8][8] = sum over kc of a b; row r of A is at a + r lda, B is a panel, kc a multiple of 4. Adding to C, bias and edges are left to
 * `finish`: with a branch after the loop V8 keeps fewer sums in registers, and a quarter of the speed is gone.
 */
function tile8(a: usize, lda: usize, b: usize, kc: i32, c: usize, ldc: usize): void {
  let c0l = f32x4.splat(0), c0h = f32x4.splat(0), c1l = f32x4.splat(0), c1h = f32x4.splat(0)
  let c2l = f32x4.splat(0), c2h = f32x4.splat(0), c3l = f32x4.splat(0), c3h = f32x4.splat(0)
  let c4l = f32x4.splat(0), c4h = f32x4.splat(0), c5l = f32x4.splat(0), c5h = f32x4.splat(0)
  let c6l = f32x4.splat(0), c6h = f32x4.splat(0), c7l = f32x4.splat(0), c7h = f32x4.splat(0)
  let a0 = a, a1 = a0 + lda, a2 = a1 + lda, a3 = a2 + lda, a4 = a3 + lda, a5 = a4 + lda, a6 = a5 + lda, a7 = a6 + lda
  const end = b + (<usize>kc << 5)
  while (b < end) {
    const l0 = v128.load(b), l1 = v128.load(b, 32), l2 = v128.load(b, 64), l3 = v128.load(b, 96)
    const h0 = v128.load(b, 16), h1 = v128.load(b, 48), h2 = v128.load(b, 80), h3 = v128.load(b, 112)
    let x0 = v128.load32_splat(a0), x1 = v128.load32_splat(a0, 4), x2 = v128.load32_splat(a0, 8), x3 = v128.load32_splat(a0, 12)
    c0l = madd4(x0, x1, x2, x3, l0, l1, l2, l3, c0l)
    c0h = madd4(x0, x1, x2, x3, h0, h1, h2, h3, c0h)
    x0 = v128.load32_splat(a1)
    x1 = v128.load32_splat(a1, 4)
    x2 = v128.load32_splat(a1, 8)
    x3 = v128.load32_splat(a1, 12)
    c1l = madd4(x0, x1, x2, x3, l0, l1, l2, l3, c1l)
    c1h = madd4(x0, x1, x2, x3, h0, h1, h2, h3, c1h)
    x0 = v128.load32_splat(a2)
    x1 = v128.load32_splat(a2, 4)
    x2 = v128.load32_splat(a2, 8)
    x3 = v128.load32_splat(a2, 12)
    c2l = madd4(x0, x1, x2, x3, l0, l1, l2, l3, c2l)
    c2h = madd4(x0, x1, x2, x3, h0, h1, h2, h3, c2h)
    x0 = v128.load32_splat(a3)
    x1 = v128.load32_splat(a3, 4)
    x2 = v128.load32_splat(a3, 8)
    x3 = v128.load32_splat(a3, 12)
    c3l = madd4(x0, x1, x2, x3, l0, l1, l2, l3, c3l)
    c3h = madd4(x0, x1, x2, x3, h0, h1, h2, h3, c3h)
    x0 = v128.load32_splat(a4)
    x1 = v128.load32_splat(a4, 4)
    x2 = v128.load32_splat(a4, 8)
    x3 = v128.load32_splat(a4, 12)
    c4l = madd4(x0, x1, x2, x3, l0, l1, l2, l3, c4l)
    c4h = madd4(x0, x1, x2, x3, h0, h1, h2, h3, c4h)
    x0 = v128.load32_splat(a5)
    x1 = v128.load32_splat(a5, 4)
    x2 = v128.load32_splat(a5, 8)
    x3 = v128.load32_splat(a5, 12)
    c5l = madd4(x0, x1, x2, x3, l0, l1, l2, l3, c5l)
    c5h = madd4(x0, x1, x2, x3, h0, h1, h2, h3, c5h)
    x0 = v128.load32_splat(a6)
    x1 = v128.load32_splat(a6, 4)
    x2 = v128.load32_splat(a6, 8)
    x3 = v128.load32_splat(a6, 12)
    c6l = madd4(x0, x1, x2, x3, l0, l1, l2, l3, c6l)
    c6h = madd4(x0, x1, x2, x3, h0, h1, h2, h3, c6h)
    x0 = v128.load32_splat(a7)
    x1 = v128.load32_splat(a7, 4)
    x2 = v128.load32_splat(a7, 8)
    x3 = v128.load32_splat(a7, 12)
    c7l = madd4(x0, x1, x2, x3, l0, l1, l2, l3, c7l)
    c7h = madd4(x0, x1, x2, x3, h0, h1, h2, h3, c7h)
    a0 += 16
    a1 += 16
    a2 += 16
    a3 += 16
    a4 += 16
    a5 += 16
    a6 += 16
    a7 += 16
    b += 128
  }
  put(c, c0l, c0h)
  c += ldc
  put(c, c1l, c1h)
  c += ldc
  put(c, c2l, c2h)
  c += ldc
  put(c, c3l, c3h)
  c += ldc
  put(c, c4l, c4h)
  c += ldc
  put(c, c5l, c5h)
  c += ldc
  put(c, c6l, c6h)
  c += ldc
  put(c, c7l, c7h)
}

/** The same for the last 1 to 4 rows: lda1, lda2, lda3 lead to rows 1 to 3, those past the last read row 0 again. c is [4][8]. */
function tile4(a: usize, lda1: usize, lda2: usize, lda3: usize, b: usize, kc: i32, c: usize, ldc: usize): void {
  let c0l = f32x4.splat(0), c0h = f32x4.splat(0), c1l = f32x4.splat(0), c1h = f32x4.splat(0)
  let c2l = f32x4.splat(0), c2h = f32x4.splat(0), c3l = f32x4.splat(0), c3h = f32x4.splat(0)
  let a1 = a + lda1, a2 = a + lda2, a3 = a + lda3
  const end = b + (<usize>kc << 5)
  while (b < end) {
    const l = v128.load(b), h = v128.load(b, 16)
    let x = v128.load32_splat(a)
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
    a += 4
    a1 += 4
    a2 += 4
    a3 += 4
    b += 32
  }
  put(c, c0l, c0h)
  put(c + ldc, c1l, c1h)
  put(c + 2 * ldc, c2l, c2h)
  put(c + 3 * ldc, c3l, c3h)
}

/** b where x isn't 0, and 0 where it is. */
@inline function besideZero(x: v128, b: v128): v128 {
  return v128.and(b, f32x4.ne(x, f32x4.splat(0)))
}

/** tile4 for a sparse A: a zero takes nothing from B, and four k at which all four rows have zeros are passed over. kc is a multiple of 4. */
function tile4Sparse(a: usize, lda1: usize, lda2: usize, lda3: usize, b: usize, kc: i32, c: usize, ldc: usize): void {
  let c0l = f32x4.splat(0), c0h = f32x4.splat(0), c1l = f32x4.splat(0), c1h = f32x4.splat(0)
  let c2l = f32x4.splat(0), c2h = f32x4.splat(0), c3l = f32x4.splat(0), c3h = f32x4.splat(0)
  let a1 = a + lda1, a2 = a + lda2, a3 = a + lda3
  const end = b + (<usize>kc << 5)
  const magnitude = i32x4.splat(0x7fffffff)
  while (b < end) {
    const some = v128.or(v128.or(v128.load(a), v128.load(a1)), v128.or(v128.load(a2), v128.load(a3)))
    if (v128.any_true(v128.and(some, magnitude))) {
      for (let k: usize = 0; k < 4; k++) {
        const at = k << 2
        const l = v128.load(b + (k << 5)), h = v128.load(b + (k << 5), 16)
        let x = v128.load32_splat(a + at)
        c0l = madd(x, besideZero(x, l), c0l)
        c0h = madd(x, besideZero(x, h), c0h)
        x = v128.load32_splat(a1 + at)
        c1l = madd(x, besideZero(x, l), c1l)
        c1h = madd(x, besideZero(x, h), c1h)
        x = v128.load32_splat(a2 + at)
        c2l = madd(x, besideZero(x, l), c2l)
        c2h = madd(x, besideZero(x, h), c2h)
        x = v128.load32_splat(a3 + at)
        c3l = madd(x, besideZero(x, l), c3l)
        c3h = madd(x, besideZero(x, h), c3h)
      }
    }
    a += 16
    a1 += 16
    a2 += 16
    a3 += 16
    b += 128
  }
  put(c, c0l, c0h)
  put(c + ldc, c1l, c1h)
  put(c + 2 * ldc, c2l, c2h)
  put(c + 3 * ldc, c3l, c3h)
}

/** rows x columns of a tile, which may stand in C already: c = activation((first ? 0 : c) + tile + bias). */
function finish(tile: usize, ldt: usize, c: usize, ldc: usize, rows: i32, columns: i32, first: bool, bias: usize, activation: i32): void {
  for (let r = 0; r < rows; r++) {
    let n = 0
    for (; n + 4 <= columns; n += 4) {
      let x = v128.load(tile + (n << 2))
      if (!first) x = f32x4.add(v128.load(c + (n << 2)), x)
      if (bias) x = f32x4.add(x, v128.load(bias + (n << 2)))
      v128.store(c + (n << 2), activation < 0 ? x : vunary(activation, x))
    }
    for (; n < columns; n++) {
      let x = load<f32>(tile + (n << 2))
      if (!first) x = load<f32>(c + (n << 2)) + x
      if (bias) x += load<f32>(bias + (n << 2))
      store<f32>(c + (n << 2), activation < 0 ? x : f32x4.extract_lane(vunary(activation, f32x4.splat(x)), 0))
    }
    tile += ldt
    c += ldc
  }
}

/** Packs all of B for `matmul`: [batch][blocks of KC][panels of 8][padded k][8]. Task: one panel of one batch. */
export function matmulPack(begin: i32, end: i32, b: usize, packed: usize, strideB: i32, N: i32, K: i32, transposeB: i32): void {
  const panels = (N + NR - 1) / NR
  for (let task = begin; task < end; task++) {
    const batch = task / panels
    const panel = task % panels
    const matrix = b + ((<usize>batch * strideB) << 2)
    const to = packed + ((<usize>batch * padded(K) * panels) << 5)
    for (let k0 = 0; k0 < K; k0 += KC) {
      const kc = min(KC, K - k0)
      packB(matrix, transposeB, N, K, k0, kc, panel * NR, to + ((<usize>k0 * panels + <usize>padded(kc) * panel) << 5))
    }
  }
}

/**
 * Task: a block of blockM x blockN (a multiple of 8) of one product, block rows running fastest. packedB: as matmulPack left it, or 0:
 * the task packs what it needs itself. Scratch: a tile, then blockM x KC if A is to be packed, then KC x blockN if B is.
 */
export function matmul(
  begin: i32, end: i32, a: usize, b: usize, bias: usize, c: usize, packedB: usize, strideA: i32, strideB: i32, M: i32, N: i32, K: i32,
  transposeA: i32, transposeB: i32, sparse: i32, accumulate: i32, activation: i32, blockM: i32, blockN: i32,
): void {
  const blocksM = (M + blockM - 1) / blockM
  const blocksN = (N + blockN - 1) / blockN
  const panels = (N + NR - 1) / NR
  const ldc = <usize>N << 2
  const edge = scratch
  const ownA = edge + ((MR * NR) << 2)
  const ownB = ownA + (transposeA || K & 3 ? <usize>blockM * (KC << 2) : 0)
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
      const steps = padded(kc)
      const first = k0 == 0 && !accumulate
      const last = k0 + kc == K
      let blockB = ownB
      if (packedB) {
        const index = strideB ? batch : 0
        blockB = packedB + ((<usize>(index * padded(K) + k0) * panels + <usize>steps * (n0 / NR)) << 5)
      } else {
        for (let n = n0; n < n1; n += NR) packB(matrixB, transposeB, N, K, k0, kc, n, ownB + (<usize>steps * (n - n0) << 2))
      }
      let blockA = matrixA + ((<usize>m0 * K + k0) << 2)
      let lda = <usize>K << 2
      if (transposeA || kc & 3) {
        packA(matrixA, transposeA, M, K, k0, kc, m0, m1 - m0, ownA)
        blockA = ownA
        lda = <usize>steps << 2
      }
      const activationN = last ? activation : -1
      let rows = 0
      for (let m = m0; m < m1; m += rows) {
        const left = m1 - m
        rows = left >= MR && !sparse ? MR : min(left, 4)
        const panelA = blockA + <usize>(m - m0) * lda
        for (let n = n0; n < n1; n += NR) {
          const panelB = blockB + (<usize>steps * (n - n0) << 2)
          const columns = min(NR, N - n)
          const biasN = last && bias ? bias + (<usize>n << 2) : 0
          const at = matrixC + ((<usize>m * N + n) << 2)
          const direct = first && columns == NR && (rows & 3) == 0
          const to = direct ? at : edge
          const ldto = direct ? ldc : NR << 2
          if (rows == MR) tile8(panelA, lda, panelB, steps, to, ldto)
          else {
            const lda1: usize = rows > 1 ? lda : 0, lda2: usize = rows > 2 ? 2 * lda : 0, lda3: usize = rows > 3 ? 3 * lda : 0
            if (sparse) tile4Sparse(panelA, lda1, lda2, lda3, panelB, steps, to, ldto)
            else tile4(panelA, lda1, lda2, lda3, panelB, steps, to, ldto)
          }
          if (!direct || biasN || activationN >= 0) finish(to, ldto, at, ldc, rows, columns, first, biasN, activationN)
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
  v128.store(sums, c0)
  v128.store(sums, c1, 16)
  v128.store(sums, c2, 32)
  v128.store(sums, c3, 48)
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

/**
 * The product for few rows of A, as in generation: B is read in place, and what counts is the speed of memory. Same sums as `matmul`.
 * Task: blockN columns (a multiple of 16) of one product. Scratch: blockN sums.
 */
export function matmulRows(
  begin: i32, end: i32, a: usize, b: usize, bias: usize, c: usize, strideA: i32, strideB: i32, M: i32, N: i32, K: i32,
  transposeB: i32, accumulate: i32, activation: i32, blockN: i32,
): void {
  const blocksN = (N + blockN - 1) / blockN
  const stepK: usize = transposeB ? 4 : <usize>N << 2
  const stepN: usize = transposeB ? <usize>K << 2 : 4
  for (let task = begin; task < end; task++) {
    const n0 = task % blocksN * blockN
    const batch = task / blocksN
    const columns = min(blockN, N - n0)
    const whole = columns & ~15
    let k0 = 0
    do {
      const kc = min(KC, K - k0)
      const last = k0 + kc == K
      const block = b + ((<usize>batch * strideB) << 2) + <usize>n0 * stepN + <usize>k0 * stepK
      for (let m = 0; m < M; m++) {
        const x = a + ((<usize>batch * strideA + <usize>m * K + k0) << 2)
        const to = c + (((<usize>batch * M + m) * N + n0) << 2)
        if (transposeB) {
          for (let n = 0; n < whole; n += 16) row16(x, block + <usize>n * stepN, stepN, kc, scratch + (n << 2))
          memory.fill(scratch + (whole << 2), 0, (columns - whole) << 2)
          rowRest(x, block + <usize>whole * stepN, stepN, stepK, kc, columns - whole, scratch + (whole << 2))
        } else {
          rowWide(x, block, stepK, kc, columns, scratch)
        }
        finish(scratch, 0, to, 0, 1, columns, k0 == 0 && !accumulate, last && bias ? bias + (n0 << 2) : 0, last ? activation : -1)
      }
      k0 += kc
    } while (k0 < K)
  }
}
