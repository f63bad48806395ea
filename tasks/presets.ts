/** Training recipes: a model and how to train it. */

import { blind, completeMixer, type MixerName } from '../nn/mixers.ts'
import type { Module } from '../nn/module.ts'
import { Adam, AdamW, constant, cosine, Muon, noam, type Optimizer, type Schedule } from '../nn/optimizers.ts'
import { type AttentionPreset, type AttentionPresetName, attentionPresets } from '../nn/presets.ts'
import type { RecurrentNetConfig, RecurrentNetName } from '../nn/recurrent-net.ts'
import { labml, layerMixers, softmaxBaseline, type TransformerConfig } from '../nn/transformer.ts'

export interface TrainingConfig {
  /** T, characters in a sequence; B, sequences in a batch. */
  seqLen: number
  batch: number
  steps: number
  optimizer: 'adam' | 'adamw' | 'muon'
  schedule: 'cosine' | 'noam' | 'constant'
  /** Peak rate; for noam, the factor. */
  lr: number
  /** Muon's rate for the matrices of the layers, at the peak. */
  matrixLr: number
  warmup: number
  /** What the cosine falls to, as a part of the peak. */
  lrFloor: number
  beta2: number
  weightDecay: number
  /** Bound on the gradient's norm; 0 for none. */
  clip: number
  /** `random`: rows start anywhere; `epoch`: labml's, every piece of the text once an epoch. */
  sampling: 'random' | 'epoch'
  prompt: string
}

export interface Recipe {
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
export type PresetName = keyof typeof presets

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
