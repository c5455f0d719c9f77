/** Rows of weights of the image encoder. Writers of tensors ask for them a few at a time. */
import { ops, type Tensor } from '@minicpm-finetune/torch';
import type { MergedWeights } from './merged-weights.js';
import type { GgufTensor } from './writer.js';

/** Rows of a weight, or of a part of it: vectors are one row, kernels of more sizes have one row for each but the last. */
export function rowsIn(weights: MergedWeights, name: string, from = 0, size?: number): GgufTensor['rows'] {
  const shape = weights.shapes.get(name)!;
  if (shape.length === 1) {
    const length = size ?? shape[0]!;
    return () => ops.reshape(weights.rows(name, from, length), [1, length]);
  }
  if (shape.length === 2) return (start, count) => weights.rows(name, from + start, count);
  const width = shape.at(-1)!;
  return (start, count): Tensor =>
    ops.narrow(ops.reshape(weights.rows(name, 0, shape[0]!), [-1, width]), 0, start, count);
}
