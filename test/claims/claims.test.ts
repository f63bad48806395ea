/** Every claim, the same list that `fastweights verify` checks: a hundred cases each, few where the CPU imitates a GPU. */
import assert from 'node:assert/strict'
import temml from 'temml'
import { check, claims, Devices, type Kind } from '../../claims/index.ts'
import { builds, webgpu } from '../helpers.ts'

/** Cases of a claim that holds; a false one is refuted by the first counterexample. */
const casesOf: Record<Kind, number> = { reference: 100, wasm: 100, webgpu: 1 }

for (const kind of Object.keys(casesOf) as Kind[]) {
  describe(`claims, ${kind}`, () => {
    let devices: Devices
    before(async function () {
      if (kind === 'webgpu') await webgpu(this)
      devices = await Devices.open(kind, { relaxed: builds.some(({ relaxed }) => relaxed) })
    })
    after(() => devices?.close())

    for (const [i, claim] of claims.entries())
      it(claim.name, async () => {
        const runs = claim.holds === false ? 100 : casesOf[kind]
        // The first cases of one seed would be much alike for all claims.
        const verdict = await check(claim, devices, { runs, seed: runs < 100 ? i : 1 })
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
