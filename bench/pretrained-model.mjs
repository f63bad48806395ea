/**
 * Writes a random Qwen3.5 of about 150 million parameters in bfloat16, in three shards with their index, to a folder:
 *
 *     node bench/pretrained-model.mjs FOLDER
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setDevice, wasmDevice } from '../dist/engine/index.js'
import { newPretrained, readSafetensors, toPretrained, writeSafetensors } from '../dist/nn/index.js'

const layers = 16
const shards = 3
const config = {
  architectures: ['Qwen3_5ForCausalLM'],
  attention_bias: false,
  dtype: 'bfloat16',
  eos_token_id: null,
  head_dim: 64,
  hidden_act: 'silu',
  hidden_size: 768,
  intermediate_size: 2048,
  layer_types: Array.from({ length: layers }, (_, i) => (i % 4 === 3 ? 'full_attention' : 'linear_attention')),
  linear_conv_kernel_dim: 4,
  linear_key_head_dim: 64,
  linear_num_key_heads: 8,
  linear_num_value_heads: 16,
  linear_value_head_dim: 64,
  max_position_embeddings: 4096,
  model_type: 'qwen3_5_text',
  num_attention_heads: 12,
  num_hidden_layers: layers,
  num_key_value_heads: 4,
  rms_norm_eps: 1e-6,
  rope_parameters: { partial_rotary_factor: 0.25, rope_theta: 10000, rope_type: 'default' },
  tie_word_embeddings: false,
  use_cache: true,
  vocab_size: 24576,
}

const [folder] = process.argv.slice(2)
setDevice(await wasmDevice({ threads: 1 }))
const { model, source } = newPretrained(config, 'transformers', 1)
const files = await toPretrained(model, { ...source, dtype: 'BF16' })
const weights = files.get('model.safetensors')
files.delete('model.safetensors')
const { tensors } = readSafetensors(weights)
const names = [...tensors.keys()]
const map = {}
for (let i = 0, at = 0; i < shards; i++) {
  const name = `model-${i + 1}-of-${shards}.safetensors`
  const own = []
  // As many bytes each, as far as tensors go.
  for (let size = 0; at < names.length && (i === shards - 1 || size < weights.length / shards); at++) {
    const entry = tensors.get(names[at])
    own.push([names[at], entry])
    map[names[at]] = name
    size += 2 * entry.data.length
  }
  files.set(name, writeSafetensors(own))
}
files.set('model.safetensors.index.json', JSON.stringify({ metadata: { total_size: weights.length }, weight_map: map }))
mkdirSync(folder, { recursive: true })
for (const [name, content] of files) writeFileSync(join(folder, name), content)
const parameters = model.parameters().reduce((n, p) => n + p.size, 0)
console.log(JSON.stringify({ parameters, symbols: config.vocab_size }))
process.exit(0)
