/**
 * Products, a training step and generated text in headless Chromium, in pages that are isolated and so have threads, beside jax-js, which has threads,
 * too. Each contender has a page in a context, and so a process, of its own; rounds are interleaved.
 */
import { availableParallelism } from 'node:os'
import { resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { launch } from '../dist/test/browser/launch.js'
import { serve } from '../site/serve.mjs'
import { packages } from './matmul.mjs'
import { digits, printTable, progress, version } from './report.mjs'
import { summary } from './timing.mjs'
import { chooseSettings } from './train.mjs'

const characters = 500

/** Opens pages by how many cores they are told of; jax-js takes as many threads. */
async function pages(browser) {
  const server = await serve({ folder: resolve(fileURLToPath(new URL('..', import.meta.url))) })
  const open = async (cores) => {
    const context = await browser.newContext()
    const page = await context.newPage()
    let failed = ''
    page.on('pageerror', (error) => {
      failed ||= error.message
    })
    await page.addInitScript((n) => Object.defineProperty(navigator, 'hardwareConcurrency', { value: n }), cores)
    await page.goto(`http://localhost:${server.address().port}/bench/browser.html`)
    await page
      .waitForFunction(() => 'called' in globalThis)
      .catch(() => {
        throw new Error(`the page didn't start${failed && `: ${failed}`}`)
      })
    if (!(await page.evaluate(() => crossOriginIsolated))) throw new Error("the page isn't isolated, so that it has no threads")
    return {
      call: (name, argument) => page.evaluate(([name, argument]) => globalThis.called(name, argument), [name, argument]),
      close: () => context.close(),
    }
  }
  return { open, close: () => server.close(), version: `Chromium ${browser.version()}` }
}

export async function run({ sizes = [64, 128, 256, 512, 1024], rounds = 5, only = 'small', threads = availableParallelism() }) {
  const settings = chooseSettings(only)
  let launched
  try {
    launched = await launch()
  } catch (error) {
    const [missing] = error.message.split('\n')
    console.log(`\nThere is no browser to measure in: ${missing}`)
    return { missing }
  }
  let browser
  try {
    browser = await pages(launched)
    console.log(`\n${browser.version}, headless, isolated pages; jax-js ${version(packages.jax)}`)
    const products = await multiply(browser, sizes, rounds, threads)
    const limit = Math.max(...sizes.map((n) => products.find(({ module, relaxed }) => module === 'limit' && relaxed).gflops[n].max))
    const work = []
    const counts = [...new Set([1, threads])]
    for (const setting of settings) work.push(...(await timed(browser, `step, ${setting.name}`, 'openStep', { setting }, counts, rounds)))
    work.push(...(await timed(browser, `${characters} characters`, 'openText', { length: characters }, counts, rounds)))
    console.log(
      `\none training step of 16 x 128 tokens, and ${characters} characters by the model of npm start: seconds, median (min-max) of ${rounds}; GFLOP/s = 6 x parameters x tokens / time, and that of the 128-bit limit\n`,
    )
    printTable(
      ['work', 'seconds', 'tokens/s', 'GFLOP/s', 'of limit'],
      work.map(({ label, threads, seconds, tokens, parameters }) => {
        const gflops = (6 * parameters * tokens) / seconds.median / 1e9
        const rates = parameters ? [digits(gflops), `${((100 * gflops) / threads / limit).toFixed(0)}%`] : ['-', '-']
        return [
          label,
          `${digits(seconds.median)} (${digits(seconds.min)}-${digits(seconds.max)})`,
          digits(tokens / seconds.median),
          ...rates,
        ]
      }),
    )
    return { browser: browser.version, rounds, products, work }
  } finally {
    await launched.close()
    browser?.close()
  }
}

/** GFLOP/s of n x n x n products by every contender. */
async function multiply(browser, sizes, rounds, threads) {
  const row = (module, threads, relaxed) => {
    const name = {
      fastweights: `fastweights ${relaxed ? 'relaxed' : 'plain'}`,
      jax: 'jax-js',
      limit: `128-bit limit, ${relaxed ? 'relaxed madd' : 'mul + add'}`,
    }[module]
    return { module, threads, relaxed, label: module === 'limit' ? name : `${name}, ${threads} thread${threads > 1 ? 's' : ''}` }
  }
  const contenders = [...new Set([1, threads])].flatMap((n) => [
    row('fastweights', n, false),
    row('fastweights', n, true),
    row('jax', n, true),
  ])
  contenders.push(row('limit', 1, false), row('limit', 1, true))
  for (const contender of contenders) {
    contender.page = await browser.open(contender.threads)
    const { module, threads, relaxed } = contender
    await contender.page.call('open', { module, options: { threads, relaxed } })
    contender.gflops = {}
  }
  for (const n of sizes) {
    const samples = contenders.map(() => [])
    for (const { page, label } of contenders)
      await page.call('prepare', n).catch((error) => {
        throw new Error(`${label}, n = ${n}: ${error.message}`)
      })
    for (let round = 0; round < rounds; round++) {
      for (const [i, { page }] of contenders.entries()) samples[i].push(await page.call('sample'))
      progress(`products ${n}: round ${round + 1} of ${rounds}`)
    }
    for (const [i, { gflops }] of contenders.entries()) gflops[n] = summary(samples[i])
  }
  progress('')
  for (const { page } of contenders) await page.close()
  console.log(`\nproducts, float32, n x n x n: GFLOP/s, median (min-max) of ${rounds} interleaved rounds\n`)
  printTable(
    ['n', ...sizes],
    contenders.map(({ label, gflops }) => [
      label,
      ...sizes.map((n) => `${digits(gflops[n].median)} (${digits(gflops[n].min)}-${digits(gflops[n].max)})`),
    ]),
  )
  const find = (module, threads, relaxed = true) =>
    contenders.find((c) => c.module === module && c.threads === threads && c.relaxed === relaxed)
  const ratio = (label, x, y) => [
    label,
    ...sizes.map((n) => {
      const of = (statistic) => (x.gflops[n][statistic] / y.gflops[n][statistic]).toFixed(2)
      return `${of('median')}x (${of('max')}x)`
    }),
  ]
  console.log('\nratio of medians (of the fastest samples)\n')
  const [one, many] = [find('fastweights', 1), find('fastweights', threads)]
  printTable(
    ['n', ...sizes],
    [
      ratio('plain, 1 thread / its 128-bit limit', find('fastweights', 1, false), find('limit', 1, false)),
      ratio('relaxed, 1 thread / its 128-bit limit', one, find('limit', 1)),
      ratio('relaxed, 1 thread / jax-js', one, find('jax', 1)),
      ...(threads > 1
        ? [
            ratio(`relaxed, ${threads} threads / 1 thread`, many, one),
            ratio(`relaxed, ${threads} threads / jax-js`, many, find('jax', threads)),
          ]
        : []),
    ],
  )
  return contenders.map(({ page: _, ...contender }) => contender)
}

/** Seconds of a piece of work in pages of these numbers of threads. */
async function timed(browser, label, opening, options, counts, rounds) {
  const contenders = []
  for (const threads of counts) {
    const page = await browser.open(threads)
    const { parameters } = await page.call(opening, { ...options, threads, relaxed: true })
    // Code is compiled in the first, and memory grows.
    for (let i = 0; i < 2; i++) await page.call('seconds')
    contenders.push({ page, threads, parameters, samples: [] })
  }
  for (let round = 0; round < rounds; round++) {
    for (const { page, samples } of contenders) samples.push(await page.call('seconds'))
    progress(`${label}: round ${round + 1} of ${rounds}`)
  }
  progress('')
  for (const { page } of contenders) await page.close()
  const tokens = options.setting ? options.setting.batch * options.setting.length : options.length
  return contenders.map(({ threads, parameters, samples }) => ({
    ...{ label: `${label}, ${threads} thread${threads > 1 ? 's' : ''}`, threads, parameters, tokens },
    ...{ seconds: summary(samples), samples },
  }))
}
