/**
 * The GGUF file format, version 3. A header of key-values and of the names, types and places of tensors, then their
 * data, each at a multiple of 32 bytes (https://github.com/ggml-org/ggml, docs/gguf.md). Plans and headers only: what
 * is written is the writer's business (writer.ts), reading back the reader's (reader.ts).
 */
import { strict as assert } from 'node:assert';

export const MAGIC = 'GGUF';
export const VERSION = 3;
export const ALIGNMENT = 32;

/** Numbers of the types of values. */
export const VALUE_TYPES = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9 } as const;

/** The value of a key. Arrays are not empty: readers refuse empty ones. */
export type GgufValue =
  | { readonly type: 'u32' | 'i32' | 'f32'; readonly value: number }
  | { readonly type: 'bool'; readonly value: boolean }
  | { readonly type: 'string'; readonly value: string }
  | { readonly type: 'array'; readonly of: 'string'; readonly value: readonly string[] }
  | { readonly type: 'array'; readonly of: 'i32' | 'f32'; readonly value: readonly number[] };

/** Key-values in the order of the file. */
export type GgufMetadata = ReadonlyMap<string, GgufValue>;

/** Types of tensors: their number in files, and how many numbers are in how many bytes. */
export const TENSOR_TYPES = {
  f32: { code: 0, numbers: 1, bytes: 4 },
  f16: { code: 1, numbers: 1, bytes: 2 },
  q5_0: { code: 6, numbers: 32, bytes: 22 },
  q8_0: { code: 8, numbers: 32, bytes: 34 },
  q4_k: { code: 12, numbers: 256, bytes: 144 },
  q6_k: { code: 14, numbers: 256, bytes: 210 },
  bf16: { code: 30, numbers: 1, bytes: 2 },
} as const;

export type TensorType = keyof typeof TENSOR_TYPES;

/** A tensor without its numbers. `shape` is row-major; files have the sizes reversed. */
export interface TensorForm {
  readonly type: TensorType;
  readonly shape: readonly number[];
}

export interface PlacedTensor extends TensorForm {
  readonly bytes: number;
  /** Of its first byte, from the start of the file. */
  readonly offset: number;
}

/** What a file will be, before it is there. */
export interface GgufPlan {
  readonly header: Uint8Array;
  readonly tensors: ReadonlyMap<string, PlacedTensor>;
  /** Of the whole file. */
  readonly bytes: number;
}

const aligned = (position: number): number => Math.ceil(position / ALIGNMENT) * ALIGNMENT;

/** Bytes of a tensor. Rows of block types are whole blocks. */
export function bytesOf({ type, shape }: TensorForm): number {
  const { numbers, bytes } = TENSOR_TYPES[type];
  assert.equal((shape.at(-1) ?? 1) % numbers, 0, `rows of ${shape.at(-1)} numbers are not whole blocks of ${type}`);
  return (shape.reduce((product, size) => product * size, 1) / numbers) * bytes;
}

/** The plan of a file with these key-values and tensors, in their order. */
export function planGguf(metadata: GgufMetadata, tensors: ReadonlyMap<string, TensorForm>): GgufPlan {
  const writer = new Bytes();
  writer.raw(Buffer.from(MAGIC));
  writer.u32(VERSION);
  writer.u64(tensors.size);
  writer.u64(metadata.size);
  for (const [key, value] of metadata) {
    writer.text(key);
    writer.u32(VALUE_TYPES[value.type]);
    writeValue(writer, value);
  }
  const placed = new Map<string, { readonly form: TensorForm; readonly bytes: number; readonly from: number }>();
  let position = 0;
  for (const [name, form] of tensors) {
    const bytes = bytesOf(form);
    placed.set(name, { form, bytes, from: position });
    writer.text(name);
    writer.u32(form.shape.length);
    for (const size of [...form.shape].reverse()) writer.u64(size);
    writer.u32(TENSOR_TYPES[form.type].code);
    writer.u64(position);
    position = aligned(position + bytes);
  }
  const text = writer.bytes();
  const header = new Uint8Array(aligned(text.length));
  header.set(text);
  const offsets = [...placed].map(
    ([name, { form, bytes, from }]) => [name, { ...form, bytes, offset: header.length + from }] as const,
  );
  return { header, tensors: new Map(offsets), bytes: header.length + position };
}

function writeValue(writer: Bytes, value: GgufValue): void {
  if (value.type === 'string') writer.text(value.value);
  else if (value.type === 'bool') writer.raw(Uint8Array.of(value.value ? 1 : 0));
  else if (value.type === 'array') writeArray(writer, value);
  else writer[value.type](value.value);
}

function writeArray(writer: Bytes, array: GgufValue & { readonly type: 'array' }): void {
  assert.notEqual(array.value.length, 0, 'arrays of GGUF files are not empty');
  writer.u32(VALUE_TYPES[array.of]);
  writer.u64(array.value.length);
  if (array.of === 'string') for (const text of array.value) writer.text(text);
  else for (const number of array.value) writer[array.of](number);
}

/** Bytes in little-endian order, one after the other. */
class Bytes {
  #buffer = Buffer.alloc(1 << 16);
  #length = 0;

  #room(count: number): number {
    const start = this.#length;
    this.#length += count;
    if (this.#length > this.#buffer.length) {
      const larger = Buffer.alloc(Math.max(2 * this.#buffer.length, this.#length));
      this.#buffer.copy(larger, 0, 0, start);
      this.#buffer = larger;
    }
    return start;
  }

  raw(bytes: Uint8Array): void {
    const start = this.#room(bytes.length);
    this.#buffer.set(bytes, start);
  }

  u32(value: number): void {
    const start = this.#room(4);
    this.#buffer.writeUInt32LE(value, start);
  }

  i32(value: number): void {
    const start = this.#room(4);
    this.#buffer.writeInt32LE(value, start);
  }

  f32(value: number): void {
    const start = this.#room(4);
    this.#buffer.writeFloatLE(value, start);
  }

  u64(value: number): void {
    const start = this.#room(8);
    this.#buffer.writeBigUInt64LE(BigInt(value), start);
  }

  text(value: string): void {
    const bytes = Buffer.from(value);
    this.u64(bytes.length);
    this.raw(bytes);
  }

  bytes(): Uint8Array {
    return this.#buffer.subarray(0, this.#length);
  }
}
