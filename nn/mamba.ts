/** Mamba's layer (Gu & Dao 2023): a decay for each channel and each of its N numbers, which the input chooses along with what is written and read. */
import { add, exp, mul, neg, silu, softplus } from '../engine/ops/elementwise.ts'
import type { FastWeightState } from '../engine/ops/fast-weights.ts'
import { reshape, split } from '../engine/ops/movement.ts'
import type { Generator } from '../engine/random.ts'
import { spreadHeads } from '../engine/rules/rule.ts'
import { gatedSumRule } from '../engine/rules/sum.ts'
import { ones, parameter, type Tensor, zeros } from '../engine/tensor.ts'
import { checkFields, checkKnown, defaultsOf, type Fields, withDefaults } from './fields.ts'
import { type AttentionOptions, checkInput, convAlone } from './heads.ts'
import { Linear } from './layers.ts'
import type { Look } from './mixer.ts'
import { hostParameter, Module } from './module.ts'
import { atTokens, checkPacking, type Packing, packedConv } from './packing.ts'
import { givenState, type Parts } from './parts.ts'

/** Settings of a `MambaLayer`. */
export interface MambaSettings {
  /** I channels, each with N numbers. */
  inner: number
  /** N, numbers of a channel's state. */
  stateWidth: number
  /** R, by way of which steps are made. */
  stepRank: number
  /** W, taps of the convolution before the memory. */
  conv: number
  /** A bias in that convolution. */
  convBias: boolean
  /** Biases of the first and the last projection. */
  bias: boolean
}

const count = (description: string, initial: number) => ({ type: 'integer', min: 1, default: initial, description }) as const
const fields: Fields<MambaSettings> = {
  inner: count('channels', 128),
  stateWidth: count('numbers of a channel', 16),
  stepRank: count('numbers that steps are made of', 4),
  conv: count('taps of the convolution', 4),
  convBias: { type: 'boolean', default: true, description: 'a bias in it' },
  bias: { type: 'boolean', default: false, description: 'biases in the projections' },
}
/** The settings of a `MambaLayer` of which nothing is said. */
export const mambaDefaults: MambaSettings = defaultsOf(fields)

/** What a `MambaLayer` carries: its memory S [B,I,N,1], and the last inputs of its convolution. */
export interface MambaState extends Partial<FastWeightState> {
  /** [B,W-1,I]. */
  taps?: Tensor
}

/**
 * u = silu(conv(x W)), [step, B, C] = u W', delta = softplus(step W'' + b); S[i] <- exp(-delta_i exp(A_log[i])) S[i] + delta_i u_i B,
 * y_i = S[i] . C + D_i u_i; out = (y silu(z)) W'''. The memory of a channel is the gated sum's with a value of one number: S [B,I,N,1].
 */
export class MambaLayer extends Module {
  /** To u before its convolution [I] and z [I]. */
  input: Linear
  /** Taps of the convolution, [I,W]. */
  conv: Tensor
  conv_bias: Tensor | null
  /** To R numbers of steps, B and C. */
  select: Linear
  step: Linear
  /** [I,N]. */
  A_log: Tensor
  /** [I]. */
  skip: Tensor
  output: Linear
  config: MambaSettings & { dModel: number }

  constructor(config: Partial<MambaSettings> & { dModel: number }, g: Generator) {
    super()
    const c = withDefaults(mambaDefaults, config)
    checkKnown(c, ['dModel', ...Object.keys(fields)])
    checkFields(c, fields)
    this.config = c
    const { dModel, inner: I, stateWidth: N, stepRank: R } = c
    this.input = new Linear(dModel, 2 * I, g, { bias: c.bias })
    this.conv = convAlone(I, c.conv, g)
    this.conv_bias = c.convBias ? parameter(zeros([I])) : null
    this.select = new Linear(I, R + 2 * N, g, { bias: false })
    this.step = new Linear(R, I, g)
    this.A_log = hostParameter([I, N], () => Float64Array.from({ length: I * N }, (_, i) => Math.log(1 + (i % N))))
    this.skip = parameter(ones([I]))
    this.output = new Linear(I, dModel, g, { bias: c.bias })
  }

  /** x: [B,T,D]. What x and `accumulate` hold at padding is never looked at, and y is 0 there. */
  forward(given: Tensor, state: MambaState = {}, options: AttentionOptions = {}): { y: Tensor; state: MambaState } {
    const { B, T } = checkInput(given, this.config.dModel, 'mamba')
    const packing = checkPacking('mamba', options, B, T, ['accumulate'])
    const x = atTokens(given, packing)
    const begun = givenState('mamba', state, this.stateParts(B), B)
    const { q, k, v, gate, u, z, taps } = this.inputs(x, state.taps, packing)
    const result = gatedSumRule(q, k, v, gate, begun ? { S: state.S! } : undefined, packing)
    const y = mul(add(reshape(result.y, u.shape), mul(u, this.skip)), z)
    return { y: atTokens(this.output.forward(y, { accumulate: options.accumulate }), packing), state: { ...result.state, taps } }
  }

  private inputs(x: Tensor, before: Tensor | undefined, packing: Packing) {
    const { inner: I, stateWidth: N, stepRank: R } = this.config
    const [B, T] = x.shape
    const [raw, z] = split(this.input.forward(x), 2, [I, I])
    const convolved = packedConv(raw, this.conv, before, packing)
    const u = silu(this.conv_bias ? add(convolved.y, this.conv_bias) : convolved.y)
    const [step, keys, queries] = split(this.select.forward(u), 2, [R, N, N])
    const delta = softplus(this.step.forward(step))
    const all = (y: Tensor): Tensor => spreadHeads(reshape(y, [B, T, 1, N]), I)
    const gate = mul(reshape(delta, [B, T, I, 1]), neg(exp(this.A_log)))
    return { q: all(queries), k: all(keys), v: reshape(mul(delta, u), [B, T, I, 1]), gate, u, z: silu(z), taps: convolved.state }
  }

  /** See `Look`. */
  look(x: Tensor): Look {
    checkInput(x, this.config.dModel, 'mamba')
    const { q, k, v, gate } = this.inputs(x, undefined, {})
    return { inputs: { q, k, v, gate }, pairs: true, read: (v) => gatedSumRule(q, k, v, gate).y }
  }

  /** See `Parts`. */
  stateParts(B: number): Parts {
    const { inner: I, stateWidth: N, conv: W } = this.config
    return { S: { dtype: 'float32', shape: [B, I, N, 1] }, taps: { dtype: 'float32', shape: [B, W - 1, I] } }
  }
}
