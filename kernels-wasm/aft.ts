/**
 * The attention free transformer's softmax over time, channel by channel (Zhai 2021, eq. 2-4): y_t = sum_j p_tj v_j, p_tj = exp(k_j + w_tj - lse_t).
 *
 * Pairs less than `window` places apart are taken one by one. The others have no bias, and whole sums of them run along: forward, sums over keys of
 * e^(k - m) and e^(k - m) v, m the largest k so far; backward, sums over queries of e^(-lse - m) dy and e^(-lse - m) (dlse - dy y), m the largest -lse.
 *
 * Causal, the window's keys (queries) stand in a ring with these factors, e^(k - m) for the m of now, so that a pair costs two products with e^w and no
 * exponential. That loses nothing while every |w| of a window is at most 30: what underflows beside m is below e^(30 - 87) of what it is added to,
 * e^-30 at least. A window with a larger one goes pair by pair.
 *
 * Shapes: k, v [B,n,D]; y, lse, dy, dlse [B,n-past,D], the last rows; places [B,n]: a row's place in its sequence, below 0 where it isn't there, 0 where a
 * sequence begins. w: none, a table [N,N] by the places of query and key, or taps [S,D] by their distance.
 * Split: a task is four channels of a row of the batch (for dw, of all rows, or a row of the table), from the first token to the last.
 * Numerics: every exponent is at most 0 but for rounding. A row that a query doesn't see takes no part in its arithmetic, so that causality is exact and
 * sequences don't meet. Pinned by test/ops/aft.test.ts, wasm.test.ts.
 */
import { firstLanes, sumLanes, vload, vstore } from './lanes'
import { exp, log, madd, splat } from './math'
import { scratch } from './scratch'

const NONE = 0, TABLE = 1

/** Of a sum of nothing: its exponent, beside which every other counts. */
const EMPTY: f32 = -3e38

// ---- the call at hand -------------------------------------------------------------------------------------------------------------

let n: i32 = 0, past: i32 = 0, D: i32 = 0, s: i32 = 0, N: i32 = 0, bias: i32 = 0
let causal = false
let w: usize = 0
/** places of the row of the batch at hand. */
let places: usize = 0

function setCall(rows: i32, before: i32, channels: i32, window: i32, onlyPast: i32, kind: i32, side: i32, weights: usize): void {
  n = rows
  past = before
  D = channels
  s = window
  causal = onlyPast != 0
  bias = kind
  N = side
  w = weights
}

@inline function place(i: i32): i32 {
  return load<i32>(places + (<usize>i << 2))
}

/** w of the query at place p and the key at place r, for `left` channels from c on. */
@inline function weight(p: i32, r: i32, c: i32, left: i32): v128 {
  if (bias == NONE) return splat(0)
  if (bias == TABLE) return v128.load32_splat(w + (<usize>tableOf(p, r) << 2))
  return vload(w + (<usize>(tapOf(p, r) * D + c) << 2), left)
}

/** Beyond the last place of the table the last row counts, by distance. */
@inline function tableOf(p: i32, r: i32): i32 {
  const beyond = max(p - (N - 1), 0)
  return (p - beyond) * N + r - beyond
}

@inline function tapOf(p: i32, r: i32): i32 {
  return p - r + (causal ? 0 : s - 1)
}

// ---- running sums: exponents x with numbers a and b, as sums of e^(x - m) a and e^(x - m) b ----------------------------------------------

let m: v128 = f32x4.splat(0), sumA: v128 = f32x4.splat(0), sumB: v128 = f32x4.splat(0)

@inline function clear(): void {
  m = splat(EMPTY)
  sumA = splat(0)
  sumB = splat(0)
}

@inline function absorb(x: v128, a: v128, b: v128): void {
  const top = f32x4.max(m, x)
  const fade = exp(f32x4.sub(m, top)), e = exp(f32x4.sub(x, top))
  sumA = madd(e, a, f32x4.mul(fade, sumA))
  sumB = madd(e, b, f32x4.mul(fade, sumB))
  m = top
}

// ---- the ring: two numbers for each row of the window, at its place modulo s, and e^w of a window -------------------------------------------------

/** Beyond this a bias counts as large. */
const LARGE: f32 = 30

/** The exponent that the ring's numbers are taken from: the largest so far. */
let ringTop: v128 = f32x4.splat(0)
let ringA: v128 = f32x4.splat(0), ringB: v128 = f32x4.splat(0)

@inline function slot(r: i32): usize {
  return scratch + (<usize>(r % s) << 5)
}

@inline function weightsAt(): usize {
  return scratch + (<usize>s << 5)
}

/** Brings what stands at the places [from, to) to the largest exponent, x among them; e^x by it, for the place that is entered next. */
@inline function enter(x: v128, from: i32, to: i32): v128 {
  const top = f32x4.max(ringTop, x)
  if (v128.any_true(f32x4.ne(top, ringTop))) {
    const fade = exp(f32x4.sub(ringTop, top))
    for (let other = from; other < to; other++) {
      const at = slot(other)
      v128.store(at, f32x4.mul(fade, v128.load(at, 16)), 16)
      v128.store(at, f32x4.mul(fade, v128.load(at)))
    }
    ringTop = top
  }
  return exp(f32x4.sub(x, top))
}

/**
 * e^w of the pairs of place p with the places [from, to), which are keys' (`ofQuery`) or queries'; false where one is large. Taps have had theirs for all
 * places before (`tapWeights`).
 */
function windowWeights(p: i32, from: i32, to: i32, ofQuery: bool, into: usize = weightsAt()): bool {
  if (bias == NONE) return true
  if (bias != TABLE) return tapsAreSmall
  let largest = splat(0)
  for (let r = from; r < to; r += 4) {
    const some = min(4, to - r)
    let x = splat(0)
    if (ofQuery) x = vload(w + (<usize>tableOf(p, r) << 2), some)
    else {
      x = v128.load32_zero(w + (<usize>tableOf(r, p) << 2))
      if (some > 1) x = v128.load_lane<f32>(w + (<usize>tableOf(r + 1, p) << 2), x, 1)
      if (some > 2) x = v128.load_lane<f32>(w + (<usize>tableOf(r + 2, p) << 2), x, 2)
      if (some > 3) x = v128.load_lane<f32>(w + (<usize>tableOf(r + 3, p) << 2), x, 3)
    }
    largest = f32x4.max(largest, f32x4.abs(x))
    v128.store(into + (<usize>(r - from) << 2), exp(x))
  }
  return !v128.any_true(v128.not(f32x4.le(largest, splat(LARGE))))
}

let tapsAreSmall = false

/** e^w of the taps of `left` channels from c on, a vector each. */
function tapWeights(c: i32, left: i32): void {
  if (bias == NONE || bias == TABLE) return
  let largest = splat(0)
  for (let i = 0; i < s; i++) {
    const x = vload(w + (<usize>(i * D + c) << 2), left)
    largest = f32x4.max(largest, f32x4.abs(x))
    v128.store(weightsAt() + (<usize>i << 4), exp(x))
  }
  tapsAreSmall = !v128.any_true(v128.not(f32x4.le(largest, splat(LARGE))))
}

/** Of what stands at the places [from, to), times e^w of its pair with place p: the sums. */
@inline function sumRing(p: i32, from: i32, to: i32): void {
  ringA = splat(0)
  ringB = splat(0)
  const i = from % s, count = to - from, turn = min(count, s - i)
  // e^w goes up by place in a table; in taps, vectors of four channels, from key to key it comes down, from query to query it goes up.
  if (bias == TABLE) {
    addTable(scratch + (<usize>i << 5), turn, weightsAt())
    addTable(scratch, count - turn, weightsAt() + (<usize>turn << 2))
  } else {
    const step: isize = p < from ? 16 : p > from ? -16 : to > from + 1 ? 16 : 0
    const begin = weightsAt() + (<usize>(p < from ? from - p : p - from) << 4)
    addTaps(scratch + (<usize>i << 5), turn, begin, step)
    addTaps(scratch, count - turn, begin + <isize>turn * step, step)
  }
}

@inline function addTable(at: usize, count: i32, weights: usize): void {
  let a = ringA, b = ringB
  for (const end = at + (<usize>count << 5); at < end; at += 32, weights += 4) {
    const e = v128.load32_splat(weights)
    a = madd(e, v128.load(at), a)
    b = madd(e, v128.load(at, 16), b)
  }
  ringA = a
  ringB = b
}

@inline function addTaps(at: usize, count: i32, weights: usize, step: isize): void {
  let a = ringA, b = ringB
  for (const end = at + (<usize>count << 5); at < end; at += 32, weights += step) {
    const e = v128.load(weights)
    a = madd(e, v128.load(at), a)
    b = madd(e, v128.load(at, 16), b)
  }
  ringA = a
  ringB = b
}

// ---- forward ------------------------------------------------------------------------------------------------------------------------

/** A task is four channels of a row of the batch. */
export function aft(begin: i32, end: i32, k: usize, v: usize, weights: usize, placesOfAll: usize, y: usize, lse: usize, rows: i32, before: i32,
  channels: i32, window: i32, onlyPast: i32, kind: i32, side: i32): void {
  setCall(rows, before, channels, window, onlyPast, kind, side, weights)
  const blocks = (D + 3) >> 2
  for (let task = begin; task < end; task++) {
    const b = task / blocks, c = (task - b * blocks) << 2
    places = placesOfAll + (<usize>(b * n) << 2)
    const keys = <usize>(b * n * D + c) << 2, queries = <usize>(b * (n - past) * D + c) << 2
    const left = min(4, D - c)
    if (causal) readPast(k + keys, v + keys, y + queries, lse + queries, c, left)
    else {
      sumsAhead(k + keys, v + keys, y + queries, lse + queries, left)
      readAll(k + keys, v + keys, y + queries, lse + queries, left, c)
    }
  }
}

/** Of a causal sequence. */
function readPast(k: usize, v: usize, y: usize, lse: usize, c: i32, left: i32): void {
  const stride = <usize>D << 2
  // Rows from `old` on are in the window; their places, padding aside, go up by one from row to row.
  let old = 0, begun = false
  tapWeights(c, left)
  for (let t = 0; t < n; t++) {
    const p = place(t)
    const to = <usize>(t - past) * stride
    if (p < 0) {
      if (t < past) continue
      vstore(y + to, splat(0), left)
      vstore(lse + to, splat(0), left)
      continue
    }
    if (p == 0 || !begun) {
      clear()
      ringTop = splat(EMPTY)
      old = t
      begun = true
    }
    for (; old <= t && (place(old) < 0 || p - place(old) >= s); old++) {
      if (place(old) >= 0) absorb(vload(k + <usize>old * stride, left), vload(v + <usize>old * stride, left), splat(1))
    }
    const lowest = old <= t ? place(old) : p + 1
    if (old <= t) {
      const e = enter(vload(k + <usize>t * stride, left), lowest, p), at = slot(p)
      v128.store(at, e, 16)
      v128.store(at, f32x4.mul(e, vload(v + <usize>t * stride, left)))
    }
    if (t < past) continue
    if (!windowWeights(p, lowest, p + 1, true)) {
      readPairs(k, v, y + to, lse + to, p, old, t + 1, m, c, left)
      continue
    }
    const top = f32x4.max(m, ringTop), fade = exp(f32x4.sub(m, top))
    let num = f32x4.mul(fade, sumA), den = f32x4.mul(fade, sumB)
    if (old <= t) {
      sumRing(p, lowest, p + 1)
      const own = exp(f32x4.sub(ringTop, top))
      num = madd(own, ringA, num)
      den = madd(own, ringB, den)
    }
    vstore(y + to, f32x4.div(num, den), left)
    vstore(lse + to, f32x4.add(top, log(den)), left)
  }
}

/** The running sums, taken from the maximum `top` at least, and the keys of the rows [old, ahead), pair by pair. */
@inline function readPairs(k: usize, v: usize, y: usize, lse: usize, p: i32, old: i32, ahead: i32, least: v128, c: i32, left: i32): void {
  const stride = <usize>D << 2
  let top = least
  for (let j = old; j < ahead; j++) {
    if (place(j) >= 0) top = f32x4.max(top, f32x4.add(vload(k + <usize>j * stride, left), weight(p, place(j), c, left)))
  }
  let fade = exp(f32x4.sub(m, top))
  let num = f32x4.mul(fade, sumA), den = f32x4.mul(fade, sumB)
  if (!causal) {
    fade = exp(f32x4.sub(vload(lse, left), top))
    num = madd(fade, vload(y, left), num)
    den = f32x4.add(den, fade)
  }
  for (let j = old; j < ahead; j++) {
    if (place(j) < 0) continue
    const e = exp(f32x4.sub(f32x4.add(vload(k + <usize>j * stride, left), weight(p, place(j), c, left)), top))
    num = madd(e, vload(v + <usize>j * stride, left), num)
    den = f32x4.add(den, e)
  }
  vstore(y, f32x4.div(num, den), left)
  vstore(lse, f32x4.add(top, log(den)), left)
}

/** Into y and lse of each query, what it sees beyond the window ahead of it: the mean of the values and the exponent. */
function sumsAhead(k: usize, v: usize, y: usize, lse: usize, left: i32): void {
  const stride = <usize>D << 2
  let next = n - 1, begun = false
  clear()
  for (let t = n - 1; t >= 0; t--) {
    const p = place(t)
    if (p < 0) continue
    if (begun) {
      clear()
      next = t
    }
    for (; next > t && (place(next) < 0 || place(next) - p >= s); next--) {
      if (place(next) >= 0) absorb(vload(k + <usize>next * stride, left), vload(v + <usize>next * stride, left), splat(1))
    }
    const some = f32x4.gt(m, splat(EMPTY))
    vstore(y + <usize>t * stride, v128.and(some, f32x4.div(sumA, sumB)), left)
    vstore(lse + <usize>t * stride, v128.bitselect(f32x4.add(m, log(sumB)), splat(EMPTY), some), left)
    begun = p == 0
  }
}

/** Of a sequence whose queries see what's ahead, too. */
function readAll(k: usize, v: usize, y: usize, lse: usize, left: i32, c: i32): void {
  const stride = <usize>D << 2
  let old = 0
  clear()
  for (let t = 0; t < n; t++) {
    const p = place(t)
    const to = <usize>(t - past) * stride
    if (p < 0) {
      if (t < past) continue
      vstore(y + to, splat(0), left)
      vstore(lse + to, splat(0), left)
      continue
    }
    if (p == 0) {
      clear()
      old = t
    }
    for (; old <= t && (place(old) < 0 || p - place(old) >= s); old++) {
      if (place(old) >= 0) absorb(vload(k + <usize>old * stride, left), vload(v + <usize>old * stride, left), splat(1))
    }
    if (t < past) continue
    let ahead = t + 1
    while (ahead < n && place(ahead) != 0 && place(ahead) - p < s) ahead++
    readPairs(k, v, y + to, lse + to, p, old, ahead, f32x4.max(m, vload(lse + to, left)), c, left)
  }
}

// ---- backward: with g = dy and r = dlse - dy y, dv_j = sum_t p_tj g_t, dk_j = sum_t p_tj (g_t v_j + r_t) --------------------------------------

let y: usize = 0, lse: usize = 0, dy: usize = 0, dlse: usize = 0

@inline function cotangent(at: usize, left: i32): v128 {
  const r = f32x4.neg(f32x4.mul(vload(dy + at, left), vload(y + at, left)))
  return dlse ? f32x4.add(r, vload(dlse + at, left)) : r
}

@inline function absorbQuery(at: usize, left: i32): void {
  absorb(f32x4.neg(vload(lse + at, left)), vload(dy + at, left), cotangent(at, left))
}

/** A task is four channels of a row of the batch. */
export function aftBackward(begin: i32, end: i32, k: usize, v: usize, weights: usize, placesOfAll: usize, ys: usize, lses: usize, dys: usize,
  dlses: usize, dk: usize, dv: usize, rows: i32, before: i32, channels: i32, window: i32, onlyPast: i32, kind: i32, side: i32): void {
  setCall(rows, before, channels, window, onlyPast, kind, side, weights)
  const blocks = (D + 3) >> 2
  for (let task = begin; task < end; task++) {
    const b = task / blocks, c = (task - b * blocks) << 2
    const keys = <usize>(b * n * D + c) << 2
    setQueries(b, c, placesOfAll, ys, lses, dys, dlses)
    const left = min(4, D - c)
    gradients(k + keys, v + keys, dk + keys, dv + keys, c, left)
    if (!causal) addFromBehind(k + keys, v + keys, dk + keys, dv + keys, left)
  }
}

/** Row 0 of the batch's row b, so that row t of the keys is row t of these, too. */
function setQueries(b: i32, c: i32, placesOfAll: usize, ys: usize, lses: usize, dys: usize, dlses: usize): void {
  const queries = <usize>((b * (n - past) - past) * D + c) << 2
  places = placesOfAll + (<usize>(b * n) << 2)
  y = ys + queries
  lse = lses + queries
  dy = dys + queries
  dlse = dlses ? dlses + queries : 0
}

/** Adds to the gradients of a key what the queries of the running sums give it. */
@inline function collect(k: usize, v: usize, dk: v128, dv: v128, toK: usize, toV: usize, left: i32): void {
  const e = exp(f32x4.add(vload(k, left), m))
  vstore(toV, madd(e, sumA, dv), left)
  vstore(toK, madd(e, madd(vload(v, left), sumA, sumB), dk), left)
}

/** dk and dv from the queries of the window and from all later ones. */
function gradients(k: usize, v: usize, dk: usize, dv: usize, c: i32, left: i32): void {
  const stride = <usize>D << 2
  let next = n - 1, begun = false
  clear()
  ringTop = splat(EMPTY)
  if (causal) tapWeights(c, left)
  for (let j = n - 1; j >= 0; j--) {
    const r = place(j)
    const at = <usize>j * stride
    if (r < 0) {
      vstore(dk + at, splat(0), left)
      vstore(dv + at, splat(0), left)
      continue
    }
    if (begun) {
      clear()
      ringTop = splat(EMPTY)
      next = j
    }
    const far = causal ? s : max(s, 1)
    for (; next >= j && (place(next) < 0 || place(next) - r >= far); next--) {
      if (place(next) >= 0 && next >= past) absorbQuery(<usize>next * stride, left)
    }
    const key = vload(k + at, left), value = vload(v + at, left)
    let dkj = splat(0), dvj = splat(0)
    // Queries of the window, at the places [first, last]; of those before `past` there are none.
    const last = next >= j ? place(next) : r - 1
    if (causal && j >= past && last >= r) {
      const e = enter(f32x4.neg(vload(lse + at, left)), r + 1, last + 1)
      v128.store(slot(r), f32x4.mul(e, cotangent(at, left)), 16)
      v128.store(slot(r), f32x4.mul(e, vload(dy + at, left)))
    }
    const first = j >= past ? r : firstQuery(next)
    if (causal && windowWeights(r, first, last + 1, false)) {
      if (first <= last) {
        sumRing(r, first, last + 1)
        const e = exp(f32x4.add(key, ringTop))
        dvj = f32x4.mul(e, ringA)
        dkj = f32x4.mul(e, madd(value, ringA, ringB))
      }
    } else {
      for (let t = causal ? max(j, past) : windowBegin(j, r); t <= next; t++) {
        const p = place(t)
        if (p < 0) continue
        const from = <usize>t * stride
        const e = exp(f32x4.sub(f32x4.add(key, weight(p, r, c, left)), vload(lse + from, left)))
        const g = vload(dy + from, left)
        dvj = madd(e, g, dvj)
        dkj = madd(e, madd(value, g, cotangent(from, left)), dkj)
      }
    }
    collect(k + at, v + at, dkj, dvj, dk + at, dv + at, left)
    begun = r == 0
  }
}

/** The place of the first query among the rows up to `next` of a sequence that began before `past`; beyond theirs where there's none. */
function firstQuery(next: i32): i32 {
  for (let t = past; t <= next; t++) if (place(t) >= 0) return place(t)
  return i32.MAX_VALUE
}

/** ... and from the earlier ones beyond the window, where queries see what's ahead of them. */
function addFromBehind(k: usize, v: usize, dk: usize, dv: usize, left: i32): void {
  const stride = <usize>D << 2
  let old = 0
  clear()
  for (let j = 0; j < n; j++) {
    const r = place(j)
    if (r < 0) continue
    if (r == 0) {
      clear()
      old = j
    }
    for (; old < j && (place(old) < 0 || r - place(old) >= s); old++) {
      if (place(old) >= 0) absorbQuery(<usize>old * stride, left)
    }
    const at = <usize>j * stride
    collect(k + at, v + at, vload(dk + at, left), vload(dv + at, left), dk + at, dv + at, left)
  }
}

// ---- backward of the bias: dw_tj = p_tj (dy_t (v_j - y_t) + dlse_t), summed over what shares it ---------------------------------------------------

/** The first row of the window of the query at row t, place p. */
function windowBegin(t: i32, p: i32): i32 {
  let first = t
  for (let j = t - 1, at = p; j >= 0 && at > 0; j--) {
    const r = place(j)
    if (r < 0) continue
    if (p - r >= s) break
    first = j
    at = r
  }
  return first
}

@inline function windowEnd(t: i32, p: i32): i32 {
  let ahead = t + 1
  if (!causal) while (ahead < n && place(ahead) != 0 && place(ahead) - p < s) ahead++
  return ahead
}

@inline function pairGradient(t: usize, key: usize, value: usize, bias: v128, left: i32): v128 {
  const e = exp(f32x4.sub(f32x4.add(vload(key, left), bias), vload(lse + t, left)))
  return f32x4.mul(e, madd(vload(value, left), vload(dy + t, left), cotangent(t, left)))
}

/** Of taps: a task is four channels. */
export function aftTapsBackward(begin: i32, end: i32, k: usize, v: usize, weights: usize, placesOfAll: usize, ys: usize, lses: usize, dys: usize,
  dlses: usize, dw: usize, B: i32, rows: i32, before: i32, channels: i32, window: i32, onlyPast: i32, kind: i32, side: i32): void {
  setCall(rows, before, channels, window, onlyPast, kind, side, weights)
  const stride = <usize>D << 2
  const taps = causal ? s : 2 * s - 1
  for (let task = begin; task < end; task++) {
    const c = task << 2, left = min(4, D - c)
    for (let i = 0; i < taps; i++) vstore(dw + (<usize>(i * D + c) << 2), splat(0), left)
    tapWeights(c, left)
    for (let b = 0; b < B; b++) {
      setQueries(b, c, placesOfAll, ys, lses, dys, dlses)
      const keys = <usize>(b * n * D + c) << 2
      let entered = 0
      for (let t = past; t < n; t++) {
        const p = place(t)
        if (p < 0) continue
        const first = windowBegin(t, p), at = <usize>t * stride
        if (!causal || !tapsAreSmall) {
          for (let j = first, last = windowEnd(t, p); j < last; j++) {
            const r = place(j)
            if (r < 0) continue
            const from = keys + <usize>j * stride, to = dw + (<usize>(tapOf(p, r) * D + c) << 2)
            vstore(to, f32x4.add(vload(to, left), pairGradient(at, k + from, v + from, weight(p, r, c, left), left)), left)
          }
          continue
        }
        if (first >= entered) {
          ringTop = splat(EMPTY)
          entered = first
        }
        const lowest = place(first)
        for (; entered <= t; entered++) {
          const r = place(entered), from = keys + <usize>entered * stride
          if (r < 0) continue
          const e = enter(vload(k + from, left), lowest, r)
          v128.store(slot(r), e, 16)
          v128.store(slot(r), f32x4.mul(e, vload(v + from, left)))
        }
        const h = exp(f32x4.sub(ringTop, vload(lse + at, left)))
        const g = f32x4.mul(h, vload(dy + at, left)), rest = f32x4.mul(h, cotangent(at, left))
        for (let r = lowest; r <= p; r++) {
          const from = slot(r), to = dw + (<usize>((p - r) * D + c) << 2), e = v128.load(weightsAt() + (<usize>(p - r) << 4))
          const both = madd(v128.load(from), g, f32x4.mul(v128.load(from, 16), rest))
          vstore(to, madd(e, both, vload(to, left)), left)
        }
      }
    }
  }
}

/** Rows of a table that a task takes: the ring begins anew with each, so that what a row gets doesn't depend on who does the others. */
const ROWS = 32

/** Of a table: a task is ROWS of its rows, the biases of the queries at a place; the last row's are those of all later places, too. */
export function aftTableBackward(begin: i32, end: i32, k: usize, v: usize, weights: usize, placesOfAll: usize, ys: usize, lses: usize, dys: usize,
  dlses: usize, dw: usize, B: i32, rows: i32, before: i32, channels: i32, window: i32, onlyPast: i32, kind: i32, side: i32): void {
  setCall(rows, before, channels, window, onlyPast, kind, side, weights)
  for (let task = begin; task < end; task++) tableRows(task * ROWS, min(N, (task + 1) * ROWS), k, v, placesOfAll, ys, lses, dys, dlses, dw, B)
}

function tableRows(begin: i32, end: i32, k: usize, v: usize, placesOfAll: usize, ys: usize, lses: usize, dys: usize, dlses: usize, dw: usize, B: i32): void {
  const stride = <usize>D << 2
  // A ring of all channels: at a place modulo s, the channels' e^k v and after them their e^k. Behind it e^w; each channel's maximum; the query's numbers.
  const padded = (D + 3) & ~3, row = <usize>padded << 2, each = row << 1
  const into = scratch + <usize>s * each, tops = into + (<usize>(s + 4) << 2), query = tops + row
  memory.fill(dw + (<usize>begin * <usize>N << 2), 0, <usize>(end - begin) * <usize>N << 2)
  for (let b = 0; b < B; b++) {
    setQueries(b, 0, placesOfAll, ys, lses, dys, dlses)
    const keys = <usize>(b * n * D) << 2
    let entered = 0
    for (let t = past; t < n; t++) {
      const p = place(t)
      const own = min(p, N - 1)
      if (own < begin || own >= end) continue
      const first = windowBegin(t, p), at = <usize>t * stride
      const lowest = place(first)
      const small = causal && windowWeights(p, lowest, p + 1, true, into)
      if (!small) {
        for (let j = first, last = windowEnd(t, p); j < last; j++) {
          const r = place(j)
          if (r < 0) continue
          const from = keys + <usize>j * stride, to = dw + (<usize>tableOf(p, r) << 2)
          let sum = splat(0)
          for (let c = 0; c < D; c += 4) {
            const o = <usize>c << 2, left = min(4, D - c)
            // A channel that isn't there may have overflowed.
            sum = f32x4.add(sum, firstLanes(pairGradient(at + o, k + from + o, v + from + o, weight(p, r, c, left), left), left, splat(0)))
          }
          store<f32>(to, load<f32>(to) + sumLanes(sum))
        }
        continue
      }
      if (first >= entered) {
        for (let c = 0; c < D; c += 4) v128.store(tops + (<usize>c << 2), splat(EMPTY))
        entered = first
      }
      for (; entered <= t; entered++) {
        const r = place(entered)
        if (r >= 0) enterAll(k + keys + <usize>entered * stride, v + keys + <usize>entered * stride, r, lowest, row, tops)
      }
      for (let c = 0; c < D; c += 4) {
        const o = <usize>c << 2, left = min(4, D - c)
        const h = exp(f32x4.sub(v128.load(tops + o), vload(lse + at + o, left)))
        v128.store(query + o, f32x4.mul(h, vload(dy + at + o, left)))
        v128.store(query + row + o, f32x4.mul(h, cotangent(at + o, left)))
      }
      let to = dw + (<usize>tableOf(p, lowest) << 2)
      for (let r = lowest; r <= p; r++) {
        const from = scratch + <usize>(r % s) * each
        let sum = splat(0)
        for (let o: usize = 0; o < row; o += 16) {
          sum = madd(v128.load(from + o), v128.load(query + o), sum)
          sum = madd(v128.load(from + row + o), v128.load(query + row + o), sum)
        }
        store<f32>(to, load<f32>(to) + load<f32>(into + (<usize>(r - lowest) << 2)) * sumLanes(sum))
        to += 4
      }
    }
  }
}

/** `enter`, for all channels of a key. */
function enterAll(k: usize, v: usize, r: i32, lowest: i32, row: usize, tops: usize): void {
  const each = row << 1, at = scratch + <usize>(r % s) * each
  for (let c = 0; c < D; c += 4) {
    const o = <usize>c << 2, left = min(4, D - c)
    const key = vload(k + o, left), before = v128.load(tops + o)
    const top = f32x4.max(before, key)
    if (v128.any_true(f32x4.ne(top, before))) {
      const fade = exp(f32x4.sub(before, top))
      for (let other = lowest; other < r; other++) {
        const there = scratch + <usize>(other % s) * each + o
        v128.store(there, f32x4.mul(fade, v128.load(there)))
        v128.store(there + row, f32x4.mul(fade, v128.load(there + row)))
      }
      v128.store(tops + o, top)
    }
    const e = exp(f32x4.sub(key, top))
    v128.store(at + o, f32x4.mul(e, vload(v + o, left)))
    v128.store(at + row + o, e)
  }
}
