/**
 * Code execution (Irie 2021, "Going beyond linear transformers with recurrent fast weight programmers"): what each print of a program prints. A memory must
 * keep the values of variables, change one of them by what it was, and act by what another is. Tests: test/experiments.
 */
import type { TransformerConfig } from '../nn/transformer.ts'
import { codeExecutionTasks } from '../tasks/code-execution.ts'
import type { Figure } from './figure.ts'
import { type Course, cellsOf, type Exam, type Lesson, type Stage } from './learn.ts'

const memories: Readonly<Record<string, Partial<TransformerConfig>>> = {
  'linear attention': { mixer: 'linear-attention', featureMap: 'elu1', featureNorm: 'none' },
  delta: { mixer: 'delta', featureMap: 'silu', featureNorm: 'l2' },
  'Delta RNN': { mixer: 'delta-rnn' },
  'recurrent delta': { mixer: 'recurrent-delta' },
  LSTM: { mixer: { kind: 'recurrent-net', net: 'lstm', heads: 1 } },
}

/** Short programs first. */
const stages: readonly Stage[] = [
  { until: 400, settings: { statements: 4 } },
  { until: 1000, settings: { statements: 7 } },
]
const statements = 12
const stepLimit = 2500

/** What a memory of the table learns. */
export const codeLesson = (memory: string): Lesson => ({
  task: codeExecutionTasks['code-execution'],
  settings: { statements },
  stages,
  model: {
    ...{ dModel: 96, heads: 4, layers: 2, dFf: 192, activation: 'relu', norm: 'layer', attentionNorm: true, embeddingStd: 0.3 },
    ...memories[memory],
  },
  training: {
    ...{ batch: 64, optimizer: 'adamw', schedule: 'cosine', lr: 3e-3, matrixLr: 0, warmup: 50, lrFloor: 0.01, beta2: 0.995 },
    ...{ weightDecay: 0, clip: 1 },
  },
  search: { limit: stepLimit, every: 250, goal: 1, higher: true, patience: Infinity },
  test: { split: 'valid', examples: 200 },
  // Almost every place is a blank, which is soon learnt.
  exams: (['places', 'sequences'] as const).map((metric): Exam => ({ split: 'test', examples: 1000, metric, blank: 0 })),
})

const courses = Object.keys(memories).map(
  (row): Course => ({ row, columns: ['prints', 'programs'], seconds: 400, lesson: codeLesson(row), told: (share) => 100 * share }),
)

export const codeExecution: Record<string, Figure> = {
  'code-execution': {
    title: 'What each print of a program prints',
    source:
      'Irie 2021 (recurrent fast weight programmers): of programs of 100 statements the LSTM has 99.0 % all right, a linear transformer none',
    measure: 'share in percent of prints that are right, and of programs whose prints all are; higher is better',
    axes: ['memory', 'of'],
    scaled: `programs of ${statements} statements over 3 variables, shorter ones first; models 96 wide with two layers, ${stepLimit.toLocaleString('en')} steps of 64 fresh programs (published: 100 statements, 256 wide, four layers, 200 epochs of 9,999).`,
    cells: (seeds) => cellsOf(courses, seeds),
    official: () => undefined,
  },
}
