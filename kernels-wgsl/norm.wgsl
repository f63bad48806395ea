// Row normalisations, softmax and cross-entropy over rows of [R, n]: `lanes` threads a row, THREADS / lanes rows a workgroup. Columns that are
// masked are skipped by their index; maxima begin at -infinity(). Pinned by test/ops/webgpu.test.ts.

struct Params {
  R: u32,
  n: u32,
  lanes: u32,
  kind: u32,    // of `normKinds`: 0 layer, 1 rms, 2 l2, 3 sum
  eps: f32,
  gained: u32,  // whether there is a gain, a bias
  biased: u32,
  log: u32,
  causal: u32,
  ignore: i32,
  accumulate: u32,
  rowGroups: u32, // normBackward: workgroups that have rows; parts and rows of a part; whether dgain, dbias is asked for
  parts: u32,
  length: u32,
  ofGain: u32,
  ofBias: u32,
}

@group(0) @binding(0) var<uniform> p: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> gain: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> y: array<f32>;
@group(0) @binding(5) var<storage, read_write> stats: array<f32>;
@group(0) @binding(6) var<storage, read> statsIn: array<f32>;
@group(0) @binding(7) var<storage, read> dy: array<f32>;
@group(0) @binding(8) var<storage, read_write> dx: array<f32>;
@group(0) @binding(9) var<storage, read_write> dgain: array<f32>;
@group(0) @binding(10) var<storage, read_write> dbias: array<f32>;
@group(0) @binding(11) var<storage, read> yIn: array<f32>;
@group(0) @binding(12) var<storage, read> logits: array<f32>;
@group(0) @binding(13) var<storage, read> target_: array<i32>;
@group(0) @binding(14) var<storage, read_write> loss: array<f32>;
@group(0) @binding(15) var<storage, read_write> lse: array<f32>;
@group(0) @binding(16) var<storage, read> lseIn: array<f32>;
@group(0) @binding(17) var<storage, read> dloss: array<f32>;
@group(0) @binding(18) var<storage, read_write> dlogits: array<f32>;

const LAYER = 0u;
const RMS = 1u;
const L2 = 2u;
const SUM = 3u;

fn rowOf(g: Group) -> u32 { return groupOf(g) * (THREADS / p.lanes) + g.thread / p.lanes; }
fn laneOf(g: Group) -> u32 { return g.thread & (p.lanes - 1u); }

// y = (x - mean) scale [gain] [+ bias], stats[r] = (mean, scale). layer: scale = 1/sqrt(var + eps), the variance about the mean found first;
// rms: 1/sqrt(mean(x^2) + eps), l2: 1/sqrt(sum(x^2) + eps), sum: 1/(sum(x) + eps), their mean being 0. All of it of x unit and sqrt(eps) unit.
@compute @workgroup_size(THREADS) fn norm(g: Group) {
  let r = rowOf(g);
  let at = r * p.n;
  let end = select(0u, p.n, r < p.R);
  var largest = 0.0;
  for (var j = laneOf(g); j < end; j += p.lanes) { largest = maxOf(largest, abs(x[at + j])); }
  let unit = unitOf(maxLanes(largest, g.thread, p.lanes), p.eps);
  var total = 0.0;
  if (p.kind == LAYER || p.kind == SUM) {
    for (var j = laneOf(g); j < end; j += p.lanes) { total += x[at + j] * unit; }
    total = sumLanes(total, g.thread, p.lanes);
  }
  let mean = select(0.0, total / f32(p.n), p.kind == LAYER);
  var scale = 1.0 / (total + p.eps * unit);
  if (p.kind != SUM) {
    var squares = 0.0;
    for (var j = laneOf(g); j < end; j += p.lanes) {
      let c = x[at + j] * unit - mean;
      squares += c * c;
    }
    squares = sumLanes(squares, g.thread, p.lanes);
    scale = 1.0 / sqrtOf(select(squares / f32(p.n), squares, p.kind == L2) + p.eps * unit * unit);
  }
  if (r < p.R && laneOf(g) == 0u) {
    stats[2u * r] = mean / unit;
    stats[2u * r + 1u] = scale * unit;
  }
  for (var j = laneOf(g); j < end; j += p.lanes) {
    var value = (x[at + j] * unit - mean) * scale;
    if (p.gained == 1u) { value *= gain[j]; }
    if (p.biased == 1u) { value += bias[j]; }
    y[at + j] = value;
  }
}

fn gained(at: u32, j: u32) -> f32 {
  if (p.gained == 1u) { return dy[at + j] * gain[j]; }
  return dy[at + j];
}

const COLUMNS = 8u;
const LANES = 32u;
var<workgroup> columnGains: array<f32, 256>;
var<workgroup> columnBiases: array<f32, 256>;

// What is asked for of dx, dgain and dbias: rowGroups workgroups have rows, 256 / lanes each, those after them columns.
@compute @workgroup_size(256) fn normBackward(
  @builtin(workgroup_id) id: vec3<u32>,
  @builtin(num_workgroups) count: vec3<u32>,
  @builtin(local_invocation_index) thread: u32,
) {
  let group = id.x + id.y * count.x;
  if (group < p.rowGroups) { rowsBackward(group * (256u / p.lanes) + thread / p.lanes, thread); }
  else { columnsBackward(group - p.rowGroups, thread); }
}

// With g = dy gain, h = (x - mean) scale: dx = scale (g - mean(g) - h mean(g h)) for layer; rms the same without mean(g); l2 with the sum instead
// of the mean of g h; sum: dx = scale (g - sum(g h)). With `accumulate` it's added to dx.
fn rowsBackward(r: u32, thread: u32) {
  let lane = thread & (p.lanes - 1u);
  let at = r * p.n;
  let end = select(0u, p.n, r < p.R);
  var mean = 0.0;
  var scale = 0.0;
  if (r < p.R) {
    mean = statsIn[2u * r];
    scale = statsIn[2u * r + 1u];
  }
  var gh = 0.0;
  var gs = 0.0;
  for (var j = lane; j < end; j += p.lanes) {
    let value = gained(at, j);
    gh += value * ((x[at + j] - mean) * scale);
    gs += value;
  }
  gh = sumLanes(gh, thread, p.lanes);
  if (p.kind == LAYER) { gs = sumLanes(gs, thread, p.lanes) / f32(p.n); } else { gs = 0.0; }
  let along = select(gh, gh / f32(p.n), p.kind == LAYER || p.kind == RMS);
  for (var j = lane; j < end; j += p.lanes) {
    let h = select((x[at + j] - mean) * scale * along, gh, p.kind == SUM);
    let value = scale * (gained(at, j) - gs - h);
    if (p.accumulate == 1u) { dx[at + j] += value; } else { dx[at + j] = value; }
  }
}

// dgain[part, j] = sum of dy[r, j] (x[r, j] - mean_r) scale_r, dbias[part, j] = sum of dy[r, j], over the rows part * length ..: COLUMNS columns of a
// part a workgroup, each of which LANES threads share.
fn columnsBackward(group: u32, thread: u32) {
  let groups = (p.n + COLUMNS - 1u) / COLUMNS;
  let part = group / groups;
  if (part >= p.parts) { return; }
  let j = group % groups * COLUMNS + thread % COLUMNS;
  let lane = thread / COLUMNS;
  let end = select(0u, min((part + 1u) * p.length, p.R), j < p.n);
  var sumGain = 0.0;
  var sumBias = 0.0;
  for (var r = part * p.length + lane; r < end; r += LANES) {
    let value = dy[r * p.n + j];
    sumBias += value;
    if (p.ofGain == 1u) { sumGain += value * ((x[r * p.n + j] - statsIn[2u * r]) * statsIn[2u * r + 1u]); }
  }
  columnGains[thread] = sumGain;
  columnBiases[thread] = sumBias;
  for (var half = LANES / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) {
      columnGains[thread] += columnGains[thread + half * COLUMNS];
      columnBiases[thread] += columnBiases[thread + half * COLUMNS];
    }
  }
  if (j < p.n && lane == 0u) {
    if (p.ofGain == 1u) { dgain[part * p.n + j] = columnGains[thread]; }
    if (p.ofBias == 1u) { dbias[part * p.n + j] = columnBiases[thread]; }
  }
}

/// x - top for the largest x of a row: NaN where the row's maximum is infinite and reached.
fn below(value: f32, top: f32) -> f32 {
  if (isInfinite(top) && value == top) { return nan(); }
  return value - top;
}

// y[r, :] = softmax(x[r, :]) or its logarithm; causal > 0: row r sees n - causal + (r mod causal) + 1 entries, the others are 0.
@compute @workgroup_size(THREADS) fn softmax(g: Group) {
  let r = rowOf(g);
  let at = r * p.n;
  let end = select(0u, p.n, r < p.R);
  var seen = end;
  if (p.causal > 0u && r < p.R) { seen = p.n - p.causal + r % p.causal + 1u; }
  var top = -infinity();
  for (var j = laneOf(g); j < seen; j += p.lanes) { top = maxOf(top, x[at + j]); }
  top = maxLanes(top, g.thread, p.lanes);
  var total = 0.0;
  for (var j = laneOf(g); j < seen; j += p.lanes) { total += expOf(below(x[at + j], top)); }
  total = sumLanes(total, g.thread, p.lanes);
  let logTotal = logOf(total);
  for (var j = laneOf(g); j < end; j += p.lanes) {
    if (j >= seen) { y[at + j] = 0.0; }
    else if (p.log == 1u) { y[at + j] = below(x[at + j], top) - logTotal; }
    else { y[at + j] = expOf(below(x[at + j], top)) / total; }
  }
}

// softmax: dx = y (dy - sum(dy y)), 0 where y is; log-softmax: dx = dy - exp(y) sum(dy).
@compute @workgroup_size(THREADS) fn softmaxBackward(g: Group) {
  let r = rowOf(g);
  let at = r * p.n;
  let end = select(0u, p.n, r < p.R);
  var total = 0.0;
  for (var j = laneOf(g); j < end; j += p.lanes) {
    if (p.log == 1u) { total += dy[at + j]; } else { total += weighted(yIn[at + j], dy[at + j]); }
  }
  total = sumLanes(total, g.thread, p.lanes);
  for (var j = laneOf(g); j < end; j += p.lanes) {
    let i = at + j;
    if (p.log == 1u) { dx[i] = dy[i] - expOf(yIn[i]) * total; } else { dx[i] = weighted(yIn[i], dy[i] - total); }
  }
}

// lse[r] = log sum exp(logits[r, :]); loss[r] = lse - logits[r, target[r]], without losing the logarithm beside a large maximum; 0 where ignored.
@compute @workgroup_size(THREADS) fn crossEntropy(g: Group) {
  let r = rowOf(g);
  let at = r * p.n;
  let end = select(0u, p.n, r < p.R);
  var top = -infinity();
  for (var j = laneOf(g); j < end; j += p.lanes) { top = maxOf(top, logits[at + j]); }
  top = maxLanes(top, g.thread, p.lanes);
  var total = 0.0;
  for (var j = laneOf(g); j < end; j += p.lanes) { total += expOf(below(logits[at + j], top)); }
  total = sumLanes(total, g.thread, p.lanes);
  if (r < p.R && laneOf(g) == 0u) {
    let logTotal = logOf(total);
    lse[r] = top + logTotal;
    let t = target_[r];
    var value = 0.0;
    if (t != p.ignore) { value = logTotal - below(logits[at + u32(t)], top); }
    loss[r] = value;
  }
}

// dlogits[r, j] = (exp(logits[r, j] - lse[r]) - [j = target[r]]) dloss[r]; 0 where ignored. PER_GROUP elements a workgroup.
@compute @workgroup_size(THREADS) fn crossEntropyBackward(g: Group) {
  let end = elementsEnd(g, p.R * p.n);
  for (var i = firstElement(g); i < end; i += THREADS) {
    let r = i / p.n;
    let t = target_[r];
    var value = 0.0;
    if (t != p.ignore) {
      let own = i32(i - r * p.n) == t;
      value = (expOf(logits[i] - lseIn[r]) - select(0.0, 1.0, own)) * dloss[r];
    }
    dlogits[i] = value;
  }
}
