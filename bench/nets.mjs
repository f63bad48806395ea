/** Every recurrent net, its program run by one kernel, beside the delta rule token by token at the same sizes. */
import { gpuEnvironment } from '../test/gpu-environment.mjs'
import { start } from './child.mjs'
import { digits, printTable, progress, UsageError } from './report.mjs'
import { summary } from './timing.mjs'

const parts = ['both', 'forward']
const measure = 'delta rule, recurrent'

export async function run({
  sizes: [T, ...more] = [128],
  rounds = 5,
  seconds = 0.5,
  threads = 1,
  device = 'wasm',
  batch: B = 2,
  heads: H = 4,
  width: D = 32,
  only = '',
}) {
  if (more.length > 0) throw new UsageError(`--sizes: nets takes one length, not ${more.length + 1}`)
  const child = start('./nets-child.mjs', {
    relaxed: device !== 'reference',
    env: device === 'webgpu' ? await gpuEnvironment() : process.env,
  })
  try {
    const { description, names } = await child.call('open', { device, threads, B, T, H, D })
    const chosen = names.filter((name) => name.includes(only))
    if (chosen.length === 0) throw new UsageError(`--only: no net's name contains '${only}' (there are ${names.join(', ')})`)
    const running = []
    for (const name of [measure, ...chosen]) {
      progress(`warm-up, ${name}`)
      await child.call('prepare', { name, rule: name === measure, target: seconds / 2 / rounds })
      running.push({ name, both: [], forward: [] })
    }
    for (let round = 0; round < rounds; round++)
      for (const row of running)
        for (const part of parts) {
          // One that takes so long is sampled once.
          if (row[part].length > 0 && row[part][0] > seconds) continue
          progress(`round ${round + 1}/${rounds}, ${row.name}`)
          row[part].push(await child.call('sample', { name: row.name, part }))
        }
    progress('')
    const results = running.map(({ name, both, forward }) => ({ name, both: summary(both), forward: summary(forward) }))
    console.log(`\n${description}; B ${B}, T ${T}, H ${H}, heads ${D} wide; medians of up to ${rounds} interleaved rounds\n`)
    const token = ({ median }) => digits((1e6 * median) / (B * T))
    const ratio = (part, row) => digits(row[part].median / results[0][part].median)
    printTable(
      ['net', 'forward, µs a token', 'of the rule', 'and backward', 'of the rule'],
      results.map((row) => [row.name, token(row.forward), ratio('forward', row), token(row.both), ratio('both', row)]),
    )
    return { device: description, sizes: { B, T, H, D }, threads, rounds, seconds, results }
  } finally {
    child.stop()
  }
}
