/**
 * Every claim, the same list that `fastweights verify` checks: 16 cases each (CASES=N: N) with the kernels for the CPU and with the plain loops of the reference, and
 * one, a chosen one, where the CPU imitates a GPU.
 */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import temml from 'temml'
import { caseOf } from '../../claims/check.ts'
import { type Kind, kinds, type Other, others } from '../../claims/context.ts'
import { type Case, type Claim, check, checkNames, claims, Devices } from '../../claims/index.ts'
import { builds, webgpu } from '../helpers.ts'

/**
 * How much a case shows: first of all plain numbers, and chunks, the last one cut; then keys and values, and rows, more than one, and a state
 * to begin with. Tokens count against it, three as much as one of these: each takes a GPU that the CPU imitates its time.
 */
function worth({ look, ...c }: Case & Record<string, any>): number {
  const { B = 2, H = 2, K = 2, V = 2, T = 3, C = 2, initial = true } = c
  const count = (...shown: boolean[]): number => shown.filter(Boolean).length
  return 9 * count(look === 'normal', T > C, T % C > 0) + count(B * H > 1, K > 1, V > 1, C > 1, initial) - T / 3
}

/** Where the case that shows most lies among the first 300 of a seed. */
function mostWorth(claim: Claim, seed: number): string {
  const worths = fc.sample(caseOf(claim), { seed, numRuns: 300 }).map(worth)
  return String(worths.indexOf(Math.max(...worths)))
}

/** What a device may be compared with: the reference not with itself, and builds and threads are wasm's. */
const comparable: Record<Kind, readonly Other[]> = { reference: [], wasm: others, webgpu: ['reference'] }

/** Of each claim; `fastweights verify` takes a hundred, .ci/run 25. On wasm the bugs of test/mutations are caught by one of the first 15. */
const cases = Number(process.env.CASES ?? 16)
if (!(Number.isInteger(cases) && cases > 0)) throw new Error(`CASES=${process.env.CASES}: give a positive integer`)
const casesOn: Record<Kind, number> = { reference: cases, wasm: cases, webgpu: 1 }

for (const kind of kinds) {
  describe(`claims, ${kind}`, () => {
    let devices: Devices
    before(async function () {
      // The GPU of all tests of the process, which compiles each shader once.
      devices =
        kind === 'webgpu' ? Devices.on(await webgpu(this)) : await Devices.open(kind, { relaxed: builds.some(({ relaxed }) => relaxed) })
    })
    after(() => {
      if (kind !== 'webgpu') devices?.close()
    })

    for (const [i, claim] of claims.entries()) {
      if (!(claim.needs ?? []).every((other) => comparable[kind].includes(other))) continue
      it(claim.name, async function () {
        // One seed's cases would be much alike for all claims. A false one is refuted by its first counterexample, which must be found.
        const runs = casesOn[kind]
        const one = runs === 1 && claim.holds !== false
        const verdict = await check(claim, devices, one ? { seed: i, path: mostWorth(claim, i) } : { runs })
        const { status, message, counterexample, error, bound } = verdict
        if (status === 'skipped') {
          this.test!.title += ` (${kind} has no ${claim.needs!.filter((other) => !devices.has(other)).join(', ')} to compare with)`
          this.skip()
        }
        assert.ok(verdict.ok, [`${status}: ${message}`, ...(counterexample?.lines ?? [])].join('\n'))
        assert.ok(verdict.runs >= (claim.holds === false ? verdict.refutedBy! : runs), `${verdict.runs} cases`)
        if (status === 'holds') assert.ok(error >= 0 && error <= bound)
        if (status === 'refuted') assert.ok(error > bound && counterexample!.lines.length > 1)
      })
    }
  })
}

describe('the list of claims', () => {
  it('names every claim once', () => {
    checkNames(claims)
    assert.ok(claims.filter(({ holds }) => holds !== false).length > 300 && claims.some(({ holds }) => holds === false))
  })

  it('bounds every true equality by 1e-5 in float32 and 1e-10 in float64, with a reason', () => {
    for (const { name, holds, bounds } of claims)
      if (holds !== false && bounds) assert.ok(bounds.float32 <= 1e-5 && bounds.float64 <= 1e-10 && bounds.reason.length > 10, name)
  })

  it('has equations that can be typeset', () => {
    for (const { name, equation } of claims) assert.match(temml.renderToString(equation, { throwOnError: true }), /^<math/, name)
  })
})
