/** Facts about feature maps: what DPFP, FAVOR+ and the others promise. */
import {
  abs,
  add,
  affine,
  concat,
  div,
  dpfp,
  dpfpSum,
  elu,
  exp,
  matmul,
  mean,
  mul,
  neg,
  permute,
  relu,
  reshape,
  roll,
  slice,
  softmax,
  sqrt,
  square,
  sub,
  sum,
  sumNorm,
  type Tensor,
  zeros,
} from '../engine/index.ts'
import { favor, hedgehog, orthogonalRows, taylor2 } from '../nn/index.ts'
import { type Claim, defineClaim } from './claim.ts'
import type { Context } from './context.ts'
import { int } from './fields.ts'
import { filled } from './parts.ts'

const section = 'Feature maps'
const rows = { R: int(1, 6), K: int(1, 9) }
type Rows = { R: number; K: number }

const draw = (c: Rows, x: Context, name = 'x'): Tensor => x.tensor(name, [c.R, c.K])
/** Row by row inner products: [R]. */
export const dots = (a: Tensor, b: Tensor): Tensor => sum(mul(a, b), { axis: -1 })
/** All inner products: [R,R]. */
const gram = (a: Tensor, b = a): Tensor => matmul(a, b, { transposeB: true })

/** How many draws of FAVOR+'s directions a case averages over. */
const draws = 256

/** For each of `draws` draws of K orthogonal directions, phi(x) . phi(y) of the first rows of x and y: [draws]. */
function estimates(c: { K: number; seed: number }, x: Context): Tensor {
  const omega = Array.from({ length: draws }, (_, n) => orthogonalRows(c.K, c.K, c.seed, n))
  const directions = x.from(
    omega.flatMap((values) => Array.from(values)),
    [draws * c.K, c.K],
  )
  const [a, b] = ['x', 'y'].map((name) => favor(x.tensor(name, [1, c.K], 'key'), directions, 0))
  // Features of all draws are divided by sqrt(2 m draws) together: their products, times the number of draws, are one draw's estimate.
  const products = permute(reshape(mul(a, b), [2, draws, c.K]), [1, 0, 2])
  return affine(sum(products, { axis: [1, 2] }), draws)
}

const truth = (c: { K: number }, x: Context): Tensor => exp(dots(x.tensor('x', [1, c.K], 'key'), x.tensor('y', [1, c.K], 'key')))

export const featureClaims: readonly Claim[] = [
  defineClaim({
    name: 'features: DPFP is never negative',
    section,
    statement: 'Every feature of DPFP is 0 or more.',
    equation: '\\varphi_\\nu(x) \\ge 0',
    source: 'Schlag 2021, eq. 37',
    relation: 'at most',
    bounds: { float32: 0, float64: 0, reason: 'products of numbers that are 0 or more' },
    fields: { ...rows, K: int(2, 9), nu: int(1, 3) },
    left: (c, x) => ({ least: neg(dpfp(draw(c, x), Math.min(c.nu, c.K))) }),
    right: (c, x) => ({ least: zeros([c.R, 2 * c.K * Math.min(c.nu, c.K)], x.device) }),
  }),
  defineClaim({
    name: 'features: DPFP tells a vector from its negative',
    section,
    statement: 'The features of a vector and of its negative are orthogonal.',
    equation: '\\varphi_\\nu(x)^\\top \\varphi_\\nu(-x) = 0',
    source: 'from Schlag 2021, eq. 37: one of relu(x_i), relu(-x_i) is 0',
    bounds: { float32: 0, float64: 0, reason: 'one factor of each product is exactly 0' },
    fields: { ...rows, K: int(2, 9), nu: int(1, 9) },
    left: (c, x) => ({ dot: dots(dpfp(draw(c, x), Math.min(c.nu, c.K - 1)), dpfp(neg(draw(c, x)), Math.min(c.nu, c.K - 1))) }),
    right: (c, x) => ({ dot: zeros([c.R], x.device) }),
  }),
  defineClaim({
    name: 'features: DPFP grows with the square',
    section,
    statement: 'Scaling a vector by c > 0 scales its features by c^2; divided by their sum, they do not change.',
    equation: '\\varphi_\\nu(c x) = c^2 \\varphi_\\nu(x)',
    source: 'from Schlag 2021, eq. 37: each feature is a product of two entries',
    fields: { ...rows, K: int(2, 9), nu: int(1, 3), factor: int(1, 5) },
    // All features may be 0: both denominators have an epsilon, which must grow with them.
    left: (c, x) => ({
      features: dpfp(affine(draw(c, x), c.factor), Math.min(c.nu, c.K)),
      shares: dpfpSum(affine(draw(c, x), c.factor), Math.min(c.nu, c.K), c.factor ** 2 / 8),
    }),
    right: (c, x) => ({
      features: affine(dpfp(draw(c, x), Math.min(c.nu, c.K)), c.factor ** 2),
      shares: sumNorm(dpfp(draw(c, x), Math.min(c.nu, c.K)), 1 / 8),
    }),
  }),
  defineClaim({
    name: 'features: DPFP by its formula',
    section,
    statement: 'DPFP is the product of rectified halves with their own rotations, one block for each shift.',
    equation: '\\varphi_\\nu(x) = \\bigoplus_{i=1}^{\\nu} r \\odot \\mathrm{roll}(r, i),\\; r = \\mathrm{relu}([x, -x])',
    source: 'Schlag 2021, eq. 37',
    relation: 'same bits',
    fields: { ...rows, K: int(2, 9), nu: int(1, 4) },
    left: (c, x) => ({ features: dpfp(draw(c, x), Math.min(c.nu, 2 * c.K - 1)) }),
    right: (c, x) => {
      const r = relu(concat([draw(c, x), neg(draw(c, x))], 1))
      return {
        features: concat(
          Array.from({ length: Math.min(c.nu, 2 * c.K - 1) }, (_, i) => mul(r, roll(r, 1, i + 1))),
          1,
        ),
      }
    },
  }),
  defineClaim({
    name: 'features: DPFP repeats itself beyond K - 1',
    section,
    statement:
      'The block of shift K is always zero, and shifts j and 2 K - j have the same inner products: more than K - 1 shifts add nothing.',
    equation: '\\varphi^{(K)}(x) = 0,\\qquad \\varphi^{(j)}(x)^\\top \\varphi^{(j)}(y) = \\varphi^{(2K-j)}(x)^\\top \\varphi^{(2K-j)}(y)',
    source: 'from Schlag 2021, eq. 37: a roll by K pairs relu(x_i) with relu(-x_i)',
    fields: { ...rows, K: int(2, 9), j: int(1, 8) },
    left: (c, x) => ({
      middle: block(c, x, 'x', c.K),
      dots: gram(block(c, x, 'x', 1 + (c.j % (c.K - 1))), block(c, x, 'y', 1 + (c.j % (c.K - 1)))),
    }),
    right: (c, x) => {
      const mirror = 2 * c.K - 1 - (c.j % (c.K - 1))
      return { middle: zeros([c.R, 2 * c.K], x.device), dots: gram(block(c, x, 'x', mirror), block(c, x, 'y', mirror)) }
    },
  }),
  defineClaim({
    name: 'features: Taylor-2 is the second-order exponential',
    section,
    statement: 'The inner product of Taylor features is the exponential of the inner product to second order.',
    equation: '\\varphi(x)^\\top \\varphi(y) = 1 + x^\\top y + \\tfrac12 (x^\\top y)^2',
    source: 'Arora 2024, section 4',
    fields: rows,
    left: (c, x) => ({ kernel: gram(taylor2(draw(c, x)), taylor2(draw(c, x, 'y'))) }),
    right: (c, x) => {
      const dot = gram(draw(c, x), draw(c, x, 'y'))
      return { kernel: affine(add(dot, affine(square(dot), 0.5)), 1, 1) }
    },
  }),
  defineClaim({
    name: 'features: softmax, Hedgehog and sum-normalised features sum to 1',
    section,
    statement: 'These features are a distribution: they sum to 1.',
    equation: '\\textstyle\\sum_i \\varphi_i(x) = 1',
    source: 'Irie 2021 (softmax); Zhang 2024 (Hedgehog); Schlag 2021, appendix A.2',
    fields: rows,
    left: (c, x) => ({
      softmax: sum(softmax(draw(c, x)), { axis: 1 }),
      hedgehog: sum(hedgehog(reshape(draw(c, x), [c.R, 1, 1, c.K]), x.tensor('W', [c.K, c.K])), { axis: [1, 2, 3] }),
      elu: sum(sumNorm(affine(elu(draw(c, x)), 1, 1), 0), { axis: 1 }),
    }),
    right: (c, x) => ({ softmax: filled(x, [c.R], 1), hedgehog: filled(x, [c.R], 1), elu: filled(x, [c.R], 1) }),
  }),
  defineClaim({
    name: 'features: FAVOR+ draws orthogonal directions',
    section,
    statement: 'The directions of a block are orthogonal, and the same seed gives the same ones.',
    equation: '\\omega_i^\\top \\omega_j = 0 \\quad (i \\ne j)',
    source: 'Choromanski 2021, section 3.3',
    fields: { K: int(1, 9) },
    left: (c, x) => {
      const omega = x.from(orthogonalRows(c.K, c.K, c.seed, 0), [c.K, c.K])
      return { angles: gram(div(omega, reshape(sqrt(sum(square(omega), { axis: 1 })), [c.K, 1]))), again: omega }
    },
    right: (c, x) => {
      const omega = x.from(orthogonalRows(c.K, c.K, c.seed, 0), [c.K, c.K])
      return {
        angles: x.from(
          Float64Array.from({ length: c.K ** 2 }, (_, i) => Number(i % (c.K + 1) === 0)),
          [c.K, c.K],
        ),
        again: omega,
      }
    },
  }),
  defineClaim({
    name: 'features: FAVOR+ is right on average',
    section,
    statement: `The inner product of FAVOR+'s features is an unbiased estimate of the exponential: the mean over ${draws} draws of K orthogonal directions lies within six standard errors of it.`,
    equation: '\\mathbb{E}_\\omega\\bigl[\\varphi_\\omega(x)^\\top \\varphi_\\omega(y)\\bigr] = e^{x^\\top y}',
    source: 'Choromanski 2021, lemma 1',
    relation: 'at most',
    bounds: { float32: 1e-5, float64: 1e-10, reason: 'rounding beside six standard errors' },
    confidence:
      'a case of a right estimator fails once in 5e8 by the normal law; heavier tails of 256 draws may make that 1e6; the seeds are fixed',
    fields: { K: int(1, 5) },
    left: (c, x) => ({ error: abs(sub(mean(estimates(c, x)), reshape(truth(c, x), []))) }),
    right: (c, x) => {
      const each = estimates(c, x)
      return { error: affine(sqrt(mean(square(sub(each, mean(each))))), 6 / Math.sqrt(draws - 1)) }
    },
  }),
]

/** The block of one shift of DPFP: [R, 2K]. */
function block(c: Rows, x: Context, name: string, shift: number): Tensor {
  const features = dpfp(draw(c, x, name), shift)
  return slice(features, 1, 2 * c.K * (shift - 1), 2 * c.K * shift)
}
