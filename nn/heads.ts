/** What fast-weight and softmax attention share: projections to heads, and what a call takes. */
import { type Generator, uniform } from '../engine/random.ts'
import { parameter, type Tensor } from '../engine/tensor.ts'
import { Linear } from './layers.ts'
import { Module } from './module.ts'
import { type Packing, packedConv } from './packing.ts'

/** mask and reset as in `Packing`; `accumulate` is added to the result (the residual connection). */
export interface AttentionOptions extends Packing {
  accumulate?: Tensor
}

export function checkHeads(dModel: number, heads: number): void {
  if (!(Number.isInteger(dModel) && dModel > 0)) throw new Error(`dModel must be a positive integer, not ${dModel}`)
  if (!(Number.isInteger(heads) && heads > 0)) throw new Error(`heads must be a positive integer, not ${heads}`)
  if (dModel % heads !== 0) throw new Error(`${heads} heads don't divide dModel = ${dModel}`)
}

/** Named as in labml: PrepareForMultiHeadAttention, without the bias, and with an optional short convolution after it. */
export class HeadProjection extends Module {
  linear: Linear
  /** [D, W], U(-1/sqrt(W), 1/sqrt(W)) as in torch.nn.Conv1d with groups = D. */
  conv: Tensor | null

  constructor(inputs: number, outputs: number, taps: number, g: Generator) {
    super()
    this.linear = new Linear(inputs, outputs, g, { bias: false })
    const bound = 1 / Math.sqrt(taps)
    this.conv = taps > 0 ? parameter(uniform(g, [outputs, taps], -bound, bound)) : null
  }

  forward(x: Tensor, state?: Tensor, packing: Packing = {}): { y: Tensor; state?: Tensor } {
    const y = this.linear.forward(x)
    return this.conv ? packedConv(y, this.conv, state, packing) : { y }
  }
}
