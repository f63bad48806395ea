// Elementwise kernels: y[i] = f(x[i], ...), i < n. PER_GROUP elements a workgroup; `binary` up to 8 axes, each a size and two strides.
// Pinned by test/ops/webgpu.test.ts.

struct Params {
  n: u32,
  op: u32,
  scale: f32,
  shift: f32,
  rank: u32,
  offsetA: i32,
  offsetB: i32,
  offsetY: u32,
  R: u32,           // scaleBackward: rows of `columns`, which share P factors; threads of a row; workgroups that have rows; parts, and elements of one
  P: u32,
  columns: u32,
  lanes: u32,
  rowGroups: u32,
  parts: u32,
  length: u32,
  wanted: u32,      // 1 with dx, 2 with ds
  axes: array<vec4<i32>, 8>, // (size, stride of a, stride of b, -), outermost first
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> yIn: array<f32>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;
@group(0) @binding(5) var<storage, read> a: array<f32>;
@group(0) @binding(6) var<storage, read> b: array<f32>;
@group(0) @binding(7) var<storage, read> faults: Faults;
@group(0) @binding(8) var<storage, read> s: array<f32>;
@group(0) @binding(9) var<storage, read_write> ds: array<f32>;

// What is changed in place may be a parameter or a moment: it stays as it is where a kernel has found bad input of which nobody has heard yet.

// y = shift
@compute @workgroup_size(THREADS) fn fill(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) { y[i] = p.shift; }
}

// y = scale x + shift
@compute @workgroup_size(THREADS) fn affine(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) { y[i] = p.scale * x[i] + p.shift; }
}

// y = scale y + shift
@compute @workgroup_size(THREADS) fn affineInPlace(g: Group) {
  if (anyFault(faults)) { return; }
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) { y[i] = p.scale * y[i] + p.shift; }
}

// y += x
@compute @workgroup_size(THREADS) fn accumulate(g: Group) {
  if (anyFault(faults)) { return; }
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) { y[i] += x[i]; }
}

// y = op(x)
@compute @workgroup_size(THREADS) fn unary(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) { y[i] = applyUnary(p.op, x[i]); }
}

// dx = dy op'(x), where yIn = op(x); dx is y
@compute @workgroup_size(THREADS) fn unaryBackward(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) { y[i] = applyUnaryBackward(p.op, x[i], yIn[i], dy[i]); }
}

/// In the order of `binaryOps` of engine/devices/kernels.ts. max and min of a NaN are NaN; it equals nothing and is above nothing.
fn applyBinary(op: u32, s: f32, t: f32) -> f32 {
  switch (op) {
    case 0u: { return s + t; }
    case 1u: { return s - t; }
    case 2u: { return s * t; }
    case 3u: { return s / t; }
    case 4u: { return maxOf(s, t); }
    case 5u: { return minOf(s, t); }
    case 6u: { return select(0.0, 1.0, !isNan(s) && !isNan(t) && s == t); }
    default: { return select(0.0, 1.0, !isNan(s) && !isNan(t) && s > t); }
  }
}

// y[offsetY + i] = a[i] op b[i]
@compute @workgroup_size(THREADS) fn binary(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) {
    var rest = i;
    var atA = p.offsetA;
    var atB = p.offsetB;
    for (var axis = p.rank; axis > 0u; axis--) {
      let s = p.axes[axis - 1u];
      let next = rest / u32(s.x);
      let j = i32(rest - next * u32(s.x));
      atA += j * s.y;
      atB += j * s.z;
      rest = next;
    }
    y[p.offsetY + i] = applyBinary(p.op, a[atA], b[atB]);
  }
}

var<workgroup> partSums: array<f32, 256>;

// Of y[r,:] = s[r mod P] x[r,:]: dx, which is y, in the first rowGroups workgroups, and with P = R there ds[r], the sum of dy x over a row, too. With
// fewer P, the workgroups after them have ds[part, p] each, the sum over the elements part * length .. of the rows r with r mod P = p.
@compute @workgroup_size(256) fn scaleBackward(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let group = id.x + id.y * count.x;
  if (group < p.rowGroups) {
    let r = group * (256u / p.lanes) + thread / p.lanes;
    let lane = thread & (p.lanes - 1u);
    let end = select(0u, p.columns, r < p.R);
    var total = 0.0;
    for (var k = lane; k < end; k += p.lanes) {
      let at = r * p.columns + k;
      if ((p.wanted & 1u) != 0u) { y[at] = s[r % p.P] * dy[at]; }
      total += dy[at] * x[at];
    }
    if (p.P < p.R || (p.wanted & 2u) == 0u) { return; }
    total = sumLanes(total, thread, p.lanes);
    if (r < p.R && lane == 0u) { ds[r] = total; }
    return;
  }
  let own = (group - p.rowGroups) % p.P;
  let part = (group - p.rowGroups) / p.P;
  if (part >= p.parts) { return; }
  let elements = p.R / p.P * p.columns;
  let end = min((part + 1u) * p.length, elements);
  var total = 0.0;
  for (var i = part * p.length + thread; i < end; i += 256u) {
    let at = (i / p.columns * p.P + own) * p.columns + i % p.columns;
    total += dy[at] * x[at];
  }
  partSums[thread] = total;
  for (var half = 128u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (thread < half) { partSums[thread] += partSums[thread + half]; }
  }
  if (thread == 0u) { ds[part * p.P + own] = partSums[0]; }
}
