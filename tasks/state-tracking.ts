/**
 * State tracking: a sequence whose answer is asked for once, at its end (and of sums of products, with `prefixes`, before that, too). Grazzi et al. 2025,
 * "Unlocking State-Tracking in Linear RNNs Through Negative Eigenvalues", whose code is automl/unlocking_state_tracking. Lengths count the answer, which no
 * input holds; tests are longer than training.
 *
 * Tests: test/tasks/.
 */
import type { Mersenne } from './mersenne.ts'
import { wrongTargets } from './targets.ts'
import { exampleAt, type Split, task } from './task.ts'

export interface LengthSettings {
  minLength: number
  maxLength: number
  testMin: number
  testMax: number
}
export interface ArithmeticSettings extends LengthSettings {
  vocabulary: number
}
export interface SumSettings extends ArithmeticSettings {
  prefixes: boolean
}
export interface BracketSettings extends ArithmeticSettings {
  times: boolean
}

const source = 'Grazzi et al. 2025; automl/unlocking_state_tracking'

const lengthField = (length: number, description: string) =>
  ({ type: 'integer', default: length, min: 2, sensible: 100_000, description }) as const
const lengths = {
  minLength: lengthField(3, 'length of the shortest sequences of training'),
  maxLength: lengthField(40, 'length of the longest ones'),
  testMin: lengthField(40, 'length of the shortest sequences of a test'),
  testMax: lengthField(256, 'length of the longest ones of a test'),
}
const lengthOptions = {
  min_sequence_length: 'minLength',
  max_sequence_length: 'maxLength',
  'validation lengths': ['testMin', 'testMax'],
} as const

function checkLengths({ minLength, maxLength, testMin, testMax }: LengthSettings): void {
  if (maxLength < minLength) throw new Error(`maxLength must be at least minLength = ${minLength}, not ${maxLength}`)
  if (testMax < testMin) throw new Error(`testMax must be at least testMin = ${testMin}, not ${testMax}`)
}

const range = (s: LengthSettings, split: Split): readonly [least: number, most: number] =>
  split === 'train' ? [s.minLength, s.maxLength] : [s.testMin, s.testMax]
const drawLength = ([least, most]: readonly [number, number], random: Mersenne): number => least + random.below(most - least + 1)
const lengthFault = (length: number, [least, most]: readonly [number, number]): string | undefined =>
  length < least || length > most ? `length ${length} with the answer, where ${least} to ${most} are right` : undefined

// --- Parity ---------------------------------------------------------------------------------------------------------------------------

export const parityFinal = task<LengthSettings>({
  title: 'whether the number of ones is odd, at the end',
  source,
  fields: lengths,
  options: lengthOptions,
  check: checkLengths,
  symbols: () => 3,
  vocabulary: () => '0 pad, 1 zero, 2 one; target 1 where the number of 2s is even, 2 where it is odd',
  pad: () => 0,
  draw(settings, split, random) {
    const inputs = Array.from({ length: drawLength(range(settings, split), random) - 1 }, () => 1 + random.below(2))
    const odd = inputs.reduce((sum, symbol) => sum ^ (symbol - 1), 0)
    return exampleAt(inputs, [[inputs.length - 1, 1 + odd]])
  },
  wrong(settings, example, split) {
    const { inputs } = example
    const T = inputs.length
    if (inputs.includes(0)) return `place ${inputs.indexOf(0)}: padding inside the sequence`
    const ones = inputs.filter((symbol) => symbol === 2).length
    return lengthFault(T + 1, range(settings, split)) ?? wrongTargets(example, exampleAt(inputs, [[T - 1, ones % 2 === 0 ? 1 : 2]]).targets)
  },
  metric: 'places',
  chance: () => 1 / 2,
})

// --- Arithmetic -----------------------------------------------------------------------------------------------------------------------

const vocabularyField = (symbols: number, others: number) =>
  ({
    type: 'integer',
    default: symbols,
    min: others + 2,
    sensible: 10_000,
    description: `symbols; numbers are all but ${others}, and count modulo their number`,
  }) as const

const [plus, minus, times, equals, zero] = [1, 2, 3, 4, 5]
/** Lengths are odd: the published generator takes the odd number at or below an even one. */
const odd = (length: number): number => 2 * Math.floor((length + 1) / 2) - 1
const modulo = (value: number, m: number): number => ((value % m) + m) % m

export const modularArithmetic = task<SumSettings>({
  title: 'the value of a sum of products modulo 5',
  source,
  fields: {
    vocabulary: vocabularyField(10, 5),
    ...lengths,
    prefixes: { type: 'boolean', default: false, description: 'at each + - * ask for the value of what stands before it, too' },
  },
  options: { vocab_size: 'vocabulary', ...lengthOptions },
  check(settings) {
    checkLengths(settings)
    if (settings.minLength < 3 || settings.testMin < 3)
      throw new Error('minLength and testMin must be 3 or more: a number, =, and the answer')
  },
  symbols: ({ vocabulary }) => vocabulary,
  vocabulary: ({ vocabulary: V }) => `0 pad, 1 +, 2 -, 3 *, 4 =, 5..${V - 1} the numbers 0..${V - 6} (modulo ${V - 5})`,
  pad: () => 0,
  draw(settings, split, random) {
    const m = settings.vocabulary - 5
    const [least, most] = range(settings, split).map(odd)
    const length = least + 2 * random.below((most - least) / 2 + 1)
    const number = (): number => random.below(m)
    // The products before the last sign, and the one that goes on, with its sign.
    let product = number()
    let sum = 0
    const inputs = [zero + product]
    const asked: [place: number, target: number][] = []
    const ask = (): unknown => asked.push([inputs.length, zero + modulo(sum + product, m)])
    while (inputs.length < length - 2) {
      const op = plus + random.below(3)
      const next = number()
      if (settings.prefixes) ask()
      inputs.push(op, zero + next)
      if (op === times) product = modulo(product * next, m)
      else {
        sum += product
        product = op === minus ? -next : next
      }
    }
    ask()
    inputs.push(equals)
    return exampleAt(inputs, asked)
  },
  wrong(settings, example, split) {
    const { inputs } = example
    const m = settings.vocabulary - 5
    const T = inputs.length
    for (let i = 0; i < T; i++) {
      const symbol = inputs[i]
      if (i % 2 === 0 && symbol < zero) return `place ${i}: ${symbol} isn't a number`
      if (i % 2 === 1 && (i === T - 1 ? symbol !== equals : symbol < plus || symbol > times))
        return `place ${i}: ${symbol} isn't ${i === T - 1 ? 'the sign =' : 'one of + - *'}`
    }
    if (T % 2 === 1) return `${T} places, where numbers and signs take turns up to =`
    // The terms of the sum so far, each with its sign.
    const terms: number[] = []
    const asked: [place: number, target: number][] = []
    inputs.forEach((symbol, place) => {
      const sign = place === 0 ? plus : inputs[place - 1]
      if (place % 2 === 0)
        terms.push(sign === times ? (terms.pop()! * (symbol - zero)) % m : sign === minus ? zero - symbol : symbol - zero)
      else if (settings.prefixes || place === T - 1) {
        const value = terms.reduce((sum, term) => sum + term)
        asked.push([place, zero + modulo(value, m)])
      }
    })
    const [least, most] = range(settings, split)
    return lengthFault(T + 1, [odd(least), odd(most)]) ?? wrongTargets(example, exampleAt(inputs, asked).targets)
  },
  metric: 'places',
  chance: ({ vocabulary }) => 1 / (vocabulary - 5),
})

// --- Arithmetic with brackets ---------------------------------------------------------------------------------------------------------

/** The symbols of an arithmetic modulo m: numbers 0 ... m-1, and then these. */
const signs = (m: number) => ({ add: m, subtract: m + 1, multiply: m + 2, open: m + 3, close: m + 4, equal: m + 5, pad: m + 6 })

/** An expression of a number of tokens, and its value. */
function drawExpression(length: number, m: number, operations: number, random: Mersenne): { tokens: number[]; value: number } {
  const { add, subtract, open, close } = signs(m)
  if (length < 5) {
    const number = random.below(m)
    const negative = length % 2 === 0
    const term = negative ? [subtract, number] : [number]
    return { tokens: length > 2 ? [open, ...term, close] : term, value: negative ? modulo(-number, m) : number }
  }
  const leftLength = 1 + random.below(length - 4)
  const left = drawExpression(leftLength, m, operations, random)
  const right = drawExpression(length - 3 - leftLength, m, operations, random)
  const operation = random.below(operations)
  const value = [left.value + right.value, left.value - right.value, left.value * right.value][operation]
  return { tokens: [open, ...left.tokens, add + operation, ...right.tokens, close], value: modulo(value, m) }
}

/** The value of an expression by its grammar: term = number or -number; E = term, (term) or (E o E). A text says what is wrong. */
function evaluate(tokens: ArrayLike<number>, m: number, withTimes: boolean): { value: number; end: number } | string {
  const { add, subtract, multiply, open, close } = signs(m)
  // What is open: the value left of the operation, if there is one yet, and the operation.
  const stack: { left?: number; operation?: number }[] = []
  let value: number | undefined
  let bare = true
  for (let i = 0; ; i++) {
    const token = tokens[i]
    if (value === undefined) {
      if (token === open) stack.push({})
      else {
        const negative = token === subtract
        if (negative) i++
        if (!(tokens[i] < m)) return `place ${i}: ${tokens[i]} isn't a number`
        value = negative ? (m - tokens[i]) % m : tokens[i]
        bare = true
      }
    } else {
      const top = stack[stack.length - 1]
      if (top === undefined) return { value, end: i }
      if (token === close) {
        if (top.operation === undefined && !bare) return `place ${i}: brackets within brackets hold nothing more`
        if (top.operation === add) value = (top.left! + value) % m
        else if (top.operation === subtract) value = (top.left! + m - value) % m
        else if (top.operation === multiply) value = (top.left! * value) % m
        stack.pop()
        bare = false
      } else if (token === add || token === subtract || (token === multiply && withTimes)) {
        if (top.operation !== undefined) return `place ${i}: a second operation in one pair of brackets`
        top.left = value
        top.operation = token
        value = undefined
      } else return `place ${i}: ${token} isn't an operation or a closing bracket`
    }
    if (i >= tokens.length) return `place ${i}: the expression doesn't end`
  }
}

export const modularArithmeticBrackets = task<BracketSettings>({
  title: 'the value of an expression with brackets modulo 5',
  source,
  fields: {
    vocabulary: vocabularyField(12, 7),
    ...lengths,
    times: { type: 'boolean', default: false, description: 'products, too; the published configurations have none' },
  },
  options: { vocab_size: 'vocabulary', ...lengthOptions, mult: 'times' },
  check: checkLengths,
  symbols: ({ vocabulary }) => vocabulary,
  vocabulary({ vocabulary: V }) {
    const s = signs(V - 7)
    return `0..${V - 8} numbers (modulo ${V - 7}), ${s.add} +, ${s.subtract} -, ${s.multiply} *, ${s.open} (, ${s.close} ), ${s.equal} =, ${s.pad} pad; 0 in the answer's place`
  },
  pad: ({ vocabulary }) => vocabulary - 1,
  // The answer's place, behind the one that is scored, holds a 0 as published; what follows there is padding and counts with the length.
  draw(settings, split, random) {
    const m = settings.vocabulary - 7
    const length = Math.max(drawLength(range(settings, split), random), 5)
    const { tokens, value } = drawExpression(length - 3, m, settings.times ? 3 : 2, random)
    return exampleAt([...tokens, signs(m).equal, 0], [[tokens.length, value]])
  },
  wrong(settings, example, split) {
    const { inputs } = example
    const m = settings.vocabulary - 7
    const end = inputs.length - 2
    if (inputs[end] !== signs(m).equal) return `place ${end}: ${inputs[end]} instead of the sign =`
    if (inputs[end + 1] !== 0) return `place ${end + 1}: ${inputs[end + 1]} instead of 0`
    const result = evaluate(inputs.subarray(0, end + 1), m, settings.times)
    if (typeof result === 'string') return result
    if (result.end !== end) return `place ${result.end}: the expression ends before =`
    const [least, most] = range(settings, split)
    const fault = lengthFault(end + 3, [Math.max(least, 5), Math.max(most, 5)])
    return fault ?? wrongTargets(example, exampleAt(inputs, [[end, result.value]]).targets)
  },
  metric: 'places',
  chance: ({ vocabulary }) => 1 / (vocabulary - 7),
})
