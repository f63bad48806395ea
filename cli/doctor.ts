/** What this machine offers, and whether each kernel does what the reference does. */
import os from 'node:os'
import { reasonAgainst } from '../engine/devices/open.ts'
import { driverHint } from '../engine/devices/webgpu/adapter.ts'
import {
  type AdapterReport,
  crossEntropy,
  type Device,
  type DeviceChoice,
  enableWideSimd,
  openDevice,
  referenceDevice,
  relaxedAvailable,
  scope,
  selfCheck,
  setDevice,
  tensor,
  type WebgpuDevice,
  webgpuAdapters,
} from '../engine/index.ts'
import { Transformer } from '../nn/index.ts'
import { type PresetName, presets } from '../tasks/presets.ts'
import { randomBatches } from '../tasks/text.ts'
import { checkDeviceOptions, type DeviceValues, wasmSettings } from './options.ts'
import { gpuSpeed, productRate, productSizes } from './speed.ts'
import { bytes, counted, oneLine, say } from './terminal.ts'
import { openTrial } from './trial.ts'

const row = (name: string, text: string): void => say(`  ${name.padEnd(24)}${text}`)

/** Without a device named: wasm, and WebGPU where there is a GPU. Returns the exit code. */
export async function doctor(
  { device: choice, precision, threads, relaxed, simd }: Omit<DeviceValues, 'device'> & { device: DeviceChoice | undefined },
  given: ReadonlySet<string>,
): Promise<number> {
  if (choice !== undefined) checkDeviceOptions(choice, given)
  const wasm = await wasmSettings({ threads, relaxed, simd })
  say('Machine')
  row('node', `${process.version} on ${process.platform} ${process.arch}`)
  row('processor', `${os.cpus()[0]?.model.trim() ?? 'unknown'}, ${os.availableParallelism()} cores`)
  row('memory', `${bytes(os.freemem())} free of ${bytes(os.totalmem())}`)
  row('relaxed SIMD', relaxedAvailable() ? 'available' : 'not in this version of Node (fused multiply-add; 22 and later have it)')
  const vectors = simd === '128' ? { wide: false, why: 'as --simd asks' } : await enableWideSimd()
  row('vectors', `${vectors.wide ? 256 : 128} bits: ${vectors.why}`)

  say('\nGPU')
  const found = await webgpuAdapters().catch((error: Error) => error)
  if (found instanceof Error)
    row('none', oneLine(found.message.replace(/^webgpu: /, ''))) // It says itself what is missing.
  else showAdapters(found)

  let failures = 0
  const unusable: DeviceChoice[] = []
  for (const wanted of choice === undefined ? (['wasm', 'webgpu'] as const) : [choice]) {
    say(`\nDevice ${wanted}`)
    let device: Device
    try {
      // Nobody has asked for a GPU that the CPU imitates.
      const webgpu = choice === undefined ? { software: false } : {}
      if (wanted === 'webgpu' && found instanceof Error) throw found
      device = await openDevice(wanted, { wasm, webgpu, precision, log: (line) => row('auto', line.replace(/^auto: /, '')) })
    } catch (error) {
      // Without a GPU there is still wasm to check.
      const needless = choice === undefined && wanted === 'webgpu' && (found instanceof Error || found.every(isSoftware))
      row(needless ? 'not checked' : 'FAILED', oneLine((error as Error).message))
      if (!needless) unusable.push(wanted)
      continue
    }
    row('description', device.description)
    const noUnits = (device as Partial<WebgpuDevice>).capabilities?.noMatrixUnits
    if (noUnits !== undefined)
      row('matrix units', noUnits === null ? 'used: products of integers came out exactly' : `not used: ${noUnits}`)
    try {
      failures += await examine(device)
    } catch (error) {
      failures++
      row('FAILED', oneLine((error as Error).message))
    }
    device.close()
  }
  if (unusable.length > 0) say(`\nthe device ${unusable.join(', ')} can't be used here`)
  if (failures > 0) say(`\n${counted(failures, 'check')} failed: please report this with the output above`)
  const well = unusable.length === 0 && failures === 0
  if (well) say('\nall well')
  return well ? 0 : 1
}

const isSoftware = ({ capabilities }: AdapterReport): boolean => capabilities.software

/** Every adapter, and how to get one where there is no GPU. */
function showAdapters(found: readonly AdapterReport[]): void {
  for (const { backend, capabilities, features, limits } of found) {
    const { adapter, software, timestamps, f16, bindingBytes } = capabilities
    row('adapter', `${adapter}${backend === null ? '' : `, ${backend}`}${software ? ', which computes on the CPU' : ''}`)
    row(
      '  float16',
      f16
        ? 'yes: --precision f16 keeps operands of products in it, sums in float32'
        : 'no: it lacks the feature shader-f16, which --precision f16 needs',
    )
    row('  timestamps', timestamps ? 'yes, --profile times kernels' : 'no, --profile times whole submissions')
    row(
      '  limits',
      `${bytes(bindingBytes)} in a buffer; ${limits.storageBuffers} buffers, ${limits.workgroupThreads} threads, ${bytes(limits.workgroupBytes)} a workgroup; ${limits.dispatchGroups} workgroups a dimension`,
    )
    row('  features', features.join(', '))
  }
  if (found.every(isSoftware)) row('driver for a GPU', driverHint())
}

/** Presets that are left out: made of the kernels that others are made of (`comba` is the default), and some of them loops over tokens, slow on a GPU. */
export const composed: ReadonlySet<string> = new Set<PresetName>([
  ...(['comba', 'gdn2', 'precond-kda', 'gated-deltaproduct', 'momentum-delta', 'hgrn2', 'lightning', 'gsa'] as const),
  ...(['rwkv4', 'rwkv5', 'rwkv6', 'log-linear', 'titans'] as const),
  ...(['delta-lstm', 'delta-delta', 'recurrent-delta', 'smfwp', 'fwm', 'ba'] as const),
  ...(['programmer', 'recurrent-programmer', 'lstm', 'gru', 'rnn'] as const),
])

/** Kernels, models and speed of a device; the number of checks that failed. */
async function examine(device: Device): Promise<number> {
  let failures = 0
  const oracle = device.precision === 'f16' ? 'float64 with products of float16' : 'float64'
  say(`\n  Kernels, against ${oracle}`)
  let reason: string | undefined
  for await (const found of selfCheck(device)) {
    const { kernel, cases, error, bound, ok, message } = found
    if (!ok) failures++
    reason ??= reasonAgainst(device, found)
    const what = message === undefined ? `error ${short(error)} of ${short(bound)}, ${counted(cases, 'case')}` : oneLine(message)
    row(`  ${kernel}`, `${ok ? 'ok' : 'FAILED'}: ${what}`)
  }

  // Gradients pass some 32 products, each with two operands that are rounded by 2^-11 or not as the reference has them.
  const bound = device.precision === 'f16' ? 32 * 2 ** -10 : 1e-4
  say(`\n  One training step of presets, shrunk, against ${oracle}`)
  for (const [name, preset] of Object.entries(presets).filter(([name]) => !composed.has(name))) {
    const { loss, worst } = await compare(device, preset.model)
    const ok = worst <= bound
    if (!ok) failures++
    row(
      `  ${name}`,
      `${ok ? 'ok' : 'FAILED'}: loss ${loss.toFixed(6)}, ${device.precision === 'f16' ? 'relative error of the gradients' : 'largest relative error of a gradient'} ${worst.toExponential(1)} (bound ${short(bound)})`,
    )
  }
  row('  not checked', `${composed.size} others, made of the same kernels`)

  if (!device.double) {
    say('\n  Speed')
    for (const n of productSizes(device)) row(`  matmul ${n}`, `${twoDigits((await productRate(device, n)) / 1e9)} GFLOP/s`)
    if (isGpu(device)) await examineGpu(device, reason)
    else row('  train', await trainingPlan(device))
  }
  return failures
}

const isGpu = (device: Device): device is WebgpuDevice => device.name === 'webgpu'

/** What there is to say of a GPU alone. `reason`: why `auto` leaves it, if it does because of its kernels. */
async function examineGpu(device: WebgpuDevice, reason: string | undefined): Promise<void> {
  const { software } = device.capabilities
  if (software) row('  train', 'not timed: the adapter computes on the CPU')
  else {
    const { bandwidth, host, all } = await gpuSpeed(device)
    row('  memory', `${twoDigits(bandwidth / 1e9)} GB/s, read and written`)
    row('  dispatch', `${twoDigits(all)} us, of which the host takes ${twoDigits(host)}`)
    row('  train', await trainingPlan(device))
    const wasm = await openDevice('wasm', { precision: device.precision })
    row('  train on wasm', await trainingPlan(wasm))
    wasm.close()
    setDevice(device)
  }
  row('  --device auto', takenByAuto(software, reason))
}

/** What `auto` takes where it finds this GPU: it asks the same of it (engine/devices/open.ts), and of no preset. */
export function takenByAuto(software: boolean, reason: string | undefined): string {
  if (software) return 'takes wasm: this adapter computes on the CPU'
  return reason === undefined
    ? 'takes this GPU, whose kernels all compute what they should; a smaller model than that may be faster on wasm'
    : `takes wasm, because of ${oneLine(reason)}`
}

const twoDigits = (x: number): number => Number(x.toPrecision(2))
const short = (x: number): string => (x === 0 ? '0' : x.toExponential(0))

/**
 * How far gradients are from those expected where operands are rounded. A relu that rounding moves past 0 gives one row another term: so all of them are
 * measured together, and each is held to 16 times the bound, a half of itself, which is less than what is wrong about one that is 0 or has another sign.
 */
export function roundedError(actual: ReadonlyMap<string, ArrayLike<number>>, expected: ReadonlyMap<string, ArrayLike<number>>): number {
  const norm = (values: ArrayLike<number>): number => Math.hypot(...Array.from(values))
  const all = [...expected].map(([name, values]) => ({
    size: norm(values),
    error: norm(Array.from(values, (x, i) => actual.get(name)![i] - x)),
  }))
  const total = norm(all.map(({ size }) => size))
  const each = all.map(({ size, error }) => error / Math.max(size, 1e-6 * total) / 16)
  const worst = Math.max(norm(all.map(({ error }) => error)) / total, ...each)
  return Number.isNaN(worst) ? Infinity : worst
}

/** Loss and gradients of a small model on the device and on the reference, from the same parameters. */
async function compare(device: Device, preset: (typeof presets)[keyof typeof presets]['model']): Promise<{ loss: number; worst: number }> {
  const config = { ...preset, symbols: 31, dModel: 24, heads: 3, layers: 2, dFf: 38, chunk: 8 }
  const [B, T] = [2, 21]
  const tokens = Int32Array.from({ length: B * T }, (_, i) => (i * i * 7 + i) % 31)
  const run = async (on: Device, from?: Transformer) => {
    setDevice(on)
    const model = new Transformer(config)
    if (from) model.loadStateDict(await from.stateDict())
    const loss = scope(() => {
      const loss = crossEntropy(model.forward(tensor(tokens, { shape: [B, T] })).logits, tensor(tokens.toReversed(), { shape: [B, T] }))
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
  const oracle = await run(referenceDevice({ precision: device.precision }), ours.model)
  let worst = Math.abs(ours.loss - oracle.loss)
  const largestOf = (values: ArrayLike<number>): number => Array.from(values).reduce((most, x) => Math.max(most, Math.abs(x)), 0)
  // One that is 0 but for rounding (of the bias of AFT's keys, to which a softmax is blind) is measured by the others.
  const floor = 1e-3 * Math.max(...[...oracle.gradients.values()].map(largestOf))
  for (const [name, expected] of oracle.gradients) {
    const actual = ours.gradients.get(name) as ArrayLike<number>
    const error = largestOf(Array.from(expected, (x, i) => actual[i] - x))
    worst = Number.isNaN(error) ? Infinity : Math.max(worst, error / Math.max(largestOf(expected), floor))
  }
  if (device.precision === 'f16') worst = Math.max(Math.abs(ours.loss - oracle.loss), roundedError(ours.gradients, oracle.gradients))
  ours.model.dispose()
  setDevice(device)
  return { loss: ours.loss, worst }
}

/** What a step of the default preset takes. */
async function trainingPlan(device: Device): Promise<string> {
  const { model, training } = presets.default
  const symbols = 65
  const { batch: B, seqLen: T } = training
  // Any text will do: time doesn't depend on it.
  const text = Int32Array.from({ length: 10_000 }, (_, i) => (i * i) % symbols)
  const trial = openTrial(device, () => new Transformer({ ...model, symbols }), training, randomBatches(text, { B, T }))
  try {
    await trial.step() // compiles
    let [best, asked] = [Infinity, Infinity]
    for (const end = performance.now() + 1000; performance.now() < end; ) {
      best = Math.min(best, await trial.step())
      asked = Math.min(asked, trial.asked())
    }
    const host = device.defers ? `, of which the host takes ${twoDigits(asked)}` : ''
    const { inUse, reserved } = trial.memory()
    return `${twoDigits(best)} ms a step of the default preset, ${B} x ${T} characters${host}; ${bytes(inUse)} in use, ${bytes(reserved)} taken from the system`
  } finally {
    trial.close()
  }
}
