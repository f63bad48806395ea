// Recurrent nets by their programs: what their kernels are given, and how packed arrays come in and go out. net-program.wgsl goes on with it.
//
// A workgroup is one head of one sequence. Everything but x, y and the snapshots lies in `work`: `perHead` floats a head, in regions whose offsets
// Params has. Rows of a matrix lie a multiple of 4 floats apart; what lies between is never read.

struct Params {
  T: i32,
  H: i32,
  I: i32,
  O: i32,
  C: i32,
  t0: i32,          // tokens [t0, t1) of each sequence
  t1: i32,
  head: i32,        // the first of `heads`
  heads: i32,
  slot: i32,        // floats of a register in memory, of all of them, of a state
  registers: i32,
  stateFloats: i32,
  tokenised: i32,   // whether there are tokens, snapshots, a first state
  snapshots: i32,
  carried: i32,
  kept: i32,        // whether each token has registers and a state of its own
  perHead: i32,
  slow: i32,        // regions of work
  start: i32,
  state: i32,       // kept: those before each of C tokens and after the last
  r: i32,           // kept: those of C tokens
  dslow: i32,
  dstart: i32,
  dstate: i32,
  dr: i32,
  // load and store: parts from `first` on, `count` of them, between arrays of rows of `size` numbers and region `region` of `floats`
  first: i32,
  count: i32,
  size: i32,
  region: i32,
  floats: i32,
  present: i32,
  repeated: i32,    // one row for each of H, not for each of B H
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> program: array<i32>;
@group(0) @binding(2) var<storage, read_write> work: array<f32>;
@group(0) @binding(3) var<storage, read> tokens: array<i32>;
@group(0) @binding(4) var<storage, read> x: array<f32>;
@group(0) @binding(5) var<storage, read_write> y: array<f32>;
@group(0) @binding(6) var<storage, read_write> states: array<f32>;
@group(0) @binding(7) var<storage, read> dy: array<f32>;
@group(0) @binding(8) var<storage, read_write> dx: array<f32>;
@group(0) @binding(9) var<storage, read> given: array<f32>;
@group(0) @binding(10) var<storage, read_write> results: array<f32>;

fn up4(n: i32) -> i32 { return (n + 3) & ~3; }

/// Which head of which sequence a workgroup has, among all.
struct Head {
  index: i32,
  base: i32, // of its floats in work
  token: i32, // the first of its sequence
}

fn headOf(group: i32) -> Head {
  let index = p.head + group;
  return Head(index, group * p.perHead, index / p.H * p.T);
}

/// Parts from rows of packed numbers to a region of work; zeros where there are none.
@compute @workgroup_size(THREADS) fn load(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let group = i32(id.x + id.y * count.x);
  let thread = i32(lane);
  if (group >= p.heads) { return; }
  let index = p.head + group;
  let to = group * p.perHead + p.region;
  for (var j = thread; j < p.floats; j += i32(THREADS)) { work[to + j] = 0.0; }
  storageBarrier();
  if (p.present == 0) { return; }
  let source = select(index, index % p.H, p.repeated != 0) * p.size;
  for (var part = p.first; part < p.first + p.count; part++) {
    let columns = program[part * 4 + 2];
    let n = program[part * 4 + 1] * columns;
    for (var e = thread; e < n; e += i32(THREADS)) {
      work[to + program[part * 4 + 3] + e / columns * up4(columns) + e % columns] = given[source + program[part * 4] + e];
    }
  }
}

/// And back.
@compute @workgroup_size(THREADS) fn store(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let group = i32(id.x + id.y * count.x);
  let thread = i32(lane);
  if (group >= p.heads) { return; }
  let source = group * p.perHead + p.region;
  let to = (p.head + group) * p.size;
  for (var part = p.first; part < p.first + p.count; part++) {
    let columns = program[part * 4 + 2];
    let n = program[part * 4 + 1] * columns;
    for (var e = thread; e < n; e += i32(THREADS)) {
      results[to + program[part * 4] + e] = work[source + program[part * 4 + 3] + e / columns * up4(columns) + e % columns];
    }
  }
}
