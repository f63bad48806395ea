// Recurrent nets by their programs, forward and backward: the instructions of engine/devices/kernels.ts (`netOps`, which has their equations), and
// what goes through tokens and heads. The host adds `forward`, `outputs` and `backward`, which call the functions of a program's instructions in its order:
// a shader for each order of ops, whatever the sizes, which come from `program`. One for all programs, which chose an op as it went, took 20 times as long.
//
// A workgroup is one head of one sequence, from the first token to the last. Its threads share the numbers of each vector and the columns of each
// matrix, thread j those at j, j + THREADS, ...: what it writes there, nobody else does, so that they wait for each other only before an instruction that
// looks at the numbers of others, and at the beginning of each token.
// Backward: from the snapshot on, C tokens are computed once more, each with registers and a state of its own, then walked in reverse.
//
// Numerics: a sum's order depends on its length alone. What a token holds never enters the arithmetic of an earlier one.
// What an instruction waits for depends only on `program` and `tokens`, which nobody writes: so all threads meet at each barrier. (For the compiler to
// see it, the entries take their builtins one by one: in a struct, one that differs from thread to thread makes all of them differ.)

// normKinds, tokenBits of engine/devices/kernels.ts.
const LAYER = 0;
const L2 = 2;
const TOKEN = 1;
const BEGINS = 2;

struct Instruction {
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
  return Instruction(program[w + 1], program[w + 2], program[w + 3], program[w + 4], program[w + 5], program[w + 6],
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

// ---- instructions, a function each: what `forward` and `backward` are made of (engine/devices/webgpu/net.ts) ---------------------------
//
// A storageBarrier comes before what reads, or in backward adds to, what other threads have written since they last met.

fn inputForward(i: Instruction, t: Token, thread: i32) {
  for (var j = thread; j < i.n; j += threads) { work[t.r + i.to + j] = x[t.x + i.a + j]; }
}

fn inputBackward(i: Instruction, d: Cotangents, row: i32, thread: i32) {
  for (var j = thread; j < i.n; j += threads) { dx[row * p.I + i.a + j] = work[d.r + i.to + j]; }
}

fn outputForward(i: Instruction, t: Token, row: i32, thread: i32) {
  for (var j = thread; j < i.n; j += threads) { y[row * p.O + i.to + j] = work[t.r + i.a + j]; }
}

fn outputBackward(i: Instruction, d: Cotangents, row: i32, thread: i32) {
  for (var j = thread; j < i.n; j += threads) { work[d.r + i.a + j] += dy[row * p.O + i.to + j]; }
}

fn stateForward(i: Instruction, t: Token, thread: i32) {
  for (var j = thread; j < i.n; j += threads) { work[t.r + i.to + j] = work[t.before + i.a + j]; }
}

fn stateBackward(i: Instruction, t: Token, d: Cotangents, thread: i32) {
  for (var j = thread; j < i.n; j += threads) { work[d.state + i.a + j] += work[d.r + i.to + j]; }
}

fn parameterForward(i: Instruction, t: Token, thread: i32) {
  for (var j = thread; j < i.n; j += threads) { work[t.r + i.to + j] = work[t.slow + i.a + j]; }
}

fn parameterBackward(i: Instruction, t: Token, d: Cotangents, thread: i32) {
  for (var j = thread; j < i.n; j += threads) { work[d.slow + i.a + j] += work[d.r + i.to + j]; }
}

fn readForward(i: Instruction, t: Token, thread: i32) {
  storageBarrier();
  let M = matrixOf(i, t);
  for (var j = thread; j < i.n; j += threads) { work[t.r + i.to + j] = column(t.r + i.a, M + j, i.c, up4(i.n)); }
}

fn readBackward(i: Instruction, t: Token, d: Cotangents, thread: i32) {
  storageBarrier();
  let g = d.r + i.to;
  let width = up4(i.n);
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

fn writeForward(i: Instruction, t: Token, thread: i32) {
  storageBarrier();
  let l = decayOf(i, t.r);
  let width = up4(i.n);
  for (var j = thread; j < i.n; j += threads) {
    let u = work[t.r + i.b + j];
    for (var q = 0; q < i.c; q++) {
      let at = i.to + j + q * width;
      work[t.after + at] = l * work[t.before + at] + work[t.r + i.a + q] * u;
    }
  }
}

/// The activation of what has been written.
fn activateForward(op: u32, i: Instruction, t: Token, thread: i32) {
  let width = up4(i.n);
  for (var j = thread; j < i.n; j += threads) {
    for (var q = 0; q < i.c; q++) {
      let at = t.after + i.to + j + q * width;
      work[at] = applyUnary(op, work[at]);
    }
  }
}

fn activateBackward(op: u32, i: Instruction, t: Token, d: Cotangents, thread: i32) {
  storageBarrier();
  let l = decayOf(i, t.r);
  let width = up4(i.n);
  for (var j = thread; j < i.n; j += threads) {
    let u = work[t.r + i.b + j];
    for (var q = 0; q < i.c; q++) {
      let at = i.to + q * width + j;
      let m = l * work[t.before + at] + work[t.r + i.a + q] * u;
      work[d.state + at] = applyUnaryBackward(op, m, work[t.after + at], work[d.state + at]);
    }
  }
}

fn writeBackward(i: Instruction, t: Token, d: Cotangents, thread: i32) {
  storageBarrier();
  let width = up4(i.n);
  let l = decayOf(i, t.r);
  let dM = d.state + i.to;
  let last = t.before + i.to;
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

fn addForward(i: Instruction, t: Token, thread: i32) {
  for (var j = thread; j < i.n; j += threads) { work[t.r + i.to + j] = work[t.r + i.a + j] + work[t.r + i.b + j]; }
}

fn addBackward(i: Instruction, t: Token, d: Cotangents, thread: i32) {
  for (var j = thread; j < i.n; j += threads) {
    let g = work[d.r + i.to + j];
    work[d.r + i.a + j] += g;
    work[d.r + i.b + j] += g;
  }
}

fn subForward(i: Instruction, t: Token, thread: i32) {
  for (var j = thread; j < i.n; j += threads) { work[t.r + i.to + j] = work[t.r + i.a + j] - work[t.r + i.b + j]; }
}

fn subBackward(i: Instruction, t: Token, d: Cotangents, thread: i32) {
  for (var j = thread; j < i.n; j += threads) {
    let g = work[d.r + i.to + j];
    work[d.r + i.a + j] += g;
    work[d.r + i.b + j] -= g;
  }
}

fn mulForward(i: Instruction, t: Token, thread: i32) {
  for (var j = thread; j < i.n; j += threads) { work[t.r + i.to + j] = work[t.r + i.a + j] * work[t.r + i.b + j]; }
}

fn mulBackward(i: Instruction, t: Token, d: Cotangents, thread: i32) {
  for (var j = thread; j < i.n; j += threads) {
    let g = work[d.r + i.to + j];
    work[d.r + i.a + j] += g * work[t.r + i.b + j];
    work[d.r + i.b + j] += g * work[t.r + i.a + j];
  }
}

fn affineForward(i: Instruction, t: Token, thread: i32) {
  for (var j = thread; j < i.n; j += threads) { work[t.r + i.to + j] = i.x * work[t.r + i.a + j] + i.z; }
}

fn affineBackward(i: Instruction, t: Token, d: Cotangents, thread: i32) {
  for (var j = thread; j < i.n; j += threads) { work[d.r + i.a + j] += i.x * work[d.r + i.to + j]; }
}

fn timesForward(i: Instruction, t: Token, thread: i32) {
  storageBarrier();
  for (var j = thread; j < i.n; j += threads) { work[t.r + i.to + j] = work[t.r + i.b] * work[t.r + i.a + j]; }
}

fn timesBackward(i: Instruction, t: Token, d: Cotangents, thread: i32) {
  storageBarrier();
  for (var j = thread; j < i.n; j += threads) { work[d.r + i.a + j] += work[t.r + i.b] * work[d.r + i.to + j]; }
  if (thread == 0) { work[d.r + i.b] += dotOf(t.r + i.a, d.r + i.to, i.n); }
}

fn unaryForward(op: u32, i: Instruction, t: Token, thread: i32) {
  for (var j = thread; j < i.n; j += threads) { work[t.r + i.to + j] = applyUnary(op, work[t.r + i.a + j]); }
}

fn unaryBackward(op: u32, i: Instruction, t: Token, d: Cotangents, thread: i32) {
  for (var j = thread; j < i.n; j += threads) {
    work[d.r + i.a + j] += applyUnaryBackward(op, work[t.r + i.a + j], work[t.r + i.to + j], work[d.r + i.to + j]);
  }
}

fn dotForward(i: Instruction, t: Token, thread: i32) {
  storageBarrier();
  if (thread == 0) { work[t.r + i.to] = dotOf(t.r + i.a, t.r + i.b, i.c); }
}

fn dotBackward(i: Instruction, t: Token, d: Cotangents, thread: i32) {
  storageBarrier();
  let g = work[d.r + i.to];
  for (var j = thread; j < i.c; j += threads) {
    work[d.r + i.a + j] += g * work[t.r + i.b + j];
    work[d.r + i.b + j] += g * work[t.r + i.a + j];
  }
}

fn softmaxForward(i: Instruction, t: Token, thread: i32) {
  storageBarrier();
  softmaxOf(t.r + i.to, t.r + i.a, i.n, i.x, thread);
}

fn softmaxBackward(i: Instruction, t: Token, d: Cotangents, thread: i32) {
  storageBarrier();
  let h = t.r + i.to;
  let g = d.r + i.to;
  let gh = dotOf(g, h, i.n);
  for (var j = thread; j < i.n; j += threads) { work[d.r + i.a + j] += work[h + j] * (work[g + j] - gh); }
}

fn normForward(i: Instruction, t: Token, thread: i32) {
  storageBarrier();
  let s = statisticsOf(i.b, t.r + i.a, i.n, i.x);
  for (var j = thread; j < i.n; j += threads) { work[t.r + i.to + j] = (work[t.r + i.a + j] - s.mean) * s.scale; }
}

fn normBackward(i: Instruction, t: Token, d: Cotangents, thread: i32) {
  storageBarrier();
  let h = t.r + i.to;
  let g = d.r + i.to;
  let scale = statisticsOf(i.b, t.r + i.a, i.n, i.x).scale;
  let gh = dotOf(g, h, i.n);
  let shift = select(select(0.0, sumOf(g, i.n) / f32(i.n), i.b == LAYER), gh, i.b > L2);
  let slope = select(select(gh / f32(i.n), gh, i.b == L2), 0.0, i.b > L2);
  for (var j = thread; j < i.n; j += threads) { work[d.r + i.a + j] += scale * (work[g + j] - shift - work[h + j] * slope); }
}

fn sliceForward(i: Instruction, t: Token, thread: i32) {
  storageBarrier();
  for (var j = thread; j < i.n; j += threads) { work[t.r + i.to + j] = work[t.r + i.a + i.b + j]; }
}

fn sliceBackward(i: Instruction, t: Token, d: Cotangents, thread: i32) {
  storageBarrier();
  for (var j = thread; j < i.n; j += threads) { work[d.r + i.a + i.b + j] += work[d.r + i.to + j]; }
  storageBarrier();
}

fn concatForward(i: Instruction, t: Token, thread: i32) {
  storageBarrier();
  for (var j = thread; j < i.n; j += threads) { work[t.r + i.to + j] = work[t.r + select(i.b + j - i.c, i.a + j, j < i.c)]; }
}

fn concatBackward(i: Instruction, t: Token, d: Cotangents, thread: i32) {
  storageBarrier();
  let g = d.r + i.to;
  for (var j = thread; j < i.c; j += threads) { work[d.r + i.a + j] += work[g + j]; }
  for (var j = thread; j < i.n - i.c; j += threads) { work[d.r + i.b + j] += work[g + i.c + j]; }
}

fn nextForward(i: Instruction, t: Token, thread: i32) {
  for (var j = thread; j < i.n; j += threads) { work[t.after + i.to + j] = work[t.r + i.a + j]; }
}

fn nextBackward(i: Instruction, t: Token, d: Cotangents, thread: i32) {
  for (var j = thread; j < i.n; j += threads) {
    work[d.r + i.a + j] += work[d.state + i.to + j];
    work[d.state + i.to + j] = 0.0;
  }
}

// ---- heads -------------------------------------------------------------------------------------------------------------------------

fn copy(to: i32, source: i32, n: i32, thread: i32) {
  for (var j = thread; j < n; j += threads) { work[to + j] = work[source + j]; }
  storageBarrier();
}

fn bitsOf(token: i32) -> i32 {
  if (p.tokenised == 0) { return TOKEN; }
  return tokens[token];
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
    forward(token, thread);
    outputs(token, row, thread);
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
      forward(token, thread);
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
        backward(token, d, row, thread);
      }
      storageBarrier();
      if ((bits & BEGINS) != 0) { settle(base, thread); }
    }
  }
  if (p.carried == 0) { settle(base, thread); }
}
