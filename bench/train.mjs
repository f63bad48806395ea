/** One training step (forward, backward, clip, Adam) of fast weights transformers: seconds, tokens/s, memory. A process for each row, one after the other. */
import { start } from './child.mjs'
import { digits, printTable, progress, UsageError } from './report.mjs'
import { summary, warmUp } from './timing.mjs'

const batch = 16
const length = 128
const symbols = 65
const settings = [
  { name: 'small', d: 128, heads: 4, layers: 4, dff: 512 },
  { name: 'labml', d: 512, heads: 8, layers: 6, dff: 2048 },
].map((setting) => ({ ...setting, nu: 1, symbols, batch, length }))
const wasmBuilds = [1, 2].flatMap((threads) =>
  [false, true].map((relaxed) => ({
    threads,
    relaxed,
    label: `${relaxed ? 'relaxed' : 'plain'}, ${threads} thread${threads > 1 ? 's' : ''}`,
  })),
)

/** The measured limit of one core at the width of vectors in use, GFLOP/s: the fastest of a few samples, since a limit is what nothing exceeds. */
async function limit(relaxed, wide) {
  const child = start('./contender.mjs', { relaxed, wide })
  try {
    await child.call('open', { module: 'limit', options: { relaxed, wide } })
    await child.call('prepare', 0)
    const samples = []
    for (let i = 0; i < 9; i++) samples.push(await child.call('sample'))
    return Math.max(...samples)
  } finally {
    child.stop()
  }
}

/** Those whose names contain this text. */
export function chooseSettings(only) {
  const chosen = settings.filter(({ name }) => name.includes(only))
  if (!chosen.length)
    throw new UsageError(`--only: no training setting's name contains '${only}' (there are ${settings.map(({ name }) => name).join(', ')})`)
  return chosen
}

export async function run({ rounds = 5, only = '', device = 'wasm', instructions = false }) {
  const builds = device === 'wasm' ? wasmBuilds : [{ label: device }]
  const results = []
  for (const setting of chooseSettings(only)) {
    for (const { threads, relaxed, label: build } of builds) {
      const label = `${setting.name}, ${build}`
      progress(label)
      const child = start('./train-child.mjs', { relaxed })
      try {
        const { parameters, description, wide } = await child.call('open', { setting, device, threads, relaxed })
        // Of a core: it says nothing about a GPU.
        const peak = device === 'wasm' ? threads * (await limit(relaxed, wide)) : null
        // The first step compiles, grows the memory and makes the optimiser's state; the second finds everything in place.
        await warmUp(() => child.call('step'))
        const seconds = []
        const begin = await child.call('processor')
        for (let i = 0; i < rounds; i++) seconds.push(await child.call('step'))
        const processor = ((await child.call('processor')) - begin) / rounds
        const tokens = setting.batch * setting.length
        const time = summary(seconds)
        const gflops = (6 * parameters * tokens) / time.median / 1e9
        results.push({
          label,
          device: description,
          setting,
          threads,
          relaxed,
          wide,
          parameters,
          seconds: time,
          samples: seconds,
          processor,
          gflops,
          limit: peak,
          memory: await child.call('memory'),
          ...(instructions && { instructions: await child.count('step') }),
        })
      } catch (error) {
        throw new Error(`${label}: ${error.message}`)
      } finally {
        child.stop()
      }
    }
  }
  progress('')
  console.log(`\n${[...new Set(results.map((r) => r.device))].join('; ')}`)
  const mb = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`
  console.log(
    `\none training step, batch ${batch} x ${length} tokens: median (min-max) of ${rounds} steps; GFLOP/s = 6 x parameters x tokens / time\n`,
  )
  printTable(
    [
      'setting',
      'parameters',
      'seconds',
      'processor',
      'tokens/s',
      'GFLOP/s',
      'of limit (bits)',
      'in use',
      'reserved',
      'process',
      ...(instructions ? ['G instructions'] : []),
    ],
    results.map((r) => [
      r.label,
      `${(r.parameters / 1e6).toFixed(2)} M`,
      `${digits(r.seconds.median)} (${digits(r.seconds.min)}-${digits(r.seconds.max)})`,
      digits(r.processor),
      digits((batch * length) / r.seconds.median),
      digits(r.gflops),
      r.limit === null ? '-' : `${((100 * r.gflops) / r.limit).toFixed(0)}% (${r.wide ? 256 : 128})`,
      mb(r.memory.inUse),
      mb(r.memory.reserved),
      mb(r.memory.process),
      ...(instructions ? [digits(r.instructions / 1e9)] : []),
    ]),
  )
  console.log(
    '\nof limit: of what that many cores do in multiply-adds on registers, with vectors of the width in use\nprocessor: seconds of processor time a step, of all threads; in use: most bytes in tensors within a step; reserved: taken from the system by the device; process: largest resident size',
  )
  return { rounds, results }
}
