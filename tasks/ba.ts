/**
 * The associative retrieval of Ba et al. 2016, section 4.1: letters with a digit each, two question marks, and one of the letters.
 *
 *   l d l d l d l d ? ? l        letters 0 ... 25, digits 26 ... 35, ? 36; the digit is asked for at the last place
 *
 * Tests: test/tasks/.
 */
import { ignoredTarget } from '../nn/model.ts'
import { wrongTargets } from './targets.ts'
import { exampleAt, task } from './task.ts'

const letters = 26
const digits = 10
const question = letters + digits

export const ba = task<{ pairs: number }>({
  title: 'the digit that stood behind a letter',
  source: 'Ba et al. 2016; jxwufan/AssociativeRetrieval',
  fields: { pairs: { type: 'integer', default: 4, min: 1, max: digits, description: 'pairs of a key and a value' } },
  options: { seq_len: 'pairs' },
  symbols: () => question + 1,
  vocabulary: () =>
    `a..z = 0..25, digits 0..9 = 26..35, ? = ${question}; pairs of a letter and a digit, two ?, the letter that is asked for`,
  pad: () => question,
  fixed: true,
  draw({ pairs }, _, random) {
    const keys = random.sample(letters, pairs)
    const values = random.sample(digits, pairs).map((digit) => letters + digit)
    const asked = random.below(pairs)
    const inputs = [...keys.flatMap((key, i) => [key, values[i]]), question, question, keys[asked]]
    return exampleAt(inputs, [[inputs.length - 1, values[asked]]])
  },
  wrong({ pairs }, example) {
    const { inputs, targets } = example
    const last = 2 * pairs + 2
    if (inputs.length !== last + 1) return `${inputs.length} places, where ${pairs} pairs and the question take ${last + 1}`
    let answer = -1
    for (let i = 0; i < last; i++) {
      const symbol = inputs[i]
      if (i >= 2 * pairs) {
        if (symbol !== question) return `place ${i}: ${symbol} isn't the question mark ${question}`
      } else if (i % 2 === 0 ? symbol >= letters : symbol < letters || symbol === question)
        return `place ${i}: ${symbol} isn't a ${i % 2 === 0 ? 'letter' : 'digit'}`
      else if (inputs.indexOf(symbol) < i) return `place ${i}: ${symbol} comes again`
      if (i % 2 === 0 && i < 2 * pairs && symbol === inputs[last]) answer = inputs[i + 1]
    }
    if (answer < 0) return `place ${last}: ${inputs[last]} is none of the letters`
    const expected = new Int32Array(last + 1).fill(ignoredTarget)
    expected[last] = answer
    return wrongTargets({ inputs, targets }, expected)
  },
  metric: 'places',
  // One of the digits shown: where training stands for thousands of steps.
  chance: ({ pairs }) => 1 / pairs,
})
