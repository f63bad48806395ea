/** What a page of the browser benchmark does: `await called(name, argument)`. One contender a page. */
import { setDevice, wasmDevice } from '../dist/engine/index.js'
import { generate, Transformer } from '../dist/nn/index.js'
import { presets } from '../dist/tasks/index.js'
import { product } from './product.mjs'
import { training } from './training.mjs'

let device
let work

const seconds = async (work) => {
  const start = performance.now()
  await work()
  return (performance.now() - start) / 1000
}

const functions = {
  ...product,
  /** A training step of a setting of `train`. */
  async openStep({ setting, ...options }) {
    device = await wasmDevice(options)
    const { model, step } = training(setting, device)
    work = step
    return { parameters: model.parameterCount(), description: device.description }
  },
  /** So many characters by the model of `npm start`, with random weights, after a short prompt. */
  async openText({ length, ...options }) {
    device = await wasmDevice(options)
    setDevice(device)
    const model = new Transformer({ ...presets.default.model, symbols: 65 }, 1)
    work = async () => {
      for await (const _ of generate(model, Int32Array.of(1, 2, 3, 4, 5), { length }));
    }
    return { description: device.description }
  },
  seconds: () => seconds(work),
}

globalThis.called = (name, argument) => functions[name](argument)
