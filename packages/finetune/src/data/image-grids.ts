/**
 * Which pictures of a sample belong together. To one image, or to one frame of a video, as its tokens tell: a sample
 * lists overviews and slices one after the other.
 */
import type { EncodedSample, Tokenizer } from '@minicpm-finetune/processor';

/** Columns and rows of an image's slices; null: an overview only. */
export type ImageGrid = { readonly columns: number; readonly rows: number } | null;

/** What the grids are read from. */
export type Shown = Pick<EncodedSample, 'inputIds' | 'imageBounds' | 'groups' | 'videos'>;

/** An image. */
export interface ShownImage {
  readonly grid: ImageGrid;
  /** Numbers of its pictures: the overview, then the slices row by row. */
  readonly pictures: readonly number[];
}

/** A video. */
export interface ShownVideo {
  /** Each with its time in seconds. */
  readonly frames: readonly (ShownImage & { readonly time: number })[];
}

/** The images and videos of a sample, each kind in order. */
export function shownMedia(sample: Shown, tokenizer: Tokenizer): { images: ShownImage[]; videos: ShownVideo[] } {
  const { imageBounds, videos = [] } = sample;
  const groups = sample.groups ?? imageBounds.map(() => 1);
  const starts = [0];
  for (const count of groups) starts.push(starts.at(-1)! + count);
  const all = gridsOf(sample, tokenizer);
  /** Pictures of one frame of a group: in each range of the group it has its own place. */
  const picturesOf = ({ first, grid }: Found, place: number): number[] => {
    const ranges = 1 + (grid === null ? 0 : grid.columns * grid.rows);
    return Array.from({ length: ranges }, (_, k) => starts[first + k]! + place);
  };
  const inVideo = ({ first }: Found): number => videos.findIndex(({ bounds: [a, b] }) => a <= first && first < b);
  const images = all.filter((one) => inVideo(one) === -1);
  return {
    images: images.map((one) => ({ grid: one.grid, pictures: picturesOf(one, 0) })),
    videos: videos.map(({ times }, number) => {
      const frames = all
        .filter((one) => inVideo(one) === number)
        .flatMap((one) =>
          Array.from({ length: groups[one.first]! }, (_, place) => ({
            grid: one.grid,
            pictures: picturesOf(one, place),
          })),
        );
      return { frames: frames.map((frame, i) => ({ ...frame, time: times[i]! })) };
    }),
  };
}

interface Found {
  /** The range of its overview. */
  readonly first: number;
  readonly grid: ImageGrid;
}

/**
 * A picture is a slice if a slice mark is open before it: in the newer schema there is one around each slice, in the older one around all of an
 * image. Only marks stand between slices of a row; a newline ends it.
 */
function gridsOf(sample: Shown, tokenizer: Tokenizer): Found[] {
  const open = tokenizer.requireId(tokenizer.imageTokens.sliceStart);
  const close = tokenizer.requireId(tokenizer.imageTokens.sliceEnd);
  const images: { first: number; slices: number; rows: number }[] = [];
  let depth = 0;
  let at = 0;
  for (const [number, [start, end]] of sample.imageBounds.entries()) {
    const between = start - at;
    for (; at < start; at++) {
      if (sample.inputIds[at] === open) depth++;
      else if (sample.inputIds[at] === close) depth--;
    }
    const image = images.at(-1);
    if (depth > 0 && image) {
      if (image.slices === 0 || between > MARKS_BETWEEN_SLICES) image.rows++;
      image.slices++;
    } else {
      images.push({ first: number, slices: 0, rows: 0 });
    }
    at = end;
  }
  return images.map(({ first, slices, rows }) => ({
    first,
    grid: slices === 0 ? null : { columns: slices / rows, rows },
  }));
}

/** The end of one slice and the start of the next. */
const MARKS_BETWEEN_SLICES = 2;
