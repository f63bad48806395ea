/** Training recipes: a model and how to train it. */

import { blind, completeMixer, type MixerName } from '../nn/mixers.ts'
import type { Module } from '../nn/module.ts'
import { Adam, AdamW, constant, cosine, Muon, noam, type Optimizer, type Schedule } from '../nn/optimizers.ts'
import { type AttentionPreset, type AttentionPresetName, attentionPresets } from '../nn/presets.ts'
import type { JsonObject, PackageName } from '../nn/pretrained/architecture.ts'
import type { RecurrentNetConfig, RecurrentNetName } from '../nn/recurrent-net.ts'
import { labml, layerMixers, softmaxBaseline, type TransformerConfig } from '../nn/transformer.ts'

/** How a model is trained: batches, optimiser, schedule. */
export interface TrainingConfig {
  /** T, characters in a sequence. */
  seqLen: number
  /** B, sequences in a batch. */
  batch: number
  /** Steps of training in all. */
  steps: number
  optimizer: 'adam' | 'adamw' | 'muon'
  schedule: 'cosine' | 'noam' | 'constant'
  /** Peak rate; for noam, the factor. */
  lr: number
  /** Muon's rate for the matrices of the layers, at the peak. */
  matrixLr: number
  /** Steps in which the rate rises. */
  warmup: number
  /** What the cosine falls to, as a part of the peak. */
  lrFloor: number
  /** Adam's decay of the mean of squares. */
  beta2: number
  weightDecay: number
  /** Bound on the gradient's norm; 0 for none. */
  clip: number
  /** `random`: rows start anywhere; `epoch`: labml's, every piece of the text once an epoch. */
  sampling: 'random' | 'epoch'
  /** What samples go on from. */
  prompt: string
}

/** A model and how to train it: what `--preset` names. */
export interface Recipe {
  /** One line. */
  description: string
  model: Omit<TransformerConfig, 'symbols'>
  training: TrainingConfig
}

const labmlTraining: TrainingConfig = {
  seqLen: 128,
  batch: 16,
  steps: 62_720,
  optimizer: 'adam',
  schedule: 'noam',
  lr: 1,
  matrixLr: 0.02,
  warmup: 2000,
  lrFloor: 0,
  beta2: 0.999,
  weightDecay: 0,
  clip: 1,
  sampling: 'epoch',
  prompt: 'It is',
}

const defaultTraining: TrainingConfig = {
  seqLen: 256,
  batch: 8,
  steps: 600,
  optimizer: 'muon',
  schedule: 'cosine',
  lr: 0.01,
  matrixLr: 0.04,
  warmup: 20,
  lrFloor: 0.01,
  beta2: 0.99,
  weightDecay: 0.2,
  clip: 1,
  sampling: 'random',
  prompt: 'It is',
}

const small = { dModel: 128, heads: 4, layers: 4, dFf: 512, chunk: 16 }

/** Everything of the default but its attention. */
const surroundings: Omit<TransformerConfig, 'symbols'> = {
  ...labml,
  ...small,
  attentionNorm: true,
  norm: 'rms',
  activation: 'relu',
  embeddingStd: 0.3,
}

/** A model; where it is blind to order, positions come with the embedding. */
function placed(model: Recipe['model']): Recipe['model'] {
  return blind(layerMixers({ ...model, symbols: 1 })) ? { ...model, positions: 'sinusoidal' } : model
}

/** The default with the attention of a paper. */
function withAttention(name: AttentionPresetName): Recipe {
  const { source, config }: AttentionPreset = attentionPresets[name]
  return {
    description: `the default with the attention of ${source}`,
    model: placed({ ...surroundings, ...config }),
    training: defaultTraining,
  }
}

/** The default with another mixer, as it is by default. */
const withMixer = (kind: MixerName, description: string): Recipe => ({
  description: `the default with ${description}`,
  model: placed({ ...surroundings, mixer: completeMixer(kind) }),
  training: defaultTraining,
})

/** The default with a recurrent net; Irie's have no biases. */
const withNet = (net: RecurrentNetName, source: string, { heads = small.heads, ...own }: Partial<RecurrentNetConfig> = {}): Recipe => ({
  description: `the default with ${source}`,
  model: placed({ ...surroundings, heads, mixer: completeMixer({ kind: 'recurrent-net', net, ...own }) }),
  training: defaultTraining,
})
const unbiased = { projectionBias: false }
/** A baseline whose units all see each other. */
const oneHead = { heads: 1 }

/** The delta rule alone. */
const delta: Omit<TransformerConfig, 'symbols'> = { ...surroundings, featureMap: 'silu', featureNorm: 'l2', conv: 6, headNorm: true }

const ofPapers = Object.fromEntries(
  Object.keys(attentionPresets).map((name) => [name, withAttention(name as AttentionPresetName)]),
) as Record<AttentionPresetName, Recipe>

/** The recipes by name. */
export const presets = {
  default: {
    ...ofPapers.comba,
    description: 'Comba (Hu 2025), four heads a layer, Muon; 2 min 13 s on two cores of an AMD EPYC, 1 min 22 s with Node 24',
  },
  delta: {
    description: 'the delta rule alone: four heads, write strengths up to 1, L2-normalised SiLU keys, short convolutions; 600 steps',
    model: delta,
    training: defaultTraining,
  },
  labml: {
    description: "labml's fast weights transformer and experiment: d 512, 8 heads, 6 layers, DPFP nu 1, Noam; 128 epochs",
    model: labml,
    training: labmlTraining,
  },
  'labml-small': {
    description: "labml's model at d 128, 4 heads, 4 layers",
    model: { ...labml, ...small },
    training: { ...labmlTraining, steps: 2000 },
  },
  softmax: {
    description: 'the softmax attention baseline at the size of the default',
    model: { ...softmaxBaseline, ...small, norm: 'rms', embeddingStd: 0.3 },
    training: defaultTraining,
  },
  'labml-aft': {
    description: "labml's AFT-local transformer and experiment: d 128, window 32, 6 layers, sinusoidal positions, Noam; 128 epochs",
    model: {
      ...labml,
      dModel: 128,
      dFf: 256,
      mixer: completeMixer({ kind: 'aft-local', tableLength: 256, window: 32 }),
      attentionNorm: true,
      positions: 'sinusoidal',
      embeddingScale: 'sqrt',
      dropout: 0.1,
    },
    training: { ...labmlTraining, seqLen: 256, batch: 32, steps: 15_744, prompt: 'It is ' },
  },
  'aft-full': withMixer('aft-full', 'an attention free transformer, biases for all pairs of 256 places (Zhai 2021)'),
  'aft-local': withMixer('aft-local', 'AFT-local: biases for pairs less than 32 places apart'),
  'aft-simple': withMixer('aft-simple', 'AFT-simple: no biases, sinusoidal positions'),
  'aft-conv': withMixer('aft-conv', 'AFT-conv: biases by distance, less than 32 places, for each of 4 heads'),
  'delta-rnn': withNet('delta-rnn', 'Delta RNNs (Irie 2021)', unbiased),
  'delta-lstm': withNet('delta-lstm', 'Delta LSTMs, version 4 (Irie 2021)', unbiased),
  'delta-mlp': withNet('delta-mlp', 'Delta MLPs of one block (Irie 2021)', unbiased),
  'delta-delta': withNet('delta-delta', 'Delta-Delta nets (Irie 2021)', unbiased),
  'recurrent-delta': withNet('recurrent-delta', 'recurrent delta nets, RDN (Irie 2021)', unbiased),
  srwm: withNet('srwm', 'self-referential weight matrices (Irie 2022)'),
  smfwp: withNet('smfwp', 'self-modifying fast weight programmers (Irie 2022)'),
  fwm: withNet('fwm', 'fast weight memories (Schlag 2021)', unbiased),
  ba: withNet('ba', 'fast weights that attend to the recent past (Ba 2016), one inner step'),
  programmer: withNet('programmer', 'the fast weight programmer of 1991'),
  'recurrent-programmer': withNet('recurrent-programmer', 'the recurrent fast weight programmer of 1993'),
  lstm: withNet('lstm', 'LSTMs of one head', oneHead),
  gru: withNet('gru', 'GRUs of one head', oneHead),
  rnn: withNet('rnn', 'vanilla RNNs of one head', oneHead),
  ...ofPapers,
} satisfies Record<string, Recipe>
/** The name of a recipe: a key of `presets`. */
export type PresetName = keyof typeof presets

/** A model of another package's architecture, small, to be trained here and exported as that package's files. */
export interface PackageRecipe {
  /** One line. */
  description: string
  package: PackageName
  /** Its config.json, but for the vocabulary. */
  config: JsonObject
  training: TrainingConfig
}

const packageTraining: TrainingConfig = { ...defaultTraining, optimizer: 'adamw', lr: 0.004, weightDecay: 0.1 }

/** Sizes of the default; no token of a text of characters begins it, ends it or fills it up. */
const ofPackage = (name: PackageName, modelType: string, className: string, source: string, own: JsonObject): PackageRecipe => ({
  description: `${source}, as ${name} has it: export writes its files`,
  package: name,
  config: {
    architectures: [className],
    model_type: modelType,
    dtype: 'float32',
    hidden_size: 128,
    num_hidden_layers: 4,
    bos_token_id: null,
    eos_token_id: null,
    pad_token_id: null,
    tie_word_embeddings: false,
    ...own,
  },
  training: packageTraining,
})
const fourHeads = { num_heads: 4, intermediate_size: 384 }
const hybridLayers = { layer_types: ['linear_attention', 'linear_attention', 'linear_attention', 'full_attention'], intermediate_size: 384 }
const qwenLayers = {
  ...hybridLayers,
  linear_num_key_heads: 4,
  linear_num_value_heads: 4,
  linear_key_head_dim: 32,
  linear_value_head_dim: 32,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 32,
}
const experts = { moe_intermediate_size: 128, num_experts: 4 }

/** Recipes of other packages' architectures by name. */
export const packagePresets = {
  'fla-deltanet': ofPackage('fla', 'delta_net', 'DeltaNetForCausalLM', 'DeltaNet', fourHeads),
  'fla-gated-deltanet': ofPackage('fla', 'gated_deltanet', 'GatedDeltaNetForCausalLM', 'Gated DeltaNet', {
    ...fourHeads,
    head_dim: 32,
    expand_v: 1,
  }),
  'fla-kda': ofPackage('fla', 'kda', 'KDAForCausalLM', 'Kimi delta attention', { ...fourHeads, head_dim: 32 }),
  'fla-gla': ofPackage('fla', 'gla', 'GLAForCausalLM', 'gated linear attention', fourHeads),
  'fla-retnet': ofPackage('fla', 'retnet', 'RetNetForCausalLM', 'RetNet', fourHeads),
  rwkv7: ofPackage('fla', 'rwkv7', 'RWKV7ForCausalLM', 'RWKV-7', {
    head_dim: 32,
    num_heads: 4,
    value_dim: [128, 128, 128, 128],
    intermediate_size: 512,
    decay_low_rank_dim: 16,
    a_low_rank_dim: 16,
    v_low_rank_dim: 16,
    gate_low_rank_dim: 32,
  }),
  'qwen3-next': ofPackage('transformers', 'qwen3_next', 'Qwen3NextForCausalLM', 'Qwen3-Next, four experts a layer', {
    ...qwenLayers,
    ...experts,
    num_experts_per_tok: 2,
    shared_expert_intermediate_size: 128,
  }),
  'qwen3.5': ofPackage('transformers', 'qwen3_5_text', 'Qwen3_5ForCausalLM', 'Qwen3.5', qwenLayers),
  'olmo-hybrid': ofPackage('transformers', 'olmo_hybrid', 'OlmoHybridForCausalLM', 'OLMo Hybrid', {
    ...hybridLayers,
    num_attention_heads: 4,
    num_key_value_heads: 4,
    linear_num_key_heads: 4,
    linear_num_value_heads: 4,
    linear_key_head_dim: 24,
    linear_value_head_dim: 48,
  }),
  'kimi-linear': ofPackage('transformers', 'kimi_linear', 'KimiLinearForCausalLM', 'Kimi Linear, four experts a layer', {
    ...hybridLayers,
    ...experts,
    mlp_layer_types: ['dense', 'sparse', 'sparse', 'sparse'],
    num_experts_per_token: 2,
    linear_num_heads: 4,
    linear_head_dim: 32,
    num_attention_heads: 4,
    num_key_value_heads: 4,
    q_lora_rank: null,
    kv_lora_rank: 32,
    qk_nope_head_dim: 24,
    qk_rope_head_dim: 8,
    v_head_dim: 32,
    head_dim: 8,
  }),
  mamba2: ofPackage('transformers', 'mamba2', 'Mamba2ForCausalLM', 'Mamba-2', {
    num_heads: 8,
    head_dim: 32,
    state_size: 32,
    n_groups: 1,
    chunk_size: 32,
    layer_norm_epsilon: 1e-5,
  }),
  'transformers-rwkv': ofPackage('transformers', 'rwkv', 'RwkvForCausalLM', 'RWKV-4', {
    attention_hidden_size: 128,
    intermediate_size: 512,
  }),
} satisfies Record<string, PackageRecipe>
/** The name of a recipe of another package's architecture: a key of `packagePresets`. */
export type PackagePresetName = keyof typeof packagePresets
/** Whether a recipe of this name is one of another package's architecture. */
export const isPackagePreset = (name: string): name is PackagePresetName => Object.hasOwn(packagePresets, name)

/** The learning-rate schedule of a recipe. */
export function scheduleOf(
  { schedule, lr, warmup, steps, lrFloor }: Pick<TrainingConfig, 'schedule' | 'lr' | 'warmup' | 'steps' | 'lrFloor'>,
  dModel: number,
): Schedule {
  return { cosine: () => cosine(lr, warmup, steps, lr * lrFloor), noam: () => noam(dModel, warmup, lr), constant: () => constant(lr) }[
    schedule
  ]()
}

/** The optimiser of a recipe for a model; vectors don't decay. */
export function optimizerOf(
  model: Module,
  { optimizer, lr, matrixLr, beta2, weightDecay }: Pick<TrainingConfig, 'optimizer' | 'lr' | 'matrixLr' | 'beta2' | 'weightDecay'>,
): Optimizer {
  const kinds = { adam: Adam, adamw: AdamW, muon: Muon }
  return new kinds[optimizer](model.namedParameters(), {
    lr,
    matrixLr,
    betas: [0.9, beta2],
    weightDecay,
    decays: (_, p) => p.shape.length >= 2,
  })
}
