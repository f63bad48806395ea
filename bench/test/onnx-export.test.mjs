/**
 * Exported models in onnxruntime, which others wrote: logits beside ours, the prompt at once and token by token. With the operators of com.microsoft in Node,
 * in WebAssembly and in a page; where Python has onnx and onnxruntime, with those of the standard there, and in onnx's reference evaluator.
 */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import * as node from 'onnxruntime-node'
import * as web from 'onnxruntime-web'
import { noGrad, referenceDevice, setDevice, tensor } from '../../dist/engine/index.js'
import { modelOf, readCheckpoint, Transformer, writeCheckpoint } from '../../dist/nn/index.js'
import { exportModel } from '../../dist/onnx/export.js'
import { presets } from '../../dist/tasks/presets.js'
import { launch } from '../../dist/test/browser/launch.js'
import { decoded, decoder } from '../onnx-decoder.mjs'

const symbols = 19
const small = { dModel: 32, heads: 4, layers: 2, dFf: 48, dropout: 0 }
const around = { ...presets.default.model, ...small, featureMap: 'silu', featureNorm: 'l2', conv: 4 }
const withRule = (rule, more = {}) => ({ ...around, rule, ...more })
const preset = (name, more = {}) => ({ ...presets[name].model, ...small, ...more })
const aft = (kind, more) => ({ ...presets[kind].model, ...small, mixer: { kind, ...more } })

/** `standard`: consists of LinearAttention, CausalConvWithState and elementary nodes. */
const systems = {
  'the sum rule': { config: withRule('sum', { positions: 'rotary' }), standard: true },
  'linear attention': { config: preset('linear-transformer'), standard: true },
  'the gated sum rule': { config: withRule('mamba2'), standard: true },
  'gated linear attention': { config: withRule('gla'), standard: true },
  'the delta rule': { config: withRule('delta'), standard: true },
  'the gated delta rule': { config: withRule('gated-delta'), standard: true },
  KDA: { config: withRule('kda'), standard: true },
  "npm start's run": { config: presets.default.model },
  'a hybrid': { config: { ...around, mixer: ['kda', 'kda', 'softmax'], layers: 3, positions: 'rotary' } },
  'softmax attention': { config: preset('softmax') },
  // Shorter than the sequence.
  'AFT-full': { config: aft('aft-full', { tableLength: 9 }) },
  'AFT-local': { config: aft('aft-local', { tableLength: 12, window: 5 }) },
  'AFT-simple': { config: preset('aft-simple') },
  'AFT-conv': { config: aft('aft-conv', { window: 4, heads: 4 }) },
  'Delta RNN': { config: preset('delta-rnn') },
  SRWM: { config: preset('srwm') },
  LSTM: { config: { ...preset('lstm'), heads: 1 } },
  'Delta MLP': { config: preset('delta-mlp') },
  'RWKV-4': { config: preset('rwkv4') },
  'RWKV-7': { config: withRule('rwkv7') },
  Mesa: { config: withRule('mesa') },
  'log-linear attention': { config: preset('log-linear') },
  'a loop over tokens beside softmax attention': {
    config: { ...around, mixer: ['delta-momentum', 'softmax'], positions: 'rotary', activation: 'gelu', norm: 'layer', tie: true },
  },
  'TTT, token by token': { config: withRule('ttt', { featureMap: 'identity', featureNorm: 'none', minibatch: 1 }) },
}

const [B, T] = [2, 27]
const random = (seed) => () => {
  seed = (Math.imul(seed, 1664525) + 1013904223) | 0
  return (seed >>> 8) / 2 ** 24
}

/** A model with nothing left as it begins, its checkpoint and logits. */
async function made(config) {
  setDevice(referenceDevice())
  const next = random(7)
  const first = new Transformer({ ...config, symbols })
  for (const p of first.namedParameters().values()) {
    const values = await p.read()
    if (values.every((x) => x === values[0])) p.write(Float32Array.from(values, (x) => x + 0.2 * (next() - 0.5)))
  }
  const checkpoint = readCheckpoint(await writeCheckpoint(first, null))
  const model = modelOf(checkpoint).train(false)
  const ids = Int32Array.from({ length: B * T }, () => Math.floor(next() * symbols))
  const { logits } = noGrad(() => model.forward(tensor(ids, { shape: [B, T] })))
  return { checkpoint, model, ids, expected: Array.from(await logits.read()) }
}

const exported = (checkpoint, domain, more = {}) => exportModel(checkpoint, { domain, half: false, context: 64, metadata: {}, ...more })

const largest = (a, b) => {
  assert.equal(a.length, b.length)
  let error = 0
  for (let i = 0; i < a.length; i++) error = Math.max(error, Number.isFinite(a[i]) ? Math.abs(a[i] - b[i]) : Infinity)
  return error
}

const errors = ({ whole, pieces }, expected) => ({ whole: largest(whole, expected), stepwise: largest(pieces, expected) })

/** A server of what a page needs: onnxruntime-web as it is published, and the model at hand. */
async function served(model) {
  const ort = dirname(createRequire(import.meta.url).resolve('onnxruntime-web'))
  const server = createServer(({ url = '/' }, response) => {
    const send = (type, body) => response.setHeader('Content-Type', type).end(body)
    const [, file] = /^\/ort\/([\w.-]+)$/.exec(url) ?? []
    if (url === '/') send('text/html', '<!doctype html><link rel="icon" href="data:,"><title>onnx</title>')
    else if (url === '/decoder.mjs') send('text/javascript', readFileSync(new URL('../onnx-decoder.mjs', import.meta.url)))
    else if (url === '/model.onnx') send('application/octet-stream', Buffer.from(model.bytes))
    else if (file) send(file.endsWith('.wasm') ? 'application/wasm' : 'text/javascript', readFileSync(join(ort, file)))
    else response.writeHead(404).end()
  })
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
  return server
}

/** Runs in the page. */
const inPage = async ({ ids, sizes }) => {
  const ort = await import('/ort/ort.wasm.min.mjs')
  ort.env.wasm.numThreads = 1
  const { decoded } = await import('/decoder.mjs')
  const bytes = new Uint8Array(await (await fetch('/model.onnx', { cache: 'no-store' })).arrayBuffer())
  return decoded(ort, bytes, ids, sizes)
}

const bound = 1e-4
const python = ['python3', 'python'].find(
  (name) =>
    spawnSync(name, ['-c', "import onnx, onnxruntime; assert onnx.__version__ >= '1.23' and onnxruntime.__version__ >= '1.32'"]).status ===
    0,
)

describe('exported models in onnxruntime', () => {
  const seen = {}
  after(() => {
    const errors = Object.entries(seen).map(([name, error]) => `${name} ${error.toExponential(1)}`)
    console.log(`      the largest errors of logits: ${errors.join(', ')}`)
    if (python === undefined)
      console.log("      not tried: the standard's operators, for which Python must have onnx 1.23 and onnxruntime 1.32")
  })
  const note = (where, { whole, stepwise }) => {
    seen[where] = Math.max(seen[where] ?? 0, whole, stepwise)
    assert.ok(whole <= bound && stepwise <= bound, `${where}: at once ${whole}, token by token ${stepwise}`)
  }
  let folder
  /** What the page loads, and the page; none where there is no browser. */
  const current = { bytes: new Uint8Array() }
  let server, browser, page
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'onnx-export-'))
    server = await served(current)
    try {
      browser = await launch()
    } catch (error) {
      if (process.env.REQUIRE_GPU === '1') throw error
      return
    }
    page = await browser.newPage()
    await page.goto(`http://127.0.0.1:${server.address().port}/`)
  })
  after(async () => {
    await browser?.close()
    server.close()
    rmSync(folder, { recursive: true })
  })

  for (const [name, { config, standard = false }] of Object.entries(systems))
    it(name, async () => {
      const model = await made(config)
      const { bytes, nodes } = exported(model.checkpoint, 'com.microsoft')
      if (standard)
        assert.deepEqual([nodes.LinearAttention, nodes.Scan], [config.layers * (name === 'linear attention' ? 2 : 1), undefined])
      const ids = Array.from(model.ids)
      note('node', errors(await decoded(node, bytes, ids, [B, T]), model.expected))
      note('web', errors(await decoded(web, bytes, ids, [B, T]), model.expected))
      if (page) {
        current.bytes = bytes
        note('a page', errors(await page.evaluate(inPage, { ids, sizes: [B, T] }), model.expected))
      }
      if (python === undefined) return
      const file = join(folder, 'model.onnx')
      writeFileSync(file, exported(model.checkpoint, 'ai.onnx').bytes)
      writeFileSync(join(folder, 'case.json'), JSON.stringify({ B, T, ids: Array.from(model.ids), expected: model.expected }))
      const script = fileURLToPath(new URL('../onnx-export.py', import.meta.url))
      const out = JSON.parse(
        execFileSync(python, [script, file, join(folder, 'case.json')], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }),
      )
      for (const [where, error] of Object.entries(out)) note(`${where} of Python`, error)
    })

  it('200 characters chosen by ours: logits beside ours', async () => {
    const { checkpoint, model } = await made(presets.default.model)
    const step = await decoder(node, exported(checkpoint, 'com.microsoft').bytes, 1)
    let state
    let token = 3
    let error = 0
    let same = 0
    for (let i = 0; i < 200; i++) {
      const next = noGrad(() => model.forward(tensor(Int32Array.of(token), { shape: [1, 1] }), state))
      state = next.state
      const ours = Array.from(await next.logits.read())
      const theirs = Array.from(await step([token]))
      error = Math.max(error, largest(theirs, ours))
      const [best, second] = [...ours].sort((a, b) => b - a)
      token = ours.indexOf(best)
      if (best - second > 1e-3) {
        assert.equal(theirs.indexOf(Math.max(...theirs)), token, `character ${i}`)
        same++
      }
    }
    assert.ok(error <= bound, `${error}`)
    assert.ok(same > 150, `${same} were clear choices`)
  })

  it('parameters in float16 make half the file, and logits near', async () => {
    const model = await made(presets.default.model)
    const [full, half] = [false, true].map((half) => exported(model.checkpoint, 'com.microsoft', { half }).bytes)
    assert.ok(half.length < 0.6 * full.length, `${half.length} of ${full.length} bytes`)
    const { whole, stepwise } = errors(await decoded(node, half, Array.from(model.ids), [B, T]), model.expected)
    const scale = Math.max(...model.expected.map(Math.abs))
    assert.ok(whole > 0 && Math.max(whole, stepwise) < 1e-2 * scale, `${whole} and ${stepwise}, of ${scale}`)
  })
})
