/**
 * Texts as a tokenizer.json of Hugging Face's has them: read by their own library, which is loaded when a tokenizer is opened; and our vocabularies written as
 * one, so that their loaders read what is exported here. Tests: test/tasks/tokenizer.test.ts.
 */
import { clip, printable } from '../nn/foreign.ts'
import { reason } from './reason.ts'
import { TextError, type Vocabulary } from './text.ts'
import { endOfLine, unknownWord } from './words.ts'

export const tokenizerName = 'tokenizer.json'
const settingsName = 'tokenizer_config.json'

/** Texts to tokens and back. */
export type Codec = Pick<Vocabulary, 'encode' | 'decode'>

/** What a tokenizer's files hold, by their names: `tokenizer.json`, and `tokenizer_config.json` where there is one. Throws a TextError. */
export async function openTokenizer(files: ReadonlyMap<string, Uint8Array>): Promise<Codec> {
  const { Tokenizer } = await import('@huggingface/tokenizers')
  const settings = files.has(settingsName) ? parse(settingsName, files.get(settingsName)) : {}
  const content = parse(tokenizerName, files.get(tokenizerName))
  const carry = <R>(what: string, run: () => R): R => {
    try {
      return run()
    } catch (error) {
      throw new TextError(`${tokenizerName}: ${what}: ${clip(printable(reason(error)), 200)}`)
    }
  }
  // Left out, it is false since version 5 of transformers; the library has the true of before.
  const tokenizer = carry("it can't be used", () => new Tokenizer(content, { clean_up_tokenization_spaces: false, ...settings }))
  return {
    encode(text) {
      const shown = printable(JSON.stringify(clip(text, 40)))
      const { ids }: { ids: number[] } = carry(`can't encode ${shown}`, () => tokenizer.encode(text))
      if (!ids.every(Number.isInteger)) throw new TextError(`${tokenizerName}: it has no token for a piece of ${shown}`)
      const bad = ids.find((id) => id < 0 || id > 0x7fffffff)
      if (bad !== undefined) throw new TextError(`${tokenizerName}: it has a token ${bad}, where tokens are 0 to 2147483647`)
      return Int32Array.from(ids)
    },
    /** Without special tokens. */
    decode: (tokens) =>
      tokens.length === 0 ? '' : carry("can't decode", () => tokenizer.decode(Array.from(tokens), { skip_special_tokens: true })),
  }
}

function parse(name: string, bytes: Uint8Array | undefined): object {
  let value: unknown
  try {
    value = JSON.parse(new TextDecoder().decode(bytes))
  } catch (error) {
    throw new TextError(`${name} isn't JSON: ${clip(printable(reason(error)))}`)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new TextError(`${name} isn't an object`)
  return value
}

/**
 * What comes of a token at a time: the text of each as soon as it is whole. Tokens of one character may be several, and what a token says may hang on the
 * one before it, so that pieces are told by what they add to those just before.
 */
export function telling({ decode }: Codec, before: ArrayLike<number>): { add(token: number): string; end(): string } {
  const tokens = Array.from(before).slice(-8)
  let [start, told] = [0, tokens.length]
  const rest = (): string => decode(tokens.slice(start)).slice(decode(tokens.slice(start, told)).length)
  return {
    add(token) {
      tokens.push(token)
      const text = rest()
      if (text === '' || text.endsWith('\ufffd')) return ''
      ;[start, told] = [told, tokens.length]
      return text
    },
    end: rest,
  }
}

/**
 * A vocabulary as tokenizer.json and tokenizer_config.json: the same tokens for every text, but that unknown characters are an error of the loader's own
 * and that no text at all is a line of words. Its words aren't cut: a prefix of pieces that no text has, a blank, keeps the model to whole ones.
 */
export function tokenizerFiles({ symbols }: Pick<Vocabulary, 'symbols'>): Map<string, Uint8Array> {
  const ofWords = symbols.includes(endOfLine)
  const vocab = Object.fromEntries(symbols.map((symbol, token) => [symbol, token]))
  const end = { [endOfLine]: { id: endOfLine, ids: [vocab[endOfLine]], tokens: [endOfLine] } }
  const shape = ofWords
    ? {
        normalizer: sequence('normalizers', replace('\\n(?![\\s\\S])', ''), replace('\\n', ` ${endOfLine} `)),
        pre_tokenizer: split('\\s+', 'Removed'),
        post_processor: {
          type: 'TemplateProcessing',
          single: [{ Sequence: { id: 'A', type_id: 0 } }, { SpecialToken: { id: endOfLine, type_id: 0 } }],
          pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
          special_tokens: end,
        },
        decoder: sequence(
          'decoders',
          { type: 'WordPiece', prefix: ' ', cleanup: false },
          { type: 'Fuse' },
          replace(` ?${endOfLine} ?`, '\n'),
        ),
      }
    : { normalizer: null, pre_tokenizer: split('[\\s\\S]', 'Isolated'), post_processor: null, decoder: { type: 'Fuse' } }
  const model = {
    type: 'WordPiece',
    unk_token: unknownWord,
    continuing_subword_prefix: ' ',
    max_input_chars_per_word: 100_000,
    vocab,
  }
  // No token of it is special: lines have ends that texts go on after, and what is unknown is shown.
  const settings = { tokenizer_class: 'PreTrainedTokenizerFast', clean_up_tokenization_spaces: false }
  const json = (value: object): Uint8Array => new TextEncoder().encode(`${JSON.stringify(value, null, 2)}\n`)
  return new Map([
    [tokenizerName, json({ version: '1.0', truncation: null, padding: null, added_tokens: [], ...shape, model })],
    [settingsName, json(settings)],
  ])
}

const sequence = (of: 'normalizers' | 'decoders', ...steps: object[]): object => ({ type: 'Sequence', [of]: steps })
const replace = (regex: string, content: string): object => ({ type: 'Replace', pattern: { Regex: regex }, content })
const split = (regex: string, behavior: 'Removed' | 'Isolated'): object => ({
  type: 'Split',
  pattern: { Regex: regex },
  behavior,
  invert: false,
})
