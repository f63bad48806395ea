import { checkFlag, checkNumber, checkOptions, told } from '../engine/arguments.ts'
import { type CapturedStep, capture } from '../engine/capture.ts'
import type { HostArray } from '../engine/devices/device.ts'
import { concat, reshape } from '../engine/ops/movement.ts'
import { span } from '../engine/profile.ts'
import { noGrad, withGrad } from '../engine/recording.ts'
import { keep, scope } from '../engine/scope.ts'
import { type Stoppable, stopper } from '../engine/signal.ts'
import { Tensor } from '../engine/tensor.ts'
import { type AnyBatch, ignoredTarget, type Trainable } from './model.ts'
import { Module, walk } from './module.ts'
import { Optimizer, type Schedule } from './optimizers.ts'
import type { Transformer } from './transformer.ts'

/** Settings of a `Trainer`. */
export interface TrainerConfig {
  /** The learning rate of each step, from 1. */
  schedule: Schedule
  /** Bound on the norm of all gradients together; Infinity for none. */
  clipNorm: number
  /**
   * Whether the step of a model that is `capturable` is captured and replayed (`capture`) once two batches of a shape have come one after the other, or more
   * where that wasn't worth it before: the same numbers, sooner, in memory that stays until the trainer is disposed. By default on webgpu. Not where a
   * parameter that learns isn't the optimiser's.
   */
  capture?: boolean
}

/** What a step of training tells. */
export interface StepResult {
  /** The step just taken, from 1. */
  step: number
  /** Mean cross-entropy of the batch before the step, in nats a token. */
  loss: number
  /** Norm of all gradients together, before it is bounded. */
  gradNorm: number
  /** On a device of precision f16: what the loss was multiplied by. Where gradNorm isn't finite, the step was left out, and the next scale is half of it. */
  lossScale?: number
  /** The learning rate of the step. */
  lr: number
}

/** A loss or a gradient norm that isn't finite. The parameters are spoilt by then: go back to a checkpoint. */
export class DivergenceError extends Error {
  override name = 'DivergenceError'
  /** The step that it happened in, from 1. */
  readonly step: number
  /** `updates`: how often the parameters had been updated when the value was computed. */
  constructor(step: number, what: string, value: number, updates = step) {
    super(
      updates > 0
        ? `training diverged at step ${step}: the ${what} is ${value} (try a lower learning rate)`
        : `the initial ${what} is ${value}: nothing has been learnt yet, so the learning rate isn't the cause; a number overflows, or is divided by 0, ` +
            'in the model as it begins (look at embeddingStd, the feature map, featureNorm and featureEps)',
    )
    this.step = step
  }
}

/** What decides which ops a step is: lengths and numbers of the batch, which modules train, and which parameters learn. */
function shapeOf(batch: object, model: Module): { shape: string; parameters: readonly Tensor[] } {
  const fields = Object.entries(batch).map(([name, value]) => `${name} ${ArrayBuffer.isView(value) ? (value as Int32Array).length : value}`)
  const flags: number[] = []
  const parameters = new Set<Tensor>()
  walk(model, '', (_, part) => {
    if (part instanceof Module) flags.push(Number(part.training))
    else if (part instanceof Tensor && part.isParameter) parameters.add(part)
  })
  for (const p of parameters) flags.push(Number(p.requiresGrad))
  return { shape: [...fields, ...flags].join(), parameters: [...parameters] }
}

/** The batch with arrays of its own: the caller may fill those again. */
const copied = <B extends object>(batch: B): B =>
  Object.fromEntries(
    Object.entries(batch).map(([name, value]) => [name, ArrayBuffer.isView(value) ? (value as Int32Array).slice() : value]),
  ) as B

/** What a model learns from. */
type BatchOf<M> = M extends { loss(batch: infer B extends AnyBatch): Tensor } ? B : never

/** A step that was captured, and what for. */
interface Captured<B> {
  shape: string
  parameters: readonly Tensor[]
  /** What the step takes its numbers from. */
  batch: B
  step: CapturedStep
  replays: number
}

/** A step is noted twice: so many replays are worth it. */
const worthwhile = 2
/** After how many steps of a shape the next is captured at the latest, however often that wasn't worth it. */
const mostPatience = 64

/**
 * Forward, backward, clip, update: one optimiser step at a time. A step waits for the device once, to read the loss and the norm together; the next
 * may be taken before the result of the last is there.
 */
export class Trainer<M extends Trainable<never> = Transformer> {
  readonly model: M
  readonly optimizer: Optimizer
  private config: TrainerConfig
  private captured: Captured<BatchOf<M>> | null = null
  /** What is being captured: nobody waits for it but the step that has begun it, and evaluations. */
  private capturing: Promise<void> | null = null
  /** The shape of the batch before, and how many have had it, one after the other. */
  private shape = ''
  private alike = 0
  /** How many must have, for the next to be captured: more where what was captured is given up before it was worth it, as by an evaluation after each step. */
  private patience = 1
  private lr = 0

  constructor(model: M, optimizer: Optimizer, config: TrainerConfig) {
    if (!(model instanceof Module && typeof model.loss === 'function')) throw new Error(`Trainer: needs a model, not ${told(model)}`)
    if (!(optimizer instanceof Optimizer)) throw new Error(`Trainer: needs an optimiser, such as an AdamW, not ${told(optimizer)}`)
    checkOptions('Trainer', config, ['schedule', 'clipNorm', 'capture'])
    if (typeof config.schedule !== 'function')
      throw new Error(`Trainer: the schedule must be a function of the step, such as constant(1e-3), not ${told(config.schedule)}`)
    checkNumber('Trainer: clipNorm', config.clipNorm, 'positive')
    if (config.capture !== undefined) checkFlag('Trainer: capture', config.capture)
    this.model = model
    this.optimizer = optimizer
    this.config = config
  }

  /** All of a step is asked of the device when this returns: its result may be awaited later, and the batch's arrays may be filled anew. */
  step(batch: BatchOf<M>): Promise<StepResult> {
    const result = this.take(batch)
    // Where the step before fails, nobody may ask for this one.
    result.catch(() => {})
    return result
  }

  private async take(batch: BatchOf<M>): Promise<StepResult> {
    if (typeof batch !== 'object' || batch === null)
      throw new Error(`Trainer: a step needs a batch of the model's data, not ${told(batch)}`)
    const { schedule } = this.config
    const updates = this.optimizer.steps
    const step = updates + 1
    const lr = schedule(step)
    this.lr = lr
    const diverged = (what: string, value: number): never => {
      throw new DivergenceError(step, what, value, updates)
    }
    const [loss, gradNorm, lossScale] = await (this.replayed(batch) ?? this.run(batch))
    if (!Number.isFinite(loss)) diverged('loss', loss)
    // With a scale above 1 that may be what overflows.
    if (!Number.isFinite(gradNorm) && !(lossScale > 1)) diverged("gradient's norm", gradNorm)
    return { step, lr, loss, gradNorm, ...(lossScale !== undefined && { lossScale }) }
  }

  /**
   * Frees what a captured step holds, or is going to; steps to come are captured anew, as they have to be where a model does something else from now on,
   * though not at once where that wasn't worth it before. The model and the optimiser stay.
   */
  dispose(): void {
    this.capturing = null
    if (this.captured) this.patience = this.captured.replays < worthwhile ? Math.min(mostPatience, 2 * this.patience) : 1
    if (this.patience > 1) this.alike = 0
    this.captured?.step.dispose()
    this.captured = null
  }

  /** Forward, backward and update: the loss and the norm, [2], and on a device of precision f16 the loss's scale, [3]. */
  private update(batch: BatchOf<M>): Tensor {
    const { clipNorm } = this.config
    try {
      const loss = span('forward', () => this.model.loss(batch as never))
      if (!(loss instanceof Tensor && loss.size === 1))
        throw new Error(`Trainer: the model's loss must be a tensor of one number, not ${told(loss)}`)
      const seed = this.optimizer.seed(loss)
      loss.backward(seed, { release: true })
      const norm = this.optimizer.step({ lr: () => this.lr, clipNorm: Number.isFinite(clipNorm) ? clipNorm : undefined })
      const measured = seed ? [loss, norm, seed] : [loss, norm]
      return keep(
        noGrad(() =>
          concat(
            measured.map((x) => reshape(x, [1])),
            0,
          ),
        ),
      )
    } finally {
      this.optimizer.zeroGrad() // of a step that failed, too: the next must not add to them
    }
  }

  private run(batch: BatchOf<M>): Promise<HostArray> {
    const measured = scope(() => this.update(batch))
    return measured.read().finally(() => measured.dispose())
  }

  /** The step from what was captured; undefined where that can't be, or isn't worth it yet. */
  private replayed(batch: BatchOf<M>): Promise<HostArray> | undefined {
    const { model } = this
    const { shape, parameters } = shapeOf(batch, model)
    const device = parameters[0]?.device
    const { capture: wanted = device?.name === 'webgpu' } = this.config
    if (!wanted || !device?.capture || !model.capturable || parameters.some((p) => p.grad)) return undefined
    this.alike = shape === this.shape ? this.alike + 1 : 0
    this.shape = shape
    const known = this.captured
    if (known && known.shape === shape && parameters.every((p, i) => p === known.parameters[i])) {
      Object.assign(known.batch, batch)
      known.replays++
      known.step.replay()
      return known.step.outputs[0].read()
    }
    const due = this.alike >= this.patience && !this.capturing
    // Another shape stays: what was captured of the one before holds memory for nothing.
    if (known && this.alike > 0) this.dispose()
    if (!due) return undefined
    const changes = new Set(this.optimizer.changes())
    // The gradients of others would be left over from each step.
    if (parameters.some((p) => p.requiresGrad && !changes.has(p))) return undefined
    // The next are replayed. This one is run, so that its work isn't done after the call has returned.
    const measured = this.run(batch)
    return Promise.all([measured, this.note(shape, parameters, copied(batch), [...changes])]).then(([numbers]) => numbers)
  }

  private note(shape: string, parameters: readonly Tensor[], batch: BatchOf<M>, changes: readonly Tensor[]): Promise<void> {
    this.dispose()
    const noting: Promise<void> = capture([], {}, () => ({ outputs: [withGrad(() => this.update(batch))] }), changes)
      .then(
        (step) => {
          if (this.capturing === noting) this.captured = { shape, parameters, batch, step, replays: 0 }
          else step.dispose()
        },
        (error) => {
          // What was disposed meanwhile, or put into another mode as by `generate`, can't be captured, and needn't be.
          if (this.capturing === noting && shapeOf(batch, this.model).shape === shape) throw error
        },
      )
      .finally(() => {
        if (this.capturing === noting) this.capturing = null
      })
    this.capturing = noting
    return noting
  }

  /**
   * Mean cross-entropy over all targets of the batches that count, in nats a token, without dropout; NaN where the model gives none. The
   * batches may come one by one, with something done between them.
   */
  async evaluate(batches: Iterable<BatchOf<M>> | AsyncIterable<BatchOf<M>>, options: Stoppable = {}): Promise<number> {
    checkOptions('evaluate', options, ['signal'])
    const mayGoOn = stopper('evaluate', options)
    let total = 0
    let count = 0
    await mayGoOn()
    // A step that is noted in the meantime would be one without dropout. What goes wrong with it is the step's to say.
    await this.capturing?.catch(() => {})
    const wasTraining = this.model.training
    this.model.eval()
    try {
      for await (const batch of batches) {
        await mayGoOn()
        const { targets } = batch
        const ids = targets instanceof Tensor ? targets.indices : targets
        if (!(ids instanceof Int32Array))
          throw new Error(`evaluate: the targets of a batch must be an Int32Array or an int32 tensor, not ${told(targets)}`)
        const counted = ids.reduce((n, target) => n + (target === ignoredTarget ? 0 : 1), 0)
        if (counted === 0) continue
        const loss = span('evaluation', () => noGrad(() => scope(() => keep(this.model.loss(batch as never)))))
        total += counted * (await loss.item().finally(() => loss.dispose()))
        count += counted
      }
    } finally {
      this.model.train(wasTraining)
    }
    if (count === 0) throw new Error('evaluate: there is no target that counts')
    return total / count
  }
}
