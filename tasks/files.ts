/**
 * Files of a task's examples, safetensors:
 *
 *   inputs, targets [N,T] I32 (targets [N]: at the last place), mask U8 of the targets' shape, 1 where one counts; -100 is a target that doesn't
 *   inputs [N,2,L], queries [N], targets [N] where keys and values stand apart; inputs [2,L], queries [M], targets [M] for one sequence
 *   the same names behind train_, valid_, test_, eval_ (valid) and file_ (test) for other splits
 *   metadata: task, options (JSON), vocabulary, metric, source, seed, ignore; split, of the names without prefix
 *
 * Rows are filled up at their ends. Tests: test/tasks/files.test.ts.
 */
import { namesOf } from '../nn/fields.ts'
import { clip, printable } from '../nn/foreign.ts'
import { ignoredTarget } from '../nn/model.ts'
import { readSafetensors, type SafetensorsEntry, writeSafetensors } from '../nn/safetensors.ts'
import { type AnyTask, type Example, exampleAt, longestOf, type Split, settingsOf, splits, type Tables } from './task.ts'

/** Its message is one line. */
export class TaskFileError extends Error {
  override name = 'TaskFileError'
}

/** Examples of one split. */
export interface TaskSet {
  split: Split
  examples: readonly Example[]
}

/** What a file of a task's examples holds. */
export interface TaskFile {
  /** The task's settings, as the file says them. */
  settings: object
  /** Each with its prefix in the file. */
  sets: readonly (TaskSet & { prefix: string })[]
  tables: Tables
}

const ignoredInFiles = -100

const splitOf: Readonly<Record<string, Split>> = { train_: 'train', valid_: 'valid', eval_: 'valid', test_: 'test', file_: 'test' }

const quoted = (text: string): string => `'${clip(printable(text))}'`

// --- Settings -------------------------------------------------------------------------------------------------------------------------

/** Settings as a file has them: by the names of the authors' generators where they have one, else by ours. */
function optionsOf(row: AnyTask, settings: Record<string, unknown>): Record<string, unknown> {
  const left = new Set(namesOf(row.fields))
  const options: Record<string, unknown> = {}
  for (const [option, names] of Object.entries(row.options)) {
    for (const name of [names].flat()) left.delete(name)
    options[option] = typeof names === 'string' ? settings[names] : names.map((name) => settings[name])
  }
  for (const name of left) options[name] = settings[name]
  return options
}

/** The settings that a file's options say, with `given` in their place. Options of neither kind of name aren't of the rule. */
function settingsFrom(row: AnyTask, text: string | undefined, given: object): object {
  let options: unknown
  try {
    options = JSON.parse(text ?? '{}')
  } catch {
    options = undefined
  }
  if (typeof options !== 'object' || options === null || Array.isArray(options))
    throw new TaskFileError(`the metadata's options aren't a JSON object: ${quoted(text ?? '')}`)
  const settings: Record<string, unknown> = { ...row.published }
  for (const [option, value] of Object.entries(options)) {
    const names = Object.hasOwn(row.options, option) ? row.options[option] : Object.hasOwn(row.fields, option) ? option : undefined
    if (names === undefined) continue
    if (typeof names === 'string') settings[names] = value
    else {
      if (!Array.isArray(value) || value.length !== names.length)
        throw new TaskFileError(`the metadata's option ${quoted(option)} must be a list of ${names.length}`)
      for (const [i, name] of names.entries()) settings[name] = value[i]
    }
  }
  try {
    return settingsOf(row, { ...settings, ...given })
  } catch (error) {
    throw new TaskFileError(`the settings make no sense: ${printable((error as Error).message)}`)
  }
}

// --- Reading --------------------------------------------------------------------------------------------------------------------------

/** The examples of a file, which must be of this task, and the settings it says, with `given` in their place. */
export function readTaskFile(name: string, row: AnyTask, bytes: Uint8Array, given: object = {}): TaskFile {
  const { metadata, tensors } = readSafetensors(bytes)
  if (metadata.task === undefined) throw new TaskFileError("the metadata names no task: it isn't a file of a task's examples")
  if (metadata.task !== name) throw new TaskFileError(`the file is of the task ${quoted(metadata.task)}, not of '${name}'`)
  const settings = settingsFrom(row, metadata.options, given)
  const known = new Set<string>()

  const take = (tensor: string, dtype: 'I32' | 'U8'): { shape: number[]; data: Int32Array | Uint8Array } | undefined => {
    const entry = tensors.get(tensor)
    if (entry === undefined) return undefined
    known.add(tensor)
    if (entry.dtype !== dtype) throw new TaskFileError(`${tensor} must be ${dtype}, not ${entry.dtype}`)
    return entry as { shape: number[]; data: Int32Array | Uint8Array }
  }
  const need = (tensor: string): { shape: number[]; data: Int32Array } => {
    const entry = take(tensor, 'I32')
    if (entry === undefined) throw new TaskFileError(`there is no ${tensor}`)
    return entry as { shape: number[]; data: Int32Array }
  }

  const plain: Split = tensors.has('train_inputs') ? 'test' : 'train' // as in files that name no split
  const split = metadata.split === undefined ? plain : splits.find((one) => one === metadata.split)
  if (split === undefined) throw new TaskFileError(`the metadata's split ${quoted(metadata.split)} is none of ${splits.join(', ')}`)

  const sets: (TaskSet & { prefix: string })[] = []
  for (const prefix of ['', ...Object.keys(splitOf)]) {
    if (prefix !== '' && !tensors.has(`${prefix}inputs`)) continue
    const [inputs, targets, mask] = [need(`${prefix}inputs`), need(`${prefix}targets`), take(`${prefix}mask`, 'U8')]
    checkTargets(prefix, targets, mask)
    const rows = tensors.has(`${prefix}queries`)
      ? pairRows(prefix, inputs, need(`${prefix}queries`), targets)
      : plainRows(prefix, inputs, targets)
    if (rows.length === 0) throw new TaskFileError(`${prefix}inputs hold no sequence`)
    const pad = row.pad(settings)
    sets.push({ prefix, split: splitOf[prefix] ?? split, examples: row.fixed ? rows : rows.map((example) => unpadded(example, pad)) })
  }

  const tables: Record<string, Int32Array> = {}
  for (const table of namesOf(row.tables ?? {})) {
    const { shape, data } = need(table)
    if (shape.length !== 2 || shape[1] !== 2) throw new TaskFileError(`${table} must be [rows,2], not [${shape}]`)
    tables[table] = data
  }
  const stranger = [...tensors.keys()].find((tensor) => !known.has(tensor))
  if (stranger !== undefined) throw new TaskFileError(`nobody knows what ${quoted(stranger)} is: no such tensor belongs to ${name}`)
  return { settings, sets, tables }
}

type Numbers = { shape: number[]; data: Int32Array }

function checkTargets(prefix: string, { shape, data }: Numbers, mask: { shape: number[]; data: ArrayLike<number> } | undefined): void {
  const odd = data.find((target) => target < 0 && target !== ignoredInFiles)
  if (odd !== undefined)
    throw new TaskFileError(`${prefix}targets hold ${odd}: neither a symbol nor ${ignoredInFiles}, which stands where none counts`)
  if (mask === undefined) return
  if (`${mask.shape}` !== `${shape}`) throw new TaskFileError(`${prefix}mask is [${mask.shape}], and ${prefix}targets are [${shape}]`)
  const wrong = data.findIndex((target, i) => mask.data[i] !== (target === ignoredInFiles ? 0 : 1))
  if (wrong >= 0) throw new TaskFileError(`${prefix}mask is ${mask.data[wrong]} at element ${wrong}, where the target is ${data[wrong]}`)
}

const fromFile = (target: number): number => (target === ignoredInFiles ? ignoredTarget : target)

function plainRows(prefix: string, inputs: Numbers, targets: Numbers): Example[] {
  const [N, T] = inputs.shape
  const atEnd = `${targets.shape}` === `${N}`
  if (inputs.shape.length !== 2 || !(atEnd || `${targets.shape}` === `${inputs.shape}`))
    throw new TaskFileError(
      `${prefix}inputs are [${inputs.shape}] and ${prefix}targets [${targets.shape}]: [N,T] and [N,T], or [N], are known`,
    )
  if (T === 0) throw new TaskFileError(`${prefix}inputs have no place`)
  return Array.from({ length: N }, (_, r) => {
    const row = inputs.data.slice(r * T, (r + 1) * T)
    if (atEnd) return exampleAt(row, [[T - 1, fromFile(targets.data[r])]])
    return { inputs: row, targets: targets.data.slice(r * T, (r + 1) * T).map(fromFile) }
  })
}

function pairRows(prefix: string, inputs: Numbers, queries: Numbers, targets: Numbers): Example[] {
  const [N] = queries.shape
  const one = inputs.shape.length === 2
  const [two, L] = inputs.shape.slice(-2)
  if (
    `${queries.shape}` !== `${targets.shape}` ||
    queries.shape.length !== 1 ||
    two !== 2 ||
    (!one && inputs.shape.join() !== `${N},2,${L}`)
  )
    throw new TaskFileError(
      `${prefix}inputs are [${inputs.shape}], ${prefix}queries [${queries.shape}] and ${prefix}targets [${targets.shape}]: [N,2,L] or [2,L], [N] and [N] are known`,
    )
  return Array.from({ length: N }, (_, r) => {
    const from = one ? 0 : r * 2 * L
    const row = new Int32Array(2 * L + 1)
    for (let i = 0; i < L; i++) row.set([inputs.data[from + i], inputs.data[from + L + i]], 2 * i)
    row[2 * L] = queries.data[r]
    return exampleAt(row, [[2 * L, fromFile(targets.data[r])]])
  })
}

function unpadded({ inputs, targets }: Example, pad: number): Example {
  let end = inputs.length
  while (end > 0 && inputs[end - 1] === pad && targets[end - 1] === ignoredTarget) end--
  return { inputs: inputs.subarray(0, end), targets: targets.subarray(0, end) }
}

// --- Writing --------------------------------------------------------------------------------------------------------------------------

/** The first set stands without a prefix; each split may come once. `seed`: what the examples were drawn with. */
export function writeTaskFile(
  name: string,
  row: AnyTask,
  settings: Record<string, any>,
  sets: readonly TaskSet[],
  seed: number | string,
): Uint8Array {
  if (new Set(sets.map(({ split }) => split)).size !== sets.length || sets.length === 0)
    throw new Error(`a file needs one set or more, each of another split, not ${sets.map(({ split }) => split).join(', ') || 'none'}`)
  const tensors: [string, SafetensorsEntry][] = []
  sets.forEach(({ split, examples }, i) => {
    if (examples.length === 0) throw new Error(`a file needs an example or more of each split, and of ${split} there is none`)
    const prefix = i === 0 ? '' : `${split}_`
    const numbers = (tensor: string, shape: number[], data: Int32Array<ArrayBuffer>): void => {
      tensors.push([prefix + tensor, { dtype: 'I32', shape, data }])
    }
    const N = examples.length
    const width = longestOf(examples)
    let shape = [N, width]
    let targets = new Int32Array(N * width).fill(ignoredInFiles)
    if (row.layout === 'pairs') {
      const L = (width - 1) / 2
      const inputs = new Int32Array(N * 2 * L)
      shape = [N]
      targets = Int32Array.from(examples, (example) => example.targets[2 * L])
      examples.forEach((example, r) => {
        if (example.inputs.length !== width) throw new Error(`sequences of ${example.inputs.length} and of ${width} places in one set`)
        for (let i = 0; i < 2 * L; i++) inputs[r * 2 * L + (i % 2) * L + (i >> 1)] = example.inputs[i]
      })
      numbers('inputs', [N, 2, L], inputs)
      numbers(
        'queries',
        shape,
        Int32Array.from(examples, (example) => example.inputs[2 * L]),
      )
    } else {
      const inputs = new Int32Array(N * width).fill(row.pad(settings))
      examples.forEach((example, r) => {
        inputs.set(example.inputs, r * width)
        targets.set(
          example.targets.map((target) => (target === ignoredTarget ? ignoredInFiles : target)),
          r * width,
        )
      })
      numbers('inputs', shape, inputs)
    }
    numbers('targets', shape, targets)
    tensors.push([`${prefix}mask`, { dtype: 'U8', shape, data: Uint8Array.from(targets, (target) => (target === ignoredInFiles ? 0 : 1)) }])
  })
  for (const [table, make] of Object.entries(row.tables ?? {})) {
    const data = Int32Array.from(make(settings))
    tensors.push([table, { dtype: 'I32', shape: [data.length / 2, 2], data }])
  }
  const vocabulary = row.vocabulary(settings)
  return writeSafetensors(tensors, {
    task: name,
    source: `fastweights; rule: ${row.source}`,
    options: JSON.stringify(optionsOf(row, settings)),
    seed: `${seed}`,
    split: sets[0].split,
    metric: row.metric,
    ignore: `${ignoredInFiles}`,
    ...(vocabulary !== undefined && { vocabulary }),
  })
}
