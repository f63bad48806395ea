/** Whether time and memory stay the same however long sequences are: each rule's linear forms at one number of tokens a step, cut into fewer and longer sequences. */
import { rules } from '../dist/engine/index.js'
import { digits, printTable, progress, UsageError } from './report.mjs'
import { bytesOf, measure, timeAt } from './rules.mjs'
import { scaleChart } from './scale-chart.mjs'

/** Their time grows like T; the parallel form's like its square. */
const linear = ['recurrent', 'chunk']
const quickRules = ['sum', 'gla', 'delta', 'kda']

export async function run({
  quick = false,
  rules: wanted = quick ? quickRules : Object.keys(rules),
  sizes: lengths = quick ? [128, 1024, 8192, 65536] : [128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536],
  rounds = quick ? 1 : 3,
  seconds = quick ? 0.1 : 1,
  threads = 1,
  device = 'wasm',
  tokens = 65536,
  heads: H = quick ? 1 : 2,
  key: K = 64,
  value: V = 64,
  instructions = false,
}) {
  const unknown = wanted.find((name) => !Object.hasOwn(rules, name))
  if (unknown !== undefined) throw new UsageError(`--rules: no rule '${unknown}' (there are ${Object.keys(rules).join(', ')})`)
  const sizes = [...new Set(lengths)].sort((a, b) => a - b)
  const odd = sizes.find((T) => tokens % T !== 0)
  if (odd !== undefined) throw new UsageError(`--sizes: ${tokens} tokens aren't a whole number of sequences of ${odd}`)
  const names = [...new Set(wanted)]
  const contenders = names.flatMap((rule) =>
    linear.filter((form) => rules[rule].forms.includes(form)).map((form) => ({ rule, form, cells: [] })),
  )
  const notes = []
  const note = (contender, T, reason) => {
    contender.stopped = { T, reason }
    notes.push(`${contender.rule} ${contender.form} stops before T = ${T}: ${reason}`)
  }
  const begin = performance.now()
  let description
  for (const T of sizes) {
    const dims = { B: tokens / T, H, K, V, N: 2, M: 32 }
    const options = {
      device,
      threads,
      sizes: dims,
      rounds,
      seconds,
      note,
      forms: linear,
      growthOf: () => 0,
      mostSeconds: Infinity,
      instructions,
    }
    description = (await measure(T, contenders, names, options)).description
    progress('')
  }
  console.log(
    `\n${description}; ${tokens} tokens a step in sequences of T, H ${H}, K ${K}, V ${V}; medians of up to ${rounds} interleaved rounds`,
  )
  const table = (title, cell, last) => {
    console.log(`\n${title}\n`)
    printTable(
      ['rule, form', ...sizes.map((T) => `T ${T}`), ...(last ? ['longest / shortest'] : [])],
      contenders.map((c) => {
        const found = sizes.map((T) => c.cells.find((cell) => cell.T === T))
        const [shortest, longest] = [found[0], found.at(-1)].map((x) => x && cell(x))
        return [
          `${c.rule} ${c.form}`,
          ...found.map((x) => (x ? digits(cell(x)) : '-')),
          ...(last ? [shortest && longest ? digits(longest / shortest) : '-'] : []),
        ]
      }),
    )
  }
  table('forward and backward, nanoseconds a token', ({ both }) => (1e9 * both.median) / tokens, true)
  table('forward alone, nanoseconds a token', ({ forward }) => (1e9 * forward.median) / tokens, true)
  table('memory of forward and backward at most, MB', (cell) => bytesOf(cell) / 1e6, true)
  if (instructions) table('instructions a token, forward and backward', (cell) => cell.instructions / tokens, true)
  const ratios = contenders.flatMap((c) => {
    const [shortest, longest] = [sizes[0], sizes.at(-1)].map((T) => timeAt(c, T)?.median)
    return shortest && longest ? [{ rule: c.rule, form: c.form, ratio: longest / shortest }] : []
  })
  if (notes.length) console.log(`\n${notes.join('\n')}`)
  console.log(`\nmeasured in ${((performance.now() - begin) / 60000).toFixed(1)} minutes`)
  return {
    device: description,
    sizes: { tokens, H, K, V, T: sizes },
    threads,
    rounds,
    seconds,
    notes,
    ratios,
    results: contenders,
    svg: await scaleChart({
      contenders,
      sizes,
      tokens,
      subtitle: `${description}; ${tokens} tokens a step, H ${H}, K ${K}, V ${V}; medians`,
    }),
  }
}
