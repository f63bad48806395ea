/** Fast weights, chunk form, backward. Names as in fast-weights-chunk.ts. */
import { decayKeys, decayKeysBackward, decayPairsBackward, decayRows, decayRowsBackward, decayedPairsBackward } from './decays'
import { foundValues, inner, pseudoValues, reads, remaindersOf } from './fast-weights-chunk'
import { addLowerTurned, addTurned, loadKeys, lowerOf, lowerProduct, pairsRounded, product, productLower } from './fast-weights-products'
import {
  K, K8, V, W, W8, addProduct, along, beta, corrects, dalong, dbeta, derase, dk, dotRows, dq, dv, erase, gateWidth, gated, k, loadBetas, loadCotangents,
  loadDecays, loadValues, multiply, q, release, scaleRow, scaleTo, storeGates, storeKeys, storeReads, storeRows, take, tokenAt,
  top, transposed,
} from './fast-weights-rows'
import { sum4 } from './lanes'
import { madd, splat } from './math'
import { restore } from './remainders'
import { ADD, SET, at, roundUp8, rowsFrom, solveLowerTransposed, symmetric, transpose } from './strips'

/**
 * Of the sum and the delta rule without a gate. With P = tril(Q K^T), from S before the chunk and dS after it:
 *
 *     dU = P^T G + K dS;  dP = tril(G U^T);  dQ = G S^T + dP K;  dK = U dS^T + dP^T Q;  dS += Q^T G;  sum rule: dV = dU
 *     delta rule: X = dU - tril(K K^T, -1)^T diag(beta) X, D = -diag(beta) X, R = tril(D U^T, -1):
 *     dV = -D;  dbeta_i = x_i . e_i;  dK += D S^T + (R + R^T) K;  dS += K^T D
 *
 * The two products of dS are taken in one go, on operands stacked: [Q; K]^T [G; D].
 */
export function chunkBackward(S: usize, dS: usize, n: i32): void {
  const frame = top
  const n8 = roundUp8(n), pairs = 2 * n8
  const ksT = take(n8 * K8), dqs = take(n8 * K8), dks = take(n8 * K8), qk = take(pairs * K8), gd = take(pairs * W8)
  const us = take(n8 * W8), es = take(n8 * W8), dus = take(n8 * W8), usT = take(n8 * W8), before = take(K8 * W8), after = take(K8 * W8)
  const p = take(n8 * n8), m = take(n8 * n8), both = take(n8 * n8), betas = take(n8)
  let rest: usize = 0
  const qs = qk, ks = rowsFrom(qk, n8), gs = gd, ds = rowsFrom(gd, n8)

  loadKeys(qs, pairs, q, 0, n, n8)
  loadKeys(ks, pairs, k, 0, n, n8)
  transpose(ksT, K8, ks, pairs, n8, K8)
  loadCotangents(gs, pairs, dus, 0, n, n8)
  if (beta) {
    loadBetas(betas, n, n8)
    loadValues(es, n8, 0, n, n8)
    lowerOf(m, ks, pairs, ksT, K8, n8, K, pairsRounded())
    rest = remaindersOf(m, true, ks, ks, pairs, 0, 0, betas, n, n8)
    pseudoValues(S, ks, pairs, betas, es, us, m, rest, n8)
  } else loadValues(us, n8, 0, n, n8)
  transpose(usT, W8, us, n8, n8, W8)
  transpose(before, W8, S, K8, K8, W8)
  transpose(after, W8, dS, K8, K8, W8)

  product(dus, n8, SET, ks, pairs, dS, K8, n8, W8, K)
  lowerOf(p, qs, pairs, ksT, K8, n8, K, pairsRounded())
  if (transposed) storeReadsOf(qs, pairs, S, p, us, n, n8)
  addLowerTurned(dus, n8, p, n8, gs, pairs, n8, W8)
  product(dks, n8, SET, us, n8, after, W8, n8, K8, W)
  if (beta) {
    backSubstitute(dus, ds, pairs, m, rest, betas, es, n, n8)
    lowerOf(p, ds, pairs, usT, W8, n8, W)
    symmetric(both, n8, p, n8)
    product(dks, n8, ADD, ds, pairs, before, W8, n8, K8, W)
    product(dks, n8, ADD, both, n8, ks, pairs, n8, K8, n8, pairsRounded())
  }
  lowerOf(p, gs, pairs, usT, W8, n8, W)
  if (dq) productLower(dqs, n8, SET, gs, pairs, before, W8, W, p, n8, ks, pairs, n8, K8, pairsRounded())
  addLowerTurned(dks, n8, p, n8, qs, pairs, n8, K8, pairsRounded())
  addTurned(dS, K8, qk, pairs, gd, pairs, K8, W8, beta ? pairs : n)

  if (dq) storeKeys(dq, 0, dqs, n8, n)
  storeKeys(dk, 0, dks, n8, n)
  storeValues(dus, ds, pairs, n, n8)
  release(frame)
}

/** The gradient of a transposed read's queries: Q S + P U, Q in a block with R rows. */
function storeReadsOf(qs: usize, R: i32, S: usize, p: usize, us: usize, n: i32, n8: i32): void {
  const frame = top
  const os = take(n8 * W8)
  reads(os, qs, R, S, p, us, n8)
  storeReads(0, os, n8, n)
  release(frame)
}

/** From dU, in place: X = dU - M^T diag(beta) X, D = -diag(beta) X in a block with R rows, dbeta_i = x_i . e_i. betas is negated. */
function backSubstitute(dus: usize, ds: usize, R: i32, m: usize, rest: usize, betas: usize, es: usize, n: i32, n8: i32): void {
  scaleTo(betas, betas, -1, n8)
  solveLowerTransposed(dus, ds, R, m, rest, betas, n8, W8)
  if (rest) restore(m, rest, n8)
  if (!beta) return
  for (let r = 0; r < n; r++) store<f32>(tokenAt(dbeta, r, 1), dotRows(at(dus, n8, r, 0), n8, at(es, n8, r, 0), n8))
}

/** dV = -D (in place, in a block with R rows), or dU for the sum rule. */
function storeValues(dus: usize, ds: usize, R: i32, n: i32, n8: i32): void {
  if (corrects) for (let r = 0; r < n; r++) scaleRow(ds, R, r, -1)
  storeRows(dv, V, 0, corrects ? ds : dus, corrects ? R : n8, n)
}

/** dlast = Gamma_n rowsum(dS * S), the cotangent of log Gamma_n. */
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
}

/**
 * From dP, dM (0: none) and the cotangents dks of D_nj k_j, for one kind of keys, to q, a, k and log w: added to dqs, das, dws; dks is set.
 */
function keysBackward(dp: usize, dm: usize, p: usize, m: usize, decays: usize, qs: usize, as: usize, ks: usize, ws: usize, dqs: usize,
  das: usize, dks: usize, dws: usize, sums: usize, n: i32, n8: i32): void {
  if (gated && gateWidth == K) {
    decayedPairsBackward(dp, dm, qs, as, ks, ws, dqs, das, dks, dws, sums, n, n8, K8)
    return
  }
  if (gated) {
    decayKeysBackward(dks, dws, ks, ws, n, n8, K8)
    decayPairsBackward(dp, dm, p, m, decays, dws, sums, n, n8)
  }
  lowerProduct(dqs, n8, ADD, dp, n8, ks, n8, n8, K8, pairsRounded())
  addLowerTurned(dks, n8, dp, n8, qs, n8, n8, K8, pairsRounded())
  if (!dm) return
  for (let r = 0; r < n8; r++) store<f32>(at(dm, n8, r, r), 0)
  lowerProduct(das, n8, ADD, dm, n8, ks, n8, n8, K8, pairsRounded())
  addLowerTurned(dks, n8, dm, n8, as, n8, n8, K8, pairsRounded())
}

/**
 * Of any rule with a gate or with erase. Q~, A~ and K~ are the rows Gamma_i q_i, Gamma_{i-1} a_i and D_nj k_j:
 *
 *     dU = P^T G + K~ dS;  dP = tril(G U^T);  dQ~ = G S^T;  dK~ = U dS^T;  sum rule: dV = dU
 *     a rule that corrects: X = dU - M^T diag(beta) X, D = -diag(beta) X:  dV = -D;  dbeta_i = x_i . e_i;  dA~ = D S^T;  dM = tril(D U^T, -1)
 *     dS = diag(Gamma_n) dS + [Q~; A~]^T [G; D]
 *
 * With along, P, M and K~ are those of these keys, and of the keys proper, with M's product with V as what is solved for:
 *
 *     dV = P'^T G + K'~ dS + M'^T D;  dP' = tril(G V^T);  dK'~ = V dS^T;  dM' = tril(D V^T, -1)
 *
 * and from dP, dM, dQ~, dA~, dK~ to q, a, k and log w as in decays.ts. beta: dK += W * dA, d log W += A * dA.
 * False, and nothing done, if a decay is 0.
 */
export function decayedChunkBackward(S: usize, dS: usize, n: i32): bool {
  const frame = top
  const n8 = roundUp8(n), pairs = 2 * n8
  const keys = n8 * K8, values = n8 * W8, square = n8 * n8
  const qs = take(keys), ks = take(keys), as = take(keys), ws = take(keys), ksT = take(keys)
  const dqs = take(keys), dks = take(keys), das = take(keys), dws = take(keys), gammas = take(keys), decayedKs = gated ? take(keys) : ks
  const us = take(values), es = take(values), dus = take(values), usT = take(values)
  const p = take(square), m = take(square), dp = take(square), dm = take(square), decays = take(square)
  const qa = take(pairs * K8), gd = take(pairs * W8), before = take(K8 * W8), after = take(K8 * W8)
  const betas = take(n8), last = take(K8), dlast = take(K8), sums = take(16 * n8)
  const decayedAs = rowsFrom(qa, n8), gs = gd, ds = rowsFrom(gd, n8)
  const bs = along ? take(keys) : ks, bsT = along ? take(keys) : ksT, dbs = along ? take(keys) : 0
  const decayedBs = !along ? decayedKs : gated ? take(keys) : bs
  const vs = along ? take(values) : us, vsT = along ? take(values) : usT, dvs = along ? take(values) : dus
  const pb = along ? take(square) : p, mb = along ? take(square) : m
  const dpb = along ? take(square) : dp, dmb = along ? take(square) : dm
  let rest: usize = 0
  // 0 where there is no such thing.
  const asGiven = corrects ? as : 0, mGiven = corrects ? m : 0, dmGiven = corrects ? dm : 0

  if (gated && loadDecays(ws, 0, n, n8, K8)) {
    release(frame)
    return false
  }
  loadKeys(qs, n8, q, 0, n, n8)
  loadKeys(ks, n8, k, 0, n, n8)
  transpose(ksT, K8, ks, n8, n8, K8)
  if (erase) loadKeys(as, n8, erase, 0, n, n8)
  else if (beta) multiply(as, ws, ks, keys)
  inner(p, mGiven, false, decays, qs, as, ksT, ws, n8)
  if (along) {
    loadKeys(bs, n8, along, 0, n, n8)
    transpose(bsT, K8, bs, n8, n8, K8)
    inner(pb, mb, false, decays, qs, as, bsT, ws, n8)
  }
  if (corrects) {
    loadBetas(betas, n, n8)
    rest = remaindersOf(mb, !gated, as, bs, n8, gated ? ws : 0, n8, betas, n, n8)
  }
  if (gated) {
    decayRows(qa, decayedAs, pairs, gammas, last, qs, asGiven, ws, n8, K8)
    decayKeys(decayedKs, ks, ws, n8, n8, K8)
    if (along) decayKeys(decayedBs, bs, ws, n8, n8, K8)
  } else {
    loadKeys(qa, pairs, q, 0, n, n8)
    loadKeys(decayedAs, pairs, erase, 0, n, n8)
  }
  loadCotangents(gs, pairs, dus, 0, n, n8)
  if (along) {
    loadValues(vs, n8, 0, n, n8)
    transpose(vsT, W8, vs, n8, n8, W8)
    foundValues(es, m, vs, n8)
    pseudoValues(S, decayedAs, pairs, betas, es, us, mb, rest, n8)
  } else if (corrects) {
    loadValues(es, n8, 0, n, n8)
    pseudoValues(S, decayedAs, pairs, betas, es, us, m, rest, n8)
  } else loadValues(us, n8, 0, n, n8)
  if (transposed) storeReadsOf(qa, pairs, S, p, us, n, n8)
  transpose(usT, W8, us, n8, n8, W8)
  transpose(before, W8, S, K8, K8, W8)
  transpose(after, W8, dS, K8, K8, W8)

  product(dus, n8, SET, decayedBs, n8, dS, K8, n8, W8, K)
  addLowerTurned(dus, n8, pb, n8, gs, pairs, n8, W8)
  if (corrects) {
    backSubstitute(dus, ds, pairs, mb, rest, betas, es, n, n8)
    lowerOf(dmb, ds, pairs, usT, W8, n8, W)
    product(das, n8, SET, ds, pairs, before, W8, n8, K8, W)
  }
  if (along) {
    product(dvs, n8, SET, decayedKs, n8, dS, K8, n8, W8, K)
    addLowerTurned(dvs, n8, p, n8, gs, pairs, n8, W8)
    addLowerTurned(dvs, n8, m, n8, ds, pairs, n8, W8)
    lowerOf(dpb, gs, pairs, usT, W8, n8, W)
    lowerOf(dm, ds, pairs, vsT, W8, n8, W)
    product(dbs, n8, SET, us, n8, after, W8, n8, K8, W)
  }
  lowerOf(dp, gs, pairs, vsT, W8, n8, W)
  product(dqs, n8, SET, gs, pairs, before, W8, n8, K8, W)
  product(dks, n8, SET, vs, n8, after, W8, n8, K8, W)
  if (gated) lastBackward(S, dS, last, dlast)
  addTurned(dS, K8, qa, pairs, gd, pairs, K8, W8, corrects ? pairs : n, gated ? last : 0)

  if (gated) decayRowsBackward(dqs, das, dws, gammas, dlast, qs, asGiven, n, n8, K8)
  keysBackward(dp, dmGiven, p, m, decays, qs, as, ks, ws, dqs, das, dks, dws, sums, n, n8)
  if (along) keysBackward(dpb, dmb, pb, mb, decays, qs, as, bs, ws, dqs, das, dbs, dws, sums, n, n8)
  if (gated && beta) {
    addProduct(dks, ws, das, keys)
    addProduct(dws, as, das, keys)
  }
  if (dq) storeKeys(dq, 0, dqs, n8, n)
  storeKeys(dk, 0, dks, n8, n)
  if (erase) storeKeys(derase, 0, das, n8, n)
  if (gated) storeGates(0, dws, n8, n)
  if (along) {
    storeKeys(dalong, 0, dbs, n8, n)
    storeRows(dv, V, 0, dvs, n8, n)
  } else storeValues(dus, ds, pairs, n, n8)
  release(frame)
  return true
}
