/** recurrent-fwp's layers and models for algorithmic tasks (algorithmic/) and for reinforcement learning (torchbeast/). */
import { deltaRnn } from '../../engine/nets/delta.ts'
import { add } from '../../engine/ops/elementwise.ts'
import type { Tensor } from '../../engine/tensor.ts'
import { netCore, type Tensors } from '../cores.ts'
import { Embedding, LayerNorm, Linear } from '../layers.ts'
import { sinusoids } from '../packing.ts'
import { layersIn, type Options, type OutsideClass, sinusoidal } from './class.ts'
import { OutsideModule } from './layer.ts'
import { dimHead, dropout, feedForward, inner, inside, numHead, random, stackRow, width } from './shells.ts'
import {
  elu1,
  type LinearCore,
  linearCore,
  overSum,
  recurrentDelta,
  recurrentFwp,
  type Slot,
  slowLstm,
  softmaxCore,
  states,
} from './slots.ts'

type SlotOf = (o: { H: number; d: number; D: number }) => Slot

const ofRule =
  (core: Omit<LinearCore, 'K'>): SlotOf =>
  ({ H, d }) => ({ core: linearCore(H, d, { ...core, K: d }) })
const unnormalised = { normaliser: null }
/** What both divide by in torchbeast has 1e-5 beside it. */
const torchbeast = overSum(elu1, 1e-5)

const algorithmicSlots: Readonly<Record<string, SlotOf>> = {
  Attentionlayer: ({ H, d }) => ({ core: softmaxCore(H, d) }),
  LinearAttentionlayer: ofRule({ rule: 'sum', phi: elu1, ...unnormalised }),
  FastFFlayer: ofRule({ rule: 'delta', phi: overSum(elu1), ...unnormalised }),
  FastRNNlayer: ({ H, d }) => ({ core: netCore(deltaRnn({ K: d, V: d }), H) }),
  RecUpdateTanhFastFFlayer: ({ H, d }) => recurrentDelta(H, d),
  FastFFslowRNNlayer: ({ H, d, D }) => slowLstm(H, d, D),
  'torchbeast.AdditiveFastFFlayer': ofRule({ rule: 'sum', phi: torchbeast, ...unnormalised }),
  'torchbeast.FastFFlayer': ofRule({ rule: 'delta', phi: torchbeast, ...unnormalised }),
  'torchbeast.FastRNNlayer': ({ H, d }) => ({ core: netCore(deltaRnn({ K: d, V: d, features: 'softmax' }), H) }),
  'torchbeast.RecUpdateTanhFastFFlayer': ({ H, d }) => recurrentDelta(H, d),
}

/** y = x + out_linear(net(slow_net(LN(x)))). */
function algorithmicLayer(slotOf: SlotOf, { num_head: H, dim_head: d, in_dim: D, dropout }: Options): OutsideModule {
  const slot = slotOf({ H, d, D })
  const { parts, run } = inside(slot, { D, projection: 'slow_net', output: 'out_linear', dropout })
  const layer_norm = new LayerNorm(D)
  const forward = (x: Tensor, before?: Tensors) => {
    const { y, state } = run(layer_norm.forward(x), before)
    return { y: add(x, y), state }
  }
  return new OutsideModule({ layer_norm, ...parts }, forward, states(slot.core, recurrentFwp), D)
}

const algorithmicRow = (name: string): OutsideClass<OutsideModule> => ({
  source: `recurrent-fwp, ${name.startsWith('torchbeast.') ? 'reinforcement_learning/torchbeast/layer.py' : 'algorithmic/layers.py'}`,
  options: { num_head: numHead, dim_head: dimHead, in_dim: width, dropout },
  read: (shapeOf) => ({ in_dim: shapeOf('layer_norm.weight')[0] }),
  make: (o) => algorithmicLayer(algorithmicSlots[name], o),
})

export const feedForwardRow = (source: string): OutsideClass<OutsideModule> => ({
  source,
  options: { res_dim: width, ff_dim: inner, dropout, use_layernorm: { description: 'whether it begins with a layer norm', default: true } },
  read: (shapeOf, dict) => ({
    res_dim: shapeOf('ff_layers.0.weight')[1],
    ff_dim: shapeOf('ff_layers.0.weight')[0],
    use_layernorm: dict.has('layer_norm.weight'),
  }),
  make: ({ res_dim, ff_dim, dropout, use_layernorm: norm }) => feedForward(res_dim, ff_dim, { list: 'ff_layers', dropout, norm }),
})

/** Tokens [B,T] to logits: an embedding, positions perhaps, layers and feed-forward layers in turn, and a linear layer. */
function algorithmicModel(name: string, o: Options): OutsideModule {
  const { in_vocab_size, out_vocab_size, hidden_size: D, num_layers, num_head, dim_head, dim_ff, dropout, use_pos_enc } = o
  const embedding = new Embedding(in_vocab_size, D, random())
  const nothing = new OutsideModule({}, (x) => ({ y: x, state: {} }))
  const layers: OutsideModule[] = [
    ...(use_pos_enc ? [nothing] : []),
    ...Array.from({ length: num_layers }, () => [
      algorithmicLayer(algorithmicSlots[name], { num_head, dim_head, in_dim: D, dropout }),
      feedForward(D, dim_ff, { list: 'ff_layers', dropout }),
    ]).flat(),
  ]
  const out_layer = new Linear(D, out_vocab_size, random())
  return new OutsideModule({ embedding, layers, out_layer }, (tokens) => {
    const embedded = embedding.forward(tokens)
    const [B, T] = tokens.shape
    const at = Int32Array.from({ length: B * T }, (_, i) => i % T)
    const begin = use_pos_enc
      ? add(
          embedded,
          sinusoids(() => at, B, D, embedded),
        )
      : embedded
    return { y: out_layer.forward(layers.reduce((x, layer) => layer.forward(x).y, begin)), state: {} }
  })
}

const modelRow = (name: string): OutsideClass<OutsideModule> => ({
  source: 'recurrent-fwp, algorithmic/model.py',
  options: {
    in_vocab_size: { description: 'symbols that come in' },
    out_vocab_size: { description: 'symbols that go out' },
    hidden_size: width,
    num_layers: { description: 'layers, each with a feed-forward layer' },
    num_head: numHead,
    dim_head: dimHead,
    dim_ff: inner,
    dropout,
    use_pos_enc: { description: 'whether sinusoidal positions are added to the embedding', default: false },
  },
  read: (shapeOf, dict) => {
    const use_pos_enc = !dict.has('layers.0.layer_norm.weight') // the table of positions stands there, or nothing
    return {
      in_vocab_size: shapeOf('embedding.weight')[0],
      out_vocab_size: shapeOf('out_layer.weight')[0],
      hidden_size: shapeOf('embedding.weight')[1],
      num_layers: Math.floor(layersIn(dict, 'layers.') / 2),
      dim_ff: shapeOf(`layers.${use_pos_enc ? 2 : 1}.ff_layers.0.weight`)[0],
      use_pos_enc,
    }
  },
  make: (o) => algorithmicModel(name, o),
  buffers: { 'layers.0.pe': sinusoidal },
})

const torchbeastFile = 'recurrent-fwp, reinforcement_learning/torchbeast/layer.py'
const torchbeastStack = (name: string): OutsideClass<OutsideModule> =>
  stackRow(torchbeastFile, (o, D) => algorithmicLayer(algorithmicSlots[`torchbeast.${name}`], { ...o, in_dim: D }))

export const algorithmicRows: Record<string, OutsideClass<OutsideModule>> = {
  ...Object.fromEntries(Object.keys(algorithmicSlots).map((name) => [name, algorithmicRow(name)])),
  TransformerFFlayers: feedForwardRow('recurrent-fwp, algorithmic/layers.py'),
  OwnTransformer: modelRow('Attentionlayer'),
  LinearTransformer: modelRow('LinearAttentionlayer'),
  DeltaNetModel: modelRow('FastFFlayer'),
  FastFFslowRNNModel: modelRow('FastFFslowRNNlayer'),
  FastRNNModel: modelRow('FastRNNlayer'),
  RecDeltaNetModel: modelRow('RecUpdateTanhFastFFlayer'),
  'torchbeast.LinearTransformerLayer': torchbeastStack('AdditiveFastFFlayer'),
  'torchbeast.DeltaNetLayer': torchbeastStack('FastFFlayer'),
  'torchbeast.FastRNNModelLayer': torchbeastStack('FastRNNlayer'),
  'torchbeast.FastFFRecUpdateTanhLayer': torchbeastStack('RecUpdateTanhFastFFlayer'),
}
