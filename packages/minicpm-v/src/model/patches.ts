/**
 * Pictures cut into patches, in groups of one shape. Groups need no padding. Pictures of one shape share a group (all
 * slices of one image have one shape), so neither padding nor attention masks exist, whatever the sizes in a batch.
 *
 * Not here: slicing and resizing (image/), the towers (siglip.ts, timm-vit.ts).
 */
import { linear, Module, ops, type Parameter, type Tensor } from '@minicpm-finetune/torch';

/** A grid of patches. */
export interface Grid {
  readonly rows: number;
  readonly cols: number;
}

/** One picture or slice, with its size in patches. */
export interface Picture extends Grid {
  /**
   * [3, patch, patch * rows * cols] (a strip of patches, row by row) or [3, H, W]: RGB bytes as they were encoded, or floats that are
   * normalised already
   */
  readonly pixels: Tensor;
  /** Time of a frame in a video, in tenths of a second; absent: none. */
  readonly temporalId?: number;
}

/** Pictures that go through the tower as one batch, with the grid that gives patches their positions (packed: one row of all patches). */
export interface PictureGroup extends Grid {
  readonly pictures: readonly Picture[];
  /**
   * Packed: the pictures lie one after the other in a batch of one row, these are their patches, and each has the positions of its own grid.
   * Absent: a picture a row.
   */
  readonly lengths?: readonly number[];
}

/** Patches of a picture of full size, 448 px. */
const FULL_PICTURE = 1024;

/** Indices of the pictures of each shape, shapes in the order they first occur. */
export function groupByShape(pictures: readonly Grid[]): number[][] {
  const groups = new Map<string, number[]>();
  pictures.forEach(({ rows, cols }, i) => {
    const shape = `${rows}x${cols}`;
    const group = groups.get(shape);
    if (group === undefined) groups.set(shape, [i]);
    else group.push(i);
  });
  return [...groups.values()];
}

/** A list cut into pieces of these sizes, one after the other. */
export function piecesOf<T>(items: readonly T[], sizes: readonly number[]): T[][] {
  let next = 0;
  return sizes.map((size) => {
    next += size;
    return items.slice(next - size, next);
  });
}

/** Splits a list of pictures of `patches` patches each so that no part has more patches than `batchSize` pictures of full size. */
export function split(indices: readonly number[], patches: number, batchSize: number): number[][] {
  const count = Math.max(1, Math.floor((batchSize * FULL_PICTURE) / patches));
  const parts = Math.ceil(indices.length / count);
  return Array.from({ length: parts }, (_, i) => indices.slice(i * count, (i + 1) * count));
}

/** Puts pictures, in order, into rows of at most `batchSize` pictures' patches of full size; a larger picture has a row of its own. */
export function rowsOfPictures(lengths: readonly number[], batchSize: number): number[][] {
  const rows: number[][] = [];
  let room = 0;
  for (const [i, length] of lengths.entries()) {
    if (rows.length === 0 || length > room) {
      rows.push([]);
      room = batchSize * FULL_PICTURE;
    }
    rows.at(-1)!.push(i);
    room -= length;
  }
  return rows;
}

/** [3, H, W] to (patches, 3 * patch * patch), row by row, values in the order channel, row, column. */
function patchesOf(given: Tensor, patch: number): Tensor {
  const pixels = normalised(given);
  const [C, H, W] = pixels.shape as [number, number, number];
  const down = Math.ceil(H / patch);
  const across = Math.ceil(W / patch);
  const whole =
    H % patch === 0 && W % patch === 0
      ? pixels
      : ops.constantPadNd(pixels, [0, across * patch - W, 0, down * patch - H]);
  const grid = ops.permute(ops.reshape(whole, [C, down, patch, across, patch]), [1, 3, 0, 2, 4]);
  return ops.reshape(grid, [down * across, C * patch * patch]);
}

/** (N, length, 3 * patch * patch); shorter pictures are padded with zeros behind. */
function patchify(pictures: readonly Picture[], patch: number, length: number): Tensor {
  return ops.stack(
    pictures.map(({ pixels }) => {
      const rows = patchesOf(pixels, patch);
      return rows.size(0) === length ? rows : ops.constantPadNd(rows, [0, 0, 0, length - rows.size(0)]);
    }),
  );
}

/** (1, patches of all pictures, 3 * patch * patch). Strips of patches are joined first, so that all are cut at once. */
function patchifyPacked(pictures: readonly Picture[], patch: number): Tensor {
  const pixels = pictures.map((picture) => picture.pixels);
  const strips = pixels.every((x) => x.size(1) === patch && x.size(2) % patch === 0 && x.dtype === pixels[0]!.dtype);
  const rows = strips ? patchesOf(ops.cat(pixels, 2), patch) : ops.cat(pixels.map((x) => patchesOf(x, patch)));
  return ops.unsqueeze(rows, 0);
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

  readonly dim: number;
  readonly patch: number;

  constructor(dim: number, patch: number) {
    super();
    this.dim = dim;
    this.patch = patch;
    this.weight = this.parameter('weight', [dim, 3, patch, patch]);
    this.bias = this.parameter('bias', [dim]);
  }

  /** (N, patches, dim), N = 1 for a packed group, in the type of the weights. */
  forward({ pictures, rows, cols, lengths }: PictureGroup): Tensor {
    const weight = this.weight.data;
    const pixels = lengths ? patchifyPacked(pictures, this.patch) : patchify(pictures, this.patch, rows * cols);
    const patches = ops.to(pixels, weight.dtype);
    return linear(patches, ops.reshape(weight, [this.dim, 3 * this.patch * this.patch]), this.bias.data);
  }
}
