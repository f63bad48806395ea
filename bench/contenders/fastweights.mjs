/** Our matmul kernel as ops call it: operands and result in the device's memory; packing both operands is part of the time. */
import { enableWideSimd, wasmDevice } from '../../dist/engine/devices/wasm/index.js'

export async function open({ threads, relaxed, wide = false }) {
  if (wide) await enableWideSimd()
  const device = await wasmDevice({ threads, relaxed, wide })
  let held = []
  return {
    threads,
    version: device.description,
    prepare(n, dataA, dataB) {
      for (const storage of held) device.free(storage)
      const [a, b, c] = (held = [0, 1, 2].map(() => device.allocate('float32', n * n)))
      device.write(a, dataA)
      device.write(b, dataB)
      const sizes = {
        batch: 1,
        strideA: 0,
        strideB: 0,
        M: n,
        N: n,
        K: n,
        transposeA: false,
        transposeB: false,
        accumulate: false,
        activation: null,
      }
      const run = () => device.kernels.matmul(a, b, null, c, sizes)
      return {
        flops: 2 * n ** 3,
        product: () => {
          run()
          return device.read(c, n * n)
        },
        work: (repeats) => {
          for (let i = 0; i < repeats; i++) run()
        },
      }
    },
  }
}
