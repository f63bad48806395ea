// C = activation(after (A B [+ before C, or before start]) [+ bias]) over a batch. A is [M,K] or, transposed, stored [K,M]; B is [K,N] or stored [N,K]; C is [M,N].
//
// A workgroup makes 128 x 128 elements of C (matmulWide), 128 x 64 (matmulTall) or 64 x 64 (matmul), as tiles.wgsl has it. Rows of a multiple of 4 elements are read and written as
// vec4, others one by one; what lies outside is 0. A product with few tiles and a long K is cut into `splits` ranges of `length`, each written on its own
// and added up by matmulJoin in their order. Where tiles would be too few, or mostly outside, the threads of a workgroup share K among them, and add up
// what each has in workgroup memory (matmulSliced); of a product of few elements a thread makes one (matmulEach). Which it is the sizes say, and so does
// the order in which is added. Operands are rounded to Half as they are read, sums are f32.
// matmul-units.wgsl multiplies the same tiles of 64 x 64 on matrix units.
// Pinned by test/ops/webgpu.test.ts, precision.test.ts.

struct Params {
  M: u32,
  N: u32,
  K: u32,
  batch: u32,
  strideA: u32,
  strideB: u32,
  transposeA: u32,
  transposeB: u32,
  vectorsA: u32,   // whether A, B may be read as vec4
  vectorsB: u32,
  vectorsC: u32,   // C is c4, not c
  splits: u32,
  length: u32,     // of a range of K, a multiple of 16
  down: u32,       // threads of matmulSliced along M and N, powers of 2
  across: u32,
  sparse: u32,     // whether a zero of A takes nothing from B
  accumulate: u32, // 1: C is added to, 2: start
  before: f32,
  after: f32,
  biased: u32,
  activation: u32, // of `unaryOps`, or NONE
  halfB: u32,      // B holds pairs of float16 (1) or bfloat16 (2), and is transposed
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> pairsB: array<u32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read> start: array<f32>;
@group(0) @binding(6) var<storage, read> partial: array<f32>;
@group(0) @binding(7) var<storage, read_write> c: array<f32>;
@group(0) @binding(8) var<storage, read_write> c4: array<vec4<f32>>;

const NONE = 99u;

fn oneOfA(at: u32) -> f32 { return a[at >> 2u][at & 3u]; }
fn oneOfB(at: u32) -> f32 {
  if (p.halfB != 0u) { return halfOf(p.halfB, pairsB[at >> 1u], at & 1u); }
  return b[at >> 2u][at & 3u];
}

/// Four neighbours in memory, of which `count` (or more) are inside. A loop, not branches: a GPU that is computed on a CPU takes every branch.
fn readA(at: u32, count: u32) -> vec4<f32> {
  let whole = p.vectorsA == 1u && count >= 4u;
  var v = vec4<f32>();
  for (var i = 0u; i < select(min(count, 4u), 0u, whole); i++) { v = select(v, vec4(oneOfA(at + i)), vec4(i) == vec4(0u, 1u, 2u, 3u)); }
  if (whole) { v = a[at >> 2u]; }
  return v;
}

fn readB(at: u32, count: u32) -> vec4<f32> {
  let whole = p.vectorsB == 1u && count >= 4u;
  var v = vec4<f32>();
  for (var i = 0u; i < select(min(count, 4u), 0u, whole); i++) { v = select(v, vec4(oneOfB(at + i)), vec4(i) == vec4(0u, 1u, 2u, 3u)); }
  if (whole) { v = b[at >> 2u]; }
  return v;
}

/// end - i, or 0 beyond it; 0 where the row isn't inside.
fn inside(row: u32, rows: u32, i: u32, end: u32) -> u32 { return select(0u, end - i, row < rows && i < end); }

/// A workgroup's block of C. Beyond the batch there is nothing inside: M and N are 0.
struct Tile {
  m0: u32,
  n0: u32,
  batch: u32,
  split: u32,
  M: u32,
  N: u32,
}

fn tileOf(g: Group, rows: u32, columns: u32) -> Tile {
  let tilesN = (p.N + columns - 1u) / columns;
  let tilesM = (p.M + rows - 1u) / rows;
  let group = groupOf(g);
  let rest = group / tilesN / tilesM;
  let batch = rest / p.splits;
  let sizes = select(vec2<u32>(), vec2(p.M, p.N), batch < p.batch);
  return Tile(group / tilesN % tilesM * rows, group % tilesN * columns, batch, rest % p.splits, sizes.x, sizes.y);
}

/// Four rows of A from m on at each of four places from k on, in K's range up to `end`; four columns of B.
fn linesOfA(t: Tile, m: u32, k: u32, end: u32) -> mat4x4<f32> {
  let turned = p.transposeA == 0u;
  let at = select(vec2(k, m), vec2(m, k), turned);
  let ends = select(vec2(end, t.M), vec2(t.M, end), turned);
  let width = select(p.M, p.K, turned);
  let first = t.batch * p.strideA + at.x * width + at.y;
  let lines = mat4x4<f32>(
    readA(first, inside(at.x, ends.x, at.y, ends.y)),
    readA(first + width, inside(at.x + 1u, ends.x, at.y, ends.y)),
    readA(first + 2u * width, inside(at.x + 2u, ends.x, at.y, ends.y)),
    readA(first + 3u * width, inside(at.x + 3u, ends.x, at.y, ends.y)),
  );
  if (turned) { return transpose(lines); }
  return lines;
}

fn linesOfB(t: Tile, n: u32, k: u32, end: u32) -> mat4x4<f32> {
  let turned = p.transposeB == 1u;
  let at = select(vec2(k, n), vec2(n, k), turned);
  let ends = select(vec2(end, t.N), vec2(t.N, end), turned);
  let width = select(p.N, p.K, turned);
  let first = t.batch * p.strideB + at.x * width + at.y;
  let lines = mat4x4<f32>(
    readB(first, inside(at.x, ends.x, at.y, ends.y)),
    readB(first + width, inside(at.x + 1u, ends.x, at.y, ends.y)),
    readB(first + 2u * width, inside(at.x + 2u, ends.x, at.y, ends.y)),
    readB(first + 3u * width, inside(at.x + 3u, ends.x, at.y, ends.y)),
  );
  if (turned) { return transpose(lines); }
  return lines;
}

/// Where the block of a thread that reads lies in a slice.
fn ownBlock(thread: u32, fours: u32, depth: u32) -> vec2<u32> {
  return blockOf(thread, fours, depth, select(p.transposeA == 0u, p.transposeB == 1u, thread >= 64u));
}

/// That block of the slice `offset` into the range of K.
fn readBlock(t: Tile, thread: u32, at: vec2<u32>, offset: u32) -> mat4x4<f32> {
  let k = t.split * p.length + offset + at.y;
  let end = min((t.split + 1u) * p.length, p.K);
  if (thread < 64u) { return linesOfA(t, t.m0 + at.x, k, end); }
  if (thread < 128u) { return linesOfB(t, t.n0 + at.x, k, end); }
  return mat4x4<f32>();
}

fn multiplySparse(slice: u32, ty: u32, tx: u32, s: ptr<function, array<vec4<f32>, 4>>) {
  for (var k = 0u; k < 16u; k++) {
    let x = rowsOfA(slice, k, ty, 16u, 16u);
    let y = columnsOfB(slice, k, tx, 16u, 16u);
    (*s)[0] += x.x * takenFour(x.x, y);
    (*s)[1] += x.y * takenFour(x.y, y);
    (*s)[2] += x.z * takenFour(x.z, y);
    (*s)[3] += x.w * takenFour(x.w, y);
  }
}

// The loops' bounds are the same for all: a range of p.length, of which the last may lie beyond K.

@compute @workgroup_size(256) fn matmul(g: Group) {
  let t = tileOf(g, 64u, 64u);
  let ty = g.thread >> 4u;
  let tx = g.thread & 15u;
  let at = ownBlock(g.thread, 16u, 16u);
  var s = array<vec4<f32>, 4>();
  putBlock(0u, g.thread, at, 16u, 16u, readBlock(t, g.thread, at, 0u));
  var slice = 0u;
  for (var offset = 0u; offset < p.length; offset += 16u) {
    workgroupBarrier();
    let next = readBlock(t, g.thread, at, offset + 16u);
    if (p.sparse == 1u) { multiplySparse(slice, ty, tx, &s); } else { multiply(slice, ty, tx, &s); }
    slice = SLICES - slice;
    putBlock(slice, g.thread, at, 16u, 16u, next);
  }
  // A copy: an array whose place in it isn't a constant may lie in memory, of which the sums are kept free.
  var sums = s;
  for (var i = 0u; i < min(4u, 4u * t.M); i++) { finish(t, placeOfSum(i, ty, tx), sums[i]); }
}

@compute @workgroup_size(256) fn matmulTall(g: Group) {
  let t = tileOf(g, 128u, 64u);
  let ty = g.thread >> 4u;
  let tx = g.thread & 15u;
  let fours = select(32u, 16u, g.thread >= 64u);
  let at = ownBlock(g.thread, fours, 8u);
  var s = array<vec4<f32>, 8>();
  putBlock(0u, g.thread, at, fours, 8u, readBlock(t, g.thread, at, 0u));
  var slice = 0u;
  for (var offset = 0u; offset < p.length; offset += 8u) {
    workgroupBarrier();
    let next = readBlock(t, g.thread, at, offset + 8u);
    multiplyTall(slice, ty, tx, &s);
    slice = SLICES - slice;
    putBlock(slice, g.thread, at, fours, 8u, next);
  }
  var sums = s;
  for (var i = 0u; i < min(8u, 8u * t.M); i++) { finish(t, placeOfSum(i, ty, tx), sums[i]); }
}

@compute @workgroup_size(256) fn matmulWide(g: Group) {
  let t = tileOf(g, 128u, 128u);
  let ty = g.thread >> 4u;
  let tx = g.thread & 15u;
  let at = ownBlock(g.thread, 32u, 8u);
  var s = array<vec4<f32>, 16>();
  putBlock(0u, g.thread, at, 32u, 8u, readBlock(t, g.thread, at, 0u));
  var slice = 0u;
  for (var offset = 0u; offset < p.length; offset += 8u) {
    workgroupBarrier();
    let next = readBlock(t, g.thread, at, offset + 8u);
    multiplyWide(slice, ty, tx, &s);
    slice = SLICES - slice;
    putBlock(slice, g.thread, at, 32u, 8u, next);
  }
  var sums = s;
  for (var i = 0u; i < min(16u, 16u * t.M); i++) { finish(t, placeOfSum(i, ty, tx), sums[i]); }
}

var<workgroup> shares: array<vec4<f32>, 1024>;

// 4 x 4 elements a thread, of each the terms of every so manieth four of K, from memory: a cache has what several threads read.
@compute @workgroup_size(256) fn matmulSliced(g: Group) {
  let t = tileOf(g, 4u * p.down, 4u * p.across);
  let places = p.down * p.across;
  let slices = 256u / places;
  // Neighbours read what are neighbours in B.
  let alongK = p.transposeB == 1u;
  let slice = select(g.thread / places, g.thread % slices, alongK);
  let place = select(g.thread % places, g.thread / slices, alongK);
  let m = t.m0 + 4u * (place / p.across);
  let n = t.n0 + 4u * (place % p.across);
  var s = array<vec4<f32>, 4>();
  for (var k = 4u * slice; k < p.K; k += 4u * slices) {
    let x = linesOfA(t, m, k, p.K);
    let y = linesOfB(t, n, k, p.K);
    addOuter(roundedFour(x[0]), roundedFour(y[0]), &s);
    addOuter(roundedFour(x[1]), roundedFour(y[1]), &s);
    addOuter(roundedFour(x[2]), roundedFour(y[2]), &s);
    addOuter(roundedFour(x[3]), roundedFour(y[3]), &s);
  }
  let own = 4u * slice * places + place;
  shares[own] = s[0];
  shares[own + places] = s[1];
  shares[own + 2u * places] = s[2];
  shares[own + 3u * places] = s[3];
  workgroupBarrier();
  // Each of 4 * places fours by one thread, in the order of the slices.
  if (g.thread >= 4u * places) { return; }
  var total = vec4<f32>();
  for (var i = 0u; i < slices; i++) { total += shares[4u * i * places + g.thread]; }
  let whose = g.thread % places;
  finish(t, vec2(4u * (whose / p.across) + g.thread / places, 4u * (whose % p.across)), total);
}

fn roundedFour(x: vec4<f32>) -> vec4<f32> {
  if (!HALF) { return x; }
  return vec4(roundedToHalf(x.x), roundedToHalf(x.y), roundedToHalf(x.z), roundedToHalf(x.w));
}

/// Writes four elements of C from their sums, at a row and column of the tile, as far as they are inside.
fn finish(t: Tile, place: vec2<u32>, sum: vec4<f32>) {
  let m = t.m0 + place.x;
  let n = t.n0 + place.y;
  if (m >= t.M || n >= t.N) { return; }
  // Bounds that aren't constants: unrolled, the activations would take the compiler seconds.
  let columns = min(4u, t.N - n);
  let whole = p.splits == 1u;
  let first = ((t.batch * p.splits + t.split) * p.M + m) * p.N + n;
  var x = sum;
  for (var j = 0u; j < select(0u, columns, whole); j++) { x[j] = finished(x[j], first + j, n + j); }
  for (var j = 0u; j < select(0u, columns, whole && p.activation != NONE); j++) { x[j] = applyUnary(p.activation, x[j]); }
  if (p.vectorsC == 1u) {
    c4[first >> 2u] = x;
    return;
  }
  for (var j = 0u; j < columns; j++) { c[first + j] = x[j]; }
}

/// The element of C at `at`, in column n, from its sum, but for the activation. That comes in a loop of its own: a GPU that is computed on a CPU takes every branch, and
/// would compute all activations of each element where there is none.
fn finished(sum: f32, at: u32, n: u32) -> f32 {
  var value = sum;
  if (p.accumulate == 1u) {
    if (p.vectorsC == 1u) { value += p.before * c4[at >> 2u][at & 3u]; } else { value += p.before * c[at]; }
  }
  if (p.accumulate == 2u) { value += p.before * start[at]; }
  value *= p.after;
  if (p.biased == 1u) { value += bias[n]; }
  return value;
}

/// The activation of the elements of a workgroup, which its threads have written.
fn activate(g: Group, count: u32) {
  let end = select(0u, elementsEnd(g, count), p.activation != NONE);
  for (var i = firstElement(g); i < end; i += THREADS) { c[i] = applyUnary(p.activation, c[i]); }
}

// All of C; PER_GROUP elements a workgroup.
@compute @workgroup_size(THREADS) fn matmulEach(g: Group) {
  let size = p.M * p.N;
  let end = elementsEnd(g, p.batch * size);
  for (var i = firstElement(g); i < end; i += THREADS) {
    let batch = i / size;
    let m = i % size / p.N;
    let n = i % p.N;
    let stepA = select(1u, p.M, p.transposeA == 1u);
    let stepB = select(p.N, 1u, p.transposeB == 1u);
    var atA = batch * p.strideA + m * select(p.K, 1u, p.transposeA == 1u);
    var atB = batch * p.strideB + n * select(1u, p.K, p.transposeB == 1u);
    var sum = 0.0;
    for (var k = 0u; k < p.K; k++) {
      let weight = roundedToHalf(oneOfA(atA));
      let x = roundedToHalf(oneOfB(atB));
      sum += weight * select(x, taken(weight, x), p.sparse == 1u);
      atA += stepA;
      atB += stepB;
    }
    c[i] = finished(sum, i, n);
  }
  activate(g, p.batch * size);
}

// C from the ranges of K; PER_GROUP elements a workgroup.
@compute @workgroup_size(THREADS) fn matmulJoin(g: Group) {
  let size = p.M * p.N;
  let end = elementsEnd(g, p.batch * size);
  for (var i = firstElement(g); i < end; i += THREADS) {
    let batch = i / size;
    let at = batch * p.splits * size + (i - batch * size);
    var total = 0.0;
    for (var s = 0u; s < p.splits; s++) { total += partial[at + s * size]; }
    c[i] = finished(total, i, i % p.N);
  }
  activate(g, p.batch * size);
}
