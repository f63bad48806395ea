/** The table of rules. */
import { deltaRules } from './delta.ts'
import { dplrRules } from './dplr.ts'
import { eraseRules } from './erase.ts'
import { innerRules } from './inner.ts'
import { logLinearRules } from './log-linear.ts'
import { mesaRules } from './mesa.ts'
import { momentumRules } from './momentum.ts'
import { ojaRules } from './oja.ts'
import type { Rule } from './rule.ts'
import { rwkvRules } from './rwkv.ts'
import { slotRules } from './slots.ts'
import { sumRules } from './sum.ts'

/** Every rule, by name. */
export const rules = {
  ...sumRules,
  ...deltaRules,
  ...ojaRules,
  ...eraseRules,
  ...dplrRules,
  ...rwkvRules,
  ...slotRules,
  ...momentumRules,
  ...mesaRules,
  ...innerRules,
  ...logLinearRules,
} as const satisfies Record<string, Rule>
/** The name of a rule: a key of `rules`. */
export type RuleName = keyof typeof rules
