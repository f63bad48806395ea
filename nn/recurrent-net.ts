/**
 * Layers whose fast weights, or hidden state, feed back: a slow projection of the input, one of the engine's recurrent nets in each head, and an
 * output layer (Irie 2021, 2022; Ba 2016; Schmidhuber 1991, 1993; LSTM, GRU and vanilla RNN as baselines).
 */
import { type NetName, nets } from '../engine/nets/index.ts'
import { reshape } from '../engine/ops/movement.ts'
import { type Generator, normal } from '../engine/random.ts'
import { parameter, type Tensor } from '../engine/tensor.ts'
import { type Core, deltaDelta, deltaMlp, type Initial, netCore, type Tensors } from './cores.ts'
import { checkFields, checkKnown, checkMeanings, defaultsOf, type Fields, type Meaning, namesOf, withDefaults } from './fields.ts'
import { type AttentionOptions, checkHeads, checkInput, headsField, projectionBiasField } from './heads.ts'
import { Linear } from './layers.ts'
import type { Mixer } from './mixer.ts'
import { hostParameter, Module } from './module.ts'
import { atTokens, checkPacking } from './packing.ts'
import { givenState, type Parts } from './parts.ts'

/** Those of the engine, and two that are delta nets one behind the other, with a chunk form. */
export type RecurrentNetName = NetName | 'delta-mlp' | 'delta-delta'

/** Settings of a `RecurrentNet` layer. */
export interface RecurrentNetConfig {
  dModel: number
  heads: number
  /** What each head is: a row of the engine's `nets`, `delta-mlp` or `delta-delta`. */
  net: RecurrentNetName
  /** delta-mlp: the number of blocks, each of two delta nets. */
  netDepth: number
  /** Width of each head's net; 0: D / H. */
  netWidth: number
  /** Biases in the slow projection. */
  projectionBias: boolean
}
export type RecurrentNetSettings = Omit<RecurrentNetConfig, 'dModel'>

/** How slow parameters begin in heads of width d; those that aren't named, with zeros. */
const initial = (net: NetName, d: number): Readonly<Record<string, Omit<Initial, 'shape'>>> => {
  const normalised = { std: 1 / Math.sqrt(d) }
  const referring = { Wy: normalised, Wq: normalised, Wk: normalised, wb: normalised }
  // PyTorch's bound for recurrent weights, 1 / sqrt(d), as a normal distribution of the same variance.
  const bounded = { std: 1 / Math.sqrt(3 * d) }
  const rows: Partial<Record<NetName, Record<string, Omit<Initial, 'shape'>>>> = {
    'recurrent-delta': { R_q: normalised, R_k: normalised, R_v: normalised, r_beta: normalised },
    srwm: referring,
    smfwp: referring,
    // A scaled identity, as Ba 2016 begins with.
    ba: { W: { diagonal: 0.5 }, gain: { mean: 1 } },
    'recurrent-programmer': { W: bounded },
    rnn: { R: bounded },
    irnn: { R: { diagonal: 1 } },
    lstm: { R: bounded },
    gru: { R: bounded },
  }
  return rows[net] ?? {}
}

function coreOf({ dModel, heads, net, netDepth, netWidth }: RecurrentNetConfig): Core {
  const d = netWidth || dModel / heads
  if (net === 'delta-mlp') return deltaMlp(heads, d, netDepth)
  if (net === 'delta-delta') return deltaDelta(heads, d)
  return netCore(nets[net].build(d), heads, initial(net, d))
}

/** Nets that take x as it is: their own matrices are the projection. */
const bare = new Set<RecurrentNetName>(['srwm', 'smfwp'])

/** What a `RecurrentNet` layer can have for its heads: the engine's nets, and two that are made of several. */
export const recurrentNetNames: readonly RecurrentNetName[] = [...namesOf(nets), 'delta-mlp', 'delta-delta']

const fields: Fields<RecurrentNetSettings> = {
  heads: headsField,
  net: {
    type: 'string',
    choices: recurrentNetNames,
    default: 'delta-rnn',
    description: 'what a head computes over time',
  },
  netDepth: { type: 'integer', min: 1, sensible: 16, default: 1, description: 'blocks of the net delta-mlp' },
  netWidth: { type: 'integer', min: 0, sensible: 4096, default: 0, description: 'width of the net in each head; 0: D / H' },
  projectionBias: projectionBiasField,
}
const { heads: _, ...defaults } = defaultsOf(fields)

const meanings: readonly Meaning<RecurrentNetConfig>[] = [
  ['netDepth', 'the net delta-mlp', (c) => c.net === 'delta-mlp'],
  ['netWidth', 'nets with a projection: all but srwm and smfwp', (c) => !bare.has(c.net)],
  ['projectionBias', 'nets with a projection: all but srwm and smfwp', (c) => !bare.has(c.net)],
]

function checkRecurrentNet(c: RecurrentNetConfig): void {
  checkKnown(c, ['dModel', ...Object.keys(fields)])
  checkHeads(c.dModel, c.heads)
  checkFields(c, fields)
  checkMeanings(c, defaults, meanings)
}

function first({ shape, mean = 0, std = 0, diagonal }: Initial, g: Generator): Tensor {
  if (diagonal === undefined) return parameter(normal(g, [...shape], mean, std))
  const [rows, columns] = shape.slice(-2)
  const size = shape.reduce((n, d) => n * d, 1)
  const value = (i: number): number => (Math.floor(i / columns) % rows === i % columns ? diagonal : 0)
  return hostParameter([...shape], () => Float32Array.from({ length: size }, (_, i) => value(i)))
}

/** Slow parameters of a net, by their names. */
class Slow extends Module {
  constructor(parameters: Core['parameters'], g: Generator) {
    super()
    for (const [name, how] of Object.entries(parameters)) Object.assign(this, { [name]: first(how, g) })
  }

  /** What stands under those names now. */
  values(names: readonly string[]): Tensors {
    return Object.fromEntries(names.map((name) => [name, (this as unknown as Tensors)[name]]))
  }
}

/** y = W_o net(W x): [B,T,D] -> [B,T,D]. */
export class RecurrentNet extends Module {
  /** From the input to the inputs of the nets. */
  projection: Linear | null
  /** The nets' own parameters. */
  slow: Slow
  output: Linear
  config: RecurrentNetConfig
  private core: Core

  constructor(config: Partial<RecurrentNetConfig> & { dModel: number; heads: number }, g: Generator) {
    super()
    const c = withDefaults(defaults, config)
    checkRecurrentNet(c)
    this.config = c
    const core = coreOf(c)
    this.core = core
    const options = { bias: c.projectionBias }
    this.projection = bare.has(c.net) ? null : new Linear(c.dModel, core.width * core.heads, g, options)
    this.slow = new Slow(core.parameters, g)
    this.output = new Linear(core.outputs * core.heads, c.dModel, g)
  }

  /** What x and `accumulate` hold at padding is never looked at, and y is 0 there. */
  forward(given: Tensor, state: Tensors = {}, options: AttentionOptions = {}): { y: Tensor; state: Tensors } {
    const { core } = this
    const { B, T } = checkInput(given, this.config.dModel, 'recurrent net')
    const packing = checkPacking('recurrent net', options, B, T, ['accumulate'])
    const before = givenState('recurrent net', state, this.stateParts(B), B) ? state : undefined
    const x = atTokens(given, packing)
    const projected = reshape(this.projection ? this.projection.forward(x) : x, [B, T, core.heads, core.width])
    const read = core.run(projected, this.slow.values(Object.keys(core.parameters)), before, packing)
    const y = this.output.forward(reshape(read.y, [B, T, core.heads * core.outputs]), { accumulate: options.accumulate })
    return { y: atTokens(y, packing), state: read.state }
  }

  /** See `Parts`: matrices [B,H,in,out] and vectors [B,H,n] by the names that they have in the net. */
  stateParts(B: number): Parts {
    return Object.fromEntries(
      Object.entries(this.core.state).map(([name, shape]) => [name, { dtype: 'float32', shape: [B, ...shape] } as const]),
    )
  }
}

export const recurrentNet: Mixer<RecurrentNetSettings, RecurrentNet> = {
  title: 'recurrent nets',
  description: 'fast weights, or a hidden state, that feed back: Delta RNN and LSTM, RDN, SRWM, Ba 2016, LSTM, GRU, ...',
  source: 'Irie 2021, 2022; Ba 2016; Schmidhuber 1991, 1993',
  fields,
  meanings,
  check: checkRecurrentNet,
  make: (c, g) => new RecurrentNet(c, g),
  blind: () => false,
}
