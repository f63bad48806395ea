/**
 * Commands and their options as tables: parsing, checking, the config file and the help text all come from the same rows.
 *
 * A value is looked up in this order: flag, config file, preset, default. Whatever is wrong with one is a UsageError, whose message is one
 * line that names the option. Tests: test/cli/arguments.test.ts.
 */

import { nearest, printable } from '../nn/foreign.ts'
import { decodeText } from '../tasks/decode.ts'
import { readWhole } from '../tasks/read.ts'
import { reason } from '../tasks/reason.ts'
import { TextError } from '../tasks/text.ts'

export class UsageError extends Error {
  override name = 'UsageError'
}

export type Value = string | number | boolean | readonly string[]

export interface Option {
  /** As on the command line and in the config file, without dashes: 'learning-rate'. */
  readonly name: string
  readonly type: 'string' | 'integer' | 'number' | 'boolean' | 'list'
  readonly description: string
  /** The heading it stands under in the help. */
  readonly group?: string
  /** What stands for the value in the help: 'FILE'. */
  readonly placeholder?: string
  /** Without one, the value is undefined when it isn't given (a boolean's is false, a list's is empty). */
  readonly default?: Value
  /** What a string is when the option is given without one. */
  readonly bare?: string
  /** In the help, in place of the default: what happens when it isn't given. */
  readonly otherwise?: string
  /** Of a string or of each string of a list. */
  readonly choices?: readonly string[]
  /** How help and messages tell the choices, where there are too many to name. */
  readonly told?: string
  /** Given more than once, the last one counts, for what a script like `npm start` gives first; else that is an error. */
  readonly lastCounts?: boolean
  /** What a string looks like; the placeholder shows it. */
  readonly pattern?: RegExp
  /** The range of a number; `above` and `below` exclude their end. */
  readonly min?: number
  readonly max?: number
  readonly above?: number
  readonly below?: number
}

export interface Command {
  readonly name: string
  /** One line. */
  readonly summary: string
  readonly options: readonly Option[]
  /** Sets of defaults that are chosen by the value of one string option. */
  readonly presets?: {
    readonly option: string
    readonly values: Readonly<Record<string, Readonly<Record<string, Value>>>>
    /** One line about each, by name. */
    readonly descriptions?: Readonly<Record<string, string>>
  }
  /** What may follow the command without a flag, any number of words or at most so many; a command without operands takes none. */
  readonly operands?: { readonly placeholder: string; readonly description: string; readonly most?: number }
  /** Command lines and what they do. */
  readonly examples?: readonly (readonly [line: string, what: string])[]
}

export interface Program<C extends Command = Command> {
  readonly name: string
  readonly version: string
  readonly summary: string
  readonly commands: readonly C[]
}

type ValueOf<O extends Option> = O extends { type: 'string'; choices: readonly (infer Choice)[] }
  ? Choice
  : { string: string; integer: number; number: number; boolean: boolean; list: readonly string[] }[O['type']]

type Absent<O extends Option> = O extends { default: Value } | { type: 'boolean' | 'list' } ? never : undefined

/** The values of a command whose table is written `as const satisfies Command`, by the options' names. */
export type Values<C extends Command> = { [O in C['options'][number] as O['name']]: ValueOf<O> | Absent<O> }

export interface Arguments<C extends Command> {
  /** The help was asked for; the values are the defaults then. */
  help: boolean
  values: Values<C>
  /** The options that were given by a flag or the config file. */
  given: ReadonlySet<string>
  /** The words without a flag. */
  operands: readonly string[]
}

const generalOptions: readonly Option[] = [
  { name: 'config', type: 'string', placeholder: 'FILE', group: 'General', description: 'a JSON object of options; flags win over it' },
  { name: 'help', type: 'boolean', group: 'General', description: 'show this help' },
]

// --- Parsing --------------------------------------------------------------------------------------------------------------------------

export function parseArguments<const C extends Command>(command: C, words: readonly string[]): Arguments<C> {
  const { flags, operands } = parseWords(command, words)
  if (flags.get('help') === true) return { help: true, values: resolve(command, new Map()) as Values<C>, given: new Set(), operands: [] }
  const file = flags.get('config') as string | undefined
  const given = new Map([...(file === undefined ? [] : readConfig(command, file)), ...flags])
  given.delete('help')
  given.delete('config')
  return { help: false, values: resolve(command, given) as Values<C>, given: new Set(given.keys()), operands }
}

/** Splits a command line into command and rest, or tells what to print instead: the help or the version. */
export function chooseCommand<C extends Command>(
  program: Program<C>,
  words: readonly string[],
): { command: C; rest: readonly string[] } | { print: string } {
  const [first, ...rest] = words[0] === 'help' && words.length > 1 ? [words[1], '--help'] : words
  if (first === undefined || first === '--help' || first === '-h' || first === 'help') return { print: programHelp(program) }
  if (first === '--version') return { print: `${program.name} ${program.version}` }
  const command = program.commands.find(({ name }) => name === first)
  if (command !== undefined) return { command, rest }
  const names = program.commands.map(({ name }) => name)
  const hint = suggestion(first, names, (name) => name) ?? `: the commands are ${names.join(', ')}`
  if (first.startsWith('-')) throw new UsageError(`the command must come before ${plain(first)}${hint}`)
  throw new UsageError(`unknown command ${show(first)}${hint}`)
}

function resolve(command: Command, given: ReadonlyMap<string, Value>): Record<string, Value | undefined> {
  const optionOf = new Map(command.options.map((option) => [option.name, option]))
  const value = (name: string) => given.get(name) ?? optionOf.get(name)?.default
  const { presets } = command
  const preset = presets?.values[value(presets.option) as string]
  return Object.fromEntries(
    command.options.map(({ name, type }) => {
      const absent = type === 'boolean' ? false : type === 'list' ? [] : undefined
      return [name, given.get(name) ?? preset?.[name] ?? value(name) ?? absent]
    }),
  )
}

const negatable = ({ name, type }: Option): boolean => type === 'boolean' && name !== 'help'

function parseWords(command: Command, words: readonly string[]): { flags: Map<string, Value>; operands: string[] } {
  const options = new Map([...command.options, ...generalOptions].map((option) => [option.name, option]))
  const values = new Map<string, Value>()
  const operands: string[] = []
  for (let i = 0; i < words.length; i++) {
    const word = words[i] === '-h' ? '--help' : words[i]
    const [, name, attached] = /^--([^=]+)(?:=(.*))?$/s.exec(word) ?? []
    if (name === undefined) {
      if (operands.length < (command.operands ? (command.operands.most ?? Infinity) : 0) && word !== '' && !word.startsWith('-')) {
        operands.push(word)
        continue
      }
      throw new UsageError(word.startsWith('-') && word !== '-' ? `unknown option ${plain(word)}` : `unexpected argument ${show(word)}`)
    }
    const positive = options.get(name)
    const negated = name.startsWith('no-') ? options.get(name.slice(3)) : undefined
    const option = positive ?? (negated && negatable(negated) ? negated : undefined)
    if (option === undefined) {
      const names = [...options.values()].flatMap((known) => (negatable(known) ? [known.name, `no-${known.name}`] : [known.name]))
      const hint = suggestion(name, names, (known) => `--${known}`) ?? ` (see ${command.name} --help)`
      throw new UsageError(`unknown option --${plain(name)}${hint}`)
    }
    let value: Value
    if (option.type === 'boolean') {
      if (attached !== undefined) throw new UsageError(`--${name}: a switch takes no value, got ${show(attached)}`)
      value = option === positive
    } else {
      const isBare = option.bare !== undefined && attached === undefined && (words[i + 1] ?? '--').startsWith('--')
      const text = attached ?? (isBare ? option.bare : words[++i])
      if (text === undefined) throw new UsageError(`--${name}: ${expectation(option)} is missing`)
      if (attached === undefined && text.startsWith('--')) {
        throw new UsageError(`--${name}: ${expectation(option)} is missing (if ${show(text)} is meant, write --${name}=${plain(text)})`)
      }
      value = check(option, fromText(option, text), `--${name}`, text)
    }
    const before = values.get(option.name)
    if (before !== undefined && option.type === 'list') value = [...(before as string[]), ...(value as string[])]
    else if (before !== undefined && !option.lastCounts) throw new UsageError(`--${option.name} is given twice`)
    values.set(option.name, value)
  }
  return { flags: values, operands }
}

function readConfig(command: Command, file: string): Map<string, Value> {
  let content: unknown
  try {
    content = JSON.parse(decodeText(readWhole(file), file))
  } catch (error) {
    if (error instanceof TextError) throw new UsageError(`--config: ${error.message}`)
    if (error instanceof SyntaxError)
      throw new UsageError(`--config: ${file} isn't valid JSON: ${printable(error.message.replace(/\s+/g, ' '))}`)
    throw new UsageError(`--config: can't read ${file}: ${reason(error)}`)
  }
  if (typeof content !== 'object' || content === null || Array.isArray(content)) {
    throw new UsageError(`--config: ${file} isn't a JSON object of options`)
  }
  return checkValues(command.options, content, file)
}

/** The values of an object that was read from `where`, each checked as if it had been given by a flag. */
export function checkValues(options: readonly Option[], content: object, where: string): Map<string, Value> {
  const optionOf = new Map(options.map((option) => [option.name, option]))
  return new Map(
    Object.entries(content).map(([name, value]) => {
      const option = optionOf.get(name)
      if (option === undefined) {
        throw new UsageError(
          `${where}: unknown option ${show(name)}${suggestion(name, [...optionOf.keys()], (known) => `"${known}"`) ?? ''}`,
        )
      }
      return [name, check(option, value, `${where}: "${name}"`, value)]
    }),
  )
}

// --- Checking -------------------------------------------------------------------------------------------------------------------------

/** What a flag's text stands for; undefined where it can't be of the option's type. */
function fromText({ type }: Option, text: string): Value | undefined {
  if (type === 'list') return text.split(',').map((item) => item.trim())
  if (type === 'string') return text
  return /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : undefined
}

function check(option: Option, value: unknown, where: string, got: unknown): Value {
  if (!accepts(option, value)) throw new UsageError(`${where}: expected ${expectation(option)}, got ${show(got)}`)
  return value
}

function accepts(option: Option, value: unknown): value is Value {
  const { type, choices, pattern = /^/, min = -Infinity, max = Infinity, above = -Infinity, below = Infinity } = option
  const isString = (item: unknown) => typeof item === 'string' && item !== '' && (choices === undefined || choices.includes(item))
  switch (type) {
    case 'boolean':
      return typeof value === 'boolean'
    case 'string':
      return isString(value) && pattern.test(value as string)
    case 'list':
      return Array.isArray(value) && value.length > 0 && value.every(isString)
    default:
      return (
        typeof value === 'number' &&
        (type === 'integer' ? Number.isSafeInteger(value) : Number.isFinite(value)) &&
        value >= min &&
        value <= max &&
        value > above &&
        value < below
      )
  }
}

/** 'an integer, 1 or more', 'a number from 0 to 1', 'one of adam, adamw'. */
function expectation({ type, choices, told = choices?.join(', '), pattern, min, max, above, below, placeholder }: Option): string {
  if (choices !== undefined) return `${type === 'list' ? 'a list of' : 'one of'} ${told}`
  if (type === 'boolean') return 'true or false'
  if (pattern !== undefined) return `${placeholder}`
  if (type === 'string') return placeholder === undefined ? 'a text' : `a ${placeholder.toLowerCase()}`
  if (type === 'list') return 'a list'
  const noun = type === 'integer' ? 'an integer' : 'a number'
  const low = min !== undefined ? `from ${min}` : above !== undefined ? `above ${above}` : ''
  const high = max !== undefined ? `to ${max}` : below !== undefined ? `below ${below}` : ''
  if (min !== undefined && high === '') return `${noun}, ${min} or more`
  if (max !== undefined && low === '') return `${noun}, ${max} or less`
  if (low === '' || high === '') return `${noun} ${low}${high}`.trim()
  const joint = min !== undefined ? (max !== undefined ? ' ' : ' to ') : max !== undefined ? ', up ' : ' and '
  return `${noun} ${low}${joint}${high}`
}

/** As JSON; but numbers that JSON hasn't (1e400 is read as Infinity) by their names. */
function show(value: unknown): string {
  const text =
    typeof value === 'number'
      ? String(value)
      : printable(JSON.stringify(value, (_, part) => (typeof part === 'number' && !Number.isFinite(part) ? String(part) : part)))
  return text.length <= 60 ? text : `${text.slice(0, 59)}…`
}

/** Without quotes, but on one line all the same. */
function plain(word: string): string {
  return show(word).replace(/^"|"$/g, '')
}

// --- Suggestions ----------------------------------------------------------------------------------------------------------------------

/** ': did you mean ...?' for the known word nearest to this one, if one is near. */
export function suggestion(word: string, known: readonly string[], format: (name: string) => string): string | undefined {
  const plain = word.toLowerCase().replace(/^-+/, '').replaceAll('_', '-')
  const extended = known.filter((name) => plain.length >= 3 && name.startsWith(plain))
  const near = nearest(plain, known)
  const meant = near ?? (extended.length === 1 ? extended[0] : undefined)
  return meant === undefined ? undefined : `: did you mean ${format(meant)}?`
}

// --- Help -----------------------------------------------------------------------------------------------------------------------------

/** As wide as the terminal, from 80 to 100 columns. */
const terminalWidth = () => Math.min(100, Math.max(80, process.stdout.columns ?? 80))

export function programHelp(program: Program, width = terminalWidth()): string {
  return [
    ...wrap(`${program.name} ${program.version}: ${program.summary}`, width),
    '',
    `Usage: ${program.name} COMMAND [options]`,
    '',
    'Commands',
    ...columns(
      program.commands.map(({ name, summary }) => [name, summary]),
      width,
    ),
    '',
    `${program.name} COMMAND --help shows the options of a command.`,
  ].join('\n')
}

export function commandHelp(program: string, command: Command, width = terminalWidth()): string {
  const options = [...command.options.map((option) => ({ ...option, ...presetDefault(command, option) })), ...generalOptions]
  const groups = [...new Set(options.map(({ group = 'Options' }) => group))]
  const rows = new Map(
    groups.map((group) => [
      group,
      options.filter((option) => (option.group ?? 'Options') === group).map((option) => [head(option), explained(option)] as const),
    ]),
  )
  const indent = columnOf([...rows.values()].flat())
  const examples = command.examples ?? []
  return [
    ...wrap(`${program} ${command.name}: ${command.summary}`, width),
    '',
    `Usage: ${program} ${command.name}${command.operands === undefined ? '' : ` [${command.operands.placeholder}${command.operands.most === 1 ? '' : ' ...'}]`} [options]`,
    ...(command.operands === undefined ? [] : ['', ...wrap(command.operands.description, width)]),
    ...groups.flatMap((group) => ['', ...wrap(group, width), ...columns(rows.get(group)!, width, indent)]),
    ...presetTable(command, width),
    ...(examples.length === 0 ? [] : ['', 'Examples']),
    ...examples.flatMap(([line, what]) => [...wrap(what, width - 2).map((text) => `  ${text}`), `    ${line}`]),
  ].join('\n')
}

function head({ name, type, placeholder, choices, default: preset, otherwise, bare }: Option): string {
  if (name === 'help') return '-h, --help'
  if (type === 'boolean') return `--${preset === true ? 'no-' : otherwise !== undefined ? '[no-]' : ''}${name}`
  if (bare !== undefined) return `--${name} [${placeholder}]`
  return `--${name} ${placeholder ?? { string: choices === undefined ? 'TEXT' : 'NAME', integer: 'N', number: 'X', list: 'A,B,...' }[type]}`
}

function explained({ type, description, default: preset, otherwise, choices, told = choices?.join(', ') }: Option): string {
  const notes: string[] = []
  if (told !== undefined) notes.push(told)
  if (otherwise !== undefined) notes.push(`default: ${otherwise}`)
  else if (preset !== undefined && type !== 'boolean') notes.push(`default: ${Array.isArray(preset) ? preset.join() : preset}`)
  return notes.length === 0 ? description : `${description} (${notes.join('; ')})`
}

const asText = (value: Value): string =>
  typeof value === 'boolean' ? (value ? 'on' : 'off') : Array.isArray(value) ? value.join() : `${value}`

/** The preset that is used when none is named. */
function defaultPreset({ options, presets }: Command): Readonly<Record<string, Value>> {
  return presets?.values[options.find(({ name }) => name === presets.option)?.default as string] ?? {}
}

/** What the default preset says about an option stands in the help as its default. */
function presetDefault(command: Command, { name }: Option): Partial<Option> {
  const value = defaultPreset(command)[name]
  return value === undefined ? {} : { default: undefined, otherwise: asText(value) }
}

/** Each preset with what it changes: the default one's values stand with the options. */
function presetTable(command: Command, width: number): string[] {
  const { presets } = command
  if (presets === undefined) return []
  const initial = defaultPreset(command)
  const rows = Object.entries(presets.values).map(([name, values]) => {
    const changes = Object.entries(values).filter(([option, value]) => asText(value) !== (option in initial && asText(initial[option])))
    const settings = changes.map(([option, value]) => `${option} ${asText(value)}`).join(', ')
    const description = presets.descriptions?.[name]
    return [name, (description && settings ? `${description} (${settings})` : description || settings) || 'the defaults above'] as const
  })
  return ['', `Presets (--${presets.option}); any option still wins over them`, ...columns(rows, width)]
}

/** Two columns, the second wrapped; a first that is too wide for its column has a line of its own. */
function columns(rows: readonly (readonly [string, string])[], width: number, indent = columnOf(rows)): string[] {
  return rows.flatMap(([left, right]) => {
    const lines = wrap(right, width - indent).map((line) => `${' '.repeat(indent)}${line}`)
    const first = `  ${left}`
    if (first.length > indent - 2) return [first, ...lines]
    return [first.padEnd(indent) + lines[0].slice(indent), ...lines.slice(1)]
  })
}

function columnOf(rows: readonly (readonly [string, string])[]): number {
  return 4 + Math.max(...rows.map(([left]) => left.length).filter((length) => length <= 24), 0)
}

function wrap(text: string, width: number): string[] {
  const lines = ['']
  for (const word of text.split(' ')) {
    const line = lines[lines.length - 1]
    if (line !== '' && line.length + 1 + word.length > width) lines.push(word)
    else lines[lines.length - 1] = line === '' ? word : `${line} ${word}`
  }
  return lines
}
