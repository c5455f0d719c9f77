/**
 * A sample's pictures as one PNG. Each image has a row with a heading: its overview first, then its slices in their grid,
 * exactly the pixels that the model sees, each with its number and size. Each video has a strip of its frames with their
 * times.
 */
import type { EncodedPicture } from '@minicpm-finetune/processor';
import sharp, { type OverlayOptions } from 'sharp';
import type { ShownImage, ShownVideo } from '../../data/image-grids.js';
import { drawLabel, type Label, LETTER } from './labels.js';

const GAP = 8;
const BACKGROUND = { r: 96, g: 96, b: 96 };
/** Narrower pictures get this much room, so that their labels do not meet. */
const LEAST_CELL = 9 * LETTER.width;
/** Room for headings above narrow pictures. */
const LEAST_WIDTH = 48 * LETTER.width;

/** Where an image or a video of a sample comes from. */
interface Info {
  /** Its file, or what stands for one. */
  readonly name: string;
  /** The turn that shows it, from 0, and who speaks. */
  readonly turn: number;
  readonly role: string;
}

export interface ImageInfo extends Info {
  /** Of the file, in pixels. */
  readonly size: { readonly width: number; readonly height: number };
  readonly shown: ShownImage;
}

export interface VideoInfo extends Info {
  readonly shown: ShownVideo;
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

/** PNG bytes. `images` and `videos` say which pictures belong to them and where they come from; there has to be at least one picture. */
export async function contactSheet(
  pictures: readonly EncodedPicture[],
  images: readonly ImageInfo[],
  videos: readonly VideoInfo[],
  patchSize: number,
): Promise<Buffer> {
  const rows = [
    ...images.map((info, i) => ({ heading: headingOf(i, info), row: imageRow(pictures, info.shown, patchSize) })),
    ...videos.map((info, i) => ({ heading: videoHeading(i, info), row: videoRow(pictures, info.shown, patchSize) })),
  ];
  const { overlays, width, height } = await layOut(rows, patchSize);
  return sharp({ create: { width, height, channels: 3, background: BACKGROUND } })
    .composite([...overlays])
    .removeAlpha()
    .png()
    .toBuffer();
}

/** The heading of an image. */
export function headingOf(number: number, { name, size, turn, role, shown: { grid } }: ImageInfo): string {
  const slices = grid === null ? 'not sliced' : `${grid.columns * grid.rows} slices, ${grid.columns} in a row`;
  return `image ${number}: ${name}, ${size.width}x${size.height}, turn ${turn} (${role}), ${slices}`;
}

function videoHeading(number: number, { name, turn, role, shown: { frames } }: VideoInfo): string {
  const times = `${frames[0]!.time.toFixed(2)}-${secondsOf(frames.at(-1)!.time)}`;
  const { grid } = frames[0]!;
  const slices = grid === null ? 'not sliced' : `${grid.columns * grid.rows} slices, ${grid.columns} in a row`;
  return `video ${number}: ${name}, turn ${turn} (${role}), ${frames.length} frames, ${times}, ${slices}`;
}

const secondsOf = (time: number): string => `${time.toFixed(2)} s`;

async function layOut(rows: readonly { heading: string; row: Row }[], patchSize: number): Promise<Sheet> {
  const width = Math.max(LEAST_WIDTH, ...rows.map(({ row }) => row.width));
  const overlays: OverlayOptions[] = [];
  let top = GAP;
  for (const { heading: text, row } of rows) {
    const heading = await drawLabel(text, width);
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
    for (const { text: label, left, top: below } of row.labels)
      overlays.push(overlayOf(await drawLabel(label, width), GAP + left, top + below));
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

/** A row that pictures are put into, each below its name and size. */
function newRow(
  pictures: readonly EncodedPicture[],
  patchSize: number,
): { row: Row; put: (number: number, name: string, left: number, top: number) => { width: number; height: number } } {
  const row: Row = { placed: [], labels: [], width: 0, height: 0 };
  const put = (number: number, name: string, left: number, top: number): { width: number; height: number } => {
    const picture = pictures[number]!;
    const { width, height } = pictureSize(picture, patchSize);
    row.labels.push({ text: name, left, top }, { text: `${width}x${height}`, left, top: top + LETTER.height });
    row.placed.push({ picture, left, top: top + 2 * LETTER.height });
    const cell = { width: Math.max(width, LEAST_CELL), height: height + 2 * LETTER.height };
    row.width = Math.max(row.width, left + cell.width);
    row.height = Math.max(row.height, top + cell.height);
    return cell;
  };
  return { row, put };
}

function imageRow(pictures: readonly EncodedPicture[], { grid, pictures: own }: ShownImage, patchSize: number): Row {
  const { row, put } = newRow(pictures, patchSize);
  const [first, ...slices] = own;
  const overview = put(first!, 'overview', 0, 0);
  const start = overview.width + 2 * GAP;
  let [left, top] = [start, 0];
  for (const [i, slice] of slices.entries()) {
    const cell = put(slice, `slice ${i + 1}`, left, top); // the slices of an image are of one size
    const last = (i + 1) % grid!.columns === 0;
    left = last ? start : left + cell.width + GAP;
    top = last ? top + cell.height + GAP : top;
  }
  return row;
}

/** Most pixels of a strip from left to right. */
const STRIP = 1600;

/** The frames in order, each with its time and followed by its slices; a full line is followed by the next one. */
function videoRow(pictures: readonly EncodedPicture[], { frames }: ShownVideo, patchSize: number): Row {
  const { row, put } = newRow(pictures, patchSize);
  let [left, top, lineHeight] = [0, 0, 0];
  for (const { time, pictures: own } of frames) {
    for (const [i, number] of own.entries()) {
      const width = Math.max(pictureSize(pictures[number]!, patchSize).width, LEAST_CELL);
      if (left > 0 && left + width > STRIP) {
        top += lineHeight + GAP;
        [left, lineHeight] = [0, 0];
      }
      const cell = put(number, i === 0 ? secondsOf(time) : `slice ${i}`, left, top);
      left += cell.width + GAP;
      lineHeight = Math.max(lineHeight, cell.height);
    }
  }
  return row;
}
