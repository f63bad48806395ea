// The entry matmul of matmul.wgsl on a GPU's matrix units: slices of f16, products of 16 x 16 matrices, each held by a subgroup, sums in f32. It takes
// no zeros of A apart (p.sparse). A workgroup is 8 subgroups of 32 threads, whichever threads those are: each makes 16 rows and 32 columns of the block.
//
// No GPU has run this yet. It's checked by Dawn's compiler, and in test/ops/matrix-units.test.ts by WGSL that stands in for the units; a device
// is opened with it only after products of integers have come out exactly (engine/devices/webgpu/matmul.ts).

alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sums = subgroup_matrix_result<f32, 16, 16>;

var<workgroup> sums: array<vec4<f32>, 512>; // of a 16 x 16 matrix a subgroup: 8 KiB, so that with both slices a workgroup has what every adapter has

/// 4 x 4 of what the subgroups have stored.
fn stored(first: u32) -> array<vec4<f32>, 4> {
  workgroupBarrier();
  let four = array<vec4<f32>, 4>(sums[first], sums[first + 4u], sums[first + 8u], sums[first + 12u]);
  workgroupBarrier();
  return four;
}

@compute @workgroup_size(256) fn matmulUnits(g: Group, @builtin(subgroup_id) subgroup: u32) {
  let t = tileOf(g);
  // Places and strides count in vectors of four.
  let row = (subgroup >> 1u) * 4u;
  let column = (subgroup & 1u) * 8u;
  var s0 = Sums();
  var s1 = Sums();
  for (var offset = 0u; offset < p.length; offset += DEPTH) {
    fill(t, g.thread, offset);
    workgroupBarrier();
    let left = subgroupMatrixLoad<Left, col_major>(&tileA, row, 16u);
    s0 = subgroupMatrixMultiplyAccumulate(left, subgroupMatrixLoad<Right, row_major>(&tileB, column, 16u), s0);
    s1 = subgroupMatrixMultiplyAccumulate(left, subgroupMatrixLoad<Right, row_major>(&tileB, column + 4u, 16u), s1);
    workgroupBarrier();
  }
  // Each thread gets what it has in matmul by now, out of one of its subgroup's two matrices.
  let ty = g.thread >> 4u;
  let tx = g.thread & 15u;
  let first = ((ty >> 2u) * 2u + (tx >> 3u)) * 64u + (ty & 3u) * 16u + (tx & 3u);
  subgroupMatrixStore<row_major>(&sums, subgroup * 64u, s0, 4u);
  var own = stored(first);
  subgroupMatrixStore<row_major>(&sums, subgroup * 64u, s1, 4u);
  let other = stored(first);
  if ((tx & 4u) != 0u) { own = other; }
  finish(t, g.thread, own);
}
