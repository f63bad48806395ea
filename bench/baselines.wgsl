// The kernels of kernels-wgsl/ done plainly, to be measured beside them: a thread an output or a row, everything read from storage memory and
// written back to it, no workgroup memory but where threads have to hear of each other, the functions of WGSL as they are.

struct Params {
  M: u32,
  N: u32,
  K: u32,
  rowA: u32,      // strides
  columnA: u32,
  rowB: u32,
  columnB: u32,
  accumulate: u32,
  R: u32,
  n: u32,
  causal: u32,
  eps: f32,
  T: u32,
  H: u32,
  V: u32,
  heads: u32,     // B H
  gateWidth: u32, // 0: no gate
  corrects: u32,  // whether there is beta
  slots: u32,     // of each head's states: 1, or T + 1 and one for the cotangent
  scale: f32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(2) var<storage, read> b: array<f32>;
@group(0) @binding(3) var<storage, read_write> c: array<f32>;
@group(0) @binding(4) var<storage, read> x: array<f32>;
@group(0) @binding(5) var<storage, read> gain: array<f32>;
@group(0) @binding(6) var<storage, read> bias: array<f32>;
@group(0) @binding(7) var<storage, read> dy: array<f32>;
@group(0) @binding(8) var<storage, read> stats: array<f32>;
@group(0) @binding(9) var<storage, read> index: array<i32>;
@group(0) @binding(10) var<storage, read_write> y: array<f32>;
@group(0) @binding(11) var<storage, read_write> dbias: array<f32>;
@group(0) @binding(12) var<storage, read> q: array<f32>;
@group(0) @binding(13) var<storage, read> k: array<f32>;
@group(0) @binding(14) var<storage, read> v: array<f32>;
@group(0) @binding(15) var<storage, read> beta: array<f32>;
@group(0) @binding(16) var<storage, read> decay: array<f32>;
@group(0) @binding(17) var<storage, read_write> states: array<f32>;
@group(0) @binding(18) var<storage, read_write> gradients: array<f32>;

// C[M,N] = A B: a thread an element.
@compute @workgroup_size(8, 8) fn matmul(@builtin(global_invocation_id) id: vec3<u32>) {
  let i = id.y;
  let j = id.x;
  if (i >= p.M || j >= p.N) { return; }
  var total = 0.0;
  for (var l = 0u; l < p.K; l++) { total += a[i * p.rowA + l * p.columnA] * b[l * p.rowB + j * p.columnB]; }
  if (p.accumulate == 1u) { total += c[i * p.N + j]; }
  c[i * p.N + j] = total;
}

// A thread a row of [R, n].

@compute @workgroup_size(64) fn sumRows(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= p.R) { return; }
  var total = 0.0;
  for (var j = 0u; j < p.n; j++) { total += x[id.x * p.n + j]; }
  y[id.x] = total;
}

@compute @workgroup_size(64) fn softmax(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= p.R) { return; }
  let at = id.x * p.n;
  let seen = select(p.n, id.x % p.n + 1u, p.causal == 1u);
  var top = x[at];
  for (var j = 1u; j < seen; j++) { top = max(top, x[at + j]); }
  var total = 0.0;
  for (var j = 0u; j < seen; j++) { total += exp(x[at + j] - top); }
  for (var j = 0u; j < p.n; j++) {
    if (j < seen) { y[at + j] = exp(x[at + j] - top) / total; } else { y[at + j] = 0.0; }
  }
}

// x holds the softmax.
@compute @workgroup_size(64) fn softmaxBackward(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= p.R) { return; }
  let at = id.x * p.n;
  var total = 0.0;
  for (var j = 0u; j < p.n; j++) { total += x[at + j] * dy[at + j]; }
  for (var j = 0u; j < p.n; j++) { y[at + j] = x[at + j] * (dy[at + j] - total); }
}

@compute @workgroup_size(64) fn crossEntropy(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= p.R) { return; }
  let at = id.x * p.n;
  var top = x[at];
  for (var j = 1u; j < p.n; j++) { top = max(top, x[at + j]); }
  var total = 0.0;
  for (var j = 0u; j < p.n; j++) { total += exp(x[at + j] - top); }
  y[id.x] = top + log(total) - x[at + u32(index[id.x])];
}

@compute @workgroup_size(64) fn layerNorm(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= p.R) { return; }
  let at = id.x * p.n;
  var mean = 0.0;
  for (var j = 0u; j < p.n; j++) { mean += x[at + j]; }
  mean /= f32(p.n);
  var variance = 0.0;
  for (var j = 0u; j < p.n; j++) { variance += (x[at + j] - mean) * (x[at + j] - mean); }
  let scale = 1.0 / sqrt(variance / f32(p.n) + p.eps);
  for (var j = 0u; j < p.n; j++) { y[at + j] = (x[at + j] - mean) * scale * gain[j] + bias[j]; }
}

@compute @workgroup_size(64) fn layerNormBackward(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= p.R) { return; }
  let at = id.x * p.n;
  let mean = stats[2u * id.x];
  let scale = stats[2u * id.x + 1u];
  var g = 0.0;
  var gh = 0.0;
  for (var j = 0u; j < p.n; j++) {
    g += dy[at + j] * gain[j];
    gh += dy[at + j] * gain[j] * (x[at + j] - mean) * scale;
  }
  g /= f32(p.n);
  gh /= f32(p.n);
  for (var j = 0u; j < p.n; j++) { y[at + j] = scale * (dy[at + j] * gain[j] - g - (x[at + j] - mean) * scale * gh); }
}

// A thread a column of [R, n].

@compute @workgroup_size(64) fn sumColumns(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= p.n) { return; }
  var total = 0.0;
  for (var r = 0u; r < p.R; r++) { total += x[r * p.n + id.x]; }
  y[id.x] = total;
}

@compute @workgroup_size(64) fn layerNormGainBackward(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= p.n) { return; }
  var sumGain = 0.0;
  var sumBias = 0.0;
  for (var r = 0u; r < p.R; r++) {
    sumGain += dy[r * p.n + id.x] * (x[r * p.n + id.x] - stats[2u * r]) * stats[2u * r + 1u];
    sumBias += dy[r * p.n + id.x];
  }
  y[id.x] = sumGain;
  dbias[id.x] = sumBias;
}

// The gradient of a table [N, n] of which row index[r] was read for dy[r, :]: a thread an element.
@compute @workgroup_size(64) fn gatherBackward(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= p.N * p.n) { return; }
  let row = i32(id.x / p.n);
  var total = 0.0;
  for (var r = 0u; r < p.R; r++) {
    if (index[r] == row) { total += dy[r * p.n + id.x % p.n]; }
  }
  y[id.x] = total;
}

// ---- recurrences: q, k [B,T,H,K], v [B,T,H,V], beta [B,T,H], decay [B,T,H,gateWidth], states [B H,slots,K,V] --------------------------------
//
//     S' = diag(w_t) S_{t-1},  u_t = beta_t (v_t - S'^T k_t) or v_t,  S_t = S' + k_t u_t^T,  y_t = scale S_t^T q_t

@compute @workgroup_size(64) fn decays(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x < p.n) { y[id.x] = exp(x[id.x]); }
}

fn fading(token: u32, i: u32) -> f32 {
  if (p.gateWidth == 0u) { return 1.0; }
  return decay[token * p.gateWidth + min(i, p.gateWidth - 1u)];
}

// Token by token; a thread a column of a head's state.
@compute @workgroup_size(64) fn recurrence(@builtin(global_invocation_id) id: vec3<u32>) {
  let head = id.x / p.V;
  let j = id.x % p.V;
  if (head >= p.heads) { return; }
  var S = head * p.slots * p.K * p.V + j;
  for (var i = 0u; i < p.K; i++) { states[S + i * p.V] = 0.0; }
  for (var t = 0u; t < p.T; t++) {
    let token = (head / p.H * p.T + t) * p.H + head % p.H;
    var u = v[token * p.V + j];
    if (p.corrects == 1u) {
      for (var i = 0u; i < p.K; i++) { u -= fading(token, i) * states[S + i * p.V] * k[token * p.K + i]; }
      u *= beta[token];
    }
    let next = select(S, S + p.K * p.V, p.slots > 1u);
    var o = 0.0;
    for (var i = 0u; i < p.K; i++) {
      let value = fading(token, i) * states[S + i * p.V] + k[token * p.K + i] * u;
      states[next + i * p.V] = value;
      o += value * q[token * p.K + i];
    }
    y[token * p.V + j] = p.scale * o;
    S = next;
  }
}

var<workgroup> us: array<f32, 64>;
var<workgroup> errors: array<f32, 64>;
var<workgroup> dus: array<f32, 64>;
var<workgroup> dws: array<f32, 64>;

// Back through the tokens, with the state after each kept by `recurrence`, K and V at most 64: a workgroup a head. In turns a thread has a
// column of the state's cotangent and a row of it. gradients: dq, dk, dv, dbeta, dgate, one after the other.
@compute @workgroup_size(64) fn recurrenceBackward(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = id.x;
  let tokens = p.heads * p.T;
  let size = p.K * p.V;
  let dS = (head * p.slots + p.T + 1u) * size;
  let dk = tokens * p.K;
  let dv = 2u * tokens * p.K;
  let dbeta = dv + tokens * p.V;
  let dgate = dbeta + tokens;
  for (var e = thread; e < size; e += 64u) { states[dS + e] = 0.0; }
  storageBarrier();
  for (var t = p.T; t > 0u; t--) {
    let token = (head / p.H * p.T + t - 1u) * p.H + head % p.H;
    let S = (head * p.slots + t) * size;
    let before = S - size;
    if (thread < p.V) {
      let dyj = p.scale * dy[token * p.V + thread];
      var error = v[token * p.V + thread];
      var du = 0.0;
      for (var i = 0u; i < p.K; i++) {
        let at = i * p.V + thread;
        if (p.corrects == 1u) { error -= fading(token, i) * states[before + at] * k[token * p.K + i]; }
        let value = states[dS + at] + q[token * p.K + i] * dyj;
        states[dS + at] = value;
        du += value * k[token * p.K + i];
      }
      errors[thread] = error * du;
      us[thread] = error;
      dus[thread] = du;
      if (p.corrects == 1u) {
        us[thread] = beta[token] * error;
        dus[thread] = beta[token] * du;
      }
      gradients[dv + token * p.V + thread] = dus[thread];
    }
    workgroupBarrier();
    storageBarrier();
    if (thread < p.K) {
      let w = fading(token, thread);
      var dqi = 0.0;
      var dki = 0.0;
      var dw = 0.0;
      for (var j = 0u; j < p.V; j++) {
        let at = thread * p.V + j;
        dqi += states[S + at] * p.scale * dy[token * p.V + j];
        dki += states[dS + at] * us[j];
        var dfaded = states[dS + at];
        if (p.corrects == 1u) {
          dki -= w * states[before + at] * dus[j];
          dfaded -= k[token * p.K + thread] * dus[j];
        }
        dw += states[before + at] * dfaded;
        states[dS + at] = w * dfaded;
      }
      gradients[token * p.K + thread] = dqi;
      gradients[dk + token * p.K + thread] = dki;
      dws[thread] = w * dw;
      if (p.gateWidth == p.K) { gradients[dgate + token * p.K + thread] = w * dw; }
    }
    workgroupBarrier();
    storageBarrier();
    if (thread == 0u) {
      var total = 0.0;
      for (var j = 0u; j < p.V; j++) { total += errors[j]; }
      gradients[dbeta + token] = total;
      if (p.gateWidth == 1u) {
        total = 0.0;
        for (var i = 0u; i < p.K; i++) { total += dws[i]; }
        gradients[dgate + token] = total;
      }
    }
    workgroupBarrier();
  }
}
