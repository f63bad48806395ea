// What every kernel shares. It comes before each of the other files.
//
// Work is counted in workgroups; their count is split over x and y, because a dimension holds 65,535 at most. Loops over elements take
// PER_GROUP of them a workgroup, THREADS at a time, so that neighbours in memory are read together.

const THREADS = 64u;
const PER_GROUP = 256u;

// A module-scope variable keeps the compiler from refusing these as constants.
var<private> infinityBits: u32 = 0x7f800000u;
var<private> nanBits: u32 = 0x7fc00000u;

fn infinity() -> f32 { return bitcast<f32>(infinityBits); }
fn nan() -> f32 { return bitcast<f32>(nanBits); }
/// By its bits: x != x may be folded to false.
fn isNan(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u; }
fn isInfinite(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) == 0x7f800000u; }
fn isFinite(x: f32) -> bool { return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u; }
/// Above 0, and no NaN.
fn isPositive(x: f32) -> bool { return bitcast<u32>(x) - 1u < 0x7f800000u; }
fn isZero(x: f32) -> bool { return (bitcast<u32>(x) & 0x7fffffffu) == 0u; }

/// One of a pair of float16 (kind 1) or bfloat16 (2), the lower or the upper one, exactly; subnormal float16, too, which drivers may read as 0.
fn halfOf(kind: u32, pair: u32, upper: u32) -> f32 {
  let bits = (pair >> (16u * upper)) & 0xffffu;
  if (kind == 2u) { return bitcast<f32>(bits << 16u); }
  let sign = (bits & 0x8000u) << 16u;
  let exponent = (bits >> 10u) & 31u;
  let fraction = bits & 1023u;
  if (exponent == 0u) { return select(1.0, -1.0, sign != 0u) * f32(fraction) * 5.9604644775390625e-8; }
  return bitcast<f32>(sign | select((exponent + 112u) << 23u, 0x7f800000u, exponent == 31u) | (fraction << 13u));
}

/// x rounded to Half, to nearest, of two to the even one. By bits: f32(Half(x)) is what a driver may take for x, where no memory lies between.
fn roundedToHalf(x: f32) -> f32 {
  if (!HALF || isNan(x)) { return x; }
  let bits = bitcast<u32>(x);
  let sign = bits & 0x80000000u;
  let size = bits & 0x7fffffffu;
  if (size >= 0x477ff000u) { return bitcast<f32>(sign | 0x7f800000u); } // from 65520 on
  // Below 2^-14 there are multiples of 2^-24, of which 0 has a sign, too; what a driver makes of that is its own.
  if (size < 0x38800000u) { return bitcast<f32>(sign | bitcast<u32>(round(bitcast<f32>(size) * 16777216.0) * 5.9604644775390625e-8)); }
  return bitcast<f32>(sign | ((size + 0xfffu + ((size >> 13u) & 1u)) & 0xffffe000u));
}

/// What is multiplied with a weight: x, and 0 where the weight is 0, whatever x holds. A mask of bits: a choice between numbers, multiplied
/// with the weight, may be folded into 0 x.
fn taken(weight: f32, x: f32) -> f32 { return bitcast<f32>(bitcast<u32>(x) & select(0xffffffffu, 0u, isZero(weight))); }
fn takenFour(weight: f32, x: vec4<f32>) -> vec4<f32> {
  return bitcast<vec4<f32>>(bitcast<vec4<u32>>(x) & vec4(select(0xffffffffu, 0u, isZero(weight))));
}
fn weighted(weight: f32, x: f32) -> f32 { return weight * taken(weight, x); }
/// a b, and 0 where either is, whatever the other holds.
fn joint(a: f32, b: f32) -> f32 { return taken(b, a) * taken(a, b); }

/// What kernels have found that is bad input: first since the last read was asked for, then for reads whose answer is out.
alias Faults = array<vec4<u32>, 4>;
fn anyFault(f: Faults) -> bool { return any((f[0] | f[1] | f[2] | f[3]) != vec4<u32>()); }

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

// A driver may drop a NaN in max, min and clamp (NVIDIA's max(NaN, x) is x), in any comparison, and where it makes one of those of a select.
// So these builtins are for integers alone, and a function looks for a NaN by its bits before it compares. test/ops/wgsl.test.ts checks both.

/// Integers in the order of the numbers: -0 before 0.
fn orderOf(x: f32) -> i32 {
  let bits = bitcast<i32>(x);
  return select(bits, bits ^ 0x7fffffff, bits < 0);
}

/// The larger; NaN if one is NaN.
fn maxOf(a: f32, b: f32) -> f32 {
  if (isNan(a)) { return a; }
  if (isNan(b)) { return b; }
  return select(a, b, orderOf(b) > orderOf(a));
}

fn minOf(a: f32, b: f32) -> f32 { return -maxOf(-a, -b); }

// Rows: `lanes` (a power of two, at most THREADS) neighbouring threads share a row, several rows a workgroup of 256 threads at most. Two barriers a
// row: a thread adds up 8 lanes at once, and each thread what those have found.
var<workgroup> laneValues: array<f32, 256>;
var<workgroup> laneTotals: array<f32, 256>;

/// The sum, or the largest, of `value` over the lanes of a row, in a fixed order, for each of them. All threads of the workgroup must call it.
fn joinLanes(value: f32, thread: u32, lanes: u32, largest: bool) -> f32 {
  if (lanes == 1u) { return value; }
  let each = min(lanes, 8u);
  let first = thread & ~(lanes - 1u);
  let lane = thread - first;
  laneValues[thread] = value;
  workgroupBarrier();
  if (lane < lanes / each) {
    var total = laneValues[first + lane * each];
    for (var i = 1u; i < each; i++) {
      let next = laneValues[first + lane * each + i];
      total = select(total + next, maxOf(total, next), largest);
    }
    laneTotals[first + lane] = total;
  }
  workgroupBarrier();
  var total = laneTotals[first];
  for (var i = 1u; i < lanes / each; i++) {
    let next = laneTotals[first + i];
    total = select(total + next, maxOf(total, next), largest);
  }
  return total;
}

fn sumLanes(value: f32, thread: u32, lanes: u32) -> f32 { return joinLanes(value, thread, lanes, false); }
fn maxLanes(value: f32, thread: u32, lanes: u32) -> f32 { return joinLanes(value, thread, lanes, true); }

/// What a row is multiplied by, so that its sums, and its squares, fit in float32: a power of 2, 1 for all but the largest and the smallest. A small
/// row is left alone where eps hides what its squares lose.
fn unitOf(largest: f32, eps: f32) -> f32 {
  if (isNan(largest) || isInfinite(largest)) { return 1.0; }
  if (largest > 1.0995116e12) { return 8.271806e-25; } // 2^40, 2^-80
  return select(1.0, 9.2233720e18, largest < 9.094947e-13 && eps < 8.271806e-25); // 2^63, 2^-40, 2^-80
}
