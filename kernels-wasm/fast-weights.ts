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
import { chunk } from './fast-weights-chunk'
import { chunkBackward, decayedChunkBackward } from './fast-weights-chunk-backward'
import { recurrent, recurrentBackward } from './fast-weights-recurrent'
import { K, K8, V, W8, loadState, rowOf, setGradients, setInputs, setSizes, storeState, take } from './fast-weights-rows'

export function fastWeights(begin: i32, end: i32, chunked: i32, q: usize, k: usize, v: usize, beta: usize, gate: usize, erase: usize,
  s0: usize, z0: usize, y: usize, sT: usize, zT: usize, den: usize, states: usize, zs: usize, T: i32, H: i32, keyWidth: i32,
  valueWidth: i32, gateWidth: i32, C: i32, readScale: f32, epsilon: f32): void {
  setInputs(q, k, v, beta, gate, erase, y, den)
  setSizes(H, keyWidth, valueWidth, gateWidth, zT != 0, readScale, epsilon)
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
  setSizes(H, keyWidth, valueWidth, gateWidth, den != 0, readScale, 0)
  const dS = take(K8 * W8), S = take(K8 * W8)
  const spans = (T - 1) / C + 1
  for (let head = begin; head < end; head++) {
    loadState(dS, rowOf(dsT, head, K * V), rowOf(dzT, head, K))
    for (let c = spans - 1; c >= 0; c--) {
      const t = c * C, n = min(C, T - t), row = (head / H * T + t) * H + head % H, span = head * spans + c
      loadState(S, rowOf(states, span, K * V), rowOf(zs, span, K))
      if (!chunked) recurrentBackward(S, dS, row, n)
      else if (gate || erase) decayedChunkBackward(S, dS, row, n)
      else chunkBackward(S, dS, row, n)
    }
    storeState(rowOf(ds0, head, K * V), rowOf(dz0, head, K), dS)
  }
}
