import { norm } from '../../../kernels-wgsl/generated/wgsl.ts'
import { type Kernels, normKinds } from '../kernels.ts'
import type { Block } from './memory.ts'
import { columnLength, columnsAtOnce, columnThreads, lanesFor, reduceColumns } from './reduce.ts'
import { type Gpu, perGroup, threads } from './runtime.ts'

type NormKernels = 'norm' | 'normBackward' | 'softmax' | 'softmaxBackward' | 'crossEntropy' | 'crossEntropyBackward'

export function normKernels(gpu: Gpu): Pick<Kernels<Block>, NormKernels> {
  const rows = (R: number, n: number) => ({ R, n, lanes: lanesFor(n) })
  const groups = (R: number, n: number): number => Math.ceil((R * lanesFor(n)) / threads)
  return {
    norm(kind, x, gain, bias, y, stats, R, n, eps) {
      gpu.run(
        norm,
        'norm',
        { x, gain, bias, y, stats },
        { ...rows(R, n), kind: normKinds.indexOf(kind), eps, gained: Number(gain !== null), biased: Number(bias !== null) },
        groups(R, n),
      )
    },
    normBackward(kind, x, gain, stats, dy, { dx, dgain = null, dbias = null }, R, n, accumulate) {
      // Rows and columns don't need each other: the first workgroups go along, the others down.
      const lanes = lanesFor(n)
      const rowGroups = dx ? Math.ceil((R * lanes) / columnThreads) : 0
      const parts = dgain || dbias ? Math.max(1, Math.ceil(R / columnLength)) : 0
      const pass = (dgain: Block | null, dbias: Block | null): void =>
        gpu.run(
          norm,
          'normBackward',
          { x, gain, statsIn: stats, dy, dx, dgain, dbias },
          {
            ...rows(R, n),
            kind: normKinds.indexOf(kind),
            gained: Number(gain !== null),
            accumulate: Number(accumulate),
            rowGroups,
            parts,
            length: columnLength,
            ofGain: Number(dgain !== null),
            ofBias: Number(dbias !== null),
          },
          rowGroups + parts * Math.ceil(n / columnsAtOnce),
        )
      const partial = (wanted: Block | null, body: (block: Block | null) => void): void =>
        wanted && parts > 1 ? gpu.scratch(parts * n, body) : body(wanted)
      partial(dgain, (gains) =>
        partial(dbias, (biases) => {
          pass(gains, biases)
          if (dgain && gains !== dgain) reduceColumns(gpu, 'sum', gains!, dgain, 1, parts, n)
          if (dbias && biases !== dbias) reduceColumns(gpu, 'sum', biases!, dbias, 1, parts, n)
        }),
      )
    },
    softmax(x, y, R, n, log, causal) {
      gpu.run(norm, 'softmax', { x, y }, { ...rows(R, n), log: Number(log), causal }, groups(R, n))
    },
    softmaxBackward(y, dy, dx, R, n, log) {
      gpu.run(norm, 'softmaxBackward', { yIn: y, dy, dx }, { ...rows(R, n), log: Number(log) }, groups(R, n))
    },
    crossEntropy(logits, target, loss, lse, R, N, ignore) {
      gpu.run(norm, 'crossEntropy', { logits, target_: target, loss, lse }, { ...rows(R, N), ignore }, groups(R, N))
    },
    crossEntropyBackward(logits, target, lse, dloss, dlogits, R, N, ignore) {
      gpu.run(
        norm,
        'crossEntropyBackward',
        { logits, target_: target, lseIn: lse, dloss, dlogits },
        { R, n: N, ignore },
        Math.ceil((R * N) / perGroup),
      )
    },
  }
}
