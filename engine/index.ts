export { customOp, record, recordMany } from './autograd.ts'
export { type CapturedStep, type CaptureResult, type CarriedState, capture } from './capture.ts'
export {
  type Device,
  type DeviceName,
  type DispatchTiming,
  type DType,
  type HostArray,
  type Precision,
  precisions,
} from './devices/device.ts'
export {
  type AdamOptions,
  type BinaryOp,
  binaryOps,
  GateError,
  type KernelName,
  type Kernels,
  type UnaryOp,
  unaryOps,
} from './devices/kernels.ts'
export { type DeviceChoice, deviceChoices, type OpenOptions, openDevice, webgpuDevice } from './devices/open.ts'
export { type ReferenceDevice, type ReferenceOptions, referenceDevice } from './devices/reference/index.ts'
export { enableWideSimd, relaxedAvailable, threadsAvailable, type WasmOptions, type WideSimd, wasmDevice } from './devices/wasm/index.ts'
export { type AdapterReport, type Capabilities, type WebgpuOptions, webgpuAdapters } from './devices/webgpu/adapter.ts'
export type { WebgpuDevice } from './devices/webgpu/index.ts'
export { type GradCheck, type GradCheckOptions, gradCheck } from './gradcheck.ts'
export { type HalfType, halfTypes } from './half.ts'
export {
  type DeltaLstmOptions,
  type DeltaRnnOptions,
  deltaLstm,
  deltaRnn,
  type FastWeightMemoryOptions,
  fastWeightMemory,
  type KeyFeatures,
  type RecurrentDeltaOptions,
  recurrentDeltaNet,
} from './nets/delta.ts'
export { type NetName, type NetRow, nets } from './nets/index.ts'
export { defineNet, type Matrix, type Net, type NetBuilder, type StateOptions, type Vector } from './nets/program.ts'
export {
  type BaOptions,
  ba2016,
  type ProgrammerOptions,
  programmer,
  type RecurrentProgrammerOptions,
  recurrentProgrammer,
} from './nets/programmer.ts'
export { gru, lstm, type RecurrentOptions, vanillaRnn } from './nets/recurrent.ts'
export { type NetOptions, type NetState, runNet } from './nets/run.ts'
export { type SelfReferentialOptions, selfModifyingProgrammer, selfReferential } from './nets/self-referential.ts'
export { type AftBias, type AftOptions, type AftState, aft } from './ops/aft.ts'
export { softmaxAttention } from './ops/attention.ts'
export { softplusDecay } from './ops/decay.ts'
export * from './ops/elementwise.ts'
export {
  type FastWeightState,
  type Form,
  fastWeights,
  forms,
  type Gates,
  type NormaliserOptions,
  type ReadOptions,
  type RuleOptions,
} from './ops/fast-weights.ts'
export * from './ops/linear.ts'
export { type LinearCrossEntropyOptions, linearCrossEntropy } from './ops/linear-cross-entropy.ts'
export * from './ops/matmul.ts'
export * from './ops/movement.ts'
export * from './ops/norm.ts'
export * from './ops/optimizer.ts'
export { cumsum, max, mean, type ReduceOptions, sum } from './ops/reduce.ts'
export * from './ops/sequence.ts'
export { type Profile, type ProfileEntry, profile, span } from './profile.ts'
export { dropout, type Generator, generator, normal, uniform } from './random.ts'
export { type RecomputeOptions, recompute } from './recompute.ts'
export { noGrad, withGrad } from './recording.ts'
export { attentionDeltaRule, deltaProductRule, deltaRule, gatedDeltaRule, longhornRule } from './rules/delta.ts'
export { dplrRule, rwkv7Rule } from './rules/dplr.ts'
export { combaRule, gatedDelta2Rule, preconditionedDeltaRule } from './rules/erase.ts'
export { type RuleName, rules } from './rules/index.ts'
export { titansRule, tttRule } from './rules/inner.ts'
export { logLinearAttention, logLinearRule } from './rules/log-linear.ts'
export { mesaRule } from './rules/mesa.ts'
export { momentumDeltaRule } from './rules/momentum.ts'
export { ojaRule } from './rules/oja.ts'
export {
  type Letter,
  outer,
  type Rule,
  type RuleInput,
  type RuleResult,
  readOut,
  type Step,
  spreadHeads,
  type ValueKind,
} from './rules/rule.ts'
export { rwkv4Rule, rwkv5Rule, rwkv6Rule } from './rules/rwkv.ts'
export { abcRule, gatedSlotRule, lightNetRule } from './rules/slots.ts'
export { initialState, runSteps } from './rules/steps.ts'
export { gatedSumRule, hgrn2Rule, hgrnRule, lightningDecays, pengRule, retentionRule, sumRule } from './rules/sum.ts'
export { type ScanOptions, scan } from './scan.ts'
export { keep, scope } from './scope.ts'
export { type KernelCheck, selfCheck } from './selfcheck.ts'
export type { Shape } from './shape.ts'
export type { Stoppable } from './signal.ts'
export {
  type Backward,
  type BackwardOptions,
  backward,
  empty,
  full,
  getDevice,
  halfTensor,
  like,
  type Nested,
  ones,
  parameter,
  type Sofar,
  setDevice,
  Tensor,
  type TensorOptions,
  tensor,
  varying,
  zeros,
} from './tensor.ts'
