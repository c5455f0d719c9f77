/**
 * A look at a stretch of records. What is found out about them, as arrays: a data set of millions has no object for each
 * record.
 */
import { dirname, resolve } from 'node:path';
import { UserError, type UserErrorData } from '@minicpm-finetune/run';
import type { Dataset } from './dataset.js';
import type { Encoder } from './encoder.js';
import { contentOf, filesOf, stampOf, textOf, UNKNOWN } from './identity.js';
import { decodeAll, look, type Purpose } from './look.js';
import type { DataRecord } from './record.js';
import { summarize } from './summary.js';

export interface LookSetup {
  readonly purpose: Purpose;
  /** Leading records whose pictures are decoded. */
  readonly decoded: number;
}

/** What is known of `count` records. Shapes: (count) */
export interface Looked {
  /** Lengths in tokens, close to the true ones; 0 for a bad record. */
  readonly lengths: Uint32Array;
  /** Hashes of their texts. */
  readonly texts: BigUint64Array;
  /** Stamps of their picture files, taken before these were read; `UNKNOWN`: not to be relied on. */
  readonly stamps: BigUint64Array;
  /** Hashes of their pictures' contents, where these were decoded; else `UNKNOWN`. */
  readonly contents: BigUint64Array;
  /** Their picture files, a line for each record, the files separated by NUL. UTF-8. */
  readonly files: Uint8Array;
  readonly bad: readonly { readonly index: number; readonly error: UserErrorData }[];
}

/** The first records are encoded in full, so that a small data set is checked as thoroughly as by check-data. */
export const ENCODED_FIRST = 256;

/** Looks at the records from `first` on. A bad one is in the result. */
export async function lookAtRange(
  dataset: Dataset,
  encoder: Encoder,
  setup: LookSetup,
  first: number,
  count: number,
): Promise<Looked> {
  const shared = {
    lengths: new Uint32Array(count),
    texts: new BigUint64Array(count),
    stamps: new BigUint64Array(count),
    contents: new BigUint64Array(count),
  };
  const lines: string[] = [];
  const bad: Looked['bad'][number][] = [];
  for (let i = 0; i < count; i++) {
    const index = first + i;
    const place = dataset.place(index);
    lines.push('');
    try {
      const record = await dataset.read(index);
      const files = filesOf(record);
      shared.texts[i] = textOf(record);
      shared.stamps[i] = stampOf(files, dirname(resolve(place.file)));
      shared.lengths[i] = Math.min(await measure(record, encoder, setup, index), encoder.setup.maxLength);
      if (index < setup.decoded) shared.contents[i] = contentOf(record);
      const line = files.join('\0');
      if (line.includes('\n')) shared.stamps[i] = UNKNOWN;
      else lines[i] = line;
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      shared.lengths[i] = 0;
      bad.push({ index, error: error.at(place).toData() });
    }
  }
  return { ...shared, files: new Uint8Array(Buffer.from(lines.map((line) => `${line}\n`).join(''))), bad };
}

/** The length of a record in tokens: whether its pictures are decoded now makes no difference to it. */
async function measure(record: DataRecord, encoder: Encoder, setup: LookSetup, index: number): Promise<number> {
  if (setup.purpose === 'training' && index < ENCODED_FIRST) return (await summarize(record, encoder)).value.tokens;
  const tokens = await look(record, encoder, setup.purpose);
  if (index < setup.decoded) await decodeAll(record, encoder);
  return tokens;
}
