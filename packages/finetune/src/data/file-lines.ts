/**
 * The picture files of all records as text. A line for each record (identity.ts), in one block of memory instead of an
 * object each.
 */

const NEWLINE = 0x0a;

interface Piece {
  readonly first: number;
  readonly count: number;
  readonly lines: Uint8Array;
}

export class FileLines {
  /** Where each record's line starts, and the end of the last one. Shape: (records + 1) */
  readonly #starts: Uint32Array;
  readonly #pieces: Piece[] = [];

  readonly #lines: Buffer;

  /** @param known - the lines of all records; null: all are empty */
  constructor(records: number, known: Uint8Array | null) {
    this.#lines =
      known === null ? Buffer.alloc(records, NEWLINE) : Buffer.from(known.buffer, known.byteOffset, known.byteLength);
    this.#starts = new Uint32Array(records + 1);
    for (let record = 0, at = 0; record < records; record++) {
      at = this.#lines.indexOf(NEWLINE, at) + 1;
      this.#starts[record + 1] = at;
    }
  }

  /** The line of a record as it was known. */
  line(record: number): string {
    return this.#lines.toString('utf8', this.#starts[record]!, this.#starts[record + 1]! - 1);
  }

  /** Other lines for the records from `first` on. */
  replace(first: number, count: number, lines: Uint8Array): void {
    this.#pieces.push({ first, count, lines });
  }

  /** All lines. */
  joined(): Uint8Array {
    const parts: Uint8Array[] = [];
    let record = 0;
    for (const { first, count, lines } of this.#pieces.sort((a, b) => a.first - b.first)) {
      parts.push(this.#lines.subarray(this.#starts[record]!, this.#starts[first]!), lines);
      record = first + count;
    }
    parts.push(this.#lines.subarray(this.#starts[record]!));
    return Buffer.concat(parts);
  }
}
