/** Preference tuning over ranks, in processes of their own: the numbers of one rank alone, whatever the reference and the stage. */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { train } from '../../src/train/train.js';
import { runRanks } from '../support/rank-processes.js';
import { configOf, eventsOf, lossesOf, makePlace, type Place } from '../support/run-place.js';

let place: Place;
let pairs: string;
const before = process.env.XDG_CACHE_HOME;

beforeAll(() => {
  place = makePlace(4);
  process.env.XDG_CACHE_HOME = join(place.folder, 'cache');
  pairs = join(place.folder, 'pairs.json');
  const answers = ['red', 'blue and small', 'green', 'a yellow house', 'grey'];
  const records = answers.map((chosen, i) => ({
    ...(i === 2 ? {} : { image: `${i % 4}.bmp` }),
    conversations: [{ role: 'user', content: 'Name the colour.' }],
    chosen: { role: 'assistant', content: chosen },
    rejected: { role: 'assistant', content: answers[(i + 1) % answers.length]! },
  }));
  writeFileSync(pairs, JSON.stringify(records));
});

afterAll(() => {
  if (before === undefined) delete process.env.XDG_CACHE_HOME;
  else process.env.XDG_CACHE_HOME = before;
  rmSync(place.folder, { recursive: true });
});

const flagsOf = (name: string, flags: Readonly<Record<string, unknown>>) => ({
  ...{ model_name_or_path: place.model, data_path: [pairs], output_dir: join(place.folder, name), max_steps: 2 },
  ...{ model_max_length: 256, per_device_train_batch_size: 1, learning_rate: 1e-2, lr_scheduler_type: 'constant' },
  ...{ logging_steps: 1, save_strategy: 'no', dataloader_num_workers: 0, threads: 1, cache_vision: 'off' },
  ...{ use_lora: true, lora_r: 4, lora_alpha: 8, preference: 'mpo', eval_data_path: [pairs], ...flags },
});

describe('train --preference over ranks', () => {
  it.each([
    { zero_stage: '3', precompute_ref: 'false' },
    ...(LONG
      ? [
          { zero_stage: '2', precompute_ref: 'false' },
          { zero_stage: '3', precompute_ref: 'true' },
        ]
      : []),
  ])(
    '%o',
    async (how) => {
      const name = `${how.zero_stage}-${how.precompute_ref}`;
      const alone = { gradient_accumulation_steps: 2, eval_strategy: 'epoch', precompute_ref: how.precompute_ref };
      const all = Object.entries(flagsOf(`alone-${name}`, alone)).map(([key, value]) => [
        key,
        Array.isArray(value) ? value[0] : value,
      ]);
      await train(configOf(place, `alone-${name}`, Object.fromEntries(all)));
      const flags = flagsOf(name, { ...how, eval_strategy: 'epoch' });
      const ends = await runRanks(2, 'train-rank.mjs', () => [JSON.stringify(flags)]);
      for (const { code, stderr } of ends) expect(code, stderr).toBe(0);
      const [one, two] = [`alone-${name}`, name].map((folder) => join(place.folder, folder)) as [string, string];
      expect(lossesOf(two)).toEqual(lossesOf(one));
      const metrics = [one, two].map((folder) =>
        eventsOf(folder, 'eval').map(({ loss, metrics: found }) => [loss, found]),
      );
      expect(metrics[1]).toEqual(metrics[0]);
    },
    60_000,
  );
});
