/**
 * A sample's pictures as one PNG. Each image has a row with a heading: its overview first, then its slices in their grid,
 * exactly the pixels that the model sees, each with its number and size.
 */
import type { EncodedPicture } from '@minicpm-finetune/processor';
import sharp, { type OverlayOptions } from 'sharp';
import type { ImageGrid } from '../../data/image-grids.js';
import { drawLabel, type Label, LETTER } from './labels.js';

const GAP = 8;
const BACKGROUND = { r: 96, g: 96, b: 96 };
/** Narrower pictures get this much room, so that their labels do not meet. */
const LEAST_CELL = 9 * LETTER.width;
/** Room for headings above narrow pictures. */
const LEAST_WIDTH = 48 * LETTER.width;

/** Where an image of a sample comes from. */
export interface ImageInfo {
  /** Its file, or what stands for one. */
  readonly name: string;
  /** Of the file, in pixels. */
  readonly size: { readonly width: number; readonly height: number };
  /** The turn that shows it, from 0, and who speaks. */
  readonly turn: number;
  readonly role: string;
}

interface Placed {
  readonly picture: EncodedPicture;
  readonly left: number;
  readonly top: number;
}

interface Sheet {
  readonly overlays: readonly OverlayOptions[];
  readonly width: number;
  readonly height: number;
}

/**
 * PNG bytes. `grids` are those of the images to which the pictures belong, and `infos` say where these come from, both in order; there has
 * to be at least one picture.
 */
export async function contactSheet(
  pictures: readonly EncodedPicture[],
  grids: readonly ImageGrid[],
  infos: readonly ImageInfo[],
  patchSize: number,
): Promise<Buffer> {
  const { overlays, width, height } = await layOut(pictures, grids, infos, patchSize);
  return sharp({ create: { width, height, channels: 3, background: BACKGROUND } })
    .composite([...overlays])
    .removeAlpha()
    .png()
    .toBuffer();
}

/** The heading of an image. */
export function headingOf(number: number, { name, size, turn, role }: ImageInfo, grid: ImageGrid): string {
  const slices = grid === null ? 'not sliced' : `${grid.columns * grid.rows} slices, ${grid.columns} in a row`;
  return `image ${number}: ${name}, ${size.width}x${size.height}, turn ${turn} (${role}), ${slices}`;
}

async function layOut(
  pictures: readonly EncodedPicture[],
  grids: readonly ImageGrid[],
  infos: readonly ImageInfo[],
  patchSize: number,
): Promise<Sheet> {
  const rows = rowsOf(pictures, grids, patchSize);
  const width = Math.max(LEAST_WIDTH, ...rows.map((row) => row.width));
  const overlays: OverlayOptions[] = [];
  let top = GAP;
  for (const [i, row] of rows.entries()) {
    const heading = await drawLabel(headingOf(i, infos[i]!, grids[i]!), width);
    overlays.push(overlayOf(heading, GAP, top));
    top += heading.height + GAP;
    for (const { picture, left, top: below } of row.placed) {
      overlays.push({
        input: Buffer.from(interleaved(picture, patchSize)),
        raw: { ...pictureSize(picture, patchSize), channels: 3 },
        left: GAP + left,
        top: top + below,
      });
    }
    for (const { text, left, top: below } of row.labels)
      overlays.push(overlayOf(await drawLabel(text, width), GAP + left, top + below));
    top += row.height + 3 * GAP;
  }
  return { overlays, width: width + 2 * GAP, height: top };
}

const overlayOf = ({ data, width, height }: Label, left: number, top: number): OverlayOptions => ({
  input: Buffer.from(data.buffer, data.byteOffset, data.byteLength),
  raw: { width, height, channels: 4 },
  left,
  top,
});

/** The size of a picture that the model sees, in pixels. */
export function pictureSize(
  { shape, rows, cols }: EncodedPicture,
  patchSize: number,
): { width: number; height: number } {
  if (isStrip({ shape, rows, cols }, patchSize)) return { width: cols * patchSize, height: rows * patchSize };
  return { width: shape[2], height: shape[1] };
}

/** Whether pixels are in patch layout, [3, patch, patch * rows * cols]. */
function isStrip({ shape, rows, cols }: Pick<EncodedPicture, 'shape' | 'rows' | 'cols'>, patchSize: number): boolean {
  return shape[1] === patchSize && shape[2] === patchSize * rows * cols;
}

/** RGB pixels, row by row. Shape: (height, width, 3). */
export function interleaved(picture: EncodedPicture, patchSize: number): Uint8Array {
  const { width, height } = pictureSize(picture, patchSize);
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

/** The pictures of one image and their labels, from the row's own corner. */
interface Row {
  readonly placed: Placed[];
  readonly labels: { readonly text: string; readonly left: number; readonly top: number }[];
  width: number;
  height: number;
}

function rowsOf(pictures: readonly EncodedPicture[], grids: readonly ImageGrid[], patchSize: number): Row[] {
  let next = 0;
  return grids.map((grid) => {
    const row: Row = { placed: [], labels: [], width: 0, height: 0 };
    const put = (name: string, left: number, top: number): { width: number; height: number } => {
      const picture = pictures[next++]!;
      const { width, height } = pictureSize(picture, patchSize);
      row.labels.push({ text: name, left, top }, { text: `${width}x${height}`, left, top: top + LETTER.height });
      row.placed.push({ picture, left, top: top + 2 * LETTER.height });
      const cell = { width: Math.max(width, LEAST_CELL), height: height + 2 * LETTER.height };
      row.width = Math.max(row.width, left + cell.width);
      row.height = Math.max(row.height, top + cell.height);
      return cell;
    };
    const overview = put('overview', 0, 0);
    const start = overview.width + 2 * GAP;
    let [left, top] = [start, 0];
    for (let slice = 0; grid && slice < grid.columns * grid.rows; slice++) {
      const cell = put(`slice ${slice + 1}`, left, top); // the slices of an image are of one size
      const last = (slice + 1) % grid.columns === 0;
      left = last ? start : left + cell.width + GAP;
      top = last ? top + cell.height + GAP : top;
    }
    return row;
  });
}
