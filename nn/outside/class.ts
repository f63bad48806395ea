/** What the table of other repositories' classes is made of. */
import type { Module, StateDict, StateDictEntry } from '../module.ts'

/** Options of a class by their names there. */
export type Options = Readonly<Record<string, any>>

export interface OutsideOption {
  description: string
  /** What it is where neither the caller nor a tensor says it; one without must be said, unless it's `optional`. */
  default?: number | boolean
  optional?: true
  /** 0: it may be 0, too. */
  least?: 0
  /** 1: a probability below it. */
  below?: 1
  /** Its default is the only value that there is a class for here. */
  only?: true
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
  /** Options that are taken and change nothing, there either. */
  ignored?: readonly string[]
  /** Tensors that are neither parameters nor buffers there, but that it computes with: random features. */
  fixed?: readonly string[]
}

/** How many layers there are under this name, which is no more than there are tensors. */
export function layersIn(dict: StateDict, prefix: string): number {
  const numbers = [...dict.keys()].flatMap((name) => (name.startsWith(prefix) ? (/^\d+(?=\.)/.exec(name.slice(prefix.length)) ?? []) : []))
  const last = numbers.reduce((most, number) => Math.max(most, Number(number)), -1)
  if (last >= dict.size) throw new Error(`loadOutside: a tensor is called ${prefix}${last}..., and there are ${dict.size} tensors in all`)
  return 1 + last
}

/** What is wrong with a table of positions [positions,1,D]: sine and cosine in turn, computed in float32, which is off by the angle's rounding: 5,000 units of 2^-23. */
export function sinusoidal({ shape, data }: StateDictEntry): string | undefined {
  const D = shape[2]
  if (!(shape.length === 3 && shape[1] === 1)) return "isn't one of [positions,1,D]"
  for (const [i, x] of Array.from(data as ArrayLike<number>).entries()) {
    const [position, d] = [Math.floor(i / D), i % D]
    const angle = position / 10000 ** ((d - (d % 2)) / D)
    if (Math.abs(x - (d % 2 === 0 ? Math.sin(angle) : Math.cos(angle))) > 2e-3)
      return `isn't the table of sines and cosines (at position ${position}, channel ${d}); learnt positions aren't read`
  }
}
