/** What Mamba-2 is in both packages: the same tensors and the same layer, under other keys. Its embedding learns from padding, too. */
import type { BlockModelConfig, NormChoice } from '../block-model.ts'
import type { Mamba2Settings } from '../mamba2.ts'
import { type ConfigReader, type Name, PretrainedError, type StateName, taps, within } from './architecture.ts'

export interface MambaKeys extends Pick<Mamba2Settings, 'heads' | 'valueWidth' | 'outputNorm' | 'skip'> {
  /** The key of the limits of steps. */
  limit: string
  eps: number
}

export function mamba(c: ConfigReader, { limit, eps, ...own }: MambaKeys): BlockModelConfig {
  c.choice('hidden_act', { silu: 0, swish: 0 })
  const limits = c.list(limit)
  if (limits?.length !== 2) throw new PretrainedError(`config.json: ${limit} must be a list of two numbers`)
  const [stepMin, stepMax] = limits.map((value) => c.number(limit, value))
  if (!(stepMin >= 0 && stepMax > stepMin)) throw new PretrainedError(`config.json: ${limit} must go from 0 or more to more than that`)
  const norm: NormChoice = { kind: 'rms', eps }
  const layer = {
    kind: 'mamba2',
    norm,
    ...own,
    stateWidth: c.integer('state_size'),
    groups: c.integer('n_groups'),
    conv: c.integer('conv_kernel'),
    convBias: c.flag('use_conv_bias'),
    bias: c.flag('use_bias'),
    stepMin,
    stepMax: stepMax === Infinity ? 0 : stepMax,
    normEps: eps,
  } as const
  return {
    symbols: c.integer('vocab_size'),
    dModel: c.integer('hidden_size'),
    layers: Array.from({ length: c.integer('num_hidden_layers') }, () => [layer]),
    norm,
    tie: c.flag('tie_word_embeddings'),
  }
}

export const mambaNames = (c: ConfigReader): Name[] => [
  ['backbone.embeddings.weight', 'embedding.weight'],
  ['backbone.layers.#.norm.weight', 'layers.#.parts.0.norm.weight'],
  ...within('backbone.layers.#.mixer.', 'layers.#.parts.0.layer.', [
    ['in_proj.weight', 'input.weight'],
    ['in_proj.bias', 'input.bias'],
    ['conv1d.weight', 'conv', taps],
    ['conv1d.bias', 'conv_bias'],
    ['dt_bias', 'dt_bias'],
    ['A_log', 'A_log'],
    ['D', 'skip'],
    ['norm.weight', 'gain'],
    ['out_proj.weight', 'output.weight'],
    ['out_proj.bias', 'output.bias'],
  ]),
  ['backbone.norm_f.weight', 'norm.weight'],
  ...(c.flag('tie_word_embeddings') ? [] : [['lm_head.weight', 'head.weight'] as const]),
]

export const mambaStates: readonly StateName[] = [
  { file: 'state.#', from: [[0, 'S']], axes: 'transposed' },
  { file: 'conv.#', from: [[0, 'taps']], axes: 'taps' },
]
