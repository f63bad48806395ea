/** Decays as gated rules take them. */
import { record } from '../autograd.ts'
import { type Shape, sameShape, show } from '../shape.ts'
import { empty, like, type Tensor } from '../tensor.ts'
import { sumTo } from './axes.ts'
import { checkFloat, sameDevice } from './check.ts'

/**
 * The logarithm of a decay, -e^rate softplus(a + shift): Mamba-2 (Dao & Gu 2024), gated DeltaNet (Yang 2024), KDA (Kimi 2025). a: [...,H], rate and shift [H]; or
 * a [...,H,W], rate [H,1], shift [H,W].
 */
export function softplusDecay(a: Tensor, rate: Tensor, shift: Tensor): Tensor {
  checkFloat('softplusDecay', a, rate, shift)
  sameDevice('softplusDecay', a, rate, shift)
  const [H, W] = shift.shape
  const own: Shape = W === undefined ? [H] : [H, 1]
  if (
    shift.shape.length < 1 ||
    shift.shape.length > 2 ||
    !sameShape(rate.shape, own) ||
    !sameShape(a.shape.slice(-shift.shape.length), shift.shape)
  )
    throw new Error(
      `softplusDecay: a ${show(a.shape)}, rate ${show(rate.shape)} and shift ${show(shift.shape)} must be [...,H], [H], [H] or [...,H,W], [H,1], [H,W]`,
    )
  const { kernels } = a.device
  const y = like(a)
  const n = shift.size
  const R = n > 0 ? a.size / n : 0
  const width = W ?? 1
  kernels.decay(a.storage, rate.storage, shift.storage, y.storage, R, n, width)
  return record('softplusDecay', [a, rate, shift], y, (dy, _, fresh) => {
    const da = like(a)
    const dshift = fresh(2)
    // Of each channel: those that share a rate are summed afterwards.
    const drate = width === 1 ? fresh(1) : empty(shift.shape, a.device)
    const gradients = { da: da.storage, drate: drate.storage, dshift: dshift.storage }
    kernels.decayBackward(a.storage, rate.storage, shift.storage, dy.storage, gradients, R, n, width)
    return [da, sumTo(drate, rate.shape), dshift]
  })
}
