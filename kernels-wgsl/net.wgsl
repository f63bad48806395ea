// Recurrent nets by their programs, forward and backward: an interpreter of the instructions of engine/devices/kernels.ts (`netOps`, which has
// their equations).
//
// A workgroup is one head of one sequence, from the first token to the last. Its threads share the numbers of each vector and the columns of each
// matrix, thread j those at j, j + THREADS, ...: what it writes there, nobody else does, so that they wait for each other only before an instruction that
// looks at the numbers of others (`crosses`), and at the beginning of each token. Everything but x, y and the snapshots lies in `work`:
// `perHead` floats a head, in regions whose offsets Params has. Rows of a matrix lie a multiple of 4 floats apart; what lies between is never read.
// Backward: from the snapshot on, C tokens are computed once more, each with registers and a state of its own, then walked in reverse.
//
// Numerics: a sum's order depends on its length alone. What a token holds never enters the arithmetic of an earlier one.
// Which instruction comes next depends only on `program` and `tokens`, which nobody writes: so all threads meet at each barrier. (For the compiler to
// see it, the entries take their builtins one by one: in a struct, one that differs from thread to thread makes all of them differ.)

// netOps, normKinds, tokenBits of engine/devices/kernels.ts.
const INPUT = 0;
const STATE = 1;
const PARAMETER = 2;
const READ = 3;
const WRITE = 4;
const ADD = 5;
const SUB = 6;
const MUL = 7;
const AFFINE = 8;
const TIMES = 9;
const DOT = 10;
const UNARY = 11;
const SOFTMAX = 12;
const NORM = 13;
const SLICE = 14;
const CONCAT = 15;
const NEXT = 16;
const OUTPUT = 17;
const LAYER = 0;
const L2 = 2;
const TOKEN = 1;
const BEGINS = 2;

struct Params {
  T: i32,
  H: i32,
  I: i32,
  O: i32,
  C: i32,
  head: i32,        // the first of `heads`
  heads: i32,
  parts: i32,       // parts in the program, before the instructions
  instructions: i32,
  registers: i32,   // floats of the registers, of a state
  stateFloats: i32,
  tokenised: i32,   // whether there are tokens, snapshots, a first state
  snapshots: i32,
  carried: i32,
  perHead: i32,
  slow: i32,        // regions of work
  start: i32,
  state: i32,       // backward: those before each of C tokens and after the last
  r: i32,           // backward: those of C tokens
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
@group(0) @binding(8) var<storage, read> saved: array<f32>;
@group(0) @binding(9) var<storage, read_write> dx: array<f32>;
@group(0) @binding(10) var<storage, read> given: array<f32>;
@group(0) @binding(11) var<storage, read_write> results: array<f32>;

const threads = i32(THREADS);

fn up4(n: i32) -> i32 { return (n + 3) & ~3; }

struct Instruction {
  op: i32,
  to: i32,
  n: i32,
  a: i32,
  b: i32,
  c: i32,
  d: i32,
  e: i32,
  x: f32,
  z: f32,
}

fn instructionAt(index: i32) -> Instruction {
  let w = p.parts * 4 + index * 10;
  return Instruction(program[w], program[w + 1], program[w + 2], program[w + 3], program[w + 4], program[w + 5], program[w + 6],
    program[w + 7], bitcast<f32>(program[w + 8]), bitcast<f32>(program[w + 9]));
}

/// Where what a token is computed from lies: in work, but for its row of x.
struct Token {
  r: i32,
  before: i32,
  after: i32,
  slow: i32,
  x: i32,
}

/// Cotangents of these, in work.
struct Cotangents {
  r: i32,
  state: i32,
  slow: i32,
}

fn matrixOf(i: Instruction, t: Token) -> i32 { return i.b + select(select(t.before, t.after, i.e != 0), t.slow, i.d != 0); }
fn decayOf(i: Instruction, r: i32) -> f32 {
  if (i.d < 0) { return i.x; }
  return work[r + i.d];
}

// Sums over a vector: each thread has them for itself, from first to last. That costs no more than reading a matrix, and no waiting.

fn dotOf(a: i32, b: i32, n: i32) -> f32 {
  var s = 0.0;
  for (var j = 0; j < n; j++) { s += work[a + j] * work[b + j]; }
  return s;
}

fn sumOf(a: i32, n: i32) -> f32 {
  var s = 0.0;
  for (var j = 0; j < n; j++) { s += work[a + j]; }
  return s;
}

struct Statistics {
  mean: f32,
  scale: f32,
}

fn statisticsOf(kind: i32, a: i32, n: i32, eps: f32) -> Statistics {
  let total = sumOf(a, n);
  if (kind > L2) { return Statistics(0.0, 1.0 / (total + eps)); }
  let mean = select(0.0, total / f32(n), kind == LAYER);
  var squares = 0.0;
  for (var j = 0; j < n; j++) { squares += (work[a + j] - mean) * (work[a + j] - mean); }
  return Statistics(mean, 1.0 / sqrtOf(select(squares / f32(n), squares, kind == L2) + eps));
}

fn softmaxOf(to: i32, a: i32, n: i32, eps: f32, thread: i32) {
  var largest = -infinity();
  for (var j = 0; j < n; j++) { largest = maxOf(largest, work[a + j]); }
  var total = 0.0;
  for (var j = 0; j < n; j++) { total += expOf(work[a + j] - largest); }
  for (var j = thread; j < n; j += threads) { work[to + j] = expOf(work[a + j] - largest) / (total + eps); }
}

/// The sum over c rows of a[q] M[q, j], M at column j, rows `width` apart: four at a time, and what is left.
fn column(a: i32, M: i32, c: i32, width: i32) -> f32 {
  var s = vec4(0.0);
  var q = 0;
  var m = M;
  for (; q + 4 <= c; q += 4) {
    s += vec4(work[a + q], work[a + q + 1], work[a + q + 2], work[a + q + 3])
      * vec4(work[m], work[m + width], work[m + 2 * width], work[m + 3 * width]);
    m += 4 * width;
  }
  var total = (s.x + s.y) + (s.z + s.w);
  for (; q < c; q++) {
    total += work[a + q] * work[m];
    m += width;
  }
  return total;
}

/// The same along a row: M[q, j] u[j] over n columns.
fn along(M: i32, u: i32, n: i32) -> f32 { return column(u, M, n, 1); }

fn elementwise(i: Instruction, r: i32, j: i32) -> f32 {
  let a = work[r + i.a + j];
  switch (i.op) {
    case ADD: { return a + work[r + i.b + j]; }
    case SUB: { return a - work[r + i.b + j]; }
    case MUL: { return a * work[r + i.b + j]; }
    case AFFINE: { return i.x * a + i.z; }
    case TIMES: { return work[r + i.b] * a; }
    case UNARY: { return applyUnary(u32(i.b), a); }
    default: { return work[r + i.a + i.b + j]; } // SLICE
  }
}

/// Whether a thread reads, or in backward adds to, what others have written since they last met.
fn crosses(op: i32) -> bool {
  return op == READ || op == WRITE || op == TIMES || op == DOT || op == SOFTMAX || op == NORM || op == SLICE || op == CONCAT;
}

/// All but OUTPUT.
fn forward(i: Instruction, t: Token, thread: i32) {
  let to = t.r + i.to;
  if (crosses(i.op)) { storageBarrier(); }
  switch (i.op) {
    case INPUT: { for (var j = thread; j < i.n; j += threads) { work[to + j] = x[t.x + i.a + j]; } }
    case STATE: { for (var j = thread; j < i.n; j += threads) { work[to + j] = work[t.before + i.a + j]; } }
    case PARAMETER: { for (var j = thread; j < i.n; j += threads) { work[to + j] = work[t.slow + i.a + j]; } }
    case READ: {
      let M = matrixOf(i, t);
      for (var j = thread; j < i.n; j += threads) { work[to + j] = column(t.r + i.a, M + j, i.c, up4(i.n)); }
    }
    case WRITE: {
      let l = decayOf(i, t.r);
      let width = up4(i.n);
      for (var j = thread; j < i.n; j += threads) {
        let u = work[t.r + i.b + j];
        for (var q = 0; q < i.c; q++) {
          let at = i.to + j + q * width;
          work[t.after + at] = l * work[t.before + at] + work[t.r + i.a + q] * u;
        }
      }
      // Apart: a GPU that is computed on a CPU takes every branch, and would compute all activations of each element where there is none.
      for (var j = thread; j < select(0, i.n, i.e >= 0); j += threads) {
        for (var at = t.after + i.to + j; at < t.after + i.to + i.c * width; at += width) { work[at] = applyUnary(u32(i.e), work[at]); }
      }
    }
    case DOT: {
      if (thread == 0) { work[to] = dotOf(t.r + i.a, t.r + i.b, i.c); }
    }
    case SOFTMAX: { softmaxOf(to, t.r + i.a, i.n, i.x, thread); }
    case NORM: {
      let s = statisticsOf(i.b, t.r + i.a, i.n, i.x);
      for (var j = thread; j < i.n; j += threads) { work[to + j] = (work[t.r + i.a + j] - s.mean) * s.scale; }
    }
    case CONCAT: {
      for (var j = thread; j < i.n; j += threads) { work[to + j] = work[t.r + select(i.b + j - i.c, i.a + j, j < i.c)]; }
    }
    case NEXT: { for (var j = thread; j < i.n; j += threads) { work[t.after + i.to + j] = work[t.r + i.a + j]; } }
    default: { for (var j = thread; j < i.n; j += threads) { work[to + j] = elementwise(i, t.r, j); } }
  }
}

/// dr of a (and b) += what g, that of the result at j, asks for.
fn elementwiseBackward(i: Instruction, r: i32, dr: i32, j: i32) {
  let g = work[dr + i.to + j];
  let a = r + i.a + j;
  let da = dr + i.a + j;
  let db = dr + i.b + j;
  switch (i.op) {
    case ADD: {
      work[da] += g;
      work[db] += g;
    }
    case SUB: {
      work[da] += g;
      work[db] -= g;
    }
    case MUL: {
      work[da] += g * work[r + i.b + j];
      work[db] += g * work[a];
    }
    case AFFINE: { work[da] += i.x * g; }
    case TIMES: { work[da] += work[r + i.b] * g; }
    case UNARY: { work[da] += applyUnaryBackward(u32(i.b), work[a], work[r + i.to + j], g); }
    default: { work[da + i.b] += g; } // SLICE
  }
}

/// All but INPUT and OUTPUT.
fn backward(i: Instruction, t: Token, d: Cotangents, thread: i32) {
  let g = d.r + i.to;
  let width = up4(i.n);
  if (crosses(i.op)) { storageBarrier(); }
  switch (i.op) {
    case STATE: { for (var j = thread; j < i.n; j += threads) { work[d.state + i.a + j] += work[g + j]; } }
    case PARAMETER: { for (var j = thread; j < i.n; j += threads) { work[d.slow + i.a + j] += work[g + j]; } }
    case READ: {
      let M = matrixOf(i, t);
      let dM = i.b + select(d.state, d.slow, i.d != 0);
      for (var q = thread; q < i.c; q += threads) { work[d.r + i.a + q] += along(M + q * width, g, i.n); }
      for (var j = thread; j < i.n; j += threads) {
        let gj = work[g + j];
        var at = dM + j;
        for (var q = 0; q < i.c; q++) {
          work[at] += work[t.r + i.a + q] * gj;
          at += width;
        }
      }
    }
    case WRITE: {
      let l = decayOf(i, t.r);
      let dM = d.state + i.to;
      let last = t.before + i.to;
      if (i.e >= 0) {
        for (var j = thread; j < i.n; j += threads) {
          let u = work[t.r + i.b + j];
          for (var q = 0; q < i.c; q++) {
            let at = q * width + j;
            let m = l * work[last + at] + work[t.r + i.a + q] * u;
            work[dM + at] = applyUnaryBackward(u32(i.e), m, work[t.after + i.to + at], work[dM + at]);
          }
        }
        storageBarrier();
      }
      for (var q = thread; q < i.c; q += threads) { work[d.r + i.a + q] += along(dM + q * width, t.r + i.b, i.n); }
      for (var j = thread; j < i.n; j += threads) { work[d.r + i.b + j] += column(t.r + i.a, dM + j, i.c, width); }
      if (i.d < 0 && bitcast<u32>(i.x) == 0x3f800000u) { return; }
      storageBarrier();
      var dl = 0.0;
      for (var j = thread; j < i.n; j += threads) {
        for (var at = j; at < i.c * width; at += width) {
          dl += work[dM + at] * work[last + at];
          work[dM + at] *= l;
        }
      }
      if (i.d >= 0) {
        let s = sumLanes(dl, u32(thread), THREADS);
        if (thread == 0) { work[d.r + i.d] += s; }
      }
    }
    case DOT: {
      for (var j = thread; j < i.c; j += threads) {
        work[d.r + i.a + j] += work[g] * work[t.r + i.b + j];
        work[d.r + i.b + j] += work[g] * work[t.r + i.a + j];
      }
    }
    case TIMES: {
      for (var j = thread; j < i.n; j += threads) { elementwiseBackward(i, t.r, d.r, j); }
      if (thread == 0) { work[d.r + i.b] += dotOf(t.r + i.a, g, i.n); }
    }
    case SOFTMAX: {
      let h = t.r + i.to;
      let gh = dotOf(g, h, i.n);
      for (var j = thread; j < i.n; j += threads) { work[d.r + i.a + j] += work[h + j] * (work[g + j] - gh); }
    }
    case NORM: {
      let h = t.r + i.to;
      let scale = statisticsOf(i.b, t.r + i.a, i.n, i.x).scale;
      let gh = dotOf(g, h, i.n);
      let shift = select(select(0.0, sumOf(g, i.n) / f32(i.n), i.b == LAYER), gh, i.b > L2);
      let slope = select(select(gh / f32(i.n), gh, i.b == L2), 0.0, i.b > L2);
      for (var j = thread; j < i.n; j += threads) { work[d.r + i.a + j] += scale * (work[g + j] - shift - work[h + j] * slope); }
    }
    case CONCAT: {
      for (var j = thread; j < i.c; j += threads) { work[d.r + i.a + j] += work[g + j]; }
      for (var j = thread; j < i.n - i.c; j += threads) { work[d.r + i.b + j] += work[g + i.c + j]; }
    }
    case NEXT: {
      for (var j = thread; j < i.n; j += threads) {
        work[d.r + i.a + j] += work[d.state + i.to + j];
        work[d.state + i.to + j] = 0.0;
      }
    }
    default: {
      for (var j = thread; j < i.n; j += threads) { elementwiseBackward(i, t.r, d.r, j); }
      if (i.op == SLICE) { storageBarrier(); }
    }
  }
}

fn copy(to: i32, source: i32, n: i32, thread: i32) {
  for (var j = thread; j < n; j += threads) { work[to + j] = work[source + j]; }
  storageBarrier();
}

fn clear(to: i32, n: i32, thread: i32) {
  for (var j = thread; j < n; j += threads) { work[to + j] = 0.0; }
}

fn bitsOf(token: i32) -> i32 {
  if (p.tokenised == 0) { return TOKEN; }
  return tokens[token];
}

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

@compute @workgroup_size(THREADS) fn net(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let group = i32(id.x + id.y * count.x);
  let thread = i32(lane);
  if (group >= p.heads) { return; }
  let head = headOf(group);
  let state = head.base + p.state;
  for (var t = 0; t < p.T; t++) {
    storageBarrier();
    if (p.snapshots != 0 && t % p.C == 0) {
      let to = (head.index * ((p.T - 1) / p.C + 1) + t / p.C) * p.stateFloats;
      for (var j = thread; j < p.stateFloats; j += threads) { states[to + j] = work[state + j]; }
    }
    let row = (head.token + t) * p.H + head.index % p.H;
    let bits = bitsOf(head.token + t);
    storageBarrier();
    if ((bits & BEGINS) != 0) { copy(state, head.base + p.start, p.stateFloats, thread); }
    if ((bits & TOKEN) == 0) {
      for (var j = thread; j < p.O; j += threads) { y[row * p.O + j] = 0.0; }
      continue;
    }
    let token = Token(head.base + p.r, state, state, head.base + p.slow, row * p.I);
    for (var index = 0; index < p.instructions; index++) {
      let i = instructionAt(index);
      if (i.op == OUTPUT) {
        for (var j = thread; j < i.n; j += threads) { y[row * p.O + i.to + j] = work[token.r + i.a + j]; }
      } else { forward(i, token, thread); }
    }
  }
}

/// A sequence begins: what its state asks for belongs to `fresh`.
fn settle(base: i32, thread: i32) {
  for (var j = thread; j < p.stateFloats; j += threads) {
    work[base + p.dstart + j] += work[base + p.dstate + j];
    work[base + p.dstate + j] = 0.0;
  }
  storageBarrier();
}

/// Where the state before token t of a chunk lies: after its last token, or at the beginning of a sequence.
fn before(base: i32, token: i32, t: i32) -> i32 {
  var slot = t;
  loop {
    if ((bitsOf(token + slot) & BEGINS) != 0) { return base + p.start; }
    if (slot == 0) { break; }
    slot--;
    if ((bitsOf(token + slot) & TOKEN) != 0) { return base + p.state + (slot + 1) * p.stateFloats; }
  }
  return base + p.state;
}

@compute @workgroup_size(THREADS) fn netBackward(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let group = i32(id.x + id.y * count.x);
  let thread = i32(lane);
  if (group >= p.heads) { return; }
  let head = headOf(group);
  let base = head.base;
  let d = Cotangents(base + p.dr, base + p.dstate, base + p.dslow);
  let spans = (p.T - 1) / p.C + 1;
  clear(base + p.dstart, p.stateFloats, thread);
  for (var span = spans - 1; span >= 0; span--) {
    let t0 = span * p.C;
    let n = select(p.C, p.T - t0, p.T - t0 < p.C);
    let source = (head.index * spans + span) * p.stateFloats;
    for (var j = thread; j < p.stateFloats; j += threads) { work[base + p.state + j] = saved[source + j]; }
    storageBarrier();
    let first = head.token + t0;
    for (var t = 0; t < n; t++) {
      if ((bitsOf(first + t) & TOKEN) == 0) { continue; }
      let row = (first + t) * p.H + head.index % p.H;
      let token = Token(base + p.r + t * p.registers, before(base, first, t), base + p.state + (t + 1) * p.stateFloats, base + p.slow, row * p.I);
      for (var index = 0; index < p.instructions; index++) {
        let i = instructionAt(index);
        if (i.op != OUTPUT) { forward(i, token, thread); }
      }
    }
    for (var t = n - 1; t >= 0; t--) {
      let bits = bitsOf(first + t);
      let row = (first + t) * p.H + head.index % p.H;
      if ((bits & TOKEN) == 0) {
        for (var j = thread; j < p.I; j += threads) { dx[row * p.I + j] = 0.0; }
      } else {
        let token = Token(base + p.r + t * p.registers, before(base, first, t), base + p.state + (t + 1) * p.stateFloats, base + p.slow, row * p.I);
        storageBarrier();
        clear(d.r, p.registers, thread);
        storageBarrier();
        for (var index = p.instructions - 1; index >= 0; index--) {
          let i = instructionAt(index);
          if (i.op == OUTPUT) {
            for (var j = thread; j < i.n; j += threads) { work[d.r + i.a + j] += dy[row * p.O + i.to + j]; }
          } else if (i.op == INPUT) {
            for (var j = thread; j < i.n; j += threads) { dx[row * p.I + i.a + j] = work[d.r + i.to + j]; }
          } else { backward(i, token, d, thread); }
        }
      }
      storageBarrier();
      if ((bits & BEGINS) != 0) { settle(base, thread); }
    }
  }
  if (p.carried == 0) { settle(base, thread); }
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
  clear(to, p.floats, thread);
  storageBarrier();
  if (p.present == 0) { return; }
  let source = select(index, index % p.H, p.repeated != 0) * p.size;
  for (var part = p.first; part < p.first + p.count; part++) {
    let columns = program[part * 4 + 2];
    let n = program[part * 4 + 1] * columns;
    for (var e = thread; e < n; e += threads) {
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
    for (var e = thread; e < n; e += threads) {
      results[to + program[part * 4] + e] = work[source + program[part * 4 + 3] + e / columns * up4(columns) + e % columns];
    }
  }
}
