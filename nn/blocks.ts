/** What models are built of, beside their layers. */
import { add, affine } from '../engine/ops/elementwise.ts'
import { recording } from '../engine/recording.ts'
import { reachable, scope } from '../engine/scope.ts'
import type { Tensor } from '../engine/tensor.ts'
import { type Dropout, type Embedding, LayerNorm, RMSNorm } from './layers.ts'
import { sinusoids } from './packing.ts'

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
  at: () => Int32Array,
  { embeddingScale, positions }: { embeddingScale: 'none' | 'sqrt'; positions: string },
): Tensor {
  const x = table.forward(tokens)
  const [B, , D] = x.shape
  const scaled = embeddingScale === 'sqrt' ? affine(x, Math.sqrt(D)) : x
  return positions === 'sinusoidal' ? add(scaled, sinusoids(at, B, D, x)) : scaled
}

/**
 * What a layer makes of x. Without a backward pass to come nothing is needed of it but its result, and x only if it is part of that, or kept: it's freed, so that a
 * long prompt holds the x of one layer at a time.
 */
export function throughLayer<R>(x: Tensor, run: () => R): R {
  if (recording()) return run()
  const result = scope(run)
  if (!x.kept && reachable(result, new Set([x])).size === 0) x.dispose()
  return result
}
