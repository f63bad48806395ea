/**
 * Associative retrieval: pairs of a key and a value, and then a key whose last value is asked for. Schlag, Irie & Schmidhuber 2021, section 6.1.
 *
 *   k_1 v_1 ... k_L v_L q        keys 0 ... S-1, values S ... 2S-1; the target stands at q
 *
 * Tests: test/tasks/.
 */
import type { Mersenne } from './mersenne.ts'
import { wrongTargets } from './targets.ts'
import { type Example, exampleAt, type Split, type Task, task } from './task.ts'

export interface RetrievalSettings {
  keys: number
  pairs: number
}

/** What an evaluation asks of one sequence at most. */
const mostQuestions = 200

/** `again`: keys are drawn with replacement, and so are values. */
function retrieval(again: boolean): Task<RetrievalSettings> {
  const pairsOf = ({ keys, pairs }: RetrievalSettings): number => pairs || (again ? 2 * keys : keys)
  // The published evaluation is shorter than training in setting 2, and so easier.
  const lengthOf = (settings: RetrievalSettings, split: Split): number => (split === 'train' ? pairsOf(settings) : settings.keys)

  const list = (n: number, length: number, random: Mersenne): number[] =>
    again ? Array.from({ length }, () => random.below(n)) : random.sample(n, length)
  const drawPairs = (S: number, L: number, random: Mersenne): [keys: number[], values: number[]] => [
    list(S, L, random),
    list(S, L, random).map((value) => S + value),
  ]
  const ask = (keys: readonly number[], values: readonly number[], query: number): Example => {
    const inputs = [...keys.flatMap((key, i) => [key, values[i]]), query]
    return exampleAt(inputs, [[inputs.length - 1, values[keys.lastIndexOf(query)]]])
  }

  return task<RetrievalSettings>({
    title: again ? 'retrieval where a key comes again with a new value' : 'retrieval where each key comes once',
    source: 'Schlag, Irie & Schmidhuber 2021; ischlag/fast-weight-transformers',
    fields: {
      keys: { type: 'integer', default: 20, min: 1, sensible: 10_000, description: 'keys, and as many values' },
      pairs: {
        type: 'integer',
        default: 0,
        min: 0,
        sensible: 100_000,
        description: `pairs of a key and a value${again ? '; 0 for twice as many as keys' : '; 0 for as many as keys'}`,
      },
    },
    options: { n_keys: 'keys', seq_len: 'pairs' },
    check(settings) {
      if (!again && pairsOf(settings) > settings.keys)
        throw new Error(`pairs must be at most ${settings.keys}, as many as there are keys, not ${settings.pairs}: none comes again`)
    },
    symbols: ({ keys }) => 2 * keys,
    vocabulary: ({ keys }) => `keys 0..${keys - 1}, values ${keys}..${2 * keys - 1}; inputs are [keys, values] in order of writing`,
    pad: () => 0,
    fixed: true,
    layout: 'pairs',
    // Training asks for the key at a uniform place, so the more often the more often it stands there; an evaluation for each key once.
    draw(settings, split, random) {
      const [keys, values] = drawPairs(settings.keys, lengthOf(settings, split), random)
      return ask(keys, values, random.choice(split === 'train' ? keys : [...new Set(keys)]))
    },
    set(settings, split, random, n) {
      if (split === 'train') return Array.from({ length: n }, () => this.draw(settings, split, random))
      const examples: Example[] = []
      while (examples.length < n) {
        const [keys, values] = drawPairs(settings.keys, lengthOf(settings, split), random)
        const questions = [...new Set(keys)].sort((a, b) => a - b).slice(0, mostQuestions)
        examples.push(...questions.map((query) => ask(keys, values, query)))
      }
      return examples.slice(0, n)
    },
    wrong(settings, example, split) {
      const { inputs } = example
      const S = settings.keys
      const L = lengthOf(settings, split)
      if (inputs.length !== 2 * L + 1) return `${inputs.length} places, where ${L} pairs and a query take ${2 * L + 1}`
      const memory = new Map<number, number>()
      const written = new Set<number>()
      for (let i = 0; i < 2 * L; i += 2) {
        const [key, value] = [inputs[i], inputs[i + 1]]
        if (key >= S) return `place ${i}: ${key} isn't a key`
        if (value < S) return `place ${i + 1}: ${value} isn't a value`
        if (!again && memory.has(key)) return `place ${i}: the key ${key} comes again`
        if (!again && written.has(value)) return `place ${i + 1}: the value ${value} comes again`
        memory.set(key, value)
        written.add(value)
      }
      const answer = memory.get(inputs[2 * L])
      if (answer === undefined) return `place ${2 * L}: ${inputs[2 * L]} was never written`
      return wrongTargets(example, exampleAt(inputs, [[2 * L, answer]]).targets)
    },
    metric: 'places',
    chance: ({ keys }) => 1 / keys,
  })
}

export const retrieval1 = retrieval(false)
export const retrieval2 = retrieval(true)
