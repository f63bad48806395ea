/** Memory written in place, for states that have room (nn/room.ts); no op of the engine's users, since whoever else holds the tensor sees it change. */
import { broadcast, broadcastStrides, sameShape, show } from '../shape.ts'
import type { Tensor } from '../tensor.ts'
import { checkCondition, checkFloat, sameDevice } from './check.ts'

/** Overwrites y in place where the condition, int32, isn't 0, with x; both broadcast to the shape of y. No gradient passes. */
export function overwrite(y: Tensor, x: Tensor, condition: Tensor): void {
  checkFloat('overwrite', y, x)
  checkCondition('overwrite', condition)
  sameDevice('overwrite', y, x, condition)
  const strides = [condition, x].map((t) => {
    if (!sameShape(broadcast('overwrite', t.shape, y.shape), y.shape))
      throw new Error(`overwrite: ${show(t.shape)} can't be stretched to ${show(y.shape)}`)
    return broadcastStrides(t.shape, y.shape)
  })
  y.device.kernels.copyWhere(condition.storage, x.storage, y.storage, y.shape, strides[0], strides[1])
  y.changed()
}
