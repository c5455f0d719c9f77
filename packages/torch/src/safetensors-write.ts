/**
 * Writes safetensors files atomically. A file is written under a temporary name, flushed to the disk, then renamed, so
 * a file of the final name is always complete. Large checkpoints are split into shards with an index, named as Hugging
 * Face names them. Reading: safetensors.ts.
 */
import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { DTYPES, type DType } from './dtype.js';
import { ops } from './ops.js';
import { scope } from './scope.js';
import type { Tensor } from './tensor.js';

const CHUNK_BYTES = 4 << 20;

export interface WriteOptions {
  /** Defaults to `{ format: 'pt' }`, which transformers asks for. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** The type a tensor is stored in; its own when absent. Tensors are converted one at a time. */
  readonly dtypeOf?: (name: string, tensor: Tensor) => DType;
}

export interface ShardOptions extends WriteOptions {
  /** Most bytes of tensors in one file, unless a single tensor has more. */
  readonly maxShardBytes: number;
  /** File names start with it: `model` by default. */
  readonly stem?: string;
}

interface Entry {
  readonly name: string;
  readonly tensor: Tensor;
  readonly dtype: DType;
  readonly bytes: number;
}

function entryOf(name: string, tensor: Tensor, options: WriteOptions): Entry {
  const dtype = options.dtypeOf?.(name, tensor) ?? tensor.dtype;
  return { name, tensor, dtype, bytes: tensor.numel * DTYPES[dtype].bytes };
}

/** Writes all bytes to an open file, however many calls it takes. */
function writeAll(file: number, bytes: Uint8Array): void {
  for (let written = 0; written < bytes.length; ) written += writeSync(file, bytes, written);
}

/** Writes the tensor's bytes to an open file, whatever its strides, type and device. */
function writeTensor(file: number, { tensor, dtype }: Entry, buffer: Uint8Array): void {
  scope(() => {
    const source = ops.contiguous(ops.toDevice(tensor, 'cpu', dtype));
    for (let offset = 0; offset < source.nbytes; offset += buffer.length) {
      const chunk = buffer.subarray(0, Math.min(buffer.length, source.nbytes - offset));
      source.readBytes(offset, chunk);
      writeAll(file, chunk);
    }
  });
}

/** Length and header, padded so that the data begins at a multiple of 8 bytes. */
function headerOf(entries: readonly Entry[], metadata: Readonly<Record<string, string>>): Buffer {
  const header: Record<string, unknown> = { __metadata__: metadata };
  let position = 0;
  for (const { name, tensor, dtype, bytes } of entries) {
    header[name] = {
      dtype: DTYPES[dtype].safetensors,
      shape: tensor.shape,
      data_offsets: [position, position + bytes],
    };
    position += bytes;
  }
  const json = Buffer.from(JSON.stringify(header));
  const padded = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, ' ');
  padded.writeBigUInt64LE(BigInt(padded.length - 8));
  json.copy(padded, 8);
  return padded;
}

/** Calls `write` on a temporary file that takes the name `path` once it is complete and on the disk. */
function atomically(path: string, write: (file: number) => void): void {
  const temporary = `${path}.${process.pid}.tmp`;
  const file = openSync(temporary, 'w');
  try {
    write(file);
    fsyncSync(file);
  } catch (error) {
    closeSync(file);
    rmSync(temporary, { force: true });
    throw error;
  }
  closeSync(file);
  renameSync(temporary, path);
}

function writeEntries(path: string, entries: readonly Entry[], options: WriteOptions): void {
  const width = ({ dtype }: Entry): number => DTYPES[dtype].bytes;
  const ordered = [...entries].sort((a, b) => width(b) - width(a) || (a.name < b.name ? -1 : 1)); // widest first: all aligned
  atomically(path, (file) => {
    writeAll(file, headerOf(ordered, options.metadata ?? { format: 'pt' }));
    const buffer = new Uint8Array(CHUNK_BYTES);
    for (const entry of ordered) writeTensor(file, entry, buffer);
  });
}

/** Writes one safetensors file. */
export function writeSafetensors(path: string, tensors: ReadonlyMap<string, Tensor>, options: WriteOptions = {}): void {
  writeEntries(
    path,
    [...tensors].map(([name, tensor]) => entryOf(name, tensor, options)),
    options,
  );
}

/**
 * Writes `<folder>/<stem>.safetensors`, or, where that is more than `maxShardBytes`, `<stem>-00001-of-0000N.safetensors`, … filled in the
 * order of `tensors`, and `<stem>.safetensors.index.json` last. Returns the names of the files.
 */
export function writeShardedSafetensors(
  folder: string,
  tensors: ReadonlyMap<string, Tensor>,
  options: ShardOptions,
): string[] {
  const stem = options.stem ?? 'model';
  const shards: Entry[][] = [];
  let room = 0;
  for (const [name, tensor] of tensors) {
    const entry = entryOf(name, tensor, options);
    if (shards.length === 0 || entry.bytes > room) {
      shards.push([]);
      room = options.maxShardBytes;
    }
    shards.at(-1)!.push(entry);
    room -= entry.bytes;
  }
  if (shards.length <= 1) {
    writeEntries(join(folder, `${stem}.safetensors`), shards[0] ?? [], options);
    return [`${stem}.safetensors`];
  }
  const number = (n: number): string => String(n).padStart(5, '0');
  const files = shards.map((_, i) => `${stem}-${number(i + 1)}-of-${number(shards.length)}.safetensors`);
  const weightMap: Record<string, string> = {};
  shards.forEach((entries, i) => {
    writeEntries(join(folder, files[i]!), entries, options);
    for (const { name } of entries) weightMap[name] = files[i]!;
  });
  const totalSize = shards.flat().reduce((sum, { bytes }) => sum + bytes, 0);
  const index = `${JSON.stringify({ metadata: { total_size: totalSize }, weight_map: weightMap }, null, 2)}\n`;
  const indexFile = `${stem}.safetensors.index.json`;
  atomically(join(folder, indexFile), (file) => writeFileSync(file, index));
  return [...files, indexFile];
}
