/**
 * Slicing geometry: overview and grid of slices. All sizes are whole patches. Numbers only, no pixels. LLaVA-UHD's
 * adaptive slicing (arXiv 2403.11703) as `slice_image` of the official data set code computes it, rounding included:
 * Python rounds halves to even and `int` truncates.
 */
import { exactLog } from './exact-log.js';

/** The three numbers that decide how pictures are cut; the names in camelCase of the official `slice_config`. */
export interface SliceConfig {
  maxSliceNums: number;
  scaleResolution: number;
  patchSize: number;
  /** What the sides of pictures and slices are multiples of, in pixels. Default: patchSize. */
  multiple?: number;
}

/** All sizes and boxes in pixels. */
export interface SlicePlan {
  /** Size of the overview picture. */
  source: [width: number, height: number];
  /** Columns and rows of the grid, or null when the picture is not cut. */
  grid: [columns: number, rows: number] | null;
  /** Size of the picture that is cut into the grid, or null. */
  refine: [width: number, height: number] | null;
  /** Half-open boxes in the refined picture, row by row. */
  boxes: Box[][];
}

export type Box = [left: number, top: number, right: number, bottom: number];
type Size = [width: number, height: number];

/** Rounds halves to the even neighbour, as Python's `round`. */
export function roundHalfEven(x: number): number {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

const sideMultiple = ({ multiple, patchSize }: SliceConfig): number => multiple ?? patchSize;

/** The multiple of `divisor` nearest to `length`, at least one. */
export function ensureDivide(length: number, divisor: number): number {
  return Math.max(roundHalfEven(length / divisor) * divisor, divisor);
}

/** Size of about `scaleResolution`² pixels with the given aspect ratio, in whole patches. */
export function findBestResize(
  [width, height]: Size,
  scaleResolution: number,
  patchSize: number,
  allowUpscale = false,
): Size {
  if (width * height > scaleResolution * scaleResolution || allowUpscale) {
    const ratio = width / height;
    height = Math.trunc(scaleResolution / Math.sqrt(ratio));
    width = Math.trunc(height * ratio);
  }
  return [ensureDivide(width, patchSize), ensureDivide(height, patchSize)];
}

/** Size of the picture that is cut into `grid`: every cell a best resize of its own. */
function refineSize([width, height]: Size, [columns, rows]: Size, config: SliceConfig): Size {
  const cell: Size = [ensureDivide(width, columns) / columns, ensureDivide(height, rows) / rows];
  const [cellWidth, cellHeight] = findBestResize(cell, config.scaleResolution, sideMultiple(config), true);
  return [cellWidth * columns, cellHeight * rows];
}

/** The grid of about `multiple` cells whose aspect ratio is nearest to the picture's; the first found wins ties. */
function bestGrid([width, height]: Size, multiple: number, maxSliceNums: number): Size {
  const logRatio = exactLog(width / height);
  let best: Size = [1, 1];
  let smallest = Number.POSITIVE_INFINITY;
  for (const cells of [multiple - 1, multiple, multiple + 1]) {
    if (cells === 1 || cells > maxSliceNums) continue;
    for (let columns = 1; columns <= cells; columns++) {
      if (cells % columns !== 0) continue;
      const rows = cells / columns;
      const error = Math.abs(logRatio - exactLog(columns / rows));
      if (error < smallest) {
        best = [columns, rows];
        smallest = error;
      }
    }
  }
  return best;
}

/** Boxes of a `grid` over a picture of `size`, row by row. */
function gridBoxes([width, height]: Size, [columns, rows]: Size): Box[][] {
  const cellWidth = Math.trunc(width / columns);
  const cellHeight = Math.trunc(height / rows);
  const boxes: Box[][] = [];
  for (let top = 0; top < height; top += cellHeight) {
    const row: Box[] = [];
    for (let left = 0; left < width; left += cellWidth) row.push([left, top, left + cellWidth, top + cellHeight]);
    boxes.push(row);
  }
  return boxes;
}

/**
 * Plans the overview and the slices of a picture.
 * @param size - width and height in pixels, both at least 1
 */
export function planSlices(size: Size, config: SliceConfig): SlicePlan {
  const { maxSliceNums, scaleResolution } = config;
  const unit = sideMultiple(config);
  const area = (size[0] * size[1]) / (scaleResolution * scaleResolution);
  const multiple = Math.min(Math.ceil(area), maxSliceNums);
  if (multiple <= 1) {
    return { source: findBestResize(size, scaleResolution, unit, true), grid: null, refine: null, boxes: [] };
  }
  const grid = bestGrid(size, multiple, maxSliceNums);
  const refine = refineSize(size, grid, config);
  return { source: findBestResize(size, scaleResolution, unit), grid, refine, boxes: gridBoxes(refine, grid) };
}
