/**
 * A checkpoint is one safetensors file: the model's parameters under their own names (other tools read them as a plain state
 * dict), the optimiser's moments as `optimizer.m.NAME` and `optimizer.v.NAME`, and in the metadata the configuration, the counters
 * and whatever the caller adds. Values keep the device's precision, so that a resumed run repeats an unbroken one bit for bit.
 */
import type { Device } from '../engine/devices/device.ts'
import { type Shape, sameShape, show } from '../engine/shape.ts'
import { getDevice, setDevice } from '../engine/tensor.ts'
import { printable } from './foreign.ts'
import { says, shared } from './mixers.ts'
import { entriesOf, isFloat, prefixOf } from './module.ts'
import type { Optimizer } from './optimizers.ts'
import { PackedEntry, readSafetensors, type Safetensors, SafetensorsError, writeSafetensors } from './safetensors.ts'
import { labml, layerMixers, Transformer, type TransformerConfig } from './transformer.ts'
import { otherVersion, versionMetadata } from './version.ts'

const version = { fastweights: 'checkpoint 3', before: 'fastweights-2' }
const optimizerPrefix = 'optimizer.'
const momentPrefix = /^optimizer\.[mv]\./

export interface Checkpoint {
  config: TransformerConfig
  seed: number
  /** How many random streams initialisation and dropout have used. */
  stream: number
  /** Optimiser steps taken. */
  steps: number
  /** What the caller stored beside it. */
  extra: Record<string, string>
  tensors: Safetensors['tensors']
}

export async function writeCheckpoint(
  model: Transformer,
  optimizer: Optimizer | null,
  extra: Record<string, string> = {},
): Promise<Uint8Array> {
  const { seed, stream } = model.random
  const counters = { seed: `${seed}`, stream: `${stream}`, steps: `${optimizer?.steps ?? 0}` }
  const metadata = { ...versionMetadata(version), config: JSON.stringify(storedConfig(model.config)), ...counters }
  // A read takes the values of the moment it is called: all of them before the first wait, so that training may go on meanwhile.
  const [parameters, moments] = await Promise.all([model.stateDict(), entriesOf(optimizer?.moments() ?? new Map())])
  const prefixed = [...moments].map(([name, entry]) => [optimizerPrefix + name, entry] as const)
  return writeSafetensors([...parameters, ...prefixed], { ...extra, ...metadata })
}

/** Checks that the file is one of ours and that its tensors are those of its configuration, before anything is allocated on a device. */
export function readCheckpoint(bytes: Uint8Array): Checkpoint {
  const { metadata, tensors } = readSafetensors(bytes)
  const fail = (problem: string): never => {
    throw new SafetensorsError(`checkpoint: ${problem}`)
  }
  const quote = (text: string | undefined): string => (text === undefined ? 'nothing' : printable(JSON.stringify(text.slice(0, 80))))
  const says = otherVersion(metadata, version)
  if (says !== undefined)
    fail(`the file isn't a checkpoint of this version of fastweights (its metadata says ${says}, not "${version.fastweights}")`)
  const { format, fastweights, config: configText = '', seed, stream, steps, ...extra } = metadata
  const count = (name: string, text: string): number => {
    const n = Number(text)
    return /^\d+$/.test(text) && Number.isSafeInteger(n) ? n : fail(`${name} in the metadata isn't a whole number: ${quote(text)}`)
  }
  let config = {} as TransformerConfig
  let shapes = new Map<string, Shape>()
  try {
    config = checkedConfig(JSON.parse(configText), tensors.size)
    shapes = shapesOf(config)
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
  return { config, seed: count('seed', seed), stream: count('stream', stream), steps: count('steps', steps), extra, tensors }
}

/** Beside a mixer, without the shared settings that say nothing of it. */
function storedConfig(config: TransformerConfig): Partial<TransformerConfig> {
  if (config.mixer === undefined) return config
  const kinds = layerMixers(config).map(({ kind }) => kind)
  const { attention: _, ...said } = config
  return Object.fromEntries(Object.entries(said).filter(([name, value]) => says(kinds, name, value)))
}

/** Settings that files from before they were there lack. */
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
])

/**
 * Every field, of the type it has in labml's; what may be left out is what it is there. No more layers than there are tensors, so that
 * shapesOf can't take for ever.
 */
function checkedConfig(config: unknown, tensors: number): TransformerConfig {
  if (typeof config !== 'object' || config === null || Array.isArray(config)) throw new Error("it isn't an object")
  const expected: Record<string, unknown> = { symbols: 1, ...labml }
  const given = config as Record<string, unknown>
  const unknown = Object.keys(given).find((name) => !Object.hasOwn(expected, name) && name !== 'mixer')
  if (unknown !== undefined) throw new Error(`it has an unknown field ${JSON.stringify(unknown.slice(0, 80))}`)
  const needless = (name: string): boolean =>
    !(name in given) && (added.has(name) || (given.mixer !== undefined && (name in shared || name === 'attention')))
  for (const [name, value] of Object.entries(expected))
    if (typeof given[name] !== typeof value && !needless(name)) throw new Error(`${name} isn't a ${typeof value}`)
  if ((given.layers as number) > tensors) throw new Error(`it has ${given.layers} layers, the file ${tensors} tensors`)
  return { ...labml, ...config } as TransformerConfig
}

/** The parameters' names and shapes, from a model made on a device that has no memory and computes nothing. */
function shapesOf(config: TransformerConfig): Map<string, Shape> {
  const before = getDevice()
  const kernels = new Proxy({} as Device['kernels'], { get: () => () => {} })
  setDevice({ ...before, kernels, allocate: () => null, free: () => {} })
  try {
    return new Map([...new Transformer(config).namedParameters()].map(([name, { shape }]) => [name, shape]))
  } finally {
    setDevice(before)
  }
}

/** The model of a checkpoint, on the default device. */
export function modelOf(checkpoint: Checkpoint): Transformer {
  const model = new Transformer(checkpoint.config, checkpoint.seed)
  try {
    model.loadStateDict(new Map([...checkpoint.tensors].filter(([name]) => !name.startsWith(optimizerPrefix))))
  } catch (error) {
    model.dispose()
    throw error
  }
  model.random.stream = checkpoint.stream
  return model
}

/** Puts the moments and the step count of a checkpoint into an optimiser of the same parameters. */
export function restoreOptimizer(optimizer: Optimizer, checkpoint: Checkpoint): void {
  const moments = [...checkpoint.tensors].filter(([name]) => name.startsWith(optimizerPrefix))
  if (moments.length === 0) throw new SafetensorsError("checkpoint: it holds no optimiser's state, so training can't go on from it")
  optimizer.loadMoments(new Map(moments.map(([name, entry]) => [name.slice(optimizerPrefix.length), entry])), checkpoint.steps)
}
