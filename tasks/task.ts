/**
 * What a task is: a rule that draws sequences, and another that judges a sequence alone. The rows of the table are in the files beside this
 * one; `files.ts` reads and writes their examples. Tests: test/tasks/.
 */
import { checkFields, checkKnown, defaultsOf, type Fields, namesOf } from '../nn/fields.ts'
import { ignoredTarget } from '../nn/model.ts'
import { type Mersenne, mersenne } from './mersenne.ts'
import type { Batch, Sampler } from './text.ts'

/** A sequence of T symbols, and what is asked for at each place: `ignoredTarget` where nothing is. */
export interface Example {
  inputs: Int32Array
  targets: Int32Array
}

/** Which of a task's examples: to train on, to choose by, to report. Some tasks draw them by different rules. */
export type Split = 'train' | 'valid' | 'test'
export const splits: readonly Split[] = ['train', 'valid', 'test']

/** How answers are counted. */
export type MetricName = 'places' | 'sequences' | 'classes' | 'share of each sequence'

export interface Task<S extends object = object> {
  /** One line. */
  readonly title: string
  /** The paper, and whose code runs it this way. */
  readonly source: string
  readonly fields: Fields<S>
  /** The names that the settings have in the files of the authors' generators, where they have one. */
  readonly options: Readonly<Record<string, keyof S & string>>
  /** Throws where settings that are right alone make no sense together. */
  check?(settings: S): void
  /** How many symbols there are, those of targets and padding included. */
  symbols(settings: S): number
  /** What a row is filled up with, at its end. */
  pad(settings: S): number
  draw(settings: S, split: Split, random: Mersenne): Example
  /** What is wrong with a sequence or its targets, by the rule alone; undefined where nothing is. */
  wrong(settings: S, example: Example, split: Split): string | undefined
  readonly metric: MetricName
  /** The share that is right where nothing is learnt. */
  chance(settings: S): number
}

/** A row of the table with its settings typed once. */
export const task = <S extends object>(row: Task<S>): Task<S> => row

/** All settings of a task; throws where one is unknown or makes no sense. */
export function settingsOf<S extends object>(row: Task<S>, given: Partial<S> = {}): S {
  checkKnown(given, namesOf(row.fields))
  const settings = { ...defaultsOf(row.fields), ...given }
  checkFields(settings, row.fields)
  row.check?.(settings)
  return settings
}

/** Example i of a split: a function of the seed, the split and i alone, so that a run goes on exactly from any step. */
export function exampleOf<S extends object>(row: Task<S>, settings: S, split: Split, seed: number, i: number): Example {
  return row.draw(settings, split, mersenne([seed >>> 0, splits.indexOf(split), i >>> 0, Math.floor(i / 2 ** 32)]))
}

/** Rows of a batch, each filled up to the longest. */
export function batchOf(examples: readonly Example[], pad: number): Batch {
  const T = Math.max(...examples.map(({ inputs }) => inputs.length))
  const B = examples.length
  const batch: Batch = { tokens: new Int32Array(B * T).fill(pad), targets: new Int32Array(B * T).fill(ignoredTarget), B, T, count: 0 }
  examples.forEach(({ inputs, targets }, row) => {
    batch.tokens.set(inputs, row * T)
    batch.targets.set(targets, row * T)
    for (const target of targets) if (target !== ignoredTarget) batch.count++
  })
  return batch
}

/** Batches of fresh examples: step n has examples n B to n B + B - 1. */
export function taskBatches<S extends object>(
  row: Task<S>,
  settings: S,
  { B, seed = 1, split = 'train', examples = Infinity }: { B: number; seed?: number; split?: Split; examples?: number },
): Sampler {
  return {
    stepsPerEpoch: Math.ceil(examples / B),
    batch: (step) =>
      batchOf(
        Array.from({ length: B }, (_, r) => exampleOf(row, settings, split, seed, (step * B + r) % examples)),
        row.pad(settings),
      ),
  }
}
