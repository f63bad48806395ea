/** Code execution: published files come out byte for byte, and an interpreter of the symbols alone agrees with every answer. */
import assert from 'node:assert/strict'
import { type CodeExecutionSettings, codeExecutionFiles, codeExecutionTasks, codeSigns } from '../../tasks/code-execution.ts'
import { type Example, settingsOf } from '../../tasks/task.ts'
import { drawn, judges, mean, publishedText, samePublished, sample, settingsFrom } from './published.ts'

const row = codeExecutionTasks['code-execution']
const settings = (s: Partial<CodeExecutionSettings> = {}): CodeExecutionSettings => settingsOf(row, s)
/** A program and its answers as the files have them. */
const program = (source: string, answers: string): Example => ({
  inputs: Int32Array.from(source.trim().split(/\s+/), (sign) => codeSigns.indexOf(sign)),
  targets: Int32Array.from(answers.trim().split(/\s+/), (sign) => (sign === '_' ? 0 : Number(sign) + 9)),
})
const wrong = (s: Partial<CodeExecutionSettings>, source: string, answers = '_'): string | undefined =>
  row.wrong(settings(s), program(source, answers), 'test')

describe('code execution', () => {
  it("accepts the authors' sequences alone", function () {
    const { examples, options } = sample(this, 'code-execution', row.pad(settings()))
    judges(row, settingsFrom(row, options), examples)
  })

  it('draws what it accepts, at every setting', () => {
    for (const s of [
      {},
      { variables: 5 },
      { semantics: 'plain' },
      { variables: 1, statements: 2 },
      { statements: 3 },
      { semantics: 'plain', variables: 5, statements: 300 },
    ] as const)
      judges(row, settings(s), drawn(row, settings(s), 40))
  })

  for (const [variables, files] of [
    [3, 6],
    [5, 4],
  ])
    it(`prints the published files of ${variables} variables`, function () {
      this.timeout(60_000)
      const regenerated = JSON.parse(publishedText(this, 'tasks/regenerated.json'))[`code execution, ${variables} variables`]
      assert.equal(Object.keys(regenerated).length, files)
      let left = files
      for (const file of codeExecutionFiles(variables)) {
        samePublished(regenerated, file)
        if (--left === 0) break
      }
    })

  it('agrees with the published answers', function () {
    const [sources, answers] = ['src', 'tgt'].map((kind) =>
      publishedText(this, `code-execution/fwp_vars3_valid.${kind}.gz`).trimEnd().split('\n'),
    )
    assert.deepEqual([sources.length, answers.length], [999, 999])
    judges(
      row,
      settings(),
      sources.slice(0, 100).map((source, i) => program(source, answers[i])),
    )
  })

  // 456 symbols, 29.1 prints of standard deviations 12 and 4.5; an ignored assignment in nearly every program, other answers in 81 %.
  it('has the lengths of the published sets, whose answers are mostly not those of plain programs', () => {
    const examples = drawn(row, settings(), 400)
    const tokens = mean(examples.map(({ inputs }) => inputs.length))
    const prints = mean(examples.map(({ targets }) => targets.filter((target) => target > 0).length))
    assert.ok(Math.abs(tokens - 456) < 6 && Math.abs(prints - 29.1) < 1.5, `${tokens} ${prints}`)
    const others = mean(examples.map((example) => Number(row.wrong(settings({ semantics: 'plain' }), example, 'train') !== undefined)))
    assert.ok(Math.abs(others - 0.81) < 0.08, `${others}`)
    const plain = drawn(row, settings({ semantics: 'plain' }), 400)
    assert.ok(plain.some((example) => row.wrong(settings(), example, 'train') !== undefined))
  })

  it('runs programs as people do, but for the assignments that the published data ignore', () => {
    const source = 'x = 3 ; if x < 4 : x = 7 ; print x ;'
    const answers = (value: number): string => `_ _ _ _ _ _ _ _ _ _ _ _ _ _ _ ${value}`
    assert.equal(wrong({ statements: 3 }, source, answers(3)), undefined)
    assert.equal(wrong({ statements: 3, semantics: 'plain' }, source, answers(7)), undefined)
    assert.equal(wrong({ statements: 3 }, source, answers(7)), 'the target at 15 is 16, not 12')
    const first = 'x = 3 ; if x > 2 : y = 7 ; y -- ; if x > 5 : print y ; print y ;'
    assert.equal(wrong({ statements: 5 }, first, `${'_ '.repeat(26)} 6`), undefined)
    assert.equal(wrong({ statements: 5 }, first, `${'_ '.repeat(26)} 7`), 'the target at 26 is 16, not 15')
  })

  it('says what is wrong with a program', () => {
    for (const [statements, source, problem] of [
      [2, 'print x ; print x ;', "'print' is at 0, where an assignment should be"],
      [2, 'x = 3 ; y = 4 ;', "'y' is at 4, where a print should be"],
      [2, 'x = 3 ; print y ;', "'y' at 5 has no value yet"],
      [2, 'x = 3 ; print a ;', "'a' is at 5, where one of 3 variables should be"],
      [2, 'x = x ; print x ;', "'x' is at 2, where a digit should be"],
      [2, 'x = 3 : print x ;', "':' is at 3, where ';' should be"],
      [2, 'x = 3 ; print x', "the program ends at 6, where ';' should be"],
      [2, 'x = 3 ;', 'the program ends at 4, where a print should be'],
      [2, 'x = 3 ; print x ; x', 'the program goes on at 7, after 2 statements'],
      [3, 'x = 3 ; if x = 3 : x = 4 ; print x ;', "'=' is at 6, where '<' or '>' should be"],
      [3, 'x = 3 ; x < 3 ; print x ;', "'<' is at 5, where '=', '++' or '--' should be"],
      [10, `x = 9 ; ${'x ++ ; '.repeat(8)} print x ;`, 'the step at 26 leads to 17, outside -8 to 16'],
    ] as const)
      assert.equal(wrong({ statements }, source), problem, source)
    const inputs = Int32Array.of(0, 5, 99)
    assert.equal(row.wrong(settings({ statements: 2 }), { inputs, targets: inputs }, 'test'), "'99' is at 2, where a digit should be")
    assert.throws(() => settings({ variables: 6 }), /variables must be an integer from 1 to 5, not 6/)
    assert.throws(() => settings({ semantics: 'odd' as never }), /unknown semantics 'odd' \(published, plain\)/)
  })
})
