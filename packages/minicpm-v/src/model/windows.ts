/**
 * Windows of 2x2 patches. Neighbours of a grid are brought together, so that they can attend to one another or become
 * one. In a window: upper row first, from the left. Shapes: N pictures, n patches, D width, W windows, n = 4 W.
 */
import { fromTypedArray, ops, type Tensor } from '@minicpm-finetune/torch';
import type { Grid, PictureGroup } from './patches.js';

/** Patches of a window. */
export const WINDOW = 4;

/** The grid of windows of a grid of patches, whose sides are even. */
export function mergedGrid({ rows, cols }: Grid): Grid {
  return { rows: rows / 2, cols: cols / 2 };
}

/** Patches x (N, n, D) of one shape, or packed ones (1, n, D), by windows: (W of all, 4, D), window by window. */
export function windowsOf(
  x: Tensor,
  { rows, cols, lengths, pictures }: Omit<PictureGroup, 'pictures'> & { readonly pictures: readonly Grid[] },
): Tensor {
  const [N, n, D] = x.shape as [number, number, number];
  if (lengths !== undefined) {
    const order = fromTypedArray(windowOrder(pictures), [n], 'int64', x.device);
    return ops.reshape(ops.indexSelect(x, 1, order), [n / WINDOW, WINDOW, D]);
  }
  const grid = ops.reshape(x, [N, rows / 2, 2, cols / 2, 2, D]);
  return ops.reshape(ops.permute(grid, [0, 1, 3, 2, 4, 5]), [(N * n) / WINDOW, WINDOW, D]);
}

/** The places, in a row of grids one after the other, of the patches of each window. */
function windowOrder(grids: readonly Grid[]): BigInt64Array {
  const order = new BigInt64Array(grids.reduce((sum, { rows, cols }) => sum + rows * cols, 0));
  let [at, start] = [0, 0];
  for (const { rows, cols } of grids) {
    for (let row = 0; row < rows; row += 2)
      for (let col = 0; col < cols; col += 2)
        for (const patch of [row * cols + col, (row + 1) * cols + col])
          for (const next of [0, 1]) order[at++] = BigInt(start + patch + next);
    start += rows * cols;
  }
  return order;
}
