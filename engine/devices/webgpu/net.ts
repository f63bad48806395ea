/**
 * Recurrent nets by their programs: kernels-wgsl/net.wgsl. A workgroup is one head of one sequence, with scratch memory of its own; as many at a
 * time as `scratchFloats` holds.
 */
import { net as kernels } from '../../../kernels-wgsl/generated/wgsl.ts'
import type { Kernels, NetInputs, NetSizes } from '../kernels.ts'
import { type Block, show } from './memory.ts'
import type { Gpu } from './runtime.ts'

const scratchFloats = 2 ** 26

/** Floats that a head has of each region of the work. */
type Regions = Record<string, number>

export function netKernels(gpu: Gpu): Pick<Kernels<Block>, 'net' | 'netBackward'> {
  function forEachPart(inputs: NetInputs<Block>, sizes: NetSizes, regions: Regions, body: (part: ReturnType<typeof partOf>) => void): void {
    const { B, H } = sizes
    const perHead = Object.values(regions).reduce((total, n) => total + n, 0)
    const most = gpu.capabilities.bindingBytes / 4
    if (perHead > most)
      throw new Error(
        `webgpu: out of memory: a net needs ${show(4 * perHead)} at once for a head, this adapter binds at most ${show(4 * most)} (use shorter chunks, or more heads of fewer channels)`,
      )
    const atOnce = Math.max(1, Math.floor(Math.min(scratchFloats, most) / perHead))
    for (let head = 0; head < B * H; head += atOnce) {
      const heads = Math.min(atOnce, B * H - head)
      gpu.scratch(heads * perHead, (work) => body(partOf(inputs, sizes, regions, perHead, head, heads, work)))
    }
  }

  /** Some of the heads: what their dispatches have in common, and how packed arrays come in and go out. */
  function partOf(
    { program, tokens, s0 }: NetInputs<Block>,
    sizes: NetSizes,
    regions: Regions,
    perHead: number,
    head: number,
    heads: number,
    work: Block,
  ) {
    const { T, H, I, O, S, P, C, stateParts, slowParts, instructions, registers, stateFloats, slowFloats } = sizes
    const at: Regions = {}
    let end = 0
    for (const [name, floats] of Object.entries(regions)) {
      at[name] = end
      end += floats
    }
    const params = {
      ...at,
      T,
      H,
      I,
      O,
      C,
      head,
      heads,
      parts: stateParts + slowParts,
      instructions,
      registers,
      stateFloats,
      tokenised: Number(tokens !== null),
      carried: Number(s0 !== null),
      perHead,
    }
    const ofState = { first: 0, count: stateParts, size: S, floats: stateFloats }
    const ofSlow = { first: stateParts, count: slowParts, size: P, floats: slowFloats }
    return {
      work,
      params,
      load(region: string, packed: Block | null, repeated = false): void {
        const which = region.endsWith('slow') ? ofSlow : ofState
        const more = { ...which, region: at[region], present: Number(packed !== null), repeated: Number(repeated) }
        gpu.run(kernels, 'load', { program, work, given: packed }, { ...params, ...more }, heads)
      },
      store(region: string, packed: Block | null): void {
        if (!packed) return
        const which = region.endsWith('slow') ? ofSlow : ofState
        gpu.run(kernels, 'store', { program, work, results: packed }, { ...params, ...which, region: at[region] }, heads)
      },
    }
  }

  return {
    net(inputs, { y, sT, states }, sizes) {
      const { program, x, parameters, fresh, s0, tokens } = inputs
      const { registers, stateFloats, slowFloats } = sizes
      const regions = { slow: slowFloats, start: stateFloats, state: stateFloats, r: registers }
      forEachPart(inputs, sizes, regions, ({ work, params, load, store }) => {
        load('slow', parameters, true)
        load('start', fresh, true)
        load('state', s0 ?? fresh, s0 === null)
        gpu.run(kernels, 'net', { program, work, tokens, x, y, states }, { ...params, snapshots: Number(states !== null) }, params.heads)
        store('state', sT)
      })
    },
    netBackward(inputs, saved, { dy, dsT }, { dx, dparameters, dfresh, ds0 }, sizes) {
      const { program, x, parameters, fresh, tokens } = inputs
      const { T, C, registers, stateFloats, slowFloats } = sizes
      const n = Math.min(C, T)
      const regions = {
        slow: slowFloats,
        start: stateFloats,
        state: (n + 1) * stateFloats,
        r: n * registers,
        dslow: slowFloats,
        dstart: stateFloats,
        dstate: stateFloats,
        dr: registers,
      }
      forEachPart(inputs, sizes, regions, ({ work, params, load, store }) => {
        load('slow', parameters, true)
        load('start', fresh, true)
        load('dslow', null)
        load('dstate', dsT)
        gpu.run(kernels, 'netBackward', { program, work, tokens, x, dy, saved, dx }, params, params.heads)
        store('dslow', dparameters)
        store('dstart', dfresh)
        store('dstate', ds0)
      })
    },
  }
}
