/**
 * RWKV's models in the files of its C++ programs (`.bin`): RWKV-4, -5 and -7. A file has no config.json: sizes stand in its header and in the shapes of its tensors.
 *
 *   int32 magic, version, vocabulary, width, layers, type | for each tensor: int32 axes, length of the name, type | its sizes, the last axis first | name | numbers
 *
 * All integers are little-endian; types are 0 for float32 and 1 for float16.
 */
import { show, sizeOf } from '../../engine/shape.ts'
import type { NormChoice, PartChoice } from '../block-model.ts'
import { clip, printable } from '../foreign.ts'
import { type Bytes, entryOf, partOf, type SafetensorsEntry } from '../safetensors.ts'
import {
  type Architecture,
  type ConfigReader,
  type JsonObject,
  leading,
  type Name,
  PretrainedError,
  stacked,
  within,
} from './architecture.ts'

const magic = 0x67676d66
const fileVersions = [100, 101]

export function isRwkvFile(bytes: Bytes): boolean {
  if (bytes.length < 4) return false
  const start = bytes.subarray(0, 4)
  return new DataView(start.buffer, start.byteOffset, 4).getUint32(0, true) === magic
}

// --- the file -------------------------------------------------------------------------------------------------------------------------

const dtypes = ['F32', 'F16'] as const
/** No tensor of a model has more axes, and no name more bytes. */
const [mostAxes, longestName] = [8, 1000]

export interface RwkvFile {
  /** What a config.json would say. */
  config: JsonObject
  tensors: Map<string, SafetensorsEntry>
}

export function readRwkvFile(file: string, given: Bytes): RwkvFile {
  const bytes = given.subarray(0, given.length)
  const fail = (problem: string): never => {
    throw new PretrainedError(`${printable(file)}: ${problem}`)
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let at = 0
  const need = (n: number, what: string): void => {
    if (at + n > bytes.length) fail(`${what} would end at ${at + n}, past the file's ${bytes.length} bytes (truncated?)`)
  }
  const integer = (what: string): number => {
    need(4, what)
    at += 4
    return view.getInt32(at - 4, true)
  }
  const [, version, symbols, dModel, layers] = ['the header', 'the header', 'the header', 'the header', 'the header', 'the header'].map(
    integer,
  )
  if (!fileVersions.includes(version)) fail(`a file of version ${version}; ${fileVersions.join(' and ')} are read`)
  for (const [what, n] of Object.entries({ symbols, width: dModel, layers })) if (n < 1) fail(`its header says ${n} for the ${what}`)
  const tensors = new Map<string, SafetensorsEntry>()
  while (at < bytes.length) {
    const after = tensors.size === 0 ? 'the first tensor' : `the tensor after ${[...tensors.keys()].at(-1)}`
    const [axes, length, type] = [after, after, after].map(integer)
    if (!(axes >= 0 && axes <= mostAxes && length > 0 && length <= longestName))
      fail(`${after} has ${axes} axes and a name of ${length} bytes: the file is damaged`)
    if (dtypes[type] === undefined) fail(`${after} is of type ${type}: 0 (float32) and 1 (float16) are read, quantised ones aren't`)
    const shape = Array.from({ length: axes }, () => integer(after)).reverse()
    if (shape.some((d) => d < 1)) fail(`${after} has shape ${show(shape)}`)
    need(length, after)
    const name = printable(new TextDecoder().decode(bytes.subarray(at, at + length)))
    at += length
    const size = sizeOf(shape) * (type === 0 ? 4 : 2)
    need(size, `the tensor ${name} ${show(shape)}`)
    if (tensors.has(name)) fail(`the tensor ${name} is there twice`)
    const dtype = dtypes[type]
    tensors.set(name, entryOf(dtype, shape, partOf(bytes, at, at + size), true))
    at += size
  }
  return { config: configOf(file, { vocab_size: symbols, hidden_size: dModel, num_hidden_layers: layers }, tensors), tensors }
}

/** What tensors are there says which version it is, and their shapes what the header leaves out. */
function configOf(file: string, sizes: JsonObject, tensors: ReadonlyMap<string, SafetensorsEntry>): JsonObject {
  const rows = (name: string, axis = 0): number => {
    const shape = tensors.get(name)?.shape
    if (shape?.[axis] === undefined)
      throw new PretrainedError(
        `${printable(file)}: it lacks the tensor ${clip(name)}, or that has too few axes${shape ? ` (${show(shape)})` : ''}`,
      )
    return shape[axis]
  }
  const inner = rows('blocks.0.ffn.key.weight')
  const first = 'blocks.0.att.'
  if (tensors.has(`${first}x_rwkvag`))
    return {
      model_type: 'rwkv-7',
      ...sizes,
      intermediate_size: inner,
      num_heads: rows(`${first}r_k`),
      decay_rank: rows(`${first}w1`),
      rate_rank: rows(`${first}a1`),
      gate_rank: rows(`${first}g1`),
      value_rank: sizes.num_hidden_layers === 1 ? 1 : rows('blocks.1.att.v1'),
    }
  if (tensors.has(`${first}time_maa_x`)) throw new PretrainedError(`${printable(file)}: RWKV-6 isn't read; RWKV-4, -5 and -7 are`)
  if (tensors.has(`${first}time_faaaa`) && tensors.has(`${first}gate.weight`))
    return { model_type: 'rwkv-5', ...sizes, intermediate_size: inner, num_heads: rows(`${first}time_decay`) }
  if (tensors.has(`${first}time_first`) && !tensors.has(`${first}ln_x.weight`))
    return { model_type: 'rwkv-4', ...sizes, intermediate_size: inner }
  throw new PretrainedError(`${printable(file)}: no version of RWKV that is read here (4, 5.2 and 7) has these tensors`)
}

// --- rows -----------------------------------------------------------------------------------------------------------------------------

const norm: NormChoice = { kind: 'layer', eps: 1e-5 }
/** [D] as [H,N,1]. */
const headed = (heads: number) => ({ shape: ([[D]]: readonly (readonly number[])[]) => [heads, D / heads, 1] })

const row = (
  version: 4 | 5 | 7,
  keys: readonly string[],
  time: (c: ConfigReader) => Partial<Extract<PartChoice, { kind: 'rwkv' }>>,
  names: (c: ConfigReader) => readonly Name[],
): Architecture => ({
  package: 'rwkv',
  modelType: `rwkv-${version}`,
  keys: Object.fromEntries(['vocab_size', 'hidden_size', 'num_hidden_layers', 'intermediate_size', ...keys].map((key) => [key, null])),
  still: [],
  config: (c) => ({
    symbols: c.integer('vocab_size'),
    dModel: c.integer('hidden_size'),
    embeddingNorm: norm,
    layers: Array.from({ length: c.integer('num_hidden_layers') }, (): PartChoice[] => [
      { kind: 'rwkv', version, norm, ...time(c) },
      { kind: 'rwkv-channels', version, norm, inner: c.integer('intermediate_size') },
    ]),
    norm,
    tie: false,
  }),
  names: (c) => [
    ['emb.weight', 'embedding.weight'],
    ...bothOf('blocks.0.ln0', 'embedding_norm'),
    ...bothOf('blocks.#.ln1', 'layers.#.parts.0.norm'),
    ...bothOf('blocks.#.ln2', 'layers.#.parts.1.norm'),
    ...within('blocks.#.att.', 'layers.#.parts.0.layer.', [
      ...['receptance', 'key', 'value', 'output', 'gate'].map((name): Name => [`${name}.weight`, `${name}.weight`]),
      ['ln_x.weight', 'gain'],
      ['ln_x.bias', 'bias'],
      ...names(c),
    ]),
    ...within('blocks.#.ffn.', 'layers.#.parts.1.layer.', [
      ...['receptance', 'key', 'value'].map((name): Name => [`${name}.weight`, `${name}.weight`]),
      ...(version === 7 ? [['x_k', 'mix.k', leading] as const] : mixes(['k', 'r'])),
    ]),
    ...bothOf('ln_out', 'norm'),
    ['head.weight', 'head.weight'],
  ],
  states: () => [],
})

const bothOf = (file: string, own: string): Name[] => [
  [`${file}.weight`, `${own}.weight`],
  [`${file}.bias`, `${own}.bias`],
]
const mixes = (of: readonly string[]): Name[] => of.map((name) => [`time_mix_${name}`, `mix.${name}`])

export const rwkvRows: readonly Architecture[] = [
  row(
    4,
    [],
    () => ({ heads: 1, decays: 'log' }),
    () => [['time_decay', 'decay'], ['time_first', 'bonus'], ...mixes(['k', 'v', 'r'])],
  ),
  row(
    5,
    ['num_heads'],
    (c) => ({ heads: c.integer('num_heads'), decays: 'factor', normEps: 1e-5 }),
    (c) => [
      ['time_decay', 'decay', headed(c.integer('num_heads'))],
      ['time_faaaa', 'bonus', headed(c.integer('num_heads'))],
      ...mixes(['k', 'v', 'r', 'g']),
    ],
  ),
  row(
    7,
    ['num_heads', 'decay_rank', 'rate_rank', 'gate_rank', 'value_rank'],
    (c) => ({
      heads: c.integer('num_heads'),
      normEps: 64e-5,
      decayRank: c.integer('decay_rank'),
      rateRank: c.integer('rate_rank'),
      gateRank: c.integer('gate_rank'),
      valueRank: c.integer('value_rank'),
    }),
    () => [
      ['x_rwkvag', ['r', 'w', 'k', 'v', 'a', 'g'].map((name) => `mix.${name}`), stacked(1)],
      ...Object.entries({ w: 'decay', a: 'rate', v: 'value', g: 'gate' }).flatMap(([of, own]): Name[] => [
        [`${of}1`, `${own}_lora.down.weight`],
        [`${of}2`, `${own}_lora.up.weight`],
        [`${of}0`, `${own}_lora.up.bias`, leading],
      ]),
      ['k_k', 'kappa', leading],
      ['k_a', 'rate', leading],
      ['r_k', 'own'],
    ],
  ),
]
