import { raw } from './raw.mjs'

export default {
  slug: 'dpfp',
  title: 'DPFP',
  description: 'A feature map that makes keys longer, without parameters and without chance, so that a memory holds more of them.',
  lead: raw`A memory of K rows tells at most K keys apart: more than K vectors of K numbers can’t all be orthogonal. To hold more, keys have to become wider. Deterministic
    parameter-free projection does that with products of what is there.`,
  names: {
    x: { math: 'x', code: ['x'], means: 'a key or a query, D numbers' },
    r: { math: 'r', code: ['p', 'rectified', 'r'], means: 'what is positive of x, and of -x: 2 D numbers' },
    nu: { math: 'ν', code: ['nu'], means: 'how many shifts' },
    phi: { math: 'φ', code: ['dpfp', 'y'], means: 'the features, 2 D nu numbers' },
    shift: { math: 'i', code: ['i', 'rolled'], means: 'a shift, from 1 to nu' },
  },
  sections: [
    {
      title: 'The map',
      text: raw`First the sign is given up, without losing it: $r$ has the positive part of $x$ and the positive part of $-x$, side by side. At most one of each pair
        isn’t zero. Then each entry is multiplied with the one that stands $i$ places before it, for $i = 1, \dots, \nu$, [@dpfp].

        A feature is alive only where two conditions hold at once, so different vectors have features alive in different places. That is what makes keys orthogonal.`,
      equations: [
        {
          id: 'dpfp',
          tex: raw`\varphi_\nu(x) = \bigl[\, r \odot \mathrm{roll}(r, 1),\; \dots,\; r \odot \mathrm{roll}(r, \nu) \,\bigr],\qquad r = \mathrm{relu}([x, -x])`,
          claim: 'features: DPFP by its formula',
          check: 'dpfp by its formula',
        },
      ],
      code: {
        file: 'engine/devices/reference/sequence.ts',
        from: 'dpfp(x, y, R, D, nu) {',
        notes: [
          ['const p = rectified(x, r, D)', 'relu of [x, -x], below.'],
          ['for (let j = 0; j < 2 * D; j++) y.data', 'One block of 2 D features for each shift.'],
        ],
      },
    },
    {
      title: 'The sign, kept',
      text: raw`Without the two halves a vector and its negative would be alike. With them they share nothing at all, [@negative].`,
      equations: [
        {
          id: 'negative',
          tex: raw`\varphi_\nu(x)^\top \varphi_\nu(-x) = 0`,
          claim: 'features: DPFP tells a vector from its negative',
          check: 'dpfp tells x from -x',
        },
      ],
      code: { file: 'engine/devices/reference/sequence.ts', from: 'function rectified(' },
    },
    {
      title: 'The backward',
      text: raw`A product hands to each factor the gradient times the other factor. So every entry of $r$ gets two contributions for each shift: one as itself, one
        as the neighbour of another. Then the half that was zero is dropped.`,
      code: {
        file: 'engine/devices/reference/sequence.ts',
        from: 'dpfpBackward(x, dy, dx, R, D, nu) {',
        notes: [
          ['dp[j] += g * p[rolled]', 'As itself ...'],
          ['dp[rolled] += g * p[j]', '... and as the neighbour.'],
          ['dx.data[r * D + d] = value > 0', 'The negative half has the sign turned.'],
        ],
      },
    },
    {
      title: 'Size, and a norm',
      text: raw`Features are products of two entries, so they grow with the square, [@square]: a key twice as long is written four times as strongly. Dividing by the sum makes the length
        irrelevant, [@norm]. It also keeps the delta rule stable: features that aren’t negative and sum to 1 are never longer than 1.`,
      equations: [
        {
          id: 'square',
          tex: raw`\varphi_\nu(c\, x) = c^2\, \varphi_\nu(x),\quad c > 0`,
          claim: 'features: DPFP grows with the square',
          check: 'dpfp grows with the square',
        },
        {
          id: 'norm',
          tex: raw`\hat\varphi = \frac{\varphi}{\sum_i \varphi_i} \;\Rightarrow\; \sum_i \hat\varphi_i = 1,\quad \|\hat\varphi\| \le 1`,
          claim: 'memory: normalised features contract',
          check: 'features sum to 1',
        },
      ],
      code: {
        file: 'nn/features.ts',
        from: 'export const featureNorms = {',
        notes: [
          [
            'sum: (x: Tensor, eps: number) => sumNorm(x, eps)',
            'The norm of the paper. The small eps is for keys whose features are all zero: they stay zero, and write nothing.',
          ],
        ],
      },
    },
    {
      title: 'How many shifts are of use',
      text: raw`A shift by $D$ pairs the positive part of an entry with the negative part of the same one: always zero. And a shift by $2D - i$ pairs the same entries as a
        shift by $i$, in the other order, so inner products of its features say the same once more, [@mirror]. Beyond $\nu = D - 1$ nothing is gained.

        The paper allows shifts up to $2D - 1$; that the later ones add nothing is a claim of this package, which calls the width of a key K.`,
      equations: [
        {
          id: 'mirror',
          tex: raw`\varphi^{(i)}(x)^\top \varphi^{(i)}(y) = \varphi^{(2D-i)}(x)^\top \varphi^{(2D-i)}(y),\qquad \varphi^{(D)}(x) = 0`,
          claim: 'features: DPFP repeats itself beyond K - 1',
          check: 'dpfp repeats itself',
        },
      ],
      code: { file: 'claims/features.ts', from: "name: 'features: DPFP repeats itself beyond K - 1',", to: 'const mirror =', doc: false },
    },
  ],
}
