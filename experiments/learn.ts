/** A transformer that learns one of the tasks, as cells do. Tests: test/experiments. */
import { noGrad } from '../engine/recording.ts'
import { scope } from '../engine/scope.ts'
import { tensor } from '../engine/tensor.ts'
import { AdamW, cosine, Muon } from '../nn/optimizers.ts'
import { Trainer } from '../nn/trainer.ts'
import { Transformer, type TransformerConfig } from '../nn/transformer.ts'
import { metrics } from '../tasks/metrics.ts'
import { type AnyTask, batchOf, type Example, examplesOf, type Split, settingsOf, taskBatches } from '../tasks/task.ts'
import { type Outcome, type Search, search, type Watch } from './figure.ts'

export interface Lesson {
  readonly task: AnyTask
  readonly settings?: object
  /** The most symbols that a setting of a test has come from the task. */
  readonly model: Omit<Partial<TransformerConfig>, 'symbols'>
  readonly optimizer: 'adamw' | 'muon'
  readonly lr: number
  readonly warmup: number
  readonly weightDecay: number
  /** Bound on the gradient's norm; Infinity for none. */
  readonly clip: number
  readonly batch: number
  /** Examples to train on; without, each is new. */
  readonly examples?: number
  readonly search: Search
  /** What is tested on the way, and decides when training ends; by settings that differ from those of training. */
  readonly test: Exam
  /** What stands in the table, by column. */
  readonly exams: readonly Exam[]
}

export interface Exam {
  readonly settings?: object
  readonly split: Split
  readonly examples: number
}

/** At most so many tokens go through the model at a time. */
const tokensAtOnce = 8192

/** The task's metric of a model on examples. */
export async function score(model: Transformer, task: AnyTask, settings: object, examples: readonly Example[]): Promise<number> {
  const metric = metrics[task.metric]()
  const longest = Math.max(...examples.map(({ inputs }) => inputs.length))
  const rows = Math.max(1, Math.floor(tokensAtOnce / longest))
  const wasTraining = model.training
  model.eval()
  try {
    for (let i = 0; i < examples.length; i += rows) {
      const { tokens, targets, B, T } = batchOf(examples.slice(i, i + rows), task.pad(settings))
      const { device } = model.src_embed.weight
      const logits = scope(() => noGrad(() => model.forward(tensor(tokens, { shape: [B, T], device })).logits))
      const values = await logits.read().finally(() => logits.dispose())
      const N = values.length / (B * T)
      metric.add(
        targets.map((target, place) => (target < 0 ? 0 : largest(values, place * N, N))),
        targets,
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

/** Trains a new model on the default device, and examines it. */
export async function learn(lesson: Lesson, seed: number, watch: Watch): Promise<Outcome> {
  const { task, batch: B, examples, lr, warmup, weightDecay, clip } = lesson
  const settings = settingsOf(task, lesson.settings)
  const model = new Transformer({ ...lesson.model, symbols: task.symbols(settings) }, seed)
  const options = { lr, weightDecay, decays: (_: string, p: { shape: readonly number[] }) => p.shape.length >= 2 }
  const optimizer = lesson.optimizer === 'muon' ? new Muon(model.namedParameters(), options) : new AdamW(model.namedParameters(), options)
  const trainer = new Trainer(model, optimizer, { schedule: cosine(lr, warmup, lesson.search.limit, 0.01), clipNorm: clip })
  const sampler = taskBatches(task, settings, { B, seed, ...(examples !== undefined && { examples }) })
  const examine = async ({ settings: own, split, examples }: Exam): Promise<number> => {
    const of = settingsOf(task, { ...lesson.settings, ...own })
    return score(model, task, of, examplesOf(task, of, split, seed, examples))
  }
  try {
    const { best: _, ...outcome } = await search(
      lesson.search,
      (n) => trainer.step(sampler.batch(n - 1)),
      () => examine(lesson.test),
      watch,
    )
    const values: number[] = []
    for (const exam of lesson.exams) values.push(await examine(exam))
    return { values, ...outcome }
  } finally {
    model.dispose()
  }
}
