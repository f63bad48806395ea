/** Checks a claim in a worker, and says on the way how it fares. */
import { type Claim, check, Devices } from 'fastweights/claims'
import { caseLine } from '../../dist/claims/check.js'
import { boundsOf } from '../../dist/claims/claim.js'
import type { ClaimText, Job, Kind, Message } from './protocol.ts'

const opened = new Map<Kind, Promise<Devices>>()

/** A device is opened once a worker; one that couldn't be is tried again. */
function devicesOf(kind: Kind): Promise<Devices> {
  const devices = opened.get(kind) ?? Devices.open(kind)
  opened.set(kind, devices)
  devices.catch(() => opened.delete(kind))
  return devices
}

export const textOf = (claim: Claim): ClaimText => {
  const { name, statement, equation, source, holds = true, relation } = claim
  return { name, statement, equation, source, holds, sameBits: relation === 'same bits', ...boundsOf(claim) }
}

export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))

/** Ends with a verdict, or a failure where there can be none: a device that isn't there, a case that isn't. */
export async function run(claims: readonly Claim[], { claim: name, device, runs, seed, path }: Job, say: (message: Message) => void) {
  try {
    const claim = claims.find((claim) => claim.name === name)
    if (!claim) throw new Error(`there is no claim '${name}'`)
    let largest = -1
    const verdict = await check(claim, await devicesOf(device), {
      runs,
      seed,
      path,
      explain: messageOf,
      onCase: (c, runs) => say({ kind: 'case', case: caseLine(c), runs }),
      onMeasured(c, error, within) {
        if (!within) say({ kind: 'against', case: caseLine(c), error: String(error) })
        else if (error > largest) say({ kind: 'largest', error: String((largest = error)) })
      },
    })
    const { counterexample, claim: _, device: __, error, ...rest } = verdict
    const found = counterexample && { lines: counterexample.lines, path: counterexample.path }
    say({ kind: 'verdict', verdict: { ...rest, ...found, error: String(error) } })
  } catch (error) {
    say({ kind: 'failure', message: messageOf(error) })
  }
}
