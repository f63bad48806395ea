/**
 * What an architecture of another package is: a row of a table (fla.ts, ...). It says how config.json becomes the configuration of a `BlockModel`, and which
 * tensors of the file stand for which parameters. Nothing in a row computes: used forwards it reads a file, backwards it writes the same one.
 */
import { told } from '../../engine/arguments.ts'
import { type Shape, sizeOf } from '../../engine/shape.ts'
import type { Tensor } from '../../engine/tensor.ts'
import { BlockModel, type BlockModelConfig } from '../block-model.ts'
import { clip, nearest, printable } from '../foreign.ts'
import { outlineOf } from '../module.ts'
import type { Arrangement } from './states.ts'

/** Its message is one line for whoever gave the files. */
export class PretrainedError extends Error {
  override name = 'PretrainedError'
}

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json }
/** A JSON object, such as a config.json is. */
export type JsonObject = { readonly [key: string]: Json }

/** The packages whose model files are read and written. */
export type PackageName = 'fla' | 'transformers' | 'rwkv'

/** Where a row of the parameters, counted from the first one's first, stands among those of the file; a row is all that lies behind the first axis. */
export type Rows = (row: number) => number

/**
 * How a tensor of the file lies beside the parameters that it holds: the file's shape, from theirs, and, where its rows stand in another order than those of the
 * parameters one after the other, where each of these is.
 */
export interface Form {
  shape(own: readonly Shape[]): Shape
  rows?(own: readonly Shape[]): Rows
}
/**
 * A name of the file, the parameter or parameters in it, and how they lie. `#` stands for a layer's number, and `A|B` for A that other files call B. Several
 * names of the file share what would lie there under one: cut along the first axis, where a file likes, and usually into as equal pieces as there may be, the last
 * one the smallest.
 */
export type Name = readonly [file: string | readonly string[], own: string | readonly string[], form?: Form]

/**
 * A state or a cache in files of figures: its name there, the parts of a layer's state that it is made of (the number of the layer's part among those that have a
 * state, and the name in that), and how they lie (states.ts).
 */
export interface StateName {
  file: string
  from: readonly (readonly [part: number, name: string])[]
  axes: Arrangement
}

/** A tensor that isn't learned, and follows from the configuration. */
export interface Buffer {
  file: string
  shape: Shape
  value(i: number): number
}

export interface Architecture {
  package: PackageName
  modelType: string
  /** Keys that change what the model computes, or the names of its tensors, with the package's defaults. */
  keys: JsonObject
  /** Keys that change neither. */
  still: readonly string[]
  config(c: ConfigReader): BlockModelConfig
  names(c: ConfigReader): readonly Name[]
  states(c: ConfigReader): readonly StateName[]
  /** Tensors that files may have and that the model doesn't need. */
  dropped?: RegExp
  /** Constants that a file has beside the parameters: what they hold, to so much. */
  buffers?(c: ConfigReader): readonly Buffer[]
  /** Names of files of figures that can't be compared, and why. */
  notCompared?: Readonly<Record<string, string>>
}

// --- config.json ----------------------------------------------------------------------------------------------------------------------

/** Keys of every config.json, which say nothing of what is computed. */
const everywhere = [
  'architectures',
  'model_type',
  'auto_map',
  'bos_token_id',
  'eos_token_id',
  'dtype',
  'torch_dtype',
  'transformers_version',
  'initializer_range',
  'use_cache',
  'max_position_embeddings',
  'output_attentions',
  'output_hidden_states',
  'output_scores',
  'return_dict',
  'return_dict_in_generate',
  'sep_token_id',
  'decoder_start_token_id',
  'tokenizer_class',
  'prefix',
  'name_or_path',
  'use_bfloat16',
  'torchscript',
  'chunk_size_feed_forward',
  'is_encoder_decoder',
  'is_decoder',
  'task_specific_params',
  'problem_type',
  'finetuning_task',
  'id2label',
  'label2id',
  'num_labels',
  // What only training draws.
  'attention_dropout',
  'attn_dropout',
  'hidden_dropout',
  'hidden_dropout_prob',
  'attention_probs_dropout_prob',
  'resid_dropout',
  'embd_dropout',
  'dropout',
  // How tokens are chosen, once there are logits.
  'do_sample',
  'temperature',
  'top_k',
  'top_p',
  'typical_p',
  'min_length',
  'max_length',
  'max_new_tokens',
  'num_beams',
  'num_beam_groups',
  'num_return_sequences',
  'diversity_penalty',
  'length_penalty',
  'repetition_penalty',
  'encoder_no_repeat_ngram_size',
  'no_repeat_ngram_size',
  'early_stopping',
  'bad_words_ids',
  'suppress_tokens',
  'begin_suppress_tokens',
  'exponential_decay_length_penalty',
  'forced_bos_token_id',
  'forced_eos_token_id',
  'remove_invalid_values',
]

/** Values of a config.json, checked; what it leaves out is the package's default. */
export class ConfigReader {
  readonly given: JsonObject
  private readonly defaults: JsonObject

  constructor(given: JsonObject, defaults: JsonObject) {
    this.given = given
    this.defaults = defaults
  }

  get(key: string): Json {
    return this.given[key] ?? (Object.hasOwn(this.given, key) ? null : (this.defaults[key] ?? null))
  }

  private fail(key: string, expected: string): never {
    throw new PretrainedError(`config.json: ${key} must be ${expected}, not ${tell(this.get(key))}`)
  }

  /** Positive. */
  integer(key: string): number {
    const value = this.get(key)
    return typeof value === 'number' && Number.isSafeInteger(value) && value > 0 ? value : this.fail(key, 'a positive integer')
  }

  /** Null where it is null, or left out and so by default. */
  maybeInteger(key: string): number | null {
    return this.get(key) === null ? null : this.integer(key)
  }

  maybeToken(key: string): number | null {
    const value = this.get(key)
    if (value === null || (typeof value === 'number' && Number.isInteger(value))) return value
    return this.fail(key, 'the number of a token, or null')
  }

  /** As JSON can't say it, transformers writes an infinite one as an object. */
  number(key: string, value = this.get(key)): number {
    const special = (value as { __float__?: string } | null)?.__float__
    if (special === 'Infinity' || special === '-Infinity') return Number(special)
    return typeof value === 'number' && Number.isFinite(value) ? value : this.fail(key, 'a number')
  }

  maybeNumber(key: string): number | null {
    return this.get(key) === null ? null : this.number(key)
  }

  flag(key: string): boolean {
    const value = this.get(key)
    return typeof value === 'boolean' ? value : this.fail(key, 'true or false')
  }

  /** One of the words of a table: what stands for it there. */
  choice<T>(key: string, choices: Readonly<Record<string, T>>): T {
    const value = this.get(key)
    return typeof value === 'string' && Object.hasOwn(choices, value)
      ? choices[value]
      : this.fail(key, `one of ${Object.keys(choices).join(', ')}`)
  }

  /** A product that has to be a whole number, such as hidden_size * expand_k over num_heads. */
  whole(what: string, value: number): number {
    if (Number.isSafeInteger(value) && value > 0) return value
    throw new PretrainedError(`config.json: ${what} is ${value}, which is no positive integer`)
  }

  list(key: string): readonly Json[] | null {
    const value = this.get(key)
    return value === null || Array.isArray(value) ? value : this.fail(key, 'a list')
  }
}

const tell = (value: Json): string =>
  typeof value === 'object' && value !== null ? clip(printable(JSON.stringify(value)), 40) : printable(told(value))

/** Whether a row reads this key, or knows that it changes nothing. */
export const knows = ({ keys, still }: Architecture, key: string): boolean => Object.hasOwn(keys, key) || still.includes(key)

/** Of keys that no row knows: what may be in the way of the right numbers, and what is only worth a word. */
export function checkKeys({ keys, still, modelType }: Architecture, given: JsonObject): string[] {
  const known = new Set([...Object.keys(keys), ...still, ...everywhere])
  const unknown = Object.entries(given).filter(([key]) => !known.has(key))
  // What is off, or has no value, adds nothing to what is computed without it; nor does an empty list of heads that are cut out.
  const silent = (key: string, value: Json): boolean =>
    value === null || value === false || key.startsWith('_') || (key === 'pruned_heads' && ['{}', '[]'].includes(JSON.stringify(value)))
  const speaks = unknown.find(([key, value]) => !silent(key, value))
  if (speaks !== undefined) {
    const [key, value] = speaks
    const near = nearest(key, [...known])
    const advice = near === undefined ? 'take it out if it changes nothing' : `did you mean ${near}?`
    throw new PretrainedError(
      `config.json: ${printable(clip(key))} is ${tell(value)}: no key of ${modelType} that is known here, and it may change what the model computes; ${advice}`,
    )
  }
  return unknown.map(([key]) => `config.json: ${printable(clip(key))} isn't known here; it is off, and kept as it is`)
}

// --- names ----------------------------------------------------------------------------------------------------------------------------

/** A tensor of the file, or several that are pieces of one, and the parameters that they hold. */
export interface Entry {
  files: readonly EntryFile[]
  own: readonly string[]
  ownShapes: readonly Shape[]
  rows?: Rows
}
export interface EntryFile {
  name: string
  /** What other files call it. */
  also: readonly string[]
  shape: Shape
}

const same: Form = { shape: ([own]) => own }
/** [C,W] as [C,1,W], of a depthwise convolution. */
export const taps: Form = { shape: ([[C, W]]) => [C, 1, W] }
/** All numbers in one row. */
export const flat: Form = { shape: ([own]) => [sizeOf(own)] }
/** [D] as [1,1,D]. */
export const leading: Form = { shape: ([[D]]) => [1, 1, D] }
/** Parameters of one shape, one after the other along a new first axis, in a shape of its own behind it. */
export const stacked = (...shape: number[]): Form => ({ shape: (own) => [own.length, ...shape, ...own[0]] })
const rowsOf = (own: readonly Shape[]): number => own.reduce((n, [rows]) => n + rows, 0)
/** Parameters one after the other along their first axis. */
export const joined: Form = { shape: (own) => [rowsOf(own), ...own[0].slice(1)] }
/** [C,W] of several, one after the other, as [sum of C,1,W]. */
export const joinedTaps: Form = { shape: (own) => [rowsOf(own), 1, own[0][1]] }
/** Parameters each cut into so many groups of rows: first the first groups of all, then the second ones. */
export const interleaved = (groups: number): Form => ({
  ...joined,
  rows(own) {
    const all = rowsOf(own) / groups
    return (row) => {
      let i = 0
      let before = 0
      let at = row
      for (; at >= own[i][0]; i++) {
        at -= own[i][0]
        before += own[i][0] / groups
      }
      const size = own[i][0] / groups
      return Math.floor(at / size) * all + before + (at % size)
    }
  },
})
/** A shape of its own, the numbers in their order. */
export const shaped = (...shape: number[]): Form => ({ shape: () => shape })

/** What stands before the names on both sides. */
export function within(file: string, own: string, names: readonly Name[]): Name[] {
  const before = (text: string, name: string | readonly string[]): string | string[] =>
    typeof name === 'string'
      ? name
          .split('|')
          .map((each) => text + each)
          .join('|')
      : name.map((each) => text + each)
  return names.map(([theirs, ours, form]) => [before(file, theirs), before(own, ours), form])
}

/** Every tensor that a file of this model has, and the model's parameters, without values. A name whose parameters it lacks is left out; a parameter that no name stands for is an error of the row. */
export function entriesFor(names: readonly Name[], config: BlockModelConfig): { entries: Entry[]; outline: ReadonlyMap<string, Tensor> } {
  const outline = outlineOf(() => new BlockModel(config))
  const entries: Entry[] = []
  const held = new Set<unknown>()
  const numbered = (text: string, layer: number): string => text.replace('#', `${layer}`)
  for (const [file, own, form = same] of names) {
    const pieces = typeof file === 'string' ? [file] : file
    for (let layer = 0; layer < (pieces[0].includes('#') ? config.layers.length : 1); layer++) {
      const parts = (typeof own === 'string' ? [own] : own).map((name) => numbered(name, layer))
      const tensors = parts.map((name) => outline.get(name))
      if (tensors.some((t) => t === undefined)) continue
      const ownShapes = tensors.map((t) => t!.shape)
      for (const t of tensors) held.add(t)
      const shapes = cut(form.shape(ownShapes), pieces.length)
      const files = pieces.map((piece, i) => {
        const [name, ...also] = piece.split('|').map((each) => numbered(each, layer))
        return { name, also, shape: shapes[i] }
      })
      entries.push({ files, own: parts, ownShapes, rows: form.rows?.(ownShapes) })
    }
  }
  for (const [name, t] of outline) if (!held.has(t)) throw new Error(`no name in the file stands for the parameter ${name}`)
  return { entries, outline }
}

/** The shapes of n pieces along the first axis. */
function cut([rows, ...rest]: Shape, n: number): Shape[] {
  if (n === 1) return [[rows, ...rest].filter((d) => d !== undefined)]
  const most = Math.ceil(rows / n)
  return Array.from({ length: n }, (_, i) => [Math.min(most, rows - i * most), ...rest])
}

/** Where each row begins among the numbers of the parameters, and where it begins and ends among those of the file. */
function eachRow(own: readonly Shape[], rows: Rows, f: (at: number, place: number, end: number) => void): void {
  const width = sizeOf(own[0].slice(1))
  for (let row = 0; row < rowsOf(own); row++) f(row * width, rows(row) * width, (rows(row) + 1) * width)
}

/** The numbers of the file as those of the parameters. */
export function takeApart<A extends Float32Array | Float64Array>({ own, ownShapes, rows }: Entry, data: A): Map<string, A> {
  const all = rows ? new (data.constructor as new (n: number) => A)(data.length) : data
  if (rows) eachRow(ownShapes, rows, (at, place, end) => all.set(data.subarray(place, end), at))
  let begin = 0
  return new Map(own.map((name, i) => [name, all.subarray(begin, (begin += sizeOf(ownShapes[i]))) as A]))
}

/** The other way, piece by piece. */
export function putTogether({ files, own, ownShapes, rows }: Entry, of: (name: string) => ArrayLike<number>): Float64Array[] {
  const all = new Float64Array(ownShapes.reduce((n, shape) => n + sizeOf(shape), 0))
  let begin = 0
  for (const name of own) {
    const part = of(name)
    all.set(part, begin)
    begin += part.length
  }
  const data = rows ? new Float64Array(all.length) : all
  if (rows) eachRow(ownShapes, rows, (at, place, end) => data.set(all.subarray(at, at + end - place), place))
  begin = 0
  return files.map(({ shape }) => data.subarray(begin, (begin += sizeOf(shape))))
}
