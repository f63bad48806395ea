/**
 * RWKV's layers as its authors have them, with the token shift before the projections: the rules are those of engine/rules, and of `FastWeightsAttention`,
 * whose presets shift after them. Names and formulas: Peng 2023 (RWKV-4), 2024 (Eagle, RWKV-5), 2025 (RWKV-7).
 */
import { add, affine, exp, log, mul, neg, relu, sigmoid, silu, square, sub } from '../engine/ops/elementwise.ts'
import type { FastWeightState } from '../engine/ops/fast-weights.ts'
import { reshape } from '../engine/ops/movement.ts'
import { l2Norm, layerNorm } from '../engine/ops/norm.ts'
import { sum } from '../engine/ops/reduce.ts'
import type { Generator } from '../engine/random.ts'
import { rwkv7Rule } from '../engine/rules/dplr.ts'
import type { RuleResult } from '../engine/rules/rule.ts'
import { rwkv4Rule, rwkv5Rule } from '../engine/rules/rwkv.ts'
import { full, ones, parameter, type Tensor, tensor, zeros } from '../engine/tensor.ts'
import { checkFields, checkKnown, defaultsOf, type Fields, withDefaults } from './fields.ts'
import { LowRank } from './gates.ts'
import { type AttentionOptions, checkInput } from './heads.ts'
import { Linear } from './layers.ts'
import type { Look } from './mixer.ts'
import { Module } from './module.ts'
import { atTokens, checkPacking, type Packing, packedConv } from './packing.ts'
import { givenState, type Parts } from './parts.ts'

/** The token before each one, [B,T,D], zeros where there is none; and the last one, [B,1,D]. */
function shifted(x: Tensor, state: Tensor | undefined, packing: Packing): { y: Tensor; state: Tensor } {
  const D = x.shape[2]
  const first = Float32Array.from({ length: 2 * D }, (_, i) => 1 - (i % 2))
  return packedConv(x, tensor(first, { shape: [D, 2], device: x.device }), state, packing)
}

/** a + (b - a) mix. */
const mixed = (a: Tensor, b: Tensor, mix: Tensor): Tensor => add(a, mul(sub(b, a), mix))
/** Of a token and the one before: a mix is how much of a channel comes from the latter, and before RWKV-7 how much from the former. */
const shiftedMix = (version: RwkvSettings['version'], x: Tensor, before: Tensor, mix: Tensor): Tensor =>
  version === 7 ? mixed(x, before, mix) : mixed(before, x, mix)

/** Settings of RWKV's time mixing. */
export interface RwkvSettings {
  version: 4 | 5 | 7
  /** Heads; RWKV-4 has one channel for each. */
  heads: number
  /** 4, 5: what the parameter of decays holds: w, of which a decay is exp(-exp(w)); its logarithm; or the decay itself. */
  decays: 'exponent' | 'log' | 'factor'
  /** Of the norm over each head's output (5, 7). */
  normEps: number
  /** 7: inside the root that kappa is divided by. */
  kappaEps: number
  /** 7: numbers that decays are made of. */
  decayRank: number
  /** 7: numbers that rates are made of. */
  rateRank: number
  /** 7: numbers that the mixing of values is made of. */
  valueRank: number
  /** 7: numbers that gates are made of. */
  gateRank: number
}
export type RwkvConfig = RwkvSettings & { dModel: number }

const rank = (what: string) => ({ type: 'integer', min: 1, default: 64, description: `numbers that ${what} are made of` }) as const
const fields: Fields<Omit<RwkvSettings, 'version'>> = {
  heads: { type: 'integer', min: 1, default: 8, description: 'heads, a divisor of the width' },
  decays: {
    type: 'string',
    choices: ['exponent', 'log', 'factor'],
    default: 'exponent',
    description: 'what the parameter of decays holds',
  },
  normEps: { type: 'number', min: 0, default: 64e-5, description: "eps of the norm over each head's output" },
  kappaEps: { type: 'number', min: 0, default: 1e-24, description: 'inside the root that kappa is divided by' },
  decayRank: rank('decays'),
  rateRank: rank('rates'),
  valueRank: rank("values' mixing rates"),
  gateRank: rank('output gates'),
}

/** What each version's token shift feeds, in the order of its parameters. */
const shifts = { 4: ['k', 'v', 'r'], 5: ['k', 'v', 'r', 'g'], 7: ['r', 'w', 'k', 'v', 'a', 'g'] } as const

/** What RWKV's time mixing carries: its memory, and the last token that it saw. */
export interface RwkvState extends Partial<FastWeightState> {
  /** The last token, [B,1,D]. */
  shift?: Tensor
}

/** With RWKV-7, `first`: the values of a model's first layer, [B,T,D], which the others mix into their own; the first one returns them. */
export interface RwkvOptions extends AttentionOptions {
  /** The values of the model's first layer, [B,T,D]. */
  first?: Tensor
}

/** RWKV's time mixing. */
export class RwkvTimeMix extends Module {
  /** [D] each: r, k, v, and as the version has them w, a, g. */
  mix: Record<string, Tensor>
  receptance: Linear
  key: Linear
  value: Linear
  output: Linear
  /** 5. */
  gate: Linear | null
  /** 4, 5: a channel's decay, as `decays` says, [D]. */
  decay: Tensor | null
  /** 4, 5: the bonus of the present token, [D]. */
  bonus: Tensor | null
  /** 7. */
  decay_lora: LowRank | null
  rate_lora: LowRank | null
  gate_lora: LowRank | null
  /** Not of a model's first layer. */
  value_lora: LowRank | null
  kappa: Tensor | null
  rate: Tensor | null
  /** [H,N]. */
  own: Tensor | null
  /** 5, 7: gain and bias after the norm over each head, [D]. */
  gain: Tensor | null
  bias: Tensor | null
  config: RwkvConfig

  constructor(
    config: Partial<RwkvSettings> & { version: RwkvSettings['version']; dModel: number },
    g: Generator,
    place: { layer: number } = { layer: 0 },
  ) {
    super()
    const c = withDefaults(defaultsOf(fields), config)
    checkKnown(c, ['dModel', 'version', ...Object.keys(fields)])
    checkFields(c, fields)
    if (!(c.version in shifts)) throw new Error(`there is no RWKV of version ${c.version} here (${Object.keys(shifts).join(', ')})`)
    const D = c.dModel
    if (D % c.heads !== 0) throw new Error(`${c.heads} heads don't divide dModel = ${D}`)
    this.config = c
    const linear = () => new Linear(D, D, g, { bias: false })
    this.mix = new Mixes(shifts[c.version], D) as unknown as Record<string, Tensor>
    this.receptance = linear()
    this.key = linear()
    this.value = linear()
    this.output = linear()
    const seven = c.version === 7
    this.gate = c.version === 5 ? linear() : null
    this.decay = seven ? null : parameter(full([D], { exponent: -1, log: -0.4, factor: 0.7 }[c.decays]))
    this.bonus = seven ? null : parameter(full([D], 0.5))
    this.decay_lora = seven ? new LowRank(D, c.decayRank, D, g, { activation: 'tanh' }) : null
    this.rate_lora = seven ? new LowRank(D, c.rateRank, D, g) : null
    this.gate_lora = seven ? new LowRank(D, c.gateRank, D, g, { activation: 'sigmoid', bias: false }) : null
    this.value_lora = seven && place.layer > 0 ? new LowRank(D, c.valueRank, D, g) : null
    this.kappa = seven ? parameter(ones([D])) : null
    this.rate = seven ? parameter(ones([D])) : null
    this.own = seven ? parameter(zeros([c.heads, D / c.heads])) : null
    this.gain = c.version === 4 ? null : parameter(ones([D]))
    this.bias = c.version === 4 ? null : parameter(zeros([D]))
  }

  /** x: [B,T,D]. */
  forward(given: Tensor, state: RwkvState = {}, options: RwkvOptions = {}): { y: Tensor; state: RwkvState; first?: Tensor } {
    const { B, T } = checkInput(given, this.config.dModel, 'rwkv')
    const packing = checkPacking('rwkv', options, B, T, ['accumulate', 'first'])
    const x = atTokens(given, packing)
    const begun = givenState('rwkv', state, this.stateParts(B), B)
    const before = shifted(x, state.shift, packing)
    const of = (name: string): Tensor => shiftedMix(this.config.version, x, before.y, this.mix[name])
    const { shift: _, ...rest } = state
    const memory = begun ? (rest as FastWeightState) : undefined
    const { inputs, gate, first } = this.inputs(of, options.first)
    const { y: read, state: next } = this.rule(inputs, memory, packing)
    const y = this.shown(read, inputs, gate)
    return {
      y: atTokens(this.output.forward(y, { accumulate: options.accumulate }), packing),
      state: { ...next, shift: before.state },
      ...(first && { first }),
    }
  }

  /** What the rule takes, the gate of what is read, and the values that other layers mix in. */
  private inputs(of: (name: string) => Tensor, first: Tensor | undefined): { inputs: RwkvInputs; gate: Tensor; first?: Tensor } {
    const r = this.receptance.forward(of('r'), { activation: this.config.version === 4 ? 'sigmoid' : undefined })
    const raw = this.key.forward(of('k'))
    const values = this.value.forward(of('v'))
    const heads = (y: Tensor): Tensor => this.heads(y)
    if (this.config.version === 4) return { inputs: { k: heads(raw), v: heads(values) }, gate: r }
    if (this.config.version === 5)
      return { inputs: { q: heads(r), k: heads(raw), v: heads(values) }, gate: silu(this.gate!.forward(of('g'))) }
    if (this.value_lora && !first)
      throw new Error("rwkv: a layer after a model's first one mixes that one's values into its own: give them as `first`")
    const v = this.value_lora ? mixed(values, first!, sigmoid(this.value_lora.forward(of('v')))) : values
    const rate = sigmoid(this.rate_lora!.forward(of('a')))
    const inputs = {
      q: heads(r),
      k: heads(mul(raw, affine(mul(affine(rate, 1, -1), this.rate!), 1, 1))),
      v: heads(v),
      kappa: l2Norm(heads(mul(raw, this.kappa!)), this.config.kappaEps),
      rate: heads(rate),
      gate: heads(affine(sigmoid(this.decay_lora!.forward(of('w'))), -Math.exp(-0.5))),
    }
    return { inputs, gate: this.gate_lora!.forward(of('g')), ...(!first && { first: values }) }
  }

  private rule(inputs: RwkvInputs, memory: FastWeightState | undefined, packing: Packing): RuleResult {
    const { q, k, v, kappa, rate, gate } = inputs
    if (this.config.version === 7) return rwkv7Rule(q!, k, v, kappa!, rate!, gate!, memory, packing)
    const [decay, bonus] = [this.logDecays(), this.channels(this.bonus!)]
    return q ? rwkv5Rule(q, k, v, decay, bonus, memory, packing) : rwkv4Rule(k, v, decay, bonus, memory, packing)
  }

  /** What the output layer gets, [B,T,D]. */
  private shown(read: Tensor, { q, k, v }: RwkvInputs, gate: Tensor): Tensor {
    if (this.config.version === 4) return mul(reshape(read, gate.shape), gate)
    const normed = this.normed(read)
    if (this.config.version === 5) return mul(normed, gate)
    const present = mul(sum(mul(mul(q!, k), this.own!), { axis: -1, keepDim: true }), v)
    return mul(add(normed, reshape(present, normed.shape)), gate)
  }

  /** See `Look`. */
  look(x: Tensor, first?: Tensor): Look {
    checkInput(x, this.config.dModel, 'rwkv')
    const before = shifted(x, undefined, {}).y
    const { inputs } = this.inputs((name) => shiftedMix(this.config.version, x, before, this.mix[name]), first)
    return { inputs: { ...inputs }, pairs: this.config.version !== 4, read: (v) => this.rule({ ...inputs, v }, undefined, {}).y }
  }

  private logDecays(): Tensor {
    const decay = this.channels(this.decay!)
    return { exponent: () => neg(exp(decay)), log: () => decay, factor: () => log(decay) }[this.config.decays]()
  }

  /** Gain and bias after a norm of each head without either: [B,T,H,N] -> [B,T,D]. */
  private normed(y: Tensor): Tensor {
    const [B, T, H, N] = y.shape
    return add(mul(reshape(layerNorm(y, null, null, this.config.normEps), [B, T, H * N]), this.gain!), this.bias!)
  }

  private heads(y: Tensor): Tensor {
    const { heads: H, dModel: D } = this.config
    return reshape(y, [...y.shape.slice(0, 2), H, D / H])
  }

  private channels(x: Tensor): Tensor {
    const { heads: H, dModel: D } = this.config
    return reshape(x, [H, D / H])
  }

  /** See `Parts`. */
  stateParts(B: number): Parts {
    const { version, heads: H, dModel: D } = this.config
    const N = D / H
    const float = (...shape: number[]) => ({ dtype: 'float32', shape }) as const
    const memory: Parts = version === 4 ? { S: float(B, H, N), lse: float(B, H, N) } : { S: float(B, H, N, N) }
    return { ...memory, shift: float(B, 1, D) }
  }
}

/** What the version's rule takes, beside parameters; [B,T,H,N]. */
interface RwkvInputs {
  q?: Tensor
  k: Tensor
  v: Tensor
  kappa?: Tensor
  rate?: Tensor
  gate?: Tensor
}

/** Parameters [D] by name. */
class Mixes extends Module {
  constructor(names: readonly string[], D: number) {
    super()
    for (const name of names) Object.assign(this, { [name]: parameter(full([D], 0.5)) })
  }
}

/** RWKV's channel mixing: value(relu(key(x^k))^2), in versions 4 and 5 times sigmoid(receptance(x^r)); x^k and x^r are token shifts. */
export class RwkvChannelMix extends Module {
  mix: Record<string, Tensor>
  key: Linear
  value: Linear
  receptance: Linear | null
  private version: RwkvSettings['version']

  constructor({ dModel: D, inner, version }: { dModel: number; inner: number; version: RwkvSettings['version'] }, g: Generator) {
    super()
    this.version = version
    const seven = version === 7
    this.mix = new Mixes(seven ? ['k'] : ['k', 'r'], D) as unknown as Record<string, Tensor>
    this.key = new Linear(D, inner, g, { bias: false })
    this.value = new Linear(inner, D, g, { bias: false })
    this.receptance = seven ? null : new Linear(D, D, g, { bias: false })
  }

  /** x: [B,T,D]. */
  forward(given: Tensor, state: { shift?: Tensor } = {}, options: AttentionOptions = {}): { y: Tensor; state: { shift: Tensor } } {
    const { B, T } = checkInput(given, this.key.weight.shape[1], 'rwkv')
    const packing = checkPacking('rwkv', options, B, T, ['accumulate'])
    const x = atTokens(given, packing)
    givenState('rwkv', state, this.stateParts(B), B)
    const before = shifted(x, state.shift, packing)
    const inner = square(relu(this.key.forward(shiftedMix(this.version, x, before.y, this.mix.k))))
    const { accumulate } = options
    if (!this.receptance) return { y: atTokens(this.value.forward(inner, { accumulate }), packing), state: { shift: before.state } }
    const r = this.receptance.forward(shiftedMix(this.version, x, before.y, this.mix.r), { activation: 'sigmoid' })
    const y = mul(r, this.value.forward(inner))
    return { y: atTokens(accumulate ? add(y, accumulate) : y, packing), state: { shift: before.state } }
  }

  /** See `Parts`. */
  stateParts(B: number): Parts {
    return { shift: { dtype: 'float32', shape: [B, 1, this.key.weight.shape[1]] } }
  }
}
