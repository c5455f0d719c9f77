/**
 * The requests about records: encode, sum up, look, decode. Training asks for samples, check-data for summaries,
 * the preflight for looks at many records at once. The same code runs in a worker thread and without one.
 */
import type { EncodedSample, EncodeNotice } from '@minicpm-finetune/processor';
import { UserError, type UserErrorData } from '@minicpm-finetune/run';
import { AtMost } from './at-most.js';
import { Dataset, type DatasetIndex, type Notice } from './dataset.js';
import { Encoder, type EncoderSetup } from './encoder.js';
import { contentOf } from './identity.js';
import { decodeAll } from './look.js';
import { type Looked, type LookSetup, lookAtRange } from './look-range.js';
import { type DataRecord, withWrittenTurn } from './record.js';
import { strangerTo } from './stranger.js';
import { type RecordSummary, summarize } from './summary.js';
import { type RecordTraits, traitsOf } from './traits.js';
import { ChangedDataError } from './unchanged.js';

export interface TaskSetup {
  readonly dataset: DatasetIndex;
  readonly encoder: EncoderSetup;
  /** For looks. */
  readonly look?: LookSetup;
  /** Take only the time that nothing else on the machine wants (on Linux). */
  readonly idle?: boolean;
}

export interface TrainingSample {
  /** null: left out for its length (--overlong drop). */
  readonly sample: EncodedSample | null;
  /** Hash of the content of its pictures (identity.ts). */
  readonly content: bigint;
}

export interface TaskResults {
  sample: TrainingSample;
  summary: RecordSummary;
  /** Of `count` records. */
  look: Looked;
  /** Hash of the content of the record's pictures, all of which were decoded. */
  decode: bigint;
  /** The same hash; nothing is decoded. */
  content: bigint;
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
  /** Does the task for record `index`, or for `count` records from there on. Rejects only for faults outside of the record. */
  run(index: number, count?: number): Promise<Outcome<TaskResults[Name]>>;
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
  const run = async (index: number, count: number): Promise<Outcome<TaskResults[Name]>> => {
    try {
      return { ok: true, ...(await work({ dataset, encoder, setup }, index, count)) };
    } catch (error) {
      if (!(error instanceof UserError) || error instanceof ChangedDataError) throw error;
      return { ok: false, error: error.at(dataset.place(index)).toData() };
    }
  };
  return { run: (index, count = 1) => lane.run(() => run(index, count)), close: () => dataset.close() };
}

interface Done<T> {
  readonly value: T;
  readonly notices: readonly EncodeNotice[];
  readonly traits?: RecordTraits;
}

interface Tools {
  readonly dataset: Dataset;
  readonly encoder: Encoder;
  readonly setup: TaskSetup;
}

const TASKS: {
  readonly [Name in TaskName]: (tools: Tools, index: number, count: number) => Promise<Done<TaskResults[Name]>>;
} = {
  sample: ({ dataset, encoder }, index) =>
    withRecord(dataset, index, async (record) => {
      const { sample, notices } = await encoder.encode(record, {}, await strangerTo(dataset, encoder, index));
      return { value: { sample, content: contentOf(record) }, notices };
    }),
  summary: ({ dataset, encoder }, index) =>
    withRecord(dataset, index, async (record) => ({
      ...(await summarize(record, encoder, await strangerTo(dataset, encoder, index))),
      traits: traitsOf(record),
    })),
  look: async ({ dataset, encoder, setup }, index, count) => ({
    value: await lookAtRange(dataset, encoder, setup.look!, index, count),
    notices: [],
  }),
  decode: ({ dataset, encoder }, index) =>
    withRecord(dataset, index, async (record) => {
      await decodeAll(record, encoder);
      return { value: contentOf(record), notices: [] };
    }),
  content: async ({ dataset }, index) => ({ value: contentOf(await dataset.read(index)), notices: [] }),
};

async function withRecord<T>(dataset: Dataset, index: number, work: (record: DataRecord) => Promise<T>): Promise<T> {
  const record = await dataset.read(index);
  try {
    return await work(record);
  } catch (error) {
    throw withWrittenTurn(error, record);
  }
}
