/** Sessions of onnxruntime's operator LinearAttention (domain com.microsoft), a native kernel of some rules, on onnxruntime-node's CPU provider. */
import { linearAttentionModel } from '../dist/claims/onnxruntime.js'
import { rules } from '../dist/engine/index.js'

/** What the operator has, by the names of our rules. */
export { operatorRules as peerRules } from '../dist/claims/onnxruntime.js'

/**
 * Opens a session of one of these rules. Throws where onnxruntime-node has no binary for this machine.
 * @param {{ name: string, H: number, threads: number, state: boolean, scale?: number }} options `state`: whether a run is given one to begin with
 * @returns {Promise<{ feeds(given: Record<string, { values: Float32Array, shape: number[] }>): object,
 *   run(feeds: object): Promise<{ y: Float32Array, state: Float32Array }>, release(): Promise<void> }>} `feeds` takes q, k [B,T,H,K], v [B,T,H,V],
 *   beta [B,T,H], gate [B,T,H] or [B,T,H,K], state [B,H,K,V]; y is [B,T,H,V]
 */
export async function linearAttention({ name, H, threads, state, scale = 1 }) {
  const { default: ort } = await import('onnxruntime-node')
  const slots = ['q', 'k', 'v', state ? 'state' : '', ...['gate', 'beta'].map((slot) => (slot in rules[name].inputs ? slot : ''))]
  const named = slots.filter((slot) => slot !== '')
  const bytes = linearAttentionModel(name, slots, { queryHeads: H, heads: H, scale })
  const session = await ort.InferenceSession.create(bytes, {
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
      const { y, S } = await session.run(feeds)
      return { y: y.data, state: S.data }
    },
    release: () => session.release(),
  }
}
