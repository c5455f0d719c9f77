/**
 * Two machines that share no folder and whose names mean their loopbacks: the bits and files of one machine, a cut cable, a full disk, and the
 * death of a whole machine. Both are namespaces of this one.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { contentOfFile } from '@minicpm-finetune/run';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { checkpointsIn, type Ended, printed, type Running, startTraining } from '../support/cli-run.js';
import { lastLines, until } from '../support/launched.js';
import { MACHINES, Machine } from '../support/machines.js';
import { makePlace, type Place } from '../support/run-place.js';

let place: Place;
let [a, b]: Machine[] = [];
beforeAll(async () => {
  place = makePlace(11);
  mkdirSync(join(place.folder, 'runs'));
  if (!MACHINES) return;
  a = await Machine.make('alpha', '10.77.0.1', join(place.folder, 'runs'));
  b = await Machine.make('beta', '10.77.0.2', join(place.folder, 'runs'));
  a.connect(b);
});
afterAll(() => {
  for (const machine of [a, b]) machine?.remove();
  rmSync(place.folder, { recursive: true });
});

const STEPS = 12;
const folderOf = (name: string): string => join(place.folder, 'runs', name);
let port = 29_510;

const flagsOf = (name: string, more: Readonly<Record<string, unknown>> = {}): Record<string, unknown> => ({
  model_name_or_path: place.model,
  data_path: place.data,
  output_dir: folderOf(name),
  model_max_length: 256,
  per_device_train_batch_size: 1,
  max_steps: STEPS,
  learning_rate: 1e-3,
  save_strategy: 'steps',
  save_steps: 6,
  logging_steps: 1,
  threads: 1,
  dataloader_num_workers: 0,
  device: 'cpu',
  bf16: true,
  ...more,
});

/** Starts the run on both machines, each with so many processes. */
function onBoth(name: string, processes: number, more: Readonly<Record<string, unknown>> = {}): [Running, Running] {
  const flags = {
    ...flagsOf(name, more),
    nnodes: 2,
    nproc_per_node: processes,
    master_addr: a!.address,
    master_port: port++,
  };
  return [a!.train({ ...flags, node_rank: 0 }), b!.train({ ...flags, node_rank: 1 })];
}

const all = async (running: readonly Running[]): Promise<Ended[]> =>
  await Promise.all(running.map(({ ended }) => ended));

/** Every file of weights or states under a folder, by its path there. (That of records has stamps of files, which are left out just after these were made.) */
function tensorFiles(folder: string): Record<string, string> {
  const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((file) =>
    /(model|optimizer|rng_state)\.safetensors$/.test(file),
  );
  const hash = (file: string): string => contentOfFile(join(folder, file)).sha256;
  return Object.fromEntries(files.sort().map((file) => [file, hash(file)]));
}

/** Processes with the run's folder in their command line. */
function left(name: string): string[] {
  const { stdout } = spawnSync('ps', ['-eo', 'pid,stat,args'], { encoding: 'utf8' });
  return stdout.split('\n').filter((line) => line.includes(folderOf(name)) && !/^\s*\d+ Z/.test(line));
}

const LONG_RUN = { max_steps: 2000, save_steps: 1000 };

describe.skipIf(!MACHINES)('two machines', { timeout: 600_000 }, () => {
  describe('beside one', () => {
    let expected: Record<string, string>;
    beforeAll(async () => {
      const one = await startTraining(flagsOf('one', { gradient_accumulation_steps: 4 })).ended;
      expect(one.code, one.output).toBe(0);
      expected = tensorFiles(folderOf('one'));
      expect(Object.keys(expected).length).toBeGreaterThan(6);
    });

    /** A whole run, or the end of one that was stopped: two processes on each, as many records a step as `one`. */
    async function trainToEnd(name: string, more: Readonly<Record<string, unknown>> = {}): Promise<void> {
      const [first, second] = await all(onBoth(name, 2, more));
      expect([first!.code, second!.code], first!.output + second!.output).toEqual([0, 0]);
      expect(first!.output).toContain(`connect to ${a!.address}:`);
      expect(second!.output).toBe(
        `Ranks 2 to 3 of 4 run here; the progress is shown where rank 0 runs, on ${a!.address}.\n`,
      );
      const there = readdirSync(b!.path(place.folder, 'runs'), { recursive: true, withFileTypes: true });
      expect(there.filter((entry) => !entry.isDirectory() || entry.name === name)).toEqual([]);
      expect(left(name)).toEqual([]);
    }

    it('stop, resume with twice the processes, and end with the files of one, which are all on the first', async () => {
      const stopped = onBoth('again', 1, { gradient_accumulation_steps: 2 });
      await printed(stopped[0], 'step 2/');
      stopped[1].child.kill('SIGTERM'); // of the machine that has no files
      expect((await all(stopped)).map(({ code }) => code)).toEqual([0, 0]);
      const { complete, hidden } = checkpointsIn(a!.path(folderOf('again')));
      expect([complete.length, hidden]).toEqual([1, []]);
      await trainToEnd('again', { resume_from_checkpoint: 'latest' });
      const made = tensorFiles(a!.path(folderOf('again')));
      expect(made).toMatchObject(expected);
      const others = Object.keys(made).filter((file) => !(file in expected));
      expect(others.every((file) => file.startsWith(complete[0]!))).toBe(true);
    });

    it.runIf(LONG)('train to the files of one without a stop, too', async () => {
      await trainToEnd('two');
      expect(tensorFiles(a!.path(folderOf('two')))).toEqual(expected);
    });
  });

  it('end with an error that names the peer when their cable is cut', async () => {
    const running = onBoth('cut', 1, { ...LONG_RUN, ddp_timeout: 12 });
    await printed(running[0], 'step 3/');
    const cut = performance.now();
    a!.cut();
    const [first, second] = await all(running);
    a!.mend();
    expect((performance.now() - cut) / 1000).toBeLessThan(40);
    expect([first!.code, second!.code], first!.output + second!.output).toEqual([1, 1]);
    const silent =
      /^error: Expected rank \d at .* within 12 s but it did not come\.\n .*rank 1 \(beta\) has not answered for \d+ s, last at .*\n cure: Look at/;
    expect(lastLines(first!, 3)).toMatch(silent);
    const store =
      /^error: Expected rank \d at .* within 12 s but it did not come\.\n rank 0 \(alpha\), which serves the store, has not answered for \d+ s; .*\n cure: Look at/;
    expect(lastLines(second!, 3)).toMatch(store);
    expect(left('cut')).toEqual([]);
    expect(checkpointsIn(a!.path(folderOf('cut'))).hidden).toEqual([]);
  });

  it.runIf(LONG)('name who does not answer within a minute after a cut, long before they end', async () => {
    const running = onBoth('named', 1, LONG_RUN);
    await printed(running[0], 'step 3/');
    const cut = performance.now();
    a!.cut();
    await Promise.all([
      printed(running[0], 'rank 1 (beta) has not answered for '),
      printed(running[1], 'rank 0 (alpha), which serves the store, has not answered for '),
    ]);
    expect((performance.now() - cut) / 1000).toBeLessThan(62);
    for (const { child } of running) child.kill('SIGKILL');
    await until(() => left('named').length === 0, 'no process is left');
    a!.mend();
  });

  it('end within seconds when all processes of the other one are killed', async () => {
    const running = onBoth('dead', 1, LONG_RUN);
    await printed(running[0], 'step 3/');
    const there = left('dead').filter((line) => line.includes('--node_rank 1'));
    expect(there).toHaveLength(2); // the launcher and its rank
    const killed = performance.now();
    for (const line of there) process.kill(Number.parseInt(line, 10), 'SIGKILL');
    const [first] = await all(running);
    expect(performance.now() - killed).toBeLessThan(60_000); // long before any time-out
    expect(first!.code).toBe(1);
    expect(lastLines(first!, 2)).toMatch(
      /^error: Expected rank 1 at .* but its connection is closed \(.*\)\.\n cure: Look/,
    );
    expect(left('dead')).toEqual([]);
  });

  it('end with one error, and leave nothing half written, when the disk of the first is full', async () => {
    const runs = join(place.folder, 'runs');
    const { bavail, bsize } = statfsSync(a!.path(runs));
    writeFileSync(a!.path(runs, 'filler'), Buffer.alloc(bavail * bsize - 500_000));
    const [first, second] = await all(onBoth('full', 1, { max_steps: 2, save_steps: 2 }));
    expect([first!.code, second!.code], first!.output + second!.output).toEqual([2, 2]);
    expect(first!.output).toContain('CHECKPOINT NOT SAVED at step 2');
    expect(first!.output.trimEnd()).toMatch(
      /\nerror: Expected to write the trained model but received: .*\n +at: .*\n cure: .*Free some space.*$/,
    );
    expect(second!.output.trimEnd()).toMatch(
      /\nerror: Expected to write the trained model but received: Rank 0 on alpha: .*\n +at: .*\n cure: .*$/,
    );
    const files = readdirSync(a!.path(folderOf('full')));
    expect(files.filter((file) => /safetensors|^\.|checkpoint/.test(file))).toEqual([]);
    expect(left('full')).toEqual([]);
    rmSync(a!.path(runs, 'filler'));
  });
});
