/**
 * Layers of IDSIA's repositories: the shells that their fast-weight nets stand in. What a layer computes over time is a `Core`; a shell is the
 * projection before it, its output layer, where the layer norm is and what the residual connection adds. Their layouts are sequence first, ours
 * [B,T,D]. Irie 2021 (recurrent-fwp 781e378), Schlag 2021 (lmtool-fwp 0159201), Irie 2022 (modern-srwm 01e6cfd).
 */
import { deltaLstm, deltaRnn, recurrentDeltaNet } from '../../engine/nets/delta.ts'
import { lstm } from '../../engine/nets/recurrent.ts'
import { selfModifyingProgrammer, selfReferential } from '../../engine/nets/self-referential.ts'
import { softmaxAttention } from '../../engine/ops/attention.ts'
import { add, affine, div, elu, sigmoid } from '../../engine/ops/elementwise.ts'
import { matmul } from '../../engine/ops/matmul.ts'
import { concat, permute, reshape, slice, split } from '../../engine/ops/movement.ts'
import { sumNorm } from '../../engine/ops/norm.ts'
import { dpfp } from '../../engine/ops/sequence.ts'
import { type Generator, generator } from '../../engine/random.ts'
import { attentionDeltaRule, deltaRule } from '../../engine/rules/delta.ts'
import { sumRule } from '../../engine/rules/sum.ts'
import { ones, type Tensor, tensor } from '../../engine/tensor.ts'
import { type Core, deltaDelta, deltaMlp, netCore, type Tensors } from '../cores.ts'
import { favor } from '../features.ts'
import { Dropout, Embedding, LayerNorm, Linear } from '../layers.ts'
import type { Module, StateDict } from '../module.ts'
import { sinusoids } from '../packing.ts'
import { layersIn, type Options, type OutsideClass, type OutsideOption } from './class.ts'
import { OutsideModule, type StatePart, statePartsOf, unset } from './layer.ts'

const heads = (x: Tensor, H: number): Tensor => reshape(x, [...x.shape.slice(0, -1), H, x.shape.at(-1)! / H])
const merge = (x: Tensor): Tensor => reshape(x, [...x.shape.slice(0, -2), x.shape.at(-2)! * x.shape.at(-1)!])

// ---- cores: rules behind a fused projection -----------------------------------------------------------------------------------------------

type Features = (x: Tensor) => Tensor

const elu1: Features = (x) => affine(elu(x), 1, 1)
/** x / sum(x), without an eps unless said. */
const overSum =
  (phi: Features, eps = 0): Features =>
  (x) =>
    sumNorm(phi(x), eps)

/** lmtool-fwp's `prime`: FAVOR+ with 1e-4 beside each e, for R [d,m]. */
const performer =
  (R: Tensor): Features =>
  (x) =>
    favor(x, permute(R, [1, 0]), 1e-4)

interface LinearCore {
  rule: 'sum' | 'delta' | 'attention-delta'
  phi: Features
  /** Width of the features of heads d wide. */
  K: number
  /** Attention normalisation: the eps beside z . q by which what is read is divided; null for none. */
  normaliser: number | null
}

/** What of z_t . q_t, z_t the sum of the keys, a rule without it is divided by; and z. */
function seen(q: Tensor, k: Tensor, z: Tensor | undefined): { seen: Tensor; z: Tensor } {
  const [B, T, H, K] = k.shape
  const { y, state } = sumRule(q, k, ones([B, T, H, 1], q.device), z && { S: reshape(z, [B, H, K, 1]) })
  return { seen: y, z: reshape(state.S, [B, H, K]) }
}

/** A head's numbers: q, k, v, and beta where the rule has one. */
function linearCore(H: number, d: number, { rule, phi, K, normaliser }: LinearCore): Core {
  const widths = rule === 'sum' ? [d, d, d] : [d, d, d, 1]
  const divides = normaliser !== null
  return {
    heads: H,
    width: 3 * d + (rule === 'sum' ? 0 : 1),
    outputs: d,
    parameters: {},
    state: { W: [H, K, d], ...(divides && { z: [H, K] }) },
    run(x, _, state) {
      const [B, T] = x.shape
      const [q0, k0, v, strength] = split(x, -1, widths)
      const [q, k] = [phi(q0), phi(k0)]
      const before = state && { S: state.W, ...(divides && { z: state.z }) }
      const beta = strength && sigmoid(reshape(strength, [B, T, H]))
      if (rule === 'sum') {
        const { y, state: after } = sumRule(q, k, v, before, divides ? { normalise: true, eps: normaliser } : {})
        return { y, state: { W: after.S, ...(divides && { z: after.z! }) } }
      }
      if (rule === 'attention-delta') {
        const { y, state: after } = attentionDeltaRule(q, k, v, beta, before, { eps: normaliser! })
        return { y, state: { W: after.S, z: after.z! } }
      }
      const { y, state: after } = deltaRule(q, k, v, beta, state && { S: state.W })
      if (!divides) return { y, state: { W: after.S } }
      const keys = seen(q, k, state?.z)
      return { y: div(y, affine(keys.seen, 1, normaliser)), state: { W: after.S, z: keys.z } }
    },
  }
}

/** Causal softmax attention, q, k and v [B,T,H,d]; without a state. */
function attend(q: Tensor, k: Tensor, v: Tensor): Tensor {
  const timeInside = (x: Tensor): Tensor => permute(x, [0, 2, 1, 3])
  return timeInside(softmaxAttention(affine(timeInside(q), 1 / Math.sqrt(q.shape.at(-1)!)), timeInside(k), timeInside(v)))
}

const softmaxCore = (H: number, d: number): Core => ({
  heads: H,
  width: 3 * d,
  outputs: d,
  parameters: {},
  state: {},
  run(x) {
    const [q, k, v] = split(x, -1, [d, d, d])
    return { y: attend(q, k, v), state: {} }
  },
})

/** An LSTM in the place of the slow projection, a delta net behind it; x [B,T,1,4 H (3 d + 1)]: what the input gives the gates. */
function slowLstmCore(H: number, d: number): Core {
  const D = H * (3 * d + 1)
  const slow = netCore(lstm({ D }), 1)
  const net = linearCore(H, d, { rule: 'delta', phi: overSum(elu1), K: d, normaliser: null })
  return {
    ...slow,
    outputs: H * d,
    state: { ...net.state, slow_h: [1, D], slow_c: [1, D] },
    run(x, parameters, state, packing) {
      const fed = slow.run(x, parameters, state && { h: state.slow_h, c: state.slow_c }, packing)
      const { y, state: after } = net.run(heads(reshape(fed.y, [...fed.y.shape.slice(0, 2), D]), H), {}, state && { W: state.W }, packing)
      return { y, state: { ...after, slow_h: fed.state.h, slow_c: fed.state.c } }
    },
  }
}

// ---- from their parameters to a core's ----------------------------------------------------------------------------------------------------

/** A core, and where its parameters and its input come from. */
interface Slot {
  core: Core
  /** Parameters beside the projection, by their names there. */
  parts?: Readonly<Record<string, Tensor | readonly Module[]>>
  take?: () => Tensors
  /** From what the projection gives, [B,T,...], to what the core takes; else a head after the other. */
  arrange?: (x: Tensor) => Tensor
  /** How many numbers the projection gives, where not as many as the core takes. */
  projected?: number
  /** In place of the projection; absent: a Linear without bias. */
  project?: { parts: Readonly<Record<string, Module>>; run: (x: Tensor) => Tensor }
}

/** Tensors [1,H,...] as they are there, without the leading 1. */
const ofHeads = (t: Tensor, shape: readonly number[]): Tensor => reshape(t, [...shape])

/** Names of a core's parameters there, whose shapes there have more axes of size 1. */
function renamedSlot(core: Core, names: Readonly<Record<string, string>>, shapeThere: (shape: readonly number[]) => number[]): Slot {
  const entries = Object.entries(core.parameters).map(([name, { shape }]) => [name, shape, unset(...shapeThere(shape))] as const)
  return {
    core,
    parts: Object.fromEntries(entries.map(([name, , t]) => [names[name], t])),
    take: () => Object.fromEntries(entries.map(([name, shape, t]) => [name, ofHeads(t, shape)])),
  }
}

const recurrentDelta = (H: number, d: number): Slot =>
  renamedSlot(netCore(recurrentDeltaNet({ K: d, V: d }), H), { R_q: 'R_q', R_k: 'R_k', R_v: 'R_v', r_beta: 'r_b' }, (shape) =>
    shape.length === 2 ? [1, shape[0], 1, shape[1]] : [1, ...shape],
  )

/** PyTorch's LSTM, of one layer; initial values are overwritten. */
class Lstm extends OutsideModule {
  constructor(inputs: number, D: number) {
    const parts = {
      weight_ih_l0: unset(4 * D, inputs),
      weight_hh_l0: unset(4 * D, D),
      bias_ih_l0: unset(4 * D),
      bias_hh_l0: unset(4 * D),
    }
    const given = (x: Tensor): Tensor => matmul(x, parts.weight_ih_l0, { transposeB: true, bias: add(parts.bias_ih_l0, parts.bias_hh_l0) })
    super(parts, (x) => ({ y: given(x), state: {} }))
    this.R = () => reshape(permute(parts.weight_hh_l0, [1, 0]), [1, D, 4 * D])
  }

  R: () => Tensor
}

function slowLstm(H: number, d: number, D: number): Slot {
  const net = new Lstm(D, H * (3 * d + 1))
  return {
    core: slowLstmCore(H, d),
    take: () => ({ R: net.R() }),
    project: { parts: { slow_net: net }, run: (x) => net.forward(x).y },
    arrange: (x) => heads(x, 1),
  }
}

/**
 * Delta MLP's projection is not head by head: first all q (D), then keys and values of 4 K pieces a head each, of which the first 2 K are used,
 * then all write strengths.
 */
function deltaMlpSlot(H: number, d: number, depth: number): Slot {
  const norms = Array.from({ length: depth }, () => new LayerNorm(d))
  const [D, n] = [H * d, 5 * depth * d]
  return {
    core: deltaMlp(H, d, depth),
    parts: { fast_net_layer_norms: norms },
    take: () => Object.fromEntries(norms.flatMap(({ weight, bias }, i) => [[`gain_${i}`, weight] as const, [`bias_${i}`, bias] as const])),
    projected: D + 20 * depth * D + 2 * depth * H,
    arrange(x) {
      const [q, kv, beta] = split(x, -1, [D, 20 * depth * D, 2 * depth * H])
      const both = heads(kv, H)
      return concat([heads(q, H), slice(both, -1, 0, n), slice(both, -1, 2 * n, 3 * n), heads(beta, H)], -1)
    },
  }
}

/** deltaDelta's first matrix, [H,d,3 d + 1] there too. */
function deltaDeltaSlot(H: number, d: number, slow: boolean): Slot {
  const W = slow ? unset(H, d, 3 * d + 1) : undefined
  return { core: deltaDelta(H, d, slow), ...(W && { parts: { fast_net_slow_weights: W }, take: () => ({ W_slow: W }) }) }
}

// ---- states by their names there ----------------------------------------------------------------------------------------------------------

const recurrentNames: Readonly<Record<string, string>> = { W: 'fast_weights', R: 'rec_fast_weights', z: 'key_sum' }
/** recurrent-fwp: W_i is fast_weights_i. */
const recurrentFwp = (name: string): string => {
  const [part, gate] = name.split('_')
  return part in recurrentNames ? recurrentNames[part] + (gate ? `_${gate}` : '') : name
}
const sameName = (name: string): string => name

function states(core: Core, names: (here: string) => string): Record<string, StatePart> {
  const parts = statePartsOf(core, names)
  // PyTorch's states of an LSTM have the layer first.
  for (const name of ['slow_h', 'slow_c'])
    if (name in parts) {
      const [, D] = core.state[name]
      parts[name].shapeThere = (B) => [1, B, D]
    }
  return parts
}

// ---- shells -------------------------------------------------------------------------------------------------------------------------------

interface Shell {
  /** Width of x. */
  D: number
  /** Names of the projection and of the output layer; null: there is none. */
  projection: string | null
  output: string | null
  /** What the read-out is multiplied by. */
  scale?: number
  dropout: number
}

/** Initial values are overwritten; dropout draws from this. */
const random = (): Generator => generator(1)

/** Projection, core and output layer, [B,T,D] to [B,T,D]. */
function inside({ core, parts, take, arrange, projected, project }: Slot, { D, projection, output, scale = 1, dropout }: Shell) {
  const slow = projection === null || project ? null : new Linear(D, projected ?? core.width * core.heads, random(), { bias: false })
  const out = output === null ? null : new Linear(core.outputs * core.heads, D, random(), { bias: false })
  const drop = new Dropout(dropout, random())
  return {
    parts: { ...(slow && { [projection!]: slow }), ...project?.parts, ...parts, ...(out && { [output!]: out }), drop },
    run(x: Tensor, state: Tensors | undefined) {
      const given = project ? project.run(x) : slow ? slow.forward(x) : x
      const { y, state: after } = core.run(arrange ? arrange(given) : heads(given, core.heads), take?.() ?? {}, state, {})
      const read = scale === 1 ? merge(y) : affine(merge(y), scale)
      return { y: drop.forward(out ? out.forward(read) : read), state: after }
    },
  }
}

/** x + W2 relu(W1 LN(x)), or, `post`, LN(x + W2 relu(W1 x)); the two are the first and fourth of a torch Sequential called `list`. */
function feedForward(D: number, inner: number, { list, dropout, post = false }: { list: string; dropout: number; post?: boolean }) {
  const layer_norm = new LayerNorm(D)
  const [first, last] = [new Linear(D, inner, random()), new Linear(inner, D, random())]
  const drop = new Dropout(dropout, random())
  const core = new OutsideModule({ 0: first, 3: last, drop }, (x) => {
    const hidden = drop.forward(first.forward(x, { activation: 'relu' }))
    return { y: drop.forward(last.forward(hidden)), state: {} }
  })
  return new OutsideModule({ layer_norm, [list]: core }, (x) => {
    const y = post ? layer_norm.forward(add(x, core.forward(x).y)) : add(x, core.forward(layer_norm.forward(x)).y)
    return { y, state: {} }
  })
}

// ---- algorithmic/layers.py, torchbeast/layer.py ---------------------------------------------------------------------------------------------

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
  return new OutsideModule({ layer_norm, ...parts }, forward, states(slot.core, recurrentFwp))
}

const dropout: OutsideOption = { description: 'probability of dropping an activation', default: 0 }
const numHead: OutsideOption = { description: 'heads' }
const dimHead: OutsideOption = { description: 'width of a head' }
const width: OutsideOption = { description: 'width of the model' }
const inner: OutsideOption = { description: 'inner width of the feed-forward layer' }

const algorithmicRow = (name: string): OutsideClass<OutsideModule> => ({
  source: `recurrent-fwp, ${name.startsWith('torchbeast.') ? 'reinforcement_learning/torchbeast/layer.py' : 'algorithmic/layers.py'}`,
  options: { num_head: numHead, dim_head: dimHead, in_dim: width, dropout },
  read: (shapeOf) => ({ in_dim: shapeOf('layer_norm.weight')[0] }),
  make: (o) => algorithmicLayer(algorithmicSlots[name], o),
})

const feedForwardRow = (source: string): OutsideClass<OutsideModule> => ({
  source,
  options: { res_dim: width, ff_dim: inner, dropout },
  read: (shapeOf) => ({ res_dim: shapeOf('layer_norm.weight')[0], ff_dim: shapeOf('ff_layers.0.weight')[0] }),
  make: ({ res_dim, ff_dim, dropout }) => feedForward(res_dim, ff_dim, { list: 'ff_layers', dropout }),
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
    const begin = use_pos_enc ? add(embedded, sinusoids(at, B, D, embedded)) : embedded
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
    const use_pos_enc = !dict.has('layers.0.layer_norm.weight')
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
})

// ---- language_modeling: cuda_fast_weight_layer.py, model_main.py -------------------------------------------------------------------------------

/** A kind of layer of the language model, by its number there. */
interface LanguageKind {
  class: string
  slot: (o: Options) => Slot
  projection: 'qkvb_net' | 'qkv_net' | 'slow_net'
  /** Whether what is read is divided by sqrt(d). */
  scaled: boolean
  /** The output layer's name: out_proj is there with `use_out_proj`, o_net always. */
  output: 'o_net' | 'out_proj'
  /** Whether the class can divide by z . q (attention normalisation), and does where nobody says otherwise, in each repository; absent: it can't. */
  normalises?: { 'recurrent-fwp': boolean; 'lmtool-fwp': boolean }
}

/** Attention normalisation, by the eps beside z . q; null for none. */
const normaliser = (o: Options): number | null => (o.skip_attn_normalization ? null : 1e-5)

type FeatureKind = 'elu' | 'performer' | 'dpfp'
const featuresOf: Record<FeatureKind, (o: Options) => { phi: Features; K: number }> = {
  elu: ({ d_head }) => ({ phi: elu1, K: d_head }),
  dpfp: ({ d_head, n_roll }) => ({ phi: (x) => dpfp(x, n_roll), K: 2 * d_head * n_roll }),
  performer: ({ proj_matrix }) => ({ phi: performer(proj_matrix), K: 2 * proj_matrix.shape[1] }),
}

const ruleSlot =
  (rule: LinearCore['rule'], kind: FeatureKind, divides: (o: Options) => number | null) =>
  (o: Options): Slot => {
    const { phi, K } = featuresOf[kind](o)
    const normed = rule !== 'sum' || o.use_sum_norm ? overSum(phi) : phi
    return { core: linearCore(o.n_head, o.d_head, { rule, phi: normed, K, normaliser: divides(o) }) }
  }
const rnnSlot =
  (version: 1 | 2) =>
  (o: Options): Slot => ({
    core: netCore(deltaRnn({ K: o.d_head, V: o.d_head, version, normalise: normaliser(o) ?? undefined }), o.n_head),
  })
const lstmSlot =
  (version: 1 | 2 | 3 | 4) =>
  (o: Options): Slot => ({ core: netCore(deltaLstm({ K: o.d_head, V: o.d_head, version }), o.n_head) })

const scaled = { scaled: true, output: 'o_net' } as const
const unscaled = { scaled: false, output: 'o_net' } as const
const first = { scaled: false, output: 'out_proj' } as const
const [qkvb, qkv, slowNet] = [{ projection: 'qkvb_net' }, { projection: 'qkv_net' }, { projection: 'slow_net' }] as const

const usually = { normalises: { 'recurrent-fwp': true, 'lmtool-fwp': true } }
const inLmtool = { normalises: { 'recurrent-fwp': false, 'lmtool-fwp': true } }

const row = (name: string, slot: (o: Options) => Slot, ...rest: Partial<LanguageKind>[]): LanguageKind =>
  Object.assign({ class: name, slot }, ...rest)

const languageKinds: Readonly<Partial<Record<number, LanguageKind>>> = {
  24: row('CudaFastWeightLinearTransformerLayer', ruleSlot('delta', 'elu', normaliser), qkvb, scaled, inLmtool),
  25: row('CudaFastWeightPerformerLayer', ruleSlot('delta', 'performer', normaliser), qkvb, scaled, inLmtool),
  26: row('CudaFastWeightDPFPTransformerLayer', ruleSlot('delta', 'dpfp', normaliser), qkvb, scaled, inLmtool),
  34: row('CudaFastWeightSumLinearTransformerLayer', ruleSlot('sum', 'elu', normaliser), qkv, scaled, usually),
  35: row('CudaFastWeightSumPerformerLayer', ruleSlot('sum', 'performer', normaliser), qkv, scaled, usually),
  44: row(
    'CudaNormFastWeightLinearTransformerLayer',
    ruleSlot('attention-delta', 'elu', () => 1e-5),
    qkvb,
    scaled,
  ),
  45: row(
    'CudaNormFastWeightPerformerLayer',
    ruleSlot('attention-delta', 'performer', () => 1e-5),
    qkvb,
    scaled,
  ),
  46: row(
    'CudaNormFastWeightDPFPTransformerLayer',
    ruleSlot('attention-delta', 'dpfp', () => 1e-5),
    qkvb,
    scaled,
  ),
  54: row('CudaDeepFastNetLayer', (o) => deltaMlpSlot(o.n_head, o.d_head, o.fast_net_depth), qkv, unscaled),
  64: row('CudaDeltaDeltaLayer', (o) => deltaDeltaSlot(o.n_head, o.d_head, o.use_slow_base_weights), slowNet, unscaled),
  124: row('CudaFastRNNLayer', rnnSlot(1), qkvb, first, usually),
  134: row('CudaFastRNNv2Layer', rnnSlot(2), qkvb, scaled, usually),
  224: row('CudaFastLSTMLayer', lstmSlot(1), qkv, first),
  234: row('CudaFastLSTMv2Layer', lstmSlot(2), qkv, scaled),
  244: row('CudaFastLSTMv3Layer', lstmSlot(3), qkv, scaled),
  254: row('CudaFastLSTMv4Layer', lstmSlot(4), qkv, scaled),
  324: row('CudaFastWeightSlowRNNLayer', (o) => slowLstm(o.n_head, o.d_head, o.d_model), slowNet, scaled),
  934: row('CudaFastWeightRecUpdateTanhLayer', (o) => recurrentDelta(o.n_head, o.d_head), slowNet, scaled),
}

/** Random features: no parameter, but the module's. */
const fixedParts = ({ proj_matrix }: Options): Record<string, Tensor> => (proj_matrix ? { proj_matrix } : {})

/** Post-norm: LN(x + o_net(net(x))). pre_lnorm: h + o_net(net(h)) with h = LN(x), so that x itself is lost. */
function fastWeightLayer(kind: LanguageKind, names: (here: string) => string, o: Options): OutsideModule {
  const { d_model: D, d_head: d, dropout, pre_lnorm } = o
  const slot = kind.slot(o)
  const output = kind.output === 'o_net' || o.use_out_proj ? kind.output : null
  const { parts, run } = inside(slot, { D, projection: kind.projection, output, dropout, scale: kind.scaled ? 1 / Math.sqrt(d) : 1 })
  const layer_norm = new LayerNorm(D)
  const forward = (x: Tensor, before?: Tensors) => {
    const h = pre_lnorm ? layer_norm.forward(x) : x
    const { y, state } = run(h, before)
    const both = o.use_res === false ? y : add(h, y)
    return { y: pre_lnorm || o.use_lnorm === false ? both : layer_norm.forward(both), state }
  }
  return new OutsideModule({ layer_norm, ...parts, ...fixedParts(o) }, forward, states(slot.core, names))
}

/** Kinds without a recurrent form: what q, k and v [B,T,H,d] give. */
const quadraticKinds: Readonly<Record<number, { class: string; read: (o: Options) => (q: Tensor, k: Tensor, v: Tensor) => Tensor }>> = {
  2: { class: 'MultiHeadAttn', read: () => attend },
  4: { class: 'LinearMultiHeadAttn', read: quadratic('elu') },
  5: { class: 'PerformerMultiHeadAttn', read: quadratic('performer') },
  6: { class: 'DPFPMultiHeadAttn', read: quadratic('dpfp') },
}

/** Scores s q . k, s = 1 / sqrt(d), divided by their sum + 1e-5: linear attention. */
function quadratic(kind: FeatureKind) {
  return (o: Options) => {
    const { phi } = featuresOf[kind](o)
    return (q: Tensor, k: Tensor, v: Tensor): Tensor =>
      sumRule(affine(phi(q), 1 / Math.sqrt(o.d_head)), phi(k), v, undefined, { normalise: true, eps: 1e-5 }).y
  }
}

/** As fastWeightLayer; with pre_lnorm q comes from x itself, which is the residual too. */
function quadraticLayer(read: (q: Tensor, k: Tensor, v: Tensor) => Tensor, o: Options): OutsideModule {
  const { n_head: H, d_head: d, d_model: D, pre_lnorm } = o
  const layer_norm = new LayerNorm(D)
  const project = (outputs: number, inputs = D) => new Linear(inputs, outputs, random(), { bias: false })
  const [q_net, kv_net, o_net] = [project(H * d), project(2 * H * d), project(D, H * d)]
  const drop = new Dropout(o.dropout, random())
  return new OutsideModule({ layer_norm, q_net, kv_net, o_net, drop, ...fixedParts(o) }, (x) => {
    const [k, v] = split(kv_net.forward(pre_lnorm ? layer_norm.forward(x) : x), -1, [H * d, H * d])
    const y = read(heads(q_net.forward(x), H), heads(k, H), heads(v, H))
    const both = add(x, drop.forward(o_net.forward(merge(y))))
    return { y: pre_lnorm ? both : layer_norm.forward(both), state: {} }
  })
}

/** The two repositories have the same file of layers, at different times. */
const stateNames = { 'recurrent-fwp': recurrentFwp, 'lmtool-fwp': sameName }
type LanguageRepository = keyof typeof stateNames

const languageOptions: Readonly<Record<string, OutsideOption>> = {
  n_head: numHead,
  d_head: dimHead,
  d_model: width,
  dropout,
  pre_lnorm: { description: 'normalise what the layer reads instead of what it gives', default: false },
  skip_attn_normalization: { description: 'no division by z . q; by default as the class has it', optional: true, flag: true },
  use_sum_norm: { description: 'sum rule: divide each feature vector by its sum', default: false },
  n_roll: { description: 'nu of DPFP', default: 2 },
  proj_dim: { description: 'random features m, columns of proj_matrix', optional: true },
  fast_net_depth: { description: 'blocks of a Delta MLP', default: 1 },
  use_slow_base_weights: { description: 'Delta-Delta: the first matrix begins with a parameter', default: false },
  use_out_proj: { description: 'an output layer, in the first Delta RNN and LSTM', default: false },
  use_res: { description: 'the residual connection', default: true },
  use_lnorm: { description: 'the layer norm after it', default: true },
  // These change nothing of what a layer computes; files say them.
  dropatt: { description: 'of no effect there', default: 0 },
  layer_id: { description: 'which layer of the model it is: of no effect', default: 0 },
  num_layer: { description: 'layers of the model: of no effect', default: 1 },
  carry_over_fast_weight: { description: 'whether states are handed on: here they are where one is given', default: false },
}

/** What the tensors under a prefix say. */
function readLanguage(prefix: string, shapeOf: (name: string) => readonly number[], dict: StateDict): Options {
  const features = dict.get('proj_matrix')
  return {
    d_model: shapeOf(`${prefix}layer_norm.weight`)[0],
    ...(features && { proj_dim: features.shape[1] }),
    ...(dict.has(`${prefix}fast_net_layer_norms.0.weight`) && { fast_net_depth: layersIn(dict, `${prefix}fast_net_layer_norms.`) }),
    ...(dict.has(`${prefix}fast_net_slow_weights`) && { use_slow_base_weights: true }),
    ...(dict.has(`${prefix}out_proj.weight`) && { use_out_proj: true }),
  }
}

function languageLayer(attnType: number, repository: LanguageRepository, o: Options, fixed: StateDict): OutsideModule {
  const kind = languageKinds[attnType] ?? quadraticKinds[attnType]
  if (kind === undefined)
    throw new Error(`there is no attn_type ${attnType} (${[...Object.keys(quadraticKinds), ...Object.keys(languageKinds)].join(', ')})`)
  const draws = /Performer/.test(kind.class)
  const R = fixed.get('proj_matrix')
  if (draws && R === undefined)
    throw new Error(`${kind.class} has random features, which its parameters don't hold: add them to the state dict as proj_matrix [d,m]`)
  const normalises = 'slot' in kind ? kind.normalises : undefined
  // Those that always divide, or never look at it, do in any case.
  if (/LSTM|RecUpdate|SlowRNN/.test(kind.class) && o.skip_attn_normalization === false)
    throw new Error(`${kind.class} has no attention normalisation: say skip_attn_normalization: true`)
  const skip = o.skip_attn_normalization ?? !normalises?.[repository]
  const given = {
    ...o,
    skip_attn_normalization: skip,
    ...(draws && R && { proj_matrix: tensor(Float64Array.from(R.data, Number), { shape: [...R.shape] }) }),
  }
  return 'slot' in kind ? fastWeightLayer(kind, stateNames[repository], given) : quadraticLayer(kind.read(given), given)
}

const languageRow = (attnType: number, repository: LanguageRepository): OutsideClass<OutsideModule> => ({
  source: `${repository}, ${attnType in languageKinds ? 'cuda_fast_weight_layer.py' : 'model_main.py'}`,
  options: { ...languageOptions, attn_type: { description: 'its number there', default: attnType } },
  read: (shapeOf, dict) => ({ ...readLanguage('', shapeOf, dict), attn_type: attnType }),
  make: (o, fixed) => languageLayer(attnType, repository, o, fixed),
  fixed: ['proj_matrix'],
})

/** A layer and its feed-forward layer. */
const decoderRow = (repository: LanguageRepository): OutsideClass<OutsideModule> => ({
  source: `${repository}, model_main.py`,
  options: { ...languageOptions, d_inner: inner, attn_type: { description: 'number of the layer, such as 24' } },
  read: (shapeOf, dict) => ({ ...readLanguage('dec_attn.', shapeOf, dict), d_inner: shapeOf('pos_ff.CoreNet.0.weight')[0] }),
  make(o, fixed) {
    const dec_attn = languageLayer(o.attn_type, repository, o, fixed)
    const pos_ff = feedForward(o.d_model, o.d_inner, { list: 'CoreNet', dropout: o.dropout, post: !o.pre_lnorm })
    return new DecoderLayer(dec_attn, pos_ff)
  },
  fixed: ['proj_matrix'],
})

/** Both parts are there to be run by themselves. */
class DecoderLayer extends OutsideModule {
  declare dec_attn: OutsideModule
  declare pos_ff: OutsideModule

  constructor(dec_attn: OutsideModule, pos_ff: OutsideModule) {
    const run = (x: Tensor, before?: Tensors) => {
      const { y, state } = dec_attn.forward(x, before && { state: before })
      return { y: pos_ff.forward(y).y, state }
    }
    super({ dec_attn, pos_ff }, run, dec_attn.states)
  }
}

const languageRows = (repository: LanguageRepository): Record<string, OutsideClass<OutsideModule>> => ({
  ...Object.fromEntries(
    Object.entries({ ...quadraticKinds, ...languageKinds }).map(([number, kind]) => [kind!.class, languageRow(Number(number), repository)]),
  ),
  DecoderLayer: decoderRow(repository),
})

// ---- modern-srwm ----------------------------------------------------------------------------------------------------------------------------

const srwmNames: Readonly<Record<string, string>> = { Wy: 'W_y', Wq: 'W_q', Wk: 'W_k', wb: 'w_b', F: 'fast' }

/** residual + out_linear(net(x)): the residual is LN(x) with `use_ln`, else x; the layer norm is there in any case. */
function selfReferentialLayer(
  build: typeof selfReferential | typeof selfModifyingProgrammer,
  { num_head: H, dim_head: d, use_ln, use_input_softmax: inputSoftmax, dropout }: Options,
): OutsideModule {
  const D = H * d
  const slot = renamedSlot(netCore(build({ D: d, inputSoftmax }), H), srwmNames, (shape) => [1, ...shape])
  const { parts, run } = inside(slot, { D, projection: null, output: 'out_linear', dropout })
  const layer_norm = new LayerNorm(D)
  const forward = (x: Tensor, before?: Tensors) => {
    const { y, state } = run(x, before)
    return { y: add(use_ln ? layer_norm.forward(x) : x, y), state }
  }
  return new OutsideModule(
    { layer_norm, ...parts },
    forward,
    states(slot.core, (name) => srwmNames[name]),
  )
}

const supervised = {
  use_ln: { description: 'whether the residual is normalised', default: true },
  use_input_softmax: { description: 'whether the input passes a softmax', default: false },
}
const reinforcement = { use_ln: false, use_input_softmax: true }

const selfReferentialRow = (
  build: typeof selfReferential | typeof selfModifyingProgrammer,
  isSupervised: boolean,
): OutsideClass<OutsideModule> => ({
  source: `modern-srwm, ${isSupervised ? 'supervised_learning' : 'reinforcement_learning/torchbeast'}/layer.py`,
  options: { num_head: numHead, dim_head: dimHead, dropout, ...(isSupervised && supervised) },
  read: (shapeOf) => ({ num_head: shapeOf('W_q')[1], dim_head: shapeOf('W_q')[2] }),
  make: (o) => selfReferentialLayer(build, isSupervised ? o : { ...o, ...reinforcement }),
})

/** input_proj, then layers and feed-forward layers in turn. With several layers a state's parts have the layer's number before their names. */
const selfReferentialNet = (build: typeof selfReferential | typeof selfModifyingProgrammer): OutsideClass<OutsideModule> => ({
  source: 'modern-srwm, reinforcement_learning/torchbeast/layer.py',
  options: {
    num_head: numHead,
    dim_head: dimHead,
    input_dim: { description: 'width of the input' },
    dim_ff: inner,
    num_layers: { description: 'layers' },
    dropout,
  },
  read: (shapeOf, dict) => ({
    num_head: shapeOf('fwm_layers.0.W_q')[1],
    dim_head: shapeOf('fwm_layers.0.W_q')[2],
    input_dim: shapeOf('input_proj.weight')[1],
    dim_ff: shapeOf('ff_layers.0.ff_layers.0.weight')[0],
    num_layers: layersIn(dict, 'fwm_layers.'),
  }),
  make(o) {
    const D = o.num_head * o.dim_head
    const input_proj = new Linear(o.input_dim, D, random())
    const each = <M>(f: () => M): M[] => Array.from({ length: o.num_layers }, f)
    const fwm_layers = each(() => selfReferentialLayer(build, { ...o, ...reinforcement }))
    const ff_layers = each(() => feedForward(D, o.dim_ff, { list: 'ff_layers', dropout: o.dropout }))
    const named = (l: number, name: string): string => (o.num_layers > 1 ? `${l}.${name}` : name)
    const parts = fwm_layers.flatMap((layer, l) =>
      Object.entries(layer.states).map(([name, part]) => [named(l, name), { ...part, there: named(l, part.there) }] as const),
    )
    const run = (x: Tensor, before?: Tensors) => {
      const after: [string, Tensor][] = []
      let h = input_proj.forward(x)
      fwm_layers.forEach((layer, l) => {
        const own = before && Object.fromEntries(Object.keys(layer.states).map((name) => [name, before[named(l, name)]]))
        const { y, state } = layer.forward(h, own && { state: own })
        after.push(...Object.entries(state).map(([name, t]) => [named(l, name), t] as [string, Tensor]))
        h = ff_layers[l].forward(y).y
      })
      return { y: h, state: Object.fromEntries(after) }
    }
    return new OutsideModule({ input_proj, fwm_layers, ff_layers }, run, Object.fromEntries(parts))
  },
})

// ---- the table ------------------------------------------------------------------------------------------------------------------------------

export const idsia: Record<
  'IDSIA/recurrent-fwp' | 'IDSIA/lmtool-fwp' | 'IDSIA/modern-srwm',
  Record<string, OutsideClass<OutsideModule>>
> = {
  'IDSIA/recurrent-fwp': {
    ...Object.fromEntries(Object.keys(algorithmicSlots).map((name) => [name, algorithmicRow(name)])),
    TransformerFFlayers: feedForwardRow('recurrent-fwp, algorithmic/layers.py'),
    DeltaNetModel: modelRow('FastFFlayer'),
    FastRNNModel: modelRow('FastRNNlayer'),
    RecDeltaNetModel: modelRow('RecUpdateTanhFastFFlayer'),
    ...languageRows('recurrent-fwp'),
  },
  'IDSIA/lmtool-fwp': languageRows('lmtool-fwp'),
  'IDSIA/modern-srwm': {
    SRWMlayer: selfReferentialRow(selfReferential, true),
    SRlayer: selfReferentialRow(selfReferential, false),
    SMFWPlayer: selfReferentialRow(selfModifyingProgrammer, false),
    TransformerFFlayers: feedForwardRow('modern-srwm, supervised_learning/layer.py'),
    SRNetLayer: selfReferentialNet(selfReferential),
    SMFWPNetLayer: selfReferentialNet(selfModifyingProgrammer),
  },
}
