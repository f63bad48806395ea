/** What optimisers do to parameters, in place: one fused kernel a parameter, and no read-back. */
import { checkNumber, told } from '../arguments.ts'
import type { AdamOptions } from '../devices/kernels.ts'
import { noGrad } from '../recording.ts'
import { scope } from '../scope.ts'
import { sameShape, show } from '../shape.ts'
import { empty, type Tensor } from '../tensor.ts'
import { checkFloat, sameDevice } from './check.ts'
import { add, affine, div, minimum, mul, reciprocal, sqrt } from './elementwise.ts'
import { matmul } from './matmul.ts'
import { sum } from './reduce.ts'

/** Euclidean norm of all gradients together, as a tensor of one element; Infinity from 1.8e19 on where its square leaves float32. */
export function gradNorm(grads: readonly Tensor[]): Tensor {
  if (!Array.isArray(grads)) throw new Error(`gradNorm: needs an array of gradients, not ${told(grads)}`)
  if (grads.length === 0) throw new Error('gradNorm: there are no gradients (call backward first)')
  for (const g of grads) checkFloat('gradNorm', g)
  sameDevice('gradNorm', ...grads)
  return noGrad(() =>
    scope(() => {
      const squares = empty([grads.length], grads[0].device)
      for (const [slot, g] of grads.entries()) g.device.kernels.sumSquares(g.storage, g.size, squares.storage, slot)
      return sqrt(sum(squares))
    }),
  )
}

/** min(1, limit / (norm + 1e-6)): the factor that clips gradients to a norm (torch's clip_grad_norm_). */
export function clipScale(norm: Tensor, limit: number): Tensor {
  checkFloat('clipScale', norm)
  checkNumber('clipScale: the limit', limit, 'positive')
  return noGrad(() => scope(() => minimum(affine(reciprocal(affine(norm, 1, 1e-6)), limit), 1)))
}

/** What a step works on: float tensors on one device, all of the parameter's shape but the factor. */
function checkStep(op: string, p: Tensor, others: readonly Tensor[], gradScale?: Tensor): void {
  for (const t of [p, ...others]) checkFloat(op, t, gradScale)
  sameDevice(op, p, ...others, gradScale)
  for (const t of others)
    if (!sameShape(t.shape, p.shape))
      throw new Error(`${op}: the parameter has shape ${show(p.shape)}, its gradient or moment ${show(t.shape)}`)
  if (gradScale && gradScale.size !== 1) throw new Error(`${op}: the gradient's scale has shape ${show(gradScale.shape)}, not one element`)
}

/**
 * One Adam or AdamW step on p with its moments m and v; the gradient is first multiplied by `gradScale` where given. With eps = 0 an element that
 * never had a gradient becomes 0 / 0 = NaN: the optimisers don't take that.
 */
export function adamStep(p: Tensor, g: Tensor, m: Tensor, v: Tensor, options: AdamOptions, gradScale?: Tensor): void {
  checkStep('adamStep', p, [g, m, v], gradScale)
  checkNumber('adamStep: lr', options.lr, 'a finite number')
  for (const name of ['beta1', 'beta2'] as const) checkNumber(`adamStep: ${name}`, options[name], 'in [0, 1)')
  for (const name of ['eps', 'weightDecay'] as const) checkNumber(`adamStep: ${name}`, options[name], '0 or more')
  for (const name of ['correction1', 'correction2'] as const) checkNumber(`adamStep: ${name}`, options[name], 'above 0')
  p.device.kernels.adam(p.storage, g.storage, m.storage, v.storage, p.size, gradScale?.storage ?? null, options)
  for (const t of [p, m, v]) t.changed()
}

export interface MuonOptions {
  lr: number
  momentum: number
  /** Decoupled: p -= lr * weightDecay * p. */
  weightDecay: number
}

/** Coefficients of the quintic a x + b x^3 + c x^5, whose iteration drives singular values from (0, 1] to about 1 (Jordan 2024). */
const quintic = { a: 3.4445, b: -4.775, c: 2.0315, iterations: 5 }

/** X scaled to a norm of 1, then all its singular values driven to about 1 by Newton-Schulz: close to U V^T of X = U diag(s) V^T. */
function orthogonalised(x: Tensor): Tensor {
  const tall = x.shape[0] > x.shape[1]
  const { a, b, c, iterations } = quintic
  let y = div(x, affine(gradNorm([x]), 1, 1e-7))
  for (let i = 0; i < iterations; i++) {
    // y <- a y + (b A + c A^2) y with A = y y^T (for a tall y, A = y^T y from the right); c is taken out, so that the products do the sums.
    const gram = tall ? matmul(y, y, { transposeA: true }) : matmul(y, y, { transposeB: true })
    const polynomial = matmul(gram, gram, { accumulate: affine(gram, b / c) })
    const start = affine(y, a / c)
    y = affine(tall ? matmul(y, polynomial, { accumulate: start }) : matmul(polynomial, y, { accumulate: start }), c)
  }
  return y
}

/**
 * One Muon step on a matrix p with its momentum m (Jordan 2024): m = momentum m + g, and p moves along the orthogonalised Nesterov
 * gradient g + momentum m, times sqrt(max(1, rows / columns)).
 */
export function muonStep(p: Tensor, g: Tensor, m: Tensor, { lr, momentum, weightDecay }: MuonOptions, gradScale?: Tensor): void {
  checkStep('muonStep', p, [g, m], gradScale)
  checkNumber('muonStep: lr', lr, 'a finite number')
  checkNumber('muonStep: momentum', momentum, 'in [0, 1)')
  checkNumber('muonStep: weightDecay', weightDecay, '0 or more')
  if (p.shape.length !== 2) throw new Error(`muonStep: the parameter has shape ${show(p.shape)}, not that of a matrix`)
  const { kernels } = p.device
  noGrad(() =>
    scope(() => {
      const gradient = gradScale ? mul(g, gradScale) : g
      kernels.affine(m.storage, m.storage, m.size, momentum, 0)
      kernels.accumulate(gradient.storage, m.storage, m.size)
      const direction = orthogonalised(add(gradient, affine(m, momentum)))
      const update = affine(direction, -lr * Math.sqrt(Math.max(1, p.shape[0] / p.shape[1])))
      if (weightDecay > 0) kernels.affine(p.storage, p.storage, p.size, 1 - lr * weightDecay, 0)
      kernels.accumulate(update.storage, p.storage, p.size)
      for (const t of [p, m]) t.changed()
    }),
  )
}
