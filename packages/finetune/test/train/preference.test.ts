/** Whole runs of preference tuning: where the reference comes from, what is measured, and that a resumed run takes the same steps. */
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { train } from '../../src/train/train.js';
import { weightsHash } from '../support/cli-run.js';
import { parquetFile } from '../support/parquet.js';
import { configOf, eventsOf, lossesOf, makePlace, type Place } from '../support/run-place.js';
import { tinyAdapter } from '../support/tiny-model.js';

let place: Place;
let pairs: string;
let labelled: string;
const before = process.env.XDG_CACHE_HOME;

const QUESTION = '<image>\nName the colour.';
const COLOURS = ['red', 'blue and small', 'green', 'a yellow house by the sea', 'grey', 'white'];
const otherThan = (i: number): string => COLOURS[(i + 1) % COLOURS.length]!;

beforeAll(() => {
  place = makePlace(4);
  process.env.XDG_CACHE_HOME = join(place.folder, 'cache');
  pairs = join(place.folder, 'pairs.json');
  const records = COLOURS.map((chosen, i) => ({
    image: `${i % 4}.bmp`,
    conversations: [
      { role: 'user', content: QUESTION },
      { role: 'assistant', content: chosen },
    ],
    rejected: otherThan(i),
  }));
  writeFileSync(pairs, JSON.stringify(records));
  labelled = join(place.folder, 'labelled.json');
  writeFileSync(
    labelled,
    JSON.stringify(records.map(({ rejected: _, ...record }, i) => ({ ...record, label: i % 2 === 0 }))),
  );
});

afterAll(() => {
  if (before === undefined) delete process.env.XDG_CACHE_HOME;
  else process.env.XDG_CACHE_HOME = before;
  rmSync(place.folder, { recursive: true });
});

const LORA = { use_lora: true, lora_r: 4, lora_alpha: 8, tune_vision: true, learning_rate: 1e-2 };

/** Trains and returns the losses of the steps, with what was said. */
async function run(name: string, flags: Readonly<Record<string, unknown>>) {
  const said: string[] = [];
  const config = configOf(place, name, { data_path: pairs, preference: 'dpo', max_steps: 3, ...flags });
  const reporter = {
    notice: (message: string) => said.push(message),
    task: () => ({ update() {}, finish() {} }),
  };
  await train(config, { reporter } as unknown as Parameters<typeof train>[1]);
  return { losses: lossesOf(config.output.output_dir), said: said.join('\n'), folder: config.output.output_dir };
}

const near = (a: readonly number[], b: readonly number[], most = 1e-5): void => {
  expect(a).toHaveLength(b.length);
  for (const [i, value] of a.entries())
    expect(Math.abs(value - b[i]!), `loss ${i}: ${value}, ${b[i]}`).toBeLessThan(most);
};

/** Entries without the stamps of their pictures' files, which are not known while these are fresh, and without the sums. */
const withoutStamps = (bytes: Buffer): Buffer[] =>
  Array.from({ length: bytes.length / 44 }, (_, i) => bytes.subarray(44 * i, 44 * (i + 1))).flatMap((entry) => [
    entry.subarray(0, 12),
    entry.subarray(20, 40),
  ]);

const referenceFiles = (): string[] => {
  const folder = join(place.folder, 'cache', 'minicpm-finetune', 'reference');
  return existsSync(folder) ? readdirSync(folder) : [];
};

const turn = (role: string, content: string) => ({ role, content });
const said = (from: string, value: string) => ({ from, value });
type Form = (chosen: string, i: number) => object;

/** The pairs of the file as other tools write them. */
const PAIR_FORMS: Readonly<Record<string, Form>> = {
  TRL: (chosen, i) => ({
    ...{ prompt: [turn('user', QUESTION)], chosen: [turn('assistant', chosen)] },
    ...{ rejected: [turn('assistant', otherThan(i))], images: [`${i % 4}.bmp`] },
  }),
  'ms-swift': (chosen, i) => ({
    messages: [turn('user', QUESTION), turn('assistant', chosen)],
    ...{ rejected_response: otherThan(i), images: [`${i % 4}.bmp`] },
  }),
  'LLaMA-Factory': (chosen, i) => ({
    conversations: [said('human', QUESTION)],
    ...{ chosen: said('gpt', chosen), rejected: said('gpt', otherThan(i)), images: [`${i % 4}.bmp`] },
  }),
  'RLAIF-V': (chosen, i) => ({ question: QUESTION, chosen, rejected: otherThan(i), image: `${i % 4}.bmp` }),
};

/** The answers called good or bad as other tools write them. */
const LABELLED_FORMS: Readonly<Record<string, Form>> = {
  TRL: (completion, i) => ({ prompt: QUESTION, completion, label: i % 2 === 0, image: `${i % 4}.bmp` }),
  'ms-swift': (answer, i) => ({
    messages: [turn('user', QUESTION), turn('assistant', answer)],
    ...{ label: i % 2 === 0, images: [`${i % 4}.bmp`] },
  }),
  'LLaMA-Factory': (answer, i) => ({
    conversations: [said('human', QUESTION), said('gpt', answer)],
    ...{ kto_tag: i % 2 === 0, images: [`${i % 4}.bmp`] },
  }),
};

/** Writes the records in a form and returns the file. */
function inForm(name: string, form: Form): string {
  const file = join(place.folder, `${name}.json`);
  writeFileSync(file, JSON.stringify(COLOURS.map(form)));
  return file;
}

describe('the data of train --preference', () => {
  const few = { ...LORA, max_steps: 1, precompute_ref: 'false', learning_rate: 1e-3 };

  it('are the same pairs in every form, in parquet as well', async () => {
    const { losses } = await run('pairs', { ...few, preference: 'simpo' });
    for (const [name, form] of Object.entries(PAIR_FORMS)) {
      const other = await run(name, { ...few, preference: 'simpo', data_path: inForm(name, form) });
      expect(other.losses, name).toEqual(losses);
    }
    const file = join(place.folder, 'pairs.parquet');
    const images = COLOURS.map((_, i) => readFileSync(join(place.folder, `${i % 4}.bmp`)));
    const columns = { chosen: COLOURS, rejected: COLOURS.map((_, i) => otherThan(i)), image: images };
    writeFileSync(file, parquetFile({ question: COLOURS.map(() => QUESTION), ...columns }));
    expect((await run('parquet', { ...few, preference: 'simpo', data_path: file })).losses).toEqual(losses);
  }, 120_000);

  it('are the same answers called good or bad in every form', async () => {
    // the second step depends on the gradient of the first
    const two = { ...few, max_steps: 2, preference: 'kto', per_device_train_batch_size: 3 };
    const { losses } = await run('answers', { ...two, data_path: labelled });
    expect(losses[1]).not.toBeCloseTo(0.5, 4);
    for (const [name, form] of Object.entries(LABELLED_FORMS))
      expect((await run(`kto-${name}`, { ...two, data_path: inForm(`kto-${name}`, form) })).losses, name).toEqual(
        losses,
      );
  }, 120_000);
});

describe('train --preference', () => {
  it('takes the same steps with adapters off and with log-probabilities computed once, which are remembered', async () => {
    const live = await run('live', { ...LORA, precompute_ref: 'false' });
    expect(live.said).toContain('The reference is the base with the adapters off');
    expect(live.losses[0]).toBeCloseTo(Math.LN2, 6);
    expect(live.losses.at(-1)).not.toBeCloseTo(Math.LN2, 2);
    const once = await run('once', { ...LORA, precompute_ref: 'true' });
    near(once.losses, live.losses);
    expect(referenceFiles()).toHaveLength(1);
    const path = join(place.folder, 'cache', 'minicpm-finetune', 'reference', referenceFiles()[0]!);
    const bytes = readFileSync(path);
    expect(bytes).toHaveLength(6 * 44);
    writeFileSync(path, bytes.subarray(0, 100)); // a start that was killed in the middle
    near((await run('again', { ...LORA, precompute_ref: 'true' })).losses, live.losses);
    expect(withoutStamps(readFileSync(path))).toEqual(withoutStamps(bytes));
    const { preference } = eventsOf(live.folder, 'step').at(-1)!;
    expect(preference!['rewards/margins']).toBeCloseTo(
      preference!['rewards/chosen']! - preference!['rewards/rejected']!,
      6,
    );
    expect(preference!['logps/chosen']).toBeLessThan(0);
  }, 60_000);

  it('compares with a copy of an adapter that goes on, and with the whole model as it was', async () => {
    const adapter = tinyAdapter(place.model, join(place.folder, 'adapter'), 5);
    const on = { use_lora: true, lora_weight_path: adapter, learning_rate: 1e-3 };
    const live = await run('on-live', { ...on, precompute_ref: 'false' });
    expect(live.said).toContain('a copy of what trains');
    expect(live.losses[0]).toBeCloseTo(Math.LN2, 6);
    near((await run('on-once', { ...on, precompute_ref: 'true' })).losses, live.losses);
    if (!LONG) return;
    const full = await run('full', { learning_rate: 1e-4 });
    expect(full.losses[0]).toBeCloseTo(Math.LN2, 6);
    near((await run('full-live', { learning_rate: 1e-4, precompute_ref: 'false' })).losses, full.losses);
  }, 60_000);

  it('takes the same steps in other micro-batches, packed, and resumed with a reference that has to be computed again', async () => {
    const flags = { ...LORA, preference: 'mpo', precompute_ref: 'true', per_device_train_batch_size: 4 };
    const whole = await run('whole', flags);
    const split = { per_device_train_batch_size: 1, gradient_accumulation_steps: 4 };
    const { losses } = await run('split', { ...flags, ...split });
    expect(Math.abs(losses[0]! / whole.losses[0]! - 1)).toBeLessThan(1e-6);
    near(losses, whole.losses); // rounding grows in the updates
    for (const precompute_ref of LONG ? ['true', 'false'] : ['true']) {
      const name = `resumed-${precompute_ref}`;
      const half = { ...flags, precompute_ref, save_strategy: 'steps', save_steps: 2 };
      await run(name, half);
      rmSync(join(place.folder, 'cache', 'minicpm-finetune', 'reference'), { recursive: true });
      const from = join(place.folder, name, 'checkpoint-2');
      const resumed = await run(name, { ...half, resume_from_checkpoint: from });
      near(resumed.losses.slice(-1), whole.losses.slice(2));
    }
  }, 60_000);

  it.each<[name: string, changes: Readonly<Record<string, unknown>>]>([
    ['new adapters', {}],
    ['a quantized base', { q_lora: true }],
    ['an adapter that goes on', { lora_weight_path: true, precompute_ref: 'true' }],
    ...(LONG
      ? ([
          ['a quantized base, computed once', { q_lora: true, precompute_ref: 'true' }],
          ['an adapter that goes on, beside the training', { lora_weight_path: true }],
          ['all of the model', { use_lora: false, learning_rate: 1e-4 }],
        ] satisfies [string, object][])
      : []),
  ])(
    'ends in the same weights when it is resumed in the middle: %s',
    async (name, changes) => {
      const given = Object.entries({ ...LORA, precompute_ref: 'false', ...changes });
      const adapter = join(place.folder, `adapter of ${name}`);
      if ('lora_weight_path' in changes) tinyAdapter(place.model, adapter, 7);
      const flags = Object.fromEntries(
        given.map(([key, value]) => [key, key === 'lora_weight_path' ? adapter : value]),
      );
      const whole = await run(`whole ${name}`, { ...flags, save_strategy: 'steps', save_steps: 2 });
      expect(whole.losses[0]).toBeCloseTo(Math.LN2, 6);
      const from = join(whole.folder, 'checkpoint-2');
      const resumed = await run(`resumed ${name}`, { ...flags, resume_from_checkpoint: from });
      expect(resumed.losses).toEqual(whole.losses.slice(2));
      expect(weightsHash(whole.folder)).toBeDefined();
      expect(weightsHash(resumed.folder)).toBe(weightsHash(whole.folder));
    },
    60_000,
  );

  it('learns from answers called good or bad, over a quantized base', async () => {
    const { losses, folder } = await run('kto', {
      ...LORA,
      preference: 'kto',
      q_lora: true,
      data_path: labelled,
      max_steps: 2,
    });
    expect(losses[0]).toBeCloseTo(0.5, 6);
    const names = eventsOf(folder, 'step').flatMap(({ preference }) => Object.keys(preference!));
    expect(names).toEqual(expect.arrayContaining(['rewards/chosen', 'rewards/rejected', 'kl']));
  }, 60_000);

  it('keeps the model with the best accuracy, and packs pairs', async () => {
    const best = {
      eval_data_path: pairs,
      eval_strategy: 'steps',
      eval_steps: 2,
      metric_for_best_model: 'rewards/accuracies',
    };
    const { folder } = await run('best', { ...LORA, ...best, packing: true, per_device_train_batch_size: 1 });
    const evaluations = eventsOf(folder, 'eval');
    const accuracies = evaluations.map(({ metrics }) => metrics['rewards/accuracies']!);
    expect(Math.max(...accuracies)).toBeGreaterThanOrEqual(0.5);
    for (const { loss, metrics } of evaluations) {
      expect(loss).not.toBeCloseTo(Math.LN2, 3);
      expect(metrics['rewards/margins']).toBeCloseTo(metrics['rewards/chosen']! - metrics['rewards/rejected']!, 6);
    }
    const saved = eventsOf(folder, 'checkpoint').filter(({ reason }) => reason === 'best');
    expect(saved[0]!.step).toBe(2);
    expect(saved).toHaveLength(accuracies[1]! > accuracies[0]! ? 2 : 1);
  }, 60_000);
});
