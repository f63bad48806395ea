export {
  type AttentionState,
  FastWeightsAttention,
  type FastWeightsAttentionConfig,
  fastWeightsAttentionDefaults,
  layerRules,
} from './attention.ts'
export * from './checkpoint.ts'
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
export { type Gate, type GateName, gates, retention } from './gates.ts'
export * from './generate.ts'
export type { AttentionOptions } from './heads.ts'
export * from './layers.ts'
export { type FloatEntry, Module, type StateDict } from './module.ts'
export * from './optimizers.ts'
export type { Packing } from './packing.ts'
export type { Part, Parts } from './parts.ts'
export * from './presets.ts'
export { rotary } from './rotary.ts'
export * from './safetensors.ts'
export * from './softmax-attention.ts'
export {
  detachState,
  disposeState,
  initialState,
  loadState,
  resetRows,
  type State,
  type Stateful,
  saveState,
  stateSize,
} from './state.ts'
export * from './trainer.ts'
export * from './transformer.ts'
