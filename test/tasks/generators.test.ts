/** What our generators make: right by the rules that judge a sequence alone, deterministic, and distributed as the authors' sequences are. */
import assert from 'node:assert/strict'
import fc from 'fast-check'
import {
  type AnyTask,
  type Example,
  exampleOf,
  examplesOf,
  faultOf,
  ignoredTarget,
  type Split,
  settingsOf,
  splits,
  type TaskName,
  taskBatches,
  tasks,
} from '../../tasks/index.ts'
import { mersenne } from '../../tasks/mersenne.ts'

const rows: Readonly<Record<string, AnyTask>> = tasks

/** Settings beside the default ones, at the ends of what makes sense. */
const others: Partial<Record<TaskName, readonly object[]>> = {
  'retrieval-1': [{ keys: 1 }, { keys: 7, pairs: 3 }],
  'retrieval-2': [{ keys: 1 }, { keys: 5, pairs: 30 }],
  'ba-retrieval': [{ pairs: 1 }, { pairs: 10 }],
  mqar: [
    { vocabulary: 6, length: 4, pairs: 1 },
    { vocabulary: 66, length: 64, pairs: 16, power: 0 },
    { length: 128, pairs: 8, power: 1 },
  ],
  'mqar-random': [
    { vocabulary: 66, pairs: 16 },
    { vocabulary: 256, pairs: 8 },
  ],
  'mad-in-context-recall': [{ multiQuery: false }, { vocabulary: 2, length: 4 }, { vocabulary: 3, length: 6, multiQuery: false }],
  'mad-noisy-recall': [{ noise: 0.9 }, { noise: 0.5, multiQuery: false }, { noise: 0.999, length: 4 }],
  'mad-fuzzy-recall': [
    { unanswerable: true },
    { keyTokens: 1, valueTokens: 1 },
    { vocabulary: 5, length: 9, keyTokens: 2, valueTokens: 2 },
    { length: 13 },
    { length: 13, unanswerable: true },
    { vocabulary: 40, keyTokens: 6, valueTokens: 6 },
  ],
  'mad-memorization': [{ vocabulary: 3, length: 2 }, { mapSeed: 7 }, { vocabulary: 64 }],
  'mad-compression': [{ vocabulary: 2, length: 2 }, { length: 256 }],
  'mad-selective-copy': [
    { vocabulary: 3, length: 4, copied: 1 },
    { length: 35, copied: 16 },
  ],
  'mad-copy': [{ vocabulary: 3, length: 4, copied: 1 }, { length: 64 }],
  parity: [{ minLength: 1, maxLength: 4, testMin: 5, testMax: 8 }],
  'aa-star': [{ minLength: 1, maxLength: 4, testMin: 8, testMax: 8 }],
  'abab-star': [{ minLength: 4, maxLength: 4, testMin: 5, testMax: 11 }],
  'dyck-1': [{ minLength: 1, maxLength: 4, testMin: 5, testMax: 20 }],
  'reset-dyck-1': [{ minLength: 1, maxLength: 4, testMin: 5, testMax: 20 }],
  'shuffle-2': [{ nested: true }, { minLength: 1, maxLength: 4 }],
  'counter-2': [{ maxLength: 1 }, { maxLength: 20 }],
  'counter-3': [{ maxLength: 1 }, { maxLength: 20 }],
  'parity-final': [{ minLength: 2, maxLength: 2 }],
  'modular-arithmetic': [{ vocabulary: 7, minLength: 3, maxLength: 4 }, { vocabulary: 18, testMin: 40, testMax: 41 }, { prefixes: true }],
  'modular-arithmetic-brackets': [{ times: true }, { vocabulary: 9 }, { minLength: 2, maxLength: 9, times: true }],
}

const drawn = (name: TaskName, split: Split, n: number, given: object = {}): Example[] => {
  const settings = settingsOf(rows[name], given)
  return Array.from({ length: n }, (_, i) => exampleOf(rows[name], settings, split, 5, i))
}
const together = (name: TaskName, split: Split, n: number, given: object = {}): Example[] =>
  examplesOf(rows[name], settingsOf(rows[name], given), split, 3, n)
const mean = (numbers: readonly number[]): number => numbers.reduce((sum, x) => sum + x, 0) / numbers.length
const deviation = (numbers: readonly number[]): number => Math.sqrt(mean(numbers.map((x) => x * x)) - mean(numbers) ** 2)
const near = (value: number, expected: number, error: number, what: string): void =>
  assert.ok(Math.abs(value - expected) <= error, `${what}: ${value}, where ${expected} ± ${error} is expected`)
const scored = ({ targets }: Example): number => targets.filter((target) => target !== ignoredTarget).length
const lengths = (examples: readonly Example[]): number[] => examples.map(({ inputs }) => inputs.length)
const key = ({ inputs }: Example): string => inputs.join()
/** How deep brackets open, by the symbols of the opening and the closing one. */
const depth = ({ inputs }: Example, open: number, close: number): number => {
  let [now, most] = [0, 0]
  for (const symbol of inputs) most = Math.max(most, (now += symbol === open ? 1 : symbol === close ? -1 : 0))
  return most
}

describe('generators', () => {
  for (const name of Object.keys(tasks) as TaskName[]) {
    const row = rows[name]
    it(`${name}: what it makes is right, with any seed and settings`, () => {
      for (const given of [{}, ...(others[name] ?? [])]) {
        const settings = settingsOf(row, given)
        const judge = (example: Example, split: Split): void => {
          assert.equal(faultOf(row, settings, example, split), undefined, JSON.stringify(given))
          assert.ok(scored(example) > 0)
        }
        for (const split of splits) for (const example of examplesOf(row, settings, split, 11, 20)) judge(example, split)
        fc.assert(
          fc.property(fc.nat(), fc.constantFrom(...splits), fc.nat(), (seed, split, i) => {
            judge(exampleOf(row, settings, split, seed, i), split)
          }),
          { numRuns: 25 },
        )
      }
    })
  }

  it('give the same example for the same seed, split and number, and another for another', () => {
    for (const name of [
      ...(['retrieval-2', 'mqar', 'mqar-random', 'mad-fuzzy-recall', 'mad-selective-copy', 'shuffle-2'] as const),
      'modular-arithmetic-brackets' as const,
    ]) {
      const row = rows[name]
      const settings = settingsOf(row)
      const one = exampleOf(row, settings, 'test', 4, 2 ** 33)
      assert.deepEqual(exampleOf(row, settings, 'test', 4, 2 ** 33), one)
      for (const [split, seed, i] of [
        ['test', 5, 2 ** 33],
        ['test', 4, 0],
        ['valid', 4, 2 ** 33],
      ] as const)
        assert.notDeepEqual(exampleOf(row, settings, split, seed, i), one)
      assert.deepEqual(examplesOf(row, settings, 'valid', 9, 5), examplesOf(row, settings, 'valid', 9, 8).slice(0, 5))
    }
  })

  it('draw without replacement in the order of a list whose last takes the place of the one drawn', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 50 }), fc.nat(), fc.nat(), (n, most, seed) => {
        const [random, same] = [mersenne([seed]), mersenne([seed])]
        const left = Array.from({ length: n }, (_, i) => i)
        const k = most % (n + 1)
        const expected = Array.from({ length: k }, () => {
          const at = same.below(left.length)
          const picked = left[at]
          const last = left.pop()!
          if (at < left.length) left[at] = last
          return picked
        })
        assert.deepEqual(random.sample(n, k), expected)
      }),
    )
  })

  it('batches: fresh ones without end, or a set again and again', () => {
    const row = rows['dyck-1']
    const settings = settingsOf(row, { maxLength: 4 })
    assert.throws(() => taskBatches(row, settings, { B: 0 }), { message: 'taskBatches: B must be a positive integer, not 0' })
    for (const examples of [0, 2.5])
      assert.throws(() => taskBatches(row, settings, { B: 3, examples }), {
        message: `taskBatches: examples must be a positive integer, not ${examples}`,
      })
    assert.throws(() => taskBatches(row, settings, { B: 3, seed: Number.NaN }), {
      message: 'taskBatches: seed must be an integer, not NaN',
    })
    assert.throws(() => examplesOf(row, settings, 'train', 1, Infinity), {
      message: 'examplesOf: n must be an integer, 0 or more, not Infinity',
    })
    assert.throws(() => examplesOf(row, settings, 'validation' as never, 1, 3), {
      message: "unknown split 'validation' (train, valid, test)",
    })
    assert.throws(
      () => taskBatches(row, settings, { B: 3, size: 9 } as never),
      /^Error: taskBatches: unknown option 'size' \(B, seed, split, examples\)$/,
    )
    assert.deepEqual(settingsOf(row, { maxLength: undefined }), settingsOf(row))
    const fresh = taskBatches(row, settings, { B: 3 })
    assert.equal(fresh.stepsPerEpoch, Infinity)
    assert.deepEqual(fresh.batch(7), fresh.batch(7))
    // ( ) once or twice, side by side or one within the other: there are no more.
    const all = taskBatches(row, settings, { B: 3, examples: 100 })
    assert.equal(all.stepsPerEpoch, 1)
    const { tokens, targets, count, T } = all.batch(1)
    assert.deepEqual(all.batch(0), all.batch(1))
    assert.equal(T, 4)
    assert.equal(new Set([0, 1, 2].map((r) => tokens.subarray(4 * r, 4 * r + 4).join())).size, 3)
    assert.equal(count, 10)
    assert.equal(targets.filter((target) => target === ignoredTarget).length, 2)
  })

  describe('are distributed as the authors’ are', () => {
    it('retrieval: keys of a sequence, and all questions of one in an evaluation', () => {
      const share = (S: number, split: Split): number =>
        mean(
          drawn('retrieval-2', split, 400, { keys: S }).map(
            ({ inputs }) => new Set(inputs.slice(0, -1).filter((_, i) => i % 2 === 0)).size,
          ),
        ) / S
      near(share(20, 'train'), 0.87, 0.01, 'S = 20')
      near(share(100, 'train'), 0.867, 0.005, 'S = 100')
      near(share(20, 'valid'), 0.64, 0.015, 'S = 20 in an evaluation')
      const examples = together('retrieval-2', 'valid', 60)
      const sequences = new Map<string, Example[]>()
      for (const example of examples) {
        const sequence = example.inputs.slice(0, -1).join()
        sequences.set(sequence, [...(sequences.get(sequence) ?? []), example])
      }
      for (const [sequence, questions] of [...sequences].slice(0, -1)) {
        const keys = new Set(
          sequence
            .split(',')
            .map(Number)
            .filter((_, i) => i % 2 === 0),
        )
        assert.deepEqual(
          questions.map(({ inputs }) => inputs[inputs.length - 1]),
          [...keys].sort((a, b) => a - b),
        )
      }
      assert.equal(
        together('retrieval-1', 'test', 250, { keys: 300 }).filter((e, _, [first]) => key(e).slice(0, 99) === key(first).slice(0, 99))
          .length,
        200,
      )
    })

    it('MQAR: the slots of queries', () => {
      const slots = (L: number, K: number): number[][] =>
        drawn('mqar', 'train', 1500, { length: L, pairs: K }).map(({ targets }) =>
          [...targets.keys()].filter((i) => targets[i] !== ignoredTarget).map((i) => i / 2 - K),
        )
      const check = (L: number, K: number, middle: number, most: readonly number[], error: number): void => {
        const found = slots(L, K)
        near(mean(found.flat()), middle, error, `mean slot, L = ${L}`)
        for (const [slot, share] of most.entries())
          near(mean(found.map((one) => (one.includes(slot) ? 1 : 0))), share, 0.04, `slot ${slot}, L = ${L}`)
      }
      check(64, 4, 7.1, [0.724, 0.478, 0.342, 0.273], 0.4)
      check(256, 16, 28.3, [0.982, 0.883, 0.771, 0.681], 0.8)
    })

    it('MAD: what is scored, noise, padding, unanswerable questions, blanks', () => {
      const recall = drawn('mad-in-context-recall', 'test', 300)
      near(mean(recall.map(scored)), 56, 0.1, 'scored')
      const noisy = drawn('mad-noisy-recall', 'test', 300)
      near(mean(noisy.map(scored)), 43.6, 0.8, 'scored among noise')
      near(mean(noisy.map(({ inputs }) => inputs.filter((symbol) => symbol >= 16).length / 126)), 0.197, 0.01, 'noise')
      const fuzzy = rows['mad-fuzzy-recall']
      for (const [split, pads, keys] of [
        ['test', 4.9, 22.6],
        ['train', 5.3, 24.1],
      ] as const) {
        const examples = drawn('mad-fuzzy-recall', split, 800, { unanswerable: true })
        near(mean(examples.map(({ inputs }) => inputs.filter((symbol) => symbol === 15).length)), pads, 0.25, `pads, ${split}`)
        // Keys are runs of symbols below 7.
        const motifs = examples.map(({ inputs }) => {
          const runs = Array.from(inputs, (symbol) => (symbol < 7 ? `${symbol}` : ' '))
            .join('')
            .trim()
            .split(/ +/)
          return new Set(runs).size
        })
        near(mean(motifs), keys, 0.5, `keys, ${split}`)
        const unanswerable = examples.filter((example) => fuzzy.wrong(settingsOf(fuzzy), example, split)).length / 800
        assert.ok(unanswerable > 0.005 && unanswerable < 0.04, `${unanswerable} unanswerable, ${split}`)
        if (split === 'test') near(mean(examples.map(scored)), 4.4, 0.4, 'scored')
      }
      const copy = drawn('mad-selective-copy', 'train', 200)
      near(mean(copy.map(({ inputs }) => inputs.findIndex((symbol) => symbol < 14))), 223 / 16, 1.5, 'blanks before the first symbol')
    })

    it('languages: lengths and depths of sets of unique strings, and of strings drawn one by one', () => {
      // A set's lengths grow with its size, as short strings are used up: the authors' figures are of 200 to 10,000 strings, these of 2,000.
      for (const [name, split, length, spread] of [
        ['parity', 'train', 23.3, 14.7],
        ['parity', 'test', 81.5, 17.3],
        ['dyck-1', 'train', 28.4, 11.3],
        ['dyck-1', 'test', 74.7, 14],
        ['shuffle-2', 'train', 23, 12.3],
        ['reset-dyck-1', 'train', 25.4, 14],
      ] as const) {
        const set = together(name, split, 2000)
        if (name !== 'parity') assert.equal(new Set(set.map(key)).size, 2000)
        near(mean(lengths(set)), length, 2, `${name}, ${split}`)
        near(deviation(lengths(set)), spread, 1.2, `${name}, ${split}, deviation`)
        if (name === 'parity') continue
        near(mean(lengths(drawn(name, split, 500))), length, 8, `${name}, ${split}, one by one`)
      }
      near(mean(together('dyck-1', 'train', 2000).map((example) => depth(example, 0, 1))), 7.9, 0.5, 'depth')
      near(mean(together('dyck-1', 'test', 500).map((example) => depth(example, 0, 1))), 15, 1, 'depth in a test')
      near(mean(together('parity', 'train', 2000).map(({ inputs }) => mean([...inputs]))), 0.52, 0.01, 'ones')
      // Nothing closes across the other kind in what was published: ( [ ) ].
      const crossing = ({ inputs }: Example): boolean => {
        let text = Array.from(inputs, (symbol) => '()[]'[symbol]).join('')
        for (let before = ''; before !== text; ) [before, text] = [text, text.replace('()', '').replace('[]', '')]
        return text !== ''
      }
      assert.ok(together('shuffle-2', 'train', 500).filter(crossing).length > 250)
      assert.equal(together('shuffle-2', 'train', 500, { nested: true }).filter(crossing).length, 0)
      // As many strings as there are; training repeats them.
      for (const [name, most] of [
        ['aa-star', 25],
        ['abab-star', 12],
        ['counter-2', 50],
      ] as const) {
        assert.equal(together(name, 'valid', 1000).length, most)
        assert.equal(together(name, 'train', 1000).length, 1000)
        assert.equal(new Set(together(name, 'train', 1000).map(key)).size, most)
      }
    })

    it('arithmetic: answers, lengths and depths', () => {
      for (const [name, numbers] of [
        ['modular-arithmetic', 5],
        ['modular-arithmetic-brackets', 0],
      ] as const) {
        const examples = drawn(name, 'test', 2000)
        for (let answer = 0; answer < 5; answer++)
          near(mean(examples.map(({ targets }) => (targets.includes(numbers + answer) ? 1 : 0))), 0.2, 0.035, `${name}, answer ${answer}`)
      }
      const examples = drawn('modular-arithmetic-brackets', 'test', 1000)
      near(mean(lengths(examples)) - 2, 147.5, 5, 'expression')
      near(mean(examples.map((example) => depth(example, 8, 9))), 8.9, 0.3, 'depth')
    })
  })

  it('refuse settings that make no sense', () => {
    for (const [name, given, message] of [
      ['retrieval-1', { pairs: 21 }, 'pairs must be at most 20, as many as there are keys, not 21: none comes again'],
      ['retrieval-1', { key: 21 }, "unknown option 'key' (keys, pairs)"],
      ['ba-retrieval', { pairs: 11 }, 'pairs must be an integer from 1 to 10, not 11'],
      ['mqar', { length: 63 }, 'length must be even, not 63'],
      ['mqar', { pairs: 17 }, 'pairs must be at most 16, a quarter of the length, not 17'],
      ['mqar', { vocabulary: 64 }, 'vocabulary must be even and more than the length 64, not 64'],
      ['mad-in-context-recall', { noise: 0.2 }, 'noiseVocabulary must be above 0 where there is noise'],
      ['mad-noisy-recall', { vocabulary: 17 }, 'vocabulary must be above 17: a key and a value are needed beside 16 for noise'],
      ['mad-fuzzy-recall', { keyTokens: 8 }, 'keyTokens must be at most 7, as many as there are, not 8'],
      ['mad-fuzzy-recall', { length: 12 }, 'length must be above 12, not 12'],
      ['mad-memorization', { length: 31 }, 'length must be even, not 31'],
      ['mad-copy', { length: 33 }, 'length must be above 33 for 16 symbols and their copies, not 33'],
      ['dyck-1', { maxLength: 1 }, 'maxLength must be at least minLength = 2, not 1'],
      ['abab-star', { minLength: 5, maxLength: 7 }, 'maxLength must be at least 8 where minLength = 5: not every length has a string'],
      ['parity-final', { testMax: 39 }, 'testMax must be at least testMin = 40, not 39'],
      ['modular-arithmetic', { minLength: 2 }, 'minLength and testMin must be 3 or more: a number, =, and the answer'],
    ] as const)
      assert.throws(() => settingsOf(rows[name], given), { message })
  })
})
