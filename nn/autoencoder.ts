/**
 * A sequence told again from one vector: an encoder reads it, and a decoder makes every place of it from the output after the last token alone (Poli 2024, the
 * task of compression; the decoder's layers are those of athms/mad-lab). Theirs takes what the encoder's layers give as it is: here, as in every Transformer, a
 * norm is behind them, so that places and what was read are of one size whatever the layers add up to. Tests: test/nn/autoencoder.test.ts.
 */
import { add } from '../engine/ops/elementwise.ts'
import { slice } from '../engine/ops/movement.ts'
import type { Generator } from '../engine/random.ts'
import type { Tensor } from '../engine/tensor.ts'
import { norms } from './blocks.ts'
import { type LayerNorm, Linear, type RMSNorm } from './layers.ts'
import type { Model, TokenBatch } from './model.ts'
import { Module } from './module.ts'
import { sinusoids } from './packing.ts'
import { Transformer, type TransformerConfig } from './transformer.ts'

/** Linear(norm(x)), activated. */
class DecoderLayer extends Module {
  norm: LayerNorm | RMSNorm
  linear: Linear

  constructor({ norm, dModel }: TransformerConfig, g: Generator) {
    super()
    this.norm = new norms[norm](dModel)
    this.linear = new Linear(dModel, dModel, g)
  }

  forward(x: Tensor): Tensor {
    return this.linear.forward(this.norm.forward(x), { activation: 'gelu' })
  }
}

/**
 * The encoder is a `Transformer` of the same configuration, whose last linear map gives the decoder's logits.
 * `new Autoencoder({ symbols: 16, dModel: 64, heads: 4, layers: 2, dFf: 128, mixer: 'delta' })`.
 */
export class Autoencoder extends Module implements Model {
  encoder: Transformer
  decoder: DecoderLayer[]
  norm: LayerNorm | RMSNorm

  /** Parameters are made on the default device (setDevice). */
  constructor(config: Partial<TransformerConfig> & { symbols: number }, seed = 1) {
    super()
    this.encoder = new Transformer(config, seed)
    this.decoder = [0, 1].map(() => new DecoderLayer(this.config, this.random))
    this.norm = new norms[this.config.norm](this.config.dModel)
  }

  get config(): TransformerConfig & { symbols: number } {
    return this.encoder.config
  }

  get random(): Generator {
    return this.encoder.random
  }

  /** tokens int32 [B,T] -> logits [B,T,symbols] of what stands at each place, made from what the encoder gives after the last token, and the place. */
  forward(tokens: Tensor): { logits: Tensor } {
    return { logits: this.encoder.generator.forward(this.decoded(tokens)) }
  }

  /** What the logits are made from, [B,T,D]. */
  private decoded(tokens: Tensor): Tensor {
    const { x } = this.encoder.hidden(tokens)
    const [, T, D] = x.shape
    const places = Int32Array.from({ length: T }, (_, t) => t)
    let y = add(
      slice(x, 1, T - 1, T),
      sinusoids(() => places, 1, D, x),
    )
    for (const layer of this.decoder) y = layer.forward(y)
    return this.norm.forward(y)
  }

  /** See `Trainable`. Of a large vocabulary it never holds all logits. */
  loss(batch: TokenBatch): Tensor {
    return this.encoder.lossOf(batch, (tokens) => this.decoded(tokens))
  }

  /** See `Trainable`. */
  get capturable(): boolean {
    return this.encoder.capturable
  }

  /** To be called after each epoch of training: layers that draw something anew for each do so. */
  endEpoch(): void {
    this.encoder.endEpoch()
  }
}
