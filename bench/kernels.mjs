/** The hot kernels one by one: wasm on one and two threads beside the plain reference, in interleaved rounds. */
import { start } from './child.mjs'
import { cases } from './kernel-cases.mjs'
import { digits, printTable, progress, UsageError } from './report.mjs'
import { summary } from './timing.mjs'

const devices = [
  { label: 'reference', B: 1, options: { reference: true } },
  { label: '1 thread', B: 16, options: { threads: 1, relaxed: true } },
  { label: '2 threads', B: 16, options: { threads: 2, relaxed: true } },
]

export async function run({ rounds = 5, only = '' }) {
  const names = Object.keys(cases).filter((name) => name.includes(only))
  if (!names.length) throw new UsageError(`--only: no kernel's name contains '${only}' (there are ${Object.keys(cases).join('; ')})`)
  const results = []
  const children = devices.map(({ options }) => start('./kernels-child.mjs', { relaxed: options.relaxed }))
  try {
    for (const [i, child] of children.entries()) await child.call('open', devices[i].options)
    for (const name of names) {
      progress(name)
      const facts = []
      try {
        for (const [i, child] of children.entries()) facts.push(await child.call('prepare', { name, B: devices[i].B }))
        const seconds = devices.map(() => [])
        for (let round = 0; round < rounds; round++) {
          for (const [i, child] of children.entries())
            if (!devices[i].options.reference || round === 0) seconds[i].push(await child.call('sample'))
        }
        results.push({
          name,
          shape: facts[1].shape,
          devices: devices.map(({ label }, i) => ({ label, ...facts[i], seconds: summary(seconds[i]) })),
        })
      } catch (error) {
        throw new Error(`${name}: ${error.message}`)
      }
    }
    progress('')
  } finally {
    for (const child of children) child.stop()
  }

  const rate = (d) => (d.flops ? d.flops / d.seconds.median / 1e9 : (d.seconds.median / d.elements) * 1e9)
  const speedup = (x, y) => (x.flops ? rate(y) / rate(x) : rate(x) / rate(y))
  const bandwidth = (d) => (4 * d.floats) / d.seconds.median / 1e9
  const table = (title, unit, rows) => {
    if (!rows.length) return
    console.log(
      `\n${title}: ${unit}, median of ${rounds} rounds (reference: one sample, batch 1), wasm relaxed where there is such a thing\n`,
    )
    printTable(
      ['kernel', 'shape', 'reference', '1 thread', '2 threads', '1 / reference', '2 / 1', 'GB/s, 1', 'GB/s, 2'],
      rows.map(({ name, shape, devices: [reference, one, two] }) => [
        name,
        shape,
        digits(rate(reference)),
        digits(rate(one)),
        digits(rate(two)),
        `${digits(speedup(reference, one))}x`,
        `${digits(speedup(one, two))}x`,
        digits(bandwidth(one)),
        digits(bandwidth(two)),
      ]),
    )
  }
  table(
    'Products',
    'GFLOP/s',
    results.filter((r) => r.devices[0].flops),
  )
  table(
    '\nThe others',
    'ns an element',
    results.filter((r) => !r.devices[0].flops),
  )
  return { rounds, results }
}
