/** Small models of other packages' architectures, made here: no figures, but the files that they would have. */
import { architectures, type SafetensorsEntry, writeSafetensors } from '../../nn/index.ts'
import { planOf } from '../../nn/pretrained/open.ts'
import { uniforms } from '../helpers.ts'

/** Any architecture of this name, as a config.json and random weights for it. */
export function made(modelType: string, given: Record<string, unknown>): Map<string, Uint8Array> {
  const { package: of = undefined, ...rest } = given
  const row = architectures.find((row) => row.modelType === modelType && (of === undefined || row.package === of))!
  const config = { model_type: modelType, vocab_size: 11, hidden_size: 12, num_hidden_layers: 2, ...rest }
  const plan = planOf(row, config as never, Number.POSITIVE_INFINITY)
  let seed = 1
  const tensors = plan.entries.flatMap(({ files }) =>
    files.map(({ name, shape }): [string, SafetensorsEntry] => {
      const size = shape.reduce((n, d) => n * d, 1)
      return [name, { dtype: 'F32', shape: [...shape], data: uniforms(seed++, size, -0.6, 0.6) as Float32Array<ArrayBuffer> }]
    }),
  )
  return filesFrom(config, tensors)
}
export const filesFrom = (config: object, tensors: Iterable<readonly [string, SafetensorsEntry]>): Map<string, Uint8Array> =>
  new Map([
    ['config.json', new TextEncoder().encode(JSON.stringify(config))],
    ['model.safetensors', writeSafetensors(tensors)],
  ])

/** Options of the classes beside those of the figures, small. */
const heads = { num_heads: 2, head_dim: 4, intermediate_size: 8 }
export const choices: [name: string, modelType: string, given: Record<string, unknown>][] = [
  [
    'no convolution, a gate, sums of absolute values',
    'delta_net',
    {
      num_heads: 2,
      use_short_conv: false,
      use_gate: true,
      use_beta: false,
      qk_norm: 'sum',
      qk_activation: 'elu',
      allow_neg_eigval: true,
      intermediate_size: 8,
    },
  ],
  [
    'shared queries and keys, a softmax layer with a window',
    'gated_deltanet',
    {
      ...heads,
      num_v_heads: 4,
      attn: { layers: [1], num_heads: 3, num_kv_heads: 1, qkv_bias: true, window_size: 3 },
      tie_word_embeddings: true,
    },
  ],
  ['a bound', 'kda', { ...heads, num_v_heads: 4, safe_gate: true, lower_bound: -5 }],
  [
    'shared keys, convolutions, a clamp, a feature map',
    'gla',
    {
      num_heads: 2,
      num_kv_heads: 1,
      use_short_conv: true,
      clamp_min: -0.1,
      feature_map: 'relu',
      use_output_gate: false,
      elementwise_affine: false,
      intermediate_size: 8,
    },
  ],
  ['shared keys', 'retnet', { num_heads: 2, num_kv_heads: 1, fuse_norm: false, intermediate_size: 8 }],
  [
    'hedgehog',
    'linear_attn',
    { num_heads: 2, feature_map: 'hedgehog', norm_q: true, norm_k: true, norm_feature_map: true, intermediate_size: 8 },
  ],
  ['t2r, shared keys', 'linear_attn', { num_heads: 2, num_kv_heads: 1, feature_map: 't2r', intermediate_size: 8 }],
  ['dpfp', 'linear_attn', { num_heads: 2, feature_map: 'dpfp', norm_feature_map: true, intermediate_size: 8 }],
  ['a forget gate', 'gated_deltaproduct', { ...heads, num_householder: 2, use_forget_gate: true, allow_neg_eigval: true }],
  [
    'a softmax layer',
    'hgrn2',
    { expand_ratio: 4, use_short_conv: true, attn: { layers: [0], num_heads: 2, num_kv_heads: 1, qkv_bias: true }, intermediate_size: 8 },
  ],
  ['no bounds, convolutions', 'hgrn2', { expand_ratio: 4, use_lower_bound: false, use_short_conv: true, intermediate_size: 8 }],
  ['shared queries and keys', 'comba', { ...heads, num_v_heads: 4, use_output_gate: false }],
  ['an output gate', 'mesa_net', { ...heads, use_output_gate: true }],
  [
    'another norm of kappa',
    'rwkv7',
    {
      head_dim: 6,
      decay_low_rank_dim: 3,
      gate_low_rank_dim: 4,
      a_low_rank_dim: 3,
      v_low_rank_dim: 2,
      fuse_norm: false,
      norm_first: false,
      norm_bias: false,
      value_dim: [12, 12],
    },
  ],
  [
    'groups, limits, a norm before',
    'mamba2',
    {
      package: 'fla',
      head_dim: 6,
      state_size: 4,
      n_groups: 2,
      norm_eps: 1e-5,
      dt_limit: [0.01, 0.7],
      norm_before_gate: true,
      D_has_hdim: true,
      use_bias: true,
    },
  ],
  [
    'groups',
    'mamba2',
    {
      package: 'transformers',
      head_dim: 6,
      num_heads: 4,
      state_size: 4,
      n_groups: 2,
      layer_norm_epsilon: 1e-5,
      time_step_limit: [0, 0.5],
      tie_word_embeddings: true,
    },
  ],
  [
    'plain layers, biases',
    'qwen3_next',
    {
      linear_num_key_heads: 1,
      linear_num_value_heads: 2,
      linear_key_head_dim: 4,
      linear_value_head_dim: 3,
      num_attention_heads: 2,
      num_key_value_heads: 1,
      head_dim: 8,
      full_attention_interval: 2,
      num_experts: 3,
      num_experts_per_tok: 2,
      moe_intermediate_size: 4,
      shared_expert_intermediate_size: 4,
      norm_topk_prob: false,
      mlp_only_layers: [0],
      intermediate_size: 8,
      attention_bias: true,
    },
  ],
  [
    'groups of experts, queries of low rank',
    'kimi_linear',
    {
      num_hidden_layers: 2,
      layer_types: ['linear_attention', 'full_attention'],
      linear_num_heads: 2,
      linear_head_dim: 4,
      num_attention_heads: 2,
      kv_lora_rank: 6,
      q_lora_rank: 5,
      qk_nope_head_dim: 4,
      qk_rope_head_dim: 2,
      v_head_dim: 3,
      num_experts: 6,
      num_experts_per_token: 2,
      num_expert_group: 3,
      topk_group: 2,
      moe_intermediate_size: 4,
      intermediate_size: 8,
      attention_bias: true,
      moe_renormalize: false,
    },
  ],
  [
    'an unbounded gate',
    'bailing_hybrid',
    {
      num_hidden_layers: 2,
      layer_group_size: 2,
      kda_safe_gate: false,
      linear_num_heads: 2,
      linear_head_dim: 4,
      num_attention_heads: 2,
      kv_lora_rank: 6,
      qk_nope_head_dim: 4,
      qk_rope_head_dim: 2,
      v_head_dim: 3,
      num_experts: 4,
      num_experts_per_token: 2,
      num_expert_group: 2,
      topk_group: 1,
      moe_intermediate_size: 4,
      intermediate_size: 8,
    },
  ],
  [
    'no rotation',
    'olmo_hybrid',
    {
      layer_types: ['linear_attention', 'full_attention'],
      num_attention_heads: 2,
      linear_key_head_dim: 4,
      linear_value_head_dim: 6,
      rope_parameters: { rope_theta: null },
      intermediate_size: 8,
      linear_allow_neg_eigval: false,
    },
  ],
  [
    'factors, a window',
    'minimax',
    {
      num_attention_heads: 2,
      num_key_value_heads: 1,
      head_dim: 4,
      num_local_experts: 3,
      num_experts_per_tok: 1,
      intermediate_size: 4,
      sliding_window: 3,
      full_attn_alpha_factor: 1.5,
      linear_attn_beta_factor: 0.5,
      mlp_alpha_factor: 2,
      block_size: 4,
    },
  ],
  ['halved in evaluation', 'rwkv', { num_hidden_layers: 3, rescale_every: 1, intermediate_size: 8 }],
  ['biases', 'mamba', { state_size: 3, use_bias: true, use_conv_bias: false }],
]

/** Names and shapes of the tensors of some of them, written down from the packages' documents: D 12, 11 symbols, plain feed-forward layers of 8. */
type Shapes = Record<string, readonly number[]>
const under = (before: string, shapes: Shapes): Shapes =>
  Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [before + name, shape]))
const plainFeed: Shapes = { 'mlp.gate_proj.weight': [8, 12], 'mlp.up_proj.weight': [8, 12], 'mlp.down_proj.weight': [12, 8] }
const ends: Shapes = { 'model.norm.weight': [12], 'lm_head.weight': [11, 12] }
const flaNorms: Shapes = { 'attn_norm.weight': [12], 'mlp_norm.weight': [12] }
export const written: readonly [name: string, modelType: string, shapes: Shapes][] = [
  [
    'a softmax layer',
    'hgrn2',
    {
      'model.embeddings.weight': [11, 12],
      'model.lower_bounds': [2, 12],
      ...ends,
      ...under('model.layers.1.', {
        ...flaNorms,
        ...plainFeed,
        ...under('attn.', {
          'q_proj.weight': [12, 12],
          'f_proj.weight': [12, 12],
          'i_proj.weight': [12, 12],
          'o_proj.weight': [12, 12],
          'q_conv1d.weight': [12, 1, 4],
          'f_conv1d.weight': [12, 1, 4],
          'i_conv1d.weight': [12, 1, 4],
          'g_norm.weight': [12],
        }),
      }),
      ...under('model.layers.0.', {
        ...flaNorms,
        ...plainFeed,
        ...under('attn.', {
          'q_proj.weight': [12, 12],
          'k_proj.weight': [6, 12],
          'v_proj.weight': [6, 12],
          'o_proj.weight': [12, 12],
          'q_proj.bias': [12],
          'k_proj.bias': [6],
          'v_proj.bias': [6],
        }),
      }),
    },
  ],
  [
    'shared queries and keys, a softmax layer with a window',
    'gated_deltanet',
    {
      'model.embeddings.weight': [11, 12],
      'model.norm.weight': [12],
      ...under('model.layers.0.', {
        ...flaNorms,
        ...plainFeed,
        ...under('attn.', {
          'q_proj.weight': [8, 12],
          'k_proj.weight': [8, 12],
          'v_proj.weight': [32, 12],
          'a_proj.weight': [4, 12],
          'b_proj.weight': [4, 12],
          'g_proj.weight': [32, 12],
          'o_proj.weight': [12, 32],
          'q_conv1d.weight': [8, 1, 4],
          'k_conv1d.weight': [8, 1, 4],
          'v_conv1d.weight': [32, 1, 4],
          A_log: [4],
          dt_bias: [4],
          'o_norm.weight': [8],
        }),
      }),
      ...under('model.layers.1.', {
        ...flaNorms,
        ...plainFeed,
        ...under('attn.', {
          'q_proj.weight': [12, 12],
          'k_proj.weight': [4, 12],
          'v_proj.weight': [4, 12],
          'o_proj.weight': [12, 12],
          'q_proj.bias': [12],
          'k_proj.bias': [4],
          'v_proj.bias': [4],
        }),
      }),
    },
  ],
  [
    'no rotation',
    'olmo_hybrid',
    {
      'model.embed_tokens.weight': [11, 12],
      ...ends,
      ...under('model.layers.0.', {
        'attention_layer_norm.weight': [12],
        'feedforward_layer_norm.weight': [12],
        ...plainFeed,
        ...under('linear_attn.', {
          'q_proj.weight': [8, 12],
          'k_proj.weight': [8, 12],
          'v_proj.weight': [12, 12],
          'a_proj.weight': [2, 12],
          'b_proj.weight': [2, 12],
          'g_proj.weight': [12, 12],
          'o_proj.weight': [12, 12],
          // 28 rows in three pieces, as equal as there may be.
          'q_conv1d.weight': [10, 1, 4],
          'k_conv1d.weight': [10, 1, 4],
          'v_conv1d.weight': [8, 1, 4],
          A_log: [2],
          dt_bias: [2],
          'o_norm.weight': [6],
        }),
      }),
      ...under('model.layers.1.', {
        'feedforward_layer_norm.weight': [12],
        'post_feedforward_layernorm.weight': [12],
        ...plainFeed,
        ...under('self_attn.', {
          'q_proj.weight': [12, 12],
          'k_proj.weight': [12, 12],
          'v_proj.weight': [12, 12],
          'o_proj.weight': [12, 12],
          'q_norm.weight': [12],
          'k_norm.weight': [12],
        }),
      }),
    },
  ],
]
