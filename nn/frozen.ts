/**
 * Modules of which nothing is trained, from what a state dict holds: parameters are made once, with these values, and matrices of 16-bit numbers stay so in memory.
 * Tests: test/nn/pretrained.test.ts.
 */
import { told } from '../engine/arguments.ts'
import type { HalfType } from '../engine/half.ts'
import { sameShape, show } from '../engine/shape.ts'
import { halfTensorFrom, parameter, Tensor, tensor } from '../engine/tensor.ts'
import { Embedding, Linear } from './layers.ts'
import { Module, outline, type StateDictEntry, walk } from './module.ts'
import { type BitsOf, halves, type SafetensorsEntry } from './safetensors.ts'

/** `half`: of an entry of 16-bit numbers, their bits, in which case `data` is made from them. Both may be read from a file when they are asked for. */
export interface FrozenEntry extends StateDictEntry {
  readonly half?: { readonly dtype: HalfType; readonly bits: BitsOf }
}

/** What readSafetensors gives. */
export function frozenEntry(entry: SafetensorsEntry): FrozenEntry {
  if (!('bits' in entry) || (entry.dtype !== 'F16' && entry.dtype !== 'BF16')) return entry as StateDictEntry
  const { dtype, shape } = entry
  return {
    shape,
    get data() {
      return entry.data
    },
    half: { dtype: halves[dtype], bits: entry.bits! },
  }
}

/** Options of what reads parameters that aren't trained. */
export interface FrozenOptions {
  /** Called before anything is allocated: with the number of parameters, and the bytes that they take on the device. */
  before?(parameters: number, bytes: number): void
  /** Called after each parameter, with how many numbers have been read, of how many. */
  progress?(done: number, parameters: number): void
}

/** A parameter of a module that has no memory, and where it is. */
interface Place {
  owner: Record<string, unknown>
  key: string
  path: string
  like: Tensor
}

/**
 * The module that `make` makes, on the default device, with the values of `entryOf` for each parameter's name; of a parameter with two names the first
 * one counts. What a Linear layer multiplies by and an Embedding looks up keeps its 16 bits; all else becomes float32.
 */
export function frozen<M extends Module>(
  make: () => M,
  entryOf: (name: string) => FrozenEntry,
  { before, progress }: FrozenOptions = {},
): M {
  for (const [what, given] of [
    ['a function that makes the model, such as () => new Transformer(config)', make],
    ['a function from the name of a parameter to its values', entryOf],
  ] as const)
    if (typeof given !== 'function') throw new Error(`frozen: needs ${what}, not ${told(given)}`)
  const module = outline(make)
  const places = placesOf(module)
  const stays = (place: Place, entry: FrozenEntry): boolean => entry.half !== undefined && isMatrix(place)
  const first = new Map<Tensor, Place>()
  for (const place of places) if (!first.has(place.like)) first.set(place.like, place)
  const all = [...first].map(([like, place]) => ({ like, place, entry: entryOf(place.path) }))
  const parameters = all.reduce((n, { like }) => n + like.size, 0)
  before?.(
    parameters,
    all.reduce((n, { like, place, entry }) => n + like.size * (stays(place, entry) ? 2 : 4), 0),
  )
  const made = new Map<Tensor, Tensor>()
  let done = 0
  try {
    for (const { like, place, entry } of all) {
      const { shape } = like
      if (!sameShape(entry.shape, shape)) throw new Error(`frozen: ${place.path} has shape ${show(entry.shape)}, not ${show(shape)}`)
      const held = stays(place, entry)
        ? halfTensorFrom(entry.half!.bits, { shape, dtype: entry.half!.dtype })
        : tensor(entry.data as ArrayLike<number>, { shape })
      parameter(held).requiresGrad = false
      made.set(like, held)
      done += like.size
      progress?.(done, parameters)
    }
  } catch (error) {
    for (const t of made.values()) t.dispose()
    throw error
  }
  for (const { owner, key, like } of places) owner[key] = made.get(like)
  return module
}

const isMatrix = ({ owner, key }: Place): boolean => key === 'weight' && (owner instanceof Linear || owner instanceof Embedding)

/** Every place of a module that holds a parameter. */
function placesOf(module: Module): Place[] {
  const places: Place[] = []
  walk(module, '', (path, value) => {
    if (!(value instanceof Module) && !Array.isArray(value)) return
    for (const [key, like] of Object.entries(value)) {
      if (!(like instanceof Tensor)) continue
      const name = path ? `${path}.${key}` : key
      if (!like.isParameter) throw new Error(`frozen: ${name} is no parameter, and isn't made from a state dict`)
      places.push({ owner: value as unknown as Record<string, unknown>, key, path: name, like })
    }
  })
  return places
}
