/**
 * Architectures of transformers 5.24. Names are those in the files that `save_pretrained` writes. Where the package's classes don't do what their configuration
 * says, these rows do what the classes do: docs/interop.md names each place.
 */
import type { BlockModelConfig, NormChoice, PartChoice } from '../block-model.ts'
import type { ExpertsSettings } from '../experts.ts'
import type { MemorySettings } from '../memory-layer.ts'
import {
  type Architecture,
  type Buffer,
  type ConfigReader,
  flat,
  interleaved,
  type JsonObject,
  joined,
  joinedTaps,
  leading,
  type Name,
  PretrainedError,
  type StateName,
  shaped,
  taps,
  within,
} from './architecture.ts'
import { mamba, mambaNames, mambaStates } from './mamba.ts'

// --- what the classes share -----------------------------------------------------------------------------------------------------------

const shared: JsonObject = {
  vocab_size: 32000,
  hidden_size: 2048,
  num_hidden_layers: 24,
  hidden_act: 'silu',
  tie_word_embeddings: false,
  pad_token_id: null,
}
const still = [
  'attention_dropout',
  'output_router_logits',
  'router_aux_loss_coef',
  'pretraining_tp',
  'model_max_length',
  'use_return_dict',
  'num_nextn_predict_layers',
  'mtp_loss_scaling_factor',
  'context_length',
]

const row = (
  modelType: string,
  own: Omit<Architecture, 'package' | 'modelType' | 'still'> & { still?: readonly string[] },
): Architecture => ({
  package: 'transformers',
  modelType,
  notCompared: { generated_cached: "the package's cached decoding gives other tokens than the whole sequence does: a fault of its own" },
  ...own,
  keys: { ...shared, ...own.keys },
  still: [...still, ...(own.still ?? [])],
})

const eps = (c: ConfigReader): number => c.number('rms_norm_eps')
const ends = (c: ConfigReader) => {
  c.choice('hidden_act', { silu: 0, swish: 0 })
  return {
    symbols: c.integer('vocab_size'),
    dModel: c.integer('hidden_size'),
    tie: c.flag('tie_word_embeddings'),
    padding: c.maybeToken('pad_token_id'),
  }
}

/** What each layer is, as the list of that name says, or where there is none `usual` of its number. */
function typesOf<T extends string>(c: ConfigReader, key: string, choices: readonly T[], usual: (i: number) => T): T[] {
  const layers = c.integer('num_hidden_layers')
  const given = c.list(key)
  if (given === null) return Array.from({ length: layers }, (_, i) => usual(i))
  const bad = given.find((type) => !choices.includes(type as T))
  if (given.length !== layers || bad !== undefined)
    throw new PretrainedError(
      `config.json: ${key} must be a list of ${layers}, each ${choices.join(' or ')}${bad === undefined ? `; it has ${given.length}` : `, not ${JSON.stringify(bad)}`}`,
    )
  return given as T[]
}
type LayerType = 'linear_attention' | 'full_attention'
const layerTypes = ['linear_attention', 'full_attention'] as const
const layerTypesOf = (c: ConfigReader, usual: (i: number) => boolean): LayerType[] =>
  typesOf(c, 'layer_types', layerTypes, (i) => (usual(i) ? 'full_attention' : 'linear_attention'))

/** Rotary positions: rope_parameters, or older files' keys beside them. A theta of null turns them off. */
function rope(c: ConfigReader, theta: number, partial = 1): { theta: number; partial: number } | null {
  if (c.get('rope_scaling') !== null)
    throw new PretrainedError("config.json: rope_scaling isn't null: scaled rotary positions aren't read here")
  const given = c.get('rope_parameters')
  const own = typeof given === 'object' && given !== null && !Array.isArray(given) ? (given as JsonObject) : {}
  const type = own.rope_type ?? own.type ?? 'default'
  if (type !== 'default')
    throw new PretrainedError(`config.json: rope_parameters are of the type ${JSON.stringify(type)}; only "default" is read here`)
  if (own.rope_theta === null) return null
  const value = (key: string, initial: number): number => c.number(key, own[key] ?? c.get(key) ?? initial)
  const found = { theta: value('rope_theta', theta), partial: value('partial_rotary_factor', partial) }
  if (found.theta <= 0) throw new PretrainedError(`config.json: rope_theta is ${found.theta}, which must be above 0`)
  if (!(found.partial >= 0 && found.partial <= 1))
    throw new PretrainedError(`config.json: partial_rotary_factor is ${found.partial}, which must be from 0 to 1`)
  return found
}
const ropeKeys: JsonObject = { rope_parameters: null, rope_theta: null, rope_scaling: null, partial_rotary_factor: null }

/** Softmax attention with heads of a width of its own. */
function attention(c: ConfigReader, rotation: { theta: number; partial: number } | null) {
  const heads = c.integer('num_attention_heads')
  const width = c.maybeInteger('head_dim') ?? c.whole('hidden_size over num_attention_heads', c.integer('hidden_size') / heads)
  const turning = rotation === null ? 0 : Math.floor(width * rotation.partial)
  if (turning % 2 === 1)
    throw new PretrainedError(
      `config.json: ${turning} of the ${width} channels of a head would have rotary positions: they turn in pairs (head_dim, partial_rotary_factor)`,
    )
  return {
    kind: 'softmax',
    heads,
    keyHeads: c.maybeInteger('num_key_value_heads') ?? heads,
    headWidth: width,
    outputBias: false,
    ...(rotation === null || turning === 0
      ? { positions: 'none' as const }
      : { positions: 'rotary' as const, base: rotation.theta, rotaryWidth: turning }),
  } as const
}

const inLayer = (i: number, file: string, part: number, names: readonly Name[]): Name[] =>
  within(`model.layers.${i}.${file}`, `layers.${i}.parts.${part}.layer.`, names)
const normOf = (i: number, file: string, part: number): Name => [
  `model.layers.${i}.${file}.weight`,
  `layers.${i}.parts.${part}.norm.weight`,
]

const head = (c: ConfigReader, embedding = 'model.embed_tokens.weight'): Name[] => [
  [embedding, 'embedding.weight'],
  ['model.norm.weight', 'norm.weight'],
  ...(c.flag('tie_word_embeddings') ? [] : [['lm_head.weight', 'head.weight'] as const]),
]
/** Of attention: those of biases are there where a model has them. */
const qkvo: readonly Name[] = ['weight', 'bias'].flatMap((what): Name[] => [
  [`q_proj.${what}`, `query.linear.${what}`],
  [`k_proj.${what}`, `key.linear.${what}`],
  [`v_proj.${what}`, `value.linear.${what}`],
  [`o_proj.${what}`, `output.${what}`],
])
const headNorms: readonly Name[] = [
  ['q_norm.weight', 'query_norm.weight'],
  ['k_norm.weight', 'key_norm.weight'],
]
/** gate, up, down by their names in a file. */
const feedForward = (file: string, own = '', [gate, up, down] = ['gate_proj', 'up_proj', 'down_proj']): Name[] => [
  [`${file}${gate}.weight`, `${own}gate.weight`],
  [`${file}${up}.weight`, `${own}up.weight`],
  [`${file}${down}.weight`, `${own}down.weight`],
]
const experts = (count: number, names?: [string, string, string]): Name[] =>
  Array.from({ length: count }, (_, e) => feedForward(`experts.${e}.`, `experts.${e}.`, names)).flat()

const state = (file: string, from: StateName['from'], axes: StateName['axes']): StateName => ({ file, from, axes })
const memoryStates: readonly StateName[] = [
  state('state.#', [[0, 'S']], 'same'),
  state(
    'conv.#',
    [
      [0, 'query'],
      [0, 'key'],
      [0, 'value'],
    ],
    'taps',
  ),
]
const convolved = {
  queryMap: 'silu',
  keyMap: 'silu',
  valueMap: 'silu',
  queryNorm: 'l2',
  keyNorm: 'l2',
} as const satisfies Partial<MemorySettings>
const conv3 = ['query.conv', 'key.conv', 'value.conv']

// --- Qwen3-Next and Qwen3.5 -----------------------------------------------------------------------------------------------------------

const qwenKeys: JsonObject = {
  ...ropeKeys,
  rms_norm_eps: 1e-6,
  attention_bias: false,
  head_dim: 256,
  num_attention_heads: 16,
  num_key_value_heads: 2,
  linear_conv_kernel_dim: 4,
  linear_key_head_dim: 128,
  linear_value_head_dim: 128,
  linear_num_key_heads: 16,
  linear_num_value_heads: 32,
  layer_types: null,
  full_attention_interval: 4,
}
const qwenTypes = (c: ConfigReader): LayerType[] => layerTypesOf(c, (i) => (i + 1) % c.integer('full_attention_interval') === 0)

function deltaHeads(c: ConfigReader) {
  const [heads, keyHeads] = [c.integer('linear_num_value_heads'), c.integer('linear_num_key_heads')]
  if (heads % keyHeads !== 0)
    throw new PretrainedError(`config.json: linear_num_value_heads is ${heads}, no multiple of the ${keyHeads} linear_num_key_heads`)
  return {
    ...convolved,
    rule: 'gated-delta',
    gate: 'softplus',
    heads,
    queryHeads: keyHeads,
    keyHeads,
    keyWidth: c.integer('linear_key_head_dim'),
    valueWidth: c.integer('linear_value_head_dim'),
    conv: c.integer('linear_conv_kernel_dim'),
    outputGate: 'silu',
  } as const satisfies Partial<MemorySettings>
}

function qwen(c: ConfigReader, feed: (i: number, norm: NormChoice) => PartChoice): BlockModelConfig {
  const norm: NormChoice = { kind: 'rms', eps: eps(c), centered: true }
  const softmax: PartChoice = {
    ...attention(c, rope(c, 10000, 0.25)),
    norm,
    bias: c.flag('attention_bias'),
    outputBias: c.flag('attention_bias'),
    headNorm: { eps: eps(c), centered: true },
    gate: true,
  }
  const memory: PartChoice = { kind: 'memory', norm, ...deltaHeads(c), normEps: eps(c) }
  return {
    ...ends(c),
    layers: qwenTypes(c).map((type, i) => [type === 'full_attention' ? softmax : memory, feed(i, norm)]),
    norm,
  }
}

/** Files of models that see pictures, too, have those of the text under another beginning. */
const withinAnother = ([file, ...rest]: Name): Name => [
  typeof file === 'string' && file.startsWith('model.') ? `${file}|${file.replace('model.', 'model.language_model.')}` : file,
  ...rest,
]

function qwenNames(c: ConfigReader, linear: readonly Name[], feed: (i: number) => readonly Name[]): Name[] {
  const heads = c.integer('num_attention_heads')
  const gated = ['weight', 'bias'].map((what): Name => [`q_proj.${what}`, [`query.linear.${what}`, `gate.${what}`], interleaved(heads)])
  const layers = qwenTypes(c).flatMap((type, i): Name[] => [
    normOf(i, 'input_layernorm', 0),
    normOf(i, 'post_attention_layernorm', 1),
    ...(type === 'full_attention'
      ? inLayer(i, 'self_attn.', 0, [...gated, ...qkvo.filter(([file]) => !(file as string).startsWith('q_')), ...headNorms])
      : inLayer(i, 'linear_attn.', 0, [
          ...linear,
          ['conv1d.weight', conv3, joinedTaps],
          ['A_log', 'gate.A_log', flat],
          ['dt_bias', 'gate.dt_bias', flat],
          ['norm.weight', 'norm.weight'],
          ['out_proj.weight', 'output.weight'],
        ])),
    ...inLayer(i, 'mlp.', 1, feed(i)),
  ])
  return [...head(c), ...layers].map(withinAnother)
}

/** Experts with a shared one that has a gate of its own; plain layers have the same names without `experts`. */
const qwenExperts = (c: ConfigReader): Name[] => [
  ['gate.weight', 'router.weight'],
  ...experts(c.integer('num_experts')),
  ...feedForward('shared_expert.', 'shared.'),
  ['shared_expert_gate.weight', 'shared_gate.weight'],
]
const qwenExpertsPart = (c: ConfigReader, norm: NormChoice, normalise: boolean): PartChoice => ({
  kind: 'experts',
  norm,
  experts: c.integer('num_experts'),
  chosen: c.integer('num_experts_per_tok'),
  inner: c.integer('moe_intermediate_size'),
  sharedInner: c.integer('shared_expert_intermediate_size'),
  sharedGate: true,
  normalise,
})
const plain = (c: ConfigReader, norm: NormChoice): PartChoice => ({
  kind: 'gated-feed-forward',
  norm,
  inner: c.integer('intermediate_size'),
})

const qwenMoeKeys: JsonObject = {
  num_experts: 512,
  num_experts_per_tok: 10,
  moe_intermediate_size: 512,
  shared_expert_intermediate_size: 512,
}

/** Whether a layer of Qwen3-Next has no experts. */
const isPlain = (c: ConfigReader, i: number): boolean =>
  c.get('num_experts') === 0 || c.list('mlp_only_layers')?.includes(i) === true || (i + 1) % c.integer('decoder_sparse_step') !== 0

const qwen3Next = row('qwen3_next', {
  keys: {
    ...qwenKeys,
    ...qwenMoeKeys,
    vocab_size: 151936,
    num_hidden_layers: 48,
    intermediate_size: 5632,
    norm_topk_prob: true,
    decoder_sparse_step: 1,
    mlp_only_layers: [],
  },
  dropped: /^mtp\./,
  config: (c) =>
    qwen(c, (i, norm) => {
      return isPlain(c, i) ? plain(c, norm) : qwenExpertsPart(c, norm, c.flag('norm_topk_prob'))
    }),
  names(c) {
    const groups = c.integer('linear_num_key_heads')
    const linear: Name[] = [
      [
        'in_proj_qkvz.weight',
        ['query.linear.weight', 'key.linear.weight', 'value.linear.weight', 'output_gate.weight'],
        interleaved(groups),
      ],
      ['in_proj_ba.weight', ['strength.weight', 'gate.projection.weight'], interleaved(groups)],
    ]
    return qwenNames(c, linear, (i) => (isPlain(c, i) ? feedForward('') : qwenExperts(c)))
  },
  states: () => memoryStates,
})

const qwen35Linear: readonly Name[] = [
  ['in_proj_qkv.weight', ['query.linear.weight', 'key.linear.weight', 'value.linear.weight'], joined],
  ['in_proj_z.weight', 'output_gate.weight'],
  ['in_proj_b.weight', 'strength.weight'],
  ['in_proj_a.weight', 'gate.projection.weight'],
]

const qwen35 = row('qwen3_5_text', {
  keys: { ...qwenKeys, vocab_size: 248320, hidden_size: 4096, num_hidden_layers: 32, intermediate_size: 12288, num_key_value_heads: 4 },
  still: ['mtp_num_hidden_layers', 'mtp_use_dedicated_embeddings', 'attn_output_gate', 'mlp_only_layers', 'mamba_ssm_dtype'],
  dropped: /^(mtp|model\.visual)\./,
  config: (c) => qwen(c, (_, norm) => plain(c, norm)),
  names: (c) => qwenNames(c, qwen35Linear, () => feedForward('')),
  states: () => memoryStates,
})

const qwen35Moe = row('qwen3_5_moe_text', {
  keys: { ...qwenKeys, ...qwenMoeKeys, vocab_size: 248320, num_hidden_layers: 40, num_experts: 256, num_experts_per_tok: 8 },
  still: [
    'mtp_num_hidden_layers',
    'mtp_use_dedicated_embeddings',
    'attn_output_gate',
    'mlp_only_layers',
    'mamba_ssm_dtype',
    'intermediate_size',
  ],
  dropped: /^(mtp|model\.visual)\./,
  config: (c) => qwen(c, (_, norm) => qwenExpertsPart(c, norm, true)),
  names: (c) => qwenNames(c, qwen35Linear, () => qwenExperts(c)),
  states: () => memoryStates,
})

// --- Kimi Linear and Ling 3 -----------------------------------------------------------------------------------------------------------

const latentKeys: JsonObject = {
  rms_norm_eps: 1e-5,
  attention_bias: false,
  num_attention_heads: 32,
  q_lora_rank: null,
  kv_lora_rank: 512,
  qk_nope_head_dim: 128,
  qk_rope_head_dim: 64,
  v_head_dim: 128,
  linear_num_heads: 32,
  linear_head_dim: 128,
  linear_conv_kernel_dim: 4,
  layer_types: null,
  mlp_layer_types: null,
  intermediate_size: 9216,
  moe_intermediate_size: 1024,
  num_experts: 256,
  num_experts_per_token: 8,
  num_shared_experts: 1,
  num_expert_group: 1,
  topk_group: 1,
  moe_renormalize: true,
  routed_scaling_factor: 1,
}
const latentStill = ['head_dim', 'qk_head_dim', 'num_key_value_heads', 'rope_theta', 'rope_scaling', 'rope_parameters']

/** The two norms within have an eps of their own, whatever the configuration says. */
const latent = (c: ConfigReader, base: number, gate: boolean): Omit<Extract<PartChoice, { kind: 'latent' }>, 'norm'> => ({
  kind: 'latent',
  heads: c.integer('num_attention_heads'),
  ownWidth: c.integer('qk_nope_head_dim'),
  sharedWidth: c.integer('qk_rope_head_dim'),
  valueWidth: c.integer('v_head_dim'),
  rank: c.integer('kv_lora_rank'),
  queryRank: c.maybeInteger('q_lora_rank') ?? 0,
  base,
  normEps: 1e-6,
  bias: c.flag('attention_bias'),
  gate,
})
const latentNames: readonly Name[] = [
  ['q_proj.weight', 'query.weight'],
  ['kv_a_proj_with_mqa.weight', 'latent.weight'],
  ['kv_a_proj_with_mqa.bias', 'latent.bias'],
  ['kv_a_layernorm.weight', 'latent_norm.weight'],
  ['kv_b_proj.weight', 'up.weight'],
]
/** With q_lora_rank, queries go by way of few numbers. */
const queryNames = (c: ConfigReader): Name[] =>
  c.get('q_lora_rank') === null
    ? [...latentNames]
    : [
        ...latentNames.slice(1),
        ['q_a_proj.weight', 'query.weight'],
        ['q_a_proj.bias', 'query.bias'],
        ['q_a_layernorm.weight', 'query_norm.weight'],
        ['q_b_proj.weight', 'query_up.weight'],
      ]

const channelDelta = (c: ConfigReader) =>
  ({
    ...convolved,
    rule: 'kda',
    heads: c.integer('linear_num_heads'),
    keyWidth: c.integer('linear_head_dim'),
    valueWidth: c.integer('linear_head_dim'),
    conv: c.integer('linear_conv_kernel_dim'),
    outputGate: 'sigmoid',
    normEps: eps(c),
  }) as const satisfies Partial<MemorySettings>

const channelDeltaNames: readonly Name[] = [
  ...qkvo.filter(([file]) => !(file as string).startsWith('o_')),
  ...(['q', 'k', 'v'] as const).map((of, i): Name => [`${of}_conv1d.weight`, conv3[i], taps]),
  ['dt_bias', 'gate.dt_bias', flat],
  ['b_proj.weight', 'strength.weight'],
  ['o_norm.weight', 'norm.weight'],
]

const groupedExperts = (c: ConfigReader, norm: NormChoice): PartChoice =>
  ({
    kind: 'experts',
    norm,
    experts: c.integer('num_experts'),
    chosen: c.integer('num_experts_per_token'),
    inner: c.integer('moe_intermediate_size'),
    sharedInner:
      c.get('num_shared_experts') === 0 || c.get('num_shared_experts') === null
        ? 0
        : c.integer('moe_intermediate_size') * c.integer('num_shared_experts'),
    scores: 'sigmoid',
    correction: true,
    groups: c.integer('num_expert_group'),
    chosenGroups: c.integer('topk_group'),
    normalise: c.flag('moe_renormalize'),
    sumEps: 1e-20,
    scale: c.number('routed_scaling_factor'),
  }) satisfies Partial<ExpertsSettings> & { kind: 'experts'; norm: NormChoice }

const feedTypes = (c: ConfigReader, dense: (i: number) => boolean): ('dense' | 'sparse')[] =>
  typesOf(c, 'mlp_layer_types', ['dense', 'sparse'], (i) => (dense(i) ? 'dense' : 'sparse'))

/** Layers of a memory or of latent attention, then a plain feed-forward layer or experts. */
function hybrid(
  c: ConfigReader,
  types: readonly LayerType[],
  feeds: readonly ('dense' | 'sparse')[],
  parts: { memory: Partial<MemorySettings>; latent: Omit<Extract<PartChoice, { kind: 'latent' }>, 'norm'> },
): BlockModelConfig {
  const norm: NormChoice = { kind: 'rms', eps: eps(c) }
  return {
    ...ends(c),
    layers: types.map((type, i) => [
      type === 'full_attention' ? { ...parts.latent, norm } : { kind: 'memory', norm, ...parts.memory },
      feeds[i] === 'dense' ? plain(c, norm) : groupedExperts(c, norm),
    ]),
    norm,
  }
}

const kimiTypes = (c: ConfigReader): LayerType[] => layerTypesOf(c, (i) => i > 0 && i % 4 === 0)
const kimiFeeds = (c: ConfigReader) => feedTypes(c, (i) => i === 0)

const kimiLinear = row('kimi_linear', {
  keys: { ...latentKeys, vocab_size: 163840, hidden_size: 2304, num_hidden_layers: 27, routed_scaling_factor: 2.446 },
  still: latentStill,
  config: (c) =>
    hybrid(c, kimiTypes(c), kimiFeeds(c), {
      memory: {
        ...channelDelta(c),
        gate: 'softplus',
        gateRank: c.integer('linear_head_dim'),
        outputGateRank: c.integer('linear_head_dim'),
        outputGateBias: false,
      },
      latent: latent(c, 0, false),
    }),
  names(c) {
    const heads = c.integer('linear_num_heads')
    const linear: Name[] = [
      ...channelDeltaNames,
      ['A_log', 'gate.A_log', shaped(1, 1, heads, 1)],
      ['f_a_proj.weight', 'gate.projection.down.weight'],
      ['f_b_proj.weight', 'gate.projection.up.weight'],
      ['g_a_proj.weight', 'output_gate.down.weight'],
      ['g_b_proj.weight', 'output_gate.up.weight'],
      ['o_proj.weight', 'output.weight'],
    ]
    const full: Name[] = [...queryNames(c), ['o_proj.weight', 'output.weight'], ['o_proj.bias', 'output.bias']]
    const dense = ['gate', 'up', 'down'].map((of): Name => [`block_sparse_moe.${of}_proj.weight|mlp.${of}_proj.weight`, `${of}.weight`])
    const sparse = (): Name[] =>
      within('block_sparse_moe.', '', [
        ['gate.weight', 'router.weight'],
        ['gate.e_score_correction_bias', 'correction'],
        ...experts(c.integer('num_experts'), ['w1', 'w3', 'w2']),
        ...feedForward('shared_experts.', 'shared.'),
      ])
    const types = kimiTypes(c)
    const feeds = kimiFeeds(c)
    return [
      ...head(c),
      ...types.flatMap((type, i) => [
        normOf(i, 'input_layernorm', 0),
        normOf(i, 'post_attention_layernorm', 1),
        ...inLayer(i, 'self_attn.', 0, type === 'full_attention' ? full : linear),
        ...dense.flatMap((name) => (feeds[i] === 'dense' ? inLayer(i, '', 1, [name]) : [])),
        ...(feeds[i] === 'sparse' ? inLayer(i, '', 1, sparse()) : []),
      ]),
    ]
  },
  states: () => memoryStates,
})

const lingTypes = (c: ConfigReader): LayerType[] => layerTypesOf(c, (i) => (i + 1) % c.integer('layer_group_size') === 0)
const lingFeeds = (c: ConfigReader) => feedTypes(c, (i) => i < c.integer('first_k_dense_replace'))

const bailingHybrid = row('bailing_hybrid', {
  keys: {
    ...latentKeys,
    ...ropeKeys,
    rms_norm_eps: 1e-6,
    vocab_size: 157184,
    num_hidden_layers: 24,
    layer_group_size: 6,
    first_k_dense_replace: 1,
    kda_safe_gate: true,
    kda_lower_bound: -5,
    routed_scaling_factor: 2.5,
    num_expert_group: 8,
    topk_group: 4,
  },
  still: [...latentStill, 'short_conv_kernel_size'],
  config: (c) =>
    hybrid(c, lingTypes(c), lingFeeds(c), {
      memory: {
        ...channelDelta(c),
        gate: c.flag('kda_safe_gate') ? 'bounded' : 'softplus',
        ...(c.flag('kda_safe_gate') && { gateBound: c.number('kda_lower_bound') }),
        gateRank: 0,
      },
      latent: latent(c, rope(c, 6e6)?.theta ?? 0, true),
    }),
  names(c) {
    const dense: Name[] = [
      ['dense.weight', 'output.weight'],
      ['dense.bias', 'output.bias'],
    ]
    const linear: Name[] = [
      ...channelDeltaNames,
      ...dense,
      ['A_log', 'gate.A_log', flat],
      ['f_proj.weight', 'gate.projection.weight'],
      ['g_proj.weight', 'output_gate.weight'],
    ]
    const full: Name[] = [...queryNames(c), ...dense, ['g_proj.weight', 'gate.weight']]
    const feeds = lingFeeds(c)
    const sparse = (): Name[] => [
      ['gate.weight', 'router.weight'],
      ['gate.expert_bias', 'correction'],
      ...experts(c.integer('num_experts')),
      ...feedForward('shared_experts.', 'shared.'),
    ]
    return [
      ...head(c, 'model.word_embeddings.weight'),
      ...lingTypes(c).flatMap((type, i) => [
        normOf(i, 'input_layernorm', 0),
        normOf(i, 'post_attention_layernorm', 1),
        ...inLayer(i, 'attention.', 0, type === 'full_attention' ? full : linear),
        ...inLayer(i, 'mlp.', 1, feeds[i] === 'dense' ? feedForward('') : sparse()),
      ]),
    ]
  },
  states: () => memoryStates,
})

// --- OLMo Hybrid ----------------------------------------------------------------------------------------------------------------------

const olmoTypes = (c: ConfigReader): LayerType[] => layerTypesOf(c, (i) => (i + 1) % 4 === 0)

const olmoHybrid = row('olmo_hybrid', {
  keys: {
    ...qwenKeys,
    vocab_size: 100352,
    hidden_size: 3840,
    num_hidden_layers: 32,
    intermediate_size: 11008,
    head_dim: null,
    num_attention_heads: 30,
    num_key_value_heads: null,
    linear_num_key_heads: null,
    linear_num_value_heads: null,
    linear_key_head_dim: null,
    linear_value_head_dim: null,
    linear_allow_neg_eigval: true,
  },
  still: ['linear_a_log_max', 'linear_a_log_min', 'linear_dt_init_floor', 'linear_dt_max', 'linear_dt_min'],
  config(c) {
    const norm: NormChoice = { kind: 'rms', eps: eps(c) }
    const feed = plain(c, norm)
    const [D, attentionHeads] = [c.integer('hidden_size'), c.integer('num_attention_heads')]
    const keyHeads = c.maybeInteger('linear_num_key_heads') ?? attentionHeads
    const keyWidth = c.maybeInteger('linear_key_head_dim') ?? c.whole('three quarters of a head', Math.floor((0.75 * D) / attentionHeads))
    const memory: PartChoice = {
      kind: 'memory',
      norm,
      ...convolved,
      rule: 'gated-delta',
      gate: 'softplus',
      heads: c.maybeInteger('linear_num_value_heads') ?? attentionHeads,
      queryHeads: keyHeads,
      keyHeads,
      keyWidth,
      valueWidth: c.maybeInteger('linear_value_head_dim') ?? 2 * keyWidth,
      conv: c.integer('linear_conv_kernel_dim'),
      betaRange: c.flag('linear_allow_neg_eigval') ? 2 : 1,
      outputGate: 'silu',
      // Whatever rms_norm_eps says.
      normEps: 1e-5,
    }
    const softmax: PartChoice = {
      ...attention(c, rope(c, 10000)),
      norm,
      order: 'after',
      bias: c.flag('attention_bias'),
      outputBias: c.flag('attention_bias'),
      headNorm: { eps: eps(c), all: true },
    }
    return {
      ...ends(c),
      layers: olmoTypes(c).map((type) => (type === 'full_attention' ? [softmax, { ...feed, order: 'after' }] : [memory, feed])),
      norm,
    }
  },
  names(c) {
    const linear: Name[] = [
      ...qkvo,
      ['a_proj.weight', 'gate.projection.weight'],
      ['b_proj.weight', 'strength.weight'],
      ['g_proj.weight', 'output_gate.weight'],
      // The package writes the joint convolution in three equal pieces, whatever the widths of queries, keys and values; others in pieces of these widths.
      [['q_conv1d.weight', 'k_conv1d.weight', 'v_conv1d.weight'], conv3, joinedTaps],
      ['A_log', 'gate.A_log', flat],
      ['dt_bias', 'gate.dt_bias', flat],
      ['o_norm.weight', 'norm.weight'],
    ]
    const before = (i: number): Name[] => [normOf(i, 'attention_layer_norm', 0), normOf(i, 'feedforward_layer_norm', 1)]
    const after = (i: number): Name[] => [
      [
        `model.layers.${i}.feedforward_layer_norm.weight|model.layers.${i}.post_attention_layernorm.weight`,
        `layers.${i}.parts.0.norm.weight`,
      ],
      normOf(i, 'post_feedforward_layernorm', 1),
    ]
    return [
      ...head(c),
      ...olmoTypes(c).flatMap((type, i) => [
        ...(type === 'full_attention' ? after(i) : before(i)),
        ...(type === 'full_attention' ? inLayer(i, 'self_attn.', 0, [...qkvo, ...headNorms]) : inLayer(i, 'linear_attn.', 0, linear)),
        ...inLayer(i, 'mlp.', 1, feedForward('')),
      ]),
    ]
  },
  states: () => memoryStates,
})

// --- MiniMax --------------------------------------------------------------------------------------------------------------------------

const minimaxTypes = (c: ConfigReader): LayerType[] => layerTypesOf(c, (i) => i % 2 === 0)
/** What lightning attention's slopes 2^(-8 (h + 1) / H) are multiplied by in layer i. */
const slopeFactor = (c: ConfigReader, i: number): number => 1 - i / (c.integer('num_hidden_layers') - 1 + 1e-5) + 1e-5

const minimax = row('minimax', {
  keys: {
    ...ropeKeys,
    hidden_size: 4096,
    num_hidden_layers: 32,
    rms_norm_eps: 1e-5,
    intermediate_size: 14336,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    head_dim: null,
    layer_types: null,
    num_local_experts: 8,
    num_experts_per_tok: 2,
    sliding_window: null,
    block_size: 256,
    full_attn_alpha_factor: 1,
    full_attn_beta_factor: 1,
    linear_attn_alpha_factor: 1,
    linear_attn_beta_factor: 1,
    mlp_alpha_factor: 1,
    mlp_beta_factor: 1,
  },
  still: ['router_jitter_noise'],
  config(c) {
    const norm: NormChoice = { kind: 'rms', eps: eps(c) }
    const factors = (name: string) =>
      ({ order: 'instead', alpha: c.number(`${name}_alpha_factor`), beta: c.number(`${name}_beta_factor`) }) as const
    const softmax: PartChoice = {
      ...attention(c, rope(c, 1e6)),
      norm,
      ...factors('full_attn'),
      window: c.maybeInteger('sliding_window') ?? 0,
    }
    const { heads, headWidth } = softmax
    const memory = (i: number): PartChoice => ({
      kind: 'memory',
      norm,
      ...factors('linear_attn'),
      rule: 'retnet',
      heads,
      keyWidth: headWidth!,
      valueWidth: headWidth!,
      queryMap: 'silu',
      keyMap: 'silu',
      valueMap: 'silu',
      scale: false,
      slopes: slopeFactor(c, i),
      headNorm: 'all',
      // Whatever rms_norm_eps says.
      normEps: 1e-6,
      outputGate: 'sigmoid',
    })
    const feed: PartChoice = {
      kind: 'experts',
      norm,
      ...factors('mlp'),
      experts: c.integer('num_local_experts'),
      chosen: c.integer('num_experts_per_tok'),
      inner: c.integer('intermediate_size'),
    }
    return { ...ends(c), layers: minimaxTypes(c).map((type, i) => [type === 'full_attention' ? softmax : memory(i), feed]), norm }
  },
  names(c) {
    const linear: Name[] = [
      [
        'qkv_proj.weight',
        ['query.linear.weight', 'key.linear.weight', 'value.linear.weight'],
        interleaved(c.integer('num_attention_heads')),
      ],
      ['output_gate.weight', 'output_gate.weight'],
      ['norm.weight', 'norm.weight'],
      ['out_proj.weight', 'output.weight'],
    ]
    const feed: Name[] = [['gate.weight', 'router.weight'], ...experts(c.integer('num_local_experts'), ['w1', 'w3', 'w2'])]
    return [
      ...head(c),
      ...minimaxTypes(c).flatMap((type, i) => [
        normOf(i, 'input_layernorm', 0),
        normOf(i, 'post_attention_layernorm', 1),
        ...inLayer(i, 'self_attn.', 0, type === 'full_attention' ? qkvo : linear),
        ...inLayer(i, 'block_sparse_moe.', 1, feed),
      ]),
    ]
  },
  buffers(c) {
    const [H, block] = [c.integer('num_attention_heads'), c.integer('block_size')]
    return minimaxTypes(c).flatMap((type, i): Buffer[] => {
      if (type === 'full_attention') return []
      const slope = (h: number): number => 2 ** ((-8 * (h + 1)) / H) * slopeFactor(c, i)
      const of = (name: string): string => `model.layers.${i}.self_attn.${name}`
      return [
        { file: of('slope_rate'), shape: [H, 1, 1], value: slope },
        { file: of('query_decay'), shape: [H, block, 1], value: (n) => Math.exp(-slope(Math.floor(n / block)) * ((n % block) + 1)) },
        { file: of('key_decay'), shape: [H, block, 1], value: (n) => Math.exp(-slope(Math.floor(n / block)) * (block - 1 - (n % block))) },
        {
          file: of('diagonal_decay'),
          shape: [1, H, block, block],
          value(n) {
            const age = (Math.floor(n / block) % block) - (n % block)
            return age < 0 ? 0 : Math.exp(-slope(Math.floor(n / block ** 2)) * age)
          },
        },
      ]
    })
  },
  states: () => [state('state.#', [[0, 'S']], 'same')],
})

// --- RWKV-4 ---------------------------------------------------------------------------------------------------------------------------

const rwkv = row('rwkv', {
  keys: {
    vocab_size: 50277,
    hidden_size: 4096,
    num_hidden_layers: 32,
    attention_hidden_size: null,
    intermediate_size: null,
    layer_norm_epsilon: 1e-5,
    rescale_every: 6,
  },
  config(c) {
    const D = c.integer('hidden_size')
    if ((c.maybeInteger('attention_hidden_size') ?? D) !== D)
      throw new PretrainedError(
        "config.json: attention_hidden_size isn't hidden_size: the package itself can't carry a state of such a model",
      )
    // In evaluation the package halves what runs through the model after so many layers: for a norm that is a larger eps.
    const every = c.get('rescale_every') === null || (c.get('rescale_every') as number) <= 0 ? Infinity : c.integer('rescale_every')
    const norm = (halvings: number, eps = c.number('layer_norm_epsilon')): NormChoice => ({
      kind: 'layer',
      eps,
      ...(halvings > 0 && { evaluationEps: eps * 4 ** halvings }),
    })
    const layers = c.integer('num_hidden_layers')
    const { padding: _, ...rest } = ends(c)
    return {
      ...rest,
      embeddingNorm: norm(0),
      layers: Array.from({ length: layers }, (_, i): PartChoice[] => [
        { kind: 'rwkv', version: 4, norm: norm(Math.floor(i / every)), heads: 1 },
        { kind: 'rwkv-channels', version: 4, norm: norm(Math.floor(i / every)), inner: c.maybeInteger('intermediate_size') ?? 4 * D },
      ]),
      // Whatever layer_norm_epsilon says.
      norm: norm(Math.floor(layers / every), 1e-5),
    }
  },
  names(c) {
    const both = (file: string, own: string): Name[] => ['weight', 'bias'].map((what): Name => [`${file}.${what}`, `${own}.${what}`])
    const mixes = (of: readonly string[]): Name[] => of.map((name) => [`time_mix_${name}`, `mix.${name[0]}`, leading])
    const linear = (of: readonly string[]): Name[] => of.map((name) => [`${name}.weight`, `${name}.weight`])
    return [
      ['rwkv.embeddings.weight', 'embedding.weight'],
      ...both('rwkv.blocks.0.pre_ln', 'embedding_norm'),
      ...both('rwkv.blocks.#.ln1', 'layers.#.parts.0.norm'),
      ...both('rwkv.blocks.#.ln2', 'layers.#.parts.1.norm'),
      ...within('rwkv.blocks.#.attention.', 'layers.#.parts.0.layer.', [
        ['time_decay', 'decay'],
        ['time_first', 'bonus'],
        ...mixes(['key', 'value', 'receptance']),
        ...linear(['key', 'value', 'receptance', 'output']),
      ]),
      ...within('rwkv.blocks.#.feed_forward.', 'layers.#.parts.1.layer.', [
        ...mixes(['key', 'receptance']),
        ...linear(['key', 'value', 'receptance']),
      ]),
      ...both('rwkv.ln_out', 'norm'),
      ...(c.flag('tie_word_embeddings') ? [] : [['head.weight', 'head.weight'] as const]),
    ]
  },
  states: () => [
    state(
      'state.#',
      [
        [0, 'S'],
        [0, 'lse'],
      ],
      'sums',
    ),
    state(
      'conv.#',
      [
        [0, 'shift'],
        [1, 'shift'],
      ],
      'stacked',
    ),
  ],
})

// --- Mamba ----------------------------------------------------------------------------------------------------------------------------

const mambaStill = [
  'chunk_size',
  'rescale_prenorm_residual',
  'residual_in_fp32',
  'time_step_floor',
  'time_step_init_scheme',
  'time_step_max',
  'time_step_min',
  'time_step_scale',
  'use_associative_scan',
  'use_mambapy',
]

const mamba2 = row('mamba2', {
  keys: {
    vocab_size: 32768,
    hidden_size: 4096,
    num_hidden_layers: 64,
    layer_norm_epsilon: 1e-5,
    head_dim: 64,
    num_heads: 128,
    state_size: 128,
    expand: 2,
    conv_kernel: 4,
    n_groups: 8,
    use_bias: false,
    use_conv_bias: true,
    time_step_limit: [0, { __float__: 'Infinity' }],
  },
  still: [...mambaStill, 'time_step_rank'],
  config(c) {
    const [heads, valueWidth] = [c.integer('num_heads'), c.integer('head_dim')]
    const inner = Math.floor(c.number('expand') * c.integer('hidden_size'))
    if (inner !== heads * valueWidth)
      throw new PretrainedError(
        `config.json: expand times hidden_size is ${inner}, where num_heads times head_dim is ${heads * valueWidth}`,
      )
    return mamba(c, { heads, valueWidth, limit: 'time_step_limit', eps: c.number('layer_norm_epsilon'), outputNorm: 'after', skip: 'head' })
  },
  names: mambaNames,
  states: () => mambaStates,
})

const mamba1 = row('mamba', {
  keys: {
    vocab_size: 50280,
    hidden_size: 768,
    num_hidden_layers: 32,
    layer_norm_epsilon: 1e-5,
    state_size: 16,
    expand: 2,
    intermediate_size: null,
    conv_kernel: 4,
    use_bias: false,
    use_conv_bias: true,
    time_step_rank: 'auto',
    tie_word_embeddings: true,
  },
  still: mambaStill,
  config(c) {
    const D = c.integer('hidden_size')
    const inner = c.whole('expand times hidden_size', Math.floor(c.number('expand') * D))
    if ((c.maybeInteger('intermediate_size') ?? inner) !== inner)
      throw new PretrainedError(
        `config.json: intermediate_size is ${c.get('intermediate_size')}, where expand times hidden_size is ${inner}`,
      )
    const norm: NormChoice = { kind: 'rms', eps: c.number('layer_norm_epsilon') }
    const { padding: _, ...rest } = ends(c)
    const layer: PartChoice = {
      kind: 'mamba',
      norm,
      inner,
      stateWidth: c.integer('state_size'),
      stepRank: c.get('time_step_rank') === 'auto' ? Math.ceil(D / 16) : c.integer('time_step_rank'),
      conv: c.integer('conv_kernel'),
      convBias: c.flag('use_conv_bias'),
      bias: c.flag('use_bias'),
    }
    return { ...rest, layers: Array.from({ length: c.integer('num_hidden_layers') }, () => [layer]), norm }
  },
  names: (c) => [
    ...mambaNames(c).filter(([file]) => !/mixer\.(dt_bias|norm)/.test(file as string)),
    ...within('backbone.layers.#.mixer.', 'layers.#.parts.0.layer.', [
      ['x_proj.weight', 'select.weight'],
      ['dt_proj.weight', 'step.weight'],
      ['dt_proj.bias', 'step.bias'],
    ]),
  ],
  states: () => [state('state.#', [[0, 'S']], 'values'), state('conv.#', [[0, 'taps']], 'taps')],
})

export const transformersRows: readonly Architecture[] = [
  qwen3Next,
  qwen35,
  qwen35Moe,
  kimiLinear,
  bailingHybrid,
  olmoHybrid,
  minimax,
  rwkv,
  mamba2,
  mamba1,
]
