/** Texts as tokens of Hugging Face's tokenizer.json: read, told token by token, and written of our vocabularies. */
import assert from 'node:assert/strict'
import { charVocabulary, TextError, type Vocabulary, wordVocabulary } from '../../tasks/index.ts'
import { openTokenizer, telling, tokenizerFiles } from '../../tasks/tokenizer.ts'
import { byteLevel } from './byte-level.ts'

const bytesOf = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value))

describe('a tokenizer.json', () => {
  it('is read: tokens of a text, the text of tokens, and of one token at a time', async () => {
    const codec = await openTokenizer(new Map([['tokenizer.json', bytesOf(byteLevel)]]))
    const tokens = codec.encode('ab ab<end>éa b')
    assert.deepEqual([...tokens], [3, 4, 7, 5, 6, 0, 8])
    assert.equal(codec.decode(tokens), 'ab abéa b')
    assert.equal(codec.decode([]), '')
    const teller = telling(codec, [3])
    assert.deepEqual(
      [...tokens.slice(1), 5].map((token) => teller.add(token)),
      [' ab', '', '', 'é', 'a', ' b', ''],
    )
    assert.equal(teller.end(), '\ufffd')
  })

  it('that is none, or lacks what a text needs, is an error in one line', async () => {
    const refused: [unknown, RegExp][] = [
      [7, /tokenizer\.json isn't an object/],
      [{}, /tokenizer\.json: it can't be used: /],
      [{ ...byteLevel, model: { type: 'Strange' } }, /tokenizer\.json: it can't be used: /],
    ]
    for (const [value, expected] of refused)
      await assert.rejects(openTokenizer(new Map([['tokenizer.json', bytesOf(value)]])), (error: Error) => {
        assert.ok(error instanceof TextError && !error.message.includes('\n'), error.message)
        return expected.test(error.message)
      })
    await assert.rejects(openTokenizer(new Map([['tokenizer.json', new Uint8Array(3)]])), /isn't JSON/)
    for (const far of [-1, 2 ** 32 + 3]) {
      const model = { ...byteLevel.model, vocab: { ...byteLevel.model.vocab, d: far } }
      const { encode } = await openTokenizer(new Map([['tokenizer.json', bytesOf({ ...byteLevel, model })]]))
      assert.throws(() => encode('d'), { name: 'TextError', message: new RegExp(`it has a token ${far}, where`) })
    }
  })

  it('has the tokens and the texts of our vocabularies', async () => {
    const text = 'So it is.\n\n  It is 1 🐦, <unk> an é.\r\nAnd\tso\u2003it goes .'
    const vocabularies: [Vocabulary, string][] = [
      [charVocabulary(text), ''],
      [wordVocabulary(text), 'unheard-of words: Its Itis\n\n'],
    ]
    for (const [vocabulary, more] of vocabularies) {
      const codec = await openTokenizer(tokenizerFiles(vocabulary))
      for (const own of [text, `${more}is`, `${more}is\n`, '\n', '\n\nso\n\n\nso\n']) {
        const tokens = vocabulary.encode(own)
        assert.deepEqual(codec.encode(own), tokens, JSON.stringify(own))
        assert.equal(codec.decode(tokens), vocabulary.decode(tokens), JSON.stringify(own))
        const teller = telling(codec, [])
        assert.equal(Array.from(tokens, teller.add).join('') + teller.end(), vocabulary.decode(tokens))
      }
    }
    const chars = await openTokenizer(tokenizerFiles(vocabularies[0][0]))
    assert.throws(() => chars.encode('Zoo'), /no token for a piece of "Zoo"/)
  })
})
