/**
 * Multi-query associative recall (Arora 2023, "Zoology", figure 2): how wide a model has to be to recall several keys. Softmax attention that is told which token came before recalls them at any width;
 * what has a memory of fixed size needs one that grows with the number of pairs. Tests: test/experiments.
 */
import type { TransformerConfig } from '../nn/transformer.ts'
import { mqar } from '../tasks/mqar.ts'
import type { Figure } from './figure.ts'
import { type Course, cellsOf, type Lesson } from './learn.ts'

const widths = [16, 32, 64] as const

const delta = { featureMap: 'silu', featureNorm: 'l2', conv: 4, headNorm: true } as const
const memories: Readonly<Record<string, Partial<TransformerConfig>>> = {
  // It has no short convolution: an RNN tells it which token came before.
  'softmax behind an RNN': { mixer: ['rnn', 'softmax'] },
  'linear attention': { mixer: 'linear-attention', featureMap: 'elu1', featureNorm: 'none', conv: 4 },
  delta: { ...delta, mixer: 'delta' },
  'gated delta': { ...delta, mixer: 'gated-delta' },
}

const settings = { vocabulary: 128, length: 64, pairs: 16 }
const stepLimit = 1000

/** What a memory of the table learns in a model so wide. */
export const mqarLesson = (dModel: number, memory: string): Lesson => ({
  task: mqar,
  settings,
  // The smallest feed-forward part that a layer can have: published without one.
  model: { dModel, heads: 1, layers: 2, dFf: 1, norm: 'rms', attentionNorm: true, embeddingStd: 0.02, chunk: 16, ...memories[memory] },
  training: {
    ...{ batch: 64, optimizer: 'adamw', schedule: 'cosine', lr: 0.01, matrixLr: 0, warmup: 50, lrFloor: 0.01, beta2: 0.99 },
    ...{ weightDecay: 0.1, clip: 1 },
  },
  search: { limit: stepLimit, every: 100, goal: 0.99, higher: true, patience: Infinity },
  test: { split: 'valid', examples: 256 },
  exams: [{ split: 'test', examples: 1024 }],
})

const courses = Object.keys(memories).flatMap((row) =>
  widths.map((width): Course => ({ row, columns: [width], seconds: 10 + width / 2, lesson: mqarLesson(width, row) })),
)

export const multiQuery: Record<string, Figure> = {
  mqar: {
    title: 'Recall of many keys, by the width of the model',
    source: 'Arora 2023, figure 2, which is a picture without numbers',
    measure: 'share of right answers; higher is better',
    axes: ['memory', 'width'],
    scaled: `a vocabulary of ${settings.vocabulary} (published: 8,192), ${settings.pairs} pairs in ${settings.length} tokens, widths from 16 (published: from 64); at most ${stepLimit.toLocaleString('en')} steps of 64 fresh sequences, fewer where 99 % of validation are right (published: 64 epochs of 100,000 sequences), at one learning rate (published: the best of four); softmax attention has an RNN before it instead of positions, linear attention and the delta rules convolutions of four taps; 1,024 sequences are asked.`,
    cells: (seeds) => cellsOf(courses, seeds, ({ columns }) => `_d${columns[0]}`),
    official: () => undefined,
  },
}
