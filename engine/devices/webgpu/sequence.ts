import { sequence } from '../../../kernels-wgsl/generated/wgsl.ts'
import type { Kernels } from '../kernels.ts'
import type { Block } from './memory.ts'
import { lanesFor, partsOf, reduceColumns } from './reduce.ts'
import { type Gpu, perGroup, threads } from './runtime.ts'

type SequenceKernels = 'conv' | 'convBackward' | 'dpfp' | 'dpfpBackward' | 'dpfpSum' | 'dpfpSumBackward'

export function sequenceKernels(gpu: Gpu): Pick<Kernels<Block>, SequenceKernels> {
  const groups = (n: number): number => Math.ceil(n / perGroup)
  return {
    conv(x, w, state, y, B, T, D, W) {
      const n = B * T * D
      gpu.run(sequence, 'conv', { x, w, state, y }, { n, T, D, W, stateful: Number(state !== null) }, groups(n))
    },
    convBackward(x, w, state, dy, dx, dw, dstate, B, T, D, W) {
      const params = { B, T, D, W, stateful: Number(state !== null) }
      const n = B * T * D
      gpu.run(sequence, 'convBackwardInput', { w, dy, dx }, { ...params, n }, groups(n))
      if (dstate) {
        const n = B * (W - 1) * D
        gpu.run(sequence, 'convBackwardState', { w, dy, dx: dstate }, { ...params, n }, groups(n))
      }
      const { parts, length } = partsOf(B * T, D * W)
      const taps = (dw: Block): void =>
        gpu.run(sequence, 'convBackwardTaps', { x, state, dy, dw }, { ...params, parts, length }, Math.ceil((parts * D * W) / threads))
      if (parts === 1) taps(dw)
      else
        gpu.scratch(parts * D * W, (partial) => {
          taps(partial)
          reduceColumns(gpu, 'sum', partial, dw, 1, parts, D * W)
        })
    },
    dpfp(x, y, R, D, nu) {
      const n = R * 2 * D * nu
      gpu.run(sequence, 'dpfp', { x, y }, { n, D, nu }, groups(n))
    },
    dpfpBackward(x, dy, dx, R, D, nu) {
      gpu.run(sequence, 'dpfpBackward', { x, dy, dx }, { n: R * D, D, nu }, groups(R * D))
    },
    dpfpSum(list, R, D, nu, eps) {
      const lanes = lanesFor(2 * D * nu)
      const groups = Math.ceil((R * lanes) / threads)
      for (let i = 0; i < list.length; i += 2) {
        const [{ x, y, stats }, second] = [list[i], list[i + 1]]
        const bindings = { x, y, stats, x2: second?.x ?? null, y2: second?.y ?? null, stats2: second?.stats ?? null }
        gpu.run(sequence, 'dpfpSum', bindings, { R, D, nu, lanes, eps, each: groups, count: second ? 2 : 1 }, second ? 2 * groups : groups)
      }
    },
    dpfpSumBackward(list, R, D, nu) {
      const lanes = lanesFor(2 * D * nu)
      const groups = Math.ceil((R * lanes) / threads)
      for (let i = 0; i < list.length; i += 2) {
        const [{ x, stats, dy, dx }, second] = [list[i], list[i + 1]]
        const more = { x2: second?.x ?? null, statsIn2: second?.stats ?? null, dy2: second?.dy ?? null, dx2: second?.dx ?? null }
        const bindings = { x, statsIn: stats, dy, dx, ...more }
        gpu.run(
          sequence,
          'dpfpSumBackward',
          bindings,
          { R, D, nu, lanes, each: groups, count: second ? 2 : 1 },
          second ? 2 * groups : groups,
        )
      }
    },
  }
}
