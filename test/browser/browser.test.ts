/**
 * The bundle in a real browser, imported by a page as it lies in the package: it trains as in Node, its claims hold, with shared memory and
 * without.
 */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Kind, Status } from 'fastweights/claims'
import type { Browser, Page } from 'playwright-core'
import { browserFor } from './launch.ts'
import * as program from './program.ts'

const dist = fileURLToPath(new URL('../../', import.meta.url))
const bundle = join(dist, 'browser')
const files = new Set(readdirSync(bundle))
/** Where the bundle is served: whole, and as some bundlers leave it, without worker.js. */
const shipped = '/node_modules/fastweights/dist/browser/'
const copied = '/copied/'

/** The page of docs/browser.md, which lies beside node_modules. */
const example = /```html\n(.*?)```/s.exec(readFileSync(join(dist, '../docs/browser.md'), 'utf8'))![1]

const [importMap] = /<script type="importmap">.*?<\/script>/s.exec(example)!
const html = `<!doctype html><link rel="icon" href="data:,"><title>fastweights</title>
${importMap}
<script type="module">
  import * as program from '/program.js'
  globalThis.program = program
</script>`

/** Import maps don't reach workers. */
const worker = `import { ones, setDevice, sum, wasmDevice } from '/node_modules/fastweights/dist/browser/index.js'
const device = await wasmDevice({ threads: 2 })
setDevice(device)
postMessage([device.description, await sum(ones([400, 1000])).item()])`

/** All that the bundle asks for, beside the page's own inline scripts and icon. */
const policy = "default-src 'none'; script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval'; worker-src 'self'; img-src data:"

/** The bundle, the program and the page on a port of 127.0.0.1, with the headers that isolate it or without. */
async function serve(isolated: boolean): Promise<Server> {
  const server = createServer(({ url = '/' }, response) => {
    if (isolated) {
      response.setHeader('Cross-Origin-Opener-Policy', 'same-origin')
      response.setHeader('Cross-Origin-Embedder-Policy', 'require-corp')
      response.setHeader('Content-Security-Policy', policy)
    }
    const send = (type: string, body: string | Buffer) => response.setHeader('Content-Type', type).end(body)
    const [, folder, file] = /^(.*\/)([^/]*)$/.exec(url)!
    const there = (folder === shipped && files.has(file)) || (folder === copied && files.has(file) && file !== 'worker.js')
    if (url === '/') send('text/html', html)
    else if (url === '/example.html') send('text/html', example)
    else if (url === '/program.js') send('text/javascript', readFileSync(join(dist, 'test/browser/program.js')))
    else if (url === '/in-a-worker.js') send('text/javascript', worker)
    else if (there) send('text/javascript', readFileSync(join(bundle, file)))
    else response.writeHead(404).end()
  })
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(0, '127.0.0.1', resolve))
  return server
}

const steps = 12

/** A dozen kinds of claims: forms, gradients, causality, padding, reductions, facts about memories and features, and a false one. */
const names = [
  'delta: chunk = step',
  'gated-delta: gradients of chunk = autograd of step',
  'gla: causal, to the bit',
  'kda: packed sequences stay apart',
  'mamba2: any chunk length',
  'sum: padding is skipped',
  'oja: gradients of step = differences',
  'rwkv7: state carried over a cut',
  'reductions: a gated delta rule that forgets nothing is the delta rule',
  'attention: the sum rule is a masked matrix product',
  'memory: corrections contract',
  'learning: the sum rule follows similarity',
  'features: Taylor-2 is the second-order exponential',
  'false: delta is stable with any keys',
]
/** Of those that compare with another device: the reference, or the same with more threads. */
const compared = 'delta: device = reference'
const threads = 'delta: threads change nothing'
/** Cases of each, by the device. */
const cases: Record<Kind, number> = { reference: 10, wasm: 10, webgpu: 4 }

describe('the bundle for pages', () => {
  it('holds nothing that only Node has', () => {
    for (const file of files) {
      const text = readFileSync(join(bundle, file), 'utf8')
      assert.doesNotMatch(text, /["'`]node:|\bprocess\.|sourceMappingURL/, file)
    }
  })

  it('has a worker.js that can be copied by itself', () => {
    assert.doesNotMatch(readFileSync(join(bundle, 'worker.js'), 'utf8'), /\b(import|export)\b/)
  })
})

describe('in a browser', function () {
  this.timeout(60_000)
  let browser: Browser | undefined
  const servers: Server[] = []
  const pages: Record<'plain' | 'isolated', Page> = {} as never
  /** What the pages complained about. */
  const complaints: string[] = []

  before(async function () {
    browser = await browserFor(this)
    for (const name of ['plain', 'isolated'] as const) {
      const server = await serve(name === 'isolated')
      servers.push(server)
      const page = await newPage(name)
      await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`)
      pages[name] = page
    }
  })

  afterEach(() => {
    const said = complaints.splice(0)
    assert.deepEqual(said, [], 'a page complained')
  })

  after(async () => {
    await browser?.close()
    for (const server of servers) server.close()
  })

  async function newPage(name: string): Promise<Page> {
    const page = await browser!.newPage()
    // One file is missing on purpose, and the browser may say so a while later.
    const complain = (what: string, url: string): unknown => url.endsWith(`${copied}worker.js`) || complaints.push(`${url}: ${what}`)
    page.on('pageerror', (error) => complaints.push(error.message))
    page.on('crash', () => complaints.push(`the ${name} page crashed`))
    page.on('requestfailed', (request) => complain(`${request.failure()?.errorText}`, request.url()))
    page.on('response', (response) => response.ok() || complain(`${response.status()}`, response.url()))
    page.on('console', (message) => ['error', 'warning'].includes(message.type()) && complain(message.text(), message.location().url))
    return page
  }

  /** Calls a function of program.ts in a page. */
  async function run<Name extends keyof typeof program>(
    page: Page,
    name: Name,
    ...parameters: Parameters<(typeof program)[Name]>
  ): Promise<Awaited<ReturnType<(typeof program)[Name]>>> {
    const call = page.evaluate(
      ([name, parameters]) =>
        (globalThis as unknown as { program: Record<string, (...all: unknown[]) => any> }).program[name](...parameters),
      [name, parameters] as const,
    )
    return call.catch((error: Error) => {
      throw new Error([error.message, ...complaints].join('; '))
    })
  }

  it('wasm trains to the bit as in Node: one thread in any page, two where it is isolated', async () => {
    const node = await program.train('wasm', { steps })
    assert.ok(node.losses[steps - 1] < 0.8 * node.losses[0], `losses ${node.losses}`)
    for (const [name, threads, description] of [
      ['plain', 1, 'wasm (SIMD, 1 thread)'],
      ['isolated', 1, 'wasm (SIMD, 1 thread)'],
      ['isolated', 2, 'wasm (SIMD, 2 threads)'],
    ] as const) {
      const page = await run(pages[name], 'train', 'wasm', { steps, threads })
      assert.deepEqual(page, { ...node, description }, `${name} page`)
    }
  })

  it('WebGPU trains as the reference does in Node', async () => {
    const { losses } = await program.train('reference', { steps })
    const page = await run(pages.plain, 'train', 'webgpu', { steps })
    assert.match(page.description, /^webgpu \(/)
    assert.equal(page.bytes[0], page.bytes[1])
    const errors = page.losses.map((loss, i) => Math.abs(loss - losses[i]) / losses[i])
    // 1e-7 on SwiftShader. Other GPUs may round exp and division by some units more, and training amplifies it.
    assert.ok(Math.max(...errors) < 1e-5, `losses ${page.losses}, in Node ${losses}`)
  })

  for (const [kind, runs] of Object.entries(cases) as [Kind, number][])
    it(`claims hold on ${kind}${kind === 'webgpu' ? ' @long' : ''}`, async () => {
      for (const page of kind === 'wasm' ? [pages.plain, pages.isolated] : [pages.plain]) {
        const expected: Record<string, Status> = {}
        for (const name of names) expected[name] = name.startsWith('false') ? 'refuted' : 'holds'
        expected[compared] = kind === 'reference' ? 'skipped' : 'holds'
        expected[threads] = kind === 'wasm' && page === pages.isolated ? 'holds' : 'skipped'
        assert.deepEqual(await run(page, 'verify', kind, [...names, compared, threads], runs), expected)
      }
    })

  it('says what a page lacks', async () => {
    assert.match(
      await run(pages.plain, 'refusal', 'wasm', 2),
      /^wasm: 2 threads need a cross-origin isolated page \(headers Cross-Origin-Opener-Policy: .*\); without them there can be 1$/,
    )
    const bare = await newPage('bare')
    await bare.addInitScript(() => {
      Object.defineProperty(navigator, 'gpu', { value: undefined })
      delete (globalThis as { WebAssembly?: unknown }).WebAssembly
    })
    await bare.goto(pages.plain.url())
    assert.match(
      await run(bare, 'refusal', 'wasm', 1),
      /^wasm: the kernels don't compile: WebAssembly is not defined \(they need WebAssembly SIMD: /,
    )
    assert.match(await run(bare, 'refusal', 'webgpu', 1), /^webgpu: this browser has no WebGPU here \(it needs a secure page, /)
    await bare.close()
  })

  it('works in a worker of an isolated page, with threads of its own', async () => {
    const [description, sum] = await pages.isolated.evaluate(
      () =>
        new Promise<[string, number]>((resolve, reject) => {
          const worker = new Worker('/in-a-worker.js', { type: 'module' })
          worker.onmessage = ({ data }) => resolve(data)
          worker.onerror = ({ message }) => reject(new Error(message))
        }),
    )
    assert.match(description, /2 threads\)$/)
    assert.equal(sum, 400_000)
  })

  it('without worker.js beside the bundle has one thread and says so, or refuses more', async () => {
    // Text, because the compiler would rewrite the import.
    const opened: [string, string] = await pages.isolated.evaluate(`(async () => {
      const { wasmDevice } = await import('${copied}index.js')
      const refusal = await wasmDevice({ threads: 2, relaxed: false }).catch(({ message }) => message)
      return [(await wasmDevice({ relaxed: false })).description, refusal]
    })()`)
    const reason = /thread \d did not start: worker\.js isn't there, or not a script, beside http:\/\/127\.0\.0\.1:\d+\/copied\/[\w-]+\.js/
      .source
    assert.match(opened[0], new RegExp(`^wasm \\(SIMD, 1 thread, because ${reason}\\)$`))
    assert.match(opened[1], new RegExp(`^wasm: ${reason}$`))
  })

  it('runs the page of docs/browser.md', async () => {
    const page = await newPage('documented')
    await page.goto(new URL('example.html', pages.isolated.url()).href)
    const log = page.locator('#log')
    await log
      .filter({ hasText: 'sample' })
      .waitFor({ timeout: 20_000 })
      .catch(async (error: Error) => {
        throw new Error([error.message, await log.textContent(), ...complaints].join('; '))
      })
    assert.match((await log.textContent())!, /^wasm \(.*threads?\)\n/)
    await page.close()
  })
})
