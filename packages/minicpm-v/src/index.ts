/** The MiniCPM-V models: what other packages may use. What only tests of this repository need is in internal.ts. */

export { AdapterSet, type HeldAdapter } from './adapters/adapter-set.js';
export { baseFingerprint } from './adapters/checksums.js';
export {
  adapterFileParameters,
  type BaseModel,
  describeBase,
  type LoadAdapterOptions,
  type LoadedAdapter,
  loadAdapter,
  type PlannedAdapters,
  planAdapters,
  saveAdapter,
  writeAdapterFiles,
} from './adapters/folder.js';
export {
  exportCheckpoint,
  exportServedAdapter,
  type ServedAdapter,
  type ServedCheckpoint,
} from './adapters/for-servers.js';
export {
  type AppliedLora,
  applyLora,
  freeze,
  type LoraAdapter,
  loraAdapters,
  setLoraTraining,
  trainableParameters,
} from './adapters/lora.js';
export type { LoraConfig, LoraOptions } from './adapters/lora-config.js';
export { selectModules } from './adapters/lora-targets.js';
export type { BaseFingerprint } from './adapters/manifest.js';
export { type MergeOptions, type MergeReport, mergeCheckpoint } from './adapters/merge.js';
export { type AdapterPlace, adapterPlaces, describePlaces } from './adapters/places.js';
export { type QuantizationType, type Quantized, quantizeLayers } from './adapters/quantize.js';
export { WEIGHTS_FILE as ADAPTER_FILE } from './adapters/side-files.js';
export { type HashProgress, tensorsFingerprint } from './checkpoint/content.js';
export { type CreateOptions, createModel } from './checkpoint/create.js';
export {
  checkpointTensors,
  type LoadOptions,
  loadWeights,
  MAX_SHARD_BYTES,
  openCheckpoint,
  type SaveOptions,
  saveCheckpoint,
  sideFiles,
  type WeightSource,
  writeCheckpointFiles,
} from './checkpoint/weights.js';
export { holdWeights } from './generation/hold-weights.js';
export {
  adapterIdentity,
  changedFile,
  type ModelIdentity,
  modelIdentity,
  weightStates,
} from './generation/identity.js';
export {
  type Answer,
  type AnswerOptions,
  LoadedModel,
  type LoadModelOptions,
  loadModel,
  moveTo,
  stopTokens,
} from './generation/load.js';
export { PromptEncoder, type ReadingOptions } from './generation/prompt.js';
export {
  type BatchOptions,
  type NewToken,
  PIECE_LENGTH,
  RunningBatch,
} from './generation/running-batch.js';
export { GREEDY, type LogProb, type Sampling } from './generation/sampling.js';
export type { SequenceOptions } from './generation/sequence.js';
export { TensorCache } from './generation/tensor-cache.js';
export {
  type ExportOptions,
  exportGguf,
  exportGgufAdapter,
  type GgufAdapterExport,
  type GgufExport,
} from './gguf/export.js';
export type { KnownPictures, ModelInputs, PlanOptions } from './model/inputs.js';
export { MiniCPMV } from './model/minicpm-v.js';
export type { Picture } from './model/patches.js';
export { type Plan, type PlanNode, runPlan } from './model/plan.js';
