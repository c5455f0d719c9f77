/** How a model reads what it is given. Images, videos and conversations, from its configuration. */
import type { ModelConfig } from './model-config.js';
import type { ModelInput } from './sample.js';
import { VERSIONS } from './versions.js';
import { type VideoChoices, videoOf } from './video-config.js';

/**
 * Plain data: everything but the tokenizer.
 * @param slice how pictures are cut; default: as the configuration says
 * @param video how videos are read; what is absent: as the configuration says
 */
export function modelInput(
  config: ModelConfig,
  { slice = config.slice, video }: { slice?: ModelConfig['slice'] | undefined; video?: VideoChoices | undefined } = {},
): Omit<ModelInput, 'tokenizer'> {
  const { llmType, sliceMultiple } = VERSIONS[config.version];
  // where sides are multiples of more than a patch, a picture that is not cut is resized all the same
  const uncut = sliceMultiple > 1 ? { ...slice, maxSliceNums: 1 } : null;
  return {
    llmType,
    sliceConfig: config.sliceMode ? slice : uncut,
    patchSize: slice.patchSize,
    pictureTokens: config.pictureTokens,
    batchVision: config.batchVision,
    imageIds: config.useImageId ?? true,
    canvas: config.canvas,
    video: videoOf(config.video, video),
  };
}
