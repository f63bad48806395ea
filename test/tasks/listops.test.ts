/** ListOps: published files come out byte for byte, published values are ours, and the rule takes no other. */
import assert from 'node:assert/strict'
import { type ListopsName, listopsFiles, listopsSigns, listopsTasks, readListops } from '../../tasks/listops.ts'
import { settingsOf } from '../../tasks/task.ts'
import { drawn, judges, mean, publishedText, samePublished, sample, settingsFrom } from './published.ts'

const { listops, 'listops-nyu': nyu } = listopsTasks
const encode = (name: ListopsName, text: string): Int32Array => Int32Array.from(text.split(' '), (sign) => listopsSigns(name).indexOf(sign))

describe('ListOps', () => {
  it("accepts the authors' sequences alone", function () {
    const { examples, options } = sample(this, 'listops', listops.pad(settingsOf(listops)))
    judges(listops, settingsFrom(listops, options), examples)
  })

  it('draws what it accepts, at every setting', () => {
    for (const s of [
      {},
      { depth: 2 },
      { depth: 16 },
      { depth: 5, operands: 2, maxDepth: 5 },
      { depth: 4, branching: 1, maxDepth: 4 },
      { depth: 2, branching: 0 },
    ])
      judges(listops, settingsOf(listops, s), drawn(listops, settingsOf(listops, s), 30))
    for (const s of [{}, { operands: 9 }, { branching: 0 }, { maxDepth: 2 }])
      judges(nyu, settingsOf(nyu, s), drawn(nyu, settingsOf(nyu, s), 100))
  })

  // 10,000 expressions of depth 11 have 98.2 symbols and 21.4 operators; standard deviations of 44 and 10, and 400 draws.
  it('has the lengths and values of the published sets', () => {
    const examples = drawn(listops, settingsOf(listops), 400)
    const tokens = mean(examples.map(({ inputs }) => inputs.length))
    const operators = mean(examples.map(({ inputs }) => inputs.filter((token) => token > 9 && token < 13).length))
    assert.ok(Math.abs(tokens - 98.2) < 9 && Math.abs(operators - 21.4) < 2, `${tokens} ${operators}`)
    const most = Math.max(...[...Array(10).keys()].map((value) => examples.filter(({ targets }) => targets.at(-1) === value).length / 400))
    assert.ok(Math.abs(most - listops.chance(settingsOf(listops))) < 0.06, `${most}`)
  })

  // The original's set has no expression twice: the many short ones are rare there, so its mean, 41, isn't this rule's.
  it('draws operators of 2 to 5 operands, evenly', () => {
    const counts = new Map<number, number>()
    for (const { inputs } of drawn(nyu, settingsOf(nyu), 2000)) {
      const open: number[] = []
      for (const token of inputs) {
        if (token === 14) counts.set(open.at(-1)!, (counts.get(open.pop()!) ?? 0) + 1)
        if (token < 10 || token === 14) open[open.length - 1]++
        else open.push(0)
      }
    }
    const all = [...counts.values()].reduce((a, b) => a + b)
    assert.deepEqual([...counts.keys()].sort(), [2, 3, 4, 5])
    for (const [operands, n] of counts) assert.ok(Math.abs(n / all - 0.25) < 0.02, `${operands}: ${n} of ${all}`)
  })

  for (const [depth, splits] of [
    [11, 3],
    [16, 2],
  ])
    it(`prints the published files of depth ${depth}${depth > 11 ? ' @long' : ''}`, function () {
      this.timeout(60_000)
      const regenerated = JSON.parse(publishedText(this, 'tasks/regenerated.json'))[`ListOps, only_depth ${depth}`]
      assert.equal(Object.keys(regenerated).length, splits)
      let left = splits
      for (const file of listopsFiles(depth)) {
        samePublished(regenerated, file)
        if (--left === 0) break
      }
    })

  it('reads the published lines, whose values are its own', function () {
    const text = publishedText(this, 'listops/fwp_dep11_test.txt.gz')
    const examples = readListops(text, 'listops')
    assert.equal(examples.length, 1000)
    judges(listops, settingsOf(listops), examples.slice(0, 200))
    const lines = publishedText(this, 'listops/nyu_d20s_first2000.tsv.gz')
    const others = readListops(lines, 'listops-nyu')
    assert.equal(others.length, 2000)
    judges(nyu, settingsOf(nyu), others)
    assert.deepEqual(
      others.map(({ targets }) => String(targets.at(-1))),
      lines
        .trimEnd()
        .split('\n')
        .map((line) => line[0]),
    )
  })

  it('has the values that people find', () => {
    for (const [text, value] of [
      ['[MAX 2 9 [MIN 4 7 ] 0 ]', 9],
      ['[MED 8 3 ]', 5],
      ['[MED 9 1 5 ]', 5],
      ['[MED 1 9 4 6 ]', 5],
      ['[SM 7 8 9 ]', 4],
      ['[MIN [SM 5 5 ] 3 ]', 0],
    ] as const)
      assert.deepEqual(readListops(`${value}\t${text}\n`, 'listops-nyu')[0].targets.at(-1), value, text)
    assert.equal(readListops('10 7 [FIRST [MAX 7 [MIN 6 8 ] ] 9 ]', 'listops')[0].targets.at(-1), 7)
  })

  it('says what is wrong with an expression', () => {
    const s = settingsOf(listops, { depth: 3, operands: 3, maxDepth: 3 })
    for (const [text, problem] of [
      ['3', 'an expression begins with an operator'],
      ['[MIN 3 [MAX 4 5 ]', 'a bracket is open at the end'],
      ['[MIN 3 ]', 'the operator that ends at 2 has 1 operands'],
      ['[MIN 3 4 ] 5', 'the expression ends before 4'],
      ['[MIN 3 4 ] [MIN 3 4 ]', 'the expression ends before 4'],
      ['[MIN 3 4 [MED ]', 'the symbol at 3, -1, is none of an expression'],
      ['[MIN 1 2 3 [MAX 4 5 ] ]', 'an operator has 4 operands, 3 at most may be'],
      ['[MIN 1 2 ]', 'the deepest digit is at level 2, not 3'],
      ['[MIN 1 [MAX 2 [MIN 3 4 ] ] ]', 'a digit is at level 4, 3 at most may be'],
    ] as const) {
      const inputs = encode('listops', text)
      assert.equal(listops.wrong(s, { inputs, targets: inputs }, 'test'), problem, text)
    }
    assert.equal(listops.wrong(s, { inputs: new Int32Array(0), targets: new Int32Array(0) }, 'test'), 'there is no expression')
  })

  it('refuses settings that make no expression, and files that hold none', () => {
    assert.throws(() => settingsOf(listops, { depth: 21 }), /^Error: depth = 21 is more than maxDepth = 20$/)
    assert.throws(() => settingsOf(listops, { operands: 1 }), /operands must be an integer from 2 to 100, not 1/)
    assert.throws(() => settingsOf(listops, { branching: 1 }), /an expression of depth 11 would take endless draws/)
    assert.throws(() => settingsOf(nyu, { branching: 0.9, operands: 9 }), /an expression would take endless draws/)
    const bad = (text: string, name: ListopsName, message: string): void =>
      assert.throws(() => readListops(text, name), { name: 'TextError', message: `ListOps: ${message}` })
    bad('4 3 [MIN 3 4 ]\nhello', 'listops', "line 2: begins with 'hello', not with a length and a value")
    bad('5 3 [MIN 3 4 ]', 'listops', 'line 1: it has 4 symbols, not 5')
    bad('4 4 [MIN 3 4 ]', 'listops', 'line 1: its value is 3, not 4')
    bad('4 4 [MED 3 4 ]', 'listops', "line 1: '[MED' is no symbol (0 1 2 3 4 5 6 7 8 9 [MIN [MAX [FIRST ])")
    bad('3 [MED 3 4 ]', 'listops-nyu', "line 1: begins with '3 [MED 3 4 ]', not with a value and a tab")
    bad('3\t( ( [MED 3 ) 4 )', 'listops-nyu', 'line 1: a bracket is open at the end')
    assert.deepEqual(readListops('', 'listops'), [])
  })
})
