// Muon (Jordan 2024): what a step does before and after the products of all its matrices, which are [R,C], R <= C, or stored transposed, where
// `tall`; in y they stand one after the other, all [R,C]. PER_GROUP elements a workgroup. Pinned by test/ops/webgpu.test.ts.

struct Params {
  n: u32,
  R: u32,
  C: u32,
  tall: u32,
  offset: u32, // of the matrix in y
  scaled: u32,
  momentum: f32,
  size: u32,   // elements of a matrix
  eps: f32,
  kept: f32,
  step: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> parameter: array<f32>;
@group(0) @binding(2) var<storage, read> gradient: array<f32>;
@group(0) @binding(3) var<storage, read_write> m: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<storage, read> direction: array<f32>;
@group(0) @binding(6) var<storage, read> norms: array<f32>;
@group(0) @binding(7) var<storage, read> gradScale: array<f32>;
@group(0) @binding(8) var<storage, read> faults: Faults;

/// Where in y element i of the matrix stands.
fn stacked(i: u32) -> u32 { return p.offset + select(i, i % p.R * p.C + i / p.R, p.tall == 1u); }

// g' = gradScale[0] g, m = momentum m + g', y = g' + momentum m. Nothing where a kernel has found bad input of which nobody has heard yet: neither
// moments nor parameters must be spoilt by then.
@compute @workgroup_size(THREADS) fn muonMomentum(g: Group) {
  if (anyFault(faults)) { return; }
  let end = elementsEnd(g, p.n);
  var scale = 1.0;
  if (p.scaled == 1u) { scale = gradScale[0]; }
  for (var i = firstElement(g); i < end; i += THREADS) {
    let grad = scale * gradient[i];
    let mean = p.momentum * m[i] + grad;
    m[i] = mean;
    y[stacked(i)] = grad + p.momentum * mean;
  }
}

// y = y / (sqrt(norms of its matrix) + eps); norms: the sums of squares
@compute @workgroup_size(THREADS) fn muonNormalise(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) { y[i] = y[i] / (sqrtOf(norms[i / p.size]) + p.eps); }
}

// parameter = kept parameter - step direction
@compute @workgroup_size(THREADS) fn muonUpdate(g: Group) {
  if (anyFault(faults)) { return; }
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) { parameter[i] = p.kept * parameter[i] - p.step * direction[stacked(i)]; }
}
