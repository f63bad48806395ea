/**
 * Fast weights: the whole family of kernels.ts, recurrent and in chunks, forward and backward.
 *
 *     S_t = diag(w_t) S_{t-1} + k_t u_t^T,  y_t = scale S_t^T q_t,  w_t = exp(gate_t), 1 without a gate
 *     u_t = v_t                                      sum rule      Katharopoulos 2020, eq. 16-20; gated: Yang 2023
 *     u_t = beta_t e_t, e_t = v_t - S_{t-1}^T a_t    delta rule    a_t = w_t k_t. Schlag 2021, eq. 24-25; chunks (WY), gate: Yang 2024
 *     u_t = e_t                                      erase         a_t = erase_t, as it is
 *
 * All are written once, for u and a; a pointer of 0 stands for an input that isn't there. The normaliser, z_t = diag(w_t) z_{t-1} + k_t and
 * y_t = scale S_t^T q_t / (z_t . q_t + eps), is one more value column: v is extended by 1, S by z, and the cotangent G = scale dy / den of
 * the unscaled read by g = -(dy . y) / den. W is the width of the values so extended.
 *
 * Shapes: q, k, erase [B,T,H,K]; v, y [B,T,H,V]; beta, den [B,T,H]; gate [B,T,H,1 or K]; states [B,H,K,V]; z [B,H,K]; snapshots
 * [B,H,ceil(T/C),K,V].
 * Split: a task is one (b, h), done by one thread from the first token to the last; nothing is shared, so threads change nothing.
 * In scratch all sizes are padded to multiples of 8 (K8, W8, and n8 tokens in a chunk) and held as blocks of strips.ts.
 * Numerics: decays are multiplied, never divided nor subtracted as logarithms (decays.ts); w = 0 forgets exactly. exp is good to 1e-7, so a
 * product of n decays to n 1e-7.
 * Causality is exact: what a token holds, NaN included, never enters the arithmetic of an earlier one. A gate that isn't <= 0 is refused.
 * Pinned by test/ops/fast-weights.test.ts, against engine/devices/reference/fast-weights.ts: RMS ratio 1e-5.
 */
import {
  decayKeysBackward, decayPairs, decayPairsBackward, decayRows, decayRowsBackward, decayedPairs, decayedPairsBackward,
} from './decays'
import { sumLanes } from './lanes'
import { exp, madd, splat } from './math'
import { remainders, restore } from './remainders'
import { scratch } from './scratch'
import {
  ADD, SET, SUB, addLowerTransposed, at, loadBlock, lowerOf, product, productLower, roundUp8, rowsFrom, solveLower, solveLowerTransposed,
  storeBlock, symmetric, transpose,
} from './strips'

/** Throws in JavaScript: a value that a kernel can't work with. The code is the index of a text in engine/devices/wasm/pool.ts. */
@external("env", "refuse")
declare function refuse(code: i32, value: f32): void
const POSITIVE_GATE: i32 = 0

// ---- the kernel call at hand (a thread has its own instance of the module, hence its own globals) -----------------------------------

let H: i32 = 0, K: i32 = 0, V: i32 = 0, W: i32 = 0, K8: i32 = 0, W8: i32 = 0
/** Values of the gate for each token. */
let gateWidth: i32 = 0
/** Bytes from a token's row of q, k, erase (v, y; beta, den; gate) to the next token's of the same head. */
let strideK: usize = 0, strideV: usize = 0, stride1: usize = 0, strideG: usize = 0
let scale: f32 = 0, eps: f32 = 0
let normalised = false, gated = false
/** u is a correction: beta or erase is given. */
let corrects = false

let q: usize = 0, k: usize = 0, v: usize = 0, beta: usize = 0, gate: usize = 0, erase: usize = 0, y: usize = 0, den: usize = 0
let dy: usize = 0, dq: usize = 0, dk: usize = 0, dv: usize = 0, dbeta: usize = 0, dgate: usize = 0, derase: usize = 0

function setInputs(qs: usize, ks: usize, vs: usize, betas: usize, gates: usize, erases: usize, ys: usize, dens: usize): void {
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

function setGradients(dys: usize, dqs: usize, dks: usize, dvs: usize, dbetas: usize, dgates: usize, derases: usize): void {
  dy = dys
  dq = dqs
  dk = dks
  dv = dvs
  dbeta = dbetas
  dgate = dgates
  derase = derases
}

function setSizes(heads: i32, keyWidth: i32, valueWidth: i32, widthOfGate: i32, withNormaliser: bool, readScale: f32): void {
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
}

/**
 * Scratch is dealt out from `top`. The spare 64 bytes keep blocks from lying a multiple of 4096 bytes apart. The sum of all takes is
 * counted in engine/devices/wasm/fast-weights.ts.
 */
let top: usize = 0

@inline function take(floats: i32): usize {
  const block = top
  top += (<usize>floats << 2) + 64
  return block
}

/** Address of row `index` of an array of rows of `width` floats; 0, for an array that isn't there, stays 0. */
@inline function rowOf(x: usize, index: i32, width: i32): usize {
  return x ? x + (<usize>(index * width) << 2) : 0
}

// ---- rows and states in and out: R = 1 for a token alone (a block of one row is a plain vector), n8 for a chunk --------------------

/** S from [K,V] and z [K]; null: zero. */
function loadState(S: usize, s: usize, z: usize): void {
  loadBlock(S, K8, s, <usize>V << 2, s ? K : 0, V, K8, W8)
  if (!normalised) return
  for (let i = 0; i < K; i++) store<f32>(at(S, K8, i, V), z ? load<f32>(z + (<usize>i << 2)) : 0)
}

/** Null: not wanted. */
function storeState(s: usize, z: usize, S: usize): void {
  if (s) storeBlock(s, <usize>V << 2, S, K8, K, V)
  if (!z) return
  for (let i = 0; i < K; i++) store<f32>(z + (<usize>i << 2), load<f32>(at(S, K8, i, V)))
}

/** Rows of q, k or erase of n tokens from `row` on into [M, K8] of a block with R rows. */
@inline function loadKeys(to: usize, R: i32, x: usize, row: i32, n: i32, M: i32): void {
  loadBlock(to, R, rowOf(x, row, K), strideK, n, K, M, K8)
}

@inline function storeKeys(x: usize, row: i32, from: usize, R: i32, n: i32): void {
  storeBlock(rowOf(x, row, K), strideK, from, R, n, K)
}

/** v of n tokens from `row` on into [M, W8] of a block with R rows. */
function loadValues(x: usize, R: i32, row: i32, n: i32, M: i32): void {
  loadBlock(x, R, rowOf(v, row, V), strideV, n, V, M, W8)
  if (!normalised) return
  for (let r = 0; r < n; r++) store<f32>(at(x, R, r, V), 1)
}

/** beta of n tokens from `row` on, 1 if there is none; 0 beyond. */
function loadBetas(x: usize, row: i32, n: i32, n8: i32): void {
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
function loadDecays(w: usize, row: i32, n: i32, M: i32): void {
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
function storeGates(row: i32, dw: usize, R: i32, n: i32): void {
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
function scaleRow(x: usize, R: i32, r: i32, factor: f32): void {
  const f = f32x4.splat(factor)
  for (let j = 0; j < W8; j += 8) {
    const a = at(x, R, r, j)
    v128.store(a, f32x4.mul(f, v128.load(a)))
    v128.store(a, f32x4.mul(f, v128.load(a, 16)), 16)
  }
}

/** y = scale o / den, den = o's normaliser column + eps, kept if asked for; of n tokens from `row` on. */
function storeReads(row: i32, o: usize, R: i32, n: i32): void {
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
function loadCotangents(g: usize, R: i32, w: usize, row: i32, n: i32, M: i32): void {
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

// ---- recurrent form: passes over S, four rows of a strip (32 floats in a row) at a time ------------------------------------------

/** The four sums over the lanes of a, b, c, d. */
@inline function sum4(a: v128, b: v128, c: v128, d: v128): v128 {
  const ab0 = i32x4.shuffle(a, b, 0, 4, 1, 5), ab1 = i32x4.shuffle(a, b, 2, 6, 3, 7)
  const cd0 = i32x4.shuffle(c, d, 0, 4, 1, 5), cd1 = i32x4.shuffle(c, d, 2, 6, 3, 7)
  const ab = f32x4.add(ab0, ab1), cd = f32x4.add(cd0, cd1)
  return f32x4.add(i64x2.shuffle(ab, cd, 0, 2), i64x2.shuffle(ab, cd, 1, 3))
}

/** e = v - S^T k. */
function recall(S: usize, k: usize, v: usize, e: usize, K8: i32, W8: i32): void {
  for (let j = 0; j < W8; j += 8) {
    let s = at(S, K8, 0, j)
    let r0 = splat(0), r1 = splat(0), r2 = splat(0), r3 = splat(0)
    for (let i = 0; i < K8; i += 4, s += 128) {
      const a = k + (<usize>i << 2)
      let x = v128.load32_splat(a)
      r0 = madd(x, v128.load(s), r0)
      r1 = madd(x, v128.load(s, 16), r1)
      x = v128.load32_splat(a, 4)
      r2 = madd(x, v128.load(s, 32), r2)
      r3 = madd(x, v128.load(s, 48), r3)
      x = v128.load32_splat(a, 8)
      r0 = madd(x, v128.load(s, 64), r0)
      r1 = madd(x, v128.load(s, 80), r1)
      x = v128.load32_splat(a, 12)
      r2 = madd(x, v128.load(s, 96), r2)
      r3 = madd(x, v128.load(s, 112), r3)
    }
    const o = <usize>j << 2
    v128.store(e + o, f32x4.sub(v128.load(v + o), f32x4.add(r0, r2)))
    v128.store(e + o, f32x4.sub(v128.load(v + o, 16), f32x4.add(r1, r3)), 16)
  }
}

/** Four floats of a row of a state: to = from + k u, which is also the result. */
@inline function update(to: usize, from: usize, k: v128, u: v128): v128 {
  const x = madd(k, u, v128.load(from))
  v128.store(to, x)
  return x
}

/** to = w from + k u, w at an address; `decays` false: no w. */
@inline function updateDecayed(decays: bool, to: usize, from: usize, w: usize, k: v128, u: v128): v128 {
  if (!decays) return update(to, from, k, u)
  const x = madd(k, u, f32x4.mul(v128.load32_splat(w), v128.load(from)))
  v128.store(to, x)
  return x
}

@inline function writeWith(decays: bool, S: usize, w: usize, k: usize, u: usize, q: usize, o: usize, K8: i32, W8: i32): void {
  for (let j = 0; j < W8; j += 8) {
    let s = at(S, K8, 0, j)
    const u0 = v128.load(u + (<usize>j << 2)), u1 = v128.load(u + (<usize>j << 2), 16)
    let r0 = splat(0), r1 = splat(0), r2 = splat(0), r3 = splat(0)
    for (let i: usize = 0; i < <usize>(K8 << 2); i += 16, s += 128) {
      const f = w + i
      let x = v128.load32_splat(k + i), y = v128.load32_splat(q + i)
      r0 = madd(y, updateDecayed(decays, s, s, f, x, u0), r0)
      r1 = madd(y, updateDecayed(decays, s + 16, s + 16, f, x, u1), r1)
      x = v128.load32_splat(k + i, 4)
      y = v128.load32_splat(q + i, 4)
      r2 = madd(y, updateDecayed(decays, s + 32, s + 32, f + 4, x, u0), r2)
      r3 = madd(y, updateDecayed(decays, s + 48, s + 48, f + 4, x, u1), r3)
      x = v128.load32_splat(k + i, 8)
      y = v128.load32_splat(q + i, 8)
      r0 = madd(y, updateDecayed(decays, s + 64, s + 64, f + 8, x, u0), r0)
      r1 = madd(y, updateDecayed(decays, s + 80, s + 80, f + 8, x, u1), r1)
      x = v128.load32_splat(k + i, 12)
      y = v128.load32_splat(q + i, 12)
      r2 = madd(y, updateDecayed(decays, s + 96, s + 96, f + 12, x, u0), r2)
      r3 = madd(y, updateDecayed(decays, s + 112, s + 112, f + 12, x, u1), r3)
    }
    v128.store(o + (<usize>j << 2), f32x4.add(r0, r2))
    v128.store(o + (<usize>j << 2), f32x4.add(r1, r3), 16)
  }
}

/** S += k u^T, o = S^T q. */
function write(S: usize, k: usize, u: usize, q: usize, o: usize, K8: i32, W8: i32): void {
  writeWith(false, S, k, k, u, q, o, K8, W8)
}

/** S = diag(w) S + k u^T, o = S^T q. */
function writeDecayed(S: usize, w: usize, k: usize, u: usize, q: usize, o: usize, K8: i32, W8: i32): void {
  writeWith(true, S, w, k, u, q, o, K8, W8)
}

@inline function writeBackwardWith(decays: bool, from: usize, to: usize, w: usize, k: usize, u: usize, g: usize, d: usize, K8: i32,
  W8: i32): void {
  for (let i = 0; i < K8; i += 4) {
    const a = k + (<usize>i << 2), f = w + (<usize>i << 2)
    const k0 = v128.load32_splat(a), k1 = v128.load32_splat(a, 4), k2 = v128.load32_splat(a, 8), k3 = v128.load32_splat(a, 12)
    let r0 = splat(0), r1 = splat(0), r2 = splat(0), r3 = splat(0)
    for (let j = 0; j < W8; j += 8) {
      const s = at(from, K8, i, j), t = at(to, K8, i, j), o = <usize>j << 2
      const u0 = v128.load(u + o), u1 = v128.load(u + o, 16), g0 = v128.load(g + o), g1 = v128.load(g + o, 16)
      r0 = madd(updateDecayed(decays, t + 16, s + 16, f, k0, u1), g1, madd(updateDecayed(decays, t, s, f, k0, u0), g0, r0))
      r1 = madd(updateDecayed(decays, t + 48, s + 48, f + 4, k1, u1), g1, madd(updateDecayed(decays, t + 32, s + 32, f + 4, k1, u0), g0, r1))
      r2 = madd(updateDecayed(decays, t + 80, s + 80, f + 8, k2, u1), g1, madd(updateDecayed(decays, t + 64, s + 64, f + 8, k2, u0), g0, r2))
      r3 = madd(updateDecayed(decays, t + 112, s + 112, f + 12, k3, u1), g1, madd(updateDecayed(decays, t + 96, s + 96, f + 12, k3, u0), g0, r3))
    }
    v128.store(d + (<usize>i << 2), sum4(r0, r1, r2, r3))
  }
}

/** to = from + k u^T (may be the same state), d [K8] = to g. */
function writeBackward(from: usize, to: usize, k: usize, u: usize, g: usize, d: usize, K8: i32, W8: i32): void {
  writeBackwardWith(false, from, to, k, k, u, g, d, K8, W8)
}

/** to = diag(w) from + k u^T, d [K8] = to g. */
function writeDecayedBackward(from: usize, to: usize, w: usize, k: usize, u: usize, g: usize, d: usize, K8: i32, W8: i32): void {
  writeBackwardWith(true, from, to, w, k, u, g, d, K8, W8)
}

/** dS += q g^T; dk = dS u; du = dS^T k. */
function readBackward(dS: usize, q: usize, g: usize, k: usize, u: usize, dk: usize, du: usize, K8: i32, W8: i32): void {
  memory.fill(du, 0, <usize>W8 << 2)
  for (let i = 0; i < K8; i += 4) {
    const a = q + (<usize>i << 2), b = k + (<usize>i << 2)
    const q0 = v128.load32_splat(a), q1 = v128.load32_splat(a, 4), q2 = v128.load32_splat(a, 8), q3 = v128.load32_splat(a, 12)
    let r0 = splat(0), r1 = splat(0), r2 = splat(0), r3 = splat(0)
    for (let j = 0; j < W8; j += 4) {
      const s = at(dS, K8, i, j), o = <usize>j << 2
      const gj = v128.load(g + o), uj = v128.load(u + o)
      const x0 = update(s, s, q0, gj), x1 = update(s + 32, s + 32, q1, gj)
      const x2 = update(s + 64, s + 64, q2, gj), x3 = update(s + 96, s + 96, q3, gj)
      r0 = madd(x0, uj, r0)
      r1 = madd(x1, uj, r1)
      r2 = madd(x2, uj, r2)
      r3 = madd(x3, uj, r3)
      const y0 = madd(v128.load32_splat(b, 4), x1, f32x4.mul(v128.load32_splat(b), x0))
      const y1 = madd(v128.load32_splat(b, 12), x3, f32x4.mul(v128.load32_splat(b, 8), x2))
      v128.store(du + o, f32x4.add(v128.load(du + o), f32x4.add(y0, y1)))
    }
    v128.store(dk + (<usize>i << 2), sum4(r0, r1, r2, r3))
  }
}

/** dS += a d^T; da += S d, S the state before the token, d = -dv. */
function eraseBackward(dS: usize, S: usize, a: usize, d: usize, da: usize, K8: i32, W8: i32): void {
  for (let i = 0; i < K8; i += 4) {
    const b = a + (<usize>i << 2)
    const a0 = v128.load32_splat(b), a1 = v128.load32_splat(b, 4), a2 = v128.load32_splat(b, 8), a3 = v128.load32_splat(b, 12)
    let r0 = splat(0), r1 = splat(0), r2 = splat(0), r3 = splat(0)
    for (let j = 0; j < W8; j += 4) {
      const t = at(dS, K8, i, j), s = at(S, K8, i, j)
      const dj = v128.load(d + (<usize>j << 2))
      update(t, t, a0, dj)
      update(t + 32, t + 32, a1, dj)
      update(t + 64, t + 64, a2, dj)
      update(t + 96, t + 96, a3, dj)
      r0 = madd(v128.load(s), dj, r0)
      r1 = madd(v128.load(s, 32), dj, r1)
      r2 = madd(v128.load(s, 64), dj, r2)
      r3 = madd(v128.load(s, 96), dj, r3)
    }
    const o = da + (<usize>i << 2)
    v128.store(o, f32x4.add(v128.load(o), sum4(r0, r1, r2, r3)))
  }
}

/** Four floats of a row of a state: dS = w dS + a d, w and a at addresses. */
@inline function decayedRow(erases: bool, dS: usize, w: usize, a: usize, d: v128): void {
  let x = f32x4.mul(v128.load32_splat(w), v128.load(dS))
  if (erases) x = madd(v128.load32_splat(a), d, x)
  v128.store(dS, x)
}

@inline function decayBackwardWith(erases: bool, dS: usize, S: usize, w: usize, a: usize, d: usize, dw: usize, da: usize, K8: i32,
  W8: i32): void {
  for (let i = 0; i < K8; i += 4) {
    const o = <usize>i << 2, f = w + o, b = a + o
    let w0 = splat(0), w1 = splat(0), w2 = splat(0), w3 = splat(0)
    let a0 = splat(0), a1 = splat(0), a2 = splat(0), a3 = splat(0)
    for (let j = 0; j < W8; j += 4) {
      const t = at(dS, K8, i, j), s = at(S, K8, i, j)
      const dj = erases ? v128.load(d + (<usize>j << 2)) : splat(0)
      let x = v128.load(s)
      w0 = madd(v128.load(t), x, w0)
      if (erases) a0 = madd(x, dj, a0)
      decayedRow(erases, t, f, b, dj)
      x = v128.load(s, 32)
      w1 = madd(v128.load(t, 32), x, w1)
      if (erases) a1 = madd(x, dj, a1)
      decayedRow(erases, t + 32, f + 4, b + 4, dj)
      x = v128.load(s, 64)
      w2 = madd(v128.load(t, 64), x, w2)
      if (erases) a2 = madd(x, dj, a2)
      decayedRow(erases, t + 64, f + 8, b + 8, dj)
      x = v128.load(s, 96)
      w3 = madd(v128.load(t, 96), x, w3)
      if (erases) a3 = madd(x, dj, a3)
      decayedRow(erases, t + 96, f + 12, b + 12, dj)
    }
    v128.store(dw + o, f32x4.mul(v128.load(f), sum4(w0, w1, w2, w3)))
    if (erases) v128.store(da + o, sum4(a0, a1, a2, a3))
  }
}

/** dw = w rowsum(dS * S), the cotangent of log w; da = S d; dS = diag(w) dS + a d^T. a = 0: no da and no a d^T. */
function decayBackward(dS: usize, S: usize, w: usize, a: usize, d: usize, dw: usize, da: usize, K8: i32, W8: i32): void {
  if (a) decayBackwardWith(true, dS, S, w, a, d, dw, da, K8, W8)
  else decayBackwardWith(false, dS, S, w, a, d, dw, da, K8, W8)
}

/** y = a x over n floats, a multiple of 4. */
function scaleTo(y: usize, x: usize, a: f32, n: i32): void {
  for (let i: usize = 0; i < <usize>(n << 2); i += 16) v128.store(y + i, f32x4.mul(f32x4.splat(a), v128.load(x + i)))
}

/** The inner product of two rows of W8 floats, x in a block with Rx rows, y in one with Ry. */
function dotRows(x: usize, Rx: i32, y: usize, Ry: i32): f32 {
  let r0 = splat(0), r1 = splat(0)
  for (let j = 0; j < W8; j += 8, x += <usize>Rx << 5, y += <usize>Ry << 5) {
    r0 = madd(v128.load(x), v128.load(y), r0)
    r1 = madd(v128.load(x, 16), v128.load(y, 16), r1)
  }
  const r = f32x4.add(r0, r1)
  return f32x4.extract_lane(sum4(r, r, r, r), 0)
}

/** y = a * b over n floats, a multiple of 4; y may be either. */
function multiply(y: usize, a: usize, b: usize, n: i32): void {
  for (let i: usize = 0; i < <usize>n << 2; i += 16) v128.store(y + i, f32x4.mul(v128.load(a + i), v128.load(b + i)))
}

/** y += a * b. */
function addProduct(y: usize, a: usize, b: usize, n: i32): void {
  for (let i: usize = 0; i < <usize>n << 2; i += 16) v128.store(y + i, madd(v128.load(a + i), v128.load(b + i), v128.load(y + i)))
}

/** n tokens one by one, from `row` on: S is brought forward, y and den written. */
function recurrent(S: usize, row: i32, n: i32): void {
  const frame = top
  const qt = take(K8), kt = take(K8), ut = take(W8), ot = take(W8)
  const wt = gated ? take(K8) : 0, at = corrects && (gated || erase) ? take(K8) : kt
  for (let t = 0; t < n; t++, row += H) {
    loadKeys(qt, 1, q, row, 1, 1)
    loadKeys(kt, 1, k, row, 1, 1)
    loadValues(ut, 1, row, 1, 1)
    if (gated) loadDecays(wt, row, 1, 1)
    if (erase) loadKeys(at, 1, erase, row, 1, 1)
    else if (at != kt) multiply(at, wt, kt, K8)
    if (corrects) recall(S, at, ut, ut, K8, W8)
    if (beta) scaleTo(ut, ut, load<f32>(rowOf(beta, row, 1)), W8)
    if (gated) writeDecayed(S, wt, kt, ut, qt, ot, K8, W8)
    else write(S, kt, ut, qt, ot, K8, W8)
    storeReads(row, ot, 1, 1)
  }
  top = frame
}

/**
 * From S at the first of n tokens and the cotangent dS of the state after the last: dS of the first, and the tokens' gradients. The state
 * before every token is kept (recomputed, not reversed: exact, and good for rules that forget); the sum rule without a gate needs none.
 *
 *     dq = S g;  dS += q g^T;  dk = dS u;  du = dS^T k;  sum rule: dv = du
 *     beta: dv = beta du, dbeta = du . e;  erase: dv = du;  both: da = -S_{t-1} dv
 *     d log w = w rowsum(dS * S_{t-1});  dS = diag(w) dS - a dv^T;  beta: dk += w da, d log w += a da
 */
function recurrentBackward(S: usize, dS: usize, row: i32, n: i32): void {
  const frame = top
  const own = corrects && (gated || erase != 0), keeps = corrects || gated
  const qs = take(n * K8), ks = take(n * K8), ws = gated ? take(n * K8) : 0, as = own ? take(n * K8) : ks
  const us = take(n * W8), es = beta ? take(n * W8) : us, gs = take(n * W8)
  const d = take(max(K8, W8)), du = take(W8), da = own ? take(K8) : d, dw = gated ? take(K8) : 0
  const rowK = <usize>K8 << 2, rowW = <usize>W8 << 2
  const after = keeps ? take(n * K8 * W8) : S
  const step = keeps ? <usize>(K8 * W8) << 2 : 0
  let before = S
  for (let i: usize = 0; i < <usize>n; i++, row += H) {
    const kt = ks + i * rowK, ut = us + i * rowW, gt = gs + i * rowW, et = es + i * rowW, at = as + i * rowK
    const wt = gated ? ws + i * rowK : 0
    loadKeys(qs + i * rowK, 1, q, row, 1, 1)
    loadKeys(kt, 1, k, row, 1, 1)
    loadValues(ut, 1, row, 1, 1)
    loadCotangents(gt, 1, d, row, 1, 1)
    if (gated) loadDecays(wt, row, 1, 1)
    if (erase) loadKeys(at, 1, erase, row, 1, 1)
    else if (own) multiply(at, wt, kt, K8)
    if (corrects) recall(before, at, ut, et, K8, W8)
    if (beta) scaleTo(ut, et, load<f32>(rowOf(beta, row, 1)), W8)
    if (gated) writeDecayedBackward(before, after + i * step, wt, kt, ut, gt, d, K8, W8)
    else writeBackward(before, after + i * step, kt, ut, gt, d, K8, W8)
    before = after + i * step
    storeKeys(dq, row, d, 1, 1)
  }
  for (let i = <usize>n - 1; i != <usize>-1; i--) {
    row -= H
    const kt = ks + i * rowK, at = corrects ? as + i * rowK : 0
    const previous = i ? after + (i - 1) * step : S
    readBackward(dS, qs + i * rowK, gs + i * rowW, kt, us + i * rowW, d, du, K8, W8)
    if (beta) {
      store<f32>(rowOf(dbeta, row, 1), dotRows(du, 1, es + i * rowW, 1))
      scaleTo(du, du, -load<f32>(rowOf(beta, row, 1)), W8)
    } else if (erase) scaleTo(du, du, -1, W8)
    if (gated) {
      const wt = ws + i * rowK
      decayBackward(dS, previous, wt, at, du, dw, da, K8, W8)
      if (beta) {
        addProduct(d, wt, da, K8)
        addProduct(dw, at, da, K8)
      }
      storeGates(row, dw, 1, 1)
    } else if (corrects) {
      if (own) memory.fill(da, 0, rowK)
      eraseBackward(dS, previous, at, du, da, K8, W8)
    }
    if (corrects) scaleTo(du, du, -1, W8)
    if (erase) storeKeys(derase, row, da, 1, 1)
    storeKeys(dk, row, d, 1, 1)
    storeBlock(rowOf(dv, row, V), 0, du, 1, 1, V)
  }
  top = frame
}

// ---- chunk form: products of small blocks. Plural names are blocks of n8 tokens, *T are transposes ----------------------------------

/**
 * The values written by a rule that corrects, (I + diag(beta) M) U = diag(beta) (V - A S), M strictly lower, by forward substitution on
 * the errors E: e_i = v_i - S^T a_i - sum_{j<i} M_ij u_j, u_i = beta_i e_i. es holds V on entry. A and S as of the chunk's first token.
 */
function pseudoValues(S: usize, asT: usize, betas: usize, es: usize, us: usize, m: usize, rest: usize, n8: i32): void {
  const frame = top
  const mT = take(n8 * n8)
  transpose(mT, n8, m, n8, n8, n8)
  product(es, n8, SUB, asT, K8, S, K8, n8, W8, K)
  solveLower(es, us, mT, rest, betas, n8, W8)
  top = frame
}

/**
 * P = tril(Q K^T) and, for a rule that corrects, M = tril(A K^T, -1) (0: not wanted), with the decays in between in each product. Takes and
 * gives the transposes of Q, A and K, of which K's is used up when each channel has its decay. ds [n8, n8]: the decays when all have one.
 */
function inner(p: usize, m: usize, ds: usize, qsT: usize, asT: usize, ksT: usize, ws: usize, n8: i32): void {
  if (gated && gateWidth == K) {
    const frame = top
    const wsT = take(n8 * K8)
    transpose(wsT, K8, ws, n8, n8, K8)
    decayedPairs(p, m, ksT, qsT, asT, wsT, K, K8, n8)
    top = frame
    return
  }
  lowerOf(p, qsT, K8, ksT, K8, n8, K)
  if (m) lowerOf(m, asT, K8, ksT, K8, n8, K)
  if (gated) decayPairs(p, m, ds, ws, n8)
}

/** What M lacks of tokens that reflect, 0 if none does. ks in a block with R rows; ws 0: no gate. */
function remaindersOf(m: usize, as: usize, ks: usize, R: i32, ws: usize, betas: usize, n: i32, n8: i32): usize {
  const rest = take(n8 * n8), wide = take(2 * K8)
  return erase
    ? remainders(rest, m, as, n8, false, ks, R, ws, betas, wide, n, n8, K8)
    : remainders(rest, m, ks, R, true, ks, R, ws, betas, wide, n, n8, K8)
}

/** S = diag(f) S. */
function scaleState(S: usize, f: usize): void {
  for (let j = 0; j < W8; j += 8) {
    let s = at(S, K8, 0, j)
    for (let i: usize = 0; i < <usize>(K8 << 2); i += 4, s += 32) {
      const x = v128.load32_splat(f + i)
      v128.store(s, f32x4.mul(x, v128.load(s)))
      v128.store(s, f32x4.mul(x, v128.load(s, 16)), 16)
    }
  }
}

/**
 * O = Q S + P U;  S = diag(Gamma_n) S + K^T U. With a gate Q stands for the rows Gamma_i q_i, A for Gamma_{i-1} a_i and K for D_nj k_j.
 */
function chunk(S: usize, row: i32, n: i32): void {
  const frame = top
  const n8 = roundUp8(n), own = corrects && (gated || erase != 0)
  const qs = take(n8 * K8), qsT = take(n8 * K8), ks = take(n8 * K8), ksT = take(n8 * K8), us = take(n8 * W8), os = take(n8 * W8)
  const p = take(n8 * n8), pT = take(n8 * n8), m = corrects ? take(n8 * n8) : 0, betas = take(n8)
  const as = own ? take(n8 * K8) : ks, asT = own ? take(n8 * K8) : ksT, ws = gated ? take(n8 * K8) : 0, last = gated ? take(K8) : 0
  let rest: usize = 0
  loadKeys(qs, n8, q, row, n, n8)
  transpose(qsT, K8, qs, n8, n8, K8)
  loadKeys(ks, n8, k, row, n, n8)
  transpose(ksT, K8, ks, n8, n8, K8)
  if (gated) loadDecays(ws, row, n, n8)
  if (erase) loadKeys(as, n8, erase, row, n, n8)
  else if (own) multiply(as, ws, ks, n8 * K8)
  if (own) transpose(asT, K8, as, n8, n8, K8)
  inner(p, m, pT, qsT, asT, ksT, ws, n8)
  transpose(pT, n8, p, n8, n8, n8)
  if (corrects) {
    loadBetas(betas, row, n, n8)
    rest = remaindersOf(m, as, ks, n8, ws, betas, n, n8)
  }
  if (gated) {
    decayRows(qs, as, n8, ks, 0, last, qs, own ? as : 0, ks, ws, n8, K8)
    transpose(qsT, K8, qs, n8, n8, K8)
    if (own) transpose(asT, K8, as, n8, n8, K8)
  }
  if (corrects) {
    loadValues(os, n8, row, n, n8)
    pseudoValues(S, asT, betas, os, us, m, rest, n8)
  } else loadValues(us, n8, row, n, n8)
  product(os, n8, SET, qsT, K8, S, K8, n8, W8, K)
  productLower(os, n8, ADD, pT, n8, us, n8, n8, W8, 0)
  if (gated) scaleState(S, last)
  product(S, K8, ADD, ks, n8, us, n8, K8, W8, n)
  storeReads(row, os, n8, n)
  top = frame
}

/**
 * Of the sum and the delta rule without a gate. With P = tril(Q K^T), from S before the chunk and dS after it:
 *
 *     dU = P^T G + K dS;  dP = tril(G U^T);  dQ = G S^T + dP K;  dK = U dS^T + dP^T Q;  dS += Q^T G;  sum rule: dV = dU
 *     delta rule: X = dU - tril(K K^T, -1)^T diag(beta) X, D = -diag(beta) X, R = tril(D U^T, -1):
 *     dV = -D;  dbeta_i = x_i . e_i;  dK += D S^T + (R + R^T) K;  dS += K^T D
 *
 * Sums of products are taken in one go, on operands stacked: dQ = [G dP] [S^T; K], dK = [U D R+R^T] [dS^T; S^T; K] + dP^T Q,
 * dS += [Q; K]^T [G; D].
 */
function chunkBackward(S: usize, dS: usize, row: i32, n: i32): void {
  const frame = top
  const n8 = roundUp8(n), pairs = 2 * n8, gdP = W8 + n8, udm = 2 * W8 + n8
  const qsT = take(n8 * K8), ksT = take(n8 * K8), dqs = take(n8 * K8), dks = take(n8 * K8)
  const qk = take(pairs * K8), gd = take(pairs * W8), us = take(n8 * W8), es = take(n8 * W8), dus = take(n8 * W8)
  const p = take(n8 * n8), m = take(n8 * n8), betas = take(n8)
  const left = take(udm * n8), leftQ = take(gdP * n8), right = take(udm * K8)
  let rest: usize = 0
  const qs = qk, ks = rowsFrom(qk, n8), gs = gd, ds = rowsFrom(gd, n8)
  const usT = left, dsT = rowsFrom(left, W8), gsT = leftQ, rightQ = rowsFrom(right, W8)

  loadKeys(qs, pairs, q, row, n, n8)
  transpose(qsT, K8, qs, pairs, n8, K8)
  loadKeys(ks, pairs, k, row, n, n8)
  transpose(ksT, K8, ks, pairs, n8, K8)
  loadKeys(rowsFrom(right, 2 * W8), udm, k, row, n, n8)
  loadCotangents(gs, pairs, dus, row, n, n8)
  transpose(gsT, gdP, gs, pairs, n8, W8)
  if (beta) {
    loadBetas(betas, row, n, n8)
    loadValues(es, n8, row, n, n8)
    lowerOf(m, ksT, K8, ksT, K8, n8, K)
    rest = remaindersOf(m, ks, ks, pairs, 0, betas, n, n8)
    pseudoValues(S, ksT, betas, es, us, m, rest, n8)
  } else loadValues(us, n8, row, n, n8)
  transpose(usT, udm, us, n8, n8, W8)
  transpose(right, udm, dS, K8, K8, W8)
  transpose(rightQ, udm, S, K8, K8, W8)

  product(dus, n8, SET, ksT, K8, dS, K8, n8, W8, K)
  lowerOf(p, qsT, K8, ksT, K8, n8, K)
  addLowerTransposed(dus, n8, p, n8, gs, pairs, n8, W8)
  if (beta) {
    backSubstitute(dus, ds, pairs, m, rest, betas, es, row, n, n8)
    transpose(dsT, udm, ds, pairs, n8, W8)
    lowerOf(p, dsT, udm, usT, udm, n8, W)
    symmetric(rowsFrom(left, 2 * W8), udm, p, n8)
  }
  lowerOf(p, gsT, gdP, usT, udm, n8, W)
  transpose(rowsFrom(leftQ, W8), gdP, p, n8, n8, n8)
  productLower(dqs, n8, SET, leftQ, gdP, rightQ, udm, n8, K8, W8)
  product(dks, n8, SET, left, udm, right, udm, n8, K8, beta ? udm : W8)
  addLowerTransposed(dks, n8, p, n8, qs, pairs, n8, K8)
  product(dS, K8, ADD, qk, pairs, gd, pairs, K8, W8, beta ? pairs : n)

  storeKeys(dq, row, dqs, n8, n)
  storeKeys(dk, row, dks, n8, n)
  storeValues(row, dus, ds, pairs, n, n8)
  top = frame
}

/** From dU, in place: X = dU - M^T diag(beta) X, D = -diag(beta) X in a block with R rows, dbeta_i = x_i . e_i. betas is negated. */
function backSubstitute(dus: usize, ds: usize, R: i32, m: usize, rest: usize, betas: usize, es: usize, row: i32, n: i32, n8: i32): void {
  scaleTo(betas, betas, -1, n8)
  solveLowerTransposed(dus, ds, R, m, rest, betas, n8, W8)
  if (rest) restore(m, rest, n8)
  if (!beta) return
  const db = rowOf(dbeta, row, 1)
  for (let r = 0; r < n; r++) store<f32>(db + <usize>r * stride1, dotRows(at(dus, n8, r, 0), n8, at(es, n8, r, 0), n8))
}

/** dV = -D (in place, in a block with R rows), or dU for the sum rule. */
function storeValues(row: i32, dus: usize, ds: usize, R: i32, n: i32, n8: i32): void {
  if (corrects) for (let r = 0; r < n; r++) scaleRow(ds, R, r, -1)
  storeBlock(rowOf(dv, row, V), strideV, corrects ? ds : dus, corrects ? R : n8, n, V)
}

/** dlast = Gamma_n rowsum(dS * S), the cotangent of log Gamma_n; dS = diag(Gamma_n) dS. */
function lastBackward(S: usize, dS: usize, last: usize, dlast: usize): void {
  for (let i = 0; i < K8; i += 4) {
    let r0 = splat(0), r1 = splat(0), r2 = splat(0), r3 = splat(0)
    for (let j = 0; j < W8; j += 4) {
      const s = at(S, K8, i, j), t = at(dS, K8, i, j)
      r0 = madd(v128.load(s), v128.load(t), r0)
      r1 = madd(v128.load(s, 32), v128.load(t, 32), r1)
      r2 = madd(v128.load(s, 64), v128.load(t, 64), r2)
      r3 = madd(v128.load(s, 96), v128.load(t, 96), r3)
    }
    const o = <usize>i << 2
    v128.store(dlast + o, f32x4.mul(v128.load(last + o), sum4(r0, r1, r2, r3)))
  }
  scaleState(dS, last)
}

/**
 * Of any rule with a gate or with erase. Q~, A~ and K~ are the rows Gamma_i q_i, Gamma_{i-1} a_i and D_nj k_j:
 *
 *     dU = P^T G + K~ dS;  dP = tril(G U^T);  dQ~ = G S^T;  dK~ = U dS^T;  sum rule: dV = dU
 *     a rule that corrects: X = dU - M^T diag(beta) X, D = -diag(beta) X:  dV = -D;  dbeta_i = x_i . e_i;  dA~ = D S^T;  dM = tril(D U^T, -1)
 *     dS = diag(Gamma_n) dS + [Q~; A~]^T [G; D]
 *
 * and from dP, dM, dQ~, dA~, dK~ to q, a, k and log w as in decays.ts. beta: dK += W * dA, d log W += A * dA.
 */
function decayedChunkBackward(S: usize, dS: usize, row: i32, n: i32): void {
  const frame = top
  const n8 = roundUp8(n), pairs = 2 * n8, eachChannel = gated && gateWidth == K
  const keys = n8 * K8, values = n8 * W8, square = n8 * n8
  const qs = take(keys), ks = take(keys), as = take(keys), ws = take(keys), qsT = take(keys), ksT = take(keys), asT = take(keys)
  const dqs = take(keys), dks = take(keys), das = take(keys), dws = take(keys), gammas = take(keys), decayedKs = gated ? take(keys) : ks
  const us = take(values), es = take(values), dus = take(values), gsT = take(values), usT = take(values), dsT = take(values)
  const p = take(square), m = take(square), dp = take(square), dm = take(square), decays = take(square)
  const qa = take(pairs * K8), gd = take(pairs * W8), before = take(K8 * W8), after = take(K8 * W8)
  const betas = take(n8), last = take(K8), dlast = take(K8), sums = take(16 * n8)
  const decayedAs = rowsFrom(qa, n8), gs = gd, ds = rowsFrom(gd, n8)
  // 0 where there is no such thing.
  let rest: usize = 0
  const asGiven = corrects ? as : 0, mGiven = corrects ? m : 0, dmGiven = corrects ? dm : 0

  loadKeys(qs, n8, q, row, n, n8)
  transpose(qsT, K8, qs, n8, n8, K8)
  loadKeys(ks, n8, k, row, n, n8)
  transpose(ksT, K8, ks, n8, n8, K8)
  if (gated) loadDecays(ws, row, n, n8)
  if (erase) loadKeys(as, n8, erase, row, n, n8)
  else if (beta) multiply(as, ws, ks, keys)
  if (corrects) transpose(asT, K8, as, n8, n8, K8)
  inner(p, mGiven, decays, qsT, asT, ksT, ws, n8)
  if (corrects) {
    loadBetas(betas, row, n, n8)
    rest = remaindersOf(m, as, ks, n8, gated ? ws : 0, betas, n, n8)
  }
  if (gated) {
    decayRows(qa, decayedAs, pairs, decayedKs, gammas, last, qs, asGiven, ks, ws, n8, K8)
    transpose(ksT, K8, decayedKs, n8, n8, K8)
    if (corrects) transpose(asT, K8, decayedAs, pairs, n8, K8)
  } else {
    loadKeys(qa, pairs, q, row, n, n8)
    loadKeys(decayedAs, pairs, erase, row, n, n8)
  }
  loadCotangents(gs, pairs, dus, row, n, n8)
  transpose(gsT, W8, gs, pairs, n8, W8)
  if (corrects) {
    loadValues(es, n8, row, n, n8)
    pseudoValues(S, asT, betas, es, us, m, rest, n8)
  } else loadValues(us, n8, row, n, n8)
  transpose(usT, W8, us, n8, n8, W8)
  transpose(before, W8, S, K8, K8, W8)
  transpose(after, W8, dS, K8, K8, W8)

  product(dus, n8, SET, ksT, K8, dS, K8, n8, W8, K)
  addLowerTransposed(dus, n8, p, n8, gs, pairs, n8, W8)
  if (corrects) {
    backSubstitute(dus, ds, pairs, m, rest, betas, es, row, n, n8)
    transpose(dsT, W8, ds, pairs, n8, W8)
    lowerOf(dm, dsT, W8, usT, W8, n8, W)
    product(das, n8, SET, dsT, W8, before, W8, n8, K8, W)
  }
  lowerOf(dp, gsT, W8, usT, W8, n8, W)
  product(dqs, n8, SET, gsT, W8, before, W8, n8, K8, W)
  product(dks, n8, SET, usT, W8, after, W8, n8, K8, W)
  if (gated) lastBackward(S, dS, last, dlast)
  product(dS, K8, ADD, qa, pairs, gd, pairs, K8, W8, corrects ? pairs : n)

  if (gated) decayRowsBackward(dqs, das, dws, gammas, dlast, qs, asGiven, n, n8, K8)
  if (eachChannel) decayedPairsBackward(dp, dmGiven, qs, as, ks, ws, dqs, das, dks, dws, sums, n, n8, K8)
  else {
    if (gated) {
      decayKeysBackward(dks, dws, ks, ws, n, n8, K8)
      decayPairsBackward(dp, dmGiven, p, m, decays, dws, sums, n, n8)
    }
    transpose(p, n8, dp, n8, n8, n8)
    productLower(dqs, n8, ADD, p, n8, ks, n8, n8, K8, 0)
    addLowerTransposed(dks, n8, dp, n8, qs, n8, n8, K8)
    if (corrects) {
      for (let r = 0; r < n8; r++) store<f32>(at(dm, n8, r, r), 0)
      transpose(m, n8, dm, n8, n8, n8)
      productLower(das, n8, ADD, m, n8, ks, n8, n8, K8, 0)
      addLowerTransposed(dks, n8, dm, n8, as, n8, n8, K8)
    }
  }
  if (gated && beta) {
    addProduct(dks, ws, das, keys)
    addProduct(dws, as, das, keys)
  }
  storeKeys(dq, row, dqs, n8, n)
  storeKeys(dk, row, dks, n8, n)
  if (erase) storeKeys(derase, row, das, n8, n)
  if (gated) storeGates(row, dws, n8, n)
  storeValues(row, dus, ds, pairs, n, n8)
  top = frame
}

// ---- kernels: a task is a head, cut into spans of C tokens ----------------------------------------------------------------------

export function fastWeights(begin: i32, end: i32, chunked: i32, q: usize, k: usize, v: usize, beta: usize, gate: usize, erase: usize,
  s0: usize, z0: usize, y: usize, sT: usize, zT: usize, den: usize, states: usize, zs: usize, T: i32, H: i32, keyWidth: i32,
  valueWidth: i32, gateWidth: i32, C: i32, readScale: f32, epsilon: f32): void {
  setInputs(q, k, v, beta, gate, erase, y, den)
  setSizes(H, keyWidth, valueWidth, gateWidth, zT != 0, readScale)
  eps = epsilon
  top = scratch
  const S = take(K8 * W8)
  const spans = (T - 1) / C + 1
  for (let head = begin; head < end; head++) {
    loadState(S, rowOf(s0, head, K * V), rowOf(z0, head, K))
    for (let c = 0; c < spans; c++) {
      const t = c * C, n = min(C, T - t), row = (head / H * T + t) * H + head % H, span = head * spans + c
      storeState(rowOf(states, span, K * V), rowOf(zs, span, K), S)
      if (chunked) chunk(S, row, n)
      else recurrent(S, row, n)
    }
    storeState(rowOf(sT, head, K * V), rowOf(zT, head, K), S)
  }
}

export function fastWeightsBackward(begin: i32, end: i32, chunked: i32, q: usize, k: usize, v: usize, beta: usize, gate: usize,
  erase: usize, y: usize, den: usize, states: usize, zs: usize, dy: usize, dsT: usize, dzT: usize, dq: usize, dk: usize, dv: usize,
  dbeta: usize, dgate: usize, derase: usize, ds0: usize, dz0: usize, T: i32, H: i32, keyWidth: i32, valueWidth: i32, gateWidth: i32,
  C: i32, readScale: f32): void {
  setInputs(q, k, v, beta, gate, erase, y, den)
  setGradients(dy, dq, dk, dv, dbeta, dgate, derase)
  setSizes(H, keyWidth, valueWidth, gateWidth, den != 0, readScale)
  top = scratch
  const dS = take(K8 * W8), S = take(K8 * W8)
  const spans = (T - 1) / C + 1
  for (let head = begin; head < end; head++) {
    loadState(dS, rowOf(dsT, head, K * V), rowOf(dzT, head, K))
    for (let c = spans - 1; c >= 0; c--) {
      const t = c * C, n = min(C, T - t), row = (head / H * T + t) * H + head % H, span = head * spans + c
      loadState(S, rowOf(states, span, K * V), rowOf(zs, span, K))
      if (!chunked) recurrentBackward(S, dS, row, n)
      else if (gated || erase) decayedChunkBackward(S, dS, row, n)
      else chunkBackward(S, dS, row, n)
    }
    storeState(rowOf(ds0, head, K * V), rowOf(dz0, head, K), dS)
  }
}
