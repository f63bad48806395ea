/** Runs on disk: a folder with a checkpoint that says how it came about. */
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { basename, dirname, join, resolve } from 'node:path'
import {
  type BlockModel,
  type Checkpoint,
  frozenModelOf,
  kindKey,
  kindOfCheckpoint,
  type PretrainedSource,
  readCheckpoint,
  readMetadata,
} from '../nn/index.ts'
import { checkSource, configName } from '../nn/pretrained/open.ts'
import { isRwkvFile } from '../nn/pretrained/rwkv.ts'
import { cacheFolder, defaultText, defaultTexts, readText } from '../tasks/download.ts'
import type { Recipe, TrainingConfig } from '../tasks/presets.ts'
import { reason } from '../tasks/reason.ts'
import { TextError, type Vocabulary, vocabularyOf } from '../tasks/text.ts'
import { type Codec, openTokenizer, tokenizerName } from '../tasks/tokenizer.ts'
import { UsageError } from './arguments.ts'
import { claimFolder, FileBytes, FileError, InUseError, isFolder } from './files.ts'
import { checkRecipe, checkTraining } from './options.ts'
import { bytes, counted, quoted, say } from './terminal.ts'

export interface RunRecord {
  preset: string
  training: TrainingConfig
  symbols: readonly string[]
  /** Its file's name, or that of a default text, and its checksum. Old checkpoints have the file's `path`, too, null for a default text. */
  text: { name: string; hash: string; path?: string | null }
  /** See `arithmeticOf`. */
  arithmetic: string
}

/** What a checkpoint keeps in its metadata beside the model. */
export const runMetadata = (record: RunRecord): Record<string, string> => ({ run: JSON.stringify(record) })

export interface OpenedRun<K extends 'transformer' | 'blocks' = 'transformer' | 'blocks'> extends Omit<RunRecord, 'symbols'> {
  checkpoint: Checkpoint<K>
  vocabulary: Vocabulary
}

export const checkpointName = 'checkpoint.safetensors'

/** The checkpoint of a run, by its folder or its file. */
function readRun(path: string): { file: string; bytes: FileBytes } {
  let file = path
  try {
    if (statSync(path).isDirectory()) file = join(path, checkpointName)
    if (!statSync(file).isFile()) throw new Error('it is no file')
    return { file, bytes: new FileBytes(file) }
  } catch (error) {
    throw error instanceof FileError ? error : new FileError(`can't read the checkpoint ${file}: ${reason(error)}${importable(path)}`)
  }
}

/** Of a path that is no run: what makes one of it, if it seems to be another package's model. */
function importable(path: string): string {
  if (!existsSync(path)) return ''
  const whole = statSync(path).isDirectory()
  const known = whole ? existsSync(join(path, configName)) : statSync(path).isFile() && isRwkvFile(new FileBytes(path))
  const beside = !whole && path.endsWith('.safetensors') && existsSync(join(dirname(path), configName))
  return known || beside ? `; it seems to be another package's model: make a run of it with fastweights import ${quoted(path)}` : ''
}

/** Whether a file, or a folder's, is a checkpoint of this package; what can't be read isn't. */
export function isRun(path: string): boolean {
  try {
    return readMetadata(readRun(path).bytes).fastweights?.startsWith('checkpoint') === true
  } catch {
    return false
  }
}

/** A run of a model that another package wrote: no text, and no vocabulary but that of a tokenizer's files beside it. */
export interface ImportedRun {
  checkpoint: Checkpoint<'blocks'>
  source: PretrainedSource
}

/** Files of a model that say nothing of what it computes, and that go with it: how texts become tokens. */
export const textFiles = [
  tokenizerName,
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'vocab.json',
  'merges.txt',
  'vocab.txt',
  'tokenizer.model',
  'spiece.model',
  'chat_template.jinja',
  'chat_template.json',
]

/** Those of them that are in a folder. */
export const readTextFiles = (folder: string): Map<string, Uint8Array> =>
  new Map(textFiles.flatMap((name) => (existsSync(join(folder, name)) ? [[name, readFileIn(folder, name)] as const] : [])))

function readFileIn(folder: string, name: string): Uint8Array {
  try {
    return readFileSync(join(folder, name))
  } catch (error) {
    throw new FileError(`can't read ${join(folder, name)}: ${reason(error)}`)
  }
}

/** The model of one, of which nothing is trained: weights of 16 bits stay so in memory, which changes no result. */
export function openedModel(path: string, { checkpoint }: ImportedRun): BlockModel {
  return frozenModelOf(checkpoint, { before: checkMemory(path) })
}

/** What WebAssembly's memory holds. */
const mostMemory = 4e9

/** Throws where numbers would take more; called before any is read. */
export const checkMemory =
  (path: string) =>
  (parameters: number, size: number): void => {
    if (size > mostMemory)
      throw new FileError(
        `${path}: its ${counted(parameters, 'parameter')} take ${bytes(size)} of memory, more than the ${bytes(mostMemory)} that a model may have here`,
      )
  }

/** The folder of a run that is named by it or by its checkpoint file. */
export const folderOfRun = (path: string): string => (isFolder(path) ? path : dirname(path))

/** The tokens of an imported model's texts; undefined where the run has no tokenizer. */
export async function codecOf(path: string): Promise<Codec | undefined> {
  const files = readTextFiles(folderOfRun(path))
  return files.has(tokenizerName) ? openTokenizer(files) : undefined
}

/** A text as tokens that the model has. */
export function tokensIn(codec: Codec, text: string, symbols: number): Int32Array {
  const tokens = codec.encode(text)
  if (tokens.length === 0) throw new TextError('the prompt is empty: its tokenizer makes no token of it')
  const far = tokens.find((token) => token >= symbols)
  if (far !== undefined) throw new TextError(`${tokenizerName}: it has a token ${far}, where the model has ${symbols} symbols`)
  return tokens
}

/** Of a checkpoint's metadata: where an imported model is from. */
export const sourceKey = 'pretrained'

/** Whether a run is one of an imported model, which wasn't trained here; what can't be read isn't. */
export const isImported = (path: string): boolean => isOfPackage(path, (metadata) => metadata.run === undefined)

/** Whether it is of another package's architecture, wherever it was trained. */
export function isOfPackage(path: string, also: (metadata: Readonly<Record<string, string>>) => boolean = () => true): boolean {
  try {
    const metadata = readMetadata(readRun(path).bytes)
    return metadata[kindKey] === 'blocks' && also(metadata)
  } catch {
    return false
  }
}

export function openImported(path: string): ImportedRun {
  const { file, bytes } = readRun(path)
  try {
    const checkpoint = readCheckpoint(bytes, 'blocks')
    const source = checkpoint.extra[sourceKey]
    if (source === undefined) throw new Error("its metadata doesn't say where it is from")
    return { checkpoint, source: checkSource(parsed(source)) }
  } catch (error) {
    throw new FileError(`${file} can't be used: ${(error as Error).message}${importable(file)}`)
  }
}

function parsed(json: string): unknown {
  try {
    return JSON.parse(json)
  } catch {
    throw new Error("what its metadata says about where it is from isn't JSON")
  }
}

/** Tokens as --tokens has them. */
export function tokenNumbers(run: string, given: readonly string[], symbols: number): Int32Array {
  if (given.length === 0 && existsSync(join(folderOfRun(run), tokenizerName)))
    throw new UsageError(`--prompt: ${run} has no text of its own to go on with: give one, or --tokens`)
  if (given.length === 0) throw new UsageError(`--tokens: ${run} has no tokenizer: give the numbers of its tokens, such as --tokens 1,2,3`)
  const bad = given.find((token) => !(/^\d+$/.test(token) && Number(token) < symbols))
  if (bad !== undefined) throw new UsageError(`--tokens: ${bad} is no token: they are 0 to ${symbols - 1}`)
  return Int32Array.from(given, Number)
}

/** Reads the checkpoint of a run that was trained here, by its folder or its file. */
export function openRun(path: string): OpenedRun {
  const { file, bytes } = readRun(path)
  try {
    // Before its kind is looked at: a task's model may be of one that no text is learnt by.
    if (readMetadata(bytes).task !== undefined) throw new Error('it is of a model that has learnt a task, not a text')
    const ofPackage = kindOfCheckpoint(bytes) === 'blocks'
    const checkpoint = ofPackage ? readCheckpoint(bytes, 'blocks') : readCheckpoint(bytes)
    if (ofPackage && checkpoint.extra.run === undefined)
      throw new Error('it holds a model of another package, which is run here and not trained: generate, inspect and export take it')
    const { preset, training, symbols, text, arithmetic } = parseRecord(checkpoint.extra.run)
    const { symbols: count, ...model } = checkpoint.config
    if (ofPackage) checkTraining(training)
    else checkRecipe({ model: model as Recipe['model'], training })
    if (symbols.length !== count) throw new Error(`it has ${symbols.length} symbols, its model ${count}`)
    return { preset, training, text, arithmetic, checkpoint, vocabulary: vocabularyOf(symbols) }
  } catch (error) {
    throw new FileError(`${file} can't be used: ${(error as Error).message}${importable(file)}`)
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

// --- Texts ----------------------------------------------------------------------------------------------------------------------------

export interface FoundText {
  /** Null for a default text. */
  path: string | null
  name: string
  hash: string
  content: string
}

/** The text of this file, or a default text. */
export async function loadText(path: string | null): Promise<FoundText> {
  const { name, text } = path === null ? await defaultText({ log: say }) : { name: basename(path), text: await readText(path) }
  return { path, name, hash: textHash(text), content: text }
}

/** Where a run's text is looked for by its name: in the run's folder and the two above it (`runs` and its place), here, and in the cache. */
export function textPlaces(folder: string, name: string): string[] {
  const run = resolve(folder)
  return [run, dirname(run), dirname(dirname(run)), resolve(), cacheFolder()].map((place) => join(place, basename(name)))
}

/** The text that a run was trained on. A file that has its name alone isn't it. */
export async function findText(folder: string, { path, name, hash }: RunRecord['text']): Promise<FoundText> {
  let another: string | undefined
  for (const place of new Set([...(path ? [path] : []), ...textPlaces(folder, name)])) {
    if (!existsSync(place)) continue
    const found = await loadText(place).catch(() => null) // What can't be read isn't it, either.
    if (found?.hash === hash) return { ...found, name }
    another ??= place
  }
  if (defaultTexts.includes(name)) {
    const { text } = await defaultText({ log: say, name })
    if (textHash(text) === hash) return { path: null, name, hash, content: text }
  }
  throw new FileError(
    another === undefined
      ? `can't read ${name}: no such file or folder; the run was trained on it, and it is neither with the run nor here: give its new place with --text`
      : `${another} isn't the text that the run was trained on (${name}): give that one with --text`,
  )
}

const textHash = (text: string): string => createHash('sha256').update(text).digest('hex')

// --- Folders --------------------------------------------------------------------------------------------------------------------------

const runsFolder = 'runs'

const outputs = ['checkpoint.safetensors', 'metrics.jsonl', 'loss.svg', 'sample.txt']

export function checkVacant(folder: string): void {
  const present = outputs.find((name) => existsSync(join(folder, name)))
  if (present === outputs[0])
    throw new FileError(`${folder} holds a run already: go on with --resume ${quoted(folder)}, or name another --out`)
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
  if (!latest) throw new FileError(`there is no run under ${runsFolder}/: train one with fastweights train, or name the folder of one`)
  return latest
}
