/** The oracle: every kernel in plain TypeScript and float64. Small and readable; speed is the other devices' business. */
import type { Device } from '../device.ts'
import type { Kernels } from '../kernels.ts'
import { aftKernels } from './aft.ts'
import { elementwiseKernels } from './elementwise.ts'
import { fastWeightKernels } from './fast-weights.ts'
import { linearKernels } from './linear.ts'
import { matmulKernels } from './matmul.ts'
import { movementKernels } from './movement.ts'
import { netKernels } from './net.ts'
import { normKernels } from './norm.ts'
import { optimizerKernels } from './optimizer.ts'
import { randomKernels } from './random.ts'
import { reduceKernels } from './reduce.ts'
import { sequenceKernels } from './sequence.ts'
import type { RefStorage } from './storage.ts'

const kernels: Kernels<RefStorage> = {
  ...elementwiseKernels,
  ...movementKernels,
  ...reduceKernels,
  ...matmulKernels,
  ...normKernels,
  ...sequenceKernels,
  ...randomKernels,
  ...optimizerKernels,
  ...fastWeightKernels,
  ...aftKernels,
  ...netKernels,
  ...linearKernels,
}

export function referenceDevice(): Device<RefStorage> {
  const live = new Set<RefStorage>()
  let bytes = 0
  let open = true
  const use = () => {
    if (!open) throw new Error('reference: the device has been closed')
  }
  return {
    name: 'reference',
    description: 'reference (plain TypeScript, float64)',
    double: true,
    get kernels() {
      use()
      return kernels
    },
    allocate(dtype, size) {
      use()
      const storage = { data: dtype === 'int32' ? new Int32Array(size) : new Float64Array(size) }
      live.add(storage)
      bytes += storage.data.byteLength
      return storage
    },
    free(storage) {
      if (!open) return
      if (!live.delete(storage)) throw new Error('reference: a block was freed twice')
      bytes -= storage.data.byteLength
    },
    write(storage, data) {
      use()
      storage.data.set(data)
    },
    async read(storage, size) {
      use()
      return storage.data.slice(0, size)
    },
    bytesInUse: () => bytes,
    bytesReserved: () => bytes,
    close() {
      open = false
      live.clear()
      bytes = 0
    },
  }
}
