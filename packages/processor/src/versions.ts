/**
 * The differences between the supported models, as data. How a config is recognised, which language model and vision
 * tower it has, and where its arithmetic departs from MiniCPM-V 2.6, the last of the plain ones. Nothing else in the
 * package asks for a version by name.
 *
 * Not here: sizes (config.ts) and what differs between the language models (llms.ts). No import of torch: chat and image code read this
 * table in threads that have none.
 */
import type { LlmType } from '@minicpm-finetune/run';
import type { LlmKind } from './llms.js';

export type VersionName = 'minicpm-v-2' | 'minicpm-llama3-v-2_5' | 'minicpm-v-2_6' | 'minicpm-o-2_6' | 'minicpm-v-4';

export interface Version {
  /** The model's name as published. */
  readonly title: string;
  /** `architectures[0]` of config.json. */
  readonly architecture: 'MiniCPMV' | 'MiniCPMO';
  /** `version` of config.json; null where the config has none. */
  readonly version: number | null;
  /** The conversation format. */
  readonly llmType: LlmType;
  readonly llm: LlmKind;
  /** navit: SigLIP on pictures of any shape as strips of patches, described in `vision_config`; timm: a ViT named by `vision_encoder`. */
  readonly tower: 'navit' | 'timm';
  /**
   * grid: patches have the position of their row and column. strip: the tower takes every picture for one row of patches and pads all
   * pictures of a batch to the longest, without a mask, so that padding takes part in attention (2.5's mask is filled along a wrong axis).
   */
  readonly positions: 'grid' | 'strip';
  /** Whether pictures travel as strips [3, patch, patch * patches]; else as [3, H, W]. */
  readonly batchVision: boolean;
  /** new: every slice between slice markers, sliced pictures with an image id. old: every tile between image markers, one pair of slice markers around all. */
  readonly sliceSchema: 'new' | 'old';
  /** Whether `resampler.pos_embed` is stored and added to the queries. It never trains on its own, only as part of an adapter's saved module. */
  readonly resamplerPosEmbed: boolean;
  /** Prefixes of tensors that belong to parts not built here; they are carried unchanged from the source checkpoint into saved ones. */
  readonly carried: readonly string[];
}

export const VERSIONS: Readonly<Record<VersionName, Version>> = {
  'minicpm-v-2': {
    title: 'MiniCPM-V-2',
    architecture: 'MiniCPMV',
    version: null,
    llmType: 'minicpm',
    llm: 'minicpm',
    tower: 'timm',
    positions: 'grid',
    batchVision: false,
    sliceSchema: 'old',
    resamplerPosEmbed: true,
    carried: [],
  },
  'minicpm-llama3-v-2_5': {
    title: 'MiniCPM-Llama3-V-2_5',
    architecture: 'MiniCPMV',
    version: null,
    llmType: 'llama3',
    llm: 'llama',
    tower: 'navit',
    positions: 'strip',
    batchVision: true,
    sliceSchema: 'old',
    resamplerPosEmbed: false,
    carried: [],
  },
  'minicpm-v-2_6': {
    title: 'MiniCPM-V-2_6',
    architecture: 'MiniCPMV',
    version: 2.6,
    llmType: 'qwen',
    llm: 'qwen2',
    tower: 'navit',
    positions: 'grid',
    batchVision: true,
    sliceSchema: 'new',
    resamplerPosEmbed: false,
    carried: [],
  },
  'minicpm-o-2_6': {
    title: 'MiniCPM-o-2_6',
    architecture: 'MiniCPMO',
    version: 2.6,
    llmType: 'qwen',
    llm: 'qwen2',
    tower: 'navit',
    positions: 'grid',
    batchVision: true,
    sliceSchema: 'new',
    resamplerPosEmbed: false,
    carried: ['apm.', 'tts.', 'audio_projection_layer.'],
  },
  'minicpm-v-4': {
    title: 'MiniCPM-V-4',
    architecture: 'MiniCPMV',
    version: 4,
    llmType: 'llama',
    llm: 'llama',
    tower: 'navit',
    positions: 'grid',
    batchVision: true,
    sliceSchema: 'new',
    resamplerPosEmbed: false,
    carried: [],
  },
};

/** The keys of a config that identify the version. */
export interface VersionMarks {
  readonly architecture: string | undefined;
  readonly version: number | null;
  readonly hasVisionConfig: boolean;
  readonly hasVisionEncoder: boolean;
}

/** The version that a config identifies, or undefined. */
export function recogniseVersion(marks: VersionMarks): VersionName | undefined {
  const names = Object.keys(VERSIONS) as VersionName[];
  return names.find((name) => {
    const { architecture, version, tower } = VERSIONS[name];
    const hasTower = tower === 'timm' ? marks.hasVisionEncoder && !marks.hasVisionConfig : marks.hasVisionConfig;
    return architecture === marks.architecture && version === marks.version && hasTower;
  });
}
