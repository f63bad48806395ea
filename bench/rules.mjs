/** Every rule in its forms, and softmax attention, from short sequences to long ones: time, memory, and where which is faster. */

import { setTimeout as sleep } from 'node:timers/promises'
import { rules } from '../dist/engine/index.js'
import { start } from './child.mjs'
import { peerRules } from './linear-attention.mjs'
import { digits, printTable, progress, UsageError } from './report.mjs'
import { rulesChart } from './rules-chart.mjs'
import { summary } from './timing.mjs'

/** A form of its own: onnxruntime-node's native operator. */
const peer = 'onnxruntime'
/** What is timed of a contender; the peer's operator has no backward pass. */
const partsOf = ({ form }) => (form === peer ? ['forward'] : ['forward', 'both'])
const formOrder = ['recurrent', 'chunk', 'parallel']
const allForms = [...formOrder, 'softmax']
/** From here on the chunkwise form must be faster than the recurrent one. */
const goal = 128
/** A cell of which one run, forward and backward, is expected to last longer than this many times its budget is left out. */
const patience = 10
/** Time, and memory at most, grow like this power of T. */
const growth = { recurrent: 1, chunk: 1, parallel: 2, softmax: 2, [peer]: 1 }

const title = ({ rule, form }) => (form === 'softmax' ? 'softmax attention' : `${rule} ${form}`)

/** What a wasm memory can hold, in bytes. */
const wasmLimit = 2 ** 32

/** Median and fastest time of a contender at T, in seconds; undefined where it was not measured. */
export const timeAt = (contender, T, part = 'both') => contender?.cells.find((cell) => cell.T === T)?.[part]

/**
 * Where `a` falls behind `b` for good: the T, interpolated between the measured ones on logarithmic axes, from which b is faster.
 * { T, kind }: 'from' that T; 'below' the smallest measured; 'never' up to the largest at which there are both. Null if there is none.
 */
export function crossover(a, b, sizes, part = 'both', statistic = 'median') {
  const points = sizes
    .map((T) => ({ T, a: timeAt(a, T, part)?.[statistic], b: timeAt(b, T, part)?.[statistic] }))
    .filter((p) => p.a !== undefined && p.b !== undefined)
    .map(({ T, a, b }) => ({ T, lead: Math.log(a / b) }))
  if (!points.length) return null
  const last = points.findLastIndex(({ lead }) => !(lead > 0))
  if (last < 0) return { kind: 'below', T: points[0].T }
  if (last === points.length - 1) return { kind: 'never', T: points[last].T }
  const [x, y] = [points[last], points[last + 1]]
  return { kind: 'from', T: x.T * (y.T / x.T) ** (-x.lead / (y.lead - x.lead)) }
}

const showCrossover = (c) => (!c ? '-' : c.kind === 'below' ? `<= ${c.T}` : c.kind === 'never' ? `> ${c.T}` : c.T.toFixed(0))

/** The most memory of a cell. */
export const bytesOf = ({ memory }) => memory.most + memory.scratch

/** The peer's process at a T, once its results at the short length are found to be ours. */
async function openPeer(child, names, { threads, sizes, T }) {
  const peerChild = start('./rules-onnx-child.mjs')
  try {
    const { version } = await peerChild.call('open', { sizes, threads, T })
    for (const name of names) {
      const [expected, found] = [await child.call('short', { name }), await peerChild.call('short', { name })]
      const norm = (of) => Math.sqrt(expected.reduce((sum, _, i) => sum + of(i) ** 2, 0))
      const error = norm((i) => found[i] - expected[i]) / norm((i) => expected[i])
      if (!(error <= 1e-5)) throw new Error(`${name}: onnxruntime's result differs from ours by ${error}`)
    }
    return { ...peerChild, version }
  } catch (error) {
    peerChild.stop()
    throw error
  }
}

/** Measures all contenders at one T, ours in a process of their own and the peer in another; cells that fail for want of memory or time become notes. */
export async function measure(
  T,
  contenders,
  names,
  {
    device,
    threads,
    sizes,
    rounds,
    seconds,
    note,
    forms = allForms,
    growthOf = ({ form }) => growth[form],
    mostSeconds = patience * seconds,
    instructions = false,
  },
) {
  const child = start('./rules-child.mjs', { relaxed: device !== 'reference' })
  let peerChild
  const of = ({ form }) => (form === peer ? peerChild : child)
  try {
    const { name: opened, description } = await child.call('open', { device, threads, relaxed: true, sizes, T, rules: names, forms })
    const target = seconds / 2 / (rounds + 2)
    const running = []
    const peers = contenders.filter(({ form, stopped }) => form === peer && !stopped).map(({ rule }) => rule)
    if (peers.length) peerChild = await openPeer(child, peers, { threads, sizes, T })
    for (const [i, contender] of contenders.entries()) {
      if (contender.stopped) continue
      const { rule: name, form } = contender
      progress(`T = ${T}: warm-up ${i + 1}/${contenders.length}, ${title(contender)}`)
      const last = contender.cells.at(-1)
      if (last) {
        const factor = (T / last.T) ** growthOf(contender)
        const time = (last.both ?? last.forward).median * factor
        const bytes = form === peer ? 0 : bytesOf(last) * factor
        const reason =
          opened === 'wasm' && bytes > wasmLimit
            ? `it would take about ${digits(bytes / 1e9)} GB, more than a wasm memory can hold`
            : time > mostSeconds && `one run would take about ${digits(time)} s`
        if (reason) {
          note(contender, T, reason)
          continue
        }
      }
      let plan
      try {
        plan = await of(contender).call('prepare', { name, form, target })
      } catch (error) {
        if (!error.message.includes('out of memory')) throw error
        note(contender, T, error.message.replace(/ \(.*/, ''))
        continue
      }
      const rounded = (part) => Math.max(1, Math.min(rounds, Math.floor(seconds / 2 / (plan[part].seconds * plan[part].repeats))))
      running.push({
        contender,
        plan,
        rounds: Object.fromEntries(partsOf(contender).map((part) => [part, rounded(part)])),
        samples: Object.fromEntries(partsOf(contender).map((part) => [part, []])),
      })
    }
    for (let round = 0; round < rounds; round++) {
      for (const { contender, rounds: planned, samples } of running) {
        progress(`T = ${T}: round ${round + 1}/${rounds}, ${title(contender)}`)
        for (const part of partsOf(contender))
          if (round < planned[part])
            samples[part].push(await of(contender).call('sample', { name: contender.rule, form: contender.form, part }))
        // Its idle workers go on spinning for a while: not in the next one's time.
        if (contender.form === peer && threads > 1) await sleep(50)
      }
    }
    for (const { contender, plan, samples } of running) {
      const time = Object.fromEntries(partsOf(contender).map((part) => [part, { ...summary(samples[part]), samples: samples[part] }]))
      const cell = { T, ...time, memory: plan.memory }
      if (instructions) {
        const counted = await child.count('sample', { name: contender.rule, form: contender.form, part: 'both' })
        cell.instructions = counted / plan.both.repeats
      }
      contender.cells.push(cell)
    }
    return { description, peer: peerChild?.version }
  } finally {
    child.stop()
    peerChild?.stop()
  }
}

const tables = [
  { name: 'forward and backward, ms', cell: ({ both }) => digits(1000 * both.median) },
  { name: 'forward alone, ms', cell: ({ forward }) => digits(1000 * forward.median), of: [peer] },
  {
    name: 'memory of forward and backward at most, MB: inputs, outputs, gradients, what the forward keeps, and scratch',
    cell: (cell) => digits(bytesOf(cell) / 1e6),
  },
]

function printRatios(of, sizes, byForm, a, b) {
  printTable(
    ['rule', ...sizes.map((T) => `T ${T}`), 'from T', 'by fastest', 'forward alone'],
    of.map((rule) => {
      const [x, y] = [byForm(rule, a), byForm(rule, b)]
      const ratio = (T) => {
        const [slow, fast] = [timeAt(x, T), timeAt(y, T)]
        return slow && fast ? digits(slow.median / fast.median) : '-'
      }
      const where = (part, statistic) => showCrossover(crossover(x, y, sizes, part, statistic))
      return [rule, ...sizes.map(ratio), where('both', 'median'), where('both', 'min'), where('forward', 'median')]
    }),
  )
}

/** How long the peer takes to the fastest of our forms, forward alone. */
function printPeer(of, sizes, contenders) {
  const ratios = of.map((rule) => ({
    rule,
    values: sizes.map((T) => {
      const forms = contenders.filter((c) => c.rule === rule && timeAt(c, T, 'forward'))
      const theirs = forms.find(({ form }) => form === peer)
      const [ours] = forms.filter((c) => c !== theirs).sort((a, b) => timeAt(a, T, 'forward').median - timeAt(b, T, 'forward').median)
      if (!theirs || !ours) return null
      const [a, b] = [theirs, ours].map((c) => timeAt(c, T, 'forward'))
      return { T, form: ours.form, median: a.median / b.median, fastest: a.min / b.min }
    }),
  }))
  printTable(
    ['rule', ...sizes.map((T) => `T ${T}`)],
    ratios.map(({ rule, values }) => [rule, ...values.map((r) => (r ? `${digits(r.median)} (${digits(r.fastest)}) ${r.form}` : '-'))]),
  )
  return ratios
}

/** Whether the chunkwise form of every rule beats its recurrent form, forward and backward, at each T from the goal on; what misses, by name. */
function verdict(of, sizes, byForm) {
  const pairs = of.flatMap((rule) =>
    sizes
      .filter((T) => T >= goal)
      .map((T) => ({ rule, T, slow: timeAt(byForm(rule, 'recurrent'), T), fast: timeAt(byForm(rule, 'chunk'), T) })),
  )
  const measured = pairs.filter(({ slow, fast }) => slow && fast)
  const missed = measured.filter(({ slow, fast }) => !(slow.median > fast.median))
  const without = pairs.filter(({ slow, fast }) => !slow || !fast).map(({ rule, T }) => `${rule} at T = ${T}`)
  if (!measured.length) return `No rule was measured in both forms at T >= ${goal}: nothing is said about where chunks win.`
  const ratios = ({ slow, fast }) => `${digits(slow.median / fast.median)}, by the fastest samples ${digits(slow.min / fast.min)}`
  const rulesSeen = new Set(measured.map(({ rule }) => rule)).size
  return [
    missed.length
      ? `From T = ${goal} on chunk beats recurrent in ${measured.length - missed.length} of ${measured.length} cells, not for ${missed.map((m) => `${m.rule} at T = ${m.T} (${ratios(m)})`).join(', ')}.`
      : `From T = ${goal} on chunk beats recurrent for each of ${rulesSeen} rules at each T measured.`,
    ...(without.length ? [`Not measured: ${without.join(', ')}.`] : []),
  ].join(' ')
}

export async function run({
  rules: wanted = Object.keys(rules),
  sizes: lengths = [64, 128, 256, 512, 1024, 2048, 4096, 8192],
  rounds = 5,
  seconds = 0.5,
  threads = 1,
  device = 'wasm',
  batch: B = 1,
  heads: H = 8,
  key: K = 64,
  value: V = 64,
}) {
  const unknown = wanted.find((name) => !Object.hasOwn(rules, name))
  if (unknown !== undefined) throw new UsageError(`--rules: no rule '${unknown}' (there are ${Object.keys(rules).join(', ')})`)
  const names = [...new Set(wanted)]
  const sizes = [...new Set(lengths)].sort((a, b) => a - b)
  const contenders = [
    { rule: 'softmax', form: 'softmax', cells: [] },
    ...names.flatMap((rule) => [
      ...formOrder.filter((form) => rules[rule].forms.includes(form)).map((form) => ({ rule, form, cells: [] })),
      ...(device === 'wasm' && Object.hasOwn(peerRules, rule) ? [{ rule, form: peer, cells: [] }] : []),
    ]),
  ]
  const byForm = (rule, form) => contenders.find((c) => c.form === form && (c.rule === rule || form === 'softmax'))
  const notes = []
  const note = (contender, T, reason) => {
    contender.stopped = { T, reason }
    notes.push(`${title(contender)} stops before T = ${T}: ${reason}`)
  }
  const dims = { B, H, K, V, N: 2, M: 32 }
  const begin = performance.now()
  let description
  let peerVersion
  for (const T of sizes) {
    const before = performance.now()
    try {
      const measured = await measure(T, contenders, ['softmax', ...names], { device, threads, sizes: dims, rounds, seconds, note })
      ;({ description } = measured)
      peerVersion ??= measured.peer
    } catch (error) {
      throw new Error(`T = ${T}: ${error.message}`)
    }
    progress('')
    console.log(`T = ${T} measured in ${digits((performance.now() - before) / 1000)} s`)
  }

  console.log(
    `\n${description}; B ${B}, H ${H}, K ${K}, V ${V}, two steps a token for delta-product; medians of up to ${rounds} interleaved rounds, ${digits(seconds)} s a cell`,
  )
  for (const { name, cell, of = [] } of tables) {
    console.log(`\n${name}\n`)
    const row = (contender) => [
      title(contender),
      ...sizes.map((T) => {
        const found = contender.cells.find((c) => c.T === T)
        return found ? cell(found) : '-'
      }),
    ]
    const shown = contenders.filter(({ form }) => form !== peer || of.includes(peer))
    printTable(
      ['rule, form', ...sizes.map((T) => `T ${T}`)],
      shown.flatMap((c, i) => (i && c.rule !== shown[i - 1].rule ? [null, row(c)] : [row(c)])),
    )
  }
  if (notes.length) console.log(`\n${notes.join('\n')}`)

  const chunked = names.filter((rule) => rules[rule].forms.includes('chunk'))
  const crossovers = Object.fromEntries(
    chunked.map((rule) => [
      rule,
      Object.fromEntries(['recurrent', 'softmax'].map((form) => [form, crossover(byForm(rule, form), byForm(rule, 'chunk'), sizes)])),
    ]),
  )
  if (chunked.length) {
    for (const [peer, label] of [
      ['recurrent', 'the recurrent form'],
      ['softmax', 'softmax attention'],
    ]) {
      console.log(`\ntime of ${label} / time of the chunkwise form, forward and backward; from which T chunks win\n`)
      printRatios(chunked, sizes, byForm, peer, 'chunk')
    }
  }
  const compared = names.filter((rule) => byForm(rule, peer))
  let ratios = []
  if (compared.length) {
    console.log(
      `\ntime of onnxruntime-node ${peerVersion} (native, ${threads} thread${threads > 1 ? 's' : ''}) / time of our fastest form, forward alone: of medians (of the fastest samples), and which form\n`,
    )
    ratios = printPeer(compared, sizes, contenders)
  }
  const result = verdict(chunked, sizes, byForm)
  console.log(`\n${result}`)
  console.log(`measured in ${((performance.now() - begin) / 60000).toFixed(1)} minutes`)

  return {
    device: description,
    sizes: { ...dims, T: sizes },
    threads,
    rounds,
    seconds,
    verdict: result,
    crossovers,
    peer: { name: 'onnxruntime-node', version: peerVersion ?? null, ratios },
    notes,
    results: contenders,
    svg: await rulesChart({
      contenders,
      sizes,
      crossovers,
      subtitle: `${description}; B ${B}, H ${H}, K ${K}, V ${V}; medians`,
    }),
  }
}
