import type { Kernels } from '../kernels.ts'
import { elementwiseKernels } from './elementwise.ts'
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'

/** Elements a piece, and of those that take an exponential each. */
const grain = 16384
const heavy = 8192
/** Columns in a task of convBackwardTaps, as in kernels-wasm/sequence.ts. */
const columns = 16

const pointer = (block: Block | null): number => block?.pointer ?? 0

type SequenceKernels = 'conv' | 'convBackward' | 'dpfp' | 'dpfpBackward' | 'dpfpSum' | 'dpfpSumBackward'

export function sequenceKernels(pool: Pool): Pick<Kernels<Block>, SequenceKernels> {
  const { unaryBackward } = elementwiseKernels(pool)
  return {
    conv(x, w, state, { y, next, sums, stats }, { B, T, D, W, silu, width, eps }) {
      if (D === 0) return
      const args = [x.pointer, w.pointer, pointer(state), y.pointer, pointer(sums), pointer(stats), T, D, W, Number(silu), width, eps]
      pool.run('conv', B * T, Math.ceil((silu ? heavy : grain) / D), args, 8 * W * D)
      if (next) pool.run('convNext', B, Math.ceil(grain / (D * W)), [x.pointer, pointer(state), next.pointer, T, D, W])
    },
    convBackward(x, w, state, { y, sums, stats }, dy, { dx, dw, dstate }, { B, T, D, W, silu, width }) {
      if (D === 0) return
      const n = B * T * D
      const back = (dz: Block): void => {
        pool.run(
          'convBackwardInput',
          B * (T + W - 1),
          Math.ceil(grain / D),
          [w.pointer, dz.pointer, dx.pointer, pointer(dstate), T, D, W],
          8 * W * D,
        )
        pool.run(
          'convBackwardTaps',
          Math.ceil(D / columns),
          Math.ceil(grain / (columns * (B * T + 1))),
          [x.pointer, pointer(state), dz.pointer, dw.pointer, B, T, D, W],
          4 * W * columns,
        )
      }
      if (!silu && width === 0) {
        back(dy)
        return
      }
      const dz = pool.memory.allocate(4 * n)
      try {
        if (width === 0) unaryBackward('silu', sums!, y, dy, dz, n)
        else {
          const args = [y.pointer, pointer(silu ? sums : null), pointer(stats), dy.pointer, dz.pointer, width]
          pool.run('convBackwardSums', n / width, Math.ceil(heavy / width), args)
        }
        back(dz)
      } finally {
        pool.memory.free(dz)
      }
    },
    dpfp(x, y, R, D, nu) {
      if (D === 0) return
      pool.run('dpfp', R, Math.ceil(grain / (2 * D * nu)), [x.pointer, y.pointer, D, nu], 4 * (2 * D + 2 * nu + 8))
    },
    dpfpBackward(x, dy, dx, R, D, nu) {
      if (D === 0) return
      pool.run('dpfpBackward', R, Math.ceil(grain / (2 * D * nu)), [x.pointer, dy.pointer, dx.pointer, D, nu], 4 * (4 * D + 2 * nu + 12))
    },
    dpfpSum(list, R, D, nu, eps) {
      if (D === 0) return
      for (const { x, y, stats } of list) {
        const args = [x.pointer, y.pointer, stats.pointer, D, nu, eps]
        pool.run('dpfpSum', R, Math.ceil(grain / (2 * D * nu)), args, 4 * (2 * D + 2 * nu + 8))
      }
    },
    dpfpSumBackward(list, R, D, nu) {
      if (D === 0) return
      for (const { x, stats, dy, dx } of list) {
        const args = [x.pointer, stats.pointer, dy.pointer, dx.pointer, D, nu]
        pool.run('dpfpSumBackward', R, Math.ceil(grain / (2 * D * nu)), args, 4 * (4 * D + 2 * nu + 12 + 4 * D * nu))
      }
    },
  }
}
