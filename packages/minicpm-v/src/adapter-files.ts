/** Adapter folders, read without libtorch. For checks before a model is loaded. */
export { type AdapterConfig, readAdapterConfig } from './adapters/config.js';
export {
  describeEncoding,
  encodingOfAdapters,
  promptNotices,
  type TrainedEncoding,
} from './adapters/encoding.js';
export { type AdapterOrigin, checkFamily, modelOrigin } from './adapters/family.js';
export { adapterTargets } from './adapters/header.js';
export {
  ALL_LINEAR,
  endsWithName,
  type LoraConfig,
  layerIndex,
  loraScale,
  targetMatcher,
} from './adapters/lora-config.js';
export { type AdapterManifest, readManifest } from './adapters/manifest.js';
export { checkSideFiles } from './adapters/side-files.js';
export { describeSlices, slicesOfAdapters, type TrainedSlices } from './adapters/slices.js';
export { describeVideo, type TrainedVideos, videosOfAdapters } from './adapters/videos.js';
