import { checkNumber, told } from '../engine/arguments.ts'
import { concat, reshape } from '../engine/ops/movement.ts'
import { span } from '../engine/profile.ts'
import { noGrad } from '../engine/recording.ts'
import { keep, scope } from '../engine/scope.ts'
import { Tensor } from '../engine/tensor.ts'
import { type AnyBatch, ignoredTarget, type Trainable } from './model.ts'
import { Module } from './module.ts'
import { Optimizer, type Schedule } from './optimizers.ts'
import type { Transformer } from './transformer.ts'

export interface TrainerConfig {
  schedule: Schedule
  /** Bound on the norm of all gradients together; Infinity for none. */
  clipNorm: number
}

export interface StepResult {
  /** The step just taken, from 1. */
  step: number
  /** Mean cross-entropy of the batch before the step, in nats a token. */
  loss: number
  gradNorm: number
  lr: number
}

/** A loss or a gradient norm that isn't finite. The parameters are spoilt by then: go back to a checkpoint. */
export class DivergenceError extends Error {
  override name = 'DivergenceError'
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

/** What a model learns from. */
type BatchOf<M> = M extends { loss(batch: infer B extends AnyBatch): Tensor } ? B : never

/** Forward, backward, clip, update: one optimiser step at a time. A step waits for the device once, to read the loss and the norm together. */
export class Trainer<M extends Trainable<never> = Transformer> {
  readonly model: M
  readonly optimizer: Optimizer
  private config: TrainerConfig

  constructor(model: M, optimizer: Optimizer, config: TrainerConfig) {
    if (!(model instanceof Module && typeof model.loss === 'function')) throw new Error(`Trainer: needs a model, not ${told(model)}`)
    if (!(optimizer instanceof Optimizer)) throw new Error(`Trainer: needs an optimiser, such as an AdamW, not ${told(optimizer)}`)
    if (typeof config?.schedule !== 'function')
      throw new Error(`Trainer: the schedule must be a function of the step, such as constant(1e-3), not ${told(config?.schedule)}`)
    checkNumber('Trainer: clipNorm', config.clipNorm, 'positive')
    this.model = model
    this.optimizer = optimizer
    this.config = config
  }

  async step(batch: BatchOf<M>): Promise<StepResult> {
    const { schedule, clipNorm } = this.config
    const updates = this.optimizer.steps
    const step = updates + 1
    const lr = schedule(step)
    const run = (): Tensor => {
      try {
        const loss = span('forward', () => this.model.loss(batch as never))
        if (!(loss instanceof Tensor && loss.size === 1))
          throw new Error(`Trainer: the model's loss must be a tensor of one number, not ${told(loss)}`)
        loss.backward(undefined, { release: true })
        const norm = this.optimizer.step({ lr, clipNorm: Number.isFinite(clipNorm) ? clipNorm : undefined })
        return keep(noGrad(() => concat([reshape(loss, [1]), reshape(norm, [1])], 0)))
      } finally {
        this.optimizer.zeroGrad() // of a step that failed, too: the next must not add to them
      }
    }
    const diverged = (what: string, value: number): never => {
      throw new DivergenceError(step, what, value, updates)
    }
    const measured = scope(run)
    const [loss, gradNorm] = await measured.read().finally(() => measured.dispose())
    if (!Number.isFinite(loss)) diverged('loss', loss)
    if (!Number.isFinite(gradNorm)) diverged("gradient's norm", gradNorm)
    return { step, lr, loss, gradNorm }
  }

  /**
   * Mean cross-entropy over all targets of the batches that count, in nats a token, without dropout; NaN where the model gives none. The
   * batches may come one by one, with something done between them.
   */
  async evaluate(batches: Iterable<BatchOf<M>> | AsyncIterable<BatchOf<M>>): Promise<number> {
    let total = 0
    let count = 0
    const wasTraining = this.model.training
    this.model.eval()
    try {
      for await (const batch of batches) {
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
