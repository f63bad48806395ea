/** Configurations of FastWeightsAttention, named after the papers they are from. */
import type { FastWeightsAttentionConfig } from './attention.ts'

export interface AttentionPreset {
  source: string
  /** What is not as in the source; widths of heads are dModel / heads for keys and values alike in all of them. */
  deviates: string
  config: Partial<FastWeightsAttentionConfig>
}

/** Conv, SiLU and L2 norm on queries and keys, conv and SiLU on values, as in the DeltaNet of Yang 2024. */
const deltaNet = {
  featureMap: 'silu',
  featureNorm: 'l2',
  valueMap: 'silu',
  conv: 4,
  scale: 'sqrt',
  headNorm: true,
  chunk: 16,
} as const satisfies Partial<FastWeightsAttentionConfig>

export const attentionPresets = {
  'labml-fast-weights': {
    source: 'labml.ai, transformers/fast_weights',
    deviates: 'nothing',
    config: {},
  },
  'linear-transformer': {
    source: 'Katharopoulos 2020',
    deviates: 'no biases in the projections',
    config: { rule: 'linear-attention', featureMap: 'elu1', featureNorm: 'none' },
  },
  'schlag-delta': {
    source: 'Schlag 2021 and its language model code, without attention normalisation (table 3)',
    deviates: '1e-6 in the denominator of the sum norm, where that has none',
    config: { rule: 'delta', featureMap: 'dpfp', nu: 1, featureNorm: 'sum', scale: 'sqrt' },
  },
  performer: {
    source: 'Choromanski 2021',
    deviates: 'features as many as the head is wide times two, not redrawn, unless favorFeatures and favorRedraw say otherwise',
    config: { rule: 'linear-attention', featureMap: 'favor', featureNorm: 'none' },
  },
  retnet: {
    source: 'Sun 2023',
    deviates: 'RMS instead of group norm; the scale on the output; no normalisation of scores',
    config: {
      rule: 'retnet',
      featureMap: 'identity',
      featureNorm: 'none',
      positions: 'rotary',
      scale: 'sqrt',
      headNorm: true,
      outputGate: 'silu',
      chunk: 16,
    },
  },
  gla: {
    source: 'Yang 2023 (gated linear attention)',
    deviates: 'keys as wide as values, not half',
    config: {
      rule: 'gla',
      gate: 'logsigmoid',
      featureMap: 'identity',
      featureNorm: 'none',
      scale: 'sqrt',
      headNorm: true,
      outputGate: 'silu',
      chunk: 16,
    },
  },
  'mamba2-like': {
    source: 'Dao & Gu 2024',
    deviates: 'every head has keys and queries of its own (B and C there); values are not scaled by dt, nor passed on beside the state (D)',
    config: {
      rule: 'mamba2',
      featureMap: 'silu',
      featureNorm: 'none',
      valueMap: 'silu',
      conv: 4,
      headNorm: true,
      outputGate: 'silu',
      chunk: 16,
    },
  },
  'gated-deltanet': {
    source: 'Yang 2024 (gated delta networks)',
    deviates: 'values as wide as keys, not twice',
    config: { ...deltaNet, rule: 'gated-delta', outputGate: 'silu' },
  },
  kda: {
    source: 'Kimi 2025',
    deviates: 'the output gate has full rank',
    config: { ...deltaNet, rule: 'kda', outputGate: 'sigmoid' },
  },
} as const satisfies Record<string, AttentionPreset>
export type AttentionPresetName = keyof typeof attentionPresets
