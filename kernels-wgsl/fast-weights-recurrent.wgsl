// The recurrent form; equations, letters and layout are those of fast-weights.wgsl.

const STAGED = 256u;
var<workgroup> stagedQ: array<f32, STAGED>;
var<workgroup> stagedK: array<f32, STAGED>;
var<workgroup> stagedA: array<f32, STAGED>;
var<workgroup> stagedW: array<f32, STAGED>;

/// Brings in what a token has of STAGED channels.
fn stage(token: u32, flags: u32, i0: u32, thread: u32) {
  workgroupBarrier();
  for (var i = thread; i < min(STAGED, p.K - i0); i += THREADS) {
    let w = decay(token, flags, i0 + i);
    stagedW[i] = w;
    stagedA[i] = reader(token, flags, i0 + i, w);
    stagedK[i] = writtenKey(token, flags, i0 + i);
    stagedQ[i] = query(token, flags, i0 + i);
  }
  workgroupBarrier();
}

/// An element of the state for what weighs it: one of a channel that is forgotten is 0.
fn held(at: u32, weight: f32) -> f32 {
  if (!forgets()) { return work[at]; }
  return taken(weight, work[at]);
}

// Token by token from the state in the first slot: y = scale o or, with a normaliser, o into O, for `outputs`. A thread owns a column of the
// state from the first token to the last; a workgroup takes THREADS columns of a head. The state before each piece is kept, unless inPlace. A
// transposed read needs all columns: it comes later.
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
      let flags = flagsOf(token);
      var o = 0.0;
      if (isPadding(flags)) {
        for (var i = 0u; j < p.columns && i < p.K; i++) {
          let at = i * p.columns;
          if (begins(flags)) { work[next + at] = 0.0; } else { work[next + at] = work[source + at]; }
        }
      } else {
        var u = 0.0;
        if (j < p.columns) { u = value(token, flags, j); }
        for (var i0 = 0u; p.reads != 0u && i0 < p.K; i0 += STAGED) {
          stage(token, flags, i0, thread);
          for (var i = i0; j < p.columns && i < min(i0 + STAGED, p.K); i++) {
            let a = stagedA[i - i0];
            u -= a * held(source + i * p.columns, readOrLeft(a, stagedW[i - i0]));
          }
        }
        for (var i0 = 0u; i0 < p.K; i0 += STAGED) {
          if (p.reads == 0u || p.K > STAGED) { stage(token, flags, i0, thread); }
          for (var i = i0; j < p.columns && i < min(i0 + STAGED, p.K); i++) {
            let w = stagedW[i - i0];
            let x = w * held(source + i * p.columns, w) + stagedK[i - i0] * u;
            work[next + i * p.columns] = x;
            o += stagedQ[i - i0] * x;
          }
        }
      }
      source = next;
      if (p.columns > p.V) {
        if (j < p.columns) { work[p.O + (index * p.rows + t) * p.columns + j] = o; }
      } else if (j < p.V && p.transposed == 0u) { y[token * p.V + j] = p.scale * o; }
    }
  }
}
