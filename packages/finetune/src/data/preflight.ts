/**
 * Checks all records before the first step. A mistake in the data then costs no training time. Lengths are measured on
 * the way (for --group_by_length and --packing). The first records are encoded in full, the others are only looked at:
 * check-data encodes all of them.
 */
import { availableParallelism } from 'node:os';
import { UserError } from '@minicpm-finetune/run';
import { asTask, type Reporter } from '../report/reporter.js';
import { type BadRecordPolicy, BadRecords } from './bad-records.js';
import type { Dataset } from './dataset.js';
import { EncodePool } from './encode-pool.js';
import type { EncoderSetup } from './encoder.js';
import { inOrder } from './in-order.js';
import { FileNotes } from './traits.js';

export interface PreflightOptions {
  readonly dataset: Dataset;
  readonly encoder: EncoderSetup;
  /** Handling of bad records; reports are left to the run itself. */
  readonly badRecords: Omit<BadRecordPolicy, 'reportFile'>;
  /** Worker threads; null: one per core; 0: this thread. */
  readonly threads: number | null;
  readonly reporter: Reporter;
}

/**
 * Lengths of all records in tokens, close to the true ones and at most the longest sequence; 0 for a bad record that is left out. Shape: (records).
 * Throws UserError for the first bad record, or under `skip` for too many.
 */
export async function preflight({ dataset, encoder, reporter, ...options }: PreflightOptions): Promise<Uint32Array> {
  const lengths = new Uint32Array(dataset.length);
  const notes = new FileNotes();
  const bad = new BadRecords({ ...options.badRecords, reportFile: undefined }, dataset.length);
  const threads = options.threads ?? availableParallelism();
  const setup = { dataset: dataset.index, encoder };
  const pool = await EncodePool.open('look', setup, threads, (message) => reporter.notice(message));
  try {
    await asTask(reporter, { label: 'Reading records', total: dataset.length, unit: 'records' }, async (update) => {
      for await (const [index, outcome] of inOrder(pool, dataset.length, Math.max(1, threads) * 16)) {
        const { file, record } = dataset.place(index);
        if (outcome.ok) {
          lengths[index] = Math.min(outcome.value, encoder.maxLength);
          notes.add(file, record, outcome.traits!);
        } else {
          bad.add(index, UserError.fromData(outcome.error));
          notes.refuse(file, record, outcome.error.key);
        }
        update(index + 1);
      }
    });
  } finally {
    await pool.close();
  }
  for (const note of notes.lines) reporter.notice(note);
  return lengths;
}
