// The fast-weight recurrence, token by token: see engine/devices/reference/fast-weights.ts for the equations and letters. A workgroup a head of
// a sequence. A thread owns columns j of the state when it's read and written, rows i of it (and of z) when its rows are summed;
// barriers lie between the two. Pinned by test/ops/webgpu.test.ts.
//
// The inputs lie one after the other in `packed`, at the offsets of Params: q, k, erase, z [B,T,H,K], v, dy, y [B,T,H,V], beta, den [B,T,H],
// gate [B,T,H,gateWidth]. The backward recomputes a chunk's states from the one at its start; `work` holds, likewise one after the other, the
// gradients, which begin with dS and dz as the cotangents of the final state, and for each head C + 1 states, C + 1 z and C rows of u, e, dv.

struct Params {
  B: u32,
  T: u32,
  H: u32,
  K: u32,
  V: u32,
  C: u32,
  gateWidth: u32,
  scale: f32,
  eps: f32,
  gated: u32,
  corrects: u32, // 0: nothing is read, 1: beta, 2: erase
  normalised: u32,
  keeps: u32,    // whether snapshots are stored
  fault: u32,
  q: u32,
  k: u32,
  v: u32,
  beta: u32,
  gate: u32,
  erase: u32,
  dy: u32,
  y: u32,
  den: u32,
  zs: u32,
  dq: u32,
  dk: u32,
  dv: u32,
  dbeta: u32,
  dgate: u32,
  derase: u32,
  dS: u32,
  dz: u32,
  history: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> packed: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read_write> S: array<f32>;
@group(0) @binding(4) var<storage, read_write> z: array<f32>;
@group(0) @binding(5) var<storage, read_write> den: array<f32>;
@group(0) @binding(6) var<storage, read_write> states: array<f32>;
@group(0) @binding(7) var<storage, read_write> zs: array<f32>;
@group(0) @binding(8) var<storage, read_write> faults: array<atomic<u32>>;
@group(0) @binding(9) var<storage, read> statesIn: array<f32>;
@group(0) @binding(10) var<storage, read_write> work: array<f32>;

fn logDecay(token: u32, i: u32) -> f32 { return packed[p.gate + token * p.gateWidth + select(i, 0u, p.gateWidth == 1u)]; }

fn decay(token: u32, i: u32) -> f32 {
  if (p.gated == 0u) { return 1.0; }
  return expOf(logDecay(token, i));
}

/// What the state is read with before it decays.
fn reader(token: u32, i: u32) -> f32 {
  if (p.corrects == 1u) { return decay(token, i) * packed[p.k + token * p.K + i]; }
  return packed[p.erase + token * p.K + i];
}

fn rate(token: u32) -> f32 {
  if (p.corrects == 1u) { return packed[p.beta + token]; }
  return 1.0;
}

@compute @workgroup_size(THREADS) fn forward(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let head = id.x + id.y * count.x;
  if (head >= p.B * p.H) { return; }
  let chunks = (p.T + p.C - 1u) / p.C;
  for (var t = 0u; t < p.T; t++) {
    let token = (head / p.H * p.T + t) * p.H + head % p.H;
    if (p.keeps == 1u && t % p.C == 0u) {
      let snapshot = head * chunks + t / p.C;
      for (var j = thread; j < p.V; j += THREADS) {
        for (var i = 0u; i < p.K; i++) { states[(snapshot * p.K + i) * p.V + j] = S[(head * p.K + i) * p.V + j]; }
      }
      if (p.normalised == 1u) {
        for (var i = thread; i < p.K; i += THREADS) { zs[snapshot * p.K + i] = z[head * p.K + i]; }
      }
    }
    if (p.gated == 1u) {
      for (var i = thread; i < p.gateWidth; i += THREADS) {
        let value = logDecay(token, i);
        if (isNan(value) || value > 0.0) { atomicStore(&faults[p.fault], 1u); }
      }
    }
    var d = 1.0;
    if (p.normalised == 1u) {
      var total = 0.0;
      for (var i = thread; i < p.K; i += THREADS) {
        let value = decay(token, i) * z[head * p.K + i] + packed[p.k + token * p.K + i];
        z[head * p.K + i] = value;
        total += value * packed[p.q + token * p.K + i];
      }
      d = sumLanes(total, thread, THREADS) + p.eps;
      if (thread == 0u) { den[token] = d; }
    }
    for (var j = thread; j < p.V; j += THREADS) {
      let column = head * p.K * p.V + j;
      var u = packed[p.v + token * p.V + j];
      if (p.corrects != 0u) {
        var seen = 0.0;
        for (var i = 0u; i < p.K; i++) { seen += S[column + i * p.V] * reader(token, i); }
        u = rate(token) * (u - seen);
      }
      var total = 0.0;
      for (var i = 0u; i < p.K; i++) {
        let value = decay(token, i) * S[column + i * p.V] + packed[p.k + token * p.K + i] * u;
        S[column + i * p.V] = value;
        total += value * packed[p.q + token * p.K + i];
      }
      y[token * p.V + j] = p.scale * total / d;
    }
  }
}

@compute @workgroup_size(THREADS) fn backward(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let head = id.x + id.y * count.x;
  if (head >= p.B * p.H) { return; }
  let chunks = (p.T + p.C - 1u) / p.C;
  let size = p.K * p.V;
  let n = min(p.C, p.T);
  let S0 = p.history + head * ((n + 1u) * (size + p.K) + 3u * n * p.V);
  let z0 = S0 + (n + 1u) * size;
  let u0 = z0 + (n + 1u) * p.K;
  let e0 = u0 + n * p.V;
  let dv0 = e0 + n * p.V;
  let dS = p.dS + head * size;
  let dz = p.dz + head * p.K;
  for (var c = chunks; c > 0u; c--) {
    let snapshot = head * chunks + c - 1u;
    let first = (c - 1u) * p.C;
    let tokens = min(p.C, p.T - first);
    // Once more forward: states S0[t] before token t, S0[t + 1] after it.
    for (var j = thread; j < p.V; j += THREADS) {
      for (var i = 0u; i < p.K; i++) { work[S0 + i * p.V + j] = statesIn[snapshot * size + i * p.V + j]; }
      for (var t = 0u; t < tokens; t++) {
        let token = (head / p.H * p.T + first + t) * p.H + head % p.H;
        let before = S0 + t * size + j;
        var e = packed[p.v + token * p.V + j];
        if (p.corrects != 0u) {
          var seen = 0.0;
          for (var i = 0u; i < p.K; i++) { seen += work[before + i * p.V] * reader(token, i); }
          e -= seen;
        }
        let u = rate(token) * e;
        work[e0 + t * p.V + j] = e;
        work[u0 + t * p.V + j] = u;
        for (var i = 0u; i < p.K; i++) {
          work[before + size + i * p.V] = decay(token, i) * work[before + i * p.V] + packed[p.k + token * p.K + i] * u;
        }
      }
    }
    if (p.normalised == 1u) {
      for (var i = thread; i < p.K; i += THREADS) {
        work[z0 + i] = packed[p.zs + snapshot * p.K + i];
        for (var t = 0u; t < tokens; t++) {
          let token = (head / p.H * p.T + first + t) * p.H + head % p.H;
          work[z0 + (t + 1u) * p.K + i] = decay(token, i) * work[z0 + t * p.K + i] + packed[p.k + token * p.K + i];
        }
      }
    }
    storageBarrier();
    for (var left = tokens; left > 0u; left--) {
      let t = left - 1u;
      let token = (head / p.H * p.T + first + t) * p.H + head % p.H;
      let before = S0 + t * size;
      // G = scale dy / den, g = -(dy . y) / den.
      var factor = p.scale;
      var g = 0.0;
      if (p.normalised == 1u) {
        var total = 0.0;
        for (var j = thread; j < p.V; j += THREADS) { total += packed[p.dy + token * p.V + j] * packed[p.y + token * p.V + j]; }
        let d = packed[p.den + token];
        g = -sumLanes(total, thread, THREADS) / d;
        factor = p.scale / d;
      }
      var dbeta = 0.0;
      for (var j = thread; j < p.V; j += THREADS) {
        let G = factor * packed[p.dy + token * p.V + j];
        var du = 0.0;
        for (var i = 0u; i < p.K; i++) {
          let at = dS + i * p.V + j;
          work[at] += packed[p.q + token * p.K + i] * G;
          du += work[at] * packed[p.k + token * p.K + i];
        }
        let dv = rate(token) * du;
        work[p.dv + token * p.V + j] = dv;
        work[dv0 + t * p.V + j] = dv;
        dbeta += du * work[e0 + t * p.V + j];
      }
      if (p.corrects == 1u) {
        dbeta = sumLanes(dbeta, thread, THREADS);
        if (thread == 0u) { work[p.dbeta + token] = dbeta; }
      }
      storageBarrier();
      var dgate = 0.0;
      for (var i = thread; i < p.K; i += THREADS) {
        let w = decay(token, i);
        var dq = 0.0;
        var dk = 0.0;
        var dw = 0.0;
        var da = 0.0;
        for (var j = 0u; j < p.V; j++) {
          let old = work[before + i * p.V + j];
          let ds = work[dS + i * p.V + j];
          dq += work[before + size + i * p.V + j] * factor * packed[p.dy + token * p.V + j];
          dk += ds * work[u0 + t * p.V + j];
          dw += ds * old;
          da -= old * work[dv0 + t * p.V + j];
        }
        if (p.normalised == 1u) {
          let dzi = work[dz + i] + packed[p.q + token * p.K + i] * g;
          dq += work[z0 + (t + 1u) * p.K + i] * g;
          dk += dzi;
          dw += dzi * work[z0 + t * p.K + i];
          work[dz + i] = w * dzi;
        }
        dw *= w;
        if (p.corrects == 1u) {
          // The reader is w k.
          dk += w * da;
          dw += reader(token, i) * da;
        } else if (p.corrects == 2u) { work[p.derase + token * p.K + i] = da; }
        work[p.dq + token * p.K + i] = dq;
        work[p.dk + token * p.K + i] = dk;
        if (p.gated == 1u && p.gateWidth > 1u) { work[p.dgate + token * p.K + i] = dw; }
        dgate += dw;
      }
      if (p.gated == 1u && p.gateWidth == 1u) {
        dgate = sumLanes(dgate, thread, THREADS);
        if (thread == 0u) { work[p.dgate + token] = dgate; }
      }
      storageBarrier();
      for (var j = thread; j < p.V; j += THREADS) {
        for (var i = 0u; i < p.K; i++) {
          let at = dS + i * p.V + j;
          var value = decay(token, i) * work[at];
          if (p.corrects != 0u) { value -= reader(token, i) * work[dv0 + t * p.V + j]; }
          work[at] = value;
        }
      }
    }
    storageBarrier();
  }
}
