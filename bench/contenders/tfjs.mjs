/**
 * tfjs, wasm backend (XNNPACK). Both inputs live in its memory before the clock starts and the result stays there: no copy is timed.
 * Its operator cache keeps B packed from call to call, and that packing is not timed either. Threads do not start under Node (its
 * worker is made from a blob URL, which worker_threads refuses), so there is one row.
 */
import { createRequire } from 'node:module'
import { dirname } from 'node:path'

const require = createRequire(import.meta.url)

export async function open() {
  const tf = require('@tensorflow/tfjs-core')
  const wasm = require('@tensorflow/tfjs-backend-wasm')
  wasm.setWasmPaths(`${dirname(require.resolve('@tensorflow/tfjs-backend-wasm'))}/`)
  wasm.setThreadsCount(1)
  await tf.setBackend('wasm')
  if (tf.getBackend() !== 'wasm' || !(await tf.env().getAsync('WASM_HAS_SIMD_SUPPORT'))) throw new Error('tfjs: no SIMD wasm backend')
  tf.enableProdMode()
  let held = []
  return {
    threads: wasm.getThreadsCount(),
    prepare(n, dataA, dataB) {
      for (const tensor of held) tensor.dispose()
      const a = tf.tensor2d(dataA, [n, n])
      const b = tf.tensor2d(dataB, [n, n])
      held = [a, b]
      return {
        flops: 2 * n ** 3,
        product: () => {
          const c = tf.matMul(a, b)
          const data = c.dataSync()
          c.dispose()
          return data
        },
        work: (repeats) => {
          for (let i = 0; i < repeats; i++) tf.matMul(a, b).dispose()
        },
      }
    },
  }
}
