/** What a contender of the matmul benchmark does, in a process of its own or in a page. */
import { calibrate, time } from './timing.mjs'

const u = 2 ** -24 // unit roundoff of float32

/** Uniform in [-1, 1), the same numbers in every process. */
function uniform(length, seed) {
  let s = seed
  return Float32Array.from({ length }, () => {
    s = (Math.imul(s, 1664525) + 1013904223) | 0
    return s / 2 ** 31
  })
}

/** Four rows against float64, each entry within the error bound of any order of summation: n u sum |a| |b|, and u for its own rounding. */
function check(c, a, b, n) {
  if (c.length !== n * n) throw new Error(`wrong result: ${c.length} values instead of ${n * n}`)
  for (const row of [0, 1, n >> 1, n - 1]) {
    for (let j = 0; j < n; j++) {
      let sum = 0
      let size = 0
      for (let k = 0; k < n; k++) {
        const term = a[row * n + k] * b[k * n + j]
        sum += term
        size += Math.abs(term)
      }
      const got = c[row * n + j]
      if (!(Math.abs(got - sum) <= (n + 1) * u * size)) throw new Error(`wrong result: c[${row},${j}] = ${got} instead of ${sum}`)
    }
  }
}

let contender
let current
let repeats

export const product = {
  async open({ module, options }) {
    contender = await (await import(`./contenders/${module}.mjs`)).open(options)
    return { threads: contender.threads, version: contender.version }
  },
  /** Loads the inputs, checks one product, warms up. */
  async prepare(n) {
    const a = uniform(n * n, 1)
    // Products with B keep the size of the entries, however many are chained.
    const b = uniform(n * n, 2).map((x) => x * Math.sqrt(3 / n))
    current = await contender.prepare(n, a, b)
    if (current.product) check(await current.product(), a, b, n)
    repeats = await calibrate(current.work)
    return { repeats }
  },
  /** One sample, in GFLOP/s. */
  sample: async () => current.flops / (await time(current.work, repeats)) / 1e9,
}
