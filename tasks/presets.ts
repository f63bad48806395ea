/** Training recipes: a model and how to train it. */
import type { Schedule } from '../nn/optimizers.ts'
import { constant, cosine, noam } from '../nn/optimizers.ts'
import { type AttentionPreset, type AttentionPresetName, attentionPresets } from '../nn/presets.ts'
import { labml, softmaxBaseline, type TransformerConfig } from '../nn/transformer.ts'

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

/** The default with the attention of a paper; where that is blind to order, positions come with the embedding. */
function withAttention(name: AttentionPresetName): Recipe {
  const { source, config }: AttentionPreset = attentionPresets[name]
  const positions = config.positions ?? (config.rule === 'linear-attention' ? 'sinusoidal' : 'none')
  return {
    description: `the default with the attention of ${source}`,
    model: { ...surroundings, ...config, positions },
    training: defaultTraining,
  }
}

const ofPapers = Object.fromEntries(
  Object.keys(attentionPresets).map((name) => [name, withAttention(name as AttentionPresetName)]),
) as Record<AttentionPresetName, Recipe>

export const presets = {
  default: {
    description:
      'delta rule, L2-normalised SiLU keys, short convolutions, norm for each head, Muon; 5 min 20 s on two cores of an AMD EPYC',
    model: { ...surroundings, featureMap: 'silu', featureNorm: 'l2', conv: 6, headNorm: true },
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
  ...ofPapers,
} satisfies Record<string, Recipe>
export type PresetName = keyof typeof presets

export function scheduleOf(training: TrainingConfig, dModel: number): Schedule {
  const { schedule, lr, warmup, steps, lrFloor } = training
  return { cosine: () => cosine(lr, warmup, steps, lr * lrFloor), noam: () => noam(dModel, warmup, lr), constant: () => constant(lr) }[
    schedule
  ]()
}
