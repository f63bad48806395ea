import { halfNumber } from '../../half.ts'
import { mergedAxes } from '../axes.ts'
import type { Kernels } from '../kernels.ts'
import { runPlanes, withTable } from './axes.ts'
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'

/** Elements a piece. */
const grain = 32768
/** Columns in a task of copyTransposed and of gatherBackward, as in kernels-wasm/movement.ts. */
const tile = 16
const columns = 32

export function movementKernels(pool: Pool): Pick<Kernels<Block>, 'copy' | 'copyWhere' | 'gather' | 'scatter' | 'gatherBackward'> {
  return {
    copy(x, y, shape, stridesX, offsetX, stridesY, offsetY) {
      const from = x.pointer + 4 * offsetX
      const to = y.pointer + 4 * offsetY
      // The order of the axes is free: y is best written in the order of its memory.
      const axes = mergedAxes(
        shape
          .map((size, i) => ({ size, strides: [stridesX[i], stridesY[i]] as const }))
          .sort((p, q) => Math.abs(q.strides[1]) - Math.abs(p.strides[1])),
      )
      const row = axes.at(-1)
      const column = axes.findIndex((axis) => axis.strides[0] === 1)
      if (row?.strides[1] !== 1 || row.strides[0] === 1 || column < 0) {
        runPlanes(pool, 'copy', grain, [from, to], axes)
        return
      }
      const [
        {
          size: P,
          strides: [, strideY],
        },
      ] = axes.splice(column, 1)
      axes.pop()
      const tasks = axes.reduce((product, { size }) => product * size, Math.ceil(P / tile))
      withTable(pool, axes, (rank, table) => {
        pool.run('copyTransposed', tasks, Math.ceil(grain / (row.size * tile)), [
          from,
          to,
          P,
          row.size,
          row.strides[0],
          strideY,
          rank,
          table,
        ])
      })
    },
    copyWhere(condition, x, y, shape, stridesC, stridesX) {
      const axes = mergedAxes(shape.map((size, i) => ({ size, strides: [stridesC[i], stridesX[i]] })))
      runPlanes(pool, 'copyWhere', grain, [condition.pointer, x.pointer, y.pointer], axes)
    },
    gather(table, index, y, R, _N, D, half) {
      const args = [table.pointer, index.pointer, y.pointer, D]
      if (D > 0) pool.run(half ? 'gatherHalf' : 'gather', R, Math.ceil(grain / D), half ? [...args, halfNumber(half)] : args)
    },
    scatter(x, index, y, R, D) {
      if (D > 0) pool.run('scatter', R, Math.ceil(grain / D), [x.pointer, index.pointer, y.pointer, D])
    },
    gatherBackward(dy, index, dtable, R, N, D) {
      pool.run('gatherBackward', Math.ceil(D / columns), Math.ceil(grain / (columns * (R + N))), [
        dy.pointer,
        index.pointer,
        dtable.pointer,
        R,
        N,
        D,
      ])
    },
  }
}
