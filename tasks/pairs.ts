/**
 * Sequence to sequence, character by character: pairs of a source and a target from a file, or dates as people write them and in ISO 8601.
 * Tests: test/tasks/pairs.test.ts.
 */
import { checkNumber, checkOptions } from '../engine/arguments.ts'
import type { Device } from '../engine/devices/device.ts'
import type { Stoppable } from '../engine/signal.ts'
import { type EncoderDecoder, type PairBatch, pairBatch } from '../nn/encoder-decoder.ts'
import { beamSearch, greedy } from '../nn/search.ts'
import { shuffledRows, splitNumber } from './epochs.ts'
import { type Mersenne, mersenne } from './mersenne.ts'
import type { Split } from './task.ts'
import { charVocabulary, TextError, type Vocabulary } from './text.ts'

/** A source and the target that it stands for, such as a date in two spellings. */
export type Pair = readonly [source: string, target: string]

/** The lines of a text, each a source, a tab, and a target. */
export function readPairs(text: string, name = 'the text'): Pair[] {
  const lines = text.split('\n').map((line) => line.replace(/\r$/, ''))
  if (lines.at(-1) === '') lines.pop()
  if (lines.length === 0) throw new TextError(`${name} is empty: each line must be a source, a tab, and a target`)
  return lines.map((line, i) => {
    const problem = problemOf(line)
    if (problem !== undefined) throw new TextError(`${name}: line ${i + 1} ${problem}; a line must be a source, a tab, and a target`)
    const [source, target] = line.split('\t')
    return [source, target]
  })
}

function problemOf(line: string): string | undefined {
  if (line === '') return 'is empty'
  const tabs = line.split('\t').length - 1
  if (tabs !== 1) return tabs === 0 ? 'has no tab' : `has ${tabs} tabs`
  if (line.startsWith('\t')) return 'has nothing before its tab'
  return line.endsWith('\t') ? 'has nothing after its tab' : undefined
}

// --- Dates ----------------------------------------------------------------------------------------------------------------------------

const months = 'January February March April May June July August September October November December'.split(' ')
const weekdays = 'Sunday Monday Tuesday Wednesday Thursday Friday Saturday'.split(' ')

interface Day {
  y: number
  /** From 1. */
  m: number
  d: number
  month: string
  weekday: string
  /** Of the year, from 1. */
  day: number
}

const two = (n: number): string => String(n % 100).padStart(2, '0')
const short = (name: string): string => name.slice(0, 3)
const ordinal = (n: number): string => `${n}${(n > 10 && n < 14) || n % 10 > 3 || n % 10 === 0 ? 'th' : ['st', 'nd', 'rd'][(n % 10) - 1]}`

/**
 * No two days are written alike: between slashes the month comes first, between dots the day, and years of two figures are those from 1950 to 2049,
 * as all are.
 */
const dateFormats: readonly ((day: Day) => string)[] = [
  ({ d, month, y }) => `${d} ${month} ${y}`,
  ({ d, month, y }) => `${month} ${d}, ${y}`,
  ({ d, month, y }) => `the ${ordinal(d)} of ${month} ${y}`,
  ({ d, month, y }) => `${month} ${ordinal(d)}, ${y}`,
  ({ d, month, y }) => `${short(month)} ${d}, ${y}`,
  ({ d, month, y }) => `${two(d)} ${short(month)} ${y}`,
  ({ d, month, y }) => `${d}-${short(month)}-${two(y)}`,
  ({ d, month, y, weekday }) => `${weekday}, ${d} ${month} ${y}`,
  ({ d, month, y, weekday }) => `${short(weekday)} ${short(month)} ${d} ${y}`,
  ({ d, month, y }) => `${d} ${month.toUpperCase()} ${y}`,
  ({ d, month, y }) => `${month.toLowerCase()} ${d} ${y}`,
  ({ d, month, y }) => `${y}, ${month} ${d}`,
  ({ d, m, y }) => `${m}/${d}/${y}`,
  ({ d, m, y }) => `${two(m)}/${two(d)}/${two(y)}`,
  ({ d, m, y }) => `${d}.${m}.${y}`,
  ({ d, m, y }) => `${two(d)}.${two(m)}.${two(y)}`,
  ({ d, m, y }) => `${y}/${two(m)}/${two(d)}`,
  ({ d, m, y }) => `${y}${two(m)}${two(d)}`,
  ({ day, y }) => `day ${day} of ${y}`,
]

/** Days from 1950 to 2049. */
export const dateDays = 36_525
const dayLength = 86_400_000
const firstDay = Date.UTC(1950, 0, 1)

/** Every way in which a day, 0 to `dateDays` - 1, is written, and ISO 8601's. */
export function dateForms(n: number): { sources: string[]; target: string } {
  const date = new Date(firstDay + n * dayLength)
  const [y, m, d] = [date.getUTCFullYear(), date.getUTCMonth() + 1, date.getUTCDate()]
  const day = 1 + (date.getTime() - Date.UTC(y, 0, 1)) / dayLength
  const written: Day = { y, m, d, day, month: months[m - 1], weekday: weekdays[date.getUTCDay()] }
  return { sources: dateFormats.map((write) => write(written)), target: `${y}-${two(m)}-${two(d)}` }
}

/** A day, written in one of the ways. Of ten days in a row, one is for validation and one for tests: no split has a day of another. */
export function drawDate(split: Split, random: Mersenne): Pair {
  const number = splitNumber(split)
  let day: number
  do day = random.below(dateDays)
  while ((day % 10 < 2 ? 1 + (day % 10) : 0) !== number)
  const { sources, target } = dateForms(day)
  return [random.choice(sources), target]
}

/** The first n pairs of a split: each a function of the seed, the split and its number. */
export const datePairs = (n: number, split: Split, seed = 1): Pair[] =>
  Array.from({ length: n }, (_, i) => drawDate(split, mersenne([seed >>> 0, splitNumber(split), i])))

/** Of all characters that dates are written with. */
export function dateVocabularies(): PairVocabularies {
  const names = [...weekdays, ...months, ...months.map((name) => name.toUpperCase() + name.toLowerCase())].join('')
  return vocabulariesOf(charVocabulary(`${names}0123456789 ,-./ofthe st nd rd th day`), charVocabulary('0123456789-'))
}

// --- Vocabularies and batches ---------------------------------------------------------------------------------------------------------

/** Characters of sources and targets. Targets have two symbols more, behind their characters: that which they begin with, and that which ends them. */
export interface PairVocabularies {
  source: Vocabulary
  target: Vocabulary
  /** The symbol that every target begins with. */
  begin: number
  /** The symbol that ends a target. */
  end: number
  /** As `EncoderDecoder` takes them. */
  sourceSymbols: number
  /** The size of the targets' vocabulary, those two included. */
  symbols: number
}

/** From the characters of sources and of targets; see `charVocabulary`, `vocabularyOf`. */
export const vocabulariesOf = (source: Vocabulary, target: Vocabulary): PairVocabularies => ({
  source,
  target,
  begin: target.size,
  end: target.size + 1,
  sourceSymbols: source.size,
  symbols: target.size + 2,
})

/** Of the characters of some pairs. */
export function pairVocabularies(pairs: readonly Pair[]): PairVocabularies {
  const characters = (side: 0 | 1): Vocabulary => charVocabulary([...new Set(pairs.flatMap((pair) => [...pair[side]]))].join(''))
  return vocabulariesOf(characters(0), characters(1))
}

/** Batches of pairs, by step. */
export interface PairSampler {
  /** The batch of step 0, 1, ...: the same whenever it is asked for. Its tensors are the caller's, to be disposed of. */
  batch(step: number): PairBatch
  /** How many batches hold every pair once. */
  readonly stepsPerEpoch: number
}

/** Each pair once an epoch, B at a time, in an order of the epoch's own. */
export function pairBatches(
  pairs: readonly Pair[],
  vocabularies: PairVocabularies,
  options: { B: number; seed?: number; device?: Device },
): PairSampler {
  checkOptions('pairBatches', options, ['B', 'seed', 'device'])
  const { source, target, begin, end } = vocabularies
  const encoded = pairs.map((pair) => [source.encode(pair[0]), target.encode(pair[1])] as const)
  const { stepsPerEpoch, rows } = shuffledRows(pairs.length, options)
  return {
    stepsPerEpoch,
    batch: (step) =>
      pairBatch(
        rows(step).map((i) => encoded[i]),
        { begin, end, device: options.device },
      ),
  }
}

/** Options of what a model answers to sources. */
export interface AnswerOptions extends Stoppable {
  /** The most characters of an answer, its end included. */
  length: number
  /** Sources at a time; 32 by default. */
  B?: number
  /** Beginnings that go on at a time: 1 by default, which takes the likeliest character each time. */
  beams?: number
}

/** What a model makes of sources. */
export async function answers(
  model: EncoderDecoder,
  sources: readonly string[],
  { source, target, begin, end }: PairVocabularies,
  { length, B = 32, beams = 1, signal }: AnswerOptions,
): Promise<string[]> {
  checkNumber('answers: B', B, 'a positive integer')
  const { device } = model.parameters()[0]
  const found: string[] = []
  for (let first = 0; first < sources.length; first += B) {
    const rows = sources.slice(first, first + B).map((text) => [source.encode(text), []] as const)
    const batch = pairBatch(rows, { begin, end, device })
    const options = { begin, end, length, sourceMask: batch.sourceMask, signal }
    try {
      const best =
        beams === 1
          ? await greedy(model, batch.source, options)
          : (await beamSearch(model, batch.source, { ...options, beams })).map(([one]) => one)
      // The symbol of the beginning is no character, wherever it stands.
      for (const { tokens } of best) found.push(target.decode(tokens.filter((token) => token < target.size)))
    } finally {
      for (const tensor of Object.values(batch)) tensor.dispose()
    }
  }
  return found
}
