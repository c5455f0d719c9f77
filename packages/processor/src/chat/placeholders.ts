/**
 * The text that stands for an image in a prompt. Marks around one `<unk>` per resampler query, for the overview and for
 * each slice. Two schemas: the older one (MiniCPM-V-2, 2.5) puts one pair of slice marks around rows of images, the
 * newer one (2.6, o-2.6, 4) marks each slice and can number the image.
 */
import { IMAGE_TOKENS } from '../tokenizer.js';

export type SliceSchema = 'old' | 'new';

const { imageStart, imageEnd, sliceStart, sliceEnd, imageIdStart, imageIdEnd } = IMAGE_TOKENS;

export interface PlaceholderOptions {
  schema: SliceSchema;
  /** Columns and rows of slices, or null. */
  grid: [columns: number, rows: number] | null;
  /** The text between the marks of each picture. */
  features: string;
  /** Number of the image, or undefined for none. */
  imageId?: number | undefined;
}

/** The placeholder of one image. */
export function imagePlaceholder({ schema, grid, features, imageId }: PlaceholderOptions): string {
  const id = imageId === undefined ? '' : `${imageIdStart}${imageId}${imageIdEnd}`;
  const overview = `${imageStart}${features}${imageEnd}`;
  if (!grid) return id + overview;
  const slice = schema === 'new' ? `${sliceStart}${features}${sliceEnd}` : overview;
  const [columns, rows] = grid;
  const slices = Array.from({ length: rows }, () => slice.repeat(columns)).join('\n');
  return id + overview + (schema === 'new' ? slices : `${sliceStart}${slices}${sliceEnd}`);
}
