/**
 * A checkpoint is one safetensors file: the model's parameters under their own names (other tools read them as a plain state
 * dict), the optimiser's moments as `optimizer.m.NAME` and `optimizer.v.NAME`, and in the metadata the configuration, the counters
 * and whatever the caller adds. Values keep the device's precision, so that a resumed run repeats an unbroken one bit for bit.
 */
import { told } from '../engine/arguments.ts'
import { type Shape, sameShape, show } from '../engine/shape.ts'
import type { Tensor } from '../engine/tensor.ts'
import { Autoencoder } from './autoencoder.ts'
import { BlockModel, type BlockModelConfig } from './block-model.ts'
import { EncoderDecoder, type EncoderDecoderConfig, encoderDecoderDefaults } from './encoder-decoder.ts'
import { checkChoice } from './fields.ts'
import { printable } from './foreign.ts'
import { type FrozenOptions, frozen, frozenEntry } from './frozen.ts'
import { completeMixer, says, shared } from './mixers.ts'
import type { Model } from './model.ts'
import { entriesOf, isFloat, outline, prefixOf, readEntry, shapesOf } from './module.ts'
import { checkLossScale, type Optimizer } from './optimizers.ts'
import {
  type Bytes,
  encode,
  PackedEntry,
  readMetadata,
  readSafetensors,
  type Safetensors,
  type SafetensorsEntry,
  SafetensorsError,
  safetensorsPieces,
  writeSafetensors,
} from './safetensors.ts'
import { labml, layerMixers, Transformer, type TransformerConfig } from './transformer.ts'
import { otherVersion, versionMetadata } from './version.ts'

const version = { fastweights: 'checkpoint 3', before: 'fastweights-2' }
const optimizerPrefix = 'optimizer.'
const lossScaleKey = 'lossScale'
const momentPrefix = /^optimizer\.[mv]\./

/** A kind of model that checkpoints hold. */
interface Kind<M extends Model<never>, C extends object> {
  is(model: unknown): model is M
  make(config: C, seed?: number): M
  /** Every field that a file's configuration has, with a value of its type; and those that it may have, of any type. */
  fields: object
  optional: readonly string[]
  /** Whether a configuration may lack a field: files from before it was there, or from which it's left out. */
  needless?(name: string, given: Readonly<Record<string, unknown>>): boolean
  /** The numbers of layers, of which a file has no more than tensors. */
  layers: readonly string[]
  /** What is written of a configuration. */
  stored(config: C): object
}

/** Of Transformers, settings that files from before they were there lack. */
const added = new Set([
  'embeddingScale',
  'tie',
  'keyHeads',
  'gateRank',
  'gateDivisor',
  'headDecay',
  'slots',
  'levels',
  'innerRate',
  'minibatch',
  'recompute',
])
const choices = ['mixer', 'encoder', 'cross', 'decoder'] as const

const transformer: Kind<Transformer, TransformerConfig> = {
  is: (model) => model instanceof Transformer,
  make: (config, seed) => new Transformer(config, seed),
  fields: { symbols: 1, ...labml },
  // A list of layers or a boolean, which the model itself checks.
  optional: ['mixer', 'recompute'],
  needless: (name, given) => added.has(name) || (given.mixer !== undefined && (name in shared || name === 'attention')),
  layers: ['layers'],
  stored: storedConfig,
}
/** A Transformer's settings make it. */
const autoencoder: Kind<Autoencoder, TransformerConfig> = {
  ...transformer,
  is: (model) => model instanceof Autoencoder,
  make: (config, seed) => new Autoencoder(config, seed),
}
const encoderDecoder: Kind<EncoderDecoder, EncoderDecoderConfig> = {
  is: (model) => model instanceof EncoderDecoder,
  make: (config, seed) => new EncoderDecoder(config, seed),
  fields: { symbols: 1, sourceSymbols: 1, ...encoderDecoderDefaults },
  optional: choices,
  layers: ['encoderLayers', 'decoderLayers'],
  // Complete, so that a checkpoint doesn't depend on a default.
  stored: (config) => ({
    ...config,
    ...Object.fromEntries(choices.flatMap((name) => (config[name] === undefined ? [] : [[name, completeMixer(config[name])]]))),
  }),
}
const blocks: Kind<BlockModel, BlockModelConfig> = {
  is: (model) => model instanceof BlockModel,
  make: (config, seed) => new BlockModel(config, seed),
  fields: { symbols: 1, dModel: 1, layers: [], norm: {}, tie: false },
  optional: ['embeddingNorm', 'padding'],
  layers: [],
  // In one order, whoever has made it: a run that goes on leaves the bytes of one that didn't stop.
  stored: ({ symbols, dModel, layers, norm, tie, ...more }) => ({ symbols, dModel, layers, norm, tie, ...more }),
}
/** By the word in a file's metadata; older files without one hold a Transformer. */
export const kindKey = 'fastweights.model'
const kinds = { transformer, autoencoder, 'encoder-decoder': encoderDecoder, blocks }
/** The kinds of model that a checkpoint may hold. */
export type ModelKind = keyof typeof kinds
type ModelOf<K extends ModelKind> = ReturnType<(typeof kinds)[K]['make']>
type AnyKind = Kind<Model<never>, any>
const kindOf = (kind: ModelKind): AnyKind => kinds[kind] as unknown as AnyKind

/** What a checkpoint holds: a model's kind, settings and parameters, and where its training stood. */
export interface Checkpoint<K extends ModelKind = 'transformer'> {
  kind: K
  config: ModelOf<K>['config']
  /** Of its random numbers. */
  seed: number
  /** How many random streams initialisation and dropout have used. */
  stream: number
  /** Optimiser steps taken. */
  steps: number
  /** Of an optimiser on a device of precision f16: its scale of the loss, and steps since that has changed. */
  lossScale?: string
  /** What the caller stored beside it. */
  extra: Record<string, string>
  /** Parameters by name, and the optimiser's moments. */
  tensors: Safetensors['tensors']
}

/**
 * A model, its configuration and random streams and, where it is given, an optimiser's steps and moments, as a safetensors file. `extra`: texts of your own
 * beside them. Training may go on before it resolves.
 */
export async function writeCheckpoint(
  model: ModelOf<ModelKind>,
  optimizer: Optimizer | null,
  extra: Record<string, string> = {},
): Promise<Uint8Array> {
  const { tensors, metadata } = contentOf(model, optimizer, extra)
  // A read takes the values of the moment it is called: all of them before the first wait, so that training may go on meanwhile.
  const [entries, texts] = await Promise.all([entriesOf(tensors), metadata])
  return writeSafetensors(entries, texts)
}

/**
 * The same in pieces, for a file: a tensor at a time is read when its turn comes, and no more is in memory. Training waits until all are there. A piece is the
 * caller's own, and so is its whole buffer.
 */
export async function* checkpointParts(
  model: ModelOf<ModelKind>,
  optimizer: Optimizer | null,
  extra: Record<string, string> = {},
): AsyncGenerator<Uint8Array> {
  const { tensors, metadata } = contentOf(model, optimizer, extra)
  // Whether numbers have 32 or 64 bits shows when some are read: the fewest that there are.
  const [least] = [...tensors].filter(([, t]) => t.half === undefined).sort(([, a], [, b]) => a.size - b.size)
  const whole = least && (await readEntry(...least)).dtype
  const dtypeOf = ({ half }: Tensor) => (half === undefined ? whole : half === 'float16' ? 'F16' : 'BF16')
  const unread = [...tensors].map(([name, t]) => [name, { dtype: dtypeOf(t), shape: [...t.shape] } as SafetensorsEntry] as const)
  const { header, names } = safetensorsPieces(unread, await metadata)
  yield header
  for (const name of names) yield encode(name, await readEntry(name, tensors.get(name)!))
}

/** What a checkpoint holds: tensors, and texts, which wait for the device. */
function contentOf(
  model: ModelOf<ModelKind>,
  optimizer: Optimizer | null,
  extra: Record<string, string>,
): { tensors: Map<string, Tensor>; metadata: Promise<Record<string, string>> } {
  const kind = (Object.keys(kinds) as ModelKind[]).find((name) => kinds[name].is(model))
  if (kind === undefined) throw new Error(`writeCheckpoint: needs a model of ${Object.keys(kinds).join(', ')}, not ${told(model)}`)
  const texts = metadataOf(kind, model, optimizer?.steps ?? 0, extra)
  const scale = optimizer?.lossScale?.saved()
  const moments = [...(optimizer?.moments() ?? [])].map(([name, t]) => [optimizerPrefix + name, t] as const)
  const metadata = (async () => (scale ? { ...texts, [lossScaleKey]: await scale } : texts))()
  return { tensors: new Map([...model.namedParameters(), ...moments]), metadata }
}

function metadataOf(kind: ModelKind, model: ModelOf<ModelKind>, steps: number, extra: Record<string, string>): Record<string, string> {
  const { seed, stream } = model.random
  const counters = { seed: `${seed}`, stream: `${stream}`, steps: `${steps}` }
  const config = JSON.stringify(kindOf(kind).stored(model.config))
  const metadata = { ...versionMetadata(version), [kindKey]: kind, config, ...counters }
  const taken = Object.keys(extra).find((name) => name in metadata || name === lossScaleKey)
  if (taken !== undefined) throw new Error(`writeCheckpoint: '${taken}' is a word of checkpoints themselves; store it under another name`)
  return { ...extra, ...metadata }
}

/** A checkpoint of blocks whose parameters are elsewhere, such as in another package's files: piece by piece, no model being made. */
export function checkpointPieces(
  config: BlockModelConfig,
  entryOf: (name: string) => SafetensorsEntry,
  extra: Record<string, string> = {},
): { size: number; pieces: Iterable<Uint8Array> } {
  const model = outline(() => blocks.make(config))
  const entries = [...model.namedParameters().keys()].map((name) => [name, entryOf(name)] as const)
  return safetensorsPieces(entries, metadataOf('blocks', model, 0, extra))
}

/** The kind of model that a checkpoint says it holds, as it stands there. */
export const kindOfCheckpoint = (bytes: Bytes): string => readMetadata(bytes)[kindKey] ?? 'transformer'

/**
 * Checks that the file is one of ours, of that kind of model, and that its tensors are those of its configuration, before anything is allocated on a
 * device.
 */
export function readCheckpoint<K extends ModelKind = 'transformer'>(bytes: Bytes, kind = 'transformer' as K): Checkpoint<K> {
  checkChoice('kind of model', kind, kinds)
  const { metadata, tensors } = readSafetensors(bytes)
  const fail = (problem: string): never => {
    throw new SafetensorsError(`checkpoint: ${problem}`)
  }
  const quote = (text: string | undefined): string => (text === undefined ? 'nothing' : printable(JSON.stringify(text.slice(0, 80))))
  const says = otherVersion(metadata, version)
  if (says !== undefined)
    fail(`the file isn't a checkpoint of this version of fastweights (its metadata says ${says}, not "${version.fastweights}")`)
  const {
    format,
    fastweights,
    [kindKey]: found = 'transformer',
    config: configText = '',
    seed,
    stream,
    steps,
    [lossScaleKey]: lossScale,
    ...extra
  } = metadata
  if (lossScale !== undefined) checkLossScale(lossScale, fail)
  if (found !== kind)
    fail(
      `the file holds a model of the kind ${quote(found)}, not "${kind}"${Object.hasOwn(kinds, found) ? `: readCheckpoint(bytes, '${found}')` : ''}`,
    )
  const count = (name: string, text: string): number => {
    const n = Number(text)
    return /^\d+$/.test(text) && Number.isSafeInteger(n) ? n : fail(`${name} in the metadata isn't a whole number: ${quote(text)}`)
  }
  let config = {} as ModelOf<K>['config']
  let shapes = new Map<string, Shape>()
  try {
    config = checkedConfig(JSON.parse(configText), tensors.size, kindOf(kind)) as ModelOf<K>['config']
    shapes = shapesOf(() => kindOf(kind).make(config))
  } catch (error) {
    fail(`the configuration in the metadata can't be used: ${printable((error as Error).message)}`)
  }
  const check = (name: string, shape: Shape): void => {
    const found = tensors.get(name)
    if (!found) {
      const prefix = prefixOf([...shapes.keys()], [...tensors.keys()])
      fail(`it lacks ${name}${prefix === undefined ? '' : `; its names have ${quote(prefix)} before them`}`)
    } else if (!sameShape(found.shape, shape)) fail(`${name} has shape ${show(found.shape)}, its configuration says ${show(shape)}`)
    else if (!isFloat(found))
      fail(`${name} is ${found.dtype}, ${found instanceof PackedEntry ? "which isn't read as numbers" : 'not floating-point numbers'}`)
  }
  for (const [name, shape] of shapes) check(name, shape)
  for (const name of tensors.keys()) {
    const shape = shapes.get(name.replace(momentPrefix, ''))
    if (shape) check(name, shape)
    else fail(`${quote(name)} is no part of its model`)
  }
  return {
    kind,
    config,
    seed: count('seed', seed),
    stream: count('stream', stream),
    steps: count('steps', steps),
    ...(lossScale !== undefined && { lossScale }),
    extra,
    tensors,
  }
}

/** Beside a mixer, without the shared settings that say nothing of it. */
function storedConfig(config: TransformerConfig): Partial<TransformerConfig> {
  if (config.mixer === undefined) return config
  const kinds = layerMixers(config).map(({ kind }) => kind)
  const { attention: _, ...said } = config
  return Object.fromEntries(Object.entries(said).filter(([name, value]) => says(kinds, name, value)))
}

/**
 * Every field, of the type that it has; what may be left out is what it is by default. No more layers than there are tensors, so that shapesOf can't
 * take for ever.
 */
function checkedConfig(config: unknown, tensors: number, { fields, optional, needless, layers }: AnyKind): object {
  if (typeof config !== 'object' || config === null || Array.isArray(config)) throw new Error("it isn't an object")
  const given = config as Record<string, unknown>
  const unknown = Object.keys(given).find((name) => !Object.hasOwn(fields, name) && !optional.includes(name))
  if (unknown !== undefined) throw new Error(`it has an unknown field ${JSON.stringify(unknown.slice(0, 80))}`)
  for (const [name, value] of Object.entries(fields))
    if (typeof given[name] !== typeof value && !optional.includes(name) && (name in given || !needless?.(name, given)))
      throw new Error(`${name} isn't a ${typeof value}`)
  for (const name of layers)
    if ((given[name] as number) > tensors) throw new Error(`it has ${given[name]} layers, the file ${tensors} tensors`)
  return { ...fields, ...given }
}

/** The model of a checkpoint, on the default device. */
export function modelOf<K extends ModelKind = 'transformer'>(checkpoint: Checkpoint<K>): ModelOf<K> {
  const model = kindOf(checkpoint.kind).make(checkpoint.config, checkpoint.seed) as ModelOf<K>
  try {
    model.loadStateDict(new Map([...checkpoint.tensors].filter(([name]) => !name.startsWith(optimizerPrefix))))
  } catch (error) {
    model.dispose()
    throw error
  }
  model.random.stream = checkpoint.stream
  return model
}

/** The same of blocks, of which nothing is to be trained: see `frozen`. */
export function frozenModelOf({ config, seed, stream, tensors }: Checkpoint<'blocks'>, options: FrozenOptions = {}): BlockModel {
  const model = frozen(
    () => blocks.make(config, seed),
    (name) => frozenEntry(tensors.get(name)!),
    options,
  )
  model.random.stream = stream
  return model
}

/** Puts the moments and the step count of a checkpoint into an optimiser of the same parameters. */
export function restoreOptimizer(optimizer: Optimizer, checkpoint: Checkpoint<ModelKind>): void {
  const moments = [...checkpoint.tensors].filter(([name]) => name.startsWith(optimizerPrefix))
  if (moments.length === 0) throw new SafetensorsError("checkpoint: it holds no optimiser's state, so training can't go on from it")
  optimizer.loadMoments(new Map(moments.map(([name, entry]) => [name.slice(optimizerPrefix.length), entry])), checkpoint.steps)
  if (checkpoint.lossScale !== undefined) optimizer.lossScale?.restore(checkpoint.lossScale)
}
