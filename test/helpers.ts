/** What the tests share: seeded values, devices, comparisons. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import v8 from 'node:v8'
import { enableWideSimd, relaxedAvailable, wasmDevice } from '../engine/devices/wasm/index.ts'
import { deviceOn, openGpu } from '../engine/devices/webgpu/index.ts'
import type { Gpu } from '../engine/devices/webgpu/runtime.ts'
import {
  type Device,
  type HostArray,
  type Precision,
  referenceDevice,
  type Tensor,
  type WebgpuDevice,
  webgpuDevice,
} from '../engine/index.ts'

// Node 20 has relaxed SIMD behind a flag, which must be set before the first module is compiled. A program may do so; so may its tests.
if (process.versions.node.startsWith('20.')) v8.setFlagsFromString('--experimental-wasm-relaxed-simd')

/** Vectors of 256 bits where there are some, whether they were found to help or not: on a busy machine the trial may tell nothing. */
export const wideSimd = await enableWideSimd({ insist: true })
export const canBeWide = wideSimd.wide
/** SIMD=256: every test of wasm has them. */
const alwaysWide = process.env.SIMD === '256'
if (alwaysWide && !canBeWide) throw new Error(`SIMD=256: ${wideSimd.why}`)

/** Numbers in [0, 1) from a seed (xorshift32), independent of the engine's own. */
export function random(seed: number): () => number {
  let x = (Math.imul(seed, 0x9e3779b1) ^ 0x5bd1e995) | 1
  return () => {
    x ^= x << 13
    x ^= x >>> 17
    x ^= x << 5
    return (x >>> 0) / 2 ** 32
  }
}

/** n float32 numbers in [low, high): the same on a float64 device. */
export function uniforms(seed: number, n: number, low = -1, high = 1): Float32Array<ArrayBuffer> {
  const next = random(seed)
  const values = new Float32Array(n)
  for (let i = 0; i < n; i++) values[i] = low + (high - low) * next()
  return values
}

const devices = new Map<string, Promise<Device>>()

/** One wasm device for each kind, shared by all tests: threads sleep when they have nothing to do. */
export function wasm(threads = 1, relaxed = false, wide = alwaysWide, precision: Precision = 'f32'): Promise<Device> {
  const key = `${threads} ${relaxed} ${wide} ${precision}`
  if (!devices.has(key)) devices.set(key, wasmDevice({ threads, relaxed, wide, precision }))
  return devices.get(key)!
}

/** Runs `body` as in a page that isn't cross-origin isolated. */
export async function withoutSharedMemory<R>(body: () => Promise<R>): Promise<R> {
  const kept = Object.getOwnPropertyDescriptor(globalThis, 'SharedArrayBuffer')!
  Reflect.deleteProperty(globalThis, 'SharedArrayBuffer')
  try {
    return await body()
  } finally {
    Object.defineProperty(globalThis, 'SharedArrayBuffer', kept)
  }
}

/** Whether the adapter of the tests is known to compute on the CPU (test/gpu-environment.mjs). */
export const gpuIsSoftware = process.platform === 'linux' && process.arch === 'x64' && process.env.FASTWEIGHTS_GPU !== 'system'

interface Opened {
  readonly runtime: Gpu
  readonly device: WebgpuDevice
}

let gpu: Promise<Opened> | undefined
const openOnce = (): Promise<Opened> => {
  gpu ??= openGpu({}).then((runtime) => ({ runtime, device: deviceOn(runtime) }))
  return gpu
}

/** A WebGPU device shared by all tests. Where there is none, the test is skipped and says why; with REQUIRE_GPU=1 it fails. */
export const webgpu = async (test: Mocha.Context): Promise<WebgpuDevice> => (await opened(test)).device

/** What its dispatches run on: each shader is compiled once for all tests of a process, which takes SwiftShader seconds for some. */
export const webgpuRuntime = async (test: Mocha.Context): Promise<Gpu> => (await opened(test)).runtime

async function opened(test: Mocha.Context): Promise<Opened> {
  try {
    return await openOnce()
  } catch (error) {
    if (process.env.REQUIRE_GPU === '1') throw error
    if (test.test) test.test.title += ` (${(error as Error).message})`
    return test.skip()
  }
}

/** The WebGPU device in tests that go over devices; none where there is none, which webgpu.test.ts says, unless REQUIRE_GPU=1. */
export async function gpus(): Promise<WebgpuDevice[]> {
  return openOnce().then(
    ({ device }) => [device],
    (error) => {
      if (process.env.REQUIRE_GPU === '1') throw error
      return []
    },
  )
}

let half: Promise<WebgpuDevice> | undefined

/** The WebGPU device in precision f16, shared by all tests; where the adapter has no float16, none, once it has been seen that opening one says so. */
export async function halfGpus(test: Mocha.Context): Promise<WebgpuDevice[]> {
  const { capabilities } = await webgpu(test)
  if (capabilities.f16) return [await (half ??= webgpuDevice({ precision: 'f16' }))]
  await assert.rejects(webgpuDevice({ precision: 'f16' }), {
    message: `webgpu: ${capabilities.adapter} lacks shader-f16, which precision f16 needs; leave that out, or choose another adapter`,
  })
  return []
}

/** Devices of precision f16 beside its oracle: wasm, and the GPU where it has that. */
export const halfDevices = async (test: Mocha.Context): Promise<Device[]> => [
  await wasm(2, builds.at(-1)!.relaxed, alwaysWide, 'f16'),
  ...(await halfGpus(test)),
]

/** The GPU, and the entries of shaders that run on it from now on, in order. */
export function noted(gpu: Gpu): [Gpu, string[]] {
  const entries: string[] = []
  const run: Gpu['run'] = (...call) => {
    entries.push(call[1])
    gpu.run(...call)
  }
  return [{ ...gpu, run }, entries]
}

/** How many cases of n a device takes: a GPU computed by the CPU is slow, and most of what a case shows no device changes. */
export const runsOn = ({ name }: Device, n: number): number => (name === 'webgpu' ? Math.ceil(n / 12) : n)

/** What a module that runs in a process of its own prints; ROOT stands for the compiled project. */
export const program = (source: string, options: readonly string[] = [], env: NodeJS.ProcessEnv = process.env): string =>
  execFileSync(
    process.execPath,
    [...options, '--input-type=module', '-e', source.replaceAll('ROOT', new URL('..', import.meta.url).href.replace(/\/$/, ''))],
    { encoding: 'utf8', timeout: 100_000, stdio: ['ignore', 'pipe', 'pipe'], env },
  )

/** The rejections to which nobody listens while `body` runs: they end a process, but not a test. */
export async function unheard(body: () => Promise<void>): Promise<unknown[]> {
  const found: unknown[] = []
  const note = (reason: unknown): void => void found.push(reason)
  process.on('unhandledRejection', note)
  try {
    await body()
    await new Promise((resolve) => setImmediate(resolve))
  } finally {
    process.off('unhandledRejection', note)
  }
  return found
}

/** Which builds this Node can run. */
export const builds: readonly { name: string; relaxed: boolean }[] = [
  { name: 'plain', relaxed: false },
  ...(relaxedAvailable() ? [{ name: 'relaxed', relaxed: true }] : []),
]

export const reference = referenceDevice()
/** The oracle of precision f16. */
export const halfReference = referenceDevice({ precision: 'f16' })

export const sizeOf = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1)

/** The values of a tensor that is needed no more. */
export async function readAndFree(x: Tensor): Promise<number[]> {
  const values = Array.from(await x.read())
  x.dispose()
  return values
}

/** Equally many values, and some: a comparison of nothing can't fail. */
function assertSameLength(actual: ArrayLike<number>, expected: ArrayLike<number>, what: string): void {
  assert.equal(actual.length, expected.length, what)
  assert.ok(expected.length > 0, `${what}: nothing to compare`)
}

/** The same bits, NaNs and the sign of zero included. */
export function assertSameBits(actual: HostArray, expected: HostArray, what = ''): void {
  assertSameLength(actual, expected, what)
  for (let i = 0; i < actual.length; i++)
    if (!Object.is(actual[i], expected[i])) assert.fail(`${what}: element ${i} is ${actual[i]}, expected exactly ${expected[i]}`)
}

/** max |actual - expected| <= bound * (max |expected| + floor). */
export function assertClose(actual: ArrayLike<number>, expected: ArrayLike<number>, bound: number, floor = 1, what = ''): void {
  assertSameLength(actual, expected, what)
  let largest = 0
  for (let i = 0; i < expected.length; i++) largest = Math.max(largest, Math.abs(expected[i]))
  // An infinity would allow every error, and NaN compares with nothing.
  assert.ok(Number.isFinite(bound * (largest + floor)), `${what}: no bound: the largest expected value is ${largest}, the bound ${bound}`)
  for (let i = 0; i < actual.length; i++) {
    const error = Math.abs(actual[i] - expected[i])
    if (!(error <= bound * (largest + floor)))
      assert.fail(
        `${what}: element ${i} is ${actual[i]}, expected ${expected[i]} (error ${error.toExponential(1)}, bound ${(bound * (largest + floor)).toExponential(1)})`,
      )
  }
}

const rms = (n: number, at: (i: number) => number): number => {
  let total = 0
  for (let i = 0; i < n; i++) total += at(i) ** 2
  return Math.sqrt(total / n)
}

/** rms(actual - expected) / (rms(expected) + floor): the measure for sequences, where errors of single elements say little. */
export function assertRms(actual: ArrayLike<number>, expected: ArrayLike<number>, bound: number, what = '', floor = 1e-8): void {
  assertSameLength(actual, expected, what)
  assert.ok(Number.isFinite(bound), `${what}: no bound: ${bound}`)
  const ratio = rms(actual.length, (i) => actual[i] - expected[i]) / (rms(expected.length, (i) => expected[i]) + floor)
  assert.ok(ratio <= bound, `${what}: rms ratio ${ratio.toExponential(1)}, bound ${bound.toExponential(0)}`)
}
