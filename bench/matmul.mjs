/** float32 matmul, n x n x n, against the peers, in interleaved rounds (A B C, A B C, ...). */
import { hasRelaxed, start } from './child.mjs'
import { digits, printTable } from './report.mjs'
import { summary } from './timing.mjs'

const ours = (threads, relaxed) => ({
  label: `fastweights ${relaxed ? 'relaxed' : 'plain'}, ${threads} thread${threads > 1 ? 's' : ''}`, module: 'fastweights', ours: true, threads, relaxed,
})
const contenders = [
  ours(1, false),
  ours(1, true),
  ours(2, false),
  ours(2, true),
  { label: 'tfjs-backend-wasm, 1 thread', module: 'tfjs', threads: 1, relaxed: false },
  // Where relaxed SIMD is always on there is no plain jax-js.
  ...(hasRelaxed() ? [] : [{ label: 'jax-js, 1 thread', module: 'jax', threads: 1, relaxed: false }]),
  { label: 'jax-js relaxed, 1 thread', module: 'jax', threads: 1, relaxed: true },
  { label: 'onnxruntime-web, 1 thread', module: 'onnx', threads: 1, relaxed: false },
  { label: 'onnxruntime-web, 2 threads', module: 'onnx', threads: 2, relaxed: false },
  { label: '128-bit limit, mul + add', module: 'limit', limit: true, threads: 1, relaxed: false },
  { label: '128-bit limit, relaxed madd', module: 'limit', limit: true, threads: 1, relaxed: true },
]

export async function run({ sizes = [64, 128, 256, 512, 1024], rounds = 9 }) {
  const entries = []
  try {
    for (const contender of contenders) {
      const { label, module, threads, relaxed } = contender
      const child = start('./contender.mjs', { relaxed })
      const entry = { ...contender, child, results: {} }
      entries.push(entry)
      try {
        entry.version = (await child.call('open', { module, options: { threads, relaxed } })).version
      } catch (error) {
        throw new Error(`${label}: ${error.message}`)
      }
    }
    for (const n of sizes) {
      const samples = entries.map(() => [])
      for (const entry of entries) {
        try {
          entry.repeats = (await entry.child.call('prepare', n)).repeats
        } catch (error) {
          throw new Error(`${entry.label}, n = ${n}: ${error.message}`)
        }
      }
      for (let round = 0; round < rounds; round++) {
        for (const [i, entry] of entries.entries()) samples[i].push(await entry.child.call('sample'))
        process.stderr.write(`\rmatmul ${n}: round ${round + 1} of ${rounds} `)
      }
      for (const [i, entry] of entries.entries()) entry.results[n] = { ...summary(samples[i]), samples: samples[i], repeats: entry.repeats }
    }
    process.stderr.write('\r\x1b[K')
  } finally {
    for (const entry of entries) entry.child.stop()
  }
  return report(entries, sizes, rounds)
}

function report(entries, sizes, rounds) {
  const median = (entry, n) => entry.results[n].median
  const find = (test) => entries.find(test)
  const mine = (threads, relaxed) => find((e) => e.ours && e.threads === threads && e.relaxed === relaxed)
  const limit = (relaxed) => find((e) => e.limit && e.relaxed === relaxed)
  const best = (n, test) => entries.filter((e) => !e.ours && !e.limit && test(e)).reduce((x, y) => (median(y, n) > median(x, n) ? y : x))

  console.log(`\nmatmul, float32, n x n x n: GFLOP/s, median (min-max) of ${rounds} interleaved rounds\n`)
  printTable(['n', ...sizes], entries.map((e) => [e.label, ...sizes.map((n) => {
    const { median, min, max } = e.results[n]
    return `${digits(median)} (${digits(min)}-${digits(max)})`
  })]))

  const ratios = []
  const ratio = (label, value) => ratios.push({ label, values: Object.fromEntries(sizes.map((n) => [n, value(n)])) })
  const times = (x) => `${x.toFixed(2)}x`
  const single = (relaxed) => (e) => e.threads === 1 && (relaxed || !e.relaxed)
  for (const relaxed of [false, true]) {
    const name = relaxed ? 'relaxed' : 'plain'
    const peers = relaxed || hasRelaxed() ? 'any peer' : 'peer without flags'
    ratio(`${name}, 1 thread / best ${peers}, 1 thread`, (n) => {
      const peer = best(n, single(relaxed || hasRelaxed()))
      return `${times(median(mine(1, relaxed), n) / median(peer, n))} ${peer.module}`
    })
  }
  for (const relaxed of [false, true]) {
    const name = relaxed ? 'relaxed' : 'plain'
    ratio(`${name}, 2 threads / best peer, 2 threads`, (n) => {
      const peer = best(n, (e) => e.threads === 2)
      return `${times(median(mine(2, relaxed), n) / median(peer, n))} ${peer.module}`
    })
    ratio(`${name}, 2 threads / 1 thread`, (n) => times(median(mine(2, relaxed), n) / median(mine(1, relaxed), n)))
  }
  for (const relaxed of [false, true]) {
    ratio(`${relaxed ? 'relaxed' : 'plain'}, 1 thread / its 128-bit limit`, (n) => `${((100 * median(mine(1, relaxed), n)) / median(limit(relaxed), n)).toFixed(0)}%`)
  }
  console.log()
  printTable(['fastweights', ...sizes], ratios.map(({ label, values }) => [label, ...sizes.map((n) => values[n])]))
  console.log(`\npeers: ${[...new Map(entries.filter((e) => !e.ours && !e.limit).map((e) => [e.module, `${e.module} ${e.version}`])).values()].join(', ')}`)
  return {
    rounds,
    sizes,
    contenders: entries.map(({ label, version, threads, relaxed, results }) => ({ label, version, threads, relaxed, gflops: results })),
    ratios,
  }
}
