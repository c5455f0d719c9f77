/** Writes an output file that is not there yet. A file of the name is somebody's: it is never replaced. */
import { existsSync, linkSync, lstatSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { lockOf, takeLock, UserError } from '@minicpm-finetune/run';

/** The file appears whole; one with the same content may be there already. @throws UserError for a file with another one, naming it */
export function writeNewFile(file: string, content: Uint8Array, flag: string): void {
  try {
    mkdirSync(dirname(file), { recursive: true });
    using _ = takeLock(lockOf(file), { what: file, flag });
    const status = lstatSync(file, { throwIfNoEntry: false });
    if (status !== undefined) {
      if (existsSync(file) && !status.isDirectory() && readFileSync(file).equals(content)) return;
      throw new UserError(`Expected a new file for ${flag} but there is ${file} with another content.`, {
        file,
        flag,
        cure: 'Name another file, or delete this one.',
      });
    }
    writeAside(file, content);
  } catch (cause) {
    if (cause instanceof UserError) throw cause;
    throw new UserError(`Expected to write ${file} but received: ${(cause as Error).message}.`, {
      file,
      flag,
      cure: 'Name a file in a folder that can be written, on a disk with free space.',
      cause,
    });
  }
}

/** A link of a whole file: unlike a rename, it fails where a file has come in the meantime. */
function writeAside(file: string, content: Uint8Array): void {
  const temporary = `${file}.${process.pid}.tmp`;
  try {
    writeFileSync(temporary, content, { flag: 'wx' });
    linkSync(temporary, file);
  } finally {
    rmSync(temporary, { force: true });
  }
}
