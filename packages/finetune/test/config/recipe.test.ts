import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { parseRecipe } from '../../src/config/recipe.js';
import { TRAIN_FLAGS } from '../../src/config/train-flags.js';
import { base, refusal, resolve, resolveTrainConfig, userError } from '../support/config-words.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'recipe-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function write(name: string, content: string): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

function values(text: string): Record<string, unknown> {
  return Object.fromEntries([...parseRecipe(text, 'r.yaml', TRAIN_FLAGS)].map(([name, { value }]) => [name, value]));
}

describe('reading', () => {
  it('has the same keys as the flags', () => {
    const text = `
# a comment
model_name_or_path: openbmb/MiniCPM-V-2_6
data_path: [a.json, b.jsonl]
data_weights: [1, 0.5]
learning_rate: 1e-5
use_lora: true
lora_r: "8"            # a number in quotes is a number
lora_target_modules: llm\\..*\\.(q_proj|k_proj)
lora_layers_to_transform: [0, 1]
lr_scheduler_kwargs: { num_cycles: 2 }
threads: null
memory_budget: 12GB
eval_strategy: no
save_strategy: false
run_name: 2024
`;
    expect(values(text)).toEqual({
      model_name_or_path: 'openbmb/MiniCPM-V-2_6',
      data_path: ['a.json', 'b.jsonl'],
      data_weights: [1, 0.5],
      learning_rate: 1e-5,
      use_lora: true,
      lora_r: 8,
      lora_target_modules: 'llm\\..*\\.(q_proj|k_proj)',
      lora_layers_to_transform: [0, 1],
      lr_scheduler_kwargs: { num_cycles: 2 },
      threads: null,
      memory_budget: 12e9,
      eval_strategy: 'no',
      save_strategy: 'no',
      run_name: '2024',
    });
  });

  it('takes one file as well as a list of files, JSON as well as YAML, groups as well as flat keys', () => {
    expect(values('data_path: a.json')).toEqual({ data_path: ['a.json'] });
    expect(values('{"lora_r": 8, "optimizer": {"learning_rate": 1e-5}}')).toEqual({ lora_r: 8, learning_rate: 1e-5 });
    expect(values('lora:\n  use_lora: true\n  lora_r: 8\nlearning_rate: 1\n')).toEqual({
      use_lora: true,
      lora_r: 8,
      learning_rate: 1,
    });
  });

  it('follows anchors', () => {
    expect(values('learning_rate: &rate 1e-5\nvision_learning_rate: *rate\n')).toEqual({
      learning_rate: 1e-5,
      vision_learning_rate: 1e-5,
    });
  });
});

describe('in a command line', () => {
  it('flags win over the recipe, the recipe over defaults', () => {
    const recipe = write('r.yaml', 'model_name_or_path: m\ndata_path: d\noutput_dir: o\nlora_r: 8\nlora_alpha: 16\n');
    for (const flag of ['--recipe', '--config']) {
      const { config } = resolveTrainConfig([flag, recipe, '--use_lora', '--lora_r', '4']);
      expect(config.lora).toMatchObject({ lora_r: 4, lora_alpha: 16, lora_dropout: 0.05 });
    }
  });

  it('a resolved configuration is a recipe that resolves to itself', () => {
    const { config } = resolve(
      ...[
        '--use_lora',
        '--bf16',
        '--eval_data_path',
        'e.json',
        '--evaluation_strategy',
        'steps',
        '--eval_steps',
        '0.1',
      ],
      ...['--lr_scheduler_type', 'cosine', '--lr_scheduler_kwargs', '{"num_cycles": 2}', '--report_to', 'tensorboard'],
    );
    for (const path of [write('run.json', JSON.stringify(config)), write('run.yaml', stringify(config))]) {
      const again = resolveTrainConfig(['--recipe', path]);
      expect(again.config).toEqual(config);
      expect(again.notices).toEqual([]); // what a resolved configuration does not use is no mistake
    }
  });

  it('reads a run.json as version 0.1.0 wrote it, value for value', () => {
    const path = join(import.meta.dirname, '..', 'fixtures', 'run-0.1.0.json');
    const { config, notices } = resolveTrainConfig(['--recipe', path]);
    expect(config).toMatchObject(JSON.parse(readFileSync(path, 'utf8')));
    expect(notices).toEqual([]);
  });

  it('speaks of the recipe where it speaks of its values', () => {
    const recipe = write('notice.yaml', 'remove_unused_columns: false\nlora_r: 8\n');
    expect(resolve('--recipe', recipe).notices).toEqual([
      'remove_unused_columns false: accepted, without effect: records are not tables, nothing is removed or renamed.',
      'lora_r 8: without effect: use_lora is false.',
    ]);
  });
});

describe('mistakes name file and line', () => {
  it.each<[string, string, number, RegExp]>([
    [
      'lora_r: 8\nlearnign_rate: 1',
      'a known key for the recipe but received learnign_rate.',
      2,
      /Did you mean learning_rate\?/,
    ],
    ['lora:\n  lora_s: 8', 'a known key for the recipe but received lora_s.', 2, /Did you mean lora_r\?/],
    [
      'optimiser:\n  learning_rate: 1',
      'a known key for the recipe but received optimiser.',
      1,
      /Did you mean optimizer\?/,
    ],
    ['lora:\n  learning_rate: 1', 'a key of the group lora but received learning_rate.', 2, /the group optimizer/],
    ['lora:\n  bf16: true', 'a key of the group lora but received bf16.', 2, /the outermost level/],
    ['lora: 8', 'keys of the group lora but received something else.', 1, /indented/],
    ['a: 1\nlora_r: 8\n', 'a known key for the recipe but received a.', 1, /flags of/],
    ['lora_r: 8\nlora:\n  lora_r: 9', 'lora_r once but received it twice.', 3, /Remove one/],
    ['lora_r: 8\nlora_r: 9', 'YAML or JSON but received something else: Map keys must be unique', 2, /key: value/],
    ['\n\nlora_r: [1', 'YAML or JSON but received something else: Flow sequence', 3, /key: value/],
    ['lora_r: 8\nlora_alpha: eight', 'a number above 0 for lora_alpha but received "eight".', 2, /--lora_alpha 64/],
    ['use_lora: maybe', 'true or false for use_lora but received "maybe".', 1, /true/],
    ['lora_r: null', 'an integer of at least 1 for lora_r but received null.', 1, /leave it out/],
    ['lora_r: {a: 1}', 'an integer of at least 1 for lora_r but received {"a":1}.', 1, /--lora_r 64/],
    ['data_path: [1, [2]]', 'a list of texts for data_path but received [1,[2]].', 1, /--data_path file/],
    ['- lora_r', 'keys with values for a recipe but received something else.', 1, /key: value/],
    ['', 'keys with values for a recipe but received something else.', 1, /key: value/],
    ['? [a]\n: 1', 'a name as the key but received something else.', 1, /names of flags/],
    ['recipe: other.yaml', 'a known key for the recipe but received recipe.', 1, /flags of/],
  ])('%j', (text, message, line, cure) => {
    const path = write('bad.yaml', text);
    const error = refusal([...base, '--recipe', path]);
    expect(error.message).toContain(`Expected ${message}`);
    expect(error.details()).toMatchObject({ file: path, line });
    expect(error.cure).toMatch(cure);
  });

  it('a file that is not there', () => {
    const error = refusal([...base, '--recipe', join(folder, 'missing.yaml')]);
    expect(error.message).toMatch(/^Expected a readable file for --recipe but received ".*missing.yaml" \(ENOENT\)\.$/);
    expect(refusal([...base, '--recipe', folder]).message).toMatch(/EISDIR/);
  });

  it('a bomb of aliases', () => {
    const levels = Array.from({ length: 9 }, (_, i) => {
      const inner = i === 0 ? '"x"' : `*a${i - 1}`;
      return `&a${i} [${Array(9).fill(inner).join(',')}]`;
    });
    const text = `data_path:\n${levels.map((level) => `  - ${level}`).join('\n')}\n`;
    expect(userError(() => parseRecipe(text, 'bomb.yaml', TRAIN_FLAGS)).message).toMatch(/alias/);
  });
});
