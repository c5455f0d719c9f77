/**
 * Training killed with SIGKILL at random moments, evaluation and checkpoint writes included, and resumed until it is finished: the weights
 * of a run that was never killed. Two kills, 180 in the long part. Full training in the short part: kill-ranks.test.ts. The other commands:
 * kill-commands.test.ts.
 */
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import { readEvents } from '@minicpm-finetune/run';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { verifyCheckpoint } from '../../src/checkpoint/checkpoint.js';
import { Random } from '../../src/data/random.js';
import { checkpointsIn, type Ended, startTraining, weightsHash } from '../support/cli-run.js';
import { eventsOf, makePlace, type Place } from '../support/run-place.js';

const KILLS = LONG ? 60 : 2; // of each kind of training
const STEPS = LONG ? 24 : 12;

let place: Place;
beforeAll(() => {
  place = makePlace(11);
});
afterAll(() => rmSync(place.folder, { recursive: true }));

/** A checkpoint behind every second step: much of the time goes into writing them. */
function flagsOf(name: string, kind: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return {
    model_name_or_path: place.model,
    data_path: place.data,
    output_dir: join(place.folder, name),
    per_device_train_batch_size: 2,
    max_steps: STEPS,
    learning_rate: 1e-3,
    save_steps: 2,
    save_total_limit: 2,
    logging_steps: 1,
    threads: 1,
    dataloader_num_workers: 0,
    ...kind,
  };
}

const FULL = { bf16: true };
const LORA = { use_lora: true, lora_r: 4, lora_dropout: 0.2 };
const EVALUATED = { ...LORA, eval_strategy: 'steps', eval_steps: 2, eval_generate: 2, report_to: 'tensorboard' };

/** Starts the run where it is: anew, or behind its newest checkpoint. */
function goOn(name: string, kind: Readonly<Record<string, unknown>>): ReturnType<typeof startTraining> {
  const any = checkpointsIn(join(place.folder, name)).complete.length > 0;
  const how = any ? { resume_from_checkpoint: 'latest' } : { overwrite_output_dir: true };
  return startTraining(flagsOf(name, { ...kind, ...how }));
}

/** Kills the run at a random moment: some steps after its start, in every second case while a checkpoint is written. */
async function killed(name: string, kind: Readonly<Record<string, unknown>>, random: Random): Promise<Ended> {
  const folder = join(place.folder, name);
  const before = stepsIn(folder);
  const running = goOn(name, kind);
  let over = false;
  void running.ended.then(() => {
    over = true;
  });
  const steps = before + random.below(STEPS / 3);
  while (!over && stepsIn(folder) < steps) await sleep(1);
  const writing = random.below(2) === 0;
  while (!over && writing && unfinishedIn(folder).length === 0) await setImmediate();
  if (!writing) await sleep(random.below(80));
  running.child.kill('SIGKILL');
  return await running.ended;
}

/** Checkpoints that are being written or removed. */
const unfinishedIn = (folder: string): string[] =>
  checkpointsIn(folder).hidden.filter((name) => name.startsWith('.checkpoint-'));

/** The checkpoint that was last reported as saved: it is newer than all that the limit removes. */
function reported(folder: string): string[] {
  if (!existsSync(join(folder, 'events.jsonl'))) return [];
  const events = readEvents(join(folder, 'events.jsonl')).filter((event) => event.event === 'checkpoint');
  return events.slice(-1).map(({ path }) => path);
}

/** Steps that were logged by all starts of a run. */
function stepsIn(folder: string): number {
  const file = join(folder, 'events.jsonl');
  return existsSync(file) ? readFileSync(file, 'utf8').split('"event":"step"').length - 1 : 0;
}

describe.each([
  ['full', FULL],
  ['lora', LORA],
  ['evaluated', EVALUATED],
] as const)('%s training', (name, flags) => {
  it.runIf(LONG || name === 'evaluated')(
    `killed ${KILLS} times ends like one that never was`,
    { timeout: 1_200_000 },
    async () => {
      const kind = name === 'evaluated' ? { ...flags, eval_data_path: place.data } : flags;
      const whole = await startTraining(flagsOf(`${name} whole`, kind)).ended;
      expect(whole.code, whole.output).toBe(0);
      const expected = weightsHash(join(place.folder, `${name} whole`));
      const random = new Random(LONG ? 1 : 32, KILLS);
      const seen = { kills: 0, unfinished: 0, resumed: 0 };
      for (let run = 0; seen.kills < KILLS; run++) {
        const id = `${name} ${run}`;
        const folder = join(place.folder, id);
        for (let ended = false; !ended && seen.kills < KILLS; ) {
          const { signal, code, output } = await killed(id, kind, random);
          expect([0, null], output).toContain(code);
          ended = code === 0;
          if (signal !== 'SIGKILL') continue;
          seen.kills++;
          const { complete } = checkpointsIn(folder);
          if (unfinishedIn(folder).length > 0) seen.unfinished++;
          for (const checkpoint of complete) verifyCheckpoint(join(folder, checkpoint));
          for (const path of reported(folder)) expect(complete, 'reported saved').toContain(path);
        }
        const last = await goOn(id, kind).ended;
        expect(last.code, last.output).toBe(0);
        seen.resumed += eventsOf(folder, 'run_start').at(-1)!.resumed_at_step > 0 ? 1 : 0;
        expect(weightsHash(folder)).toBe(expected);
        expect(checkpointsIn(folder)).toEqual({
          complete: [`checkpoint-${STEPS - 2}`, `checkpoint-${STEPS}`],
          hidden: [],
        });
        expect(readdirSync(folder).filter((file) => file.endsWith('.tmp'))).toEqual([]);
        expect(eventsOf(folder, 'run_end').at(-1)).toMatchObject({ status: 'finished', step: STEPS });
        rmSync(folder, { recursive: true });
      }
      expect(seen.unfinished).toBeGreaterThan(0);
      expect(seen.resumed).toBeGreaterThan(0);
    },
  );
});
