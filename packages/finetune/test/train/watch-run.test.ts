/** What the events of a run tell those who watch it. */
import { readFileSync, rmSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { train } from '../../src/train/train.js';
import { configOf, eventsOf, makePlace, type Place } from '../support/run-place.js';

let place: Place;
beforeAll(() => {
  place = makePlace(8);
});
afterAll(() => rmSync(place.folder, { recursive: true }));

it('names the process, its phases and what memory is planned with', async () => {
  const eval_data_path = place.data;
  const flags = {
    max_steps: 4,
    eval_data_path,
    eval_strategy: 'steps',
    eval_steps: 2,
    save_strategy: 'steps',
    save_steps: 2,
  };
  const config = configOf(place, 'watched', { ...flags, gradient_checkpointing: 'auto' });
  await train(config);
  const { output_dir: folder } = config.output;
  const [first, second] = readFileSync(join(folder, 'events.jsonl'), 'utf8')
    .split('\n')
    .map((line) => (line === '' ? null : JSON.parse(line)));
  const start = readFileSync(`/proc/${process.pid}/stat`, 'utf8').split(') ')[1]!.split(' ')[19];
  expect(first).toMatchObject({
    event: 'run_start',
    pid: process.pid,
    process_start: start,
    hostname: hostname(),
    cwd: process.cwd(),
    command: [process.argv0, ...process.argv.slice(1)],
  });
  expect(second).toMatchObject({ event: 'phase', name: 'training', step: 0 });
  const phases = eventsOf(folder, 'phase').map(({ name, step }) => `${name} ${step}`);
  const around = (step: number): string[] => [`evaluating ${step}`, `saving ${step}`];
  expect(phases).toEqual(['training 0', ...around(2), 'training 2', ...around(4)]);
  const [plan] = eventsOf(folder, 'memory_plan');
  expect(plan).toMatchObject({ budget: expect.any(Number), baseline: expect.any(Number), kept: expect.any(Number) });
  expect(plan!.budget).toBeGreaterThan(plan!.baseline!);
  expect(Object.keys(plan!.by)).toEqual(expect.arrayContaining(['weights', 'masters']));
});
