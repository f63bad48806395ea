/**
 * Fast weights: the whole family of kernels.ts, recurrent and in chunks, forward and backward.
 *
 *     S_t = diag(w_t) S_{t-1} + k_t u_t^T,  y_t = scale S_t^T q_t,  w_t = exp(gate_t), 1 without a gate
 *     u_t = v_t                                      sum rule      Katharopoulos 2020, eq. 16-20; gated: Yang 2023
 *     u_t = beta_t e_t, e_t = v_t - S_{t-1}^T a_t    delta rule    a_t = w_t k_t. Schlag 2021, eq. 24-25; chunks (WY), gate: Yang 2024
 *     u_t = e_t                                      erase         a_t = erase_t, as it is
 *
 * and beside erase, along: S_t = diag(w_t) S_{t-1} + along_t e_t^T + k_t v_t^T with e_t = -S_{t-1}^T a_t: two kinds of keys, one for what is found and
 * one for values.
 *
 * All are written once, for u and a; a pointer of 0 stands for an input that isn't there. The normaliser, z_t = diag(w_t) z_{t-1} + k_t and
 * y_t = scale S_t^T q_t / (z_t . q_t + eps), is one more value column: v is extended by 1, S by z, and the cotangent G = scale dy / den of
 * the unscaled read by g = -(dy . y) / den. W is the width of the values so extended.
 *
 * A transposed read, y_t = scale S_t q_t, is q_t . S_t^T dy_t to its cotangent dy_t: to the backward dy is a query, q the cotangent of its read, and
 * that read is dq. So there q, dy and y stand for dy, q and dq, and there's no other dq.
 *
 * Shapes: q, k, erase, along [B,T,H,K]; v, y [B,T,H,V]; transposed: q [B,T,H,V], y [B,T,H,K]; beta, den [B,T,H]; gate [B,T,H,1 or K]; tokens [B,T]; states [B,H,K,V]; z [B,H,K];
 * snapshots [B,H,ceil(T/C),K,V].
 * Forgetting: 0 never meets what is forgotten, which may be Infinity or NaN. Tokens are cut where a sequence begins (`cut`); where a decay
 * is 0 both forms are the recurrent one, which clears what it forgets.
 * Split: a task is one (b, h), done by one thread from the first token to the last; nothing is shared, so threads change nothing.
 * sT and zT may be s0 and z0.
 * In scratch all sizes are padded to multiples of 8 (K8, W8, and n8 tokens in a chunk) and held as blocks of strips.ts.
 * Numerics: decays are multiplied, never divided nor subtracted as logarithms (decays.ts). exp is good to 1e-7, so a
 * product of n decays to n 1e-7.
 * Causality is exact: what a token holds, NaN included, never enters the arithmetic of an earlier one. A gate above 0 is refused.
 * Pinned by test/ops/fast-weights.test.ts, against engine/devices/reference/fast-weights.ts: RMS ratio 1e-5.
 */
import { unaryBackward_sigmoid } from './elementwise'
import { chunk } from './fast-weights-chunk'
import { chunkBackward, decayedChunkBackward } from './fast-weights-chunk-backward'
import { recurrent, recurrentBackward, tokenInPlace } from './fast-weights-recurrent'
import {
  H, K, K8, V, W8, dalong, dbeta, den, derase, dgate, dk, dq, dv, enter, enterAll, erase, fresh, gate, gateWidth, loadState, passBy, rowOf,
  setGradients, setInputs, setSizes, storeState, take, tokens, top, touchRows, touchStates, transposed, y,
} from './fast-weights-rows'

// ---- stretches of tokens -------------------------------------------------------------------------------------------------------------

/** Rows of a span's tokens without padding, where each stretch begins among them, and what it is (int32). */
let rows: usize = 0, starts: usize = 0, kinds: usize = 0
const FRESH: i32 = 1, UNSEEN: i32 = 2

/** tokenBits of engine/devices/kernels.ts. */
const TOKEN: i32 = 1, BEGINS: i32 = 2

@inline function put(x: usize, i: i32, value: i32): void {
  store<i32>(x + (<usize>i << 2), value)
}

@inline function get(x: usize, i: i32): i32 {
  return load<i32>(x + (<usize>i << 2))
}

/**
 * Cuts the n tokens from `row` on where sequences begin, and leaves out padding; how many stretches. All but the first start from a state of
 * 0, so that the snapshot of the span is all the backward needs. The last may be empty.
 */
function cut(row: i32, n: i32, backward: bool): i32 {
  let count = 1, real = 0
  put(starts, 0, 0)
  put(kinds, 0, 0)
  for (let t = 0; t < n; t++, row += H) {
    const bits = get(tokens, row / H)
    if (bits & BEGINS) {
      put(starts, count, real)
      put(kinds, count++, bits & TOKEN ? FRESH | UNSEEN : FRESH)
    }
    if (bits & TOKEN) put(rows, real++, row)
    else if (backward) {
      clear(dq, row, K)
      clear(dk, row, K)
      clear(dv, row, V)
      clear(dbeta, row, 1)
      clear(dgate, row, gateWidth)
      clear(derase, row, K)
      clear(dalong, row, K)
      if (transposed) clear(y, row, V)
    } else {
      clear(y, row, transposed ? K : V)
      clear(den, row, 1)
    }
  }
  put(starts, count, real)
  return count
}

function clear(x: usize, row: i32, width: i32): void {
  if (x) memory.fill(rowOf(x, row, width), 0, <usize>width << 2)
}

/** Makes stretch i the one at hand; the number of its tokens. */
function enterStretch(i: i32): i32 {
  const start = get(starts, i), n = get(starts, i + 1) - start, kind = get(kinds, i)
  enter(rows + (<usize>start << 2), n, (kind & FRESH) != 0, (kind & UNSEEN) != 0)
  return n
}

/** Scratch for `cut`, for spans of up to C tokens. */
function takeStretches(C: i32): void {
  rows = take(C)
  starts = take(C + 2)
  kinds = take(C + 1)
}

@inline function stateBytes(): usize {
  return <usize>(K8 * W8) << 2
}

/** The first of so many states, each as far from the next as `take` puts them. */
function takeStates(count: i32): usize {
  const first = top
  for (let i = 0; i < count; i++) take(K8 * W8)
  return first
}

// ---- kernels: a task is a head, `group` of them are done together, cut into spans of C tokens, and those into stretches --------------

export function fastWeights(begin: i32, end: i32, chunked: i32, q: usize, k: usize, v: usize, beta: usize, gate: usize, erase: usize,
  along: usize, tokens: usize, s0: usize, z0: usize, y: usize, sT: usize, zT: usize, den: usize, states: usize, zs: usize, T: i32, H: i32,
  keyWidth: i32, valueWidth: i32, gateWidth: i32, C: i32, readScale: f32, transposed: i32, group: i32, epsilon: f32): void {
  setInputs(q, k, v, beta, gate, erase, along, tokens, y, den)
  setSizes(H, keyWidth, valueWidth, gateWidth, zT != 0, readScale, epsilon, transposed != 0)
  if (tokens) takeStretches(min(C, T))
  const first = takeStates(min(group, end - begin)), step = stateBytes() + 64
  const spans = (T - 1) / C + 1, alone = T == 1 && !tokens && !states && !chunked
  for (let head0 = begin, head1 = begin; head0 < end; head0 = head1) {
    head1 = min(min(head0 + group, end), (head0 / H + 1) * H)
    if (alone) {
      touchStates(s0, head0, head1 - head0)
      touchStates(sT, head0, head1 - head0)
      enterAll(head0)
      while (head0 < head1 && tokenInPlace(rowOf(s0, head0, K * V), rowOf(sT, head0, K * V))) enterAll(++head0)
    }
    for (let head = head0, S = first; head < head1; head++, S += step) loadState(S, rowOf(s0, head, K * V), rowOf(z0, head, K))
    for (let c = 0; c < spans; c++) {
      const t = c * C, n = min(C, T - t), row0 = (head0 / H * T + t) * H + head0 % H
      touchRows(row0, n, head1 - head0)
      for (let head = head0, S = first; head < head1; head++, S += step) {
        const row = row0 + head - head0, span = head * spans + c
        storeState(rowOf(states, span, K * V), rowOf(zs, span, K), S)
        const count = tokens ? cut(row, n, false) : 0
        if (!count) {
          enterAll(row)
          forward(chunked, S, n)
        }
        for (let i = 0; i < count; i++) {
          const m = enterStretch(i)
          if (fresh) memory.fill(S, 0, stateBytes())
          forward(chunked, S, m)
        }
      }
    }
    for (let head = head0, S = first; head < head1; head++, S += step) storeState(rowOf(sT, head, K * V), rowOf(zT, head, K), S)
  }
}

/**
 * The n tokens of a stretch, `chunked` at a time (0: one by one). The recurrent form takes over at the first token of a chunk of which a decay is 0. Not
 * before: what comes must not count for a bit of what was.
 */
function forward(chunked: i32, S: usize, n: i32): void {
  if (!chunked) recurrent(S, 0, n)
  for (; chunked && n > 0; n -= chunked) {
    const m = min(chunked, n)
    recurrent(S, chunk(S, m), m)
    passBy(m)
  }
}

export function fastWeightsBackward(begin: i32, end: i32, chunked: i32, q: usize, k: usize, v: usize, beta: usize, gate: usize,
  erase: usize, along: usize, tokens: usize, y: usize, den: usize, states: usize, zs: usize, dy: usize, dsT: usize, dzT: usize, dq: usize,
  dk: usize, dv: usize, dbeta: usize, dgate: usize, derase: usize, dalong: usize, ds0: usize, dz0: usize, T: i32, H: i32, keyWidth: i32,
  valueWidth: i32, gateWidth: i32, C: i32, readScale: f32, transposed: i32, group: i32): void {
  if (transposed) {
    setInputs(dy, k, v, beta, gate, erase, along, tokens, dq, 0)
    setGradients(q, 0, dk, dv, dbeta, dgate, derase, dalong)
  } else {
    setInputs(q, k, v, beta, gate, erase, along, tokens, y, den)
    setGradients(dy, dq, dk, dv, dbeta, dgate, derase, dalong)
  }
  setSizes(H, keyWidth, valueWidth, gateWidth, den != 0, readScale, 0, transposed != 0)
  if (tokens) takeStretches(min(C, T))
  const S = take(K8 * W8), first = takeStates(min(group, end - begin)), step = stateBytes() + 64
  const spans = (T - 1) / C + 1
  for (let head0 = begin, head1 = begin; head0 < end; head0 = head1) {
    head1 = min(min(head0 + group, end), (head0 / H + 1) * H)
    for (let head = head0, dS = first; head < head1; head++, dS += step) loadState(dS, rowOf(dsT, head, K * V), rowOf(dzT, head, K))
    for (let c = spans - 1; c >= 0; c--) {
      const t = c * C, n = min(C, T - t), row0 = (head0 / H * T + t) * H + head0 % H
      touchRows(row0, n, head1 - head0)
      for (let head = head0, dS = first; head < head1; head++, dS += step) {
        const row = row0 + head - head0, span = head * spans + c
        const s = rowOf(states, span, K * V), z = rowOf(zs, span, K)
        const count = tokens ? cut(row, n, true) : 0
        if (!count) {
          enterAll(row)
          loadState(S, s, z)
          backward(chunked, S, dS, n)
        }
        for (let i = count - 1; i >= 0; i--) {
          const m = enterStretch(i)
          loadState(S, fresh ? 0 : s, fresh ? 0 : z)
          backward(chunked, S, dS, m)
          if (fresh) memory.fill(dS, 0, stateBytes())
        }
      }
    }
    for (let head = head0, dS = first; head < head1; head++, dS += step) storeState(rowOf(ds0, head, K * V), rowOf(dz0, head, K), dS)
  }
}

function backward(chunked: i32, S: usize, dS: usize, n: i32): void {
  if (!n) return
  if (chunked && !gate && !erase) chunkBackward(S, dS, n)
  else if (!(chunked && decayedChunkBackward(S, dS, n))) recurrentBackward(S, dS, n)
}

/**
 * dbeta [B,T,H] of strengths that are sigmoids of logits becomes that of the logits; a task is a token. Padding's stays 0, whatever its logits hold:
 * no slope of a sigmoid is multiplied with it.
 */
export function strengthsBackward(begin: i32, end: i32, logits: usize, tokens: usize, dbeta: usize, H: i32): void {
  for (let token = begin; token < end;) {
    let next = token
    while (next < end && (!tokens || get(tokens, next) & TOKEN)) next++
    unaryBackward_sigmoid(token * H, next * H, logits, 0, dbeta, dbeta)
    token = next + 1
  }
}
