/**
 * The configuration of a training run, fully resolved: what the trainer obeys and what `run.json` in the run folder holds.
 *
 * The keys inside a group are the names of the command-line flags (those of transformers, PEFT and the official
 * MiniCPM-V scripts where they have one), so `run.json` is also a valid recipe: `minicpm-finetune train --recipe run.json`
 * repeats the run. Nothing in here depends on the machine, the rank or the data: such numbers are derived at start and
 * recorded in the `run_start` event.
 *
 * `null` always means "not set", and the field says what happens then.
 */

/** The language model's chat format. */
export type LlmType = 'minicpm' | 'llama3' | 'qwen' | 'llama';

/**
 * What the training data look like to the model. `inference`: exactly what inference does with the same conversation.
 * `official`: what the official dataset code makes of it (its doubled end tokens and stray newlines included).
 */
export type Compat = 'inference' | 'official';

/** The type in which the forward and backward pass compute. */
export type DType = 'float32' | 'bfloat16' | 'float16';

export type SchedulerType =
  | 'linear'
  | 'cosine'
  | 'cosine_with_restarts'
  | 'polynomial'
  | 'constant'
  | 'constant_with_warmup'
  | 'inverse_sqrt'
  | 'warmup_stable_decay'
  | 'WarmupLR';

export type IntervalStrategy = 'no' | 'steps' | 'epoch';

export interface ModelConfig {
  /** Folder of a checkpoint, or a hub id such as `openbmb/MiniCPM-V-2_6`. */
  model_name_or_path: string;
  /** Chat format; null: recognised from the checkpoint. A value that does not fit the checkpoint is an error. */
  llm_type: LlmType | null;
  /** Folder for downloaded checkpoints; null: the Hugging Face cache. */
  cache_dir: string | null;
  /** Most slices a picture is cut into (beside the overview picture). */
  max_slice_nums: number;
  /** Side in pixels of the square a slice's area aims at; null: the checkpoint's. */
  scale_resolution: number | null;
  /** Most pictures (slices) the vision tower takes at once; null: the checkpoint's. */
  vision_batch_size: number | null;
}

export interface DataConfig {
  /** Training data: one or more JSON, JSON Lines or parquet files. */
  data_path: readonly string[];
  /** Share of each training file, relative to the others; null: every record once an epoch. */
  data_weights: readonly number[] | null;
  /** Evaluation data; empty: none. */
  eval_data_path: readonly string[];
  /** Longest sequence in tokens. */
  model_max_length: number;
  /** What to do with a longer one. `fewer_slices` falls back to `truncate_text`. A picture is never cut in two. */
  overlong: 'fewer_slices' | 'truncate_text' | 'drop' | 'error';
  compat: Compat;
  /** A bad record ends the run, or is counted, reported and left out. */
  on_bad_record: 'stop' | 'skip';
  /** Under `skip`: the share of bad records, 0 to 1, above which the run ends all the same. */
  max_bad_fraction: number;
  /** Special tokens typed in a text are encoded as plain text; otherwise they are an error. */
  allow_special_text: boolean;
  /** Largest picture accepted, in pixels (width times height). */
  max_image_pixels: number;
}

export interface TrainablesConfig {
  /** Train the vision tower (under LoRA: as a module to save). The resampler always trains. */
  tune_vision: boolean;
  /** Train the language model's own weights. Never together with LoRA. */
  tune_llm: boolean;
}

export interface LoraConfig {
  /** Train low-rank adapters on the language model; the rest of this group matters only then. */
  use_lora: boolean;
  lora_r: number;
  /** The adapter's output is scaled by lora_alpha / lora_r (rsLoRA: / sqrt(lora_r)). */
  lora_alpha: number;
  lora_dropout: number;
  /** One regular expression over the full module names, or a list of name endings. */
  lora_target_modules: string | readonly string[];
  /** Which biases train. */
  lora_bias: 'none' | 'all' | 'lora_only';
  /** Modules trained and saved whole beside the adapters, by name ending; empty without LoRA. */
  lora_modules_to_save: readonly string[];
  /** Adapter folder to continue from; null: start anew. */
  lora_weight_path: string | null;
  /** Layer indices that get adapters; null: all. */
  lora_layers_to_transform: readonly number[] | null;
  use_dora: boolean;
  use_rslora: boolean;
  /** Learning rate of lora_B as a multiple of lora_A's (LoRA+); null: the same. */
  loraplus_lr_ratio: number | null;
  /** Keep the frozen linear weights of the language model quantized. */
  q_lora: boolean;
  q_lora_type: 'nf4' | 'int8';
}

export interface OptimizerConfig {
  /** Peak learning rate. */
  learning_rate: number;
  /** Peak learning rate of the vision tower; null: learning_rate. */
  vision_learning_rate: number | null;
  /** Peak learning rate of the resampler; null: learning_rate. */
  resampler_learning_rate: number | null;
  /** Peak learning rate of the token embeddings; null: learning_rate. */
  embedding_learning_rate: number | null;
  /** Decoupled weight decay; norms and biases have none. */
  weight_decay: number;
  adam_beta1: number;
  adam_beta2: number;
  adam_epsilon: number;
  /** Global gradient norm is clipped to this; 0: no clipping. */
  max_grad_norm: number;
  /** NEFTune noise on the token embeddings; null: none. */
  neftune_noise_alpha: number | null;
}

export interface ScheduleConfig {
  /** Passes over the data; may be a fraction. Ignored if max_steps is positive. */
  num_train_epochs: number;
  /** Optimizer steps in all; -1: num_train_epochs decides. */
  max_steps: number;
  lr_scheduler_type: SchedulerType;
  /** Options of the schedule, by transformers' (WarmupLR: DeepSpeed's) names; see `schedule.ts`. */
  lr_scheduler_kwargs: Readonly<Record<string, number | string>> | null;
  /** Optimizer steps of warmup; below 1: share of all steps, rounded up; 0: warmup_ratio decides. */
  warmup_steps: number;
  /** Share of all optimizer steps, 0 to 1, rounded up. */
  warmup_ratio: number;
}

export interface PrecisionConfig {
  dtype: DType;
  /** bfloat16 only: keep float32 weights and moments (DeepSpeed's meaning); false: pure bfloat16, stochastically rounded. */
  bf16_master_weights: boolean;
  /** float16 only: fixed loss scale; 0: dynamic, by the four rules below. */
  fp16_loss_scale: number;
  /** First dynamic scale is 2 to this power. */
  fp16_initial_scale_power: number;
  /** Steps without overflow after which the scale doubles. */
  fp16_loss_scale_window: number;
  /** Overflows before the scale is halved. */
  fp16_hysteresis: number;
  fp16_min_loss_scale: number;
  /** A loss or gradient that is not finite ends the run, or skips the step (counted). */
  on_nonfinite: 'stop' | 'skip';
}

export interface BatchConfig {
  /** Records, or with packing packed sequences, per device and micro-batch. */
  per_device_train_batch_size: number;
  per_device_eval_batch_size: number;
  /** Micro-batches per optimizer step. */
  gradient_accumulation_steps: number;
  /** Put records of similar length together: less padding, still shuffled. */
  group_by_length: boolean;
  /** Pack records into sequences of about model_max_length tokens, each record attending to itself alone. */
  packing: boolean;
  /** Leave out the last, smaller batch of an epoch. */
  dataloader_drop_last: boolean;
}

export interface EngineConfig {
  /** `auto`: the best device present. */
  device: 'auto' | 'cpu' | 'cuda' | 'mps';
  /** Threads of libtorch; null: one per physical core. */
  threads: number | null;
  /** On NVIDIA GPUs, float32 products round their operands to TF32: faster, 10 bits of mantissa. */
  tf32: boolean;
  /** Recompute each block's inside in the backward pass: about a third slower, far less memory. auto: as many as memory_budget asks for. */
  gradient_checkpointing: boolean | 'auto';
  /** Update parameters in the backward pass: no gradient of the whole model exists; max_grad_norm is applied per block. */
  fused_backward: boolean;
  /** Resident bytes the run may take; more in its first steps is an error; null: no limit, and for auto what is available at the start. */
  memory_budget: number | null;
  /** Stored features of frozen vision towers: `auto` (in the user's cache folder, with more than one epoch), `off`, or a folder. */
  cache_vision: string;
  /** Most bytes of that folder. */
  cache_vision_limit: number;
}

export interface EvalConfig {
  /** Evaluate once after the last step (and as eval_strategy says). */
  do_eval: boolean;
  eval_strategy: IntervalStrategy;
  /** Optimizer steps between evaluations; below 1: share of all steps; null: logging_steps. */
  eval_steps: number | null;
  /** Evaluate before the first step, too. */
  eval_on_start: boolean;
  /** Records of the evaluation data that are answered at each evaluation. */
  eval_generate: number;
  /** Name in the eval event's metrics, without `eval_`; null: none. */
  metric_for_best_model: string | null;
  /** Whether a larger metric is a better one. */
  greater_is_better: boolean;
  load_best_model_at_end: boolean;
}

export interface SaveConfig {
  save_strategy: IntervalStrategy;
  /** Optimizer steps between checkpoints; below 1: share of all steps. */
  save_steps: number;
  /** Checkpoints kept, the best one and the newest always; null: all. */
  save_total_limit: number | null;
  /** Leave optimizer and random states out of checkpoints: smaller, but not resumable. */
  save_only_model: boolean;
  /** Save a checkpoint when the run is stopped by a signal or a STOP file. */
  save_on_stop: boolean;
  /** Checkpoint folder, or `latest` for the newest complete one of output_dir; null: start anew. */
  resume_from_checkpoint: string | null;
  /** Resume although data or configuration differ from the checkpoint's. */
  resume_anyway: boolean;
}

export interface OutputConfig {
  /** The run folder. */
  output_dir: string;
  /** Start anew in a folder that holds an earlier run, whose files are then removed. */
  overwrite_output_dir: boolean;
  /** Name shown in logs; null: the run folder's. */
  run_name: string | null;
}

export interface LoggingConfig {
  /** Folder for TensorBoard files; null: `logs` in the run folder. */
  logging_dir: string | null;
  logging_strategy: IntervalStrategy;
  /** Optimizer steps between step events; below 1: share of all steps. */
  logging_steps: number;
  /** Log the first step whatever logging_steps says. */
  logging_first_step: boolean;
  /** Where the log goes beside events.jsonl. */
  report_to: readonly 'tensorboard'[];
  /** Optimizer steps, from the start on, of which a trace is written to profile.json; 0: none. */
  profile: number;
  /** `auto`: a live line on a terminal, plain lines elsewhere; `json`: one JSON object per line. */
  progress: 'auto' | 'plain' | 'quiet' | 'json';
}

export interface LoaderConfig {
  /** Worker threads that read and encode records; null: sized to the machine; 0: the main thread. */
  dataloader_num_workers: number | null;
  /** Batches made ahead per worker; null: 2. */
  dataloader_prefetch_factor: number | null;
}

export interface SeedConfig {
  /** Seed of initialisation, dropout and noise. */
  seed: number;
  /** Seed of the order of the records. */
  data_seed: number;
}

/** Deeply frozen; made by the command line from flags, recipe and DeepSpeed file. */
export interface RunConfig {
  readonly model: Readonly<ModelConfig>;
  readonly data: Readonly<DataConfig>;
  readonly output: Readonly<OutputConfig>;
  readonly trainables: Readonly<TrainablesConfig>;
  readonly lora: Readonly<LoraConfig>;
  readonly optimizer: Readonly<OptimizerConfig>;
  readonly schedule: Readonly<ScheduleConfig>;
  readonly precision: Readonly<PrecisionConfig>;
  readonly batch: Readonly<BatchConfig>;
  readonly engine: Readonly<EngineConfig>;
  readonly eval: Readonly<EvalConfig>;
  readonly save: Readonly<SaveConfig>;
  readonly logging: Readonly<LoggingConfig>;
  readonly loader: Readonly<LoaderConfig>;
  readonly seeds: Readonly<SeedConfig>;
}

/** The groups of a `RunConfig`, in the order in which they are written and printed. */
export const CONFIG_GROUPS = [
  'model',
  'data',
  'output',
  'trainables',
  'lora',
  'optimizer',
  'schedule',
  'precision',
  'batch',
  'engine',
  'eval',
  'save',
  'logging',
  'loader',
  'seeds',
] as const satisfies readonly (keyof RunConfig)[];

export type ConfigGroup = (typeof CONFIG_GROUPS)[number];

/** Metrics of answers, besides the loss, that `metric_for_best_model` may name. */
export const METRIC_NAMES = ['exact_match', 'anls', 'rouge_l'] as const;
