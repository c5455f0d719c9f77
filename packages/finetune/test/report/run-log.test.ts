/** What ranks say through the log of rank 0. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { OwnFiles, type RunEvent } from '@minicpm-finetune/run';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Outbox } from '../../src/report/outbox.js';
import { RunLog, type StepRecord } from '../../src/report/run-log.js';
import { resolve } from '../support/config-words.js';
import { Reports } from '../support/reports.js';
import { eventsOf } from '../support/run-place.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'run-log-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const { config } = resolve('--max_steps', '9');
const record: StepRecord = {
  ...{ step: 1, epoch: 0.1, gradNorm: 1, learningRate: 1, samples: 8, tokens: 80, supervisedTokens: 40 },
  ...{
    meanLoss: 2,
    lossScale: null,
    skippedSteps: 0,
    dataWaitSeconds: 0,
    largestOther: 0,
    devicePeak: null,
    vision: null,
    preference: null,
  },
};

it('rank 0 says what the others say, once, and with their names', () => {
  const reporter = new Reports();
  const own = new OwnFiles(folder);
  own.open();
  const first = new RunLog(config, { reporter, worldSize: 3 });
  const outboxes = [new Outbox(), new Outbox()];
  const seen: RunEvent[][] = [[], []];
  const others = outboxes.map(
    (outbox, i) => new RunLog(config, { outbox, worldSize: 3, onEvent: (event) => seen[i]!.push(event) }),
  );
  first.open(own);
  for (const log of [first, ...others]) {
    log.reporter.notice('all say this');
    log.warn('kind', 'all warn of this');
  }
  others[0]!.reporter.notice('one says this');
  others[1]!.warn('bad', 'one warns of this', 4);
  for (const [i, log] of others.entries()) {
    first.hear(log.takeMail(), `Rank ${i + 1} on host`);
    expect(log.takeMail()).toEqual([]);
  }
  expect(reporter.notices).toEqual(['all say this', 'Rank 1 on host: one says this']);
  expect(first.step({ ...record, largestOther: 2 ** 50 }, 9, true)).toMatchObject({
    world_size: 3,
    memory: { rss: 2 ** 50 },
  });
  others[0]!.step(record, 9, true);
  first.close();
  expect(eventsOf(folder, 'warning')).toMatchObject([
    { message: 'all warn of this' },
    { kind: 'bad', message: 'Rank 2 on host: one warns of this', step: 4 },
  ]);
  expect(eventsOf(folder, 'step')).toMatchObject([{ step: 1, world_size: 3 }]);
  expect(seen[0]!.map(({ event }) => event)).toEqual(['warning', 'step']); // told to the program, on every rank
  expect(others.map(({ isOpen }) => isOpen)).toEqual([false, false]);
});
