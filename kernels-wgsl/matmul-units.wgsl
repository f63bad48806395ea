// The entry matmul of matmul.wgsl on a GPU's matrix units, but for sparse: 8 subgroups of 32 threads, each with 16 rows and 32 columns of the block. They take
// their operands from rows that lie one after the other, so these are in arrays of their own.
// No GPU has run this yet: test/ops/matrix-units.test.ts.

alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sums = subgroup_matrix_result<f32, 16, 16>;

var<workgroup> tileA: array<vec4<Half>, 256>; // [16][64 / 4]
var<workgroup> tileB: array<vec4<Half>, 256>;
var<workgroup> sums: array<vec4<f32>, 512>; // [8][16][16 / 4]: half a block, since not every adapter has memory for all of it

fn fill(thread: u32, at: u32, lines: mat4x4<f32>) {
  if (thread < 64u) {
    tileA[at] = vec4<Half>(lines[0]);
    tileA[at + 16u] = vec4<Half>(lines[1]);
    tileA[at + 32u] = vec4<Half>(lines[2]);
    tileA[at + 48u] = vec4<Half>(lines[3]);
  } else if (thread < 128u) {
    tileB[at] = vec4<Half>(lines[0]);
    tileB[at + 16u] = vec4<Half>(lines[1]);
    tileB[at + 32u] = vec4<Half>(lines[2]);
    tileB[at + 48u] = vec4<Half>(lines[3]);
  }
}

/// 4 x 4 of what the subgroups have stored.
fn stored(first: u32) -> array<vec4<f32>, 4> {
  workgroupBarrier();
  let four = array<vec4<f32>, 4>(sums[first], sums[first + 4u], sums[first + 8u], sums[first + 12u]);
  workgroupBarrier();
  return four;
}

@compute @workgroup_size(256) fn matmulUnits(g: Group, @builtin(subgroup_id) subgroup: u32) {
  let t = tileOf(g, 64u, 64u);
  let at = ownBlock(g.thread, 16u, 16u);
  // Places and strides count in vectors of four.
  let row = (subgroup >> 1u) * 4u;
  let column = (subgroup & 1u) * 8u;
  var s0 = Sums();
  var s1 = Sums();
  for (var offset = 0u; offset < p.length; offset += 16u) {
    fill(g.thread, at.y * 16u + (at.x >> 2u), readBlock(t, g.thread, at, offset));
    workgroupBarrier();
    let left = subgroupMatrixLoad<Left, col_major>(&tileA, row, 16u);
    s0 = subgroupMatrixMultiplyAccumulate(left, subgroupMatrixLoad<Right, row_major>(&tileB, column, 16u), s0);
    s1 = subgroupMatrixMultiplyAccumulate(left, subgroupMatrixLoad<Right, row_major>(&tileB, column + 4u, 16u), s1);
    workgroupBarrier();
  }
  // What this thread has in matmul by now lies in one of two matrices.
  let ty = g.thread >> 4u;
  let tx = g.thread & 15u;
  let first = ((ty >> 2u) * 2u + (tx >> 3u)) * 64u + (ty & 3u) * 16u + (tx & 3u);
  subgroupMatrixStore<row_major>(&sums, subgroup * 64u, s0, 4u);
  var own = stored(first);
  subgroupMatrixStore<row_major>(&sums, subgroup * 64u, s1, 4u);
  let other = stored(first);
  if ((tx & 4u) != 0u) { own = other; }
  for (var i = 0u; i < min(4u, 4u * t.M); i++) { finish(t, placeOfSum(i, ty, tx), own[i]); }
}
