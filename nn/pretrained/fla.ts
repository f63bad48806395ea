/**
 * The architectures of flash-linear-attention 0.6.0. Where the package's classes don't do what their configuration says, these rows do what the classes do:
 * docs/interop.md names each place.
 */
import type { BlockModelConfig, NormChoice, PartChoice } from '../block-model.ts'
import type { MemorySettings } from '../memory-layer.ts'
import {
  type Architecture,
  ConfigReader,
  flat,
  type Json,
  type JsonObject,
  leading,
  type Name,
  PretrainedError,
  type StateName,
  taps,
  within,
} from './architecture.ts'
import { mamba, mambaNames, mambaStates } from './mamba.ts'

// --- what the classes share -----------------------------------------------------------------------------------------------------------

const shared: JsonObject = {
  vocab_size: 32000,
  hidden_size: 2048,
  num_hidden_layers: 24,
  hidden_ratio: 4,
  intermediate_size: null,
  hidden_act: 'swish',
  norm_eps: 1e-6,
  tie_word_embeddings: false,
  pad_token_id: null,
  attn: null,
  attnres_block_size: null,
  fuse_norm: true,
}
const still = ['attn_mode', 'fuse_swiglu', 'fuse_cross_entropy', 'fuse_linear_cross_entropy', 'use_l2warp']

const eps = (c: ConfigReader): number => c.number('norm_eps')
const rms = (c: ConfigReader): NormChoice => ({ kind: 'rms', eps: eps(c) })

function innerSize(c: ConfigReader): number {
  const ratio = c.get('hidden_ratio') === null ? 4 : c.number('hidden_ratio')
  return c.maybeInteger('intermediate_size') ?? 256 * Math.ceil(Math.floor((c.integer('hidden_size') * ratio * 2) / 3) / 256)
}

/** Layers of softmax attention, as `attn` says: null, an object, or a list of them. */
function softmaxPart(c: ConfigReader, layer: number, norm: NormChoice): PartChoice | undefined {
  const given = c.get('attn')
  const choices = given === null ? [] : Array.isArray(given) ? (given as Json[]) : [given]
  for (const choice of choices) {
    const fail = (problem: string): never => {
      throw new PretrainedError(`config.json: attn ${problem}`)
    }
    if (typeof choice !== 'object' || choice === null || Array.isArray(choice)) return fail('must be an object, a list of them, or null')
    const known = ['layers', 'num_heads', 'num_kv_heads', 'qkv_bias', 'window_size', 'rope_theta']
    const stray = Object.keys(choice).find((key) => !known.includes(key))
    if (stray !== undefined) return fail(`has a key ${stray}, which isn't known here (${known.join(', ')})`)
    const own = new ConfigReader(choice as JsonObject, { qkv_bias: false, window_size: null, rope_theta: 10000 })
    if (!Array.isArray(own.get('layers'))) return fail('needs layers, a list of their numbers')
    if (!own.list('layers')!.includes(layer)) continue
    const heads = own.integer('num_heads')
    const width = c.whole(`hidden_size over attn's num_heads`, c.integer('hidden_size') / heads)
    if (width % 2 === 1) return fail(`has heads of ${width} channels, which rotary positions turn in pairs`)
    const base = own.number('rope_theta')
    if (base <= 0) return fail(`has a rope_theta of ${base}, which must be above 0`)
    return {
      kind: 'softmax',
      norm,
      heads,
      positions: 'rotary',
      keyHeads: own.maybeInteger('num_kv_heads') ?? heads,
      headWidth: width,
      bias: own.flag('qkv_bias'),
      outputBias: false,
      window: own.maybeInteger('window_size') ?? 0,
      base,
    }
  }
  return undefined
}

function model(c: ConfigReader, memory: (layer: number) => Partial<MemorySettings> & { bounded?: boolean }): BlockModelConfig {
  if (c.get('attnres_block_size') !== null)
    throw new PretrainedError(
      "config.json: attnres_block_size isn't null: residuals that attend to earlier blocks are another architecture, which isn't read here",
    )
  c.choice('hidden_act', { swish: 0, silu: 0 })
  const layers = Array.from({ length: c.integer('num_hidden_layers') }, (_, layer): PartChoice[] => [
    softmaxPart(c, layer, rms(c)) ?? { kind: 'memory', norm: rms(c), ...memory(layer) },
    { kind: 'gated-feed-forward', norm: rms(c), inner: innerSize(c) },
  ])
  return { symbols: c.integer('vocab_size'), dModel: c.integer('hidden_size'), layers, norm: rms(c), ...ends(c) }
}

const ends = (c: ConfigReader) => ({ tie: c.flag('tie_word_embeddings'), padding: c.maybeToken('pad_token_id') })

/** A norm with its bias, where it has one. */
const withBias = (file: string, own: string): Name[] => [
  [`${file}.weight`, `${own}.weight`],
  [`${file}.bias`, `${own}.bias`],
]
const attn = (names: readonly Name[]): Name[] => within('model.layers.#.attn.', 'layers.#.parts.0.layer.', names)
const headName = (c: ConfigReader): Name[] => (c.flag('tie_word_embeddings') ? [] : [['lm_head.weight', 'head.weight']])

/** All names of layers that have queries, keys and values, of any of the classes: those that a model has no parameter for aren't there. */
const projections: readonly Name[] = [
  ...(['query', 'key', 'value'] as const).flatMap((own): Name[] => [
    [`${own[0]}_proj.weight`, `${own}.linear.weight`],
    [`${own[0]}_proj.bias`, `${own}.linear.bias`],
    [`${own[0]}_conv1d.weight`, `${own}.conv`, taps],
  ]),
  ['o_proj.weight', 'output.weight'],
]
const delta: readonly Name[] = [
  ['b_proj.weight', 'strength.weight'],
  ['b_proj.bias', 'strength.bias'],
  ['a_proj.weight', 'gate.projection.weight'],
  ['a_proj.bias', 'gate.projection.bias'],
  ['A_log', 'gate.A_log', flat],
  ['dt_bias', 'gate.dt_bias', flat],
  ['g_proj.weight', 'output_gate.weight'],
  ['o_norm.weight', 'norm.weight'],
]

/** All but the names of what a layer does over time. */
const trunk = (c: ConfigReader): Name[] => [
  ['model.embeddings.weight', 'embedding.weight'],
  ...within('model.layers.#.', 'layers.#.parts.', [
    ['attn_norm.weight', '0.norm.weight'],
    ['mlp_norm.weight', '1.norm.weight'],
    ['mlp.gate_proj.weight', '1.layer.gate.weight'],
    ['mlp.up_proj.weight', '1.layer.up.weight'],
    ['mlp.down_proj.weight', '1.layer.down.weight'],
  ]),
  ['model.norm.weight', 'norm.weight'],
  ...headName(c),
]
const named = (c: ConfigReader, own: readonly Name[]): Name[] => [...trunk(c), ...attn([...projections, ...own])]

const state = (axes: 'same' | 'transposed', file = 'state.#', name = 'S'): StateName => ({ file, from: [[0, name]], axes })
const caches = (...names: (readonly [file: string, own: string])[]): StateName[] =>
  names.map(([file, name]) => ({ file: `conv.#.${file}`, from: [[0, name]], axes: 'taps' }))
const qkvCaches = caches(['q', 'query'], ['k', 'key'], ['v', 'value'])

/** Widths of heads that a width of all heads together says: hidden_size times a factor. */
const widthOf = (c: ConfigReader, factor: string): number =>
  c.whole(`hidden_size times ${factor} over num_heads`, Math.floor(c.integer('hidden_size') * c.number(factor)) / c.integer('num_heads'))

/** Queries and keys with convolution and SiLU, or SiLU alone, and L2 norm; values likewise without the norm. */
const convolved = (c: ConfigReader, convolution = c.flag('use_short_conv')) =>
  ({
    conv: convolution ? c.integer('conv_size') : 0,
    queryMap: 'silu',
    keyMap: 'silu',
    valueMap: 'silu',
    queryNorm: 'l2',
    keyNorm: 'l2',
    normEps: eps(c),
  }) as const satisfies Partial<MemorySettings>

/** gated_deltanet, kda, comba: heads of a width of their own, and as many of values or more. */
const headed = (c: ConfigReader) => {
  const keyHeads = c.integer('num_heads')
  const heads = c.maybeInteger('num_v_heads') ?? keyHeads
  const keyWidth = c.integer('head_dim')
  if (heads % keyHeads !== 0) throw new PretrainedError(`config.json: num_v_heads is ${heads}, no multiple of the ${keyHeads} num_heads`)
  return {
    heads,
    queryHeads: keyHeads,
    keyHeads,
    keyWidth,
    valueWidth: c.whole('head_dim times expand_v', Math.floor(keyWidth * c.number('expand_v'))),
  } as const satisfies Partial<MemorySettings>
}
const range = (c: ConfigReader) => ({ betaRange: c.flag('allow_neg_eigval') ? 2 : 1 })

/** gla, retnet, linear_attn: as many heads of queries as memories, and as many of keys and values or fewer. */
const grouped = (c: ConfigReader) => {
  const heads = c.integer('num_heads')
  const own = c.maybeInteger('num_kv_heads') ?? heads
  if (heads % own !== 0) throw new PretrainedError(`config.json: num_kv_heads is ${own}, no divisor of the ${heads} num_heads`)
  return {
    heads,
    keyHeads: own,
    valueHeads: own,
    keyWidth: widthOf(c, 'expand_k'),
    valueWidth: widthOf(c, 'expand_v'),
    normEps: eps(c),
  } as const satisfies Partial<MemorySettings>
}

const activations = { relu: 'relu', sigmoid: 'sigmoid', silu: 'silu', swish: 'silu', sqrelu: 'relu2', logsigmoid: 'logsigmoid' } as const
const activation = (c: ConfigReader): MemorySettings['features'] =>
  c.get('feature_map') === null ? 'identity' : c.choice('feature_map', activations)

/** gla, retnet: the norm's name says whether the gate is fused into it. */
const gatedNorm = (c: ConfigReader): Name[] => [
  ['g_proj.weight', 'output_gate.weight'],
  [
    c.flag('use_output_gate') && c.flag('fuse_norm') && c.get('hidden_act') === 'swish' ? 'g_norm_swish_gate.weight' : 'g_norm.weight',
    'norm.weight',
  ],
]
const silu = (gated: boolean): Partial<MemorySettings> => ({ outputGate: gated ? 'silu' : 'none' })

const row = (
  modelType: string,
  own: Omit<Architecture, 'package' | 'modelType' | 'still'> & { still?: readonly string[] },
): Architecture => ({
  package: 'fla',
  modelType,
  ...own,
  keys: { ...shared, ...own.keys },
  still: [...still, ...(own.still ?? [])],
})

// --- rows -----------------------------------------------------------------------------------------------------------------------------

const deltaNet = row('delta_net', {
  keys: {
    num_heads: 16,
    expand_k: 1,
    expand_v: 1,
    use_beta: true,
    use_gate: false,
    use_short_conv: true,
    conv_size: 4,
    allow_neg_eigval: false,
    qk_norm: 'l2',
    qk_activation: 'silu',
  },
  still: ['use_output_norm'],
  config: (c) =>
    model(c, () => {
      const map = c.choice('qk_activation', { silu: 'silu', relu: 'relu', elu: 'elu1', identity: 'identity' } as const)
      const norm = c.choice('qk_norm', { l2: 'l2', sum: 'absolute' } as const)
      return {
        ...convolved(c),
        rule: 'delta',
        heads: c.integer('num_heads'),
        keyWidth: widthOf(c, 'expand_k'),
        valueWidth: widthOf(c, 'expand_v'),
        queryMap: map,
        keyMap: map,
        queryNorm: norm,
        keyNorm: norm,
        strength: c.flag('use_beta') ? 'sigmoid' : 'one',
        ...range(c),
        ...silu(c.flag('use_gate')),
      }
    }),
  names: (c) => named(c, delta),
  states: () => [state('same'), ...qkvCaches],
})

const gatedDeltaNet = row('gated_deltanet', {
  keys: {
    head_dim: 256,
    num_heads: 6,
    num_v_heads: null,
    expand_v: 2,
    num_hidden_layers: 21,
    use_gate: true,
    use_short_conv: true,
    conv_size: 4,
    allow_neg_eigval: false,
    output_gate_activation: 'swish',
  },
  config: (c) =>
    model(c, () => ({
      ...convolved(c),
      ...headed(c),
      ...range(c),
      rule: 'gated-delta',
      gate: 'softplus',
      outputGate: c.flag('use_gate')
        ? c.choice('output_gate_activation', { swish: 'silu', silu: 'silu', sigmoid: 'sigmoid' } as const)
        : 'none',
    })),
  names: (c) => named(c, delta),
  states: () => [state('transposed'), ...qkvCaches],
})

const kda = row('kda', {
  keys: {
    head_dim: 128,
    num_heads: 16,
    num_v_heads: null,
    expand_v: 1,
    use_short_conv: true,
    conv_size: 4,
    allow_neg_eigval: false,
    safe_gate: false,
    lower_bound: null,
  },
  config: (c) => {
    const bound = c.maybeNumber('lower_bound')
    if (c.flag('safe_gate') && bound === null) throw new PretrainedError('config.json: safe_gate needs a lower_bound, such as -5')
    return model(c, () => {
      const heads = headed(c)
      return {
        ...convolved(c),
        ...heads,
        ...range(c),
        rule: 'kda',
        gate: bound === null ? 'softplus' : 'bounded',
        ...(bound !== null && { gateBound: bound }),
        gateRank: heads.valueWidth,
        outputGate: 'sigmoid',
        outputGateRank: heads.valueWidth,
      }
    })
  },
  names: (c) =>
    named(c, [
      ...delta,
      ['f_proj.0.weight', 'gate.projection.down.weight'],
      ['f_proj.1.weight', 'gate.projection.up.weight'],
      ['g_proj.0.weight', 'output_gate.down.weight'],
      ['g_proj.1.weight', 'output_gate.up.weight'],
      ['g_proj.1.bias', 'output_gate.up.bias'],
    ]),
  states: () => [state('transposed'), ...qkvCaches],
})

const gla = row('gla', {
  keys: {
    num_heads: 4,
    num_kv_heads: null,
    expand_k: 0.5,
    expand_v: 1,
    use_short_conv: false,
    conv_size: 4,
    use_output_gate: true,
    feature_map: null,
    clamp_min: null,
    elementwise_affine: true,
  },
  still: ['use_gk', 'use_gv'],
  config: (c) => {
    const floor = c.maybeNumber('clamp_min')
    if (floor !== null && floor >= 0) throw new PretrainedError(`config.json: clamp_min is ${floor}: decays' logarithms are below 0`)
    return model(c, () => {
      const map = c.flag('use_short_conv') ? 'silu' : 'identity'
      return {
        ...grouped(c),
        rule: 'gla',
        conv: c.flag('use_short_conv') ? c.integer('conv_size') : 0,
        queryMap: map,
        keyMap: map,
        valueMap: map,
        features: activation(c),
        gate: 'logsigmoid',
        gateFloor: floor ?? 0,
        normGain: c.flag('elementwise_affine'),
        ...silu(c.flag('use_output_gate')),
      }
    })
  },
  names: (c) =>
    named(c, [
      ...gatedNorm(c),
      ['gk_proj.0.weight', 'gate.projection.down.weight'],
      ['gk_proj.1.weight', 'gate.projection.up.weight'],
      ['gk_proj.1.bias', 'gate.projection.up.bias'],
    ]),
  states: () => [state('transposed'), ...qkvCaches],
})

const retNet = row('retnet', {
  keys: {
    num_heads: 8,
    num_kv_heads: null,
    expand_k: 1,
    expand_v: 2,
    hidden_ratio: 2,
    use_output_gate: true,
    feature_map: null,
    elementwise_affine: true,
  },
  still: ['use_short_conv', 'conv_size'],
  config: (c) =>
    model(c, () => ({
      ...grouped(c),
      rule: 'retnet',
      features: activation(c),
      rotary: 10000,
      normGain: c.flag('elementwise_affine'),
      ...silu(c.flag('use_output_gate')),
    })),
  names: (c) => named(c, gatedNorm(c)),
  states: () => [state('same')],
})

const linearFeatures = {
  elementwise_product: 'product',
  hedgehog: 'hedgehog',
  t2r: 't2r',
  dpfp: 'dpfp',
  elu: 'elu1',
  relu: 'relu',
  identity: 'identity',
} as const

const linearAttention = row('linear_attn', {
  keys: {
    num_heads: 4,
    num_kv_heads: null,
    expand_k: 1,
    expand_v: 1,
    feature_map: 'elementwise_product',
    tie_feature_map_qk: false,
    norm_q: false,
    norm_k: false,
    norm_feature_map: false,
    elementwise_affine: true,
  },
  config: (c) => {
    const features = c.choice('feature_map', linearFeatures)
    if (c.flag('tie_feature_map_qk') && ['product', 'hedgehog', 't2r'].includes(features))
      throw new PretrainedError(
        'config.json: tie_feature_map_qk is true, of which transformers writes no safetensors file: there are two names for one tensor',
      )
    return model(c, () => ({
      ...grouped(c),
      rule: c.flag('norm_feature_map') ? 'linear-attention' : 'sum',
      features,
      normaliserEps: 1e-10,
      queryNorm: c.flag('norm_q') ? 'sum' : 'none',
      keyNorm: c.flag('norm_k') ? 'sum' : 'none',
      normGain: c.flag('elementwise_affine'),
    }))
  },
  names: (c) => {
    const numbered = c.choice('feature_map', linearFeatures) === 'product'
    const layers = ['query', 'key'].flatMap((own) =>
      [0, 1].flatMap((i) =>
        ['weight', 'bias'].map(
          (what): Name => [`feature_map_${own[0]}.layer${numbered ? i + 1 : ''}.${what}`, `${own}_features.layers.${i}.${what}`],
        ),
      ),
    )
    return named(c, [['norm.weight', 'norm.weight'], ...layers])
  },
  states: (c) =>
    c.flag('norm_feature_map') ? [state('same', 'state.#.0'), { file: 'state.#.1', from: [[0, 'z']], axes: 'ones' }] : [state('same')],
})

const gatedDeltaProduct = row('gated_deltaproduct', {
  keys: {
    head_dim: 256,
    num_heads: 6,
    expand_v: 2,
    num_hidden_layers: 21,
    num_householder: 1,
    use_forget_gate: false,
    use_output_gate: true,
    use_short_conv: true,
    conv_size: 4,
    allow_neg_eigval: false,
  },
  config: (c) =>
    model(c, () => ({
      ...convolved(c),
      ...headed(c),
      ...range(c),
      rule: 'delta-product',
      steps: c.integer('num_householder'),
      gate: c.flag('use_forget_gate') ? 'softplus' : 'none',
      ...silu(c.flag('use_output_gate')),
    })),
  names: (c) => named(c, delta),
  states: () => [state('same'), ...qkvCaches],
})

const hgrn2Names: readonly Name[] = [
  ['q_proj.weight', 'query.linear.weight'],
  ['q_conv1d.weight', 'query.conv', taps],
  ['f_proj.weight', 'key.linear.weight'],
  ['f_conv1d.weight', 'key.conv', taps],
  ['i_proj.weight', 'value.linear.weight'],
  ['i_conv1d.weight', 'value.conv', taps],
  ['g_norm.weight', 'norm.weight'],
  ['o_proj.weight', 'output.weight'],
]

const hgrn2 = row('hgrn2', {
  keys: { num_heads: null, expand_ratio: 128, use_short_conv: false, conv_size: 4, use_lower_bound: true, elementwise_affine: true },
  config: (c) => {
    const D = c.integer('hidden_size')
    const ratio = c.maybeInteger('expand_ratio')
    const heads = ratio === null ? c.integer('num_heads') : c.whole('hidden_size over expand_ratio', D / ratio)
    const width = c.whole('hidden_size over the heads', D / heads)
    return model(c, () => ({
      rule: 'hgrn2',
      heads,
      keyWidth: width,
      valueWidth: width,
      conv: c.flag('use_short_conv') ? c.integer('conv_size') : 0,
      queryMap: 'silu',
      headNorm: 'all',
      // Whatever norm_eps says: the class doesn't hand it on.
      normEps: 1e-5,
      normGain: c.flag('elementwise_affine'),
      bounded: c.flag('use_lower_bound'),
    }))
  },
  names: (c) => [
    ...trunk(c),
    // A softmax layer calls keys and values by their names, another one otherwise.
    ...Array.from({ length: c.integer('num_hidden_layers') }, (_, i) =>
      within(`model.layers.${i}.attn.`, `layers.${i}.parts.0.layer.`, softmaxPart(c, i, rms(c)) ? projections : hgrn2Names),
    ).flat(),
    ['model.lower_bounds', 'bounds'],
  ],
  states: () => [state('transposed'), ...qkvCaches],
})

const comba = row('comba', {
  keys: {
    head_dim: 256,
    num_heads: 6,
    num_v_heads: null,
    expand_v: 2,
    num_hidden_layers: 21,
    use_output_gate: true,
    use_short_conv: true,
    conv_size: 4,
  },
  // The model doesn't hand these on to its layers.
  still: ['use_inner_decay', 'use_output_correction', 'correction_factor'],
  config: (c) =>
    model(c, () => ({
      ...convolved(c),
      ...headed(c),
      rule: 'comba',
      gate: 'softplus',
      outputGate: c.flag('use_output_gate') ? 'sigmoid' : 'none',
    })),
  names: (c) => named(c, [...delta, ['decay', 'reading'], ['D', 'correction']]),
  states: () => [state('same'), ...qkvCaches],
})

const mesaNet = row('mesa_net', {
  keys: { head_dim: 128, num_heads: 16, conv_size: 4, use_output_gate: false, lambda_lower_bound: 0.25 },
  still: ['use_short_conv', 'max_cg_step_training', 'max_cg_step_decoding'],
  config: (c) =>
    model(c, () => ({
      ...convolved(c, true),
      rule: 'mesa',
      heads: c.integer('num_heads'),
      keyWidth: c.integer('head_dim'),
      valueWidth: c.integer('head_dim'),
      valueConv: false,
      valueMap: 'identity',
      scale: false,
      strengthBias: true,
      gate: 'logsigmoid',
      gateDivisor: 1,
      ridgeFloor: c.number('lambda_lower_bound'),
      ...silu(c.flag('use_output_gate')),
    })),
  names: (c) => named(c, [...delta, ['lambda_params', 'ridge', flat]]),
  states: () => [state('same', 'state.#.0', 'A'), state('same', 'state.#.1'), ...caches(['0', 'query'], ['1', 'key'])],
})

const rwkv7 = row('rwkv7', {
  keys: {
    norm_eps: 1e-5,
    hidden_act: 'sqrelu',
    head_dim: 64,
    num_heads: null,
    decay_low_rank_dim: 64,
    gate_low_rank_dim: 128,
    a_low_rank_dim: 64,
    v_low_rank_dim: 16,
    norm_first: true,
    norm_bias: true,
    value_dim: null,
  },
  config: (c) => {
    const D = c.integer('hidden_size')
    const width = c.get('head_dim') === null ? c.whole('hidden_size over num_heads', D / c.integer('num_heads')) : c.integer('head_dim')
    const heads = c.whole('hidden_size over head_dim', D / width)
    if (c.get('num_heads') !== null && c.integer('num_heads') !== heads)
      throw new PretrainedError(`config.json: num_heads is ${c.get('num_heads')}, where hidden_size over head_dim is ${heads}`)
    const values = c.get('value_dim')
    if ((Array.isArray(values) ? values : [values ?? D]).some((value) => value !== D))
      throw new PretrainedError(`config.json: value_dim must be hidden_size (${D}) in every layer: the package fails on others`)
    c.choice('hidden_act', { sqrelu: 0 })
    const norm: NormChoice = { kind: 'layer', eps: eps(c), bias: c.flag('norm_bias') }
    const ratio = c.get('hidden_ratio') === null ? 4 : c.number('hidden_ratio')
    const inner = c.maybeInteger('intermediate_size') ?? 32 * Math.ceil(Math.floor(D * ratio) / 32)
    const ranks = {
      decayRank: c.integer('decay_low_rank_dim'),
      gateRank: c.integer('gate_low_rank_dim'),
      rateRank: c.integer('a_low_rank_dim'),
      valueRank: c.integer('v_low_rank_dim'),
    }
    // The norm of kappa: 1e-6 inside of the root, or 1e-12 at least outside.
    const eps7 = { normEps: width * eps(c), kappaEps: c.flag('fuse_norm') ? 1e-6 : 1e-24 }
    const layers = Array.from({ length: c.integer('num_hidden_layers') }, (_, layer): PartChoice[] => [
      softmaxPart(c, layer, norm) ?? { kind: 'rwkv', version: 7, norm, heads, ...ranks, ...eps7 },
      { kind: 'rwkv-channels', version: 7, norm, inner },
    ])
    if (layers[0][0].kind === 'softmax' && layers.some(([part]) => part.kind === 'rwkv'))
      throw new PretrainedError(
        "config.json: attn names layer 0, whose values the other layers of an RWKV-7 mix with their own: it can't be one of softmax",
      )
    return { symbols: c.integer('vocab_size'), dModel: D, embeddingNorm: c.flag('norm_first') ? norm : null, layers, norm, ...ends(c) }
  },
  names: (c) => [
    ['model.embeddings.weight', 'embedding.weight'],
    ...withBias('model.layers.0.pre_norm', 'embedding_norm'),
    ...withBias('model.layers.#.attn_norm', 'layers.#.parts.0.norm'),
    ...withBias('model.layers.#.ffn_norm', 'layers.#.parts.1.norm'),
    ...attn([
      ...projections,
      ...['r', 'w', 'k', 'v', 'a', 'g'].map((of): Name => [`x_${of}`, `mix.${of}`, leading]),
      ['k_k', 'kappa'],
      ['k_a', 'rate'],
      ['r_k', 'own'],
      ['r_proj.weight', 'receptance.weight'],
      ['k_proj.weight', 'key.weight'],
      ['v_proj.weight', 'value.weight'],
      ...Object.entries({ w: 'decay', a: 'rate', v: 'value', g: 'gate' }).flatMap(([of, own]): Name[] => [
        [`${of}_lora.lora.0.weight`, `${own}_lora.down.weight`],
        [`${of}_lora.lora.2.weight`, `${own}_lora.up.weight`],
        [`${of}_lora.lora.2.bias`, `${own}_lora.up.bias`],
      ]),
      ['g_norm.weight', 'gain'],
      ['g_norm.bias', 'bias'],
    ]),
    ...within('model.layers.#.ffn.', 'layers.#.parts.1.layer.', [
      ['x_k', 'mix.k'],
      ['key.weight', 'key.weight'],
      ['value.weight', 'value.weight'],
    ]),
    ...withBias('model.norm', 'norm'),
    ...headName(c),
  ],
  states: () => [
    state('same'),
    { file: 'conv.#', from: [[0, 'shift']], axes: 'last' },
    { file: 'ffn.#', from: [[1, 'shift']], axes: 'last' },
  ],
})

const mamba2 = row('mamba2', {
  keys: {
    norm_eps: 1e-5,
    hidden_act: 'silu',
    num_hidden_layers: 48,
    head_dim: 64,
    num_heads: null,
    state_size: 128,
    expand: 2,
    conv_kernel: 4,
    n_groups: 1,
    use_bias: false,
    use_conv_bias: true,
    dt_limit: [0, { __float__: 'Infinity' }],
    rmsnorm: true,
    norm_before_gate: false,
    D_has_hdim: false,
  },
  still: [
    'A_init_range',
    'chunk_size',
    'conv_init',
    'dt_init_floor',
    'dt_max',
    'dt_min',
    'rescale_prenorm_residual',
    'residual_in_fp32',
    'time_step_rank',
  ],
  config: (c) => {
    const D = c.integer('hidden_size')
    const width = c.integer('head_dim')
    const heads = c.whole('expand times hidden_size over head_dim', Math.floor(c.number('expand') * D) / width)
    if (c.get('num_heads') !== null && c.integer('num_heads') !== heads)
      throw new PretrainedError(`config.json: num_heads is ${c.get('num_heads')}, where expand times hidden_size over head_dim is ${heads}`)
    return mamba(c, {
      heads,
      valueWidth: width,
      limit: 'dt_limit',
      eps: eps(c),
      outputNorm: !c.flag('rmsnorm') ? 'none' : c.flag('norm_before_gate') ? 'before' : 'after',
      skip: c.flag('D_has_hdim') ? 'channel' : 'head',
    })
  },
  names: mambaNames,
  states: () => mambaStates,
})

export const flaRows: readonly Architecture[] = [
  deltaNet,
  gatedDeltaNet,
  kda,
  gla,
  retNet,
  linearAttention,
  gatedDeltaProduct,
  hgrn2,
  comba,
  mesaNet,
  rwkv7,
  mamba2,
]
