// Muon (Jordan 2024): what a step does before and after the products of all its matrices, which are [R,C], R <= C, or stored transposed, where
// `tall`; in y they stand one after the other, all [R,C]. PER_GROUP elements a workgroup. A dispatch has several matrices, whose momenta, or which
// themselves, lie in one buffer. Pinned by test/ops/webgpu.test.ts.

struct Params {
  n: u32,
  R: u32,
  C: u32,
  count: u32,    // of the matrices of a dispatch
  scaled: u32,   // 2: guarded, nothing is done unless gradScale[0] is above 0
  momentum: f32,
  size: u32,     // elements of a matrix
  eps: f32,
  kept: f32,
  step: f32,
  stepTall: f32, // of those that are tall
  parts: array<vec4<u32>, 64>, // of each two: where it begins in its buffer, which one it is in y, and whether it's tall; where its gradient lies
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
@group(0) @binding(9) var<storage, read> gradient1: array<f32>;
@group(0) @binding(10) var<storage, read> gradient2: array<f32>;
@group(0) @binding(11) var<storage, read> gradient3: array<f32>;

/// Which matrix of the dispatch a workgroup is for, and of which elements of it.
struct Share {
  which: u32,
  first: u32,
  end: u32,
}

fn shareOf(g: Group) -> Share {
  let groups = (p.size + PER_GROUP - 1u) / PER_GROUP;
  let which = groupOf(g) / groups;
  let first = groupOf(g) % groups * PER_GROUP;
  return Share(which, first + g.thread, select(0u, min(first + PER_GROUP, p.size), which < p.count));
}

fn isTall(which: u32) -> bool { return p.parts[2u * which].z == 1u; }

/// Where in y element i of a matrix stands.
fn stacked(which: u32, i: u32) -> u32 { return p.parts[2u * which].y * p.size + select(i, i % p.R * p.C + i / p.R, isTall(which)); }

fn gradientOf(buffer: u32, i: u32) -> f32 {
  switch (buffer) {
    case 0u: { return gradient[i]; }
    case 1u: { return gradient1[i]; }
    case 2u: { return gradient2[i]; }
    default: { return gradient3[i]; }
  }
}

/// Whether the step is left out: by its guard, or where a kernel has found bad input of which nobody has heard yet: neither moments nor parameters must be
/// spoilt by then.
fn leftOut() -> bool { return anyFault(faults) || (p.scaled == 2u && !isPositive(gradScale[0])); }

// g' = gradScale[0] g, m = momentum m + g', y = g' + momentum m.
@compute @workgroup_size(THREADS) fn muonMomentum(g: Group) {
  if (leftOut()) { return; }
  let own = shareOf(g);
  var scale = 1.0;
  if (p.scaled != 0u) { scale = gradScale[0]; }
  let its = p.parts[2u * own.which + 1u];
  for (var i = own.first; i < own.end; i += THREADS) {
    let at = p.parts[2u * own.which].x + i;
    let grad = scale * gradientOf(its.x, its.y + i);
    let mean = p.momentum * m[at] + grad;
    m[at] = mean;
    y[stacked(own.which, i)] = grad + p.momentum * mean;
  }
}

// y = y / (sqrt(norms of its matrix) + eps); norms: the sums of squares
@compute @workgroup_size(THREADS) fn muonNormalise(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) { y[i] = y[i] / (sqrtOf(norms[i / p.size]) + p.eps); }
}

// parameter = kept parameter - step direction
@compute @workgroup_size(THREADS) fn muonUpdate(g: Group) {
  if (leftOut()) { return; }
  let own = shareOf(g);
  let step = select(p.step, p.stepTall, isTall(own.which));
  for (var i = own.first; i < own.end; i += THREADS) {
    let at = p.parts[2u * own.which].x + i;
    parameter[at] = p.kept * parameter[at] - step * direction[stacked(own.which, i)];
  }
}
