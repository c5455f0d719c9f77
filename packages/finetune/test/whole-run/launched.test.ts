/** `train --nproc_per_node 2` as a user starts it: the bits of one process, and what is left when something ends it. */
import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import {
  CLI,
  checkpointsIn,
  printed,
  type Running,
  start,
  startTraining,
  weightsHash,
  words,
} from '../support/cli-run.js';
import { byRank, freePort, until } from '../support/launched.js';
import { eventsOf, makePlace, type Place } from '../support/run-place.js';

let place: Place;
beforeAll(() => {
  place = makePlace(16);
});
afterAll(() => rmSync(place.folder, { recursive: true }));

const flagsOf = (name: string, more: Readonly<Record<string, unknown>> = {}) => ({
  model_name_or_path: place.model,
  data_path: place.data,
  output_dir: join(place.folder, name),
  per_device_train_batch_size: 1,
  model_max_length: 256,
  max_steps: 4,
  save_strategy: 'no',
  logging_steps: 1,
  threads: 1,
  dataloader_num_workers: 0,
  device: 'cpu',
  nproc_per_node: 2,
  ...more,
});

/** Processes with the run's folder in their command line. */
function left(name: string): number[] {
  const { stdout } = spawnSync('ps', ['-eo', 'pid,stat,args'], { encoding: 'utf8' });
  const lines = stdout.split('\n').filter((line) => line.includes(join(place.folder, name)) && !/^\s*\d+ Z/.test(line));
  return lines.map((line) => Number.parseInt(line, 10));
}

/** The processes of the ranks, by rank. */
const ranksOf = (name: string, { child }: Running): number[] => byRank(left(name).filter((pid) => pid !== child.pid));

const ENDLESS = { max_steps: 2000, save_strategy: 'steps', save_steps: 1000 };

describe('train --nproc_per_node 2', () => {
  it('has the bits of one process with twice the accumulation', async () => {
    const one = await startTraining(flagsOf('one', { nproc_per_node: 1, gradient_accumulation_steps: 2 })).ended;
    const two = await startTraining(flagsOf('two')).ended;
    expect([one.code, two.code], two.output).toEqual([0, 0]);
    expect(weightsHash(join(place.folder, 'two'))).toBe(weightsHash(join(place.folder, 'one')));
    expect(eventsOf(join(place.folder, 'two'), 'run_start')).toMatchObject([{ world_size: 2 }]);
    expect(left('two')).toEqual([]);
  });

  it('refuses once what the command line says wrong', async () => {
    const { code, output } = await startTraining(flagsOf('wrong', { data_path: 'missing.json' })).ended;
    expect(code).toBe(2);
    expect(output.match(/missing\.json/g)!.length).toBeLessThan(5);
    expect(existsSync(join(place.folder, 'wrong'))).toBe(false);
  });

  it('stops and saves when any rank gets SIGTERM', async () => {
    const running = startTraining(flagsOf('term', ENDLESS));
    await printed(running, 'step 3/2000');
    process.kill(ranksOf('term', running)[1]!, 'SIGTERM');
    const { code, output } = await running.ended;
    expect(code, output).toBe(0);
    expect(eventsOf(join(place.folder, 'term'), 'stop')).toMatchObject([{ reason: 'sigterm' }]);
    expect(checkpointsIn(join(place.folder, 'term')).complete).toHaveLength(1);
    expect(left('term')).toEqual([]);
  });

  it.runIf(LONG)('stops and saves at Ctrl-C', async () => {
    const running = startTraining(flagsOf('interrupt', ENDLESS));
    await printed(running, 'step 3/2000');
    running.child.kill('SIGINT');
    const { code, output } = await running.ended;
    expect(code, output).toBe(130);
    expect(checkpointsIn(join(place.folder, 'interrupt')).complete).toHaveLength(1);
    expect(left('interrupt')).toEqual([]);
  });

  it.each(LONG ? [0, 1] : [0])('ends when rank %d is killed, and says so last', async (rank) => {
    const name = `killed-${rank}`;
    const running = startTraining(flagsOf(name, ENDLESS));
    await printed(running, 'step 3/2000');
    const killed = performance.now();
    process.kill(ranksOf(name, running)[rank]!, 'SIGKILL');
    const { code, output } = await running.ended;
    expect(performance.now() - killed).toBeLessThan(60_000); // long before any time-out
    expect([code, output.trimEnd().split('\n')]).toEqual([
      137,
      expect.arrayContaining([`Rank ${rank} ended first, by SIGKILL.`]),
    ]);
    expect(left(name)).toEqual([]);
  });

  it('leaves no process when the launcher is killed', async () => {
    const running = startTraining(flagsOf('launcher', ENDLESS));
    await printed(running, 'step 3/2000');
    expect(left('launcher')).toHaveLength(3);
    running.child.kill('SIGKILL');
    await until(() => left('launcher').length === 0, 'no process is left');
  });
});

describe('ranks with other data', () => {
  it('are told so, all of them', async () => {
    const other = join(place.folder, 'other.json');
    writeFileSync(other, readFileSync(place.data, 'utf8').replace('a blue one', 'a green one'));
    const port = await freePort();
    const { nproc_per_node: _, ...flags } = flagsOf('data');
    const ended = await Promise.all(
      [place.data, other].map((data_path, rank) => {
        const env = {
          RANK: rank,
          WORLD_SIZE: 2,
          LOCAL_RANK: rank,
          LOCAL_WORLD_SIZE: 2,
          MASTER_ADDR: '127.0.0.1',
          MASTER_PORT: port,
        };
        const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`);
        return start('env', [...variables, process.execPath, CLI, 'train', ...words({ ...flags, data_path })]).ended;
      }),
    );
    for (const { code, output } of ended) {
      expect(code, output).toBe(2);
      expect(output).toMatch(
        /Expected one content for --data_path on all ranks but rank 0 has 16 records .* and rank 1 has 16/,
      );
    }
    expect(readdirSync(place.folder)).not.toContain('data');
  });
});
