/** What a card does (card.mjs); the WGSL kernels beside plain WGSL that does the same, on one adapter, in interleaved rounds; and what they need on paper (roofline.mjs). */
import { gpuEnvironment } from '../test/gpu-environment.mjs'
import { adapterOf, card, cardGroups } from './card.mjs'
import { start } from './child.mjs'
import { digits, printTable, progress, UsageError } from './report.mjs'
import { counts, roofline } from './roofline.mjs'
import { summary } from './timing.mjs'
import { webgpuCases } from './webgpu-cases.mjs'

/** `quick`: the tables of a card alone, smaller; on an adapter that is a program, which has none otherwise, at sizes for that. */
export async function run({ rounds = 5, only = '', python, quick = false, roofline: onPaper = false, counts: counted = false }) {
  const modes = Object.entries({ quick, counts: counted, roofline: onPaper }).filter(([, given]) => given)
  if (modes.length > 1) throw new UsageError(`${modes.map(([name]) => `--${name}`).join(', ')}: each of them stands alone`)
  if (counted) return { counts: await counts() }
  if (onPaper) return { roofline: roofline() }
  const env = await gpuEnvironment()
  const { description, software } = await adapterOf(env)
  console.log(`\n${description}`)
  const ofCard = !software || quick
  if (!ofCard)
    console.log(
      "This adapter is a program on the CPU: products, recurrences, training steps and text are for a card to measure (FASTWEIGHTS_GPU=system takes the machine's own); --quick runs them here at small sizes, beside the PyTorch of --python.",
    )
  const measured = ofCard && (await card({ env, rounds, only, python, quick, software }))
  const chosen = quick ? [] : webgpuCases.map((row, index) => ({ ...row, index })).filter(({ name }) => name.includes(only))
  if (!measured && !chosen.length)
    throw new UsageError(
      `--only: nothing that is measured here has '${only}' in its name (${[...new Set([...(ofCard ? cardGroups : []), ...(quick ? [] : webgpuCases.map(({ name }) => name))])].join('; ')})`,
    )
  const plain = chosen.length ? await besidePlain(chosen, rounds, env) : undefined
  return {
    adapter: { description, software },
    card: measured || undefined,
    ...plain,
    rounds,
    roofline: only || quick ? undefined : roofline(),
  }
}

async function besidePlain(chosen, rounds, env) {
  const results = []
  const child = start('./webgpu-child.mjs', { env })
  let adapter
  try {
    adapter = await child.call('open')
    for (const { name, index } of chosen) {
      progress(name)
      try {
        const facts = await child.call('prepare', { index })
        const seconds = { plain: [], ours: [] }
        for (let round = 0; round < rounds; round++)
          for (const contender in seconds) seconds[contender].push(await child.call('sample', contender))
        results.push({ name, ...facts, plain: summary(seconds.plain), ours: summary(seconds.ours) })
      } catch (error) {
        throw new Error(`${name}: ${error.message}`)
      }
    }
    progress('')
  } finally {
    child.stop()
  }
  const work = ({ flops, elements }, { median }) =>
    flops ? `${digits(flops / median / 1e9)} GFLOP/s` : `${digits((median / elements) * 1e9)} ns/element`
  console.log(`\n${adapter.description}: medians of ${rounds} interleaved rounds; ratio: time of the plain kernel to that of ours\n`)
  printTable(
    ['kernel', 'shape', 'plain, ms', 'ours, ms', 'plain', 'ours', 'ratio', 'of the fastest'],
    results.map((r) => [
      r.name,
      r.shape,
      digits(r.plain.median * 1000),
      digits(r.ours.median * 1000),
      work(r, r.plain),
      work(r, r.ours),
      digits(r.plain.median / r.ours.median),
      digits(r.plain.min / r.ours.min),
    ]),
  )
  if (adapter.software)
    console.log(
      '\nThis adapter is a program on the CPU: its caches make up for what a plain kernel reads again and again, it runs few threads, and a barrier costs it much. The ratios say that the kernels do their work, not what a GPU gains. No GPU has been measured.',
    )
  return { results }
}
