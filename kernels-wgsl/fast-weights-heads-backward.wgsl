// The backward of the chunk form, a workgroup a head; see fast-weights-heads.wgsl.
// Pieces go from last to first, each from the snapshot before it. What lies in `work` is a head's own: the cotangent of its state, U of a piece, and at dA,
// in the order of the inputs, the gradient of `extra`, since no more arrays are bound than ten.

fn element(source: u32, at: u32) -> f32 {
  switch (source) {
    case QUERIES: { return q[at]; }
    case KEYS: { return k[at]; }
    case EXTRA: { return extra[at]; }
    case COTANGENTS: { return dy[at]; }
    case STATES: { return stateIn[at]; }
    case SOLVED: { return dv[at]; }
    default: { return work[at]; }
  }
}

/// SIDE columns of X from j0 on, into pairsP. With `first` pairsM is made, too; with `reading` A S is added to `known`.
fn solveBack(thread: u32, its: Piece, dS: u32, S: u32, j0: u32, width: u32, first: bool, reading: bool, known: ptr<function, Sums>) {
  let n = its.n;
  let keys = its.first * p.K;
  let nextK = p.H * p.K; // to the next token
  let nextV = p.H * p.V;
  var P = Sums();
  var M = Sums();
  var left = Sums();
  for (var i0 = 0u; i0 < p.K; i0 += SIDE) {
    let height = min(SIDE, p.K - i0);
    let state = i0 * p.V + j0;
    workgroupBarrier();
    stage(thread, 0u, Side(KEYS, keys + i0, nextK, 1u, n, height), 1.0);
    stage(thread, OTHER, Side(WORK, dS + state, 1u, p.V, width, height), 1.0);
    workgroupBarrier();
    add(&left, thread, 0u, OTHER, height, 0u);
    if (first) {
      workgroupBarrier();
      stage(thread, OTHER, Side(QUERIES, keys + i0, nextK, 1u, n, height), 1.0);
      workgroupBarrier();
      add(&P, thread, OTHER, 0u, height, 0u);
    }
    if (p.reads != 0u && (first || reading)) {
      var reader = 0u;
      if (p.reads == ERASE) {
        reader = OTHER;
        workgroupBarrier();
        stage(thread, OTHER, Side(EXTRA, keys + i0, nextK, 1u, n, height), 1.0);
        workgroupBarrier();
      }
      if (first) { add(&M, thread, reader, 0u, height, 0u); }
      if (!reading) { continue; }
      workgroupBarrier();
      stage(thread, OTHER - reader, Side(STATES, S + state, 1u, p.V, width, height), 1.0);
      workgroupBarrier();
      add(known, thread, reader, OTHER - reader, height, 0u);
    }
  }
  workgroupBarrier();
  if (first) { keepTriangles(thread, n, M, P, its.first, true); }
  workgroupBarrier();

  stageTriangle(thread, 0u, n, false, true, its.first, false);
  stage(thread, OTHER, Side(COTANGENTS, its.first * p.V + j0, 1u, nextV, width, n), p.scale);
  workgroupBarrier();
  var dU = Sums();
  add(&dU, thread, 0u, OTHER, n, 2u);
  let own = cornerOf(thread, n, width);
  for (var r = 0u; r < own.height; r++) {
    let beta = rate(its.first + (own.row + r) * p.H);
    for (var s = 0u; s < own.width; s++) { pairsP[(own.row + r) * SIDE + own.column + s] = dU[r][s] + beta * left[r][s]; }
  }
  solvePairs(thread, n, width, true);
}

/// The cotangent of a head's state after the last segment: zeros, where none is given.
fn beginBack(thread: u32, at: u32, column: u32, width: u32) {
  for (var e = thread; p.begun == 0u && e < p.K * width; e += THREADS) { work[at + e / width * p.V + column + e % width] = 0.0; }
  storageBarrier();
}

// The cotangents of the states after all segments but the last, one after the other, SIDE columns of a head a workgroup: only X, for what comes before.
@compute @workgroup_size(THREADS) fn headsCarry(
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
  let size = p.K * p.V;
  let nextK = p.H * p.K;
  beginBack(thread, p.dS + ((head + 1u) * p.segments - 1u) * size, j0, width);
  for (var piece = p.pieces; piece > p.perSegment; piece--) {
    let its = pieceOf(head * p.pieces + piece - 1u);
    let to = p.dS + (head * p.segments + (piece - 1u) / p.perSegment - 1u) * size;
    let dS = select(to, to + size, piece == p.pieces || piece % p.perSegment == 0u);
    var known = Sums();
    solveBack(thread, its, dS, 0u, j0, width, true, false, &known);
    for (var i0 = 0u; i0 < p.K; i0 += SIDE) {
      let height = min(SIDE, p.K - i0);
      var more = Sums();
      workgroupBarrier();
      stage(thread, 0u, Side(QUERIES, its.first * p.K + i0, 1u, nextK, height, its.n), 1.0);
      stage(thread, OTHER, Side(COTANGENTS, its.first * p.V + j0, 1u, p.H * p.V, width, its.n), p.scale);
      workgroupBarrier();
      add(&more, thread, 0u, OTHER, its.n, 0u);
      if (p.reads != 0u) {
        workgroupBarrier();
        stage(thread, 0u, Side(select(KEYS, EXTRA, p.reads == ERASE), its.first * p.K + i0, 1u, nextK, height, its.n), 1.0);
        stageSolved(thread, OTHER, width, its.n, -1.0, false);
        workgroupBarrier();
        add(&more, thread, 0u, OTHER, its.n, 0u);
      }
      let own = cornerOf(thread, height, width);
      for (var r = 0u; r < own.height; r++) {
        for (var s = 0u; s < own.width; s++) {
          let at = (i0 + own.row + r) * p.V + j0 + own.column + s;
          work[to + at] = work[dS + at] + more[r][s];
        }
      }
    }
    storageBarrier();
  }
}

@compute @workgroup_size(THREADS) fn headsBackward(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let group = id.x + id.y * count.x;
  let head = group / p.segments;
  if (head >= p.heads) { return; }
  let segment = group % p.segments;
  let reads = p.reads != 0u;
  let readers = select(KEYS, EXTRA, p.reads == ERASE);
  let dS = p.dS + group * p.K * p.V;
  let U = p.U + group * p.rows * p.V;
  if (segment + 1u == p.segments) { beginBack(thread, dS, 0u, p.V); }
  for (var piece = min(p.pieces, (segment + 1u) * p.perSegment); piece > segment * p.perSegment; piece--) {
    let its = pieceOf(head * p.pieces + piece - 1u);
    let n = its.n;
    let keys = its.first * p.K;
    let values = its.first * p.V;
    let nextK = p.H * p.K; // to the next token
    let nextV = p.H * p.V;
    let S = (head * p.outside + (piece - 1u) * p.stride) * p.K * p.V;

    // P, M, U, X, dP and dM, SIDE columns at a time.
    var dP = Sums();
    var dM = Sums();
    for (var j0 = 0u; j0 < p.V; j0 += SIDE) {
      let width = min(SIDE, p.V - j0);
      var known = Sums();
      solveBack(thread, its, dS, S, j0, width, j0 == 0u, true, &known);
      let own = cornerOf(thread, n, width);
      for (var e = thread; e < n * width; e += THREADS) { dv[values + e / width * nextV + j0 + e % width] = pairsP[e / width * SIDE + e % width]; }
      stageSolved(thread, OTHER, n, width, -1.0, true);
      workgroupBarrier();

      for (var r = 0u; r < own.height; r++) {
        for (var s = 0u; s < own.width; s++) {
          let at = values + (own.row + r) * nextV + j0 + own.column + s;
          pairsP[(own.row + r) * SIDE + own.column + s] = v[at] - known[r][s];
        }
      }
      solvePairs(thread, n, width, false);
      for (var e = thread; e < n * width; e += THREADS) { work[U + e / width * p.V + j0 + e % width] = pairsP[e / width * SIDE + e % width]; }
      stageSolved(thread, 0u, n, width, 1.0, true);
      workgroupBarrier();
      if (reads) { add(&dM, thread, OTHER, 0u, width, 0u); }
      workgroupBarrier();
      stage(thread, OTHER, Side(COTANGENTS, values + j0, nextV, 1u, n, width), p.scale);
      workgroupBarrier();
      add(&dP, thread, OTHER, 0u, width, 0u);
    }
    keepTriangles(thread, n, dM, dP, its.first, false);
    storageBarrier();

    // What goes back to keys, queries and readers, and to the state before, SIDE channels at a time.
    var dbetas = vec4<f32>();
    for (var i0 = 0u; i0 < p.K; i0 += SIDE) {
      let height = min(SIDE, p.K - i0);
      var dQ = Sums();
      var dK = Sums();
      var dA = Sums();
      for (var j0 = 0u; j0 < p.V; j0 += SIDE) {
        let width = min(SIDE, p.V - j0);
        let state = i0 * p.V + j0;
        workgroupBarrier();
        stage(thread, 0u, Side(COTANGENTS, values + j0, nextV, 1u, n, width), p.scale);
        stage(thread, OTHER, Side(STATES, S + state, p.V, 1u, height, width), 1.0);
        workgroupBarrier();
        add(&dQ, thread, 0u, OTHER, width, 0u);
        if (reads) {
          workgroupBarrier();
          stage(thread, 0u, Side(SOLVED, values + j0, nextV, 1u, n, width), -1.0);
          workgroupBarrier();
          add(&dA, thread, 0u, OTHER, width, 0u);
        }
        workgroupBarrier();
        stage(thread, 0u, Side(WORK, U + j0, p.V, 1u, n, width), 1.0);
        stage(thread, OTHER, Side(WORK, dS + state, p.V, 1u, height, width), 1.0);
        workgroupBarrier();
        add(&dK, thread, 0u, OTHER, width, 0u);

        var more = Sums();
        workgroupBarrier();
        stage(thread, 0u, Side(COTANGENTS, values + j0, 1u, nextV, width, n), p.scale);
        stage(thread, OTHER, Side(QUERIES, keys + i0, 1u, nextK, height, n), 1.0);
        workgroupBarrier();
        add(&more, thread, OTHER, 0u, n, 0u);
        if (j0 == 0u) {
          workgroupBarrier();
          stageTriangle(thread, 0u, n, false, true, its.first, false);
          workgroupBarrier();
          add(&dK, thread, 0u, OTHER, n, 2u);
          workgroupBarrier();
          stageTriangle(thread, 0u, n, false, false, its.first, true);
          stage(thread, OTHER, Side(KEYS, keys + i0, 1u, nextK, height, n), 1.0);
          workgroupBarrier();
          add(&dQ, thread, 0u, OTHER, n, 1u);
          if (reads) {
            workgroupBarrier();
            stageTriangle(thread, 0u, n, true, false, its.first, true);
            workgroupBarrier();
            add(&dA, thread, 0u, OTHER, n, 1u);
          }
        }
        if (reads) {
          workgroupBarrier();
          if (j0 != 0u || readers == EXTRA) { stage(thread, OTHER, Side(readers, keys + i0, 1u, nextK, height, n), 1.0); }
          if (j0 == 0u) {
            stageTriangle(thread, 0u, n, true, true, its.first, false);
            workgroupBarrier();
            add(&dK, thread, 0u, OTHER, n, 2u);
            workgroupBarrier();
          }
          stage(thread, 0u, Side(SOLVED, values + j0, 1u, nextV, width, n), -1.0);
          workgroupBarrier();
          add(&more, thread, OTHER, 0u, n, 0u);
        }
        let own = cornerOf(thread, height, width);
        for (var r = 0u; r < own.height; r++) {
          for (var s = 0u; s < own.width; s++) { work[dS + state + (own.row + r) * p.V + own.column + s] += more[r][s]; }
        }
      }
      let own = cornerOf(thread, n, height);
      for (var r = 0u; r < own.height; r++) {
        let t = own.row + r;
        let beta = rate(its.first + t * p.H);
        for (var s = 0u; s < own.width; s++) {
          let i = own.column + s;
          let to = keys + t * nextK + i0 + i;
          dq[to] = dQ[r][s];
          var dki = beta * dK[r][s];
          if (p.reads == ERASE) { work[p.dA + to] = dA[r][s]; }
          if (p.reads == BETA) {
            dki += dA[r][s];
            // Its reader's tile, the last one, is k.
            var key = f32(staged[OTHER + t * 8u + i / 4u][s]);
            if (HALF) { key = k[to]; }
            dbetas[r] += key * dK[r][s];
          }
          dk[to] = dki;
        }
      }
    }
    storageBarrier();
    if (p.reads == BETA) {
      for (var r = 0u; r < 4u; r++) { pairsP[thread * 4u + r] = dbetas[r]; }
      workgroupBarrier();
      if (thread < n) {
        var dbeta = 0.0;
        for (var c = 0u; c < 8u; c++) { dbeta += pairsP[(thread / 4u * 8u + c) * 4u + thread % 4u]; }
        let token = its.first + thread * p.H;
        if (p.logits == 1u) { dbeta = sigmoidBackward(extra[token], dbeta); }
        work[p.dA + token] = dbeta;
      }
    }
  }
}
