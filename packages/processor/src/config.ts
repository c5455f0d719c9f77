/**
 * Reads config.json and recognises the model. Checks the file and returns camelCase numbers with every default filled
 * in. Nothing else reads the file's keys.
 *
 * Not here: what differs between the models beside sizes (versions.ts, llms.ts).
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { expected, type FloatDType, type LlmType, readText, shown, UserError } from '@minicpm-finetune/run';
import { flatParts } from './config-flat.js';
import { nestedParts } from './config-nested.js';
import { checkMarks, checkNestedConfig, checkRawConfig, parseRaw } from './config-schema.js';
import type { PictureTokens } from './picture-tokens.js';
import { recogniseVersion, VERSIONS, type VersionName } from './versions.js';

/** Rotary positions with two sets of divisors, for short and long sequences (LongRoPE, Ding et al., 2024). */
export interface LongRope {
  readonly shortFactor: readonly number[];
  readonly longFactor: readonly number[];
  /** The long factors apply when a sequence is longer than this. */
  readonly originalMaxPositions: number;
  /** Multiplies cosines and sines. */
  readonly attentionFactor: number;
}

/** Gated DeltaNet (Yang et al., 2025). */
export interface LinearAttentionConfig {
  readonly numKeyHeads: number;
  readonly numValueHeads: number;
  readonly keyHeadDim: number;
  readonly valueHeadDim: number;
  /** Positions that the convolution sees, its own included. */
  readonly convKernel: number;
}

export interface LlmConfig {
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly numKeyValueHeads: number;
  readonly headDim: number;
  readonly vocabSize: number;
  readonly rmsNormEps: number;
  /** What norms add to their weight. */
  readonly normOffset: 0 | 1;
  readonly maxPositionEmbeddings: number;
  readonly ropeTheta: number;
  /** Dimensions of a head that are rotated, its first ones. */
  readonly rotaryDim: number;
  /**
   * Where tokens have three positions (time, row, column): how many frequencies of each there are. They take turns: of the frequencies 0, 1, 2, …
   * the third one each belongs to the column, the second to the row, as far as those reach, and what is left to the time.
   */
  readonly mropeSection: readonly [time: number, row: number, column: number] | null;
  readonly longRope: LongRope | null;
  readonly qkvBias: boolean;
  readonly outputBias: boolean;
  /** Whether each head's queries and keys pass a norm before rotation. */
  readonly qkNorm: boolean;
  /** Whether the query projection has a gate beside each head, whose sigmoid multiplies the output of attention. */
  readonly outputGate: boolean;
  readonly mlpBias: boolean;
  /** The sizes of layers with linear attention, which are `linearLayers`; null: there is none. */
  readonly linearAttention: LinearAttentionConfig | null;
  readonly linearLayers: ReadonlySet<number>;
  readonly tieWordEmbeddings: boolean;
  /** Multiplies token embeddings. */
  readonly embeddingScale: number;
  /** Multiplies what every attention and MLP adds to the residual stream. */
  readonly residualScale: number;
  /** Divides the final hidden states before lm_head. */
  readonly logitDivisor: number;
}

export interface VisionConfig {
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  /** Number of existing layers: one less than configured where the last is dropped. */
  readonly numLayers: number;
  readonly numHeads: number;
  readonly patchSize: number;
  /** Side of the square position table, in patches. */
  readonly positionSide: number;
  readonly layerNormEps: number;
  /** Pictures of full size (448 px, 1024 patches) that go through the tower at once. */
  readonly batchSize: number;
}

/** How patches become tokens where no resampler does it. Every merging makes one of each 2x2. */
export interface MergerConfig {
  /** The layer of the tower after which patches are merged first; not in the mode of 4x. */
  readonly insertLayer: number;
  readonly downsampleMode: DownsampleMode;
}

/** Patches that become a token. */
export type DownsampleMode = '4x' | '16x';

/** Ids of the tokens by which the places of a picture and its slices on their canvas are found. */
export interface CanvasMarks {
  readonly imageStart: number;
  readonly imageEnd: number;
  readonly sliceStart: number;
  readonly sliceEnd: number;
  readonly newline: number;
}

/** A configuration without its origin. */
export interface ModelParts {
  readonly llm: LlmConfig;
  readonly vision: VisionConfig;
  readonly pictureTokens: PictureTokens;
  /** null: a resampler makes the tokens of pictures. */
  readonly merger: MergerConfig | null;
  /** null: tokens have one position each. */
  readonly canvas: CanvasMarks | null;
  /** Whether pictures travel as strips of patches [3, patch, patch * patches]; else as [3, H, W]. */
  readonly batchVision: boolean;
  readonly sliceMode: boolean;
  readonly slice: {
    readonly maxSliceNums: number;
    readonly scaleResolution: number;
    readonly patchSize: number;
    /** What the sides of pictures and slices are multiples of, in pixels. */
    readonly multiple: number;
  };
  /** Whether sliced pictures get an image id; null where the config does not say. */
  readonly useImageId: boolean | null;
  readonly initializerRange: number;
  /** The type the checkpoint's weights were published in. */
  readonly dtype: FloatDType;
}

export interface ModelConfig extends ModelParts {
  readonly version: VersionName;
  /** The file's text, kept so that saved checkpoints carry what is not understood here. */
  readonly text: string;
  readonly file: string;
}

/** The file beside config.json with the settings of Python's image processor. */
export const PREPROCESSOR_CONFIG = 'preprocessor_config.json';

/** Reads `<folder>/config.json`. Throws a UserError naming file and key. */
export function readConfig(folder: string): ModelConfig {
  const file = join(folder, 'config.json');
  let text: string;
  try {
    text = readText(file, 'config.json');
  } catch (cause) {
    if (cause instanceof UserError) throw cause;
    throw new UserError(`Expected a readable config.json for the model but received ${(cause as Error).message}.`, {
      file,
      cure: 'Give the folder that holds config.json and the safetensors files.',
      cause,
    });
  }
  const preprocessor = join(folder, PREPROCESSOR_CONFIG);
  return parseConfig(text, file, existsSync(preprocessor) ? readText(preprocessor, PREPROCESSOR_CONFIG) : undefined);
}

/** The same from text; `file` is for messages. `preprocessor`: the text of preprocessor_config.json, where a nested configuration has its slices. */
export function parseConfig(text: string, file: string, preprocessor?: string): ModelConfig {
  const json = parseRaw(text, file);
  const version = versionOf(json, file);
  const parts =
    VERSIONS[version].config === 'flat'
      ? flatParts(checkRawConfig(json, file), version, file)
      : nestedParts(checkNestedConfig(json, file), version, file, preprocessor);
  return { version, ...parts, text, file };
}

/**
 * The configuration with other slices, in its numbers and in its text, under the keys that the file has already; the rest of the text keeps its
 * content. The same slices give the same text.
 */
export function withSlice(config: ModelConfig, slice: ModelConfig['slice']): ModelConfig {
  const { maxSliceNums, scaleResolution } = slice;
  if (maxSliceNums === config.slice.maxSliceNums && scaleResolution === config.slice.scaleResolution) return config;
  const raw = JSON.parse(config.text) as Record<string, unknown> & { slice_config?: Record<string, unknown> | null };
  const values = { max_slice_nums: maxSliceNums, scale_resolution: scaleResolution };
  const inside = raw.slice_config != null;
  if (inside) raw.slice_config = { ...raw.slice_config, ...values };
  for (const [key, value] of Object.entries(values)) if (!inside || key in raw) raw[key] = value;
  return {
    ...config,
    slice: { ...config.slice, maxSliceNums, scaleResolution },
    text: `${JSON.stringify(raw, null, 2)}\n`,
  };
}

/** Checks that `--llm_type` fits the model. Throws a UserError naming the right value. */
export function checkLlmType(config: ModelConfig, llmType: string): asserts llmType is LlmType {
  const { llmType: right, title } = VERSIONS[config.version];
  if (llmType === right) return;
  throw expected(`"${right}"`, `--llm_type of ${title}`, llmType, {
    flag: '--llm_type',
    file: config.file,
    cure: `Give --llm_type ${right}, or leave the flag out: it follows from config.json.`,
  });
}

function versionOf(json: unknown, file: string): VersionName {
  const raw = checkMarks(json, file);
  const marks = {
    architecture: raw.architectures?.[0],
    version: raw.version ?? null,
    hasVisionConfig: raw.vision_config != null,
    hasVisionEncoder: raw.vision_encoder != null,
  };
  const version = recogniseVersion(marks);
  if (version !== undefined) return version;
  const known = Object.values(VERSIONS).map((v) => `${v.title} (${v.architecture}, version ${v.version ?? 'absent'})`);
  throw new UserError(
    `Expected one of ${known.join(', ')} for the model but received ${marks.architecture === undefined ? 'no architecture' : shown(marks.architecture)}, version ` +
      `${marks.version ?? 'absent'}, ${marks.hasVisionConfig ? 'with' : 'without'} vision_config, ` +
      `${marks.hasVisionEncoder ? 'with' : 'without'} vision_encoder.`,
    { file, cure: 'Use one of these models, with the config.json it was published with.' },
  );
}
