/**
 * onnxruntime-web, wasm provider (MLAS), default session options. Its API copies inputs in and outputs out on every run, so one run is a
 * chain of products C = A B B ... B inside the session: with 16 (n <= 128) or 4 of them, copies and the session's call cost a few per cent.
 * B is a constant of the model, as weights are, so that the session packs it once, before the clock starts.
 */

import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'
import { version } from '../report.mjs'

// The parts of onnx.proto that a chain of MatMul nodes needs. Wire types: 0 varint, 2 bytes.
const varint = (n) => (n < 128 ? [n] : [(n & 127) | 128, ...varint(Math.floor(n / 128))])
const int = (field, n) => Buffer.from([field << 3, ...varint(n)])
const bytes = (field, data) => Buffer.concat([Buffer.from([(field << 3) | 2, ...varint(data.length)]), data])
const text = (field, s) => bytes(field, Buffer.from(s))
const message = (field, ...parts) => bytes(field, Buffer.concat(parts))

const float = 1
const valueInfo = (field, name, n) => {
  const dim = message(1, int(1, n))
  return message(field, text(1, name), message(2, message(1, int(1, float), message(2, dim, dim))))
}
const initializer = (name, n, data) =>
  message(5, int(1, n), int(1, n), int(2, float), text(8, name), bytes(9, Buffer.from(data.buffer, data.byteOffset, data.byteLength)))

function model(n, dataB, products) {
  const nodes = Array.from({ length: products }, (_, i) =>
    message(1, text(1, `c${i}`), text(1, 'b'), text(2, `c${i + 1}`), text(4, 'MatMul')),
  )
  const graph = message(7, ...nodes, text(2, 'chain'), initializer('b', n, dataB), valueInfo(11, 'c0', n), valueInfo(12, `c${products}`, n))
  return Buffer.concat([int(1, 8), graph, message(8, text(1, ''), int(2, 17))])
}

export async function open({ threads }) {
  const ort = await import(pathToFileURL(createRequire(import.meta.url).resolve('onnxruntime-web')).href)
  ort.env.wasm.numThreads = threads
  ort.env.logLevel = 'error'
  const session = (n, dataB, products) =>
    ort.InferenceSession.create(new Uint8Array(model(n, dataB, products)), { executionProviders: ['wasm'] })
  let held
  return {
    threads,
    version: version('onnxruntime-web'),
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
