/** A record that turns out bad, or data that change, during a run: the steps so far are saved, and what the message advises works. */
import { cpSync, existsSync, readFileSync, renameSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '@minicpm-finetune/run';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { train } from '../../src/train/train.js';
import { parquetFile } from '../support/parquet.js';
import { Reports } from '../support/reports.js';
import { configOf, eventsOf, lossesOf, makePlace, type Place } from '../support/run-place.js';

let place: Place;
beforeAll(() => {
  place = makePlace(16);
});
afterAll(() => rmSync(place.folder, { recursive: true }));

type Flags = Readonly<Record<string, unknown>>;

/** 16 records, 2 a step: 8 steps an epoch. */
const BASE: Flags = { max_steps: 20, use_lora: true, lora_r: 4 };
const picture = (i: number): string => join(place.folder, `${i}.bmp`);

/** Trains, calls `change` after step `at`, and returns the error that ends the run. */
async function failing(name: string, flags: Flags, at: number, change: () => void): Promise<UserError> {
  const onEvent = (event: { event: string; step?: number }): void => {
    if (event.event === 'step' && event.step === at) change();
  };
  const error: unknown = await train(configOf(place, name, flags), { onEvent }).catch((cause: unknown) => cause);
  expect(error).toBeInstanceOf(UserError);
  return error as UserError;
}

const steps = (name: string): number[] => eventsOf(join(place.folder, name), 'step').map(({ step }) => step);

/** Resumes, and returns what was noticed. */
async function resume(name: string, flags: Flags): Promise<string[]> {
  const reporter = new Reports();
  const all = { ...flags, resume_from_checkpoint: 'latest' };
  expect((await train(configOf(place, name, all), { reporter })).stopped).toBeNull();
  return reporter.notices;
}

function withPictures(work: () => Promise<void>): () => Promise<void> {
  return async () => {
    const kept = [0, 1, 2, 3].map((i) => readFileSync(picture(i)));
    try {
      await work();
    } finally {
      for (const [i, bytes] of kept.entries()) writeFileSync(picture(i), bytes);
    }
  };
}

const ORDERS: readonly (readonly [string, Flags])[] = [
  ['read by a thread', { dataloader_num_workers: 1 }],
  ['with packing', { packing: true, model_max_length: 96 }],
  ['by length', { group_by_length: true }],
  ['in random order', {}],
];

describe('a picture that is deleted during the run', () => {
  it.each(LONG ? ORDERS : ORDERS.slice(0, 2))(
    'costs no step %s: the run resumes without it, or with it repaired',
    async (title, order) =>
      await withPictures(async () => {
        const [whole, name, other] = [`${title} whole`, `${title} deleted`, `${title} repaired`];
        const flags = { ...BASE, ...order };
        await train(configOf(place, whole, flags));
        const gone = readFileSync(picture(1));
        const error = await failing(name, flags, 3, () => rmSync(picture(1)));
        expect(error.message).toMatch(/1\.bmp/);
        const done = steps(name).at(-1)!;
        expect(error.cure).toContain('--on_bad_record skip');
        expect(error.cure).toContain('check-data');
        expect(error.cure).toContain(`The ${done} steps before it are saved in`);
        expect(error.cure).toContain('--resume_from_checkpoint latest');
        expect(existsSync(join(place.folder, name, `checkpoint-${done}`))).toBe(true);
        cpSync(join(place.folder, name), join(place.folder, other), { recursive: true });

        await resume(name, { ...flags, on_bad_record: 'skip', max_bad_fraction: 0.5 });
        expect(steps(name)).toContain(done + 1);
        expect(eventsOf(join(place.folder, name), 'run_end').at(-1)!.status).toBe('finished');

        writeFileSync(picture(1), gone);
        await resume(other, flags);
        expect(lossesOf(join(place.folder, other))).toEqual(lossesOf(join(place.folder, whole)));
      })(),
  );

  it(
    'may come back with another content, though steps have used it before',
    withPictures(async () => {
      const flags = { ...BASE, max_steps: 12 };
      await failing('damaged', flags, 8, () => writeFileSync(picture(2), 'no picture'));
      cpSync(join(place.folder, 'damaged'), join(place.folder, 'changed'), { recursive: true });
      cpSync(picture(3), picture(2)); // not what the first epoch has seen
      await resume('damaged', { ...flags, save_strategy: 'steps', save_steps: 1 });
      const checkpoint = join(place.folder, 'damaged', 'checkpoint-11');
      await train(configOf(place, 'damaged on', { ...flags, resume_from_checkpoint: checkpoint }));
      cpSync(picture(3), picture(1)); // no one said that this one was broken
      const again = train(configOf(place, 'changed', { ...flags, resume_from_checkpoint: 'latest' }));
      await expect(again).rejects.toThrow(/another content for 4 records that a step has used/);
    }),
  );
});

describe('a record of a parquet file that turns out bad', () => {
  const turns = (i: number): string =>
    JSON.stringify([
      { role: 'user', content: '<image>\nQ' },
      { role: 'assistant', content: `Answer ${i}` },
    ]);

  it(
    'by a picture that is gone: the run resumes without it, or with it repaired',
    withPictures(async () => {
      const data_path = join(place.folder, 'paths.parquet');
      const all = Array.from({ length: 16 }, (_, i) => i);
      writeFileSync(data_path, parquetFile({ conversations: all.map(turns), image: all.map((i) => `${i % 4}.bmp`) }));
      const flags = { ...BASE, data_path };
      await train(configOf(place, 'paths whole', flags));
      const gone = readFileSync(picture(1));
      const error = await failing('paths', flags, 3, () => rmSync(picture(1)));
      expect(error).toMatchObject({ file: data_path, record: expect.any(Number) });
      expect(error.message).toMatch(/1\.bmp/);
      await resumesBothWays('paths', flags, () => writeFileSync(picture(1), gone));
    }),
  );

  it.runIf(LONG)(
    'by a picture in it that only decoding finds damaged: the run resumes without it, or with it repaired',
    async () => {
      const good = await sharp({ create: { width: 40, height: 40, channels: 3, background: '#a0522d' } })
        .png()
        .toBuffer();
      const bad = Buffer.from(good);
      bad.fill(7, 60, good.length - 20); // its header and its end are those of a whole one
      const all = Array.from({ length: 300 }, (_, i) => i);
      const data_path = join(place.folder, 'bytes.parquet');
      const write = (picture: Buffer): void =>
        writeFileSync(
          data_path,
          parquetFile({ conversations: all.map(turns), image: all.map((i) => (i === 280 ? picture : good)) }),
        );
      const flags = { ...BASE, data_path, max_steps: 150 };
      write(good);
      await train(configOf(place, 'bytes whole', flags));
      write(bad);
      const error = await failing('bytes', flags, 0, () => {});
      expect(error).toMatchObject({ file: data_path, record: 280 });
      await resumesBothWays('bytes', flags, () => write(good));
    },
  );

  /** The steps before the error are saved; the run resumes without the record, and with it `repair`ed as if nothing had been. */
  async function resumesBothWays(name: string, flags: Flags, repair: () => void): Promise<void> {
    const done = steps(name).at(-1)!;
    expect(existsSync(join(place.folder, name, `checkpoint-${done}`))).toBe(true);
    const other = `${name} repaired`;
    cpSync(join(place.folder, name), join(place.folder, other), { recursive: true });
    await resume(name, { ...flags, on_bad_record: 'skip', max_bad_fraction: 0.5 });
    expect(eventsOf(join(place.folder, name), 'run_end').at(-1)!.status).toBe('finished');
    expect(steps(name)).toContain(done + 1);
    repair();
    await resume(other, flags);
    expect(lossesOf(join(place.folder, other))).toEqual(lossesOf(join(place.folder, `${name} whole`)));
  }
});

describe('an evaluation with a bad record', () => {
  it(
    'ends the run after a checkpoint, and is made when the run is resumed',
    withPictures(async () => {
      const evaluation = join(place.folder, 'evaluation.jsonl');
      cpSync(picture(0), join(place.folder, 'e.bmp'));
      const record = (image: string) =>
        `${JSON.stringify({
          image,
          conversations: [
            { role: 'user', content: 'Q' },
            { role: 'assistant', content: 'A' },
          ],
        })}\n`;
      writeFileSync(evaluation, record('3.bmp') + record('e.bmp'));
      const flags = { ...BASE, max_steps: 6, eval_data_path: evaluation, eval_strategy: 'steps', eval_steps: 3 };
      await train(configOf(place, 'evaluated whole', flags));
      const bytes = readFileSync(join(place.folder, 'e.bmp'));
      const error = await failing('evaluated', flags, 2, () => rmSync(join(place.folder, 'e.bmp')));
      expect(error).toMatchObject({ record: 1, file: evaluation });
      expect(existsSync(join(place.folder, 'evaluated', 'checkpoint-3'))).toBe(true);
      writeFileSync(join(place.folder, 'e.bmp'), bytes);
      await resume('evaluated', flags);
      const evaluations = (name: string) =>
        eventsOf(join(place.folder, name), 'eval').map(({ step, loss }) => [step, loss]);
      expect(evaluations('evaluated')).toEqual(evaluations('evaluated whole'));
    }),
  );
});

describe('a data file that is changed during the run', () => {
  it.each(['json', 'jsonl'])('is noticed in %s, and the steps are kept', async (kind) => {
    const records = JSON.parse(readFileSync(place.data, 'utf8')) as unknown[];
    const text = kind === 'json' ? JSON.stringify(records) : records.map((one) => `${JSON.stringify(one)}\n`).join('');
    const data = join(place.folder, `changed.${kind}`);
    writeFileSync(data, text);
    const flags = { ...BASE, data_path: data, max_steps: 8 };
    const name = `changed ${kind}`;
    const error = await failing(name, flags, 3, () => writeFileSync(data, text.replace('house', 'mouse')));
    expect(error.message).toMatch(/the data file as when it was opened .* received another content/);
    expect(error.record).toBeUndefined();
    expect(error.cure).toContain('The 3 steps before it are saved in');
    writeFileSync(data, text);
    await resume(name, flags);
  });

  it('may be touched, moved away and copied back', async () => {
    const data = join(place.folder, 'touched.json');
    cpSync(place.data, data);
    const touch = (event: { event: string; step?: number }): void => {
      if (event.event === 'step' && event.step === 2) utimesSync(data, new Date(0), new Date(0));
      if (event.event !== 'step' || event.step !== 3) return;
      renameSync(data, `${data}.old`);
      cpSync(`${data}.old`, data);
    };
    const config = configOf(place, 'touched', { ...BASE, data_path: data, max_steps: 6 });
    expect((await train(config, { onEvent: touch })).steps).toBe(6);
  });
});

describe('a resumed run', () => {
  const write = (name: string, records: readonly unknown[]): string => {
    const file = join(place.folder, name);
    writeFileSync(file, JSON.stringify(records));
    return file;
  };

  it('knows its data by content: moved, renamed, written in another format', async () => {
    const records = JSON.parse(readFileSync(place.data, 'utf8')) as { image: string }[];
    const flags = { ...BASE, data_path: write('first.json', records), max_steps: 4 };
    await train(configOf(place, 'moved', { ...flags, save_strategy: 'steps', save_steps: 2, max_steps: 4 }));
    const lines = join(place.folder, 'lines.jsonl');
    const absolute = records.map((one) => ({ ...one, image: join(place.folder, one.image) }));
    writeFileSync(lines, absolute.map((one) => `${JSON.stringify(one)}\n`).join(''));
    const again = { ...flags, data_path: lines, save_strategy: 'steps', save_steps: 2 };
    const checkpoint = join(place.folder, 'moved', 'checkpoint-2');
    const result = await train(configOf(place, 'moved again', { ...again, resume_from_checkpoint: checkpoint }));
    expect(result.steps).toBe(4);
    const last = (name: string) => lossesOf(join(place.folder, name)).slice(-2);
    expect(last('moved again')).toEqual(last('moved'));
  });

  it('takes records that no step has used as they are now, and refuses others', async () => {
    const records = JSON.parse(readFileSync(place.data, 'utf8')) as {
      id: string;
      conversations: { content: string }[];
    }[];
    const data = write('repaired.json', records);
    const flags = { ...BASE, data_path: data, max_steps: 8, save_strategy: 'steps', save_steps: 4 };
    await train(configOf(place, 'first half', flags));
    const used = new Set(await usedBy(join(place.folder, 'first half', 'checkpoint-4')));
    expect(used.size).toBe(8);
    const changed = (i: number) => {
      const copy = structuredClone(records);
      copy[i]!.conversations[1]!.content = 'something else';
      return copy;
    };
    const fresh = records.findIndex((_, i) => !used.has(i));
    const checkpoint = join(place.folder, 'first half', 'checkpoint-4');
    const again = { ...flags, resume_from_checkpoint: checkpoint };
    write('repaired.json', changed(fresh));
    const reporter = new Reports();
    await train(configOf(place, 'second half', again), { reporter });
    expect(reporter.notices.join('\n')).toContain(
      `1 record that no step has used yet changed since the checkpoint, the first: record ${fresh} of`,
    );
    const [old] = used;
    write('repaired.json', changed(old!));
    const refused = train(configOf(place, 'third half', again));
    await expect(refused).rejects.toThrow(/another content for 1 record that a step has used/);
    await expect(train(configOf(place, 'third half', again))).rejects.toMatchObject({ record: old, file: data });
    write('repaired.json', records.slice(1));
    await expect(train(configOf(place, 'third half', again))).rejects.toThrow(/Expected 16 records .* received 15/);
  });
});

async function usedBy(checkpoint: string): Promise<number[]> {
  const { readRecords } = await import('../../src/checkpoint/records.js');
  const { used } = readRecords(checkpoint)!;
  return [...used.keys()].filter((i) => used[i] !== 0n);
}
