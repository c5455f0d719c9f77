import { readFileSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { LONG } from '../../../torch/test/support/long.js';
import { Dataset } from '../../src/data/dataset.js';
import { threadsFor } from '../../src/data/encode-pool.js';
import { Encoder, encoderSetup } from '../../src/data/encoder.js';
import { type Preflight, type PreflightOptions, preflight } from '../../src/data/preflight.js';
import { SILENT } from '../../src/report/reporter.js';
import { DATA_FLAGS, FAULTS, MODEL, MODEL_FLAGS, makeData, plantFaults, soundRecord } from '../support/made-data.js';
import { Reports } from '../support/reports.js';

const STOP = { onBadRecord: 'stop', maxBadFraction: 0.01 } as const;
const encoder = encoderSetup(MODEL, MODEL_FLAGS, DATA_FLAGS);

async function look(file: string, more: Partial<PreflightOptions> = {}): Promise<Preflight> {
  const dataset = await Dataset.open([file], () => {});
  const usual = { purpose: 'training', mode: 'quick', badRecords: STOP, threads: 0, reporter: SILENT } as const;
  return await preflight({ dataset, encoder, ...usual, ...more });
}

const run = async (file: string, more: Partial<PreflightOptions> = {}): Promise<Uint32Array> =>
  (await look(file, more)).lengths;

describe('preflight', () => {
  it('takes no thread for a few records, which gives the same', async () => {
    expect([0, 16, 17].map(threadsFor)).toEqual([0, 0, availableParallelism()]);
    const { file } = await makeData(16);
    expect(await run(file, { threads: null })).toEqual(await run(file, { threads: 2 }));
  });

  it('measures lengths that are close to the true ones', async () => {
    const data = await makeData(400);
    const reporter = new Reports();
    const lengths = await run(data.file, { threads: 2, reporter });
    expect(lengths).toHaveLength(400);
    expect(reporter.tasks).toMatchObject([{ total: 400, end: 'finished' }]);
    expect(reporter.tasks[0]!.updates.at(-1)).toBe(400);
    const dataset = await Dataset.open([data.file], () => {});
    const whole = await Encoder.open(encoder);
    for (let i = 0; i < 400; i += 7) {
      const { sample } = await whole.encode(await dataset.read(i));
      const tokens = sample!.inputIds.length;
      if (i < 256) expect(lengths[i]).toBe(tokens);
      else expect(Math.abs(lengths[i]! - tokens)).toBeLessThan(0.1 * tokens);
    }
    const short = encoderSetup(MODEL, MODEL_FLAGS, { ...DATA_FLAGS, model_max_length: 120 });
    expect(Math.max(...(await run(data.file, { encoder: short })))).toBe(120);
  });

  it.each(FAULTS.map(([line, message]) => [line, message] as const))(
    'stops at a first record like %j',
    async (line, message) => {
      const data = await makeData(10, new Map([[4, line]]));
      await expect(run(data.file)).rejects.toThrow(message);
      await expect(run(data.file)).rejects.toMatchObject({ file: data.file, record: 4, line: 5 });
    },
  );

  it('finds every fault far from the front', async () => {
    const data = await makeData(300, new Map(FAULTS.map(([line], i) => [270 + i, line])));
    const badRecords = { onBadRecord: 'skip', maxBadFraction: 0.5 } as const;
    const { lengths, bad } = await look(data.file, { badRecords, threads: 1 });
    expect([...lengths.keys()].filter((i) => lengths[i] === 0)).toEqual(FAULTS.map((_, i) => 270 + i));
    for (const [i, [, message]] of FAULTS.entries()) expect(bad.get(270 + i)!.message).toMatch(message);
    await expect(run(data.file, { threads: 1 })).rejects.toMatchObject({ record: 270 });
  });

  it.each<readonly [string, Parameters<typeof late>[0]]>([
    [
      'a question that leaves nothing to learn',
      { question: 'word '.repeat(2500), message: /nothing to learn is left/ },
    ],
    [
      '--overlong error',
      { answer: 'word '.repeat(2500), flags: { overlong: 'error' }, message: /at most 2048 tokens/ },
    ],
    ['an SVG file', { image: 'a.svg', both: true, message: /svg/i }],
    ['a picture that is cut off', { image: 'images/cut.jpg', message: /cut\.jpg but received a broken one/ }],
    [
      'a tag twice',
      {
        question: '<image>\n<image>',
        image: 'images/1.jpg',
        flags: { compat: 'official' },
        message: /a place in the text for each of the/,
      },
    ],
  ])('finds %s after the records that are decoded', async (_, fault) => {
    await late(fault);
  });

  it.each(['fewer_slices', 'truncate_text'] as const)(
    'with --overlong %s refuses exactly the records of which nothing to learn is left, at every length near the limit',
    async (overlong) => {
      const near = Array.from({ length: 120 }, (_, k) => ({
        ...(k % 2 === 0 ? { image: 'images/1.jpg' } : {}),
        conversations: [
          { role: 'user', content: 'word '.repeat(k) },
          { role: 'assistant', content: 'That is all.' },
          { role: 'user', content: 'And?' },
          { role: 'assistant', content: 'word '.repeat(30) },
        ],
      }));
      const data = await makeData(400, new Map(near.map((record, k) => [270 + k, record])));
      const setup = encoderSetup(MODEL, MODEL_FLAGS, { ...DATA_FLAGS, model_max_length: 96, overlong });
      const skip = { onBadRecord: 'skip', maxBadFraction: 1 } as const;
      const { bad } = await look(data.file, { encoder: setup, badRecords: skip });
      const [dataset, whole] = [await Dataset.open([data.file], () => {}), await Encoder.open(setup)];
      const refused: number[] = [];
      for (let i = 270; i < 390; i++) {
        const record = await dataset.read(i);
        await whole.encode(record).catch(() => refused.push(i));
      }
      expect([...bad.keys()].filter((i) => i >= 270 && i < 390)).toEqual(refused);
      expect(refused.length).toBeGreaterThan(10);
      expect(refused.length).toBeLessThan(110);
    },
  );

  it('looks at questions: what is asked, not the answer', async () => {
    const answer = { image: 'images/1.jpg', conversations: [{ role: 'user', content: 'Q' }] };
    const thin = { ...answer, image: 'images/thin.jpg' };
    const cut = { ...answer, image: 'images/cut.jpg' };
    const data = await makeData(
      300,
      new Map([
        [2, answer],
        [280, thin],
        [290, cut],
      ]),
    );
    const asked = { purpose: 'question', badRecords: { onBadRecord: 'skip', maxBadFraction: 1 } } as const;
    const { bad, lengths } = await look(data.file, asked);
    expect([...bad.keys()]).toEqual([280, 290]);
    expect(bad.get(280)).toMatchObject({ file: data.file, record: 280, turn: 0 });
    expect(lengths[2]).toBeGreaterThan(10);
    const some = await look(data.file, { ...asked, indices: Uint32Array.from([2, 290]) });
    expect([...some.bad.keys()]).toEqual([290]);
    await expect(look(data.file, { purpose: 'question' })).rejects.toMatchObject({ record: 280 });
  });

  it('stops under skip when too many are bad', async () => {
    const faults = plantFaults(100);
    const data = await makeData(100, new Map([...faults].map(([i, [line]]) => [i, line])));
    await expect(run(data.file, { badRecords: { onBadRecord: 'skip', maxBadFraction: 0.05 } })).rejects.toThrow(
      /at most 5 % of 100 records to be bad but received 6/,
    );
  });

  it('looks at pictures that sharp does not read itself', async () => {
    const data = await makeData(
      300,
      new Map([
        [
          290,
          {
            image: 'a.bmp',
            conversations: [
              { role: 'user', content: 'Q' },
              { role: 'assistant', content: 'A' },
            ],
          },
        ],
      ]),
    );
    writeFileSync(join(data.folder, 'a.bmp'), bmp(40, 30));
    expect((await run(data.file))[290]).toBeGreaterThan(16);
  });

  it('says before a training what is learned as text, what is not learned, and what is not read', async () => {
    const turns = soundRecord(9).conversations as { role: string }[];
    const marked = turns.map((turn, i) => (i === 1 ? { ...turn, weight: 0 } : turn));
    const reporter = new Reports();
    const { file } = await makeData(
      300,
      new Map([
        [270, { conversations: [...marked, ...turns] }],
        [271, { ...soundRecord(0), image_url: 'x' }],
        [280, { conversations: [{ role: 'user', content: 'What is in the picture?' }, turns[1]!] }],
      ]),
    );
    await run(file, { reporter });
    expect(reporter.notices).toEqual([
      `${file}: records without a picture, learned as text: 32 of 300 (first: record 9).`,
      `${file}: records without a picture whose questions speak of one: 1 (first: record 280).`,
      `${file}: answers marked as not to be learned, context only: 1, in records: 1 (first: record 270).`,
      `${file}: records with the key image_url, which is not read: 1 (first: record 271).`,
    ]);
  });

  it('is silent where nothing is odd', async () => {
    const reporter = new Reports();
    const pictures = await makeData(5, new Map([[4, soundRecord(3)]]));
    const texts = await makeData(2, new Map([0, 1].map((i) => [i, soundRecord(9)])));
    for (const { file } of [pictures, texts]) await run(file, { reporter });
    expect(reporter.notices).toEqual([]);
  });

  it('takes the records of the official encoding', async () => {
    const data = await makeData(270);
    const official = encoderSetup(MODEL, MODEL_FLAGS, { ...DATA_FLAGS, compat: 'official' });
    expect(Math.min(...(await run(data.file, { encoder: official })))).toBeGreaterThan(10);
  });
});

interface Late {
  readonly question?: string;
  readonly answer?: string;
  readonly image?: string;
  readonly flags?: Partial<Omit<typeof DATA_FLAGS, 'overlong' | 'compat'>> & {
    overlong?: 'error';
    compat?: 'official';
  };
  /** In JSON, too, also in the short part. */
  readonly both?: boolean;
  readonly message: RegExp;
}

/** A fault at record 280 of 300: found by headers and lengths, in JSON Lines and JSON. */
async function late({ question = 'Q', answer = 'A', image, flags, both = LONG, message }: Late): Promise<void> {
  const turns = [
    { role: 'user', content: question },
    { role: 'assistant', content: answer },
  ];
  const data = await makeData(300, new Map([[280, { ...(image ? { image } : {}), conversations: turns }]]));
  writeFileSync(join(data.folder, 'a.svg'), '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40"/>');
  const array = join(data.folder, 'data.json');
  writeFileSync(array, `[${readFileSync(data.file, 'utf8').trim().split('\n').join(',\n')}]`);
  const setup = encoderSetup(MODEL, MODEL_FLAGS, { ...DATA_FLAGS, ...flags });
  for (const file of both ? [data.file, array] : [data.file]) {
    const error: unknown = await run(file, { encoder: setup }).catch((cause: unknown) => cause);
    expect(error).toMatchObject({ file, record: 280, message: expect.stringMatching(message) });
    expect((error as { cure: string }).cure).toMatch(/--on_bad_record skip\. check-data lists all/);
  }
}

/** An uncompressed 24-bit bitmap of one colour. */
function bmp(width: number, height: number): Buffer {
  const row = Math.ceil((width * 3) / 4) * 4;
  const file = Buffer.alloc(54 + row * height, 120);
  file.fill(0, 0, 54);
  file.write('BM');
  file.writeUInt32LE(file.length, 2);
  file.writeUInt32LE(54, 10);
  file.writeUInt32LE(40, 14);
  file.writeInt32LE(width, 18);
  file.writeInt32LE(height, 22);
  file.writeUInt16LE(1, 26);
  file.writeUInt16LE(24, 28);
  return file;
}
