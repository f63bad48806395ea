/**
 * The Mersenne Twister MT19937 (Matsumoto & Nishimura 1998), drawn from as Python's `random` does: published data sets that a seed fixes come
 * out the same, byte for byte. Tests: test/tasks/mersenne.test.ts.
 */

export interface Mersenne {
  /** The next 32-bit word. */
  word(): number
  /** A number in [0, 1) with 53 bits. */
  random(): number
  /** A uniform integer from 0 to n - 1, n from 1 to 2^32. */
  below(n: number): number
  /** One of a list. */
  choice<T>(list: ArrayLike<T>): T
  /** k of 0 ... n - 1 without replacement, in the order drawn. */
  sample(n: number, k: number): number[]
}

const N = 624,
  M = 397

/** A generator from a key of 32-bit words (`init_by_array`): Python's random.seed(s) is mersenne([s]) for s below 2^32. */
export function mersenne(key: readonly number[]): Mersenne {
  const state = new Int32Array(N)
  state[0] = 19650218
  for (let i = 1; i < N; i++) state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i
  let i = 1
  const next = (): void => {
    if (++i < N) return
    state[0] = state[N - 1]
    i = 1
  }
  for (let n = 0; n < Math.max(N, key.length); n++) {
    const j = n % key.length
    state[i] = (state[i] ^ Math.imul(state[i - 1] ^ (state[i - 1] >>> 30), 1664525)) + key[j] + j
    next()
  }
  for (let n = 0; n < N - 1; n++) {
    state[i] = (state[i] ^ Math.imul(state[i - 1] ^ (state[i - 1] >>> 30), 1566083941)) - i
    next()
  }
  state[0] = 0x80000000

  let at = N
  const twist = (): void => {
    for (let n = 0; n < N; n++) {
      const y = (state[n] & 0x80000000) | (state[n + 1 < N ? n + 1 : 0] & 0x7fffffff)
      state[n] = state[n + M < N ? n + M : n + M - N] ^ (y >>> 1) ^ (-(y & 1) & 0x9908b0df)
    }
    at = 0
  }
  const word = (): number => {
    if (at === N) twist()
    let y = state[at++]
    y ^= y >>> 11
    y ^= (y << 7) & 0x9d2c5680
    y ^= (y << 15) & 0xefc60000
    return (y ^ (y >>> 18)) >>> 0
  }
  const below = (n: number): number => {
    if (!(Number.isInteger(n) && n >= 1 && n <= 2 ** 32)) throw new Error(`below: n must be an integer from 1 to 2^32, not ${n}`)
    // As many of the top bits as n has, until they are less than n.
    const shift = Math.clz32(n) // 32 for 2^32, which shifts by 0
    for (;;) {
      const drawn = word() >>> shift
      if (drawn < n) return drawn
    }
  }
  return {
    word,
    random: () => ((word() >>> 5) * 2 ** 26 + (word() >>> 6)) / 2 ** 53,
    below,
    choice: (list) => list[below(list.length)],
    sample(n, k) {
      if (!(k <= n)) throw new Error(`sample: ${k} of ${n} can't be drawn without replacement`)
      // A list of 0 ... n - 1 whose last one takes the place of the one drawn; of a long one only what has moved is kept.
      const sampled: number[] = []
      if (n <= 8 * k) {
        const list = new Uint32Array(n)
        for (let i = 0; i < n; i++) list[i] = i
        for (let last = n - 1; last >= n - k; last--) {
          const at = below(last + 1)
          sampled.push(list[at])
          list[at] = list[last]
        }
        return sampled
      }
      const moved = new Map<number, number>()
      for (let last = n - 1; last >= n - k; last--) {
        const at = below(last + 1)
        sampled.push(moved.get(at) ?? at)
        moved.set(at, moved.get(last) ?? last)
      }
      return sampled
    },
  }
}
