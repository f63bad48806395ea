/**
 * Fast weights, recurrent form: token by token, in passes over S, four rows of a strip (32 floats in a row) at a time.
 * What is computed: fast-weights.ts.
 */
import {
  K, K8, V, W8, addProduct, along, beta, corrects, dalong, dbeta, derase, dk, dotRows, dq, dv, erase, gated, k, loadCotangents, loadDecays, loadKeys,
  loadTransposedQueries, loadValues, multiply, normalised, q, release, scaleTo, storeGates, storeKeys, storeReads, storeRows, storeTransposedReads,
  scale, take, tokenAt, top, transposed, v, y,
} from './fast-weights-rows'
import { sum4 } from './lanes'
import { madd, splat } from './math'
import { at } from './strips'

/** e = v - S^T k, S [K,W] with rows `row` bytes apart and strips of eight columns `strip` bytes. */
@inline function recallFrom(S: usize, row: usize, strip: usize, k: usize, v: usize, e: usize, K: i32, W: i32): void {
  const end = k + (<usize>K << 2)
  for (let o: usize = 0; o < <usize>W << 2; o += 32, S += strip) {
    let s = S
    let r0 = splat(0), r1 = splat(0), r2 = splat(0), r3 = splat(0)
    for (let a = k; a < end; a += 16, s += 4 * row) {
      let x = v128.load32_splat(a)
      r0 = madd(x, v128.load(s), r0)
      r1 = madd(x, v128.load(s, 16), r1)
      x = v128.load32_splat(a, 4)
      r2 = madd(x, v128.load(s + row), r2)
      r3 = madd(x, v128.load(s + row, 16), r3)
      x = v128.load32_splat(a, 8)
      r0 = madd(x, v128.load(s + 2 * row), r0)
      r1 = madd(x, v128.load(s + 2 * row, 16), r1)
      x = v128.load32_splat(a, 12)
      r2 = madd(x, v128.load(s + 3 * row), r2)
      r3 = madd(x, v128.load(s + 3 * row, 16), r3)
    }
    const low = f32x4.sub(v128.load(v + o), f32x4.add(r0, r2)), high = f32x4.sub(v128.load(v + o, 16), f32x4.add(r1, r3))
    v128.store(e + o, high, 16)
    v128.store(e + o, low)
  }
}

/** e = v - S^T k. */
function recall(S: usize, k: usize, v: usize, e: usize, K8: i32, W8: i32): void {
  recallFrom(S, 32, <usize>K8 << 5, k, v, e, K8, W8)
}

/** Four floats of a row of a state: to = from + k u, which is also the result. */
@inline function update(to: usize, from: usize, k: v128, u: v128): v128 {
  const x = madd(k, u, v128.load(from))
  v128.store(to, x)
  return x
}

/** Four floats of a row of a state: w from + k u, w at an address; `decays` false: no w. */
@inline function updated(decays: bool, from: usize, w: usize, k: v128, u: v128): v128 {
  const x = v128.load(from)
  return madd(k, u, decays ? f32x4.mul(v128.load32_splat(w), x) : x)
}

/** The same, which `to` becomes. */
@inline function updateDecayed(decays: bool, to: usize, from: usize, w: usize, k: v128, u: v128): v128 {
  const x = updated(decays, from, w, k, u)
  v128.store(to, x)
  return x
}

/** S as of `recallFrom`. Both halves of a row are computed before either is stored, so that V8 merges them. */
@inline function writeWith(decays: bool, from: usize, to: usize, row: usize, strip: usize, w: usize, k: usize, u: usize, q: usize, o: usize, K: i32,
  W: i32): void {
  for (let j: usize = 0; j < <usize>W << 2; j += 32, from += strip, to += strip) {
    let s = from, t = to
    const u0 = v128.load(u + j), u1 = v128.load(u + j, 16)
    let r0 = splat(0), r1 = splat(0), r2 = splat(0), r3 = splat(0)
    for (let i: usize = 0; i < <usize>K << 2; i += 16) {
      const f = w + i
      let x = v128.load32_splat(k + i), y = v128.load32_splat(q + i)
      let low = updated(decays, s, f, x, u0), high = updated(decays, s + 16, f, x, u1)
      v128.store(t, high, 16)
      v128.store(t, low)
      r0 = madd(y, low, r0)
      r1 = madd(y, high, r1)
      s += row
      t += row
      x = v128.load32_splat(k + i, 4)
      y = v128.load32_splat(q + i, 4)
      low = updated(decays, s, f + 4, x, u0)
      high = updated(decays, s + 16, f + 4, x, u1)
      v128.store(t, high, 16)
      v128.store(t, low)
      r2 = madd(y, low, r2)
      r3 = madd(y, high, r3)
      s += row
      t += row
      x = v128.load32_splat(k + i, 8)
      y = v128.load32_splat(q + i, 8)
      low = updated(decays, s, f + 8, x, u0)
      high = updated(decays, s + 16, f + 8, x, u1)
      v128.store(t, high, 16)
      v128.store(t, low)
      r0 = madd(y, low, r0)
      r1 = madd(y, high, r1)
      s += row
      t += row
      x = v128.load32_splat(k + i, 12)
      y = v128.load32_splat(q + i, 12)
      low = updated(decays, s, f + 12, x, u0)
      high = updated(decays, s + 16, f + 12, x, u1)
      v128.store(t, high, 16)
      v128.store(t, low)
      r2 = madd(y, low, r2)
      r3 = madd(y, high, r3)
      s += row
      t += row
    }
    v128.store(o + j, f32x4.add(r1, r3), 16)
    v128.store(o + j, f32x4.add(r0, r2))
  }
}

/** to = from + k u^T (may be the same state), o = to^T q. */
function write(from: usize, to: usize, k: usize, u: usize, q: usize, o: usize, K8: i32, W8: i32): void {
  writeWith(false, from, to, 32, <usize>K8 << 5, k, k, u, q, o, K8, W8)
}

/** to = diag(w) from + k u^T (may be the same state), o = to^T q. */
function writeDecayed(from: usize, to: usize, w: usize, k: usize, u: usize, q: usize, o: usize, K8: i32, W8: i32): void {
  writeWith(true, from, to, 32, <usize>K8 << 5, w, k, u, q, o, K8, W8)
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

/** to = diag(w) from + k u^T (may be the same state), d [K8] = to g. */
function writeDecayedBackward(from: usize, to: usize, w: usize, k: usize, u: usize, g: usize, d: usize, K8: i32, W8: i32): void {
  writeBackwardWith(true, from, to, w, k, u, g, d, K8, W8)
}

@inline function writtenBackwardWith(reads: bool, dS: usize, q: usize, g: usize, k: usize, u: usize, dk: usize, du: usize, K8: i32,
  W8: i32): void {
  memory.fill(du, 0, <usize>W8 << 2)
  for (let i = 0; i < K8; i += 4) {
    const a = q + (<usize>i << 2), b = k + (<usize>i << 2)
    const q0 = v128.load32_splat(a), q1 = v128.load32_splat(a, 4), q2 = v128.load32_splat(a, 8), q3 = v128.load32_splat(a, 12)
    let r0 = splat(0), r1 = splat(0), r2 = splat(0), r3 = splat(0)
    for (let j = 0; j < W8; j += 4) {
      const s = at(dS, K8, i, j), o = <usize>j << 2
      const gj = v128.load(g + o), uj = v128.load(u + o)
      const x0 = reads ? update(s, s, q0, gj) : v128.load(s), x1 = reads ? update(s + 32, s + 32, q1, gj) : v128.load(s, 32)
      const x2 = reads ? update(s + 64, s + 64, q2, gj) : v128.load(s, 64), x3 = reads ? update(s + 96, s + 96, q3, gj) : v128.load(s, 96)
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

/** dS += q g^T; dk = dS u; du = dS^T k. */
function readBackward(dS: usize, q: usize, g: usize, k: usize, u: usize, dk: usize, du: usize, K8: i32, W8: i32): void {
  writtenBackwardWith(true, dS, q, g, k, u, dk, du, K8, W8)
}

/** dk = dS u; du = dS^T k. */
function writtenBackward(dS: usize, k: usize, u: usize, dk: usize, du: usize, K8: i32, W8: i32): void {
  writtenBackwardWith(false, dS, k, u, k, u, dk, du, K8, W8)
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

function anyForgotten(w: usize): bool {
  let least = splat(1)
  for (let i: usize = 0; i < <usize>(K8 << 2); i += 16) least = f32x4.pmin(least, v128.load(w + i))
  return v128.any_true(f32x4.eq(least, splat(0)))
}

/** x = 0 where the decay is 0, over K8 channels. */
function clearForgotten(x: usize, w: usize): void {
  for (let i: usize = 0; i < <usize>(K8 << 2); i += 16) v128.store(x + i, v128.and(v128.load(x + i), f32x4.ne(v128.load(w + i), splat(0))))
}

/**
 * The rows of S whose decay is 0 become 0; with a, only those that it reads nothing of. So do those beyond K: 0 times what isn't finite may have
 * got there.
 */
function forget(S: usize, w: usize, a: usize): void {
  for (let i = 0; i < K8; i++) {
    const o = <usize>i << 2
    if (i < K && (load<f32>(w + o) != 0 || (a && load<f32>(a + o) != 0))) continue
    for (let j = 0; j < W8; j += 4) v128.store(at(S, K8, i, j), splat(0))
  }
}

/** A value of 0. */
function noValue(): usize {
  const x = take(W8)
  memory.fill(x, 0, <usize>W8 << 2)
  return x
}

function recallInPlace(S: usize, a: usize, v: usize, e: usize): void {
  recallFrom(S, <usize>V << 2, 32, a, v, e, K, V)
}

function writeInPlace(from: usize, to: usize, k: usize, u: usize, q: usize, o: usize): void {
  writeWith(false, from, to, <usize>V << 2, 32, k, k, u, q, o, K, V)
}

function writeDecayedInPlace(from: usize, to: usize, w: usize, k: usize, u: usize, q: usize, o: usize): void {
  writeWith(true, from, to, <usize>V << 2, 32, w, k, u, q, o, K, V)
}

/**
 * The first token of a stretch, from the state `from` [K,V] to `to` where they lie in memory, not in blocks: of a token alone, as texts are written, moving
 * them takes longer than all else. The same bits as `recurrent`. False, and nothing done, where that has to do it: sizes that aren't multiples of 4 and 8,
 * more in a state than S, and a decay of 0.
 */
export function tokenInPlace(from: usize, to: usize): bool {
  if (!from || !to || K & 3 || V & 7 || normalised || transposed || along) return false
  const frame = top
  // A row of a token alone is a vector as it lies in memory.
  const qt = tokenAt(q, 0, K), kt = tokenAt(k, 0, K), vt = tokenAt(v, 0, V), ut = take(V), ot = take(V), wt = gated ? take(K8) : 0
  let at = kt
  if (gated && loadDecays(wt, 0, 1, 1, K8)) {
    release(frame)
    return false
  }
  if (erase) at = tokenAt(erase, 0, K)
  else if (corrects && gated) {
    at = take(K8)
    multiply(at, wt, kt, K)
  }
  if (corrects) recallInPlace(from, at, vt, ut)
  if (beta) scaleTo(ut, ut, load<f32>(tokenAt(beta, 0, 1)), V)
  const written = corrects ? ut : vt
  if (gated) writeDecayedInPlace(from, to, wt, kt, written, qt, ot)
  else writeInPlace(from, to, kt, written, qt, ot)
  scaleTo(tokenAt(y, 0, V), ot, scale, V)
  release(frame)
  return true
}

/** The tokens [begin, n) of a stretch, one by one: S is brought forward, y and den written. */
export function recurrent(S: usize, begin: i32, n: i32): void {
  const frame = top
  const qt = take(max(K8, W8)), kt = take(K8), ut = take(W8), ot = take(max(K8, W8))
  const wt = gated ? take(K8) : 0, at = corrects && (gated || erase) ? take(K8) : kt
  const bt = along ? take(K8) : 0, et = along ? take(W8) : ut, zero = along ? noValue() : ut
  for (let t = begin; t < n; t++) {
    if (transposed) loadTransposedQueries(qt, 1, t, 1, 1)
    else loadKeys(qt, 1, q, t, 1, 1)
    loadKeys(kt, 1, k, t, 1, 1)
    loadValues(ut, 1, t, 1, 1)
    const forgets = gated && loadDecays(wt, t, 1, 1, K8)
    if (erase) loadKeys(at, 1, erase, t, 1, 1)
    else if (at != kt) multiply(at, wt, kt, K8)
    if (forgets) {
      if (beta) clearForgotten(at, wt)
      forget(S, wt, corrects ? at : 0)
    }
    if (corrects) recall(S, at, zero, et, K8, W8)
    if (forgets && erase) forget(S, wt, 0)
    if (beta) scaleTo(ut, ut, load<f32>(tokenAt(beta, t, 1)), W8)
    if (along) {
      loadKeys(bt, 1, along, t, 1, 1)
      if (gated) writeDecayed(S, S, wt, bt, et, qt, ot, K8, W8)
      else write(S, S, bt, et, qt, ot, K8, W8)
      write(S, S, kt, ut, qt, ot, K8, W8)
      storeReads(t, ot, 1, 1)
      continue
    }
    if (transposed) {
      if (gated) writeDecayedBackward(S, S, wt, kt, ut, qt, ot, K8, W8)
      else writeBackward(S, S, kt, ut, qt, ot, K8, W8)
      storeTransposedReads(t, ot, 1, 1)
      continue
    }
    if (gated) writeDecayed(S, S, wt, kt, ut, qt, ot, K8, W8)
    else write(S, S, kt, ut, qt, ot, K8, W8)
    storeReads(t, ot, 1, 1)
  }
  release(frame)
}

/**
 * From S at the first of the n tokens of a stretch and the cotangent dS of the state after the last: dS of the first, and the tokens'
 * gradients. The state before every token is kept (recomputed, not reversed: exact, and good for rules that forget); the sum rule without a
 * gate needs none.
 *
 *     dq = S g;  dS += q g^T;  dk = dS u;  du = dS^T k;  sum rule: dv = du
 *     beta: dv = beta du, dbeta = du . e;  erase: dv = du;  both: da = -S_{t-1} dv
 *     along: dv = dS^T k, dk = dS v; d along = dS e, and dS^T along is in the place of dv
 *     d log w = w rowsum(dS * S_{t-1});  dS = diag(w) dS - a dv^T;  beta: dk += w da, d log w += a da
 */
export function recurrentBackward(S: usize, dS: usize, n: i32): void {
  const frame = top
  const own = corrects && (gated || erase != 0), keeps = corrects || gated
  const qs = take(n * K8), ks = take(n * K8), ws = gated ? take(n * K8) : 0, as = own ? take(n * K8) : ks
  const us = take(n * W8), es = beta || along ? take(n * W8) : us, gs = take(n * W8)
  const d = take(max(K8, W8)), du = take(W8), da = own ? take(K8) : d, dw = gated ? take(K8) : 0
  const rowK = <usize>K8 << 2, rowW = <usize>W8 << 2
  const bs = along ? take(n * K8) : 0, zero = along ? noValue() : 0
  const after = keeps ? take(n * K8 * W8) : S
  const step = keeps ? <usize>(K8 * W8) << 2 : 0
  let before = S
  for (let t = 0; t < n; t++) {
    const i = <usize>t
    const kt = ks + i * rowK, ut = us + i * rowW, gt = gs + i * rowW, et = es + i * rowW, at = as + i * rowK
    const wt = gated ? ws + i * rowK : 0, next = after + i * step
    loadKeys(qs + i * rowK, 1, q, t, 1, 1)
    loadKeys(kt, 1, k, t, 1, 1)
    loadValues(ut, 1, t, 1, 1)
    loadCotangents(gt, 1, d, t, 1, 1)
    const forgets = gated && loadDecays(wt, t, 1, 1, K8)
    if (erase) loadKeys(at, 1, erase, t, 1, 1)
    else if (own) multiply(at, wt, kt, K8)
    if (forgets) {
      // What is forgotten has to stay where it is: da needs it.
      memory.copy(next, before, step)
      before = next
      if (beta) clearForgotten(at, wt)
      forget(before, wt, corrects ? at : 0)
    }
    if (corrects) recall(before, at, along ? zero : ut, et, K8, W8)
    if (forgets && erase) forget(before, wt, 0)
    if (beta) scaleTo(ut, et, load<f32>(tokenAt(beta, t, 1)), W8)
    const bt = along ? bs + i * rowK : kt, written = along ? et : ut
    if (along) loadKeys(bt, 1, along, t, 1, 1)
    if (transposed) {
      const qt = qs + i * rowK
      if (gated) writeDecayed(before, next, wt, kt, ut, qt, du, K8, W8)
      else write(before, next, kt, ut, qt, du, K8, W8)
      storeReads(t, du, 1, 1)
    } else {
      if (gated) writeDecayedBackward(before, next, wt, bt, written, gt, d, K8, W8)
      else writeBackward(before, next, bt, written, gt, d, K8, W8)
      if (along) writeBackward(next, next, kt, ut, gt, d, K8, W8)
      storeKeys(dq, t, d, 1, 1)
    }
    before = next
  }
  for (let t = n - 1; t >= 0; t--) {
    const i = <usize>t
    const kt = ks + i * rowK, at = corrects ? as + i * rowK : 0
    const previous = t ? after + (i - 1) * step : S
    readBackward(dS, qs + i * rowK, gs + i * rowW, kt, us + i * rowW, d, du, K8, W8)
    if (along) {
      storeKeys(dk, t, d, 1, 1)
      storeRows(dv, V, t, du, 1, 1)
      writtenBackward(dS, bs + i * rowK, es + i * rowW, d, du, K8, W8)
    }
    if (beta) {
      store<f32>(tokenAt(dbeta, t, 1), dotRows(du, 1, es + i * rowW, 1))
      scaleTo(du, du, -load<f32>(tokenAt(beta, t, 1)), W8)
    } else if (erase) scaleTo(du, du, -1, W8)
    if (gated) {
      const wt = ws + i * rowK, forgets = anyForgotten(wt)
      if (forgets) forget(dS, wt, 0)
      decayBackward(dS, previous, wt, at, du, dw, da, K8, W8)
      if (forgets) {
        forget(dS, wt, at)
        clearForgotten(dw, wt)
        if (beta) clearForgotten(da, wt)
      }
      if (beta) {
        addProduct(d, wt, da, K8)
        addProduct(dw, at, da, K8)
      }
      storeGates(t, dw, 1, 1)
    } else if (corrects) {
      if (own) memory.fill(da, 0, rowK)
      eraseBackward(dS, previous, at, du, da, K8, W8)
    }
    if (corrects) scaleTo(du, du, -1, W8)
    if (erase) storeKeys(derase, t, da, 1, 1)
    if (along) {
      storeKeys(dalong, t, d, 1, 1)
      continue
    }
    storeKeys(dk, t, d, 1, 1)
    storeRows(dv, V, t, du, 1, 1)
  }
  release(frame)
}
