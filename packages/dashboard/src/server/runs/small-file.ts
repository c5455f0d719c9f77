/** Small files of run folders. Whoever may write there may also put a pipe, a device or a link in their place. */
import { lstatSync, readFileSync } from 'node:fs';

const LARGEST = 16 << 20;

/** The value that a file of JSON holds. @throws Error: it is no file, too large, or not JSON */
export function jsonOfFile(path: string): unknown {
  const status = lstatSync(path);
  if (!status.isFile()) throw new Error('it is no file');
  if (status.size > LARGEST) throw new Error(`it has more than ${LARGEST} bytes`);
  return JSON.parse(readFileSync(path, 'utf8'));
}
