/** Looks at all records before the model is loaded. Whether they can be asked, and what they ask. */
import { availableParallelism } from 'node:os';
import { checkPictureNames, encodePrompt, imagesOf, type PromptOptions } from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';
import type { Dataset } from '../../data/dataset.js';
import { contentOf, picturesOf, type Question, questionOf, videosOf } from '../../data/question.js';
import { type DataRecord, withWrittenTurn } from '../../data/record.js';
import { asTask, type Reporter } from '../../report/reporter.js';
import type { AskedRecord } from './match.js';

export interface LookOptions {
  readonly data: Dataset;
  /** How the model reads questions. */
  readonly reading: PromptOptions;
  readonly onBadRecord: 'stop' | 'skip';
  readonly reporter: Reporter;
}

export interface Looked {
  /** Records that can be asked, in order. */
  readonly records: readonly AskedRecord[];
  /** What is wrong with the others, by record. */
  readonly bad: ReadonlyMap<number, UserError>;
}

/** @throws UserError for the first record that cannot be asked, unless such records are to be skipped */
export async function lookAtRecords({ data, reading, onBadRecord, reporter }: LookOptions): Promise<Looked> {
  const records: AskedRecord[] = [];
  const bad = new Map<number, UserError>();
  const known = new Map<string, string>();
  const atOnce = availableParallelism();
  const unlearned: number[] = [];
  await asTask(reporter, { label: 'Reading records', total: data.length, unit: 'records' }, async (update) => {
    for (let i = 0; i < data.length; i += atOnce) {
      const indices = Array.from({ length: Math.min(atOnce, data.length - i) }, (_, k) => i + k);
      const outcomes = await Promise.all(indices.map((record) => lookAt(record, data, reading, known)));
      for (const [k, outcome] of outcomes.entries()) {
        if (!(outcome instanceof UserError)) {
          records.push(outcome.asked);
          if (outcome.unlearned) unlearned.push(i + k);
        } else if (onBadRecord === 'stop') throw outcome;
        else bad.set(i + k, outcome);
      }
      update(i + indices.length);
    }
  });
  if (unlearned.length > 0)
    reporter.notice(
      `answers marked as not to be learned, with which none is compared: ${unlearned.length} (first: record ${unlearned[0]}).`,
    );
  return { records, bad };
}

async function lookAt(
  index: number,
  data: Dataset,
  reading: PromptOptions,
  known: Map<string, string>,
): Promise<{ asked: AskedRecord; unlearned: boolean } | UserError> {
  return await withQuestion(index, data, reading.allowSpecialText ?? false, async (record, question) => {
    await encodePrompt(question.messages, { ...reading, pixels: false });
    const content = await contentOf(question, known);
    const images = picturesOf(question).map((source) => (typeof source === 'string' ? source : 'in the data'));
    const videos = videosOf(question).map((source) => (typeof source === 'string' ? source : source[0]!));
    const { reference, unlearned } = question;
    return { asked: { record: index, id: record.id, reference, content, images, videos }, unlearned };
  });
}

/** Reads a record and does `work` with its question. Returns what is wrong with the record, if it cannot be asked. */
export async function withQuestion<T>(
  index: number,
  data: Dataset,
  allowSpecialText: boolean,
  work: (record: DataRecord, question: Question) => Promise<T>,
): Promise<T | UserError> {
  let record: DataRecord | undefined;
  try {
    record = await data.read(index);
    if (!allowSpecialText) checkPictureNames(record.conversations, imagesOf(record));
    return await work(record, questionOf(record));
  } catch (error) {
    return badRecord(record === undefined ? error : withWrittenTurn(error, record), data, index);
  }
}

/** The error of a record with its place and how to leave the record out; other errors are thrown. */
function badRecord(error: unknown, data: Dataset, index: number): UserError {
  const { code, message } = error as NodeJS.ErrnoException;
  const known =
    error instanceof UserError ? error : code === undefined ? null : new UserError(`${message}.`, { cause: error });
  if (known === null) throw error;
  const placed = known.at(data.place(index));
  const skip = '--on_bad_record skip: such records are left out, with the error in the place of their answers.';
  return new UserError(placed.message, {
    ...placed.details(),
    cure: placed.cure === undefined ? `Give ${skip}` : `${placed.cure} Or give ${skip}`,
    cause: placed.cause,
  });
}
