/**
 * Models of other packages, from the files that those write: `fromPretrained`. Files come from strangers: everything is checked before a model is made, and
 * nothing in them is carried out. Tests: test/nn/pretrained.test.ts.
 */
import { checkOptions, told } from '../../engine/arguments.ts'
import { widened } from '../../engine/half.ts'
import { type Shape, sameShape, show, sizeOf } from '../../engine/shape.ts'
import type { Tensor } from '../../engine/tensor.ts'
import { BlockModel, type BlockModelConfig } from '../block-model.ts'
import { clip, fileKind, nearest, printable } from '../foreign.ts'
import { type FrozenEntry, type FrozenOptions, frozen } from '../frozen.ts'
import type { FloatEntry } from '../module.ts'
import {
  type BitsOf,
  type Bytes,
  type Dtype,
  halves,
  readSafetensors,
  type SafetensorsEntry,
  SafetensorsError,
  writeSafetensors,
} from '../safetensors.ts'
import {
  type Architecture,
  ConfigReader,
  checkKeys,
  type Entry,
  type EntryFile,
  entriesFor,
  type JsonObject,
  knows,
  type PackageName,
  PretrainedError,
  putTogether,
  takeApart,
} from './architecture.ts'
import { flaRows } from './fla.ts'
import { isRwkvFile, readRwkvFile, rwkvRows } from './rwkv.ts'
import { transformersRows } from './transformers.ts'

/** Every architecture. */
export const architectures: readonly Architecture[] = [...flaRows, ...transformersRows, ...rwkvRows]

export const configName = 'config.json'
export const indexName = 'model.safetensors.index.json'
export const weightsName = 'model.safetensors'
export const generationName = 'generation_config.json'

/** A model with what it takes to write its files again. */
export interface Pretrained {
  model: BlockModel
  source: PretrainedSource
  /** Worth a word, none of them an error. */
  warnings: readonly string[]
}

/** What a run of an imported model keeps of where it is from. */
export interface PretrainedSource {
  package: PackageName
  /** Its `model_type`, as config.json says it. */
  modelType: string
  /** config.json, as it was: the text, and what it says. */
  text: string
  /** Of its text part, where that is one of several. */
  config: JsonObject
  /** generation_config.json as it was, if there was one. */
  generation?: string
  /** The dtype of most of its tensors. */
  dtype: FloatName
  /** The dtypes of those tensors that have another, by name. */
  others: Readonly<Record<string, FloatName>>
  /** Tensors that it called otherwise. */
  renamed: Readonly<Record<string, string>>
  /** Rows of those that are pieces of one, where they aren't as equal as there may be. */
  cuts: Readonly<Record<string, number>>
  /** Whether it held constants beside the parameters. */
  constants: boolean
}
const floats = ['F32', 'BF16', 'F16', 'F64'] as const
export type FloatName = (typeof floats)[number]
const isFloatName = (dtype: string): dtype is FloatName => (floats as readonly string[]).includes(dtype)

/** What a file is called, and what it holds, at once or when it is asked for. */
export type NamedFiles = ReadonlyMap<string, Bytes>

/** Options of `fromPretrained`. */
export interface PretrainedOptions extends FrozenOptions {
  /** Whose model it is, where config.json leaves that open. */
  package?: PackageName
  /** Nothing of it is trained: weights of 16 bits stay so in memory. What is computed is the same, to the bit. */
  frozen?: boolean
}

const fail = (problem: string): never => {
  throw new PretrainedError(problem)
}
const textOf = (bytes: Bytes | undefined): string => new TextDecoder().decode(bytes?.subarray(0, bytes.length))
const quote = (text: string): string => printable(JSON.stringify(clip(text)))

/** A model in another package's files, of which nothing but headers and config.json has been read. */
export interface PretrainedFiles {
  config: BlockModelConfig
  /** How many numbers there are. */
  parameters: number
  /** What a parameter holds, by its name in the model: read when it is asked for. */
  entryOf(name: string): PretrainedEntry
  source: PretrainedSource
  /** Remarks about the files, a line each. */
  warnings: readonly string[]
}
/** An array of a model's files: its numbers, of 16, 32 or 64 bits. */
export type PretrainedEntry = FrozenEntry & FloatEntry

/**
 * What is in the files of a folder that another package wrote: config.json beside model.safetensors, or beside the files that
 * model.safetensors.index.json names; or RWKV's file alone. Throws a PretrainedError, or a SafetensorsError, that names file and tensor.
 */
export function openPretrained(files: NamedFiles, options: Pick<PretrainedOptions, 'package'> = {}): PretrainedFiles {
  if (!(files instanceof Map)) fail(`fromPretrained: needs a Map from the files' names to their bytes, not ${told(files)}`)
  const rwkv = [...files].find(([, bytes]) => isRwkvFile(bytes))
  const read = rwkv && readRwkvFile(...rwkv)
  const config = read?.config ?? readConfig(files.get(configName))
  const row = architectureOf(config, read ? 'rwkv' : options.package)
  const warnings = checkKeys(row, config)
  const generation = files.has(generationName) ? textOf(files.get(generationName)) : undefined
  for (const what of generationOf({ config, generation }).notDone)
    warnings.push(`${generationName}: ${what} isn't carried out here: tokens are drawn without it`)
  const tensors = read?.tensors ?? readTensors(files)
  refuseQuantised(tensors)
  const plan = planOf(row, config, tensors.size)
  const { dict, dtypes, renamed, cuts, constants, dropped, warnings: remarks } = matched(plan, tensors)
  warnings.push(...remarks)
  if (dropped.length > 0)
    warnings.push(
      `${dropped.length} tensors aren't part of the model and are left out: ${quote(dropped[0])}${dropped.length > 1 ? ', ...' : ''}`,
    )
  const parameters = plan.outline
  // Of a parameter with two names, the file has one.
  const first = new Map([...parameters].filter(([name]) => dict.has(name)).map(([name, t]) => [t, name]))
  return {
    config: plan.config,
    parameters: [...new Set(parameters.values())].reduce((n, t) => n + t.size, 0),
    entryOf: (name) => dict.get(name) ?? dict.get(first.get(parameters.get(name)!)!)!,
    source: {
      package: row.package,
      modelType: row.modelType,
      text: textOf(files.get(configName)),
      config,
      ...(generation !== undefined && { generation }),
      ...commonest(dtypes),
      renamed,
      cuts,
      constants,
    },
    warnings,
  }
}

/** The model that `openPretrained` finds, on the default device. */
export function fromPretrained(files: NamedFiles, options: PretrainedOptions = {}): Pretrained {
  checkOptions('fromPretrained', options, ['package', 'frozen', 'before', 'progress'])
  const { config, parameters, entryOf, source, warnings } = openPretrained(files, options)
  if (options.frozen) return { model: frozen(() => new BlockModel(config), entryOf, options), source, warnings }
  options.before?.(parameters, 4 * parameters)
  const model = new BlockModel(config)
  try {
    model.loadStateDict(new Map([...model.namedParameters().keys()].map((name) => [name, entryOf(name)])))
    return { model, source, warnings }
  } catch (error) {
    model.dispose()
    throw error
  }
}

/** A new model of another package's architecture, to be trained here, and what its files will say. On the default device. */
export function newPretrained(config: JsonObject, of: PackageName, seed?: number): Pretrained {
  const row = architectureOf(config, of)
  const warnings = checkKeys(row, config)
  const plan = planOf(row, config, Number.POSITIVE_INFINITY)
  const text = `${JSON.stringify(config, null, 2)}\n`
  const source = {
    package: of,
    modelType: row.modelType,
    text,
    config,
    dtype: 'F32',
    others: {},
    renamed: {},
    cuts: {},
    constants: false,
  } as const
  return { model: new BlockModel(plan.config, seed), source, warnings }
}

/** What a row makes of a config.json. */
export interface Plan {
  row: Architecture
  reader: ConfigReader
  config: BlockModelConfig
  entries: readonly Entry[]
  /** The model's parameters by name, without values. */
  outline: ReadonlyMap<string, Tensor>
}

/** `tensors`: how many the file has; each part of a layer, and each expert, has at least one. */
export function planOf(row: Architecture, given: JsonObject, tensors: number): Plan {
  const reader = new ConfigReader(given, row.keys)
  const layers = reader.integer('num_hidden_layers')
  if (layers > tensors) fail(`config.json: num_hidden_layers is ${layers}, where the weights have ${tensors} tensors`)
  const config = row.config(reader)
  const experts = config.layers.flat().reduce((n, part) => n + (part.kind === 'experts' ? (part.experts ?? 1) : 0), 0)
  if (experts > tensors) fail(`config.json: its layers have ${experts} experts together, where the weights have ${tensors} tensors`)
  try {
    return { row, reader, config, ...entriesFor(row.names(reader), config) }
  } catch (error) {
    if (error instanceof PretrainedError) throw error
    return fail(`config.json: no model can be made of it: ${printable((error as Error).message)}`)
  }
}

/** The plan of a model and the source that `fromPretrained` returned with it: throws a PretrainedError where they don't belong together. */
export function planOfSource(model: BlockModel, given: PretrainedSource): Plan {
  const source = checkSource(given)
  const row =
    architectures.find((row) => row.package === source.package && row.modelType === source.modelType) ??
    fail(`there is no architecture ${quote(source.modelType)} of ${quote(source.package)} here`)
  const parameters = model.namedParameters()
  const plan = planOf(row, source.config, parameters.size)
  const names = new Set(plan.entries.flatMap(({ own }) => own))
  for (const { own, ownShapes } of plan.entries)
    for (const [i, name] of own.entries()) {
      const shape = parameters.get(name)?.shape
      if (shape === undefined || !sameShape(shape, ownShapes[i]))
        fail(
          `the model's ${name} has shape ${shape ? show(shape) : 'none'}, where the config.json that it came with says ${show(ownShapes[i])}`,
        )
    }
  const held = new Set([...names].map((name) => parameters.get(name)))
  const stray = [...parameters].find(([, t]) => !held.has(t))
  if (stray !== undefined) fail(`the model has a parameter ${stray[0]} that the config.json that it came with doesn't have`)
  const entries = plan.entries.map((entry) => {
    const files = entry.files.map((file) => ({ ...file, shape: [source.cuts[file.name] ?? file.shape[0], ...file.shape.slice(1)] }))
    const rows = (of: readonly EntryFile[]): number => of.reduce((n, { shape }) => n + shape[0], 0)
    if (files.length === 1) return entry
    if (rows(files) !== rows(entry.files))
      fail(`the pieces of ${files[0].name} have ${rows(files)} rows together, not ${rows(entry.files)}`)
    return { ...entry, files }
  })
  return { ...plan, entries }
}

/** What a source must have: it may come from a checkpoint's metadata, and so from strangers. */
export function checkSource(source: unknown): PretrainedSource {
  const bad = (field: string, expected: string): never =>
    fail(`what is kept of where the model is from is damaged: ${field} must be ${expected}`)
  if (!isObject(source)) return bad('it', 'an object')
  for (const field of ['package', 'modelType', 'text']) if (typeof source[field] !== 'string') bad(field, 'a text')
  if (!isObject(source.config)) bad('config', 'an object')
  if (source.generation !== undefined && typeof source.generation !== 'string') bad('generation', 'a text')
  if (!isFloatName(source.dtype as string)) bad('dtype', `one of ${floats.join(', ')}`)
  if (typeof source.constants !== 'boolean') bad('constants', 'true or false')
  const all = (field: string, expected: string, test: (value: unknown) => boolean): void => {
    const value = source[field]
    if (!isObject(value) || !Object.values(value).every(test)) bad(field, expected)
  }
  all('others', 'an object of dtypes', (value) => isFloatName(value as string))
  all('renamed', 'an object of names', (value) => typeof value === 'string')
  all('cuts', 'an object of numbers of rows', (value) => Number.isSafeInteger(value) && (value as number) >= 0)
  return source as unknown as PretrainedSource
}

// --- config.json ----------------------------------------------------------------------------------------------------------------------

const isObject = (value: unknown): value is JsonObject => typeof value === 'object' && value !== null && !Array.isArray(value)

/** Models of texts and pictures, of which the part for texts has a config.json of its own inside. */
const withPictures = ['qwen3_5', 'qwen3_5_moe']

export function readConfig(bytes: Bytes | undefined): JsonObject {
  if (bytes === undefined) return fail(`there is no ${configName} beside the weights: it says what model they are of`)
  const value = parseJson(configName, bytes)
  if (!isObject(value)) return fail(`${configName} isn't an object`)
  const { model_type: type, text_config: text, tie_word_embeddings: tie } = value
  if (!(withPictures.includes(type as string) && isObject(text))) return value
  return { ...(tie !== undefined && { tie_word_embeddings: tie }), ...text }
}

/** transformers before version 5 wrote a bare Infinity, which JSON hasn't. */
function parseJson(name: string, content: Bytes | string): unknown {
  const bytes = typeof content === 'string' ? new TextEncoder().encode(content) : content.subarray(0, content.length)
  const text = textOf(bytes)
  try {
    return JSON.parse(text.replace(/([[:,]\s*)(-?Infinity)(?=\s*[,\]}])/g, '$1{"__float__": "$2"}'))
  } catch (error) {
    const kind = fileKind(bytes)
    return fail(`${name} isn't JSON: ${printable((error as Error).message)}${kind ? ` (it is ${kind.what})` : ''}`)
  }
}

/** What is said of how a model is to go on with a text. */
export interface Generation {
  /** Tokens after which there is no more of it. */
  ends: number[]
  /** What generation_config.json asks for beyond that, which `generate` doesn't do, such as 'repetition_penalty 1.1'. */
  notDone: string[]
  /** As `generate` has them, where they are said. */
  temperature?: number
  topK?: number
  topP?: number
}

/** Other keys of it that change what is drawn, with a value of each that changes nothing. */
const notDone: Readonly<Record<string, unknown>> = {
  repetition_penalty: 1,
  min_p: 0,
  top_h: 0,
  typical_p: 1,
  epsilon_cutoff: 0,
  eta_cutoff: 0,
  no_repeat_ngram_size: 0,
  min_length: 0,
  min_new_tokens: 0,
  num_beams: 1,
  penalty_alpha: 0,
  guidance_scale: 1,
  bad_words_ids: null,
  sequence_bias: null,
  suppress_tokens: null,
  begin_suppress_tokens: null,
  forced_bos_token_id: null,
  forced_eos_token_id: null,
  exponential_decay_length_penalty: null,
  watermarking_config: null,
}

/** generation_config.json speaks before config.json does. */
export function generationOf({ config, generation }: Pick<PretrainedSource, 'config' | 'generation'>): Generation {
  const given = generation === undefined ? {} : parseJson(generationName, generation)
  if (!isObject(given)) return fail(`${generationName} isn't an object`)
  const [where, end] = given.eos_token_id === undefined ? [configName, config.eos_token_id] : [generationName, given.eos_token_id]
  const ends = [end ?? []].flat()
  if (!ends.every(Number.isSafeInteger))
    fail(`${where}: eos_token_id must be the number of a token, or a list of such, not ${printable(clip(JSON.stringify(ends)))}`)
  const number = (key: string, least: number, otherwise: number): number => {
    const value = given[key] ?? otherwise
    return Number.isFinite(value) && (value as number) >= least
      ? (value as number)
      : fail(`${generationName}: ${key} must be a finite number from ${least} on, not ${printable(told(value))}`)
  }
  const others = Object.entries(given).filter(([key, value]) => Object.hasOwn(notDone, key) && ![null, notDone[key]].includes(value))
  const all = { ends: ends as number[], notDone: others.map(([key, value]) => `${key} ${printable(clip(JSON.stringify(value)))}`) }
  if (given.do_sample == null) return all
  if (given.do_sample === false) return { ...all, temperature: 0 }
  const topP = number('top_p', 0, 1)
  if (topP > 1) fail(`${generationName}: top_p must be from 0 to 1, not ${topP}`)
  return { ...all, temperature: number('temperature', 0, 1), topK: Math.floor(number('top_k', 0, 0)), topP }
}

/** What becomes of it in an export: as it was, or the tokens that config.json names. */
function generationFile({ config, generation }: PretrainedSource): string {
  if (generation !== undefined) return generation
  const named = ['bos_token_id', 'eos_token_id', 'pad_token_id'].flatMap((key) => (config[key] == null ? [] : [[key, config[key]]]))
  return `${JSON.stringify({ _from_model_config: true, ...Object.fromEntries(named) }, null, 2)}\n`
}

/** Which row a config.json is for. */
export function architectureOf(config: JsonObject, wanted?: PackageName): Architecture {
  const type = config.model_type
  const known = [...new Set(architectures.map(({ modelType }) => modelType))].sort()
  if (typeof type !== 'string') return fail(`config.json: model_type must be one of ${known.join(', ')}, not ${told(type)}`)
  const quantised = config.quantization_config as { quant_method?: string } | undefined
  if (quantised != null)
    fail(
      `config.json: quantization_config: weights quantised by ${quote(String(quantised.quant_method ?? '?'))} aren't read; give those in 16 or 32 bits`,
    )
  const rows = architectures.filter(({ modelType }) => modelType === type)
  if (rows.length === 0) {
    const near = nearest(type, known)
    fail(
      `config.json: model_type ${quote(type)} isn't known here${near === undefined ? '' : `: did you mean ${near}?`} (${known.join(', ')})`,
    )
  }
  const own = wanted === undefined ? rows : rows.filter((row) => row.package === wanted)
  if (own.length === 0) fail(`config.json: ${type} is an architecture of ${rows.map((row) => row.package).join(', ')}, not of ${wanted}`)
  if (own.length === 1) return own[0]
  const marksOf = (row: Architecture): string[] =>
    [...Object.keys(row.keys), ...row.still].filter((key) => own.every((other) => other === row || !knows(other, key)))
  const says = own.filter((row) => marksOf(row).some((key) => Object.hasOwn(config, key)))
  return says.length === 1
    ? says[0]
    : fail(
        `config.json: ${type} is an architecture of ${own.map((row) => row.package).join(' and ')}, and its keys don't say whose (${own.map((row) => `${row.package}: ${marksOf(row).join(', ')}`).join('; ')}): name the package`,
      )
}

// --- tensors --------------------------------------------------------------------------------------------------------------------------

/** The file or files of weights that are needed, of those that there are; throws where an index names what is no file beside it. */
export function weightFiles(names: readonly string[], index: Bytes | undefined): string[] {
  if (index !== undefined) return [...new Set(Object.values(weightMap(index)))]
  if (names.includes(weightsName)) return [weightsName]
  const own = names.filter((name) => name.endsWith('.safetensors') && !/^expected/.test(name))
  if (own.length === 1) return own
  const torch = names.find((name) => /\.(bin|pt|pth|ckpt)$/.test(name))
  const gguf = names.find((name) => /\.gguf$/i.test(name))
  if (gguf !== undefined && own.length === 0)
    fail(
      `${quote(gguf)} is a GGUF file, of llama.cpp, whose weights are quantised: it isn't read; give the safetensors files from which it was made`,
    )
  return fail(
    own.length > 1
      ? `there are ${own.length} files of weights and no ${indexName} that says what is where`
      : `there is no ${weightsName}${torch === undefined ? '' : `; ${quote(torch)} may hold its weights as a Python pickle, which isn't read: write safetensors with save_pretrained`}`,
  )
}

function weightMap(bytes: Bytes): Record<string, string> {
  const content = parseJson(indexName, bytes) as { weight_map?: unknown } | null
  const map = content?.weight_map
  if (typeof map !== 'object' || map === null || Array.isArray(map)) return fail(`${indexName} has no weight_map`)
  for (const [tensor, file] of Object.entries(map))
    if (typeof file !== 'string' || !/^[^/\\:]+$/.test(file) || /^\.+$/.test(file))
      fail(`${indexName}: the file of ${quote(tensor)} is ${printable(told(file))}: it must be the name of a file in the same folder`)
  return map as Record<string, string>
}

/** Of one file, or of those that an index names: each tensor once, where the index says. */
function readTensors(files: NamedFiles): Map<string, SafetensorsEntry> {
  const index = files.get(indexName)
  const wanted = weightFiles([...files.keys()], index)
  const map = index && weightMap(index)
  const all = new Map<string, SafetensorsEntry>()
  const where = new Map<string, string>()
  for (const file of wanted) {
    const bytes = files.get(file)
    if (bytes === undefined) return fail(`${indexName} names ${quote(file)}, which isn't there`)
    for (const [name, entry] of readFile(file, bytes)) {
      if (where.has(name)) fail(`the tensor ${quote(name)} is in ${where.get(name)} and in ${file}`)
      if (map && map[name] !== file)
        fail(
          `${file}: ${indexName} says of the tensor ${quote(name)} ${map[name] === undefined ? 'nothing' : `that it is in ${map[name]}`}`,
        )
      where.set(name, file)
      all.set(name, entry)
    }
  }
  for (const [name, file] of Object.entries(map ?? {}))
    if (!all.has(name)) fail(`${file} lacks the tensor ${quote(name)}, which ${indexName} says is there`)
  return all
}

function readFile(file: string, bytes: Bytes): Map<string, SafetensorsEntry> {
  try {
    return readSafetensors(bytes).tensors
  } catch (error) {
    throw error instanceof SafetensorsError ? new PretrainedError(`${printable(file)}: ${error.message}`) : error
  }
}

/** What tells of weights in fewer bits, where config.json doesn't. */
const quantised: readonly (readonly [name: RegExp, how: string])[] = [
  [/\.(qweight|qzeros)$/, 'GPTQ or AWQ'],
  [/\.weight_scale(_inv)?$/, 'FP8'],
  [/\.(absmax|quant_state\..*)$/, 'bitsandbytes'],
]

function refuseQuantised(tensors: ReadonlyMap<string, SafetensorsEntry>): void {
  for (const [name, { dtype }] of tensors) {
    const how = /^F[468]/.test(dtype) && !/^F64/.test(dtype) ? dtype.replace('F8', 'FP8') : quantised.find(([form]) => form.test(name))?.[1]
    if (how !== undefined)
      fail(`the tensor ${quote(name)} is of weights quantised as ${how}, which aren't read; give those in 16 or 32 bits`)
  }
}

/** How near a file's constants must be to what they should be, relative to the larger of 1 and that: what rounding to the dtype adds to float32's own error. */
const bufferTolerance: Readonly<Record<FloatName, number>> = { F64: 1e-5, F32: 1e-5, F16: 1e-5 + 2 ** -11, BF16: 1e-5 + 2 ** -8 }

/** The tensors of a file as a state dict: nothing missing, nothing left over. */
function matched({ row, reader, config, entries }: Plan, tensors: ReadonlyMap<string, SafetensorsEntry>) {
  const left = new Set(tensors.keys())
  const dict = new Map<string, PretrainedEntry>()
  const dtypes = new Map<string, FloatName>()
  const renamed: Record<string, string> = {}
  const cuts: Record<string, number> = {}
  const warnings: string[] = []
  let constants = false
  const present = (name: string, also: readonly string[]): string | undefined => [name, ...also].find((each) => tensors.has(each))
  const take = ({ name, also, shape }: EntryFile): FloatEntry => {
    const actual = present(name, also) ?? fail(`the weights lack the tensor ${name} ${show(shape)} of a ${row.modelType}`)
    const found = tensors.get(actual)!
    left.delete(actual)
    if (actual !== name) renamed[name] = actual
    if (!sameShape(found.shape, shape)) fail(`the tensor ${actual} has shape ${show(found.shape)}, where config.json says ${show(shape)}`)
    if (!isFloatName(found.dtype))
      fail(`the tensor ${actual} is ${found.dtype}: weights in ${floats.join(', ')} are read, quantised ones aren't`)
    dtypes.set(name, found.dtype as FloatName)
    return found as FloatEntry
  }
  for (const entry of entries) {
    const rows = rowsIn(entry.files, ({ name, also }) => tensors.get(present(name, also) ?? '')?.shape)
    const files = entry.files.map((file, i) => ({ ...file, shape: rows ? [rows[i], ...file.shape.slice(1)] : file.shape }))
    for (const [i, { name, shape }] of files.entries()) if (shape[0] !== entry.files[i].shape[0]) cuts[name] = shape[0]
    const pieces = files.map(take)
    const dtype = pieces.every((piece) => piece.dtype === pieces[0].dtype)
      ? pieces[0].dtype
      : pieces.some((piece) => piece.dtype === 'F64')
        ? 'F64'
        : 'F32'
    const half = dtype === 'F16' || dtype === 'BF16' ? halves[dtype] : undefined
    const bits = half && bitsIn(entry, pieces)
    for (const [i, name] of entry.own.entries())
      dict.set(name, {
        dtype,
        shape: [...entry.ownShapes[i]],
        // When they are asked for: a file may be read piece by piece.
        get data() {
          if (half) return widened(bits![i](0, sizeOf(entry.ownShapes[i])), half)
          return takeApart(entry, joined(pieces.map(({ data }) => data))).get(name)!
        },
        ...(half && { half: { dtype: half, bits: bits![i] } }),
      } as PretrainedEntry)
  }
  for (const { file, shape, value } of row.buffers?.(reader) ?? []) {
    if (!tensors.has(file)) continue
    constants = true
    const { data } = take({ name: file, also: [], shape })
    const tolerance = bufferTolerance[dtypes.get(file)!]
    const bad = Array.from(data).findIndex((x, i) => !(Math.abs(x - value(i)) <= tolerance * Math.max(1, Math.abs(value(i)))))
    if (bad >= 0) fail(`the constant ${file} holds ${data[bad]} at ${bad}, where config.json says ${value(bad)}`)
  }
  if (config.tie)
    for (const name of [...left].filter((each) => headNames.includes(each))) {
      const [entry] = entries.filter(({ own }) => own.includes('embedding.weight'))
      const [{ name: first, also }] = entry.files
      if (!sameTensor(tensors.get(name)!, tensors.get(present(first, also)!)!))
        fail(`the tensor ${name} isn't the embedding's, where config.json says that they are one (tie_word_embeddings)`)
      left.delete(name)
      warnings.push(`the tensor ${name} is the embedding once more (tie_word_embeddings): it is left out`)
    }
  const dropped = [...left].filter((name) => row.dropped?.test(name))
  for (const name of dropped) left.delete(name)
  if (left.size > 0) {
    const [first] = left
    fail(
      `the weights have a tensor ${quote(first)} that a ${row.modelType} of this config.json hasn't${left.size > 1 ? `, and ${left.size - 1} more` : ''}`,
    )
  }
  return { dict, dtypes, renamed, cuts, constants, dropped, warnings }
}

/** The bits of each of an entry's parameters, read from where they stand in the file, or in several: rows that lie together at a time, and no more than are asked for. */
function bitsIn({ ownShapes, rows }: Entry, pieces: readonly FloatEntry[]): BitsOf[] {
  const sizes = ownShapes.map(sizeOf)
  const starts = sizes.map((_, i) => sizes.slice(0, i).reduce((n, size) => n + size, 0))
  if (pieces.length === 1 && !rows) return starts.map((start) => (begin, end, into) => pieces[0].bits!(start + begin, start + end, into))
  const read = (begin: number, into: Uint16Array): void => {
    let first = 0
    for (const { bits, shape } of pieces) {
      const [from, to] = [Math.max(begin, first), Math.min(begin + into.length, first + sizeOf(shape))]
      if (from < to) {
        const place = into.subarray(from - begin, to - begin)
        const found = bits!(from - first, to - first, place)
        if (found.buffer !== place.buffer) place.set(found)
      }
      first += sizeOf(shape)
    }
  }
  const width = rows ? sizeOf(ownShapes[0].slice(1)) : starts.at(-1)! + sizes.at(-1)!
  const rowAt = rows ?? ((row) => row)
  return starts.map((start) => (begin, end, into = new Uint16Array(end - begin)) => {
    for (let at = start + begin; at < start + end; ) {
      const row = Math.floor(at / width)
      let next = row + 1
      while (next * width < start + end && rowAt(next) === rowAt(next - 1) + 1) next++
      const stop = Math.min(next * width, start + end)
      read((rowAt(row) - row) * width + at, into.subarray(at - start - begin, stop - start - begin))
      at = stop
    }
    return into.subarray(0, end - begin)
  })
}

/** Numbers, one piece after the other. */
function joined<A extends Float32Array | Float64Array>(pieces: readonly A[]): A {
  const [first] = pieces
  if (pieces.length === 1) return first
  const size = pieces.reduce((n, { length }) => n + length, 0)
  const all = pieces.every((piece) => piece.constructor === first.constructor)
    ? new (first.constructor as new (n: number) => A)(size)
    : (new Float64Array(size) as A)
  let at = 0
  for (const piece of pieces) {
    all.set(piece, at)
    at += piece.length
  }
  return all
}

/** Names of the matrix that gives the logits. A model of which it is the embedding has none, but files may. */
const headNames = ['lm_head.weight', 'head.weight']

function sameTensor(a: SafetensorsEntry, b: SafetensorsEntry): boolean {
  const [x, y] = [a.data as Float32Array, b.data as Float32Array]
  return sameShape(a.shape, b.shape) && x.every((value, i) => Object.is(value, y[i]))
}

/** The rows of tensors that are pieces of one, if a file has cut it where it likes; undefined where there is one tensor, or these aren't such pieces. */
function rowsIn(files: readonly EntryFile[], shapeOf: (file: EntryFile) => readonly number[] | undefined): number[] | undefined {
  const whole = files.reduce((n, { shape }) => n + (shape[0] ?? 0), 0)
  const rows = files.map((file) => {
    const given = shapeOf(file)
    return given !== undefined && sameShape(given.slice(1), file.shape.slice(1)) ? (given[0] ?? 0) : Number.NaN
  })
  return files.length > 1 && rows.reduce((n, own) => n + own, 0) === whole ? rows : undefined
}

function commonest(dtypes: ReadonlyMap<string, FloatName>): Pick<PretrainedSource, 'dtype' | 'others'> {
  const counts = floats.map((dtype) => [dtype, [...dtypes.values()].filter((own) => own === dtype).length] as const)
  const [dtype] = counts.reduce((best, next) => (next[1] > best[1] ? next : best))
  return { dtype, others: Object.fromEntries([...dtypes].filter(([, own]) => own !== dtype)) }
}

// --- back -----------------------------------------------------------------------------------------------------------------------------

/** Numbers in a constant of a file: with 256 tokens a block MiniMax's have four million. */
const mostConstant = 2 ** 26

/**
 * The files of a model as its package writes them: the same names, shapes and dtypes as those that it was made from, and config.json and
 * generation_config.json as they were.
 */
export async function toPretrained(model: BlockModel, source: PretrainedSource): Promise<Map<string, Uint8Array>> {
  if (source.package === 'rwkv') fail("RWKV's own files are read and aren't written here: export has no format for this model")
  const { row, reader, entries } = planOfSource(model, source)
  const dict = await model.stateDict()
  const tensors: [string, SafetensorsEntry][] = []
  /** `numbers` are asked for when they are written. */
  const write = (name: string, shape: Shape, numbers: () => Float64Array): void => {
    const dtype = (source.others[name] ?? source.dtype) as Dtype
    const entry = {
      dtype,
      shape: [...shape],
      get data() {
        return dtype === 'F64' ? numbers() : Float32Array.from(numbers())
      },
    }
    tensors.push([source.renamed[name] ?? name, entry as SafetensorsEntry])
  }
  for (const entry of entries)
    for (const [i, { name, shape }] of entry.files.entries()) write(name, shape, () => putTogether(entry, (own) => dict.get(own)!.data)[i])
  for (const { file, shape, value } of (source.constants && row.buffers?.(reader)) || []) {
    if (sizeOf(shape) > mostConstant) fail(`config.json: the constant ${file} ${show(shape)} is larger than those that are written here`)
    write(file, shape, () => Float64Array.from({ length: sizeOf(shape) }, (_, i) => value(i)))
  }
  return new Map([
    [configName, new TextEncoder().encode(source.text)],
    [generationName, new TextEncoder().encode(generationFile(source))],
    [weightsName, writeSafetensors(tensors)],
  ])
}
