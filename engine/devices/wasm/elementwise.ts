import { mergedAxes } from '../axes.ts'
import { binaryOps, type Kernels } from '../kernels.ts'
import { runPlanes } from './axes.ts'
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'
import { reduceKernels } from './reduce.ts'

/** Elements a piece: what is done in the time it takes to wake a thread, or less, stays in one. */
const light = 32768
const heavy = 8192

type ElementwiseKernels = 'fill' | 'affine' | 'accumulate' | 'unary' | 'unaryBackward' | 'binary' | 'scaleBackward'

export function elementwiseKernels(pool: Pool): Pick<Kernels<Block>, ElementwiseKernels> {
  const { reduce } = reduceKernels(pool)
  return {
    scaleBackward(x, s, dy, dx, ds, R, P, n) {
      const run = (dots: Block | null): void => {
        const args = [x.pointer, s.pointer, dy.pointer, dx?.pointer ?? 0, dots?.pointer ?? 0, P, n]
        pool.run('scaleBackward', R, Math.ceil(light / (n + 1)), args)
      }
      if (!ds || P === R) {
        run(ds)
        return
      }
      const dots = pool.memory.allocate(4 * R)
      try {
        run(dots)
        reduce('sum', dots, ds, 1, R / P, P)
      } finally {
        pool.memory.free(dots)
      }
    },
    fill(y, n, value) {
      pool.run('fill', n, light, [y.pointer, value])
    },
    affine(x, y, n, scale, shift) {
      pool.run('affine', n, light, [x.pointer, y.pointer, scale, shift])
    },
    accumulate(x, y, n) {
      pool.run('accumulate', n, light, [x.pointer, y.pointer])
    },
    unary(op, x, y, n) {
      pool.run(`unary_${op}`, n, heavy, [x.pointer, y.pointer])
    },
    unaryBackward(op, x, y, dy, dx, n) {
      pool.run(`unaryBackward_${op}`, n, heavy, [x.pointer, y.pointer, dy.pointer, dx.pointer])
    },
    binary(op, a, b, y, shape, stridesA, stridesB) {
      const axes = mergedAxes(shape.map((size, i) => ({ size, strides: [stridesA[i], stridesB[i]] })))
      runPlanes(pool, 'binary', light, [binaryOps.indexOf(op), a.pointer, b.pointer, y.pointer], axes)
    },
  }
}
