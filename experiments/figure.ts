/**
 * What a figure or table of a paper is here: a grid of training runs, its cells. A cell knows nothing of the others, so they run in any order,
 * on any machine, and their results are files that merge.
 */

/** One training run. */
export interface Cell {
  /** Of its figure alone, fit for a file's name: 'dpfp-1_S40_seed2'. */
  readonly name: string
  /** Its places in the table: one, or several that one model fills. */
  readonly row: string
  readonly columns: readonly Column[]
  readonly seed: number
  /** About how long it takes on one core, for the estimate of the whole. */
  readonly seconds: number
  /** Trains on the default device. `watch` hears now and then how far it has come, and throws where it is to stop. `files`: what the figure asks for. */
  run(watch: Watch, files: Files): Promise<Outcome>
}

/** Texts by name. */
export type Files = Readonly<Record<string, string>>

export type Watch = (step: number, steps: number, value: number) => Promise<void>

export type Column = number | string

export interface Outcome {
  /** What stands in the table, by column. */
  readonly values: readonly number[]
  /** Optimiser steps taken. */
  readonly steps: number
  /** Why it ended: 'solved', 'no better', 'step limit'. */
  readonly end: string
  /** What was measured on the way. */
  readonly curve: readonly (readonly [step: number, value: number])[]
}

export interface Figure {
  /** One line. */
  readonly title: string
  /** The paper, its section or figure, and whose code and runs the official values are from. */
  readonly source: string
  /** What a value is, and which way is better. */
  readonly measure: string
  /** What a row and a column are: 'memory', 'S'. */
  readonly axes: readonly [row: string, column: string]
  /** What differs from the published runs, and by how much. */
  readonly scaled: string
  /** Texts that cells need: what each is, by the name of the option that names its file. None if absent. */
  readonly files?: Readonly<Record<string, string>>
  readonly cells: (seeds: readonly number[]) => Cell[]
  /** The published value of a place in the table, if there is one. */
  official(row: string, column: Column): number | undefined
}

/** A place in the table, as a part of a file's name. */
export const fileName = (place: Column): string => `${place}`.replaceAll('+', 'plus').replace(/[^\w-]+/g, '-')

/** Seconds of the processor that this process has had. */
export function processorSeconds(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1e6
}

/** Steps of training that are tested now and then. */
export interface Search {
  /** The most steps. */
  readonly limit: number
  /** Steps between tests. */
  readonly every: number
  /** A test is good enough from this value on. */
  readonly goal: number
  /** Whether higher values are better. */
  readonly higher?: boolean
  /** It ends after more tests in a row than these that are no better. */
  readonly patience: number
  /** By what part of the last one that was better a test must be better, 0 if absent. */
  readonly gain?: number
}

/** Trains until a test is good enough, or none is better for long. `best` is NaN where no test gave a number. */
export async function search(
  { limit, every, goal, higher = false, patience, gain = 0 }: Search,
  step: () => unknown,
  test: () => Promise<number>,
  watch: Watch,
): Promise<Omit<Outcome, 'values'> & { best: number }> {
  const sign = higher ? -1 : 1
  const curve: [number, number][] = []
  const beats = (value: number, other: number, by: number): boolean => {
    // Infinity less a part of itself is no number.
    const least = Number.isFinite(other) ? by * Math.abs(other) : 0
    return !Number.isNaN(value) && !(sign * other - least <= sign * value)
  }
  let best = Number.NaN
  /** The last value that was better by so much. */
  let mark = Number.NaN
  let since = 0
  for (let n = 1; n <= limit; n++) {
    await step()
    if (n % every !== 0 && n !== limit) continue
    const value = await test()
    curve.push([n, value])
    if (beats(value, best, 0)) best = value
    if (beats(value, mark, gain)) {
      mark = value
      since = 0
    } else since++
    const end = sign * best <= sign * goal ? 'solved' : since > patience ? 'no better' : n === limit ? 'step limit' : undefined
    if (end !== undefined) return { best, steps: n, end, curve }
    await watch(n, limit, best)
  }
  throw new Error('search: the limit must be one step at least')
}
