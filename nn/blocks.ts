/** What the transformer and the encoder-decoder are both built of, beside their layers. */
import { add, affine } from '../engine/ops/elementwise.ts'
import { gather } from '../engine/ops/movement.ts'
import { type Generator, normal } from '../engine/random.ts'
import { parameter, type Tensor, tensor } from '../engine/tensor.ts'
import { type Dropout, type Embedding, LayerNorm, RMSNorm } from './layers.ts'
import { Module } from './module.ts'
import { type Packing, sinusoids } from './packing.ts'

export const norms = { layer: LayerNorm, rms: RMSNorm }

/** Where a model's random streams begin: a generator of the same seed, which counts from 0, gives other numbers. */
export const firstStream = 2 ** 20

/** x + drop(f). Without dropout between them, the residual is added inside f's last matrix product, as `accumulate`. */
export const residual = (x: Tensor, drop: Dropout, f: (options: { accumulate?: Tensor }) => Tensor): Tensor =>
  drop.training && drop.p > 0 ? add(x, drop.forward(f({}))) : f({ accumulate: x })

/** Tokens [B,T] at positions [B,T] to what the first layer reads, [B,T,D]. */
export function embed(
  table: Embedding,
  tokens: Tensor,
  at: Int32Array,
  { embeddingScale, positions }: { embeddingScale: 'none' | 'sqrt'; positions: string },
): Tensor {
  const x = table.forward(tokens)
  const [B, , D] = x.shape
  const scaled = embeddingScale === 'sqrt' ? affine(x, Math.sqrt(D)) : x
  return positions === 'sinusoidal' ? add(scaled, sinusoids(at, B, D, x)) : scaled
}

/**
 * Embeddings of pairs: what a token is after the one before it, [rows,D], which is added to the token's own (as hashed n-grams are in Svenstrup 2017). With
 * enough rows each pair, and each token that begins a sequence, has one; else they share them, by a hash.
 */
export class PairEmbedding extends Module {
  weight: Tensor
  private symbols: number

  constructor(symbols: number, rows: number, width: number, g: Generator, std: number) {
    super()
    this.symbols = symbols
    this.weight = parameter(normal(g, [Math.min(rows, (symbols + 1) * symbols), width], 0, std))
  }

  /** tokens [B,T]; `previous` [B]: 1 + the last token of each row's sequence, 0 where it begins. x [B,T,D], and the same after these tokens. */
  forward(tokens: Tensor, previous: Int32Array | undefined, { mask, reset }: Packing): { x: Tensor; previous: Int32Array } {
    const [B, T] = tokens.shape
    const [rows] = this.weight.shape
    const exact = rows === (this.symbols + 1) * this.symbols
    const last = previous ? Int32Array.from(previous) : new Int32Array(B)
    const ids = tokens.indices!
    const row = (i: number): number => {
      const b = Math.floor(i / T)
      if (reset?.indices?.[i] === 1) last[b] = 0
      const pair = last[b] * this.symbols + ids[i]
      if (mask?.indices?.[i] !== 0) last[b] = 1 + ids[i]
      return exact ? pair : (Math.imul(pair, 0x9e3779b1) >>> 0) % rows
    }
    const index = Int32Array.from({ length: B * T }, (_, i) => row(i))
    return { x: gather(this.weight, tensor(index, { shape: [B, T], device: this.weight.device })), previous: last }
  }
}
