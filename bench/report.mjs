import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import { fileURLToPath } from 'node:url'
import { hasRelaxed } from './child.mjs'

/** A bad argument: one line, exit code 2. */
export class UsageError extends Error {}

export const machine = () => ({
  node: process.version,
  v8: process.versions.v8,
  cpu: os.cpus()[0]?.model.trim() ?? 'unknown',
  cores: os.availableParallelism(),
  memory: `${(os.totalmem() / 2 ** 30).toFixed(0)} GiB`,
  system: `${os.type()} ${os.arch()}`,
  relaxedSimd: hasRelaxed() ? 'on by default' : 'behind a flag, which the relaxed rows switch on',
})

export function printMachine() {
  const m = machine()
  console.log(`Node ${m.node} (V8 ${m.v8}), ${m.cpu}, ${m.cores} cores, ${m.memory}, ${m.system}; relaxed SIMD ${m.relaxedSimd}`)
  const load = os.loadavg()[0]
  if (load > 1)
    console.log(
      `The machine has been busy (load ${load.toFixed(1)} over the last minute): if it still is, the fastest samples say more than the medians.`,
    )
}

/** First column to the left, the others to the right; `null` is an empty line. */
export function printTable(header, rows) {
  const all = [header, ...rows.filter(Boolean)]
  const widths = header.map((_, column) => Math.max(...all.map((row) => String(row[column] ?? '').length)))
  const line = (row) =>
    row
      .map((cell, i) => (i ? String(cell).padStart(widths[i]) : String(cell).padEnd(widths[i])))
      .join('  ')
      .trimEnd()
  console.log(line(header))
  console.log(widths.map((w) => '-'.repeat(w)).join('  '))
  for (const row of rows) console.log(row ? line(row) : '')
}

/** One line that the next one overwrites; nothing where nobody watches. */
export function progress(text) {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
}

/** Three significant digits: 0.123, 1.23, 12.3, 123. */
export const digits = (x) => (x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x >= 1 ? x.toFixed(2) : x.toPrecision(2))

export const version = (name) => JSON.parse(readFileSync(new URL(`./node_modules/${name}/package.json`, import.meta.url), 'utf8')).version

/** Writes what a benchmark returns as JSON, and beside it the plot, where it drew one. */
export function save(benchmark, { svg, ...data }) {
  const folder = new URL('./results/', import.meta.url)
  mkdirSync(folder, { recursive: true })
  const date = new Date().toISOString()
  const write = (extension, text) => {
    const file = new URL(`${benchmark}-${date.replace(/[:.]/g, '-')}.${extension}`, folder)
    writeFileSync(file, text)
    console.log(`written: ${fileURLToPath(file)}`)
  }
  console.log()
  write('json', `${JSON.stringify({ benchmark, date, machine: machine(), ...data }, null, 2)}\n`)
  if (svg) write('svg', svg)
}
