/**
 * Copying (as in Irie 2024, Exploring the promise and limits of real-time recurrent learning): a pattern of t bits, t up to a length, then blanks, under
 * which the bits are asked for in their order. Tests: test/tasks/copy.test.ts.
 */
import { ignoredTarget } from '../nn/model.ts'
import { wrongTargets } from './targets.ts'
import { type Example, type Task, task } from './task.ts'

/** Settings of copying. */
export interface CopySettings {
  /** The most bits of a pattern. */
  length: number
}

const blank = 2

/** A pattern within 2 `length` places, and where its bits are asked for. */
function example(length: number, bits: ArrayLike<number>): Example {
  const inputs = new Int32Array(2 * length).fill(blank)
  const targets = new Int32Array(2 * length).fill(ignoredTarget)
  inputs.set(bits)
  targets.set(bits, bits.length)
  return { inputs, targets }
}

const copy: Task<CopySettings> = task({
  title: 'a pattern of bits again, after as many blanks as it has bits',
  // Their loader numbers symbols as they come, and so leaves every bit 1 out of loss and accuracy; here both bits count.
  source: 'Irie 2024, Exploring the promise and limits of real-time recurrent learning; as in IDSIA/rtrl-elstm, with both bits scored',
  fields: {
    length: {
      type: 'integer',
      min: 1,
      max: 100_000,
      sensible: 2000,
      default: 50,
      description: 'the most bits of a pattern: 50 or 500 in the paper',
    },
  },
  options: { code_length: 'length' },
  symbols: () => blank + 1,
  vocabulary: () => '0 and 1 the bits, 2 blank',
  pad: () => blank,
  fixed: true,
  draw({ length }, _, random) {
    const t = 1 + random.below(length)
    return example(
      length,
      Array.from({ length: t }, () => random.below(2)),
    )
  },
  wrong({ length }, given) {
    const { inputs } = given
    if (inputs.length !== 2 * length) return `there are ${inputs.length} symbols, not ${2 * length}`
    const strange = inputs.findIndex((symbol) => symbol !== 0 && symbol !== 1 && symbol !== blank)
    if (strange >= 0) return `the symbol at ${strange} is ${inputs[strange]}, neither a bit nor a blank`
    const t = inputs.indexOf(blank)
    if (t < 1 || t > length) return `the pattern has ${t < 0 ? inputs.length : t} bits, not 1 to ${length}`
    const late = inputs.findIndex((symbol, i) => i > t && symbol !== blank)
    if (late >= 0) return `a bit stands at ${late}, after the first blank`
    return wrongTargets(
      given,
      Int32Array.from(inputs, (_, i) => (i >= t && i < 2 * t ? inputs[i - t] : ignoredTarget)),
    )
  },
  metric: 'sequences',
  // 2^-t for a pattern of t bits.
  chance: ({ length }) => (1 - 2 ** -length) / length,
})

/** The task of this file by name. */
export const copyTasks = { copy } satisfies Record<string, unknown>
