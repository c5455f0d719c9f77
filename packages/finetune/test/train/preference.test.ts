/** Whole runs of preference tuning: where the reference comes from, what is measured, and that a resumed run takes the same steps. */
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { train } from '../../src/train/train.js';
import { LONG } from '../support/long.js';
import { configOf, eventsOf, lossesOf, makePlace, type Place } from '../support/run-place.js';
import { tinyAdapter } from '../support/tiny-model.js';

let place: Place;
let pairs: string;
let labelled: string;
const before = process.env.XDG_CACHE_HOME;

beforeAll(() => {
  place = makePlace(4);
  process.env.XDG_CACHE_HOME = join(place.folder, 'cache');
  pairs = join(place.folder, 'pairs.json');
  const colours = ['red', 'blue and small', 'green', 'a yellow house by the sea', 'grey', 'white'];
  const records = colours.map((chosen, i) => ({
    image: `${i % 4}.bmp`,
    conversations: [
      { role: 'user', content: '<image>\nName the colour.' },
      { role: 'assistant', content: chosen },
    ],
    rejected: colours[(i + 1) % colours.length]!,
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

const referenceFiles = (): string[] => {
  const folder = join(place.folder, 'cache', 'minicpm-finetune', 'reference');
  return existsSync(folder) ? readdirSync(folder) : [];
};

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
    expect(readFileSync(path)).toEqual(bytes);
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
    near((await run('split', { ...flags, ...split })).losses, whole.losses, 1e-6 * 10);
    for (const precompute_ref of LONG ? ['true', 'false'] : ['true']) {
      const name = `resumed-${precompute_ref}`;
      const half = { ...flags, precompute_ref, save_strategy: 'steps', save_steps: 2 };
      await run(name, half);
      rmSync(join(place.folder, 'cache', 'minicpm-finetune', 'reference'), { recursive: true });
      const from = join(place.folder, name, 'checkpoint-2');
      const { losses } = await run(name, { ...half, resume_from_checkpoint: from });
      near(losses.slice(-1), whole.losses.slice(2));
    }
  }, 60_000);

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
