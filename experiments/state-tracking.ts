/**
 * State tracking (Grazzi 2025): a memory whose write strengths end at 1 can only shrink what it holds, and finds no parity of long sequences; with strengths
 * up to 2 it turns it round; several steps a token do more (Siems 2025). Trained on up to 40 symbols, asked of up to 256. Tests: test/experiments.
 */
import type { TransformerConfig } from '../nn/transformer.ts'
import { modularArithmetic, parityFinal } from '../tasks/state-tracking.ts'
import type { Figure } from './figure.ts'
import { type Course, cellsOf, type Exam, type Lesson } from './learn.ts'

const bins = { '3-40': [3, 40], '41-80': [41, 80], '81-160': [81, 160], '161-256': [161, 256] } as const
const exams = Object.values(bins).map(([testMin, testMax]): Exam => ({ settings: { testMin, testMax }, split: 'test', examples: 256 }))

const model = {
  ...{ dModel: 128, heads: 4, layers: 2, dFf: 256, activation: 'silu', norm: 'rms', attentionNorm: true, embeddingStd: 0.02 },
  ...{ featureMap: 'silu', featureNorm: 'l2', conv: 4, headNorm: true, chunk: 16 },
} as const satisfies Partial<TransformerConfig>

const training: Lesson['training'] = {
  ...{ batch: 64, optimizer: 'muon', schedule: 'cosine', lr: 0.01, matrixLr: 0.04, warmup: 20, lrFloor: 0.01, beta2: 0.99 },
  ...{ weightDecay: 0, clip: 1 },
}

interface Row {
  /** Where it differs from the figure's model. */
  readonly model: Partial<TransformerConfig>
  /** Shares of right answers of the official runs, from 0 for guessing to 1, by column. */
  readonly official?: readonly number[]
}

interface Plan {
  readonly rows: Readonly<Record<string, Row>>
  /** The share of right answers of one who guesses. */
  readonly chance: number
  readonly seconds: number
  readonly lesson: (row: string) => Lesson
}

function figure({ rows, chance, seconds, lesson }: Plan, about: Pick<Figure, 'title' | 'source' | 'scaled'>): Figure {
  const columns = Object.keys(bins)
  const told = (share: number): number => (share - chance) / (1 - chance)
  const courses = Object.keys(rows).map((row): Course => ({ row, columns, seconds, lesson: lesson(row), told }))
  return {
    ...about,
    measure: `share of right answers, from 0 for guessing (${chance}) to 1; higher is better`,
    axes: ['memory', 'length'],
    cells: (seeds) => cellsOf(courses, seeds),
    official: (row, column) => rows[row]?.official?.[columns.indexOf(`${column}`)],
  }
}

const parityRows: Readonly<Record<string, Row>> = {
  'delta, strengths to 1': { model: {}, official: [0.993, 0.339, -0.01, 0.006] },
  'delta, strengths to 2': { model: { betaRange: 2 }, official: [1, 1, 1, 1] },
}
const paritySteps = 2000
const parityLesson = (row: string): Lesson => ({
  task: parityFinal,
  model: { ...model, ...parityRows[row].model },
  training,
  search: { limit: paritySteps, every: 100, goal: 1, higher: true, patience: Infinity },
  test: { settings: { testMin: 81, testMax: 256 }, split: 'valid', examples: 128 },
  exams,
})

const arithmeticRows: Readonly<Record<string, Row>> = {
  'delta, strengths to 1': { model: {}, official: [0.998, 0.738, 0.046, -0.007] },
  'delta, strengths to 2': { model: { betaRange: 2 }, official: [0.999, 0.974, 0.803, 0.295] },
  // The rule has a gate; this one forgets next to nothing.
  'DeltaProduct, 2 steps to 2': {
    model: { betaRange: 2, rule: 'delta-product', stepsPerToken: 2, gate: 'logsigmoid', gateDivisor: 10_000 },
  },
}
const arithmeticSteps = 4000
/** What a memory of the table learns. Each sign of a sequence asks, ten of them on average. */
export const arithmeticLesson = (row: string): Lesson => ({
  task: modularArithmetic,
  settings: { prefixes: true },
  model: { ...model, ...arithmeticRows[row].model },
  training,
  search: { limit: arithmeticSteps, every: 200, goal: 1, higher: true, patience: Infinity },
  test: { settings: { prefixes: false, testMin: 21, testMax: 80 }, split: 'valid', examples: 128 },
  exams: exams.map((exam) => ({ ...exam, settings: { ...exam.settings, prefixes: false } })),
})

const source = 'Grazzi 2025, figure 4; the curves of automl/unlocking_state_tracking (df8f840), means over lengths of one model each'

export const stateTracking: Record<string, Figure> = {
  'parity-lengths': figure(
    { rows: parityRows, chance: 1 / 2, seconds: 90, lesson: parityLesson },
    {
      title: 'Parity of sequences longer than those of training',
      source,
      scaled: `at most ${paritySteps.toLocaleString('en')} steps of 64 sequences with Muon (published: 20,000 of 256 with AdamW), fewer where 128 sequences of 81 to 256 symbols are all right; 256 sequences of each bin are asked (published: 8,192 in all).`,
    },
  ),
  'modular-arithmetic-lengths': figure(
    { rows: arithmeticRows, chance: 1 / 5, seconds: 600, lesson: arithmeticLesson },
    {
      title: 'Modular arithmetic of sequences longer than those of training',
      source: `${source}; there is none of DeltaProduct (Siems 2025)`,
      scaled: `at most ${arithmeticSteps.toLocaleString('en')} steps of 64 sequences with Muon, in which each sign asks for the value of what stands before it, fewer where 128 sequences of 21 to 80 symbols are all right (published: 100,000 steps of 256 sequences with AdamW, which ask once); 256 sequences of each bin are asked, once (published: 8,192 in all).`,
    },
  ),
}
