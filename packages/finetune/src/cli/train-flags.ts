/**
 * The flags of `minicpm-finetune train` that have a place in the resolved configuration: exactly the keys of RunConfig,
 * group by group (the compiler insists on it). Names and defaults are those of transformers' TrainingArguments, PEFT and
 * the official MiniCPM-V `finetune.py`; where a default is ours, the help says so or there is no official one.
 *
 * Flags without a place there are in `official-flags.ts` (known, but meaningless here) and `input-flags.ts`.
 */

import type { ConfigGroup, RunConfig } from '@minicpm-finetune/run';
import { SCHEDULES } from '../schedule.js';
import type { FlagSpec } from './flags.js';

type ConfigFlags = { [G in ConfigGroup]: { [K in keyof RunConfig[G]]: FlagSpec<RunConfig[G][K]> } };

const INTERVALS = ['no', 'steps', 'epoch'] as const;

export const OFFICIAL_LORA_TARGETS = 'llm\\..*layers\\.\\d+\\.self_attn\\.(q_proj|k_proj|v_proj|o_proj)';

export const CONFIG_FLAGS: ConfigFlags = {
  model: {
    model_name_or_path: {
      kind: 'string',
      required: true,
      placeholder: 'dir|hub-id',
      help: 'Checkpoint to start from.',
    },
    llm_type: {
      kind: 'choice',
      choices: ['minicpm', 'llama3', 'qwen', 'llama'],
      default: null,
      help: 'Chat format; recognised from the checkpoint, and checked against it if given.',
    },
    cache_dir: { kind: 'string', default: null, placeholder: 'dir', help: 'Where downloaded checkpoints are kept.' },
    max_slice_nums: { kind: 'integer', min: 1, default: 9, help: 'Most slices a picture is cut into.' },
    scale_resolution: {
      kind: 'integer',
      min: 14,
      default: null,
      help: "Side in pixels a slice aims at; the checkpoint's unless given.",
    },
    vision_batch_size: {
      kind: 'integer',
      min: 1,
      default: null,
      help: "Most slices in the vision tower at once; the checkpoint's unless given.",
    },
  },
  data: {
    data_path: {
      kind: 'strings',
      required: true,
      placeholder: 'file...',
      help: 'Training data (JSON, JSON Lines, parquet).',
    },
    data_weights: {
      kind: 'numbers',
      above: 0,
      default: null,
      help: 'Mixing weight of each training file; without weights every record is used once an epoch.',
    },
    eval_data_path: { kind: 'strings', default: [], placeholder: 'file...', help: 'Evaluation data.' },
    model_max_length: { kind: 'integer', min: 16, default: 2048, help: 'Longest sequence in tokens.' },
    overlong: {
      kind: 'choice',
      choices: ['fewer_slices', 'truncate_text', 'drop', 'error'],
      default: 'fewer_slices',
      help: 'What happens to a longer one. A picture is never cut in two; fewer_slices falls back to truncate_text.',
    },
    compat: {
      kind: 'choice',
      choices: ['inference', 'official'],
      default: 'inference',
      help: 'Train on what inference will see, or on what the official dataset code makes of a record.',
    },
    on_bad_record: {
      kind: 'choice',
      choices: ['stop', 'skip'],
      default: 'stop',
      help: 'Stop at a bad record, or count, report and skip it.',
    },
    max_bad_fraction: {
      kind: 'number',
      min: 0,
      max: 1,
      default: 0.01,
      help: 'With skip: the share of bad records that stops the run.',
    },
    allow_special_text: {
      kind: 'boolean',
      default: false,
      help: 'Encode special tokens typed in a text as plain text.',
    },
    max_image_pixels: { kind: 'integer', min: 1, default: 100_000_000, help: 'Largest picture accepted, in pixels.' },
  },
  output: {
    output_dir: {
      kind: 'string',
      required: true,
      placeholder: 'dir',
      help: 'The run folder: checkpoints, events, results.',
    },
    overwrite_output_dir: { kind: 'boolean', default: false, help: 'Remove an earlier run in the run folder.' },
    run_name: { kind: 'string', default: null, help: 'Name shown in logs.' },
  },
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
      derived: 'embed_tokens resampler, and vpm with --tune_vision',
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
    per_device_train_batch_size: { kind: 'integer', min: 1, default: 8, help: 'Records per device and micro-batch.' },
    per_device_eval_batch_size: { kind: 'integer', min: 1, default: 8, help: 'The same in evaluation.' },
    gradient_accumulation_steps: { kind: 'integer', min: 1, default: 1, help: 'Micro-batches per optimizer step.' },
    group_by_length: { kind: 'boolean', default: false, help: 'Batch records of similar length: less padding.' },
    dataloader_drop_last: { kind: 'boolean', default: false, help: 'Leave out the last, smaller batch of an epoch.' },
  },
  engine: {
    device: {
      kind: 'choice',
      choices: ['auto', 'cpu', 'cuda', 'mps'],
      default: 'auto',
      help: 'Where to compute; auto: the best there is.',
    },
    threads: {
      kind: 'integer',
      min: 1,
      default: null,
      help: 'Threads of libtorch; one per physical core unless given.',
    },
    gradient_checkpointing: {
      kind: 'boolean',
      default: false,
      help: 'Recompute in the backward pass: slower, far less memory.',
    },
    memory_budget: {
      kind: 'bytes',
      default: null,
      placeholder: 'bytes',
      help: 'Refuse to start if the run needs more, such as 12GB.',
    },
  },
  eval: {
    do_eval: { kind: 'boolean', derived: 'true with --eval_strategy', help: 'Evaluate after the last step.' },
    eval_strategy: { kind: 'choice', choices: INTERVALS, default: 'no', help: 'When to evaluate during training.' },
    eval_steps: {
      kind: 'number',
      above: 0,
      derived: 'logging_steps',
      nullable: true,
      help: 'Steps between evaluations; below 1: share of all steps.',
    },
    eval_on_start: { kind: 'boolean', default: false, help: 'Evaluate before the first step.' },
    eval_generate: { kind: 'integer', min: 0, default: 0, help: 'Records that are answered at each evaluation.' },
    metric_for_best_model: {
      kind: 'string',
      derived: 'loss with --load_best_model_at_end',
      nullable: true,
      help: 'Metric that decides which checkpoint is best.',
    },
    greater_is_better: {
      kind: 'boolean',
      derived: 'unless the metric ends in "loss"',
      help: 'Whether more of it is better.',
    },
    load_best_model_at_end: {
      kind: 'boolean',
      default: false,
      help: 'End with the best checkpoint instead of the last.',
    },
  },
  save: {
    save_strategy: { kind: 'choice', choices: INTERVALS, default: 'steps', help: 'When to write checkpoints.' },
    save_steps: {
      kind: 'number',
      above: 0,
      default: 500,
      help: 'Steps between checkpoints; below 1: share of all steps.',
    },
    save_total_limit: {
      kind: 'integer',
      min: 1,
      default: null,
      help: 'Checkpoints kept; older ones go after a new one is complete.',
    },
    save_only_model: {
      kind: 'boolean',
      default: false,
      help: 'Checkpoints without optimizer: smaller, not resumable.',
    },
    save_on_stop: { kind: 'boolean', default: true, help: 'Save when stopped by Ctrl-C, a signal or a STOP file.' },
    resume_from_checkpoint: {
      kind: 'string',
      default: null,
      bare: 'latest',
      placeholder: 'dir|latest',
      help: 'Continue a run.',
    },
    resume_anyway: { kind: 'boolean', default: false, help: 'Continue although data or configuration changed.' },
  },
  logging: {
    logging_dir: {
      kind: 'string',
      default: null,
      placeholder: 'dir',
      help: 'TensorBoard files; logs in the run folder unless given.',
    },
    logging_strategy: { kind: 'choice', choices: INTERVALS, default: 'steps', help: 'When to log.' },
    logging_steps: {
      kind: 'number',
      above: 0,
      default: 10,
      help: 'Steps between log lines (transformers: 500); below 1: share.',
    },
    logging_first_step: { kind: 'boolean', default: false, help: 'Log the first step, too.' },
    report_to: {
      kind: 'strings',
      default: [],
      placeholder: 'tensorboard|none',
      help: 'Where to log beside events.jsonl.',
    },
    progress: {
      kind: 'choice',
      choices: ['auto', 'plain', 'quiet', 'json'],
      default: 'auto',
      help: 'Live line on a terminal and plain lines elsewhere, always plain lines, nothing, or JSON lines.',
    },
  },
  loader: {
    dataloader_num_workers: {
      kind: 'integer',
      min: 0,
      default: null,
      help: 'Threads that encode records; sized to the machine unless given.',
    },
    dataloader_prefetch_factor: { kind: 'integer', min: 1, default: null, help: 'Batches made ahead per thread.' },
  },
  seeds: {
    seed: { kind: 'integer', min: 0, default: 42, help: 'Seed of initialisation, dropout and noise.' },
    data_seed: { kind: 'integer', min: 0, derived: 'seed', help: 'Seed of the order of records.' },
  },
};
