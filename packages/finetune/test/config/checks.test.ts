import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { base, refusal, resolve } from '../support/config-words.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'cli-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function write(name: string, content: string): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

describe('synonyms', () => {
  const dtype = (...words: string[]) => resolve(...words).config.precision.dtype;

  it('--bf16, --fp16 and --dtype are one answer', () => {
    expect(dtype('--bf16')).toBe('bfloat16');
    expect(dtype('--bf16', 'false', '--fp16', 'true')).toBe('float16');
    expect(dtype('--bf16', 'false', '--fp16', 'false')).toBe('float32');
    expect(dtype('--dtype', 'bfloat16', '--bf16')).toBe('bfloat16');
    expect(dtype('--dtype', 'float16', '--bf16', 'false')).toBe('float16');
  });

  it.each<[string[], string]>([
    [['--bf16', '--fp16'], 'Expected one answer for dtype but received --bf16 true and --fp16 true.'],
    [['--bf16', '--dtype', 'float32'], 'Expected one answer for dtype but received --dtype float32 and --bf16 true.'],
    [
      ['--dtype', 'bfloat16', '--bf16', 'false'],
      'Expected one answer for dtype but received --dtype bfloat16 and --bf16 false.',
    ],
    [
      ['--use_cpu', '--device', 'cuda'],
      'Expected one answer for device but received --device cuda and --use_cpu true.',
    ],
  ])('%j contradict', (words, message) => {
    expect(refusal([...base, ...words]).message).toBe(message);
  });

  it('a flag outranks the recipe, whatever name each of them uses', () => {
    const bf16 = write('bf16.yaml', 'bf16: true\n');
    const resolved = write('resolved.yaml', 'precision:\n  dtype: bfloat16\n');
    for (const recipe of [bf16, resolved]) {
      expect(dtype('--recipe', recipe)).toBe('bfloat16');
      expect(dtype('--recipe', recipe, '--fp16')).toBe('float16');
      expect(dtype('--recipe', recipe, '--dtype', 'float16')).toBe('float16');
      expect(dtype('--recipe', recipe, '--bf16', 'false')).toBe('float32');
    }
  });

  it('--evaluation_strategy is --eval_strategy', () => {
    const words = ['--eval_data_path', 'e.json', '--evaluation_strategy', 'epoch'];
    expect(resolve(...words).config.eval.eval_strategy).toBe('epoch');
    expect(resolve(...words, '--eval_strategy', 'epoch').config.eval.eval_strategy).toBe('epoch');
    expect(refusal([...base, ...words, '--eval_strategy', 'steps']).message).toBe(
      'Expected one answer for eval_strategy but received --eval_strategy steps and --evaluation_strategy epoch.',
    );
  });

  it('--use_cpu is --device cpu', () => {
    expect(resolve('--use_cpu').config.engine.device).toBe('cpu');
    expect(resolve('--no_cuda', 'false').config.engine.device).toBe('auto');
  });
});

describe('combinations', () => {
  const evaluated = ['--eval_data_path', 'e.json', '--eval_strategy', 'steps'];

  it.each<[string[], RegExp, RegExp]>([
    [['--use_lora', '--tune_llm', 'true'], /either --use_lora or --tune_llm but received both/, /--tune_llm false/],
    [['--q_lora'], /--use_lora with --q_lora but received --use_lora false/, /--use_lora true/],
    [['--use_lora', '--lora_target_modules', 'llm.(q'], /regular expression for --lora_target_modules/, /brackets/],
    [['--eval_strategy', 'steps'], /evaluation data for --eval_strategy steps but received none/, /--eval_data_path/],
    [['--do_eval'], /evaluation data for --do_eval but received none/, /--eval_data_path/],
    [['--eval_generate', '3'], /evaluation data for --eval_generate 3 but received none/, /--eval_data_path/],
    [
      [...evaluated, '--load_best_model_at_end', '--save_strategy', 'epoch'],
      /same strategy.*--eval_strategy steps and --save_strategy epoch/,
      /both/,
    ],
    [
      [...evaluated, '--load_best_model_at_end', '--eval_steps', '300'],
      /multiple of --eval_steps.*500 and 300/,
      /--save_steps 600/,
    ],
    [
      [...evaluated, '--eval_steps', '1.5'],
      /integer, or a share below 1, for --eval_steps but received 1.5/,
      /--eval_steps 2/,
    ],
    [['--warmup_steps', '1.5'], /integer, or a share below 1, for --warmup_steps/, /--warmup_steps 2/],
    [['--max_steps', '0'], /-1 or at least 1 for --max_steps but received 0/, /by epochs/],
    [['--data_weights', '1', '2'], /1 numbers for --data_weights.*received 2/, /one weight/],
    [
      ['--lr_scheduler_type', 'linear', '--lr_scheduler_kwargs', '{"power": 2}'],
      /option of the linear schedule/,
      /no options/,
    ],
    [['--lr_scheduler_type', 'warmup_stable_decay'], /num_decay_steps/, /num_decay_steps/],
    [['--recipe', 'a', '--config', 'b'], /one recipe/, /leave one out/],
  ])('%j is refused', (words, message, cure) => {
    const error = refusal([...base, ...words]);
    expect(error.message).toMatch(message);
    expect(error.cure).toMatch(cure);
  });

  it.each<[string[], string]>([
    [['--lora_r', '8'], '--lora_r 8: without effect: use_lora is false.'],
    [
      ['--max_steps', '5', '--num_train_epochs', '2'],
      '--num_train_epochs 2: without effect: max_steps is 5 and comes first.',
    ],
    [
      ['--lr_scheduler_type', 'constant', '--warmup_ratio', '0.1'],
      '--warmup_ratio 0.1: without effect: constant has no warmup; use constant_with_warmup.',
    ],
    [
      ['--warmup_steps', '5', '--warmup_ratio', '0.1'],
      '--warmup_ratio 0.1: without effect: warmup_steps is given, too, and comes first.',
    ],
    [
      ['--eval_data_path', 'e.json'],
      '--eval_data_path ["e.json"]: without effect: nothing says when to evaluate; give --eval_strategy steps, or --do_eval.',
    ],
    [['--save_strategy', 'no', '--save_steps', '5'], '--save_steps 5: without effect: save_strategy is no.'],
    [['--bf16_master_weights', 'false'], '--bf16_master_weights false: without effect: dtype is float32.'],
    [
      ['--tune_vision', 'false', '--tune_llm', 'false'],
      'only the resampler trains: tune_vision and tune_llm are false and there is no LoRA.',
    ],
  ])('%j is accepted with a line', (words, notice) => {
    expect(resolve(...words).notices).toEqual([notice]);
  });

  it('evaluation data are used with --eval_strategy, also without --do_eval', () => {
    expect(resolve(...evaluated, '--do_eval', 'false').notices).toEqual([]);
  });

  it('the best checkpoint with shares of the run', () => {
    const words = [...evaluated, '--load_best_model_at_end', '--eval_steps', '0.1', '--save_steps'];
    expect(resolve(...words, '0.3').config.save.save_steps).toBe(0.3);
    expect(refusal([...base, ...words, '0.25']).message).toMatch(/multiple/);
    expect(refusal([...base, ...words, '100']).message).toMatch(/multiple/);
  });
});

it('--cache_vision takes no true or false, which would be names of folders', () => {
  const asked = (value: string) => refusal([...base, '--cache_vision', value]);
  expect(asked('false').cure).toContain('Give off');
  expect(asked('true').cure).toContain('Give auto');
  expect(resolve('--cache_vision', './true').config.engine.cache_vision).toBe('./true');
});

describe('offload', () => {
  it('of weights takes the optimizer along', () => {
    const { config, derived } = resolve('--offload_params', '/fast');
    expect(config.engine).toMatchObject({ offload_params: '/fast', offload_optimizer: '/fast' });
    expect(derived).toContain('offload_optimizer = /fast (offload_params: what is updated is there)');
    expect(resolve().config.engine).toMatchObject({ offload_params: 'none', offload_optimizer: 'none' });
  });

  it.each<[string[], RegExp]>([
    [['--zero_stage', '2'], /^Expected --zero_stage 3 or auto with --offload_params but received --zero_stage 2/],
    [['--offload_optimizer', 'none'], /^Expected --offload_optimizer cpu or a folder with --offload_params/],
    [['--use_lora', '--tune_llm', 'false', '--q_lora'], /^Expected no --q_lora with --offload_params/],
  ])('of weights refuses %j', (words, message) => {
    expect(refusal([...base, '--offload_params', 'cpu', ...words]).message).toMatch(message);
  });
});
