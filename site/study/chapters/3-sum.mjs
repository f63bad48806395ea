import { raw } from './raw.mjs'

export default {
  slug: 'sum',
  title: 'The sum rule as attention',
  description: 'A matrix that is written with outer products and read with queries is attention without softmax.',
  lead: raw`In 1991 Schmidhuber let one net write the weights of another, by adding outer products to them. In 2020 Katharopoulos and others took the softmax out of attention, to
    make it fast. Both had written down the same thing.`,
  names: {
    S: { math: 'S', code: ['S', 'next'], means: 'the fast weights, a matrix [K,V]' },
    k: { math: 'k', code: ['k', 'K'], means: 'a key: where to write' },
    v: { math: 'v', code: ['v', 'V'], means: 'a value: what to write' },
    q: { math: 'q', code: ['q', 'Q'], means: 'a query: where to read' },
    y: { math: 'y', code: ['y'], means: 'what is read' },
    z: { math: 'z', code: ['z', 'total'], means: 'the normaliser, the sum of the keys' },
  },
  sections: [
    {
      title: 'To write and to read',
      text: raw`The outer product $k v^\top$ is a matrix that gives $v$ back when it is asked with $k$: $(k v^\top)^\top k = v\,(k^\top k)$, and that is $v$ for a key of length 1. So a
        matrix holds a pair of key and value, and the sum of such matrices holds several.

        These two functions are all that rules are made of: \`outer\` makes what is written, \`readOut\` reads.`,
      code: {
        file: 'engine/rules/rule.ts',
        from: 'export const readOut =',
        to: 'matmul(reshape(k, [...k.shape, 1])',
        notes: [['/** k v^T. */', 'B sequences and H heads go along as axes in front; each head has a memory of its own.']],
      },
    },
    {
      title: 'The step of the rule',
      text: raw`One token: write, then read. This function isn’t documentation. It is the specification of the rule, and the fast forms are compared with it on
        thousands of cases.

        Written out over time, the memory is a sum of outer products, [@memory], and what is read is a sum of all values so far, [@read]: each counts as much as its key is like the
        query. That is attention, with the inner product itself as its weight.`,
      equations: [
        {
          id: 'memory',
          tex: raw`S_t = S_{t-1} + k_t v_t^\top = \sum_{j \le t} k_j v_j^\top`,
          claim: 'sum: recurrent = step',
          check: 'a memory is a sum',
        },
        {
          id: 'read',
          tex: raw`y_t = S_t^\top q_t = \sum_{j \le t} (k_j^\top q_t)\, v_j`,
          claim: 'attention: fast weights of 1991 are linear attention',
          check: 'a read is a weighted sum',
        },
      ],
      code: {
        file: 'engine/rules/sum.ts',
        from: 'const sumStep: Step =',
        notes: [
          [
            'const next = add(',
            'The write. With a gate the memory fades first: retention, Mamba-2 and gated linear attention are this line.',
          ],
          ['const y = affine(readOut(next, q), scale)', 'The read comes after the write, so a token sees itself.'],
          ['const total = add(', 'The normaliser, if the rule has one: the sum of all keys.'],
        ],
      },
    },
    {
      title: 'All tokens at once',
      text: raw`With the tokens as rows of $Q$, $K$ and $V$ the loop over time becomes two matrix products, [@parallel]. The mask, the lower triangle, says that nobody reads what
        isn’t written yet. This form takes time and memory quadratic in the number of tokens, the loop a constant amount a token. They are the same function, so one may train
        with whichever is faster and generate with the loop.

        The code is that of the claim: both sides, and their gradients, are compared on drawn sizes and numbers.`,
      equations: [
        {
          id: 'parallel',
          tex: raw`Y = \mathrm{tril}(Q K^\top)\, V`,
          claim: 'attention: the sum rule is a masked matrix product',
          check: 'all reads at once',
        },
      ],
      code: {
        file: 'claims/attention.ts',
        from: "'the sum rule is a masked matrix product': {",
        notes: [['return { y: swap(times(mul(withTransposed(Q, K), lower', 'Scores, mask, values: three factors.']],
      },
    },
    {
      title: 'The normaliser',
      text: raw`Softmax divides by the sum of its weights, so that they sum to 1. The same can be done here, [@normaliser]: one more vector, $z$, sums the keys. It needs features that aren’t negative,
        or the sum may be anything.`,
      equations: [
        {
          id: 'normaliser',
          tex: raw`z_t = z_{t-1} + k_t,\qquad y_t = \frac{S_t^\top q_t}{z_t^\top q_t + \varepsilon}`,
          claim: 'attention: linear attention is a normalised matrix product',
          check: 'the normaliser',
        },
      ],
      code: {
        file: 'claims/attention.ts',
        from: "'linear attention is a normalised matrix product': {",
        notes: [
          [
            'const y = div(',
            'Each row is divided by its own sum. The gradient has a term that comes from the divisor; a published kernel had lost it.',
          ],
        ],
      },
    },
    {
      title: 'What softmax has, and what it costs',
      text: raw`Softmax attention is a memory, too: it keeps every key and every value, [@grown]. Nothing is mixed up, and the memory grows with each token. Fast weights
        keep a matrix of fixed size, and so they must mix things up sooner or later.

        The sum rule has another weakness. It is blind to order, [@order]: the same pairs in any order leave the same memory, so what was said last counts
        as much as what it replaces. [The delta rule](page:study/delta/) mends this.`,
      equations: [
        {
          id: 'grown',
          tex: raw`K_t = \begin{bmatrix} K_{t-1} \\ k_t^\top \end{bmatrix},\quad V_t = \begin{bmatrix} V_{t-1} \\ v_t^\top \end{bmatrix},\quad y_t = V_t^\top\, \mathrm{softmax}(K_t q_t)`,
          claim: 'attention: softmax attention is a memory that grows',
          check: 'softmax attention',
        },
        {
          id: 'order',
          tex: raw`S_T = \sum_{t} k_t v_t^\top = \sum_{t} k_{\pi(t)} v_{\pi(t)}^\top \text{ for every permutation } \pi`,
          claim: 'memory: sums are blind to order',
          check: 'order is lost',
        },
      ],
      code: {
        file: 'claims/attention.ts',
        from: 'function growing({ q, k, v }: Tensors): Tensor {',
        notes: [['keys = concat([keys', 'One row more, for ever.']],
      },
    },
  ],
}
