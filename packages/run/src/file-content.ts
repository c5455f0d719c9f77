/** Size and SHA-256 of files, read piece by piece. */
import { createHash } from 'node:crypto';
import { closeSync, openSync, readSync } from 'node:fs';

export interface FileContent {
  readonly bytes: number;
  /** Hexadecimal. */
  readonly sha256: string;
}

const PIECE = 4 << 20;

/** Of an open file, from its start; or of its first `limit` bytes. Where it is read next stays as it was. */
export function contentOfOpen(file: number, limit = Number.POSITIVE_INFINITY): FileContent {
  const hash = createHash('sha256');
  const buffer = Buffer.allocUnsafe(PIECE);
  let bytes = 0;
  while (bytes < limit) {
    const read = readSync(file, buffer, 0, Math.min(buffer.length, limit - bytes), bytes);
    if (read === 0) break;
    hash.update(buffer.subarray(0, read));
    bytes += read;
  }
  return { bytes, sha256: hash.digest('hex') };
}

/** Of a file, or of its first `limit` bytes. Throws the system's error for a file that cannot be read. */
export function contentOfFile(path: string, limit?: number): FileContent {
  const file = openSync(path, 'r');
  try {
    return contentOfOpen(file, limit);
  } finally {
    closeSync(file);
  }
}
