/**
 * Finds the records of a JSON or JSON Lines file. One pass, in constant memory except for the offsets. Records are
 * parsed when they are read (record-file.ts), not here: this checks only what holds the file together (brackets,
 * commas, one object per line) and hashes the bytes.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { UserError } from '@minicpm-finetune/run';
import { explainMistake, StructureMistake, type StructurePlace } from './json-structure.js';

/** The positions of a file's records. The arrays are shared memory, so threads use them without a copy. Shapes: (records). */
export interface RecordOffsets {
  /** First byte of each record. */
  readonly starts: Float64Array;
  /** Bytes of each record. */
  readonly lengths: Uint32Array;
  /** 1-based line on which each record starts. */
  readonly lines: Uint32Array;
}

export interface ScanResult extends RecordOffsets {
  /** SHA-256 of the whole file, hexadecimal. */
  readonly sha256: string;
}

const [NEWLINE, TAB, RETURN, SPACE, QUOTE, COMMA, BACKSLASH] = [0x0a, 0x09, 0x0d, 0x20, 0x22, 0x2c, 0x5c] as const;
const [OPEN_ARRAY, CLOSE_ARRAY, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d] as const;

/** Scans `file` from byte `start` (after a byte order mark). Throws UserError with the line where its structure breaks. */
export async function scanJson(file: string, container: 'array' | 'lines', start: number): Promise<ScanResult> {
  const hash = createHash('sha256');
  const scanner = container === 'array' ? new ArrayScanner(file) : new LinesScanner(file);
  let offset = 0;
  try {
    for await (const chunk of createReadStream(file, { highWaterMark: 1 << 20 }) as AsyncIterable<Buffer>) {
      hash.update(chunk);
      const skipped = Math.max(0, Math.min(chunk.length, start - offset));
      scanner.feed(chunk.subarray(skipped), offset + skipped);
      offset += chunk.length;
    }
    return { ...scanner.end(offset), sha256: hash.digest('hex') };
  } catch (error) {
    throw error instanceof StructureMistake ? explainMistake(file, error) : error;
  }
}

/** Grows the three arrays, and hands them out as shared memory. */
class Offsets {
  #starts = new Float64Array(1024);
  #lengths = new Uint32Array(1024);
  #lines = new Uint32Array(1024);
  count = 0;

  readonly #file: string;

  constructor(file: string) {
    this.#file = file;
  }

  add(start: number, length: number, line: number): void {
    if (length > 0xffff_ffff) {
      throw new UserError(`Expected records below 4 GiB but record ${this.count} has ${length} bytes.`, {
        file: this.#file,
        record: this.count,
        line,
      });
    }
    if (this.count === this.#starts.length) {
      this.#starts = grow(this.#starts, new Float64Array(this.count * 2));
      this.#lengths = grow(this.#lengths, new Uint32Array(this.count * 2));
      this.#lines = grow(this.#lines, new Uint32Array(this.count * 2));
    }
    this.#starts[this.count] = start;
    this.#lengths[this.count] = length;
    this.#lines[this.count] = line;
    this.count++;
  }

  shared(): RecordOffsets {
    const n = this.count;
    return {
      starts: grow(this.#starts.subarray(0, n), new Float64Array(new SharedArrayBuffer(8 * n))),
      lengths: grow(this.#lengths.subarray(0, n), new Uint32Array(new SharedArrayBuffer(4 * n))),
      lines: grow(this.#lines.subarray(0, n), new Uint32Array(new SharedArrayBuffer(4 * n))),
    };
  }
}

function grow<T extends Float64Array | Uint32Array>(from: Float64Array | Uint32Array, to: T): T {
  to.set(from);
  return to;
}

class LinesScanner {
  readonly #offsets: Offsets;
  #line = 1;
  /** First byte of the line's object, once seen. */
  #start = -1;
  #lastByte = -1;

  constructor(file: string) {
    this.#offsets = new Offsets(file);
  }

  feed(chunk: Buffer, base: number): void {
    let at = 0;
    while (at < chunk.length) {
      const newline = chunk.indexOf(NEWLINE, at);
      const end = newline === -1 ? chunk.length : newline;
      this.#part(chunk, at, end, base);
      at = end;
      if (newline === -1) break;
      this.#endLine();
      at = newline + 1;
    }
  }

  end(_bytes: number): RecordOffsets {
    this.#endLine();
    return this.#offsets.shared();
  }

  #part(chunk: Buffer, from: number, to: number, base: number): void {
    if (this.#start === -1) {
      let first = from;
      while (first < to && isSpace(chunk[first]!)) first++;
      if (first === to) return;
      if (chunk[first] !== OPEN_OBJECT) throw this.#notAnObject(base + first);
      this.#start = base + first;
    }
    this.#lastByte = base + to - 1;
  }

  #endLine(): void {
    if (this.#start !== -1) this.#offsets.add(this.#start, this.#lastByte - this.#start + 1, this.#line);
    this.#start = -1;
    this.#line++;
  }

  #notAnObject(offset: number): StructureMistake {
    return new StructureMistake({
      offset,
      line: this.#line,
      record: this.#offsets.count,
      wanted: `a JSON object for line ${this.#line}`,
      piece: true,
      cure: 'JSON Lines has one whole record {…} per line; a JSON array starts with [ and separates its records by commas. Do not mix the two in one file.',
    });
  }
}

/** States of the array between its records. */
type Expecting = 'opening' | 'first record' | 'record' | 'comma' | 'nothing';

class ArrayScanner {
  readonly #offsets: Offsets;
  #expecting: Expecting = 'opening';
  #line = 1;
  /** Brackets open inside the current record; empty between records. */
  readonly #open: number[] = [];
  #inString = false;
  #escaped = false;
  #start = 0;
  #startLine = 1;

  constructor(file: string) {
    this.#offsets = new Offsets(file);
  }

  feed(chunk: Buffer, base: number): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#inString) {
        at = this.#skipString(chunk, at);
        continue;
      }
      const byte = chunk[at]!;
      if (byte === NEWLINE) this.#line++;
      else if (this.#open.length === 0) this.#between(byte, base + at);
      else if (byte === QUOTE) this.#inString = true;
      else if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) this.#open.push(byte);
      else if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) this.#close(byte, base + at);
      at++;
    }
  }

  end(bytes: number): RecordOffsets {
    const { count } = this.#offsets;
    if (this.#inString || this.#open.length > 0) {
      const open = this.#open.length > 1 ? `${this.#open.length} brackets are` : '1 bracket is';
      throw this.#broken(bytes, {
        line: this.#startLine,
        wanted: `record ${count}, which starts on line ${this.#startLine}, to be closed before the file's end (byte ${bytes})`,
        received: `its end where ${this.#inString ? 'a string is' : open} still open`,
        cure: 'The file is probably cut off, or a " or } is missing in this record. Write the file again.',
      });
    }
    if (this.#expecting !== 'nothing') {
      throw this.#broken(bytes, {
        wanted: `"]" after ${count} records`,
        received: `the end of the file (byte ${bytes})`,
        cure: 'The file is probably cut off. Write it again, or use JSON Lines, one record per line.',
      });
    }
    return this.#offsets.shared();
  }

  /** Goes to the end of the string or of the chunk; strings hold most of the bytes, so this is the fast path. */
  #skipString(chunk: Buffer, from: number): number {
    let at = from;
    while (at < chunk.length) {
      const byte = chunk[at++]!;
      if (this.#escaped) this.#escaped = false;
      else if (byte === BACKSLASH) this.#escaped = true;
      else if (byte === QUOTE) {
        this.#inString = false;
        return at;
      }
      if (byte === NEWLINE) this.#line++;
    }
    return at;
  }

  /** A byte outside of all records. */
  #between(byte: number, offset: number): void {
    if (isSpace(byte)) return;
    if (this.#expecting === 'opening' && byte === OPEN_ARRAY) this.#expecting = 'first record';
    else if (this.#expecting === 'comma' && byte === COMMA) this.#expecting = 'record';
    else if (byte === CLOSE_ARRAY && (this.#expecting === 'comma' || this.#expecting === 'first record'))
      this.#expecting = 'nothing';
    else if (byte === OPEN_OBJECT && (this.#expecting === 'record' || this.#expecting === 'first record')) {
      this.#open.push(byte);
      this.#start = offset;
      this.#startLine = this.#line;
    } else throw this.#unexpected(byte, offset);
  }

  #close(byte: number, offset: number): void {
    const wanted = this.#open.pop() === OPEN_OBJECT ? CLOSE_OBJECT : CLOSE_ARRAY;
    if (byte !== wanted) {
      const inside = { start: this.#start, line: this.#startLine };
      throw this.#broken(offset, {
        wanted: `"${String.fromCharCode(wanted)}" in record ${this.#offsets.count}`,
        cure: 'Close every bracket of the record in the order in which it was opened.',
        inside,
      });
    }
    if (this.#open.length > 0) return;
    this.#offsets.add(this.#start, offset - this.#start + 1, this.#startLine);
    this.#expecting = 'comma';
  }

  #unexpected(byte: number, offset: number): StructureMistake {
    const wanted = {
      opening: '"["',
      'first record': 'a record {…} or "]"',
      record: 'a record {…}',
      comma: '"," or "]"',
      nothing: `the end of the file after the array's "]"`,
    }[this.#expecting];
    const cure =
      this.#expecting === 'record' && byte === CLOSE_ARRAY
        ? 'Remove the comma after the last record.'
        : 'A JSON array is [ {record}, {record}, … ]; JSON Lines has one {record} per line and neither [ nor commas. Do not mix the two in one file.';
    return this.#broken(offset, { wanted: `${wanted} after ${this.#offsets.count} records`, cure });
  }

  #broken(
    offset: number,
    place: Pick<StructurePlace, 'wanted' | 'cure' | 'received' | 'inside'> & { line?: number },
  ): StructureMistake {
    const open = this.#open.length > 0 || this.#inString;
    const inside = place.inside ?? (open ? { start: this.#start, line: this.#startLine } : undefined);
    return new StructureMistake({
      line: this.#line,
      ...place,
      offset,
      record: this.#offsets.count,
      ...(inside === undefined ? {} : { inside }),
    });
  }
}

function isSpace(byte: number): boolean {
  return byte === SPACE || byte === NEWLINE || byte === TAB || byte === RETURN;
}
