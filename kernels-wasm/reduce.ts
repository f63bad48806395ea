/**
 * Reductions. Every sum has one fixed order, whatever the split: results don't depend on the number of threads.
 * max is NaN if one element is NaN, -inf over nothing. Pinned by test/ops/wasm.test.ts.
 */
import { addressOf, entryOf, firstOf, sizeOf } from './cuts'
import { maxLanes, vload, vstore } from './lanes'
import { sqrtOf } from './math'
import { scratch } from './scratch'
import { BLOCK, sum, sumBlock, sumSquaresBlock, total } from './sums'

const SUM = 0

/** y[r] = sum or max of the row x[r, 0..n) of [R, n]. A task is a row. */
export function reduceRows(begin: i32, end: i32, op: i32, x: usize, y: usize, n: i32): void {
  for (let r = begin; r < end; r++) {
    const row = x + (<usize>r * <usize>n << 2)
    store<f32>(y + (<usize>r << 2), op == SUM ? sum(row, n) : maxRow(row, n))
  }
}

function maxRow(x: usize, n: i32): f32 {
  let m0 = f32x4.splat(-Infinity), m1 = m0
  const bytes = <usize>n << 2
  let at: usize = 0
  for (; at + 32 <= bytes; at += 32) {
    m0 = f32x4.max(m0, v128.load(x + at))
    m1 = f32x4.max(m1, v128.load(x + at, 16))
  }
  let m = maxLanes(f32x4.max(m0, m1))
  for (; at < bytes; at += 4) m = max(m, load<f32>(x + at))
  return m
}

/** Bytes of an entry with one address (cuts.ts). */
const ENTRY: usize = 12

/** partial[i] = sum of BLOCK elements of one of the arrays in the table (of their squares, if `squares`). A task is such a block. */
export function partialSums(begin: i32, end: i32, table: usize, squares: i32, partial: usize): void {
  let entry = table
  for (let task = begin; task < end; task++) {
    entry = entryOf(task, entry, ENTRY)
    const first = firstOf(task, entry, BLOCK)
    const at = addressOf(entry, 0) + (<usize>first << 2)
    const count = min(BLOCK, sizeOf(entry) - first)
    store<f32>(partial + (<usize>task << 2), squares ? sumSquaresBlock(at, count, 0) : sumBlock(at, count))
  }
}

/** y = the sum of n partial sums, in float64, or its root. The only task. */
export function addPartialSums(begin: i32, end: i32, partial: usize, n: i32, root: i32, y: usize): void {
  const sum = total(partial, n)
  store<f32>(y, root ? sqrtOf(sum) : sum)
}

/** Columns in a task of reduceColumns: 8 vectors of running sums are what the registers hold. */
const COLUMNS = 32
/** Rows that are summed before they join the total, so that a long sum is one of short sums. */
const ROWS = 256

/** Columns that go through the rows together, at most. */
const WIDTH = 2048
/** Rows that are read along before the next columns are: long enough for the running sums, short enough to stay on few pages of memory. */
const STRIP = 16

/**
 * y[o, i] = sum or max of x[o, 0..n, i], x: [outer, n, inner]. A task is (o, 32 columns); up to WIDTH columns go through the rows together, so that
 * memory is read along them. Scratch: their running sums, WIDTH floats.
 */
export function reduceColumns(begin: i32, end: i32, op: i32, x: usize, y: usize, n: i32, inner: i32): void {
  const tiles = (inner + COLUMNS - 1) / COLUMNS
  const stride = <usize>inner << 2
  const zero = f32x4.splat(op == SUM ? 0 : -Infinity)
  for (let task = begin; task < end;) {
    const o = task / tiles
    const i0 = (task - o * tiles) * COLUMNS
    const width = min(min((end - task) * COLUMNS, WIDTH), inner - i0)
    const from = x + <usize>o * <usize>n * stride + (<usize>i0 << 2)
    const to = y + <usize>o * stride + (<usize>i0 << 2)
    for (let i = 0; i < width; i += 4) vstore(to + (<usize>i << 2), zero, width - i)
    for (let j = 0; j < n; j += ROWS) {
      const last = min(n, j + ROWS)
      for (let i = 0; i < width; i += 4) v128.store(scratch + (<usize>i << 2), zero)
      for (let r = j; r < last; r += STRIP) {
        const rows = min(STRIP, last - r)
        for (let i = 0; i < width; i += COLUMNS) {
          const column = <usize>i << 2
          const at = from + <usize>r * stride + column
          if (width - i < COLUMNS) narrow(op, at, rows, stride, scratch + column, width - i)
          else if (op == SUM) wide(SUM, at, rows, stride, scratch + column)
          else wide(1, at, rows, stride, scratch + column)
        }
      }
      for (let i = 0; i < width; i += 4) {
        const at = <usize>i << 2
        vstore(to + at, join(op, vload(to + at, width - i), v128.load(scratch + at)), width - i)
      }
    }
    task += (width + COLUMNS - 1) / COLUMNS
  }
}

@inline function join(op: i32, a: v128, b: v128): v128 {
  return op == SUM ? f32x4.add(a, b) : f32x4.max(a, b)
}

/** to[0..32) = to op each row in turn. */
@inline function wide(op: i32, x: usize, rows: i32, stride: usize, to: usize): void {
  let s0 = v128.load(to), s1 = v128.load(to, 16), s2 = v128.load(to, 32), s3 = v128.load(to, 48)
  let s4 = v128.load(to, 64), s5 = v128.load(to, 80), s6 = v128.load(to, 96), s7 = v128.load(to, 112)
  for (let r = 0; r < rows; r++) {
    s0 = join(op, s0, v128.load(x))
    s1 = join(op, s1, v128.load(x, 16))
    s2 = join(op, s2, v128.load(x, 32))
    s3 = join(op, s3, v128.load(x, 48))
    s4 = join(op, s4, v128.load(x, 64))
    s5 = join(op, s5, v128.load(x, 80))
    s6 = join(op, s6, v128.load(x, 96))
    s7 = join(op, s7, v128.load(x, 112))
    x += stride
  }
  v128.store(to, s1, 16)
  v128.store(to, s0)
  v128.store(to, s3, 48)
  v128.store(to, s2, 32)
  v128.store(to, s5, 80)
  v128.store(to, s4, 64)
  v128.store(to, s7, 112)
  v128.store(to, s6, 96)
}

/** The same for fewer columns, a vector at a time. */
function narrow(op: i32, x: usize, rows: i32, stride: usize, to: usize, width: i32): void {
  for (let i = 0; i < width; i += 4) {
    const left = width - i
    const at = <usize>i << 2
    let s = v128.load(to + at)
    for (let r = 0; r < rows; r++) s = join(op, s, vload(x + <usize>r * stride + at, left))
    v128.store(to + at, s)
  }
}

/**
 * y[o, j, i] = sum of x[o, 0..=j, i] (of x[o, j..n, i] if `reverse`), x: [outer, n, inner]; running sums in float64.
 * A task is (o, 4 columns).
 */
export function cumsum(begin: i32, end: i32, x: usize, y: usize, n: i32, inner: i32, reverse: i32): void {
  const tiles = (inner + 3) >> 2
  const step = reverse ? -inner : inner
  for (let task = begin; task < end; task++) {
    const o = task / tiles
    const i = (task - o * tiles) << 2
    const left = inner - i
    let at = o * n * inner + i + (reverse ? (n - 1) * inner : 0)
    let low = f64x2.splat(0), high = low
    for (let j = 0; j < n; j++) {
      const v = vload(x + (<usize>at << 2), left)
      low = f64x2.add(low, f64x2.promote_low_f32x4(v))
      high = f64x2.add(high, f64x2.promote_low_f32x4(i64x2.shuffle(v, v, 1, 1)))
      vstore(y + (<usize>at << 2), i64x2.shuffle(f32x4.demote_f64x2_zero(low), f32x4.demote_f64x2_zero(high), 0, 2), left)
      at += step
    }
  }
}
