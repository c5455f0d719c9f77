/**
 * The differences between the supported models, as data. How a config is recognised, which language model and vision
 * tower it has, and where its arithmetic departs from MiniCPM-V 2.6, the last of the plain ones. Nothing else in the
 * package asks for a version by name.
 *
 * Not here: sizes (config.ts) and what differs between the language models (llms.ts). No import of torch: chat and image code read this
 * table in threads that have none.
 */
import { type LlmType, OFFICIAL_LORA_TARGETS } from '@minicpm-finetune/run';
import type { LlmKind } from './llms.js';

export type VersionName =
  | 'minicpm-v-2'
  | 'minicpm-llama3-v-2_5'
  | 'minicpm-v-2_6'
  | 'minicpm-o-2_6'
  | 'minicpm-v-4'
  | 'minicpm-v-4_5'
  | 'minicpm-o-4_5'
  | 'minicpm-v-4_6'
  | 'minicpm-v-4_7';

/** Where a checkpoint has the parts of the model. */
export interface PartNames {
  readonly vision: string;
  /** What makes tokens of the vision tower's output. */
  readonly connector: string;
  /** What decoder and head stand in; empty: the checkpoint has both at its outermost level. */
  readonly llm: string;
  readonly decoder: string;
  readonly head: string;
}

export interface Version {
  /** The model's name as published. */
  readonly title: string;
  /** `architectures[0]` of config.json. */
  readonly architecture: string;
  /** `version` of config.json; null where the config has none. */
  readonly version: number | null;
  /** The conversation format. */
  readonly llmType: LlmType;
  readonly llm: LlmKind;
  /** flat: the language model's keys are the outermost of config.json. nested: they are in `text_config`. */
  readonly config: 'flat' | 'nested';
  readonly parts: PartNames;
  /** The layers that get adapters unless others are asked for: a regular expression over full names. */
  readonly loraTargets: string;
  /** navit: SigLIP on pictures of any shape as strips of patches, described in `vision_config`; timm: a ViT named by `vision_encoder`. */
  readonly tower: 'navit' | 'timm';
  /**
   * resampler: queries make the same number of tokens of every picture. merger: a token is made of each block of patches, some of them merged
   * inside the tower.
   */
  readonly connector: 'resampler' | 'merger';
  /**
   * grid: patches have the position of their row and column. strip: the tower takes every picture for one row of patches and pads all
   * pictures of a batch to the longest, without a mask, so that padding takes part in attention (2.5's mask is filled along a wrong axis).
   */
  readonly positions: 'grid' | 'strip';
  /** How the rows and columns of a picture spread over the table of positions: float32 as the published code rounds it, or exact. */
  readonly buckets: 'float32' | 'exact';
  /** Whether tokens of pictures have rows and columns as positions, on a canvas (three positions a token), and not one after the other. */
  readonly canvas: boolean;
  /** What the sides of pictures and slices are multiples of, in patches. */
  readonly sliceMultiple: number;
  /** Whether frames of a video form groups, each of which becomes the tokens of one picture. */
  readonly frameGroups: boolean;
  /** Whether training runs a zero picture where a batch has none. */
  readonly zeroPicture: boolean;
  /** Whether pictures travel as strips [3, patch, patch * patches]; else as [3, H, W]. */
  readonly batchVision: boolean;
  /** new: every slice between slice markers, sliced pictures with an image id. old: every tile between image markers, one pair of slice markers around all. */
  readonly sliceSchema: 'new' | 'old';
  /** Whether `resampler.pos_embed` is stored and added to the queries. It never trains on its own, only as part of an adapter's saved module. */
  readonly resamplerPosEmbed: boolean;
  /** Prefixes of tensors that belong to parts not built here; they are carried unchanged from the source checkpoint into saved ones. */
  readonly carried: readonly string[];
}

const PARTS: Readonly<Record<Version['config'], PartNames>> = {
  flat: { vision: 'vpm', connector: 'resampler', llm: 'llm', decoder: 'llm.model', head: 'llm.lm_head' },
  nested: {
    vision: 'model.vision_tower',
    connector: 'model.merger',
    llm: '',
    decoder: 'model.language_model',
    head: 'lm_head',
  },
};

/** Every linear layer of the decoder. */
const NATIVE_TARGETS =
  'model\\.language_model\\.layers\\.\\d+\\.(self_attn\\.(q_proj|k_proj|v_proj|o_proj)|' +
  'linear_attn\\.(in_proj_qkv|in_proj_z|in_proj_b|in_proj_a|out_proj)|mlp\\.(gate_proj|up_proj|down_proj))';

/** What most of the models are. */
const plain = {
  architecture: 'MiniCPMV',
  config: 'flat',
  parts: PARTS.flat,
  loraTargets: OFFICIAL_LORA_TARGETS,
  tower: 'navit',
  connector: 'resampler',
  positions: 'grid',
  buckets: 'float32',
  canvas: false,
  sliceMultiple: 1,
  frameGroups: false,
  zeroPicture: true,
  batchVision: true,
  sliceSchema: 'new',
  resamplerPosEmbed: false,
  carried: [],
} as const;

const omni = { ...plain, architecture: 'MiniCPMO', carried: ['apm.', 'tts.', 'audio_projection_layer.'] } as const;

const qwen3 = { version: 4.5, llmType: 'qwen3', llm: 'qwen3', frameGroups: true } as const;

const native = {
  ...plain,
  version: null,
  llmType: 'qwen3_5',
  llm: 'qwen3_5',
  config: 'nested',
  parts: PARTS.nested,
  loraTargets: NATIVE_TARGETS,
  connector: 'merger',
  buckets: 'exact',
  sliceMultiple: 4,
  zeroPicture: false,
  carried: ['mtp.'],
} as const;

export const VERSIONS: Readonly<Record<VersionName, Version>> = {
  'minicpm-v-2': {
    ...plain,
    title: 'MiniCPM-V-2',
    version: null,
    llmType: 'minicpm',
    llm: 'minicpm',
    tower: 'timm',
    batchVision: false,
    sliceSchema: 'old',
    resamplerPosEmbed: true,
  },
  'minicpm-llama3-v-2_5': {
    ...plain,
    title: 'MiniCPM-Llama3-V-2_5',
    version: null,
    llmType: 'llama3',
    llm: 'llama',
    positions: 'strip',
    sliceSchema: 'old',
  },
  'minicpm-v-2_6': { ...plain, title: 'MiniCPM-V-2_6', version: 2.6, llmType: 'qwen', llm: 'qwen2' },
  'minicpm-o-2_6': { ...omni, title: 'MiniCPM-o-2_6', version: 2.6, llmType: 'qwen', llm: 'qwen2' },
  'minicpm-v-4': { ...plain, title: 'MiniCPM-V-4', version: 4, llmType: 'llama', llm: 'llama' },
  'minicpm-v-4_5': { ...plain, ...qwen3, title: 'MiniCPM-V-4_5' },
  'minicpm-o-4_5': { ...omni, ...qwen3, title: 'MiniCPM-o-4_5' },
  'minicpm-v-4_6': { ...native, title: 'MiniCPM-V-4.6', architecture: 'MiniCPMV4_6ForConditionalGeneration' },
  'minicpm-v-4_7': {
    ...native,
    title: 'MiniCPM-V-4.7',
    architecture: 'MiniCPMV4_7ForConditionalGeneration',
    canvas: true,
  },
};

/** A module's name in a model: `vpm` and `resampler` mean the vision tower and the connector of every model. */
export function moduleName(name: string, { vision, connector }: PartNames): string {
  return name === PARTS.flat.vision ? vision : name === PARTS.flat.connector ? connector : name;
}

/** The reverse of `moduleName`, for the names of any model: `vpm` for its vision tower, `resampler` for its connector. */
export function flatModuleName(name: string): string {
  const { flat, nested } = PARTS;
  return name === nested.vision ? flat.vision : name === nested.connector ? flat.connector : name;
}

/** The path of the part that a name lies in, as the checkpoint has it: `vpm`, `model.vision_tower`, `llm`, `model.language_model`, …; else the name's first part. */
export function partPath(name: string): string {
  const decoder = PARTS.nested.decoder;
  return partNamed(name)?.path ?? (name.startsWith(`${decoder}.`) ? decoder : name.split('.')[0]!);
}

export type Part = 'vision' | 'connector' | 'llm';

/** Which part of a model a parameter or module belongs to, by its name in the checkpoint. */
export function partOf(name: string): Part {
  return partNamed(name)?.part ?? 'llm';
}

/** The vision tower or the connector that a name lies in, with the path at which the checkpoint has it; undefined: neither. */
export function partNamed(name: string): { readonly part: 'vision' | 'connector'; readonly path: string } | undefined {
  for (const parts of Object.values(PARTS))
    for (const part of ['vision', 'connector'] as const)
      if (name === parts[part] || name.startsWith(`${parts[part]}.`)) return { part, path: parts[part] };
  return undefined;
}

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
