/** Every claim of this package, in the order of the report. */
import { type Claim, checkNames } from './claim.ts'
import { builtIn, familyClaims } from './family.ts'

export const claims: readonly Claim[] = checkNames([...builtIn.flatMap(familyClaims)])
