/** What the contenders of the benchmark of the rules are given: the same numbers in every process. */

/** Every contender first runs at this length, until V8 has optimised what it runs and its forms have been compared. */
export const short = 64

/** Of values alike: uniform in [from, to), or rows of length 1 whose entries are. */
const ranges = {
  any: { from: -1, to: 1 },
  key: { from: -1, to: 1, unit: true },
  'unit key': { from: -1, to: 1, unit: true },
  feature: { from: 0, to: 1, unit: true },
  rate: { from: 0, to: 1 },
  gate: { from: -0.1, to: 0 },
  positive: { from: 0.1, to: 1 },
}

/**
 * Numbers for an input of a rule, as the table of rules describes it: its letters stand for `sizes`.
 * @returns {{ values: Float32Array, shape: number[] }}
 */
export function valuesOf(name, { shape: letters, values: kind }, sizes) {
  const shape = letters.map((letter) => sizes[letter])
  const { from, to, unit } = ranges[kind]
  let seed = [...name].reduce((sum, letter) => 31 * sum + letter.charCodeAt(0), 7)
  const values = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) | 0
    return from + ((to - from) * (seed >>> 8)) / 2 ** 24
  })
  if (unit) {
    const n = shape.at(-1)
    for (let at = 0; at < values.length; at += n) {
      const row = values.subarray(at, at + n)
      const size = Math.hypot(...row)
      row.forEach((value, i) => {
        row[i] = value / size
      })
    }
  }
  return { values, shape }
}
