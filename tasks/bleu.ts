/**
 * BLEU (Papineni 2002) as sacrebleu 2.6.0 defines it (Post 2018): counts of 1- to 4-grams over a corpus, clipped by the references', a brevity
 * penalty, tokenisers and smoothing. Tests: test/tasks/bleu.test.ts, against its own figures.
 */
import { checkFlag, checkNumber, checkOptions, told } from '../engine/arguments.ts'
import { checkChoice } from '../nn/fields.ts'

/** Options of `corpusBleu` and `sentenceBleu`. */
export interface BleuOptions {
  /** 13a, that of WMT, by default. */
  tokenizer?: BleuTokenizer
  /** Whether case counts: false by default, so that it does. */
  lowercase?: boolean
  /** What an order of n-grams counts as of which none matches: exp by default. */
  smoothing?: BleuSmoothing
  /** Of floor, 0.1 by default: the matches where there are none; of add-k, 1 by default: what is added to matches and n-grams from 2-grams on. */
  smoothingValue?: number
  /** Leaves out orders that the answer is too short for: by default in a sentence, and not in a corpus. */
  effectiveOrder?: boolean
}

/** A BLEU score, and what it is made of. */
export interface Bleu {
  /** 0 to 100. */
  score: number
  /** 1- to 4-grams of the answers that match. */
  counts: number[]
  /** All 1- to 4-grams of the answers. */
  totals: number[]
  /** The ratios of the two, smoothed, 0 to 100. */
  precisions: number[]
  /** What the mean of precisions is multiplied by where answers are shorter than their references; at most 1. */
  brevityPenalty: number
  /** Tokens of the answers. */
  length: number
  /** Tokens of the references that are closest in length. */
  referenceLength: number
}

const orders = 4

// --- Tokenisers -----------------------------------------------------------------------------------------------------------------------

/** White space as Python has it: str.split and str.rstrip. */
const space = '[\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000]'
const spaces = new RegExp(`${space}+`, 'u')
const spacesAtEnd = new RegExp(`${space}+$`, 'u')
const words = (line: string): string[] => line.split(spaces).filter((word) => word !== '')

/** From a line without white space at its end to what is split there. */
const tokenizers = {
  none: (line: string) => line,
  /** mteval-v13a of WMT. */
  '13a': (line: string) =>
    ` ${line
      .replaceAll('<skipped>', '')
      .replaceAll('-\n', '')
      .replaceAll('\n', ' ')
      .replaceAll('&quot;', '"')
      .replaceAll('&amp;', '&')
      .replaceAll('&lt;', '<')
      .replaceAll('&gt;', '>')} `
      .replace(/[!-&(-+/:-@[-`{-~]/g, ' $& ') // all of ASCII's but ' , - .
      .replace(/([^0-9])([.,])/gu, '$1 $2 ')
      .replace(/([.,])([^0-9])/gu, ' $1 $2')
      .replace(/([0-9])(-)/gu, '$1 $2 '),
  /** mteval-v14's international one: punctuation beside what is no digit, and symbols. */
  intl: (line: string) =>
    line
      .replace(/(\P{N})(\p{P})/gu, '$1 $2 ')
      .replace(/(\p{P})(\P{N})/gu, ' $1 $2')
      .replace(/\p{S}/gu, ' $& '),
  char: (line: string) => [...line].join(' '),
} satisfies Record<string, (line: string) => string>

/** How a line is split into tokens before they are counted. */
export type BleuTokenizer = keyof typeof tokenizers

/** A line's tokens. */
export function bleuTokens(line: string, tokenizer: BleuTokenizer = '13a'): string[] {
  checkChoice('tokenizer', tokenizer, tokenizers)
  return words(tokenizers[tokenizer](line.replace(spacesAtEnd, '')))
}

// --- Smoothing ------------------------------------------------------------------------------------------------------------------------

/** A precision where nothing matches: of `total` n-grams, where `before` shorter orders have no match either. */
const smoothings = {
  none: () => 0,
  exp: (total: number, before: number) => 1 / (2 ** (before + 1) * total),
  floor: (total: number, _: number, value: number) => value / total,
  'add-k': () => 0,
} satisfies Record<string, (total: number, before: number, value: number) => number>

/** How an order of n-grams counts of which none matches. */
export type BleuSmoothing = keyof typeof smoothings
const smoothingValues: Partial<Record<BleuSmoothing, number>> = { floor: 0.1, 'add-k': 1 }

// --- Scores ---------------------------------------------------------------------------------------------------------------------------

/** How often each n-gram stands there, of every order; no token has white space in it. */
function ngrams(tokens: readonly string[]): Map<string, number>[] {
  return Array.from({ length: orders }, (_, i) => {
    const counts = new Map<string, number>()
    for (let at = 0; at + i < tokens.length; at++) {
      const ngram = tokens.slice(at, at + i + 1).join(' ')
      counts.set(ngram, (counts.get(ngram) ?? 0) + 1)
    }
    return counts
  })
}

/** The score of a whole corpus: `references` has a list for each answer, of one or more. */
export function corpusBleu(answers: readonly string[], references: readonly (readonly string[])[], options: BleuOptions = {}): Bleu {
  checkOptions('corpusBleu', options, ['tokenizer', 'lowercase', 'smoothing', 'smoothingValue', 'effectiveOrder'])
  const { tokenizer = '13a', lowercase = false, smoothing = 'exp', effectiveOrder = false } = options
  checkChoice('tokenizer', tokenizer, tokenizers)
  checkChoice('smoothing', smoothing, smoothings)
  checkFlag('lowercase', lowercase)
  checkFlag('effectiveOrder', effectiveOrder)
  const value = options.smoothingValue ?? smoothingValues[smoothing] ?? 0
  checkNumber('smoothingValue', value, '0 or more')
  if (options.smoothingValue !== undefined && smoothingValues[smoothing] === undefined)
    throw new Error(`smoothingValue = ${value} means nothing here: it belongs to smoothing = ${Object.keys(smoothingValues).join(' or ')}`)
  checkTexts(answers, references)

  const tokensOf = (line: string): string[] => bleuTokens(lowercase ? line.toLowerCase() : line, tokenizer)
  const counts = new Array<number>(orders).fill(0)
  const totals = new Array<number>(orders).fill(0)
  let length = 0
  let referenceLength = 0
  for (const [i, answer] of answers.entries()) {
    const tokens = tokensOf(answer)
    const others = references[i].map(tokensOf)
    length += tokens.length
    // The closest one, of equally close the shorter.
    const lengths = others.map((other) => other.length).sort((a, b) => Math.abs(a - tokens.length) - Math.abs(b - tokens.length) || a - b)
    referenceLength += lengths[0]
    const most = others.map(ngrams)
    for (const [order, found] of ngrams(tokens).entries())
      for (const [ngram, count] of found) {
        totals[order] += count
        counts[order] += Math.min(count, Math.max(...most.map((known) => known[order].get(ngram) ?? 0)))
      }
  }
  const brevityPenalty = length >= referenceLength ? 1 : length > 0 ? Math.exp(1 - referenceLength / length) : 0
  const precisions = precisionsOf(counts, totals, smoothing, value)
  const used = effectiveOrder ? precisions.length : orders
  // An order that is 0, or isn't there, leaves nothing of the geometric mean.
  const complete = precisions.length >= used && precisions.every((precision) => precision > 0) && used > 0
  const score = complete ? brevityPenalty * Math.exp(precisions.reduce((total, precision) => total + Math.log(precision), 0) / used) : 0
  while (precisions.length < orders) precisions.push(0)
  return { score, counts, totals, precisions, brevityPenalty, length, referenceLength }
}

/** Of the orders up to the first that has no n-grams; none where nothing matches at all. */
function precisionsOf(counts: readonly number[], totals: readonly number[], smoothing: BleuSmoothing, value: number): number[] {
  const precisions: number[] = []
  if (counts.every((count) => count === 0)) return precisions
  let without = 0
  for (let order = 0; order < orders; order++) {
    const more = smoothing === 'add-k' && order > 0 ? value : 0
    const [count, total] = [counts[order] + more, totals[order] + more]
    if (total === 0) break
    precisions.push(100 * (count > 0 ? count / total : smoothings[smoothing](total, without++, value)))
  }
  return precisions
}

/** The score of one answer, by one reference or several. */
export const sentenceBleu = (answer: string, references: readonly string[], options: BleuOptions = {}): Bleu =>
  corpusBleu([answer], [references], { effectiveOrder: true, ...options })

function checkTexts(answers: unknown, references: unknown): void {
  const list = (what: string, texts: unknown): readonly unknown[] => {
    if (!Array.isArray(texts) || texts.length === 0) throw new Error(`corpusBleu: ${what} must be a list of texts, not ${told(texts)}`)
    return texts
  }
  const text = (what: string, one: unknown): void => {
    if (typeof one !== 'string') throw new Error(`corpusBleu: ${what} must be a text, not ${told(one)}`)
  }
  for (const [i, answer] of list('the answers', answers).entries()) text(`answer ${i}`, answer)
  if (!Array.isArray(references) || references.length !== (answers as unknown[]).length)
    throw new Error(`corpusBleu: needs a list of references for each of ${(answers as unknown[]).length} answers, not ${told(references)}`)
  for (const [i, one] of references.entries())
    for (const reference of list(`the references of answer ${i}`, one)) text(`a reference of answer ${i}`, reference)
}
