import { movement } from '../../../kernels-wgsl/generated/wgsl.ts'
import { halfNumber } from '../../half.ts'
import type { Kernels } from '../kernels.ts'
import { forEachDispatch } from './axes.ts'
import { elementwiseKernels } from './elementwise.ts'
import type { Block } from './memory.ts'
import { type Gpu, perGroup } from './runtime.ts'

/** Rows of a table up to which each of them looks through all indices: a dispatch, where there are three of those that are put in order first. */
const searched = 512

export function movementKernels(gpu: Gpu): Pick<Kernels<Block>, 'copy' | 'copyWhere' | 'gather' | 'scatter' | 'gatherBackward'> {
  const elementwise = elementwiseKernels(gpu)
  return {
    copy(x, y, shape, stridesX, offsetX, stridesY, offsetY) {
      // The order of the axes is free: y is best written in the order of its memory.
      const axes = shape
        .map((size, i) => ({ size, strides: [stridesX[i], stridesY[i]] as const }))
        .sort((p, q) => Math.abs(q.strides[1]) - Math.abs(p.strides[1]))
      forEachDispatch(axes, (n, rank, axes, [moreX, moreY]) =>
        gpu.run(movement, 'copy', { x, y }, { n, rank, axes, offsetX: offsetX + moreX, offsetY: offsetY + moreY }, Math.ceil(n / perGroup)),
      )
    },
    copyWhere(condition, x, y, shape, stridesC, stridesX) {
      forEachDispatch(
        shape.map((size, i) => ({ size, strides: [stridesC[i], stridesX[i]] })),
        (n, rank, axes, [offsetC, offsetX], offsetY) =>
          gpu.run(movement, 'copyWhere', { condition, x, y }, { n, rank, axes, offsetC, offsetX, offsetY }, Math.ceil(n / perGroup)),
      )
    },
    gather(table, index, y, R, _N, D, half) {
      const params = { n: R * D, D, half: halfNumber(half) }
      gpu.run(movement, half ? 'gatherHalf' : 'gather', { table, index, y }, params, Math.ceil((R * D) / perGroup))
    },
    scatter(x, index, y, R, D) {
      gpu.run(movement, 'scatter', { x, index, y }, { n: R * D, D }, Math.ceil((R * D) / perGroup))
    },
    gatherBackward(dy, index, dtable, R, N, D) {
      const parts = Math.ceil(D / perGroup)
      if (N <= searched || R * D === 0) {
        gpu.run(movement, 'gatherBackward', { dy, index, dtable }, { R, N, D }, N * parts)
        return
      }
      elementwise.fill(dtable, N * D, 0)
      gpu.scratch(R, (order) => {
        gpu.run(movement, 'orderRows', { index, order }, { R }, Math.ceil(R / perGroup))
        gpu.run(movement, 'gatherBackwardOrdered', { dy, index, dtable, ordered: order }, { R, N, D }, R * parts)
      })
    },
  }
}
