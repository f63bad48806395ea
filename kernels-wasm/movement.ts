/**
 * Kernels that move elements without looking at them (4 bytes each: float32 and int32 alike). Pinned by test/ops/wasm.test.ts.
 */
import { planeOffset } from './planes'

/**
 * Rows of n elements, m rows to a plane, strides as in `binary` (elementwise.ts), columns x and y of the axes; x and y already point at
 * their offsets. A task is an element.
 */
export function copy(
  begin: i32, end: i32, x: usize, y: usize,
  n: i32, strideX: i32, strideY: i32, m: i32, rowX: i32, rowY: i32, rank: i32, axes: usize,
): void {
  const row = begin / n
  let j = begin - row * n
  let plane = row / m
  let k = row - plane * m
  for (let i = begin; i < end; plane++) {
    let atX = planeOffset(plane, rank, axes, 1) + k * rowX
    let atY = planeOffset(plane, rank, axes, 2) + k * rowY
    for (; k < m && i < end; k++) {
      const count = min(end - i, n - j)
      copyRun(count, x + (<usize>(atX + j * strideX) << 2), <usize>strideX << 2, y + (<usize>(atY + j * strideY) << 2), <usize>strideY << 2)
      i += count
      j = 0
      atX += rowX
      atY += rowY
    }
    k = 0
  }
}

function copyRun(count: i32, x: usize, stepX: usize, y: usize, stepY: usize): void {
  let i = 0
  if (stepY == 4 && stepX == 4) {
    if (count >= 512) return memory.copy(y, x, <usize>count << 2)
    for (; i + 4 <= count; i += 4) v128.store(y + (<usize>i << 2), v128.load(x + (<usize>i << 2)))
  } else if (stepY == 4 && stepX == 0) {
    const value = v128.load32_splat(x)
    for (; i + 4 <= count; i += 4) v128.store(y + (<usize>i << 2), value)
  }
  x += <usize>i * stepX
  y += <usize>i * stepY
  for (; i < count; i++) {
    store<u32>(y, load<u32>(x))
    x += stepX
    y += stepY
  }
}

/** y[i] = x[i] where condition[i] isn't 0. Shapes and strides as in `binary` (elementwise.ts), of the condition and of x. A task is an element. */
export function copyWhere(
  begin: i32, end: i32, condition: usize, x: usize, y: usize,
  n: i32, strideC: i32, strideX: i32, m: i32, rowC: i32, rowX: i32, rank: i32, axes: usize,
): void {
  const row = begin / n
  let j = begin - row * n
  let plane = row / m
  let k = row - plane * m
  for (let i = begin; i < end; plane++) {
    let atC = planeOffset(plane, rank, axes, 1) + k * rowC
    let atX = planeOffset(plane, rank, axes, 2) + k * rowX
    for (; k < m && i < end; k++) {
      const count = min(end - i, n - j)
      const fromC = condition + (<usize>(atC + j * strideC) << 2)
      copyWhereRun(count, fromC, <usize>strideC << 2, x + (<usize>(atX + j * strideX) << 2), <usize>strideX << 2, y + (<usize>i << 2))
      i += count
      j = 0
      atC += rowC
      atX += rowX
    }
    k = 0
  }
}

/** A condition that holds for the whole row is looked at once. */
function copyWhereRun(count: i32, condition: usize, stepC: usize, x: usize, stepX: usize, y: usize): void {
  if (stepC == 0) {
    if (load<i32>(condition) != 0) copyRun(count, x, stepX, y, 4)
    return
  }
  let i = 0
  if (stepC == 4 && (stepX == 4 || stepX == 0)) {
    for (; i + 4 <= count; i += 4) {
      const at = <usize>i << 2
      const no = i32x4.eq(v128.load(condition + at), i32x4.splat(0))
      const value = stepX == 4 ? v128.load(x + at) : v128.load32_splat(x)
      v128.store(y + at, v128.bitselect(v128.load(y + at), value, no))
    }
  }
  for (; i < count; i++) {
    if (load<i32>(condition + <usize>i * stepC) != 0) store<u32>(y + (<usize>i << 2), load<u32>(x + <usize>i * stepX))
  }
}

/** Values of p in a task of copyTransposed, and of q done together: one cache line, so that lines of x and y are used up at once. */
const TILE = 16

/**
 * y[o, p, q] = x[o, q, p]: x has stride 1 along p, y along q; the axes o as in planes.ts. In blocks of 4 x 4.
 * A task is (o, 16 values of p).
 */
export function copyTransposed(
  begin: i32, end: i32, x: usize, y: usize, P: i32, Q: i32, strideX: i32, strideY: i32, rank: i32, axes: usize,
): void {
  const tiles = (P + TILE - 1) / TILE
  const stepX = <usize>strideX << 2
  const stepY = <usize>strideY << 2
  for (let task = begin; task < end; task++) {
    const o = task / tiles
    const p0 = (task - o * tiles) * TILE
    const p1 = min(P, p0 + TILE)
    const from = x + (<usize>planeOffset(o, rank, axes, 1) << 2)
    const to = y + (<usize>planeOffset(o, rank, axes, 2) << 2)
    for (let q0 = 0; q0 < Q; q0 += TILE) {
      const q1 = min(Q, q0 + TILE)
      for (let p = p0; p < p1; p += 4) {
        for (let q = q0; q < q1; q += 4) {
          const fromBlock = from + <usize>q * stepX + (<usize>p << 2)
          const toBlock = to + <usize>p * stepY + (<usize>q << 2)
          if (p + 4 <= p1 && q + 4 <= q1) transposeBlock(fromBlock, stepX, toBlock, stepY)
          else transposeCorner(fromBlock, stepX, toBlock, stepY, min(4, p1 - p), min(4, q1 - q))
        }
      }
    }
  }
}

function transposeCorner(x: usize, stepX: usize, y: usize, stepY: usize, P: i32, Q: i32): void {
  for (let p = 0; p < P; p++) {
    for (let q = 0; q < Q; q++) store<u32>(y + <usize>p * stepY + (<usize>q << 2), load<u32>(x + <usize>q * stepX + (<usize>p << 2)))
  }
}

@inline function transposeBlock(x: usize, stepX: usize, y: usize, stepY: usize): void {
  const x0 = v128.load(x), x1 = v128.load(x + stepX), x2 = v128.load(x + 2 * stepX), x3 = v128.load(x + 3 * stepX)
  const a = i32x4.shuffle(x0, x1, 0, 4, 1, 5), b = i32x4.shuffle(x0, x1, 2, 6, 3, 7)
  const c = i32x4.shuffle(x2, x3, 0, 4, 1, 5), d = i32x4.shuffle(x2, x3, 2, 6, 3, 7)
  v128.store(y, i64x2.shuffle(a, c, 0, 2))
  v128.store(y + stepY, i64x2.shuffle(a, c, 1, 3))
  v128.store(y + 2 * stepY, i64x2.shuffle(b, d, 0, 2))
  v128.store(y + 3 * stepY, i64x2.shuffle(b, d, 1, 3))
}

/** y[r, :] = table[index[r], :], rows of D. A task is a row of y. */
export function gather(begin: i32, end: i32, table: usize, index: usize, y: usize, D: i32): void {
  const bytes = <usize>D << 2
  for (let r = begin; r < end; r++) copyRun(D, table + <usize>load<i32>(index + (<usize>r << 2)) * bytes, 4, y + <usize>r * bytes, 4)
}

/** y[index[r], :] = x[r, :], rows of D. A task is a row of x. */
export function scatter(begin: i32, end: i32, x: usize, index: usize, y: usize, D: i32): void {
  const bytes = <usize>D << 2
  for (let r = begin; r < end; r++) copyRun(D, x + <usize>r * bytes, 4, y + <usize>load<i32>(index + (<usize>r << 2)) * bytes, 4)
}

/** Columns in a task of gatherBackward. */
const COLUMNS = 32

/** dtable[n, :] = sum of dy[r, :] over the r with index[r] = n, in the order of r. A task is 32 columns: no two threads share a sum. */
export function gatherBackward(begin: i32, end: i32, dy: usize, index: usize, dtable: usize, R: i32, N: i32, D: i32): void {
  const d0 = begin * COLUMNS
  const width = min(D, end * COLUMNS) - d0
  const bytes = <usize>D << 2
  dy += <usize>d0 << 2
  dtable += <usize>d0 << 2
  for (let n = 0; n < N; n++) memory.fill(dtable + <usize>n * bytes, 0, <usize>width << 2)
  for (let r = 0; r < R; r++) {
    const from = dy + <usize>r * bytes
    const to = dtable + <usize>load<i32>(index + (<usize>r << 2)) * bytes
    let d = 0
    for (; d + 4 <= width; d += 4) {
      const at = <usize>d << 2
      v128.store(to + at, f32x4.add(v128.load(to + at), v128.load(from + at)))
    }
    for (; d < width; d++) {
      const at = <usize>d << 2
      store<f32>(to + at, load<f32>(to + at) + load<f32>(from + at))
    }
  }
}
