// The chunk form, a workgroup a head and SIDE columns of its state, which stays in its array; see fast-weights-heads.wgsl.

fn element(source: u32, at: u32) -> f32 {
  switch (source) {
    case QUERIES: { return q[at]; }
    case KEYS: { return k[at]; }
    case EXTRA: { return extra[at]; }
    default: { return state[at]; }
  }
}

/// more = what it decays to in the tokens [begin, end), a chunk, and K~^T U of these; left: what of the state is left, of the thread's four channels. Where nothing
/// decays, chunk by chunk is the same as all in one.
fn write(more: ptr<function, Sums>, left: ptr<function, vec4<f32>>, thread: u32, its: Piece, begin: u32, end: u32, written: u32) {
  if (begin == end) { return; }
  let w = factor(its, end - 1u, CHUNK);
  let d = fadedOver(thread, begin, end);
  for (var r = 0u; r < 4u; r++) {
    (*more)[r] = fadedFour(stays(d[r], w), (*more)[r]);
    (*left)[r] = stays(d[r], (*left)[r]);
  }
  addThrough(more, thread, 0u, OTHER, begin, end, written, WRITTEN);
}

@compute @workgroup_size(THREADS) fn headsForward(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let its = columnsOf(id, count);
  let head = its.head;
  if (head >= p.heads) { return; }
  let j0 = its.first;
  let width = its.width;
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
    beginPiece(its);
    let written = bitsOf(its, WRITTEN);
    let toQueries = rowFactors(its, thread, QUERY);
    let toReaders = rowFactors(its, thread, READER);
    storageBarrier();
    var P = Sums();
    var M = Sums();
    var known = Sums();
    var o = Sums();
    for (var i0 = 0u; i0 < p.K; i0 += SIDE) {
      let height = min(SIDE, p.K - i0);
      let states = Side(STATES, S + i0 * p.V, 1u, p.V, width, height);
      let atOnce = p.reads == BETA && !CHANNELS; // what keys read, while they lie there
      workgroupBarrier();
      stage(thread, 0u, Side(KEYS, keys + i0, nextK, 1u, n, height), 1.0);
      stageAcross(thread, its, i0, height, true);
      if (atOnce) { stage(thread, OTHER, states, 1.0); }
      if (p.reads == ERASE) { stage(thread, OTHER, Side(EXTRA, keys + i0, nextK, 1u, n, height), 1.0); }
      workgroupBarrier();
      if (p.reads == ERASE) { addPairs(&M, &P, thread, OTHER, height, true, false); }
      if (atOnce) { addMet(&known, thread, 0u, OTHER, height, toReaders); }
      workgroupBarrier();
      stage(thread, OTHER, Side(QUERIES, keys + i0, nextK, 1u, n, height), 1.0);
      workgroupBarrier();
      addPairs(&P, &M, thread, OTHER, height, false, p.reads == BETA);
      workgroupBarrier();
      stage(thread, 0u, states, 1.0);
      fadeRows(thread, OTHER, QUERY);
      workgroupBarrier();
      addMet(&o, thread, OTHER, 0u, height, toQueries);
      if (p.reads == 0u || atOnce) { continue; }
      workgroupBarrier();
      stage(thread, OTHER, Side(select(KEYS, EXTRA, p.reads == ERASE), keys + i0, nextK, 1u, n, height), 1.0);
      fadeRows(thread, OTHER, select(QUERY, READER, p.reads == ERASE));
      workgroupBarrier();
      addRead(&known, thread, OTHER, 0u, height, toReaders);
    }
    workgroupBarrier();
    keepTriangles(thread, its, M, P, true);
    forget(&o, toQueries);
    forget(&known, toReaders);
    let own = cornerOf(thread, n, width);
    for (var r = 0u; r < own.height; r++) {
      let t = own.row + r;
      let row = (its.first + t * p.H) * p.V + j0;
      let there = factor(its, t, THERE);
      for (var s = 0u; s < own.width; s++) {
        let j = own.column + s;
        pairsP[t * SIDE + j] = faded(there, v[row + j]) - known[r][s];
      }
    }
    solvePairs(thread, n, width, false);
    stageTriangle(thread, 0u, its, false, false, false);
    stageSolved(thread, OTHER, width, n, 1.0, false);
    workgroupBarrier();
    addTriangle(&o, thread, 0u, OTHER, n, LOWER);
    for (var r = 0u; r < own.height; r++) {
      let t = own.row + r;
      let row = (its.first + t * p.H) * p.V + j0;
      let there = factor(its, t, THERE);
      let beta = strength(its, t) * factor(its, t, WRITTEN);
      for (var s = 0u; s < own.width; s++) {
        y[row + own.column + s] = faded(there, p.scale * o[r][s]);
        pairsP[t * SIDE + own.column + s] *= beta;
      }
    }
    workgroupBarrier();
    stageSolved(thread, OTHER, width, n, 1.0, false);
    let kept = p.kept != 0u && piece % p.perSpan == 0u;
    for (var i0 = 0u; i0 < p.K; i0 += SIDE) {
      let height = min(SIDE, p.K - i0);
      workgroupBarrier();
      stage(thread, 0u, Side(KEYS, keys + i0, 1u, nextK, height, n), 1.0);
      stageAlong(thread, its, i0, height);
      workgroupBarrier();
      let own = cornerOf(thread, height, width);
      var more = Sums();
      var left = vec4(1.0);
      var done = 0u;
      for (var t = select(n, 0u, kept || FADES); t < n; t += p.C) {
        write(&more, &left, thread, its, done, t, written);
        done = t;
        if (!kept) { continue; }
        // What the piece's chunks begin with.
        let place = (head * p.outside + piece / p.perSpan * p.stride + t / p.C) * p.K * p.V + j0;
        var gamma = 1.0;
        if (t > 0u) { gamma = factor(its, t - 1u, GAMMA); }
        for (var r = 0u; r < own.height; r++) {
          for (var s = 0u; s < own.width; s++) {
            let at = (i0 + own.row + r) * p.V + own.column + s;
            states[place + at] = remaining(gamma, stays(left[r], state[S + at]), more[r][s]);
          }
        }
      }
      write(&more, &left, thread, its, done, n, written);
      let gamma = factor(its, n - 1u, GAMMA);
      for (var r = 0u; r < own.height; r++) {
        for (var s = 0u; s < own.width; s++) {
          let at = S + (i0 + own.row + r) * p.V + own.column + s;
          state[at] = remaining(gamma, stays(left[r], state[at]), more[r][s]);
        }
      }
    }
  }
}
