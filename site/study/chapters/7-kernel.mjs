import { raw } from './raw.mjs'

export default {
  slug: 'kernel',
  title: 'One kernel, three times',
  description: 'The fused delta rule in plain TypeScript, in AssemblyScript for WebAssembly, and in WGSL for a GPU, side by side.',
  lead: raw`What the reference says in ten lines has to be fast on a processor and on a GPU. The three versions do the same work, by nearly the same names: WGSL has $\beta$ in its \`stagedK\`, so what it calls \`u\` is
    the error. They stand side by side here; hover over a name, or
    press one below, and it lights up in all of them.`,
  names: {
    S: {
      math: 'S',
      code: ['S', 'from', 'to', 'work', 'next', 'source'],
      means: 'the memory: a matrix; a pointer to it; a place in a buffer',
    },
    k: { math: 'k', code: ['k', 'kt', 'K', 'stagedK'], means: 'the key (staged in WGSL: times the write strength)' },
    v: { math: 'v', code: ['v', 'V', 'value'], means: 'the value' },
    q: { math: 'q', code: ['q', 'qt', 'Q', 'stagedQ'], means: 'the query' },
    e: { math: 'e', code: ['e', 'et'], means: 'the error: value minus what the key retrieves' },
    u: { math: 'u', code: ['u', 'ut'], means: 'what is written (in WGSL: the error)' },
    w: { math: 'w', code: ['w', 'wt', 'W', 'stagedW'], means: 'the decay' },
    beta: { math: 'β', code: ['beta'], means: 'the write strength' },
    o: { math: 'o', code: ['o', 'ot', 'O'], means: 'what is read' },
  },
  sections: [
    {
      title: 'The work',
      text: raw`For each token: recall what the key retrieves, write the error, read with the query, [@token]. On a processor the two last are one pass over the memory, because each row is in a register
        when it was just written.

        A thread of wasm takes a whole head, and four numbers of a row at a time. A thread of the GPU takes one column of the memory: columns never need each other, so
        nobody waits but for the keys that a workgroup brings in together.`,
      equations: [
        {
          id: 'token',
          tex: raw`e = v - S^\top k,\qquad u = \beta\, e,\qquad S \leftarrow S + k\, u^\top,\qquad o = S^\top q`,
          claim: 'delta: device = reference',
          check: 'recall, write, read',
        },
      ],
      columns: [
        {
          title: 'Reference: TypeScript, float64',
          file: 'engine/devices/reference/fast-weights.ts',
          from: 'function recurrent(S: Matrix, z: Vector, tokens: Tokens)',
        },
        { title: 'wasm: AssemblyScript', file: 'kernels-wasm/fast-weights-recurrent.ts', from: 'export function recurrent(' },
        {
          title: 'WebGPU: WGSL',
          file: 'kernels-wgsl/fast-weights-recurrent.wgsl',
          from: '@compute @workgroup_size(THREADS) fn recurrent(',
        },
      ],
    },
    {
      title: 'The error',
      text: raw`The same line three times. The reference calls \`read\`, two loops. AssemblyScript has the loops unrolled by eight columns and four rows, with four sums that don't wait for each
        other. WGSL has it inside its loop over channels: \`u -= a * held(...)\`.`,
      columns: [
        {
          title: 'Reference',
          file: 'engine/devices/reference/fast-weights.ts',
          from: 'function read({ rows, cols, data }: Matrix, q: Vector): Vector {',
        },
        { title: 'wasm', file: 'kernels-wasm/fast-weights-recurrent.ts', from: '@inline function recallFrom(' },
        {
          title: 'WebGPU',
          file: 'kernels-wgsl/fast-weights-recurrent.wgsl',
          from: 'var u = 0.0;',
          to: 'let a = stagedA[i - i0];',
          through: 'for (var i0 = 0u; p.reads != 0u',
          doc: false,
        },
      ],
    },
    {
      title: 'Write and read in one pass',
      text: raw`\`writeWith\` is the loop that counts on a processor. \`decays\` is known when it is compiled, so there are two loops in the end, and neither asks. \`madd\` is a fused multiply-add where
        the processor has one; the claim [@fma] says that this changes results by rounding alone.`,
      equations: [
        {
          id: 'fma',
          claim: 'delta: fused multiply-add = plain',
        },
      ],
      columns: [
        { title: 'Reference', file: 'engine/devices/reference/fast-weights.ts', from: 'function addOuter(' },
        { title: 'wasm', file: 'kernels-wasm/fast-weights-recurrent.ts', from: '@inline function writeWith(' },
        {
          title: 'WebGPU',
          file: 'kernels-wgsl/fast-weights-recurrent.wgsl',
          from: 'for (var i0 = 0u; i0 < p.K; i0 += STAGED) {',
          doc: false,
        },
      ],
    },
    {
      title: 'The backward pass',
      text: raw`Going back, the roles are exchanged. The gradient of a read is a read of the memory with the gradient, [@dq]. The gradient $\mathrm{d}S$ of the memory is itself a memory, which is written from the last token to the
        first, [@dv]. One could undo each update to get the memories back; where a rule forgets, that would divide by almost nothing. So they are computed once more and kept for the length of a span.

        WGSL goes back in chunks only. With $\beta$ in its keys its $X$ is $\mathrm{d}V$ itself, where [the chapter before](page:study/chunks/) has $\mathrm{diag}(\beta)\, X$.`,
      equations: [
        {
          id: 'dq',
          tex: raw`\mathrm{d}q_t = S_t\, \mathrm{d}y_t`,
          claim: 'delta: gradients of recurrent = autograd of step',
          check: 'backward of a read',
        },
        {
          id: 'dv',
          tex: raw`\mathrm{d}S \mathrel{+}= q_t\, \mathrm{d}y_t^\top,\qquad \mathrm{d}v_t = \beta_t\, \mathrm{d}S^\top k_t,\qquad \mathrm{d}S \mathrel{-}= k_t\, \mathrm{d}v_t^\top`,
          claim: 'delta: gradients of recurrent = autograd of step',
          check: 'backward of a write',
        },
      ],
      columns: [
        { title: 'Reference', file: 'engine/devices/reference/fast-weights.ts', from: 'function recurrentBackward(S: Matrix' },
        { title: 'wasm', file: 'kernels-wasm/fast-weights-recurrent.ts', from: 'export function recurrentBackward(' },
        {
          title: 'WebGPU: in chunks only',
          file: 'kernels-wgsl/fast-weights.wgsl',
          from: '//     dU = P^T G + K~ dS',
          to: '//     dQ~ = G S^T',
          doc: false,
        },
      ],
    },
  ],
}
