/** Devices by name, and the choice among them. */
import { checkOptions } from '../arguments.ts'
import { type KernelCheck, selfCheck } from '../selfcheck.ts'
import { type Device, type DeviceName, type Precision, precisionOf } from './device.ts'
import { referenceDevice } from './reference/index.ts'
import { type WasmOptions, wasmDevice } from './wasm/index.ts'
import type { WebgpuDevice, WebgpuOptions } from './webgpu/index.ts'

/** WGSL on a GPU; throws where there is none that does, and says why. Its kernels are loaded now, so that what opens none doesn't hold them. */
export async function webgpuDevice(options: WebgpuOptions = {}): Promise<WebgpuDevice> {
  const { openWebgpu } = await import('./webgpu/index.ts')
  return openWebgpu(options)
}

/** What `openDevice` opens: a device by name, or `auto`, which picks one. */
export const deviceChoices = ['auto', 'wasm', 'webgpu', 'reference'] as const satisfies readonly (DeviceName | 'auto')[]
/** One of `deviceChoices`. */
export type DeviceChoice = (typeof deviceChoices)[number]

/** Options of `openDevice`: those of the devices that it may open. */
export interface OpenOptions {
  /** For the wasm device, also where `auto` picks it. */
  wasm?: WasmOptions
  /** For the webgpu device, also where `auto` picks it. */
  webgpu?: WebgpuOptions
  /**
   * By default that of the device's own options (`auto`: of `webgpu`, else of `wasm`, whichever it picks), else `f32`. `f16`: on webgpu where the adapter has that,
   * and on wasm and the reference, where it shows what training in it does, and is slower.
   */
  precision?: Precision
  /** Is told, in a line, what `auto` has picked and why. */
  log?: (line: string) => void
}

/**
 * Opens a device. `auto` is WebGPU on a GPU whose kernels compute what they should, else wasm; never an adapter that computes on the CPU,
 * where wasm is faster. Throws an Error of one line where the device named isn't to be had.
 */
export async function openDevice(choice: DeviceChoice, options: OpenOptions = {}): Promise<Device> {
  checkOptions('openDevice', options, ['wasm', 'webgpu', 'precision', 'log'])
  const [ofWasm, ofGpu] = [options.wasm?.precision, options.webgpu?.precision]
  const own = { auto: ofGpu ?? ofWasm, wasm: ofWasm, webgpu: ofGpu, reference: undefined }[choice]
  const precision = precisionOf('openDevice', options.precision ?? own)
  const withPrecision = <O extends object>(given = {} as O): O => given && { ...given, precision }
  const [wasm, webgpu] = [withPrecision(options.wasm), withPrecision(options.webgpu)]
  if (choice === 'reference') return referenceDevice({ precision })
  if (choice === 'wasm') return wasmDevice(wasm)
  if (choice === 'webgpu') return webgpuDevice(webgpu)
  if (choice !== 'auto') throw new Error(`openDevice: there is no device '${choice}' (there are ${deviceChoices.join(', ')})`)
  try {
    const device = await gpuThatWorks(webgpu)
    options.log?.(`auto: ${device.description}, a GPU that works`)
    return device
  } catch (error) {
    const device = await wasmDevice(wasm)
    options.log?.(`auto: ${device.description}, because of ${(error as Error).message}`)
    return device
  }
}

const gpuThatWorks = async (options: WebgpuOptions = {}): Promise<Device> => working(await webgpuDevice({ ...options, software: false }))

/** Why `auto` leaves a device of which a kernel was checked with this result; undefined where the kernel is right. */
export const reasonAgainst = ({ description }: Device, { kernel, ok, message }: KernelCheck): string | undefined =>
  ok ? undefined : (message ?? `${description}: its ${kernel} is wrong`)

/** The device, if all its kernels are right; else it is closed, and an Error says which one isn't. */
export async function working(device: Device): Promise<Device> {
  for await (const found of selfCheck(device)) {
    const reason = reasonAgainst(device, found)
    if (reason === undefined) continue
    device.close()
    throw new Error(reason)
  }
  return device
}
