/** The part of a parameter that one process updates. Its optimizer state is of this part alone. */
import type { Parameter, Tensor } from '@minicpm-finetune/torch';

/** `length` numbers from `start` of a parameter of this shape, in row-major order. */
export interface Segment {
  readonly name: string;
  readonly shape: readonly number[];
  readonly start: number;
  readonly length: number;
}

/**
 * A segment and its numbers, in the parameter's type: in the parameter's shape where the segment is all of it, as rows of it where it is whole
 * rows of a table whose gradients are of rows, otherwise in one dimension. The tensor is the parameter's, or a piece of a flat buffer.
 */
export interface Shard {
  readonly segment: Segment;
  readonly data: Tensor;
}

export const numbersOf = (shape: readonly number[]): number => shape.reduce((count, size) => count * size, 1);

/** Every parameter as a segment of its own: what a process has that shares with nobody. */
export function wholeShards(parameters: ReadonlyMap<string, Parameter>): Map<string, Shard> {
  return new Map(
    [...parameters].map(([name, { shape, data }]) => [
      name,
      { segment: { name, shape, start: 0, length: numbersOf(shape) }, data },
    ]),
  );
}
