/** How the states of models lie in files of figures, beside ours. Of convolutions those hold one position more than a state has: the oldest is no part of it. */
import { sizeOf } from '../../engine/shape.ts'

export interface Held {
  shape: readonly number[]
  data: ArrayLike<number>
}
export interface Arranged extends Held {
  /** The first of so many numbers in a row is none of ours. */
  free?: number
  /** What ours is to be compared with, of what the file holds, where that says it otherwise. */
  expected?(data: ArrayLike<number>): ArrayLike<number>
}

/** Our arrays as the file's one. */
export const arrangements = {
  /** As they are. */
  same: ([x]: readonly Held[]): Arranged => x,
  /** The last two axes change places. */
  transposed: ([x]: readonly Held[]): Arranged => swapped(x),
  /** [B,W-1,C] of one or several convolutions, as the newest positions of [B, sum of C, W]. */
  taps(all: readonly Held[]): Arranged {
    const [B, newest] = all[0].shape
    const W = newest + 1
    const rows = all.map(swapped)
    const C = rows.reduce((n, { shape }) => n + shape[1], 0)
    const data = new Float64Array(B * C * W)
    for (let b = 0, at = 0; b < B; b++)
      for (const row of rows)
        for (let c = 0; c < row.shape[1]; c++, at += W)
          for (let i = 0; i < newest; i++) data[at + 1 + i] = row.data[(b * row.shape[1] + c) * newest + i]
    return { shape: [B, C, W], data, free: W }
  },
  /** [B,1,D] as [B,D]. */
  last: ([{ shape, data }]: readonly Held[]): Arranged => ({ shape: [shape[0], shape[2]], data }),
  /** Several [B,1,D] as [N,B,D]. */
  stacked(all: readonly Held[]): Arranged {
    const [{ shape }] = all
    return { shape: [all.length, shape[0], shape[2]], data: Float64Array.from(all.flatMap(({ data }) => Array.from(data))) }
  },
  /** [B,...] as [B,1,...]. */
  ones: ([{ shape, data }]: readonly Held[]): Arranged => ({ shape: [shape[0], 1, ...shape.slice(1)], data }),
  /** [...,1] as [...]. */
  values: ([{ shape, data }]: readonly Held[]): Arranged => ({ shape: shape.slice(0, -1), data }),
  /** RWKV-4's mean and logarithm of weights, [B,1,D] both, as the sums of values and of weights over e^m, and m: [3,B,D]. Which m is chosen says nothing. */
  sums([mean, lse]: readonly Held[]): Arranged {
    const [B, , D] = mean.shape
    const n = B * D
    const data = Float64Array.from({ length: 3 * n }, (_, i) => {
      const weight = Math.exp(lse.data[i % n])
      return i < n ? mean.data[i] * weight : i < 2 * n ? weight : 0
    })
    const expected = (file: ArrayLike<number>): ArrayLike<number> =>
      Float64Array.from({ length: 3 * n }, (_, i) => (i < 2 * n ? file[i] * Math.exp(file[2 * n + (i % n)]) : 0))
    return { shape: [3, B, D], data, expected }
  },
} satisfies Record<string, (all: readonly Held[]) => Arranged>
export type Arrangement = keyof typeof arrangements

function swapped({ shape, data }: Held): Held {
  const [m, n] = shape.slice(-2)
  const all = Float64Array.from({ length: sizeOf(shape) }, (_, i) => {
    const [matrix, place] = [Math.floor(i / (m * n)), i % (m * n)]
    return data[matrix * m * n + (place % m) * n + Math.floor(place / m)]
  })
  return { shape: [...shape.slice(0, -2), n, m], data: all }
}
