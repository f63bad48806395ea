export { type CheckOptions, type Counterexample, check, type Status, type Verdict } from './check.ts'
export { type Bounds, type Case, type Claim, ClaimError, defineClaim, type Fields, type Look, type Relation, type Side } from './claim.ts'
export { type Context, Devices, type Kind, type Other, type Values } from './context.ts'
