/**
 * Who holds and writes which numbers of a file's tensors. All ranks of a run name the same tensors; each holds all numbers of a tensor,
 * a range of them, or none. Not here: the writing (tensor-files.ts).
 */
import { ops, type Tensor, type TensorKind } from '@minicpm-finetune/torch';
import type { Sharding } from '../parallel/sharding.js';

/** A tensor of a file, and the numbers of it that this process holds: `length` from `start`, row-major. */
export interface HeldTensor extends TensorKind {
  readonly start: number;
  readonly length: number;
  /** Some of the numbers held, counted from the tensor's own first one; in the caller's scope. */
  read(start: number, length: number): Tensor;
}

/** Numbers from `start` of a tensor of this shape, which `numbers` holds in row-major order, whatever its own shape. In the caller's scope. */
export function heldRange(shape: readonly number[], start: number, numbers: Tensor): HeldTensor {
  const read = (from: number, length: number): Tensor =>
    ops.narrow(ops.reshape(ops.detach(numbers), [-1]), 0, from - start, length);
  return { dtype: numbers.dtype, shape, start, length: numbers.numel, read };
}

/** A tensor that this process holds as a whole. In the caller's scope. */
function heldWhole(tensor: Tensor): HeldTensor {
  return heldRange(tensor.shape, 0, tensor);
}

/** A tensor of which this process holds nothing. */
export function heldElsewhere({ dtype, shape }: TensorKind): HeldTensor {
  const read = (): Tensor => {
    throw new Error('Expected numbers that this process holds but it holds none of this tensor');
  };
  return { dtype, shape, start: 0, length: 0, read };
}

/** How this process holds a weight: as a whole, unless ranks share it. */
export function heldWeight(tensor: Tensor, sharding: Sharding | null): HeldTensor {
  const shard = sharding?.heldOf(tensor);
  if (shard === undefined) return heldWhole(tensor);
  return shard === null ? heldElsewhere(tensor) : heldRange(tensor.shape, shard.segment.start, shard.data);
}

/** A range that a rank writes. */
export interface Piece {
  readonly name: string;
  readonly start: number;
  readonly length: number;
}

/** What a rank holds of a tensor. */
export interface Claim {
  readonly start: number;
  readonly length: number;
}

/** Pieces begin at multiples of this, so that neighbours on the disk rarely belong to two ranks. */
const ALIGNMENT = 4096;

/**
 * Deals the numbers of a tensor to the ranks that hold them: each number to one rank. Ranks that hold the same range share it evenly, those
 * that see the folder before others.
 *
 * @param claims by rank
 * @param sees by rank, whether it can write the file itself
 * @returns a piece for each rank, which may be empty
 * @throws Error when nobody holds some of the numbers, or two ranks hold ranges that overlap without being the same
 */
export function dealOut(name: string, numbers: number, claims: readonly Claim[], sees: readonly boolean[]): Piece[] {
  const pieces = claims.map(() => ({ name, start: 0, length: 0 }));
  let next = 0;
  const ranges = new Map<number, number[]>();
  claims.forEach(({ start, length }, rank) => {
    if (length > 0) ranges.set(start, [...(ranges.get(start) ?? []), rank]);
  });
  for (const [start, holders] of [...ranges].sort(([a], [b]) => a - b)) {
    const { length } = claims[holders[0]!]!;
    const other = holders.find((rank) => claims[rank]!.length !== length);
    if (start !== next || other !== undefined)
      throw new Error(
        `Expected the ranks to hold all of ${name} once but rank ${other ?? holders[0]} holds ${claims[other ?? holders[0]!]!.length} numbers from ${start}, and those before end at ${next}`,
      );
    const seeing = holders.filter((rank) => sees[rank]);
    const writers = seeing.length > 0 ? seeing : holders.slice(0, 1);
    const share = Math.ceil(length / writers.length / ALIGNMENT) * ALIGNMENT;
    writers.forEach((rank, i) => {
      const from = Math.min(i * share, length);
      pieces[rank] = { name, start: start + from, length: Math.min((i + 1) * share, length) - from };
    });
    next += length;
  }
  if (next !== numbers)
    throw new Error(`Expected the ranks to hold the ${numbers} numbers of ${name} but they hold ${next}`);
  return pieces;
}

/** A piece in pieces of at most `most` numbers. */
export function* inPieces({ name, start, length }: Piece, most: number): Generator<Piece> {
  for (let done = 0; done < length; done += most)
    yield { name, start: start + done, length: Math.min(most, length - done) };
}
