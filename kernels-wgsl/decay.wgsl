// Decays: y = -e^rate softplus(a + shift), rows of [R, n], `width` neighbours of which share a rate. Pinned by test/ops/webgpu.test.ts.

struct Params {
  R: u32,
  n: u32,
  width: u32,
  inputGroups: u32, // decayBackward: workgroups that have elements; parts, and rows of a part
  parts: u32,
  length: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> rate: array<f32>;
@group(0) @binding(3) var<storage, read> shift: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<storage, read> dy: array<f32>;
@group(0) @binding(6) var<storage, read_write> da: array<f32>;
@group(0) @binding(7) var<storage, read_write> drate: array<f32>;
@group(0) @binding(8) var<storage, read_write> dshift: array<f32>;

fn factorOf(j: u32) -> f32 { return -expOf(rate[j / p.width]); }

// PER_GROUP elements a workgroup.
@compute @workgroup_size(THREADS) fn decay(g: Group) {
  let end = elementsEnd(g, p.R * p.n);
  for (var i = firstElement(g); i < end; i += THREADS) {
    let j = i % p.n;
    y[i] = factorOf(j) * softplusOf(a[i] + shift[j]);
  }
}

const COLUMNS = 8u;
const LANES = 32u;
var<workgroup> columnRates: array<f32, 256>;
var<workgroup> columnShifts: array<f32, 256>;

// inputGroups workgroups have da, an element a thread; the others COLUMNS columns of a part of the rows each, which LANES threads share:
// drate[part, j] = sum of dy y, dshift[part, j] = sum of da.
@compute @workgroup_size(256) fn decayBackward(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let group = id.x + id.y * count.x;
  if (group < p.inputGroups) {
    let i = group * 256u + thread;
    if (i < p.R * p.n) {
      let j = i % p.n;
      da[i] = factorOf(j) * dy[i] * sigmoidOf(a[i] + shift[j]);
    }
    return;
  }
  let groups = (p.n + COLUMNS - 1u) / COLUMNS;
  let part = (group - p.inputGroups) / groups;
  if (part >= p.parts) { return; }
  let j = (group - p.inputGroups) % groups * COLUMNS + thread % COLUMNS;
  let lane = thread / COLUMNS;
  let end = select(0u, min((part + 1u) * p.length, p.R), j < p.n);
  var sumRate = 0.0;
  var sumShift = 0.0;
  for (var r = part * p.length + lane; r < end; r += LANES) {
    let i = r * p.n + j;
    let x = a[i] + shift[j];
    let gradient = factorOf(j) * dy[i];
    sumRate += gradient * softplusOf(x);
    sumShift += gradient * sigmoidOf(x);
  }
  columnRates[thread] = sumRate;
  columnShifts[thread] = sumShift;
  for (var half = LANES / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) {
      columnRates[thread] += columnRates[thread + half * COLUMNS];
      columnShifts[thread] += columnShifts[thread + half * COLUMNS];
    }
  }
  if (j < p.n && lane == 0u) {
    drate[part * p.n + j] = columnRates[thread];
    dshift[part * p.n + j] = columnShifts[thread];
  }
}
