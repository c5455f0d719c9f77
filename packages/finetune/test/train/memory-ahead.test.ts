/** The memory of the largest micro-batch, known before the first step. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { OwnFiles } from '@minicpm-finetune/run';
import { afterAll, describe, expect, it } from 'vitest';
import { Sampler } from '../../src/data/sampler.js';
import { RunLog } from '../../src/report/run-log.js';
import { activationBytes, largestMicroBatch, memoryWarning } from '../../src/train/memory-ahead.js';
import { startOf } from '../../src/train/resume.js';
import { closeRun, openRun, type Run } from '../../src/train/run.js';
import { train } from '../../src/train/train.js';
import { configOf, eventsOf, makePlace } from '../support/run-place.js';

const place = makePlace(16);
afterAll(() => rmSync(place.folder, { recursive: true }));

let runs = 0;

async function withRun(flags: Readonly<Record<string, unknown>>, body: (run: Run) => void): Promise<void> {
  const config = configOf(place, `opened ${runs++}`, flags);
  const start = { ...startOf(config), output: { own: new OwnFiles(config.output.output_dir), earlier: [] } };
  const log = new RunLog(config, { startStep: 0 });
  const run = await openRun(config, log, start);
  try {
    body(run);
  } finally {
    await closeRun(run);
    log.close();
  }
}

describe('the largest micro-batch', () => {
  const lengths = Uint32Array.from([5, 900, 7, 11, 13, 17, 800, 3]);
  it.each([
    ['in random order', {}],
    ['by length', { lengths }],
    ['packed', { packing: { lengths, capacity: 1000 } }],
  ])('is that of the plan %s', (_, more) => {
    const sampler = new Sampler({ sizes: [8], seed: 3, shuffle: true, batchSize: 1, accumulation: 2, ...more });
    const plans = Array.from({ length: sampler.stepsPerEpoch }, (__, step) => sampler.plan(step));
    const sizes = plans.flatMap(({ step, batches }) =>
      batches.map((batch) => ({ step: step + 1, tokens: batch.reduce((sum, i) => sum + lengths[i]!, 0) })),
    );
    const most = Math.max(...sizes.map(({ tokens }) => tokens));
    const found = largestMicroBatch(sampler, lengths, 0, 100);
    expect(found.tokens).toBe(most);
    expect(sizes).toContainEqual(found);
  });
});

describe('the warning', () => {
  it('names the step, the figures and settings that fit, and comes only where there is too little', async () => {
    await withRun({ per_device_train_batch_size: 8, max_steps: 4 }, (run) => {
      expect(memoryWarning(run)).toBeNull();
      const { tokens } = largestMicroBatch(run.data.sampler, run.data.records.lengths, 0, 4);
      const warning = memoryWarning(run, 1e6);
      expect(warning).toMatch(/^THE LARGEST BATCH MAY NOT FIT: step \d has \d+ tokens at once/);
      expect(warning).toContain(`has ${tokens} tokens`);
      expect(warning).toMatch(/and cpu has 1\.0 MB\./);
      expect(warning).toContain('--per_device_train_batch_size 1 --gradient_accumulation_steps 8');
    });
  });

  it('expects less with recomputation and smaller types', async () => {
    const estimates: number[] = [];
    for (const flags of [{}, { bf16: true }, { bf16: true, gradient_checkpointing: true }])
      await withRun(flags, (run) => void estimates.push(activationBytes(run, 1000)));
    expect(estimates[1]).toBe(estimates[0]! / 2);
    expect(estimates[2]).toBeLessThan(estimates[1]!);
  });

  it('is not there in a run that fits', async () => {
    await train(configOf(place, 'fits'));
    expect(eventsOf(join(place.folder, 'fits'), 'warning')).toEqual([]);
  });
});
