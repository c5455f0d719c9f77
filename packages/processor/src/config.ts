/**
 * Reads config.json and recognises the model. Checks the file and returns camelCase numbers with every default filled
 * in. Nothing else reads the file's keys.
 *
 * Not here: what differs between the models beside sizes (versions.ts, llms.ts).
 */
import { join } from 'node:path';
import { expected, type FloatDType, type LlmType, readText, shown, UserError } from '@minicpm-finetune/run';
import { CURE, checkRawConfig, type RawConfig } from './config-schema.js';
import { LLMS } from './llms.js';
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

export interface LlmConfig {
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly numLayers: number;
  readonly numHeads: number;
  readonly numKeyValueHeads: number;
  readonly headDim: number;
  readonly vocabSize: number;
  readonly rmsNormEps: number;
  readonly maxPositionEmbeddings: number;
  readonly ropeTheta: number;
  readonly longRope: LongRope | null;
  readonly qkvBias: boolean;
  readonly outputBias: boolean;
  readonly mlpBias: boolean;
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

export interface ModelConfig {
  readonly version: VersionName;
  readonly llm: LlmConfig;
  readonly vision: VisionConfig;
  /** Tokens of one picture. */
  readonly queryNum: number;
  /** Whether pictures travel as strips of patches [3, patch, patch * patches]; else as [3, H, W]. */
  readonly batchVision: boolean;
  readonly sliceMode: boolean;
  readonly slice: { readonly maxSliceNums: number; readonly scaleResolution: number; readonly patchSize: number };
  /** Whether sliced pictures get an image id; null where the config does not say. */
  readonly useImageId: boolean | null;
  readonly initializerRange: number;
  /** The type the checkpoint's weights were published in. */
  readonly dtype: FloatDType;
  /** The file's text, kept so that saved checkpoints carry what is not understood here. */
  readonly text: string;
  readonly file: string;
}

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
  return parseConfig(text, file);
}

/** The same from text; `file` is for messages. */
export function parseConfig(text: string, file: string): ModelConfig {
  const raw = checkRawConfig(text, file);
  const version = versionOf(raw, file);
  const { tower, batchVision, resamplerPosEmbed } = VERSIONS[version];
  if (resamplerPosEmbed && !Number.isInteger(Math.sqrt(raw.query_num)))
    throw expected('a square number', "'query_num'", raw.query_num, { file, cure: CURE });
  const vision = tower === 'navit' ? navitConfig(raw) : timmConfig(raw, file);
  const slicePatchSize = raw.slice_config?.patch_size ?? raw.patch_size;
  checkVision(vision, slicePatchSize, file);
  return {
    version,
    llm: llmConfig(raw, version, file),
    vision,
    queryNum: raw.query_num,
    batchVision: batchVision && (raw.batch_vision_input ?? true),
    sliceMode: raw.slice_mode,
    slice: {
      maxSliceNums: raw.slice_config?.max_slice_nums ?? raw.max_slice_nums ?? 9,
      scaleResolution: raw.slice_config?.scale_resolution ?? raw.scale_resolution ?? raw.image_size,
      patchSize: slicePatchSize,
    },
    useImageId: raw.use_image_id ?? null,
    initializerRange: raw.initializer_range,
    dtype: raw.torch_dtype ?? raw.dtype ?? 'float32',
    text,
    file,
  };
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

function versionOf(raw: RawConfig, file: string): VersionName {
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

function llmConfig(raw: RawConfig, version: VersionName, file: string): LlmConfig {
  const { qkvBias, scalings, defaults } = LLMS[VERSIONS[version].llm];
  const heads = raw.num_attention_heads;
  const keyValueHeads = raw.num_key_value_heads ?? heads;
  const headDim = raw.head_dim ?? raw.hidden_size / heads;
  if (!Number.isInteger(headDim) || headDim % 2 !== 0)
    throw expected('an even number per head', "'hidden_size' / 'num_attention_heads'", headDim, { file, cure: CURE });
  if (heads % keyValueHeads !== 0)
    throw expected(`a divisor of ${heads} heads`, "'num_key_value_heads'", keyValueHeads, { file, cure: CURE });
  if (raw.hidden_size < 128)
    throw expected('at least 128 (one resampler head)', "'hidden_size'", raw.hidden_size, { file, cure: CURE });
  return {
    hiddenSize: raw.hidden_size,
    intermediateSize: raw.intermediate_size,
    numLayers: raw.num_hidden_layers,
    numHeads: heads,
    numKeyValueHeads: keyValueHeads,
    headDim,
    vocabSize: raw.vocab_size,
    rmsNormEps: raw.rms_norm_eps ?? defaults.rmsNormEps,
    maxPositionEmbeddings: raw.max_position_embeddings,
    ropeTheta: raw.rope_theta ?? raw.rope_parameters?.rope_theta ?? defaults.ropeTheta,
    longRope: longRope(raw, headDim, file),
    qkvBias: qkvBias || raw.attention_bias,
    outputBias: !qkvBias && raw.attention_bias,
    mlpBias: raw.mlp_bias,
    tieWordEmbeddings: raw.tie_word_embeddings ?? defaults.tieWordEmbeddings,
    embeddingScale: scalings ? raw.scale_emb : 1,
    residualScale: scalings ? raw.scale_depth / Math.sqrt(raw.num_hidden_layers) : 1,
    logitDivisor: scalings ? raw.hidden_size / (raw.dim_model_base ?? raw.hidden_size) : 1,
  };
}

function longRope(raw: RawConfig, headDim: number, file: string): LongRope | null {
  const key = raw.rope_scaling == null ? 'rope_parameters' : 'rope_scaling';
  const rope = raw[key];
  const type = rope?.rope_type ?? rope?.type ?? 'default';
  if (rope == null || type === 'default') return null;
  if (type !== 'longrope') throw expected('"default" or "longrope"', `'${key}.rope_type'`, type, { file, cure: CURE });
  const list = (name: 'short_factor' | 'long_factor'): readonly number[] => {
    const values = rope[name];
    if (values?.length === headDim / 2) return values;
    throw expected(`${headDim / 2} numbers`, `'${key}.${name}'`, values?.length, { file, cure: CURE });
  };
  const original = rope.original_max_position_embeddings ?? raw.max_position_embeddings;
  const ratio = raw.max_position_embeddings / original;
  return {
    shortFactor: list('short_factor'),
    longFactor: list('long_factor'),
    originalMaxPositions: original,
    attentionFactor: rope.attention_factor ?? (ratio <= 1 ? 1 : Math.sqrt(1 + Math.log(ratio) / Math.log(original))),
  };
}

function navitConfig(raw: RawConfig): VisionConfig {
  const vision = raw.vision_config!;
  return {
    hiddenSize: vision.hidden_size,
    intermediateSize: vision.intermediate_size,
    numLayers: vision.num_hidden_layers - (raw.drop_vision_last_layer ? 1 : 0),
    numHeads: vision.num_attention_heads,
    patchSize: vision.patch_size,
    positionSide: Math.floor(vision.image_size / vision.patch_size),
    layerNormEps: vision.layer_norm_eps,
    batchSize: raw.vision_batch_size,
  };
}

/** Sizes that cannot be checked by the shapes of weights, or only indirectly. */
function checkVision(vision: VisionConfig, slicePatchSize: number, file: string): void {
  const { hiddenSize, numHeads, numLayers, patchSize, positionSide } = vision;
  const fail = (what: string, where: string, received: number): never => {
    throw expected(what, `${where} of the vision tower`, received, { file, cure: CURE });
  };
  if (hiddenSize % numHeads !== 0) fail(`a divisor of ${hiddenSize}`, 'the number of attention heads', numHeads);
  if (numLayers < 1) fail('at least 1 (beside the dropped one)', 'the number of layers', numLayers);
  if (positionSide < 1) fail(`an image size of at least ${patchSize}`, 'the positions', positionSide);
  if (slicePatchSize !== patchSize) fail(`${slicePatchSize}, the patch size of slices`, 'the patch size', patchSize);
}

const TIMM_MODEL = 'vit_so400m_patch14_siglip_384';

function timmConfig(raw: RawConfig, file: string): VisionConfig {
  if (!raw.vision_encoder!.startsWith(TIMM_MODEL))
    throw expected(`"${TIMM_MODEL}"`, "'vision_encoder'", raw.vision_encoder, { file, cure: CURE });
  const args = raw.vision_encoder_args;
  return {
    hiddenSize: args.embed_dim,
    intermediateSize: Math.floor(args.embed_dim * args.mlp_ratio),
    numLayers: args.depth - (raw.drop_vision_last_layer ? 1 : 0),
    numHeads: args.num_heads,
    patchSize: args.patch_size,
    positionSide: Math.floor(args.img_size / args.patch_size),
    layerNormEps: 1e-6,
    batchSize: raw.vision_batch_size,
  };
}
