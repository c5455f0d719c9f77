/** Preference tuning by the command line: pairs with pictures on a newer model, and a reference whose computing was killed. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { tinyCheckpoint, writePicture } from '../../../minicpm-v/test/support/tiny.js';
import { LONG } from '../../../torch/test/support/long.js';
import { CLI, start, startTraining, words } from '../support/cli-run.js';
import { eventsOf, lossesOf } from '../support/run-place.js';

const work = mkdtempSync(join(tmpdir(), 'preference-'));
const before = process.env.XDG_CACHE_HOME;
beforeAll(() => {
  process.env.XDG_CACHE_HOME = join(work, 'cache'); // children have it, too
  for (const i of [0, 1]) writePicture(join(work, `${i}.bmp`), 150 + 90 * i, 90 + 20 * i, i);
});
afterAll(() => {
  if (before === undefined) delete process.env.XDG_CACHE_HOME;
  else process.env.XDG_CACHE_HOME = before;
  rmSync(work, { recursive: true });
});

const RED = ['red', 'light red', 'a red house'];
const BLUE = ['blue', 'dark blue', 'a blue house by the sea'];

function writePairs(name: string, count: number): string {
  const file = join(work, name);
  const pairs = Array.from({ length: count }, (_, i) => ({
    id: String(i),
    images: i % 3 === 2 ? ['0.bmp', '1.bmp'] : [`${i % 2}.bmp`],
    messages: [
      { role: 'user', content: `${i % 3 === 2 ? '<image><image>' : '<image>'}Name the colour ${i}.` },
      { role: 'assistant', content: RED[i % 3]! },
    ],
    rejected: BLUE[i % 3]!,
  }));
  writeFileSync(file, JSON.stringify(pairs));
  return file;
}

async function command(name: string, flags: Readonly<Record<string, unknown>>): Promise<string> {
  const { code, output } = await start(process.execPath, [CLI, name, ...words(flags)], work, 300_000).ended;
  expect(code, output).toBe(0);
  return output;
}

it('learns from pairs with pictures on 4.6, and answers with the adapter', { timeout: 300_000 }, async () => {
  const model = tinyCheckpoint(work, 'minicpm-v-4_6');
  const data = writePairs('pairs.json', 6);
  const looked = await command('check-data', { model_name_or_path: model, data_path: data, preference: 'dpo' });
  expect(looked).toContain('6 pairs: chosen answers have');
  const output = join(work, 'dpo');
  const said = await command('train', {
    ...{ model_name_or_path: model, data_path: data, output_dir: output, preference: 'dpo', use_lora: true },
    ...{ max_steps: 4, logging_steps: 1, per_device_train_batch_size: 3, gradient_accumulation_steps: 2 },
    ...{ learning_rate: 1e-2, lr_scheduler_type: 'constant', model_max_length: 512, packing: false },
  });
  expect(said).toContain('The reference is');
  const losses = lossesOf(output);
  expect(losses[0]).toBeCloseTo(Math.LN2, 4);
  expect(losses.at(-1)).toBeLessThan(0.9 * Math.LN2);
  const { preference } = eventsOf(output, 'step').at(-1)!;
  expect(preference!['rewards/accuracies']).toBe(1);
  expect(preference!['lengths/rejected']).toBeGreaterThan(preference!['lengths/chosen']!);
  const answers = join(work, 'answers.jsonl');
  await command('generate', { model, adapter: output, data_path: data, output: answers, max_new_tokens: 4 });
  expect(readFileSync(answers, 'utf8').trim().split('\n')).toHaveLength(6);
});

it.runIf(LONG)('computes the rest of a reference whose computing was killed', { timeout: 300_000 }, async () => {
  const model = tinyCheckpoint(work, 'minicpm-v-2_6');
  const flags = {
    ...{ model_name_or_path: model, data_path: writePairs('many.json', 80), preference: 'dpo', use_lora: true },
    ...{ max_steps: 2, logging_steps: 1, precompute_ref: true, per_device_eval_batch_size: 1 },
    ...{ model_max_length: 512, learning_rate: 1e-3, save_strategy: 'no', threads: 1 },
  };
  const folder = join(work, 'cache', 'minicpm-finetune', 'reference');
  rmSync(folder, { recursive: true, force: true }); // of other data
  const bytes = (): number =>
    existsSync(folder) ? readdirSync(folder).reduce((sum, name) => sum + statSync(join(folder, name)).size, 0) : 0;
  const killed = startTraining({ ...flags, output_dir: join(work, 'killed') }, work);
  let over = false;
  void killed.ended.then(() => {
    over = true;
  });
  while (bytes() < 44 && !over) await new Promise((resolve) => setTimeout(resolve, 2));
  killed.child.kill('SIGKILL');
  const { signal, output } = await killed.ended;
  expect(signal, output).toBe('SIGKILL');
  const known = Math.floor(bytes() / 44);
  expect(known).toBeGreaterThan(0);
  const again = await command('train', { ...flags, output_dir: join(work, 'again') });
  expect(again).toContain(`(${known} of 80 records are known already)`);
  expect(bytes()).toBe(80 * 44);
  rmSync(folder, { recursive: true });
  await command('train', { ...flags, output_dir: join(work, 'whole') });
  expect(lossesOf(join(work, 'again'))).toEqual(lossesOf(join(work, 'whole')));
});
