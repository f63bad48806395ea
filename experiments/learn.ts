/** A transformer that learns one of the tasks, as cells do. Tests: test/experiments. */
import { noGrad } from '../engine/recording.ts'
import { scope } from '../engine/scope.ts'
import { tensor } from '../engine/tensor.ts'
import { Trainer } from '../nn/trainer.ts'
import { Transformer, type TransformerConfig } from '../nn/transformer.ts'
import { metrics } from '../tasks/metrics.ts'
import { optimizerOf, scheduleOf, type TrainingConfig } from '../tasks/presets.ts'
import { type AnyTask, batchOf, type Example, examplesOf, type Split, settingsOf, taskBatches } from '../tasks/task.ts'
import { type Outcome, type Search, search, type Watch } from './figure.ts'

export interface Lesson {
  readonly task: AnyTask
  readonly settings?: object
  readonly model: Omit<Partial<TransformerConfig>, 'symbols'>
  /** Of `steps` those that a search has at most. */
  readonly training: Omit<TrainingConfig, 'seqLen' | 'steps' | 'sampling' | 'prompt'>
  /** Examples to train on; without, each is new. */
  readonly examples?: number
  readonly search: Search
  /** What is tested on the way, and decides when training ends. */
  readonly test: Exam
  /** What stands in the table, by column. */
  readonly exams: readonly Exam[]
}

/** Examples to be asked. */
export interface Exam {
  /** Of the task, where they differ from those of training. */
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
export async function learn(
  { task, settings, model: config, training, examples, search: plan, test, exams }: Lesson,
  seed: number,
  watch: Watch,
): Promise<Outcome> {
  const own = settingsOf(task, settings)
  const model = new Transformer({ ...config, symbols: task.symbols(own) }, seed)
  const whole = { ...training, seqLen: 0, steps: plan.limit, sampling: 'random', prompt: '' } as const
  const optimizer = optimizerOf(model, whole)
  const trainer = new Trainer(model, optimizer, { schedule: scheduleOf(whole, model.config.dModel), clipNorm: training.clip || Infinity })
  const sampler = taskBatches(task, own, { B: training.batch, seed, ...(examples !== undefined && { examples }) })
  const examine = (exam: Exam): Promise<number> => {
    const of = settingsOf(task, { ...settings, ...exam.settings })
    return score(model, task, of, examplesOf(task, of, exam.split, seed, exam.examples))
  }
  try {
    const { best: _, ...outcome } = await search(
      plan,
      (n) => trainer.step(sampler.batch(n - 1)),
      () => examine(test),
      watch,
    )
    const values: number[] = []
    for (const exam of exams) values.push(await examine(exam))
    return { values, ...outcome }
  } finally {
    model.dispose()
  }
}
