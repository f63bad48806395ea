import { raw } from './raw.mjs'

export default {
  slug: 'generation',
  title: 'Generation in constant memory',
  description: 'A text of any length from a state that never grows: what is carried from token to token.',
  lead: raw`Softmax attention looks back at all that was said, so each token costs more than the one before. Fast weights have it all in a matrix. The millionth token takes as long as the tenth.`,
  names: {
    state: { math: 'S', code: ['state', 'before', 'after'], means: 'what is carried on: the fast weights of each layer' },
    logits: { math: 'x', code: ['logits'], means: 'what the model says about the next token' },
    temperature: { math: 'τ', code: ['temperature'], means: 'below 1 sharpens, above 1 flattens' },
    token: { code: ['token', 'tokens', 'prompt'], means: 'what was said' },
    captured: { code: ['captured', 'capture', 'decoder'], means: 'a step that is noted once and replayed' },
  },
  sections: [
    {
      title: 'What is carried on',
      text: raw`A rule returns the memory after the last token. Given to the next call it goes on from there, and it makes no difference where the sequence was cut, [@cut]. The same holds
        for a whole model: token by token it says what it says about the text as a whole, [@pieces].

        That is why one model has two lives: chunks of many tokens when it trains and reads a prompt, single tokens when it writes.`,
      equations: [
        {
          id: 'cut',
          tex: raw`f(x_{1:T}, S_0) = \bigl[\, f(x_{1:c}, S_0),\; f(x_{c+1:T}, S_c) \,\bigr]`,
          claim: 'delta: state carried over a cut',
          check: 'a cut changes nothing',
        },
        {
          id: 'pieces',
          tex: raw`\mathrm{logits}(x_{1:T})_T = \mathrm{logits}(x_T \mid S_{T-1})`,
          test: ['test/nn/state.test.ts', 'carry a sequence over pieces, without their history or their memory'],
          check: 'a model in pieces',
        },
      ],
      code: {
        file: 'nn/generate.ts',
        from: 'async function run(model: LanguageModel',
        notes: [
          ['const result = model.forward(', 'The whole prompt at once, or one token; it is the same call.'],
          ['mapState(state, keep)', 'The state outlives the scope, and nothing else does but the last row of logits.'],
        ],
      },
    },
    {
      title: 'How large it is',
      text: raw`The size of a state follows from the settings of the model, [@size] for one layer. Fast weights have a number that doesn’t depend on the text; softmax attention has one that counts for
        each token. $H$ heads have a matrix each, whose rows are $K'$ features of a key: as many as the feature map makes of its $K$ numbers. The 1 is the place in the text, which the model counts.

        So it is where the memory is $S$ alone. A normaliser adds $H K'$ numbers, and a convolution the inputs that it looks back at.`,
      equations: [
        {
          id: 'size',
          tex: raw`\text{fast weights: } H K' V + 1,\qquad \text{softmax: } 1 + T \cdot H (K + V)`,
          test: ['test/nn/state.test.ts', 'have the sizes of the formulas'],
          check: 'the size of a state',
        },
      ],
      code: {
        file: 'nn/state.ts',
        from: 'export const stateSize =',
        through: 'function sizeOfParts(',
        notes: [['/** How many numbers each token adds', 'An axis of -1 grows with time. No rule has one.']],
      },
    },
    {
      title: 'Choosing a token',
      text: raw`The logits become probabilities, $\tau$ sharpens or flattens them, and a number from a seed decides, [@temperature]. The draw happens on the host, in float64, from the same random stream on
        every device, so a seed gives the same text wherever the logits agree.`,
      equations: [
        {
          id: 'temperature',
          tex: raw`p_i = \frac{e^{x_i / \tau}}{\sum_j e^{x_j / \tau}},\qquad \tau = \tfrac12 \;\Rightarrow\; p_i \propto \mathrm{softmax}(x)_i^2`,
          test: ['test/nn/generate.test.ts', 'samples in proportion to the probabilities, from the k likeliest'],
          check: 'temperature',
        },
      ],
      code: {
        file: 'nn/generate.ts',
        from: 'export function sample(',
        notes: [
          ['if (temperature === 0)', 'At 0 the likeliest token always.'],
          ['let left = u * total', 'A point on a line as long as all weights; where it falls is the token.'],
        ],
      },
    },
    {
      title: 'Once noted, then replayed',
      text: raw`Every token asks for the same kernels on the same memory. So the step is captured once: the list of calls is kept, the state goes back and forth between two places, and from then on
        a token is one replay. Figures: [seven to twelve times as fast](source:docs/figures.md#A captured step is 7 to 12 times as fast), over 100,000 characters without a byte more.`,
      equations: [
        {
          id: 'flat',
          tex: raw`\mathrm{bytes}(20{,}000 \text{ tokens}) = \mathrm{bytes}(5{,}000 \text{ tokens})`,
          test: ['test/nn/generate.test.ts', 'keeps its memory over 20,000 tokens'],
        },
      ],
      code: {
        file: 'nn/generate.ts',
        from: 'async function decoder(model: LanguageModel',
        notes: [
          ['const step = (carried: CarriedState): CaptureResult =>', 'The step, from a state to the next.'],
          ['captured = await capture(', 'Run once, and noted.'],
          ['captured.replay()', 'From now on.'],
        ],
      },
    },
  ],
}
