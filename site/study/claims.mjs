/** The claims as pages name them. */
import { claims } from '../../dist/claims/index.js'

export { claims }

const byName = new Map(claims.map((claim) => [claim.name, claim]))

/** The claim of a name; one that there isn't fails the build. */
export function claimOf(name) {
  const claim = byName.get(name)
  if (!claim) throw new Error(`site: there is no claim '${name}'`)
  return claim
}

/** Claims about a rule: those made from its row, and others that run it. */
export const claimsAbout = (rule) => claims.filter(({ name, rules = [] }) => name.startsWith(`${rule}: `) || rules.includes(rule))

/** The id of a claim's article. */
export const slug = (name) =>
  name
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '')

/** Where the claims page has it. */
export const claimPath = (name) => `claims/#${slug(name)}`
