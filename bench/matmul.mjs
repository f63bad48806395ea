/** float32 matmul, n x n x n, against the peers, in interleaved rounds (A B C, A B C, ...). */
import { setTimeout as sleep } from 'node:timers/promises'
import { enableWideSimd } from '../dist/engine/devices/wasm/index.js'
import { hasRelaxed, start } from './child.mjs'
import { digits, printTable, progress, version } from './report.mjs'
import { summary } from './timing.mjs'

const ours = (threads, relaxed, wide = false) => ({
  label: `fastweights ${relaxed ? 'relaxed' : 'plain'}${wide ? ' 256 bits' : ''}, ${threads} thread${threads > 1 ? 's' : ''}`,
  module: 'fastweights',
  ours: true,
  threads,
  relaxed,
  wide,
})
/** The packages of the peers. */
export const packages = { tfjs: '@tensorflow/tfjs-backend-wasm', jax: '@jax-js/jax', onnx: 'onnxruntime-web' }
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
  { label: '128-bit limit, mul + add', module: 'limit', limit: true, threads: 1, relaxed: false, wide: false },
  { label: '128-bit limit, relaxed madd', module: 'limit', limit: true, threads: 1, relaxed: true, wide: false },
]
/** Where V8 merges vectors. */
const wideContenders = [
  ours(1, true, true),
  ours(2, true, true),
  { label: '256-bit limit, relaxed madd', module: 'limit', limit: true, threads: 1, relaxed: true, wide: true },
]

export async function run({ sizes = [64, 128, 256, 512, 1024], rounds = 15 }) {
  const entries = []
  const { wide: widens } = await enableWideSimd()
  try {
    for (const contender of widens ? [...contenders, ...wideContenders] : contenders) {
      const { label, module, threads, relaxed, wide = false } = contender
      const child = start('./contender.mjs', { relaxed, wide: wide && module === 'limit' })
      const entry = { ...contender, child, results: {} }
      entries.push(entry)
      try {
        const opened = await child.call('open', { module, options: { threads, relaxed, wide } })
        entry.version = module in packages ? version(packages[module]) : opened.version
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
        for (const [i, entry] of entries.entries()) {
          samples[i].push(await entry.child.call('sample'))
          // Idle workers go on spinning for a while (onnxruntime-web's for 20 ms): not in the next one's time.
          if (entry.threads > 1) await sleep(50)
        }
        progress(`matmul ${n}: round ${round + 1} of ${rounds}`)
      }
      for (const [i, entry] of entries.entries()) entry.results[n] = { ...summary(samples[i]), samples: samples[i], repeats: entry.repeats }
    }
    progress('')
  } finally {
    for (const entry of entries) entry.child.stop()
  }
  return report(entries, sizes, rounds)
}

function report(entries, sizes, rounds) {
  const mine = (threads, relaxed, wide = false) =>
    entries.find((e) => e.ours && e.threads === threads && e.relaxed === relaxed && e.wide === wide)
  const limit = (relaxed, wide = false) => entries.find((e) => e.limit && e.relaxed === relaxed && e.wide === wide)
  const peers = (test) => entries.filter((e) => !e.ours && !e.limit && test(e))

  console.log(`\nmatmul, float32, n x n x n: GFLOP/s, median (min-max) of ${rounds} interleaved rounds\n`)
  printTable(
    ['n', ...sizes],
    entries.map((e) => [
      e.label,
      ...sizes.map((n) => {
        const { median, min, max } = e.results[n]
        return `${digits(median)} (${digits(min)}-${digits(max)})`
      }),
    ]),
  )

  /** x over the best of `others`: by medians, and by the fastest samples, which a busy machine disturbs less. */
  const ratio = (label, x, others) => ({
    label,
    values: sizes.map((n) => {
      const by = (statistic) => {
        const best = others.reduce((a, b) => (b.results[n][statistic] > a.results[n][statistic] ? b : a))
        return { ratio: x.results[n][statistic] / best.results[n][statistic], to: best.label, name: others.length > 1 ? best.module : '' }
      }
      return { n, median: by('median'), fastest: by('max') }
    }),
  })
  const name = (relaxed) => (relaxed ? 'relaxed' : 'plain')
  const both = [false, true]
  // Where relaxed SIMD is always on, peers use it without being asked, and the plain build meets them too.
  const plain = (e) => hasRelaxed() || !e.relaxed
  const ratios = [
    ratio(
      'plain, 1 thread / best peer without flags',
      mine(1, false),
      peers((e) => e.threads === 1 && plain(e)),
    ),
    ratio(
      'relaxed, 1 thread / best of all peers',
      mine(1, true),
      peers((e) => e.threads === 1),
    ),
    ...both.map((relaxed) =>
      ratio(
        `${name(relaxed)}, 2 threads / onnxruntime-web, 2`,
        mine(2, relaxed),
        peers((e) => e.threads === 2),
      ),
    ),
    ...both.map((relaxed) => ratio(`${name(relaxed)}, 2 threads / 1 thread`, mine(2, relaxed), [mine(1, relaxed)])),
    ...both.map((relaxed) => ratio(`${name(relaxed)}, 1 thread / its 128-bit limit`, mine(1, relaxed), [limit(relaxed)])),
    ...(limit(true, true)
      ? [
          ratio('256 bits, 1 thread / 128 bits', mine(1, true, true), [mine(1, true)]),
          ratio(
            '256 bits, 1 thread / best of all peers',
            mine(1, true, true),
            peers((e) => e.threads === 1),
          ),
          ratio('256 bits, 2 threads / 1 thread', mine(2, true, true), [mine(1, true, true)]),
          ratio('256 bits, 1 thread / its 256-bit limit', mine(1, true, true), [limit(true, true)]),
        ]
      : []),
  ]
  console.log('\nfastweights: ratio of medians (of the fastest samples), and to whom\n')
  const cell = ({ median, fastest }) => {
    const names = median.name === fastest.name ? median.name : `${median.name} (${fastest.name})`
    return `${median.ratio.toFixed(2)}x (${fastest.ratio.toFixed(2)}x) ${names}`.trim()
  }
  printTable(
    ['n', ...sizes],
    ratios.map(({ label, values }) => [label, ...values.map(cell)]),
  )
  console.log(`\npeers: ${[...new Set(peers(() => true).map((e) => `${e.module} ${e.version}`))].join(', ')}`)
  return {
    rounds,
    sizes,
    contenders: entries.map(({ label, version, threads, relaxed, wide = false, results }) => ({
      label,
      version,
      threads,
      relaxed,
      wide,
      gflops: results,
    })),
    ratios,
  }
}
