/**
 * Encodes every record as training would, and reports. Uses all cores. Reports every mistake, what looks odd, and the
 * numbers from which to choose --model_max_length. Changes nothing. The report as text is report.ts.
 *
 * What the preflight remembers (data/memory.ts) is not used: it has lengths that are only close, and neither supervised tokens, slices nor
 * warnings, which are all that is reported here. Nor is it filled: that would take a hash of every picture's content.
 */
import type { UserErrorData } from '@minicpm-finetune/run';
import { Dataset } from '../../data/dataset.js';
import { EncodePool, threadsFor } from '../../data/encode-pool.js';
import type { Outcome } from '../../data/encode-task.js';
import type { EncoderSetup } from '../../data/encoder.js';
import { eachOf, inOrder } from '../../data/in-order.js';
import type { RecordSummary } from '../../data/summary.js';
import { FileNotes, type FileNotesData } from '../../data/traits.js';
import { asTask, type Reporter, SILENT } from '../../report/reporter.js';

export interface CheckRecordsOptions {
  /** JSON, JSON Lines and parquet files. */
  readonly paths: readonly string[];
  readonly encoder: EncoderSetup;
  /** Worker threads; null: one per core, none for a few records; 0: this thread. */
  readonly threads: number | null;
  /** Whether the report has the numbers of each record. */
  readonly perRecord?: boolean;
  /** Is told what is odd but works, once each. */
  readonly reporter?: Reporter;
}

/** Something about one record. */
export interface RecordFinding extends UserErrorData {
  readonly file: string;
  readonly record: number;
}

export interface Distribution {
  readonly min: number;
  readonly mean: number;
  readonly median: number;
  readonly p90: number;
  readonly p99: number;
  readonly max: number;
  /** Half-open ranges without gaps. */
  readonly histogram: readonly { readonly from: number; readonly to: number; readonly count: number }[];
}

/** The keys are those of the JSON that `check-data --json` prints. */
export interface CheckReport {
  readonly files: readonly { readonly path: string; readonly records: number; readonly description: string }[];
  readonly records: number;
  /** One for each record that training would stop at or leave out. */
  readonly errors: readonly RecordFinding[];
  /** Allowed but probably unintended, or a change of a record: several per record are possible. */
  readonly warnings: readonly RecordFinding[];
  /** Counts of each file: records without a picture, with answers that are not learned, with keys that are not read or refused. */
  readonly notes: readonly FileNotesData[];
  /** Of the sound records, as are all numbers below. Lengths are whole: nothing cut off, no slice left out. */
  readonly tokens: Distribution | null;
  /** Share, 0 to 1, of all tokens that the model learns to produce. */
  readonly supervised_share: number | null;
  /** Of records with two answers: their number, mean tokens of either answer, and the share whose first or chosen one is longer. */
  readonly answers?: {
    readonly records: number;
    readonly mean_chosen: number;
    readonly mean_rejected: number;
    readonly chosen_longer: number;
    readonly rejected_longer: number;
  };
  readonly text_only: number;
  readonly images: number;
  readonly videos: number;
  /** Of all videos. */
  readonly frames: number;
  /** Number of images by number of slices beside their overview. */
  readonly slices_per_image: Readonly<Record<string, number>>;
  readonly model_max_length: number;
  /** Records longer than that. */
  readonly too_long: number;
  /** A length that holds all records, or all but 0.5 % where those are much longer; null without sound records. */
  readonly suggested_model_max_length: number | null;
  /** Of each record in the order of the data, null where it is bad: tokens, those that are learned, images and videos. With --per_record. */
  readonly per_record?: {
    readonly tokens: readonly (number | null)[];
    readonly supervised: readonly (number | null)[];
    readonly images: readonly (number | null)[];
  };
  readonly seconds: number;
}

/**
 * Checks all records.
 *
 * @throws UserError only for what concerns no single record: a file that is no data, a model folder without a tokenizer
 */
export async function checkRecords({ reporter = SILENT, ...options }: CheckRecordsOptions): Promise<CheckReport> {
  const started = performance.now();
  const notice = (message: string): void => reporter.notice(message);
  const dataset = await Dataset.open(options.paths, notice);
  const setup = { dataset: dataset.index, encoder: options.encoder };
  const threads = options.threads ?? threadsFor(dataset.length);
  const pool = await EncodePool.open('summary', setup, threads, notice);
  const tally = new Tally(dataset, options.encoder.maxLength, options.perRecord ?? false);
  try {
    await asTask(reporter, { label: 'Checking', total: dataset.length, unit: 'records' }, async (update) => {
      for await (const [[index], outcome] of inOrder(pool, eachOf(dataset.length), Math.max(1, threads) * 8)) {
        tally.add(index, outcome);
        update(index + 1);
      }
    });
  } finally {
    await pool.close();
    await dataset.close();
  }
  return { ...tally.report(), seconds: (performance.now() - started) / 1000 };
}

class Tally {
  readonly #errors: RecordFinding[] = [];
  readonly #warnings: RecordFinding[] = [];
  readonly #notes = new FileNotes();
  readonly #lengths: number[] = [];
  /** Of the longer answer of a record with its prompt, or of the record. */
  readonly #longest: number[] = [];
  readonly #answers: (readonly [number, number])[] = [];
  #supervised = 0;
  #textOnly = 0;
  #videos = 0;
  #frames = 0;
  readonly #slices = new Map<number, number>();

  readonly #dataset: Dataset;
  readonly #maxLength: number;
  readonly #perRecord: { tokens: (number | null)[]; supervised: (number | null)[]; images: (number | null)[] } | null;

  constructor(dataset: Dataset, maxLength: number, perRecord: boolean) {
    this.#dataset = dataset;
    this.#maxLength = maxLength;
    const none = (): null[] => new Array<null>(dataset.length).fill(null);
    this.#perRecord = perRecord ? { tokens: none(), supervised: none(), images: none() } : null;
  }

  add(index: number, outcome: Outcome<RecordSummary>): void {
    const place = this.#dataset.place(index);
    if (!outcome.ok) {
      this.#errors.push({ ...outcome.error, ...place });
      this.#notes.refuse(place.file, place.record, outcome.error.key);
      return;
    }
    this.#notes.add(place.file, place.record, outcome.traits!);
    const { tokens, supervised, slices, frames, warnings, answers } = outcome.value;
    for (const { message } of outcome.notices) this.#warnings.push({ message, ...place });
    for (const message of warnings) this.#warnings.push({ message, ...place });
    this.#lengths.push(tokens);
    this.#longest.push(answers?.longest ?? tokens);
    if (answers && outcome.traits!.compared) this.#answers.push(answers.lengths);
    if (this.#perRecord !== null) {
      this.#perRecord.tokens[index] = tokens;
      this.#perRecord.supervised[index] = supervised;
      this.#perRecord.images[index] = slices.length + frames.length;
    }
    this.#supervised += supervised;
    if (slices.length + frames.length === 0) this.#textOnly++;
    this.#videos += frames.length;
    this.#frames += frames.reduce((sum, count) => sum + count, 0);
    for (const count of slices) this.#slices.set(count, (this.#slices.get(count) ?? 0) + 1);
  }

  report(): Omit<CheckReport, 'seconds'> {
    const lengths = Float64Array.from(this.#lengths).sort();
    const longest = Float64Array.from(this.#longest).sort();
    const total = lengths.reduce((sum, length) => sum + length, 0);
    return {
      files: this.#dataset.files.map((file) => ({
        path: file.index.path,
        records: file.records,
        description: file.describe(),
      })),
      records: this.#dataset.length,
      errors: this.#errors,
      warnings: this.#warnings,
      notes: this.#notes.data,
      tokens: distribution(lengths),
      supervised_share: total === 0 ? null : this.#supervised / total,
      ...(this.#answers.length > 0 && { answers: lengthsOfAnswers(this.#answers) }),
      text_only: this.#textOnly,
      images: [...this.#slices.values()].reduce((sum, count) => sum + count, 0),
      videos: this.#videos,
      frames: this.#frames,
      slices_per_image: Object.fromEntries([...this.#slices].sort(([a], [b]) => a - b)),
      model_max_length: this.#maxLength,
      too_long: longest.filter((length) => length > this.#maxLength).length,
      suggested_model_max_length: suggestedLength(longest),
      ...(this.#perRecord !== null && { per_record: this.#perRecord }),
    };
  }
}

function lengthsOfAnswers(all: readonly (readonly [number, number])[]): NonNullable<CheckReport['answers']> {
  const share = (test: (pair: readonly [number, number]) => boolean): number => all.filter(test).length / all.length;
  const mean = (i: 0 | 1): number => all.reduce((sum, pair) => sum + pair[i], 0) / all.length;
  return {
    records: all.length,
    mean_chosen: mean(0),
    mean_rejected: mean(1),
    chosen_longer: share(([chosen, rejected]) => chosen > rejected),
    rejected_longer: share(([chosen, rejected]) => rejected > chosen),
  };
}

/** Statistics of sorted numbers; null of none. */
export function distribution(sorted: Float64Array): Distribution | null {
  if (sorted.length === 0) return null;
  const [min, max] = [sorted[0]!, sorted.at(-1)!];
  const mean = sorted.reduce((sum, value) => sum + value, 0) / sorted.length;
  return {
    min,
    mean,
    median: quantile(sorted, 0.5),
    p90: quantile(sorted, 0.9),
    p99: quantile(sorted, 0.99),
    max,
    histogram: histogram(sorted),
  };
}

/** The smallest of the numbers that is not below a share of them. */
function quantile(sorted: Float64Array, share: number): number {
  return sorted[Math.ceil(share * sorted.length) - 1]!;
}

const MOST_BINS = 12;

/** Bins of a round width: 1, 2 or 5 times a power of ten. */
function histogram(sorted: Float64Array): Distribution['histogram'] {
  const [min, max] = [sorted[0]!, sorted.at(-1)!];
  const widths = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5];
  const bins = (width: number) => Math.floor(max / width) - Math.floor(min / width) + 1;
  const width = widths.find((candidate) => bins(candidate) <= MOST_BINS) ?? 1e6;
  const first = Math.floor(min / width) * width;
  const counts = Array.from({ length: bins(width) }, (_, i) => ({
    from: first + i * width,
    to: first + (i + 1) * width,
    count: 0,
  }));
  for (const value of sorted) counts[Math.floor((value - first) / width)]!.count++;
  return counts;
}

/** Lengths are rounded up to this: sequences of such lengths compute best, and small differences say nothing. */
const LENGTH_STEP = 64;
/** A few records longer than the others by more than this factor are not worth the memory. */
const OUTLIER = 1.25;

function suggestedLength(sorted: Float64Array): number | null {
  if (sorted.length === 0) return null;
  const most = quantile(sorted, 0.995);
  const max = sorted.at(-1)!;
  return Math.ceil((max <= OUTLIER * most ? max : most) / LENGTH_STEP) * LENGTH_STEP;
}
