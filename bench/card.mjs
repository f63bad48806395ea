/**
 * A GPU as it's used: products, recurrences, training steps and text on the device webgpu, beside PyTorch and fla on the same card where they are, in
 * interleaved rounds; each with its share of what the card was measured to do. A row that fails says why, and the others go on.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import { join } from 'node:path'
import { start } from './child.mjs'
import { digits, printTable, progress, UsageError } from './report.mjs'
import { counted } from './roofline.mjs'
import { summary } from './timing.mjs'
import { missing, pythonOf, startPython } from './torch.mjs'

/** Seconds: of a sample, at least; of the warm-up; of a run that is sampled once; of an answer that nobody waits for any more, as where a driver hangs. */
const target = 0.1
const warm = 1
const patience = 10
const longest = 300

const recurrenceName = ({ B, T, H, K, V }) => `B ${B}, T ${T}, H ${H}, K ${K}, V ${V}`
/** The state of labml's layer, and two longer ones. */
const shapes = [
  { B: 16, T: 128, H: 8, K: 128, V: 64 },
  { B: 8, T: 2048, H: 8, K: 64, V: 64 },
  { B: 4, T: 4096, H: 16, K: 128, V: 128 },
]
const steps = [
  { name: 'labml', batch: 16, length: 128 },
  { name: 'small', batch: 16, length: 128 },
  { name: 'default', batch: 8, length: 256 },
  { name: 'gated-deltanet, 2 heads', batch: 8, length: 256 },
]
/** What a card is measured with, quickly, and what a program that imitates one gets through. */
const sizes = {
  all: { products: [512, 1024, 2048, 4096], rules: ['delta', 'gated-delta', 'gla', 'sum'], shapes, steps },
  quick: { products: [1024, 4096], rules: ['delta'], shapes, steps: steps.slice(0, 3) },
  software: {
    products: [64, 128],
    rules: ['delta', 'gla'],
    shapes: [{ B: 1, T: 96, H: 2, K: 16, V: 16 }],
    steps: [{ name: 'tiny', batch: 2, length: 32 }],
  },
}
/** The layers that PyTorch has, too. */
const inTorch = { labml: { heads: 8, layers: 6 }, small: { heads: 4, layers: 4 }, tiny: { heads: 2, layers: 1 } }

/**
 * Rows: what is done, its amount in `unit`s (for a rate), and the peers that do the same. `needs`: what a peer needs beside PyTorch.
 */
function rowsOf({ products, rules, shapes, steps }, software) {
  const peer = (label, ask, needs = []) => ({ label, needs, ask: { tf32: needs.includes('tf32'), ...ask } })
  return [
    ...products.map((n) => ({
      group: 'products',
      name: `${n} x ${n} x ${n}`,
      what: 'product',
      given: { n },
      amount: (2 * n ** 3) / 1e12,
      peers: [peer('PyTorch, float32', { what: 'product', n }), peer('PyTorch, TF32', { what: 'product', n }, ['tf32'])],
    })),
    ...rules.flatMap((rule) =>
      shapes.flatMap((shape) =>
        [false, true].map((backward) => {
          const ask = (form, compiled) => ({ what: 'recurrence', rule, sizes: shape, form, compiled, backward })
          return {
            group: 'recurrences',
            name: `${rule}, ${recurrenceName(shape)}${backward ? ', and backward' : ''}`,
            what: 'recurrence',
            given: { rule, sizes: shape, backward },
            amount: (shape.B * shape.T) / 1e6,
            peers: [
              ...(rule === 'delta'
                ? [
                    peer('PyTorch, chunks', ask('chunk', false)),
                    peer('PyTorch, chunks, compiled', ask('chunk', true), ['compile']),
                    peer('PyTorch, loop', ask('loop', false), ['time']),
                    peer('PyTorch, loop, compiled', ask('loop', true), ['time', 'compile']),
                  ]
                : []),
              peer("fla's kernel, bfloat16", ask('kernel', false), ['fla']),
            ],
          }
        }),
      ),
    ),
    ...steps.map(({ name, batch, length }) => {
      const setting = inTorch[name] && { ...inTorch[name], symbols: 65, batch, length, lr: 1e-4 }
      const ask = (form, compiled) => ({ what: 'step', setting, form, compiled })
      return {
        group: 'training steps',
        name: `${name}, ${batch} x ${length}`,
        what: 'step',
        given: { name, batch, length },
        amount: batch * length,
        weights: setting !== undefined,
        peers: setting
          ? [
              peer('PyTorch, chunks', ask('chunk', false)),
              peer('PyTorch, chunks, TF32', ask('chunk', false), ['tf32']),
              peer('PyTorch, chunks, compiled', ask('chunk', true), ['compile']),
              peer('PyTorch, loop', ask('loop', false), ['time']),
            ]
          : [],
      }
    }),
    { group: 'text', name: 'one text', what: 'generation', given: { name: software ? 'tiny' : 'default' }, amount: 1, peers: [] },
  ]
}
const units = { products: 'TFLOP/s', recurrences: 'M tokens/s', 'training steps': 'tokens/s', text: 'characters/s' }

/** What `--only` may name a part of. */
export const cardGroups = Object.keys(units)

const within = (promise, seconds = longest) => {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${seconds} s`)), 1000 * seconds)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

/** Whether a process, or its context of the card, isn't there any more or can't be used, as PyTorch and Triton say. */
const isLost = ({ message }) => /^(no answer|the process)|CUDA error|\[CUDA\]/.test(message)

/** An error in a line: compilers say in the second what the matter is, and a process that has ended in its last. */
function told({ message }) {
  const lines = message.split('\n').filter((line) => line.trim())
  const [first, second = ''] = message.startsWith('the process') ? [lines[0].split(':')[0], lines.at(-1)] : lines
  return `${first}${second && second !== first ? ` ${second.trim()}` : ''}`.slice(0, 300)
}

const nobody = { lacks: () => true, stop() {}, async drop() {} }

/** PyTorch's process, begun anew after it has failed: what is left of a card's state then, nobody knows. `about` says what there is. */
async function peersOf(python, device, quick) {
  const reason = missing(pythonOf(python), 'torch')
  if (reason !== undefined) {
    if (python !== undefined) throw new UsageError(`--python: ${python} has no PyTorch: ${reason}`)
    console.log(`PyTorch isn't here, and nothing stands beside ours (${reason}); --python PATH, or PYTHON, names a Python that has it`)
    return { about: { missing: reason }, ...nobody }
  }
  let process
  const call = (name, argument) => {
    process ??= startPython(pythonOf(python), 'peers.py')
    return within(process.call(name, argument))
  }
  const stop = () => {
    process?.stop()
    process = undefined
  }
  const about = await call('about', { device }).catch((error) => {
    stop()
    throw error
  })
  if (about.lacks !== null) {
    console.log(`PyTorch ${about.version} is here, but ${about.lacks}: nothing stands beside ours`)
    stop()
    return { about, ...nobody }
  }
  console.log(`PyTorch ${about.version}, ${about.name}${about.cuda ? `, CUDA ${about.cuda}` : ', on the CPU'}`)
  const { version, lacks } = about.fla
  console.log(lacks === null ? `fla ${version}` : `fla isn't measured: ${lacks}`)
  if (device === 'cpu') console.log("TF32 is a card's alone")
  if (quick) console.log('--quick: nothing is compiled by PyTorch, and no loop goes over more than 512 tokens')
  const without = { fla: lacks !== null, tf32: device === 'cpu', compile: quick }
  return {
    about,
    call,
    stop,
    /** Forgets what was prepared. */
    drop: async () => process && call('drop').catch(stop),
    lacks: ({ needs, ask }) => needs.some((what) => without[what] || (what === 'time' && quick && (ask.sizes?.T ?? 0) > 512)),
  }
}

/** Calls of `sample` until one is warm: the first compiles. Gives how many a sample takes, and whether one sample is enough. */
async function plan(sample) {
  await sample(1)
  let { seconds } = await sample(1)
  if (seconds > patience) return { count: 1, once: seconds }
  const count = () => Math.max(1, Math.ceil(target / seconds))
  for (const end = performance.now() + 1000 * warm; performance.now() < end; )
    seconds = Math.min(seconds, (await sample(Math.min(count(), 10_000))).seconds)
  return { count: Math.min(count(), 10_000) }
}

/** One row: everyone is prepared and warm, then their samples alternate. */
async function measure(row, { env, rounds, peers, folder, device }) {
  const weights = row.weights ? join(folder, 'weights') : undefined
  const entries = [
    { label: 'fastweights', ours: true },
    ...row.peers.filter((one) => !peers.lacks(one)).map((one) => ({ ...one, ours: false })),
  ].map((entry) => ({ ...entry, samples: [], hosts: [] }))
  const child = start('./card-child.mjs', { env })
  const stop = (entry) => (entry.ours ? child.stop() : peers.stop())
  const ask = (entry, name, argument) => within(entry.ours ? child.call(name, argument) : peers.call(name, argument))
  const sampling = (entry) => (count) => ask(entry, 'sample', entry.ours ? { count } : { label: entry.label, count })
  /** What one fails in is told in its place; those that share its process fail with it. */
  const attempt = async (entry, work) => {
    if (entry.failed) return
    progress(`${row.name}: ${entry.label}`)
    try {
      await work()
    } catch (error) {
      entry.failed = told(error)
      if (!entry.ours && !isLost(error)) return
      stop(entry)
      for (const other of entries) if (other.ours === entry.ours && other.count) other.failed ??= `as ${entry.label}: ${entry.failed}`
    }
  }
  try {
    for (const entry of entries)
      await attempt(entry, async () => {
        if (entry.ours) {
          await ask(entry, 'open')
          entry.facts = await ask(entry, 'prepare', { what: row.what, given: { ...row.given, weights } })
        } else {
          if (weights && entries[0].failed) throw new Error('it would begin with our weights, which there are none of')
          const { losses } = await ask(entry, 'prepare', { label: entry.label, device, ...entry.ask, ...(weights && { weights }) })
          const bound = entry.ask.tf32 ? 1e-2 : 1e-4
          for (const [i, loss] of (losses ?? []).entries()) {
            const expected = entries[0].facts.losses[i]
            if (!(Math.abs(loss / expected - 1) <= bound)) throw new Error(`the loss of step ${i + 1} is ${loss}, ours ${expected}`)
          }
        }
        Object.assign(entry, await plan(sampling(entry)))
      })
    for (let round = 0; round < rounds; round++)
      for (const entry of entries)
        if (round === 0 || !entry.once)
          await attempt(entry, async () => {
            const { seconds, host = null } = await sampling(entry)(entry.count)
            entry.samples.push(seconds)
            entry.hosts.push(host)
          })
  } finally {
    child.stop()
    await peers.drop()
  }
  return entries.map(({ label, ours, samples, hosts, failed, facts }) => ({
    label,
    ours,
    failed,
    parameters: facts?.parameters,
    samples,
    seconds: failed === undefined ? summary(samples) : undefined,
    host: failed === undefined && hosts[0] !== null ? summary(hosts).median : undefined,
  }))
}

const percent = (part) => `${digits(100 * part)}%`

function print(group, rows, peaks) {
  progress('')
  console.log(`\n${group}\n`)
  const unit = units[group]
  const host = rows.some(({ entries }) => entries.some((entry) => entry.host !== undefined))
  printTable(
    ['', 'ms: median (min-max)', unit, ...(host ? ['host, ms'] : []), 'to ours', 'of products', 'of memory'],
    rows.flatMap(({ name, amount, counts, entries }) =>
      entries.map(({ label, ours, seconds, host: own, failed }) => {
        if (failed !== undefined) return [`${name}: ${label}`, 'failed']
        const share = (of, peak) => (ours ? percent(of / seconds.median / peak) : '')
        const ofProducts = group === 'products' ? percent((1e12 * amount) / seconds.median / peaks.operations) : undefined
        return [
          `${name}: ${label}`,
          `${digits(1000 * seconds.median)} (${digits(1000 * seconds.min)}-${digits(1000 * seconds.max)})`,
          digits(amount / seconds.median),
          ...(host ? [own === undefined ? '' : digits(1000 * own)] : []),
          entries[0].seconds ? digits(seconds.median / entries[0].seconds.median) : '-',
          ofProducts ?? share(counts.operations, peaks.operations),
          share(counts.bytes, peaks.bandwidth),
        ]
      }),
    ),
  )
  const failures = rows.flatMap(({ name, entries }) =>
    entries.flatMap(({ label, failed }) => (failed === undefined ? [] : [`${name}: ${label}: ${failed}`])),
  )
  if (failures.length > 0) console.log(`\n${failures.join('\n')}`)
}

const alone = async (env, work) => {
  const child = start('./card-child.mjs', { env })
  try {
    const opened = await within(child.call('open'))
    return await work(child, opened)
  } finally {
    child.stop()
  }
}

/** What the adapter is, and whether it's a program on the CPU. */
export const adapterOf = (env) => alone(env, (_, opened) => opened)

const peaksOf = (env) =>
  alone(env, async (child) => {
    progress('what the card does at most')
    const peaks = await within(child.call('peaks'))
    progress('')
    return peaks
  })

/** `software`: whether the adapter is a program, which gets small sizes. Prints the tables, and gives what is in them. */
export async function card({ env, rounds, only, python, quick, software }) {
  const rows = rowsOf(sizes[software ? 'software' : quick ? 'quick' : 'all'], software).filter(({ name, group }) =>
    `${group}: ${name}`.includes(only),
  )
  if (rows.length === 0) return undefined
  const device = software ? 'cpu' : 'cuda'
  const peers = await peersOf(python, device, quick)
  const folder = mkdtempSync(join(os.tmpdir(), 'fastweights-bench-'))
  try {
    const peaks = await peaksOf(env)
    const { products, bandwidth, operations, dispatch, host } = peaks
    console.log(`As doctor measures it: ${products.map(({ n, rate }) => `a product of ${n} ${digits(rate / 1e12)} TFLOP/s`).join(', ')};`)
    console.log(
      `memory ${digits(bandwidth / 1e9)} GB/s, read and written; a dispatch of 1,024 numbers ${digits(1e6 * dispatch)} us, of which the host takes ${digits(1e6 * host)}`,
    )
    const results = []
    for (const group of cardGroups) {
      const its = []
      for (const { name, amount, ...row } of rows.filter((row) => row.group === group)) {
        const counts = await counted(row.what, row.given)
        const entries = await measure({ name, ...row }, { env, rounds, peers, folder, device })
        its.push({ group, name, amount, unit: units[group], counts, entries })
      }
      results.push(...its)
      if (its.length > 0) print(group, its, peaks)
    }
    console.log(
      `\nMedians of up to ${rounds} interleaved samples of ${target} s or one run, the queue waited for at the end of each; to ours: time to that of fastweights. Host: until all of
one is asked for. Of products and of memory: what our dispatches compute and move, counted (--roofline), against ${digits(operations / 1e12)} TFLOP/s and ${digits(bandwidth / 1e9)} GB/s.`,
    )
    return { quick, rounds, peaks, peers: peers.about, results }
  } finally {
    peers.stop()
    rmSync(folder, { recursive: true, force: true })
  }
}
