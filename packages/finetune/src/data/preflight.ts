/**
 * Checks all records before the first step. A mistake in the data then costs no training time. Lengths are measured on
 * the way (for --group_by_length and --packing). `quick` reads the headers of all pictures and decodes those of the first
 * records; `full` decodes them all. What was found is remembered (memory.ts): records that are unchanged since are not
 * looked at again.
 */
import { availableParallelism } from 'node:os';
import { UserError, type UserErrorData } from '@minicpm-finetune/run';
import { asTask, type Reporter } from '../report/reporter.js';
import { type BadRecordPolicy, BadRecords } from './bad-records.js';
import type { Dataset } from './dataset.js';
import { EncodePool } from './encode-pool.js';
import type { EncoderSetup } from './encoder.js';
import { inOrder, type Range } from './in-order.js';
import type { Purpose } from './look.js';
import { ENCODED_FIRST, type Looked } from './look-range.js';

export interface PreflightOptions {
  readonly dataset: Dataset;
  readonly encoder: EncoderSetup;
  /** Whether the records are to learn from, or to be asked (everything before the last answer, as generate and --eval_generate do). */
  readonly purpose: Purpose;
  /** quick: headers of all pictures, and the first records decoded; full: all decoded. */
  readonly mode: 'quick' | 'full';
  /** Only these records; absent: all. */
  readonly indices?: Uint32Array;
  /** Handling of bad records; reports are left to the run itself. */
  readonly badRecords: Omit<BadRecordPolicy, 'reportFile'>;
  /** Worker threads; null: one per core; 0: this thread. */
  readonly threads: number | null;
  readonly reporter: Reporter;
}

/** What is known of all records. Shapes: (records); of a record that was not asked for, nothing. */
export interface Preflight extends Omit<Looked, 'files' | 'bad'> {
  /** By the record's index, with its place. */
  readonly bad: ReadonlyMap<number, UserErrorData>;
}

/** Most records that a thread takes at once. */
const RANGE = 64;
/** Ranges under way for each thread. */
const AHEAD = 4;

/**
 * Looks at records. Lengths are close to the true ones and at most the longest sequence; 0 for a bad record that is left out.
 *
 * @throws UserError for the first bad record, or under `skip` for too many
 */
export async function preflight({ dataset, encoder, reporter, ...options }: PreflightOptions): Promise<Preflight> {
  const count = dataset.length;
  const found = {
    lengths: new Uint32Array(count),
    texts: new BigUint64Array(count),
    stamps: new BigUint64Array(count),
    contents: new BigUint64Array(count),
  };
  const bad = new Map<number, UserErrorData>();
  const policy = new BadRecords({ ...options.badRecords, reportFile: undefined }, count);
  const look = { purpose: options.purpose, decoded: options.mode === 'full' ? count : ENCODED_FIRST };
  const most = options.threads ?? availableParallelism();
  const ranges = rangesOf(options.indices, count, Math.max(1, most) * AHEAD);
  const threads = Math.min(most, ranges.length);
  const setup = { dataset: dataset.index, encoder, look };
  const pool = await EncodePool.open('look', setup, threads, (message) => reporter.notice(message));
  const total = options.indices?.length ?? count;
  try {
    await asTask(reporter, { label: 'Reading records', total, unit: 'records' }, async (update) => {
      let done = 0;
      for await (const [range, outcome] of inOrder(pool, ranges, Math.max(1, threads) * AHEAD)) {
        if (!outcome.ok) throw UserError.fromData(outcome.error);
        const [first, length] = range;
        for (const key of ['lengths', 'texts', 'stamps', 'contents'] as const)
          found[key].set(outcome.value[key] as never, first);
        for (const { index, error } of outcome.value.bad) {
          policy.add(index, UserError.fromData(error));
          bad.set(index, error);
        }
        done += length;
        update(done);
      }
    });
  } finally {
    await pool.close();
  }
  return { ...found, bad };
}

/** First record and number of records of each piece of work: `least` pieces, or more. */
function rangesOf(indices: Uint32Array | undefined, count: number, least: number): Range[] {
  if (indices) return [...indices].map((index) => [index, 1]);
  const size = Math.max(1, Math.min(RANGE, Math.floor(count / least)));
  return Array.from({ length: Math.ceil(count / size) }, (_, i) => [i * size, Math.min(size, count - i * size)]);
}
