/**
 * `fastweights reproduce`: the cells of a figure, each trained in a process of its own, several at a time, and what came out as tables and a
 * picture. In the output folder: cells/NAME.json, one file a finished cell, from which everything else is made (table.md, table.csv, results.json,
 * figure.svg). So a run goes on where it was stopped, and folders of different machines are merged by copying files.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { setDevice, wasmDevice } from '../engine/index.ts'
import type { Cell, Figure, Outcome } from '../experiments/figure.ts'
import { figures } from '../experiments/index.ts'
import { reason } from '../tasks/download.ts'
import { UsageError } from './arguments.ts'
import { svgChart } from './chart.ts'
import { FileError, writeAtomic } from './files.ts'
import { arithmeticOf, type DeviceValues, wasmSettings } from './options.ts'
import { counted, duration, progress, quoted, say } from './terminal.ts'

export interface ReproduceOptions extends Pick<DeviceValues, 'relaxed' | 'simd'> {
  operands: readonly string[]
  out: string | undefined
  seeds: number
  only: string | undefined
  cell: string | undefined
  shard: string | undefined
  list: boolean
  report: boolean
  jobs: number | undefined
}

/** What a cell's file holds. */
interface Result extends Outcome {
  figure: string
  cell: string
  row: string
  column: number | string
  seed: number
  /** Of the clock. */
  seconds: number
  arithmetic: string
  version: string
}

export async function reproduce(options: ReproduceOptions, version: string): Promise<number> {
  const { operands, seeds, cell, list, report } = options
  if (operands.length === 0) return overview(seeds)
  const [name, ...more] = operands
  if (more.length > 0) throw new UsageError(`one figure at a time: ${operands.join(' ')}`)
  if (!Object.hasOwn(figures, name)) throw new UsageError(`there is no figure '${name}' (${Object.keys(figures).join(', ')})`)
  const figure = figures[name]
  const folder = options.out ?? join('reproduced', name)
  const cells = chosen(figure, options)
  if (list) {
    for (const { name } of cells) say(name)
    return 0
  }
  if (report) return writeReport(name, figure, folder)
  createFolder(join(folder, 'cells'))
  if (cell !== undefined) return runCell(name, cells[0], folder, options, version)
  return runAll(name, figure, cells, folder, options)
}

function overview(seeds: number): number {
  const rows = Object.entries(figures).map(([name, { title, cells }]) => {
    const all = cells(seedsOf(seeds))
    const hours = all.reduce((n, { seconds }) => n + seconds, 0)
    return [name, `${title}: ${counted(all.length, 'cell')}, about ${duration((hours * 1000) / os.availableParallelism())} here`]
  })
  const width = Math.max(...rows.map(([name]) => name.length))
  for (const [name, text] of rows) say(`${name.padEnd(width)}  ${text}`)
  return 0
}

const seedsOf = (n: number): number[] => Array.from({ length: n }, (_, i) => i + 1)

/** The cells that the options choose, each of them known. */
function chosen(figure: Figure, { seeds, only, cell, shard }: ReproduceOptions): Cell[] {
  const all = figure.cells(seedsOf(seeds))
  if (cell !== undefined) {
    if (only !== undefined || shard !== undefined)
      throw new UsageError(`--${only === undefined ? 'shard' : 'only'}: means nothing beside --cell`)
    const found = all.find(({ name }) => name === cell)
    if (!found) throw new UsageError(`--cell: there is no cell '${cell}' (--list names them)`)
    return [found]
  }
  const matching = only === undefined ? all : all.filter(({ name }) => name.includes(only))
  if (matching.length === 0) throw new UsageError(`--only: no cell's name has '${only}' in it (--list names them)`)
  if (shard === undefined) return matching
  const [part, parts] = shard.split('/').map(Number)
  if (!(part >= 1 && part <= parts)) throw new UsageError(`--shard: ${shard} is no part of a whole; give 1/4 to 4/4`)
  return matching.filter((_, i) => i % parts === part - 1)
}

const cellFile = (folder: string, name: string): string => join(folder, 'cells', `${name}.json`)

function createFolder(path: string): void {
  try {
    mkdirSync(path, { recursive: true })
  } catch (error) {
    throw new FileError(`can't write to the output folder ${path}: ${reason(error)}`)
  }
}

// ---- one cell --------------------------------------------------------------------------------------------------------------------------

async function runCell(name: string, cell: Cell, folder: string, options: ReproduceOptions, version: string): Promise<number> {
  const path = cellFile(folder, cell.name)
  if (existsSync(path)) {
    say(`${cell.name} is done: ${path}`)
    return 0
  }
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
    })
    const { row, column, seed } = cell
    const seconds = (performance.now() - began) / 1000
    const arithmetic = arithmeticOf(device, options.relaxed)
    const result: Result = { figure: name, cell: cell.name, row, column, seed, ...outcome, seconds, arithmetic, version }
    writeAtomic(path, `${JSON.stringify(result)}\n`)
    line.end()
    if (!process.send) say(`${cell.name}: ${shown(outcome.value)} after ${counted(outcome.steps, 'step')} (${outcome.end}); wrote ${path}`)
    return 0
  } finally {
    line.end()
    device.close()
    process.disconnect?.()
  }
}

const shown = (value: number): string => (Number.isNaN(value) ? 'no number' : value < 0.001 ? value.toPrecision(3) : value.toFixed(4))

// ---- many ------------------------------------------------------------------------------------------------------------------------------

async function runAll(name: string, figure: Figure, cells: readonly Cell[], folder: string, options: ReproduceOptions): Promise<number> {
  const done = resultsIn(name, folder)
  const missing = cells.filter((cell) => !done.some((result) => result.cell === cell.name))
  const jobs = Math.min(options.jobs ?? os.availableParallelism(), missing.length)
  say(`${figure.title} (${figure.source})`)
  say(`${counted(cells.length, 'cell')}, ${cells.length - missing.length} of them done; ${figure.scaled}`)
  if (missing.length > 0) {
    const estimate = (1000 * secondsOf(missing) * paceOf(done, figure)) / jobs
    say(`about ${duration(estimate)} with ${jobs === 1 ? '1 process' : `${jobs} processes`}; results in ${folder}`)
  }
  const failures = await runMissing(name, missing, folder, jobs, options, figure)
  if (failures === null) {
    writeReport(name, figure, folder)
    say('stopped; the same command goes on')
    return 130
  }
  const code = writeReport(name, figure, folder)
  for (const failure of failures) process.stderr.write(`fastweights: ${failure}\n`)
  return failures.length > 0 ? 1 : code
}

const secondsOf = (cells: readonly Cell[]): number => cells.reduce((n, { seconds }) => n + seconds, 0)

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
  folder: string,
  jobs: number,
  { relaxed, simd, seeds }: ReproduceOptions,
  figure: Figure,
): Promise<string[] | null> {
  const main = new URL('./main.js', import.meta.url)
  const flags = [...(relaxed ? [] : ['--no-relaxed']), '--simd', simd, '--seeds', `${seeds}`]
  const running = new Set<ChildProcess>()
  const failures: string[] = []
  const line = progress()
  const queue = [...missing]
  let finished = 0
  let stopped = false
  const stop = (): void => {
    stopped = true
    for (const child of running) child.kill()
  }
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, stop)
  const show = (told: string, matters: boolean): void => {
    const left = missing.length - finished
    const results = resultsIn(name, folder)
    const open = missing.filter((cell) => !results.some((result) => result.cell === cell.name))
    const eta = duration((1000 * secondsOf(open) * paceOf(results, figure)) / Math.max(1, Math.min(jobs, left)))
    line.show(`${finished}/${missing.length} cells  ETA ${eta}  ${told}`, matters)
  }
  const one = (cell: Cell): Promise<void> =>
    new Promise((settle) => {
      const child = spawn(process.execPath, [main.pathname, 'reproduce', name, '--cell', cell.name, '--out', folder, ...flags], {
        stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      })
      running.add(child)
      let said = ''
      child.stderr!.setEncoding('utf8').on('data', (text: string) => (said += text))
      child.on('message', (told) => show(`${told}`, false))
      child.on('error', (error) => (said += error.message))
      child.on('close', (code, signal) => {
        running.delete(child)
        finished++
        if (!stopped && (code !== 0 || !existsSync(cellFile(folder, cell.name))))
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
      const path = join(place, file)
      let result: Result
      try {
        result = JSON.parse(readFileSync(path, 'utf8'))
      } catch (error) {
        throw new FileError(`can't read ${path}: ${reason(error)}`)
      }
      if (result?.figure !== name || `${result.cell}.json` !== file || !Array.isArray(result.curve))
        throw new FileError(`${path} isn't a result of ${name}; take it out of the folder`)
      // NaN has no JSON.
      return { ...result, value: result.value ?? Number.NaN }
    })
}

interface Place {
  row: string
  column: number | string
  official: number | undefined
  results: Result[]
}

const median = (values: readonly number[]): number => {
  const sorted = values.filter((value) => !Number.isNaN(value)).sort((a, b) => a - b)
  return sorted.length === 0 ? Number.NaN : (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2
}

function writeReport(name: string, figure: Figure, folder: string): number {
  const results = resultsIn(name, folder)
  if (results.length === 0) throw new FileError(`${folder} has no results of ${name} yet`)
  const places = placesOf(figure, results)
  const files: [string, string][] = [
    ['table.md', markdown(name, figure, places)],
    ['table.csv', csv(results, figure)],
    ['results.json', `${JSON.stringify({ figure: name, ...about(figure), results }, null, 1)}\n`],
    ['figure.svg', picture(figure, places)],
  ]
  for (const [file, content] of files) writeAtomic(join(folder, file), content)
  say(`\n${markdown(name, figure, places)}`)
  for (const [file] of files) say(`wrote ${quoted(join(folder, file))}`)
  return 0
}

const about = ({ title, source, measure, scaled }: Figure): object => ({ title, source, measure, scaled })

/** The places of the table that have results, in the figure's order. */
function placesOf(figure: Figure, results: readonly Result[]): Place[] {
  const places = new Map<string, Place>()
  for (const { row, column } of figure.cells([1])) {
    const own = results.filter((result) => result.row === row && result.column === column)
    if (own.length > 0) places.set(`${row}\n${column}`, { row, column, official: figure.official(row, column), results: own })
  }
  return [...places.values()]
}

function markdown(name: string, figure: Figure, places: readonly Place[]): string {
  const [row, column] = figure.axes
  const header = [row, column, 'official', 'ours, median', 'each seed', 'steps', 'ended', 'seconds']
  const lines = places.map(({ row, column, official, results }) => [
    row,
    `${column}`,
    official === undefined ? '' : shown(official),
    shown(median(results.map(({ value }) => value))),
    results.map(({ value }) => shown(value)).join(', '),
    results.map(({ steps }) => steps).join(', '),
    [...new Set(results.map(({ end }) => end))].join(', '),
    results.map(({ seconds }) => seconds.toFixed(0)).join(', '),
  ])
  const widths = header.map((title, i) => Math.max(title.length, ...lines.map((line) => line[i].length)))
  const line = (fields: readonly string[]): string => `| ${fields.map((field, i) => field.padEnd(widths[i])).join(' | ')} |`
  const results = places.flatMap((place) => place.results)
  const total = results.reduce((n, { seconds }) => n + seconds, 0)
  return `${figure.title} (\`fastweights reproduce ${name}\`)

Official: ${figure.source}. A value is the ${figure.measure}. Scaled down: ${figure.scaled}
${counted(results.length, 'run')}, ${duration(1000 * total)} of one core each after the other.

${line(header)}
${line(widths.map((width) => '-'.repeat(width)))}
${lines.map(line).join('\n')}
`
}

function csv(results: readonly Result[], figure: Figure): string {
  const field = (value: unknown): string => (/[",\n]/.test(`${value}`) ? `"${`${value}`.replaceAll('"', '""')}"` : `${value}`)
  const header = [...figure.axes, 'seed', 'value', 'official', 'steps', 'end', 'seconds']
  const lines = results.map(({ row, column, seed, value, steps, end, seconds }) =>
    [row, column, seed, value, figure.official(row, column) ?? '', steps, end, seconds.toFixed(1)].map(field).join(),
  )
  return `${header.map(field).join()}\n${lines.join('\n')}\n`
}

/** The medians over the columns, a line a row, and the official values dashed. */
function picture(figure: Figure, places: readonly Place[]): string {
  const rows = [...new Set(places.map(({ row }) => row))]
  const columns = [...new Set(figure.cells([1]).map(({ column }) => column))]
  const at = (column: number | string): number => (typeof column === 'number' ? column : columns.indexOf(column))
  const series = rows.map((row) => {
    const own = places.filter((place) => place.row === row)
    return {
      name: row,
      marked: true,
      points: own.map(({ column, results }) => [at(column), median(results.map(({ value }) => value))] as const),
    }
  })
  const official = rows.map((row, beside) => {
    const own = places.filter((place) => place.row === row && place.official !== undefined)
    return { name: `${row}, official`, beside, points: own.map(({ column, official }) => [at(column), official!] as const) }
  })
  return svgChart({
    title: figure.title,
    unit: `${figure.measure.split(':')[0]}; dashed: official`,
    over: figure.axes[1],
    series: [...series, ...official],
  })
}
