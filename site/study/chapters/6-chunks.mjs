import { raw } from './raw.mjs'

export default {
  slug: 'chunks',
  title: 'Chunks: the WY form',
  description: 'The delta rule for many tokens at once, as small matrix products: derived step by step, each step checked on numbers.',
  lead: raw`Token by token the delta rule is a chain of tiny updates, each waiting for the one before. Processors like large products of matrices. For the sum rule that was easy. Here every write
    depends on all earlier ones; nevertheless the tokens of a chunk can be had at once, exactly. This page derives how, after Yang and others (2024), and solves for the writes themselves.`,
  names: {
    S: { math: 'S', code: ['S', 'dS'], means: 'the memory [K,V]; with index 0 as it was before the chunk' },
    U: { math: 'U', code: ['U', 'us'], means: 'what is really written, a row a token' },
    u: { math: 'u', code: ['u'], means: 'one row of U' },
    K: { math: 'K', code: ['K', 'Ks', 'ks', 'ksT', 'asT', 'As'], means: 'the keys, a row a token (with a gate: faded)' },
    k: { math: 'k', code: ['k', 'a'], means: 'one key' },
    V: { math: 'V', code: ['V'], means: 'the values, a row a token' },
    Q: { math: 'Q', code: ['Q', 'Qs', 'qs', 'qsT'], means: 'the queries, a row a token' },
    M: { math: 'L', code: ['M', 'm', 'mT', 'L'], means: 'how later keys meet earlier ones: strictly lower' },
    beta: { math: 'β', code: ['beta', 'betas'], means: 'the write strengths' },
    P: { math: 'P', code: ['P', 'p', 'pT'], means: 'how queries meet keys: lower' },
    D: { math: 'D', code: ['kd', 'ds', 'fadingKey'], means: 'the decay between two tokens' },
    Gamma: { math: 'Γ', code: ['gamma', 'all'], means: 'the decay since the chunk began' },
  },
  sections: [
    {
      title: '1. A write is an outer product',
      text: raw`Give a name to what the rule writes at token $t$, the row $u_t$, [@write]. Then the delta rule is the sum rule on other values, and the memory after any token is the one
        before the chunk plus a sum of outer products, [@unrolled]. If we knew the rows $u$, all would be as in [the sum rule](page:study/sum/).

        The reference is written so: \`step\` makes \`u\`, whatever the rule, and adds one outer product (two where a rule has a second kind of keys, \`along\`).`,
      equations: [
        {
          id: 'write',
          tex: raw`u_t = \beta_t\,(v_t - S_{t-1}^\top k_t),\qquad S_t = S_{t-1} + k_t u_t^\top`,
          claim: 'delta: recurrent = step',
          check: 'recall, write, read',
        },
        {
          id: 'unrolled',
          tex: raw`S_t = S_0 + \sum_{j \le t} k_j u_j^\top`,
          claim: 'delta: state carried over a cut',
          check: 'a write is an outer product',
        },
      ],
      code: {
        file: 'engine/devices/reference/fast-weights.ts',
        from: 'function step(S: Matrix, z: Vector',
        notes: [
          [
            'if (a) addTo(e, read(S, a), -1)',
            'The value, less what the memory holds for this key (with a gate: for the faded one). The sum rule reads nothing.',
          ],
          ['u[j] = beta[t] * e[j]', 'The error, times the write strength.'],
          ['addOuter(S, along ? row(along, t) : k, u, 1)', 'The outer product.'],
        ],
      },
    },
    {
      title: '2. Each write by the earlier ones',
      text: raw`Put [@unrolled] into [@write]. The memory disappears; what is left of it is $S_0$, which is known, and the inner products of keys, [@forward].

        That is a recipe already: the first row, then the second from the first, and so on. It never makes a matrix of the size of the memory.`,
      equations: [
        {
          id: 'forward',
          tex: raw`u_i = \beta_i \Bigl( v_i - S_0^\top k_i - \sum_{j < i} (k_i^\top k_j)\, u_j \Bigr)`,
          claim: 'delta: chunk = step',
          check: 'writes by earlier writes',
        },
      ],
      code: {
        file: 'engine/devices/reference/fast-weights.ts',
        from: 'function pseudoValues(S: Matrix',
        notes: [
          ['sub(V, read)', '$V - K S_0$, all rows at once.'],
          ['const U = solveUnitLower', 'The recipe: forward substitution.'],
        ],
      },
    },
    {
      title: '3. A triangular system',
      text: raw`The same with rows stacked to matrices: a strictly lower triangle $L$ of inner products times strengths, [@system]. All its products are known before the memory is, so it can be
        computed for many chunks at the same time.`,
      equations: [
        {
          id: 'system',
          tex: raw`(I + L)\, U = \mathrm{diag}(\beta)\,(V - K S_0),\qquad L = \mathrm{tril}\bigl(\mathrm{diag}(\beta)\, K K^\top, -1\bigr)`,
          claim: 'attention: the delta rule is attention to corrected values',
          check: 'a triangular system',
        },
      ],
      code: {
        file: 'engine/devices/reference/fast-weights.ts',
        from: 'function solveUnitLower(L: Matrix',
        notes: [['for (let j = 0; j < i; j++)', 'Row i needs the rows before it, and no division, because the diagonal is 1.']],
      },
    },
    {
      title: '4. W and U: the memory drawn out',
      text: raw`The right side has two parts: one with the values, one with $S_0$. The system is linear, so each can be solved for alone, [@wy]. $W$ and $U_0$ know nothing of the memory: on a GPU all chunks
        of a sequence have theirs computed side by side, and only the short rest goes from chunk to chunk.

        Seen from the memory, the chunk is a product of reflections and shrinkings $I - \beta k k^\top$, and $W$ has this product in compact form, [@product]. Bischof and Van Loan found that for
        Householder reflections in 1987, and named it after its two factors: WY.`,
      equations: [
        {
          id: 'wy',
          tex: raw`W = (I + L)^{-1} \mathrm{diag}(\beta)\, K,\qquad U_0 = (I + L)^{-1} \mathrm{diag}(\beta)\, V,\qquad U = U_0 - W S_0`,
          claim: 'delta: chunk = step',
          check: 'W and U',
        },
        {
          id: 'product',
          tex: raw`\prod_{t = C}^{1} \bigl(I - \beta_t k_t k_t^\top\bigr) = I - K^\top W`,
          claim: 'delta: any chunk length',
          check: 'a product of reflections',
        },
      ],
      code: {
        file: 'kernels-wgsl/fast-weights.wgsl',
        from: '//     Q~_i = Gamma_i q_i',
        to: '//     dQ~ = G S^T',
        doc: false,
        notes: [
          [
            '(I + M) [W U0] = [A~ V]',
            raw`The WebGPU kernel solves for both at once. It has the strengths in the keys that are written, $k'_j = \beta_j k_j$: its M is $\mathrm{diag}(\beta)^{-1} L\, \mathrm{diag}(\beta)$,
            its A~ the keys, and its W and U, times $\beta$, are ours.`,
          ],
        ],
      },
    },
    {
      title: '5. Reading, and handing on',
      text: raw`With $U$ at hand the rest is the sum rule: what a query finds in the old memory, and what it finds in the chunk itself, [@reads]; the new memory is one product, [@after].

        Six matrix products and one triangular solve for a chunk of C tokens, instead of C updates of the whole matrix. C is a matter of speed alone: any length gives the same
        result, and there is a claim that says so.`,
      equations: [
        {
          id: 'reads',
          tex: raw`Y = Q S_0 + P\, U,\qquad P = \mathrm{tril}(Q K^\top)`,
          claim: 'delta: chunk = step',
          check: 'reads of a chunk',
        },
        {
          id: 'after',
          tex: raw`S_C = S_0 + K^\top U`,
          claim: 'delta: any chunk length',
          check: 'the memory after a chunk',
        },
      ],
      code: {
        file: 'engine/devices/reference/fast-weights.ts',
        from: 'function chunk(S: Matrix, z: Vector, tokens: Tokens)',
        notes: [
          ['const U = tokens.A', 'A rule that reads nothing writes its values as they are.'],
          ['const O = tokens.transposed', 'Both parts of the read.'],
          ['addTo(S.data, mul(transpose(Ks), U, round).data)', 'The memory after the chunk.'],
        ],
      },
    },
    {
      title: '6. With a gate',
      text: raw`If the memory fades by $\alpha_t$ at each token, what token $j$ wrote has faded by the product of all decays since, when token $i$ reads. So every inner product gets that
        factor, $D$. The memory before the chunk has faded, too, by $\Gamma_i = \alpha_1 \cdots \alpha_i$ when token $i$ meets it, and what is handed on by all decays that are left,
        [@decays].

        How $D$ is computed matters. Quotients of running products overflow, and differences of logarithms lose digits. Here decays are only ever multiplied, numbers between 0 and 1. So a decay
        of exactly 0 is no special case either.`,
      equations: [
        {
          id: 'decays',
          tex: raw`Y = \mathrm{diag}(\Gamma)\, Q S_0 + (P \odot D)\, U,\quad (I + L)\, U = \mathrm{diag}(\beta)\bigl(V - \mathrm{diag}(\Gamma)\, K S_0\bigr),\quad L = \mathrm{tril}\bigl(\mathrm{diag}(\beta)\, K K^\top \odot D, -1\bigr),\quad S_C = \Gamma_C S_0 + \sum_j D_{Cj}\, k_j u_j^\top,\quad D_{ij} = \alpha_{j+1} \cdots \alpha_i`,
          claim: 'gated-delta: chunk = step',
          check: 'decays in a chunk',
        },
      ],
      code: {
        file: 'engine/devices/reference/fast-weights.ts',
        from: 'function fadingKey(',
        notes: [['kd.data[i - K.cols] * W.data[i]', 'A key as the memory holds it, one token later: one more factor.']],
      },
    },
    {
      title: '7. Backwards',
      text: raw`The backward pass solves a triangular system, too: the transposed one, from the last token to the first, [@backward]. What goes back through the writes is computed at once, and
        the rest are products again. Nothing of the tokens inside a chunk has to be kept but the memory at its beginning.`,
      equations: [
        {
          id: 'backward',
          tex: raw`X = (I + L)^{-\top}\, \mathrm{d}U,\qquad \mathrm{d}U = P^\top \mathrm{d}Y + K\, \mathrm{d}S_C,\qquad \mathrm{d}V = \mathrm{diag}(\beta)\, X`,
          claim: 'delta: gradients of chunk = autograd of step',
          check: 'backward of a chunk',
        },
      ],
      code: {
        file: 'engine/devices/reference/fast-weights.ts',
        from: 'function chunkBackward(S: Matrix',
        to: 'const dKs = mul(U, transpose(dS), round)',
        notes: [
          ['const { E, U } = A ?', 'Computed once more from the memory before the chunk: cheaper than keeping them.'],
          ['const X = A ? solveUnitLowerTransposed', 'The transposed system.'],
        ],
      },
    },
  ],
}
