/** When a device that computes in float32 agrees with the reference. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import type { Device, HostArray } from '../../engine/index.ts'
import { assertClose, assertRms, halfReference, reference } from '../helpers.ts'
import { type Case, type Evaluation, evaluate, medium, tiny } from './cases.ts'

export const epsilon = 2 ** -23

/** How many values were compared: an output may be empty (a slice of length 0), and then its length is all that there is. */
function compare(c: Case, o: unknown, actual: Evaluation, expected: Evaluation, half: boolean): number {
  let compared = 0
  // Each result carries a few roundings, and those of its sum, which grow like the root of its length (Higham & Mary 2019).
  const bound = (8 + 4 * Math.sqrt(c.terms?.(o) ?? 1)) * epsilon
  const both = (what: string, a: HostArray | null, e: HostArray | null): void => {
    compared += e?.length ?? 0
    if (a === null || e === null) assert.equal(a, e, what)
    else if (e.length === 0) assert.equal(a.length, 0, what)
    // What comes of a product may be rounded to the other neighbour before the next, by 2^-10 of it, and chunks are cut differently.
    else if (half) assertRms(a, e, 8 * 2 ** -11, what, 0.05)
    // Few tokens may cancel by chance: what is left of numbers of about 1 is held to 5e-7, a few roundings of 1.
    else if (c.sequence) assertRms(a, e, 1e-5, what, 0.05)
    else assertClose(a, e, bound, 1, what)
  }
  assert.equal(actual.outputs.length, expected.outputs.length)
  assert.equal(actual.grads.length, expected.grads.length)
  for (const [i, e] of expected.outputs.entries()) both(`output ${i}`, actual.outputs[i], e)
  for (const [i, e] of expected.grads.entries()) both(`gradient of input ${i}`, actual.grads[i], e)
  return compared
}

/** Outputs and gradients of generated cases, like those of the reference of the device's precision; and nothing is left over. */
export async function checkLikeReference(c: Case, device: Device, numRuns: number): Promise<void> {
  const before = device.bytesInUse()
  let compared = 0
  const half = device.precision === 'f16'
  const oracle = half ? halfReference : reference
  await fc.assert(
    fc.asyncProperty(fc.oneof(c.options(tiny), c.options(medium)), fc.nat(), async (o, seed) => {
      compared += compare(c, o, await evaluate(c, o, seed, device), await evaluate(c, o, seed, oracle), half)
    }),
    { numRuns },
  )
  assert.ok(compared > 0, 'no case had values to compare')
  assert.equal(device.bytesInUse(), before, 'bytes left over')
}
