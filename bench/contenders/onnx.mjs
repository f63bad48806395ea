/**
 * onnxruntime-web, wasm provider (MLAS), default session options. Its API copies inputs in and outputs out on every run, so one run is a
 * chain of products C = A B B ... B inside the session: with 16 (n <= 128) or 4 of them, copies and the session's call cost a few per cent.
 * B is a constant of the model, as weights are, so that the session packs it once, before the clock starts.
 */

import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'
import { constant, model, node } from '../onnx-model.mjs'

const chainOf = (n, dataB, products) =>
  model({
    nodes: Array.from({ length: products }, (_, i) => node({ op: 'MatMul', inputs: [`c${i}`, 'b'], outputs: [`c${i + 1}`] })),
    constants: [constant('b', [n, n], dataB)],
    inputs: { c0: [n, n] },
    outputs: { [`c${products}`]: [n, n] },
    opsets: { '': 17 },
  })

export async function open({ threads }) {
  const ort = await import(pathToFileURL(createRequire(import.meta.url).resolve('onnxruntime-web')).href)
  ort.env.wasm.numThreads = threads
  ort.env.logLevel = 'error'
  const session = (n, dataB, products) =>
    ort.InferenceSession.create(new Uint8Array(chainOf(n, dataB, products)), { executionProviders: ['wasm'] })
  let held
  return {
    threads,
    async prepare(n, dataA, dataB) {
      await held?.release()
      const products = n <= 128 ? 16 : 4
      const chain = await session(n, dataB, products)
      held = chain
      const feeds = { c0: new ort.Tensor('float32', dataA, [n, n]) }
      return {
        flops: 2 * n ** 3 * products,
        product: async () => {
          const one = await session(n, dataB, 1)
          const { c1 } = await one.run(feeds)
          await one.release()
          return c1.data
        },
        work: async (repeats) => {
          for (let i = 0; i < repeats; i++) await chain.run(feeds)
        },
      }
    },
  }
}
