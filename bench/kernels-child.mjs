/** The process of one device of the kernels benchmark. */
import { referenceDevice } from '../dist/engine/devices/reference/index.js'
import { wasmDevice } from '../dist/engine/devices/wasm/index.js'
import { enableSimd, serve } from './child.mjs'
import { cases, sizesOf } from './kernel-cases.mjs'
import { casesMemory } from './memory.mjs'
import { calibrate, time } from './timing.mjs'

let device
let memory
let current
let repeats

serve({
  async open({ reference, ...options }) {
    await enableSimd()
    device = reference ? referenceDevice() : await wasmDevice(options)
    memory = casesMemory(device)
    return { description: device.description }
  },
  /** B: batch. The reference does a smaller one, so that nobody waits for it: rates are per element or operation. */
  async prepare({ name, B }) {
    memory.freeAll()
    const { shape, elements, flops, floats, run } = cases[name](device.kernels, memory, sizesOf({ B }))
    current = (count) => {
      for (let i = 0; i < count; i++) run()
    }
    repeats = await calibrate(current, 0.02, 0.1)
    return { shape, elements, flops, floats }
  },
  /** One sample, in seconds a call. */
  sample: () => time(current, repeats),
})
