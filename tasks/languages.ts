/**
 * Formal languages with a target at every place: Bhattamishra, Ahuja & Goyal 2020, whose generators (satwik77/Transformer-Formal-Languages) made
 * the data of Irie, Csordas & Schmidhuber 2023 (IDSIA/fwp-formal-lang). `train` and `valid` are of the short window, and `test` is of the long one.
 *
 * Published sets hold a string once: `set` draws them so. `draw` draws one string by itself. Tests: test/tasks/.
 */
import type { Fields } from '../nn/fields.ts'
import type { Mersenne } from './mersenne.ts'
import { wrongTargets } from './targets.ts'
import { type Example, type Split, type Task, task } from './task.ts'

interface Window {
  least: number
  most: number
}

export interface LanguageSettings {
  minLength: number
  maxLength: number
  testMin: number
  testMax: number
}

interface Language<S extends LanguageSettings> {
  title: string
  source: string
  /** The letters, symbol by symbol. */
  letters: string
  /** What each target means. */
  answers: readonly string[]
  /** What the window bounds, with its defaults; the length of 2 to 50 letters, in tests of 51 to 100, if nothing else is said. */
  window?: { what: string; defaults: LanguageSettings; most: number }
  fields?: Omit<Fields<S>, keyof LanguageSettings>
  options?: Task<S>['options']
  published?: Partial<S>
  check?(settings: S): void
  /** A string, or undefined for one that is dropped, as one that is taken already may be. */
  string(settings: S, window: Window, random: Mersenne, taken: (text: string) => boolean): string | undefined
  /** Where one is drawn by itself, most are of a length or two: those shorter than a uniform length are dropped, to this part of the window. */
  spread?: number
  /** Whether training strings are unique, too; those of `valid` and `test` always are. */
  unique: boolean
  /** The target of each letter. */
  targets(text: string): number[]
  /** The targets by another way, or what is wrong with the string. */
  judge(text: string, settings: S, window: Window): readonly number[] | string
}

/** So many strings in a row that are dropped or known already: there are no more. */
const patience = 20_000

function language<S extends LanguageSettings = LanguageSettings>(row: Language<S>): Task<S> {
  const { letters, answers } = row
  const { what, defaults, most } = row.window ?? {
    what: 'letters',
    defaults: { minLength: 2, maxLength: 50, testMin: 51, testMax: 100 },
    most: 1000,
  }
  const bound = (end: keyof LanguageSettings, description: string) =>
    ({ type: 'integer', default: defaults[end], min: 1, max: most, description: `${what} ${description}` }) as const
  const window = (s: S, split: Split): Window =>
    split === 'test' ? { least: s.testMin, most: s.testMax } : { least: s.minLength, most: s.maxLength }
  const example = (text: string): Example => ({
    inputs: Int32Array.from(text, (letter) => letters.indexOf(letter)),
    targets: Int32Array.from(row.targets(text)),
  })
  const never = (): boolean => false

  return task<S>({
    title: row.title,
    source: row.source,
    fields: {
      minLength: bound('minLength', 'at least'),
      maxLength: bound('maxLength', 'at most'),
      testMin: bound('testMin', 'at least in a test'),
      testMax: bound('testMax', 'at most in a test'),
      ...row.fields,
    } as unknown as Fields<S>,
    options: { lower_window: 'minLength', upper_window: 'maxLength', ...row.options },
    published: row.published,
    check(settings) {
      for (const split of ['train', 'test'] as const) {
        const { least, most } = window(settings, split)
        const [low, high] = split === 'train' ? ['minLength', 'maxLength'] : ['testMin', 'testMax']
        if (most < least) throw new Error(`${high} must be at least ${low} = ${least}, not ${most}`)
        if (row.window === undefined && most < Math.floor((least + 3) / 4) * 4)
          throw new Error(
            `${high} must be at least ${Math.floor((least + 3) / 4) * 4} where ${low} = ${least}: not every length has a string`,
          )
      }
      row.check?.(settings)
    },
    symbols: () => Math.max(letters.length + 1, answers.length),
    vocabulary: () =>
      `inputs ${[...letters].map((letter, i) => `${letter}=${i}`).join(' ')}, pad=${letters.length} (right); targets ${answers.map((answer, i) => `${answer}=${i}`).join(' ')}`,
    pad: () => letters.length,
    draw(settings, split, random) {
      const { least, most } = window(settings, split)
      const floor = least + (row.spread === undefined ? 0 : random.below(Math.floor(row.spread * (most - least)) + 1))
      for (;;) {
        const text = row.string(settings, { least: floor, most }, random, never)
        if (text !== undefined) return example(text)
      }
    },
    set(settings, split, random, n) {
      const unique = row.unique || split !== 'train'
      const texts = new Set<string>()
      const examples: Example[] = []
      for (let missed = 0; examples.length < n && missed < patience; missed++) {
        const text = row.string(settings, window(settings, split), random, unique ? (text) => texts.has(text) : never)
        if (text === undefined) continue
        texts.add(text)
        examples.push(example(text))
        missed = 0
      }
      return examples
    },
    wrong(settings, given, split) {
      const place = given.inputs.findIndex((symbol) => symbol >= letters.length)
      if (place >= 0) return `place ${place}: ${given.inputs[place]} isn't a letter`
      const text = Array.from(given.inputs, (symbol) => letters[symbol]).join('')
      const expected = row.judge(text, settings, window(settings, split))
      return typeof expected === 'string' ? expected : wrongTargets(given, expected)
    },
    metric: 'sequences',
    // A string has many places, and all must be right.
    chance: () => 0,
  })
}

const source = 'Bhattamishra et al. 2020, Irie et al. 2023; satwik77/Transformer-Formal-Languages, IDSIA/fwp-formal-lang'
const fits = ({ length }: string, { least, most }: Window): boolean => length >= least && length <= most
const lengthFault = (text: string, { least, most }: Window): string | undefined =>
  fits(text, { least, most }) ? undefined : `${text.length} letters, where ${least} to ${most} are right`
const yesNo = ['0', '1']

// --- Regular --------------------------------------------------------------------------------------------------------------------------

export const parity = language({
  title: 'whether the ones so far are even in number',
  source,
  letters: '01',
  answers: yesNo,
  // Zeros and ones by equal parts until a stop, L letters on average; an odd string gets another one. Only before that is it looked up.
  string(_, window, random, taken) {
    const middle = (window.least + window.most) / 2
    const p = middle / (2 * (1 + middle))
    let text = ''
    while (text.length < window.most) {
      const drawn = random.random()
      if (drawn >= 2 * p) break
      text += drawn < p ? '0' : '1'
    }
    if (taken(text) || text.length < window.least) return undefined
    let odd = false
    for (const letter of text) odd = odd !== (letter === '1')
    const even = odd ? `${text}1` : text
    return fits(even, window) ? even : undefined
  },
  unique: true,
  targets(text) {
    let even = 1
    return Array.from(text, (letter) => (even = letter === '1' ? 1 - even : even))
  },
  judge(text, _, window) {
    const ones = (part: string): number => part.replaceAll('0', '').length
    if (ones(text) % 2 === 1) return `${ones(text)} ones in all, an odd number`
    return lengthFault(text, window) ?? Array.from(text, (_, i) => (ones(text.slice(0, i + 1)) % 2 === 0 ? 1 : 0))
  },
})

/** A word again and again. */
const repeated = (title: string, word: string): Task<LanguageSettings> =>
  language({
    title,
    source,
    letters: [...new Set(word)].join(''),
    answers: yesNo,
    string(_, window, random, taken) {
      const text = word.repeat(Math.floor((window.least + random.below(window.most - window.least + 1)) / word.length))
      return fits(text, window) && !taken(text) ? text : undefined
    },
    unique: false,
    targets: (text) => Array.from(text, (_, i) => ((i + 1) % word.length === 0 ? 1 : 0)),
    judge(text, _, window) {
      const whole = new RegExp(`^(${word})*$`)
      if (!whole.test(text)) return `${text} isn't made of ${word}`
      return lengthFault(text, window) ?? Array.from(text, (_, i) => (whole.test(text.slice(0, i + 1)) ? 1 : 0))
    },
  })

export const aaStar = repeated('whether the letters so far are in (aa)*', 'aa')
export const ababStar = repeated('whether the letters so far are in (abab)*', 'abab')

// --- Brackets -------------------------------------------------------------------------------------------------------------------------

/** S -> (S) with probability 1/2, SS with 1/4, else nothing; so is what gets too long. `size`: of the brackets around. */
function drawDyck(pairs: readonly string[], most: number, random: Mersenne, size = 0): string {
  if (size >= most) return ''
  const drawn = random.random()
  if (drawn >= 0.75) return ''
  let text: string
  if (drawn < 0.5) {
    const pair = pairs.length === 1 ? pairs[0] : random.choice(pairs)
    text = pair[0] + drawDyck(pairs, most, random, size + 2) + pair[1]
  } else text = drawDyck(pairs, most, random, size) + drawDyck(pairs, most, random, size)
  return text.length <= most ? text : ''
}

/** How many brackets of a kind are open behind each letter; a text says where one closes that isn't open, or which stay open. */
function openings(text: string, [open, close]: string): number[] | string {
  const counts: number[] = []
  let depth = 0
  for (let i = 0; i < text.length; i++) {
    if (text[i] === open) depth++
    if (text[i] === close && --depth < 0) return `place ${i}: ${close} closes nothing`
    counts.push(depth)
  }
  return depth > 0 ? `${depth} ${open} stay open` : counts
}

/** What is left when all pairs next to each other are taken out, again and again: nothing of a balanced string. */
function reduced(text: string, pairs: readonly string[]): string {
  for (;;) {
    const shorter = pairs.reduce((rest, pair) => rest.replaceAll(pair, ''), text)
    if (shorter.length === text.length) return text
    text = shorter
  }
}

/** The same of each beginning of a text, in turn. */
function remainders(text: string, pairs: readonly string[]): string[] {
  let left = ''
  return Array.from(text, (letter) => (left = reduced(left + letter, pairs)))
}

/** The depth of brackets as they are written. */
function depths(text: string, [open, close]: string): number[] {
  let depth = 0
  return Array.from(text, (letter) => (depth += letter === open ? 1 : letter === close ? -1 : 0))
}

export const dyck1 = language({
  title: 'whether a bracket is open',
  source,
  letters: '()',
  answers: yesNo,
  string(_, window, random, taken) {
    const text = drawDyck(['()'], window.most, random)
    return text.length >= window.least && !taken(text) ? text : undefined
  },
  spread: 0.5,
  unique: true,
  targets: (text) => depths(text, '()').map((depth) => (depth > 0 ? 1 : 0)),
  judge(text, _, window) {
    const counts = openings(text, '()')
    if (typeof counts === 'string') return counts
    return lengthFault(text, window) ?? remainders(text, ['()']).map((left) => (left === '' ? 0 : 1))
  },
})

export const resetDyck1 = language({
  title: 'whether a bracket is open since the last reset',
  source,
  letters: '()1',
  answers: yesNo,
  string(_, window, random, taken) {
    const before = drawDyck(['()'], window.most, random)
    const behind = drawDyck(['()'], window.most, random)
    const text = `${before.slice(0, random.below(before.length + 1))}1${behind}`
    return text.length >= window.least && !taken(text) ? text : undefined
  },
  spread: 0.5,
  unique: true,
  targets(text) {
    const reset = text.indexOf('1')
    const open = (part: string): number[] => depths(part, '()').map((depth) => (depth > 0 ? 1 : 0))
    return [...open(text.slice(0, reset)), 0, ...open(text.slice(reset + 1))]
  },
  judge(text, _, window) {
    const [before, behind, ...more] = text.split('1')
    if (behind === undefined || more.length > 0) return `${more.length + 1 - (behind === undefined ? 1 : 0)} resets, where one is right`
    const closed = openings(behind, '()')
    if (typeof closed === 'string') return `behind the reset: ${closed}`
    const left = reduced(before, ['()'])
    if (left.includes(')')) return 'before the reset, ) closes nothing'
    if (text.length < window.least) return `${text.length} letters, where ${window.least} are the least`
    // What is cut off must have been part of a string in the window.
    if (before.length + left.length > window.most || behind.length > window.most) return `a part of more than ${window.most} letters`
    // A reset takes what is open with it.
    return [...remainders(before, ['()']), '', ...remainders(behind, ['()'])].map((open) => (open === '' ? 0 : 1))
  },
})

export interface ShuffleSettings extends LanguageSettings {
  nested: boolean
}

const bothPairs = ['()', '[]']

/** The brackets of both kinds in any order that keeps that of each kind: all such orders are as likely. */
function interleaved(text: string, random: Mersenne): string {
  const kinds = bothPairs.map((pair) => [...text].filter((letter) => pair.includes(letter)))
  const [round, square] = kinds
  let [r, s] = [0, 0]
  let result = ''
  while (result.length < text.length) result += random.below(text.length - r - s) < round.length - r ? round[r++] : square[s++]
  return result
}

export const shuffle2 = language<ShuffleSettings>({
  title: 'which of two kinds of brackets are open, each closed without regard to the other',
  source,
  letters: '()[]',
  answers: ['00', '01', '10', '11'],
  fields: { nested: { type: 'boolean', default: false, description: 'as published: one kind never closes within the other' } },
  published: { nested: true },
  string({ nested }, window, random, taken) {
    const drawn = drawDyck(bothPairs, window.most, random)
    if (drawn.length < window.least) return undefined
    const text = nested ? drawn : interleaved(drawn, random)
    return taken(text) ? undefined : text
  },
  spread: 0.5,
  unique: true,
  targets(text) {
    const [round, square] = bothPairs.map((pair) => depths(text, pair))
    return round.map((depth, i) => (depth > 0 ? 2 : 0) + (square[i] > 0 ? 1 : 0))
  },
  judge(text, { nested }, window) {
    const [round, square] = bothPairs.map((pair) => openings(text, pair))
    if (typeof round === 'string') return round
    if (typeof square === 'string') return square
    if (nested && reduced(text, bothPairs) !== '') return 'brackets of one kind close within those of the other'
    // A bracket that closes goes away with the last open one of its kind.
    let left = ''
    const expected = Array.from(text, (letter) => {
      const pair = bothPairs.find(([, close]) => close === letter)
      const at = pair === undefined ? -1 : left.lastIndexOf(pair[0])
      left = at < 0 ? left + letter : left.slice(0, at) + left.slice(at + 1)
      return (left.includes('(') ? 2 : 0) + (left.includes('[') ? 1 : 0)
    })
    return lengthFault(text, window) ?? expected
  },
})

// --- Counters -------------------------------------------------------------------------------------------------------------------------

/** a^n b^n, or a^n b^n c^n; what is asked for is the next letter. */
function counter(letters: string): Task<LanguageSettings> {
  const end = letters.length
  const ofLetters = `a or b, ${[...letters].slice(1).join(', ')}, the end`
  return language({
    title: `the next letter of ${[...letters].map((letter) => `${letter}^n`).join(' ')}: ${ofLetters}`,
    source,
    letters,
    answers: ['a or b', ...letters.slice(1), 'end'],
    window: { what: 'letters of each kind', defaults: { minLength: 1, maxLength: 50, testMin: 51, testMax: 100 }, most: 1000 },
    string(_, { least, most }, random, taken) {
      const n = least + random.below(most - least + 1)
      const text = [...letters].map((letter) => letter.repeat(n)).join('')
      return taken(text) ? undefined : text
    },
    unique: false,
    targets(text) {
      const n = text.length / letters.length
      return [...letters].flatMap((_, kind) => Array.from({ length: n }, (_, i) => (i < n - 1 || kind === 0 ? kind : kind + 1)))
    },
    judge(text, _, { least, most }) {
      const parts = [...letters].map((letter) => [...text].filter((other) => other === letter).join(''))
      if (parts.join('') !== text) return 'the letters are out of order'
      const n = parts[0].length
      if (parts.some((part) => part.length !== n)) return `${parts.map((part) => part.length).join(', ')} letters of each kind`
      if (n < least || n > most) return `${n} letters of each kind, where ${least} to ${most} are right`
      return Array.from(text, (letter, i) => (letter === 'a' ? 0 : i + 1 === text.length ? end : letters.indexOf(text[i + 1])))
    },
  })
}

export const counter2 = counter('ab')
export const counter3 = counter('abc')
