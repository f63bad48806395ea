/**
 * Texts word by word, as WikiText has them: words stand between blanks, each line ends with `<eos>`, and what is too rare is `<unk>`. Samplers are those of
 * characters; perplexity is measured with or without the context before a segment. Tests: test/tasks/words.test.ts.
 */
import { checkNumber, checkOptions } from '../engine/arguments.ts'
import { crossEntropy } from '../engine/ops/norm.ts'
import { noGrad } from '../engine/recording.ts'
import { keep, scope } from '../engine/scope.ts'
import { type Stoppable, stopper } from '../engine/signal.ts'
import { tensor } from '../engine/tensor.ts'
import type { LayerState } from '../nn/mixer.ts'
import type { LanguageModel } from '../nn/model.ts'
import { disposeState, mapState } from '../nn/state.ts'
import { checkRows, checkStride } from './epochs.ts'
import { type Batch, evaluationBatches, ignoredTarget, TextError, type Vocabulary } from './text.ts'

/** Stands for a word that isn't in the vocabulary. */
export const unknownWord = '<unk>'
/** Stands for the end of a line. */
export const endOfLine = '<eos>'

/** The words of a text, `<eos>` after each line: after the last one, too, whether it ends there or not. */
function* wordsOf(text: string): Generator<string> {
  const lines = text.split('\n')
  if (lines.at(-1) === '') lines.pop()
  for (const line of lines) {
    for (const word of line.split(/\s+/)) if (word !== '') yield word
    yield endOfLine
  }
}

/** `<unk>`, `<eos>`, then the words of a text, the most frequent first, of equals that with the lower code units; `size` of them all at most. */
export function wordVocabulary(text: string, size = Infinity): Vocabulary {
  if (size !== Infinity) checkNumber('wordVocabulary: size', size, 'a positive integer')
  if (size < 3) throw new TextError(`a vocabulary of ${size} has no place for a word beside ${unknownWord} and ${endOfLine}`)
  const counts = new Map<string, number>()
  for (const word of wordsOf(text)) counts.set(word, (counts.get(word) ?? 0) + 1)
  const always = [unknownWord, endOfLine]
  for (const word of always) counts.delete(word)
  if (counts.size === 0) throw new TextError('the text has no words')
  const words = [...counts].sort(([a, x], [b, y]) => y - x || (a < b ? -1 : 1)).map(([word]) => word)
  return wordVocabularyOf([...always, ...words.slice(0, size - always.length)])
}

/** The vocabulary of a trained model, from the symbols that were stored with it: token i is symbols[i]. */
export function wordVocabularyOf(symbols: readonly string[]): Vocabulary {
  const tokenOf = new Map(symbols.map((symbol, token) => [symbol, token]))
  if (tokenOf.size !== symbols.length) throw new TextError('the vocabulary has a word twice')
  const [unknown, end] = [unknownWord, endOfLine].map((word) => tokenOf.get(word))
  if (unknown === undefined || end === undefined) throw new TextError(`the vocabulary needs ${unknownWord} and ${endOfLine}`)
  return {
    symbols,
    size: symbols.length,
    encode: (text) => Int32Array.from(wordsOf(text), (word) => tokenOf.get(word) ?? unknown),
    /** Lines of words with one blank between them. */
    decode(tokens) {
      let text = ''
      let between = ''
      for (let i = 0; i < tokens.length; i++) {
        const word = symbols[tokens[i]]
        if (word === undefined) throw new TextError(`token ${tokens[i]} at ${i} isn't in the vocabulary of ${symbols.length} words`)
        text += tokens[i] === end ? '\n' : between + word
        between = tokens[i] === end ? '' : ' '
      }
      return text
    },
  }
}

/**
 * The whole text once, in B rows, each of which goes through a part of it, T tokens at a time: a batch goes on where the one before stopped. Every
 * token but the first is a target exactly once; where a part is at its end, targets are `ignoredTarget`.
 */
export function* streamBatches(tokens: Int32Array, T: number, B: number): Generator<Batch> {
  checkRows('streamBatches', tokens, T, B)
  const targets = tokens.length - 1
  const part = Math.ceil(targets / B)
  for (let from = 0; from < part; from += T) {
    const L = Math.min(T, part - from)
    const batch: Batch = { tokens: new Int32Array(B * L), targets: new Int32Array(B * L).fill(ignoredTarget), B, T: L, count: 0 }
    for (let b = 0; b < B; b++) {
      const start = b * part + from
      const end = Math.min(start + L, targets)
      if (start >= end) break
      batch.tokens.set(tokens.subarray(start, end), b * L)
      batch.targets.set(tokens.subarray(start + 1, end + 1), b * L)
      batch.count += end - start
    }
    yield batch
  }
}

/** Options of `perplexity`. */
export interface PerplexityOptions extends Stoppable {
  /** Tokens of a segment. */
  T: number
  /** Rows at a time: with `carry`, parts of the text, each of which begins without context. 1 by default. */
  B?: number
  /** Whether a segment goes on from the state that the one before it left: false by default. */
  carry?: boolean
  /**
   * How many tokens a segment begins after the one before, T by default. With fewer each segment measures but its last ones, which have the others as
   * context: a sliding window, in T / stride times the time. Means nothing with `carry`.
   */
  stride?: number
}

/** How well a model predicts each token of a text but the first: nats a token, their exponential, and how many tokens. */
export async function perplexity<S extends LayerState>(
  model: LanguageModel<S>,
  tokens: Int32Array,
  options: PerplexityOptions,
): Promise<{ nats: number; perplexity: number; count: number }> {
  checkOptions('perplexity', options, ['T', 'B', 'carry', 'stride', 'signal'])
  const mayGoOn = stopper('perplexity', options)
  const { T, B = 1, carry = false, stride = T } = options
  checkNumber('perplexity: T', T, 'a positive integer')
  checkNumber('perplexity: B', B, 'a positive integer')
  checkStride('perplexity', stride, T)
  if (carry && stride < T) throw new Error('perplexity: stride means nothing with carry, where each segment has all before it as context')
  if (tokens.length < 2) throw new TextError(`the text is too short: of its ${tokens.length} tokens none follows another`)
  const { device } = model.parameters()[0]
  const wasTraining = model.training
  let state: S | undefined
  let total = 0
  let count = 0
  model.eval()
  try {
    for (const batch of carry ? streamBatches(tokens, T, B) : evaluationBatches(tokens, T, B, stride)) {
      await mayGoOn()
      const before = state
      const shape = [batch.B, batch.T]
      const loss = noGrad(() =>
        scope(() => {
          const { logits, state: after } = model.forward(tensor(batch.tokens, { shape, device }), before)
          const nats = crossEntropy(logits, tensor(batch.targets, { shape, device }), { ignore: ignoredTarget })
          if (carry) state = mapState(after, keep) as S
          return keep(nats)
        }),
      )
      disposeState(before)
      total += batch.count * (await loss.item().finally(() => loss.dispose()))
      count += batch.count
    }
  } finally {
    disposeState(state)
    model.train(wasTraining)
  }
  return { nats: total / count, perplexity: Math.exp(total / count), count }
}
