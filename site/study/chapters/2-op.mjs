import { raw } from './raw.mjs'

export default {
  slug: 'op',
  title: 'An op with its backward',
  description: 'Softmax from its formula to its kernel and its gradient, and how an op of your own is written.',
  lead: raw`An op is three things: a check of what it is given, a kernel that computes, and a backward. We take softmax, the one op that fast weights set out to replace.`,
  names: {
    x: { math: 'x', code: ['x', 'logits'], means: 'a row of numbers of any size' },
    y: { math: 'y', code: ['y'], means: 'its softmax: positive, and 1 in sum' },
    dy: { code: ['dy'], means: 'how the loss changes with y' },
    dx: { code: ['dx'], means: 'how the loss changes with x: what the backward has to give' },
    top: { math: 'm', code: ['top'], means: 'the largest of the row' },
    total: { code: ['total'], means: 'a sum over the row' },
  },
  sections: [
    {
      title: 'The op',
      text: raw`The op knows shapes and devices, and no arithmetic. It asks the device of \`x\` for a kernel by name. What the backward needs, here the result
        \`y\`, is kept by being mentioned in a function.`,
      code: {
        file: 'engine/ops/norm.ts',
        from: 'function softmaxOp(',
        notes: [
          ['const [R, n] = rowsOf(op, x)', 'All row ops see `x` as R rows of n numbers, whatever axes come before the last.'],
          ['kernels.softmax(x.storage', 'The device only notes this on a GPU; nothing waits until somebody reads.'],
          [
            'return record(op, [x], y, (dy) => {',
            'The backward asks for a kernel, too. It runs on the same device, and is itself not recorded.',
          ],
        ],
      },
    },
    {
      title: 'The forward kernel',
      text: raw`This is the reference: float64, no tricks, and therefore the specification of the fast ones. One thing is no trick but part of the op: the largest
        entry is taken off first, [@softmax]. The result is the same, and $e^{x}$ never overflows.`,
      equations: [
        {
          id: 'softmax',
          tex: raw`y_j = \frac{e^{x_j}}{\sum_i e^{x_i}} = \frac{e^{x_j - m}}{\sum_i e^{x_i - m}},\quad m = \max_i x_i`,
          test: ['test/ops/values.test.ts', 'softmax without overflow'],
          check: 'softmax',
        },
      ],
      code: {
        file: 'engine/devices/reference/norm.ts',
        from: 'softmax(x, y, R, n, log, causal) {',
        notes: [
          [
            'const count = seen(r, n, causal)',
            'Causal attention: a query sees only what came before it. What it doesn’t see isn’t looked at at all, so not even a NaN gets through.',
          ],
          ['top = Math.max(top', 'The largest entry of what is seen.'],
          ['const total = sumOf', 'The sum, of numbers of which one is 1 and none is larger.'],
        ],
      },
    },
    {
      title: 'The backward kernel',
      text: raw`Each $y_j$ depends on every $x_i$: $\partial y_j / \partial x_i = y_j (\delta_{ij} - y_i)$. Put into the chain rule, the double sum falls apart into one sum
        a row, [@softmax-backward]. No matrix of n times n is ever made.

        Adding the same number to a whole row changes no $y$. So gradients of a row must sum to zero, [@shift]: a property that a wrong backward hardly ever has.`,
      equations: [
        {
          id: 'softmax-backward',
          tex: raw`\frac{\partial L}{\partial x_i} = y_i \Bigl(\frac{\partial L}{\partial y_i} - \sum_j \frac{\partial L}{\partial y_j}\, y_j\Bigr)`,
          test: ['test/ops/gradients.test.ts', 'backward agrees with differences'],
          check: 'softmax backward',
        },
        {
          id: 'shift',
          tex: raw`\mathrm{softmax}(x + c) = \mathrm{softmax}(x) \;\Rightarrow\; \sum_i \frac{\partial L}{\partial x_i} = 0`,
          test: ['test/ops/gradients.test.ts', 'backward agrees with differences'],
          check: 'softmax is blind to a shift',
        },
      ],
      code: {
        file: 'engine/devices/reference/norm.ts',
        from: 'softmaxBackward(y, dy, dx, R, n, log) {',
        notes: [
          ['const total = sumOf', 'The one sum of the row.'],
          [
            'else dx.data[i] = y.data[i] === 0',
            'The formula. Where y is exactly 0, since the entry wasn’t seen or its power of e is too small for a number, nothing goes back, whatever `dy` holds.',
          ],
        ],
      },
    },
    {
      title: 'An op of your own',
      text: raw`Most ops need none of this: a composition of existing ops has its gradients already. Where a backward has a better form, \`customOp\` takes it.
        [The document on rules](source:docs/rules.md#An op of your own) has a whole example, which the tests run.`,
      code: {
        file: 'engine/autograd.ts',
        from: 'export function customOp(',
        notes: [
          ['const y = noGrad(forward)', 'What happens inside isn’t recorded: the op is one node.'],
          ['return record(op, inputs, y', 'From here on it is an op like any other.'],
        ],
      },
    },
  ],
}
