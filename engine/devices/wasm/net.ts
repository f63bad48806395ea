/** Recurrent nets by their programs: a task of kernels-wasm/net.ts is one head of one sequence, so B H tasks. */
import type { Kernels, NetSizes } from '../kernels.ts'
import type { Block } from './memory.ts'
import type { Pool } from './pool.ts'

const pointer = (block: Block | null) => block?.pointer ?? 0

/** Multiplications and additions that are worth a hand-over to another thread. */
const worthSharing = 1 << 18

/** Floats of what the backward pass keeps of an instruction. */
const plan = 8

/** Between the blocks of scratch memory, in floats. */
const gap = 16

const sizesOf = ({ T, H, I, O, S, P, C, stateParts, slowParts, instructions, registers, stateFloats, slowFloats }: NetSizes) => [
  T,
  H,
  I,
  O,
  S,
  P,
  C,
  stateParts,
  slowParts,
  instructions.length,
  registers,
  stateFloats,
  slowFloats,
]

export function netKernels(pool: Pool): Pick<Kernels<Block>, 'net' | 'netBackward'> {
  function run(kernel: 'net' | 'netBackward', blocks: (Block | null)[], sizes: NetSizes, passes: number, floats: number): void {
    const { B, T, H, registers, stateFloats, slowFloats } = sizes
    const perHead = passes * T * (registers + stateFloats + slowFloats)
    pool.run(kernel, B * H, Math.max(1, Math.floor(worthSharing / perHead)), [...blocks.map(pointer), ...sizesOf(sizes)], 4 * floats)
  }
  return {
    net({ program, x, parameters, fresh, s0, tokens }, { y, sT, states }, sizes) {
      const { registers, stateFloats, slowFloats } = sizes
      const blocks = [program, x, parameters, fresh, s0, tokens, y, sT, states]
      run('net', blocks, sizes, 3, slowFloats + registers + 2 * stateFloats + 4 * gap)
    },
    netBackward({ program, x, parameters, fresh, s0, tokens }, states, { dy, dsT }, { dx, dparameters, dfresh, ds0 }, sizes) {
      const { T, O, C, instructions, registers, stateFloats, slowFloats } = sizes
      const n = Math.min(C, T)
      const blocks = [program, x, parameters, fresh, s0, tokens, states, dy, dsT, dx, dparameters, dfresh, ds0]
      const floats = 2 * slowFloats + (n + 2) * registers + (n + 3) * stateFloats + O + n + plan * instructions.length
      run('netBackward', blocks, sizes, 9, floats + 12 * gap)
    },
  }
}
