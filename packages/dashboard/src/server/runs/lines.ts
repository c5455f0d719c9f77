/** Reads the whole lines of a growing file from a byte on. A piece at a time: no more than the longest line is kept. */
import { closeSync, openSync, readSync } from 'node:fs';

const [NEWLINE, RETURN] = [10, 13];
/** Bytes that are read at once. */
const PIECE = 1 << 20;
/** A longer line is no event. */
const LONGEST_LINE = 16 << 20;

/** A line without its newline (`\n` or `\r\n`) is `bytes.subarray(start, end)`; `offset` is the byte of the file after its newline. */
export type OnLine = (bytes: Buffer, start: number, end: number, offset: number) => void;

/** Called after the lines of a piece: the bytes are others afterwards. */
export type OnPiece = (bytes: Buffer) => void;

/** The memory of the last read, to be used again: hundreds of files are read in a row. */
let spare: Buffer | null = null;

/**
 * Calls `onLine` with each line that ends with a newline between the bytes `from` and `to` of a file; `from` is the start of a line.
 *
 * @returns the byte after the last whole line.
 * @throws Error at a line of more than 16 MiB
 */
export function readLines(path: string, from: number, to: number, onLine: OnLine, onPiece: OnPiece = () => {}): number {
  const file = openSync(path, 'r');
  try {
    return readOpened(file, { from, to }, onLine, onPiece);
  } finally {
    closeSync(file);
  }
}

interface Range {
  readonly from: number;
  readonly to: number;
}

function readOpened(file: number, { from, to }: Range, onLine: OnLine, onPiece: OnPiece): number {
  let bytes = spare ?? Buffer.allocUnsafe(PIECE);
  spare = null; // a reader that reads inside of `onLine` takes another one
  let held = 0; // bytes of an unfinished line at the start of `bytes`
  let position = from;
  let done = from;
  while (position < to) {
    if (held === bytes.length) bytes = grown(bytes, held);
    const length = readSync(file, bytes, held, Math.min(bytes.length - held, to - position), position);
    if (length === 0) break;
    position += length;
    const filled = held + length;
    let start = 0;
    for (let end = bytes.indexOf(NEWLINE, held); end >= 0 && end < filled; end = bytes.indexOf(NEWLINE, start)) {
      done += end + 1 - start;
      onLine(bytes, start, end > start && bytes[end - 1] === RETURN ? end - 1 : end, done);
      start = end + 1;
    }
    onPiece(bytes);
    held = filled - start;
    if (held > LONGEST_LINE) throw new Error(`The line at byte ${done} is longer than ${LONGEST_LINE} bytes.`);
    if (start > 0 && held > 0) bytes.copyWithin(0, start, filled);
  }
  if (bytes.length === PIECE) spare = bytes;
  return done;
}

function grown(bytes: Buffer, held: number): Buffer {
  const larger = Buffer.allocUnsafe(bytes.length * 2);
  bytes.copy(larger, 0, 0, held);
  return larger;
}

/** The start of the line that holds the byte before `byte`, unless that byte ends a line. */
export function lineStart(path: string, byte: number): number {
  const file = openSync(path, 'r');
  try {
    const piece = Buffer.alloc(64 << 10);
    for (let end = byte; end > 0; ) {
      const start = Math.max(0, end - piece.length);
      const newline = piece.subarray(0, readSync(file, piece, 0, end - start, start)).lastIndexOf(NEWLINE);
      if (newline >= 0) return start + newline + 1;
      end = start;
    }
    return 0;
  } finally {
    closeSync(file);
  }
}
