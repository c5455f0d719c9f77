import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { Dataset } from '../../src/data/dataset.js';
import { Encoder, encoderSetup } from '../../src/data/encoder.js';
import { type PreflightOptions, preflight } from '../../src/data/preflight.js';
import { SILENT } from '../../src/report/reporter.js';
import { DATA_FLAGS, FAULTS, MODEL, MODEL_FLAGS, makeData, plantFaults, soundRecord } from '../support/made-data.js';
import { Reports } from '../support/reports.js';

const STOP = { onBadRecord: 'stop', maxBadFraction: 0.01 } as const;
const encoder = encoderSetup(MODEL, MODEL_FLAGS, DATA_FLAGS);

async function run(file: string, more: Partial<PreflightOptions> = {}): Promise<Uint32Array> {
  const dataset = await Dataset.open([file], () => {});
  return preflight({ dataset, encoder, badRecords: STOP, threads: 1, reporter: SILENT, ...more });
}

/** Faults that only decoding finds: a picture that is cut off, or too thin. */
const DECODED = [FAULTS[1]!, FAULTS[4]!];

describe('preflight', () => {
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
      await expect(run(data.file, { threads: 0 })).rejects.toThrow(message);
      await expect(run(data.file, { threads: 0 })).rejects.toMatchObject({ file: data.file, record: 4, line: 5 });
    },
  );

  it('finds far from the front whatever needs no decoding', async () => {
    const late = FAULTS.filter((fault) => !DECODED.includes(fault));
    const data = await makeData(300, new Map(late.map(([line], i) => [270 + i, line])));
    const badRecords = { onBadRecord: 'skip', maxBadFraction: 0.5 } as const;
    const lengths = await run(data.file, { badRecords });
    expect([...lengths.keys()].filter((i) => lengths[i] === 0)).toEqual(late.map((_, i) => 270 + i));
    await expect(run(data.file)).rejects.toMatchObject({ record: 270 });
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
