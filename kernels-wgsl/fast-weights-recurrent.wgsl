// The recurrent form; equations, letters and layout are those of fast-weights.wgsl.

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
