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
  width: u32,       // conv: of a row of y, in channels; whether it's normalised, and silu taken before
  normed: u32,
  silu: u32,
  kept: u32,        // ... whether the sums are kept; workgroups that have such rows
  rowGroups: u32,
  inputGroups: u32, // convBackward: workgroups that have inputs
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
// Of conv.
@group(0) @binding(16) var<storage, read_write> next: array<f32>;
@group(0) @binding(17) var<storage, read_write> dstate: array<f32>;
@group(0) @binding(18) var<storage, read_write> sums: array<f32>;
@group(0) @binding(19) var<storage, read> sumsIn: array<f32>;
@group(0) @binding(20) var<storage, read> yIn: array<f32>;

/// x[b, t, d] for t >= 0, the state [B, W-1, D] before, or 0 without one.
fn cell(b: u32, t: i32, d: u32) -> f32 {
  if (t >= 0) { return x[(b * p.T + u32(t)) * p.D + d]; }
  if (p.stateful == 1u) { return state[(b * (p.W - 1u) + u32(i32(p.W) - 1 + t)) * p.D + d]; }
  return 0.0;
}

/// A sum of taps, of element i of [B,T,D].
fn sumOf(i: u32) -> f32 {
  let row = i / p.D;
  let d = i - row * p.D;
  let b = row / p.T;
  let first = i32(row - b * p.T) - i32(p.W) + 1;
  var total = 0.0;
  for (var j = 0u; j < p.W; j++) { total += w[d * p.W + j] * cell(b, first + i32(j), d); }
  return total;
}

fn activatedOf(sum: f32) -> f32 {
  if (p.silu == 1u) { return applyUnary(SILU, sum); }
  return sum;
}

const SILU = 13u; // of `unaryOps`

// y[b,t,d] = f(sum_{j<W} w[d,j] x[b, t-W+1+j, d]), f silu or nothing, and where `normed` `width` of those at a time as norm.wgsl has them for l2, by
// `lanes` threads: rowGroups workgroups have R such rows. Those after them: next[b,i,d], the last W - 1 rows of the state and x.
@compute @workgroup_size(THREADS) fn conv(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let group = id.x + id.y * count.x;
  if (group >= p.rowGroups) {
    let end = min((group - p.rowGroups + 1u) * PER_GROUP, p.n);
    for (var i = (group - p.rowGroups) * PER_GROUP + thread; i < end; i += THREADS) {
      let row = i / p.D;
      let b = row / (p.W - 1u);
      next[i] = cell(b, i32(p.T) - i32(p.W) + 1 + i32(row - b * (p.W - 1u)), i - row * p.D);
    }
    return;
  }
  let r = group * (THREADS / p.lanes) + thread / p.lanes;
  let lane = thread & (p.lanes - 1u);
  let at = r * p.width;
  let end = select(0u, p.width, r < p.R);
  var largest = 0.0;
  for (var k = lane; k < end; k += p.lanes) {
    let sum = sumOf(at + k);
    let value = activatedOf(sum);
    if (p.kept == 1u) { sums[at + k] = sum; }
    y[at + k] = value;
    largest = maxOf(largest, abs(value));
  }
  if (p.normed == 0u) { return; }
  let unit = unitOf(maxLanes(largest, thread, p.lanes), p.eps);
  var squares = 0.0;
  for (var k = lane; k < end; k += p.lanes) {
    let value = y[at + k] * unit;
    squares += value * value;
  }
  let scale = 1.0 / sqrtOf(sumLanes(squares, thread, p.lanes) + p.eps * unit * unit);
  for (var k = lane; k < end; k += p.lanes) { y[at + k] = y[at + k] * unit * scale; }
  if (r < p.R && lane == 0u) {
    stats[2u * r] = 0.0;
    stats[2u * r + 1u] = scale * unit;
  }
}

// dz, of the sums, into dx. Of a row that is normalised, y = scale s: ds = scale (dy - y sum(dy y)).
@compute @workgroup_size(THREADS) fn convBackwardSums(g: Group) {
  let r = groupOf(g) * (THREADS / p.lanes) + g.thread / p.lanes;
  let lane = g.thread & (p.lanes - 1u);
  let at = r * p.width;
  let end = select(0u, p.width, r < p.R);
  var scale = 1.0;
  var along = 0.0;
  if (p.normed == 1u) {
    if (r < p.R) { scale = statsIn[2u * r + 1u]; }
    for (var k = lane; k < end; k += p.lanes) { along += dy[at + k] * yIn[at + k]; }
    along = sumLanes(along, g.thread, p.lanes);
  }
  for (var k = lane; k < end; k += p.lanes) {
    var gradient = dy[at + k];
    if (p.normed == 1u) { gradient = scale * (gradient - yIn[at + k] * along); }
    if (p.silu == 1u) { gradient = applyUnaryBackward(SILU, sumsIn[at + k], yIn[at + k], gradient); }
    dx[at + k] = gradient;
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

const COLUMNS = 8u;
const LANES = 32u;
var<workgroup> columnSums: array<f32, 256>;

// From dz, which is dy here: inputGroups workgroups have dx[b,t,d] and then dstate[b,s,d], the others COLUMNS taps of a part of the rows (b, t) each,
// dw[part, d, j] = sum of dy[b,t,d] x[b, t-W+1+j, d], which LANES threads share.
@compute @workgroup_size(256) fn convBackward(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let group = id.x + id.y * count.x;
  if (group < p.inputGroups) {
    let i = group * 256u + thread;
    let inputs = p.B * p.T * p.D;
    if (i < inputs) {
      let row = i / p.D;
      let b = row / p.T;
      dx[i] = inputGradient(b, i32(row - b * p.T), i - row * p.D);
    } else if (i - inputs < p.n) {
      let row = (i - inputs) / p.D;
      let b = row / (p.W - 1u);
      dstate[i - inputs] = inputGradient(b, i32(row - b * (p.W - 1u)) - i32(p.W) + 1, i - inputs - row * p.D);
    }
    return;
  }
  let taps = p.D * p.W;
  let groups = (taps + COLUMNS - 1u) / COLUMNS;
  let part = (group - p.inputGroups) / groups;
  if (part >= p.parts) { return; }
  // Channels side by side.
  let column = (group - p.inputGroups) % groups * COLUMNS + thread % COLUMNS;
  let j = column / p.D;
  let d = column - j * p.D;
  let lane = thread / COLUMNS;
  let end = select(0u, min((part + 1u) * p.length, p.B * p.T), column < taps);
  var total = 0.0;
  for (var row = part * p.length + lane; row < end; row += LANES) {
    let b = row / p.T;
    total += dy[row * p.D + d] * cell(b, i32(row - b * p.T) - i32(p.W) + 1 + i32(j), d);
  }
  columnSums[thread] = total;
  for (var half = LANES / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { columnSums[thread] += columnSums[thread + half * COLUMNS]; }
  }
  if (column < taps && lane == 0u) { dw[part * taps + d * p.W + j] = columnSums[thread]; }
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
