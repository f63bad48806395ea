/**
 * Layers and models of other people's code, loaded by the names that they have there: a table of repositories and their classes. A new class is a
 * row. Tests: test/nn/outside.test.ts, test/golden/golden.test.ts.
 */
import { checkObject, told } from '../engine/arguments.ts'
import { generator } from '../engine/random.ts'
import { show } from '../engine/shape.ts'
import type { Tensor } from '../engine/tensor.ts'
import { Aft } from './aft.ts'
import { FastWeightsAttention } from './attention.ts'
import { checkChoice, checkKnown } from './fields.ts'
import { checkDict, type Module, type StateDict, type StateDictEntry } from './module.ts'
import { Transformer } from './transformer.ts'

/** Options of a class by their names there. */
type Options = Readonly<Record<string, any>>

/** A class of a repository. */
interface OutsideClass {
  /** Where it is. */
  source: string
  /** Its options: what each says, and what it is where neither the caller nor a tensor says it; those without must be said. */
  options: Readonly<Record<string, { description: string; default?: number | boolean }>>
  /** What the tensors say of the options; of a tensor that isn't there `shapeOf` throws. */
  read(shapeOf: (name: string) => readonly number[], dict: StateDict): Options
  /** A module for these options, whose values are then overwritten. */
  make(options: Options): Module
  /** Parts of names there and here; the first that fits a name counts once, and then the next. None: the names are the same. */
  names?: readonly (readonly [there: string, here: string])[]
  /** Tensors that aren't parameters here, by name there: what is wrong with one, if anything is. */
  buffers?: Readonly<Record<string, (entry: StateDictEntry) => string | undefined>>
}

const width = { description: 'width of the model' }
const dropout = { description: 'probability of dropping an activation', default: 0 }
const nu = { description: 'nu of DPFP', default: 1 }
const window = { description: 'tokens less than so many places apart have a bias' }
const table = { description: 'sequence length, the side of the table of biases' }

/** How many layers there are under this name. */
const layersIn = (dict: StateDict, prefix: string): number =>
  1 +
  [...dict.keys()].reduce(
    (last, name) => (name.startsWith(prefix) ? Math.max(last, Number.parseInt(name.slice(prefix.length), 10)) : last),
    -1,
  )

/** The window whose table of true and false this is; Aft checks the rest of it. */
function windowOf(mask: StateDictEntry | undefined): Options {
  if (mask === undefined) return {}
  const N = mask.shape[1]
  let s = 0
  while (s < N && Number(mask.data[s]) === 1) s++
  return { local_window_size: s }
}

/** labml's get_positional_encoding: sine and cosine in turn, computed in float32, which is off by the angle's rounding: 5,000 units of 2^-23. */
function sinusoidal({ shape, data }: StateDictEntry): string | undefined {
  const D = shape[2]
  if (!(shape.length === 3 && shape[1] === 1)) return "isn't one of [positions,1,D]"
  for (const [i, x] of Array.from(data as ArrayLike<number>).entries()) {
    const [position, d] = [Math.floor(i / D), i % D]
    const angle = position / 10000 ** ((d - (d % 2)) / D)
    if (Math.abs(x - (d % 2 === 0 ? Math.sin(angle) : Math.cos(angle))) > 2e-3)
      return `isn't the table of sines and cosines (at position ${position}, channel ${d}); learnt positions aren't read`
  }
}

const labml = {
  FastWeightsAttention: {
    source: 'labml_nn/transformers/fast_weights',
    options: { d_model: width, heads: { description: 'heads' }, nu },
    read: (shapeOf) => ({ d_model: shapeOf('output.weight')[0], heads: shapeOf('interpolation_weight.0.linear.weight')[0] }),
    make: ({ d_model: dModel, heads, nu }) => new FastWeightsAttention({ dModel, heads, nu }, generator(1)),
  },
  FastWeightsAttentionTransformer: {
    source: 'labml_nn/transformers/fast_weights',
    options: {
      n_vocab: { description: 'symbols' },
      d_model: width,
      n_layers: { description: 'layers' },
      d_ff: { description: 'inner width of the feed-forward layers' },
      heads: { description: 'heads' },
      nu,
      dropout,
    },
    read: (shapeOf, dict) => ({
      n_vocab: shapeOf('src_embed.weight')[0],
      d_model: shapeOf('src_embed.weight')[1],
      n_layers: layersIn(dict, 'transformer.layers.'),
      d_ff: shapeOf('transformer.layers.0.feed_forward.layer1.weight')[0],
      heads: shapeOf('transformer.layers.0.attn.interpolation_weight.0.linear.weight')[0],
    }),
    make: ({ n_vocab: symbols, d_model: dModel, n_layers: layers, d_ff: dFf, heads, nu, dropout }) =>
      new Transformer({ symbols, dModel, layers, dFf, heads, nu, dropout }),
  },
  AFTLocal: {
    source: 'labml_nn/transformers/aft',
    options: { d_model: width, seq_len: table, local_window_size: window, bias: { description: 'whether projections have a bias' } },
    read: (shapeOf, dict) => ({
      d_model: shapeOf('query.weight')[0],
      seq_len: shapeOf('pos_bias')[0],
      bias: dict.has('query.bias'),
      ...windowOf(dict.get('local_mask')),
    }),
    make: ({ d_model: dModel, seq_len: tableLength, local_window_size: window, bias: projectionBias }) =>
      new Aft({ dModel, form: 'local', tableLength, window, projectionBias }, generator(1)),
  },
  AutoregressiveTransformer: {
    source: 'labml_nn/transformers/aft/experiment, with AFTLocal in every layer and fixed positions',
    options: {
      n_tokens: { description: 'symbols' },
      d_model: width,
      n_layers: { description: 'layers' },
      d_ff: { description: 'inner width of the feed-forward layers' },
      seq_len: table,
      local_window_size: window,
      dropout,
    },
    read: (shapeOf, dict) => ({
      n_tokens: shapeOf('src_embed.linear.weight')[0],
      d_model: shapeOf('src_embed.linear.weight')[1],
      n_layers: layersIn(dict, 'encoder.layers.'),
      d_ff: shapeOf('encoder.layers.0.feed_forward.layer1.weight')[0],
      seq_len: shapeOf('encoder.layers.0.self_attn.pos_bias')[0],
      ...windowOf(dict.get('encoder.layers.0.self_attn.local_mask')),
    }),
    make: ({ n_tokens: symbols, d_model: dModel, n_layers: layers, d_ff: dFf, seq_len: tableLength, local_window_size: window, dropout }) =>
      new Transformer({
        ...{ symbols, dModel, layers, dFf, dropout },
        mixer: { kind: 'aft-local', tableLength, window },
        attentionNorm: true,
        positions: 'sinusoidal',
        embeddingScale: 'sqrt',
      }),
    names: [
      ['src_embed.linear.', 'src_embed.'],
      ['encoder.', 'transformer.'],
      ['.self_attn.', '.attn.'],
      ['generator.projection.', 'generator.'],
    ],
    buffers: { 'src_embed.positional_encodings': sinusoidal },
  },
} satisfies Record<string, OutsideClass>

/** By repository and class. */
export const outside = { labml } satisfies Record<string, Record<string, OutsideClass>>
type Outside = typeof outside

export interface OutsideLayout<R extends keyof Outside = keyof Outside, C extends keyof Outside[R] = keyof Outside[R]> {
  repository: R
  class: C & string
  /** Named as there; what the tensors say needn't be said. */
  options?: Options
}
/** What loadOutside makes of a class. */
type Made<R extends keyof Outside, C extends keyof Outside[R]> = Outside[R][C] extends { make(options: any): infer M extends Module }
  ? M
  : never

function classOf({ repository, class: name }: OutsideLayout): OutsideClass {
  checkChoice('repository', repository, outside)
  checkChoice(`class of ${repository}`, name, outside[repository])
  return (outside[repository] as Record<string, OutsideClass>)[name]
}

/**
 * A module with the values of a state dict of that class. It is one of this package (Aft, FastWeightsAttention, Transformer), batch first, on the
 * default device: loadOutside({ repository: 'labml', class: 'AFTLocal' }, readSafetensors(bytes).tensors). Throws where a tensor is missing, is one
 * too many, or disagrees with an option or another tensor.
 */
export function loadOutside<R extends keyof Outside, C extends keyof Outside[R]>(layout: OutsideLayout<R, C>, dict: StateDict): Made<R, C> {
  const where = `${String(layout.repository)}'s ${layout.class}`
  const fail = (problem: string): never => {
    throw new Error(`loadOutside: ${problem}`)
  }
  const { options: known, read, make, names = [], buffers = {} } = classOf(layout as OutsideLayout)
  const given = layout.options ?? {}
  checkObject('loadOutside', given, Object.keys(known)[0])
  checkKnown(given, Object.keys(known))
  checkDict('loadOutside', dict)
  const shapeOf = (name: string): readonly number[] => dict.get(name)?.shape ?? fail(`the state dict lacks ${name}, which ${where} has`)
  const says = read(shapeOf, dict)
  const options: Record<string, unknown> = {}
  for (const [name, { description, default: initial }] of Object.entries(known)) {
    if (given[name] !== undefined && says[name] !== undefined && given[name] !== says[name])
      fail(`${name} is ${told(given[name])}, and the tensors say ${told(says[name])}`)
    options[name] = given[name] ?? says[name] ?? initial
    if (options[name] === undefined) fail(`${where} needs ${name} (${description}), which its tensors don't say: options: { ${name}: ... }`)
  }
  const own = new Map(dict)
  for (const [name, check] of Object.entries(buffers)) {
    const entry = own.get(name)
    const problem = entry && check(entry)
    if (problem) fail(`${name} ${show(entry.shape)} ${problem}`)
    own.delete(name)
  }
  const module = make(options)
  try {
    module.loadStateDict(new Map([...own].map(([name, entry]) => [renamed(name, names), entry])))
  } catch (error) {
    module.dispose()
    throw error
  }
  return module as Made<R, C>
}

/** The parameters of a module that `loadOutside` made, by their names there: what gradients are compared by, and a state dict written with. */
export function outsideParameters(layout: OutsideLayout, module: Module): Map<string, Tensor> {
  const back = (classOf(layout).names ?? []).map(([there, here]) => [here, there] as const)
  return new Map([...module.namedParameters()].map(([name, p]) => [renamed(name, back), p]))
}

/** Names are taken part by part: 'encoder.' at the beginning, '.self_attn.' anywhere. */
function renamed(name: string, names: readonly (readonly [from: string, to: string])[]): string {
  let result = name
  for (const [from, to] of names)
    if (from.startsWith('.')) result = result.replace(from, to)
    else if (result.startsWith(from)) result = to + result.slice(from.length)
  return result
}
