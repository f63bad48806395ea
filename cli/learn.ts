/** `fastweights task NAME` without a file: a model learns the task, and is examined on sequences that it hasn't seen. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { Device } from '../engine/index.ts'
import { type Exam, pupilOf } from '../experiments/learn.ts'
import { writeCheckpoint } from '../nn/index.ts'
import { type AnyTask, exampleOf, settingsOf } from '../tasks/index.ts'
import type { Recipe } from '../tasks/presets.ts'
import { claimFolder, FileError, writeAtomic } from './files.ts'
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

const checkpointName = 'checkpoint.safetensors'
/** A step sees about so many symbols, unless a batch is given. */
const symbolsOfStep = 4096

export async function learnTask(name: string, row: AnyTask, options: LearnOptions, device: Device): Promise<number> {
  const { seed, out, examples, evalEvery, given, model: config } = options
  const settings = settingsOf(row, options.settings)
  const length = exampleOf(row, settings, 'train', seed, 0).inputs.length
  const batch = given.has('batch') ? options.training.batch : Math.min(256, Math.max(8, Math.round(symbolsOfStep / length)))
  const training = { ...options.training, batch }
  if (out !== undefined && existsSync(join(out, checkpointName)))
    throw new FileError(`${out} holds a checkpoint already: name another --out`)
  const { model, optimizer, ...pupil } = pupilOf({ task: row, settings, model: config, training }, training.steps, seed)
  const valid = { split: 'valid', examples } as const
  const test = { split: 'test', examples } as const
  const release = out === undefined ? (): void => {} : claimFolder(out)
  const { signal, stop } = onInterrupt()
  /** Undefined where it has been stopped. */
  const examined = async (exam: Exam): Promise<string | undefined> => {
    try {
      signal.throwIfAborted()
      return shown(await pupil.examine(exam, { signal }))
    } catch (error) {
      if (error !== signal.reason) throw error
      return undefined
    }
  }
  const line = progress()
  try {
    const chance = shown(row.chance(settings))
    say(`${name}: ${row.title}; counts ${row.metric}, ${chance} where nothing is learnt`)
    say(
      `${model.parameterCount().toLocaleString('en')} parameters; ${device.description}; ${counted(training.steps, 'step')} of ${counted(batch, 'sequence')}`,
    )
    const began = performance.now()
    let reached = ''
    while (optimizer.steps < training.steps && !signal.aborted) {
      const loss = await pupil.step()
      const { steps } = optimizer
      const due = steps % evalEvery === 0 || steps === training.steps
      if (due) reached = `  valid ${(await examined(valid)) ?? 'stopped'}`
      const eta = duration(((training.steps - steps) * (performance.now() - began)) / steps)
      line.show(`step ${steps}/${training.steps}  loss ${loss.toFixed(4)}${reached}  ETA ${eta}`, due)
      await new Promise(setImmediate)
    }
    line.end()
    const result = await examined(test)
    const tested = (): string => `test ${result} (${counted(pupil.examplesOf(test).length, 'sequence')}; chance ${chance})`
    const steps = `${counted(optimizer.steps, 'step')} in ${duration(performance.now() - began)}`
    say(`${steps}; ${result === undefined ? 'stopped before it was tested' : tested()}`)
    if (out !== undefined) {
      const path = join(out, checkpointName)
      writeAtomic(path, await writeCheckpoint(model, optimizer, { task: JSON.stringify({ name, settings, training }) }))
      say(`wrote ${path}`)
    }
    return signal.aborted ? 130 : 0
  } finally {
    line.end()
    stop()
    release()
    pupil.dispose()
  }
}

const shown = (share: number): string => (Number.isNaN(share) ? 'none' : share.toFixed(3))
