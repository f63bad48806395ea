/** Measures one device: everything is computed here, nothing in the page. */
import {
  type Device,
  deltaRule,
  generator,
  l2Norm,
  matmul,
  normal,
  referenceDevice,
  scope,
  setDevice,
  sum,
  type Tensor,
  uniform,
  wasmDevice,
  webgpuDevice,
} from 'fastweights'
import { Adam, constant, generate, Trainer, Transformer } from 'fastweights/nn'
import type { FromWorker, Measure, Subject } from './protocol.ts'

const open: Record<Subject, () => Promise<Device> | Device> = {
  wasm: () => wasmDevice({ threads: 1 }),
  'wasm threads': () => wasmDevice(),
  webgpu: () => webgpuDevice(),
  reference: () => referenceDevice(),
}

/** At least so many milliseconds are measured, after one run that isn't; of three such series the fastest counts. */
const enough = 150
const series = 3

/** Runs a second. `wait` is over once the device has done what `body` asked for. */
async function rate(body: () => void | Promise<void>, wait: () => Promise<unknown>): Promise<number> {
  await body()
  await wait()
  let best = 0
  for (let round = 0; round < series; round++) {
    const began = performance.now()
    let runs = 0
    for (let now = began; now - began < enough; now = performance.now()) {
      await body()
      await wait()
      runs++
    }
    best = Math.max(best, (1000 * runs) / (performance.now() - began))
  }
  return best
}

const noWait = async (): Promise<void> => {}

/** Made once a device, when it is the default one; each gives its measure in the unit of measures.mjs. */
const measures: Record<Measure, () => Promise<number>> = {
  async product() {
    const n = 512
    const g = generator(1)
    const [a, b] = [normal(g, [n, n]), normal(g, [n, n])]
    let y: Tensor | undefined
    const runs = await rate(
      () => {
        y?.dispose()
        y = matmul(a, b)
      },
      () => done(y!),
    )
    for (const t of [a, b, y!]) t.dispose()
    return (runs * 2 * n ** 3) / 1e9
  },
  forward: () => recurrence(false),
  backward: () => recurrence(true),
  async step() {
    const { model, T, B, tokens } = learner()
    const optimizer = new Adam(model.namedParameters(), { lr: 1e-3 })
    const trainer = new Trainer(model, optimizer, { schedule: constant(1e-3), clipNorm: 1 })
    const targets = tokens.map((_, i) => tokens[(i + 1) % tokens.length])
    // A step's loss is read, so it waits by itself.
    const runs = await rate(async () => void (await trainer.step({ tokens, targets, B, T })), noWait)
    for (const one of [trainer, optimizer, model]) one.dispose()
    return runs * B * T
  },
  async decode() {
    const { model, tokens } = learner()
    const length = 32
    model.training = false
    const runs = await rate(async () => {
      for await (const _ of generate(model, tokens.slice(0, 4), { length })) {
        // Each is waited for.
      }
    }, noWait)
    model.dispose()
    return runs * length
  },
}

/** A number of the result is read: then all of it is there. */
const done = async (y: Tensor): Promise<void> => {
  const total = scope(() => sum(y))
  await total.item()
  total.dispose()
}

async function recurrence(backward: boolean): Promise<number> {
  const [B, T, H, K] = [2, 512, 4, 64]
  const g = generator(1)
  const make = (): Tensor => normal(g, [B, T, H, K])
  const [q, v] = [make(), make()]
  const k = scope(() => l2Norm(make()))
  const beta = uniform(g, [B, T, H])
  const inputs = [q, k, v, beta]
  for (const input of inputs) input.requiresGrad = backward
  let result: Tensor | undefined
  const runs = await rate(
    () => {
      result?.dispose()
      result = scope(() => {
        const total = sum(deltaRule(q, k, v, beta, undefined, { form: 'chunk', chunk: 64 }).y)
        if (backward) total.backward()
        for (const input of inputs) {
          input.grad?.dispose()
          input.grad = null
        }
        return total
      })
    },
    () => result!.item(),
  )
  for (const t of [...inputs, result!]) t.dispose()
  return runs * B * T
}

function learner() {
  const [B, T, symbols] = [8, 64, 40]
  const model = new Transformer({
    symbols,
    dModel: 64,
    heads: 4,
    layers: 2,
    dFf: 128,
    conv: 4,
    attentionNorm: true,
    featureMap: 'silu',
    featureNorm: 'l2',
  })
  return { model, B, T, tokens: Int32Array.from({ length: B * T }, (_, i) => (i * 7919) % symbols) }
}

const say = (message: FromWorker): void => postMessage(message)

addEventListener('message', async ({ data: subject }: { data: Subject }) => {
  try {
    const device = await open[subject]()
    setDevice(device)
    say({ kind: 'opened', description: device.description })
    for (const [measure, value] of Object.entries(measures)) say({ kind: 'measured', measure: measure as Measure, value: await value() })
    device.close()
    say({ kind: 'done' })
  } catch (error) {
    say({ kind: 'failed', message: error instanceof Error ? error.message : String(error) })
  }
})
