/** Reads the header of a GGUF file. Key-values, and the names, types and places of tensors; no numbers are read. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs';
import {
  ALIGNMENT,
  bytesOf,
  type GgufMetadata,
  type GgufValue,
  MAGIC,
  type PlacedTensor,
  TENSOR_TYPES,
  type TensorType,
  VALUE_TYPES,
  VERSION,
} from './format.js';

/** What a file says of itself. */
export interface GgufHeader {
  readonly metadata: GgufMetadata;
  readonly tensors: ReadonlyMap<string, PlacedTensor>;
  /** Of the whole file. */
  readonly bytes: number;
}

/** @throws Error for a file that is none, of another version, with types that are not written here, or cut. */
export function readGguf(path: string): GgufHeader {
  const file = openSync(path, 'r');
  try {
    const reader = new Reader(path, file);
    const magic = reader.take(4).toString('latin1');
    const version = reader.u32();
    if (magic !== MAGIC || version !== VERSION)
      throw new Error(`${path}: Expected a GGUF file of version ${VERSION} but received ${magic}, version ${version}`);
    const [tensorCount, keyCount] = [reader.u64(), reader.u64()];
    const metadata = new Map<string, GgufValue>();
    for (let i = 0; i < keyCount; i++) metadata.set(reader.text(), readValue(reader, reader.u32()));
    const infos = Array.from({ length: tensorCount }, () => readInfo(reader));
    const start = Math.ceil(reader.position / ALIGNMENT) * ALIGNMENT;
    const bytes = fstatSync(file).size;
    const tensors = infos.map(([name, info]) => [name, { ...info, offset: start + info.offset }] as const);
    for (const [name, { offset, bytes: size }] of tensors)
      if (offset % ALIGNMENT !== 0 || offset + size > bytes)
        throw new Error(`${path}: tensor ${name}: Expected ${size} bytes from ${offset} but the file has ${bytes}`);
    return { metadata, tensors: new Map(tensors), bytes };
  } finally {
    closeSync(file);
  }
}

const typeOf = <T extends string>(types: Readonly<Record<T, number>>, code: number, what: string): T => {
  const found = (Object.keys(types) as T[]).find((name) => types[name] === code);
  if (found === undefined) throw new Error(`Expected a known type of ${what} but received ${code}`);
  return found;
};

function readValue(reader: Reader, code: number): GgufValue {
  const type = typeOf(VALUE_TYPES, code, 'a value');
  if (type === 'string') return { type, value: reader.text() };
  if (type === 'bool') return { type, value: reader.take(1)[0] === 1 };
  if (type !== 'array') return { type, value: reader[type]() };
  const of = typeOf(VALUE_TYPES, reader.u32(), 'an array');
  const length = reader.u64();
  if (of === 'string') return { type, of, value: Array.from({ length }, () => reader.text()) };
  if (of === 'i32' || of === 'f32') return { type, of, value: Array.from({ length }, () => reader[of]()) };
  throw new Error(`Expected an array of string, i32 or f32 but received one of ${of}`);
}

const CODES = Object.fromEntries(Object.entries(TENSOR_TYPES).map(([name, { code }]) => [name, code])) as Record<
  TensorType,
  number
>;

function readInfo(reader: Reader): readonly [string, PlacedTensor] {
  const name = reader.text();
  const sizes = Array.from({ length: reader.u32() }, () => reader.u64());
  const type = typeOf(CODES, reader.u32(), `the tensor ${name}`);
  const form = { type, shape: sizes.reverse() };
  return [name, { ...form, bytes: bytesOf(form), offset: reader.u64() }];
}

const PIECE_BYTES = 1 << 20;

class Reader {
  position = 0;
  #piece = Buffer.alloc(0);
  #pieceStart = 0;
  readonly #path: string;
  readonly #file: number;

  constructor(path: string, file: number) {
    this.#path = path;
    this.#file = file;
  }

  take(count: number): Buffer {
    const inside = this.position - this.#pieceStart;
    if (inside + count > this.#piece.length) {
      const piece = Buffer.alloc(Math.max(PIECE_BYTES, count));
      const got = readSync(this.#file, piece, 0, piece.length, this.position);
      if (got < count) throw new Error(`${this.#path}: Expected ${count} bytes at ${this.position} but the file ends`);
      [this.#piece, this.#pieceStart] = [piece.subarray(0, got), this.position];
      return this.take(count);
    }
    this.position += count;
    return this.#piece.subarray(inside, inside + count);
  }

  u32 = (): number => this.take(4).readUInt32LE();
  i32 = (): number => this.take(4).readInt32LE();
  f32 = (): number => this.take(4).readFloatLE();
  u64 = (): number => Number(this.take(8).readBigUInt64LE());
  text = (): string => this.take(this.u64()).toString('utf8');
}
