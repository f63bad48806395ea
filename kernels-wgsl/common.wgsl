// What every kernel shares. It comes before each of the other files, after the constants that the host asks for.
//
// Work is counted in workgroups; their count is split over x and y, because a dimension holds 65,535 at most. Loops over elements take
// PER_GROUP of them a workgroup, THREADS at a time, so that neighbours in memory are read together.

const THREADS = 64u;
const PER_GROUP = 256u;

/// A finite number below every logit or score: maxima begin here, and nothing is ever computed with an infinity.
const LOWEST = -3.4028234e38;

// A module-scope variable keeps the compiler from refusing these as constants.
var<private> infinityBits: u32 = 0x7f800000u;
var<private> nanBits: u32 = 0x7fc00000u;

fn infinity() -> f32 { return bitcast<f32>(infinityBits); }
fn nan() -> f32 { return bitcast<f32>(nanBits); }
/// By its bits: x != x may be folded to false.
fn isNan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }
fn isInfinite(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) == 0x7f800000u; }

struct Group {
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
}

/// Which of the workgroups that the host asked for this is; the last ones may be beyond their number.
fn groupOf(g: Group) -> u32 { return g.id.x + g.id.y * g.count.x; }

/// The first element of this thread; the others follow THREADS apart, below elementsEnd.
fn firstElement(g: Group) -> u32 { return groupOf(g) * PER_GROUP + g.thread; }
fn elementsEnd(g: Group, n: u32) -> u32 { return min((groupOf(g) + 1u) * PER_GROUP, n); }

// Rows: `lanes` (a power of two, at most THREADS) neighbouring threads share a row, THREADS / lanes rows share a workgroup.
var<workgroup> laneValues: array<f32, THREADS>;

/// The sum of `value` over the lanes of a row, in a fixed order, for each of them. All threads of the workgroup must call it.
fn sumLanes(value: f32, thread: u32, lanes: u32) -> f32 {
  laneValues[thread] = value;
  for (var step = lanes >> 1u; step > 0u; step >>= 1u) {
    workgroupBarrier();
    if ((thread & (lanes - 1u)) < step) { laneValues[thread] += laneValues[thread + step]; }
  }
  workgroupBarrier();
  let total = laneValues[thread & ~(lanes - 1u)];
  workgroupBarrier();
  return total;
}

/// max that keeps a NaN.
fn maxOf(a: f32, b: f32) -> f32 {
  if (isNan(a)) { return a; }
  if (isNan(b)) { return b; }
  return max(a, b);
}

fn maxLanes(value: f32, thread: u32, lanes: u32) -> f32 {
  laneValues[thread] = value;
  for (var step = lanes >> 1u; step > 0u; step >>= 1u) {
    workgroupBarrier();
    if ((thread & (lanes - 1u)) < step) { laneValues[thread] = maxOf(laneValues[thread], laneValues[thread + step]); }
  }
  workgroupBarrier();
  let top = laneValues[thread & ~(lanes - 1u)];
  workgroupBarrier();
  return top;
}
