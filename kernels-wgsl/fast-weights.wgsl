// The fast-weight recurrences of engine/devices/kernels.ts: what isn't a matrix product (those are in fast-weights-products.wgsl).
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
// Layout: q, k, erase [B,T,H,K]; v, y [B,T,H,V]; beta, den [B,T,H]; gate [B,T,H,gateWidth]; S [B,H,K,V]; z [B,H,K]. Everything else lies in
// `work`, at the offsets of Params, for `heads` heads from `head` on and `pieces` pieces from token `first` on: token rows
// [heads,pieces,rows,*], states [heads,pieces+1,K,columns], the state before each piece and, last, the one after all. Rows beyond a piece's
// tokens are 0, except those of w and dW, which hold anything and are never read.
// Each workgroup and each thread adds in a fixed order, alone in what it writes.
// Pinned by test/ops/fast-weights.test.ts, webgpu-fast-weights.test.ts.

const ROWS = 32u;
const PAIRS = 1024u; // ROWS ROWS
const BETA = 1u;
const ERASE = 2u;

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
  w: u32,         // if there is a gate
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
  dW: u32,
  // For entries that have them.
  transposed: u32,
  inPlace: u32,   // recurrent: the state is kept in slot 0
  segments: u32,  // load, store: states of a head that are moved
  outside: u32,   // ... of how many in the array outside, where they lie stride apart from `begin` on
  begin: u32,
  stride: u32,
  slots: u32,     // ... and of how many in work, where the first one's place is `slot` and they lie step apart
  slot: u32,
  step: u32,
  present: u32,   // load, store: 1 with S, 2 with z; zeros are loaded for what isn't there
  n: u32,         // checkGate: values
  fault: u32,
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

// ---- pieces and what they read -----------------------------------------------------------------------------------------

struct Piece {
  first: u32, // its first token, as a row of the inputs: the next ones are H rows apart
  n: u32,
}

/// w, where `prepare` has put it.
fn fading(at: u32) -> f32 {
  if (p.gateWidth == 0u) { return 1.0; }
  return work[p.w + at];
}

/// The piece that rows [index, rows, *] of work belong to.
fn pieceOf(index: u32) -> Piece {
  let head = p.head + index / p.pieces;
  let piece = index % p.pieces;
  let before = piece % p.perSpan * p.rows;
  let t = p.first + piece / p.perSpan * p.span + before;
  return Piece((head / p.H * p.T + t) * p.H + head % p.H, min(min(p.rows, p.span - before), p.T - t));
}

/// Where the state before a piece lies.
fn stateBefore(states: u32, index: u32) -> u32 { return states + (index + index / p.pieces) * p.K * p.columns; }

fn decay(token: u32, i: u32) -> f32 {
  if (p.gateWidth == 0u) { return 1.0; }
  let value = gate[token * p.gateWidth + min(i, p.gateWidth - 1u)];
  if (isInfinite(value)) { return 0.0; }
  return expOf(value);
}

fn rate(token: u32) -> f32 {
  if (p.reads == BETA) { return extra[token]; }
  return 1.0;
}

fn writtenKey(token: u32, i: u32) -> f32 { return rate(token) * k[token * p.K + i]; }

/// a: what the state is read with before it decays by w, if it is read.
fn reader(token: u32, i: u32, w: f32) -> f32 {
  if (p.reads == BETA) { return w * k[token * p.K + i]; }
  if (p.reads == ERASE) { return extra[token * p.K + i]; }
  return 0.0;
}

fn value(token: u32, j: u32) -> f32 {
  if (j < p.V) { return v[token * p.V + j]; }
  return 1.0;
}

// A gate above 0, or NaN: its bits are left for the next read. Bits of positive numbers are ordered as they are, so the largest stays.
@compute @workgroup_size(THREADS) fn checkGate(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) {
    let bits = bitcast<u32>(gate[i]);
    if ((bits > 0u && bits < 0x80000000u) || isNan(gate[i])) { atomicMax(&faults[p.fault], bits); }
  }
}

// ---- states in and out -------------------------------------------------------------------------------------------------

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

// ---- recurrent form --------------------------------------------------------------------------------------------------------

const STAGED = 256u;
var<workgroup> stagedQ: array<f32, STAGED>;
var<workgroup> stagedK: array<f32, STAGED>;
var<workgroup> stagedA: array<f32, STAGED>;
var<workgroup> stagedW: array<f32, STAGED>;

/// Brings in what a token has of STAGED channels.
fn stage(token: u32, i0: u32, thread: u32) {
  workgroupBarrier();
  for (var i = thread; i < min(STAGED, p.K - i0); i += THREADS) {
    let w = decay(token, i0 + i);
    stagedW[i] = w;
    stagedA[i] = reader(token, i0 + i, w);
    stagedK[i] = writtenKey(token, i0 + i);
    stagedQ[i] = q[token * p.K + i0 + i];
  }
  workgroupBarrier();
}

// Token by token from the state in the first slot: y = scale o and den = z . q + eps. A thread owns a column of the state from the first token to
// the last; a workgroup takes THREADS columns of a head. The state before each piece is kept, unless inPlace.
@compute @workgroup_size(THREADS) fn recurrent(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let group = id.x + id.y * count.x;
  let blocks = (p.columns + THREADS - 1u) / THREADS;
  let head = group / blocks;
  if (head >= p.heads) { return; }
  let j = group % blocks * THREADS + thread;
  let size = p.K * p.columns;
  var source = p.S + head * select(p.pieces + 1u, 1u, p.inPlace != 0u) * size + j;
  for (var index = head * p.pieces; index < (head + 1u) * p.pieces; index++) {
    let piece = pieceOf(index);
    let next = select(source + size, source, p.inPlace != 0u);
    for (var t = 0u; t < piece.n; t++) {
      let token = piece.first + t * p.H;
      var u = 0.0;
      if (j < p.columns) { u = value(token, j); }
      for (var i0 = 0u; p.reads != 0u && i0 < p.K; i0 += STAGED) {
        stage(token, i0, thread);
        for (var i = i0; j < p.columns && i < min(i0 + STAGED, p.K); i++) { u -= stagedA[i - i0] * work[source + i * p.columns]; }
      }
      var o = 0.0;
      for (var i0 = 0u; i0 < p.K; i0 += STAGED) {
        if (p.reads == 0u || p.K > STAGED) { stage(token, i0, thread); }
        for (var i = i0; j < p.columns && i < min(i0 + STAGED, p.K); i++) {
          let x = stagedW[i - i0] * work[source + i * p.columns] + stagedK[i - i0] * u;
          work[next + i * p.columns] = x;
          o += stagedQ[i - i0] * x;
        }
      }
      source = next;
      if (j < p.V) { y[token * p.V + j] = p.scale * o; } else if (j < p.columns) { den[token] = o + p.eps; }
    }
  }
}

// y = y / den, of all B T H rows: n values.
@compute @workgroup_size(THREADS) fn normalise(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) { y[i] = y[i] / den[i / p.V]; }
}

// ---- chunk form: a piece at a time -----------------------------------------------------------------------------------------

// w, Q~, K~, A~, Gamma, and V in the place of U. A workgroup a piece and THREADS channels or columns, a thread one of them.
@compute @workgroup_size(THREADS) fn prepare(g: Group) {
  let keyBlocks = (p.K + THREADS - 1u) / THREADS;
  let blocks = keyBlocks + (p.columns + THREADS - 1u) / THREADS;
  let index = groupOf(g) / blocks;
  let block = groupOf(g) % blocks;
  if (index >= p.heads * p.pieces) { return; }
  let piece = pieceOf(index);
  let row = index * p.rows;
  if (block >= keyBlocks) {
    let j = (block - keyBlocks) * THREADS + g.thread;
    if (j >= p.columns) { return; }
    for (var t = 0u; t < p.rows; t++) {
      var x = 0.0;
      if (t < piece.n) { x = value(piece.first + t * p.H, j); }
      work[p.U + (row + t) * p.columns + j] = x;
    }
    return;
  }
  let i = block * THREADS + g.thread;
  if (i >= p.K) { return; }
  var product = 1.0;
  for (var t = 0u; t < p.rows; t++) {
    let at = (row + t) * p.K + i;
    let token = piece.first + t * p.H;
    if (t < piece.n) {
      let w = decay(token, i);
      if (p.gateWidth != 0u) { work[p.w + at] = w; }
      if (p.reads != 0u) { work[p.A + at] = product * reader(token, i, w); }
      product *= w;
      work[p.Q + at] = product * q[token * p.K + i];
    } else {
      if (p.reads != 0u) { work[p.A + at] = 0.0; }
      work[p.Q + at] = 0.0;
      work[p.Kt + at] = 0.0;
    }
  }
  work[p.gamma + index * p.K + i] = product;
  product = 1.0;
  for (var t = piece.n; t > 0u; t--) {
    let at = (row + t - 1u) * p.K + i;
    work[p.Kt + at] = product * writtenKey(piece.first + (t - 1u) * p.H, i);
    product *= fading(at);
  }
}

const TILE = 256u;
/// [tokens, channels]: rows rounded up to a power of two, and as many channels as fit.
var<workgroup> tileQ: array<f32, TILE>;
var<workgroup> tileK: array<f32, TILE>;
var<workgroup> tileA: array<f32, TILE>;
var<workgroup> tileW: array<f32, TILE>;
/// At one level: q of tokens in the upper half of their block of 2 half, k' of those in the lower, each times its part of D; likewise a.
var<workgroup> faded: array<f32, TILE>;
var<workgroup> fadedA: array<f32, TILE>;
var<workgroup> pairsP: array<f32, PAIRS>;
var<workgroup> pairsM: array<f32, PAIRS>;

// P and M where there is a gate. A workgroup a piece; a pair is one thread's, over all channels in turn, so that its sum doesn't depend on `rows`.
@compute @workgroup_size(THREADS) fn pairs(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let index = id.x + id.y * count.x;
  if (index >= p.heads * p.pieces) { return; }
  let piece = pieceOf(index);
  var tokens = 1u;
  while (tokens < p.rows) { tokens *= 2u; }
  let channels = TILE / tokens;
  for (var e = thread; e < PAIRS; e += THREADS) {
    pairsP[e] = 0.0;
    pairsM[e] = 0.0;
  }
  for (var i0 = 0u; i0 < p.K; i0 += channels) {
    let width = min(channels, p.K - i0);
    workgroupBarrier();
    for (var e = thread; e < TILE; e += THREADS) {
      let i = i0 + e % channels;
      let token = piece.first + e / channels * p.H;
      tileQ[e] = 0.0;
      tileK[e] = 0.0;
      tileA[e] = 0.0;
      tileW[e] = 1.0;
      if (e / channels < piece.n && i < p.K) {
        tileQ[e] = q[token * p.K + i];
        tileK[e] = writtenKey(token, i);
        tileW[e] = fading((index * p.rows + e / channels) * p.K + i);
        tileA[e] = reader(token, i, tileW[e]);
      }
    }
    workgroupBarrier();
    if (thread < piece.n) {
      var total = pairsP[thread * (ROWS + 1u)];
      for (var c = 0u; c < width; c++) { total += tileQ[thread * channels + c] * tileK[thread * channels + c]; }
      pairsP[thread * (ROWS + 1u)] = total;
    }
    for (var half = tokens / 2u; half > 0u; half >>= 1u) {
      for (var run = thread; run < TILE / half; run += THREADS) {
        let part = run / channels;
        let c = run % channels;
        var product = 1.0;
        for (var s = 0u; s < half; s++) {
          if ((part & 1u) == 1u) {
            let e = (part * half + s) * channels + c;
            fadedA[e] = product * tileA[e];
            product *= tileW[e];
            faded[e] = product * tileQ[e];
          } else {
            let e = ((part + 1u) * half - 1u - s) * channels + c;
            faded[e] = product * tileK[e];
            product *= tileW[e];
          }
        }
      }
      workgroupBarrier();
      for (var pair = thread; pair < tokens * half / 2u; pair += THREADS) {
        let start = pair / (half * half) * 2u * half;
        let rest = pair % (half * half);
        let i = start + half + rest / half;
        let j = start + rest % half;
        if (i >= piece.n) { continue; }
        var sumP = pairsP[i * ROWS + j];
        var sumM = pairsM[i * ROWS + j];
        for (var c = 0u; c < width; c++) {
          let x = faded[j * channels + c];
          sumP += faded[i * channels + c] * x;
          sumM += fadedA[i * channels + c] * x;
        }
        pairsP[i * ROWS + j] = sumP;
        pairsM[i * ROWS + j] = sumM;
      }
      workgroupBarrier();
    }
  }
  workgroupBarrier();
  for (var e = thread; e < p.rows * p.rows; e += THREADS) {
    let at = e / p.rows * ROWS + e % p.rows;
    work[p.P + index * p.rows * p.rows + e] = pairsP[at];
    if (p.reads != 0u) { work[p.M + index * p.rows * p.rows + e] = pairsM[at]; }
  }
}

var<workgroup> solved: array<f32, 2048>; // ROWS THREADS

// (I + M) [W U0] = [A~ V], from A and U into W and U; transposed: (I + M)^T X = dU, in place. A workgroup a piece and THREADS columns.
@compute @workgroup_size(THREADS) fn solve(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let group = id.x + id.y * count.x;
  let transposed = p.transposed != 0u;
  let keys = select(p.K, 0u, transposed);
  let blocks = (keys + p.columns + THREADS - 1u) / THREADS;
  let index = group / blocks;
  if (index >= p.heads * p.pieces) { return; }
  for (var e = thread; e < p.rows * p.rows; e += THREADS) { pairsM[e] = work[p.M + index * p.rows * p.rows + e]; }
  workgroupBarrier();
  let column = group % blocks * THREADS + thread;
  if (column >= keys + p.columns) { return; }
  let width = select(p.columns, p.K, column < keys);
  let source = select(select(p.U, p.dU, transposed) + column - keys, p.A + column, column < keys) + index * p.rows * width;
  let next = select(source, p.W + index * p.rows * width + column, column < keys);
  for (var r = 0u; r < p.rows; r++) {
    let i = select(r, p.rows - 1u - r, transposed);
    var x = work[source + i * width];
    for (var s = 0u; s < r; s++) {
      let j = select(s, p.rows - 1u - s, transposed);
      x -= pairsM[select(i * p.rows + j, j * p.rows + i, transposed)] * solved[j * THREADS + thread];
    }
    solved[i * THREADS + thread] = x;
    work[next + i * width] = x;
  }
}

// The states before the chunks of a piece but the first, where it holds several: token by token, now that u is known. A workgroup takes PER_GROUP
// elements of [heads, pieces, K, columns]; a head has `outside` snapshots.
@compute @workgroup_size(THREADS) fn snapshots(g: Group) {
  let end = elementsEnd(g, p.heads * p.pieces * p.K * p.columns);
  for (var e = firstElement(g); e < end; e += THREADS) {
    let j = e % p.columns;
    let i = e / p.columns % p.K;
    let index = e / p.columns / p.K;
    let piece = pieceOf(index);
    var at = (p.head + index / p.pieces) * p.outside + p.begin + index % p.pieces * (p.span / p.C);
    var x = work[stateBefore(p.S, index) + i * p.columns + j];
    var t = 0u;
    for (var chunk = p.C; chunk < piece.n; chunk += p.C) {
      for (; t < chunk; t++) {
        let row = index * p.rows + t;
        x = fading(row * p.K + i) * x + writtenKey(piece.first + t * p.H, i) * work[p.U + row * p.columns + j];
      }
      at++;
      if (j < p.V) { state[(at * p.K + i) * p.V + j] = x; } else { normaliser[at * p.K + i] = x; }
    }
  }
}

// ---- tokens ------------------------------------------------------------------------------------------------------------------

const LANES = 16u;
const PER_GROUP_ROWS = 4u; // THREADS / LANES

/// A row of work, its piece and its token. LANES threads share a row; a thread beyond the work, or a piece's tokens, is in none.
struct Row {
  index: u32,
  token: u32,
  lane: u32,
  exists: bool,
  isToken: bool,
}

fn rowOf(g: Group) -> Row {
  let index = groupOf(g) * PER_GROUP_ROWS + g.thread / LANES;
  let exists = index < p.heads * p.pieces * p.rows;
  let piece = pieceOf(select(0u, index / p.rows, exists));
  let isToken = exists && index % p.rows < piece.n;
  return Row(index, piece.first + select(0u, index % p.rows, isToken) * p.H, g.thread % LANES, exists, isToken);
}

// y = scale o / den, den = N + eps.
@compute @workgroup_size(THREADS) fn outputs(g: Group) {
  let row = rowOf(g);
  if (!row.isToken) { return; }
  let O = p.O + row.index * p.columns;
  var d = 1.0;
  if (p.columns > p.V) {
    d = work[O + p.V] + p.eps;
    if (row.lane == 0u) { den[row.token] = d; }
  }
  for (var j = row.lane; j < p.V; j += LANES) { y[row.token * p.V + j] = p.scale * work[O + j] / d; }
}

// ---- backward ------------------------------------------------------------------------------------------------------------------

// G = scale dy / den, g = -(dy . y) / den: the second is what is forgotten most easily.
@compute @workgroup_size(THREADS) fn cotangents(g: Group) {
  let row = rowOf(g);
  let G = p.G + row.index * p.columns;
  var factor = p.scale;
  if (p.columns > p.V) {
    var total = 0.0;
    for (var j = row.lane; j < p.V; j += LANES) { total -= dy[row.token * p.V + j] * yIn[row.token * p.V + j]; }
    total = sumLanes(total, g.thread, LANES);
    factor /= denIn[row.token];
    if (row.exists && row.lane == 0u) { work[G + p.V] = select(0.0, total / denIn[row.token], row.isToken); }
  }
  for (var j = row.lane; row.exists && j < p.V; j += LANES) { work[G + j] = select(0.0, factor * dy[row.token * p.V + j], row.isToken); }
}

// From dP, dM, dQ~, dK~, dA~ and the states to the cotangents of q, k', a, in the places of dQ~, dK~, dA~, and of log w, where there is a gate.
// With beta, a = diag(w) k: its part goes on to log w, and diag(w) da, a cotangent of k, is left in the place of da.
// A workgroup a piece and THREADS channels, a thread one of them.
@compute @workgroup_size(THREADS) fn fadeBackward(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let group = id.x + id.y * count.x;
  let blocks = (p.K + THREADS - 1u) / THREADS;
  let index = group / blocks;
  if (index >= p.heads * p.pieces) { return; }
  for (var e = thread; e < p.rows * p.rows; e += THREADS) {
    pairsP[e] = work[p.dP + index * p.rows * p.rows + e];
    pairsM[e] = 0.0;
    if (p.reads != 0u) { pairsM[e] = work[p.dM + index * p.rows * p.rows + e]; }
  }
  workgroupBarrier();
  let channel = group % blocks * THREADS + thread;
  if (channel >= p.K) { return; }
  let piece = pieceOf(index);
  let n = piece.n;
  let at = index * p.rows * p.K + channel;

  var qs: array<f32, ROWS>;
  var ks: array<f32, ROWS>;
  var rs: array<f32, ROWS>;
  var ws: array<f32, ROWS>;
  var dqs: array<f32, ROWS>;
  var dks: array<f32, ROWS>;
  var das: array<f32, ROWS>;
  var dws: array<f32, ROWS>;
  /// Products of decays.
  var D: array<f32, ROWS>;
  for (var t = 0u; t < n; t++) {
    let token = piece.first + t * p.H;
    qs[t] = q[token * p.K + channel];
    ks[t] = writtenKey(token, channel);
    ws[t] = fading(at + t * p.K);
    rs[t] = reader(token, channel, ws[t]);
  }

  // D_nj in K~: w_t has part in the keys before t.
  var part = 0.0;
  D[n - 1u] = 1.0;
  for (var t = n - 1u; t > 0u; t--) { D[t - 1u] = D[t] * ws[t]; }
  for (var t = 0u; t < n; t++) {
    let d = D[t] * work[p.dK + at + t * p.K];
    dks[t] = d + qs[t] * pairsP[t * p.rows + t];
    dws[t] = part;
    part += d * ks[t];
  }
  // Gamma in Q~, A~ and the state: w_t has part in what comes at t and later.
  var product = 1.0;
  for (var t = 0u; t < n; t++) {
    D[t] = product;
    product *= ws[t];
  }
  let S = stateBefore(p.S, index) + channel * p.columns;
  let dS = stateBefore(p.dS, index) + (p.K + channel) * p.columns;
  part = 0.0;
  for (var j = 0u; j < p.columns; j++) { part += work[S + j] * work[dS + j]; }
  part *= product;
  for (var t = n; t > 0u; t--) {
    let i = t - 1u;
    let dqi = D[i] * ws[i] * work[p.dQ + at + i * p.K];
    dqs[i] = dqi + ks[i] * pairsP[i * p.rows + i];
    part += dqi * qs[i];
    dws[i] += part;
    das[i] = 0.0;
    if (p.reads != 0u) {
      das[i] = D[i] * work[p.dA + at + i * p.K];
      part += das[i] * rs[i];
    }
  }
  // Pairs of tokens in the lower and the upper half of a block, which meet at its middle m.
  for (var half = ROWS / 2u; half > 0u; half >>= 1u) {
    for (var m = half; m < n; m += 2u * half) {
      let end = min(m + half, n);
      D[m - 1u] = 1.0;
      for (var j = m - 1u; j > m - half; j--) { D[j - 1u] = D[j] * ws[j]; }
      product = 1.0;
      for (var i = m; i < end; i++) {
        D[i] = product; // without w_i, for a; with it, for q
        product *= ws[i];
      }
      part = 0.0;
      for (var i = end; i > m; i--) {
        let t = i - 1u;
        var dqi = 0.0;
        var dai = 0.0;
        for (var j = m - half; j < m; j++) {
          let x = D[j] * ks[j];
          dqi += pairsP[t * p.rows + j] * x;
          dai += pairsM[t * p.rows + j] * x;
        }
        dqi *= D[t] * ws[t];
        dai *= D[t];
        dqs[t] += dqi;
        das[t] += dai;
        part += dqi * qs[t];
        dws[t] += part;
        part += dai * rs[t];
      }
      part = 0.0;
      for (var j = m - half; j < m; j++) {
        var dkj = 0.0;
        for (var i = m; i < end; i++) {
          dkj += pairsP[i * p.rows + j] * (D[i] * ws[i] * qs[i]) + pairsM[i * p.rows + j] * (D[i] * rs[i]);
        }
        dkj *= D[j];
        dks[j] += dkj;
        dws[j] += part;
        part += dkj * ks[j];
      }
    }
  }
  for (var t = 0u; t < n; t++) {
    work[p.dQ + at + t * p.K] = dqs[t];
    work[p.dK + at + t * p.K] = dks[t];
    if (p.reads == BETA) { dws[t] += das[t] * rs[t]; }
    if (p.reads == BETA) { das[t] *= ws[t]; }
    if (p.reads != 0u) { work[p.dA + at + t * p.K] = das[t]; }
    work[p.dW + at + t * p.K] = dws[t];
  }
}

// The gradients: of k through k' = beta k and, with beta, through a (which is left in dA as a cotangent of k).
@compute @workgroup_size(THREADS) fn gradients(g: Group) {
  let row = rowOf(g);
  let keys = row.index * p.K;
  let beta = rate(row.token);
  var dbeta = 0.0;
  for (var i = row.lane; row.isToken && i < p.K; i += LANES) {
    let to = row.token * p.K + i;
    let dWritten = work[p.dK + keys + i];
    dq[to] = work[p.dQ + keys + i];
    dbeta += k[to] * dWritten;
    var dki = beta * dWritten;
    if (p.reads == BETA) { dki += work[p.dA + keys + i]; }
    dk[to] = dki;
    if (p.reads == ERASE) { dextra[to] = work[p.dA + keys + i]; }
  }
  for (var j = row.lane; row.isToken && j < p.V; j += LANES) { dv[row.token * p.V + j] = work[p.dU + row.index * p.columns + j]; }
  if (p.reads == BETA) {
    dbeta = sumLanes(dbeta, g.thread, LANES);
    if (row.isToken && row.lane == 0u) { dextra[row.token] = dbeta; }
  }
}

// dgate: d log w, summed over the channels where they share it.
@compute @workgroup_size(THREADS) fn gateGradient(g: Group) {
  let row = rowOf(g);
  let at = p.dW + row.index * p.K;
  if (p.gateWidth == p.K) {
    for (var i = row.lane; row.isToken && i < p.K; i += LANES) { dgate[row.token * p.K + i] = work[at + i]; }
  } else {
    var total = 0.0;
    for (var i = row.lane; row.isToken && i < p.K; i += LANES) { total += work[at + i]; }
    total = sumLanes(total, g.thread, LANES);
    if (row.isToken && row.lane == 0u) { dgate[row.token] = total; }
  }
}
