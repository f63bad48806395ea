/** Counter-based random numbers: threefry2x32 with 20 rounds (Salmon et al. 2011). Pinned by test/ops/random.test.ts. */
import type { Kernels } from '../kernels.ts'
import type { RefStorage } from './storage.ts'

const rotations = [13, 15, 26, 6, 17, 29, 16, 24]

/** Two words from a key of two words and a counter of two, all modulo 2^32. */
export function threefry(key0: number, key1: number, counter0: number, counter1: number): [number, number] {
  const key = [key0, key1, 0x1bd11bda ^ key0 ^ key1]
  let x0 = (counter0 + key0) | 0
  let x1 = (counter1 + key1) | 0
  for (let round = 0; round < 20; round++) {
    x0 = (x0 + x1) | 0
    const r = rotations[round % 8]
    x1 = ((x1 << r) | (x1 >>> (32 - r))) ^ x0
    if (round % 4 === 3) {
      const s = (round + 1) / 4
      x0 = (x0 + key[s % 3]) | 0
      x1 = (x1 + key[(s + 1) % 3] + s) | 0
    }
  }
  return [x0 >>> 0, x1 >>> 0]
}

/** 24 bits as a fraction in [0, 1). */
const fraction = (word: number): number => (word >>> 8) * 2 ** -24

export const randomKernels: Pick<Kernels<RefStorage>, 'random' | 'dropout'> = {
  random(kind, y, n, key0, key1, a, b) {
    const stream = key1()
    for (let i = 0; i < n; i++) {
      const [x0, x1] = threefry(key0, stream, i, 0)
      y.data[i] =
        kind === 'uniform'
          ? a + (b - a) * fraction(x0)
          : a + b * Math.sqrt(-2 * Math.log(fraction(x0) + 2 ** -24)) * Math.cos(2 * Math.PI * fraction(x1))
    }
  },
  dropout(x, y, n, p, key0, key1) {
    // p is compared in float32, so that every device drops the same elements.
    const limit = Math.fround(p)
    const stream = key1()
    for (let i = 0; i < n; i++) y.data[i] = fraction(threefry(key0, stream, i, 0)[0]) < limit ? 0 : x.data[i] / (1 - p)
  },
}
