/**
 * Pictures cut into patches, in groups of one shape. Groups need no padding. Pictures of one shape share a group (all
 * slices of one image have one shape), so neither padding nor attention masks exist, whatever the sizes in a batch.
 *
 * Not here: slicing and resizing (image/), the towers (siglip.ts, timm-vit.ts).
 */
import { linear, Module, ops, type Parameter, type Tensor } from '@minicpm-finetune/torch';

/** One picture or slice. */
export interface Picture {
  /**
   * [3, patch, patch * rows * cols] (a strip of patches, row by row) or [3, H, W]: RGB bytes as they were encoded, or floats that are
   * normalised already
   */
  readonly pixels: Tensor;
  /** Size in patches. */
  readonly rows: number;
  readonly cols: number;
}

/** Pictures that go through the tower as one batch. */
export interface PictureGroup {
  readonly pictures: readonly Picture[];
  /** Size of the grid that gives patches their positions. */
  readonly rows: number;
  readonly cols: number;
}

/** Patches of a picture of full size, 448 px. */
const FULL_PICTURE = 1024;

/** Indices of the pictures of each shape, shapes in the order they first occur. */
export function groupByShape(pictures: readonly Picture[]): number[][] {
  const groups = new Map<string, number[]>();
  pictures.forEach(({ rows, cols }, i) => {
    const shape = `${rows}x${cols}`;
    const group = groups.get(shape);
    if (group === undefined) groups.set(shape, [i]);
    else group.push(i);
  });
  return [...groups.values()];
}

/** Splits a list of pictures of `patches` patches each so that no part has more patches than `batchSize` pictures of full size. */
export function split(indices: readonly number[], patches: number, batchSize: number): number[][] {
  const count = Math.max(1, Math.floor((batchSize * FULL_PICTURE) / patches));
  const parts = Math.ceil(indices.length / count);
  return Array.from({ length: parts }, (_, i) => indices.slice(i * count, (i + 1) * count));
}

/** (N, length, 3 * patch * patch), values in the order channel, row, column; shorter pictures are padded with zeros at the end. */
function patchify(pictures: readonly Picture[], patch: number, length: number): Tensor {
  return ops.stack(
    pictures.map((picture) => {
      const pixels = normalised(picture.pixels);
      const [C, H, W] = pixels.shape as [number, number, number];
      const down = Math.ceil(H / patch);
      const across = Math.ceil(W / patch);
      const whole =
        H % patch === 0 && W % patch === 0
          ? pixels
          : ops.constantPadNd(pixels, [0, across * patch - W, 0, down * patch - H]);
      const grid = ops.permute(ops.reshape(whole, [C, down, patch, across, patch]), [1, 3, 0, 2, 4]);
      const rows = ops.reshape(grid, [down * across, C * patch * patch]);
      return down * across === length ? rows : ops.constantPadNd(rows, [0, 0, 0, length - down * across]);
    }),
  );
}

/** (x / 255 - 0.5) / 0.5 in float32 of bytes, as the reference's ToTensor and Normalize compute it; floats pass. */
function normalised(pixels: Tensor): Tensor {
  if (pixels.dtype !== 'uint8') return pixels;
  return ops.divScalar(ops.addScalar(ops.divScalar(ops.to(pixels, 'float32'), 255), -0.5), 0.5);
}

/** Linear map of every patch: the convolution with stride = kernel = patch, whose weight it has. */
export class PatchEmbedding extends Module {
  readonly weight: Parameter;
  readonly bias: Parameter;

  constructor(
    readonly dim: number,
    readonly patch: number,
  ) {
    super();
    this.weight = this.parameter('weight', [dim, 3, patch, patch]);
    this.bias = this.parameter('bias', [dim]);
  }

  /** (N, length, dim) in the type of the weights. */
  forward(pictures: readonly Picture[], length: number): Tensor {
    const weight = this.weight.data;
    const patches = ops.to(patchify(pictures, this.patch, length), weight.dtype);
    return linear(patches, ops.reshape(weight, [this.dim, 3 * this.patch * this.patch]), this.bias.data);
  }
}
