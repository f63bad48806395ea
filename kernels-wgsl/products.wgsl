// Several products in one dispatch: C = f(sum of the terms A B [+ C] [+ bias]) for each, as matmul.wgsl computes one, whose tiles and order of sums these
// are, all of a dispatch 64 x 64 or 128 x 128. A term's A is [M,K] or, transposed, stored [K,M], its B [K,N] or stored [N,K]; C is [M,N]. M, N, all K and all places are multiples of 4, so that
// everything is read and written four at a time. No product is cut along K: together they have tiles enough.
//
// What they read and write lies in at most eight buffers, each bound once, whole: s0 to s3 may be written. Where in which, a table says.
// Pinned by test/ops/webgpu.test.ts.

struct Params {
  count: u32,
  // Four of each product: M, N, C's buffer and place; its first term and how many, what of ACCUMULATE ... there is, the activation; the bias's buffer and
  // place, where in C's buffer the sums of A go, the gate's buffer; its place and activation.
  products: array<vec4<u32>, 64>,
  // Two of each term: A's buffer and place, B's; K, whether A, B are stored transposed.
  terms: array<vec4<u32>, 32>,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> s0: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> s1: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> s2: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> s3: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> s4: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read> s5: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read> s6: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read> s7: array<vec4<f32>>;

const NONE = 99u;
const ACCUMULATE = 1u;
const BIASED = 2u;
const SUMS = 4u;
const GATED = 8u;

fn fetch(buffer: u32, at: u32) -> vec4<f32> {
  let i = at >> 2u;
  switch (buffer) {
    case 0u: { return s0[i]; }
    case 1u: { return s1[i]; }
    case 2u: { return s2[i]; }
    case 3u: { return s3[i]; }
    case 4u: { return s4[i]; }
    case 5u: { return s5[i]; }
    case 6u: { return s6[i]; }
    default: { return s7[i]; }
  }
}

fn put(buffer: u32, at: u32, x: vec4<f32>) {
  let i = at >> 2u;
  switch (buffer) {
    case 0u: { s0[i] = x; }
    case 1u: { s1[i] = x; }
    case 2u: { s2[i] = x; }
    default: { s3[i] = x; }
  }
}

/// Four neighbours of row `row` from `column` on, zeros outside.
fn four(buffer: u32, begin: u32, row: u32, rows: u32, column: u32, columns: u32) -> vec4<f32> {
  if (row >= rows || column >= columns) { return vec4<f32>(); }
  return fetch(buffer, begin + row * columns + column);
}

/// A workgroup's tile: which product, beyond their number none, and its place.
struct Tile {
  which: u32,
  m0: u32,
  n0: u32,
}

fn tileOf(id: vec3<u32>, count: vec3<u32>, size: u32) -> Tile {
  var group = id.x + id.y * count.x;
  var which = 0u;
  while (which < p.count) {
    let sizes = p.products[4u * which];
    let tilesN = (sizes.y + size - 1u) / size;
    let tiles = ((sizes.x + size - 1u) / size) * tilesN;
    if (group < tiles) { return Tile(which, group / tilesN * size, group % tilesN * size); }
    group -= tiles;
    which++;
  }
  return Tile(which, 0u, 0u);
}

/// Whether what a thread reads of a term lies along the depth.
fn turnedOf(term: u32, thread: u32) -> bool {
  let form = p.terms[2u * term + 1u];
  return select(form.y == 0u, form.z == 1u, thread >= 64u);
}

/// A thread's block of the slice of a term from k0 on.
fn readBlock(t: Tile, term: u32, thread: u32, at: vec2<u32>, k0: u32) -> mat4x4<f32> {
  if (thread >= 128u) { return mat4x4<f32>(); }
  let ofB = thread >= 64u;
  let sizes = p.products[4u * t.which];
  let operands = select(p.terms[2u * term].xy, p.terms[2u * term].zw, ofB);
  let K = p.terms[2u * term + 1u].x;
  let turned = turnedOf(term, thread);
  // A's row or B's column, and the place along the depth: which of them is the row in memory.
  let own = vec2(select(t.m0, t.n0, ofB) + at.x, k0 + at.y);
  let ends = vec2(select(sizes.x, sizes.y, ofB), K);
  let place = select(own.yx, own, turned);
  let size = select(ends.yx, ends, turned);
  let lines = mat4x4<f32>(
    four(operands.x, operands.y, place.x, size.x, place.y, size.y),
    four(operands.x, operands.y, place.x + 1u, size.x, place.y, size.y),
    four(operands.x, operands.y, place.x + 2u, size.x, place.y, size.y),
    four(operands.x, operands.y, place.x + 3u, size.x, place.y, size.y),
  );
  if (turned) { return transpose(lines); }
  return lines;
}

/// Whether the tile gives the sums of A's rows, too: the first of each row of tiles, by the threads with its first columns.
fn summing(t: Tile) -> bool { return (p.products[4u * t.which + 1u].z & SUMS) != 0u && t.n0 == 0u; }

/// What the depth of a slice adds to the sums of four rows of A. Where tiles are rounded, what is only added up is read again.
fn sumsOfA(t: Tile, term: u32, slice: u32, k0: u32, row: u32, fours: u32, depth: u32) -> vec4<f32> {
  let operands = p.terms[2u * term];
  var total = vec4<f32>();
  for (var k = 0u; k < depth; k++) {
    if (HALF) { total += four(operands.x, operands.y, k0 + k, p.terms[2u * term + 1u].x, t.m0 + 4u * row, p.products[4u * t.which].x); }
    else { total += rowsOfA(slice, k, row, fours, depth); }
  }
  return total;
}

fn putSums(t: Tile, row: u32, total: vec4<f32>) {
  let sizes = p.products[4u * t.which];
  let m = t.m0 + 4u * row;
  if (m < sizes.x) { put(sizes.z, p.products[4u * t.which + 2u].z + m, total); }
}

/// Writes four elements of C from their sums, at a row and column of the tile, if they are inside.
fn finish(t: Tile, place: vec2<u32>, sum: vec4<f32>) {
  let sizes = p.products[4u * t.which];
  let own = p.products[4u * t.which + 1u];
  let more = p.products[4u * t.which + 2u];
  let gate = p.products[4u * t.which + 3u];
  let m = t.m0 + place.x;
  let n = t.n0 + place.y;
  if (m >= sizes.x || n >= sizes.y) { return; }
  let at = m * sizes.y + n;
  // A bound that isn't a constant: unrolled, the activations would take the compiler seconds.
  let columns = min(4u, sizes.y - n);
  var x = sum;
  if ((own.z & ACCUMULATE) != 0u) { x += fetch(sizes.z, sizes.w + at); }
  if ((own.z & BIASED) != 0u) { x += fetch(more.x, more.y + n); }
  if ((own.z & GATED) != 0u) {
    let y = fetch(more.w, gate.x + at);
    for (var j = 0u; j < columns; j++) { x[j] = applyUnaryBackward(gate.y, y[j], y[j], x[j]); }
  }
  for (var j = 0u; j < select(0u, columns, own.w != NONE); j++) { x[j] = applyUnary(own.w, x[j]); }
  put(sizes.z, sizes.w + at, x);
}

@compute @workgroup_size(256) fn products(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let t = tileOf(id, count, 64u);
  if (t.which >= p.count) { return; }
  let ty = thread >> 4u;
  let tx = thread & 15u;
  let own = p.products[4u * t.which + 1u];
  let sumsA = summing(t) && tx == 0u;
  var s = array<vec4<f32>, 4>();
  var total = vec4<f32>();
  for (var term = own.x; term < own.x + own.y; term++) {
    let K = p.terms[2u * term + 1u].x;
    let at = blockOf(thread, 16u, 16u, turnedOf(term, thread));
    var slice = 0u;
    workgroupBarrier();
    putBlock(slice, thread, at, 16u, 16u, readBlock(t, term, thread, at, 0u));
    for (var k0 = 0u; k0 < K; k0 += 16u) {
      workgroupBarrier();
      let next = readBlock(t, term, thread, at, k0 + 16u);
      multiply(slice, ty, tx, &s);
      if (sumsA && term == own.x) {
        total += sumsOfA(t, term, slice, k0, ty, 16u, 16u);
      }
      slice = SLICES - slice;
      putBlock(slice, thread, at, 16u, 16u, next);
    }
  }
  if (sumsA) {
    putSums(t, ty, total);
  }
  var sums = s;
  for (var i = 0u; i < min(4u, 4u * p.count); i++) { finish(t, placeOfSum(i, ty, tx), sums[i]); }
}

@compute @workgroup_size(256) fn productsWide(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let t = tileOf(id, count, 128u);
  if (t.which >= p.count) { return; }
  let ty = thread >> 4u;
  let tx = thread & 15u;
  let own = p.products[4u * t.which + 1u];
  let sumsA = summing(t) && tx == 0u;
  var s = array<vec4<f32>, 16>();
  var total = vec4<f32>();
  var below = vec4<f32>();
  for (var term = own.x; term < own.x + own.y; term++) {
    let K = p.terms[2u * term + 1u].x;
    let at = blockOf(thread, 32u, 8u, turnedOf(term, thread));
    var slice = 0u;
    workgroupBarrier();
    putBlock(slice, thread, at, 32u, 8u, readBlock(t, term, thread, at, 0u));
    for (var k0 = 0u; k0 < K; k0 += 8u) {
      workgroupBarrier();
      let next = readBlock(t, term, thread, at, k0 + 8u);
      multiplyWide(slice, ty, tx, &s);
      if (sumsA && term == own.x) {
        total += sumsOfA(t, term, slice, k0, ty, 32u, 8u);
        below += sumsOfA(t, term, slice, k0, ty + 16u, 32u, 8u);
      }
      slice = SLICES - slice;
      putBlock(slice, thread, at, 32u, 8u, next);
    }
  }
  if (sumsA) {
    putSums(t, ty, total);
    putSums(t, ty + 16u, below);
  }
  var sums = s;
  for (var i = 0u; i < min(16u, 16u * p.count); i++) { finish(t, placeOfSum(i, ty, tx), sums[i]); }
}
