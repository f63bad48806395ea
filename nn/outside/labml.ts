/** labml's transformers (labml.ai, annotated_deep_learning_paper_implementations). */
import { generator } from '../../engine/random.ts'
import { Aft } from '../aft.ts'
import { FastWeightsAttention } from '../attention.ts'
import type { StateDictEntry } from '../module.ts'
import { Transformer } from '../transformer.ts'
import { layersIn, type Options, type OutsideClass, sinusoidal } from './class.ts'

const width = { description: 'width of the model' }
const dropout = { description: 'probability of dropping an activation', default: 0, below: 1 } as const
const nu = { description: 'nu of DPFP', default: 1 }
const window = { description: 'tokens less than so many places apart have a bias' }
const table = { description: 'sequence length, the side of the table of biases' }

/** The window whose table of true and false this is; Aft checks the rest of it. */
function windowOf(mask: StateDictEntry | undefined): Options {
  if (mask === undefined) return {}
  const N = mask.shape[1]
  let s = 0
  while (s < N && Number(mask.data[s]) === 1) s++
  return { local_window_size: s }
}

export const labml = {
  FastWeightsAttention: {
    source: 'labml_nn/transformers/fast_weights',
    options: { d_model: width, heads: { description: 'heads' }, nu },
    read: (shapeOf) => ({ d_model: shapeOf('output.weight')[0], heads: shapeOf('interpolation_weight.0.linear.weight')[0] }),
    make: ({ d_model: dModel, heads, nu }) => new FastWeightsAttention({ dModel, heads, nu }, generator(1)),
  },
  FastWeightsAttentionTransformer: {
    source: 'labml_nn/transformers/fast_weights',
    options: {
      n_vocab: { description: 'symbols' },
      d_model: width,
      n_layers: { description: 'layers' },
      d_ff: { description: 'inner width of the feed-forward layers' },
      heads: { description: 'heads' },
      nu,
      dropout,
    },
    read: (shapeOf, dict) => ({
      n_vocab: shapeOf('src_embed.weight')[0],
      d_model: shapeOf('src_embed.weight')[1],
      n_layers: layersIn(dict, 'transformer.layers.'),
      d_ff: shapeOf('transformer.layers.0.feed_forward.layer1.weight')[0],
      heads: shapeOf('transformer.layers.0.attn.interpolation_weight.0.linear.weight')[0],
    }),
    make: ({ n_vocab: symbols, d_model: dModel, n_layers: layers, d_ff: dFf, heads, nu, dropout }) =>
      new Transformer({ symbols, dModel, layers, dFf, heads, nu, dropout }),
  },
  AFTLocal: {
    source: 'labml_nn/transformers/aft',
    options: { d_model: width, seq_len: table, local_window_size: window, bias: { description: 'whether projections have a bias' } },
    read: (shapeOf, dict) => ({
      d_model: shapeOf('query.weight')[0],
      seq_len: shapeOf('pos_bias')[0],
      bias: dict.has('query.bias'),
      ...windowOf(dict.get('local_mask')),
    }),
    make: ({ d_model: dModel, seq_len: tableLength, local_window_size: window, bias: projectionBias }) =>
      new Aft({ dModel, form: 'local', tableLength, window, projectionBias }, generator(1)),
  },
  AutoregressiveTransformer: {
    source: 'labml_nn/transformers/aft/experiment, with AFTLocal in every layer and fixed positions',
    options: {
      n_tokens: { description: 'symbols' },
      d_model: width,
      n_layers: { description: 'layers' },
      d_ff: { description: 'inner width of the feed-forward layers' },
      seq_len: table,
      local_window_size: window,
      dropout,
    },
    read: (shapeOf, dict) => ({
      n_tokens: shapeOf('src_embed.linear.weight')[0],
      d_model: shapeOf('src_embed.linear.weight')[1],
      n_layers: layersIn(dict, 'encoder.layers.'),
      d_ff: shapeOf('encoder.layers.0.feed_forward.layer1.weight')[0],
      seq_len: shapeOf('encoder.layers.0.self_attn.pos_bias')[0],
      ...windowOf(dict.get('encoder.layers.0.self_attn.local_mask')),
    }),
    make: ({ n_tokens: symbols, d_model: dModel, n_layers: layers, d_ff: dFf, seq_len: tableLength, local_window_size: window, dropout }) =>
      new Transformer({
        ...{ symbols, dModel, layers, dFf, dropout },
        mixer: { kind: 'aft-local', tableLength, window },
        attentionNorm: true,
        positions: 'sinusoidal',
        embeddingScale: 'sqrt',
      }),
    names: [
      ['src_embed.linear.', 'src_embed.'],
      ['encoder.', 'transformer.'],
      ['.self_attn.', '.attn.'],
      ['generator.projection.', 'generator.'],
    ],
    buffers: { 'src_embed.positional_encodings': sinusoidal },
  },
} satisfies Record<string, OutsideClass>
