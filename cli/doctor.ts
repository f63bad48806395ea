/** What this machine offers, and whether the kernels do what the reference does. */
import os from 'node:os'
import { crossEntropy, type Device, matmul, referenceDevice, relaxedAvailable, scope, setDevice, tensor } from '../engine/index.ts'
import { Transformer } from '../nn/index.ts'
import { presets } from '../tasks/presets.ts'
import { bytes, say } from './terminal.ts'

const row = (name: string, text: string): void => say(`  ${name.padEnd(20)}${text}`)

export async function doctor(device: Device): Promise<number> {
  say('Machine')
  row('node', `${process.version} on ${process.platform} ${process.arch}`)
  row('processor', `${os.cpus()[0]?.model.trim() ?? 'unknown'}, ${os.availableParallelism()} cores`)
  row('memory', `${bytes(os.freemem())} free of ${bytes(os.totalmem())}`)
  row('relaxed SIMD', relaxedAvailable() ? 'available' : 'not in this version of Node (fused multiply-add; 22 and later have it)')
  row('device', device.description)

  say('\nSelf-check (one training step of each preset, shrunk, against float64)')
  let failures = 0
  for (const [name, preset] of Object.entries(presets)) {
    const { loss, worst } = await compare(device, preset.model)
    const ok = worst <= 1e-4
    if (!ok) failures++
    row(
      name,
      `${ok ? 'ok' : 'FAILED'}: loss ${loss.toFixed(6)}, largest relative error of a gradient ${worst.toExponential(1)} (bound 1e-4)`,
    )
  }

  if (device.name === 'wasm') {
    say('\nSpeed')
    row('matmul 512', `${(await matmulSpeed(device, 512)).toFixed(0)} GFLOP/s`)
  }
  say(failures === 0 ? '\nall well' : `\n${failures} checks failed: please report this with the output above`)
  return failures === 0 ? 0 : 1
}

/** Loss and gradients of a small model on the device and on the reference, from the same parameters. */
async function compare(device: Device, preset: (typeof presets)[keyof typeof presets]['model']): Promise<{ loss: number; worst: number }> {
  const config = { ...preset, symbols: 31, dModel: 48, heads: 3, layers: 2, dFf: 70, chunk: 8 }
  const tokens = Int32Array.from({ length: 3 * 21 }, (_, i) => (i * i * 7 + i) % 31)
  const run = async (on: Device, from?: Transformer) => {
    setDevice(on)
    const model = new Transformer(config)
    if (from) model.loadStateDict(await from.stateDict())
    const loss = scope(() => {
      const loss = crossEntropy(model.forward(tensor(tokens, { shape: [3, 21] })).logits, tensor(tokens.toReversed(), { shape: [3, 21] }))
      loss.backward()
      return loss
    })
    const gradients = new Map<string, ArrayLike<number>>()
    for (const [name, p] of model.namedParameters()) if (p.grad) gradients.set(name, await p.grad.read())
    const value = await loss.item()
    loss.dispose()
    return { model, gradients, loss: value }
  }
  const ours = await run(device)
  const oracle = await run(referenceDevice(), ours.model)
  let worst = Math.abs(ours.loss - oracle.loss)
  for (const [name, expected] of oracle.gradients) {
    const actual = ours.gradients.get(name) as ArrayLike<number>
    let error = 0
    let largest = 0
    for (let i = 0; i < expected.length; i++) {
      error = Math.max(error, Math.abs(actual[i] - expected[i]))
      largest = Math.max(largest, Math.abs(expected[i]))
    }
    worst = Number.isNaN(error) ? Infinity : Math.max(worst, error / largest)
  }
  ours.model.dispose()
  setDevice(device)
  return { loss: ours.loss, worst }
}

async function matmulSpeed(device: Device, n: number): Promise<number> {
  const a = tensor(new Float32Array(n * n).fill(0.5), { shape: [n, n], device })
  const once = async (): Promise<number> => {
    const start = performance.now()
    const y = scope(() => matmul(a, a))
    await y.read()
    y.dispose()
    return performance.now() - start
  }
  let best = Infinity
  for (let i = 0; i < 10; i++) best = Math.min(best, await once())
  a.dispose()
  return (2 * n ** 3) / best / 1e6
}
