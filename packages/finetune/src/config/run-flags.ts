/**
 * The flags of `minicpm-finetune train` that have a place in the resolved configuration: exactly the keys of RunConfig,
 * group by group (the compiler insists on it). Names and defaults are those of transformers' TrainingArguments, PEFT and
 * the official MiniCPM-V `finetune.py`; where a default is ours, the help says so or there is no official one.
 *
 * Those that decide what is learned are in `learning-flags.ts`. Flags without a place in the configuration are in
 * `official-flags.ts` (known, but meaningless here) and `input-flags.ts` (other words for these).
 */

import type { ConfigGroup, RunConfig } from '@minicpm-finetune/run';
import type { GroupFlags } from './flags.js';
import { LEARNING_FLAGS } from './learning-flags.js';

const INTERVALS = ['no', 'steps', 'epoch'] as const;

export const CONFIG_FLAGS: { [G in ConfigGroup]: GroupFlags<RunConfig[G]> } = {
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
  ...LEARNING_FLAGS,
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
    tf32: {
      kind: 'boolean',
      default: false,
      help: 'On NVIDIA GPUs, round the operands of float32 products to TF32 (10 bits of mantissa): faster.',
    },
    gradient_checkpointing: {
      kind: 'boolean',
      choices: ['auto'],
      placeholder: 'true|false|auto',
      derived: 'false, true with --fused_backward',
      help:
        'Recompute in the backward pass: slower, far less memory. auto: only what does not fit in memory_budget, as ' +
        'measured in the first steps.',
    },
    fused_backward: {
      kind: 'boolean',
      default: false,
      help:
        'Update each block in the backward pass: the gradients of the whole model never exist. max_grad_norm is ' +
        'then applied to each block by itself, and there is no accumulation.',
    },
    memory_budget: {
      kind: 'bytes',
      default: null,
      placeholder: 'bytes',
      help: 'End the run if its first steps take more, such as 12GB; for auto without it: the memory that is free.',
    },
    cache_vision: {
      kind: 'string',
      default: 'auto',
      placeholder: 'auto|off|dir',
      help:
        'Store what a frozen vision tower makes of each picture and reuse it in later epochs and runs; ' +
        'auto: with more than one epoch, in the cache folder of the user.',
    },
    cache_vision_limit: {
      kind: 'bytes',
      default: 20e9,
      placeholder: 'bytes',
      help: 'Most bytes stored; what was stored for other models makes way.',
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
    profile: {
      kind: 'integer',
      min: 0,
      default: 0,
      help: 'Write a trace of so many first steps to profile.json in the run folder, for ui.perfetto.dev.',
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
