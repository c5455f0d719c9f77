/**
 * Flags of transformers' TrainingArguments and the official `finetune.py` that have nothing to set here. They are
 * accepted, so that existing command lines work, and the run says in one line what each of them comes to. A value that
 * would have changed the training, and cannot here, is an error instead (`neutral` lists the values that change nothing).
 */

import type { FlagKind, FlagSpec } from './flags.js';

/** How a flag is switched off, the usual word for its kind first. */
const OFF: Partial<Record<FlagKind, readonly string[]>> = {
  boolean: ['false'],
  number: ['0', 'none'],
  string: ['none', 'null', '', '0', '0.0', 'false'],
};

/** Accepted with any value. */
function meaningless(notice: string, kind: FlagKind = 'string'): FlagSpec {
  return { kind, help: '', notice };
}

/** Accepted only when switched off, or with one of `neutral`. */
function unsupported(notice: string, kind: FlagKind = 'string', neutral = OFF[kind] ?? []): FlagSpec {
  return { kind, help: '', notice, neutral };
}

const COLUMNS = 'records are not tables, nothing is removed or renamed';
const PYTORCH = 'a switch of PyTorch or its Trainer that has no counterpart here';
const PROCESSES = 'several processes are not configured by flags here';
const LOG = 'what is logged is decided by --progress and --logging_steps';
const HUB = 'nothing is uploaded';
const EVAL = 'evaluation keeps only sums, so there is nothing to gather';
const FULL_EVAL = 'evaluation always computes in the type of the training';

export const OFFICIAL_FLAGS: Readonly<Record<string, FlagSpec>> = {
  do_train: meaningless('this command always trains', 'boolean'),
  do_predict: unsupported('answers for a data file are made by the command `generate`', 'boolean'),
  bf16_full_eval: meaningless(FULL_EVAL, 'boolean'),
  fp16_full_eval: meaningless(FULL_EVAL, 'boolean'),
  remove_unused_columns: meaningless(COLUMNS, 'boolean'),
  label_names: meaningless(COLUMNS, 'strings'),
  length_column_name: meaningless(COLUMNS),
  prediction_loss_only: meaningless('evaluation computes the loss; --eval_generate adds answers', 'boolean'),
  eval_accumulation_steps: meaningless(EVAL),
  eval_do_concat_batches: meaningless(EVAL, 'boolean'),
  eval_use_gather_object: meaningless(EVAL, 'boolean'),
  batch_eval_metrics: meaningless(EVAL, 'boolean'),
  include_for_metrics: meaningless(EVAL, 'strings'),
  include_inputs_for_metrics: meaningless(EVAL, 'boolean'),
  eval_delay: unsupported('evaluation cannot be put off'),
  lora_layer_replication: unsupported('the official script does not use it either'),
  lora_layers_pattern: meaningless('the official script does not use it either'),
  dataloader_pin_memory: meaningless(PYTORCH, 'boolean'),
  dataloader_persistent_workers: meaningless('workers always live as long as the run', 'boolean'),
  dataloader_in_order: meaningless('batches always come in order', 'boolean'),
  dataloader_multiprocessing_context: meaningless('workers are threads'),
  train_sampling_strategy: unsupported('use --group_by_length for batches of similar length', 'string', ['random']),
  gradient_checkpointing_kwargs: meaningless('there is one way to recompute'),
  average_tokens_across_devices: meaningless('the loss is always averaged over all tokens of the step', 'boolean'),
  label_smoothing_factor: unsupported('label smoothing is not supported', 'number'),
  optim_args: unsupported('AdamW has flags of its own, such as --adam_beta2'),
  optim_target_modules: unsupported('use --use_lora'),
  auto_find_batch_size: unsupported('give --per_device_train_batch_size', 'boolean'),
  ignore_data_skip: unsupported('a resumed run always continues where its data stopped', 'boolean'),
  full_determinism: meaningless('runs are always deterministic', 'boolean'),
  restore_callback_states_from_checkpoint: meaningless('there are no callbacks', 'boolean'),
  enable_jit_checkpoint: meaningless('SIGTERM always saves; see --save_on_stop', 'boolean'),
  save_safetensors: unsupported('weights are always saved as safetensors', 'boolean', ['true']),
  save_on_each_node: meaningless(PROCESSES, 'boolean'),
  logging_nan_inf_filter: meaningless('what is not finite is always shown; see --on_nonfinite', 'boolean'),
  log_level: meaningless(LOG),
  log_level_replica: meaningless(LOG),
  log_on_each_node: meaningless(LOG, 'boolean'),
  disable_tqdm: meaningless(`${LOG}; --progress quiet hides it`, 'boolean'),
  include_num_input_tokens_seen: meaningless('tokens per second are always logged'),
  include_tokens_per_second: meaningless('tokens per second are always logged', 'boolean'),
  skip_memory_metrics: meaningless('memory is always logged', 'boolean'),
  local_rank: meaningless(PROCESSES),
  ddp_backend: meaningless(PROCESSES),
  ddp_find_unused_parameters: meaningless(PROCESSES, 'boolean'),
  ddp_bucket_cap_mb: meaningless(PROCESSES),
  ddp_broadcast_buffers: meaningless(PROCESSES, 'boolean'),
  ddp_static_graph: meaningless(PROCESSES, 'boolean'),
  ddp_timeout: meaningless(PROCESSES),
  dispatch_batches: meaningless(PROCESSES, 'boolean'),
  split_batches: unsupported(PROCESSES, 'boolean'),
  accelerator_config: meaningless(PROCESSES),
  parallelism_config: meaningless(PROCESSES),
  fsdp: meaningless(PROCESSES),
  fsdp_config: meaningless(PROCESSES),
  fsdp_min_num_params: meaningless(PROCESSES),
  fsdp_transformer_layer_cls_to_wrap: meaningless(PROCESSES),
  use_liger_kernel: meaningless(PYTORCH, 'boolean'),
  liger_kernel_config: meaningless(PYTORCH),
  use_cache: meaningless('training never uses a cache', 'boolean'),
  torch_compile: meaningless(PYTORCH, 'boolean'),
  torch_compile_backend: meaningless(PYTORCH),
  torch_compile_mode: meaningless(PYTORCH),
  torch_empty_cache_steps: meaningless('memory is freed as soon as it is not needed'),
  fp16_backend: meaningless(PYTORCH),
  fp16_opt_level: meaningless(PYTORCH),
  half_precision_backend: meaningless(PYTORCH),
  use_ipex: meaningless(PYTORCH, 'boolean'),
  jit_mode_eval: meaningless(PYTORCH, 'boolean'),
  past_index: unsupported(PYTORCH, 'string', ['-1']),
  debug: meaningless(PYTORCH),
  mp_parameters: meaningless(PROCESSES),
  ray_scope: meaningless(PYTORCH),
  tpu_num_cores: meaningless(PROCESSES),
  tpu_metrics_debug: meaningless(PYTORCH, 'boolean'),
  project: meaningless(LOG),
  trackio_space_id: meaningless(LOG),
  push_to_hub: unsupported(HUB, 'boolean'),
  hub_model_id: meaningless(HUB),
  hub_strategy: meaningless(HUB),
  hub_token: meaningless(HUB),
  hub_private_repo: meaningless(HUB, 'boolean'),
  hub_always_push: meaningless(HUB, 'boolean'),
  hub_revision: meaningless(HUB),
};
