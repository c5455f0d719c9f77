/**
 * Positions of tokens on a canvas (MiniCPM-V 4.7). A picture's tokens have a time, a row and a column: overview and
 * slices lie over each other on one canvas, frames of a video follow one another. Text advances all three at once.
 */
import { roundHalfEven } from '../image/geometry.js';
import type { CanvasMarks } from '../model-config.js';
import type { Range } from '../sample.js';

export interface CanvasText {
  readonly inputIds: ArrayLike<number>;
  /** Tokens of each picture, slice and frame, in order of the text. */
  readonly bounds: readonly Range[];
  /** Rows and columns of the tokens of each. */
  readonly grids: readonly (readonly [rows: number, columns: number])[];
  readonly marks: CanvasMarks;
}

/** A picture, slice or frame among the tokens. */
interface Crop {
  readonly start: number;
  readonly end: number;
  readonly rows: number;
  readonly columns: number;
}

/** An overview with its slices. */
interface Frame {
  readonly overview: Crop;
  readonly slices: Crop[];
  /** The first token after the frame and the marks that follow it. */
  end: number;
}

/**
 * Positions of a text with pictures.
 * @returns positionIds: (3 * L) times, rows and columns, each L long. delta: added to a token's index it gives the position of a generated token
 */
export function canvasPositions(text: CanvasText): { positionIds: Int32Array; delta: number } {
  const length = text.inputIds.length;
  const positionIds = new Int32Array(3 * length);
  let next = 0;
  let at = 0;
  const advanceTo = (end: number): void => {
    for (; at < end; at++, next++) for (let axis = 0; axis < 3; axis++) positionIds[axis * length + at] = next;
  };
  for (const frame of framesOf(text)) {
    advanceTo(frame.overview.start - 1);
    next = placeFrame(positionIds, length, frame, next);
    at = frame.end;
  }
  advanceTo(length);
  const largest = positionIds.reduce((most, position) => Math.max(most, position), -1);
  return { positionIds, delta: largest + 1 - length };
}

/** Overviews with their slices. A crop after a slice mark belongs to the frame before it. */
function framesOf({ inputIds, bounds, grids, marks }: CanvasText): Frame[] {
  const { imageStart, imageEnd, sliceStart, sliceEnd, newline } = marks;
  const isMark = (i: number): boolean =>
    [imageStart, imageEnd, sliceStart, sliceEnd, newline].includes(inputIds[i] as number);
  const frames: Frame[] = [];
  for (const [i, [start, end]] of bounds.entries()) {
    const crop = { start, end, rows: grids[i]![0], columns: grids[i]![1] };
    const open = frames.at(-1);
    if (open && inputIds[start - 1] === sliceStart) open.slices.push(crop);
    else frames.push({ overview: crop, slices: [], end });
  }
  for (const [i, frame] of frames.entries()) {
    const last = frame.slices.at(-1) ?? frame.overview;
    const until = frames[i + 1] ? frames[i + 1]!.overview.start - 1 : inputIds.length;
    frame.end = last.end;
    while (frame.end < until && isMark(frame.end)) frame.end++;
  }
  return frames;
}

/** How the slices of a frame lie: their columns, and rows and columns of the whole canvas in tokens. */
function canvasOf({ overview, slices }: Frame): { across: number; height: number; width: number } {
  const first = slices[0];
  if (first === undefined) return { across: 0, height: overview.rows, width: overview.columns };
  const gap = slices.findIndex((slice, i) => i > 0 && slice.start - slices[i - 1]!.end > MARKS_BETWEEN_SLICES);
  const across = gap === -1 || slices.length % gap !== 0 ? slices.length : gap;
  return { across, height: (slices.length / across) * first.rows, width: across * first.columns };
}

/** The end of one slice and the start of the next. */
const MARKS_BETWEEN_SLICES = 2;

/** Writes the positions of a frame whose first free one is `origin`; returns the next free one. */
function placeFrame(positionIds: Int32Array, length: number, frame: Frame, origin: number): number {
  const { overview, slices } = frame;
  const { across, height, width } = canvasOf(frame);
  const put = (token: number, row: number, column: number): void => {
    if (token < 0 || token >= length) return;
    positionIds[token] = origin;
    positionIds[length + token] = row;
    positionIds[2 * length + token] = column;
  };
  const fill = (crop: Crop, row: (r: number) => number, column: (c: number) => number): void => {
    for (let token = crop.start; token < crop.end; token++) {
      const offset = token - crop.start;
      put(token, row(Math.floor(offset / crop.columns)), column(offset % crop.columns));
    }
  };
  for (let token = overview.start; token < frame.end; token++) put(token, origin, origin);
  const before = Math.max(origin - 1, 0);
  put(overview.start - 1, before, before);
  const down = slices.length > 0 ? spread(height, overview.rows) : null;
  const right = slices.length > 0 ? spread(width, overview.columns) : null;
  fill(
    overview,
    (r) => origin + (down?.[r] ?? r),
    (c) => origin + (right?.[c] ?? c),
  );
  put(overview.end, origin + height, origin + width);
  for (const [k, slice] of slices.entries()) {
    const { rows, columns } = slices[0]!;
    const top = origin + Math.floor(k / across) * rows;
    const left = origin + (k % across) * columns;
    put(slice.start - 1, top, left);
    fill(
      slice,
      (r) => top + r,
      (c) => left + c,
    );
    put(slice.end, top + rows - 1, left + columns - 1);
    const next = slices[k + 1];
    if (next === undefined || next.start - slice.end <= MARKS_BETWEEN_SLICES) continue;
    const bottom = origin + (Math.floor(k / across) + 1) * rows - 1;
    for (let token = slice.end + 1; token < next.start - 1; token++) put(token, bottom, origin + width);
  }
  return origin + Math.max(height, width) + 1;
}

/** `count` whole numbers from 0 to `size` - 1 at even distances: torch.linspace in float32, rounded half to even. */
function spread(size: number, count: number): Int32Array {
  const end = size - 1;
  const step = count > 1 ? Math.fround(end / (count - 1)) : 0;
  return Int32Array.from({ length: count }, (_, i) => {
    const value =
      i < Math.trunc(count / 2) ? Math.fround(step * i) : Math.fround(end - Math.fround(step * (count - 1 - i)));
    return roundHalfEven(count === 1 ? 0 : value);
  });
}
