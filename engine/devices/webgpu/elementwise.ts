import { elementwise } from '../../../kernels-wgsl/generated/wgsl.ts'
import { binaryOps, type Kernels, unaryOps } from '../kernels.ts'
import { forEachDispatch } from './axes.ts'
import type { Block } from './memory.ts'
import { columnThreads, lanesFor, reduceColumns } from './reduce.ts'
import { type Gpu, perGroup } from './runtime.ts'

/** Elements up to which a workgroup of scaleBackward adds up what one factor gets. */
const partLength = 2 ** 17

type ElementwiseKernels = 'fill' | 'affine' | 'accumulate' | 'unary' | 'unaryBackward' | 'binary' | 'scaleBackward'

export function elementwiseKernels(gpu: Gpu): Pick<Kernels<Block>, ElementwiseKernels> {
  const { faults } = gpu
  const groups = (n: number): number => Math.ceil(n / perGroup)
  return {
    scaleBackward(x, s, dy, dx, ds, R, P, n) {
      const lanes = lanesFor(n)
      const summed = ds !== null && P < R
      const rowGroups = dx || !summed ? Math.ceil((R * lanes) / columnThreads) : 0
      const parts = summed ? Math.max(1, Math.ceil(((R / P) * n) / partLength)) : 0
      const wanted = Number(dx !== null) + 2 * Number(ds !== null)
      const pass = (ds: Block | null): void => {
        const params = { R, P, columns: n, lanes, rowGroups, parts, length: partLength, wanted }
        gpu.run(elementwise, 'scaleBackward', { x, s, dy, y: dx, ds }, params, rowGroups + parts * P)
      }
      if (parts <= 1) pass(ds)
      else
        gpu.scratch(parts * P, (partial) => {
          pass(partial)
          reduceColumns(gpu, 'sum', partial, ds!, 1, parts, P)
        })
    },
    fill(y, n, value) {
      gpu.run(elementwise, 'fill', { y }, { n, shift: value }, groups(n))
    },
    affine(x, y, n, scale, shift) {
      if (x === y) gpu.run(elementwise, 'affineInPlace', { y, faults }, { n, scale, shift }, groups(n))
      else gpu.run(elementwise, 'affine', { x, y }, { n, scale, shift }, groups(n))
    },
    accumulate(x, y, n) {
      gpu.run(elementwise, 'accumulate', { x, y, faults }, { n }, groups(n))
    },
    unary(op, x, y, n) {
      gpu.run(elementwise, 'unary', { x, y }, { n, op: unaryOps.indexOf(op) }, groups(n))
    },
    unaryBackward(op, x, y, dy, dx, n) {
      gpu.run(elementwise, 'unaryBackward', { x, yIn: y, dy, y: dx }, { n, op: unaryOps.indexOf(op) }, groups(n))
    },
    binary(op, a, b, y, shape, stridesA, stridesB) {
      forEachDispatch(
        shape.map((size, i) => ({ size, strides: [stridesA[i], stridesB[i]] })),
        (n, rank, axes, [offsetA, offsetB], offsetY) =>
          gpu.run(elementwise, 'binary', { a, b, y }, { n, op: binaryOps.indexOf(op), rank, axes, offsetA, offsetB, offsetY }, groups(n)),
      )
    },
  }
}
