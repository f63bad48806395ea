/**
 * The playground in Firefox, over WebDriver BiDi: where `firefox` or `firefox-esr` is on the path, or FIREFOX names the program. playwright-core has
 * no Firefox but its own.
 */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import WebSocket from 'ws'
import { open, ways } from './harness.mjs'

const program = [process.env.FIREFOX, 'firefox', 'firefox-esr'].find(
  (name) => name && spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0,
)

/** Firefox with a new profile, and what a page needs of it. */
async function firefox() {
  const profile = mkdtempSync(join(tmpdir(), 'fastweights-firefox-'))
  const process = spawn(program, ['--headless', '--no-remote', '--profile', profile, '--remote-debugging-port', '0'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const address = await new Promise((resolve, reject) => {
    let said = ''
    process.stderr.setEncoding('utf8').on('data', (text) => {
      said += text
      const found = /ws:\/\/[\w.:]+/.exec(said)
      if (found) resolve(found[0])
    })
    process.once('exit', () => reject(new Error(`Firefox has ended: ${said}`)))
  })
  const socket = new WebSocket(`${address}/session`)
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject))
  const waiting = new Map()
  const complaints = []
  socket.on('message', (data) => {
    const { id, type, result, message, method, params } = JSON.parse(data)
    if (method === 'log.entryAdded' && params.level === 'error') complaints.push(params.text)
    const answer = waiting.get(id)
    waiting.delete(id)
    if (type === 'error') answer?.reject(new Error(message))
    else answer?.resolve(result)
  })
  let last = 0
  const call = (method, params = {}) =>
    new Promise((resolve, reject) => {
      waiting.set(++last, { resolve, reject })
      socket.send(JSON.stringify({ id: last, method, params }))
    })
  await call('session.new', { capabilities: {} })
  await call('session.subscribe', { events: ['log.entryAdded'] })
  const { contexts } = await call('browsingContext.getTree')
  const [{ context }] = contexts
  const evaluate = async (expression) => {
    const { result, exceptionDetails } = await call('script.evaluate', { expression, target: { context }, awaitPromise: true })
    if (exceptionDetails) throw new Error(exceptionDetails.text)
    return result.value
  }
  return {
    complaints,
    evaluate,
    visit: (url) => call('browsingContext.navigate', { context, url, wait: 'complete' }),
    reload: () => call('browsingContext.reload', { context, wait: 'complete' }),
    async until(expression) {
      while (!(await evaluate(`Boolean(${expression})`).catch(() => false))) await new Promise((done) => setTimeout(done, 100))
    },
    async close() {
      const ended = new Promise((resolve) => process.once('exit', resolve))
      process.kill()
      await ended
      rmSync(profile, { recursive: true, force: true })
    },
  }
}

const text = (id) => `document.querySelector('#${id}').textContent`
const learning = "performance.getEntriesByName('first-step').length > 0"
const step = (n) => `Number(${text('fact-step')}.replaceAll(',', '')) >= ${n}`

if (program)
  describe('the playground in Firefox', function () {
    this.timeout(120_000)
    for (const way of ways)
      it(`learns and shows its memory, ${way.isolated ? 'with the headers' : 'without the headers, then with threads, then offline'}`, async () => {
        const site = await open(way)
        const page = await firefox()
        try {
          await page.visit(site.url)
          await page.until(learning)
          assert.match(
            await page.evaluate(text('fact-device')),
            way.isolated ? /^wasm \(.*, (?!1 )\d+ threads\)$/ : /^wasm \(.*1 thread\)$/,
          )
          await page.until(step(40))
          await page.evaluate("document.querySelector('.memory').scrollIntoView()")
          await page.until("document.querySelector('#picture-gates-0')")
          if (!way.isolated) {
            await page.until("!document.querySelector('#threads').hidden")
            await page.evaluate("document.querySelector('#threads').click()")
            await page.until(`crossOriginIsolated && ${step(41)}`)
            assert.match(await page.evaluate(text('fact-device')), /^wasm \(.*, (?!1 )\d+ threads\)$/)
            site.close()
            await page.reload()
            await page.until(learning)
          }
          assert.deepEqual(page.complaints, [])
        } finally {
          await page.close()
          site.close()
        }
      })
  })
else after(() => console.log('      not tried: Firefox, which is not here; FIREFOX=PROGRAM names one'))
