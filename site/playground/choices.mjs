/** What the playground's settings may be, from the library's own tables, with a line about each. The first choice is the default. */
import { rules } from '../../dist/engine/index.js'
import { featureMaps, featureNorms, gates, layerRules, mixers } from '../../dist/nn/index.js'
import { presets } from '../../dist/tasks/index.js'

/** A rule's keys are exponents there, which no feature map changes (nn/attention.ts). */
const exponents = ['rwkv4', 'lightnet']
const nets = Object.keys(presets).filter((name) => presets[name].model.mixer?.kind === 'recurrent-net')
const others = ['softmax', 'aft-full', 'aft-local', 'aft-simple', 'aft-conv']

const ruleRow = (name) => {
  const { title, source, inputs } = rules[name]
  const takes = ['q' in inputs && !exponents.includes(name) && 'map', 'gate' in inputs && 'gate'].filter(Boolean)
  return { value: name, label: name, how: `${title}. ${source}.`, takes }
}
const otherRow = (name) => ({ value: name, label: name, how: `${mixers[name].description}. ${mixers[name].source}.`, takes: [] })
const netRow = (name) => ({
  value: name,
  label: name,
  how: `${presets[name].description.replace(/^the default with /, '')}.`,
  takes: [],
})

const ruleGroups = [
  { label: 'Rules of fast weights', rows: ['delta', ...layerRules.filter((name) => name !== 'delta')].map(ruleRow) },
  { label: 'Attention and AFT', rows: others.map(otherRow) },
  { label: 'Recurrent nets', rows: nets.map(netRow) },
]

const plain = (values) => values.map((value) => ({ value: `${value}`, label: `${value}` }))
/** The default, then all that a slider has. */
const range = (first, low, high, by) => [
  first,
  ...Array.from({ length: (high - low) / by + 1 }, (_, i) => low + i * by).filter((n) => n !== first),
]
const asInPaper = { value: 'auto', label: 'as in its paper' }

export const settings = [
  {
    name: 'task',
    label: 'Task',
    how: 'What is learnt: a text, letter by letter, or one of the tasks of the papers.',
    rows: [
      { value: 'text', label: 'a text', how: 'The next character is asked for at each place.' },
      {
        value: 'retrieval',
        label: 'retrieval',
        how: 'Pairs of a key and a value; keys come again with new values. Then a key’s last value is asked for.',
      },
      { value: 'parity', label: 'parity', how: 'After each bit: was the number of ones so far odd?' },
      { value: 'copy', label: 'copy', how: 'A pattern of bits is shown, and asked for after it.' },
    ],
  },
  {
    name: 'rule',
    label: 'Rule',
    how: 'How the fast weights are written.',
    groups: ruleGroups,
    rows: ruleGroups.flatMap(({ rows }) => rows),
  },
  {
    name: 'map',
    label: 'Feature map',
    how: 'What keys and queries go through. Its width bounds how many pairs fit in.',
    rows: [asInPaper, ...plain(Object.keys(featureMaps))],
  },
  {
    name: 'norm',
    label: 'Norm of features',
    how: 'l2 gives every key length 1; sum gives it the sum 1.',
    rows: [asInPaper, ...plain(Object.keys(featureNorms))],
  },
  {
    name: 'gate',
    label: 'Gate',
    how: 'How much is forgotten at each token, where the rule forgets.',
    rows: [asInPaper, ...plain(Object.keys(gates))],
  },
  {
    name: 'width',
    label: 'Width',
    how: 'Numbers for each token. A head’s memory has (width / heads)² of them.',
    rows: plain([64, 16, 32, 96, 128, 256]),
  },
  { name: 'heads', label: 'Heads', how: 'Memories side by side in each layer.', rows: plain([4, 1, 2, 8]) },
  { name: 'layers', label: 'Layers', how: 'Memories one above the other.', rows: plain([2, 1, 3, 4, 6]) },
  {
    name: 'rate',
    label: 'Learning rate',
    how: 'Of Muon, in parts of the default recipe’s.',
    rows: [1, 0.1, 0.3, 3].map((n) => ({ value: `${n}`, label: `${n} ×` })),
  },
  { name: 'seed', label: 'Seed', how: 'Of the first weights and the batches.', rows: plain([1, 2, 3, 4, 5]) },
  {
    name: 'device',
    label: 'Device',
    how: 'Auto takes a GPU if it is faster than wasm for this model.',
    rows: [
      { value: 'auto', label: 'auto' },
      { value: 'wasm', label: 'wasm', how: 'SIMD on the processor, with threads where the page may have them.' },
      { value: 'webgpu', label: 'WebGPU', how: 'A GPU, or where there is none a program that computes as one.' },
      { value: 'reference', label: 'reference', how: 'Plain TypeScript in float64, slow: the oracle of the tests.' },
    ],
  },
  {
    name: 'pace',
    label: 'Speed',
    how: '',
    bar: true,
    rows: [{ value: 'full', label: 'full' }, ...[10, 3, 1].map((n) => ({ value: `${n}`, label: n === 1 ? '1 step/s' : `${n} steps/s` }))],
  },
  // Of the memory that is shown, from 1.
  { name: 'layer', label: 'Layer', how: '', hidden: true, rows: plain([1, 2, 3, 4, 5, 6]) },
  { name: 'head', label: 'Head', how: '', hidden: true, rows: plain([1, 2, 3, 4, 5, 6, 7, 8]) },
  // Of the experiment on capacity.
  { name: 'pairs', label: 'Pairs', how: '', hidden: true, rows: plain(range(48, 2, 160, 1)) },
  { name: 'keyWidth', label: 'Width of keys', how: '', hidden: true, rows: plain(range(16, 4, 64, 4)) },
  {
    name: 'keyMap',
    label: 'Feature map of keys',
    how: '',
    hidden: true,
    rows: plain(['identity', 'elu1', 'relu', 'dpfp-1', 'dpfp-2', 'dpfp-3']),
  },
  { name: 'keys', label: 'Keys', how: '', hidden: true, rows: plain(['orthogonal', 'random']) },
  {
    name: 'text',
    label: 'Text',
    how: '',
    hidden: true,
    rows: [
      { value: 'page', label: 'page' },
      { value: 'own', label: 'own' },
    ],
  },
]
