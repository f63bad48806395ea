import { sequence } from '../../../kernels-wgsl/generated/wgsl.ts'
import type { ConvSizes, Kernels } from '../kernels.ts'
import type { Block } from './memory.ts'
import { columnLength, columnsAtOnce, columnThreads, lanesFor, reduceColumns } from './reduce.ts'
import { type Gpu, perGroup, threads } from './runtime.ts'

type SequenceKernels = 'conv' | 'convBackward' | 'dpfp' | 'dpfpBackward' | 'dpfpSum' | 'dpfpSumBackward'

export function sequenceKernels(gpu: Gpu): Pick<Kernels<Block>, SequenceKernels> {
  const groups = (n: number): number => Math.ceil(n / perGroup)
  const paramsOf = ({ B, T, D, W, silu, width }: ConvSizes, state: Block | null) => ({
    ...{ B, T, D, W, stateful: Number(state !== null), silu: Number(silu), normed: Number(width > 0) },
  })
  /** The rows of conv, of as many channels as are normalised together: how many, the threads of each, and workgroups. */
  const rowsOf = ({ B, T, D, width: given }: ConvSizes) => {
    const width = given || D
    const [R, lanes] = [D > 0 ? (B * T * D) / width : 0, lanesFor(width)]
    return { width, R, lanes, rowGroups: Math.ceil((R * lanes) / threads) }
  }
  return {
    conv(x, w, state, { y, next, sums, stats }, sizes) {
      const { B, W, D, eps } = sizes
      const { rowGroups, ...rows } = rowsOf(sizes)
      const n = next ? B * (W - 1) * D : 0
      const params = { ...paramsOf(sizes, state), ...rows, eps, n, rowGroups, kept: Number(sums !== null) }
      gpu.run(sequence, 'conv', { x, w, state, y, stats, next, sums }, params, rowGroups + groups(n))
    },
    convBackward(x, w, state, { y, sums, stats }, dy, { dx, dw, dstate }, sizes) {
      const { B, T, D, W, silu, width } = sizes
      const params = paramsOf(sizes, state)
      const inputs = B * T * D
      const n = dstate ? B * (W - 1) * D : 0
      const inputGroups = Math.ceil((inputs + n) / columnThreads)
      const parts = Math.max(1, Math.ceil((B * T) / columnLength))
      const back = (dz: Block, dw: Block): void =>
        gpu.run(
          sequence,
          'convBackward',
          { x, w, state, dy: dz, dx, dstate, dw },
          { ...params, n, inputGroups, parts, length: columnLength },
          inputGroups + parts * Math.ceil((D * W) / columnsAtOnce),
        )
      const all = (dz: Block): void => {
        if (parts === 1) back(dz, dw)
        else
          gpu.scratch(parts * D * W, (partial) => {
            back(dz, partial)
            reduceColumns(gpu, 'sum', partial, dw, 1, parts, D * W)
          })
      }
      if (!silu && width === 0) all(dy)
      else
        gpu.scratch(inputs, (dz) => {
          const { rowGroups, ...rows } = rowsOf(sizes)
          gpu.run(sequence, 'convBackwardSums', { sumsIn: sums, yIn: y, statsIn: stats, dy, dx: dz }, { ...params, ...rows }, rowGroups)
          all(dz)
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
