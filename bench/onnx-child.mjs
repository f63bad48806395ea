/** The process of a contender of the benchmark of exported models. */
import { noGrad, openDevice, scope, setDevice, tensor } from '../dist/engine/index.js'
import { generate, modelOf, readCheckpoint, Transformer, writeCheckpoint } from '../dist/nn/index.js'
import { exportModel } from '../dist/onnx/export.js'
import { presets } from '../dist/tasks/presets.js'
import { enableSimd, serve } from './child.mjs'
import { decoder } from './onnx-decoder.mjs'
import { calibrate, time } from './timing.mjs'

const symbols = 65
/** Tokens that are generated at a time: what it takes to begin is shared. */
const length = 256
const work = {}
const repeats = {}

/** The prompt by a forward pass, tokens by `generate`. */
async function ours(checkpoint, threads, prompt) {
  await enableSimd()
  setDevice(await openDevice('wasm', { wasm: { threads, relaxed: true } }))
  const model = modelOf(checkpoint).train(false)
  const tokens = tensor(prompt, { shape: [1, prompt.length] })
  work.prompt = async (n) => {
    for (let i = 0; i < n; i++) {
      const { logits } = scope(() => ({ logits: noGrad(() => model.forward(tokens)).logits }))
      await logits.read()
      logits.dispose()
    }
  }
  // What `generate` does beside, choosing, is small.
  work.tokens = async (n) => {
    for (let i = 0; i < n; i++) for await (const _ of generate(model, prompt.slice(0, 1), { length, temperature: 0 }));
  }
}

async function theirs(name, checkpoint, threads, prompt) {
  const ort = await import(name)
  const { bytes } = exportModel(checkpoint, { domain: 'com.microsoft', half: false, context: 4096, metadata: {} })
  if (name === 'onnxruntime-web') ort.env.wasm.numThreads = threads
  const options = { intraOpNumThreads: threads, interOpNumThreads: 1 }
  const begin = () => decoder(ort, bytes, 1, options)
  const ids = Array.from(prompt)
  const whole = await begin()
  work.prompt = async (n) => {
    for (let i = 0; i < n; i++) await whole(ids)
  }
  const step = await begin()
  work.tokens = async (n) => {
    for (let i = 0; i < n * length; i++) await step([i % symbols])
  }
}

serve({
  async open({ name, preset, threads, T }) {
    const checkpoint = readCheckpoint(await writeCheckpoint(new Transformer({ ...presets[preset].model, symbols }, 1), null))
    const prompt = Int32Array.from({ length: T }, (_, i) => (i * 7) % symbols)
    await (name === 'fastweights' ? ours(checkpoint, threads, prompt) : theirs(name, checkpoint, threads, prompt))
    for (const part of ['prompt', 'tokens']) repeats[part] = await calibrate(work[part], 0.2, 0.5)
    return { length }
  },
  sample: ({ part }) => time(work[part], repeats[part]),
})
