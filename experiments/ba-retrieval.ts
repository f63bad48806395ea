/**
 * Ba's associative retrieval (Ba 2016, section 4.1): four letters with a digit each, and one of the letters again. A small net with fast weights holds
 * what an LSTM needs more units for. Tests: test/experiments.
 */
import type { RecurrentNetName } from '../nn/recurrent-net.ts'
import { ba } from '../tasks/ba.ts'
import type { Figure } from './figure.ts'
import { type Course, cellsOf, type Lesson } from './learn.ts'

/** R, the width of what is carried from token to token. */
const widths: readonly number[] = [20, 50, 100]

interface Memory {
  readonly net: RecurrentNetName
  /** Errors of the paper's table 1, in percent, by width. */
  readonly official: readonly number[]
}

const memories: Readonly<Record<string, Memory>> = {
  'fast weights': { net: 'ba', official: [1.81, 0, 0] },
  LSTM: { net: 'lstm', official: [60.81, 1.85, 0] },
  IRNN: { net: 'irnn', official: [62.11, 60.23, 0.34] },
}

/** Width of the embedding, whatever R is; as in jxwufan/AssociativeRetrieval. */
const embedding = 100

const stepLimit = 20_000

/** What a net of R units learns. */
export const baLesson = (R: number, net: RecurrentNetName): Lesson => ({
  task: ba,
  model: { dModel: embedding, heads: 1, layers: 1, dFf: 100, mixer: { kind: 'recurrent-net', net, netWidth: R } },
  training: {
    ...{ batch: 128, optimizer: 'adamw', schedule: 'cosine', lr: 3e-3, matrixLr: 0, warmup: 50, lrFloor: 0.1, beta2: 0.99 },
    ...{ weightDecay: 0, clip: 5 },
  },
  search: { limit: stepLimit, every: 500, goal: 1, higher: true, patience: Infinity },
  test: { split: 'valid', examples: 1024 },
  exams: [{ split: 'test', examples: 4096 }],
})

const courses = Object.entries(memories).flatMap(([row, { net }]) =>
  widths.map((R): Course => ({ row, columns: [R], seconds: 2 * (R + 50), lesson: baLesson(R, net), told: (share) => 100 * (1 - share) })),
)

export const baRetrieval: Record<string, Figure> = {
  'ba-retrieval': {
    title: 'Errors of small recurrent nets in associative retrieval',
    source: 'Ba 2016, table 1',
    measure: 'wrong answers in percent: 75 for any of the digits shown; lower is better',
    axes: ['memory', 'R'],
    scaled: `at most ${stepLimit.toLocaleString('en')} steps of 128 fresh sequences with AdamW, fewer where 1,024 are all answered right; 4,096 are asked.`,
    cells: (seeds) => cellsOf(courses, seeds, ({ columns }) => `_R${columns[0]}`),
    official: (row, column) => memories[row]?.official[widths.indexOf(column as number)],
  },
}
