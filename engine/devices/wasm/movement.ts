import type { Kernels } from '../kernels.ts'
import { mergedAxes, withAxes } from './axes.ts'
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'

/** Elements a piece. */
const grain = 32768
/** Columns in a task of copyTransposed and of gatherBackward, as in kernels-wasm/movement.ts. */
const tile = 16
const columns = 32

export function movementKernels(pool: Pool): Pick<Kernels<Block>, 'copy' | 'gather' | 'gatherBackward'> {
  return {
    copy(x, y, shape, stridesX, offsetX, stridesY, offsetY) {
      const size = shape.reduce((product, n) => product * n, 1)
      if (size === 0) return
      const from = x.pointer + 4 * offsetX
      const to = y.pointer + 4 * offsetY
      // The order of the axes is free: y is best written in the order of its memory.
      const inOrder = shape.map((n, i) => ({ size: n, strides: [stridesX[i], stridesY[i]] as const }))
        .sort((p, q) => Math.abs(q.strides[1]) - Math.abs(p.strides[1]))
      const axes = mergedAxes(inOrder)
      const row = axes.pop() ?? { size: 1, strides: [1, 1] }
      const across = axes.findIndex((axis) => axis.strides[0] === 1)
      if (row.strides[1] === 1 && row.strides[0] !== 1 && across >= 0) {
        const [column] = axes.splice(across, 1)
        const outer = size / (row.size * column.size)
        withAxes(pool, axes, (table) => {
          pool.run('copyTransposed', outer * Math.ceil(column.size / tile), Math.ceil(grain / (row.size * tile)),
            [from, to, column.size, row.size, row.strides[0], column.strides[1], axes.length, table])
        })
      } else {
        withAxes(pool, axes, (table) => {
          pool.run('copy', size, grain, [from, to, row.size, ...row.strides, axes.length, table])
        })
      }
    },
    gather(table, index, y, R, _N, D) {
      if (D > 0) pool.run('gather', R, Math.ceil(grain / D), [table.pointer, index.pointer, y.pointer, D])
    },
    gatherBackward(dy, index, dtable, R, N, D) {
      pool.run('gatherBackward', Math.ceil(D / columns), Math.ceil(grain / (columns * (R + N))),
        [dy.pointer, index.pointer, dtable.pointer, R, N, D])
    },
  }
}
