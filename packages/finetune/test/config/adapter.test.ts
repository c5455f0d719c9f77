/** Flags beside an adapter that goes on: the adapter's values are taken, and what contradicts them is refused. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { resolveConfig } from '../../src/config/resolve.js';
import { base, refusal, resolve, userError } from '../support/config-words.js';
import { tinyAdapter, tinyModel } from '../support/tiny-model.js';

const work = mkdtempSync(join(tmpdir(), 'adapter-flags-'));
afterAll(() => rmSync(work, { recursive: true }));
const model = tinyModel(join(work, 'model'));
const adapter = tinyAdapter(model, join(work, 'adapter')); // r 4, alpha 8, q_proj and v_proj, resampler and vpm
const ON = ['--use_lora', '--lora_weight_path', adapter];

describe('values of the adapter', () => {
  it('take the place of defaults, and are said in one line', () => {
    const { config, notices, derived } = resolve(...ON);
    expect(config.lora).toMatchObject({
      lora_r: 4,
      lora_alpha: 8,
      lora_dropout: 0,
      lora_bias: 'none',
      use_dora: false,
      use_rslora: false,
      lora_modules_to_save: ['resampler', 'vpm'],
    });
    expect(config.trainables.tune_vision).toBe(true);
    expect(config.model).toMatchObject({ max_slice_nums: 4, scale_resolution: 56 });
    expect(derived).toContain('LoRA scale = 8 / 4 = 2');
    expect(derived.some((line) => line.startsWith('lora_modules_to_save'))).toBe(false);
    expect(notices).toEqual([
      expect.stringMatching(
        /^the adapter .* keeps what it has: r 4, alpha 8 \(scale 8 \/ 4 = 2\), targets .*, saved whole resampler vpm, bias none\.$/,
      ),
    ]);
  });

  it('may be given again, in any order and in other words for the same layers', () => {
    const again =
      '--lora_r 4 --lora_alpha 8 --tune_vision true --lora_bias none --use_dora false --lora_modules_to_save vpm resampler';
    expect(resolve(...ON, ...again.split(' ')).notices).toHaveLength(1);
    for (const targets of [['v_proj', 'q_proj'], ['llm\\..*(q|v)_proj'], ['self_attn.q_proj', 'v_proj'], ['.*proj']])
      expect(resolve(...ON, '--lora_target_modules', ...targets).notices).toHaveLength(1);
    expect(resolve(...ON, '--lora_layers_to_transform', '0', '1').config.lora.lora_layers_to_transform).toEqual([0, 1]);
  });

  it('dropout and slices may differ, which is said', () => {
    const { config, notices } = resolve(
      ...ON,
      ...'--lora_dropout 0.3 --max_slice_nums 2 --scale_resolution 70'.split(' '),
    );
    expect(config.lora.lora_dropout).toBe(0.3);
    expect(config.model).toMatchObject({ max_slice_nums: 2, scale_resolution: 70 });
    expect(notices.slice(1)).toEqual([
      '--lora_dropout 0.3: the adapter was trained with 0; the given one is used.',
      '--max_slice_nums 2: the adapter was trained with 4 slices at 56; the given value is used.',
      '--scale_resolution 70: the adapter was trained with 4 slices at 56; the given value is used.',
    ]);
  });
});

describe('contradictions are refused with both values', () => {
  const cases: readonly [flag: string, words: string[], kept: string][] = [
    ['lora_r', ['16'], '4 there and 16 here'],
    ['lora_alpha', ['64'], '8 there and 64 here'],
    ['use_rslora', ['true'], 'false there and true here'],
    ['use_dora', ['true'], 'false there and true here'],
    ['lora_bias', ['all'], 'none there and all here'],
    ['tune_vision', ['false'], 'true (resampler vpm is saved whole) there and false here'],
    ['lora_modules_to_save', ['embed_tokens'], 'resampler vpm there and ["embed_tokens"] here'],
    ['lora_target_modules', ['q_proj'], 'there and ["q_proj"] here'],
    ['lora_target_modules', ['q_proj', 'v_proj', 'up_proj'], 'there and ["q_proj","v_proj","up_proj"] here'],
    ['lora_layers_to_transform', ['0'], '0 1 there and [0] here'],
  ];
  it.each(cases)('--%s %j', (flag, words, kept) => {
    const error = refusal([...base, ...ON, `--${flag}`, ...words]);
    expect(error.message).toContain(`the values of the adapter ${adapter}`);
    expect(error.message).toContain(`--${flag} is `);
    expect(error.message).toContain(kept);
    expect(error.flag).toBe(`--${flag}`);
  });

  it('all of them at once', () => {
    const { message } = refusal([...base, ...ON, ...'--lora_r 16 --lora_alpha 64 --tune_vision false'.split(' ')]);
    expect(message).toMatch(/--lora_r is 4 .*; --lora_alpha is 8 .*; --tune_vision is true/);
  });

  it('in a recipe, at its line, and in a program', () => {
    const recipe = join(work, 'recipe.yaml');
    writeFileSync(recipe, `use_lora: true\nlora_weight_path: ${adapter}\nlora_r: 16\n`);
    const inRecipe = refusal([...base, '--recipe', recipe]);
    expect(inRecipe).toMatchObject({ file: recipe, line: 3 });
    expect(inRecipe.message).toContain('lora_r is 4 there and 16 here');
    const values = {
      model_name_or_path: 'm',
      data_path: ['d.json'],
      output_dir: 'o',
      use_lora: true,
      lora_weight_path: adapter,
    };
    expect(userError(() => resolveConfig({ ...values, lora_alpha: 1 })).message).toContain('8 there and 1 here');
    expect(resolveConfig({ ...values, lora_alpha: 8 }).config.lora.lora_r).toBe(4);
  });

  it('an adapter without a vision tower and --tune_vision true', () => {
    const blind = join(work, 'blind');
    mkdirSync(blind);
    const config = JSON.parse(readFileSync(join(adapter, 'adapter_config.json'), 'utf8')) as object;
    writeFileSync(join(blind, 'adapter_config.json'), JSON.stringify({ ...config, modules_to_save: ['resampler'] }));
    const words = [...base, '--use_lora', '--lora_weight_path', blind];
    expect(refusal([...words, '--tune_vision', 'true']).message).toContain(
      'false (resampler is saved whole) there and true here',
    );
    expect(resolve(...words.slice(base.length)).config.trainables.tune_vision).toBe(false);
  });

  it('a folder that is none', () => {
    expect(refusal([...base, '--use_lora', '--lora_weight_path', work])).toMatchObject({ flag: '--lora_weight_path' });
  });
});

describe('a resumed run', () => {
  const run = join(work, 'run');
  mkdirSync(run);
  const checkpoint = tinyAdapter(model, join(run, 'checkpoint-3'));
  const words = ['--model_name_or_path', 'm', '--data_path', 'd.json', '--output_dir', run, '--use_lora'];

  it('has the values of its checkpoint; --resume_anyway does not change an adapter', () => {
    writeFileSync(join(checkpoint, 'manifest.json'), '{}');
    for (const from of [['--resume_from_checkpoint'], ['--resume_from_checkpoint', checkpoint]]) {
      const { config } = resolve(...words.slice(6), '--output_dir', run, ...from);
      expect(config.lora).toMatchObject({ lora_r: 4, lora_alpha: 8 });
      expect(config.model.max_slice_nums).toBeNull();
      const error = refusal([...words, ...from, '--resume_anyway', 'true', '--lora_r', '16']);
      expect(error.message).toContain('--lora_r is 4 there and 16 here');
    }
  });
});

it('--tune_vision true beside a list of saved modules without the vision tower is said', () => {
  const words = ['--use_lora', '--lora_modules_to_save', 'resampler'];
  expect(resolve(...words, '--tune_vision', 'true').notices).toEqual([
    '--tune_vision true: without effect: lora_modules_to_save is resampler, without vpm.',
  ]);
  expect(resolve(...words).notices).toEqual([]);
});
