// The chunk form in one entry, a workgroup a head, where nothing is forgotten and there is neither a normaliser nor along: what forward and backward share.
// Equations and letters are those of fast-weights.wgsl; a is k or erase as it is read, so that inputs are operands as they lie, nothing of them is copied,
// and W isn't needed:
//
//     U = (I + M)^-1 (V - A S),  O = Q S + P U,  S <- S + K'^T U
//     dU = P^T G + K' dS,  X = (I + M)^-T dU,  dS <- dS + Q^T G - A^T X
//
// Matrices are multiplied 32 x 32 at a time, as in fast-weights.wgsl; a tile that several products need is fetched once for them.

const STATES = 0u;
const QUERIES = 1u;
const KEYS = 2u;
const EXTRA = 3u;
const COTANGENTS = 4u;
const SOLVED = 5u;
const WORK = 6u;

/// A matrix of one of these arrays (`element`, of each entry): element (i,l) lies at at + i row + l column, of `height` times `inner` elements.
struct Side {
  source: u32,
  at: u32,
  row: u32,
  column: u32,
  height: u32,
  inner: u32,
}

/// Two tiles, of which each place holds four rows at one inner index: [32][8].
const OTHER = 256u;
var<workgroup> staged: array<vec4<Half>, 512>;

/// A corner of 4 x 4 for each thread of a tile.
alias Sums = array<vec4<f32>, 4>;

/// A tile of `factor` times a matrix, zeros outside it.
fn stage(thread: u32, tile: u32, x: Side, factor: f32) {
  for (var e = thread; e < 256u; e += THREADS) {
    let slot = select(e, e % SIDE * 8u + e / SIDE, x.column == 1u);
    let l = slot / 8u;
    let row = slot % 8u * 4u;
    var value = vec4<f32>();
    for (var n = 0u; l < x.inner && n < min(4u, max(x.height, row) - row); n++) {
      value[n] = factor * element(x.source, x.at + (row + n) * x.row + l * x.column);
    }
    staged[tile + slot] = vec4<Half>(value);
  }
}

/// A tile of `factor` times what pairsP holds, [inner][height], or with `turned` of its transpose.
fn stageSolved(thread: u32, tile: u32, height: u32, inner: u32, factor: f32, turned: bool) {
  for (var e = thread; e < 256u; e += THREADS) {
    let l = e / 8u;
    let row = e % 8u * 4u;
    var value = vec4<f32>();
    for (var n = 0u; l < inner && n < min(4u, max(height, row) - row); n++) {
      value[n] = factor * pairsP[select(l * SIDE + row + n, (row + n) * SIDE + l, turned)];
    }
    staged[tile + e] = vec4<Half>(value);
  }
}

/// pairsM holds two triangles, i >= j: a_ij, without its diagonal, at (i,j), and b_ij, with it, at (j,i).
fn keepTriangles(thread: u32, n: u32, a: Sums, b: Sums, token: u32, scaled: bool) {
  var x = a;
  var y = b;
  let own = cornerOf(thread, n, n);
  for (var r = 0u; r < own.height; r++) {
    let i = own.row + r;
    for (var s = 0u; s < own.width && own.column + s <= i; s++) {
      let j = own.column + s;
      var beta = 1.0;
      if (scaled) { beta = rate(token + j * p.H); }
      pairsM[j * SIDE + i] = beta * y[r][s];
      if (j < i) { pairsM[i * SIDE + j] = beta * x[r][s]; }
    }
  }
}

/// A tile of a (`strict`) or b, or with `turned` of its transpose; with `scaled` times beta of the inner token.
fn stageTriangle(thread: u32, tile: u32, n: u32, strict: bool, turned: bool, token: u32, scaled: bool) {
  for (var e = thread; e < 256u; e += THREADS) {
    let l = e / 8u;
    var value = vec4<f32>();
    for (var c = 0u; l < n && c < 4u; c++) {
      let row = e % 8u * 4u + c;
      let i = select(row, l, turned);
      let j = select(l, row, turned);
      if (j > i || i >= n || (strict && j == i)) { continue; }
      value[c] = pairsM[select(j * SIDE + i, i * SIDE + j, strict)];
      if (scaled) { value[c] *= rate(token + l * p.H); }
    }
    staged[tile + e] = vec4<Half>(value);
  }
}

/// sums += A B of the tiles, where A is all (0), a lower (1) or an upper triangle (2): row i doesn't touch what is beyond.
fn add(sums: ptr<function, Sums>, thread: u32, a: u32, b: u32, count: u32, triangle: u32) {
  let rows = thread / 8u;
  for (var l = 0u; l < count; l++) {
    let x = vec4<f32>(staged[a + l * 8u + rows]);
    let y = vec4<f32>(staged[b + l * 8u + thread % 8u]);
    if (triangle == 0u || within(triangle, rows * 4u, l)) { (*sums)[0] += x.x * y; }
    if (triangle == 0u || within(triangle, rows * 4u + 1u, l)) { (*sums)[1] += x.y * y; }
    if (triangle == 0u || within(triangle, rows * 4u + 2u, l)) { (*sums)[2] += x.z * y; }
    if (triangle == 0u || within(triangle, rows * 4u + 3u, l)) { (*sums)[3] += x.w * y; }
  }
}

/// (I + M)^-1, or with `turned` (I + M)^-T, of pairsP, in place: a thread a column.
fn solvePairs(thread: u32, n: u32, width: u32, turned: bool) {
  workgroupBarrier();
  if (p.reads != 0u && thread < width) {
    for (var r = 1u; r < n; r++) {
      let i = select(r, n - 1u - r, turned);
      var x = pairsP[i * SIDE + thread];
      for (var s = 0u; s < r; s++) {
        let j = select(s, n - 1u - s, turned);
        x -= pairsM[select(i * SIDE + j, j * SIDE + i, turned)] * pairsP[j * SIDE + thread];
      }
      pairsP[i * SIDE + thread] = x;
    }
  }
  workgroupBarrier();
}
