/** The process of one row of the benchmark of pretrained models that is ours. */
import { readModelFiles } from '../dist/cli/model-files.js'
import { setDevice, wasmDevice } from '../dist/engine/index.js'
import { fromPretrained, generate } from '../dist/nn/index.js'
import { enableSimd, serve } from './child.mjs'

const peak = () => process.resourceUsage().maxRSS * 1024
const processor = () => process.cpuUsage().user + process.cpuUsage().system

let model

serve({
  async open({ folder, threads }) {
    await enableSimd()
    const device = await wasmDevice({ threads })
    setDevice(device)
    const before = peak()
    ;({ model } = fromPretrained(readModelFiles(folder), { frozen: true }))
    return { about: device.description, before, opened: peak() }
  },
  /** The prompt, and so many tokens after it: seconds, of the process's processor too; the first token is the prompt's. */
  async continue({ prompt, length }) {
    const seconds = []
    const tokens = []
    const worked = [processor()]
    let begin = performance.now()
    for await (const token of generate(model, Int32Array.from(prompt), { length: length + 1, temperature: 0 })) {
      const now = performance.now()
      seconds.push((now - begin) / 1000)
      if (tokens.push(token) === 1) worked.push(processor())
      begin = performance.now()
    }
    worked.push(processor())
    const [start, prompted, end] = worked.map((microseconds) => microseconds / 1e6)
    return { tokens, prompt: seconds[0], decode: seconds.slice(1), work: { prompt: prompted - start, decode: (end - prompted) / length } }
  },
  memory: () => ({ process: peak() }),
})
