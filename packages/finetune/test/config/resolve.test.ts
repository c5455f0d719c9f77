import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CONFIG_FLAGS, CONFIG_GROUPS, derivedValue, OFFICIAL_LORA_TARGETS } from '@minicpm-finetune/run';
import { describe, expect, it } from 'vitest';
import { requireResolved, resolveConfig } from '../../src/config/resolve.js';
import { TRAIN_FLAGS } from '../../src/config/train-flags.js';
import { base, refusal, resolve, resolveTrainConfig, userError } from '../support/config-words.js';

describe('defaults', () => {
  it("are transformers', PEFT's and the official script's", () => {
    const { config, notices } = resolve();
    expect(notices).toEqual([]);
    expect(config.model).toMatchObject({ model_name_or_path: 'm', llm_type: null, max_slice_nums: null });
    expect(config.data).toMatchObject({ data_path: ['d.json'], eval_data_path: [], model_max_length: 2048 });
    expect(config.trainables).toEqual({ tune_vision: true, tune_llm: true });
    expect(config.lora).toMatchObject({
      use_lora: false,
      lora_r: 64,
      lora_alpha: 64,
      lora_dropout: 0.05,
      lora_target_modules: OFFICIAL_LORA_TARGETS,
      lora_modules_to_save: [],
    });
    expect(config.optimizer).toMatchObject({
      learning_rate: 5e-5,
      weight_decay: 0,
      adam_beta2: 0.999,
      max_grad_norm: 1,
    });
    expect(config.schedule).toMatchObject({ num_train_epochs: 3, max_steps: -1, lr_scheduler_type: 'linear' });
    expect(config.precision).toMatchObject({ dtype: 'float32', fp16_initial_scale_power: 16, fp16_hysteresis: 2 });
    expect(config.batch).toMatchObject({ per_device_train_batch_size: 8, gradient_accumulation_steps: 1 });
    expect(config.eval).toMatchObject({ do_eval: false, eval_strategy: 'no', eval_steps: null });
    expect(config.save).toMatchObject({ save_strategy: 'steps', save_steps: 500, save_total_limit: null });
    expect(config.seeds).toEqual({ seed: 42, data_seed: 42 });
  });

  it('leave no value open and nothing changeable', () => {
    const { config } = resolve();
    for (const group of CONFIG_GROUPS) {
      expect(Object.keys(config[group])).toEqual(Object.keys(CONFIG_FLAGS[group]));
      for (const [name, value] of Object.entries(config[group])) expect(value, name).not.toBeUndefined();
      expect(Object.isFrozen(config[group])).toBe(true);
    }
    expect(Object.isFrozen(config)).toBe(true);
    expect(Object.isFrozen(config.data.data_path)).toBe(true);
  });

  it('have one flag for each name', () => {
    const names = TRAIN_FLAGS.map((flag) => flag.name);
    expect(names.filter((name, index) => names.indexOf(name) !== index)).toEqual([]);
  });
});

describe('derived values', () => {
  it.each([
    '',
    '--use_lora --compat official',
    '--use_lora --tune_vision false --preference dpo',
    '--preference simpo --fused_backward --offload_params cpu',
    '--eval_data_path e.json --eval_strategy steps --eval_generate 4 --metric_for_best_model eval_anls --seed 7',
  ])('are what the configuration says they follow from: %s', (flags) => {
    const words = flags.split(' ').filter(Boolean);
    const { config } = resolve(...words);
    const values = new Map(CONFIG_GROUPS.flatMap((group) => Object.entries<unknown>(config[group])));
    const tables: Readonly<Record<string, object>> = CONFIG_FLAGS;
    for (const [name, spec] of Object.values(tables).flatMap((table) => Object.entries(table))) {
      if (words.includes(`--${name}`) || 'required' in spec) continue;
      const { value } = derivedValue(name, values) ?? { value: spec.default };
      expect(value, name).not.toBeUndefined();
      expect(values.get(name), name).toEqual(value);
    }
  });

  it('LoRA takes the place of training the language model, and trains the token embeddings only as the official script does', () => {
    const { config, derived } = resolve('--use_lora', '--lora_r', '16', '--lora_alpha', '32');
    expect(config.trainables.tune_llm).toBe(false);
    expect(config.lora.lora_modules_to_save).toEqual(['resampler', 'vpm']);
    expect(derived).toEqual([
      'tune_llm = false (use_lora trains adapters instead)',
      'lora_modules_to_save = resampler vpm (use_lora with tune_vision true, the token embeddings stay as they are: --compat official trains them)',
      'total batch = 8 records × 1 accumulation × 1 device = 8',
      'LoRA scale = 32 / 16 = 2',
    ]);
    const frozen = resolve('--use_lora', '--tune_vision', 'false', '--use_rslora').config;
    expect(frozen.lora.lora_modules_to_save).toEqual(['resampler']);
    const official = resolve('--use_lora', '--compat', 'official').config;
    expect(official.lora.lora_modules_to_save).toEqual(['embed_tokens', 'resampler', 'vpm']);
    expect(resolve('--use_lora', '--use_rslora').derived.at(-1)).toBe('LoRA scale = 64 / sqrt(64) = 8');
  });

  it('evaluation steps follow logging steps; the best metric has a direction', () => {
    const words = [
      '--eval_data_path',
      'e.json',
      '--eval_strategy',
      'steps',
      '--logging_steps',
      '25',
      '--save_steps',
      '50',
    ];
    const { config, derived } = resolve(...words, '--load_best_model_at_end');
    expect(config.eval).toMatchObject({
      do_eval: true,
      eval_steps: 25,
      metric_for_best_model: 'loss',
      greater_is_better: false,
    });
    expect(derived).toContain('eval_steps = 25 (logging_steps)');
    const named = resolve(...words, '--metric_for_best_model', 'eval_exact_match', '--eval_generate', '8').config.eval;
    expect(named).toMatchObject({ metric_for_best_model: 'exact_match', greater_is_better: true });
  });

  it('data_seed follows seed; the total batch counts devices', () => {
    expect(resolve('--seed', '7').config.seeds).toEqual({ seed: 7, data_seed: 7 });
    expect(resolve('--seed', '7', '--data_seed', '8').config.seeds).toEqual({ seed: 7, data_seed: 8 });
    const { derived } = resolveTrainConfig([...base, '--gradient_accumulation_steps', '4'], 2);
    expect(derived).toEqual(['total batch = 8 records × 4 accumulation × 2 devices = 64']);
  });
});

describe('flags of the official scripts that mean nothing here', () => {
  it('are accepted with one line each', () => {
    const words = [
      '--remove_unused_columns',
      'false',
      '--label_names',
      'labels',
      '--do_train',
      '--bf16_full_eval',
      'false',
    ];
    expect(resolve(...words, '--report_to', 'wandb', 'tensorboard').notices).toEqual([
      '--do_train true: accepted, without effect: this command always trains.',
      '--bf16_full_eval false: accepted, without effect: evaluation always computes in the type of the training.',
      '--remove_unused_columns false: accepted, without effect: records are not tables, nothing is removed or renamed.',
      '--label_names labels: accepted, without effect: records are not tables, nothing is removed or renamed.',
      '--report_to wandb: accepted, without effect: the log goes to events.jsonl, and to TensorBoard if asked.',
    ]);
  });

  it('are refused where they would have changed the training', () => {
    expect(resolve('--label_smoothing_factor', '0.0').notices).toHaveLength(1);
    const error = refusal([...base, '--label_smoothing_factor', '0.1']);
    expect(error.message).toBe('Expected 0 for --label_smoothing_factor but received 0.1.');
    expect(error.cure).toBe('Leave it out: label smoothing is not supported.');
    expect(refusal([...base, '--auto_find_batch_size']).cure).toMatch(/per_device_train_batch_size/);
  });

  it('report_to none, all and several', () => {
    expect(resolve('--report_to', 'none').config.logging.report_to).toEqual([]);
    expect(resolve('--report_to', 'all').config.logging.report_to).toEqual(['tensorboard']);
    expect(resolve('--report_to', 'tensorboard,wandb').config.logging.report_to).toEqual(['tensorboard']);
  });
});

describe('the official command lines', () => {
  const official = (overrides: string[]) => [
    ...'--model_name_or_path openbmb/MiniCPM-V-2_6 --llm_type qwen --data_path d.json --eval_data_path e.json'.split(
      ' ',
    ),
    ...'--remove_unused_columns false --label_names labels --prediction_loss_only false'.split(' '),
    ...'--do_train --do_eval --tune_vision true --model_max_length 2048 --max_slice_nums 9 --max_steps 10000'.split(
      ' ',
    ),
    ...'--eval_steps 1000 --output_dir output/o --logging_dir output/o --logging_strategy steps'.split(' '),
    ...'--per_device_train_batch_size 2 --per_device_eval_batch_size 1 --gradient_accumulation_steps 1'.split(' '),
    ...'--evaluation_strategy steps --save_strategy steps --save_steps 1000 --save_total_limit 10'.split(' '),
    ...'--learning_rate 1e-6 --weight_decay 0.1 --adam_beta2 0.95 --warmup_ratio 0.01'.split(' '),
    ...'--lr_scheduler_type cosine --logging_steps 1 --gradient_checkpointing true --report_to tensorboard'.split(' '),
    ...overrides,
  ];

  it('full fine-tuning', () => {
    const { config, notices } = resolveTrainConfig(
      official('--bf16 true --bf16_full_eval true --fp16 false --fp16_full_eval false --tune_llm true'.split(' ')),
    );
    expect(config.precision.dtype).toBe('bfloat16');
    expect(config.trainables).toEqual({ tune_vision: true, tune_llm: true });
    expect(config.eval).toMatchObject({ do_eval: true, eval_strategy: 'steps', eval_steps: 1000 });
    expect(config.optimizer).toMatchObject({ learning_rate: 1e-6, weight_decay: 0.1, adam_beta2: 0.95 });
    expect(config.logging).toMatchObject({ logging_dir: 'output/o', logging_steps: 1, report_to: ['tensorboard'] });
    expect(notices).toHaveLength(6);
  });

  it('LoRA', () => {
    const { config } = resolveTrainConfig(
      official([
        ...'--bf16 false --bf16_full_eval false --fp16 true --fp16_full_eval true --tune_llm false --use_lora true'.split(
          ' ',
        ),
        ...['--lora_target_modules', 'llm\\..*layers\\.\\d+\\.self_attn\\.(q_proj|k_proj)'],
      ]),
    );
    expect(config.precision.dtype).toBe('float16');
    expect(config.trainables).toEqual({ tune_vision: true, tune_llm: false });
    expect(config.lora.lora_target_modules).toBe('llm\\..*layers\\.\\d+\\.self_attn\\.(q_proj|k_proj)');
  });
});

describe('resolveConfig', () => {
  const needed = { model_name_or_path: 'm', data_path: ['d.json'], output_dir: 'o' };

  it('takes typed values by the rules of the command line', () => {
    const words =
      '--use_lora --lora_r 8 --learning_rate 1e-4 --bf16 --memory_budget 12GB --lora_layers_to_transform 0 1';
    const fromWords = resolve(
      ...words.split(' '),
      '--lr_scheduler_type',
      'cosine',
      '--lr_scheduler_kwargs',
      '{"num_cycles": 2}',
    );
    const fromValues = resolveConfig({
      ...needed,
      use_lora: true,
      lora_r: 8,
      learning_rate: 1e-4,
      bf16: true,
      memory_budget: 12e9,
      lora_layers_to_transform: [0, 1],
      lr_scheduler_type: 'cosine',
      lr_scheduler_kwargs: { num_cycles: 2 },
      vision_learning_rate: null,
    });
    expect(fromValues).toEqual(fromWords);
  });

  it('reads a recipe, over which values win', () => {
    const folder = mkdtempSync(join(tmpdir(), 'values-'));
    const recipe = join(folder, 'r.yaml');
    writeFileSync(recipe, 'learning_rate: 1e-4\nseed: 7\n');
    const { config } = resolveConfig({ ...needed, recipe, seed: 8 });
    expect([config.optimizer.learning_rate, config.seeds.seed]).toEqual([1e-4, 8]);
    rmSync(folder, { recursive: true });
  });

  it.each<[Record<string, unknown>, RegExp, RegExp]>([
    [{ lora_rank: 8 }, /known key for resolveConfig but received lora_rank/, /It is called lora_r here/],
    [{ lora_r: 0 }, /an integer of at least 1 for --lora_r but received 0/, /range/],
    [{ lora_r: 1.5 }, /an integer of at least 1 for --lora_r but received 1.5/, /--lora_r 64/],
    [{ dtype: 'int8' }, /one of float32, bfloat16, float16 for --dtype/, /Choose/],
    [{ dry_run: true }, /known key for resolveConfig but received dry_run/, /./],
    [{ q_lora: true }, /--use_lora with --q_lora/, /--use_lora true/],
    [{ seed: null }, /an integer of at least 0 for --seed but received null/, /leave it out/],
    [
      { lr_scheduler_type: 'polynomial', learning_rate: 1e-8 },
      /less than --learning_rate \(1e-8\) for lr_end/,
      /lr_end/,
    ],
  ])('refuses %j', (values, message, cure) => {
    const error = userError(() => resolveConfig({ ...needed, ...values }));
    expect(error.message).toMatch(message);
    expect(error.cure).toMatch(cure);
  });

  it('needs what the command line needs', () => {
    expect(userError(() => resolveConfig({})).message).toBe(
      'Expected a value for --model_name_or_path but received nothing.',
    );
  });

  it('is the only maker of configurations', () => {
    const { config } = resolveConfig(needed);
    expect(requireResolved(config)).toBeUndefined();
    expect(userError(() => requireResolved(structuredClone(config))).cure).toMatch(/resolveConfig/);
    expect(userError(() => requireResolved({ ...config, seeds: { seed: -1, data_seed: 0 } })).message).toMatch(
      /another object/,
    );
  });
});
