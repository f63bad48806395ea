/** A tokenizer.json of eleven tokens. */

/** Pairs of bytes as GPT-2's: é is of two, and a blank belongs to what comes after it. */
export const byteLevel = {
  version: '1.0',
  added_tokens: [{ id: 7, content: '<end>', single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }],
  normalizer: null,
  pre_tokenizer: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
  post_processor: null,
  decoder: { type: 'ByteLevel' },
  model: {
    type: 'BPE',
    vocab: { a: 0, b: 1, Ġ: 2, ab: 3, Ġab: 4, Ã: 5, '©': 6, '<end>': 7, Ġb: 8, c: 9, d: 10 },
    merges: ['a b', 'Ġ ab', 'Ġ b'],
  },
}
