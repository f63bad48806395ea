/**
 * Matrix products: how they are cut into tasks for kernels-wasm/gemm.ts. The cut never shows in the result.
 */
import { unaryOps, type Kernels } from '../kernels.ts'
import type { Pool } from './pool.ts'

/** Of kernels-wasm/gemm.ts. */
const MR = 4, NR = 8, KC = 256

/** Rows of a task when B is packed beforehand, and of a product small enough that its tasks pack B themselves. */
const blockRows = 64, fewRows = 128
const blockColumns = 512
/** Multiplications and additions that are worth a hand-over to another thread. */
const worthSharing = 1 << 18

const up = (x: number, multiple: number) => Math.ceil(x / multiple) * multiple

export function matmulKernels(pool: Pool): Pick<Kernels<import('./memory.ts').Block>, 'matmul'> {
  return {
    matmul(a, b, bias, c, sizes) {
      const { batch, strideA, strideB, M, N, K, transposeA, transposeB, accumulate, activation } = sizes
      if (batch * M * N === 0) return
      const perProduct = 2 * M * N * Math.max(K, 1)
      const small = batch * perProduct <= worthSharing || pool.threads === 1
      // Tasks that cover all rows pack their part of B once and for all; otherwise it is packed beforehand, by all threads.
      const products = batch * Math.ceil(N / blockColumns)
      const whole = M <= fewRows || products >= 4 * pool.threads
      let blockM = whole ? M : blockRows
      let blockN = Math.min(up(N, NR), blockColumns)
      // Few tasks: narrower ones.
      if (whole && !small) while (blockN > 32 && batch * Math.ceil(N / blockN) < 4 * pool.threads) blockN = up(blockN / 2, NR)
      const tasks = batch * Math.ceil(M / blockM) * Math.ceil(N / blockN)
      const grain = small ? tasks : Math.max(1, Math.floor(worthSharing / (perProduct * batch / tasks)))
      let packed = null
      if (!whole && K > 0) {
        const panels = (strideB === 0 ? 1 : batch) * Math.ceil(N / NR)
        packed = pool.memory.allocate(4 * panels * NR * K)
        pool.run('gemmPack', panels, small ? panels : Math.max(1, Math.ceil(32768 / K)), [b.pointer, packed.pointer, strideB, N, K, +transposeB])
      }
      const scratch = 4 * (MR * NR + (transposeA ? up(blockM, MR) * KC : 0) + (packed ? 0 : KC * blockN))
      pool.run('gemm', tasks, grain, [
        a.pointer, b.pointer, bias?.pointer ?? 0, c.pointer, packed?.pointer ?? 0, strideA, strideB, M, N, K,
        +transposeA, +transposeB, +accumulate, activation === null ? -1 : unaryOps.indexOf(activation), blockM, blockN,
      ], scratch)
      if (packed) pool.memory.free(packed)
    },
  }
}
