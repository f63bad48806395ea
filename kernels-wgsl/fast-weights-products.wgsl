// Products of all pieces, and the scan over them; equations, letters and layout are those of fast-weights.wgsl.

// Products of all pieces, several that don't need each other: at most SIDE rows, any number of columns, of which a workgroup takes SIDE.
@compute @workgroup_size(THREADS) fn product(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  // The products that come one after the other in C are one piece of work.
  var group = id.x + id.y * count.x;
  var which = 0u;
  while (which < p.count) {
    let groups = p.heads * p.pieces * ((productAt(which).N + SIDE - 1u) / SIDE);
    if (!productAt(which).follows) {
      if (group < groups) { break; }
      group -= groups;
    }
    which++;
  }
  if (which >= p.count) { return; }
  let blocks = (productAt(which).N + SIDE - 1u) / SIDE;
  if (thread == 0u) { atomicStore(&spoilt, 0u); }
  multiplyChain(which, group / blocks, group % blocks * SIDE, thread);
}

/// The tokens of a piece: what follows of its rows isn't written, since 0 times what isn't finite would spread from there.
fn tokensOf(piece: u32) -> u32 {
  let before = piece % p.perSpan * p.rows;
  return min(min(p.rows, p.span - before), p.T - (p.first + piece / p.perSpan * p.span + before));
}

struct Columns {
  first: u32,
  count: u32,
}

/// These columns of the state `place` outside, to work from `to` on.
fn fetch(thread: u32, to: u32, place: u32, own: Columns) {
  for (var e = thread; e < p.K * own.count; e += THREADS) {
    let row = place * p.K + e / own.count;
    let j = own.first + e % own.count;
    var x = 0.0;
    if (j < p.V && (p.begun & 1u) != 0u) {
      if (p.carried != 0u) { x = state[row * p.V + j]; } else { x = stateIn[row * p.V + j]; }
    }
    if (j >= p.V && (p.begun & 2u) != 0u) {
      if (p.carried != 0u) { x = normaliser[row]; } else { x = normaliserIn[row]; }
    }
    work[to + e / own.count * p.columns + e % own.count] = x;
  }
  storageBarrier();
}

fn putOut(thread: u32, at: u32, place: u32, own: Columns) {
  for (var e = thread; e < p.K * own.count; e += THREADS) {
    let row = place * p.K + e / own.count;
    let j = own.first + e % own.count;
    let x = work[at + e / own.count * p.columns + e % own.count];
    if (j < p.V && (p.ended & 1u) != 0u) { state[row * p.V + j] = x; }
    if (j >= p.V && (p.ended & 2u) != 0u) { normaliser[row] = x; }
  }
}

fn keep(thread: u32, at: u32, place: u32, own: Columns) {
  for (var e = thread; e < p.K * own.count; e += THREADS) {
    let row = place * p.K + e / own.count;
    let j = own.first + e % own.count;
    let x = work[at + e / own.count * p.columns + e % own.count];
    if (j < p.V && (p.kept & 1u) != 0u) { states[row * p.V + j] = x; }
    if (j >= p.V && (p.kept & 2u) != 0u) { normalisers[row] = x; }
  }
}

// From piece to piece of a segment, SIDE columns of a head's state a workgroup. Each piece, with s the state before it (in
// reverse: its cotangent after):
//
//     values += readsTimes R s;  s <- gamma s + writesTimes W^T values + Q^T addsValues
//
// Forward, R = W, W = K~, values = U. Backward, in reverse, R = K~, W = W, values = dU, Q = Q~ and addsValues = G.
// It fetches the state that it begins with, and writes out the one that it ends with and those to be kept: its columns of them are nobody else's.
@compute @workgroup_size(THREADS) fn scan(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let group = id.x + id.y * count.x;
  let blocks = (p.columns + SIDE - 1u) / SIDE;
  let column = group % blocks * SIDE;
  let segment = group / blocks % p.segments;
  let head = group / blocks / p.segments;
  if (head >= p.heads) { return; }
  if (thread == 0u) { atomicStore(&spoilt, 0u); }
  let width = min(SIDE, p.columns - column);
  let size = p.K * p.columns;
  let start = segment * p.perSegment;
  let pieces = min(p.perSegment, p.pieces - start);
  let own = Columns(column, width);
  let first = p.states + (head * (p.pieces + 1u) + start) * size + column;
  fetch(thread, first + select(0u, pieces * size, p.reverse != 0u), (p.head + head) * p.fromOutside + p.firstOutside + segment * p.stride, own);
  for (var step = 0u; step < pieces; step++) {
    let piece = start + select(step, pieces - 1u - step, p.reverse != 0u);
    let index = head * p.pieces + piece;
    let there = first + (piece - start) * size;
    let before = there + select(0u, size, p.reverse != 0u);
    let after = there + select(size, 0u, p.reverse != 0u);
    if (p.kept != 0u && piece % p.perSpan == 0u) { keep(thread, before, (p.head + head) * p.outside + p.begin + piece / p.perSpan * p.stride, own); }
    let keys = index * p.rows * p.K;
    let values = Operand(p.values + index * p.rows * p.columns + column, p.columns, 1u);
    if (p.readsTerm != 0u) {
      clear();
      multiply(thread, Operand(p.readsWith + keys, p.K, 1u), p.rows, Operand(before, p.columns, 1u), width, p.K, 0u, p.forgets != 0u);
      let own = cornerOf(thread, tokensOf(piece), width);
      for (var r = 0u; r < own.height; r++) {
        for (var s = 0u; s < own.width; s++) { work[values.at + (own.row + r) * p.columns + own.column + s] += p.readsTimes * sums[r][s]; }
      }
      storageBarrier();
    }
    if (p.keepLast == 0u && step + 1u == pieces) { break; }
    for (var first = 0u; first < p.K; first += SIDE) {
      let height = min(SIDE, p.K - first);
      clear();
      if (p.writes != 0u) {
        multiply(thread, Operand(p.writesWith + keys + first, 1u, p.K), height, values, width, p.rows, 0u, p.forgets != 0u);
        for (var r = 0u; r < 4u; r++) { sums[r] *= p.writesTimes; }
      }
      if (p.adds != 0u) {
        let added = Operand(p.addsValues + index * p.rows * p.columns + column, p.columns, 1u);
        multiply(thread, Operand(p.addsWith + keys + first, 1u, p.K), height, added, width, p.rows, 0u, p.forgets != 0u);
      }
      let own = cornerOf(thread, height, width);
      for (var r = 0u; r < own.height; r++) {
        let i = first + own.row + r;
        let fading = work[p.gamma + index * p.K + i];
        for (var s = 0u; s < own.width; s++) {
          let at = i * p.columns + own.column + s;
          var x = work[before + at];
          if (p.forgets != 0u) { x = taken(fading, x); }
          // A piece of padding leaves its bits. 1 by its bits: what NaN == 1 is, the driver decides.
          if (!(p.forgets != 0u && bitcast<u32>(fading) == 0x3f800000u && isZero(sums[r][s]))) { x = fading * x + sums[r][s]; }
          work[after + at] = x;
        }
      }
    }
    storageBarrier();
  }
  if (p.ended != 0u) { putOut(thread, first + select(pieces * size, 0u, p.reverse != 0u), p.head + head, own); }
}
