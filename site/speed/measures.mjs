/** What the speed page measures, in the order of its table and of links. */
export const measures = [
  { name: 'product', label: 'A product', unit: 'GFLOP/s', how: 'Two matrices of 512 × 512 are multiplied: 0.27 GFLOP.' },
  {
    name: 'forward',
    label: 'The delta rule',
    unit: 'tokens/s',
    how: 'Four heads of 64 × 64 read and write over 2 × 512 tokens, in chunks of 64.',
  },
  { name: 'backward', label: 'The delta rule with its gradients', unit: 'tokens/s', how: 'The same, and back through it to every input.' },
  {
    name: 'step',
    label: 'A training step',
    unit: 'tokens/s',
    how: 'The small delta model, 64 wide with two layers, learns from 8 × 64 tokens: forward, backward and Adam.',
  },
  { name: 'decode', label: 'Generation', unit: 'tokens/s', how: 'The same model writes, a token after the other, in constant memory.' },
]
