export { Aft, type AftConfig, type AftForm } from './aft.ts'
export {
  type AttentionState,
  FastWeightsAttention,
  type FastWeightsAttentionConfig,
  type FastWeightsSettings,
  fastWeightsAttentionDefaults,
  layerRules,
} from './attention.ts'
export { Autoencoder } from './autoencoder.ts'
export {
  BlockModel,
  type BlockModelConfig,
  type BlockModelState,
  type NormChoice,
  Part as BlockPart,
  type PartChoice,
} from './block-model.ts'
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
export { Experts, type ExpertsSettings, expertsDefaults } from './experts.ts'
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
export { type FrozenEntry, type FrozenOptions, frozen } from './frozen.ts'
export { type Gate, type GateName, gates, retention } from './gates.ts'
export * from './generate.ts'
export type { AttentionOptions } from './heads.ts'
export { LatentAttention, type LatentSettings, latentDefaults } from './latent-attention.ts'
export * from './layers.ts'
export { MambaLayer, type MambaSettings, type MambaState, mambaDefaults } from './mamba.ts'
export { Mamba2Layer, type Mamba2Settings, type Mamba2State, mamba2Defaults } from './mamba2.ts'
export { MemoryLayer, type MemoryRule, type MemorySettings, type MemoryState, memoryDefaults, type SharedBounds } from './memory-layer.ts'
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
export { type JsonObject, type PackageName, PretrainedError } from './pretrained/architecture.ts'
export { type ComparedTensor, type Comparison, comparePretrained } from './pretrained/compare.ts'
export {
  architectures,
  fromPretrained,
  type Generation,
  generationOf,
  type NamedFiles,
  newPretrained,
  openPretrained,
  type Pretrained,
  type PretrainedEntry,
  type PretrainedFiles,
  type PretrainedOptions,
  type PretrainedSource,
  toPretrained,
} from './pretrained/open.ts'
export { RecurrentNet, type RecurrentNetConfig, type RecurrentNetName, recurrentNetNames } from './recurrent-net.ts'
export type { KeyValueState } from './room.ts'
export { type RotaryOptions, rotary } from './rotary.ts'
export { RwkvChannelMix, type RwkvOptions, type RwkvSettings, type RwkvState, RwkvTimeMix } from './rwkv.ts'
export * from './safetensors.ts'
export * from './search.ts'
export { SoftmaxAttention, type SoftmaxOptions, type SoftmaxSettings } from './softmax-attention.ts'
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
