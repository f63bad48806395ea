/**
 * The call of a fast-weight kernel at hand, and what comes in and goes out: rows of tokens, and states.
 * The kernels, shapes and letters: fast-weights.ts.
 */
import { sum4, sumLanes } from './lanes'
import { exp, madd, splat } from './math'
import { scratch } from './scratch'
import { at, loadBlock, roundUp8, rowsFrom, storeBlock } from './strips'

/** Throws in JavaScript: a value that a kernel can't work with. The code is the index of a text in engine/devices/wasm/pool.ts. */
@external("env", "refuse")
declare function refuse(code: i32, value: f32): void
const POSITIVE_GATE: i32 = 0

// ---- the kernel call at hand (a thread has its own instance of the module, hence its own globals) -----------------------------------

export let H: i32 = 0, K: i32 = 0, V: i32 = 0, W: i32 = 0, K8: i32 = 0, W8: i32 = 0
/** Values of the gate for each token. */
export let gateWidth: i32 = 0
export let scale: f32 = 0, eps: f32 = 0
export let normalised = false, gated = false
/** u is a correction: beta or erase is given. */
export let corrects = false
/** Reads are S q: q [B,T,H,V], y [B,T,H,K]. */
export let transposed = false

export let q: usize = 0, k: usize = 0, v: usize = 0, beta: usize = 0, gate: usize = 0, erase: usize = 0, along: usize = 0
export let tokens: usize = 0, y: usize = 0, den: usize = 0
export let dy: usize = 0, dq: usize = 0, dk: usize = 0, dv: usize = 0, dbeta: usize = 0, dgate: usize = 0, derase: usize = 0
export let dalong: usize = 0

export function setInputs(qs: usize, ks: usize, vs: usize, betas: usize, gates: usize, erases: usize, alongs: usize, bits: usize,
  ys: usize, dens: usize): void {
  q = qs
  k = ks
  v = vs
  beta = betas
  gate = gates
  erase = erases
  along = alongs
  tokens = bits
  y = ys
  den = dens
  dy = 0
  gated = gate != 0
  corrects = beta != 0 || erase != 0
}

export function setGradients(dys: usize, dqs: usize, dks: usize, dvs: usize, dbetas: usize, dgates: usize, derases: usize,
  dalongs: usize): void {
  dy = dys
  dq = dqs
  dk = dks
  dv = dvs
  dbeta = dbetas
  dgate = dgates
  derase = derases
  dalong = dalongs
}

export function setSizes(heads: i32, keyWidth: i32, valueWidth: i32, widthOfGate: i32, withNormaliser: bool, readScale: f32,
  epsilon: f32, readsTransposed: bool): void {
  transposed = readsTransposed
  H = heads
  K = keyWidth
  V = valueWidth
  gateWidth = widthOfGate
  normalised = withNormaliser
  W = V + i32(normalised)
  K8 = roundUp8(K)
  W8 = roundUp8(W)
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

// ---- the stretch at hand: the tokens of a head that a form is run over; fast-weights.ts cuts them -----------------------------------

/** The row of its first token in arrays [B,T,H,*], and the rows of all (int32) where padding lies between them, else 0. */
let first: i32 = 0, list: usize = 0
/** The state before it is 0; and its first token's gate isn't looked at. */
export let fresh = false
let unseen = false

/** The tokens from `row` on, without padding. */
export function enterAll(row: i32): void {
  first = row
  list = 0
  fresh = false
  unseen = false
}

/** n tokens whose rows are listed. */
export function enter(rows: usize, n: i32, isFresh: bool, isUnseen: bool): void {
  first = n ? load<i32>(rows) : 0
  list = n && load<i32>(rows + (<usize>(n - 1) << 2)) != first + (n - 1) * H ? rows : 0
  fresh = isFresh
  unseen = isUnseen
}

/** Leaves out the next n tokens: what comes after them is the stretch at hand. */
export function passBy(n: i32): void {
  if (list) list += <usize>n << 2
  else first += n * H
  fresh = false
  unseen = false
}

/** Where token t lies in an array of `width` floats a token and head. */
@inline export function tokenAt(x: usize, t: i32, width: i32): usize {
  return rowOf(x, list ? load<i32>(list + (<usize>t << 2)) : first + t * H, width)
}

/** Where the last number goes that has only been touched: what isn't used wouldn't be loaded. */
let touched: i32 = 0

/** Reads one number of each cache line of n rows of x, `heads` of them side by side, from `row` on. */
function touch(x: usize, row: i32, n: i32, heads: i32, width: i32): void {
  if (!x) return
  let some = 0
  for (let r = 0; r < n; r++, row += H) {
    const begin = rowOf(x, row, width), end = begin + (<usize>(heads * width) << 2)
    for (let a = begin; a < end; a += 64) some |= load<i32>(a)
  }
  touched = some
}

/**
 * Brings into the cache what n tokens have for some heads. One head's rows lie far apart, and the processor waits for each; along the heads it
 * sees what comes next and fetches it ahead.
 */
export function touchRows(row: i32, n: i32, heads: i32): void {
  if (heads == 1) return
  // Backward, with a cotangent, a transposed read's q is as wide as keys.
  touch(q, row, n, heads, transposed && !dy ? V : K)
  touch(k, row, n, heads, K)
  touch(v, row, n, heads, V)
  if (gateWidth == K) touch(gate, row, n, heads, K)
  touch(erase, row, n, heads, K)
  touch(along, row, n, heads, K)
  touch(dy, row, n, heads, V)
}

/** The same for states that lie one after the other. */
export function touchStates(x: usize, head: i32, heads: i32): void {
  touch(x, head, 1, heads, K * V)
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

/** Rows of x [B,T,H,width] of n tokens from token t on into [M, N] of a block with R rows, 0 beyond. */
function loadRows(to: usize, R: i32, x: usize, width: i32, t: i32, n: i32, M: i32, N: i32): void {
  if (!list) {
    loadBlock(to, R, tokenAt(x, t, width), <usize>(H * width) << 2, n, width, M, N)
    return
  }
  for (let r = 0; r < n; r++) loadBlock(rowsFrom(to, r), R, tokenAt(x, t + r, width), 0, 1, width, 1, N)
  loadBlock(rowsFrom(to, n), R, 0, 0, 0, 0, M - n, N)
}

/** The other way, times a factor. */
export function storeRows(x: usize, width: i32, t: i32, from: usize, R: i32, n: i32, factor: f32 = 1): void {
  if (!list) {
    storeBlock(tokenAt(x, t, width), <usize>(H * width) << 2, from, R, n, width, factor)
    return
  }
  for (let r = 0; r < n; r++) storeBlock(tokenAt(x, t + r, width), 0, rowsFrom(from, r), R, 1, width, factor)
}

/** Of q, k, erase or along. */
@inline export function loadKeys(to: usize, R: i32, x: usize, t: i32, n: i32, M: i32): void {
  loadRows(to, R, x, K, t, n, M, K8)
}

@inline export function storeKeys(x: usize, t: i32, from: usize, R: i32, n: i32): void {
  storeRows(x, K, t, from, R, n)
}

/** The queries of a transposed read, of n tokens from token t on, into [M, W8] of a block with R rows. */
@inline export function loadTransposedQueries(x: usize, R: i32, t: i32, n: i32, M: i32): void {
  loadRows(x, R, q, V, t, n, M, W8)
}

/** y = scale o of a transposed read, o [M, K8] in a block with M rows; of n tokens from token t on. */
export function storeTransposedReads(t: i32, o: usize, M: i32, n: i32): void {
  storeRows(y, K, t, o, M, n, scale)
}

/** v of n tokens from token t on into [M, W8] of a block with R rows. */
export function loadValues(x: usize, R: i32, t: i32, n: i32, M: i32): void {
  loadRows(x, R, v, V, t, n, M, W8)
  if (!normalised) return
  for (let r = 0; r < n; r++) store<f32>(at(x, R, r, V), 1)
}

/** beta of all n tokens, 1 if there is none; 0 beyond. */
export function loadBetas(x: usize, n: i32, n8: i32): void {
  for (let r = 0; r < n8; r++) store<f32>(x + (<usize>r << 2), r < n ? (beta ? load<f32>(tokenAt(beta, r, 1)) : 1) : 0)
}

function refuseGate(x: v128): void {
  let g = f32x4.extract_lane(x, 0)
  if (!(g > 0)) g = f32x4.extract_lane(x, 1)
  if (!(g > 0)) g = f32x4.extract_lane(x, 2)
  if (!(g > 0)) g = f32x4.extract_lane(x, 3)
  refuse(POSITIVE_GATE, g)
}

/**
 * w of n tokens from token t on into [M, N] of a block with M rows, N = K8 or, of a single decay for all channels, any multiple of 8; 1 beyond. True if one of
 * them is 0: something is forgotten.
 */
export function loadDecays(w: usize, t: i32, n: i32, M: i32, N: i32): bool {
  const skips = unseen && t == 0
  let least = splat(1), least1 = splat(1), most = splat(0), most1 = splat(0)
  if (gateWidth == K) {
    loadRows(w, M, gate, K, t, n, M, K8)
    if (skips) for (let c = 0; c < K8; c += 4) v128.store(at(w, M, 0, c), splat(0))
    const end = w + (<usize>(M * K8) << 2)
    for (let a = w; a < end; a += 32) {
      const g = v128.load(a), g1 = v128.load(a, 16), x = exp(g), x1 = exp(g1)
      most = f32x4.pmax(most, g)
      most1 = f32x4.pmax(most1, g1)
      least = f32x4.pmin(least, x)
      least1 = f32x4.pmin(least1, x1)
      v128.store(a, x1, 16)
      v128.store(a, x)
    }
  } else {
    for (let r = 0; r < M; r++) {
      let x = splat(1)
      if (r < n && !(skips && r == 0)) {
        const g = v128.load32_splat(tokenAt(gate, t + r, 1))
        most = f32x4.pmax(most, g)
        x = exp(g)
        least = f32x4.pmin(least, x)
      }
      for (let c = 0; c < N; c += 8) {
        v128.store(at(w, M, r, c), x, 16)
        v128.store(at(w, M, r, c), x)
      }
    }
  }
  most = f32x4.pmax(most, most1)
  if (v128.any_true(f32x4.gt(most, splat(0)))) refuseGate(most)
  least = f32x4.pmin(least, least1)
  return v128.any_true(f32x4.eq(least, splat(0)))
}

/** dgate of n tokens from token t on, from the cotangents of log w in a block with R rows. */
export function storeGates(t: i32, dw: usize, R: i32, n: i32): void {
  if (fresh && t == 0) for (let c = 0; c < K8; c += 4) v128.store(at(dw, R, 0, c), splat(0))
  if (gateWidth == K) {
    storeRows(dgate, K, t, dw, R, n)
    return
  }
  for (let r = 0; r < n; r++) {
    let sum = splat(0)
    for (let c = 0; c < K8; c += 4) sum = f32x4.add(sum, v128.load(at(dw, R, r, c)))
    store<f32>(tokenAt(dgate, t + r, 1), sumLanes(sum))
  }
}

/** x_r = factor x_r. */
export function scaleRow(x: usize, R: i32, r: i32, factor: f32): void {
  const f = f32x4.splat(factor)
  for (let j = 0; j < W8; j += 8) {
    const a = at(x, R, r, j)
    const low = f32x4.mul(f, v128.load(a)), high = f32x4.mul(f, v128.load(a, 16))
    v128.store(a, high, 16)
    v128.store(a, low)
  }
}

/** y = scale o / den, den = o's normaliser column + eps, kept if asked for; of n tokens from token t on. */
export function storeReads(t: i32, o: usize, R: i32, n: i32): void {
  for (let r = 0; normalised && r < n; r++) {
    const d = load<f32>(at(o, R, r, V)) + eps
    if (den) store<f32>(tokenAt(den, t + r, 1), d)
    scaleRow(o, R, r, scale / d)
  }
  storeRows(y, V, t, o, R, n, normalised ? 1 : scale)
}

/**
 * g [M, W8], of a block with R rows, = scale dy / den, and -(dy . y) / den in the normaliser's column; of n tokens from token t on;
 * w [M, W8] is working space.
 */
export function loadCotangents(g: usize, R: i32, w: usize, t: i32, n: i32, M: i32): void {
  loadRows(g, R, dy, V, t, n, M, W8)
  if (normalised) loadRows(w, M, y, V, t, n, M, W8)
  for (let r = 0; r < n; r++) {
    const d = normalised ? load<f32>(tokenAt(den, t + r, 1)) : 1
    const dyy = normalised ? dotRows(at(g, R, r, 0), R, at(w, M, r, 0), M) : 0
    scaleRow(g, R, r, scale / d)
    if (normalised) store<f32>(at(g, R, r, V), -dyy / d)
  }
}

// ---- arithmetic on rows

/** y = a x over n floats, a multiple of 8. */
export function scaleTo(y: usize, x: usize, a: f32, n: i32): void {
  const f = splat(a)
  for (let i: usize = 0; i < <usize>n << 2; i += 32) {
    const low = f32x4.mul(f, v128.load(x + i)), high = f32x4.mul(f, v128.load(x + i, 16))
    v128.store(y + i, high, 16)
    v128.store(y + i, low)
  }
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
  const end = <usize>n << 2, whole = end & ~31
  for (let i: usize = 0; i < whole; i += 32) {
    const low = f32x4.mul(v128.load(a + i), v128.load(b + i)), high = f32x4.mul(v128.load(a + i, 16), v128.load(b + i, 16))
    v128.store(y + i, high, 16)
    v128.store(y + i, low)
  }
  // Nothing may lie behind a row of k.
  if (whole < end) v128.store(y + whole, f32x4.mul(v128.load(a + whole), v128.load(b + whole)))
}

/** y += a * b. */
export function addProduct(y: usize, a: usize, b: usize, n: i32): void {
  for (let i: usize = 0; i < <usize>n << 2; i += 32) {
    const low = madd(v128.load(a + i), v128.load(b + i), v128.load(y + i))
    const high = madd(v128.load(a + i, 16), v128.load(b + i, 16), v128.load(y + i, 16))
    v128.store(y + i, high, 16)
    v128.store(y + i, low)
  }
}
