/**
 * Causal depthwise convolution and the DPFP feature map. Pinned by test/ops/sequence.test.ts.
 */
import { vload, vstore } from './lanes'
import { madd } from './math'
import { scratch } from './scratch'

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

@inline function correlateStep(rows: usize, y: usize, d: i32, D: i32, W: i32, left: i32): void {
  const bytes = <usize>D << 2
  let s = f32x4.splat(0)
  let tap = scratch + (<usize>d << 2)
  let row = rows + (<usize>d << 2)
  for (let j = 0; j < W; j++) {
    s = madd(vload(tap, left), vload(row, left), s)
    tap += bytes
    row += bytes
  }
  vstore(y + (<usize>d << 2), s, left)
}

function correlateRow(rows: usize, y: usize, D: i32, W: i32): void {
  const whole = D & ~3
  for (let d = 0; d < whole; d += 4) correlateStep(rows, y, d, D, W, 4)
  if (whole < D) correlateStep(rows, y, whole, D, W, D & 3)
}

/** Four rows of y at once, which read each tap once. The same sums as correlateRow. */
function correlateFour(rows: usize, y: usize, D: i32, W: i32): void {
  const bytes = <usize>D << 2
  const whole = D & ~3
  for (let d = 0; d < whole; d += 4) {
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
  if (whole < D) for (let i: usize = 0; i < 4; i++) correlateStep(rows + i * bytes, y + i * bytes, whole, D, W, D & 3)
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
      correlateRow(u >= 0 && u + W <= T ? rows + <usize>u * bytes : gatherWindow(rows, state, u, T, D, W), to, D, W)
      t++
    }
  }
}

/**
 * y[b,t,d] = sum_{j<W} w[d,j] x[b, t-W+1+j, d]; x, y: [B,T,D], w: [D,W], state: [B,W-1,D] or 0. A task is (b, t).
 * Scratch: 2 W D floats.
 */
export function conv(begin: i32, end: i32, x: usize, w: usize, state: usize, y: usize, T: i32, D: i32, W: i32): void {
  transposeTaps(w, D, W, false)
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
    v128.store(to, f32x4.add(v128.load(to), s0))
    v128.store(to, f32x4.add(v128.load(to, 16), s1), 16)
    v128.store(to, f32x4.add(v128.load(to, 32), s2), 32)
    v128.store(to, f32x4.add(v128.load(to, 48), s3), 48)
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

/** r = relu([x, -x]), twice in a row at the start of scratch, so that a roll is an address: 4D floats. A NaN stays. */
function rectify(x: usize, D: i32): void {
  const D4 = <usize>D << 2
  const zero = f32x4.splat(0)
  for (let d = 0; d < D; d += 4) {
    const left = D - d
    const v = vload(x + (<usize>d << 2), left)
    const positive = f32x4.pmax(v, zero)
    const negative = f32x4.pmax(f32x4.neg(v), zero)
    const to = scratch + (<usize>d << 2)
    vstore(to, positive, left)
    vstore(to + D4, negative, left)
    vstore(to + 2 * D4, positive, left)
    vstore(to + 3 * D4, negative, left)
  }
}

@inline function dpfpStep(rolled: usize, y: usize, j: usize, L: usize, left: i32): void {
  vstore(y + j, f32x4.mul(vload(scratch + L + j, left), vload(rolled + j, left)), left)
}

/** y[r, i-1, j] = r_j r_{j-i mod 2D}, r = relu([x, -x]), i = 1..nu; x: [R, D], y: [R, nu, 2D]. Schlag 2021, eq. 37. A task is a row. Scratch: 4 D floats. */
export function dpfp(begin: i32, end: i32, x: usize, y: usize, D: i32, nu: i32): void {
  const L = <usize>D << 3
  const whole = L & ~15
  for (let r = begin; r < end; r++) {
    rectify(x + (<usize>(r * D) << 2), D)
    let to = y + <usize>r * <usize>nu * L
    for (let i = 1; i <= nu; i++) {
      const rolled = scratch + L - (<usize>i << 2)
      for (let j: usize = 0; j < whole; j += 16) dpfpStep(rolled, to, j, L, 4)
      if (whole < L) dpfpStep(rolled, to, whole, L, <i32>(L - whole) >> 2)
      to += L
    }
  }
}

/** Four elements from byte `at` on of a cyclic row of L bytes; at < 2 L. */
@inline function cyclic(row: usize, at: usize, L: usize): v128 {
  if (at >= L) at -= L
  return at + 16 <= L ? v128.load(row + at) : wrapped(row, at, L)
}

function wrapped(row: usize, at: usize, L: usize): v128 {
  let v = v128.load32_splat(row + at)
  v = v128.load_lane<f32>(row + (at + 4) % L, v, 1)
  v = v128.load_lane<f32>(row + (at + 8) % L, v, 2)
  return v128.load_lane<f32>(row + (at + 12) % L, v, 3)
}

/** d loss / d r_j = sum_i dy_i[j] r[j-i] + dy_i[j+i] r[j+i], at byte j. */
@inline function rectifiedGradient(dy: usize, j: usize, L: usize, nu: i32): v128 {
  let s = f32x4.splat(0)
  let shift: usize = 4
  for (let i = 1; i <= nu; i++) {
    s = madd(cyclic(dy, j, L), v128.load(scratch + L + j - shift), s)
    s = madd(cyclic(dy, j + shift, L), v128.load(scratch + j + shift), s)
    dy += L
    shift += 4
  }
  return s
}

/** dx = dr[0..D) where x > 0, -dr[D..2D) where x < 0, and 0 at 0. A task is a row. Scratch: 4 D + 4 floats. */
export function dpfpBackward(begin: i32, end: i32, x: usize, dy: usize, dx: usize, D: i32, nu: i32): void {
  const D4 = <usize>D << 2
  const L = D4 + D4
  const zero = f32x4.splat(0)
  for (let r = begin; r < end; r++) {
    const at = <usize>(r * D) << 2
    rectify(x + at, D)
    const from = dy + <usize>r * <usize>nu * L
    for (let d: usize = 0; d < D4; d += 16) {
      const left = <i32>(D4 - d) >> 2
      const v = vload(x + at + d, left)
      const positive = v128.andnot(rectifiedGradient(from, d, L, nu), f32x4.le(v, zero))
      const negative = v128.andnot(rectifiedGradient(from, D4 + d, L, nu), f32x4.ge(v, zero))
      vstore(dx + at + d, f32x4.sub(positive, negative), left)
    }
  }
}
