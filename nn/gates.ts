/**
 * What makes fast weights forget: modules that give the logarithm of what remains after a token, at most 0, one for each head [B,T,H] or
 * for each of a head's channels [B,T,H,W]. Tests: test/nn/attention.test.ts.
 */
import { checkNumber } from '../engine/arguments.ts'
import { checkTensor } from '../engine/ops/check.ts'
import { softplusDecay } from '../engine/ops/decay.ts'
import { add, affine, exp, minimum, neg, softplus } from '../engine/ops/elementwise.ts'
import { reshape } from '../engine/ops/movement.ts'
import { type Generator, hostNumbers } from '../engine/random.ts'
import { sizeOf } from '../engine/shape.ts'
import { type Tensor, tensor } from '../engine/tensor.ts'
import { Linear } from './layers.ts'
import { hostParameter, Module } from './module.ts'

export interface GateSizes {
  dModel: number
  heads: number
  /** W, or null for one value a head. */
  width: number | null
  /** One value a channel directly from the input, not by way of fewer numbers. */
  full?: boolean
  /** `logsigmoid`: what it is divided by, 16 by default. */
  divisor?: number
  /** `softplus`, one value a channel: by way of so many numbers, the heads' width by default. */
  rank?: number
}

/** D -> rank -> outputs, with an activation in between or nothing. */
export class LowRank extends Module {
  down: Linear
  up: Linear
  private activation: 'tanh' | 'sigmoid' | undefined

  constructor(
    inputs: number,
    rank: number,
    outputs: number,
    g: Generator,
    { bias = true, activation }: { bias?: boolean; activation?: 'tanh' | 'sigmoid' } = {},
  ) {
    super()
    this.down = new Linear(inputs, rank, g, { bias: false })
    this.up = new Linear(rank, outputs, g, { bias })
    this.activation = activation
  }

  forward(x: Tensor): Tensor {
    return this.up.forward(this.down.forward(x, { activation: this.activation }))
  }
}

/** A projection of the layer's input [B,T,D]; through `rank`, unless it is `full`, for one value a channel, direct for one a head. */
export abstract class Gate extends Module {
  projection: Linear | LowRank
  private shape: readonly number[]

  constructor({ dModel, heads, width, full = false }: GateSizes, rank: number, bias: boolean, g: Generator) {
    super()
    const outputs = heads * (width ?? 1)
    this.projection = width === null || full ? new Linear(dModel, outputs, g, { bias }) : new LowRank(dModel, rank, outputs, g, { bias })
    this.shape = width === null ? [heads] : [heads, width]
  }

  /** The logarithms of decays for x [B,T,D], at most 0: [B,T,H], or [B,T,H,K] for one a channel. */
  forward(x: Tensor): Tensor {
    return this.gate(reshape(this.projection.forward(x), [...x.shape.slice(0, 2), ...this.shape]))
  }

  /** Of the projection, in the gate's shape. */
  protected abstract gate(a: Tensor): Tensor
}

/** log sigmoid(x) / divisor. */
export const logSigmoid = (x: Tensor, divisor = 1): Tensor => affine(softplus(neg(x)), -1 / divisor)

/** log sigmoid(x W_1 W_2 + b) / 16, with a rank of 16 (GLA: Yang 2023, section 4.4); over 8 in GSA, over 1 in HGRN. */
class LogSigmoidGate extends Gate {
  private divisor: number

  constructor(sizes: GateSizes, g: Generator) {
    super(sizes, 16, true, g)
    this.divisor = sizes.divisor ?? 16
  }

  protected gate(a: Tensor): Tensor {
    return logSigmoid(a, this.divisor)
  }
}

/**
 * -exp(a + base), base at first from -6 to -1 over the channels: RWKV-6 (Peng 2024). Above e^8 nothing is left of a decay in float32, and the
 * exponent ends.
 */
class ExpGate extends Gate {
  /** [H] or [H,W]. */
  base: Tensor

  constructor(sizes: GateSizes, g: Generator) {
    super(sizes, sizes.dModel / sizes.heads, false, g)
    this.base = ramp(sizes.width === null ? [sizes.heads] : [sizes.heads, sizes.width], -6, -1)
  }

  protected gate(a: Tensor): Tensor {
    return neg(exp(minimum(add(a, this.base), 8)))
  }
}

/** A parameter that goes from `from` to `to` over its entries, as the power 0.7 does from 0 to 1: RWKV's first decays. */
export function ramp(shape: number[], from: number, to: number): Tensor {
  const n = sizeOf(shape)
  return hostParameter(shape, () => Float64Array.from({ length: n }, (_, i) => from + (to - from) * (i / Math.max(n - 1, 1)) ** 0.7))
}

/** A parameter of numbers f(u), u uniform in [0, 1). */
export function drawn(shape: number[], g: Generator, f: (u: number) => number): Tensor {
  const stream = g.stream++
  return hostParameter(shape, () => hostNumbers('uniform', g.seed, stream, sizeOf(shape)).map(f))
}

/** The logarithm of a number from 0 on, taken as 2^-10 at least, so that it is finite. */
export const logOf = (x: number): number => Math.log(Math.max(x, 2 ** -10))

/**
 * -exp(A_log) softplus(a + dt_bias): Mamba-2 (Dao & Gu 2024), gated DeltaNet (Yang 2024); with one value a channel and the heads' width as
 * the rank, the formula of KDA (Kimi 2025). At first A is from U(0, 16), at least 2^-10, and softplus(dt_bias) log-uniform in [0.001, 0.1], as gated
 * DeltaNet's code draws them; Mamba-2's has A from U(1, 16), flash-linear-attention's KDA that and dt_bias = 0.
 */
class SoftplusGate extends Gate {
  /** [H], or [H,1] beside channels. */
  A_log: Tensor
  /** [H] or [H,W]. */
  dt_bias: Tensor

  constructor(sizes: GateSizes, g: Generator) {
    super(sizes, sizes.rank ?? sizes.dModel / sizes.heads, false, g)
    const { heads, width } = sizes
    this.A_log = drawn(width === null ? [heads] : [heads, 1], g, (u) => logOf(16 * u))
    this.dt_bias = drawn(width === null ? [heads] : [heads, width], g, (u) => {
      const dt = 0.001 * 100 ** u
      return dt + Math.log(-Math.expm1(-dt))
    })
  }

  protected gate(a: Tensor): Tensor {
    return softplusDecay(a, this.A_log, this.dt_bias)
  }
}

/** The gates by name: how the logarithms of decays are made of a layer's input. */
export const gates = { softplus: SoftplusGate, logsigmoid: LogSigmoidGate, exp: ExpGate } satisfies Record<
  string,
  new (
    sizes: GateSizes,
    g: Generator,
  ) => Gate
>
/** The name of a gate: a key of `gates`. */
export type GateName = keyof typeof gates

/** RetNet's decay of each head, the same for every token: log(1 - 2^(-5-h)), [H] (Sun 2023, eq. 8). */
export function retention(heads: number, beside: Tensor): Tensor {
  checkNumber('retention: heads', heads, 'a positive integer')
  checkTensor('retention', beside)
  return tensor(
    Array.from({ length: heads }, (_, h) => Math.log1p(-(2 ** (-5 - h)))),
    { device: beside.device },
  )
}
