/**
 * Which pictures of a sample belong to one image. Read from its tokens: a sample lists overviews and slices one after
 * the other.
 */
import type { EncodedSample } from '@minicpm-finetune/processor';
import { IMAGE_TOKENS, type Tokenizer } from '@minicpm-finetune/processor';

/** Columns and rows of an image's slices; null: an overview only. */
export type ImageGrid = { readonly columns: number; readonly rows: number } | null;

/**
 * The grid of each image in order. A picture is a slice if a slice mark is open before it: in the newer schema there is one around each slice, in
 * the older one around all of an image. Only marks stand between slices of a row; a newline ends it.
 */
export function imageGrids(sample: Pick<EncodedSample, 'inputIds' | 'imageBounds'>, tokenizer: Tokenizer): ImageGrid[] {
  const open = tokenizer.requireId(IMAGE_TOKENS.sliceStart);
  const close = tokenizer.requireId(IMAGE_TOKENS.sliceEnd);
  const images: { slices: number; rows: number }[] = [];
  let depth = 0;
  let at = 0;
  for (const [start, end] of sample.imageBounds) {
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
      images.push({ slices: 0, rows: 0 });
    }
    at = end;
  }
  return images.map(({ slices, rows }) => (slices === 0 ? null : { columns: slices / rows, rows }));
}

/** The end of one slice and the start of the next. */
const MARKS_BETWEEN_SLICES = 2;
