/**
 * The WebGPU device: WGSL kernels (kernels-wgsl/), recorded and submitted in batches. This folder holds, a file an op family, what turns a call
 * of the kernel table into dispatches.
 *
 * How a kernel is written. kernels-wgsl/NAME.wgsl holds the kernels of a family: one `struct Params` (i32, u32, f32, array<vec4<T>, N>) as
 * `@group(0) @binding(0) var<uniform> p: Params`, storage bindings from 1 on (each `@group(0) @binding(N) var<storage, ...> name` on a line
 * of its own), and any number of entries `@compute @workgroup_size(...) fn name(g: Group)`; entries may share the bindings' names or have
 * their own, 8 at most each (more only where there is another way, since not every adapter binds them), and no buffer may be bound writable and once more. common.wgsl (Group, groupOf, sumLanes, isNan, ...)
 * and math.wgsl (expOf, logOf, ...) come before every file, NAME.wgsl before a NAME-PART.wgsl without Params of its own. `npm run build`
 * embeds the files and generates their descriptions, so that
 *
 *     gpu.run(elementwise, 'affine', { x, y }, { n, scale, shift }, Math.ceil(n / perGroup))
 *
 * is checked by the compiler. Parameters that may be others when a captured step is replayed are given by a function. The last argument counts workgroups, in one dimension, as many as needed: the runtime splits them over x and y, and
 * groupOf(g) undoes that; a kernel has to check that the group it gets is within the work. Sizes and choices are parameters, not constants, since
 * each combination of constants would be another pipeline to compile. (What a recurrent net's program does is generated: net-source.ts.) Half is what
 * operands of products are rounded to: f16 in that precision, where gpu.exact has f32 and gpu.units compiles for matrix units (`kinds` in build.mjs).
 * Drivers lose NaN in max, min, clamp and comparisons: floats have maxOf and minOf, and isNan comes before a comparison
 * (test/ops/wgsl.test.ts). In Node workgroup memory isn't cleared: write it before reading it. Temporaries come from gpu.scratch; bad values are
 * reported with gpu.fault and gpu.faults, and while there are any (anyFault), a kernel that changes memory in place leaves it as it is. Nothing may
 * be read back.
 *
 * To run a test on SwiftShader, with no driver installed: npm run build && node test/run.mjs dist/test/ops/webgpu.test.js
 */
import type { Device, Precision } from '../device.ts'
import type { Kernels } from '../kernels.ts'
import { type Capabilities, openAdapter, type WebgpuOptions } from './adapter.ts'
import { aftKernels } from './aft.ts'
import { decayKernels } from './decay.ts'
import { elementwiseKernels } from './elementwise.ts'
import { fastWeightKernels, wrongChunks } from './fast-weights.ts'
import { linearKernels } from './linear.ts'
import { matmulKernels, wrongUnits } from './matmul.ts'
import type { Block } from './memory.ts'
import { movementKernels } from './movement.ts'
import { muonKernels } from './muon.ts'
import { netKernels } from './net.ts'
import { normKernels } from './norm.ts'
import { optimizerKernels } from './optimizer.ts'
import { randomKernels } from './random.ts'
import { reduceKernels } from './reduce.ts'
import { createGpu, type Gpu } from './runtime.ts'
import { sequenceKernels } from './sequence.ts'

export type { AdapterReport, Capabilities, WebgpuOptions } from './adapter.ts'

declare global {
  // With those of the library where it has them: that of TypeScript 5 has no WebGPU, and what uses this package has to compile there.
  interface GPUDevice {
    destroy(): void
  }
  interface GPUBuffer {
    destroy(): void
  }
}

export interface WebgpuDevice extends Device<Block> {
  readonly capabilities: Capabilities
  /** The device underneath, for what isn't covered here; destroying it is what losing it looks like. */
  readonly gpu: GPUDevice
}

/** The whole table, on what runs its dispatches (bench/roofline.mjs counts them). */
export const webgpuKernels = (gpu: Gpu): Kernels<Block> => ({
  ...elementwiseKernels(gpu),
  ...movementKernels(gpu),
  ...reduceKernels(gpu),
  ...matmulKernels(gpu),
  ...normKernels(gpu),
  ...sequenceKernels(gpu),
  ...decayKernels(gpu),
  ...randomKernels(gpu),
  ...optimizerKernels(gpu),
  ...muonKernels(gpu),
  ...aftKernels(gpu),
  ...netKernels(gpu),
  ...linearKernels(gpu),
  ...fastWeightKernels(gpu),
})

const wrongOn = async (gpu: Gpu): Promise<string | null> => (gpu.units ? ((await wrongUnits(gpu)) ?? (await wrongChunks(gpu))) : null)

/** Without matrix units where products on them come out wrong: `open` is told why. */
export async function withRightUnits(open: (withoutUnits?: string) => Promise<Gpu>): Promise<Gpu> {
  const gpu = await open()
  const wrong = await wrongOn(gpu).catch((error: Error) => error.message)
  if (wrong === null) return gpu
  gpu.close()
  return open(wrong)
}

/** What a device's dispatches run on. */
export const openGpu = (options: WebgpuOptions): Promise<Gpu> =>
  withRightUnits(async (withoutUnits) => createGpu(await openAdapter(options, withoutUnits)))

/** See `webgpuDevice`. */
export async function openWebgpu(options: WebgpuOptions): Promise<WebgpuDevice> {
  return deviceOn(await openGpu(options), options.precision)
}

/** The device that has its memory and dispatches from this. */
export function deviceOn(gpu: Gpu, precision: Precision = 'f32'): WebgpuDevice {
  const half =
    precision === 'f16' ? `; operands of products in float16${gpu.units ? ', large ones and those of chunks on matrix units' : ''}` : ''
  const { adapter, refused } = gpu.capabilities
  return {
    name: 'webgpu',
    description: `webgpu (${adapter}${half}${refused === undefined ? '' : `; ${refused}`})`,
    precision,
    capabilities: gpu.capabilities,
    gpu: gpu.device,
    double: false,
    defers: true,
    kernels: webgpuKernels(gpu),
    allocate: (dtype, size, lasting) => gpu.allocate(4 * size, dtype === 'int32', lasting),
    free: gpu.free,
    gather: gpu.gather,
    write: gpu.write,
    read: gpu.read,
    timeDispatches: gpu.timeDispatches,
    capture: gpu.capture,
    bytesInUse: gpu.bytesInUse,
    bytesReserved: gpu.bytesReserved,
    close: gpu.close,
  }
}
