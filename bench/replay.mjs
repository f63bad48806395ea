/**
 * What a replay of a captured training step makes, counted on Dawn's null backend, which takes every call and computes nothing, and so needs no GPU. It has 768 MB
 * at most: two sequences are enough, since none of these numbers depends on the batch.
 */
import { getDevice, setDevice, webgpuDevice } from '../dist/engine/index.js'
import { works } from './card-work.mjs'

/** Of a model of card-work.mjs and an optimiser. */
export async function ofReplay({ name, Optimizer }) {
  const device = await webgpuDevice({ backend: 'null' })
  const { gpu } = device
  const counts = { 'bind groups made': 0, 'buffers made': 0, passes: 0, submissions: 0 }
  /** Counts calls of a method, and gives what each returns to `also`, with the arguments. */
  const count = (object, method, what, also = () => {}) => {
    const original = object[method].bind(object)
    Object.defineProperty(object, method, {
      value: (...given) => {
        if (what) counts[what]++
        const result = original(...given)
        also(result, ...given)
        return result
      },
    })
  }
  count(gpu, 'createBindGroup', 'bind groups made')
  // What is read is what happened to lie there: zeros, in its place.
  count(gpu, 'createBuffer', 'buffers made', (buffer, { size }) => {
    buffer.getMappedRange = (from = 0, length = size - from) => new ArrayBuffer(length)
  })
  count(gpu, 'createCommandEncoder', undefined, (encoder) => count(encoder, 'beginComputePass', 'passes'))
  count(gpu.queue, 'submit', 'submissions')
  const before = getDevice()
  setDevice(device)
  const { run } = works.step({ name, Optimizer, batch: 2, length: 128 })
  // Some steps are run, one is captured, and the next replays it.
  for (let i = 0; i < 4; i++) await run(1)
  for (const what in counts) counts[what] = 0
  await run(1)
  setDevice(before)
  device.close()
  return counts
}
