/** BLEU: sacrebleu's own figures, and some that are computed by hand. */
import assert from 'node:assert/strict'
import {
  type Bleu,
  type BleuOptions,
  type BleuSmoothing,
  type BleuTokenizer,
  bleuTokens,
  corpusBleu,
  sentenceBleu,
} from '../../tasks/bleu.ts'
import { publishedText } from './published.ts'

/** As bleu.json has them. */
interface Figures {
  score: number
  counts: number[]
  totals: number[]
  precisions: number[]
  bp: number
  sys_len: number
  ref_len: number
}
interface Pair extends Figures {
  hypothesis: string
  reference: string
  hypothesis_13a: string
  reference_13a: string
  score_without_effective_order: number
}

const close = (actual: number, expected: number, what: string): void =>
  assert.ok(Math.abs(actual - expected) <= 1e-9, `${what}: ${actual}, not ${expected}`)

function same(found: Bleu, figures: Figures, what: string): void {
  const { score, counts, totals, precisions, brevityPenalty, length, referenceLength } = found
  assert.deepEqual([counts, totals, length, referenceLength], [figures.counts, figures.totals, figures.sys_len, figures.ref_len], what)
  assert.equal(precisions.length, 4)
  close(score, figures.score, what)
  close(brevityPenalty, figures.bp, what)
  for (const [i, precision] of precisions.entries()) close(precision, figures.precisions[i], `${what}: order ${i + 1}`)
}

describe('BLEU', () => {
  it("gives sacrebleu's figures: sentences, corpora, subsets, two references, tokenisers, smoothing", function () {
    const figures = JSON.parse(publishedText(this, 'tasks/bleu.json'))
    const pairs = figures.pairs as Pair[]
    assert.equal(pairs.length, 20)
    for (const pair of pairs) {
      const { hypothesis, reference } = pair
      assert.deepEqual(bleuTokens(hypothesis).join(' '), pair.hypothesis_13a)
      assert.deepEqual(bleuTokens(reference).join(' '), pair.reference_13a)
      same(sentenceBleu(hypothesis, [reference]), pair, hypothesis)
      close(sentenceBleu(hypothesis, [reference], { effectiveOrder: false }).score, pair.score_without_effective_order, hypothesis)
    }
    const answers = pairs.map(({ hypothesis }) => hypothesis)
    const references = pairs.map(({ reference }) => [reference])
    same(corpusBleu(answers, references), figures.corpus, 'corpus')
    for (const [variant, score] of Object.entries<number>(figures.corpus_variants)) {
      const [tokenizer, option] = variant.split(',')
      const options: BleuOptions = { tokenizer: tokenizer as BleuTokenizer }
      if (option === 'lowercase') options.lowercase = true
      else if (option !== undefined) options.smoothing = option.split('=')[1] as BleuSmoothing
      close(corpusBleu(answers, references, options).score, score, variant)
    }
    for (const [subset, expected] of Object.entries<Figures>(figures.corpus_of_subsets)) {
      const rows = subset.split(',').map(Number)
      same(
        corpusBleu(
          rows.map((i) => answers[i]),
          rows.map((i) => references[i]),
        ),
        expected,
        `subset ${subset}`,
      )
    }
    const two = references.map(([reference], i) => [reference, ...references[(i + 1) % references.length]])
    same(corpusBleu(answers, two), figures.two_references, 'two references')
  })

  it('is what the definition gives by hand', () => {
    // 5 of 6 words, 3 of 5 pairs, 1 of 4 triples, none of 3: 1/2 of one counts.
    const { counts, totals, score } = sentenceBleu('the cat sat on the mat', ['the cat is on the mat'])
    assert.deepEqual(
      [counts, totals],
      [
        [5, 3, 1, 0],
        [6, 5, 4, 3],
      ],
    )
    close(score, 100 * ((5 / 6) * (3 / 5) * (1 / 4) * (1 / 6)) ** (1 / 4), 'exp')
    const smoothed = (options: BleuOptions): number => sentenceBleu('the cat sat on the mat', ['the cat is on the mat'], options).score
    close(smoothed({ smoothing: 'none' }), 0, 'none')
    close(smoothed({ smoothing: 'floor' }), 100 * ((5 / 6) * (3 / 5) * (1 / 4) * (0.1 / 3)) ** (1 / 4), 'floor')
    close(smoothed({ smoothing: 'floor', smoothingValue: 0.5 }), 100 * ((5 / 6) * (3 / 5) * (1 / 4) * (0.5 / 3)) ** (1 / 4), 'floor 0.5')
    close(smoothed({ smoothing: 'add-k' }), 100 * ((5 / 6) * (4 / 6) * (2 / 5) * (1 / 4)) ** (1 / 4), 'add-k')
    close(smoothed({ smoothing: 'add-k', smoothingValue: 0 }), 0, 'add-k 0')
  })

  it('counts what a reference has no more often than it, over all of them, and takes the length of the closest', () => {
    const { counts, referenceLength } = sentenceBleu('a a a b c', ['a a d', 'b a d e f g h', 'a'])
    assert.deepEqual(counts.slice(0, 2), [3, 1])
    assert.equal(referenceLength, 3) // of 3 and 7, equally far from 5, the shorter
    close(sentenceBleu('a b c d', ['a b c d e f g h']).score, 100 * Math.exp(1 - 8 / 4), 'brevity')
    close(sentenceBleu('a', ['a']).score, 100, 'one word')
    assert.equal(sentenceBleu('a', ['a'], { effectiveOrder: false }).score, 0)
    assert.equal(sentenceBleu('', ['a']).score, 0)
    // With add-k an order without n-grams has as many as are added.
    close(sentenceBleu('a b', ['a b'], { smoothing: 'add-k' }).score, 100, 'add-k of two words')
  })

  it('splits as its tokenisers do', () => {
    assert.deepEqual(bleuTokens('It\'s 1,000.5-ish, "no"? &lt;b&gt; x-\ny\n'), [...'It\'s 1,000.5 - ish , " no " ? < b > xy'.split(' ')])
    assert.deepEqual(bleuTokens('„Alt“ 3,5 € z.B.', 'intl'), ['„', 'Alt', '“', '3,5', '€', 'z', '.', 'B', '.'])
    assert.deepEqual(bleuTokens('a 💡b ', 'char'), ['a', '💡', 'b'])
    assert.deepEqual(bleuTokens(' a,b\u00a0c\u2003d\x1ce\ufefff ', 'none'), ['a,b', 'c', 'd', 'e\ufefff'])
  })

  it('says what is wrong', () => {
    const bad = (message: string, answers: unknown, references: unknown, options = {}): void =>
      assert.throws(() => corpusBleu(answers as string[], references as string[][], options), { message })
    bad('corpusBleu: the answers must be a list of texts, not an array of 0', [], [])
    bad("corpusBleu: the answers must be a list of texts, not the text 'a'", 'a', [['a']])
    bad('corpusBleu: answer 0 must be a text, not 3', [3], [['a']])
    bad('corpusBleu: needs a list of references for each of 2 answers, not an array of 1', ['a', 'b'], [['a']])
    bad("corpusBleu: the references of answer 0 must be a list of texts, not the text 'a'", ['a'], ['a'])
    bad('corpusBleu: the references of answer 0 must be a list of texts, not an array of 0', ['a'], [[]])
    bad('corpusBleu: a reference of answer 0 must be a text, not null', ['a'], [[null]])
    bad("unknown tokenizer 'zh' (none, 13a, intl, char)", ['a'], [['a']], { tokenizer: 'zh' })
    bad("unknown smoothing 'add' (none, exp, floor, add-k)", ['a'], [['a']], { smoothing: 'add' })
    bad("corpusBleu: unknown option 'case' (tokenizer, lowercase, smoothing, smoothingValue, effectiveOrder)", ['a'], [['a']], { case: 1 })
    bad('smoothingValue = 1 means nothing here: it belongs to smoothing = floor or add-k', ['a'], [['a']], { smoothingValue: 1 })
    bad('smoothingValue must be 0 or more, not -1', ['a'], [['a']], { smoothing: 'floor', smoothingValue: -1 })
  })
})
