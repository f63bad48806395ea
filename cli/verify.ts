/** `fastweights verify`: checks the claims on this machine's devices, in processes of their own, and says what came out. */

import { type ChildProcess, fork } from 'node:child_process'
import os from 'node:os'
import { resolve } from 'node:path'
import type { Readable } from 'node:stream'
import type { Verdict } from '../claims/check.ts'
import { refutationRuns } from '../claims/claim.ts'
import type { Kind, Subject } from '../claims/context.ts'
import { openDevice, type Precision, webgpuAdapters } from '../engine/index.ts'
import { suggestion, UsageError } from './arguments.ts'
import { keepEvidence, openFolder } from './counterexample.ts'
import { checkWritable, FileError, writeAtomic } from './files.ts'
import { type DeviceValues, wasmSettings } from './options.ts'
import { endGroup, Pulse, pulseFd } from './pulse.ts'
import type { Verification } from './report.ts'
import { counted, duration, oneLine, progress, quoted, visible } from './terminal.ts'
import type { ClaimText, Job, Loaded, Report, WorkerSettings } from './verify-worker.ts'

export interface VerifyOptions {
  /** Patterns and files. */
  operands: readonly string[]
  device: Kind | 'all' | 'auto'
  threads: number
  relaxed: boolean
  simd: DeviceValues['simd']
  precision: Precision
  runs: number
  seed: number
  path: string | undefined
  list: boolean
  json: string | undefined
  report: string | undefined
  /** Seconds. */
  caseLimit: number
  /** A name, a module or a command: see `openAdapter`. */
  implementation: string | undefined
  tolerance: number | undefined
  counterexamples: string
  /** The names of the options that were given. */
  given: ReadonlySet<string>
}

/** What means something for our devices, and for nobody else's implementation. */
const ofDevices = ['device', 'precision', 'threads', 'relaxed', 'simd']

const isFile = (word: string): boolean => /\.[cm]?js$/.test(word)

/** Loading, and opening a device, has at least this long; what others wrote may load much. */
const loadLimit = 15_000
const implementationLimit = 60_000
/** So has the first case of a claim on WebGPU, in which shaders are compiled: a processor that is one's GPU takes seconds for it, and many when it has other work. */
const compileLimit = 60_000

/** So many processes at most share the GPU, where one computes on the CPU while the other waits, or run what others wrote. */
const sharing = 2

export async function verify(options: VerifyOptions, version: string): Promise<number> {
  const done = endAllAtTheEnd()
  try {
    return await check(options, version)
  } finally {
    done()
  }
}

async function check(options: VerifyOptions, version: string): Promise<number> {
  const { operands, device, seed, path, caseLimit, json, report, implementation: what, tolerance, given } = options
  const runs = path === undefined ? options.runs : 1
  if (report === '-') throw new UsageError('--report: a page needs a file, and not -')
  if (json !== undefined && report !== undefined && resolve(json) === resolve(report))
    throw new UsageError(`--json and --report would write the same file: ${json}`)
  for (const name of what === undefined ? ['tolerance', 'counterexamples'] : ofDevices)
    if (given.has(name))
      throw new UsageError(
        `--${name}: means nothing ${what === undefined ? 'without --implementation' : 'for an implementation by others'}`,
      )
  for (const file of [json === '-' ? undefined : json, report]) if (file !== undefined && !options.list) checkWritable(file)
  // Where the results go to standard output, the rest must not.
  const out = json === '-' ? process.stderr : process.stdout
  const say = (text: string): void => void out.write(`${visible(text)}\n`)
  const files = operands.filter(isFile)
  if (what !== undefined && files.length > 0)
    throw new UsageError(`--implementation: it has rules of this package, and ${files[0]} brings others: leave one of them out`)
  if (given.has('counterexamples')) openFolder(options.counterexamples)
  const began = performance.now()

  // Who asks for webgpu may have what there is; a GPU that the CPU imitates is for nobody else.
  const { threads, relaxed, precision } = options
  // Decided once: a worker on a busy machine might find otherwise.
  const onWasm = what === undefined && device !== 'reference' && device !== 'webgpu'
  const simd = onWasm ? ((await wasmSettings(options)).wide ? '256' : '128') : options.simd
  const by = what === undefined ? undefined : { what, tolerance, limit: caseLimit }
  const settings: WorkerSettings = { files, threads, relaxed, simd, precision, software: device === 'webgpu', implementation: by }
  const first = new Checker(settings, caseLimit)
  const { claims: all, problems, implementation } = await first.loaded
  for (const problem of problems) process.stderr.write(`fastweights: ${oneLine(problem)}\n`)
  const patterns = operands.filter((word) => !isFile(word))
  if (what !== undefined && !implementation) {
    first.end()
    return 1
  }
  let claims: ClaimText[]
  let unasked: ClaimText[]
  let devices: Subject[]
  try {
    const chosen = select(all, patterns, problems.length > 0)
    claims = chosen.filter((claim) => claim.unasked === undefined)
    unasked = chosen.filter((claim) => claim.unasked !== undefined)
    if (path !== undefined && claims.length !== 1)
      throw new UsageError(`--path is a place among the cases of one claim, and ${claims.length} claims are chosen: give its whole name`)
    devices = options.list ? [] : implementation ? ['implementation'] : await devicesOf(options, say)
  } catch (error) {
    first.end()
    throw error
  }
  if (implementation) say(introduction(implementation, unasked))
  if (options.list) {
    first.end()
    list(claims, say)
    return problems.length > 0 ? 1 : 0
  }

  const line = progress(out)
  const results = new Map<string, Verdict[]>(claims.map(({ name }) => [name, []]))
  const queue: Job[] = claims.flatMap(({ name }) => devices.map((kind) => ({ claim: name, device: kind, runs, seed, path })))
  const total = queue.length
  let done = 0
  const kept = (found: Verdict): Verdict => {
    const again = { implementation: what!, seed: String(seed), again: command(found, options) }
    try {
      return keepEvidence(found, options.counterexamples, implementation!, again)
    } catch (error) {
      if (!(error instanceof FileError)) throw error
      // What was found is worth more than its file.
      line.end()
      process.stderr.write(`fastweights: ${oneLine(error.message)}\n`)
      const { evidence, ...counterexample } = found.counterexample!
      return { ...found, counterexample }
    }
  }
  const finish = (found: Verdict): void => {
    done++
    const verdict = implementation ? kept(found) : found
    const verdicts = results.get(verdict.claim)!
    verdicts.push(verdict)
    if (verdicts.length < devices.length) return
    const claim = claims.find(({ name }) => name === verdict.claim)!
    verdicts.sort((a, b) => devices.indexOf(a.device) - devices.indexOf(b.device))
    line.show(claimLine(claim, verdicts), true)
    line.end()
    const bad = verdicts.filter(({ ok }) => !ok)
    // Devices that fail at the same case need it only once.
    for (const [i, verdict] of bad.entries())
      for (const text of complaint(
        verdict,
        options,
        bad.slice(0, i).some((v) => v.counterexample?.path === verdict.counterexample?.path),
      ))
        say(text)
  }

  // As many claims at a time as the cores allow, each with its threads; what others wrote may have threads of its own.
  const onGpu = queue.filter((job) => job.device === 'webgpu').length
  const useful = implementation ? Math.min(total, sharing) : total - onGpu + Math.min(onGpu, sharing)
  const count = Math.max(1, Math.min(useful, Math.floor(os.availableParallelism() / options.threads)))
  const crew = [first, ...Array.from({ length: count - 1 }, () => new Checker(settings, caseLimit))]
  const isFalse = new Set(claims.filter(({ holds }) => holds === false).map(({ name }) => name))
  const most = ({ claim }: Job): string =>
    path === undefined && isFalse.has(claim) ? `at most ${Math.max(runs, refutationRuns)}` : `${runs}`
  const work = async (checker: Checker, i: number): Promise<void> => {
    const { claims, problems } = await checker.loaded
    // The others do its part.
    if (claims.length === 0) {
      if (i > 0) process.stderr.write(`fastweights: process ${i + 1} isn't used: ${oneLine(problems.join('; '))}\n`)
      return
    }
    const next = (): Job | undefined => {
      const at = queue.findIndex((job) => job.device !== 'webgpu' || i < sharing)
      return at < 0 ? undefined : queue.splice(at, 1)[0]
    }
    for (let job = next(); job; job = next()) {
      const watch = setInterval(
        () => line.show(`[${done}/${total}] ${job!.claim}, ${job!.device}: ${checker.runs()} of ${most(job!)}`, false),
        200,
      )
      try {
        finish(await checker.check(job))
      } catch (error) {
        queue.length = 0
        throw error
      } finally {
        clearInterval(watch)
      }
    }
  }
  const ended = await Promise.allSettled(crew.map(work))
  line.end()
  for (const checker of crew) checker.end()
  for (const one of ended) if (one.status === 'rejected') throw one.reason

  const verification: Verification = {
    version,
    machine: `${os.cpus()[0]?.model.trim() ?? 'unknown processor'}, ${os.availableParallelism()} cores, Node ${process.version}`,
    runs,
    seed,
    devices,
    ...(precision === 'f16' && { precision }),
    ...(implementation && {
      implementation: { ...implementation, unasked: unasked.map(({ name, unasked }) => ({ name, why: unasked! })) },
    }),
    milliseconds: performance.now() - began,
    problems,
    claims: claims.map((claim) => ({ ...claim, verdicts: results.get(claim.name)! })),
  }
  say(summary(verification))
  if (json === '-') process.stdout.write(`${JSON.stringify(verification, null, 1)}\n`)
  else if (json !== undefined) writeAtomic(json, `${JSON.stringify(verification, null, 1)}\n`)
  if (report !== undefined) {
    const { page } = await import('./report.ts')
    writeAtomic(report, await page(verification))
    say(`wrote ${report}`)
  }
  const verdicts = verification.claims.flatMap(({ verdicts }) => verdicts)
  if (verdicts.length > 0 && verdicts.every(({ status }) => status === 'skipped')) {
    const where = `${devices.join(', ')} ${devices.length === 1 ? 'has' : 'have'} nothing`
    process.stderr.write(
      `fastweights: nothing was compared: ${where} to compare with for what was chosen (--device all tries every device)\n`,
    )
    return 1
  }
  if (implementation && verdicts.every(({ status }) => status === 'not offered')) {
    process.stderr.write(`fastweights: nothing was compared: ${implementation.name} offers nothing of what was chosen\n`)
    return 1
  }
  return problems.length === 0 && verdicts.every(({ ok }) => ok) ? 0 : 1
}

/** Throws where the device that is asked for can't be opened. With `all`, a GPU that can't is a failure of each claim. */
async function devicesOf(
  { device: choice, precision, threads, relaxed, simd }: VerifyOptions,
  say: (text: string) => void,
): Promise<Kind[]> {
  const wasm = choice === 'reference' || choice === 'webgpu' ? undefined : await wasmSettings({ threads, relaxed, simd })
  if (choice === 'all') {
    const [first] = await webgpuAdapters().catch(() => [])
    const gpu = first && !first.capabilities.software && (precision === 'f32' || first.capabilities.f16)
    return ['reference', 'wasm', ...(gpu ? (['webgpu'] as const) : [])]
  }
  const device = await openDevice(choice, { wasm, precision, log: say })
  device.close()
  return [device.name]
}

// --- Choosing -------------------------------------------------------------------------------------------------------------------------

/** The claims whose name is a pattern, or else matches one: as a glob if it has * or ?, else as a part of the name. */
export function select(claims: readonly ClaimText[], patterns: readonly string[], mayBeNone = false): ClaimText[] {
  const wanted = new Set<string>()
  for (const pattern of patterns) {
    const exact = claims.filter(({ name }) => name === pattern)
    const glob = /[*?]/.test(pattern)
    const escaped = pattern
      .replace(/[.+^${}()|[\]\\]/g, '\\$&')
      .replaceAll('*', '.*')
      .replaceAll('?', '.')
    const shape = new RegExp(glob ? `^${escaped}$` : escaped, 'i')
    const found = exact.length > 0 ? exact : claims.filter(({ name }) => shape.test(name))
    if (found.length === 0 && !mayBeNone) {
      const names = [...new Set(claims.flatMap(({ name }) => [name, name.split(':')[0]]))]
      const hint = suggestion(pattern, names, (name) => `'${name}'`) ?? ' (--list shows all)'
      throw new UsageError(`no claim matches '${pattern}'${hint}`)
    }
    for (const { name } of found) wanted.add(name)
  }
  return patterns.length === 0 ? [...claims] : claims.filter(({ name }) => wanted.has(name))
}

function list(claims: readonly ClaimText[], say: (text: string) => void): void {
  let section = ''
  for (const claim of claims) {
    if (claim.section !== section) say(`${section === '' ? '' : '\n'}${claim.section}`)
    section = claim.section
    say(`  ${claim.name}${claim.holds === false ? ' (false)' : ''}`)
  }
  say(`\n${counted(claims.length, 'claim')}`)
}

// --- Processes ------------------------------------------------------------------------------------------------------------------------

const living = new Set<ChildProcess>()
/** Whether the process leads a group of its own. */
const leads = ({ implementation }: WorkerSettings): boolean => implementation !== undefined
const end = (child: ChildProcess): void => {
  if (child.pid !== undefined && child.exitCode === null && child.signalCode === null) endGroup(child.pid)
}
const endAll = (): void => living.forEach(end)

/** No process is left behind, however the command ends; to be called when it has. */
function endAllAtTheEnd(): () => void {
  const exits = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const
  const leave = (signal: NodeJS.Signals): void => process.exit(exits[signal as keyof typeof exits])
  const signals = Object.keys(exits)
  process.on('exit', endAll)
  for (const signal of signals) process.on(signal, leave)
  return () => {
    process.off('exit', endAll)
    for (const signal of signals) process.off(signal, leave)
    endAll()
  }
}

/** A process that checks claims, replaced by a new one when a case takes too long or it dies. */
class Checker {
  loaded!: Promise<Loaded>
  private child!: ChildProcess
  private pulse!: Pulse
  private readonly settings: WorkerSettings
  /** In milliseconds. */
  private readonly limit: number

  constructor(settings: WorkerSettings, seconds: number) {
    this.settings = settings
    this.limit = seconds * 1000
    this.start()
  }

  runs = (): number => this.pulse.runs
  end = (): void => end(this.child)

  private start(): void {
    const child = fork(new URL('./verify-worker.js', import.meta.url), [JSON.stringify(this.settings)], {
      serialization: 'advanced',
      // A program that it starts, and what that starts, ends with it.
      detached: leads(this.settings),
      // What a claim prints isn't a result.
      stdio: ['ignore', 2, 2, 'ipc', 'pipe'],
    })
    this.child = child
    living.add(child)
    child.on('exit', () => living.delete(child))
    child.on('error', () => {}) // Whoever waits for an answer hears of it.
    this.pulse = new Pulse(child.stdio[pulseFd] as Readable)
    const least = this.settings.implementation ? implementationLimit : loadLimit
    this.loaded = this.answer(Math.max(this.limit, least)).then((answer) => {
      if ('claims' in answer) return answer
      this.end()
      const file = this.pulse.what
      return { claims: [], problems: [`${file === '' ? 'the claims' : file}: ${'failure' in answer ? answer.failure : 'no claims'}`] }
    })
  }

  async check(job: Job): Promise<Verdict> {
    const began = performance.now()
    // What an earlier claim has left to run later may end the process.
    if (!this.child.connected) this.start()
    const { claims, problems } = await this.loaded
    this.pulse.what = ''
    this.pulse.runs = 0
    let answer: Report
    if (claims.some(({ name }) => name === job.claim)) {
      this.child.send(job, () => {}) // Where it can't be sent, there is no answer.
      answer = await this.answer(this.limit, job.device === 'webgpu' ? Math.max(this.limit, compileLimit) : this.limit)
    } else answer = { failure: problems.join('; ') } // It has loaded before.
    if ('verdict' in answer) return answer.verdict
    if ('noCase' in answer) throw new UsageError(`--path: ${answer.noCase}`)
    const [what, runs] = ('at' in answer && answer.at) || [this.pulse.what, this.pulse.runs]
    const verdict: Verdict = {
      claim: job.claim,
      device: job.device,
      status: 'tooLong' in answer ? 'stuck' : 'throws',
      ok: false,
      runs,
      error: Number.NaN,
      bound: Number.NaN,
      milliseconds: performance.now() - began,
      message: `${'failure' in answer ? answer.failure : 'no verdict'}${what === '' ? '' : ` (case: ${what})`}`,
    }
    this.end()
    this.start()
    await this.loaded
    return verdict
  }

  /** The next report of the process, or a failure when it ends or nothing moves for longer than the limit, which is another for a claim's first case. */
  private answer(limit: number, first = limit): Promise<Report> {
    const { child, pulse } = this
    const period = Math.min(100, limit / 4)
    return new Promise((resolve) => {
      let { beats } = pulse
      // Counted in looks, and not by a clock: where this process was kept from working, what has come isn't read yet.
      let silent = 0
      const look = setInterval(() => {
        silent = pulse.beats === beats ? silent + period : 0
        beats = pulse.beats
        // Before the first case the device is opened.
        const allowed = pulse.what === '' ? Math.max(limit, loadLimit) : pulse.runs === 0 ? first : limit
        if (silent > allowed) settle({ failure: `not done after ${allowed / 1000} s`, tooLong: true })
      }, period)
      const failed = (error: Error): void => settle({ failure: error.message })
      // Not 'exit', after which the pulse may still come.
      const closed = (): void => {
        const { signalCode } = child
        settle({ failure: `ended the process that checks claims${signalCode === null ? '' : ` (${signalCode})`}` })
      }
      const settle = (report: Report): void => {
        clearInterval(look)
        child.off('message', settle).off('error', failed).off('close', closed)
        resolve(report)
      }
      child.on('message', settle).on('error', failed).on('close', closed)
      if (child.exitCode !== null || child.signalCode !== null) closed()
    })
  }
}

// --- Words ----------------------------------------------------------------------------------------------------------------------------

const short = (x: number): string => (x === 0 ? '0' : Number.isFinite(x) ? x.toExponential(1) : String(x))

function claimLine({ name, holds }: ClaimText, verdicts: readonly Verdict[]): string {
  const [first] = verdicts
  if (first.status === 'not offered') return `not offered  ${name.padEnd(52)}  ${first.message}`
  const checked = verdicts.filter(({ status }) => status !== 'skipped')
  const bad = checked.find(({ ok }) => !ok)
  const word = bad ? bad.status.toUpperCase() : checked.length === 0 ? 'skipped' : holds === false ? 'refuted' : 'ok'
  const measured = checked
    .filter(({ status }) => ['holds', 'refuted', 'fails'].includes(status))
    .map(
      ({ device, error, bound }) =>
        `${device === 'implementation' ? 'error' : device} ${short(error)}${holds === false ? '' : ` / ${short(bound)}`}`,
    )
  // Of a refutation the cases up to the first counterexample, without those that made it small.
  const by = checked.flatMap(({ refutedBy }) => refutedBy ?? [])
  const runs = Math.max(0, ...checked.map(({ runs }) => runs))
  const seconds = verdicts.reduce((total, { milliseconds }) => total + milliseconds, 0) / 1000
  return [
    word.padEnd(first.device === 'implementation' ? 11 : 8),
    name.padEnd(52),
    (word === 'refuted' && by.length > 0 ? counted(Math.max(...by), 'case') : `${runs} runs`).padStart(9),
    ...measured.map((text) => text.padEnd(28)),
    `${seconds.toFixed(1)} s`,
    ...(first.lacks ? [`without ${first.lacks.join(', ')}`] : []),
  ]
    .join('  ')
    .trimEnd()
}

/** What went wrong, the smallest case that shows it, and how to see it again. */
function complaint(verdict: Verdict, options: VerifyOptions, briefly: boolean): string[] {
  const { device, message, counterexample } = verdict
  const what = `  ${device}: ${oneLine(message ?? '')}`
  if (briefly) return [what]
  const { lines = [], file } = counterexample ?? {}
  return [
    what,
    ...lines.map((text) => `    ${text}`),
    ...(file === undefined ? [] : [`  in numbers: ${file}`]),
    `  again: ${command(verdict, options)}`,
  ]
}

/** What shows a verdict again. */
function command(
  { claim, device, counterexample }: Verdict,
  { operands, seed, path: replayed, runs, threads, relaxed, simd, precision, implementation, tolerance, given }: VerifyOptions,
): string {
  const words = [...operands.filter(isFile), claim].map(quoted)
  const path = counterexample?.path ?? replayed
  const place = ` --seed ${seed}${path === undefined ? ` --runs ${runs}` : ` --path ${path}`}`
  const onWasm = (text: string): string => (device === 'wasm' ? text : '')
  const settings = onWasm(
    `${given.has('threads') ? ` --threads ${threads}` : ''}${given.has('relaxed') && !relaxed ? ' --no-relaxed' : ''}${given.has('simd') ? ` --simd ${simd}` : ''}`,
  )
  const on =
    implementation === undefined
      ? `--device ${device}${precision === 'f16' ? ' --precision f16' : ''}${settings}`
      : `--implementation ${quoted(implementation)}${tolerance === undefined ? '' : ` --tolerance ${tolerance}`}`
  return `fastweights verify ${words.join(' ')} ${on}${place}`
}

/** What an implementation offers, and what isn't asked of it. */
function introduction({ name, dtype, tolerance, rules }: NonNullable<Loaded['implementation']>, unasked: readonly ClaimText[]): string {
  const why = [...new Set(unasked.map(({ unasked }) => unasked!))]
  const left = why.map((reason) => `${unasked.filter((claim) => claim.unasked === reason).length} ${reason}`)
  const rest = left.length === 0 ? '' : `\nnot asked: ${left.join('; ')}`
  return `${name}: ${rules.join(', ')}; ${dtype}, bound ${short(tolerance)}${rest}\n`
}

function summary({ claims, devices, milliseconds, runs, problems }: Verification): string {
  const verdicts = claims.flatMap(({ verdicts }) => verdicts)
  const lacking = claims.filter((claim) => claim.verdicts.every(({ status }) => status === 'skipped')).length
  const silent = claims.filter((claim) => claim.verdicts.every(({ status }) => status === 'not offered')).length
  const bad = claims.filter((claim) => claim.verdicts.some(({ ok }) => !ok)).length
  const refuted = claims.filter((claim) => claim.holds === false && claim.verdicts.every(({ ok }) => ok)).length
  const counts = [
    `${claims.length - bad - refuted - lacking - silent} hold`,
    ...(silent > 0 ? [`${silent} not offered`] : []),
    ...(refuted > 0 ? [`${counted(refuted, 'false one')} refuted`] : []),
    ...(lacking > 0 ? [`${lacking} skipped (they compare with a device that isn't there)`] : []),
    ...(bad > 0 ? [`${bad} FAILED`] : []),
    ...(problems.length > 0 ? [`${counted(problems.length, 'file')} could not be used`] : []),
  ]
  const worst = devices.map((device) => {
    const errors = verdicts.filter((v) => v.device === device && v.status === 'holds').map(({ error }) => error)
    return `${device === 'implementation' ? '' : `${device} `}${short(Math.max(0, ...errors))}`
  })
  const size = `${counted(claims.length, 'claim')}, ${counted(runs, 'case')}${claims.length === 1 ? '' : ' each'}`
  return `\n${size}: ${counts.join(', ')}; largest error ${worst.join(', ')}; ${duration(milliseconds)}`
}
