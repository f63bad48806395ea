// fast-weights-heads.wgsl where something may be forgotten, by flags or a gate: what `decays` of fast-weights.wgsl has left in
// `work`. A weight of exactly 0 takes nothing.

const FADES = true;

/// Of token t of a piece.
fn factor(its: Piece, t: u32, which: u32) -> f32 { return work[p.w + (its.index * p.rows + t) * FACTORS + which]; }
/// beta, 0 of padding.
fn strength(its: Piece, t: u32) -> f32 { return factor(its, t, STRENGTH); }
fn faded(weight: f32, x: f32) -> f32 { return weighted(weight, x); }
fn fadedFour(weight: f32, x: vec4<f32>) -> vec4<f32> { return weight * takenFour(weight, x); }

/// A state after its decay, and with what is added. A piece of padding leaves its bits. 1 by its bits: what NaN == 1 is, the driver decides.
fn remaining(gamma: f32, x: f32, more: f32) -> f32 {
  if (bitcast<u32>(gamma) == 0x3f800000u && isZero(more)) { return x; }
  return weighted(gamma, x) + more;
}

/// Of pairs of tokens, a_i . k'_j and q_i . k'_j, what decays leave of them: D_{i-1,j}, with READS of i, and D_ij. A thread goes down its columns.
fn fadePairs(thread: u32, its: Piece, a: ptr<function, Sums>, b: ptr<function, Sums>) {
  let own = cornerOf(thread, its.n, its.n);
  if (own.height == 0u) { return; }
  var D = vec4<f32>();
  for (var i = own.column; i < own.row + own.height; i++) {
    let w = factor(its, i, DECAY);
    let reads = factor(its, i, READS);
    let there = factor(its, i, THERE);
    for (var s = 0u; s < own.width && own.column + s <= i; s++) {
      let j = own.column + s;
      let before = D[s];
      D[s] = joint(before, w);
      if (i == j) { D[s] = factor(its, j, THERE); }
      if (i < own.row) { continue; }
      let r = i - own.row;
      (*a)[r][s] = weighted(joint(reads, before), (*a)[r][s]);
      (*b)[r][s] = weighted(joint(there, D[s]), (*b)[r][s]);
    }
  }
}
