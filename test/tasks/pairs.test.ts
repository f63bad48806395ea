/** Pairs: files, dates whose answers are unique, and batches that an encoder-decoder takes. */
import assert from 'node:assert/strict'
import { setDevice } from '../../engine/index.ts'
import { AdamW, constant, EncoderDecoder, Trainer } from '../../nn/index.ts'
import { shuffledRows } from '../../tasks/epochs.ts'
import { mersenne } from '../../tasks/mersenne.ts'
import {
  answers,
  dateDays,
  dateForms,
  datePairs,
  dateVocabularies,
  drawDate,
  pairBatches,
  pairVocabularies,
  readPairs,
} from '../../tasks/pairs.ts'
import { splits } from '../../tasks/task.ts'
import { reference } from '../helpers.ts'

describe('pairs', () => {
  it('are read from lines with a tab, or the error says which has none', () => {
    assert.deepEqual(readPairs('ab\tBA\nc d\t💡\r\n'), [
      ['ab', 'BA'],
      ['c d', '💡'],
    ])
    for (const [text, problem] of [
      ['a\tb\nc', 'p.tsv: line 2 has no tab'],
      ['a\tb\n\nc\td', 'p.tsv: line 2 is empty'],
      ['a\tb\tc', 'p.tsv: line 1 has 2 tabs'],
      ['a\tb\n\tb', 'p.tsv: line 2 has nothing before its tab'],
      ['a\t\n', 'p.tsv: line 1 has nothing after its tab'],
    ])
      assert.throws(() => readPairs(text, 'p.tsv'), {
        name: 'TextError',
        message: `${problem}; a line must be a source, a tab, and a target`,
      })
    assert.throws(() => readPairs(''), { message: 'the text is empty: each line must be a source, a tab, and a target' })
  })

  it('become batches, each pair once an epoch, the same whenever they are asked for', async () => {
    setDevice(reference)
    const pairs = readPairs('abc\tx\nb\tyx\nca\txyx')
    const vocabularies = pairVocabularies(pairs)
    assert.deepEqual(
      [vocabularies.source.symbols, vocabularies.target.symbols],
      [
        ['a', 'b', 'c'],
        ['x', 'y'],
      ],
    )
    assert.deepEqual([vocabularies.begin, vocabularies.end, vocabularies.symbols, vocabularies.sourceSymbols], [2, 3, 4, 3])
    const { batch, stepsPerEpoch } = pairBatches(pairs, vocabularies, { B: 2 })
    assert.equal(stepsPerEpoch, 2)
    const seen: string[] = []
    for (const step of [2, 3]) {
      const { source, sourceMask, targets, target } = batch(step)
      for (let b = 0; b < source.shape[0]; b++) {
        const row = (t: typeof source): number[] => Array.from(t.indices!.subarray(b * t.shape[1], (b + 1) * t.shape[1]))
        const there = row(sourceMask!)
        const asked = row(targets).filter((token) => token >= 0)
        assert.equal(asked.pop(), 3)
        assert.equal(row(target)[0], 2)
        seen.push(`${vocabularies.source.decode(row(source).filter((_, t) => there[t] === 1))}\t${vocabularies.target.decode(asked)}`)
      }
      assert.deepEqual(batch(step).source.indices, source.indices)
    }
    assert.deepEqual(seen.sort(), ['abc\tx', 'b\tyx', 'ca\txyx'])
    assert.throws(() => pairBatches([['d', 'x']], vocabularies, { B: 1 }), /character "d"/)
    assert.throws(() => pairBatches(pairs, vocabularies, { B: 1, sead: 3 } as never), {
      message: "pairBatches: unknown option 'sead' (B, seed, device)",
    })
    assert.throws(() => pairBatches([], vocabularies, { B: 1 }), /examples must be a positive integer, not 0/)
  })

  it('are shuffled anew each epoch', () => {
    const { rows, stepsPerEpoch } = shuffledRows(100, { B: 30 })
    assert.equal(stepsPerEpoch, 4)
    const epoch = (e: number): number[] => [0, 1, 2, 3].flatMap((step) => rows(4 * e + step))
    assert.deepEqual(
      epoch(0).toSorted((a, b) => a - b),
      [...Array(100).keys()],
    )
    assert.notDeepEqual(epoch(0), epoch(1))
    assert.equal(rows(7).length, 10)
    assert.notDeepEqual(shuffledRows(100, { B: 30, seed: 2 }).rows(0), rows(0))
  })
})

describe('dates', () => {
  it('have one answer, whoever writes them, in characters of the vocabulary', () => {
    const answers = new Map<string, string>()
    const characters = new Set<string>()
    for (let day = 0; day < dateDays; day++) {
      const { sources, target } = dateForms(day)
      for (const source of sources) {
        assert.equal(answers.get(source) ?? target, target, source)
        answers.set(source, target)
      }
      if (day < 366) for (const source of sources) for (const character of source) characters.add(character)
    }
    assert.equal(new Set(answers.values()).size, dateDays)
    const { source, target } = dateVocabularies()
    assert.deepEqual([...characters].sort(), [...source.symbols].sort())
    assert.equal(target.size, 11)
  })

  it('are those of the calendar', () => {
    assert.equal(dateForms(0).target, '1950-01-01')
    assert.equal(dateForms(dateDays - 1).target, '2049-12-31')
    const { sources, target } = dateForms(18_325)
    assert.equal(target, '2000-03-04')
    for (const source of [
      'the 4th of March 2000',
      'Saturday, 4 March 2000',
      '3/4/2000',
      '4.3.2000',
      '04 Mar 2000',
      'day 64 of 2000',
      '4-Mar-00',
    ])
      assert.ok(sources.includes(source), source)
    const ordinals = Array.from(
      { length: 31 },
      (_, d) =>
        dateForms(d)
          .sources.find((source) => source.startsWith('the '))!
          .split(' ')[1],
    )
    assert.equal(ordinals.slice(0, 4).join(), '1st,2nd,3rd,4th')
    assert.equal(ordinals.slice(10, 13).join(), '11th,12th,13th')
    assert.equal(ordinals.slice(19).join(), '20th,21st,22nd,23rd,24th,25th,26th,27th,28th,29th,30th,31st')
  })

  it('are drawn the same each time, and no day of one split is in another', () => {
    assert.deepEqual(datePairs(5, 'test', 3), datePairs(9, 'test', 3).slice(0, 5))
    assert.notDeepEqual(datePairs(5, 'test', 3), datePairs(5, 'test', 4))
    const days = splits.map((split) => new Set(datePairs(1000, split).map(([, target]) => target)))
    assert.equal(
      days.reduce((n, set) => n + set.size, 0),
      new Set(days.flatMap((set) => [...set])).size,
    )
    assert.throws(() => datePairs(1, 'validation' as never), { message: "unknown split 'validation' (train, valid, test)" })
    const random = mersenne([1])
    assert.throws(() => drawDate('validation' as never, random), { message: "unknown split 'validation' (train, valid, test)" })
    assert.ok(
      new Set(
        Array.from({ length: 300 }, () =>
          drawDate('train', random)[0]
            .replace(/\d+/g, '0')
            .replace(/[a-z]+/gi, 'a'),
        ),
      ).size > 12,
    )
  })

  it('are learnt by an encoder-decoder: here the year of one day, in two forms', async function () {
    this.timeout(30_000)
    setDevice(reference)
    const vocabularies = dateVocabularies()
    const { sourceSymbols, symbols } = vocabularies
    const pairs = dateForms(3)
      .sources.slice(0, 2)
      .map((source) => [source, '1950'] as const)
    const model = new EncoderDecoder({ sourceSymbols, symbols, dModel: 16, heads: 2, encoderLayers: 1, decoderLayers: 1, dFf: 16 })
    const trainer = new Trainer(model, new AdamW(model.namedParameters(), { lr: 0.02 }), { schedule: constant(0.02), clipNorm: 1 })
    const sampler = pairBatches(pairs, vocabularies, { B: 2 })
    for (let step = 0; step < 30; step++) await trainer.step(sampler.batch(step))
    const held = reference.bytesInUse()
    const sources = [...pairs, ...pairs].map(([source]) => source).slice(0, 3)
    for (const beams of [1, 3])
      for (const B of [2, 32])
        assert.deepEqual(await answers(model, sources, vocabularies, { length: 8, B, beams }), ['1950', '1950', '1950'])
    assert.deepEqual(await answers(model, sources, vocabularies, { length: 2 }), ['19', '19', '19'])
    assert.deepEqual(await answers(model, [], vocabularies, { length: 2 }), [])
    await assert.rejects(answers(model, ['ö'], vocabularies, { length: 2 }), /character "ö"/)
    // The symbol that targets begin with, the likeliest of all, is in no answer.
    const { bias } = model.generator
    bias!.write((await bias!.read()).map((x, symbol) => x + (symbol === vocabularies.begin ? 100 : 0)))
    assert.deepEqual(await answers(model, sources, vocabularies, { length: 2 }), ['', '', ''])
    assert.equal(reference.bytesInUse(), held)
  })
})
