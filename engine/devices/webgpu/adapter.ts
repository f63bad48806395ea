/** Where a GPU comes from: the browser's `navigator.gpu`, or in Node the package `webgpu` (Dawn), and what the adapter found can do. */

import { checkOptions } from '../../arguments.ts'
import { inNode } from '../../platform.ts'
import { type Precision, precisionOf } from '../device.ts'

/** Options of `webgpuDevice`. */
export interface WebgpuOptions {
  /** Part of an adapter's name, as the system's driver spells it (in Node; a browser chooses for itself). */
  adapter?: string
  /** Whether an adapter that computes on the CPU will do (SwiftShader, lavapipe): true if not given. */
  software?: boolean
  /** Ask for no feature and no limit beyond what every WebGPU adapter has. */
  minimal?: boolean
  /** Dawn's backend: `null` checks shaders and computes nothing. */
  backend?: 'null' | 'vulkan' | 'metal' | 'd3d12'
  /** `f32` by default; `f16` where the adapter has the feature shader-f16. */
  precision?: Precision
}

/**
 * What there is beyond the guaranteed: the runtime asks here, and does without where it's missing. Subgroups are used for matrix units alone: what they
 * would gain elsewhere no GPU has measured yet.
 */
export interface Capabilities {
  /** The adapter's name. */
  adapter: string
  /** Whether it computes on the CPU. */
  software: boolean
  /** Whether it can time each dispatch. */
  timestamps: boolean
  /** Whether it has float16, and so precision f16. */
  f16: boolean
  /** Of a device in precision f16: why nothing runs on matrix units; null where they do. */
  noMatrixUnits?: string | null
  /** Where the device was refused with something optional that the adapter lists, and opened without that: what, and why. */
  refused?: string
  /** Largest buffer that can be bound, in bytes: a multiple of 16. */
  bindingBytes: number
}

export interface Opened {
  device: GPUDevice
  capabilities: Capabilities
  precision: Precision
}

interface Dawn {
  create(options: string[]): GPU
}

/**
 * What `create` of the package `webgpu` returned: collected before its device is, it takes the process down with it. The registry holds it
 * until the device itself has been collected. (It must not become a property of `globalThis`: then Node doesn't exit.)
 */
const owners = new FinalizationRegistry<GPU>(() => {})

async function entrance({ adapter, backend, precision }: WebgpuOptions): Promise<GPU> {
  if (!inNode) {
    if (typeof navigator === 'undefined' || !navigator.gpu)
      throw new Error('webgpu: this browser has no WebGPU here (it needs a secure page, https or localhost, and perhaps a newer version)')
    if (adapter || backend) throw new Error('webgpu: a browser chooses the adapter itself; adapter and backend mean nothing here')
    return navigator.gpu
  }
  const { create } = await dawn()
  if (backend !== 'null' && (await lacking()).length > 0) {
    sought ??= seekAdapter()
    if (!(await sought)) throw new Error(`webgpu: no adapter: ${await missing({ adapter })}`)
  }
  return create([
    // Every kernel writes its workgroup memory before it reads it; clearing it first costs SwiftShader seconds in compiling.
    // On NVIDIA Dawn has float16 only where it's told to; matrix units are an experiment of Dawn's.
    `enable-dawn-features=disable_workgroup_init,vulkan_enable_f16_on_nvidia${precision === 'f16' ? ',allow_unsafe_apis' : ''}`,
    // Else timestamps come in steps of 0.1 ms.
    'disable-dawn-features=timestamp_quantization',
    ...(adapter ? [`adapter=${adapter}`] : []),
    ...(backend ? [`backend=${backend}`] : []),
  ])
}

/** The package `webgpu` where this package finds it, or else where the program is run: a command may be installed far from both. */
async function dawn(): Promise<Dawn> {
  // Not a literal, so that a bundler for browsers doesn't look for it.
  const name = 'webgpu'
  try {
    return await import(name).catch(async (error) => {
      const here = isMissing(error) && (await resolved(name, `${process.cwd()}/`))
      if (here) return import(here)
      throw error
    })
  } catch (error) {
    if (isMissing(error))
      throw new Error(
        'webgpu: the package `webgpu` is not installed; it is what gives Node a GPU: npm install webgpu (where fastweights is installed, or in the folder that you run it in)',
      )
    throw new Error(
      `webgpu: the package \`webgpu\` doesn't load on ${process.platform}-${process.arch}: ${firstLine(error)} (it needs glibc 2.34 or later on Linux)`,
    )
  }
}

/**
 * Whether Dawn finds an adapter in a process of its own: where Vulkan lacks something, Dawn writes to standard error what this package says better,
 * and nothing but the end of a process keeps it from that.
 */
async function seekAdapter(): Promise<boolean> {
  const { spawn } = await import('node:child_process')
  const script = 'import(process.argv[1]).then(async ({ create }) => process.exit((await create([]).requestAdapter()) ? 0 : 1))'
  const address = (await resolved('webgpu', import.meta.url)) ?? (await resolved('webgpu', `${process.cwd()}/`))
  if (address === undefined) return true
  const child = spawn(process.execPath, ['-e', script, address], { stdio: 'ignore' })
  return new Promise((resolve) => child.once('error', () => resolve(true)).once('close', (code) => resolve(code === 0)))
}
let sought: Promise<boolean> | undefined

const isMissing = (error: unknown): boolean => (error as NodeJS.ErrnoException).code === 'ERR_MODULE_NOT_FOUND'

/** The address of a package's module as seen from a file or folder, if there is one. */
async function resolved(name: string, from: string): Promise<string | undefined> {
  const [{ createRequire }, { pathToFileURL }] = await Promise.all([import('node:module'), import('node:url')])
  try {
    return pathToFileURL(createRequire(from).resolve(name)).href
  } catch {
    return undefined
  }
}

const firstLine = (error: unknown): string => String((error as Error)?.message ?? error).split('\n')[0]

const unknown = (adapter: string, names: readonly string[]): string =>
  `none whose name has "${adapter}" in it${names.length > 0 ? `; there are: ${names.join(', ')}` : ''}`

/** Where Dawn has found no adapter: what Vulkan seems to lack. Only Linux lacks anything. */
async function lacking(): Promise<string[]> {
  if (process.platform !== 'linux') return []
  const { existsSync, readdirSync, readFileSync } = await import('node:fs')
  const { env } = process
  const paths = (...texts: (string | undefined)[]): string[] => texts.flatMap((text) => text?.split(':') ?? []).filter(Boolean)
  const library = 'libvulkan.so.1'
  const libraries = paths(env.LD_LIBRARY_PATH, '/lib64:/lib:/usr/lib64:/usr/lib:/usr/lib/x86_64-linux-gnu:/usr/lib/aarch64-linux-gnu')
  const cache = '/etc/ld.so.cache'
  const loader =
    libraries.some((folder) => existsSync(`${folder}/${library}`)) || (existsSync(cache) && readFileSync(cache).includes(library))
  // Where the loader looks for drivers (LoaderDriverInterface.md of Vulkan-Loader).
  const folders = paths(
    env.XDG_CONFIG_HOME ?? `${env.HOME}/.config`,
    env.XDG_CONFIG_DIRS ?? '/etc/xdg',
    '/etc',
    env.XDG_DATA_HOME ?? `${env.HOME}/.local/share`,
    env.XDG_DATA_DIRS,
    '/usr/local/share:/usr/share',
  ).map((folder) => `${folder}/vulkan/icd.d`)
  const named = env.VK_DRIVER_FILES ?? env.VK_ICD_FILENAMES
  const driver =
    paths(named, env.VK_ADD_DRIVER_FILES).some((path) => existsSync(path)) ||
    (!named && folders.some((folder) => existsSync(folder) && readdirSync(folder).some((file) => file.endsWith('.json'))))
  const where = named ? `VK_DRIVER_FILES names ${named}, which isn't there` : 'no *.json in /usr/share/vulkan/icd.d or its like'
  return [...(loader ? [] : [`the Vulkan loader ${library}`]), ...(driver ? [] : [`a Vulkan driver (${where})`])]
}

/** How to get a driver on this system. */
export function driverHint(): string {
  if (!inNode) return 'see chrome://gpu or about:support'
  if (process.platform === 'darwin') return 'Metal comes with macOS; WebGPU needs macOS 11 or later'
  if (process.platform === 'win32') return "install the GPU's driver from its maker (NVIDIA, AMD, Intel) or through Windows Update"
  return [
    'Debian 13 (12: from bookworm-backports), Ubuntu: apt install libvulkan1 mesa-vulkan-drivers',
    "for NVIDIA Debian's nvidia-driver and nvidia-vulkan-icd (non-free), Ubuntu's ubuntu-drivers install",
    'Fedora: dnf install vulkan-loader mesa-vulkan-drivers, for NVIDIA akmod-nvidia (RPM Fusion)',
  ].join('; ')
}

/** What is missing where there is no adapter, and how to get it. */
async function missing({ adapter }: WebgpuOptions): Promise<string> {
  if (adapter) return unknown(adapter, [])
  if (!inNode) return `the browser offers none (${driverHint()})`
  if (process.platform === 'darwin') return `no Metal adapter (${driverHint()})`
  if (process.platform === 'win32') return `no Direct3D 12 adapter; ${driverHint()}`
  const lacks = await lacking()
  return `${lacks.length > 0 ? `missing: ${lacks.join(' and ')}` : 'no Vulkan driver here supports WebGPU (Mesa 25 or later does)'}. ${driverHint()}`
}

/** Dawn's list of software adapters is its flag; a Mesa that computes on the CPU calls itself llvmpipe. */
const isSoftware = ({ info }: GPUAdapter): boolean =>
  (info as { isFallbackAdapter?: boolean }).isFallbackAdapter === true || /swiftshader|llvmpipe|lavapipe|basic render/i.test(nameOf(info))

const nameOf = ({ vendor, architecture, device, description }: GPUAdapterInfo): string =>
  [vendor, architecture, device, description].filter((part) => part !== '').join(' ') || 'adapter without a name'

/** The adapter that the system puts first. */
async function firstAdapter(gpu: GPU, options: WebgpuOptions): Promise<GPUAdapter> {
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' }).catch((error: unknown) => {
    const names = [...String(error).matchAll(/name: '([^']*)'/g)].map(([, name]) => name)
    throw new Error(`webgpu: no adapter: ${options.adapter ? unknown(options.adapter, names) : firstLine(error)}`)
  })
  if (!adapter) throw new Error(`webgpu: no adapter: ${await missing(options)}`)
  return adapter
}

const unitFeatures = ['subgroups', 'chromium-experimental-subgroup-matrix']

/** Dawn's, which the types of WebGPU don't know. */
interface MatrixInfo extends GPUAdapterInfo {
  subgroupMatrixConfigs?: readonly { componentType: string; resultComponentType: string; M: number; N: number; K: number }[]
}

/** Why an adapter hasn't what kernels-wgsl/*-units.wgsl needs; null where it has. */
function lacksUnits({ features, info }: GPUAdapter): string | null {
  const { subgroupMinSize: least, subgroupMaxSize: most, subgroupMatrixConfigs = [] } = info as MatrixInfo
  const lacking = unitFeatures.find((name) => !features.has(name))
  if (lacking) return `the adapter lacks ${lacking}`
  if (least !== 32 || most !== 32) return `subgroups have ${least} to ${most} threads, not 32`
  const has = subgroupMatrixConfigs.map((c) => `${c.componentType} ${c.resultComponentType} ${c.M} ${c.N} ${c.K}`)
  return has.includes('f16 f32 16 16 16') ? null : 'no matrices of 16 x 16 x 16 float16 with sums in float32'
}

/** `withoutUnits`: why matrix units aren't to be used, whatever the adapter has. */
export async function openAdapter(options: WebgpuOptions, withoutUnits?: string): Promise<Opened> {
  checkOptions('webgpu', options, ['adapter', 'software', 'minimal', 'backend', 'precision'])
  const precision = precisionOf('webgpu', options.precision)
  const gpu = await entrance(options)
  const adapter = await firstAdapter(gpu, options)
  const name = nameOf(adapter.info)
  if (isSoftware(adapter) && options.software === false)
    throw new Error(`webgpu: the only adapter computes on the CPU (${name}); the wasm device is faster there`)
  const { maxStorageBufferBindingSize, maxBufferSize, maxStorageBuffersPerShaderStage } = adapter.limits
  const half = precision === 'f16'
  if (half && !adapter.features.has('shader-f16'))
    throw new Error(`webgpu: ${name} lacks shader-f16, which precision f16 needs; leave that out, or choose another adapter`)
  const noMatrixUnits = withoutUnits ?? (options.minimal ? 'not asked for' : lacksUnits(adapter))
  const timed = !options.minimal && adapter.features.has('timestamp-query')
  const optional = [
    ...(options.minimal ? [] : [largeBuffers]),
    ...(timed ? ['timestamp-query'] : []),
    ...(half && noMatrixUnits === null ? unitFeatures : []),
  ]
  let fresh: GPUAdapter | undefined = adapter
  const request = async (asked: readonly string[]): Promise<GPUDevice> => {
    const from = fresh ?? (await firstAdapter(gpu, options))
    fresh = undefined // gives one device at most, or none once it has refused one
    const device = await from.requestDevice({
      requiredFeatures: [...(half ? ['shader-f16'] : []), ...asked.filter((name) => name !== largeBuffers)] as GPUFeatureName[],
      requiredLimits: asked.includes(largeBuffers) ? { maxStorageBufferBindingSize, maxBufferSize, maxStorageBuffersPerShaderStage } : {},
    })
    owners.register(device, gpu) // of those that are given up, too
    return device
  }
  const { device, refusals } = await requestGranted(request, optional).catch((error: unknown) => {
    throw new Error(`webgpu: ${name} can't be opened: ${firstLine(error)}`)
  })
  const told = (names: readonly string[]): string | undefined => {
    const lines = refusals.filter(([name]) => names.includes(name)).map(([name, why]) => `without ${name}, refused though listed: ${why}`)
    return lines.length > 0 ? lines.join('; ') : undefined
  }
  const refused = told(optional)
  const units = half && { noMatrixUnits: noMatrixUnits ?? told(unitFeatures) ?? null }
  return { device, capabilities: { ...capabilitiesOf(adapter, device), ...units, ...(refused !== undefined && { refused }) }, precision }
}

const largeBuffers = 'large buffers'

/**
 * A device with all that is optional, or, where that is refused, with what is granted: each thing is tried in order with those granted before it. For n of
 * them n + 2 requests at most, and never two devices at once. `refusals`: what the device is without, and why. Throws where it's refused without any.
 */
export async function requestGranted<D extends { destroy(): void }>(
  request: (asked: readonly string[]) => Promise<D>,
  optional: readonly string[],
): Promise<{ device: D; refusals: [name: string, why: string][] }> {
  const attempt = (asked: readonly string[]): Promise<D | { why: string }> =>
    request(asked).catch((error: unknown) => {
      if (asked.length === 0) throw error
      return { why: firstLine(error) }
    })
  const first = await attempt(optional)
  if (!('why' in first)) return { device: first, refusals: [] }
  const granted: string[] = []
  const refusals: [string, string][] = []
  for (const [i, name] of optional.entries()) {
    // All together has been refused already.
    const answer = granted.length === optional.length - 1 ? first : await attempt([...granted, name])
    if ('why' in answer) refusals.push([name, answer.why])
    else if (i === optional.length - 1) return { device: answer, refusals }
    else {
      granted.push(name)
      answer.destroy()
    }
  }
  return { device: await request(granted), refusals }
}

/** Of an adapter, or of what a device was granted of it. */
function capabilitiesOf(adapter: GPUAdapter, { features, limits }: GPUAdapter | GPUDevice = adapter): Capabilities {
  return {
    adapter: nameOf(adapter.info),
    software: isSoftware(adapter),
    timestamps: features.has('timestamp-query'),
    f16: adapter.features.has('shader-f16'),
    bindingBytes: Math.floor(Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize) / 16) * 16,
  }
}

/** What an adapter is and can do, as `webgpuAdapters` tells it. */
export interface AdapterReport {
  /** 'vulkan', 'metal', 'd3d12'; null in a browser, which doesn't say. */
  backend: string | null
  capabilities: Capabilities
  /** The names of the optional WebGPU features that it has. */
  features: readonly string[]
  /** Storage buffers of a shader; bytes and threads of a workgroup; workgroups of a dispatch along one axis. */
  limits: { storageBuffers: number; workgroupBytes: number; workgroupThreads: number; dispatchGroups: number }
}

/** Every adapter there is, the one that `webgpuDevice` takes first. Throws as `webgpuDevice` does where there is none. */
export async function webgpuAdapters(): Promise<AdapterReport[]> {
  const gpu = await entrance({})
  const chosen = await firstAdapter(gpu, {})
  owners.register(chosen, gpu)
  const adapters: [adapter: GPUAdapter, backend: string | null][] = []
  if (inNode) {
    // Dawn lists its adapters when it is asked for one that it hasn't.
    const nobody = await entrance({ adapter: 'none of them' })
    const list = await nobody.requestAdapter().then(
      () => '',
      (error: unknown) => String(error),
    )
    for (const [, backend, name] of list.matchAll(/backend: '([^']*)', name: '([^']*)'/g)) {
      const its = await entrance({ adapter: name, backend: backend as WebgpuOptions['backend'] })
      const adapter = await its.requestAdapter().catch(() => null)
      if (!adapter) continue
      owners.register(adapter, its)
      adapters.push([adapter, backend])
    }
  }
  const first = nameOf(chosen.info)
  if (!adapters.some(([{ info }]) => nameOf(info) === first)) adapters.unshift([chosen, null])
  const reports = adapters.map(([adapter, backend]) => ({
    backend,
    capabilities: capabilitiesOf(adapter),
    features: [...adapter.features].sort(),
    limits: {
      storageBuffers: adapter.limits.maxStorageBuffersPerShaderStage,
      workgroupBytes: adapter.limits.maxComputeWorkgroupStorageSize,
      workgroupThreads: adapter.limits.maxComputeInvocationsPerWorkgroup,
      dispatchGroups: adapter.limits.maxComputeWorkgroupsPerDimension,
    },
  }))
  return reports.sort((a, b) => Number(b.capabilities.adapter === first) - Number(a.capabilities.adapter === first))
}
