/** A folder of files that is complete or absent. It is made under another name, which it loses when it is whole. */
import { existsSync, lstatSync, mkdirSync, readdirSync, renameSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { lockOf, removeEmpty, takeLock, UserError } from '@minicpm-finetune/run';

/** In the folder until it is whole: it was made here. */
const UNFINISHED_MARK = '.unfinished';

export interface NewFolderOptions {
  /** What the folder is for, in a sentence: "the merged model". */
  readonly what: string;
  readonly flag: string;
}

/**
 * Runs `fill` on a folder beside `path`, which takes the name `path` when `fill` returns. What a process that was killed left there is removed.
 *
 * @throws UserError for a folder that has files, or that another process makes
 */
export function inNewFolder<T>(path: string, options: NewFolderOptions, fill: (folder: string) => T): T {
  const output = resolve(path);
  refuseUsed(output, options);
  const made = mkdirSync(dirname(output), { recursive: true });
  try {
    using _ = takeLock(lockOf(output), { what: path, flag: options.flag });
    refuseUsed(output, options);
    return fillAside(output, fill);
  } finally {
    if (made !== undefined && !existsSync(output)) removeEmpty(dirname(output), made);
  }
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
