/** What a class of another repository becomes here: its parameters under the names and in the shapes that they have there, and its forward pass. */
import { checkOptions } from '../../engine/arguments.ts'
import { reshape } from '../../engine/ops/movement.ts'
import { sameShape, show, sizeOf } from '../../engine/shape.ts'
import { getDevice, parameter, Tensor, tensor, zeros } from '../../engine/tensor.ts'
import type { Core, Tensors } from '../cores.ts'
import { Module, type StateDict } from '../module.ts'
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
    readonly states: Readonly<Record<string, StatePart>> = {},
  ) {
    super()
    Object.assign(this, parts)
  }

  /** Batch first, whatever it is there: x [B,T,D]. Without a state sequences begin; y and the state that they leave come back. */
  forward(input: Input, options: { state?: Tensors } = {}): OutsideResult {
    checkOptions('forward', options, ['state'])
    const { state } = options
    if (state !== undefined) {
      const names = Object.keys(this.states)
      const unlike = [...names.filter((name) => !(name in state)), ...Object.keys(state).filter((name) => !names.includes(name))]
      if (unlike.length > 0) throw new Error(`forward: the state must have ${names.join(', ') || 'no part'}; ${unlike[0]} is wrong`)
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
    const device = this.parameters()[0]?.device ?? getDevice()
    const known = Object.values(this.states).map(({ there }) => there)
    const extra = [...dict.keys()].find((name) => !known.includes(name))
    if (extra !== undefined) throw new Error(`stateFrom: the state has no part '${extra}' (${known.join(', ') || 'none at all'})`)
    return Object.fromEntries(
      Object.entries(this.states).map(([name, { there, shape, shapeThere }]) => {
        const entry = dict.get(there)
        if (entry === undefined) throw new Error(`stateFrom: lacks ${there}`)
        const B = sizeOf(entry.shape) / sizeOf(shape(1))
        if (!sameShape(entry.shape, shapeThere(B)))
          throw new Error(`stateFrom: ${there} has shape ${show(entry.shape)}; for one row it is ${show(shapeThere(1))}`)
        return [name, tensor(Float64Array.from(entry.data, Number), { shape: [...shape(B)], device })]
      }),
    )
  }

  /** The parts of a state by their names and in their shapes there. Gradients go through. */
  stateTo(state: Tensors): Record<string, Tensor> {
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
