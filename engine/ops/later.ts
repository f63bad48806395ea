/** A sigmoid for which no kernel runs before somebody asks for its values: a rule whose strengths it is computes it itself (`fastWeights`). */
import { record, records } from '../autograd.ts'
import { like, type Tensor } from '../tensor.ts'
import { sigmoid } from './elementwise.ts'

/** 1 / (1 + e^-x), for x of any shape. Where no backward pass is to come it's computed at once. */
export function sigmoidLater(x: Tensor): Tensor {
  if (!records([x])) return sigmoid(x)
  const { kernels } = x.device
  const y = like(x)
  const backward = (dy: Tensor): Tensor[] => {
    const dx = like(x)
    kernels.unaryBackward('sigmoid', x.storage, y.storage, dy.storage, dx.storage, x.size)
    return [dx]
  }
  record('sigmoid', [x], y, backward, () => kernels.unary('sigmoid', x.storage, y.storage, x.size))
  y.evict()
  return y
}
