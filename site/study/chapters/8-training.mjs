import { raw } from './raw.mjs'

export default {
  slug: 'training',
  title: 'Training',
  description: 'From the loss to a step of Adam: what a trainer does, in what order, and what it frees.',
  lead: raw`A step of training is four lines: a loss, a backward pass, an update, and clearing up. This is what stands behind each.`,
  names: {
    p: { math: 'p', code: ['p'], means: 'a parameter' },
    g: { math: 'g', code: ['g', 'grad'], means: 'its gradient' },
    m: { math: 'm', code: ['m'], means: 'the running mean of gradients' },
    v: { math: 'v', code: ['v'], means: 'the running mean of their squares' },
    lr: { math: 'η', code: ['lr'], means: 'the learning rate' },
    logits: { math: 'x', code: ['logits'], means: 'what the model says about the next token, [rows,N]' },
    target: { math: 'c', code: ['target', 'targets'], means: 'the token that came' },
    loss: { math: 'L', code: ['loss', 'losses'], means: 'the loss' },
  },
  sections: [
    {
      title: 'The loss',
      text: raw`The model gives a number for each token that may come next, its logits. Cross-entropy is how surprised it was by the one that came, in nats, [@loss]. Knowing nothing of
        N tokens costs $\log N$.

        The gradient is as simple as it could be: what it said minus what came, [@dloss].`,
      equations: [
        {
          id: 'loss',
          tex: raw`L = -\frac1R \sum_r \log \mathrm{softmax}(x_r)_{c_r}`,
          test: ['test/ops/engine.test.ts', 'cross-entropy looks at nothing of a row whose target is ignored'],
          check: 'cross-entropy',
        },
        {
          id: 'dloss',
          tex: raw`\frac{\partial L}{\partial x_{rj}} = \frac1R \bigl(\mathrm{softmax}(x_r)_j - \delta_{j c_r}\bigr)`,
          test: ['test/ops/gradients.test.ts', 'backward agrees with differences'],
          check: 'backward of cross-entropy',
        },
      ],
      code: {
        file: 'engine/devices/reference/norm.ts',
        from: 'crossEntropy(logits, target, loss, lse, R, N, ignore) {',
        through: 'crossEntropyBackward(logits, target, lse, dloss, dlogits, R, N, ignore) {',
        doc: false,
        notes: [
          ['lse.data[r] = top + log', 'The logarithm of the sum is kept: the backward makes the softmax from it.'],
          ['const softmax = Math.exp(logits.data[i] - lse.data[r])', 'What it said ...'],
          ['(softmax - (j === target.data[r] ? 1 : 0))', '... minus what came.'],
        ],
      },
    },
    {
      title: 'A step of Adam',
      text: raw`Adam keeps two numbers for each parameter: a running mean of gradients and one of their squares. It goes by the first divided by the root of the second, so every
        parameter moves by about the learning rate, however large its gradients are, [@adam]. Both means begin at 0 and are too small at first; dividing by $1 - \beta^t$ corrects that.`,
      equations: [
        {
          id: 'adam',
          tex: raw`m \leftarrow \beta_1 m + (1 - \beta_1) g,\quad v \leftarrow \beta_2 v + (1 - \beta_2) g^2,\quad p \leftarrow p - \eta\, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \varepsilon}`,
          test: ['test/nn/training.test.ts', 'follows its formula, clipped at'],
          check: 'a step of Adam',
        },
      ],
      code: {
        file: 'engine/devices/reference/optimizer.ts',
        from: 'adam(slots, gradScale, options) {',
        notes: [
          ['const grad = g.data[i] * scale', 'Clipping is a factor that all gradients share.'],
          ['const decay = decoupled', 'AdamW lets weights decay beside the step, not through the gradient.'],
        ],
      },
    },
    {
      title: 'Clipping',
      text: raw`One bad batch can have a gradient a hundred times as large as usual. If the norm of all gradients together is above a bound, all are scaled down to it, [@clip]. The norm stays on the
        device: nothing waits for it before the update.`,
      equations: [
        {
          id: 'clip',
          tex: raw`g \leftarrow g \cdot \min\Bigl(1, \frac{c}{\|g\| + 10^{-6}}\Bigr)`,
          test: ['test/nn/training.test.ts', 'follows its formula, clipped at'],
          check: 'a clipped step',
        },
      ],
      code: {
        file: 'nn/optimizers.ts',
        from: 'private update(lr: () => number, clipNorm: number | undefined): Tensor {',
        notes: [
          ['const measured = gradNorm(', 'Of all gradients together.'],
          ['const corrections = () => {', 'A function, since a step that was captured is replayed with other numbers.'],
          ['adamSteps(adam', 'All parameters in one call of a kernel.'],
        ],
      },
    },
    {
      title: 'The trainer',
      text: raw`Now the four lines. They run inside \`scope\`, which frees every tensor that was made and isn’t returned, so memory is the same after each step. One read brings loss and norm back together:
        the only moment when anybody waits for the device.

        Training a model is that, ten thousand times: [the playground](page:) does it in your browser.`,
      code: {
        file: 'nn/trainer.ts',
        from: 'private update(batch: BatchOf<M>): Tensor {',
        through: 'private run(batch: BatchOf<M>): Promise<HostArray> {',
        notes: [
          ["const loss = span('forward'", 'Forward: the tape is written.'],
          ['loss.backward(seed, { release: true })', 'Backward: gradients arrive, activations go.'],
          ['const norm = this.optimizer.step(', 'The update.'],
          ['this.optimizer.zeroGrad()', 'Cleared even if something failed, so that the next step doesn’t add to it.'],
          ['const measured = scope(() => this.update(batch))', 'Everything else is freed here.'],
        ],
      },
    },
    {
      title: 'What a model does with a batch',
      text: raw`Embeddings, then layers, each a mixer over time and a small net for each token, then logits. A mixer is anything that maps [B,T,D] to [B,T,D] and never looks ahead: a rule, softmax attention, a
        recurrent net. [Each has a page](page:study/rules/).`,
      code: {
        file: 'nn/transformer.ts',
        from: 'hidden(tokens: Tensor',
        notes: [
          ['let x = embed(', 'A vector for each token.'],
          [
            'this.transformer.layers.forEach((layer, i) => {',
            'Each layer gets the state that an earlier piece of the sequence left, if there is one.',
          ],
          ['layers.push(result.state)', 'And leaves its own.'],
        ],
      },
    },
  ],
}
