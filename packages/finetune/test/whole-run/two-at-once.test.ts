/** Two trainings start in one folder at once: one is refused, the other one ends as if it had been alone. Once, 50 times in the long part. */
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { startTraining, weightsHash } from '../support/cli-run.js';
import { eventsOf, makePlace, type Place } from '../support/run-place.js';

const ROUNDS = LONG ? 50 : 1;
const STEPS = LONG ? 8 : 4;

let place: Place;
beforeAll(() => {
  place = makePlace(8);
});
afterAll(() => rmSync(place.folder, { recursive: true }));

it(`one of two is refused each time, ${ROUNDS} times`, { timeout: 1_200_000 }, async () => {
  const flagsOf = (name: string) => ({
    model_name_or_path: place.model,
    data_path: place.data,
    output_dir: join(place.folder, name),
    use_lora: true,
    max_steps: STEPS,
    save_steps: 2,
    logging_steps: 1,
    threads: 1,
    dataloader_num_workers: 0,
  });
  expect((await startTraining(flagsOf('alone')).ended).code).toBe(0);
  const expected = weightsHash(join(place.folder, 'alone'));
  for (let round = 0; round < ROUNDS; round++) {
    const folder = join(place.folder, 'both');
    const ended = await Promise.all([0, 1].map(() => startTraining(flagsOf('both')).ended));
    expect(ended.map(({ code }) => code).sort(), ended.map(({ output }) => output).join('\n')).toEqual([0, 2]);
    const refused = ended.find(({ code }) => code === 2)!;
    expect(refused.output).toMatch(/in use by process \d+ on this machine since|holds an earlier run/);
    expect(eventsOf(folder, 'step').map(({ step }) => step)).toEqual(Array.from({ length: STEPS }, (_, i) => i + 1));
    expect(weightsHash(folder)).toBe(expected);
    expect(existsSync(join(folder, 'run.lock'))).toBe(false);
    rmSync(folder, { recursive: true });
  }
});
