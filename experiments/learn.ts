/** A transformer, or an autoencoder of one, that learns one of the tasks, as cells do. Tests: test/experiments. */
import { noGrad } from '../engine/recording.ts'
import { scope } from '../engine/scope.ts'
import { type Stoppable, stopper } from '../engine/signal.ts'
import { tensor } from '../engine/tensor.ts'
import { Autoencoder } from '../nn/autoencoder.ts'
import { ignoredTarget } from '../nn/model.ts'
import type { Optimizer } from '../nn/optimizers.ts'
import { DivergenceError, Trainer } from '../nn/trainer.ts'
import { Transformer, type TransformerConfig } from '../nn/transformer.ts'
import { metrics } from '../tasks/metrics.ts'
import { optimizerOf, scheduleOf, type TrainingConfig } from '../tasks/presets.ts'
import {
  type AnyTask,
  batchOf,
  type Example,
  examplesOf,
  longestOf,
  type MetricName,
  type Split,
  settingsOf,
  taskBatches,
} from '../tasks/task.ts'
import type { Sampler } from '../tasks/text.ts'
import { type Cell, type Column, fileName, type Outcome, type Search, search, type Watch } from './figure.ts'

export interface Lesson {
  readonly task: AnyTask
  readonly settings?: object
  /** Easier settings of the first steps, in order: each until a step. */
  readonly stages?: readonly Stage[]
  readonly model: Omit<Partial<TransformerConfig>, 'symbols'>
  readonly training: Omit<TrainingConfig, 'seqLen' | 'steps' | 'sampling' | 'prompt'>
  readonly search: Search
  /** What is tested on the way, and decides when training ends. */
  readonly test: Exam
  /** What stands in the table, by column. */
  readonly exams: readonly Exam[]
}

export interface Stage {
  readonly until: number
  /** Where they differ from those that follow. */
  readonly settings: object
}

/** Examples to be asked. */
export interface Exam {
  /** Of the task, where they differ from those of training. */
  readonly settings?: object
  readonly split: Split
  readonly examples: number
  /** Where it isn't the task's. */
  readonly metric?: MetricName
  /** A target that then doesn't count: what stands where nothing is asked. */
  readonly blank?: number
}

/** At most so many tokens go through the model at a time. */
const tokensAtOnce = 8192

/** The task's metric of a model on examples, or another. */
export async function score(
  model: Pupil['model'],
  task: AnyTask,
  settings: object,
  examples: readonly Example[],
  { metric: name = task.metric, blank }: Pick<Exam, 'metric' | 'blank'> = {},
  stoppable: Stoppable = {},
): Promise<number> {
  const mayGoOn = stopper('score', stoppable)
  const metric = metrics[name]()
  const rows = Math.max(1, Math.floor(tokensAtOnce / longestOf(examples)))
  const wasTraining = model.training
  model.eval()
  try {
    for (let i = 0; i < examples.length; i += rows) {
      await mayGoOn()
      const { tokens, targets, B, T } = batchOf(examples.slice(i, i + rows), task.pad(settings))
      const [{ device }] = model.parameters()
      const logits = scope(() => noGrad(() => model.forward(tensor(tokens, { shape: [B, T], device })).logits))
      const values = await logits.read().finally(() => logits.dispose())
      const N = values.length / (B * T)
      metric.add(
        targets.map((target, place) => (target < 0 ? 0 : largest(values, place * N, N))),
        blank === undefined ? targets : targets.map((target) => (target === blank ? ignoredTarget : target)),
        B,
      )
    }
  } finally {
    model.train(wasTraining)
  }
  return metric.value()
}

function largest(values: ArrayLike<number>, from: number, n: number): number {
  let best = 0
  for (let i = 1; i < n; i++) if (values[from + i] > values[from + best]) best = i
  return best
}

export interface Pupil {
  readonly model: Transformer | Autoencoder
  readonly optimizer: Optimizer
  /** What it learns from, by the step. */
  readonly batches: Pick<Sampler, 'batch'>
  /** The next step's loss; throws a DivergenceError. */
  step(): Promise<number>
  /** The same examples each time. */
  examine(exam: Exam, stoppable?: Stoppable): Promise<number>
  /** How many there are: fewer than an exam asks for where there are no more. */
  examplesOf(exam: Exam): readonly Example[]
  /** Frees the model, its optimiser and what a captured step holds. */
  dispose(): void
}

/** A new model on the default device, and how it learns; `steps`: those to come. */
export function pupilOf(
  { task, settings, stages = [], model: config, training }: Omit<Lesson, 'search' | 'test' | 'exams'>,
  steps: number,
  seed: number,
): Pupil {
  const own = settingsOf(task, settings)
  const Model = task.fromLast ? Autoencoder : Transformer
  const model = new Model({ ...config, symbols: task.symbols(own) }, seed)
  const whole = { ...training, steps }
  const optimizer = optimizerOf(model, whole)
  const schedule = scheduleOf(whole, model.config.dModel)
  // Small models: a captured step takes as much less time as asking for its arithmetic does.
  const trainer = new Trainer(model, optimizer, { schedule, clipNorm: training.clip || Infinity, capture: true })
  const samplers = [...stages, { until: Infinity, settings: {} }].map(({ until, settings: early }) => ({
    until,
    sampler: taskBatches(task, settingsOf(task, { ...settings, ...early }), { B: training.batch, seed }),
  }))
  if (stages.some(({ until }, i) => i > 0 && until <= stages[i - 1].until)) throw new Error('stages: each must end after the one before')
  const batches = { batch: (step: number) => samplers.find(({ until }) => step < until)!.sampler.batch(step) }
  const drawn = new Map<Exam, Example[]>()
  const settingsIn = (exam: Exam): object => settingsOf(task, { ...settings, ...exam.settings })
  const drawnFor = (exam: Exam): Example[] => {
    if (!drawn.has(exam)) drawn.set(exam, examplesOf(task, settingsIn(exam), exam.split, seed, exam.examples))
    return drawn.get(exam)!
  }
  return {
    model,
    optimizer,
    batches,
    step: async () => (await trainer.step(batches.batch(optimizer.steps))).loss,
    examine: (exam, stoppable) => score(model, task, settingsIn(exam), drawnFor(exam), exam, stoppable),
    examplesOf: drawnFor,
    dispose() {
      trainer.dispose()
      optimizer.dispose()
      model.dispose()
    },
  }
}

/** Trains a new model on the default device, and examines it. One that diverges has no values. */
export async function learn({ search: plan, test, exams, ...lesson }: Lesson, seed: number, watch: Watch): Promise<Outcome> {
  const pupil = pupilOf(lesson, plan.limit, seed)
  try {
    const { best: _, ...outcome } = await search(plan, pupil.step, () => pupil.examine(test), watch)
    const values: number[] = []
    for (const exam of exams) values.push(await pupil.examine(exam))
    return { values, ...outcome }
  } catch (error) {
    if (!(error instanceof DivergenceError)) throw error
    return { values: exams.map(() => Number.NaN), steps: error.step, end: 'diverged', curve: [] }
  } finally {
    pupil.dispose()
  }
}

/** A lesson and its places in a table. */
export interface Course {
  readonly row: string
  readonly columns: readonly Column[]
  /** About how long it takes on one core. */
  readonly seconds: number
  readonly lesson: Lesson
  /** What the table says instead of the task's metric. */
  told?(value: number): number
}

/** The cells of courses, one for each seed. `place` is what tells a course from others of its row. */
export const cellsOf = (courses: readonly Course[], seeds: readonly number[], place: (course: Course) => string = () => ''): Cell[] =>
  courses.flatMap((course) =>
    seeds.map((seed): Cell => {
      const { row, columns, seconds, lesson, told = (value) => value } = course
      return {
        ...{ name: `${fileName(row)}${fileName(place(course))}_seed${seed}`, row, columns, seed, seconds },
        async run(watch) {
          const { values, ...outcome } = await learn(lesson, seed, watch)
          return { values: values.map(told), ...outcome }
        },
      }
    }),
  )
