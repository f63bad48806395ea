/** Small models of every kind, and tokens for them. */
import type { TokenBatch, TransformerConfig } from '../../nn/index.ts'
import { presets } from '../../tasks/index.ts'
import { random } from '../helpers.ts'

const small = { symbols: 13, dModel: 12, heads: 2, layers: 2, dFf: 20, chunk: 4, embeddingStd: 1, dropout: 0 }

/** Presets that differ from others only within a layer, which its own tests look at (attention.test.ts). */
const layersAlone = `comba gdn2 precond-kda gated-deltaproduct momentum-delta hgrn2 lightning gsa rwkv4 rwkv5 rwkv6 log-linear ttt-linear
  titans delta-lstm delta-delta recurrent-delta smfwp fwm ba programmer recurrent-programmer gru rnn`.split(/\s+/)
const ofPreset = (name: keyof typeof presets): TransformerConfig => ({ ...presets[name].model, ...small })

/** Every other preset's architecture, and what no preset has. */
export const architectures: Record<string, TransformerConfig> = {
  ...Object.fromEntries(
    (Object.keys(presets) as (keyof typeof presets)[]).flatMap((name) => (layersAlone.includes(name) ? [] : [[name, ofPreset(name)]])),
  ),
  sum: { ...presets.labml.model, ...small, rule: 'sum', featureMap: 'silu', featureNorm: 'l2', valueMap: 'silu', conv: 3 },
  'sum, normalised': { ...presets.labml.model, ...small, rule: 'linear-attention', featureMap: 'elu1', featureNorm: 'none' },
  'softmax, rotary': { ...presets.softmax.model, ...small, positions: 'rotary' },
  hybrid: { ...presets.default.model, ...small, layers: 3, mixer: ['fast-weights', { kind: 'softmax', positions: 'rotary' }, 'aft-conv'] },
  'dpfp, nu 3, positions': { ...presets.labml.model, ...small, nu: 3, positions: 'sinusoidal', attentionNorm: true },
}

/** And those whose states are something else than tensors that begin at 0. */
export const stateful: Record<string, TransformerConfig> = {
  ...architectures,
  rwkv4: ofPreset('rwkv4'),
  'ttt-linear': { ...ofPreset('ttt-linear'), minibatch: 3 },
}

/** Those that a GPU computed by the CPU has time for; between them nearly every kernel. */
export const few: ReadonlySet<string> = new Set(['default', 'labml', 'performer', 'kda', 'softmax, rotary', 'labml-aft'])

export function randomTokens(seed: number, length: number): Int32Array {
  const next = random(seed)
  return Int32Array.from({ length }, () => Math.floor(next() * small.symbols))
}

export function randomBatch(seed: number, B = 3, T = 9): TokenBatch {
  return { tokens: randomTokens(seed, B * T), targets: randomTokens(seed + 1, B * T), B, T }
}
