/**
 * Causal depthwise convolution and the DPFP feature map. Pinned by test/ops/wasm.test.ts.
 */
import { unaryBackward_silu, unary_silu } from './elementwise'
import { sumLanes, vload, vstore } from './lanes'
import { madd, nanOf } from './math'
import { L2, LARGEST, normBackwardOne, normOne, SMALLEST, SUM } from './norm'
import { scratch } from './scratch'
import { BLOCK } from './sums'

// Both passes over a sequence are one correlation, y[t] = sum_{j<W} taps[j] * rows[u + j], over rows that go on as the state (or zeros)
// before 0 and as zeros from T on: forward u = t - W + 1; backward u = t, the rows are dy and the taps are reversed.
// Scratch: the taps [W, D], then a window of W rows for places near the ends.

/** taps[j, d] = w[d, j], or w[d, W-1-j] if `reversed`; w: [D, W]. */
function transposeTaps(w: usize, D: i32, W: i32, reversed: bool): void {
  for (let j = 0; j < W; j++) {
    const from = w + (<usize>(reversed ? W - 1 - j : j) << 2)
    const to = scratch + (<usize>(j * D) << 2)
    for (let d = 0; d < D; d++) store<f32>(to + (<usize>d << 2), load<f32>(from + (<usize>(d * W) << 2)))
  }
}

/** The rows u..u+W of the sequence, gathered after the taps. state: the W-1 rows before 0, or 0. */
function gatherWindow(rows: usize, state: usize, u: i32, T: i32, D: i32, W: i32): usize {
  const bytes = <usize>D << 2
  const window = scratch + <usize>W * bytes
  for (let j = 0; j < W; j++) {
    const to = window + <usize>j * bytes
    const at = u + j
    if (at >= 0 && at < T) memory.copy(to, rows + <usize>at * bytes, bytes)
    else if (at < 0 && state) memory.copy(to, state + <usize>(at + W - 1) * bytes, bytes)
    else memory.fill(to, 0, bytes)
  }
  return window
}

/** Columns d to d + left, 4 of them at most, of correlateRow. */
@inline function correlateStep(before: usize, n: i32, rows: usize, y: usize, d: i32, D: i32, W: i32, left: i32): void {
  const bytes = <usize>D << 2
  let s = f32x4.splat(0)
  let tap = scratch + (<usize>d << 2)
  let row = before + (<usize>d << 2)
  for (let j = 0; j < W; j++) {
    if (j == n) row = rows + (<usize>d << 2)
    s = madd(vload(tap, left), vload(row, left), s)
    tap += bytes
    row += bytes
  }
  vstore(y + (<usize>d << 2), s, left)
}

/** A row of y, from n rows that lie at `before`, and the others at `rows`. */
function correlateRow(before: usize, n: i32, rows: usize, y: usize, D: i32, W: i32): void {
  const bytes = <usize>D << 2
  let d = 0
  for (; d + 16 <= D; d += 16) {
    const at = <usize>d << 2
    let s0 = f32x4.splat(0), s1 = s0, s2 = s0, s3 = s0
    let tap = scratch + at
    let row = before + at
    for (let j = 0; j < W; j++) {
      if (j == n) row = rows + at
      s0 = madd(v128.load(tap), v128.load(row), s0)
      s1 = madd(v128.load(tap, 16), v128.load(row, 16), s1)
      s2 = madd(v128.load(tap, 32), v128.load(row, 32), s2)
      s3 = madd(v128.load(tap, 48), v128.load(row, 48), s3)
      tap += bytes
      row += bytes
    }
    const to = y + at
    v128.store(to, s1, 16)
    v128.store(to, s0)
    v128.store(to, s3, 48)
    v128.store(to, s2, 32)
  }
  for (; d < D; d += 4) correlateStep(before, n, rows, y, d, D, W, min(4, D - d))
}

/** Four rows of y at once, which read each tap once. The same sums as correlateRow. */
function correlateFour(rows: usize, y: usize, D: i32, W: i32): void {
  const bytes = <usize>D << 2
  const whole = D & ~3
  let first = 0
  // Two vectors of each row: V8 may merge them.
  for (; first + 8 <= whole; first += 8) {
    let l0 = f32x4.splat(0), l1 = l0, l2 = l0, l3 = l0, h0 = l0, h1 = l0, h2 = l0, h3 = l0
    let tap = scratch + (<usize>first << 2)
    let row = rows + (<usize>first << 2)
    for (let j = 0; j < W; j++) {
      const low = v128.load(tap), high = v128.load(tap, 16)
      const row1 = row + bytes, row2 = row1 + bytes, row3 = row2 + bytes
      l0 = madd(low, v128.load(row), l0)
      h0 = madd(high, v128.load(row, 16), h0)
      l1 = madd(low, v128.load(row1), l1)
      h1 = madd(high, v128.load(row1, 16), h1)
      l2 = madd(low, v128.load(row2), l2)
      h2 = madd(high, v128.load(row2, 16), h2)
      l3 = madd(low, v128.load(row3), l3)
      h3 = madd(high, v128.load(row3, 16), h3)
      tap += bytes
      row += bytes
    }
    let to = y + (<usize>first << 2)
    v128.store(to, h0, 16)
    v128.store(to, l0)
    to += bytes
    v128.store(to, h1, 16)
    v128.store(to, l1)
    to += bytes
    v128.store(to, h2, 16)
    v128.store(to, l2)
    to += bytes
    v128.store(to, h3, 16)
    v128.store(to, l3)
  }
  for (let d = first; d < whole; d += 4) {
    let s0 = f32x4.splat(0), s1 = s0, s2 = s0, s3 = s0
    let tap = scratch + (<usize>d << 2)
    let row = rows + (<usize>d << 2)
    for (let j = 0; j < W; j++) {
      const t = v128.load(tap)
      s0 = madd(t, v128.load(row), s0)
      s1 = madd(t, v128.load(row + bytes), s1)
      s2 = madd(t, v128.load(row + 2 * bytes), s2)
      s3 = madd(t, v128.load(row + 3 * bytes), s3)
      tap += bytes
      row += bytes
    }
    const to = y + (<usize>d << 2)
    v128.store(to, s0)
    v128.store(to + bytes, s1)
    v128.store(to + 2 * bytes, s2)
    v128.store(to + 3 * bytes, s3)
  }
  if (whole < D) for (let i: usize = 0; i < 4; i++) correlateStep(rows + i * bytes, W, 0, y + i * bytes, whole, D, W, D & 3)
}

/** y[t] for t in [t0, t1) of one sequence, from the rows t + offset on. */
function correlate(t0: i32, t1: i32, offset: i32, rows: usize, state: usize, y: usize, T: i32, D: i32, W: i32): void {
  const bytes = <usize>D << 2
  for (let t = t0; t < t1;) {
    const u = t + offset
    const to = y + <usize>t * bytes
    if (u >= 0 && t + 4 <= t1 && u + 3 + W <= T) {
      correlateFour(rows + <usize>u * bytes, to, D, W)
      t += 4
    } else {
      if (u >= 0 && u + W <= T) correlateRow(rows + <usize>u * bytes, W, 0, to, D, W)
      else if (u < 0 && state && u + W <= T) correlateRow(state + <usize>(u + W - 1) * bytes, -u, rows, to, D, W)
      else correlateRow(gatherWindow(rows, state, u, T, D, W), W, 0, to, D, W)
      t++
    }
  }
}

/** Numbers that are convolved, activated and normalised one after the other while they are in the cache: whole rows of D, or of a width. */
@inline function rowsTogether(D: i32): i32 {
  return max(4, (2048 / D) & ~3)
}

/**
 * y[b,t,d] = sum_{j<W} w[d,j] x[b, t-W+1+j, d]; x, y: [B,T,D], w: [D,W], state: [B,W-1,D] or 0. Of that silu, where `activated`, and then, with a
 * width, so many at a time as `norm` l2 has them, stats: [B T D / width, 2]. sums: [B,T,D], those before silu, or 0. A task is (b, t).
 * Scratch: 2 W D floats.
 */
export function conv(
  begin: i32, end: i32, x: usize, w: usize, state: usize, y: usize, sums: usize, stats: usize,
  T: i32, D: i32, W: i32, activated: i32, width: i32, eps: f32,
): void {
  transposeTaps(w, D, W, false)
  const bytes = <usize>D << 2
  for (let task = begin; task < end;) {
    const next = min(end, task + rowsTogether(D))
    convRows(task, next, x, state, sums ? sums : y, T, D, W)
    const at = <usize>task * bytes
    const rows = y + at
    if (activated) unary_silu(0, (next - task) * D, sums ? sums + at : rows, rows)
    if (width) {
      const heads = D / width
      for (let r = 0; r < (next - task) * heads; r++) {
        const row = rows + (<usize>(r * width) << 2)
        normOne(L2, row, 0, 0, row, stats + (<usize>(task * heads + r) << 3), width, eps)
      }
    }
    task = next
  }
}

/** The sums of rows of all sequences; the taps are in scratch. y: of row 0. */
function convRows(begin: i32, end: i32, x: usize, state: usize, y: usize, T: i32, D: i32, W: i32): void {
  const sequence = <usize>T * <usize>D << 2
  const past = <usize>(W - 1) * <usize>D << 2
  for (let task = begin; task < end;) {
    const b = task / T
    const t0 = task - b * T
    const t1 = min(T, t0 + end - task)
    correlate(t0, t1, 1 - W, x + <usize>b * sequence, state ? state + <usize>b * past : 0, y + <usize>b * sequence, T, D, W)
    task += t1 - t0
  }
}

/** ds = scale (dy - y (dy . y)), of a row of n numbers s, y = scale s. */
function l2Row(y: usize, scale: f32, dy: usize, ds: usize, n: i32): void {
  const bytes = <usize>n << 2
  const whole = <usize>(n & ~7) << 2
  let s0 = f32x4.splat(0), s1 = s0
  let at: usize = 0
  for (; at < whole; at += 32) {
    s0 = madd(v128.load(dy + at), v128.load(y + at), s0)
    s1 = madd(v128.load(dy + at, 16), v128.load(y + at, 16), s1)
  }
  for (; at < bytes; at += 16) s0 = madd(vload(dy + at, <i32>(bytes - at) >> 2), vload(y + at, <i32>(bytes - at) >> 2), s0)
  const along = f32x4.splat(-sumLanes(f32x4.add(s0, s1))), factor = f32x4.splat(scale)
  for (at = 0; at < whole; at += 32) {
    const low = f32x4.mul(factor, madd(along, v128.load(y + at), v128.load(dy + at)))
    const high = f32x4.mul(factor, madd(along, v128.load(y + at, 16), v128.load(dy + at, 16)))
    v128.store(ds + at, high, 16)
    v128.store(ds + at, low)
  }
  for (; at < bytes; at += 16) {
    const left = <i32>(bytes - at) >> 2
    vstore(ds + at, f32x4.mul(factor, madd(along, vload(y + at, left), vload(dy + at, left))), left)
  }
}

/** dz, of the sums of `conv` with a width; sums: 0 without silu. A task is a row of that width. */
export function convBackwardSums(begin: i32, end: i32, y: usize, sums: usize, stats: usize, dy: usize, dz: usize, width: i32): void {
  const bytes = <usize>width << 2
  for (let r = begin; r < end;) {
    const next = min(end, r + rowsTogether(width))
    const first = <usize>r * bytes
    for (let at = first; r < next; r++) {
      l2Row(y + at, load<f32>(stats + (<usize>r << 3), 4), dy + at, dz + at, width)
      at += bytes
    }
    if (sums) unaryBackward_silu(0, <i32>((<usize>next * bytes - first) >> 2), sums + first, y + first, dz + first, dz + first)
  }
}

/**
 * next[b,i,d]: the last W-1 rows of [state; x], 0 for those that are not there; it may be the state itself. A task is b.
 */
export function convNext(begin: i32, end: i32, x: usize, state: usize, next: usize, T: i32, D: i32, W: i32): void {
  const bytes = <usize>D << 2
  // Rows that the state keeps, and those that come in, in bytes.
  const kept = max(W - 1 - T, 0)
  const fresh = <usize>(W - 1 - kept) * bytes
  for (let b = <usize>begin; b < <usize>end; b++) {
    const at = b * <usize>(W - 1) * bytes
    if (state) memory.copy(next + at, state + at + fresh, <usize>kept * bytes)
    else memory.fill(next + at, 0, <usize>kept * bytes)
    memory.copy(next + at + <usize>kept * bytes, x + (b + 1) * <usize>T * bytes - fresh, fresh)
  }
}

/**
 * dx[b,s,d] = sum_j w[d,j] dy[b, s+W-1-j, d] for s in [0, T), and into dstate (if not 0) for s in [-(W-1), 0).
 * A task is (b, s), s from -(W-1). Scratch: 2 W D floats.
 */
export function convBackwardInput(begin: i32, end: i32, w: usize, dy: usize, dx: usize, dstate: usize, T: i32, D: i32, W: i32): void {
  transposeTaps(w, D, W, true)
  const bytes = <usize>D << 2
  const length = T + W - 1
  for (let task = begin; task < end;) {
    const b = task / length
    const s0 = task - b * length - (W - 1)
    const s1 = min(T, s0 + end - task)
    const from = dy + <usize>b * <usize>T * bytes
    if (s0 < 0 && dstate) correlate(s0, min(0, s1), 0, from, 0, dstate + <usize>((b + 1) * (W - 1)) * bytes, T, D, W)
    if (s1 > 0) correlate(max(0, s0), s1, 0, from, 0, dx + <usize>b * <usize>T * bytes, T, D, W)
    task += s1 - s0
  }
}

/** Columns in a task of convBackwardTaps, and rows summed before they join the total. */
const COLUMNS = 16
const ROWS = 128

/** to[0..width) += sum over the rows of dy * x. */
function addProducts(dy: usize, x: usize, rows: i32, bytes: usize, to: usize, width: i32): void {
  if (width == COLUMNS) {
    let s0 = f32x4.splat(0), s1 = s0, s2 = s0, s3 = s0
    for (let r = 0; r < rows; r++) {
      s0 = madd(v128.load(dy), v128.load(x), s0)
      s1 = madd(v128.load(dy, 16), v128.load(x, 16), s1)
      s2 = madd(v128.load(dy, 32), v128.load(x, 32), s2)
      s3 = madd(v128.load(dy, 48), v128.load(x, 48), s3)
      dy += bytes
      x += bytes
    }
    s0 = f32x4.add(v128.load(to), s0)
    s1 = f32x4.add(v128.load(to, 16), s1)
    s2 = f32x4.add(v128.load(to, 32), s2)
    s3 = f32x4.add(v128.load(to, 48), s3)
    v128.store(to, s1, 16)
    v128.store(to, s0)
    v128.store(to, s3, 48)
    v128.store(to, s2, 32)
    return
  }
  for (let i = 0; i < width; i += 4) {
    const at = <usize>i << 2
    let s = f32x4.splat(0)
    for (let r = 0; r < rows; r++) s = madd(vload(dy + <usize>r * bytes + at, width - i), vload(x + <usize>r * bytes + at, width - i), s)
    v128.store(to + at, f32x4.add(v128.load(to + at), s))
  }
}

/** dw[d,j] = sum_{b,t} dy[b,t,d] x[b, t-W+1+j, d], added up by b, then by blocks of t. A task is 16 columns d. Scratch: W x 16 floats. */
export function convBackwardTaps(
  begin: i32, end: i32, x: usize, state: usize, dy: usize, dw: usize, B: i32, T: i32, D: i32, W: i32,
): void {
  const bytes = <usize>D << 2
  for (let task = begin; task < end; task++) {
    const d0 = task * COLUMNS
    const width = min(COLUMNS, D - d0)
    const column = <usize>d0 << 2
    memory.fill(scratch, 0, <usize>W * COLUMNS << 2)
    for (let b = 0; b < B; b++) {
      const vdy = dy + <usize>(b * T) * bytes + column
      const vx = x + <usize>(b * T) * bytes + column
      for (let t0 = 0; t0 < T; t0 += ROWS) {
        const t1 = min(T, t0 + ROWS)
        for (let j = 0; j < W; j++) {
          const to = scratch + (<usize>(j * COLUMNS) << 2)
          // t below `first` meets the state, whose row t + j is that of x[t - W + 1 + j].
          const first = min(T, W - 1 - j)
          if (t0 < first && state) {
            const vstate = state + <usize>(b * (W - 1) + t0 + j) * bytes + column
            addProducts(vdy + <usize>t0 * bytes, vstate, min(t1, first) - t0, bytes, to, width)
          }
          const from = max(t0, first)
          if (from < t1) addProducts(vdy + <usize>from * bytes, vx + <usize>(from - W + 1 + j) * bytes, t1 - from, bytes, to, width)
        }
      }
    }
    for (let d = 0; d < width; d++) {
      for (let j = 0; j < W; j++) {
        store<f32>(dw + (<usize>((d0 + d) * W + j) << 2), load<f32>(scratch + (<usize>(j * COLUMNS + d) << 2)))
      }
    }
  }
}

/**
 * r = relu([x, -x]) at r[0..2D), its last nu elements also before it and the first nu + 4 after it, so that a roll is an address.
 * A NaN stays.
 */
function rectify(x: usize, r: usize, D: i32, nu: i32): void {
  const negative = r + (<usize>D << 2)
  const L = <usize>D << 3
  const whole = D & ~3
  const zero = f32x4.splat(0)
  for (let d = 0; d < whole; d += 4) {
    const at = <usize>d << 2
    const v = v128.load(x + at)
    v128.store(r + at, f32x4.pmax(v, zero))
    v128.store(negative + at, f32x4.pmax(f32x4.neg(v), zero))
  }
  if (whole < D) {
    const at = <usize>whole << 2
    const v = vload(x + at, D - whole)
    vstore(r + at, f32x4.pmax(v, zero), D - whole)
    vstore(negative + at, f32x4.pmax(f32x4.neg(v), zero), D - whole)
  }
  for (let i = 1; i <= nu; i++) store<f32>(r - (<usize>i << 2), load<f32>(r + L - (<usize>i << 2)))
  for (let i = 0; i < nu + 4; i++) store<f32>(r + L + (<usize>i << 2), load<f32>(r + (<usize>i << 2)))
}

/** Where r begins in scratch: behind nu elements, on a 16-byte boundary. */
@inline function rectified(nu: i32): usize {
  return scratch + <usize>((nu + 3) & ~3) * 4
}

/**
 * y[r, i-1, j] = r_j r_{j-i mod 2D}, r = relu([x, -x]), i = 1..nu; x: [R, D], y: [R, nu, 2D]. Schlag 2021, eq. 37.
 * A task is a row. Scratch: 2 D + 2 nu + 8 floats.
 */
export function dpfp(begin: i32, end: i32, x: usize, y: usize, D: i32, nu: i32): void {
  const n = 2 * D * nu
  for (let row = begin; row < end; row++) {
    rectify(x + (<usize>(row * D) << 2), rectified(nu), D, nu)
    features(y + (<usize>row * n << 2), D, nu)
  }
}

/** The features of the row that is rectified. */
function features(to: usize, D: i32, nu: i32): void {
  const L = <usize>D << 3
  const whole = L & ~15
  const r = rectified(nu)
  for (let i = 1; i <= nu; i++) {
    const rolled = r - (<usize>i << 2)
    for (let j: usize = 0; j < whole; j += 16) v128.store(to + j, f32x4.mul(v128.load(r + j), v128.load(rolled + j)))
    if (whole < L) vstore(to + whole, f32x4.mul(v128.load(r + whole), v128.load(rolled + whole)), <i32>(L - whole) >> 2)
    to += L
  }
}

/** x, or -x, where it's above 0. A NaN stays. */
@inline function above(x: v128, sign: v128): v128 {
  return f32x4.pmax(v128.xor(x, sign), f32x4.splat(0))
}

/** One element back: the last of the vector before, and the first three. */
@inline function behind(before: v128, x: v128): v128 {
  return v128.shuffle<f32>(before, x, 3, 4, 5, 6)
}

/** One element ahead. */
@inline function ahead(x: v128, next: v128): v128 {
  return v128.shuffle<f32>(x, next, 1, 2, 3, 4)
}

/** Whether a row has one roll, and whole vectors, four at a time: then it stays in registers, in the order of sums of any other. */
@inline function isShort(D: i32, nu: i32): bool {
  return nu == 1 && (D & 7) == 0
}

/** The features of such a row, and their sum, as `sum` has it. */
function featuresSummed(x: usize, to: usize, D: i32): f32 {
  const D4 = <usize>D << 2
  const minus = i32x4.splat(0x80000000)
  let s0 = f32x4.splat(0), s1 = s0, s2 = s0, s3 = s0
  let before = above(v128.load(x + D4 - 16), minus)
  for (let half = 0; half < 2; half++) {
    const sign = half ? minus : f32x4.splat(0)
    for (let at: usize = 0; at < D4; at += 32) {
      const a = above(v128.load(x + at), sign), b = above(v128.load(x + at, 16), sign)
      const first = f32x4.mul(a, behind(before, a)), second = f32x4.mul(b, behind(a, b))
      v128.store(to, second, 16)
      v128.store(to, first)
      if (((half ? D4 + at : at) & 32) == 0) {
        s0 = f32x4.add(s0, first)
        s1 = f32x4.add(s1, second)
      } else {
        s2 = f32x4.add(s2, first)
        s3 = f32x4.add(s3, second)
      }
      before = b
      to += 32
    }
  }
  return sumLanes(f32x4.add(f32x4.add(s0, s1), f32x4.add(s2, s3)))
}

/** dpfp, each row over (its sum + eps); stats [R, 2] as `norm` leaves them. A task is a row. Scratch: that of dpfp. */
export function dpfpSum(begin: i32, end: i32, x: usize, y: usize, stats: usize, D: i32, nu: i32, eps: f32): void {
  const n = 2 * D * nu
  for (let row = begin; row < end; row++) {
    const from = x + (<usize>(row * D) << 2), to = y + (<usize>row * n << 2), its = stats + (<usize>row << 3)
    if (isShort(D, nu) && n <= BLOCK) {
      const size = featuresSummed(from, to, D) + eps
      if (abs(size) > SMALLEST && abs(size) < Infinity) {
        const scale: f32 = 1 / size
        store<f32>(its, 0)
        store<f32>(its, scale, 4)
        const factor = f32x4.splat(scale)
        const last = to + (<usize>n << 2)
        for (let at = to; at < last; at += 32) {
          const low = f32x4.mul(v128.load(at), factor), high = f32x4.mul(v128.load(at, 16), factor)
          v128.store(at, high, 16)
          v128.store(at, low)
        }
        continue
      }
    } else {
      rectify(from, rectified(nu), D, nu)
      features(to, D, nu)
    }
    normOne(SUM, to, 0, 0, to, its, n, eps)
  }
}

/** Four elements from byte `at` on of a cyclic row of L bytes. */
function cyclic(row: usize, at: usize, L: usize): v128 {
  let v = v128.load32_splat(row + at % L)
  v = v128.load_lane<f32>(row + (at + 4) % L, v, 1)
  v = v128.load_lane<f32>(row + (at + 8) % L, v, 2)
  return v128.load_lane<f32>(row + (at + 12) % L, v, 3)
}

/** dr[j] = (or += unless first) dy[j] r[j-i] + dy[j+i] r[j+i] over j in [0, 2D), all of it cyclic; dr has room for 3 more. */
@inline function addRoll(first: bool, dy: usize, r: usize, dr: usize, i: i32, L: usize): void {
  const shift = <usize>i << 2
  const back = r - shift, ahead = r + shift, dyAhead = dy + shift
  let j: usize = 0
  for (; j + shift + 16 <= L; j += 16) {
    const s = f32x4.mul(v128.load(dy + j), v128.load(back + j))
    const t = madd(v128.load(dyAhead + j), v128.load(ahead + j), s)
    v128.store(dr + j, first ? t : f32x4.add(v128.load(dr + j), t))
  }
  for (; j < L; j += 16) {
    const s = f32x4.mul(vload(dy + j, <i32>(L - j) >> 2), v128.load(back + j))
    const t = madd(cyclic(dy, j + shift, L), v128.load(ahead + j), s)
    v128.store(dr + j, first ? t : f32x4.add(v128.load(dr + j), t))
  }
}

/** dx = dr[0..D) where x > 0, -dr[D..2D) where x < 0, 0 at 0 and NaN at NaN. A task is a row. Scratch: 4 D + 2 nu + 12 floats. */
export function dpfpBackward(begin: i32, end: i32, x: usize, dy: usize, dx: usize, D: i32, nu: i32): void {
  const n = 2 * D * nu
  for (let row = begin; row < end; row++) {
    const at = <usize>(row * D) << 2
    rectify(x + at, rectified(nu), D, nu)
    featuresBackward(x + at, dy + (<usize>row * n << 2), dx + at, D, nu)
  }
}

/** Of the row that is rectified. */
function featuresBackward(x: usize, dy: usize, dx: usize, D: i32, nu: i32): void {
  const D4 = <usize>D << 2
  const L = D4 + D4
  const zero = f32x4.splat(0)
  const r = rectified(nu)
  const dr = r + L + (<usize>nu << 2) + 16
  addRoll(true, dy, r, dr, 1, L)
  for (let i = 2; i <= nu; i++) {
    dy += L
    addRoll(false, dy, r, dr, i, L)
  }
  for (let d: usize = 0; d < D4; d += 16) {
    const left = <i32>(D4 - d) >> 2
    const v = vload(x + d, left)
    const positive = v128.andnot(v128.load(dr + d), f32x4.le(v, zero))
    const negative = v128.andnot(v128.load(dr + D4 + d), f32x4.ge(v, zero))
    vstore(dx + d, nanOf(v, f32x4.sub(positive, negative)), left)
  }
}

/** The sum of the features of a short row (`isShort`) times their cotangents, as normBackwardOne has it. */
function featuresDot(x: usize, dy: usize, D: i32): f32 {
  const D4 = <usize>D << 2
  const minus = i32x4.splat(0x80000000)
  let p0 = f32x4.splat(0), p1 = p0
  let before = above(v128.load(x + D4 - 16), minus)
  for (let half = 0; half < 2; half++) {
    const sign = half ? minus : f32x4.splat(0)
    for (let at: usize = 0; at < D4; at += 32) {
      const a = above(v128.load(x + at), sign), b = above(v128.load(x + at, 16), sign)
      p0 = madd(v128.load(dy), f32x4.mul(a, behind(before, a)), p0)
      p1 = madd(v128.load(dy, 16), f32x4.mul(b, behind(a, b)), p1)
      before = b
      dy += 32
    }
  }
  return sumLanes(f32x4.add(p0, p1))
}

/** dr[j] = df[j] r[j-1] + df[j+1] r[j+1], of a vector. */
@inline function rolledBack(r0: v128, r1: v128, r2: v128, df: v128, dfNext: v128): v128 {
  return madd(ahead(df, dfNext), ahead(r1, r2), f32x4.mul(df, behind(r0, r1)))
}

/** dx of a short row, from df = scale dy + shift. */
function shortBackward(x: usize, dy: usize, dx: usize, D: i32, scale: v128, shift: v128): void {
  const D4 = <usize>D << 2
  const zero = f32x4.splat(0), minus = i32x4.splat(0x80000000)
  const firstX = v128.load(x), lastX = v128.load(x + D4 - 16)
  // Of both halves, r of x and of -x: the vector before, this one, and the next.
  let p0 = above(lastX, minus), n0 = above(lastX, zero)
  let v = firstX
  let p1 = above(v, zero), n1 = above(v, minus)
  const firstP = madd(scale, v128.load(dy), shift), firstN = madd(scale, v128.load(dy + D4), shift)
  let dp = firstP, dn = firstN
  for (let d: usize = 0; d < D4; d += 16) {
    let next = firstX, p2 = above(firstX, minus), n2 = above(firstX, zero), dpNext = firstN, dnNext = firstP
    if (d + 16 < D4) {
      next = v128.load(x + d, 16)
      p2 = above(next, zero)
      n2 = above(next, minus)
      dpNext = madd(scale, v128.load(dy + d, 16), shift)
      dnNext = madd(scale, v128.load(dy + D4 + d, 16), shift)
    }
    const positive = v128.andnot(rolledBack(p0, p1, p2, dp, dpNext), f32x4.le(v, zero))
    const negative = v128.andnot(rolledBack(n0, n1, n2, dn, dnNext), f32x4.ge(v, zero))
    v128.store(dx + d, nanOf(v, f32x4.sub(positive, negative)))
    v = next
    p0 = p1
    p1 = p2
    n0 = n1
    n1 = n2
    dp = dpNext
    dn = dnNext
  }
}

/** Likewise of dpfpSum. Scratch: that of dpfpBackward, then the features of a row and their gradient, 4 D nu floats. */
export function dpfpSumBackward(begin: i32, end: i32, x: usize, stats: usize, dy: usize, dx: usize, D: i32, nu: i32): void {
  const n = 2 * D * nu
  const own = scratch + (<usize>(4 * D + 2 * nu + 12) << 2)
  const gradient = own + (<usize>n << 2)
  for (let row = begin; row < end; row++) {
    const at = <usize>(row * D) << 2
    const s = load<f32>(stats + (<usize>row << 3), 4)
    if (isShort(D, nu) && abs(s) > 1 / LARGEST && abs(s) < 1 / SMALLEST) {
      const cotangents = dy + (<usize>row * n << 2)
      const c0 = s * (s * featuresDot(x + at, cotangents, D))
      shortBackward(x + at, cotangents, dx + at, D, f32x4.splat(s), f32x4.splat(-c0))
      continue
    }
    rectify(x + at, rectified(nu), D, nu)
    features(own, D, nu)
    normBackwardOne(SUM, own, 0, stats + (<usize>row << 3), dy + (<usize>row * n << 2), gradient, n, 0)
    featuresBackward(x + at, gradient, dx + at, D, nu)
  }
}
