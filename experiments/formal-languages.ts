/**
 * Formal languages with an answer at each place (Irie 2023, "Practical computational power of linear transformers", section 4): what a memory needs to follow a
 * regular language, and strings longer than those of training. Tests: test/experiments.
 */
import type { TransformerConfig } from '../nn/transformer.ts'
import { aaStar, dyck1, parity, resetDyck1 } from '../tasks/languages.ts'
import type { AnyTask } from '../tasks/task.ts'
import { type Figure, fileName } from './figure.ts'
import { type Course, cellsOf, type Lesson } from './learn.ts'

const languages: Readonly<Record<string, AnyTask>> = { parity, '(aa)*': aaStar, 'Dyck-1': dyck1, 'reset Dyck-1': resetDyck1 }

const delta = { featureMap: 'silu', featureNorm: 'l2' } as const
const memories: Readonly<Record<string, Partial<TransformerConfig>>> = {
  'linear attention': { mixer: 'linear-attention', featureMap: 'elu1', featureNorm: 'none' },
  'delta, strengths to 1': { ...delta, mixer: 'delta' },
  'delta, strengths to 2': { ...delta, mixer: 'delta', betaRange: 2 },
  'recurrent delta': { mixer: 'recurrent-delta' },
  'self-referential': { mixer: 'srwm' },
  LSTM: { mixer: { kind: 'recurrent-net', net: 'lstm', heads: 1 } },
}

const stepLimit = 1000

/** What a memory of the table learns. */
export const languageLesson = (task: AnyTask, memory: string): Lesson => ({
  task,
  model: {
    dModel: 32,
    heads: 4,
    layers: 2,
    dFf: 64,
    activation: 'relu',
    norm: 'layer',
    attentionNorm: true,
    embeddingStd: 0.3,
    chunk: 16,
    ...memories[memory],
  },
  training: {
    ...{ batch: 32, optimizer: 'adamw', schedule: 'cosine', lr: 5e-3, matrixLr: 0, warmup: 50, lrFloor: 0.01, beta2: 0.995 },
    ...{ weightDecay: 0, clip: 1 },
  },
  search: { limit: stepLimit, every: 100, goal: 1, higher: true, patience: Infinity },
  // Of the length of training and longer: where all of these are right, the rule is found.
  test: { settings: { minLength: 26, maxLength: 75 }, split: 'valid', examples: 100 },
  exams: [
    { split: 'valid', examples: 200 },
    { split: 'test', examples: 200 },
  ],
})

const courses = Object.keys(memories).flatMap((row) =>
  Object.entries(languages).map(
    ([language, task]): Course => ({
      row,
      columns: [`${language}, to 50`, `${language}, 51-100`],
      seconds: 30,
      lesson: languageLesson(task, row),
    }),
  ),
)

export const formalLanguages: Record<string, Figure> = {
  'formal-languages': {
    title: 'Formal languages with an answer at each place',
    source: 'Irie 2023, section 4, with the data of Bhattamishra 2020; without official values',
    measure: 'share of strings with all answers right; higher is better',
    axes: ['memory', 'language and lengths'],
    scaled: `models 32 wide with two layers, at most ${stepLimit.toLocaleString('en')} steps of 32 fresh strings (published: 300 epochs of 10,000 strings), fewer where 100 strings of 26 to 75 letters are all right; at most 200 strings are asked (published: 2,000).`,
    cells: (seeds) => cellsOf(courses, seeds, ({ columns }) => `_${fileName(columns[0])}`),
    official: () => undefined,
  },
}
