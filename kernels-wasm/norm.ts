/**
 * Row normalisations, softmax and cross-entropy: rows of [R, n], a task is a row (32 columns for the gains' gradients).
 * Pinned by test/ops/wasm.test.ts.
 */
import { firstLanes, maxLanes, sumLanes, vload, vstore } from './lanes'
import { exp, log, madd, sqrtOf } from './math'
import { sum, sumSquaresAround } from './sums'

/** `normKinds` of engine/devices/kernels.ts. */
const LAYER = 0, RMS = 1
export const L2 = 2, SUM = 3

@inline function normStep(x: usize, gain: usize, bias: usize, y: usize, at: usize, mean: v128, scale: v128, left: i32): void {
  let v = f32x4.mul(f32x4.sub(vload(x + at, left), mean), scale)
  if (gain) v = f32x4.mul(v, vload(gain + at, left))
  if (bias) v = f32x4.add(v, vload(bias + at, left))
  vstore(y + at, v, left)
}

/** Whole vectors, two a turn, so that V8 can merge them (wide.ts). */
@inline function normRow(x: usize, gain: usize, bias: usize, y: usize, whole: usize, mean: v128, scale: v128): void {
  let at: usize = 0
  for (; at + 32 <= whole; at += 32) {
    let low = f32x4.mul(f32x4.sub(v128.load(x + at), mean), scale), high = f32x4.mul(f32x4.sub(v128.load(x + at, 16), mean), scale)
    if (gain) {
      low = f32x4.mul(low, v128.load(gain + at))
      high = f32x4.mul(high, v128.load(gain + at, 16))
    }
    if (bias) {
      low = f32x4.add(low, v128.load(bias + at))
      high = f32x4.add(high, v128.load(bias + at, 16))
    }
    v128.store(y + at, high, 16)
    v128.store(y + at, low)
  }
  if (at < whole) normStep(x, gain, bias, y, at, mean, scale, 4)
}

/**
 * y = (x - mean) scale [gain] [+ bias]. layer: scale = 1/sqrt(var + eps), the variance about the mean found first;
 * rms: 1/sqrt(mean(x^2) + eps), l2: 1/sqrt(sum(x^2) + eps), sum: 1/(sum(x) + eps), their mean being 0. stats[r] = (mean, scale).
 */
export function norm(begin: i32, end: i32, kind: i32, x: usize, gain: usize, bias: usize, y: usize, stats: usize, n: i32, eps: f32): void {
  const bytes = <usize>n << 2
  for (let r = begin; r < end; r++) {
    normOne(kind, x + <usize>r * bytes, gain, bias, y + <usize>r * bytes, stats + (<usize>r << 3), n, eps)
  }
}

/** One row of `norm`. `out` may be `row`. */
export function normOne(kind: i32, row: usize, gain: usize, bias: usize, out: usize, stats: usize, n: i32, eps: f32): void {
  const bytes = <usize>n << 2
  const whole = <usize>(n & ~3) << 2
  let mean: f32 = 0
  let size: f32
  if (kind <= L2) {
    if (kind == LAYER) mean = sum(row, n) / <f32>n
    const squares = sumSquaresAround(row, n, mean)
    size = sqrtOf((kind == L2 ? squares : squares / <f32>n) + eps)
  } else size = sum(row, n) + eps
  if (!(abs(size) > SMALLEST && abs(size) < Infinity)) {
    normFar(kind, row, gain, bias, out, stats, n, eps)
    return
  }
  const scale: f32 = 1 / size
  store<f32>(stats, mean)
  store<f32>(stats, scale, 4)
  const vmean = f32x4.splat(mean)
  const vscale = f32x4.splat(scale)
  if (gain && bias) normRow(row, gain, bias, out, whole, vmean, vscale)
  else if (gain) normRow(row, gain, 0, out, whole, vmean, vscale)
  else if (bias) normRow(row, 0, bias, out, whole, vmean, vscale)
  else normRow(row, 0, 0, out, whole, vmean, vscale)
  if (whole < bytes) normStep(row, gain, bias, out, whole, vmean, vscale, n & 3)
}

/** Below it squares have lost digits; the backward pass takes its far side beyond the reciprocals of these. */
export const SMALLEST: f32 = 1e-12
export const LARGEST: f32 = 1e12

@inline function at64(x: usize, j: i32): f64 {
  return <f64>load<f32>(x + (<usize>j << 2))
}

/** A row of `norm` in float64: for rows whose sum, or sum of squares, float32 doesn't hold. */
function normFar(kind: i32, x: usize, gain: usize, bias: usize, y: usize, stats: usize, n: i32, eps: f64): void {
  let total: f64 = 0, squares: f64 = 0
  for (let j = 0; j < n; j++) total += at64(x, j)
  const mean = kind == LAYER ? total / <f64>n : 0
  for (let j = 0; j < n; j++) squares += (at64(x, j) - mean) * (at64(x, j) - mean)
  const scale = kind > L2 ? 1 / (total + eps) : 1 / Math.sqrt((kind == L2 ? squares : squares / <f64>n) + eps)
  store<f32>(stats, <f32>mean)
  store<f32>(stats, <f32>scale, 4)
  for (let j = 0; j < n; j++) {
    let value = (at64(x, j) - mean) * scale
    if (gain) value *= at64(gain, j)
    if (bias) value += at64(bias, j)
    store<f32>(y + (<usize>j << 2), <f32>value)
  }
}

@inline function scaled(dy: usize, gain: usize, at: usize, left: i32): v128 {
  const v = vload(dy + at, left)
  return gain ? f32x4.mul(v, vload(gain + at, left)) : v
}

/**
 * With g = dy gain, c = x - mean, s = scale: dx = s g - c1 c - c0.
 * layer: c1 = s^3 sum(g c) / n, c0 = s sum(g) / n. rms: c1 the same, c0 = 0. l2: c1 = s^3 sum(g c), c0 = 0. sum: c1 = 0, c0 = s^2 sum(g c).
 * With `more` it is added to dx.
 */
export function normBackward(
  begin: i32, end: i32, kind: i32, x: usize, gain: usize, stats: usize, dy: usize, dx: usize, n: i32, more: i32,
): void {
  for (let r = begin; r < end; r++) {
    const at = (<usize>r * <usize>n) << 2
    normBackwardOne(kind, x + at, gain, stats + (<usize>r << 3), dy + at, dx + at, n, more)
  }
}

/** One row of `normBackward`. */
export function normBackwardOne(kind: i32, x: usize, gain: usize, stats: usize, dy: usize, dx: usize, n: i32, more: i32): void {
  const mean = load<f32>(stats)
  const s = load<f32>(stats, 4)
  if (!(abs(s) > 1 / LARGEST && abs(s) < 1 / SMALLEST)) normBackwardFar(kind, x, gain, mean, s, dy, dx, n, more)
  else if (gain) {
    if (more) normBackwardRow(kind, x, gain, mean, s, dy, dx, n, true)
    else normBackwardRow(kind, x, gain, mean, s, dy, dx, n, false)
  } else if (more) normBackwardRow(kind, x, 0, mean, s, dy, dx, n, true)
  else normBackwardRow(kind, x, 0, mean, s, dy, dx, n, false)
}

/** A row of `normBackward` in float64, where s^3 leaves float32. */
function normBackwardFar(kind: i32, x: usize, gain: usize, mean: f64, s: f64, dy: usize, dx: usize, n: i32, more: i32): void {
  let sumG: f64 = 0, sumGH: f64 = 0
  for (let j = 0; j < n; j++) {
    const g = at64(dy, j) * (gain ? at64(gain, j) : 1)
    sumG += g
    sumGH += g * ((at64(x, j) - mean) * s)
  }
  if (kind < L2) sumGH /= <f64>n
  const c0 = kind == LAYER ? sumG / <f64>n : kind > L2 ? sumGH : 0
  const along = kind > L2 ? 0 : sumGH
  for (let j = 0; j < n; j++) {
    const g = at64(dy, j) * (gain ? at64(gain, j) : 1)
    const value = <f32>(s * (g - c0 - (at64(x, j) - mean) * s * along)), to = dx + (<usize>j << 2)
    store<f32>(to, more ? load<f32>(to) + value : value)
  }
}

@inline function normBackwardRow(
  kind: i32, x: usize, gain: usize, mean: f32, s: f32, dy: usize, dx: usize, n: i32, more: bool,
): void {
  const bytes = <usize>n << 2
  const whole = <usize>(n & ~3) << 2
  const vmean = f32x4.splat(mean)
  // sum(g) and sum(g c), each in two vectors of partial sums
  let g0 = f32x4.splat(0), g1 = g0, p0 = g0, p1 = g0
  let at: usize = 0
  for (; at + 32 <= whole; at += 32) {
    let a = v128.load(dy + at), b = v128.load(dy + at, 16)
    if (gain) {
      a = f32x4.mul(a, v128.load(gain + at))
      b = f32x4.mul(b, v128.load(gain + at, 16))
    }
    g0 = f32x4.add(g0, a)
    g1 = f32x4.add(g1, b)
    p0 = madd(a, f32x4.sub(v128.load(x + at), vmean), p0)
    p1 = madd(b, f32x4.sub(v128.load(x + at, 16), vmean), p1)
  }
  for (; at < bytes; at += 16) {
    const left = <i32>(bytes - at) >> 2
    const a = scaled(dy, gain, at, left)
    g0 = f32x4.add(g0, a)
    p0 = madd(a, f32x4.sub(vload(x + at, left), vmean), p0)
  }
  const product = sumLanes(f32x4.add(p0, p1))
  let c0: f32 = 0, c1: f32 = 0
  if (kind == LAYER) c0 = s * (sumLanes(f32x4.add(g0, g1)) / <f32>n)
  if (kind > L2) c0 = s * (s * product)
  else c1 = s * (s * (s * (kind == L2 ? product : product / <f32>n)))
  const v0 = f32x4.splat(-c0), v1 = f32x4.splat(-c1), vs = f32x4.splat(s)
  for (at = 0; at + 32 <= whole; at += 32) {
    let a = v128.load(dy + at), b = v128.load(dy + at, 16)
    if (gain) {
      a = f32x4.mul(a, v128.load(gain + at))
      b = f32x4.mul(b, v128.load(gain + at, 16))
    }
    const c = f32x4.sub(v128.load(x + at), vmean), d = f32x4.sub(v128.load(x + at, 16), vmean)
    let low = madd(vs, a, madd(v1, c, v0)), high = madd(vs, b, madd(v1, d, v0))
    if (more) {
      low = f32x4.add(v128.load(dx + at), low)
      high = f32x4.add(v128.load(dx + at, 16), high)
    }
    v128.store(dx + at, high, 16)
    v128.store(dx + at, low)
  }
  for (; at < bytes; at += 16) {
    const left = <i32>(bytes - at) >> 2
    const c = f32x4.sub(vload(x + at, left), vmean)
    const value = madd(vs, scaled(dy, gain, at, left), madd(v1, c, v0))
    vstore(dx + at, more ? f32x4.add(vload(dx + at, left), value) : value, left)
  }
}

/** Columns in a task, and rows summed before they join the total (see reduce.ts). */
const COLUMNS = 16
const ROWS = 256

/** dgain[j] = sum_r dy[r, j] (x[r, j] - mean_r) scale_r; dbias[j] = sum_r dy[r, j]. Either may be 0. A task is 16 columns. */
export function normGainBackward(
  begin: i32, end: i32, x: usize, stats: usize, dy: usize, dgain: usize, dbias: usize, R: i32, n: i32,
): void {
  for (let j = begin * COLUMNS; j < min(n, end * COLUMNS); j += 4) {
    const left = n - j
    const at = <usize>j << 2
    if (dgain) vstore(dgain + at, f32x4.splat(0), left)
    if (dbias) vstore(dbias + at, f32x4.splat(0), left)
  }
  for (let r = 0; r < R; r += ROWS) {
    const rows = min(ROWS, R - r)
    const vstats = stats + (<usize>r << 3)
    for (let j = begin * COLUMNS; j < min(n, end * COLUMNS);) {
      const at = (<usize>r * <usize>n + <usize>j) << 2
      const to = <usize>j << 2
      if (n - j >= COLUMNS) {
        gainColumns(x + at, vstats, dy + at, dgain ? dgain + to : 0, dbias ? dbias + to : 0, rows, n)
        j += COLUMNS
      } else {
        gainVector(x + at, vstats, dy + at, dgain ? dgain + to : 0, dbias ? dbias + to : 0, rows, n, n - j)
        j += 4
      }
    }
  }
}

function gainColumns(x: usize, stats: usize, dy: usize, dgain: usize, dbias: usize, rows: i32, n: i32): void {
  const bytes = <usize>n << 2
  let g0 = f32x4.splat(0), g1 = g0, g2 = g0, g3 = g0
  let b0 = g0, b1 = g0, b2 = g0, b3 = g0
  for (let r = 0; r < rows; r++) {
    const mean = v128.load32_splat(stats), scale = v128.load32_splat(stats, 4)
    const d0 = v128.load(dy), d1 = v128.load(dy, 16), d2 = v128.load(dy, 32), d3 = v128.load(dy, 48)
    b0 = f32x4.add(b0, d0)
    b1 = f32x4.add(b1, d1)
    b2 = f32x4.add(b2, d2)
    b3 = f32x4.add(b3, d3)
    g0 = madd(f32x4.mul(f32x4.sub(v128.load(x), mean), scale), d0, g0)
    g1 = madd(f32x4.mul(f32x4.sub(v128.load(x, 16), mean), scale), d1, g1)
    g2 = madd(f32x4.mul(f32x4.sub(v128.load(x, 32), mean), scale), d2, g2)
    g3 = madd(f32x4.mul(f32x4.sub(v128.load(x, 48), mean), scale), d3, g3)
    x += bytes
    dy += bytes
    stats += 8
  }
  if (dgain) {
    v128.store(dgain, f32x4.add(v128.load(dgain, 16), g1), 16)
    v128.store(dgain, f32x4.add(v128.load(dgain), g0))
    v128.store(dgain, f32x4.add(v128.load(dgain, 48), g3), 48)
    v128.store(dgain, f32x4.add(v128.load(dgain, 32), g2), 32)
  }
  if (dbias) {
    v128.store(dbias, f32x4.add(v128.load(dbias, 16), b1), 16)
    v128.store(dbias, f32x4.add(v128.load(dbias), b0))
    v128.store(dbias, f32x4.add(v128.load(dbias, 48), b3), 48)
    v128.store(dbias, f32x4.add(v128.load(dbias, 32), b2), 32)
  }
}

function gainVector(x: usize, stats: usize, dy: usize, dgain: usize, dbias: usize, rows: i32, n: i32, left: i32): void {
  const bytes = <usize>n << 2
  let g = f32x4.splat(0), b = g
  for (let r = 0; r < rows; r++) {
    const d = vload(dy, left)
    b = f32x4.add(b, d)
    g = madd(f32x4.mul(f32x4.sub(vload(x, left), v128.load32_splat(stats)), v128.load32_splat(stats, 4)), d, g)
    x += bytes
    dy += bytes
    stats += 8
  }
  if (dgain) vstore(dgain, f32x4.add(vload(dgain, left), g), left)
  if (dbias) vstore(dbias, f32x4.add(vload(dbias, left), b), left)
}

/** The largest element, NaNs passed over: exp(NaN - max) brings them back. */
function rowMax(x: usize, n: i32): f32 {
  let m0 = f32x4.splat(-Infinity), m1 = m0
  const bytes = <usize>n << 2
  let at: usize = 0
  for (; at + 32 <= bytes; at += 32) {
    m0 = f32x4.pmax(m0, v128.load(x + at))
    m1 = f32x4.pmax(m1, v128.load(x + at, 16))
  }
  for (; at < bytes; at += 16) {
    const left = <i32>(bytes - at) >> 2
    m0 = f32x4.pmax(m0, firstLanes(vload(x + at, left), left, f32x4.splat(-Infinity)))
  }
  return maxLanes(f32x4.pmax(m0, m1))
}

/** sum exp(x - m), and y = exp(x - m) unless y is 0. */
@inline function sumExp(x: usize, y: usize, n: i32, m: f32): f32 {
  const vm = f32x4.splat(m)
  const bytes = <usize>n << 2
  let s0 = f32x4.splat(0), s1 = s0
  let at: usize = 0
  for (; at + 32 <= bytes; at += 32) {
    const a = exp(f32x4.sub(v128.load(x + at), vm)), b = exp(f32x4.sub(v128.load(x + at, 16), vm))
    s0 = f32x4.add(s0, a)
    s1 = f32x4.add(s1, b)
    if (y) {
      v128.store(y + at, b, 16)
      v128.store(y + at, a)
    }
  }
  for (; at < bytes; at += 16) {
    const left = <i32>(bytes - at) >> 2
    const e = exp(f32x4.sub(vload(x + at, left), vm))
    s0 = f32x4.add(s0, firstLanes(e, left, f32x4.splat(0)))
    if (y) vstore(y + at, e, left)
  }
  return sumLanes(f32x4.add(s0, s1))
}

function sumExpOnly(x: usize, n: i32, m: f32): f32 {
  return sumExp(x, 0, n, m)
}

@inline function logOf(x: f32): f32 {
  return f32x4.extract_lane(log(f32x4.splat(x)), 0)
}

/**
 * y = exp(x - max) / sum exp(x - max), or with `log` x - (max + log sum exp(x - max)), over the first `seen` entries of a row: all n, or
 * with causal = T > 0 the first n - T + (r mod T) + 1; the others get 0.
 */
export function softmax(begin: i32, end: i32, x: usize, y: usize, n: i32, log: i32, causal: i32): void {
  const bytes = <usize>n << 2
  for (let r = begin; r < end; r++) {
    const from = x + <usize>r * bytes
    const to = y + <usize>r * bytes
    const seen = causal > 0 ? n - causal + r % causal + 1 : n
    const m = rowMax(from, seen)
    if (log) {
      const logSum = f32x4.splat(logOf(sumExpOnly(from, seen, m)))
      const top = f32x4.splat(m)
      let at: usize = 0
      for (; at + 16 <= bytes; at += 16) v128.store(to + at, f32x4.sub(f32x4.sub(v128.load(from + at), top), logSum))
      if (at < bytes) vstore(to + at, f32x4.sub(f32x4.sub(vload(from + at, n & 3), top), logSum), n & 3)
    } else {
      const scale = f32x4.splat(1 / sumExp(from, to, seen, m))
      const used = <usize>seen << 2
      let at: usize = 0
      for (; at + 16 <= used; at += 16) v128.store(to + at, f32x4.mul(v128.load(to + at), scale))
      if (at < used) vstore(to + at, f32x4.mul(vload(to + at, seen & 3), scale), seen & 3)
      if (seen < n) memory.fill(to + used, 0, bytes - used)
    }
  }
}

/** y in the lanes where x isn't 0, and 0 in the others. */
@inline function besideZeros(x: v128, y: v128): v128 {
  return v128.and(y, f32x4.ne(x, f32x4.splat(0)))
}

/** sum x y over the entries where x isn't 0. */
function dot(x: usize, y: usize, n: i32): f32 {
  const bytes = <usize>n << 2
  let s0 = f32x4.splat(0), s1 = s0
  let at: usize = 0
  for (; at + 32 <= bytes; at += 32) {
    const x0 = v128.load(x + at), x1 = v128.load(x + at, 16)
    s0 = madd(x0, besideZeros(x0, v128.load(y + at)), s0)
    s1 = madd(x1, besideZeros(x1, v128.load(y + at, 16)), s1)
  }
  for (; at < bytes; at += 16) {
    const left = <i32>(bytes - at) >> 2
    const x0 = vload(x + at, left)
    s0 = madd(x0, besideZeros(x0, vload(y + at, left)), s0)
  }
  return sumLanes(f32x4.add(s0, s1))
}

@inline function softmaxBackwardStep(y: usize, dy: usize, dx: usize, log: i32, total: v128, left: i32): void {
  const vy = vload(y, left), vdy = vload(dy, left)
  vstore(dx, log ? f32x4.sub(vdy, f32x4.mul(exp(vy), total)) : besideZeros(vy, f32x4.mul(vy, f32x4.sub(vdy, total))), left)
}

/** dx = y (dy - sum(dy y)), 0 where y is, whatever dy is there; with `log` dx = dy - exp(y) sum(dy). */
export function softmaxBackward(begin: i32, end: i32, y: usize, dy: usize, dx: usize, n: i32, log: i32): void {
  const bytes = <usize>n << 2
  const whole = <usize>(n & ~3) << 2
  for (let r = begin; r < end; r++) {
    const row = <usize>r * bytes
    const vy = y + row, vdy = dy + row, vdx = dx + row
    const total = f32x4.splat(log ? sum(vdy, n) : dot(vy, vdy, n))
    if (log) for (let at: usize = 0; at < whole; at += 16) softmaxBackwardStep(vy + at, vdy + at, vdx + at, 1, total, 4)
    else for (let at: usize = 0; at < whole; at += 16) softmaxBackwardStep(vy + at, vdy + at, vdx + at, 0, total, 4)
    if (whole < bytes) softmaxBackwardStep(vy + whole, vdy + whole, vdx + whole, log, total, n & 3)
  }
}

/** lse = max + log sum exp(logits - max), loss = (max - logits[target]) + log sum: no cancellation where the target is sure. */
export function crossEntropy(begin: i32, end: i32, logits: usize, target: usize, loss: usize, lse: usize, N: i32, ignore: i32): void {
  for (let r = begin; r < end; r++) {
    const row = logits + (<usize>r * <usize>N << 2)
    const at = <usize>r << 2
    const m = rowMax(row, N)
    const logSum = logOf(sumExpOnly(row, N, m))
    const t = load<i32>(target + at)
    store<f32>(lse + at, m + logSum)
    store<f32>(loss + at, t == ignore ? 0 : m - load<f32>(row + (<usize>t << 2)) + logSum)
  }
}

@inline function crossEntropyBackwardStep(logits: usize, dlogits: usize, lse: v128, dloss: v128, left: i32): void {
  vstore(dlogits, f32x4.mul(exp(f32x4.sub(vload(logits, left), lse)), dloss), left)
}

/** dlogits[r, :] = (exp(logits[r, :] - lse[r]) - onehot(target[r])) dloss[r]; 0 where target[r] = ignore. */
export function crossEntropyBackward(
  begin: i32, end: i32, logits: usize, target: usize, lse: usize, dloss: usize, dlogits: usize, N: i32, ignore: i32,
): void {
  const bytes = <usize>N << 2
  const whole = <usize>(N & ~3) << 2
  for (let r = begin; r < end; r++) {
    const from = logits + <usize>r * bytes
    const to = dlogits + <usize>r * bytes
    const t = load<i32>(target + (<usize>r << 2))
    if (t == ignore) {
      memory.fill(to, 0, bytes)
      continue
    }
    const vlse = v128.load32_splat(lse + (<usize>r << 2))
    const d = load<f32>(dloss + (<usize>r << 2))
    const vd = f32x4.splat(d)
    for (let at: usize = 0; at < whole; at += 16) crossEntropyBackwardStep(from + at, to + at, vlse, vd, 4)
    if (whole < bytes) crossEntropyBackwardStep(from + whole, to + whole, vlse, vd, N & 3)
    const at = <usize>t << 2
    const p = f32x4.extract_lane(exp(f32x4.sub(v128.load32_splat(from + at), vlse)), 0)
    store<f32>(to + at, (p - 1) * d)
  }
}
