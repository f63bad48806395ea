/**
 * The site in Firefox, over WebDriver BiDi: where `firefox` or `firefox-esr` is on the path, or FIREFOX names the program. playwright-core has no
 * Firefox but its own.
 */
import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import WebSocket from 'ws'
import { load, open, threads, ways } from './harness.mjs'
import { elsewhere } from './hostile.mjs'

const program = [process.env.FIREFOX, 'firefox', 'firefox-esr'].find(
  (name) => name && spawnSync(name, ['--version'], { stdio: 'ignore' }).status === 0,
)

/** Firefox with a new profile. */
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
  /** What each page's scripts complain about. */
  const complaints = new Map()
  socket.on('message', (data) => {
    const { id, type, result, message, method, params } = JSON.parse(data)
    if (method === 'log.entryAdded' && params.level === 'error') complaints.get(params.source.context)?.push(params.text)
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
  return {
    /** A page with a storage of its own, and what is needed of it. Texts are JavaScript for the page. */
    async visit(url) {
      const { userContext } = await call('browser.createUserContext')
      const { context } = await call('browsingContext.create', { type: 'tab', userContext })
      complaints.set(context, [])
      const evaluate = async (expression) => {
        const { result, exceptionDetails } = await call('script.evaluate', { expression, target: { context }, awaitPromise: true })
        if (exceptionDetails) throw new Error(exceptionDetails.text)
        return result.value
      }
      await call('browsingContext.navigate', { context, url, wait: 'complete' })
      return {
        complaints: complaints.get(context),
        evaluate,
        click: (what) => evaluate(`document.querySelector('${what}').click()`),
        text: (what) => evaluate(`document.querySelector('${what}').textContent`),
        reload: () => call('browsingContext.reload', { context, wait: 'complete' }),
        async until(expression) {
          while (!(await evaluate(`Boolean(${expression})`).catch(() => false))) await new Promise((done) => setTimeout(done, 100))
        },
        close: () => call('browser.removeUserContext', { userContext }),
      }
    },
    async close() {
      const ended = new Promise((resolve) => process.once('exit', resolve))
      process.kill()
      await ended
      rmSync(profile, { recursive: true, force: true })
    },
  }
}

const learning = "performance.getEntriesByName('first-step').length > 0"
const step = (n) => `Number(document.querySelector('#fact-step').textContent.replaceAll(',', '')) >= ${n}`
const ready = "document.querySelector('html[data-ready]')"
const ended = "document.querySelector('#stop:disabled')"

if (program)
  for (const way of ways)
    describe(`the site in Firefox, at ${way.path} with${way.isolated ? '' : 'out'} the headers`, function () {
      this.timeout(120_000)
      let browser
      let site
      before(async () => {
        browser = await firefox()
        site = await open(way)
      })
      after(async () => {
        await browser?.close()
        site?.close()
      })

      it('checks claims', async () => {
        const page = await browser.visit(`${site.url}claims/#v=1&claim=delta%3A+chunk+%3D+step&runs=3`)
        await page.until("document.querySelector('article.target button')")
        await page.click('article.target button')
        await page.until("document.querySelector('article.target[data-status]:not([data-status=running])')")
        assert.match(await page.text('article.target .status'), /^holds on wasm, 3 cases, largest error /)
        assert.deepEqual(page.complaints, [])
        await page.close()
      })

      it("runs the documents' example in the sandbox", async () => {
        const page = await browser.visit(`${site.url}claims/own/`)
        await page.until(ready)
        await page.evaluate("document.querySelector('#runs').value = '3'")
        await page.click('#run')
        await page.until(ended)
        assert.equal(await page.text('#problem'), '')
        assert.match(await page.text('#summary'), /^9 claims checked: 9 as stated; largest error /)
        assert.equal(await page.evaluate("document.querySelectorAll('iframe').length"), 0)
        assert.deepEqual(page.complaints, [])
        await page.close()
      })

      it('code of a link reaches neither storage nor network nor the page', async () => {
        const there = await elsewhere()
        const { codeHash } = await load('claims/link.ts')
        const page = await browser.visit(
          `${site.url}claims/own/${await codeHash({ code: there.code(site.url), device: 'wasm', runs: 5, seed: 1 })}`,
        )
        await page.until(`${ready} && !document.querySelector('#stranger').hidden`)
        await page.evaluate(
          "void (globalThis.channel = new BroadcastChannel('here')).addEventListener('message', () => channel.postMessage('!'))",
        )
        assert.equal(await page.evaluate("document.querySelectorAll('iframe').length"), 0)
        await page.click('#run')
        await page.until(ended)
        assert.equal(await page.text('#problem'), `reached nothing from null${way.isolated ? ', isolated' : ''} (line 20)`)
        assert.equal(site.bytes.has('from-the-sandbox'), false)
        assert.equal(there.asked, 0)
        await page.close()
      })

      it('measures its speed, and makes a link', async () => {
        const page = await browser.visit(`${site.url}speed/`)
        await page.until(ready)
        await page.click('#run')
        await page.until("document.querySelectorAll('#own thead th').length > 1 || document.querySelector('#stop:disabled')")
        await page.evaluate("document.querySelector('#stop').click()")
        await page.until(ended)
        assert.match(await page.text('#own thead th'), /^wasm, one threadwasm \((relaxed )?SIMD, 1 thread\)$/)
        await page.click('#link')
        await page.until("location.hash.startsWith('#result=1.')")
        const other = await browser.visit(await page.evaluate('location.href'))
        await other.until("document.querySelector('#linked table')")
        const numbers = (id) =>
          `JSON.stringify([...document.querySelectorAll('#${id} tbody td:nth-child(2)')].map(({ textContent }) => textContent))`
        assert.equal(await other.evaluate(numbers('linked')), await page.evaluate(numbers('own')))
        assert.deepEqual([...page.complaints, ...other.complaints], [])
        await other.close()
        await page.close()
      })

      // The last one: it takes the server away.
      it('learns and shows its memory; then has threads, and is there offline', async () => {
        const page = await browser.visit(site.url)
        await page.until(learning)
        assert.match(await page.text('#fact-device'), threads(way))
        await page.until(step(40))
        await page.evaluate("document.querySelector('.memory').scrollIntoView()")
        await page.until("document.querySelector('#picture-gates-0')")
        await page.evaluate(`(async () => {
          const { active } = await navigator.serviceWorker.ready
          while (active.state !== 'activated') await new Promise((done) => setTimeout(done, 50))
        })()`)
        if (!way.isolated) {
          await page.until("!document.querySelector('#threads').hidden")
          await page.click('#threads')
          await page.until(`crossOriginIsolated && ${step(41)}`)
        }
        site.close()
        await page.reload()
        await page.until(learning)
        assert.match(await page.text('#fact-device'), threads({ isolated: true }))
        assert.deepEqual(page.complaints, [])
        await page.close()
      })
    })
else after(() => console.log('      not tried: Firefox, which is not here; FIREFOX=PROGRAM names one'))
