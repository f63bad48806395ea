/** What fast-weight and softmax attention share: projections to heads, and what a call takes. */
import { checkNumber } from '../engine/arguments.ts'
import { checkFloat, match } from '../engine/ops/check.ts'
import { permute } from '../engine/ops/movement.ts'
import type { ConvOptions } from '../engine/ops/sequence.ts'
import { type Generator, uniform } from '../engine/random.ts'
import { parameter, type Tensor } from '../engine/tensor.ts'
import type { Field } from './fields.ts'
import { Linear } from './layers.ts'
import { Module } from './module.ts'
import { type Packing, packedConv } from './packing.ts'

/** Settings that several mixers have. */
export const headsField: Field<number> = { type: 'integer', min: 1, default: 8, description: 'heads H, a divisor of the width' }
export const rotaryField: Field<'none' | 'rotary'> = {
  type: 'string',
  choices: ['none', 'rotary'],
  default: 'none',
  description: 'turn queries and keys by their position',
}

export const projectionBiasField: Field<boolean> = { type: 'boolean', default: true, description: 'biases in the projections of the input' }

/** mask and reset as in `Packing`; `accumulate` is added to the result (the residual connection). */
export interface AttentionOptions extends Packing {
  /** [B,T,D], added to the result. */
  accumulate?: Tensor
}

export function checkHeads(dModel: number, heads: number): void {
  checkNumber('dModel', dModel, 'a positive integer')
  checkNumber('heads', heads, 'a positive integer')
  if (dModel % heads !== 0) throw new Error(`${heads} heads don't divide dModel = ${dModel}`)
}

/** What a layer reads: [B,T,dModel]. */
export function checkInput(x: Tensor, dModel: number, layer = 'attention'): { B: number; T: number; dModel: number } {
  checkFloat(layer, x)
  const { B, T } = match(layer, { x: ['B', 'T', dModel] }, { x: x.shape })
  return { B, T, dModel }
}

/** Named as in labml: PrepareForMultiHeadAttention, by default without the bias, and with an optional short convolution after it. */
export class HeadProjection extends Module {
  linear: Linear
  /** [D, W], U(-1/sqrt(W), 1/sqrt(W)) as in torch.nn.Conv1d with groups = D. */
  conv: Tensor | null

  constructor(inputs: number, outputs: number, taps: number, g: Generator, options: { bias?: boolean } = { bias: false }) {
    super()
    this.linear = new Linear(inputs, outputs, g, options)
    const bound = 1 / Math.sqrt(taps)
    this.conv = taps > 0 ? parameter(uniform(g, [outputs, taps], -bound, bound)) : null
  }

  /** `after`: what a convolution goes on with; nothing without one. */
  forward(x: Tensor, state?: Tensor, packing: Packing = {}, after: ConvOptions = {}): { y: Tensor; state?: Tensor } {
    const y = this.linear.forward(x)
    return this.conv ? packedConv(y, this.conv, state, packing, after) : { y }
  }
}

/** The convolution [channels, W] of a projection alone: a seed gives the numbers that it would give there. */
export function convAlone(channels: number, taps: number, g: Generator): Tensor {
  const { linear, conv } = new HeadProjection(1, channels, taps, g)
  linear.dispose()
  return conv!
}

/** [B,T,H,K] <-> [B,H,T,K]. */
export const timeInside = (x: Tensor): Tensor => permute(x, [0, 2, 1, 3])
