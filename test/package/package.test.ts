/**
 * The packed package, installed in an empty folder without network: it holds what it should, imports, trains in Node, in a page with a bundler and
 * without, and types a program.
 */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'
import type { Browser } from 'playwright-core'
import { browserFor } from '../browser/launch.ts'

const root = fileURLToPath(new URL('../../../', import.meta.url))

/** Compiled strictly, against the package's own types alone; then run. */
const consumer = `
import { crossEntropy, type Device, scope, setDevice, type Tensor, tensor, wasmDevice, type WebgpuDevice } from 'fastweights'
import { AdamW, constant, generate, readCheckpoint, type StepResult, Trainer, Transformer, writeCheckpoint, writeSafetensors } from 'fastweights/nn'
import { charVocabulary, presets, randomBatches } from 'fastweights/tasks'
import { check, type Claim, Devices, defineClaim, int } from 'fastweights/claims'

declare const console: { log(line: string): void }

const device: Device = await wasmDevice({ threads: 2 })
setDevice(device)
const line = 'the way of a value. '.repeat(20)
const vocabulary = charVocabulary(line)
const tokens: Int32Array = vocabulary.encode(line)
const model = new Transformer({ ...presets.default.model, symbols: vocabulary.size, dModel: 32, heads: 2, layers: 1, dFf: 64 })
const optimizer = new AdamW(model.namedParameters(), { lr: 0.01 })
const trainer = new Trainer(model, optimizer, { schedule: constant(0.01), clipNorm: 1 })
const sampler = randomBatches(tokens, { B: 4, T: 32 })
const steps: StepResult[] = []
for (let step = 0; step < 60; step++) steps.push(await trainer.step(sampler.batch(step)))
const [inputs, targets] = [0, 1].map((shift) => tensor(tokens.slice(shift, shift + 8), { shape: [1, 8] }))
const loss: Tensor = scope(() => crossEntropy(model.forward(inputs).logits, targets))
const value: number = await loss.item()
let text = ''
for await (const token of generate(model, vocabulary.encode('the '), { length: 16, temperature: 0 })) text += vocabulary.decode([token])
const file: Uint8Array = writeSafetensors(await model.stateDict())
const saved = readCheckpoint(await writeCheckpoint(model, optimizer))
const claim: Claim = defineClaim({
  name: 'mine: sizes',
  section: 'mine',
  statement: 'A tensor has its size.',
  equation: 'n = n',
  source: 'me',
  fields: { n: int(1, 5) },
  left: (c, x) => ({ size: x.tensor('a', [c.n]).size }),
  right: (c) => ({ size: c.n }),
})
const { status } = await check(claim, await Devices.open('wasm'))
export const lose = (device: WebgpuDevice): void => device.gpu.destroy()
// @ts-expect-error: the types know the rules
export const refused = () => new Transformer({ symbols: 3, rule: 'gamma' })
console.log(JSON.stringify({ first: steps[0].loss, last: steps[59].loss, value, text, bytes: file.length, steps: saved.steps, status, description: device.description }))
`

/** A rule of a user's own, beside an installed package. */
const rule = `
import { add, outer, readOut } from 'fastweights'
import { defineRule } from 'fastweights/claims'
const shape = (last) => ({ shape: ['B', 'T', 'H', last], values: 'any' })
export const rules = [defineRule({
  name: 'my-sum',
  inputs: { q: shape('K'), k: shape('K'), v: shape('V') },
  state: { S: ['B', 'H', 'K', 'V'] },
  step({ S }, { q, k, v }) {
    const next = add(S, outer(k, v))
    return { y: readOut(next, q), state: { S: next } }
  },
  equals: 'sum',
})]
`

/** A program for pages. */
const page = `
import { scope, setDevice, wasmDevice } from 'fastweights'
import { AdamW, constant, Trainer, Transformer } from 'fastweights/nn'
import { charVocabulary, randomBatches } from 'fastweights/tasks'
import { claims } from 'fastweights/claims'
const device = await wasmDevice({ threads: 2 })
setDevice(device)
const text = 'the way of a value. '.repeat(20)
const vocabulary = charVocabulary(text)
const model = new Transformer({ symbols: vocabulary.size, dModel: 16, heads: 2, layers: 1, dFf: 32 })
const trainer = new Trainer(model, new AdamW(model.namedParameters(), { lr: 0.01 }), { schedule: constant(0.01), clipNorm: 1 })
const batches = randomBatches(vocabulary.encode(text), { B: 2, T: 16 })
const losses = []
for (let step = 0; step < 30; step++) losses.push((await trainer.step(batches.batch(step))).loss)
globalThis.result = { losses, description: device.description, claims: claims.length, scope: typeof scope }
`

describe('the package', () => {
  const folder = mkdtempSync(join(tmpdir(), 'fastweights-package-'))
  const installed = (name: string): string => readFileSync(join(folder, 'node_modules/fastweights', name), 'utf8')
  after(() => rmSync(folder, { recursive: true, force: true }))

  const run = (command: string, parameters: readonly string[], cwd = folder): string =>
    // On Windows, npm is a script.
    execFileSync(command, parameters, { cwd, shell: process.platform === 'win32', encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
  const node = (...parameters: string[]): string => run(process.execPath, parameters)

  let files: { path: string; size: number }[]
  let tarball: string

  it('packs what is needed to run, and nothing else', () => {
    const [packed] = JSON.parse(run('npm', ['pack', '--ignore-scripts', '--json', '--pack-destination', folder], root))
    files = packed.files
    console.log(
      `      ${packed.filename}: ${Math.round(packed.size / 1000)} kB packed, ${Math.round(packed.unpackedSize / 1000)} kB in ${files.length} files`,
    )
    const wanted =
      /^((dist\/)?package\.json|README\.md|CHANGELOG\.md|LICENSE|docs\/[\w-]+\.(md|svg)|examples\/conformance\/\w+\.(mjs|py)|dist\/browser\/[\w-]+\.js|dist\/node\/(engine|nn|tasks|claims|cli)\/[\w-]+\.js|dist\/(engine|nn|tasks|claims)\/.*\.d\.ts)$/
    const strangers = files.filter(({ path }) => !wanted.test(path) || /test/.test(path))
    assert.deepEqual(
      strangers.map(({ path }) => path),
      [],
    )
    assert.deepEqual(
      files.filter(({ size }) => size > 1_000_000),
      [],
    )
    assert.ok(packed.size < 1_400_000)
    const { dependencies, optionalDependencies, peerDependencies, peerDependenciesMeta } = JSON.parse(
      readFileSync(join(root, 'package.json'), 'utf8'),
    )
    // For ONNX files; for tokenizers of other packages; and for claims: generated cases, and equations in their report.
    assert.deepEqual(Object.keys({ ...dependencies, ...optionalDependencies }), [
      '@bufbuild/protobuf',
      '@huggingface/tokenizers',
      'fast-check',
      'temml',
    ])
    // Only who wants a GPU in Node installs what gives it one.
    assert.deepEqual([Object.keys(peerDependencies), peerDependenciesMeta], [['webgpu'], { webgpu: { optional: true } }])
    writeFileSync(join(folder, 'package.json'), '{ "private": true, "type": "module" }')
    // Without network the dependencies, and theirs, come packed from where they are installed.
    const needed = ['@bufbuild/protobuf', '@huggingface/tokenizers', 'fast-check', 'pure-rand', 'temml'].map(
      (name) => `./node_modules/${name}`,
    )
    const others = JSON.parse(run('npm', ['pack', '--ignore-scripts', '--json', '--pack-destination', folder, ...needed], root))
    const tarballs = [packed, ...others].map(({ filename }: { filename: string }) => `./${filename.replace('@', '').replace('/', '-')}`)
    run('npm', ['install', '--offline', '--ignore-scripts', '--no-audit', '--no-fund', ...tarballs])
    tarball = tarballs[0]
    for (const { path } of files.filter(({ path }) => path.endsWith('.js'))) assert.doesNotMatch(installed(path), /sourceMappingURL/, path)
  })

  it('has every file that its exports and its bin name, and hides the others', () => {
    const { exports, bin } = JSON.parse(installed('package.json'))
    const named = [
      ...Object.values<Record<'types' | 'browser' | 'default', string>>(exports).flatMap((entry) => Object.values(entry)),
      ...Object.values<string>(bin).map((path) => `./${path}`),
    ]
    // What README.md links to, too; contributing takes a clone.
    for (const [, link] of installed('README.md').matchAll(/\]\((?!https:|CONTRIBUTING)([^)#]+)/g)) named.push(`./${link}`)
    for (const name of named)
      assert.ok(
        files.some(({ path }) => `./${path}` === name),
        name,
      )
    assert.throws(() => node('-e', "import('fastweights/dist/cli/files.js')"), /ERR_PACKAGE_PATH_NOT_EXPORTED/)
    for (const name of ['fastweights', 'fastweights/nn', 'fastweights/tasks', 'fastweights/claims'])
      assert.ok(Number(node('-e', `import('${name}').then((all) => console.log(Object.keys(all).length))`)) > 3, name)
  })

  // BlockPart is a Part among its own.
  it('calls its classes what they are called, as errors do, in Node and, where names are short, in pages', () => {
    for (const condition of ['node', 'browser']) {
      const misnamed = node(
        '-C',
        condition,
        '-e',
        `for (const name of ['', '/nn', '/tasks', '/claims']) import('fastweights' + name).then((all) => {
          for (const [name, it] of Object.entries(all)) if (/^class/.test(it) && !name.endsWith(it.name)) console.log(name, it.name)
        })`,
      )
      assert.equal(misnamed, '', condition)
      const wrong = "import('fastweights').then(({ ones, tensor }) => tensor(ones([1])))"
      assert.throws(() => node('-C', condition, '-e', wrong), /not a Tensor\n/, condition)
    }
  })

  it('needs none of its dependencies but for claims, ONNX and tokenizers', () => {
    const bare = join(folder, 'bare')
    mkdirSync(join(bare, 'node_modules'), { recursive: true })
    run('tar', ['-xzf', `../../${tarball}`], join(bare, 'node_modules'))
    renameSync(join(bare, 'node_modules/package'), join(bare, 'node_modules/fastweights'))
    // Out of reach of what the folder above has installed.
    const apart = mkdtempSync(join(tmpdir(), 'fastweights-bare-'))
    try {
      renameSync(bare, join(apart, 'bare'))
      const load = (name: string): string =>
        run(process.execPath, ['-e', `import('${name}').then((all) => console.log(Object.keys(all).length))`], join(apart, 'bare'))
      for (const name of ['fastweights', 'fastweights/nn', 'fastweights/tasks']) assert.ok(Number(load(name)) > 3, name)
      assert.throws(() => load('fastweights/claims'), /Cannot find package 'fast-check'/)
      const main = join(apart, 'bare/node_modules/fastweights/dist/node/cli/main.js')
      assert.match(run(process.execPath, [main, 'train', '--help'], apart), /^fastweights train/)
      assert.match(run(process.execPath, [main, 'doctor', '--device', 'reference'], apart), /all well/)
    } finally {
      rmSync(apart, { recursive: true, force: true })
    }
  })

  it('types a strict program, which then trains on threads', () => {
    writeFileSync(join(folder, 'consumer.ts'), consumer)
    const tsc = join(dirname(createRequire(import.meta.url).resolve('typescript/package.json')), 'bin/tsc')
    const strict = [tsc, '--strict', '--module', 'nodenext', '--target', 'es2022', '--types', '', 'consumer.ts']
    node(...strict, '--lib', 'es2023,dom')
    // Without `dom`, too, and so with that of TypeScript 5, which has no WebGPU.
    node(...strict, '--lib', 'es2023', '--noEmit')
    const { first, last, value, text, steps, status, description } = JSON.parse(node('consumer.js'))
    assert.match(description, /^wasm \((relaxed )?SIMD, 2 threads\)$/)
    assert.ok(first > 2 && last < 0.5, `loss from ${first} to ${last}`)
    assert.ok(value > 0)
    assert.equal(text, 'way of a value. ')
    assert.equal(steps, 60)
    assert.equal(status, 'holds')
  })

  it('asked for a GPU, says which package gives Node one', () => {
    const source = "import('fastweights').then(({ webgpuDevice }) => webgpuDevice()).catch((error) => console.log(error.message))"
    assert.match(node('-e', source), /^webgpu: the package `webgpu` is not installed; .*: npm install webgpu \(.*\)\n$/)
  })

  it('trains in a page, from a bundle and without one', async function () {
    this.timeout(30_000)
    const names = ['index', 'nn', 'tasks', 'claims']
    const shipped = 'node_modules/fastweights/dist/browser'
    const addresses = names.map((name) => [name === 'index' ? 'fastweights' : `fastweights/${name}`, `/${shipped}/${name}.js`])
    const map = JSON.stringify({ imports: Object.fromEntries(addresses) })
    const icon = '<!doctype html><link rel="icon" href="data:,">'
    mkdirSync(join(folder, 'bundled'))
    writeFileSync(join(folder, 'page.js'), page)
    writeFileSync(
      join(folder, 'plain.html'),
      `${icon}<script type="importmap">${map}</script><script type="module" src="page.js"></script>`,
    )
    writeFileSync(join(folder, 'bundled/index.html'), `${icon}<script type="module" src="page.js"></script>`)
    // As docs/browser.md says: through the `browser` condition, with worker.js beside the bundle.
    await build({ absWorkingDir: folder, entryPoints: ['page.js'], outdir: 'bundled', bundle: true, format: 'esm' })
    copyFileSync(join(folder, shipped, 'worker.js'), join(folder, 'bundled/worker.js'))
    const browser: Browser = await browserFor(this)
    const server = createServer(({ url = '/' }, response) => {
      response.setHeader('Cross-Origin-Opener-Policy', 'same-origin')
      response.setHeader('Cross-Origin-Embedder-Policy', 'require-corp')
      response.setHeader('Content-Type', url.endsWith('.js') ? 'text/javascript' : 'text/html')
      response.end(readFileSync(join(folder, url)))
    })
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    try {
      const results: { losses: number[]; description: string; claims: number }[] = []
      for (const path of ['plain.html', 'bundled/index.html']) {
        const tab = await browser.newPage()
        const complaints: string[] = []
        tab.on('pageerror', ({ message }) => complaints.push(message))
        await tab.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/${path}`)
        const done = tab.waitForFunction(() => (globalThis as { result?: unknown }).result, null, { timeout: 15_000 })
        const handle = await done.catch((error: Error) => {
          throw new Error([error.message, ...complaints].join('; '))
        })
        results.push((await handle.jsonValue()) as (typeof results)[number])
        await tab.close()
      }
      const [plain, bundled] = results
      assert.match(plain.description, /^wasm \((relaxed )?SIMD, 2 threads\)$/)
      assert.ok(plain.losses[29] < 0.8 * plain.losses[0], `losses ${plain.losses}`)
      assert.ok(plain.claims > 800)
      assert.deepEqual(bundled, plain)
    } finally {
      await browser.close()
      server.close()
    }
  })

  it('is published as it is: npm has nothing to correct', () => {
    // `npm publish` corrects without asking, and what it can't read, such as a command's path, it drops.
    const fixed = join(folder, 'fixed')
    mkdirSync(fixed)
    copyFileSync(join(root, 'package.json'), join(fixed, 'package.json'))
    run('npm', ['pkg', 'fix'], fixed)
    assert.deepEqual(
      JSON.parse(readFileSync(join(fixed, 'package.json'), 'utf8')),
      JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')),
    )
  })

  it('has what changed in its version', () => {
    const { version } = JSON.parse(installed('package.json'))
    assert.match(installed('CHANGELOG.md'), new RegExp(`^## (Unreleased|${version.replaceAll('.', '\\.')}(, \\d{4}-\\d{2}-\\d{2})?)$`, 'm'))
  })

  it('has its command on the path', () => {
    assert.equal(run('npx', ['--no-install', 'fastweights', '--version']), `fastweights ${JSON.parse(installed('package.json')).version}\n`)
    writeFileSync(join(folder, 'text.txt'), 'It is a text. '.repeat(60))
    const sizes = '--d-model 16 --heads 2 --layers 1 --d-ff 32 --seq-len 16 --batch 2 --steps 2 --sample-length 5'
    assert.match(run('npx', ['--no-install', 'fastweights', 'train', '--text', 'text.txt', ...sizes.split(' ')]), /^wrote runs/m)
    assert.match(run('npx', ['--no-install', 'fastweights', 'generate', '--length', '5']), /^It is/)
    writeFileSync(join(folder, 'rule.mjs'), rule)
    const verified = run('npx', ['--no-install', 'fastweights', 'verify', './rule.mjs', '--runs', '5', '--report', 'page.html'])
    assert.match(verified, /^\d+ claims, 5 cases each: \d+ hold; .*\nwrote page\.html\n$/m)
    assert.match(readFileSync(join(folder, 'page.html'), 'utf8'), /<math/)
  })
})
