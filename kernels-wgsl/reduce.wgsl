// Reductions over the middle axis of [outer, n, inner]. A long axis is cut into `parts` of `length` elements, reduced on their own and then
// once more: the cut depends on the sizes alone, so that every sum has one order. max is NaN if one element is, -inf over nothing.
// Pinned by test/ops/webgpu.test.ts.

struct Params {
  op: u32,     // 0: sum, 1: max, 2: sum of squares
  outer: u32,
  n: u32,
  inner: u32,
  parts: u32,
  length: u32,
  lanes: u32,
  reverse: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

/// Of x[at], x[at + step], ... before `end`.
fn joined(at: u32, end: u32, step: u32) -> f32 {
  var total = select(0.0, -infinity(), p.op == 1u);
  if (p.op == 0u) {
    for (var i = at; i < end; i += step) { total += x[i]; }
  } else if (p.op == 1u) {
    for (var i = at; i < end; i += step) { total = maxOf(total, x[i]); }
  } else {
    for (var i = at; i < end; i += step) { total += x[i] * x[i]; }
  }
  return total;
}

// inner = 1: y[o, part] over x[o, part * length ..]; `lanes` threads a part.
@compute @workgroup_size(THREADS) fn reduceRows(g: Group) {
  let rows = THREADS / p.lanes;
  let row = groupOf(g) * rows + g.thread / p.lanes;
  var total = select(0.0, -infinity(), p.op == 1u);
  if (row < p.outer * p.parts) {
    let o = row / p.parts;
    let first = (row - o * p.parts) * p.length;
    let end = min(first + p.length, p.n);
    total = joined(o * p.n + first + (g.thread & (p.lanes - 1u)), o * p.n + end, p.lanes);
  }
  if (p.op == 1u) { total = maxLanes(total, g.thread, p.lanes); } else { total = sumLanes(total, g.thread, p.lanes); }
  if (row < p.outer * p.parts && (g.thread & (p.lanes - 1u)) == 0u) { y[row] = total; }
}

// y[o, part, i] over x[o, part * length .., i]; a thread a column.
@compute @workgroup_size(THREADS) fn reduceColumns(g: Group) {
  let at = groupOf(g) * THREADS + g.thread;
  if (at >= p.outer * p.parts * p.inner) { return; }
  let row = at / p.inner;
  let i = at - row * p.inner;
  let o = row / p.parts;
  let first = (row - o * p.parts) * p.length;
  let end = min(first + p.length, p.n);
  y[at] = joined((o * p.n + first) * p.inner + i, (o * p.n + end) * p.inner, p.inner);
}

const COLUMNS = 8u;
const LANES = 32u;
var<workgroup> columnValues: array<f32, 256>;

// y[o, i] over x[o, .., i]: COLUMNS columns a workgroup, each of which LANES threads share.
@compute @workgroup_size(256) fn reduceColumnsAtOnce(g: Group) {
  let blocks = (p.inner + COLUMNS - 1u) / COLUMNS;
  let o = groupOf(g) / blocks;
  let i = groupOf(g) % blocks * COLUMNS + g.thread % COLUMNS;
  let lane = g.thread / COLUMNS;
  let inside = o < p.outer && i < p.inner;
  var total = select(0.0, -infinity(), p.op == 1u);
  if (inside) { total = joined((o * p.n + lane) * p.inner + i, (o + 1u) * p.n * p.inner, LANES * p.inner); }
  columnValues[g.thread] = total;
  for (var half = LANES / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) {
      let other = columnValues[g.thread + half * COLUMNS];
      total = select(total + other, maxOf(total, other), p.op == 1u);
      columnValues[g.thread] = total;
    }
  }
  if (inside && lane == 0u) { y[o * p.inner + i] = total; }
}

// y[o, j, i] = sum of x[o, 0..=j, i] (of x[o, j..n, i] if `reverse`); a thread a column. What rounding took from the sum is kept and given back
// (Kahan 1965), as far as the compiler leaves it alone.
@compute @workgroup_size(THREADS) fn cumsumColumns(g: Group) {
  let column = groupOf(g) * THREADS + g.thread;
  if (column >= p.outer * p.inner) { return; }
  let o = column / p.inner;
  let base = o * p.n * p.inner + (column - o * p.inner);
  var total = 0.0;
  var lost = 0.0;
  for (var j = 0u; j < p.n; j++) {
    let at = base + select(j, p.n - 1u - j, p.reverse == 1u) * p.inner;
    let value = x[at] - lost;
    let next = total + value;
    lost = select((next - total) - value, 0.0, isInfinite(next));
    total = next;
    y[at] = total;
  }
}

var<workgroup> scan: array<f32, THREADS>;

// The same for inner = 1: a workgroup a row, THREADS elements at a time (Hillis & Steele 1986).
@compute @workgroup_size(THREADS) fn cumsumRows(g: Group) {
  let row = groupOf(g);
  let lane = g.thread;
  var carry = 0.0;
  for (var first = 0u; first < p.n; first += THREADS) {
    let j = first + lane;
    let at = row * p.n + select(j, p.n - 1u - j, p.reverse == 1u);
    let inside = row < p.outer && j < p.n;
    var value = 0.0;
    if (inside) { value = x[at]; }
    scan[lane] = value;
    for (var step = 1u; step < THREADS; step <<= 1u) {
      workgroupBarrier();
      var before = 0.0;
      if (lane >= step) { before = scan[lane - step]; }
      workgroupBarrier();
      if (lane >= step) { scan[lane] += before; }
    }
    workgroupBarrier();
    if (inside) { y[at] = carry + scan[lane]; }
    carry += scan[THREADS - 1u];
    workgroupBarrier();
  }
}
