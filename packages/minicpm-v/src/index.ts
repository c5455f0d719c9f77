/** The MiniCPM-V models: what the other packages may use. */
export * from './adapter.js';
export * from './config.js';
export * from './create.js';
export * from './data.js';
export { type Attend, Decoder, DecoderLayer, LanguageModel } from './decoder.js';
export * from './kv-cache.js';
export * from './lora.js';
export * from './minicpm-v.js';
export { PatchEmbedding, type Picture } from './patches.js';
export * from './plan.js';
export { sinCosTable } from './resampler.js';
export { inverseFrequencies } from './rope.js';
export { positionBuckets } from './siglip.js';
export { TimmVisionTower } from './timm-vit.js';
export * from './versions.js';
export * from './weights.js';
