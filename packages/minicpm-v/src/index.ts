/** The MiniCPM-V models: what the other packages may use. */
export * from './config.js';
export * from './create.js';
export { type Attend, Decoder, DecoderLayer, LanguageModel } from './decoder.js';
export * from './kv-cache.js';
export * from './minicpm-v.js';
export { PatchEmbedding, type Picture } from './patches.js';
export * from './plan.js';
export * from './versions.js';
export * from './weights.js';
