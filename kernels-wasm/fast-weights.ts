/**
 * Fast weights: the sum rule and the delta rule, recurrent and in chunks, forward and backward.
 *
 *     S_t = S_{t-1} + k_t u_t^T,  y_t = scale S_t^T q_t
 *     sum rule    u_t = v_t                                   Katharopoulos 2020, eq. 16-20
 *     delta rule  u_t = beta_t e_t,  e_t = v_t - S_{t-1}^T k_t     Schlag 2021, eq. 24-25; chunks: Yang 2024 (WY)
 *
 * Both are written once, for u; beta = null means the sum rule. The normaliser, z_t = z_{t-1} + k_t and
 * y_t = scale S_t^T q_t / (z_t . q_t + eps), is one more value column: v is extended by 1, S by z, and the cotangent G = scale dy / den of
 * the unscaled read by g = -(dy . y) / den. W is the width of the values so extended.
 *
 * Shapes: q, k [B,T,H,K]; v, y [B,T,H,V]; beta, den [B,T,H]; states [B,H,K,V]; z [B,H,K]; snapshots [B,H,ceil(T/C),K,V].
 * Split: a task is one (b, h), done by one thread from the first token to the last; nothing is shared, so threads change nothing.
 * In scratch all sizes are padded to multiples of 8 (K8, W8, and n8 tokens in a chunk) and held as blocks of strips.ts.
 * Causality is exact: what a token holds, NaN included, never enters the arithmetic of an earlier one.
 * Pinned by test/ops/fast-weights.test.ts, against engine/devices/reference/fast-weights.ts: RMS ratio 1e-5.
 */
import { madd, splat } from './math'
import { scratch } from './scratch'
import {
  ADD, SET, SUB, addLowerTransposed, at, loadBlock, lowerOf, product, productLower, roundUp8, rowsFrom, solveLower, solveLowerTransposed,
  storeBlock, symmetric, transpose,
} from './strips'

// ---- the kernel call at hand (a thread has its own instance of the module, hence its own globals) -----------------------------------

let K: i32 = 0, V: i32 = 0, W: i32 = 0, K8: i32 = 0, W8: i32 = 0
/** Bytes from a token's row of q, k (v, y; beta, den) to the next token's of the same head. */
let strideK: usize = 0, strideV: usize = 0, stride1: usize = 0
let scale: f32 = 0, eps: f32 = 0
let normalised = false

function setSizes(H: i32, keyWidth: i32, valueWidth: i32, withNormaliser: bool, readScale: f32): void {
  K = keyWidth
  V = valueWidth
  normalised = withNormaliser
  W = V + i32(normalised)
  K8 = roundUp8(K)
  W8 = roundUp8(W)
  strideK = <usize>(H * K) << 2
  strideV = <usize>(H * V) << 2
  stride1 = <usize>H << 2
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

/** v of n tokens into [M, W8] of a block with R rows. */
function loadValues(x: usize, R: i32, v: usize, n: i32, M: i32): void {
  loadBlock(x, R, v, strideV, n, V, M, W8)
  if (!normalised) return
  for (let r = 0; r < n; r++) store<f32>(at(x, R, r, V), 1)
}

/** beta of n tokens, 0 beyond. */
function loadVector(x: usize, beta: usize, n: i32, n8: i32): void {
  for (let r = 0; r < n8; r++) store<f32>(x + (<usize>r << 2), r < n ? load<f32>(beta + <usize>r * stride1) : 0)
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

/** y = scale o / den, den = o's normaliser column + eps, kept if asked for. */
function storeReads(y: usize, den: usize, o: usize, R: i32, n: i32): void {
  for (let r = 0; r < n; r++) {
    let factor = scale
    if (normalised) {
      const d = load<f32>(at(o, R, r, V)) + eps
      if (den) store<f32>(den + <usize>r * stride1, d)
      factor /= d
    }
    scaleRow(o, R, r, factor)
  }
  storeBlock(y, strideV, o, R, n, V)
}

/** g [M, W8], of a block with R rows, = scale dy / den, and -(dy . y) / den in the normaliser's column; w [M, W8] is working space. */
function loadCotangents(g: usize, R: i32, w: usize, dy: usize, y: usize, den: usize, n: i32, M: i32): void {
  loadBlock(g, R, dy, strideV, n, V, M, W8)
  if (normalised) loadBlock(w, M, y, strideV, n, V, M, W8)
  for (let r = 0; r < n; r++) {
    const d = normalised ? load<f32>(den + <usize>r * stride1) : 1
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

/** S += k u^T, o = S^T q. */
function write(S: usize, k: usize, u: usize, q: usize, o: usize, K8: i32, W8: i32): void {
  for (let j = 0; j < W8; j += 8) {
    let s = at(S, K8, 0, j)
    const u0 = v128.load(u + (<usize>j << 2)), u1 = v128.load(u + (<usize>j << 2), 16)
    let r0 = splat(0), r1 = splat(0), r2 = splat(0), r3 = splat(0)
    for (let i: usize = 0; i < <usize>(K8 << 2); i += 16, s += 128) {
      let x = v128.load32_splat(k + i), y = v128.load32_splat(q + i)
      r0 = madd(y, update(s, s, x, u0), r0)
      r1 = madd(y, update(s + 16, s + 16, x, u1), r1)
      x = v128.load32_splat(k + i, 4)
      y = v128.load32_splat(q + i, 4)
      r2 = madd(y, update(s + 32, s + 32, x, u0), r2)
      r3 = madd(y, update(s + 48, s + 48, x, u1), r3)
      x = v128.load32_splat(k + i, 8)
      y = v128.load32_splat(q + i, 8)
      r0 = madd(y, update(s + 64, s + 64, x, u0), r0)
      r1 = madd(y, update(s + 80, s + 80, x, u1), r1)
      x = v128.load32_splat(k + i, 12)
      y = v128.load32_splat(q + i, 12)
      r2 = madd(y, update(s + 96, s + 96, x, u0), r2)
      r3 = madd(y, update(s + 112, s + 112, x, u1), r3)
    }
    v128.store(o + (<usize>j << 2), f32x4.add(r0, r2))
    v128.store(o + (<usize>j << 2), f32x4.add(r1, r3), 16)
  }
}

/** to = from + k u^T (may be the same state), d [K8] = to g. */
function writeBackward(from: usize, to: usize, k: usize, u: usize, g: usize, d: usize, K8: i32, W8: i32): void {
  for (let i = 0; i < K8; i += 4) {
    const a = k + (<usize>i << 2)
    const k0 = v128.load32_splat(a), k1 = v128.load32_splat(a, 4), k2 = v128.load32_splat(a, 8), k3 = v128.load32_splat(a, 12)
    let r0 = splat(0), r1 = splat(0), r2 = splat(0), r3 = splat(0)
    for (let j = 0; j < W8; j += 8) {
      const f = at(from, K8, i, j), t = at(to, K8, i, j), o = <usize>j << 2
      const u0 = v128.load(u + o), u1 = v128.load(u + o, 16), g0 = v128.load(g + o), g1 = v128.load(g + o, 16)
      r0 = madd(update(t + 16, f + 16, k0, u1), g1, madd(update(t, f, k0, u0), g0, r0))
      r1 = madd(update(t + 48, f + 48, k1, u1), g1, madd(update(t + 32, f + 32, k1, u0), g0, r1))
      r2 = madd(update(t + 80, f + 80, k2, u1), g1, madd(update(t + 64, f + 64, k2, u0), g0, r2))
      r3 = madd(update(t + 112, f + 112, k3, u1), g1, madd(update(t + 96, f + 96, k3, u0), g0, r3))
    }
    v128.store(d + (<usize>i << 2), sum4(r0, r1, r2, r3))
  }
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

/** dS += k d^T; dk += S d, S the state before the token, d = -dv. */
function eraseBackward(dS: usize, S: usize, k: usize, d: usize, dk: usize, K8: i32, W8: i32): void {
  for (let i = 0; i < K8; i += 4) {
    const a = k + (<usize>i << 2)
    const k0 = v128.load32_splat(a), k1 = v128.load32_splat(a, 4), k2 = v128.load32_splat(a, 8), k3 = v128.load32_splat(a, 12)
    let r0 = splat(0), r1 = splat(0), r2 = splat(0), r3 = splat(0)
    for (let j = 0; j < W8; j += 4) {
      const t = at(dS, K8, i, j), s = at(S, K8, i, j)
      const dj = v128.load(d + (<usize>j << 2))
      update(t, t, k0, dj)
      update(t + 32, t + 32, k1, dj)
      update(t + 64, t + 64, k2, dj)
      update(t + 96, t + 96, k3, dj)
      r0 = madd(v128.load(s), dj, r0)
      r1 = madd(v128.load(s, 32), dj, r1)
      r2 = madd(v128.load(s, 64), dj, r2)
      r3 = madd(v128.load(s, 96), dj, r3)
    }
    const o = dk + (<usize>i << 2)
    v128.store(o, f32x4.add(v128.load(o), sum4(r0, r1, r2, r3)))
  }
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

/** n tokens one by one: S is brought forward, y and den written. */
function recurrent(S: usize, q: usize, k: usize, v: usize, beta: usize, y: usize, den: usize, n: i32): void {
  const frame = top
  const qt = take(K8), kt = take(K8), ut = take(W8), ot = take(W8)
  for (let t = 0; t < n; t++) {
    loadBlock(qt, 1, q, 0, 1, K, 1, K8)
    loadBlock(kt, 1, k, 0, 1, K, 1, K8)
    loadValues(ut, 1, v, 1, 1)
    if (beta) {
      recall(S, kt, ut, ut, K8, W8)
      scaleTo(ut, ut, load<f32>(beta), W8)
      beta += stride1
    }
    write(S, kt, ut, qt, ot, K8, W8)
    storeReads(y, den, ot, 1, 1)
    q += strideK
    k += strideK
    v += strideV
    y += strideV
    if (den) den += stride1
  }
  top = frame
}

/**
 * From S at the first of n tokens and the cotangent dS of the state after the last: dS of the first, and the tokens' gradients. The delta
 * rule keeps the state before every token (recomputed, not reversed: exact, and good for rules that forget); the sum rule needs none.
 *
 *     dq = S g;  dS += q g^T;  dk = dS u;  du = dS^T k;  sum rule: dv = du
 *     delta rule: dv = beta du;  dbeta = du . e;  dk -= S_{t-1} dv;  dS -= k dv^T
 */
function recurrentBackward(S: usize, dS: usize, q: usize, k: usize, v: usize, beta: usize, y: usize, den: usize, dy: usize,
  dq: usize, dk: usize, dv: usize, dbeta: usize, n: i32): void {
  const frame = top
  const qs = take(n * K8), ks = take(n * K8), us = take(n * W8), es = take(n * W8), gs = take(n * W8), d = take(max(K8, W8)), du = take(W8)
  const rowK = <usize>K8 << 2, rowW = <usize>W8 << 2
  const after = beta ? take(n * K8 * W8) : S
  const step = beta ? <usize>(K8 * W8) << 2 : 0
  let before = S
  for (let t: usize = 0; t < <usize>n; t++) {
    const kt = ks + t * rowK, ut = us + t * rowW, gt = gs + t * rowW
    loadBlock(qs + t * rowK, 1, q + t * strideK, 0, 1, K, 1, K8)
    loadBlock(kt, 1, k + t * strideK, 0, 1, K, 1, K8)
    loadValues(ut, 1, v + t * strideV, 1, 1)
    loadCotangents(gt, 1, d, dy + t * strideV, y + t * strideV, den + t * stride1, 1, 1)
    if (beta) {
      recall(before, kt, ut, es + t * rowW, K8, W8)
      scaleTo(ut, es + t * rowW, load<f32>(beta + t * stride1), W8)
    }
    writeBackward(before, after + t * step, kt, ut, gt, d, K8, W8)
    before = after + t * step
    storeBlock(dq + t * strideK, 0, d, 1, 1, K)
  }
  for (let t = <usize>n - 1; t != <usize>-1; t--) {
    const kt = ks + t * rowK
    readBackward(dS, qs + t * rowK, gs + t * rowW, kt, us + t * rowW, d, du, K8, W8)
    if (beta) {
      store<f32>(dbeta + t * stride1, dotRows(du, 1, es + t * rowW, 1))
      scaleTo(du, du, -load<f32>(beta + t * stride1), W8)
      eraseBackward(dS, t ? after + (t - 1) * step : S, kt, du, d, K8, W8)
      scaleTo(du, du, -1, W8)
    }
    storeBlock(dk + t * strideK, 0, d, 1, 1, K)
    storeBlock(dv + t * strideV, 0, du, 1, 1, V)
  }
  top = frame
}

// ---- chunk form: products of small blocks. Plural names are blocks of n8 tokens, *T are transposes ----------------------------------

/**
 * The delta rule's pseudo-values, (I + tril(diag(beta) K K^T, -1)) U = diag(beta) (V - K S), by forward substitution on the errors E:
 * e_i = v_i - S^T k_i - sum_{j<i} (k_i . k_j) u_j, u_i = beta_i e_i. es holds V on entry. Leaves the lower triangle of K K^T in kk.
 */
function pseudoValues(S: usize, ksT: usize, betas: usize, es: usize, us: usize, kk: usize, n8: i32): void {
  const frame = top
  const kkT = take(n8 * n8)
  lowerOf(kk, ksT, K8, ksT, K8, n8, K)
  transpose(kkT, n8, kk, n8, n8, n8)
  product(es, n8, SUB, ksT, K8, S, K8, n8, W8, K)
  solveLower(es, us, kkT, betas, n8, W8)
  top = frame
}

/** O = Q S + tril(Q K^T) U;  S += K^T U. */
function chunk(S: usize, q: usize, k: usize, v: usize, beta: usize, y: usize, den: usize, n: i32): void {
  const frame = top
  const n8 = roundUp8(n)
  const rows = take(n8 * K8), qsT = take(n8 * K8), ksT = take(n8 * K8), us = take(n8 * W8), os = take(n8 * W8)
  const p = take(n8 * n8), pT = take(n8 * n8), betas = take(n8)
  loadBlock(rows, n8, q, strideK, n, K, n8, K8)
  transpose(qsT, K8, rows, n8, n8, K8)
  loadBlock(rows, n8, k, strideK, n, K, n8, K8)
  transpose(ksT, K8, rows, n8, n8, K8)
  if (beta) {
    loadVector(betas, beta, n, n8)
    loadValues(os, n8, v, n, n8)
    pseudoValues(S, ksT, betas, os, us, p, n8)
  } else loadValues(us, n8, v, n, n8)
  lowerOf(p, qsT, K8, ksT, K8, n8, K)
  transpose(pT, n8, p, n8, n8, n8)
  product(os, n8, SET, qsT, K8, S, K8, n8, W8, K)
  productLower(os, n8, ADD, pT, n8, us, n8, n8, W8, 0)
  product(S, K8, ADD, rows, n8, us, n8, K8, W8, n)
  storeReads(y, den, os, n8, n)
  top = frame
}

/**
 * With P = tril(Q K^T), from S before the chunk and dS after it:
 *
 *     dU = P^T G + K dS;  dP = tril(G U^T);  dQ = G S^T + dP K;  dK = U dS^T + dP^T Q;  dS += Q^T G;  sum rule: dV = dU
 *     delta rule: X = dU - tril(K K^T, -1)^T diag(beta) X, D = -diag(beta) X, M = tril(D U^T, -1):
 *     dV = -D;  dbeta_i = x_i . e_i;  dK += D S^T + (M + M^T) K;  dS += K^T D
 *
 * Sums of products are taken in one go, on operands stacked: dQ = [G dP] [S^T; K], dK = [U D M+M^T] [dS^T; S^T; K] + dP^T Q,
 * dS += [Q; K]^T [G; D].
 */
function chunkBackward(S: usize, dS: usize, q: usize, k: usize, v: usize, beta: usize, y: usize, den: usize, dy: usize,
  dq: usize, dk: usize, dv: usize, dbeta: usize, n: i32): void {
  const frame = top
  const n8 = roundUp8(n), pairs = 2 * n8, gdP = W8 + n8, udm = 2 * W8 + n8
  const qsT = take(n8 * K8), ksT = take(n8 * K8), dqs = take(n8 * K8), dks = take(n8 * K8)
  const qk = take(pairs * K8), gd = take(pairs * W8), us = take(n8 * W8), es = take(n8 * W8), dus = take(n8 * W8)
  const p = take(n8 * n8), kk = take(n8 * n8), betas = take(n8)
  const left = take(udm * n8), leftQ = take(gdP * n8), right = take(udm * K8)
  const qs = qk, ks = rowsFrom(qk, n8), gs = gd, ds = rowsFrom(gd, n8)
  const usT = left, dsT = rowsFrom(left, W8), gsT = leftQ, rightQ = rowsFrom(right, W8)

  loadBlock(qs, pairs, q, strideK, n, K, n8, K8)
  transpose(qsT, K8, qs, pairs, n8, K8)
  loadBlock(ks, pairs, k, strideK, n, K, n8, K8)
  transpose(ksT, K8, ks, pairs, n8, K8)
  loadBlock(rowsFrom(right, 2 * W8), udm, k, strideK, n, K, n8, K8)
  loadCotangents(gs, pairs, dus, dy, y, den, n, n8)
  transpose(gsT, gdP, gs, pairs, n8, W8)
  if (beta) {
    loadVector(betas, beta, n, n8)
    loadValues(es, n8, v, n, n8)
    pseudoValues(S, ksT, betas, es, us, kk, n8)
  } else loadValues(us, n8, v, n, n8)
  transpose(usT, udm, us, n8, n8, W8)
  transpose(right, udm, dS, K8, K8, W8)
  transpose(rightQ, udm, S, K8, K8, W8)

  product(dus, n8, SET, ksT, K8, dS, K8, n8, W8, K)
  lowerOf(p, qsT, K8, ksT, K8, n8, K)
  addLowerTransposed(dus, n8, p, n8, gs, pairs, n8, W8)
  if (beta) {
    scaleTo(betas, betas, -1, n8)
    solveLowerTransposed(dus, ds, pairs, kk, betas, n8, W8)
    for (let r = 0; r < n; r++) store<f32>(dbeta + <usize>r * stride1, dotRows(at(dus, n8, r, 0), n8, at(es, n8, r, 0), n8))
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

  storeBlock(dq, strideK, dqs, n8, n, K)
  storeBlock(dk, strideK, dks, n8, n, K)
  if (beta) for (let r = 0; r < n; r++) scaleRow(ds, pairs, r, -1)
  storeBlock(dv, strideV, beta ? ds : dus, beta ? pairs : n8, n, V)
  top = frame
}

// ---- kernels: a task is a head, cut into spans of C tokens ----------------------------------------------------------------------

export function fastWeights(begin: i32, end: i32, chunked: i32, q: usize, k: usize, v: usize, beta: usize, s0: usize, z0: usize,
  y: usize, sT: usize, zT: usize, den: usize, states: usize, zs: usize, T: i32, H: i32, keyWidth: i32, valueWidth: i32, C: i32,
  readScale: f32, epsilon: f32): void {
  setSizes(H, keyWidth, valueWidth, zT != 0, readScale)
  eps = epsilon
  top = scratch
  const S = take(K8 * W8)
  const spans = (T - 1) / C + 1
  for (let head = begin; head < end; head++) {
    loadState(S, rowOf(s0, head, K * V), rowOf(z0, head, K))
    for (let c = 0; c < spans; c++) {
      const t = c * C, n = min(C, T - t), row = (head / H * T + t) * H + head % H, span = head * spans + c
      storeState(rowOf(states, span, K * V), rowOf(zs, span, K), S)
      const qc = rowOf(q, row, K), kc = rowOf(k, row, K), vc = rowOf(v, row, V), yc = rowOf(y, row, V)
      const bc = rowOf(beta, row, 1), dc = rowOf(den, row, 1)
      if (chunked) chunk(S, qc, kc, vc, bc, yc, dc, n)
      else recurrent(S, qc, kc, vc, bc, yc, dc, n)
    }
    storeState(rowOf(sT, head, K * V), rowOf(zT, head, K), S)
  }
}

export function fastWeightsBackward(begin: i32, end: i32, chunked: i32, q: usize, k: usize, v: usize, beta: usize, y: usize, den: usize,
  states: usize, zs: usize, dy: usize, dsT: usize, dzT: usize, dq: usize, dk: usize, dv: usize, dbeta: usize, ds0: usize, dz0: usize,
  T: i32, H: i32, keyWidth: i32, valueWidth: i32, C: i32, readScale: f32): void {
  setSizes(H, keyWidth, valueWidth, den != 0, readScale)
  top = scratch
  const dS = take(K8 * W8), S = take(K8 * W8)
  const spans = (T - 1) / C + 1
  for (let head = begin; head < end; head++) {
    loadState(dS, rowOf(dsT, head, K * V), rowOf(dzT, head, K))
    for (let c = spans - 1; c >= 0; c--) {
      const t = c * C, n = min(C, T - t), row = (head / H * T + t) * H + head % H, span = head * spans + c
      loadState(S, rowOf(states, span, K * V), rowOf(zs, span, K))
      const qc = rowOf(q, row, K), kc = rowOf(k, row, K), vc = rowOf(v, row, V), bc = rowOf(beta, row, 1)
      const yc = rowOf(y, row, V), dc = rowOf(den, row, 1), dyc = rowOf(dy, row, V)
      const dqc = rowOf(dq, row, K), dkc = rowOf(dk, row, K), dvc = rowOf(dv, row, V), dbc = rowOf(dbeta, row, 1)
      if (chunked) chunkBackward(S, dS, qc, kc, vc, bc, yc, dc, dyc, dqc, dkc, dvc, dbc, n)
      else recurrentBackward(S, dS, qc, kc, vc, bc, yc, dc, dyc, dqc, dkc, dvc, dbc, n)
    }
    storeState(rowOf(ds0, head, K * V), rowOf(dz0, head, K), dS)
  }
}
