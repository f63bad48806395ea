// The matrix products of the fast-weight recurrences in chunks; equations, letters and layout are those of fast-weights.wgsl.
//
// A workgroup computes tiles of 32 x 32, a thread 4 x 4 of it in registers; 32 of the inner axis at a time are brought into workgroup memory.
// Operands and results lie in `work`, so that one binding does for all of them. Sums go along the inner axis from first to last.

const SIDE = 32u;

struct Params {
  K: u32,
  columns: u32,
  heads: u32,
  pieces: u32,
  rows: u32,
  forgets: u32,   // whether a 0 of A, a weight, takes nothing of B, whatever that holds (see fast-weights.wgsl)
  count: u32,     // of products, four vectors each: see Product
  products: array<vec4<u32>, 20>,
  // scan: where a piece ends (see fast-weights.wgsl), and offsets in work.
  T: u32,
  first: u32,
  span: u32,
  perSpan: u32,
  reverse: u32,
  segments: u32,
  perSegment: u32,
  keepLast: u32,  // whether the state after a segment's last piece is wanted
  states: u32,
  values: u32,
  gamma: u32,
  reads: u32,     // which of the three terms there are
  readsWith: u32,
  readsTimes: f32,
  writes: u32,
  writesWith: u32,
  writesTimes: f32,
  adds: u32,
  addsWith: u32,
  addsValues: u32,
  // scan: states outside, [B,H,K,V] and [B,H,K], or several of a head, `outside` of them. Bit 1: S is there, 2: z.
  V: u32,
  head: u32,      // the first one's place there
  begun: u32,     // what a segment begins with, else zeros
  carried: u32,   // whether that is in the arrays that the last state is written to
  firstOutside: u32, // of how many a head has, the first segment's; the next ones lie stride apart
  fromOutside: u32,
  ended: u32,     // the state after all is written
  kept: u32,      // the states before spans are written
  outside: u32,
  begin: u32,
  stride: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> work: array<f32>;
@group(0) @binding(2) var<storage, read> stateIn: array<f32>;
@group(0) @binding(3) var<storage, read> normaliserIn: array<f32>;
@group(0) @binding(4) var<storage, read_write> state: array<f32>;
@group(0) @binding(5) var<storage, read_write> normaliser: array<f32>;
@group(0) @binding(6) var<storage, read_write> states: array<f32>;
@group(0) @binding(7) var<storage, read_write> normalisers: array<f32>;

/// A matrix in work.
struct Operand {
  at: u32,
  row: u32,
  column: u32,
}

/// C[i,j] (+)= +-sum_l A[i,l] B[l,j] for each piece, C of `rows` rows; element (i,l) of A lies at a + i aRow + l aColumn, and so on.
struct Product {
  N: u32,
  inner: u32,
  a: Operand,
  aPiece: u32,
  b: Operand,
  bPiece: u32,
  bHead: u32,       // what a head's pieces take beyond bPiece each
  c: u32,
  negative: bool,
  accumulate: bool,
  follows: bool,    // the one before, to whose C this is added by the same threads
  triangleA: u32,   // A is 1: lower, 2: upper triangular: row i doesn't touch rows of B after, before i, so that nothing there reaches it
  lowerC: u32,      // C is: 1: without, 2: with its diagonal; 0: it's full
  forgets: bool,
}

fn productAt(i: u32) -> Product {
  let w = p.products[4u * i];
  let x = p.products[4u * i + 1u];
  let y = p.products[4u * i + 2u];
  let bits = p.products[4u * i + 3u].x;
  return Product(
    w.x, w.y, Operand(w.z, w.w, x.x), x.y, Operand(x.z, x.w, y.x), y.y, y.z, y.w,
    (bits & 1u) != 0u, (bits & 2u) != 0u, (bits & 4u) != 0u, (bits >> 3u) & 3u, (bits >> 5u) & 3u, (bits & 128u) != 0u,
  );
}

// By inner index, then by group of 4 rows of A or columns of B.
var<workgroup> tileA: array<vec4<f32>, 256>;
var<workgroup> tileB: array<vec4<f32>, 256>;
/// This thread's rows 4 (thread / 8) ... and columns 4 (thread % 8) ... of the tile.
var<private> sums: array<vec4<f32>, 4>;

/// A thread's part of a tile of `height` rows and `width` columns. Loops over it have bounds that aren't constants: unrolled, they take seconds to
/// compile.
struct Corner {
  row: u32,
  column: u32,
  height: u32,
  width: u32,
}

fn cornerOf(thread: u32, height: u32, width: u32) -> Corner {
  let row = thread / 8u * 4u;
  let column = thread % 8u * 4u;
  return Corner(row, column, min(4u, max(height, row) - row), min(4u, max(width, column) - column));
}

fn clear() {
  for (var r = 0u; r < 4u; r++) { sums[r] = vec4(0.0); }
}

/// Four elements along an axis of stride `stride`, zeros beyond `count`.
fn four(at: u32, stride: u32, first: u32, count: u32) -> vec4<f32> {
  var x = vec4(0.0);
  if (first < count) { x.x = work[at + first * stride]; }
  if (first + 1u < count) { x.y = work[at + (first + 1u) * stride]; }
  if (first + 2u < count) { x.z = work[at + (first + 2u) * stride]; }
  if (first + 3u < count) { x.w = work[at + (first + 3u) * stride]; }
  return x;
}

/// Whether row i of a triangle (see Params) reaches l.
fn within(triangle: u32, i: u32, l: u32) -> bool { return select(l >= i, l <= i, triangle == 1u); }

fn areFinite(x: vec4<f32>) -> bool { return all((bitcast<vec4<u32>>(x) & vec4(0x7f800000u)) != vec4(0x7f800000u)); }

/// How many tiles there have been, and the last of them of which not all of B is finite: only there it matters what a 0 takes.
var<private> tiles: u32 = 0u;
var<workgroup> spoilt: atomic<u32>;

/// sums += the product of the tiles, `count` of the inner axis from l0 on.
fn multiplyTiles(rows: u32, columns: u32, l0: u32, count: u32, triangle: u32) {
  for (var l = 0u; l < count; l++) {
    let x = tileA[l * 8u + rows];
    let y = tileB[l * 8u + columns];
    if (triangle != 0u) {
      let row = rows * 4u;
      if (within(triangle, row, l0 + l)) { sums[0] += x.x * y; }
      if (within(triangle, row + 1u, l0 + l)) { sums[1] += x.y * y; }
      if (within(triangle, row + 2u, l0 + l)) { sums[2] += x.z * y; }
      if (within(triangle, row + 3u, l0 + l)) { sums[3] += x.w * y; }
    } else {
      sums[0] += x.x * y;
      sums[1] += x.y * y;
      sums[2] += x.z * y;
      sums[3] += x.w * y;
    }
  }
}

/// The same where a 0 of A takes nothing.
fn multiplySpoilt(rows: u32, columns: u32, l0: u32, count: u32, triangle: u32) {
  for (var l = 0u; l < count; l++) {
    let x = tileA[l * 8u + rows];
    let y = tileB[l * 8u + columns];
    for (var r = 0u; r < 4u; r++) {
      if (triangle == 0u || within(triangle, rows * 4u + r, l0 + l)) { sums[r] += x[r] * takenFour(x[r], y); }
    }
  }
}

/// sums += A B for the tile's `height` rows of A and `width` columns of B. Neighbouring threads fetch neighbours in memory.
fn multiply(thread: u32, a: Operand, height: u32, b: Operand, width: u32, inner: u32, triangle: u32, forgets: bool) {
  let rows = thread / 8u;
  let columns = thread % 8u;
  for (var l0 = 0u; l0 < inner; l0 += SIDE) {
    tiles++;
    workgroupBarrier();
    for (var e = thread; e < 256u; e += THREADS) {
      let slotA = select(e, e % SIDE * 8u + e / SIDE, a.column == 1u);
      let slotB = select(e, e % SIDE * 8u + e / SIDE, b.row == 1u);
      let lA = l0 + slotA / 8u;
      let lB = l0 + slotB / 8u;
      var fromA = vec4(0.0);
      var fromB = vec4(0.0);
      if (lA < inner) { fromA = four(a.at + lA * a.column, a.row, slotA % 8u * 4u, height); }
      if (lB < inner) { fromB = four(b.at + lB * b.row, b.column, slotB % 8u * 4u, width); }
      tileA[slotA] = fromA;
      tileB[slotB] = fromB;
      if (forgets && !areFinite(fromB)) { atomicStore(&spoilt, tiles); }
    }
    workgroupBarrier();
    let count = min(SIDE, inner - l0);
    if (forgets && atomicLoad(&spoilt) == tiles) { multiplySpoilt(rows, columns, l0, count, triangle); }
    else { multiplyTiles(rows, columns, l0, count, triangle); }
  }
}

// Products of all pieces, several that don't need each other: at most SIDE rows, any number of columns, of which a workgroup takes SIDE.
@compute @workgroup_size(THREADS) fn product(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  // The products that come one after the other in C are one piece of work.
  var group = id.x + id.y * count.x;
  var which = 0u;
  while (which < p.count) {
    let groups = p.heads * p.pieces * ((productAt(which).N + SIDE - 1u) / SIDE);
    if (!productAt(which).follows) {
      if (group < groups) { break; }
      group -= groups;
    }
    which++;
  }
  if (which >= p.count) { return; }
  let blocks = (productAt(which).N + SIDE - 1u) / SIDE;
  let index = group / blocks;
  let first = group % blocks * SIDE;
  if (thread == 0u) { atomicStore(&spoilt, 0u); }
  loop {
    let q = productAt(which);
    let a = Operand(q.a.at + index * q.aPiece, q.a.row, q.a.column);
    let b = Operand(q.b.at + index * q.bPiece + index / p.pieces * q.bHead + first * q.b.column, q.b.row, q.b.column);
    clear();
    multiply(thread, a, p.rows, b, min(SIDE, q.N - first), q.inner, q.triangleA, q.forgets);
    let own = cornerOf(thread, p.rows, q.N - first);
    for (var r = 0u; r < own.height; r++) {
      let i = own.row + r;
      for (var s = 0u; s < own.width; s++) {
        let j = first + own.column + s;
        let at = q.c + (index * p.rows + i) * q.N + j;
        var x = select(sums[r][s], -sums[r][s], q.negative);
        if (q.accumulate) { x += work[at]; }
        if (q.lowerC != 0u && j + 1u >= i + q.lowerC) { x = 0.0; }
        work[at] = x;
      }
    }
    which++;
    if (which >= p.count || !productAt(which).follows) { break; }
  }
}

/// The tokens of a piece: what follows of its rows isn't written, since 0 times what isn't finite would spread from there.
fn tokensOf(piece: u32) -> u32 {
  let before = piece % p.perSpan * p.rows;
  return min(min(p.rows, p.span - before), p.T - (p.first + piece / p.perSpan * p.span + before));
}

struct Columns {
  first: u32,
  count: u32,
}

/// These columns of the state `place` outside, to work from `to` on.
fn fetch(thread: u32, to: u32, place: u32, own: Columns) {
  for (var e = thread; e < p.K * own.count; e += THREADS) {
    let row = place * p.K + e / own.count;
    let j = own.first + e % own.count;
    var x = 0.0;
    if (j < p.V && (p.begun & 1u) != 0u) {
      if (p.carried != 0u) { x = state[row * p.V + j]; } else { x = stateIn[row * p.V + j]; }
    }
    if (j >= p.V && (p.begun & 2u) != 0u) {
      if (p.carried != 0u) { x = normaliser[row]; } else { x = normaliserIn[row]; }
    }
    work[to + e / own.count * p.columns + e % own.count] = x;
  }
  storageBarrier();
}

fn putOut(thread: u32, at: u32, place: u32, own: Columns) {
  for (var e = thread; e < p.K * own.count; e += THREADS) {
    let row = place * p.K + e / own.count;
    let j = own.first + e % own.count;
    let x = work[at + e / own.count * p.columns + e % own.count];
    if (j < p.V && (p.ended & 1u) != 0u) { state[row * p.V + j] = x; }
    if (j >= p.V && (p.ended & 2u) != 0u) { normaliser[row] = x; }
  }
}

fn keep(thread: u32, at: u32, place: u32, own: Columns) {
  for (var e = thread; e < p.K * own.count; e += THREADS) {
    let row = place * p.K + e / own.count;
    let j = own.first + e % own.count;
    let x = work[at + e / own.count * p.columns + e % own.count];
    if (j < p.V && (p.kept & 1u) != 0u) { states[row * p.V + j] = x; }
    if (j >= p.V && (p.kept & 2u) != 0u) { normalisers[row] = x; }
  }
}

// From piece to piece of a segment, SIDE columns of a head's state a workgroup. Each piece, with s the state before it (in
// reverse: its cotangent after):
//
//     values += readsTimes R s;  s <- gamma s + writesTimes W^T values + Q^T addsValues
//
// Forward, R = W, W = K~, values = U. Backward, in reverse, R = K~, W = W, values = dU, Q = Q~ and addsValues = G.
// It fetches the state that it begins with, and writes out the one that it ends with and those to be kept: its columns of them are nobody else's.
@compute @workgroup_size(THREADS) fn scan(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let group = id.x + id.y * count.x;
  let blocks = (p.columns + SIDE - 1u) / SIDE;
  let column = group % blocks * SIDE;
  let segment = group / blocks % p.segments;
  let head = group / blocks / p.segments;
  if (head >= p.heads) { return; }
  if (thread == 0u) { atomicStore(&spoilt, 0u); }
  let width = min(SIDE, p.columns - column);
  let size = p.K * p.columns;
  let start = segment * p.perSegment;
  let pieces = min(p.perSegment, p.pieces - start);
  let own = Columns(column, width);
  let first = p.states + (head * (p.pieces + 1u) + start) * size + column;
  fetch(thread, first + select(0u, pieces * size, p.reverse != 0u), (p.head + head) * p.fromOutside + p.firstOutside + segment * p.stride, own);
  for (var step = 0u; step < pieces; step++) {
    let piece = start + select(step, pieces - 1u - step, p.reverse != 0u);
    let index = head * p.pieces + piece;
    let there = first + (piece - start) * size;
    let before = there + select(0u, size, p.reverse != 0u);
    let after = there + select(size, 0u, p.reverse != 0u);
    if (p.kept != 0u && piece % p.perSpan == 0u) { keep(thread, before, (p.head + head) * p.outside + p.begin + piece / p.perSpan * p.stride, own); }
    let keys = index * p.rows * p.K;
    let values = Operand(p.values + index * p.rows * p.columns + column, p.columns, 1u);
    if (p.reads != 0u) {
      clear();
      multiply(thread, Operand(p.readsWith + keys, p.K, 1u), p.rows, Operand(before, p.columns, 1u), width, p.K, 0u, p.forgets != 0u);
      let own = cornerOf(thread, tokensOf(piece), width);
      for (var r = 0u; r < own.height; r++) {
        for (var s = 0u; s < own.width; s++) { work[values.at + (own.row + r) * p.columns + own.column + s] += p.readsTimes * sums[r][s]; }
      }
      storageBarrier();
    }
    if (p.keepLast == 0u && step + 1u == pieces) { break; }
    for (var first = 0u; first < p.K; first += SIDE) {
      let height = min(SIDE, p.K - first);
      clear();
      if (p.writes != 0u) {
        multiply(thread, Operand(p.writesWith + keys + first, 1u, p.K), height, values, width, p.rows, 0u, p.forgets != 0u);
        for (var r = 0u; r < 4u; r++) { sums[r] *= p.writesTimes; }
      }
      if (p.adds != 0u) {
        let added = Operand(p.addsValues + index * p.rows * p.columns + column, p.columns, 1u);
        multiply(thread, Operand(p.addsWith + keys + first, 1u, p.K), height, added, width, p.rows, 0u, p.forgets != 0u);
      }
      let own = cornerOf(thread, height, width);
      for (var r = 0u; r < own.height; r++) {
        let i = first + own.row + r;
        let fading = work[p.gamma + index * p.K + i];
        for (var s = 0u; s < own.width; s++) {
          let at = i * p.columns + own.column + s;
          var x = work[before + at];
          if (p.forgets != 0u) { x = taken(fading, x); }
          // A piece of padding leaves its bits. 1 by its bits: what NaN == 1 is, the driver decides.
          if (!(p.forgets != 0u && bitcast<u32>(fading) == 0x3f800000u && isZero(sums[r][s]))) { x = fading * x + sums[r][s]; }
          work[after + at] = x;
        }
      }
    }
    storageBarrier();
  }
  if (p.ended != 0u) { putOut(thread, first + select(pieces * size, 0u, p.reverse != 0u), p.head + head, own); }
}
