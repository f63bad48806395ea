/** The process of one row of the training benchmark. */
import { writeFileSync } from 'node:fs'
import { crossEntropy, openDevice, scope, setDevice, tensor } from '../dist/engine/index.js'
import { Adam, Transformer } from '../dist/nn/index.js'
import { enableSimd, serve } from './child.mjs'
import { watched } from './watched.mjs'

let device
let memory
let step
let model
let lastLoss

serve({
  async open({ setting, device: kind, threads, relaxed }) {
    await enableSimd()
    device = await openDevice(kind, { wasm: { threads, relaxed } })
    memory = watched(device)
    setDevice(device)
    const { d, heads, layers, dff, nu, symbols, batch, length } = setting
    model = new Transformer({ symbols, dModel: d, heads, layers, dFf: dff, nu })
    const optimizer = new Adam(model.namedParameters(), { lr: 1e-4 })
    // Any text will do: time doesn't depend on it.
    const text = (shift) =>
      tensor(
        Int32Array.from({ length: batch * length }, (_, i) => ((i + shift) * 7919) % symbols),
        { dtype: 'int32', shape: [batch, length] },
      )
    const tokens = text(0)
    const targets = text(1)
    step = async () => {
      const loss = scope(() => {
        const { logits } = model.forward(tokens)
        const loss = crossEntropy(logits, targets)
        loss.backward(undefined, { release: true })
        optimizer.step({ clipNorm: 1 })
        optimizer.zeroGrad()
        return loss
      })
      const value = await loss.item()
      loss.dispose()
      if (!Number.isFinite(value)) throw new Error(`the loss is ${value}`)
      lastLoss = value
    }
    return { parameters: model.parameterCount(), description: device.description }
  },
  /** Seconds, the read-back of the loss included. */
  async step() {
    const start = performance.now()
    await step()
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
