/**
 * Mistakes in what holds a data file together, explained. The scan (json-scan.ts) goes byte by byte and only knows where it could not go
 * on; here the file is read there again: whether it is UTF-8 at all, which character stands there, and which mistake
 * inside a record came before.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { excerpt, findEncodingMistakeIn, jsonCure, notUtf8, parseJson, shown, UserError } from '@minicpm-finetune/run';

/** A place where the scan could not go on. */
export interface StructurePlace {
  /** Byte in the file. */
  readonly offset: number;
  /** 1-based line of that byte. */
  readonly line: number;
  /** Index of the record at or before it. */
  readonly record: number;
  /** `Expected <wanted>`. */
  readonly wanted: string;
  /** "but received …"; absent: the character at `offset`. */
  readonly received?: string;
  readonly cure: string;
  /** Show some of what stands there, not its first character alone. */
  readonly piece?: boolean;
  /** Start of the record that the place is inside of, in bytes, and its line. */
  readonly inside?: { readonly start: number; readonly line: number };
}

/** Ends a scan. */
export class StructureMistake extends Error {
  readonly place: StructurePlace;

  constructor(place: StructurePlace) {
    super(place.wanted);
    this.place = place;
  }
}

/** Bytes of a record that are searched for the mistake. */
const SEARCHED_BYTES = 64 * 2 ** 20;

/** The error for a mistake, with its character, line and column. */
export function explainMistake(file: string, { place }: StructureMistake): UserError {
  const encoding = findEncodingMistakeIn(file);
  if (encoding !== undefined) return notUtf8(encoding, 'a data file', { file });
  const fd = openSync(file, 'r');
  try {
    const { offset, line, record, wanted, received, cure, inside } = place;
    const earlier = inside === undefined ? undefined : mistakeInside(fd, file, place, inside);
    if (earlier !== undefined) return earlier;
    if (received !== undefined)
      return new UserError(`Expected ${wanted} but received ${received}.`, { file, line, record, cure });
    const text = textFrom(fd, offset, 200);
    const at = `(line ${line}, column ${columnOf(fd, offset)})`;
    const foreign = text.codePointAt(0)! > 0x7e;
    const found = foreign
      ? excerpt(text, 0)
      : shown(place.piece === true ? text.split('\n')[0]!.slice(0, 40).trimEnd() : text.slice(0, 1));
    return new UserError(`Expected ${wanted} but received ${found} ${at}.`, {
      file,
      line,
      record,
      cure: foreign ? jsonCure(text, 0) : cure,
    });
  } finally {
    closeSync(fd);
  }
}

/** The first mistake of the record before the place where its brackets do not fit. */
function mistakeInside(
  fd: number,
  file: string,
  { offset, record }: StructurePlace,
  inside: { start: number; line: number },
): UserError | undefined {
  const text = textFrom(fd, inside.start, Math.min(offset - inside.start + 200, SEARCHED_BYTES));
  const source = { what: 'a record', file, line: inside.line, record, column: () => columnOf(fd, inside.start) };
  try {
    parseJson(text, source);
  } catch (error) {
    if (error instanceof UserError && !error.message.includes('received the end ')) return error;
  }
  return undefined;
}

/** UTF-8 text of at most `length` bytes. */
function textFrom(fd: number, start: number, length: number): string {
  const bytes = Buffer.alloc(length);
  const text = bytes.toString('utf8', 0, readSync(fd, bytes, 0, length, start));
  return text.replace(/\ufffd+$/, ''); // a character that was cut off
}

const LINE_BYTES = 1 << 20;

/** 1-based column of a byte in its line, in characters; of very long lines, counted from their last MiB. */
export function columnOf(fd: number, offset: number): number {
  const start = Math.max(0, offset - LINE_BYTES);
  const bytes = Buffer.alloc(offset - start);
  const before = bytes.subarray(0, readSync(fd, bytes, 0, bytes.length, start));
  const line = before.subarray(before.lastIndexOf(0x0a) + 1).toString('utf8');
  return line.replace(/^\ufeff/, '').length + 1;
}
