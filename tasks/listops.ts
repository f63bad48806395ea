/**
 * ListOps: the value of a nested expression such as [MAX 2 9 [MIN 4 7 ] 0 ], read at its last bracket. Two variants: that of the recurrent
 * fast-weight paper (Irie 2021; MIN MAX FIRST, all expressions equally deep; its published files come out byte for byte), and the original's (Nangia &
 * Bowman 2018; MIN MAX MED SM, of any depth). Tests: test/tasks/listops.test.ts.
 */
import type { Fields } from '../nn/fields.ts'
import { clip, printable } from '../nn/foreign.ts'
import { type Mersenne, mersenne } from './mersenne.ts'
import { lastTarget, wrongTargets } from './targets.ts'
import { type Example, type Split, splits, type Task, task } from './task.ts'
import { TextError } from './text.ts'

/** Settings of the original's ListOps, expressions of any depth. */
export interface NyuListopsSettings {
  /** The most operands of an operator. */
  operands: number
  /** The share of operands that are expressions themselves, 0 to 1. */
  branching: number
  /** The level at which all operands are digits; the outermost operator is at level 1. */
  maxDepth: number
}
/** Settings of the fast-weight paper's ListOps, expressions of equal depth. */
export interface ListopsSettings extends NyuListopsSettings {
  /** The level of the deepest digit. */
  depth: number
}

type Operator = readonly [sign: string, value: (operands: readonly number[]) => number]

const least: Operator = ['[MIN', (x) => Math.min(...x)]
const most: Operator = ['[MAX', (x) => Math.max(...x)]
const first: Operator = ['[FIRST', (x) => x[0]]
/** Between two, their mean without its half. */
const median: Operator = [
  '[MED',
  (x) => {
    const sorted = [...x].sort((a, b) => a - b)
    return Math.floor((sorted[(x.length - 1) >> 1] + sorted[x.length >> 1]) / 2)
  },
]
const sum: Operator = ['[SM', (x) => x.reduce((a, b) => a + b) % 10]

const variants = { listops: [least, most, first], 'listops-nyu': [least, most, median, sum] } satisfies Record<string, readonly Operator[]>
/** The two variants of ListOps. */
export type ListopsName = keyof typeof variants

/** The symbols: digits 0 to 9, the operators from 10 on, the closing bracket; padding is the next. */
const signsOf = (operators: readonly Operator[]): string[] => [...'0123456789', ...operators.map(([sign]) => sign), ']']

/** Draws an expression into `tokens`, in the authors' order, and gives the level of its deepest digit; the outermost operator is at level 1. */
function grow(
  operators: readonly Operator[],
  { operands, branching, maxDepth }: NyuListopsSettings,
  random: Mersenne,
  tokens: number[],
): number {
  const tree = (level: number): number => {
    const drawn = level < maxDepth ? random.random() : 1
    if (level > 1 && (level === maxDepth || drawn > branching)) {
      tokens.push(random.below(10))
      return level
    }
    const n = 2 + random.below(operands - 1)
    const place = tokens.push(0) - 1
    let deepest = 0
    for (let i = 0; i < n; i++) deepest = Math.max(deepest, tree(level + 1))
    tokens[place] = 10 + random.below(operators.length)
    tokens.push(10 + operators.length)
    return deepest
  }
  return tree(1)
}

/** Expressions that aren't of the wanted depth are thrown away. */
function growTo(depth: number, s: NyuListopsSettings, random: Mersenne): number[] {
  const tokens: number[] = []
  while (grow(variants.listops, s, random, tokens) !== depth) tokens.length = 0
  return tokens
}

/** The value of an expression, operand by operand from its beginning. */
function resultOf(operators: readonly Operator[], tokens: readonly number[]): number {
  let at = 0
  const value = (): number => {
    const token = tokens[at++]
    if (token < 10) return token
    const operands: number[] = []
    while (tokens[at] < 10 + operators.length) operands.push(value())
    at++
    return operators[token - 10][1](operands)
  }
  return value()
}

const exampleOf = (operators: readonly Operator[], tokens: readonly number[]): Example => ({
  inputs: Int32Array.from(tokens),
  targets: lastTarget(tokens.length, resultOf(operators, tokens)),
})

/** The value of a sequence of symbols and the level of its deepest digit, by a stack; what is wrong with it, where it has none. */
function evaluate(operators: readonly Operator[], inputs: ArrayLike<number>): { value: number; deepest: number; widest: number } | string {
  const open: { sign: number; operands: number[] }[] = []
  const close = 10 + operators.length
  let deepest = 0
  let widest = 0
  for (let t = 0; t < inputs.length; t++) {
    const symbol = inputs[t]
    if (!(symbol >= 0 && symbol <= close)) return `the symbol at ${t}, ${symbol}, is none of an expression`
    if (symbol > 9 && symbol < close) {
      if (t > 0 && open.length === 0) return `the expression ends before ${t}`
      open.push({ sign: symbol, operands: [] })
      continue
    }
    const within = open.at(-1)
    if (within === undefined) return t === 0 ? 'an expression begins with an operator' : `the expression ends before ${t}`
    if (symbol < 10) {
      within.operands.push(symbol)
      deepest = Math.max(deepest, open.length + 1)
      continue
    }
    open.pop()
    const { sign, operands } = within
    if (operands.length < 2) return `the operator that ends at ${t} has ${operands.length} operands`
    widest = Math.max(widest, operands.length)
    const value = operators[sign - 10][1](operands)
    if (open.length > 0) open.at(-1)!.operands.push(value)
    else if (t === inputs.length - 1) return { value, deepest, widest }
  }
  return inputs.length === 0 ? 'there is no expression' : 'a bracket is open at the end'
}

function wrongIn(operators: readonly Operator[], s: NyuListopsSettings & { depth?: number }, example: Example): string | undefined {
  const found = evaluate(operators, example.inputs)
  if (typeof found === 'string') return found
  if (found.widest > s.operands) return `an operator has ${found.widest} operands, ${s.operands} at most may be`
  if (found.deepest > s.maxDepth) return `a digit is at level ${found.deepest}, ${s.maxDepth} at most may be`
  if (s.depth !== undefined && found.deepest !== s.depth) return `the deepest digit is at level ${found.deepest}, not ${s.depth}`
  return wrongTargets(example, lastTarget(example.inputs.length, found.value))
}

/** How many symbols are drawn, on average, until an expression is as deep as wanted. */
function draws({ operands, branching, maxDepth, depth }: NyuListopsSettings & { depth?: number }): number {
  const counts = Array.from({ length: operands - 1 }, (_, i) => i + 2)
  const average = (of: (n: number) => number): number => counts.reduce((total, n) => total + of(n), 0) / counts.length
  const digit = (level: number): number => (level < maxDepth ? 1 - branching : 1)
  let symbols = 0
  for (let level = maxDepth; level > 1; level--) symbols = digit(level) + (1 - digit(level)) * (2 + average((n) => n * symbols))
  /** The share of expressions that are no deeper. */
  const within = (limit: number): number => {
    let fits = 0
    for (let level = limit; level > 1; level--) fits = digit(level) + (1 - digit(level)) * average((n) => fits ** n)
    return average((n) => fits ** n)
  }
  return (2 + average((n) => n * symbols)) / (depth === undefined ? 1 : within(depth) - within(depth - 1))
}

function checkDraws(s: NyuListopsSettings & { depth?: number }): void {
  const needed = draws(s)
  if (needed < 1e6) return
  const what = s.depth === undefined ? 'an expression' : `an expression of depth ${s.depth}`
  throw new Error(
    `${what} would take ${needed < 1e12 ? Math.round(needed) : 'endless'} draws (operands ${s.operands}, branching ${s.branching}, maxDepth ${s.maxDepth})`,
  )
}

const fields: Fields<NyuListopsSettings> = {
  operands: {
    type: 'integer',
    min: 2,
    max: 100,
    default: 5,
    description: 'the most operands of an operator; each number from 2 on is equally likely',
  },
  branching: { type: 'number', min: 0, max: 1, default: 0.25, description: 'the share of operands that are expressions themselves' },
  maxDepth: {
    type: 'integer',
    min: 2,
    max: 100,
    default: 20,
    description: 'the level at which all operands are digits; the outermost operator is at level 1',
  },
}
const options = { MAX_ARGS: 'operands', VALUE_P: 'branching', MAX_DEPTH: 'maxDepth' } as const
const symbols = (name: ListopsName): number => signsOf(variants[name]).length + 1
const vocabulary = (name: ListopsName): string =>
  `${signsOf(variants[name])
    .map((sign, i) => `${i} ${sign}`)
    .join(', ')}, ${symbols(name) - 1} pad; targets 0 to 9`

const listops: Task<ListopsSettings> = task({
  title: 'the value of a nested expression of MIN, MAX and FIRST',
  source: 'Irie 2021, Going beyond linear transformers with recurrent fast weight programmers; as in IDSIA/recurrent-fwp',
  fields: {
    depth: {
      type: 'integer',
      min: 2,
      max: 100,
      default: 11,
      description: "the level of the deepest digit: 11 for the paper's depth 10, 16 for 15",
    },
    ...fields,
  },
  options: { only_depth: 'depth', ...options },
  check(s) {
    if (s.depth > s.maxDepth) throw new Error(`depth = ${s.depth} is more than maxDepth = ${s.maxDepth}`)
    checkDraws(s)
  },
  symbols: () => symbols('listops'),
  vocabulary: () => vocabulary('listops'),
  pad: () => symbols('listops') - 1,
  draw: (s, _, random) => exampleOf(variants.listops, growTo(s.depth, s, random)),
  wrong: (s, example) => wrongIn(variants.listops, s, example),
  metric: 'places',
  chance: () => 0.18, // 0 and 9 at depths 11 and 16, of 10,000 expressions
})

/** Expressions as they come; the published set, of their rule, has none twice, and therefore fewer short ones: 41 symbols on average, where these have 34. */
const listopsNyu: Task<NyuListopsSettings> = task({
  title: 'the value of a nested expression of MIN, MAX, MED and SM',
  source: 'Nangia & Bowman 2018, ListOps: a diagnostic dataset for latent tree learning; without its parentheses',
  fields,
  options,
  check: checkDraws,
  symbols: () => symbols('listops-nyu'),
  vocabulary: () => vocabulary('listops-nyu'),
  pad: () => symbols('listops-nyu') - 1,
  draw(s, _, random) {
    const tokens: number[] = []
    grow(variants['listops-nyu'], s, random, tokens)
    return exampleOf(variants['listops-nyu'], tokens)
  },
  wrong: (s, example) => wrongIn(variants['listops-nyu'], s, example),
  metric: 'places',
  chance: () => 0.11, // 0, of 100,000 expressions
})

/** The tasks of this file by name. */
export const listopsTasks = { listops, 'listops-nyu': listopsNyu } satisfies Record<ListopsName, unknown>

// --- Files ----------------------------------------------------------------------------------------------------------------------------

/** The symbols by number, padding left out. */
export const listopsSigns = (name: ListopsName): string[] => signsOf(variants[name])

/**
 * The published files of the fast-weight variant, by their names: training, validation and test expressions from one stream of seed 42.
 * A line is its number of symbols, its value, and the symbols.
 */
export function* listopsFiles(depth: number, seed = 42): Generator<{ name: string; split: Split; text: string }> {
  const signs = listopsSigns('listops')
  const settings = { operands: 5, branching: 0.25, maxDepth: 20 }
  const random = mersenne([seed])
  for (const split of splits) {
    let text = ''
    for (let i = split === 'train' ? 10_000 : 1000; i > 0; i--) {
      const tokens = growTo(depth, settings, random)
      text += `${tokens.length} ${resultOf(variants.listops, tokens)}`
      for (const token of tokens) text += ' ' + signs[token]
      text += '\n'
    }
    yield { name: `${split}_a5d20max401min299dep${depth}.txt`, split, text }
  }
}

/**
 * The expressions of a published file: lines `length value symbols` (listops), or `value`, a tab and symbols with parentheses between them, which
 * are left out (listops-nyu). Each value is checked.
 */
export function readListops(text: string, name: ListopsName): Example[] {
  const tokenOf = new Map(listopsSigns(name).map((sign, token) => [sign, token]))
  const lines = text.split('\n')
  if (lines.at(-1) === '') lines.pop()
  return lines.map((line, i) => {
    const bad = (what: string): TextError => new TextError(`ListOps: line ${i + 1}: ${what}`)
    const [numbers, signs] =
      name === 'listops'
        ? [line.split(' ', 2), line.split(' ').slice(2)]
        : [
            line.split('\t', 1),
            line
              .slice(line.indexOf('\t') + 1)
              .split(' ')
              .filter((sign) => !/^[()]?$/.test(sign)),
          ]
    const value = numbers.at(-1)!
    if (!/^\d$/.test(value))
      throw bad(`begins with '${clip(printable(line), 20)}', not with ${name === 'listops' ? 'a length and a value' : 'a value and a tab'}`)
    const inputs = Int32Array.from(signs, (sign) => {
      const token = tokenOf.get(sign)
      if (token === undefined) throw bad(`'${clip(printable(sign), 20)}' is no symbol (${[...tokenOf.keys()].join(' ')})`)
      return token
    })
    if (name === 'listops' && Number(numbers[0]) !== inputs.length)
      throw bad(`it has ${inputs.length} symbols, not ${clip(printable(numbers[0]), 20)}`)
    const found = evaluate(variants[name], inputs)
    if (typeof found === 'string') throw bad(found)
    if (found.value !== Number(value)) throw bad(`its value is ${found.value}, not ${value}`)
    return { inputs, targets: lastTarget(inputs.length, found.value) }
  })
}
