import { reduce } from '../../../kernels-wgsl/generated/wgsl.ts'
import type { Kernels } from '../kernels.ts'
import type { Block } from './memory.ts'
import { type Gpu, threads } from './runtime.ts'

const ops = { sum: 0, max: 1, squares: 2 } as const

/** Threads for a row of n: a power of two, so that a thread adds up a few elements at least. */
export const lanesFor = (n: number): number => Math.min(threads, 2 ** Math.max(0, Math.ceil(Math.log2(Math.max(n, 1) / 4))))

/** Threads that keep a GPU busy; more than that and a long axis is cut no further. */
const enough = 2 ** 15

/** Columns of a workgroup whose threads share them (kernels-wgsl/reduce.wgsl, norm.wgsl), and up to which length that takes no longer than two dispatches. */
export const columnsAtOnce = 8
export const columnLength = 4096
/** Threads of such a workgroup. */
export const columnThreads = 256

/** How an axis of n is cut where `columns` threads or rows go over it: parts of 64 elements at least. Depends on the sizes alone. */
export function partsOf(n: number, columns: number): { parts: number; length: number } {
  const wanted = Math.min(Math.ceil(n / 64), Math.ceil(enough / Math.max(columns, 1)))
  const length = Math.max(1, Math.ceil(n / Math.max(wanted, 1)))
  return { parts: Math.max(1, Math.ceil(n / length)), length }
}

type RowOp = keyof typeof ops

/** [outer, n, 1] -> [outer, parts], a part `length` elements; all in one dispatch. */
function rowsAtOnce(gpu: Gpu, op: RowOp, x: Block, y: Block, outer: number, n: number, parts = 1, length = n): void {
  const lanes = lanesFor(length)
  gpu.run(reduce, 'reduceRows', { x, y }, { op: ops[op], outer, n, parts, length, lanes }, Math.ceil((outer * parts * lanes) / threads))
}

/** [outer, n, 1] -> [outer]. */
export function reduceRows(gpu: Gpu, op: RowOp, x: Block, y: Block, outer: number, n: number): void {
  const { parts, length } = partsOf(n, outer * threads)
  if (parts === 1) rowsAtOnce(gpu, op, x, y, outer, n)
  else
    gpu.scratch(outer * parts, (partial) => {
      rowsAtOnce(gpu, op, x, partial, outer, n, parts, length)
      rowsAtOnce(gpu, op === 'max' ? 'max' : 'sum', partial, y, outer, parts)
    })
}

/** [outer, n, inner] -> [outer, inner]. */
export function reduceColumns(gpu: Gpu, op: 'sum' | 'max', x: Block, y: Block, outer: number, n: number, inner: number): void {
  const { parts, length } = partsOf(n, outer * inner)
  const pass = (x: Block, y: Block, n: number, parts: number, length: number): void =>
    gpu.run(
      reduce,
      'reduceColumns',
      { x, y },
      { op: ops[op], outer, n, inner, parts, length },
      Math.ceil((outer * parts * inner) / threads),
    )
  if (parts === 1) {
    pass(x, y, n, 1, length)
    return
  }
  if (n <= columnLength) {
    gpu.run(reduce, 'reduceColumnsAtOnce', { x, y }, { op: ops[op], outer, n, inner }, outer * Math.ceil(inner / columnsAtOnce))
    return
  }
  gpu.scratch(outer * parts * inner, (partial) => {
    pass(x, partial, n, parts, length)
    pass(partial, y, parts, 1, parts)
  })
}

export function reduceKernels(gpu: Gpu): Pick<Kernels<Block>, 'reduce' | 'cumsum'> {
  return {
    reduce(op, x, y, outer, n, inner) {
      if (inner === 1) reduceRows(gpu, op, x, y, outer, n)
      else reduceColumns(gpu, op, x, y, outer, n, inner)
    },
    cumsum(x, y, outer, n, inner, reverse) {
      const params = { outer, n, inner, reverse: Number(reverse) }
      if (inner === 1) gpu.run(reduce, 'cumsumRows', { x, y }, params, n === 0 ? 0 : outer)
      else gpu.run(reduce, 'cumsumColumns', { x, y }, params, Math.ceil((outer * inner) / threads))
    },
  }
}
