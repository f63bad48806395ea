/**
 * Recurrent nets by their programs: kernels-wgsl/net.wgsl and net-program.wgsl, and a part for each program, net-source.ts. A workgroup is one head of one
 * sequence, with scratch memory of its own; as many at a time as `scratchFloats` holds.
 */
import { netProgram, net as transfer } from '../../../kernels-wgsl/generated/wgsl.ts'
import type { Kernels, NetInputs, NetInstruction, NetSizes } from '../kernels.ts'
import { type Block, show } from './memory.ts'
import { type NetSource, sourceOfNet } from './net-source.ts'
import type { Gpu, Shader } from './runtime.ts'

const scratchFloats = 2 ** 26

type ProgramShader = Omit<typeof netProgram, 'name' | 'files'> & Shader
interface Compiled extends NetSource {
  shader: ProgramShader
}

/** By program. */
const compiled = new WeakMap<readonly NetInstruction[], Compiled>()
/** Shaders by their source; they are few but where somebody makes programs without end. */
const shaders = new Map<string, ProgramShader>()
const shadersLimit = 256
let made = 0

function compiledOf({ instructions, stateParts, slowParts }: NetSizes): Compiled {
  const known = compiled.get(instructions)
  if (known) return known
  const plan = sourceOfNet(instructions, stateParts + slowParts)
  const { source } = plan
  let shader = shaders.get(source)
  if (!shader) {
    if (shaders.size >= shadersLimit) shaders.clear()
    const name = `${netProgram.name}-${++made}`
    shader = { ...netProgram, name, files: [...netProgram.files, { name, source }] }
    shaders.set(source, shader)
  }
  const result = { ...plan, shader }
  compiled.set(instructions, result)
  return result
}

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
    const { T, H, I, O, S, P, C, stateParts, slowParts, stateFloats, slowFloats } = sizes
    const { slot, values } = compiledOf(sizes)
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
      t1: T,
      slot,
      registers: values * slot,
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
        gpu.run(transfer, 'load', { program, work, given: packed }, { ...params, ...more }, heads)
      },
      store(region: string, packed: Block | null): void {
        if (!packed) return
        const which = region.endsWith('slow') ? ofSlow : ofState
        gpu.run(transfer, 'store', { program, work, results: packed }, { ...params, ...which, region: at[region] }, heads)
      },
    }
  }

  return {
    net(inputs, { y, sT, states }, sizes) {
      const { program, x, parameters, fresh, s0, tokens } = inputs
      const { stateFloats, slowFloats } = sizes
      const { shader, slot, values } = compiledOf(sizes)
      const regions = { slow: slowFloats, start: stateFloats, state: stateFloats, r: values * slot }
      forEachPart(inputs, sizes, regions, ({ work, params, load, store }) => {
        load('slow', parameters, true)
        load('start', fresh, true)
        load('state', s0 ?? fresh, s0 === null)
        gpu.run(shader, 'net', { program, work, tokens, x, y, states }, { ...params, snapshots: Number(states !== null) }, params.heads)
        store('state', sT)
      })
    },
    netBackward(inputs, states, { dy, dsT }, { dx, dparameters, dfresh, ds0 }, sizes) {
      const { program, x, parameters, fresh, tokens } = inputs
      const { T, C, stateFloats, slowFloats } = sizes
      const { shader, slot, values, cotangents } = compiledOf(sizes)
      const n = Math.min(C, T)
      const regions = {
        slow: slowFloats,
        start: stateFloats,
        state: (n + 1) * stateFloats,
        r: n * values * slot,
        dslow: slowFloats,
        dstart: stateFloats,
        dstate: stateFloats,
        dr: cotangents * slot,
      }
      forEachPart(inputs, sizes, regions, ({ work, params, load, store }) => {
        load('slow', parameters, true)
        load('start', fresh, true)
        load('dslow', null)
        load('dstart', null)
        load('dstate', dsT)
        for (let t0 = Math.floor((T - 1) / C) * C; t0 >= 0; t0 -= C) {
          const span = { ...params, t0, t1: Math.min(t0 + C, T) }
          gpu.run(shader, 'net', { program, work, tokens, x, y: null, states }, { ...span, kept: 1 }, params.heads)
          gpu.run(shader, 'netBackward', { program, work, tokens, x, dy, dx }, span, params.heads)
        }
        store('dslow', dparameters)
        store('dstart', dfresh)
        store('dstate', ds0)
      })
    },
  }
}
