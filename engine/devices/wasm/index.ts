/**
 * The wasm device: SIMD kernels (kernels-wasm/) on threads over one shared memory. This folder holds, a file an op family, what turns a
 * call of the kernel table into a call of an AssemblyScript kernel: how the work is cut into tasks, and the scratch memory it takes.
 */
import { checkOptions } from '../../arguments.ts'
import type { Device } from '../device.ts'
import type { Kernels } from '../kernels.ts'
import { aftKernels } from './aft.ts'
import { decayKernels } from './decay.ts'
import { elementwiseKernels } from './elementwise.ts'
import { fastWeightKernels } from './fast-weights.ts'
import { wasmHalves } from './halves.ts'
import { linearKernels } from './linear.ts'
import { matmulKernels } from './matmul.ts'
import type { Block } from './memory.ts'
import { movementKernels } from './movement.ts'
import { muonKernels } from './muon.ts'
import { netKernels } from './net.ts'
import { normKernels } from './norm.ts'
import { optimizerKernels } from './optimizer.ts'
import { createPool, type PoolOptions } from './pool.ts'
import { randomKernels } from './random.ts'
import { reduceKernels } from './reduce.ts'
import { sequenceKernels } from './sequence.ts'

export type { Block } from './memory.ts'
export { type PoolOptions as WasmOptions, relaxedAvailable, threadsAvailable } from './pool.ts'
export { enableWideSimd, type WideSimd } from './wide.ts'

/** AssemblyScript with SIMD, in threads where there are some; throws where WebAssembly lacks what it needs. Close it to end its threads. */
export async function wasmDevice(options: PoolOptions = {}): Promise<Device<Block>> {
  checkOptions('wasm', options, ['threads', 'relaxed', 'wide', 'maximumPages', 'precision'])
  const pool = await createPool(options)
  const { memory, threads, relaxed, wide, half, alone } = pool
  const kernels: Kernels<Block> = {
    ...elementwiseKernels(pool),
    ...movementKernels(pool),
    ...reduceKernels(pool),
    ...matmulKernels(pool),
    ...normKernels(pool),
    ...sequenceKernels(pool),
    ...decayKernels(pool),
    ...randomKernels(pool),
    ...optimizerKernels(pool),
    ...muonKernels(pool),
    ...fastWeightKernels(pool),
    ...aftKernels(pool),
    ...netKernels(pool),
    ...linearKernels(pool),
  }
  const integers = new WeakSet<Block>()
  let open = true
  const use = () => {
    if (!open) throw new Error('wasm: the device has been closed')
  }
  return {
    name: 'wasm',
    description: `wasm (${relaxed ? 'relaxed ' : ''}SIMD${wide ? ' of 256 bits' : ''}, ${threads} ${threads === 1 ? 'thread' : 'threads'}${alone ? `, because ${alone.replace('wasm: ', '')}` : ''}${half ? ', operands of products in float16' : ''})`,
    double: false,
    precision: half ? 'f16' : 'f32',
    defers: false,
    kernels,
    allocate(dtype, size, lasting) {
      use()
      const block = memory.allocate(4 * size, lasting)
      if (dtype === 'int32') integers.add(block)
      return block
    },
    free(block) {
      if (open) memory.free(block)
    },
    halves: wasmHalves(pool, use),
    write(block, data, begin = 0) {
      use()
      const end = begin + data.length
      const view = (integers.has(block) ? memory.int32(block, end) : memory.float32(block, end)).subarray(begin)
      const differs = () => view.map((_, i) => data[i]).some((x, i) => !Object.is(x, view[i]))
      if (pool.notes.written(block, differs)) view.set(data)
    },
    async read(block, size) {
      use()
      pool.notes.read()
      return integers.has(block) ? memory.int32(block, size).slice() : memory.float32(block, size).slice()
    },
    bytesInUse: () => memory.bytesInUse() - pool.scratchBytes(),
    bytesReserved: memory.bytesReserved,
    async capture(body, options) {
      use()
      return pool.capture(body, options)
    },
    close() {
      open = false
      pool.close()
    },
  }
}
