/** Copies between strided arrays, and rows of tables. Pinned by test/ops/values.test.ts and gradients.test.ts. */
import type { Kernels } from '../kernels.ts'
import { numbersOf, type RefStorage } from './storage.ts'
import { offsets } from './strides.ts'

export const movementKernels: Pick<Kernels<RefStorage>, 'copy' | 'copyWhere' | 'gather' | 'gatherBackward'> = {
  copy(x, y, shape, stridesX, offsetX, stridesY, offsetY) {
    const ix = offsets(shape, stridesX, offsetX)
    const iy = offsets(shape, stridesY, offsetY)
    for (let i = 0; i < ix.length; i++) y.data[iy[i]] = x.data[ix[i]]
  },
  copyWhere(condition, x, y, shape, stridesC, stridesX) {
    const ic = offsets(shape, stridesC)
    const ix = offsets(shape, stridesX)
    for (let i = 0; i < ix.length; i++) if (condition.data[ic[i]] !== 0) y.data[i] = x.data[ix[i]]
  },
  gather(table, index, y, R, _N, D, half) {
    const rows = half ? numbersOf(table, half) : table.data
    for (let r = 0; r < R; r++) for (let d = 0; d < D; d++) y.data[r * D + d] = rows[index.data[r] * D + d]
  },
  gatherBackward(dy, index, dtable, R, N, D) {
    dtable.data.fill(0, 0, N * D)
    for (let r = 0; r < R; r++) for (let d = 0; d < D; d++) dtable.data[index.data[r] * D + d] += dy.data[r * D + d]
  },
}
