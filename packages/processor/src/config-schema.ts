/**
 * The keys of config.json that are read, and their defaults. Types and defaults are those of the official configuration
 * classes. Keys not listed are left alone. What the keys mean is config.ts' business.
 */
import { expected, parseJson, shown, UserError } from '@minicpm-finetune/run';
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
  const json = parseJson(text, { what: "the model's config.json", file, cure: CURE });
  refuseQuantized(json, file);
  const result = configSchema.safeParse(json);
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
