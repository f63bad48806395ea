import type { Kernels } from '../kernels.ts'
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'

/** Elements a piece. */
const grain = 16384
/** Columns in a task of convBackwardTaps, as in kernels-wasm/sequence.ts. */
const columns = 16

const pointer = (block: Block | null): number => block?.pointer ?? 0

type SequenceKernels = 'conv' | 'convBackward' | 'dpfp' | 'dpfpBackward' | 'dpfpSum' | 'dpfpSumBackward'

export function sequenceKernels(pool: Pool): Pick<Kernels<Block>, SequenceKernels> {
  return {
    conv(x, w, state, y, B, T, D, W) {
      if (D > 0) pool.run('conv', B * T, Math.ceil(grain / D), [x.pointer, w.pointer, pointer(state), y.pointer, T, D, W], 8 * W * D)
    },
    convBackward(x, w, state, dy, dx, dw, dstate, B, T, D, W) {
      if (D === 0) return
      pool.run(
        'convBackwardInput',
        B * (T + W - 1),
        Math.ceil(grain / D),
        [w.pointer, dy.pointer, dx.pointer, pointer(dstate), T, D, W],
        8 * W * D,
      )
      pool.run(
        'convBackwardTaps',
        Math.ceil(D / columns),
        Math.ceil(grain / (columns * (B * T + 1))),
        [x.pointer, pointer(state), dy.pointer, dw.pointer, B, T, D, W],
        4 * W * columns,
      )
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
