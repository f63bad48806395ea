/** Memory written in place, for states that have room (nn/room.ts); no op of the engine's users, since whoever else holds the tensor sees it change. */
import { show, sizeOf } from '../shape.ts'
import type { Tensor } from '../tensor.ts'
import { checkFloat, checkIndices, sameDevice } from './check.ts'

/** Overwrites rows of y [...,D] in place: row index[r], counted over all axes before the last, with row r of x [...,D]. No two indices may be alike, which isn't checked; no gradient passes. */
export function overwrite(y: Tensor, x: Tensor, index: Tensor): void {
  checkFloat('overwrite', y, x)
  const D = y.shape.at(-1)
  if (D === undefined || x.shape.at(-1) !== D || x.size !== index.size * D)
    throw new Error(`overwrite: rows ${show(x.shape)} for ${index.size} indices don't fit into ${show(y.shape)}`)
  checkIndices('overwrite', index, sizeOf(y.shape.slice(0, -1)))
  sameDevice('overwrite', y, x, index)
  y.device.kernels.scatter(x.storage, index.storage, y.storage, index.size, D)
  y.changed()
}
