/**
 * Code execution (Irie 2021): programs of assignments, steps up and down, conditions and prints; the answer to a print stands at its `;`, everywhere
 * else it is `_`. The published files come out byte for byte. Tests: test/tasks/code-execution.test.ts.
 */
import { type Mersenne, mersenne } from './mersenne.ts'
import { wrongTargets } from './targets.ts'
import { type Example, type Split, splits, type Task, task } from './task.ts'

/** Settings of code execution. */
export interface CodeExecutionSettings {
  /** Variables that a program may assign, 1 to 5. */
  variables: number
  /** Statements of a program, each with at most one condition. */
  statements: number
  semantics: 'published' | 'plain'
}

/** The symbols of programs by number; padding is the next. Answers: `_` is 0, a value v is v + 9. */
export const codeSigns: readonly string[] = ['x', 'y', 'z', 'a', 'b', ...'= ++ -- ; print if < > :'.split(' '), ...'0123456789']

const assign = codeSigns.indexOf('=')
const plus = codeSigns.indexOf('++')
const minus = codeSigns.indexOf('--')
const end = codeSigns.indexOf(';')
const print = codeSigns.indexOf('print')
const condition = codeSigns.indexOf('if')
const less = codeSigns.indexOf('<')
const more = codeSigns.indexOf('>')
const then = codeSigns.indexOf(':')
const zero = codeSigns.indexOf('0')
const pad = codeSigns.length

const nothing = 0
const lowest = -8
const highest = 16
const answer = (value: number): number => value - lowest + 1

/** A program, drawn and run at once, in the authors' order: what can be drawn depends on what has been assigned, and a step on the value it changes. */
function write({ variables, statements, semantics }: CodeExecutionSettings, random: Mersenne): { tokens: number[]; answers: number[] } {
  const tokens: number[] = []
  const answers: number[] = []
  const values = new Array<number>(variables)
  /** In the order of their first assignment. */
  const assigned: number[] = []
  /** Writes a statement; it takes effect if it runs. Kinds: 0 assign, 1 step, 2 print. */
  const statement = (kind: number, runs: boolean, conditional: boolean): void => {
    const variable = kind === 0 ? random.below(variables) : random.choice(assigned)
    let printed = nothing
    if (kind === 0) {
      const value = random.below(10)
      tokens.push(variable, assign, zero + value)
      const known = assigned.includes(variable)
      // The published data ignore a conditional assignment to a variable that has a value.
      if (runs && !(semantics === 'published' && conditional && known)) {
        values[variable] = value
        if (!known) assigned.push(variable)
      }
    } else if (kind === 1) {
      const wanted = random.below(2) === 0 ? 1 : -1
      const moved = values[variable] + wanted
      const by = moved > highest || moved < lowest ? -wanted : wanted
      tokens.push(variable, by > 0 ? plus : minus)
      if (runs) values[variable] += by
    } else {
      tokens.push(print, variable)
      if (runs) printed = answer(values[variable])
    }
    tokens.push(end)
    while (answers.length < tokens.length - 1) answers.push(nothing)
    answers.push(printed)
  }
  for (let i = 0; i < statements; i++) {
    const kind = i === 0 ? 0 : i === statements - 1 ? 2 : random.below(4)
    if (kind < 3) {
      statement(kind, true, false)
      continue
    }
    const comparison = random.below(2) === 0 ? less : more
    const variable = random.choice(assigned)
    const constant = random.below(10)
    tokens.push(condition, variable, comparison, zero + constant, then)
    const holds = comparison === less ? values[variable] < constant : values[variable] > constant
    statement(random.below(3), holds, true)
  }
  return { tokens, answers }
}

/** The answers that a program asks for, from its symbols alone; what is wrong with it, where it is no program. */
function run({ variables, statements, semantics }: CodeExecutionSettings, tokens: ArrayLike<number>): Int32Array | string {
  const answers = new Int32Array(tokens.length)
  const state = new Map<number, number>()
  let t = 0
  let problem: string | undefined
  const expected = (what: string): void => {
    problem ??= `${t < tokens.length ? `'${codeSigns[tokens[t]] ?? tokens[t]}' is` : 'the program ends'} at ${t}, where ${what} should be`
  }
  const take = (what: string, allowed: (token: number) => boolean): number => {
    if (!(t < tokens.length && allowed(tokens[t]))) expected(what)
    return tokens[t++]
  }
  const symbol = (token: number): void => void take(`'${codeSigns[token]}'`, (found) => found === token)
  const name = (): number => take(`one of ${variables} variables`, (token) => token >= 0 && token < variables)
  const digit = (): number => take('a digit', (token) => token >= zero && token < zero + 10) - zero
  const known = (variable: number): number => {
    if (!state.has(variable)) problem ??= `'${codeSigns[variable]}' at ${t - 1} has no value yet`
    return state.get(variable) ?? 0
  }
  for (let n = 0; n < statements && problem === undefined; n++) {
    let conditional = false
    let runs = true
    if (n === 0 && !(tokens[t] < variables && tokens[t + 1] === assign)) expected('an assignment')
    if (n === statements - 1 && tokens[t] !== print) expected('a print')
    if (tokens[t] === condition) {
      conditional = true
      t++
      const left = known(name())
      const comparison = take("'<' or '>'", (token) => token === less || token === more)
      const right = digit()
      symbol(then)
      runs = comparison === less ? left < right : left > right
    }
    if (tokens[t] === print) {
      t++
      const value = known(name())
      if (runs && t < tokens.length) answers[t] = answer(value)
    } else {
      const variable = name()
      const token = take("'=', '++' or '--'", (token) => token === assign || token === plus || token === minus)
      if (token === assign) {
        const value = digit()
        const ignored = semantics === 'published' && conditional && state.has(variable)
        if (runs && !ignored) state.set(variable, value)
      } else {
        const value = known(variable) + (token === plus ? 1 : -1)
        if (value < lowest || value > highest) problem ??= `the step at ${t - 1} leads to ${value}, outside ${lowest} to ${highest}`
        if (runs) state.set(variable, value)
      }
    }
    symbol(end)
  }
  return problem ?? (t < tokens.length ? `the program goes on at ${t}, after ${statements} statements` : answers)
}

const codeExecution: Task<CodeExecutionSettings> = task({
  title: 'what each print of a program prints',
  source: 'Irie 2021, Going beyond linear transformers with recurrent fast weight programmers; as in IDSIA/recurrent-fwp',
  fields: {
    variables: { type: 'integer', min: 1, max: 5, default: 3, description: 'variables that a program may assign: 3 or 5 in the paper' },
    statements: {
      type: 'integer',
      min: 2,
      max: 100_000,
      sensible: 1000,
      default: 100,
      description: 'statements of a program, each with at most one condition',
    },
    semantics: {
      type: 'string',
      choices: ['published', 'plain'],
      default: 'published',
      description:
        "published: as in the paper's data, an assignment under a condition is ignored where its variable has a value; plain: it isn't",
    },
  },
  options: { max_num_vars: 'variables', code_length: 'statements' },
  symbols: () => answer(highest) + 1, // of answers there is one more than of symbols
  vocabulary: () => `${codeSigns.map((sign, i) => `${i} ${sign}`).join(', ')}, ${pad} pad; targets: 0 nothing, v + 9 the value v`,
  pad: () => pad,
  draw(settings, _, random): Example {
    const { tokens, answers } = write(settings, random)
    return { inputs: Int32Array.from(tokens), targets: Int32Array.from(answers) }
  },
  wrong(settings, example) {
    const answers = run(settings, example.inputs)
    return typeof answers === 'string' ? answers : wrongTargets(example, answers)
  },
  metric: 'sequences',
  chance: () => 0,
})

/** The task of this file by name. */
export const codeExecutionTasks = { 'code-execution': codeExecution } satisfies Record<string, unknown>

/**
 * The published files, by their names: programs (.src) and answers (.tgt) for training, validation and test, from one stream of seed 42. The last
 * program of each is drawn but not written.
 */
export function* codeExecutionFiles(variables: number, seed = 42): Generator<{ name: string; split: Split; text: string }> {
  const settings: CodeExecutionSettings = { variables, statements: 100, semantics: 'published' }
  const random = mersenne([seed])
  const signs = codeSigns.map((sign) => `${sign} `)
  const printed = Array.from({ length: answer(highest) + 1 }, (_, i) => (i === nothing ? '_ ' : `${i - 1 + lowest} `))
  for (const split of splits) {
    let source = ''
    let target = ''
    for (let left = split === 'train' ? 9999 : 999; left >= 0; left--) {
      const { tokens, answers } = write(settings, random)
      if (left === 0) break
      for (const token of tokens) source += signs[token]
      for (const token of answers) target += printed[token]
      source += '\n'
      target += '\n'
    }
    yield { name: `${split}_${variables}.src`, split, text: source }
    yield { name: `${split}_${variables}.tgt`, split, text: target }
  }
}
