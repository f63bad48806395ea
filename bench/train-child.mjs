/** The process of one row of the training benchmark. */
import { writeFileSync } from 'node:fs'
import { openDevice } from '../dist/engine/index.js'
import { enableSimd, serve } from './child.mjs'
import { training } from './training.mjs'
import { watched } from './watched.mjs'

let device
let memory
let step
let model
let lastLoss

serve({
  async open({ setting, device: kind, threads, relaxed }) {
    const { wide } = await enableSimd()
    device = await openDevice(kind, { wasm: { threads, relaxed } })
    memory = watched(device)
    ;({ model, step } = training(setting, device))
    return { parameters: model.parameterCount(), description: device.description, wide: kind === 'wasm' && wide }
  },
  /** Seconds, the read-back of the loss included. */
  async step() {
    const start = performance.now()
    lastLoss = await step()
    return (performance.now() - start) / 1000
  },
  /** Seconds of processor time since the process began, of all threads. */
  processor() {
    const { user, system } = process.cpuUsage()
    return (user + system) / 1e6
  },
  /** Of the last step, before its update. */
  loss: () => lastLoss,
  /** Writes the parameters for another program: names and shapes to FILE.json, their float32 values one after the other to FILE.bin. */
  async weights(file) {
    const named = [...model.namedParameters()]
    writeFileSync(`${file}.json`, JSON.stringify(named.map(([name, { shape }]) => [name, shape])))
    const values = await Promise.all(named.map(([, p]) => p.read()))
    writeFileSync(`${file}.bin`, Buffer.concat(values.map((x) => Buffer.from(Float32Array.from(x).buffer))))
  },
  memory: () => ({ inUse: memory.most(), reserved: device.bytesReserved(), process: process.resourceUsage().maxRSS * 1024 }),
})
