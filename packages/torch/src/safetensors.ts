/**
 * Reads safetensors files by memory map, without copying. Format: 8 bytes little-endian header length, JSON header,
 * data (https://huggingface.co/docs/safetensors). Folders with `model.safetensors.index.json` are read as one. Writing:
 * safetensors-write.ts.
 *
 * Everything the header claims is checked before a tensor is made: a file that is cut, overlaps or lies is refused.
 */
import { closeSync, existsSync, openSync, readFileSync, readSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { DTYPES, type DType, dtypeOfSafetensors } from './dtype.js';
import { type Mapping, native } from './native.js';
import { ops } from './ops.js';
import { guard, Tensor } from './tensor.js';

/** A file whose content contradicts its header. The message names the file and the tensor. */
export class SafetensorsError extends Error {
  override readonly name = 'SafetensorsError';
}

export interface TensorInfo {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly bytes: number;
  /** The file the tensor is in. */
  readonly file: string;
}

/** Tensors by name: one file or several. */
export interface TensorSource {
  readonly path: string;
  readonly infos: ReadonlyMap<string, TensorInfo>;
  readonly metadata: Readonly<Record<string, string>>;
  /** The tensor as stored, backed by the file (copy on write). The caller owns it. */
  tensor(name: string): Tensor;
  /** Copies `target.length` bytes of the tensor as stored, from byte `offset` of it: nothing of the file stays in memory. */
  readBytes(name: string, offset: number, target: Uint8Array): void;
}

/** A value of a header in a message: short, however long or deep it is. */
function brief(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 80 ? `${value.slice(0, 79)}…` : value);
  if (Array.isArray(value)) {
    const flat = value.length <= 8 && value.every((item) => typeof item !== 'object');
    return flat ? `[${value.map((item) => brief(item)).join(', ')}]` : `a list of ${value.length}`;
  }
  return typeof value === 'object' && value !== null ? 'an object' : String(value);
}

const MAX_HEADER_BYTES = 100_000_000;

interface Entry extends TensorInfo {
  readonly offset: number;
}

function readHeader(path: string): { header: Record<string, unknown>; dataStart: number; size: number } {
  const fail = (message: string): never => {
    throw new SafetensorsError(`${path}: ${message}`);
  };
  const size = statSync(path).size;
  if (size < 8)
    fail(
      `Expected at least 8 bytes for a safetensors file but received ${size}. The file is cut: copy or download it again.`,
    );
  const file = openSync(path, 'r');
  try {
    const prefix = Buffer.alloc(8);
    readSync(file, prefix, 0, 8, 0);
    const length = Number(prefix.readBigUInt64LE());
    if (length > MAX_HEADER_BYTES || length < 2)
      fail(
        `Expected a header of 2 to ${MAX_HEADER_BYTES} bytes but received ${length}. This is not a safetensors file.`,
      );
    if (8 + length > size)
      fail(
        `Expected ${8 + length} bytes of header but the file has ${size}. The file is cut: copy or download it again.`,
      );
    const text = Buffer.alloc(length);
    readSync(file, text, 0, length, 8);
    let header: unknown;
    try {
      header = JSON.parse(text.toString('utf8'));
    } catch (cause) {
      fail(`Expected JSON in the header but received: ${(cause as Error).message}`);
    }
    if (typeof header !== 'object' || header === null || Array.isArray(header)) fail('Expected an object as header');
    return { header: header as Record<string, unknown>, dataStart: 8 + length, size };
  } finally {
    closeSync(file);
  }
}

function readEntry(path: string, name: string, value: unknown, dataStart: number): Entry {
  const fail = (message: string): never => {
    throw new SafetensorsError(`${path}: tensor ${brief(name)}: ${message}`);
  };
  const { dtype: dtypeName, shape, data_offsets: offsets } = (value ?? {}) as Record<string, unknown>;
  const dtype =
    (typeof dtypeName === 'string' ? dtypeOfSafetensors(dtypeName) : undefined) ??
    fail(`Expected a known dtype but received ${brief(dtypeName)}`);
  const isSizes = (x: unknown): x is number[] => Array.isArray(x) && x.every((n) => Number.isSafeInteger(n) && n >= 0);
  if (!isSizes(shape)) return fail(`Expected a list of sizes as shape but received ${brief(shape)}`);
  if (!isSizes(offsets) || offsets.length !== 2) return fail(`Expected two offsets but received ${brief(offsets)}`);
  const bytes = shape.reduce((product, n) => product * n, 1) * DTYPES[dtype].bytes;
  const [begin, end] = offsets as [number, number];
  if (end - begin !== bytes)
    fail(`Expected ${bytes} bytes for ${dtype}${brief(shape)} but the offsets [${begin}, ${end}] hold ${end - begin}`);
  return { dtype, shape, bytes, file: path, offset: dataStart + begin };
}

/** One safetensors file. Throws SafetensorsError when anything in it is wrong. */
export class SafetensorsFile implements TensorSource {
  readonly infos: ReadonlyMap<string, Entry>;
  readonly metadata: Readonly<Record<string, string>>;
  #mapping: Mapping | undefined;

  readonly path: string;

  constructor(path: string) {
    this.path = path;
    const { header, dataStart, size } = readHeader(path);
    const { __metadata__: metadata, ...tensors } = header;
    this.metadata = (metadata ?? {}) as Record<string, string>;
    const entries = new Map(
      Object.entries(tensors).map(([name, value]) => [name, readEntry(path, name, value, dataStart)]),
    );
    let position = dataStart;
    for (const [name, entry] of [...entries].sort(([, a], [, b]) => a.offset - b.offset || a.bytes - b.bytes)) {
      if (entry.offset !== position) {
        throw new SafetensorsError(
          `${path}: tensor ${brief(name)}: Expected its data at byte ${position} but the header says ${entry.offset}: the tensors overlap or leave a hole`,
        );
      }
      position += entry.bytes;
    }
    if (position !== size) {
      throw new SafetensorsError(
        `${path}: Expected ${position} bytes but the file has ${size}. The file is cut or damaged: copy or download it again.`,
      );
    }
    this.infos = entries;
  }

  tensor(name: string): Tensor {
    const entry = this.#entry(name);
    return this.#mapped(entry, entry.offset, entry.shape);
  }

  /**
   * Numbers of the tensor in row-major order, shape [length]: only their part of the file is read. Backed by the file as `tensor` is.
   *
   * @throws RangeError when the tensor has no such numbers
   */
  range(name: string, start: number, length: number): Tensor {
    const entry = this.#entry(name);
    const width = DTYPES[entry.dtype].bytes;
    if (start < 0 || length < 0 || (start + length) * width > entry.bytes)
      throw new RangeError(
        `${this.path}: tensor ${brief(name)}: Expected a range of its ${entry.bytes / width} numbers but received ${length} from ${start}`,
      );
    return this.#mapped(entry, entry.offset + start * width, [length]);
  }

  readBytes(name: string, offset: number, target: Uint8Array): void {
    const entry = this.#entry(name);
    if (offset < 0 || offset + target.length > entry.bytes)
      throw new RangeError(
        `${this.path}: tensor ${brief(name)}: Expected a range of its ${entry.bytes} bytes but received ${target.length} from ${offset}`,
      );
    const file = openSync(this.path, 'r');
    try {
      for (let done = 0; done < target.length; ) {
        const count = readSync(file, target, done, target.length - done, entry.offset + offset + done);
        if (count === 0) throw new SafetensorsError(`${this.path}: The file became shorter while it was read.`);
        done += count;
      }
    } finally {
      closeSync(file);
    }
  }

  #entry(name: string): Entry {
    const entry = this.infos.get(name);
    if (entry !== undefined) return entry;
    throw new SafetensorsError(`${this.path}: Expected a tensor ${brief(name)} but the file has none`);
  }

  #mapped({ dtype }: Entry, offset: number, shape: readonly number[]): Tensor {
    if (shape.includes(0)) return ops.zeros(shape, { dtype });
    this.#mapping ??= guard(() => native.mapFile(this.path));
    const mapping = this.#mapping;
    return new Tensor(guard(() => native.mappedTensor(mapping, offset, shape, DTYPES[dtype].code)));
  }
}

/** Several files with one index. */
class ShardedSafetensors implements TensorSource {
  readonly infos = new Map<string, TensorInfo>();
  readonly metadata: Readonly<Record<string, string>>;
  readonly #files = new Map<string, SafetensorsFile>();

  readonly path: string;

  constructor(path: string) {
    this.path = path;
    const folder = dirname(path);
    let index: { weight_map?: Record<string, unknown> } | null;
    try {
      index = JSON.parse(readFileSync(path, 'utf8'));
    } catch (cause) {
      throw new SafetensorsError(`${path}: Expected JSON but received: ${(cause as Error).message}`);
    }
    if (typeof index?.weight_map !== 'object' || index.weight_map === null)
      throw new SafetensorsError(`${path}: Expected a 'weight_map' but the index has none`);
    for (const [name, file] of Object.entries(index.weight_map)) {
      if (typeof file !== 'string' || basename(file) !== file)
        throw new SafetensorsError(
          `${path}: Expected a file name beside the index for ${brief(name)} but received ${brief(file)}`,
        );
      const shard = join(folder, file);
      if (!existsSync(shard))
        throw new SafetensorsError(
          `${path}: Expected the shard ${brief(file)} beside the index but it is not there. Copy or download it.`,
        );
      if (!this.#files.has(file)) this.#files.set(file, new SafetensorsFile(shard));
      const info = this.#files.get(file)!.infos.get(name);
      if (info === undefined)
        throw new SafetensorsError(
          `${shard}: Expected the tensor ${brief(name)} that the index places there but the file has none`,
        );
      this.infos.set(name, info);
    }
    for (const file of this.#files.values()) {
      for (const name of file.infos.keys()) {
        if (!this.infos.has(name))
          throw new SafetensorsError(
            `${file.path}: Expected the tensor ${brief(name)} in the index ${basename(path)} but it is missing there.`,
          );
      }
    }
    this.metadata = [...this.#files.values()][0]?.metadata ?? {};
  }

  tensor(name: string): Tensor {
    return this.#fileOf(name).tensor(name);
  }

  readBytes(name: string, offset: number, target: Uint8Array): void {
    this.#fileOf(name).readBytes(name, offset, target);
  }

  #fileOf(name: string): SafetensorsFile {
    const info = this.infos.get(name);
    if (info === undefined)
      throw new SafetensorsError(`${this.path}: Expected a tensor ${brief(name)} but the checkpoint has none`);
    return this.#files.get(basename(info.file))!;
  }
}

/** Opens `<folder>/<stem>.safetensors`, or the shards of `<folder>/<stem>.safetensors.index.json`. */
export function openSafetensors(folder: string, stem = 'model'): TensorSource {
  const single = join(folder, `${stem}.safetensors`);
  if (existsSync(single)) return new SafetensorsFile(single);
  const index = `${single}.index.json`;
  if (existsSync(index)) return new ShardedSafetensors(index);
  throw new SafetensorsError(
    `${folder}: Expected ${stem}.safetensors or ${stem}.safetensors.index.json but neither is there`,
  );
}
