/**
 * A sequence told again from one vector: an encoder reads it, and a decoder makes every place of it from the output after the last token alone (Poli 2024, the
 * task of compression; the decoder is that of athms/mad-lab). Tests: test/nn/autoencoder.test.ts.
 */
import { add } from '../engine/ops/elementwise.ts'
import { crossEntropy } from '../engine/ops/norm.ts'
import type { Generator } from '../engine/random.ts'
import { type Tensor, varying } from '../engine/tensor.ts'
import { norms } from './blocks.ts'
import { type LayerNorm, Linear, type RMSNorm } from './layers.ts'
import { ignoredTarget, type Model, type TokenBatch } from './model.ts'
import { Module } from './module.ts'
import { asked, sinusoids } from './packing.ts'
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
 * The encoder is a `Transformer` of the same configuration, whose last linear map gives the decoder's logits. `new Autoencoder({ symbols: 16, dModel: 64, heads: 4, layers: 2,
 * dFf: 128, mixer: 'delta' })`.
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
    const { x } = this.encoder.hidden(tokens)
    const [B, T, D] = x.shape
    const last = asked(x, {}, true).x
    const at = (): Int32Array => Int32Array.from({ length: B * T }, (_, i) => i % T)
    let y = add(last, sinusoids(at, B, D, x))
    for (const layer of this.decoder) y = layer.forward(y)
    return { logits: this.encoder.generator.forward(this.norm.forward(y)) }
  }

  /** See `Trainable`. */
  loss(batch: TokenBatch): Tensor {
    const { device } = this.encoder.src_embed.weight
    const { B, T } = batch
    // Asked for anew when the step is replayed.
    const given = (name: 'tokens' | 'targets'): Tensor => varying(() => batch[name], { shape: [B, T], dtype: 'int32', device })
    return crossEntropy(this.forward(given('tokens')).logits, given('targets'), { ignore: ignoredTarget })
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
