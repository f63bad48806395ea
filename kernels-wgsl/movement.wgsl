// Copies between strided arrays, and rows of tables. PER_GROUP elements a workgroup; gatherBackward: a row of the table and PER_GROUP of its
// columns, for which all indices are searched, unless the table has many rows. Words are moved as u32, so that every bit pattern survives. Pinned by test/ops/webgpu.test.ts.

struct Params {
  n: u32,
  rank: u32,
  offsetX: i32,
  offsetY: i32,
  R: u32,
  N: u32,
  D: u32,
  offsetC: i32,
  half: u32, // of a table of pairs: see halfOf
  axes: array<vec4<i32>, 8>, // (size, stride of x, stride of y, -), outermost first; copyWhere: of the condition, and of x
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<u32>;
@group(0) @binding(3) var<storage, read> table: array<u32>;
@group(0) @binding(4) var<storage, read> index: array<u32>;
@group(0) @binding(5) var<storage, read> dy: array<f32>;
@group(0) @binding(6) var<storage, read_write> dtable: array<f32>;
@group(0) @binding(7) var<storage, read> condition: array<u32>;
@group(0) @binding(8) var<storage, read_write> order: array<u32>;
@group(0) @binding(9) var<storage, read> ordered: array<u32>;

/// Where element i lies by both strides of the axes.
fn strided(i: u32) -> vec2<i32> {
  var rest = i;
  var at = vec2(0, 0);
  for (var axis = p.rank; axis > 0u; axis--) {
    let s = p.axes[axis - 1u];
    let next = rest / u32(s.x);
    at += i32(rest - next * u32(s.x)) * s.yz;
    rest = next;
  }
  return at;
}

// y[offsetY + i . stridesY] = x[offsetX + i . stridesX]
@compute @workgroup_size(THREADS) fn copy(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) {
    let at = vec2(p.offsetX, p.offsetY) + strided(i);
    y[at.y] = x[at.x];
  }
}

// y[offsetY + i] = x[i] where condition[i] isn't 0
@compute @workgroup_size(THREADS) fn copyWhere(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) {
    let at = vec2(p.offsetC, p.offsetX) + strided(i);
    if (condition[at.x] != 0u) { y[u32(p.offsetY) + i] = x[at.y]; }
  }
}

// y[r, :] = table[index[r], :], r < R; n = R D
@compute @workgroup_size(THREADS) fn gather(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) {
    let r = i / p.D;
    y[i] = table[index[r] * p.D + (i - r * p.D)];
  }
}

// The same of a table of pairs of 16-bit numbers.
@compute @workgroup_size(THREADS) fn gatherHalf(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) {
    let r = i / p.D;
    let at = index[r] * p.D + (i - r * p.D);
    y[i] = bitcast<u32>(halfOf(p.half, table[at >> 1u], at & 1u));
  }
}

// y[index[r], :] = x[r, :]; n = R D
@compute @workgroup_size(THREADS) fn scatter(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) {
    let r = i / p.D;
    y[index[r] * p.D + (i - r * p.D)] = x[i];
  }
}

var<workgroup> indices: array<u32, THREADS>;
var<workgroup> found: atomic<u32>;

// dtable[row, :] = sum of dy[r, :] over the r with index[r] = row, in the order of r. THREADS indices are looked at together; a thread adds up
// its own columns, so that the order is fixed and nothing needs to be atomic.
@compute @workgroup_size(THREADS) fn gatherBackward(g: Group) {
  let parts = (p.D + PER_GROUP - 1u) / PER_GROUP;
  let row = groupOf(g) / parts;
  let first = (groupOf(g) - row * parts) * PER_GROUP + g.thread;
  var sums = vec4<f32>();
  for (var base = 0u; base < p.R; base += THREADS) {
    let count = min(THREADS, p.R - base);
    if (g.thread == 0u) { atomicStore(&found, 0u); }
    workgroupBarrier();
    if (g.thread < count) {
      indices[g.thread] = index[base + g.thread];
      if (indices[g.thread] == row) { atomicStore(&found, 1u); }
    }
    workgroupBarrier();
    if (atomicLoad(&found) == 1u && row < p.N) {
      for (var j = 0u; j < count; j++) {
        if (indices[j] == row) {
          let at = (base + j) * p.D + first;
          for (var c = 0u; c < 4u; c++) {
            if (first + c * THREADS < p.D) { sums[c] += dy[at + c * THREADS]; }
          }
        }
      }
    }
    workgroupBarrier();
  }
  if (row < p.N) {
    for (var c = 0u; c < 4u; c++) {
      if (first + c * THREADS < p.D) { dtable[row * p.D + first + c * THREADS] = sums[c]; }
    }
  }
}

var<workgroup> keys: array<u32, PER_GROUP>;

// All r in the order of index[r], and of r where that is the same: each counts those that come before it. So it's fixed, whoever is first.
@compute @workgroup_size(PER_GROUP) fn orderRows(g: Group) {
  let r = groupOf(g) * PER_GROUP + g.thread;
  let own = index[min(r, p.R - 1u)];
  var before = 0u;
  for (var base = 0u; base < p.R; base += PER_GROUP) {
    let count = min(PER_GROUP, p.R - base);
    workgroupBarrier();
    if (g.thread < count) { keys[g.thread] = index[base + g.thread]; }
    workgroupBarrier();
    for (var j = 0u; j < count; j++) { before += u32(keys[j] < own || (keys[j] == own && base + j < r)); }
  }
  if (r < p.R) { order[before] = r; }
}

// gatherBackward of a table with many rows, of which most are in nobody's index, and 0 already: a workgroup for each place in that order, which does
// something where a row of the table comes first, and adds as gatherBackward does.
@compute @workgroup_size(THREADS) fn gatherBackwardOrdered(g: Group) {
  let parts = (p.D + PER_GROUP - 1u) / PER_GROUP;
  let place = groupOf(g) / parts;
  let first = (groupOf(g) - place * parts) * PER_GROUP + g.thread;
  if (place >= p.R) { return; }
  let row = index[ordered[place]];
  if (row >= p.N || (place > 0u && index[ordered[place - 1u]] == row)) { return; }
  var sums = vec4<f32>();
  for (var i = place; i < p.R; i++) {
    let r = ordered[i];
    if (index[r] != row) { break; }
    for (var c = 0u; c < 4u; c++) {
      if (first + c * THREADS < p.D) { sums[c] += dy[r * p.D + first + c * THREADS]; }
    }
  }
  for (var c = 0u; c < 4u; c++) {
    if (first + c * THREADS < p.D) { dtable[row * p.D + first + c * THREADS] = sums[c]; }
  }
}
