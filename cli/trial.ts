/**
 * A model of a run's sizes that takes some real steps and is thrown away: how long they take (`train --minutes`, `train --dry-run`, `doctor`) and
 * how much memory. Tests: test/cli/dry-run.test.ts.
 */
import type { Device } from '../engine/index.ts'
import { type BlockModel, stateGrowth, stateSize, Trainer, Transformer } from '../nn/index.ts'
import { optimizerOf, type TrainingConfig } from '../tasks/presets.ts'
import type { Batch, Sampler } from '../tasks/text.ts'

/** Bytes on the device. Gradients take as much as parameters. */
export interface TrialMemory {
  parameters: number
  optimizer: number
  /** All that is in use at once, at most. */
  inUse: number
  /** What the device has taken from the system, at most. */
  reserved: number
}

/** What learns texts: the package's own model, or one of another package's architecture. */
export type TextModel = Transformer | BlockModel

export interface Trial {
  readonly model: TextModel
  readonly trainer: Trainer<TextModel>
  /** The next step of the run; milliseconds. At a rate of 0: what it would learn means nothing. */
  step(): Promise<number>
  /** Of the last step: milliseconds until all of it was asked for, and the host free. */
  asked(): number
  /** Up to now. */
  memory(): TrialMemory
  close(): void
}

/** `steps`: how many the run takes. */
export function openTrial(
  device: Device,
  make: () => TextModel,
  training: TrainingConfig,
  sampler: Sampler,
  steps = training.steps,
): Trial {
  const watch = watchMemory(device)
  const before = device.bytesInUse()
  const model = make()
  const parameters = device.bytesInUse() - before
  const optimizer = optimizerOf(model, training)
  const own = device.bytesInUse() - before - parameters
  // The only step of a run isn't captured, and a trial takes more.
  const trainer = new Trainer(model, optimizer, { schedule: () => 0, clipNorm: training.clip || Infinity, capture: steps > 1 })
  let asked = 0
  return {
    model,
    trainer,
    async step() {
      const began = performance.now()
      const result = trainer.step(sampler.batch(optimizer.steps))
      asked = performance.now() - began
      await result
      return performance.now() - began
    },
    asked: () => asked,
    memory: () => ({ parameters, optimizer: own, ...watch.most() }),
    close() {
      trainer.dispose()
      optimizer.dispose()
      model.dispose()
      watch.stop()
    },
  }
}

/**
 * `trainer.evaluate` where the captured step was, which the next step captures anew: the memory of both at once is more than an evaluation saves by
 * keeping it. A GPU keeps it, since capturing takes longer there.
 */
export function evaluateAlone(
  device: Device,
  trainer: Trainer<TextModel>,
  batches: Iterable<Batch> | AsyncIterable<Batch>,
): Promise<number> {
  if (!device.defers) trainer.dispose()
  return trainer.evaluate(batches)
}

/** The most that a device has in use, and has taken from the system, from now until `stop`. */
function watchMemory(device: Device): { most(): { inUse: number; reserved: number }; stop(): void } {
  const { allocate } = device
  const most = { inUse: 0, reserved: 0 }
  const look = (): void => {
    most.inUse = Math.max(most.inUse, device.bytesInUse())
    most.reserved = Math.max(most.reserved, device.bytesReserved())
  }
  device.allocate = (...given) => {
    const storage = allocate(...given)
    look()
    return storage
  }
  return {
    most() {
      look() // What kernels take for themselves shows later.
      return { ...most }
    },
    stop() {
      device.allocate = allocate
    },
  }
}

/** Numbers that the layers remember of a sequence: `size` whatever its length, `growth` more for each token; those of each layer. */
export const statesOf = (model: TextModel): { size: number; growth: number }[] =>
  (model instanceof Transformer ? model.transformer.layers.map(({ attn }) => attn) : model.layers).map((layer) => ({
    size: stateSize(layer),
    growth: stateGrowth(layer),
  }))
