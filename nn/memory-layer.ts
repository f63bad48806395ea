/**
 * A layer with fast weights of which everything is a setting: widths of keys and values that need not divide the model's, heads of queries, keys and values
 * that others share, activations, feature maps with parameters, norms, gates of low rank. The layers of flash-linear-attention are cases of it
 * (nn/pretrained/fla.ts), and none of theirs is needed to use it: `FastWeightsAttention` is the layer of our own models, with fewer settings.
 */
import {
  abs,
  add,
  affine,
  div,
  elu,
  exp,
  log,
  maximum,
  mul,
  relu,
  sigmoid,
  silu,
  softplus,
  square,
  sub,
} from '../engine/ops/elementwise.ts'
import type { FastWeightState, RuleOptions } from '../engine/ops/fast-weights.ts'
import { concat, permute, reshape, slice } from '../engine/ops/movement.ts'
import { l2Norm, softmax, sumNorm } from '../engine/ops/norm.ts'
import { sum } from '../engine/ops/reduce.ts'
import { dpfp } from '../engine/ops/sequence.ts'
import type { Generator } from '../engine/random.ts'
import { rules } from '../engine/rules/index.ts'
import { type Rule, spreadHeads } from '../engine/rules/rule.ts'
import { full, ones, parameter, type Tensor, tensor } from '../engine/tensor.ts'
import { checkFields, checkKnown, defaultsOf, type Fields, namesOf, withDefaults } from './fields.ts'
import { type Gate, type GateSizes, gates, LowRank, logSigmoid, retention } from './gates.ts'
import { type AttentionOptions, checkInput, HeadProjection } from './heads.ts'
import { HeadNorm, Linear } from './layers.ts'
import type { Look } from './mixer.ts'
import { Module } from './module.ts'
import { atTokens, checkPacking, type Packing, places } from './packing.ts'
import { givenState, type Parts } from './parts.ts'
import { rotary } from './rotary.ts'

/** The rules that it can feed. */
const memoryRules = [
  'sum',
  'linear-attention',
  'retnet',
  'gla',
  'hgrn2',
  'delta',
  'gated-delta',
  'kda',
  'delta-product',
  'comba',
  'mesa',
] as const
/** The rules that a `MemoryLayer` can feed. */
export type MemoryRule = (typeof memoryRules)[number]

/** Elementwise. */
const maps = {
  identity: (x: Tensor) => x,
  silu: (x: Tensor) => silu(x),
  relu: (x: Tensor) => relu(x),
  relu2: (x: Tensor) => square(relu(x)),
  elu1: (x: Tensor) => affine(elu(x), 1, 1),
  sigmoid: (x: Tensor) => sigmoid(x),
  logsigmoid: (x: Tensor) => logSigmoid(x),
}
type MapName = keyof typeof maps

/** Feature maps of a head [...,K] with layers that all heads share; `biases`: whether each of them has one. */
const learnedFeatures = {
  /** (L_1 x) * (L_2 x). */
  product: { width: (K: number) => K, biases: [true, true], map: ([a, b]: Tensor[]) => mul(a, b) },
  /** softmax([2 L x, -2 L x]) (Zhang 2024). */
  hedgehog: { width: (K: number) => 2 * K, biases: [true], map: ([a]: Tensor[]) => softmax(concat([affine(a, 2), affine(a, -2)], 3)) },
  /** relu(L x) (Kasai 2021, T2R). */
  t2r: { width: (K: number) => K, biases: [false], map: ([a]: Tensor[]) => relu(a) },
} satisfies Record<string, { width: (K: number) => number; biases: boolean[]; map: (layers: Tensor[]) => Tensor }>
type LearnedName = keyof typeof learnedFeatures
/** Schlag 2021, eq. 37, with nu 4. */
const dpfpShifts = 4
type FeaturesName = MapName | LearnedName | 'dpfp'
const featuresNames = [...namesOf(maps), ...namesOf(learnedFeatures), 'dpfp'] as const
const isLearned = (name: FeaturesName): name is LearnedName => Object.hasOwn(learnedFeatures, name)
const widthOf = (name: FeaturesName, K: number): number =>
  isLearned(name) ? learnedFeatures[name].width(K) : name === 'dpfp' ? 2 * dpfpShifts * K : K

const keyNorms = {
  none: (x: Tensor) => x,
  /** x / sqrt(sum(x^2) + 1e-6). */
  l2: (x: Tensor) => l2Norm(x),
  /** x / (sum(x) + 1e-4). */
  sum: (x: Tensor) => sumNorm(x, 1e-4),
  /** x / max(sum(|x|), 1e-6). */
  absolute: (x: Tensor) => div(x, maximum(sum(abs(x), { axis: -1, keepDim: true }), 1e-6)),
}

/** Settings of a `MemoryLayer`. */
export interface MemorySettings {
  /** The rule by which the memory is written. */
  rule: MemoryRule
  /** H memories; queries, keys and values have a divisor of them each, and 0 stands for as many. */
  heads: number
  /** Heads of queries; 0 for H. */
  queryHeads: number
  /** Heads of keys; 0 for H. */
  keyHeads: number
  /** Heads of values; 0 for H. */
  valueHeads: number
  /** K of a head. */
  keyWidth: number
  /** V of a head. */
  valueWidth: number
  /** delta-product: writes a token. Projections have the step outermost, then the head. */
  steps: number
  /** Taps of the convolutions on queries, keys and, unless `valueConv` is off, values; 0 for none. Activations come after them. */
  conv: number
  /** Whether values have a convolution, too. */
  valueConv: boolean
  /** The activation of queries. */
  queryMap: MapName
  /** The activation of keys. */
  keyMap: MapName
  /** The activation of values. */
  valueMap: MapName
  /** Of a head of queries or keys, after the activations. */
  features: FeaturesName
  /** The norm of each head's queries, after features. */
  queryNorm: keyof typeof keyNorms
  /** The norm of each head's keys, after features. */
  keyNorm: keyof typeof keyNorms
  /** retnet: 0 for its own decays; else those of lightning attention, exp(-slopes 2^(-8 (h + 1) / H)) of head h from 0. */
  slopes: number
  /** Base of rotary positions of queries and keys; 0 for none. */
  rotary: number
  /** Multiply queries by 1 / sqrt(K'), K' the width of the features. */
  scale: boolean
  /** Write strengths: betaRange sigmoid(x W^T), or betaRange. */
  strength: 'sigmoid' | 'one'
  /** A bias in the projection to write strengths. */
  strengthBias: boolean
  /** What write strengths end at: 1 or 2. */
  betaRange: number
  /**
   * The logarithms of decays: `softplus`, -exp(A) softplus(x W^T + b); `bounded`, gateBound sigmoid(exp(A) (x W^T + b)); `logsigmoid`, log sigmoid(x W^T + b) / gateDivisor.
   * The rule retnet has fixed ones, and hgrn2 its own, from what stands for keys.
   */
  gate: 'none' | 'softplus' | 'bounded' | 'logsigmoid'
  /** Where a gate has one value a channel: by way of so many numbers; 0: directly from the input. */
  gateRank: number
  /** What the gate `logsigmoid` is divided by. */
  gateDivisor: number
  /** The least logarithm of a decay of the gate `bounded`. */
  gateBound: number
  /** Gates are at least this; 0 for no such limit. */
  gateFloor: number
  /** mesa: lambda = ridgeFloor + softplus of a parameter [H,K]. */
  ridgeFloor: number
  /** linear-attention: added to z . q. */
  normaliserEps: number
  /** RMS norm of each head, or of all channels at once; with a gain or without. */
  headNorm: 'head' | 'all'
  normGain: boolean
  normEps: number
  /** What the normalised output is multiplied by: an activation of x W^T, or of a layer with `outputGateRank` numbers between and a bias. */
  outputGate: 'none' | 'silu' | 'sigmoid'
  /** Numbers that the output gate is made of; 0: directly from the input. */
  outputGateRank: number
  /** A bias in it, where it is made of few numbers. */
  outputGateBias: boolean
}
export type MemoryLayerConfig = MemorySettings & { dModel: number }

const count = (description: string, initial: number, min = 0) => ({ type: 'integer', min, default: initial, description }) as const
const choice = <const C extends string>(description: string, initial: NoInfer<C>, choices: readonly C[]) =>
  ({ type: 'string', choices, default: initial, description }) as const
const flag = (description: string, initial: boolean) => ({ type: 'boolean', default: initial, description }) as const

const fields: Fields<MemorySettings> = {
  rule: choice('how memories are written and forget', 'delta', memoryRules),
  heads: count('memories H', 8, 1),
  queryHeads: count('heads of queries; 0: as many', 0),
  keyHeads: count('heads of keys; 0: as many', 0),
  valueHeads: count('heads of values; 0: as many', 0),
  keyWidth: count('K', 64, 1),
  valueWidth: count('V', 64, 1),
  steps: count('writes a token of the rule delta-product', 1, 1),
  conv: count('taps of the short convolutions', 0),
  valueConv: flag('a convolution on values, too', true),
  queryMap: choice('activation of queries', 'identity', namesOf(maps)),
  keyMap: choice('activation of keys', 'identity', namesOf(maps)),
  valueMap: choice('activation of values', 'identity', namesOf(maps)),
  features: choice('feature map of queries and keys', 'identity', featuresNames),
  queryNorm: choice('normalisation of queries', 'none', namesOf(keyNorms)),
  keyNorm: choice('normalisation of keys', 'none', namesOf(keyNorms)),
  slopes: { type: 'number', min: 0, default: 0, description: "what lightning attention's slopes are multiplied by; 0: RetNet's decays" },
  rotary: { type: 'number', min: 0, default: 0, description: 'base of rotary positions; 0 for none' },
  scale: flag('queries over the root of their width', true),
  strength: choice('where write strengths come from', 'sigmoid', ['sigmoid', 'one']),
  strengthBias: flag('a bias in theirs', false),
  betaRange: { type: 'integer', min: 1, max: 2, default: 1, description: 'write strengths end here' },
  gate: choice('where decays come from', 'none', ['none', 'softplus', 'bounded', 'logsigmoid']),
  gateRank: count('numbers that gates of channels are made of; 0: directly from the input', 16),
  gateDivisor: { type: 'number', min: 1, default: 16, description: 'what the gate logsigmoid is divided by' },
  gateBound: { type: 'number', max: 0, default: -5, description: 'of the gate bounded' },
  gateFloor: { type: 'number', max: 0, default: 0, description: 'gates are at least this; 0: no limit' },
  ridgeFloor: { type: 'number', min: 0, default: 0.25, description: 'lambda of the rule mesa stays above this' },
  normaliserEps: { type: 'number', min: 0, default: 1e-6, description: 'added to z . q, where a rule divides by it' },
  headNorm: choice('what the output norm is over', 'head', ['head', 'all']),
  normGain: flag('a gain in it', true),
  normEps: { type: 'number', min: 0, default: 1e-6, description: 'its eps' },
  outputGate: choice('activation of the output gate', 'none', ['none', 'silu', 'sigmoid']),
  outputGateRank: count('numbers that it is made of; 0: directly from the input', 0),
  outputGateBias: flag('a bias in it, where it is made of few numbers', true),
}
/** The settings of a `MemoryLayer` of which nothing is said. */
export const memoryDefaults: MemorySettings = defaultsOf(fields)

const inputsOf = ({ rule }: { rule: MemoryRule }): Rule['inputs'] => (rules[rule] as Rule).inputs
const headsOf = (c: MemorySettings) => ({ q: c.queryHeads || c.heads, k: c.keyHeads || c.heads, v: c.valueHeads || c.heads })

/** Throws unless the settings make sense, so that a constructor allocates nothing that it can't finish. */
function checkMemory(c: MemoryLayerConfig): void {
  checkKnown(c, ['dModel', ...Object.keys(fields)])
  checkFields(c, fields)
  for (const [name, n] of Object.entries(headsOf(c)))
    if (c.heads % n !== 0) throw new Error(`heads of ${name}: ${n} don't divide the ${c.heads} memories`)
  const gated = c.rule === 'delta-product' ? c.gate !== 'none' : 'gate' in inputsOf(c) && c.rule !== 'hgrn2'
  if (gated !== (c.gate !== 'none'))
    throw new Error(`gate = ${c.gate} doesn't go with the rule ${c.rule}, which ${gated ? 'needs one' : 'has none'}`)
  if (c.steps > 1 && c.rule !== 'delta-product')
    throw new Error(`steps = ${c.steps} means nothing here: it belongs to the rule delta-product`)
  if (c.features === 'dpfp' && c.keyWidth < 3) throw new Error('dpfp with 4 shifts needs heads of width 3 or more')
}

/** gateBound sigmoid(exp(A_log) (a + dt_bias)): flash-linear-attention's KDA with a lower bound. */
class BoundedGate extends gates.softplus {
  private bound: number

  constructor(sizes: GateSizes, bound: number, g: Generator) {
    super(sizes, g)
    this.bound = bound
  }

  protected override gate(a: Tensor): Tensor {
    return affine(sigmoid(mul(exp(this.A_log), add(a, this.dt_bias))), this.bound)
  }
}

/** The layers of a learned feature map. */
class LearnedFeatures extends Module {
  layers: Linear[]
  private name: LearnedName

  constructor(name: LearnedName, K: number, g: Generator) {
    super()
    this.name = name
    this.layers = learnedFeatures[name].biases.map((bias) => new Linear(K, K, g, { bias }))
  }

  forward(x: Tensor): Tensor {
    return learnedFeatures[this.name].map(this.layers.map((layer) => layer.forward(x)))
  }
}

/** The rule's own state, what each convolution last saw [B,W-1,...], and with rotary positions the next one of each row [B]. */
export interface MemoryState extends Partial<FastWeightState> {
  /** What the convolution of queries last saw, [B,W-1,...]. */
  query?: Tensor
  /** What that of keys last saw. */
  key?: Tensor
  /** What that of values last saw. */
  value?: Tensor
  /** The next position of each row, [B]. */
  position?: Int32Array
}

/** Each layer's lower bound of what it keeps (HGRN-2): a parameter [layers,D] that all of them share, and which one this is. */
export interface SharedBounds {
  bounds: Tensor
  /** Which layer it is, from 0. */
  layer: number
}

export class MemoryLayer extends Module {
  query: HeadProjection
  /** Of the rule hgrn2: what the forget gate is made from. */
  key: HeadProjection
  value: HeadProjection
  query_features: LearnedFeatures | null
  key_features: LearnedFeatures | null
  strength: Linear | null
  gate: Gate | null
  /** comba: [keyHeads] both. */
  reading: Tensor | null
  correction: Tensor | null
  /** mesa: [H,K]. */
  ridge: Tensor | null
  /** hgrn2: see `SharedBounds`. */
  bounds: Tensor | null
  norm: HeadNorm
  output_gate: Linear | LowRank | null
  output: Linear
  config: MemoryLayerConfig
  private layer: number

  constructor(config: Partial<MemorySettings> & { dModel: number }, g: Generator, shared?: SharedBounds) {
    super()
    const c = withDefaults(memoryDefaults, config)
    checkMemory(c)
    this.config = c
    const { dModel: D, heads: H, keyWidth: K, valueWidth: V, steps: N } = c
    const own = headsOf(c)
    this.query = new HeadProjection(D, own.q * K, c.conv, g)
    this.key = new HeadProjection(D, N * own.k * K, c.conv, g)
    this.value = new HeadProjection(D, N * own.v * V, c.valueConv ? c.conv : 0, g)
    const features = () => (isLearned(c.features) ? new LearnedFeatures(c.features, K, g) : null)
    this.query_features = features()
    this.key_features = features()
    this.strength = 'beta' in inputsOf(c) && c.strength === 'sigmoid' ? new Linear(D, N * H, g, { bias: c.strengthBias }) : null
    this.gate = gateOf(c, g)
    const comba = c.rule === 'comba'
    this.reading = comba ? parameter(ones([own.k])) : null
    this.correction = comba ? parameter(ones([own.k])) : null
    this.ridge = c.rule === 'mesa' ? parameter(full([H, K], Math.log(Math.expm1(1 - Math.min(c.ridgeFloor, 0.9))))) : null
    this.bounds = shared?.bounds ?? null
    this.layer = shared?.layer ?? 0
    this.norm = new HeadNorm(H, V, { eps: c.normEps, all: c.headNorm === 'all', gain: c.normGain })
    this.output_gate =
      c.outputGate === 'none'
        ? null
        : c.outputGateRank > 0
          ? new LowRank(D, c.outputGateRank, H * V, g, { bias: c.outputGateBias })
          : new Linear(D, H * V, g, { bias: false })
    this.output = new Linear(H * V, D, g, { bias: false })
  }

  /** x: [B,T,D]. What x and `accumulate` hold at padding is never looked at, and y is 0 there. */
  forward(given: Tensor, state: MemoryState = {}, options: AttentionOptions = {}): { y: Tensor; state: MemoryState } {
    const { B, T } = checkInput(given, this.config.dModel, 'memory')
    const packing = checkPacking('memory', options, B, T, ['accumulate'])
    const x = atTokens(given, packing)
    const begun = givenState('memory', state, this.stateParts(B), B)
    const { projected, inputs, position } = this.inputs(x, state, packing)
    const rule = rules[this.config.rule] as Rule
    const own = Object.keys(rule.state).map((part) => [part, state[part as keyof FastWeightState]])
    const before = begun ? (Object.fromEntries(own) as FastWeightState) : undefined
    const result = rule.run(inputs, before, { ...this.ruleOptions(), ...packing })
    const normed = this.norm.forward(result.y)
    let y = reshape(normed, [B, T, normed.shape[2] * normed.shape[3]])
    if (this.output_gate) y = mul(y, maps[this.config.outputGate as MapName](this.output_gate.forward(x)))
    const taps = Object.entries(projected).flatMap(([name, of]) => (of.state ? [[name, of.state]] : []))
    return {
      y: atTokens(this.output.forward(y, { accumulate: options.accumulate }), packing),
      state: { ...result.state, ...Object.fromEntries(taps), ...(position && { position }) },
    }
  }

  private ruleOptions(): RuleOptions & { eps?: number } {
    return this.config.rule === 'linear-attention' ? { eps: this.config.normaliserEps } : {}
  }

  /** See `Look`. */
  look(x: Tensor): Look {
    checkInput(x, this.config.dModel, 'memory')
    const rule = rules[this.config.rule] as Rule
    const { inputs } = this.inputs(x, {}, {})
    const alone = Object.entries(rule.inputs).every(([name, { shape }]) => shape.includes('V') === (name === 'v') && !shape.includes('N'))
    const read: Look['read'] = (v) => rule.run({ ...inputs, v }, undefined, this.ruleOptions()).y
    return { inputs, pairs: rule.inputs.k?.shape.length === 4, ...(alone && { read }) }
  }

  /** What the rule takes, by name. */
  private inputs(x: Tensor, state: MemoryState, packing: Packing) {
    const c = this.config
    const { heads: H, keyWidth: K, valueWidth: V, steps: N } = c
    const [B, T] = x.shape
    const projected = {
      query: this.query.forward(x, state.query, packing),
      key: this.key.forward(x, state.key, packing),
      value: this.value.forward(x, state.value, packing),
    }
    const inHeads = (y: Tensor, width: number, n = 1): Tensor => reshape(y, [B, T * n, y.shape[2] / width / n, width])
    const spread = (y: Tensor): Tensor => spreadHeads(y, H)
    const steps = (y: Tensor): Tensor => (c.rule === 'delta-product' ? reshape(y, [B, T, N, ...y.shape.slice(2)]) : y)
    const v = steps(spread(inHeads(maps[c.valueMap](projected.value.y), V, N)))

    const query = inHeads(maps[c.queryMap](projected.query.y), K)
    const key = inHeads(maps[c.keyMap](projected.key.y), K, N)
    const q0 = c.rule === 'comba' ? sub(query, mul(column(this.correction!), this.scaledKey(key))) : query
    let q = keyNorms[c.queryNorm](mapped(c.features, q0, this.query_features))
    let k = keyNorms[c.keyNorm](mapped(c.features, key, this.key_features))
    let position: Int32Array | undefined
    if (c.rotary > 0) {
      const placed = () => places(packing, B, T, state.position)
      q = rotary(q, () => placed().at, { base: c.rotary })
      k = rotary(k, () => placed().at, { base: c.rotary })
      position = placed().next
    }
    if (c.scale) q = affine(q, 1 / Math.sqrt(q.shape[3]))

    const made: Record<string, () => Tensor> = {
      q: () => spread(q),
      k: () => steps(spread(k)),
      v: () => v,
      p: () => spread(keyNorms[c.keyNorm](this.scaledKey(key))),
      beta: () => {
        const shape = c.rule === 'delta-product' ? [B, T, N, H] : [B, T, H]
        const one = () => full(shape, c.betaRange, x.device)
        return this.strength ? affine(sigmoid(reshape(this.strength.forward(x), shape)), c.betaRange) : one()
      },
      gate: () => (c.rule === 'hgrn2' ? spread(this.kept(key)) : spread(this.limited(this.gate!.forward(x)))),
      decay: () => (c.slopes > 0 ? lightning(H, c.slopes, x) : retention(H, x)),
      lambda: () => affine(softplus(this.ridge!), 1, c.ridgeFloor),
    }
    const names = Object.keys(inputsOf(c)).filter((name) => name !== 'gate' || c.rule === 'hgrn2' || this.gate !== null)
    return { projected, inputs: Object.fromEntries(names.map((name) => [name, made[name]()])), position }
  }

  /** Comba's p before its norm: the key, scaled. */
  private scaledKey(key: Tensor): Tensor {
    return mul(column(sigmoid(this.reading!)), key)
  }

  private limited(gate: Tensor): Tensor {
    return this.config.gateFloor < 0 ? maximum(gate, this.config.gateFloor) : gate
  }

  /** HGRN-2: the logarithm of what is kept, log sigmoid(f), or of bound + (1 - bound) sigmoid(f) in the layers after the first. */
  private kept(f: Tensor): Tensor {
    if (!this.bounds || this.layer === 0) return logSigmoid(f)
    // Over the layers: softmax along the last axis of the transpose; a sum of the rows 1 to this one.
    const share = softmax(permute(this.bounds, [1, 0]))
    const bound = reshape(sum(slice(share, 1, 1, this.layer + 1), { axis: 1 }), f.shape.slice(2))
    return log(add(bound, mul(affine(bound, -1, 1), sigmoid(f))))
  }

  /** See `Parts`. */
  stateParts(B: number): Parts {
    const { heads: H, keyWidth, valueWidth: V, features, conv: W, rotary, rule } = this.config
    const sizes: Record<string, number> = { B, H, K: widthOf(features, keyWidth), V }
    const float = (shape: number[]) => ({ dtype: 'float32', shape }) as const
    const own = Object.entries(rules[rule].state as Rule['state']).map(([name, letters]) => [name, float(letters.map((l) => sizes[l]))])
    const projections = { query: this.query, key: this.key, value: this.value }
    const taps = Object.entries(projections).flatMap(([name, { conv, linear }]) =>
      conv ? [[name, float([B, W - 1, linear.weight.shape[0]])]] : [],
    )
    return Object.fromEntries([...own, ...taps, ...(rotary > 0 ? [['position', { dtype: 'int32', shape: [B] }]] : [])])
  }
}

/** The logarithms of lightning attention's decays, [H] (Qin 2024, as MiniMax has them). */
const lightning = (heads: number, factor: number, beside: Tensor): Tensor =>
  tensor(
    Array.from({ length: heads }, (_, h) => -factor * 2 ** ((-8 * (h + 1)) / heads)),
    { device: beside.device },
  )

/** [H] beside [B,T,H,K]. */
const column = (x: Tensor): Tensor => reshape(x, [...x.shape, 1])

function mapped(name: FeaturesName, x: Tensor, learned: LearnedFeatures | null): Tensor {
  if (learned) return learned.forward(x)
  return name === 'dpfp' ? dpfp(x, dpfpShifts) : maps[name as MapName](x)
}

/** Of the memories' heads, or of those of the keys, which share their gates, too. */
function gateOf(c: MemoryLayerConfig, g: Generator): Gate | null {
  if (c.gate === 'none') return null
  const channels = inputsOf(c).gate.shape.length === 4
  const heads = c.gate === 'logsigmoid' && channels ? headsOf(c).k : c.heads
  const sizes: GateSizes = {
    dModel: c.dModel,
    heads,
    width: channels ? c.keyWidth : null,
    full: c.gateRank === 0,
    rank: c.gateRank,
    divisor: c.gateDivisor,
  }
  return c.gate === 'bounded' ? new BoundedGate(sizes, c.gateBound, g) : new gates[c.gate](sizes, g)
}
