/**
 * The synthetic tasks of MAD: Poli et al. 2024, "Mechanistic Design and Scaling of Hybrid Architectures", whose code is athms/mad-lab. In the three
 * of recall training asks for the next token everywhere, and only a test (`valid` and `test`) for what can be known.
 *
 * Tests: test/tasks/.
 */
import { ignoredTarget } from '../nn/model.ts'
import { type Mersenne, mersenne } from './mersenne.ts'
import { wrongTargets } from './targets.ts'
import { type Example, exampleAt, type Split, type Task, task } from './task.ts'

const source = 'Poli et al. 2024; athms/mad-lab'

const field = {
  vocabulary: (symbols: number, min: number) =>
    ({ type: 'integer', default: symbols, min, sensible: 100_000, description: 'symbols' }) as const,
  length: (length: number, min: number) =>
    ({ type: 'integer', default: length, min, sensible: 100_000, description: 'places of a sequence' }) as const,
}

/** A whole sequence with the targets of each of its tokens as a model has them: each target one place earlier, the last token only a target. */
const shifted = (tokens: readonly number[], targets: readonly number[], split: Split): Example => ({
  inputs: Int32Array.from(tokens.slice(0, -1)),
  targets: Int32Array.from((split === 'train' ? tokens : targets).slice(1)),
})

/** What training expects of a sequence whose last token is `last`: each next token. */
const nextTokens = (inputs: Int32Array, last: number): Int32Array => Int32Array.from(inputs, (_, i) => inputs[i + 1] ?? last)

// --- Recall ---------------------------------------------------------------------------------------------------------------------------

export interface RecallSettings {
  vocabulary: number
  length: number
  noise: number
  noiseVocabulary: number
  multiQuery: boolean
}

function recall(title: string, defaults: Pick<RecallSettings, 'vocabulary' | 'noise' | 'noiseVocabulary'>): Task<RecallSettings> {
  /** How many symbols are keys or values: keys first, in the smaller half. */
  const plainOf = ({ vocabulary, noiseVocabulary, multiQuery }: RecallSettings): number =>
    vocabulary - noiseVocabulary - (multiQuery ? 0 : 1)

  return task<RecallSettings>({
    title,
    source,
    fields: {
      vocabulary: field.vocabulary(defaults.vocabulary, 2),
      length: field.length(128, 4),
      noise: { type: 'number', default: defaults.noise, min: 0, max: 0.999, description: 'share of the pairs that are noise' },
      noiseVocabulary: {
        type: 'integer',
        default: defaults.noiseVocabulary,
        min: 0,
        sensible: 100_000,
        description: 'symbols, the last ones, that are noise',
      },
      multiQuery: { type: 'boolean', default: true, description: 'every key that comes again is asked for, else only the last' },
    },
    options: {
      vocab_size: 'vocabulary',
      seq_len: 'length',
      frac_noise: 'noise',
      noise_vocab_size: 'noiseVocabulary',
      multi_query: 'multiQuery',
    },
    check(settings) {
      const { length, noise, noiseVocabulary } = settings
      if (length % 2 !== 0) throw new Error(`length must be even, not ${length}`)
      if (plainOf(settings) < 2)
        throw new Error(`vocabulary must be above ${settings.vocabulary}: a key and a value are needed beside ${noiseVocabulary} for noise`)
      if (noise > 0 && noiseVocabulary === 0) throw new Error('noiseVocabulary must be above 0 where there is noise')
    },
    symbols: ({ vocabulary }) => vocabulary,
    vocabulary(settings) {
      const n = plainOf(settings)
      const noise = settings.noiseVocabulary > 0 ? `, noise ${n}..${n + settings.noiseVocabulary - 1}` : ''
      const prompt = settings.multiQuery ? '' : `, ${settings.vocabulary - 1} before the last key`
      return `keys 0..${Math.floor(n / 2) - 1}, values ${Math.floor(n / 2)}..${n - 1}${noise}${prompt}`
    },
    pad: () => 0,
    fixed: true,
    draw(settings, split, random) {
      const { vocabulary, length, noise, noiseVocabulary, multiQuery } = settings
      const n = plainOf(settings)
      const keys = Math.floor(n / 2)
      const known = new Map<number, number>()
      const tokens: number[] = []
      const targets: number[] = []
      const pairs = length / 2 - 1
      // A pair that is never noise, so that there is a key to ask for.
      const kept = random.below(pairs)
      for (let i = 0; i < pairs; i++) {
        if (noise > 0 && i !== kept && random.random() < noise) {
          tokens.push(n + random.below(noiseVocabulary), n + random.below(noiseVocabulary))
          targets.push(ignoredTarget, ignoredTarget)
          continue
        }
        const key = random.below(keys)
        const seen = known.has(key)
        if (!seen) known.set(key, keys + random.below(n - keys))
        tokens.push(key, known.get(key)!)
        targets.push(ignoredTarget, seen && multiQuery ? known.get(key)! : ignoredTarget)
      }
      if (!multiQuery) {
        tokens.push(vocabulary - 1)
        targets.push(ignoredTarget)
      }
      const [key, value] = random.choice([...known])
      tokens.push(key, value)
      targets.push(ignoredTarget, value)
      return shifted(tokens, targets, split)
    },
    wrong(settings, example, split) {
      const { inputs } = example
      const { vocabulary, length, noise, multiQuery } = settings
      const n = plainOf(settings)
      const keys = Math.floor(n / 2)
      const T = multiQuery ? length - 1 : length
      if (inputs.length !== T) return `${inputs.length} places instead of ${T}`
      const expected = new Int32Array(T).fill(ignoredTarget)
      const known: number[] = []
      for (let i = 0; i < length - 2; i += 2) {
        const [first, second] = [inputs[i], inputs[i + 1]]
        if (first >= n) {
          if (noise === 0 || first >= n + settings.noiseVocabulary) return `place ${i}: ${first} isn't a key`
          if (second < n || second >= n + settings.noiseVocabulary)
            return `place ${i + 1}: ${second} isn't noise, as the token before it is`
          continue
        }
        if (first >= keys) return `place ${i}: the value ${first} stands where a key must`
        if (second < keys || second >= n) return `place ${i + 1}: ${second} isn't a value`
        if (known[first] !== undefined && known[first] !== second)
          return `place ${i + 1}: the key ${first} has the value ${second}, and had ${known[first]}`
        if (known[first] !== undefined && multiQuery) expected[i] = second
        known[first] = second
      }
      if (!multiQuery && inputs[T - 2] !== vocabulary - 1) return `place ${T - 2}: ${inputs[T - 2]} instead of ${vocabulary - 1}`
      const answer = known[inputs[T - 1]]
      if (answer === undefined) return `place ${T - 1}: ${inputs[T - 1]} is asked for, and was never shown`
      expected[T - 1] = answer
      return wrongTargets(example, split === 'train' ? nextTokens(inputs, answer) : expected)
    },
    metric: 'classes',
    chance: (settings) => 1 / Math.ceil(plainOf(settings) / 2),
  })
}

export const madInContextRecall = recall('the value of a key seen before', { vocabulary: 16, noise: 0, noiseVocabulary: 0 })
export const madNoisyRecall = recall('the value of a key seen before, among noise', { vocabulary: 32, noise: 0.2, noiseVocabulary: 16 })

export interface FuzzySettings {
  vocabulary: number
  length: number
  keyTokens: number
  valueTokens: number
  unanswerable: boolean
}

/** k of the n numbers from `first` on, none twice. */
const motif = (first: number, n: number, k: number, random: Mersenne): number[] => random.sample(n, k).map((token) => first + token)

export const madFuzzyRecall = task<FuzzySettings>({
  title: 'the value of a key seen before, each of several tokens',
  source,
  fields: {
    vocabulary: field.vocabulary(16, 3),
    length: field.length(128, 5),
    keyTokens: { type: 'integer', default: 3, min: 1, sensible: 100, description: 'tokens of a key at most, and of all in a test' },
    valueTokens: { type: 'integer', default: 3, min: 1, sensible: 100, description: 'tokens of a value at most' },
    unanswerable: { type: 'boolean', default: false, description: 'as published: 2 % of the last questions are for a key never shown' },
  },
  options: { vocab_size: 'vocabulary', seq_len: 'length', k_motif_size: 'keyTokens', v_motif_size: 'valueTokens' },
  published: { unanswerable: true },
  check({ vocabulary, length, keyTokens, valueTokens }) {
    const keys = Math.floor((vocabulary - 1) / 2)
    const values = vocabulary - 1 - keys
    if (keyTokens > keys) throw new Error(`keyTokens must be at most ${keys}, as many as there are, not ${keyTokens}`)
    if (valueTokens > values) throw new Error(`valueTokens must be at most ${values}, as many as there are, not ${valueTokens}`)
    if (length <= 2 * (keyTokens + valueTokens)) throw new Error(`length must be above ${2 * (keyTokens + valueTokens)}, not ${length}`)
  },
  symbols: ({ vocabulary }) => vocabulary,
  vocabulary({ vocabulary }) {
    const keys = Math.floor((vocabulary - 1) / 2)
    return `keys 0..${keys - 1}, values ${keys}..${vocabulary - 2}, pad ${vocabulary - 1} (on the left)`
  },
  pad: ({ vocabulary }) => vocabulary - 1,
  fixed: true,
  draw(settings, split, random) {
    const { vocabulary, length, keyTokens, valueTokens, unanswerable } = settings
    const pad = vocabulary - 1
    const keys = Math.floor(pad / 2)
    const drawKey = (): number[] => motif(0, keys, split === 'train' ? 1 + random.below(keyTokens) : keyTokens, random)
    const drawValue = (): number[] => motif(keys, pad - keys, 1 + random.below(valueTokens), random)
    for (;;) {
      const probe = drawKey()
      const answer = drawValue()
      const size = probe.length + answer.length
      const place = random.below(length - 2 * size)
      const tokens: number[] = []
      const targets: number[] = []
      const known = new Map<string, number[]>()
      const write = (key: number[], value: number[], asked: boolean): void => {
        tokens.push(...key, ...value)
        targets.push(...key.map(() => ignoredTarget), ...value.map((token) => (asked ? token : ignoredTarget)))
        known.set(`${key}`, value)
      }
      while (tokens.length < length - size - keyTokens - valueTokens) {
        if (tokens.length >= place && !known.has(`${probe}`)) {
          write(probe, answer, false)
          continue
        }
        const key = drawKey()
        const value = known.get(`${key}`)
        write(key, value ?? (`${key}` === `${probe}` ? answer : drawValue()), value !== undefined)
      }
      // The place may lie behind the last pair: published sequences ask for a key never shown then.
      if (!known.has(`${probe}`) && !unanswerable) continue
      write(probe, answer, true)
      const pads = Array.from({ length: length + 1 - tokens.length }, () => pad)
      return shifted([...pads, ...tokens], [...pads.map(() => ignoredTarget), ...targets], split)
    }
  },
  wrong(settings, example, split) {
    const { inputs, targets } = example
    const { vocabulary, length, keyTokens, valueTokens, unanswerable } = settings
    const pad = vocabulary - 1
    const firstValue = Math.floor(pad / 2)
    if (inputs.length !== length) return `${inputs.length} places instead of ${length}`
    const begin = inputs.findIndex((token) => token !== pad)
    const later = inputs.indexOf(pad, begin)
    if (begin < 0 || later >= 0) return `place ${later}: padding inside the sequence`
    if (begin > keyTokens + valueTokens + 1) return `${begin} places of padding, where ${keyTokens + valueTokens + 1} are the most`

    // Keys and values take turns: [begin, end) of each, the last value without its last token.
    const runs: [number, number][] = []
    for (let i = begin; i < length; i++) {
      const isKey = inputs[i] < firstValue
      if (i === begin && !isKey) return `place ${i}: a value without a key`
      if (i === begin || isKey !== inputs[i - 1] < firstValue) runs.push([i, i])
      runs[runs.length - 1][1] = i + 1
    }
    if (runs.length % 2 === 1) runs.push([length, length])
    const memory: Record<string, number[]> = {}
    const expected = new Int32Array(length).fill(ignoredTarget)
    for (let r = 0; r < runs.length; r += 2) {
      const [[keyBegin, keyEnd], [valueBegin, valueEnd]] = [runs[r], runs[r + 1]]
      const key = inputs.slice(keyBegin, keyEnd)
      const value = [...inputs.slice(valueBegin, valueEnd)]
      if (key.length > keyTokens || new Set(key).size < key.length) return `place ${keyBegin}: ${key} isn't a key`
      if (split !== 'train' && key.length < keyTokens) return `place ${keyBegin}: the key ${key} has fewer tokens than ${keyTokens}`
      const known = memory[key.join()]
      if (r < runs.length - 2) {
        if (value.length > valueTokens || new Set(value).size < value.length) return `place ${valueBegin}: ${value} isn't a value`
        if (known === undefined) memory[key.join()] = value
        else if (known.join() !== value.join()) return `place ${valueBegin}: the key ${key} has the value ${value}, and had ${known}`
        else expected.set(value, valueBegin - 1)
        continue
      }
      let answer = known
      if (answer === undefined) {
        if (!unanswerable) return `place ${keyBegin}: the key ${key} is asked for, and was never shown`
        // Only its last token can't be told.
        answer = [...value, targets[length - 1]]
        if (answer.length > valueTokens || new Set(answer).size < answer.length || !answer.every((x) => x >= firstValue && x < pad))
          return `place ${valueBegin}: ${answer} isn't a value`
      }
      if (answer.slice(0, -1).join() !== value.join())
        return `place ${valueBegin}: the key ${key} has the value ${value} ., and had ${answer}`
      expected.set(answer, valueBegin - 1)
    }
    return wrongTargets(example, split === 'train' ? nextTokens(inputs, expected[length - 1]) : expected)
  },
  metric: 'classes',
  chance: ({ vocabulary }) => 1 / Math.ceil((vocabulary - 1) / 2),
})

// --- Memorisation ---------------------------------------------------------------------------------------------------------------------

export interface MemorizationSettings {
  vocabulary: number
  length: number
  mapSeed: number
}

/** The one map of all sequences, key by key in the order drawn: keys are the smaller half of all symbols but the last. */
function fixedMap({ vocabulary, mapSeed }: MemorizationSettings): Int32Array {
  const random = mersenne([mapSeed])
  const keys = Math.floor((vocabulary - 1) / 2)
  const order = random.sample(keys, keys)
  const values = random.sample(vocabulary - 1 - keys, keys)
  return Int32Array.from(order.flatMap((key, i) => [key, keys + values[i]]))
}

let lastMap: { of: string; map: Int32Array } | undefined
/** It's the same for every sequence, and dear for one. */
function mapOf(settings: MemorizationSettings): Int32Array {
  const of = `${settings.vocabulary} ${settings.mapSeed}`
  if (lastMap?.of !== of) lastMap = { of, map: fixedMap(settings) }
  return lastMap.map
}

export const madMemorization = task<MemorizationSettings>({
  title: 'values of keys that are the same in all sequences',
  source,
  fields: {
    vocabulary: field.vocabulary(256, 3),
    length: field.length(32, 2),
    mapSeed: { type: 'integer', default: 12345, min: 0, max: 0xffffffff, description: 'of the values of the keys' },
  },
  options: { vocab_size: 'vocabulary', seq_len: 'length' },
  check({ length }) {
    if (length % 2 !== 0) throw new Error(`length must be even, not ${length}`)
  },
  symbols: ({ vocabulary }) => vocabulary,
  vocabulary({ vocabulary: V }) {
    const keys = Math.floor((V - 1) / 2)
    return `keys 0..${keys - 1}, values ${keys}..${V - 2}, ${V - 1} where a value is asked for; kv_map lists key, value`
  },
  pad: ({ vocabulary }) => vocabulary - 1,
  fixed: true,
  tables: { kv_map: mapOf },
  draw(settings, _, random) {
    const map = mapOf(settings)
    const asked: [number, number][] = []
    const inputs = Array.from({ length: settings.length }, (_, i) => {
      if (i % 2 === 1) return settings.vocabulary - 1
      const row = random.below(map.length / 2)
      asked.push([i + 1, map[2 * row + 1]])
      return map[2 * row]
    })
    return exampleAt(inputs, asked)
  },
  wrong(settings, example, _, tables = {}) {
    const { inputs } = example
    const { vocabulary, length } = settings
    const map = tables.kv_map ?? mapOf(settings)
    const keys = Math.floor((vocabulary - 1) / 2)
    const [from, to] = [0, 1].map((column) => map.filter((_, i) => i % 2 === column))
    if (from.length !== keys || new Set(from).size < keys || from.some((key) => key < 0 || key >= keys))
      return `the map isn't one of each of the keys 0 to ${keys - 1}`
    if (new Set(to).size < keys || to.some((value) => value < keys || value > vocabulary - 2))
      return `the map isn't one to one into the values ${keys} to ${vocabulary - 2}`
    if (inputs.length !== length) return `${inputs.length} places instead of ${length}`
    const expected = new Int32Array(length).fill(ignoredTarget)
    for (let i = 0; i < length; i += 2) {
      const row = from.indexOf(inputs[i])
      if (row < 0) return `place ${i}: ${inputs[i]} isn't a key`
      if (inputs[i + 1] !== vocabulary - 1) return `place ${i + 1}: ${inputs[i + 1]} instead of ${vocabulary - 1}`
      expected[i + 1] = to[row]
    }
    return wrongTargets(example, expected)
  },
  metric: 'classes',
  chance: ({ vocabulary }) => 1 / Math.ceil((vocabulary - 1) / 2),
})

// --- Compression ----------------------------------------------------------------------------------------------------------------------

export interface CompressionSettings {
  vocabulary: number
  length: number
}

export const madCompression = task<CompressionSettings>({
  title: 'a whole sequence from its last token',
  source,
  fields: { vocabulary: field.vocabulary(16, 2), length: field.length(32, 2) },
  options: { vocab_size: 'vocabulary', seq_len: 'length' },
  symbols: ({ vocabulary }) => vocabulary,
  vocabulary: ({ vocabulary }) => `symbols 0..${vocabulary - 2}, ${vocabulary - 1} last`,
  pad: ({ vocabulary }) => vocabulary - 1,
  fixed: true,
  fromLast: true,
  draw({ vocabulary, length }, _, random) {
    const inputs = Array.from({ length }, (_, i) => (i < length - 1 ? random.below(vocabulary - 1) : vocabulary - 1))
    return exampleAt(inputs, inputs.entries())
  },
  wrong({ vocabulary, length }, example) {
    const { inputs } = example
    if (inputs.length !== length) return `${inputs.length} places instead of ${length}`
    const last = inputs.indexOf(vocabulary - 1)
    if (last !== length - 1) return `place ${last < 0 ? length - 1 : last}: ${vocabulary - 1} must stand at the end, and only there`
    return wrongTargets(example, inputs)
  },
  metric: 'classes',
  chance: ({ vocabulary }) => 1 / vocabulary,
})

// --- Copying --------------------------------------------------------------------------------------------------------------------------

export interface CopySettings {
  vocabulary: number
  length: number
  copied: number
}

const copying = (selective: boolean): Task<CopySettings> =>
  task<CopySettings>({
    title: selective ? 'symbols in their order, blanks between them left out' : 'symbols after a gap, in their order',
    source,
    fields: {
      vocabulary: field.vocabulary(16, 3),
      length: field.length(256, 4),
      copied: { type: 'integer', default: 16, min: 1, sensible: 50_000, description: 'symbols to copy' },
    },
    options: { vocab_size: 'vocabulary', seq_len: 'length', num_tokens_to_copy: 'copied' },
    check({ length, copied }) {
      if (length <= 2 * copied + 1)
        throw new Error(`length must be above ${2 * copied + 1} for ${copied} symbols and their copies, not ${length}`)
    },
    symbols: ({ vocabulary }) => vocabulary,
    vocabulary: ({ vocabulary: V }) => `symbols 0..${V - 3}, blank ${V - 2}, ${V - 1} before the copy`,
    pad: ({ vocabulary }) => vocabulary - 2,
    fixed: true,
    draw({ vocabulary, length, copied }, _, random) {
      const blank = vocabulary - 2
      const symbols = Array.from({ length: copied }, () => random.below(blank))
      const blanks = length - 2 * copied - 1
      // How many blanks stand before each symbol; behind the last none ever does where there is a choice.
      const before = Array.from({ length: copied }, () => 0)
      if (selective) for (let i = 0; i < blanks; i++) before[random.below(copied)]++
      const inputs = symbols.flatMap((symbol, i) => [...Array.from({ length: before[i] }, () => blank), symbol])
      while (inputs.length < copied + blanks) inputs.push(blank)
      inputs.push(vocabulary - 1, ...symbols.map(() => blank))
      return exampleAt(
        inputs,
        symbols.map((symbol, i) => [length - copied + i, symbol]),
      )
    },
    wrong({ vocabulary, length, copied }, example) {
      const { inputs } = example
      const [blank, signal] = [vocabulary - 2, vocabulary - 1]
      if (inputs.length !== length) return `${inputs.length} places instead of ${length}`
      const at = inputs.indexOf(signal)
      if (at !== length - copied - 1) return `the token ${signal} must stand at place ${length - copied - 1}, not ${at}`
      const behind = inputs.findIndex((token, i) => i > at && token !== blank)
      if (behind >= 0) return `place ${behind}: ${inputs[behind]} instead of a blank`
      const shown = inputs.slice(0, at).filter((token) => token !== blank)
      if (shown.length !== copied) return `${shown.length} symbols to copy instead of ${copied}`
      if (selective && inputs[at - 1] === blank) return `place ${at - 1}: a blank behind the last symbol`
      if (!selective && inputs.indexOf(blank) < copied) return `place ${inputs.indexOf(blank)}: a blank between the symbols`
      const expected = new Int32Array(length).fill(ignoredTarget)
      expected.set(shown, length - copied)
      return wrongTargets(example, expected)
    },
    metric: 'classes',
    chance: ({ vocabulary }) => 1 / (vocabulary - 2),
  })

export const madSelectiveCopy = copying(true)
export const madCopy = copying(false)
