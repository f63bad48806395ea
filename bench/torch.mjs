/** One training step of the fast weights transformer beside PyTorch: the same weights, tokens and optimiser; runs in turns. */
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { start } from './child.mjs'
import { digits, printTable, progress, UsageError } from './report.mjs'
import { summary, warmUp } from './timing.mjs'
import { chooseSettings } from './train.mjs'

/** A contender of which a step lasts longer is sampled once, in seconds. */
const patience = 10

const contenders = [
  { label: 'fastweights', ours: true },
  { label: 'torch, chunks', form: 'chunk', compiled: false },
  { label: 'torch, chunks, compiled', form: 'chunk', compiled: true },
  { label: 'torch, loop', form: 'loop', compiled: false },
  { label: 'torch, loop, its step compiled', form: 'loop', compiled: true },
]

/** The process of a program in torch/, asked as ours are. */
export function startPython(python, program) {
  const child = spawn(python, [fileURLToPath(new URL(`./torch/${program}`, import.meta.url))], { stdio: ['pipe', 'pipe', 'pipe'] })
  let log = ''
  child.stderr.on('data', (text) => {
    log = (log + text).slice(-4000)
  })
  let waiting = null
  let ended
  const settle = (error, result) => {
    const asked = waiting
    waiting = null
    if (error) asked?.reject(new Error(error))
    else asked?.resolve(result)
  }
  createInterface({ input: child.stdout }).on('line', (line) => {
    const { result, error } = JSON.parse(line)
    settle(error, result)
  })
  const end = (error) => {
    ended = error
    settle(error)
  }
  child.on('error', (error) => end(error.message))
  child.on('exit', (code, signal) => end(`the process ended (${signal ?? code})${log && `: ${log.trim()}`}`))
  child.stdin.on('error', () => {}) // It has ended, which is told above.
  return {
    call: (name, argument = {}) =>
      new Promise((resolve, reject) => {
        if (ended !== undefined) return reject(new Error(ended))
        waiting = { resolve, reject }
        child.stdin.write(`${JSON.stringify({ name, argument })}\n`)
      }),
    stop: () => child.kill('SIGKILL'),
  }
}

/** The Python to ask: that of `--python`, or of the variable PYTHON. */
export const pythonOf = (python) => python ?? process.env.PYTHON ?? 'python3'

/** Why this Python lacks one of these packages; undefined if it has them. */
export function missing(python, packages) {
  const { status, error, stderr } = spawnSync(python, ['-c', `import ${packages}`], { encoding: 'utf8' })
  return status === 0 ? undefined : (error?.message ?? stderr.trim().split('\n').at(-1))
}

export async function run({ rounds = 5, only = 'small', threads = os.availableParallelism(), python }) {
  const reason = missing(pythonOf(python), 'torch')
  if (reason !== undefined) {
    if (python !== undefined) throw new UsageError(`--python: ${python} has no PyTorch: ${reason}`)
    console.log(`\nPyTorch isn't here, and nothing is measured (${reason}); --python PATH names a Python that has it`)
    return { missing: reason }
  }
  const results = []
  let peer
  for (const setting of chooseSettings(only)) {
    const folder = mkdtempSync(join(os.tmpdir(), 'fastweights-bench-'))
    const weights = join(folder, 'weights')
    const running = []
    try {
      for (const contender of contenders) {
        const label = `${setting.name}: ${contender.label}`
        progress(`${label}: warm-up`)
        const child = contender.ours ? start('./train-child.mjs', { relaxed: true }) : startPython(pythonOf(python), 'peers.py')
        const entry = { ...contender, child, seconds: [], losses: [] }
        running.push(entry)
        const step = async () => {
          const seconds = await child.call('step')
          if (!contender.ours) return seconds
          return { seconds, loss: await child.call('loss') }
        }
        try {
          if (contender.ours) {
            entry.about = (await child.call('open', { setting, device: 'wasm', threads, relaxed: true })).description
            await child.call('weights', weights)
          } else {
            const { form, compiled } = contender
            peer = await child.call('open', { setting: { ...setting, lr: 1e-4 }, weights, form, compiled, threads })
          }
          entry.step = step
          // The first step compiles and makes the optimiser's state; the second finds everything in place; the losses of both are compared.
          await warmUp(async (i) => {
            const { seconds, loss } = await step()
            entry.warm = seconds
            if (i < 2) entry.losses.push(loss)
          })
        } catch (error) {
          throw new Error(`${label}: ${error.message}`)
        }
        const [first] = running
        for (const [i, loss] of entry.losses.entries())
          if (!(Math.abs(loss / first.losses[i] - 1) <= 1e-4))
            throw new Error(`${label}: the loss of step ${i + 1} is ${loss}, of ${first.label} ${first.losses[i]}`)
      }
      for (let round = 0; round < rounds; round++)
        for (const entry of running) {
          if (round > 0 && entry.warm > patience) continue
          progress(`${setting.name}: round ${round + 1}/${rounds}, ${entry.label}`)
          entry.seconds.push((await entry.step()).seconds)
          await sleep(50) // Idle workers go on spinning for a while: not in the next one's time.
        }
      for (const { label, seconds, losses, child, about } of running)
        results.push({
          setting,
          label,
          about,
          threads,
          seconds: summary(seconds),
          samples: seconds,
          losses,
          memory: (await child.call('memory')).process,
        })
    } finally {
      for (const { child } of running) child.stop()
      rmSync(folder, { recursive: true, force: true })
    }
  }
  progress('')
  console.log(`\nPyTorch ${peer.version} (${peer.simd}), ${peer.threads} thread${peer.threads > 1 ? 's' : ''}; ${results[0].about}`)
  console.log(
    `\none training step, batch ${results[0].setting.batch} x ${results[0].setting.length} tokens: median (min-max) of up to ${rounds} interleaved steps; to ours: of medians (of the fastest)\n`,
  )
  printTable(
    ['setting', 'seconds', 'to ours', 'process'],
    results.map(({ setting, label, seconds, memory }) => {
      const ours = results.find((r) => r.setting === setting).seconds
      return [
        `${setting.name}, ${label}`,
        `${digits(seconds.median)} (${digits(seconds.min)}-${digits(seconds.max)})`,
        `${digits(seconds.median / ours.median)} (${digits(seconds.min / ours.min)})`,
        `${(memory / 1e6).toFixed(0)} MB`,
      ]
    }),
  )
  return { rounds, torch: peer, results }
}
