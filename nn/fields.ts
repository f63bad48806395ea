/** Settings as tables: what each is, what it may be, and what it is where nobody says. Checks, the command's options and the docs are made of them. */
import { checkFlag, checkNumber, told } from '../engine/arguments.ts'

interface Common<V> {
  readonly default: V
  /** One line. */
  readonly description: string
}
export interface NumberField<V> extends Common<V> {
  readonly type: 'integer' | 'number'
  /** The range, ends included. */
  readonly min?: number
  readonly max?: number
  /** What the command takes at most: no mistake by itself, but one in all likelihood. */
  readonly sensible?: number
  /** What it must be, in words that say more than the range. */
  readonly expected?: string
}
export interface TextField<V> extends Common<V> {
  readonly type: 'string'
  readonly choices: readonly V[]
  /** As messages call it, instead of by its name: 'feature map'. */
  readonly noun?: string
}
export interface FlagField<V> extends Common<V> {
  readonly type: 'boolean'
}

/** A setting of type V; of `any`, one of which no more is known. */
export type Field<V> = 0 extends V & 1
  ? AnyField
  : [V] extends [boolean]
    ? FlagField<V>
    : [V] extends [number]
      ? NumberField<V>
      : TextField<V>
/** One for each setting of a configuration. */
export type Fields<C> = { readonly [Name in keyof C]-?: Field<C[Name]> }
/** One of which no more is known. */
export type AnyField = FlagField<boolean> | NumberField<number> | TextField<string>

/** The names of a table's rows. */
export const namesOf = <Name extends string>(table: Record<Name, unknown>): Name[] => Object.keys(table) as Name[]

export const defaultsOf = <C>(fields: Fields<C>): C =>
  Object.fromEntries(Object.entries<AnyField>(fields as never).map(([name, field]) => [name, field.default])) as C

/** These settings, with the defaults of those that are left out, or undefined: `{ dropout: options.dropout }` says nothing where there is none. */
export const withDefaults = <D extends object, C extends object>(defaults: D, given: C): D & C =>
  ({ ...defaults, ...Object.fromEntries(Object.entries(given ?? {}).filter(([, value]) => value !== undefined)) }) as D & C

/** Throws unless every setting is what its field says. */
export function checkFields<C extends object>(c: C, fields: Partial<Fields<C>>): void {
  for (const [name, field] of Object.entries<AnyField>(fields as never)) checkField(name, (c as Record<string, unknown>)[name], field)
}

function checkField(name: string, value: unknown, field: AnyField): void {
  if (field.type === 'boolean') checkFlag(name, value)
  else if (field.type === 'string') checkChoice(field.noun ?? name, value, Object.fromEntries(field.choices.map((choice) => [choice, 0])))
  else checkRange(name, value, field)
}

function checkRange(name: string, value: unknown, field: NumberField<number>): void {
  const { type, min = -Infinity, max = Infinity, expected } = field
  checkNumber(name, value, 'a number')
  if (!((type === 'integer' ? Number.isInteger(value) : Number.isFinite(value)) && value >= min && value <= max))
    throw new Error(`${name} must be ${expected ?? rangeOf(field)}, not ${value}`)
}

function rangeOf({ type, min, max }: NumberField<number>): string {
  const noun = type === 'integer' ? 'an integer' : 'a number'
  if (max !== undefined) return min === undefined ? `${noun}, ${max} or less` : `${noun} from ${min} to ${max}`
  if (type === 'integer' && min === 1) return 'a positive integer'
  return min === undefined ? noun : type === 'integer' ? `an integer, ${min} or more` : `${min} or more`
}

/** An option that means nothing beside the others must keep its default: [its name, whether it means something, where it would]. */
export type Meaning<C> = readonly [option: keyof C & string, where: string, applies: (c: C) => boolean]

export function checkMeanings<C extends object>(c: C, defaults: Partial<C>, meanings: readonly Meaning<C>[]): void {
  for (const [option, where, applies] of meanings)
    if (!applies(c) && c[option] !== defaults[option]) throw meansNothing(option, c[option], where)
}

export const meansNothing = (option: string, value: unknown, where: string): Error =>
  new Error(`${option} = ${value} means nothing here: it belongs to ${where}`)

/** Throws if it's no object, or has options that nobody reads. */
export function checkKnown(options: object, known: readonly string[]): void {
  if (typeof options !== 'object' || options === null) throw new Error(`the options must be an object, not ${told(options)}`)
  const unknown = Object.keys(options).find((name) => !known.includes(name))
  if (unknown !== undefined) throw new Error(`unknown option '${unknown}' (${known.join(', ')})`)
}

export function checkChoice(what: string, value: unknown, choices: object): void {
  if (typeof value !== 'string' || !Object.hasOwn(choices, value))
    throw new Error(`unknown ${what} '${value}' (${Object.keys(choices).join(', ')})`)
}
