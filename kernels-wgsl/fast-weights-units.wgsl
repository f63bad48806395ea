// Products of tiles on a GPU's matrix units: 2 subgroups of 32 threads, each with 16 rows and 32 columns of a tile. What is beyond a matrix in a tile is 0, and
// so is A beyond a triangle. Sums go to their threads through pairsM: what that holds is needed before or after all products of an entry.
// No GPU has run this yet: test/ops/matrix-units.test.ts.

alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sums = subgroup_matrix_result<f32, 16, 16>;

/// sums += A B for the tile's `height` rows of A and `width` columns of B. A tile in which it matters what a 0 takes, or what a triangle leaves out, is
/// multiplied without the units.
// The compiler takes nothing that follows from `thread` for the same in a subgroup: this does, and the rest passes with 0 in its place.
@diagnostic(off, chromium.subgroup_matrix_uniformity)
fn multiply(thread: u32, a: Operand, height: u32, b: Operand, width: u32, inner: u32, triangle: u32, forgets: bool) {
  let half = subgroupBroadcastFirst(thread) / 32u;
  let rows = thread / 8u;
  let columns = thread % 8u;
  let watched = forgets || triangle != 0u;
  var s0 = Sums();
  var s1 = Sums();
  for (var l0 = 0u; l0 < inner; l0 += SIDE) {
    fillTiles(thread, a, height, b, width, inner, l0, watched);
    let count = min(SIDE, inner - l0);
    var plain = false;
    // Which waits for the tiles, too.
    if (watched) { plain = workgroupUniformLoad(&spoilt) != 0u; }
    else { workgroupBarrier(); }
    if (plain) {
      if (thread == 0u) { atomicStore(&spoilt, 0u); }
      if (forgets) { multiplySpoilt(rows, columns, l0, count, triangle); }
      else { multiplyTiles(rows, columns, l0, count, triangle); }
    } else {
      for (var l = 0u; l < count; l += 16u) {
        // Places and strides count in vectors of four.
        let left = subgroupMatrixLoad<Left, col_major>(&tileA, l * 8u + half * 4u, 8u);
        s0 = subgroupMatrixMultiplyAccumulate(left, subgroupMatrixLoad<Right, row_major>(&tileB, l * 8u, 8u), s0);
        s1 = subgroupMatrixMultiplyAccumulate(left, subgroupMatrixLoad<Right, row_major>(&tileB, l * 8u + 4u, 8u), s1);
      }
    }
  }
  subgroupMatrixStore<row_major>(&pairsM, half * 512u, s0, SIDE);
  subgroupMatrixStore<row_major>(&pairsM, half * 512u + 16u, s1, SIDE);
  workgroupBarrier();
  for (var r = 0u; r < 4u; r++) {
    let at = (rows * 4u + r) * SIDE + columns * 4u;
    sums[r] += vec4(pairsM[at], pairsM[at + 1u], pairsM[at + 2u], pairsM[at + 3u]);
  }
}
