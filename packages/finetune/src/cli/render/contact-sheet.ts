/**
 * A sample's pictures as one PNG. Each image has a row: its overview first, then its slices in their grid, exactly the
 * pixels that the model sees.
 */
import type { EncodedPicture } from '@minicpm-finetune/processor';
import sharp, { type OverlayOptions } from 'sharp';
import type { ImageGrid } from '../../data/image-grids.js';

const GAP = 8;
const BACKGROUND = { r: 96, g: 96, b: 96 };

interface Placed {
  readonly picture: EncodedPicture;
  readonly left: number;
  readonly top: number;
}

/** PNG bytes. `grids` are those of the images to which the pictures belong, in order; there has to be at least one picture. */
export async function contactSheet(
  pictures: readonly EncodedPicture[],
  grids: readonly ImageGrid[],
  patchSize: number,
): Promise<Buffer> {
  const placed = place(pictures, grids, patchSize);
  const width = GAP + Math.max(...placed.map(({ picture, left }) => left + size(picture, patchSize).width));
  const height = GAP + Math.max(...placed.map(({ picture, top }) => top + size(picture, patchSize).height));
  const overlays = placed.map(({ picture, left, top }): OverlayOptions => {
    return {
      input: Buffer.from(interleaved(picture, patchSize)),
      raw: { ...size(picture, patchSize), channels: 3 },
      left,
      top,
    };
  });
  return sharp({ create: { width, height, channels: 3, background: BACKGROUND } })
    .composite(overlays)
    .removeAlpha()
    .png()
    .toBuffer();
}

function size({ shape, rows, cols }: EncodedPicture, patchSize: number): { width: number; height: number } {
  if (isStrip({ shape, rows, cols }, patchSize)) return { width: cols * patchSize, height: rows * patchSize };
  return { width: shape[2], height: shape[1] };
}

/** Whether pixels are in patch layout, [3, patch, patch * rows * cols]. */
function isStrip({ shape, rows, cols }: Pick<EncodedPicture, 'shape' | 'rows' | 'cols'>, patchSize: number): boolean {
  return shape[1] === patchSize && shape[2] === patchSize * rows * cols;
}

/** RGB pixels, row by row. Shape: (height, width, 3). */
export function interleaved(picture: EncodedPicture, patchSize: number): Uint8Array {
  const { width, height } = size(picture, patchSize);
  const plane = width * height;
  const strip = isStrip(picture, patchSize);
  const rgb = new Uint8Array(plane * 3);
  for (let y = 0, to = 0; y < height; y++) {
    // In patch layout line i of all patches lies together: row y is line y % patch of patch row y / patch.
    const row = strip ? ((y % patchSize) * picture.rows + Math.floor(y / patchSize)) * width : y * width;
    for (let x = 0; x < width; x++) for (let c = 0; c < 3; c++) rgb[to++] = picture.pixels[c * plane + row + x]!;
  }
  return rgb;
}

function place(pictures: readonly EncodedPicture[], grids: readonly ImageGrid[], patchSize: number): Placed[] {
  const placed: Placed[] = [];
  let next = 0;
  let top = GAP;
  for (const grid of grids) {
    const overview = pictures[next++]!;
    const { width, height } = size(overview, patchSize);
    placed.push({ picture: overview, left: GAP, top });
    let bottom = top + height;
    for (let slice = 0; grid && slice < grid.columns * grid.rows; slice++) {
      const picture = pictures[next++]!;
      const cell = size(picture, patchSize); // the slices of an image are of one size
      const left = 3 * GAP + width + (slice % grid.columns) * (cell.width + GAP);
      const y = top + Math.floor(slice / grid.columns) * (cell.height + GAP);
      placed.push({ picture, left, top: y });
      bottom = Math.max(bottom, y + cell.height);
    }
    top = bottom + 2 * GAP;
  }
  return placed;
}
