/** Every claim, a hundred cases each, on both devices: the same list that `fastweights verify` checks. */
import assert from 'node:assert/strict'
import temml from 'temml'
import { check, claims, Devices, type Kind } from '../../claims/index.ts'
import { builds } from '../helpers.ts'

for (const kind of ['reference', 'wasm'] as const satisfies Kind[]) {
  describe(`claims, ${kind}`, () => {
    let devices: Devices
    before(async () => {
      devices = await Devices.open(kind, { relaxed: builds.some(({ relaxed }) => relaxed) })
    })
    after(() => devices.close())

    for (const claim of claims)
      it(claim.name, async () => {
        const verdict = await check(claim, devices, { runs: 100 })
        const { status, message, counterexample, error, bound } = verdict
        assert.ok(verdict.ok, [`${status}: ${message}`, ...(counterexample?.lines ?? [])].join('\n'))
        if (status === 'holds') assert.ok(error <= bound)
        if (status === 'refuted') assert.ok(error > bound && counterexample!.lines.length > 1)
      })
  })
}

describe('the list of claims', () => {
  it('bounds every true equality by 1e-5 in float32 and 1e-10 in float64, with a reason', () => {
    for (const { name, holds, bounds } of claims)
      if (holds !== false && bounds) assert.ok(bounds.float32 <= 1e-5 && bounds.float64 <= 1e-10 && bounds.reason.length > 10, name)
  })

  it('has equations that can be typeset', () => {
    for (const { name, equation } of claims) assert.match(temml.renderToString(equation, { throwOnError: true }), /^<math/, name)
  })
})
