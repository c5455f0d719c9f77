/**
 * Writes safetensors files. A file is planned first: the plan has its header and the place of every tensor. It is then made in its full
 * size, and filled range by range, in any order and by several processes at once. Large checkpoints are split into shards with an index,
 * named as Hugging Face names them. Reading: safetensors.ts.
 *
 * `writeSafetensors` writes under a temporary name, flushes to the disk, then renames: a file of the final name is always complete.
 */
import { closeSync, fsyncSync, ftruncateSync, openSync, renameSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { DTYPES, type DType } from './dtype.js';
import { ops } from './ops.js';
import { scope } from './scope.js';
import type { Tensor } from './tensor.js';

/** Host memory that a tensor passes through on its way to the disk. */
const PIECE_BYTES = 4 << 20;

export interface WriteOptions {
  /** Defaults to `{ format: 'pt' }`, which transformers asks for. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** The type a tensor is stored in; its own when absent. Tensors are converted piece by piece. */
  readonly dtypeOf?: (name: string, tensor: TensorKind) => DType;
}

export interface ShardOptions extends WriteOptions {
  /** Most bytes of tensors in one file, unless a single tensor has more. */
  readonly maxShardBytes: number;
  /** File names start with it: `model` by default. */
  readonly stem?: string;
}

/** A tensor without its numbers. */
export interface TensorKind {
  readonly dtype: DType;
  readonly shape: readonly number[];
}

export interface PlannedTensor extends TensorKind {
  readonly bytes: number;
  /** Of its first byte in the file. */
  readonly offset: number;
}

/** What a file will be, before it is there. */
export interface SafetensorsPlan {
  /** The first bytes of the file. */
  readonly header: Uint8Array;
  /** Of the whole file. */
  readonly bytes: number;
  /** In the order of the file. */
  readonly tensors: ReadonlyMap<string, PlannedTensor>;
}

/** Files by name, and what their index says. */
export interface ShardsPlan {
  readonly files: ReadonlyMap<string, SafetensorsPlan>;
  /** Null: one file, which needs none. */
  readonly index: { readonly name: string; readonly text: string } | null;
}

const numelOf = ({ shape }: TensorKind): number => shape.reduce((product, size) => product * size, 1);

/** The plan of a file with these tensors. Their order does not matter. */
export function planSafetensors(
  tensors: ReadonlyMap<string, TensorKind>,
  { metadata = { format: 'pt' }, dtypeOf }: WriteOptions = {},
): SafetensorsPlan {
  const entries = [...tensors].map(([name, tensor]) => {
    const dtype = dtypeOf?.(name, tensor) ?? tensor.dtype;
    return { name, dtype, shape: tensor.shape, width: DTYPES[dtype].bytes };
  });
  entries.sort((a, b) => b.width - a.width || (a.name < b.name ? -1 : 1)); // widest first: all aligned
  const header: Record<string, unknown> = { __metadata__: metadata };
  let position = 0;
  const placed = entries.map(({ name, dtype, shape, width }) => {
    const bytes = numelOf({ dtype, shape }) * width;
    header[name] = { dtype: DTYPES[dtype].safetensors, shape, data_offsets: [position, position + bytes] };
    position += bytes;
    return { name, dtype, shape, bytes, begin: position - bytes };
  });
  const json = Buffer.from(JSON.stringify(header));
  const first = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, ' '); // the data begin at a multiple of 8 bytes
  first.writeBigUInt64LE(BigInt(first.length - 8));
  json.copy(first, 8);
  const plan = placed.map(({ name, begin, ...rest }) => [name, { ...rest, offset: first.length + begin }] as const);
  return { header: first, bytes: first.length + position, tensors: new Map(plan) };
}

/**
 * The plan of `<stem>.safetensors`, or, where that is more than `maxShardBytes`, of `<stem>-00001-of-0000N.safetensors`, … filled in the
 * order of `tensors`, with `<stem>.safetensors.index.json`.
 */
export function planShards(tensors: ReadonlyMap<string, TensorKind>, options: ShardOptions): ShardsPlan {
  const { stem = 'model', maxShardBytes, dtypeOf } = options;
  const shards: Map<string, TensorKind>[] = [];
  let room = 0;
  let total = 0;
  for (const [name, tensor] of tensors) {
    const dtype = dtypeOf?.(name, tensor) ?? tensor.dtype;
    const bytes = numelOf(tensor) * DTYPES[dtype].bytes;
    if (shards.length === 0 || bytes > room) {
      shards.push(new Map());
      room = maxShardBytes;
    }
    shards.at(-1)!.set(name, { dtype, shape: tensor.shape });
    room -= bytes;
    total += bytes;
  }
  const { metadata } = options;
  const planned = (shard: ReadonlyMap<string, TensorKind>): SafetensorsPlan =>
    planSafetensors(shard, metadata === undefined ? {} : { metadata });
  if (shards.length <= 1)
    return { files: new Map([[`${stem}.safetensors`, planned(shards[0] ?? new Map())]]), index: null };
  const number = (n: number): string => String(n).padStart(5, '0');
  const weightMap: Record<string, string> = {};
  const files = shards.map((shard, i) => {
    const file = `${stem}-${number(i + 1)}-of-${number(shards.length)}.safetensors`;
    for (const name of shard.keys()) weightMap[name] = file;
    return [file, planned(shard)] as const;
  });
  const text = `${JSON.stringify({ metadata: { total_size: total }, weight_map: weightMap }, null, 2)}\n`;
  return { files: new Map(files), index: { name: `${stem}.safetensors.index.json`, text } };
}

/** Makes the file of a plan in its full size: the header, and zeros. A file of that name is replaced. */
export function createSafetensors(path: string, plan: SafetensorsPlan): void {
  const file = openSync(path, 'w');
  try {
    writeAt(file, plan.header, 0);
    ftruncateSync(file, plan.bytes);
  } finally {
    closeSync(file);
  }
}

/** Writes all bytes to a place of an open file, however many calls it takes. */
function writeAt(file: number, bytes: Uint8Array, position: number): void {
  for (let written = 0; written < bytes.length; )
    written += writeSync(file, bytes, written, bytes.length - written, position + written);
}

/** Fills a file that `createSafetensors` made. Other processes may fill other ranges of it at the same time. */
export class SafetensorsWriter implements Disposable {
  readonly path: string;
  readonly plan: SafetensorsPlan;
  #file: number | null;
  #buffer: Uint8Array | undefined;

  constructor(path: string, plan: SafetensorsPlan) {
    this.path = path;
    this.plan = plan;
    this.#file = openSync(path, 'r+');
  }

  /** Writes numbers of the tensor `name` from number `start` of it, row-major: those of `tensor`, whatever its shape, strides, type and device. */
  write(name: string, start: number, tensor: Tensor): void {
    const { dtype } = this.#range(name, start, tensor.numel);
    const width = DTYPES[dtype].bytes;
    let next = start * width;
    this.#buffer ??= new Uint8Array(PIECE_BYTES);
    for (const bytes of bytesOf(tensor, dtype, this.#buffer)) {
      this.writeBytes(name, next, bytes);
      next += bytes.length;
    }
  }

  /** Writes bytes of the tensor `name` from byte `start` of it. */
  writeBytes(name: string, start: number, bytes: Uint8Array): void {
    const { offset, bytes: all } = this.#planned(name);
    if (start + bytes.length > all)
      throw new RangeError(
        `${this.path}: tensor ${JSON.stringify(name)}: Expected at most ${all} bytes but received ${bytes.length} from byte ${start}`,
      );
    if (this.#file === null) throw new Error(`${this.path}: Expected an open file but it was closed before`);
    writeAt(this.#file, bytes, offset + start);
  }

  /** Brings to the disk what was written. */
  flush(): void {
    if (this.#file !== null) fsyncSync(this.#file);
  }

  close(): void {
    if (this.#file !== null) closeSync(this.#file);
    this.#file = null;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #planned(name: string): PlannedTensor {
    const planned = this.plan.tensors.get(name);
    if (planned === undefined)
      throw new RangeError(`${this.path}: Expected a tensor of the plan but received ${JSON.stringify(name)}`);
    return planned;
  }

  #range(name: string, start: number, length: number): PlannedTensor {
    const planned = this.#planned(name);
    const numel = numelOf(planned);
    if (start < 0 || start + length > numel)
      throw new RangeError(
        `${this.path}: tensor ${JSON.stringify(name)}: Expected a range of its ${numel} numbers but received ${length} from ${start}`,
      );
    return planned;
  }
}

/**
 * The numbers of a tensor in row-major order as bytes of type `dtype`, piece by piece: whatever its strides, type and device. No more of it
 * than fits the buffer is copied. A piece lies in the buffer, and is good until the next one is asked for.
 */
export function* bytesOf(tensor: Tensor, dtype: DType, buffer: Uint8Array): Generator<Uint8Array> {
  const width = DTYPES[dtype].bytes;
  using source = ops.detach(tensor);
  for (const piece of piecesOf(source, Math.floor(buffer.length / width))) {
    const bytes = buffer.subarray(0, piece.numel * width);
    scope(() => ops.contiguous(ops.toDevice(piece, 'cpu', dtype)).readBytes(0, bytes));
    piece.dispose();
    yield bytes;
  }
}

/** Views of at most `most` numbers that make up a tensor, in row-major order. The caller frees them. */
function* piecesOf(tensor: Tensor, most: number): Generator<Tensor> {
  const { numel } = tensor;
  if (numel === 0) return;
  if (tensor.isContiguous) {
    using flat = ops.view(tensor, [-1]);
    for (let start = 0; start < numel; start += most) yield ops.narrow(flat, 0, start, Math.min(most, numel - start));
    return;
  }
  const rows = tensor.size(0);
  const together = Math.floor(most / (numel / rows));
  for (let row = 0; row < rows; row += Math.max(1, together)) {
    const part = ops.narrow(tensor, 0, row, Math.min(Math.max(1, together), rows - row));
    if (together > 0) yield part;
    else {
      using only = ops.select(part, 0, 0);
      part.dispose();
      yield* piecesOf(only, most);
    }
  }
}

/** Calls `write` with a temporary name; the file takes the name `path` once it is complete and on the disk. */
function atomically(path: string, write: (temporary: string) => void): void {
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    write(temporary);
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}

function writePlanned(path: string, plan: SafetensorsPlan, tensors: ReadonlyMap<string, Tensor>): void {
  atomically(path, (temporary) => {
    createSafetensors(temporary, plan);
    using writer = new SafetensorsWriter(temporary, plan);
    for (const name of plan.tensors.keys()) writer.write(name, 0, tensors.get(name)!);
    writer.flush();
  });
}

/** Writes one safetensors file. */
export function writeSafetensors(path: string, tensors: ReadonlyMap<string, Tensor>, options: WriteOptions = {}): void {
  writePlanned(path, planSafetensors(tensors, options), tensors);
}

/** Writes the files of `planShards` into a folder, the index last. Returns their names. */
export function writeShardedSafetensors(
  folder: string,
  tensors: ReadonlyMap<string, Tensor>,
  options: ShardOptions,
): string[] {
  const { files, index } = planShards(tensors, options);
  for (const [name, plan] of files) writePlanned(join(folder, name), plan, tensors);
  if (index === null) return [...files.keys()];
  atomically(join(folder, index.name), (temporary) => writeFileSync(temporary, index.text, { flush: true }));
  return [...files.keys(), index.name];
}
