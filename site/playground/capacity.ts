/**
 * How many pairs a memory holds: pairs of a key and a value are written one after the other, and then each key is put to the memory again. A matrix
 * with d_dot rows has room for d_dot pairs whose keys are orthogonal (Schlag 2021, section 4.1); a feature map doesn't leave them so. Runs in the worker, on the default device.
 */
import { deltaRule, generator, matmul, noGrad, normal, ones, reshape, scope, sumRule, type Tensor, tensor } from 'fastweights'
import { type FeatureConfig, Features, featureDefaults, orthogonalRows } from 'fastweights/nn'
import type { Capacity, CapacityRequest } from './messages.ts'

type Rule = 'sum' | 'delta'

const mapConfig = (map: string): FeatureConfig => ({
  ...featureDefaults,
  featureMap: (map.startsWith('dpfp') ? 'dpfp' : map) as 'identity',
  nu: Number(/^dpfp-(\d)$/.exec(map)?.[1] ?? 1),
  featureNorm: 'l2',
})

/** Numbers of pairs up to the most, about evenly. */
const countsOf = (most: number): number[] => {
  const some = Math.min(most, 28)
  return [...new Set(Array.from({ length: some }, (_, i) => Math.max(1, Math.round(((i + 1) * most) / some))))]
}

/** Rows [n, width] of normal numbers. */
const drawn = (n: number, width: number, seed: number): Promise<Float32Array> => onHost(() => normal(generator(seed), [n, width]))

async function onHost(make: () => Tensor): Promise<Float32Array> {
  const made = scope(() => noGrad(make))
  return Float32Array.from(await made.read().finally(() => made.dispose()))
}

export async function capacityOf(request: CapacityRequest): Promise<Capacity> {
  const began = performance.now()
  const { width, map, most, keys: kind } = request
  // Before the feature map: one orthogonal basis after the other, or random ones.
  const rows = kind === 'orthogonal' ? Float32Array.from(orthogonalRows(most, width, 7, 0)) : await drawn(most, width, 5)
  const values = await drawn(most, width, 11)
  const features = new Features(mapConfig(map), 1, width, generator(1))
  const keys = await onHost(() => features.forward(tensor(rows, { shape: [1, most, 1, width] }))[0])
  const pairs = countsOf(most)
  const found: Record<Rule, number[]> = { sum: [], delta: [] }
  const cosine: Record<Rule, number[]> = { sum: [], delta: [] }
  for (const n of pairs)
    for (const rule of ['sum', 'delta'] as const) {
      const read = await onHost(() => retrieved(rule, keys.subarray(0, n * features.width), values.subarray(0, n * width), n))
      const score = scored(read, values, n, width)
      found[rule].push(score.found)
      cosine[rule].push(score.cosine)
    }
  return { ...request, features: features.width, pairs, found, cosine, milliseconds: performance.now() - began }
}

/** What each key retrieves after all n pairs were written: [n,V]. */
function retrieved(rule: Rule, keys: Float32Array, values: Float32Array, n: number): Tensor {
  const at = (rows: Float32Array): Tensor => tensor(rows, { shape: [1, n, 1, rows.length / n] })
  const [k, v] = [at(keys), at(values)]
  const S = (rule === 'sum' ? sumRule(k, k, v) : deltaRule(k, k, v, ones([1, n, 1]))).state.S!
  return matmul(reshape(k, [n, keys.length / n]), reshape(S, S.shape.slice(2)))
}

/** The share of values that are nearest to what their own key retrieves, and the mean cosine with it. */
function scored(read: Float32Array, values: Float32Array, n: number, width: number): { found: number; cosine: number } {
  const norms = Array.from({ length: n }, (_, i) => Math.hypot(...values.subarray(i * width, (i + 1) * width)))
  let [found, total] = [0, 0]
  for (let i = 0; i < n; i++) {
    let [best, most, own, length] = [-1, Number.NEGATIVE_INFINITY, 0, 0]
    for (let c = 0; c < width; c++) length += read[i * width + c] ** 2
    for (let j = 0; j < n; j++) {
      let dot = 0
      for (let c = 0; c < width; c++) dot += read[i * width + c] * values[j * width + c]
      const near = dot / norms[j]
      if (near > most) [best, most] = [j, near]
      if (j === i) own = near
    }
    if (best === i) found++
    total += length > 0 ? own / Math.sqrt(length) : 0
  }
  return { found: found / n, cosine: total / n }
}
