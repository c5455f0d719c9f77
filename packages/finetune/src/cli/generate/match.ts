/**
 * Which answers of a file belong to which records now. Known by content: a record may stand elsewhere now, and the one at
 * its old place may be another.
 */
import { UserError } from '@minicpm-finetune/run';
import type { AnswerLine, BadLine, QuestionContent } from '../../data/question.js';

/** A record that can be asked. */
export interface AskedRecord {
  readonly record: number;
  readonly id: string | undefined;
  readonly reference: string | null;
  readonly content: QuestionContent;
  /** Of its pictures, for messages. */
  readonly images: readonly string[];
  /** Of its videos, likewise. */
  readonly videos: readonly string[];
}

export type Line = AnswerLine | BadLine;

export interface Matched {
  /** The answers of records of the data, with the number, id and reference that the record has now. One for each record at most. */
  readonly answers: readonly AnswerLine[];
  /** Further answers to records that have one. */
  readonly twice: readonly AnswerLine[];
  /** Answers to what is not in the data now. */
  readonly outdated: readonly AnswerLine[];
  /** Records without an answer, in order. */
  readonly missing: readonly AskedRecord[];
}

export const isAnswer = (line: Line): line is AnswerLine => !('error' in line);

/**
 * @param sampled answers were drawn at random, with the record's number as the seed's second part: then an answer belongs to a number, too
 */
export function matchLines(lines: readonly Line[], records: readonly AskedRecord[], sampled: boolean): Matched {
  const keyOf = (content: QuestionContent, record: number): string =>
    [content.text, ...content.images, ...(sampled ? [record] : [])].join(' ');
  const byKey = new Map<string, AskedRecord[]>();
  for (const one of records) {
    const key = keyOf(one.content, one.record);
    const same = byKey.get(key);
    if (same === undefined) byKey.set(key, [one]);
    else same.push(one);
  }
  const answered = new Map<number, AnswerLine>();
  const moved: AnswerLine[] = [];
  for (const line of lines.filter(isAnswer)) {
    const own = byKey.get(keyOf(line.content, line.record))?.find(({ record }) => record === line.record);
    if (own !== undefined && !answered.has(own.record)) answered.set(own.record, withRecord(line, own));
    else moved.push(line);
  }
  const twice: AnswerLine[] = [];
  const outdated: AnswerLine[] = [];
  for (const line of moved) {
    const same = byKey.get(keyOf(line.content, line.record));
    const free = same?.find(({ record }) => !answered.has(record));
    if (free !== undefined) answered.set(free.record, withRecord(line, free));
    else if (same !== undefined) twice.push(withRecord(line, same[0]!));
    else outdated.push(line);
  }
  return {
    answers: [...answered.values()],
    twice,
    outdated,
    missing: records.filter(({ record }) => !answered.has(record)),
  };
}

/** The line with what the record says now; other keys stay. */
function withRecord(line: AnswerLine, { record, id, reference }: AskedRecord): AnswerLine {
  const { record: _record, id: _id, question, reference: _reference, ...rest } = line;
  return {
    record,
    ...(id === undefined ? {} : { id }),
    question,
    ...(reference === null ? {} : { reference }),
    ...rest,
  };
}

const LISTED = 5;

/**
 * @param bad records that cannot be asked, with what is wrong
 * @throws UserError that lists records whose text or pictures are not what was answered
 */
export function refuseOutdated(
  { outdated }: Matched,
  records: readonly AskedRecord[],
  bad: ReadonlyMap<number, UserError>,
  output: string,
): void {
  if (outdated.length === 0) return;
  const byRecord = new Map(records.map((one) => [one.record, one]));
  const byText = new Map(records.map((one) => [one.content.text, one]));
  const described = outdated.slice(0, LISTED).map(({ record, content }) => {
    const here = byRecord.get(record);
    const same = here?.content.text === content.text ? here : byText.get(content.text);
    if (same !== undefined) return `record ${record}: ${changedPicture(content, same)}`;
    const problem = bad.get(record)?.message;
    if (problem !== undefined) return `record ${record} cannot be asked now: ${problem}`;
    return `record ${record}: its question is not in the data now`;
  });
  const rest = outdated.length - described.length;
  throw new UserError(
    `Expected answers to the records as they are now in the output file but ${outdated.length} of them are to others: ${described.join('; ')}${rest > 0 ? `; and ${rest} more` : ''}.`,
    {
      file: output,
      flag: '--output',
      cure:
        'Give another file, or the data as they were when they were answered. ' +
        `Or give --ask_changed true: these answers move to ${outdatedFile(output)}, and what is in their place now is asked.`,
    },
  );
}

function changedPicture({ images }: QuestionContent, now: AskedRecord): string {
  const at = now.content.images.findIndex((hash, i) => hash !== images[i]);
  if (at === -1) return 'its number differs, and drawn answers depend on it';
  const name = now.images[at] ?? now.videos[at - now.images.length];
  return at < now.images.length ? `the picture ${name} has another content` : `the video ${name} has another content`;
}

/** Where answers go that are not to a record of the data any more. */
export const outdatedFile = (output: string): string => `${output}.outdated.jsonl`;
