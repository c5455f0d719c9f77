/**
 * An RGB image to overview and slices for the vision tower. Resized, cut, and laid out in planes or in patches. Pixels
 * stay uint8; `normalize` is what the collator's tensor arithmetic must equal bit for bit.
 */
import { UserError } from '@minicpm-finetune/run';
import { type Box, planSlices, type SliceConfig } from './geometry.js';
import type { Size } from './jpeg.js';
import { type RgbImage, resizeBicubic } from './resize.js';

/** One picture of a sample: an overview or a slice. */
export interface EncodedPicture {
  /**
   * uint8 RGB planes. With `batchVision` in patch layout, `[3, patch, patch * rows * cols]`: all patches side by side,
   * row by row. Otherwise `[3, height, width]`.
   */
  pixels: Uint8Array;
  shape: [number, number, number];
  /** Size in whole patches (the official `tgt_sizes`). */
  rows: number;
  cols: number;
  /** Time of a frame in a video, in tenths of a second; absent: none. */
  temporalId?: number;
}

/** The result for one image. */
export interface SlicedImage {
  /** The overview first, then the slices row by row. */
  pictures: EncodedPicture[];
  /** Columns and rows of slices, or null when there is the overview only. */
  grid: [columns: number, rows: number] | null;
}

export interface PictureOptions {
  /** null: one picture of the image's own size. */
  sliceConfig: SliceConfig | null;
  patchSize: number;
  /** Patch layout (all models but MiniCPM-V-2). */
  batchVision: boolean;
}

/**
 * Copies `height` rows of `width` pixels, from (left, top) on, into three planes. Row y of the box goes to
 * `rowAt(y)` in each plane; a plane has `planeSize` bytes.
 */
function toPlanes(
  image: RgbImage,
  [left, top]: readonly number[],
  [width, height]: [number, number],
  planeSize: number,
  rowAt: (y: number) => number,
): Uint8Array {
  const { data } = image;
  const planes = new Uint8Array(3 * planeSize);
  for (let y = 0; y < height; y++) {
    let from = ((top! + y) * image.width + left!) * 3;
    const to = rowAt(y);
    for (let x = to; x < to + width; x++, from += 3) {
      planes[x] = data[from]!;
      planes[x + planeSize] = data[from + 1]!;
      planes[x + 2 * planeSize] = data[from + 2]!;
    }
  }
  return planes;
}

/**
 * Cuts a box out of an image. In patch layout, a remainder smaller than a patch at the right and bottom is left out.
 * @returns pixels of shape `[3, patch, patch * rows * cols]` or `[3, height, width]`
 */
export function cutPicture(image: RgbImage, box: Box, patchSize: number, batchVision: boolean): EncodedPicture {
  const [left, top, right, bottom] = box;
  const [width, height] = [right - left, bottom - top];
  const [rows, cols] = [Math.floor(height / patchSize), Math.floor(width / patchSize)];
  if (!batchVision) {
    const pixels = toPlanes(image, box, [width, height], width * height, (y) => y * width);
    return { pixels, shape: [3, height, width], rows, cols };
  }
  // Line i of all patches lies together, patch after patch: row y = patchRow * patchSize + i of the image, whole.
  const rowBytes = cols * patchSize;
  const lineBytes = rows * rowBytes;
  const rowAt = (y: number) => (y % patchSize) * lineBytes + Math.floor(y / patchSize) * rowBytes;
  const pixels = toPlanes(image, box, [rowBytes, rows * patchSize], patchSize * lineBytes, rowAt);
  return { pixels, shape: [3, patchSize, lineBytes], rows, cols };
}

/** Rounding a thin picture up to whole patches may stretch it, but not to more than this many times a slice's pixels. */
const MOST_STRETCH = 2;

/** @throws UserError for an image that resizing would make much larger; for one that is to keep its size and is smaller than a patch */
export function checkShape({ width, height }: Size, { sliceConfig, patchSize, batchVision }: PictureOptions): void {
  if (sliceConfig) {
    const [w, h] = planSlices([width, height], sliceConfig).source;
    const most = MOST_STRETCH * sliceConfig.scaleResolution ** 2;
    if (w * h <= most) return;
    throw new UserError(
      `Expected a picture that resizing leaves below ${most} pixels but received one of ${width}x${height}, which would become ${w}x${h} = ${w * h}.`,
      { flag: '--scale_resolution', cure: 'Crop the picture or pad it: it is too thin to be seen.' },
    );
  }
  if (!batchVision || Math.min(width, height) >= patchSize) return;
  throw new UserError(
    `Expected an image of at least ${patchSize}x${patchSize} pixels but received ${width}x${height}.`,
    { cure: 'Make the image larger, or let the model slice images (slice_mode), which resizes them.' },
  );
}

/** Slices, resizes and lays out one image. Throws a UserError for one that `checkShape` refuses when it is to keep its size. */
export function encodeImage(image: RgbImage, options: PictureOptions): SlicedImage {
  const { sliceConfig, patchSize, batchVision } = options;
  const whole = (picture: RgbImage): EncodedPicture =>
    cutPicture(picture, [0, 0, picture.width, picture.height], patchSize, batchVision);
  if (!sliceConfig) {
    checkShape(image, options);
    return { pictures: [whole(image)], grid: null };
  }
  const plan = planSlices([image.width, image.height], sliceConfig);
  const pictures = [whole(resizeBicubic(image, ...plan.source))];
  if (plan.refine) {
    const refined = resizeBicubic(image, ...plan.refine);
    for (const box of plan.boxes.flat()) pictures.push(cutPicture(refined, box, patchSize, batchVision));
  }
  return { pictures, grid: plan.grid };
}

const NORMALIZED = Float32Array.from({ length: 256 }, (_, x) => Math.fround(Math.fround(x / 255) - 0.5) / 0.5);

/** (x / 255 - 0.5) / 0.5, rounded to float32 after each step as the reference does. */
export function normalize(pixels: Uint8Array): Float32Array {
  return Float32Array.from(pixels, (x) => NORMALIZED[x]!);
}
