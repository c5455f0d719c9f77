/** Room on a disk: what is free, and what a full one is called. */
import { statfsSync } from 'node:fs';
import { formatBytes } from './format.js';
import { UserError } from './user-error.js';

/** Bytes that this user may still write in a folder. */
export function freeBytes(folder: string): number {
  const { bavail, bsize } = statfsSync(folder);
  return bavail * bsize;
}

export interface SpaceOptions {
  /** What is written, in a sentence: "the merged model". */
  readonly what: string;
  readonly cure: string;
  readonly flag?: string;
}

/** @throws UserError for a folder on a disk that has no room for so many bytes */
export function requireSpace(folder: string, needed: number, { what, cure, flag }: SpaceOptions): void {
  const free = freeBytes(folder);
  if (free >= needed) return;
  throw new UserError(
    `Expected ${formatBytes(needed)} free for ${what} in ${folder} but received ${formatBytes(free)}.`,
    { file: folder, cure, ...(flag === undefined ? {} : { flag }) },
  );
}

/** Whether an error says that a disk, or a user's share of it, is full. */
export function isDiskFull(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  return code === 'ENOSPC' || code === 'EDQUOT';
}
