/**
 * Writes a GGUF file tensor by tensor, a few rows at a time. No more than those are in memory. The file is read back: its
 * header has to say what was planned, and its data to be what was written.
 */
import { strict as assert } from 'node:assert';
import { createHash, type Hash } from 'node:crypto';
import { closeSync, fsyncSync, openSync, readSync, writeSync } from 'node:fs';
import { UserError } from '@minicpm-finetune/run';
import { ops, scope, type Tensor } from '@minicpm-finetune/torch';
import {
  type GgufMetadata,
  type GgufPlan,
  type PlacedTensor,
  planGguf,
  type TensorForm,
  type TensorType,
} from './format.js';
import { readGguf } from './reader.js';

/** A tensor of a file, whose numbers come when they are asked for. */
export interface GgufTensor extends TensorForm {
  /** Rows that have to be asked for together. Default 1. */
  readonly together?: number;
  /** Rows from `start` as float32 (count, width): the last size is the width, all others count as rows. In the caller's scope. */
  rows(start: number, count: number): Tensor;
}

/** Tells how many bytes of the file are written, or read back. */
export type GgufProgress = (done: number) => void;

/** Numbers in memory at once, in float32. */
const PIECE_NUMBERS = 1 << 24;
const READ_BYTES = 1 << 22;

/** Bytes of the file that these key-values and tensors make. */
export function ggufBytes(metadata: GgufMetadata, tensors: ReadonlyMap<string, TensorForm>): number {
  return planGguf(metadata, tensors).bytes;
}

/**
 * Writes a new file and reads it back.
 *
 * @throws UserError for a tensor with a number that is not finite, or too large for its type
 */
export function writeGguf(
  path: string,
  metadata: GgufMetadata,
  tensors: ReadonlyMap<string, GgufTensor>,
  { onWrite, onVerify }: { readonly onWrite?: GgufProgress; readonly onVerify?: GgufProgress } = {},
): void {
  const plan = planGguf(metadata, tensors);
  const digests = new Map<string, string>();
  const file = openSync(path, 'wx');
  try {
    writeAll(file, plan.header, 0);
    for (const [name, tensor] of tensors) {
      const placed = plan.tensors.get(name)!;
      digests.set(name, writeTensor(file, name, tensor, placed, onWrite));
    }
    writeAll(file, new Uint8Array(plan.bytes - endOf(plan)), endOf(plan));
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  verify(path, metadata, plan, digests, onVerify);
}

const endOf = ({ header, tensors }: GgufPlan): number => {
  const last = [...tensors.values()].at(-1);
  return last === undefined ? header.length : last.offset + last.bytes;
};

function writeAll(file: number, bytes: Uint8Array, position: number): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done, bytes.length - done, position + done);
}

/** Writes a tensor's rows; returns their SHA-256. */
function writeTensor(
  file: number,
  name: string,
  tensor: GgufTensor,
  { offset, bytes: all }: PlacedTensor,
  onWrite: GgufProgress | undefined,
): string {
  const width = tensor.shape.at(-1) ?? 1;
  const count = tensor.shape.slice(0, -1).reduce((product, size) => product * size, 1);
  const { together = 1 } = tensor;
  const most = Math.max(1, Math.floor(PIECE_NUMBERS / width / together)) * together;
  const hash = createHash('sha256');
  let done = 0;
  for (let start = 0; start < count; start += most) {
    const piece = scope(() => {
      const rows = tensor.rows(start, Math.min(most, count - start));
      return bytesOfRows(ops.reshape(rows, [-1, width]), tensor.type, name);
    });
    writeAll(file, piece, offset + done);
    hash.update(piece);
    done += piece.length;
    onWrite?.(offset + done);
  }
  assert.equal(done, all, `the rows of ${name} are not those of its shape`);
  return hash.digest('hex');
}

const DTYPES = { f32: 'float32', f16: 'float16', bf16: 'bfloat16' } as const;
const isPlain = (type: TensorType): type is keyof typeof DTYPES => Object.hasOwn(DTYPES, type);
/** The largest number of float16, in which scales of blocks are stored, too. */
const MOST = 65504;

function bytesOfRows(rows: Tensor, type: TensorType, name: string): Uint8Array {
  const most = ops.maxAll(ops.abs(rows)).item();
  if (!Number.isFinite(most))
    throw new UserError(`Expected finite numbers in ${name} but received ${most}.`, {
      cure: 'The weights are damaged: export an earlier checkpoint.',
    });
  if (type !== 'f32' && type !== 'bf16' && most > MOST)
    throw new UserError(`Expected numbers of at most ${MOST} in ${name} for ${type} but received ${most}.`, {
      flag: '--outtype',
      cure: 'Give --outtype bf16 or f32.',
    });
  const encoded = isPlain(type) ? ops.to(rows, DTYPES[type]) : ops.ggmlQuantize(rows, type);
  const bytes = new Uint8Array(encoded.nbytes);
  ops.contiguous(encoded).readBytes(0, bytes);
  return bytes;
}

function verify(
  path: string,
  metadata: GgufMetadata,
  plan: GgufPlan,
  digests: ReadonlyMap<string, string>,
  onVerify: GgufProgress | undefined,
): void {
  const header = readGguf(path);
  const differs = (what: string): UserError =>
    new UserError(`Expected the written file to be read back as it was written but ${what} differs.`, {
      file: path,
      cure: 'The disk or its file system may be damaged: export to another disk.',
    });
  const planned = planGguf(header.metadata, header.tensors);
  if (!Buffer.from(planned.header).equals(plan.header) || metadata.size !== header.metadata.size)
    throw differs('its header');
  if (header.bytes !== plan.bytes) throw differs('its size');
  const file = openSync(path, 'r');
  const buffer = new Uint8Array(READ_BYTES);
  try {
    for (const [name, { offset, bytes }] of header.tensors) {
      const hash = createHash('sha256');
      hashRange(file, hash, { offset, bytes }, buffer);
      if (hash.digest('hex') !== digests.get(name)) throw differs(name);
      onVerify?.(offset + bytes);
    }
  } finally {
    closeSync(file);
  }
}

function hashRange(
  file: number,
  hash: Hash,
  { offset, bytes }: Pick<PlacedTensor, 'offset' | 'bytes'>,
  buffer: Uint8Array,
): void {
  for (let done = 0; done < bytes; ) {
    const count = readSync(file, buffer, 0, Math.min(buffer.length, bytes - done), offset + done);
    if (count === 0) return;
    hash.update(buffer.subarray(0, count));
    done += count;
  }
}
