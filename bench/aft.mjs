/** The attention free transformer over the length of the sequence: AFT-local and the forms that it lies between, beside what takes all pairs. */
import { start } from './child.mjs'
import { digits, printTable, progress } from './report.mjs'
import { summary } from './timing.mjs'

const parts = ['both', 'forward']
const contenders = ['simple', 'local', 'conv', 'full', 'products']
/** Whose time and memory grow like the square of T. */
const quadratic = new Set(['full', 'products'])

export async function run({
  sizes: lengths = [256, 512, 1024, 2048, 4096, 8192, 16384],
  rounds = 5,
  seconds = 0.5,
  threads = 1,
  device = 'wasm',
  batch: B = 1,
  width: D = 128,
  window: s = 32,
}) {
  const sizes = [...new Set(lengths)].sort((a, b) => a - b)
  const results = contenders.map((name) => ({ name, cells: [] }))
  const notes = []
  let description
  for (const T of sizes) {
    const child = start('./aft-child.mjs', { relaxed: device !== 'reference' })
    try {
      description = (await child.call('open', { device, threads, relaxed: true, B, D, s, T })).description
      const running = []
      for (const result of results) {
        const last = result.cells.at(-1)
        const growth = quadratic.has(result.name) ? 2 : 1
        const expected = last ? last.both.median * (T / last.T) ** growth : 0
        if (result.stopped || expected > 10 * seconds) {
          if (!result.stopped) notes.push(`${result.name} stops before T = ${T}: one run would take about ${digits(expected)} s`)
          result.stopped = true
          continue
        }
        progress(`T = ${T}: warm-up, ${result.name}`)
        const plan = await child.call('prepare', { name: result.name, target: seconds / 2 / (rounds + 2) })
        running.push({ result, plan, samples: { both: [], forward: [] } })
      }
      for (let round = 0; round < rounds; round++)
        for (const { result, plan, samples } of running)
          for (const part of parts) {
            if (round >= Math.max(1, Math.floor(seconds / 2 / (plan[part].seconds * plan[part].repeats)))) continue
            progress(`T = ${T}: round ${round + 1}/${rounds}, ${result.name}`)
            samples[part].push(await child.call('sample', { name: result.name, part }))
          }
      for (const { result, plan, samples } of running)
        result.cells.push({ T, memory: plan.memory, ...Object.fromEntries(parts.map((part) => [part, summary(samples[part])])) })
    } finally {
      child.stop()
    }
    progress('')
  }
  console.log(`\n${description}; B ${B}, D ${D}, s ${s}; medians of up to ${rounds} interleaved rounds`)
  const print = (title, cell) => {
    console.log(`\n${title}\n`)
    printTable(
      ['form', ...sizes.map((T) => `T ${T}`)],
      results.map(({ name, cells }) => [
        name,
        ...sizes.map((T) => {
          const found = cells.find((c) => c.T === T)
          return found ? cell(found) : '-'
        }),
      ]),
    )
  }
  print('forward and backward, ms', ({ both }) => digits(1000 * both.median))
  print('forward alone, ms', ({ forward }) => digits(1000 * forward.median))
  print('forward and backward, microseconds a token', ({ both, T }) => digits((1e6 * both.median) / T))
  print('memory of forward and backward at most, MB', ({ memory }) => digits(memory / 1e6))
  if (notes.length) console.log(`\n${notes.join('\n')}`)
  return { device: description, sizes: { B, D, s, T: sizes }, threads, rounds, seconds, notes, results }
}
