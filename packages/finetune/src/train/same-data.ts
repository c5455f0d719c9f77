/**
 * Whether a resumed run sees the data it saw before. Data are known by content: by what each record says and shows, not
 * by files, so they may be moved, renamed, copied, or written in another format. A record that a step has used must be the
 * same. One that no step has used yet (a bad one, above all) may have been repaired: it is used as it is now. The number
 * of records of each file must be the same, since a record's place in the order of the run follows from it.
 */
import { UserError } from '@minicpm-finetune/run';
import type { RecordsState } from '../checkpoint/records.js';
import type { Dataset } from '../data/dataset.js';
import { EncodePool, threadsFor } from '../data/encode-pool.js';
import type { EncoderSetup } from '../data/encoder.js';
import { filesOf, UNKNOWN } from '../data/identity.js';
import { inOrder } from '../data/in-order.js';
import type { Preflight } from '../data/preflight.js';
import { asTask, type Reporter } from '../report/reporter.js';

const ANYWAY = '--resume_anyway true to continue with other data';

export interface Comparison {
  readonly dataset: Dataset;
  readonly encoder: EncoderSetup;
  readonly now: Pick<Preflight, 'texts' | 'stamps' | 'bad'>;
  /** What is not the same any more, and may be, counts as not used from now on. */
  readonly before: RecordsState;
  /** The record at which the run failed: it and all that show its pictures may have been repaired. */
  readonly failed: number | null;
  readonly reporter: Reporter;
}

/**
 * Compares the data with those of a checkpoint, and says what changed in records that were not used.
 *
 * @throws UserError for another number of records, and for other records than those that were used
 */
export async function compareRecords({ now, before, failed, ...tools }: Comparison): Promise<void> {
  const { dataset, reporter } = tools;
  compareSizes(dataset, before.sizes);
  if (failed !== null) before.used[failed] = UNKNOWN;
  const changed: number[] = [];
  const unsure: number[] = [];
  const repaired: number[] = [];
  for (let i = 0; i < dataset.length; i++) {
    if (now.bad.has(i)) continue; // it will be left out
    const isUsed = before.used[i] !== UNKNOWN;
    if (now.texts[i] !== before.texts[i]) (isUsed ? changed : repaired).push(i);
    else if (isUsed && (now.stamps[i] !== before.stamps[i] || now.stamps[i] === UNKNOWN)) unsure.push(i);
  }
  if (changed.length === 0) changed.push(...(await otherPictures(unsure, { ...tools, before, failed })));
  if (changed.length > 0) throw otherRecords(dataset, changed);
  if (repaired.length === 0) return;
  const { file, record } = dataset.place(repaired[0]!);
  reporter.notice(
    `${counted(repaired.length)} no step has used yet changed since the checkpoint, the first: record ${record} of ${file}. They are used as they are now.`,
  );
}

const counted = (count: number): string => (count === 1 ? '1 record that' : `${count} records that`);

function compareSizes(dataset: Dataset, before: readonly number[]): void {
  const other = dataset.files.findIndex(({ records }, i) => records !== before[i]);
  if (other === -1 && dataset.files.length === before.length) return;
  const files = dataset.files.length !== before.length;
  const [wanted, received] = files
    ? [`${before.length} data files`, String(dataset.files.length)]
    : [`${before[other]} records`, String(dataset.sizes[other])];
  throw new UserError(
    `Expected ${wanted} for --data_path, as when the checkpoint was saved, but received ${received}.`,
    {
      ...(files ? {} : { file: dataset.files[other]!.index.path }),
      flag: '--data_path',
      cure: `Give the same data files in the same order, with as many records: repair a bad record in its place instead of removing it. Or give ${ANYWAY}.`,
    },
  );
}

function otherRecords(dataset: Dataset, changed: readonly number[]): UserError {
  return new UserError(
    `Expected the records the checkpoint was trained on for --data_path but received another content for ${counted(changed.length)} a step has used.`,
    {
      ...dataset.place(changed[0]!),
      flag: '--data_path',
      cure: `Give the data as they were (records that were not used yet may be repaired), or ${ANYWAY}.`,
    },
  );
}

/** Those of `records` whose pictures have another content than when they were used. One that cannot be decoded now is a bad record, and no other. */
async function otherPictures(
  records: readonly number[],
  { dataset, encoder, before, failed, reporter }: Omit<Comparison, 'now'>,
): Promise<number[]> {
  if (records.length === 0) return [];
  const setup = { dataset: dataset.index, encoder };
  const pool = await EncodePool.open('content', setup, Math.min(1, threadsFor(records.length)), () => {});
  const decoding = await EncodePool.open('decode', setup, 0, () => {});
  const repaired = failed === null ? [] : await filesAt(dataset, failed);
  const other: number[] = [];
  try {
    await asTask(reporter, { label: 'Comparing pictures', total: records.length, unit: 'records' }, async (update) => {
      let done = 0;
      const each = records.map((index) => [index, 1] as const);
      for await (const [[index], outcome] of inOrder(pool, each, 16)) {
        const same = outcome.ok && outcome.value === before.used[index];
        const free = !same && (!(await decoding.run(index)).ok || (await shows(dataset, index, repaired)));
        if (free) before.used[index] = UNKNOWN;
        else if (!same) other.push(index);
        update(++done);
      }
    });
  } finally {
    await pool.close();
    await decoding.close();
  }
  return other;
}

/** Picture files of a record; none of one that is bad still. */
async function filesAt(dataset: Dataset, index: number): Promise<string[]> {
  try {
    return filesOf(await dataset.read(index));
  } catch (error) {
    if (error instanceof UserError) return [];
    throw error;
  }
}

async function shows(dataset: Dataset, index: number, files: readonly string[]): Promise<boolean> {
  return files.length > 0 && (await filesAt(dataset, index)).some((file) => files.includes(file));
}
