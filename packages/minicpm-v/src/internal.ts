/** Model parts for this repository's packages and tests. Not a public interface: it may change in any version. */
export { adapterFileParameters } from './adapters/folder.js';
export { Int8Tensor, Nf4Tensor } from './adapters/quantize.js';
export { generate } from './generation/generate.js';
export { planGguf, TENSOR_TYPES } from './gguf/format.js';
export { readGguf } from './gguf/reader.js';
export { sinCosTable } from './model/resampler.js';
export { inverseFrequencies } from './model/rope.js';
export { positionBuckets } from './model/siglip.js';
export { TimmVisionTower } from './model/timm-vit.js';
