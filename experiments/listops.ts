/**
 * ListOps (Irie 2021, "Going beyond linear transformers with recurrent fast weight programmers"): the value of a nested expression, read at
 * its last bracket. A memory must keep what every open bracket holds. Tests: test/experiments.
 */
import type { TransformerConfig } from '../nn/transformer.ts'
import { listopsTasks } from '../tasks/listops.ts'
import type { Figure } from './figure.ts'
import { type Course, cellsOf, type Exam, type Lesson, type Stage } from './learn.ts'

interface Memory {
  readonly model: Partial<TransformerConfig>
  /** In percent, at depth 10, as others quote the paper. */
  readonly official?: number
}

const memories: Readonly<Record<string, Memory>> = {
  'linear attention': { model: { mixer: 'linear-attention', featureMap: 'elu1', featureNorm: 'none' } },
  delta: { model: { mixer: 'delta', featureMap: 'silu', featureNorm: 'l2' } },
  'Delta RNN': { model: { mixer: 'delta-rnn' } },
  'recurrent delta': { model: { mixer: 'recurrent-delta' } },
  LSTM: { model: { mixer: { kind: 'recurrent-net', net: 'lstm', heads: 1 } }, official: 88.5 },
}

/** Shallow expressions first: of deep ones alone nothing is learnt for a long time. The paper's depth counts operators, the task's level that of the digits. */
const stages: readonly Stage[] = [
  { until: 200, settings: { depth: 3 } },
  { until: 500, settings: { depth: 5 } },
  { until: 900, settings: { depth: 8 } },
]

const stepLimit = 2000

/** What a memory of the table learns. */
export const listopsLesson = (memory: string): Lesson => ({
  task: listopsTasks.listops,
  stages,
  model: {
    dModel: 64,
    heads: 4,
    layers: 2,
    dFf: 128,
    activation: 'relu',
    norm: 'layer',
    attentionNorm: true,
    embeddingStd: 0.3,
    ...memories[memory].model,
  },
  training: {
    ...{ batch: 32, optimizer: 'adamw', schedule: 'cosine', lr: 3e-3, matrixLr: 0, warmup: 50, lrFloor: 0.01, beta2: 0.995 },
    ...{ weightDecay: 0, clip: 1 },
  },
  search: { limit: stepLimit, every: 250, goal: 1, higher: true, patience: Infinity },
  test: { split: 'valid', examples: 200 },
  exams: [5, 11].map((depth): Exam => ({ settings: { depth }, split: 'test', examples: 1000 })),
})

const columns = ['depth 4', 'depth 10'] as const
const courses = Object.keys(memories).map(
  (row): Course => ({ row, columns, seconds: 180, lesson: listopsLesson(row), told: (share) => 100 * share }),
)

export const listops: Record<string, Figure> = {
  listops: {
    title: 'Nested expressions of MIN, MAX and FIRST',
    source: 'Irie 2021 (recurrent fast weight programmers), the figure of the LSTM as others quote it',
    measure: 'right values in percent, of which the commonest is 18; higher is better',
    axes: ['memory', 'depth'],
    scaled: `models 64 wide with two layers, ${stepLimit.toLocaleString('en')} steps of 32 fresh expressions, shallow ones first (published: 256 wide, four layers, 200 epochs of 10,000).`,
    cells: (seeds) => cellsOf(courses, seeds),
    official: (row, column) => (column === 'depth 10' ? memories[row]?.official : undefined),
  },
}
