import { optimizer } from '../../../kernels-wgsl/generated/wgsl.ts'
import type { AdamSlot, Kernels } from '../kernels.ts'
import type { Block } from './memory.ts'
import { type Gpu, perGroup } from './runtime.ts'

/** Buffers of gradients that a dispatch binds, of the 8 that it may bind, and parameters that it has at most: a table says where each lies. */
const gradientBuffers = 4
export const partsAtOnce = 96

/**
 * Slots whose blocks lie together (see `gather`), up to `most` at a time; the others alone. `blocksOf`: what has to lie in one buffer, by kind;
 * `gradientOf`: what may lie in any of a few. Each group with the buffers of its gradients.
 */
export function together<S>(
  slots: readonly S[],
  most: number,
  blocksOf: (slot: S) => readonly (readonly Block[])[],
  gradientOf: (slot: S) => Block | null,
): { some: S[]; buffers: Block[] }[] {
  interface Group {
    some: S[]
    buffers: Block[]
  }
  const groups: Group[] = []
  /** The group of a set of buffers that isn't full. */
  const open = new Map<string, Group>()
  for (const slot of slots) {
    const kinds = blocksOf(slot)
    const gathered = kinds.every(([first, ...others]) => first.memory.shared && others.every(({ memory }) => memory === first.memory))
    const key = gathered ? `${kinds.map(([{ memory }]) => memory.id)}` : `alone ${groups.length}`
    const gradient = gradientOf(slot)
    let group = open.get(key)
    const known = (): boolean => !gradient || group!.buffers.some(({ memory }) => memory === gradient.memory)
    if (!group || group.some.length === most || (!known() && group.buffers.length === gradientBuffers)) {
      group = { some: [], buffers: [] }
      open.set(key, group)
      groups.push(group)
    }
    if (!known()) group.buffers.push(whole(gradient!))
    group.some.push(slot)
  }
  return groups
}

/** The bindings of a group's gradients, and which of them one lies in. */
export const gradientsOf = (buffers: readonly Block[]) => ({
  gradient: buffers[0] ?? null,
  gradient1: buffers[1] ?? null,
  gradient2: buffers[2] ?? null,
  gradient3: buffers[3] ?? null,
})
export const bufferOf = (buffers: readonly Block[], { memory }: Block): number => buffers.findIndex((other) => other.memory === memory)

/** Elements that a workgroup squares: SQUARES of optimizer.wgsl. */
const squaresLength = 4096

/** All of what a block lies in. */
export const whole = (block: Block): Block => block.memory.shared?.whole ?? block

/** Where it lies there, in words. */
export const wordOf = (block: Block): number => block.offset / 4

export function optimizerKernels(gpu: Gpu): Pick<Kernels<Block>, 'gradNorm' | 'adam'> {
  return {
    gradNorm(xs, y) {
      const groups = xs.map(({ n }) => Math.ceil(n / squaresLength))
      const all = groups.reduce((sum, n) => sum + n, 0)
      gpu.scratch(all, (sums) => {
        let first = 0
        for (const { some, buffers } of together(
          xs,
          partsAtOnce,
          () => [],
          ({ x }) => x,
        )) {
          const parts = some.flatMap(({ x, n }) => [n, bufferOf(buffers, x), wordOf(x), 0, 0, 0, 0, 0])
          const count = some.reduce((sum, { n }) => sum + Math.ceil(n / squaresLength), 0)
          gpu.run(optimizer, 'squares', { ...gradientsOf(buffers), sums }, { parts, count: some.length, first }, count)
          first += count
        }
        gpu.run(optimizer, 'rootOfSums', { sumsIn: sums, norm: y }, { n: all }, 1)
      })
    },
    adam(slots, gradScale, options) {
      const common = () => {
        const { lr, beta1, beta2, eps, weightDecay, decoupled, correction1, correction2, guarded } = options()
        return {
          scaled: gradScale === null ? 0 : guarded ? 2 : 1,
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
      for (const { some, buffers } of together(
        slots,
        partsAtOnce,
        ({ p, m, v }) => [[p], [m, v]],
        ({ g }) => g,
      )) {
        if (some.length === 1) {
          alone(some[0])
          continue
        }
        const bindings = { parameter: whole(some[0].p), m: whole(some[0].m), ...gradientsOf(buffers), gradScale, faults: gpu.faults }
        const parts = some.flatMap(({ p, g, m, v, n }) => [n, bufferOf(buffers, g), wordOf(g), 0, wordOf(p), wordOf(m), wordOf(v), 0])
        const groups = some.reduce((sum, { n }) => sum + Math.ceil(n / perGroup), 0)
        gpu.run(optimizer, 'adamTogether', bindings, () => ({ parts, count: some.length, ...common() }), groups)
      }
    },
  }
}
