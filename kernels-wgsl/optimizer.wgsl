// Adam (Kingma & Ba 2015) and AdamW (Loshchilov & Hutter 2019), one pass over p, g, m, v. PER_GROUP elements a workgroup.
// Pinned by test/ops/webgpu.test.ts.

struct Params {
  n: u32,
  scaled: u32,
  beta1: f32,
  rest1: f32,
  beta2: f32,
  rest2: f32,
  step: f32,
  root: f32,
  eps: f32,
  l2: f32,
  decay: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> parameter: array<f32>;
@group(0) @binding(2) var<storage, read> gradient: array<f32>;
@group(0) @binding(3) var<storage, read_write> m: array<f32>;
@group(0) @binding(4) var<storage, read_write> v: array<f32>;
@group(0) @binding(5) var<storage, read> gradScale: array<f32>;
@group(0) @binding(6) var<storage, read> faults: Faults;

// g' = gradScale[0] g + l2 p, m = beta1 m + rest1 g', v = beta2 v + rest2 g'^2, p -= decay p + step m / (sqrt(v) root + eps), with
// rest = 1 - beta, step = lr / correction1, root = 1 / sqrt(correction2), and weight decay in one of l2, decay. Nothing where a kernel has found
// bad input of which nobody has heard yet: the parameters must not be spoilt by then.
@compute @workgroup_size(THREADS) fn adam(g: Group) {
  if (anyFault(faults)) { return; }
  let end = elementsEnd(g, p.n);
  var scale = 1.0;
  if (p.scaled == 1u) { scale = gradScale[0]; }
  for (var i = firstElement(g); i < end; i += THREADS) {
    let value = parameter[i];
    let grad = p.l2 * value + scale * gradient[i];
    let mean = p.beta1 * m[i] + p.rest1 * grad;
    let square = p.beta2 * v[i] + p.rest2 * (grad * grad);
    m[i] = mean;
    v[i] = square;
    parameter[i] = value - (p.decay * value + (p.step * mean) / (p.root * sqrtOf(square) + p.eps));
  }
}
