/**
 * The internal form of a record. The seed form of the official scripts, with its images resolved. forms.ts makes it,
 * encodeRecord (processor) reads it.
 */
import { type ImageSource, imagesOf as imagesOfConversation, type VideoSource } from '@minicpm-finetune/processor';
import { UserError } from '@minicpm-finetune/run';

export { videosOf } from '@minicpm-finetune/processor';

export interface Turn {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
  /** false: an answer that is not learned; it stays in the conversation as context. Default: true. */
  readonly supervised?: boolean;
  /** What the assistant thought before this answer. */
  readonly thought?: string;
}

export interface DataRecord {
  /** The record's own id, for messages only. */
  readonly id: string | undefined;
  /**
   * Absolute paths, or bytes (parquet, data: URLs). One image, whose place is `<image>` in the first user turn or else in front of it; or images by placeholder (`<image_00>`), in the order
   * of the data; or undefined: a text-only record.
   */
  readonly image: ImageSource | Readonly<Record<string, ImageSource>> | undefined;
  /** The same for videos: `<video>`, `<video_00>`, …; absolute paths of files or folders of frames, or lists of frames. */
  readonly video?: VideoSource | Readonly<Record<string, VideoSource>>;
  /** System turn first, if any; then user and assistant. */
  readonly conversations: readonly Turn[];
  /** The system turn is not a turn of the data but its key `system`. */
  readonly systemKey?: boolean;
  /** Of a pair: the conversation with the rejected answer, and its image where it has another one. */
  readonly rejected?: Pick<DataRecord, 'image' | 'conversations'>;
  /** Whether the answer is called good; absent: nothing is said. */
  readonly desirable?: boolean;
  /** The key that makes it a record of preference tuning, such as `rejected`. */
  readonly comparedKey?: string;
  /** Keys of the data that mean something elsewhere and are not read here. */
  readonly unread?: readonly string[];
}

/** The images of a record, in the order of the data; those of a rejected answer that has others come last. */
export function imagesOf(record: DataRecord): ImageSource[] {
  const { rejected } = record;
  const own = imagesOfConversation(record);
  return rejected === undefined || rejected.image === record.image ? own : [...own, ...imagesOfConversation(rejected)];
}

/** The number in the data of turn `turn` of a record; -1 for the key `system`. */
function writtenTurn({ systemKey }: DataRecord, turn: number): number {
  return systemKey ? turn - 1 : turn;
}

/** `turn 1`, or `the key system`. */
export function nameOfTurn(record: DataRecord, turn: number): string {
  const written = writtenTurn(record, turn);
  return written === -1 ? 'the key system' : `turn ${written}`;
}

/** An error about a record, with the number that the turn has in the data. */
export function withWrittenTurn(error: unknown, record: DataRecord): unknown {
  if (!(error instanceof UserError) || error.turn === undefined || !record.systemKey) return error;
  const { turn, ...details } = error.details();
  const written = writtenTurn(record, turn!);
  const place = written === -1 ? { key: 'system' } : { turn: written };
  return new UserError(error.message, { ...details, ...place, cause: error.cause });
}

/** The place of a record, for messages. */
export interface RecordPlace {
  /** The data file, as the user wrote it. */
  readonly file: string;
  /** 0-based index in that file. */
  readonly record: number;
  /** 1-based line on which the record starts, where the file has lines. */
  readonly line?: number;
}
