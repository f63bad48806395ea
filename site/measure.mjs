/**
 * What of the built site depends on the clock: node site/measure.mjs [--minutes 10] [--visits 5]. Three measures of the playground in Chromium, served
 * with the headers that threads need; docs/site.md has the figures. Other programs on the machine count in them.
 */
import { readFileSync } from 'node:fs'
import os from 'node:os'
import { parseArgs } from 'node:util'
import { launch } from '../dist/test/browser/launch.js'
import { serve } from './serve.mjs'

const options = { minutes: { type: 'string', default: '10' }, visits: { type: 'string', default: '5' } }
const { values } = parseArgs({ options })
const number = (name) => {
  const n = Number(values[name])
  if (!(n > 0)) throw new Error(`--${name} must be a number above 0, not ${values[name]}`)
  return n
}
const [minutes, visits] = [number('minutes'), Math.ceil(number('visits'))]

const median = (list) => [...list].sort((a, b) => a - b)[Math.floor(list.length / 2)]
const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(2)} s`
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`

/** When each file was sent, since 1970. */
const sent = new Map()
const server = await serve({ served: (file) => sent.set(file, Date.now()) })
const url = `http://localhost:${server.address().port}/`
const browser = await launch()

/** A page that has never been here, after its first step. */
async function visit() {
  sent.clear()
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } })
  const page = await context.newPage()
  await page.goto(url)
  await page.locator('html[data-learning]').waitFor({ timeout: 60_000 })
  return { page, close: () => context.close() }
}

/** Milliseconds to the first training step: from the last byte that was sent before it, and from the beginning of the visit. */
async function beginning() {
  const { page, close } = await visit()
  const [origin, all] = await page.evaluate(() => [performance.timeOrigin, performance.getEntriesByName('first-step')[0].startTime])
  const last = Math.max(...[...sent.values()].filter((time) => time <= origin + all))
  await close()
  return { last: origin + all - last, all }
}

/** The longest tasks of the page's main thread over `duration` milliseconds of training, in milliseconds: by the clock, and of the processor. */
async function tasks(duration) {
  const { page, close } = await visit()
  // What a visit takes to begin is another measure.
  await page.waitForTimeout(3000)
  await browser.startTracing(page, { categories: ['toplevel', 'disabled-by-default-devtools.timeline'] })
  await page.waitForTimeout(duration)
  const { traceEvents } = JSON.parse((await browser.stopTracing()).toString())
  const steps = Number((await page.locator('#fact-step').textContent()).replaceAll(',', ''))
  await close()
  const main = new Set(
    traceEvents.filter(({ name, args }) => name === 'thread_name' && args.name === 'CrRendererMain').map(({ pid, tid }) => `${pid} ${tid}`),
  )
  const found = traceEvents.filter(({ name, ph, pid, tid }) => ph === 'X' && /RunTask/.test(name) && main.has(`${pid} ${tid}`))
  if (found.length === 0) throw new Error('the trace has no task of a main thread')
  const longest = (of) => found.reduce((most, event) => Math.max(most, (event[of] ?? 0) / 1000), 0)
  return {
    wall: longest('dur'),
    processor: longest('tdur'),
    over: found.filter(({ dur }) => dur > 50_000).length,
    tasks: found.length,
    steps,
  }
}

/** What is chosen in turn; the memory is read at the first. */
const plays = [
  { rule: 'delta', width: '64', layers: '2' },
  { rule: 'gated-delta', width: '32' },
  { layers: '1', task: 'parity' },
  { rule: 'sum', task: 'text', width: '96' },
  { rule: 'softmax' },
]

/** Bytes of memory that the browser's processes for pages hold; Linux alone says. */
async function held() {
  const session = await browser.newBrowserCDPSession()
  const { processInfo } = await session.send('SystemInfo.getProcessInfo')
  await session.detach()
  const kilobytes = processInfo
    .filter(({ type }) => type === 'renderer')
    .flatMap(({ id }) => [...readFileSync(`/proc/${id}/status`, 'utf8').matchAll(/^Rss(?:Anon|Shmem):\s+(\d+)/gm)])
    .map(([, kB]) => Number(kB))
  return 1000 * kilobytes.reduce((sum, kB) => sum + kB, 0)
}

/** Bytes after each round of playing: the page's own heap, the processes of pages with workers and wasm, and the device's tensors. */
async function memory(duration) {
  const { page, close } = await visit()
  const session = await page.context().newCDPSession(page)
  await session.send('Performance.enable')
  const samples = []
  const end = performance.now() + duration
  while (performance.now() < end) {
    for (const play of [...plays.slice(1), plays[0]]) {
      for (const [name, value] of Object.entries(play)) await page.locator(`#set-${name}`).selectOption(value)
      await page.waitForTimeout(1500)
    }
    await session.send('HeapProfiler.collectGarbage')
    const { metrics } = await session.send('Performance.getMetrics')
    const heap = metrics.find(({ name }) => name === 'JSHeapUsedSize').value
    samples.push({ heap, held: await held(), device: Number(await page.locator('#fact-bytes').getAttribute('data-bytes')) })
  }
  await close()
  return samples
}

try {
  const cores = os.availableParallelism()
  console.log(`${os.cpus()[0].model}, ${cores} cores, load ${os.loadavg()[0].toFixed(1)}; ${browser.version()}`)
  const begun = []
  for (let i = 0; i < visits; i++) begun.push(await beginning())
  for (const [name, what] of Object.entries({ last: 'from the last byte', all: 'from the beginning of the visit' })) {
    const times = begun.map((one) => one[name])
    console.log(`${what} to the first step: median ${seconds(median(times))}, slowest ${seconds(Math.max(...times))}, of ${visits} visits`)
  }
  const { wall, processor, over, tasks: count, steps } = await tasks(20_000)
  console.log(
    `the main thread in 20 s of training (${steps} steps): longest of ${count} tasks ${wall.toFixed(0)} ms by the clock, ${processor.toFixed(0)} ms of the processor; ${over} over 50 ms`,
  )
  const samples = await memory(minutes * 60_000)
  // The first rounds compile, and fill what stays.
  const third = Math.ceil(samples.length / 3)
  const of = (list, name) => megabytes(median(list.map((sample) => sample[name])))
  console.log(
    `memory over ${minutes} minutes, ${samples.length} rounds of ${plays.length} settings, medians of the second third and of the last:`,
  )
  for (const [name, what] of Object.entries({ heap: 'the page’s heap', held: 'its process', device: 'tensors on the device' }))
    console.log(`  ${what}: ${of(samples.slice(third, 2 * third), name)}, ${of(samples.slice(-third), name)}`)
} finally {
  await browser.close()
  server.closeAllConnections()
  server.close()
}
