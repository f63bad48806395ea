export { type CheckOptions, type Counterexample, check, type Status, type Verdict } from './check.ts'
export {
  type Bounds,
  type Case,
  type Claim,
  ClaimError,
  checkNames,
  defineClaim,
  type Fields,
  type Relation,
  type Side,
} from './claim.ts'
export { conformanceClaims } from './conformance.ts'
export { type Context, Devices, type Kind, type Look, type Other, type Subject, type Values } from './context.ts'
export { familyClaims } from './family.ts'
export { flag, int, oneOf } from './fields.ts'
export { type Ability, type Adapter, type Arrays, type CallOptions, type FloatType, Implementation, NotOffered } from './implementation.ts'
export { claims } from './list.ts'
export { adapterOf } from './own.ts'
export { defineRule, type OwnRule } from './rule.ts'
