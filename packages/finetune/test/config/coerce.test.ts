import { describe, expect, it } from 'vitest';
import { base, refusal, resolve, resolveTrainConfig } from '../support/config-words.js';

describe('the forms of a value', () => {
  it.each([
    [['--group_by_length']],
    [['--group_by_length', 'true']],
    [['--group_by_length=true']],
    [['--group_by_length', 'True']],
    [['--group_by_length', 'yes']],
    [['--group_by_length', '1']],
    [['--group_by_length', '--tune_vision', 'true']],
    [['--group_by_length', 'false', '--group_by_length']],
  ])('%j is true', (words) => {
    expect(resolve(...words).config.batch.group_by_length).toBe(true);
  });

  it('false is false, the last of two counts', () => {
    expect(resolve('--tune_vision', 'false').config.trainables.tune_vision).toBe(false);
    expect(resolve('--tune_vision', '--tune_vision=False').config.trainables.tune_vision).toBe(false);
    expect(resolve('--lora_r', '1', '--lora_r=2').config.lora.lora_r).toBe(2);
  });

  it('numbers, lists, sizes, options, negative numbers, nothing', () => {
    const { config } = resolve(
      ...['--learning_rate', '1e-6', '--max_steps', '-1', '--memory_budget', '1.5GiB', '--threads', 'none'],
      ...['--lora_layers_to_transform', '0', '1', '2,3', '--lr_scheduler_type', 'cosine'],
      ...['--lr_scheduler_kwargs', '{"num_cycles": 0.4}', '--save_total_limit', '3', '--use_lora'],
    );
    expect(config.optimizer.learning_rate).toBe(1e-6);
    expect(config.schedule.max_steps).toBe(-1);
    expect(config.engine).toMatchObject({ memory_budget: 1.5 * 2 ** 30, threads: null });
    expect(config.lora.lora_layers_to_transform).toEqual([0, 1, 2, 3]);
    expect(config.schedule.lr_scheduler_kwargs).toEqual({ num_cycles: 0.4 });
  });

  it('several data files with weights, repeated or in one go', () => {
    const words = ['--model_name_or_path', 'm', '--output_dir', 'o', '--data_weights', '1', '0.5'];
    for (const data of [
      ['--data_path', 'a, b.json', 'c.jsonl'],
      ['--data_path', 'a, b.json', '--data_path', 'c.jsonl'],
    ]) {
      const { config } = resolveTrainConfig([...words, ...data]);
      expect(config.data.data_path).toEqual(['a, b.json', 'c.jsonl']);
      expect(config.data.data_weights).toEqual([1, 0.5]);
    }
  });

  it('LoRA targets: a pattern is a pattern, names are a list', () => {
    const targets = (...words: string[]) => resolve('--use_lora', '--lora_target_modules', ...words).config.lora;
    expect(targets('llm\\..*\\.(q_proj|k_proj)').lora_target_modules).toBe('llm\\..*\\.(q_proj|k_proj)');
    expect(targets('q_proj').lora_target_modules).toEqual(['q_proj']);
    expect(targets('q_proj', 'mlp.up_proj').lora_target_modules).toEqual(['q_proj', 'mlp.up_proj']);
  });

  it('resume_from_checkpoint: latest, a folder, or not', () => {
    const resume = (...words: string[]) =>
      resolve('--resume_from_checkpoint', ...words).config.save.resume_from_checkpoint;
    expect(resume()).toBe('latest');
    expect(resume('o/checkpoint-5')).toBe('o/checkpoint-5');
    expect(resume('none')).toBeNull();
  });

  it('--flag= is an empty text: nothing for what may be nothing', () => {
    expect(resolve('--lora_weight_path=').config.lora.lora_weight_path).toBeNull();
    expect(resolve('--use_lora', '--lora_modules_to_save', '').config.lora.lora_modules_to_save).toEqual([]);
    expect(refusal([...base, '--output_dir=']).message).toBe('Expected a text for --output_dir but received "".');
  });
});

describe('refused values name flag, expectation, value and cure', () => {
  it.each<[string[], string, RegExp]>([
    [['--lora_r', '0'], 'Expected an integer of at least 1 for --lora_r but received 0.', /range/],
    [['--lora_r', 'x'], 'Expected an integer of at least 1 for --lora_r but received "x".', /--lora_r 64/],
    [['--lora_r', '1.5'], 'Expected an integer of at least 1 for --lora_r but received "1.5".', /--lora_r 64/],
    [
      ['--lora_dropout', '2'],
      'Expected a number of at least 0 and of at most 0.999 for --lora_dropout but received 2.',
      /range/,
    ],
    [
      ['--learning_rate', 'NaN'],
      'Expected a number of at least 0 for --learning_rate but received "NaN".',
      /--learning_rate 0.00005/,
    ],
    [['--num_train_epochs', '0'], 'Expected a number above 0 for --num_train_epochs but received 0.', /range/],
    [['--bf16', 'maybe'], 'Expected true or false for --bf16 but received "maybe".', /--bf16 true/],
    [
      ['--save_total_limit', 'all'],
      'Expected an integer of at least 1 for --save_total_limit but received "all".',
      /--save_total_limit 1/,
    ],
    [['--compat', 'python'], 'Expected one of inference, official for --compat but received "python".', /Choose/],
    [
      ['--lr_scheduler_kwargs', 'num_cycles=2'],
      'Expected a JSON object for --lr_scheduler_kwargs but received "num_cycles=2".',
      /num_cycles/,
    ],
    [
      ['--lr_scheduler_kwargs', '{"a": [1]}'],
      `Expected an object of numbers and texts for --lr_scheduler_kwargs but received "{\\"a\\": [1]}".`,
      /num_cycles/,
    ],
    [
      ['--memory_budget', '12 parsecs'],
      'Expected a size in bytes for --memory_budget but received "12 parsecs".',
      /12GB/,
    ],
    [['--lora_r'], 'Expected a value for --lora_r but received nothing.', /Write one/],
    [['--run_name', '--bf16'], 'Expected a value for --run_name but received "--bf16".', /--run_name name/],
    [
      ['--report_to', 'tensorbord'],
      'Expected tensorboard or none for --report_to but received "tensorbord".',
      /events.jsonl/,
    ],
    [
      ['--lora_layers_to_transform', '1', '-2'],
      'Expected integers of at least 0 for --lora_layers_to_transform but received -2.',
      /range/,
    ],
    [
      ['--optim', 'adafactor'],
      'Expected one of adamw_torch, adamw_torch_fused, adamw_hf for --optim but received "adafactor".',
      /Choose/,
    ],
  ])('%j', (words, message, cure) => {
    const error = refusal([...base, ...words]);
    expect(error.message).toBe(message);
    expect(error.cure).toMatch(cure);
  });

  it('an unknown flag gets the nearest name', () => {
    const error = refusal([...base, '--learning-rate', '1e-6']);
    expect(error.format()).toBe(
      [
        'error: Expected a known flag but received --learning-rate.',
        '   at: --learning-rate',
        ' cure: Did you mean --learning_rate? `minicpm-finetune train --help` lists all flags.',
      ].join('\n'),
    );
    expect(refusal([...base, '--lora_aplha=3']).cure).toMatch(/^Did you mean --lora_alpha\?/);
    expect(refusal([...base, '--zzzzzzzz']).cure).toBe('`minicpm-finetune train --help` lists all flags.');
    expect(refusal([...base, '-x']).message).toBe('Expected a known flag but received -x.');
  });

  it('a stray word is refused', () => {
    expect(refusal(['stray', ...base]).message).toBe('Expected a flag but received "stray".');
    expect(refusal([...base, '--bf16', 'true', 'stray']).message).toBe('Expected a flag but received "stray".');
  });

  it.each([
    ['model_name_or_path', 0],
    ['data_path', 2],
    ['output_dir', 4],
  ] as const)('--%s is required', (name, at) => {
    const error = refusal(base.toSpliced(at, 2));
    expect(error.message).toBe(`Expected a value for --${name} but received nothing.`);
    expect(error.cure).toContain(`--${name} <`);
  });
});
