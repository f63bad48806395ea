/** Runs on disk: a folder with a checkpoint that says how it came about. */
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { type Checkpoint, readCheckpoint } from '../nn/index.ts'
import { reason } from '../tasks/download.ts'
import type { TrainingConfig } from '../tasks/presets.ts'
import { type Vocabulary, vocabularyOf } from '../tasks/text.ts'
import { claimFolder, FileError, InUseError } from './files.ts'
import { checkRecipe } from './options.ts'

export interface RunRecord {
  preset: string
  training: TrainingConfig
  symbols: readonly string[]
  /** `path` is null for the default text. */
  text: { path: string | null; name: string; hash: string }
  /** See `arithmeticOf`. */
  arithmetic: string
}

/** What a checkpoint keeps in its metadata beside the model. */
export const runMetadata = (record: RunRecord): Record<string, string> => ({ run: JSON.stringify(record) })

export interface OpenedRun extends Omit<RunRecord, 'symbols'> {
  checkpoint: Checkpoint
  vocabulary: Vocabulary
}

/** Reads the checkpoint of a run, by its folder or its file. */
export function openRun(path: string): OpenedRun {
  let file = path
  let bytes: Uint8Array
  try {
    if (statSync(path).isDirectory()) file = join(path, 'checkpoint.safetensors')
    bytes = readFileSync(file)
  } catch (error) {
    throw new FileError(`can't read the checkpoint ${file}: ${reason(error)}`)
  }
  try {
    const checkpoint = readCheckpoint(bytes)
    const { preset, training, symbols, text, arithmetic } = parseRecord(checkpoint.extra.run)
    const { symbols: count, ...model } = checkpoint.config
    checkRecipe({ model, training })
    if (symbols.length !== count) throw new Error(`it has ${symbols.length} symbols, its model ${count}`)
    return { preset, training, text, arithmetic, checkpoint, vocabulary: vocabularyOf(symbols) }
  } catch (error) {
    throw new FileError(`${file} can't be used: ${(error as Error).message}`)
  }
}

function parseRecord(json: string | undefined): RunRecord {
  if (json === undefined) throw new Error('its metadata says nothing about a run')
  let record: RunRecord
  try {
    record = JSON.parse(json)
  } catch {
    throw new Error("what its metadata says about the run isn't JSON")
  }
  const strings = (values: readonly unknown[]): boolean => values.every((value) => typeof value === 'string')
  const { preset, training, symbols, text, arithmetic } = record ?? {}
  const whole =
    strings([preset, arithmetic, text?.path ?? '', text?.name, text?.hash]) &&
    Array.isArray(symbols) &&
    strings(symbols) &&
    typeof training === 'object'
  if (!whole) throw new Error('what its metadata says about the run is incomplete')
  return record
}

const runsFolder = 'runs'

const outputs = ['checkpoint.safetensors', 'metrics.jsonl', 'loss.svg', 'sample.txt']

export function checkVacant(folder: string): void {
  const present = outputs.find((name) => existsSync(join(folder, name)))
  if (present === outputs[0]) throw new FileError(`${folder} holds a run already: go on with --resume ${folder}, or name another --out`)
  if (present) throw new FileError(`${folder} holds a file named ${present} already: name another --out`)
}

/** Claims the first of runs/NAME-1, runs/NAME-2, ... that isn't there; one that another process takes at the same moment is passed over. */
export function claimFreeFolder(name: string): { folder: string; release: () => void } {
  for (let i = 1; ; i++) {
    const folder = join(runsFolder, `${name}-${i}`)
    try {
      if (!existsSync(folder)) return { folder, release: claimFolder(folder) }
    } catch (error) {
      if (!(error instanceof InUseError)) throw error
    }
  }
}

export function latestRun(): string {
  const folders = existsSync(runsFolder) ? readdirSync(runsFolder).map((name) => join(runsFolder, name)) : []
  const checkpoint = (folder: string): string => join(folder, 'checkpoint.safetensors')
  const saved = (folder: string): number => (existsSync(checkpoint(folder)) ? statSync(checkpoint(folder)).mtimeMs : 0)
  const [latest] = folders.filter((folder) => saved(folder) > 0).sort((a, b) => saved(b) - saved(a))
  if (!latest) throw new FileError(`there is no run under ${runsFolder}/: train one with fastweights train, or name one with --run FOLDER`)
  return latest
}

export const textHash = (text: string): string => createHash('sha256').update(text).digest('hex')
