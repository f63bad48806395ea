/**
 * State tracking (Grazzi 2025): a memory whose write strengths end at 1 can only shrink what it holds, and finds no parity of long sequences; with strengths
 * up to 2 it turns it round. Trained on up to 40 symbols, asked of up to 256. Tests: test/experiments.
 */
import type { TransformerConfig } from '../nn/transformer.ts'
import { parityFinal } from '../tasks/state-tracking.ts'
import type { AnyTask } from '../tasks/task.ts'
import type { Cell, Figure } from './figure.ts'
import { type Exam, type Lesson, learn } from './learn.ts'

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

const stepLimit = 2000

interface Row {
  readonly model: Partial<TransformerConfig>
  /** Shares of right answers of the official runs, from 0 for guessing to 1, by column. */
  readonly official?: readonly number[]
}

function figure(task: AnyTask, chance: number, rows: Record<string, Row>, about: Pick<Figure, 'title' | 'source' | 'scaled'>): Figure {
  const columns = Object.keys(bins)
  return {
    ...about,
    measure: `share of right answers, from 0 for guessing (${chance}) to 1; higher is better`,
    axes: ['memory', 'length'],
    cells: (seeds) =>
      Object.entries(rows).flatMap(([row, { model: own }]) =>
        seeds.map((seed): Cell => {
          const lesson: Lesson = {
            task,
            model: { ...model, ...own },
            training,
            search: { limit: stepLimit, every: 100, goal: 1, higher: true, patience: Infinity },
            test: { settings: { testMin: 81, testMax: 256 }, split: 'valid', examples: 128 },
            exams,
          }
          return {
            ...{ name: `${row.replaceAll(/[^\w-]+/g, '-')}_seed${seed}`, row, columns, seed, seconds: 90 },
            async run(watch) {
              const { values, ...outcome } = await learn(lesson, seed, watch)
              return { values: values.map((value) => (value - chance) / (1 - chance)), ...outcome }
            },
          }
        }),
      ),
    official: (row, column) => rows[row]?.official?.[columns.indexOf(`${column}`)],
  }
}

const source = 'Grazzi 2025, figure 4; the curves of automl/unlocking_state_tracking (df8f840), means over lengths of one model each'

export const stateTracking: Record<string, Figure> = {
  'parity-lengths': figure(
    parityFinal,
    1 / 2,
    {
      'delta, strengths to 1': { model: {}, official: [0.993, 0.339, -0.01, 0.006] },
      'delta, strengths to 2': { model: { betaRange: 2 }, official: [1, 1, 1, 1] },
    },
    {
      title: 'Parity of sequences longer than those of training',
      source,
      scaled: `at most ${stepLimit.toLocaleString('en')} steps of 64 sequences with Muon (published: 20,000 of 256 with AdamW), fewer where 128 sequences of 81 to 256 symbols are all right; 256 sequences of each bin are asked (published: 8,192 in all).`,
    },
  ),
}
