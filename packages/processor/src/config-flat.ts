/** Sizes from the config.json of models up to 4.5. Its outermost level is the language model's. */
import { expected } from '@minicpm-finetune/run';
import { CURE, type NestedConfig, type RawConfig } from './config-schema.js';
import { LLMS, type LlmKind } from './llms.js';
import type { LlmConfig, LongRope, ModelParts, VisionConfig } from './model-config.js';
import { VERSIONS, type VersionName } from './versions.js';

/** @throws UserError naming file and key */
export function flatParts(raw: RawConfig, version: VersionName, file: string): ModelParts {
  const { tower, batchVision, resamplerPosEmbed, llm } = VERSIONS[version];
  if (resamplerPosEmbed && !Number.isInteger(Math.sqrt(raw.query_num)))
    throw expected('a square number', "'query_num'", raw.query_num, { file, cure: CURE });
  const vision = tower === 'navit' ? navitConfig(raw) : timmConfig(raw, file);
  const slicePatchSize = raw.slice_config?.patch_size ?? raw.patch_size;
  checkVision(vision, slicePatchSize, file);
  if (raw.hidden_size < 128)
    throw expected('at least 128 (one resampler head)', "'hidden_size'", raw.hidden_size, { file, cure: CURE });
  return {
    llm: scaledLlm(raw, llm, file),
    vision,
    pictureTokens: { queryNum: raw.query_num },
    merger: null,
    canvas: null,
    batchVision: batchVision && (raw.batch_vision_input ?? true),
    sliceMode: raw.slice_mode,
    slice: {
      maxSliceNums: raw.slice_config?.max_slice_nums ?? raw.max_slice_nums ?? 9,
      scaleResolution: raw.slice_config?.scale_resolution ?? raw.scale_resolution ?? raw.image_size,
      patchSize: slicePatchSize,
      multiple: slicePatchSize,
    },
    useImageId: raw.use_image_id ?? null,
    initializerRange: raw.initializer_range,
    dtype: raw.torch_dtype ?? raw.dtype ?? 'float32',
  };
}

function scaledLlm(raw: RawConfig, kind: LlmKind, file: string): LlmConfig {
  const { scalings, defaults } = LLMS[kind];
  return {
    ...llmConfig(raw, kind, { file, path: '' }),
    tieWordEmbeddings: raw.tie_word_embeddings ?? defaults.tieWordEmbeddings,
    embeddingScale: scalings ? raw.scale_emb : 1,
    residualScale: scalings ? raw.scale_depth / Math.sqrt(raw.num_hidden_layers) : 1,
    logitDivisor: scalings ? raw.hidden_size / (raw.dim_model_base ?? raw.hidden_size) : 1,
  };
}

/** What stands in a config.json before a key of its language model, and the file. */
export interface Place {
  readonly file: string;
  readonly path: '' | 'text_config.';
}

/** A decoder of full attention without scalings. @throws UserError naming file and key */
export function llmConfig(raw: RawConfig | NestedConfig['text_config'], kind: LlmKind, place: Place): LlmConfig {
  const { qkvBias, qkNorm, normOffset, outputGate, defaults } = LLMS[kind];
  const { file, path } = place;
  const heads = raw.num_attention_heads;
  const keyValueHeads = raw.num_key_value_heads ?? heads;
  const headDim = raw.head_dim ?? defaults.headDim ?? raw.hidden_size / heads;
  if (!Number.isInteger(headDim) || headDim % 2 !== 0)
    throw expected('an even number per head', `'${path}hidden_size' / 'num_attention_heads'`, headDim, {
      file,
      cure: CURE,
    });
  if (heads % keyValueHeads !== 0)
    throw expected(`a divisor of ${heads} heads`, `'${path}num_key_value_heads'`, keyValueHeads, { file, cure: CURE });
  return {
    hiddenSize: raw.hidden_size,
    intermediateSize: raw.intermediate_size,
    numLayers: raw.num_hidden_layers,
    numHeads: heads,
    numKeyValueHeads: keyValueHeads,
    headDim,
    vocabSize: raw.vocab_size,
    rmsNormEps: raw.rms_norm_eps ?? defaults.rmsNormEps,
    normOffset,
    maxPositionEmbeddings: raw.max_position_embeddings,
    ropeTheta: raw.rope_theta ?? raw.rope_parameters?.rope_theta ?? defaults.ropeTheta,
    rotaryDim: rotaryDim(raw, headDim, place),
    mropeSection: null,
    longRope: longRope(raw, headDim, place),
    qkvBias: qkvBias || raw.attention_bias,
    outputBias: !qkvBias && raw.attention_bias,
    qkNorm,
    outputGate,
    mlpBias: raw.mlp_bias,
    linearAttention: null,
    linearLayers: new Set(),
    tieWordEmbeddings: raw.tie_word_embeddings ?? defaults.tieWordEmbeddings,
    embeddingScale: 1,
    residualScale: 1,
    logitDivisor: 1,
  };
}

type Ropes = Pick<RawConfig, 'rope_scaling' | 'rope_parameters' | 'max_position_embeddings'>;

/** Dimensions of a head that are rotated. */
function rotaryDim({ rope_parameters }: Ropes, headDim: number, { file, path }: Place): number {
  const factor = rope_parameters?.partial_rotary_factor ?? 1;
  const dim = Math.trunc(headDim * factor);
  if (dim >= 2 && dim % 2 === 0) return dim;
  throw expected('an even number of rotated dimensions', `'${path}rope_parameters.partial_rotary_factor'`, factor, {
    file,
    cure: CURE,
  });
}

function longRope(raw: Ropes, headDim: number, { file, path }: Place): LongRope | null {
  const name = raw.rope_scaling == null ? 'rope_parameters' : 'rope_scaling';
  const key = path + name;
  const rope = raw[name];
  const type = rope?.rope_type ?? rope?.type ?? 'default';
  if (rope == null || type === 'default') return null;
  if (type !== 'longrope') throw expected('"default" or "longrope"', `'${key}.rope_type'`, type, { file, cure: CURE });
  const list = (part: 'short_factor' | 'long_factor'): readonly number[] => {
    const values = rope[part];
    if (values?.length === headDim / 2) return values;
    throw expected(`${headDim / 2} numbers`, `'${key}.${part}'`, values?.length, { file, cure: CURE });
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

/** A SigLIP tower, in both layouts of config.json. */
export function navitConfig(
  raw: Pick<RawConfig | NestedConfig, 'vision_config' | 'drop_vision_last_layer' | 'vision_batch_size'>,
): VisionConfig {
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
export function checkVision(vision: VisionConfig, slicePatchSize: number, file: string): void {
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
