/** Copies between strided arrays, and rows of tables. Pinned by test/ops/values.test.ts and gradients.test.ts. */
import { sizeOf } from '../../shape.ts'
import type { Kernels } from '../kernels.ts'
import { numbersOf, type RefStorage } from './storage.ts'
import { offsets } from './strides.ts'

export const movementKernels: Pick<Kernels<RefStorage>, 'copy' | 'copyWhere' | 'gather' | 'scatter' | 'gatherBackward'> = {
  copy(x, y, shape, stridesX, offsetX, stridesY, offsetY) {
    const ix = offsets(0, shape, stridesX, offsetX)
    const iy = offsets(1, shape, stridesY, offsetY)
    const n = sizeOf(shape)
    for (let i = 0; i < n; i++) y.data[iy[i]] = x.data[ix[i]]
  },
  copyWhere(condition, x, y, shape, stridesC, stridesX) {
    const ic = offsets(0, shape, stridesC)
    const ix = offsets(1, shape, stridesX)
    const n = sizeOf(shape)
    for (let i = 0; i < n; i++) if (condition.data[ic[i]] !== 0) y.data[i] = x.data[ix[i]]
  },
  gather(table, index, y, R, _N, D, half) {
    const rows = half ? numbersOf(table, half) : table.data
    for (let r = 0; r < R; r++) for (let d = 0; d < D; d++) y.data[r * D + d] = rows[index.data[r] * D + d]
  },
  scatter(x, index, y, R, D) {
    for (let r = 0; r < R; r++) for (let d = 0; d < D; d++) y.data[index.data[r] * D + d] = x.data[r * D + d]
  },
  gatherBackward(dy, index, dtable, R, N, D) {
    dtable.data.fill(0, 0, N * D)
    for (let r = 0; r < R; r++) for (let d = 0; d < D; d++) dtable.data[index.data[r] * D + d] += dy.data[r * D + d]
  },
}
