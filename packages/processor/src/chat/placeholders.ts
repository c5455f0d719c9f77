/**
 * The text that stands for an image or a video in a prompt. Marks around one pad per token, for the overview and for
 * each slice. Two schemas: the older one (MiniCPM-V-2, 2.5) puts one pair of slice marks around rows of images, the
 * newer one marks each slice and can number the image. A video is its frames one after the other.
 */
import { IMAGE_TOKENS, type ImageTokens } from '../tokenizer.js';

export type SliceSchema = 'old' | 'new';

/** Columns and rows of an image's slices, or null. */
export type Grid = [columns: number, rows: number] | null;

export interface PlaceholderOptions {
  schema: SliceSchema;
  grid: Grid;
  /** The text between the marks of each picture. */
  features: string;
  /** Number of the image, or undefined for none. */
  imageId?: number | undefined;
  /** Default: the tokens of all models. */
  marks?: ImageTokens;
}

/** The placeholder of one image. */
export function imagePlaceholder(options: PlaceholderOptions): string {
  const { schema, grid, features, imageId, marks = IMAGE_TOKENS } = options;
  const overview = `${marks.imageStart}${features}${marks.imageEnd}`;
  const id = numberText(imageId, marks);
  if (!grid) return id + overview;
  const slice = schema === 'new' ? `${marks.sliceStart}${features}${marks.sliceEnd}` : overview;
  const [columns, rows] = grid;
  const slices = Array.from({ length: rows }, () => slice.repeat(columns)).join('\n');
  return id + overview + (schema === 'new' ? slices : `${marks.sliceStart}${slices}${marks.sliceEnd}`);
}

export interface VideoPlaceholderOptions extends Omit<PlaceholderOptions, 'grid' | 'imageId'> {
  /** How each frame (or group of frames) is sliced. */
  grids: readonly Grid[];
  /** Stands between two of them. */
  separator: string;
  /** Number of the video, or undefined for none. */
  videoId?: number | undefined;
}

/** The placeholder of one video. */
export function videoPlaceholder({ grids, separator, videoId, ...options }: VideoPlaceholderOptions): string {
  const frames = grids.map((grid) => imagePlaceholder({ ...options, grid }));
  return numberText(videoId, options.marks ?? IMAGE_TOKENS) + frames.join(separator);
}

function numberText(id: number | undefined, { imageIdStart, imageIdEnd }: ImageTokens): string {
  return id === undefined ? '' : `${imageIdStart}${id}${imageIdEnd}`;
}
