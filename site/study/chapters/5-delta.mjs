import { raw } from './raw.mjs'

export default {
  slug: 'delta',
  title: 'The delta rule',
  description: 'Look first, then write only what is missing: the rule that corrects a memory, and what follows from it.',
  lead: raw`The sum rule writes without looking. The delta rule reads what its key retrieves, and writes the difference. One line more, and the memory can replace what it holds.`,
  names: {
    S: { math: 'S', code: ['S', 'next'], means: 'the fast weights, a matrix [K,V]' },
    k: { math: 'k', code: ['k', 'keys'], means: 'the key that is written at' },
    v: { math: 'v', code: ['v'], means: 'the value that it is to hold' },
    q: { math: 'q', code: ['q'], means: 'the query that reads' },
    beta: { math: 'β', code: ['beta', 'rate'], means: 'the write strength, from 0 to 1 (or 2)' },
    z: { math: 'z', code: ['z', 'held', 'total'], means: 'the sum of the keys, of attention normalisation' },
  },
  sections: [
    {
      title: 'What the sum rule gets wrong',
      text: raw`Write several pairs with the sum rule, with keys of length 1, and ask for the first one. The answer is its value, and then all others, as far as their keys are like this one,
        [@interference]. Keys that are orthogonal don’t disturb each other. Keys of the same direction do so fully: a second value at the same key is added to the first,
        not put in its place.`,
      equations: [
        {
          id: 'interference',
          tex: raw`S^\top k_i = v_i + \sum_{j \ne i} (k_j^\top k_i)\, v_j,\qquad \|k_j\| = 1`,
          claim: 'attention: the sum rule is a masked matrix product',
          check: 'interference',
        },
      ],
      code: { file: 'engine/rules/sum.ts', from: 'const sumStep: Step =', doc: false },
    },
    {
      title: 'Look, then write',
      text: raw`What the key retrieves now is $S_{t-1}^\top k_t$. What it should retrieve is $v_t$. The difference is an error, and the error is what is written, at the strength
        $\beta_t$, [@delta]. The slow net chooses $\beta$ for each token and head: 0 writes nothing, 1 replaces.

        Read from the inside out, the line of \`corrected\` is the formula: \`readOut(S, k)\`, the difference to \`v\`, times \`beta\`, as an outer product with \`k\`, added.`,
      equations: [
        {
          id: 'delta',
          tex: raw`S_t = S_{t-1} + \beta_t\, k_t\, (v_t - S_{t-1}^\top k_t)^\top,\qquad y_t = S_t^\top q_t`,
          claim: 'delta: recurrent = step',
          check: 'the delta rule',
        },
      ],
      code: {
        file: 'engine/rules/delta.ts',
        from: 'const corrected =',
        through: 'const deltaStep: Step =',
        notes: [
          [
            'const deltaStep: Step =',
            'With a gate the memory fades first, and what is read for the error is the faded one. That is Gated DeltaNet and KDA.',
          ],
        ],
      },
    },
    {
      title: 'What a write changes',
      text: raw`At full strength, and with keys of length 1, the key that was just written gives its value back exactly, whatever was there before, [@readback]. At other
        strengths the old value and the new one are blended, and what the memory holds for orthogonal keys stays as it was, up to rounding, [@address].`,
      equations: [
        {
          id: 'readback',
          tex: raw`\|k_t\| = 1,\; \beta_t = 1 \;\Rightarrow\; S_t^\top k_t = v_t`,
          claim: 'memory: the last write reads back',
          check: 'the last write reads back',
        },
        {
          id: 'address',
          tex: raw`k_i \perp k_t \;\Rightarrow\; S_t^\top k_i = S_{t-1}^\top k_i,\qquad S_t^\top k_t = (1 - \beta_t)\, S_{t-1}^\top k_t + \beta_t v_t`,
          claim: 'memory: delta changes only what its key addresses',
          check: 'only what the key addresses',
        },
      ],
      code: {
        file: 'claims/memory.ts',
        from: "name: 'memory: delta changes only what its key addresses',",
        to: 'return { held: concat(rows, 0) }',
        doc: false,
        notes: [
          [
            'left: (c, x) => {',
            'One write into a memory of random numbers, and what all keys of an orthonormal basis retrieve afterwards.',
          ],
          ['right: (c, x) => {', 'What they retrieved before, with one row blended.'],
        ],
      },
    },
    {
      title: 'It is learning',
      text: raw`Take the memory for a linear net, the key for its input and the value for its target. One step of gradient descent on the squared error is the delta rule, and $\beta$
        is the learning rate, [@gradient]. Widrow and Hoff had it in 1960. So a sequence model with fast weights is a net that trains another net while it reads, one step a token.

        The claim computes the gradient with the engine’s own autograd.`,
      equations: [
        {
          id: 'gradient',
          tex: raw`S_t = S_{t-1} - \beta_t\, \nabla_S\, \tfrac12 \bigl\|S^\top k_t - v_t\bigr\|^2 \Big|_{S_{t-1}}`,
          claim: 'learning: delta is a gradient step',
          check: 'a gradient step',
        },
      ],
      code: {
        file: 'claims/learning.ts',
        from: "name: 'learning: delta is a gradient step',",
        to: 'gradient(before(c, x), (S) => misfit',
        doc: false,
      },
    },
    {
      title: 'With attention normalisation',
      text: raw`The paper has a variant that divides what a key retrieves by how much was ever written near it, $z_{t-1}^\top k_t$, and what is read by $z_t^\top q_t$, [@attention]. The authors’ code
        does something special for the first token, and so does this one; the comment says what.`,
      equations: [
        {
          id: 'attention',
          tex: raw`S_t = S_{t-1} + \beta_t k_t \Bigl(v_t - \frac{S_{t-1}^\top k_t}{z_{t-1}^\top k_t}\Bigr)^{\!\top},\quad z_t = z_{t-1} + k_t,\quad y_t = \frac{S_t^\top q_t}{z_t^\top q_t}`,
          claim: 'attention-delta: recurrent = step',
          check: 'attention normalisation',
        },
      ],
      code: {
        file: 'engine/rules/delta.ts',
        from: 'const attentionDeltaStep: Step =',
        notes: [
          ['const c = add(held', 'As long as nothing was written, 1 stands for the divisor.'],
          ['const next = add(S, outer(key', 'The same correction, on a key that is divided.'],
        ],
      },
    },
  ],
}
