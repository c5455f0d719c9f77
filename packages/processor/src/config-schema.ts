/**
 * The keys of config.json that are read, and their defaults. Types and defaults are those of the official configuration
 * classes. Keys not listed are left alone. What the keys mean is config.ts' business.
 */
import { expected, parseJson, shown, UserError } from '@minicpm-finetune/run';
import { z } from 'zod';
import type { RecordEncoding } from './model-config.js';
import type { VideoSettings } from './video-config.js';

const size = z.int('a positive whole number').positive('a positive whole number');
/** More than any model has; keeps a typing mistake from building layers until memory ends. */
const layers = size.max(1000, 'at most 1000');
const positive = z.number('a positive number').positive('a positive number');
const flag = z.boolean('true or false');
const factors = z.array(positive, 'a list of positive numbers');

const noDropout = z.literal(0, '0 (dropout is not supported)').default(0);
const dtype = z.enum(['float32', 'float16', 'bfloat16'], 'float32, float16 or bfloat16').optional();

const visionFields = {
  hidden_size: size,
  intermediate_size: size,
  num_hidden_layers: layers,
  num_attention_heads: size,
  patch_size: size,
  image_size: size,
  layer_norm_eps: positive.default(1e-6),
  hidden_act: z.literal('gelu_pytorch_tanh', '"gelu_pytorch_tanh"').default('gelu_pytorch_tanh'),
  attention_dropout: noDropout,
};

const visionConfigSchema = z.looseObject(visionFields, 'an object');

/** The timm model of MiniCPM-V-2; sizes of the published one unless the config gives others. */
const visionEncoderArgsSchema = z.looseObject(
  {
    embed_dim: size.default(1152),
    depth: layers.default(27),
    num_heads: size.default(16),
    mlp_ratio: positive.default(3.7362),
    img_size: size.default(384),
    patch_size: size.default(14),
  },
  'an object',
);

const ropeScalingSchema = z.looseObject(
  {
    rope_type: z.string().optional(),
    type: z.string().optional(),
    rope_theta: positive.optional(),
    short_factor: factors.optional(),
    long_factor: factors.optional(),
    original_max_position_embeddings: size.optional(),
    attention_factor: positive.nullish(),
    partial_rotary_factor: positive.max(1, 'at most 1').default(1),
    mrope_section: z.tuple([size, size, size], 'three positive whole numbers').optional(),
    mrope_interleaved: z.literal(true, 'true (other layouts are not supported)').default(true),
  },
  'an object',
);

const llmFields = {
  hidden_size: size,
  intermediate_size: size,
  num_hidden_layers: layers,
  num_attention_heads: size,
  num_key_value_heads: size.nullish(),
  head_dim: size.nullish(),
  vocab_size: size,
  max_position_embeddings: size,
  rms_norm_eps: positive.optional(),
  rope_theta: positive.optional(),
  rope_scaling: ropeScalingSchema.nullish(),
  rope_parameters: ropeScalingSchema.nullish(),
  attention_bias: flag.default(false),
  mlp_bias: flag.default(false),
  attention_dropout: noDropout,
  use_sliding_window: z.literal(false, 'false (sliding windows are not supported)').default(false),
  hidden_act: z.literal('silu', '"silu"').default('silu'),
  tie_word_embeddings: flag.optional(),
  initializer_range: positive.default(0.02),
};

const configSchema = z.looseObject(
  {
    ...llmFields,
    scale_emb: positive.default(1),
    scale_depth: positive.default(1),
    dim_model_base: positive.optional(),
    torch_dtype: dtype,
    dtype,
    query_num: size,
    image_size: size.default(448),
    patch_size: size.default(14),
    drop_vision_last_layer: flag,
    batch_vision_input: flag.optional(),
    vision_batch_size: size.default(16),
    slice_mode: flag.default(true),
    slice_config: z
      .looseObject({ max_slice_nums: size.optional(), scale_resolution: size.optional(), patch_size: size.optional() })
      .nullish(),
    max_slice_nums: size.optional(),
    scale_resolution: size.optional(),
    use_image_id: flag.optional(),
    vision_config: visionConfigSchema.nullish(),
    vision_encoder: z.string('the name of a timm model').nullish(),
    vision_encoder_args: visionEncoderArgsSchema.default(visionEncoderArgsSchema.parse({})),
    init_vision: z.literal(true, 'true (models without vision are not supported)').default(true),
  },
  'an object',
);

/** A config.json whose outermost level is the language model's configuration. */
export type RawConfig = z.infer<typeof configSchema>;

const kernel = z.tuple([z.literal(2), z.literal(2)], '[2, 2] (other kernels are not supported)').default([2, 2]);
const tokenId = z.int('a token id').nonnegative('a token id').nullish();

const textConfigSchema = z.looseObject(
  {
    ...llmFields,
    model_type: z.literal('qwen3_5_text', '"qwen3_5_text" (mixtures of experts are not supported)'),
    attn_output_gate: z.literal(true, 'true').default(true),
    full_attention_interval: size.default(4),
    layer_types: z
      .array(z.enum(['full_attention', 'linear_attention'], '"full_attention" or "linear_attention"'))
      .optional(),
    linear_conv_kernel_dim: size.default(4),
    linear_key_head_dim: size.default(128),
    linear_value_head_dim: size.default(128),
    linear_num_key_heads: size.default(16),
    linear_num_value_heads: size.default(32),
  },
  'an object',
);

const nestedSchema = z.looseObject(
  {
    text_config: textConfigSchema,
    vision_config: z.looseObject({ ...visionFields, window_kernel_size: kernel }, 'an object'),
    image_size: size.default(448),
    insert_layer_id: z.int('a whole number').nonnegative('a whole number').default(6),
    merge_kernel_size: kernel,
    merger_times: z.literal(1, '1 (merging more often is not supported)').default(1),
    drop_vision_last_layer: flag.default(false),
    tie_word_embeddings: flag.default(false),
    downsample_mode: z.enum(['4x', '16x'], '"4x" or "16x"').optional(),
    image_token_id: tokenId,
    video_token_id: tokenId,
    image_start_id: tokenId,
    image_end_id: tokenId,
    slice_start_id: tokenId,
    slice_end_id: tokenId,
    newline_id: tokenId,
    vision_batch_size: size.default(16),
    slice_mode: flag.optional(),
    max_slice_nums: size.optional(),
    scale_resolution: size.optional(),
    use_image_id: flag.optional(),
    torch_dtype: dtype,
    dtype,
  },
  'an object',
);

/** A config.json with a `text_config` inside. */
export type NestedConfig = z.infer<typeof nestedSchema>;

const preprocessorSchema = z.looseObject(
  {
    scale_resolution: size.optional(),
    patch_size: size.optional(),
    max_slice_nums: size.optional(),
    slice_mode: flag.optional(),
    use_image_id: flag.optional(),
    downsample_mode: z.enum(['4x', '16x'], '"4x" or "16x"').optional(),
  },
  'an object',
);

/** What is read of preprocessor_config.json. */
export type RawPreprocessor = z.infer<typeof preprocessorSchema>;

/** The key that this program writes into the config.json of what it trains; see `withVideo`. */
const videoSamplingSchema = z.looseObject({
  video_sampling: z
    .object(
      {
        fps: positive.optional(),
        max_frames: size.optional(),
        max_packing: size.optional(),
        max_slice_nums: size.optional(),
      },
      'an object',
    )
    .nullish(),
});

/** The same of `withEncoding`. */
const encodingSchema = z.looseObject({
  record_encoding: z
    .object(
      {
        compat: z.enum(['inference', 'official'], '"inference" or "official"').optional(),
        thinking: z
          .enum(['inference', 'every_turn', 'as_written'], '"inference", "every_turn" or "as_written"')
          .optional(),
      },
      'an object',
    )
    .nullish(),
});

const marksSchema = z.looseObject(
  {
    architectures: z.array(z.string('a name'), 'a list of names').optional(),
    version: z.coerce.number('a number').optional(),
  },
  'an object',
);

export const CURE = 'Use the config.json of the model repository; it belongs beside the weights.';

/** Parses the text of a config.json. Throws a UserError for what is no JSON, and for quantized weights. */
export function parseRaw(text: string, file: string): unknown {
  const json = parseJson(text, { what: "the model's config.json", file, cure: CURE });
  refuseQuantized(json, file);
  return json;
}

/** The keys that tell the model. */
export const checkMarks = (json: unknown, file: string): z.infer<typeof marksSchema> =>
  checked(marksSchema, json, file);

/** Checks a config.json. Throws a UserError naming file, key and received value; so do those below. */
export const checkRawConfig = (json: unknown, file: string): RawConfig => checked(configSchema, json, file);

export const checkNestedConfig = (json: unknown, file: string): NestedConfig => checked(nestedSchema, json, file);

/** How videos were read in the training of the checkpoint; empty: as published. */
export const checkVideoSampling = (json: unknown, file: string): { [K in keyof VideoSettings]?: number | undefined } =>
  checked(videoSamplingSchema, json, file).video_sampling ?? {};

/** How records were encoded in the training of the checkpoint. */
export function checkEncoding(json: unknown, file: string): RecordEncoding {
  const { compat = 'inference', thinking = 'inference' } = checked(encodingSchema, json, file).record_encoding ?? {};
  return { compat, thinking };
}

/** The same of preprocessor_config.json. */
export function checkPreprocessor(text: string, file: string): RawPreprocessor {
  const json = parseJson(text, { what: "the model's preprocessor_config.json", file, cure: CURE });
  return checked(preprocessorSchema, json, file);
}

function checked<T>(schema: z.ZodType<T>, json: unknown, file: string): T {
  const result = schema.safeParse(json);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const received = issue.path.reduce<unknown>((value, key) => (value as Record<PropertyKey, unknown>)?.[key], json);
  throw expected(issue.message, `'${issue.path.join('.') || 'the file'}'`, received, { file, cure: CURE });
}

/** Refuses a checkpoint whose weights are stored quantized, by the name of the method. */
function refuseQuantized(json: unknown, file: string): void {
  const config = (json as { quantization_config?: unknown } | null)?.quantization_config;
  if (typeof config !== 'object' || config === null || Object.keys(config).length === 0) return;
  const method = methodOf(config as Record<string, unknown>);
  if (method === undefined) return;
  throw new UserError(
    `Expected unquantized weights for the model but received a checkpoint in ${method} (quantization_config).`,
    {
      file,
      cure: 'Start from the unquantized model; --q_lora keeps it in 4 bits.',
    },
  );
}

const METHODS: Readonly<Record<string, string>> = { gptq: 'GPTQ', awq: 'AWQ', bitsandbytes: 'bitsandbytes' };

/** `int4 of bitsandbytes`; undefined: the configuration quantizes nothing. */
function methodOf(config: Record<string, unknown>): string | undefined {
  const on = (key: string): boolean => config[key] === true || config[`_${key}`] === true;
  const given = typeof config.quant_method === 'string' ? config.quant_method.toLowerCase() : undefined;
  const loads = on('load_in_4bit') ? 4 : on('load_in_8bit') ? 8 : undefined;
  if (given === 'bitsandbytes' && loads === undefined) return undefined;
  const bits = loads ?? config.bits ?? config.w_bit;
  const method = given ?? (loads === undefined ? 'an unknown method' : 'bitsandbytes');
  const name = Object.hasOwn(METHODS, method) ? METHODS[method] : given === undefined ? method : shown(given);
  return typeof bits === 'number' ? `int${bits} of ${name}` : `the quantization of ${name}`;
}
