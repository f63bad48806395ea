// C = activation(after (A B [+ before C, or before start]) [+ bias]) over a batch. A is [M,K] or, transposed, stored [K,M]; B is [K,N] or stored [N,K]; C is [M,N].
//
// A workgroup of 16 x 16 threads makes a TILE x TILE block of C, each thread 4 x 4 of it in registers, from slices of DEPTH of A and B in
// workgroup memory (8 KiB, half as much where Half is f16), both laid out with the depth outermost: what lies along the depth in memory is turned on the way in. Where rows
// have a multiple of 4 elements they're read as vec4, else one by one; what lies outside is 0. A product with few tiles and a long K
// is cut into `splits` ranges of `length`, each written on its own and added up by matmulJoin in their order: the cut depends on the sizes
// alone, and so does the result. Of a product of few elements most of a tile would lie outside: there a thread makes an element, without
// workgroup memory (matmulEach), and adds in the same order. Operands are rounded to Half as they are read, sums are f32.
// matmul-units.wgsl multiplies the same slices on matrix units.
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
  splits: u32,
  length: u32,     // of a range of K, a multiple of DEPTH
  sparse: u32,     // whether a zero of A takes nothing from B
  accumulate: u32, // 1: C is added to, 2: start
  before: f32,
  after: f32,
  biased: u32,
  activation: u32, // of `unaryOps`, or NONE
  halfB: u32,      // B holds pairs of float16 (1) or bfloat16 (2), and is transposed
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> a4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> b: array<f32>;
@group(0) @binding(4) var<storage, read> b4: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read> bias: array<f32>;
@group(0) @binding(6) var<storage, read_write> c: array<f32>;
@group(0) @binding(7) var<storage, read> partial: array<f32>;
@group(0) @binding(8) var<storage, read> start: array<f32>;
@group(0) @binding(9) var<storage, read> pairsB: array<u32>;

const TILE = 64u;
const DEPTH = 16u;
const NONE = 99u;

var<workgroup> tileA: array<vec4<Half>, 256>; // [DEPTH][TILE / 4]
var<workgroup> tileB: array<vec4<Half>, 256>;

/// Four neighbours in memory, of which `count` (or more) are inside.
fn readA(at: u32, count: u32) -> vec4<f32> {
  if (p.vectorsA == 1u && count >= 4u) { return a4[at >> 2u]; }
  var v = vec4<f32>();
  if (count > 0u) { v.x = a[at]; }
  if (count > 1u) { v.y = a[at + 1u]; }
  if (count > 2u) { v.z = a[at + 2u]; }
  if (count > 3u) { v.w = a[at + 3u]; }
  return v;
}

/// Number `at` of pairs.
fn halfOfB(at: u32) -> f32 { return halfOf(p.halfB, pairsB[at >> 1u], at & 1u); }

fn readB(at: u32, count: u32) -> vec4<f32> {
  if (p.halfB != 0u) {
    var v = vec4<f32>();
    for (var i = 0u; i < min(count, 4u); i++) { v[i] = halfOfB(at + i); }
    return v;
  }
  if (p.vectorsB == 1u && count >= 4u) { return b4[at >> 2u]; }
  var v = vec4<f32>();
  if (count > 0u) { v.x = b[at]; }
  if (count > 1u) { v.y = b[at + 1u]; }
  if (count > 2u) { v.z = b[at + 2u]; }
  if (count > 3u) { v.w = b[at + 3u]; }
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

fn tileOf(g: Group) -> Tile {
  let tilesN = (p.N + TILE - 1u) / TILE;
  let tilesM = (p.M + TILE - 1u) / TILE;
  let group = groupOf(g);
  let rest = group / tilesN / tilesM;
  let batch = rest / p.splits;
  let sizes = select(vec2<u32>(), vec2(p.M, p.N), batch < p.batch);
  return Tile(group / tilesN % tilesM * TILE, group % tilesN * TILE, batch, rest % p.splits, sizes.x, sizes.y);
}

/// The slices of A and B, `offset` into the range of K.
fn fill(t: Tile, thread: u32, offset: u32) {
  // Where this thread reads: a row of 4 along the depth, or of 4 across it.
  let along = vec2(thread >> 2u, (thread & 3u) * 4u);
  let across = vec2((thread & 15u) * 4u, thread >> 4u);
  let at = along.y * 16u + (along.x >> 2u);
  let part = along.x & 3u;
  let baseA = t.batch * p.strideA;
  let baseB = t.batch * p.strideB;
  let k0 = t.split * p.length + offset;
  let kEnd = min((t.split + 1u) * p.length, p.K);
  if (p.transposeA == 1u) {
    let k = k0 + across.y;
    let m = t.m0 + across.x;
    tileA[thread] = vec4<Half>(readA(baseA + k * p.M + m, inside(k, kEnd, m, t.M)));
  } else {
    let m = t.m0 + along.x;
    let k = k0 + along.y;
    let v = vec4<Half>(readA(baseA + m * p.K + k, inside(m, t.M, k, kEnd)));
    tileA[at][part] = v.x;
    tileA[at + 16u][part] = v.y;
    tileA[at + 32u][part] = v.z;
    tileA[at + 48u][part] = v.w;
  }
  if (p.transposeB == 1u) {
    let n = t.n0 + along.x;
    let k = k0 + along.y;
    let v = vec4<Half>(readB(baseB + n * p.K + k, inside(n, t.N, k, kEnd)));
    tileB[at][part] = v.x;
    tileB[at + 16u][part] = v.y;
    tileB[at + 32u][part] = v.z;
    tileB[at + 48u][part] = v.w;
  } else {
    let k = k0 + across.y;
    let n = t.n0 + across.x;
    tileB[thread] = vec4<Half>(readB(baseB + k * p.N + n, inside(k, kEnd, n, t.N)));
  }
}

@compute @workgroup_size(256) fn matmul(g: Group) {
  let t = tileOf(g);
  let ty = g.thread >> 4u;
  let tx = g.thread & 15u;
  var s0 = vec4<f32>();
  var s1 = vec4<f32>();
  var s2 = vec4<f32>();
  var s3 = vec4<f32>();
  // The loop's bounds are the same for all: a range of p.length, of which the last may lie beyond K.
  for (var offset = 0u; offset < p.length; offset += DEPTH) {
    fill(t, g.thread, offset);
    workgroupBarrier();
    if (p.sparse == 1u) {
      for (var k = 0u; k < DEPTH; k++) {
        let va = vec4<f32>(tileA[k * 16u + ty]);
        let vb = vec4<f32>(tileB[k * 16u + tx]);
        s0 += va.x * takenFour(va.x, vb);
        s1 += va.y * takenFour(va.y, vb);
        s2 += va.z * takenFour(va.z, vb);
        s3 += va.w * takenFour(va.w, vb);
      }
    } else {
      for (var k = 0u; k < DEPTH; k++) {
        let va = vec4<f32>(tileA[k * 16u + ty]);
        let vb = vec4<f32>(tileB[k * 16u + tx]);
        s0 += va.x * vb;
        s1 += va.y * vb;
        s2 += va.z * vb;
        s3 += va.w * vb;
      }
    }
    workgroupBarrier();
  }
  finish(t, g.thread, array<vec4<f32>, 4>(s0, s1, s2, s3));
}

/// Writes 4 x 4 elements of the block from their sums.
fn finish(t: Tile, thread: u32, total: array<vec4<f32>, 4>) {
  let m = t.m0 + 4u * (thread >> 4u);
  let n = t.n0 + 4u * (thread & 15u);
  if (m >= t.M || n >= t.N) { return; }
  // How much of the 4 x 4 is inside. The bounds of the loops aren't constants: unrolled sixteenfold, the activations would take the compiler seconds.
  let rows = min(4u, t.M - m);
  let columns = min(4u, t.N - n);
  let whole = p.splits == 1u;
  var sums = total;
  let first = ((t.batch * p.splits + t.split) * p.M + m) * p.N + n;
  for (var i = 0u; i < select(0u, rows, whole); i++) {
    for (var j = 0u; j < columns; j++) { sums[i][j] = finished(sums[i][j], first + i * p.N + j, n + j); }
  }
  for (var i = 0u; i < select(0u, rows, whole && p.activation != NONE); i++) {
    for (var j = 0u; j < columns; j++) { sums[i][j] = applyUnary(p.activation, sums[i][j]); }
  }
  for (var i = 0u; i < rows; i++) {
    for (var j = 0u; j < columns; j++) { c[first + i * p.N + j] = sums[i][j]; }
  }
}

/// The element of C at `at`, in column n, from its sum, but for the activation. That comes in a loop of its own: a GPU that is computed on a CPU takes every branch, and
/// would compute all activations of each element where there is none.
fn finished(sum: f32, at: u32, n: u32) -> f32 {
  var value = sum;
  if (p.accumulate == 1u) { value += p.before * c[at]; }
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
      let weight = roundedToHalf(a[atA]);
      var x = 0.0;
      if (p.halfB != 0u) { x = halfOfB(atB); } else { x = b[atB]; }
      x = roundedToHalf(x);
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
