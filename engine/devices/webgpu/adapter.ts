/** Where a GPU comes from: the browser's `navigator.gpu`, or in Node the package `webgpu` (Dawn), and what the adapter found can do. */

import { inNode } from '../../platform.ts'

export interface WebgpuOptions {
  /** Part of an adapter's name, as the system's driver spells it (in Node; a browser chooses for itself). */
  adapter?: string
  /** Whether an adapter that computes on the CPU will do (SwiftShader, lavapipe): true if not given. */
  software?: boolean
  /** Ask for no feature and no limit beyond what every WebGPU adapter has. */
  minimal?: boolean
  /** Dawn's backend: `null` checks shaders and computes nothing. */
  backend?: 'null' | 'vulkan' | 'metal' | 'd3d12'
}

/** What there is beyond the guaranteed: kernels ask here, and do without where it's missing. */
export interface Capabilities {
  /** The adapter's name. */
  adapter: string
  /** Whether it computes on the CPU. */
  software: boolean
  /** Sizes of a subgroup, where a shader may use them. */
  subgroups: { min: number; max: number } | null
  f16: boolean
  timestamps: boolean
  /** Largest buffer that can be bound, in bytes. */
  bindingBytes: number
}

export interface Opened {
  device: GPUDevice
  capabilities: Capabilities
}

interface Dawn {
  create(options: string[]): GPU
}

/**
 * What `create` of the package `webgpu` returned: collected before its device is, it takes the process down with it. The registry holds it
 * until the device itself has been collected. (It must not become a property of `globalThis`: then Node doesn't exit.)
 */
const owners = new FinalizationRegistry<GPU>(() => {})

async function entrance({ adapter, backend }: WebgpuOptions): Promise<GPU> {
  if (!inNode) {
    if (typeof navigator === 'undefined' || !navigator.gpu)
      throw new Error('webgpu: this browser has no WebGPU here (it needs a secure page, https or localhost, and perhaps a newer version)')
    if (adapter || backend) throw new Error('webgpu: a browser chooses the adapter itself; adapter and backend mean nothing here')
    return navigator.gpu
  }
  // Not a literal, so that a bundler for browsers doesn't look for it.
  const name = 'webgpu'
  let dawn: Dawn
  try {
    dawn = await import(name)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ERR_MODULE_NOT_FOUND')
      throw new Error('webgpu: the package `webgpu` is not installed; it is what gives Node a GPU: npm install webgpu')
    throw new Error(
      `webgpu: the package \`webgpu\` doesn't load on ${process.platform}-${process.arch}: ${firstLine(error)} (it needs glibc 2.34 or later on Linux)`,
    )
  }
  return dawn.create([
    // Every kernel writes its workgroup memory before it reads it; clearing it first costs SwiftShader seconds in compiling.
    'enable-dawn-features=disable_workgroup_init',
    ...(adapter ? [`adapter=${adapter}`] : []),
    ...(backend ? [`backend=${backend}`] : []),
  ])
}

const firstLine = (error: unknown): string => String((error as Error)?.message ?? error).split('\n')[0]

const unknown = (adapter: string, names: readonly string[]): string =>
  `none whose name has "${adapter}" in it${names.length > 0 ? `; there are: ${names.join(', ')}` : ''}`

/** What is missing where there is no adapter, and how to get it. */
async function missing({ adapter }: WebgpuOptions): Promise<string> {
  if (adapter) return unknown(adapter, [])
  if (!inNode) return 'the browser offers no adapter (see chrome://gpu or about:support)'
  if (process.platform === 'darwin') return 'no Metal adapter; WebGPU needs macOS 11 or later and its built-in GPU driver'
  if (process.platform === 'win32')
    return "no Direct3D 12 adapter; install the GPU's driver from its maker (NVIDIA, AMD, Intel) or through Windows Update"
  const { existsSync, readdirSync } = await import('node:fs')
  const folders = (process.env.LD_LIBRARY_PATH ?? '')
    .split(':')
    .concat('/usr/lib64', '/usr/lib', '/usr/lib/x86_64-linux-gnu', '/usr/lib/aarch64-linux-gnu', '/usr/local/lib')
    .filter(Boolean)
  const loader = folders.some((folder) => existsSync(`${folder}/libvulkan.so.1`))
  const manifests = ['/usr/share/vulkan/icd.d', '/etc/vulkan/icd.d', '/usr/local/share/vulkan/icd.d'].filter(
    (folder) => existsSync(folder) && readdirSync(folder).some((file) => file.endsWith('.json')),
  )
  const driver = manifests.length > 0 || !!(process.env.VK_DRIVER_FILES ?? process.env.VK_ICD_FILENAMES)
  const lacks = [
    ...(loader ? [] : ['the Vulkan loader libvulkan.so.1']),
    ...(driver ? [] : ['a Vulkan driver (no *.json in /usr/share/vulkan/icd.d)']),
  ]
  return `${lacks.length > 0 ? `missing: ${lacks.join(' and ')}` : 'no Vulkan driver here supports WebGPU (Mesa 25 or later does)'}. Debian, Ubuntu: apt install libvulkan1 mesa-vulkan-drivers (or nvidia-vulkan-icd); Fedora: dnf install vulkan-loader mesa-vulkan-drivers`
}

/** Dawn's list of software adapters is its flag; a Mesa that computes on the CPU calls itself llvmpipe. */
const isSoftware = ({ info }: GPUAdapter): boolean =>
  (info as { isFallbackAdapter?: boolean }).isFallbackAdapter === true || /swiftshader|llvmpipe|lavapipe|basic render/i.test(nameOf(info))

const nameOf = ({ vendor, architecture, device, description }: GPUAdapterInfo): string =>
  [vendor, architecture, device, description].filter((part) => part !== '').join(' ') || 'adapter without a name'

export async function openAdapter(options: WebgpuOptions): Promise<Opened> {
  const gpu = await entrance(options)
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' }).catch((error: unknown) => {
    const names = [...String(error).matchAll(/name: '([^']*)'/g)].map(([, name]) => name)
    throw new Error(`webgpu: no adapter: ${options.adapter ? unknown(options.adapter, names) : firstLine(error)}`)
  })
  if (!adapter) throw new Error(`webgpu: no adapter: ${await missing(options)}`)
  const name = nameOf(adapter.info)
  const software = isSoftware(adapter)
  if (software && options.software === false)
    throw new Error(`webgpu: the only adapter computes on the CPU (${name}); the wasm device is faster there`)
  const has = (feature: string): boolean => !options.minimal && adapter.features.has(feature as GPUFeatureName)
  const { maxStorageBufferBindingSize, maxBufferSize } = adapter.limits
  const device = await adapter.requestDevice({
    requiredFeatures: ['subgroups', 'shader-f16', 'timestamp-query'].filter(has) as GPUFeatureName[],
    requiredLimits: options.minimal ? {} : { maxStorageBufferBindingSize, maxBufferSize },
  })
  owners.register(device, gpu)
  const info = adapter.info as GPUAdapterInfo & { subgroupMinSize?: number; subgroupMaxSize?: number }
  return {
    device,
    capabilities: {
      adapter: name,
      software,
      subgroups: has('subgroups') ? { min: info.subgroupMinSize ?? 4, max: info.subgroupMaxSize ?? 128 } : null,
      f16: has('shader-f16'),
      timestamps: has('timestamp-query'),
      bindingBytes: Math.min(device.limits.maxStorageBufferBindingSize, device.limits.maxBufferSize),
    },
  }
}
