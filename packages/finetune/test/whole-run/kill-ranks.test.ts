/**
 * Training over ranks of which one, or their launcher, is killed with SIGKILL at random moments, and which another number of ranks resumes until
 * it is finished: no process is left after any kill, no checkpoint is half written, the weights are those of one process that was never killed.
 * One kill, 200 in the long part. One process alone: kill.test.ts.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { verifyCheckpoint } from '../../src/checkpoint/checkpoint.js';
import { Random } from '../../src/data/random.js';
import { checkpointsIn, type Running, startTraining, weightsHash } from '../support/cli-run.js';
import { until } from '../support/launched.js';
import { eventsOf, makePlace, type Place } from '../support/run-place.js';

const KILLS = LONG ? 100 : 1; // of each kind of training
const STEPS = LONG ? 16 : 12;
const SIZES = [2, 3, 1, 2, 3];

let place: Place;
beforeAll(() => {
  place = makePlace(11);
});
afterAll(() => rmSync(place.folder, { recursive: true }));

type Kind = Readonly<Record<string, unknown>>;
const FULL: Kind = { bf16: true };
const LORA: Kind = { use_lora: true, lora_r: 4, lora_dropout: 0.2 };

/** Six records a step, whatever the number of ranks; a checkpoint after every second step. */
const flagsOf = (name: string, kind: Kind, size: number): Record<string, unknown> => ({
  model_name_or_path: place.model,
  data_path: place.data,
  output_dir: join(place.folder, name),
  model_max_length: 256,
  per_device_train_batch_size: 1,
  gradient_accumulation_steps: 6 / size,
  nproc_per_node: size,
  max_steps: STEPS,
  learning_rate: 1e-3,
  save_strategy: 'steps',
  save_steps: 2,
  save_total_limit: 2,
  logging_steps: 1,
  threads: 1,
  dataloader_num_workers: 0,
  device: 'cpu',
  ...kind,
});

/** Processes with the run's folder in their command line. */
function left(name: string): number[] {
  const { stdout } = spawnSync('ps', ['-eo', 'pid,stat,args'], { encoding: 'utf8' });
  const mark = `${join(place.folder, name)} `;
  const lines = stdout.split('\n').filter((line) => line.includes(mark) && !/^\s*\d+ Z/.test(line));
  return lines.map((line) => Number.parseInt(line, 10));
}

/** Starts the run where it is: from scratch, or after its newest checkpoint. */
function resumed(name: string, kind: Kind, size: number): Running {
  const any = checkpointsIn(join(place.folder, name)).complete.length > 0;
  const how = any ? { resume_from_checkpoint: 'latest' } : { overwrite_output_dir: true };
  return startTraining(flagsOf(name, { ...kind, ...how }, size));
}

const unfinishedIn = (folder: string): string[] =>
  checkpointsIn(folder).hidden.filter((name) => name.startsWith('.checkpoint-'));

/** Steps that were logged by all starts of a run. */
function stepsIn(folder: string): number {
  const file = join(folder, 'events.jsonl');
  return existsSync(file) ? readFileSync(file, 'utf8').split('"event":"step"').length - 1 : 0;
}

/** Kills one process of the run, launcher or rank, in every second case while a checkpoint is written. False: it had ended before. */
async function kill(name: string, running: Running, random: Random): Promise<boolean> {
  const folder = join(place.folder, name);
  let over = false;
  void running.ended.then(() => {
    over = true;
  });
  if (random.below(5) === 0)
    await sleep(random.below(2500)); // while it starts
  else {
    const steps = stepsIn(folder) + random.below(6);
    while (!over && stepsIn(folder) < steps) await sleep(1);
    const writing = random.below(2) === 0;
    while (!over && writing && unfinishedIn(folder).length === 0) await setImmediate();
    if (!writing) await sleep(random.below(80));
  }
  const all = left(name);
  if (over || all.length === 0) return false;
  process.kill(all[random.below(all.length)]!, 'SIGKILL');
  return true;
}

describe.each([
  ['full', FULL],
  ['lora', LORA],
] as const)('%s training over ranks', (kind, flags) => {
  it.runIf(LONG || kind === 'full')(
    `killed ${KILLS} times ends like one process that never was`,
    { timeout: 2_400_000 },
    async () => {
      const whole = await startTraining(flagsOf(`${kind} whole`, flags, 1)).ended;
      expect(whole.code, whole.output).toBe(0);
      const expected = weightsHash(join(place.folder, `${kind} whole`));
      const random = new Random(LONG ? 1 : 10, KILLS);
      const seen = { kills: 0, unfinished: 0, resumed: 0, finished: 0 };
      for (let run = 0; seen.kills < KILLS; run++) {
        const name = `${kind} ${run}`;
        const folder = join(place.folder, name);
        for (let ended = false; !ended && seen.kills < KILLS; ) {
          const running = resumed(name, flags, SIZES[random.below(SIZES.length)]!);
          const killed = await kill(name, running, random);
          const { code, output } = await running.ended;
          await until(() => left(name).length === 0, `no process is left of ${name}`);
          ended = code === 0;
          if (!killed) expect(code, output).toBe(0);
          if (!killed) continue;
          seen.kills++;
          if (unfinishedIn(folder).length > 0) seen.unfinished++;
          for (const checkpoint of checkpointsIn(folder).complete) verifyCheckpoint(join(folder, checkpoint));
        }
        const last = await resumed(name, flags, SIZES[random.below(SIZES.length)]!).ended;
        expect(last.code, last.output).toBe(0);
        seen.finished++;
        seen.resumed += eventsOf(folder, 'run_start').at(-1)!.resumed_at_step > 0 ? 1 : 0;
        expect(weightsHash(folder)).toBe(expected);
        expect(checkpointsIn(folder)).toEqual({
          complete: [`checkpoint-${STEPS - 2}`, `checkpoint-${STEPS}`],
          hidden: [],
        });
        expect(left(name)).toEqual([]);
        rmSync(folder, { recursive: true });
      }
      console.log(`${kind}: ${JSON.stringify(seen)}`);
      expect(seen.unfinished + seen.resumed).toBeGreaterThan(0);
    },
  );
});
