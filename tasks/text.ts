/**
 * Text, character by character: vocabulary, split, and batches of next-character prediction.
 *
 * A character is a Unicode code point. A batch has B rows of T characters and, as targets, the same rows one character later.
 * Samplers have no state: batch `step` is a function of the seed and the step, so that a training run resumes exactly from a step number.
 * Tests: test/nn/text.test.ts.
 */
import { checkNumber, checkOptions } from '../engine/arguments.ts'
import { printable } from '../nn/foreign.ts'
import { ignoredTarget, type TokenBatch } from '../nn/model.ts'
import { checkRows, checkStride } from './epochs.ts'

/** A text can't be learnt from, or has a character that the vocabulary lacks. */
export class TextError extends Error {
  override name = 'TextError'
}

// --- Vocabulary -----------------------------------------------------------------------------------------------------------------------

/** The symbols that a text is made of, and their numbers. */
export interface Vocabulary {
  /** The symbols by number. */
  readonly symbols: readonly string[]
  /** The number of symbols, N. */
  readonly size: number
  /** The numbers of a text's symbols. One that the vocabulary lacks is a TextError, or, of words, `<unk>`. */
  encode(text: string): Int32Array
  /** The text of these numbers. */
  decode(tokens: ArrayLike<number>): string
}

/** The distinct characters of a text in the order of their code points, which is the order of Python's `sorted(set(text))`. */
export function charVocabulary(text: string): Vocabulary {
  if (text.length === 0) throw new TextError('the text is empty')
  return vocabularyOf([...new Set(text)].sort((a, b) => a.codePointAt(0)! - b.codePointAt(0)!))
}

/** The vocabulary of a trained model, from the symbols that were stored with it: token i is symbols[i]. */
export function vocabularyOf(symbols: readonly string[]): Vocabulary {
  const tokenOf = new Map(symbols.map((symbol, token) => [symbol, token]))
  if (tokenOf.size !== symbols.length) throw new TextError('the vocabulary has a symbol twice')
  const wrong = symbols.find((symbol) => [...symbol].length !== 1)
  if (wrong !== undefined) throw new TextError(`the vocabulary's symbol ${quote(wrong)} isn't one character`)

  return {
    symbols,
    size: symbols.length,
    encode(text) {
      const tokens = new Int32Array(text.length)
      let position = 0
      for (const character of text) {
        const token = tokenOf.get(character)
        if (token === undefined) throw new TextError(unknownCharacter(character, position, tokenOf))
        tokens[position++] = token
      }
      return tokens.slice(0, position)
    },
    decode(tokens) {
      let text = ''
      for (let i = 0; i < tokens.length; i++) {
        const symbol = symbols[tokens[i]]
        if (symbol === undefined) throw new TextError(`token ${tokens[i]} at ${i} isn't in the vocabulary of ${symbols.length} symbols`)
        text += symbol
      }
      return text
    },
  }
}

const quote = (symbol: string): string => printable(JSON.stringify(symbol))

/** Typographic characters and what a keyboard has in their place. */
const plainForms: Record<string, string> = {
  '‘': "'",
  '’': "'",
  '“': '"',
  '”': '"',
  '«': '"',
  '»': '"',
  '–': '-',
  '—': '-',
  '\t': ' ',
  '\r': '\n',
}

function unknownCharacter(character: string, position: number, known: ReadonlyMap<string, number>): string {
  const bare = [...character.normalize('NFKD')][0]
  const candidates = [plainForms[character] ?? bare, bare.toLowerCase(), bare.toUpperCase()]
  const near = [...new Set(candidates)].filter((candidate) => candidate !== character && known.has(candidate))
  const code = character.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0')
  const hint = near.length === 0 ? '' : ` (it has ${near.map(quote).join(' and ')})`
  return `character ${quote(character)} (U+${code}) at ${position} isn't in the vocabulary of ${known.size} symbols${hint}`
}

// --- Split ----------------------------------------------------------------------------------------------------------------------------

/**
 * The first floor(fraction * n) characters train, the rest validates, as in labml's `TextFileDataset`.
 * Given T, both parts must be of use: one sequence of T characters and its target to train on, one target to validate on.
 */
export function splitText(text: string, fraction = 0.9, T = 1): { train: string; valid: string } {
  if (!(fraction > 0 && fraction < 1)) throw new TextError(`a text can't be split at ${fraction}: give a fraction between 0 and 1`)
  if (text.length === 0) throw new TextError('the text is empty')
  let n = 0
  for (const _ of text) n++
  const cut = Math.floor(fraction * n)
  if (cut < T + 1 || n - cut < 2) {
    throw new TextError(
      `the text is too short: of its ${n} characters, ${cut} would train (${T + 1} needed for sequences of ${T}) ` +
        `and ${n - cut} validate (2 needed)`,
    )
  }
  let index = cut
  if (n < text.length) {
    index = 0
    for (let i = 0; i < cut; i++) index += text.codePointAt(index)! > 0xffff ? 2 : 1
  }
  return { train: text.slice(0, index), valid: text.slice(index) }
}

// --- Batches --------------------------------------------------------------------------------------------------------------------------

export { ignoredTarget }

export interface Batch extends TokenBatch {
  /** How many targets count. */
  count: number
}

/** Batches of a text, by step. */
export interface Sampler {
  /** The batch of step 0, 1, ...: the same whenever it is asked for. */
  batch(step: number): Batch
  /** How many batches hold about as many characters as the text. */
  readonly stepsPerEpoch: number
}

/** Options of what samples batches from a text. */
export interface SamplerOptions {
  /** Rows of a batch. */
  B: number
  /** Tokens of a row. */
  T: number
  /** Of where rows start and the order in which they come; 0 by default. */
  seed?: number
}

/** Rows that start anywhere in the text, each drawn independently. */
export function randomBatches(tokens: Int32Array, options: SamplerOptions): Sampler {
  const { B, T, seed } = checkSampler('randomBatches', tokens, options)
  const starts = tokens.length - T
  return {
    stepsPerEpoch: Math.ceil((tokens.length - 1) / (B * T)),
    batch: (step) =>
      rowsOf(
        tokens,
        Array.from({ length: B }, (_, row) => below(starts, seed, step, row)),
        T,
      ),
  }
}

/**
 * labml's `SequentialUnBatchedDataset` behind a shuffled loader: item i is the T characters from i T + o, with an offset o drawn anew from
 * 0 ... T - 1 (less, where the text would end); an epoch takes each item once, in a random order, and its last batch may have fewer rows.
 */
export function sequentialBatches(tokens: Int32Array, options: SamplerOptions): Sampler {
  const { B, T, seed } = checkSampler('sequentialBatches', tokens, options)
  const items = Math.floor((tokens.length - 1) / T)
  const stepsPerEpoch = Math.ceil(items / B)
  let order: Int32Array = new Int32Array(0)
  let orderEpoch = -1
  return {
    stepsPerEpoch,
    batch(step) {
      const epoch = Math.floor(step / stepsPerEpoch)
      if (epoch !== orderEpoch) {
        order = permutation(items, seed, epoch)
        orderEpoch = epoch
      }
      const first = (step - epoch * stepsPerEpoch) * B
      const starts: number[] = []
      for (let row = 0; row < Math.min(B, items - first); row++) {
        const start = order[first + row] * T
        starts.push(start + below(Math.min(T, tokens.length - start - T), seed, step, row))
      }
      return rowsOf(tokens, starts, T)
    },
  }
}

/**
 * The whole text once, in order: every character but the first is a target exactly once. The last row is padded with `ignoredTarget`. A row begins `stride`
 * characters after the one before; where that is fewer than T, its first characters are context alone, targets of the row before.
 */
export function* evaluationBatches(tokens: Int32Array, T: number, B: number, stride = T): Generator<Batch> {
  checkRows('evaluationBatches', tokens, T, B)
  checkStride('evaluationBatches', stride, T)
  const targets = tokens.length - 1
  const rows = targets > 0 ? 1 + Math.ceil(Math.max(0, targets - T) / stride) : 0
  for (let first = 0; first < rows; first += B) {
    yield rowsOf(
      tokens,
      Array.from({ length: Math.min(B, rows - first) }, (_, row) => (first + row) * stride),
      T,
      T - stride,
    )
  }
}

/** Of rows but the text's first one, so many characters have no target. */
function rowsOf(tokens: Int32Array, starts: readonly number[], T: number, context = 0): Batch {
  const B = starts.length
  const batch: Batch = { tokens: new Int32Array(B * T), targets: new Int32Array(B * T).fill(ignoredTarget), B, T, count: 0 }
  for (let row = 0; row < B; row++) {
    const start = starts[row]
    const end = Math.min(start + T, tokens.length - 1)
    const known = start > 0 ? context : 0
    batch.tokens.set(tokens.subarray(start, end), row * T)
    batch.targets.set(tokens.subarray(start + known + 1, end + 1), row * T + known)
    batch.count += end - start - known
  }
  return batch
}

function checkSampler(op: string, tokens: Int32Array, options: SamplerOptions): Required<SamplerOptions> {
  checkOptions(op, options, ['B', 'T', 'seed'])
  const { B, T, seed = 0 } = options
  checkRows(op, tokens, T, B)
  checkNumber(`${op}: seed`, seed, 'an integer')
  if (tokens.length <= T) throw new TextError(`the text is too short: sequences of ${T} need ${T + 1} characters, it has ${tokens.length}`)
  return { B, T, seed }
}

// --- Randomness -----------------------------------------------------------------------------------------------------------------------

function permutation(n: number, seed: number, epoch: number): Int32Array {
  const order = Int32Array.from({ length: n }, (_, i) => i)
  for (let i = n - 1; i > 0; i--) {
    const j = below(i + 1, seed, epoch, i, 1) // one counter more: another stream than the offsets'
    const swapped = order[i]
    order[i] = order[j]
    order[j] = swapped
  }
  return order
}

/** An integer from 0 to n - 1 (n up to 2^32), a function of the counters alone. */
function below(n: number, ...counters: number[]): number {
  let hash = 0x9e3779b9
  for (const counter of counters) {
    hash = mix(hash ^ (counter | 0))
    hash = mix(hash + Math.floor(counter / 2 ** 32))
  }
  return Math.floor((hash / 2 ** 32) * n)
}

/**
 * A bijection of 32-bit integers in which each bit of the input flips each bit of the output about half the time
 * (shifts and factors found by search: C. Wellons, hash-prospector).
 */
function mix(x: number): number {
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad)
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97)
  return (x ^ (x >>> 15)) >>> 0
}
