/**
 * Notices that a data file was changed. After it was opened, its records are found by their positions in it. The size and
 * the times of the file decide at once if they are the same; if not, the content does, so that a file may be touched,
 * copied or moved back.
 */
import { fstatSync, openSync, type Stats } from 'node:fs';
import { contentOfOpen, UserError } from '@minicpm-finetune/run';

/** A file's size, times and number when it was opened. Plain data. */
export interface FileStamp {
  readonly size: number;
  readonly mtimeMs: number;
  readonly ctimeMs: number;
  readonly ino: number;
}

/** An error about the whole file, of whatever record it was met at. */
export class ChangedDataError extends UserError {}

export function fileStamp({ size, mtimeMs, ctimeMs, ino }: Stats): FileStamp {
  return { size, mtimeMs, ctimeMs, ino };
}

/** Opens a data file that was there before. */
export function openAgain(path: string): number {
  try {
    return openSync(path, 'r');
  } catch (cause) {
    throw new ChangedDataError(
      `Expected the data file as when it was opened but it cannot be read any more: ${(cause as Error).message}.`,
      { file: path, cure: 'Put the file back as it was.', cause },
    );
  }
}

/** One open data file, and the state in which it is known to have the content it had. */
export class UnchangedFile {
  #known: FileStamp;

  readonly #path: string;
  readonly #sha256: string;

  constructor(path: string, stamp: FileStamp, sha256: string) {
    this.#path = path;
    this.#known = stamp;
    this.#sha256 = sha256;
  }

  /** @throws ChangedDataError if the file behind `fd` has another content than when it was opened */
  check(fd: number): void {
    const now = fileStamp(fstatSync(fd));
    const { size, mtimeMs, ctimeMs, ino } = this.#known;
    if (now.size === size && now.mtimeMs === mtimeMs && now.ctimeMs === ctimeMs && now.ino === ino) return;
    if (now.size !== size || contentOfOpen(fd).sha256 !== this.#sha256) {
      const found = now.size === size ? 'another content' : `${now.size} bytes`;
      throw new ChangedDataError(
        `Expected the data file as when it was opened (${size} bytes) but received ${found}: it was changed meanwhile.`,
        {
          file: this.#path,
          cure: 'Put the file back as it was, and do not change it during a run: write a new version under another name.',
        },
      );
    }
    this.#known = now;
  }
}
