// The chunk form, a workgroup a head and SIDE columns of its state, which stays in its array; see fast-weights-heads.wgsl.

fn element(source: u32, at: u32) -> f32 {
  switch (source) {
    case QUERIES: { return q[at]; }
    case KEYS: { return k[at]; }
    case EXTRA: { return extra[at]; }
    default: { return state[at]; }
  }
}

@compute @workgroup_size(THREADS) fn headsForward(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let group = id.x + id.y * count.x;
  let blocks = (p.V + SIDE - 1u) / SIDE;
  let head = group / blocks;
  if (head >= p.heads) { return; }
  let j0 = group % blocks * SIDE;
  let width = min(SIDE, p.V - j0);
  let reads = p.reads != 0u;
  let readers = select(KEYS, EXTRA, p.reads == ERASE);
  let S = head * p.K * p.V + j0;
  for (var e = thread; e < p.K * width; e += THREADS) {
    let at = S + e / width * p.V + e % width;
    var x = 0.0;
    if (p.begun != 0u) { x = stateIn[at]; }
    state[at] = x;
  }
  for (var piece = 0u; piece < p.pieces; piece++) {
    let its = pieceOf(head * p.pieces + piece);
    let n = its.n;
    let keys = its.first * p.K;
    let nextK = p.H * p.K; // to the next token
    storageBarrier();
    var P = Sums();
    var M = Sums();
    var known = Sums();
    var o = Sums();
    for (var i0 = 0u; i0 < p.K; i0 += SIDE) {
      let height = min(SIDE, p.K - i0);
      let states = Side(STATES, S + i0 * p.V, 1u, p.V, width, height);
      workgroupBarrier();
      stage(thread, 0u, Side(KEYS, keys + i0, nextK, 1u, n, height), 1.0);
      if (p.reads == BETA) { stage(thread, OTHER, states, 1.0); }
      if (p.reads == ERASE) { stage(thread, OTHER, Side(EXTRA, keys + i0, nextK, 1u, n, height), 1.0); }
      workgroupBarrier();
      if (p.reads == BETA) {
        add(&M, thread, 0u, 0u, height, 0u);
        add(&known, thread, 0u, OTHER, height, 0u);
      }
      if (p.reads == ERASE) { add(&M, thread, OTHER, 0u, height, 0u); }
      workgroupBarrier();
      stage(thread, OTHER, Side(QUERIES, keys + i0, nextK, 1u, n, height), 1.0);
      workgroupBarrier();
      add(&P, thread, OTHER, 0u, height, 0u);
      workgroupBarrier();
      stage(thread, 0u, states, 1.0);
      workgroupBarrier();
      add(&o, thread, OTHER, 0u, height, 0u);
      if (p.reads == ERASE) {
        workgroupBarrier();
        stage(thread, OTHER, Side(EXTRA, keys + i0, nextK, 1u, n, height), 1.0);
        workgroupBarrier();
        add(&known, thread, OTHER, 0u, height, 0u);
      }
    }
    workgroupBarrier();
    keepTriangles(thread, n, M, P, its.first, true);
    let own = cornerOf(thread, n, width);
    for (var r = 0u; r < own.height; r++) {
      for (var s = 0u; s < own.width; s++) {
        let at = (its.first + (own.row + r) * p.H) * p.V + j0 + own.column + s;
        pairsP[(own.row + r) * SIDE + own.column + s] = v[at] - known[r][s];
      }
    }
    solvePairs(thread, n, width, false);
    stageTriangle(thread, 0u, n, false, false, its.first, false);
    stageSolved(thread, OTHER, width, n, 1.0, false);
    workgroupBarrier();
    add(&o, thread, 0u, OTHER, n, 1u);
    for (var r = 0u; r < own.height; r++) {
      let t = own.row + r;
      let token = its.first + t * p.H;
      let beta = rate(token);
      for (var s = 0u; s < own.width; s++) {
        y[token * p.V + j0 + own.column + s] = p.scale * o[r][s];
        pairsP[t * SIDE + own.column + s] *= beta;
      }
    }
    workgroupBarrier();
    stageSolved(thread, OTHER, width, n, 1.0, false);
    for (var i0 = 0u; i0 < p.K; i0 += SIDE) {
      let height = min(SIDE, p.K - i0);
      workgroupBarrier();
      stage(thread, 0u, Side(KEYS, keys + i0, 1u, nextK, height, n), 1.0);
      workgroupBarrier();
      let own = cornerOf(thread, height, width);
      var more = Sums();
      var done = 0u;
      // What the piece's chunks begin with: the sum so far. All in one would add the same in the same order.
      for (var t = select(n, 0u, p.kept != 0u && piece % p.perSpan == 0u); t < n; t += p.C) {
        add(&more, thread, done * 8u, OTHER + done * 8u, t - done, 0u);
        done = t;
        let place = (head * p.outside + piece / p.perSpan * p.stride + t / p.C) * p.K * p.V + j0;
        for (var r = 0u; r < own.height; r++) {
          for (var s = 0u; s < own.width; s++) {
            let at = (i0 + own.row + r) * p.V + own.column + s;
            states[place + at] = state[S + at] + more[r][s];
          }
        }
      }
      add(&more, thread, done * 8u, OTHER + done * 8u, n - done, 0u);
      for (var r = 0u; r < own.height; r++) {
        for (var s = 0u; s < own.width; s++) { state[S + (i0 + own.row + r) * p.V + own.column + s] += more[r][s]; }
      }
    }
  }
}
