/** What a module brings: claims of its own, and what every rule must fulfil for rules of its own. Pages have it, too, so nothing of Node is here. */
import { scope } from '../engine/index.ts'
import { type Case, type Claim, ClaimError, checkClaim } from './claim.ts'
import { Devices, Draws, withDevice } from './context.ts'
import { familyClaims } from './family.ts'
import { checkRule, type FamilyRule, type OwnRule } from './rule.ts'
import { drawInputs, drawState, runner } from './sides.ts'

/**
 * The claims of a module: `claims` and `rules`, each an array or an object of them, exported by name or within the default export. `file` is how
 * messages call it, `explain` what they say of an error that a step throws.
 */
export async function claimsOf(exported: Record<string, unknown>, file: string, explain: (error: unknown) => string): Promise<Claim[]> {
  const fail = (what: string): never => {
    throw new ClaimError(`${file}: ${what}`)
  }
  const inside = typeof exported.default === 'object' && exported.default !== null ? (exported.default as Record<string, unknown>) : {}
  const list = (name: 'claims' | 'rules'): unknown[] => {
    const found = exported[name] ?? inside[name]
    if (found === undefined) return []
    if (inside[name] !== undefined && inside[name] !== found)
      return fail(
        `exports two different '${name}', one by name and one within the default export: keep one, or the other would never be checked`,
      )
    const kind = found === null ? 'null' : typeof found === 'object' ? (found.constructor?.name ?? 'Object') : typeof found
    // Of a Map, a Set or a promise `Object.values` sees nothing.
    if (!Array.isArray(found) && kind !== 'Object') return fail(`'${name}' must be an array or an object, not ${kind}`)
    const values = Object.values(found as object)
    return values.length === 0 ? fail(`'${name}' is empty: there is nothing to check`) : values
  }
  const [claims, rules] = [list('claims'), list('rules')]
  if (claims.length + rules.length === 0) fail("exports neither 'claims' nor 'rules'")
  const ofRules: Claim[] = []
  for (const [i, rule] of rules.entries()) {
    const where = nameOf(file, 'rules', rule, i)
    const checked = checkRule(rule as OwnRule, where)
    await tryStep(checked, explain, where)
    ofRules.push(...familyClaims(checked))
  }
  return [...ofRules, ...claims.map((claim, i) => checkClaim(claim as Claim, nameOf(file, 'claims', claim, i)))]
}

/** One token of small sizes, so that a step (or a map of inputs) that can't work is one message and not one a claim. */
async function tryStep(rule: FamilyRule, explain: (error: unknown) => string, where: string): Promise<void> {
  const devices = await Devices.open('reference')
  const c = { B: 1, T: 1, H: 1, K: 2, V: 3, N: 2, look: 'normal', seed: 1, initial: true } as unknown as Case
  try {
    const context = new Draws(c, devices).context()
    withDevice(devices.device, () =>
      scope(() => {
        const inputs = drawInputs(rule, c, context)
        runner(rule, 'step')(inputs, drawState(rule, c, context))
        rule.equals?.inputs(inputs)
      }),
    )
  } catch (error) {
    throw error instanceof ClaimError ? error : new ClaimError(`${where}: step: ${explain(error)}`)
  }
}

const nameOf = (file: string, what: string, value: unknown, i: number): string => {
  const name = (value as { name?: unknown } | null)?.name
  return `${file}: ${typeof name === 'string' ? `'${name}'` : `${what}[${i}]`}`
}
