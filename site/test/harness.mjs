/** What tests of the site share: the built site on a port, a browser, and scripts of the site in Node. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { build } from 'esbuild'
import { launch } from '../../dist/test/browser/launch.js'
import { bundling } from '../build.mjs'
import { serve } from '../serve.mjs'

const folder = dirname(dirname(fileURLToPath(import.meta.url)))

/** The ways in which a site may be served: at the root or below it, with the headers that threads need or without. */
export const ways = [
  { path: '/', isolated: true },
  { path: '/a/b/', isolated: false },
]

/** The site on a port of its own. `bytes`: what was sent so far, file by file, as it was packed. */
export async function open(way) {
  const bytes = new Map()
  const server = await serve({ ...way, served: (file, size) => bytes.set(file, (bytes.get(file) ?? 0) + size) })
  // However a test ends, the run of the tests must.
  server.unref()
  return {
    url: `http://localhost:${server.address().port}${way.path}`,
    bytes,
    close: () => {
      server.closeAllConnections()
      server.close()
    },
  }
}

/**
 * Describes the tests of a part of the site once for each way of serving it. `tests` gets the way (`isolated`: whether the server sends the headers)
 * and, from the first test on, its `url` and `visit`: a page there, or of any address, in the browser of the root's tests, with WebGPU on SwiftShader.
 */
export function eachWay(title, tests) {
  for (const way of ways)
    describe(`${title}, at ${way.path} with${way.isolated ? '' : 'out'} the headers`, function () {
      this.timeout(60_000)
      const at = { ...way }
      let chromium
      let site
      before(async () => {
        site = await open(way)
        chromium = await launch()
        Object.assign(at, {
          url: site.url,
          bytes: site.bytes,
          visit: (path, options) => visit(chromium, new URL(path, site.url).href, options),
        })
      })
      after(async () => {
        await chromium?.close()
        site?.close()
      })
      tests.call(this, at)
    })
}

/** Waits until the service worker answers for pages to come. */
export const kept = (page) => page.waitForFunction(async () => (await navigator.serviceWorker.ready).active?.state === 'activated')

/** How the wasm device names its threads: on a first visit without the headers it has one. */
export const threads = ({ isolated }) => (isolated ? /, (?!1 )\d+ threads\)$/ : /, 1 thread\)$/)

/**
 * A page with a storage of its own, whose complaints are collected: errors, warnings, requests that fail or go elsewhere. `prepare` has the page
 * before it is opened.
 */
export async function visit(from, url, { prepare, ...options } = {}) {
  const context = await from.newContext({ viewport: { width: 1440, height: 900 }, ...options })
  const page = await context.newPage()
  const complaints = []
  page.on('pageerror', (error) => complaints.push(error.message))
  page.on('crash', () => complaints.push('the page crashed'))
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && complaints.push(message.text()))
  page.on(
    'request',
    (request) =>
      new URL(request.url()).origin === new URL(url).origin || /^(data|blob):/.test(request.url()) || complaints.push(request.url()),
  )
  // What a document, or a worker of it, is still loading when it is left, the browser cuts off, sooner or later: no complaint of the next document.
  let documents = 0
  const askedBy = new WeakMap()
  const cutOff = new Set()
  page.on('request', (request) => askedBy.set(request, documents))
  page.on('requestfailed', (request) => {
    const complaint = `${request.url()}: ${request.failure()?.errorText}`
    if (!complaint.endsWith('net::ERR_ABORTED')) complaints.push(complaint)
    else if (askedBy.get(request) === documents) complaints.push(complaint) && cutOff.add(complaint)
  })
  page.on('domcontentloaded', () => {
    documents++
    complaints.splice(0, complaints.length, ...complaints.filter((complaint) => !cutOff.has(complaint)))
    cutOff.clear()
  })
  await prepare?.(page)
  await page.goto(url)
  return { page, complaints, close: () => context.close() }
}

/** A script of the site, bundled for Node: for tests of what it computes. */
export async function load(file) {
  const outdir = mkdtempSync(join(tmpdir(), 'fastweights-site-'))
  const outfile = join(outdir, 'script.mjs')
  try {
    await build({ ...bundling, define: {}, platform: 'node', entryPoints: [join(folder, file)], outfile })
    return await import(pathToFileURL(outfile))
  } finally {
    rmSync(outdir, { recursive: true })
  }
}

/** Texts of pictures that are cut at the picture's edge. */
export const cut = (page) =>
  page.locator('svg text').evaluateAll((texts) =>
    texts
      .filter((text) => {
        const [own, whole] = [text, text.ownerSVGElement].map((e) => e.getBoundingClientRect())
        return own.width > 0 && (own.left < whole.left - 1 || own.right > whole.right + 1 || own.bottom > whole.bottom + 1)
      })
      .map((text) => text.textContent),
  )

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')

/** What axe-core finds wrong with a page, in words; with all of its rules, or with some. */
export async function violations(page, rules) {
  await page.evaluate(axe)
  const { violations } = await page.evaluate((runOnly) => globalThis.axe.run(runOnly ? { runOnly } : {}), rules)
  return violations.flatMap(({ id, help, nodes }) => nodes.map(({ target, any }) => `${id}: ${help}: ${target}: ${any[0]?.message ?? ''}`))
}
