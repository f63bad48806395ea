// Several products in one dispatch: C = f(sum of the terms A B [+ C] [+ bias]) for each, as matmul.wgsl computes one, whose tiles and order of sums these
// are. A term's A is [M,K] or, transposed, stored [K,M], its B [K,N] or stored [N,K]; C is [M,N]. M, N, all K and all places are multiples of 4, so that
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

const TILE = 64u;
const DEPTH = 16u;
const NONE = 99u;
const ACCUMULATE = 1u;
const BIASED = 2u;
const SUMS = 4u;
const GATED = 8u;

var<workgroup> tileA: array<vec4<Half>, 256>; // [DEPTH][TILE / 4]
var<workgroup> tileB: array<vec4<Half>, 256>;

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

@compute @workgroup_size(256) fn products(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  var group = id.x + id.y * count.x;
  var which = 0u;
  while (which < p.count) {
    let sizes = p.products[4u * which];
    let tiles = ((sizes.x + TILE - 1u) / TILE) * ((sizes.y + TILE - 1u) / TILE);
    if (group < tiles) { break; }
    group -= tiles;
    which++;
  }
  if (which >= p.count) { return; }
  let sizes = p.products[4u * which];
  let own = p.products[4u * which + 1u];
  let more = p.products[4u * which + 2u];
  let gate = p.products[4u * which + 3u];
  let M = sizes.x;
  let N = sizes.y;
  let tilesN = (N + TILE - 1u) / TILE;
  let n0 = group % tilesN * TILE;
  let m0 = group / tilesN * TILE;
  // Where this thread reads: a row of 4 along the depth, or of 4 across it.
  let along = vec2(thread >> 2u, (thread & 3u) * 4u);
  let across = vec2((thread & 15u) * 4u, thread >> 4u);
  let ty = thread >> 4u;
  let tx = thread & 15u;
  let summing = (own.z & SUMS) != 0u && n0 == 0u;
  var sums = array<vec4<f32>, 4>();
  var total = vec4<f32>();
  for (var term = own.x; term < own.x + own.y; term++) {
    let operands = p.terms[2u * term];
    let form = p.terms[2u * term + 1u];
    let K = form.x;
    for (var k0 = 0u; k0 < K; k0 += DEPTH) {
      if (form.y == 1u) { tileA[thread] = vec4<Half>(four(operands.x, operands.y, k0 + across.y, K, m0 + across.x, M)); }
      else {
        let v = vec4<Half>(four(operands.x, operands.y, m0 + along.x, M, k0 + along.y, K));
        let at = along.y * 16u + (along.x >> 2u);
        let part = along.x & 3u;
        tileA[at][part] = v.x;
        tileA[at + 16u][part] = v.y;
        tileA[at + 32u][part] = v.z;
        tileA[at + 48u][part] = v.w;
      }
      if (form.z == 1u) {
        let v = vec4<Half>(four(operands.z, operands.w, n0 + along.x, N, k0 + along.y, K));
        let at = along.y * 16u + (along.x >> 2u);
        let part = along.x & 3u;
        tileB[at][part] = v.x;
        tileB[at + 16u][part] = v.y;
        tileB[at + 32u][part] = v.z;
        tileB[at + 48u][part] = v.w;
      } else { tileB[thread] = vec4<Half>(four(operands.z, operands.w, k0 + across.y, K, n0 + across.x, N)); }
      workgroupBarrier();
      for (var k = 0u; k < DEPTH; k++) {
        let va = vec4<f32>(tileA[k * 16u + ty]);
        let vb = vec4<f32>(tileB[k * 16u + tx]);
        sums[0] += va.x * vb;
        sums[1] += va.y * vb;
        sums[2] += va.z * vb;
        sums[3] += va.w * vb;
      }
      if (summing && tx == 0u) {
        // Where tiles are rounded, what is only added up is read again.
        for (var k = 0u; k < DEPTH; k++) {
          if (HALF) { total += four(operands.x, operands.y, k0 + k, K, m0 + 4u * ty, M); }
          else { total += vec4<f32>(tileA[k * 16u + ty]); }
        }
      }
      workgroupBarrier();
    }
  }
  let m = m0 + 4u * ty;
  let n = n0 + 4u * tx;
  if (m >= M) { return; }
  if (summing && tx == 0u) { put(sizes.z, more.z + m, total); }
  if (n >= N) { return; }
  // Bounds that aren't constants: unrolled, the activations would take the compiler seconds.
  let rows = min(4u, M - m);
  let columns = min(4u, N - n);
  for (var i = 0u; i < rows; i++) {
    let at = (m + i) * N + n;
    var x = sums[i];
    if ((own.z & ACCUMULATE) != 0u) { x += fetch(sizes.z, sizes.w + at); }
    if ((own.z & BIASED) != 0u) { x += fetch(more.x, more.y + n); }
    if ((own.z & GATED) != 0u) {
      let y = fetch(more.w, gate.x + at);
      for (var j = 0u; j < columns; j++) { x[j] = applyUnaryBackward(gate.y, y[j], y[j], x[j]); }
    }
    for (var j = 0u; j < select(0u, columns, own.w != NONE); j++) { x[j] = applyUnary(own.w, x[j]); }
    put(sizes.z, sizes.w + at, x);
  }
}
