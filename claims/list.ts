/** Every claim of this package, in the order of the report. */
import { aftClaims } from './aft.ts'
import { attentionClaims } from './attention.ts'
import { type Claim, checkNames } from './claim.ts'
import { crossClaims, falseCrossClaims } from './encoder-decoder.ts'
import { builtIn, familyClaims } from './family.ts'
import { featureClaims } from './features.ts'
import { learningClaims } from './learning.ts'
import { memoryClaims } from './memory.ts'
import { falseNetClaims, netClaims } from './nets.ts'
import { reductionClaims } from './reductions.ts'
import { falseClaims } from './refuted.ts'

/** The claims that come with the package: what `fastweights verify` checks. */
export const claims: readonly Claim[] = checkNames([
  ...builtIn.flatMap(familyClaims),
  ...reductionClaims,
  ...attentionClaims,
  ...crossClaims,
  ...aftClaims,
  ...memoryClaims,
  ...learningClaims,
  ...featureClaims,
  ...netClaims,
  ...falseClaims,
  ...falseCrossClaims,
  ...falseNetClaims,
])
