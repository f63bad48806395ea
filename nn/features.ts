/**
 * Feature maps phi of queries and keys, and their normalisation. phi(q) . phi(k) is the similarity by which fast weights are read:
 * its width K' is what bounds how many associations they hold (Schlag 2021, section 4.1). Tests: test/nn/features.test.ts.
 */
import { checkDivisor, checkNumber } from '../engine/arguments.ts'
import { checkFloat } from '../engine/ops/check.ts'
import { affine, elu, exp, minimum, mul, neg, relu, silu, square, sub } from '../engine/ops/elementwise.ts'
import { matmul } from '../engine/ops/matmul.ts'
import { concat, permute, reshape } from '../engine/ops/movement.ts'
import { l2Norm, softmax, sumNorm } from '../engine/ops/norm.ts'
import { sum } from '../engine/ops/reduce.ts'
import { dpfp, dpfpSums } from '../engine/ops/sequence.ts'
import { checkSeed, type Generator, hostNumbers } from '../engine/random.ts'
import { noGrad } from '../engine/recording.ts'
import { sizeOf } from '../engine/shape.ts'
import { ones, type Tensor } from '../engine/tensor.ts'
import { checkChoice, checkFields, checkMeanings, defaultsOf, type Fields, type Meaning, namesOf } from './fields.ts'
import { hostParameter, Module } from './module.ts'

/** Settings of a feature map phi, and of the norm behind it. */
export interface FeatureConfig {
  featureMap: FeatureMap
  /** dpfp: the number of shifts, 1 to 2 K - 1; shifts beyond K - 1 repeat what the others say. */
  nu: number
  /** favor: m, the number of random directions (2 m features); 0 for K. */
  favorFeatures: number
  /** favor: of the random directions. The same seed at the same place in a model gives the same ones. */
  favorSeed: number
  /** favor: when new directions are drawn: never, at each training forward pass (`step`), or only by `redraw()` and `endEpoch()` (`epoch`). */
  favorRedraw: 'never' | 'epoch' | 'step'
  /** hedgehog: one learned matrix for all heads instead of one for each. */
  hedgehogShared: boolean
  featureNorm: FeatureNorm
  /** eps of the feature norm; its place is in the formula there. */
  featureEps: number
}

interface Kind {
  /** K' for heads of width K. */
  width: (K: number, c: FeatureConfig) => number
  /** `non-negative` features; at least `positive` inner products; or `signed` ones. */
  sign: 'non-negative' | 'positive' | 'signed'
  /** x: [B,T,H,K] -> [B,T,H,K']. `weight`: what the map learns or draws. */
  map: (x: Tensor, c: FeatureConfig, weight: Tensor | null) => Tensor
  /** The map and the feature norm `sum` in one, where there is such an op. */
  summed?: (xs: readonly Tensor[], c: FeatureConfig) => Tensor[]
}

const same = (K: number): number => K

/** The feature maps by name: how wide their features are, whether these can be negative, and the map itself. */
export const featureMaps = {
  identity: { width: same, sign: 'signed', map: (x) => x },
  silu: { width: same, sign: 'signed', map: (x) => silu(x) },
  /** elu(x) + 1 (Katharopoulos 2020). */
  elu1: { width: same, sign: 'non-negative', map: (x) => affine(elu(x), 1, 1) },
  relu: { width: same, sign: 'non-negative', map: (x) => relu(x) },
  /** relu(x)^2. */
  relu2: { width: same, sign: 'non-negative', map: (x) => square(relu(x)) },
  /** Schlag 2021, eq. 37; see the engine's `dpfp`. */
  dpfp: {
    width: (K, { nu }) => 2 * K * nu,
    sign: 'non-negative',
    map: (x, { nu }) => dpfp(x, nu),
    summed: (xs, { nu, featureEps }) => dpfpSums(xs, nu, featureEps),
  },
  /** See `favor`; of x / K^(1/4), so that phi(q) . phi(k) estimates softmax attention's exp(q . k / sqrt(K)). */
  favor: {
    width: (K, c) => 2 * directions(K, c),
    sign: 'non-negative',
    map: (x, _, omega) => favor(affine(x, x.shape.at(-1)! ** -0.25), omega!),
  },
  softmax: { width: same, sign: 'non-negative', map: (x) => softmax(x) },
  /** See `hedgehog`. */
  hedgehog: { width: (K) => 2 * K, sign: 'non-negative', map: (x, _, W) => hedgehog(x, W!) },
  /** See `taylor2`. */
  taylor2: { width: (K) => 1 + K + K * K, sign: 'positive', map: (x) => taylor2(x) },
} as const satisfies Record<string, Kind>
/** The name of a feature map: a key of `featureMaps`. */
export type FeatureMap = keyof typeof featureMaps

/** Maps whose features can all be 0, so that a norm of theirs needs an eps: elu1's are in float32 where all are below -17. */
const vanishing: ReadonlySet<FeatureMap> = new Set(['identity', 'silu', 'elu1', 'relu', 'relu2', 'dpfp'])
/** Maps whose inner products stay above 0. One of softmax features is 0 where each is sure of another channel. */
const positive: ReadonlySet<FeatureMap> = new Set(['favor', 'taylor2'])

/** Throws where a rule divides by z . q, which these features can make 0, and eps doesn't prevent it. */
export function checkNormaliserEps(featureMap: FeatureMap, eps: number, rule: string): void {
  if (!positive.has(featureMap))
    checkDivisor(
      'normaliserEps',
      eps,
      vanishing.has(featureMap)
        ? `the features of ${featureMap} can all be 0, and the rule ${rule} divides by z . q`
        : `z . q can be 0 with the features of ${featureMap}, and the rule ${rule} divides by it`,
    )
}

/** Normalisations of mapped queries and keys. */
export const featureNorms = {
  none: (x: Tensor) => x,
  /** x / (sum(x) + eps): needs features that aren't negative. A row of zeros stays one. */
  sum: (x: Tensor, eps: number) => sumNorm(x, eps),
  /** x / sqrt(sum(x^2) + eps). */
  l2: (x: Tensor, eps: number) => l2Norm(x, eps),
} satisfies Record<string, (x: Tensor, eps: number) => Tensor>
/** The name of a norm of features: a key of `featureNorms`. */
export type FeatureNorm = keyof typeof featureNorms

export const featureFields: Fields<FeatureConfig> = {
  featureMap: {
    type: 'string',
    noun: 'feature map',
    choices: namesOf(featureMaps),
    default: 'dpfp',
    description: 'phi for queries and keys',
  },
  nu: { type: 'integer', min: 1, default: 1, description: 'nu of the dpfp feature map' },
  favorFeatures: {
    type: 'integer',
    min: 0,
    expected: 'a number of directions, or 0 for K',
    default: 0,
    description: 'directions m of the favor feature map; 0 for K',
  },
  favorSeed: { type: 'integer', min: 0, max: 0xffffffff, default: 0, description: 'of the directions' },
  favorRedraw: { type: 'string', choices: ['never', 'epoch', 'step'], default: 'never', description: 'when they are drawn anew' },
  hedgehogShared: { type: 'boolean', default: false, description: 'one hedgehog matrix for all heads' },
  featureNorm: {
    type: 'string',
    noun: 'feature norm',
    choices: namesOf(featureNorms),
    default: 'sum',
    description: 'normalisation of queries and keys',
  },
  featureEps: { type: 'number', min: 0, default: 1e-6, description: 'eps of that normalisation' },
}
/** The feature map and norm where nothing is said: DPFP, as in Schlag 2021. */
export const featureDefaults = defaultsOf(featureFields)

/** Added to each exponential of FAVOR+, as in Performer's own code: features that underflow leave a key something to be divided by. */
const favorEps = 1e-6
/** Exponents end here: the product of two features, and a sum of many, stay below float32's e^88. See `favor`. */
const favorLimit = 40

/**
 * FAVOR+'s positive features (Choromanski 2021, lemma 1): phi(x) = (exp([omega x, -omega x] - |x|^2 / 2) + eps) / sqrt(2 m), with
 * E[phi(x) . phi(y)] = exp(x . y) over omega and eps -> 0. x: [..., K]; omega: [m,K] -> [..., 2 m]. Exponents are at most
 * |omega_i|^2 / 2, about K / 2; where that is more than 40 they end at 40.
 */
export function favor(x: Tensor, omega: Tensor, eps = favorEps): Tensor {
  checkNumber('favor: eps', eps, '0 or more')
  const projected = matmul(x, omega, { transposeB: true })
  const half = affine(sum(square(x), { axis: -1, keepDim: true }), 0.5)
  const exponents = sub(concat([projected, neg(projected)], projected.shape.length - 1), half)
  const norm = 1 / Math.sqrt(2 * omega.shape[0])
  return affine(exp(minimum(exponents, favorLimit)), norm, eps * norm)
}

/** softmax([2 W x, -2 W x]) (Zhang 2024). x: [B,T,H,K]; W: [H,K,K], or [K,K] for all heads -> [B,T,H,2 K]. */
export function hedgehog(x: Tensor, W: Tensor): Tensor {
  checkFloat('hedgehog', x)
  checkFloat('hedgehog', W)
  const perHead = W.shape.length === 3
  const swap = (y: Tensor): Tensor => (perHead ? permute(y, [0, 2, 1, 3]) : y)
  const projected = swap(matmul(swap(x), W, { transposeB: true }))
  return softmax(concat([affine(projected, 2), affine(projected, -2)], 3))
}

/** [1, x, x (x) x / sqrt(2)], so that phi(x) . phi(y) = 1 + x . y + (x . y)^2 / 2 > 0 (Arora 2024). [..., K] -> [..., 1 + K + K^2]. */
export function taylor2(x: Tensor): Tensor {
  checkFloat('taylor2', x)
  const lead = x.shape.slice(0, -1)
  const K = x.shape.at(-1)!
  const outer = mul(reshape(x, [...lead, K, 1]), reshape(x, [...lead, 1, K]))
  const second = affine(reshape(outer, [...lead, K * K]), Math.SQRT1_2)
  return concat([ones([...lead, 1], x.device), x, second], lead.length)
}

/**
 * m rows of width K in blocks of K orthogonal ones, each as long as a row of K normal numbers: alone, a row is distributed as one, and
 * orthogonal ones cover the directions more evenly (Choromanski 2021, section 3.3). On the host, in float64.
 */
export function orthogonalRows(m: number, K: number, seed: number, stream: number): Float64Array {
  checkNumber('orthogonalRows: m', m, 'a positive integer')
  checkNumber('orthogonalRows: K', K, 'a positive integer')
  checkSeed('orthogonalRows: the seed', seed)
  checkSeed('orthogonalRows: the stream', stream)
  const rows = hostNumbers('normal', seed, stream, m * K)
  /** The product of two rows, by where they begin. */
  const dot = (a: number, b: number): number => {
    let total = 0
    for (let i = 0; i < K; i++) total += rows[a + i] * rows[b + i]
    return total
  }
  const squares = new Float64Array(m)
  /** Takes from a row what it has of four others, from s on, which are orthogonal themselves, so that the order doesn't matter. */
  const without4 = (row: number, s: number): void => {
    const a = s * K,
      b = a + K,
      c = b + K,
      d = c + K
    let da = 0,
      db = 0,
      dc = 0,
      dd = 0
    for (let i = 0; i < K; i++) {
      const x = rows[row + i]
      da += x * rows[a + i]
      db += x * rows[b + i]
      dc += x * rows[c + i]
      dd += x * rows[d + i]
    }
    da /= squares[s]
    db /= squares[s + 1]
    dc /= squares[s + 2]
    dd /= squares[s + 3]
    for (let i = 0; i < K; i++) rows[row + i] -= da * rows[a + i] + db * rows[b + i] + (dc * rows[c + i] + dd * rows[d + i])
  }
  for (let r = 0; r < m; r++) {
    const row = r * K
    const whole = dot(row, row)
    let left = whole
    // Again where little was left: what rounding leaves of the other rows is of the size of the rounding of what there was.
    for (let before = Infinity; left < before / 100; ) {
      before = left
      let s = r - (r % K)
      for (; s + 4 <= r; s += 4) without4(row, s)
      for (; s < r; s++) {
        const overlap = dot(row, s * K) / squares[s]
        for (let i = 0; i < K; i++) rows[row + i] -= overlap * rows[s * K + i]
      }
      left = dot(row, row)
    }
    const factor = Math.sqrt(whole / left)
    for (let i = 0; i < K; i++) rows[row + i] *= factor
    squares[r] = dot(row, row)
  }
  return rows
}

const directions = (K: number, { favorFeatures }: FeatureConfig): number => favorFeatures || K

const meanings: readonly Meaning<FeatureConfig>[] = [
  ['nu', 'the feature map dpfp', (c) => c.featureMap === 'dpfp'],
  ['favorFeatures', 'the feature map favor', (c) => c.featureMap === 'favor'],
  ['favorSeed', 'the feature map favor', (c) => c.featureMap === 'favor'],
  ['favorRedraw', 'the feature map favor', (c) => c.featureMap === 'favor'],
  ['hedgehogShared', 'the feature map hedgehog', (c) => c.featureMap === 'hedgehog'],
  ['featureEps', 'the feature norms sum and l2', (c) => c.featureNorm !== 'none'],
]

/** Throws unless the settings make sense for heads of width K. */
export function checkFeatures(c: FeatureConfig, K: number): void {
  checkChoice('feature map', c.featureMap, featureMaps)
  checkChoice('feature norm', c.featureNorm, featureNorms)
  checkMeanings<FeatureConfig>(c, featureDefaults, meanings)
  if (c.featureMap === 'dpfp' && !(Number.isInteger(c.nu) && c.nu >= 1 && c.nu <= 2 * K - 1))
    throw new Error(`nu must be an integer from 1 to 2 K - 1 = ${2 * K - 1} for heads of width K, not ${c.nu}`)
  checkFields(c, featureFields)
  if (c.featureMap === 'dpfp' && K < 2) throw new Error('dpfp needs heads of width 2 or more: of a single number all its features are 0')
  if (c.featureNorm !== 'none' && vanishing.has(c.featureMap)) {
    const divisor = { sum: 'theirs', l2: 'the root of their squares' }[c.featureNorm]
    checkDivisor(
      'featureEps',
      c.featureEps,
      `the features of ${c.featureMap} can all be 0, and the feature norm ${c.featureNorm} divides by ${divisor}`,
    )
  }
  if (c.featureNorm === 'sum' && featureMaps[c.featureMap].sign !== 'non-negative')
    throw new Error(`the feature norm sum divides by a sum that ${c.featureMap} can make zero or negative; use l2 or none`)
}

/** The feature map of a layer's queries and keys. Hedgehog learns its matrix; FAVOR+ saves its directions among the parameters, frozen. */
export class Features extends Module {
  /** hedgehog: [H,K,K] or [K,K], at first the identity; favor: [m,K]. */
  weight: Tensor | null = null
  /** K'. */
  readonly width: number
  private config: FeatureConfig
  private g: Generator

  constructor(config: FeatureConfig, heads: number, K: number, g: Generator) {
    super()
    checkFeatures(config, K)
    this.config = config
    this.g = g
    this.width = featureMaps[config.featureMap].width(K, config)
    if (config.featureMap === 'hedgehog') {
      const shape = config.hedgehogShared ? [K, K] : [heads, K, K]
      this.weight = hostParameter(shape, () =>
        Float32Array.from({ length: sizeOf(shape) }, (_, i) => Number((i % (K * K)) % (K + 1) === 0)),
      )
    } else if (config.featureMap === 'favor') {
      const m = directions(K, config)
      this.weight = hostParameter([m, K], () => this.draw(m, K))
      this.weight.requiresGrad = false
    }
  }

  /** [B,T,H,K] -> [B,T,H,K'] for each of them, all by the same features. */
  forward(...xs: Tensor[]): Tensor[] {
    const { featureMap, featureNorm, featureEps, favorRedraw } = this.config
    const { map, summed }: Kind = featureMaps[featureMap]
    if (this.training && favorRedraw === 'step') this.redraw()
    // A copy: a backward may still need these directions when the next ones are drawn.
    const weight = favorRedraw === 'never' ? this.weight : noGrad(() => affine(this.weight!, 1))
    if (summed && featureNorm === 'sum') return summed(xs, this.config)
    return xs.map((x) => {
      const mapped = map(x, this.config, weight)
      const y = featureNorms[featureNorm](mapped, featureEps)
      if (y !== mapped && mapped !== x) mapped.evict()
      return y
    })
  }

  /** favor: draws new directions, in place. */
  redraw(): void {
    if (this.config.favorRedraw === 'never')
      throw new Error("redraw: this layer's features are fixed (the feature map favor with favorRedraw 'epoch' or 'step' has others)")
    const [m, K] = this.weight!.shape
    this.weight!.write(this.draw(m, K))
  }

  private draw(m: number, K: number): Float64Array {
    return orthogonalRows(m, K, this.config.favorSeed, this.g.stream++)
  }
}
