/**
 * Flags of the official scripts that have no effect here. From transformers' TrainingArguments and the official
 * `finetune.py`. They are accepted, so that existing command lines work, and the run says in one line what each of them
 * comes to. A value that would have changed the training, and cannot here, is an error instead (`neutral` lists the
 * values that change nothing).
 */
import type { FlagKind, FlagSpec, FlagTable, Text } from '@minicpm-finetune/run';

/** How a flag is switched off, the usual word for its kind first. */
const OFF: Partial<Record<FlagKind, readonly string[]>> = {
  boolean: ['false'],
  number: ['0', 'none'],
  string: ['none', 'null', '', '0', '0.0', 'false'],
};

/** Accepted with any value. The notice is the flag's help. */
function meaningless(notice: Text, kind: FlagKind = 'string'): FlagSpec {
  return { kind, help: notice, notice };
}

/** Accepted only when switched off, or with one of `neutral`. */
function unsupported(notice: Text, kind: FlagKind = 'string', neutral = OFF[kind] ?? []): FlagSpec {
  return { kind, help: notice, notice, neutral };
}

const COLUMNS: Text = {
  en: 'records are not tables, nothing is removed or renamed',
  zh: '记录不是表格，不会删除或重命名任何列',
};
const PYTORCH: Text = {
  en: 'a switch of PyTorch or its Trainer that has no counterpart here',
  zh: 'PyTorch 或其 Trainer 的开关，这里没有对应项',
};
const PROCESSES: Text = {
  en: 'processes are connected in one way here; see --nproc_per_node',
  zh: '这里各进程只有一种连接方式，见 --nproc_per_node',
};
const LOG: Text = {
  en: 'what is logged is decided by --progress and --logging_steps',
  zh: '日志内容由 --progress 和 --logging_steps 决定',
};
const HUB: Text = { en: 'nothing is uploaded', zh: '不会上传任何内容' };
const EVAL: Text = {
  en: 'evaluation keeps only sums, so there is nothing to gather',
  zh: '评估只保留累加值，没有需要汇集的内容',
};
const FULL_EVAL: Text = {
  en: 'evaluation always computes in the type of the training',
  zh: '评估总是使用训练时的数据类型',
};

export const OFFICIAL_FLAGS: FlagTable = {
  do_train: meaningless({ en: 'this command always trains', zh: '此命令总是进行训练' }, 'boolean'),
  do_predict: unsupported(
    { en: 'answers for a data file are made by the command `generate`', zh: '为数据文件生成回答请用 `generate` 命令' },
    'boolean',
  ),
  bf16_full_eval: meaningless(FULL_EVAL, 'boolean'),
  fp16_full_eval: meaningless(FULL_EVAL, 'boolean'),
  remove_unused_columns: meaningless(COLUMNS, 'boolean'),
  label_names: meaningless(COLUMNS, 'strings'),
  length_column_name: meaningless(COLUMNS),
  prediction_loss_only: meaningless(
    {
      en: 'evaluation computes the loss; --eval_generate adds answers',
      zh: '评估计算损失；--eval_generate 会另外生成回答',
    },
    'boolean',
  ),
  eval_accumulation_steps: meaningless(EVAL),
  eval_do_concat_batches: meaningless(EVAL, 'boolean'),
  eval_use_gather_object: meaningless(EVAL, 'boolean'),
  batch_eval_metrics: meaningless(EVAL, 'boolean'),
  include_for_metrics: meaningless(EVAL, 'strings'),
  include_inputs_for_metrics: meaningless(EVAL, 'boolean'),
  eval_delay: unsupported({ en: 'evaluation cannot be put off', zh: '不能推迟评估' }),
  lora_layer_replication: unsupported({ en: 'the official script does not use it either', zh: '官方脚本也不使用它' }),
  lora_layers_pattern: meaningless({ en: 'the official script does not use it either', zh: '官方脚本也不使用它' }),
  dataloader_pin_memory: meaningless(PYTORCH, 'boolean'),
  dataloader_persistent_workers: meaningless(
    { en: 'workers always live as long as the run', zh: '工作线程在整个训练期间一直存在' },
    'boolean',
  ),
  dataloader_in_order: meaningless({ en: 'batches always come in order', zh: '批次总是按顺序产生' }, 'boolean'),
  dataloader_multiprocessing_context: meaningless({
    en: 'data loading uses threads, not processes',
    zh: '数据加载使用线程，而不是进程',
  }),
  train_sampling_strategy: unsupported(
    { en: 'use --group_by_length for batches of similar length', zh: '要按长度分批请用 --group_by_length' },
    'string',
    ['random'],
  ),
  gradient_checkpointing_kwargs: meaningless({ en: 'there is one way to recompute', zh: '重算方式只有一种' }),
  average_tokens_across_devices: meaningless(
    { en: 'the loss is always averaged over all tokens of the step', zh: '损失总是对一步内的全部词元取平均' },
    'boolean',
  ),
  label_smoothing_factor: unsupported({ en: 'label smoothing is not supported', zh: '不支持标签平滑' }, 'number'),
  optim_args: unsupported({
    en: 'AdamW has flags of its own, such as --adam_beta2',
    zh: 'AdamW 有自己的参数，例如 --adam_beta2',
  }),
  optim_target_modules: unsupported({ en: 'use --use_lora', zh: '请用 --use_lora' }),
  auto_find_batch_size: unsupported(
    { en: 'give --per_device_train_batch_size', zh: '请给出 --per_device_train_batch_size' },
    'boolean',
  ),
  ignore_data_skip: unsupported(
    { en: 'a resumed run always continues where its data stopped', zh: '恢复的训练总是从数据中断处继续' },
    'boolean',
  ),
  full_determinism: meaningless(
    {
      en: 'runs on the CPU are always deterministic; on a GPU, some sums are added in any order',
      zh: 'CPU 上的训练总是确定性的；GPU 上有些求和的次序不固定',
    },
    'boolean',
  ),
  restore_callback_states_from_checkpoint: meaningless({ en: 'there are no callbacks', zh: '没有回调' }, 'boolean'),
  enable_jit_checkpoint: meaningless(
    { en: 'SIGTERM always saves; see --save_on_stop', zh: '收到 SIGTERM 时总会保存；见 --save_on_stop' },
    'boolean',
  ),
  save_safetensors: unsupported(
    { en: 'weights are always saved as safetensors', zh: '权重总是保存为 safetensors' },
    'boolean',
    ['true'],
  ),
  save_on_each_node: meaningless(PROCESSES, 'boolean'),
  logging_nan_inf_filter: meaningless(
    { en: 'what is not finite is always shown; see --on_nonfinite', zh: '非有限数总会显示；见 --on_nonfinite' },
    'boolean',
  ),
  log_level: meaningless(LOG),
  log_level_replica: meaningless(LOG),
  log_on_each_node: meaningless(LOG, 'boolean'),
  disable_tqdm: meaningless(
    { en: `${LOG.en}; --progress quiet hides it`, zh: `${LOG.zh}；--progress quiet 可隐藏` },
    'boolean',
  ),
  include_num_input_tokens_seen: meaningless({ en: 'tokens per second are always logged', zh: '总会记录每秒词元数' }),
  include_tokens_per_second: meaningless(
    { en: 'tokens per second are always logged', zh: '总会记录每秒词元数' },
    'boolean',
  ),
  skip_memory_metrics: meaningless({ en: 'memory is always logged', zh: '总会记录内存' }, 'boolean'),
  local_rank: meaningless(PROCESSES),
  ddp_backend: meaningless(PROCESSES),
  ddp_find_unused_parameters: meaningless(PROCESSES, 'boolean'),
  ddp_bucket_cap_mb: meaningless(PROCESSES),
  ddp_broadcast_buffers: meaningless(PROCESSES, 'boolean'),
  ddp_static_graph: meaningless(PROCESSES, 'boolean'),
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
  use_cache: meaningless({ en: 'training never uses a cache', zh: '训练从不使用 KV 缓存' }, 'boolean'),
  torch_compile: meaningless(PYTORCH, 'boolean'),
  torch_compile_backend: meaningless(PYTORCH),
  torch_compile_mode: meaningless(PYTORCH),
  torch_empty_cache_steps: meaningless({
    en: 'memory is freed as soon as it is not needed',
    zh: '内存不再需要时立即释放',
  }),
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
