/** The layers that every model is made of. Initial values have PyTorch's bounds, drawn from the generator that is passed on. */
import { checkDivisor, checkNumber, checkOptions } from '../engine/arguments.ts'
import type { UnaryOp } from '../engine/devices/kernels.ts'
import { checkUnary } from '../engine/ops/check.ts'
import { affine, mul } from '../engine/ops/elementwise.ts'
import { linears, matmul, twoLinears } from '../engine/ops/matmul.ts'
import { gather, reshape } from '../engine/ops/movement.ts'
import { layerNorm, rmsNorm } from '../engine/ops/norm.ts'
import { checkGenerator, dropout, type Generator, normal, uniform } from '../engine/random.ts'
import { ones, parameter, type Tensor, zeros } from '../engine/tensor.ts'
import { Module } from './module.ts'

/** y = x W^T + b; weight [out, in], bias [out], both from U(-1/sqrt(in), 1/sqrt(in)) as in torch.nn.Linear. */
export class Linear extends Module {
  weight: Tensor
  bias: Tensor | null
  /** What `together` has computed, for the call that asks for it. */
  private ahead: { x: Tensor; activation: UnaryOp | undefined; y: Tensor } | null = null

  constructor(inputs: number, outputs: number, g: Generator, options: { bias?: boolean } = {}) {
    super()
    checkOptions('Linear', options, ['bias'])
    checkNumber('Linear: the number of inputs', inputs, 'a positive integer')
    checkNumber('Linear: the number of outputs', outputs, 'a positive integer')
    const bound = 1 / Math.sqrt(inputs)
    this.weight = parameter(uniform(g, [outputs, inputs], -bound, bound))
    this.bias = options.bias === false ? null : parameter(uniform(g, [outputs], -bound, bound))
  }

  /** `accumulate` is added to the result and `activation` applied last, both inside the product. */
  forward(x: Tensor, options: { activation?: UnaryOp; accumulate?: Tensor } = {}): Tensor {
    checkOptions('Linear', options, ['activation', 'accumulate'])
    const { ahead } = this
    this.ahead = null
    if (ahead && ahead.x === x && ahead.activation === options.activation && !options.accumulate) return ahead.y
    return matmul(x, this.weight, { transposeB: true, bias: this.bias ?? undefined, ...options })
  }

  /** For `together`: that y is what `forward(x, { activation })` is going to give. @internal */
  foresee(x: Tensor, activation: UnaryOp | undefined, y: Tensor): void {
    this.ahead = { x, activation, y }
  }

  /** @internal */
  forget(): void {
    this.ahead = null
  }
}

/**
 * Runs `body`, in which these layers read x, each once: all of them at once, before (`linears`). An activation is that with which it is called.
 */
export function together<R>(x: Tensor, layers: readonly (Linear | { layer: Linear; activation: UnaryOp })[], body: () => R): R {
  const all = layers.map((given) => (given instanceof Linear ? { layer: given, activation: undefined } : given))
  const maps = all.map(({ layer: { weight, bias }, activation }) => ({ weight, bias: bias ?? undefined, activation }))
  for (const [i, y] of linears(x, maps).entries()) all[i].layer.foresee(x, all[i].activation, y)
  try {
    return body()
  } finally {
    for (const { layer } of all) layer.forget()
  }
}

/** Rows of a table [N, D] drawn from N(0, std^2); torch.nn.Embedding has std 1. */
export class Embedding extends Module {
  weight: Tensor

  constructor(symbols: number, width: number, g: Generator, std = 1) {
    super()
    checkNumber('Embedding: the number of symbols', symbols, 'a positive integer')
    checkNumber('Embedding: the width', width, 'a positive integer')
    checkNumber('Embedding: std', std, '0 or more')
    this.weight = parameter(normal(g, [symbols, width], 0, std))
  }

  /** Rows of the table: tokens int32 of any shape to [..., D]. */
  forward(tokens: Tensor): Tensor {
    return gather(this.weight, tokens)
  }
}

function checkNorm(name: string, width: number, eps: number, vanishing: string): void {
  checkNumber(`${name}: the width`, width, 'a positive integer')
  checkNumber(`${name}: eps`, eps, '0 or more')
  checkDivisor(`${name}: eps`, eps, `${vanishing} would be 0 / 0`)
}

export class LayerNorm extends Module {
  weight: Tensor
  bias: Tensor | null
  eps: number

  constructor(width: number, eps = 1e-5, options: { bias?: boolean } = {}) {
    super()
    checkOptions('LayerNorm', options, ['bias'])
    checkNorm('LayerNorm', width, eps, 'a row of equal numbers')
    this.weight = parameter(ones([width]))
    this.bias = options.bias === false ? null : parameter(zeros([width]))
    this.eps = eps
  }

  /** Normalises the last axis of x [..., D]. */
  forward(x: Tensor, eps = this.eps): Tensor {
    return layerNorm(x, this.weight, this.bias, eps)
  }
}

/** `centered`: the gain is 1 + weight, and the weight 0 at first. */
export class RMSNorm extends Module {
  weight: Tensor
  eps: number
  private centered: boolean

  constructor(width: number, eps = 1e-6, options: { centered?: boolean } = {}) {
    super()
    checkOptions('RMSNorm', options, ['centered'])
    checkNorm('RMSNorm', width, eps, 'a row of zeros')
    this.centered = options.centered ?? false
    this.weight = parameter(this.centered ? zeros([width]) : ones([width]))
    this.eps = eps
  }

  /** Normalises the last axis of x [..., D]. */
  forward(x: Tensor, eps = this.eps): Tensor {
    return rmsNorm(x, this.centered ? affine(this.weight, 1, 1) : this.weight, eps)
  }
}

/** Options of `HeadNorm`. */
export interface HeadNormOptions {
  /** Added to the mean of squares; 1e-6 by default. */
  eps?: number
  /** Over all channels of a token at once, not head by head; off by default. */
  all?: boolean
  /** Whether there is a learned gain: by default yes. */
  gain?: boolean
  /** The gain is 1 + weight, and the weight 0 at first; off by default. */
  centered?: boolean
}

/**
 * RMS norm of a layer's heads, x [...,H,V]: of each head alone with a gain [V], or of `all` channels at once with one [H V]; `gain: false` has none, and with
 * `centered` it is 1 + weight.
 */
export class HeadNorm extends Module {
  weight: Tensor | null
  eps: number
  private all: boolean
  private centered: boolean

  constructor(heads: number, width: number, options: HeadNormOptions = {}) {
    super()
    checkOptions('HeadNorm', options, ['eps', 'all', 'gain', 'centered'])
    const { eps = 1e-6, all = false, gain = true, centered = false } = options
    checkNorm('HeadNorm', width, eps, 'a row of zeros')
    this.all = all
    this.centered = centered
    this.eps = eps
    this.weight = gain ? parameter((centered ? zeros : ones)([all ? heads * width : width])) : null
  }

  /** x [...,H,V] to the same shape. */
  forward(x: Tensor): Tensor {
    const rows = this.all ? reshape(x, [...x.shape.slice(0, -2), x.shape.at(-2)! * x.shape.at(-1)!]) : x
    const gain = this.weight && this.centered ? affine(this.weight, 1, 1) : this.weight
    return reshape(rmsNorm(rows, gain, this.eps), x.shape)
  }
}

/** down(silu(gate(x)) * up(x)), without biases (Shazeer 2020, SwiGLU). */
export class GatedFeedForward extends Module {
  gate: Linear
  up: Linear
  down: Linear

  constructor(width: number, inner: number, g: Generator) {
    super()
    this.gate = new Linear(width, inner, g, { bias: false })
    this.up = new Linear(width, inner, g, { bias: false })
    this.down = new Linear(inner, width, g, { bias: false })
  }

  /** x [..., D] to [..., D]; `accumulate`, of the result's shape, is added to it. */
  forward(x: Tensor, options: { accumulate?: Tensor } = {}): Tensor {
    const [gate, up] = linears(x, [{ weight: this.gate.weight, activation: 'silu' }, { weight: this.up.weight }])
    return this.down.forward(mul(gate, up), options)
  }
}

/** Throws unless p is a probability of dropout, in [0, 1). */
export function checkProbability(p: number): void {
  checkNumber('Dropout: the probability', p, 'in [0, 1)')
}

/** Drops in training only. The generator is shared and counts: with the same seed and calls, the same masks. */
export class Dropout extends Module {
  /** The probability that a number is dropped. */
  p: number
  private g: Generator

  constructor(p: number, g: Generator) {
    super()
    checkProbability(p)
    checkGenerator('Dropout', g)
    this.p = p
    this.g = g
  }

  /** x with numbers dropped and the others divided by 1 - p; in evaluation x itself. */
  forward(x: Tensor): Tensor {
    return this.training ? dropout(x, this.p, this.g) : x
  }
}

/** layer2(dropout(activation(layer1(x)))). */
export class FeedForward extends Module {
  layer1: Linear
  layer2: Linear
  drop: Dropout
  activation: UnaryOp

  constructor(width: number, inner: number, g: Generator, options: { activation?: UnaryOp; dropout?: number; bias?: boolean } = {}) {
    super()
    checkOptions('FeedForward', options, ['activation', 'dropout', 'bias'])
    const { activation = 'relu', dropout = 0, ...bias } = options
    this.layer1 = new Linear(width, inner, g, bias)
    this.layer2 = new Linear(inner, width, g, bias)
    this.drop = new Dropout(dropout, g)
    this.activation = activation
    checkUnary('FeedForward', this.activation)
  }

  /** x [..., D] to [..., D]; `accumulate`, of the result's shape, is added to it. */
  forward(x: Tensor, options: { accumulate?: Tensor } = {}): Tensor {
    checkOptions('FeedForward', options, ['accumulate'])
    const { layer1, layer2, drop, activation } = this
    if (drop.training && drop.p > 0) return layer2.forward(drop.forward(layer1.forward(x, { activation })), options)
    const map = ({ weight, bias }: Linear) => ({ weight, bias: bias ?? undefined })
    return twoLinears(x, { ...map(layer1), activation }, map(layer2), options.accumulate)
  }
}
