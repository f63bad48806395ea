/** Counter-based random numbers: threefry2x32 with 20 rounds (Salmon et al. 2011). Pinned by test/ops/random.test.ts. */
import type { Kernels } from '../kernels.ts'
import type { RefStorage } from './storage.ts'

/** The two words of the last `draw`: a pair made for each would take longer than the rounds. */
let word0 = 0,
  word1 = 0

/** Two words from a key of two words and a counter of two, all modulo 2^32, signed. */
function draw(key0: number, key1: number, counter0: number, counter1: number): void {
  const key2 = 0x1bd11bda ^ key0 ^ key1
  let x0 = (counter0 + key0) | 0
  let x1 = (counter1 + key1) | 0
  for (let four = 1; four <= 5; four++) {
    const odd = (four & 1) === 1
    x0 = (x0 + x1) | 0
    x1 = (odd ? (x1 << 13) | (x1 >>> 19) : (x1 << 17) | (x1 >>> 15)) ^ x0
    x0 = (x0 + x1) | 0
    x1 = (odd ? (x1 << 15) | (x1 >>> 17) : (x1 << 29) | (x1 >>> 3)) ^ x0
    x0 = (x0 + x1) | 0
    x1 = (odd ? (x1 << 26) | (x1 >>> 6) : (x1 << 16) | (x1 >>> 16)) ^ x0
    x0 = (x0 + x1) | 0
    x1 = (odd ? (x1 << 6) | (x1 >>> 26) : (x1 << 24) | (x1 >>> 8)) ^ x0
    x0 = (x0 + (four % 3 === 0 ? key0 : four % 3 === 1 ? key1 : key2)) | 0
    x1 = (x1 + (four % 3 === 0 ? key1 : four % 3 === 1 ? key2 : key0) + four) | 0
  }
  word0 = x0
  word1 = x1
}

/** The same, as a pair without sign. */
export function threefry(key0: number, key1: number, counter0: number, counter1: number): [number, number] {
  draw(key0, key1, counter0, counter1)
  return [word0 >>> 0, word1 >>> 0]
}

/** 24 bits as a fraction in [0, 1). */
const fraction = (word: number): number => (word >>> 8) * 2 ** -24

export const randomKernels: Pick<Kernels<RefStorage>, 'random' | 'dropout'> = {
  random(kind, y, n, key0, key1, a, b) {
    const stream = key1()
    for (let i = 0; i < n; i++) {
      draw(key0, stream, i, 0)
      y.data[i] =
        kind === 'uniform'
          ? a + (b - a) * fraction(word0)
          : a + b * Math.sqrt(-2 * Math.log(fraction(word0) + 2 ** -24)) * Math.cos(2 * Math.PI * fraction(word1))
    }
  },
  dropout(x, y, n, p, key0, key1) {
    // p is compared in float32, so that every device drops the same elements.
    const limit = Math.fround(p)
    const stream = key1()
    for (let i = 0; i < n; i++) y.data[i] = fraction(threefry(key0, stream, i, 0)[0]) < limit ? 0 : x.data[i] / (1 - p)
  },
}
