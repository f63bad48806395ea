/**
 * A checkpoint is one safetensors file: the model's parameters under their own names (other tools read them as a plain state
 * dict), the optimiser's moments as `optimizer.m.NAME` and `optimizer.v.NAME`, and in the metadata the configuration, the counters
 * and whatever the caller adds. Values keep the device's precision, so that a resumed run repeats an unbroken one bit for bit.
 */
import type { HostArray } from '../engine/devices/device.ts'
import type { Adam } from './optimizers.ts'
import { readSafetensors, type Safetensors, type SafetensorsEntry, SafetensorsError, writeSafetensors } from './safetensors.ts'
import { Transformer, type TransformerConfig } from './transformer.ts'

const format = 'fastweights-1'
const optimizerPrefix = 'optimizer.'

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

export async function writeCheckpoint(model: Transformer, optimizer: Adam | null, extra: Record<string, string> = {}): Promise<Uint8Array> {
  const tensors = new Map<string, SafetensorsEntry>()
  const put = (name: string, shape: readonly number[], data: HostArray): void => {
    tensors.set(name, data instanceof Float64Array ? { dtype: 'F64', shape: [...shape], data } : { dtype: 'F32', shape: [...shape], data: data as Float32Array<ArrayBuffer> })
  }
  for (const [name, { shape, data }] of await model.stateDict()) put(name, shape, data)
  if (optimizer) for (const [name, t] of optimizer.moments()) put(optimizerPrefix + name, t.shape, await t.read())
  const { seed, stream } = model.random
  const metadata = { format, config: JSON.stringify(model.config), seed: `${seed}`, stream: `${stream}`, steps: `${optimizer?.steps ?? 0}` }
  return writeSafetensors(tensors, { ...extra, ...metadata })
}

/** Checks that the file is one of ours and that its tensors fit its configuration, before anything is allocated on a device. */
export function readCheckpoint(bytes: Uint8Array): Checkpoint {
  const { metadata, tensors } = readSafetensors(bytes)
  const fail = (problem: string): never => {
    throw new SafetensorsError(`checkpoint: ${problem}`)
  }
  if (metadata.format !== format) fail(`the file isn't a fastweights checkpoint (its metadata says format '${metadata.format ?? 'nothing'}', not '${format}')`)
  const { format: _, config: configText = '', seed, stream, steps, ...extra } = metadata
  let config = {} as TransformerConfig
  try {
    config = JSON.parse(configText)
  } catch {
    fail("the configuration in the metadata isn't JSON")
  }
  const count = (name: string, text: string): number => {
    const n = Number(text)
    return /^\d+$/.test(text ?? '') && Number.isSafeInteger(n) ? n : fail(`'${name}' in the metadata isn't a whole number: ${JSON.stringify(text)}`)
  }
  // The sizes that decide how much is allocated must be the sizes of tensors that are really in the file.
  if (typeof config !== 'object' || config === null) fail("the configuration in the metadata isn't an object")
  const { symbols, dModel, dFf, layers } = config
  const expect = (name: string, ...shape: number[]): void => {
    const found = tensors.get(name)?.shape
    if (JSON.stringify(found) !== JSON.stringify(shape)) fail(`${name} has shape ${JSON.stringify(found)}, the configuration says [${shape}]`)
  }
  if (!Number.isInteger(layers) || layers < 1 || layers > tensors.size) fail(`the configuration has ${layers} layers, the file ${tensors.size} tensors`)
  expect('src_embed.weight', symbols, dModel)
  for (let i = 0; i < layers; i++) expect(`transformer.layers.${i}.feed_forward.layer1.weight`, dFf, dModel)
  return { config, seed: count('seed', seed), stream: count('stream', stream), steps: count('steps', steps), extra, tensors }
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
export function restoreOptimizer(optimizer: Adam, checkpoint: Checkpoint): void {
  const moments = [...checkpoint.tensors].filter(([name]) => name.startsWith(optimizerPrefix))
  optimizer.loadMoments(new Map(moments.map(([name, entry]) => [name.slice(optimizerPrefix.length), entry])), checkpoint.steps)
}
