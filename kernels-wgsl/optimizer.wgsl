// Adam (Kingma & Ba 2015) and AdamW (Loshchilov & Hutter 2019), one pass over p, g, m, v: of a parameter, or of several that lie in one buffer, whose
// moments lie in another. PER_GROUP elements a workgroup.
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
  count: u32,                // of the parameters of a dispatch
  parts: array<vec4<u32>, 4>, // of each: its elements, where it begins, and where its moments do
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> parameter: array<f32>;
@group(0) @binding(2) var<storage, read> gradient: array<f32>;
@group(0) @binding(3) var<storage, read_write> m: array<f32>;
@group(0) @binding(4) var<storage, read_write> v: array<f32>;
@group(0) @binding(5) var<storage, read> gradScale: array<f32>;
@group(0) @binding(6) var<storage, read> faults: Faults;
@group(0) @binding(7) var<storage, read> gradient1: array<f32>;
@group(0) @binding(8) var<storage, read> gradient2: array<f32>;
@group(0) @binding(9) var<storage, read> gradient3: array<f32>;

/// A parameter's element with its moments.
struct Element {
  value: f32,
  mean: f32,
  square: f32,
}

/// g' = gradScale[0] g + l2 p, m = beta1 m + rest1 g', v = beta2 v + rest2 g'^2, p -= decay p + step m / (sqrt(v) root + eps), with
/// rest = 1 - beta, step = lr / correction1, root = 1 / sqrt(correction2), and weight decay in one of l2, decay.
fn moved(e: Element, gradient: f32) -> Element {
  var scale = 1.0;
  if (p.scaled == 1u) { scale = gradScale[0]; }
  let grad = p.l2 * e.value + scale * gradient;
  let mean = p.beta1 * e.mean + p.rest1 * grad;
  let square = p.beta2 * e.square + p.rest2 * (grad * grad);
  return Element(e.value - (p.decay * e.value + (p.step * mean) / (p.root * sqrtOf(square) + p.eps)), mean, square);
}

// Nothing where a kernel has found bad input of which nobody has heard yet: the parameters must not be spoilt by then.
@compute @workgroup_size(THREADS) fn adam(g: Group) {
  if (anyFault(faults)) { return; }
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) {
    let e = moved(Element(parameter[i], m[i], v[i]), gradient[i]);
    m[i] = e.mean;
    v[i] = e.square;
    parameter[i] = e.value;
  }
}

fn gradientOf(which: u32, i: u32) -> f32 {
  switch (which) {
    case 0u: { return gradient[i]; }
    case 1u: { return gradient1[i]; }
    case 2u: { return gradient2[i]; }
    default: { return gradient3[i]; }
  }
}

// The same, of `count` parameters: m has the moments of all.
@compute @workgroup_size(THREADS) fn adamTogether(g: Group) {
  if (anyFault(faults)) { return; }
  var group = groupOf(g);
  for (var which = 0u; which < p.count; which++) {
    let part = p.parts[which];
    let groups = (part.x + PER_GROUP - 1u) / PER_GROUP;
    if (group < groups) {
      let end = min((group + 1u) * PER_GROUP, part.x);
      for (var i = group * PER_GROUP + g.thread; i < end; i += THREADS) {
        let e = moved(Element(parameter[part.y + i], m[part.z + i], m[part.w + i]), gradientOf(which, i));
        m[part.z + i] = e.mean;
        m[part.w + i] = e.square;
        parameter[part.y + i] = e.value;
      }
      return;
    }
    group -= groups;
  }
}
