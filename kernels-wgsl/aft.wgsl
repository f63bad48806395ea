// The attention free transformer's softmax over time, channel by channel (Zhai 2021, eq. 2-4): y_t = sum_j p_tj v_j, p_tj = exp(k_j + w_tj - lse_t).
//
// Pairs less than `window` places apart, and those alone, have a bias: a thread a token and channel takes them one by one. The others are running sums, which a
// thread a channel and row of the batch carries along: forward over keys (of e^(k - m) and e^(k - m) v, m the largest k so far), backward over queries (of
// e^(-lse - m) dy and e^(-lse - m) r, m the largest -lse; r = dlse - dy y).
//
// Layout: k, v [B,n,D]; y, lse, dy, dlse [B,n-past,D], the last rows; places [B,n]: a row's place in its sequence, below 0 where it isn't there, 0 where a sequence
// begins. w: a table [N,N] by the places of query and key, or taps [S,D] by their distance. A row that a query doesn't see takes no part in its
// arithmetic. Pinned by test/ops/aft.test.ts, webgpu.test.ts.

const NONE = 0u;
const TABLE = 1u;
/// The exponent of a sum of nothing.
const EMPTY = -3.0e38;

struct Params {
  B: i32,
  rows: i32, // n
  past: i32,
  D: i32,
  window: i32,
  causal: u32,
  bias: u32,
  N: i32,
  taps: i32,       // distances that have a bias
  cotangents: u32, // whether there is a dlse
  n: u32,          // elements
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read> w: array<f32>;
@group(0) @binding(4) var<storage, read> places: array<i32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(6) var<storage, read_write> lse: array<f32>;
@group(0) @binding(7) var<storage, read> yIn: array<f32>;
@group(0) @binding(8) var<storage, read> lseIn: array<f32>;
@group(0) @binding(9) var<storage, read> dy: array<f32>;
@group(0) @binding(10) var<storage, read> dlse: array<f32>;
/// lse, dy and r, each [B,n-past,D]: three bindings would be too many.
@group(0) @binding(11) var<storage, read_write> queries: array<f32>;
@group(0) @binding(12) var<storage, read> queriesIn: array<f32>;
@group(0) @binding(13) var<storage, read_write> dk: array<f32>;
@group(0) @binding(14) var<storage, read_write> dv: array<f32>;
@group(0) @binding(15) var<storage, read_write> dw: array<f32>;
@group(0) @binding(16) var<storage, read> pairs: array<f32>;

/// A channel of a row of the batch.
var<private> b: i32;
var<private> c: i32;

fn place(row: i32) -> i32 { return places[b * p.rows + row]; }
fn keyAt(row: i32) -> i32 { return (b * p.rows + row) * p.D + c; }
fn queryAt(row: i32) -> i32 { return (b * (p.rows - p.past) + row - p.past) * p.D + c; }

/// How far the key at place r lies from the query at place q, from 0.
fn tapOf(q: i32, r: i32) -> i32 { return q - r + select(p.window - 1, 0, p.causal == 1u); }

// The builtins are left to unsigned integers, so that none of floats, which may lose a NaN, slips in.
fn larger(a: i32, b: i32) -> i32 { return select(a, b, b > a); }
fn smaller(a: i32, b: i32) -> i32 { return select(a, b, b < a); }

fn exponent(q: i32, row: i32) -> f32 {
  let x = k[keyAt(row)];
  if (p.bias == NONE) { return x; }
  if (p.bias == TABLE) {
    // Beyond the last place of the table the last row counts, by distance.
    let beyond = larger(q - (p.N - 1), 0);
    return x + w[(q - beyond) * p.N + place(row) - beyond];
  }
  return x + w[tapOf(q, place(row)) * p.D + c];
}

/// The first row of the window of the row at place q, and the one behind its last.
fn windowBegin(row: i32, q: i32) -> i32 {
  var first = row;
  var at = q;
  for (var j = row - 1; j >= 0 && at > 0; j--) {
    let r = place(j);
    if (r < 0) { continue; }
    if (q - r >= p.window) { break; }
    first = j;
    at = r;
  }
  return first;
}

fn windowEnd(row: i32, q: i32) -> i32 {
  var end = row + 1;
  while (end < p.rows) {
    let r = place(end);
    if (r == 0 || r - q >= p.window) { break; }
    end++;
  }
  return end;
}

// ---- running sums ------------------------------------------------------------------------------------------------------------------

struct Sums {
  m: f32,
  a: f32,
  b: f32,
}

fn none() -> Sums { return Sums(EMPTY, 0.0, 0.0); }

fn absorb(s: Sums, x: f32, a: f32, b: f32) -> Sums {
  let m = maxOf(s.m, x);
  let fade = expOf(s.m - m);
  let e = expOf(x - m);
  return Sums(m, fade * s.a + e * a, fade * s.b + e * b);
}

fn absorbKey(s: Sums, row: i32) -> Sums { return absorb(s, k[keyAt(row)], v[keyAt(row)], 1.0); }

/// What a query hands to the keys that it sees.
struct Query {
  lse: f32,
  dy: f32,
  r: f32,
}

fn queryOf(row: i32) -> Query {
  let at = queryAt(row);
  let size = p.B * (p.rows - p.past) * p.D;
  return Query(queriesIn[at], queriesIn[size + at], queriesIn[2 * size + at]);
}

fn absorbQuery(s: Sums, row: i32) -> Sums {
  let query = queryOf(row);
  return absorb(s, -query.lse, query.dy, query.r);
}

/// The channel of this thread, of B D; false beyond them.
fn takeChannel(g: Group) -> bool {
  let at = i32(groupOf(g) * THREADS + g.thread);
  b = at / p.D;
  c = at % p.D;
  return b < p.B;
}

/// Element i of [B, count, D]: its row, with its channel taken.
fn takeRow(i: u32, count: i32) -> i32 {
  c = i32(i) % p.D;
  let row = i32(i) / p.D;
  b = row / count;
  return row % count;
}

// ---- forward -------------------------------------------------------------------------------------------------------------------------

// y and lse of each query: the mean of the values that it sees beyond its window, and their exponent. A thread a channel.
@compute @workgroup_size(THREADS) fn outside(g: Group) {
  if (!takeChannel(g)) { return; }
  var s = none();
  var old = 0;
  for (var t = 0; t < p.rows; t++) {
    let q = place(t);
    if (q < 0) { continue; }
    if (q == 0) {
      s = none();
      old = t;
    }
    while (old <= t && (place(old) < 0 || q - place(old) >= p.window)) {
      if (place(old) >= 0) { s = absorbKey(s, old); }
      old++;
    }
    if (t < p.past) { continue; }
    y[queryAt(t)] = s.a;
    lse[queryAt(t)] = s.m;
    // Not 0 once there is a key; it may be NaN.
    if (bitcast<u32>(s.b) != 0u) {
      y[queryAt(t)] = s.a / s.b;
      lse[queryAt(t)] = s.m + logOf(s.b);
    }
  }
  if (p.causal == 1u) { return; }
  s = none();
  var next = p.rows - 1;
  var begun = false;
  for (var t = p.rows - 1; t >= 0; t--) {
    let q = place(t);
    if (q < 0) { continue; }
    if (begun) {
      s = none();
      next = t;
    }
    while (next > t && (place(next) < 0 || place(next) - q >= p.window)) {
      if (place(next) >= 0) { s = absorbKey(s, next); }
      next--;
    }
    begun = q == 0;
    if (bitcast<u32>(s.b) == 0u) { continue; }
    let both = absorb(s, lse[queryAt(t)], y[queryAt(t)], 1.0);
    y[queryAt(t)] = both.a / both.b;
    lse[queryAt(t)] = both.m + logOf(both.b);
  }
}

// The keys of the window join them. A thread an element; n = B (rows - past) D.
@compute @workgroup_size(THREADS) fn inside(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) {
    let t = takeRow(i, p.rows - p.past) + p.past;
    let q = place(t);
    if (q < 0) {
      y[i] = 0.0;
      lse[i] = 0.0;
      continue;
    }
    // Without a window the query's own key is outside, too.
    if (p.window == 0) { continue; }
    let first = windowBegin(t, q);
    var last = t + 1;
    if (p.causal == 0u) { last = windowEnd(t, q); }
    var top = lse[i];
    for (var j = first; j < last; j++) {
      if (place(j) >= 0) { top = maxOf(top, exponent(q, j)); }
    }
    var den = expOf(lse[i] - top);
    var num = den * y[i];
    for (var j = first; j < last; j++) {
      if (place(j) < 0) { continue; }
      let e = expOf(exponent(q, j) - top);
      num += e * v[keyAt(j)];
      den += e;
    }
    y[i] = num / den;
    lse[i] = top + logOf(den);
  }
}

// ---- backward: dv_j = sum_t p_tj dy_t, dk_j = sum_t p_tj (dy_t v_j + r_t) ----------------------------------------------------------------

// lse, dy and r. A thread an element; n = B (rows - past) D.
@compute @workgroup_size(THREADS) fn cotangents(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) {
    var r = -(dy[i] * yIn[i]);
    if (p.cotangents == 1u) { r += dlse[i]; }
    queries[i] = lseIn[i];
    queries[p.n + i] = dy[i];
    queries[2u * p.n + i] = r;
  }
}

fn addFar(row: i32, s: Sums) {
  let at = keyAt(row);
  let e = expOf(k[at] + s.m);
  dv[at] += e * s.a;
  dk[at] += e * (v[at] * s.a + s.b);
}

// From the queries beyond the window. A thread a channel; dk and dv hold zeros.
@compute @workgroup_size(THREADS) fn outsideBackward(g: Group) {
  if (!takeChannel(g)) { return; }
  let far = select(larger(p.window, 1), p.window, p.causal == 1u);
  var s = none();
  var next = p.rows - 1;
  var begun = false;
  for (var j = p.rows - 1; j >= 0; j--) {
    let r = place(j);
    if (r < 0) { continue; }
    if (begun) {
      s = none();
      next = j;
    }
    while (next >= j && (place(next) < 0 || place(next) - r >= far)) {
      if (place(next) >= 0 && next >= p.past) { s = absorbQuery(s, next); }
      next--;
    }
    addFar(j, s);
    begun = r == 0;
  }
  if (p.causal == 1u) { return; }
  s = none();
  var old = 0;
  for (var j = 0; j < p.rows; j++) {
    let r = place(j);
    if (r < 0) { continue; }
    if (r == 0) {
      s = none();
      old = j;
    }
    while (old < j && (place(old) < 0 || r - place(old) >= p.window)) {
      if (place(old) >= 0) { s = absorbQuery(s, old); }
      old++;
    }
    addFar(j, s);
  }
}

// ... and from those of the window. A thread an element; n = B rows D.
@compute @workgroup_size(THREADS) fn insideBackward(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) {
    let j = takeRow(i, p.rows);
    let r = place(j);
    // Without a window the query's own key is outside where it's causal.
    if (r < 0 || (p.window == 0 && p.causal == 1u)) { continue; }
    var t = larger(j, p.past);
    if (p.causal == 0u) { t = windowBegin(j, r); }
    let last = windowEnd(j, r);
    for (; t < last; t++) {
      let q = place(t);
      if (q < 0) { continue; }
      let query = queryOf(t);
      let e = expOf(exponent(q, j) - query.lse);
      dv[i] += e * query.dy;
      dk[i] += e * (v[i] * query.dy + query.r);
    }
  }
}

// ---- backward of the bias: dw_tj = p_tj (dy_t v_j + r_t) ---------------------------------------------------------------------------------

fn pairGradient(t: i32, j: i32) -> f32 {
  let query = queryOf(t);
  return expOf(exponent(place(t), j) - query.lse) * (v[keyAt(j)] * query.dy + query.r);
}

/// The row of the window of row t at place q that lies at place r, or -1.
fn rowAt(t: i32, q: i32, r: i32) -> i32 {
  if (r < 0) { return -1; }
  var j = t;
  let step = select(-1, 1, r > q);
  while (place(j) != r) {
    j += step;
    if (j < 0 || j >= p.rows || (step == 1 && place(j) == 0)) { return -1; }
  }
  return j;
}

// dw[tap, c], over all tokens. A thread an element; n = taps D.
@compute @workgroup_size(THREADS) fn tapsBackward(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) {
    c = i32(i) % p.D;
    let distance = i32(i) / p.D - tapOf(0, 0);
    var total = 0.0;
    for (b = 0; b < p.B; b++) {
      for (var t = p.past; t < p.rows; t++) {
        let q = place(t);
        if (q < 0) { continue; }
        let j = rowAt(t, q, q - distance);
        if (j >= 0) { total += pairGradient(t, j); }
      }
    }
    dw[i] = total;
  }
}

// dw[b, t, tap], over all channels: THREADS threads a pair. n = B (rows - past) taps.
@compute @workgroup_size(THREADS) fn pairsBackward(g: Group) {
  let i = groupOf(g);
  let count = p.rows - p.past;
  let exists = i < p.n;
  let row = select(0, i32(i) / p.taps, exists);
  b = row / count;
  let t = row % count + p.past;
  let q = place(t);
  let distance = i32(i) % p.taps - tapOf(0, 0);
  var total = 0.0;
  if (exists && q >= 0) {
    let j = rowAt(t, q, q - distance);
    for (c = i32(g.thread); j >= 0 && c < p.D; c += i32(THREADS)) { total += pairGradient(t, j); }
  }
  total = sumLanes(total, g.thread, THREADS);
  if (exists && g.thread == 0u) { dw[i] = total; }
}

// dw[q, r] of the table, from the pairs; its last row is that of all later places, too. A thread an element; n = N N.
@compute @workgroup_size(THREADS) fn tableBackward(g: Group) {
  let end = elementsEnd(g, p.n);
  let count = p.rows - p.past;
  for (var i = firstElement(g); i < end; i += THREADS) {
    let q = i32(i) / p.N;
    let tap = tapOf(q, i32(i) % p.N);
    var total = 0.0;
    for (b = 0; tap >= 0 && tap < p.taps && b < p.B; b++) {
      for (var t = p.past; t < p.rows; t++) {
        if (smaller(place(t), p.N - 1) == q) { total += pairs[(b * count + t - p.past) * p.taps + tap]; }
      }
    }
    dw[i] = total;
  }
}
