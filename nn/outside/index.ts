/**
 * Layers and models of other people's code, loaded by the names that they have there: a table of repositories and their classes. A new class is a
 * row (class.ts). Tests: test/nn/outside.test.ts, test/golden.
 */
import { checkFlag, checkNumber, checkObject, told } from '../../engine/arguments.ts'
import { sameShape, show } from '../../engine/shape.ts'
import type { Tensor } from '../../engine/tensor.ts'
import { checkChoice, checkKnown } from '../fields.ts'
import { checkDict, type Module, type StateDict, type StateDictEntry, shapesOf } from '../module.ts'
import { algorithmicRows } from './algorithmic.ts'
import type { Options, OutsideClass, OutsideOption } from './class.ts'
import { labml } from './labml.ts'
import { languageRows } from './language.ts'
import { retrieval } from './retrieval.ts'
import { srwmRows } from './srwm.ts'

/** By repository and class. */
export const outside = {
  labml,
  'IDSIA/recurrent-fwp': { ...algorithmicRows, ...languageRows('recurrent-fwp') },
  'IDSIA/lmtool-fwp': languageRows('lmtool-fwp'),
  'IDSIA/modern-srwm': srwmRows,
  ...retrieval,
} satisfies Record<string, Record<string, OutsideClass>>
type Outside = typeof outside

interface Layout<R extends keyof Outside, C> {
  repository: R
  class: C & string
  /** Named as there; what the tensors say needn't be said. */
  options?: Options
}
/** A repository, one of its classes, and options. */
export type OutsideLayout = { [R in keyof Outside]: Layout<R, keyof Outside[R] & string> }[keyof Outside]
/** What loadOutside makes of a class. */
type Made<R extends keyof Outside, C extends keyof Outside[R]> = Outside[R][C] extends { make(...given: any[]): infer M extends Module }
  ? M
  : never

function classOf({ repository, class: name }: Layout<keyof Outside, string>): OutsideClass {
  checkChoice('repository', repository, outside)
  checkChoice(`class of ${repository}`, name, outside[repository])
  return (outside[repository] as Record<string, OutsideClass>)[name]
}

/**
 * A module with the values of a state dict of that class, batch first, on the default device: one of this package (Aft, FastWeightsAttention,
 * Transformer), or an `OutsideModule`, whose forward takes { state } and whose states convert both ways (`stateFrom`, `stateTo`).
 * loadOutside({ repository: 'labml', class: 'AFTLocal' }, readSafetensors(bytes).tensors). Throws where a tensor is missing, is one
 * too many, or disagrees with an option or another tensor.
 */
export function loadOutside<R extends keyof Outside, C extends keyof Outside[R]>(layout: Layout<R, C>, dict: StateDict): Made<R, C>
export function loadOutside(layout: OutsideLayout, dict: StateDict): Module
export function loadOutside(layout: Layout<keyof Outside, string>, dict: StateDict): Module {
  checkObject('loadOutside', layout, 'repository')
  const where = `${layout.repository}'s ${layout.class}`
  const fail = (problem: string): never => {
    throw new Error(`loadOutside: ${problem}`)
  }
  const { options: known, read, make, names = [], buffers = {}, fixed = [], ignored = [] } = classOf(layout)
  const given = layout.options ?? {}
  checkObject('loadOutside', given, Object.keys(known)[0])
  checkKnown(given, [...Object.keys(known), ...ignored])
  checkDict('loadOutside', dict)
  const shapeOf = (name: string): readonly number[] => dict.get(name)?.shape ?? fail(`the state dict lacks ${name}, which ${where} has`)
  const says = read(shapeOf, dict)
  const options: Record<string, unknown> = {}
  for (const [name, option] of Object.entries(known)) {
    const { description, default: initial, optional } = option
    if (given[name] !== undefined) checkOption(name, given[name], option)
    if (given[name] !== undefined && says[name] !== undefined && given[name] !== says[name])
      fail(`${name} is ${told(given[name])}, and the tensors say ${told(says[name])}`)
    options[name] = given[name] ?? says[name] ?? initial
    if (options[name] === undefined && !optional)
      fail(`${where} needs ${name} (${description}), which its tensors don't say: options: { ${name}: ... }`)
  }
  const own = new Map(dict)
  for (const [name, check] of Object.entries(buffers)) {
    const entry = own.get(name)
    const problem = entry && check(entry)
    if (problem) fail(`${name} ${show(entry.shape)} ${problem}`)
    own.delete(name)
  }
  const found = fixed.flatMap((name): [string, StateDictEntry][] => (own.has(name) ? [[name, own.get(name)!]] : []))
  for (const name of fixed) own.delete(name)
  // Shapes first, without memory: sizes that options say may be anything.
  const shapes = shapesOf(() => make(options, new Map(found)))
  for (const [name, { shape }] of own) {
    const expected = shapes.get(renamed(name, names))
    if (expected && !sameShape(shape, expected)) fail(`${name} has shape ${show(shape)}; with these options it is ${show(expected)}`)
  }
  const module = make(options, new Map(found))
  try {
    module.loadStateDict(new Map([...own].map(([name, entry]) => [renamed(name, names), entry])))
  } catch (error) {
    module.dispose()
    throw error
  }
  return module
}

function checkOption(name: string, value: unknown, { default: initial, flag, choices, least, below, only }: OutsideOption): void {
  if (choices) checkChoice(name, value, Object.fromEntries(choices.map((choice) => [choice, 0])))
  else if (flag || typeof initial === 'boolean') checkFlag(name, value)
  else if (below !== undefined) checkNumber(name, value, 'in [0, 1)')
  else checkNumber(name, value, least === 0 ? 'an integer, 0 or more' : 'a positive integer')
  if (only && value !== initial) throw new Error(`${name} = ${told(value)} isn't implemented here: it must be ${initial}`)
}

/** The parameters of a module that `loadOutside` made, by their names there: what gradients are compared by, and a state dict written with. */
export function outsideParameters(layout: OutsideLayout, module: Module): Map<string, Tensor> {
  const back = (classOf(layout).names ?? []).map(([there, here]) => [here, there] as const)
  return new Map([...module.namedParameters()].map(([name, p]) => [renamed(name, back), p]))
}

/** Names are taken part by part: 'encoder.' at the beginning, '.self_attn.' anywhere. */
function renamed(name: string, names: readonly (readonly [from: string, to: string])[]): string {
  let result = name
  for (const [from, to] of names)
    if (from.startsWith('.')) result = result.replace(from, to)
    else if (result.startsWith(from)) result = to + result.slice(from.length)
  return result
}
