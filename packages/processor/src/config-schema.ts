/**
 * The keys of config.json that are read, and their defaults. Types and defaults are those of the official configuration
 * classes. Keys not listed are left alone. What the keys mean is config.ts' business.
 */
import { expected, UserError } from '@minicpm-finetune/run';
import { z } from 'zod';

const size = z.int('a positive whole number').positive('a positive whole number');
/** More than any model has; keeps a typing mistake from building layers until memory ends. */
const layers = size.max(1000, 'at most 1000');
const positive = z.number('a positive number').positive('a positive number');
const flag = z.boolean('true or false');
const factors = z.array(positive, 'a list of positive numbers');

const visionConfigSchema = z.looseObject(
  {
    hidden_size: size,
    intermediate_size: size,
    num_hidden_layers: layers,
    num_attention_heads: size,
    patch_size: size,
    image_size: size,
    layer_norm_eps: positive.default(1e-6),
    hidden_act: z.literal('gelu_pytorch_tanh', '"gelu_pytorch_tanh"').default('gelu_pytorch_tanh'),
    attention_dropout: z.literal(0, '0 (dropout is not supported)').default(0),
  },
  'an object',
);

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
  },
  'an object',
);

const configSchema = z.looseObject(
  {
    architectures: z.array(z.string('a name'), 'a list of names').optional(),
    version: z.coerce.number('a number').optional(),
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
    attention_dropout: z.literal(0, '0 (dropout is not supported)').default(0),
    use_sliding_window: z.literal(false, 'false (sliding windows are not supported)').default(false),
    hidden_act: z.literal('silu', '"silu"').default('silu'),
    tie_word_embeddings: flag.optional(),
    scale_emb: positive.default(1),
    scale_depth: positive.default(1),
    dim_model_base: positive.optional(),
    initializer_range: positive.default(0.02),
    torch_dtype: z.enum(['float32', 'float16', 'bfloat16'], 'float32, float16 or bfloat16').optional(),
    dtype: z.enum(['float32', 'float16', 'bfloat16'], 'float32, float16 or bfloat16').optional(),
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

export type RawConfig = z.infer<typeof configSchema>;

export const CURE = 'Use the config.json of the model repository; it belongs beside the weights.';

/** Parses and checks the text of a config.json. Throws a UserError naming file, key and received value. */
export function checkRawConfig(text: string, file: string): RawConfig {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (cause) {
    throw new UserError(`Expected JSON for the model's configuration but received ${(cause as Error).message}.`, {
      file,
      cure: CURE,
      cause,
    });
  }
  const result = configSchema.safeParse(json);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const received = issue.path.reduce<unknown>((value, key) => (value as Record<PropertyKey, unknown>)?.[key], json);
  throw expected(issue.message, `'${issue.path.join('.') || 'the file'}'`, received, { file, cure: CURE });
}
