/**
 * The quickstart's tiny models. Published architectures with small numbers, for pictures of 2x2 (2.6) and 4x4 patches
 * (4.6).
 */
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { TINY_CONFIG } from './tiny-config.js';

const CONFIG_46 = {
  architectures: ['MiniCPMV4_6ForConditionalGeneration'],
  model_type: 'minicpmv4_6',
  dtype: 'float32',
  drop_vision_last_layer: false,
  image_size: 448,
  image_token_id: 840,
  initializer_range: 0.08,
  insert_layer_id: 1,
  text_config: {
    attn_output_gate: true,
    eos_token_id: 819,
    full_attention_interval: 2,
    head_dim: 32,
    hidden_act: 'silu',
    hidden_size: 128,
    initializer_range: 0.08,
    intermediate_size: 384,
    linear_conv_kernel_dim: 4,
    linear_key_head_dim: 32,
    linear_num_key_heads: 4,
    linear_num_value_heads: 4,
    linear_value_head_dim: 32,
    max_position_embeddings: 2048,
    model_type: 'qwen3_5_text',
    num_attention_heads: 4,
    num_hidden_layers: 2,
    num_key_value_heads: 2,
    rms_norm_eps: 1e-6,
    rope_parameters: { rope_type: 'default', rope_theta: 1_000_000, partial_rotary_factor: 0.25 },
    vocab_size: 846,
  },
  tie_word_embeddings: true,
  video_token_id: 841,
  vision_config: {
    hidden_size: 128,
    image_size: 980,
    intermediate_size: 384,
    model_type: 'minicpmv4_6_vision',
    num_attention_heads: 4,
    num_hidden_layers: 3,
    patch_size: 14,
  },
} as const;

const PREPROCESSOR_46 = {
  max_slice_nums: 1,
  patch_size: 14,
  scale_resolution: 56,
  slice_mode: true,
  use_image_id: true,
};

const assets = (name: string): string => join(dirname(fileURLToPath(import.meta.url)), '..', '..', 'assets', name);

/** What the quickstart makes a model of. */
export interface TinyModel {
  /** Where everything lands, in the working folder. */
  readonly folder: string;
  readonly config: object;
  readonly preprocessor: object | null;
  /** The folder of its tokenizer. */
  readonly tokenizer: string;
  /** What joins vision tower and language model. */
  readonly connector: string;
  /** Which layers get LoRA adapters. */
  readonly loraTargets: string;
}

/** By the name that `--model` takes. */
export const TINY_MODELS: Readonly<Record<string, TinyModel>> = {
  '2.6': {
    folder: 'quickstart',
    config: TINY_CONFIG,
    preprocessor: null,
    tokenizer: assets('tokenizer'),
    connector: 'resampler',
    loraTargets: 'llm\\..*layers\\.\\d+\\.(self_attn|mlp)\\.\\w+_proj',
  },
  '4.6': {
    folder: 'quickstart-4.6',
    config: CONFIG_46,
    preprocessor: PREPROCESSOR_46,
    tokenizer: assets('tokenizer-4.6'),
    connector: 'merger',
    loraTargets: 'model\\.language_model\\.layers\\.\\d+\\.\\w+\\.\\w*proj\\w*',
  },
};
