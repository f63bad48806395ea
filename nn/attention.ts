/**
 * Fast-weight attention: [B,T,D] -> [B,T,D], with a state that carries everything an earlier piece of the sequence left behind, so that
 * a sequence can be run whole, in pieces, or token by token with the same weights and the same result.
 */
import { checkFlag, checkNumber, checkObject } from '../engine/arguments.ts'
import { affine, mul, sigmoid, silu, softplus } from '../engine/ops/elementwise.ts'
import type { FastWeightState } from '../engine/ops/fast-weights.ts'
import { reshape } from '../engine/ops/movement.ts'
import { l2Norm } from '../engine/ops/norm.ts'
import type { Generator } from '../engine/random.ts'
import { type RuleName, rules } from '../engine/rules/index.ts'
import type { Rule } from '../engine/rules/rule.ts'
import { full, ones, parameter, type Tensor } from '../engine/tensor.ts'
import {
  checkChoice,
  checkFeatures,
  checkKnown,
  checkMeanings,
  checkNormaliserEps,
  type FeatureConfig,
  Features,
  featureDefaults,
  featureMaps,
  type Meaning,
} from './features.ts'
import { type Gate, type GateName, gates, LowRank, retention } from './gates.ts'
import { type AttentionOptions, checkHeads, checkInput, HeadProjection } from './heads.ts'
import { Linear, RMSNorm } from './layers.ts'
import { Module } from './module.ts'
import { atTokens, checkPacking, type Packing, places } from './packing.ts'
import type { Parts } from './parts.ts'
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

export const fastWeightsAttentionDefaults = {
  ...featureDefaults,
  rule: 'delta',
  normaliserEps: 1e-6,
  gate: 'softplus',
  betaRange: 1,
  stepsPerToken: 1,
  scale: 'none',
  positions: 'none',
  valueMap: 'identity',
  valueNorm: 'none',
  conv: 0,
  headNorm: false,
  outputGate: 'none',
  chunk: 32,
} as const satisfies Partial<FastWeightsAttentionConfig>

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

export const attentionOptions = ['dModel', 'heads', ...Object.keys(fastWeightsAttentionDefaults)]

/** Throws unless the settings make sense, so that a constructor allocates nothing that it can't finish. */
export function checkAttention(c: FastWeightsAttentionConfig): void {
  checkKnown(c, attentionOptions)
  checkHeads(c.dModel, c.heads)
  checkChoice('rule', c.rule, Object.fromEntries(layerRules.map((rule) => [rule, 0])))
  checkFeatures(c, c.dModel / c.heads)
  checkChoice('gate', c.gate, gates)
  checkChoice('scale', c.scale, { none: 0, sqrt: 0 })
  checkChoice('positions', c.positions, { none: 0, rotary: 0 })
  checkChoice('value map', c.valueMap, valueMaps)
  checkChoice('value norm', c.valueNorm, valueNorms)
  checkChoice('output gate', c.outputGate, { none: 0, silu: 0, sigmoid: 0 })
  checkMeanings<FastWeightsAttentionConfig>(c, fastWeightsAttentionDefaults, meanings)
  if (!(Number.isInteger(c.conv) && c.conv >= 0)) throw new Error(`conv must be a number of taps, 0 or more, not ${c.conv}`)
  for (const name of ['chunk', 'stepsPerToken'] as const)
    if (!(Number.isInteger(c[name]) && c[name] > 0)) throw new Error(`${name} must be a positive integer, not ${c[name]}`)
  if (c.betaRange !== 1 && c.betaRange !== 2) throw new Error(`betaRange must be 1 or 2, not ${c.betaRange}`)
  checkNumber('normaliserEps', c.normaliserEps, '0 or more')
  checkFlag('headNorm', c.headNorm)
  if (ruleOf(c).eps === undefined) return
  if (featureMaps[c.featureMap].sign === 'signed')
    throw new Error(`the rule ${c.rule} divides by z . q, which ${c.featureMap} can make zero or negative; take a map that can't`)
  checkNormaliserEps(c.featureMap, c.normaliserEps, c.rule)
  if (c.positions === 'rotary')
    throw new Error(`the rule ${c.rule} divides by z . q, which rotary positions can make zero or negative; use sinusoidal ones, or none`)
}

const valueMaps = { identity: (x: Tensor) => x, silu: (x: Tensor) => silu(x) }
const valueNorms = { none: (x: Tensor) => x, l2: (x: Tensor) => l2Norm(x) }

/** The fast weights (the rule's own state), what each convolution last saw [B,W-1,...], and with rotary positions the next one of each row [B]. */
export interface AttentionState extends Partial<FastWeightState> {
  query?: Tensor
  key?: Tensor
  value?: Tensor
  position?: Int32Array
}

/** Whether a state is given; throws unless it has exactly the parts that it should. Their shapes are what each op checks. */
function checkGiven(state: AttentionState, parts: Parts, B: number): boolean {
  checkObject('attention', state, Object.keys(parts)[0])
  const given = Object.entries(state).flatMap(([name, part]) => (part === undefined ? [] : [name]))
  if (given.length === 0) return false
  for (const name of given) if (!(name in parts)) throw new Error(`attention: the state has a ${name}, which this layer's lacks`)
  for (const name of Object.keys(parts)) if (!given.includes(name)) throw new Error(`attention: the state lacks ${name}`)
  if (state.position && state.position.length !== B)
    throw new Error(`attention: the state has positions for ${state.position.length} rows, the input has ${B}`)
  return true
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
    const begun = checkGiven(state, this.stateParts(B), B)
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
