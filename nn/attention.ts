/**
 * Fast-weight attention: [B,T,D] -> [B,T,D], with a state that carries everything an earlier piece of the sequence left behind, so that
 * a sequence can be run whole, in pieces, or token by token with the same weights and the same result.
 */
import { affine, mul, sigmoid, silu, softplus } from '../engine/ops/elementwise.ts'
import type { FastWeightState } from '../engine/ops/fast-weights.ts'
import { reshape } from '../engine/ops/movement.ts'
import { l2Norm } from '../engine/ops/norm.ts'
import type { Generator } from '../engine/random.ts'
import { type RuleName, rules } from '../engine/rules/index.ts'
import type { Rule } from '../engine/rules/rule.ts'
import { full, ones, parameter, type Tensor } from '../engine/tensor.ts'
import { checkFeatures, checkNormaliserEps, type FeatureConfig, Features, featureFields, featureMaps } from './features.ts'
import { checkChoice, checkFields, checkKnown, checkMeanings, defaultsOf, type Fields, type Meaning, namesOf } from './fields.ts'
import { type Gate, type GateName, gates, LowRank, retention } from './gates.ts'
import { type AttentionOptions, checkHeads, checkInput, HeadProjection, headsField, rotaryField } from './heads.ts'
import { Linear, RMSNorm } from './layers.ts'
import type { Mixer } from './mixer.ts'
import { Module } from './module.ts'
import { atTokens, checkPacking, type Packing, places } from './packing.ts'
import { givenState, type Parts } from './parts.ts'
import { rotary } from './rotary.ts'

export interface FastWeightsAttentionConfig extends FeatureConfig {
  dModel: number
  heads: number
  /** How fast weights are written and forget, one of `layerRules`; the engine's `rules` has the formulas. */
  rule: RuleName
  /** What the sum or the attention-normalised delta rule adds to z . q (and the latter to z . k), by which it divides. */
  normaliserEps: number
  /** How a rule's gate is made from the input; see `gates`. */
  gate: GateName
  /** Write strengths are betaRange times a sigmoid: 1, or 2, which lets a state turn round along a key (eigenvalues below 0). */
  betaRange: number
  /** delta-product: the number of steps a token. */
  stepsPerToken: number
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

/** The rules that a layer can feed: those that take q, k and v, nothing that `ingredients` doesn't make, and begin with a state of zeros. */
const ingredients = new Set(['q', 'k', 'v', 'beta', 'gate', 'decay', 'kappa', 'rate', 'lambda'])
export const layerRules = (Object.keys(rules) as RuleName[]).filter((rule) => {
  const { inputs, empty }: Rule = rules[rule]
  return ['q', 'k', 'v'].every((name) => name in inputs) && Object.keys(inputs).every((name) => ingredients.has(name)) && !empty
})

/** Rules whose states don't grow for beta |k|^2 up to 2. */
const corrects = new Set<RuleName>(['delta', 'gated-delta', 'kda', 'delta-product', 'oja', 'gated-oja'])

const meanings: readonly Meaning<FastWeightsAttentionConfig>[] = [
  ['normaliserEps', 'rules with a normaliser (linear-attention, attention-delta)', (c) => ruleOf(c).eps !== undefined],
  ['gate', 'rules with a gate', (c) => 'gate' in ruleOf(c).inputs],
  ['betaRange', `the rules ${[...corrects].join(', ')}`, (c) => corrects.has(c.rule)],
  ['stepsPerToken', 'the rule delta-product', (c) => c.rule === 'delta-product'],
]

/** All settings but dModel. */
export type FastWeightsSettings = Omit<FastWeightsAttentionConfig, 'dModel'>

const valueMaps = { identity: (x: Tensor) => x, silu: (x: Tensor) => silu(x) }
const valueNorms = { none: (x: Tensor) => x, l2: (x: Tensor) => l2Norm(x) }

const fields: Fields<FastWeightsSettings> = {
  heads: headsField,
  ...featureFields,
  rule: { type: 'string', choices: layerRules, default: 'delta', description: 'how fast weights are written and forget' },
  normaliserEps: { type: 'number', min: 0, default: 1e-6, description: 'added to z . q, where a rule divides by it' },
  gate: { type: 'string', choices: namesOf(gates), default: 'softplus', description: "how a rule's gate comes from the input" },
  betaRange: {
    type: 'integer',
    min: 1,
    max: 2,
    expected: '1 or 2',
    default: 1,
    description: 'write strengths end here; 2: negative eigenvalues',
  },
  stepsPerToken: { type: 'integer', min: 1, default: 1, description: 'steps of the rule delta-product' },
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
export const fastWeightsAttentionDefaults: Omit<FastWeightsSettings, 'heads'> = withoutHeads

/** Throws unless the settings make sense, so that a constructor allocates nothing that it can't finish. */
function checkAttention(c: FastWeightsAttentionConfig): void {
  checkKnown(c, ['dModel', ...Object.keys(fields)])
  checkHeads(c.dModel, c.heads)
  checkChoice('rule', c.rule, Object.fromEntries(layerRules.map((rule) => [rule, 0])))
  checkFeatures(c, c.dModel / c.heads)
  checkMeanings<FastWeightsAttentionConfig>(c, fastWeightsAttentionDefaults, meanings)
  checkFields(c, fields)
  if (ruleOf(c).eps === undefined) return
  if (featureMaps[c.featureMap].sign === 'signed')
    throw new Error(`the rule ${c.rule} divides by z . q, which ${c.featureMap} can make zero or negative; take a map that can't`)
  checkNormaliserEps(c.featureMap, c.normaliserEps, c.rule)
  if (c.positions === 'rotary')
    throw new Error(`the rule ${c.rule} divides by z . q, which rotary positions can make zero or negative; use sinusoidal ones, or none`)
}

/** The fast weights (the rule's own state), what each convolution last saw [B,W-1,...], and with rotary positions the next one of each row [B]. */
export interface AttentionState extends Partial<FastWeightState> {
  query?: Tensor
  key?: Tensor
  value?: Tensor
  position?: Int32Array
}

/** Mesa's lambda stays above this, and begins at 1 (von Oswald 2025). */
const lambdaFloor = 0.25

/**
 * Fast-weight attention. The slow weights project x to queries, keys, values and what else the rule takes; the recurrence writes the
 * keys and values into each head's fast weights and reads them with the queries; the output layer mixes the heads.
 * With its defaults it is labml's FastWeightsAttention, parameter names included; `attentionPresets` has the configurations of other papers.
 */
export class FastWeightsAttention extends Module {
  query: HeadProjection
  key: HeadProjection
  value: HeadProjection
  /** beta = betaRange sigmoid(x W^T), one for each head (and step); absent for rules without. */
  interpolation_weight: HeadProjection[]
  features: Features
  gate: Gate | null
  /** RWKV-7's: kappa is the normalised product of key and this, [H,K']; rate = sigmoid(projection of x). */
  kappa: Tensor | null
  rate: LowRank | null
  /** Mesa's lambda = 1/4 + softplus of this, [H,K']. */
  lambda: Tensor | null
  norm: RMSNorm | null
  output_gate: Linear | null
  output: Linear
  config: FastWeightsAttentionConfig

  constructor(config: Partial<FastWeightsAttentionConfig> & { dModel: number; heads: number }, g: Generator) {
    super()
    const c = { ...fastWeightsAttentionDefaults, ...config }
    checkAttention(c)
    this.config = c
    const { dModel: D, heads: H, stepsPerToken: N } = c
    const { inputs } = ruleOf(c)
    this.query = new HeadProjection(D, D, c.conv, g)
    this.key = new HeadProjection(D, N * D, c.conv, g)
    this.value = new HeadProjection(D, N * D, c.conv, g)
    this.interpolation_weight = 'beta' in inputs ? [new HeadProjection(D, N * H, 0, g)] : []
    this.features = new Features(c, H, D / H, g)
    const { width } = this.features
    const channels = inputs.gate?.shape[3]
    const gateSizes = { dModel: D, heads: H, width: channels === undefined ? null : channels === 'K' ? width : D / H }
    this.gate = inputs.gate ? new gates[c.gate](gateSizes, g) : null
    this.kappa = 'kappa' in inputs ? parameter(ones([H, width])) : null
    this.rate = 'rate' in inputs ? new LowRank(D, D / H, H * width, g) : null
    this.lambda = 'lambda' in inputs ? parameter(full([H, width], Math.log(Math.expm1(1 - lambdaFloor)))) : null
    this.norm = c.headNorm ? new RMSNorm(D / H) : null
    this.output_gate = c.outputGate === 'none' ? null : new Linear(D, D, g, { bias: false })
    this.output = new Linear(D, D, g)
  }

  /** What x and `accumulate` hold at padding is never looked at, and y is 0 there. */
  forward(given: Tensor, state: AttentionState = {}, options: AttentionOptions = {}): { y: Tensor; state: AttentionState } {
    const { heads: H, scale, normaliserEps, outputGate, chunk } = this.config
    const rule = ruleOf(this.config)
    const { B, T, dModel: D } = checkInput(given, this.config.dModel)
    const packing = checkPacking('attention', options, B, T, ['accumulate'])
    const x = atTokens(given, packing)
    const begun = givenState('attention', state, this.stateParts(B), B)
    const query = this.query.forward(x, state.query, packing)
    const key = this.key.forward(x, state.key, packing)
    const value = this.value.forward(x, state.value, packing)

    const { inputs, position } = this.inputs(x, query.y, key.y, value.y, state, packing)
    const own = Object.keys(rule.state).map((part) => [part, state[part as keyof FastWeightState]])
    const before = begun ? (Object.fromEntries(own) as FastWeightState) : undefined
    const result = rule.run(inputs, before, {
      chunk,
      scale: scale === 'sqrt' ? 1 / Math.sqrt(D / H) : 1,
      ...(rule.eps !== undefined && { eps: normaliserEps }),
      ...packing,
    })

    let y = reshape(this.norm ? this.norm.forward(result.y) : result.y, [B, T, D])
    if (this.output_gate && outputGate !== 'none') y = mul(y, this.output_gate.forward(x, { activation: outputGate }))
    return {
      y: atTokens(this.output.forward(y, { accumulate: options.accumulate }), packing),
      state: { ...result.state, query: query.state, key: key.state, value: value.state, ...(position && { position }) },
    }
  }

  /** New random features, where each epoch has its own. */
  endEpoch(): void {
    if (this.config.favorRedraw === 'epoch') this.features.redraw()
  }

  /** What the rule takes, by name. The steps of delta-product are as many tokens to the feature map. */
  private inputs(x: Tensor, query: Tensor, key: Tensor, value: Tensor, state: AttentionState, packing: Packing) {
    const { heads: H, stepsPerToken: N, positions, valueMap, valueNorm, betaRange } = this.config
    const { inputs: expected } = ruleOf(this.config)
    const [B, T, D] = x.shape
    const split = (y: Tensor, n: number): Tensor => reshape(y, [B, T * n, H, D / H])
    const perStep = (y: Tensor): Tensor => (expected.k.shape.includes('N') ? reshape(y, [B, T, N, ...y.shape.slice(2)]) : y)
    let [q, k] = this.features.forward(split(query, 1), split(key, N))
    let position: Int32Array | undefined
    if (positions === 'rotary') {
      const { at, next } = places(packing, B, T, state.position)
      q = rotary(q, at)
      k = rotary(
        k,
        Int32Array.from({ length: B * T * N }, (_, i) => at[Math.floor(i / N)]),
      )
      position = next
    }
    const v = valueNorms[valueNorm](split(valueMaps[valueMap](value), N))
    const heads = (y: Tensor): Tensor => reshape(y, [B, T, H, this.features.width])
    const makers: Record<string, () => Tensor> = {
      q: () => q,
      k: () => perStep(k),
      v: () => perStep(v),
      beta: () => {
        const beta = affine(sigmoid(this.interpolation_weight[0].forward(x).y), betaRange)
        return expected.beta.shape.includes('N') ? reshape(beta, [B, T, N, H]) : beta
      },
      gate: () => this.gate!.forward(x),
      decay: () => retention(H, x),
      kappa: () => l2Norm(mul(k, this.kappa!)),
      rate: () => heads(sigmoid(this.rate!.forward(x))),
      lambda: () => affine(softplus(this.lambda!), 1, lambdaFloor),
    }
    return { inputs: Object.fromEntries(Object.keys(expected).map((name) => [name, makers[name]()])), position }
  }

  /** See `Parts`. */
  stateParts(B: number): Parts {
    const { dModel: D, heads: H, stepsPerToken: N, conv: W, positions, rule } = this.config
    const sizes = { B, T: 0, H, K: this.features.width, V: D / H, N, M: 0 }
    const own = Object.entries(rules[rule].state as Rule['state']).map(([name, letters]) => [
      name,
      { dtype: 'float32', shape: letters.map((letter) => sizes[letter]) } as const,
    ])
    const taps = (width: number) => ({ dtype: 'float32', shape: [B, W - 1, width] }) as const
    return {
      ...Object.fromEntries(own),
      ...(W > 0 && { query: taps(D), key: taps(N * D), value: taps(N * D) }),
      ...(positions === 'rotary' && { position: { dtype: 'int32', shape: [B] } as const }),
    }
  }
}

/** Rules that only add: what they hold is the same for the same tokens in any order. */
const adds = new Set<RuleName>(['sum', 'linear-attention'])

export const fastWeights: Mixer<FastWeightsSettings, FastWeightsAttention> = {
  title: 'fast-weights attention',
  description: 'a rule that writes keys and values into fast weights, and reads them with queries',
  source: "Schlag 2021; the rule's own paper",
  fields,
  check: checkAttention,
  make: (c, g) => new FastWeightsAttention(c, g),
  blind: ({ rule, positions, conv }) => adds.has(rule) && positions === 'none' && conv <= 1,
}
