/**
 * Muon (Jordan 2024), the parts of a step between which threads meet; engine/devices/wasm/muon.ts puts them together. The matrices of a
 * step are [R,C], R <= C, or stored transposed, where `tall`. Between momentum and update they stand one after the other, all [R,C]. A A^T and the
 * polynomial of it are symmetric: only the columns' part from the diagonal down is computed, and then mirrored, to the same bits.
 * Pinned by test/ops/wasm.test.ts.
 */
import { vload, vstore } from './lanes'
import { splat, sqrtOf } from './math'
import { matmul } from './matmul'
import { copyTransposed } from './movement'
import { scratch } from './scratch'
import { BLOCK, sumSquaresBlock, total } from './sums'

/** Rows of a task that may turn them: what copyTransposed takes at once. */
const ROWS = 16
/** Bytes of a matrix in the table `slots`, and where it has `tall`, the addresses of g and m; that of p comes first. */
const SLOT: usize = 16
const AT_TALL: usize = 4
const AT_G: usize = 8
const AT_M: usize = 12

/**
 * g' = gradScale[0] g, m = momentum m + g', x = g' + momentum m, and partial[task] = sum of x^2. A task is BLOCK elements of a matrix, of `size`.
 * `guarded`, here and in the update: nothing, unless gradScale[0] is above 0.
 */
export function muonMomentum(
  begin: i32, end: i32, slots: usize, x: usize, gradScale: usize, momentum: f32, partial: usize, size: i32, guarded: i32,
): void {
  if (guarded && !(load<f32>(gradScale) > 0)) return
  const scale = splat(gradScale ? load<f32>(gradScale) : 1)
  const blocks = (size + BLOCK - 1) / BLOCK
  for (let task = begin; task < end; task++) {
    const i = task / blocks
    const slot = slots + <usize>i * SLOT
    const g = load<usize>(slot, AT_G), m = load<usize>(slot, AT_M), to = x + (<usize>i * size << 2)
    const first = (task - i * blocks) * BLOCK
    const last = min(first + BLOCK, size)
    for (let k = first; k < last; k += 4) {
      const at = <usize>k << 2
      const left = last - k
      const grad = f32x4.mul(vload(g + at, left), scale)
      const mean = f32x4.add(f32x4.mul(vload(m + at, left), splat(momentum)), grad)
      vstore(m + at, mean, left)
      vstore(to + at, f32x4.add(grad, f32x4.mul(mean, splat(momentum))), left)
    }
    store<f32>(partial + (<usize>task << 2), sumSquaresBlock(to + (<usize>first << 2), last - first, 0))
  }
}

/**
 * y[i] = x[i] / (norm + eps), turned where it is tall; norm^2 is the sum of the `blocks` partial sums of the matrix. A task is ROWS rows of y.
 */
export function muonNormalise(
  begin: i32, end: i32, slots: usize, x: usize, y: usize, partial: usize, blocks: i32, eps: f32, R: i32, C: i32,
): void {
  const tiles = (R + ROWS - 1) / ROWS
  for (let task = begin; task < end; task++) {
    const i = task / tiles
    const r0 = (task - i * tiles) * ROWS
    const matrix = <usize>i * R * C << 2
    const rows = <usize>r0 * C << 2
    const to = y + matrix + rows
    let from = x + matrix + rows
    if (load<i32>(slots + <usize>i * SLOT, AT_TALL)) {
      copyTransposed(0, 1, x + matrix + (<usize>r0 << 2), to, min(ROWS, R - r0), C, R, C, 0, 0)
      from = to
    }
    const norm = splat(sqrtOf(total(partial + (<usize>(i * blocks) << 2), blocks)) + eps)
    const n = min(ROWS, R - r0) * C
    for (let k = 0; k < n; k += 4) vstore(to + (<usize>k << 2), f32x4.div(vload(from + (<usize>k << 2), n - k), norm), n - k)
  }
}

/** y = factor x over rows of n, `step` elements apart. */
function scaleRows(x: usize, y: usize, rows: i32, n: i32, step: i32, factor: f32): void {
  for (let r = 0; r < rows; r++) {
    const at = <usize>r * step << 2
    for (let i = 0; i < n; i += 4) {
      const here = at + (<usize>i << 2)
      vstore(y + here, f32x4.mul(vload(x + here, n - i), splat(factor)), n - i)
    }
  }
}

/**
 * c[i] = after (before start[i] + a[i] b[i]), without the first term where start is 0. a: [M,K], b: [K,N] or, transposed, [N,K], start, c: [M,N].
 * `symmetric`: c is. A task is a block of blockN columns of a matrix. Scratch: as for `matmul` with all M rows in a block.
 */
export function muonProduct(
  begin: i32, end: i32, a: usize, b: usize, start: usize, c: usize, M: i32, N: i32, K: i32, transposeB: i32, symmetric: i32,
  before: f32, after: f32, blockN: i32,
): void {
  const blocks = (N + blockN - 1) / blockN
  for (let task = begin; task < end; task++) {
    const i = task / blocks
    const block = task - i * blocks
    const n0 = block * blockN
    const n1 = min(n0 + blockN, N)
    const m0 = symmetric ? n0 : 0
    const rows = M - m0
    const row = <usize>(i * M + m0)
    const corner = (row * N + n0) << 2
    if (start) scaleRows(start + corner, c + corner, rows, n1 - n0, N, before)
    // The rows from m0 on are a matrix of their own.
    const left = a + (row * K << 2), right = b + (<usize>(i * N) * K << 2)
    matmul(
      block, block + 1, left, right, 0, c + (row * N << 2), 0, 0, 0, rows, N, K,
      0, transposeB, 0, start ? 1 : 0, -1, rows, blockN, 0,
    )
    if (after != 1) scaleRows(c + corner, c + corner, rows, n1 - n0, N, after)
    if (symmetric) {
      const matrix = c + (<usize>(i * M) * N << 2)
      const below = matrix + ((<usize>n1 * N + n0) << 2), beside = matrix + ((<usize>n0 * N + n1) << 2)
      copyTransposed(0, (n1 - n0 + ROWS - 1) / ROWS, below, beside, n1 - n0, M - n1, N, N, 0, 0)
    }
  }
}

/** p = kept p + step y, y turned where p is tall, by stepTall there. A task is ROWS rows of p, of C at most. Scratch: ROWS x R. */
export function muonUpdate(
  begin: i32, end: i32, slots: usize, y: usize, R: i32, C: i32, kept: f32, step: f32, stepTall: f32, gradScale: usize, guarded: i32,
): void {
  if (guarded && !(load<f32>(gradScale) > 0)) return
  const tiles = (C + ROWS - 1) / ROWS
  for (let task = begin; task < end; task++) {
    const i = task / tiles
    const r0 = (task - i * tiles) * ROWS
    const slot = slots + <usize>i * SLOT
    const tall = load<i32>(slot, AT_TALL)
    const rows = min(ROWS, (tall ? C : R) - r0)
    if (rows <= 0) continue
    const width = tall ? R : C
    const p = load<usize>(slot) + (<usize>r0 * width << 2)
    const matrix = y + (<usize>i * R * C << 2)
    let from = matrix + (<usize>r0 * C << 2)
    if (tall) {
      copyTransposed(0, 1, matrix + (<usize>r0 << 2), scratch, rows, R, C, R, 0, 0)
      from = scratch
    }
    const factor = splat(tall ? stepTall : step)
    const n = rows * width
    for (let k = 0; k < n; k += 4) {
      const at = <usize>k << 2
      const left = n - k
      const change = f32x4.mul(vload(from + at, left), factor)
      vstore(p + at, f32x4.add(f32x4.mul(vload(p + at, left), splat(kept)), change), left)
    }
  }
}
