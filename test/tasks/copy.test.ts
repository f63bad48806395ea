/** Copying: the rule accepts the authors' sequences and our own, and no others. */
import assert from 'node:assert/strict'
import { copyTasks } from '../../tasks/copy.ts'
import { settingsOf } from '../../tasks/task.ts'
import { drawn, judges, mean, sample, settingsFrom } from './published.ts'

const { copy } = copyTasks

describe('copying', () => {
  it("accepts the authors' sequences alone", function () {
    const { examples, options } = sample(this, 'copy')
    judges(copy, settingsFrom(copy, options), examples)
  })

  it('draws what it accepts: patterns of any length, bits of both kinds', () => {
    for (const length of [1, 2, 50, 500]) judges(copy, settingsOf(copy, { length }), drawn(copy, settingsOf(copy, { length }), 50))
    const examples = drawn(copy, settingsOf(copy), 1000)
    const bits = examples.flatMap(({ inputs }) => Array.from(inputs).filter((token) => token < 2))
    // 25.5 bits with a standard deviation of 14.4.
    assert.ok(Math.abs(bits.length / 1000 - 25.5) < 2.5 && Math.abs(mean(bits) - 0.5) < 0.02, `${bits.length} ${mean(bits)}`)
    assert.equal(copy.chance({ length: 1 }), 0.5)
    assert.equal(copy.chance({ length: 2 }), 0.375)
  })

  it('says what is wrong with a sequence', () => {
    const wrong = (inputs: number[], targets = inputs): string | undefined =>
      copy.wrong({ length: 3 }, { inputs: Int32Array.from(inputs), targets: Int32Array.from(targets) }, 'test')
    assert.equal(wrong([1, 0, 2, 2, 2, 2], [-1, -1, 1, 0, -1, -1]), undefined)
    assert.equal(wrong([1, 0, 2, 2, 2, 2], [-1, -1, 1, 1, -1, -1]), 'the target at 3 is 1, not 0')
    assert.equal(wrong([1, 0, 2, 2, 2, 2], [-1, -1, 1, 0, 2, -1]), 'the target at 4 is 2, where nothing is asked')
    assert.equal(wrong([1, 0, 2, 2, 2, 2], [-1, -1, 1, -1, -1, -1]), 'there is no target at 3, where 0 is right')
    assert.equal(wrong([1, 0, 2, 2]), 'there are 4 symbols, not 6')
    assert.equal(wrong([1, 0, 3, 2, 2, 2]), 'the symbol at 2 is 3, neither a bit nor a blank')
    assert.equal(wrong([2, 2, 2, 2, 2, 2]), 'the pattern has 0 bits, not 1 to 3')
    assert.equal(wrong([1, 1, 1, 1, 2, 2]), 'the pattern has 4 bits, not 1 to 3')
    assert.equal(wrong([1, 1, 1, 1, 1, 1]), 'the pattern has 6 bits, not 1 to 3')
    assert.equal(wrong([1, 2, 0, 2, 2, 2]), 'a bit stands at 2, after the first blank')
  })
})
