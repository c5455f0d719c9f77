/** Whether a folder can be made and written. */
import { accessSync, constants, existsSync, mkdirSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { shown, UserError } from '@minicpm-finetune/run';

const OUTPUT = '--output_dir';

/** Refuses a folder that cannot be made or written, by the nearest folder above it that is there. */
export function requireWritable(path: string, flag = OUTPUT): void {
  let folder = resolve(path);
  while (!existsSync(folder) && dirname(folder) !== folder) folder = dirname(folder);
  const where = folder === resolve(path) ? shown(path) : `${shown(path)}, in ${shown(folder)}`;
  if (!statSync(folder).isDirectory())
    throw new UserError(`Expected a folder for ${flag} but received ${where}, which is a file.`, {
      flag,
      cure: 'Name another folder.',
    });
  try {
    accessSync(folder, constants.W_OK | constants.X_OK);
  } catch (cause) {
    throw notWritable(where, flag, cause);
  }
}

/** Makes a folder; returns the first one that was not there, resolved. */
export function makeFolder(folder: string, flag = OUTPUT): string | undefined {
  try {
    return mkdirSync(folder, { recursive: true });
  } catch (cause) {
    throw notWritable(shown(folder), flag, cause);
  }
}

function notWritable(where: string, flag: string, cause: unknown): UserError {
  const received = `${where}: ${(cause as Error).message}`;
  return new UserError(`Expected a folder that can be written for ${flag} but received ${received}.`, {
    flag,
    cure: 'Check its permissions, or name another folder.',
    cause,
  });
}
