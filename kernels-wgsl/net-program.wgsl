// Recurrent nets by their programs, forward and backward: what goes through tokens and heads, and functions that instructions are made of. The host adds
// `threads`, and `forward` and `backward`, which do to a token what the program says (engine/devices/webgpu/net-source.ts).
//
// A workgroup is one head of one sequence, from token to token. Its threads share the numbers of each vector and the columns, or rows, of each matrix.
// Backward: from a snapshot on, `net` computes C tokens once more, each with registers and a state of its own, and `netBackward` walks them in reverse.
//
// Numerics: a sum's order depends on its length alone. What a token holds never enters the arithmetic of an earlier one.
// Which tokens are walked depends only on Params and `tokens`, which nobody writes: so all threads meet at each barrier. (For the compiler to see it,
// the entries take their builtins one by one: in a struct, one that differs from thread to thread makes all of them differ.)

// tokenBits of engine/devices/kernels.ts.
const TOKEN = 1;
const BEGINS = 2;

/// Where what a token is computed from lies: in work, but for its row of x and y.
struct Token {
  r: i32,
  before: i32,
  after: i32,
  slow: i32,
  row: i32,
}

/// Cotangents of these, in work.
struct Cotangents {
  r: i32,
  state: i32,
  slow: i32,
}

fn bitsOf(token: i32) -> i32 {
  if (p.tokenised == 0) { return TOKEN; }
  return tokens[token];
}

@compute @workgroup_size(threads) fn net(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) lane: u32,
) {
  let group = i32(id.x + id.y * count.x);
  let thread = i32(lane);
  if (group >= p.heads) { return; }
  let head = headOf(group);
  let base = head.base;
  let snapshots = head.index * ((p.T - 1) / p.C + 1);
  // Where the state is: in place, unless each token keeps its own, but at the beginning of a sequence.
  var state = base + p.state;
  if (p.kept != 0) {
    let source = (snapshots + p.t0 / p.C) * p.stateFloats;
    for (var j = thread; j < p.stateFloats; j += threads) { work[state + j] = states[source + j]; }
  }
  for (var t = p.t0; t < p.t1; t++) {
    storageBarrier();
    if (p.snapshots != 0 && t % p.C == 0) {
      let to = (snapshots + t / p.C) * p.stateFloats;
      for (var j = thread; j < p.stateFloats; j += threads) { states[to + j] = work[state + j]; }
      storageBarrier();
    }
    let token = head.token + t;
    let row = token * p.H + head.index % p.H;
    let bits = bitsOf(token);
    if ((bits & BEGINS) != 0) { state = base + p.start; }
    if ((bits & TOKEN) == 0) {
      for (var j = thread; j < select(p.O, 0, p.kept != 0); j += threads) { y[row * p.O + j] = 0.0; }
      continue;
    }
    let slot = select(0, t - p.t0, p.kept != 0);
    let after = base + p.state + select(0, (slot + 1) * p.stateFloats, p.kept != 0);
    forward(Token(base + p.r + slot * p.registers, state, after, base + p.slow, row), thread);
    state = after;
  }
  if (p.kept == 0 && state != base + p.state) {
    for (var j = thread; j < p.stateFloats; j += threads) { work[base + p.state + j] = work[state + j]; }
  }
}

/// A sequence begins: what its state asks for belongs to `fresh`.
fn settle(base: i32, thread: i32) {
  for (var j = thread; j < p.stateFloats; j += threads) {
    work[base + p.dstart + j] += work[base + p.dstate + j];
    work[base + p.dstate + j] = 0.0;
  }
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

/// Tokens [t0, t1), which `net` has kept.
@compute @workgroup_size(threads) fn netBackward(
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
  let first = head.token + p.t0;
  for (var t = p.t1 - p.t0 - 1; t >= 0; t--) {
    storageBarrier();
    let bits = bitsOf(first + t);
    let row = (first + t) * p.H + head.index % p.H;
    if ((bits & TOKEN) == 0) {
      for (var j = thread; j < p.I; j += threads) { dx[row * p.I + j] = 0.0; }
    } else {
      backward(Token(base + p.r + t * p.registers, before(base, first, t), base + p.state + (t + 1) * p.stateFloats, base + p.slow, row), d, thread);
    }
    if ((bits & BEGINS) != 0) {
      storageBarrier();
      settle(base, thread);
    }
  }
  storageBarrier();
  if (p.t0 == 0 && p.carried == 0) { settle(base, thread); }
}
