/** The attention free transformer: a task of kernels-wasm/aft.ts is four channels of a row of the batch; for the bias, of all rows, or a row of the table. */
import type { AftSizes, Kernels } from '../kernels.ts'
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'

const kinds = { none: 0, table: 1, taps: 2 } as const
/** ROWS of kernels-wasm/aft.ts. */
const tableRows = 32
/** Pairs of a query and a key, times four channels, that are worth a hand-over to another thread. */
const worthSharing = 2048

const pointer = (block: Block | null): number => block?.pointer ?? 0

/** The window, no wider than there are rows: no two of those are further apart. Taps are counted by it. */
const narrowed = (sizes: AftSizes): AftSizes => (sizes.bias === 'taps' ? sizes : { ...sizes, window: Math.min(sizes.window, sizes.n) })
/** The ring of a window and its weights, four channels at a time; and of all channels, with maxima and a query's numbers beside it. */
const ringBytes = ({ window }: AftSizes): number => 48 * window + 64
const wideRingBytes = ({ window, D }: AftSizes): number => {
  const row = 4 * (4 * Math.ceil(D / 4))
  return 2 * window * row + 4 * (window + 4) + 3 * row
}

export function aftKernels(pool: Pool): Pick<Kernels<Block>, 'aft' | 'aftBackward'> {
  const sizesOf = ({ n, past, D, window, causal, bias, N }: AftSizes): number[] => [n, past, D, window, Number(causal), kinds[bias], N]
  /** The tasks of a call, and how many of them at a time. */
  const share = ({ n, window }: AftSizes, tasks: number, each = n): [number, number] => [
    tasks,
    Math.max(1, Math.floor(worthSharing / (each * (window + 1)))),
  ]
  return {
    aft(k, v, w, places, y, lse, given) {
      const sizes = narrowed(given)
      const blocks = [k, v, w, places, y, lse].map(pointer)
      pool.run('aft', ...share(sizes, sizes.B * Math.ceil(sizes.D / 4)), [...blocks, ...sizesOf(sizes)], ringBytes(sizes))
    },
    aftBackward(k, v, w, places, { y, lse }, { dy, dlse }, { dk, dv, dw }, given) {
      const sizes = narrowed(given)
      const { B, n, D, bias, N } = sizes
      const blocks = [k, v, w, places, y, lse, dy, dlse].map(pointer)
      pool.run(
        'aftBackward',
        ...share(sizes, B * Math.ceil(D / 4)),
        [...blocks, dk.pointer, dv.pointer, ...sizesOf(sizes)],
        ringBytes(sizes),
      )
      const args = [...blocks, pointer(dw), B, ...sizesOf(sizes)]
      if (bias === 'taps') pool.run('aftTapsBackward', ...share(sizes, Math.ceil(D / 4), B * n), args, ringBytes(sizes))
      if (bias === 'table') {
        // A task goes through all places once, for 32 rows.
        const tasks = Math.ceil(N / tableRows)
        const [, some] = share(sizes, tasks, (B * n * D) / 4 / tasks)
        pool.run('aftTableBackward', tasks, some, args, wideRingBytes(sizes))
      }
    },
  }
}
