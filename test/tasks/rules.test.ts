/** What rules say of sequences that no generator makes: each is refused for its own reason. */
import assert from 'node:assert/strict'
import { type AnyTask, type Example, faultOf, ignoredTarget, type Split, settingsOf, type TaskName, tasks } from '../../tasks/index.ts'

const _ = ignoredTarget
const rows: Readonly<Record<string, AnyTask>> = tasks

const mqar = { vocabulary: 20, length: 12, pairs: 2 }
const recall = { vocabulary: 8, length: 8 }
const noisy = { vocabulary: 12, length: 8, noiseVocabulary: 4 }
const fuzzy = { vocabulary: 7, length: 13, keyTokens: 2, valueTokens: 2 }
const map = { vocabulary: 5, length: 4 }
const copy = { vocabulary: 5, length: 8, copied: 2 }

/** A text by the letters of a language, its targets the digits of another. */
const word = (letters: string, text: string, targets: string): Example => ({
  inputs: Int32Array.from(text, (letter) => letters.indexOf(letter)),
  targets: Int32Array.from(targets, Number),
})
/** Targets at some places. */
const pairs = (inputs: number[], ...asked: [place: number, target: number][]): Example => {
  const targets = new Int32Array(inputs.length).fill(_)
  for (const [place, target] of asked) targets[place] = target
  return { inputs: Int32Array.from(inputs), targets }
}
/** Targets at all places. */
const all = (inputs: number[], targets: number[]): Example => ({ inputs: Int32Array.from(inputs), targets: Int32Array.from(targets) })

const cases: readonly (readonly [TaskName, object, Split, Example, RegExp | undefined])[] = [
  ['retrieval-1', { keys: 3 }, 'train', pairs([0, 4, 2, 3, 1, 5, 2], [6, 3]), undefined],
  ['retrieval-1', { keys: 3 }, 'train', pairs([0, 4, 2, 3, 0, 5, 2], [6, 3]), /place 4: the key 0 comes again/],
  ['retrieval-1', { keys: 3 }, 'train', pairs([0, 4, 2, 3, 1, 4, 2], [6, 3]), /place 5: the value 4 comes again/],
  ['retrieval-1', { keys: 3 }, 'train', pairs([0, 4, 2, 3, 5, 1, 2], [6, 3]), /place 4: 5 isn't a key/],
  ['retrieval-1', { keys: 3 }, 'train', pairs([0, 4, 2, 3, 2], [4, 3]), /^5 places, where 3 pairs and a query take 7$/],
  ['retrieval-1', { keys: 3 }, 'train', pairs([0, 4, 2, 6, 1, 5, 2], [6, 3]), /place 3: 6 is none of the 6 symbols/],
  ['retrieval-2', { keys: 2 }, 'train', pairs([0, 2, 0, 3, 1, 2, 1, 3, 0], [8, 3]), undefined],
  ['retrieval-2', { keys: 2 }, 'train', pairs([0, 2, 0, 3, 1, 2, 1, 3, 0], [8, 2]), /the target at 8 is 2, not 3/],
  ['retrieval-2', { keys: 2 }, 'valid', pairs([0, 2, 0, 3, 1], [4, 3]), /place 4: 1 was never written/],
  ['retrieval-2', { keys: 2 }, 'valid', pairs([0, 2, 0, 3, 0], [4, 3], [2, 3]), /the target at 2 is 3, where nothing is asked/],
  ['ba-retrieval', { pairs: 2 }, 'train', pairs([3, 30, 5, 31, 36, 36, 5], [6, 31]), undefined],
  ['ba-retrieval', { pairs: 2 }, 'train', pairs([3, 30, 5, 30, 36, 36, 5], [6, 30]), /place 3: 30 comes again/],
  ['ba-retrieval', { pairs: 2 }, 'train', pairs([3, 30, 5, 31, 36, 30, 5], [6, 31]), /place 5: 30 isn't the question mark 36/],
  ['ba-retrieval', { pairs: 2 }, 'train', pairs([3, 30, 5, 31, 36, 36, 4], [6, 31]), /place 6: 4 is none of the letters/],
  ['ba-retrieval', { pairs: 2 }, 'train', pairs([3, 36, 5, 31, 36, 36, 5], [6, 31]), /place 1: 36 isn't a digit/],
  ['mqar', mqar, 'train', pairs([1, 10, 2, 11, 2, 0, 0, 0, 1, 0, 0, 0], [4, 11], [8, 10]), undefined],
  ['mqar', mqar, 'train', pairs([1, 10, 2, 11, 2, 0, 0, 0, 1, 0, 0, 0], [4, 11]), /place 8: the filler is 1 instead of 0/],
  ['mqar-random', mqar, 'train', pairs([1, 10, 2, 11, 2, 0, 0, 0, 1, 0, 0, 0], [4, 11]), /the key 1 is never asked for/],
  [
    'mqar',
    mqar,
    'train',
    pairs([1, 10, 2, 11, 2, 0, 2, 0, 1, 0, 0, 0], [4, 11], [6, 11], [8, 10]),
    /place 6: the key 2 is asked for again/,
  ],
  ['mqar', mqar, 'train', pairs([1, 10, 2, 11, 0, 2, 0, 0, 1, 0, 0, 0], [5, 11], [8, 10]), /place 5/],
  ['mqar', mqar, 'train', pairs([1, 10, 1, 11, 1, 0, 0, 0, 1, 0, 0, 0], [4, 11], [8, 10]), /place 2: the key 1 comes again/],
  ['mqar', mqar, 'train', pairs([1, 10, 2, 10, 2, 0, 0, 0, 1, 0, 0, 0], [4, 10], [8, 10]), /place 3: the value 10 comes again/],
  ['mqar', mqar, 'train', pairs([0, 10, 2, 11, 2, 0, 0, 0, 0, 0, 0, 0], [4, 11], [8, 10]), /place 0: 0 isn't a key/],
  ['mad-in-context-recall', recall, 'test', pairs([0, 4, 1, 5, 0, 4, 1], [4, 4], [6, 5]), undefined],
  ['mad-in-context-recall', recall, 'train', pairs([0, 4, 1, 5, 0, 4, 1], [4, 4], [6, 5]), /there is no target at 0, where 4 is right/],
  ['mad-in-context-recall', recall, 'train', all([0, 4, 1, 5, 0, 4, 1], [4, 1, 5, 0, 4, 1, 5]), undefined],
  ['mad-in-context-recall', recall, 'test', pairs([0, 4, 1, 5, 0, 6, 1], [4, 6], [6, 5]), /place 5: the key 0 has the value 6, and had 4/],
  ['mad-in-context-recall', recall, 'test', pairs([0, 4, 1, 5, 0, 4, 2], [4, 4], [6, 5]), /place 6: 2 is asked for, and was never shown/],
  ['mad-in-context-recall', recall, 'test', pairs([0, 4, 5, 5, 0, 4, 0], [4, 4], [6, 4]), /place 2: the value 5 stands where a key must/],
  ['mad-noisy-recall', noisy, 'test', pairs([0, 4, 9, 10, 0, 4, 0], [4, 4], [6, 4]), undefined],
  ['mad-noisy-recall', noisy, 'test', pairs([0, 4, 9, 1, 0, 4, 0], [4, 4], [6, 4]), /place 3: 1 isn't noise, as the token before it is/],
  // Keys 0 to 2, values 3 to 5, padding 6.
  ['mad-fuzzy-recall', fuzzy, 'test', pairs([6, 6, 6, 0, 1, 3, 1, 2, 4, 5, 1, 2, 4], [11, 4], [12, 5]), undefined],
  [
    'mad-fuzzy-recall',
    fuzzy,
    'test',
    pairs([6, 6, 6, 0, 1, 3, 1, 2, 4, 5, 1, 2, 5], [11, 5], [12, 5]),
    /place 12: the key 1,2 has the value 5 ., and had 4,5/,
  ],
  [
    'mad-fuzzy-recall',
    fuzzy,
    'test',
    pairs([6, 6, 6, 0, 1, 3, 1, 2, 4, 5, 2, 1, 4], [11, 4], [12, 5]),
    /place 10: the key 2,1 is asked for, and was never shown/,
  ],
  [
    'mad-fuzzy-recall',
    { ...fuzzy, unanswerable: true },
    'test',
    pairs([6, 6, 6, 0, 1, 3, 1, 2, 4, 5, 2, 1, 4], [11, 4], [12, 5]),
    undefined,
  ],
  [
    'mad-fuzzy-recall',
    { ...fuzzy, unanswerable: true },
    'test',
    pairs([6, 6, 6, 0, 1, 3, 1, 2, 4, 5, 2, 1, 4], [11, 4], [12, 4]),
    /place 12: 4,4 isn't a value/,
  ],
  ['mad-fuzzy-recall', fuzzy, 'test', pairs([6, 6, 6, 0, 1, 3, 1, 1, 4, 5, 0, 1, 3], [11, 3]), /place 6: 1,1 isn't a key/],
  [
    'mad-fuzzy-recall',
    fuzzy,
    'test',
    pairs([6, 6, 6, 6, 1, 3, 1, 2, 4, 5, 1, 2, 4], [11, 4], [12, 5]),
    /place 4: the key 1 has fewer tokens than 2/,
  ],
  [
    'mad-fuzzy-recall',
    fuzzy,
    'test',
    pairs([6, 6, 6, 0, 1, 3, 6, 2, 4, 5, 1, 2, 4], [11, 4], [12, 5]),
    /place 6: padding inside the sequence/,
  ],
  [
    'mad-fuzzy-recall',
    fuzzy,
    'test',
    pairs([6, 6, 6, 6, 6, 6, 1, 2, 4, 5, 1, 2, 4], [11, 4], [12, 5]),
    /^6 places of padding, where 5 are the most$/,
  ],
  ['mad-memorization', map, 'train', pairs([7, 4, 0, 4], [1, 2]), /place 0: 7 is none of the 5 symbols/],
  ['mad-memorization', map, 'train', pairs([3, 4, 0, 4], [1, 2]), /place 0: 3 isn't a key/],
  ['mad-memorization', map, 'train', pairs([1, 2, 0, 4], [1, 2]), /place 1: 2 instead of 4/],
  ['mad-compression', { vocabulary: 4, length: 3 }, 'train', all([0, 1, 3], [0, 1, 3]), undefined],
  ['mad-compression', { vocabulary: 4, length: 3 }, 'train', all([0, 1, 2], [0, 1, 2]), /place 2: 3 must stand at the end, and only there/],
  ['mad-compression', { vocabulary: 4, length: 3 }, 'train', all([0, 3, 3], [0, 3, 3]), /place 1: 3 must stand at the end/],
  ['mad-selective-copy', copy, 'train', pairs([3, 1, 3, 2, 3, 4, 3, 3], [6, 1], [7, 2]), /place 4: a blank behind the last symbol/],
  ['mad-selective-copy', copy, 'train', pairs([3, 1, 3, 3, 2, 4, 3, 3], [6, 1], [7, 2]), undefined],
  ['mad-selective-copy', copy, 'train', pairs([3, 1, 3, 3, 2, 4, 3, 1], [6, 1], [7, 2]), /place 7: 1 instead of a blank/],
  ['mad-copy', copy, 'train', pairs([1, 3, 2, 3, 3, 4, 3, 3], [6, 1], [7, 2]), /place 1: a blank between the symbols/],
  ['mad-copy', copy, 'train', pairs([1, 2, 2, 3, 3, 4, 3, 3], [6, 1], [7, 2]), /^3 symbols to copy instead of 2$/],
  ['mad-copy', copy, 'train', pairs([1, 2, 3, 3, 4, 3, 3, 3], [6, 1], [7, 2]), /the token 4 must stand at place 5, not 4/],
  ['parity', {}, 'train', word('01', '0110', '1011'), undefined],
  ['parity', {}, 'train', word('01', '0111', '1010'), /^3 ones in all, an odd number$/],
  ['parity', {}, 'test', word('01', '0110', '1011'), /^4 letters, where 51 to 100 are right$/],
  ['parity', {}, 'train', word('01', '0110', '1001'), /the target at 2 is 0, not 1/],
  ['aa-star', {}, 'train', word('a', 'aaa', '010'), /aaa isn't made of aa/],
  ['abab-star', {}, 'train', word('ab', 'abba', '0001'), /abba isn't made of abab/],
  ['dyck-1', {}, 'train', word('()', '())(', '1000'), /place 2: \) closes nothing/],
  ['dyck-1', {}, 'train', word('()', '(()', '111'), /^1 \( stay open$/],
  ['reset-dyck-1', {}, 'train', word('()1', '((1()', '11010'), undefined],
  ['reset-dyck-1', {}, 'train', word('()1', '(())', '1110'), /^0 resets, where one is right$/],
  ['reset-dyck-1', {}, 'train', word('()1', '(1)1()', '101010'), /^2 resets/],
  ['reset-dyck-1', {}, 'train', word('()1', '())1()', '100010'), /before the reset, \) closes nothing/],
  ['reset-dyck-1', {}, 'train', word('()1', '()1(', '1001'), /behind the reset: 1 \( stay open/],
  ['reset-dyck-1', { minLength: 1, maxLength: 4 }, 'train', word('()1', '(((1()', '111010'), /a part of more than 4 letters/],
  ['shuffle-2', {}, 'train', word('()[]', '([)]', '2310'), undefined],
  ['shuffle-2', { nested: true }, 'train', word('()[]', '([)]', '2310'), /brackets of one kind close within those of the other/],
  ['shuffle-2', {}, 'train', word('()[]', '()[]]', '20101'), /place 4: \] closes nothing/],
  ['counter-2', {}, 'train', word('ab', 'aabb', '0012'), undefined],
  ['counter-2', {}, 'train', word('ab', 'abab', '0102'), /the letters are out of order/],
  ['counter-3', {}, 'train', word('abc', 'aabbc', '00123'), /^2, 2, 1 letters of each kind$/],
  ['counter-2', { maxLength: 1 }, 'train', word('ab', 'aabb', '0012'), /^2 letters of each kind, where 1 to 1 are right$/],
  ['parity-final', {}, 'train', pairs([1, 2, 2, 1], [3, 1]), undefined],
  ['parity-final', {}, 'train', pairs([1, 0, 2, 1], [3, 1]), /place 1: padding inside the sequence/],
  ['parity-final', {}, 'valid', pairs([1, 2, 2, 1], [3, 1]), /length 5 with the answer, where 40 to 256 are right/],
  // 2 - 3 * 4 = 0, by the rule of precedence, modulo 5; 2 - 4 * 4 is 1.
  ['modular-arithmetic', {}, 'train', pairs([7, 2, 8, 3, 9, 4], [5, 5]), undefined],
  ['modular-arithmetic', {}, 'train', pairs([7, 2, 9, 3, 9, 4], [5, 6]), undefined],
  ['modular-arithmetic', { prefixes: true }, 'train', pairs([7, 2, 8, 3, 9, 4], [1, 7], [3, 9], [5, 5]), undefined],
  ['modular-arithmetic', { prefixes: true }, 'train', pairs([7, 2, 8, 3, 9, 4], [1, 7], [3, 8], [5, 5]), /the target at 3 is 8, not 9/],
  ['modular-arithmetic', {}, 'train', pairs([7, 2, 8, 8, 9, 4], [5, 5]), /place 3: 8 isn't one of \+ - \*/],
  ['modular-arithmetic', {}, 'train', pairs([7, 2, 8, 3, 9, 1], [5, 5]), /place 5: 1 isn't the sign =/],
  ['modular-arithmetic', {}, 'train', pairs([7, 2, 8, 3, 9], [4, 5]), /^5 places, where numbers and signs take turns up to =$/],
  ['modular-arithmetic', {}, 'train', pairs([7, 2, 2, 3, 9, 4], [5, 5]), /place 2: 2 isn't a number/],
  // (1 - (-2)) = 3, and ((1) + -(2)) isn't an expression.
  ['modular-arithmetic-brackets', {}, 'train', pairs([8, 1, 6, 8, 6, 2, 9, 9, 10, 0], [8, 3]), undefined],
  [
    'modular-arithmetic-brackets',
    {},
    'train',
    pairs([8, 1, 6, 8, 6, 2, 9, 10, 0], [7, 3]),
    /place 7: 10 isn't an operation or a closing bracket/,
  ],
  ['modular-arithmetic-brackets', {}, 'train', pairs([8, 8, 1, 9, 5, 6, 8, 2, 9, 9, 10, 0], [10, 4]), /place 6: 8 isn't a number/],
  [
    'modular-arithmetic-brackets',
    {},
    'train',
    pairs([8, 8, 1, 9, 9, 10, 0], [5, 1]),
    /place 4: brackets within brackets hold nothing more/,
  ],
  [
    'modular-arithmetic-brackets',
    {},
    'train',
    pairs([8, 1, 5, 2, 5, 3, 9, 10, 0], [7, 1]),
    /place 4: a second operation in one pair of brackets/,
  ],
  ['modular-arithmetic-brackets', {}, 'train', pairs([8, 1, 7, 2, 9, 10, 0], [5, 2]), /place 2: 7 isn't an operation/],
  ['modular-arithmetic-brackets', { times: true }, 'train', pairs([8, 1, 7, 2, 9, 10, 0], [5, 2]), undefined],
  ['modular-arithmetic-brackets', {}, 'train', pairs([1, 9, 10, 0], [2, 1]), /place 1: the expression ends before =/],
  ['modular-arithmetic-brackets', {}, 'train', pairs([8, 1, 5, 2, 9, 10], [5, 3]), /place 4: 9 instead of the sign =/],
]

describe('rules', () => {
  for (const [name, given, split, example, message] of cases)
    it(`${name}, ${split}: ${[...example.inputs]} ${message ?? 'is right'}`, () => {
      const fault = faultOf(rows[name], settingsOf(rows[name], given), example, split)
      if (message === undefined) assert.equal(fault, undefined)
      else assert.match(fault ?? 'nothing', message)
    })

  it('say it where there is nothing, or targets are missing', () => {
    const settings = settingsOf(rows.parity)
    assert.equal(faultOf(rows.parity, settings, all([], []), 'train'), 'nothing but padding')
    assert.equal(faultOf(rows.parity, settings, all([0, 0], [1]), 'train'), '2 inputs and 1 targets')
    assert.match(faultOf(rows.parity, settings, all([0, 0], [1, 7]), 'train') ?? '', /^place 1: the target 7 is none of the 3 symbols$/)
  })

  it('of a map that comes with the file', () => {
    const settings = settingsOf(rows['mad-memorization'], map)
    const example = pairs([1, 4, 0, 4], [1, 2], [3, 3])
    const judge = (kv_map: number[]): string | undefined =>
      faultOf(rows['mad-memorization'], settings, example, 'train', { kv_map: Int32Array.from(kv_map) })
    assert.equal(judge([0, 3, 1, 2]), undefined)
    assert.match(judge([0, 2, 1, 3]) ?? '', /the target at 1 is 2, not 3/)
    assert.match(judge([0, 2, 1, 2]) ?? '', /the map isn't one to one into the values 2 to 3/)
    assert.match(judge([0, 2, 0, 3]) ?? '', /the map isn't one of each of the keys 0 to 1/)
  })
})
