// The chunk form in one entry, a workgroup a head, where there is neither a normaliser nor along: what forward and backward share. Equations and letters are those of fast-weights.wgsl; a is k or erase as it is read, so that inputs are operands as they lie, nothing of
// them is copied, and W isn't needed:
//
//     U = (I + M)^-1 (V - A~ S),  O = Q~ S + P U,  S <- Gamma S + K~^T U
//     dU = P^T G + K~ dS,  X = (I + M)^-T dU,  dS <- Gamma dS + Q~^T G - A~^T X
//
// A decay that channels share is a number of a token: it's multiplied with rows of products and with entries of P and M, no operand. fast-weights-heads-plain.wgsl,
// without decays, and fast-weights-heads-fading.wgsl have what becomes of them: `faded`, `factor` (FACTORS of fast-weights.wgsl), `strength`, `remaining` and `fadePairs`.
// Tokens whose factor is 0 are left out of sums over tokens by bits (`bitsOf`), and a 0 of P and M takes nothing. Decays of channels are multiplied with operands as they
// are used: fast-weights-heads-channels.wgsl, or fast-weights-heads-even.wgsl where there are none, have `stageAcross`, `stageAlong`, `fadeRows`, `addPairs`, `addMet`, `addRead`,
// `addThrough`, `fadedOver`, `stays`, `fromLater` and `pairsBack`.
// Matrices are multiplied 32 x 32 at a time, as in fast-weights.wgsl; a tile that several products need is fetched once for them. A workgroup has all of the
// 16 kB that every adapter gives it: what else there is of tokens lies in `work`, and caches have it.

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

/// SIDE columns of a head's state that a workgroup has, from `first` on; a head beyond all, where it has none.
struct HeadColumns {
  head: u32,
  first: u32,
  width: u32,
}

fn columnsOf(id: vec3<u32>, count: vec3<u32>) -> HeadColumns {
  let group = id.x + id.y * count.x;
  let blocks = (p.V + SIDE - 1u) / SIDE;
  let first = group % blocks * SIDE;
  return HeadColumns(group / blocks, first, min(SIDE, p.V - first));
}

/// Whether bit t of a piece's 32 is set.
fn isIn(bits: u32, t: u32) -> bool { return ((bits >> t) & 1u) != 0u; }

/// The tokens of a piece whose factor isn't 0.
fn bitsOf(its: Piece, which: u32) -> u32 {
  var bits = 0u;
  for (var t = 0u; t < its.n; t++) { bits |= select(1u, 0u, isZero(factor(its, t, which))) << t; }
  return bits;
}

/// A factor of each of a thread's four rows, which are tokens.
fn rowFactors(its: Piece, thread: u32, which: u32) -> vec4<f32> {
  var x = vec4(1.0);
  for (var r = 0u; FADES && r < 4u; r++) { x[r] = factor(its, min(thread / 8u * 4u + r, its.n - 1u), which); }
  return x;
}

/// What rows with a factor of 0 have met is nothing.
fn forget(sums: ptr<function, Sums>, weights: vec4<f32>) {
  for (var r = 0u; FADES && r < 4u; r++) { (*sums)[r] = takenFour(weights[r], (*sums)[r]); }
}

/// Two tiles, of which each place holds four rows at one inner index: [32][8].
const OTHER = 256u;
var<workgroup> staged: array<vec4<Half>, 512>;

/// A corner of 4 x 4 for each thread of a tile.
alias Sums = array<vec4<f32>, 4>;

/// Where channels have decays of their own: what pairs with later blocks of four tokens bring the keys of a thread's block, for four channels, without what decays between
/// its end and the piece's, d, leave of the states' part; and of the block, which those that come after it need, its queries and readers.
struct Later {
  sums: Sums,
  d: vec4<f32>,
  queries: Sums,
  readers: Sums,
}

/// Neighbouring threads fetch neighbours in memory.
fn slotOf(e: u32, byRows: bool) -> u32 { return select(e, e % SIDE * 8u + e / SIDE, byRows); }

/// A tile of `times` a matrix, zeros outside it.
fn stage(thread: u32, tile: u32, x: Side, times: f32) {
  for (var e = thread; e < 256u; e += THREADS) {
    let slot = slotOf(e, x.column == 1u);
    let l = slot / 8u;
    let row = slot % 8u * 4u;
    var value = vec4<f32>();
    for (var n = 0u; l < x.inner && n < min(4u, max(x.height, row) - row); n++) {
      value[n] = times * element(x.source, x.at + (row + n) * x.row + l * x.column);
    }
    staged[tile + slot] = vec4<Half>(value);
  }
}

/// Its inner axis is tokens: each times their factor `which`, by the threads that have staged it, `byRows` where the matrix has its inner axis side by side.
fn fadeTile(thread: u32, tile: u32, its: Piece, which: u32, byRows: bool) {
  for (var e = thread; FADES && e < 256u; e += THREADS) {
    let slot = slotOf(e, byRows);
    if (slot / 8u < its.n) { staged[tile + slot] = vec4<Half>(factor(its, slot / 8u, which) * vec4<f32>(staged[tile + slot])); }
  }
}

/// A tile of `times` what pairsP holds, [inner][height], or with `turned` of its transpose.
fn stageSolved(thread: u32, tile: u32, height: u32, inner: u32, times: f32, turned: bool) {
  for (var e = thread; e < 256u; e += THREADS) {
    let l = e / 8u;
    let row = e % 8u * 4u;
    var value = vec4<f32>();
    for (var n = 0u; l < inner && n < min(4u, max(height, row) - row); n++) {
      value[n] = times * pairsP[select(l * SIDE + row + n, (row + n) * SIDE + l, turned)];
    }
    staged[tile + e] = vec4<Half>(value);
  }
}

/// pairsM holds two triangles, i >= j: a_ij, without its diagonal, at (i,j), and b_ij, with it, at (j,i). An entry is always the same thread's.
fn keepTriangles(thread: u32, its: Piece, a: Sums, b: Sums, scaled: bool) {
  var x = a;
  var y = b;
  fadePairs(thread, its, &x, &y);
  let own = cornerOf(thread, its.n, its.n);
  for (var r = 0u; r < own.height; r++) {
    let i = own.row + r;
    for (var s = 0u; s < own.width && own.column + s <= i; s++) {
      let j = own.column + s;
      var beta = 1.0;
      if (scaled) { beta = strength(its, j); }
      pairsM[j * SIDE + i] = faded(y[r][s], beta);
      if (j < i) { pairsM[i * SIDE + j] = faded(x[r][s], beta); }
    }
  }
}

/// A tile of a (`strict`) or b, or with `turned` of its transpose; with `scaled` times beta of the inner token.
fn stageTriangle(thread: u32, tile: u32, its: Piece, strict: bool, turned: bool, scaled: bool) {
  let n = its.n;
  for (var e = thread; e < 256u; e += THREADS) {
    let l = e / 8u;
    var value = vec4<f32>();
    for (var c = 0u; l < n && c < 4u; c++) {
      let row = e % 8u * 4u + c;
      let i = select(row, l, turned);
      let j = select(l, row, turned);
      if (j > i || i >= n || (strict && j == i)) { continue; }
      value[c] = pairsM[select(j * SIDE + i, i * SIDE + j, strict)];
      if (scaled) { value[c] = faded(value[c], strength(its, l)); }
    }
    staged[tile + e] = vec4<Half>(value);
  }
}

/// What a product is of: a lower or an upper triangle A, of which row i doesn't touch what is beyond; where something may be forgotten, a 0 of a triangle or of
/// weights A takes nothing, nor does one of weights B.
const LOWER = 1u;
const UPPER = 2u;
const WEIGHTS_A = 4u;
const WEIGHTS_B = 8u;
const ALL = 0xffffffffu;

/// What row `row` of A has of inner index l.
fn term(kind: u32, row: u32, l: u32, x: f32, y: vec4<f32>) -> vec4<f32> {
  // The tile of a triangle is 0 outside it.
  if (!FADES && kind != 0u && !within(kind & 3u, row, l)) { return vec4<f32>(); }
  if (!FADES || kind == 0u) { return x * y; }
  let z = takenFour(x, y);
  if ((kind & WEIGHTS_B) == 0u) { return x * z; }
  return z * bitcast<vec4<f32>>(select(vec4(bitcast<u32>(x)), vec4<u32>(), (bitcast<vec4<u32>>(y) << vec4(1u)) == vec4<u32>()));
}

/// sums += A B of the tiles, over the inner indices [begin, end), of tokens those in `tokens`; the thread's rows of A are multiplied by `weights` first.
fn addSome(sums: ptr<function, Sums>, thread: u32, a: u32, b: u32, begin: u32, end: u32, kind: u32, tokens: u32, weights: vec4<f32>) {
  let rows = thread / 8u;
  for (var l = begin; l < end; l++) {
    if (FADES && tokens != ALL && !isIn(tokens, l)) { continue; }
    let x = weights * vec4<f32>(staged[a + l * 8u + rows]);
    let y = vec4<f32>(staged[b + l * 8u + thread % 8u]);
    (*sums)[0] += term(kind, rows * 4u, l, x.x, y);
    (*sums)[1] += term(kind, rows * 4u + 1u, l, x.y, y);
    (*sums)[2] += term(kind, rows * 4u + 2u, l, x.z, y);
    (*sums)[3] += term(kind, rows * 4u + 3u, l, x.w, y);
  }
}

fn add(sums: ptr<function, Sums>, thread: u32, a: u32, b: u32, count: u32) { addSome(sums, thread, a, b, 0u, count, 0u, ALL, vec4(1.0)); }
fn addTriangle(sums: ptr<function, Sums>, thread: u32, a: u32, b: u32, n: u32, kind: u32) { addSome(sums, thread, a, b, 0u, n, kind, ALL, vec4(1.0)); }

/// (I + M)^-1, or with `turned` (I + M)^-T, of pairsP, in place: a thread a column.
fn solvePairs(thread: u32, n: u32, width: u32, turned: bool) {
  workgroupBarrier();
  if (p.reads != 0u && thread < width) {
    for (var r = 1u; r < n; r++) {
      let i = select(r, n - 1u - r, turned);
      var x = pairsP[i * SIDE + thread];
      for (var s = 0u; s < r; s++) {
        let j = select(s, n - 1u - s, turned);
        x -= faded(pairsM[select(i * SIDE + j, j * SIDE + i, turned)], pairsP[j * SIDE + thread]);
      }
      pairsP[i * SIDE + thread] = x;
    }
  }
  workgroupBarrier();
}
