import { type Kernels, normKinds } from '../kernels.ts'
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'

/** Elements a piece: the rows' passes over them are light, or take an exponential each. */
const light = 16384
const heavy = 8192
/** Columns in a task of normGainBackward, as in kernels-wasm/norm.ts. */
const columns = 16

const pointer = (block: Block | null): number => block?.pointer ?? 0

type NormKernels = 'norm' | 'normBackward' | 'softmax' | 'softmaxBackward' | 'crossEntropy' | 'crossEntropyBackward'

export function normKernels(pool: Pool): Pick<Kernels<Block>, NormKernels> {
  return {
    norm(kind, x, gain, bias, y, stats, R, n, eps) {
      pool.run('norm', R, Math.ceil(light / (n + 1)), [
        normKinds.indexOf(kind),
        x.pointer,
        pointer(gain),
        pointer(bias),
        y.pointer,
        stats.pointer,
        n,
        eps,
      ])
    },
    normBackward(kind, x, gain, stats, dy, { dx, dgain, dbias }, R, n, accumulate) {
      if (dx)
        pool.run('normBackward', R, Math.ceil(light / (n + 1)), [
          normKinds.indexOf(kind),
          x.pointer,
          pointer(gain),
          stats.pointer,
          dy.pointer,
          dx.pointer,
          n,
          Number(accumulate),
        ])
      if (!dgain && !dbias) return
      // Neighbouring columns are on one page of memory: pieces as wide as the threads allow.
      const tasks = Math.ceil(n / columns)
      pool.run('normGainBackward', tasks, Math.max(Math.ceil(tasks / (2 * pool.threads)), Math.ceil(light / (columns * (R + 1)))), [
        x.pointer,
        stats.pointer,
        dy.pointer,
        pointer(dgain ?? null),
        pointer(dbias ?? null),
        R,
        n,
      ])
    },
    softmax(x, y, R, n, log, causal) {
      pool.run('softmax', R, Math.ceil(heavy / (n + 1)), [x.pointer, y.pointer, n, Number(log), causal])
    },
    softmaxBackward(y, dy, dx, R, n, log) {
      pool.run('softmaxBackward', R, Math.ceil((log ? heavy : light) / (n + 1)), [y.pointer, dy.pointer, dx.pointer, n, Number(log)])
    },
    crossEntropy(logits, target, loss, lse, R, N, ignore) {
      pool.run('crossEntropy', R, Math.ceil(heavy / (N + 1)), [logits.pointer, target.pointer, loss.pointer, lse.pointer, N, ignore])
    },
    crossEntropyBackward(logits, target, lse, dloss, dlogits, R, N, ignore) {
      pool.run('crossEntropyBackward', R, Math.ceil(heavy / (N + 1)), [
        logits.pointer,
        target.pointer,
        lse.pointer,
        dloss.pointer,
        dlogits.pointer,
        N,
        ignore,
      ])
    },
  }
}
