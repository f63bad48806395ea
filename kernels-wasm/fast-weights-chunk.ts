/**
 * Fast weights, chunk form: products of small blocks. Plural names are blocks of n8 tokens, *T are transposes.
 * What is computed: fast-weights.ts.
 */
import { decayKeys, decayPairs, decayRows, decayRowsAlike, decayedPairs, decayedReads } from './decays'
import { addTurned, loadKeys, lowerOf, lowerProduct, pairsRounded, product, productLower, solveLower } from './fast-weights-products'
import {
  K, K8, W, W8, along, corrects, erase, gateWidth, gated, k, loadBetas, loadDecays, loadTransposedQueries, loadValues, multiply, q,
  release, scaleTo, storeReads, storeTransposedReads, take, top, transposed,
} from './fast-weights-rows'
import { remainders } from './remainders'
import { ADD, SET, at, roundUp8, transpose } from './strips'

/**
 * The values written by a rule that corrects, (I + diag(beta) M) U = diag(beta) (V - A S), M strictly lower, by forward substitution on
 * the errors E: e_i = v_i - S^T a_i - sum_{j<i} M_ij u_j, u_i = beta_i e_i. es holds V on entry. A [n8, K8], of a block with Ra rows, and S as of the chunk's first
 * token.
 */
export function pseudoValues(S: usize, as: usize, Ra: i32, betas: usize, es: usize, us: usize, m: usize, rest: usize, n8: i32): void {
  solveLower(es, us, as, Ra, S, K8, K, m, rest, betas, n8, W8)
}

/** E = -tril(M, -1) V: what is found of the values that a rule with along has written along keys. M's diagonal becomes 0. */
export function foundValues(es: usize, m: usize, vs: usize, n8: i32): void {
  for (let r = 0; r < n8; r++) store<f32>(at(m, n8, r, r), 0)
  lowerProduct(es, n8, SET, m, n8, vs, n8, n8, W8)
  scaleTo(es, es, -1, n8 * W8)
}

/**
 * P = tril(Q K^T) and, for a rule that corrects, M = tril(A K^T, -1) (0: not wanted), with the decays in between in each product. K is given transposed, and used up
 * when each channel has its decay. ds [n8, n8]: the decays when all have one; then `after` says that A is what
 * reads the memory after its decay.
 */
export function inner(p: usize, m: usize, after: bool, ds: usize, qs: usize, as: usize, ksT: usize, ws: usize, n8: i32): void {
  if (gated && gateWidth == K) {
    decayedPairs(p, m, ksT, qs, as, ws, n8, K8)
    return
  }
  lowerOf(p, qs, n8, ksT, K8, n8, K, pairsRounded())
  if (m) lowerOf(m, as, n8, ksT, K8, n8, K, pairsRounded())
  if (gated) decayPairs(p, m, after, ds, ws, n8)
}

/**
 * What M lacks of tokens that reflect, 0 if none does; plain: without erase M's diagonal is k . k. ks in a block with R rows, ws in one with Rw (0: as of
 * decayKeys); ws 0: no gate.
 */
export function remaindersOf(m: usize, plain: bool, as: usize, ks: usize, R: i32, ws: usize, Rw: i32, betas: usize, n: i32, n8: i32): usize {
  const rest = take(n8 * n8), wide = take(2 * K8)
  return erase
    ? remainders(rest, m, true, as, n8, false, ks, R, ws, Rw, betas, wide, n, n8, K8)
    : remainders(rest, m, plain, ks, R, true, ks, R, ws, Rw, betas, wide, n, n8, K8)
}

/** O = Q S + P U, Q in a block with R rows. */
export function reads(os: usize, qs: usize, R: i32, S: usize, p: usize, us: usize, n8: i32): void {
  productLower(os, n8, SET, qs, R, S, K8, K, p, n8, us, n8, n8, W8)
}

/**
 * Of a transposed read: O_i = Gamma_i (S q_i) + sum_{j<=i} (q_i . u_j) D_ij k_j, O [n8, K8]. gammas, ks, ws: rows Gamma_i, k_i, w_i; ds: as of `inner`; both
 * and ws without meaning where nothing decays.
 */
function transposedReads(os: usize, S: usize, us: usize, ks: usize, gammas: usize, ws: usize, ds: usize, n: i32, n8: i32): void {
  const frame = top
  const qs = take(n8 * W8), usT = take(n8 * W8), sT = take(K8 * W8), p = take(n8 * n8)
  loadTransposedQueries(qs, n8, 0, n, n8)
  transpose(usT, W8, us, n8, n8, W8)
  transpose(sT, W8, S, K8, K8, W8)
  lowerOf(p, qs, n8, usT, W8, n8, W)
  product(os, n8, SET, qs, n8, sT, W8, n8, K8, W)
  if (gated) multiply(os, gammas, os, n8 * K8)
  if (gated && gateWidth == K) decayedReads(os, p, ks, ws, n, n8, K8)
  else {
    if (gated) multiply(p, ds, p, n8 * n8)
    lowerProduct(os, n8, ADD, p, n8, ks, n8, n8, K8, pairsRounded())
  }
  release(frame)
}

/** x = 1 over n floats, a multiple of 4. */
function fillOnes(x: usize, n: i32): void {
  for (let i: usize = 0; i < <usize>n << 2; i += 16) v128.store(x + i, f32x4.splat(1))
}

/**
 * O = Q S + P U;  S = diag(Gamma_n) S + K^T U. With along, P, M and K are those of these keys, B, and O += P' V, S += K'^T V. With a gate Q stands for the rows
 * Gamma_i q_i, A for Gamma_{i-1} a_i and K for D_nj k_j: decayed before they meet S, since Q S itself may be beyond float32. Returns how many of the n tokens it has done: those before the first of which a decay is 0, since what is forgotten would be multiplied with it.
 */
export function chunk(S: usize, n: i32): i32 {
  const frame = top
  const n8 = roundUp8(n), byChannel = gated && gateWidth == K, columns = gated && !byChannel && !transposed, own = corrects && (erase != 0 || (gated && !columns))
  // Where a single decay is only ever a number, eight channels hold it.
  const widthOfDecays = columns ? 8 : K8, Rw = columns ? 0 : n8
  const qs = take(n8 * K8), ks = take(n8 * K8), ksT = take(n8 * K8), us = take(n8 * W8), os = take(n8 * W8)
  const decayedKs = gated && transposed ? take(n8 * K8) : ks
  const bs = along ? take(n8 * K8) : ks, bsT = along ? take(n8 * K8) : ksT, vs = along ? take(n8 * W8) : us
  const pb = along ? take(n8 * n8) : 0, mb = along ? take(n8 * n8) : 0
  const p = take(n8 * n8), ds = gated ? take(n8 * n8) : 0, m = corrects ? take(n8 * n8) : 0, betas = take(n8)
  const as = own ? take(n8 * K8) : ks, ws = gated ? take(n8 * widthOfDecays) : 0, last = gated ? take(K8) : 0
  // Keys themselves are still to be written where they stand for A.
  const decayedAs = columns && !own ? take(n8 * K8) : as
  let rest: usize = 0
  if (gated && loadDecays(ws, 0, n, n8, widthOfDecays)) {
    release(frame)
    const kept = tokensBeforeForgetting(n)
    return kept ? chunk(S, kept) : 0
  }
  // A transposed read has no queries of the width of keys; Gamma_i takes the place of Gamma_i q_i.
  if (transposed) fillOnes(qs, n8 * K8)
  else loadKeys(qs, n8, q, 0, n, n8)
  loadKeys(ks, n8, k, 0, n, n8)
  if (erase) loadKeys(as, n8, erase, 0, n, n8)
  else if (own) multiply(as, ws, ks, n8 * K8)
  transpose(ksT, K8, ks, n8, n8, K8)
  inner(p, m, !own, ds, qs, as, ksT, ws, n8)
  if (along) {
    loadKeys(bs, n8, along, 0, n, n8)
    transpose(bsT, K8, bs, n8, n8, K8)
    inner(pb, mb, !own, ds, qs, as, bsT, ws, n8)
  }
  if (corrects) {
    loadBetas(betas, n, n8)
    rest = remaindersOf(along ? mb : m, !own, as, bs, n8, ws, Rw, betas, n, n8)
  }
  if (columns) decayRowsAlike(qs, corrects ? decayedAs : 0, as, own, last, ws, n8, K8)
  else if (gated) decayRows(qs, as, n8, 0, last, qs, own ? as : 0, ws, n8, K8)
  if (gated) {
    decayKeys(decayedKs, ks, ws, Rw, n8, K8)
    if (along) decayKeys(bs, bs, ws, Rw, n8, K8)
  }
  if (along) {
    loadValues(vs, n8, 0, n, n8)
    foundValues(os, m, vs, n8)
    pseudoValues(S, decayedAs, n8, betas, os, us, mb, rest, n8)
  } else if (corrects) {
    loadValues(os, n8, 0, n, n8)
    pseudoValues(S, decayedAs, n8, betas, os, us, m, rest, n8)
  } else loadValues(us, n8, 0, n, n8)
  if (transposed) {
    transposedReads(ksT, S, us, ks, qs, ws, ds, n, n8)
    storeTransposedReads(0, ksT, n8, n)
  } else {
    reads(os, qs, n8, S, along ? pb : p, us, n8)
    if (along) lowerProduct(os, n8, ADD, p, n8, vs, n8, n8, W8)
    storeReads(0, os, n8, n)
  }
  addTurned(S, K8, along ? bs : decayedKs, n8, us, n8, K8, W8, n, last)
  if (along) addTurned(S, K8, ks, n8, vs, n8, K8, W8, n)
  release(frame)
  return n
}

/** How many of n tokens come before the first of which a decay is 0. */
function tokensBeforeForgetting(n: i32): i32 {
  const frame = top
  const wt = take(K8)
  let t = 0
  while (t < n && !loadDecays(wt, t, 1, 1, K8)) t++
  release(frame)
  return t
}
