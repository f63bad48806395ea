import { type Kernels, quintic } from '../kernels.ts'
import { withWords } from './axes.ts'
import { NR, scratchFor, worthSharing } from './matmul.ts'
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'
import { block } from './reduce.ts'

/** Elements that a thread takes at once. */
const grain = 32768
/** As in kernels-wasm/muon.ts. */
const ROWS = 16
/** Columns of a block of a product: few of a symmetric one, of which only the blocks on the diagonal are computed whole. */
const columns = 256,
  symmetricColumns = 16

export function muonKernels(pool: Pool): Pick<Kernels<Block>, 'muon'> {
  interface Product {
    a: number
    b: number
    c: number
    N: number
    K: number
    /** c = after (before start + a b); start 0: a b alone. */
    start?: number
    before?: number
    after?: number
    transposeB?: boolean
    symmetric?: boolean
  }

  /** Of `count` matrices a with R rows; see muonProduct. */
  function product(count: number, R: number, wanted: Product): void {
    const { a, b, c, N, K, start = 0, before = 0, after = 1, transposeB = false, symmetric = false } = wanted
    const up = (n: number): number => Math.ceil(n / NR) * NR
    let blockN = Math.min(up(N), symmetric ? symmetricColumns : columns)
    while (blockN > 32 && count * Math.ceil(N / blockN) < 4 * pool.threads) blockN = up(blockN / 2)
    const tasks = count * Math.ceil(N / blockN)
    const args = [a, b, start, c, R, N, K, Number(transposeB), Number(symmetric), before, after, blockN]
    pool.run('muonProduct', tasks, Math.ceil((worthSharing / (2 * count * R * N * K)) * tasks), args, scratchFor(R, blockN, K, false, true))
  }

  return {
    muon(slots, R, C, gradScale, options) {
      const { momentum, guarded = false } = options()
      const count = slots.length
      const [size, square] = [R * C, R * R]
      if (count * size === 0) return
      const blocks = Math.ceil(size / block)
      const memory = pool.memory.allocate(4 * count * (2 * size + 2 * square + blocks))
      let [x, y] = [memory.pointer, memory.pointer + 4 * count * size]
      const gram = y + 4 * count * size
      const polynomial = gram + 4 * count * square
      const partial = polynomial + 4 * count * square
      const words = slots.flatMap(({ p, tall, g, m }) => [p.pointer, Number(tall), g.pointer, m.pointer])
      try {
        withWords(pool, words, (table) => {
          const momenta = [table, x, gradScale?.pointer ?? 0, momentum, partial, size, Number(guarded)]
          pool.run('muonMomentum', count * blocks, Math.ceil(grain / Math.min(size, block)), momenta)
          const normalised = [table, x, y, partial, blocks, quintic.eps, R, C]
          pool.run('muonNormalise', count * Math.ceil(R / ROWS), Math.ceil(grain / (ROWS * C)), normalised)
          // c is taken out, so that the products do the sums.
          const { a, b, c, iterations } = quintic
          for (let i = 0; i < iterations; i++) {
            product(count, R, { a: y, b: y, c: gram, N: R, K: C, transposeB: true, symmetric: true })
            product(count, R, { a: gram, b: gram, c: polynomial, N: R, K: R, start: gram, before: b / c, symmetric: true })
            product(count, R, { a: polynomial, b: y, c: x, N: C, K: R, start: y, before: a / c, after: c })
            const old = y
            y = x
            x = old
          }
          const update = (): number[] => {
            const { lr, weightDecay } = options()
            const guard = [gradScale?.pointer ?? 0, Number(guarded)]
            return [table, y, R, C, 1 - lr * weightDecay, -lr, -lr * Math.sqrt(C / R), ...guard]
          }
          pool.run('muonUpdate', count * Math.ceil(C / ROWS), Math.ceil(grain / (ROWS * R)), update, 4 * ROWS * R)
        })
      } finally {
        pool.memory.free(memory)
      }
    },
  }
}
