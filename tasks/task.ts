/**
 * What a task is: a rule that draws sequences, and another that judges a sequence alone. The rows of the table are in the files beside this
 * one; `files.ts` reads and writes their examples. Tests: test/tasks/.
 */
import { checkNumber, checkOptions } from '../engine/arguments.ts'
import { checkFields, checkKnown, defaultsOf, type Fields, namesOf, withDefaults } from '../nn/fields.ts'
import { ignoredTarget } from '../nn/model.ts'
import { splitNumber, splitNumbers } from './epochs.ts'
import { type Mersenne, mersenne } from './mersenne.ts'
import type { Batch, Sampler } from './text.ts'

/** A sequence of T symbols, and what is asked for at each place: `ignoredTarget` where nothing is. */
export interface Example {
  inputs: Int32Array
  targets: Int32Array
}

/** Which of a task's examples: to train on, to choose by, to report. Some tasks draw them by different rules. */
export type Split = 'train' | 'valid' | 'test'
/** The three splits, in their order. */
export const splits: readonly Split[] = namesOf(splitNumbers)

/** How answers are counted. */
export type MetricName = 'places' | 'sequences' | 'classes' | 'share of each sequence'

/** A synthetic task: its settings, what it draws, and how answers are counted. */
export interface Task<S extends object = object> {
  /** One line. */
  readonly title: string
  /** The paper, and whose code runs it this way. */
  readonly source: string
  /** What its settings may be, and are by default. */
  readonly fields: Fields<S>
  /** The names that the settings have in the files of the authors' generators, where they have one; a list of names for a list of values. */
  readonly options: Readonly<Record<string, (keyof S & string) | readonly (keyof S & string)[]>>
  /** What the published generator does where the default is another: files that say nothing of it are its own. */
  readonly published?: Partial<S>
  /** Throws where settings that are right alone make no sense together. */
  check?(settings: S): void
  /** How many symbols there are, those of targets and padding included. */
  symbols(settings: S): number
  /** What the symbols and the targets are, in words: a file says it. */
  vocabulary(settings: S): string
  /** What a row is filled up with, at its end. */
  pad(settings: S): number
  /** Every sequence fills its row: what stands at its end in a file is never padding. */
  readonly fixed?: boolean
  /**
   * Every answer is made from what a model has after the last token, by which it has read the whole: an `Autoencoder` learns it, where a `Transformer` would
   * copy each input. Such a task is `fixed`: its rows have no padding behind them.
   */
  readonly fromLast?: boolean
  /** 'pairs': in files inputs are keys and values apart, [N,2,L], and queries [N] and targets [N] stand by themselves. */
  readonly layout?: 'pairs'
  /** A sequence, drawn from this stream. */
  draw(settings: S, split: Split, random: Mersenne): Example
  /** The first n of a split, where they don't come independently of each other; fewer if there are no more. */
  set?(settings: S, split: Split, random: Mersenne, n: number): Example[]
  /** What goes with the sequences into a file: pairs of numbers, [rows,2], by their name. */
  readonly tables?: Readonly<Record<string, (settings: S) => Int32Array>>
  /** What is wrong with a sequence or its targets, by the rule alone; undefined where nothing is. */
  wrong(settings: S, example: Example, split: Split, tables?: Tables): string | undefined
  /** How its answers are counted. */
  readonly metric: MetricName
  /** The share that is right where nothing is learnt. */
  chance(settings: S): number
}

/** The tables of a file by their names. */
export type Tables = Readonly<Record<string, Int32Array>>

/** A task whose settings nobody knows here. */
export type AnyTask = Task<any>

/** A row of the table with its settings typed once. */
export const task = <S extends object>(row: Task<S>): Task<S> => row

/** All settings of a task; throws where one is unknown or makes no sense. */
export function settingsOf<S extends object>(row: Task<S>, given: Partial<S> = {}): S {
  checkKnown(given, namesOf(row.fields))
  const settings = withDefaults(defaultsOf(row.fields), given)
  checkFields(settings, row.fields)
  row.check?.(settings)
  return settings
}

/** Example i of a split: a function of the seed, the split and i alone, so that a run goes on exactly from any step. */
export function exampleOf<S extends object>(row: Task<S>, settings: S, split: Split, seed: number, i: number): Example {
  return row.draw(settings, split, mersenne([seed >>> 0, splitNumber(split), i >>> 0, Math.floor(i / 2 ** 32)]))
}

/** The first n examples of a split, fewer if there are no more: as they are published where they belong together, else one by one. */
export function examplesOf<S extends object>(row: Task<S>, settings: S, split: Split, seed: number, n: number): Example[] {
  checkNumber('examplesOf: n', n, 'an integer, 0 or more')
  if (row.set !== undefined) return row.set(settings, split, mersenne([seed >>> 0, splitNumber(split)]), n)
  return Array.from({ length: n }, (_, i) => exampleOf(row, settings, split, seed, i))
}

/** What is wrong with an example: what no task allows, then what this one doesn't. */
export function faultOf<S extends object>(row: Task<S>, settings: S, example: Example, split: Split, tables?: Tables): string | undefined {
  const { inputs, targets } = example
  if (inputs.length !== targets.length) return `${inputs.length} inputs and ${targets.length} targets`
  if (inputs.length === 0) return 'nothing but padding'
  const symbols = row.symbols(settings)
  const known = (symbol: number): boolean => symbol >= 0 && symbol < symbols
  for (let i = 0; i < inputs.length; i++) {
    if (!known(inputs[i])) return `place ${i}: ${inputs[i]} is none of the ${symbols} symbols`
    if (targets[i] !== ignoredTarget && !known(targets[i])) return `place ${i}: the target ${targets[i]} is none of the ${symbols} symbols`
  }
  return row.wrong(settings, example, split, tables)
}

/** Inputs, and targets at some of their places. */
export function exampleAt(inputs: ArrayLike<number>, asked: Iterable<readonly [place: number, target: number]>): Example {
  const targets = new Int32Array(inputs.length).fill(ignoredTarget)
  for (const [place, target] of asked) targets[place] = target
  return { inputs: Int32Array.from(inputs), targets }
}

/** The length of the longest. */
export const longestOf = (examples: readonly Example[]): number => examples.reduce((most, { inputs }) => Math.max(most, inputs.length), 0)

/** Rows of a batch, each filled up to the longest. */
export function batchOf(examples: readonly Example[], pad: number): Batch {
  const T = longestOf(examples)
  const B = examples.length
  const batch: Batch = { tokens: new Int32Array(B * T).fill(pad), targets: new Int32Array(B * T).fill(ignoredTarget), B, T, count: 0 }
  examples.forEach(({ inputs, targets }, row) => {
    batch.tokens.set(inputs, row * T)
    batch.targets.set(targets, row * T)
    for (const target of targets) if (target !== ignoredTarget) batch.count++
  })
  return batch
}

/**
 * Batches of examples: step n has examples n B to n B + B - 1, fresh ones without end, or again and again so many as `examples` says, which are
 * those of `examplesOf`.
 */
export function taskBatches<S extends object>(
  row: Task<S>,
  settings: S,
  options: { B: number; seed?: number; split?: Split; examples?: number },
): Sampler {
  checkOptions('taskBatches', options, ['B', 'seed', 'split', 'examples'])
  const { B, seed = 1, split = 'train' } = options
  let { examples = Infinity } = options
  checkNumber('taskBatches: B', B, 'a positive integer')
  checkNumber('taskBatches: seed', seed, 'an integer')
  if (examples !== Infinity) checkNumber('taskBatches: examples', examples, 'a positive integer')
  let set: readonly Example[] | undefined
  if (row.set !== undefined && Number.isFinite(examples)) {
    set = examplesOf(row, settings, split, seed, examples)
    examples = set.length
  }
  return {
    stepsPerEpoch: Math.ceil(examples / B),
    batch(step) {
      const at = (r: number): number => (step * B + r) % examples
      return batchOf(
        Array.from({ length: B }, (_, r) => set?.[at(r)] ?? exampleOf(row, settings, split, seed, at(r))),
        row.pad(settings),
      )
    },
  }
}
