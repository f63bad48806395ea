// The backward of the chunk form; equations, letters and layout are those of fast-weights.wgsl.

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
