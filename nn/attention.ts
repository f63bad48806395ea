/**
 * Fast-weight attention: [B,T,D] -> [B,T,D], with a state that carries everything an earlier piece of the sequence left behind, so that
 * a sequence can be run whole, in pieces, or token by token with the same weights and the same result.
 */
import { mul, silu } from '../engine/ops/elementwise.ts'
import type { FastWeightState } from '../engine/ops/fast-weights.ts'
import { reshape } from '../engine/ops/movement.ts'
import { l2Norm } from '../engine/ops/norm.ts'
import type { ConvOptions } from '../engine/ops/sequence.ts'
import type { Generator } from '../engine/random.ts'
import { type RuleName, rules } from '../engine/rules/index.ts'
import { type Rule, spreadHeads } from '../engine/rules/rule.ts'
import type { Tensor } from '../engine/tensor.ts'
import { checkFeatures, checkNormaliserEps, type FeatureConfig, Features, featureDefaults, featureFields, featureMaps } from './features.ts'
import {
  checkChoice,
  checkFields,
  checkKnown,
  checkMeanings,
  defaultsOf,
  type Fields,
  type Meaning,
  namesOf,
  withDefaults,
} from './fields.ts'
import { Gate, LowRank } from './gates.ts'
import { type AttentionOptions, checkHeads, checkInput, HeadProjection, headsField, rotaryField } from './heads.ts'
import {
  adopt,
  type IngredientConfig,
  ingredientFields,
  ingredientMeanings,
  ingredientsOf,
  layerRules,
  learns,
  makeIngredients,
  type Place,
} from './ingredients.ts'
import { Linear, RMSNorm, together } from './layers.ts'
import { byMinibatches, type Waiting, waitingParts } from './minibatches.ts'
import type { Look, Mixer } from './mixer.ts'
import { Module } from './module.ts'
import { atTokens, checkPacking, type Packing, places } from './packing.ts'
import { givenState, type Parts } from './parts.ts'
import { rotary } from './rotary.ts'

export { layerRules }

/** Settings of a `FastWeightsAttention` layer. `fastWeightsAttentionDefaults` has what is left out. */
export interface FastWeightsAttentionConfig extends FeatureConfig, IngredientConfig {
  /** Heads of queries and keys, a divisor of `heads`: each serves so many heads of values. 0: as many. */
  keyHeads: number
  /** What the sum or the attention-normalised delta rule adds to z . q (and the latter to z . k), by which it divides. */
  normaliserEps: number
  /** What y = S^T q is multiplied by: 1, or 1 / sqrt(K) with the heads' width K. */
  scale: 'none' | 'sqrt'
  /** `rotary` turns mapped queries and keys by their position. */
  positions: 'none' | 'rotary'
  /** Applied to the values, then a norm: v / sqrt(sum(v^2) + 1e-6). */
  valueMap: 'identity' | 'silu'
  valueNorm: 'none' | 'l2'
  /** Taps of a causal depthwise convolution on queries, keys and values; 0 for none. */
  conv: number
  /** RMS-normalise each head's output, with a gain for each channel of a head. */
  headNorm: boolean
  /** y * silu(x W^T), or * sigmoid(x W^T), before the output layer. */
  outputGate: 'none' | 'silu' | 'sigmoid'
  /** C of the chunkwise form: speed and memory, no other difference. */
  chunk: number
}

const ruleOf = (c: { rule: RuleName }): Rule => rules[c.rule]
const normalised = (c: { rule: RuleName }): boolean => 'z' in ruleOf(c).state
const has = (c: { rule: RuleName }, ...inputs: string[]): boolean => inputs.every((name) => name in ruleOf(c).inputs)
/** Rules whose keys are exponents, which no feature map changes. */
const exponents = new Set<RuleName>(['rwkv4', 'lightnet'])
/** Whether a rule's keys come from a feature map. */
const mapsKeys = (c: { rule: RuleName }): boolean => has(c, 'k') && !exponents.has(c.rule)

/** Of the settings that belong to some rules: which. */
export const fastWeightsMeanings: readonly Meaning<FastWeightsAttentionConfig>[] = [
  ['normaliserEps', 'rules with a normaliser (linear-attention, attention-delta)', normalised],
  ['keyHeads', 'rules with queries and keys', (c) => has(c, 'q', 'k')],
  // What recipes say for all of their layers may stand there, whatever a layer's rule is.
  ['featureMap', 'rules with queries', (c) => has(c, 'q') || c.featureMap === 'identity' || c.featureMap === 'silu'],
  ...(['nu', 'favorFeatures', 'favorSeed', 'favorRedraw', 'hedgehogShared', 'featureEps'] as const).map(
    (name): Meaning<FastWeightsAttentionConfig> => [name, 'rules with queries', (c) => has(c, 'q')],
  ),
  ...ingredientMeanings,
]

/** All settings but dModel. */
export type FastWeightsSettings = Omit<FastWeightsAttentionConfig, 'dModel'>

/** The linear layers of a part of a layer that read the layer's input. */
const readersOf = (part: unknown): Linear[] => {
  if (part instanceof Linear) return [part]
  if (part instanceof HeadProjection) return [part.linear]
  if (part instanceof LowRank) return [part.down]
  if (part instanceof Gate) return readersOf(part.projection)
  return Array.isArray(part) ? part.flatMap(readersOf) : []
}

const valueMaps = { identity: (x: Tensor) => x, silu: (x: Tensor) => silu(x) }
const valueNorms = { none: (x: Tensor) => x, l2: (x: Tensor) => l2Norm(x) }

const fields: Fields<FastWeightsSettings> = {
  heads: headsField,
  ...featureFields,
  keyHeads: { type: 'integer', min: 0, default: 0, description: 'heads of queries and keys, fewer than of values; 0: as many' },
  ...ingredientFields,
  normaliserEps: { type: 'number', min: 0, default: 1e-6, description: 'added to z . q, where a rule divides by it' },
  scale: { type: 'string', choices: ['none', 'sqrt'], default: 'none', description: 'what is read, as it is or over sqrt(K)' },
  positions: rotaryField,
  valueMap: {
    type: 'string',
    noun: 'value map',
    choices: namesOf(valueMaps),
    default: 'identity',
    description: 'activation of the values',
  },
  valueNorm: {
    type: 'string',
    noun: 'value norm',
    choices: namesOf(valueNorms),
    default: 'none',
    description: 'normalisation of the values',
  },
  conv: {
    type: 'integer',
    min: 0,
    sensible: 64,
    expected: 'a number of taps, 0 or more',
    default: 0,
    description: 'taps of the short convolutions on q, k and v; 0 for none',
  },
  headNorm: { type: 'boolean', default: false, description: "RMS-normalise each head's output" },
  outputGate: {
    type: 'string',
    noun: 'output gate',
    choices: ['none', 'silu', 'sigmoid'],
    default: 'none',
    description: 'gate on what attention gives',
  },
  chunk: { type: 'integer', min: 1, default: 32, description: 'chunk length C of the chunkwise form' },
}

const { heads: _, ...withoutHeads } = defaultsOf(fields)
/** The settings of a layer of which nothing is said but its width and heads. */
export const fastWeightsAttentionDefaults: Omit<FastWeightsSettings, 'heads'> = withoutHeads

/** Throws unless the settings make sense, so that a constructor allocates nothing that it can't finish. */
function checkAttention(c: FastWeightsAttentionConfig): void {
  checkKnown(c, ['dModel', ...Object.keys(fields)])
  checkHeads(c.dModel, c.heads)
  checkChoice('rule', c.rule, Object.fromEntries(layerRules.map((rule) => [rule, 0])))
  if (has(c, 'q')) checkFeatures(c, c.dModel / c.heads)
  checkMeanings<FastWeightsAttentionConfig>(c, fastWeightsAttentionDefaults, fastWeightsMeanings)
  checkFields(c, fields)
  if (c.keyHeads > 0 && c.heads % c.keyHeads !== 0)
    throw new Error(`keyHeads must be 0 or a divisor of the ${c.heads} heads, not ${c.keyHeads}`)
  const K = c.dModel / c.heads
  const sameWidth = has(c, 'q', 'k') && (!mapsKeys(c) || ruleOf(c).inputs.k.shape.includes('V'))
  if (sameWidth && featureMaps[c.featureMap].width(K, c) !== K)
    throw new Error(
      `the rule ${c.rule} needs queries as wide as ${mapsKeys(c) ? 'values' : 'keys'}: take another feature map than ${c.featureMap}`,
    )
  if (c.positions === 'rotary' && !(has(c, 'q') && mapsKeys(c)))
    throw new Error(`positions = rotary means nothing here: the rule ${c.rule} has no queries and keys to turn`)
  if (!normalised(c)) return
  if (featureMaps[c.featureMap].sign === 'signed')
    throw new Error(
      `the rule ${c.rule} divides by z . q, which ${c.featureMap} can make zero or negative; take a map that can't, such as featureMap = elu1 with featureNorm = none`,
    )
  checkNormaliserEps(c.featureMap, c.normaliserEps, c.rule)
  if (c.positions === 'rotary')
    throw new Error(`the rule ${c.rule} divides by z . q, which rotary positions can make zero or negative; use sinusoidal ones, or none`)
}

/** The fast weights (the rule's own state), what each convolution last saw [B,W-1,...], and with rotary positions the next one of each row [B]. */
export interface AttentionState extends Partial<FastWeightState>, Waiting {
  /** What the convolution of queries last saw, [B,W-1,...]. */
  query?: Tensor
  /** What that of keys last saw. */
  key?: Tensor
  /** What that of values last saw. */
  value?: Tensor
  /** The next position of each row, [B]. */
  position?: Int32Array
}

/** The properties of a layer that ingredients set. */
const ingredientProperties = ['interpolation_weight', 'gate', 'kappa', 'rate', 'lambda', 'inner_start']

/** The settings of features where there are no queries to map. */
const unmapped: FeatureConfig = { ...featureDefaults, featureMap: 'identity', featureNorm: 'none' }

/**
 * Fast-weight attention. The slow weights project x to queries, keys, values and what else the rule takes; the recurrence writes the
 * keys and values into each head's fast weights and reads them with the queries; the output layer mixes the heads.
 * With its defaults it is labml's FastWeightsAttention, parameter names included; `attentionPresets` has the configurations of other papers.
 */
export class FastWeightsAttention extends Module {
  /** Of rules without queries or keys: null. */
  query: HeadProjection | null
  key: HeadProjection | null
  value: HeadProjection
  /** beta = betaRange sigmoid(x W^T), one for each head (and step); absent for rules without. */
  interpolation_weight: HeadProjection[] = []
  /** The feature map of queries and keys, with what it learns. */
  features: Features
  /** These, and what else a rule's ingredients have (nn/ingredients.ts), are properties of layers with such a rule. */
  gate: Gate | null = null
  /** rwkv7: what a key is multiplied by before it is normalised, [H,K]. */
  kappa: Tensor | null = null
  /** rwkv7: the rate of each channel of a key, from the input. */
  rate: LowRank | null = null
  /** mesa: what the ridge is made of, [H,K]. */
  lambda: Tensor | null = null
  /** [H,V,V], of rules that learn by minibatches: the matrix that memories begin as. A state holds how far S has moved from it. */
  inner_start: Tensor | null = null
  /** RMS norm of each head's output, where `headNorm` asks for it. */
  norm: RMSNorm | null
  /** What the output is multiplied by, where `outputGate` asks for it. */
  output_gate: Linear | null
  output: Linear
  config: FastWeightsAttentionConfig
  private place: Place

  constructor(
    config: Partial<FastWeightsAttentionConfig> & { dModel: number; heads: number },
    g: Generator,
    place: Place = { layer: 0, layers: 1 },
  ) {
    super()
    const c = withDefaults(fastWeightsAttentionDefaults, config)
    checkAttention(c)
    this.config = c
    this.place = place
    const { dModel: D, heads: H, stepsPerToken: N } = c
    const keyHeads = c.keyHeads || H
    const keyWidth = (D / H) * keyHeads
    this.query = has(c, 'q') ? new HeadProjection(D, keyWidth, c.conv, g) : null
    this.key = has(c, 'k') ? new HeadProjection(D, N * keyWidth, c.conv, g) : null
    this.value = new HeadProjection(D, N * D, c.conv, g)
    this.features = new Features(has(c, 'q') ? c : unmapped, keyHeads, D / H, g)
    adopt(this, makeIngredients({ c, K: this.features.width, g }), ingredientProperties)
    this.norm = c.headNorm ? new RMSNorm(D / H) : null
    this.output_gate = c.outputGate === 'none' ? null : new Linear(D, D, g, { bias: false })
    this.output = new Linear(D, D, g)
  }

  /** What x and `accumulate` hold at padding is never looked at, and y is 0 there. */
  forward(given: Tensor, state: AttentionState = {}, options: AttentionOptions = {}): { y: Tensor; state: AttentionState } {
    const { B, T } = checkInput(given, this.config.dModel)
    const packing = checkPacking('attention', options, B, T, ['accumulate'])
    const x = atTokens(given, packing)
    const begun = givenState('attention', state, this.stateParts(B), B)
    return together(x, this.readers(), () => this.attended(x, state, begun, packing, options.accumulate))
  }

  /** The layers that read the input. */
  private readers() {
    const { output, output_gate, ...parts } = this as Record<string, unknown>
    const { outputGate } = this.config
    return [
      ...Object.values(parts).flatMap(readersOf),
      ...(outputGate === 'none' ? [] : [{ layer: this.output_gate!, activation: outputGate }]),
    ]
  }

  private attended(x: Tensor, state: AttentionState, begun: boolean, packing: Packing, accumulate: Tensor | undefined) {
    const { heads: H, outputGate } = this.config
    const rule = ruleOf(this.config)
    const [B, T, D] = x.shape
    const { projected, inputs, position } = this.inputs(x, state, packing)
    const own = Object.keys(rule.state).map((part) => [part, state[part as keyof FastWeightState]])
    const before = begun ? (Object.fromEntries(own) as FastWeightState) : undefined
    const settings = this.ruleOptions()
    const result = this.inner_start
      ? byMinibatches(rule, inputs, before, { ...settings, minibatch: this.config.minibatch }, state, packing, { S: this.inner_start })
      : rule.run(inputs, before, { ...settings, ...packing })
    // Features wider than what they are made of are rather made again than kept.
    if (this.features.width > D / H) for (const name of ['q', 'k']) inputs[name]?.evict()

    let y = reshape(this.norm ? this.norm.forward(result.y) : result.y, [B, T, D])
    if (this.output_gate && outputGate !== 'none') y = mul(y, this.output_gate.forward(x, { activation: outputGate }))
    const taps = Object.entries(projected).map(([name, of]) => [name, of?.state])
    return {
      y: atTokens(this.output.forward(y, { accumulate }), packing),
      state: { ...result.state, ...Object.fromEntries(taps), ...(position && { position }) },
    }
  }

  private ruleOptions(): { chunk: number; scale: number; eps?: number } {
    const { dModel, heads, scale, normaliserEps, chunk } = this.config
    return { chunk, scale: scale === 'sqrt' ? 1 / Math.sqrt(dModel / heads) : 1, ...(normalised(this.config) && { eps: normaliserEps }) }
  }

  /** See `Look`. */
  look(x: Tensor): Look {
    checkInput(x, this.config.dModel)
    const rule = ruleOf(this.config)
    const { inputs } = this.inputs(x, {}, {})
    // Linear in values that nothing else has the width of.
    const alone = Object.entries(rule.inputs).every(([name, { shape }]) => shape.includes('V') === (name === 'v') && !shape.includes('N'))
    const options = this.ruleOptions()
    // TTT and Titans begin with a memory of their own, and a state is how far it has moved.
    if (learns(this.config)) return { inputs }
    const read: Look['read'] = (v) => rule.run({ ...inputs, v }, undefined, options).y
    return { inputs, pairs: rule.state.S?.join() === 'B,H,K,V', ...(alone && { read }) }
  }

  /** Whether tokens wait until their minibatch is complete. */
  private get waits(): boolean {
    return learns(this.config) && this.config.minibatch > 1
  }

  /** New random features, where each epoch has its own. */
  endEpoch(): void {
    if (this.config.favorRedraw === 'epoch') this.features.redraw()
  }

  /** What the convolutions of queries and keys, and of values, go on with, where that is all that their maps and norms do; null: it isn't. */
  private afterConvolutions(): { ofKeys: ConvOptions | null; ofValues: ConvOptions | null } {
    const { dModel, heads, conv, featureMap, featureNorm, featureEps, valueMap, valueNorm } = this.config
    const width = dModel / heads
    const keys = conv > 0 && featureMap === 'silu' && featureNorm !== 'sum' && mapsKeys(this.config)
    const values = conv > 0 && valueMap === 'silu'
    return {
      ofKeys: keys ? { silu: true, ...(featureNorm === 'l2' && { l2Width: width, eps: featureEps }) } : null,
      ofValues: values ? { silu: true, ...(valueNorm === 'l2' && { l2Width: width }) } : null,
    }
  }

  /** What the rule takes, by name. The steps of delta-product are as many tokens to the feature map. */
  private inputs(x: Tensor, state: AttentionState, packing: Packing) {
    const { ofKeys, ofValues } = this.afterConvolutions()
    const projected = {
      query: this.query?.forward(x, state.query, packing, ofKeys ?? {}),
      key: this.key?.forward(x, state.key, packing, ofKeys ?? {}),
      value: this.value.forward(x, state.value, packing, ofValues ?? {}),
    }
    const [query, key, value] = [projected.query?.y, projected.key?.y, projected.value.y]
    const { heads: H, stepsPerToken: N, positions, valueMap, valueNorm } = this.config
    const [B, T, D] = x.shape
    const split = (y: Tensor, n: number): Tensor => reshape(y, [B, T * n, y.shape[2] / n / (D / H), D / H])
    const perStep = (y: Tensor): Tensor =>
      ruleOf(this.config).inputs.v?.shape.includes('N') ? reshape(y, [B, T, N, ...y.shape.slice(2)]) : y
    const rawKeys = key && split(key, N)
    const raw = [query && split(query, 1), mapsKeys(this.config) ? rawKeys : undefined]
    const unmapped = raw.filter((y) => y !== undefined)
    const mapped = ofKeys ? unmapped : this.features.forward(...unmapped)
    let [q, k] = raw.map((y) => y && mapped.shift())
    let position: Int32Array | undefined
    if (positions === 'rotary' && q && k) {
      const placed = () => places(packing, B, T, state.position)
      q = rotary(q, () => placed().at)
      k = rotary(k, () => {
        const { at } = placed()
        return Int32Array.from({ length: B * T * N }, (_, i) => at[Math.floor(i / N)])
      })
      position = placed().next
    }
    const spread = (y: Tensor | undefined): Tensor | undefined => y && spreadHeads(y, H)
    const steps = (y: Tensor | undefined): Tensor | undefined => y && perStep(y)
    const v = perStep(ofValues ? split(value, N) : valueNorms[valueNorm](split(valueMaps[valueMap](value), N)))
    const given = { q: spread(q), k: steps(spread(k)), rawKeys: steps(spread(rawKeys)), v }
    return { projected, inputs: ingredientsOf({ c: this.config, own: this, place: this.place, x, ...given } as never), position }
  }

  /** See `Parts`. */
  stateParts(B: number): Parts {
    const { dModel: D, heads: H, stepsPerToken: N, slots, levels, conv: W, positions, rule } = this.config
    const sizes = { B, T: 0, H, K: this.features.width, V: D / H, N, M: rule === 'log-linear' ? levels : slots }
    const own = Object.entries(rules[rule].state as Rule['state']).map(([name, letters]) => [
      name,
      { dtype: 'float32', shape: letters.map((letter) => sizes[letter]) } as const,
    ])
    const projections = { query: this.query, key: this.key, value: this.value }
    const taps = Object.entries(projections).flatMap(([name, of]) =>
      of ? [[name, { dtype: 'float32', shape: [B, W - 1, of.linear.weight.shape[0]] } as const]] : [],
    )
    return {
      ...Object.fromEntries(own),
      ...(this.waits && waitingParts(ruleOf(this.config), sizes, this.config.minibatch)),
      ...(W > 0 && Object.fromEntries(taps)),
      ...(positions === 'rotary' && { position: { dtype: 'int32', shape: [B] } as const }),
    }
  }
}

/** Rules that only add, or mean: what they hold is the same for the same tokens in any order. */
const adds = new Set<RuleName>(['sum', 'linear-attention', 'lightnet', 'abc'])

export const fastWeights: Mixer<FastWeightsSettings, FastWeightsAttention> = {
  title: 'fast-weights attention',
  description: 'a rule that writes keys and values into fast weights, and reads them with queries',
  source: "Schlag 2021; the rule's own paper",
  fields,
  meanings: fastWeightsMeanings,
  check: checkAttention,
  make: (c, g, place) => new FastWeightsAttention(c, g, place),
  blind: ({ rule, positions, conv }) => adds.has(rule) && positions === 'none' && conv <= 1,
}
