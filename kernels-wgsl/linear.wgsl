// x[n] = A[n]^-1 b[n] for symmetric positive definite A [N,K,K] by Cholesky: A = L L^T, L h = b, L^T x = h. Only the lower triangle of A is read;
// NaN where A isn't positive definite. A workgroup a matrix; L in a scratch array [N,K,K]. Pinned by test/ops/webgpu.test.ts.

struct Params {
  N: u32,
  K: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> L: array<f32>;

/// The square root of a positive number, NaN of anything else.
fn pivot(x: f32) -> f32 {
  if (isNan(x) || x <= 0.0) { return nan(); }
  return sqrtOf(x);
}

// The builtins one by one: only so does the compiler know that the barriers are in uniform control flow.
@compute @workgroup_size(THREADS) fn solveSpd(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let matrix = id.x + id.y * count.x;
  if (matrix >= p.N) { return; }
  let at = matrix * p.K * p.K;
  let row = matrix * p.K;
  for (var i = thread; i < p.K * p.K; i += THREADS) { L[at + i] = a[at + i]; }
  for (var i = thread; i < p.K; i += THREADS) { x[row + i] = b[row + i]; }
  // Column by column: the column is finished, then taken from what lies to its right; the right side b goes along as one more row.
  for (var j = 0u; j < p.K; j++) {
    storageBarrier();
    let root = pivot(L[at + j * p.K + j]);
    storageBarrier();
    for (var i = j + thread; i < p.K; i += THREADS) { L[at + i * p.K + j] = select(L[at + i * p.K + j] / root, root, i == j); }
    if (thread == 0u) { x[row + j] /= root; }
    storageBarrier();
    for (var i = j + 1u + thread; i < p.K; i += THREADS) {
      let factor = L[at + i * p.K + j];
      for (var l = j + 1u; l <= i; l++) { L[at + i * p.K + l] -= factor * L[at + l * p.K + j]; }
      x[row + i] -= factor * x[row + j];
    }
  }
  for (var j = p.K; j > 0u; j--) {
    let i = j - 1u;
    storageBarrier();
    if (thread == 0u) { x[row + i] /= L[at + i * p.K + i]; }
    storageBarrier();
    for (var l = thread; l < i; l += THREADS) { x[row + l] -= L[at + i * p.K + l] * x[row + i]; }
  }
}
