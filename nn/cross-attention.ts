/**
 * Cross attention: a source is written into a memory once, and queries from elsewhere only read it. With fast weights the memory is what the
 * rule's recurrence leaves after the last token of the source, S (and z), however long that was; with softmax attention, the baseline, it is all
 * keys and values. Nothing is causal here: every query sees the whole source, so that of a sequence with itself this is an encoder's attention.
 * Tests: test/nn/encoder-decoder.test.ts; claims: claims/encoder-decoder.ts.
 */
import { checkDivisor, checkOptions } from '../engine/arguments.ts'
import { softmaxAttention } from '../engine/ops/attention.ts'
import { checkFloat, match } from '../engine/ops/check.ts'
import { affine, div, sigmoid } from '../engine/ops/elementwise.ts'
import { type FastWeightState, type RuleOptions, tokenFlags } from '../engine/ops/fast-weights.ts'
import { matmul } from '../engine/ops/matmul.ts'
import { reshape } from '../engine/ops/movement.ts'
import { sum } from '../engine/ops/reduce.ts'
import type { Generator } from '../engine/random.ts'
import { type RuleName, rules } from '../engine/rules/index.ts'
import type { Rule } from '../engine/rules/rule.ts'
import { type Tensor, tensor, zeros } from '../engine/tensor.ts'
import { type FastWeightsSettings, fastWeights, fastWeightsAttentionDefaults, layerRules } from './attention.ts'
import { type FeatureConfig, Features, featureFields } from './features.ts'
import { type AnyField, checkChoice, checkFields, checkKnown, defaultsOf, type Fields, namesOf, withDefaults } from './fields.ts'
import { type AttentionOptions, checkHeads, checkInput, HeadProjection, headsField, timeInside } from './heads.ts'
import { Linear, RMSNorm } from './layers.ts'
import type { LayerState } from './mixer.ts'
import { Module } from './module.ts'
import { atTokens, checkPacking } from './packing.ts'
import { givenState, type Parts } from './parts.ts'

// ---- the memory of a source ---------------------------------------------------------------------------------------------------------

/** Rules by which a source may be written: what they take comes from a token alone, and what they leave is read as S^T q [/ (z . q + eps)]. */
export const crossRules = layerRules.filter((name) => {
  const { inputs, state }: Rule = rules[name]
  return (
    Object.keys(inputs).every((input) => ['q', 'k', 'v', 'beta'].includes(input)) && Object.keys(state).every((part) => 'Sz'.includes(part))
  )
})

/** Of these, the ones whose writes don't look at what has been written: the memory is one matrix product. */
const adds: ReadonlySet<RuleName> = new Set(['sum', 'linear-attention'])

/** What a rule writes: k [B,T,H,K], v [B,T,H,V] and, for rules that have it, beta [B,T,H]. */
export interface Written {
  k: Tensor
  v: Tensor
  beta?: Tensor
}

/** The error of a rule that isn't one of `crossRules`. */
export const cannotWrite = (rule: unknown): Error =>
  new Error(`a source can't be written by the rule ${rule} (${crossRules.join(', ')} can)`)

/** Throws unless the rule is one of `crossRules`, with what it writes, and the mask one of zeros and ones for it. */
function checkWritten(op: string, rule: RuleName, { k, v, beta }: Written, mask: Tensor | undefined): void {
  if (!crossRules.includes(rule)) throw new Error(`${op}: ${cannotWrite(rule).message}`)
  checkFloat(op, k, v)
  const { B, T, H } = match(op, { k: ['B', 'T', 'H', 'K'], v: ['B', 'T', 'H', 'V'] }, { k: k.shape, v: v.shape })
  if (beta) match(op, { beta: [B, T, H] }, { beta: beta.shape })
  if (!beta && 'beta' in rules[rule].inputs) throw new Error(`${op}: the rule ${rule} needs beta [B,T,H], how strongly each token writes`)
  if (mask) tokenFlags(op, 'mask', mask, B, T)
}

/**
 * Writes all tokens of a source and gives the last state. `form`: token by token, in chunks, or at once; by default at once for rules that only
 * add, S = K^T V and z = K^T 1, else in chunks. mask [B,T]: 0 where there is no token; what stands there is never looked at.
 */
export function writeSource(
  rule: RuleName,
  { k, v, beta }: Written,
  options: Pick<RuleOptions, 'form' | 'chunk' | 'mask'> & { eps?: number } = {},
): FastWeightState {
  const { form, mask } = options
  checkWritten('writeSource', rule, { k, v, beta }, mask)
  if (adds.has(rule) && (form === undefined || form === 'parallel')) {
    const [K, V] = [k, v].map((x) => timeInside(atTokens(x, { mask })))
    return { S: matmul(K, V, { transposeA: true }), ...('z' in rules[rule].state && { z: sum(K, { axis: 2 }) }) }
  }
  const { eps, ...rest } = options
  const { run, eps: normaliser }: Rule = rules[rule]
  // The read-outs of the source's own tokens are no part of this: any queries will do.
  return run({ q: k, k, v, ...(beta && { beta }) }, undefined, { ...rest, ...(normaliser !== undefined && eps !== undefined && { eps }) })
    .state
}

/** Options of `readSource`. */
export interface ReadOptions {
  /** 1 by default. */
  scale?: number
  /** Added to z . q, where there is a z; 1e-6 by default. */
  eps?: number
}

/** y_t = scale S^T q_t [/ (z . q_t + eps)]: each query reads the same memory. q: [B,T,H,K]; S: [B,H,K,V]; z: [B,H,K] -> [B,T,H,V]. */
export function readSource(q: Tensor, { S, z }: FastWeightState, { scale = 1, eps = 1e-6 }: ReadOptions = {}): Tensor {
  const Q = timeInside(q)
  const y = affine(matmul(Q, S), scale)
  return timeInside(z ? div(y, affine(matmul(Q, reshape(z, [...z.shape, 1])), 1, eps)) : y)
}

/**
 * The same of rules that only add, without the memory: Y = scale A V [/ (A 1 + eps)], with the scores A = Q K^T of all pairs of a query and a token of
 * the source (Katharopoulos 2020, eq. 4, phi applied to q and k beforehand). Cheaper where the source is shorter than keys are wide.
 */
export function scoreSource(rule: RuleName, q: Tensor, { k, v }: Written, options: ReadOptions & { mask?: Tensor } = {}): Tensor {
  const { scale = 1, eps = 1e-6, mask } = options
  if (crossRules.includes(rule) && !adds.has(rule))
    throw new Error(`scoreSource: what the rule ${rule} writes depends on what it has written (${[...adds].join(' and ')} only add)`)
  checkWritten('scoreSource', rule, { k, v }, mask)
  const [K, V] = [k, v].map((x) => timeInside(atTokens(x, { mask })))
  const A = matmul(timeInside(q), K, { transposeB: true })
  const y = affine(matmul(A, V), scale)
  return timeInside('z' in rules[rule].state ? div(y, affine(sum(A, { axis: -1, keepDim: true }), 1, eps)) : y)
}

// ---- the layers ---------------------------------------------------------------------------------------------------------------------

/** A memory that is written once, from a source [B,Ts,D], and read by queries from x [B,Tt,D]. */
export interface CrossLayer extends Module {
  /** `mask`, int32 [B,Ts]: 0 where the source has no token; what it holds there is never looked at. */
  write(source: Tensor, options?: { mask?: Tensor }): LayerState
  /** [B,Tt,D]. What x and `accumulate` hold where `mask` [B,Tt] is 0 is never looked at, and y is 0 there. */
  read(x: Tensor, memory: LayerState, options?: AttentionOptions): Tensor
  /** What x reads of a source that is written for it alone; `mask` is the source's. */
  forward(x: Tensor, source: Tensor, options?: { mask?: Tensor; accumulate?: Tensor }): Tensor
  /** The parts of its memory for B rows; before anything is written: zeros. */
  stateParts(B: number): Parts
  /** Draws random features anew, where they are of an epoch. */
  endEpoch?(): void
}

/** Settings of a `CrossAttention` layer. */
export interface CrossSettings
  extends FeatureConfig,
    Pick<FastWeightsSettings, 'heads' | 'rule' | 'normaliserEps' | 'betaRange' | 'scale'> {
  /** RMS-normalise what each head reads, with a gain for each channel of a head. */
  headNorm: boolean
  /** C, the chunk length in which a source is written. */
  chunk: number
}

const { rule, normaliserEps, betaRange, scale, headNorm, chunk } = fastWeights.fields
const fields: Fields<CrossSettings> = {
  heads: headsField,
  ...featureFields,
  // Queries and keys are mapped apart, and must have the same directions.
  favorRedraw: { ...featureFields.favorRedraw, choices: ['never', 'epoch'] },
  rule: { ...rule, choices: crossRules },
  normaliserEps,
  betaRange,
  scale,
  headNorm,
  chunk,
}

function checkCross(c: CrossSettings & { dModel: number }): void {
  checkKnown(c, ['dModel', ...Object.keys(fields)])
  if (layerRules.includes(c.rule) && !crossRules.includes(c.rule)) throw cannotWrite(c.rule)
  fastWeights.check({ ...fastWeightsAttentionDefaults, ...c })
  checkFields(c, fields)
  if ('z' in rules[c.rule].state)
    checkDivisor(
      'normaliserEps',
      c.normaliserEps,
      `a source may have no token at all, and the rule ${c.rule} divides by z . q, which is 0 then`,
    )
}

function sourceOf(source: Tensor, dModel: number, options: { mask?: Tensor }): { x: Tensor; mask?: Tensor; B: number; T: number } {
  const { B, T } = checkInput(source, dModel, 'cross attention')
  checkOptions('cross attention', options, ['mask'])
  const { mask } = checkPacking('cross attention', options, B, T)
  return { x: atTokens(source, { mask }), mask, B, T }
}

function readerOf(given: Tensor, dModel: number, memory: LayerState, parts: (B: number) => Parts, options: AttentionOptions) {
  const { B, T } = checkInput(given, dModel, 'cross attention')
  const packing = checkPacking('cross attention', options, B, T, ['accumulate'])
  if (!givenState('cross attention', memory, parts(B), B))
    throw new Error('cross attention: there is nothing to read: write a source first')
  return { x: atTokens(given, packing), packing, B, T }
}

/** Fast weights that a source programs and others read; parameters are named as in `FastWeightsAttention`. */
export class CrossAttention extends Module implements CrossLayer {
  query: HeadProjection
  key: HeadProjection
  value: HeadProjection
  /** beta = betaRange sigmoid(x W^T), one for each head; absent for rules without. */
  interpolation_weight: HeadProjection[]
  features: Features
  norm: RMSNorm | null
  output: Linear
  config: CrossSettings & { dModel: number }

  constructor(config: Partial<CrossSettings> & { dModel: number; heads: number }, g: Generator) {
    super()
    const c = withDefaults(defaultsOf(fields), config)
    checkCross(c)
    this.config = c
    const { dModel: D, heads: H } = c
    this.query = new HeadProjection(D, D, 0, g)
    this.key = new HeadProjection(D, D, 0, g)
    this.value = new HeadProjection(D, D, 0, g)
    this.interpolation_weight = 'beta' in rules[c.rule].inputs ? [new HeadProjection(D, H, 0, g)] : []
    this.features = new Features(c, H, D / H, g)
    this.norm = c.headNorm ? new RMSNorm(D / H) : null
    this.output = new Linear(D, D, g)
  }

  write(source: Tensor, options: { mask?: Tensor } = {}): FastWeightState {
    const { dModel, rule, chunk, normaliserEps: eps } = this.config
    const { x, mask } = sourceOf(source, dModel, options)
    return writeSource(rule, this.written(x), { chunk, mask, eps })
  }

  read(given: Tensor, memory: LayerState, options: AttentionOptions = {}): Tensor {
    const { x, packing } = readerOf(given, this.config.dModel, memory, (B) => this.stateParts(B), options)
    return this.finish(readSource(this.queries(x), memory as FastWeightState, this.reading()), options, packing)
  }

  /**
   * What x [B,Tt,D] reads of a source [B,Ts,D], [B,Tt,D], in one of two forms that agree up to rounding: through the memory, or, for rules that only
   * add, by the scores of all pairs.
   */
  forward(given: Tensor, source: Tensor, options: { mask?: Tensor; accumulate?: Tensor; form?: 'memory' | 'scores' } = {}): Tensor {
    checkOptions('cross attention', options, ['mask', 'accumulate', 'form'])
    const { form = 'memory', accumulate, mask } = options
    checkChoice('form of cross attention', form, { memory: 0, scores: 0 })
    if (form === 'memory') return this.read(given, this.write(source, { mask }), { accumulate })
    const { B } = checkInput(given, this.config.dModel, 'cross attention')
    const from = sourceOf(source, this.config.dModel, { mask })
    if (from.B !== B) throw new Error(`cross attention: x has ${B} rows, the source ${from.B}`)
    const y = scoreSource(this.config.rule, this.queries(given), this.written(from.x), { ...this.reading(), mask: from.mask })
    return this.finish(y, { accumulate }, {})
  }

  /** See `Parts`. */
  stateParts(B: number): Parts {
    const { dModel: D, heads: H, rule } = this.config
    const sizes: Record<string, number> = { B, H, K: this.features.width, V: D / H }
    const parts = Object.entries(rules[rule].state as Rule['state'])
    return Object.fromEntries(parts.map(([name, letters]) => [name, { dtype: 'float32', shape: letters.map((letter) => sizes[letter]) }]))
  }

  /** New random features, where each epoch has its own. */
  endEpoch(): void {
    if (this.config.favorRedraw === 'epoch') this.features.redraw()
  }

  private split(y: Tensor): Tensor {
    const [B, T, D] = y.shape
    return reshape(y, [B, T, this.config.heads, D / this.config.heads])
  }

  private queries(x: Tensor): Tensor {
    return this.features.forward(this.split(this.query.forward(x).y))[0]
  }

  private written(x: Tensor): Written {
    const [k] = this.features.forward(this.split(this.key.forward(x).y))
    const [strength] = this.interpolation_weight
    return {
      k,
      v: this.split(this.value.forward(x).y),
      ...(strength && { beta: affine(sigmoid(strength.forward(x).y), this.config.betaRange) }),
    }
  }

  private reading(): ReadOptions {
    const { dModel, heads, scale, normaliserEps: eps } = this.config
    return { scale: scale === 'sqrt' ? 1 / Math.sqrt(dModel / heads) : 1, eps }
  }

  private finish(read: Tensor, { accumulate }: AttentionOptions, { mask }: { mask?: Tensor }): Tensor {
    const [B, T] = read.shape
    const y = reshape(this.norm ? this.norm.forward(read) : read, [B, T, this.config.dModel])
    return atTokens(this.output.forward(y, { accumulate }), { mask })
  }
}

/** What softmax cross attention keeps of a source of Ts tokens. */
export interface SourceKeys {
  /** [B,H,Ts,K]. */
  keys: Tensor
  /** [B,H,Ts,V]. */
  values: Tensor
  /** [B,Ts]: 0 where there is no token. */
  visible: Int32Array
}

/** The baseline (Vaswani 2017): y = softmax(q k^T / sqrt(K)) v over all tokens of the source. */
export class SoftmaxCrossAttention extends Module implements CrossLayer {
  query: HeadProjection
  key: HeadProjection
  value: HeadProjection
  output: Linear
  heads: number

  constructor({ dModel, heads }: { dModel: number; heads: number }, g: Generator) {
    super()
    checkHeads(dModel, heads)
    this.heads = heads
    this.query = new HeadProjection(dModel, dModel, 0, g)
    this.key = new HeadProjection(dModel, dModel, 0, g)
    this.value = new HeadProjection(dModel, dModel, 0, g)
    this.output = new Linear(dModel, dModel, g)
  }

  write(source: Tensor, options: { mask?: Tensor } = {}): SourceKeys {
    const { x, mask, B, T } = sourceOf(source, this.output.weight.shape[0], options)
    return {
      keys: this.split(this.key.forward(x).y),
      values: this.split(this.value.forward(x).y),
      visible: mask ? Int32Array.from(mask.indices!) : new Int32Array(B * T).fill(1),
    }
  }

  read(given: Tensor, memory: LayerState, options: AttentionOptions = {}): Tensor {
    const D = this.output.weight.shape[0]
    const { x, packing, B, T } = readerOf(given, D, memory, (B) => this.stateParts(B), options)
    const { keys, values, visible } = memory as SourceKeys
    const Ts = keys.shape[2]
    const q = affine(this.split(this.query.forward(x).y), 1 / Math.sqrt(D / this.heads))
    const seen = tensor(visible, { shape: [B, 1, 1, Ts], device: x.device })
    const y = Ts === 0 ? zeros(q.shape, x.device) : softmaxAttention(q, keys, values, seen)
    return atTokens(this.output.forward(reshape(timeInside(y), [B, T, D]), { accumulate: options.accumulate }), packing)
  }

  /** What x [B,Tt,D] reads of a source [B,Ts,D], [B,Tt,D]. */
  forward(x: Tensor, source: Tensor, { mask, accumulate }: { mask?: Tensor; accumulate?: Tensor } = {}): Tensor {
    return this.read(x, this.write(source, { mask }), { accumulate })
  }

  /** See `Parts`. */
  stateParts(B: number): Parts {
    const keys = { dtype: 'float32', shape: [B, this.heads, -2, this.output.weight.shape[0] / this.heads] } as const
    return { keys, values: keys, visible: { dtype: 'int32', shape: [B, -2] } }
  }

  private split(y: Tensor): Tensor {
    const [B, T, D] = y.shape
    return timeInside(reshape(y, [B, T, this.heads, D / this.heads]))
  }
}

// ---- their table --------------------------------------------------------------------------------------------------------------------

/** A kind of cross attention: as a row of `mixers`, with what is made of it. */
interface CrossRow {
  fields: Readonly<Record<string, AnyField>>
  /** Throws unless the settings make sense; nothing has been allocated then. */
  check(c: any): void
  make(c: any, g: Generator): CrossAttention | SoftmaxCrossAttention
}

export type CrossKind = 'fast-weights' | 'softmax'

/** By the names of the mixers whose cross form they are. */
export const crossKinds: Readonly<Record<CrossKind, CrossRow>> = {
  'fast-weights': { fields: fields as never, check: checkCross, make: (c, g) => new CrossAttention(c, g) },
  softmax: { fields: { heads: headsField }, check: (c) => checkHeads(c.dModel, c.heads), make: (c, g) => new SoftmaxCrossAttention(c, g) },
}
export const crossNames = namesOf(crossKinds)
