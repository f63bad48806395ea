/**
 * Multi-query associative recall: pairs of a key and a value, and later every key once, its value asked for where it stands. Arora et al. 2023
 * (Zoology), appendix.
 *
 *   k_1 v_1 ... k_K v_K . . k_2 . . . k_1 ...        keys 1 ... V/2-1, values V/2 ... V-1; queries at even places, fillers elsewhere
 *
 * Tests: test/tasks/.
 */
import { exampleAt, type Task, task } from './task.ts'

export interface MqarSettings {
  vocabulary: number
  length: number
  pairs: number
  power: number
  randomFillers: boolean
}

const mqarOf = (randomFillers: boolean): Task<MqarSettings> =>
  task<MqarSettings>({
    title: `recall of several keys among ${randomFillers ? 'random' : 'empty'} fillers`,
    source: 'Arora et al. 2023; HazyResearch/zoology',
    fields: {
      vocabulary: { type: 'integer', default: 8192, min: 4, sensible: 1_000_000, description: 'symbols' },
      length: { type: 'integer', default: 64, min: 4, sensible: 100_000, description: 'places of a sequence' },
      pairs: { type: 'integer', default: 4, min: 1, sensible: 25_000, description: 'pairs of a key and a value' },
      power: {
        type: 'number',
        default: 0.01,
        min: 0,
        max: 10,
        description: 'slot i is drawn by the weight i^(power - 1): near 0 asks early',
      },
      randomFillers: { type: 'boolean', default: randomFillers, description: 'fillers are any symbols, keys and values too, else 0' },
    },
    options: {
      vocab_size: 'vocabulary',
      input_seq_len: 'length',
      num_kv_pairs: 'pairs',
      power_a: 'power',
      random_non_queries: 'randomFillers',
    },
    check({ vocabulary, length, pairs }) {
      if (length % 2 !== 0) throw new Error(`length must be even, not ${length}`)
      if (4 * pairs > length) throw new Error(`pairs must be at most ${Math.floor(length / 4)}, a quarter of the length, not ${pairs}`)
      if (vocabulary <= length || vocabulary % 2 !== 0)
        throw new Error(`vocabulary must be even and more than the length ${length}, not ${vocabulary}`)
    },
    symbols: ({ vocabulary }) => vocabulary,
    vocabulary: ({ vocabulary: V, randomFillers }) =>
      `keys 1..${V / 2 - 1}, values ${V / 2}..${V - 1}, fillers ${randomFillers ? `uniform 0..${V - 1}` : '0'}`,
    pad: () => 0,
    fixed: true,
    draw({ vocabulary: V, length, pairs: K, power, randomFillers }, _, random) {
      const keys = random.sample(V / 2 - 1, K).map((key) => key + 1)
      const values = random.sample(V / 2, K).map((value) => V / 2 + value)
      const inputs = Array.from({ length }, () => (randomFillers ? random.below(V) : 0))
      const weights = Array.from({ length: length / 2 - K }, (_, slot) => (slot + 1) ** (power - 1))
      let left = weights.reduce((sum, weight) => sum + weight, 0)
      const asked: [number, number][] = []
      for (let i = 0; i < K; i++) {
        inputs[2 * i] = keys[i]
        inputs[2 * i + 1] = values[i]
        let rest = random.random() * left
        let slot = weights.findIndex((weight) => (rest -= weight) < 0)
        if (slot < 0) slot = weights.findLastIndex((weight) => weight > 0) // the sum's rounding
        left -= weights[slot]
        weights[slot] = 0
        inputs[2 * (K + slot)] = keys[i]
        asked.push([2 * (K + slot), values[i]])
      }
      return exampleAt(inputs, asked)
    },
    wrong({ vocabulary: V, length, pairs: K, randomFillers }, { inputs, targets }) {
      if (inputs.length !== length) return `${inputs.length} places instead of ${length}`
      const memory = new Map<number, number>()
      const written = new Set<number>()
      for (let i = 0; i < 2 * K; i += 2) {
        const [key, value] = [inputs[i], inputs[i + 1]]
        if (key < 1 || key >= V / 2) return `place ${i}: ${key} isn't a key`
        if (value < V / 2) return `place ${i + 1}: ${value} isn't a value`
        if (memory.has(key)) return `place ${i}: the key ${key} comes again`
        if (written.has(value)) return `place ${i + 1}: the value ${value} comes again`
        memory.set(key, value)
        written.add(value)
      }
      const left = new Set(memory.keys())
      for (let i = 0; i < length; i++) {
        if (targets[i] < 0) {
          if (i >= 2 * K && !randomFillers && inputs[i] !== 0) return `place ${i}: the filler is ${inputs[i]} instead of 0`
          continue
        }
        if (i < 2 * K || i % 2 !== 0) return `place ${i}: the target is ${targets[i]}, where the rule has none`
        const value = memory.get(inputs[i])
        if (value === undefined) return `place ${i}: ${inputs[i]} is asked for, and isn't one of the keys`
        if (!left.delete(inputs[i])) return `place ${i}: the key ${inputs[i]} is asked for again`
        if (targets[i] !== value) return `place ${i}: the target is ${targets[i]}, where the rule has ${value}`
      }
      return left.size === 0 ? undefined : `the key ${[...left][0]} is never asked for`
    },
    metric: 'share of each sequence',
    // One of the values shown.
    chance: ({ pairs }) => 1 / pairs,
  })

export const mqar = mqarOf(false)
export const mqarRandom = mqarOf(true)
