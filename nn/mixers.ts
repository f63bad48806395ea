/** Every mixer, and how a model says which of its layers has which. A new one is a file of its own and a row here. */
import { told } from '../engine/arguments.ts'
import { aftConv, aftFull, aftLocal, aftSimple } from './aft.ts'
import { type FastWeightsSettings, fastWeights, layerRules } from './attention.ts'
import { type AnyField, checkChoice, checkKnown, defaultsOf, meansNothing, namesOf, withDefaults } from './fields.ts'
import type { Mixer } from './mixer.ts'
import { type RecurrentNetName, recurrentNet, recurrentNetNames } from './recurrent-net.ts'
import { softmax } from './softmax-attention.ts'

/** The mixers of tokens by name: what a layer of a `Transformer` may have in the place of attention. */
export const mixers = {
  'fast-weights': fastWeights,
  softmax,
  'aft-full': aftFull,
  'aft-local': aftLocal,
  'aft-simple': aftSimple,
  'aft-conv': aftConv,
  'recurrent-net': recurrentNet,
}
/** The name of a mixer: a key of `mixers`. */
export type MixerName = keyof typeof mixers
type SettingsOf<M> = M extends Mixer<infer C, infer _> ? C : never
/** A layer that some mixer has made. */
export type MixerLayer = ReturnType<(typeof mixers)[MixerName]['make']>

/** A mixer with settings of its own; what is left out is the model's, where the model has it, else the mixer's default. */
export type MixerConfig = { [Name in MixerName]: { kind: Name } & Partial<SettingsOf<(typeof mixers)[Name]>> }[MixerName]
/** ... or just its name; or that of a rule: fast weights with that rule; or that of a recurrent net. */
export type MixerChoice = MixerConfig | MixerName | FastWeightsSettings['rule'] | RecurrentNetName

/** A layer's mixer with every setting. */
export interface LayerMixer {
  kind: MixerName
  /** Of that kind: what its row takes. */
  settings: any
}

/** A row of which no more is known. */
export type AnyMixer = Omit<Mixer<any, MixerLayer>, 'fields'> & { fields: Readonly<Record<string, AnyField>> }
export const rowOf = (kind: MixerName): AnyMixer => mixers[kind] as unknown as AnyMixer
export const mixerNames = namesOf(mixers)
/** What names a mixer: those of the table, of rules, and of recurrent nets. */
export const mixerChoices: readonly (MixerChoice & string)[] = [...mixerNames, ...layerRules, ...recurrentNetNames]

/** The mixers that have a setting of this name. */
export const mixersWith = (setting: string): MixerName[] => mixerNames.filter((kind) => Object.hasOwn(rowOf(kind).fields, setting))

/** The error of a setting that none of a model's mixers has. */
export const meaningless = (setting: string, value: unknown): Error =>
  meansNothing(
    setting,
    value,
    mixersWith(setting)
      .map((kind) => mixers[kind].title)
      .join(', '),
  )

/**
 * Settings that a model may say for all of its layers, outside of `mixer`: those of fast weights, which were there first. A layer whose mixer
 * has a setting of that name takes it from there, unless its own says otherwise.
 */
export const shared: Readonly<FastWeightsSettings> = defaultsOf(fastWeights.fields)
/** Of these, sizes that a model has whether or not a layer looks at them. */
const sizes = ['heads', 'chunk']

/**
 * Whether a model's setting counts where its layers have these mixers. It doesn't if it is a shared one, at its default, that none of them reads.
 * Positions are the model's, too.
 */
export const says = (kinds: readonly MixerName[], setting: string, value: unknown): boolean =>
  !Object.hasOwn(shared, setting) ||
  setting === 'positions' ||
  reads(kinds, setting) ||
  value !== shared[setting as keyof FastWeightsSettings]

/** Whether one of these mixers has a setting of this name. */
export const reads = (kinds: readonly MixerName[], setting: string): boolean =>
  kinds.some((kind) => Object.hasOwn(rowOf(kind).fields, setting))

/** The same mixer with all settings that are its own, and of the shared ones those that are given. */
function completed(choice: MixerChoice): MixerConfig {
  if (typeof choice === 'string') {
    if ((layerRules as string[]).includes(choice)) return { kind: 'fast-weights', rule: choice as FastWeightsSettings['rule'] }
    if ((recurrentNetNames as readonly string[]).includes(choice))
      return completed({ kind: 'recurrent-net', net: choice as RecurrentNetName })
    if (!Object.hasOwn(mixers, choice))
      throw new Error(
        `unknown mixer '${choice}' (${mixerNames.join(', ')}; or the name of a rule, ${layerRules.length} of them, or of a recurrent net)`,
      )
    return completed({ kind: choice as MixerName })
  }
  if (typeof choice !== 'object' || choice === null || Array.isArray(choice))
    throw new Error(`a mixer must be a name or an object such as { kind: 'softmax' }, not ${told(choice)}`)
  const { kind, ...given } = withDefaults({}, choice)
  checkChoice('mixer', kind, mixers)
  const { fields } = rowOf(kind)
  for (const [name, value] of Object.entries(given))
    if (!Object.hasOwn(fields, name) && mixersWith(name).length > 0) throw meaningless(name, value)
  checkKnown(given, Object.keys(fields))
  const own = Object.entries<unknown>(defaultsOf(fields as never)).filter(([name]) => !Object.hasOwn(shared, name))
  return { kind, ...Object.fromEntries(own), ...given } as MixerConfig
}

/** The same choice, complete: an object or a list of them. A setting that is left open is one that the model says. */
export function completeMixer<C extends MixerChoice | readonly MixerChoice[]>(choice: C): MixerConfig | readonly MixerConfig[] {
  return Array.isArray(choice) ? choice.map(completed) : completed(choice as MixerChoice)
}

/**
 * The mixer of each of a model's layers. `choice`: one for all, or a list, which is repeated where it's shorter than there are layers. `common`:
 * the model's shared settings. Throws for one of these that isn't its default and that no layer has, and unless each layer's settings make sense.
 */
export function mixersOf(
  choice: MixerConfig | readonly MixerConfig[],
  { layers, dModel }: { layers: number; dModel: number },
  common: Readonly<Record<string, unknown>>,
): LayerMixer[] {
  const list = Array.isArray(choice) ? (choice as readonly MixerConfig[]) : [choice as MixerConfig]
  if (list.length === 0 || list.length > layers)
    throw new Error(`mixer: a list of ${list.length} for ${layers} layers: give from one to as many as there are layers`)
  const complete = list.map(({ kind, ...given }): LayerMixer => {
    const { fields } = rowOf(kind)
    const fromModel = Object.entries(common).filter(([name]) => Object.hasOwn(fields, name))
    return { kind, settings: { ...(defaultsOf(fields as never) as object), ...Object.fromEntries(fromModel), ...given } }
  })
  const kinds = complete.map(({ kind }) => kind)
  for (const [name, value] of Object.entries(common))
    if (!reads(kinds, name) && !sizes.includes(name) && value !== shared[name as keyof FastWeightsSettings]) throw meaningless(name, value)
  for (const { kind, settings } of complete) rowOf(kind).check({ ...settings, dModel })
  return Array.from({ length: layers }, (_, i) => complete[i % complete.length])
}

/** Whether none of the layers can tell the order of earlier tokens. */
export const blind = (layers: readonly LayerMixer[]): boolean => layers.every(({ kind, settings }) => rowOf(kind).blind(settings))
