// Causal depthwise convolution and the DPFP feature map. PER_GROUP elements of the result a workgroup. Pinned by test/ops/webgpu.test.ts.

struct Params {
  n: u32,
  B: u32,
  T: u32,
  D: u32,
  W: u32,
  nu: u32,
  stateful: u32,
  parts: u32,
  length: u32,
  R: u32,
  lanes: u32,
  eps: f32,
  each: u32,  // dpfpSum: workgroups of each of the arrays of a dispatch
  count: u32, // ... which are so many, one or two
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> w: array<f32>;
@group(0) @binding(3) var<storage, read> state: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<storage, read> dy: array<f32>;
@group(0) @binding(6) var<storage, read_write> dx: array<f32>;
@group(0) @binding(7) var<storage, read_write> dw: array<f32>;
@group(0) @binding(8) var<storage, read_write> stats: array<f32>;
@group(0) @binding(9) var<storage, read> statsIn: array<f32>;
// Of the second array of dpfpSum.
@group(0) @binding(10) var<storage, read> x2: array<f32>;
@group(0) @binding(11) var<storage, read_write> y2: array<f32>;
@group(0) @binding(12) var<storage, read_write> stats2: array<f32>;
@group(0) @binding(13) var<storage, read> statsIn2: array<f32>;
@group(0) @binding(14) var<storage, read> dy2: array<f32>;
@group(0) @binding(15) var<storage, read_write> dx2: array<f32>;

/// x[b, t, d] for t >= 0, the state [B, W-1, D] before, or 0 without one.
fn cell(b: u32, t: i32, d: u32) -> f32 {
  if (t >= 0) { return x[(b * p.T + u32(t)) * p.D + d]; }
  if (p.stateful == 1u) { return state[(b * (p.W - 1u) + u32(i32(p.W) - 1 + t)) * p.D + d]; }
  return 0.0;
}

// y[b,t,d] = sum_{j<W} w[d,j] x[b, t-W+1+j, d]; n = B T D
@compute @workgroup_size(THREADS) fn conv(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) {
    let row = i / p.D;
    let d = i - row * p.D;
    let b = row / p.T;
    let first = i32(row - b * p.T) - i32(p.W) + 1;
    var total = 0.0;
    for (var j = 0u; j < p.W; j++) { total += w[d * p.W + j] * cell(b, first + i32(j), d); }
    y[i] = total;
  }
}

/// The gradient of the input at time t (t < 0: of the state): sum over the taps that read it.
fn inputGradient(b: u32, t: i32, d: u32) -> f32 {
  var total = 0.0;
  for (var j = 0u; j < p.W; j++) {
    let reader = t + i32(p.W) - 1 - i32(j);
    if (reader >= 0 && reader < i32(p.T)) { total += w[d * p.W + j] * dy[(b * p.T + u32(reader)) * p.D + d]; }
  }
  return total;
}

// dx[b,t,d]; n = B T D
@compute @workgroup_size(THREADS) fn convBackwardInput(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) {
    let row = i / p.D;
    let b = row / p.T;
    dx[i] = inputGradient(b, i32(row - b * p.T), i - row * p.D);
  }
}

// dstate[b,s,d], into dx; n = B (W-1) D
@compute @workgroup_size(THREADS) fn convBackwardState(g: Group) {
  let end = elementsEnd(g, p.n);
  for (var i = firstElement(g); i < end; i += THREADS) {
    let row = i / p.D;
    let b = row / (p.W - 1u);
    dx[i] = inputGradient(b, i32(row - b * (p.W - 1u)) - i32(p.W) + 1, i - row * p.D);
  }
}

// dw[part, d, j] = sum of dy[b,t,d] x[b, t-W+1+j, d] over the rows (b, t) in part * length ..; a thread a tap, channels side by side.
@compute @workgroup_size(THREADS) fn convBackwardTaps(g: Group) {
  let at = groupOf(g) * THREADS + g.thread;
  let taps = p.D * p.W;
  if (at >= p.parts * taps) { return; }
  let part = at / taps;
  let j = (at - part * taps) / p.D;
  let d = at - part * taps - j * p.D;
  let end = min((part + 1u) * p.length, p.B * p.T);
  var total = 0.0;
  for (var row = part * p.length; row < end; row++) {
    let b = row / p.T;
    total += dy[row * p.D + d] * cell(b, i32(row - b * p.T) - i32(p.W) + 1 + i32(j), d);
  }
  dw[part * taps + d * p.W + j] = total;
}

/// relu([x, -x])[j] of row r.
fn rectified(r: u32, j: u32) -> f32 {
  if (j < p.D) { return reluOf(x[r * p.D + j]); }
  return reluOf(-x[r * p.D + j - p.D]);
}

// Schlag 2021, eq. 37: y[r, (i-1) 2D + j] = p[j] p[j - i], p = relu([x, -x]), i = 1..nu; n = R 2 D nu
@compute @workgroup_size(THREADS) fn dpfp(g: Group) {
  let end = elementsEnd(g, p.n);
  let width = 2u * p.D;
  for (var at = firstElement(g); at < end; at += THREADS) {
    let block = at / width;
    let j = at - block * width;
    let r = block / p.nu;
    let i = block - r * p.nu + 1u;
    y[at] = rectified(r, j) * rectified(r, (j + width - i) % width);
  }
}

// dp[j] = sum_i dy[i, j] p[j - i] + dy[i, j + i] p[j + i], for the one of x and -x that is positive, NaN where x is; n = R D
@compute @workgroup_size(THREADS) fn dpfpBackward(g: Group) {
  let end = elementsEnd(g, p.n);
  let width = 2u * p.D;
  for (var at = firstElement(g); at < end; at += THREADS) {
    let r = at / p.D;
    let value = x[at];
    if (isNan(value)) {
      dx[at] = value;
      continue;
    }
    let j = at - r * p.D + select(0u, p.D, value < 0.0);
    var total = 0.0;
    for (var i = 1u; i <= p.nu; i++) {
      let base = (r * p.nu + i - 1u) * width;
      let next = (j + i) % width;
      total += dy[base + j] * rectified(r, (j + width - i) % width) + dy[base + next] * rectified(r, next);
    }
    dx[at] = select(select(0.0, -total, value < 0.0), total, value > 0.0);
  }
}

/// Feature k of row r, of 2 D nu.
/// A row of one of the arrays, and how many numbers there are for its threads: none beyond the last row.
struct Own {
  second: bool,
  r: u32,
  lane: u32,
  exists: bool,
}

fn ownOf(g: Group) -> Own {
  let which = groupOf(g) / p.each;
  let r = groupOf(g) % p.each * (THREADS / p.lanes) + g.thread / p.lanes;
  return Own(which == 1u, r, g.thread & (p.lanes - 1u), r < p.R && which < p.count);
}

fn numberOf(own: Own, d: u32) -> f32 {
  if (own.second) { return x2[own.r * p.D + d]; }
  return x[own.r * p.D + d];
}

fn rectifiedOf(own: Own, j: u32) -> f32 {
  if (j < p.D) { return reluOf(numberOf(own, j)); }
  return reluOf(-numberOf(own, j - p.D));
}

fn featureOf(own: Own, k: u32) -> f32 {
  let width = 2u * p.D;
  let i = k / width + 1u;
  let j = k % width;
  return rectifiedOf(own, j) * rectifiedOf(own, (j + width - i) % width);
}

fn cotangentOf(own: Own, k: u32) -> f32 {
  if (own.second) { return dy2[k]; }
  return dy[k];
}

// y[r, :] = the features of row r over (their sum + eps), stats[r] = (0, what they're multiplied by); `lanes` threads a row, one or two arrays.
@compute @workgroup_size(THREADS) fn dpfpSum(g: Group) {
  let own = ownOf(g);
  let n = 2u * p.D * p.nu;
  let end = select(0u, n, own.exists);
  var largest = 0.0;
  for (var k = own.lane; k < end; k += p.lanes) { largest = maxOf(largest, featureOf(own, k)); }
  let unit = unitOf(maxLanes(largest, g.thread, p.lanes), p.eps);
  var total = 0.0;
  for (var k = own.lane; k < end; k += p.lanes) { total += featureOf(own, k) * unit; }
  let scale = 1.0 / (sumLanes(total, g.thread, p.lanes) + p.eps * unit);
  if (own.exists && own.lane == 0u) {
    if (own.second) {
      stats2[2u * own.r] = 0.0;
      stats2[2u * own.r + 1u] = scale * unit;
    } else {
      stats[2u * own.r] = 0.0;
      stats[2u * own.r + 1u] = scale * unit;
    }
  }
  for (var k = own.lane; k < end; k += p.lanes) {
    let value = featureOf(own, k) * unit * scale;
    if (own.second) { y2[own.r * n + k] = value; } else { y[own.r * n + k] = value; }
  }
}

// With f the features and s their factor: g = s (dy - sum(dy f s)), and of that what dpfpBackward makes of dy.
@compute @workgroup_size(THREADS) fn dpfpSumBackward(g: Group) {
  let own = ownOf(g);
  let width = 2u * p.D;
  let at = own.r * width * p.nu;
  var scale = 0.0;
  if (own.exists) {
    if (own.second) { scale = statsIn2[2u * own.r + 1u]; } else { scale = statsIn[2u * own.r + 1u]; }
  }
  var along = 0.0;
  for (var k = own.lane; k < select(0u, width * p.nu, own.exists); k += p.lanes) { along += cotangentOf(own, at + k) * (featureOf(own, k) * scale); }
  along = sumLanes(along, g.thread, p.lanes);
  for (var d = own.lane; d < select(0u, p.D, own.exists); d += p.lanes) {
    let value = numberOf(own, d);
    var result = value;
    if (!isNan(value)) {
      let j = d + select(0u, p.D, value < 0.0);
      var total = 0.0;
      for (var i = 1u; i <= p.nu; i++) {
        let base = at + (i - 1u) * width;
        let next = (j + i) % width;
        total += scale * (cotangentOf(own, base + j) - along) * rectifiedOf(own, (j + width - i) % width)
          + scale * (cotangentOf(own, base + next) - along) * rectifiedOf(own, next);
      }
      result = select(select(0.0, -total, value < 0.0), total, value > 0.0);
    }
    if (own.second) { dx2[own.r * p.D + d] = result; } else { dx[own.r * p.D + d] = result; }
  }
}
