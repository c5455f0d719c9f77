/**
 * Packed sequences that begin with the same tokens. These are in the row once. What mixes positions sees each sequence
 * whole; everything else is computed once for what is shared. Exact: equal tokens at equal positions are equal.
 */
import { fromTypedArray, ops, type Tensor } from '@minicpm-finetune/torch';

/** Of x (1, L, …) the sequences one after the other: (1, L', …). `rows` (L') are their tokens' places. */
export function spread(x: Tensor, rows: BigInt64Array): Tensor {
  return ops.indexSelect(x, 1, fromTypedArray(rows, [rows.length], 'int64', x.device));
}

/** Of y (1, L', …) each place of the row of `length` tokens once, from the first sequence that has it: (1, length, …). */
export function gathered(y: Tensor, rows: BigInt64Array, length: number): Tensor {
  const first = new BigInt64Array(length);
  for (let i = rows.length - 1; i >= 0; i--) first[Number(rows[i])] = BigInt(i);
  return ops.indexSelect(y, 1, fromTypedArray(first, [length], 'int64', y.device));
}
