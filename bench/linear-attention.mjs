/**
 * onnxruntime's operator LinearAttention (domain com.microsoft), a native kernel of four rules: a graph of one node, for onnxruntime-node's CPU
 * provider. Heads are packed in the last axis, which is how [B,T,H,K] lies in memory; gates are logarithms, as ours.
 */
import { model, node } from './onnx-model.mjs'

/** By the names of our rules: the operator's rule, and our names of its inputs decay and beta. */
export const peerRules = {
  sum: { rule: 'linear' },
  mamba2: { rule: 'gated', decay: 'gate' },
  gla: { rule: 'gated', decay: 'gate' },
  delta: { rule: 'delta', beta: 'beta' },
  'gated-delta': { rule: 'gated_delta', decay: 'gate', beta: 'beta' },
  kda: { rule: 'gated_delta', decay: 'gate', beta: 'beta' },
}

/**
 * Opens a session of one of these rules. Throws where onnxruntime-node has no binary for this machine.
 * @param {{ name: string, H: number, threads: number, state: boolean, scale?: number }} options `state`: whether a run is given one to begin with
 * @returns {Promise<{ feeds(given: Record<string, { values: Float32Array, shape: number[] }>): object,
 *   run(feeds: object): Promise<{ y: Float32Array, state: Float32Array }>, release(): Promise<void> }>} `feeds` takes q, k [B,T,H,K], v [B,T,H,V],
 *   beta [B,T,H], gate [B,T,H] or [B,T,H,K], state [B,H,K,V]; y is [B,T,H,V]
 */
export async function linearAttention({ name, H, threads, state, scale = 1 }) {
  const { default: ort } = await import('onnxruntime-node')
  const { rule, decay, beta } = peerRules[name]
  const slots = ['q', 'k', 'v', state ? 'state' : '', decay ?? '', beta ?? '']
  const named = slots.filter((slot) => slot !== '')
  const bytes = model({
    nodes: [
      node({
        op: 'LinearAttention',
        domain: 'com.microsoft',
        inputs: slots.slice(0, slots.findLastIndex((slot) => slot !== '') + 1),
        outputs: ['y', 'after'],
        // A scale of 0 would mean 1 / sqrt(K).
        attributes: { q_num_heads: ['int', H], kv_num_heads: ['int', H], update_rule: ['string', rule], scale: ['float', scale] },
      }),
    ],
    inputs: Object.fromEntries(named.map((slot) => [slot, null])),
    outputs: { y: null, after: null },
    opsets: { 'com.microsoft': 1, '': 17 },
  })
  const session = await ort.InferenceSession.create(new Uint8Array(bytes), {
    executionProviders: ['cpu'],
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    logSeverityLevel: 3,
  })
  /** [B,T,H,K] as [B,T,H K]; a gate a head stays as it is, and so does the state. */
  const packed = (slot, [B, T, heads, ...rest]) => (slot === 'state' ? [B, T, heads, ...rest] : [B, T, heads * (rest[0] ?? 1)])
  return {
    feeds: (given) =>
      Object.fromEntries(named.map((slot) => [slot, new ort.Tensor('float32', given[slot].values, packed(slot, given[slot].shape))])),
    async run(feeds) {
      const { y, after } = await session.run(feeds)
      return { y: y.data, state: after.data }
    },
    release: () => session.release(),
  }
}
