/**
 * Other tools' names of flags, for suggestions. From ms-swift, LLaMA-Factory, Unsloth and TRL, LLaVA's scripts,
 * transformers' examples. Each stands for what to write instead: a flag, or a flag with its value. Of several, the
 * first that the command knows is suggested.
 */

/** `flag` or `flag value`, without dashes. */
type Suggestion = string;

const SAME_MEANING: Readonly<Record<Suggestion, string>> = {
  // model
  'model_name_or_path|model':
    'model model_id_or_path model_id model_path model_name base_model base_model_name_or_path pretrained_model_name_or_path ckpt_path checkpoint',
  'model|model_name_or_path': 'model_name_or_path model_dir ckpt_dir ckpt',
  llm_type: 'template template_type model_type chat_template prompt_template conv_type',
  cache_dir: 'hub_cache model_cache_dir download_dir',
  max_slice_nums: 'max_num_slices max_slices slice_nums max_patches max_dynamic_patch',
  vision_batch_size: 'vit_batch_size',
  // data
  data_path:
    'dataset datasets dataset_name dataset_dir dataset_path train_dataset train_data train_data_path train_file train_files training_data data data_file data_files custom_train_dataset_path custom_dataset_path file',
  eval_data_path:
    'val_dataset eval_dataset validation_file validation_data val_data val_data_path val_file eval_file eval_data custom_val_dataset_path',
  data_weights: 'interleave_probs interleave_prob mix_strategy dataset_weights sampling_weights',
  model_max_length:
    'cutoff_len max_length sequence_len max_sequence_length max_seq_length max_seq_len max_len max_source_length block_size seq_length sequence_length context_length',
  overlong: 'truncation_strategy truncation',
  on_bad_record: 'strict skip_bad_records ignore_errors',
  max_image_pixels: 'image_max_pixels max_pixels',
  allow_special_text: 'allow_special_tokens split_special_tokens',
  // output
  'output_dir|output': 'output save_dir save_path output_path out_dir result_dir export_dir merged_dir',
  'output|output_dir': 'result_path results_path output_file predict_file save_predictions_path',
  run_name: 'experiment_name exp_name wandb_run_name name tracker_run_name',
  overwrite_output_dir: 'overwrite',
  // trained parts
  tune_vision: 'finetune_vision_layers tune_vit train_vision unfreeze_vision tune_vision_tower tune_mm_vision',
  'tune_vision false': 'freeze_vision_tower freeze_vit freeze_vision freeze_vision_model',
  tune_llm: 'finetune_language_layers train_llm tune_language_model tune_mm_llm',
  'tune_llm false': 'freeze_llm freeze_language_model freeze_backbone',
  // LoRA
  'use_lora true':
    'train_type tuner_type sft_type finetuning_type peft_type tuning_type use_peft lora lora_enable lora_enabled enable_lora peft',
  'use_lora false': 'full_finetuning full_finetune',
  'lora_target_modules all-linear': 'lora_target_linear',
  lora_r: 'lora_rank rank r lora_dim lora_attention_dim',
  lora_alpha: 'alpha lora_scale lora_scaling',
  lora_dropout: 'lora_dropout_p lora_drop dropout',
  lora_target_modules:
    'lora_target target_modules target_regex lora_target_regex lora_modules lora_module target_module',
  lora_modules_to_save: 'additional_target modules_to_save lora_additional_modules unfreeze_modules',
  lora_bias: 'bias lora_bias_trainable',
  'lora_weight_path|adapter':
    'adapter_name_or_path adapters adapter_path adapter lora_path lora_weights lora_model_path lora_adapter peft_path',
  'adapter|lora_weight_path': 'lora_weight_path adapter_dir lora_dir lora_ckpt lora_checkpoint lora_weight',
  lora_layers_to_transform: 'layers_to_transform lora_layers',
  use_dora: 'dora lora_dora lora_use_dora',
  use_rslora: 'rslora use_rs_lora',
  loraplus_lr_ratio: 'lorap_lr_ratio lora_plus_lr_ratio lora_lr_ratio loraplus_ratio',
  'q_lora true': 'load_in_4bit quantization_bit quant_bits bits use_qlora qlora use_4bit bnb_4bit',
  q_lora_type: 'quant_method quantization_method quantization_type bnb_4bit_quant_type quant_type',
  'q_lora_type int8': 'load_in_8bit',
  // optimizer
  learning_rate: 'lr base_lr peak_lr learningrate',
  vision_learning_rate: 'vit_lr vision_lr vision_tower_lr mm_vision_tower_lr vision_tower_learning_rate',
  resampler_learning_rate: 'aligner_lr merger_lr mm_projector_lr projector_lr connector_lr resampler_lr',
  embedding_learning_rate: 'embedding_lr embed_lr loraplus_lr_embedding',
  weight_decay: 'wd decay',
  adam_beta1: 'beta1 adamw_beta1',
  adam_beta2: 'beta2 adamw_beta2',
  adam_epsilon: 'eps adam_eps epsilon',
  max_grad_norm: 'clip_grad grad_clip gradient_clipping gradient_clip gradient_clip_val clip_grad_norm max_norm',
  neftune_noise_alpha: 'neftune_alpha neftune noise_alpha',
  // schedule
  num_train_epochs: 'num_epochs epochs epoch n_epochs max_epochs train_epochs num_train_epoch',
  max_steps: 'steps train_steps num_steps max_iters train_iters max_train_steps num_train_steps total_steps',
  lr_scheduler_type: 'lr_scheduler scheduler lr_schedule lr_decay_style scheduler_type',
  lr_scheduler_kwargs: 'scheduler_kwargs lr_scheduler_args',
  warmup_steps: 'num_warmup_steps lr_warmup_steps warmup_iters warmup',
  warmup_ratio: 'warmup_fraction lr_warmup_fraction warmup_proportion',
  // precision
  'dtype float32': 'fp32 full_precision',
  'bf16_master_weights false': 'pure_bf16',
  dtype:
    'torch_dtype compute_dtype infer_dtype compute_type mixed_precision precision model_dtype bnb_4bit_compute_dtype',
  // batches
  per_device_train_batch_size:
    'batch_size train_batch_size micro_batch_size bs per_gpu_train_batch_size mini_batch_size',
  per_device_eval_batch_size: 'eval_batch_size val_batch_size per_gpu_eval_batch_size',
  gradient_accumulation_steps:
    'grad_accum accumulation_steps gradient_accumulation grad_accum_steps accumulate_grad_batches accum_steps',
  packing: 'neat_packing sample_packing sequence_packing use_packing',
  group_by_length: 'length_group group_by_modality_length',
  dataloader_drop_last: 'drop_last',
  // device and memory
  device: 'device_map accelerator',
  nproc_per_node: 'num_gpus n_gpu num_processes',
  threads: 'num_threads omp_num_threads nthreads',
  gradient_checkpointing:
    'use_gradient_checkpointing activation_checkpointing gc grad_checkpoint recompute vit_gradient_checkpointing',
  'gradient_checkpointing false': 'disable_gradient_checkpointing',
  dataloader_num_workers: 'num_workers preprocessing_num_workers dataset_num_proc num_proc num_data_workers',
  dataloader_prefetch_factor: 'prefetch_factor',
  // evaluation, checkpoints, log
  eval_steps: 'eval_interval evaluation_steps val_check_interval eval_every',
  eval_generate: 'predict_with_generate eval_use_generate',
  save_steps: 'save_interval checkpointing_steps save_every saving_steps',
  save_total_limit: 'max_checkpoints checkpoints_total_limit keep_checkpoints',
  logging_steps: 'log_interval logging_interval log_every print_every log_steps',
  logging_dir: 'log_dir tensorboard_dir tensorboard_log_dir',
  report_to: 'logger log_with',
  resume_from_checkpoint: 'resume resume_from resume_path load_checkpoint ckpt_resume',
  progress: 'progress_bar',
  seed: 'random_seed random_state manual_seed',
  data_seed: 'data_random_seed shuffle_seed dataset_shuffle_seed',
  recipe: 'config_file cfg yaml args_file',
  deepspeed: 'deepspeed_config ds_config',
  dry_run: 'dryrun check_only',
  // answers
  max_new_tokens: 'max_tokens max_generate_tokens max_output_tokens',
  prompt: 'query question text input instruction message',
  system: 'system_prompt default_system system_message',
  image: 'images image_path image_file image_paths img picture',
  top_p: 'topp nucleus_p',
  top_k: 'topk',
  temperature: 'temp',
  repetition_penalty: 'repeat_penalty rep_penalty',
  max_shard_size: 'shard_size export_size save_shard_size',
};

/** Names that other tools have for what needs no flag here, and why. */
const NO_FLAG: Readonly<Record<string, string>> = Object.fromEntries(
  [
    [
      'flash_attn attn_impl attn_implementation use_flash_attn use_flash_attention flash_attention',
      'attention chooses its kernel itself',
    ],
    ['freeze_multi_modal_projector freeze_aligner freeze_merger freeze_resampler', 'the resampler always trains'],
    [
      'split_dataset_ratio val_size val_set_size val_split test_size',
      'evaluation data are files of their own; give --eval_data_path',
    ],
    ['overwrite_cache lazy_tokenize lazy_preprocess streaming', 'records are read and encoded while the run trains'],
    ['use_unsloth enable_liger_kernel use_liger xformers_attention sdp_attention', 'kernels are chosen for the device'],
    ['max_samples max_train_samples', 'all records are used; --max_steps ends a run earlier'],
    ['plot_loss', 'losses are in events.jsonl; --report_to tensorboard draws them'],
    ['use_hf use_modelscope', 'models come from the Hugging Face hub, or from the mirror that HF_ENDPOINT names'],
    [
      'sequence_parallel_size tensor_parallel_size pipeline_parallel_size',
      'devices share out the records, and with --zero_stage the model',
    ],
    ['stage rlhf_type', 'supervised fine-tuning is the only stage'],
    ['assistant_only_loss train_on_prompt mask_history train_on_responses_only', 'answers alone are learned'],
    ['trust_remote_code', 'code of a model is never run'],
    ['gpus gpu', 'CUDA_VISIBLE_DEVICES chooses the GPUs'],
    ['image_folder media_dir image_dir image_root', 'paths of pictures are relative to the data file'],
    ['do_sample', '--temperature above 0 samples'],
    ['num_beams beam_size', 'answers are sampled or greedy, without beams'],
    ['stream', 'chat always shows an answer as it is generated'],
    ['merge_lora', 'adapters are used as they are; the command merge writes a merged checkpoint'],
    ['infer_backend', 'there is one backend'],
  ].flatMap(([names, why]) => names!.split(' ').map((name) => [name, why!])),
);

const BY_NAME: ReadonlyMap<string, Suggestion> = new Map(
  Object.entries(SAME_MEANING).flatMap(([suggestion, names]) => names.split(' ').map((name) => [name, suggestion])),
);

/** Every name of another tool, for tests. */
export const FOREIGN_NAMES: readonly string[] = [...BY_NAME.keys(), ...Object.keys(NO_FLAG)];

/**
 * What to write instead of another tool's name, as a sentence for a command line or a recipe; undefined if the name is none. `known` are the
 * names (without dashes) there.
 */
export function foreignFlag(
  name: string,
  known: ReadonlySet<string>,
  where: 'command line' | 'recipe',
): string | undefined {
  const normal = name.replace(/^-+/, '').replaceAll('-', '_').toLowerCase();
  const why = Object.hasOwn(NO_FLAG, normal) ? NO_FLAG[normal] : undefined;
  if (why !== undefined) return `Leave it out: ${why}.`;
  const suggestions = BY_NAME.get(normal)?.split('|');
  if (suggestions === undefined) return undefined;
  const suggestion = suggestions.find((words) => known.has(words.split(' ')[0]!));
  if (suggestion === undefined) {
    const meant = suggestions[0]!.split(' ')[0]!;
    return `Leave it out: it means ${where === 'recipe' ? meant : `--${meant}`}, which ${where === 'recipe' ? 'a recipe' : 'this command'} does not have.`;
  }
  const [flag, value] = suggestion.split(' ');
  const written = where === 'recipe' ? flag : `--${flag}`;
  if (value === undefined) return `It is called ${written} here.`;
  return `Write ${where === 'recipe' ? `${flag}: ${value}` : `${written} ${value}`} instead.`;
}
