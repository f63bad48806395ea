/**
 * `fastweights reproduce`: the cells of a figure, each trained in a process of its own, several at a time, and what came out as tables and a
 * picture. In the output folder: cells/NAME.json, one file a finished cell, from which everything else is made (table.md, table.csv, results.json,
 * figure.svg). So a run goes on where it was stopped, and folders of different machines are merged by copying files.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import os from 'node:os'
import { basename, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { setDevice, wasmDevice } from '../engine/index.ts'
import { type Cell, type Column, type Figure, type Files, type Outcome, processorSeconds } from '../experiments/figure.ts'
import { figures } from '../experiments/index.ts'
import { readText } from '../tasks/download.ts'
import { reason } from '../tasks/reason.ts'
import { suggestion, UsageError } from './arguments.ts'
import { svgChart } from './chart.ts'
import { checkWritable, createFolder, FileError, writeAtomic } from './files.ts'
import { arithmeticOf, type DeviceValues, wasmSettings } from './options.ts'
import { counted, duration, oneLine, progress, quoted, say } from './terminal.ts'

export interface ReproduceOptions extends Pick<DeviceValues, 'relaxed' | 'simd'> {
  operands: readonly string[]
  out: string | undefined
  seeds: number
  only: string | undefined
  cell: string | undefined
  shard: string | undefined
  list: boolean
  report: boolean
  train: string | undefined
  valid: string | undefined
  jobs: number | undefined
  given: ReadonlySet<string>
}

/** The options that name files. */
const fileOptions = ['train', 'valid'] as const

/** What a cell's file holds. */
interface Result extends Outcome {
  figure: string
  cell: string
  row: string
  columns: readonly Column[]
  seed: number
  /** Of the clock. */
  seconds: number
  /** Seconds of the processor, for the whole process; other work beside changes them little. */
  processor: number
  arithmetic: string
  /** The figure's. Results of others don't belong into the same table. */
  scaled: string
  version: string
  /** SHA-256 of the texts that it was given, by name, where it needs any. */
  files?: Readonly<Record<string, string>>
}

export async function reproduce(options: ReproduceOptions, version: string): Promise<number> {
  const { operands, seeds, cell, list, report, given } = options
  const [name] = operands
  // What each way to use it has; the others mean nothing there.
  const [way, known] =
    name === undefined
      ? ['without a name', ['seeds']]
      : list
        ? ['with --list', ['list', 'seeds', 'only', 'shard']]
        : report
          ? ['with --report', ['report', 'out']]
          : cell !== undefined
            ? ['with --cell', ['cell', 'out', 'relaxed', 'simd', ...fileOptions]]
            : ['', [...given]]
  const idle = [...given].find((option) => !known.includes(option))
  if (idle !== undefined) throw new UsageError(`--${idle}: means nothing ${way}`)
  if (name === undefined) return overview(seeds)
  if (!Object.hasOwn(figures, name)) {
    const near = suggestion(name, Object.keys(figures), (figure) => figure)
    throw new UsageError(`there is no figure '${oneLine(name)}'${near ?? ` (${Object.keys(figures).join(', ')})`}`)
  }
  const figure = figures[name]
  const folder = options.out ?? join('reproduced', name)
  const cells = chosen(figure, options)
  if (list) {
    for (const { name } of cells) say(name)
    return 0
  }
  if (report) {
    const results = resultsIn(name, folder)
    if (results.length === 0) throw new FileError(`${folder} has no results of ${name} yet`)
    writeReport(name, figure, folder, results)
    return 0
  }
  const texts = await textsFor(name, figure, options)
  makeFolder(join(folder, 'cells'))
  checkTexts(resultsIn(name, folder), texts, folder)
  if (cell !== undefined) return runCell(name, cells[0], folder, texts, options, version)
  return runAll(name, figure, cells, folder, options)
}

/** The texts that a figure needs. */
async function textsFor(name: string, { files = {} }: Figure, options: ReproduceOptions): Promise<Files> {
  const idle = fileOptions.find((option) => options[option] !== undefined && !(option in files))
  if (idle !== undefined) throw new UsageError(`--${idle}: ${name} needs no such file`)
  const texts: Record<string, string> = {}
  for (const [option, what] of Object.entries(files)) {
    const path = options[option as (typeof fileOptions)[number]]
    if (path === undefined) throw new UsageError(`${name} needs --${option} FILE: ${what}`)
    texts[option] = await readText(path)
  }
  return texts
}

const hashes = (texts: Files): Record<string, string> =>
  Object.fromEntries(Object.entries(texts).map(([name, text]) => [name, createHash('sha256').update(text).digest('hex')]))

/** Results of other texts don't belong into the same table. */
function checkTexts(results: readonly Result[], texts: Files, folder: string): void {
  for (const [name, hash] of Object.entries(hashes(texts))) {
    const other = results.find(({ files }) => files?.[name] !== hash)
    if (other) throw new FileError(`${cellFile(folder, other.cell)} is of another --${name} file; give that, or another --out`)
  }
}

function overview(seeds: number): number {
  const rows = Object.entries(figures).map(([name, { title, cells }]) => {
    const all = cells(seedsOf(seeds))
    return [name, `${title}: ${counted(all.length, 'cell')}, about ${duration((1000 * secondsOf(all)) / os.availableParallelism())} here`]
  })
  const width = Math.max(...rows.map(([name]) => name.length))
  for (const [name, text] of rows) say(`${name.padEnd(width)}  ${text}`)
  return 0
}

const seedsOf = (n: number): number[] => Array.from({ length: n }, (_, i) => i + 1)

/** The cells that the options choose, each of them known. */
function chosen(figure: Figure, { seeds, only, cell, shard }: ReproduceOptions): Cell[] {
  if (cell !== undefined) {
    // Of whatever seed.
    const all = figure.cells([Number(/(\d+)$/.exec(cell)?.[1] ?? 1)])
    const found = all.find(({ name }) => name === cell)
    if (!found) throw new UsageError(`--cell: there is no cell '${cell}' (--list names them)`)
    return [found]
  }
  const all = figure.cells(seedsOf(seeds))
  const matching = only === undefined ? all : all.filter(({ name }) => name.includes(only))
  if (matching.length === 0) throw new UsageError(`--only: no cell's name has '${only}' in it (--list names them)`)
  if (shard === undefined) return matching
  const [part, parts] = shard.split('/').map(Number)
  if (!(part >= 1 && part <= parts)) throw new UsageError(`--shard: ${shard} is no part of a whole; give 1/4 to 4/4`)
  return matching.filter((_, i) => i % parts === part - 1)
}

const cellFile = (folder: string, name: string): string => join(folder, 'cells', `${name}.json`)

function makeFolder(path: string): void {
  try {
    createFolder(resolve(path))
  } catch (error) {
    throw new FileError(`can't write to the output folder ${path}: ${reason(error)}`)
  }
}

// ---- one cell --------------------------------------------------------------------------------------------------------------------------

async function runCell(
  name: string,
  cell: Cell,
  folder: string,
  texts: Files,
  options: ReproduceOptions,
  version: string,
): Promise<number> {
  const path = cellFile(folder, cell.name)
  if (existsSync(path)) {
    say(`${cell.name} is done: ${path}`)
    return 0
  }
  checkWritable(path)
  const line = progress()
  const device = await wasmDevice({ ...(await wasmSettings({ ...options, threads: 1 })), threads: 1 })
  setDevice(device)
  const began = performance.now()
  try {
    const outcome = await cell.run(async (step, steps, value) => {
      const told = `${cell.name}  step ${step}/${steps}  ${shown(value)}`
      if (process.send) process.send(told)
      else line.show(told, false)
      await new Promise(setImmediate)
    }, texts)
    const { row, columns, seed } = cell
    const seconds = (performance.now() - began) / 1000
    const arithmetic = arithmeticOf(device, options.relaxed)
    const files = Object.keys(texts).length > 0 ? { files: hashes(texts) } : {}
    const times = { seconds, processor: processorSeconds() }
    const { scaled } = figures[name]
    const result: Result = {
      figure: name,
      cell: cell.name,
      row,
      columns,
      seed,
      ...outcome,
      ...times,
      arithmetic,
      scaled,
      version,
      ...files,
    }
    writeAtomic(path, `${JSON.stringify(result)}\n`)
    line.end()
    if (!process.send)
      say(`${cell.name}: ${outcome.values.map(shown).join(', ')} after ${counted(outcome.steps, 'step')} (${outcome.end}); wrote ${path}`)
    return 0
  } finally {
    line.end()
    device.close()
    process.disconnect?.()
  }
}

const shown = (value: number): string =>
  Number.isNaN(value) ? 'none' : value !== 0 && Math.abs(value) < 0.001 ? value.toPrecision(3) : value.toFixed(4)

// ---- many ------------------------------------------------------------------------------------------------------------------------------

async function runAll(name: string, figure: Figure, cells: readonly Cell[], folder: string, options: ReproduceOptions): Promise<number> {
  if (cells.length === 0) {
    say('no cell falls to this part')
    return 0
  }
  const done = resultsIn(name, folder)
  const missing = cells.filter((cell) => !done.some((result) => result.cell === cell.name))
  const jobs = Math.min(options.jobs ?? os.availableParallelism(), missing.length)
  say(`${figure.title} (${figure.source})`)
  say(`${counted(cells.length, 'cell')}, ${cells.length - missing.length} of them done; ${figure.scaled}`)
  if (missing.length > 0) {
    const estimate = (1000 * secondsOf(missing) * paceOf(done, figure)) / jobs
    say(`about ${duration(estimate)} with ${jobs === 1 ? '1 process' : `${jobs} processes`}; results in ${folder}`)
  }
  const failures = await runMissing(name, missing, done, folder, jobs, options, figure)
  if (failures === null) say('stopped; the same command goes on')
  for (const failure of failures ?? []) process.stderr.write(`fastweights: ${failure}\n`)
  const results = resultsIn(name, folder)
  if (results.length > 0) writeReport(name, figure, folder, results)
  return failures === null ? 130 : failures.length > 0 ? 1 : 0
}

const secondsOf = (cells: readonly Pick<Cell, 'seconds'>[]): number => cells.reduce((n, { seconds }) => n + seconds, 0)

/** How much longer than estimated the finished cells took. */
function paceOf(done: readonly Result[], figure: Figure): number {
  const estimates = new Map(figure.cells(seedsOf(Math.max(1, ...done.map(({ seed }) => seed)))).map(({ name, seconds }) => [name, seconds]))
  const known = done.filter(({ cell }) => estimates.has(cell))
  const estimated = known.reduce((n, { cell }) => n + estimates.get(cell)!, 0)
  return estimated > 0 ? known.reduce((n, { seconds }) => n + seconds, 0) / estimated : 1
}

/** What went wrong, a line each; null where somebody has stopped it. */
async function runMissing(
  name: string,
  missing: readonly Cell[],
  before: readonly Result[],
  folder: string,
  jobs: number,
  options: ReproduceOptions,
  figure: Figure,
): Promise<string[] | null> {
  const { relaxed, simd } = options
  const main = fileURLToPath(new URL('./main.js', import.meta.url))
  const named = fileOptions.flatMap((option) => (options[option] === undefined ? [] : [`--${option}`, options[option]]))
  const flags = [...(relaxed ? [] : ['--no-relaxed']), '--simd', simd, ...named]
  const running = new Set<ChildProcess>()
  const failures: string[] = []
  const line = progress()
  const queue = [...missing]
  const open = new Set(missing)
  const done = [...before]
  let stopped = false
  const stop = (): void => {
    stopped = true
    for (const child of running) child.kill()
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, stop)
  const show = (told: string, matters: boolean): void => {
    const eta = duration((1000 * secondsOf([...open]) * paceOf(done, figure)) / Math.max(1, Math.min(jobs, open.size)))
    line.show(`${missing.length - open.size}/${missing.length} cells  ETA ${eta}  ${told}`, matters)
  }
  const one = (cell: Cell): Promise<void> =>
    new Promise((settle) => {
      const child = spawn(process.execPath, [main, 'reproduce', name, '--cell', cell.name, '--out', folder, ...flags], {
        stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      })
      running.add(child)
      let said = ''
      child.stderr!.setEncoding('utf8').on('data', (text: string) => (said += text))
      child.on('message', (told) => show(`${told}`, false))
      child.on('error', (error) => (said += error.message))
      child.on('close', (code, signal) => {
        running.delete(child)
        open.delete(cell)
        const result = code === 0 ? resultOf(name, cellFile(folder, cell.name)) : undefined
        if (typeof result === 'object') done.push(result)
        else if (!stopped)
          failures.push(
            `${cell.name}: ${
              said
                .trim()
                .split('\n')
                .at(-1)
                ?.replace(/^fastweights: /, '') || `ended by ${signal ?? `exit code ${code}`}`
            }`,
          )
        if (!stopped) show(`${cell.name} ${code === 0 ? 'done' : 'failed'}`, true)
        settle()
      })
    })
  try {
    const worker = async (): Promise<void> => {
      for (let cell = queue.shift(); cell && !stopped; cell = queue.shift()) await one(cell)
    }
    await Promise.all(Array.from({ length: jobs }, worker))
  } finally {
    line.end()
    for (const signal of ['SIGINT', 'SIGTERM'] as const) process.off(signal, stop)
  }
  return stopped ? null : failures
}

// ---- what came out ---------------------------------------------------------------------------------------------------------------------

/** Every finished cell of the figure in the folder; throws where a file is something else. */
function resultsIn(name: string, folder: string): Result[] {
  const place = join(folder, 'cells')
  if (!existsSync(place)) return []
  return readdirSync(place)
    .filter((file) => file.endsWith('.json') && !file.startsWith('.'))
    .sort()
    .map((file) => {
      const result = resultOf(name, join(place, file))
      if (typeof result === 'string') throw new FileError(result)
      return result
    })
}

/** What a file holds, or what is wrong with it. */
function resultOf(name: string, path: string): Result | string {
  let result: Partial<Result> | null
  try {
    result = JSON.parse(readFileSync(path, 'utf8'))
  } catch (error) {
    return `can't read ${path}: ${reason(error)}`
  }
  const { figure, cell, row, columns, values, seed, steps, end, seconds, processor, arithmetic } = result ?? {}
  const whole =
    figure === name &&
    basename(path) === `${cell}.json` &&
    [row, end, arithmetic].every((text) => typeof text === 'string') &&
    [seed, steps, seconds, processor].every(Number.isFinite) &&
    Array.isArray(columns) &&
    Array.isArray(values) &&
    values.length === columns.length &&
    values.every((value) => value === null || typeof value === 'number')
  if (!whole) return `${path} isn't a result of ${name}; take it out of the folder`
  if (result!.scaled !== figures[name].scaled)
    return `${path} was made with other settings, by another version; take it out of the folder, or give another --out`
  // NaN has no JSON.
  return { ...(result as Result), values: values.map((value) => value ?? Number.NaN) }
}

interface Place {
  row: string
  column: Column
  official: number | undefined
  /** Of the same length, a seed each. */
  values: number[]
  results: Result[]
}

const median = (values: readonly number[]): number => {
  const sorted = values.filter((value) => !Number.isNaN(value)).sort((a, b) => a - b)
  return sorted.length === 0 ? Number.NaN : (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2
}

function writeReport(name: string, figure: Figure, folder: string, results: readonly Result[]): void {
  for (const option of Object.keys(figure.files ?? {})) {
    const [{ cell, files }] = results
    const other = results.find((result) => result.files?.[option] !== files?.[option])
    if (other)
      throw new FileError(
        `${cellFile(folder, cell)} and ${cellFile(folder, other.cell)} are of different --${option} files; take one of them out of the folder`,
      )
  }
  const places = placesOf(figure, results)
  const table = markdown(name, figure, places)
  const files: [string, string][] = [
    ['table.md', table],
    ['table.csv', csv(results, figure)],
    ['results.json', `${JSON.stringify({ figure: name, ...about(figure), results }, null, 1)}\n`],
    ['figure.svg', picture(figure, places)],
  ]
  for (const [file, content] of files) writeAtomic(join(folder, file), content)
  say(`\n${table}`)
  for (const [file] of files) say(`wrote ${quoted(join(folder, file))}`)
}

const about = ({ title, source, measure, scaled }: Figure): object => ({ title, source, measure, scaled })

/** The places of the table that have results, in the figure's order. */
function placesOf(figure: Figure, results: readonly Result[]): Place[] {
  const places = new Map<string, Place>()
  for (const { row, columns } of figure.cells([1]))
    for (const column of columns) {
      const own = results.filter((result) => result.row === row && result.columns.includes(column))
      const values = own.map((result) => result.values[result.columns.indexOf(column)])
      if (own.length > 0) places.set(`${row}\n${column}`, { row, column, official: figure.official(row, column), values, results: own })
    }
  return [...places.values()]
}

function markdown(name: string, figure: Figure, places: readonly Place[]): string {
  const [row, column] = figure.axes
  const header = [row, column, 'official', 'ours, median', 'each seed', 'steps', 'ended', 'core seconds']
  const lines = places.map(({ row, column, official, values, results }) => [
    row,
    `${column}`,
    official === undefined ? '' : shown(official),
    shown(median(values)),
    values.map(shown).join(', '),
    results.map(({ steps }) => steps).join(', '),
    [...new Set(results.map(({ end }) => end))].join(', '),
    results.map(({ processor }) => processor.toFixed(processor < 10 ? 1 : 0)).join(', '),
  ])
  const widths = header.map((title, i) => Math.max(title.length, ...lines.map((line) => line[i].length)))
  const line = (fields: readonly string[]): string => `| ${fields.map((field, i) => field.padEnd(widths[i])).join(' | ')} |`
  const results = [...new Set(places.flatMap((place) => place.results))]
  const total = results.reduce((n, { processor }) => n + processor, 0)
  return `${figure.title} (\`fastweights reproduce ${name}\`)

Official: ${figure.source}. A value is the ${figure.measure}. Scaled down: ${figure.scaled}
${counted(results.length, 'run')} in ${[...new Set(results.map(({ arithmetic }) => arithmetic))].join(' and ')}, ${duration(1000 * total)} of processor time.

${line(header)}
${line(widths.map((width) => '-'.repeat(width)))}
${lines.map(line).join('\n')}
`
}

function csv(results: readonly Result[], figure: Figure): string {
  const field = (value: unknown): string => (/[",\n]/.test(`${value}`) ? `"${`${value}`.replaceAll('"', '""')}"` : `${value}`)
  const header = [...figure.axes, 'seed', 'value', 'official', 'steps', 'end', 'seconds', 'core seconds']
  const lines = results.flatMap(({ row, columns, seed, values, steps, end, seconds, processor }) =>
    columns.map((column, i) =>
      [row, column, seed, values[i], figure.official(row, column) ?? '', steps, end, seconds.toFixed(1), processor.toFixed(1)]
        .map(field)
        .join(),
    ),
  )
  return `${header.map(field).join()}\n${lines.join('\n')}\n`
}

/** The medians over the columns, a line a row, and the official values dashed. */
function picture(figure: Figure, places: readonly Place[]): string {
  const rows = [...new Set(places.map(({ row }) => row))]
  const columns = [...new Set(figure.cells([1]).flatMap(({ columns }) => columns))]
  const at = (column: Column): number => (typeof column === 'number' ? column : columns.indexOf(column))
  const series = rows.map((row) => {
    const own = places.filter((place) => place.row === row)
    return {
      name: row,
      marked: true,
      points: own.map(({ column, values }) => [at(column), median(values)] as const),
    }
  })
  const official = rows.map((row, beside) => {
    const own = places.filter((place) => place.row === row && place.official !== undefined)
    return { name: `${row}, official`, beside, points: own.map(({ column, official }) => [at(column), official!] as const) }
  })
  return svgChart({
    title: figure.title,
    unit: `${figure.measure.split(':')[0]}${official.some(({ points }) => points.length > 0) ? '; dashed: official' : ''}`,
    over: figure.axes[1],
    ...(columns.some((column) => typeof column === 'string') && { places: columns.map(String) }),
    series: [...series, ...official],
  })
}
