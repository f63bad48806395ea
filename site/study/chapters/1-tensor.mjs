import { raw } from './raw.mjs'

export default {
  slug: 'tensor',
  title: 'A tensor and its tape',
  description: 'How numbers, the ops that made them and their gradients hang together: the engine under everything else.',
  lead: raw`A tensor is an array of numbers with a shape, on a device. What makes it more than an array is that it knows which op made it. That is all that
    automatic differentiation needs: from a loss one can walk back, op by op, to every number that had a part in it.`,
  names: {
    x: { math: 'x', code: ['x'], means: 'a tensor that a gradient is asked for' },
    y: { math: 'y', code: ['y', 'outputs'], means: 'what an op made of it' },
    L: { math: 'L', code: ['loss', 'root'], means: 'the loss, one number: where the walk begins' },
    node: { code: ['node', 'Node'], means: 'a piece of the tape: one op that ran, with its inputs and outputs' },
    backward: { code: ['backward', 'Backward'], means: 'a function from the gradients of the outputs to those of the inputs' },
    waiting: { code: ['waiting', 'slots', 'put'], means: 'gradients that wait for the op that made their tensor' },
  },
  sections: [
    {
      title: 'What a tensor holds',
      text: raw`The numbers lie in the memory of a device; the tensor has only a handle to them, \`storage\`, which no op looks into. So the same op runs on the
        plain reference, in WebAssembly and on a GPU.

        \`grad\` is empty until a backward pass has come by. \`node\` is the op that made this tensor; a parameter or an input has none.`,
      code: {
        file: 'engine/tensor.ts',
        from: 'export class Tensor implements Scoped {',
        to: 'output = 0',
        notes: [
          [
            '  requiresGrad = false',
            'Set by hand on what is to learn. The result of an op has it where one of its inputs has it, so it spreads along the tape by itself.',
          ],
          [
            'grad: Tensor | null = null',
            'A gradient has the shape of its tensor. It is added to, not replaced: two backward passes give the sum, until somebody clears it.',
          ],
          [
            'node: Node | null = null',
            'The link back. Following it from tensor to op and from op to inputs *is* the tape; there is no list anywhere else.',
          ],
        ],
      },
    },
    {
      title: 'Writing the tape',
      text: raw`An op computes its result first, by whatever means, and then calls \`record\`. What is recorded is one \`Node\`: the inputs, the outputs and a function
        that says how gradients go back. That function may keep what it needs in its closure.`,
      code: {
        file: 'engine/autograd.ts',
        from: 'export function recordMany(',
        notes: [
          [
            'if (!records(inputs)) return',
            'Where no input needs a gradient, or inside `noGrad`, nothing is kept. Inference costs no tape.',
          ],
          [
            'const versions',
            'Each tensor counts how often its memory was overwritten. A backward that finds another count than at the time of the op refuses to go on, and says which op it was.',
          ],
          ['outputs.forEach', 'The outputs now know where they come from.'],
        ],
      },
    },
    {
      title: 'Going back',
      text: raw`Let $L$ be the loss. For each tensor $x$ we want $\partial L / \partial x$, an array of the shape of $x$. An op that made $y$ from $x$ knows how $L$ changes
        with $x$ once it is told how $L$ changes with $y$: that is the chain rule, [@chain]. A tensor that several ops have used gets something from each, and these
        parts add up, [@sum].

        So an op must not be visited before all that used its result have been. Ids of nodes grow in the order in which the ops ran; newest first is
        therefore an order that works, and no other bookkeeping is needed.`,
      equations: [
        {
          id: 'chain',
          tex: raw`y = \tanh(A x),\quad L = \sum_{ij} w_{ij}\, y_{ij} \;\Rightarrow\; \frac{\partial L}{\partial x} = A^\top \bigl(w \odot (1 - y \odot y)\bigr)`,
          test: ['test/ops/engine.test.ts', 'goes through diamonds once a node'],
          check: 'chain of two ops',
        },
        {
          id: 'sum',
          tex: raw`\frac{\partial L}{\partial x} = \sum_{y \text{ made of } x} \frac{\partial L}{\partial y} \frac{\partial y}{\partial x},\qquad L = \sum_{ij} (x_{ij}^2 + 3 x_{ij}) \;\Rightarrow\; \frac{\partial L}{\partial x} = 2 x + 3`,
          test: ['test/ops/engine.test.ts', 'adds up what a tensor used many times receives'],
          check: 'uses add up',
        },
      ],
      code: {
        file: 'engine/tensor.ts',
        from: 'export function walk(',
        notes: [
          [
            'const put =',
            'A gradient has arrived for `x`. If an op made `x`, it waits there, added to what waits already. If not, `x` is a leaf, and it goes into `grad`.',
          ],
          ['const nodes = newestFirst(begun)', 'Every op once, the newest first.'],
          [
            'const gradients = gradientsOf(node, grads, sofar)',
            'The op’s own backward, on the sum of all that has arrived. It gives one gradient for each input, or null.',
          ],
          [
            'while (held.length > 0',
            'During training, activations are freed on the way back, as soon as no op is left that may need them.',
          ],
        ],
      },
    },
    {
      title: 'Why we believe it',
      text: raw`A gradient says by how much the loss changes when one number changes a little. This can be measured without any calculus: change the number, compute again,
        divide. Every op of the engine is checked so on the float64 reference, where the differences have nine good digits. The same function is there for
        ops of your own.`,
      equations: [
        {
          id: 'slope',
          tex: raw`\frac{\partial L}{\partial x_i} \approx \frac{L(x + h e_i) - L(x - h e_i)}{2h}`,
          test: ['test/ops/gradients.test.ts', 'backward agrees with differences'],
          check: 'gradients are slopes',
        },
      ],
      code: {
        file: 'engine/gradcheck.ts',
        from: 'const numeric = new Float64Array(inputs[i].size)',
        to: 'const noise =',
        doc: false,
        notes: [
          [
            'numeric[e] = (above - below) / (2 * step)',
            'Two more evaluations for each number: far too slow to train with, and just right to check with.',
          ],
        ],
      },
    },
  ],
}
