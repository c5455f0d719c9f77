/**
 * The three requests about a record: encode, sum up, look. Training asks for the sample, check-data for a summary, the
 * preflight for a quick look. The same code runs in a worker thread and without one.
 */
import type { EncodedSample, EncodeNotice } from '@minicpm-finetune/processor';
import { UserError, type UserErrorData } from '@minicpm-finetune/run';
import { AtMost } from './at-most.js';
import { Dataset, type DatasetIndex, type Notice } from './dataset.js';
import { Encoder, type EncoderSetup } from './encoder.js';
import { look } from './look.js';
import { type DataRecord, withWrittenTurn } from './record.js';
import { type RecordSummary, summarize } from './summary.js';
import { type RecordTraits, traitsOf } from './traits.js';

export interface TaskSetup {
  readonly dataset: DatasetIndex;
  readonly encoder: EncoderSetup;
}

export interface TaskResults {
  /** null: left out for its length (--overlong drop). */
  sample: EncodedSample | null;
  summary: RecordSummary;
  /** Length in tokens, close to the true one. */
  look: number;
}

export type TaskName = keyof TaskResults;

/** A result, or the user's mistake that prevents it. */
export type Outcome<T> =
  | {
      readonly ok: true;
      readonly value: T;
      readonly notices: readonly EncodeNotice[];
      /** Of the record, where data is checked. */
      readonly traits?: RecordTraits;
    }
  | { readonly ok: false; readonly error: UserErrorData };

export interface EncodeTask<Name extends TaskName> {
  /** Does the task for record `index`. Rejects only for faults outside of the record. */
  run(index: number): Promise<Outcome<TaskResults[Name]>>;
  close(): Promise<void>;
}

/** Records that one thread works on at once, so that it resizes one while libvips decodes others. More only hold memory. */
const AT_ONCE = 4;

/** Loads the tokenizer and the data's index. Throws UserError if that is not possible. */
export async function openTask<Name extends TaskName>(
  name: Name,
  setup: TaskSetup,
  notice: Notice,
): Promise<EncodeTask<Name>> {
  const dataset = Dataset.restore(setup.dataset, notice);
  const encoder = await Encoder.open(setup.encoder);
  const lane = new AtMost(AT_ONCE);
  const work = TASKS[name];
  const run = async (index: number): Promise<Outcome<TaskResults[Name]>> => {
    try {
      return { ok: true, ...(await work(dataset, encoder, index)) };
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      return { ok: false, error: error.at(dataset.place(index)).toData() };
    }
  };
  return { run: (index) => lane.run(() => run(index)), close: () => dataset.close() };
}

/** The preflight fully encodes this many leading records, so a small data set is checked as thoroughly as by check-data. */
const ENCODED_BY_LOOK = 256;

interface Done<T> {
  readonly value: T;
  readonly notices: readonly EncodeNotice[];
  readonly traits?: RecordTraits;
}

const TASKS: {
  readonly [Name in TaskName]: (dataset: Dataset, encoder: Encoder, index: number) => Promise<Done<TaskResults[Name]>>;
} = {
  sample: (dataset, encoder, index) =>
    withRecord(dataset, index, async (record) => {
      const { sample, notices } = await encoder.encode(record);
      return { value: sample, notices };
    }),
  summary: (dataset, encoder, index) =>
    withRecord(dataset, index, async (record) => ({
      ...(await summarize(record, encoder)),
      traits: traitsOf(record),
    })),
  look: (dataset, encoder, index) =>
    withRecord(dataset, index, async (record) => {
      const traits = traitsOf(record);
      if (index >= ENCODED_BY_LOOK) return { value: await look(record, encoder), notices: [], traits };
      return { value: (await summarize(record, encoder)).value.tokens, notices: [], traits };
    }),
};

async function withRecord<T>(dataset: Dataset, index: number, work: (record: DataRecord) => Promise<T>): Promise<T> {
  const record = await dataset.read(index);
  try {
    return await work(record);
  } catch (error) {
    throw withWrittenTurn(error, record);
  }
}
