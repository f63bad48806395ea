/**
 * The call of a fast-weight kernel at hand, and what comes in and goes out: rows of tokens, and states.
 * The kernels, shapes and letters: fast-weights.ts.
 */
import { sum4, sumLanes } from './lanes'
import { exp, madd, splat } from './math'
import { scratch } from './scratch'
import { at, loadBlock, roundUp8, storeBlock } from './strips'

@external("env", "refuse")
declare function refuse(code: i32, value: f32): void
const POSITIVE_GATE: i32 = 0

// ---- the kernel call at hand (a thread has its own instance of the module, hence its own globals) -----------------------------------

export let H: i32 = 0, K: i32 = 0, V: i32 = 0, W: i32 = 0, K8: i32 = 0, W8: i32 = 0
/** Values of the gate for each token. */
export let gateWidth: i32 = 0
/** Bytes from a token's row of q, k, erase (v, y; beta, den; gate) to the next token's of the same head. */
export let strideK: usize = 0, strideV: usize = 0, stride1: usize = 0, strideG: usize = 0
export let scale: f32 = 0, eps: f32 = 0
export let normalised = false, gated = false
/** u is a correction: beta or erase is given. */
export let corrects = false

export let q: usize = 0, k: usize = 0, v: usize = 0, beta: usize = 0, gate: usize = 0, erase: usize = 0, y: usize = 0, den: usize = 0
export let dy: usize = 0, dq: usize = 0, dk: usize = 0, dv: usize = 0, dbeta: usize = 0, dgate: usize = 0, derase: usize = 0

export function setInputs(qs: usize, ks: usize, vs: usize, betas: usize, gates: usize, erases: usize, ys: usize, dens: usize): void {
  q = qs
  k = ks
  v = vs
  beta = betas
  gate = gates
  erase = erases
  y = ys
  den = dens
  gated = gate != 0
  corrects = beta != 0 || erase != 0
}

export function setGradients(dys: usize, dqs: usize, dks: usize, dvs: usize, dbetas: usize, dgates: usize, derases: usize): void {
  dy = dys
  dq = dqs
  dk = dks
  dv = dvs
  dbeta = dbetas
  dgate = dgates
  derase = derases
}

export function setSizes(heads: i32, keyWidth: i32, valueWidth: i32, widthOfGate: i32, withNormaliser: bool, readScale: f32,
  epsilon: f32): void {
  H = heads
  K = keyWidth
  V = valueWidth
  gateWidth = widthOfGate
  normalised = withNormaliser
  W = V + i32(normalised)
  K8 = roundUp8(K)
  W8 = roundUp8(W)
  strideK = <usize>(H * K) << 2
  strideV = <usize>(H * V) << 2
  stride1 = <usize>H << 2
  strideG = <usize>(H * gateWidth) << 2
  scale = readScale
  eps = epsilon
  top = scratch
}

/**
 * Scratch is dealt out from `top`. The spare 64 bytes keep blocks from lying a multiple of 4096 bytes apart. The sum of all takes is
 * counted in engine/devices/wasm/fast-weights.ts.
 */
export let top: usize = 0

@inline export function take(floats: i32): usize {
  const block = top
  top += (<usize>floats << 2) + 64
  return block
}

/** Takes back what has been dealt out since `top` was `frame`. */
@inline export function release(frame: usize): void {
  top = frame
}

/** Address of row `index` of an array of rows of `width` floats; 0, for an array that isn't there, stays 0. */
@inline export function rowOf(x: usize, index: i32, width: i32): usize {
  return x ? x + (<usize>(index * width) << 2) : 0
}

// ---- rows and states in and out: R = 1 for a token alone (a block of one row is a plain vector), n8 for a chunk --------------------

/** S from [K,V] and z [K]; null: zero. */
export function loadState(S: usize, s: usize, z: usize): void {
  loadBlock(S, K8, s, <usize>V << 2, s ? K : 0, V, K8, W8)
  if (!normalised) return
  for (let i = 0; i < K; i++) store<f32>(at(S, K8, i, V), z ? load<f32>(z + (<usize>i << 2)) : 0)
}

/** Null: not wanted. */
export function storeState(s: usize, z: usize, S: usize): void {
  if (s) storeBlock(s, <usize>V << 2, S, K8, K, V)
  if (!z) return
  for (let i = 0; i < K; i++) store<f32>(z + (<usize>i << 2), load<f32>(at(S, K8, i, V)))
}

/** Rows of q, k or erase of n tokens from `row` on into [M, K8] of a block with R rows. */
@inline export function loadKeys(to: usize, R: i32, x: usize, row: i32, n: i32, M: i32): void {
  loadBlock(to, R, rowOf(x, row, K), strideK, n, K, M, K8)
}

@inline export function storeKeys(x: usize, row: i32, from: usize, R: i32, n: i32): void {
  storeBlock(rowOf(x, row, K), strideK, from, R, n, K)
}

/** v of n tokens from `row` on into [M, W8] of a block with R rows. */
export function loadValues(x: usize, R: i32, row: i32, n: i32, M: i32): void {
  loadBlock(x, R, rowOf(v, row, V), strideV, n, V, M, W8)
  if (!normalised) return
  for (let r = 0; r < n; r++) store<f32>(at(x, R, r, V), 1)
}

/** beta of n tokens from `row` on, 1 if there is none; 0 beyond. */
export function loadBetas(x: usize, row: i32, n: i32, n8: i32): void {
  const b = rowOf(beta, row, 1)
  for (let r = 0; r < n8; r++) store<f32>(x + (<usize>r << 2), r < n ? (b ? load<f32>(b + <usize>r * stride1) : 1) : 0)
}

/** e^x, for logarithms of decays. */
@inline function decay(x: v128): v128 {
  if (!v128.all_true<i32>(f32x4.le(x, splat(0)))) refuseGate(x)
  return exp(x)
}

function refuseGate(x: v128): void {
  let g = f32x4.extract_lane(x, 0)
  if (g <= 0) g = f32x4.extract_lane(x, 1)
  if (g <= 0) g = f32x4.extract_lane(x, 2)
  if (g <= 0) g = f32x4.extract_lane(x, 3)
  refuse(POSITIVE_GATE, g)
}

/** w of n tokens from `row` on into [M, K8] of a block with M rows, a single decay once for each channel; 1 beyond. */
export function loadDecays(w: usize, row: i32, n: i32, M: i32): void {
  const g = rowOf(gate, row, gateWidth)
  if (gateWidth == K) {
    loadBlock(w, M, g, strideG, n, K, M, K8)
    const end = w + (<usize>(M * K8) << 2)
    for (let a = w; a < end; a += 16) v128.store(a, decay(v128.load(a)))
    return
  }
  for (let r = 0; r < M; r++) {
    const x = r < n ? decay(v128.load32_splat(g + <usize>r * strideG)) : splat(1)
    for (let c = 0; c < K8; c += 4) v128.store(at(w, M, r, c), x)
  }
}

/** dgate of n tokens from `row` on, from the cotangents of log w in a block with R rows. */
export function storeGates(row: i32, dw: usize, R: i32, n: i32): void {
  const g = rowOf(dgate, row, gateWidth)
  if (gateWidth == K) {
    storeBlock(g, strideG, dw, R, n, K)
    return
  }
  for (let r = 0; r < n; r++) {
    let sum = splat(0)
    for (let c = 0; c < K8; c += 4) sum = f32x4.add(sum, v128.load(at(dw, R, r, c)))
    store<f32>(g + <usize>r * strideG, sumLanes(sum))
  }
}

/** x_r = factor x_r. */
export function scaleRow(x: usize, R: i32, r: i32, factor: f32): void {
  const f = f32x4.splat(factor)
  for (let j = 0; j < W8; j += 8) {
    const a = at(x, R, r, j)
    v128.store(a, f32x4.mul(f, v128.load(a)))
    v128.store(a, f32x4.mul(f, v128.load(a, 16)), 16)
  }
}

/** y = scale o / den, den = o's normaliser column + eps, kept if asked for; of n tokens from `row` on. */
export function storeReads(row: i32, o: usize, R: i32, n: i32): void {
  const dens = rowOf(den, row, 1)
  for (let r = 0; r < n; r++) {
    let factor = scale
    if (normalised) {
      const d = load<f32>(at(o, R, r, V)) + eps
      if (dens) store<f32>(dens + <usize>r * stride1, d)
      factor /= d
    }
    scaleRow(o, R, r, factor)
  }
  storeBlock(rowOf(y, row, V), strideV, o, R, n, V)
}

/**
 * g [M, W8], of a block with R rows, = scale dy / den, and -(dy . y) / den in the normaliser's column; of n tokens from `row` on;
 * w [M, W8] is working space.
 */
export function loadCotangents(g: usize, R: i32, w: usize, row: i32, n: i32, M: i32): void {
  loadBlock(g, R, rowOf(dy, row, V), strideV, n, V, M, W8)
  if (normalised) loadBlock(w, M, rowOf(y, row, V), strideV, n, V, M, W8)
  const dens = rowOf(den, row, 1)
  for (let r = 0; r < n; r++) {
    const d = normalised ? load<f32>(dens + <usize>r * stride1) : 1
    const dyy = normalised ? dotRows(at(g, R, r, 0), R, at(w, M, r, 0), M) : 0
    scaleRow(g, R, r, scale / d)
    if (normalised) store<f32>(at(g, R, r, V), -dyy / d)
  }
}

// ---- arithmetic on rows

/** y = a x over n floats, a multiple of 4. */
export function scaleTo(y: usize, x: usize, a: f32, n: i32): void {
  for (let i: usize = 0; i < <usize>(n << 2); i += 16) v128.store(y + i, f32x4.mul(f32x4.splat(a), v128.load(x + i)))
}

/** The inner product of two rows of W8 floats, x in a block with Rx rows, y in one with Ry. */
export function dotRows(x: usize, Rx: i32, y: usize, Ry: i32): f32 {
  let r0 = splat(0), r1 = splat(0)
  for (let j = 0; j < W8; j += 8, x += <usize>Rx << 5, y += <usize>Ry << 5) {
    r0 = madd(v128.load(x), v128.load(y), r0)
    r1 = madd(v128.load(x, 16), v128.load(y, 16), r1)
  }
  const r = f32x4.add(r0, r1)
  return f32x4.extract_lane(sum4(r, r, r, r), 0)
}

/** y = a * b over n floats, a multiple of 4; y may be either. */
export function multiply(y: usize, a: usize, b: usize, n: i32): void {
  for (let i: usize = 0; i < <usize>n << 2; i += 16) v128.store(y + i, f32x4.mul(v128.load(a + i), v128.load(b + i)))
}

/** y += a * b. */
export function addProduct(y: usize, a: usize, b: usize, n: i32): void {
  for (let i: usize = 0; i < <usize>n << 2; i += 16) v128.store(y + i, madd(v128.load(a + i), v128.load(b + i), v128.load(y + i)))
}
