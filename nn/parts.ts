/** What a state consists of, as the layers tell it. */
import { checkObject } from '../engine/arguments.ts'
import type { DType } from '../engine/devices/device.ts'
import { Tensor } from '../engine/tensor.ts'

/** A part of a state; int32 ones are Int32Arrays on the host, the others tensors. The size -1 grows with the tokens, from 0; -2 with those of a source, which is written once. */
export interface Part {
  dtype: DType
  /** Its sizes for B rows. */
  shape: readonly number[]
  /** What the numbers of an int32 part stay below. */
  below?: number
}

/** What a part of this name holds before the first token, where that isn't 0: the logarithm of a sum of nothing. */
const fresh: Readonly<Record<string, number>> = { lse: Number.NEGATIVE_INFINITY }
/** The same by a part's path. */
export const freshOf = (path: string): number => fresh[path.slice(path.lastIndexOf('.') + 1)] ?? 0

/** A number that an int32 part can't hold, told with what it may be; undefined where there is none. */
export function outside(counts: Int32Array, { below = Infinity }: Part): string | undefined {
  const bad = counts.find((count) => !(count >= 0 && count < below))
  if (bad === undefined) return undefined
  return bad < 0 ? 'a number below 0' : `${bad}, which must be below ${below}`
}

/** The parts of a layer's state by name; a list where there are layers within. */
export type Parts = { readonly [name: string]: Part | readonly Parts[] }

export const isPart = (part: Part | readonly Parts[]): part is Part => !Array.isArray(part)

/** Keys and values, which may have room for tokens to come (nn/room.ts). */
const mayHaveRoom = (parts: Parts): boolean => ['keys', 'values', 'visible'].every((name) => name in parts)

/** Whether a state of these parts has the same size after every token, or room for some, and no count in it but positions, of which only tables are made. */
export const keepsPace = (parts: Parts): boolean =>
  Object.values(parts).every((part) => {
    if (Array.isArray(part)) return part.every(keepsPace)
    const { shape, below } = part as Part
    return below === undefined && (mayHaveRoom(parts) || shape.every((d) => d >= 0))
  })

/** Whether a layer is given a state for B rows; throws unless it has exactly the parts that it should, with as many rows. Their other sizes are what each op checks. */
export function givenState(layer: string, state: object, parts: Parts, B: number): boolean {
  checkObject(layer, state, Object.keys(parts)[0])
  const given = Object.entries(state).flatMap(([name, part]) => (part === undefined ? [] : [name]))
  if (given.length === 0) return false
  for (const name of given) if (!(name in parts)) throw new Error(`${layer}: the state has a ${name}, which this layer's lacks`)
  for (const name of Object.keys(parts)) if (!given.includes(name)) throw new Error(`${layer}: the state lacks ${name}`)
  for (const [name, part] of Object.entries(state)) {
    const count = (parts[name] as Part | undefined)?.shape?.length === 1
    const rows = part instanceof Tensor ? part.shape[0] : count ? (part as Int32Array).length : B
    if (rows !== B) throw new Error(`${layer}: the state has ${rows} rows of ${name}, the input has ${B}`)
    const bad = part instanceof Int32Array ? outside(part, parts[name] as Part) : undefined
    if (bad !== undefined) throw new Error(`${layer}: the state's ${name} holds ${bad}`)
  }
  return true
}
