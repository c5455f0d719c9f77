/** A folder of files that is complete or absent. It is made under another name, which it loses when it is whole. */
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import {
  formatBytes,
  freeBytes,
  isDiskFull,
  lockOf,
  removeEmpty,
  requireSpace,
  takeLock,
  UserError,
} from '@minicpm-finetune/run';

/** In the folder until it is whole: it was made here. */
const UNFINISHED_MARK = '.unfinished';

export interface NewFolderOptions {
  /** What the folder is for, in a sentence: "the merged model". */
  readonly what: string;
  readonly flag: string;
}

/** Fills a folder. It calls `claim` with the bytes that it will write before it writes the first of them. */
export type Fill<T> = (folder: string, claim: (bytes: number) => void) => T;

/**
 * Runs `fill` on a folder beside `path`, which takes the name `path` when `fill` returns. What a process that was killed left there is removed.
 *
 * @throws UserError for a folder that has files, that another process makes, that is a disk of its own, or whose disk has no room
 */
export function inNewFolder<T>(path: string, options: NewFolderOptions, fill: Fill<T>): T {
  const output = resolve(path);
  refuseUsed(output, options);
  let made: string | undefined;
  let claimed: number | undefined;
  const claim = (bytes: number): void => {
    claimed = bytes;
    requireSpace(dirname(output), bytes, { ...options, cure: ROOM_CURE });
  };
  try {
    made = mkdirSync(dirname(output), { recursive: true });
    using _ = takeLock(lockOf(output), { what: path, flag: options.flag });
    refuseUsed(output, options);
    refuseOtherDisk(output, options);
    return fillAside(output, (folder) => fill(folder, claim));
  } catch (error) {
    throw isDiskFull(error) ? diskFull(error, output, options, claimed) : error;
  } finally {
    if (made !== undefined && !existsSync(output)) removeEmpty(dirname(output), made);
  }
}

const ROOM_CURE = 'Free some space, or give a folder on another disk.';

/** The folder that was half written is gone by now. */
function diskFull(
  cause: unknown,
  output: string,
  { what, flag }: NewFolderOptions,
  claimed: number | undefined,
): UserError {
  const folder = nearestFolder(dirname(output));
  const needed = claimed === undefined ? 'room' : formatBytes(claimed);
  return new UserError(
    `Expected ${needed} for ${what} in ${folder} but the disk is full: ${formatBytes(freeBytes(folder))} free.`,
    { file: output, flag, cure: ROOM_CURE, cause },
  );
}

function nearestFolder(path: string): string {
  return existsSync(path) ? path : nearestFolder(dirname(path));
}

/** The folder takes its name by renaming, which ends at the border of a disk. */
function refuseOtherDisk(output: string, { what, flag }: NewFolderOptions): void {
  if (!existsSync(output) || statSync(output).dev === statSync(dirname(output)).dev) return;
  throw new UserError(`Expected a new or empty folder for ${what} but received the root of a disk.`, {
    file: output,
    flag,
    cure: 'Give a folder inside it.',
  });
}

function fillAside<T>(output: string, fill: (folder: string) => T): T {
  const unfinished = join(dirname(output), `.${basename(output)}.unfinished`);
  const mark = join(unfinished, UNFINISHED_MARK);
  if (existsSync(mark)) rmSync(unfinished, { recursive: true });
  mkdirSync(unfinished);
  writeFileSync(mark, '');
  try {
    const result = fill(unfinished);
    if (existsSync(output)) rmdirSync(output); // throws unless it is empty
    renameSync(unfinished, output);
    rmSync(join(output, UNFINISHED_MARK));
    return result;
  } finally {
    rmSync(unfinished, { recursive: true, force: true });
  }
}

function refuseUsed(output: string, { what, flag }: NewFolderOptions): void {
  if (!existsSync(output)) return;
  const isFolder = lstatSync(output).isDirectory();
  if (isFolder && readdirSync(output).length === 0) return;
  const received = isFolder ? 'one with files' : 'a file';
  throw new UserError(`Expected a new or empty folder for ${what} but received ${received}.`, {
    file: output,
    flag,
    cure: isFolder ? 'Give another folder, or empty this one.' : 'Give a folder.',
  });
}
