/**
 * Packs records into sequences of bounded length. Next fit, in the order in which they come: the order stays the
 * sampler's, and which records share a sequence is random, so a sequence says nothing about its records.
 *
 * Not here: which sequences make up which step (sampler.ts), tensors (collate.ts). A record longer than a sequence is one by itself.
 */

export interface Packing {
  /** Length of every record in tokens, or an estimate of it. */
  readonly lengths: Uint32Array;
  /** Tokens of a sequence. */
  readonly capacity: number;
  /** Epochs of which none has more sequences than its steps have room for; absent: 1. */
  readonly epochs?: number;
}

/**
 * The start of each sequence in `order`, and at the end the number of records: shape (sequences + 1). At least `least` sequences come of
 * as many records or more; for that, the sequences with the most records are cut in halves.
 */
export function packOrder(order: Uint32Array, { lengths, capacity }: Packing, least: number): Uint32Array {
  const starts = [0];
  let filled = 0;
  order.forEach((record, i) => {
    const length = lengths[record]!;
    if (filled + length > capacity && i > starts.at(-1)!) {
      starts.push(i);
      filled = 0;
    }
    filled += length;
  });
  starts.push(order.length);
  while (starts.length - 1 < Math.min(least, order.length)) cutLargest(starts);
  return Uint32Array.from(starts);
}

function cutLargest(starts: number[]): void {
  const size = (i: number): number => starts[i + 1]! - starts[i]!;
  let largest = 0;
  for (let i = 1; i < starts.length - 1; i++) if (size(i) > size(largest)) largest = i;
  starts.splice(largest + 1, 0, starts[largest]! + (size(largest) >> 1));
}
