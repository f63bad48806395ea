/** `fastweights task`: names the tasks, checks files of their sequences by the rules, writes such files; learn.ts trains. */
import { gunzipSync, gzipSync } from 'node:zlib'
import { type Fields, namesOf } from '../nn/fields.ts'
import { SafetensorsError } from '../nn/index.ts'
import {
  type AnyTask,
  examplesOf,
  faultOf,
  readTaskFile,
  type Split,
  settingsOf,
  type TaskFile,
  TaskFileError,
  tasks,
  writeTaskFile,
} from '../tasks/index.ts'
import { readWhole } from '../tasks/read.ts'
import { reason } from '../tasks/reason.ts'
import { suggestion, UsageError } from './arguments.ts'
import { checkWritable, FileError, writeAtomic } from './files.ts'
import { counted, oneLine, say } from './terminal.ts'

export interface TaskOptions {
  operands: readonly string[]
  list: boolean
  check: string | undefined
  write: string | undefined
  examples: number
  seed: number
  splits: readonly string[]
  /** The settings that were given, by the names of their fields. */
  settings: Readonly<Record<string, unknown>>
  /** Options that training has. */
  learning: readonly string[]
  /** How the command calls a setting. */
  optionName(setting: string): string
  /** The names of the options that were given. */
  given: ReadonlySet<string>
}

/** More than any sensible file unpacks to: a small one can hold any number of zeros. */
const mostBytes = 2 ** 30

/** So many of the wrong sequences are told. */
const mostTold = 5

const rows: Readonly<Record<string, AnyTask>> = tasks

export async function task(options: TaskOptions, learn: (name: string, row: AnyTask) => Promise<number>): Promise<number> {
  const { operands, list, check, write, given } = options
  const [name] = operands
  const wanted = ['list', 'check', 'write'].filter((option) => given.has(option))
  if (wanted.length > 1) throw new UsageError(`--${wanted[0]} and --${wanted[1]} exclude each other`)
  if (name !== undefined && !Object.hasOwn(rows, name))
    throw new UsageError(
      `unknown task ${oneLine(name)}${suggestion(name, namesOf(rows), (known) => known) ?? ' (see fastweights task --list)'}`,
    )
  if (given.has('split') && write === undefined) throw new UsageError('--split: means nothing without --write')
  const files = ['list', 'check', 'write'].find((option) => given.has(option))
  for (const option of options.learning)
    if (given.has(option) && files !== undefined && !(write !== undefined && ['examples', 'seed'].includes(option)))
      throw new UsageError(`--${option}: means nothing with --${files}`)
  if (list) {
    if (Object.keys(options.settings).length > 0)
      throw new UsageError(`${options.optionName(Object.keys(options.settings)[0])}: means nothing with --list`)
    say(described(name === undefined ? namesOf(rows) : [name], options.optionName))
    return 0
  }
  if (name === undefined) throw new UsageError('which task? Its name comes first: fastweights task mqar (see fastweights task --list)')
  const row = rows[name]
  for (const setting of Object.keys(options.settings))
    if (!Object.hasOwn(row.fields, setting))
      throw new UsageError(`${options.optionName(setting)}: ${name} has no such setting (see fastweights task ${name} --list)`)
  if (check !== undefined) return checked(name, row, check, options)
  if (write !== undefined) return written(name, row, write, options)
  return learn(name, row)
}

function described(names: readonly string[], optionName: (setting: string) => string): string {
  return names
    .map((name) => {
      const row = rows[name]
      const settings = settingsOf(row)
      const defaults = namesOf(row.fields as Fields<Record<string, unknown>>).map(
        (setting) => `${optionName(setting).replace('--', '')} ${settings[setting]}`,
      )
      return [
        `${name}: ${row.title}`,
        `  ${row.source}`,
        `  counts ${row.metric}; ${Number(row.chance(settings).toPrecision(3))} where nothing is learnt`,
        `  ${defaults.join(', ')}`,
      ].join('\n')
    })
    .join('\n')
}

// --- Checking -------------------------------------------------------------------------------------------------------------------------

function checked(name: string, row: AnyTask, path: string, { settings }: TaskOptions): number {
  const file = readFile(name, row, path, settings)
  const counts = file.sets.map(
    ({ split, prefix, examples }) => `${examples.length.toLocaleString('en')} ${prefix === '' ? split : prefix.slice(0, -1)}`,
  )
  let all = 0
  let wrong = 0
  for (const { split, prefix, examples } of file.sets)
    for (const [i, example] of examples.entries()) {
      all++
      const fault = faultOf(row, file.settings, example, split, file.tables)
      if (fault !== undefined && ++wrong <= mostTold) say(`${prefix}inputs row ${i}, ${fault}`)
    }
  if (wrong > mostTold) say(`and ${(wrong - mostTold).toLocaleString('en')} more`)
  say(
    wrong === 0
      ? `${name}: ${counts.join(' and ')}: every sequence is right`
      : `${name}: ${wrong.toLocaleString('en')} of ${counted(all, 'sequence')} wrong`,
  )
  return wrong === 0 ? 0 : 1
}

function readFile(name: string, row: AnyTask, path: string, settings: object): TaskFile {
  let bytes: Uint8Array
  try {
    bytes = readWhole(path)
  } catch (error) {
    throw new FileError(`can't read ${path}: ${reason(error)}`)
  }
  if (bytes[0] === 0x1f && bytes[1] === 0x8b) {
    try {
      bytes = gunzipSync(bytes, { maxOutputLength: mostBytes })
    } catch (error) {
      const why = (error as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE' ? 'it holds more than 1 GiB' : (error as Error).message
      throw new FileError(`${path}: can't be unpacked: ${why}`)
    }
  }
  try {
    return readTaskFile(name, row, bytes, settings)
  } catch (error) {
    if (error instanceof TaskFileError || error instanceof SafetensorsError) throw new FileError(`${path}: ${error.message}`)
    throw error
  }
}

// --- Writing --------------------------------------------------------------------------------------------------------------------------

function written(name: string, row: AnyTask, path: string, { settings: given, splits, seed, examples, optionName }: TaskOptions): number {
  const twice = splits.find((split, i) => splits.indexOf(split) < i)
  if (twice !== undefined) throw new UsageError(`--split: ${twice} is given twice`)
  const settings = settingsOf(row, given)
  checkWritable(path)
  const sets = splits.map((split) => ({ split: split as Split, examples: examplesOf(row, settings, split as Split, seed, examples) }))
  for (const { split, examples: drawn } of sets)
    if (drawn.length === 0) throw new UsageError(`${optionName('examples')}: ${name} has no sequence for ${split} with these settings`)
  const bytes = writeTaskFile(name, row, settings, sets, seed)
  writeAtomic(path, path.endsWith('.gz') ? gzipSync(bytes) : bytes)
  const counts = sets.map((set) => `${set.examples.length.toLocaleString('en')} ${set.split}`)
  const few = sets.some((set) => set.examples.length < examples) ? ': there are no more' : ''
  say(`wrote ${path}: ${counts.join(', ')}${few}`)
  return 0
}
