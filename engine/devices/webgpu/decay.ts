import { decay } from '../../../kernels-wgsl/generated/wgsl.ts'
import type { Kernels } from '../kernels.ts'
import type { Block } from './memory.ts'
import { columnLength, columnsAtOnce, columnThreads, reduceColumns } from './reduce.ts'
import { type Gpu, perGroup } from './runtime.ts'

export function decayKernels(gpu: Gpu): Pick<Kernels<Block>, 'decay' | 'decayBackward'> {
  return {
    decay(a, rate, shift, y, R, n, width) {
      gpu.run(decay, 'decay', { a, rate, shift, y }, { R, n, width }, Math.ceil((R * n) / perGroup))
    },
    decayBackward(a, rate, shift, dy, { da, drate, dshift }, R, n, width) {
      const inputGroups = Math.ceil((R * n) / columnThreads)
      const parts = Math.max(1, Math.ceil(R / columnLength))
      const pass = (drate: Block, dshift: Block): void =>
        gpu.run(
          decay,
          'decayBackward',
          { a, rate, shift, dy, da, drate, dshift },
          { R, n, width, inputGroups, parts, length: columnLength },
          inputGroups + parts * Math.ceil(n / columnsAtOnce),
        )
      if (parts === 1) pass(drate, dshift)
      else
        gpu.scratch(parts * n, (rates) =>
          gpu.scratch(parts * n, (shifts) => {
            pass(rates, shifts)
            reduceColumns(gpu, 'sum', rates, drate, 1, parts, n)
            reduceColumns(gpu, 'sum', shifts, dshift, 1, parts, n)
          }),
        )
    },
  }
}
