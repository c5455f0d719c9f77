/**
 * The one form of a record inside the project, whatever file it came from: the seed format of the official scripts, its images
 * already resolved. forms.ts makes it, encodeRecord (minicpm-v) reads it.
 */

/** An image: the absolute path of a file, or the bytes of one (parquet, data: URLs). */
export type ImageSource = string | Uint8Array;

export interface Turn {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

export interface DataRecord {
  /** The record's own id, for messages only. */
  readonly id: string | undefined;
  /**
   * One image, whose place is `<image>` in the first user turn or else in front of it; or images by placeholder (`<image_00>`), in the order
   * of the data; or undefined: a text-only record.
   */
  readonly image: ImageSource | Readonly<Record<string, ImageSource>> | undefined;
  /** System turn first, if any; then user and assistant. */
  readonly conversations: readonly Turn[];
}

/** Where a record stands, for messages. */
export interface RecordPlace {
  /** The data file, as the user wrote it. */
  readonly file: string;
  /** 0-based index in that file. */
  readonly record: number;
  /** 1-based line on which the record starts, where the file has lines. */
  readonly line?: number;
}
