/**
 * A look at a stretch of records. What is found out about them, as arrays: a data set of millions has no object for each
 * record.
 */
import { UserError, type UserErrorData } from '@minicpm-finetune/run';
import type { Dataset } from './dataset.js';
import type { Encoder } from './encoder.js';
import { contentOf, filesOf, NO_PICTURES, stampOf, textOf, UNKNOWN, writeLine } from './identity.js';
import { decodeAll, lookAtQuestion, lookAtRecords, type Purpose } from './look.js';
import { type DataRecord, imagesOf, videosOf, withWrittenTurn } from './record.js';
import { strangerTo } from './stranger.js';
import { summarize } from './summary.js';
import { traitsOf } from './traits.js';
import { ChangedDataError } from './unchanged.js';

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
  /** Hashes of their pictures' contents, where these were decoded or there are none; else `UNKNOWN`. */
  readonly contents: BigUint64Array;
  /** Their traits and picture files, a line for each record (identity.ts). UTF-8. */
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
  const looked = {
    lengths: new Uint32Array(count),
    texts: new BigUint64Array(count),
    stamps: new BigUint64Array(count),
    contents: new BigUint64Array(count),
  };
  const lines = Array.from({ length: count }, () => '');
  const bad: Looked['bad'][number][] = [];
  const fail = (i: number, error: unknown): void => {
    if (!(error instanceof UserError) || error instanceof ChangedDataError) throw error;
    looked.stamps[i] = UNKNOWN; // to be looked at again by the next start
    bad.push({ index: first + i, error: error.at(dataset.place(first + i)).toData() });
  };
  const read: { i: number; record: DataRecord }[] = [];
  for (let i = 0; i < count; i++) {
    try {
      const record = await dataset.read(first + i);
      const files = filesOf(record);
      const folder = dataset.folder(first + i);
      const traits = traitsOf(record);
      const line = writeLine({ traits, files }, folder);
      looked.texts[i] = textOf(record);
      lines[i] = line ?? writeLine({ traits, files: [] }, folder)!;
      looked.stamps[i] = line === null ? UNKNOWN : stampOf(files, folder);
      read.push({ i, record });
    } catch (error) {
      fail(i, error);
    }
  }
  const exact = Math.max(0, Math.min(count, setup.purpose === 'training' ? ENCODED_FIRST - first : count));
  const compares = encoder.setup.preference !== null;
  const quick = compares ? [] : read.filter(({ i }) => i >= exact);
  const lengths = await lookAtRecords(
    quick.map(({ record }) => record),
    encoder,
  );
  const lengthOf = new Map(quick.map(({ i }, k) => [i, lengths[k]!]));
  for (const { i, record } of read) {
    try {
      const stranger = await strangerTo(dataset, encoder, first + i);
      const own = compares && i >= exact ? measureHeaders(record, encoder, stranger) : null;
      const length = lengthOf.get(i) ?? (await (own ?? measure(record, encoder, setup, stranger)));
      if (length instanceof UserError) throw length;
      if (first + i < setup.decoded) {
        if (i >= exact || setup.purpose === 'question') await decodeAll(record, encoder);
        looked.contents[i] = contentOf(record);
      } else if (imagesOf(record).length + videosOf(record).length === 0) looked.contents[i] = NO_PICTURES;
      looked.lengths[i] = Math.min(length, encoder.setup.maxLength * (compares ? 2 : 1));
    } catch (error) {
      fail(i, withWrittenTurn(error, record));
    }
  }
  bad.sort((a, b) => a.index - b.index);
  return { ...looked, files: new Uint8Array(Buffer.from(lines.map((line) => `${line}\n`).join(''))), bad };
}

/** The length of a record that is encoded as it will be. */
async function measure(
  record: DataRecord,
  encoder: Encoder,
  { purpose }: LookSetup,
  stranger?: DataRecord,
): Promise<number> {
  return purpose === 'question'
    ? await lookAtQuestion(record, encoder)
    : (await summarize(record, encoder, stranger)).value.tokens;
}

/** The length of a record of two answers, without its pictures. */
async function measureHeaders(record: DataRecord, encoder: Encoder, stranger?: DataRecord): Promise<number> {
  const { sample } = await encoder.encode(record, { pixels: 'header' }, stranger);
  return sample?.inputIds.length ?? 0;
}
