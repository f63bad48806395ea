/** Words: vocabularies with a cap, WikiText's counts, and perplexity with and without the context before a segment. */
import assert from 'node:assert/strict'
import { setDevice } from '../../engine/index.ts'
import { AdamW, constant, ignoredTarget, Trainer, Transformer } from '../../nn/index.ts'
import { evaluationBatches, randomBatches, sequentialBatches } from '../../tasks/text.ts'
import { perplexity, streamBatches, wordVocabulary, wordVocabularyOf } from '../../tasks/words.ts'
import { reference } from '../helpers.ts'
import { publishedText } from './published.ts'

const text = 'the cat sat\n\n on  the mat , the <unk> cat \r\nbut not\tthe dog'

describe('words', () => {
  it('are numbered by how often they stand there, lines with their ends', () => {
    const vocabulary = wordVocabulary(text)
    assert.deepEqual(vocabulary.symbols, ['<unk>', '<eos>', 'the', 'cat', ',', 'but', 'dog', 'mat', 'not', 'on', 'sat'])
    const tokens = vocabulary.encode(text)
    assert.deepEqual(Array.from(tokens), [2, 3, 10, 1, 1, 9, 2, 7, 4, 2, 0, 3, 1, 5, 8, 2, 6, 1])
    assert.equal(vocabulary.decode(tokens), 'the cat sat\n\non the mat , the <unk> cat\nbut not the dog\n')
    assert.deepEqual(Array.from(vocabulary.encode('a cat')), [0, 3, 1])
    assert.deepEqual(vocabulary.encode(''), new Int32Array(0))
    assert.deepEqual(Array.from(wordVocabularyOf(vocabulary.symbols).encode(text)), Array.from(tokens))
  })

  it('that are too rare are <unk>', () => {
    const vocabulary = wordVocabulary(text, 4)
    assert.deepEqual(vocabulary.symbols, ['<unk>', '<eos>', 'the', 'cat'])
    assert.deepEqual(Array.from(vocabulary.encode('the cat sat\n<unk> <eos>')), [2, 3, 0, 1, 0, 1, 1])
    assert.equal(wordVocabulary(text, 100).size, 11)
  })

  it('say what is wrong', () => {
    const bad = (action: () => unknown, message: string): void => assert.throws(action, { message })
    bad(() => wordVocabulary(' \n'), 'the text has no words')
    bad(() => wordVocabulary(text, 2), 'a vocabulary of 2 has no place for a word beside <unk> and <eos>')
    bad(() => wordVocabulary(text, 2.5), 'wordVocabulary: size must be a positive integer, not 2.5')
    bad(() => wordVocabularyOf(['<unk>', 'a']), 'the vocabulary needs <unk> and <eos>')
    bad(() => wordVocabularyOf(['<unk>', '<eos>', 'a', 'a']), 'the vocabulary has a word twice')
    bad(() => wordVocabulary(text).decode([3, 11]), "token 11 at 1 isn't in the vocabulary of 11 words")
  })

  it("of WikiText-2 are as many as its authors'", function () {
    const [valid, test] = ['valid', 'test'].map((split) => publishedText(this, `wikitext2.${split}.txt`))
    const vocabulary = wordVocabulary(test, 10_000)
    assert.equal(vocabulary.size, 10_000)
    assert.deepEqual(
      [valid, test].map((text) => vocabulary.encode(text).length),
      [217_646, 245_569],
    )
    const words = (text: string): string => text.replace(/[^\S\n]+/g, ' ').replace(/^ | $/gm, '')
    assert.equal(wordVocabulary(test).decode(wordVocabulary(test).encode(test)), words(test))
  })

  it('are drawn by the samplers of characters', () => {
    const tokens = wordVocabulary(text).encode(text)
    for (const sampler of [randomBatches, sequentialBatches]) {
      const { tokens: shown, targets, count } = sampler(tokens, { B: 2, T: 5 }).batch(0)
      assert.ok(count === 10 && shown.length === 10)
      for (let i = 0; i < 10; i++) if (i % 5 < 4) assert.equal(targets[i], shown[i + 1])
    }
  })

  it('come in parts that go on from batch to batch, each a target once', () => {
    const tokens = Int32Array.from({ length: 24 }, (_, i) => i)
    for (const [T, B] of [
      [5, 3],
      [4, 5],
      [100, 2],
      [1, 1],
      [3, 23],
      [2, 40],
    ]) {
      const next = new Map<number, number>()
      const counted: number[] = []
      for (const batch of streamBatches(tokens, T, B)) {
        assert.equal(batch.B, B)
        assert.equal(batch.tokens.length, B * batch.T)
        const before = counted.length
        for (let i = 0; i < B * batch.T; i++) {
          if (batch.targets[i] === ignoredTarget) continue
          const row = Math.floor(i / batch.T)
          assert.equal(batch.targets[i], batch.tokens[i] + 1)
          assert.equal(batch.tokens[i], next.get(row) ?? batch.tokens[i])
          next.set(row, batch.tokens[i] + 1)
          counted.push(batch.targets[i])
        }
        assert.equal(batch.count, counted.length - before)
      }
      assert.deepEqual(
        counted.sort((a, b) => a - b),
        Array.from(tokens.subarray(1)),
        `${T} ${B}`,
      )
    }
  })
})

describe('perplexity', () => {
  const tokens = Int32Array.from({ length: 42 }, (_, i) => (i * i + (i >> 2)) % 7)
  const models = {
    'fast weights': { rule: 'delta', featureMap: 'elu1', positions: 'none' },
    softmax: { mixer: 'softmax', positions: 'sinusoidal' },
    mixed: { mixer: [{ kind: 'fast-weights', rule: 'gated-delta' }, 'softmax'], positions: 'none' },
  } as const

  for (const [name, config] of Object.entries(models))
    it(`of ${name}: with the context carried it is that of the whole text, without that of segments`, async () => {
      setDevice(reference)
      const model = new Transformer({ symbols: 7, dModel: 8, heads: 2, layers: 2, dFf: 16, chunk: 4, dropout: 0.1, ...config }, 3)
      const trainer = new Trainer(model, new AdamW(model.namedParameters(), { lr: 0.01 }), { schedule: constant(0.01), clipNorm: 1 })
      await trainer.step(randomBatches(tokens, { B: 4, T: 20 }).batch(0))
      const held = reference.bytesInUse()
      const close = (a: number, b: number): void => assert.ok(Math.abs(a - b) < 1e-9 * Math.abs(b), `${a}, not ${b}`)
      const whole = await trainer.evaluate(evaluationBatches(tokens, 41, 1))
      for (const T of [1, 6, 41, 100]) {
        const { nats, perplexity: measured, count } = await perplexity(model, tokens, { T, carry: true })
        close(nats, whole)
        close(measured, Math.exp(whole))
        assert.equal(count, 41)
      }
      // Two parts of 21 and 20 targets, each from the beginning on.
      const parts = [tokens.subarray(0, 22), tokens.subarray(21)]
      const alone: number[] = []
      for (const part of parts) alone.push(await trainer.evaluate(evaluationBatches(part, 41, 1)))
      close((await perplexity(model, tokens, { T: 4, B: 2, carry: true })).nats, (21 * alone[0] + 20 * alone[1]) / 41)
      for (const B of [1, 3]) {
        const { nats, count } = await perplexity(model, tokens, { T: 5, B })
        close(nats, await trainer.evaluate(evaluationBatches(tokens, 5, B)))
        assert.equal(count, 41)
        assert.notEqual(nats, whole)
      }
      // Each target with the tokens before it that a window of 7 holds, where windows begin at 0, 3, 6, ...
      let windows = 0
      for (let t = 1; t < 42; t++) {
        const begin = t <= 7 ? 0 : 3 * Math.ceil((t - 7) / 3)
        const upTo = async (end: number): Promise<number> =>
          end > begin ? (end - begin) * (await trainer.evaluate(evaluationBatches(tokens.subarray(begin, end + 1), 41, 1))) : 0
        windows += (await upTo(t)) - (await upTo(t - 1))
      }
      for (const B of [1, 4]) {
        const { nats, count } = await perplexity(model, tokens, { T: 7, B, stride: 3 })
        close(nats, windows / 41)
        assert.equal(count, 41)
      }
      close((await perplexity(model, tokens, { T: 41, stride: 1 })).nats, whole)
      assert.equal(model.training, true)
      assert.equal(reference.bytesInUse(), held)
    })

  it('says what is wrong', async () => {
    setDevice(reference)
    const model = new Transformer({ symbols: 7, dModel: 8, heads: 2, layers: 1, dFf: 16 })
    const bad = (tokens: Int32Array, options: object, message: string): Promise<void> =>
      assert.rejects(perplexity(model, tokens, options as never), { message })
    await bad(tokens, { T: 0 }, 'perplexity: T must be a positive integer, not 0')
    await bad(tokens, { T: 4, B: 1.5 }, 'perplexity: B must be a positive integer, not 1.5')
    await bad(tokens, { T: 4, context: 2 }, "perplexity: unknown option 'context' (T, B, carry, stride, signal)")
    await bad(tokens, { T: 4, stride: 5 }, 'perplexity: stride must be at most T, 4, not 5: what lies between would be left out')
    await bad(tokens, { T: 4, stride: 0 }, 'perplexity: stride must be a positive integer, not 0')
    await bad(
      tokens,
      { T: 4, stride: 2, carry: true },
      'perplexity: stride means nothing with carry, where each segment has all before it as context',
    )
    await bad(tokens.subarray(0, 1), { T: 4 }, 'the text is too short: of its 1 tokens none follows another')
  })
})
