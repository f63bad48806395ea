// The backward of the chunk form; equations, letters and layout are those of fast-weights.wgsl.

// G = scale dy / den, g = -(dy . y) / den: the second is what is forgotten most easily.
@compute @workgroup_size(THREADS) fn cotangents(g: Group) { cotangentRow(rowOf(g), g.thread); }

// The same, and then dU and what else there is of products, of a piece each.
@compute @workgroup_size(THREADS) fn cotangentsWith(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let index = id.x + id.y * count.x;
  if (index >= p.heads * p.pieces) { return; }
  if (thread == 0u) { atomicStore(&spoilt, 0u); }
  for (var row = 0u; row < p.rows; row += PER_GROUP_ROWS) { cotangentRow(rowIn(index, row + thread / LANES, thread), thread); }
  storageBarrier();
  multiplyAll(index, thread);
}

fn cotangentRow(row: Row, thread: u32) {
  let given = row.isToken && !row.padding;
  let G = p.G + row.index * p.columns;
  var factor = p.scale;
  if (p.columns > p.V) {
    var total = 0.0;
    for (var j = row.lane; j < p.V; j += LANES) { total -= dy[row.token * p.V + j] * yIn[row.token * p.V + j]; }
    total = sumLanes(total, thread, LANES);
    factor /= denIn[row.token];
    if (row.exists && row.lane == 0u) { work[G + p.V] = select(0.0, total / denIn[row.token], given); }
  }
  for (var j = row.lane; row.exists && j < p.V; j += LANES) { work[G + j] = select(0.0, factor * dy[row.token * p.V + j], given); }
}

/// Whether bit t of a piece's 32 is set.
fn isIn(bits: u32, t: u32) -> bool { return ((bits >> t) & 1u) != 0u; }

// From dP, dM, dQ~, dK~, dA~ and the states to the cotangents of q, k', a, in the places of dQ~, dK~, dA~, and of log w, where there is a gate.
// What these hold of padding, and of what a beginning reads, means nothing.
// With beta, a = diag(w) k: its part goes on to log w, and diag(w) da, a cotangent of k, is left in the place of da.
// A workgroup a piece and THREADS channels, a thread one of them. With `more`, dQ~, dA~ and the states have been taken already, and it's added to what has come
// of them.
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
  /// The tokens that aren't padding, and those of them that read.
  var real = 0u;
  var readers = 0u;
  for (var t = 0u; t < n; t++) {
    let token = piece.first + t * p.H;
    let flags = flagsOf(token);
    qs[t] = query(token, flags, channel);
    ks[t] = writtenKey(token, flags, channel);
    ws[t] = fading(at + t * p.K);
    rs[t] = reader(token, flags, channel, ws[t]);
    if (!isPadding(flags)) { real |= 1u << t; }
    if (flags == TOKEN && p.reads != 0u) { readers |= 1u << t; }
  }

  // D_nj in K~: w_t has part in the keys before t.
  var part = 0.0;
  D[n - 1u] = 1.0;
  for (var t = n - 1u; t > 0u; t--) { D[t - 1u] = joint(D[t], ws[t]); }
  for (var t = 0u; t < n; t++) {
    var d = 0.0;
    if (isIn(real, t)) { d = weighted(D[t], work[p.dK + at + t * p.K]); }
    dks[t] = d + qs[t] * pairsP[t * p.rows + t];
    dws[t] = part;
    part += weighted(d, ks[t]);
  }
  // Gamma in Q~, A~ and the state: w_t has part in what comes at t and later.
  var product = 1.0;
  for (var t = 0u; t < n; t++) {
    D[t] = product;
    product = joint(product, ws[t]);
  }
  let S = stateBefore(p.S, index) + channel * p.columns;
  let dS = stateBefore(p.dS, index) + (p.K + channel) * p.columns;
  part = 0.0;
  for (var j = 0u; j < p.columns; j++) { part += work[S + j] * work[dS + j]; }
  part = select(weighted(product, part), 0.0, p.more != 0u);
  for (var t = n; t > 0u; t--) {
    let i = t - 1u;
    var dqi = 0.0;
    if (isIn(real, i) && p.more == 0u) { dqi = weighted(joint(D[i], ws[i]), work[p.dQ + at + i * p.K]); }
    dqs[i] = dqi + ks[i] * pairsP[i * p.rows + i];
    part += weighted(dqi, qs[i]);
    dws[i] += part;
    das[i] = 0.0;
    if (isIn(readers, i) && p.more == 0u) {
      das[i] = weighted(D[i], work[p.dA + at + i * p.K]);
      part += taken(readOrLeft(rs[i], ws[i]), weighted(das[i], rs[i]));
    }
  }
  // Pairs of tokens in the lower and the upper half of a block, which meet at its middle m.
  for (var half = ROWS / 2u; half > 0u; half >>= 1u) {
    for (var m = half; m < n; m += 2u * half) {
      let end = min(m + half, n);
      D[m - 1u] = 1.0;
      for (var j = m - 1u; j > m - half; j--) { D[j - 1u] = joint(D[j], ws[j]); }
      product = 1.0;
      for (var i = m; i < end; i++) {
        D[i] = product; // without w_i, for a; with it, for q
        product = joint(product, ws[i]);
      }
      part = 0.0;
      for (var i = end; i > m; i--) {
        let t = i - 1u;
        var dqi = 0.0;
        var dai = 0.0;
        for (var j = m - half; j < m && isIn(real, t); j++) {
          if (!isIn(real, j)) { continue; }
          let x = weighted(D[j], ks[j]);
          dqi += weighted(x, pairsP[t * p.rows + j]);
          dai += weighted(x, pairsM[t * p.rows + j]);
        }
        dqi = weighted(joint(D[t], ws[t]), dqi);
        dai = select(0.0, weighted(D[t], dai), isIn(readers, t));
        dqs[t] += dqi;
        das[t] += dai;
        part += weighted(dqi, qs[t]);
        dws[t] += part;
        part += taken(readOrLeft(rs[t], ws[t]), weighted(dai, rs[t]));
      }
      part = 0.0;
      for (var j = m - half; j < m; j++) {
        var dkj = 0.0;
        for (var i = m; i < end && isIn(real, j); i++) {
          if (!isIn(real, i)) { continue; }
          let x = weighted(joint(D[i], ws[i]), qs[i]);
          let a = weighted(D[i], rs[i]);
          dkj += weighted(x, pairsP[i * p.rows + j]) + weighted(a, pairsM[i * p.rows + j]);
        }
        dkj = weighted(D[j], dkj);
        dks[j] += dkj;
        dws[j] += part;
        part += weighted(dkj, ks[j]);
      }
    }
  }
  for (var t = 0u; t < n; t++) {
    if (p.more != 0u) {
      dqs[t] += work[p.dQ + at + t * p.K];
      das[t] += work[p.dA + at + t * p.K];
      if (p.gateWidth != 0u) { dws[t] += work[p.dW + at + t * p.K]; }
    }
    work[p.dQ + at + t * p.K] = dqs[t];
    work[p.dK + at + t * p.K] = dks[t];
    if (p.reads == BETA) { dws[t] += taken(ws[t], das[t] * rs[t]); }
    if (p.reads == BETA) { das[t] = weighted(ws[t], das[t]); }
    if (p.reads != 0u) { work[p.dA + at + t * p.K] = das[t]; }
    if (p.gateWidth != 0u) { work[p.dW + at + t * p.K] = dws[t]; }
  }
}

// The gradients, 0 of padding: of k through k' = beta k and, with beta, through a (which is left in dA as a cotangent of k). Of a transposed
// read's q there's none here.
@compute @workgroup_size(THREADS) fn gradients(g: Group) { gradientRow(rowOf(g), g.thread); }

// X, where something is read, the products that lead to dQ, dK, dA, and the gradients, of a piece each; without decays.
@compute @workgroup_size(THREADS) fn finish(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let index = id.x + id.y * count.x;
  if (index >= p.heads * p.pieces) { return; }
  if (thread == 0u) { atomicStore(&spoilt, 0u); }
  if (p.reads != 0u) { solveAll(index, thread); }
  storageBarrier();
  multiplyAll(index, thread);
  storageBarrier();
  for (var row = 0u; row < p.rows; row += PER_GROUP_ROWS) { gradientRow(rowIn(index, row + thread / LANES, thread), thread); }
}

fn gradientRow(row: Row, thread: u32) {
  let keys = row.index * p.K;
  let beta = rate(row.token);
  var dbeta = 0.0;
  for (var i = row.lane; row.isToken && i < p.K; i += LANES) {
    let to = row.token * p.K + i;
    let dWritten = work[p.dK + keys + i];
    if (p.transposed == 0u) { dq[to] = select(work[p.dQ + keys + i], 0.0, row.padding); }
    dbeta += k[to] * dWritten;
    var dki = beta * dWritten;
    if (p.reads == BETA) { dki += work[p.dA + keys + i]; }
    dk[to] = select(dki, 0.0, row.padding);
    if (p.reads == ERASE) { dextra[to] = select(work[p.dA + keys + i], 0.0, row.padding); }
  }
  for (var j = row.lane; row.isToken && j < p.V; j += LANES) {
    dv[row.token * p.V + j] = select(work[p.dU + row.index * p.columns + j], 0.0, row.padding);
  }
  if (p.reads == BETA) {
    dbeta = sumLanes(dbeta, thread, LANES);
    if (p.logits == 1u) { dbeta = sigmoidBackward(extra[row.token], dbeta); }
    if (row.isToken && row.lane == 0u) { dextra[row.token] = select(dbeta, 0.0, row.padding); }
  }
}

// dgate: d log w, summed over the channels where they share it.
@compute @workgroup_size(THREADS) fn gateGradient(g: Group) {
  let row = rowOf(g);
  let at = p.dW + row.index * p.K;
  if (p.gateWidth == p.K) {
    for (var i = row.lane; row.isToken && i < p.K; i += LANES) { dgate[row.token * p.K + i] = select(work[at + i], 0.0, row.padding); }
  } else {
    var total = 0.0;
    for (var i = row.lane; row.isToken && i < p.K; i += LANES) { total += work[at + i]; }
    total = sumLanes(total, g.thread, LANES);
    if (row.isToken && row.lane == 0u) { dgate[row.token] = select(total, 0.0, row.padding); }
  }
}
