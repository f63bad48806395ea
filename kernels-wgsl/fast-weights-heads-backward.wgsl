// The backward of the chunk form, a workgroup a head; see fast-weights-heads.wgsl.
// Pieces go from last to first, each from the snapshot before it. What lies in `work` is a head's own: the cotangent of its state, U of a piece, and at dA,
// in the order of the inputs, the gradient of `extra`, at dW that of the gate, since no more arrays are bound than ten.

fn element(source: u32, at: u32) -> f32 {
  switch (source) {
    case QUERIES: { return q[at]; }
    case KEYS: { return k[at]; }
    case EXTRA: { return erasing(at); }
    case COTANGENTS: { return dy[at]; }
    case STATES: { return stateIn[at]; }
    case SOLVED: { return dv[at]; }
    default: { return work[at]; }
  }
}

/// What of V - U, A~ S, and of dU, K~ dS, comes of the states: a thread's corner.
struct OfStates {
  known: Sums,
  written: Sums,
}

/// SIDE columns of X from j0 on, into pairsP. With `first` pairsM is made, too; with `reading` what is known is given, too.
fn solveBack(thread: u32, its: Piece, dS: u32, S: u32, j0: u32, width: u32, first: bool, reading: bool) -> OfStates {
  let n = its.n;
  let keys = its.first * p.K;
  let nextK = p.H * p.K; // to the next token
  let nextV = p.H * p.V;
  var P = Sums();
  var M = Sums();
  var known = Sums();
  var ofWritten = Sums();
  let toReaders = rowFactors(its, thread, READER);
  let toWritten = rowFactors(its, thread, WRITTEN);
  for (var i0 = 0u; i0 < p.K; i0 += SIDE) {
    let height = min(SIDE, p.K - i0);
    let state = i0 * p.V + j0;
    workgroupBarrier();
    let written = Side(WORK, dS + state, 1u, p.V, width, height);
    stage(thread, 0u, Side(KEYS, keys + i0, nextK, 1u, n, height), 1.0);
    stageAcross(thread, its, i0, height, first);
    if (!CHANNELS) {
      stage(thread, OTHER, written, 1.0);
      workgroupBarrier();
      add(&ofWritten, thread, 0u, OTHER, height);
    }
    if (first) {
      workgroupBarrier();
      stage(thread, OTHER, Side(QUERIES, keys + i0, nextK, 1u, n, height), 1.0);
      workgroupBarrier();
      addPairs(&P, &M, thread, OTHER, height, false, p.reads == BETA);
    }
    if (p.reads != 0u && (first || reading)) {
      var reader = 0u;
      if (p.reads == ERASE) {
        reader = OTHER;
        workgroupBarrier();
        stage(thread, OTHER, Side(EXTRA, keys + i0, nextK, 1u, n, height), 1.0);
        workgroupBarrier();
      }
      if (first && p.reads == ERASE) { addPairs(&M, &P, thread, OTHER, height, true, false); }
      if (reading) {
        workgroupBarrier();
        stage(thread, OTHER - reader, Side(STATES, S + state, 1u, p.V, width, height), 1.0);
        fadeRows(thread, reader, select(QUERY, READER, p.reads == ERASE));
        workgroupBarrier();
        addRead(&known, thread, reader, OTHER - reader, height, toReaders);
      }
    }
    if (CHANNELS) {
      // Now that pairs are done with them, keys may decay.
      workgroupBarrier();
      stage(thread, 0u, Side(KEYS, keys + i0, nextK, 1u, n, height), 1.0);
      stage(thread, OTHER, written, 1.0);
      fadeRows(thread, 0u, WRITTEN);
      workgroupBarrier();
      addMet(&ofWritten, thread, 0u, OTHER, height, vec4(1.0));
    }
  }
  forget(&known, toReaders);
  workgroupBarrier();
  if (first) { keepTriangles(thread, its, M, P, true); }
  workgroupBarrier();

  stageTriangle(thread, 0u, its, false, true, false);
  stage(thread, OTHER, Side(COTANGENTS, its.first * p.V + j0, 1u, nextV, width, n), p.scale);
  workgroupBarrier();
  var dU = Sums();
  addTriangle(&dU, thread, 0u, OTHER, n, UPPER);
  let own = cornerOf(thread, n, width);
  for (var r = 0u; r < own.height; r++) {
    let t = own.row + r;
    ofWritten[r] = fadedFour(toWritten[r], strength(its, t) * ofWritten[r]);
    let u = dU[r] + ofWritten[r];
    for (var s = 0u; s < own.width; s++) { pairsP[t * SIDE + own.column + s] = u[s]; }
  }
  solvePairs(thread, n, width, true);
  return OfStates(known, ofWritten);
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
  let its = columnsOf(id, count);
  let head = its.head;
  if (head >= p.heads) { return; }
  let j0 = its.first;
  let width = its.width;
  let size = p.K * p.V;
  let nextK = p.H * p.K;
  let nextV = p.H * p.V;
  beginBack(thread, p.dS + ((head + 1u) * p.segments - 1u) * size, j0, width);
  for (var piece = p.pieces; piece > p.perSegment; piece--) {
    let its = pieceOf(head * p.pieces + piece - 1u);
    let to = p.dS + (head * p.segments + (piece - 1u) / p.perSegment - 1u) * size;
    let dS = select(to, to + size, piece == p.pieces || piece % p.perSegment == 0u);
    beginPiece(its);
    solveBack(thread, its, dS, 0u, j0, width, true, false);
    let solved = Side(SOLVED, its.first * p.V + j0, 1u, nextV, width, its.n);
    if (CHANNELS) {
      // Decays take the place of X.
      for (var e = thread; e < its.n * width; e += THREADS) { dv[solved.at + e / width * nextV + e % width] = pairsP[e / width * SIDE + e % width]; }
      storageBarrier();
    }
    let queries = bitsOf(its, QUERY);
    let readers = bitsOf(its, READER);
    let gamma = factor(its, its.n - 1u, GAMMA);
    for (var i0 = 0u; i0 < p.K; i0 += SIDE) {
      let height = min(SIDE, p.K - i0);
      var more = Sums();
      workgroupBarrier();
      stage(thread, 0u, Side(QUERIES, its.first * p.K + i0, 1u, nextK, height, its.n), 1.0);
      stage(thread, OTHER, Side(COTANGENTS, its.first * p.V + j0, 1u, nextV, width, its.n), p.scale);
      fadeTile(thread, OTHER, its, QUERY, nextV == 1u);
      stageAlong(thread, its, i0, height);
      workgroupBarrier();
      let left = addThrough(&more, thread, 0u, OTHER, 0u, its.n, queries, QUERY);
      if (p.reads != 0u) {
        workgroupBarrier();
        stage(thread, 0u, Side(select(KEYS, EXTRA, p.reads == ERASE), its.first * p.K + i0, 1u, nextK, height, its.n), 1.0);
        if (CHANNELS) { stage(thread, OTHER, solved, -1.0); }
        else { stageSolved(thread, OTHER, width, its.n, -1.0, false); }
        fadeTile(thread, OTHER, its, READER, CHANNELS && nextV == 1u);
        workgroupBarrier();
        addThrough(&more, thread, 0u, OTHER, 0u, its.n, readers, select(QUERY, READER, p.reads == ERASE));
      }
      let own = cornerOf(thread, height, width);
      for (var r = 0u; r < own.height; r++) {
        for (var s = 0u; s < own.width; s++) {
          let at = (i0 + own.row + r) * p.V + j0 + own.column + s;
          work[to + at] = remaining(gamma, stays(left[r], work[dS + at]), more[r][s]);
        }
      }
    }
    storageBarrier();
  }
}

/// What pairs of tokens i > j have to do with the decays between them, dP_ij P_ij + dM_ij M_ij, into pairsP; with erase, of which M doesn't touch w_i, that of M
/// at (j,i).
fn meetPairs(thread: u32, n: u32, a: Sums, b: Sums) {
  var dM = a;
  var dP = b;
  let own = cornerOf(thread, n, n);
  for (var r = 0u; r < own.height; r++) {
    let i = own.row + r;
    for (var s = 0u; s < own.width && own.column + s < i; s++) {
      let j = own.column + s;
      let x = faded(pairsM[j * SIDE + i], dP[r][s]);
      let y = faded(pairsM[i * SIDE + j], dM[r][s]);
      pairsP[i * SIDE + j] = select(x + y, x, p.reads != BETA);
      pairsP[j * SIDE + i] = select(0.0, y, p.reads == ERASE);
    }
  }
}

/// The share of these in d log w_t.
fn pairsAcross(t: u32, n: u32) -> f32 {
  var x = 0.0;
  for (var i = t; i < n; i++) {
    for (var j = 0u; j < t; j++) {
      x += pairsP[i * SIDE + j];
      if (i > t) { x += pairsP[j * SIDE + i]; }
    }
  }
  return x;
}

/// The sum over a row of corners, of what each thread has for its four rows at `at` in pairsP.
fn sumOfRow(at: u32, row: u32) -> f32 {
  var x = 0.0;
  for (var c = 0u; c < 8u; c++) { x += pairsP[at + (row / 4u * 8u + c) * 4u + row % 4u]; }
  return x;
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
  let gated = FADES && !CHANNELS && p.gateWidth != 0u;
  let source = select(KEYS, EXTRA, p.reads == ERASE);
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
    let queries = bitsOf(its, QUERY);
    let readers = bitsOf(its, READER);
    let gamma = factor(its, n - 1u, GAMMA);
    beginPiece(its);
    // Of each token, what it has to do with the decays up to it, before it and after it; with erase what it reads is in the second, else in the first.
    var upTo = vec4<f32>();
    var before = vec4<f32>();
    var after = vec4<f32>();

    // P, M, U, X, dP and dM, SIDE columns at a time.
    var dP = Sums();
    var dM = Sums();
    for (var j0 = 0u; j0 < p.V; j0 += SIDE) {
      let width = min(SIDE, p.V - j0);
      var ofStates = solveBack(thread, its, dS, S, j0, width, j0 == 0u, true);
      let own = cornerOf(thread, n, width);
      for (var e = thread; e < n * width; e += THREADS) { dv[values + e / width * nextV + j0 + e % width] = pairsP[e / width * SIDE + e % width]; }
      stageSolved(thread, OTHER, n, width, -1.0, true);
      for (var r = 0u; gated && r < own.height; r++) {
        let row = (own.row + r) * SIDE + own.column;
        for (var s = 0u; s < own.width; s++) { before[r] -= faded(ofStates.known[r][s], pairsP[row + s]); }
      }
      workgroupBarrier();

      for (var r = 0u; r < own.height; r++) {
        let t = own.row + r;
        for (var s = 0u; s < own.width; s++) {
          let at = values + t * nextV + j0 + own.column + s;
          pairsP[t * SIDE + own.column + s] = faded(factor(its, t, THERE), v[at]) - ofStates.known[r][s];
        }
      }
      solvePairs(thread, n, width, false);
      for (var e = thread; e < n * width; e += THREADS) { work[U + e / width * p.V + j0 + e % width] = pairsP[e / width * SIDE + e % width]; }
      stageSolved(thread, 0u, n, width, 1.0, true);
      for (var r = 0u; gated && r < own.height; r++) {
        let row = (own.row + r) * SIDE + own.column;
        for (var s = 0u; s < own.width; s++) { after[r] += faded(ofStates.written[r][s], pairsP[row + s]); }
      }
      workgroupBarrier();
      if (reads) { add(&dM, thread, OTHER, 0u, width); }
      workgroupBarrier();
      stage(thread, OTHER, Side(COTANGENTS, values + j0, nextV, 1u, n, width), p.scale);
      workgroupBarrier();
      add(&dP, thread, OTHER, 0u, width);
    }
    var dgate = 0.0;
    if (gated) {
      meetPairs(thread, n, dM, dP);
      workgroupBarrier();
      dgate = pairsAcross(thread, n);
    }
    keepTriangles(thread, its, dM, dP, false);
    storageBarrier();

    // What goes back to keys, queries and readers, and to the state before, SIDE channels at a time.
    var dbetas = vec4<f32>();
    var ofState = 0.0;
    for (var i0 = 0u; i0 < p.K; i0 += SIDE) {
      let height = min(SIDE, p.K - i0);
      let own = cornerOf(thread, n, height);
      var dQ = Sums();
      var dK = Sums();
      var dA = Sums();
      var later: Later;
      var left: vec4<f32>;
      var ofStates = vec4<f32>();
      stageAlong(thread, its, i0, height);
      for (var j0 = 0u; j0 < p.V; j0 += SIDE) {
        let width = min(SIDE, p.V - j0);
        let state = i0 * p.V + j0;
        let ofColumns = cornerOf(thread, height, width);
        let last = j0 + SIDE >= p.V;
        workgroupBarrier();
        stage(thread, 0u, Side(COTANGENTS, values + j0, nextV, 1u, n, width), p.scale);
        stage(thread, OTHER, Side(STATES, S + state, p.V, 1u, height, width), 1.0);
        workgroupBarrier();
        add(&dQ, thread, 0u, OTHER, width);
        for (var r = 0u; (CHANNELS || gated) && r < ofColumns.height; r++) {
          for (var s = 0u; s < ofColumns.width; s++) {
            let j = ofColumns.column + s;
            ofStates[r] += f32(staged[OTHER + j * 8u + thread / 8u][r]) * work[dS + state + (ofColumns.row + r) * p.V + j];
          }
        }
        if (reads) {
          workgroupBarrier();
          stage(thread, 0u, Side(SOLVED, values + j0, nextV, 1u, n, width), -1.0);
          workgroupBarrier();
          add(&dA, thread, 0u, OTHER, width);
        }
        workgroupBarrier();
        stage(thread, 0u, Side(WORK, U + j0, p.V, 1u, n, width), 1.0);
        stage(thread, OTHER, Side(WORK, dS + state, p.V, 1u, height, width), 1.0);
        workgroupBarrier();
        add(&dK, thread, 0u, OTHER, width);

        var more = Sums();
        workgroupBarrier();
        stage(thread, 0u, Side(COTANGENTS, values + j0, 1u, nextV, width, n), p.scale);
        fadeTile(thread, 0u, its, QUERY, nextV == 1u);
        stage(thread, OTHER, Side(QUERIES, keys + i0, 1u, nextK, height, n), 1.0);
        workgroupBarrier();
        left = addThrough(&more, thread, OTHER, 0u, 0u, n, queries, QUERY);
        if (CHANNELS && last) { fromLater(thread, its, false, &later); }
        if (!CHANNELS && last) {
          // What comes from the states is complete: what decays leave of it, and then the pairs' part.
          for (var r = 0u; FADES && r < own.height; r++) {
            let t = own.row + r;
            let w = factor(its, t, QUERY);
            dQ[r] = fadedFour(w, dQ[r]);
            dA[r] = fadedFour(factor(its, t, READER), dA[r]);
            dK[r] = fadedFour(factor(its, t, WRITTEN), dK[r]);
            if (!isZero(w)) { upTo[r] += dot(dQ[r], vec4<f32>(staged[OTHER + t * 8u + thread % 8u])); }
          }
          workgroupBarrier();
          stageTriangle(thread, 0u, its, false, true, false);
          workgroupBarrier();
          addTriangle(&dK, thread, 0u, OTHER, n, UPPER);
          workgroupBarrier();
          stageTriangle(thread, 0u, its, false, false, true);
          stage(thread, OTHER, Side(KEYS, keys + i0, 1u, nextK, height, n), 1.0);
          workgroupBarrier();
          addTriangle(&dQ, thread, 0u, OTHER, n, LOWER);
          if (reads) {
            workgroupBarrier();
            stageTriangle(thread, 0u, its, true, false, true);
            workgroupBarrier();
            addTriangle(&dA, thread, 0u, OTHER, n, LOWER);
          }
        }
        if (reads) {
          workgroupBarrier();
          if (CHANNELS || !last || source == EXTRA) { stage(thread, OTHER, Side(source, keys + i0, 1u, nextK, height, n), 1.0); }
          if (!CHANNELS && last) {
            stageTriangle(thread, 0u, its, true, true, false);
            workgroupBarrier();
            addTriangle(&dK, thread, 0u, OTHER, n, UPPER | WEIGHTS_B);
            workgroupBarrier();
          }
          stage(thread, 0u, Side(SOLVED, values + j0, 1u, nextV, width, n), -1.0);
          fadeTile(thread, 0u, its, READER, nextV == 1u);
          workgroupBarrier();
          addThrough(&more, thread, OTHER, 0u, 0u, n, readers, select(QUERY, READER, p.reads == ERASE));
          if (CHANNELS && last) { fromLater(thread, its, true, &later); }
        }
        for (var r = 0u; r < ofColumns.height; r++) {
          for (var s = 0u; s < ofColumns.width; s++) {
            let at = dS + state + (ofColumns.row + r) * p.V + ofColumns.column + s;
            work[at] = remaining(gamma, stays(left[r], work[at]), more[r][s]);
          }
        }
      }
      ofState += dot(ofStates, vec4(1.0));
      if (CHANNELS) {
        for (var r = 0u; r < own.height; r++) {
          dQ[r] = fadedFour(factor(its, own.row + r, QUERY), dQ[r]);
          dA[r] = fadedFour(factor(its, own.row + r, READER), dA[r]);
          dK[r] = fadedFour(factor(its, own.row + r, WRITTEN), dK[r]);
        }
        pairsBack(thread, its, i0, height, left, ofStates, &later, &dQ, &dA, &dK);
      }
      for (var r = 0u; r < own.height; r++) {
        let t = own.row + r;
        let there = factor(its, t, THERE);
        let beta = strength(its, t);
        for (var s = 0u; s < own.width; s++) {
          let i = own.column + s;
          let to = keys + t * nextK + i0 + i;
          dq[to] = faded(there, dQ[r][s]);
          var dki = beta * dK[r][s];
          if (p.reads == ERASE) { work[p.dA + to] = faded(there, dA[r][s]); }
          if (p.reads == BETA) {
            dki += dA[r][s];
            // Its reader's tile, the last one, is k.
            var key = f32(staged[OTHER + t * 8u + i / 4u][s]);
            if (HALF) { key = k[to]; }
            dbetas[r] += key * dK[r][s];
          }
          dk[to] = faded(there, dki);
        }
      }
    }
    storageBarrier();
    workgroupBarrier(); // other threads have read pairsP
    if (p.reads == BETA || gated) {
      // Four numbers a thread for its rows: what beta gets, and what decays do.
      if (p.reads != ERASE) { upTo += before; }
      for (var r = 0u; r < 4u; r++) {
        let at = thread * 4u + r;
        pairsP[at] = select(before[r], dbetas[r], p.reads == BETA);
        pairsP[256u + at] = upTo[r];
        pairsP[512u + at] = after[r];
      }
      pairsP[768u + thread] = ofState;
      workgroupBarrier();
      if (thread < n) {
        let token = its.first + thread * p.H;
        let first = sumOfRow(0u, thread);
        if (p.reads == BETA) {
          var dbeta = first;
          if (p.logits == 1u) { dbeta = sigmoidBackward(erasing(token), dbeta); }
          work[p.dA + token] = faded(factor(its, thread, THERE), dbeta);
        }
        pairsM[thread] = select(first, 0.0, p.reads != ERASE);
        pairsM[SIDE + thread] = sumOfRow(256u, thread);
        pairsM[2u * SIDE + thread] = sumOfRow(512u, thread);
      }
      workgroupBarrier();
      if (gated && thread < n) {
        var total = 0.0;
        for (var e = 0u; e < THREADS; e++) { total += pairsP[768u + e]; }
        dgate += faded(gamma, total);
        for (var t = 0u; t < n; t++) {
          if (t < thread) { dgate += pairsM[2u * SIDE + t]; }
          if (t > thread) { dgate += pairsM[t]; }
          if (t >= thread) { dgate += pairsM[SIDE + t]; }
        }
        let token = its.first + thread * p.H;
        work[p.dW + token] = faded(factor(its, thread, THERE), dgate);
      }
    }
  }
}
