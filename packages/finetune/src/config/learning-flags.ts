/**
 * The flags of `minicpm-finetune train` that decide what is learned: trained parts, LoRA, optimizer, schedule, precision
 * and batches. The others, and what all of them have in common, are in `train-flags.ts`.
 */

import type { RunConfig } from '@minicpm-finetune/run';
import { SCHEDULES } from '@minicpm-finetune/run';
import type { GroupFlags } from './flags.js';

export const OFFICIAL_LORA_TARGETS = 'llm\\..*layers\\.\\d+\\.self_attn\\.(q_proj|k_proj|v_proj|o_proj)';

type LearningGroup = 'trainables' | 'lora' | 'optimizer' | 'schedule' | 'precision' | 'batch';

export const LEARNING_FLAGS: { [G in LearningGroup]: GroupFlags<RunConfig[G]> } = {
  trainables: {
    tune_vision: { kind: 'boolean', default: true, help: 'Train the vision tower. The resampler always trains.' },
    tune_llm: { kind: 'boolean', derived: 'true without --use_lora', help: "Train the language model's own weights." },
  },
  lora: {
    use_lora: { kind: 'boolean', default: false, help: 'Train low-rank adapters instead of the language model.' },
    lora_r: { kind: 'integer', min: 1, default: 64, help: 'Rank.' },
    lora_alpha: { kind: 'number', above: 0, default: 64, help: 'Adapters are scaled by alpha / r.' },
    lora_dropout: { kind: 'number', min: 0, max: 0.999, default: 0.05, help: 'Dropout before the adapter.' },
    lora_target_modules: {
      kind: 'modules',
      default: OFFICIAL_LORA_TARGETS,
      placeholder: 'regex|name...',
      help: 'Linear layers that get adapters: one regular expression over full names, or name endings.',
    },
    lora_bias: { kind: 'choice', choices: ['none', 'all', 'lora_only'], default: 'none', help: 'Which biases train.' },
    lora_modules_to_save: {
      kind: 'strings',
      derived: 'resampler, vpm with --tune_vision, embed_tokens with --compat official',
      placeholder: 'name...',
      help: 'Modules trained and saved whole beside the adapters.',
    },
    lora_weight_path: { kind: 'string', default: null, placeholder: 'dir', help: 'Adapter to continue from.' },
    lora_layers_to_transform: { kind: 'integers', min: 0, default: null, help: 'Only these layers get adapters.' },
    use_dora: { kind: 'boolean', default: false, help: 'Weight-decomposed adapters (DoRA).' },
    use_rslora: { kind: 'boolean', default: false, help: 'Scale by alpha / sqrt(r) (rsLoRA).' },
    loraplus_lr_ratio: {
      kind: 'number',
      above: 0,
      default: null,
      help: "Learning rate of lora_B over lora_A's (LoRA+).",
    },
    q_lora: { kind: 'boolean', default: false, help: 'Keep frozen linear weights of the language model quantized.' },
    q_lora_type: { kind: 'choice', choices: ['nf4', 'int8'], default: 'nf4', help: 'How they are quantized.' },
  },
  optimizer: {
    learning_rate: { kind: 'number', min: 0, default: 5e-5, help: 'Peak learning rate.' },
    vision_learning_rate: { kind: 'number', min: 0, default: null, help: 'Peak of the vision tower, if another.' },
    resampler_learning_rate: { kind: 'number', min: 0, default: null, help: 'Peak of the resampler, if another.' },
    embedding_learning_rate: {
      kind: 'number',
      min: 0,
      default: null,
      help: 'Peak of the token embeddings, if another.',
    },
    weight_decay: { kind: 'number', min: 0, default: 0, help: 'Decoupled weight decay; norms and biases have none.' },
    adam_beta1: { kind: 'number', min: 0, max: 0.999999, default: 0.9, help: 'Decay of the first moment.' },
    adam_beta2: { kind: 'number', min: 0, max: 0.999999, default: 0.999, help: 'Decay of the second moment.' },
    adam_epsilon: { kind: 'number', above: 0, default: 1e-8, help: 'Added to the root of the second moment.' },
    max_grad_norm: { kind: 'number', min: 0, default: 1, help: 'Global gradient norm is clipped to this; 0: never.' },
    neftune_noise_alpha: { kind: 'number', above: 0, default: null, help: 'NEFTune noise on the token embeddings.' },
  },
  schedule: {
    num_train_epochs: { kind: 'number', above: 0, default: 3, help: 'Passes over the data; may be a fraction.' },
    max_steps: {
      kind: 'integer',
      min: -1,
      default: -1,
      help: 'Optimizer steps in all, instead of epochs; -1: epochs count.',
    },
    lr_scheduler_type: {
      kind: 'choice',
      choices: Object.keys(SCHEDULES),
      default: 'linear',
      help: 'Course of the learning rate.',
    },
    lr_scheduler_kwargs: {
      kind: 'options',
      default: null,
      placeholder: 'json',
      help: `Its options, such as '{"num_cycles": 2}'.`,
    },
    warmup_steps: { kind: 'number', min: 0, default: 0, help: 'Steps of warmup; below 1: share of all steps.' },
    warmup_ratio: {
      kind: 'number',
      min: 0,
      max: 1,
      default: 0,
      help: 'Warmup as a share of all steps, if warmup_steps is 0.',
    },
  },
  precision: {
    dtype: {
      kind: 'choice',
      choices: ['float32', 'bfloat16', 'float16'],
      default: 'float32',
      help: 'Type to compute in; --bf16 and --fp16 are short for two of them.',
    },
    bf16_master_weights: {
      kind: 'boolean',
      default: true,
      help: 'With bfloat16: float32 weights and moments; false: pure bfloat16, stochastically rounded.',
    },
    fp16_loss_scale: { kind: 'number', min: 0, default: 0, help: 'With float16: fixed loss scale; 0: dynamic.' },
    fp16_initial_scale_power: {
      kind: 'integer',
      min: 0,
      max: 32,
      default: 16,
      help: 'First dynamic scale, as a power of 2.',
    },
    fp16_loss_scale_window: {
      kind: 'integer',
      min: 1,
      default: 1000,
      help: 'Steps without overflow until it doubles.',
    },
    fp16_hysteresis: { kind: 'integer', min: 1, default: 2, help: 'Overflows until it is halved.' },
    fp16_min_loss_scale: { kind: 'number', above: 0, default: 1, help: 'Smallest dynamic scale.' },
    on_nonfinite: {
      kind: 'choice',
      choices: ['stop', 'skip'],
      default: 'stop',
      help: 'On a loss or gradient that is not finite.',
    },
  },
  batch: {
    per_device_train_batch_size: {
      kind: 'integer',
      min: 1,
      default: 8,
      help: 'Records (with --packing: packed sequences) per device and micro-batch.',
    },
    per_device_eval_batch_size: { kind: 'integer', min: 1, default: 8, help: 'The same in evaluation.' },
    gradient_accumulation_steps: { kind: 'integer', min: 1, default: 1, help: 'Micro-batches per optimizer step.' },
    group_by_length: { kind: 'boolean', default: false, help: 'Batch records of similar length: less padding.' },
    packing: {
      kind: 'boolean',
      default: false,
      help: 'Pack records, as they come, into sequences of about model_max_length tokens; no record sees another.',
    },
    dataloader_drop_last: { kind: 'boolean', default: false, help: 'Leave out the last, smaller batch of an epoch.' },
  },
};
