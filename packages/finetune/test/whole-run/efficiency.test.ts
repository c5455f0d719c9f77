/** Flags that save time or memory and change no number, seen in whole runs. */
import { rmSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { expectNear, FORWARD } from '../../../torch/test/precision.js';
import { train } from '../../src/train/train.js';
import { resolveTrainConfig } from '../support/config-words.js';
import { configOf, eventsOf, lossesOf, makePlace, type Place } from '../support/run-place.js';

let place: Place;
beforeAll(() => {
  place = makePlace(8);
});
afterAll(() => rmSync(place.folder, { recursive: true }));

async function run(name: string, flags: Readonly<Record<string, unknown>>): Promise<string> {
  const config = configOf(place, name, flags);
  await train(config);
  return config.output.output_dir;
}

describe('--packing', () => {
  it('trains on the same records with the same losses', async () => {
    const all = { per_device_train_batch_size: 8, max_steps: 3 };
    const plain = await run('unpacked', all);
    const packed = await run('packed', { ...all, packing: true, model_max_length: 100 });
    const [before, after] = [lossesOf(plain), lossesOf(packed)];
    expect(after).toHaveLength(3);
    expectNear(after, before, FORWARD);
    const [start] = eventsOf(packed, 'run_start');
    expect(start!.derived).toContainEqual(expect.stringMatching(/^steps per epoch = ceil\(\d packed sequences/));
  });

  it('fills sequences, so that an epoch has fewer steps', async () => {
    const flags = { per_device_train_batch_size: 1, max_steps: -1, num_train_epochs: 2 };
    const folder = await run('packed-epochs', { ...flags, packing: true, model_max_length: 100 });
    const steps = eventsOf(folder, 'step');
    const [start] = eventsOf(folder, 'run_start');
    expect(start!.total_steps).toBeLessThan(16);
    expect(steps).toHaveLength(start!.total_steps);
    expect(steps.at(-1)!.epoch).toBe(2);
  });

  it('leaves nothing for the flags that arrange records otherwise', () => {
    const words = '--model_name_or_path m --data_path d --output_dir o --packing --group_by_length';
    const { notices } = resolveTrainConfig(words.split(' '));
    expect(notices).toContain('--group_by_length true: without effect: packing is true.');
  });
});
