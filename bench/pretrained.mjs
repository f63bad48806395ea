/** A model of another package in 16 bits: the memory that it takes to open, a prompt and what comes after it, beside transformers; runs in turns. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { start } from './child.mjs'
import { digits, printTable, progress, UsageError } from './report.mjs'
import { summary } from './timing.mjs'
import { missing, pythonOf, startPython } from './torch.mjs'

const promptLength = 512
const length = 64
/** A contender whose prompt lasts longer is sampled once, in seconds. */
const patience = 20
/** Tokens that must be those of our first row, from weights as they are and sums in float32. */
const equalTokens = 4

const contenders = [
  { label: 'fastweights', ours: true, simd: 'auto' },
  { label: 'fastweights, 128 bits', ours: true, simd: '128' },
  { label: 'transformers, float32', dtype: 'float32' },
  { label: 'transformers, bfloat16', dtype: 'bfloat16' },
]

function makeModel(folder) {
  const program = fileURLToPath(new URL('./pretrained-model.mjs', import.meta.url))
  const { status, stderr, stdout } = spawnSync(process.execPath, [program, folder], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`the model could not be made: ${stderr}`)
  const files = readdirSync(folder).filter((name) => name.endsWith('.safetensors'))
  return { ...JSON.parse(stdout), size: files.reduce((n, name) => n + statSync(join(folder, name)).size, 0) }
}

export async function run({ rounds = 3, threads = os.availableParallelism(), python }) {
  const reason = missing(pythonOf(python), 'torch, transformers')
  if (reason !== undefined && python !== undefined) throw new UsageError(`--python: ${python} has no transformers: ${reason}`)
  if (reason !== undefined)
    console.log(`\ntransformers isn't here, and ours alone is measured (${reason}); --python PATH names a Python that has it`)
  const folder = mkdtempSync(join(os.tmpdir(), 'fastweights-bench-'))
  const running = []
  try {
    progress('makes the model')
    const { parameters, symbols, size } = makeModel(folder)
    const prompt = Array.from({ length: promptLength }, (_, i) => (i * 7919) % symbols)
    for (const contender of contenders) {
      if (reason !== undefined && !contender.ours) continue
      const { label, ours, simd, dtype } = contender
      // --simd 128 asks for one of ours.
      if (simd === 'auto' && process.env.BENCH_SIMD === '128') continue
      progress(`${label}: warm-up`)
      const child = ours
        ? start('./pretrained-child.mjs', { relaxed: true, env: { ...process.env, BENCH_SIMD: simd } })
        : startPython(pythonOf(python), 'pretrained.py')
      const entry = { ...contender, child, samples: [] }
      running.push(entry)
      try {
        entry.opened = await child.call('open', { folder, threads, ...(dtype && { dtype }) })
        entry.warm = await child.call('continue', { prompt, length: equalTokens })
        entry.first = await child.call('memory')
      } catch (error) {
        throw new Error(`${label}: ${error.message}`)
      }
      const [{ warm, label: first }] = running
      if (dtype !== 'bfloat16' && entry.warm.tokens.join() !== warm.tokens.join())
        throw new Error(`${label}: the tokens ${entry.warm.tokens} are made, of ${first} ${warm.tokens}`)
    }
    for (let round = 0; round < rounds; round++)
      for (const entry of running) {
        if (round > 0 && entry.warm.prompt > patience) continue
        progress(`round ${round + 1}/${rounds}, ${entry.label}`)
        entry.samples.push(await entry.child.call('continue', { prompt, length }))
        await sleep(50)
      }
    const results = []
    for (const { label, child, opened, first, samples } of running)
      results.push({
        label,
        ...opened,
        first: first.process,
        memory: (await child.call('memory')).process,
        prompt: summary(samples.map((sample) => sample.prompt)),
        decode: summary(samples.flatMap((sample) => sample.decode)),
        work: {
          prompt: summary(samples.map((sample) => sample.work.prompt)),
          decode: summary(samples.map((sample) => sample.work.decode)),
        },
        samples,
      })
    progress('')
    console.log(
      `\na Qwen3.5 of ${(parameters / 1e6).toFixed(0)} million parameters in bfloat16, ${(size / 1e6).toFixed(0)} MB in three files; ${threads} thread${threads > 1 ? 's' : ''}; ${[...new Set(results.map(({ about }) => about))].join('; ')}`,
    )
    console.log(
      `\na prompt of ${promptLength} tokens in seconds, and each of ${length} tokens after it in milliseconds: median (least) of up to ${rounds} interleaved rounds; "processor" counts the time of all threads, that of waiting threads included\n`,
    )
    const both = ({ median, min }, scale = 1) => `${digits(scale * median)} (${digits(scale * min)})`
    printTable(
      ['', 'prompt', 'processor', 'token', 'processor'],
      results.map(({ label, prompt, decode, work }) => [
        label,
        both(prompt),
        both(work.prompt),
        both(decode, 1000),
        both(work.decode, 1000),
      ]),
    )
    console.log(
      '\nthe most memory of the process, in MB: before the model is opened, after it, after its first tokens; what opening adds, in sizes of the files\n',
    )
    const mb = (bytes) => (bytes / 1e6).toFixed(0)
    printTable(
      ['', 'before', 'opened', 'first tokens', 'added'],
      results.map((r) => [r.label, mb(r.before), mb(r.opened), mb(r.first), ((r.opened - r.before) / size).toFixed(2)]),
    )
    return { rounds, threads, parameters, size, results }
  } finally {
    for (const { child } of running) child.stop()
    rmSync(folder, { recursive: true, force: true })
  }
}
