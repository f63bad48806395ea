/** What the table of other repositories' classes is made of. */
import type { Module, StateDict, StateDictEntry } from '../module.ts'

/** Options of a class by their names there. */
export type Options = Readonly<Record<string, any>>

export interface OutsideOption {
  description: string
  /** What it is where neither the caller nor a tensor says it; one without must be said, unless it's `optional`. */
  default?: number | boolean
  optional?: true
  /** True or false, where no default says so. */
  flag?: true
  /** What it may be, if it isn't a number or true and false. */
  choices?: readonly string[]
}

/** A class of a repository. */
export interface OutsideClass<M extends Module = Module> {
  /** Where it is. */
  source: string
  options: Readonly<Record<string, OutsideOption>>
  /** What the tensors say of the options; of a tensor that isn't there `shapeOf` throws. */
  read(shapeOf: (name: string) => readonly number[], dict: StateDict): Options
  /** A module for these options, whose values are then overwritten. `fixed`: tensors of that name. */
  make(options: Options, fixed: StateDict): M
  /** Parts of names there and here; the first that fits a name counts once, and then the next. None: the names are the same. */
  names?: readonly (readonly [there: string, here: string])[]
  /** Tensors that aren't parameters here, by name there: what is wrong with one, if anything is. */
  buffers?: Readonly<Record<string, (entry: StateDictEntry) => string | undefined>>
  /** Tensors that are neither parameters nor buffers there, but that it computes with: random features. */
  fixed?: readonly string[]
}

/** How many layers there are under this name. */
export const layersIn = (dict: StateDict, prefix: string): number =>
  1 +
  [...dict.keys()].reduce(
    (last, name) => (name.startsWith(prefix) ? Math.max(last, Number.parseInt(name.slice(prefix.length), 10)) : last),
    -1,
  )
