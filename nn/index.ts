export { Aft, type AftConfig, type AftForm } from './aft.ts'
export {
  type AttentionState,
  FastWeightsAttention,
  type FastWeightsAttentionConfig,
  type FastWeightsSettings,
  fastWeightsAttentionDefaults,
  layerRules,
} from './attention.ts'
export * from './checkpoint.ts'
export {
  CrossAttention,
  type CrossLayer,
  type CrossSettings,
  crossRules,
  type ReadOptions,
  readSource,
  SoftmaxCrossAttention,
  type SourceKeys,
  scoreSource,
  type Written,
  writeSource,
} from './cross-attention.ts'
export * from './encoder-decoder.ts'
export {
  type FeatureConfig,
  type FeatureMap,
  type FeatureNorm,
  Features,
  favor,
  featureDefaults,
  featureMaps,
  featureNorms,
  hedgehog,
  orthogonalRows,
  taylor2,
} from './features.ts'
export type { AnyField, Field, Fields } from './fields.ts'
export { type Gate, type GateName, gates, retention } from './gates.ts'
export * from './generate.ts'
export type { AttentionOptions } from './heads.ts'
export * from './layers.ts'
export type { LayerState, Look, Mixer, SequenceLayer } from './mixer.ts'
export { type LayerMixer, type MixerChoice, type MixerConfig, type MixerLayer, type MixerName, mixers } from './mixers.ts'
export * from './model.ts'
export { type BufferCheck, type FloatEntry, Module, type StateDict, type StateDictEntry } from './module.ts'
export * from './optimizers.ts'
export { loadOutside, type OutsideLayout, outside, outsideParameters } from './outside/index.ts'
export { OutsideModule, type OutsideResult } from './outside/layer.ts'
export type { Packing } from './packing.ts'
export type { Part, Parts } from './parts.ts'
export * from './presets.ts'
export { RecurrentNet, type RecurrentNetConfig, type RecurrentNetName, recurrentNetNames } from './recurrent-net.ts'
export { rotary } from './rotary.ts'
export * from './safetensors.ts'
export * from './search.ts'
export { type KeyValueState, SoftmaxAttention, type SoftmaxSettings } from './softmax-attention.ts'
export {
  detachState,
  disposeState,
  initialState,
  loadState,
  resetRows,
  type State,
  type Stateful,
  saveState,
  stateGrowth,
  stateSize,
  takeRows,
} from './state.ts'
export { disposeTrace, type LayerTrace, trace } from './trace.ts'
export * from './trainer.ts'
export * from './transformer.ts'
