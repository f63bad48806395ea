import { optimizer } from '../../../kernels-wgsl/generated/wgsl.ts'
import type { AdamSlot, Kernels } from '../kernels.ts'
import type { Block } from './memory.ts'
import { type Gpu, perGroup } from './runtime.ts'

/** Parameters of a dispatch, of the 8 buffers that it may bind: a gradient each, beside those of all parameters, of all moments, and two more. */
export const gradientsAtOnce = 4

/** Slots whose blocks lie together (see `gather`), a few at a time; the others alone. `blocksOf`: what has to lie in one buffer, by kind. */
export function together<S>(slots: readonly S[], most: number, blocksOf: (slot: S) => readonly (readonly Block[])[]): S[][] {
  const groups: S[][] = []
  /** The group of a set of buffers that isn't full. */
  const open = new Map<string, S[]>()
  for (const slot of slots) {
    const kinds = blocksOf(slot)
    const gathered = kinds.every(([first, ...others]) => first.memory.shared && others.every(({ memory }) => memory === first.memory))
    const key = gathered ? `${kinds.map(([{ memory }]) => memory.id)}` : `alone ${groups.length}`
    const group = open.get(key)
    if (group && group.length < most) group.push(slot)
    else {
      open.set(key, [slot])
      groups.push(open.get(key)!)
    }
  }
  return groups
}

/** All of what a block lies in. */
export const whole = (block: Block): Block => block.memory.shared?.whole ?? block

/** Where it lies there, in words. */
export const wordOf = (block: Block): number => block.offset / 4

export function optimizerKernels(gpu: Gpu): Pick<Kernels<Block>, 'adam'> {
  return {
    adam(slots, gradScale, options) {
      const common = () => {
        const { lr, beta1, beta2, eps, weightDecay, decoupled, correction1, correction2 } = options()
        return {
          scaled: Number(gradScale !== null),
          // What is near 1 is subtracted here, in float64.
          beta1,
          rest1: 1 - beta1,
          beta2,
          rest2: 1 - beta2,
          step: lr / correction1,
          root: 1 / Math.sqrt(correction2),
          eps,
          l2: decoupled ? 0 : weightDecay,
          decay: decoupled ? lr * weightDecay : 0,
        }
      }
      const alone = ({ p, g, m, v, n }: AdamSlot<Block>): void => {
        const bindings = { parameter: p, gradient: g, m, v, gradScale, faults: gpu.faults }
        gpu.run(optimizer, 'adam', bindings, () => ({ n, ...common() }), Math.ceil(n / perGroup))
      }
      for (const some of together(slots, gradientsAtOnce, ({ p, m, v }) => [[p], [m, v]])) {
        if (some.length === 1) {
          alone(some[0])
          continue
        }
        const [gradient, gradient1, gradient2, gradient3] = Array.from({ length: gradientsAtOnce }, (_, i) => some[i]?.g ?? null)
        const bindings = {
          parameter: whole(some[0].p),
          m: whole(some[0].m),
          gradient,
          gradient1,
          gradient2,
          gradient3,
          gradScale,
          faults: gpu.faults,
        }
        const parts = some.flatMap(({ p, m, v, n }) => [n, wordOf(p), wordOf(m), wordOf(v)])
        const groups = some.reduce((sum, { n }) => sum + Math.ceil(n / perGroup), 0)
        gpu.run(optimizer, 'adamTogether', bindings, () => ({ parts, count: some.length, ...common() }), groups)
      }
    },
  }
}
