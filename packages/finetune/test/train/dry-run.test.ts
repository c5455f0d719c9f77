/** --dry_run finds what a start would refuse, with the same words, and leaves the output folder as it was. */
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '@minicpm-finetune/run';
import { liveTensors } from '@minicpm-finetune/torch';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { dryRun } from '../../src/train/dry-run.js';
import { train } from '../../src/train/train.js';
import { Reports } from '../support/reports.js';
import { configOf, makePlace, type Place } from '../support/run-place.js';
import { tinyAdapter } from '../support/tiny-model.js';

type Flags = Readonly<Record<string, unknown>>;

let place: Place;
const at = (...names: string[]): string => join(place.folder, ...names);
beforeAll(() => {
  place = makePlace(8);
  vi.stubEnv('XDG_CACHE_HOME', at('cache'));
});
afterAll(() => {
  vi.unstubAllEnvs();
  rmSync(place.folder, { recursive: true });
});

const turns = (question: string, answer: string) => [
  { role: 'user', content: question },
  { role: 'assistant', content: answer },
];

/** A file of `count` text records, some of them replaced. */
function data(name: string, count: number, others: Readonly<Record<number, object>> = {}): string {
  const records = Array.from(
    { length: count },
    (_, i) => others[i] ?? { conversations: turns(`Question ${i}`, 'Yes') },
  );
  writeFileSync(at(name), JSON.stringify(records));
  return at(name);
}

async function dry(name: string, flags: Flags = {}) {
  const reporter = new Reports();
  const lines = await dryRun(configOf(place, name, flags), { reporter });
  return { lines, reporter };
}

async function errorOf(work: Promise<unknown>): Promise<UserError> {
  const error: unknown = await work.then(
    () => undefined,
    (cause: unknown) => cause,
  );
  expect(error).toBeInstanceOf(UserError);
  return error as UserError;
}

/** Both refuse, in the same words and at the same place; the folder stays as it is. */
async function bothRefuse(name: string, flags: Flags, message: RegExp): Promise<void> {
  const before = existsSync(at(name)) ? contents(at(name)) : null;
  const error = await errorOf(dry(name, flags));
  expect(error.message).toMatch(message);
  expect(existsSync(at(name)) ? contents(at(name)) : null).toEqual(before);
  const start = await errorOf(train(configOf(place, name, flags)));
  expect([error.message, error.details()]).toEqual([start.message, start.details()]);
}

const contents = (folder: string): [string, number][] =>
  readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .sort()
    .map((name) => [name, statSync(join(folder, name)).mtimeMs]);

describe('records', () => {
  const LATE: readonly (readonly [string, object, Flags, RegExp])[] = [
    ['a form', { conversations: [{ role: 'user', content: 'Q' }] }, {}, /Expected a turn of the assistant/],
    ['a file', { image: 'gone.jpg', conversations: turns('<image>\nQ', 'A') }, {}, /gone\.jpg/],
    ['a header', { image: 'broken.jpg', conversations: turns('<image>\nQ', 'A') }, {}, /broken\.jpg/],
    ['a length', { conversations: turns('word '.repeat(400), 'A') }, { overlong: 'error' }, /at most 256 tokens/],
    ['nothing to learn', { conversations: turns('word '.repeat(400), 'A') }, {}, /nothing to learn is left/],
  ];
  beforeAll(() => writeFileSync(at('broken.jpg'), 'not a picture'));

  it.each(LATE)('%s is found after the records that are decoded', async (_, record, flags, message) => {
    await bothRefuse('late', { data_path: data('late.json', 300, { 280: record }), ...flags }, message);
  });

  it.each(LONG ? LATE : LATE.slice(0, 1))('%s is found in evaluation data', async (_, record, flags, message) => {
    const eval_data_path = data('late-eval.json', 300, { 280: record });
    await bothRefuse('late-eval', { eval_data_path, eval_strategy: 'steps', eval_steps: 1, ...flags }, message);
  });

  it('asked by --eval_generate are looked at as questions', async () => {
    writeFileSync(at('thin.bmp'), thinPicture());
    const asked = { image: 'thin.bmp', conversations: turns('<image>\nQ', 'A') };
    const eval_data_path = data('ask.json', 300, { 0: asked });
    const flags = { eval_data_path, eval_strategy: 'steps', eval_steps: 1, eval_generate: 1, compat: 'official' };
    await bothRefuse('ask', flags, /1x400/);
    await dry('ask', { ...flags, eval_generate: 0 });
  });

  it('that are left out are counted', async () => {
    const data_path = data('two-bad.json', 300, { 4: { conversations: [] }, 290: { conversations: [] } });
    const { lines } = await dry('skip', { data_path, on_bad_record: 'skip', max_bad_fraction: 0.1 });
    expect(lines.join('\n')).toMatch(
      /^training data: 300 records, \d+ to \d+ tokens in each, \d+ on average\nbad records, left out: 2, the first: record 4 of /m,
    );
    const flags = { data_path, on_bad_record: 'skip', max_bad_fraction: 0.001 };
    await bothRefuse('skip', flags, /at most 0\.1 % of 300 records to be bad/);
  });

  it('are known to the start after the dry run, and the other way round', async () => {
    const data_path = data('known.json', 600);
    expect((await dry('known', { data_path })).reporter.tasks.map(({ total }) => total)).toContain(600);
    const reporter = new Reports();
    await train(configOf(place, 'known', { data_path, max_steps: 1 }), { reporter });
    expect(reporter.tasks.map(({ label }) => label)).not.toContain('Reading records');
    expect((await dry('known 2', { data_path })).reporter.tasks).toEqual([]);
  });
});

describe('what is said', () => {
  it('is the arithmetic with the number of records, the data, and the memory of the largest micro-batch', async () => {
    const data_path = data('sizes.json', 300, { 123: { conversations: turns('Q', 'word '.repeat(100)) } });
    const eval_data_path = data('sizes-eval.json', 3);
    const before = liveTensors();
    const { lines } = await dry('said', { data_path, eval_data_path, max_steps: -1, num_train_epochs: 1 });
    expect(liveTensors()).toEqual(before);
    const text = lines.join('\n');
    expect(text).toContain('steps per epoch = ceil(300 / (2 × 1)) = 150');
    expect(text).toMatch(/^evaluation data: 3 records, /m);
    const [, most] = /^training data: 300 records, \d+ to (\d+) tokens/m.exec(text)!;
    const [, tokens] = /^memory: about .* for (\d+) tokens and \d+ pictures? at once/m.exec(text)!;
    expect(Number(tokens)).toBeGreaterThan(Number(most));
    expect(Number(tokens)).toBeLessThan(2 * Number(most));
    expect(existsSync(at('said'))).toBe(false);
  });
});

describe('weights and flags', () => {
  it('of another model are refused', async () => {
    cpSync(place.model, at('other'), { recursive: true });
    const file = at('other', 'config.json');
    const config = JSON.parse(readFileSync(file, 'utf8')) as { query_num: number };
    writeFileSync(file, JSON.stringify({ ...config, query_num: 9 }));
    await bothRefuse('weights', { model_name_or_path: at('other') }, /of another shape or type: resampler\.query/);
  });

  it('of another base than that of the adapter are refused', async () => {
    const adapter = tinyAdapter(place.model, at('adapter'));
    cpSync(place.model, at('retrained'), { recursive: true });
    const weights = at('retrained', 'model.safetensors');
    const bytes = readFileSync(weights);
    bytes[bytes.length - 1]! ^= 1;
    writeFileSync(weights, bytes);
    const flags = { use_lora: true, lora_weight_path: adapter, model_name_or_path: at('retrained') };
    await bothRefuse('base', flags, /base/i);
  });

  it('that leave nothing to quantize are refused', async () => {
    const flags = { use_lora: true, q_lora: true, lora_modules_to_save: 'llm.model', lora_target_modules: 'vpm.*fc1' };
    await bothRefuse('unquantized', flags, /frozen linear weights in the language model for --q_lora/);
  });
});

describe('a run that is resumed', () => {
  const LORA = { use_lora: true, lora_r: 2, max_steps: 4, save_strategy: 'steps', save_steps: 2 };

  it('has its checkpoint checked, and nothing of it touched', async () => {
    await train(configOf(place, 'whole', LORA));
    rmSync(at('whole', 'trainer_state.json'));
    const unfinished = at('whole', '.checkpoint-6.unfinished');
    mkdirSync(unfinished);
    const again = { ...LORA, resume_from_checkpoint: 'latest' };
    const before = contents(at('whole'));
    await dry('whole', again);
    expect(contents(at('whole'))).toEqual(before);
    await errorOf(dry('whole', { ...again, lora_r: 4 }));
    await bothRefuse('whole', { ...again, learning_rate: 1 }, /learning_rate was/);
    const adapter = at('whole', 'checkpoint-4', 'adapter_model.safetensors');
    writeFileSync(adapter, readFileSync(adapter).subarray(1));
    await bothRefuse('whole', again, /checkpoint-4|adapter_model/);
  });

  it('says that nothing is left to do', async () => {
    await train(configOf(place, 'finished', LORA));
    const { lines } = await dry('finished', { ...LORA, resume_from_checkpoint: 'latest' });
    expect(lines).toEqual([expect.stringContaining('is finished: all 4 steps were taken')]);
  });
});

/** A picture that is too thin to be asked about. */
function thinPicture(): Buffer {
  const [width, height] = [1, 400];
  const bytes = Buffer.alloc(54 + 4 * height, 120).fill(0, 0, 54);
  bytes.write('BM');
  bytes.writeUInt32LE(bytes.length, 2);
  bytes.writeUInt32LE(54, 10);
  bytes.writeUInt32LE(40, 14);
  bytes.writeInt32LE(width, 18);
  bytes.writeInt32LE(height, 22);
  bytes.writeUInt16LE(1, 26);
  bytes.writeUInt16LE(24, 28);
  return bytes;
}
