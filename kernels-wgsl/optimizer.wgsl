// Adam (Kingma & Ba 2015) and AdamW (Loshchilov & Hutter 2019), one pass over p, g, m, v: of a parameter, or of several that lie in one buffer, whose
// moments lie in another, and whose gradients in up to four. PER_GROUP elements a workgroup. And the norm of gradients, in as many.
// Pinned by test/ops/webgpu.test.ts.

struct Params {
  n: u32,
  scaled: u32,  // 2: guarded, nothing is done unless gradScale[0] is above 0
  beta1: f32,
  rest1: f32,
  beta2: f32,
  rest2: f32,
  step: f32,
  root: f32,
  eps: f32,
  l2: f32,
  decay: f32,
  count: u32,                  // of the parameters of a dispatch
  first: u32,                  // squares: where their sums go
  parts: array<vec4<u32>, 192>, // of each two: its elements, which buffer its gradient lies in, where that begins; and where itself and its moments do
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
@group(0) @binding(10) var<storage, read_write> sums: array<f32>;
@group(0) @binding(11) var<storage, read> sumsIn: array<f32>;
@group(0) @binding(12) var<storage, read_write> norm: array<f32>;

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
  if (p.scaled != 0u) { scale = gradScale[0]; }
  let grad = p.l2 * e.value + scale * gradient;
  let mean = p.beta1 * e.mean + p.rest1 * grad;
  let square = p.beta2 * e.square + p.rest2 * (grad * grad);
  return Element(e.value - (p.decay * e.value + (p.step * mean) / (p.root * sqrtOf(square) + p.eps)), mean, square);
}

/// Whether the step is left out: by its guard, or where a kernel has found bad input of which nobody has heard yet: the parameters must not be spoilt by then.
fn leftOut() -> bool { return anyFault(faults) || (p.scaled == 2u && !isPositive(gradScale[0])); }

@compute @workgroup_size(THREADS) fn adam(g: Group) {
  if (leftOut()) { return; }
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) {
    let e = moved(Element(parameter[i], m[i], v[i]), gradient[i]);
    m[i] = e.mean;
    v[i] = e.square;
    parameter[i] = e.value;
  }
}

fn gradientOf(buffer: u32, i: u32) -> f32 {
  switch (buffer) {
    case 0u: { return gradient[i]; }
    case 1u: { return gradient1[i]; }
    case 2u: { return gradient2[i]; }
    default: { return gradient3[i]; }
  }
}

/// Which of the parameters of a dispatch a workgroup is for, and of which elements of it.
struct Share {
  which: u32,
  first: u32,
  end: u32,
}

/// With workgroups of `length` elements. Beyond them there are none.
fn shareOf(g: Group, length: u32) -> Share {
  var group = groupOf(g);
  for (var which = 0u; which < p.count; which++) {
    let n = p.parts[2u * which].x;
    let groups = (n + length - 1u) / length;
    if (group < groups) { return Share(which, group * length + g.thread, min((group + 1u) * length, n)); }
    group -= groups;
  }
  return Share(0u, 0u, 0u);
}

// The same as adam, of `count` parameters: m has the moments of all.
@compute @workgroup_size(THREADS) fn adamTogether(g: Group) {
  if (leftOut()) { return; }
  let own = shareOf(g, PER_GROUP);
  let its = p.parts[2u * own.which];
  let at = p.parts[2u * own.which + 1u];
  for (var i = own.first; i < own.end; i += THREADS) {
    let e = moved(Element(parameter[at.x + i], m[at.y + i], m[at.z + i]), gradientOf(its.y, its.z + i));
    m[at.y + i] = e.mean;
    m[at.z + i] = e.square;
    parameter[at.x + i] = e.value;
  }
}

const SQUARES = 4096u;

// sums[first + group] = the sum of the squares of SQUARES elements of a gradient.
@compute @workgroup_size(THREADS) fn squares(g: Group) {
  let own = shareOf(g, SQUARES);
  let its = p.parts[2u * own.which];
  var total = 0.0;
  for (var i = own.first; i < own.end; i += THREADS) {
    let x = gradientOf(its.y, its.z + i);
    total += x * x;
  }
  total = sumLanes(total, g.thread, THREADS);
  if (g.thread == 0u && own.end > 0u) { sums[p.first + groupOf(g)] = total; }
}

// norm = the root of the sum of n sums; one workgroup.
@compute @workgroup_size(THREADS) fn rootOfSums(g: Group) {
  var total = 0.0;
  for (var i = g.thread; i < p.n; i += THREADS) { total += sumsIn[i]; }
  total = sumLanes(total, g.thread, THREADS);
  if (g.thread == 0u && groupOf(g) == 0u) { norm[0] = sqrtOf(total); }
}
