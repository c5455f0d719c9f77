import { createHash } from 'node:crypto';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { UserError } from '@minicpm-finetune/run';
import { afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { Dataset } from '../../src/data/dataset.js';
import { defaultThreads } from '../../src/data/encode-pool.js';
import { encoderSetup } from '../../src/data/encoder.js';
import { Loader, type LoaderOptions, type MicroBatch } from '../../src/data/loader.js';
import { Sampler, type SamplerOptions } from '../../src/data/sampler.js';
import { DATA_FLAGS, FAULTS, type MadeData, MODEL, MODEL_FLAGS, makeData } from '../support/made-data.js';

const STOP = { onBadRecord: 'stop', maxBadFraction: 0.01, reportFile: undefined } as const;
let data: MadeData;
const open: Loader[] = [];

beforeAll(async () => {
  data = await makeData(60);
});

afterEach(async () => {
  for (const loader of open.splice(0)) await loader.close();
});

interface Wanted extends Partial<Omit<LoaderOptions, 'sampler'>> {
  file?: string;
  sampler?: Partial<SamplerOptions>;
}

async function load({ file = data.file, sampler = {}, ...options }: Wanted = {}): Promise<Loader> {
  const dataset = await Dataset.open([file], () => {});
  const order = new Sampler({ sizes: dataset.sizes, seed: 3, shuffle: true, batchSize: 4, ...sampler });
  const loader = await Loader.open({
    dataset,
    sampler: order,
    encoder: encoderSetup(MODEL, MODEL_FLAGS, DATA_FLAGS),
    startStep: 0,
    endStep: 2 * order.stepsPerEpoch,
    threads: 1,
    prefetchFactor: null,
    badRecords: STOP,
    notice: () => {},
    ...options,
  });
  open.push(loader);
  return loader;
}

async function all(loader: Loader): Promise<MicroBatch[]> {
  const batches: MicroBatch[] = [];
  for await (const batch of loader) batches.push(batch);
  return batches;
}

/** The batches with their samples as hashes: vitest compares long arrays slowly. */
function hashed(batches: readonly MicroBatch[]): unknown[] {
  const hash = ({ inputIds, labels, pictures, ...rest }: MicroBatch['samples'][number]): string => {
    const sum = createHash('sha256').update(inputIds).update(labels);
    for (const { pixels } of pictures) sum.update(pixels);
    return sum
      .update(JSON.stringify([rest, pictures.map(({ shape, rows, cols }) => [shape, rows, cols])]))
      .digest('hex');
  };
  return batches.map(({ samples, ...rest }) => ({ ...rest, samples: samples.map(hash) }));
}

async function failure(loader: Loader): Promise<Error> {
  try {
    await all(loader);
  } catch (error) {
    return error as Error;
  }
  throw new Error('the loader delivered everything');
}

describe('the order', () => {
  it('is the same for 0, 1 and 2 threads, samples included', async () => {
    const [none, one, two] = await Promise.all(
      [0, 1, 2].map(async (threads) => all(await load({ threads, sampler: { accumulation: 2 } }))),
    );
    expect(none!.length).toBe(30);
    expect(none!.map(({ step, micro }) => [step, micro]).slice(0, 4)).toEqual([
      [0, 0],
      [0, 1],
      [1, 0],
      [1, 1],
    ]);
    expect(none!.flatMap(({ indices, epoch }) => (epoch === 0 ? indices : [])).sort((a, b) => a - b)).toEqual(
      Array.from({ length: 60 }, (_, i) => i),
    );
    expect(hashed(one!)).toEqual(hashed(none!));
    expect(hashed(two!)).toEqual(hashed(none!));
  });

  it('resumes at any step, mid-epoch too', async () => {
    const whole = await all(await load({ threads: 2 }));
    for (const [startStep, threads] of [
      [1, 0],
      [7, 1],
      [15, 0],
      [22, 0],
    ] as const) {
      expect(hashed(await all(await load({ threads, startStep })))).toEqual(hashed(whole.slice(startStep)));
    }
    expect(whole[7]).toMatchObject({ step: 7, epoch: 0, position: 32, micro: 0, micros: 1 });
    expect(whole[14]).toMatchObject({ position: 60 });
    expect(whole[22]).toMatchObject({ epoch: 1, position: 32 });
  });
});

describe('samples', () => {
  it('are whole: ids, shifted labels, bounds and pixels', async () => {
    const [batch] = await all(await load({ sampler: { shuffle: false, batchSize: 10 }, endStep: 1 }));
    const [first, , , , , , , , two, text] = batch!.samples;
    expect(first!.pictures).toHaveLength(1);
    expect(first!.pictures[0]).toMatchObject({ rows: 4, cols: 4, shape: [3, 14, 224] });
    expect(first!.pictures[0]!.pixels).toHaveLength(3 * 56 * 56);
    expect(first!.inputIds.length).toBe(first!.labels.length);
    expect(first!.imageBounds[0]![1] - first!.imageBounds[0]![0]).toBe(16);
    expect(two!.pictures.length).toBe(two!.imageBounds.length);
    expect(two!.pictures.length).toBeGreaterThan(1);
    expect(text).toMatchObject({ pictures: [], imageBounds: [] });
    expect(text!.labels.some((label) => label !== -100)).toBe(true);
  });
});

describe('memory', () => {
  it('is bounded: only so many micro-batches are made ahead', async () => {
    const loader = await load({ threads: 2, prefetchFactor: 3 });
    let most = 0;
    for await (const _ of loader) {
      most = Math.max(most, loader.outstanding);
      await new Promise((resolve) => setTimeout(resolve, 2));
    }
    expect(most).toBe(2 * 3 * 4);
  });

  it('shows the samples of the next step that are encoded, and delivers the same ones', async () => {
    const loader = await load({ threads: 2, endStep: 2, sampler: { accumulation: 2 } });
    const steps: MicroBatch[][] = [];
    const seen: MicroBatch['samples'][] = [];
    for await (const micro of loader) {
      if (micro.micro === 0) steps.push([]);
      steps.at(-1)!.push(micro);
      if (micro.micro + 1 < micro.micros) continue;
      while (micro.step === 0 && loader.encodedNext.length < 8) await new Promise((resolve) => setTimeout(resolve, 20));
      seen.push(loader.encodedNext);
    }
    expect(new Set(seen[0])).toEqual(new Set(steps[1]!.flatMap(({ samples }) => samples)));
    for (const sample of steps[1]!.flatMap(({ samples }) => samples)) expect(seen[0]!.includes(sample)).toBe(true);
    expect(seen[1]).toEqual([]);
  });

  it('makes nothing ahead without threads', async () => {
    const loader = await load({ threads: 0 });
    for await (const _ of loader) expect(loader.outstanding).toBe(0);
  });
});

describe('waiting', () => {
  it('is measured, and small when there was time to prepare', async () => {
    const loader = await load({ threads: 1, endStep: 10 });
    const iterator = loader[Symbol.asyncIterator]();
    await iterator.next();
    const first = loader.dataWaitSeconds;
    expect(first).toBeGreaterThan(0);
    for (let i = 0; i < 5; i++) {
      await new Promise((resolve) => setTimeout(resolve, 200)); // the step, which counts for nothing
      await expect.poll(() => loader.encodedNext.length).toBe(4);
      await iterator.next();
    }
    expect(loader.dataWaitSeconds - first).toBeLessThan(0.5);
  });

  it('sizes itself to the machine', () => {
    expect([1, 2, 4, 8, 16, 64].map((cores) => defaultThreads(cores))).toEqual([1, 1, 1, 2, 4, 8]);
    expect(defaultThreads(16, 4)).toBe(1);
  });
});

describe('bad records', () => {
  it.each([0, 1, 2])('stop the run with file, record, line and cure (%i threads)', async (threads) => {
    const bad = await makeData(
      20,
      new Map([
        [7, FAULTS[2]![0]],
        [13, FAULTS[11]![0]],
      ]),
    );
    const error = await failure(await load({ file: bad.file, threads, sampler: { shuffle: false } }));
    expect(error).toBeInstanceOf(UserError);
    expect(error).toMatchObject({ file: bad.file, record: 7, line: 8, turn: 0 });
    expect(error.message).toMatch(FAULTS[2]![1]);
    expect((error as UserError).cure).toMatch(/./);
  });

  it('stop at the batch that holds them, after those before it', async () => {
    const bad = await makeData(20, new Map([[13, FAULTS[0]![0]]]));
    const seen: number[] = [];
    const loader = await load({ file: bad.file, threads: 2, sampler: { shuffle: false } });
    await expect(async () => {
      for await (const batch of loader) seen.push(...batch.indices);
    }).rejects.toThrow(FAULTS[0]![1]);
    expect(seen).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
  });

  it('are left out, counted and reported once, and never replaced', async () => {
    const bad = await makeData(
      20,
      new Map([
        [7, FAULTS[2]![0]],
        [13, FAULTS[11]![0]],
      ]),
    );
    const reportFile = join(bad.folder, 'bad.jsonl');
    const loader = await load({
      file: bad.file,
      threads: 2,
      badRecords: { onBadRecord: 'skip', maxBadFraction: 0.1, reportFile },
    });
    const batches = await all(loader);
    for (const epoch of [0, 1]) {
      const used = batches.filter((batch) => batch.epoch === epoch).flatMap(({ indices }) => indices);
      expect(used.sort((a, b) => a - b)).toEqual(
        Array.from({ length: 20 }, (_, i) => i).filter((i) => i !== 7 && i !== 13),
      );
    }
    expect(batches.map(({ samples }) => samples.length).filter((n) => n < 4).length).toBeGreaterThan(0);
    expect([...loader.bad.indices].sort((a, b) => a - b)).toEqual([7, 13]);
    const lines = readFileSync(reportFile, 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(lines.map(({ index, record, line }) => [index, record, line]).sort((a, b) => a[0] - b[0])).toEqual([
      [7, 7, 8],
      [13, 13, 14],
    ]);
    expect(lines[0]).toHaveProperty('message');
  });

  it('are not reported again by a resumed run', async () => {
    const bad = await makeData(20, new Map([[7, FAULTS[2]![0]]]));
    const reportFile = join(bad.folder, 'bad.jsonl');
    await all(
      await load({
        file: bad.file,
        knownBad: [7],
        badRecords: { onBadRecord: 'skip', maxBadFraction: 0.1, reportFile },
      }),
    );
    expect(existsSync(reportFile)).toBe(false);
  });

  it('stop the run when there are too many', async () => {
    const bad = await makeData(20, new Map([7, 13].map((i) => [i, FAULTS[2]![0]])));
    const error = await failure(
      await load({ file: bad.file, badRecords: { onBadRecord: 'skip', maxBadFraction: 0.05, reportFile: undefined } }),
    );
    expect(error).toBeInstanceOf(UserError);
    expect(error.message).toMatch(/at most 5 % of 20 records to be bad but received 2 bad ones \(10 %\)/);
    expect(error).toMatchObject({ flag: '--max_bad_fraction', file: bad.file });
  });
});

describe('long records', () => {
  it('are dropped on request, counted, and told of once', async () => {
    const notices: string[] = [];
    const flags = { ...DATA_FLAGS, model_max_length: 80, overlong: 'drop' } as const;
    const loader = await load({
      threads: 2,
      encoder: encoderSetup(MODEL, MODEL_FLAGS, flags),
      notice: (message) => notices.push(message),
      endStep: 15,
    });
    const used = (await all(loader)).flatMap(({ indices }) => indices);
    const dropped = loader.noticed.get('drop')!;
    expect(dropped.size).toBeGreaterThan(5);
    expect(used.length + dropped.size).toBe(60);
    expect(used.some((index) => dropped.has(index))).toBe(false);
    expect(notices.filter((message) => message.includes('at most 80 tokens'))).toHaveLength(1);
  });
});

describe('threads', () => {
  it('that die end the run with a clear error', async () => {
    const posted = vi.spyOn(Worker.prototype, 'postMessage');
    const loader = await load({ threads: 2, prefetchFactor: 1 });
    const iterator = loader[Symbol.asyncIterator]();
    await iterator.next();
    const workers = [...new Set(posted.mock.contexts)] as Worker[];
    posted.mockRestore();
    await workers[1]!.terminate();
    await expect(async () => {
      for (;;) if ((await iterator.next()).done) return;
    }).rejects.toThrow(/Expected data thread 1 to go on but it died .*data.jsonl: it ended with code 1/);
  });

  it('do not start without a tokenizer', async () => {
    const setup = { ...encoderSetup(MODEL, MODEL_FLAGS, DATA_FLAGS), tokenizerFolder: data.folder };
    for (const threads of [0, 1])
      await expect(load({ threads, encoder: setup })).rejects.toThrow(/Expected a tokenizer file/);
    await expect(load({ threads: 1, encoder: setup })).rejects.toBeInstanceOf(UserError);
  });

  it('notice that the data changed under them', async () => {
    const changed = await makeData(20);
    const loader = await load({ file: changed.file });
    writeFileSync(changed.file, '{}\n');
    expect((await failure(loader)).message).toMatch(/the data file as when it was opened .* but received 3 bytes/);
  });
});
