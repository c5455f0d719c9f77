/**
 * Checks all records before the first step. A mistake in the data then costs no training time. Lengths are measured on
 * the way (for --group_by_length and --packing). `quick` reads the headers of all pictures and decodes those of the first
 * records; `full` decodes them all. What was found is remembered (memory.ts): records that are unchanged since are not
 * looked at again.
 */
import { UserError, type UserErrorData } from '@minicpm-finetune/run';
import { asTask, type Reporter } from '../report/reporter.js';
import { type BadRecordPolicy, BadRecords } from './bad-records.js';
import type { Dataset } from './dataset.js';
import { EncodePool, threadsFor } from './encode-pool.js';
import type { EncoderSetup } from './encoder.js';
import { FileLines } from './file-lines.js';
import { readLine, stampOf, UNKNOWN } from './identity.js';
import { inOrder, type Range } from './in-order.js';
import type { Purpose } from './look.js';
import { ENCODED_FIRST, type Looked } from './look-range.js';
import { type Memory, memoryKey } from './memory.js';
import { FileNotes } from './traits.js';

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
  /** Worker threads; null: one per core, none for a few records; 0: this thread. */
  readonly threads: number | null;
  /** Where to look for what is known, and to leave it; absent: nowhere. */
  readonly memory?: Memory | null;
  readonly reporter: Reporter;
}

type Arrays = Omit<Looked, 'files' | 'bad'>;

/** What is known of all records. Shapes: (records); of a record that was not asked for, nothing. */
export interface Preflight extends Arrays {
  /** By the record's index, with its place. */
  readonly bad: ReadonlyMap<number, UserErrorData>;
  /** The picture files of a record. */
  filesOf(index: number): readonly string[];
  /** Remembers the `contents` that were entered since. */
  remember(): void;
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
export async function preflight(options: PreflightOptions): Promise<Preflight> {
  const { dataset, encoder, indices, purpose } = options;
  const memory = indices ? null : (options.memory ?? null);
  const key = memory === null ? '' : memoryKey(dataset, encoder, purpose);
  const known = memory?.load(key, dataset.length) ?? null;
  const lines = new FileLines(dataset.length, known?.files ?? null);
  const found: Arrays = known ?? nothing(dataset.length);
  const open = indices ?? openRecords(options, known, lines);
  let decoded = countDecoded(found);
  const bad = new Map<number, UserErrorData>();
  const remember = (): void => {
    decoded = countDecoded(found);
    memory?.store(key, { ...found, files: lines.joined() });
  };
  try {
    if (open.length > 0) await lookAt(open, options, { found, lines, bad });
  } finally {
    if (open.length > 0) remember();
  }
  const now = open.length > 0 ? new FileLines(dataset.length, lines.joined()) : lines;
  if (!indices) tellTraits(options, now, bad);
  const filesOf = (index: number): readonly string[] => readLine(now.line(index), dataset.folder(index))?.files ?? [];
  return { ...found, bad, filesOf, remember: () => (countDecoded(found) === decoded ? undefined : remember()) };
}

const nothing = (records: number): Arrays => ({
  lengths: new Uint32Array(records),
  texts: new BigUint64Array(records),
  stamps: new BigUint64Array(records),
  contents: new BigUint64Array(records),
});

/** Of records that another rank has looked at: their lengths alone. */
export function lookedAtElsewhere(records: number): Preflight {
  return { ...nothing(records), bad: new Map(), filesOf: () => [], remember: () => {} };
}

function countDecoded({ contents }: Arrays): number {
  let count = 0;
  for (const content of contents) if (content !== UNKNOWN) count++;
  return count;
}

/** The records that have to be looked at: those of which nothing is known that still holds. */
function openRecords({ dataset, mode }: PreflightOptions, known: Arrays | null, lines: FileLines): Uint32Array {
  const all = Uint32Array.from({ length: dataset.length }, (_, i) => i);
  if (known === null) return all;
  return all.filter((i) => {
    const stamp = known.stamps[i]!;
    if (stamp === UNKNOWN || (mode === 'full' && known.contents[i] === UNKNOWN)) return true;
    const folder = dataset.folder(i);
    const line = readLine(lines.line(i), folder);
    return line === null || stampOf(line.files, folder) !== stamp;
  });
}

/** Tells what may surprise in the files. */
function tellTraits(
  { dataset, reporter }: PreflightOptions,
  lines: FileLines,
  bad: ReadonlyMap<number, UserErrorData>,
): void {
  const notes = new FileNotes();
  for (let i = 0; i < dataset.length; i++) {
    const { file, record } = dataset.place(i);
    const error = bad.get(i);
    const line = error ? null : readLine(lines.line(i), '');
    if (error) notes.refuse(file, record, error.key);
    else if (line) notes.add(file, record, line.traits);
  }
  for (const note of notes.lines) reporter.notice(note);
}

interface Findings {
  readonly found: Arrays;
  readonly lines: FileLines;
  readonly bad: Map<number, UserErrorData>;
}

async function lookAt(records: Uint32Array, options: PreflightOptions, { found, lines, bad }: Findings): Promise<void> {
  const { dataset, encoder, reporter, purpose, mode } = options;
  const policy = new BadRecords({ ...options.badRecords, reportFile: undefined }, dataset.length);
  const look = { purpose, decoded: mode === 'full' ? dataset.length : ENCODED_FIRST };
  const most = options.threads ?? threadsFor(records.length);
  const ranges = rangesOf(records, Math.max(1, most) * AHEAD);
  const threads = Math.min(most, ranges.length);
  const setup = { dataset: dataset.index, encoder, look };
  const pool = await EncodePool.open('look', setup, threads, (message) => reporter.notice(message));
  const task = { label: 'Reading records', total: records.length, unit: 'records' };
  try {
    await asTask(reporter, task, async (update) => {
      let done = 0;
      for await (const [[first, count], outcome] of inOrder(pool, ranges, Math.max(1, threads) * AHEAD)) {
        if (!outcome.ok) throw UserError.fromData(outcome.error);
        const { value } = outcome;
        found.lengths.set(value.lengths, first);
        found.texts.set(value.texts, first);
        found.stamps.set(value.stamps, first);
        found.contents.set(value.contents, first);
        lines.replace(first, count, value.files);
        for (const { index, error } of value.bad) {
          policy.add(index, UserError.fromData(error));
          bad.set(index, error);
        }
        done += count;
        update(done);
      }
    });
  } finally {
    await pool.close();
  }
}

/** Pieces of work of neighbouring records: `least` of them, or more. */
function rangesOf(records: Uint32Array, least: number): Range[] {
  const size = Math.max(1, Math.min(RANGE, Math.floor(records.length / least)));
  const ranges: [first: number, count: number][] = [];
  for (const record of records) {
    const last = ranges.at(-1);
    if (last && last[0] + last[1] === record && last[1] < size) last[1]++;
    else ranges.push([record, 1]);
  }
  return ranges;
}
