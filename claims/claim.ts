/**
 * A claim is data: two sides that are computed for generated cases, and how they should compare. Equality of the two forms of a rule, a
 * reduction of one rule to another, a bound: whatever a paper says about fast weights and a machine can check.
 */
import type fc from 'fast-check'
import { type Device, rules, type Tensor } from '../engine/index.ts'
import { type Context, type Look, type Other, others } from './context.ts'

/** A claim, a rule or a file of them isn't as it should be; the message is one line. */
export class ClaimError extends Error {
  override name = 'ClaimError'
}

/** The fields of a case and how each is generated: sizes, places to cut, options. Small records, so that counterexamples can be read. */
export type Fields = Readonly<Record<string, fc.Arbitrary<unknown>>>

/** What one run of a claim is about. Tensors aren't part of it: `Context.tensor` draws them from the seed. */
export type Case<F extends Fields = Fields> = {
  readonly [Name in keyof F]: F[Name] extends fc.Arbitrary<infer Value> ? Value : never
} & { readonly look: Look; readonly seed: number }

/**
 * One side's results by name. Both sides must have the same names, and under each the same shape, not an empty one, and dtype. A number has the
 * shape [], a list of n numbers [n]; both fit any dtype.
 */
export type Side = Readonly<Record<string, Tensor | number | ArrayLike<number>>>

/**
 * `equal`: rms(left - right) / (rms(right) + floor) is within the bound, for each name; the floor: see `Claim.floor`. `same bits`: every
 * value is the same, to the sign of zero. `at most`: no left value is above its right one by more than bound * (|right| + floor). A NaN on
 * either side violates all three, and refutes no false claim.
 */
export const relations = ['equal', 'same bits', 'at most'] as const
/** How the two sides of a claim are compared. */
export type Relation = (typeof relations)[number]

/** How far the two sides of a claim may be apart, and why. */
export interface Bounds {
  /** On devices that compute in float32. */
  readonly float32: number
  /** On the reference. */
  readonly float64: number
  /** Where they come from. */
  readonly reason: string
}

/** A statement about rules or devices: two sides, drawn cases, and what must hold between the two. `defineClaim` makes one. */
export interface Claim<F extends Fields = any> {
  /** 'family: what', unique. */
  readonly name: string
  /** The heading that it stands under. */
  readonly section: string
  /** In words. */
  readonly statement: string
  /** TeX. */
  readonly equation: string
  /** The paper and the place in it, or why it must be so. */
  readonly source: string
  /** What its cases consist of: sizes, options. */
  readonly fields: F
  /** The one side, for a case. */
  left(c: Case<F>, context: Context): Side
  /** The other side, for the same case. */
  right(c: Case<F>, context: Context): Side
  /** `equal` by default. */
  readonly relation?: Relation
  /** `forward`, or `nothing` for `same bits`, by default. */
  readonly bounds?: Bounds
  /**
   * The floor is this (0.1 by default) times the largest rms on the right side among the results of the same kind, gradients ('dq', where a
   * 'q' is drawn) or others, but from 1 to 10: inputs are drawn of size 1, and a result that is much smaller than the others of its kind is a
   * difference of terms of their size, with their rounding error. No more than 10, since larger results come from products of many such
   * terms (a memory that grows, say), which the small ones needn't have gone through.
   */
  readonly floor?: number
  /** False: the claim is wrong, and the check must find a counterexample. */
  readonly holds?: boolean
  /** Of a claim about averages: how sure a single case is, in words. */
  readonly confidence?: string
  /** What else it compares with: it is skipped on devices that have no such other. */
  readonly needs?: readonly Other[]
  /** The rules of this package that its sides run through `runner` or `call`, so that an implementation by others can stand in for them. */
  readonly rules?: readonly string[]
}

/** For values that went through a chain of a few dozen roundings. */
export const forward: Bounds = {
  float32: 1e-5,
  float64: 1e-10,
  reason:
    'T steps of sums over K: about (T + K) roundings, each of 6e-8 in float32 and 1.1e-16 in float64, most of which cancel; the largest seen among 1,000 cases of each claim are 3.0e-6 and 2.4e-14',
}

export const nothing: Bounds = { float32: 0, float64: 0, reason: 'the same operations in the same order' }

/** A false claim must be refuted by more than rounding: by a hundredth of what it says. */
export const refutation: Bounds = { float32: 1e-2, float64: 1e-2, reason: 'a counterexample must differ by more than 1 %' }

/**
 * So many cases at most refute a false claim, if no more are asked for: `runs` says how much is enough to believe in a claim, and not how soon a
 * counterexample comes. Those of this package take 1 or 2, at most 12 among 200 seeds each; what one case in a hundred contradicts, 1,000
 * miss once in 23,000 times.
 */
export const refutationRuns = 1000

/**
 * Where operands of products are rounded to float16: by 2^-11 at most, two of each product, and a result comes of eight products one after the other
 * at most (of a chunk and its gradients: pairs, what they solve, the state, what is read, and back). A bound of 0 stays, since nothing is rounded there.
 */
export const float16Bound = 8 * 2 * 2 ** -11

/** Which bound there is on a device. */
export function boundOn({ double, precision }: Device, { float32, float64 }: Bounds): number {
  if (precision === 'f16' && float32 > 0) return Math.max(float32, float16Bound)
  return double ? float64 : float32
}

export const boundsOf = ({ bounds, relation, holds }: Claim): Bounds =>
  bounds ?? (holds === false ? refutation : relation === 'same bits' ? nothing : forward)

/** A claim with its types inferred from the fields; throws a ClaimError where something is missing or of the wrong kind. */
export function defineClaim<F extends Fields>(claim: Claim<F>): Claim<F> {
  return checkClaim(claim, claimWhere(claim))
}

const claimWhere = (claim: unknown): string => {
  const name = (claim as { name?: unknown } | null)?.name
  return typeof name === 'string' ? `claim '${name}'` : 'a claim'
}

const texts = ['name', 'section', 'statement', 'equation', 'source'] as const

/** Within an infinite bound, or relative to an infinite floor, everything holds. */
const isMeasure = (x: unknown): boolean => typeof x === 'number' && x >= 0 && x < Infinity

/** The same claim, if it is one. `where` begins the message. */
export function checkClaim<C extends Claim>(claim: C, where = claimWhere(claim)): C {
  const fail = (what: string): never => {
    throw new ClaimError(`${where}: ${what}`)
  }
  if (typeof claim !== 'object' || claim === null) fail(`expected an object, got ${claim === null ? 'null' : typeof claim}`)
  const known = [...texts, 'fields', 'left', 'right', 'relation', 'bounds', 'floor', 'holds', 'confidence', 'needs', 'rules']
  for (const key of Object.keys(claim)) if (!known.includes(key)) fail(`unknown property '${key}' (a claim has ${known.join(', ')})`)
  for (const key of texts) if (typeof claim[key] !== 'string' || claim[key] === '') fail(`'${key}' must be a text`)
  if (/[\p{Cc}]/u.test(claim.name)) fail("'name' must be one line")
  for (const side of ['left', 'right'] as const)
    if (typeof claim[side] !== 'function') fail(`'${side}' must be a function (case, context) => { name: tensor }`)
  if (typeof claim.fields !== 'object' || claim.fields === null) fail("'fields' must be an object of fast-check arbitraries")
  for (const [name, field] of Object.entries(claim.fields as Fields)) {
    if (typeof (field as { generate?: unknown } | null)?.generate !== 'function') fail(`field '${name}' isn't a fast-check arbitrary`)
    if (name === 'seed' || name === 'look') fail(`a field can't be called '${name}': every case has one`)
  }
  if (claim.relation !== undefined && !relations.includes(claim.relation)) fail(`'relation' must be one of ${relations.join(', ')}`)
  const { float32, float64, reason } = boundsOf(claim)
  if (!(isMeasure(float32) && isMeasure(float64) && typeof reason === 'string'))
    fail(
      `'bounds' must be { float32, float64, reason }: two finite numbers from 0 and a text, not ${float32}, ${float64} and ${typeof reason}`,
    )
  if (claim.floor !== undefined && !isMeasure(claim.floor)) fail(`'floor' must be a finite number from 0, not ${claim.floor}`)
  const { needs, holds, confidence } = claim
  if (needs !== undefined && !(Array.isArray(needs) && needs.every((other) => others.includes(other))))
    fail(`'needs' must be a list out of ${others.join(', ')}`)
  if (claim.rules !== undefined && !(Array.isArray(claim.rules) && claim.rules.every((rule) => Object.hasOwn(rules, rule))))
    fail(`'rules' must be a list out of ${Object.keys(rules).join(', ')}`)
  if (holds !== undefined && typeof holds !== 'boolean') fail("'holds' must be true or false")
  if (confidence !== undefined && (typeof confidence !== 'string' || confidence === '')) fail("'confidence' must be a text")
  return claim
}

/** Throws where two claims have the same name. */
export function checkNames(claims: readonly Claim[]): readonly Claim[] {
  const seen = new Set<string>()
  for (const { name } of claims) {
    if (seen.has(name)) throw new ClaimError(`two claims are called '${name}'`)
    seen.add(name)
  }
  return claims
}
