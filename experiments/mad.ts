/**
 * The six tasks of MAD (Poli 2024): recall of keys in noise and of several tokens, what is the same in all sequences, copying without blanks, and a sequence
 * from one vector. Tests: test/experiments.
 */
import type { TransformerConfig } from '../nn/transformer.ts'
import * as mad from '../tasks/mad.ts'
import type { AnyTask } from '../tasks/task.ts'
import type { Figure } from './figure.ts'
import { type Course, cellsOf, type Lesson } from './learn.ts'

interface Memory {
  readonly model: Partial<TransformerConfig>
  /** In percent, by column. */
  readonly official?: readonly number[]
}

const delta = { featureMap: 'silu', featureNorm: 'l2', conv: 4, headNorm: true } as const
const memories: Readonly<Record<string, Memory>> = {
  softmax: { model: { mixer: 'softmax', positions: 'rotary', heads: 4 }, official: [94.1, 86.8, 29.8, 85.2, 99.6, 51.6] },
  'linear attention': { model: { mixer: 'linear-attention', featureMap: 'elu1', featureNorm: 'none', conv: 4 } },
  delta: { model: { ...delta, mixer: 'delta' }, official: [100, 100, 35.7, 52.8, 100, 42.2] },
  'gated delta': { model: { ...delta, mixer: 'gated-delta' } },
}

interface Column {
  readonly task: AnyTask
  /** Sequences of a step, so that it has some 4,000 tokens. */
  readonly batch: number
}
const columns: Readonly<Record<string, Column>> = {
  'in-context recall': { task: mad.madInContextRecall, batch: 32 },
  'noisy recall': { task: mad.madNoisyRecall, batch: 32 },
  'fuzzy recall': { task: mad.madFuzzyRecall, batch: 32 },
  memorization: { task: mad.madMemorization, batch: 128 },
  'selective copy': { task: mad.madSelectiveCopy, batch: 16 },
  compression: { task: mad.madCompression, batch: 128 },
}

const stepLimit = 1500

/** What a memory of the table learns. */
export const madLesson = (memory: string, column: string): Lesson => ({
  task: columns[column].task,
  model: {
    ...{ dModel: 64, heads: 2, layers: 2, dFf: 128, activation: 'silu', norm: 'rms', attentionNorm: true, embeddingStd: 0.02, chunk: 16 },
    ...memories[memory].model,
  },
  training: {
    ...{ batch: columns[column].batch, optimizer: 'adamw', schedule: 'cosine', lr: 4e-3, matrixLr: 0, warmup: 50, lrFloor: 0.01 },
    ...{ beta2: 0.99, weightDecay: 0.1, clip: 1 },
  },
  search: { limit: stepLimit, every: 100, goal: 0.999, higher: true, patience: Infinity },
  test: { split: 'valid', examples: 128 },
  exams: [{ split: 'test', examples: 512 }],
})

const courses = Object.keys(memories).flatMap((row) =>
  Object.keys(columns).map(
    (column): Course => ({ row, columns: [column], seconds: 60, lesson: madLesson(row, column), told: (share) => 100 * share }),
  ),
)

export const madTasks: Record<string, Figure> = {
  mad: {
    title: 'The six tasks of MAD',
    source: 'Yang 2024 (DeltaNet), its table of MAD; tasks of Poli 2024 and athms/mad-lab (0f49a45)',
    measure: 'right answers in percent, the mean over the answers that there are; higher is better',
    axes: ['memory', 'task'],
    scaled: `models 64 wide with two layers (published: 128), the tasks' base settings (published: the mean over several); at most ${stepLimit.toLocaleString('en')} steps of some 4,000 tokens of fresh sequences, fewer where 99.9 % of validation are right (published: 200 epochs of 12,800 sequences, the best of six recipes).`,
    cells: (seeds) => cellsOf(courses, seeds, ({ columns }) => `_${columns[0]}`),
    official: (row, column) => memories[row]?.official?.[Object.keys(columns).indexOf(`${column}`)],
  },
}
