/** Configurations of FastWeightsAttention, named after the papers they are from. */
import type { FastWeightsAttentionConfig } from './attention.ts'

/** A layer as a paper has it: its settings, and where these come from. */
export interface AttentionPreset {
  /** The paper, or the package. */
  source: string
  /** What is not as in the source; widths of heads are dModel / heads for keys and values alike in all of them. */
  deviates: string
  /** What differs from the layer's defaults. */
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

/** Receptance, key and value of RWKV: no feature map; a convolution of two taps for the token shift. */
const rwkv = {
  featureMap: 'identity',
  featureNorm: 'none',
  conv: 2,
} as const satisfies Partial<FastWeightsAttentionConfig>
const tokenShift = 'convolutions of two taps behind the projections in place of token shifts before them'
const alike = "decays and the present token's bonus begin alike in all layers"
const drawnFrom0 = 'A of the gates from U(0, 16), not U(1, 16)'

/** Layers of papers and packages by name, as settings of `FastWeightsAttention`. */
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
    deviates: `every head has keys and queries of its own (B and C there); values are not scaled by dt, nor passed on beside the state (D); norm for each head, before the output gate, not after; ${drawnFrom0}`,
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
    deviates: `the output gate has full rank; ${drawnFrom0}, and dt_bias drawn as gated DeltaNet's, not 0`,
    config: { ...deltaNet, rule: 'kda', outputGate: 'sigmoid' },
  },
  comba: {
    source: 'Hu 2025 (Comba); flash-linear-attention, comba',
    deviates:
      "p is the normalised key times its head's factor, and is taken from the normalised query; flash-linear-attention's layer normalises both afterwards, so that the factor cancels",
    config: { ...deltaNet, rule: 'comba', outputGate: 'sigmoid' },
  },
  gdn2: {
    source: 'flash-linear-attention, gdn2',
    deviates: `erase and write gates by way of as many numbers as a head is wide; the output gate is that of KDA, with full rank; ${drawnFrom0}`,
    config: { ...deltaNet, rule: 'gdn2', outputGate: 'sigmoid' },
  },
  'precond-kda': {
    source: 'flash-linear-attention, precond_kda',
    deviates: `the output gate has full rank; ${drawnFrom0}, and dt_bias of the one for each channel drawn as gated DeltaNet's, not 0`,
    config: { ...deltaNet, rule: 'precond-kda', outputGate: 'sigmoid' },
  },
  'gated-deltaproduct': {
    source: 'Siems 2025 (DeltaProduct), gated, two steps a token, eigenvalues from -1 to 1',
    deviates: 'values as wide as keys',
    config: { ...deltaNet, rule: 'delta-product', stepsPerToken: 2, betaRange: 2, outputGate: 'silu' },
  },
  'momentum-delta': {
    source: 'flash-linear-attention, momentum_delta_rule',
    deviates:
      "values as wide as keys, not twice; queries are corrected after their norm, by normalised keys, and not normalised again; the bias of momentum's decay is drawn apart from the gate's; p and that decay have no settings of their own",
    config: { ...deltaNet, rule: 'delta-momentum', outputGate: 'silu', chunk: 32 },
  },
  hgrn2: {
    source: 'Qin 2024 (HGRN2); flash-linear-attention, hgrn2',
    deviates: 'forget gates have no lower bounds that grow with the layer; the norm is one for each head, not over the whole width',
    config: {
      rule: 'hgrn2',
      gate: 'logsigmoid',
      gateDivisor: 1,
      gateRank: 'full',
      featureMap: 'silu',
      featureNorm: 'none',
      scale: 'sqrt',
      headNorm: true,
      chunk: 16,
    },
  },
  lightning: {
    source: 'Qin 2024 (lightning attention 2); flash-linear-attention, lightning_attn',
    deviates: 'norm for each head; no positions in the first layer',
    config: {
      rule: 'retnet',
      headDecay: 'lightning',
      featureMap: 'silu',
      featureNorm: 'none',
      valueMap: 'silu',
      scale: 'sqrt',
      headNorm: true,
      outputGate: 'sigmoid',
      chunk: 16,
    },
  },
  gsa: {
    source: 'Zhang 2024 (GSA); flash-linear-attention, gsa',
    deviates: '16 slots, not 64; norm for each head, without the SiLU before it',
    config: {
      rule: 'gsa',
      gate: 'logsigmoid',
      gateDivisor: 8,
      gateRank: 'full',
      slots: 16,
      featureMap: 'silu',
      featureNorm: 'none',
      valueMap: 'silu',
      headNorm: true,
      chunk: 16,
    },
  },
  rwkv4: {
    source: 'Peng 2023 (RWKV)',
    deviates: `${tokenShift}; ${alike}`,
    config: { ...rwkv, rule: 'rwkv4', outputGate: 'sigmoid' },
  },
  rwkv5: {
    source: 'Peng 2024 (Eagle)',
    deviates: `${tokenShift}; RMS instead of group norm; ${alike}`,
    config: { ...rwkv, rule: 'rwkv5', headNorm: true, outputGate: 'silu', chunk: 16 },
  },
  rwkv6: {
    source: 'Peng 2024 (Finch)',
    deviates: `${tokenShift}, which don't depend on the input; gates by way of as many numbers as a head is wide, without tanh; RMS instead of group norm; ${alike}`,
    config: { ...rwkv, rule: 'rwkv6', gate: 'exp', headNorm: true, outputGate: 'silu', chunk: 16 },
  },
  'log-linear': {
    source: 'Guo 2025 (log-linear attention), over Mamba-2',
    deviates:
      'every head has keys and queries of its own; values are not scaled by dt, nor passed on beside the state; 12 levels, of which the last takes in all that is older than 1024 tokens, without a factor for each head and level; A of the gates from U(0, 16), not 1, 2, ... over the heads; norm for each head, before the output gate, not after',
    config: {
      rule: 'log-linear',
      featureMap: 'silu',
      featureNorm: 'none',
      valueMap: 'silu',
      conv: 4,
      headNorm: true,
      outputGate: 'silu',
    },
  },
  'ttt-linear': {
    source: 'Sun 2024 (TTT-linear)',
    deviates:
      'keys and queries of length 1, and so a first matrix with a standard deviation of 0.2, not 0.02, and no first bias that is learned; no positions; a convolution of its own on each of queries, keys and values; what is read has an RMS norm for each head and a SiLU gate; inner rates do not fall over a minibatch',
    config: { rule: 'ttt', featureMap: 'identity', featureNorm: 'l2', conv: 4, headNorm: true, outputGate: 'silu' },
  },
  titans: {
    source: 'Behrouz 2025 (Titans), the memory as a layer; flash-linear-attention, titans',
    deviates:
      'a matrix for a memory, minibatches of 16 tokens; the inner loss is that of TTT-linear, v - k through a layer norm, and as there the first matrix is learned; no persistent memory and no attention beside it',
    config: { ...deltaNet, rule: 'titans', scale: 'none', outputGate: 'silu' },
  },
} as const satisfies Record<string, AttentionPreset>
/** The name of a layer of a paper: a key of `attentionPresets`. */
export type AttentionPresetName = keyof typeof attentionPresets
