/** Truncates conversations that exceed the maximum length. Cuts at the end, and never through an image. */
import { type EncodedText, IGNORED } from './segments.js';

/** Whether any supervised token is left. */
export function isSupervised({ labels }: EncodedText): boolean {
  return labels.some((label) => label !== IGNORED);
}

/** The first tokens of a text, at most `maxLength`. An image that does not fit whole is left out, with what follows it. */
export function truncate(text: EncodedText, maxLength: number): EncodedText {
  if (text.inputIds.length <= maxLength) return text;
  const cutThrough = text.imageSpans.find(([start, end]) => start < maxLength && maxLength < end);
  const length = cutThrough ? cutThrough[0] : maxLength;
  const labels = text.labels.slice(0, length);
  labels.fill(IGNORED, length - 1); // the last token's next one is cut off
  return {
    inputIds: text.inputIds.slice(0, length),
    labels,
    imageBounds: text.imageBounds.filter(([, end]) => end <= length),
    imageSpans: text.imageSpans.filter(([, end]) => end <= length),
  };
}
