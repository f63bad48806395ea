/**
 * Mamba-2's layer (Dao & Gu 2024) as its authors have it: one projection and one convolution for values, keys and queries (x, B and C there), groups of heads
 * that share keys and queries, values times a step delta, and a norm beside the gate.
 */
import { add, exp, maximum, minimum, mul, neg, silu, softplus } from '../engine/ops/elementwise.ts'
import type { FastWeightState } from '../engine/ops/fast-weights.ts'
import { reshape, split } from '../engine/ops/movement.ts'
import { rmsNorm } from '../engine/ops/norm.ts'
import type { Generator } from '../engine/random.ts'
import { spreadHeads } from '../engine/rules/rule.ts'
import { gatedSumRule } from '../engine/rules/sum.ts'
import { full, ones, parameter, type Tensor, zeros } from '../engine/tensor.ts'
import { checkFields, checkKnown, defaultsOf, type Fields, withDefaults } from './fields.ts'
import { drawn, logOf } from './gates.ts'
import { type AttentionOptions, checkInput, convAlone } from './heads.ts'
import { Linear } from './layers.ts'
import type { Look } from './mixer.ts'
import { Module } from './module.ts'
import { atTokens, checkPacking, type Packing, packedConv } from './packing.ts'
import { givenState, type Parts } from './parts.ts'

/** Settings of a `Mamba2Layer`. */
export interface Mamba2Settings {
  heads: number
  /** V of a head. */
  valueWidth: number
  /** N, the width of keys and queries. */
  stateWidth: number
  /** G, how many keys and queries the heads share. */
  groups: number
  /** W, taps of the convolution before the memory. */
  conv: number
  /** A bias in that convolution. */
  convBias: boolean
  /** Biases of both projections. */
  bias: boolean
  /** The least that delta may be. */
  stepMin: number
  /** The most that delta may be; 0 for no limit. */
  stepMax: number
  /** What passes beside the memory is scaled for each head, or each channel. */
  skip: 'head' | 'channel'
  /** RMS norm over the channels of each group, after the gate or before it; or none. */
  outputNorm: 'after' | 'before' | 'none'
  normEps: number
}
export type Mamba2Config = Mamba2Settings & { dModel: number }

const count = (description: string, initial: number) => ({ type: 'integer', min: 1, default: initial, description }) as const
const fields: Fields<Mamba2Settings> = {
  heads: count('heads', 8),
  valueWidth: count('V of a head', 64),
  stateWidth: count('width of keys and queries', 128),
  groups: count('keys and queries, which heads share', 1),
  conv: count('taps of the convolution', 4),
  convBias: { type: 'boolean', default: true, description: 'a bias in it' },
  bias: { type: 'boolean', default: false, description: 'biases in the projections' },
  stepMin: { type: 'number', min: 0, default: 0, description: 'steps are at least this' },
  stepMax: { type: 'number', min: 0, default: 0, description: 'and at most this; 0: no limit' },
  skip: { type: 'string', choices: ['head', 'channel'], default: 'head', description: 'what passes beside the memory is scaled for each' },
  outputNorm: { type: 'string', choices: ['after', 'before', 'none'], default: 'after', description: 'where the norm stands to the gate' },
  normEps: { type: 'number', min: 0, default: 1e-5, description: 'its eps' },
}
/** The settings of a `Mamba2Layer` of which nothing is said. */
export const mamba2Defaults: Mamba2Settings = defaultsOf(fields)

/** What a `Mamba2Layer` carries: its memory, and the last inputs of its convolution. */
export interface Mamba2State extends Partial<FastWeightState> {
  /** [B,W-1,C] over values, keys and queries. */
  taps?: Tensor
}

export class Mamba2Layer extends Module {
  /** To z [H V], values [H V], keys [G N], queries [G N] and steps [H]. */
  input: Linear
  /** [C,W] and [C]. */
  conv: Tensor
  conv_bias: Tensor | null
  dt_bias: Tensor
  A_log: Tensor
  /** [H] or [H V]. */
  skip: Tensor
  /** [H V]. */
  gain: Tensor | null
  output: Linear
  config: Mamba2Config

  constructor(config: Partial<Mamba2Settings> & { dModel: number }, g: Generator) {
    super()
    const c = withDefaults(mamba2Defaults, config)
    checkKnown(c, ['dModel', ...Object.keys(fields)])
    checkFields(c, fields)
    if (c.heads % c.groups !== 0) throw new Error(`${c.groups} groups don't divide the ${c.heads} heads`)
    this.config = c
    const { inner, channels } = sizes(c)
    this.input = new Linear(c.dModel, inner + channels + c.heads, g, { bias: c.bias })
    this.conv = convAlone(channels, c.conv, g)
    this.conv_bias = c.convBias ? parameter(zeros([channels])) : null
    this.dt_bias = parameter(full([c.heads], -4))
    this.A_log = drawn([c.heads], g, (u) => logOf(1 + 15 * u))
    this.skip = parameter(ones([c.skip === 'head' ? c.heads : inner]))
    this.gain = c.outputNorm === 'none' ? null : parameter(ones([inner]))
    this.output = new Linear(inner, c.dModel, g, { bias: c.bias })
  }

  /** x: [B,T,D]. What x and `accumulate` hold at padding is never looked at, and y is 0 there. */
  forward(given: Tensor, state: Mamba2State = {}, options: AttentionOptions = {}): { y: Tensor; state: Mamba2State } {
    const { B, T } = checkInput(given, this.config.dModel, 'mamba2')
    const packing = checkPacking('mamba2', options, B, T, ['accumulate'])
    const x = atTokens(given, packing)
    const begun = givenState('mamba2', state, this.stateParts(B), B)
    const { q, k, v, scaled, gate, z, taps } = this.inputs(x, state.taps, packing)
    const result = gatedSumRule(q, k, scaled, gate, begun ? { S: state.S! } : undefined, packing)
    const { heads: H, valueWidth: V, groups: G, outputNorm: norm, normEps } = this.config
    const skip = this.config.skip === 'head' ? reshape(this.skip, [H, 1]) : reshape(this.skip, [H, V])
    const y = reshape(add(result.y, mul(skip, v)), [B, T, H * V])
    const gain = (y: Tensor): Tensor => mul(reshape(rmsNorm(reshape(y, [B, T, G, (H * V) / G]), null, normEps), [B, T, H * V]), this.gain!)
    const gated = norm === 'before' ? mul(gain(y), z) : norm === 'after' ? gain(mul(y, z)) : mul(y, z)
    return {
      y: atTokens(this.output.forward(gated, { accumulate: options.accumulate }), packing),
      state: { ...result.state, taps },
    }
  }

  private inputs(x: Tensor, before: Tensor | undefined, packing: Packing) {
    const { heads: H, valueWidth: V, stateWidth: N, groups: G, stepMin, stepMax } = this.config
    const { inner, channels } = sizes(this.config)
    const [B, T] = x.shape
    const [z, raw, dt] = split(this.input.forward(x), 2, [inner, channels, H])
    const convolved = packedConv(raw, this.conv, before, packing)
    const y = silu(this.conv_bias ? add(convolved.y, this.conv_bias) : convolved.y)
    const [values, keys, queries] = split(y, 2, [inner, G * N, G * N])
    const grouped = (y: Tensor): Tensor => spreadHeads(reshape(y, [B, T, G, N]), H)
    const free = softplus(add(dt, this.dt_bias))
    const step = stepMin > 0 ? maximum(free, stepMin) : free
    const delta = stepMax > 0 ? minimum(step, stepMax) : step
    const v = reshape(values, [B, T, H, V])
    const scaled = mul(v, reshape(delta, [B, T, H, 1]))
    const gate = mul(delta, neg(exp(this.A_log)))
    return { q: grouped(queries), k: grouped(keys), v, scaled, gate, z: silu(z), taps: convolved.state }
  }

  /** See `Look`. */
  look(x: Tensor): Look {
    checkInput(x, this.config.dModel, 'mamba2')
    const { q, k, scaled: v, gate } = this.inputs(x, undefined, {})
    return { inputs: { q, k, v, gate }, pairs: true, read: (v) => gatedSumRule(q, k, v, gate).y }
  }

  /** See `Parts`. */
  stateParts(B: number): Parts {
    const { heads: H, valueWidth: V, stateWidth: N, conv: W } = this.config
    const float = (...shape: number[]) => ({ dtype: 'float32', shape }) as const
    return { S: float(B, H, N, V), taps: float(B, W - 1, sizes(this.config).channels) }
  }
}

const sizes = ({ heads, valueWidth, stateWidth, groups }: Mamba2Settings): { inner: number; channels: number } => ({
  inner: heads * valueWidth,
  channels: heads * valueWidth + 2 * groups * stateWidth,
})
