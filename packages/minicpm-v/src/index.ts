/** The MiniCPM-V models: what other packages may use. What only tests of this repository need is in internal.ts. */
export {
  type BaseModel,
  describeBase,
  type LoadAdapterOptions,
  loadAdapter,
  saveAdapter,
} from './adapters/folder.js';
export {
  type AppliedLora,
  applyLora,
  freeze,
  type LoraConfig,
  type LoraOptions,
  setLoraTraining,
  trainableParameters,
} from './adapters/lora.js';
export { type BaseFingerprint, baseFingerprint } from './adapters/manifest.js';
export { type MergeOptions, type MergeReport, mergeCheckpoint } from './adapters/merge.js';
export { type QuantizationType, type Quantized, quantizeLayers } from './adapters/quantize.js';
export { type HashProgress, tensorsFingerprint } from './checkpoint/content.js';
export { type CreateOptions, createModel } from './checkpoint/create.js';
export {
  type LoadOptions,
  loadWeights,
  openCheckpoint,
  type SaveOptions,
  saveCheckpoint,
  type WeightSource,
} from './checkpoint/weights.js';
export { changedFile, type ModelIdentity, modelIdentity, weightStates } from './generation/identity.js';
export {
  type Answer,
  type AnswerOptions,
  LoadedModel,
  type LoadModelOptions,
  loadModel,
  moveTo,
  requireCheckpoint,
} from './generation/load.js';
export { PromptEncoder, type ReadingOptions } from './generation/prompt.js';
export type { Sampling } from './generation/sampling.js';
export type { KnownPictures, ModelInputs, PlanOptions } from './model/inputs.js';
export { MiniCPMV } from './model/minicpm-v.js';
export type { Picture } from './model/patches.js';
export { type Plan, type PlanNode, runPlan } from './model/plan.js';
