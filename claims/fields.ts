/** How cases are generated. */
import fc from 'fast-check'
import type { Letter, Rule } from '../engine/index.ts'

/** An integer field; it shrinks towards `min`. */
export const int = (min: number, max: number): fc.Arbitrary<number> => fc.integer({ min, max })

/** One of a few values; it shrinks towards the first. */
export const oneOf = <V>(...values: V[]): fc.Arbitrary<V> => fc.constantFrom(...values)

/** A field that is true or false. */
export const flag = fc.boolean()

/** Largest sizes. */
export interface Limits {
  B?: number
  T?: number
  H?: number
  /** Of K and V. */
  width?: number
}

/** A size for each letter of the rule's axes. */
export function sizes(
  rule: Pick<Rule, 'inputs' | 'state'>,
  { B = 2, T = 12, H = 2, width = 6 }: Limits = {},
): Record<string, fc.Arbitrary<number>> {
  const largest: Record<Letter, number> = { B, T, H, K: width, V: width, N: 3, M: 4 }
  const used = new Set([...Object.values(rule.inputs).flatMap(({ shape }) => shape), ...Object.values(rule.state).flat()])
  return Object.fromEntries([...used].sort().map((letter) => [letter, int(1, largest[letter])]))
}
