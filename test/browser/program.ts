/** What browser.test.ts runs in Node and in a page alike: the names that it imports are the package's own, there those of its bundle. */
import { getDevice, referenceDevice, setDevice, wasmDevice, webgpuDevice } from 'fastweights'
import { check, claims, Devices, type Kind, type Status } from 'fastweights/claims'
import { AdamW, constant, Trainer, Transformer } from 'fastweights/nn'
import { randomBatches } from 'fastweights/tasks'

/** The page and Node 20 have relaxed SIMD or haven't; the plain build is the one whose bits are the same everywhere. */
const devices = {
  reference: async () => referenceDevice(),
  wasm: (threads: number) => wasmDevice({ threads, relaxed: false }),
  webgpu: () => webgpuDevice(),
}

export interface Training {
  description: string
  losses: number[]
  /** Bytes on the device after the second step and after the last. */
  bytes: [number, number]
}

/** Trains a transformer of two layers to continue a period of 24 tokens. */
export async function train(kind: keyof typeof devices, { steps, threads = 1 }: { steps: number; threads?: number }): Promise<Training> {
  const device = await devices[kind](threads)
  const before = getDevice()
  setDevice(device)
  const tokens = Int32Array.from({ length: 480 }, (_, i) => ((i % 24) * (i % 24)) % 13)
  const config = { symbols: 13, dModel: 32, heads: 2, layers: 2, dFf: 64, conv: 4, chunk: 16, attentionNorm: true, embeddingStd: 0.02 }
  const model = new Transformer(config)
  const trainer = new Trainer(model, new AdamW(model.namedParameters(), { lr: 3e-3 }), { schedule: constant(3e-3), clipNorm: 1 })
  const batches = randomBatches(tokens, { B: 2, T: 32 })
  const losses: number[] = []
  const bytes: number[] = []
  for (let step = 0; step < steps; step++) {
    losses.push((await trainer.step(batches.batch(step))).loss)
    bytes.push(device.bytesInUse())
  }
  device.close()
  setDevice(before)
  return { description: device.description, losses, bytes: [bytes[1], bytes[steps - 1]] }
}

/** How claims of these names fare with `runs` cases each. */
export async function verify(kind: Kind, names: readonly string[], runs: number): Promise<Record<string, Status>> {
  const opened = await Devices.open(kind)
  const found: Record<string, Status> = {}
  for (const name of names) {
    const claim = claims.find((claim) => claim.name === name)
    if (!claim) throw new Error(`there is no claim '${name}'`)
    found[name] = (await check(claim, opened, { runs })).status
  }
  opened.close()
  return found
}

/** What asking for such a device says where there is none. */
export async function refusal(kind: keyof typeof devices, threads: number): Promise<string> {
  return devices[kind](threads).then(
    (device) => `there is ${device.description}`,
    (error: Error) => error.message,
  )
}
