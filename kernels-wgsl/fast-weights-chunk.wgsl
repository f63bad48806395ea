// The chunk form, a piece at a time; equations, letters and layout are those of fast-weights.wgsl.

/// A product of decays times x, 0 where either is.
fn faded(product: f32, x: f32) -> f32 {
  if (!forgets()) { return product * x; }
  return joint(product, x);
}

fn preparedBlocks() -> u32 { return (p.K + THREADS - 1u) / THREADS + (p.columns + THREADS - 1u) / THREADS; }

// w, Q~, K~, A~, Gamma, and V in the place of U. A workgroup a piece and THREADS channels or columns, a thread one of them.
@compute @workgroup_size(THREADS) fn prepare(g: Group) {
  let blocks = preparedBlocks();
  let index = groupOf(g) / blocks;
  if (index < p.heads * p.pieces) { prepareBlock(index, groupOf(g) % blocks, g.thread); }
}

fn prepareBlock(index: u32, block: u32, thread: u32) {
  let keyBlocks = (p.K + THREADS - 1u) / THREADS;
  let piece = pieceOf(index);
  let row = index * p.rows;
  if (block >= keyBlocks) {
    let j = (block - keyBlocks) * THREADS + thread;
    if (j >= p.columns) { return; }
    for (var t = 0u; t < p.rows; t++) {
      var x = 0.0;
      let token = piece.first + t * p.H;
      if (t < piece.n) { x = value(token, flagsOf(token), j); }
      work[p.U + (row + t) * p.columns + j] = x;
    }
    return;
  }
  let i = block * THREADS + thread;
  if (i >= p.K) { return; }
  var product = 1.0;
  for (var t = 0u; t < p.rows; t++) {
    let at = (row + t) * p.K + i;
    let token = piece.first + t * p.H;
    if (t < piece.n) {
      let flags = flagsOf(token);
      let w = decay(token, flags, i);
      if (forgets()) { work[p.w + at] = w; }
      if (p.reads != 0u) { work[p.A + at] = faded(product, reader(token, flags, i, w)); }
      product = joint(product, w);
      work[p.Q + at] = faded(product, query(token, flags, i));
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
    let token = piece.first + (t - 1u) * p.H;
    work[p.Kt + at] = faded(product, writtenKey(token, flagsOf(token), i));
    product = joint(product, fading(at));
  }
}

const TILE = 256u;
/// [tokens, channels]: rows rounded up to a power of two, and as many channels as fit.
var<workgroup> tileQ: array<f32, TILE>;
var<workgroup> tileK: array<f32, TILE>;
var<workgroup> tileR: array<f32, TILE>;
var<workgroup> tileW: array<f32, TILE>;
/// At one level: q of tokens in the upper half of their block of 2 half, k' of those in the lower, each times its part of D; likewise a.
var<workgroup> fadedQK: array<f32, TILE>;
var<workgroup> fadedA: array<f32, TILE>;

// P and M where something may be forgotten. A workgroup a piece; a pair is one thread's, over all channels in turn, so that its sum doesn't
// depend on `rows`.
@compute @workgroup_size(THREADS) fn pairs(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let index = id.x + id.y * count.x;
  if (index < p.heads * p.pieces) { pairsOf(index, thread); }
}

fn pairsOf(index: u32, thread: u32) {
  let piece = pieceOf(index);
  var tokens = 1u;
  while (tokens < p.rows) { tokens *= 2u; }
  let channels = TILE / tokens;
  for (var e = thread; e < PAIRS; e += THREADS) {
    pairsP[e] = 0.0;
    pairsM[e] = 0.0;
  }
  atomicStore(&spoilt, 0u);
  for (var i0 = 0u; i0 < p.K; i0 += channels) {
    let width = min(channels, p.K - i0);
    workgroupBarrier();
    for (var e = thread; e < TILE; e += THREADS) {
      let i = i0 + e % channels;
      let token = piece.first + e / channels * p.H;
      tileQ[e] = 0.0;
      tileK[e] = 0.0;
      tileR[e] = 0.0;
      tileW[e] = 1.0;
      if (e / channels < piece.n && i < p.K) {
        let flags = flagsOf(token);
        tileQ[e] = query(token, flags, i);
        tileK[e] = writtenKey(token, flags, i);
        tileW[e] = fading((index * p.rows + e / channels) * p.K + i);
        tileR[e] = reader(token, flags, i, tileW[e]);
        if (!(isFinite(tileQ[e]) && isFinite(tileK[e]) && isFinite(tileR[e]) && isFinite(tileW[e]))) { atomicStore(&spoilt, 1u); }
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
            fadedA[e] = joint(product, tileR[e]);
            product = joint(product, tileW[e]);
            fadedQK[e] = weighted(product, tileQ[e]);
          } else {
            let e = ((part + 1u) * half - 1u - s) * channels + c;
            fadedQK[e] = weighted(product, tileK[e]);
            product = joint(product, tileW[e]);
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
        if (atomicLoad(&spoilt) == 0u) {
          for (var c = 0u; c < width; c++) {
            let x = fadedQK[j * channels + c];
            sumP += fadedQK[i * channels + c] * x;
            sumM += fadedA[i * channels + c] * x;
          }
        } else {
          for (var c = 0u; c < width; c++) {
            let x = fadedQK[j * channels + c];
            sumP += joint(fadedQK[i * channels + c], x);
            sumM += joint(fadedA[i * channels + c], x);
          }
        }
        pairsP[i * ROWS + j] = sumP;
        pairsM[i * ROWS + j] = sumM;
      }
      workgroupBarrier();
    }
    atomicStore(&spoilt, 0u);
  }
  workgroupBarrier();
  for (var e = thread; e < p.rows * p.rows; e += THREADS) {
    let at = e / p.rows * ROWS + e % p.rows;
    work[p.P + index * p.rows * p.rows + e] = pairsP[at];
    if (p.reads != 0u) { work[p.M + index * p.rows * p.rows + e] = pairsM[at]; }
  }
}

// (I + M) [W U0] = [A~ V], from A and U into W and U; turned: (I + M)^T X = dU, in place. A workgroup a piece and THREADS columns.
@compute @workgroup_size(THREADS) fn solve(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let group = id.x + id.y * count.x;
  let all = select(p.K, 0u, p.turned != 0u) + p.columns;
  let blocks = (all + THREADS - 1u) / THREADS;
  let index = group / blocks;
  if (index >= p.heads * p.pieces) { return; }
  fetchPairs(index, thread);
  let column = group % blocks * THREADS + thread;
  if (column < all) { solveColumn(index, column); }
}

// prepare, the products P and M, and solve, of a piece each: for all keys and columns.
@compute @workgroup_size(THREADS) fn begin(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let index = id.x + id.y * count.x;
  if (index >= p.heads * p.pieces) { return; }
  if (thread == 0u) { atomicStore(&spoilt, 0u); }
  for (var block = 0u; block < preparedBlocks(); block++) { prepareBlock(index, block, thread); }
  storageBarrier();
  multiplyAll(index, thread);
  storageBarrier();
  if (p.reads != 0u) { solveAll(index, thread); }
}

// The same where something may be forgotten: pairs instead of products.
@compute @workgroup_size(THREADS) fn beginFading(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let index = id.x + id.y * count.x;
  if (index >= p.heads * p.pieces) { return; }
  for (var block = 0u; block < preparedBlocks(); block++) { prepareBlock(index, block, thread); }
  storageBarrier();
  pairsOf(index, thread);
  storageBarrier();
  if (p.reads != 0u) { solveAll(index, thread); }
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
        let token = piece.first + t * p.H;
        let flags = flagsOf(token);
        if (flags == BEGINS) { x = 0.0; }
        if (isPadding(flags)) { continue; }
        let w = fading(row * p.K + i);
        if (forgets()) { x = taken(w, x); }
        x = w * x + writtenKey(token, flags, i) * work[select(p.U, p.X, p.hasAlong != 0u) + row * p.columns + j];
        if (p.hasAlong != 0u) { x += along[token * p.K + i] * work[p.U + row * p.columns + j]; }
      }
      at++;
      if (j < p.V) { state[(at * p.K + i) * p.V + j] = x; } else { normaliser[at * p.K + i] = x; }
    }
  }
}

// Rows of dQ out, 0 of padding: y of a transposed read, which `cotangents` and `fadeBackward` of the backward make of q as a cotangent.
@compute @workgroup_size(THREADS) fn keyOutputs(g: Group) {
  let row = rowOf(g);
  for (var i = row.lane; row.isToken && i < p.K; i += LANES) { y[row.token * p.K + i] = select(work[p.dQ + row.index * p.K + i], 0.0, row.padding); }
}

// y = scale o / den, den = N + eps; both 0 of padding.
@compute @workgroup_size(THREADS) fn outputs(g: Group) { outputRow(rowOf(g)); }

fn outputRow(row: Row) {
  if (!row.isToken) { return; }
  let O = p.O + row.index * p.columns;
  var d = 1.0;
  if (p.columns > p.V) {
    d = work[O + p.V] + p.eps;
    if (row.lane == 0u) { den[row.token] = select(d, 0.0, row.padding); }
  }
  for (var j = row.lane; j < p.V; j += LANES) { y[row.token * p.V + j] = select(p.scale * work[O + j] / d, 0.0, row.padding); }
}

// O, and from it y, of a piece each.
@compute @workgroup_size(THREADS) fn readOut(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let index = id.x + id.y * count.x;
  if (index >= p.heads * p.pieces) { return; }
  if (thread == 0u) { atomicStore(&spoilt, 0u); }
  multiplyAll(index, thread);
  storageBarrier();
  for (var row = thread / LANES; row < p.rows; row += PER_GROUP_ROWS) { outputRow(rowIn(index, row, thread)); }
}
