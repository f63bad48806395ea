/** What a class of another repository becomes here: its parameters under the names and in the shapes that they have there, and its forward pass. */
import { checkObject, checkOptions, told } from '../../engine/arguments.ts'
import { match } from '../../engine/ops/check.ts'
import { reshape } from '../../engine/ops/movement.ts'
import { sameShape, show, sizeOf } from '../../engine/shape.ts'
import { getDevice, parameter, Tensor, tensor, zeros } from '../../engine/tensor.ts'
import type { Core, Tensors } from '../cores.ts'
import { checkDict, Module, type StateDict } from '../module.ts'
import type { Parts } from '../parts.ts'

/** A part of a state: its shape for B rows, here and there, whose numbers are in the same order. */
export interface StatePart {
  there: string
  shape: (B: number) => readonly number[]
  shapeThere: (B: number) => readonly number[]
}

/** Of a core: what a part is called there; vectors [H,d] are [B,H,1,d] there. */
export function statePartsOf(core: Core, names: (here: string) => string): Record<string, StatePart> {
  return Object.fromEntries(
    Object.entries(core.state).map(([name, shape]) => {
      const shapeThere = (B: number) => (shape.length === 2 ? [B, shape[0], 1, shape[1]] : [B, ...shape])
      return [name, { there: names(name), shape: (B: number) => [B, ...shape], shapeThere }]
    }),
  )
}

/** What a layer or model that runs elsewhere gives for a call. */
export interface OutsideResult {
  y: Tensor
  /** By our names. */
  state: Tensors
}

/** Inputs by name where there are several, x [B,T,D] or tokens [B,T] where it's one. */
export type OutsideInput = Tensor | Readonly<Record<string, Tensor>>

export class OutsideModule<Input extends OutsideInput = Tensor> extends Module {
  constructor(
    parts: Readonly<Record<string, Tensor | Module | readonly Module[]>>,
    private readonly run: (input: Input, state: Tensors | undefined) => OutsideResult,
    /** The parts of its state by name. */
    readonly states: Readonly<Record<string, StatePart>> = {},
    /** D, of modules that take x [B,T,D]. */
    private readonly inputs?: number,
  ) {
    super()
    Object.assign(this, parts)
  }

  /** Batch first, whatever it is there: x [B,T,D]. Without a state sequences begin; y and the state that they leave come back. */
  forward(input: Input, options: { state?: Tensors } = {}): OutsideResult {
    checkOptions('forward', options, ['state'])
    const state = options.state ?? undefined
    if (state !== undefined) {
      checkObject('forward', state, Object.keys(this.states)[0])
      const names = Object.keys(this.states)
      const missing = names.find((name) => !(state[name] instanceof Tensor))
      const extra = Object.keys(state).find((name) => !names.includes(name))
      if (missing !== undefined || extra !== undefined)
        throw new Error(
          `forward: the state ${extra === undefined ? `lacks ${missing}` : `has '${extra}', which is no part of it`} (${names.join(', ') || 'it has none'}); stateFrom makes one of parts by their names there`,
        )
    }
    if (this.inputs !== undefined) {
      if (!(input instanceof Tensor)) throw new Error(`forward: needs x [B,T,${this.inputs}], a tensor, not ${told(input)}`)
      match('forward', { x: ['B', 'T', this.inputs] }, { x: input.shape })
    }
    return this.run(input, state)
  }

  /** See `Parts`. */
  stateParts(B: number): Parts {
    return Object.fromEntries(
      Object.entries(this.states).map(([name, { shape }]) => [name, { dtype: 'float32', shape: shape(B) } as const]),
    )
  }

  /** A state from its parts by their names and in their shapes there, [B,H,key,value] and the like, on the module's device. */
  stateFrom(dict: StateDict): Tensors {
    checkDict('stateFrom', dict)
    const device = this.parameters()[0]?.device ?? getDevice()
    const known = Object.values(this.states).map(({ there }) => there)
    const extra = [...dict.keys()].find((name) => !known.includes(name))
    if (extra !== undefined) throw new Error(`stateFrom: the state has no part '${extra}' (${known.join(', ') || 'none at all'})`)
    let rows: number | undefined
    const parts = Object.entries(this.states).map(([name, { there, shape, shapeThere }]) => {
      const entry = dict.get(there)
      if (entry === undefined) throw new Error(`stateFrom: lacks ${there}`)
      if (entry instanceof Tensor || entry.data === undefined)
        throw new Error(`stateFrom: ${there} must be { shape, data }: read the tensor first`)
      const B = sizeOf(entry.shape) / sizeOf(shape(1))
      if (!sameShape(entry.shape, shapeThere(B)))
        throw new Error(`stateFrom: ${there} has shape ${show(entry.shape)}; for one row it is ${show(shapeThere(1))}`)
      rows ??= B
      if (B !== rows) throw new Error(`stateFrom: ${there} has ${B} rows, another part ${rows}`)
      return [name, Float64Array.from(entry.data, Number), [...shape(B)]] as const
    })
    return Object.fromEntries(parts.map(([name, values, shape]) => [name, tensor(values, { shape, device })]))
  }

  /** The parts of a state by their names and in their shapes there. Gradients go through. */
  stateTo(state: Tensors): Record<string, Tensor> {
    checkObject('stateTo', state, Object.keys(this.states)[0])
    return Object.fromEntries(
      Object.entries(this.states).map(([name, { there, shapeThere }]) => {
        const part = state[name]
        if (!(part instanceof Tensor)) throw new Error(`stateTo: the state lacks ${name}`)
        return [there, reshape(part, [...shapeThere(part.shape[0])])]
      }),
    )
  }
}

/** A parameter whose value is still to come. */
export const unset = (...shape: number[]): Tensor => parameter(zeros(shape))
