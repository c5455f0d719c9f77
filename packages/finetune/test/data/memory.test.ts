/** What is remembered of data: used while it holds, ignored when it does not. Decoding beside the training. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { UserError } from '@minicpm-finetune/run';
import sharp from 'sharp';
import { beforeAll, describe, expect, it } from 'vitest';
import { Dataset } from '../../src/data/dataset.js';
import { DecodeAhead } from '../../src/data/decode-ahead.js';
import { encoderSetup } from '../../src/data/encoder.js';
import { UNKNOWN } from '../../src/data/identity.js';
import { Memory } from '../../src/data/memory.js';
import { type Preflight, type PreflightOptions, preflight } from '../../src/data/preflight.js';
import { DATA_FLAGS, type MadeData, MODEL, MODEL_FLAGS, makeData, picture } from '../support/made-data.js';
import { Reports } from '../support/reports.js';

const encoder = encoderSetup(MODEL, MODEL_FLAGS, DATA_FLAGS);
const newFolder = (): string => mkdtempSync(join(tmpdir(), 'memory-'));

/** Looks at a data file; `read` is the number of records that were looked at. */
async function look(
  file: string,
  folder: string,
  more: Partial<PreflightOptions> = {},
): Promise<Preflight & { read: number }> {
  const reporter = new Reports();
  const dataset = await Dataset.open([file], () => {});
  const memory = new Memory({ folder, least: 0, notice: (message) => reporter.notice(message) });
  const badRecords = { onBadRecord: 'stop', maxBadFraction: 0.01 } as const;
  const usual = { purpose: 'training', mode: 'quick', badRecords, threads: 0, memory } as const;
  const result = await preflight({ dataset, encoder, ...usual, reporter, ...more });
  await dataset.close();
  return { ...result, read: reporter.tasks[0]?.total ?? 0 };
}

/** Data whose pictures are old enough to be relied on: two that stay as they are, two for tests that change them. */
let many: MadeData;
let few: MadeData;
let manyToChange: MadeData;
let fewToChange: MadeData;
beforeAll(async () => {
  const all = await Promise.all([300, 20, 300, 20].map((records) => makeData(records)));
  const past = new Date(Date.now() - 60_000);
  for (const { folder } of all)
    for (const name of readdirSync(join(folder, 'images'))) utimesSync(join(folder, 'images', name), past, past);
  await new Promise((resolve) => setTimeout(resolve, 3100)); // the time of the last change of a file's data cannot be set
  [many, few, manyToChange, fewToChange] = all as [MadeData, MadeData, MadeData, MadeData];
});

const arrays = ({ lengths, texts, stamps, contents }: Preflight) => ({ lengths, texts, stamps, contents });

describe('what was looked at', () => {
  it('is not looked at again, and gives the same, in the next start', async () => {
    const [data, folder] = [many, newFolder()];
    const first = await look(data.file, folder);
    const again = await look(data.file, folder);
    expect([first.read, again.read]).toEqual([300, 0]);
    expect(arrays(again)).toEqual(arrays(first));
    expect(arrays(await look(data.file, newFolder()))).toEqual(arrays(first));
  });

  it('is looked at again where a picture was changed, is gone, or changed just now', async () => {
    const [data, folder] = [manyToChange, newFolder()];
    const { lengths } = await look(data.file, folder);
    const path = join(data.folder, 'images', '3.jpg');
    const bytes = readFileSync(path);
    const past = new Date(Date.now() - 60_000);
    const showing = (await look(data.file, folder)).lengths.reduce((sum, _, i) => sum + (shows(i, 3) ? 1 : 0), 0);
    writeFileSync(path, await picture(300, 200, 5)); // larger: more slices
    utimesSync(path, past, past);
    const changed = await look(data.file, folder);
    expect(changed.read).toBe(showing);
    expect(changed.lengths).not.toEqual(lengths);
    const other = new Memory({ folder: newFolder(), least: 0, notice: () => {} });
    expect(changed.lengths).toEqual((await look(data.file, folder, { memory: other })).lengths);
    expect((await look(data.file, folder)).read).toBe(showing); // changed just now: it might change again at the same time
    writeFileSync(path, bytes.subarray(0, bytes.length / 2));
    await expect(look(data.file, folder)).rejects.toThrow(/3\.jpg but received a broken one/);
    rmSync(path);
    await expect(look(data.file, folder)).rejects.toThrow(/3\.jpg" .* but there is none/);
    writeFileSync(path, bytes);
    expect((await look(data.file, folder)).lengths).toEqual(lengths);
  });

  it('is looked at again with another file, other settings, another tokenizer', async () => {
    const [data, folder] = [fewToChange, newFolder()];
    await look(data.file, folder);
    const short = encoderSetup(MODEL, MODEL_FLAGS, { ...DATA_FLAGS, model_max_length: 100 });
    expect((await look(data.file, folder, { encoder: short })).read).toBe(20);
    expect((await look(data.file, folder, { purpose: 'question' })).read).toBe(20);
    expect((await look(data.file, folder)).read).toBe(0);
    writeFileSync(data.file, readFileSync(data.file, 'utf8').replace('Picture 0', 'Picture 1'));
    expect((await look(data.file, folder)).read).toBe(20);
  });

  it('is found out again from a damaged file, and bounded in size', async () => {
    const [data, folder] = [few, newFolder()];
    const { lengths } = await look(data.file, folder);
    const path = join(folder, readdirSync(folder)[0]!);
    const bytes = readFileSync(path);
    for (const damage of [0, 4, 9, bytes.length - 3]) {
      const damaged = Buffer.from(bytes);
      damaged[damage]! ^= 1;
      writeFileSync(path, damaged);
      const again = await look(data.file, folder);
      expect([again.read, again.lengths]).toEqual([20, lengths]);
      writeFileSync(path, bytes.subarray(0, damage));
      expect((await look(data.file, folder)).read).toBe(20);
    }
    expect(readdirSync(folder)).toHaveLength(1);
    const small = { memory: new Memory({ folder, limit: bytes.length + 10, least: 0, notice: () => {} }) };
    await look(data.file, folder, { ...small, purpose: 'question' });
    expect(readdirSync(folder)).toHaveLength(1);
    expect((await look(data.file, folder, { ...small, purpose: 'question' })).read).toBe(0);
  });

  it('may be remembered by several at once', async () => {
    const [data, folder] = [few, newFolder()];
    const all = await Promise.all([1, 2, 3].map(() => look(data.file, folder, { threads: 1 })));
    for (const one of all) expect(arrays(one)).toEqual(arrays(all[0]!));
    expect((await look(data.file, folder)).read).toBe(0);
    expect(readdirSync(folder)).toHaveLength(1);
  });

  it('tells of a folder that cannot be written', async () => {
    const data = await makeData(5);
    const told: string[] = [];
    const memory = new Memory({ folder: join(data.file, 'no folder'), least: 0, notice: (one) => told.push(one) });
    expect((await look(data.file, '', { memory })).lengths).toHaveLength(5);
    expect(told.join()).toMatch(/cannot be remembered/);
  });
});

const shows = (i: number, image: number): boolean =>
  i % 10 !== 9 && (i % 16 === image || (i % 10 === 8 && (i + 5) % 16 === image));

/** A PNG file that is damaged in its middle: its header and its end are sound. */
async function damagedInside(): Promise<Buffer> {
  const bytes = await sharp(await picture(200, 200, 3))
    .png()
    .toBuffer();
  return bytes.fill(0, bytes.length >> 1, (bytes.length >> 1) + 40);
}

const record = (image: string) => ({
  image,
  conversations: [
    { role: 'user', content: 'Q' },
    { role: 'assistant', content: 'A' },
  ],
});

describe('damage in the middle of a picture', () => {
  it('is found by full, and beside the training otherwise', async () => {
    const data = await makeData(300, new Map([[280, record('images/inside.png')]]));
    writeFileSync(join(data.folder, 'images/inside.png'), await damagedInside());
    const folder = newFolder();
    await expect(look(data.file, folder, { mode: 'full' })).rejects.toMatchObject({ record: 280 });
    const { contents } = await look(data.file, folder);
    expect(contents[100]).not.toBe(UNKNOWN);
    expect(contents[280]).toBe(UNKNOWN);
    const dataset = await Dataset.open([data.file], () => {});
    const bad: [number, UserError][] = [];
    const ahead = new DecodeAhead({
      dataset,
      encoder,
      contents,
      order: Array.from({ length: 300 }, (_, i) => 299 - i),
      onBad: (index, error) => bad.push([index, error]),
    });
    await ahead.done;
    expect(ahead.failure).toBeNull();
    expect(bad).toMatchObject([[280, { record: 280, message: expect.stringMatching(/inside\.png/) }]]);
    expect([...contents.keys()].filter((i) => contents[i] === UNKNOWN)).toEqual([280]);
    await ahead.close();
  });

  it('is the same decoding in either mode', async () => {
    const [data, folder] = [many, newFolder()];
    const quick = await look(data.file, folder);
    const full = await look(data.file, folder, { mode: 'full' });
    expect(full.lengths).toEqual(quick.lengths);
    expect(full.contents.includes(UNKNOWN)).toBe(false);
    expect((await look(data.file, folder, { mode: 'full' })).read).toBe(0);
    expect((await look(data.file, folder)).contents).toEqual(full.contents);
  });
});
