/** Damaged data files: always a UserError or a valid reading, never another error, a crash or a hang. */
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { UserError } from '@minicpm-finetune/run';
import { expect, it } from 'vitest';
import { Dataset } from '../../src/data/dataset.js';
import { Random } from '../../src/data/random.js';
import { soundRecord } from '../support/made-data.js';

const folder = mkdtempSync(join(tmpdir(), 'fuzz-'));
const fixtures = fileURLToPath(new URL('../fixtures/data/', import.meta.url));
const records = Array.from({ length: 6 }, (_, i) => ({ ...soundRecord(9 + 10 * i) }));

/** Cuts, overwrites, removes or doubles a few bytes. */
function mutated(bytes: Buffer, random: Random): Buffer {
  let result = Buffer.from(bytes);
  for (let i = random.below(3); i >= 0; i--) {
    const at = random.below(result.length + 1);
    const end = at + random.below(20);
    const kind = random.below(4);
    if (kind === 0) result = result.subarray(0, at);
    else if (kind === 1 && at < result.length) result[at] = random.below(256);
    else if (kind === 2) result = Buffer.concat([result.subarray(0, at), result.subarray(end)]);
    else result = Buffer.concat([result.subarray(0, end), result.subarray(at)]);
  }
  return result;
}

async function readAll(path: string): Promise<'read' | 'refused'> {
  let data: Dataset | undefined;
  try {
    data = await Dataset.open([path], () => {});
    for (let i = 0; i < Math.min(data.length, 20); i++) await data.read(i);
    return 'read';
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    expect(error.file).toBe(path);
    return 'refused';
  } finally {
    await data?.close();
  }
}

it.each([
  ['a JSON array', Buffer.from(JSON.stringify(records, undefined, 1)), 600],
  ['JSON Lines', Buffer.from(records.map((record) => `${JSON.stringify(record)}\n`).join('')), 600],
  ['parquet, snappy', readFileSync(join(fixtures, 'messages.snappy.parquet')), 300],
  ['parquet, zstd', readFileSync(join(fixtures, 'llava.zstd.parquet')), 300],
  ['parquet, gzip', readFileSync(join(fixtures, 'seed-json-text.gzip.parquet')), 300],
])('damaged %s', async (_, bytes, times) => {
  const random = new Random(11);
  const counts = { read: 0, refused: 0 };
  for (let i = 0; i < times; i++) {
    const path = join(folder, 'damaged');
    writeFileSync(path, mutated(bytes, random));
    counts[await readAll(path)]++;
  }
  expect(counts.refused).toBeGreaterThan(times / 4);
  expect(counts.read).toBeGreaterThan(0);
});
