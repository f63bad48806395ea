/** The fast-weight recurrences, for now token by token in both forms: kernels-wgsl/fast-weights.wgsl. */
import { fastWeights } from '../../../kernels-wgsl/generated/wgsl.ts'
import type { FastWeightInputs, FastWeightSizes, Kernels } from '../kernels.ts'
import type { Block } from './memory.ts'
import { movementKernels } from './movement.ts'
import type { Gpu } from './runtime.ts'

/** Arrays one after the other in one block: a stage binds 8 at most. */
type Layout = Record<string, { at: number; size: number }>
function layoutOf(sizes: Record<string, number>): { layout: Layout; total: number } {
  let total = 0
  const layout: Layout = {}
  for (const [name, size] of Object.entries(sizes)) {
    layout[name] = { at: total, size }
    total += size
  }
  return { layout, total }
}
const offsets = (layout: Layout): Record<string, number> => Object.fromEntries(Object.entries(layout).map(([name, { at }]) => [name, at]))

export function fastWeightKernels(gpu: Gpu): Pick<Kernels<Block>, 'fastWeights' | 'fastWeightsBackward'> {
  const { copy } = movementKernels(gpu)
  const put = (x: Block, n: number, y: Block, at: number): void => copy(x, y, [n], [1], 0, [1], at)
  const take = (x: Block, at: number, n: number, y: Block): void => copy(x, y, [n], [1], at, [1], 0)

  const fill = (y: Block, n: number): void => copy(zero(), y, [n], [0], 0, [1], 0)
  let nothing: Block | undefined
  const zero = (): Block => {
    if (!nothing) {
      nothing = gpu.own(1)
      gpu.write(nothing, [0])
    }
    return nothing
  }

  const inputSizes = ({ B, T, H, K, V, gateWidth }: FastWeightSizes, { beta, gate, erase }: FastWeightInputs<Block>) => ({
    q: B * T * H * K,
    k: B * T * H * K,
    v: B * T * H * V,
    beta: beta ? B * T * H : 0,
    gate: gate ? B * T * H * gateWidth : 0,
    erase: erase ? B * T * H * K : 0,
  })
  const choices = ({ beta, gate, erase }: FastWeightInputs<Block>, normaliser: Block | null) => ({
    gated: Number(gate !== null),
    corrects: beta ? 1 : erase ? 2 : 0,
    normalised: Number(normaliser !== null),
  })
  const pack = (layout: Layout, blocks: Record<string, Block | null>, packed: Block): void => {
    for (const [name, { at, size }] of Object.entries(layout)) if (blocks[name] && size > 0) put(blocks[name], size, packed, at)
  }

  return {
    fastWeights(_form, inputs, { y, sT, zT, den, states, zs }, sizes) {
      const { B, T, H, K, V } = sizes
      const { layout, total } = layoutOf(inputSizes(sizes, inputs))
      const fault = gpu.fault(
        'fastWeights: the gate holds a value above 0, or NaN; gates are logarithms of decays, at most 0 (log alpha with 0 <= alpha <= 1)',
      )
      if (inputs.s0) take(inputs.s0, 0, B * H * K * V, sT)
      else fill(sT, B * H * K * V)
      if (zT && inputs.z0) take(inputs.z0, 0, B * H * K, zT)
      else if (zT) fill(zT, B * H * K)
      gpu.scratch(total, (packed) => {
        pack(layout, { ...inputs }, packed)
        gpu.run(
          fastWeights,
          'forward',
          { packed, y, S: sT, z: zT, den, states, zs, faults: gpu.faults },
          { ...sizes, ...choices(inputs, zT), ...offsets(layout), keeps: Number(states !== null), fault },
          T === 0 ? 0 : B * H,
        )
      })
    },
    fastWeightsBackward(_form, inputs, { y, den, states, zs }, { dy, dsT, dzT }, gradients, sizes) {
      const { B, T, H, K, V, C } = sizes
      const chunks = Math.ceil(T / C)
      const own = inputSizes(sizes, inputs)
      const read = layoutOf({ ...own, dy: own.v, y: y ? own.v : 0, den: den ? B * T * H : 0, zs: zs ? B * H * chunks * K : 0 })
      const n = Math.min(C, T)
      const { layout, total } = layoutOf({
        ...Object.fromEntries(Object.entries(own).map(([name, size]) => [`d${name}`, size])),
        dS: B * H * K * V,
        dz: B * H * K,
        history: B * H * ((n + 1) * (K * V + K) + 3 * n * V),
      })
      gpu.scratch(read.total, (packed) =>
        gpu.scratch(total, (work) => {
          pack(read.layout, { ...inputs, dy, y, den, zs }, packed)
          const cotangent = (from: Block | null, { at, size }: Layout[string]): void =>
            copy(from ?? zero(), work, [size], [from ? 1 : 0], 0, [1], at)
          cotangent(dsT, layout.dS)
          cotangent(dzT, layout.dz)
          gpu.run(
            fastWeights,
            'backward',
            { packed, statesIn: states, work },
            { ...sizes, ...choices(inputs, den), ...offsets(read.layout), ...offsets(layout) },
            T === 0 ? 0 : B * H,
          )
          const { ds0, dz0, ...others } = gradients
          for (const [name, block] of Object.entries<Block | null>({ ...others, dS: ds0, dz: dz0 }))
            if (block) take(work, layout[name].at, layout[name].size, block)
        }),
      )
    },
  }
}
