/** Sizes from the config.json of 4.6 and later. It has a `text_config`; slices are in preprocessor_config.json. */
import { dirname, join } from 'node:path';
import { expected } from '@minicpm-finetune/run';
import { checkVision, llmConfig, navitConfig } from './config-flat.js';
import { CURE, checkPreprocessor, type NestedConfig, type RawPreprocessor } from './config-schema.js';
import type { CanvasMarks, DownsampleMode, LlmConfig, ModelParts } from './model-config.js';
import { VERSIONS, type VersionName } from './versions.js';

const MERGED = 4;
const DEFAULT_SECTION = [11, 11, 10] as const;

/** Patches that become a token. */
export const patchesPerToken = (mode: DownsampleMode): number => (mode === '4x' ? MERGED : MERGED * MERGED);

/** @throws UserError naming file and key */
export function nestedParts(raw: NestedConfig, version: VersionName, file: string, preprocessor?: string): ModelParts {
  const { canvas, batchVision, sliceMultiple } = VERSIONS[version];
  const pictures: RawPreprocessor =
    preprocessor === undefined ? {} : checkPreprocessor(preprocessor, join(dirname(file), 'preprocessor_config.json'));
  const vision = navitConfig(raw);
  const patchSize = pictures.patch_size ?? vision.patchSize;
  checkVision(vision, patchSize, file);
  const { numLayers } = vision;
  if (raw.insert_layer_id >= numLayers)
    throw expected(`one of ${numLayers} layers, counted from 0,`, "'insert_layer_id'", raw.insert_layer_id, {
      file,
      cure: CURE,
    });
  const downsampleMode = raw.downsample_mode ?? pictures.downsample_mode ?? '16x';
  return {
    llm: hybridLlm(raw, version, file),
    vision,
    pictureTokens: { patchesPerToken: patchesPerToken(downsampleMode) },
    merger: { insertLayer: raw.insert_layer_id, downsampleMode },
    canvas: canvas ? canvasMarks(raw, file) : null,
    batchVision,
    sliceMode: pictures.slice_mode ?? raw.slice_mode ?? true,
    slice: {
      maxSliceNums: pictures.max_slice_nums ?? raw.max_slice_nums ?? 9,
      scaleResolution: pictures.scale_resolution ?? raw.scale_resolution ?? 448,
      patchSize,
      multiple: sliceMultiple * patchSize,
    },
    useImageId: pictures.use_image_id ?? raw.use_image_id ?? true,
    initializerRange: raw.text_config.initializer_range,
    dtype: raw.torch_dtype ?? raw.dtype ?? 'float32',
  };
}

function hybridLlm({ text_config: text, ...raw }: NestedConfig, version: VersionName, file: string): LlmConfig {
  const { llm: kind, canvas } = VERSIONS[version];
  const llm = llmConfig(text, kind, { file, path: 'text_config.' });
  const layers = Array.from({ length: llm.numLayers }, (_, i) => i);
  const types = text.layer_types;
  if (types !== undefined && types.length !== llm.numLayers)
    throw expected(`${llm.numLayers} layers`, "'text_config.layer_types'", types.length, { file, cure: CURE });
  const isLinear = (i: number): boolean =>
    types === undefined ? (i + 1) % text.full_attention_interval !== 0 : types[i] === 'linear_attention';
  const keyHeads = text.linear_num_key_heads;
  if (text.linear_num_value_heads % keyHeads !== 0)
    throw expected(
      `a multiple of ${keyHeads} key heads`,
      "'text_config.linear_num_value_heads'",
      text.linear_num_value_heads,
      { file, cure: CURE },
    );
  return {
    ...llm,
    tieWordEmbeddings: raw.tie_word_embeddings,
    mropeSection: canvas ? (text.rope_parameters?.mrope_section ?? DEFAULT_SECTION) : null,
    linearAttention: {
      numKeyHeads: keyHeads,
      numValueHeads: text.linear_num_value_heads,
      keyHeadDim: text.linear_key_head_dim,
      valueHeadDim: text.linear_value_head_dim,
      convKernel: text.linear_conv_kernel_dim,
    },
    linearLayers: new Set(layers.filter(isLinear)),
  };
}

function canvasMarks(raw: NestedConfig, file: string): CanvasMarks {
  const id = (key: 'image_start_id' | 'image_end_id' | 'slice_start_id' | 'slice_end_id' | 'newline_id'): number => {
    const value = raw[key];
    if (value != null) return value;
    throw expected('a token id', `'${key}'`, value, { file, cure: CURE });
  };
  return {
    imageStart: id('image_start_id'),
    imageEnd: id('image_end_id'),
    sliceStart: id('slice_start_id'),
    sliceEnd: id('slice_end_id'),
    newline: id('newline_id'),
  };
}
