/** Reads the pieces of a SentencePiece model. `tokenizer.model` is a protocol buffer, of which they are the first field. */
import { readFileSync } from 'node:fs';

/** A piece of the vocabulary. */
export interface Piece {
  readonly text: string;
  /** Pieces with a higher score are merged first. */
  readonly score: number;
  /** SentencePiece's number: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte. */
  readonly type: number;
}

const [VARINT, FIXED64, LENGTH, FIXED32] = [0, 1, 2, 5];

/** The fields of a message: number, and the bytes or the number of each. @throws RangeError for bytes that are no message */
function* fieldsOf(bytes: Buffer): Generator<readonly [field: number, value: Buffer | number]> {
  let position = 0;
  const varint = (): number => {
    let [value, scale] = [0, 1];
    for (;;) {
      const byte = bytes.readUInt8(position++);
      value += (byte & 127) * scale;
      if (byte < 128) return value;
      scale *= 128;
    }
  };
  while (position < bytes.length) {
    const key = varint();
    const kind = key % 8;
    if (kind === VARINT) {
      yield [Math.floor(key / 8), varint()];
      continue;
    }
    const size = kind === LENGTH ? varint() : kind === FIXED32 ? 4 : kind === FIXED64 ? 8 : Number.NaN;
    if (!(position + size <= bytes.length)) throw new RangeError('the message ends within a field');
    yield [Math.floor(key / 8), bytes.subarray(position, position + size)];
    position += size;
  }
}

/** All pieces, in the order of their ids. @throws RangeError for a file that is no such model */
export function readPieces(path: string): Piece[] {
  const pieces: Piece[] = [];
  for (const [field, value] of fieldsOf(readFileSync(path))) {
    if (field !== 1 || typeof value === 'number') continue;
    let [text, score, type] = ['', 0, 1];
    for (const [part, content] of fieldsOf(value)) {
      if (typeof content === 'number') type = part === 3 ? content : type;
      else if (part === 1) text = content.toString('utf8');
      else if (part === 2) score = content.readFloatLE();
    }
    pieces.push({ text, score, type });
  }
  return pieces;
}
