/**
 * The layers of recurrent-fwp's and lmtool-fwp's language models, which share the file cuda_fast_weight_layer.py; they have numbers there, attn_type.
 */
import { deltaLstm, deltaRnn } from '../../engine/nets/delta.ts'
import { add, affine } from '../../engine/ops/elementwise.ts'
import { split } from '../../engine/ops/movement.ts'
import { dpfp } from '../../engine/ops/sequence.ts'
import { sumRule } from '../../engine/rules/sum.ts'
import { show } from '../../engine/shape.ts'
import { type Tensor, tensor } from '../../engine/tensor.ts'
import { netCore, type Tensors } from '../cores.ts'
import { Dropout, LayerNorm, Linear } from '../layers.ts'
import type { StateDict } from '../module.ts'
import { layersIn, type Options, type OutsideClass, type OutsideOption } from './class.ts'
import { OutsideModule } from './layer.ts'
import { dropout, feedForward, inner, inside, numHead, random, width } from './shells.ts'
import {
  attend,
  deltaDeltaSlot,
  deltaMlpSlot,
  elu1,
  type Features,
  heads,
  type LinearCore,
  linearCore,
  merge,
  overSum,
  performer,
  recurrentDelta,
  recurrentFwp,
  type Slot,
  sameName,
  slowLstm,
  states,
} from './slots.ts'

// ---- what the kinds share ---------------------------------------------------------------------------------------------------------------------

/** Attention normalisation, by the eps beside z . q; null for none. */
const normaliser = (o: Options): number | null => (o.skip_attn_normalization ? null : 1e-5)

type FeatureKind = 'elu' | 'performer' | 'dpfp'
const featuresOf: Record<FeatureKind, (o: Options) => { phi: Features; K: number }> = {
  elu: ({ d_head }) => ({ phi: elu1, K: d_head }),
  dpfp: ({ d_head, n_roll }) => ({ phi: (x) => dpfp(x, n_roll), K: 2 * d_head * n_roll }),
  performer: ({ proj_matrix }) => ({ phi: performer(proj_matrix), K: 2 * proj_matrix.shape[1] }),
}

type SlotOf = (o: Options) => Slot

const ruleSlot =
  (rule: 'sum' | 'delta', kind: FeatureKind): SlotOf =>
  (o) => {
    const { phi, K } = featuresOf[kind](o)
    const normed = rule === 'delta' || o.use_sum_norm ? overSum(phi) : phi
    return { core: linearCore(o.n_head, o.d_head, { rule, phi: normed, K, normaliser: normaliser(o) }) }
  }
/** Attention normalisation of what a key retrieves, too; without, the plain delta rule. */
const normSlot =
  (kind: FeatureKind): SlotOf =>
  (o) => {
    const { phi, K } = featuresOf[kind](o)
    const rule: LinearCore['rule'] = o.skip_attn_normalization ? 'delta' : 'attention-delta'
    return { core: linearCore(o.n_head, o.d_head, { rule, phi: overSum(phi), K, normaliser: normaliser(o) }) }
  }
const rnnSlot =
  (version: 1 | 2): SlotOf =>
  (o) => ({ core: netCore(deltaRnn({ K: o.d_head, V: o.d_head, version, normalise: normaliser(o) ?? undefined }), o.n_head) })
const lstmSlot =
  (version: 1 | 2 | 3 | 4): SlotOf =>
  (o) => ({ core: netCore(deltaLstm({ K: o.d_head, V: o.d_head, version }), o.n_head) })

const skip = (initial: boolean): OutsideOption => ({ description: 'no division by z . q', default: initial })
/** Of classes that divide there, and don't here. */
const neverDivides: OutsideOption = { description: 'no division by z . q; without it the class is not here', default: true, only: true }
const ignoredSkip: OutsideOption = { description: 'looked at by nobody, there either', optional: true, flag: true }
const nRoll = (initial: number): OutsideOption => ({ description: 'nu of DPFP', default: initial })
const projDim: OutsideOption = { description: 'random features m, the columns of proj_matrix', optional: true }
/** The sum rule has it as an option; recurrent nets by default, and alone here. */
const sumNorm: OutsideOption = { description: 'queries and keys over their sums', default: false }
const v1 = {
  use_out_proj: { description: 'an output layer', default: false },
  use_res: { description: 'the residual connection', default: true },
  use_lnorm: { description: 'the layer norm; without one, pre_lnorm is without effect', default: true },
}

/** A kind of layer. */
interface LanguageKind {
  class: string
  slot: SlotOf
  projection: 'qkvb_net' | 'qkv_net' | 'slow_net'
  /** The output layer: o_net always, out_proj with `use_out_proj`, and then there is dropout before it, too. */
  output: 'o_net' | 'out_proj'
  /** Whether what is read is divided by sqrt(d). */
  scaled: boolean
  /** Beside those that all have. */
  options: Readonly<Record<string, OutsideOption>>
}

const kind = (
  name: string,
  slot: SlotOf,
  projection: LanguageKind['projection'],
  options: LanguageKind['options'],
  { scaled = true, output = 'o_net' }: { scaled?: boolean; output?: LanguageKind['output'] } = {},
): LanguageKind => ({ class: name, slot, projection, options, scaled, output })

const first = { scaled: false, output: 'out_proj' } as const
const recurrent: LanguageKind['options'] = { use_sum_norm: { ...sumNorm, default: true, only: true } }
const lstm = { skip_attn_normalization: neverDivides, ...recurrent }
const kinds: Readonly<Partial<Record<number, LanguageKind>>> = {
  24: kind('CudaFastWeightLinearTransformerLayer', ruleSlot('delta', 'elu'), 'qkvb_net', { skip_attn_normalization: skip(true) }),
  25: kind('CudaFastWeightPerformerLayer', ruleSlot('delta', 'performer'), 'qkvb_net', {
    skip_attn_normalization: skip(true),
    proj_dim: projDim,
  }),
  26: kind('CudaFastWeightDPFPTransformerLayer', ruleSlot('delta', 'dpfp'), 'qkvb_net', {
    skip_attn_normalization: skip(false),
    n_roll: nRoll(2),
  }),
  34: kind('CudaFastWeightSumLinearTransformerLayer', ruleSlot('sum', 'elu'), 'qkv_net', {
    skip_attn_normalization: skip(false),
    use_sum_norm: sumNorm,
  }),
  35: kind('CudaFastWeightSumPerformerLayer', ruleSlot('sum', 'performer'), 'qkv_net', {
    skip_attn_normalization: skip(false),
    use_sum_norm: sumNorm,
    proj_dim: projDim,
  }),
  44: kind('CudaNormFastWeightLinearTransformerLayer', normSlot('elu'), 'qkvb_net', { skip_attn_normalization: skip(false) }),
  45: kind('CudaNormFastWeightPerformerLayer', normSlot('performer'), 'qkvb_net', {
    skip_attn_normalization: skip(false),
    proj_dim: projDim,
  }),
  46: kind('CudaNormFastWeightDPFPTransformerLayer', normSlot('dpfp'), 'qkvb_net', {
    skip_attn_normalization: skip(false),
    n_roll: nRoll(2),
  }),
  54: kind(
    'CudaDeepFastNetLayer',
    (o) => deltaMlpSlot(o.n_head, o.d_head, o.fast_net_depth),
    'qkv_net',
    { skip_attn_normalization: ignoredSkip, fast_net_depth: { description: 'blocks', default: 1 } },
    { scaled: false },
  ),
  64: kind(
    'CudaDeltaDeltaLayer',
    (o) => deltaDeltaSlot(o.n_head, o.d_head, o.use_slow_base_weights),
    'slow_net',
    {
      skip_attn_normalization: ignoredSkip,
      use_slow_base_weights: { description: 'the first matrix begins with a parameter', default: false },
    },
    { scaled: false },
  ),
  124: kind('CudaFastRNNLayer', rnnSlot(1), 'qkvb_net', { skip_attn_normalization: skip(false), ...recurrent, ...v1 }, first),
  134: kind('CudaFastRNNv2Layer', rnnSlot(2), 'qkvb_net', { skip_attn_normalization: skip(false), ...recurrent }),
  224: kind('CudaFastLSTMLayer', lstmSlot(1), 'qkv_net', { ...lstm, ...v1 }, first),
  234: kind('CudaFastLSTMv2Layer', lstmSlot(2), 'qkv_net', lstm),
  244: kind('CudaFastLSTMv3Layer', lstmSlot(3), 'qkv_net', lstm),
  254: kind('CudaFastLSTMv4Layer', lstmSlot(4), 'qkv_net', lstm),
  324: kind('CudaFastWeightSlowRNNLayer', (o) => slowLstm(o.n_head, o.d_head, o.d_model), 'slow_net', {
    skip_attn_normalization: neverDivides,
  }),
  934: kind('CudaFastWeightRecUpdateTanhLayer', (o) => recurrentDelta(o.n_head, o.d_head), 'slow_net', {
    skip_attn_normalization: neverDivides,
  }),
}

/** Random features: no parameter, but the module's. */
const fixedParts = ({ proj_matrix }: Options): Record<string, Tensor> => (proj_matrix ? { proj_matrix } : {})

/** Post-norm: LN(x + o_net(net(x))). pre_lnorm: h + o_net(net(h)) with h = LN(x), so that x itself is lost. */
function fastWeightLayer(kind: LanguageKind, names: (here: string) => string, o: Options): OutsideModule {
  const { d_model: D, d_head: d, dropout, pre_lnorm, use_lnorm = true, use_res = true } = o
  const slot = kind.slot(o)
  const dropRead = kind.output === 'out_proj'
  const output = kind.output === 'o_net' || o.use_out_proj ? kind.output : null
  if (output === null && o.n_head * d !== D && use_res)
    throw new Error(`loadOutside: ${o.n_head} heads of ${d} aren't as wide as x, ${D}, and there is no output layer: use_out_proj`)
  const scale = kind.scaled ? 1 / Math.sqrt(d) : 1
  const { parts, run } = inside(slot, { D, projection: kind.projection, output, dropout, scale, dropRead })
  const layer_norm = use_lnorm ? new LayerNorm(D) : null
  const forward = (x: Tensor, before?: Tensors) => {
    const h = pre_lnorm && layer_norm ? layer_norm.forward(x) : x
    const { y, state } = run(h, before)
    const both = use_res ? add(h, y) : y
    return { y: pre_lnorm || !layer_norm ? both : layer_norm.forward(both), state }
  }
  return new OutsideModule({ ...(layer_norm && { layer_norm }), ...parts, ...fixedParts(o) }, forward, states(slot.core, names), D)
}

// ---- kinds without a recurrent form ---------------------------------------------------------------------------------------------------------

/** What q, k and v [B,T,H,d] give. */
type ReadOf = (o: Options) => (q: Tensor, k: Tensor, v: Tensor) => Tensor

/** Scores s q . k, s = 1 / sqrt(d), divided by their sum + 1e-5: linear attention. */
function quadratic(kind: FeatureKind): ReadOf {
  return (o) => {
    const { phi } = featuresOf[kind](o)
    return (q: Tensor, k: Tensor, v: Tensor): Tensor =>
      sumRule(affine(phi(q), 1 / Math.sqrt(o.d_head)), phi(k), v, undefined, { normalise: true, eps: 1e-5 }).y
  }
}

const quadraticKinds: Readonly<Partial<Record<number, { class: string; read: ReadOf; options: LanguageKind['options'] }>>> = {
  2: { class: 'MultiHeadAttn', read: () => attend, options: {} },
  4: { class: 'LinearMultiHeadAttn', read: quadratic('elu'), options: {} },
  5: { class: 'PerformerMultiHeadAttn', read: quadratic('performer'), options: { proj_dim: projDim } },
  6: { class: 'DPFPMultiHeadAttn', read: quadratic('dpfp'), options: { n_roll: nRoll(3) } },
}

/** As fastWeightLayer; with pre_lnorm q comes from x itself, which is the residual too. */
function quadraticLayer(read: (q: Tensor, k: Tensor, v: Tensor) => Tensor, o: Options): OutsideModule {
  const { n_head: H, d_head: d, d_model: D, pre_lnorm } = o
  const layer_norm = new LayerNorm(D)
  const project = (outputs: number, inputs = D) => new Linear(inputs, outputs, random(), { bias: false })
  const [q_net, kv_net, o_net] = [project(H * d), project(2 * H * d), project(D, H * d)]
  const drop = new Dropout(o.dropout, random())
  const forward = (x: Tensor) => {
    const [k, v] = split(kv_net.forward(pre_lnorm ? layer_norm.forward(x) : x), -1, [H * d, H * d])
    const y = read(heads(q_net.forward(x), H), heads(k, H), heads(v, H))
    const both = add(x, drop.forward(o_net.forward(merge(y))))
    return { y: pre_lnorm ? both : layer_norm.forward(both), state: {} }
  }
  return new OutsideModule({ layer_norm, q_net, kv_net, o_net, drop, ...fixedParts(o) }, forward, {}, D)
}

// ---- rows -----------------------------------------------------------------------------------------------------------------------------------

/** The two repositories' states have other names in their figures. */
const stateNames = { 'recurrent-fwp': recurrentFwp, 'lmtool-fwp': sameName }
type LanguageRepository = keyof typeof stateNames

const common: Readonly<Record<string, OutsideOption>> = {
  n_head: numHead,
  d_head: { description: 'width of a head' },
  d_model: width,
  dropout,
  pre_lnorm: { description: 'normalise what the layer reads instead of what it gives', default: false },
}
/** Stored there and used by nobody, or without a meaning for one layer. */
const ignored = ['dropatt', 'eps', 'layer_id', 'num_layer', 'carry_over_fast_weight', 'device']
const anyKind = { ...quadraticKinds, ...kinds }

/** What the tensors under a prefix say. */
function readLanguage(prefix: string, shapeOf: (name: string) => readonly number[], dict: StateDict): Options {
  const features = dict.get('proj_matrix')
  const has = (name: string): boolean => dict.has(prefix + name)
  const inputs = ['qkvb_net.weight', 'qkv_net.weight', 'q_net.weight', 'slow_net.weight', 'slow_net.weight_ih_l0'].find(has)
  return {
    d_model: shapeOf(prefix + (inputs ?? 'qkvb_net.weight'))[1],
    ...(features && { proj_dim: features.shape[1] }),
    ...(has('fast_net_layer_norms.0.weight') && { fast_net_depth: layersIn(dict, `${prefix}fast_net_layer_norms.`) }),
    ...(has('fast_net_slow_weights') && { use_slow_base_weights: true }),
    use_out_proj: has('out_proj.weight'),
    use_lnorm: has('layer_norm.weight'),
  }
}
/** Of these, those that are options of a class. */
const only = (says: Options, options: object): Options => Object.fromEntries(Object.entries(says).filter(([name]) => name in options))

function languageLayer(attnType: number, repository: LanguageRepository, o: Options, fixed: StateDict): OutsideModule {
  const found = anyKind[attnType]!
  const R = fixed.get('proj_matrix')
  if (!('proj_dim' in found.options)) return build(found, repository, o)
  if (R === undefined)
    throw new Error(`${found.class} has random features, which its parameters don't hold: add them to the state dict as proj_matrix [d,m]`)
  if (R.shape.length !== 2 || R.shape[0] !== o.d_head)
    throw new Error(`loadOutside: proj_matrix has shape ${show(R.shape)}; it must be [d,m] with heads ${o.d_head} wide`)
  return build(found, repository, { ...o, proj_matrix: tensor(Float64Array.from(R.data, Number), { shape: [...R.shape] }) })
}
const build = (found: NonNullable<(typeof anyKind)[number]>, repository: LanguageRepository, o: Options): OutsideModule =>
  'slot' in found ? fastWeightLayer(found, stateNames[repository], o) : quadraticLayer(found.read(o), o)

const file = (attnType: number): string => (attnType in kinds ? 'cuda_fast_weight_layer.py' : 'model_main.py')

function languageRow(attnType: number, repository: LanguageRepository): OutsideClass<OutsideModule> {
  const options = { ...common, ...anyKind[attnType]!.options }
  return {
    source: `${repository}, ${file(attnType)}`,
    options,
    read: (shapeOf, dict) => only(readLanguage('', shapeOf, dict), options),
    make: (o, fixed) => languageLayer(attnType, repository, o, fixed),
    fixed: ['proj_matrix'],
    ignored: [...ignored, 'attn_type'],
  }
}

/** A layer and its feed-forward layer. Options of its kind that aren't said are the kind's; an output layer, in the first kinds, is there by default. */
function decoderRow(repository: LanguageRepository): OutsideClass<OutsideModule> {
  const ofKinds = Object.values(anyKind).flatMap((found) => Object.entries(found!.options))
  const optional = ofKinds.map(([name, { default: initial, description }]) => {
    const open: OutsideOption = {
      description,
      optional: true,
      ...(typeof initial !== 'number' && name !== 'proj_dim' && { flag: true as const }),
    }
    return [name, open] as const
  })
  return {
    source: `${repository}, model_main.py`,
    options: { ...common, ...Object.fromEntries(optional), d_inner: inner, attn_type: { description: 'number of the layer, such as 24' } },
    read: (shapeOf, dict) => ({ ...readLanguage('dec_attn.', shapeOf, dict), d_inner: shapeOf('pos_ff.CoreNet.0.weight')[0] }),
    make(given, fixed) {
      const { attn_type, d_model, d_inner, dropout, pre_lnorm } = given
      const found = anyKind[attn_type]
      if (found === undefined) throw new Error(`there is no attn_type ${attn_type} (${Object.keys(anyKind).join(', ')})`)
      const said = Object.entries(found.options).map(([name, { default: initial }]) => [name, given[name] ?? initial] as const)
      const o = { ...only(given, common), ...Object.fromEntries(said) }
      const dec_attn = languageLayer(attn_type, repository, o, fixed)
      return new DecoderLayer(dec_attn, feedForward(d_model, d_inner, { list: 'CoreNet', dropout, post: !pre_lnorm }))
    },
    fixed: ['proj_matrix'],
    ignored,
  }
}

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

export const languageRows = (repository: LanguageRepository): Record<string, OutsideClass<OutsideModule>> => ({
  ...Object.fromEntries(Object.entries(anyKind).map(([number, found]) => [found!.class, languageRow(Number(number), repository)])),
  DecoderLayer: decoderRow(repository),
  PerformerDecoderLayer: decoderRow(repository),
})
