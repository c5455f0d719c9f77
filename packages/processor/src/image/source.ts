/** Where a picture of a message is. Bytes, text that holds it, or a path, relative to a folder. */
import { isAbsolute, join } from 'node:path';
import type { ImageSource } from './decode.js';
import { pictureFromText } from './text-picture.js';

/** A source as `decodeImage` takes it: bytes, or a path that counts from `root` (the working folder when absent). */
export function imageSource(source: ImageSource, root?: string): ImageSource {
  if (typeof source !== 'string') return source;
  return pictureFromText(source) ?? (root && !isAbsolute(source) ? join(root, source) : source);
}
