/** Where a video of a message is. The path of a file or of a folder of frames, or the paths of its frames. */
import { isAbsolute, join } from 'node:path';

export type VideoSource = string | readonly string[];

/** A source with its relative paths counted from `root` (the working folder when absent). */
export function videoSource(source: VideoSource, root?: string): VideoSource {
  const place = (path: string): string => (root && !isAbsolute(path) ? join(root, path) : path);
  return typeof source === 'string' ? place(source) : source.map(place);
}
