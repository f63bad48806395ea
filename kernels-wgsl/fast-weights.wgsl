// The fast-weight recurrences of engine/devices/kernels.ts: the equations, and what their files share. By form: fast-weights-recurrent.wgsl,
// fast-weights-chunk.wgsl and fast-weights-chunk-backward.wgsl, which begin with this file; fast-weights-products.wgsl has the matrix products, and
// fast-weights-tiles.wgsl, or on matrix units fast-weights-units.wgsl, what multiplies two tiles for all of them.
//
//     S_t = diag(w_t) S_{t-1} + k'_t u_t^T,  u_t = v_t - S_{t-1}^T a_t,  o_t = S_t^T q_t,  w_t = exp(gate_t)
//
// One rule is the whole family: beta's u_t = beta_t (v_t - S^T diag(w_t) k_t) is it with k'_t = beta_t k_t and a_t = diag(w_t) k_t, erase is it
// with a_t = erase_t, the sum rule with a_t = 0 (`reads` 0: what belongs to a is left out). The normaliser is one more value column: v is
// extended by 1, S by z, the cotangent by g = -(dy . y) / den. `columns` is V with it.
//
// A head's T tokens are cut into spans, several chunks of C or one, and these into pieces of `rows` tokens, ROWS at most. For a piece of n,
// with D_ij = w_{j+1} * ... * w_i (D_ii = 1), Gamma_i = w_1 * ... * w_i, Gamma = Gamma_n:
//
//     Q~_i = Gamma_i q_i,  A~_i = Gamma_{i-1} a_i,  K~_j = D_nj k'_j,  P_ij = q_i . D_ij k'_j (j <= i),  M_ij = a_i . D_{i-1,j} k'_j (j < i)
//     (I + M) [W U0] = [A~ V],  U = U0 - W S,  O = Q~ S + P U,  S <- Gamma S + K~^T U                                   WY form: Yang 2024
//     dU = P^T G + K~ dS,  X = (I + M)^-T dU = dV,  dS <- Gamma dS + Q~^T G - W^T dU
//     dQ~ = G S^T,  dK~ = U dS^T,  dA~ = -X S^T,  dP = tril(G U^T),  dM = -tril(X U^T, -1),  dlog Gamma = Gamma rowsum(S dS)
//
// Numerics: decays are multiplied, never divided nor subtracted as logarithms. To split D_ij into a factor of i and one of j, both in [0,1], each
// pair has a token m between: with 2^l the highest bit in which i and j differ, m = i with the bits below l cleared, and
// D_ij = (w_m * ... * w_i) (w_{j+1} * ... * w_{m-1}). A w below e^-87.3 is 0, exactly.
//
// Forgetting: what a token's flags or gate forget may be infinite, and 0 x Infinity is NaN. So with flags or a gate a weight of exactly 0 (a
// product of decays, an entry of Q~, K~, W, P, M) takes nothing of what it is multiplied with, in both directions: `taken`, by bits. Padding is a
// token whose q, k', a and v are 0, and whose w is 1; a beginning one whose w is 0, and which reads nothing. Without flags and gate nothing of
// that is computed; with them the products look at weights only in tiles that hold something that isn't finite.
//
// Layout: q, k, erase [B,T,H,K]; v, y [B,T,H,V]; beta, den [B,T,H]; gate [B,T,H,gateWidth]; S [B,H,K,V]; z [B,H,K]. Everything else lies in
// `work`, at the offsets of Params, for `heads` heads from `head` on and `pieces` pieces from token `first` on: token rows
// [heads,pieces,rows,*], states [heads,pieces+1,K,columns], the state before each piece and, last, the one after all. Rows beyond a piece's
// tokens are 0, except those of w and dW, which hold anything and are never read.
// With `along` there are two kinds of keys. Those of what is read, in the place of k' and of K~, P, M above, are along; the ones proper and what belongs to
// them are named as above here, what belongs to along with a b at the end (Kb, Pb, Mb, dKb ...). X holds the values:
//
//     (I + Mb) [W U0] = [A~ -M X],  U = U0 - W S,  O = Q~ S + Pb U + P X,  S <- Gamma S + Kb^T U + K~^T X
//     dX = P^T G + K~ dS - M^T dU,  dK~ = X dS^T,  dP = tril(G X^T),  dM = -tril(dU X^T, -1)
//
// A transposed read, y_t = scale S_t q_t, is q_t . S_t^T dy_t to its cotangent dy_t: dy as a query of the read that is dq, and q as its cotangent. So y is
// computed as dq otherwise is, with q in the place of dy, and the backward has q and dy exchanged and gives dq as y.
// Each workgroup and each thread adds in a fixed order, alone in what it writes.
// Pinned by test/ops/fast-weights.test.ts, webgpu-fast-weights.test.ts.

const ROWS = 32u;
const PAIRS = 1024u; // ROWS ROWS
const BETA = 1u;
const ERASE = 2u;
// `tokenBits` of kernels.ts.
const TOKEN = 1u;
const BEGINS = 2u;

struct Params {
  T: u32,
  H: u32,
  K: u32,
  V: u32,
  C: u32,
  columns: u32,
  head: u32,
  heads: u32,
  span: u32,      // tokens
  perSpan: u32,   // pieces of a span
  pieces: u32,
  first: u32,     // token that the first piece begins with
  rows: u32,
  gateWidth: u32, // 0: no gate
  flagged: u32,   // whether there are flags of tokens
  forgets: u32,   // whether there is either: something may be forgotten
  reads: u32,     // 0, BETA or ERASE: what `extra` holds
  scale: f32,
  eps: f32,
  // Offsets in work.
  Q: u32,
  Kt: u32,
  A: u32,
  W: u32,
  U: u32,
  P: u32,
  M: u32,
  Kb: u32,        // if there is along
  Pb: u32,
  Mb: u32,
  X: u32,
  w: u32,         // if something may be forgotten
  gamma: u32,
  S: u32,
  O: u32,
  G: u32,
  dU: u32,
  dS: u32,
  dQ: u32,
  dK: u32,
  dA: u32,
  dP: u32,
  dM: u32,
  dKb: u32,
  dPb: u32,
  dMb: u32,
  dX: u32,
  dW: u32,
  // For entries that have them.
  transposed: u32,
  logits: u32,    // whether BETA's are numbers whose sigmoids the strengths are
  turned: u32,    // what is solved: (I + M)^T X = dU
  more: u32,      // fadeBackward: what comes of another kind of keys is added to dQ, dA and dW
  hasAlong: u32,  // snapshots
  inPlace: u32,   // recurrent: the state is kept in slot 0
  segments: u32,  // load, store: states of a head that are moved
  outside: u32,   // ... of how many in the array outside, where they lie stride apart from `begin` on
  begin: u32,
  stride: u32,
  slots: u32,     // ... and of how many in work, where the first one's place is `slot` and they lie step apart
  slot: u32,
  step: u32,
  present: u32,   // load, store: 1 with S, 2 with z; zeros are loaded for what isn't there
  n: u32,         // checkGate: values; decays: whether the gate is checked
  fault: u32,
  count: u32,     // of products, four vectors each: see Product
  products: array<vec4<u32>, 40>,
  // scan, over the values at U's or dU's and the states at S's or dS's place:
  reverse: u32,
  perSegment: u32,
  keepLast: u32,  // whether the state after a segment's last piece is wanted
  states: u32,
  values: u32,
  readsTerm: u32, // which of the three terms there are
  readsWith: u32,
  readsTimes: f32,
  writes: u32,
  writesWith: u32,
  writesTimes: f32,
  adds: u32,
  addsWith: u32,
  addsValues: u32,
  // ... and states outside. Bit 1: S is there, 2: z.
  begun: u32,     // what a segment begins with, else zeros
  carried: u32,   // whether that is in the arrays that the last state is written to
  firstOutside: u32, // of how many a head has, the first segment's; the next ones lie stride apart
  fromOutside: u32,
  ended: u32,     // the state after all is written
  kept: u32,      // the states before spans are written
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> work: array<f32>;
@group(0) @binding(2) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read> k: array<f32>;
@group(0) @binding(4) var<storage, read> v: array<f32>;
@group(0) @binding(5) var<storage, read> extra: array<f32>;
@group(0) @binding(6) var<storage, read> gate: array<f32>;
@group(0) @binding(7) var<storage, read_write> y: array<f32>;
@group(0) @binding(8) var<storage, read_write> den: array<f32>;
@group(0) @binding(9) var<storage, read_write> state: array<f32>;
@group(0) @binding(10) var<storage, read_write> normaliser: array<f32>;
@group(0) @binding(11) var<storage, read> dy: array<f32>;
@group(0) @binding(12) var<storage, read> yIn: array<f32>;
@group(0) @binding(13) var<storage, read> denIn: array<f32>;
@group(0) @binding(14) var<storage, read_write> dq: array<f32>;
@group(0) @binding(15) var<storage, read_write> dk: array<f32>;
@group(0) @binding(16) var<storage, read_write> dv: array<f32>;
@group(0) @binding(17) var<storage, read_write> dextra: array<f32>;
@group(0) @binding(18) var<storage, read_write> dgate: array<f32>;
@group(0) @binding(19) var<storage, read_write> faults: array<atomic<u32>>;
// Inputs, so that S and z may share memory.
@group(0) @binding(20) var<storage, read> stateIn: array<f32>;
@group(0) @binding(21) var<storage, read> normaliserIn: array<f32>;
@group(0) @binding(22) var<storage, read> tokens: array<i32>;
@group(0) @binding(23) var<storage, read> along: array<f32>;
@group(0) @binding(24) var<storage, read_write> states: array<f32>;
@group(0) @binding(25) var<storage, read_write> normalisers: array<f32>;
/// w of each channel, [B,T,H,K]; the backward leaves the gradient of the gate there.
@group(0) @binding(26) var<storage, read_write> channelDecays: array<f32>;

// ---- pieces and what they read ----------------------------------------------------------------------------------------

struct Piece {
  index: u32, // among those of all heads
  first: u32, // its first token, as a row of the inputs: the next ones are H rows apart
  n: u32,
}

fn forgets() -> bool { return p.forgets != 0u; }

/// w, where `prepare` has put it.
fn fading(at: u32) -> f32 {
  if (!forgets()) { return 1.0; }
  return work[p.w + at];
}

/// The piece that rows [index, rows, *] of work belong to.
fn pieceOf(index: u32) -> Piece {
  let head = p.head + index / p.pieces;
  let piece = index % p.pieces;
  let before = piece % p.perSpan * p.rows;
  let t = p.first + piece / p.perSpan * p.span + before;
  return Piece(index, (head / p.H * p.T + t) * p.H + head % p.H, min(min(p.rows, p.span - before), p.T - t));
}

/// Where the state before a piece lies.
fn stateBefore(states: u32, index: u32) -> u32 { return states + (index + index / p.pieces) * p.K * p.columns; }

/// Of a token's row of the inputs.
fn flagsOf(token: u32) -> u32 {
  if (p.flagged == 0u) { return TOKEN; }
  return u32(tokens[token / p.H]);
}
fn isPadding(flags: u32) -> bool { return (flags & TOKEN) == 0u; }
fn begins(flags: u32) -> bool { return (flags & BEGINS) != 0u; }

fn decay(token: u32, flags: u32, i: u32) -> f32 {
  if (begins(flags)) { return 0.0; }
  if (isPadding(flags) || p.gateWidth == 0u) { return 1.0; }
  let value = gate[token * p.gateWidth + min(i, p.gateWidth - 1u)];
  if (isInfinite(value)) { return 0.0; }
  return expOf(value);
}

fn rate(token: u32) -> f32 {
  if (p.reads != BETA) { return 1.0; }
  if (p.logits == 1u) { return sigmoidOf(extra[token]); }
  return extra[token];
}

fn query(token: u32, flags: u32, i: u32) -> f32 {
  if (isPadding(flags)) { return 0.0; }
  return q[token * p.K + i];
}

fn writtenKey(token: u32, flags: u32, i: u32) -> f32 {
  if (isPadding(flags)) { return 0.0; }
  return rate(token) * k[token * p.K + i];
}

/// a: what the state is read with before it decays by w, if it is read.
fn reader(token: u32, flags: u32, i: u32, w: f32) -> f32 {
  if (flags != TOKEN) { return 0.0; }
  if (p.reads == BETA) {
    if (forgets()) { return weighted(w, k[token * p.K + i]); }
    return w * k[token * p.K + i];
  }
  if (p.reads == ERASE) { return extra[token * p.K + i]; }
  return 0.0;
}

/// 0 where what a channel holds is neither read, by a, nor left by its decay w.
fn readOrLeft(a: f32, w: f32) -> f32 { return bitcast<f32>(bitcast<u32>(a) | bitcast<u32>(w)); }

fn value(token: u32, flags: u32, j: u32) -> f32 {
  if (isPadding(flags)) { return 0.0; }
  if (j < p.V) { return v[token * p.V + j]; }
  return 1.0;
}

/// A gate above 0 of a token that begins nothing and isn't padding: its bits are left for the next read. Bits of positive numbers are
/// ordered as they are, so the largest stays.
fn checkAt(i: u32) {
  let bits = bitcast<u32>(gate[i]);
  if (flagsOf(i / p.gateWidth) == TOKEN && bits > 0u && bits <= 0x7f800000u) { atomicMax(&faults[p.fault], bits); }
}

@compute @workgroup_size(THREADS) fn checkGate(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) { checkAt(i); }
}

// What decays are to the tokens of a piece, for fast-weights-heads.wgsl: FACTORS numbers a token, at w, [heads,pieces,rows]. Where each channel has its own, those
// are written to `channelDecays`, and the numbers are of beginnings alone. A token of padding stands for nothing and leaves what there is. A workgroup a piece, a thread a
// token. `n`: whether the gate is checked.
const FACTORS = 10u;
const DECAY = 0u;   // w
const THERE = 1u;   // 0: padding
const READS = 2u;   // a of a token without the decays before it: w, with erase 1; 0 where it reads nothing
const QUERY = 3u;   // Gamma_i, of a query
const READER = 4u;  // of a: Gamma_{i-1} times READS
const WRITTEN = 5u; // of k': D up to the end of its chunk of C tokens, in the piece
const GAMMA = 6u;   // Gamma_i, of the state
const CHUNK = 7u;   // the same from the beginning of the chunk on
const STRENGTH = 8u; // beta, or 1; 0 of padding
const SHARP = 9u;   // 1: a channel of its own decay is below 1/8, so that a product of a piece's may be 0, or it's NaN

@compute @workgroup_size(THREADS) fn decays(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) t: u32,
) {
  let index = id.x + id.y * count.x;
  if (index >= p.heads * p.pieces) { return; }
  let its = pieceOf(index);
  let token = its.first + t * p.H;
  let ofChannels = p.gateWidth > 1u;
  if (t == 0u) { atomicStore(&spoilt, 0u); }
  workgroupBarrier();
  if (t < its.n) {
    if (p.n != 0u && !ofChannels) { checkAt(token); }
    let flags = flagsOf(token);
    if (ofChannels) { pairsP[t] = select(1.0, 0.0, begins(flags)); }
    else { pairsP[t] = decay(token, flags, 0u); }
  }
  for (var e = t; ofChannels && e < its.n * p.K; e += THREADS) {
    let token = its.first + e / p.K * p.H;
    let flags = flagsOf(token);
    let at = token * p.K + e % p.K;
    if (p.n != 0u) { checkAt(at); }
    var w = 1.0;
    if (!begins(flags)) { w = decay(token, flags, e % p.K); }
    channelDecays[at] = w;
    // Of numbers from 1/8 to 1, and of no others, bits lie between those of the two.
    if (bitcast<u32>(w) - 0x3e000000u > 0x01800000u) { atomicOr(&spoilt, 1u << (e / p.K)); }
  }
  workgroupBarrier();
  if (t >= its.n) { return; }
  let w = pairsP[t];
  let flags = flagsOf(token);
  let there = select(1.0, 0.0, isPadding(flags));
  let reads = select(0.0, select(w, 1.0, p.reads == ERASE), flags == TOKEN && p.reads != 0u);
  var before = 1.0;
  var inChunk = 1.0;
  for (var s = 0u; s < t; s++) {
    before = joint(before, pairsP[s]);
    inChunk = select(joint(inChunk, pairsP[s]), 1.0, (s + 1u) % p.C == 0u);
  }
  var after = 1.0;
  for (var s = t + 1u; s < its.n && s % p.C != 0u; s++) { after = joint(after, pairsP[s]); }
  let gamma = joint(before, w);
  let at = p.w + (index * p.rows + t) * FACTORS;
  work[at + DECAY] = w;
  work[at + THERE] = there;
  work[at + READS] = reads;
  work[at + QUERY] = joint(there, gamma);
  work[at + READER] = joint(before, reads);
  work[at + WRITTEN] = joint(there, after);
  work[at + GAMMA] = gamma;
  work[at + CHUNK] = joint(inChunk, w);
  work[at + STRENGTH] = weighted(there, rate(token));
  work[at + SHARP] = f32((atomicLoad(&spoilt) >> t) & 1u);
}

// ---- states in and out ------------------------------------------------------------------------------------------------

/// A workgroup takes PER_GROUP elements of the states [heads, segments, K, columns].
fn placeOf(i: u32) -> vec4<u32> {
  let j = i % p.columns;
  let row = i / p.columns;
  let segment = row / p.K % p.segments;
  let head = row / p.K / p.segments;
  let place = ((head * p.slots + p.slot + segment * p.step) * p.K + row % p.K) * p.columns + j;
  return vec4(place, ((p.head + head) * p.outside + p.begin + segment * p.stride) * p.K + row % p.K, j, 0u);
}

@compute @workgroup_size(THREADS) fn load(g: Group) {
  let end = elementsEnd(g, p.heads * p.segments * p.K * p.columns);
  for (var i = firstElement(g); i < end; i += THREADS) {
    let at = placeOf(i);
    var x = 0.0;
    if (at.z < p.V && (p.present & 1u) != 0u) { x = stateIn[at.y * p.V + at.z]; }
    if (at.z >= p.V && (p.present & 2u) != 0u) { x = normaliserIn[at.y]; }
    work[p.S + at.x] = x;
  }
}

@compute @workgroup_size(THREADS) fn store(g: Group) {
  let end = elementsEnd(g, p.heads * p.segments * p.K * p.columns);
  for (var i = firstElement(g); i < end; i += THREADS) {
    let at = placeOf(i);
    let x = work[p.S + at.x];
    if (at.z < p.V && (p.present & 1u) != 0u) { state[at.y * p.V + at.z] = x; }
    if (at.z >= p.V && (p.present & 2u) != 0u) { normaliser[at.y] = x; }
  }
}

// ---- rows of tokens ---------------------------------------------------------------------------------------------------

const LANES = 16u;
const PER_GROUP_ROWS = 4u; // THREADS / LANES

/// A row of work, its piece and its token. LANES threads share a row; a thread beyond the work, or a piece's tokens, is in none.
struct Row {
  index: u32,
  token: u32,
  lane: u32,
  exists: bool,
  isToken: bool,
  padding: bool,
}

fn rowOf(g: Group) -> Row { return rowAt(groupOf(g) * PER_GROUP_ROWS + g.thread / LANES, g.thread, p.heads * p.pieces * p.rows); }
/// Row `row` of a piece.
fn rowIn(piece: u32, row: u32, thread: u32) -> Row { return rowAt(piece * p.rows + row, thread, (piece + 1u) * p.rows); }

fn rowAt(index: u32, thread: u32, end: u32) -> Row {
  let exists = index < end;
  let piece = pieceOf(select(0u, index / p.rows, exists));
  let isToken = exists && index % p.rows < piece.n;
  let token = piece.first + select(0u, index % p.rows, isToken) * p.H;
  return Row(index, token, thread % LANES, exists, isToken, isPadding(flagsOf(token)));
}

// ---- products ---------------------------------------------------------------------------------------------------------
//
// A workgroup computes tiles of 32 x 32, a thread 4 x 4 of it in registers; 32 of the inner axis at a time are brought into workgroup memory.
// Operands and results lie in `work`. Sums go along the inner axis from first to last.

const SIDE = 32u;

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
  after: bool,      // those before it have to be done
}

fn productAt(i: u32) -> Product {
  let w = p.products[4u * i];
  let x = p.products[4u * i + 1u];
  let y = p.products[4u * i + 2u];
  let bits = p.products[4u * i + 3u].x;
  return Product(
    w.x, w.y, Operand(w.z, w.w, x.x), x.y, Operand(x.z, x.w, y.x), y.y, y.z, y.w,
    (bits & 1u) != 0u, (bits & 2u) != 0u, (bits & 4u) != 0u, (bits >> 3u) & 3u, (bits >> 5u) & 3u, (bits & 128u) != 0u, (bits & 256u) != 0u,
  );
}

// By inner index, then by group of 4 rows of A or columns of B. Operands are rounded to Half as they are read, sums are f32.
var<workgroup> tileA: array<vec4<Half>, 256>;
var<workgroup> tileB: array<vec4<Half>, 256>;
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

/// Whether a tile has them finite: from 65,520 on float16 hasn't. By the bits before they are rounded, since a driver may take what has been for what it was.
fn areFinite(x: vec4<f32>) -> bool { return all((bitcast<vec4<u32>>(x) & vec4(0x7fffffffu)) < vec4(select(0x7f800000u, 0x477ff000u, HALF))); }

/// How many tiles there have been, and the last of them of which not all of B is finite: only there it matters what a 0 takes.
var<private> tiles: u32 = 0u;
var<workgroup> spoilt: atomic<u32>;

/// sums += the product of the tiles, `count` of the inner axis from l0 on.
fn multiplyTiles(rows: u32, columns: u32, l0: u32, count: u32, triangle: u32) {
  for (var l = 0u; l < count; l++) {
    let x = vec4<f32>(tileA[l * 8u + rows]);
    let y = vec4<f32>(tileB[l * 8u + columns]);
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
    let x = vec4<f32>(tileA[l * 8u + rows]);
    let y = vec4<f32>(tileB[l * 8u + columns]);
    for (var r = 0u; r < 4u; r++) {
      if (triangle == 0u || within(triangle, rows * 4u + r, l0 + l)) { sums[r] += x[r] * takenFour(x[r], y); }
    }
  }
}

/// The tiles of `height` rows of A and `width` columns of B, from l0 on. Neighbouring threads fetch neighbours in memory. If `watched`, a B of which not all
/// is finite is noted.
fn fillTiles(thread: u32, a: Operand, height: u32, b: Operand, width: u32, inner: u32, l0: u32, watched: bool) {
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
    tileA[slotA] = vec4<Half>(fromA);
    tileB[slotB] = vec4<Half>(fromB);
    if (watched && !areFinite(fromB)) { atomicStore(&spoilt, tiles); }
  }
}

/// Columns `first` ... of product `which` of a piece, and of those that follow it in the same C.
fn multiplyChain(start: u32, index: u32, first: u32, thread: u32) {
  var which = start;
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

/// All products of a piece, one after the other, by a workgroup.
fn multiplyAll(index: u32, thread: u32) {
  for (var which = 0u; which < p.count; which++) {
    let q = productAt(which);
    if (q.after) { storageBarrier(); }
    if (!q.follows) {
      for (var first = 0u; first < q.N; first += SIDE) { multiplyChain(which, index, first, thread); }
    }
  }
}

// ---- pairs of tokens --------------------------------------------------------------------------------------------------

var<workgroup> pairsP: array<f32, PAIRS>;
var<workgroup> pairsM: array<f32, PAIRS>;

/// (I + M)^-1 of column `column` of [A~ V], into W or U; turned: (I + M)^-T, of dU, in place. M is in pairsM.
fn solveColumn(index: u32, column: u32) {
  let turned = p.turned != 0u;
  let keys = select(p.K, 0u, turned);
  let width = select(p.columns, p.K, column < keys);
  let source = select(select(p.U, p.dU, turned) + column - keys, p.A + column, column < keys) + index * p.rows * width;
  let next = select(source, p.W + index * p.rows * width + column, column < keys);
  var solved: array<f32, ROWS>;
  for (var r = 0u; r < p.rows; r++) {
    let i = select(r, p.rows - 1u - r, turned);
    var x = work[source + i * width];
    for (var s = 0u; s < r; s++) {
      let j = select(s, p.rows - 1u - s, turned);
      var m = pairsM[select(i * p.rows + j, j * p.rows + i, turned)];
      var known = solved[j];
      if (forgets()) {
        known = taken(m, known);
        if (column < keys) { m = taken(known, m); } // W, too, is a weight
      }
      x -= m * known;
    }
    solved[i] = x;
    work[next + i * width] = x;
  }
}

/// M of a piece into pairsM.
fn fetchPairs(index: u32, thread: u32) {
  workgroupBarrier();
  for (var e = thread; e < p.rows * p.rows; e += THREADS) { pairsM[e] = work[p.M + index * p.rows * p.rows + e]; }
  workgroupBarrier();
}

/// All columns, by a workgroup.
fn solveAll(index: u32, thread: u32) {
  fetchPairs(index, thread);
  let count = select(p.K, 0u, p.turned != 0u) + p.columns;
  for (var column = thread; column < count; column += THREADS) { solveColumn(index, column); }
}
