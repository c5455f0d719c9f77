/** Signals and the STOP file, on the real command line. */
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { checkpointsIn, hasWeights, printed, type Running, startTraining, weightsHash } from '../support/cli-run.js';
import { eventsOf, makePlace, type Place } from '../support/run-place.js';

let place: Place;
let whole: string;
const STEPS = 40;

function flagsOf(name: string, more: Readonly<Record<string, unknown>> = {}): Record<string, unknown> {
  return {
    model_name_or_path: place.model,
    data_path: place.data,
    output_dir: join(place.folder, name),
    per_device_train_batch_size: 4,
    max_steps: STEPS,
    learning_rate: 1e-4,
    use_lora: true,
    lora_r: 4,
    save_strategy: 'no',
    logging_steps: 1,
    threads: 1,
    dataloader_num_workers: 0,
    ...more,
  };
}

/** A run that has taken its third step. */
async function underWay(name: string, more: Readonly<Record<string, unknown>> = {}): Promise<Running> {
  const running = startTraining(flagsOf(name, more));
  await printed(running, `step 3/${STEPS}`);
  return running;
}

beforeAll(async () => {
  place = makePlace(16);
  const { code, output } = await startTraining(flagsOf('whole')).ended;
  expect(code, output).toBe(0);
  whole = weightsHash(join(place.folder, 'whole'));
});
afterAll(() => rmSync(place.folder, { recursive: true }));

describe('the first request', () => {
  const requests: readonly (readonly [string, number, (running: Running, folder: string) => void])[] = [
    ['sigint', 130, ({ child }) => child.kill('SIGINT')],
    ['stop_file', 0, (_, folder) => writeFileSync(join(folder, 'STOP'), '')],
    ['sigterm', 0, ({ child }) => child.kill('SIGTERM')],
  ];

  it.each(LONG ? requests : requests.slice(0, 2))(
    '%s finishes the step, saves and ends with %i; the run can go on',
    async (reason, exit, ask) => {
      const folder = join(place.folder, reason);
      const running = await underWay(reason);
      ask(running, folder);
      const { code, output } = await running.ended;
      expect(code, output).toBe(exit);
      const step = eventsOf(folder, 'step').length;
      expect(eventsOf(folder, 'stop')).toMatchObject([{ reason, step }]);
      expect(eventsOf(folder, 'run_end')).toMatchObject([{ status: 'stopped', step }]);
      expect(checkpointsIn(folder)).toEqual({ complete: [`checkpoint-${step}`], hidden: [] });
      expect(hasWeights(folder)).toBe(false);
      const resumed = await startTraining(flagsOf(reason, { resume_from_checkpoint: 'latest' })).ended;
      expect(resumed.code, resumed.output).toBe(0);
      expect(weightsHash(folder)).toBe(whole);
    },
  );

  it('saves nothing with --save_on_stop false', async () => {
    const running = await underWay('unsaved', { save_on_stop: false });
    running.child.kill('SIGINT');
    expect((await running.ended).code).toBe(130);
    expect(checkpointsIn(join(place.folder, 'unsaved')).complete).toEqual([]);
  });
});

describe('SIGUSR1', () => {
  it('saves now, and the run goes on to the same end', async () => {
    const folder = join(place.folder, 'usr1');
    const running = await underWay('usr1');
    running.child.kill('SIGUSR1');
    const { code, output } = await running.ended;
    expect(code, output).toBe(0);
    expect(eventsOf(folder, 'checkpoint')).toMatchObject([{ reason: 'signal' }]);
    expect(checkpointsIn(folder).complete).toHaveLength(1);
    expect(weightsHash(folder)).toBe(whole);
  });
});

describe('the second SIGINT', () => {
  it('ends a long step at once, without saving; a signal handed on twice is one', async () => {
    const data = join(place.folder, 'long.json');
    const conversations = [
      { role: 'user', content: 'Count.' },
      { role: 'assistant', content: 'one two three '.repeat(400) },
    ];
    writeFileSync(data, JSON.stringify(Array.from({ length: 96 }, () => ({ conversations }))));
    const long = {
      data_path: data,
      per_device_train_batch_size: 96,
      model_max_length: 2048,
      overlong: 'truncate_text',
    };
    const running = startTraining(flagsOf('twice', long));
    const folder = join(place.folder, 'twice');
    await expect.poll(() => eventsOf(folder, 'phase').map(({ name }) => name)).toEqual(['training']);
    running.child.kill('SIGINT');
    await printed(running, 'Once more ends at once');
    running.child.kill('SIGINT');
    await sleep(700); // longer than a signal counts as handed on
    running.child.kill('SIGINT');
    expect(await running.ended).toMatchObject({ code: 130 });
    for (const kind of ['step', 'stop', 'checkpoint', 'run_end'] as const) expect(eventsOf(folder, kind)).toEqual([]);
  });
});
