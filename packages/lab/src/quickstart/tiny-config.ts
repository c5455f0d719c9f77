/**
 * The `config.json` of the quickstart's tiny model. MiniCPM-V 2.6's architecture with small numbers, for pictures of
 * 2x2 patches.
 */

export const TINY_CONFIG = {
  architectures: ['MiniCPMV'],
  auto_map: {
    AutoConfig: 'configuration_minicpm.MiniCPMVConfig',
    AutoModel: 'modeling_minicpmv.MiniCPMV',
    AutoModelForCausalLM: 'modeling_minicpmv.MiniCPMV',
  },
  model_type: 'minicpmv',
  version: 2.6,
  attention_dropout: 0,
  batch_vision_input: true,
  bos_token_id: 818,
  drop_vision_last_layer: false,
  eos_token_id: 819,
  hidden_act: 'silu',
  hidden_size: 128,
  image_size: 448,
  initializer_range: 0.08,
  intermediate_size: 384,
  max_position_embeddings: 2048,
  num_attention_heads: 4,
  num_hidden_layers: 2,
  num_key_value_heads: 2,
  patch_size: 14,
  query_num: 4,
  rms_norm_eps: 1e-6,
  rope_theta: 1_000_000,
  slice_config: { max_slice_nums: 1, patch_size: 14, scale_resolution: 28, model_type: 'minicpmv' },
  slice_mode: true,
  tie_word_embeddings: false,
  torch_dtype: 'float32',
  use_cache: true,
  vision_config: {
    hidden_size: 128,
    image_size: 980,
    intermediate_size: 384,
    model_type: 'siglip',
    num_attention_heads: 4,
    num_hidden_layers: 3,
    patch_size: 14,
  },
  vocab_size: 840,
} as const;
