/** `fastweights task NAME` without a file: a model learns the task, and is examined on sequences that it hasn't seen. */
import { join } from 'node:path'
import type { Device } from '../engine/index.ts'
import { score } from '../experiments/learn.ts'
import { DivergenceError, Trainer, Transformer, writeCheckpoint } from '../nn/index.ts'
import { type AnyTask, exampleOf, examplesOf, settingsOf, taskBatches } from '../tasks/index.ts'
import { optimizerOf, type Recipe, scheduleOf } from '../tasks/presets.ts'
import { checkWritable, claimFolder, writeAtomic } from './files.ts'
import { counted, duration, onInterrupt, progress, say } from './terminal.ts'

export interface LearnOptions extends Omit<Recipe, 'description'> {
  /** Sequences of a test. */
  examples: number
  evalEvery: number
  seed: number
  out: string | undefined
  settings: object
  given: ReadonlySet<string>
}

/** A step sees about so many symbols, unless a batch is given. */
const symbolsOfStep = 4096

export async function learnTask(name: string, row: AnyTask, options: LearnOptions, device: Device): Promise<number> {
  const { seed, out, examples, evalEvery, given, model: config } = options
  const settings = settingsOf(row, options.settings)
  const model = new Transformer({ ...config, symbols: row.symbols(settings) }, seed)
  const length = exampleOf(row, settings, 'train', seed, 0).inputs.length
  const batch = given.has('batch') ? options.training.batch : Math.min(256, Math.max(8, Math.round(symbolsOfStep / length)))
  const training = { ...options.training, batch }
  const release = out === undefined ? (): void => {} : claimFolder(out)
  const interrupt = onInterrupt()
  const line = progress()
  try {
    if (out !== undefined) checkWritable(join(out, 'checkpoint.safetensors'))
    const optimizer = optimizerOf(model, training)
    const trainer = new Trainer(model, optimizer, { schedule: scheduleOf(training, config.dModel), clipNorm: training.clip || Infinity })
    const sampler = taskBatches(row, settings, { B: batch, seed })
    const examine = (split: 'valid' | 'test'): Promise<number> =>
      score(model, row, settings, examplesOf(row, settings, split, seed, examples))
    const chance = shown(row.chance(settings))
    say(`${name}: ${row.title}; counts ${row.metric}, ${chance} where nothing is learnt`)
    say(
      `${model.parameterCount().toLocaleString('en')} parameters; ${device.description}; ${counted(training.steps, 'step')} of ${counted(batch, 'sequence')}`,
    )
    const began = performance.now()
    let loss = Number.NaN
    let valid: number | undefined
    while (optimizer.steps < training.steps && !interrupt.asked()) {
      ;({ loss } = await trainer.step(sampler.batch(optimizer.steps)))
      const { steps } = optimizer
      const due = steps % evalEvery === 0 || steps === training.steps
      if (due) valid = await examine('valid')
      const eta = duration(((training.steps - steps) * (performance.now() - began)) / steps)
      line.show(
        `step ${steps}/${training.steps}  loss ${loss.toFixed(4)}${valid === undefined ? '' : `  valid ${shown(valid)}`}  ETA ${eta}`,
        due,
      )
      await new Promise(setImmediate)
    }
    line.end()
    if (!Number.isFinite(loss)) throw new DivergenceError(optimizer.steps, 'loss', loss)
    const result = await examine('test')
    say(
      `${counted(optimizer.steps, 'step')} in ${duration(performance.now() - began)}; test ${shown(result)} (${counted(examples, 'sequence')}; chance ${chance})`,
    )
    if (out !== undefined) {
      const path = join(out, 'checkpoint.safetensors')
      writeAtomic(path, await writeCheckpoint(model, optimizer, { task: JSON.stringify({ name, settings, training }) }))
      say(`wrote ${path}`)
    }
    return interrupt.asked() ? 130 : 0
  } finally {
    line.end()
    interrupt.stop()
    release()
    model.dispose()
  }
}

const shown = (share: number): string => (Number.isNaN(share) ? 'none' : share.toFixed(3))
