/** The process of one device of the kernels benchmark. */
import { referenceDevice } from '../dist/engine/devices/reference/index.js'
import { wasmDevice } from '../dist/engine/devices/wasm/index.js'
import { serve } from './child.mjs'
import { cases } from './kernel-cases.mjs'
import { calibrate, time } from './timing.mjs'

let device
let current
let repeats
let held = []

/** Operands with contents that depend on their sizes alone: uniform in [from, 1). */
const memory = {
  float(size, from = -1) {
    const storage = memory.empty(size)
    let s = size | 0
    device.write(
      storage,
      Float32Array.from({ length: size }, () => {
        s = (Math.imul(s, 1664525) + 1013904223) | 0
        return from + ((1 - from) * (s >>> 8)) / 2 ** 24
      }),
    )
    return storage
  },
  int(size, below) {
    const storage = device.allocate('int32', size)
    held.push(storage)
    device.write(
      storage,
      Int32Array.from({ length: size }, (_, i) => (i * 7919) % below),
    )
    return storage
  },
  empty(size) {
    const storage = device.allocate('float32', size)
    held.push(storage)
    return storage
  },
}

serve({
  async open({ reference, ...options }) {
    device = reference ? referenceDevice() : await wasmDevice(options)
    return { description: device.description }
  },
  /** B: batch. The reference does a smaller one, so that nobody waits for it: rates are per element or operation. */
  async prepare({ name, B }) {
    for (const storage of held) device.free(storage)
    held = []
    const { run, ...facts } = cases[name](device.kernels, memory, B)
    current = (count) => {
      for (let i = 0; i < count; i++) run()
    }
    repeats = await calibrate(current, 0.02, 0.1)
    return facts
  },
  /** One sample, in seconds a call. */
  sample: () => time(current, repeats),
})
