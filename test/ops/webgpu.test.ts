/** The WebGPU device against the float64 reference, for every op of the table. Runs on a GPU computed by the CPU (test/run.mjs): few and small. */

import assert from 'node:assert/strict'
import fc from 'fast-check'
import { reference, webgpu } from '../helpers.ts'
import { cases, evaluate, medium, tiny } from './cases.ts'
import { compare } from './compare.ts'

describe('webgpu', () => {
  for (const c of cases)
    it(`${c.name}: like the reference`, async function () {
      const device = await webgpu(this)
      const before = device.bytesInUse()
      await fc.assert(
        fc.asyncProperty(fc.oneof(c.options(tiny), c.options(medium)), fc.nat(), async (o, seed) => {
          compare(c, o, await evaluate(c, o, seed, device), await evaluate(c, o, seed, reference))
        }),
        { numRuns: 10 },
      )
      assert.equal(device.bytesInUse(), before, 'bytes left over')
    })
})
