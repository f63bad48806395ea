// fastweights verify --implementation delta.mjs: the delta rule and the gated delta rule in plain JavaScript, with states and a scale.
export default {
  name: 'plain JavaScript',
  dtype: 'float32',
  rules: { delta: { options: ['initial', 'final', 'scale'] }, 'gated-delta': { options: ['initial', 'final', 'scale'] } },

  /** q, k [B,T,H,K], v [B,T,H,V], beta, gate [B,T,H], S0 [B,H,K,V] to y [B,T,H,V] and S [B,H,K,V]. */
  forward(_rule, { q, k, v, beta, gate, S0 }, { scale }) {
    const [[B, T, H, K], V] = [q.shape, v.shape[3]]
    const y = { shape: v.shape, data: new Float32Array(B * T * H * V) }
    const S = { shape: [B, H, K, V], data: Float32Array.from(S0?.data ?? new Float32Array(B * H * K * V)) }
    for (let b = 0; b < B; b++)
      for (let t = 0; t < T; t++)
        for (let h = 0; h < H; h++)
          for (let j = 0, at = (b * T + t) * H + h; j < V; j++) {
            const [memory, keys] = [(i) => ((b * H + h) * K + i) * V + j, (i) => at * K + i]
            const decay = gate ? Math.exp(gate.data[at]) : 1
            let held = 0
            for (let i = 0; i < K; i++) held += decay * S.data[memory(i)] * k.data[keys(i)]
            const error = beta.data[at] * (v.data[at * V + j] - held)
            for (let i = 0; i < K; i++) {
              S.data[memory(i)] = decay * S.data[memory(i)] + k.data[keys(i)] * error
              y.data[at * V + j] += scale * S.data[memory(i)] * q.data[keys(i)]
            }
          }
    return { y, S }
  },
}
