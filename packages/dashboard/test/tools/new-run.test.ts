/** The form of a new run: values are checked as the command line does, and its words mean what the form says. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { CONFIG_FLAGS, CONFIG_GROUPS, flagsOf } from '@minicpm-finetune/run';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tinyModel } from '../../../finetune/test/support/tiny-model.js';
import { LONG } from '../../../torch/test/support/long.js';
import { COMMAND_LINE, command } from '../support/command-line.js';
import { makeFolder, PageServer } from '../support/page-server.js';

const folder = makeFolder('new-run');
const MODEL = join(folder.path, 'model');
let server: PageServer;
beforeAll(async () => {
  mkdirSync(join(folder.path, 'runs'));
  tinyModel(MODEL);
  const turns = [
    { role: 'user', content: 'Q' },
    { role: 'assistant', content: 'A' },
  ];
  writeFileSync(join(folder.path, 'data of mine.jsonl'), `${JSON.stringify({ conversations: turns })}\n`.repeat(4));
  server = await PageServer.start([join(folder.path, 'runs')], { commandLine: COMMAND_LINE, cwd: folder.path });
});
afterAll(async () => {
  await server.close();
  folder.remove();
});

const VALUES = {
  model_name_or_path: MODEL,
  data_path: ['data of mine.jsonl'],
  output_dir: "runs/it's mine",
  learning_rate: '1e-3',
  use_lora: 'true',
  lora_target_modules: ['q_proj', 'v_proj'],
  max_steps: '7',
  memory_budget: '12GB',
  lr_scheduler_type: 'cosine_with_restarts',
  lr_scheduler_kwargs: '{"num_cycles": 2}',
  seed: '42',
};
const check = async (values: object, language = 'en') =>
  (await server.post('/api/command', { values }, 'POST', { 'accept-language': language })).json;

describe('GET /api/flags', () => {
  it('is the one table of flags, in groups with headings and help in both languages', async () => {
    const { json } = await server.get('/api/flags');
    expect(json.groups.map(({ name }: { name: string }) => name)).toEqual(CONFIG_GROUPS);
    expect(json.flags.map(({ name }: { name: string }) => name)).toEqual(flagsOf(CONFIG_FLAGS).map(({ name }) => name));
    for (const { help } of json.flags) expect(help.zh).not.toBe('');
  });
});

describe('POST /api/command', () => {
  it('has command line, recipe and changed flags in the order of the table, without what is the default', async () => {
    const checked = await check(VALUES);
    expect(checked.mistakes).toEqual([]);
    expect(checked.missing).toEqual([]);
    expect(checked.changed).not.toContain('seed');
    expect(checked.command).toBe(
      `minicpm-finetune train --model_name_or_path=${MODEL} '--data_path=data of mine.jsonl' ` +
        `'--output_dir=runs/it'\\''s mine' --use_lora=true --lora_target_modules=q_proj --lora_target_modules=v_proj ` +
        `--learning_rate=0.001 --max_steps=7 --lr_scheduler_type=cosine_with_restarts ` +
        `'--lr_scheduler_kwargs={"num_cycles":2}' --memory_budget=12000000000`,
    );
    expect(checked.recipe).toContain('learning_rate: 0.001\n');
  });

  it('puts mistakes beside their fields, in the words of the command line and the language of the page', async () => {
    const values = { lora_r: 'many', learning_rate: '-1', tune_vision: 'perhaps', lr_scheduler_type: 'round' };
    const { mistakes } = await check(values);
    expect(mistakes.map(({ field }: { field: string }) => field)).toEqual(Object.keys(values));
    expect(mistakes[0]).toMatchObject({
      message: 'Expected an integer of at least 1 for --lora_r but received "many".',
    });
    const chinese = await check(values, 'zh');
    expect(chinese.mistakes[0].message).toMatch(/--lora_r .*整数/);
  });

  it('says what is missing, and what has no effect', async () => {
    const { missing, idle } = await check({ lora_r: '8', max_steps: '3', num_train_epochs: '2' });
    expect(missing).toEqual(['model_name_or_path', 'data_path', 'output_dir']);
    expect(idle).toEqual([
      { name: 'lora_r', reason: 'use_lora is false' },
      { name: 'num_train_epochs', reason: 'max_steps is 3 and comes first' },
    ]);
  });

  it('refuses a flag that there is not, and a NUL', async () => {
    expect((await server.post('/api/command', { values: { lora_rr: '1' } })).json.error).toMatchObject({
      field: 'lora_rr',
      cure: 'Did you mean --lora_r?',
    });
    const { status } = await server.post('/api/command', { values: { output_dir: 'a\0b' } });
    expect(status).toBe(400);
    expect((await server.post('/api/command', { values: [] })).status).toBe(400);
    expect((await server.post('/api/command', { values: {}, more: 1 })).status).toBe(400);
  });
});

describe('the words of the form', () => {
  it('mean to the command line what the recipe means, and both what the form says', async () => {
    const checked = await check(VALUES);
    const words = shellWords(checked.command).slice(1);
    const direct = JSON.parse((await command([...words, '--dry_run=json'], folder.path)).stdout);
    writeFileSync(join(folder.path, 'recipe.yaml'), checked.recipe);
    const byRecipe = JSON.parse(
      (await command(['train', '--recipe=recipe.yaml', '--dry_run=json'], folder.path)).stdout,
    );
    expect(direct.error).toBeNull();
    expect(byRecipe.config).toEqual(direct.config);
    const { config } = direct;
    const all = Object.assign({}, ...Object.values(config));
    expect(all).toMatchObject({
      output_dir: "runs/it's mine",
      learning_rate: 1e-3,
      lora_target_modules: ['q_proj', 'v_proj'],
      max_steps: 7,
      memory_budget: 12e9,
      lr_scheduler_kwargs: { num_cycles: 2 },
    });
    const { json } = await server.post('/api/dry-run', { values: VALUES });
    expect(json).toMatchObject({ error: null, recipe: direct.recipe, disk: { free: expect.any(Number) } });
    expect(json.memory.by.length).toBeGreaterThan(3);
  });
});

describe('POST /api/dry-run', () => {
  it('has the mistake with its field: one value, a combination, a missing file', async () => {
    const dry = async (values: object) => (await server.post('/api/dry-run', { values })).json;
    if (LONG) expect((await dry({ ...VALUES, lora_r: 'x' })).error).toMatchObject({ field: 'lora_r' });
    expect((await dry({ ...VALUES, tune_llm: 'true' })).error).toMatchObject({ field: 'tune_llm' });
    const gone = await dry({ ...VALUES, data_path: ['gone.json'] });
    expect(gone.error).toMatchObject({ field: 'data_path', message: expect.stringContaining('gone.json') });
  });
});

describe('POST /api/estimate', () => {
  it('finds settings that fit into a room, or says that none do', async () => {
    const values = { model_name_or_path: MODEL, device: 'cpu' };
    const large = await server.post('/api/estimate', { values, room: 10e9 });
    expect(large.json).toMatchObject({ error: null, bytes: expect.any(Number), changes: {} });
    const none = await server.post('/api/estimate', { values, room: 1000 });
    expect(none.json).toMatchObject({ error: null, bytes: null });
  });
});

describe('POST /api/recipe', () => {
  it('reads values of a recipe, flat or by groups, and says what the form has no field for', async () => {
    const text = 'bf16: true\nlora:\n  lora_r: 8\ndata_path: [a.json, b.json]\ndeepspeed: ds.json\n';
    const { json } = await server.post('/api/recipe', { text });
    expect(json).toEqual({
      error: null,
      values: { data_path: ['a.json', 'b.json'], lora_r: 8, dtype: 'bfloat16' },
      left: ['deepspeed'],
    });
  });

  it('names the line of a mistake, and no file of the server', async () => {
    const { json } = await server.post('/api/recipe', { text: 'lora_r: 8\nlora_rr: 9\n' });
    expect(json.error.message).toMatch(/lora_rr.*\(recipe:2\)$/);
    expect(JSON.stringify(json)).not.toContain('minicpm-finetune-recipe');
  });

  it('refuses what is no YAML, and more than a megabyte', async () => {
    expect((await server.post('/api/recipe', { text: '{{{' })).json.error).not.toBeNull();
    expect((await server.post('/api/recipe', { text: 'a'.repeat(1_100_000) })).status).toBe(413);
  });
});

/** The words of a POSIX shell's line with single quotes. */
function shellWords(line: string): string[] {
  const words = line.match(/(?:'[^']*'|\\'|[^\s'])+/g) ?? [];
  return words.map((word) => word.replaceAll(/'([^']*)'|\\(')/g, (_, quoted, escaped) => quoted ?? escaped));
}
