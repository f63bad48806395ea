/** Targets of which some don't count, and which may be others whenever a captured step is replayed. */
import { type Tensor, varying } from '../tensor.ts'
import { affine, mul } from './elementwise.ts'

/** 1 / the number of targets that count; throws where none does. */
export const meanFactor =
  (op: string, targets: Tensor, ignore: number): (() => number) =>
  () => {
    const count = targets.now().reduce((n, target) => n + (target === ignore ? 0 : 1), 0)
    if (count === 0) throw new Error(`${op}: every target is ignored, so there is no mean`)
    return 1 / count
  }

/** x times a number that follows from the targets, which may be others each time. */
export const scaled = (x: Tensor, targets: Tensor, factor: () => number): Tensor =>
  targets.isInput
    ? mul(
        x,
        varying(() => [factor()], { shape: x.shape.map(() => 1), device: x.device }),
      )
    : affine(x, factor())
